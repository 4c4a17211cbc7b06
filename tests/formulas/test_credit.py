from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import assert_gradient, autograd, draw, naive_gae, naive_returns, right_padded_mask

from rlhf_lessons.formulas import discounted_returns, gae, kl_k1, kl_shaped_rewards

LENGTHS = st.lists(st.integers(0, 6), min_size=1, max_size=4)
FRACTION = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))


def test_returns_by_hand():
    rewards = torch.tensor([[1.0, 2.0, 4.0]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert discounted_returns(rewards, mask, 0.5).tolist() == [[3, 4, 4]]
    assert discounted_returns(rewards, mask, 1.0).tolist() == [[7, 6, 4]]
    assert discounted_returns(rewards, mask, 0.0).tolist() == [[1, 2, 4]]


def test_gae_by_hand():
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.25, 0.75]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    # δ = (0.25 − 0.5, 0.75 − 0.25, 1 − 0.75) at γ = 1.
    assert gae(rewards, values, mask, 1.0, 0.0).tolist() == [[-0.25, 0.5, 0.25]]
    assert gae(rewards, values, mask, 1.0, 0.5).tolist() == [[0.0625, 0.625, 0.25]]
    assert gae(rewards, values, mask, 0.5, 1.0).tolist() == [[-0.25, 0.25, 0.25]]


@given(lengths=LENGTHS, gamma=FRACTION, lam=FRACTION, seed=st.integers(0, 999))
def test_against_the_definitions_whatever_the_padding_holds(lengths, gamma, lam, seed):
    mask = right_padded_mask(lengths, 6)
    rewards, values = draw(*mask.shape, seed=seed), draw(*mask.shape, seed=seed + 1000)
    for garbage in (math.nan, math.inf, -1e300):
        dirty_rewards = rewards.masked_fill(~mask, garbage)
        dirty_values = values.masked_fill(~mask, garbage)
        returns = discounted_returns(dirty_rewards, mask, gamma)
        advantages = gae(dirty_rewards, dirty_values, mask, gamma, lam)
        for b, n in enumerate(lengths):
            r, v, rest = rewards[b, :n].tolist(), values[b, :n].tolist(), [0.0] * (6 - n)
            assert returns[b].tolist() == pytest.approx(naive_returns(r, gamma) + rest, abs=1e-10)
            assert advantages[b].tolist() == pytest.approx(
                naive_gae(r, v, gamma, lam) + rest, abs=1e-10
            )


@given(lengths=LENGTHS, gamma=FRACTION, seed=st.integers(0, 999))
def test_gae_at_its_two_ends(lengths, gamma, seed):
    mask = right_padded_mask(lengths, 6)
    rewards, values = draw(*mask.shape, seed=seed), draw(*mask.shape, seed=seed + 1000)
    # λ = 1: return minus value.
    torch.testing.assert_close(
        gae(rewards, values, mask, gamma, 1.0),
        (discounted_returns(rewards, mask, gamma) - values).masked_fill(~mask, 0),
    )
    # λ = 0: one step ahead.
    following = torch.cat([(values * mask)[:, 1:], torch.zeros(len(lengths), 1)], dim=1)
    torch.testing.assert_close(
        gae(rewards, values, mask, gamma, 0.0),
        (rewards + gamma * following - values).masked_fill(~mask, 0),
    )


def test_exact_values_leave_no_advantage():
    rewards, mask = draw(2, 5), right_padded_mask([5, 3], 5)
    values = discounted_returns(rewards, mask, 0.9)
    advantages = gae(rewards, values, mask, 0.9, 0.5)
    torch.testing.assert_close(advantages, torch.zeros_like(advantages))


def test_positions_that_do_not_count_are_skipped_wherever_they_are():
    rewards, values = draw(1, 3, seed=1), draw(1, 3, seed=2)
    mask = torch.ones(1, 3, dtype=torch.bool)
    gaps = torch.tensor([[False, True, False, True, True, False]])
    wide_rewards, wide_values = (torch.full((1, 6), math.nan).double() for _ in range(2))
    wide_rewards[gaps], wide_values[gaps] = rewards[0], values[0]
    for wide, narrow in [
        (
            gae(wide_rewards, wide_values, gaps, 0.9, 0.8),
            gae(rewards, values, mask, 0.9, 0.8),
        ),
        (
            discounted_returns(wide_rewards, gaps, 0.9),
            discounted_returns(rewards, mask, 0.9),
        ),
    ]:
        torch.testing.assert_close(wide[gaps], narrow[0])
        assert (wide[~gaps] == 0).all()


def test_gradients_and_none_from_the_padding():
    mask = right_padded_mask([4, 2], 4)
    rewards, values = draw(2, 4, seed=1), draw(2, 4, seed=2)
    weights = draw(2, 4, seed=3)
    cases = [
        (lambda x: weights * discounted_returns(x, mask, 0.9), rewards),
        (lambda x: weights * gae(x, values, mask, 0.9, 0.8), rewards),
        (lambda x: weights * gae(rewards, x, mask, 0.9, 0.8), values),
        (lambda x: weights * kl_shaped_rewards(x, rewards, mask, 0.3), draw(2)),
        (lambda x: weights * kl_shaped_rewards(draw(2), x, mask, 0.3), rewards),
    ]
    for function, x in cases:
        assert_gradient(function, x)
        if x.dim() == 2:
            gradient = autograd(function, x.masked_fill(~mask, math.nan))
            assert (gradient[~mask] == 0).all()
            assert gradient.isfinite().all()


def test_shaped_rewards_by_hand():
    scores = torch.tensor([10.0, 20.0, 30.0])
    kl = torch.tensor([[1.0, 2.0, 3.0], [1.0, math.nan, math.inf], [math.nan] * 3])
    mask = right_padded_mask([3, 1, 0], 3)
    got = kl_shaped_rewards(scores, kl, mask, beta=0.5)
    assert got.tolist() == [[-0.5, -1.0, 8.5], [19.5, 0, 0], [0, 0, 0]]


@given(lengths=LENGTHS, beta=st.floats(0, 3), seed=st.integers(0, 999))
def test_shaped_rewards_sum_to_score_minus_the_price(lengths, beta, seed):
    mask = right_padded_mask(lengths, 6)
    scores, log_ratio = draw(len(lengths), seed=seed), draw(*mask.shape, seed=seed + 1)
    total = kl_shaped_rewards(scores, kl_k1(log_ratio), mask, beta).sum(1)
    for b, n in enumerate(lengths):
        expected = scores[b].item() - beta * sum(log_ratio[b, :n].tolist()) if n else 0
        assert total[b].item() == pytest.approx(expected, abs=1e-10)


def test_the_score_lands_on_the_last_counted_token():
    mask = torch.tensor([[False, True, True, False], [True, False, True, False]])
    got = kl_shaped_rewards(torch.tensor([1.0, 2.0]), torch.zeros(2, 4), mask, 0.1)
    assert got.tolist() == [[0, 0, 1, 0], [0, 0, 2, 0]]


def test_without_a_kl_price_only_the_score_is_left():
    got = kl_shaped_rewards(torch.ones(1), torch.ones(1, 2), torch.ones(1, 2).bool(), 0.0)
    assert got.tolist() == [[0, 1]]


def test_no_positions_at_all():
    empty, mask = torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool)
    assert discounted_returns(empty, mask, 1.0).shape == (2, 0)
    assert gae(empty, empty, mask, 1.0, 1.0).shape == (2, 0)
    assert kl_shaped_rewards(torch.zeros(2), empty, mask, 1.0).shape == (2, 0)


