"""The course of the step size: a warm-up, then a half cosine (Loshchilov and Hutter 2017)."""

from __future__ import annotations

import math


def schedule(step: int, steps: int, warmup: float) -> float:
    """Rise from 0 to 1 in the warm-up, then fall to 0 along a half cosine; step counts from 1."""
    rising = math.ceil(warmup * steps)
    if step <= rising:
        return step / rising
    return 0.5 * (1 + math.cos(math.pi * (step - 1 - rising) / max(1, steps - rising)))
