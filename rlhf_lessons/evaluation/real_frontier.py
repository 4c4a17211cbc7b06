"""The frontier of a real model, scored by a judge of people: what lies beside this module.

SmolLM2-135M with the adapter smollm2-snippets continues openings of real film snippets. Each run is
one of ``python -m rlhf_lessons run sentiment --data snippets``; the record of each names its
command. Belongs to lesson 6.
"""

from __future__ import annotations

import os
from pathlib import Path

from rlhf_lessons.evaluation.sentiment import SentimentRun
from rlhf_lessons.evaluation.sweeps import finished_runs

__all__ = ["REAL_FRONTIER_FOLDER", "load_real_frontier"]

REAL_FRONTIER_FOLDER = Path(__file__).with_name("real_frontier_runs")
"""Where the runs lie, as ``seed<s>/<method>/results.json``."""


def load_real_frontier(folder: str | os.PathLike[str] | None = None) -> list[SentimentRun]:
    """Read the runs that came to their end, from this folder or from one of your own.

    Args:
        folder: what ``run sentiment --out`` wrote, or a folder of such folders; None takes what
            comes with the course.

    Returns:
        The runs, by method, then from strong to weak β, then by seed.

    Raises:
        FileNotFoundError: there are none.
        ValueError: a file is no record of a run; the message names it.
    """
    folder = REAL_FRONTIER_FOLDER if folder is None else Path(folder).expanduser()
    command = "python -m rlhf_lessons run sentiment --data snippets"
    runs = finished_runs("load_real_frontier", folder, SentimentRun.read, command)
    return sorted(
        runs, key=lambda run: (run.settings.method, -run.settings.beta, run.settings.seed)
    )
