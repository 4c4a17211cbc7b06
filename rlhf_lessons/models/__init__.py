"""What owns weights."""

from rlhf_lessons.models.language_policy import LanguagePolicy, Rollout, TokenBatch

__all__ = ["LanguagePolicy", "Rollout", "TokenBatch"]
