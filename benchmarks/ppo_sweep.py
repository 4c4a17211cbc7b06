"""Train the PPO runs that lesson 4 compares, and write their results into the package.

    python benchmarks/ppo_sweep.py      about 3 minutes on one core; an interrupted sweep goes on

The results depend on the library versions that each file names; on one machine the same versions
give the same files.
"""

from __future__ import annotations

import dataclasses
import sys

from rlhf_lessons.evaluation.ppo_sweep import (
    BETAS,
    COMMAND,
    FOLDER,
    HELD_OUT,
    HELD_OUT_SEED,
    PROMPT_SEED,
    PROMPTS,
    SETTINGS,
    run_ppo_sweep,
)
from rlhf_lessons.evaluation.sweeps import do_runs


def do(key: tuple[str, float]) -> tuple[dict, str]:
    judge, beta = key
    (run,) = run_ppo_sweep({judge: (beta,)})
    return dataclasses.asdict(run), f"KL {run.kl:.3f}, gold {run.gold:+.3f}"


def main() -> int:
    keys = [(judge, beta) for judge, betas in BETAS.items() for beta in betas]
    common = dataclasses.asdict(SETTINGS)
    del common["beta"]  # each run has its own
    settings = {
        **common,
        "prompts": {"count": PROMPTS, "seed": PROMPT_SEED},
        "held_out": {"count": HELD_OUT, "seed": HELD_OUT_SEED},
    }
    paths = {key: FOLDER / "{}_beta{:g}.json".format(*key) for key in keys}
    return do_runs(paths, do, command=COMMAND, settings=settings)


if __name__ == "__main__":
    sys.exit(main())
