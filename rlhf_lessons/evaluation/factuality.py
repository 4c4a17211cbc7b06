"""How much of what a model says is true, and how well it knows that (lesson 7).

A long answer is split into claims; each is compared with the encyclopedia (*reference-based*), or
with what the model itself answers when it is asked for the same fact many times (*reference-free*).
Both ways end in a judge, ``(prompts, responses) -> scores (B,)``, and the scores in pairs to train
on. A third judge stands for a person who cannot look anything up.

Two whole answers differ in many sentences, and a pair of them does not say which one mattered.
:func:`exchange_sentences` makes versions of an answer that differ in what they say about one fact,
so that a pair says exactly that.

Left out on purpose: a second model that splits text into claims or compares answers by meaning. The
world's grammar does the first exactly, and its answers are single words.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from rlhf_lessons.evaluation.language import Estimate, estimate_mean
from rlhf_lessons.models import LanguagePolicy
from rlhf_lessons.worlds import Claim, Encyclopedia, Preference, Reading

__all__ = [
    "AssuredRater",
    "ConfidenceJudge",
    "FactCount",
    "FactSummary",
    "ReferenceJudge",
    "area_under_roc",
    "claim_confidence",
    "count_facts",
    "exchange_sentences",
    "factual_precision",
    "pairs_by_margin",
    "pairs_from_scores",
    "sample_answers",
    "summarise_facts",
]

Fact = tuple[str, str]


class FactReader(Protocol):
    """What counts and judges need of a world: its own ``Encyclopedia``, or real facts.

    Attributes:
        facts: (subject, relation) -> the true value.
    """

    @property
    def facts(self) -> Mapping[Fact, str]:
        """What is true."""

    def subject_of(self, prompt: str) -> str:
        """Say whom a prompt asks about; a ValueError where it asks about nobody known."""

    def read(self, text: str, about: str | None = None) -> Reading:
        """Find the claims, hedges and unreadable sentences of an answer about a subject."""


Judge = Callable[[Sequence[str], Sequence[str]], np.ndarray]


# --- Against the encyclopedia ---------------------------------------------------------------------


@dataclass(frozen=True)
class FactCount:
    """What one response says about the subject it was asked about.

    Attributes:
        right: facts stated as the encyclopedia has them.
        wrong: values stated that it does not have. Of a fact with contradictory values no value
            counts as right.
        hedged: facts that the response says are not known.
        unreadable: sentences that say nothing here, or speak of another subject.
        contradicted: facts for which two or more values are stated.
        words: length of the response.
    """

    right: int
    wrong: int
    hedged: int
    unreadable: int
    contradicted: int
    words: int

    @property
    def precision(self) -> float:
        """right / (right + wrong), NaN where nothing is claimed."""
        claimed = self.right + self.wrong
        return self.right / claimed if claimed else float("nan")


def _own_claims(
    encyclopedia: FactReader, prompt: str, response: str
) -> tuple[dict[str, list[str]], int, int]:
    """Give the values claimed of each relation of the subject, and count hedges and the rest."""
    about = encyclopedia.subject_of(prompt)
    reading = encyclopedia.read(response, about=about)
    values: dict[str, list[str]] = {}
    strangers = 0
    for claim in reading.claims:
        if claim.subject != about:
            strangers += 1
        elif claim.value not in (given := values.setdefault(claim.relation, [])):
            given.append(claim.value)
    hedges = {claim.relation for claim in reading.hedges if claim.subject == about}
    strangers += sum(claim.subject != about for claim in reading.hedges)
    return values, len(hedges), len(reading.unreadable) + strangers


def count_facts(
    encyclopedia: FactReader, prompts: Sequence[str], responses: Sequence[str]
) -> list[FactCount]:
    """Count right and wrong facts, hedges and unreadable sentences of each long answer.

    A fact that is stated twice with one value counts once.

    Args:
        encyclopedia: what is true.
        prompts: (B,) requests made by ``encyclopedia.prompt``.
        responses: (B,) answers, beginning after the name.

    Returns:
        (B,) counts.

    Raises:
        ValueError: the lists are not equally long, or a prompt asks about nobody who is known.
    """
    _check_equal("count_facts", prompts, responses)
    counts = []
    for prompt, response in zip(prompts, responses, strict=True):
        values, hedged, unreadable = _own_claims(encyclopedia, prompt, response)
        about = encyclopedia.subject_of(prompt)
        right = sum(
            given == [encyclopedia.facts[about, relation]] for relation, given in values.items()
        )
        wrong = sum(
            len(given)
            for relation, given in values.items()
            if given != [encyclopedia.facts[about, relation]]
        )
        contradicted = sum(len(given) > 1 for given in values.values())
        words = len(response.split())
        counts.append(FactCount(right, wrong, hedged, unreadable, contradicted, words))
    return counts


def factual_precision(counts: Sequence[FactCount]) -> float:
    """Give the share of all stated facts that are right.

    precision = Σ right / Σ (right + wrong)

    Args:
        counts: one for each response.

    Returns:
        A share between 0 and 1.

    Raises:
        ValueError: no response claims anything: a share of nothing is no number.

    Source:
        Min et al. 2023, "FActScore", equation 1, with claims pooled over the responses.
    """
    right = sum(count.right for count in counts)
    claimed = right + sum(count.wrong for count in counts)
    if not claimed:
        raise ValueError(
            f"factual_precision: counts must hold at least one claim, got {len(counts)} responses "
            f"that claim nothing"
        )
    return right / claimed


@dataclass(frozen=True)
class FactSummary:
    """Means per response, each with its standard error.

    Attributes:
        right: right facts.
        wrong: wrong facts.
        hedged: hedges.
        unreadable: unreadable sentences.
        words: words.
        precision: right / (right + wrong) of all responses together; NaN where nothing is claimed.
    """

    right: Estimate
    wrong: Estimate
    hedged: Estimate
    unreadable: Estimate
    words: Estimate
    precision: float


def summarise_facts(counts: Sequence[FactCount], per_subject: int = 1) -> FactSummary:
    """Average counts over responses, with standard errors over subjects.

    Responses about one subject are alike, so it is their means that are independent.

    Args:
        counts: one for each response; ``per_subject`` in a row are about one subject.
        per_subject: responses to each prompt.

    Returns:
        The means.

    Raises:
        ValueError: fewer than two subjects, or the counts are no multiple of ``per_subject``.
    """
    if per_subject < 1 or len(counts) % per_subject:
        raise ValueError(
            f"summarise_facts: counts must be a multiple of per_subject = {per_subject}, got "
            f"{len(counts)}"
        )

    def mean(name: str) -> Estimate:
        values = np.array([getattr(count, name) for count in counts], dtype=np.float64)
        return estimate_mean(values.reshape(-1, per_subject).mean(1))

    claimed = any(count.right + count.wrong for count in counts)
    return FactSummary(
        *(mean(name) for name in ("right", "wrong", "hedged", "unreadable", "words")),
        precision=factual_precision(counts) if claimed else float("nan"),
    )


@dataclass(frozen=True)
class ReferenceJudge:
    """A judge that looks every claim up.

    score = right − price · wrong − penalty · unreadable

    Attributes:
        encyclopedia: what is true.
        price: λ, how many right facts one wrong fact costs.
        penalty: how many right facts one unreadable sentence costs.
    """

    encyclopedia: FactReader
    price: float = 1.0
    penalty: float = 1.0

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Return (B,) scores."""
        counts = count_facts(self.encyclopedia, prompts, responses)
        return np.array(
            [c.right - self.price * c.wrong - self.penalty * c.unreadable for c in counts],
            dtype=np.float64,
        )


