from __future__ import annotations

import itertools
import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import all_sequences, assert_gradient, autograd, draw, finite_difference

from rlhf_lessons.formulas import (
    dr_grpo_advantages,
    grpo_advantages,
    mean_of_responses,
    mean_over_length,
    pass_at_k,
    reinforce_loss,
    rloo_advantages,
)

ALL = [rloo_advantages, dr_grpo_advantages, grpo_advantages]


def test_each_by_hand():
    scores = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]], dtype=torch.float64)
    # Means 3 and 1; the others' means 4, 3.5, 1.5 and 1.5, 1.5, 0; deviations √7 and √3.
    torch.testing.assert_close(
        rloo_advantages(scores), torch.tensor([[-3, -1.5, 4.5], [-1.5, -1.5, 3]]).double()
    )
    torch.testing.assert_close(
        dr_grpo_advantages(scores), torch.tensor([[-2, -1, 3], [-1, -1, 2]]).double()
    )
    deviations = torch.tensor([[math.sqrt(7)], [math.sqrt(3)]], dtype=torch.float64)
    for epsilon in (1e-4, 0.5):
        torch.testing.assert_close(
            grpo_advantages(scores, epsilon), dr_grpo_advantages(scores) / (deviations + epsilon)
        )
    torch.testing.assert_close(grpo_advantages(scores), grpo_advantages(scores, 1e-4))


@given(seed=st.integers(0, 999), size=st.integers(2, 7))
def test_against_plain_loops(seed, size):
    scores = draw(3, size, seed=seed)
    got = [advantages(scores).tolist() for advantages in ALL]
    for prompt, group in enumerate(scores.tolist()):
        mean, deviation = statistics.mean(group), statistics.stdev(group)
        for i, r in enumerate(group):
            others = group[:i] + group[i + 1 :]
            assert got[0][prompt][i] == pytest.approx(r - statistics.mean(others), abs=1e-12)
            assert got[1][prompt][i] == pytest.approx(r - mean, abs=1e-12)
            assert got[2][prompt][i] == pytest.approx((r - mean) / (deviation + 1e-4), abs=1e-12)


@given(seed=st.integers(0, 999), size=st.integers(2, 7), scale=st.floats(0.1, 9))
def test_shifts_change_nothing_and_scales_what_they_should(seed, size, scale):
    scores, shift = draw(3, size, seed=seed), 10 * draw(3, 1, seed=seed + 1)
    close = {"rtol": 1e-9, "atol": 1e-9}
    for advantages in ALL:
        torch.testing.assert_close(advantages(scores + shift), advantages(scores), **close)
        zeros = torch.zeros(3, dtype=torch.float64)
        torch.testing.assert_close(advantages(scores).sum(1), zeros, **close)
    for advantages in (rloo_advantages, dr_grpo_advantages):
        torch.testing.assert_close(advantages(scale * scores), scale * advantages(scores), **close)
    torch.testing.assert_close(
        grpo_advantages(scale * scores, scale * 1e-3), grpo_advantages(scores, 1e-3), **close
    )
    torch.testing.assert_close(
        rloo_advantages(scores), size / (size - 1) * dr_grpo_advantages(scores), **close
    )


@pytest.mark.parametrize("advantages", ALL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [2, 3, 7])
def test_equal_scores_give_exactly_0(advantages, dtype, size):
    # The mean of 0.1, three times, is not 0.1 in floats. Without care, GRPO blows that up.
    for score in (0.1, 1 / 3, -1e6 / 7, 0.0):
        got = advantages(torch.full((2, size), score, dtype=dtype))
        assert got.dtype == dtype
        assert (got == 0).all()


@pytest.mark.parametrize("advantages", ALL)
def test_gradients(advantages):
    weights = draw(2, 4, seed=5)
    assert_gradient(lambda x: advantages(x) * weights, draw(2, 4))


# --- what each does to the policy gradient, by enumeration ----------------------------------------

