"""Where memory runs out: an error that says what to lower, in the place of the allocator's own.

Left out on purpose: going on with less by itself, which would change a result unseen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

__all__: list[str] = []


class _Advised(torch.OutOfMemoryError):
    """An error that says what to lower."""


@contextlib.contextmanager
def memory_advice(where: str, what: str, advice: str) -> Iterator[None]:
    """Make a block that says what to lower where memory runs out; an inner block goes first.

    Args:
        where: the function, to begin the message with.
        what: what has to fit.
        advice: what to lower.

    Raises:
        torch.OutOfMemoryError: in the place of the bare error of the device's allocator.
    """
    try:
        yield
    except _Advised:
        raise
    except (MemoryError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        # The CPU's allocator has no error class of its own.
        full = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not full and "DefaultCPUAllocator" not in reason:
            raise
        raise _Advised(
            f"{where}: {what} must fit into memory, but it ran out: {reason}. {advice}"
        ) from error
