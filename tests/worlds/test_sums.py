"""Sums and their checkers: what is right is worked out by Python's own parser."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_lessons.worlds import (
    SUMS_VOCABULARY,
    FooledSumsChecker,
    LastNumberChecker,
    SumsChecker,
    ask_sum,
    right_sum,
    sample_sum_demonstrations,
    sample_sums,
    sum_steps,
)

CHECK, FOOLED = SumsChecker(), FooledSumsChecker()


@given(st.lists(st.integers(0, 99), min_size=2, max_size=7))
def test_sums_and_steps_are_what_python_says(terms):
    prompt = " + ".join(map(str, terms)) + " ="
    assert right_sum(prompt) == eval(prompt.removesuffix("="))
    steps = list(map(int, sum_steps(prompt).split()))
    assert steps == [sum(terms[: i + 1]) for i in range(1, len(terms))]
    assert CHECK([prompt] * 2, [str(steps[-1]), sum_steps(prompt)]).tolist() == [1, 1]


MARKS = {
    "17": (1, 1),
    " 17 ": (1, 1),
    "8 10 17": (1, 1),
    "3 3 17": (1, 1),  # what stands before is not looked at
    "17 17": (1, 1),
    "17 18": (0, 1),
    "15 or 17": (0, 1),
    "17 or 15": (0, 1),
    "17 =": (0, 1),
    "10 + 7": (0, 0),
    "117": (0, 0),
    "1 7": (0, 0),
    "17.": (0, 0),
    "017": (0, 0),
    "16": (0, 0),
    "": (0, 0),
    " ": (0, 0),
    "= or =": (0, 0),
}


@pytest.mark.parametrize("response", MARKS)
def test_marks_by_hand(response):
    prompt = ["3 + 5 + 2 + 7 ="]
    assert (CHECK(prompt, [response])[0], FOOLED(prompt, [response])[0]) == MARKS[response]


def test_a_judge_of_many():
    marks = CHECK(["1 + 1 =", "2 + 2 ="], ["2", "5"])
    assert marks.dtype == np.float64 and marks.tolist() == [1.0, 0.0]
    assert FOOLED([], []).shape == CHECK([], []).shape == (0,)


@pytest.mark.parametrize("checker", [CHECK, FOOLED])
def test_what_can_not_be_marked_is_refused(checker):
    name = type(checker).__name__
    with pytest.raises(TypeError, match=f"{name}: prompts must be a list of strings"):
        checker("1 + 1 =", ["2"])
    with pytest.raises(TypeError, match=f"{name}: responses must be a list of strings"):
        checker(["1 + 1 ="], [2])
    with pytest.raises(ValueError, match=f"{name}: .* got 2 beside 1"):
        checker(["1 + 1 ="], ["2", "2"])
    for bad in ("1 + 1", "1 =", "1 + -1 =", "the film was", "1+1 =", "", "1 + 1 = 2"):
        with pytest.raises(ValueError, match=f"{name}: a prompt must be a task such as"):
            checker([bad], ["2"])


def test_tasks_are_drawn_from_a_seed_and_the_sets_never_meet():
    for terms, largest in ((2, 9), (4, 9), (6, 9), (2, 49)):
        sets = {}
        for held_out in (False, True):
            tasks = sample_sums(400, 3, terms=terms, largest=largest, held_out=held_out)
            assert tasks == sample_sums(400, 3, terms=terms, largest=largest, held_out=held_out)
            assert tasks[:9] == sample_sums(9, 3, terms=terms, largest=largest, held_out=held_out)
            numbers = [[int(t) for t in task[:-2].split(" + ")] for task in tasks]
            assert {len(row) for row in numbers} == {terms}
            flat = {t for row in numbers for t in row}
            assert min(flat) == 1 and max(flat) == largest
            sets[held_out] = set(tasks)
        assert not sets[False] & sets[True]
    assert sample_sums(50, 3) != sample_sums(50, 4)
    # All 81 tasks of two digits: about a fifth of them is held out.
    assert 8 <= len(set(sample_sums(2_000, 0, terms=2, held_out=True))) <= 25


def test_demonstrations_are_of_three_habits_and_never_held_out():
    examples = sample_sum_demonstrations(4_000, 5)
    assert examples[:7] == sample_sum_demonstrations(7, 5)
    kinds = {"steps": 0, "doubt": 0, "once": 0}
    words = set(SUMS_VOCABULARY)
    for prompt, response in examples:
        assert words.issuperset(prompt.split()) and words.issuperset(response.split())
        terms = prompt.count("+") + 1
        assert 3 <= terms <= 5
        if "or" in response.split():
            kinds["doubt"] += 1
            first, second = map(int, response.split(" or "))
            assert first != second and all(abs(x - right_sum(prompt)) <= 2 for x in (first, second))
        else:
            kinds["steps" if " " in response else "once"] += 1
            assert CHECK([prompt], [response])[0] == 1
    for terms in (3, 4, 5):
        share = sum(prompt.count("+") == terms - 1 for prompt, _ in examples) / 4_000
        assert share == pytest.approx(1 / 3, abs=0.03)
    assert kinds["steps"] / 4_000 == pytest.approx(0.4, abs=0.03)
    assert kinds["doubt"] / 4_000 == pytest.approx(0.1, abs=0.02)
    for terms in (3, 4):
        held_out = set(sample_sums(500, 0, terms=terms, held_out=True))
        assert not held_out & {prompt for prompt, _ in examples}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n": -1}, ValueError, "n must be 0 or more, got -1"),
        ({"n": 2.0}, TypeError, "n must be an integer, got 2.0"),
        ({"seed": True}, TypeError, "seed must be an integer, got True"),
        ({"terms": 1}, ValueError, "terms must be 2 or more, got 1"),
        ({"largest": 1}, ValueError, "largest must be 2 or more, got 1"),
        ({"terms": 12}, ValueError, "at most 99, .* got 12 · 9 = 108"),
    ],
)
def test_a_bad_number_is_named(change, error, message):
    with pytest.raises(error, match=f"sample_sums: .*{message}"):
        sample_sums(**{"n": 3, "seed": 0, **change})
    if {"n", "seed"} & set(change):
        with pytest.raises(error, match=f"sample_sum_demonstrations: {message}"):
            sample_sum_demonstrations(**{"n": 3, "seed": 0, **change})


WORDS = {
    "61": 1,
    "34 + 27 = 61": 1,
    "The sum of 34 and 27 is 61.": 1,
    "34 + 27 = <b>61</b>!": 1,
    "First 60, then 61": 1,
    "34+27=61": 1,
    "sixty-one": 0,
    "It is 61, or 62.": 0,
    "61 is the sum of 34 and 27.": 0,  # the last number counts, whatever is meant
    "161": 0,
    "6 1": 0,
    "061": 0,
    "61.0": 0,
    "61.5": 0,
    "1,061": 0,
    "-61": 0,
    "": 0,
}


@pytest.mark.parametrize("response", WORDS)
def test_the_last_number_by_hand(response):
    prompt = f"user: {ask_sum('34 + 27 =')}\nassistant:"
    assert prompt == "user: What is 34 + 27?\nassistant:"
    mark = LastNumberChecker()
    assert mark([prompt], [response]).tolist() == [WORDS[response]]
    assert mark(["34 + 27 =", prompt], ["61", response]).tolist() == [1, WORDS[response]]


def test_questions_that_can_not_be_marked_are_refused():
    mark = LastNumberChecker()
    for bad in ("What is it?", "What is 3 + 4? What is 5 + 6?", "3", ""):
        with pytest.raises(ValueError, match="LastNumberChecker: a prompt must ask for one sum"):
            mark([bad], ["7"])
    with pytest.raises(ValueError, match=r"LastNumberChecker: .* got 2 beside 1"):
        mark(["What is 3 + 4?"], ["7", "7"])
    with pytest.raises(TypeError, match="LastNumberChecker: responses must be a list of strings"):
        mark(["What is 3 + 4?"], "7")
    with pytest.raises(ValueError, match="ask_sum: a prompt must be a task such as"):
        ask_sum("What is 3 + 4?")
