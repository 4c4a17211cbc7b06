"""Independent oracles: slow, plain, and written without the package.

Three ways to know an answer without the code under test: sum by hand in Python floats, enumerate
everything, or measure a gradient by moving one number at a time in float64.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Central differences at this step leave an error near 1e-9 for functions of size 1 in float64:
# step² from the curvature, 1e-16/step from rounding.
STEP = 1e-6
GRADIENT_TOLERANCE = 1e-7


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Draw normal numbers in float64."""
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def right_padded_mask(lengths: Sequence[int], width: int) -> Tensor:
    """Count the first ``length`` positions of each row."""
    return torch.arange(width).unsqueeze(0) < torch.tensor(lengths).unsqueeze(1)


def finite_difference(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Measure the gradient of the sum of a function by moving one input at a time."""
    x = x.detach().clone()
    gradient = torch.zeros_like(x)
    flat, flat_gradient = x.view(-1), gradient.view(-1)
    for i in range(flat.numel()):
        here = flat[i].item()
        flat[i] = here + STEP
        above = function(x).sum().item()
        flat[i] = here - STEP
        below = function(x).sum().item()
        flat[i] = here
        flat_gradient[i] = (above - below) / (2 * STEP)
    return gradient


def autograd(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Ask autograd for the same gradient."""
    x = x.detach().clone().requires_grad_()
    function(x).sum().backward()
    return x.grad


def assert_gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Assert that autograd and finite differences agree, and that there is a gradient at all."""
    measured = finite_difference(function, x)
    assert measured.abs().max() > 1e-3, "the gradient is 0 everywhere: nothing is tested"
    torch.testing.assert_close(
        autograd(function, x), measured, rtol=GRADIENT_TOLERANCE, atol=GRADIENT_TOLERANCE
    )


def softmax(logits: Sequence[float]) -> list[float]:
    """Turn logits into probabilities, one Python float at a time."""
    highest = max(logits)
    weights = [math.exp(z - highest) for z in logits]
    return [w / sum(weights) for w in weights]


def naive_returns(rewards: Sequence[float], gamma: float) -> list[float]:
    """Sum discounted rewards from each step on, by the definition and not by a recursion."""
    steps = range(len(rewards))
    return [sum(gamma ** (k - t) * rewards[k] for k in steps if k >= t) for t in steps]


def naive_gae(
    rewards: Sequence[float], values: Sequence[float], gamma: float, lam: float
) -> list[float]:
    """Average the k-step advantages with weights (1 − λ)·λ^(k−1), the last one taking the rest."""
    steps = len(rewards)
    advantages = []
    for t in range(steps):
        total, left = 0.0, steps - t
        for k in range(1, left + 1):
            k_step = sum(gamma**i * rewards[t + i] for i in range(k)) - values[t]
            if t + k < steps:
                k_step += gamma**k * values[t + k]
            weight = (1 - lam) * lam ** (k - 1) if k < left else lam ** (left - 1)
            total += weight * k_step
        advantages.append(total)
    return advantages


def naive_ranking_probability(scores: Sequence[float]) -> float:
    """Multiply the choices of a ranking: the best of all, the best of the rest, and so on."""
    probability = 1.0
    for k in range(len(scores)):
        probability *= softmax(scores[k:])[0]
    return probability


def all_sequences(vocabulary_size: int, length: int) -> Tensor:
    """List every sequence of tokens of one length."""
    return torch.tensor(list(itertools.product(range(vocabulary_size), repeat=length)))
