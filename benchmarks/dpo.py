"""Training by DPO: ``train_dpo`` against TRL's ``DPOTrainer``, side by side.

    python benchmarks/dpo.py                 # one JSON line a setting of TRL and model
    python benchmarks/dpo.py --model tiny --trl best --steps 30
    python benchmarks/dpo.py --parts         # what each measure gives, ours alone
    python benchmarks/dpo.py --growth        # our time and memory by batch, length and model

``against_trl.py`` says how it is measured. Targets: 3.3 against TRL in float32, 2.2 against
its best.
"""

from __future__ import annotations

import copy

import against_trl as side_by_side

from rlhf_lessons.training import DPOSettings, train_dpo

TRL = {
    "defaults": {},
    "float32": side_by_side.FLOAT32,
    "best": {**side_by_side.FLOAT32, "precompute_ref_log_probs": True},
}
TARGETS = {"float32": 3.3, "best": 2.2}


def ours(policy, pairs, batch_size, bf16=False):
    settings = DPOSettings(
        steps=1000,
        batch_size=batch_size,
        learning_rate=side_by_side.LEARNING_RATE,
        warmup=0.0,
        bf16=bf16,
    )
    return train_dpo(policy, pairs, settings)


def measure(size: str, setting: str, activation: str, steps: int) -> None:
    import trl

    policy = side_by_side.gpt2(size, activation)
    preferences = side_by_side.pairs(side_by_side.BATCH * 4)
    theirs, reference = (copy.deepcopy(policy.model) for _ in range(2))
    loops = [
        ours(side_by_side.gpt2(size, activation), preferences, side_by_side.BATCH, bf16)
        for bf16 in side_by_side.precisions(setting)
    ]
    for loop in loops:
        next(loop)  # the reference is read before the first step

    def trainer(folder, callbacks):
        return trl.DPOTrainer(
            model=theirs,
            ref_model=reference,
            args=side_by_side.settings_of_trl(
                trl.DPOConfig, folder, steps, beta=0.1, **TRL[setting]
            ),
            processing_class=policy.tokenizer,
            train_dataset=side_by_side.pairs_for_trl(preferences),
            callbacks=callbacks,
        )

    side_by_side.report(
        *side_by_side.turns(trainer, loops, steps),
        TARGETS.get(setting),
        benchmark="dpo",
        model=size,
        activation=activation,
        trl_setting=setting,
        pairs_a_step=side_by_side.BATCH,
    )


if __name__ == "__main__":
    side_by_side.run(__doc__, __file__, measure, list(TRL), ours)
