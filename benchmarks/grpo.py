"""A cycle of GRPO: ``train_grpo`` against TRL's ``GRPOTrainer``, side by side.

    python benchmarks/grpo.py                # one JSON line a setting of TRL and model
    python benchmarks/grpo.py --model sums-sft --trl float32 --steps 30
    python benchmarks/grpo.py --parts        # what each measure gives, ours alone
    python benchmarks/grpo.py --growth       # our time and memory by batch, length and model

``against_trl.py`` says how it is measured. A step is a whole cycle: 32 responses, 8 to each of 4
prompts, are sampled, judged and learned from in one update. Tiny and small are untrained, so that
few responses end early and both sides sample as much; their judge counts words. ``sums-sft`` is the
shipped model of lesson 9, on its tasks and with its checker.
"""

from __future__ import annotations

import copy

import against_trl as side_by_side

from rlhf_lessons import formulas
from rlhf_lessons.models import load_policy
from rlhf_lessons.training import GRPOSettings, train_grpo
from rlhf_lessons.worlds import SumsChecker, sample_sums

GROUP, NEW_TOKENS = 8, 24
SHIPPED = "sums-sft"
TRL = {
    "defaults": {"beta": 0.0},  # without a reference, as TRL has it
    "float32": {**side_by_side.FLOAT32, "beta": 0.0},
    "reference": {**side_by_side.FLOAT32, "beta": 0.04},
}


def judge(prompts, responses):
    return [float(len(set(response.split()))) for response in responses]


def cycles(policy, prompts, batch_size, beta, judge=judge):
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

    if size == SHIPPED:
        policy, marks = load_policy(size), SumsChecker()
        prompts = sample_sums(side_by_side.BATCH * 4, seed=0)
    else:
        policy, marks = side_by_side.gpt2(size, activation), judge
        prompts = [pair.prompt for pair in side_by_side.pairs(side_by_side.BATCH * 4)]
    twin, start = (copy.deepcopy(policy.model) for _ in range(2))
    loops = [
        cycles(p, prompts, side_by_side.BATCH, TRL[setting]["beta"], marks)
        for p in (policy, type(policy)(twin, policy.tokenizer))
    ]
    for loop in loops:
        next(loop)

    def scores(prompts, completions):
        return [float(score) for score in marks(prompts, completions)]

    def trainer(folder, callbacks):
        start.save_pretrained(f"{folder}/start")  # TRL reads its reference from where the model was
        tokenizer = copy.deepcopy(policy.tokenizer)
        tokenizer.padding_side = "left"
        return trl.GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(f"{folder}/start"),
            reward_funcs=lambda prompts, completions, **others: scores(prompts, completions),
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
    side_by_side.run(__doc__, __file__, measure, list(TRL), ours, [SHIPPED])
