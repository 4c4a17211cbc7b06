"""PPO on film reviews at several KL strengths: runs that lesson 4 looks at (and their data).

    python benchmarks/ppo_sweep.py      trains what is missing, about 3 minutes for all

Each run starts from ``reviews-sft``. Some runs listen to the learned reward model
``reviews-reward``, some to the gold reward; every response is scored by both. The results lie in
the folder ``ppo_sweep_runs`` beside this module, one file a run, with the command, the settings,
the seed and the versions that made it; the lesson trains one of the runs again before the reader's
eyes.

Left out on purpose: the weights. The samples that the trained policies wrote are kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_lessons.evaluation.language import sequence_kl
from rlhf_lessons.evaluation.sweeps import read_runs
from rlhf_lessons.models import RewardModel, load_policy, load_reward_model
from rlhf_lessons.training import PPOSettings, train_ppo
from rlhf_lessons.worlds import faults, gold_reward, sample_prompts

__all__ = ["PPOSweepRun", "load_ppo_sweep", "run_ppo_sweep"]

FOLDER = Path(__file__).with_name("ppo_sweep_runs")
COMMAND = "python benchmarks/ppo_sweep.py"
BETAS = {"learned": (1.0, 0.5, 0.2, 0.05, 0.0), "gold": (1.0, 0.2, 0.05)}
SETTINGS = PPOSettings(
    cycles=40, batch_size=64, max_new_tokens=48, learning_rate=5e-4, final_learning_rate=1e-4
)
PROMPTS, PROMPT_SEED = 2_000, 500
HELD_OUT, HELD_OUT_SEED = 500, 501
SHOWN = 6


@dataclass(frozen=True)
class PPOSweepRun:
    """One run of PPO on film reviews.

    Attributes:
        judge: what it listened to, ``"learned"`` or ``"gold"``.
        beta: its KL strength β.
        proxy_curve: mean score of the reward model in each cycle's rollout.
        gold_curve: mean gold reward in each cycle's rollout.
        kl_curve: KL(π ‖ π_ref) estimated on each cycle's rollout, in nats.
        proxy: mean score of the reward model on held-out prompts after training.
        gold: mean gold reward there.
        kl: KL(π ‖ π_ref) there, in nats.
        gold_error: standard error of ``gold``.
        kl_error: standard error of ``kl``.
        clean: share of those responses without any fault.
        distinct: share of those responses that are different texts.
        length: mean tokens of those responses.
        samples: (prompt, response, proxy, gold) of the first few of them.
    """

    judge: str
    beta: float
    proxy_curve: tuple[float, ...]
    gold_curve: tuple[float, ...]
    kl_curve: tuple[float, ...]
    proxy: float
    gold: float
    kl: float
    gold_error: float
    kl_error: float
    clean: float
    distinct: float
    length: float
    samples: tuple[tuple[str, str, float, float], ...]


def load_ppo_sweep() -> list[PPOSweepRun]:
    """Read the runs that come with the course.

    Returns:
        The runs, those with the learned reward first, large β before small.

    Raises:
        FileNotFoundError: if there are none; ``python benchmarks/ppo_sweep.py`` makes them.
        ValueError: if a file is no run of this sweep; the message names it.
    """
    order = list(BETAS)
    runs = read_runs(FOLDER, _taken_up, COMMAND)
    return sorted(runs, key=lambda run: (order.index(run.judge), -run.beta))


def _taken_up(run: dict[str, Any], made_by: dict[str, Any]) -> PPOSweepRun:
    curves = {name: tuple(run[name]) for name in ("proxy_curve", "gold_curve", "kl_curve")}
    return PPOSweepRun(**{**run, **curves, "samples": tuple(map(tuple, run["samples"]))})


def run_ppo_sweep(
    betas: dict[str, Sequence[float]] | None = None,
    settings: PPOSettings = SETTINGS,
    held_out: int = HELD_OUT,
) -> list[PPOSweepRun]:
    """Train the runs anew, each from the fine-tuned model.

    Args:
        betas: for each judge, ``"learned"`` and ``"gold"``, its values of β; None takes all runs.
        settings: how to train; their β is replaced.
        held_out: number of prompts to measure on afterwards, at least 2.

    Returns:
        The runs in the order of ``betas``.

    Raises:
        KeyError: if a judge has another name.
    """
    betas = BETAS if betas is None else betas
    reward_model = load_reward_model("reviews-reward")
    judges = {"learned": reward_model, "gold": gold_reward}
    return [
        _one_run(name, judges[name], beta, settings, held_out, reward_model)
        for name, values in betas.items()
        for beta in values
    ]


def _one_run(
    name: str,
    judge: Any,
    beta: float,
    settings: PPOSettings,
    held_out: int,
    reward_model: RewardModel,
) -> PPOSweepRun:
    import torch

    policy, reference = load_policy("reviews-sft"), load_policy("reviews-sft")
    curves: dict[str, list[float]] = {"proxy": [], "gold": [], "kl": []}

    def watched(prompts: Sequence[str], responses: Sequence[str]) -> Any:
        curves["proxy"].append(float(reward_model(prompts, responses).mean()))
        curves["gold"].append(float(gold_reward(prompts, responses).mean()))
        return judge(prompts, responses)

    settings = dataclasses.replace(settings, beta=beta)
    prompts = sample_prompts(PROMPTS, PROMPT_SEED)
    for record in train_ppo(policy, prompts, watched, settings, reference=reference):
        curves["kl"].append(record.kl)

    asked = sample_prompts(held_out, HELD_OUT_SEED)
    generator = torch.Generator().manual_seed(HELD_OUT_SEED)
    rollout = policy.sample(asked, settings.max_new_tokens, generator=generator)
    responses = rollout.responses
    proxy = reward_model(asked, responses).numpy()
    gold = gold_reward(asked, responses)
    kl = sequence_kl(policy, reference, asked, settings.max_new_tokens, generator)

    def rounded(values: Sequence[float]) -> tuple[float, ...]:
        return tuple(round(float(value), 4) for value in values)

    return PPOSweepRun(
        judge=name,
        beta=beta,
        proxy_curve=rounded(curves["proxy"]),
        gold_curve=rounded(curves["gold"]),
        kl_curve=rounded(curves["kl"]),
        proxy=round(float(proxy.mean()), 4),
        gold=round(float(gold.mean()), 4),
        kl=round(kl.value, 4),
        gold_error=round(float(gold.std(ddof=1) / np.sqrt(held_out)), 4),
        kl_error=round(kl.standard_error, 4),
        clean=round(float(np.mean([not faults(text) for text in responses])), 4),
        distinct=round(len(set(responses)) / held_out, 4),
        length=round(float(rollout.response_mask.sum(1).double().mean()), 2),
        samples=tuple(
            (asked[i], responses[i], round(float(proxy[i]), 3), round(float(gold[i]), 3))
            for i in range(min(SHOWN, held_out))
        ),
    )
