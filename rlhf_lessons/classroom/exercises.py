"""Graded exercises: the parts of a check, the comparison that explains a mistake, and ``check``.

Every lesson uses this room. The checks of lesson N live in ``checks/lesson_NN.py``::

    exercise = Exercise(
        "1.2",
        "Discounted returns",
        function="discounted_returns",
        reference=lambda: formulas.discounted_returns,
    )

    @exercise.part("one reward at the end")
    def _(answer, draw):
        rewards = draw.normal(size=4)
        got = answer(rewards, 0.9)
        compare("the returns", got, expected, mistakes={"You took ...": wrong_value})

    EXERCISES = [exercise]

A part calls the learner's function on inputs drawn fresh, and compares. It ends without a word when
the answer is right. Left out on purpose: time limits and protection of the score, which belong to
the ``grade`` command, where a kernel can be interrupted from outside.
"""

from __future__ import annotations

import copy
import dataclasses
import dis
import importlib
import inspect
import linecache
import math
import numbers
import random
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CHECK_MIME = "application/vnd.rlhf-lessons.check+json"

_PACKAGE = str(Path(__file__).resolve().parents[1])
_passed: dict[str, Callable] = {}
_asked: Answer | None = None  # whose inputs a hint shows: the answer of the part that runs


class Mistake(Exception):
    """Ends one part of a check: its text is the hint that the learner reads."""


class _Unfinished(Mistake):
    """The learner's function still raises NotImplementedError."""


class _Shown(Exception):
    """An exception that a notebook shows as its message alone, without the traceback."""

    def _render_traceback_(self) -> list[str]:
        return f"{type(self).__name__}: {self}".splitlines()


class NotAttempted(_Shown):
    """Raised by ``check`` when the exercise still holds its stub."""


class CheckFailed(_Shown):
    """Raised by ``check`` when at least one part of the exercise is not right.

    Attributes:
        outcome: what each part gave, hints included.
    """

    def __init__(self, message: str, outcome: Outcome):
        super().__init__(message)
        self.outcome = outcome


@dataclass(frozen=True)
class PartOutcome:
    """What one part of a check gave.

    Attributes:
        name: what the part tries, in a few words.
        points: points reached, 0 or ``total``.
        total: points that the part is worth.
        hint: what went wrong, empty when the part passed.
    """

    name: str
    points: int
    total: int
    hint: str = ""


@dataclass(frozen=True)
class Outcome:
    """What all parts of one exercise gave.

    Attributes:
        exercise: the exercise's number, such as ``"1.2"``.
        status: ``"passed"``, ``"failed"`` or ``"to do"``.
        parts: the outcome of each part, in order.
        seed: the seed that drew the inputs.
    """

    exercise: str
    status: str
    parts: tuple[PartOutcome, ...]
    seed: int

    @property
    def points(self) -> int:
        """Points reached over all parts."""
        return sum(part.points for part in self.parts)

    @property
    def total(self) -> int:
        """Points that all parts are worth."""
        return sum(part.total for part in self.parts)

    @property
    def hints(self) -> tuple[str, ...]:
        """The hint of each part that did not pass."""
        return tuple(part.hint for part in self.parts if part.hint)


@dataclass(frozen=True)
class _Part:
    name: str
    points: int
    run: Callable[[Answer, np.random.Generator], None]


