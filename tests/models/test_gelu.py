"""The tanh form of GELU against its formula, and its gradient against finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from rlhf_lessons.models import gelu


@pytest.fixture(autouse=True)
def tiny_parts(monkeypatch):
    """Parts of seven numbers, and no tensor too small, so that small tensors show everything."""
    monkeypatch.setattr(gelu, "FROM_NUMBERS", 0)
    monkeypatch.setattr(gelu, "PART", 7)


def by_hand(x: float) -> float:
    return x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("with_gradient", [False, True])
@pytest.mark.parametrize("dtype, error", [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_the_values_are_those_of_the_formula(with_gradient, dtype, error):
    x = torch.linspace(-6, 6, 120, dtype=dtype).view(8, 15)
    kept = x.clone()
    with torch.set_grad_enabled(with_gradient):
        got = gelu.gelu_tanh(x.requires_grad_(with_gradient))
    by_formula = [by_hand(float(number)) for number in kept.flatten()]
    expected = torch.tensor(by_formula, dtype=torch.float64)
    torch.testing.assert_close(got.double().flatten(), expected, atol=error, rtol=0)
    assert torch.equal(x, kept)  # it works in memory of its own


@pytest.mark.parametrize("contiguous", [True, False])
def test_the_gradient_is_that_of_finite_differences(contiguous):
    generator = torch.Generator().manual_seed(0)
    x = (2 * torch.randn(5, 6, generator=generator)).double()
    x = (x if contiguous else x.T).requires_grad_()
    weights = torch.randn(x.T.shape, generator=generator).double()
    assert torch.autograd.gradcheck(lambda x: gelu.gelu_tanh(x).T * weights, x)


def test_the_functional_gradient_is_the_same():
    x = torch.linspace(-3, 3, 20).double().requires_grad_()
    (expected,) = torch.autograd.grad(gelu.gelu_tanh(x).sum(), x)
    got = torch.func.grad(lambda x: gelu.gelu_tanh(x).sum())(x.detach())
    torch.testing.assert_close(got, expected, atol=1e-14, rtol=0)  # another order of operations


def test_far_out_it_is_the_line_or_zero():
    x = torch.tensor([-1e5, -1e3, 0.0, 1e3, 1e5], requires_grad=True)
    got = gelu.gelu_tanh(x)
    got.sum().backward()
    assert got.tolist() == [0, 0, 0, 1e3, 1e5]
    assert x.grad.tolist() == [0, 0, 0.5, 1, 1]


def test_what_is_not_finite_stays_so():
    x = torch.tensor([math.nan, math.inf])
    got = gelu.gelu_tanh(x)
    assert math.isnan(got[0]) and got[1] == math.inf


def test_bfloat16_is_rounded_once():
    """The nearest number of bfloat16, which has 8 bits, to what float64 gives; the slope, too."""
    x = torch.linspace(-4, 6, 150).bfloat16().requires_grad_()
    gradient = torch.linspace(-2, 3, 150).bfloat16()
    got = gelu.gelu_tanh(x)
    got.backward(gradient)
    exact = x.detach().double().requires_grad_()
    expected = torch.nn.functional.gelu(exact, approximate="tanh")
    expected.backward(gradient.double())
    assert got.dtype == x.grad.dtype == torch.bfloat16
    nearest = {"rtol": 2**-8, "atol": 1e-6}
    torch.testing.assert_close(got.double(), expected, **nearest)
    torch.testing.assert_close(x.grad.double(), exact.grad, **nearest)


@pytest.mark.parametrize("case", ["small", "half precision"])
def test_elsewhere_it_is_torchs_own(case, monkeypatch):
    monkeypatch.setattr(gelu, "FROM_NUMBERS", 100 if case == "small" else 0)
    x = torch.linspace(-3, 3, 99, dtype=torch.float32 if case == "small" else torch.float16)
    own = torch.nn.functional.gelu(x, approximate="tanh")
    assert torch.equal(gelu.gelu_tanh(x), own)


def test_second_derivatives_are_those_of_finite_differences():
    x = torch.linspace(-2, 2, 10).double().requires_grad_()
    assert torch.autograd.gradgradcheck(gelu.gelu_tanh, x)
