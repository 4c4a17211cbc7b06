"""Thumbs: one prompt, one response, up or down, and the file that holds them.

Belongs to lesson 9 and feeds ``train_kto``. A file is JSON Lines with the columns ``prompt``,
``response`` and ``up``. Read, too, is what TRL's trainer for thumbs takes, with ``completion`` and
``label`` in their place, and whatever ``rows`` says can be a file.

Left out on purpose: lists of messages (``load_preferences`` reads those), and stars; above which
number of stars a thumb goes up is for the reader of the file to say.
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

__all__ = ["Thumb", "load_thumbs", "save_thumbs", "thumbs_of_pairs"]

_OTHER_NAMES = {"prompt": "prompt", "response": "completion", "up": "label"}


class Thumb(NamedTuple):
    """One answer to "is this response good?".

    Attributes:
        prompt: the text that the response continues.
        response: what was judged.
        up: True for a thumb up, False for one down.
    """

    prompt: str
    response: str
    up: bool


def load_thumbs(
    path: str | os.PathLike[str], *, split: str = "train", keep_good: bool = False
) -> list[Thumb]:
    """Read a file or a folder of thumbs, each row checked.

    Args:
        path: the file (JSON Lines, a JSON array, either packed by gzip, or parquet) or a folder
            with a file a split; other columns are left unread.
        split: which split of a folder; a file is ``train``.
        keep_good: False refuses a file with a bad row; True warns about the bad ones and keeps the
            rest.

    Returns:
        The thumbs in the order of the file.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ModuleNotFoundError: the file needs ``datasets``; the message says what to install.
        OSError: it cannot be read.
        PreferenceFileError: a row is bad and ``keep_good`` is False; the message and the attribute
            ``problems`` name each bad one by the number of its line, or of its row where a file has
            no lines.
        ValueError: a folder without that split.
    """
    columns = [*_OTHER_NAMES, *_OTHER_NAMES.values()]
    table = read_split("load_thumbs", path, columns, split)
    good: list[Thumb] = []
    problems = dict(table.broken)
    for number, row in table.rows:
        try:
            good.append(_of_row(row))
        except ValueError as error:
            problems[number] = str(error)
    name_problems(table, problems, len(good) if keep_good else None)
    return good


def _of_row(row: Any) -> Thumb:
    if not isinstance(row, dict):
        raise ValueError(
            f"expected an object with prompt, response and up, got {type(row).__name__}"
        )
    values = {}
    for name, other in _OTHER_NAMES.items():
        column = name if name in row else other
        if column not in row:
            raise ValueError(f"the column {name!r} is missing, got {sorted(row)}")
        values[name] = value = row[column]
        if name == "up":
            if not isinstance(value, (bool, int)) or value not in (0, 1):
                raise ValueError(f"the column {column!r} must be true or false, got {value!r:.40}")
        elif not isinstance(value, str):
            raise ValueError(f"the column {column!r} must be text, got {type(value).__name__}")
    if not values["response"].strip():
        raise ValueError("the response is empty")
    return Thumb(values["prompt"], values["response"], bool(values["up"]))


def save_thumbs(path: str | os.PathLike[str], thumbs: Iterable[Sequence[Any]]) -> None:
    """Write thumbs to a JSONL file: the old file stays whole until the new one is.

    Args:
        path: the file to write; its folder is made when missing.
        thumbs: ``Thumb`` records or (prompt, response, up) triples.

    Returns:
        Nothing.

    Raises:
        ValueError: a record is no thumb that ``load_thumbs`` would read; the message names its
            place (from 0), and nothing is written.
    """
    lines = []
    for place, thumb in enumerate(thumbs):
        try:
            row = _of_row(dict(zip(Thumb._fields, thumb, strict=True)))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"save_thumbs: thumbs must hold (prompt, response, up), got {thumb!r:.80} at "
                f"{place}: {error}"
            ) from error
        lines.append(json.dumps(row._asdict(), ensure_ascii=False) + "\n")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new, new.open("w", encoding="utf-8", newline="") as file:
        file.writelines(lines)


def thumbs_of_pairs(pairs: Iterable[Sequence[str]]) -> list[Thumb]:
    """Take pairs apart: a thumb up for each chosen response and one down for each rejected one.

    What is lost is the comparison. A response that was the better of two bad ones gets a thumb up.

    Args:
        pairs: ``Preference`` records or (prompt, chosen, rejected) triples.

    Returns:
        Two thumbs a pair, the one up first, in the order of the pairs.

    Raises:
        ValueError: a record does not hold exactly three texts.
    """
    thumbs = []
    for place, pair in enumerate(pairs):
        triple = isinstance(pair, (tuple, list)) and len(pair) == 3
        if not triple or not all(isinstance(text, str) for text in pair):
            raise ValueError(
                f"thumbs_of_pairs: pairs must hold (prompt, chosen, rejected) of str, got "
                f"{pair!r:.80} at {place}"
            )
        prompt, chosen, rejected = pair
        thumbs += [Thumb(prompt, chosen, True), Thumb(prompt, rejected, False)]
    return thumbs
