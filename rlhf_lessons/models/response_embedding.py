"""A few numbers per response: a place in a latent space where like responses lie close (lesson 3).

Learned from triplets ("which of B and C is more like A?") by ``train_embedding``, used to pick
responses that are good *and* different.

Left out on purpose: comparing responses of different prompts by cosine; distances are Euclidean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlhf_lessons.models.language_policy import LanguagePolicy
from rlhf_lessons.models.readout import Readout

__all__ = ["ResponseEmbedding"]


class ResponseEmbedding(Readout):
    """A causal body with a head of D numbers, read at the last counted token: z(x, y) = W · h_last.

    Attributes:
        model: the wrapped sequence classifier with D outputs.
        tokenizer: its tokenizer.
        context_length: the most tokens (prompt + response + end) it takes, None if unlimited.
    """

    @classmethod
    def from_policy(
        cls, policy: LanguagePolicy, dimensions: int = 2, *, seed: int = 0
    ) -> ResponseEmbedding:
        """Copy a policy's body and put a small random head of D outputs on it.

        Args:
            policy: the policy; it stays unchanged.
            dimensions: D, the number of axes of the latent space, at least 2.
            seed: of the head's first weights; zeros would put all responses on one point, from
                where no distance has a direction.

        Returns:
            an embedding with weights of its own, all of them trainable.

        Raises:
            ValueError: if ``dimensions`` < 2, or transformers has no such head for this model.
        """
        if dimensions < 2:
            raise ValueError(
                f"ResponseEmbedding.from_policy: dimensions must be at least 2, got {dimensions}"
            )
        generator = torch.Generator().manual_seed(seed)
        return cls._from_body(
            policy,
            dimensions,
            lambda width: torch.randn(dimensions, width, generator=generator) / width,
        )

    def embed(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Place responses in the latent space, without gradient.

        Args:
            prompts: B texts.
            responses: B texts that continue them.

        Returns:
            (B, D) places.

        Raises:
            ValueError: if there are no texts, their numbers differ, or one is too long.
            FloatingPointError: if a number is NaN or infinite.
        """
        return self.read(prompts, responses)
