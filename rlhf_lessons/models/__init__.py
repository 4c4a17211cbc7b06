"""What owns weights."""

from rlhf_lessons.models.classifier import ResponseClassifier
from rlhf_lessons.models.language_policy import LanguagePolicy, Rollout, TokenBatch
from rlhf_lessons.models.response_embedding import ResponseEmbedding
from rlhf_lessons.models.reward_model import RewardModel

__all__ = [
    "LanguagePolicy",
    "ResponseClassifier",
    "ResponseEmbedding",
    "RewardModel",
    "Rollout",
    "TokenBatch",
]
