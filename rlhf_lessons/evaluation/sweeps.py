"""What sweeps have in common: one JSON file a run, with everything that it was made by.

    {"command": ..., "settings": {...}, "versions": {...}, "run": {...}}

A file is written as a whole or not at all. A sweep that was stopped therefore goes on by doing the
runs that have no file yet, and a lesson reads whatever files there are.

Left out on purpose: a plan of the runs, and what is in one. Each sweep has its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from rlhf_lessons.training.settings import changes
from rlhf_lessons.training.versions import versions
from rlhf_lessons.whole_files import replace_file

__all__ = ["do_runs", "finished_runs", "is_done", "read_runs", "write_run"]

Key = TypeVar("Key")
Run = TypeVar("Run")


def do_runs(
    paths: Mapping[Key, Path],
    do: Callable[[Key], tuple[Mapping[str, Any], str]],
    *,
    command: str,
    settings: Mapping[str, Any],
    threads: int = 1,
) -> int:
    """Do the runs that have no file yet.

    Args:
        paths: what makes a run this one -> its file; the runs are done in this order.
        do: makes a run: what was measured, as JSON values, and a line about it to print.
        command: what to type to make them again.
        settings: what the runs have in common, as JSON values.
        threads: of PyTorch; on one, sums are made in the same order on every machine.

    Returns:
        0; 1 where a file is no run or was made with other settings: then nothing is done.
    """
    try:
        missing = [key for key, path in paths.items() if not is_done(path, settings)]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for key in missing:
            run, line = do(key)
            write_run(paths[key], run, command=command, settings=settings)
            print(f"{paths[key].stem}: {line}", flush=True)
    finally:
        torch.set_num_threads(before)
    return 0


def write_run(
    path: Path, run: Mapping[str, Any], *, command: str, settings: Mapping[str, Any]
) -> None:
    """Keep a run.

    Args:
        path: its file; the folder is made where it is missing.
        run: what was measured, as JSON values.
        command: what to type to make it again.
        settings: what it has in common with the other runs, as JSON values.

    Raises:
        ValueError: a number is not finite, which JSON cannot hold.
        OSError: the file cannot be written; what was there before is unchanged.
    """
    values = {"command": command, "settings": settings, "versions": versions(), "run": run}
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n")


def is_done(path: Path, settings: Mapping[str, Any]) -> bool:
    """Say whether a run has its file.

    Args:
        path: where the file would be.
        settings: what the run would be made with.

    Returns:
        False where there is no file.

    Raises:
        ValueError: the file is no run, or was made with other settings; the message names them. It
            is for a person to decide which of the two to keep.
    """
    if not path.is_file():
        return False
    if differ := changes(_read("is_done", path)["settings"], settings):
        raise ValueError(
            f"is_done: {path} was made with other settings: {', '.join(differ)}; delete it to make "
            f"it again, or write to another folder"
        )
    return True


def finished_runs(
    function: str, folder: Path, read: Callable[[Path], Run], command: str
) -> list[Run]:
    """Read each ``results.json`` in a folder and below, and keep the runs that came to their end.

    Args:
        function: who asks, for the message.
        folder: where they are.
        read: makes a run, which knows whether it is ``finished``, of its file.
        command: what makes such runs, for the message where there are none.

    Returns:
        The runs in the order of their paths.

    Raises:
        FileNotFoundError: there are none.
        ValueError: ``read`` refuses a file.
    """
    runs = [read(path) for path in sorted(folder.glob("**/results.json"))]
    runs = [run for run in runs if run.finished]
    if not runs:
        raise FileNotFoundError(
            f"{function}: folder must hold results.json of finished runs, got {folder}; make them: "
            f"{command}"
        )
    return runs


def read_runs(
    folder: Path, make: Callable[[dict[str, Any], dict[str, Any]], Run], command: str
) -> list[Run]:
    """Read the runs of a folder.

    Args:
        folder: where their files are.
        make: what a run becomes, called with what was measured and with what it was made by:
            "command", "settings" and "versions".
        command: what makes the runs, for the message where there are none.

    Returns:
        The runs in the order of their file names.

    Raises:
        FileNotFoundError: there are none.
        ValueError: a file is no run; the message names it.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise FileNotFoundError(
            f"read_runs: {folder} must hold runs, got none; make them: {command}"
        )
    runs = []
    for path in paths:
        values = _read("read_runs", path)
        try:
            runs.append(make(values.pop("run"), values))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"read_runs: {path} is no run of this sweep: {error!r}") from error
    return runs


def _read(where: str, path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{where}: {path} is no run: {error}") from error
    if (
        not isinstance(values, dict)
        or not isinstance(values.get("settings"), dict)
        or not (isinstance(values.get("run"), dict))
    ):
        raise ValueError(f"{where}: {path} is no run: it must hold settings and a run")
    return values
