"""PPO beside its relatives without a value model, on film reviews: the runs of lesson 9.

    python benchmarks/group_sweep.py      trains what is missing, about 4 minutes for all

Each run starts from ``reviews-sft``, listens to the gold reward, and sees as many responses a cycle
as the others, four epochs each, at the same constant step size: so a run can be cut at any cycle,
or at any second, and compared there. What differs is how a response gets its advantage. Three seeds
of each. The results lie in the folder ``group_sweep_runs`` beside this module, one file a run, with
the command, the settings, the seed and the versions that made it.

Left out on purpose: the weights, and other judges and KL strengths (``ppo_sweep`` has them).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_lessons import formulas
from rlhf_lessons.evaluation.language import sequence_kl
from rlhf_lessons.evaluation.sweeps import read_runs
from rlhf_lessons.models import LanguagePolicy, load_policy
from rlhf_lessons.training import GRPOSettings, PPOSettings, train_grpo, train_ppo
from rlhf_lessons.worlds import gold_reward, sample_prompts

__all__ = ["GroupSweepRun", "load_group_sweep", "run_group_sweep"]

FOLDER = Path(__file__).with_name("group_sweep_runs")
COMMAND = "python benchmarks/group_sweep.py"
METHODS = ("ppo", "rloo", "grpo")
SEEDS = (0, 1, 2)
CYCLES, GROUP_SIZE = 40, 8
COMMON = {"batch_size": 64, "epochs": 4, "learning_rate": 5e-4, "max_new_tokens": 48}
PPO_BETA = RLOO_BETA = 0.2  # in score per nat
GRPO_BETA = 0.1  # in deviations of the score per nat
PROMPTS, PROMPT_SEED = 2_000, 500
HELD_OUT, HELD_OUT_SEED = 500, 501


@dataclass(frozen=True)
class GroupSweepRun:
    """One run on film reviews against the gold reward.

    Attributes:
        method: ``"ppo"``, ``"rloo"`` or ``"grpo"``.
        seed: of prompts, sampling and minibatches.
        reward_curve: mean gold reward in each cycle's rollout, before its updates.
        kl_curve: KL(π ‖ π_ref) estimated on each cycle's rollout, in nats.
        seconds_curve: processor time of one thread from the first cycle to the end of each, in
            seconds, on the machine that made the run.
        reward: mean gold reward on held-out prompts after training.
        kl: KL(π ‖ π_ref) there, in nats.
        reward_error: standard error of ``reward``.
        kl_error: standard error of ``kl``.
        distinct: share of those responses that are different texts.
    """

    method: str
    seed: int
    reward_curve: tuple[float, ...]
    kl_curve: tuple[float, ...]
    seconds_curve: tuple[float, ...]
    reward: float
    kl: float
    reward_error: float
    kl_error: float
    distinct: float


def load_group_sweep() -> list[GroupSweepRun]:
    """Read the runs that come with the course.

    Returns:
        The runs, method by method, the seeds of each in order.

    Raises:
        FileNotFoundError: if there are none; ``python benchmarks/group_sweep.py`` makes them.
        ValueError: if a file is no run of this sweep; the message names it.
    """
    runs = read_runs(FOLDER, _taken_up, COMMAND)
    return sorted(runs, key=lambda run: (METHODS.index(run.method), run.seed))


def _taken_up(run: dict[str, Any], made_by: dict[str, Any]) -> GroupSweepRun:
    del made_by
    curves = {name: tuple(run[name]) for name in ("reward_curve", "kl_curve", "seconds_curve")}
    return GroupSweepRun(**{**run, **curves})


def run_group_sweep(
    methods: Sequence[str] = METHODS,
    seeds: Sequence[int] = SEEDS,
    cycles: int = CYCLES,
    held_out: int = HELD_OUT,
    **common: Any,
) -> list[GroupSweepRun]:
    """Train the runs anew, each from the fine-tuned model.

    Args:
        methods: which of ``"ppo"``, ``"rloo"`` and ``"grpo"``.
        seeds: the seeds of each.
        cycles: cycles of each run.
        held_out: number of prompts to measure on afterwards, at least 2.
        **common: settings that PPO and GRPO share, in the place of the sweep's own.

    Returns:
        The runs, method by method.

    Raises:
        ValueError: if a method has another name.
    """
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        raise ValueError(f"run_group_sweep: methods must be of {METHODS}, got {unknown[0]!r}")
    shared = {**COMMON, "cycles": cycles, **common}
    return [_one_run(method, seed, shared, held_out) for method in methods for seed in seeds]


def _loop(
    method: str, seed: int, shared: dict[str, Any], policy: LanguagePolicy, reference: Any
) -> Iterator[Any]:
    """Start the loop of a method; each of its records has ``reward`` and ``kl``."""
    prompts = sample_prompts(PROMPTS, PROMPT_SEED)
    if method == "ppo":
        settings = PPOSettings(**shared, beta=PPO_BETA, seed=seed)
        return train_ppo(policy, prompts, gold_reward, settings, reference=reference)
    beta = RLOO_BETA if method == "rloo" else GRPO_BETA
    settings = GRPOSettings(**shared, group_size=GROUP_SIZE, beta=beta, seed=seed)
    train = partial(train_grpo, policy, prompts, gold_reward, settings, reference=reference)
    if method == "rloo":
        return train(advantages=formulas.rloo_advantages, mean=formulas.mean_over_length)
    return train()


def _one_run(method: str, seed: int, shared: dict[str, Any], held_out: int) -> GroupSweepRun:
    import torch

    policy, reference = load_policy("reviews-sft"), load_policy("reviews-sft")
    curves: dict[str, list[float]] = {"reward": [], "kl": [], "seconds": []}
    begin = time.process_time()
    for record in _loop(method, seed, shared, policy, reference):
        curves["reward"].append(record.reward)
        curves["kl"].append(record.kl)
        curves["seconds"].append(time.process_time() - begin)

    asked = sample_prompts(held_out, HELD_OUT_SEED)
    generator = torch.Generator().manual_seed(HELD_OUT_SEED)
    responses = policy.sample(asked, shared["max_new_tokens"], generator=generator).responses
    reward = gold_reward(asked, responses)
    kl = sequence_kl(policy, reference, asked, shared["max_new_tokens"], generator)
    return GroupSweepRun(
        method=method,
        seed=seed,
        **{f"{name}_curve": tuple(round(v, 4) for v in curve) for name, curve in curves.items()},
        reward=round(float(reward.mean()), 4),
        kl=round(kl.value, 4),
        reward_error=round(float(reward.std(ddof=1) / np.sqrt(held_out)), 4),
        kl_error=round(kl.standard_error, 4),
        distinct=round(len(set(responses)) / held_out, 4),
    )
