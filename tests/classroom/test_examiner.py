"""The examiner trusts only what was released, and puts the notebook's modules back."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import small_course

import rlhf_lessons.classroom
from rlhf_lessons.classroom import examiner, exercises


@pytest.fixture
def examine(tmp_path, monkeypatch, capsys):
    """The examiner's function as the grader gets it, with lesson 91 to examine."""
    (tmp_path / "lesson_91.py").write_text(small_course.CHECKS)
    small_course.allow_checks(tmp_path, monkeypatch)
    monkeypatch.setattr(exercises, "_passed", {})
    return runpy.run_path(str(Path(examiner.__file__)))["examine"]


def of_notebook(function):
    """A function as a notebook defines it."""
    function.__module__ = "__main__"
    return function


def right(x):
    return 2 * x


def test_an_outcome_is_shown_and_yours_hears_of_it(examine, capsys):
    examine("91.1", right, "secret")
    assert capsys.readouterr().out == "91.1 passed (3 points)\n"
    assert exercises.yours("91.1", right) is right
    examine("91.1", lambda x: -x, "secret")
    assert exercises.yours("91.1", right) is not right


def test_the_notebooks_modules_are_put_back(examine):
    exercises.find_exercise("91.1")
    names = ["rlhf_lessons.classroom.exercises", "rlhf_lessons.classroom.checks.lesson_91"]
    before = [sys.modules[name] for name in names]
    examine("91.1", right, "secret")
    with pytest.raises(ValueError, match=r"got '91.9'"):
        examine("91.9", right, "secret")
    assert [sys.modules[name] for name in names] == before
    assert rlhf_lessons.classroom.exercises is before[0]


def test_a_changed_module_is_not_what_examines(examine, monkeypatch, capsys):
    monkeypatch.setattr(exercises, "compare", lambda *a, **k: None)
    monkeypatch.setattr(exercises, "_difference", lambda *a, **k: None)
    examine("91.1", lambda x: x * x, "secret")
    assert capsys.readouterr().out == "91.1: 0 of 3 points\n"


@pytest.mark.parametrize(
    ("owner", "name", "said"),
    [
        (exercises, "compare", "rlhf_lessons.classroom.exercises.compare"),
        (exercises.Exercise, "examine", "rlhf_lessons.classroom.exercises.Exercise.examine"),
        (np, "allclose", "numpy.allclose"),
    ],
)
def test_a_function_of_the_notebook_in_a_trusted_place_is_named(
    examine, monkeypatch, capsys, owner, name, said
):
    monkeypatch.setattr(owner, name, of_notebook(lambda *a, **k: None))
    with pytest.raises(Exception, match="take that out") as caught:
        examine("91.1", right, "secret")
    assert said in str(caught.value)
    assert type(caught.value).__name__ == "PackageReplaced"
    assert "passed" not in capsys.readouterr().out


def test_an_untouched_process_has_nothing_replaced():
    assert examiner._replaced() == []
