"""Simulated people, and a simulated AI, who say which text they like better.

Belongs to lesson 3 and feeds lessons 4 to 7. Every labeller holds an opinion, which is a judge: a
callable ``(prompts, responses) -> scores (B,)``. What differs is how the opinion comes out.

- ``NoisyComparer`` names the better of two, or ranks several: score plus Gumbel noise of scale T,
  which is Bradley-Terry and Plackett-Luce on score / T.
- ``ScaleRater`` has the same noisy opinion and reports it as 1 to 5 on a scale of its own.
- ``GroupedComparers`` are people of different taste who share one task.
- ``AgreementJudge`` and ``WeightedJudge`` make a rater who likes to be agreed with, and length.
- ``AILabeller`` asks a model, any judge, in place of a person.

Left out on purpose: learning (a labeller never changes), moods that drift, and annotator errors
that depend on the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_lessons.worlds.preferences import Preference

Judge = Callable[[Sequence[str], Sequence[str]], np.ndarray]


def judged(judge: Judge, prompts: Sequence[str], responses: Sequence[str], who: str) -> np.ndarray:
    """Call a judge and refuse anything but one finite number per response."""
    if len(prompts) != len(responses):
        raise ValueError(
            f"{who}: prompts and responses must be equally many, got {len(prompts)} and "
            f"{len(responses)}"
        )
    scores = np.asarray(judge(prompts, responses), dtype=np.float64)
    if scores.shape != (len(responses),):
        raise ValueError(
            f"{who}: the judge must return scores of shape ({len(responses)},), got {scores.shape}"
        )
    if not np.isfinite(scores).all():
        place = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise ValueError(
            f"{who}: the judge must return finite scores, got {scores[place]} for response {place}"
        )
    return scores


def check_temperature(temperature: float, who: str) -> None:
    """Refuse a temperature that is negative or no number."""
    if not (np.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"{who}: temperature must be >= 0 and finite, got {temperature}")


def preference_probability(
    first_scores: np.ndarray, second_scores: np.ndarray, temperature: float
) -> np.ndarray:
    """Probability that a Bradley-Terry rater prefers the first of two responses.

    P(first ≻ second) = σ((s₁ − s₂) / T); at T = 0 it is 1, 0, or 1/2 for equal scores.

    Args:
        first_scores: (B,) the rater's own scores of the first responses.
        second_scores: (B,) those of the second ones.
        temperature: T >= 0, in the unit of the scores; larger means noisier.

    Returns:
        (B,) probabilities.

    Raises:
        ValueError: shapes differ, a score is not finite, or the temperature is negative.
    """
    first = np.asarray(first_scores, dtype=np.float64)
    second = np.asarray(second_scores, dtype=np.float64)
    check_temperature(temperature, "preference_probability")
    if first.shape != second.shape:
        raise ValueError(
            "preference_probability: second_scores must have the shape of first_scores "
            f"{first.shape}, got {second.shape}"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("preference_probability: scores must be finite, got NaN or infinity")
    difference = first - second
    if temperature == 0:
        return (np.sign(difference) + 1) / 2
    # σ(z) = (1 + tanh(z/2)) / 2 never overflows.
    return (1 + np.tanh(difference / (2 * temperature))) / 2


def bayes_ceiling(first_scores: np.ndarray, second_scores: np.ndarray, temperature: float) -> float:
    """Expected accuracy of the best possible model against one Bradley-Terry rater's labels.

    ceiling = mean of max(p, 1 − p), p = σ((s₁ − s₂) / T)

    Who knows the rater's exact scores still can't foresee the coin that the rater throws.

    Args:
        first_scores: (B,) the rater's own scores of the first responses of the pairs.
        second_scores: (B,) those of the second ones.
        temperature: T >= 0 of the rater.

    Returns:
        A share between 1/2 and 1, exact for these pairs.

    Raises:
        ValueError: no pairs, shapes differ, a score is not finite, or T is negative.
    """
    p = preference_probability(first_scores, second_scores, temperature)
    if p.size == 0:
        raise ValueError("bayes_ceiling: first_scores must hold at least one pair, got none")
    return float(np.maximum(p, 1 - p).mean())


@dataclass(frozen=True)
class NoisyComparer:
    """A rater who compares by Bradley-Terry, and ranks by Plackett-Luce, on score / T.

    P(first ≻ second) = σ((s₁ − s₂) / T)

    Attributes:
        judge: the rater's own opinion, (prompts, responses) -> scores (B,).
        temperature: T >= 0, in the unit of the scores; 0 never errs.
    """

    judge: Judge
    temperature: float = 1.0

    def __post_init__(self):
        check_temperature(self.temperature, "NoisyComparer")

    def probabilities(
        self, prompts: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]
    ) -> np.ndarray:
        """Return (B,) the probability that each first response is preferred."""
        return preference_probability(
            judged(self.judge, prompts, firsts, "NoisyComparer"),
            judged(self.judge, prompts, seconds, "NoisyComparer"),
            self.temperature,
        )

    def prefers_first(
        self, prompts: Sequence[str], firsts: Sequence[str], seconds: Sequence[str], seed: int
    ) -> np.ndarray:
        """Return (B,) bool, True where the first response was preferred in this draw."""
        p = self.probabilities(prompts, firsts, seconds)
        return np.random.default_rng(seed).random(len(p)) < p

    def rank(self, prompt: str, responses: Sequence[str], seed: int) -> list[str]:
        """Return the responses of one prompt, best first, drawn by Plackett-Luce."""
        scores = judged(self.judge, [prompt] * len(responses), responses, "NoisyComparer.rank")
        # The order of s + T·Gumbel is Plackett-Luce on s / T.
        noise = np.random.default_rng(seed).gumbel(size=len(scores))
        return [responses[i] for i in np.argsort(-(scores + self.temperature * noise))]


@dataclass(frozen=True)
class ScaleRater:
    """A rater who gives 1 to 5 on a scale of its own.

    rating = 1 + number of thresholds below s + T·Gumbel

    The noise is that of a ``NoisyComparer`` of the same temperature: only the question differs.

    Attributes:
        judge: the rater's own opinion, (prompts, responses) -> scores (B,).
        thresholds: four rising scores, the borders between 1|2, 2|3, 3|4 and 4|5.
        temperature: T >= 0, in the unit of the scores.
    """

    judge: Judge
    thresholds: tuple[float, float, float, float]
    temperature: float = 0.0

    def __post_init__(self):
        check_temperature(self.temperature, "ScaleRater")
        if len(self.thresholds) != 4 or not (np.diff(self.thresholds) > 0).all():
            raise ValueError(
                f"ScaleRater: thresholds must be 4 rising numbers, got {self.thresholds}"
            )

    def rate(self, prompts: Sequence[str], responses: Sequence[str], seed: int) -> np.ndarray:
        """Return (B,) whole ratings from 1 to 5."""
        scores = judged(self.judge, prompts, responses, "ScaleRater")
        # Centred Gumbel: noise must not push every rating up.
        noise = np.random.default_rng(seed).gumbel(size=len(scores)) - np.euler_gamma
        return 1 + np.searchsorted(self.thresholds, scores + self.temperature * noise)


def draw_scale_raters(
    judge: Judge, count: int, seed: int, *, temperature: float = 0.0, unit: float = 1.0
) -> list[ScaleRater]:
    """Draw raters who share one opinion and report it on private monotone scales.

    thresholds = c + w·unit·(−1.5, −0.5, 0.5, 1.5), c ~ N(0, unit²), log w ~ N(0, 0.5²)

    Args:
        judge: the opinion they share, (prompts, responses) -> scores (B,).
        count: number of raters, at least 1.
        seed: of the private scales.
        temperature: noise of each rating, in the unit of the scores.
        unit: spread of the scores that the scales are made for, for example their standard
            deviation.

    Returns:
        ``count`` raters: some mild, some strict, some who never leave the middle.

    Raises:
        ValueError: ``count`` < 1, ``unit`` <= 0, or a negative temperature.
    """
    if count < 1 or not unit > 0:
        raise ValueError(
            f"draw_scale_raters: count must be >= 1 and unit > 0, got {count} and {unit}"
        )
    random = np.random.default_rng(seed)
    raters = []
    for _ in range(count):
        centre, width = random.normal() * unit, np.exp(0.5 * random.normal()) * unit
        borders = tuple(float(centre + width * step) for step in (-1.5, -0.5, 0.5, 1.5))
        raters.append(ScaleRater(judge, borders, temperature))
    return raters


@dataclass(frozen=True)
class GroupedComparers:
    """People of different taste: each pair is labelled by somebody of one of the groups.

    Attributes:
        comparers: one comparer for each group.
        shares: probability that a label comes from each group; they sum to 1.
    """

    comparers: tuple[NoisyComparer, ...]
    shares: tuple[float, ...]

    def __post_init__(self):
        shares = np.asarray(self.shares, dtype=np.float64)
        if len(self.comparers) != len(shares) or len(shares) == 0:
            raise ValueError(
                f"GroupedComparers: shares must hold {len(self.comparers)} numbers, one a group, "
                f"got {len(shares)}"
            )
        if (shares < 0).any() or not np.isclose(shares.sum(), 1):
            raise ValueError(
                f"GroupedComparers: shares must be >= 0 and sum to 1, got {self.shares}"
            )

    def groups(self, count: int, seed: int) -> np.ndarray:
        """Return (B,) which group answers each of ``count`` pairs under this seed."""
        return np.random.default_rng([seed, 1]).choice(
            len(self.shares), size=count, p=np.asarray(self.shares)
        )

    def prefers_first(
        self, prompts: Sequence[str], firsts: Sequence[str], seconds: Sequence[str], seed: int
    ) -> np.ndarray:
        """Return (B,) bool, True where the group that was asked preferred the first response."""
        answers = [c.prefers_first(prompts, firsts, seconds, seed) for c in self.comparers]
        return np.choose(self.groups(len(prompts), seed), answers).astype(bool)


@dataclass(frozen=True)
class WeightedJudge:
    """A judge that adds up other judges: Σ weight · judge(prompts, responses).

    Attributes:
        parts: (weight, judge) for each thing that is liked (> 0) or disliked (< 0).
    """

    parts: tuple[tuple[float, Judge], ...]

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Return (B,) the weighted sum of the parts' scores."""
        return sum(
            (
                weight * judged(judge, prompts, responses, "WeightedJudge")
                for weight, judge in self.parts
            ),
            start=np.zeros(len(responses)),
        )


