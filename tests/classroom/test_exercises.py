"""Checks: what passes, what each wrong result is told, and what a check leaves untouched."""

from __future__ import annotations

import random
import sys
import types

import numpy as np
import pytest
import torch

from rlhf_lessons.classroom import exercises
from rlhf_lessons.classroom.exercises import (
    Answer,
    CheckFailed,
    Exercise,
    Mistake,
    NotAttempted,
    check,
    compare,
    require,
    yours,
)


def running_total(rewards):
    return np.cumsum(rewards)


def library_total(rewards):
    return np.cumsum(rewards)


@pytest.fixture
def exercise(monkeypatch):
    """Exercise 92.1, known to ``check``: the running total, in two parts of 1 and 2 points."""
    made = Exercise(
        "92.1", "Running total", function="running_total", reference=lambda: library_total
    )

    @made.part("three numbers")
    def _(answer, draw):
        x = draw.normal(size=3)
        compare("the totals", answer(x), np.cumsum(x), mistakes={"You added nothing up": x})

    @made.part("one number", points=2)
    def _(answer, draw):
        x = draw.normal(size=1)
        compare("the total", answer(x), x)

    module = types.ModuleType("rlhf_lessons.classroom.checks.lesson_92")
    module.EXERCISES = [made]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(exercises, "_passed", {})
    return made


def hint(got, expected, **options) -> str:
    with pytest.raises(Mistake) as caught:
        compare("it", got, expected, **options)
    return str(caught.value)


# check and yours --------------------------------------------------------------------------------


def test_a_right_answer_prints_one_stable_line(exercise, capsys):
    assert check("92.1", running_total) is None
    check("92.1", running_total)
    assert capsys.readouterr().out == "92.1 passed (3 points)\n" * 2


def test_a_wrong_answer_gets_partial_credit_a_hint_and_a_seed(exercise, capsys):
    with pytest.raises(CheckFailed) as caught:
        check("92.1", lambda x: x.copy(), seed=5)
    text = str(caught.value)
    assert "2 of 3 points" in text
    assert "✗ three numbers (0 of 1 point)" in text and "✓ one number (2 of 2 points)" in text
    assert "You added nothing up" in text
    assert "seed=5" in text
    assert caught.value.outcome.points == 2
    assert capsys.readouterr().out == "92.1: 2 of 3 points\n"


def test_the_seed_draws_the_same_inputs_again(exercise):
    def echo(x):
        seen.append(x.copy())
        return running_total(x)

    seen: list[np.ndarray] = []
    for seed in (7, 7, 8):
        exercise.examine(echo, seed)
    assert np.array_equal(seen[0], seen[2])
    assert not np.array_equal(seen[0], seen[4])


def test_without_a_seed_inputs_differ_between_runs(exercise):
    seeds = {exercise.examine(running_total).seed for _ in range(4)}
    assert len(seeds) > 1


def stub(x):
    """Return the running total."""
    raise NotImplementedError("exercise 92.1")


def empty(x):
    """Return the running total."""


def dots(x): ...


@pytest.mark.parametrize("answer", [stub, empty, dots])
def test_a_stub_is_to_do(exercise, answer, capsys):
    with pytest.raises(NotAttempted, match="92.1 .*still to do"):
        check("92.1", answer)
    assert capsys.readouterr().out == "92.1 to do (3 points)\n"


def test_a_case_left_open_is_a_failure_not_to_do(exercise):
    def half(x):
        if len(x) == 1:
            raise NotImplementedError
        return np.cumsum(x)

    outcome = exercise.examine(half)
    assert (outcome.status, outcome.points) == ("failed", 1)
    assert "still raises NotImplementedError" in outcome.hints[0]


def test_a_missing_return_is_named(exercise):
    def forgets(x):
        np.cumsum(x)

    outcome = exercise.examine(forgets)
    assert outcome.status == "failed"
    assert "returned nothing" in outcome.hints[0]


def test_an_exception_in_the_answer_is_told_with_its_line(exercise):
    def breaks(x):
        return x[99]  # beyond the end

    text = exercise.examine(breaks).hints[0]
    assert "your function raised IndexError" in text
    assert "return x[99]  # beyond the end" in text
    assert "with x = [" in text


def test_leaving_the_program_is_a_failure(exercise):
    def leaves(x):
        raise SystemExit

    assert exercise.examine(leaves).status == "failed"


@pytest.mark.parametrize("answer", [3, None, np.ones(3)])
def test_something_that_is_no_function_is_told(exercise, answer):
    assert "must be a function" in exercise.examine(answer).hints[0]


def test_changing_an_input_in_place_is_a_mistake(exercise):
    def in_place(x):
        x += 1
        return np.cumsum(x - 1)

    assert "changed its input `x`" in exercise.examine(in_place).hints[0]