class Answer:
    """The learner's function as a part calls it: remembers its inputs and notices if they change.

    Attributes:
        function: the learner's function itself.
        inputs: the arguments of the last call by parameter name, as they were before the call.
    """

    def __init__(self, function: Callable, mutates: Sequence[str] = ()):
        self.function = function
        self.inputs: dict[str, Any] = {}
        self._mutates = frozenset(mutates)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the learner's function.

        Raises:
            Mistake: when it raises, is not finished, or changes an input that it must leave alone.
        """
        global _asked
        _asked = self
        given = self._named(args, kwargs)
        self.inputs = {name: _snapshot(value) for name, value in given.items()}
        try:
            result = self.function(*args, **kwargs)
        except NotImplementedError as error:
            raise _Unfinished("this case still raises NotImplementedError") from error
        except (Exception, SystemExit) as error:
            raise Mistake(_with_inputs(_describe_error(error))) from error
        for name, value in given.items():
            if name not in self._mutates and not _unchanged(self.inputs[name], value):
                raise Mistake(
                    _with_inputs(
                        f"your function changed its input `{name}` in place, and whoever called it "
                        f"still needs the old values: work on a copy, and return the new values"
                    )
                )
        return result

    def _named(self, args: tuple, kwargs: dict) -> dict[str, Any]:
        try:
            return dict(inspect.signature(self.function).bind(*args, **kwargs).arguments)
        except (TypeError, ValueError):
            return {f"argument {i}": value for i, value in enumerate(args, 1)} | kwargs


class Exercise:
    """One graded exercise: a function that the learner writes, checked in parts.

    Args:
        number: lesson and place in the lesson, such as ``"1.2"``.
        title: its name, as the lesson's heading says it.
        function: name of the function that the learner writes.
        reference: called without arguments, returns the package's version of that function; imports
            late, so that reading the checks loads nothing heavy.
        mutates: parameters that the function is asked to change in place.

    Raises:
        ValueError: when ``number`` is not two whole numbers with a point between them.
    """

    def __init__(
        self,
        number: str,
        title: str,
        *,
        function: str,
        reference: Callable[[], Callable],
        mutates: Sequence[str] = (),
    ):
        _lesson_of(number)
        self.number = number
        self.title = title
        self.function = function
        self.reference = reference
        self.mutates = tuple(mutates)
        self.parts: list[_Part] = []

    def __repr__(self) -> str:
        return f"Exercise({self.number!r}, {self.title!r}, {self.total} points)"

    @property
    def total(self) -> int:
        """Points that all parts are worth together."""
        return sum(part.points for part in self.parts)

    def part(self, name: str, points: int = 1) -> Callable[[Callable], Callable]:
        """Register a part: a function of ``(answer, draw)`` that raises nothing on a right answer.

        Args:
            name: what this part tries, in a few words that the learner will read.
            points: what it is worth, at least 1.

        Returns:
            A decorator that leaves the function as it is.

        Raises:
            ValueError: when ``points`` is below 1 or another part has the same name.
        """
        if points < 1:
            raise ValueError(f"Exercise.part: points must be at least 1, got {points}")
        if any(part.name == name for part in self.parts):
            raise ValueError(f"Exercise.part: exercise {self.number} has two parts named {name!r}")

        def register(run: Callable) -> Callable:
            self.parts.append(_Part(name, points, run))
            return run

        return register

    def examine(self, function: Callable, seed: int | None = None) -> Outcome:
        """Run every part on one function. Nothing is printed and no wrong answer raises.

        Args:
            function: the answer to examine.
            seed: draws the inputs; a fresh one when left out.

        Returns:
            The outcome of each part. Global random states are as before the call.
        """
        global _asked
        if seed is None:
            seed = random.SystemRandom().randrange(10**6)
        if not callable(function):
            hint = (
                f"`{self.function}` must be a function, got {_show(function)} "
                f"({type(function).__name__}): pass its name, without brackets behind it"
            )
            parts = tuple(PartOutcome(part.name, 0, part.points, hint) for part in self.parts)
            return Outcome(self.number, "failed", parts, seed)
        if _is_empty(function):
            parts = tuple(PartOutcome(part.name, 0, part.points) for part in self.parts)
            return Outcome(self.number, "to do", parts, seed)

        outcomes, unfinished = [], 0
        for index, part in enumerate(self.parts):
            _asked = answer = Answer(function, self.mutates)
            hint = ""
            with _own_randomness(seed, index):
                try:
                    part.run(answer, np.random.default_rng([seed, index]))
                except Mistake as mistake:
                    unfinished += isinstance(mistake, _Unfinished)
                    hint = str(mistake)
                except Exception as error:
                    # The learner's result was so unlike the expected one that the part fell over.
                    hint = _with_inputs(
                        f"the check could not use what your function gave: "
                        f"{type(error).__name__}: {error}"
                    )
            outcomes.append(PartOutcome(part.name, 0 if hint else part.points, part.points, hint))
        _asked = None
        if unfinished == len(self.parts):
            status = "to do"
            outcomes = [dataclasses.replace(outcome, hint="") for outcome in outcomes]
        else:
            status = "failed" if any(outcome.hint for outcome in outcomes) else "passed"
        return Outcome(self.number, status, tuple(outcomes), seed)


def compare(
    what: str,
    got: Any,
    expected: Any,
    *,
    mistakes: Mapping[str, Any] | None = None,
    atol: float = 1e-6,
    rtol: float = 1e-5,
    gradient: bool | None = None,
    dtype: bool = True,
) -> None:
    """Compare a result with the right one; on a difference, say which known mistake it is.

    Numbers are close when |got − expected| ≤ atol + rtol·|expected|. Lists and tuples may stand for
    each other, and a number may be a Python, NumPy or one-element torch number. Text, sets, dicts
    and other objects are compared by their content.

    Args:
        what: what is compared, as the learner would call it: ``"the returns"``.
        got: the learner's result.
        expected: the right result: a number, text, array, tensor, or a list, tuple, set or dict.
        mistakes: hint -> the value that this mistake gives, or a function of no arguments that
            returns it. A mistake that gives the right value on these inputs is passed over.
        atol: allowed absolute difference.
        rtol: allowed difference relative to ``expected``.
        gradient: True when ``got`` must carry a gradient, False when it must not, None for either.
        dtype: False when the precision of an array or tensor does not matter.

    Returns:
        Nothing when they agree.

    Raises:
        Mistake: when they differ; its text is the hint.
    """
    problem = _difference(got, expected, atol, rtol, dtype)
    if problem is None:
        problem = _gradient_problem(got, gradient)
        if problem is not None:
            raise Mistake(f"{what}: {problem}")
        return
    for hint, wrong in (mistakes or {}).items():
        value = wrong() if callable(wrong) else wrong
        if _difference(value, expected, atol, rtol, dtype=False) is None:
            continue
        if _difference(got, value, atol, rtol, dtype=False) is None:
            problem = hint
            break
    shown = _indent_rest([f"expected {_show(expected)}", f"got      {_show(got)}"], " " * 11)
    lines = [f"{what}: {problem}", *(f"  {line}" for line in shown)]
    raise Mistake(_with_inputs("\n".join(lines)))


def require(condition: Any, hint: str) -> None:
    """Ask for a property of the learner's result that no single value can express.

    Args:
        condition: true when the result is right.
        hint: what the learner reads when it is not.

    Returns:
        Nothing when it is.

    Raises:
        Mistake: when ``condition`` is false.
    """
    if not bool(condition):
        raise Mistake(_with_inputs(hint))


def find_exercise(number: str) -> Exercise:
    """Return the exercise with this number.

    Args:
        number: lesson and place in the lesson, such as ``"1.2"``.

    Returns:
        The exercise, from the checks of its lesson.

    Raises:
        ValueError: when there is no such lesson or no such exercise in it.
    """
    lesson = _lesson_of(number)
    name = f"rlhf_lessons.classroom.checks.lesson_{lesson:02d}"
    try:
        exercises = importlib.import_module(name).EXERCISES
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ValueError(f"check: there is no lesson {lesson}, got exercise {number!r}") from None
    for exercise in exercises:
        if exercise.number == number:
            return exercise
    known = ", ".join(exercise.number for exercise in exercises)
    raise ValueError(f"check: lesson {lesson} has exercises {known}; got {number!r}")


def check(number: str, function: Callable, *, seed: int | None = None) -> None:
    """Check an exercise: print one line when it passed, raise with hints when it did not.

    Args:
        number: the exercise, such as ``"1.2"``.
        function: the learner's function.
        seed: draws the hidden inputs; fresh each time when left out. A failed check names the seed
            that draws its inputs again.

    Returns:
        Nothing when every part passed.

    Raises:
        NotAttempted: when the function is still the stub.
        CheckFailed: when a part is not right; the message has a hint for each such part.
        ValueError: when there is no such exercise.
    """
    exercise = find_exercise(number)
    outcome = examine_own(exercise, function, seed)
    report(exercise, outcome)
    if outcome.status == "passed":
        _passed[number] = function
    else:
        _passed.pop(number, None)
        raise _exception(exercise, outcome)


def examine_own(exercise: Exercise, function: Callable, seed: int | None = None) -> Outcome:
    """Examine an answer that has to be the learner's: a function of the package scores nothing.

    ``yours`` lends the package's function under the learner's name. A check that runs again below
    that cell would otherwise pass for a function that the learner did not write.

    Args:
        exercise: what to examine.
        function: the answer.
        seed: draws the inputs; a fresh one when left out.

    Returns:
        The outcome of each part.
    """
    if str(getattr(function, "__module__", "")).split(".")[0] != "rlhf_lessons":
        return exercise.examine(function, seed)
    hint = (
        f"here `{exercise.function}` is the package's function, which `yours` lends while yours "
        f"has not passed: run the cell with your own `{exercise.function}` again, then its check, "
        f"above the cell with `yours`"
    )
    parts = tuple(PartOutcome(part.name, 0, part.points, hint) for part in exercise.parts)
    return Outcome(exercise.number, "failed", parts, seed or 0)


def yours(number: str, function: Callable) -> Callable:
    """Return the learner's function when it passed its check, else the package's, with a note.

    A lesson can then be read to its end, whichever exercises were skipped.

    Args:
        number: the exercise, such as ``"1.2"``.
        function: the learner's function.

    Returns:
        ``function`` itself when this very function passed ``check``; the package's version if not.

    Raises:
        ValueError: when there is no such exercise.
    """
    exercise = find_exercise(number)
    if number in _passed and _passed[number] is function:
        return function
    print(
        f"{number} has not passed its check, so the package's {exercise.function} is used from "
        f"here on. Pass the check and run this cell again to use yours."
    )
    return exercise.reference()


def report(exercise: Exercise, outcome: Outcome, proof: str | None = None) -> None:
    """Show an outcome: a line for the reader, and the same as data for the ``grade`` command.

    Args:
        exercise: what was examined.
        outcome: what came out.
        proof: a word that only the ``grade`` command knows, passed on in the data.
    """
    if outcome.status == "passed":
        line = f"{outcome.exercise} passed ({_points(outcome.total)})"
    elif outcome.status == "to do":
        line = f"{outcome.exercise} to do ({_points(outcome.total)})"
    else:
        line = f"{outcome.exercise}: {outcome.points} of {_points(outcome.total)}"
    data = {
        "exercise": outcome.exercise,
        "title": exercise.title,
        "status": outcome.status,
        "points": outcome.points,
        "total": outcome.total,
        "parts": [dataclasses.asdict(part) for part in outcome.parts],
    }
    if proof is not None:
        data["proof"] = proof
    # The seed stays out: a passed check must leave the same output in every run.
    if _in_notebook():
        from IPython.display import display

        display({CHECK_MIME: data, "text/plain": line}, raw=True)
    else:
        print(line)


def _exception(exercise: Exercise, outcome: Outcome) -> _Shown:
    if outcome.status == "to do":
        return NotAttempted(
            f"exercise {exercise.number} ({exercise.title}) is still to do: "
            f"write {exercise.function}, run its cell, then run this one again"
        )
    lines = [f"exercise {exercise.number}: {outcome.points} of {_points(outcome.total)}"]
    earlier: dict[str, str] = {}
    for part in outcome.parts:
        mark = "✗" if part.hint else "✓"
        lines.append(f"{mark} {part.name} ({part.points} of {_points(part.total)})")
        if part.hint in earlier:
            lines.append(f"    as in: {earlier[part.hint]}")
        elif part.hint:
            earlier[part.hint] = part.name
            lines += [f"    {line}" for line in part.hint.splitlines()]
    lines.append(
        f"same inputs again: check({exercise.number!r}, {exercise.function}, seed={outcome.seed})"
    )
    return CheckFailed("\n".join(lines), outcome)


def _points(count: int) -> str:
    return "1 point" if count == 1 else f"{count} points"


def _lesson_of(number: str) -> int:
    lesson, point, place = str(number).partition(".")
    if not (point and lesson.isdecimal() and place.isdecimal()):
        raise ValueError(f'check: an exercise is named like "1.2", got {number!r}')
    return int(lesson)


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    return shell is not None and shell.get_ipython() is not None


# What the learner's function did ----------------------------------------------------------------


def _is_empty(function: Callable) -> bool:
    """True when the body is a docstring, ``pass``, ``...``, ``return`` or ``return None`` alone."""
    code = getattr(function, "__code__", None)
    if code is None or code.co_flags & inspect.CO_GENERATOR:
        return False
    quiet = {"RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST", "CACHE", "POP_TOP"}
    instructions = list(dis.get_instructions(code))
    if any(step.opname not in quiet for step in instructions):
        return False
    loaded = [step.argval for step in instructions if "CONST" in step.opname]
    return not loaded or loaded[-1] is None or loaded[-1] is Ellipsis


def _describe_error(error: BaseException) -> str:
    text = f"your function raised {type(error).__name__}: {error}"
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_PACKAGE) and "site-packages" not in frame.filename
    ]
    if own:
        line = linecache.getline(own[-1].filename, own[-1].lineno or 0).strip()
        if line:
            text += f"\n  in line {own[-1].lineno}: {line}"
    return text


def _with_inputs(text: str) -> str:
    """Add the inputs of the learner's last call to a hint."""
    inputs = _asked.inputs if _asked else {}
    shown = []
    for name, value in inputs.items():
        start = f"  with {name} = "
        shown += _indent_rest([start + _show(value)], " " * len(start))
    return "\n".join([text, *shown])


