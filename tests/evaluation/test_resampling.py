from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from rlhf_lessons.evaluation.resampling import bootstrap_intervals


def test_the_interval_of_a_mean_is_that_of_the_normal_approximation():
    values = np.random.default_rng(2).normal(3, 2, 400)
    ((value, low, high),) = bootstrap_intervals(range(400), lambda rows: [values[rows].mean()])
    half = 1.96 * values.std() / 20
    assert value == pytest.approx(values.mean())
    # 2,000 resamples place an end to some 3 % of the half width, which is 0.2.
    assert (low, high) == pytest.approx((value - half, value + half), abs=0.02)


def test_groups_are_drawn_whole():
    """Ten numbers of each of six subjects are as much as one: by all 6^6 resamples."""
    means = np.array([0.0, 0.0, 1.0, 3.0, 4.0, 10.0])
    groups = [name for name in "abcdef" for _ in range(10)]
    values = np.repeat(means, 10)
    ((_, low, high),) = bootstrap_intervals(groups, lambda rows: [values[rows].mean()], seed=1)
    every = [means[list(drawn)].mean() for drawn in product(range(6), repeat=6)]
    expected = np.percentile(every, [2.5, 97.5])
    assert (low, high) == pytest.approx(expected, abs=0.35)
    assert high - low > 3  # drawn one by one, the sixty numbers would give 1.8


def test_groups_of_unequal_size_keep_all_their_rows():
    seen = []
    bootstrap_intervals(["a", "b", "a", "a"], lambda rows: [seen.append(sorted(rows)) or 0.0])
    sets = {tuple(rows) for rows in seen}
    a, b = (0, 2, 3), (1,)
    assert sets == {a + b, tuple(sorted(a + b)), tuple(sorted(a + a)), b + b} - {a + b}


def test_one_seed_one_interval_and_figures_that_are_no_number_are_left_out():
    values = np.arange(30.0)

    def figures(rows):
        return values[rows].mean(), (1.0 if 0 in rows else float("nan"))

    first = bootstrap_intervals(range(30), figures, seed=3)
    assert first == bootstrap_intervals(range(30), figures, seed=3)
    assert first[0] != bootstrap_intervals(range(30), figures, seed=4)[0]
    assert first[1] == (1.0, 1.0, 1.0)


def test_a_wider_confidence_is_a_wider_interval():
    values = np.random.default_rng(0).normal(size=50)
    (narrow,), (wide,) = (
        bootstrap_intervals(range(50), lambda rows: [values[rows].mean()], confidence=c)
        for c in (0.5, 0.95)
    )
    assert wide[1] < narrow[1] < narrow[2] < wide[2]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"groups": ["a", "a"]}, "at least 2 different ones, got 1"),
        ({"groups": [1, 2], "confidence": 1.0}, "confidence must lie inside"),
        ({"groups": [1, 2], "resamples": 0}, "resamples be at least 1"),
    ],
)
def test_bad_input_is_named(given, told):
    with pytest.raises(ValueError, match=told):
        bootstrap_intervals(figures=lambda rows: [0.0], **given)
