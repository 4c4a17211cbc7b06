"""What the runs of the sweep share: settings, policies, prompts, labelled pairs, a reward model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from rlhf_lessons.evaluation.frontier.point import BATCH, LONGEST, FrontierPoint, frontier_point
from rlhf_lessons.models import LanguagePolicy, RewardModel, load_policy
from rlhf_lessons.training import RewardSettings, train_reward_model
from rlhf_lessons.training.settings import ABOVE_0, check_settings, whole
from rlhf_lessons.worlds import reviews
from rlhf_lessons.worlds.labellers import NoisyComparer, label_pairs
from rlhf_lessons.worlds.preferences import Preference

__all__ = ["KEPT_TEXTS", "FrontierSettings", "World", "sample_responses"]

KEPT_REWARDS = 400
"""Rewards of single responses kept for win rates, on prompts that all runs share."""
KEPT_TEXTS = 2
"""Responses kept of a point."""


@dataclass(frozen=True)
class FrontierSettings:
    """What all runs of a sweep share.

    Attributes:
        pairs: labelled pairs, sampled from the fine-tuned model.
        temperature: of the labels: P(first ≻ second) = σ((r₁ − r₂)/temperature).
        dpo_steps: updates of DPO, iterated DPO and unlikelihood.
        dpo_learning_rate: their highest step size.
        dpo_rounds: rounds of iterated DPO; each gets its share of pairs and updates.
        supervised_steps: updates of preferred fine-tuning.
        supervised_learning_rate: their highest step size.
        reward_steps: updates of the reward model.
        ppo_cycles: cycles of PPO, of 64 responses and 4 epochs each, with a value model apart.
        ppo_learning_rate: step size of the first cycle; it falls in a line to a tenth.
        checkpoints: points measured along a run; the k-th before the last is after 2^−k of it.
        samples: responses that measure the last point.
        checkpoint_samples: responses that measure the others.
        pool_prompts: prompts of best-of-n and of the estimated optimum.
        pool_samples: responses to each of them.
        larger_width: width of the larger model that is fine-tuned only.
        larger_steps: updates of its fine-tuning.
    """

    pairs: int = 4000
    temperature: float = 1.0
    dpo_steps: int = 125
    dpo_learning_rate: float = 1e-3
    dpo_rounds: int = 3
    supervised_steps: int = 125
    supervised_learning_rate: float = 1e-3
    reward_steps: int = 250
    ppo_cycles: int = 40
    ppo_learning_rate: float = 1e-3
    checkpoints: int = 3
    samples: int = 2048
    checkpoint_samples: int = 512
    pool_prompts: int = 64
    pool_samples: int = 256
    larger_width: int = 128
    larger_steps: int = 1600

    def __post_init__(self) -> None:
        rules = {
            field.name: whole(1) if isinstance(field.default, int) else ABOVE_0
            for field in dataclasses.fields(self)
        }
        check_settings(self, **rules)


class World:
    """What the runs of one seed share: policies, prompts, pairs, the reward model. Made on use."""

    def __init__(self, settings: FrontierSettings, seed: int, genres: Sequence[str] = ()) -> None:
        self.settings, self.seed, self.genres = settings, seed, tuple(genres)

    def fresh(self) -> LanguagePolicy:
        """Load the fine-tuned policy, ready to be trained."""
        return load_policy("reviews-sft")

    @cached_property
    def reference(self) -> LanguagePolicy:
        """The fine-tuned policy, frozen: π_ref."""
        return self.fresh().copy()

    def prompts(self, count: int, seed: int, genres: Sequence[str] = ()) -> list[str]:
        """Write prompts, of some genres alone where they are named."""
        found, tries = [], 0
        while len(found) < count:
            written = reviews.sample_prompts(4 * count, seed=seed + tries)
            found += [p for p in written if not genres or any(g in p.split() for g in genres)]
            tries += 1
        return found[:count]

    @cached_property
    def evaluation_prompts(self) -> list[str]:
        """Prompts to measure on, the same for every seed: win rates pair responses to them."""
        if not self.genres:
            return self.prompts(self.settings.samples, seed=900_000)
        others = self.prompts(4 * self.settings.samples, seed=900_000)
        kept = [p for p in others if not any(g in p.split() for g in self.genres)]
        return kept[: self.settings.samples]

    @cached_property
    def training_prompts(self) -> list[str]:
        """Prompts of the pairs and of PPO, of the labelled genres alone where there are some."""
        return self.prompts(self.settings.pairs, 1000 + 10 * self.seed, self.genres)

    def pairs_from(self, policy: LanguagePolicy, prompts: Sequence[str], seed: int) -> list:
        """Sample two responses to each prompt and label them; equal ones teach nothing."""
        first, second = (sample_responses(policy, prompts, 2 * seed + i) for i in range(2))
        comparer = NoisyComparer(reviews.gold_reward, self.settings.temperature)
        labelled = label_pairs(comparer, prompts, first, second, seed)
        return [pair for pair in labelled if pair.chosen != pair.rejected]

    @cached_property
    def pairs(self) -> list[Preference]:
        """The labelled pairs that all methods get."""
        return self.pairs_from(self.reference, self.training_prompts, 2000 + self.seed)

    @cached_property
    def reward_model(self) -> RewardModel:
        """What is learned from the pairs."""
        model = RewardModel.from_policy(self.reference)
        settings = RewardSettings(steps=self.settings.reward_steps, seed=self.seed)
        for _ in train_reward_model(model, self.pairs, settings):
            pass
        return model

    def measure(self, policy: LanguagePolicy, step: int, total: int) -> FrontierPoint:
        """Place the policy: with many samples at the end of a run, fewer on the way."""
        s, last = self.settings, step == total
        return frontier_point(
            policy,
            self.reference,
            self.evaluation_prompts[: s.samples if last else s.checkpoint_samples],
            seed=3000 + self.seed,
            step=step,
            total=total,
            texts=KEPT_REWARDS if last else KEPT_TEXTS,
        )

    def checkpoints(self, total: int) -> set[int]:
        """Say after which steps to measure."""
        return {max(1, total >> k) for k in range(self.settings.checkpoints)}


@torch.no_grad()
def sample_responses(policy: LanguagePolicy, prompts: Sequence[str], seed: int) -> list[str]:
    """Sample a response to each prompt."""
    generator = torch.Generator(policy.device).manual_seed(seed)
    responses: list[str] = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        responses += policy.sample(part, LONGEST, generator=generator).responses
    return responses
