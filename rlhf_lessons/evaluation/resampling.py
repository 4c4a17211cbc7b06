"""Intervals by drawing the data again: the bootstrap, of whatever is independent (lessons 3 and 7).

Several numbers about one subject are alike, so it is subjects that are drawn, each with all its
numbers. Left out on purpose: closed formulas (``language`` has them) and corrections of bias.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np

__all__ = ["bootstrap_intervals"]


def bootstrap_intervals(
    groups: Sequence[Hashable],
    figures: Callable[[np.ndarray], Sequence[float]],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[tuple[float, float, float], ...]:
    """Compute figures with the percentile intervals of a bootstrap over groups.

    Each resample draws as many groups as there are, with replacement, and takes all rows of each.

    Args:
        groups: (N,) the group that each row belongs to; N different ones draw rows.
        figures: (M,) numbers of rows, repeated ones too -> the figures of those rows.
        confidence: share of resamples between the two ends, in (0, 1).
        resamples: how many are drawn.
        seed: of the draws.

    Returns:
        Of each figure (value, lower end, upper end); resamples in which it is no number are left
        out.

    Raises:
        ValueError: fewer than 2 groups, or ``confidence`` or ``resamples`` out of range.

    Source:
        Efron & Tibshirani 1993, "An Introduction to the Bootstrap", sections 8.5 and 13.3.
    """
    places: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        places.setdefault(group, []).append(row)
    if len(places) < 2:
        raise ValueError(
            f"bootstrap_intervals: groups must hold at least 2 different ones, got {len(places)}"
        )
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(
            f"bootstrap_intervals: confidence must lie inside (0, 1) and resamples be at least 1, "
            f"got {confidence} and {resamples}"
        )
    rows = [np.array(of) for of in places.values()]
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        chosen = random.integers(len(rows), size=len(rows))
        drawn.append(figures(np.concatenate([rows[group] for group in chosen])))
    outside = 50 * (1 - confidence)
    ends = np.nanpercentile(np.array(drawn, np.float64), [outside, 100 - outside], axis=0)
    values = zip(figures(np.arange(len(groups))), *ends, strict=True)
    return tuple(tuple(map(float, value)) for value in values)