# --- Against the model's own answers --------------------------------------------------------------


def sample_answers(
    policy: LanguagePolicy,
    encyclopedia: Encyclopedia,
    facts: Sequence[Fact],
    samples: int = 20,
    generator: torch.Generator | None = None,
    batch_size: int = 1024,
) -> dict[Fact, Counter[str]]:
    """Ask a model for each fact many times, in every phrasing of its question.

    Args:
        policy: the model that is asked.
        encyclopedia: where the questions come from; what is true is not looked at.
        facts: (subject, relation) of each fact to ask for.
        samples: answers to sample for each fact, spread over the phrasings in turn.
        generator: source of randomness; None takes torch's global one.
        batch_size: questions in a batch; other sizes draw other samples.

    Returns:
        How often each answer was given, by fact; the answer is its first word.

    Raises:
        ValueError: no facts, one that is not in the encyclopedia, or fewer than one sample.
    """
    if not len(facts) or samples < 1:
        raise ValueError(
            f"sample_answers: facts and samples must be at least 1, got {len(facts)} and {samples}"
        )
    asked = [
        (fact, encyclopedia.question(*fact, number % len(encyclopedia.relation(fact[1]).questions)))
        for fact in facts
        for number in range(samples)
    ]
    answers: dict[Fact, Counter[str]] = {fact: Counter() for fact in facts}
    for first in range(0, len(asked), batch_size):
        part = asked[first : first + batch_size]
        rollout = policy.sample([question for _, question in part], 2, generator=generator)
        for (fact, _), response in zip(part, rollout.responses, strict=True):
            answers[fact][response.split(" ")[0]] += 1
    return answers


