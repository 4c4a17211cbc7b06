"""The formulas of reinforcement learning on a table: values from playouts, advantages, REINFORCE.

What is here: the four small formulas that lesson 1 learns with. A row is a state, a column an
action, and a boolean table says which actions are legal. The returns themselves come from
:func:`rlhf_lessons.formulas.discounted_returns`, which the other lessons share.

Left out on purpose: autograd. For a softmax the gradient of log π is one line, and lesson 1 is
where it is seen.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "advantage",
    "log_prob_gradient",
    "monte_carlo_values",
    "reinforce_gradient",
    "td_update",
]


def monte_carlo_values(
    states: Tensor, returns: Tensor, mask: Tensor, number_of_states: int
) -> Tensor:
    """Estimate V^π(s) by the mean of the returns that followed visits to s.

    V(s) = Σ_{t: s_t = s} G_t / #{t: s_t = s}

    Args:
        states: (B, T) long, the state of each time step.
        returns: (B, T) the return G_t from there on.
        mask: (B, T) bool, True = a time step that was played.
        number_of_states: S.

    Returns:
        (S,) values in the dtype of the returns; 0 for states that were never visited.

    Raises:
        ValueError: the shapes disagree.

    Source:
        Sutton & Barto 2018, section 5.1.
    """
    if not states.shape == returns.shape == mask.shape:
        raise ValueError(
            "monte_carlo_values: states, returns and mask must have the same shape, got "
            f"{tuple(states.shape)}, {tuple(returns.shape)} and {tuple(mask.shape)}"
        )
    visited = states[mask]
    totals = torch.zeros(number_of_states, dtype=returns.dtype)
    totals.index_add_(0, visited, returns[mask])
    return totals / torch.bincount(visited, minlength=number_of_states).clamp(min=1)


def td_update(
    value: float, reward: float, next_value: float, finished: bool, step_size: float, gamma: float
) -> float:
    """Move a value a little towards the reward plus the value of what comes next.

    V(s) ← V(s) + α·(r + γ·V(s') - V(s)), where V(s') counts as 0 after the last move.

    Args:
        value: V(s).
        reward: r, received between s and s'.
        next_value: V(s'); ignored when the game is finished.
        finished: whether the game ended with this time step.
        step_size: α, 0 to 1.
        gamma: discount γ, 0 to 1.

    Returns:
        The new V(s).

    Raises:
        TypeError: an argument is no number.

    Source:
        Sutton & Barto 2018, eq. 6.2.
    """
    target = reward if finished else reward + gamma * next_value
    return value + step_size * (target - value)


def advantage(q_values: Tensor, probabilities: Tensor, legal: Tensor) -> Tensor:
    """Say how much better each action is than what the policy gets on average.

    A(s, a) = Q(s, a) - V(s), with V(s) = Σ_b π(b|s)·Q(s, b)

    Args:
        q_values: (B, A) values of the actions; those of illegal actions may hold anything.
        probabilities: (B, A) π, 0 for illegal actions.
        legal: (B, A) bool, the actions that each state allows.

    Returns:
        (B, A) advantages; 0 for illegal actions.

    Raises:
        ValueError: the shapes disagree.

    Source:
        Baird 1993, "Advantage updating", section 3; Sutton & Barto 2018, eq. 3.12 for V.
    """
    if not q_values.shape == probabilities.shape == legal.shape:
        raise ValueError(
            "advantage: q_values, probabilities and legal must have the same shape, got "
            f"{tuple(q_values.shape)}, {tuple(probabilities.shape)} and {tuple(legal.shape)}"
        )
    q_values = q_values.masked_fill(~legal, 0.0)
    state_values = (probabilities * q_values).sum(dim=-1, keepdim=True)
    return (q_values - state_values).masked_fill(~legal, 0.0)


def log_prob_gradient(logits: Tensor, legal: Tensor, actions: Tensor) -> Tensor:
    """Return the gradient of log π(a|s) with respect to the logits, for a softmax over legal moves.

    log π(a|s) = z_a - log Σ_b exp z_b, therefore ∂ log π(a|s) / ∂z_b = 1[a = b] - π(b|s)

    Args:
        logits: (B, A) logits z, one row for each visited state.
        legal: (B, A) bool, the actions that each of these states allows.
        actions: (B,) the action a that was taken, a legal one.

    Returns:
        (B, A) gradients; 0 for illegal actions, and each row sums to 0.

    Raises:
        ValueError: the shapes disagree, or an action is illegal.

    Source:
        Williams 1992, "Simple statistical gradient-following algorithms", eq. 4 (the eligibility).
    """
    if logits.ndim != 2 or legal.shape != logits.shape or actions.shape != logits.shape[:1]:
        raise ValueError(
            "log_prob_gradient: expected logits and legal (B, A) and actions (B,), got "
            f"{tuple(logits.shape)}, {tuple(legal.shape)} and {tuple(actions.shape)}"
        )
    chosen = torch.nn.functional.one_hot(actions, logits.shape[1]).to(logits.dtype)
    if (chosen.bool() & ~legal).any():
        row = int((chosen.bool() & ~legal).any(dim=1).nonzero()[0])
        raise ValueError(
            f"log_prob_gradient: action {int(actions[row])} of row {row} is illegal there; legal "
            f"are {legal[row].nonzero().flatten().tolist()}"
        )
    return chosen - _legal_softmax(logits, legal)


def reinforce_gradient(logits: Tensor, legal: Tensor, actions: Tensor, weights: Tensor) -> Tensor:
    """Weigh the gradient of each taken action's log-probability: the direction that raises J.

    ∇J = E[Σ_t w_t·∇ log π(a_t|s_t)], with w = G_t, or G_t - b(s_t) with a baseline b

    Args:
        logits: (B, A) logits of the visited states.
        legal: (B, A) bool, the actions that each of these states allows.
        actions: (B,) the actions that were taken.
        weights: (B,) the returns, or returns minus baseline.

    Returns:
        (B, A) the gradient with respect to the logits, one row for each visit.

    Raises:
        ValueError: the shapes disagree, or an action is illegal.

    Source:
        Williams 1992, "Simple statistical gradient-following algorithms", eq. 4.
    """
    if weights.shape != actions.shape:
        raise ValueError(
            f"reinforce_gradient: weights must have the shape of actions, {tuple(actions.shape)}, "
            f"got {tuple(weights.shape)}"
        )
    return weights[:, None] * log_prob_gradient(logits, legal, actions)


def _legal_softmax(logits: Tensor, legal: Tensor) -> Tensor:
    # The largest logit is taken away first: it cancels, and exp cannot overflow.
    masked = logits.masked_fill(~legal, -torch.inf)
    unnormalised = (masked - masked.amax(dim=-1, keepdim=True)).exp()
    return unnormalised / unnormalised.sum(dim=-1, keepdim=True)
