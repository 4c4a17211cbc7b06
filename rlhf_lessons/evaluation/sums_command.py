"""``python -m rlhf_lessons run sums``: its options (lesson 9).

What an option means is said once, in ``RealSumsSettings``; what is done, in ``real_sums``.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rlhf_lessons.evaluation import real_sums
from rlhf_lessons.evaluation.command_options import add_field
from rlhf_lessons.evaluation.real_sums import RealSumsSettings, run_real_sums

__all__: list[str] = []


def add_experiment(experiments: Any) -> None:
    """Add the experiment to those of ``python -m rlhf_lessons run``.

    Args:
        experiments: what ``add_subparsers`` gave.
    """
    experiment = experiments.add_parser(
        "sums",
        usage="python -m rlhf_lessons run sums [options]",
        help="GRPO with a checker: a real model answers sums",
        description=inspect.cleandoc(real_sums.__doc__).split("\n\nLeft out")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for field in dataclasses.fields(RealSumsSettings):
        default = f"{field.default:g}" if isinstance(field.default, float) else field.default
        add_field(experiment, RealSumsSettings, field, f"{default} where nothing is given")
    experiment.add_argument(
        "--out", type=Path, help="folder of the run; runs/sums_..., named after policy and seed"
    )
    experiment.set_defaults(prepare=partial(_prepare, experiment))


def _prepare(
    experiment: argparse.ArgumentParser, given: dict[str, Any], command: str
) -> tuple[Path, Callable[[], str]]:
    """Check what was given; give the folder, and what does the run and says what came out."""
    folder = given.pop("out")
    try:
        settings = RealSumsSettings(**{k: v for k, v in given.items() if v is not None})
    except ValueError as error:
        experiment.error(str(error))
    if folder is None:
        folder = Path("runs") / f"sums_{Path(settings.policy).stem}_seed{settings.seed}"
    return folder, lambda: run_real_sums(settings, folder, command=command, progress=True).table()
