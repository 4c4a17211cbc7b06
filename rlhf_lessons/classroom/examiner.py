"""The check as the ``grade`` command runs it, inside the learner's kernel.

``nbval_marks`` reads this file afresh for every check cell, so that a notebook which has replaced
``check``, ``compare`` or a package's function is told so instead of being believed. Left out on
purpose: defence against code that sets out to attack the grader. The learner's code and the check
share one process, so a program that rewrites IPython's display or this file at run time can claim
any score. The points are the learner's own; the guard keeps accidents from counting.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable

# What a check computes with besides the package. A function of the notebook put in one of these
# would change what is right.
_TRUSTED = ("builtins", "math", "random", "numpy", "torch", "torch.nn.functional")


class PackageReplaced(Exception):
    """The notebook has put a function of its own into a module that the checks rely on."""


def examine(number: str, function: Callable, proof: str) -> None:
    """Examine an exercise with the package as released, and show the outcome with its proof.

    Args:
        number: the exercise, such as ``"1.2"``.
        function: the learner's function.
        proof: a word made for this one cell; an outcome without it does not count.

    Raises:
        PackageReplaced: when the notebook replaced something that the checks rely on.
    """
    replaced = _replaced()
    if replaced:
        raise PackageReplaced(
            f"this notebook replaced {', '.join(replaced)} by its own: checks need what was "
            f"released, so take that out"
        )
    used = importlib.import_module("rlhf_lessons.classroom.exercises")
    package = sys.modules["rlhf_lessons.classroom"]
    checks = "rlhf_lessons.classroom.checks"
    held = {name: sys.modules[name] for name in list(sys.modules) if name.startswith(checks)}
    held[used.__name__] = used
    for name in held:
        del sys.modules[name]
    attributes = {name: vars(package).get(name) for name in ("exercises", "checks")}
    try:
        fresh = importlib.import_module(used.__name__)
        exercise = fresh.find_exercise(number)
        outcome = fresh.examine_own(exercise, function)
        fresh.report(exercise, outcome, proof)
    finally:
        for name in list(sys.modules):
            if name.startswith(checks):
                del sys.modules[name]
        sys.modules.update(held)
        for name, module in attributes.items():
            if module is not None:
                setattr(package, name, module)
    # ``yours`` in the cells that follow belongs to the notebook's own copy of the module.
    if outcome.status == "passed":
        used._passed[number] = function
    else:
        used._passed.pop(number, None)


def _replaced() -> list[str]:
    """Names in the package and in trusted modules that hold a function or class of the notebook."""
    found: dict[int, str] = {}  # by what was put in: a function has one name, however often seen
    for name, module in sorted(sys.modules.items()):
        ours = name.split(".")[0] == "rlhf_lessons"
        if not isinstance(module, types.ModuleType) or not (ours or name in _TRUSTED):
            continue
        for attribute, value in list(vars(module).items()):
            if attribute.startswith("_"):
                continue
            if _of_notebook(value):
                found[id(value)] = f"{name}.{attribute}"
            elif isinstance(value, type) and value.__module__.startswith("rlhf_lessons"):
                for key, item in list(vars(value).items()):
                    if _of_notebook(item):
                        found[id(item)] = f"{value.__module__}.{attribute}.{key}"
    return sorted(found.values())


def _of_notebook(value: object) -> bool:
    code_or_class = isinstance(value, (types.FunctionType, type))
    return code_or_class and getattr(value, "__module__", None) == "__main__"
