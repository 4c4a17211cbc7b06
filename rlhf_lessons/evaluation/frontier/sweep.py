"""One run of the sweep, and the files of all."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_lessons.evaluation.frontier.methods import FRONTIER_METHODS, FrontierMethod
from rlhf_lessons.evaluation.frontier.point import FrontierPoint
from rlhf_lessons.evaluation.frontier.world import FrontierSettings, World
from rlhf_lessons.evaluation.sweeps import read_runs, write_run
from rlhf_lessons.training.versions import versions

__all__ = [
    "FRONTIER_FOLDER",
    "FrontierRun",
    "do_run",
    "file_name",
    "load_frontier",
    "measured",
    "run_frontier",
]

FRONTIER_FOLDER = Path(__file__).parents[1] / "frontier_runs"
"""Where the runs behind lesson 6 lie."""


@dataclass(frozen=True)
class FrontierRun:
    """One method at one β with one seed: a file of the sweep.

    Attributes:
        method: name in ``FRONTIER_METHODS``.
        beta: KL strength β in reward per nat; None where the method has none.
        seed: of pairs, labels, training and sampling.
        points: the checkpoints in order, the last one the end of training.
        rewards: gold rewards of the first responses of the last point, one for each evaluation
            prompt, for win rates; prompts are the same in every run.
        settings: of the sweep, as JSON values.
        versions: of Python and the libraries.
        command: what was typed.
        cpu_seconds: that the run took.
    """

    method: str
    beta: float | None
    seed: int
    points: tuple[FrontierPoint, ...]
    rewards: tuple[float, ...]
    settings: dict[str, Any]
    versions: dict[str, str]
    command: str
    cpu_seconds: float

    @property
    def last(self) -> FrontierPoint:
        """The policy at the end of training."""
        return self.points[-1]


def file_name(method: str, beta: float | None, seed: int) -> str:
    """Name the file of a run."""
    return f"{method}{'' if beta is None else f'_beta{beta:g}'}_seed{seed}.json"


def run_frontier(
    method: str,
    beta: float | None = None,
    seed: int = 0,
    settings: FrontierSettings | None = None,
    *,
    folder: str | os.PathLike[str] | None = None,
    command: str = "",
) -> FrontierRun:
    """Do one run of the sweep, and keep it.

    Args:
        method: name in ``FRONTIER_METHODS``.
        beta: KL strength β above 0, in reward per nat; None for methods without one.
        seed: of everything random in the run.
        settings: of the sweep; the defaults when left out.
        folder: where to write the run's file, replaced as a whole; None writes nothing.
        command: what was typed, for the record.

    Returns:
        The run.

    Raises:
        ValueError: if there is no such method, or β is missing, needless or not above 0.
    """
    world = World(
        FrontierSettings() if settings is None else settings, seed, _checked(method, beta).genres
    )
    run = do_run(world, method, beta, command)
    if folder is not None:
        path = Path(folder) / file_name(method, beta, seed)
        write_run(path, measured(run), command=command, settings=run.settings)
    return run


def _checked(method: str, beta: float | None) -> FrontierMethod:
    if method not in FRONTIER_METHODS:
        raise ValueError(
            f"run_frontier: method must be one of {', '.join(FRONTIER_METHODS)}, got {method!r}"
        )
    found = FRONTIER_METHODS[method]
    without = found.betas == (None,)
    if (beta is None) != without or (beta is not None and not 0 < beta < math.inf):
        needed = "None for a method without one" if without else "a finite number above 0"
        raise ValueError(f"run_frontier: beta must be {needed} for {method}, got {beta!r}")
    return found


def do_run(world: World, method: str, beta: float | None, command: str) -> FrontierRun:
    """Do a run in a world that is made already."""
    started = time.process_time()
    points, rewards = FRONTIER_METHODS[method].run(world, beta)
    return FrontierRun(
        method=method,
        beta=beta,
        seed=world.seed,
        points=tuple(_rounded(point) for point in points),
        rewards=tuple(round(float(reward), 3) for reward in rewards),
        settings=dataclasses.asdict(world.settings),
        versions=versions(),
        command=command,
        cpu_seconds=round(time.process_time() - started, 1),
    )


def _rounded(point: FrontierPoint) -> FrontierPoint:
    values = {
        field.name: round(value, 5)
        for field in dataclasses.fields(point)
        if isinstance(value := getattr(point, field.name), float) and math.isfinite(value)
    }
    return dataclasses.replace(point, **values)


def measured(run: FrontierRun) -> dict[str, Any]:
    """Give what a run measured as JSON values, which have no NaN."""
    values = dataclasses.asdict(run)
    for name in ("command", "settings", "versions"):
        del values[name]
    for point in values["points"]:
        if math.isnan(point["clean"]):
            point["clean"] = None
    return values


def load_frontier(folder: str | os.PathLike[str] | None = None) -> list[FrontierRun]:
    """Read the runs of a sweep.

    Args:
        folder: where they lie; None takes the ones that come with the course.

    Returns:
        The runs, ordered by method, falling β and seed.

    Raises:
        FileNotFoundError: if there is no run.
        ValueError: if a file is no run; the message names file and field.
    """
    folder = FRONTIER_FOLDER if folder is None else Path(folder)
    runs = read_runs(folder, _taken_up, "python -m rlhf_lessons frontier run")
    order = list(FRONTIER_METHODS)
    return sorted(runs, key=lambda r: (order.index(r.method), -(r.beta or 0), r.seed))


def _taken_up(run: dict[str, Any], made_by: dict[str, Any]) -> FrontierRun:
    if run["method"] not in FRONTIER_METHODS:
        raise ValueError(f"no method is called {run['method']!r}")
    points = []
    for point in run.pop("points"):
        clean = math.nan if point["clean"] is None else point["clean"]
        texts = tuple(map(tuple, point["texts"]))
        points.append(FrontierPoint(**{**point, "clean": clean, "texts": texts}))
    rewards = tuple(run.pop("rewards"))
    return FrontierRun(**run, **made_by, points=tuple(points), rewards=rewards)
