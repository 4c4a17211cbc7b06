"""The natural-gradient step of a softmax policy: a step whose length is measured in KL (lesson 5).

A gradient step is short or long in *logits*, and the same change of a logit may change a policy a
lot or not at all. The natural gradient asks for the best direction among all policies that are
equally far in KL from the present one.

Left out on purpose: the line search that follows the step in TRPO
(``evaluation.step_to_kl`` searches on an enumerated world), and conjugate gradients, which replace
the closed form where a policy is a network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lessons.formulas.shapes import check_float, check_not_negative, check_same_shape

__all__ = ["natural_gradient_step"]


def natural_gradient_step(
    logits: Tensor, gradient: Tensor, visits: Tensor, max_kl: float
) -> Tensor:
    """Take the step that gains most, to first order, among those δ away in KL, to second order.

        z_new = z + √(2δ / Σ_{s,a} g · x) · x, with x = F⁻¹ g = g(s, a) / (d(s) · π(a | s))

    F, the Fisher information of a table of softmaxes, has one block per state,
    d(s) · (diag(π) − π πᵀ), and ½ Δzᵀ F Δz is the KL from the old to the new policy, averaged over
    states, to second order. With the exact policy gradient g = d · π · A, x is the advantage A.

    A state that is never visited and an action of probability 0 keep their logits. Where the
    gradient is 0 everywhere, nothing changes.

    Args:
        logits: (..., N, A) the policy's logits z at N states; leading dimensions are policies side
            by side.
        gradient: (..., N, A) gradient g of what is to grow, in the logits; each row adds up to 0,
            as gradients through a softmax do.
        visits: (..., N) how often the policy visits each state, d(s), 0 or more.
        max_kl: δ, the KL to go, 0 or more, in nats and per unit of visits: per response where
            ``visits`` counts visits per response.

    Returns:
        (..., N, A) the new logits.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If a shape differs, δ is negative, a row of the gradient does not add up to 0,
            or a state without visits has a gradient.

    Source:
        Kakade 2001, "A Natural Policy Gradient", theorem 1; the step's length: Schulman et al.
        2015, "Trust Region Policy Optimization", appendix C.
    """
    check_same_shape("natural_gradient_step", "(..., N, A)", logits=logits, gradient=gradient)
    check_float("natural_gradient_step", "(..., N)", visits=visits)
    check_not_negative("natural_gradient_step", max_kl=max_kl)
    if visits.shape != logits.shape[:-1]:
        raise ValueError(
            f"natural_gradient_step: visits must have shape (..., N) = {tuple(logits.shape[:-1])} "
            f"like logits without its last dimension, got {tuple(visits.shape)}"
        )
    sums, sizes = gradient.sum(-1).abs(), gradient.abs().sum(-1)
    if bool((sums > 1e-4 * sizes + 1e-12).any()):
        raise ValueError(
            "natural_gradient_step: each row of gradient must add up to 0, as gradients through a "
            f"softmax do, got a row that adds up to {float(sums.max()):.3g}"
        )
    if bool(((visits == 0) & (sizes > 0)).any()):
        raise ValueError(
            "natural_gradient_step: gradient must be 0 where visits is 0, got a gradient at a "
            "state that is never visited"
        )
    information = visits.unsqueeze(-1) * logits.softmax(-1)
    direction = torch.where(information > 0, gradient / information, 0)
    slope = (gradient * direction).sum((-2, -1), keepdim=True)  # gᵀ F⁻¹ g
    size = torch.where(slope > 0, (2 * max_kl / slope).sqrt(), 0)
    return logits + size * direction
