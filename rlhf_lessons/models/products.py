"""Float32 matrix products on a CPU by the faster of torch's two libraries.

torch multiplies float32 matrices with MKL; the products of oneDNN, its other library, are up to
twice as fast on some CPUs and as exact. torch sends products there only when told that bfloat16
would do. Few CPUs (those with AMX) then use it; on all others the result is float32 as before, and
one product tells which. ``benchmarks/RESULTS.md`` measures the gain.

What is here: :class:`OneDNN`, a block in which products go there, and :func:`fast_products`, a
block in which the linear layers of any model and ``torch.bmm`` do, now and when their gradients are
computed. Fused attention must not: it is up to 13 times slower there. Left out on purpose: other
devices.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__: list[str] = []

FROM_ROWS = 32  # below it, what a call of oneDNN costs is more than it saves


class OneDNN:
    """A block in which float32 matrix products go to oneDNN.

    Args:
        use: False changes nothing.
    """

    def __init__(self, use: bool = True) -> None:
        self.use = use

    def __enter__(self) -> None:
        if self.use:
            self.before = torch.backends.mkldnn.matmul.fp32_precision
            torch.backends.mkldnn.matmul.fp32_precision = "bf16"

    def __exit__(self, *error: object) -> None:
        if self.use:
            torch.backends.mkldnn.matmul.fp32_precision = self.before


def onednn_suits(x: Tensor) -> bool:
    """Say whether the product of ``x`` (N, K) and a weight is faster there, and the same.

    Or N products of two matrices, ``x`` (N, M, K) and another.
    """
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.shape[0] >= FROM_ROWS
        and _onednn_keeps_float32()
    )


def fast_products(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Make a block in which linear layers and ``torch.bmm`` multiply by oneDNN where that suits.

    The products of their gradients take the same way, wherever ``backward`` is called.

    Args:
        device: where the model is.

    Returns:
        the context manager, which does nothing where it would gain nothing.
    """
    suits = device.type == "cpu" and _onednn_keeps_float32()
    return _FastProducts() if suits else contextlib.nullcontext()


class _FastProducts(TorchFunctionMode):
    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Do what was called; products, linear layers among them, by oneDNN."""
        if function is F.linear and not kwargs:
            return _linear(*args)
        if function is torch.addmm and not kwargs and onednn_suits(args[1]):
            return _product(torch.addmm, *args)
        if function is torch.bmm and not kwargs and onednn_suits(args[0]):
            return _product(torch.bmm, *args)
        return function(*args, **(kwargs or {}))


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b for x of any shape, as a product of two matrices."""
    rows = x.reshape(-1, x.shape[-1])
    if not (type(weight) is torch.nn.Parameter and onednn_suits(rows)):
        return F.linear(x, weight, bias)
    product = (torch.mm,) if bias is None else (torch.addmm, bias)
    return _product(*product, rows, weight.T).view(*x.shape[:-1], len(weight))


def _product(function: Callable[..., Tensor], *args: Tensor) -> Tensor:
    """Multiply, and later compute the two products of the gradient."""
    block = OneDNN()
    with block:
        result = function(*args)
    if result.grad_fn is not None:
        result.grad_fn.register_prehook(lambda _: block.__enter__())
        result.grad_fn.register_hook(lambda *_: block.__exit__())
    return result


@functools.cache
def _onednn_keeps_float32() -> bool:
    """Say whether oneDNN multiplies in float32: its error is near 1e-7 then, else near 1e-3."""
    setting = getattr(torch.backends.mkldnn, "matmul", None)  # since torch 2.9
    if setting is None or not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 128, 128, generator=generator)
    exact = a.double() @ b.double()
    with OneDNN():
        error = (torch.mm(a, b) - exact).abs().max() / exact.abs().max()
    return bool(error < 1e-5)
