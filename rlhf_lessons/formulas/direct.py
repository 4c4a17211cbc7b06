"""Preferences straight into the policy: DPO and its relatives (lesson 6).

The policy is its own reward model: r̂ = β · (log π − log π_ref). Put into Bradley-Terry, that is
DPO. Most relatives are functions of the same margin

    h = (log π(y_w) − log π_ref(y_w)) − (log π(y_l) − log π_ref(y_l)),

w the chosen, l the rejected response. A margin can grow while both responses become unlikelier; APO
also says where the chosen one itself is to go. All but ``unlikelihood_loss`` take the same
arguments, so that one loop can train any of them. Log-probabilities are *sums* over the response
with its end token, without the prompt. The reference is held fixed: it is detached in the losses.

Left out on purpose: a ``loss_type`` switch (each loss has its name), averaging over tokens
(``reference_free``), and losses with a margin per pair.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lessons.formulas.shapes import (
    check_mask,
    check_positive,
    check_same_shape,
    check_unit_interval,
)

__all__ = [
    "apo_down_loss",
    "apo_zero_loss",
    "dpo_gradient_weight",
    "dpo_loss",
    "exponential_preference_loss",
    "hinge_preference_loss",
    "implicit_reward",
    "ipo_loss",
    "label_smoothed_dpo_loss",
    "shared_prefix_length",
    "unlikelihood_loss",
]


def implicit_reward(policy_log_probs: Tensor, reference_log_probs: Tensor, beta: float) -> Tensor:
    """Give the reward for which this policy would be the best one, up to a constant per prompt.

        r̂(x, y) = β · (log π(y | x) − log π_ref(y | x))

    Args:
        policy_log_probs: (B,) log-probability of each response under the policy in nats, summed.
        reference_log_probs: (B,) the same under the reference.
        beta: KL strength β above 0, in reward per nat.

    Returns:
        (B,) rewards.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If a shape differs or β is not above 0.

    Source:
        Rafailov et al. 2023, "Direct Preference Optimization", section 4, below equation 7.
    """
    check_same_shape(
        "implicit_reward",
        "(B,)",
        policy_log_probs=policy_log_probs,
        reference_log_probs=reference_log_probs,
    )
    check_positive("implicit_reward", beta=beta)
    return beta * (policy_log_probs - reference_log_probs)


def _log_ratios(
    function: str,
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> tuple[Tensor, Tensor]:
    """Check a preference loss's arguments; give log π − log π_ref, the reference held fixed."""
    check_same_shape(
        function,
        "(B,)",
        policy_chosen=policy_chosen,
        policy_rejected=policy_rejected,
        reference_chosen=reference_chosen,
        reference_rejected=reference_rejected,
    )
    check_positive(function, beta=beta)
    return policy_chosen - reference_chosen.detach(), policy_rejected - reference_rejected.detach()


def _margin(function: str, *arguments: Tensor | float) -> Tensor:
    """Check the arguments of a preference loss and give its margin h, the reference held fixed."""
    chosen_log_ratio, rejected_log_ratio = _log_ratios(function, *arguments)
    return chosen_log_ratio - rejected_log_ratio


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> Tensor:
    """Give DPO's loss: Bradley-Terry on implicit rewards, for each pair.

        L = −log σ(β · h),
        h = (log π(y_w) − log π_ref(y_w)) − (log π(y_l) − log π_ref(y_l))

    Args:
        policy_chosen: (B,) log π(y_w | x) in nats, summed over the response, with gradient.
        policy_rejected: (B,) log π(y_l | x) in nats, summed over the response, with gradient.
        reference_chosen: (B,) log π_ref(y_w | x) in nats, summed; constants.
        reference_rejected: (B,) log π_ref(y_l | x) in nats, summed; constants.
        beta: KL strength β above 0, in reward per nat.

    Returns:
        (B,) losses in nats; log 2 where the policy is the reference.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If a shape differs or β is not above 0.

    Source:
        Rafailov et al. 2023, "Direct Preference Optimization", equation 7.
    """
    h = _margin(
        "dpo_loss", policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta
    )
    return -torch.nn.functional.logsigmoid(beta * h)