def test_changing_an_input_may_be_asked_for():
    allowed = Exercise("92.2", "", function="f", reference=lambda: None, mutates=("table",))

    @allowed.part("one")
    def _(answer, draw):
        table = {"s": 1.0}
        answer(table, [1])
        compare("the table", table, {"s": 2.0})

    def update(table, other):
        table["s"] += 1

    def wrong(table, other):
        table["s"] += 1
        other.append(3)

    assert allowed.examine(update).status == "passed"
    assert "changed its input `other`" in allowed.examine(wrong).hints[0]


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor([1.0, float("nan")]),
        torch.tensor([True]),
        np.array([np.nan, 1]),
        [np.ones(2), {"a": torch.ones(1)}],
        (1, "two", {3}),
        np.array([[1], None], dtype=object),
    ],
)
def test_inputs_left_alone_are_seen_as_unchanged(value):
    Answer(lambda x: x)(value)


def test_a_check_leaves_the_random_states_as_they_were(exercise):
    def uses_randomness(x):
        random.random(), np.random.rand(), torch.rand(1)
        return np.cumsum(x)

    def states():
        return random.random(), np.random.rand(), torch.rand(1).item()

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = states()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert exercise.examine(uses_randomness).status == "passed"
    assert states() == expected


def test_yours_gives_back_the_function_that_passed(exercise, capsys):
    check("92.1", running_total)
    capsys.readouterr()
    assert yours("92.1", running_total) is running_total
    assert capsys.readouterr().out == ""


def test_yours_gives_the_packages_with_a_note_otherwise(exercise, capsys):
    assert yours("92.1", running_total) is library_total
    assert "92.1 has not passed its check" in capsys.readouterr().out
    check("92.1", running_total)
    with pytest.raises(CheckFailed):
        check("92.1", lambda x: -x)
    assert yours("92.1", running_total) is library_total

    def another(x):
        return running_total(x)

    check("92.1", running_total)
    assert yours("92.1", another) is library_total  # written anew since the check


def test_the_function_that_yours_lends_does_not_pass_for_the_learners(
    exercise, monkeypatch, capsys
):
    monkeypatch.setattr(library_total, "__module__", "rlhf_lessons.formulas.credit")
    lent = yours("92.1", running_total)
    with pytest.raises(CheckFailed, match="package's function, which `yours` lends") as caught:
        check("92.1", lent)
    assert caught.value.outcome.points == 0
    assert exercise.examine(lent).status == "passed"


@pytest.mark.parametrize("number", ["1", "one.two", "1.2.3", 1, ""])
def test_an_exercise_has_two_numbers(number):
    with pytest.raises(ValueError, match="named like"):
        check(number, running_total)


def test_unknown_lesson_and_exercise(exercise):
    with pytest.raises(ValueError, match="no lesson 97"):
        check("97.1", running_total)
    with pytest.raises(ValueError, match=r"lesson 92 has exercises 92.1; got '92.9'"):
        check("92.9", running_total)


def test_parts_have_points_and_names_of_their_own(exercise):
    with pytest.raises(ValueError, match="at least 1"):
        exercise.part("free", points=0)
    with pytest.raises(ValueError, match="two parts named"):
        exercise.part("one number")


def test_a_notebook_shows_the_message_without_the_traceback(exercise):
    with pytest.raises(CheckFailed) as caught:
        check("92.1", lambda x: -x)
    shown = caught.value._render_traceback_()
    assert shown[0].startswith("CheckFailed: exercise 92.1")
    assert not any("Traceback" in line or "exercises.py" in line for line in shown)


# compare ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (1.0 + 1e-8, 1.0),
        (np.float32(0.5), 0.5),
        (torch.tensor(0.5), 0.5),
        (np.array(2), 2),
        (2.0, 2),
        (True, True),
        (np.bool_(False), False),
        (float("inf"), float("inf")),
        (float("nan"), float("nan")),
        ("a", "a"),
        (None, None),
        ([1, 2], (1, 2)),
        (np.array([1, 2]), [1, 2]),
        ((), []),
        ({1, 2}, frozenset({2, 1})),
        ({"a": [1.0]}, {"a": [1.0]}),
        (np.array([1.0, -np.inf]), np.array([1.0, -np.inf])),
        (np.float32([1]), np.array([1.0])),
        (torch.ones(2, 3), torch.ones(2, 3)),
        (torch.tensor([1, 2]), torch.tensor([1, 2])),
        (0.5, np.array(0.5)),
        (np.zeros((0, 3)), np.zeros((0, 3))),
    ],
)
def test_equal_things_pass(got, expected):
    compare("it", got, expected)