def test_inputs_are_left_as_they_were():
    rewards, values, mask = draw(2, 3), draw(2, 3, seed=1), right_padded_mask([3, 1], 3)
    before = rewards.clone(), values.clone(), mask.clone()
    gae(rewards, values, mask, 0.9, 0.9)
    discounted_returns(rewards, mask, 0.9)
    kl_shaped_rewards(rewards[:, 0], values, mask, 0.9)
    for now, then in zip((rewards, values, mask), before, strict=True):
        assert now.equal(then)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    x, mask = draw(2, 3).to(dtype), right_padded_mask([3, 1], 3)
    assert discounted_returns(x, mask, 0.9).dtype == dtype
    assert gae(x, x, mask, 0.9, 0.9).dtype == dtype
    assert kl_shaped_rewards(x[:, 0], x, mask, 0.9).dtype == dtype


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_discounts_outside_the_unit_interval_are_refused(bad):
    x, mask = torch.zeros(1, 2), torch.ones(1, 2).bool()
    with pytest.raises(ValueError, match="discounted_returns: gamma must lie in"):
        discounted_returns(x, mask, bad)
    with pytest.raises(ValueError, match="gae: gamma must lie in"):
        gae(x, x, mask, bad, 1.0)
    with pytest.raises(ValueError, match="gae: lam must lie in"):
        gae(x, x, mask, 1.0, bad)


def test_wrong_inputs_are_refused():
    x, mask = torch.zeros(4, 7), torch.ones(4, 7).bool()
    with pytest.raises(ValueError, match=r"gae: values must have shape \(B, T\) = \(4, 7\)"):
        gae(x, torch.zeros(4, 8), mask, 1.0, 1.0)
    with pytest.raises(TypeError, match="gae: mask must be boolean"):
        gae(x, x, mask.float(), 1.0, 1.0)
    with pytest.raises(ValueError, match=r"discounted_returns: mask must have shape \(4, 7\)"):
        discounted_returns(x, mask[:1], 1.0)
    with pytest.raises(ValueError, match=r"scores must have shape \(B,\), got \(4, 1\)"):
        kl_shaped_rewards(torch.zeros(4, 1), x, mask, 0.1)
    with pytest.raises(ValueError, match=r"scores must have shape \(B,\) = \(4,\) .* got \(1,\)"):
        kl_shaped_rewards(torch.zeros(1), x, mask, 0.1)
    with pytest.raises(ValueError, match="kl_shaped_rewards: beta must be 0 or more"):
        kl_shaped_rewards(torch.zeros(4), x, mask, -0.1)
