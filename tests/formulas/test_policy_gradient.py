from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import assert_gradient, autograd, draw, finite_difference, softmax

from rlhf_lessons.formulas import (
    clip_fraction,
    ppo_policy_loss,
    ppo_total_loss,
    ratio,
    reinforce_loss,
)

EPSILON = 0.2


def one(x: float) -> torch.Tensor:
    return torch.tensor([[x]], dtype=torch.float64)


def test_reinforce_by_hand():
    log_probs, advantages = torch.tensor([[-1.0, -2.0]]), torch.tensor([[3.0, -0.5]])
    assert reinforce_loss(log_probs, advantages).tolist() == [[3, -1]]


def test_reinforce_is_the_gradient_of_the_expected_reward():
    # Enumerate the actions of a softmax policy: E_π[−∇L] must be the gradient of E_π[r].
    logits, rewards = draw(1, 5), draw(1, 5, seed=1)
    exact = finite_difference(lambda z: (torch.softmax(z, -1) * rewards).sum(), logits)
    p = softmax(logits[0].tolist())
    for baseline in (0.0, 0.7):
        expected = torch.zeros(1, 5, dtype=torch.float64)
        for action in range(5):

            def loss(z, action=action, baseline=baseline):
                log_prob = torch.log_softmax(z, -1)[:, action : action + 1]
                return reinforce_loss(log_prob, rewards[:, action : action + 1] - baseline)

            expected -= p[action] * autograd(loss, logits)
        torch.testing.assert_close(expected, exact, rtol=1e-8, atol=1e-8)


def test_ratio_by_hand():
    log_probs = torch.log(torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64))
    old = torch.log(torch.tensor([0.25, 0.4, 0.3], dtype=torch.float64))
    torch.testing.assert_close(ratio(log_probs, old), torch.tensor([2, 0.5, 1]).double())


# The four quadrants, the middle and both edges: ratio, advantage, loss, gradient in the log-prob.
QUADRANTS = [
    (1.5, 2.0, -2.4, 0.0),  # good, already likelier: clipped at 1.2
    (1.5, -2.0, 3.0, 3.0),  # bad, became likelier: pulled back
    (0.5, 2.0, -1.0, -1.0),  # good, became unlikelier: pulled back
    (0.5, -2.0, 1.6, 0.0),  # bad, already unlikelier: clipped at 0.8
    (1.0, 2.0, -2.0, -2.0),  # nothing has moved: REINFORCE's gradient
    (1.0, -2.0, 2.0, 2.0),
    (1.1, 2.0, -2.2, -2.2),
    (0.9, -2.0, 1.8, 1.8),
    (1.5, 0.0, 0.0, 0.0),
]


@pytest.mark.parametrize(("rho", "advantage", "loss", "gradient"), QUADRANTS)
def test_ppo_in_every_quadrant(rho, advantage, loss, gradient):
    old = one(-1.3)
    log_prob = old + math.log(rho)
    assert ppo_policy_loss(log_prob, old, one(advantage), EPSILON).item() == pytest.approx(loss)
    got = autograd(lambda x: ppo_policy_loss(x, old, one(advantage), EPSILON), log_prob)
    assert got.item() == pytest.approx(gradient, abs=0 if gradient == 0 else 1e-12)
    clipped = clip_fraction(log_prob, old, one(advantage), one(1).bool(), EPSILON)
    assert clipped.item() == (gradient == 0 and advantage != 0)


@given(seed=st.integers(0, 999), epsilon=st.floats(0.01, 0.9))
def test_ppo_against_a_plain_loop(seed, epsilon):
    log_probs, old, advantages = (draw(2, 3, seed=seed + i) for i in (0, 1000, 2000))
    got = ppo_policy_loss(log_probs, old, advantages, epsilon)
    for new, before, a, loss in zip(
        *(x.flatten().tolist() for x in (log_probs, old, advantages, got)), strict=True
    ):
        rho = math.exp(new - before)
        objective = min(a * rho, a * min(max(rho, 1 - epsilon), 1 + epsilon))
        assert loss == pytest.approx(-objective, rel=1e-12, abs=1e-12)


@given(seed=st.integers(0, 999))
def test_where_nothing_has_moved_ppo_is_reinforce(seed):
    log_probs, advantages = draw(2, 3, seed=seed), draw(2, 3, seed=seed + 1)
    torch.testing.assert_close(
        autograd(lambda x: ppo_policy_loss(x, log_probs, advantages, EPSILON), log_probs),
        autograd(lambda x: reinforce_loss(x, advantages), log_probs),
    )


def test_gradients():
    log_probs, old, advantages = draw(2, 3, scale=0.3), draw(2, 3, seed=1, scale=0.3), draw(2, 3)
    assert_gradient(lambda x: reinforce_loss(x, advantages), log_probs)
    assert_gradient(lambda x: ppo_policy_loss(x, old, advantages, EPSILON), log_probs)
    assert_gradient(lambda x: ratio(x, old), log_probs)
    assert_gradient(lambda x: ratio(log_probs, x), old)


