"""Options of a command from the fields of its settings: what each means is said once, there."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
from typing import Any

__all__: list[str] = []


def add_field(
    parser: argparse.ArgumentParser,
    settings: type,
    field: dataclasses.Field,
    more: str = "",
    **kind: Any,
) -> None:
    """Add the option of one field, with what the docstring of the settings says of it.

    Args:
        parser: of the command.
        settings: the dataclass, whose docstring explains each field under ``Attributes:``.
        field: of it, with a default.
        more: what else to say.
        **kind: what ``add_argument`` is told beside the name and the help; a field of True and
            False becomes a switch, any other takes a value of its type.
    """
    described = inspect.getdoc(settings).split("Attributes:\n")[1]
    explained = dict(re.findall(r"^    (\w+): ((?:.|\n     )*)", described, re.MULTILINE))
    text = " ".join(explained[field.name].split())
    if more:
        text = f"{text.rstrip('.')}; {more}"
    if isinstance(field.default, bool):
        kind["action"] = argparse.BooleanOptionalAction
    elif "choices" not in kind:
        kind |= {"type": type(field.default), "metavar": field.name.upper()}
    parser.add_argument(f"--{field.name.replace('_', '-')}", help=text, **kind)
