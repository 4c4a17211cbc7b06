"""How sure a real model is of what it says of real countries, and what that is worth (lesson 7).

    python -m rlhf_lessons real knowledge              the stored tables
    python -m rlhf_lessons real knowledge --measure    ask again, some minutes

    confidence of a claim = #{sampled answers that claim the same} / #{sampled answers}

The answers to all phrasings are pooled: what a model knows it says however it is asked. Temperature
and number of samples are chosen on the countries that tuning may look at, and the choice is
measured on the held-out ones, with intervals over countries. Nothing here needs the model:
``real_knowledge`` keeps its answers.

Left out on purpose: a trained probe of the model's inner states, and asking the model itself how
sure it is, which one of this size cannot say.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlhf_lessons.evaluation.factuality import area_under_roc, claim_confidence
from rlhf_lessons.evaluation.preferences import Calibration, calibration
from rlhf_lessons.evaluation.real_knowledge import (
    COMMAND,
    FOLDER,
    MAX_NEW_TOKENS,
    SAMPLES,
    AskedFact,
    ask_facts,
    knowledge_by_population,
    phrasings_that_disagree,
    verdicts,
)
from rlhf_lessons.evaluation.resampling import bootstrap_intervals
from rlhf_lessons.evaluation.sweeps import write_run
from rlhf_lessons.models import load_policy
from rlhf_lessons.models.checkpoints import FETCHED_POLICY
from rlhf_lessons.worlds import PHRASINGS, Claim, real_facts

__all__ = [
    "ConfidenceReport",
    "RealClaims",
    "agreement_confidence",
    "choose_confidence",
    "confidence_report",
    "knowledge_table",
    "likelihood_confidence",
    "measure_real_knowledge",
    "pooled_answers",
    "real_claims",
]


TEMPERATURES = (0.3, 0.6, 1.0)


@dataclass(frozen=True)
class RealClaims:
    """The claims of likeliest answers; N of them, hedges and unreadable answers left out.

    Attributes:
        claims: (N,) each with its country, kind and value.
        right: (N,) whether it is true.
        log_probs: (N,) log π of the answer that makes it, in nats.
        phrasing: (N,) number of the phrasing that was answered.
    """

    claims: tuple[Claim, ...]
    right: np.ndarray
    log_probs: np.ndarray
    phrasing: np.ndarray

    @property
    def subjects(self) -> list[str]:
        """The country of each claim."""
        return [claim.subject for claim in self.claims]


def real_claims(asked: Iterable[AskedFact]) -> RealClaims:
    """Collect the claims of the likeliest answers.

    Args:
        asked: facts.

    Returns:
        The claims, fact by fact and phrasing by phrasing.

    Raises:
        ValueError: no answer claims anything.
    """
    rows = [
        (Claim(fact.subject, fact.kind, answer.claim, 0, 0), answer, phrasing)
        for fact in asked
        for phrasing, answer in enumerate(fact.answers)
        if answer.verdict in ("right", "wrong")
    ]
    if not rows:
        raise ValueError("real_claims: asked must hold an answer that claims something, got none")
    claims, answers, phrasings = zip(*rows, strict=True)
    return RealClaims(
        claims,
        np.array([answer.verdict == "right" for answer in answers]),
        np.array([answer.log_prob for answer in answers]),
        np.array(phrasings),
    )


def pooled_answers(
    asked: Iterable[AskedFact], temperature: float, samples: int
) -> dict[tuple[str, str], Counter[str | None]]:
    """Count what was claimed of each fact, over all phrasings.

    Args:
        asked: facts.
        temperature: of the samples, one of those that are stored.
        samples: how many answers to each phrasing count, the first ones.

    Returns:
        (country, kind) -> claim -> how often; None counts the answers that name nothing.

    Raises:
        ValueError: there are no samples at that temperature, or fewer.
    """
    answers = {}
    for fact in asked:
        drawn = fact.sampled.get(temperature, ())
        if not drawn or not 1 <= samples <= min(map(len, drawn)):
            raise ValueError(
                f"pooled_answers: samples and temperature must be among those stored, got "
                f"{samples} at {temperature}; there are "
                f"{ {t: min(map(len, d)) for t, d in fact.sampled.items()} }"
            )
        answers[fact.subject, fact.kind] = Counter(
            claim for claims in drawn for claim in claims[:samples]
        )
    return answers


def agreement_confidence(
    asked: Sequence[AskedFact], temperature: float, samples: int
) -> np.ndarray:
    """Give the confidence of each of the claims that ``real_claims`` collects.

    Args:
        asked: facts.
        temperature: of the samples.
        samples: answers to each phrasing.

    Returns:
        (N,) in [0, 1].
    """
    answers = pooled_answers(asked, temperature, samples)
    return claim_confidence(real_claims(asked).claims, answers)


def likelihood_confidence(asked: Sequence[AskedFact]) -> np.ndarray:
    """Give π(answer | question) of the same claims: what one reading costs, without a sample.

    It is the probability of the words, other words for the same claim not counted.

    Args:
        asked: facts.

    Returns:
        (N,) in [0, 1].
    """
    return np.exp(np.minimum(real_claims(asked).log_probs, 0.0))


def choose_confidence(asked: Sequence[AskedFact]) -> tuple[float, int]:
    """Choose temperature and number of samples by the area under the ROC curve.

    Args:
        asked: the facts to choose on; a held-out one is refused.

    Returns:
        Temperature and answers to each phrasing; of equal ones the fewest samples.

    Raises:
        ValueError: a fact is held out.
    """
    if any(fact.held_out for fact in asked):
        raise ValueError("choose_confidence: asked must hold no held-out facts, got some")
    right = real_claims(asked).right
    return min(
        (
            (-area_under_roc(agreement_confidence(asked, temperature, samples), right), samples,
             temperature)
            for temperature, drawn in asked[0].sampled.items()
            for samples in range(1, len(drawn[0]) + 1)
        ),
    )[:0:-1]  # fmt: skip


def measure_real_knowledge(folder: Path | None = None) -> None:
    """Ask SmolLM2 for every fact, and keep what it said.

    The tuned-on countries are asked at every temperature, the held-out ones at the one that was
    chosen.

    Args:
        folder: where the files go; None takes the one beside ``real_knowledge``.

    Returns:
        None.

    Raises:
        CheckpointError: the real model was not fetched.
        PartError: the facts were not fetched.
        OSError: a file cannot be written.
    """
    policy = load_policy(FETCHED_POLICY)
    for number, (kind, phrasings) in enumerate(PHRASINGS.items()):
        tuned_on, held_out = (real_facts(kind, held_out=out) for out in (False, True))
        asked = ask_facts(policy, tuned_on, TEMPERATURES, SAMPLES, 200 * number)
        chosen, _ = choose_confidence(asked)
        asked += ask_facts(policy, held_out, [chosen], SAMPLES, 200 * number + 100)
        settings = {
            "policy": FETCHED_POLICY,
            "phrasings": list(phrasings),
            "temperatures": list(TEMPERATURES),
            "samples": SAMPLES,
            "max_new_tokens": MAX_NEW_TOKENS,
        }
        run = {"facts": [dataclasses.asdict(fact) for fact in asked]}
        path = (folder or FOLDER) / f"{kind}.json"
        write_run(path, run, command=COMMAND, settings=settings)


@dataclass(frozen=True)
class ConfidenceReport:
    """How well a confidence separates right from wrong claims, and whether it means what it says.

    Attributes:
        count: number of claims.
        right: share of them that is right, with its interval, as the other two.
        area: area under the ROC curve.
        error: expected calibration error.
        bins: the calibration.
    """

    count: int
    right: tuple[float, float, float]
    area: tuple[float, float, float]
    error: tuple[float, float, float]
    bins: Calibration


def confidence_report(
    confidences: Sequence[float],
    right: Sequence[bool],
    subjects: Sequence[str],
    bins: int = 5,
) -> ConfidenceReport:
    """Measure a confidence; the intervals are those of a bootstrap over subjects.

    Args:
        confidences: (N,) in [0, 1].
        right: (N,) whether the claim is true.
        subjects: (N,) whom it is about.
        bins: number of bins of the calibration.

    Returns:
        The report, each figure as (value, lower end, upper end).

    Raises:
        ValueError: the lengths differ, a confidence lies outside [0, 1], or all claims are alike.
    """
    p, true = np.asarray(confidences, np.float64), np.asarray(right, bool)
    if not p.shape == true.shape == (len(subjects),):
        raise ValueError(
            f"confidence_report: confidences, right and subjects must be as many, got {p.shape}, "
            f"{true.shape} and {len(subjects)}"
        )
    found = calibration(p, true, bins)
    area_under_roc(p, true)  # refuses what has no area

    def figures(rows: np.ndarray) -> list[float]:
        a, b = p[rows], true[rows]
        mixed = 0 < b.sum() < len(b)
        area = area_under_roc(a, b) if mixed else float("nan")
        return [b.mean(), area, calibration(a, b, bins).error]

    return ConfidenceReport(len(p), *bootstrap_intervals(subjects, figures), found)


def knowledge_table(asked: Sequence[AskedFact], bins: int = 4) -> str:
    """Write what is known, by phrasing and by population, and what confidence is worth.

    Args:
        asked: facts of every kind.
        bins: groups of countries by population.

    Returns:
        Some lines for each kind; the confidence is chosen on the countries that are not held out.
    """
    lines = []
    for kind in dict.fromkeys(fact.kind for fact in asked):
        facts = [fact for fact in asked if fact.kind == kind]
        lines.append(f"{kind}: {len(facts)} countries")
        for phrasing in range(len(facts[0].answers)):
            counts = verdicts(facts, phrasing)
            told = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
            lines.append(f"  phrasing {phrasing}: {told}")
        disagree = len(phrasings_that_disagree(facts))
        lines.append(f"  right in one phrasing and wrong in another: {disagree}")
        for population, share in knowledge_by_population(facts, bins):
            lines.append(f"  median population {population:>13,.0f}: right {share}")
        tuned, held_out = (
            [fact for fact in facts if fact.held_out == out] for out in (False, True)
        )
        temperature, samples = choose_confidence(tuned)
        lines.append(f"  confidence by {samples} answers a phrasing at temperature {temperature:g}")
        for name, some in (("chosen on", tuned), ("held out", held_out)):
            claims = real_claims(some)
            for measure, confidences in (
                ("agreement", agreement_confidence(some, temperature, samples)),
                ("likelihood", likelihood_confidence(some)),
            ):
                report = confidence_report(confidences, claims.right, claims.subjects)
                area, error = (
                    f"{value:.3f} [{low:.3f}, {high:.3f}]"
                    for value, low, high in (report.area, report.error)
                )
                lines.append(
                    f"    {name}, {report.count} claims, {measure}: AUROC {area}, "
                    f"calibration error {error}"
                )
    return "\n".join(lines)
