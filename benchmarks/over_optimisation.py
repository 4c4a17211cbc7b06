"""Best-of-n against reward models from few and from many pairs, on many prompts.

    python -m benchmarks.over_optimisation      about 2 CPU minutes; an interrupted run goes on

Lesson 3 runs this on twelve prompts. Whether the true reward falls at the end, and whether it does
so for other labels too, needs more: 48 prompts, 1,000 completions each, and for each number of
pairs three draws of pairs and labels. The raters compare by Bradley-Terry on the gold reward at
temperature 2.

The raw results, with command, settings and versions, are read by lesson 3:
``rlhf_lessons/classroom/results/03_over_optimisation.json``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks.reward_model_sizes import (
    TEMPERATURE,
    keep_results,
    parse,
    reward_settings,
    sample,
)
from rlhf_lessons.evaluation import best_of_n_curve
from rlhf_lessons.models import RewardModel, load_policy
from rlhf_lessons.training import train_reward_model
from rlhf_lessons.worlds import NoisyComparer, drop_equal_pairs, label_pairs, reviews

PROMPTS = 48
COMPLETIONS = 1_000
N_VALUES = (1, 2, 3, 5, 8, 14, 25, 45, 80, 140, 250, 450, 700, 1_000)
OUTPUT = Path("rlhf_lessons/classroom/results/03_over_optimisation.json")


def main() -> None:
    arguments = parse(__doc__, pairs=[50, 500], output=OUTPUT)
    torch.set_num_threads(1)
    policy = load_policy("reviews-sft")
    prompts = [p for p in reviews.sample_prompts(PROMPTS, seed=80) for _ in range(COMPLETIONS)]
    responses = sample(policy, prompts, seed=81)
    gold = reviews.gold_reward(prompts, responses).reshape(PROMPTS, COMPLETIONS)
    texts = np.array(responses, dtype=object).reshape(PROMPTS, COMPLETIONS)
    rater = NoisyComparer(reviews.gold_reward, TEMPERATURE)

    def measure(pairs: int, seed: int) -> dict:
        asked = reviews.sample_prompts(pairs, seed=90 + seed)
        sides = sample(policy, asked, 93 + seed), sample(policy, asked, 96 + seed)
        labels, _ = drop_equal_pairs(label_pairs(rater, asked, *sides, seed))
        proxy = RewardModel.from_policy(policy)
        for _ in train_reward_model(proxy, labels, reward_settings(pairs, seed)):
            pass
        proxy.normalise(prompts[::20], responses[::20])
        scores = proxy(prompts, responses).numpy().reshape(PROMPTS, COMPLETIONS)
        curve = best_of_n_curve(scores, gold, N_VALUES, texts)
        return {
            "kl": curve.kl.round(4).tolist(),
            "proxy": curve.proxy.round(4).tolist(),
            "gold_by_prompt": curve.gold_by_prompt.round(3).tolist(),
        }

    header = {
        "command": "python -m benchmarks.over_optimisation",
        "temperature": TEMPERATURE,
        "prompts": PROMPTS,
        "completions": COMPLETIONS,
        "n": list(N_VALUES),
        "gold_itself": best_of_n_curve(gold, gold, N_VALUES).gold.round(4).tolist(),
    }
    cases = [
        {"pairs": pairs, "seed": seed} for seed in arguments.seeds for pairs in arguments.pairs
    ]
    keep_results(arguments.output, header, cases, measure)


if __name__ == "__main__":
    main()
