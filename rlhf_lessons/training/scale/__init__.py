"""Training on several processes or machines: our data, model and settings in TRL's hands.

Belongs to lesson 8.

The loops of this package are one process on one device. Beyond that an engine is needed that copies
gradients between processes, shards weights and survives a lost machine; TRL under ``accelerate
launch`` is one, and nothing of it is worth writing again::

    accelerate launch --multi_gpu --num_processes 2 -m rlhf_lessons scale dpo \\
        --policy my-policy --pairs pairs.jsonl --output aligned --beta 0.1 --steps 200

    method      our loop                TRL's trainer       the file holds
    ``sft``     ``train_sft``           ``SFTTrainer``      prompts and responses
    ``reward``  ``train_reward_model``  ``RewardTrainer``   prompts, chosen and rejected responses
    ``dpo``     ``train_dpo``           ``DPOTrainer``      the same
    ``grpo``    ``train_grpo``          ``GRPOTrainer``     prompts

What is handed over is everything that decides the numbers: the tokens that ``LanguagePolicy`` makes
of each text, the order in which our loop would draw them, the size of the *global* batch, the
course of the learning rate, every field of the settings, and in GRPO the random numbers with which
our sampler draws. So a run gives the losses of our loop, up to rounding, on any number of
processes. A setting that cannot be kept is refused, never dropped.

Rooms: ``handed`` is what all methods hand over, ``sft``, ``reward_model``, ``dpo`` and ``grpo``
what each adds, ``launched`` starts the processes from Python and reads their records, ``command``
is what each process runs.

Left out on purpose: other losses (TRL's IPO divides by the length, ours does not), PPO (TRL has
moved it out of its stable trainers), adapters, and flags of Accelerate, which belong before ``-m``.
"""

from rlhf_lessons.training.scale.command import main, trl_command, trl_settings
from rlhf_lessons.training.scale.dpo import train_dpo_with_trl
from rlhf_lessons.training.scale.grpo import train_grpo_with_trl
from rlhf_lessons.training.scale.reward_model import train_reward_model_with_trl
from rlhf_lessons.training.scale.sft import train_sft_with_trl

__all__ = [
    "main",
    "train_dpo_with_trl",
    "train_grpo_with_trl",
    "train_reward_model_with_trl",
    "train_sft_with_trl",
    "trl_command",
    "trl_settings",
]
