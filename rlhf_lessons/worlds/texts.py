"""Texts of your own or of the Hugging Face hub: any data set with a column of text.

Feeds ``python -m rlhf_lessons run sentiment`` (lesson 8). Three sources, told apart by what is
there:

    a file      JSON Lines, a JSON array or parquet            the last tenth is held out
    a folder    train.jsonl and, if you have one, test.jsonl; or what ``datasets`` saved to disk
    a name      of the hub, such as ``imdb``                   needs ``pip install datasets``

How files and folders are read, ``rows`` says.

Left out on purpose: streaming (the texts of an experiment fit into memory) and formats that
``datasets`` turns into one of these.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlhf_lessons.worlds.rows import Table, load_splits, read_splits


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
        data: a file (JSON Lines, a JSON array or parquet), a folder with a file a split or a saved
            data set, or the name of a data set of the hub.
        text_column: the column that holds the texts; empty ones are left out.
        label_column: a column of 0 (blame) and 1 (praise); None reads no labels.

    Returns:
        The texts of the split ``train`` and those of ``test``, line breaks (those of HTML, too)
        made spaces; without a split ``test`` the last tenth of ``train``, one text at least.

    Raises:
        ModuleNotFoundError: the source needs ``datasets``; the message says what to install.
        OSError: there is no such file or folder, or the hub cannot be reached.
        ValueError: a line is no JSON object, a column is missing (the message lists those that are
            there), a text is no str or a label neither 0 nor 1: the message names the first such
            line of the file; or fewer than two texts are there.
    """
    columns = [text_column] if label_column is None else [text_column, label_column]
    splits = _splits(os.fspath(data), columns)
    if "train" not in splits:
        raise ValueError(f"load_texts: {data} must have a split 'train', got {sorted(splits)}")
    training, held_out = (
        _texts(f"{data} ({name})", splits[name], *columns) if name in splits else []
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


def openings_of(
    tokenizer: Any, texts: Sequence[str], max_new_tokens: int, seed: int
) -> list[tuple[str, str]]:
    """Split texts as ``split_openings`` does, at the tokens of a fast tokenizer.

    Args:
        tokenizer: the tokenizer.
        texts: the texts.
        max_new_tokens: the most tokens of a response, one of them left for the end token.
        seed: of the lengths of the openings.

    Returns:
        (prompt, response) pairs, the response with its leading space.

    Raises:
        ValueError: no text can be split so.
    """
    read = tokenizer(
        list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    ends = [[end for _, end in offsets] for offsets in read["offset_mapping"]]
    return split_openings(texts, ends, max_new_tokens, seed)


def _splits(data: str, columns: Sequence[str]) -> dict[str, Table]:
    path = Path(data).expanduser()
    named = data.startswith((".", "~")) or data.endswith((".jsonl", ".json", ".parquet"))
    if path.exists() or path.is_absolute() or named:
        return read_splits("load_texts", path, columns)
    return load_splits(
        "load_texts",
        f"the data set {data!r} from the Hugging Face hub",
        columns,
        lambda library: library.load_dataset(data),
    )


def _texts(
    where: str, table: Table, text_column: str, label_column: str | None = None
) -> list[LabelledText]:
    columns = [text_column] if label_column is None else [text_column, label_column]
    rows = list(table.rows)
    for column in columns:
        if rows and all(isinstance(row, dict) and column not in row for _, row in rows):
            raise ValueError(
                f"load_texts: {where} must have a column {column!r}, got "
                f"{', '.join(map(repr, table.columns)) or 'none'}"
            )
    found, problems = [], dict(table.broken)
    for number, row in rows:
        if problem := _problem(row, text_column, label_column):
            problems[number] = problem
            break
        label = None if label_column is None else bool(row[label_column])
        if line := _one_line(row[text_column]):
            found.append(LabelledText(line, label))
    if problems:
        first = min(problems)
        raise ValueError(f"load_texts: {table.source}, {table.unit} {first}: {problems[first]}")
    return found


def _problem(row: Any, text_column: str, label_column: str | None) -> str:
    """Say what is wrong with a row, nothing where it is good."""
    if not isinstance(row, dict):
        return "expected an object"
    for column in (text_column, label_column):
        if column is not None and column not in row:
            return f"expected a column {column!r}, got {', '.join(map(repr, row)) or 'none'}"
    if not isinstance(row[text_column], str):
        return f"expected a text in {text_column!r}, got {row[text_column]!r:.40}"
    if label_column is not None and row[label_column] not in (0, 1):
        return (
            f"expected 0 (blame) or 1 (praise) in {label_column!r}, got {row[label_column]!r:.40}"
        )
    return ""


def _one_line(text: str) -> str:
    """Line breaks, those of HTML too, become spaces."""
    return re.sub(r"(<br\s*/?>|\s)+", " ", text).strip()
