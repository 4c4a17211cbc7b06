"""A scalar per response: the reward model r(x, y) of lessons 3, 4 and 6.

It is a judge: call it with prompts and responses and it returns one score for each. Best-of-n, PPO
and the building of pairs take it wherever they take the gold reward.

:class:`RewardModel` reads the last token, as the field does; :class:`TokenRewardModel` lets every
token add its own. ``SurpriseReward`` puts a language model's surprise beside either. Left out on
purpose: ensembles.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlhf_lessons.models.language_policy import LanguagePolicy
from rlhf_lessons.models.readout import Readout, as_rows
from rlhf_lessons.models.token_batch import TokenBatch

__all__ = ["RewardModel", "TokenRewardModel"]


class RewardModel(Readout):
    """A causal body with a scalar head, read at the last counted token: r(x, y) = w · h_last.

    Make one with ``RewardModel.from_policy``; ``RewardModel(model, tokenizer)`` wraps a sequence
    classifier of transformers with one output.

    Attributes:
        model: the wrapped sequence classifier.
        tokenizer: its tokenizer.
        context_length: the most tokens (prompt + response + end) it takes, None if unlimited.
        offset: what ``score`` subtracts, set by ``normalise``.
        scale: what ``score`` divides by, set by ``normalise``.

    Raises:
        ValueError: if the model's head is not linear or has more than one output.
    """

    READS = "last token"  # what the saved configuration says where it says nothing

    def __init__(self, model, tokenizer) -> None:
        super().__init__(model, tokenizer)
        reads = getattr(model.config, "reward_reads", RewardModel.READS)
        if reads != self.READS:
            raise ValueError(
                f"{type(self).__name__}: model must read rewards at the {self.READS}, got one that "
                f"was made to read the {reads}; RewardModel reads the last token, TokenRewardModel "
                f"every token"
            )
        if model.score.out_features != 1:
            raise ValueError(
                f"RewardModel: model must have a head of one output, got {model.score.out_features}"
            )

    @classmethod
    def from_policy(cls, policy: LanguagePolicy) -> RewardModel:
        """Copy a policy's body and put a scalar head of zeros on it.

        With a head of zeros every reward is 0 and every pair even: the loss starts at log 2.

        Args:
            policy: the policy, best the one whose responses will be judged; it stays unchanged.

        Returns:
            a reward model with weights of its own, all of them trainable.

        Raises:
            ValueError: if transformers knows no scalar head for this kind of model.
        """
        marks = {} if cls.READS == RewardModel.READS else {"reward_reads": cls.READS}
        return cls._from_body(policy, 1, lambda width: torch.zeros(1, width), **marks)

    @property
    def offset(self) -> float:
        """What ``score`` subtracts from the head's output."""
        return float(getattr(self.model.config, "reward_offset", 0.0))

    @property
    def scale(self) -> float:
        """What ``score`` then divides by."""
        return float(getattr(self.model.config, "reward_scale", 1.0))

    def rewards_of(self, batch: TokenBatch) -> Tensor:
        """Compute the head's output for responses given as tokens, with gradient.

        Args:
            batch: prompts and responses, for instance a ``Rollout``; padding changes nothing.

        Returns:
            (B,) rewards, not normalised: a loss on differences needs no offset.
        """
        return self.read_rows(*as_rows(batch.to("cpu"))).squeeze(-1)

    def score(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        batch_size: int = 256,
        truncate: bool = False,
    ) -> Tensor:
        """Score responses, without gradient: score = (w · h_last − offset) / scale.

        Args:
            prompts: B texts.
            responses: B texts that continue them.
            batch_size: texts a forward pass; it changes speed and memory alone.
            truncate: whether to cut what is beyond the context; False refuses such a text.

        Returns:
            (B,) scores, on the CPU, where judges are compared.

        Raises:
            ValueError: if there are no texts, their numbers differ, or one is too long.
            FloatingPointError: if a score is NaN or infinite.
        """
        raw = self.read(prompts, responses, batch_size=batch_size, truncate=truncate)
        return ((raw.squeeze(-1) - self.offset) / self.scale).cpu()

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Score responses: a reward model is a judge."""
        return self.score(prompts, responses)

    def normalise(self, prompts: Sequence[str], responses: Sequence[str]) -> None:
        """Choose the free constant and the unit: mean 0 and standard deviation 1 on these texts.

        Preferences fix rewards only up to a constant. Give responses that the reference policy
        sampled: 0 then means "as good as before". Saved with the model.

        Args:
            prompts: B texts, at least two.
            responses: B texts that continue them.

        Raises:
            ValueError: if there are fewer than two texts, or all get the same score.
        """
        raw = self.read(prompts, responses).squeeze(-1).double()
        if len(raw) < 2 or not raw.std() > 0:
            raise ValueError(
                "RewardModel.normalise: responses must hold at least two texts with different "
                f"scores, got {len(raw)} with {len(raw.unique())} different ones"
            )
        self.model.config.reward_offset = float(raw.mean())
        self.model.config.reward_scale = float(raw.std())


class TokenRewardModel(RewardModel):
    """A reward model in which every token adds its own share: r(x, y) = Σ_t w · h_t.

    Where a response is good for what its sentences say one by one, the sum need not be carried to
    the last token: the same pairs teach a little more (lesson 3 measures it). The prompt's share is
    the same for all its responses, so preferences neither show nor fix it. It is made, trained,
    saved and called like a ``RewardModel``; to ``transformers`` the saved model is a classifier
    that reads the last token, so load it with this class.

    Attributes:
        model: the wrapped sequence classifier.
        tokenizer: its tokenizer.
        context_length: the most tokens (prompt + response + end) it takes, None if unlimited.
        offset: what ``score`` subtracts, set by ``normalise``.
        scale: what ``score`` divides by, set by ``normalise``.

    Raises:
        ValueError: if the model's head is not linear or has more than one output, or it was made to
            read the last token.
    """

    READS = "every token"

    def _places(self, lengths: Tensor) -> tuple[Tensor, Tensor]:
        columns = torch.arange(int(lengths.max()), device=lengths.device).expand(len(lengths), -1)
        last = (lengths - 1).unsqueeze(1)
        return columns.minimum(last), columns <= last