def claim_confidence(
    claims: Sequence[Claim], answers: Mapping[Fact, Mapping[str, int]]
) -> np.ndarray:
    """Give the share of a model's sampled answers that agree with each claim.

    confidence = #{answers equal to the claimed value} / #{answers}

    Args:
        claims: (N,) claims with values.
        answers: how often each answer was given, by fact, as ``sample_answers`` returns.

    Returns:
        (N,) confidences in [0, 1].

    Raises:
        ValueError: a claim is a hedge, or nobody was asked for its fact.

    Source:
        Tian et al. 2023, "Fine-tuning Language Models for Factuality", section 3.2.
    """
    confidences = []
    for claim in claims:
        given = answers.get(claim.fact, {})
        asked = sum(given.values())
        if claim.value is None or not asked:
            problem = "a hedge" if claim.value is None else "a claim whose fact was not asked for"
            raise ValueError(
                f"claim_confidence: claims must state values of facts in answers, got {problem}: "
                f"the {claim.relation} of {claim.subject}"
            )
        confidences.append(given.get(claim.value, 0) / asked)
    return np.array(confidences, dtype=np.float64)


@dataclass(frozen=True)
class ConfidenceJudge:
    """A judge that needs no truth: it believes what the model keeps saying.

    score = Σ_claims (p − price · (1 − p)) − penalty · unreadable, p the confidence of the claim

    With p the probability of being right, that is the expected score of the reference.

    Attributes:
        encyclopedia: reads the claims; its values are not looked at.
        answers: how often each answer was given, by fact, as ``sample_answers`` returns.
        price: λ, how many right facts one wrong fact costs.
        penalty: how many right facts one unreadable sentence costs.
    """

    encyclopedia: FactReader
    answers: Mapping[Fact, Mapping[str, int]]
    price: float = 1.0
    penalty: float = 1.0

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Return (B,) scores."""
        _check_equal("ConfidenceJudge", prompts, responses)
        scores = []
        for prompt, response in zip(prompts, responses, strict=True):
            values, _, unreadable = _own_claims(self.encyclopedia, prompt, response)
            about = self.encyclopedia.subject_of(prompt)
            claims = [
                Claim(about, relation, value, 0, 0)
                for relation, given in values.items()
                for value in given
            ]
            p = claim_confidence(claims, self.answers)
            scores.append(float((p - self.price * (1 - p)).sum()) - self.penalty * unreadable)
        return np.array(scores, dtype=np.float64)


# --- A person who cannot look it up ---------------------------------------------------------------


@dataclass(frozen=True)
class AssuredRater:
    """A judge like a hurried person: more said is better, and doubt is a weakness.

    score = statements − dislike · hedges + words / 20 − unreadable

    Whether a statement is true plays no part, since the rater would have to look it up.

    Attributes:
        encyclopedia: reads the sentences; its values are not looked at.
        dislike: how much one hedge costs.
    """

    encyclopedia: FactReader
    dislike: float = 1.0

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Return (B,) scores."""
        counts = count_facts(self.encyclopedia, prompts, responses)
        return np.array(
            [
                c.right + c.wrong - self.dislike * c.hedged + c.words / 20 - c.unreadable
                for c in counts
            ],
            dtype=np.float64,
        )