@dataclass(frozen=True)
class AgreementJudge:
    """How far a response agrees with what the rater believes about the subject of the prompt.

    agreement = belief(prompt) · tanh(sentiment(response))

    Attributes:
        beliefs: word -> belief between −1 (bad) and 1 (good); the first such word of the prompt
            counts, and a prompt without any gets 0.
        sentiment: a judge of what the response says, > 0 for praise.
    """

    beliefs: Mapping[str, float]
    sentiment: Judge

    def belief(self, prompt: str) -> float:
        """Return the rater's belief about the subject of one prompt."""
        return next((self.beliefs[w] for w in prompt.split() if w in self.beliefs), 0.0)

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Return (B,) agreement between −1 and 1."""
        sentiment = judged(self.sentiment, prompts, responses, "AgreementJudge")
        return np.array([self.belief(prompt) for prompt in prompts]) * np.tanh(sentiment)


def length_judge(prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
    """Judge a response by nothing but its length.

    Args:
        prompts: (B,) texts, not used: a judge takes them.
        responses: (B,) texts of words between spaces.

    Returns:
        (B,) number of words / 10.
    """
    return np.array([len(response.split()) / 10 for response in responses], dtype=np.float64)


@dataclass(frozen=True)
class AILabeller:
    """A model that labels pairs in place of a person: reinforcement learning from AI feedback.

    first is preferred  ⇔  judge(first) > judge(second); equal scores fall to a coin.

    Attributes:
        judge: the model's opinion, (prompts, responses) -> scores (B,).
        margin: pairs whose scores are closer than this are left undecided by ``decided``.
    """

    judge: Judge
    margin: float = 0.0

    def prefers_first(
        self, prompts: Sequence[str], firsts: Sequence[str], seconds: Sequence[str], seed: int
    ) -> np.ndarray:
        """Return (B,) bool, True where the model scores the first response higher."""
        return NoisyComparer(self.judge, 0.0).prefers_first(prompts, firsts, seconds, seed)

    def decided(
        self, prompts: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]
    ) -> np.ndarray:
        """Return (B,) bool, True where the two scores are at least ``margin`` apart."""
        first = judged(self.judge, prompts, firsts, "AILabeller")
        return np.abs(first - judged(self.judge, prompts, seconds, "AILabeller")) >= self.margin


@dataclass(frozen=True)
class SimilarityRater:
    """A rater who says which of two responses is more like a third.

    P(second is nearer) = σ((‖f(a) − f(third)‖ − ‖f(a) − f(second)‖) / T)

    Attributes:
        features: what the rater looks at, (prompts, responses) -> (B, F).
        temperature: T >= 0, in the unit of the features.
    """

    features: Callable[[Sequence[str], Sequence[str]], np.ndarray]
    temperature: float = 0.0

    def __post_init__(self):
        check_temperature(self.temperature, "SimilarityRater")

    def second_is_nearer(
        self,
        prompts: Sequence[str],
        anchors: Sequence[str],
        seconds: Sequence[str],
        thirds: Sequence[str],
        seed: int,
    ) -> np.ndarray:
        """Return (B,) bool, True where the second response was found more like the anchor."""
        anchor, second, third = (
            np.asarray(self.features(prompts, texts), dtype=np.float64)
            for texts in (anchors, seconds, thirds)
        )
        to_second = np.linalg.norm(anchor - second, axis=-1)
        to_third = np.linalg.norm(anchor - third, axis=-1)
        p = preference_probability(to_third, to_second, self.temperature)
        return np.random.default_rng(seed).random(len(p)) < p


def label_pairs(
    comparer: NoisyComparer | GroupedComparers | AILabeller,
    prompts: Sequence[str],
    firsts: Sequence[str],
    seconds: Sequence[str],
    seed: int,
) -> list[Preference]:
    """Let a labeller answer B pairs and write the answers as preferences.

    Args:
        comparer: anything with ``prefers_first(prompts, firsts, seconds, seed)``.
        prompts: (B,) texts.
        firsts: (B,) one response to each prompt.
        seconds: (B,) another response to each prompt.
        seed: of the labeller's noise.

    Returns:
        (B,) preferences in the order of the prompts.

    Raises:
        ValueError: the three lists are not equally long, or the judge's scores are not finite.
    """
    if not len(prompts) == len(firsts) == len(seconds):
        raise ValueError(
            "label_pairs: prompts, firsts and seconds must be equally many, got "
            f"{len(prompts)}, {len(firsts)} and {len(seconds)}"
        )
    answers = comparer.prefers_first(prompts, firsts, seconds, seed)
    return [
        Preference(prompt, *((first, second) if yes else (second, first)))
        for prompt, first, second, yes in zip(prompts, firsts, seconds, answers, strict=True)
    ]
