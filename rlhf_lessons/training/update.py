"""One update of the weights: what every loop that trains a language model does alike.

    forward pass, in float32 or (``precision``) with products in bfloat16
    backward pass, the batch in parts where ``accumulate`` asks for it
    ``gradient_step``: refuse what is not finite, shorten, move

and around the whole loop ``with_memory_advice``. Left out on purpose: scaling of gradients, which
bfloat16 does not need, and several devices.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from rlhf_lessons.models.memory import memory_advice

__all__: list[str] = []

Record = TypeVar("Record")


def precision(device: torch.device, bf16: bool) -> torch.autocast:
    """Make the context of a forward pass: products in bfloat16, if asked for.

    Args:
        device: where the model is.
        bf16: whether matrix products and attention run in bfloat16. The weights stay float32, and
            what the models give back (logits, rewards) becomes float32 before any loss.

    Returns:
        the context manager.

    Warns:
        RuntimeWarning: on a CPU without instructions for bfloat16, where a step takes six times as
            long as in float32 (``benchmarks/RESULTS.md``).
    """
    on_cpu = bf16 and device.type == "cpu" and torch.backends.mkldnn.is_available()
    if on_cpu and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        warnings.warn(
            "bf16=True: this CPU has no instructions for bfloat16 and computes it several times "
            "more slowly than float32; bf16=False is faster here",
            RuntimeWarning,
            stacklevel=2,
        )
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)


def gradient_step(
    where: str,
    at: str,
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    weights: Sequence[Tensor],
    max_norm: float,
    learning_rate: float,
    *also: Tensor,
) -> tuple[float, ...]:
    """Move the weights along their gradients, which are then cleared.

    Numbers come from the device once, all together, for it has nothing to do meanwhile.

    Args:
        where: the loop, for messages.
        at: which update this is, such as "step 3 of 5", for messages.
        loss: () the batch's loss, whose gradients the weights hold.
        optimizer: what moves them.
        weights: the weights.
        max_norm: the gradient is scaled down to this length where it is longer.
        learning_rate: step size of all groups of the optimizer.
        *also: () each, whatever else was measured.

    Returns:
        the loss, the length that the gradient had, and what else was measured.

    Raises:
        FloatingPointError: if loss or gradient is NaN or infinite; no weight has moved.
    """
    norm = torch.nn.utils.clip_grad_norm_(weights, max_norm)
    measured = torch.stack([x.detach().double() for x in (loss, norm, *also)])
    value, length, *others = measured.tolist()
    if not (math.isfinite(value) and math.isfinite(length)):
        optimizer.zero_grad()
        raise FloatingPointError(
            f"{where}: loss and gradient must be finite, got a loss of {value:g} and a gradient "
            f"norm of {length:g} at {at}; the weights are those before it. A lower learning_rate "
            f"often helps"
        )
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    optimizer.zero_grad()
    return value, length, *others


def with_memory_advice(where: str, loop: Iterator[Record]) -> Iterator[Record]:
    """Run a loop, and where memory runs out say what to lower.

    Args:
        where: the loop's name, for the message.
        loop: the loop.

    Yields:
        its records.

    Raises:
        torch.OutOfMemoryError: instead of the bare error of the device's allocator.
    """
    advice = (
        "Raise accumulate (the batch in more parts, the same numbers), lower batch_size, shorten "
        "the texts (max_new_tokens), or set bf16=True"
    )
    with memory_advice(where, "a forward pass and its gradient", advice):
        yield from loop
