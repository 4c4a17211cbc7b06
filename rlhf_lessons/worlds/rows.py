"""Rows of the files that people bring. What a row must hold, ``preferences`` and ``texts`` say.

    a.jsonl       one JSON value a line
    a.json        one array of them; the name decides nothing, the first character does
    a.jsonl.gz    either of them, packed
    a.parquet     a table
    a folder      train.jsonl, train.json or train.jsonl.gz and the like, a file a split; parquet
                  files, those of ``data/train-*.parquet`` too; or what ``datasets.save_to_disk``
                  wrote

Parquet and what ``datasets`` saved need that library, the other files need nothing.

Left out on purpose: formats that ``datasets`` turns into one of these.
"""

from __future__ import annotations

import codecs
import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__: list[str] = []

PACKED = b"\x1f\x8b"  # how each file of gzip begins


class Table(NamedTuple):
    """One split, row by row.

    Attributes:
        source: the file or folder that holds it.
        unit: what numbers its rows, from 1: "line" or "row".
        columns: the names that every row has.
        rows: (number, row) of each row that could be read; to be gone through once.
        broken: number -> why a row could not be read.
    """

    source: str
    unit: str
    columns: Sequence[str]
    rows: Iterable[tuple[int, Any]]
    broken: Mapping[int, str]


def read_split(
    where: str, path: str | os.PathLike[str], columns: Sequence[str], split: str
) -> Table:
    """Read one split of a file or folder.

    Args:
        where: the function that asks, for messages.
        path: a file, which has one split, ``train``, or a folder with a file for each.
        columns: as for ``read_splits``.
        split: which one.

    Returns:
        Its table.

    Raises:
        ValueError: there is no such split. Files raise what ``read_splits`` says.
    """
    splits = read_splits(where, Path(path).expanduser(), columns)
    if split not in splits:
        raise ValueError(
            f"{where}: split must be one of {sorted(splits)} for {path}, got {split!r}"
        )
    return splits[split]


def read_splits(where: str, path: Path, columns: Sequence[str]) -> dict[str, Table]:
    """Read a file, which is the split ``train``, or a folder.

    Args:
        where: the function that asks, for messages.
        path: the file or folder.
        columns: the names that are needed; a data set gives no others, but lists them.

    Returns:
        The tables by the names of their splits.

    Raises:
        FileNotFoundError: there is no such file, or a folder without any.
        ModuleNotFoundError: ``datasets`` is needed; the message says what to install.
        OSError: a data set or a packed file cannot be read.
    """
    name = str(path)
    if path.is_file():
        if path.suffix != ".parquet":
            return {"train": _json_table(path)}
        return load_splits(
            where, name, columns, lambda library: library.load_dataset("parquet", data_files=name)
        )
    if not path.is_dir():
        raise FileNotFoundError(f"{where}: there is no file or folder {path}")
    if any((path / saved).is_file() for saved in ("dataset_dict.json", "dataset_info.json")):
        return load_splits(where, name, columns, lambda library: library.load_from_disk(name))
    files = {
        file.name.removesuffix(end): file
        for end in (".jsonl.gz", ".json", ".jsonl")
        for file in path.glob(f"*{end}")
    }
    if "train" not in files and any(path.rglob("*.parquet")):
        return load_splits(where, name, columns, lambda library: library.load_dataset(name))
    if not files:
        raise FileNotFoundError(
            f"{where}: {path} must hold train.jsonl, train.json, parquet files, or a data set that "
            f"datasets.save_to_disk wrote, got {sorted(f.name for f in path.iterdir())[:8]}"
        )
    return {split: _json_table(file) for split, file in files.items()}


def load_splits(
    where: str, source: str, columns: Sequence[str], load: Callable[[Any], Any]
) -> dict[str, Table]:
    """Let the library ``datasets`` load a data set.

    Args:
        where: the function that asks, for messages.
        source: what is loaded, for messages.
        columns: the names that are needed.
        load: what is done with the library.

    Returns:
        The tables by the names of their splits; a data set without splits is ``train``.

    Raises:
        ModuleNotFoundError: the library is missing; the message says what to install.
        OSError: it could not load.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        if error.name != "datasets":
            raise
        raise ModuleNotFoundError(
            f"{where}: {source} needs the library datasets: pip install datasets (it comes with "
            f"pip install 'rlhf-lessons[scale]'); a JSONL file needs nothing",
            name="datasets",
        ) from error
    try:
        loaded = load(datasets)
    except Exception as error:  # each version, format and transport raises kinds of its own
        reason = str(error).strip().split("\n")[0]
        raise OSError(f"{where}: could not load {source}: {reason}") from error
    splits = loaded if isinstance(loaded, Mapping) else {"train": loaded}
    return {name: _data_table(source, split, columns) for name, split in splits.items()}


def _data_table(source: str, split: Any, columns: Sequence[str]) -> Table:
    names = split.column_names
    kept = [name for name in names if name in columns]
    rows = split.select_columns(kept) if kept else split  # without columns there are no rows
    return Table(source, "row", names, enumerate(rows, start=1), {})


def _json_table(path: Path) -> Table:
    raw = path.read_bytes()
    if raw[:2] == PACKED:
        try:
            raw = gzip.decompress(raw)
        except (EOFError, OSError, zlib.error) as error:
            raise OSError(
                f"{path} is cut off or damaged and cannot be unpacked: {error}"
            ) from error
    raw = raw.removeprefix(codecs.BOM_UTF8)
    if raw.lstrip()[:1] == b"[":
        try:
            array = json.loads(raw.decode("utf-8"))
            return _table(path, "row", list(enumerate(array, start=1)), {})
        except UnicodeDecodeError as error:
            line = raw[: error.start].count(b"\n") + 1
            return _table(path, "line", [], {line: "no valid UTF-8"})
        except json.JSONDecodeError as error:
            if error.msg != "Extra data":  # which are more lines, the first of them an array
                cut = raw.rstrip()[-1:] != b"]"
                return _table(path, "line", [], {error.lineno: _no_json(error, cut)})
    rows, broken = [], {}
    lines = raw.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append((number, json.loads(line.decode("utf-8"))))
        except UnicodeDecodeError:
            broken[number] = "no valid UTF-8"
        except json.JSONDecodeError as error:
            # Only a writer that was stopped leaves a last line without its newline.
            broken[number] = _no_json(error, number == len(lines))
    return _table(path, "line", rows, broken)


def _table(path: Path, unit: str, rows: list[tuple[int, Any]], broken: dict[int, str]) -> Table:
    objects = rows and all(isinstance(row, dict) for _, row in rows)
    names = [name for name in rows[0][1] if all(name in row for _, row in rows)] if objects else []
    return Table(str(path), unit, names, rows, broken)


def _no_json(error: json.JSONDecodeError, cut: bool) -> str:
    problem = f"no valid JSON ({error.msg} at column {error.colno})"
    return "cut off in the middle: " + problem if cut else problem
