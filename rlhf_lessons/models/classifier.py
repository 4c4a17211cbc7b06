"""A yes-or-no judge on top of a language model's body (lesson 2).

The body of a language model turns a text into one vector per position. A linear map from that
vector to one number is all that is learned here: a new head on an old body, trained from a few 0/1
labels.

Left out on purpose: training the body as well, which a reward model does (lesson 3), and more than
two classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlhf_lessons.models.adapters import inside
from rlhf_lessons.models.language_policy import LanguagePolicy
from rlhf_lessons.models.readout import as_rows

__all__ = ["ResponseClassifier"]


class ResponseClassifier(nn.Module):
    """The probability that a person would answer yes about a response: a judge.

        p(yes | x, y) = σ(w · h(x, y) + b)

    h is the mean of the body's last hidden vectors over the tokens of the response. The body reads
    prompt and response and is left as it is; only w and b are learned, so the vectors of a text are
    computed once. w and b start at 0: every probability starts at ½.

    Args:
        policy: the language model whose body is used. Its weights are not changed.

    Attributes:
        policy: that language model.
        head: the linear map w · h + b, the only trainable part.
    """

    def __init__(self, policy: LanguagePolicy) -> None:
        super().__init__()
        self.policy = policy
        width = policy.model.get_input_embeddings().weight.shape[1]
        self.head = nn.Linear(width, 1, device=policy.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @torch.no_grad()
    def features(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Compute the body's mean hidden vector over each response.

        Args:
            prompts: B texts.
            responses: B texts that continue them.

        Returns:
            (B, width) vectors, without gradient.

        Raises:
            TypeError: If prompts or responses is not a sequence of str.
            ValueError: If there are not as many responses as prompts, or none, or a text is longer
                than the context.
        """
        batch = self.policy.encode(prompts, responses)
        tokens, ends = as_rows(batch)  # padding on the right, where no counted token looks
        starts = batch.prompt_mask.sum(1)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        counts = (positions >= starts.unsqueeze(1)) & (positions < ends.unsqueeze(1))
        hidden = inside(self.policy.model).base_model(input_ids=tokens).last_hidden_state
        total = hidden.masked_fill(~counts.unsqueeze(-1), 0).sum(1)
        return (total / counts.sum(1, keepdim=True)).to(self.head.weight.dtype)

    def forward(self, features: Tensor) -> Tensor:
        """Map features to logits, log p/(1 − p), with gradient in the head.

        Args:
            features: (B, width) from :meth:`features`.

        Returns:
            (B,) logits; above 0 means yes.
        """
        return self.head(features).squeeze(-1)

    @torch.no_grad()
    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Give the probability of a yes; this makes the classifier a judge.

        Args:
            prompts: B texts.
            responses: B texts that continue them.

        Returns:
            (B,) probabilities.
        """
        return torch.sigmoid(self(self.features(prompts, responses)))