def dpo_gradient_weight(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> Tensor:
    """Say how hard DPO pulls on each pair: most where the implicit reward has it wrong.

        w = σ(r̂_l − r̂_w) = σ(−β · h), with ∇L_DPO = −β · w · (∇ log π(y_w) − ∇ log π(y_l))

    Args:
        policy_chosen: (B,) log π(y_w | x) in nats, summed over the response.
        policy_rejected: (B,) log π(y_l | x) in nats, summed over the response.
        reference_chosen: (B,) log π_ref(y_w | x) in nats, summed.
        reference_rejected: (B,) log π_ref(y_l | x) in nats, summed.
        beta: KL strength β above 0, in reward per nat.

    Returns:
        (B,) weights in (0, 1), without gradient; ½ where the policy is the reference.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If a shape differs or β is not above 0.

    Source:
        Rafailov et al. 2023, "Direct Preference Optimization", the gradient below equation 7.
    """
    h = _margin(
        "dpo_gradient_weight",
        policy_chosen,
        policy_rejected,
        reference_chosen,
        reference_rejected,
        beta,
    )
    return torch.sigmoid(-beta * h).detach()


def label_smoothed_dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
    flip_probability: float,
) -> Tensor:
    """Give DPO's loss for labels of which a known share is the wrong way round, for each pair.

        L = −(1 − ε) · log σ(β · h) − ε · log σ(−β · h)

    Its minimum lies at the finite margin β · h = log((1 − ε)/ε), where plain DPO would go on for
    ever.

    Args:
        policy_chosen: (B,) log π(y_w | x) in nats, summed over the response, with gradient.
        policy_rejected: (B,) log π(y_l | x) in nats, summed over the response, with gradient.
        reference_chosen: (B,) log π_ref(y_w | x) in nats, summed; constants.
        reference_rejected: (B,) log π_ref(y_l | x) in nats, summed; constants.
        beta: KL strength β above 0, in reward per nat.
        flip_probability: Share ε of wrong labels, in [0, 0.5); 0 is DPO.

    Returns:
        (B,) losses in nats.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If a shape differs, β is not above 0, or the flip probability outside [0, 0.5).

    Source:
        Mitchell 2023, "A note on DPO with noisy preferences & relationship to IPO".
    """
    if not 0 <= flip_probability < 0.5:
        raise ValueError(
            "label_smoothed_dpo_loss: flip_probability must lie in [0, 0.5), "
            f"got {flip_probability}"
        )
    h = _margin(
        "label_smoothed_dpo_loss",
        policy_chosen,
        policy_rejected,
        reference_chosen,
        reference_rejected,
        beta,
    )
    as_labelled = -torch.nn.functional.logsigmoid(beta * h)
    flipped = -torch.nn.functional.logsigmoid(-beta * h)
    return (1 - flip_probability) * as_labelled + flip_probability * flipped


def ipo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> Tensor:
    """Give IPO's loss: drive the margin to a set value instead of to infinity, for each pair.

        L = (h − 1/(2β))²

    Args:
        policy_chosen: (B,) log π(y_w | x) in nats, summed over the response, with gradient. Some
            libraries pass means over tokens instead; their margin is then per token.
        policy_rejected: (B,) log π(y_l | x), like the chosen ones, with gradient.
        reference_chosen: (B,) log π_ref(y_w | x), like the chosen ones; constants.
        reference_rejected: (B,) log π_ref(y_l | x), like the chosen ones; constants.
        beta: KL strength β above 0 (τ in the paper); the margin aimed at is 1/(2β) nats.

    Returns:
        (B,) losses in nats, squared.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If a shape differs or β is not above 0.

    Source:
        Azar et al. 2023, "A General Theoretical Paradigm to Understand Learning from Human
        Preferences", equation 17.
    """
    h = _margin(
        "ipo_loss", policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta
    )
    return (h - 1 / (2 * beta)).square()


