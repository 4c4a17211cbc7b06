"""The best policy in closed form, where all responses can be listed (lessons 4, 5 and 6).

    maximise J(π) = E_π[r] − β · KL(π ‖ π_ref)   gives   π*(y | x) = π_ref(y | x) · exp(r/β) / Z(x)

Z sums over every response there is. That is hopeless for a real language model and a matter of a
``logsumexp`` for an enumerated space of Y responses; what PPO and DPO learn is compared with what
comes out here. A response that the reference never gives (log-probability −∞) is never given by π*
either.

Left out on purpose: sampling, and any approximation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lessons.formulas.shapes import check_not_negative, check_positive, check_same_shape

__all__ = [
    "canonical_reward",
    "exact_objective",
    "implied_reward",
    "log_partition",
    "optimal_policy",
]


def _tilted(function: str, reference_log_probs: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """Check the arguments and give log π_ref + r/β: the optimal policy before it is normalised."""
    check_same_shape(function, "(..., Y)", reference_log_probs=reference_log_probs, rewards=rewards)
    check_positive(function, beta=beta)
    return reference_log_probs + rewards / beta


def log_partition(reference_log_probs: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """Give the logarithm of the sum that makes the optimal policy add up to 1.

        log Z(x) = log Σ_y π_ref(y | x) · exp(r(x, y)/β)

    β · log Z is the highest objective that any policy can reach.

    Args:
        reference_log_probs: (..., Y) log π_ref of every response in nats, adding up to probability
            1.
        rewards: (..., Y) reward of every response.
        beta: KL strength β above 0, in reward per nat.

    Returns:
        (...) log Z of each prompt in nats.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If the shapes differ, there is no response dimension, or β is not above 0.

    Source:
        Rafailov et al. 2023, "Direct Preference Optimization", equation 4.
    """
    return _tilted("log_partition", reference_log_probs, rewards, beta).logsumexp(-1)


def optimal_policy(reference_log_probs: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """Give the policy that maximises reward minus β times the KL to the reference.

        log π*(y | x) = log π_ref(y | x) + r(x, y)/β − log Z(x)

    A large β stays with the reference; β near 0 puts everything on the best response.

    Args:
        reference_log_probs: (..., Y) log π_ref of every response in nats.
        rewards: (..., Y) reward of every response.
        beta: KL strength β above 0, in reward per nat.

    Returns:
        (..., Y) log π* in nats, adding up to probability 1 for each prompt.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If the shapes differ, there is no response dimension, or β is not above 0.

    Source:
        Rafailov et al. 2023, "Direct Preference Optimization", equation 4.
    """
    return torch.log_softmax(_tilted("optimal_policy", reference_log_probs, rewards, beta), dim=-1)


def implied_reward(policy_log_probs: Tensor, reference_log_probs: Tensor, beta: float) -> Tensor:
    """Give the reward whose optimal policy this policy is, up to a constant per prompt.

        r(x, y) = β · (log π(y | x) − log π_ref(y | x)), and + β · log Z(x), which no policy shows

    It undoes ``optimal_policy``. A response that neither policy ever gives has no implied reward:
    NaN.

    Args:
        policy_log_probs: (..., Y) log π of every response in nats.
        reference_log_probs: (..., Y) log π_ref of every response in nats.
        beta: KL strength β above 0, in reward per nat.

    Returns:
        (..., Y) rewards, each prompt's with its own unknown constant left out.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If the shapes differ, there is no response dimension, or β is not above 0.

    Source:
        Rafailov et al. 2023, "Direct Preference Optimization", equation 5.
    """
    check_same_shape(
        "implied_reward",
        "(..., Y)",
        policy_log_probs=policy_log_probs,
        reference_log_probs=reference_log_probs,
    )
    check_positive("implied_reward", beta=beta)
    return beta * (policy_log_probs - reference_log_probs)


def canonical_reward(reference_log_probs: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """Choose, among all rewards that differ by a constant per prompt, the one with log Z = 0.

        r'(x, y) = r(x, y) − β · log Z(x) = β · (log π*(y | x) − log π_ref(y | x))

    All rewards of a class have the same preferences and the same optimal policy; this one is the
    implicit reward of that policy. So a policy expresses every preference that a reward can.

    Args:
        reference_log_probs: (..., Y) log π_ref of every response in nats.
        rewards: (..., Y) reward of every response.
        beta: KL strength β above 0, in reward per nat.

    Returns:
        (..., Y) rewards.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If the shapes differ, there is no response dimension, or β is not above 0.

    Source:
        Rafailov et al. 2023, "Direct Preference Optimization", theorem 1 and equation 8.
    """
    log_z = _tilted("canonical_reward", reference_log_probs, rewards, beta).logsumexp(-1)
    return rewards - beta * log_z.unsqueeze(-1)


def exact_objective(
    policy_log_probs: Tensor, reference_log_probs: Tensor, rewards: Tensor, beta: float
) -> Tensor:
    """Sum the objective of RLHF over all responses: expected reward less the price of the KL.

        J(π) = Σ_y π(y | x) · (r(x, y) − β · (log π(y | x) − log π_ref(y | x)))

    A response that the policy never gives adds 0, whatever its reward.

    Args:
        policy_log_probs: (..., Y) log π of every response in nats, adding up to probability 1.
        reference_log_probs: (..., Y) log π_ref of every response in nats.
        rewards: (..., Y) reward of every response.
        beta: KL strength β in reward per nat, 0 or more; 0 gives the expected reward alone.

    Returns:
        (...) J of each prompt in the unit of the rewards.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If the shapes differ, there is no response dimension, or β is negative.

    Source:
        Rafailov et al. 2023, "Direct Preference Optimization", equation 3.
    """
    check_same_shape(
        "exact_objective",
        "(..., Y)",
        policy_log_probs=policy_log_probs,
        reference_log_probs=reference_log_probs,
        rewards=rewards,
    )
    check_not_negative("exact_objective", beta=beta)
    p = policy_log_probs.exp()
    net_rewards = rewards
    # At β = 0 the KL has no price, not even an infinite one.
    if beta > 0:
        net_rewards = rewards - beta * (policy_log_probs - reference_log_probs)
    return (p * net_rewards.masked_fill(p == 0, 0)).sum(-1)
