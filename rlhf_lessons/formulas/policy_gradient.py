"""Losses that make good actions more likely (lessons 1, 4 and 5).

REINFORCE pushes up the log-probability of each action by its advantage. PPO reuses a batch for
several steps: it weighs each action by how much likelier it has become, and stops where that ratio
leaves the trust region [1 − ε, 1 + ε].

What the equations hold fixed, the advantages and the old log-probabilities, is detached here: a
loop that forgets ``no_grad`` still gets the right gradient.

Left out on purpose: masks and means in the losses (``ppo_total_loss`` takes the means), the entropy
itself (``log_probs.entropy``), and a rule when to stop, which is a line of lesson 5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lessons.formulas.masking import masked_mean
from rlhf_lessons.formulas.shapes import (
    check_mask,
    check_not_negative,
    check_positive,
    check_same_shape,
)

__all__ = ["clip_fraction", "ppo_policy_loss", "ppo_total_loss", "ratio", "reinforce_loss"]


def reinforce_loss(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """Give the loss whose gradient is the policy gradient, for each token.

        L_t = −A_t · log π(a_t | s_t), so that −∇L = A · ∇ log π

    Args:
        log_probs: (B, T) log-probability of each action taken in nats, with gradient.
        advantages: (B, T) advantage of each action, or its return; taken as constants.

    Returns:
        (B, T) losses, one per token, in the unit of the advantages.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If a shape differs.

    Source:
        Williams 1992, "Simple Statistical Gradient-Following Algorithms", theorem 1; Sutton and
        Barto 2018, "Reinforcement Learning", equation 13.11.
    """
    check_same_shape("reinforce_loss", "(B, T)", log_probs=log_probs, advantages=advantages)
    return -advantages.detach() * log_probs


def ratio(log_probs: Tensor, old_log_probs: Tensor) -> Tensor:
    """Say how much likelier each action is now than when it was sampled.

        ρ = π(a | s) / π_old(a | s) = exp(log π − log π_old)

    Args:
        log_probs: (...) log-probabilities under the policy in training, in nats.
        old_log_probs: (...) log-probabilities under the policy that sampled, in nats.

    Returns:
        (...) ratios, 1 where nothing has changed.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If the shapes differ.

    Source:
        Schulman et al. 2017, "Proximal Policy Optimization Algorithms", section 3.
    """
    check_same_shape("ratio", "(...)", log_probs=log_probs, old_log_probs=old_log_probs)
    return torch.exp(log_probs - old_log_probs)


def ppo_policy_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, epsilon: float
) -> Tensor:
    """Give PPO's clipped loss, for each token.

        L_t = max(−A_t · ρ_t, −A_t · clip(ρ_t, 1 − ε, 1 + ε)), with ρ = π / π_old

    The max is the more pessimistic of two losses. A good action gains nothing from ρ > 1 + ε, a bad
    one nothing from ρ < 1 − ε: there the gradient is exactly 0. On the other side nothing is
    clipped, so a mistake can always be undone.

    Args:
        log_probs: (B, T) log-probabilities of the tokens under the policy in training, in nats,
            with gradient.
        old_log_probs: (B, T) log-probabilities under the policy that sampled them, in nats;
            constants.
        advantages: (B, T) advantage of each token; taken as constants.
        epsilon: Clip range ε above 0, on the ratio.

    Returns:
        (B, T) losses, one per token, in the unit of the advantages.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If a shape differs or ε is not above 0.

    Source:
        Schulman et al. 2017, "Proximal Policy Optimization Algorithms", equation 7, with the sign
        of a loss.
    """
    check_same_shape(
        "ppo_policy_loss",
        "(B, T)",
        log_probs=log_probs,
        old_log_probs=old_log_probs,
        advantages=advantages,
    )
    check_positive("ppo_policy_loss", epsilon=epsilon)
    rho = ratio(log_probs, old_log_probs.detach())
    advantages = advantages.detach()
    return torch.maximum(-advantages * rho, -advantages * rho.clamp(1 - epsilon, 1 + epsilon))


def clip_fraction(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float
) -> Tensor:
    """Give the share of counted tokens whose gradient the clip has set to 0.

        mean_t [A_t > 0 and ρ_t > 1 + ε, or A_t < 0 and ρ_t < 1 − ε]

    A ratio outside the region does not count where the clip has no say: a good token that has
    become unlikely still gets its gradient.

    Args:
        log_probs: (B, T) log-probabilities of the tokens under the policy in training, in nats.
        old_log_probs: (B, T) log-probabilities under the policy that sampled them, in nats.
        advantages: (B, T) advantage of each token.
        mask: (B, T) boolean, True = a token of the response.
        epsilon: Clip range ε above 0, on the ratio.

    Returns:
        () share in [0, 1], without gradient.

    Raises:
        TypeError: If a tensor is not floating point or the mask is not boolean.
        ValueError: If a shape differs, no token counts, or ε is not above 0.

    Source:
        Schulman et al. 2017, "Proximal Policy Optimization Algorithms", figure 1.
    """
    check_same_shape(
        "clip_fraction",
        "(B, T)",
        log_probs=log_probs,
        old_log_probs=old_log_probs,
        advantages=advantages,
    )
    check_mask("clip_fraction", mask, log_probs=log_probs)
    check_positive("clip_fraction", epsilon=epsilon)
    rho = ratio(log_probs, old_log_probs).detach()
    clipped_above = (advantages > 0) & (rho > 1 + epsilon)
    clipped_below = (advantages < 0) & (rho < 1 - epsilon)
    return masked_mean((clipped_above | clipped_below).to(log_probs.dtype), mask)


def ppo_total_loss(
    policy_losses: Tensor,
    value_losses: Tensor,
    entropies: Tensor,
    mask: Tensor,
    value_coefficient: float,
    entropy_coefficient: float,
) -> Tensor:
    """Weigh the three terms of PPO into the one number that is minimised.

        L = mean_t(L_policy,t) + c1 · mean_t(L_value,t) − c2 · mean_t(H_t)

    Written as an objective to maximise this is −L: the policy's objective, less c1 times the value
    loss, plus c2 times the entropy. The means run over the counted tokens of the whole batch.

    Args:
        policy_losses: (B, T) loss of the policy at each token, with gradient.
        value_losses: (B, T) loss of the value function at each token, with gradient.
        entropies: (B, T) entropy of the next-token distribution at each token in nats, with
            gradient.
        mask: (B, T) boolean, True = a token of the response.
        value_coefficient: c1, 0 or more.
        entropy_coefficient: c2, 0 or more.

    Returns:
        () the total.

    Raises:
        TypeError: If a tensor is not floating point or the mask is not boolean.
        ValueError: If a shape differs, no token counts, or a coefficient is negative.

    Source:
        Schulman et al. 2017, "Proximal Policy Optimization Algorithms", equation 9, with the sign
        of a loss.
    """
    check_same_shape(
        "ppo_total_loss",
        "(B, T)",
        policy_losses=policy_losses,
        value_losses=value_losses,
        entropies=entropies,
    )
    check_mask("ppo_total_loss", mask, policy_losses=policy_losses)
    check_not_negative(
        "ppo_total_loss",
        value_coefficient=value_coefficient,
        entropy_coefficient=entropy_coefficient,
    )
    return (
        masked_mean(policy_losses, mask)
        + value_coefficient * masked_mean(value_losses, mask)
        - entropy_coefficient * masked_mean(entropies, mask)
    )
