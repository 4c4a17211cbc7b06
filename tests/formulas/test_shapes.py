from __future__ import annotations

import math

import pytest
import torch

from rlhf_lessons.formulas import shapes


def test_a_right_input_passes_every_check():
    x = torch.zeros(2, 3)
    shapes.check_float("f", "(B, T)", x=x)
    shapes.check_float("f", "(..., V)", x=torch.zeros(4, 2, 3))
    shapes.check_float("f", "(..., V)", x=torch.zeros(3))
    shapes.check_float("f", "(...)", x=torch.zeros(()))
    shapes.check_same_shape("f", "(B, T)", x=x, y=x)
    shapes.check_mask("f", x > 0, x=x)
    shapes.check_tokens("f", torch.zeros(2, 3, 5), torch.zeros(2, 3, dtype=torch.int32))
    shapes.check_positive("f", beta=0.1)
    shapes.check_not_negative("f", beta=0.0)
    shapes.check_unit_interval("f", low=0.0, high=1.0)


@pytest.mark.parametrize(
    ("dimensions", "shape"),
    [("(B,)", (2, 3)), ("(B, T)", (2,)), ("(B, T)", (2, 3, 4)), ("(..., V)", ())],
)
def test_other_dimensions_are_named(dimensions, shape):
    with pytest.raises(ValueError) as error:
        shapes.check_float("gae", dimensions, rewards=torch.zeros(shape))
    assert str(error.value) == f"gae: rewards must have shape {dimensions}, got {shape}"


@pytest.mark.parametrize("other", [(3, 2), (2, 1), (1, 3), (6, 1)])
def test_no_other_shape_passes(other):
    with pytest.raises(ValueError, match="f: y must have shape"):
        shapes.check_same_shape("f", "(B, T)", x=torch.zeros(2, 3), y=torch.zeros(other))


def test_another_shape_is_compared_with_the_first():
    with pytest.raises(ValueError) as error:
        shapes.check_same_shape(
            "gae", "(B, T)", rewards=torch.zeros(4, 7), values=torch.zeros(4, 8)
        )
    assert str(error.value) == (
        "gae: values must have shape (B, T) = (4, 7) like rewards, got (4, 8)"
    )


@pytest.mark.parametrize("wrong", [[1.0, 2.0], 1.0, None])
def test_what_is_no_tensor_is_refused(wrong):
    with pytest.raises(TypeError, match="f: x must be a tensor, got"):
        shapes.check_float("f", "(B,)", x=wrong)
    with pytest.raises(TypeError, match="f: mask must be a tensor, got"):
        shapes.check_mask("f", wrong, x=torch.zeros(2))
    with pytest.raises(TypeError, match="f: tokens must be a tensor, got"):
        shapes.check_tokens("f", torch.zeros(1, 2, 3), wrong)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_what_is_not_floating_point_is_refused(dtype):
    with pytest.raises(TypeError, match=f"f: x must be floating point, got {dtype}"):
        shapes.check_float("f", "(B,)", x=torch.zeros(2, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32])
def test_a_mask_that_is_not_boolean_is_refused(dtype):
    with pytest.raises(
        TypeError, match=r"mask must be boolean .* got torch\.\w+; .*mask\.bool\(\)"
    ):
        shapes.check_mask("f", torch.ones(2, dtype=dtype), x=torch.zeros(2))


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"mask must have shape \(2, 3\) like x, got \(2, 1\)"):
        shapes.check_mask("f", torch.ones(2, 1, dtype=torch.bool), x=torch.zeros(2, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_tokens_that_are_not_integers_are_refused(dtype):
    with pytest.raises(TypeError, match="tokens must be integers"):
        shapes.check_tokens("f", torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=dtype))


def test_tokens_that_do_not_fit_the_logits_are_refused():
    with pytest.raises(ValueError, match=r"tokens must have shape \(B, T\) = \(1, 2\)"):
        shapes.check_tokens("f", torch.zeros(1, 2, 3), torch.zeros(1, 3, dtype=torch.long))


@pytest.mark.parametrize("number", [0, -0.1, math.nan])
def test_numbers_that_are_not_positive_are_refused(number):
    with pytest.raises(ValueError, match="f: beta must be above 0, got"):
        shapes.check_positive("f", beta=number)


@pytest.mark.parametrize("number", [-0.1, math.nan])
def test_negative_numbers_are_refused(number):
    with pytest.raises(ValueError, match="f: beta must be 0 or more, got"):
        shapes.check_not_negative("f", beta=number)


@pytest.mark.parametrize("number", [-0.01, 1.01, math.nan])
def test_numbers_outside_the_unit_interval_are_refused(number):
    with pytest.raises(ValueError, match=r"f: gamma must lie in \[0, 1\], got"):
        shapes.check_unit_interval("f", gamma=number)