# --- Answers that differ in one sentence ----------------------------------------------------------


def exchange_sentences(
    encyclopedia: Encyclopedia,
    prompts: Sequence[str],
    responses: Sequence[str],
    draws: int = 2,
    seed: int = 0,
) -> tuple[list[str], list[str], list[str]]:
    """Set beside sampled answers versions that say something else about one fact.

    For each answer and each fact another answer to the same prompt is drawn, and what it says of
    that fact (a value, a hedge, or nothing) takes the place of what this answer says. So the
    versions are in the policy's own words, and each alternative comes as often as the policy itself
    would say it.

    Left out: answers with an unreadable sentence, a fact told twice or a sentence that does not
    begin with its subject, versions that say the same of the fact, and versions longer than any
    answer sampled.

    Args:
        encyclopedia: reads the sentences; its values are not looked at.
        prompts: (B,) requests made by ``encyclopedia.prompt``; answers to one may stand anywhere.
        responses: (B,) answers, beginning after the name.
        draws: how many other answers are drawn for each answer and fact.
        seed: seed of the draws.

    Returns:
        Three lists of equal length: prompts, answers, versions; no pair of texts twice.

    Raises:
        ValueError: the lists are not equally long, ``draws`` is below 1, a prompt asks about nobody
            who is known, or no two answers to one prompt say different things of a fact.
    """
    _check_equal("exchange_sentences", prompts, responses)
    if draws < 1:
        raise ValueError(f"exchange_sentences: draws must be at least 1, got {draws}")
    longest = max(len(response.split()) for response in responses)
    groups: dict[str, list[str]] = {}
    for prompt, response in zip(prompts, responses, strict=True):
        groups.setdefault(prompt, []).append(response)
    chance = random.Random(f"exchange, {seed}")
    found: dict[tuple[str, str, str], None] = {}
    for prompt, answers in groups.items():
        name = encyclopedia.subject_of(prompt)
        told = [_sentences(encyclopedia, name, answer) for answer in answers]
        told = [sentences for sentences in told if sentences]
        for sentences in told:
            answer = _join(encyclopedia, name, sentences)
            for relation in encyclopedia.relations:
                for other in chance.choices(told, k=draws):
                    here, there = (one.get(relation, _NOTHING) for one in (sentences, other))
                    text = _join(encyclopedia, name, {**sentences, relation: there})
                    fits = 0 < len(text.split()) <= longest
                    if here[0] != there[0] and fits and (prompt, text, answer) not in found:
                        found[prompt, answer, text] = None
    if not found:
        raise ValueError(
            f"exchange_sentences: two answers to one prompt must say different things of a fact, "
            f"got none such among {len(responses)} answers to {len(groups)} prompts"
        )
    return tuple(map(list, zip(*found, strict=True)))


_HEDGE, _NOTHING = "a hedge", ("nothing", ())
_Told = dict[str, tuple[str, tuple[str, ...]]]
"""Relation -> (value, or what stands for none, and the words after the subject)."""


