"""What changes weights: one loop per algorithm."""

from rlhf_lessons.training.classifier import ClassifierSettings, ClassifierStep, train_classifier
from rlhf_lessons.training.response_embedding import (
    EmbeddingSettings,
    EmbeddingStep,
    train_embedding,
)
from rlhf_lessons.training.reward_model import RewardSettings, RewardStep, train_reward_model

__all__ = [
    "ClassifierSettings",
    "ClassifierStep",
    "EmbeddingSettings",
    "EmbeddingStep",
    "RewardSettings",
    "RewardStep",
    "train_classifier",
    "train_embedding",
    "train_reward_model",
]
