"""``python -m rlhf_lessons run``: the published experiments, what all of them say and return.

An experiment's own options are said beside it: ``sentiment_command`` (lesson 8), ``sums_command``
(lesson 9).

Left out on purpose: settings files. The folder of a run holds its settings and its command.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

import torch

from rlhf_lessons.evaluation import sentiment_command, sums_command
from rlhf_lessons.models import CheckpointError
from rlhf_lessons.real_parts import PartError

__all__: list[str] = []


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m rlhf_lessons run``: a published experiment from the shell.

    Args:
        argv: the words after ``run``; None takes those of the command line.

    Returns:
        0 when all went well, 1 when something could not be read, written or trained, 130 when
        Ctrl-C stopped it.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="python -m rlhf_lessons run",
        description="Repeat a published experiment with the loops of this package.",
    )
    experiments = parser.add_subparsers(dest="experiment", required=True, metavar="EXPERIMENT")
    for experiment in (sentiment_command, sums_command):
        experiment.add_experiment(experiments)
    given = vars(parser.parse_args(words))
    del given["experiment"]
    command = "python -m rlhf_lessons run " + shlex.join(words)
    folder, do = given.pop("prepare")(given, command)
    try:
        text = do()
    except KeyboardInterrupt:
        print(
            f"\nstopped; {folder} keeps everything up to the last checkpoint. To go on: {command}",
            file=sys.stderr,
        )
        return 130
    except (
        CheckpointError, FloatingPointError, ImportError, OSError, PartError, ValueError,
        torch.OutOfMemoryError,
    ) as error:  # fmt: skip
        print(error, file=sys.stderr)
        return 1
    print(f"{text}\n  {folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")
    return 0
