"""Products by oneDNN: the same numbers and gradients, and no setting left changed."""

from __future__ import annotations

import contextlib
import time

import pytest
import torch

from rlhf_lessons.models import products

SETTING = getattr(torch.backends.mkldnn, "matmul", None)  # since torch 2.9
needs_setting = pytest.mark.skipif(SETTING is None, reason="this torch has no such setting")


@pytest.fixture(autouse=True)
def small_products_count(monkeypatch):
    monkeypatch.setattr(products, "FROM_NUMBERS", 0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(64, 24), (8, 8, 24), (3, 24)])
def test_a_linear_layer_and_its_gradients_equal_float64(shape, bias):
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(24, 40, bias=bias)
    exact = torch.nn.Linear(24, 40, bias=bias).double()
    exact.load_state_dict(layer.state_dict())
    x = torch.randn(shape, generator=generator).requires_grad_()
    twin = x.detach().double().requires_grad_()
    weight = torch.randn((*shape[:-1], 40), generator=generator)
    with products.fast_products(x.device):
        out = layer(x)
    (out * weight).sum().backward()
    expected = exact(twin)
    (expected * weight).sum().backward()
    # Sums of at most 64 products near 1: float32 misses by some 1e-6, bfloat16 by 1e-2.
    torch.testing.assert_close(out, expected.float(), atol=2e-5, rtol=0)
    torch.testing.assert_close(x.grad, twin.grad.float(), atol=2e-5, rtol=0)
    for got, wanted in zip(layer.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(got.grad, wanted.grad.float(), atol=2e-5, rtol=0)


@pytest.mark.parametrize("count, passes", [(products.FROM_ROWS, 2), (products.FROM_ROWS - 1, 0)])
def test_many_small_products_and_their_gradients_equal_float64(count, passes, monkeypatch):
    suits, entered = products._onednn_keeps_float32(), []
    enter = products.OneDNN.__enter__
    monkeypatch.setattr(
        products.OneDNN, "__enter__", lambda block: (entered.append(1), enter(block))[1]
    )
    generator = torch.Generator().manual_seed(0)
    factors = [torch.randn(count, *size, generator=generator) for size in ((5, 7), (7, 6))]
    weight = torch.randn(count, 5, 6, generator=generator)
    single = [x.clone().requires_grad_() for x in factors]
    double = [x.double().requires_grad_() for x in factors]
    with products.fast_products(weight.device):
        out = torch.bmm(*single)
    (out * weight).sum().backward()
    exact = double[0] @ double[1]
    (exact * weight).sum().backward()
    assert len(entered) == (passes if suits else 0)  # forwards and backwards
    # Sums of at most 7 products near 1: float32 misses by some 1e-7, bfloat16 by 1e-2.
    gradients = zip((x.grad for x in single), (x.grad for x in double), strict=True)
    for got, wanted in ((out, exact), *gradients):
        torch.testing.assert_close(got, wanted.float(), atol=5e-6, rtol=0)


@needs_setting
@pytest.mark.parametrize("rows", [products.FROM_ROWS, products.FROM_ROWS - 1])
def test_products_alone_meet_the_setting_and_it_is_put_back(rows, monkeypatch):
    monkeypatch.setattr(products, "_onednn_keeps_float32", lambda: True)
    before = SETTING.fp32_precision
    during = "bf16" if rows == products.FROM_ROWS else before
    met = {}

    def noting(name, function):
        def noted(*args):
            met.setdefault(name, set()).add(SETTING.fp32_precision)
            return function(*args)

        return noted

    for name in ("addmm", "mm"):
        monkeypatch.setattr(products.torch, name, noting(name, getattr(torch, name)))
    attention = noting("attention", lambda query, key, value: query)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    layer = torch.nn.Linear(4, 5)
    with products.fast_products(torch.device("cpu")):
        x = torch.randn(rows, 4).requires_grad_()
        torch.nn.functional.scaled_dot_product_attention(x, x, x)
        out = layer(x)
    assert SETTING.fp32_precision == before
    out.sum().backward()
    assert SETTING.fp32_precision == before
    ours = {"addmm": {during}, "mm": {during}} if during == "bf16" else {}
    assert met == {"attention": {before}} | ours


@needs_setting
@pytest.mark.parametrize("numbers, goes", [(64 * 4, True), (64 * 4 + 1, False)])
def test_a_product_of_few_numbers_stays_where_it_is(numbers, goes, monkeypatch):
    monkeypatch.setattr(products, "_onednn_keeps_float32", lambda: True)
    monkeypatch.setattr(products, "FROM_NUMBERS", numbers)
    before, met, addmm = SETTING.fp32_precision, [], torch.addmm

    def noted(*args):
        met.append(SETTING.fp32_precision)
        return addmm(*args)

    monkeypatch.setattr(products.torch, "addmm", noted)
    x = torch.randn(64, 4)
    with products.fast_products(x.device):
        torch.nn.Linear(4, 5)(x)
    assert met == (["bf16"] if goes else [])  # torch's own linear layer is no addmm
    assert SETTING.fp32_precision == before


@needs_setting
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, torch.OutOfMemoryError])
@pytest.mark.parametrize("call", [0, 1, 2])  # the product, and each of the two in its gradient
def test_an_error_in_a_product_leaves_the_setting_as_it_was(call, error, monkeypatch):
    monkeypatch.setattr(products, "_onednn_keeps_float32", lambda: True)
    before, calls, multiply = SETTING.fp32_precision, [], products._multiply

    def failing(*args):
        calls.append(SETTING.fp32_precision)
        if len(calls) == call + 1:
            raise error
        return multiply(*args)

    monkeypatch.setattr(products, "_multiply", failing)
    x = torch.randn(64, 4).requires_grad_()
    layer = torch.nn.Linear(4, 5)
    with pytest.raises(error), products.fast_products(torch.device("cpu")):
        layer(x).sum().backward()
    assert calls == ["bf16"] * (call + 1)
    assert SETTING.fp32_precision == before


