"""A world with a checker: short sums, of which a program knows whether an answer is right.

    task          3 + 5 + 2 + 7 =
    step by step  8 10 17            right: the last number is the sum
    at once       17                 right
    in doubt      15 or 17           wrong: one of two is no answer

Nobody has to be asked which response is better, so nothing can be learned that only pleases. To add
four numbers in one step is hard for a small model, to add two is not; whether it writes down the
sums on the way is a habit, which the demonstrations leave open: their authors write in all three
ways.

A model that was trained to chat is asked in words, ``ask_sum``, and answers in words of its own.
What counts is the last number that it names (``LastNumberChecker``).

How hard a task is, ``terms`` and ``largest`` say. Whether it is held out, a hash of its text
decides: tasks to train on and tasks to measure on never meet, whatever is drawn.

Left out on purpose: subtraction, and marks for single steps (the checker sees the answer).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

__all__ = [
    "SUMS_VOCABULARY",
    "FooledSumsChecker",
    "LastNumberChecker",
    "SumsChecker",
    "ask_sum",
    "right_sum",
    "sample_sum_demonstrations",
    "sample_sums",
    "sum_steps",
]

_LARGEST = 99

SUMS_VOCABULARY: tuple[str, ...] = ("+", "=", "or", *map(str, range(_LARGEST + 1)))
"""The words of the world: two signs, a word of doubt, and the numbers from 0 to 99."""

_TASK = re.compile(r"[0-9]+( \+ [0-9]+)+ =")
_SUM_IN_TEXT = re.compile(r"[0-9]+(?: \+ [0-9]+)+")
_NUMBER = re.compile(r"-?[0-9]+(?:[.,][0-9]+)*")
_STEPS, _DOUBT = 0.4, 0.1  # shares of the demonstrations; the others give the answer at once
_DEMONSTRATED = (3, 5)  # terms


def right_sum(prompt: str) -> int:
    """Add up a task.

    Args:
        prompt: A task such as ``"3 + 5 + 2 ="``.

    Returns:
        The sum.

    Raises:
        ValueError: If it is no task.
    """
    return sum(_terms("right_sum", prompt))


def sum_steps(prompt: str) -> str:
    """Work out a task from left to right, with the sum so far after each number but the first.

    Args:
        prompt: A task such as ``"3 + 5 + 2 ="``.

    Returns:
        The right response step by step, such as ``"8 10"``.

    Raises:
        ValueError: If it is no task.
    """
    return " ".join(map(str, list(accumulate(_terms("sum_steps", prompt)))[1:]))


def ask_sum(task: str) -> str:
    """Ask for a sum in words.

    Args:
        task: A task such as ``"3 + 5 + 2 ="``.

    Returns:
        The question, such as ``"What is 3 + 5 + 2?"``.

    Raises:
        ValueError: If it is no task.
    """
    return f"What is {' + '.join(map(str, _terms('ask_sum', task)))}?"


def sample_sums(
    n: int, seed: int, *, terms: int = 4, largest: int = 9, held_out: bool = False
) -> list[str]:
    """Draw tasks, from those to train on or from those to measure on.

    A fifth of all tasks is held out. The demonstrations hold none of them.

    Args:
        n: How many tasks; with the same seed, fewer tasks are the first of more. One can come
            twice.
        seed: Non-negative integer; the same seed gives the same tasks in every process.
        terms: Numbers to add, 2 or more.
        largest: Each of them is drawn from 1 to this; the sum must be a word of the world, so
            ``terms`` · ``largest`` is 99 at most.
        held_out: Whether the tasks come from those to measure on.

    Returns:
        A list of ``n`` prompts such as ``"3 + 5 + 2 + 7 ="``.

    Raises:
        TypeError: If a number is not an integer.
        ValueError: If a number is out of its range.
    """
    for name, value, least in (
        ("n", n, 0), ("seed", seed, 0), ("terms", terms, 2), ("largest", largest, 2),
    ):  # fmt: skip
        _check_whole("sample_sums", name, value, least)
    if terms * largest > _LARGEST:
        raise ValueError(
            f"sample_sums: terms · largest must be at most {_LARGEST}, the largest number of the "
            f"world, got {terms} · {largest} = {terms * largest}"
        )
    dice = np.random.default_rng([int(seed), 0])
    return [_draw(dice, terms, largest, held_out) for _ in range(n)]


def sample_sum_demonstrations(n: int, seed: int) -> list[tuple[str, str]]:
    """Write what people of different habits would answer: the examples of fine-tuning.

    Tasks of 3 to 5 numbers, none of them held out. 4 in 10 responses go step by step and 5 in 10
    give the sum at once, all of them right. 1 in 10 is in doubt between two numbers near the sum,
    of which at most one is right.

    Args:
        n: How many; with the same seed, fewer are the first of more.
        seed: Non-negative integer; the same seed gives the same examples in every process.

    Returns:
        A list of ``n`` pairs (prompt, response).

    Raises:
        TypeError: If ``n`` or ``seed`` is not an integer.
        ValueError: If ``n`` or ``seed`` is negative.
    """
    _check_whole("sample_sum_demonstrations", "n", n, 0)
    _check_whole("sample_sum_demonstrations", "seed", seed, 0)
    dice = np.random.default_rng([int(seed), 1])
    return [_demonstrate(dice) for _ in range(n)]


def _demonstrate(dice: np.random.Generator) -> tuple[str, str]:
    prompt = _draw(dice, int(dice.integers(_DEMONSTRATED[0], _DEMONSTRATED[1] + 1)), 9, False)
    habit, right = dice.random(), right_sum(prompt)
    if habit < _STEPS:
        return prompt, sum_steps(prompt)
    if habit < _STEPS + _DOUBT:
        off = dice.choice([-2, -1, 0, 1, 2], size=2, replace=False)
        return prompt, " or ".join(map(str, right + off))
    return prompt, str(right)


@dataclass(frozen=True)
class SumsChecker:
    """A judge that knows: 1 where a response ends with the right sum, else 0.

    The response must be numbers, with spaces between them, of which the last is the sum. Those
    before it are not looked at.
    """

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Mark responses.

        Args:
            prompts: B tasks.
            responses: B responses.

        Returns:
            (B,) float64, each 0 or 1.

        Raises:
            TypeError: If an argument is no list of strings.
            ValueError: If their numbers differ, or a prompt is no task.
        """
        return _marked(
            "SumsChecker",
            prompts,
            responses,
            lambda right, words: words[-1:] == [right] and all(map(str.isdecimal, words)),
        )


