"""Preference records: one prompt, a chosen and a rejected response, and the file that holds them.

Belongs to lesson 3 and feeds lessons 4 to 8. A file is JSON Lines with the columns ``prompt``,
``chosen`` and ``rejected``, which ``datasets.load_dataset("json", ...)`` and TRL's trainers read as
they are. Files of others are read in more ways (``rows`` and ``dialogues`` say which); written is
this one alone.

Left out on purpose: ties (a tie names no chosen response, so it is no record of this kind), other
names of the columns, and any download.
"""

from __future__ import annotations

import codecs
import json
import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_lessons.whole_files import replacing
from rlhf_lessons.worlds.dialogues import ANSWER, read_turns, split_texts, split_turns, write_turns
from rlhf_lessons.worlds.rows import PACKED, Table, read_split

OTHER = (b"[", b"PAR1", PACKED)  # how files begin to which no line can be added


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
    """A preference file holds rows that are no preference of this world.

    Attributes:
        problems: number of a line, or of a row where a file has no lines (from 1) -> what is wrong
            with it.
    """

    def __init__(self, path: str | os.PathLike, problems: Mapping[int, str], unit: str = "line"):
        self.problems = dict(problems)
        super().__init__(describe(path, problems, unit))


def describe(path: str | os.PathLike, problems: Mapping[int, str], unit: str) -> str:
    """One text that names the file and up to ten of its bad lines or rows."""
    shown = [f"  {unit} {number}: {problem}" for number, problem in list(problems.items())[:10]]
    if len(problems) > len(shown):
        shown.append(f"  and {len(problems) - len(shown)} more")
    count = f"1 bad {unit}" if len(problems) == 1 else f"{len(problems)} bad {unit}s"
    return "\n".join([f"{os.fspath(path)}: {count}", *shown])


def holds_messages(row: Any) -> bool:
    """Whether a row writes something as a list of messages."""
    columns = [row.get(name) for name in Preference._fields] if isinstance(row, dict) else []
    return any(isinstance(it, list) and any(isinstance(i, dict) for i in it) for it in columns)


def parse_row(row: Any, columns: Collection[str], tokenizer: Any) -> Preference:
    """Make a preference of a row; ``ValueError`` says what is wrong with it."""
    if not isinstance(row, dict):
        raise ValueError(
            f"expected an object with prompt, chosen and rejected, got {type(row).__name__}"
        )
    named = {name: row[name] for name in Preference._fields if name in row}
    for name, value in named.items():
        if not isinstance(value, (str, list)):
            raise ValueError(
                f"the column {name!r} must be text, got {type(value).__name__}; a list of "
                f"messages is read, too"
            )
    whole = all(ANSWER in value or isinstance(value, list) for value in named.values())
    for name in Preference._fields:
        if name not in named and not (name == "prompt" and whole):
            raise ValueError(f"the column {name!r} is missing, got {sorted({*row, *columns})}")
    if any(isinstance(value, list) for value in named.values()):
        roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        turns = {
            name: read_turns(name, value)
            if isinstance(value, list)
            else [{"role": roles[name], "content": value}]
            for name, value in named.items()
        }
        texts = write_turns(tokenizer, *split_turns(turns.pop("prompt", []), **turns))
    else:
        texts = named.values() if "prompt" in named else split_texts(**named)
    preference = Preference(*texts)
    for name in ("chosen", "rejected"):
        if not getattr(preference, name).strip():
            raise ValueError(f"the column {name!r} is empty")
    return preference


