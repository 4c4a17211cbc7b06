"""Where boards, prompts, texts and truths come from. No torch."""

from __future__ import annotations

from rlhf_lessons.worlds.reviews import (
    VOCABULARY,
    Fault,
    faults,
    gold_reward,
    gold_sentiment,
    is_grammatical,
    is_rude,
    sample_prompts,
    sample_reviews,
    sample_web_text,
)

__all__ = [
    "VOCABULARY",
    "Fault",
    "faults",
    "gold_reward",
    "gold_sentiment",
    "is_grammatical",
    "is_rude",
    "sample_prompts",
    "sample_reviews",
    "sample_web_text",
]
