from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import assert_gradient, autograd, draw

from rlhf_lessons.formulas import (
    canonical_reward,
    categorical_kl,
    exact_objective,
    implied_reward,
    log_partition,
    optimal_policy,
)

BETAS = st.floats(0.05, 20)


def world(seed: int, prompts: int = 3, responses: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """A reference and rewards over an enumerated space."""
    reference = torch.log_softmax(draw(prompts, responses, seed=seed), -1)
    return reference, draw(prompts, responses, seed=seed + 1000)


@given(seed=st.integers(0, 999), beta=BETAS)
def test_partition_and_optimum_against_a_plain_loop(seed, beta):
    reference, rewards = world(seed)
    log_z, best = log_partition(reference, rewards, beta), optimal_policy(reference, rewards, beta)
    for x in range(3):
        weights = [
            math.exp(p) * math.exp(r / beta)
            for p, r in zip(reference[x].tolist(), rewards[x].tolist(), strict=True)
        ]
        assert log_z[x].item() == pytest.approx(math.log(sum(weights)), rel=1e-9, abs=1e-12)
        assert best[x].exp().tolist() == pytest.approx(
            [w / sum(weights) for w in weights], rel=1e-9
        )


@given(seed=st.integers(0, 999), beta=BETAS)
def test_no_policy_beats_the_optimum(seed, beta):
    reference, rewards = world(seed)
    best = optimal_policy(reference, rewards, beta)
    highest = exact_objective(best, reference, rewards, beta)
    torch.testing.assert_close(highest, beta * log_partition(reference, rewards, beta))
    for other_seed in range(5):
        noise = draw(3, 6, seed=other_seed, scale=0.3)
        other = torch.log_softmax(best + noise, -1)
        # What another policy lacks is β times its KL to the optimum.
        torch.testing.assert_close(
            highest - exact_objective(other, reference, rewards, beta),
            beta * categorical_kl(other, best),
            rtol=1e-8,
            atol=1e-9,
        )


def test_the_objective_is_flat_at_the_optimum():
    reference, rewards = world(0)
    best = optimal_policy(reference, rewards, 0.5)
    slope = autograd(
        lambda z: exact_objective(torch.log_softmax(z, -1), reference, rewards, 0.5), best
    )
    assert slope.abs().max() < 1e-12


@given(seed=st.integers(0, 999), beta=BETAS)
def test_reward_and_policy_are_one_to_one_up_to_a_constant_per_prompt(seed, beta):
    reference, rewards = world(seed)
    best = optimal_policy(reference, rewards, beta)
    log_z = log_partition(reference, rewards, beta)
    close = {"rtol": 1e-9, "atol": 1e-9}
    implied = implied_reward(best, reference, beta)
    torch.testing.assert_close(implied + beta * log_z[:, None], rewards, **close)
    torch.testing.assert_close(optimal_policy(reference, implied, beta), best, **close)
    # A constant per prompt changes no optimum, and moves β·log Z by itself.
    shift = draw(3, seed=seed + 5)
    torch.testing.assert_close(
        optimal_policy(reference, rewards + shift[:, None], beta), best, **close
    )
    torch.testing.assert_close(
        beta * log_partition(reference, rewards + shift[:, None], beta),
        beta * log_z + shift,
        **close,
    )
    # The implied reward of a policy over all responses has partition 1.
    torch.testing.assert_close(
        log_partition(reference, implied, beta), torch.zeros(3, dtype=torch.float64), **close
    )


def test_the_limits_of_beta():
    reference, rewards = world(2)
    torch.testing.assert_close(
        optimal_policy(reference, rewards, 1e9), reference, rtol=0, atol=1e-8
    )
    greedy = optimal_policy(reference, rewards, 1e-4)
    assert greedy.argmax(-1).equal(rewards.argmax(-1))
    assert greedy.exp().max(-1).values.tolist() == pytest.approx([1, 1, 1])
    assert log_partition(reference, rewards, 1e-4).isfinite().all()


def test_objective_by_hand():
    policy = torch.log(torch.tensor([0.5, 0.5], dtype=torch.float64))
    reference = torch.log(torch.tensor([0.25, 0.75], dtype=torch.float64))
    rewards = torch.tensor([1.0, 3.0], dtype=torch.float64)
    kl = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert exact_objective(policy, reference, rewards, 2.0).item() == pytest.approx(2 - 2 * kl)
    assert exact_objective(policy, reference, rewards, 0.0).item() == pytest.approx(2)


def test_impossible_responses():
    inf = math.inf
    reference = torch.tensor([math.log(0.5), math.log(0.5), -inf], dtype=torch.float64)
    rewards = torch.tensor([0.0, 1.0, 100.0], dtype=torch.float64)
    best = optimal_policy(reference, rewards, 1.0)
    assert best[2] == -inf
    torch.testing.assert_close(best[:2], optimal_policy(reference[:2], rewards[:2], 1.0))
    assert exact_objective(best, reference, rewards, 1.0).item() == pytest.approx(
        math.log(0.5 + 0.5 * math.e)
    )
    gradient = autograd(lambda x: exact_objective(x, reference, rewards, 1.0), best)
    assert gradient.isfinite().all()
    forbidden = torch.tensor([0.0, 1.0, -inf], dtype=torch.float64)
    assert exact_objective(best, reference, forbidden, 1.0).isfinite()
    # A policy that leaves the support pays an infinite price, unless the price is 0.
    uniform = torch.full((3,), -math.log(3), dtype=torch.float64)
    assert exact_objective(uniform, reference, rewards, 1.0).item() == -inf
    assert exact_objective(uniform, reference, rewards, 0.0).item() == pytest.approx(101 / 3)
    assert implied_reward(best, reference, 1.0)[2].isnan()


def test_gradients():
    reference, rewards = world(4)
    policy = torch.log_softmax(draw(3, 6, seed=9), -1)
    weights = draw(3, 6, seed=8)
    assert_gradient(lambda x: exact_objective(x, reference, rewards, 0.5), policy)
    assert_gradient(lambda x: exact_objective(policy, reference, x, 0.5), rewards)
    assert_gradient(lambda x: log_partition(reference, x, 0.5), rewards)
    assert_gradient(lambda x: weights * optimal_policy(reference, x, 0.5), rewards)
    assert_gradient(lambda x: weights * implied_reward(x, reference, 0.5), policy)


@pytest.mark.parametrize("shape", [(6,), (2, 3, 6)])
def test_any_dimensions_may_come_before_the_responses(shape):
    reference, rewards = torch.log_softmax(draw(*shape), -1), draw(*shape, seed=1)
    assert log_partition(reference, rewards, 1.0).shape == shape[:-1]
    assert optimal_policy(reference, rewards, 1.0).shape == shape
    assert implied_reward(reference, reference, 1.0).shape == shape
    assert exact_objective(reference, reference, rewards, 1.0).shape == shape[:-1]


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_a_beta_that_is_not_positive_is_refused(beta):
    x = torch.zeros(2, 3)
    for function in (log_partition, optimal_policy, implied_reward):
        with pytest.raises(ValueError, match=f"{function.__name__}: beta must be above 0"):
            function(x, x, beta)
    if beta != 0:
        with pytest.raises(ValueError, match="exact_objective: beta must be 0 or more"):
            exact_objective(x, x, x, beta)


def test_shapes_that_would_broadcast_are_refused():
    x, row = torch.zeros(2, 3), torch.zeros(3)
    for function, argument in [
        (log_partition, "rewards"),
        (optimal_policy, "rewards"),
        (implied_reward, "reference_log_probs"),
    ]:
        with pytest.raises(ValueError, match=f"{function.__name__}: {argument} must have shape"):
            function(x, row, 1.0)
    with pytest.raises(ValueError, match="exact_objective: rewards must have shape"):
        exact_objective(x, x, row, 1.0)


def test_dtype_is_kept_and_nan_is_not_hidden():
    for dtype in (torch.float32, torch.float64):
        reference, rewards = (x.to(dtype) for x in world(5))
        assert log_partition(reference, rewards, 0.5).dtype == dtype
        assert optimal_policy(reference, rewards, 0.5).dtype == dtype
        assert implied_reward(reference, reference, 0.5).dtype == dtype
        assert exact_objective(reference, reference, rewards, 0.5).dtype == dtype
    rewards[:, 0] = math.nan
    assert log_partition(reference, rewards, 0.5).isnan().all()
    assert optimal_policy(reference, rewards, 0.5).isnan().all()
    assert exact_objective(reference, reference, rewards, 0.5).isnan().all()


@given(seed=st.integers(0, 999), beta=BETAS)
def test_the_canonical_reward_is_one_for_each_class(seed, beta):
    reference, rewards = world(seed)
    canonical = canonical_reward(reference, rewards, beta)
    best = optimal_policy(reference, rewards, beta)
    # log Z = 0, the same optimum, the same differences, and the optimum's implicit reward.
    assert float(log_partition(reference, canonical, beta).abs().max()) < 1e-9
    torch.testing.assert_close(optimal_policy(reference, canonical, beta), best)
    torch.testing.assert_close(canonical.diff(dim=-1), rewards.diff(dim=-1))
    torch.testing.assert_close(canonical, implied_reward(best, reference, beta))
    shifted = rewards + 100 * draw(3, 1, seed=seed + 1)
    torch.testing.assert_close(
        canonical_reward(reference, shifted, beta), canonical, atol=1e-9, rtol=1e-7
    )