@needs_setting
def test_an_error_elsewhere_in_the_gradient_leaves_the_setting_as_it_was(monkeypatch):
    monkeypatch.setattr(products, "_onednn_keeps_float32", lambda: True)
    before = SETTING.fp32_precision
    first, second = torch.nn.Linear(4, 5), torch.nn.Linear(5, 6)

    def fail(gradient):
        raise KeyboardInterrupt

    with products.fast_products(torch.device("cpu")):
        hidden = first(torch.randn(64, 4))
        hidden.register_hook(fail)
        out = second(hidden)
    with pytest.raises(KeyboardInterrupt):
        out.sum().backward()
    assert SETTING.fp32_precision == before


@pytest.mark.parametrize("bias", [True, False])
def test_second_derivatives_and_those_of_torch_func_equal_float64(bias):
    """Gradients of gradients, and of one row at a time, of a sum of squares of tanh."""
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(3, 4, bias=bias)
    exact = torch.nn.Linear(3, 4, bias=bias).double()
    exact.load_state_dict(layer.state_dict())
    x = torch.randn(40, 3, generator=generator)
    many = torch.randn(40, 3, 4, generator=generator)
    along = torch.randn(40, 3, generator=generator)

    def value(x, linear, many):
        with products.fast_products(x.device):
            hidden = linear(x).tanh()
            return torch.bmm(torch.bmm(hidden.unsqueeze(1), many.mT), many).square().sum()

    def curvature(x, linear, many, along):
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(value(x, linear, many), x, create_graph=True)
        return torch.autograd.grad((gradient * along).sum(), (x, *linear.parameters()))

    def of(function, *args):
        return function(x, layer, many, *args), function(
            x.double(), exact, many.double(), *(arg.double() for arg in args)
        )

    def slope(x, linear, many, along):
        return torch.func.jvp(lambda x: value(x, linear, many), (x,), (along,))[1]

    def gradient(x, linear, many):
        return torch.func.grad(value)(x, linear, many)

    def one_by_one(x, linear, many):
        rows = (x.unsqueeze(0).expand(2, *x.shape), many.unsqueeze(0).expand(2, *many.shape))
        return torch.func.vmap(lambda x, many: gradient(x, linear, many))(*rows)

    pairs = [of(curvature, along), of(slope, along), of(gradient), of(one_by_one)]
    for got, wanted in pairs:
        got, wanted = ((x,) if torch.is_tensor(x) else x for x in (got, wanted))
        for a, b in zip(got, wanted, strict=True):
            largest = float(b.detach().abs().max())
            # Numbers up to 1e3 or so from sums of some 40: float32 misses by 1e-6 of the largest.
            torch.testing.assert_close(a, b.float(), atol=2e-5 * largest, rtol=0)


def test_with_autocast_the_products_are_those_of_autocast():
    layer, x = torch.nn.Linear(8, 6), torch.randn(64, 8)
    gradients = []
    for block in (contextlib.nullcontext(), products.fast_products(x.device)):
        layer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16), block:
            out = layer(x)
        assert out.dtype == torch.bfloat16
        out.float().square().sum().backward()
        gradients.append(layer.weight.grad.clone())
    torch.testing.assert_close(*gradients, atol=0.05 * float(gradients[0].abs().max()), rtol=0)


# --- where it is left out -------------------------------------------------------------------------


def decide(monkeypatch, *, amx: bool = False, machine: str = "x86_64", multiply=None) -> bool:
    """Ask anew, on a machine that is as said and multiplies exactly, or as ``multiply`` does."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(products.platform, "machine", lambda: machine)
    if multiply is None:
        monkeypatch.setattr(products, "_error", lambda sizes: 0.0)
    else:
        monkeypatch.setattr(products, "_multiply", multiply)
    return products._onednn_keeps_float32.__wrapped__()


def in_bfloat16(where):
    """What ``_multiply`` gives on a CPU that rounds to bfloat16 where ``where`` says so."""
    multiply = products._multiply

    def rounding(a, b, bias=None):
        if where(a, b, bias):
            a, b = (x.bfloat16().float() for x in (a, b))
        return multiply(a, b, bias)

    return rounding


@needs_setting
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_on_x86_without_amx_it_is_used(monkeypatch):
    assert decide(monkeypatch)


def test_with_amx_elsewhere_and_where_nobody_knows_it_is_not_used(monkeypatch):
    assert not decide(monkeypatch, amx=True)
    assert not decide(monkeypatch, machine="aarch64")
    assert not decide(monkeypatch, machine="arm64")
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert not products._onednn_keeps_float32.__wrapped__()


@pytest.mark.parametrize(
    "where",
    [
        lambda a, b, bias: a.dim() == 3,  # batches of products alone
        lambda a, b, bias: bias is not None,
        lambda a, b, bias: a.numel() > 1000 * 100,  # many rows alone
        lambda a, b, bias: not a.is_contiguous(),  # as in the gradient of a weight
        lambda a, b, bias: not b.is_contiguous(),  # as in a linear layer
    ],
)
def test_where_any_kind_of_product_is_imprecise_it_is_not_used(where, monkeypatch):
    assert not decide(monkeypatch, multiply=in_bfloat16(where))


def test_it_is_found_out_once_and_fast():
    products._onednn_keeps_float32()
    start = time.perf_counter()
    products._onednn_keeps_float32.__wrapped__()
    assert time.perf_counter() - start < 1
    assert products._onednn_keeps_float32.cache_info().currsize == 1
