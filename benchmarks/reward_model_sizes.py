"""Reward models from 300 to 10,000 pairs, three seeds: accuracy, calibration, ceiling.

    python -m benchmarks.reward_model_sizes       about 20 CPU minutes; an interrupted run goes on
    python -m benchmarks.reward_model_sizes --pairs 300 --seeds 1 --output /tmp/one.json

The raters compare by Bradley-Terry on the gold reward at temperature 2. Pairs are two completions
of one prompt by the fine-tuned model of the review world; a seed draws the labels' noise and the
order of training. Accuracy is expected: each of the 5,000 held-out pairs counts with the exact
probability of its label, so the ceiling is exact too and no luck of the test labels is left. More
rows ask what is missing at 10,000 pairs: twice the passes, four people's labels for each pair, and
both, with one seed; and with all seeds a reward to which every token adds, alone and with what the
policy's surprise tells beside it.

The raw results, with command, settings and versions, are read by lesson 3:
``rlhf_lessons/classroom/results/03_reward_model_sizes.json``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from rlhf_lessons.evaluation import calibration, preference_accuracy
from rlhf_lessons.models import (
    LanguagePolicy,
    RewardModel,
    SurpriseReward,
    TokenRewardModel,
    load_policy,
)
from rlhf_lessons.training import RewardSettings, train_reward_model
from rlhf_lessons.training.settings import changes
from rlhf_lessons.training.versions import versions
from rlhf_lessons.whole_files import replace_file
from rlhf_lessons.worlds import (
    NoisyComparer,
    bayes_ceiling,
    drop_equal_pairs,
    label_pairs,
    preference_probability,
    reviews,
)

TEMPERATURE = 2.0
HELD_OUT = 5_000
EVERY_TOKEN = TokenRewardModel.READS
AND_SURPRISE = f"{EVERY_TOKEN}, and the policy's surprise"
OUTPUT = Path("rlhf_lessons/classroom/results/03_reward_model_sizes.json")


def reward_settings(pairs: int, seed: int, passes: int = 4) -> RewardSettings:
    """Passes over the pairs, at least 30 updates; the last third of the weights averaged."""
    steps = max(30, passes * pairs // 64)
    return RewardSettings(
        steps=steps,
        batch_size=64,
        learning_rate=2e-3,
        freeze_embeddings=True,
        average=1 - 3 / steps,
        seed=seed,
    )


def sample(policy: LanguagePolicy, prompts: list[str], seed: int) -> list[str]:
    """Sample one completion of at most 50 tokens to each prompt."""
    generator = torch.Generator().manual_seed(seed)
    responses: list[str] = []
    for start in range(0, len(prompts), 600):
        part = prompts[start : start + 600]
        responses += policy.sample(part, 50, generator=generator).responses
    return responses


def sample_pairs(policy: LanguagePolicy, pairs: int) -> tuple[list[str], list[list[str]]]:
    """Sample prompts and two completions of each; the first ``HELD_OUT`` are not trained on."""
    prompts = reviews.sample_prompts(HELD_OUT + pairs, seed=60)
    return prompts, [sample(policy, prompts, seed) for seed in (61, 62)]


def expected_accuracy(margins: np.ndarray, p: np.ndarray) -> float:
    """Give how often margins foretell labels that prefer the first with probability p."""
    return float(np.where(margins == 0, 0.5, np.where(margins > 0, p, 1 - p)).mean())


def parse(description: str, pairs: list[int], output: Path) -> argparse.Namespace:
    """Read which numbers of pairs and seeds to run, and the file of results."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--pairs", type=int, nargs="*", default=pairs)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=output)
    return parser.parse_args()


