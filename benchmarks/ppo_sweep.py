"""Train the PPO runs that lesson 4 compares, and write their results into the package.

    python benchmarks/ppo_sweep.py      about 3 minutes on one core

The results depend on the library versions that the file names; on one machine the same versions
give the same file.
"""

from __future__ import annotations

import dataclasses
import json

import torch

from rlhf_lessons.evaluation import ppo_sweep
from rlhf_lessons.models.checkpoints import replace_file
from rlhf_lessons.training.versions import versions


def main() -> None:
    torch.set_num_threads(1)
    values = {
        "command": "python benchmarks/ppo_sweep.py",
        "settings": dataclasses.asdict(ppo_sweep.SETTINGS),
        "prompts": {"count": ppo_sweep.PROMPTS, "seed": ppo_sweep.PROMPT_SEED},
        "held_out": {"count": ppo_sweep.HELD_OUT, "seed": ppo_sweep.HELD_OUT_SEED},
        "versions": versions(),
        "runs": [dataclasses.asdict(run) for run in ppo_sweep.run_ppo_sweep()],
    }
    text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
    replace_file(ppo_sweep.FILE, text)


if __name__ == "__main__":
    main()
