"""What a real model knows of real countries: asked once and kept (lesson 7).

    python -m rlhf_lessons real knowledge              the stored tables
    python -m rlhf_lessons real knowledge --measure    ask again, some minutes

SmolLM2-135M is asked for capitals and currencies in three phrasings, once with the likeliest token
each time and several times by sampling. What it answered and how that reads lie in
``real_knowledge_runs`` beside this module, so that everything here can be computed without the
model. How sure it is of an answer: ``real_confidence``; teaching it to say so: ``real_tuning``.

Left out on purpose: pictures, and how an answer is read (``worlds.read_answer``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from rlhf_lessons.evaluation.language import Estimate, estimate_mean
from rlhf_lessons.evaluation.sweeps import read_runs
from rlhf_lessons.models import LanguagePolicy
from rlhf_lessons.worlds import (
    PHRASINGS,
    Claim,
    Reading,
    RealFact,
    plain_name,
    question,
    read_answer,
)
from rlhf_lessons.worlds.dialogues import write_turns

__all__ = [
    "AskedFact",
    "RealAnswer",
    "RealBook",
    "ask",
    "ask_facts",
    "chat_prompt",
    "knowledge_by_population",
    "load_real_knowledge",
    "phrasings_that_disagree",
    "verdicts",
]

FOLDER = Path(__file__).with_name("real_knowledge_runs")
COMMAND = "python -m rlhf_lessons real knowledge --measure"
SAMPLES = 4  # answers to each phrasing at each temperature
MAX_NEW_TOKENS = 20
GREEDY = 1e-6
_BATCH = 192


@dataclass(frozen=True)
class RealAnswer:
    """One answer of the real model, and how it reads.

    Attributes:
        text: what it said.
        verdict: "right", "wrong", "hedge", "unreadable" or "other language".
        claim: the answer that the text names, None where it names none.
        log_prob: log π of the text in nats, summed over its tokens.
    """

    text: str
    verdict: str
    claim: str | None
    log_prob: float


@dataclass(frozen=True)
class AskedFact:
    """A fact, and what the real model answered to the three phrasings of its question.

    Attributes:
        kind: "capital" or "currency".
        subject: the country.
        population: of the country.
        held_out: whether no tuning and no choice looks at it.
        answers: the likeliest answer to each phrasing.
        sampled: temperature -> phrasing by phrasing the claims of sampled answers in the order in
            which they were drawn, None for an answer that names nothing.
    """

    kind: str
    subject: str
    population: int
    held_out: bool
    answers: tuple[RealAnswer, ...]
    sampled: Mapping[float, tuple[tuple[str | None, ...], ...]]

    @property
    def right(self) -> float:
        """The share of the phrasings whose likeliest answer is right."""
        return float(np.mean([answer.verdict == "right" for answer in self.answers]))


class RealBook:
    """Real facts of one kind, read as the counts and judges of ``factuality`` read a world.

    Args:
        policy: the chat model whose prompts are read.
        kind: "capital" or "currency".
        facts: what is true.

    Attributes:
        kind: as given.
        facts: (country, kind) -> the standard name.
        asked: (fact, number of the phrasing) of each question, fact by fact.
        prompts: the prompt of each question.
    """

    def __init__(self, policy: LanguagePolicy, kind: str, facts: Sequence[RealFact]) -> None:
        self.kind = kind
        self.facts = {(fact.subject, kind): fact.answers[0] for fact in facts}
        self.asked = [(fact, number) for fact in facts for number in range(len(PHRASINGS[kind]))]
        self.prompts = [chat_prompt(policy, question(*each)) for each in self.asked]
        self._facts = {fact.subject: fact for fact in facts}
        self._subjects = {
            prompt: fact.subject for prompt, (fact, _) in zip(self.prompts, self.asked, strict=True)
        }

    def subject_of(self, prompt: str) -> str:
        """Say which country a prompt asks about.

        Args:
            prompt: one of ``prompts``.

        Returns:
            The country.

        Raises:
            ValueError: it is none of them.
        """
        if prompt not in self._subjects:
            raise ValueError(f"RealBook: prompt must ask for a fact of this book, got {prompt!r}")
        return self._subjects[prompt]

    def read(self, text: str, about: str | None = None) -> Reading:
        """Find the claim of an answer.

        Args:
            text: the answer.
            about: the country that was asked about.

        Returns:
            One claim, one hedge or one unreadable sentence: the whole answer.

        Raises:
            ValueError: there is no such country in this book.
        """
        if about not in self._facts:
            raise ValueError(f"RealBook: about must be a country of this book, got {about!r}")
        verdict, value = read_claim(text, self._facts[about])
        end = len(text.split())
        found = Claim(about, self.kind, value, 0, end)
        return Reading(
            (found,) if value is not None else (),
            (found,) if verdict == "hedge" else (),
            () if value is not None or verdict == "hedge" else ((0, end),),
        )


def read_claim(text: str, fact: RealFact) -> tuple[str, str | None]:
    """Read an answer: its verdict, and what it claims in one spelling.

    Args:
        text: the answer.
        fact: what was asked for.

    Returns:
        "right", "wrong", "hedge", "unreadable" or "other language"; the standard name where it is
        right, else the claim without accents and capitals; None where nothing is claimed.
    """
    found = read_answer(text, fact)
    if found.verdict == "right":
        return found.verdict, fact.answers[0]
    return found.verdict, plain_name(found.claim) if found.verdict == "wrong" else None


# --- Asking ---------------------------------------------------------------------------------------


def chat_prompt(policy: LanguagePolicy, asked: str) -> str:
    """Write a question as the policy's chat template opens an answer to it.

    Args:
        policy: whose tokenizer has a chat template.
        asked: the question.

    Returns:
        The prompt.

    Raises:
        ValueError: the question is empty, or the tokenizer has no chat template.
    """
    if not asked.strip():
        raise ValueError(f"chat_prompt: asked must be a question, got {asked!r}")
    (prompt,) = write_turns(policy.tokenizer, [{"role": "user", "content": asked}])
    return prompt


def ask(
    policy: LanguagePolicy,
    asked: str,
    samples: int = 0,
    *,
    temperature: float = 1.0,
    max_new_tokens: int = MAX_NEW_TOKENS,
    seed: int = 0,
) -> list[str]:
    """Ask a chat model a question of your own.

    Args:
        policy: who answers; its tokenizer has a chat template.
        asked: the question.
        samples: how many answers are drawn; 0 gives one, of the likeliest token each time.
        temperature: of the draws.
        max_new_tokens: longest answer.
        seed: of the draws.

    Returns:
        The answers.

    Raises:
        ValueError: the question is empty, the tokenizer has no chat template, or a setting is out
            of its range.
    """
    prompts = [chat_prompt(policy, asked)] * max(samples, 1)
    generator = torch.Generator(policy.device).manual_seed(seed)
    rollout = policy.sample(
        prompts, max_new_tokens, temperature if samples else GREEDY, generator=generator
    )
    return [response.strip() for response in rollout.responses]


def sample_texts(
    policy: LanguagePolicy,
    prompts: Sequence[str],
    temperature: float,
    seed: int,
    label: str,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> tuple[list[str], list[float]]:
    """Sample a response to each of many prompts, with a progress bar.

    Args:
        policy: who answers.
        prompts: (B,) prompts.
        temperature: of the draws.
        seed: of the draws.
        label: stands before the bar.
        max_new_tokens: longest response.

    Returns:
        (B,) responses and (B,) their log π at temperature 1, in nats.
    """
    generator = torch.Generator(policy.device).manual_seed(seed)
    texts: list[str] = []
    log_probs: list[float] = []
    with tqdm(total=len(prompts), desc=label, unit="answer", leave=False) as bar:
        for first in range(0, len(prompts), _BATCH):
            part = prompts[first : first + _BATCH]
            rollout = policy.sample(part, max_new_tokens, temperature, generator=generator)
            texts += [response.strip() for response in rollout.responses]
            log_probs += rollout.log_probs.sum(1).tolist()
            bar.update(len(part))
    return texts, log_probs


def ask_facts(
    policy: LanguagePolicy,
    facts: Sequence[RealFact],
    temperatures: Sequence[float] = (),
    samples: int = SAMPLES,
    seed: int = 0,
) -> list[AskedFact]:
    """Ask a chat model for facts of one kind, in every phrasing.

    Args:
        policy: who answers.
        facts: of one kind, at least one.
        temperatures: of the answers that are sampled beside the likeliest one.
        samples: answers to each phrasing at each temperature.
        seed: of the draws.

    Returns:
        The facts with what was answered.

    Raises:
        ValueError: no facts, facts of several kinds, or a setting out of its range.
    """
    kinds = {fact.kind for fact in facts}
    if len(kinds) != 1 or samples < 1:
        raise ValueError(
            f"ask_facts: facts must be of one kind and samples at least 1, got "
            f"{', '.join(sorted(kinds)) or 'none'} and {samples}"
        )
    (kind,) = kinds
    book = RealBook(policy, kind, facts)
    texts, log_probs = sample_texts(policy, book.prompts, GREEDY, seed, kind)
    answers = [
        RealAnswer(text, *read_claim(text, fact), round(log_prob, 3))
        for text, log_prob, (fact, _) in zip(texts, log_probs, book.asked, strict=True)
    ]
    sampled: dict[float, list[tuple[str | None, ...]]] = {}
    for place, temperature in enumerate(temperatures, start=1):
        repeated = [prompt for prompt in book.prompts for _ in range(samples)]
        label = f"{kind}, temperature {temperature:g}"
        told = iter(sample_texts(policy, repeated, temperature, seed + place, label)[0])
        sampled[temperature] = [
            tuple(read_claim(next(told), fact)[1] for _ in range(samples)) for fact, _ in book.asked
        ]
    ways = len(PHRASINGS[kind])
    return [
        AskedFact(
            kind,
            fact.subject,
            fact.population,
            fact.held_out,
            tuple(answers[first : first + ways]),
            {name: tuple(claims[first : first + ways]) for name, claims in sampled.items()},
        )
        for first, fact in zip(range(0, len(answers), ways), facts, strict=True)
    ]


def load_real_knowledge(folder: Path | None = None) -> list[AskedFact]:
    """Read what the real model answered.

    Args:
        folder: where the files are; None takes the one beside this module.

    Returns:
        The facts, kind by kind.

    Raises:
        FileNotFoundError: nothing is stored.
        ValueError: a file is no such record.
    """

    def make(run: dict[str, Any], _: dict[str, Any]) -> list[AskedFact]:
        return [
            AskedFact(
                **row
                | {
                    "answers": tuple(RealAnswer(**answer) for answer in row["answers"]),
                    "sampled": {
                        float(temperature): tuple(map(tuple, claims))
                        for temperature, claims in row["sampled"].items()
                    },
                }
            )
            for row in run["facts"]
        ]

    return [fact for facts in read_runs(folder or FOLDER, make, COMMAND) for fact in facts]


# --- What it knows --------------------------------------------------------------------------------


def knowledge_by_population(
    asked: Sequence[AskedFact], bins: int = 6
) -> list[tuple[float, Estimate]]:
    """Say how much is known of countries of each size.

    Args:
        asked: (N,) facts of one kind.
        bins: groups of equally many countries, from the smallest on.

    Returns:
        Of each group the median population and the mean share of right answers, with its standard
        error over countries.

    Raises:
        ValueError: fewer than two facts a group.
    """
    if bins < 1 or len(asked) < 2 * bins:
        raise ValueError(
            f"knowledge_by_population: asked must hold at least 2 facts for each of {bins} bins, "
            f"got {len(asked)}"
        )
    ordered = sorted(asked, key=lambda fact: fact.population)
    return [
        (
            float(np.median([ordered[place].population for place in group])),
            estimate_mean([ordered[place].right for place in group]),
        )
        for group in np.array_split(np.arange(len(ordered)), bins)
    ]


def phrasings_that_disagree(asked: Sequence[AskedFact]) -> list[AskedFact]:
    """Find the facts that are right in one phrasing and wrong in another.

    Args:
        asked: facts.

    Returns:
        Those of which one likeliest answer is right and another wrong.
    """
    return [
        fact for fact in asked if {"right", "wrong"} <= {answer.verdict for answer in fact.answers}
    ]


def verdicts(asked: Sequence[AskedFact], phrasing: int) -> Counter[str]:
    """Count how the likeliest answers to one phrasing read.

    Args:
        asked: facts.
        phrasing: its number, from 0.

    Returns:
        Verdict -> how many.
    """
    return Counter(fact.answers[phrasing].verdict for fact in asked)