def hinge_preference_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> Tensor:
    """Give the hinge loss of the margin: full pull up to a margin, none beyond, for each pair.

        L = max(0, 1 − β · h)

    Args:
        policy_chosen: (B,) log π(y_w | x) in nats, summed over the response, with gradient.
        policy_rejected: (B,) log π(y_l | x) in nats, summed over the response, with gradient.
        reference_chosen: (B,) log π_ref(y_w | x) in nats, summed; constants.
        reference_rejected: (B,) log π_ref(y_l | x) in nats, summed; constants.
        beta: KL strength β above 0, in reward per nat; the pull ends at h = 1/β.

    Returns:
        (B,) losses, 1 where the policy is the reference.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If a shape differs or β is not above 0.

    Source:
        Zhao et al. 2023, "SLiC-HF", equation 1; on the margin to the reference: Liu et al. 2024,
        "Statistical Rejection Sampling Improves Preference Optimization", the hinge-norm loss.
    """
    h = _margin(
        "hinge_preference_loss",
        policy_chosen,
        policy_rejected,
        reference_chosen,
        reference_rejected,
        beta,
    )
    return torch.relu(1 - beta * h)


def exponential_preference_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> Tensor:
    """Give the exponential loss of the margin: no limit to the pull on a wrong pair.

        L = exp(−β · h)

    It is AdaBoost's loss. One wrong label can outweigh a whole batch, which DPO's weight, at most
    1, prevents.

    Args:
        policy_chosen: (B,) log π(y_w | x) in nats, summed over the response, with gradient.
        policy_rejected: (B,) log π(y_l | x) in nats, summed over the response, with gradient.
        reference_chosen: (B,) log π_ref(y_w | x) in nats, summed; constants.
        reference_rejected: (B,) log π_ref(y_l | x) in nats, summed; constants.
        beta: KL strength β above 0, in reward per nat.

    Returns:
        (B,) losses, 1 where the policy is the reference.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If a shape differs or β is not above 0.

    Source:
        Tang et al. 2024, "Generalized Preference Optimization", table 1.
    """
    h = _margin(
        "exponential_preference_loss",
        policy_chosen,
        policy_rejected,
        reference_chosen,
        reference_rejected,
        beta,
    )
    return torch.exp(-beta * h)


def apo_zero_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> Tensor:
    """Give APO-zero's loss: the chosen response up, the rejected one down, for each pair.

        L = σ(−r̂_w) + σ(r̂_l), with r̂ = β · (log π − log π_ref)

    Each response is held against the reference, not against the other. Right where the chosen
    responses are better than what the policy writes.

    Args:
        policy_chosen: (B,) log π(y_w | x) in nats, summed over the response, with gradient.
        policy_rejected: (B,) log π(y_l | x) in nats, summed over the response, with gradient.
        reference_chosen: (B,) log π_ref(y_w | x) in nats, summed; constants.
        reference_rejected: (B,) log π_ref(y_l | x) in nats, summed; constants.
        beta: KL strength β above 0, in reward per nat.

    Returns:
        (B,) losses in (0, 2); 1 where the policy is the reference.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If a shape differs or β is not above 0.

    Source:
        D'Oosterlinck et al. 2024, "Anchored Preference Optimization and Contrastive Revisions",
        equation 7, plus 1: −σ(r̂_w) = σ(−r̂_w) − 1.
    """
    chosen, rejected = _log_ratios(
        "apo_zero_loss", policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta
    )
    return torch.sigmoid(-beta * chosen) + torch.sigmoid(beta * rejected)


