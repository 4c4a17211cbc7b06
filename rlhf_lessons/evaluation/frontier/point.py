"""One policy on the plane of KL and reward, by sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rlhf_lessons.evaluation.language import estimate_mean, sample_kl
from rlhf_lessons.models import LanguagePolicy
from rlhf_lessons.worlds import reviews

__all__ = ["BATCH", "LONGEST", "FrontierPoint", "Judge", "frontier_point"]

LONGEST = 48
"""Tokens of a response; the longest review has 46."""
BATCH = 512
"""Responses sampled and read side by side."""

Judge = Callable[[Sequence[str], Sequence[str]], Any]


@dataclass(frozen=True)
class FrontierPoint:
    """One policy on the plane of KL and reward.

    Attributes:
        step: updates (PPO: cycles, best-of-n: n) that made the policy.
        total: of how many.
        kl: KL(π ‖ π_ref) in nats per response.
        kl_error: its standard error.
        reward: mean gold reward of a response.
        reward_error: its standard error.
        clean: share of responses without a fault.
        samples: responses that were sampled.
        chosen_log_ratio: mean log π − log π_ref of the chosen responses in training, in nats; None
            where there are none.
        rejected_log_ratio: the same of the rejected ones.
        texts: a few (prompt, response, gold reward), the same prompts for every policy.
    """

    step: int
    total: int
    kl: float
    kl_error: float
    reward: float
    reward_error: float
    clean: float
    samples: int
    chosen_log_ratio: float | None = None
    rejected_log_ratio: float | None = None
    texts: tuple[tuple[str, str, float], ...] = ()


@torch.no_grad()
def frontier_point(
    policy: LanguagePolicy,
    reference: LanguagePolicy,
    prompts: Sequence[str],
    *,
    judge: Judge = reviews.gold_reward,
    max_new_tokens: int = LONGEST,
    seed: int = 0,
    batch_size: int = BATCH,
    step: int = 0,
    total: int = 0,
    texts: int = 0,
) -> FrontierPoint:
    """Place any policy on the frontier: KL to its reference and mean reward, by sampling.

    KL and reward are measured on the same responses, one to each prompt.

    Args:
        policy: π, which is sampled.
        reference: π_ref, with the same tokens.
        prompts: 2 or more texts; repeat a prompt for more responses to it.
        judge: (prompts, responses) -> rewards (B,), by default the gold reward.
        max_new_tokens: the most tokens of a response.
        seed: of the sampling.
        batch_size: responses sampled and read side by side.
        step: updates that made the policy, for the record.
        total: of how many.
        texts: number of responses to keep in the record.

    Returns:
        The point.

    Raises:
        ValueError: if there are fewer than two prompts or the vocabularies differ.
    """
    generator = torch.Generator(policy.device).manual_seed(seed)
    responses, divergences = sample_kl(
        policy, reference, prompts, max_new_tokens, generator, batch_size
    )
    kl = estimate_mean(divergences)
    rewards = np.asarray(judge(prompts, responses), dtype=np.float64)
    reward = estimate_mean(rewards)
    clean = sum(not reviews.faults(response) for response in responses) / len(responses)
    kept = zip(prompts[:texts], responses[:texts], rewards[:texts].tolist(), strict=True)
    return FrontierPoint(
        step=step,
        total=total,
        kl=kl.value,
        kl_error=kl.standard_error,
        reward=reward.value,
        reward_error=reward.standard_error,
        clean=clean,
        samples=len(responses),
        texts=tuple((prompt, text, round(score, 3)) for prompt, text, score in kept),
    )
