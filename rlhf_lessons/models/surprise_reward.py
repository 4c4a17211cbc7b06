"""A reward model that also hears how surprised a language model was (lesson 3).

A body fine-tuned on preferences learns what was said. That a word did not fit there, few noisy
labels do not teach it to mind. The policy knows, and says so in a log-probability::

    texts ──► reward model r_θ                   what was said        × a ─┐
      └─────► policy       min_t log π(y_t | …)  the oddest word      × b ─┴─► reward

Two numbers join the two. Left out on purpose: surprise of whole sentences, and training the policy
that is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rlhf_lessons.formulas.linear_rewards import fit_linear_rewards
from rlhf_lessons.models.language_policy import LanguagePolicy

__all__ = ["SurpriseReward"]


class SurpriseReward:
    """A judge and a policy's surprise: r(x, y) = a · r_θ(x, y) + b · min_t log π(y_t | x, y_<t).

    Itself a judge. It holds no weights but a and b: save reward model and policy as they save
    themselves, and hand the two numbers back as ``weights``. The end token counts: a response that
    was cut off is as odd as it is to end there.

    Args:
        reward_model: r_θ, any judge; a ``RewardModel`` that is trained already.
        policy: the language model that is asked how likely each token was. It must stay as it is:
            the one that wrote the responses, not a copy in training.
        weights: a and b; ``fit`` chooses them.

    Attributes:
        reward_model: that judge.
        policy: that language model.
        weights: a and b.

    Raises:
        ValueError: if weights are not two finite numbers.
    """

    def __init__(
        self,
        reward_model: Callable[[Sequence[str], Sequence[str]], Tensor],
        policy: LanguagePolicy,
        weights: tuple[float, float] = (1.0, 0.0),
    ) -> None:
        self.reward_model = reward_model
        self.policy = policy
        if len(weights) != 2 or not all(map(math.isfinite, weights)):
            raise ValueError(
                f"SurpriseReward: weights must be two finite numbers, got {tuple(weights)}"
            )
        self.weights = (weights[0], weights[1])

    def fit(self, preferences: Sequence[Sequence[str]]) -> None:
        """Choose a and b by the likelihood of comparisons, which has one maximum.

        a, b = argmin mean_i −log σ(r(x_i, chosen_i) − r(x_i, rejected_i))

        Args:
            preferences: (prompt, chosen, rejected) records; equal responses teach nothing and are
                left out. Those that the reward model was trained on will do as long as it has not
                learned them by heart: what it remembers makes a too large.

        Raises:
            ValueError: if no record has two different responses, one is no triple, a reward is not
                finite, some a and b explain every choice, so that no size of them is large
                enough, or reward and surprise always differ in one proportion.
            FloatingPointError: as reward model and policy raise it.
        """
        for position, record in enumerate(preferences):
            if len(record) != 3:
                raise ValueError(
                    "SurpriseReward.fit: preferences must hold (prompt, chosen, rejected), got "
                    f"{record!r} at {position}"
                )
        choices = [record for record in preferences if record[1] != record[2]]
        if not choices:
            raise ValueError(
                "SurpriseReward.fit: preferences must hold at least one record of two different "
                f"responses, got none among {len(preferences)}"
            )
        prompts, chosen, rejected = map(list, zip(*choices, strict=True))
        differences = self._terms(prompts, chosen) - self._terms(prompts, rejected)
        if not bool(differences.isfinite().all()):
            raise ValueError(
                "SurpriseReward.fit: reward_model must give finite rewards, got NaN or infinity "
                f"for {choices[int((~differences.isfinite()).nonzero()[0, 0])]!r}"
            )
        try:
            weights, _ = fit_linear_rewards(differences)
        except ValueError as error:
            raise ValueError(
                "SurpriseReward.fit: preferences must hold choices that reward and surprise do not "
                f"explain, got {len(choices)} that they all explain, or in which one of the two "
                "says nothing of its own: take more"
            ) from error
        self.weights = tuple(weights.tolist())

    @torch.no_grad()
    def _terms(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Give (B, 2): the judge's reward, and the log-probability of the least likely token."""
        rewards = torch.as_tensor(self.reward_model(prompts, responses)).cpu().double()
        least = []
        for start in range(0, len(rewards), 256):
            part = slice(start, start + 256)
            log_probs, _ = self.policy.log_probs(prompts[part], responses[part])
            least.append(log_probs.min(1).values)  # padding has 0, which no token is above
        return torch.stack([rewards, torch.cat(least).cpu().double()], dim=1)

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Score responses, without gradient.

        Args:
            prompts: B texts.
            responses: B texts that continue them.

        Returns:
            (B,) scores, float32, on the CPU, where judges are compared.

        Raises:
            ValueError: as judge and policy raise it.
            FloatingPointError: as they raise it.
        """
        weights = torch.tensor(self.weights, dtype=torch.float64)
        return (self._terms(prompts, responses) @ weights).float()
