from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rlhf_lessons.training import PeopleJudgeFit, fit_people_judge


class Head:
    """What ``fit_people_judge`` needs of a judge."""

    def __init__(self, width):
        self.head = torch.nn.Linear(width, 1, dtype=torch.float64)


def rated(count, width, seed=0, noise=1.0):
    random = np.random.default_rng(seed)
    x = random.normal(3, 5, (count, width)) * random.uniform(0.1, 300, width)
    y = ((x - x.mean(0)) / x.std(0)) @ random.normal(0, 1, width) + random.normal(1, noise, count)
    return x, y


def ridge(x, y, strength):
    """By solving the normal equations with an offset that is not shrunk."""
    augmented = np.hstack([x, np.ones((len(x), 1))])
    penalty = strength * np.eye(x.shape[1] + 1)
    penalty[-1, -1] = 0
    solved = np.linalg.solve(augmented.T @ augmented + penalty, augmented.T @ y)
    return solved[:-1], solved[-1]


@pytest.mark.parametrize("shape", [(40, 6), (12, 20)])
def test_the_fit_and_its_errors_are_those_of_brute_force(shape):
    x, y = rated(*shape)
    judge = Head(shape[1])
    fit = fit_people_judge(judge, torch.tensor(x), y, ridges=[7.0])
    scaled = (x - x.mean(0)) / x.std(0, ddof=1)
    w, b = ridge(scaled, y, 7.0)
    with torch.no_grad():
        scores = judge.head(torch.tensor(x)).squeeze(-1).numpy()
    np.testing.assert_allclose(scores, scaled @ w + b, rtol=0, atol=1e-4)  # stored as float32
    left_out = []
    for i in range(len(x)):  # a fit without each text, in the same units
        others = np.arange(len(x)) != i
        w, b = ridge(scaled[others], y[others], 7.0)
        left_out.append(scaled[i] @ w + b)
    assert fit.ridge == 7.0
    assert fit.deviation == pytest.approx(np.sqrt(np.mean((y - left_out) ** 2)), rel=1e-6)
    assert fit.correlation == pytest.approx(np.corrcoef(y, left_out)[0, 1], abs=1e-6)
    assert (judge.correlation, judge.deviation) == (fit.correlation, fit.deviation)


def test_the_strength_is_the_one_with_the_least_error_on_texts_left_out():
    for noise in (0.01, 30.0):  # little noise wants little shrinking, much noise much
        x, y = rated(60, 30, seed=1, noise=noise)
        fits = [fit_people_judge(Head(30), torch.tensor(x), y, [r]) for r in (0.01, 10.0, 1e4)]
        chosen = fit_people_judge(Head(30), torch.tensor(x), y, [0.01, 10.0, 1e4])
        assert chosen == min(fits, key=lambda fit: fit.deviation)
    assert chosen.ridge > 0.01


def test_a_number_that_never_changes_is_no_trouble():
    x, y = rated(20, 3)
    x[:, 1] = 5.0
    fit = fit_people_judge(Head(3), torch.tensor(x), y, [1.0])
    assert math.isfinite(fit.correlation) and math.isfinite(fit.deviation)


def test_the_likelihood_by_hand():
    fit = PeopleJudgeFit(ridge=1.0, correlation=0.9, deviation=2.0)
    ratings, scores = torch.tensor([1.0, -3.0]), torch.tensor([2.0, -1.0])
    normal = torch.distributions.Normal(scores.double(), 2.0)
    expected = -float(normal.log_prob(ratings.double()).mean())
    assert fit.nll(ratings, scores) == pytest.approx(expected, rel=1e-9)


def test_bad_input_is_named():
    x, y = rated(5, 2)
    with pytest.raises(ValueError, match="as many as texts, at least 3, got 4 for 5"):
        fit_people_judge(Head(2), torch.tensor(x), y[:4])
    with pytest.raises(ValueError, match="at least 3, got 2"):
        fit_people_judge(Head(2), torch.tensor(x[:2]), y[:2])
    for ridges in ([], [0.0]):
        with pytest.raises(ValueError, match="ridges must be above 0"):
            fit_people_judge(Head(2), torch.tensor(x), y, ridges)
