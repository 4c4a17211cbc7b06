"""Examples and prompts: the files of fine-tuning and of sampling.

An example is a prompt and a response that somebody wrote to it; it feeds ``train_sft``. A file is
JSON Lines with the columns ``prompt`` and ``response``. Read, too, is what TRL's trainer takes,
with ``completion`` in the place of ``response``, and whatever ``rows`` says can be a file. A file
of prompts has the column ``prompt``: one of examples, thumbs or preferences will do.

Left out on purpose: lists of messages; their text is what the policy's chat template writes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_lessons.whole_files import replacing
from rlhf_lessons.worlds.preferences import name_problems
from rlhf_lessons.worlds.rows import read_split

__all__ = ["Example", "load_examples", "load_prompts", "save_examples"]


class Example(NamedTuple):
    """A response to learn from.

    Attributes:
        prompt: the text that the response continues; "" where a whole text is learned.
        response: the text.
    """

    prompt: str
    response: str


def load_examples(path: str | os.PathLike[str], *, split: str = "train") -> list[Example]:
    """Read a file or a folder of examples, each row checked.

    Args:
        path: the file (JSON Lines, a JSON array, either packed by gzip, or parquet) or a folder
            with a file a split; other columns are left unread.
        split: which split of a folder; a file is ``train``.

    Returns:
        The examples in the order of the file.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ModuleNotFoundError: the file needs ``datasets``; the message says what to install.
        OSError: it cannot be read.
        PreferenceFileError: a row is bad; the message and the attribute ``problems`` name each bad
            one by the number of its line, or of its row where a file has no lines.
        ValueError: a folder without that split, or no example in it.
    """
    rows = _read("load_examples", path, split, (("prompt",), ("response", "completion")))
    return [Example(*row) for row in rows]


def load_prompts(path: str | os.PathLike[str], *, split: str = "train") -> list[str]:
    """Read the prompts of a file or a folder, each row checked.

    Args:
        path: as for ``load_examples``; any file with a column ``prompt``.
        split: which split of a folder; a file is ``train``.

    Returns:
        The prompts in the order of the file, a repeated one as often as it is there.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ModuleNotFoundError: the file needs ``datasets``; the message says what to install.
        OSError: it cannot be read.
        PreferenceFileError: a row is bad; as for ``load_examples``.
        ValueError: a folder without that split, or no prompt in it.
    """
    return [prompt for (prompt,) in _read("load_prompts", path, split, (("prompt",),))]


def save_examples(path: str | os.PathLike[str], examples: Iterable[Sequence[str]]) -> None:
    """Write examples to a JSONL file: the old file stays whole until the new one is.

    Args:
        path: the file to write; its folder is made when missing.
        examples: ``Example`` records or (prompt, response) pairs.

    Returns:
        Nothing.

    Raises:
        ValueError: a record is no pair of texts; the message names its place (from 0), and nothing
            is written.
    """
    lines = []
    for place, example in enumerate(examples):
        pair = isinstance(example, (tuple, list)) and len(example) == 2
        if not pair or not all(isinstance(text, str) for text in example):
            raise ValueError(
                f"save_examples: examples must hold (prompt, response) of str, got "
                f"{example!r:.80} at {place}"
            )
        row = dict(zip(Example._fields, example, strict=True))
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new, new.open("w", encoding="utf-8", newline="") as file:
        file.writelines(lines)


def _read(
    where: str, path: str | os.PathLike[str], split: str, columns: tuple[tuple[str, ...], ...]
) -> list[list[str]]:
    """Read one text a column; a column may have one of several names."""
    table = read_split(where, path, [name for names in columns for name in names], split)
    good: list[list[str]] = []
    problems = dict(table.broken)
    for number, row in table.rows:
        try:
            good.append([_text(row, names) for names in columns])
        except ValueError as error:
            problems[number] = str(error)
    name_problems(table, problems, None)
    if not good:
        raise ValueError(f"{where}: {os.fspath(path)} must hold at least one row, got none")
    return good


def _text(row: Any, names: tuple[str, ...]) -> str:
    """Give a row's text; ``ValueError`` says what is wrong with it."""
    if not isinstance(row, dict):
        raise ValueError(f"expected an object with {names[0]}, got {type(row).__name__}")
    name = next((name for name in names if name in row), None)
    if name is None:
        raise ValueError(f"the column {names[0]!r} is missing, got {sorted(row)}")
    if not isinstance(row[name], str):
        raise ValueError(f"the column {name!r} must be text, got {type(row[name]).__name__}")
    return row[name]
