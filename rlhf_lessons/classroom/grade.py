"""``python -m rlhf_lessons grade``: run notebooks, say what each exercise scored.

A notebook is graded on a temporary copy, run by nbval in a fresh kernel. In the copy, stored
outputs and tags are gone and each check cell holds what was released; the learner's file is only
read. Points come from the released manifest and from outcomes that the checks themselves show
(``examiner.py``), read back cell by cell (``nbval_marks.py``). A lesson whose kernel dies, hangs or
grows too large costs that lesson, and the next one is graded as usual.

Exit status: 0 when every point was reached, 1 when not, 2 when the command was not understood, 130
when it was stopped. What cells have started and left behind is ended with their notebook.

Left out on purpose: a sandbox. Grading runs the learner's code with the learner's rights, as
opening the notebook does: it can write files, claim any score (``examiner.py``) and end the
grader. A class that grades strangers' files should do it in a container, one notebook each.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from rlhf_lessons.whole_files import replace_file

RELEASED = Path(__file__).with_name("released.json")
KEY = "rlhf_lessons"
PLAN = "rlhf_grading"
RUN = "RLHF_LESSONS_GRADING"  # in the environment of all that one graded notebook starts
MEMORY_GIB = 4.0
LONGEST = 4000  # characters of a hint or note: the notebook shows all of it
# How long a cell may take. Checks and definitions take seconds; the longest training cell of the
# course takes about a minute on two cores, so ten times that is no machine's fault.
SECONDS = {"setup": 120, "exercise": 60, "check": 30, "train": 600, "show": 120, "own": 60}


@dataclass(frozen=True)
class Scored:
    """What one exercise scored.

    Attributes:
        exercise: its number.
        title: its name.
        points: points reached.
        total: points that it is worth.
        status: ``passed``, ``failed``, ``to do``, ``error``, ``too long``, ``kernel ended`` or
            ``not reached``.
        hints: what went wrong, one text for each part that did not pass.
    """

    exercise: str
    title: str
    points: int
    total: int
    status: str
    hints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Graded:
    """What one notebook scored.

    Attributes:
        lesson: the lesson's name.
        notebook: the file that was graded.
        points: points reached.
        total: points that the lesson is worth, from the released manifest.
        exercises: one entry per exercise of the manifest.
        notes: what else the learner should know: edited checks, cells with errors.
        problem: why the notebook could not be graded at all; empty when it was.
    """

    lesson: str
    notebook: str
    points: int
    total: int
    exercises: tuple[Scored, ...] = ()
    notes: tuple[str, ...] = ()
    problem: str = ""


@dataclass
class _Copy:
    """The temporary copy of a notebook, and what was done to make it."""

    notebook: Any
    checks: dict[str, list[int]] = field(default_factory=dict)  # exercise -> places of its checks
    definitions: dict[str, list[int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)  # sources that a quick run does not run


class UsageError(Exception):
    """The command line asks for something that is not there."""


class NotANotebook(Exception):
    """The file cannot be read as a notebook."""


# The temporary copy -----------------------------------------------------------------------------


def read_notebook(path: Path) -> Any:
    """Read a notebook file.

    Raises:
        NotANotebook: when it is missing, empty, cut short, or something else; says which.
    """
    import nbformat

    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise NotANotebook(f"{path} is not there") from None
    except OSError as error:
        raise NotANotebook(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise NotANotebook(f"{path} is not a notebook: it is not text in UTF-8") from None
    if not text.strip():
        raise NotANotebook(f"{path} is empty: restore it, for example from a checkpoint")
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise NotANotebook(
            f"{path} is damaged: its JSON breaks off or is wrong at line {error.lineno} "
            f"({error.msg}); restore it, for example from a checkpoint"
        ) from None
    except (RecursionError, ValueError) as error:  # too deep, or a number of thousands of digits
        raise NotANotebook(f"{path} is not a valid notebook: {error}") from None
    if not isinstance(content, dict) or not ({"cells", "worksheets"} & content.keys()):
        raise NotANotebook(f"{path} is not a notebook: it is JSON, but has no cells")
    try:
        with warnings.catch_warnings():
            # Missing or repeated cell ids: nbformat mends them in memory.
            warnings.simplefilter("ignore")
            notebook = nbformat.reads(text, as_version=4)
        for cell in notebook.cells:
            if not isinstance(cell.source, str) or not isinstance(cell.metadata, dict):
                raise TypeError("a cell without source or metadata")
            # Half a character (JSON may hold it, UTF-8 not) is written as Python would escape it.
            cell.source = cell.source.encode("utf-8", "backslashreplace").decode("utf-8")
    except Exception as error:
        raise NotANotebook(f"{path} is not a valid notebook: {error}") from None
    return notebook


def prepare(notebook: Any, manifest: dict, quick: bool, seconds: float | None) -> _Copy:
    """Return the copy that is run: code cells alone, check cells as released, each with a limit."""
    from nbformat.v4 import new_code_cell, new_notebook

    copy = _Copy(new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": ""}}))
    exercises = {entry["exercise"]: entry for entry in manifest["exercises"]}
    roles = _roles(notebook.cells, exercises, copy.notes)
    released = {cell["sha256"]: cell["kind"] for cell in manifest["cells"]}

    def add(source: str, kind: str, number: str | None = None) -> None:
        place = len(copy.sources)
        # Set-up is the course's own cell: a limit meant for the learner's must not end it.
        own_limit = None if kind == "setup" else seconds
        plan: dict[str, Any] = {"place": place, "seconds": own_limit or SECONDS[kind]}
        if kind == "check":
            plan |= {"exercise": number, "function": exercises[number]["function"]}
            copy.checks.setdefault(number, []).append(place)
        copy.sources.append(source)
        copy.notebook.cells.append(new_code_cell(source, metadata={PLAN: plan}))

    last_definition = {
        _about(cell).get("exercise"): index
        for index, cell in enumerate(notebook.cells)
        if cell.cell_type == "code" and _about(cell).get("kind") == "exercise"
    }
    for index, cell in enumerate(notebook.cells):
        number = roles.get(index)
        if number is not None:
            add(exercises[number]["check"], "check", number)
        elif cell.cell_type == "code" and cell.source.strip():
            kind = _kind(cell, released)
            if kind == "exercise":
                at = copy.definitions.setdefault(_about(cell).get("exercise"), [])
                at.append(len(copy.sources))
            if quick and kind in ("train", "show"):
                copy.left_out.append(cell.source)
            else:
                add(cell.source, kind)
        for lost in [n for n in exercises if n not in roles.values()]:
            if last_definition.get(lost) == index:
                add(exercises[lost]["check"], "check", lost)
    for number in exercises:
        if number not in copy.checks:
            add(exercises[number]["check"], "check", number)
    return copy


def _roles(cells: Sequence, exercises: dict[str, dict], notes: list[str]) -> dict[int, str]:
    """Which cells are check cells: index -> exercise. Released ones first, then edited ones."""
    released = {_hash(entry["check"]): number for number, entry in exercises.items()}
    intact: dict[str, list[int]] = {}
    edited: dict[str, list[int]] = {}
    for index, cell in enumerate(cells):
        about = _about(cell)
        marked = about.get("exercise") if about.get("kind") == "check" else None
        number = released.get(_hash(cell.source)) if cell.cell_type == "code" else None
        if number is not None:
            intact.setdefault(number, []).append(index)
        elif marked in exercises:
            edited.setdefault(marked, []).append(index)
    roles = {}
    for number in exercises:
        if number in intact:
            roles |= dict.fromkeys(intact[number], number)
        elif number in edited:
            # One of the edited copies is enough: the others are the learner's own cells.
            roles[edited[number][-1]] = number
            notes.append(f"the check cell of {number} was edited: the released one ran instead")
        else:
            notes.append(f"the check cell of {number} was deleted: the released one was put back")
    return roles


def _about(thing: Any) -> dict[str, str]:
    """What the course wrote about a notebook or cell; its entries are text, others are not its."""
    about = thing.metadata.get(KEY)
    entries = about.items() if isinstance(about, dict) else ()
    return {key: value for key, value in entries if isinstance(value, str)}


def _kind(cell: Any, released: dict[str, str]) -> str:
    """A cell's kind; a cell that the learner added, or a shown one that was edited, is ``own``."""
    kind = _about(cell).get("kind")
    as_released = released.get(_hash(cell.source))
    if kind is None:
        return as_released or "own"
    if kind == "show" and as_released is None:
        return "own"
    return kind if kind in SECONDS and kind != "check" else "own"


