"""Fitting the judge of people to ratings: ridge regression, in closed form.

    w = argmin ‖y − b − Xw‖² + ρ‖w‖²

over features X that are shifted and scaled to mean 0 and deviation 1. The strength ρ is chosen by
leaving out one text at a time, which needs no second fit: with the hat matrix H of the fit, the
error on a text that was left out is its error in the fit, divided by 1 − H_ii.

Left out on purpose: training the body (``train_reward_model``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_lessons.models.people_judge import PeopleJudge

__all__ = ["PeopleJudgeFit", "fit_people_judge"]


@dataclass(frozen=True)
class PeopleJudgeFit:
    """What fitting a judge to ratings gave.

    Attributes:
        ridge: The strength ρ that was chosen.
        correlation: Correlation of ratings and scores, each text left out of its own fit.
        deviation: Root mean square of the error, in points of the ratings, likewise.
    """

    ridge: float
    correlation: float
    deviation: float

    def nll(self, ratings: Tensor, scores: Tensor) -> float:
        """Negative log-likelihood of ratings that scatter normally about the scores.

            log(σ√2π) + (y − ŷ)² / 2σ²,  σ = ``deviation``

        Args:
            ratings: (B,) ratings.
            scores: (B,) scores of the judge.

        Returns:
            Its mean, in nats a rating.
        """
        square = float((ratings.double() - scores.double()).square().mean())
        return math.log(self.deviation * math.sqrt(2 * math.pi)) + square / 2 / self.deviation**2


@torch.no_grad()
def fit_people_judge(
    judge: PeopleJudge,
    features: Tensor,
    ratings: Sequence[float],
    ridges: Sequence[float] = (300.0, 1000.0, 3000.0, 5000.0, 10_000.0, 30_000.0),
) -> PeopleJudgeFit:
    """Fit the head of a judge.

    Args:
        judge: The judge; its head is replaced, its ``correlation`` and ``deviation`` are set.
        features: (B, D) what ``judge.features`` gives for the rated texts.
        ratings: Of each text the mean rating of people.
        ridges: Strengths ρ to choose from.

    Returns:
        What was chosen, and how good it is on texts left out.

    Raises:
        ValueError: If there are not as many ratings as texts, fewer than 3, or no ridge above 0.
    """
    if len(ratings) != len(features) or len(ratings) < 3:
        raise ValueError(
            f"fit_people_judge: ratings must be as many as texts, at least 3, got {len(ratings)} "
            f"for {len(features)}"
        )
    if not ridges or min(ridges) <= 0:
        raise ValueError(f"fit_people_judge: ridges must be above 0, got {tuple(ridges)}")
    x, y = features.double(), torch.as_tensor(ratings, dtype=torch.float64)
    mean, scale = x.mean(0), x.std(0).clamp_min(1e-9)
    x, offset = (x - mean) / scale, y.mean()
    y = y - offset
    u, singular, vt = torch.linalg.svd(x, full_matrices=False)
    projected = u.T @ y
    best: tuple[float, float, Tensor] | None = None
    for ridge in ridges:
        kept = singular**2 / (singular**2 + ridge)
        hat = u.square() @ kept + 1 / len(x)  # the second part is that of the offset b
        left_out = (y - u @ (kept * projected)) / (1 - hat)
        error = float(left_out.square().mean())
        if best is None or error < best[0]:
            best = error, ridge, left_out
    error, ridge, left_out = best
    weight = vt.T @ (singular / (singular**2 + ridge) * projected) / scale
    judge.head.weight.copy_(weight.unsqueeze(0))
    judge.head.bias.copy_((offset - mean @ weight).unsqueeze(0))
    judge.head.float().double()  # as it is stored
    judge.correlation = float(torch.corrcoef(torch.stack([y, y - left_out]))[0, 1])
    judge.deviation = math.sqrt(error)
    return PeopleJudgeFit(ridge, judge.correlation, judge.deviation)
