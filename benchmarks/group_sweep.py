"""Train the runs that lesson 9 compares, and write their results into the package.

    python benchmarks/group_sweep.py      about 4 minutes on one core; an interrupted sweep goes on

The rewards depend on the library versions that each file names; on one machine the same versions
give the same ones. The seconds are those of the machine and of the hour.
"""

from __future__ import annotations

import dataclasses
import sys

from rlhf_lessons.evaluation.group_sweep import (
    COMMAND,
    COMMON,
    CYCLES,
    FOLDER,
    GROUP_SIZE,
    GRPO_BETA,
    HELD_OUT,
    HELD_OUT_SEED,
    METHODS,
    PPO_BETA,
    PROMPT_SEED,
    PROMPTS,
    RLOO_BETA,
    SEEDS,
    run_group_sweep,
)
from rlhf_lessons.evaluation.sweeps import do_runs


def do(key: tuple[str, int]) -> tuple[dict, str]:
    method, seed = key
    (run,) = run_group_sweep((method,), (seed,))
    line = f"KL {run.kl:.3f}, reward {run.reward:+.3f}, {run.seconds_curve[-1]:.1f} s"
    return dataclasses.asdict(run), line


def main() -> int:
    settings = {
        **COMMON,
        "cycles": CYCLES,
        "group_size": GROUP_SIZE,
        "beta": {"ppo": PPO_BETA, "rloo": RLOO_BETA, "grpo": GRPO_BETA},
        "prompts": {"count": PROMPTS, "seed": PROMPT_SEED},
        "held_out": {"count": HELD_OUT, "seed": HELD_OUT_SEED},
    }
    # Seed by seed, so that a sweep that was stopped has whole rows.
    keys = [(method, seed) for seed in SEEDS for method in METHODS]
    paths = {key: FOLDER / "{}_seed{}.json".format(*key) for key in keys}
    return do_runs(paths, do, command=COMMAND, settings=settings)


if __name__ == "__main__":
    sys.exit(main())
