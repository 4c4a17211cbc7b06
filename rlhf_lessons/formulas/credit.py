"""From rewards to credit: how much each step is worth (lessons 1 and 4).

One reward arrives at the end of a game or a text; here it is spread over the steps that led to it.
Everything is a recursion that walks backwards in time, written as one.

A position that the mask does not count is skipped: nothing it holds changes anything, the result
there is 0, and time does not pass there. A row without any counted position gives zeros.

Left out on purpose: bootstrapping after the last step. A response that was cut off counts as ended,
as in the usual PPO for language models. Whitening of advantages is ``masking.whiten``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lessons.formulas.shapes import (
    check_float,
    check_mask,
    check_not_negative,
    check_same_shape,
    check_unit_interval,
)

__all__ = ["discounted_returns", "gae", "kl_shaped_rewards"]


def discounted_returns(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """Add up, at each step, the rewards from there on, later ones discounted.

        G_t = r_t + γ · G_{t+1}, with G = 0 after the last step

    Args:
        rewards: (B, T) reward of each step.
        mask: (B, T) boolean, True = a step of the episode.
        gamma: Discount γ in [0, 1], per step.

    Returns:
        (B, T) returns in the unit of the rewards, 0 where nothing counts.

    Raises:
        TypeError: If the rewards are not floating point or the mask is not boolean.
        ValueError: If a shape differs or γ lies outside [0, 1].

    Source:
        Sutton and Barto 2018, "Reinforcement Learning", equation 3.9.
    """
    check_same_shape("discounted_returns", "(B, T)", rewards=rewards)
    check_mask("discounted_returns", mask, rewards=rewards)
    check_unit_interval("discounted_returns", gamma=gamma)
    returns = torch.zeros_like(rewards)
    next_return = rewards.new_zeros(rewards.shape[0])
    for t in reversed(range(rewards.shape[1])):
        counts = mask[:, t]
        next_return = torch.where(counts, rewards[:, t] + gamma * next_return, next_return)
        returns[:, t] = next_return.masked_fill(~counts, 0)
    return returns


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """Estimate advantages: how much better each step turned out than the value function expected.

        δ_t = r_t + γ · V_{t+1} − V_t
        A_t = δ_t + γ · λ · A_{t+1}, with V = A = 0 after the last step

    λ = 0 trusts the value function and looks one step ahead: A_t = δ_t. λ = 1 trusts the rewards
    that
    came: A_t = G_t − V_t. In between, bias is traded for variance.

    Args:
        rewards: (B, T) reward of each step.
        values: (B, T) V of the state *before* each step, in the unit of the rewards.
        mask: (B, T) boolean, True = a step of the episode.
        gamma: Discount γ in [0, 1], per step.
        lam: Weight λ in [0, 1] of what comes after the next step.

    Returns:
        (B, T) advantages in the unit of the rewards, 0 where nothing counts.

    Raises:
        TypeError: If a tensor is not floating point or the mask is not boolean.
        ValueError: If a shape differs, or γ or λ lies outside [0, 1].

    Source:
        Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage
        Estimation", equation 16.
    """
    check_same_shape("gae", "(B, T)", rewards=rewards, values=values)
    check_mask("gae", mask, rewards=rewards)
    check_unit_interval("gae", gamma=gamma, lam=lam)
    advantages = torch.zeros_like(rewards)
    next_value = next_advantage = rewards.new_zeros(rewards.shape[0])
    for t in reversed(range(rewards.shape[1])):
        counts = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = torch.where(counts, delta + gamma * lam * next_advantage, next_advantage)
        next_value = torch.where(counts, values[:, t], next_value)
        advantages[:, t] = next_advantage.masked_fill(~counts, 0)
    return advantages


def kl_shaped_rewards(scores: Tensor, kl: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Turn one score per response into rewards per token, less the price of leaving the reference.

        r_t = −β · kl_t + [t is the last token] · score

    Summed over a response this is score − β · Σ_t kl_t, whose expectation is the objective
    E[r] − β · KL(π ‖ π_ref).

    Args:
        scores: (B,) the judge's score of each response.
        kl: (B, T) estimate of the KL at each token in nats, such as k1 = log π − log π_ref.
        mask: (B, T) boolean, True = a token of the response, its end token included.
        beta: KL strength β in score per nat, 0 or more; 0 takes the leash off.

    Returns:
        (B, T) rewards in the unit of the scores, 0 where nothing counts. A row without any counted
        token has nowhere to put its score and is all 0.

    Raises:
        TypeError: If a tensor is not floating point or the mask is not boolean.
        ValueError: If a shape differs or β is negative.

    Source:
        Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences", equation 2;
        spread over tokens as in Ouyang et al. 2022, "Training language models to follow
        instructions with human feedback".
    """
    check_float("kl_shaped_rewards", "(B,)", scores=scores)
    check_float("kl_shaped_rewards", "(B, T)", kl=kl)
    check_mask("kl_shaped_rewards", mask, kl=kl)
    check_not_negative("kl_shaped_rewards", beta=beta)
    if scores.shape[0] != kl.shape[0]:
        raise ValueError(
            f"kl_shaped_rewards: scores must have shape (B,) = ({kl.shape[0]},) like the rows of "
            f"kl, got {tuple(scores.shape)}"
        )
    counted_from_here = mask.flip(1).cumsum(1).flip(1)
    is_last = mask & (counted_from_here == 1)
    score_at_last = torch.where(is_last, scores.unsqueeze(1), 0)
    return (score_at_last - beta * kl).masked_fill(~mask, 0)