TOKENS, LENGTH = 3, 2
RESPONSES = all_sequences(TOKENS, LENGTH)  # (Y, 2)
REWARDS = draw(len(RESPONSES), seed=4, scale=1.5).exp()  # few are far better than the rest
POLICY = torch.cat([draw(1, TOKENS), draw(TOKENS, TOKENS, seed=1)])  # the second's row by the first


def log_probs_of_all(logits):
    """(Y, 2) log-probability of each token of each response."""
    log_p = logits.log_softmax(-1)
    first, second = RESPONSES.T
    return torch.stack([log_p[0, first], log_p[1 + first, second]], 1)


def expected_reward(logits, rewards=REWARDS):
    return log_probs_of_all(logits).sum(1).exp() @ rewards


def expected_estimate(advantages, size, rewards=REWARDS):
    """The mean over all groups of what one group makes of the policy gradient."""
    groups = all_sequences(len(RESPONSES), size)  # (Y^G, G)
    probabilities = log_probs_of_all(POLICY).sum(1).exp()[groups].prod(1)
    assert probabilities.sum().item() == pytest.approx(1)
    values = advantages(rewards[groups])  # (Y^G, G)

    def mean_loss(logits):
        losses = reinforce_loss(log_probs_of_all(logits).sum(1)[groups], values)
        return probabilities @ losses.mean(1)

    return -autograd(mean_loss, POLICY)


def cosine(x, y):
    return (x * y).sum().item() / (x.norm() * y.norm()).item()


@pytest.mark.parametrize("size", [2, 3, 4])
def test_leave_one_out_is_unbiased_and_the_groups_mean_shrinks(size):
    exact = finite_difference(expected_reward, POLICY)
    assert exact.norm() > 0.1
    close = {"rtol": 1e-7, "atol": 1e-8}
    torch.testing.assert_close(expected_estimate(rloo_advantages, size), exact, **close)
    torch.testing.assert_close(
        expected_estimate(dr_grpo_advantages, size), (size - 1) / size * exact, **close
    )


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_deviation_turns_the_gradient(size):
    exact = finite_difference(expected_reward, POLICY)
    assert cosine(expected_estimate(dr_grpo_advantages, size), exact) == pytest.approx(1, abs=1e-7)
    assert cosine(expected_estimate(grpo_advantages, size), exact) < 0.99


def test_two_responses_over_their_deviation_are_a_contest():
    """A = ±1/√2 whatever the scores: in the mean GRPO climbs the chance to beat itself."""
    p = log_probs_of_all(POLICY).sum(1).exp()
    wins = (REWARDS.unsqueeze(1) - REWARDS.unsqueeze(0)).sign() @ p
    expected = finite_difference(lambda z: expected_reward(z, wins), POLICY) / math.sqrt(2)
    got = expected_estimate(lambda r: grpo_advantages(r, 1e-12), 2)
    torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-8)


