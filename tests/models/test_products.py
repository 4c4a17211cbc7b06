"""Products by oneDNN: the same numbers and gradients, and no setting left changed."""

from __future__ import annotations

import pytest
import torch

from rlhf_lessons.models import products

SETTING = getattr(torch.backends.mkldnn, "matmul", None)


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


@pytest.mark.skipif(SETTING is None, reason="this torch has no such setting")
@pytest.mark.parametrize("rows", [products.FROM_ROWS, products.FROM_ROWS - 1])
def test_products_alone_meet_the_setting_and_it_is_put_back(rows, monkeypatch):
    monkeypatch.setattr(products, "_onednn_keeps_float32", lambda: True)
    before = SETTING.fp32_precision
    during = "bf16" if rows == products.FROM_ROWS else before
    met = {}
    addmm = torch.addmm

    def noted(*args):
        met["product"] = SETTING.fp32_precision
        return addmm(*args)

    def attention(*args):
        met["attention"] = SETTING.fp32_precision
        return args[0]

    monkeypatch.setattr(products.torch, "addmm", noted)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    layer = torch.nn.Linear(4, 5)
    with products.fast_products(torch.device("cpu")):
        x = torch.randn(rows, 4)
        torch.nn.functional.scaled_dot_product_attention(x, x, x)
        out = layer(x)
    assert met == {"attention": before} | ({"product": during} if during == "bf16" else {})
    assert SETTING.fp32_precision == before

    node = (
        out.grad_fn if "Addmm" in type(out.grad_fn).__name__ else out.grad_fn.next_functions[0][0]
    )
    node.register_prehook(lambda _: met.update(gradient=SETTING.fp32_precision))
    node.register_hook(lambda *_: met.update(after=SETTING.fp32_precision))
    out.sum().backward()
    assert (met["gradient"], met["after"]) == (during, before)


@pytest.mark.skipif(SETTING is None, reason="this torch has no such setting")
def test_an_error_in_a_product_leaves_the_setting_as_it_was(monkeypatch):
    monkeypatch.setattr(products, "_onednn_keeps_float32", lambda: True)
    before = SETTING.fp32_precision
    layer = torch.nn.Linear(4, 5)
    with pytest.raises(RuntimeError, match="shape"), products.fast_products(torch.device("cpu")):
        layer(torch.randn(64, 3))
    assert SETTING.fp32_precision == before
