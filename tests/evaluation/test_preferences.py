"""Measures of preferences against hand arithmetic and enumeration."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_lessons.evaluation import (
    agreement,
    calibration,
    order_agreement,
    preference_accuracy,
    preference_calibration,
    preference_features,
    win_rate,
)

numbers = st.lists(st.floats(-5, 5), min_size=2, max_size=12)


def test_accuracy_counts_ties_half():
    assert preference_accuracy([2.0, 1.0, 0.0, 3.0], [1.0, 1.0, 1.0, 0.0]) == 2.5 / 4
    assert preference_accuracy([7.0] * 5, [7.0] * 5) == 0.5


@given(numbers, st.floats(0.1, 3), st.integers(-9, 9))
def test_accuracy_sees_only_the_order(values, scale, shift):
    chosen, rejected = np.array(values), np.array(values[::-1])
    swapped = preference_accuracy(rejected, chosen)
    assert preference_accuracy(chosen, rejected) == pytest.approx(1 - swapped)
    doubled = preference_accuracy(np.sign(chosen - rejected), np.zeros(len(values)))
    assert preference_accuracy(chosen, rejected) == doubled


def test_win_rate_by_hand():
    found = win_rate([1.0, 2.0, 2.0, 0.0], [0.0, 2.0, 1.0, 3.0])
    assert (found.value, found.count) == (0.625, 4)
    # Wilson's ends are where the score test just accepts.
    for end in (found.low, found.high):
        assert abs(0.625 - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / 4))
    assert found.low < 0.625 < found.high
    assert win_rate([1.0] * 50, [0.0] * 50).low > 0.9
    with pytest.raises(ValueError, match="win_rate: other_rewards must have shape"):
        win_rate([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="win_rate: rewards must be finite"):
        win_rate([math.nan], [1.0])


def test_calibration_by_hand():
    got = calibration([0.1, 0.15, 0.5, 0.95, 1.0], [0, 1, 1, 1, 0], bins=10)
    assert got.counts.tolist() == [0, 2, 0, 0, 0, 1, 0, 0, 0, 2]
    assert got.predicted[[1, 5, 9]] == pytest.approx([0.125, 0.5, 0.975])
    assert got.observed[[1, 5, 9]] == pytest.approx([0.5, 1.0, 0.5])
    assert np.isnan(got.predicted[0]) and np.isnan(got.observed[0])
    expected = (2 * abs(0.5 - 0.125) + 1 * abs(1 - 0.5) + 2 * abs(0.5 - 0.975)) / 5
    assert got.error == pytest.approx(expected)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1), st.integers(1, 20))
def test_every_probability_is_in_the_bin_that_its_edges_say(pairs, bins):
    p, happened = zip(*pairs, strict=True)
    got = calibration(p, happened, bins)
    for k in range(bins):
        last = k == bins - 1
        inside = [x for x in p if got.edges[k] <= x and (x < got.edges[k + 1] or last)]
        assert got.counts[k] == len(inside)
        if inside:
            assert got.predicted[k] == pytest.approx(sum(inside) / len(inside))
    assert got.counts.sum() == len(p)
    assert 0 <= got.error <= 1


def test_true_probabilities_are_calibrated():
    random = np.random.default_rng(0)
    p = random.random(20_000)
    assert calibration(p, random.random(20_000) < p).error < 0.015
    assert calibration(p, random.random(20_000) < p**2).error > 0.1


def test_preference_calibration_asks_both_ways():
    got = preference_calibration([2.0, 0.0], [0.0, 0.0], bins=2)
    p = 1 / (1 + math.exp(-2))
    assert got.counts.tolist() == [1, 3]
    assert got.predicted == pytest.approx([1 - p, (p + 0.5 + 0.5) / 3])
    assert got.observed == pytest.approx([0.0, 2 / 3])


def test_agreement_is_a_share():
    assert agreement([1, 2, 3, 4], [1, 2, 4, 3]) == 0.5
    assert agreement([True, False], [True, False]) == 1.0


@given(st.lists(st.integers(0, 4), min_size=2, max_size=9), st.randoms())
def test_order_agreement_by_enumeration(values, random):
    other = values[:]
    random.shuffle(other)
    expected = []
    for i, j in combinations(range(len(values)), 2):
        sign = (values[i] - values[j]) * (other[i] - other[j])
        tie = values[i] == values[j] or other[i] == other[j]
        expected.append(0.5 if tie else float(sign > 0))
    assert order_agreement(values, other) == pytest.approx(np.mean(expected))


def test_a_monotone_scale_changes_no_order():
    opinion = [0.3, -2.0, 1.7, 0.9]
    assert order_agreement(opinion, np.exp(opinion)) == 1.0
    assert order_agreement(opinion, [-x for x in opinion]) == 0.0
    assert order_agreement(opinion, [3, 3, 3, 3]) == 0.5


def test_features_find_the_weights_that_made_the_labels():
    random = np.random.default_rng(1)
    first, second = random.normal(size=(2, 20_000, 3)) * [1.0, 5.0, 0.2]
    true = np.array([1.0, 0.0, -5.0])
    yes = random.random(20_000) < 1 / (1 + np.exp(-(first - second) @ true))
    chosen = np.where(yes[:, None], first, second)
    got = preference_features(chosen, first + second - chosen)
    scale = np.sqrt(((first - second) ** 2).mean(0))
    assert (np.abs(got.weights - true * scale) < 4 * got.errors).all()
    assert (got.errors < 0.05).all()
    assert got.probabilities() == pytest.approx(1 / (1 + np.exp(-got.weights)))


def test_errors_are_the_spread_of_the_weights():
    random = np.random.default_rng(2)
    weights, errors = [], []
    for _ in range(200):
        x = random.normal(size=(300, 1))
        sign = np.where(random.random((300, 1)) < 1 / (1 + np.exp(-0.7 * x)), 1, -1)
        got = preference_features(sign * x, np.zeros_like(x))
        weights.append(got.weights[0])
        errors.append(got.errors[0])
    assert np.std(weights) == pytest.approx(np.mean(errors), rel=0.2)


NAN = float("nan")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: preference_accuracy([], []), "must not be empty"),
        (lambda: preference_accuracy([1.0], [1.0, 2.0]), r"shape \(1,\) like chosen_scores"),
        (lambda: preference_accuracy([1.0, NAN], [1.0, 2.0]), r"must be finite, got nan at \[1\]"),
        (lambda: calibration([1.2], [1]), r"must lie in \[0, 1\], got 1.2"),
        (lambda: calibration([0.2], [0.5]), "True/False or 1/0"),
        (lambda: calibration([0.2], [1], bins=0), "bins must be at least 1"),
        (lambda: agreement([], []), "not be empty"),
        (lambda: order_agreement([1], [1]), "at least 2 ratings"),
        (lambda: preference_features([1.0], [2.0]), r"shape \(B, F\)"),
        (lambda: preference_features([[1.0, 2.0]], [[0.0, 2.0]]), "feature 1 is the same"),
        (lambda: preference_features([[1.0], [2.0]], [[0.0], [0.0]]), "must not decide every"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
