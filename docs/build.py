"""Write the pages that are made from the package: ``reference.md`` and ``glossary.md``.

    python docs/build.py

A name is public when a floor lists it in ``__all__``; what the page says of it is its docstring.
``tests/test_docs.py`` fails when a page is older than the code.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

from rlhf_lessons.classroom.glossary import entries

HERE = Path(__file__).parent
FLOORS = {
    "formulas": "the mathematics: pure functions from tensors to tensors",
    "worlds": "boards, prompts, texts and their truths",
    "models": "what owns weights",
    "training": "what changes weights: one loop per algorithm",
    "evaluation": "what measures",
    "classroom": "what a learner touches",
}
WIDTH = 96
SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Source):\s*$", re.MULTILINE)


def plain(text: str) -> str:
    """Write a docstring's markup as Markdown, on one line."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text)
    return " ".join(text.replace("``", "`").split())


def first_sentence(thing: object) -> str:
    """Give the first paragraph of a docstring as one line."""
    return plain((inspect.getdoc(thing) or "").split("\n\n")[0])


def equations(thing: object) -> list[str]:
    """Give a docstring's equations: its indented lines, else the lines that equate something."""
    text = SECTION.split(inspect.getdoc(thing) or "")[0]
    after_first = text.partition("\n\n")[2].splitlines()
    indented = [line.strip() for line in after_first if line.startswith("    ")]
    return indented or [line for line in after_first if re.search(r" [=←≈] ", line)]


def source(thing: object) -> str:
    """Give what a docstring names as its source, as one line."""
    pieces = SECTION.split(inspect.getdoc(thing) or "")
    named = dict(zip(pieces[1::2], pieces[2::2], strict=True))
    return plain(named.get("Source", ""))


def shown(value: Any) -> str:
    """Write a default as code, without addresses of this process."""
    if inspect.isfunction(value) or inspect.isclass(value):
        return value.__name__
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def signature(name: str, thing: Any) -> str:
    """Write how something is called, one line or one parameter a line."""
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return name
    empty = inspect.Parameter.empty
    parts, starred = [], False
    for parameter in found.parameters.values():
        kind = parameter.kind
        text = {kind.VAR_POSITIONAL: "*", kind.VAR_KEYWORD: "**"}.get(kind, "") + parameter.name
        if kind is kind.KEYWORD_ONLY and not starred:
            parts.append("*")
        starred = starred or kind in (kind.KEYWORD_ONLY, kind.VAR_POSITIONAL)
        annotation = parameter.annotation
        if annotation is not empty:
            text += f": {annotation if isinstance(annotation, str) else shown(annotation)}"
        if dataclasses.is_dataclass(thing) and "factory" in repr(parameter.default):
            text += " = ..."  # made anew for each object
        elif parameter.default is not empty:
            text += f"{' = ' if annotation is not empty else '='}{shown(parameter.default)}"
        parts.append(text)
    back = found.return_annotation
    arrow = "" if inspect.isclass(thing) or back is empty else f" -> {back}"
    line = f"{name}({', '.join(parts)}){arrow}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){arrow}"])


def methods(thing: type) -> list[str]:
    """List a class's own public methods with their first sentences."""
    listed = []
    for name, member in vars(thing).items():
        function = getattr(member, "__func__", member)
        if inspect.isfunction(function) and not name.startswith("_"):
            listed.append(f"- `.{name}()` {first_sentence(function)}")
        elif isinstance(member, property) and not name.startswith("_"):
            listed.append(f"- `.{name}` {first_sentence(member)}")
    return listed


def entry(name: str, thing: Any) -> list[str]:
    """Write the part of the page that is about one name."""
    lines = ["", f"### `{name}`", ""]
    if not callable(thing):
        return [*lines, f"A constant, {type(thing).__name__}."]
    called = inspect.unwrap(thing)
    lines += [first_sentence(called), ""]
    if not (inspect.isclass(called) and issubclass(called, Exception)):
        lines += ["```python", signature(name, called), "```"]
    if found := equations(called):
        lines += ["", "```text", *found, "```"]
    if named := source(called):
        lines += ["", f"Source: {named}"]
    if inspect.isclass(called) and (own := methods(called)):
        lines += ["", *own]
    return lines


def reference() -> str:
    """Write the page of all public names."""
    lines = [
        "# Reference",
        "",
        "Every public name: its call, its first sentence, its equation. `help(name)` in Python "
        "shows arguments, shapes, errors and source. Made by `python docs/build.py` from the "
        "docstrings.",
        "",
        *(f"- [`rlhf_lessons.{floor}`](#{floor}): {what}" for floor, what in FLOORS.items()),
    ]
    for floor, what in FLOORS.items():
        module = importlib.import_module(f"rlhf_lessons.{floor}")
        names = sorted(module.__all__, key=str.casefold)
        lines += ["", f"## {floor}", "", f"`from rlhf_lessons.{floor} import ...`: {what}."]
        for name in names:
            lines += entry(name, getattr(module, name))
    return "\n".join(line.rstrip() for line in lines) + "\n"


def glossary() -> str:
    """Write the glossary as one table a lesson."""

    def cell(text: str) -> str:
        return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")

    lines = [
        "# Glossary · 术语表 · Bảng thuật ngữ",
        "",
        "The words of the course in the order in which the lessons meet them, with their names in "
        "Chinese and Vietnamese. In a notebook, `glossary()` shows the same with a search box. "
        "Made by `python docs/build.py` from `rlhf_lessons/classroom/glossary.csv`.",
    ]
    lesson = 0
    for item in entries():
        if item.lesson != lesson:
            lesson = item.lesson
            lines += [
                "",
                f"## Lesson {lesson}",
                "",
                "| English | 中文 | Tiếng Việt | meaning | equation |",
                "| --- | --- | --- | --- | --- |",
            ]
        cells = (item.term, item.chinese, item.vietnamese, item.sentence)
        code = item.equation.replace("|", "\\|")
        written = f"`{code}`" if code else ""
        lines.append(f"| {' | '.join(map(cell, cells))} | {written} |")
    return "\n".join(lines) + "\n"


PAGES = {"reference.md": reference, "glossary.md": glossary}


def main() -> None:
    """Write both pages and say so."""
    for name, write in PAGES.items():
        (HERE / name).write_text(write(), encoding="utf-8")
        print(f"docs/{name}")


if __name__ == "__main__":
    main()
