"""The words of the course: one sentence and one equation each, in three languages.

Used by all lessons. The entries live in `glossary.csv` beside this file, in the order in which
the lessons meet them. With a kernel the table has a search box; without one it is a plain HTML
table that takes its colours from the page, so it can be read in a light and in a dark theme.

Left out on purpose: links from the text to the entries.
"""

from __future__ import annotations

import csv
import difflib
import html
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib import resources
from typing import Any

import ipywidgets

from rlhf_lessons.classroom.widgets import caption_html, display_bundle


@dataclass(frozen=True)
class Entry:
    """One word of the course.

    Attributes:
        term: the English word.
        sentence: what it means, in one sentence.
        equation: the same as an equation, in Unicode.
        lesson: the lesson that introduces it, 1 to 9.
        chinese: its name in Chinese.
        vietnamese: its name in Vietnamese.
    """

    term: str
    sentence: str
    equation: str
    lesson: int
    chinese: str
    vietnamese: str


@lru_cache(maxsize=1)
def entries() -> tuple[Entry, ...]:
    """Read all entries of the glossary.

    Returns:
        The entries, in the order of the lessons.

    Raises:
        ValueError: the file has other columns, a row lacks a cell, or a lesson is no number.
    """
    path = resources.files("rlhf_lessons.classroom") / "glossary.csv"
    return read_entries(path.read_text(encoding="utf-8"))


def read_entries(text: str) -> tuple[Entry, ...]:
    """Read entries from the text of a CSV file.

    Args:
        text: a header with the six columns, then one row for each entry.

    Returns:
        The entries, by lesson, and in the order of the file within a lesson.

    Raises:
        ValueError: the columns are others, a row has another number of cells, or a lesson is no
            number; the message names the row.
    """
    columns = [field.name for field in fields(Entry)]
    rows = list(csv.reader(text.splitlines()))
    if not rows or rows[0] != columns:
        raise ValueError(f"glossary: the columns must be {columns}, got {rows[0] if rows else []}")
    found = []
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) != len(columns) or not row[3].strip().isdigit():
            raise ValueError(
                f"glossary: row {number} must have {len(columns)} cells and a lesson number in "
                f"the fourth, got {row}"
            )
        cells = [cell.strip() for cell in row]
        found.append(Entry(cells[0], cells[1], cells[2], int(cells[3]), cells[4], cells[5]))
    return tuple(sorted(found, key=lambda entry: entry.lesson))


class Glossary:
    """A table of entries with a search box; see `glossary`.

    Attributes:
        widget: the live widget, for those who want to place it themselves.
    """

    def __init__(self, chosen: Sequence[Entry], search: str):
        self._chosen = tuple(chosen)
        self._box = ipywidgets.Text(
            value=search,
            description="search",
            placeholder="a word, in any of the languages",
            layout={"width": "360px", "max_width": "100%"},
        )
        self._table = ipywidgets.HTML(layout={"overflow": "auto"})  # on a narrow page it slides
        self._box.observe(lambda change: self._refresh(), "value")
        self._refresh()
        self.widget = ipywidgets.VBox([self._box, self._table])
        self.widget.add_class("rlhf-lessons-glossary")

    @property
    def found(self) -> tuple[Entry, ...]:
        """The entries that the table shows at present."""
        wanted = _folded(self._box.value).split()
        return tuple(e for e in self._chosen if all(word in _searched(e) for word in wanted))

    def _refresh(self) -> None:
        self._table.value = _table_html(self.found)

    def _repr_html_(self) -> str:
        return _table_html(self.found)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        text = "\n".join(f"{e.term}: {e.sentence} {e.equation}".rstrip() for e in self.found)
        bundle = display_bundle(self.widget, None, text or "no such entry")
        return {"text/plain": bundle.pop("text/plain"), "text/html": self._repr_html_(), **bundle}


def _searched(entry: Entry) -> str:
    """Give an entry's text to search, as it is and without spaces: Chinese may have some or not."""
    text = _folded(" ".join(map(str, vars(entry).values())))
    return f"{text} {text.replace(' ', '')}"


