"""What a setting may be, said once for all: whole numbers, strengths, shares, switches, choices.

Settings are a frozen dataclass that names the rule of each of its fields when it is made, so that a
wrong one is refused by its name, before anything is loaded or trained. What was made with settings
keeps them beside it, and goes on with the same ones alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__: list[str] = []


@dataclass(frozen=True)
class Rule:
    """What a value must be.

    Attributes:
        expected: in words, to follow "must be".
        holds: value -> whether it is.
    """

    expected: str
    holds: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def whole(least: int) -> Rule:
    """Make the rule of a count."""
    return Rule(
        f"a whole number ≥ {least}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least,
    )


def one_of(names: Iterable[str]) -> Rule:
    """Make the rule of a choice."""
    names = tuple(names)
    return Rule(f"one of {', '.join(names)}", lambda value: value in names)


def or_none(rule: Rule) -> Rule:
    """Make the rule of a setting that may be left out."""
    return Rule(f"None or {rule.expected}", lambda value: value is None or rule.holds(value))


NUMBER = Rule("a finite number", _is_number)
ABOVE_0 = Rule("a finite number > 0", lambda value: _is_number(value) and value > 0)
FROM_0 = Rule("a finite number ≥ 0", lambda value: _is_number(value) and value >= 0)
SHARE = Rule("a share in [0, 1)", lambda value: _is_number(value) and 0 <= value < 1)
UNIT = Rule("in [0, 1]", lambda value: _is_number(value) and 0 <= value <= 1)
SWITCH = Rule("True or False", lambda value: isinstance(value, bool))

SUPERVISED = {
    "steps": whole(1),
    "batch_size": whole(1),
    "learning_rate": ABOVE_0,
    "warmup": SHARE,
    "weight_decay": FROM_0,
    "max_gradient_norm": ABOVE_0,
    "evaluate_every": whole(1),
    "save_every": whole(1),
    "accumulate": whole(1),
    "bf16": SWITCH,
    "seed": whole(0),
}
"""The settings that the loops over fixed examples or pairs share."""


def check_settings(settings: Any, **rules: Rule) -> None:
    """Refuse settings that break a rule.

    Args:
        settings: the dataclass.
        **rules: name of a field -> what it must be.

    Raises:
        ValueError: for the first field that is something else; it names class, field and value.
    """
    for name, rule in rules.items():
        value = getattr(settings, name)
        if not rule.holds(value):
            raise ValueError(
                f"{type(settings).__name__}: {name} must be {rule.expected}, got {value!r}"
            )


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Compare the settings of something that was begun with those that would go on with it.

    Args:
        then: settings as JSON gave them back.
        now: today's; a tuple counts as the list that JSON makes of it.

    Returns:
        "name (value then, now value now)" for each that differs or is in one of them alone.
    """
    now = json.loads(json.dumps(now))
    return [
        f"{name} ({then.get(name, 'none')}, now {now.get(name, 'none')})"
        for name in {**now, **then}
        if name not in then or name not in now or then[name] != now[name]
    ]
