"""Losses that make good actions more likely (lessons 1, 4, 5 and 9).

REINFORCE pushes up the log-probability of each action by its advantage. PPO reuses a batch for
several steps: it weighs each action by how much likelier it has become, and stops where that ratio
leaves the trust region [1 − ε, 1 + ε]. Its relatives change one thing each: DAPO lets a good token
go further than a bad one, GSPO asks how much likelier the whole response has become, and CISPO
clips the weight alone, so that no token loses its gradient.

What the equations hold fixed, the advantages and the old log-probabilities, is detached here: a
loop that forgets ``no_grad`` still gets the right gradient.

Left out on purpose: means in the losses (``ppo_total_loss`` and ``masking`` take them), masks where
no tokens are summed, the entropy itself (``log_probs.entropy``), a rule when to stop, which is a
line of lesson 5, and a floor under CISPO's weight, which its paper does not use either.
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

__all__ = [
    "cispo_policy_loss",
    "clip_fraction",
    "dapo_policy_loss",
    "gspo_policy_loss",
    "ppo_policy_loss",
    "ppo_total_loss",
    "ratio",
    "reinforce_loss",
    "sequence_ratio",
]


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


def sequence_ratio(log_probs: Tensor, old_log_probs: Tensor, mask: Tensor) -> Tensor:
    """Say how much likelier each response is now than when it was sampled, per token.

        s_i = (π(y_i | x) / π_old(y_i | x))^(1/|y_i|) = exp(1/|y_i| · Σ_t (log π − log π_old)_it)

    It is the geometric mean of the ratios of the response's tokens, so responses of any length can
    share one clip range. It is not the weight of importance sampling, which is s_i^|y_i|.

    Args:
        log_probs: (B, T) log-probabilities under the policy in training, in nats.
        old_log_probs: (B, T) log-probabilities under the policy that sampled, in nats.
        mask: (B, T) boolean, True = a token of the response.

    Returns:
        (B,) ratios, 1 where nothing has changed.

    Raises:
        TypeError: If a tensor is not floating point or the mask is not boolean.
        ValueError: If a shape differs or a response has no token.

    Source:
        Zheng et al. 2025, "Group Sequence Policy Optimization", equation 7.
    """
    check_same_shape("sequence_ratio", "(B, T)", log_probs=log_probs, old_log_probs=old_log_probs)
    check_mask("sequence_ratio", mask, log_probs=log_probs)
    return torch.exp(masked_mean(log_probs - old_log_probs, mask, dim=1))


def _clipped_loss(rho: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """Take the more pessimistic of two losses: with the ratio, and with the ratio clipped."""
    advantages = advantages.detach()
    return torch.maximum(-advantages * rho, -advantages * rho.clamp(1 - low, 1 + high))


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
    return _clipped_loss(ratio(log_probs, old_log_probs.detach()), advantages, epsilon, epsilon)


def dapo_policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    epsilon_low: float,
    epsilon_high: float,
) -> Tensor:
    """Give DAPO's clipped loss, wider above than below ("clip higher"), for each token.

        L_t = max(−A_t · ρ_t, −A_t · clip(ρ_t, 1 − ε_low, 1 + ε_high)), with ρ = π / π_old

    With one ε a token of probability 0.01 is held back at 0.012, one of 0.9 not at all. A higher
    ε_high leaves room to rare tokens, and the policy stays undecided for longer. With
    ε_low = ε_high it is PPO's loss.

    Args:
        log_probs: (B, T) log-probabilities of the tokens under the policy in training, in nats,
            with gradient.
        old_log_probs: (B, T) log-probabilities under the policy that sampled them, in nats;
            constants.
        advantages: (B, T) advantage of each token; taken as constants.
        epsilon_low: ε_low above 0: how far the ratio may fall where the advantage is negative.
        epsilon_high: ε_high above 0: how far it may rise where the advantage is positive.

    Returns:
        (B, T) losses, one per token, in the unit of the advantages.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If a shape differs or an ε is not above 0.

    Source:
        Yu et al. 2025, "DAPO: An Open-Source LLM Reinforcement Learning System at Scale",
        equation 10, with the sign of a loss; the mean over tokens is ``masked_mean``.
    """
    check_same_shape(
        "dapo_policy_loss",
        "(B, T)",
        log_probs=log_probs,
        old_log_probs=old_log_probs,
        advantages=advantages,
    )
    check_positive("dapo_policy_loss", epsilon_low=epsilon_low, epsilon_high=epsilon_high)
    rho = ratio(log_probs, old_log_probs.detach())
    return _clipped_loss(rho, advantages, epsilon_low, epsilon_high)


def gspo_policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    epsilon_low: float,
    epsilon_high: float,
) -> Tensor:
    """Give GSPO's loss, clipped by the ratio of the whole response, for each token.

        L_t = max(−A_t · s_t, −A_t · clip(s_t, 1 − ε_low, 1 + ε_high)), with s_t = [s_i] · π / [π]

    [·] is held fixed: every token has the value s_i of its response (``sequence_ratio``) and the
    gradient s_i · ∇ log π_t. Where all tokens of a response have one advantage, the mean over them
    has value and gradient of the loss of s_i itself, so ``mean_of_responses`` makes GSPO of it. A
    response is clipped as a whole, all its tokens or none.

    Args:
        log_probs: (B, T) log-probabilities of the tokens under the policy in training, in nats,
            with gradient.
        old_log_probs: (B, T) log-probabilities under the policy that sampled them, in nats;
            constants.
        advantages: (B, T) advantage of each token; taken as constants.
        mask: (B, T) boolean, True = a token of the response.
        epsilon_low: ε_low above 0, on s. A mean over tokens moves less than one token: the paper
            has 0.0003 below and 0.0004 above, where PPO has 0.2.
        epsilon_high: ε_high above 0, on s.

    Returns:
        (B, T) losses, one per token, in the unit of the advantages; where nothing counts they mean
        nothing and have no gradient.

    Raises:
        TypeError: If a tensor is not floating point or the mask is not boolean.
        ValueError: If a shape differs, a response has no token, or an ε is not above 0.

    Source:
        Zheng et al. 2025, "Group Sequence Policy Optimization", equations 13 and 14 (5 where a
        response has one advantage), with the sign of a loss.
    """
    check_same_shape(
        "gspo_policy_loss",
        "(B, T)",
        log_probs=log_probs,
        old_log_probs=old_log_probs,
        advantages=advantages,
    )
    check_mask("gspo_policy_loss", mask, log_probs=log_probs)
    check_positive("gspo_policy_loss", epsilon_low=epsilon_low, epsilon_high=epsilon_high)
    log_probs = log_probs.masked_fill(~mask, 0)  # before exp, whose gradient would take NaN along
    held_ratio = sequence_ratio(log_probs, old_log_probs, mask).detach().unsqueeze(1)
    s = held_ratio * torch.exp(log_probs - log_probs.detach())
    return _clipped_loss(s, advantages, epsilon_low, epsilon_high)


def cispo_policy_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, epsilon_high: float
) -> Tensor:
    """Give CISPO's loss: REINFORCE with a clipped weight that is held fixed, for each token.

        L_t = −[min(ρ_t, 1 + ε_high)] · A_t · log π_t, with ρ = π / π_old and [·] held fixed

    Where PPO's clip takes the whole gradient of a token, this one bounds its size: −∇L is the
    weight times A · ∇ log π everywhere. Nothing stops the policy at the edge of a region.

    Args:
        log_probs: (B, T) log-probabilities of the tokens under the policy in training, in nats,
            with gradient.
        old_log_probs: (B, T) log-probabilities under the policy that sampled them, in nats;
            constants.
        advantages: (B, T) advantage of each token; taken as constants.
        epsilon_high: ε_high above 0: the largest weight is 1 + ε_high. (TRL names the largest
            weight itself ``epsilon_high``.)

    Returns:
        (B, T) losses, one per token, in the unit of the advantages times nats.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If a shape differs or ε_high is not above 0.

    Source:
        MiniMax 2025, "MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention",
        equations 4 and 5, without a lower bound, as in its experiments.
    """
    check_same_shape(
        "cispo_policy_loss",
        "(B, T)",
        log_probs=log_probs,
        old_log_probs=old_log_probs,
        advantages=advantages,
    )
    check_positive("cispo_policy_loss", epsilon_high=epsilon_high)
    weight = ratio(log_probs, old_log_probs).clamp(max=1 + epsilon_high)
    return reinforce_loss(log_probs, weight * advantages)


def clip_fraction(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    epsilon: float,
    epsilon_high: float | None = None,
) -> Tensor:
    """Give the share of counted tokens whose gradient the clip has set to 0.

        mean_t [A_t > 0 and ρ_t > 1 + ε_high, or A_t < 0 and ρ_t < 1 − ε]

    A ratio outside the region does not count where the clip has no say: a good token that has
    become unlikely still gets its gradient.

    Args:
        log_probs: (B, T) log-probabilities of the tokens under the policy in training, in nats.
        old_log_probs: (B, T) log-probabilities under the policy that sampled them, in nats.
        advantages: (B, T) advantage of each token.
        mask: (B, T) boolean, True = a token of the response.
        epsilon: Clip range ε above 0, on the ratio.
        epsilon_high: ε_high above 0, how far the ratio may rise, as in ``dapo_policy_loss``; None
            takes ε, as in PPO.

    Returns:
        () share in [0, 1], without gradient.

    Raises:
        TypeError: If a tensor is not floating point or the mask is not boolean.
        ValueError: If a shape differs, no token counts, or an ε is not above 0.

    Source:
        Schulman et al. 2017, "Proximal Policy Optimization Algorithms", figure 1; two ranges: Yu
        et al. 2025, "DAPO", equation 10.
    """
    check_same_shape(
        "clip_fraction",
        "(B, T)",
        log_probs=log_probs,
        old_log_probs=old_log_probs,
        advantages=advantages,
    )
    check_mask("clip_fraction", mask, log_probs=log_probs)
    epsilon_high = epsilon if epsilon_high is None else epsilon_high
    check_positive("clip_fraction", epsilon=epsilon, epsilon_high=epsilon_high)
    rho = ratio(log_probs, old_log_probs).detach()
    clipped_above = (advantages > 0) & (rho > 1 + epsilon_high)
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
