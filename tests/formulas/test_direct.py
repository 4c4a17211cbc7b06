from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import assert_gradient, autograd, draw

from rlhf_lessons.formulas import (
    apo_down_loss,
    apo_zero_loss,
    bradley_terry_loss,
    bradley_terry_probability,
    dpo_gradient_weight,
    dpo_loss,
    exponential_preference_loss,
    hinge_preference_loss,
    implicit_reward,
    ipo_loss,
    label_smoothed_dpo_loss,
    shared_prefix_length,
    unlikelihood_loss,
)


def smoothed(*arguments):
    return label_smoothed_dpo_loss(*arguments, flip_probability=0.1)


OF_THE_MARGIN = [
    dpo_loss,
    smoothed,
    ipo_loss,
    hinge_preference_loss,
    exponential_preference_loss,
]
ANCHORED = [apo_zero_loss, apo_down_loss]  # they hold the chosen response against the reference
ALL = [*OF_THE_MARGIN, *ANCHORED, dpo_gradient_weight]


def pairs(seed: int = 0, count: int = 4) -> list[torch.Tensor]:
    """Policy chosen, policy rejected, reference chosen, reference rejected."""
    return [draw(count, seed=seed + 1000 * i) - 3 for i in range(4)]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_each_by_hand():
    # h = (−1 + 2) − (−4 + 3) = 2, at β = 0.5: β·h = 1.
    arguments = [torch.tensor([x], dtype=torch.float64) for x in (-1.0, -4.0, -2.0, -3.0)]
    expected = {
        dpo_loss: -math.log(sigmoid(1)),
        dpo_gradient_weight: sigmoid(-1),
        smoothed: -0.9 * math.log(sigmoid(1)) - 0.1 * math.log(sigmoid(-1)),
        ipo_loss: (2 - 1) ** 2,
        hinge_preference_loss: 0.0,
        exponential_preference_loss: math.exp(-1),
        # r̂ = 0.5 · 1 and 0.5 · (−1)
        apo_zero_loss: sigmoid(-0.5) + sigmoid(-0.5),
        apo_down_loss: sigmoid(0.5) + sigmoid(-1),
    }
    for function, value in expected.items():
        assert function(*arguments, 0.5).item() == pytest.approx(value, abs=1e-12)
    assert hinge_preference_loss(*arguments, 0.25).item() == 0.5
    assert ipo_loss(*arguments, 0.1).item() == pytest.approx((2 - 5) ** 2)
    assert implicit_reward(arguments[0], arguments[2], 0.5).item() == 0.5
    assert unlikelihood_loss(arguments[0], arguments[1]).item() == 1 - 4
    assert unlikelihood_loss(arguments[0], arguments[1], alpha=0.25).item() == 1 - 1
    assert unlikelihood_loss(arguments[0], arguments[1], alpha=0.0).item() == 1


@given(seed=st.integers(0, 999), beta=st.floats(0.01, 5))
def test_dpo_is_bradley_terry_on_implicit_rewards(seed, beta):
    chosen, rejected, reference_chosen, reference_rejected = arguments = pairs(seed)
    rewards = (
        implicit_reward(chosen, reference_chosen, beta),
        implicit_reward(rejected, reference_rejected, beta),
    )
    close = {"rtol": 1e-9, "atol": 1e-12}
    torch.testing.assert_close(dpo_loss(*arguments, beta), bradley_terry_loss(*rewards), **close)
    torch.testing.assert_close(
        dpo_gradient_weight(*arguments, beta),
        1 - bradley_terry_probability(*rewards),
        **close,
    )


@given(seed=st.integers(0, 999), beta=st.floats(0.01, 5))
def test_autograd_of_dpo_is_the_written_gradient(seed, beta):
    chosen, rejected, *reference = pairs(seed)
    weight = dpo_gradient_weight(chosen, rejected, *reference, beta)
    close = {"rtol": 1e-9, "atol": 1e-12}
    torch.testing.assert_close(
        autograd(lambda x: dpo_loss(x, rejected, *reference, beta), chosen), -beta * weight, **close
    )
    torch.testing.assert_close(
        autograd(lambda x: dpo_loss(chosen, x, *reference, beta), rejected), beta * weight, **close
    )


@pytest.mark.parametrize("function", [*OF_THE_MARGIN, dpo_gradient_weight])
@given(seed=st.integers(0, 999))
def test_only_the_margin_matters(function, seed):
    chosen, rejected, reference_chosen, reference_rejected = arguments = pairs(seed)
    expected = function(*arguments, 0.3)
    shift, other = draw(4, seed=seed + 7), draw(4, seed=seed + 8)
    close = {"rtol": 1e-9, "atol": 1e-9}
    # What is equal in chosen and rejected cancels, in the policy and in the reference.
    torch.testing.assert_close(
        function(
            chosen + shift,
            rejected + shift,
            reference_chosen + other,
            reference_rejected + other,
            0.3,
        ),
        expected,
        **close,
    )
    # So does what policy and reference have in common.
    torch.testing.assert_close(
        function(
            chosen + shift,
            rejected + other,
            reference_chosen + shift,
            reference_rejected + other,
            0.3,
        ),
        expected,
        **close,
    )


