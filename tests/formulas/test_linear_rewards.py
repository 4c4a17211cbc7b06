from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import STEP, draw

from rlhf_lessons.formulas import fit_linear_rewards

# Choices by some of which Newton's whole steps from w = 0 go farther and farther.
FAR = [[1.2, -1.2, 1.6], [-0.8, -0.25, 0.22], [21.5, -15.0, 17.8], [-0.05, 0.31, -0.35],
       [3.1, 15.6, 1.5], [16.1, 1.3, 2.3]]  # fmt: skip


def choices(count: int, weights: list[float], seed: int) -> torch.Tensor:
    """Draw differences of features, turned so that σ(w · d) of them are the right way round."""
    d, w = draw(count, len(weights), seed=seed), torch.tensor(weights, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    right = torch.rand(count, generator=generator, dtype=torch.float64) < torch.sigmoid(d @ w)
    return torch.where(right[:, None], d, -d)


def slopes(rows: list[list[float]], w: list[float], penalty: float = 0.0) -> list[float]:
    """Give the slope of mean log(1 + exp(−w · d)) + λ‖w‖² along each weight, in plain floats."""

    def objective(at: list[float]) -> float:
        margins = [sum(a * x for a, x in zip(at, row, strict=True)) for row in rows]
        losses = [math.log1p(math.exp(-m)) for m in margins]
        return math.fsum(losses) / len(rows) + penalty * sum(a * a for a in at)

    found = []
    for k in range(len(w)):
        above, below = (w[:k] + [w[k] + s] + w[k + 1 :] for s in (STEP, -STEP))
        found.append((objective(above) - objective(below)) / (2 * STEP))
    return found


@pytest.mark.parametrize("penalty", [0.0, 0.03])
@pytest.mark.parametrize("seed", range(3))
def test_the_objective_is_flat_there(seed, penalty):
    """Of a convex function there is no other such place. Differences are good to 1e-10."""
    d = choices(200, [1.0, -0.5, 0.0], seed)
    w, _ = fit_linear_rewards(d, penalty)
    assert slopes(d.tolist(), w.tolist(), penalty) == pytest.approx([0, 0, 0], abs=1e-9)
    assert max(map(abs, slopes(d.tolist(), [0.0] * 3, penalty))) > 0.05


def test_far_from_the_start_steps_are_shortened():
    w, _ = fit_linear_rewards(torch.tensor(FAR, dtype=torch.float64))
    assert slopes(FAR, w.tolist()) == pytest.approx([0, 0, 0], abs=1e-8)
    assert w.norm() > 10


def test_one_feature_by_hand():
    """7 of 10 choices go to the one with more of it: σ(w) = 0.7, information 10 · 0.7 · 0.3."""
    d = torch.tensor([[1.0]] * 7 + [[-1.0]] * 3)
    w, information = fit_linear_rewards(d)
    assert w.tolist() == pytest.approx([math.log(7 / 3)], abs=1e-9)
    assert information.tolist() == [pytest.approx([2.1], abs=1e-9)]
    assert w.dtype == information.dtype == torch.float64


def test_information_is_the_curvature_of_the_log_likelihood():
    """Rounding leaves slopes good to 1e-10, and their differences over 2e-4, 200 times, to 1e-4."""
    d = choices(200, [1.0, -0.5], 5)
    w, information = fit_linear_rewards(d, 0.1)  # of the choices alone, whatever the penalty
    for k in range(2):
        for other in range(2):
            step = torch.zeros(2, dtype=torch.float64)
            step[k] = 1e-4
            above, below = (slopes(d.tolist(), (w + s).tolist())[other] for s in (step, -step))
            measured = (above - below) / 2e-4 * len(d)
            assert float(information[k, other]) == pytest.approx(measured, abs=1e-3)


@given(seed=st.integers(0, 99), scale=st.floats(1e-3, 1e3))
def test_a_unit_of_a_feature_changes_its_weight_alone(seed, scale):
    d = choices(60, [0.5, -0.5], seed)
    w, _ = fit_linear_rewards(d)
    units = torch.tensor([scale, 1.0], dtype=torch.float64)
    torch.testing.assert_close(fit_linear_rewards(d * units)[0] * units, w, rtol=1e-7, atol=1e-7)


def test_a_penalty_makes_weights_small_and_always_finite():
    decided = draw(20, 2, seed=1).abs()
    one = fit_linear_rewards(decided, 0.01)[0]
    more = fit_linear_rewards(decided, 0.1)[0]
    assert one.isfinite().all() and 0 < more.norm() < one.norm()
    nothing = fit_linear_rewards(torch.cat([decided, 0 * decided[:, :1]], 1), 0.1)[0]
    torch.testing.assert_close(nothing, torch.cat([more, more.new_zeros(1)]), rtol=0, atol=1e-9)


def test_no_gradient_is_kept():
    d = choices(60, [0.5, -0.5], 0).requires_grad_()
    assert not fit_linear_rewards(d)[0].requires_grad


@pytest.mark.parametrize(
    "differences",
    [
        [[1.0], [2.0]],
        [[1.0, 3.0], [-1.0, 3.0], [1.0, 3.0]],  # the second feature alone decides
        [[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]],
        [[1.0, 0.1], [-1.0, -0.1], [3.0, 0.3]],
    ],
)
def test_where_no_finite_weights_are_best_it_says_so(differences):
    with pytest.raises(ValueError, match="must not explain every choice, nor depend on each other"):
        fit_linear_rewards(torch.tensor(differences))


@pytest.mark.parametrize(
    ("differences", "penalty", "error", "message"),
    [
        (torch.zeros(3), 0.0, ValueError, r"shape \(B, F\), got \(3,\)"),
        (torch.zeros(0, 2), 0.0, ValueError, r"must hold finite numbers, got shape \(0, 2\)"),
        (torch.tensor([[1.0, float("nan")]]), 0.0, ValueError, "got NaN or infinity"),
        (torch.zeros(3, 2).long(), 0.0, TypeError, "must be floating point"),
        (torch.ones(3, 2), -0.1, ValueError, "penalty must be 0 or more, got -0.1"),
    ],
)
def test_bad_input_is_named(differences, penalty, error, message):
    with pytest.raises(error, match=message):
        fit_linear_rewards(differences, penalty)
