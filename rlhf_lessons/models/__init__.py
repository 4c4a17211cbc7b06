"""What owns weights."""

from rlhf_lessons.models.checkpoints import (
    CHECKPOINT_FOLDER,
    Checkpoint,
    CheckpointError,
    list_checkpoints,
    load_people_judge,
    load_policy,
    load_reward_model,
    verify_checkpoints,
)
from rlhf_lessons.models.classifier import ResponseClassifier
from rlhf_lessons.models.language_policy import LanguagePolicy
from rlhf_lessons.models.people_judge import PeopleJudge
from rlhf_lessons.models.response_embedding import ResponseEmbedding
from rlhf_lessons.models.response_tree import ResponseTree, TreeValues, table_policy
from rlhf_lessons.models.reward_model import RewardModel, TokenRewardModel
from rlhf_lessons.models.sequence_judge import SequenceClassifierJudge
from rlhf_lessons.models.small_gpt2 import small_gpt2
from rlhf_lessons.models.surprise_reward import SurpriseReward
from rlhf_lessons.models.tabular import (
    ActionValueTable,
    SoftmaxPolicy,
    ValueTable,
)
from rlhf_lessons.models.token_batch import Rollout, TokenBatch
from rlhf_lessons.models.tokenizer import SPECIAL_TOKENS, word_tokenizer
from rlhf_lessons.models.value_head import ValueHead

__all__ = [
    "CHECKPOINT_FOLDER",
    "SPECIAL_TOKENS",
    "ActionValueTable",
    "Checkpoint",
    "CheckpointError",
    "LanguagePolicy",
    "PeopleJudge",
    "ResponseClassifier",
    "ResponseEmbedding",
    "ResponseTree",
    "RewardModel",
    "Rollout",
    "SequenceClassifierJudge",
    "SoftmaxPolicy",
    "SurpriseReward",
    "TokenBatch",
    "TokenRewardModel",
    "TreeValues",
    "ValueHead",
    "ValueTable",
    "list_checkpoints",
    "load_people_judge",
    "load_policy",
    "load_reward_model",
    "small_gpt2",
    "table_policy",
    "verify_checkpoints",
    "word_tokenizer",
]
