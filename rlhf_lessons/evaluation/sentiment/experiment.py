"""One run of the experiment, or several in one folder that share what is equal."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from rlhf_lessons.evaluation.sentiment.methods import METHODS
from rlhf_lessons.evaluation.sentiment.plots import plot_run, plot_runs
from rlhf_lessons.evaluation.sentiment.record import SentimentRun, comparison
from rlhf_lessons.evaluation.sentiment.settings import SentimentSettings
from rlhf_lessons.evaluation.sentiment.stages import Stages
from rlhf_lessons.training.settings import changes
from rlhf_lessons.whole_files import replace_file

__all__ = ["compare_sentiment", "folder_of", "run_sentiment"]


def run_sentiment(
    settings: SentimentSettings,
    folder: str | os.PathLike[str],
    *,
    command: str = "",
    progress: bool = False,
) -> SentimentRun:
    """Do the experiment, or go on with it where it was stopped.

    Args:
        settings: what to do.
        folder: where everything is kept.
        command: what was typed, for the record.
        progress: whether to show bars.

    Returns:
        What came out.

    Raises:
        OSError: the folder cannot be written, or a model or data set cannot be reached.
        ValueError: the folder holds a run with other settings, or a stage refuses its input.
        FloatingPointError: a loss is NaN or infinite.
    """
    folder = Path(folder).expanduser()
    return _done(Stages(settings, folder, command, progress))


def compare_sentiment(
    runs: Sequence[SentimentSettings],
    folder: str | os.PathLike[str],
    *,
    command: str = "",
    progress: bool = False,
) -> list[SentimentRun]:
    """Do several runs that share fine-tuning, samples, labels and reward model; or go on with them.

    Args:
        runs: methods and β in the order in which they are done.
        folder: where what they share is kept, with a folder for each run in it.
        command: what was typed, for the record.
        progress: whether to show bars.

    Returns:
        What came out of each.

    Raises:
        OSError: as ``run_sentiment`` raises it.
        ValueError: as ``run_sentiment`` raises it, or if the runs differ in what they share from
            each other or from those that the folder holds.
        FloatingPointError: as ``run_sentiment`` raises it.
    """
    home, done, before = Path(folder).expanduser(), [], None
    home.mkdir(parents=True, exist_ok=True)
    for settings in runs:
        _check_shared(home, settings)
        alone = "_alone" if settings.method == "sft" else ""  # sft/ is where the others start
        run = Stages(settings, home / f"{folder_of(settings)}{alone}", command, progress, home)
        if alone:  # it shares nothing
            done.append(_done(run))
            continue
        if before is not None:
            run.take_over(before)
        done.append(_done(run))
        before = run
    plot_runs(done, home / "plot.png")
    replace_file(home / "table.txt", comparison(done) + "\n")
    return done


def folder_of(settings: SentimentSettings) -> str:
    """Name a run for its folder: the method, and β where the method has one."""
    beta = f"_beta{settings.beta:g}" if settings.method in ("dpo", "ppo") else ""
    return settings.method + beta


# What the runs of one folder may differ in; fine-tuning starts elsewhere and shares nothing.
_OWN = {
    "method", "beta", "steps", "batch_size", "accumulate", "learning_rate", "n", "samples",
    "measure_every",
}  # fmt: skip


def _check_shared(home: Path, settings: SentimentSettings) -> None:
    """Refuse a run that could not use what lies in the folder; the first one writes the record."""
    if settings.method == "sft":
        return
    path = home / "shared.json"
    now = {k: v for k, v in dataclasses.asdict(settings).items() if k not in _OWN}
    if not path.exists():
        replace_file(path, json.dumps(now, ensure_ascii=False, indent=1) + "\n")
    then = json.loads(path.read_text(encoding="utf-8"))
    if differ := changes(then, now):
        raise ValueError(
            f"compare_sentiment: {home} holds runs with other settings: {', '.join(differ)}. Give "
            f"the first ones, or another --out"
        )


def _done(run: Stages) -> SentimentRun:
    """Do what is not done yet."""
    if not run.run.finished:
        run.read()
        METHODS[run.settings.method](run)
        plot_run(run.run, run.folder / "plot.png")
        shutil.rmtree(run.checkpoints, ignore_errors=True)
        run.record(finished=True)
    return run.run