def test_the_mean_of_responses_turns_the_gradient_too_where_lengths_differ():
    """Responses end after a first token 0. Only a constant length leaves the gradient its way."""
    policy = torch.zeros_like(POLICY)
    mask = torch.ones(len(RESPONSES), LENGTH, dtype=torch.bool)
    mask[:, 1] = RESPONSES[:, 0] != 0
    once = mask[:, 1] | (RESPONSES[:, 1] == 0)  # all that begin with 0 are one response
    right = once * torch.tensor([1.0, 1, 1, 0, 0, 1, 1, 0, 0], dtype=torch.float64)  # 0, 12 and 20

    def probabilities(logits):
        return (log_probs_of_all(logits) * mask).sum(1).exp()

    assert (probabilities(policy) * once).sum().item() == pytest.approx(1)
    exact = finite_difference(lambda z: probabilities(z) @ right, policy)
    weights = len(RESPONSES) * probabilities(policy) * right  # so that a mean is an expectation

    def gradient(mean):
        def loss(logits):
            advantages = weights.unsqueeze(1).expand(-1, LENGTH)
            return mean(reinforce_loss(log_probs_of_all(logits), advantages))

        return -autograd(loss, policy)

    constant = gradient(lambda losses: mean_over_length(losses, mask, LENGTH))
    torch.testing.assert_close(constant, exact / LENGTH, rtol=1e-7, atol=1e-8)
    assert cosine(gradient(lambda losses: mean_of_responses(losses, mask)), exact) < 0.99


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("advantages", ALL)
def test_wrong_inputs_are_refused(advantages):
    name = advantages.__name__
    for shape in ((4, 1), (4, 0)):
        with pytest.raises(
            ValueError, match=rf"{name}: scores must hold two .* got \(4, {shape[1]}"
        ):
            advantages(torch.zeros(shape))
    for shape in ((4,), (2, 2, 2)):
        with pytest.raises(ValueError, match=rf"{name}: scores must have shape \(P, G\), got"):
            advantages(torch.zeros(shape))
    with pytest.raises(TypeError, match=f"{name}: scores must be floating point"):
        advantages(torch.zeros(2, 2, dtype=torch.long))
    for bad in (math.nan, math.inf, -math.inf):
        scores = torch.zeros(3, 4)
        scores[2, 1] = bad
        with pytest.raises(
            ValueError, match=f"{name}: scores must be finite, got {bad} for response 1 of prompt 2"
        ):
            advantages(scores)


@pytest.mark.parametrize("epsilon", [0, -1e-4, math.nan])
def test_an_epsilon_that_is_not_positive_is_refused(epsilon):
    with pytest.raises(ValueError, match="grpo_advantages: epsilon must be above 0"):
        grpo_advantages(torch.zeros(1, 2), epsilon)


# --- pass@k ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_choices_that_hold_a_right_one(n):
    marks = torch.tensor([[i < right for i in range(n)] for right in range(n + 1)])
    for k in range(1, n + 1):
        choices = list(itertools.combinations(range(n), k))
        shares = [sum(bool(row[list(c)].any()) for c in choices) / len(choices) for row in marks]
        got = pass_at_k(marks, k)
        assert got.dtype == torch.float64
        assert got.tolist() == pytest.approx(shares, abs=1e-12)
    assert pass_at_k(marks, 1).tolist() == pytest.approx([c / n for c in range(n + 1)])


@pytest.mark.parametrize("k", [1, 2, 4])
def test_pass_at_k_is_unbiased(k):
    """The mean over all outcomes of n tries is 1 − (1 − p)^k; the plain estimate's is not."""
    n, p = 5, 0.3
    mean = plain = 0.0
    for outcome in itertools.product([False, True], repeat=n):
        right = sum(outcome)
        weight = p**right * (1 - p) ** (n - right)
        mean += weight * float(pass_at_k(torch.tensor([outcome]), k))
        plain += weight * (1 - (1 - right / n) ** k)
    assert mean == pytest.approx(1 - 0.7**k, abs=1e-12)
    assert k == 1 or plain < 1 - 0.7**k - 0.01


def test_pass_at_k_of_many_tries_and_bad_input():
    marks = torch.zeros(1, 2000, dtype=torch.bool)
    marks[0, :3] = True
    exact = 1 - math.comb(1997, 900) / math.comb(2000, 900)
    assert float(pass_at_k(marks, 900)) == pytest.approx(exact, rel=1e-12)
    with pytest.raises(TypeError, match="correct must be boolean, got torch.float32"):
        pass_at_k(marks.float(), 1)
    with pytest.raises(ValueError, match=r"shape \(P, n\), got \(2000,\)"):
        pass_at_k(marks[0], 1)
    for k in (0, 2001, 1.0, True):
        with pytest.raises(ValueError, match="k must be a whole number from 1 to n = 2000"):
            pass_at_k(marks, k)