def _sentences(encyclopedia: Encyclopedia, name: str, answer: str) -> _Told:
    """Take an answer apart, one sentence a relation; an empty table where that cannot be done."""
    words, reading = answer.split(), encyclopedia.read(answer, about=name)
    who = encyclopedia.subject(name).who
    claims = (*reading.claims, *reading.hedges)
    told: _Told = {}
    for claim in claims:
        first = 0 if claim.start == 0 else 1  # the pronoun; the name stands in the prompt
        if claim.subject != name or (words[claim.start] != who if first else words[0] == "'s"):
            return {}
        said = tuple(words[claim.start + first : claim.end])
        told[claim.relation] = (claim.value or _HEDGE, said)
    return told if len(told) == len(claims) and not reading.unreadable else {}


def _join(encyclopedia: Encyclopedia, name: str, told: _Told) -> str:
    """Write an answer, its sentences in the order of the relations."""
    who = encyclopedia.subject(name).who
    sentences = [" ".join(told[r][1]) for r in encyclopedia.relations if r in told and told[r][1]]
    return f" {who} ".join(sentences)


def pairs_by_margin(
    prompts: Sequence[str],
    first: Sequence[str],
    second: Sequence[str],
    judge: Judge,
    per_prompt: int,
    seed: int = 0,
) -> list[Preference]:
    """Judge couples of responses, and draw pairs with a chance that grows with the margin.

    P(next pair is i) ∝ |s(y_i) − s(y_i')|, the higher score chosen, without replacement

    What costs more is then seen more often: with a price λ, a wrong claim makes λ pairs for each
    that a right one makes, and the two balance where a claim is right with p = λ / (1 + λ).

    Args:
        prompts: (N,) prompts.
        first: (N,) responses.
        second: (N,) other responses to the same prompts.
        judge: (prompts, responses) -> scores.
        per_prompt: at most so many pairs of each prompt.
        seed: seed of the draws.

    Returns:
        The pairs, in an order drawn by chance.

    Raises:
        ValueError: the lists are not equally long, ``per_prompt`` is below 1, a score is not
            finite, or no two responses have different scores.
    """
    _check_equal("pairs_by_margin", prompts, first)
    _check_equal("pairs_by_margin", prompts, second)
    if per_prompt < 1:
        raise ValueError(f"pairs_by_margin: per_prompt must be at least 1, got {per_prompt}")
    margins = np.asarray(judge(prompts, first)) - np.asarray(judge(prompts, second))
    if margins.shape != (len(prompts),) or not np.isfinite(margins).all():
        raise ValueError(
            f"pairs_by_margin: judge must give {len(prompts)} finite scores, one for each "
            f"response, got differences of shape {margins.shape}"
        )
    chance = np.random.default_rng(seed)
    # The smallest of exponential times, each divided by its rate, is a draw in proportion to it.
    times = chance.exponential(size=len(prompts)) / np.maximum(np.abs(margins), 1e-300)
    taken: dict[str, int] = {}
    pairs = []
    for i in np.argsort(times).tolist():
        if margins[i] and taken.setdefault(prompts[i], 0) < per_prompt:
            taken[prompts[i]] += 1
            better, worse = (first[i], second[i]) if margins[i] > 0 else (second[i], first[i])
            pairs.append(Preference(prompts[i], better, worse))
    if not pairs:
        raise ValueError(
            f"pairs_by_margin: scores must differ between two responses to one prompt, got the "
            f"same score in all {len(prompts)} couples; such a judge prefers nothing, and there "
            f"are no pairs"
        )
    return [pairs[i] for i in chance.permutation(len(pairs))]


# --- From scores to pairs, and how good a confidence is -------------------------------------------