def _folded(text: str) -> str:
    """Lower case and without accents, so that a search needs no special keyboard."""
    decomposed = unicodedata.normalize("NFD", text.replace("đ", "d").replace("Đ", "D"))
    return "".join(c for c in decomposed if not unicodedata.combining(c)).casefold()


_CELL = "text-align:left;vertical-align:top;padding:4px 10px;white-space:normal"


# What stands after _ or ^: braces, or one word such as t, <t, s', θ or *.
_RAISED = re.compile(r"([_^])(?:\{([^{}]*)\}|(<?[^\W_]+'?|\*))")


def _set(equation: str) -> str:
    """Write an equation with its indices below and its exponents above the line."""
    parts, end = [], 0
    for match in _RAISED.finditer(equation):
        tag = "sub" if match[1] == "_" else "sup"
        inner = _set(match[2]) if match[2] is not None else html.escape(match[3])
        parts += [html.escape(equation[end : match.start()]), f"<{tag}>{inner}</{tag}>"]
        end = match.end()
    return "".join([*parts, html.escape(equation[end:])])


def _table_html(found: Sequence[Entry]) -> str:
    """A table in the page's own colours; on a page too narrow for it, it slides."""
    if not found:
        return caption_html("No entry holds these words. Clear the search to see all of them.")
    heads = ("term", "meaning", "equation", "lesson", "中文", "Tiếng Việt")
    head = "".join(f'<th scope="col" style="{_CELL}">{name}</th>' for name in heads)
    rows = []
    for entry in found:
        cells = [
            (html.escape(entry.sentence), f'style="{_CELL};min-width:170px"'),
            (_set(entry.equation), f'style="{_CELL};font-family:serif;font-size:115%"'),
            (str(entry.lesson), f'style="{_CELL}"'),
            # Chinese may break behind each character: a narrow page would write it downwards.
            (html.escape(entry.chinese), f'style="{_CELL};min-width:4em" lang="zh"'),
            (html.escape(entry.vietnamese), f'style="{_CELL}" lang="vi"'),
        ]
        rows.append(
            f'<tr><th scope="row" style="{_CELL}">{html.escape(entry.term)}</th>'
            + "".join(f"<td {look}>{text}</td>" for text, look in cells)
            + "</tr>"
        )
    count = "1 entry" if len(found) == 1 else f"{len(found)} entries"
    return (
        '<div style="overflow-x:auto">'
        '<table style="border-collapse:collapse;font-size:13px;line-height:1.4;color:inherit">'
        f'<caption style="text-align:left;padding:4px 10px">Glossary, {count}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def glossary(*terms_or_lessons: str | int, search: str = "") -> Glossary:
    """Show the glossary, all of it or a part; leave it on a cell's last line.

    Args:
        terms_or_lessons: English terms, or lesson numbers for all that a lesson introduces; none
            for everything.
        search: words to search for at first, in any language, accents left out or not.

    Returns:
        The table.

    Raises:
        ValueError: a term is not in the glossary (the message offers near ones), or a lesson
            has no entries.
    """
    known = entries()
    if not terms_or_lessons:
        return Glossary(known, search)
    chosen: list[Entry] = []
    for wanted in terms_or_lessons:
        if isinstance(wanted, int):
            found = [entry for entry in known if entry.lesson == wanted]
        else:
            found = [entry for entry in known if entry.term.casefold() == wanted.casefold()]
        if not found:
            raise ValueError(_unknown(wanted, known))
        chosen += [entry for entry in found if entry not in chosen]
    return Glossary(chosen, search)


def _unknown(wanted: str | int, known: Sequence[Entry]) -> str:
    if isinstance(wanted, int):
        lessons = sorted({entry.lesson for entry in known})
        return f"glossary: lesson {wanted} has no entries; lessons with entries: {lessons}"
    terms = {entry.term.casefold(): entry.term for entry in known}
    near = [terms[t] for t in difflib.get_close_matches(wanted.casefold(), terms, n=3, cutoff=0.5)]
    hint = f"; near it are {', '.join(near)}" if near else ""
    return f"glossary: {wanted!r} is no entry{hint}; glossary() shows all"
