"""Build the notebooks: one source a lesson -> student notebook, solution notebook, figures.

    python notebooks/build.py                 build every lesson
    python notebooks/build.py 01 02           build these
    python notebooks/build.py --student-only  leave the solutions as they are: runs nothing, takes
                                              a second
    python notebooks/build.py --verify        change nothing, say what is stale

A source is ``source/NN_name.py`` in jupytext's percent format; ``CONTRIBUTING.md`` says how it is
written. Two builds of one source on one machine give the same bytes. Left out on purpose: a way
back from a notebook to its source. Only the source is edited.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import copy
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from rlhf_lessons.classroom.exercises import CHECK_MIME, find_exercise
from rlhf_lessons.real_parts import CACHE_VARIABLE
from rlhf_lessons.whole_files import replacing

KEY = "rlhf_lessons"  # our entry in the metadata of cells and notebooks
KINDS = ("setup", "exercise", "check", "train", "show")
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
CHECK_LINE = re.compile(r"""check\((["'])(\d+\.\d+)\1, ([A-Za-z_]\w*)\)""")
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
CELL_SECONDS = 1200


class SourceError(ValueError):
    """A source that does not keep the rules of ``CONTRIBUTING.md``."""


@dataclass(frozen=True)
class Folders:
    """Where things are read and written.

    Attributes:
        source: the percent-format sources.
        student: the notebooks that a learner opens.
        solutions: the same, solved and executed.
        figures: pictures of cells marked with ``figure=``.
        released: the manifest that the ``grade`` command trusts, a JSON file.
    """

    source: Path
    student: Path
    solutions: Path
    figures: Path
    released: Path

    @classmethod
    def of_repository(cls, root: Path) -> Folders:
        """Return the folders of the repository at ``root``."""
        return cls(
            source=root / "notebooks" / "source",
            student=root / "notebooks",
            solutions=root / "notebooks" / "solutions",
            figures=root / "figures",
            released=root / "rlhf_lessons" / "classroom" / "released.json",
        )


@dataclass(frozen=True)
class Lesson:
    """One lesson as its source gives it, before anything has run.

    Attributes:
        name: the source's name without its ending, such as ``"01_tic_tac_toe"``.
        student: the notebook with stubs.
        solution: the notebook with solutions, without outputs.
        manifest: what the ``grade`` command needs to know.
    """

    name: str
    student: NotebookNode
    solution: NotebookNode
    manifest: dict


# From a source to two notebooks -----------------------------------------------------------------


def read_lesson(path: Path) -> Lesson:
    """Read one source.

    Raises:
        SourceError: when the source breaks a rule; the message says which, and in which cell.
    """
    name = path.stem
    if not re.fullmatch(r"\d\d_\w+", name):
        raise SourceError(f"{path.name}: a source is named like 01_tic_tac_toe.py")
    try:
        text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path.name}: a source is text in UTF-8, got {error}") from None
    cells = [cell for cell in jupytext.reads(text, fmt="py:percent").cells if cell.source.strip()]
    if not cells or cells[0].cell_type != "markdown" or not cells[0].source.startswith("# "):
        raise SourceError(f"{name}: the first cell is markdown and begins with '# ' and the title")
    metadata = {
        "kernelspec": {
            "display_name": "Python 3 (ipykernel)",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
        KEY: {"lesson": name, "source_sha256": hashlib.sha256(text.encode()).hexdigest()},
    }
    student = new_notebook(metadata=copy.deepcopy(metadata))
    solution = new_notebook(metadata=copy.deepcopy(metadata))
    exercises: list[dict] = []
    released: list[dict] = []
    seen: Counter[str] = Counter()
    written: dict[str, str] = {}  # exercise -> its stub, waiting for the check
    for place, cell in enumerate(cells, 1):
        where = f"{name}, cell {place} ({cell.source.splitlines()[0][:50]!r})"
        cell_id = _cell_id(cell, seen)
        if cell.cell_type == "markdown":
            for notebook in (student, solution):
                notebook.cells.append(new_markdown_cell(cell.source, id=cell_id))
            continue
        if cell.cell_type != "code":
            raise SourceError(f"{where}: only markdown and code cells are built, got a raw cell")
        about = _about(cell, where)
        kind, number = about["kind"], about.get("exercise")
        open_source, solved_source = _split_solution(cell.source, number, where)
        if kind == "exercise":
            if open_source == solved_source:
                raise SourceError(f"{where}: an exercise needs {BEGIN} ... {END} in its function")
            if number in written:
                raise SourceError(f"{where}: exercise {number} has two exercise cells")
            written[number] = solved_source
        elif open_source != solved_source:
            raise SourceError(f'{where}: {BEGIN} belongs in a cell of kind="exercise"')
        if kind == "check":
            if number not in written:
                raise SourceError(f"{where}: the check of {number} comes before its exercise cell")
            if any(exercise["exercise"] == number for exercise in exercises):
                raise SourceError(f"{where}: exercise {number} has two check cells")
            exercises.append(_exercise(cell.source, number, written[number], where))
        for notebook, source in ((student, open_source), (solution, solved_source)):
            built = new_code_cell(source, id=cell_id, metadata={KEY: dict(about)})
            if kind == "check":
                built.metadata.update(editable=False, deletable=False)
            notebook.cells.append(built)
        released.append({"id": cell_id, **about, "sha256": source_hash(open_source)})
    unchecked = written.keys() - {exercise["exercise"] for exercise in exercises}
    if unchecked:
        raise SourceError(f"{name}: exercise {', '.join(sorted(unchecked))} has no check cell")
    manifest = {
        "title": cells[0].source.splitlines()[0].removeprefix("# ").strip(),
        "points": sum(exercise["points"] for exercise in exercises),
        "source_sha256": metadata[KEY]["source_sha256"],
        "exercises": exercises,
        "cells": released,
    }
    return Lesson(name, student, solution, manifest)


def source_hash(source: str) -> str:
    """Return what identifies a cell's source: trailing white space does not count."""
    lines = [line.rstrip() for line in source.strip().splitlines()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _cell_id(cell: NotebookNode, seen: Counter[str]) -> str:
    """An id that depends on the cell's content, and on how often that content came before."""
    content = f"{cell.cell_type}\n{cell.source}"
    seen[content] += 1
    return hashlib.sha256(f"{content}\n{seen[content]}".encode()).hexdigest()[:12]


def _about(cell: NotebookNode, where: str) -> dict[str, str]:
    """The marker's entries, checked. jupytext's own entries are left behind."""
    own = {
        key: value
        for key, value in cell.metadata.items()
        if key not in ("lines_to_next_cell", "lines_to_end_of_cell_marker")
    }
    unknown = own.keys() - {"kind", "exercise", "figure"}
    if unknown:
        raise SourceError(
            f"{where}: a marker holds kind=, exercise= or figure=, got {', '.join(sorted(unknown))}"
        )
    own.setdefault("kind", "show")
    if own["kind"] not in KINDS:
        raise SourceError(f"{where}: kind= is one of {', '.join(KINDS)}, got {own['kind']!r}")
    if (own["kind"] in ("exercise", "check")) != ("exercise" in own):
        raise SourceError(
            f"{where}: exercise= goes with kind exercise or check, and they need it; got {own}"
        )
    if not re.fullmatch(r"\w+", own.get("figure", "_")):
        raise SourceError(f"{where}: figure= is a file name without its ending, got {own}")
    return {key: own[key] for key in sorted(own)}


def _split_solution(source: str, number: str | None, where: str) -> tuple[str, str]:
    """Return the source with stubs, and the source with solutions; neither has the markers."""
    open_lines, solved_lines = [], []
    inside = False
    for line in source.splitlines():
        word = line.strip()
        if word == BEGIN:
            if inside:
                raise SourceError(f"{where}: {BEGIN} twice without {END}")
            indent = line[: len(line) - len(line.lstrip())]
            if not indent:
                raise SourceError(
                    f"{where}: {BEGIN} stands inside the function's body, so that the stub is "
                    f'"to do" and not a name that is missing'
                )
            inside = True
            open_lines.append(f'{indent}raise NotImplementedError("exercise {number}")')
        elif word == END:
            if not inside:
                raise SourceError(f"{where}: {END} without {BEGIN}")
            inside = False
        else:
            solved_lines.append(line)
            if not inside:
                open_lines.append(line)
    if inside:
        raise SourceError(f"{where}: {BEGIN} without {END}")
    open_source, solved_source = "\n".join(open_lines), "\n".join(solved_lines)
    if open_source != solved_source:
        for text in (open_source, solved_source):
            try:
                compile(text, "exercise", "exec")
            except SyntaxError as error:
                raise SourceError(f"{where}: line {error.lineno}: {error.msg}") from None
    return open_source, solved_source


def _exercise(source: str, number: str, solved: str, where: str) -> dict:
    """The manifest's entry of one exercise, from its check cell and its checks in the package."""
    match = CHECK_LINE.fullmatch(source.strip())
    if not match:
        raise SourceError(f'{where}: a check cell is one line, check("{number}", name)')
    _, checked, function = match.groups()
    if checked != number:
        raise SourceError(f"{where}: the marker says exercise {number}, the cell checks {checked}")
    try:
        exercise = find_exercise(number)
    except ValueError as error:
        raise SourceError(f"{where}: {error}") from None
    if function != exercise.function:
        raise SourceError(
            f"{where}: exercise {number} asks for {exercise.function}, the cell checks {function}"
        )
    if not re.search(rf"^(def|class) {function}\b", solved, re.MULTILINE):
        raise SourceError(f"{where}: the exercise cell of {number} does not define {function}")
    return {
        "exercise": number,
        "title": exercise.title,
        "function": function,
        "points": exercise.total,
        "parts": [{"name": part.name, "points": part.points} for part in exercise.parts],
        "check": source.strip(),
    }


# Running a solution -----------------------------------------------------------------------------


def execute(
    notebook: NotebookNode, name: str, show: Callable[[int], None] = lambda done: None
) -> NotebookNode:
    """Run a notebook from a fresh kernel and return it with outputs that are the same each time.

    Args:
        notebook: the notebook without outputs; it is left as it is.
        name: how to call it in an error.
        show: called with the number of cells done so far.

    Raises:
        RuntimeError: when a cell fails; the message has the cell and its error.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    run = copy.deepcopy(notebook)
    # A folder of its own: a lesson that writes a file leaves nothing beside the sources.
    with tempfile.TemporaryDirectory(prefix="build-") as folder:
        client = NotebookClient(
            run,
            timeout=CELL_SECONDS,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": folder}},
            on_cell_executed=lambda cell, cell_index, execute_reply: show(cell_index + 1),
        )
        try:
            # A fixed hash seed: sets then print in the same order in every run. No real parts: the
            # outputs are then those of a machine that has none, and hold no text of theirs.
            # The kernel's own log says nothing about the lesson.
            own = {"PYTHONHASHSEED": "0", CACHE_VARIABLE: str(Path(folder) / "no-parts")}
            client.execute(env={**os.environ, **own}, stderr=subprocess.DEVNULL)
        except CellExecutionError as error:
            raise RuntimeError(f"{name}: {_plain(str(error)).strip()}") from None
        except (CellTimeoutError, DeadKernelError) as error:
            raise RuntimeError(f"{name}: {type(error).__name__}: {error}") from None
    for cell, unrun in zip(run.cells, notebook.cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs = clean_outputs(cell.outputs, (folder,))
        cell.metadata = copy.deepcopy(unrun.metadata)
    run.metadata = copy.deepcopy(notebook.metadata)
    return run


def clean_outputs(outputs: Sequence[NotebookNode], folders: Sequence[str]) -> list[NotebookNode]:
    """Return outputs without what differs between machines or runs, or needs a live kernel.

    Left out are stderr (progress bars, warnings), views of widgets and the machine's folders; a
    widget that brings a picture keeps it. Pieces of one stream are joined.
    """
    kept: list[NotebookNode] = []
    for output in copy.deepcopy(list(outputs)):
        if output.output_type == "stream":
            if output.name == "stderr":
                continue
            text = _scrub(output.text, folders)
            if kept and kept[-1].output_type == "stream":
                kept[-1].text += text
            else:
                output.text = text
                kept.append(output)
        elif output.output_type in ("display_data", "execute_result"):
            data = output.data
            data.pop(CHECK_MIME, None)
            was_widget = data.pop(WIDGET_MIME, None) is not None
            if not data or (was_widget and data.keys() == {"text/plain"}):
                continue
            if was_widget and "image/png" in data:
                data.pop("text/plain", None)
            for mime, value in data.items():
                if isinstance(value, str) and not mime.startswith("image/p"):
                    data[mime] = _scrub(value, folders)
            kept.append(output)
        else:
            kept.append(output)
    for output in kept:
        if output.output_type == "stream":
            # What a terminal would show: a carriage return overwrites its line.
            lines = output.text.split("\n")
            output.text = "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in lines)
    return kept


def _scrub(text: str, folders: Sequence[str]) -> str:
    root = str(Path(__file__).resolve().parents[1])
    for folder in (*folders, root, str(Path.home())):
        if len(folder) > 1:
            text = text.replace(folder, "...")
    text = re.sub(r"\S*/ipykernel_\d+/\d+\.py", "<cell>", text)
    text = re.sub(r"(?<=\s)(?:/[\w.+-]+)+/site-packages/", ".../", text)
    return re.sub(r"\b0x[0-9a-f]{6,}\b", "0x...", text)


def _plain(text: str) -> str:
    """Text without terminal colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def figures_of(notebook: NotebookNode) -> dict[str, bytes]:
    """Return the pictures of cells marked with ``figure=``, by name.

    Raises:
        RuntimeError: when a marked cell has no PNG.
    """
    found = {}
    for cell in notebook.cells:
        name = cell.metadata.get(KEY, {}).get("figure")
        if name is None:
            continue
        pictures = [
            output.data["image/png"]
            for output in cell.outputs
            if output.output_type in ("display_data", "execute_result")
            and "image/png" in output.data
        ]
        if not pictures:
            first = cell.source.splitlines()[0]
            raise RuntimeError(f"figure {name!r}: its cell ({first[:50]!r}) shows no PNG")
        found[name] = base64.b64decode(pictures[-1])
    return found


# Writing, and saying what is stale --------------------------------------------------------------


def notebook_text(notebook: NotebookNode) -> str:
    """Return a notebook as the text of its file."""
    nbformat.validate(notebook)
    return nbformat.writes(notebook, version=4).rstrip("\n") + "\n"


def write_changed(files: dict[Path, bytes]) -> list[Path]:
    """Write the files that change and return them: all, or none when one finds no place on disk."""
    changed = [
        path for path, data in files.items() if not path.is_file() or path.read_bytes() != data
    ]
    with contextlib.ExitStack() as written:  # the new ones take their places together at its end
        for path in changed:
            path.parent.mkdir(parents=True, exist_ok=True)
            written.enter_context(replacing(path)).write_bytes(files[path])
    return changed


def released_text(folders: Folders, lessons: Sequence[Lesson]) -> str:
    """Return the manifest with the entries of ``lessons`` renewed and of lost sources removed."""
    entries = _released_entries(folders)
    entries |= {lesson.name: lesson.manifest for lesson in lessons}
    kept = {name: entries[name] for name in sorted(entries) if _source(folders, name).is_file()}
    return json.dumps({"version": 1, "lessons": kept}, indent=1, ensure_ascii=False) + "\n"


def _released_entries(folders: Folders) -> dict:
    """The entries of the manifest on disk; none when it is missing or damaged."""
    try:
        entries = json.loads(folders.released.read_text(encoding="utf-8"))["lessons"]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return {}  # the build writes it anew, the other lessons then show as stale
    return entries if isinstance(entries, dict) else {}


def _source(folders: Folders, name: str) -> Path:
    return folders.source / f"{name}.py"


def build(
    folders: Folders,
    names: Sequence[str],
    *,
    student_only: bool = False,
    say: Callable[[str], None] = print,
) -> list[str]:
    """Build lessons and return one message for each that failed. The others are built.

    A lesson's files are written together at its end: one that fails, or for which the disk has no
    room, leaves the old ones in place.
    """
    failures = []
    for name in names:
        try:
            lesson = read_lesson(_source(folders, name))
            files = {folders.student / f"{name}.ipynb": notebook_text(lesson.student).encode()}
            if not student_only:
                solved = _execute_with_progress(lesson)
                files[folders.solutions / f"{name}.ipynb"] = notebook_text(solved).encode()
                for figure, picture in figures_of(solved).items():
                    files[folders.figures / f"{figure}.png"] = picture
            files[folders.released] = released_text(folders, [lesson]).encode()
        except (SourceError, RuntimeError, SyntaxError, ImportError, OSError) as error:
            failures.append(f"{name} is not built: {error}")
            continue
        try:
            changed = write_changed(files)
        except OSError as error:
            failures.append(f"{name} is not written: {error}")
            continue
        points = lesson.manifest["points"]
        written = ", ".join(path.name for path in changed) or "nothing changed"
        say(f"{name}: {len(lesson.manifest['exercises'])} exercises, {points} points; {written}")
    return failures


def _execute_with_progress(lesson: Lesson) -> NotebookNode:
    from tqdm import tqdm

    with tqdm(total=len(lesson.solution.cells), desc=lesson.name, unit="cell") as bar:
        return execute(lesson.solution, lesson.name, lambda done: bar.update(done - bar.n))


def stale(folders: Folders, names: Sequence[str]) -> list[str]:
    """Return one message for each built file that is not what its source would give now.

    Nothing runs: a solution is compared without its outputs, which come from the source whose hash
    it carries.
    """
    found = []
    for name in names:
        try:
            lesson = read_lesson(_source(folders, name))
        except (SourceError, ImportError) as error:
            found.append(str(error))
            continue
        student, solution = folders.student / f"{name}.ipynb", folders.solutions / f"{name}.ipynb"
        expected = notebook_text(lesson.student).encode("utf-8")
        if not student.is_file() or student.read_bytes() != expected:
            found.append(f"{student} is {'stale' if student.is_file() else 'missing'}")
        if not solution.is_file():
            found.append(f"{solution} is missing")
            continue
        try:
            stored = nbformat.read(solution, as_version=4)
        except Exception as error:
            found.append(f"{solution} cannot be read: {error}")
            continue
        code = [cell for cell in stored.cells if cell.cell_type == "code"]
        if notebook_text(_without_outputs(stored)) != notebook_text(lesson.solution):
            found.append(f"{solution} is stale")
        elif any(cell.execution_count is None for cell in code):
            found.append(f"{solution} has cells that were not run")
        elif any(not cell.outputs for cell in code if cell.metadata[KEY].get("kind") == "check"):
            found.append(f"{solution} has check cells whose output was removed")
        else:
            for figure, picture in figures_of(stored).items():
                path = folders.figures / f"{figure}.png"
                if not path.is_file() or path.read_bytes() != picture:
                    found.append(f"{path} is {'stale' if path.is_file() else 'missing'}")
        if _released_entries(folders).get(name) != lesson.manifest:
            found.append(f"{folders.released} does not match {name}")
    return found


def _without_outputs(notebook: NotebookNode) -> NotebookNode:
    bare = copy.deepcopy(notebook)
    for cell in bare.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return bare


def lesson_names(folders: Folders, asked: Sequence[str]) -> list[str]:
    """Return the names of the sources asked for: all when nothing is asked.

    Raises:
        SourceError: when a name fits no source.
    """
    known = sorted(path.stem for path in folders.source.glob("[0-9][0-9]_*.py"))
    if not asked:
        return known
    names = []
    for word in asked:
        stem = Path(word).stem
        fits = [name for name in known if name == stem or name[:2] == stem.zfill(2)]
        if not fits:
            raise SourceError(f"no source for {word!r} in {folders.source}; there is {known}")
        names += [name for name in fits if name not in names]
    return names


def main(arguments: Sequence[str] | None = None, folders: Folders | None = None) -> int:
    """Build or verify; return 0 when all went well, 1 when not, 2 for an unknown lesson."""
    description = textwrap.dedent(__doc__ or "").split("\n\n")[0]
    parser = argparse.ArgumentParser(prog="notebooks/build.py", description=description)
    parser.add_argument("lessons", nargs="*", metavar="LESSON", help="such as 1 or 01_tic_tac_toe")
    parser.add_argument("--student-only", action="store_true", help="run nothing, keep solutions")
    parser.add_argument("--verify", action="store_true", help="say what is stale, change nothing")
    options = parser.parse_args(arguments)
    folders = folders or Folders.of_repository(Path(__file__).resolve().parents[1])
    try:
        names = lesson_names(folders, options.lessons)
    except SourceError as error:
        print(error, file=sys.stderr)
        return 2
    if options.verify:
        problems = stale(folders, names)
        for problem in problems:
            print(problem, file=sys.stderr)
        if problems:
            print("Run make build (or python notebooks/build.py) and commit.", file=sys.stderr)
        else:
            print(f"{len(names)} lessons are as their sources say.")
        return 1 if problems else 0
    failures = build(folders, names, student_only=options.student_only)
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