def load_preferences(
    path: str | os.PathLike,
    *,
    tokenizer: Any = None,
    split: str = "train",
    vocabulary: Collection[str] | None = None,
    keep_good: bool = False,
    drop_equal: bool = False,
) -> list[Preference]:
    """Read a file or a folder of preferences, each row checked.

    A file is JSON Lines or a JSON array (packed by gzip, too) or parquet; a folder holds such
    files, one a split, or what ``datasets.save_to_disk`` wrote.

    A row holds ``prompt``, ``chosen`` and ``rejected``. Texts stay as they are. Lists of messages
    (role and content) become text by the tokenizer's chat template: the prompt up to where the
    assistant begins, the responses without the end token, which a policy adds; a text beside them
    is the user's turn or the assistant's answer. Where chosen and rejected repeat the prompt, or
    hold it in its stead, all before the last answer is the prompt, so also in texts that have
    ``\\n\\nAssistant:`` before each answer.

    Args:
        path: the file or folder; columns beside those three are left unread.
        tokenizer: that of the policy, for rows of messages: anything with ``chat_template``,
            ``apply_chat_template`` and ``eos_token``. Rows of texts need none.
        split: which split of a folder; a file and a data set without splits is ``train``.
        vocabulary: the words of the world the file must come from; None accepts any text.
        keep_good: False refuses a file with a bad row; True warns about the bad ones and keeps
            the rest.
        drop_equal: True drops pairs whose chosen equals the rejected; False calls them bad rows.

    Returns:
        The preferences in the order of the file.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ModuleNotFoundError: the file needs ``datasets``; the message says what to install.
        OSError: it cannot be read.
        PreferenceFileError: a row is bad and ``keep_good`` is False; the message and the
            attribute ``problems`` name each bad one by the number of its line, or of its row where
            a file has no lines.
        ValueError: a folder without that split, or messages and no chat template.
    """
    table = read_split("load_preferences", path, Preference._fields, split)
    good: list[Preference] = []
    problems = dict(table.broken)
    for number, row in table.rows:
        if holds_messages(row) and not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                f"load_preferences: tokenizer must have a chat template, since {table.unit} "
                f"{number} of {table.source} holds messages, got "
                f"{'no tokenizer' if tokenizer is None else 'one without'}. Give "
                f"tokenizer=policy.tokenizer of a chat model, set its chat_template, or write "
                f"prompt, chosen and rejected as texts"
            )
        try:
            preference = parse_row(row, table.columns, tokenizer)
            words = [] if vocabulary is None else " ".join(preference).split()
            if strange := [word for word in words if word not in vocabulary]:
                raise ValueError(
                    f"{strange[0]!r} is no word of this world: is the file from another world?"
                )
            if preference.chosen == preference.rejected:
                if drop_equal:
                    continue
                raise ValueError("chosen equals rejected (drop_equal=True leaves such pairs out)")
            good.append(preference)
        except ValueError as error:
            problems[number] = str(error)
    name_problems(table, problems, len(good) if keep_good else None)
    return good


def name_problems(table: Table, problems: Mapping[int, str], kept: int | None) -> None:
    """Say which rows of a file are bad: in an error, or in a warning of the caller's caller.

    Args:
        table: what was read.
        problems: number of a row or line -> what is wrong with it; none says nothing.
        kept: how many good rows go on without the bad ones; None lets none go on.

    Raises:
        PreferenceFileError: there are problems and ``kept`` is None.
    """
    if not problems:
        return
    problems = dict(sorted(problems.items()))
    if kept is None:
        raise PreferenceFileError(table.source, problems, table.unit)
    said = describe(table.source, problems, table.unit)
    warnings.warn(said + f"\nkept {kept}", stacklevel=3)


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
        ValueError: a record does not hold exactly three texts, or the file is a JSON array, packed
            or parquet, to which no line can be added; it is then unchanged.
    """
    path = Path(path)
    text = "".join(to_line(preference) for preference in preferences)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        if file.tell():
            file.seek(0)
            if file.read(80).removeprefix(codecs.BOM_UTF8).lstrip().startswith(OTHER):
                raise ValueError(
                    f"append_preferences: path must be a file of JSON Lines, got {path} of another "
                    f"kind; save_preferences writes a file anew"
                )
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
