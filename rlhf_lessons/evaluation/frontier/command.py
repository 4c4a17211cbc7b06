"""``python -m rlhf_lessons frontier``: list, run, tabulate."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from rlhf_lessons.evaluation.frontier.methods import FRONTIER_METHODS
from rlhf_lessons.evaluation.frontier.sweep import (
    FRONTIER_FOLDER,
    do_run,
    file_name,
    load_frontier,
    measured,
)
from rlhf_lessons.evaluation.frontier.world import FrontierSettings, World
from rlhf_lessons.evaluation.sweeps import do_runs

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m rlhf_lessons frontier``: list, run or tabulate the sweep.

    Args:
        argv: the words after ``frontier``; None takes those of the command line.

    Returns:
        0 when all went well, 1 when there is nothing to show or a run that is there was made with
        other settings.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="python -m rlhf_lessons frontier",
        description="The sweep behind lesson 6: reward against KL for every method.",
    )
    parser.add_argument(
        "--folder", type=Path, default=FRONTIER_FOLDER, help="where the runs' files are"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="name the runs and say which are done")
    commands.add_parser("table", help="print KL and reward of each run")
    run = commands.add_parser("run", help="do the runs that have no file yet, 10 to 30 s each")
    run.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED")
    run.add_argument("--methods", nargs="+", default=list(FRONTIER_METHODS), metavar="METHOD")
    arguments = parser.parse_args(words)
    if arguments.command == "run":
        unknown = [name for name in arguments.methods if name not in FRONTIER_METHODS]
        if unknown:
            run.error(f"no method {', '.join(unknown)}; there are {', '.join(FRONTIER_METHODS)}")
        return _sweep(arguments, "python -m rlhf_lessons frontier " + " ".join(words))
    if arguments.command == "list":
        for method in FRONTIER_METHODS.values():
            done = len(list(arguments.folder.glob(f"{method.name}[_]*seed*.json")))
            print(f"{method.name:<18} {done:>3} runs done   {method.summary}")
        return 0
    try:
        runs = load_frontier(arguments.folder)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    for item in runs:
        for point in item.points[-1:]:
            beta = "" if item.beta is None else f"β = {item.beta:g}"
            print(
                f"{item.method:<18} {beta:<9} seed {item.seed}   KL {point.kl:6.3f} ± "
                f"{point.kl_error:.3f}   gold {point.reward:+.3f} ± {point.reward_error:.3f}   "
                f"clean {point.clean:.0%}"
            )
    return 0


def _sweep(arguments: argparse.Namespace, command: str) -> int:
    settings = FrontierSettings()
    world = cache(lambda seed, genres: World(settings, seed, genres))

    def do(key: tuple[str, float | None, int]) -> tuple[dict, str]:
        method, beta, seed = key
        run = do_run(world(seed, FRONTIER_METHODS[method].genres), method, beta, command)
        place = f"KL {run.last.kl:.3f}, gold {run.last.reward:+.3f}"
        return measured(run), f"{place}, {run.cpu_seconds:.0f} s"

    keys = [
        (name, beta, seed)
        for seed in arguments.seeds
        for name in arguments.methods
        for beta in FRONTIER_METHODS[name].betas
    ]
    return do_runs(
        {key: arguments.folder / file_name(*key) for key in keys},
        do,
        command=command,
        settings=dataclasses.asdict(settings),
    )