def keep_results(
    output: Path, header: dict, cases: Sequence[dict], measure: Callable[..., dict]
) -> None:
    """Measure each case that the file does not hold yet, and add it there.

    The file is replaced as a whole after each run. One that was made by other settings or versions
    is refused, so that no file mixes the two.
    """
    header = header | {"versions": versions()}
    runs: list[dict] = []
    if output.exists():
        runs = (old := json.loads(output.read_text(encoding="utf-8"))).pop("runs")
        # An older file names fewer libraries, and is asked about those.
        header["versions"] = {
            name: header["versions"].get(name) for name in old.get("versions", ())
        }
        if differ := changes(old, header):
            raise SystemExit(f"{output} was made with other {', '.join(differ)}: move it away")
    for case in cases:
        names = case.keys() & {"pairs", "seed", "passes"}
        settings = dataclasses.asdict(reward_settings(**{name: case[name] for name in names}))
        same = [
            run
            for run in runs
            if case.items() <= run.items() and run.get("reads") == case.get("reads")
        ]
        if same and (differ := changes(same[0]["settings"], settings)):
            raise SystemExit(
                f"{output} was made with other settings: {', '.join(differ)}: move it away"
            )
        if same:
            continue
        runs.append({**case, "settings": settings, **measure(**case)})
        print(", ".join(f"{name} {value}" for name, value in case.items()), flush=True)
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in header.items()]
        rows = ",\n".join(json.dumps(run) for run in runs)
        replace_file(output, "{\n" + ",\n".join([*lines, f'"runs": [\n{rows}\n]']) + "\n}\n")


def main() -> None:
    arguments = parse(__doc__, pairs=[300, 1_000, 3_000, 10_000], output=OUTPUT)
    torch.set_num_threads(1)
    policy = load_policy("reviews-sft")
    # The held-out pairs come first, and no fewer texts are sampled for fewer pairs: all share them.
    all_prompts, sides = sample_pairs(policy, max([10_000, *arguments.pairs]))
    prompts, *held_out = (side[:HELD_OUT] for side in (all_prompts, *sides))
    gold = [reviews.gold_reward(prompts, side) for side in held_out]
    p = preference_probability(*gold, TEMPERATURE)
    entropy = -(p * np.log(p) + (1 - p) * np.log1p(-p)).mean()
    rater = NoisyComparer(reviews.gold_reward, TEMPERATURE)

    def measure(pairs: int, passes: int, raters: int, seed: int, reads: str = "") -> dict:
        texts = [side[HELD_OUT : HELD_OUT + pairs] for side in (all_prompts, *sides)]
        labels = [
            label
            for person in range(raters)
            for label in label_pairs(rater, *texts, seed + 1_000 * person)
        ]
        labels, _ = drop_equal_pairs(labels)
        kind = TokenRewardModel if reads else RewardModel
        model = judge = kind.from_policy(policy)
        *_, last = train_reward_model(model, labels, reward_settings(pairs, seed, passes))
        if reads == AND_SURPRISE:
            judge = SurpriseReward(model, policy)
            judge.fit(labels)
        rewards = [judge(prompts, side).double().numpy() for side in held_out]
        said = preference_probability(*rewards, 1.0)
        first = gold[0] > gold[1]
        differ = gold[0] != gold[1]
        better, worse = np.where(first, *rewards), np.where(first, *rewards[::-1])
        # Labels drawn afresh, many times: calibration against the raters, not against one draw.
        draw = np.random.default_rng(seed)
        many = np.tile(said, 20), draw.random(20 * len(p)) < np.tile(p, 20)
        loss = -(p * np.log(said) + (1 - p) * np.log1p(-said)).mean()
        return {
            "training_loss": round(last.loss, 4),
            "accuracy": round(expected_accuracy(rewards[0] - rewards[1], p), 5),
            "gold_order": round(preference_accuracy(better[differ], worse[differ]), 5),
            "calibration_error": round(calibration(*many, 10).error, 5),
            "loss_above_the_raters_own": round(float(loss - entropy), 5),
        }

    header = {
        "command": "python -m benchmarks.reward_model_sizes",
        "temperature": TEMPERATURE,
        "held_out_pairs": HELD_OUT,
        "ceiling": round(bayes_ceiling(*gold, TEMPERATURE), 5),
    }
    cases = [
        {"pairs": pairs, "passes": 4, "raters": 1, "seed": seed}
        for seed in arguments.seeds
        for pairs in arguments.pairs
    ]
    if 10_000 in arguments.pairs:
        cases += [
            {"pairs": 10_000, "passes": passes, "raters": raters, "seed": arguments.seeds[0]}
            for passes, raters in ((8, 1), (4, 4), (8, 4))
        ]
        cases += [
            {"pairs": 10_000, "passes": 4, "raters": 1, "seed": seed, "reads": reads}
            for reads in (EVERY_TOKEN, AND_SURPRISE)
            for seed in arguments.seeds
        ]
    keep_results(arguments.output, header, cases, measure)


if __name__ == "__main__":
    main()
