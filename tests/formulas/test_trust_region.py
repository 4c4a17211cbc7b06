"""The natural step against a dense Fisher matrix built by finite differences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import draw

from rlhf_lessons.formulas import categorical_kl, natural_gradient_step


def a_gradient(n: int, a: int, seed: int) -> torch.Tensor:
    """Rows that add up to 0, as those of every function of a softmax do."""
    g = draw(n, a, seed=seed)
    return g - g.mean(-1, keepdim=True)


def mean_kl(old, new, visits):
    return (visits * categorical_kl(old, new)).sum()


def test_by_hand():
    # π = (½, ½), g = (1, −1)/4: x = g/π = (½, −½), gᵀx = ¼, length √(2 · ½ / ¼) = 2.
    got = natural_gradient_step(
        torch.zeros(1, 2), torch.tensor([[0.25, -0.25]]), torch.ones(1), max_kl=0.5
    )
    assert got.tolist() == [[1.0, -1.0]]


def test_it_solves_against_the_measured_hessian_of_the_kl():
    # The Fisher information is the Hessian of KL(π_old ‖ π) at π_old; measured in float64.
    logits, visits = draw(2, 3, seed=1), torch.tensor([0.7, 1.9], dtype=torch.float64)
    gradient = a_gradient(2, 3, 2)
    fisher = torch.autograd.functional.hessian(
        lambda z: mean_kl(logits, z.view(2, 3), visits), logits.flatten()
    )
    x = torch.linalg.pinv(fisher, rtol=1e-10) @ gradient.flatten()
    expected = x * (2 * 0.01 / (gradient.flatten() @ x)).sqrt()
    step = (natural_gradient_step(logits, gradient, visits, 0.01) - logits).flatten()
    # A constant added to a row changes no policy: compare what is left without it.
    centred = (step.view(2, 3) - step.view(2, 3).mean(-1, keepdim=True)).flatten()
    torch.testing.assert_close(centred, expected, rtol=1e-7, atol=1e-9)
    assert float(0.5 * step @ fisher @ step) == pytest.approx(0.01, rel=1e-9)


def test_the_kl_is_the_one_asked_for_when_it_is_small():
    logits, visits = draw(3, 4, seed=3), torch.tensor([1.0, 0.2, 0.6], dtype=torch.float64)
    new = natural_gradient_step(logits, a_gradient(3, 4, 4), visits, 1e-8)
    assert float(mean_kl(logits, new, visits)) == pytest.approx(1e-8, rel=1e-3)


@pytest.mark.parametrize("other_seed", range(5))
def test_no_other_step_of_this_kl_gains_more(other_seed):
    logits, visits = draw(3, 4, seed=5), torch.tensor([1.0, 0.3, 2.0], dtype=torch.float64)
    gradient, delta = a_gradient(3, 4, 6), 1e-8
    step = natural_gradient_step(logits, gradient, visits, delta) - logits
    other = draw(3, 4, seed=10 + other_seed)
    if other_seed == 0:
        other = gradient  # the plain gradient's direction
    for _ in range(3):  # scale it to the same KL
        here = mean_kl(logits, logits + 1e-4 * other, visits) / 1e-8
        other = other * (delta / 1e-8 / here).sqrt()
    assert float((gradient * step).sum()) > float((gradient * 1e-4 * other).sum())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(2, 5), st.integers(0, 1000), st.floats(-50, 50))
def test_a_constant_in_the_logits_changes_no_step(n, a, seed, constant):
    logits, gradient = draw(n, a, seed=seed), a_gradient(n, a, seed + 1)
    visits = draw(n, seed=seed + 2).abs() + 0.1
    step = natural_gradient_step(logits, gradient, visits, 0.1) - logits
    moved = natural_gradient_step(logits + constant, gradient, visits, 0.1) - logits - constant
    torch.testing.assert_close(moved, step, rtol=1e-8, atol=1e-8)


def test_unvisited_states_and_impossible_actions_stay():
    logits = draw(2, 3, seed=7)
    logits[1, 2] = -torch.inf
    gradient = torch.zeros(2, 3, dtype=torch.float64)
    gradient[1, 0], gradient[1, 1] = 0.4, -0.4
    visits = torch.tensor([0.0, 1.0], dtype=torch.float64)
    new = natural_gradient_step(logits, gradient, visits, 0.1)
    assert torch.equal(new[0], logits[0])
    assert new[1, 2] == -torch.inf and not new.isnan().any()
    assert new[1, 0] > logits[1, 0]


def test_no_gradient_no_step_and_each_policy_has_its_own_length():
    logits, visits = draw(2, 3, 4, seed=8), torch.ones(2, 3, dtype=torch.float64)
    gradient = torch.stack([torch.zeros(3, 4, dtype=torch.float64), a_gradient(3, 4, 9)])
    new = natural_gradient_step(logits, gradient, visits, 0.1)
    assert torch.equal(new[0], logits[0])
    alone = natural_gradient_step(logits[1], gradient[1], visits[1], 0.1)
    torch.testing.assert_close(new[1], alone)
    assert torch.equal(natural_gradient_step(logits, gradient, visits, 0.0), logits)


def test_refusals_name_the_argument():
    z, g, d = draw(2, 3), a_gradient(2, 3, 1), torch.ones(2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"visits must have shape \(..., N\) = \(2,\)"):
        natural_gradient_step(z, g, torch.ones(3, dtype=torch.float64), 0.1)
    with pytest.raises(ValueError, match="gradient must have shape"):
        natural_gradient_step(z, g[:, :2], d, 0.1)
    with pytest.raises(ValueError, match="each row of gradient must add up to 0"):
        natural_gradient_step(z, g + 0.1, d, 0.1)
    with pytest.raises(ValueError, match="never visited"):
        natural_gradient_step(z, g, torch.tensor([0.0, 1.0], dtype=torch.float64), 0.1)
    with pytest.raises(ValueError, match="max_kl must be 0 or more"):
        natural_gradient_step(z, g, d, -0.1)
    with pytest.raises(TypeError, match="visits must be floating point"):
        natural_gradient_step(z, g, torch.ones(2, dtype=torch.long), 0.1)
