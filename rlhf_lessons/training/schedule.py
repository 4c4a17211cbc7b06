"""The course of the step size: warm-up and half cosine (Loshchilov and Hutter 2017), or a line."""

from __future__ import annotations

import math


def schedule(step: int, steps: int, warmup: float) -> float:
    """Rise from 0 to 1 in the warm-up, then fall to 0 along a half cosine; step counts from 1."""
    rising = math.ceil(warmup * steps)
    if step <= rising:
        return step / rising
    return 0.5 * (1 + math.cos(math.pi * (step - 1 - rising) / max(1, steps - rising)))


def in_a_line(first: float, last: float | None, step: int, steps: int) -> float:
    """Move from the first step size to the last one along a line; None for the last keeps it."""
    along = (step - 1) / max(1, steps - 1)
    return first if last is None else first + along * (last - first)