def pairs_from_scores(
    prompts: Sequence[str],
    responses: Sequence[str],
    scores: Sequence[float],
    per_prompt: int | None = None,
) -> list[Preference]:
    """Turn scored responses into preferences: of two to one prompt, the higher score is chosen.

    {(x, y_i, y_j) : x_i = x_j, s_i > s_j}. Ties make no pair, nor do two responses that are equal.

    Args:
        prompts: (B,) prompts; responses to one prompt may stand anywhere.
        responses: (B,) responses.
        scores: (B,) what a judge gave them.
        per_prompt: at most so many pairs of each prompt: the best with the worst, the second best
            with the second worst and so on. None takes every pair.

    Returns:
        The pairs, prompt by prompt in the order of their first response.

    Raises:
        ValueError: the lists are not equally long, a score is not finite, or no two responses to
            one prompt have different scores, so that there is nothing to learn.
    """
    _check_equal("pairs_from_scores", prompts, responses)
    scores = np.asarray(scores, dtype=np.float64)
    if scores.shape != (len(prompts),) or not np.isfinite(scores).all():
        raise ValueError(
            f"pairs_from_scores: scores must be {len(prompts)} finite numbers, one for each "
            f"response, got shape {scores.shape}"
        )
    if per_prompt is not None and per_prompt < 1:
        raise ValueError(f"pairs_from_scores: per_prompt must be at least 1, got {per_prompt}")
    groups: dict[str, dict[str, float]] = {}
    for prompt, response, score in zip(prompts, responses, scores.tolist(), strict=True):
        groups.setdefault(prompt, {}).setdefault(response, score)
    pairs = []
    for prompt, scored in groups.items():
        ranked = sorted(scored, key=scored.get, reverse=True)
        if per_prompt is None:
            chosen = [(a, b) for i, a in enumerate(ranked) for b in ranked[i + 1 :]]
        else:
            half = min(per_prompt, len(ranked) // 2)
            chosen = [(ranked[i], ranked[-1 - i]) for i in range(half)]
        pairs += [Preference(prompt, a, b) for a, b in chosen if scored[a] > scored[b]]
    if not pairs:
        raise ValueError(
            f"pairs_from_scores: scores must differ between two responses to one prompt, got the "
            f"same score for all responses of each of the {len(groups)} prompts; such a judge "
            f"prefers nothing, and there are no pairs"
        )
    return pairs


def area_under_roc(scores: Sequence[float], outcomes: Sequence[bool]) -> float:
    """Say how well scores separate what is true from what is not.

    AUROC = P(s_true > s_false) + ½ · P(s_true = s_false), one of each drawn at random

    1/2 is chance, 1 a threshold that makes no mistake. No monotone change of the scores alters it.

    Args:
        scores: (N,) scores such as confidences.
        outcomes: (N,) whether each is true, True/False or 1/0.

    Returns:
        A share between 0 and 1.

    Raises:
        ValueError: the shapes differ, a score is not finite, or all outcomes are alike.

    Source:
        Hanley & McNeil 1982, "The Meaning and Use of the Area under a ROC Curve".
    """
    values, happened = np.asarray(scores, dtype=np.float64), np.asarray(outcomes, dtype=bool)
    if values.ndim != 1 or values.shape != happened.shape or not np.isfinite(values).all():
        raise ValueError(
            f"area_under_roc: scores and outcomes must be equally many finite numbers in a row, "
            f"got shapes {values.shape} and {happened.shape}"
        )
    positives = int(happened.sum())
    negatives = len(happened) - positives
    if not positives or not negatives:
        raise ValueError(
            f"area_under_roc: outcomes must hold true and false ones, got {positives} true and "
            f"{negatives} false"
        )
    # Mann and Whitney: the sum of the ranks of the true ones, ties sharing their mean rank.
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float((ranks[happened].sum() - positives * (positives + 1) / 2) / positives / negatives)


def _check_equal(where: str, prompts: Sequence[str], responses: Sequence[str]) -> None:
    if len(prompts) != len(responses) or not len(prompts):
        raise ValueError(
            f"{where}: prompts and responses must be equally many and at least one, got "
            f"{len(prompts)} and {len(responses)}"
        )