def test_where_the_policy_is_the_reference():
    chosen, rejected, *_ = pairs()
    same = (chosen, rejected, chosen, rejected, 0.3)
    for function, value in {
        dpo_loss: math.log(2),
        smoothed: math.log(2),
        dpo_gradient_weight: 0.5,
        ipo_loss: (1 / 0.6) ** 2,
        hinge_preference_loss: 1.0,
        exponential_preference_loss: 1.0,
        apo_zero_loss: 1.0,
        apo_down_loss: 1.0,
    }.items():
        assert function(*same).tolist() == pytest.approx([value] * 4)
    assert implicit_reward(chosen, chosen, 0.3).tolist() == [0] * 4


def test_label_smoothing():
    arguments = pairs()
    torch.testing.assert_close(
        label_smoothed_dpo_loss(*arguments, 0.3, flip_probability=0.0), dpo_loss(*arguments, 0.3)
    )
    # The minimum lies at β·h = log((1 − ε)/ε): there the slope is 0.
    best = torch.full((1,), math.log(9) / 0.3, dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    slope = autograd(lambda x: smoothed(x, zero, zero, zero, 0.3), best)
    assert slope.item() == pytest.approx(0, abs=1e-12)


def test_ipo_has_its_minimum_at_its_margin():
    zero = torch.zeros(1, dtype=torch.float64)
    assert ipo_loss(zero + 1 / (2 * 0.3), zero, zero, zero, 0.3).item() == pytest.approx(
        0, abs=1e-25
    )


@pytest.mark.parametrize("function", [*OF_THE_MARGIN, *ANCHORED])
def test_gradients(function):
    chosen, rejected, *reference = pairs()
    assert_gradient(lambda x: function(x, rejected, *reference, 0.3), chosen)
    assert_gradient(lambda x: function(chosen, x, *reference, 0.3), rejected)


def test_gradients_of_the_others():
    chosen, rejected, *reference = pairs()
    assert_gradient(lambda x: unlikelihood_loss(x, rejected, 0.4), chosen)
    assert_gradient(lambda x: unlikelihood_loss(chosen, x, 0.4), rejected)
    assert_gradient(lambda x: implicit_reward(x, reference[0], 0.3), chosen)
    assert_gradient(lambda x: implicit_reward(chosen, x, 0.3), reference[0])


@pytest.mark.parametrize("function", [*OF_THE_MARGIN, *ANCHORED])
def test_the_reference_is_held_fixed(function):
    arguments = [x.requires_grad_() for x in pairs()]
    function(*arguments, 0.3).sum().backward()
    assert [x.grad is None for x in arguments] == [False, False, True, True]
    assert not dpo_gradient_weight(*arguments, 0.3).requires_grad


def test_extreme_margins_give_finite_losses_and_gradients():
    far = torch.tensor([-1e5, 1e5])
    zero = torch.zeros(2)
    assert dpo_loss(far, zero, zero, zero, 0.1).tolist() == pytest.approx([1e4, 0])
    assert dpo_gradient_weight(far, zero, zero, zero, 0.1).tolist() == [1, 0]
    for function in (dpo_loss, smoothed, ipo_loss, hinge_preference_loss, *ANCHORED):
        gradient = autograd(lambda x, f=function: f(x, zero, zero, zero, 0.1), far)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("function", ALL)
def test_wrong_inputs_are_refused(function):
    x = torch.zeros(2)
    name = {"smoothed": "label_smoothed_dpo_loss"}.get(function.__name__, function.__name__)
    for beta in (0.0, -0.1, math.nan):
        with pytest.raises(ValueError, match=f"{name}: beta must be above 0"):
            function(x, x, x, x, beta)
    for i, argument in enumerate(
        ("policy_rejected", "reference_chosen", "reference_rejected"), start=1
    ):
        arguments = [x] * 4
        arguments[i] = torch.zeros(1)
        with pytest.raises(
            ValueError, match=rf"{name}: {argument} must have shape \(B,\) = \(2,\)"
        ):
            function(*arguments, 0.1)
    token_wise = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=rf"{name}: policy_chosen must have shape \(B,\), got"):
        function(*[token_wise] * 4, 0.1)


def test_wrong_numbers_are_refused():
    x = torch.zeros(2)
    for bad in (-0.1, 0.5, math.nan):
        with pytest.raises(ValueError, match="flip_probability must lie in"):
            label_smoothed_dpo_loss(x, x, x, x, 0.1, bad)
    for bad in (-0.1, 1.1):
        with pytest.raises(ValueError, match="unlikelihood_loss: alpha must lie in"):
            unlikelihood_loss(x, x, bad)
    with pytest.raises(ValueError, match="unlikelihood_loss: policy_rejected must have shape"):
        unlikelihood_loss(x, torch.zeros(1))
    with pytest.raises(ValueError, match="implicit_reward: beta must be above 0"):
        implicit_reward(x, x, 0.0)
    with pytest.raises(ValueError, match="implicit_reward: reference_log_probs must have shape"):
        implicit_reward(x, torch.zeros(1), 0.1)


