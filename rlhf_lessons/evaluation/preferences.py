"""Scores against preferences: accuracy, win rate, calibration, agreement, and what predicts them.

Belongs to lesson 3; lessons 6 and 7 measure with it too. Inputs are numpy arrays or tensors,
results are numpy.

Left out on purpose: significance tests, and agreement beyond two raters at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rlhf_lessons.evaluation.language import estimate_share
from rlhf_lessons.formulas import fit_linear_rewards

__all__ = [
    "Calibration",
    "FeatureWeights",
    "WinRate",
    "agreement",
    "calibration",
    "order_agreement",
    "preference_accuracy",
    "preference_calibration",
    "preference_features",
    "win_rate",
]


def numbers(where: str, **arrays: object) -> list[np.ndarray]:
    """Turn arguments into finite float64 arrays of one shape, or say which is not."""
    made = {name: np.asarray(value, dtype=np.float64) for name, value in arrays.items()}
    (first_name, first), *others = made.items()
    for name, array in made.items():
        if not np.isfinite(array).all():
            place = np.argwhere(~np.isfinite(array))[0].tolist()
            raise ValueError(
                f"{where}: {name} must be finite, got {array[tuple(place)]} at {place}"
            )
    for name, array in others:
        if array.shape != first.shape:
            raise ValueError(
                f"{where}: {name} must have shape {first.shape} like {first_name}, "
                f"got {array.shape}"
            )
    if first.size == 0:
        raise ValueError(f"{where}: {first_name} must not be empty")
    return list(made.values())


def preference_accuracy(chosen_scores: Sequence[float], rejected_scores: Sequence[float]) -> float:
    """Share of pairs that the scores put in the right order; a tie counts half.

    accuracy = mean of [s_w > s_l] + ½·[s_w = s_l]

    With half for a tie, a judge that scores everything alike gets 1/2, the coin's share.

    Args:
        chosen_scores: (B,) scores of the preferred responses.
        rejected_scores: (B,) scores of the others.

    Returns:
        A share between 0 and 1.

    Raises:
        ValueError: no pairs, shapes differ, or a score is not finite.
    """
    chosen, rejected = numbers(
        "preference_accuracy", chosen_scores=chosen_scores, rejected_scores=rejected_scores
    )
    return float(((chosen > rejected) + 0.5 * (chosen == rejected)).mean())


@dataclass(frozen=True)
class WinRate:
    """How often one policy's responses beat another's.

    Attributes:
        value: share of prompts won, a tie counted half.
        low: lower end of Wilson's interval.
        high: upper end.
        count: number of prompts.
    """

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


def win_rate(
    rewards: Sequence[float], other_rewards: Sequence[float], confidence: float = 0.95
) -> WinRate:
    """Compare two policies on the same prompts by the rewards of one response each.

        p = (wins + ½ · ties)/n, with Wilson's interval

    Args:
        rewards: (N,) rewards of the first policy's responses.
        other_rewards: (N,) those of the other one's, to the same prompts.
        confidence: share of repetitions in which the interval holds the true rate, in (0, 1).

    Returns:
        The rate with its interval; with ties the interval is a little too wide.

    Raises:
        ValueError: if there are no rewards, the numbers differ, or one is not finite.
    """
    own, other = numbers("win_rate", rewards=rewards, other_rewards=other_rewards)
    won = float((own > other).sum() + 0.5 * (own == other).sum())
    return WinRate(*estimate_share(won, len(own), confidence), count=len(own))


@dataclass(frozen=True)
class Calibration:
    """Stated probabilities against what happened, bin by bin.

    Attributes:
        edges: (K+1,) borders of the K bins, from 0 to 1.
        counts: (K,) how many probabilities fell into each bin.
        predicted: (K,) their mean in each bin, NaN in an empty one.
        observed: (K,) how often it happened in each bin, NaN in an empty one.
        error: expected calibration error, Σ_k counts_k/N · |observed_k − predicted_k|.
    """

    edges: np.ndarray
    counts: np.ndarray
    predicted: np.ndarray
    observed: np.ndarray
    error: float


def calibration(
    probabilities: Sequence[float], outcomes: Sequence[bool], bins: int = 10
) -> Calibration:
    """Sort probabilities into equal bins and compare them with how often the event happened.

    ECE = Σ_k (n_k/N) · |observed_k − predicted_k|, bin k = [k/K, (k+1)/K), the last one with 1

    Args:
        probabilities: (N,) stated probabilities.
        outcomes: (N,) whether it happened, True/False or 1/0.
        bins: K, the number of bins of equal width, at least 1.

    Returns:
        The bins and their expected calibration error.

    Raises:
        ValueError: nothing given, shapes differ, a probability outside [0, 1], an outcome other
            than 0 and 1, or ``bins`` < 1.

    Source:
        Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3.
    """
    p, happened = numbers("calibration", probabilities=probabilities, outcomes=outcomes)
    if p.min() < 0 or p.max() > 1:
        raise ValueError(
            f"calibration: probabilities must lie in [0, 1], got {p.min()} to {p.max()}"
        )
    if not np.isin(happened, (0, 1)).all():
        raise ValueError("calibration: outcomes must be True/False or 1/0, got other numbers")
    if bins < 1:
        raise ValueError(f"calibration: bins must be at least 1, got {bins}")
    edges = np.linspace(0, 1, bins + 1)
    # Compared with the very edges that are returned: p·bins rounds the other way at some of them.
    place = np.clip(np.searchsorted(edges, p, side="right") - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(place, p, bins) / counts
        observed = np.bincount(place, happened, bins) / counts
    gaps = np.abs(observed - predicted)
    return Calibration(edges, counts, predicted, observed, float(np.nansum(gaps * counts) / len(p)))


def preference_calibration(
    chosen_scores: Sequence[float], rejected_scores: Sequence[float], bins: int = 10
) -> Calibration:
    """Calibrate Bradley-Terry probabilities: each pair is asked both ways.

    "chosen first" was stated with σ(s_w − s_l) and happened; "rejected first" was stated with
    σ(s_l − s_w) and did not. Asking one way alone would compare with an event that always happens.

    Args:
        chosen_scores: (B,) rewards of the preferred responses, in log-odds.
        rejected_scores: (B,) rewards of the others.
        bins: number of bins of equal width, at least 1.

    Returns:
        The bins, symmetric about 1/2, with 2B entries.

    Raises:
        ValueError: as ``calibration`` and ``preference_accuracy``.
    """
    chosen, rejected = numbers(
        "preference_calibration", chosen_scores=chosen_scores, rejected_scores=rejected_scores
    )
    p = (1 + np.tanh((chosen - rejected) / 2)) / 2
    happened = np.concatenate([np.ones_like(p), np.zeros_like(p)])
    return calibration(np.concatenate([p, 1 - p]), happened, bins)


def agreement(first_labels: Sequence, second_labels: Sequence) -> float:
    """Share of items to which two raters gave the same label.

    agreement = mean of [first_i = second_i]

    Args:
        first_labels: (N,) labels of one rater: choices, ratings, anything that can be equal.
        second_labels: (N,) labels of the other.

    Returns:
        A share between 0 and 1.

    Raises:
        ValueError: no labels, or not equally many.
    """
    first, second = np.asarray(first_labels), np.asarray(second_labels)
    if first.shape != second.shape or first.size == 0:
        raise ValueError(
            f"agreement: second_labels must have shape {first.shape} like first_labels and not be "
            f"empty, got {second.shape}"
        )
    return float((first == second).mean())


def order_agreement(first_ratings: Sequence[float], second_ratings: Sequence[float]) -> float:
    """How often two raters put two items in the same order; half where one of them ties.

    agreement = mean over i < j of (1 + sign(a_i − a_j)·sign(b_i − b_j)) / 2

    No monotone change of one rater's scale alters it.

    Args:
        first_ratings: (N,) ratings or scores of one rater, N >= 2.
        second_ratings: (N,) those of the other.

    Returns:
        A share between 0 and 1; 1/2 is chance.

    Raises:
        ValueError: fewer than two items, shapes differ, or a rating is not finite.
    """
    first, second = numbers(
        "order_agreement", first_ratings=first_ratings, second_ratings=second_ratings
    )
    if first.ndim != 1 or len(first) < 2:
        raise ValueError(
            f"order_agreement: first_ratings must hold at least 2 ratings, got shape {first.shape}"
        )
    i, j = np.triu_indices(len(first), 1)
    same = np.sign(first[i] - first[j]) * np.sign(second[i] - second[j])
    return float((1 + same.mean()) / 2)


@dataclass(frozen=True)
class FeatureWeights:
    """How much each feature of a response moves the log-odds of being preferred.

    Attributes:
        weights: (F,) change of the log-odds for one standard deviation of the feature's difference.
        errors: (F,) standard errors of the weights.
    """

    weights: np.ndarray
    errors: np.ndarray

    def probabilities(self) -> np.ndarray:
        """Return (F,) σ(weight): how often one standard deviation more of a feature alone wins."""
        return (1 + np.tanh(self.weights / 2)) / 2


def preference_features(
    chosen_features: np.ndarray, rejected_features: np.ndarray
) -> FeatureWeights:
    """Regress preferences on features: which of them predicts what people like?

    P(chosen ≻ rejected) = σ(w · (f_w − f_l) / s), s_k = √mean (f_w − f_l)_k²

    ``fit_linear_rewards`` of features that are put on one scale, so that weights can be compared.

    Args:
        chosen_features: (B, F) features of the preferred responses.
        rejected_features: (B, F) features of the others.

    Returns:
        Weights and standard errors, in the order of the features.

    Raises:
        ValueError: shapes differ, a feature never differs, or the features separate the pairs so
            well that no finite weights exist.

    Source:
        Sharma et al. 2023, "Towards Understanding Sycophancy in Language Models", section 4.1 (the
        question; maximum likelihood in place of their Bayesian fit).
    """
    chosen, rejected = numbers(
        "preference_features",
        chosen_features=chosen_features,
        rejected_features=rejected_features,
    )
    if chosen.ndim != 2:
        raise ValueError(
            f"preference_features: chosen_features must have shape (B, F), got {chosen.shape}"
        )
    difference = chosen - rejected
    scale = np.sqrt((difference**2).mean(0))
    if (scale == 0).any():
        raise ValueError(
            f"preference_features: feature {int(np.argmin(scale))} is the same in both responses "
            "of every pair, so no weight can be learned for it"
        )
    try:
        weights, information = fit_linear_rewards(torch.from_numpy(difference / scale))
    except ValueError as error:
        raise ValueError(
            "preference_features: chosen_features must not decide every pair (or depend on each "
            "other), because then no finite weights fit best"
        ) from error
    return FeatureWeights(weights.numpy(), information.inverse().diag().sqrt().numpy())
