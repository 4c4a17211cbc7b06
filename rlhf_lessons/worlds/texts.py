"""Texts of your own or of the Hugging Face hub: any data set with a column of text.

Feeds ``python -m rlhf_lessons run sentiment`` (lesson 8). Three sources, told apart by what is
there:

    a file      JSON Lines, one object a line                  the last tenth is held out
    a folder    train.jsonl and, if you have one, test.jsonl; or what ``datasets`` saved to disk
    a name      of the hub, such as ``imdb``                   needs ``pip install datasets``

Left out on purpose: streaming (the texts of an experiment fit into memory) and formats that
``datasets`` turns into one of these.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class LabelledText(NamedTuple):
    """A text and what somebody said of it.

    Attributes:
        text: the text.
        label: True for praise, False for blame, None where nobody was asked.
    """

    text: str
    label: bool | None


def load_texts(
    data: str | os.PathLike[str], *, text_column: str = "text", label_column: str | None = None
) -> tuple[list[LabelledText], list[LabelledText]]:
    """Read texts to train on and texts to measure on.

    Args:
        data: a JSONL file, a folder, or the name of a data set of the hub.
        text_column: the column that holds the texts; empty ones are left out.
        label_column: a column of 0 (blame) and 1 (praise); None reads no labels.

    Returns:
        The texts of the split ``train`` and those of ``test``, line breaks (those of HTML, too)
        made spaces; without a split ``test`` the last
        tenth of ``train``, one text at least.

    Raises:
        ModuleNotFoundError: the source needs ``datasets``; the message says what to install.
        OSError: there is no such file or folder, or the hub cannot be reached.
        ValueError: a line is no JSON object, a column is missing (the message lists those that are
            there), a label is neither 0 nor 1, or fewer than two texts are there.
    """
    splits = _splits(os.fspath(data))
    if "train" not in splits:
        raise ValueError(f"load_texts: {data} must have a split 'train', got {sorted(splits)}")
    training, held_out = (
        _texts(f"{data} ({name})", splits[name], text_column, label_column)
        if name in splits
        else []
        for name in ("train", "test")
    )
    if not held_out:
        cut = len(training) - max(1, len(training) // 10)
        training, held_out = training[:cut], training[cut:]
    if not training:
        raise ValueError(f"load_texts: {data} must hold at least 2 texts, got {len(held_out)}")
    return training, held_out


def split_openings(
    texts: Sequence[str], token_ends: Sequence[Sequence[int]], max_new_tokens: int, seed: int
) -> list[tuple[str, str]]:
    """Split texts into an opening of 2 to 8 tokens, the prompt, and what follows, the response.

    A response is cut after the last sentence that fits, so that it ends; a text without such a
    place is left out.

    Args:
        texts: the texts.
        token_ends: of each text, the places (in characters) where its tokens end.
        max_new_tokens: the most tokens of a response, one of them left for the end token.
        seed: of the lengths of the openings.

    Returns:
        (prompt, response) pairs, the response with its leading space.

    Raises:
        ValueError: no text can be split so.
    """
    openings = np.random.default_rng(seed).integers(2, 9, size=len(texts)).tolist()
    found = []
    for text, ends, opening in zip(texts, token_ends, openings, strict=True):
        if len(ends) <= opening:
            continue
        cut, last = ends[opening - 1], opening + max_new_tokens - 1
        response = text[cut : ends[min(last, len(ends)) - 1]]
        if len(ends) > last:
            stops = [match.end() for match in re.finditer(r"[.!?]['\")]*(?=\s|$)", response)]
            response = response[: stops[-1]] if stops else ""
        if response.strip():
            found.append((text[:cut], response))
    if not found:
        raise ValueError(
            f"split_openings: texts must hold a sentence that ends within max_new_tokens = "
            f"{max_new_tokens} tokens after the opening, got none in {len(texts)} texts"
        )
    return found


class _Table(NamedTuple):
    columns: Sequence[str]
    rows: Any  # rows[column] is the list of its values


def _splits(data: str) -> Mapping[str, _Table]:
    path = Path(data).expanduser()
    if path.is_file():
        return {"train": _json_lines(path)}
    if path.is_dir():
        if any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json")):
            loaded = _datasets(data).load_from_disk(str(path))
            return _tables(loaded)
        files = {file.stem: file for file in sorted(path.glob("*.jsonl"))}
        if not files:
            raise FileNotFoundError(
                f"load_texts: {path} must hold train.jsonl, or a data set that "
                f"datasets.save_to_disk wrote, got {sorted(f.name for f in path.iterdir())[:8]}"
            )
        return {name: _json_lines(file) for name, file in files.items()}
    if path.is_absolute() or data.startswith((".", "~")) or data.endswith(".jsonl"):
        raise FileNotFoundError(f"load_texts: there is no file or folder {path}")
    library = _datasets(data)
    try:
        return _tables(library.load_dataset(data))
    except Exception as error:  # each version and transport of the hub raises kinds of its own
        reason = str(error).strip().split("\n")[0]
        raise OSError(
            f"load_texts: could not load the data set {data!r} from the Hugging Face hub: {reason}"
        ) from error


def _datasets(data: str) -> Any:
    try:
        import datasets
    except ModuleNotFoundError as error:
        if error.name != "datasets":
            raise
        raise ModuleNotFoundError(
            f"load_texts: {data!r} needs the library datasets: pip install datasets (it comes with "
            f"pip install 'rlhf-lessons[scale]'); a JSONL file needs nothing",
            name="datasets",
        ) from error
    return datasets


def _tables(loaded: Any) -> Mapping[str, _Table]:
    splits = loaded if isinstance(loaded, Mapping) else {"train": loaded}
    return {name: _Table(table.column_names, table) for name, table in splits.items()}


def _json_lines(path: Path) -> _Table:
    rows: list[dict[str, Any]] = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"load_texts: {path}, line {number}: no JSON ({error})") from None
            if not isinstance(row, dict):
                raise ValueError(f"load_texts: {path}, line {number}: expected an object")
            rows.append(row)
    # Only what every line has is a column: a text that some lines lack cannot be read.
    columns = [name for name in (rows[0] if rows else ()) if all(name in row for row in rows)]
    return _Table(columns, {name: [row[name] for row in rows] for name in columns})


def _texts(where: str, table: _Table, text_column: str, label_column: str | None) -> list:
    for column in (text_column, *([] if label_column is None else [label_column])):
        if column not in table.columns:
            raise ValueError(
                f"load_texts: {where} must have a column {column!r}, got "
                f"{', '.join(map(repr, table.columns)) or 'none'}"
            )
    texts = list(table.rows[text_column])
    labels = [None] * len(texts) if label_column is None else list(table.rows[label_column])
    for row, (text, label) in enumerate(zip(texts, labels, strict=True)):
        if not isinstance(text, str):
            raise ValueError(
                f"load_texts: {where} must hold texts in {text_column!r}, got {text!r:.40} at {row}"
            )
        if label_column is not None and label not in (0, 1):
            raise ValueError(
                f"load_texts: {where} must hold 0 (blame) and 1 (praise) in {label_column!r}, got "
                f"{label!r:.40} at {row}"
            )
    return [
        LabelledText(line, None if label is None else bool(label))
        for text, label in zip(texts, labels, strict=True)
        if (line := _one_line(text))
    ]


def _one_line(text: str) -> str:
    """Line breaks, those of HTML too, become spaces."""
    return re.sub(r"(<br\s*/?>|\s)+", " ", text).strip()
