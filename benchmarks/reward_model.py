"""Training a reward model: ``train_reward_model`` against TRL's ``RewardTrainer``, side by side.

    python benchmarks/reward_model.py        # one JSON line a setting of TRL and model
    python benchmarks/reward_model.py --model tiny --trl float32 --steps 30
    python benchmarks/reward_model.py --parts         # what each measure gives, ours alone
    python benchmarks/reward_model.py --growth   # our time and memory by batch, length and model

``against_trl.py`` says how it is measured. The target is 2 against TRL in float32.
"""

from __future__ import annotations

import against_trl as side_by_side

from rlhf_lessons.models import RewardModel
from rlhf_lessons.training import RewardSettings, train_reward_model

TRL = {"defaults": {}, "float32": side_by_side.FLOAT32}
TARGETS = {"float32": 2.0}


def ours(model, pairs, batch_size, bf16=False):
    settings = RewardSettings(
        steps=1000,
        batch_size=batch_size,
        learning_rate=side_by_side.LEARNING_RATE,
        warmup=0.0,
        bf16=bf16,
    )
    if not isinstance(model, RewardModel):
        model = RewardModel.from_policy(model)
    return train_reward_model(model, pairs, settings)


def measure(size: str, setting: str, activation: str, steps: int) -> None:
    import trl
    from transformers import AutoModelForSequenceClassification

    policy = side_by_side.gpt2(size, activation)
    model = RewardModel.from_policy(policy)
    # As transformers builds it: RewardModel would fuse the activation of this one too.
    theirs = AutoModelForSequenceClassification.from_config(model.model.config)
    theirs.load_state_dict(model.model.state_dict())
    preferences = side_by_side.pairs(side_by_side.BATCH * 40)
    loops = [
        ours(model.copy(), preferences, side_by_side.BATCH, bf16)
        for bf16 in side_by_side.precisions(setting)
    ]

    def trainer(folder, callbacks):
        return trl.RewardTrainer(
            model=theirs,
            args=side_by_side.settings_of_trl(
                trl.RewardConfig, folder, steps, eos_token="<end>", **TRL[setting]
            ),
            processing_class=policy.tokenizer,
            train_dataset=side_by_side.pairs_for_trl(preferences),
            callbacks=callbacks,
        )

    side_by_side.report(
        *side_by_side.turns(trainer, loops, steps),
        TARGETS.get(setting),
        benchmark="reward_model",
        model=size,
        activation=activation,
        trl_setting=setting,
        pairs_a_step=side_by_side.BATCH,
    )


if __name__ == "__main__":
    side_by_side.run(__doc__, __file__, measure, list(TRL), ours)