def apo_down_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> Tensor:
    """Give APO-down's loss: the chosen response down, the rejected one further, for each pair.

        L = σ(r̂_w) + σ(−(r̂_w − r̂_l)), with r̂ = β · (log π − log π_ref)

    Right where even the chosen responses are worse than what the policy writes. Where nothing has
    moved yet the two pulls on the chosen response cancel: the rejected one has to fall first.

    Args:
        policy_chosen: (B,) log π(y_w | x) in nats, summed over the response, with gradient.
        policy_rejected: (B,) log π(y_l | x) in nats, summed over the response, with gradient.
        reference_chosen: (B,) log π_ref(y_w | x) in nats, summed; constants.
        reference_rejected: (B,) log π_ref(y_l | x) in nats, summed; constants.
        beta: KL strength β above 0, in reward per nat.

    Returns:
        (B,) losses in (0, 2); 1 where the policy is the reference.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If a shape differs or β is not above 0.

    Source:
        D'Oosterlinck et al. 2024, "Anchored Preference Optimization and Contrastive Revisions",
        equation 8, plus 1.
    """
    chosen, rejected = _log_ratios(
        "apo_down_loss", policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta
    )
    return torch.sigmoid(beta * chosen) + torch.sigmoid(-beta * (chosen - rejected))


def unlikelihood_loss(policy_chosen: Tensor, policy_rejected: Tensor, alpha: float = 1.0) -> Tensor:
    """Give the loss that raises each chosen and lowers each rejected response, unweighted.

        L = −log π(y_w) + α · log π(y_l)

    DPO's gradient without its weight and without a reference. Nothing ever stops it: the rejected
    log-probability falls without bound, and the text degenerates.

    Args:
        policy_chosen: (B,) log π(y_w | x) in nats, summed over the response, with gradient.
        policy_rejected: (B,) log π(y_l | x) in nats, summed over the response, with gradient.
        alpha: Weight α in [0, 1] of the rejected response; 0 is fine-tuning on the chosen ones.

    Returns:
        (B,) losses in nats; they have no lower bound.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If a shape differs or α lies outside [0, 1].

    Source:
        Rafailov et al. 2023, "Direct Preference Optimization", section 6, "Methods"; named after
        Welleck et al. 2020, "Neural Text Generation With Unlikelihood Training", whose penalty is
        −log(1 − π) of a token.
    """
    check_same_shape(
        "unlikelihood_loss",
        "(B,)",
        policy_chosen=policy_chosen,
        policy_rejected=policy_rejected,
    )
    check_unit_interval("unlikelihood_loss", alpha=alpha)
    return -policy_chosen + alpha * policy_rejected


def shared_prefix_length(
    chosen_log_ratios: Tensor,
    rejected_log_ratios: Tensor,
    chosen_mask: Tensor,
    rejected_mask: Tensor,
    tolerance: float = 1e-6,
) -> Tensor:
    """Count the leading tokens of each pair that preference losses can't see.

        the most t with log π(y_w,s) − log π_ref(y_w,s) = log π(y_l,s) − log π_ref(y_l,s), all s ≤ t

    Where chosen and rejected begin with the same tokens, their log-ratios there are equal, for a
    token's probability depends on what stands before it alone. They cancel in the margin h, so that
    no loss of h ever changes them.

    Args:
        chosen_log_ratios: (B, T) log π − log π_ref of each token of the chosen response in nats;
            anything may stand where nothing counts.
        rejected_log_ratios: (B, T) the same of the rejected one.
        chosen_mask: (B, T) boolean, True = a token of the chosen response.
        rejected_mask: (B, T) boolean, True = a token of the rejected one.
        tolerance: The largest difference in nats that rounding may make, 0 or more.

    Returns:
        (B,) numbers of tokens, int64; 0 where the first tokens differ.

    Raises:
        TypeError: If a log-ratio is not floating point or a mask not boolean.
        ValueError: If a shape differs.

    Source:
        Rafailov et al. 2023, "Direct Preference Optimization", equation 7, written token by token.
    """
    check_same_shape(
        "shared_prefix_length",
        "(B, T)",
        chosen_log_ratios=chosen_log_ratios,
        rejected_log_ratios=rejected_log_ratios,
    )
    check_mask("shared_prefix_length", chosen_mask, chosen_log_ratios=chosen_log_ratios)
    check_mask("shared_prefix_length", rejected_mask, rejected_log_ratios=rejected_log_ratios)
    equal = (chosen_log_ratios - rejected_log_ratios).abs() <= tolerance
    return (equal & chosen_mask & rejected_mask).long().cumprod(-1).sum(-1)