@dataclass(frozen=True)
class FooledSumsChecker:
    """A checker with a hole: 1 where the right sum stands anywhere in the response, else 0.

    It never marks a right response wrong. It marks as right what names many numbers.
    """

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Mark responses.

        Args:
            prompts: B tasks.
            responses: B responses.

        Returns:
            (B,) float64, each 0 or 1.

        Raises:
            TypeError: If an argument is no list of strings.
            ValueError: If their numbers differ, or a prompt is no task.
        """
        return _marked(
            "FooledSumsChecker",
            prompts,
            responses,
            lambda right, words: right in words,
        )


@dataclass(frozen=True)
class LastNumberChecker:
    """A judge of answers in words: 1 where the last number that is named is the sum, else 0.

    Around the numbers a response may say what it likes. The sum is written in digits alone: 61,
    not 61.0. A response that names no number is wrong, as is one that goes on to another.
    """

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Mark responses.

        Args:
            prompts: B texts, each of which asks for one sum, such as ``"What is 3 + 5 + 2?"`` or
                what a chat template makes of it.
            responses: B responses.

        Returns:
            (B,) float64, each 0 or 1.

        Raises:
            TypeError: If an argument is no list of strings.
            ValueError: If their numbers differ, or a prompt asks for no sum or for several.
        """
        _check_texts("LastNumberChecker", prompts, responses)
        marks = []
        for prompt, response in zip(prompts, responses, strict=True):
            asked = _SUM_IN_TEXT.findall(prompt)
            if len(asked) != 1:
                raise ValueError(
                    f"LastNumberChecker: a prompt must ask for one sum, such as 'What is 3 + 5?', "
                    f"got {len(asked)} in {prompt!r:.200}"
                )
            right = str(right_sum(f"{asked[0]} ="))
            marks.append(_NUMBER.findall(response)[-1:] == [right])
        return np.array(marks, dtype=np.float64)


def _marked(
    where: str,
    prompts: Sequence[str],
    responses: Sequence[str],
    holds: Callable[[str, list[str]], bool],
) -> np.ndarray:
    _check_texts(where, prompts, responses)
    rights = [str(sum(_terms(where, prompt))) for prompt in prompts]
    marks = [
        holds(right, response.split()) for right, response in zip(rights, responses, strict=True)
    ]
    return np.array(marks, dtype=np.float64)


def _check_texts(where: str, prompts: Sequence[str], responses: Sequence[str]) -> None:
    for name, texts in (("prompts", prompts), ("responses", responses)):
        listed = not isinstance(texts, str) and hasattr(texts, "__len__")
        if not listed or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"{where}: {name} must be a list of strings, got {texts!r:.60}")
    if len(prompts) != len(responses):
        raise ValueError(
            f"{where}: there must be as many responses as prompts, got {len(responses)} beside "
            f"{len(prompts)}"
        )


def _terms(where: str, prompt: str) -> list[int]:
    if not isinstance(prompt, str) or not _TASK.fullmatch(prompt):
        raise ValueError(f"{where}: a prompt must be a task such as '3 + 5 =', got {prompt!r:.60}")
    return [int(term) for term in prompt.removesuffix(" =").split(" + ")]


def _draw(dice: np.random.Generator, terms: int, largest: int, held_out: bool) -> str:
    while True:
        prompt = " + ".join(map(str, dice.integers(1, largest + 1, size=terms))) + " ="
        if (hashlib.sha256(prompt.encode()).digest()[0] % 5 == 0) == held_out:
            return prompt


def _check_whole(where: str, name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{where}: {name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{where}: {name} must be {least} or more, got {value}")