def _snapshot(value: Any) -> Any:
    """A copy of plain data; other objects (a policy, a board) are passed on as they are."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if _is_tensor(value):
        return value.detach().clone()
    if isinstance(value, list):
        return [_snapshot(item) for item in value]
    if isinstance(value, dict):
        return {key: _snapshot(item) for key, item in value.items()}
    if isinstance(value, set):
        return copy.copy(value)
    if type(value) is tuple:
        return tuple(_snapshot(item) for item in value)
    return value


def _unchanged(before: Any, after: Any) -> bool:
    if before is after:
        return True
    if isinstance(before, np.ndarray):
        if before.shape != after.shape or before.dtype != after.dtype:
            return False
        if before.dtype == object:
            return all(map(_unchanged, before.ravel(), after.ravel()))
        return before.tobytes() == after.tobytes()
    if _is_tensor(before):
        torch = sys.modules["torch"]
        if before.shape != after.shape or before.dtype != after.dtype:
            return False
        return torch.equal(before.nan_to_num(), after.detach().nan_to_num())
    if isinstance(before, (list, tuple)):
        return len(before) == len(after) and all(map(_unchanged, before, after))
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(
            _unchanged(value, after[key]) for key, value in before.items()
        )
    return before == after


@contextmanager
def _own_randomness(seed: int, index: int) -> Iterator[None]:
    """Seed the global random states for one part, and put them back: a check costs no numbers."""
    torch = sys.modules.get("torch")
    state = random.getstate(), np.random.get_state(), torch and torch.get_rng_state()
    own = (seed * 1000 + index) % 2**32
    random.seed(own)
    np.random.seed(own)
    if torch:
        torch.default_generator.manual_seed(own)
    try:
        yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        if state[2] is not None:
            torch.set_rng_state(state[2])


# Comparison -------------------------------------------------------------------------------------


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _kind(value: Any) -> str:
    if _is_tensor(value):
        return "a torch tensor"
    if isinstance(value, np.ndarray):
        return "a NumPy array"
    if isinstance(value, (bool, np.bool_)):
        return "True or False"
    if isinstance(value, numbers.Integral):
        return "a whole number"
    if isinstance(value, numbers.Real):
        return "a number"
    if inspect.isgenerator(value):
        return "a generator"
    name = type(value).__name__
    names = {"str": "text (str)", "NoneType": "None", "ellipsis": "..."}
    return names.get(name, f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}")


def _difference(got: Any, expected: Any, atol: float, rtol: float, dtype: bool) -> str | None:
    """Say how ``got`` differs from ``expected``, None when it does not."""
    if got is None and expected is not None:
        return "your function returned nothing: end it with `return ...`"
    if got is Ellipsis and expected is not Ellipsis:
        return "your function still returns `...`"
    if _is_tensor(expected):
        return _array_difference(got, expected, atol, rtol, dtype)
    if isinstance(expected, np.ndarray):
        return _array_difference(got, expected, atol, rtol, dtype)
    if isinstance(expected, (bool, np.bool_)):
        got = _one(got)
        if not isinstance(got, (bool, np.bool_)):
            return f"must be True or False, got {_kind(got)}"
        return None if bool(got) == bool(expected) else "not the right answer"
    if isinstance(expected, numbers.Real):
        return _number_difference(_one(got), expected, atol, rtol)
    if isinstance(expected, str):
        if not isinstance(got, str):
            return f"must be text (str), got {_kind(got)}"
        return None if got == expected else "not the right text"
    if isinstance(expected, Mapping):
        return _mapping_difference(got, expected, atol, rtol, dtype)
    if isinstance(expected, Set):
        if not isinstance(got, Set):
            return f"must be a set, got {_kind(got)}"
        return None if got == expected else _members(got, expected)
    if isinstance(expected, (list, tuple)) and not hasattr(expected, "_fields"):
        return _sequence_difference(got, expected, atol, rtol, dtype)
    if type(got) is not type(expected):
        return f"must be {_kind(expected)}, got {_kind(got)}"
    if isinstance(expected, tuple):
        return _sequence_difference(tuple(got), tuple(expected), atol, rtol, dtype)
    return None if expected == got else "not right"


def _one(value: Any) -> Any:
    """The Python number inside a NumPy or torch number; anything else as it is."""
    if _is_tensor(value) and value.ndim == 0:
        return value.item()
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return value.item()
    return value


def _number_difference(got: Any, expected: Any, atol: float, rtol: float) -> str | None:
    if _is_tensor(got) or isinstance(got, np.ndarray):
        return f"must be one number, got {_kind(got)} of shape {tuple(got.shape)}"
    if isinstance(got, (bool, np.bool_)) or not isinstance(got, numbers.Real):
        return f"must be a number, got {_kind(got)}"
    if isinstance(expected, numbers.Integral):
        if int(expected) == got:
            return None
        return "not the right number"
    got, expected = float(got), float(expected)
    if math.isnan(expected):
        return None if math.isnan(got) else "not the right number"
    if math.isnan(got):
        return "NaN (not a number): look for 0/0, log of a negative number, or ∞ − ∞"
    if math.isinf(got) or math.isinf(expected):
        if got == expected:
            return None
        return (
            "infinite: look for log 0 or a division by 0"
            if math.isinf(got)
            else "finite, and should not be"
        )
    if abs(got - expected) <= atol + rtol * abs(expected):
        return None
    return "not the right number"


def _array_difference(got: Any, expected: Any, atol: float, rtol: float, dtype: bool) -> str | None:
    tensor = _is_tensor(expected)
    if not (_is_tensor(got) if tensor else isinstance(got, np.ndarray)):
        if expected.ndim == 0 and isinstance(_one(got), numbers.Real):
            return _difference(_one(got), expected.item(), atol, rtol, dtype)
        shape = tuple(expected.shape)
        return f"must be {_kind(expected)} of shape {shape}, got {_kind(got)}"
    if tuple(got.shape) != tuple(expected.shape):
        return f"must have shape {tuple(expected.shape)}, got {tuple(got.shape)}"
    if dtype:
        problem = _dtype_problem(got, expected)
        if problem:
            return problem
    a, b = _plain_array(got), _plain_array(expected)
    if b.dtype.kind in "fc" or a.dtype.kind in "fc":
        if a.dtype.kind not in "fciub":
            return f"must hold numbers, got {a.dtype}"
        a, b = a.astype(np.float64), b.astype(np.float64)
        odd = np.isnan(a) & ~np.isnan(b)
        if odd.any():
            return (
                f"NaN (not a number) {_places(odd)}: look for 0/0, log of a negative number, "
                "or ∞ − ∞"
            )
        odd = np.isinf(a) & ~np.isinf(b)
        if odd.any():
            return f"infinite {_places(odd)}: look for log 0 or a division by 0"
        with np.errstate(invalid="ignore"):
            wrong = ~np.isclose(a, b, atol=atol, rtol=rtol, equal_nan=True)
    else:
        wrong = np.asarray(a != b)
    if not wrong.any():
        return None
    if wrong.all():
        return "not right" if wrong.size == 1 else "wrong everywhere"
    return f"wrong {_places(wrong)}"


def _dtype_problem(got: Any, expected: Any) -> str | None:
    if _is_tensor(expected):
        if got.dtype == expected.dtype:
            return None
        made = ""
        if got.is_floating_point() and expected.is_floating_point():
            made = ": make new tensors with torch.zeros_like(x) or x.new_zeros(...), which keep it"
        return f"must have dtype {expected.dtype}, got {got.dtype}{made}"
    families = {"f": "numbers with a point", "i": "whole numbers", "u": "whole numbers"}
    a, b = (families.get(array.dtype.kind, str(array.dtype)) for array in (got, expected))
    return None if a == b else f"must hold {b} ({expected.dtype}), got {got.dtype}"


def _plain_array(value: Any) -> np.ndarray:
    if _is_tensor(value):
        value = value.detach().cpu()
        if value.is_floating_point():
            value = value.double()
        return value.numpy()
    return value


def _places(wrong: np.ndarray) -> str:
    where = [tuple(int(i) for i in index) for index in np.argwhere(wrong)]
    names = [str(index[0]) if len(index) == 1 else str(index) for index in where[:3]]
    more = f" and {len(where) - 3} more" if len(where) > 3 else ""
    return f"at {', '.join(names)}{more}"


def _sequence_difference(
    got: Any, expected: Sequence, atol: float, rtol: float, dtype: bool
) -> str | None:
    if isinstance(got, np.ndarray) or _is_tensor(got):
        got = got.tolist()
    if isinstance(got, (str, bytes)) or not isinstance(got, Sequence):
        return f"must be a {type(expected).__name__}, got {_kind(got)}"
    if len(got) != len(expected):
        return f"must have {len(expected)} items, got {len(got)}"
    for index, (a, b) in enumerate(zip(got, expected, strict=True)):
        problem = _difference(a, b, atol, rtol, dtype)
        if problem:
            return f"item {index}: {problem}"
    return None


def _mapping_difference(
    got: Any, expected: Mapping, atol: float, rtol: float, dtype: bool
) -> str | None:
    if not isinstance(got, Mapping):
        return f"must be a dict, got {_kind(got)}"
    if got.keys() != expected.keys():
        return "has the wrong keys: " + _members(got.keys(), expected.keys())
    for key, value in expected.items():
        problem = _difference(got[key], value, atol, rtol, dtype)
        if problem:
            return f"the value at {_show(key)}: {problem}"
    return None


def _members(got: Set, expected: Set) -> str:
    missing, extra = list(expected - got), list(got - expected)
    says = [f"{word} {_show(items[:5])}" for word, items in (("lacks", missing), ("has", extra))]
    kept = [text for text, items in zip(says, (missing, extra), strict=True) if items]
    return " and ".join(kept) + (" that does not belong" if extra else "")


def _gradient_problem(got: Any, gradient: bool | None) -> str | None:
    if gradient is None:
        return None
    carries = _is_tensor(got) and got.requires_grad
    if gradient and not carries:
        return (
            "the value is right, but it carries no gradient, so nothing can learn from it: leave "
            "out .detach(), .item(), torch.no_grad() and NumPy on the way"
        )
    if carries and not gradient:
        return (
            "the value is right, but a gradient flows through it: it counts as a constant here, so "
            "call .detach() on it (or compute it under torch.no_grad())"
        )
    return None


# Showing values ---------------------------------------------------------------------------------


def _show(value: Any) -> str:
    """A value as a learner can read it: small arrays in full, large ones by shape and corner."""
    if _is_tensor(value) or isinstance(value, np.ndarray):
        array = _plain_array(value)
        text = np.array2string(
            array, precision=4, suppress_small=True, threshold=40, edgeitems=3, separator=", "
        )
        if text.count("\n") > 8:
            text = "\n".join([*text.splitlines()[:7], "..."])
        large = f" (shape {tuple(array.shape)})" if array.size > 40 else ""
        return text + large
    if isinstance(value, (float, np.floating)):
        return f"{value:.6g}"
    if isinstance(value, np.generic):
        return str(value.item())
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        items = [_show(item) for item in value[:12]] + (["..."] if len(value) > 12 else [])
        opening, closing = "[]" if isinstance(value, list) else "()"
        comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
        return opening + ", ".join(items) + comma + closing
    if isinstance(value, dict):
        items = [f"{_show(key)}: {_show(item)}" for key, item in list(value.items())[:8]]
        return "{" + ", ".join(items + (["..."] if len(value) > 8 else [])) + "}"
    if inspect.isfunction(value):
        return f"the function {value.__name__}"
    try:
        text = repr(value)
    except Exception as error:
        text = f"a {type(value).__name__} whose repr raises {type(error).__name__}"
    return text if len(text) <= 400 else text[:397] + "..."


def _indent_rest(texts: Sequence[str], indent: str) -> list[str]:
    """Indent the second and later lines of each text."""
    return [text.replace("\n", "\n" + indent) for text in texts]
