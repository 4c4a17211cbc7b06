"""Diversity: by hand on a few points."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlhf_lessons.evaluation import coverage, mean_distance, pick_one_per_cell


def test_the_best_of_each_cell_is_picked():
    places = np.array([[0, 0], [0.1, 0], [9, 0], [9, 9], [8, 8], [0, 9]])
    scores = np.array([1.0, 2.0, 5.0, 0.0, 3.0, 4.0])
    # Left of x = 4: {0, 1} and {5}; right of it, cut at y = 8: {2, 4} and {3}.
    assert pick_one_per_cell(places, scores, 2).tolist() == [2, 5, 1, 3]
    assert pick_one_per_cell(places, scores, 1).tolist() == [2]


def test_cells_hold_equally_many_even_on_a_diagonal():
    x = np.random.default_rng(0).normal(size=160)
    places = np.stack([x, x + 1e-3 * np.random.default_rng(1).normal(size=160)], axis=1)
    picked = pick_one_per_cell(places, np.zeros(160), 4)
    assert len(picked) == 16


def test_mean_distance_by_hand():
    assert mean_distance([[0, 0], [3, 4], [3, 0]]) == pytest.approx((5 + 3 + 4) / 3)


def test_coverage_counts_cells_of_all():
    everything = np.array([[x, y] for x in range(4) for y in range(4)], dtype=float)
    assert coverage(everything, everything, 2) == 1.0
    assert coverage([[0, 0], [1, 1]], everything, 2) == 0.25
    assert coverage([[0, 0], [3, 3], [-100, 100]], everything, 2) == 0.75


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pick_one_per_cell([1.0], [1.0], 2), r"shape \(N, D\)"),
        (lambda: pick_one_per_cell([[1.0]], [1.0, 2.0], 2), r"shape \(1,\)"),
        (lambda: pick_one_per_cell([[1.0]], [1.0], 0), "cells be at least 1"),
        (lambda: pick_one_per_cell([[math.nan]], [1.0], 2), "must be finite"),
        (lambda: mean_distance([[1.0, 2.0]]), "at least 2, got 1"),
        (lambda: coverage([[1.0]], [[1.0, 2.0]], 2), "must have 2 axes"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