def test_what_the_losses_hold_fixed_gets_no_gradient():
    log_probs, old, advantages = (draw(1, 3, seed=i).requires_grad_() for i in range(3))
    (
        ppo_policy_loss(log_probs, old, advantages, 5.0) + reinforce_loss(log_probs, advantages)
    ).sum().backward()
    assert log_probs.grad is not None
    assert old.grad is None
    assert advantages.grad is None


def test_a_policy_compared_with_itself_still_gets_its_gradient():
    log_probs = draw(1, 3)
    gradient = autograd(lambda x: ppo_policy_loss(x, x, torch.ones_like(x), EPSILON), log_probs)
    torch.testing.assert_close(gradient, -torch.ones_like(log_probs))


def test_clip_fraction_counts_only_what_counts():
    rho = torch.tensor([[1.5, 1.5, 0.5, 0.5, 1.0, 1.5]])
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0, 1.0]])
    mask = torch.tensor([[True, True, True, True, True, False]])
    got = clip_fraction(rho.log(), torch.zeros_like(rho), advantages, mask, EPSILON)
    assert got.item() == pytest.approx(2 / 5)
    assert not clip_fraction(
        rho.log().requires_grad_(), torch.zeros_like(rho), advantages, mask, EPSILON
    ).requires_grad
    with pytest.raises(ValueError, match="no True"):
        clip_fraction(rho, rho, advantages, torch.zeros_like(mask), EPSILON)
    with pytest.raises(TypeError, match="clip_fraction: mask must be boolean"):
        clip_fraction(rho, rho, advantages, mask.long(), EPSILON)


@pytest.mark.parametrize("epsilon", [0, -0.2, math.nan])
def test_a_clip_range_that_is_not_positive_is_refused(epsilon):
    with pytest.raises(ValueError, match="ppo_policy_loss: epsilon must be above 0"):
        ppo_policy_loss(one(0), one(0), one(0), epsilon)
    with pytest.raises(ValueError, match="clip_fraction: epsilon must be above 0"):
        clip_fraction(one(0), one(0), one(0), one(1).bool(), epsilon)


def test_shapes_that_would_broadcast_are_refused():
    row, column = torch.zeros(2, 3), torch.zeros(2, 1)
    with pytest.raises(ValueError, match="reinforce_loss: advantages must have shape"):
        reinforce_loss(row, column)
    with pytest.raises(ValueError, match="ppo_policy_loss: old_log_probs must have shape"):
        ppo_policy_loss(row, column, row, EPSILON)
    with pytest.raises(ValueError, match="ppo_policy_loss: advantages must have shape"):
        ppo_policy_loss(row, row, column, EPSILON)
    with pytest.raises(ValueError, match="ratio: old_log_probs must have shape"):
        ratio(row, column)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    x = draw(2, 3).to(dtype)
    assert reinforce_loss(x, x).dtype == dtype
    assert ppo_policy_loss(x, x, x, EPSILON).dtype == dtype
    assert clip_fraction(x, x, x, x < 9, EPSILON).dtype == dtype


def test_nan_is_not_hidden():
    nan = one(math.nan)
    assert reinforce_loss(nan, one(1)).isnan()
    assert ppo_policy_loss(nan, one(0), one(1), EPSILON).isnan()
    assert ppo_policy_loss(one(0), one(0), nan, EPSILON).isnan()


def test_the_total_by_hand():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    policy = torch.tensor([[1.0, 2.0, 99.0], [3.0, 99.0, math.nan]])
    value = torch.tensor([[4.0, 0.0, 99.0], [2.0, 99.0, 99.0]])
    entropies = torch.tensor([[0.5, 0.5, 99.0], [2.0, 99.0, 99.0]])
    total = ppo_total_loss(policy, value, entropies, mask, 0.1, 0.01)
    assert float(total) == pytest.approx(2 + 0.1 * 2 - 0.01 * 1)


def test_the_total_pushes_each_term_its_own_way():
    mask = torch.tensor([[True, True, False], [True, True, True]])
    terms = [draw(2, 3, seed=seed) for seed in range(3)]
    for place, slope in enumerate((1.0, 0.3, -0.05)):

        def total(x, place=place):
            given = [x if i == place else term for i, term in enumerate(terms)]
            return ppo_total_loss(*given, mask, 0.3, 0.05)

        assert_gradient(total, terms[place])
        expected = slope * mask.double() / 5  # one mean over the batch, not a mean of row means
        torch.testing.assert_close(autograd(total, terms[place]), expected)


def test_the_total_refuses_what_would_mislead():
    row, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="entropy_coefficient must be 0 or more"):
        ppo_total_loss(row, row, row, mask, 0.1, -0.1)
    with pytest.raises(ValueError, match="value_coefficient must be 0 or more"):
        ppo_total_loss(row, row, row, mask, math.nan, 0.1)
    with pytest.raises(ValueError, match="entropies must have shape"):
        ppo_total_loss(row, row, row[:, :1], mask, 0.1, 0.1)
    with pytest.raises(TypeError, match="mask must be boolean"):
        ppo_total_loss(row, row, row, mask.float(), 0.1, 0.1)
