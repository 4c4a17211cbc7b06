from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import assert_gradient, autograd, draw

from rlhf_lessons.formulas import clipped_value_loss, value_loss


def one(x: float) -> torch.Tensor:
    return torch.tensor([[x]], dtype=torch.float64)


def test_value_loss_by_hand():
    values, returns = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 1.0]])
    assert value_loss(values, returns).tolist() == [[2, 0.5]]


# old value 0, ε = 0.5: value, return, loss, gradient.
CASES = [
    (0.25, 2.0, 0.5 * 1.75**2, -1.75),  # a short step is not clipped
    (1.0, 2.0, 0.5 * 1.5**2, 0.0),  # toward the return by more than ε: clipped
    (-1.0, 2.0, 0.5 * 3.0**2, -3.0),  # away from it by more than ε: pulled back
    (-1.0, -2.0, 0.5 * 1.5**2, 0.0),
    (1.0, -2.0, 0.5 * 3.0**2, 3.0),
    (3.0, 2.0, 0.5 * 1.5**2, 0.0),  # overshot, and nearer than the clipped value: no pull
]


@pytest.mark.parametrize(("value", "target", "loss", "gradient"), CASES)
def test_clipped_value_loss_by_hand(value, target, loss, gradient):
    got = clipped_value_loss(one(value), one(0), one(target), 0.5)
    assert got.item() == pytest.approx(loss, rel=1e-12)
    slope = autograd(lambda v: clipped_value_loss(v, one(0), one(target), 0.5), one(value))
    assert slope.item() == pytest.approx(gradient, abs=0 if gradient == 0 else 1e-12)


@given(seed=st.integers(0, 999), epsilon=st.floats(0.01, 3))
def test_clipping_only_ever_raises_the_loss(seed, epsilon):
    values, old, returns = (draw(2, 3, seed=seed + i) for i in (0, 1000, 2000))
    plain = value_loss(values, returns)
    clipped = clipped_value_loss(values, old, returns, epsilon)
    assert (clipped >= plain).all()
    near = (values - old).abs() <= epsilon
    assert clipped[near].equal(plain[near])
    torch.testing.assert_close(clipped_value_loss(values, old, returns, 1e9), plain)


def test_gradients():
    values, old, returns = (draw(2, 3, seed=i) for i in range(3))
    assert_gradient(lambda v: value_loss(v, returns), values)
    assert_gradient(lambda v: clipped_value_loss(v, old, returns, 0.3), values)


def test_targets_and_old_values_get_no_gradient():
    values, old, returns = (draw(1, 3, seed=i).requires_grad_() for i in range(3))
    (value_loss(values, returns) + clipped_value_loss(values, old, returns, 0.1)).sum().backward()
    assert values.grad is not None
    assert old.grad is None
    assert returns.grad is None


@pytest.mark.parametrize("epsilon", [0, -0.2, math.nan])
def test_a_clip_range_that_is_not_positive_is_refused(epsilon):
    with pytest.raises(ValueError, match="clipped_value_loss: epsilon must be above 0"):
        clipped_value_loss(one(0), one(0), one(0), epsilon)


def test_shapes_that_would_broadcast_are_refused():
    row, column = torch.zeros(2, 3), torch.zeros(2, 1)
    with pytest.raises(ValueError, match="value_loss: returns must have shape"):
        value_loss(row, column)
    with pytest.raises(ValueError, match="clipped_value_loss: old_values must have shape"):
        clipped_value_loss(row, column, row, 0.1)
    with pytest.raises(ValueError, match="clipped_value_loss: returns must have shape"):
        clipped_value_loss(row, row, column, 0.1)


def test_dtype_is_kept_and_nan_is_not_hidden():
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        x = draw(2, 3).to(dtype)
        assert value_loss(x, x).dtype == dtype
        assert clipped_value_loss(x, x, x, 0.1).dtype == dtype
    assert value_loss(one(math.nan), one(0)).isnan()
    assert clipped_value_loss(one(math.nan), one(0), one(0), 0.1).isnan()
    assert clipped_value_loss(one(0), one(0), one(math.nan), 0.1).isnan()
