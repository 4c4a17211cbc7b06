"""Learning from thumbs: single responses called good or bad, without pairs (lesson 9).

A pair says which of two is better. A thumb says of one response that it is good, or that it is bad,
and costs a rater less. There is no other response to compare with, so KTO compares with a
reference point: how far the policy as a whole has moved away from the reference.

    r̂ = log π(y) − log π_ref(y), z = max(0, mean of r̂ over responses drawn for other prompts)

A good response should lie above z, a bad one below, and both losses level off: people mind the
first steps away from what they are used to most.

Left out on purpose: BCO, the same with a running mean for z, and APO-zero for single responses,
which is ``kto_loss`` with z = 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lessons.formulas.shapes import (
    check_float,
    check_mask,
    check_positive,
    check_same_shape,
)

__all__ = ["kto_loss", "kto_reference_point"]


def kto_reference_point(policy_log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """Estimate KTO's reference point: the KL from the reference, from mismatched pairs.

        z = max(0, 1/B · Σ_i (log π(y'_i | x_i) − log π_ref(y'_i | x_i)))

    y'_i is a response that was written for another prompt. It is not drawn from π, so this is no
    unbiased estimate of the KL. It is cheap, and like the KL it is never below 0.

    Args:
        policy_log_probs: (B,) log π(y' | x) of the mismatched responses in nats, summed.
        reference_log_probs: (B,) log π_ref(y' | x) of the same in nats, summed.

    Returns:
        () reference point in nats, 0 or more, without gradient.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If a shape differs or there is no response.

    Source:
        Ethayarajh et al. 2024, "KTO: Model Alignment as Prospect Theoretic Optimization", section
        4.1, the estimate of z_0.
    """
    check_same_shape(
        "kto_reference_point",
        "(B,)",
        policy_log_probs=policy_log_probs,
        reference_log_probs=reference_log_probs,
    )
    if len(policy_log_probs) == 0:
        raise ValueError("kto_reference_point: policy_log_probs must hold a response, got B = 0")
    return (policy_log_probs - reference_log_probs).mean().clamp(min=0).detach()


def kto_loss(
    policy_log_probs: Tensor,
    reference_log_probs: Tensor,
    desirable_mask: Tensor,
    reference_point: Tensor,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """Give KTO's loss of single responses that people called good or bad.

        L = λ_D · (1 − σ(β · (r̂ − z)))  where the response is desirable,
        L = λ_U · (1 − σ(β · (z − r̂)))  where it is not, with r̂ = log π(y | x) − log π_ref(y | x)

    The gradient is largest at r̂ = z and fades on both sides: what is hopelessly wrong is left alone
    as well as what is long learned, so that a wrong label can't pull for ever.

    Args:
        policy_log_probs: (B,) log π(y | x) in nats, summed over the response, with gradient.
        reference_log_probs: (B,) log π_ref(y | x) in nats, summed; constants.
        desirable_mask: (B,) boolean, True = thumb up.
        reference_point: () z in nats, such as ``kto_reference_point`` gives it; a constant.
        beta: β above 0, per nat: how soon the loss levels off.
        desirable_weight: λ_D above 0, the weight of good responses. λ_D · (number of good ones)
            and λ_U · (number of bad ones) should be about equal.
        undesirable_weight: λ_U above 0, the weight of bad ones.

    Returns:
        (B,) losses in (0, λ); λ/2 where r̂ = z.

    Raises:
        TypeError: If a tensor is not floating point or the mask is not boolean.
        ValueError: If a shape differs, or β or a weight is not above 0.

    Source:
        Ethayarajh et al. 2024, "KTO: Model Alignment as Prospect Theoretic Optimization", section
        4.1, L_KTO; the weights: section 4.2.
    """
    check_same_shape(
        "kto_loss",
        "(B,)",
        policy_log_probs=policy_log_probs,
        reference_log_probs=reference_log_probs,
    )
    check_mask("kto_loss", desirable_mask, policy_log_probs=policy_log_probs)
    check_float("kto_loss", "()", reference_point=reference_point)
    check_positive(
        "kto_loss",
        beta=beta,
        desirable_weight=desirable_weight,
        undesirable_weight=undesirable_weight,
    )
    log_ratio = policy_log_probs - reference_log_probs.detach()
    above = beta * (log_ratio - reference_point.detach())
    return torch.where(
        desirable_mask,
        desirable_weight * torch.sigmoid(-above),  # 1 − σ(x) = σ(−x), which does not cancel
        undesirable_weight * torch.sigmoid(above),
    )
