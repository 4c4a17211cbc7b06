"""Every public name says what it takes, gives, refuses, and where it comes from."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re

import pytest

FLOORS = ["formulas", "worlds", "models", "training", "evaluation", "classroom"]
SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Source):\s*$", re.MULTILINE)


def public_names() -> list[tuple[str, str, object]]:
    found = []
    for floor in FLOORS:
        module = importlib.import_module(f"rlhf_lessons.{floor}")
        for name in getattr(module, "__all__", []):
            found.append((floor, name, getattr(module, name)))
    return found


def sections(docstring: str) -> dict[str, str]:
    pieces = SECTION.split(docstring)
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


def described(name: str, text: str) -> bool:
    return (
        re.search(rf"^\s+[\w*, `]*\b{re.escape(name)}\b[\w*, `]*( \(.*?\))?:", text, re.M)
        is not None
    )


def missing(floor: str, thing: object) -> list[str]:
    """What the docstring of ``thing`` lacks, as a list of complaints."""
    doc = inspect.getdoc(thing) or ""
    first = doc.strip().split("\n\n")[0].replace("\n", " ")
    complaints = []
    if not first.endswith((".", "?", ":")):
        complaints.append("a first sentence that ends with a full stop")
    found = sections(doc)
    if inspect.isfunction(thing):
        for parameter in inspect.signature(thing).parameters:
            if not described(parameter, found.get("Args", "")):
                complaints.append(f"an entry for the argument {parameter!r} under Args:")
        if not {"Returns", "Yields"} & set(found):
            complaints.append("Returns: or Yields:")
        if floor == "formulas":
            complaints += [f"{need}:" for need in ("Raises", "Source") if need not in found]
            if not re.search(r"[=←≈]", doc):
                complaints.append("an equation")
    elif inspect.isclass(thing) and dataclasses.is_dataclass(thing):
        for field in dataclasses.fields(thing):
            if not field.name.startswith("_") and not described(
                field.name, found.get("Attributes", "") + found.get("Args", "")
            ):
                complaints.append(f"an entry for the field {field.name!r} under Attributes:")
    if inspect.isclass(thing):
        for name, member in vars(thing).items():
            function = getattr(member, "__func__", member)
            public = not name.startswith("_") and inspect.isfunction(function)
            if public and not inspect.getdoc(function):
                complaints.append(f"a docstring for .{name}()")
    return complaints


@pytest.mark.parametrize(
    ("floor", "name", "thing"),
    [
        pytest.param(floor, name, thing, id=f"{floor}.{name}")
        for floor, name, thing in public_names()
        if inspect.isfunction(thing) or inspect.isclass(thing)
    ],
)
def test_public_name_is_documented(floor: str, name: str, thing: object):
    assert missing(floor, thing) == [], f"rlhf_lessons.{floor}.{name} lacks these"


def test_every_floor_offers_names():
    floors = {floor for floor, _, _ in public_names()}
    assert floors == set(FLOORS)


def test_the_check_catches_a_bare_function():
    def bare(x, y):
        """Add"""
        return x + y

    assert len(missing("formulas", bare)) == 7


def test_the_check_catches_an_undocumented_field():
    @dataclasses.dataclass
    class Settings:
        """Settings of a loop.

        Attributes:
            steps: number of updates.
        """

        steps: int = 1
        seed: int = 0

    assert missing("training", Settings) == ["an entry for the field 'seed' under Attributes:"]
