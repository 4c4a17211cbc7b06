from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import (
    assert_gradient,
    autograd,
    draw,
    finite_difference,
    right_padded_mask,
    softmax,
)

from rlhf_lessons.formulas import (
    cispo_policy_loss,
    clip_fraction,
    dapo_policy_loss,
    gspo_policy_loss,
    mean_of_responses,
    ppo_policy_loss,
    ppo_total_loss,
    ratio,
    reinforce_loss,
    sequence_ratio,
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


@given(seed=st.integers(0, 999), low=st.floats(0.05, 0.5), high=st.floats(0.05, 0.9))
def test_clip_fraction_with_two_ranges_counts_the_gradients_that_dapo_clips(seed, low, high):
    log_probs, old, advantages = draw(3, 4, seed=seed), draw(3, 4, seed=seed + 1), draw(3, 4)
    mask = draw(3, 4, seed=seed + 2) > -0.5
    mask[0, 0] = True
    slope = autograd(lambda x: dapo_policy_loss(x, old, advantages, low, high), log_probs)
    got = clip_fraction(log_probs, old, advantages, mask, low, high)
    assert got.item() == pytest.approx(float((slope == 0)[mask].double().mean()))
    one_range = clip_fraction(log_probs, old, advantages, mask, low)
    assert torch.equal(one_range, clip_fraction(log_probs, old, advantages, mask, low, low))
    with pytest.raises(ValueError, match="clip_fraction: epsilon_high must be above 0"):
        clip_fraction(log_probs, old, advantages, mask, low, 0.0)


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


# --- relatives of PPO's loss ----------------------------------------------------------------------

LOW, HIGH = 0.2, 0.4
LENGTHS = right_padded_mask([3, 1, 2], 4)
# ratio, advantage, loss, gradient in the log-probability at ε_low = 0.2 and ε_high = 0.4
ONE_SIDED = [
    (1.3, 2.0, -2.6, -2.6),  # PPO at 0.2 has clipped this one
    (1.5, 2.0, -2.8, 0.0),
    (1.5, -2.0, 3.0, 3.0),
    (0.5, 2.0, -1.0, -1.0),
    (0.5, -2.0, 1.6, 0.0),
    (0.7, -2.0, 1.6, 0.0),  # below, it is PPO's 0.2
    (0.9, -2.0, 1.8, 1.8),
]


def gspo_of_one_token(log_probs, old_log_probs, advantages, *epsilons):
    return gspo_policy_loss(log_probs, old_log_probs, advantages, log_probs < 99, *epsilons)


@pytest.mark.parametrize("loss_of", [dapo_policy_loss, gspo_of_one_token])
@pytest.mark.parametrize(("rho", "advantage", "loss", "gradient"), ONE_SIDED)
def test_a_clip_wider_above_than_below(loss_of, rho, advantage, loss, gradient):
    old = one(-1.3)
    log_prob = old + math.log(rho)
    assert loss_of(log_prob, old, one(advantage), LOW, HIGH).item() == pytest.approx(loss)
    got = autograd(lambda x: loss_of(x, old, one(advantage), LOW, HIGH), log_prob)
    assert got.item() == pytest.approx(gradient, abs=0 if gradient == 0 else 1e-12)


@given(seed=st.integers(0, 999), epsilon=st.floats(0.01, 0.9))
def test_equal_epsilons_and_responses_of_one_token_are_ppo(seed, epsilon):
    log_probs, old, advantages = (draw(5, 1, seed=seed + i) for i in (0, 1000, 2000))
    expected = ppo_policy_loss(log_probs, old, advantages, epsilon)
    gradient = autograd(lambda x: ppo_policy_loss(x, old, advantages, epsilon), log_probs)
    close = {"rtol": 1e-12, "atol": 1e-12}
    for loss in (dapo_policy_loss, gspo_of_one_token):
        got = loss(log_probs, old, advantages, epsilon, epsilon)
        torch.testing.assert_close(got, expected, **close)
        got = autograd(lambda x, f=loss: f(x, old, advantages, epsilon, epsilon), log_probs)
        torch.testing.assert_close(got, gradient, **close)


def test_the_sequence_ratio_by_hand():
    # 2 · 0.5 · 4 = 4 over three tokens, and 3 over one; what stands behind is garbage.
    rho = torch.tensor([[2.0, 0.5, 4.0], [3.0, math.nan, math.inf]], dtype=torch.float64)
    old, mask = draw(2, 3), right_padded_mask([3, 1], 3)
    got = sequence_ratio(old + rho.log(), old, mask)
    torch.testing.assert_close(got, torch.tensor([4 ** (1 / 3), 3]).double())
    assert_gradient(lambda x: sequence_ratio(x, old, mask), draw(2, 3, seed=1))
    assert_gradient(lambda x: sequence_ratio(old, x, mask), draw(2, 3, seed=1))


@given(seed=st.integers(0, 999), low=st.floats(0.01, 0.5), high=st.floats(0.01, 0.5))
def test_gspo_of_tokens_is_gspo_of_responses(seed, low, high):
    """Equation 5, one clipped ratio a response, against the mean over tokens of ours."""
    log_probs, old = draw(3, 4, seed=seed), draw(3, 4, seed=seed + 1000)
    advantages = draw(3, seed=seed + 2000)

    def of_responses(x):
        s = torch.exp(((x - old) * LENGTHS).sum(1) / LENGTHS.sum(1))
        return -torch.minimum(advantages * s, advantages * s.clamp(1 - low, 1 + high)).mean()

    def of_tokens(x):
        each = advantages.unsqueeze(1).expand(3, 4)
        return mean_of_responses(gspo_policy_loss(x, old, each, LENGTHS, low, high), LENGTHS)

    torch.testing.assert_close(of_tokens(log_probs), of_responses(log_probs))
    torch.testing.assert_close(autograd(of_tokens, log_probs), autograd(of_responses, log_probs))


def test_gspo_clips_a_response_as_a_whole():
    old = torch.zeros(2, 2, dtype=torch.float64)
    # Token ratios 3 and 1, mean √3 > 1.4: both are clipped. 3 and 1/3, mean 1: neither is.
    log_probs = torch.log(torch.tensor([[3.0, 1.0], [3.0, 1 / 3]], dtype=torch.float64))
    advantages, mask = torch.ones_like(old), torch.ones_like(old, dtype=torch.bool)
    losses = gspo_policy_loss(log_probs, old, advantages, mask, LOW, HIGH)
    torch.testing.assert_close(losses, -torch.tensor([[1.4, 1.4], [1, 1]]).double())
    got = autograd(lambda x: gspo_policy_loss(x, old, advantages, mask, LOW, HIGH), log_probs)
    torch.testing.assert_close(got, -torch.tensor([[0.0, 0], [1, 1]]).double())
    assert (got[0] == 0).all()


def test_garbage_behind_a_response_changes_nothing_in_gspo():
    log_probs, old, advantages = (draw(3, 4, seed=i) for i in range(3))

    def loss(x, old_log_probs=old, weights=advantages):
        tokens = gspo_policy_loss(x, old_log_probs, weights, LENGTHS, LOW, HIGH)
        return mean_of_responses(tokens, LENGTHS)

    for garbage in (math.nan, math.inf, -math.inf):
        dirty = [x.masked_fill(~LENGTHS, garbage) for x in (log_probs, old, advantages)]
        torch.testing.assert_close(loss(*dirty), loss(log_probs))
        got = autograd(lambda x, rest=dirty[1:]: loss(x, *rest), dirty[0])
        torch.testing.assert_close(got, autograd(loss, log_probs))


@given(seed=st.integers(0, 999), epsilon_high=st.floats(0.01, 5))
def test_the_gradient_of_cispo_is_its_weight_times_the_score(seed, epsilon_high):
    log_probs, old, advantages = (draw(2, 3, seed=seed + i) for i in (0, 1000, 2000))
    losses = cispo_policy_loss(log_probs, old, advantages, epsilon_high).flatten().tolist()
    gradients = autograd(lambda x: cispo_policy_loss(x, old, advantages, epsilon_high), log_probs)
    numbers = (x.flatten().tolist() for x in (log_probs, old, advantages, gradients))
    for loss, new, before, a, gradient in zip(losses, *numbers, strict=True):
        weight = min(math.exp(new - before), 1 + epsilon_high)
        assert loss == pytest.approx(-weight * a * new, rel=1e-12, abs=1e-12)
        assert gradient == pytest.approx(-weight * a, rel=1e-12, abs=1e-12)


def test_cispo_leaves_a_gradient_where_ppo_has_none():
    old, log_prob = one(-3.0), one(-3.0 + math.log(4))
    assert autograd(lambda x: ppo_policy_loss(x, old, one(2), EPSILON), log_prob).item() == 0
    got = autograd(lambda x: cispo_policy_loss(x, old, one(2), EPSILON), log_prob).item()
    assert got == pytest.approx(-2 * 1.2)
    # No floor: a ratio of 1/4 weighs 1/4.
    got = autograd(lambda x: cispo_policy_loss(x, log_prob, one(2), EPSILON), old).item()
    assert got == pytest.approx(-2 / 4)


@given(seed=st.integers(0, 999))
def test_where_nothing_has_moved_all_relatives_are_reinforce(seed):
    log_probs, advantages = draw(3, 4, seed=seed), draw(3, 4, seed=seed + 1)
    expected = autograd(lambda x: reinforce_loss(x, advantages), log_probs)
    everywhere = torch.ones_like(LENGTHS)
    for loss in (
        lambda x: dapo_policy_loss(x, log_probs, advantages, LOW, HIGH),
        lambda x: gspo_policy_loss(x, log_probs, advantages, everywhere, LOW, HIGH),
        lambda x: cispo_policy_loss(x, log_probs, advantages, HIGH),
    ):
        torch.testing.assert_close(autograd(loss, log_probs), expected)


def test_gradients_of_the_relatives():
    log_probs, old, advantages = draw(3, 4, scale=0.3), draw(3, 4, seed=1, scale=0.3), draw(3, 4)
    assert_gradient(lambda x: dapo_policy_loss(x, old, advantages, LOW, HIGH), log_probs)
    # Differences can't see what is held fixed; a weight computed outside shows it.
    weight = ratio(log_probs, old).clamp(max=1 + HIGH)
    measured = finite_difference(lambda x: -weight * advantages * x, log_probs)
    got = autograd(lambda x: cispo_policy_loss(x, old, advantages, HIGH), log_probs)
    torch.testing.assert_close(got, measured, rtol=1e-7, atol=1e-7)
    each = advantages[:, :1].expand(3, 4)  # one advantage a response: then the mean is smooth in s
    measured = finite_difference(
        lambda x: mean_of_responses(gspo_policy_loss(x, old, each, LENGTHS, LOW, HIGH), LENGTHS),
        log_probs,
    )
    got = autograd(
        lambda x: mean_of_responses(gspo_policy_loss(x, old, each, LENGTHS, LOW, HIGH), LENGTHS),
        log_probs,
    )
    torch.testing.assert_close(got, measured, rtol=1e-7, atol=1e-7)
    assert got.abs().max() > 1e-3


def test_what_the_relatives_hold_fixed_gets_no_gradient():
    log_probs, old, advantages = (draw(1, 3, seed=i).requires_grad_() for i in range(3))
    (
        dapo_policy_loss(log_probs, old, advantages, 5.0, 5.0)
        + gspo_policy_loss(log_probs, old, advantages, log_probs < 99, 5.0, 5.0)
        + cispo_policy_loss(log_probs, old, advantages, 5.0)
    ).sum().backward()
    assert log_probs.grad is not None
    assert old.grad is None
    assert advantages.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_relatives_keep_the_dtype_and_hide_no_nan(dtype):
    x = draw(3, 4).to(dtype)
    losses = (
        lambda p, old, a: dapo_policy_loss(p, old, a, LOW, HIGH),
        lambda p, old, a: gspo_policy_loss(p, old, a, LENGTHS, LOW, HIGH),
        lambda p, old, a: cispo_policy_loss(p, old, a, HIGH),
    )
    for loss in losses:
        assert loss(x, x, x).dtype == dtype
        for place in range(3):
            arguments = [x, x, x]
            arguments[place] = torch.full_like(x, math.nan)
            assert loss(*arguments)[LENGTHS].isnan().all()
    assert sequence_ratio(x, x, LENGTHS).dtype == dtype
    assert sequence_ratio(torch.full_like(x, math.nan), x, LENGTHS).isnan().all()


@pytest.mark.parametrize("bad", [0, -0.2, math.nan])
def test_clip_ranges_of_the_relatives_that_are_not_positive_are_refused(bad):
    x, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    for low, high, argument in ((bad, HIGH, "epsilon_low"), (LOW, bad, "epsilon_high")):
        with pytest.raises(ValueError, match=f"dapo_policy_loss: {argument} must be above 0"):
            dapo_policy_loss(x, x, x, low, high)
        with pytest.raises(ValueError, match=f"gspo_policy_loss: {argument} must be above 0"):
            gspo_policy_loss(x, x, x, mask, low, high)
    with pytest.raises(ValueError, match="cispo_policy_loss: epsilon_high must be above 0"):
        cispo_policy_loss(x, x, x, bad)


def test_shapes_that_would_broadcast_are_refused_by_the_relatives():
    row, column, mask = torch.zeros(2, 3), torch.zeros(2, 1), torch.ones(2, 3, dtype=torch.bool)
    for place, argument in ((1, "old_log_probs"), (2, "advantages")):
        arguments = [row, row, row]
        arguments[place] = column
        with pytest.raises(ValueError, match=f"dapo_policy_loss: {argument} must have shape"):
            dapo_policy_loss(*arguments, LOW, HIGH)
        with pytest.raises(ValueError, match=f"gspo_policy_loss: {argument} must have shape"):
            gspo_policy_loss(*arguments, mask, LOW, HIGH)
        with pytest.raises(ValueError, match=f"cispo_policy_loss: {argument} must have shape"):
            cispo_policy_loss(*arguments, HIGH)
    with pytest.raises(ValueError, match="sequence_ratio: old_log_probs must have shape"):
        sequence_ratio(row, column, mask)
    for wrong in (mask[:, :1], mask.long()):
        with pytest.raises((ValueError, TypeError), match="sequence_ratio: mask must"):
            sequence_ratio(row, row, wrong)
        with pytest.raises((ValueError, TypeError), match="gspo_policy_loss: mask must"):
            gspo_policy_loss(row, row, row, wrong, LOW, HIGH)
    with pytest.raises(ValueError, match="no True along dim 1"):
        gspo_policy_loss(row, row, row, torch.zeros_like(mask), LOW, HIGH)
