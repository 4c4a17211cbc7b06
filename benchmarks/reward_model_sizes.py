"""Reward models from 300 to 10,000 pairs, three seeds: accuracy, calibration, ceiling.

    python -m benchmarks.reward_model_sizes            # all runs: some 10 CPU minutes
    python -m benchmarks.reward_model_sizes --pairs 300 --seeds 1 --output /tmp/one.json

The raters compare by Bradley-Terry on the gold reward at temperature 2. Pairs are two completions
of one prompt by the fine-tuned model of the review world; a seed draws the labels' noise and the
order of training. Accuracy is expected: each of the 2,000 held-out pairs counts with the exact
probability of its label, so the ceiling is exact too and no luck of the test labels is left.

The raw results, with command, seeds and versions, are read by lesson 3:
``rlhf_lessons/classroom/results/03_reward_model_sizes.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from rlhf_lessons.evaluation import calibration, preference_accuracy
from rlhf_lessons.models import RewardModel, load_policy
from rlhf_lessons.training import RewardSettings, train_reward_model
from rlhf_lessons.worlds import (
    NoisyComparer,
    bayes_ceiling,
    drop_equal_pairs,
    label_pairs,
    preference_probability,
    reviews,
)

TEMPERATURE = 2.0
HELD_OUT = 2_000
EPOCHS = 4
OUTPUT = Path("rlhf_lessons/classroom/results/03_reward_model_sizes.json")


def sample(policy, prompts: list[str], seed: int) -> list[str]:
    generator = torch.Generator().manual_seed(seed)
    responses: list[str] = []
    for start in range(0, len(prompts), 600):
        part = prompts[start : start + 600]
        responses += policy.sample(part, 50, generator=generator).responses
    return responses


def measure(policy, pairs: int, seed: int, texts, held_out) -> dict:
    """Train one model and measure it on the held-out pairs."""
    labels = label_pairs(
        NoisyComparer(reviews.gold_reward, TEMPERATURE), *(side[:pairs] for side in texts), seed
    )
    labels, _ = drop_equal_pairs(labels)
    steps = max(60, EPOCHS * pairs // 32)
    model = RewardModel.from_policy(policy)
    settings = RewardSettings(steps=steps, freeze_embeddings=True, seed=seed)
    *_, last = train_reward_model(model, labels, settings)
    prompts, firsts, seconds = held_out
    rewards = [model(prompts, side).double().numpy() for side in (firsts, seconds)]
    gold = [reviews.gold_reward(prompts, side) for side in (firsts, seconds)]
    p = preference_probability(*gold, TEMPERATURE)
    said = preference_probability(*rewards, 1.0)
    right = np.where(said == 0.5, 0.5, np.where(said > 0.5, p, 1 - p))
    better = np.where(gold[0] > gold[1], *rewards), np.where(gold[0] > gold[1], *rewards[::-1])
    differ = gold[0] != gold[1]
    # Labels drawn afresh, many times each: calibration against the raters, not against one draw.
    draw = np.random.default_rng(seed)
    many = np.tile(said, 20), draw.random(20 * len(p)) < np.tile(p, 20)
    floor = -(p * np.log(p) + (1 - p) * np.log1p(-p)).mean()
    loss = -(p * np.log(said) + (1 - p) * np.log1p(-said)).mean()
    return {
        "pairs": pairs,
        "seed": seed,
        "steps": steps,
        "training_loss": round(last.loss, 4),
        "accuracy": round(float(right.mean()), 5),
        "gold_order": round(preference_accuracy(better[0][differ], better[1][differ]), 5),
        "calibration_error": round(calibration(*many, 10).error, 5),
        "loss_above_the_raters_own": round(float(loss - floor), 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, nargs="*", default=[300, 1_000, 3_000, 10_000])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    policy = load_policy("reviews-sft")
    total = max(arguments.pairs) + HELD_OUT
    prompts = reviews.sample_prompts(total, seed=60)
    texts = prompts, sample(policy, prompts, 61), sample(policy, prompts, 62)
    held_out = tuple(side[-HELD_OUT:] for side in texts)
    gold = [reviews.gold_reward(held_out[0], side) for side in held_out[1:]]
    results = {
        "command": "python -m benchmarks.reward_model_sizes",
        "temperature": TEMPERATURE,
        "held_out_pairs": HELD_OUT,
        "ceiling": round(bayes_ceiling(*gold, TEMPERATURE), 5),
        "versions": {
            "python": sys.version.split()[0],
            **{name: version(name) for name in ("numpy", "torch", "transformers")},
        },
        "runs": [],
    }
    for seed in arguments.seeds:
        for pairs in arguments.pairs:
            run = measure(policy, pairs, seed, texts, held_out)
            assert math.isfinite(run["accuracy"])
            results["runs"].append(run)
            print(json.dumps(run), flush=True)
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
