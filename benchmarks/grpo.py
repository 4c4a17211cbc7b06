"""A cycle of GRPO: ``train_grpo`` against TRL's ``GRPOTrainer``, side by side.

    python benchmarks/grpo.py                # one JSON line a setting of TRL and model
    python benchmarks/grpo.py --model tiny --trl float32 --steps 30
    python benchmarks/grpo.py --parts        # what each measure gives, ours alone
    python benchmarks/grpo.py --growth       # our time and memory by batch, length and model

``against_trl.py`` says how it is measured. A step is a whole cycle: 32 responses, 8 to each of 4
prompts, are sampled, judged and learned from in one update. The model is untrained, so that few
responses end early and both sides sample as much. The judge counts words.
"""

from __future__ import annotations

import copy

import against_trl as side_by_side

from rlhf_lessons import formulas
from rlhf_lessons.training import GRPOSettings, train_grpo

GROUP, NEW_TOKENS = 8, 24
TRL = {
    "defaults": {"beta": 0.0},  # without a reference, as TRL has it
    "float32": {**side_by_side.FLOAT32, "beta": 0.0},
    "reference": {**side_by_side.FLOAT32, "beta": 0.04},
}


def judge(prompts, responses):
    return [float(len(set(response.split()))) for response in responses]


def cycles(policy, prompts, batch_size, beta):
    settings = GRPOSettings(
        cycles=1000,
        group_size=GROUP,
        batch_size=batch_size,
        minibatch_size=batch_size,
        max_new_tokens=NEW_TOKENS,
        learning_rate=side_by_side.LEARNING_RATE,
        beta=beta,
    )
    return train_grpo(policy, prompts, judge, settings, mean=formulas.masked_mean)


def ours(policy, pairs, batch_size):
    return cycles(policy, [pair[0] for pair in pairs], batch_size, 0.0)


def measure(size: str, setting: str, activation: str, steps: int) -> None:
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM

    policy = side_by_side.gpt2(size, activation)
    prompts = [pair.prompt for pair in side_by_side.pairs(side_by_side.BATCH * 4)]
    twin, start = (copy.deepcopy(policy.model) for _ in range(2))
    loops = [
        cycles(p, prompts, side_by_side.BATCH, TRL[setting]["beta"])
        for p in (policy, type(policy)(twin, policy.tokenizer))
    ]
    for loop in loops:
        next(loop)

    def trainer(folder, callbacks):
        start.save_pretrained(f"{folder}/start")  # TRL reads its reference from where the model was
        tokenizer = copy.deepcopy(policy.tokenizer)
        tokenizer.padding_side = "left"
        return trl.GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(f"{folder}/start"),
            reward_funcs=lambda prompts, completions, **others: judge(prompts, completions),
            args=side_by_side.settings_of_trl(
                trl.GRPOConfig,
                folder,
                steps,
                num_generations=GROUP,
                max_completion_length=NEW_TOKENS,
                **TRL[setting],
            ),
            processing_class=tokenizer,
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
            callbacks=callbacks,
        )

    side_by_side.report(
        *side_by_side.turns(trainer, loops, steps),
        None,
        benchmark="grpo",
        model=size,
        activation=activation,
        trl_setting=setting,
        responses_a_step=side_by_side.BATCH,
        group=GROUP,
        new_tokens=NEW_TOKENS,
    )


if __name__ == "__main__":
    side_by_side.run(__doc__, __file__, measure, list(TRL), ours)
