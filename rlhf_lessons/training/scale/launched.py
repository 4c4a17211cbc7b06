"""Starting TRL's processes from Python, and reading their records.

The command is a list of words, such as somebody would type it. Left out on purpose: several
machines, on each of which the command is started by hand.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import psutil

from rlhf_lessons.training.scale.handed import Method, check_installed, check_paths

__all__: list[str] = []

Path = str | os.PathLike[str]
TRACEBACK = "Traceback (most recent call last):"
# Such as "E1129 19:20:31.270000 4711 .venv/torch/distributed/elastic/multiprocessing/api.py:882]".
TORCHRUN = re.compile(r"[EWI]\d{4} \d\d:\d\d:\d\d.* \S*torch/distributed/\S+\]")


def command_of(
    method: Method,
    settings: Any,
    processes: int,
    cpu: bool,
    **paths: Path | None,
) -> list[str]:
    """Write the command of a run.

    Args:
        method: how it trains.
        settings: of that method; only what differs from the defaults is written out.
        processes: how many processes share each batch, one a GPU.
        cpu: stay on the CPU although there is a GPU.
        **paths: files, models and judge by the names of their options; None leaves one out.

    Returns:
        the words, beginning with ``accelerate launch``.

    Raises:
        ValueError: the batch cannot be shared out evenly, or a setting has no counterpart.
    """
    method.words(settings, processes)
    words = ["accelerate", "launch"]
    # `--cpu --num_processes 2` would start one process; this starts two, on GPUs or not.
    words += ["--multi_gpu"] if processes > 1 else []
    words += ["--num_processes", str(processes), "--num_machines", "1", "--main_process_port", "0"]
    words += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    words += ["-m", "rlhf_lessons", "scale", method.name]
    for name, path in paths.items():
        words += [] if path is None else [f"--{name.replace('_', '-')}", os.fspath(path)]
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value != field.default:
            flag = f"--{field.name.replace('_', '-')}"
            words += [flag] if value is True else [flag, repr(value)]
    return words + (["--cpu"] if cpu else [])


def launched(
    where: str,
    method: Method,
    settings: Any,
    processes: int,
    cpu: bool,
    **paths: Path | None,
) -> Iterator[Any]:
    """Check everything now, and give the records of the processes, which the first one starts.

    Args:
        where: the function that asks, for messages.
        method: how to train.
        settings: of that method; None takes its defaults.
        processes: how many processes share each batch, one a GPU.
        cpu: stay on the CPU although there is a GPU.
        **paths: files, models and judge by the names of their options; None leaves one out.

    Returns:
        the records. Leaving the loop over them early ends the processes.

    Raises:
        ModuleNotFoundError: TRL, Accelerate or Datasets is missing; says how to install them.
        FileNotFoundError: there is no such file of data.
        ValueError: a bad line in it, a batch that cannot be shared out, an output that is there.
    """
    settings = method.settings() if settings is None else settings
    words = command_of(method, settings, processes, cpu, **paths)
    check_installed()
    given = argparse.Namespace(**{**dict.fromkeys(method.options), **paths})
    check_paths(method, given, settings)
    return follow(where, words, processes, method.step)


def follow(where: str, words: list[str], processes: int, step: type) -> Iterator[Any]:
    """Run the command and read its records, one a line.

    Args:
        where: the function that asks, for messages.
        words: the command.
        processes: how many it starts.
        step: the dataclass of a record.

    Yields:
        the records.

    Raises:
        RuntimeError: the processes ended with an error, which the message repeats.
    """
    module = [sys.executable, "-m", "accelerate.commands.launch", *words[2:]]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        # In a session of its own: a notebook's ■ or Ctrl-C stops the loop, not the processes.
        running = subprocess.Popen(
            module, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
        try:
            for line in running.stdout:
                if line.startswith('{"processes":'):
                    started = json.loads(line)["processes"]
                    if started != processes:
                        raise RuntimeError(
                            f"{where}: {processes} processes were asked for, but "
                            f"accelerate launch started {started}"
                        )
                elif line.startswith('{"step":'):
                    yield step(**json.loads(line))
            if running.wait() != 0:
                errors.seek(0)
                raise RuntimeError(
                    f"{where}: the launched run failed:\n" + why(errors.read().splitlines())
                )
        finally:
            end(running)
            running.stdout.close()


def why(said: list[str]) -> str:
    """Choose from what a failed launch wrote the lines that say why, at most 15.

    Behind the last words of the processes the launcher reports in a traceback of its own that one
    of them ended, and torchrun logs the same. Neither says why.

    Args:
        said: the lines of standard error, of launcher and processes together.

    Returns:
        our own message where there is one, else the last lines of the processes, else of all.
    """
    own = [line for line in said if line.startswith("scale: ")]
    theirs = said
    if TRACEBACK in said:
        last = len(said) - 1 - said[::-1].index(TRACEBACK)
        if any("accelerate" in line and "launch.py" in line for line in said[last:]):
            theirs = said[:last]
    theirs = [line for line in theirs if line.strip() and not TORCHRUN.match(line)]
    return "\n".join(own[:1] or (theirs or said)[-15:])


def end(running: subprocess.Popen) -> None:
    """End a launcher and what it launched, which would otherwise go on training alone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(running.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
    running.terminate()
    running.wait()
