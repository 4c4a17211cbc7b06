"""The checks are checked: each typical mistake is refused with its own hint, right answers pass.

``wrong_answers/NN.py`` holds, for each exercise of lesson NN, ``WRONG[number]``: (name, function,
a fragment of the hint that it must get), and ``RIGHT[number]``: (name, function).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections import Counter
from pathlib import Path

import pytest

from rlhf_lessons.classroom.exercises import find_exercise

SEEDS = (0, 1, 2)


def load(path: Path):
    spec = importlib.util.spec_from_file_location(f"wrong_answers_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LESSONS = {
    path.stem: load(path)
    for path in sorted((Path(__file__).parent / "wrong_answers").glob("[0-9][0-9].py"))
}


def cases(kind: str) -> list:
    found = []
    for module in LESSONS.values():
        for number, entries in getattr(module, kind).items():
            for entry in entries:
                found.append(pytest.param(number, *entry[1:], id=f"{number} {entry[0]}"))
    return found


@pytest.mark.parametrize(("number", "answer", "fragment"), cases("WRONG"))
def test_a_wrong_answer_is_refused_with_its_own_hint(number, answer, fragment):
    exercise = find_exercise(number)
    for seed in SEEDS:
        outcome = exercise.examine(answer, seed)
        assert outcome.status == "failed", f"accepted with seed {seed}"
        assert outcome.points < outcome.total
        hints = "\n".join(outcome.hints)
        assert fragment in hints, f"with seed {seed} the hints are:\n{hints}"


@pytest.mark.parametrize(("number", "answer"), cases("RIGHT"))
def test_a_right_answer_is_accepted(number, answer):
    exercise = find_exercise(number)
    for seed in SEEDS:
        outcome = exercise.examine(answer, seed)
        assert outcome.status == "passed", "\n".join(outcome.hints)


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_packages_own_function_passes(lesson):
    checks = importlib.import_module(f"rlhf_lessons.classroom.checks.lesson_{lesson}")
    for exercise in checks.EXERCISES:
        for seed in SEEDS:
            outcome = exercise.examine(exercise.reference(), seed)
            assert outcome.status == "passed", f"{exercise.number}: {outcome.hints}"


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_exercise_has_four_wrong_and_two_right_answers(lesson):
    checks = importlib.import_module(f"rlhf_lessons.classroom.checks.lesson_{lesson}")
    module = LESSONS[lesson]
    numbers = [exercise.number for exercise in checks.EXERCISES]
    assert list(module.WRONG) == numbers and list(module.RIGHT) == numbers
    for number in numbers:
        assert len(module.WRONG[number]) >= 4, number
        assert len(module.RIGHT[number]) >= 2, number
        for entries in (module.WRONG[number], module.RIGHT[number]):
            assert max(Counter(entry[0] for entry in entries).values()) == 1
            assert len({entry[1] for entry in entries}) == len(entries)


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_hints_tell_mistakes_apart(lesson):
    """Four fragments of their own an exercise; two forms of one mistake may share theirs."""
    for number, entries in LESSONS[lesson].WRONG.items():
        fragments = {entry[2] for entry in entries}
        assert len(fragments) >= 4, number
        assert min(map(len, fragments)) >= 6, number
