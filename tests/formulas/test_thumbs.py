from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import assert_gradient, autograd, draw

from rlhf_lessons.formulas import kto_loss, kto_reference_point

UP_AND_DOWN = torch.tensor([True, False, True, False])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def point(x: float) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def test_by_hand():
    # r̂ = 2, 2, −1, −1 above z = 0.5: 1.5 and −1.5, at β = 0.4: ±0.6.
    policy = torch.tensor([-1.0, -1.0, -4.0, -4.0], dtype=torch.float64)
    reference = torch.tensor([-3.0, -3.0, -3.0, -3.0], dtype=torch.float64)
    got = kto_loss(policy, reference, UP_AND_DOWN, point(0.5), 0.4)
    expected = [1 - sigmoid(0.6), 1 - sigmoid(-0.6), 1 - sigmoid(-0.6), 1 - sigmoid(0.6)]
    assert got.tolist() == pytest.approx(expected, abs=1e-12)
    weighed = kto_loss(policy, reference, UP_AND_DOWN, point(0.5), 0.4, 3.0, 0.25)
    weights = [3, 0.25, 3, 0.25]
    assert weighed.tolist() == pytest.approx(
        [w * loss for w, loss in zip(weights, expected, strict=True)], abs=1e-12
    )


def test_the_reference_point_by_hand():
    policy, reference = torch.tensor([-1.0, -4.0]), torch.tensor([-3.0, -3.0])
    assert kto_reference_point(policy, reference).item() == 0.5
    assert kto_reference_point(reference, policy).item() == 0  # not −0.5
    assert kto_reference_point(policy, reference).shape == ()


@given(seed=st.integers(0, 999), beta=st.floats(0.01, 5))
def test_a_thumb_down_is_a_thumb_up_on_the_other_side(seed, beta):
    log_ratio, zero = draw(4, seed=seed), torch.zeros(4, dtype=torch.float64)
    up, z = torch.ones(4, dtype=torch.bool), point(0.7)
    good = kto_loss(zero + z + log_ratio, zero, up, z, beta)
    bad = kto_loss(zero + z - log_ratio, zero, ~up, z, beta)
    torch.testing.assert_close(good, bad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        good + kto_loss(zero + z + log_ratio, zero, ~up, z, beta), zero + 1, rtol=1e-9, atol=1e-12
    )


@given(seed=st.integers(0, 999))
def test_the_gradient_is_largest_at_the_reference_point_and_has_the_sign_of_the_thumb(seed):
    far, zero = draw(4, seed=seed, scale=3.0), torch.zeros(4, dtype=torch.float64)
    z, weights = point(0.7), torch.tensor([2.0, -0.5, 2.0, -0.5]).double()
    at = autograd(lambda x: kto_loss(x, zero, UP_AND_DOWN, z, 0.3, 2.0, 0.5), zero + z)
    torch.testing.assert_close(at, -weights * 0.3 / 4)
    away = autograd(lambda x: kto_loss(x, zero, UP_AND_DOWN, z, 0.3, 2.0, 0.5), far)
    assert (away.sign() == at.sign()).all()
    assert (away.abs() <= at.abs() + 1e-12).all()


def test_gradients():
    policy, reference = draw(4), draw(4, seed=1)
    assert_gradient(
        lambda x: kto_loss(x, reference, UP_AND_DOWN, point(0.2), 0.3, 1.5, 0.7), policy
    )


def test_what_is_held_fixed_gets_no_gradient():
    policy, reference = (draw(4, seed=i).requires_grad_() for i in range(2))
    moved = draw(4, seed=2).requires_grad_()
    z = kto_reference_point(moved + 3, reference)
    assert z > 0
    assert not z.requires_grad
    free = point(0.2).requires_grad_()
    kto_loss(policy, reference, UP_AND_DOWN, free, 0.3).sum().backward()
    assert policy.grad is not None
    assert reference.grad is None
    assert free.grad is None


def test_extremes_stay_finite_and_nan_is_not_hidden():
    far, zero = torch.tensor([1e5, 1e5, -1e5, -1e5]), torch.zeros(4)
    z = torch.tensor(0.0)
    assert kto_loss(far, zero, UP_AND_DOWN, z, 1.0).tolist() == [0, 1, 1, 0]
    assert autograd(lambda x: kto_loss(x, zero, UP_AND_DOWN, z, 1.0), far).isfinite().all()
    # 1 − σ(40) is 0 in floats; σ(−40) isn't.
    assert kto_loss(zero + 40, zero, UP_AND_DOWN, z, 1.0)[0] > 0
    nan = torch.full((4,), math.nan)
    assert kto_loss(nan, zero, UP_AND_DOWN, z, 1.0).isnan().all()
    assert kto_loss(zero, zero, UP_AND_DOWN, nan[0], 1.0).isnan().all()
    assert kto_reference_point(nan, zero).isnan()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    x = draw(4).to(dtype)
    z = kto_reference_point(x, x)
    assert z.dtype == dtype
    assert kto_loss(x, x, UP_AND_DOWN, z, 0.1).dtype == dtype


def test_wrong_inputs_are_refused():
    x, z = torch.zeros(4), torch.tensor(0.0)
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="kto_loss: beta must be above 0"):
            kto_loss(x, x, UP_AND_DOWN, z, bad)
        with pytest.raises(ValueError, match="kto_loss: desirable_weight must be above 0"):
            kto_loss(x, x, UP_AND_DOWN, z, 0.1, bad)
        with pytest.raises(ValueError, match="kto_loss: undesirable_weight must be above 0"):
            kto_loss(x, x, UP_AND_DOWN, z, 0.1, 1.0, bad)
    with pytest.raises(ValueError, match="kto_loss: reference_log_probs must have shape"):
        kto_loss(x, x[:1], UP_AND_DOWN, z, 0.1)
    with pytest.raises(ValueError, match=r"reference_point must have shape \(\), got \(4,\)"):
        kto_loss(x, x, UP_AND_DOWN, x, 0.1)
    with pytest.raises(TypeError, match="kto_loss: mask must be boolean"):
        kto_loss(x, x, UP_AND_DOWN.long(), z, 0.1)
    with pytest.raises(ValueError, match="kto_loss: mask must have shape"):
        kto_loss(x, x, UP_AND_DOWN[:2], z, 0.1)
    with pytest.raises(ValueError, match="kto_reference_point: policy_log_probs must hold"):
        kto_reference_point(x[:0], x[:0])
    with pytest.raises(ValueError, match="kto_reference_point: reference_log_probs must have"):
        kto_reference_point(x, x[:1])