def _hash(source: str) -> str:
    lines = [line.rstrip() for line in source.strip().splitlines()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


# Running it -------------------------------------------------------------------------------------


def run_copy(copy: _Copy, memory_gib: float) -> tuple[dict[int, dict], str]:
    """Run the copy with nbval in a process of its own.

    Returns:
        What happened at each place, and what the process said when it could not do its work.
    """
    import nbformat

    with tempfile.TemporaryDirectory(prefix="grade-", ignore_cleanup_errors=True) as folder:
        work, results = Path(folder) / "notebook", Path(folder) / "results"
        work.mkdir()
        results.mkdir()
        target, marks = work / "lesson.ipynb", results / "marks.jsonl"
        nbformat.write(copy.notebook, target)
        (results / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        command = [sys.executable, "-m", "pytest", str(target)]
        command += ["-c", str(results / "pytest.ini"), "--rootdir", str(work), "--noconftest"]
        command += ["-p", "nbval.plugin", "-p", "rlhf_lessons.classroom.nbval_marks"]
        command += ["-p", "no:cacheprovider", "--tb=no", "-q", "--color=no"]
        command += ["--nbval-lax", "--nbval-current-env"]
        command += ["--marks", str(marks), "--kernel-memory", str(memory_gib)]
        package = str(Path(__file__).resolve().parents[2])
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        run = secrets.token_hex(8)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            # The learner's history stays theirs, and their start-up files out of a fresh kernel.
            "IPYTHONDIR": str(results / "ipython"),
            RUN: run,
        }
        for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
            environment.pop(name, None)
        limit = 120 + sum(10 + cell.metadata[PLAN]["seconds"] for cell in copy.notebook.cells)
        process = subprocess.Popen(
            command,
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        said = ""
        try:
            said, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            said = f"no end after {limit:g} s"
        finally:
            _end(process, run)
        seen = read_marks(marks)
        last = "\n".join(said.strip().splitlines()[-4:])  # where pytest says what went wrong
        return seen, "" if len(seen) == len(copy.sources) else last[-1500:]


def read_marks(path: Path) -> dict[int, dict]:
    """Read what happened at each place. A full disk may have cut the file off."""
    seen = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        with contextlib.suppress(json.JSONDecodeError):
            mark = json.loads(line)
            seen[mark["place"]] = mark
    return seen


def _end(process: subprocess.Popen, run: str) -> None:
    """End the process, its kernel, and what cells have started and left behind."""
    if process.poll() is None:
        process.kill()
        process.wait()
    left = []
    for member in psutil.process_iter():
        # Who started it may be gone, or it may have a session of its own: only what it inherited
        # still says whose it is.
        with contextlib.suppress(psutil.Error, OSError):
            if member.environ().get(RUN) == run:
                member.kill()
                left.append(member)
    psutil.wait_procs(left, timeout=5)


def grade_notebook(
    path: Path,
    lesson: str,
    manifest: dict,
    *,
    quick: bool = False,
    seconds: float | None = None,
    memory_gib: float = MEMORY_GIB,
) -> Graded:
    """Grade one notebook. The file is only read, and nothing that it holds raises here.

    Args:
        path: the learner's notebook.
        lesson: the lesson's name.
        manifest: the lesson's entry in the released manifest.
        quick: leave out training cells and cells that only show something.
        seconds: limit for each cell but the set-up; the limits of its kind when left out.
        memory_gib: how much memory the kernel may use.
    """
    total = manifest["points"]
    try:
        notebook = read_notebook(path)
    except NotANotebook as problem:
        return Graded(lesson, str(path), 0, total, problem=str(problem))
    copy = prepare(notebook, manifest, quick, seconds)
    course = _course()
    try:
        seen, trouble = run_copy(copy, memory_gib)
    except OSError as error:
        return Graded(lesson, str(path), 0, total, problem=f"could not run it: {error}")
    changed = sorted({name for name, _ in course.items() ^ _course().items()})
    if changed:
        # What examined it is not what was released, and would examine every later notebook, too.
        problem = f"the course's own {changed[0]} changed meanwhile: install the package again"
        return Graded(lesson, str(path), 0, total, problem=problem)
    if not seen:
        problem = f"nbval could not run it: {trouble or 'it said nothing'}"
        return Graded(lesson, str(path), 0, total, problem=problem)
    exercises = tuple(_score(entry, copy, seen) for entry in manifest["exercises"])
    notes = [*copy.notes, *_cell_notes(copy, seen, manifest)]
    held = _about(notebook).get("lesson", lesson)
    if held != lesson:
        notes.insert(0, f"{path.name} holds lesson {held}, and was graded as lesson {lesson}")
    if len(seen) < len(copy.sources):
        notes.append("the run broke off: the process that holds the kernel ended, or took too long")
    points = sum(scored.points for scored in exercises)
    return Graded(lesson, str(path), points, total, exercises, tuple(map(_plain, notes)))


def _course() -> dict[str, str]:
    """The package's code and the manifest, by the hash of what they hold."""
    room = Path(__file__).resolve().parents[1]
    files = [RELEASED, *room.rglob("*.py")]
    return {f"{p.relative_to(room)}": hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


# From cells to points ---------------------------------------------------------------------------


def _score(entry: dict, copy: _Copy, seen: dict[int, dict]) -> Scored:
    """The best of the exercise's check cells: a copy that ran too early takes nothing away."""
    tries = [_score_once(entry, place, copy, seen) for place in copy.checks[entry["exercise"]]]
    return max(tries, key=lambda scored: scored.points)


def _score_once(entry: dict, place: int, copy: _Copy, seen: dict[int, dict]) -> Scored:
    number, function = entry["exercise"], entry["function"]

    def scored(points: int, status: str, *hints: str) -> Scored:
        shown = tuple(map(_plain, hints))
        return Scored(number, entry["title"], points, entry["points"], status, shown)

    mark = seen.get(place)
    if mark is None or mark["status"] == "not reached":
        return scored(0, "not reached", _why_not_reached(place, copy, seen))
    outcome = mark["outcome"]
    if outcome is not None:
        if outcome["status"] == "to do":
            return scored(0, "to do")
        shown = {part["name"]: part["hint"] for part in outcome["parts"]}
        points, hints = 0, []
        for part in entry["parts"]:
            hint = shown.get(part["name"], "this part of the check did not run")
            if hint:
                hints.append(f"{part['name']}: {hint}")
            else:
                points += part["points"]
        return scored(points, "failed" if hints else "passed", *hints)
    if mark["status"] in ("too long", "lost"):
        status = "too long" if mark["status"] == "too long" else "kernel ended"
        return scored(0, status, f"while {function} was checked: {mark['message']}")
    if mark["status"] == "ok":
        return scored(
            0,
            "error",
            "the check ended without a result: this notebook changed how IPython shows things "
            "(display, sys.stdout, or IPython's events), so take that out",
        )
    if mark["error"] == "NameError" and f"'{function}'" in mark["message"]:
        return scored(0, "error", _why_undefined(entry, copy, seen))
    if mark["error"] == "PackageReplaced":
        return scored(0, "error", mark["message"])
    return scored(0, "error", f"{mark['error']}: {mark['message']}")


def _why_not_reached(place: int, copy: _Copy, seen: dict[int, dict]) -> str:
    for before in range(place - 1, -1, -1):
        mark = seen.get(before, {"status": ""})
        if mark["status"] in ("too long", "lost"):
            return f"not reached: {_name(copy, before)} ended the kernel"
    return "not reached: the kernel was gone"


def _why_undefined(entry: dict, copy: _Copy, seen: dict[int, dict]) -> str:
    function = entry["function"]
    for place in reversed(copy.definitions.get(entry["exercise"], [])):
        mark = seen.get(place, {"status": ""})
        if mark["status"] == "error":
            return (
                f"{function} is not defined, because its cell raised "
                f"{mark['error']}: {mark['message']}"
            )
        if mark["status"] == "too long":
            return f"{function} is not defined, because its cell did not end: {mark['message']}"
    return f"{function} is not defined: keep the name that the exercise gave, above its check"


def _cell_notes(copy: _Copy, seen: dict[int, dict], manifest: dict) -> list[str]:
    """One note for each cell that raised an error or did not end, unless its exercise says so."""
    notes = []
    checks = {place for places in copy.checks.values() for place in places}
    told = checks | {place for places in copy.definitions.values() for place in places}
    missing = [f"name '{entry['function']}' is not defined" for entry in manifest["exercises"]]
    not_run = list(copy.left_out)
    for place, mark in sorted(seen.items()):
        if mark["status"] in ("too long", "lost") and place not in checks:
            notes.append(f"{_name(copy, place)}: {mark['message']}")
        elif mark["status"] == "error" and place not in told:
            lost = re.match(r"name '(\w+)' is not defined", mark["message"])
            if lost and any(re.search(rf"\b{lost[1]}\b", source) for source in not_run):
                # Its name comes from a cell that a quick run leaves out, so nothing is wrong here.
                not_run.append(copy.sources[place])
            elif mark["error"] not in _EXPECTED and mark["message"] not in missing:
                notes.append(f"{_name(copy, place)} raised {mark['error']}: {mark['message']}")
    return notes


# What cells raise while exercises are open: the stub itself, and a check that the learner copied.
_EXPECTED = ("NotImplementedError", "NotAttempted", "CheckFailed")


def _name(copy: _Copy, place: int) -> str:
    """How a message calls a cell: by its first line, since numbers shift as cells are added."""
    first = copy.sources[place].strip().splitlines()[0]
    return f"the cell {first[:57] + '...' if len(first) > 60 else first!r}"


def _plain(text: str) -> str:
    """A text from the notebook, safe to print: no control characters, and not without end."""
    more = " ..." if len(text) > LONGEST else ""
    kept = text[:LONGEST].expandtabs(4)
    return "".join(c if c == "\n" or c.isprintable() else ascii(c)[1:-1] for c in kept) + more


# The score table --------------------------------------------------------------------------------


def table(results: Sequence[Graded]) -> str:
    """Return the score table: each exercise with its points and hints, then the totals."""
    lines: list[str] = []
    for graded in results:
        lines += [_row(graded.lesson, graded.points, graded.total), "─" * 72]
        if graded.problem:
            lines += _wrapped(f"not graded: {graded.problem}", "  ")
        for scored in graded.exercises:
            name = f"  {scored.exercise:<5} {scored.title}"
            lines.append(f"{name:<52} {scored.points:>2} / {scored.total:<2}  {scored.status}")
            for hint in scored.hints:
                lines += _wrapped(hint, "        ")
        for note in graded.notes:
            lines += _wrapped(f"note: {note}", "  ")
        lines.append("")
    if len(results) > 1:
        lines += ["All lessons", "─" * 72]
        lines += [_row(f"  {g.lesson}", g.points, g.total, bool(g.problem)) for g in results]
    points, total = sum(g.points for g in results), sum(g.total for g in results)
    lines.append(_row("Total", points, total))
    return "\n".join(lines)


def _row(name: str, points: int, total: int, problem: bool = False) -> str:
    return f"{name:<52} {points:>2} / {total:<2}{'  not graded' if problem else ''}".rstrip()


def _wrapped(text: str, indent: str) -> list[str]:
    """Fold the first line of a text at 96 columns; further lines hold numbers and stay as they are.

    A very long text is cut: the notebook shows all of it.
    """
    first, *rest = text.splitlines() or [""]
    folded = textwrap.wrap(
        first, 96, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
    more = ["..."] if len(rest) > 16 else []
    return (folded or [indent]) + [f"{indent}{line}" for line in rest[:16] + more]


# The command ------------------------------------------------------------------------------------


def find_folder(asked: str | None) -> Path:
    """Return the folder with the learner's notebooks: the one asked for, ``notebooks`` or here.

    Raises:
        UsageError: when it is not there, or none of them holds a lesson.
    """
    if asked is not None:
        if not Path(asked).is_dir():
            raise UsageError(f"--notebooks: there is no folder {asked}")
        return Path(asked)
    for folder in (Path("notebooks"), Path()):
        if any(folder.glob("[0-9][0-9]_*.ipynb")):
            return folder
    raise UsageError(
        f"no lessons in {Path('notebooks').resolve()} or {Path().resolve()}: change to the "
        f"course's folder, or name the folder with --notebooks"
    )


def find_lessons(
    words: Sequence[str], folder: Callable[[], Path], released: dict[str, dict]
) -> list[tuple[str, Path]]:
    """Return (lesson, notebook) for each word: ``1``, ``01``, ``01_tic_tac_toe`` or a path.

    Without words, every released lesson.

    Raises:
        UsageError: when a word names no lesson, or its notebook is not there.
    """
    if not words:
        return [(name, folder() / f"{name}.ipynb") for name in released]
    found = []
    for word in words:
        path = Path(word)
        if path.suffix == ".ipynb" and path.exists():
            found.append((_lesson_of(path, released), path))
            continue
        if path.suffix == ".ipynb" and path.parent != Path():
            # Never another file of the same name: it may be another learner's.
            raise UsageError(f"there is no notebook {word}")
        stem = path.stem if path.suffix == ".ipynb" else word
        fits = [name for name in released if name == stem or name[:2] == stem.zfill(2)]
        if not fits:
            known = ", ".join(released) or "none yet"
            raise UsageError(f"there is no lesson {word!r}; lessons are {known}")
        notebook = folder() / f"{fits[0]}.ipynb"
        if not notebook.exists():
            raise UsageError(f"lesson {fits[0]} has no notebook at {notebook}")
        found.append((fits[0], notebook))
    return found


def _lesson_of(path: Path, released: dict[str, dict]) -> str:
    """The lesson that a file holds: by its metadata, else by the start of its name."""
    try:
        held = _about(read_notebook(path)).get("lesson")
        if held in released:
            return held
    except NotANotebook:
        pass  # graded below as what its name says, where the table tells what is wrong with it
    for name in released:
        if path.stem.startswith(name[:2] + "_") or path.stem == name:
            return name
    known = ", ".join(released)
    raise UsageError(f"{path} is not a notebook of this course; lessons are {known}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rlhf_lessons grade",
        description="Run lessons in a fresh kernel and print what each exercise scored and why. "
        "Your notebooks are only read.",
        epilog="Exit status: 0 when every point was reached, 1 when not, 2 for a wrong command.",
    )
    parser.add_argument(
        "lessons",
        nargs="*",
        metavar="LESSON",
        help="1, 01, 01_tic_tac_toe or the path of a notebook; every lesson when left out",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="run definitions, checks and your own cells, not the training cells",
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE.json",
        help="write the scores as JSON: to a file, or in place of the table",
    )
    parser.add_argument("--notebooks", metavar="FOLDER", help="where your notebooks are")
    parser.add_argument(
        "--timeout",
        type=_positive,
        metavar="SECONDS",
        help="limit for each cell but the set-up (a check has 30, training 600, others 60 to 120)",
    )
    parser.add_argument(
        "--memory",
        type=_positive,
        default=MEMORY_GIB,
        metavar="GIB",
        help="memory that a kernel may use (default: %(default)g)",
    )
    return parser


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def main(arguments: Sequence[str] | None = None, released: Path = RELEASED) -> int:
    """Grade lessons and print the score table.

    Args:
        arguments: the words behind ``grade``.
        released: the manifest to trust.

    Returns:
        0 when every point was reached, 1 when not, 2 when the command was not understood.
    """
    options = _parser().parse_args(arguments)
    words = list(options.lessons)
    if options.json not in (None, "-") and not options.json.endswith(".json"):
        # ``--json 1``: the word behind is a lesson, since files of scores end in .json
        words.append(options.json)
        options.json = "-"
    try:
        if not released.is_file():
            raise UsageError(f"{released} is missing: install the package again")
        manifests = json.loads(released.read_text(encoding="utf-8"))["lessons"]
        lessons = find_lessons(words, lambda: find_folder(options.notebooks), manifests)
        if options.json not in (None, "-"):
            folder = Path(options.json).parent
            if not folder.is_dir():
                raise UsageError(f"--json: there is no folder for {options.json}")
            if not os.access(folder, os.W_OK):  # told before minutes of grading, not after
                raise UsageError(f"--json: {options.json}: the folder cannot be written to")
    except (UsageError, OSError) as error:
        print(f"grade: {error}", file=sys.stderr)
        return 2
    results: list[Graded] = []
    status = 0
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file in an encoding without ─, say
            stream.reconfigure(errors="replace")
    # Asked to end, it ends as at Ctrl-C: with the kernel, and with what was graded so far.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for lesson, path in lessons:
            print(f"grading {lesson} ...", file=sys.stderr, flush=True)
            results.append(
                grade_notebook(
                    path,
                    lesson,
                    manifests[lesson],
                    quick=options.quick,
                    seconds=options.timeout,
                    memory_gib=options.memory,
                )
            )
    except KeyboardInterrupt:
        print("stopped; what was graded so far:", file=sys.stderr)
        status = 130
    finally:
        signal.signal(signal.SIGTERM, before)
    points, total = sum(g.points for g in results), sum(g.total for g in results)
    if options.json is not None:
        scores = {"points": points, "total": total, "lessons": [asdict(g) for g in results]}
        text = json.dumps(scores, indent=1, ensure_ascii=False) + "\n"
    if options.json == "-":
        print(text, end="")
    else:
        print(table(results))
    if options.json not in (None, "-"):
        try:
            replace_file(Path(options.json), text)
        except OSError as error:
            print(f"grade: --json: {options.json}: {error.strerror}", file=sys.stderr)
            return 2
    return status or int(points < total)