def test_dtype_is_kept_and_nan_is_not_hidden():
    nan = torch.tensor([math.nan])
    for function in ALL:
        for dtype in (torch.float32, torch.float64):
            assert function(*[x.to(dtype) for x in pairs()], 0.1).dtype == dtype
        zero = torch.zeros(1)
        for i in range(4):
            arguments = [zero] * 4
            arguments[i] = nan
            assert function(*arguments, 0.1).isnan()
    assert unlikelihood_loss(nan, torch.zeros(1)).isnan()


def test_shared_prefix_by_hand():
    cr = torch.tensor([[0.1, 0.2, 0.5, 0.7], [1.0, 2.0, math.nan, 0.0], [0.3, 0.4, 0.5, 0.6]])
    rr = torch.tensor([[0.1, 0.2, 0.6, 0.7], [1.0, 2.0, math.nan, 0.0], [0.4, 0.4, 0.5, 0.6]])
    short = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    full = torch.ones_like(short)
    assert shared_prefix_length(cr, rr, short, full).tolist() == [2, 2, 0]
    assert shared_prefix_length(cr, rr, full, short).tolist() == [2, 2, 0]
    # Rounding does not end a prefix, and the tolerance is the caller's.
    assert shared_prefix_length(cr, cr + 5e-7, full, full)[0] == 4
    assert shared_prefix_length(cr, cr + 5e-7, full, full, tolerance=0.0)[0] == 0


@pytest.mark.parametrize("loss", OF_THE_MARGIN)
def test_no_loss_of_the_margin_sees_a_shared_prefix(loss):
    """Its gradient with respect to the tokens of the prefix is exactly 0, behind it is not."""
    shared = 3
    chosen, rejected = (draw(4, 6, seed=seed) for seed in (1, 2))
    prefix = draw(4, shared, seed=3).requires_grad_(True)
    rest = chosen[:, shared:].detach().clone().requires_grad_(True)
    policy = [torch.cat([prefix, tail], 1).sum(1) for tail in (rest, rejected[:, shared:])]
    reference = [draw(4, seed=seed) for seed in (4, 5)]
    loss(*policy, *reference, 0.7).sum().backward()
    assert prefix.grad.abs().max() < 1e-14
    assert rest.grad.abs().max() > 1e-3 or loss is hinge_preference_loss


def test_shared_prefix_refuses_what_does_not_fit():
    ratios, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="shared_prefix_length: rejected_log_ratios"):
        shared_prefix_length(ratios, ratios[:, :2], mask, mask)
    with pytest.raises(TypeError, match="mask must be boolean"):
        shared_prefix_length(ratios, ratios, mask, mask.long())


def test_dpo_is_bradley_terry_on_implicit_rewards_and_blind_to_shifts_of_a_prompt():
    pc, pr, rc, rr = pairs(7)
    shift = draw(4, seed=99) * 30
    expected = bradley_terry_loss(implicit_reward(pc, rc, 0.3), implicit_reward(pr, rr, 0.3))
    torch.testing.assert_close(dpo_loss(pc, pr, rc, rr, 0.3), expected, atol=1e-12, rtol=0)
    for loss in OF_THE_MARGIN:
        shifted = loss(pc + shift, pr + shift, rc, rr, 0.3)
        torch.testing.assert_close(shifted, loss(pc, pr, rc, rr, 0.3), atol=1e-9, rtol=1e-9)


@given(seed=st.integers(0, 999), beta=st.floats(0.01, 2))
def test_apo_says_where_the_chosen_response_itself_is_to_go(seed, beta):
    """Descent moves log π(y_w) up with APO-zero, and with APO-down log π(y_l) further down."""
    chosen, rejected, *reference = pairs(seed)
    slopes = {
        loss: (
            autograd(lambda x, f=loss: f(x, rejected, *reference, beta), chosen),
            autograd(lambda x, f=loss: f(chosen, x, *reference, beta), rejected),
        )
        for loss in ANCHORED
    }
    assert (slopes[apo_zero_loss][0] < 0).all()
    assert all((rejected_slope > 0).all() for _, rejected_slope in slopes.values())
    # What the policy and the reference have in common drops out here, too.
    shift, other = draw(4, seed=seed + 7), draw(4, seed=seed + 8)
    for loss in ANCHORED:
        moved = (
            chosen + shift,
            rejected + other,
            reference[0] + shift,
            reference[1] + other,
        )
        torch.testing.assert_close(
            loss(*moved, beta), loss(chosen, rejected, *reference, beta), rtol=1e-9, atol=1e-9
        )
    # Where nothing has moved: APO-zero pulls up and down alike; APO-down lets the chosen one lie.
    start = (chosen, rejected, chosen, rejected, beta)
    quarter = torch.full_like(chosen, beta / 4)
    for loss, expected in (
        (apo_zero_loss, (-quarter, quarter)),
        (apo_down_loss, (0 * quarter, quarter)),
    ):
        for place in (0, 1):

            def of_one(x, place=place, loss=loss):
                return loss(*[x if i == place else y for i, y in enumerate(start)])

            torch.testing.assert_close(autograd(of_one, start[place]), expected[place])
