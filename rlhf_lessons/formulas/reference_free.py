"""Preferences without a reference model: SimPO and ORPO (lesson 9, beside DPO of lesson 6).

DPO holds two models in memory. These two hold one: they compare the policy's own log-probabilities
of the chosen and the rejected response, as *means over tokens*, because a longer response has the
lower sum whatever its worth. What else keeps the policy near where it began is missing, so SimPO
stops at a margin and ORPO fine-tunes on the chosen response at the same time.

    m = 1/|y| · Σ_t log π(y_t), which is ``masked_mean(token_log_probs, mask, dim=1)``

Left out on purpose: CPO, which is ``dpo_loss`` with a reference of zeros beside ``nll``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lessons.formulas.shapes import check_not_negative, check_positive, check_same_shape

__all__ = ["orpo_loss", "simpo_loss"]


def simpo_loss(
    policy_chosen_mean: Tensor, policy_rejected_mean: Tensor, beta: float, margin: float
) -> Tensor:
    """Give SimPO's loss: Bradley-Terry on mean log-probabilities, less a margin, for each pair.

        L = −log σ(β · m_w − β · m_l − γ), with m = 1/|y| · Σ_t log π(y_t | x, y_{<t})

    Args:
        policy_chosen_mean: (B,) m_w: *mean* log-probability of a token of the chosen response in
            nats, with gradient. Not the sum that DPO takes.
        policy_rejected_mean: (B,) m_l: the same of the rejected response, with gradient.
        beta: β above 0, in reward per nat and token; 2 or so, where DPO has 0.1.
        margin: γ, 0 or more, by how much the chosen reward is to be higher.

    Returns:
        (B,) losses in nats; log 2 where the rewards differ by γ.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If a shape differs, β is not above 0, or the margin is negative.

    Source:
        Meng et al. 2024, "SimPO: Simple Preference Optimization with a Reference-Free Reward",
        equation 6.
    """
    check_same_shape(
        "simpo_loss",
        "(B,)",
        policy_chosen_mean=policy_chosen_mean,
        policy_rejected_mean=policy_rejected_mean,
    )
    check_positive("simpo_loss", beta=beta)
    check_not_negative("simpo_loss", margin=margin)
    return -torch.nn.functional.logsigmoid(
        beta * (policy_chosen_mean - policy_rejected_mean) - margin
    )


def orpo_loss(
    policy_chosen_mean: Tensor, policy_rejected_mean: Tensor, odds_weight: float
) -> Tensor:
    """Give ORPO's loss: fine-tuning on the chosen response, and an odds ratio, for each pair.

        L = −m_w − λ · log σ(log odds_w − log odds_l), with log odds = m − log(1 − exp m)

    m is the mean log-probability of a token, and exp m stands for the probability of the response.

    Args:
        policy_chosen_mean: (B,) m_w: *mean* log-probability of a token of the chosen response in
            nats, below 0, with gradient. Not the sum that DPO takes.
        policy_rejected_mean: (B,) m_l: the same of the rejected response, with gradient.
        odds_weight: λ, 0 or more; 0 is fine-tuning on the chosen responses alone.

    Returns:
        (B,) losses in nats.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If a shape differs, λ is negative, or a mean log-probability is 0 or above:
            what is certain has no odds.

    Source:
        Hong et al. 2024, "ORPO: Monolithic Preference Optimization without Reference Model",
        equations 4, 6 and 7.
    """
    means = {"policy_chosen_mean": policy_chosen_mean, "policy_rejected_mean": policy_rejected_mean}
    check_same_shape("orpo_loss", "(B,)", **means)
    check_not_negative("orpo_loss", odds_weight=odds_weight)
    for name, mean in means.items():
        if bool((mean >= 0).any()):
            raise ValueError(
                f"orpo_loss: {name} must be below 0, a log-probability per token, "
                f"got {float(mean.max())}"
            )
    chosen_log_odds, rejected_log_odds = (m - torch.log(-torch.expm1(m)) for m in means.values())
    odds_ratio_loss = -torch.nn.functional.logsigmoid(chosen_log_odds - rejected_log_odds)
    return -policy_chosen_mean + odds_weight * odds_ratio_loss