@pytest.mark.parametrize(
    ("got", "expected", "fragment"),
    [
        (1.001, 1.0, "not the right number"),
        (float("nan"), 1.0, "NaN"),
        (float("inf"), 1.0, "infinite"),
        (1.0, float("inf"), "finite, and should not be"),
        (1, True, "must be True or False, got a whole number"),
        (True, 1.0, "must be a number, got True or False"),
        (2.5, 2, "not the right number"),
        ([1.0], 1.0, "must be a number, got a list"),
        (np.ones(2), 1.0, "one number, got a NumPy array of shape (2,)"),
        (None, 1.0, "returned nothing"),
        (..., 1.0, "still returns `...`"),
        (3, "a", "must be text (str), got a whole number"),
        ("12", ["1", "2"], "must be a list, got text"),
        ([1], [1, 2], "must have 2 items, got 1"),
        ([1, 3], [1, 2], "item 1: not the right number"),
        ([1, 2], {1, 2}, "must be a set, got a list"),
        ({1}, {1, 2}, "lacks [2]"),
        ({1, 2, 3}, {1, 2}, "has [3] that does not belong"),
        ([1], {"a": 1}, "must be a dict"),
        ({"b": 1}, {"a": 1}, "wrong keys: lacks ['a'] and has ['b']"),
        ({"a": 2}, {"a": 1}, "value at 'a': not the right number"),
        ([1.0], np.ones(1), "must be a NumPy array of shape (1,), got a list"),
        (np.ones(2), torch.ones(2), "must be a torch tensor of shape (2,), got a NumPy array"),
        (torch.ones(2), np.ones(2), "must be a NumPy array of shape (2,), got a torch tensor"),
        (np.ones((2, 1)), np.ones(2), "must have shape (2,), got (2, 1)"),
        (torch.ones(2), torch.ones(2).double(), "dtype torch.float64, got torch.float32"),
        (np.ones(2, int), np.ones(2), "must hold numbers with a point"),
        (np.array([1, 5.0]), np.array([1, 2.0]), "wrong at 1"),
        (np.zeros(9), np.arange(9.0), "wrong at 1, 2, 3 and 5 more"),
        (torch.zeros(2, 2), torch.eye(2), "wrong at (0, 0), (1, 1)"),
        (np.array([np.nan, 2]), np.array([1.0, 2]), "NaN (not a number) at 0"),
        (np.array([np.inf, 2]), np.array([1.0, 2]), "infinite at 0"),
        (np.array([1.0, 2]), np.array([-np.inf, 2]), "wrong at 0"),
        ((i for i in [1]), [1], "must be a list, got a generator"),
        (np.array(["a"]), np.ones(1), "must hold numbers"),
    ],
)
def test_each_difference_is_named(got, expected, fragment):
    assert fragment in hint(got, expected)


def test_the_hint_shows_what_was_expected_and_what_came():
    text = hint(np.array([1.0, 2.0]), np.array([1.0, 3.0]))
    assert "expected [1., 3.]" in text and "got      [1., 2.]" in text


def test_a_large_array_is_shown_by_its_corner_and_shape():
    text = hint(np.zeros((50, 50)), np.ones((50, 50)))
    assert "(shape (50, 50))" in text
    assert len(text) < 1500


def test_a_known_mistake_is_named_by_its_value():
    mistakes = {"the mean": 2.0, "the sign": lambda: -6.0, "no difference here": 6.0}
    assert hint(2.0, 6.0, mistakes=mistakes).startswith("it: the mean")
    assert hint(-6.0, 6.0, mistakes=mistakes).startswith("it: the sign")
    assert hint(9.0, 6.0, mistakes=mistakes).startswith("it: not the right number")
    compare("it", 6.0, 6.0, mistakes=mistakes)


def test_a_mistake_in_shape_is_named_before_the_shape():
    text = hint(np.array(2.0), np.ones(3), mistakes={"You summed too early": np.array(2.0)})
    assert "You summed too early" in text


def test_a_tolerance_is_kept():
    compare("it", 1.0 + 9e-7, 1.0, rtol=0)
    assert "not the right" in hint(1.0 + 2e-6, 1.0, rtol=0)
    compare("it", 1.05, 1.0, atol=0.1)


def test_precision_can_be_left_open():
    compare("it", torch.ones(2), torch.ones(2).double(), dtype=False)


def test_gradients():
    learned = torch.ones(2, requires_grad=True) * 1
    compare("it", learned, torch.ones(2), gradient=True)
    compare("it", learned, torch.ones(2))
    compare("it", learned.detach(), torch.ones(2), gradient=False)
    assert "carries no gradient" in hint(learned.detach(), torch.ones(2), gradient=True)
    assert "call .detach()" in hint(learned, torch.ones(2), gradient=False)


def test_an_object_that_equals_everything_does_not_pass():
    class Agreeable:
        def __eq__(self, other):
            return True

    for expected in (1.0, [1], {1}, {"a": 1}, "a", True, np.ones(1), torch.ones(1)):
        assert hint(Agreeable(), expected)


def test_require():
    require(True, "never read")
    with pytest.raises(Mistake, match="must add up to 1"):
        require(np.bool_(False), "must add up to 1")


def test_a_result_that_breaks_the_check_is_told(exercise):
    broken = Exercise("92.3", "", function="f", reference=lambda: None)

    @broken.part("one")
    def _(answer, draw):
        compare("it", answer(3).shape, (1,))

    outcome = broken.examine(lambda x: [x])
    assert outcome.status == "failed"
    assert "could not use what your function gave" in outcome.hints[0]
    assert "with x = 3" in outcome.hints[0]
