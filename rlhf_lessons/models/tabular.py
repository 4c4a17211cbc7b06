"""Tables that learn: one number, or nine, for each position of a small world.

What is here: a table of state values V(s), a table of move values Q(s, a), and a softmax policy
with one logit for each move. Lesson 1 fills them. A language model is the same policy with the
table replaced by a network.

Left out on purpose: autograd. In a table the gradient of log π is one line, see
:func:`rlhf_lessons.formulas.log_prob_gradient`.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ActionValueTable", "SoftmaxPolicy", "ValueTable"]


class ValueTable:
    """V(s): one value for each state, with a count of how often it was visited.

    Attributes:
        values: (S,) float64 values, 0 until learned.
        visits: (S,) how many times each state was updated.
    """

    def __init__(self, states: int):
        """Make a table of zeros.

        Args:
            states: the number S of states.
        """
        self.values = torch.zeros(states, dtype=torch.float64)
        self.visits = torch.zeros(states, dtype=torch.long)


class ActionValueTable:
    """Q(s, a): one value for each action in each state, with a count of the updates.

    Attributes:
        legal: (S, A) bool, the actions that each state allows.
        values: (S, A) float64 values, 0 until learned; illegal actions stay at 0.
        visits: (S, A) how many times each value was updated.
    """

    def __init__(self, legal: Tensor):
        """Make a table of zeros.

        Args:
            legal: (S, A) bool tensor or array, the actions that each state allows.
        """
        self.legal = _own_copy(legal)
        self.values = torch.zeros(self.legal.shape, dtype=torch.float64)
        self.visits = torch.zeros(self.legal.shape, dtype=torch.long)


class SoftmaxPolicy:
    """π(a|s) = exp z(s, a) / Σ_b exp z(s, b) over the legal actions b, one logit z for each.

    All logits start at 0, so the policy starts uniform.

    Attributes:
        legal: (S, A) bool, the actions that each state allows.
        logits: (S, A) float64 logits z; those of illegal actions are ignored.
    """

    def __init__(self, legal: Tensor):
        """Make a uniform policy.

        Args:
            legal: (S, A) bool tensor or array, the actions that each state allows.
        """
        self.legal = _own_copy(legal)
        self.logits = torch.zeros(self.legal.shape, dtype=torch.float64)

    def log_probabilities(self) -> Tensor:
        """Return log π(a|s) = z(s, a) - log Σ_b exp z(s, b).

        Returns:
            (S, A), -inf for illegal actions.
        """
        return _masked_log_softmax(self.logits, self.legal)

    def probabilities(self) -> Tensor:
        """Return π(a|s).

        Returns:
            (S, A), 0 for illegal actions; each state that allows an action sums to 1.
        """
        return self.log_probabilities().exp()


def _own_copy(legal) -> Tensor:
    return legal.clone() if isinstance(legal, Tensor) else torch.tensor(legal, dtype=torch.bool)


def _masked_log_softmax(logits: Tensor, legal: Tensor) -> Tensor:
    masked = logits.masked_fill(~legal, -torch.inf)
    # Subtracting the largest logit changes nothing and keeps exp from overflowing. A state without
    # any legal action (the game is over) has no largest one: use 0 there.
    largest = masked.amax(dim=-1, keepdim=True)
    largest = torch.where(largest.isfinite(), largest, torch.zeros_like(largest))
    shifted = masked - largest
    log_total = shifted.exp().sum(dim=-1, keepdim=True).log()
    return (shifted - log_total).masked_fill(~legal, -torch.inf)
