"""A straight line through logarithms, with the interval of its slope (lesson 6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_lessons.evaluation.preferences import numbers

__all__ = ["PowerLaw", "fit_power_law"]


@dataclass(frozen=True)
class PowerLaw:
    """A straight line through logarithms: y ≈ exp(intercept) · x^slope.

    Attributes:
        slope: change of log y with log x.
        intercept: log y at x = 1.
        r_squared: share of the variance of log y that the line explains.
        slope_low: lower end of the slope's 95 % interval.
        slope_high: upper end.
        count: number of points.
    """

    slope: float
    intercept: float
    r_squared: float
    slope_low: float
    slope_high: float
    count: int

    def __call__(self, x: float) -> float:
        """Give y on the line."""
        return math.exp(self.intercept + self.slope * math.log(x))


def fit_power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """Fit log y = a + b · log x by least squares.

    The interval of b is Student's: b ± t · s_b with N − 2 degrees of freedom.

    Args:
        x: (N,) numbers above 0, N ≥ 3, not all equal.
        y: (N,) numbers above 0.

    Returns:
        The line.

    Raises:
        ValueError: if there are fewer than three points, a number is not above 0, or all x are
            equal.
    """
    xs, ys = numbers("fit_power_law", x=x, y=y)
    if len(xs) < 3 or (xs <= 0).any() or (ys <= 0).any() or xs.min() == xs.max():
        raise ValueError(
            f"fit_power_law: x and y must be at least 3 numbers above 0, x not all equal, got "
            f"x = {xs.tolist()} and y = {ys.tolist()}"
        )
    u, v = np.log(xs), np.log(ys)
    du = u - u.mean()
    slope = float((du * v).sum() / (du * du).sum())
    intercept = float(v.mean() - slope * u.mean())
    residual = float(((v - intercept - slope * u) ** 2).sum())
    spread = float(((v - v.mean()) ** 2).sum())
    error = math.sqrt(residual / (len(u) - 2) / float((du * du).sum()))
    half_width = _student_quantile(len(u) - 2) * error
    return PowerLaw(
        slope,
        intercept,
        1 - residual / spread if spread > 0 else 1.0,
        slope - half_width,
        slope + half_width,
        len(u),
    )


def _student_quantile(degrees: int, probability: float = 0.975) -> float:
    """Quantile of Student's t by Simpson's rule on t = √ν · tan θ, whose density is cos^(ν−1) θ."""
    theta = np.linspace(0.0, math.pi / 2, 20_001)
    density = np.cos(theta) ** (degrees - 1)
    steps = (density[:-1] + density[1:]) / 2
    cumulative = 0.5 + 0.5 * np.concatenate([[0.0], np.cumsum(steps)]) / steps.sum()
    return math.sqrt(degrees) * math.tan(float(np.interp(probability, cumulative, theta)))
