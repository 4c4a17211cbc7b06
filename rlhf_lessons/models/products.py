"""Float32 matrix products on a CPU by the faster of torch's two libraries.

torch multiplies float32 matrices with MKL; the products of oneDNN, its other library, are up to
twice as fast on some CPUs and as exact. torch sends products there only when told that bfloat16
would do, and oneDNN then uses it where it gains by it: on x86 with AMX and with nothing else, on
ARM wherever there is bfloat16. So products go there on x86 without AMX alone, and only after each
kind of them was tried and found exact. ``benchmarks/RESULTS.md`` measures the gain.

What is here: :class:`OneDNN`, a block in which products go there; :func:`product` and
:func:`linear`, which go there where that suits, now and when their gradients are computed; and
:func:`fast_products`, a block in which the linear layers of any model and ``torch.bmm`` do. Fused
attention must not: it is up to 13 times slower there. Left out on purpose: other devices.
"""

from __future__ import annotations

import contextlib
import functools
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__: list[str] = []

FROM_ROWS = 32  # below it, what a call of oneDNN costs is more than it saves
FROM_NUMBERS = 2**16  # in training, whose steps keep bringing new shapes: each costs 0.4 ms once
FROM_NUMBERS_SAMPLING = 2**13  # whose steps repeat their shapes


class OneDNN:
    """A block in which float32 matrix products go to oneDNN, however it ends.

    Args:
        use: False changes nothing.
    """

    def __init__(self, use: bool = True) -> None:
        self.use = use

    # What torch.backends.mkldnn.matmul.fp32_precision calls; an interrupt cannot come in between.
    def __enter__(self) -> None:
        if self.use:
            self.before = torch._C._get_fp32_precision_getter("mkldnn", "matmul")
            torch._C._set_fp32_precision_setter("mkldnn", "matmul", "bf16")

    def __exit__(self, *error: object) -> None:
        if self.use:
            torch._C._set_fp32_precision_setter("mkldnn", "matmul", self.before)


def onednn_suits(x: Tensor, numbers: int = 0) -> bool:
    """Say whether the product of ``x`` (N, K) and a weight is faster there, and the same.

    Or N products of two matrices, ``x`` (N, M, K) and another. ``numbers`` is how many ``x`` must
    hold at least.
    """
    return (
        x.numel() >= numbers
        and x.shape[0] >= FROM_ROWS
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")  # which multiplies in another precision
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
            return linear(*args)
        if function is torch.addmm and not kwargs:
            return product(*args)
        if function is torch.bmm and not kwargs:
            return product(None, *args)
        return function(*args, **(kwargs or {}))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute x Wᵀ + b, by oneDNN where that suits.

    Args:
        x: (..., K).
        weight: (M, K).
        bias: (M,), or None.

    Returns:
        (..., M).
    """
    rows = x.reshape(-1, x.shape[-1])
    if not (type(weight) is torch.nn.Parameter and onednn_suits(rows, FROM_NUMBERS)):
        return F.linear(x, weight, bias)
    return product(bias, rows, weight.T).view(*x.shape[:-1], len(weight))


def product(bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """Compute a·b, plus a bias or not, by oneDNN where that suits; its gradient goes the same way.

    Args:
        bias: what is added, or None.
        a: (N, K), or (N, M, K) for N products.
        b: (K, M), or N of them.

    Returns:
        the product.
    """
    if not onednn_suits(a, FROM_NUMBERS):
        return _multiply(a, b, bias)
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return _multiply(a, b, bias)  # these derivatives want torch's own operations
    return _Product.apply(bias, a, b)


def _multiply(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    if bias is not None:
        return torch.addmm(bias, a, b)
    return torch.mm(a, b) if a.dim() == 2 else torch.bmm(a, b)


class _Product(torch.autograd.Function):
    """A product and its gradient, each in a block of its own, which ends with any error too."""

    @staticmethod
    def forward(ctx: Any, bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.bias_shape = None if bias is None else bias.shape
        with OneDNN():
            return _multiply(a, b, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        of_bias, of_a, of_b = ctx.needs_input_grad
        bias_gradient = a_gradient = b_gradient = None
        with OneDNN():
            if of_bias:
                bias_gradient = gradient.sum_to_size(ctx.bias_shape)
            if of_a:
                a_gradient = _multiply(gradient, b.mT)
            if of_b and b.mT.is_contiguous():  # laid out like b, or it would be copied
                b_gradient = _multiply(gradient.mT, a).mT
            elif of_b:
                b_gradient = _multiply(a.mT, gradient)
        return bias_gradient, a_gradient, b_gradient


@functools.cache
def _onednn_keeps_float32() -> bool:
    """Say whether oneDNN multiplies in float32 here; finding out takes some 20 ms, once."""
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    return (
        hasattr(torch._C, "_set_fp32_precision_setter")  # since torch 2.9
        and torch.backends.mkldnn.is_available()
        and platform.machine() in ("x86_64", "AMD64")
        and not has_amx()
        # Its error is near 1e-7 then, else near 1e-3. Small and large products, and batches of
        # them, take different ways through the libraries.
        and max(map(_error, ((64, 128, 384), (1024, 128, 384), (64, 32, 32, 32)))) < 1e-5
    )


def _error(sizes: tuple[int, ...]) -> float:
    """Give the largest error of a product and of those in its gradient, next to what they give.

    Args:
        sizes: rows, inner size and columns, after the number of products if these are many.
    """
    *many, rows, inner, columns = sizes
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(*many, rows, inner, generator=generator)
    b = torch.randn(*many, inner, columns, generator=generator)
    result = torch.randn(*many, rows, columns, generator=generator)
    bias = None if many else torch.zeros(columns)
    errors = []
    for left, right, added in (
        (a, b, bias), (result, b.mT, None), (a.mT, result, None), (result.mT, a, None)
    ):  # fmt: skip
        with OneDNN():
            product = _multiply(left, right, added)[..., :8, :]  # some rows tell
        exact = left[..., :8, :].double() @ right.double()
        errors.append(float((product - exact).abs().max() / exact.abs().max()))
    return max(errors)
