"""Preference records: one prompt, a chosen and a rejected response, and the file that holds them.

Belongs to lesson 3 and feeds lessons 4 to 8. A file is JSON Lines with the columns ``prompt``,
``chosen`` and ``rejected``, which ``datasets.load_dataset("json", ...)`` and TRL's trainers read as
they are.

Left out on purpose: chat messages (this world's prompts are plain text), ties (a tie names no
chosen response, so it is no record of this kind) and any download.
"""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from rlhf_lessons.whole_files import replacing


class Preference(NamedTuple):
    """One answer to "which of these two responses is better?".

    Attributes:
        prompt: the text that both responses continue.
        chosen: the response that was preferred.
        rejected: the other one.
    """

    prompt: str
    chosen: str
    rejected: str


class PreferenceFileError(ValueError):
    """A preference file holds lines that are no preference of this world.

    Attributes:
        problems: line number (from 1) -> what is wrong with that line.
    """

    def __init__(self, path: Path, problems: Mapping[int, str]):
        self.problems = dict(problems)
        super().__init__(describe(path, problems))


def describe(path: Path, problems: Mapping[int, str]) -> str:
    """One text that names the file and up to ten of its bad lines."""
    shown = [f"  line {line}: {problem}" for line, problem in list(problems.items())[:10]]
    if len(problems) > len(shown):
        shown.append(f"  and {len(problems) - len(shown)} more")
    count = "1 bad line" if len(problems) == 1 else f"{len(problems)} bad lines"
    return "\n".join([f"{path}: {count}", *shown])


def parse_line(line: str, vocabulary: Collection[str] | None) -> Preference:
    """Read one line; ``ValueError`` says what is wrong with it."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"no valid JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(row, dict):
        raise ValueError(
            f"expected an object with prompt, chosen and rejected, got {type(row).__name__}"
        )
    for name in Preference._fields:
        if name not in row:
            raise ValueError(f"the column {name!r} is missing, got {sorted(row)}")
        if not isinstance(row[name], str):
            raise ValueError(f"the column {name!r} must be text, got {type(row[name]).__name__}")
    preference = Preference(*(row[name] for name in Preference._fields))
    for name in ("chosen", "rejected"):
        if not getattr(preference, name).strip():
            raise ValueError(f"the column {name!r} is empty")
    if vocabulary is not None:
        strange = [word for word in " ".join(preference).split() if word not in vocabulary]
        if strange:
            raise ValueError(
                f"{strange[0]!r} is no word of this world: is the file from another world?"
            )
    return preference


def load_preferences(
    path: str | os.PathLike,
    *,
    vocabulary: Collection[str] | None = None,
    keep_good: bool = False,
    drop_equal: bool = False,
) -> list[Preference]:
    """Read a JSONL file of preferences, each line checked.

    Args:
        path: the file; columns beside ``prompt``, ``chosen``, ``rejected`` are left unread.
        vocabulary: the words of the world the file must come from; None accepts any text.
        keep_good: False refuses a file with a bad line; True warns about the bad ones and keeps
            the rest.
        drop_equal: True drops pairs whose chosen equals the rejected; False calls them bad lines.

    Returns:
        The preferences in the order of the file.

    Raises:
        FileNotFoundError: there is no such file.
        PreferenceFileError: a line is bad and ``keep_good`` is False; the message and the
            attribute ``problems`` name each bad line by its number.
    """
    path = Path(path)
    raw = path.read_bytes()
    good: list[Preference] = []
    problems: dict[int, str] = {}
    lines = raw.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            preference = parse_line(line.decode("utf-8"), vocabulary)
            if preference.chosen == preference.rejected:
                if drop_equal:
                    continue
                raise ValueError("chosen equals rejected (drop_equal=True leaves such pairs out)")
            good.append(preference)
        except UnicodeDecodeError:
            problems[number] = "no valid UTF-8"
        except ValueError as error:
            # Only a writer that was stopped leaves a last line without its newline.
            cut = number == len(lines) and "no valid JSON" in str(error)
            problems[number] = "cut off in the middle: " + str(error) if cut else str(error)
    if problems:
        if not keep_good:
            raise PreferenceFileError(path, problems)
        warnings.warn(describe(path, problems) + f"\nkept {len(good)}", stacklevel=2)
    return good


def to_line(preference: Sequence[str]) -> str:
    """One JSON line, newline included."""
    row = dict(zip(Preference._fields, preference, strict=True))
    return json.dumps(row, ensure_ascii=False) + "\n"


def save_preferences(path: str | os.PathLike, preferences: Iterable[Sequence[str]]) -> None:
    """Write preferences to a JSONL file: the old file stays whole until the new one is.

    Args:
        path: the file to write; its folder is made when missing.
        preferences: ``Preference`` records or (prompt, chosen, rejected) triples.

    Returns:
        Nothing.

    Raises:
        ValueError: a record does not hold exactly three texts.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new, new.open("w", encoding="utf-8", newline="") as file:
        file.writelines(to_line(preference) for preference in preferences)


def append_preferences(path: str | os.PathLike, preferences: Iterable[Sequence[str]]) -> None:
    """Add preferences to the end of a JSONL file and wait until they are on disk.

    A last line without its newline (a writer that was stopped) is closed first, so that nothing
    new is glued to it and nothing of it is lost.

    Args:
        path: the file; made, with its folder, when missing.
        preferences: ``Preference`` records or (prompt, chosen, rejected) triples.

    Returns:
        Nothing.

    Raises:
        ValueError: a record does not hold exactly three texts; the file is then unchanged.
    """
    path = Path(path)
    text = "".join(to_line(preference) for preference in preferences)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                text = "\n" + text
        file.write(text.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


def ranking_to_pairs(prompt: str, ranked: Sequence[str]) -> list[Preference]:
    """Turn a ranking of K responses into its K(K−1)/2 pairs.

    ranked = (y₁, …, y_K), best first  →  {(y_i ≻ y_j) : i < j}

    Args:
        prompt: the text that all responses continue.
        ranked: K >= 2 different responses, best first.

    Returns:
        The pairs, those of the best response first.

    Raises:
        ValueError: fewer than two responses, or a response that occurs twice.
    """
    if isinstance(ranked, str) or len(ranked) < 2:
        raise ValueError(f"ranking_to_pairs: ranked must hold at least 2 responses, got {ranked!r}")
    response, times = Counter(ranked).most_common(1)[0]
    if times > 1:
        raise ValueError(
            f"ranking_to_pairs: ranked must not repeat a response, got {response!r} {times} times"
        )
    return [Preference(prompt, better, worse) for better, worse in combinations(ranked, 2)]


def drop_equal_pairs(
    preferences: Iterable[Sequence[str]],
) -> tuple[list[Preference], list[int]]:
    """Leave out the pairs whose chosen response equals the rejected one.

    Args:
        preferences: ``Preference`` records or (prompt, chosen, rejected) triples.

    Returns:
        The pairs that differ, and the positions (from 0) of those that were dropped.
    """
    kept, dropped = [], []
    for position, (prompt, chosen, rejected) in enumerate(preferences):
        if chosen == rejected:
            dropped.append(position)
        else:
            kept.append(Preference(prompt, chosen, rejected))
    return kept, dropped
