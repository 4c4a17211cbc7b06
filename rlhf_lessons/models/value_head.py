"""A scalar per position: the value function V(s) of lesson 4, read on a language model's body.

V(s_t) is what the rest of the response is expected to earn, seen from the text before token t. The
head reads the very vector from which the model computes the logits of token t, so that policy and
value cost one forward pass together::

    body     h₁ h₂ h₃ ...          h_t has seen the prompt and the tokens before t
    LM head  logits_t = W · h_t    what to say next
    value    V_t      = w · h_t    what it will come to

Left out on purpose: hidden layers in the head. A value function with a body of its own is the same
class on another model: ``ValueHead(other_policy)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lessons.models.language_policy import LanguagePolicy
from rlhf_lessons.models.token_batch import TokenBatch

__all__ = ["ValueHead"]


class ValueHead(torch.nn.Module):
    """A linear map from a language model's last hidden state to a value, V_t = w · h_t + b.

    It starts at zero: every state is worth 0 until something is learned. Its own parameters are w
    and b; those of the body belong to the policy.

    Args:
        policy: the language model whose body is read. The policy in training itself (a shared
            body), or another one (a body of its own).

    Attributes:
        policy: that language model.
        linear: w and b, in float32 or better.

    Raises:
        ValueError: if the model does not say which layer its logits come from.
    """

    def __init__(self, policy: LanguagePolicy) -> None:
        super().__init__()
        lm_head = policy.model.get_output_embeddings()
        if lm_head is None:
            raise ValueError(
                f"ValueHead: policy must have a layer that gives the logits, got none from "
                f"{type(policy.model).__name__}.get_output_embeddings()"
            )
        self.policy = policy
        weight = lm_head.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self.linear = torch.nn.Linear(weight.shape[1], 1, dtype=dtype, device=weight.device)
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)

    def forward(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Compute logits and values of each response position in one pass, with gradient.

        Args:
            batch: prompts and responses, for instance a ``Rollout``.

        Returns:
            (B, T, V) the logits that predict each response token, as ``policy.logits_of`` gives
            them, and (B, T) the values of the states before each token; what stands at padding
            means nothing.

        Raises:
            ValueError: as ``LanguagePolicy.logits_of`` raises it.
        """
        states, logits = self.policy.states_of(batch)
        return logits, self._values(states)

    def values_of(self, batch: TokenBatch) -> Tensor:
        """Compute the values alone, with gradient; the body's logits are left out.

        Args:
            batch: prompts and responses, for instance a ``Rollout``.

        Returns:
            (B, T) the values of the states before each token; what stands at padding means
            nothing.

        Raises:
            ValueError: as ``LanguagePolicy.logits_of`` raises it.
        """
        return self._values(self.policy.states_of(batch, logits=False)[0])

    def _values(self, states: Tensor) -> Tensor:
        # In full precision also where the body runs in bfloat16: values have few digits to spare.
        with torch.autocast(states.device.type, enabled=False):
            return self.linear(states.to(self.linear.weight.dtype)).squeeze(-1)
