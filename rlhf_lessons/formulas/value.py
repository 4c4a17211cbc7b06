"""Losses that teach a value function what a state is worth (lesson 4).

V(s) predicts the return from a state on; the target is the return that came. PPO can clip the step
of the prediction as it clips the policy's.

What the equations hold fixed, the returns and the old values, is detached here.

Left out on purpose: masks and means (the loop reduces with ``masking.masked_mean``), and the weight
c1 of the value loss in PPO's total, which is a setting of the loop.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lessons.formulas.shapes import check_positive, check_same_shape

__all__ = ["clipped_value_loss", "value_loss"]


def value_loss(values: Tensor, returns: Tensor) -> Tensor:
    """Give half the squared error of the predicted values, for each token.

        L_t = ½ · (V_t − R_t)², so that ∇L = (V − R) · ∇V

    Args:
        values: (B, T) predicted value of each state, with gradient.
        returns: (B, T) what to predict, in the unit of the values; taken as constants.

    Returns:
        (B, T) losses in the unit of the values, squared.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If a shape differs.

    Source:
        Schulman et al. 2017, "Proximal Policy Optimization Algorithms", equation 9, with ½.
    """
    check_same_shape("value_loss", "(B, T)", values=values, returns=returns)
    return 0.5 * (values - returns.detach()).square()


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, epsilon: float
) -> Tensor:
    """Give the value loss that rewards no step longer than ε, for each token.

        L_t = ½ · max((V_t − R_t)², (clip(V_t, V_old,t − ε, V_old,t + ε) − R_t)²)

    The max is the more pessimistic of two losses: a value that has moved toward the return by more
    than ε gets gradient 0, one that has moved away is pulled back.

    Args:
        values: (B, T) predicted value of each state, with gradient.
        old_values: (B, T) predictions when the batch was sampled; taken as constants.
        returns: (B, T) what to predict, in the unit of the values; taken as constants.
        epsilon: Clip range ε above 0, in the unit of the values.

    Returns:
        (B, T) losses in the unit of the values, squared.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If a shape differs or ε is not above 0.

    Source:
        Engstrom et al. 2020, "Implementation Matters in Deep Policy Gradients", section 3, item 1.
    """
    check_same_shape(
        "clipped_value_loss", "(B, T)", values=values, old_values=old_values, returns=returns
    )
    check_positive("clipped_value_loss", epsilon=epsilon)
    old_values, returns = old_values.detach(), returns.detach()
    clipped_values = torch.clamp(values, old_values - epsilon, old_values + epsilon)
    return 0.5 * torch.maximum((values - returns).square(), (clipped_values - returns).square())
