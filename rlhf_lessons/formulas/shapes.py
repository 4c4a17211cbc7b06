"""Entry checks of the formulas: what was expected, what came.

A wrong shape rarely crashes a tensor program: (B,) and (B, 1) broadcast to (B, B), and the loss of
a wrong number goes down too. So each formula checks its inputs first. All lessons rely on these
checks; none teaches them.

Left out on purpose: a shape-annotation language, checks of values that would hide or forbid NaN,
and broadcasting. Two tensors either have the same shape or the caller reshapes them in plain sight.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "check_float",
    "check_mask",
    "check_not_negative",
    "check_positive",
    "check_same_shape",
    "check_tokens",
    "check_unit_interval",
]


def _count(dimensions: str) -> tuple[int, bool]:
    """Read "(..., V)" as (1, True): one named dimension, more allowed in front."""
    names = [name.strip() for name in dimensions.strip("()").split(",") if name.strip()]
    return len([name for name in names if name != "..."]), "..." in names


def check_float(function: str, dimensions: str, **tensors: Tensor) -> None:
    """Check that each tensor is floating point and has the named dimensions.

    Args:
        function: Name of the calling formula, for the message.
        dimensions: Names of the dimensions, such as "(B, T)" or "(..., V)".
        **tensors: The tensors to check, by argument name.

    Raises:
        TypeError: If a value is no tensor, or its dtype is not floating point.
        ValueError: If the number of dimensions differs.
    """
    needed, more_allowed = _count(dimensions)
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{function}: {name} must be a tensor, got {type(tensor).__name__}")
        if not tensor.is_floating_point():
            raise TypeError(f"{function}: {name} must be floating point, got {tensor.dtype}")
        if tensor.dim() < needed or (tensor.dim() > needed and not more_allowed):
            raise ValueError(
                f"{function}: {name} must have shape {dimensions}, got {tuple(tensor.shape)}"
            )


def check_same_shape(function: str, dimensions: str, **tensors: Tensor) -> None:
    """Check that floating-point tensors have the named dimensions and all the same shape.

    Args:
        function: Name of the calling formula, for the message.
        dimensions: Names of the dimensions, such as "(B, T)" or "(..., V)".
        **tensors: The tensors to check, by argument name; the first one sets the shape.

    Raises:
        TypeError: If a value is no tensor, or its dtype is not floating point.
        ValueError: If a tensor has other dimensions, or another shape than the first.
    """
    check_float(function, dimensions, **tensors)
    (first_name, first), *others = tensors.items()
    for name, tensor in others:
        if tensor.shape != first.shape:
            raise ValueError(
                f"{function}: {name} must have shape {dimensions} = {tuple(first.shape)} "
                f"like {first_name}, got {tuple(tensor.shape)}"
            )


def check_mask(function: str, mask: Tensor, **like: Tensor) -> None:
    """Check that a mask is boolean and covers a tensor position by position.

    A mask of 0 and 1 as integers or floats is refused: ``~mask`` of an integer mask is −1 and −2,
    both of them "true".

    Args:
        function: Name of the calling formula, for the message.
        mask: The mask, True = counts.
        **like: One tensor, by argument name, whose shape the mask must have.

    Raises:
        TypeError: If the mask is no tensor, or is not boolean.
        ValueError: If the shape differs.
    """
    if not isinstance(mask, Tensor):
        raise TypeError(f"{function}: mask must be a tensor, got {type(mask).__name__}")
    if mask.dtype != torch.bool:
        raise TypeError(
            f"{function}: mask must be boolean (True = counts), got {mask.dtype}; "
            "turn 0 and 1 into a mask with mask.bool()"
        )
    for name, tensor in like.items():
        if mask.shape != tensor.shape:
            raise ValueError(
                f"{function}: mask must have shape {tuple(tensor.shape)} like {name}, "
                f"got {tuple(mask.shape)}"
            )


def check_tokens(function: str, logits: Tensor, tokens: Tensor) -> None:
    """Check that logits have shape (B, T, V) and tokens are integers of shape (B, T).

    Args:
        function: Name of the calling formula, for the message.
        logits: The logits to check.
        tokens: The token ids to check.

    Raises:
        TypeError: If logits are not floating point or tokens are not integers.
        ValueError: If a shape differs.
    """
    check_float(function, "(B, T, V)", logits=logits)
    if not isinstance(tokens, Tensor):
        raise TypeError(f"{function}: tokens must be a tensor, got {type(tokens).__name__}")
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise TypeError(f"{function}: tokens must be integers, got {tokens.dtype}")
    if tokens.shape != logits.shape[:-1]:
        raise ValueError(
            f"{function}: tokens must have shape (B, T) = {tuple(logits.shape[:-1])} like logits "
            f"without its last dimension, got {tuple(tokens.shape)}"
        )


def check_positive(function: str, **numbers: float) -> None:
    """Check that each number is above 0, which NaN is not.

    Args:
        function: Name of the calling formula, for the message.
        **numbers: The numbers to check, by argument name.

    Raises:
        ValueError: If a number is 0, negative or NaN.
    """
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f"{function}: {name} must be above 0, got {number}")


def check_not_negative(function: str, **numbers: float) -> None:
    """Check that each number is 0 or more, which NaN is not.

    Args:
        function: Name of the calling formula, for the message.
        **numbers: The numbers to check, by argument name.

    Raises:
        ValueError: If a number is negative or NaN.
    """
    for name, number in numbers.items():
        if not number >= 0:
            raise ValueError(f"{function}: {name} must be 0 or more, got {number}")


def check_unit_interval(function: str, **numbers: float) -> None:
    """Check that each number lies in [0, 1], where NaN does not.

    Args:
        function: Name of the calling formula, for the message.
        **numbers: The numbers to check, by argument name.

    Raises:
        ValueError: If a number lies outside [0, 1].
    """
    for name, number in numbers.items():
        if not 0 <= number <= 1:
            raise ValueError(f"{function}: {name} must lie in [0, 1], got {number}")
