"""Supervised fine-tuning: ``train_sft`` against TRL's ``SFTTrainer``, side by side.

    python benchmarks/sft.py                 # one JSON line a setting of TRL and model
    python benchmarks/sft.py --model tiny --trl float32 --steps 30
    python benchmarks/sft.py --parts         # what each measure gives, ours alone
    python benchmarks/sft.py --growth        # our time and memory by batch, length and model

Both learn the response and its end token, not the prompt. ``against_trl.py`` says how it is
measured. The target is 2 against TRL in float32.
"""

from __future__ import annotations

import copy

import against_trl as side_by_side

from rlhf_lessons.training import SupervisedSettings, train_sft

TRL = {"defaults": {}, "float32": side_by_side.FLOAT32}
TARGETS = {"float32": 2.0}


def ours(policy, pairs, batch_size, bf16=False):
    settings = SupervisedSettings(
        steps=1000,
        batch_size=batch_size,
        learning_rate=side_by_side.LEARNING_RATE,
        warmup=0.0,
        bf16=bf16,
    )
    return train_sft(policy, [(prompt, chosen) for prompt, chosen, _ in pairs], settings)


def measure(size: str, setting: str, activation: str, steps: int) -> None:
    import trl
    from datasets import Dataset

    policy = side_by_side.gpt2(size, activation)
    preferences = side_by_side.pairs(side_by_side.BATCH * 40)
    theirs = copy.deepcopy(policy.model)
    loops = [
        ours(side_by_side.gpt2(size, activation), preferences, side_by_side.BATCH, bf16)
        for bf16 in side_by_side.precisions(setting)
    ]

    def trainer(folder, callbacks):
        return trl.SFTTrainer(
            model=theirs,
            args=side_by_side.settings_of_trl(
                trl.SFTConfig, folder, steps, completion_only_loss=True, **TRL[setting]
            ),
            processing_class=policy.tokenizer,
            train_dataset=Dataset.from_list(
                [{"prompt": p.prompt + " ", "completion": p.chosen} for p in preferences]
            ),
            callbacks=callbacks,
        )

    side_by_side.report(
        *side_by_side.turns(trainer, loops, steps),
        TARGETS.get(setting),
        benchmark="sft",
        model=size,
        activation=activation,
        trl_setting=setting,
        texts_a_step=side_by_side.BATCH,
    )


if __name__ == "__main__":
    side_by_side.run(__doc__, __file__, measure, list(TRL), ours)
