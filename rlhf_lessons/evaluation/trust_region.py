"""How far a policy may go before its estimate misleads: surrogate, truth and bound (lesson 5).

Advantages are measured under the policy that sampled, so what PPO maximises, the *surrogate*, is
right at that policy and wrong far from it. On a :class:`~rlhf_lessons.models.ResponseTree` the
truth can be summed, and a bound on the difference too. Here J is the expected reward; a price on
the KL to a reference is lesson 4's.

Left out on purpose: discounts, and anything sampled. An estimated surrogate is a loss of
``formulas``; here is what it estimates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_lessons import formulas
from rlhf_lessons.models import ResponseTree

__all__ = [
    "DirectionProfile",
    "SurrogateBound",
    "profile_direction",
    "step_to_kl",
    "surrogate_bound",
    "surrogate_objective",
]


@dataclass(frozen=True)
class SurrogateBound:
    """How much the surrogate can be wrong, in three ways from loose to tight.

    Attributes:
        max_kl: (...) largest KL(π_old ‖ π) at any prefix, in nats.
        max_total_variation: (...) largest total variation α at any prefix.
        largest_advantage: (...) ε_A, the largest |A_old| there is, in the unit of the rewards.
        by_kl: (...) ε_A · L(L − 1) · max_kl, in the unit of the rewards.
        by_total_variation: (...) 2 · ε_A · L(L − 1) · α².
        by_visits: (...) the bound that weighs each prefix by how often π_old visits it.
    """

    max_kl: Tensor
    max_total_variation: Tensor
    largest_advantage: Tensor
    by_kl: Tensor
    by_total_variation: Tensor
    by_visits: Tensor


@dataclass(frozen=True)
class DirectionProfile:
    """What happens along one line in logit space: promised, true, and at worst.

    Attributes:
        step_sizes: (K,) how far along the direction.
        kl: (K,) KL(π_old ‖ π) of whole responses, in nats.
        surrogate: (K,) what the advantages of the old policy promise.
        objective: (K,) the true J.
        bound: how wrong the surrogate can be at each of the K policies.
    """

    step_sizes: Tensor
    kl: Tensor
    surrogate: Tensor
    objective: Tensor
    bound: SurrogateBound


def surrogate_objective(
    tree: ResponseTree, old_logits: Tensor, logits: Tensor, rewards: Tensor
) -> Tensor:
    """Promise a new policy's expected reward from the visits and advantages of the old one.

        L(π) = J(π_old) + Σ_s d_old(s) Σ_a π(a | s) · A_old(s, a)

    At π = π_old value and gradient are those of J. With the visits d_π of the new policy in the
    place of d_old the sum would be J(π) exactly.

    Args:
        tree: the responses there are.
        old_logits: (..., N, A) the policy that sampled; constant.
        logits: (..., N, A) the policy to judge, with gradient.
        rewards: (..., Y) or (Y,) reward of every response.

    Returns:
        (...) L in the unit of the rewards.

    Raises:
        ValueError: If a shape does not fit the tree.

    Source:
        Schulman et al. 2015, "Trust Region Policy Optimization", equation 3, without discount.
    """
    with torch.no_grad():
        old = tree.evaluate(old_logits, rewards)
        weights = tree.reach(old_logits).unsqueeze(-1) * old.advantage
    tree.reach(logits)  # refuses a shape that does not fit
    return old.v[..., 0] + (weights * logits.softmax(-1)).sum((-2, -1))


@torch.no_grad()
def surrogate_bound(
    tree: ResponseTree, old_logits: Tensor, logits: Tensor, rewards: Tensor
) -> SurrogateBound:
    """Bound how far the surrogate can lie from the truth: |J(π) − L(π)|.

    With α the largest total variation of next-token distributions, ε_A the largest |A_old| and L
    the longest response: after t tokens the two policies have parted with probability at most
    t · α, and where they have, each promises up to 2 · α · ε_A. So

        |J − L| ≤ Σ_{t<L} 2tα · 2αε_A = 2 · ε_A · L(L − 1) · α² ≤ ε_A · L(L − 1) · max KL

    by Pinsker's α² ≤ KL/2. The bound by visits takes the mean of the total variation over the
    prefixes that π_old visits in the place of the largest, and the promise as it is.

    Args:
        tree: the responses there are.
        old_logits: (..., N, A) the policy that sampled.
        logits: (..., N, A) the policy to judge.
        rewards: (..., Y) or (Y,) reward of every response.

    Returns:
        The bounds, each at least as tight as the one before it.

    Raises:
        ValueError: If a shape does not fit the tree.

    Source:
        Schulman et al. 2015, "Trust Region Policy Optimization", theorem 1, whose Σ_t t·γ^t =
        γ/(1 − γ)² is Σ_{t<L} t here; by visits: Achiam et al. 2017, "Constrained Policy
        Optimization", theorem 1, likewise.
    """
    old = tree.evaluate(old_logits, rewards)
    visits = tree.reach(old_logits)
    tree.reach(logits)  # refuses a shape that does not fit
    variation = 0.5 * (logits.softmax(-1) - old_logits.softmax(-1)).abs().sum(-1)
    divergence = formulas.categorical_kl(*torch.broadcast_tensors(old_logits, logits))
    promise = (logits.softmax(-1) * old.advantage).sum(-1).abs()
    largest_advantage = old.advantage.abs().amax((-2, -1)).expand(variation.shape[:-1])
    steps = tree.longest * (tree.longest - 1)

    parted = by_visits = torch.zeros_like(variation[..., 0])
    for depth in range(tree.longest):
        here = tree.depth == depth
        # Until here the two have parted with probability `parted` at most.
        by_visits = by_visits + 2 * parted.clamp(max=1) * promise[..., here].amax(-1)
        parted = parted + (visits * variation)[..., here].sum(-1)

    alpha, kl = variation.amax(-1), divergence.amax(-1)
    return SurrogateBound(
        max_kl=kl,
        max_total_variation=alpha,
        largest_advantage=largest_advantage,
        by_kl=largest_advantage * steps * kl,
        by_total_variation=2 * largest_advantage * steps * alpha.square(),
        by_visits=by_visits,
    )


@torch.no_grad()
def profile_direction(
    tree: ResponseTree,
    old_logits: Tensor,
    direction: Tensor,
    step_sizes: Sequence[float],
    rewards: Tensor,
) -> DirectionProfile:
    """Walk along one direction in logits and measure promise, truth and bound at each step.

    Args:
        tree: the responses there are.
        old_logits: (N, A) the policy to start from.
        direction: (N, A) the direction in logits, such as a gradient.
        step_sizes: K distances along it, in units of the direction.
        rewards: (Y,) reward of every response.

    Returns:
        The K measurements.

    Raises:
        ValueError: If a shape does not fit the tree.
    """
    sizes = torch.as_tensor(step_sizes, dtype=old_logits.dtype)
    logits = old_logits + sizes[:, None, None] * direction
    old = old_logits.expand_as(logits)
    return DirectionProfile(
        step_sizes=sizes,
        kl=tree.kl(old, logits),
        surrogate=surrogate_objective(tree, old, logits, rewards),
        objective=(tree.response_log_probs(logits).exp() * rewards).sum(-1),
        bound=surrogate_bound(tree, old, logits, rewards),
    )


@torch.no_grad()
def step_to_kl(tree: ResponseTree, old_logits: Tensor, direction: Tensor, max_kl: float) -> float:
    """Find how far one can go along a direction until the KL reaches a limit, by bisection.

    KL(π_old ‖ π) is a convex function of the step size with its minimum 0 at 0, so it grows all the
    way. This is the exact counterpart of TRPO's line search.

    Args:
        tree: the responses there are.
        old_logits: (N, A) the policy to start from.
        direction: (N, A) the direction in logits.
        max_kl: the limit above 0, in nats per response.

    Returns:
        The step size; its KL is at the limit up to rounding, and never above.

    Raises:
        ValueError: If a shape does not fit the tree, the limit is not above 0, or the direction
            never reaches it.
    """
    if not max_kl > 0:
        raise ValueError(f"step_to_kl: max_kl must be above 0, got {max_kl}")

    def too_far(size: float) -> bool:
        return not float(tree.kl(old_logits, old_logits + size * direction)) <= max_kl

    low, high = 0.0, 1.0
    while not too_far(high):
        low, high = high, 2 * high
        if high > 1e12:
            raise ValueError(
                f"step_to_kl: direction must lead to a KL of {max_kl} nats, got one that never "
                "does (a constant row changes no softmax)"
            )
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (low, middle) if too_far(middle) else (middle, high)
    return low
