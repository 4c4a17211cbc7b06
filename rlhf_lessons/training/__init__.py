"""What changes weights: one loop per algorithm."""

from rlhf_lessons.training.classifier import ClassifierSettings, ClassifierStep, train_classifier
from rlhf_lessons.training.dpo import DPOSettings, DPOStep, pair_log_probs, train_dpo
from rlhf_lessons.training.expert_iteration import (
    ExpertIterationSettings,
    ExpertIterationStep,
    train_expert_iteration,
)
from rlhf_lessons.training.grpo import GRPOSettings, GRPOStep, train_grpo
from rlhf_lessons.training.kto import KTOSettings, KTOStep, thumb_log_probs, train_kto
from rlhf_lessons.training.people_judge import PeopleJudgeFit, fit_people_judge
from rlhf_lessons.training.ppo import PPOSettings, PPOStep, train_ppo
from rlhf_lessons.training.recipes import (
    RECIPES,
    AdapterRecipe,
    JudgeRecipe,
    Recipe,
    RewardRecipe,
    build_checkpoint,
)
from rlhf_lessons.training.response_embedding import (
    EmbeddingSettings,
    EmbeddingStep,
    train_embedding,
)
from rlhf_lessons.training.reward_model import RewardSettings, RewardStep, train_reward_model
from rlhf_lessons.training.scale import (
    train_dpo_with_trl,
    train_grpo_with_trl,
    train_reward_model_with_trl,
    train_sft_with_trl,
    trl_command,
)
from rlhf_lessons.training.supervised import (
    SupervisedSettings,
    SupervisedStep,
    held_out_nll,
    train_distillation,
    train_sft,
)
from rlhf_lessons.training.tabular import (
    ControlStep,
    MonteCarlo,
    QSettings,
    ReinforceSettings,
    TemporalDifference,
    ValueSettings,
    ValueStep,
    train_q,
    train_reinforce,
    train_values,
)

__all__ = [
    "RECIPES",
    "AdapterRecipe",
    "ClassifierSettings",
    "ClassifierStep",
    "ControlStep",
    "DPOSettings",
    "DPOStep",
    "EmbeddingSettings",
    "EmbeddingStep",
    "ExpertIterationSettings",
    "ExpertIterationStep",
    "GRPOSettings",
    "GRPOStep",
    "JudgeRecipe",
    "KTOSettings",
    "KTOStep",
    "MonteCarlo",
    "PPOSettings",
    "PPOStep",
    "PeopleJudgeFit",
    "QSettings",
    "Recipe",
    "ReinforceSettings",
    "RewardRecipe",
    "RewardSettings",
    "RewardStep",
    "SupervisedSettings",
    "SupervisedStep",
    "TemporalDifference",
    "ValueSettings",
    "ValueStep",
    "build_checkpoint",
    "fit_people_judge",
    "held_out_nll",
    "pair_log_probs",
    "thumb_log_probs",
    "train_classifier",
    "train_distillation",
    "train_dpo",
    "train_dpo_with_trl",
    "train_embedding",
    "train_expert_iteration",
    "train_grpo",
    "train_grpo_with_trl",
    "train_kto",
    "train_ppo",
    "train_q",
    "train_reinforce",
    "train_reward_model",
    "train_reward_model_with_trl",
    "train_sft",
    "train_sft_with_trl",
    "train_values",
    "trl_command",
]
