"""What a checker teaches: pass@k on sums before and after, three seeds (lesson 9, and its data).

    python -m rlhf_lessons.evaluation.sums_sweep              trains what is missing
    python -m rlhf_lessons.evaluation.sums_sweep --seeds 1    only the runs of one seed

Each run starts from ``sums-sft`` and learns on tasks of four numbers: by groups (GRPO), by keeping
what is right (expert iteration), or by groups of which a checker with a hole marks the responses.
All see equally many samples. Measured are held-out tasks of the same kind, and harder ones of five
numbers, on which no run was trained. Each file in the folder ``sums_runs`` beside this module holds
how many of the tries at each task were right, so that pass@k and its spread can be computed.

Left out on purpose: the weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlhf_lessons import formulas
from rlhf_lessons.evaluation.sweeps import do_runs, read_runs
from rlhf_lessons.models import LanguagePolicy, load_policy
from rlhf_lessons.training import (
    ExpertIterationSettings,
    GRPOSettings,
    SupervisedSettings,
    train_expert_iteration,
    train_grpo,
)
from rlhf_lessons.worlds import FooledSumsChecker, SumsChecker, sample_sums

__all__ = ["SUMS_METHODS", "SumsRun", "SumsSweepSettings", "load_sums_sweep", "run_sums"]

FOLDER = Path(__file__).with_name("sums_runs")
COMMAND = "python -m rlhf_lessons.evaluation.sums_sweep"
SHOWN = 6

SUMS_METHODS: tuple[str, ...] = ("sft", "grpo", "expert_iteration", "grpo_fooled")
"""Before training; groups; keeping what is right; groups with the checker that is fooled."""


@dataclass(frozen=True)
class SumsSweepSettings:
    """What the runs of the sweep have in common.

    Attributes:
        terms: numbers to add in the tasks that are learned on and in the held-out ones.
        harder: numbers to add in the harder ones.
        tasks: tasks to learn on.
        measured: held-out tasks, and as many harder ones.
        tries: responses to each of them.
        max_new_tokens: most tokens of a response.
        grpo: how GRPO learns; each run has its own seed.
        expert_iteration: how expert iteration does.
    """

    terms: int = 4
    harder: int = 5
    tasks: int = 2_000
    measured: int = 100
    tries: int = 128
    max_new_tokens: int = 16
    grpo: GRPOSettings = GRPOSettings(
        cycles=48, group_size=8, batch_size=512, minibatch_size=128, max_new_tokens=16,
        learning_rate=1e-3, final_learning_rate=1e-4, beta=0.0,
    )  # fmt: skip
    expert_iteration: ExpertIterationSettings = ExpertIterationSettings(
        rounds=6, group_size=8, batch_size=4_096, max_new_tokens=16,
        fine_tuning=SupervisedSettings(steps=60, batch_size=64, learning_rate=1e-3),
    )  # fmt: skip


@dataclass(frozen=True)
class SumsRun:
    """One run.

    Attributes:
        method: one of ``SUMS_METHODS``.
        seed: of training and measurement.
        samples: responses that were sampled in training.
        reward_curve: share of each rollout that its own checker marked right, before the update.
        right_curve: share of it that is right.
        length_curve: mean tokens of its responses.
        right: for ``"held_out"`` and ``"harder"`` tasks, how many of the tries at each are right.
        fooled: the same with the checker that is fooled.
        tries: responses to each task.
        length: mean tokens of the responses to the held-out tasks.
        shown: (prompt, response) of the first few held-out tasks.
    """

    method: str
    seed: int
    samples: int
    reward_curve: tuple[float, ...]
    right_curve: tuple[float, ...]
    length_curve: tuple[float, ...]
    right: dict[str, tuple[int, ...]]
    fooled: dict[str, tuple[int, ...]]
    tries: int
    length: float
    shown: tuple[tuple[str, str], ...]

    def pass_at(self, k: int, tasks: str = "held_out") -> float:
        """Estimate pass@k from the tries, without bias.

        Args:
            k: number of tries, from 1 to those that were made.
            tasks: ``"held_out"`` or ``"harder"``.

        Returns:
            The mean over the tasks.

        Raises:
            KeyError: if there are no such tasks.
            ValueError: if k is out of its range.
        """
        return pass_at_of_counts(self.right[tasks], self.tries, k)


def pass_at_of_counts(right: Sequence[int], tries: int, k: int) -> float:
    """Estimate pass@k where of each task only the number of right tries is known.

    Args:
        right: how many of the tries at each task are right.
        tries: responses to each.
        k: number of tries, from 1 to that.

    Returns:
        The mean over the tasks.

    Raises:
        ValueError: if k is out of its range.
    """
    correct = torch.arange(tries) < torch.tensor(right).unsqueeze(1)
    return float(formulas.pass_at_k(correct, k).mean())


def load_sums_sweep() -> list[SumsRun]:
    """Read the runs that come with the course.

    Returns:
        The runs in the order of ``SUMS_METHODS``, by seed within a method.

    Raises:
        FileNotFoundError: if there are none; ``python -m rlhf_lessons.evaluation.sums_sweep`` makes
            them.
        ValueError: if a file is no run of this sweep; the message names it.
    """
    runs = read_runs(FOLDER, _taken_up, COMMAND)
    return sorted(runs, key=lambda run: (SUMS_METHODS.index(run.method), run.seed))


def _taken_up(run: dict[str, Any], made_by: dict[str, Any]) -> SumsRun:
    curves = {name: tuple(run[name]) for name in ("reward_curve", "right_curve", "length_curve")}
    counts = {
        name: {tasks: tuple(row) for tasks, row in run[name].items()}
        for name in ("right", "fooled")
    }
    return SumsRun(**{**run, **curves, **counts, "shown": tuple(map(tuple, run["shown"]))})


def run_sums(method: str, seed: int, settings: SumsSweepSettings | None = None) -> SumsRun:
    """Train and measure one run, from ``sums-sft``.

    Args:
        method: one of ``SUMS_METHODS``.
        seed: of training and measurement. The tasks are the same for every seed.
        settings: what is trained and measured; None takes those of the stored runs.

    Returns:
        The run.

    Raises:
        ValueError: if there is no such method.
    """
    if method not in SUMS_METHODS:
        raise ValueError(f"run_sums: method must be one of {SUMS_METHODS}, got {method!r}")
    s = SumsSweepSettings() if settings is None else settings
    policy = load_policy("sums-sft")
    judge = FooledSumsChecker() if method == "grpo_fooled" else SumsChecker()
    curves: dict[str, list[float]] = {"reward": [], "right": [], "length": []}
    samples = 0

    def watched(prompts: Sequence[str], responses: Sequence[str]) -> Any:
        nonlocal samples
        samples += len(responses)
        curves["right"].append(float(SumsChecker()(prompts, responses).mean()))
        return judge(prompts, responses)

    tasks = sample_sums(s.tasks, 0, terms=s.terms)
    loop: Any = ()
    if method == "expert_iteration":
        tuned = dataclasses.replace(s.expert_iteration, seed=seed)
        loop = train_expert_iteration(policy, tasks, watched, tuned)
    elif method != "sft":
        loop = train_grpo(policy, tasks, watched, dataclasses.replace(s.grpo, seed=seed))
    for record in loop:
        curves["reward"].append(record.reward)
        curves["length"].append(record.response_length)

    generator = torch.Generator().manual_seed(seed)
    right, fooled, length, shown = {}, {}, 0.0, ()
    for name, terms in (("held_out", s.terms), ("harder", s.harder)):
        asked = sample_sums(s.measured, 1, terms=terms, held_out=True)
        responses, lengths = _try(policy, asked, s, generator)
        repeated = [prompt for prompt in asked for _ in range(s.tries)]
        for counts, checker in ((right, SumsChecker()), (fooled, FooledSumsChecker())):
            marks = checker(repeated, responses).reshape(-1, s.tries)
            counts[name] = tuple(int(count) for count in marks.sum(1))
        if name == "held_out":
            length = lengths
            shown = tuple(zip(asked, responses[:: s.tries], strict=True))[:SHOWN]
    return SumsRun(
        method=method,
        seed=seed,
        samples=samples,
        reward_curve=_rounded(curves["reward"]),
        right_curve=_rounded(curves["right"]),
        length_curve=_rounded(curves["length"]),
        right=right,
        fooled=fooled,
        tries=s.tries,
        length=round(length, 4),
        shown=shown,
    )


def _try(
    policy: LanguagePolicy,
    asked: Sequence[str],
    s: SumsSweepSettings,
    generator: torch.Generator,
) -> tuple[list[str], float]:
    """Give all tries at all tasks, those at one side by side, and their mean length in tokens."""
    responses, tokens = [], 0
    for at in range(0, len(asked), 10):
        repeated = [prompt for prompt in asked[at : at + 10] for _ in range(s.tries)]
        rollout = policy.sample(repeated, s.max_new_tokens, generator=generator)
        responses += rollout.responses
        tokens += int(rollout.response_mask.sum())
    return responses, tokens / len(responses)


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in values)


def main(argv: Sequence[str] | None = None) -> int:
    """Do the runs that have no file yet.

    Args:
        argv: the words of the command line; None takes those of the process.

    Returns:
        0, or 1 when a run that is there was made with other settings.
    """
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the results go")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="only the runs of these seeds"
    )
    arguments = parser.parse_args(argv)

    def do(key: tuple[str, int]) -> tuple[dict, str]:
        run = run_sums(*key)
        passed = (f"pass@{k} {run.pass_at(k):.3f}" for k in (1, 4, 16, 64) if k <= run.tries)
        return dataclasses.asdict(run), ", ".join(passed)

    return do_runs(
        {
            (method, seed): arguments.folder / f"{method}_seed{seed}.json"
            for method in SUMS_METHODS
            for seed in arguments.seeds
        },
        do,
        command=COMMAND,
        settings=dataclasses.asdict(SumsSweepSettings()),
    )


if __name__ == "__main__":
    sys.exit(main())
