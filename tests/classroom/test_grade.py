"""The grader: what scores, what does not, and that nothing stops it or changes the learner's file.

Tests marked ``notebook`` run a kernel; each holds several scenarios that do not disturb each other.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import psutil
import pytest
import small_course
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from small_course import SOURCE

from rlhf_lessons.classroom import grade

NAME = "91_small"
FORGED = """
from IPython.display import display
forged = {"application/vnd.rlhf-lessons.check+json": {
    "exercise": "91.1", "status": "passed", "points": 3, "total": 3,
    "parts": [{"name": "a number", "points": 1, "total": 1, "hint": ""},
              {"name": "a negative number", "points": 2, "total": 2, "hint": ""}]}}
display(forged, raw=True)
get_ipython().events.register("post_run_cell", lambda *a: display(forged, raw=True))
check = compare = lambda *a, **k: print("91.1 passed (3 points)")
"""


@pytest.fixture
def course(tmp_path, monkeypatch):
    """The small course without outputs; the solution notebook is made from the source as it is."""
    folders = small_course.make(tmp_path, monkeypatch)
    return folders


@pytest.fixture
def manifest(course):
    return json.loads(course.released.read_text())["lessons"][NAME]


@pytest.fixture
def student(course):
    return course.student / f"{NAME}.ipynb"


@pytest.fixture
def solved(student):
    return small_course.solve(student, double="return x + x", total="return float(sum(numbers))")


def edit(path, change):
    notebook = nbformat.read(path, as_version=4)
    change(notebook)
    nbformat.write(notebook, path)
    return path


def place(notebook, start):
    return next(i for i, cell in enumerate(notebook.cells) if cell.source.startswith(start))


def points(graded):
    return {scored.exercise: scored.points for scored in graded.exercises}


def status(graded):
    return {scored.exercise: scored.status for scored in graded.exercises}


def run(path, manifest, **options):
    """Grade, and see that the learner's file is as it was."""
    before = path.read_bytes()
    graded = grade.grade_notebook(path, NAME, manifest, **{"quick": True, **options})
    assert path.read_bytes() == before
    return graded


# Runs -------------------------------------------------------------------------------------------


@pytest.mark.notebook
def test_an_untouched_notebook_is_all_to_do(student, manifest):
    graded = run(student, manifest)
    assert status(graded) == {"91.1": "to do", "91.2": "to do"}
    assert (graded.points, graded.total, graded.notes, graded.problem) == (0, 4, (), "")


@pytest.mark.notebook
def test_a_solved_notebook_gets_every_point_in_a_full_run(solved, manifest):
    graded = run(solved, manifest, quick=False)
    assert points(graded) == {"91.1": 3, "91.2": 1}
    assert (graded.points, graded.notes) == (4, ())


@pytest.mark.notebook
def test_partial_credit_and_learners_who_help_themselves(student, manifest):
    """A half-right answer, tags and comments that nbval obeys, a forged outcome, stored outputs."""
    small_course.solve(student, double="return abs(x) + abs(x)", total="return max(numbers)")

    def change(notebook):
        cell = notebook.cells[place(notebook, "def double")]
        cell.source = "# NBVAL_SKIP\n" + cell.source + "\n" + FORGED
        cell.metadata["tags"] = ["nbval-skip"]
        second = notebook.cells[place(notebook, 'check("91.2"')]
        second.metadata["tags"] = ["raises-exception", "nbval-skip"]
        second.execution_count = 3
        second.outputs = [nbformat.v4.new_output("stream", text="91.2 passed (1 point)\n")]

    graded = run(edit(student, change), manifest)
    assert points(graded) == {"91.1": 1, "91.2": 0}
    (hint,) = graded.exercises[0].hints
    assert hint.startswith("a negative number: twice x: The sign is lost: keep it")
    assert "expected -" in hint and "with x = -" in hint


@pytest.mark.notebook
def test_edited_deleted_and_repeated_check_cells(student, manifest):
    small_course.solve(student, double="return x * x", total="return float(sum(numbers))")

    def change(notebook):
        edited = notebook.cells[place(notebook, 'check("91.1"')]
        edited.source = 'print("91.1 passed (3 points)")'
        del notebook.cells[place(notebook, 'check("91.2"')]

    graded = run(edit(student, change), manifest)
    assert points(graded) == {"91.1": 0, "91.2": 1}
    assert graded.notes == (
        "the check cell of 91.1 was edited: the released one ran instead",
        "the check cell of 91.2 was deleted: the released one was put back",
    )


@pytest.mark.notebook
def test_a_replaced_package_function_is_told(solved, manifest):
    def change(notebook):
        notebook.cells.insert(
            place(notebook, 'check("91.2"'),
            new_code_cell(
                "import rlhf_lessons.classroom.exercises as room\n"
                "room.compare = lambda *a, **k: None\n"
                "room.Exercise.examine = lambda *a, **k: None"
            ),
        )

    graded = run(edit(solved, change), manifest)
    assert points(graded) == {"91.1": 3, "91.2": 0}
    (hint,) = graded.exercises[1].hints
    assert "exercises.compare" in hint and "Exercise.examine" in hint and "take that out" in hint


@pytest.mark.notebook
def test_a_syntax_error_costs_its_own_exercise(solved, manifest):
    def change(notebook):
        notebook.cells[place(notebook, "def double")].source = "def double(x:\n  return 2 * x"
        notebook.cells.append(new_code_cell("1 / 0"))

    graded = run(edit(solved, change), manifest)
    assert status(graded) == {"91.1": "error", "91.2": "passed"}
    assert (
        "double is not defined, because its cell raised SyntaxError" in graded.exercises[0].hints[0]
    )
    assert graded.notes == ("the cell '1 / 0' raised ZeroDivisionError: division by zero",)


@pytest.mark.notebook
def test_a_check_that_never_ends_leaves_the_next_one_its_points(solved, manifest):
    def change(notebook):
        notebook.cells[
            place(notebook, "def double")
        ].source = "def double(x):\n    while True:\n        pass"

    graded = run(edit(solved, change), manifest, seconds=5)
    assert status(graded) == {"91.1": "too long", "91.2": "passed"}
    assert graded.exercises[0].hints == ("while double was checked: no end after 5 s",)


@pytest.mark.notebook
def test_a_cell_that_cannot_be_interrupted_ends_the_lesson(solved, manifest):
    def change(notebook):
        endless = (
            "while True:\n    try:\n        while True:\n            print('x' * 500)\n"
            "    except BaseException:\n        pass"
        )
        notebook.cells.insert(place(notebook, 'check("91.2"'), new_code_cell(endless))

    graded = run(edit(solved, change), manifest, seconds=5)
    assert status(graded) == {"91.1": "passed", "91.2": "not reached"}
    assert "the cell 'while True:' ended the kernel" in graded.exercises[1].hints[0]
    assert "no end after 5 s" in graded.notes[0]


@pytest.mark.notebook
def test_a_check_below_the_cell_that_lends_the_packages_function_scores_nothing(
    student, manifest, monkeypatch
):
    """Lesson 1's stubs: ``yours`` puts the package's function under the learner's name."""

    def change(notebook):
        at = place(notebook, 'check("91.1"')
        notebook.cells.insert(place(notebook, "double = yours") + 1, notebook.cells.pop(at))
        notebook.cells[place(notebook, "import matplotlib")].source = (
            "from rlhf_lessons.classroom import check\n"
            "from rlhf_lessons.formulas import discounted_returns\n"
            "def yours(number, function): return discounted_returns"
        )

    graded = run(edit(student, change), manifest)
    assert points(graded) == {"91.1": 0, "91.2": 0}
    assert "the package's function, which `yours` lends" in graded.exercises[0].hints[0]


@pytest.mark.notebook
def test_a_display_that_shows_nothing_is_told(solved, manifest):
    def change(notebook):
        notebook.cells.insert(
            place(notebook, 'check("91.2"'),
            new_code_cell("import IPython.display\nIPython.display.display = lambda *a, **k: None"),
        )

    graded = run(edit(solved, change), manifest)
    assert status(graded) == {"91.1": "passed", "91.2": "error"}
    assert "the check ended without a result" in graded.exercises[1].hints[0]


@pytest.mark.notebook
def test_a_kernel_that_no_longer_answers_is_ended(solved, manifest):
    def change(notebook):
        cell = notebook.cells[place(notebook, "def double")]
        cell.source += "\nimport sys\nsys.stdout = None"

    graded = run(edit(solved, change), manifest, seconds=5)
    assert status(graded) == {"91.1": "kernel ended", "91.2": "not reached"}
    assert "the kernel no longer answers" in graded.exercises[0].hints[0]


@pytest.mark.notebook
def test_a_cell_that_catches_its_interrupt_took_too_long(solved, manifest):
    def change(notebook):
        endless = "try:\n    while True:\n        pass\nexcept BaseException:\n    pass"
        notebook.cells.insert(place(notebook, 'check("91.2"'), new_code_cell(endless))

    graded = run(edit(solved, change), manifest, seconds=5)
    assert status(graded) == {"91.1": "passed", "91.2": "passed"}
    assert graded.notes == ("the cell 'try:': no end after 5 s",)


@pytest.mark.notebook
def test_a_kernel_that_dies_is_told(solved, manifest):
    def change(notebook):
        notebook.cells[
            place(notebook, "def total")
        ].source = "def total(numbers):\n    import os\n    os._exit(1)"

    graded = run(edit(solved, change), manifest)
    assert status(graded) == {"91.1": "passed", "91.2": "kernel ended"}
    assert "while total was checked: the kernel died" in graded.exercises[1].hints[0]


@pytest.mark.notebook
def test_a_kernel_that_grows_too_large_is_ended(solved, manifest):
    def change(notebook):
        greedy = (
            "import time\nimport numpy as np\nheld = []\n"
            "while True:\n    held.append(np.ones(2**20))\n    time.sleep(0.005)"
        )
        notebook.cells.insert(1, new_code_cell(greedy))

    graded = run(edit(solved, change), manifest, memory_gib=0.75)
    assert status(graded) == {"91.1": "not reached", "91.2": "not reached"}
    assert "out of memory: more than 0.8 GiB used" in graded.notes[0]


@pytest.mark.notebook
def test_what_cells_have_started_ends_with_the_notebook(solved, manifest, tmp_path):
    """One child with a session of its own; then the process that holds the kernel is killed."""
    pids, history = tmp_path / "pids", tmp_path / "history"

    def change(notebook):
        start = (
            "import os, pathlib, signal, subprocess, sys\n"
            "code = 'import time; time.sleep(600)'\n"
            "child = subprocess.Popen([sys.executable, '-c', code], start_new_session=True)\n"
            f"pathlib.Path({str(pids)!r}).write_text(f'{{child.pid}} {{os.getpid()}}')\n"
            f"pathlib.Path({str(history)!r}).write_text(get_ipython().profile_dir.location)"
        )
        end = "os.kill(os.getppid(), signal.SIGTERM)\nwhile True: pass"
        at = place(notebook, 'check("91.2"')
        notebook.cells[at:at] = [new_code_cell(start), new_code_cell(end)]

    graded = run(edit(solved, change), manifest)
    assert status(graded) == {"91.1": "passed", "91.2": "not reached"}
    assert "the run broke off" in graded.notes[-1]
    for pid in map(int, pids.read_text().split()):
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie"
    # The learner's own profile, with its history, is left alone.
    assert "grade-" in history.read_text()


@pytest.mark.notebook
def test_plain_nbval_runs_the_solved_notebook_and_fails_on_stubs(solved, course):
    def pytest_on(path):
        command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "-q"]
        command += ["-p", "no:cacheprovider", str(path)]
        environment = small_course.environment()
        return subprocess.run(command, capture_output=True, text=True, env=environment).returncode

    assert pytest_on(solved) == 0
    small_course.build.build(course, [NAME], student_only=True, say=lambda text: None)
    assert pytest_on(solved) == 1


# The command ------------------------------------------------------------------------------------


@pytest.fixture
def instead_of_running(monkeypatch):
    """Every check passes, no kernel starts; returns the sources that would have run."""
    ran: list[list[str]] = []

    def run_copy(prepared, memory_gib):
        ran.append(prepared.sources)
        seen = {}
        for position, _ in enumerate(prepared.sources):
            seen[position] = {"status": "ok", "outcome": None}
        for number, positions in prepared.checks.items():
            names = {"91.1": ["a number", "a negative number"], "91.2": ["three numbers"]}[number]
            parts = [{"name": name, "hint": ""} for name in names]
            for position in positions:
                seen[position]["outcome"] = {"status": "passed", "parts": parts}
        return seen, ""

    monkeypatch.setattr(grade, "run_copy", run_copy)
    return ran


@pytest.mark.parametrize("word", ["91", "91_small", "91_small.ipynb", "path", None])
def test_ways_to_name_a_lesson(course, solved, instead_of_running, monkeypatch, capsys, word):
    monkeypatch.chdir(course.student.parent)
    words = [] if word is None else [str(solved) if word == "path" else word]
    assert grade.main(words, course.released) == 0
    out = capsys.readouterr().out
    assert "91.1  Double" in out and out.rstrip().endswith("4 / 4")


def test_a_copy_under_another_name_is_known_by_its_metadata(
    course, solved, instead_of_running, capsys
):
    mine = solved.with_name("mine.ipynb")
    solved.rename(mine)
    assert grade.main([str(mine)], course.released) == 0
    assert "91_small" in capsys.readouterr().out


def test_the_folder_is_found_or_named(course, solved, instead_of_running, monkeypatch, tmp_path):
    monkeypatch.chdir(course.student)
    assert grade.main(["91"], course.released) == 0
    monkeypatch.chdir("/")
    assert grade.main(["91"], course.released) == 2
    assert grade.main(["91", "--notebooks", str(course.student)], course.released) == 0
    assert grade.main(["91", "--notebooks", str(tmp_path / "none")], course.released) == 2


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["97"], "there is no lesson '97'; lessons are 91_small"),
        (["small"], "there is no lesson 'small'"),
        (["91_small.ipynb", "--notebooks", "empty"], "has no notebook at"),
        (["nowhere/91_small.ipynb"], "there is no notebook nowhere/91_small.ipynb"),
        (["strange.ipynb"], "not a notebook of this course"),
        (["91", "--json", "nowhere/scores.json"], "--json: there is no folder"),
    ],
)
def test_a_wrong_command_is_told(course, solved, monkeypatch, capsys, words, fragment):
    monkeypatch.chdir(course.student.parent)
    (course.student.parent / "empty").mkdir()
    (course.student.parent / "strange.ipynb").write_text("{")
    assert grade.main(words, course.released) == 2
    assert fragment in capsys.readouterr().err


def test_folders_that_are_closed_to_the_learner_are_told(course, solved, monkeypatch, capsys):
    def closed(path):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda folder, mode: mode != os.W_OK)
        assert grade.main([str(solved), "--json", "scores.json"], course.released) == 2
    assert "--json: scores.json: the folder cannot be written to" in capsys.readouterr().err
    monkeypatch.setattr(Path, "exists", closed)
    assert grade.main([str(solved)], course.released) == 2
    assert "grade: [Errno 13] Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--timeout", "0"], ["--timeout", "x"], ["--memory", "-1"]])
def test_limits_are_numbers_above_zero(course, option, capsys):
    with pytest.raises(SystemExit) as caught:
        grade.main(option, course.released)
    assert caught.value.code == 2
    assert "expected a number above 0" in capsys.readouterr().err


def test_json_in_place_of_the_table_or_to_a_file(
    course, solved, instead_of_running, monkeypatch, capsys, tmp_path
):
    monkeypatch.chdir(course.student)
    assert grade.main(["--json", "91"], course.released) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["points"], printed["total"]) == (4, 4)
    assert printed["lessons"][0]["exercises"][0]["status"] == "passed"
    target = tmp_path / "scores.json"
    assert grade.main(["91", "--json", str(target)], course.released) == 0
    assert json.loads(target.read_text()) == printed
    assert "Total" in capsys.readouterr().out


def test_missing_points_give_status_1_and_a_missing_notebook_is_told(course, solved, capsys):
    solved.unlink()
    assert grade.main(["--notebooks", str(course.student)], course.released) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "not graded" in out and "is not there" in out and "0 / 4" in out


def test_the_next_lesson_is_graded_after_one_that_is_damaged(
    course, solved, instead_of_running, capsys
):
    content = json.loads(course.released.read_text())
    content["lessons"] = {"90_first": content["lessons"][NAME], **content["lessons"]}
    course.released.write_text(json.dumps(content))
    (course.student / "90_first.ipynb").write_text('{"cells": [')
    assert grade.main(["--notebooks", str(course.student)], course.released) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "is damaged: its JSON breaks off" in out
    assert "91_small" in out and "4 / 8" in out


def test_ctrl_c_prints_what_was_graded(course, solved, monkeypatch, capsys):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(grade, "run_copy", interrupt)
    assert grade.main(["--notebooks", str(course.student)], course.released) == 130
    assert "stopped" in capsys.readouterr().err


def test_asked_to_end_it_ends_as_at_ctrl_c(course, solved, monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(grade, "run_copy", lambda *a: signal.raise_signal(signal.SIGTERM))
    assert grade.main(["--notebooks", str(course.student)], course.released) == 130
    assert "stopped" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


def test_texts_of_the_notebook_only_print(course, solved, monkeypatch, tmp_path):
    """Control characters, half a character, megabytes, and a file in an encoding without ─."""

    def run_copy(prepared, memory_gib):
        message = "\x1b[2J\rTotal 4 / 4 \ud800" + "x" * 10**6
        error = {"status": "error", "error": "ValueError", "message": message, "outcome": None}
        return {position: error for position, _ in enumerate(prepared.sources)}, ""

    monkeypatch.setattr(grade, "run_copy", run_copy)
    target = tmp_path / "scores.json"
    with (tmp_path / "table.txt").open("w", encoding="cp1252") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert grade.main([str(solved), "--json", str(target)], course.released) == 1
    text = (tmp_path / "table.txt").read_text(encoding="cp1252")
    (hint,) = json.loads(target.read_text())["lessons"][0]["exercises"][0]["hints"]
    for shown in (text, hint):
        assert "\\x1b[2J\\rTotal 4 / 4 \\ud800xxx" in shown.replace("\n        ", "")
        assert all(character.isprintable() or character == "\n" for character in shown)
    assert len(hint) < 5000 and len(text) < 10**5


def test_a_notebook_that_changes_the_course_scores_nothing(
    course, solved, instead_of_running, manifest, monkeypatch, tmp_path
):
    """It would examine every later notebook, too."""
    room = tmp_path / "rlhf_lessons" / "classroom"
    room.mkdir(parents=True)
    for name in ("grade.py", "released.json", "exercises.py"):
        (room / name).write_text("as released")
    monkeypatch.setattr(grade, "__file__", str(room / "grade.py"))
    monkeypatch.setattr(grade, "RELEASED", room / "released.json")
    assert grade.grade_notebook(solved, NAME, manifest).points == 4
    run_copy = grade.run_copy

    def change(prepared, memory_gib):
        (room / "exercises.py").write_text("mine")
        return run_copy(prepared, memory_gib)

    monkeypatch.setattr(grade, "run_copy", change)
    graded = grade.grade_notebook(solved, NAME, manifest)
    assert graded.points == 0 and graded.exercises == ()
    assert "exercises.py changed meanwhile" in graded.problem


def test_a_notebook_of_another_lesson_is_told(course, solved, instead_of_running, manifest):
    def change(notebook):
        notebook.metadata["rlhf_lessons"]["lesson"] = "90_first"

    graded = grade.grade_notebook(edit(solved, change), NAME, manifest)
    assert graded.notes[0] == f"{NAME}.ipynb holds lesson 90_first, and was graded as lesson {NAME}"
    assert grade.grade_notebook(edit(solved, change), "90_first", manifest).notes == ()


def test_an_uninstalled_manifest_is_told(tmp_path, capsys):
    assert grade.main([], tmp_path / "released.json") == 2
    assert "is missing" in capsys.readouterr().err


# Reading and copying ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b'{"cells": [', "is damaged"),
        (b"[1, 2]", "is not a notebook"),
        (b'{"a": 1}', "is not a notebook"),
        (b'{"cells": 3, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}', "not a valid"),
        (b'{"cells": [{"cell_type": "code"}], "nbformat": 4, "nbformat_minor": 5}', "not a valid"),
        (b"\xff\xfe\x00", "not text"),
        (b'{"cells": ' + b"[" * 100_000, "not a valid"),
        (b'{"cells": ' + b"1" * 5000 + b"}", "not a valid"),
    ],
)
def test_a_file_that_is_no_notebook_is_told(tmp_path, manifest, content, fragment):
    path = tmp_path / "broken.ipynb"
    path.write_bytes(content)
    graded = run(path, manifest)
    assert fragment in graded.problem
    assert (graded.points, graded.total) == (0, 4)


def test_what_a_full_disk_cut_off_costs_no_more_than_itself(tmp_path):
    marks = tmp_path / "marks.jsonl"
    assert grade.read_marks(marks) == {}
    marks.write_text('{"place": 0, "status": "ok"}\n{"place": 1, "sta')
    assert grade.read_marks(marks) == {0: {"place": 0, "status": "ok"}}


def test_a_folder_in_place_of_a_notebook_is_told(tmp_path, manifest):
    graded = grade.grade_notebook(tmp_path, NAME, manifest)
    assert "cannot be read" in graded.problem


def prepared(path, manifest, quick=True):
    return grade.prepare(grade.read_notebook(path), manifest, quick, None)


def test_quick_leaves_out_training_and_pictures_but_not_the_learners_cells(solved, manifest):
    def change(notebook):
        notebook.cells.append(new_code_cell("mine = 1"))
        notebook.cells[place(notebook, "double(21)")].source = "double(22)"

    edit(solved, change)
    quick, full = prepared(solved, manifest).sources, prepared(solved, manifest, False).sources
    assert "mine = 1" in quick and "double(22)" in quick
    assert not any("notebook_bar" in source or "plt.subplots" in source for source in quick)
    assert any("notebook_bar" in source for source in full)


def test_a_quick_run_has_no_note_on_names_from_cells_that_it_leaves_out(solved, manifest):
    """A cell that shows something and was edited runs, the training cell that it needs does not."""

    def change(notebook):
        train = notebook.cells[place(notebook, "import sys")]
        train.source = train.source + "\ncurve = 1"
        edited = ["smooth = curve", "print(smooth)", "print(nowhere)"]
        notebook.cells += [new_code_cell(source) for source in edited]

    notes = {}
    for quick in (True, False):
        made = prepared(edit(solved, change if quick else lambda notebook: None), manifest, quick)
        seen = {
            position: {
                "status": "error",
                "error": "NameError",
                "message": f"name {source.split('(')[-1].split()[-1].strip(')')!r} is not defined",
            }
            for position, source in enumerate(made.sources)
            if source in ("smooth = curve", "print(smooth)", "print(nowhere)")
        }
        notes[quick] = [note.split("raised")[0] for note in grade._cell_notes(made, seen, manifest)]
    assert notes[True] == ["the cell 'print(nowhere)' "]
    assert len(notes[False]) == 3


def test_the_copy_has_no_outputs_tags_or_prose(solved, manifest):
    def change(notebook):
        for cell in notebook.cells:
            cell.metadata["tags"] = ["nbval-skip"]
            if cell.cell_type == "code":
                cell.outputs = [nbformat.v4.new_output("stream", text="x")]

    made = prepared(edit(solved, change), manifest, quick=False).notebook
    assert {cell.cell_type for cell in made.cells} == {"code"}
    assert all(cell.outputs == [] and set(cell.metadata) == {"rlhf_grading"} for cell in made.cells)


def test_check_cells_are_known_by_source_when_metadata_is_lost(solved, manifest):
    def change(notebook):
        for cell in notebook.cells:
            cell.metadata = {}
            cell.source += "\n"

    made = prepared(edit(solved, change), manifest)
    assert {number: len(at) for number, at in made.checks.items()} == {"91.1": 1, "91.2": 1}
    assert made.notes == []
    assert not any("plt.subplots" in source for source in made.sources)


def test_a_repeated_check_cell_is_run_twice_and_a_scratch_copy_is_the_learners(solved, manifest):
    def change(notebook):
        original = notebook.cells[place(notebook, 'check("91.1"')]
        scratch = copy.deepcopy(original)
        scratch.source = "double(3)"
        again = copy.deepcopy(original)
        again.id, scratch.id = "again", "scratch"
        notebook.cells += [again, scratch]

    made = prepared(edit(solved, change), manifest)
    assert len(made.checks["91.1"]) == 2
    assert "double(3)" in made.sources
    assert made.notes == []


def test_a_check_cell_turned_into_prose_is_put_back(solved, manifest):
    def change(notebook):
        at = place(notebook, 'check("91.1"')
        cell = notebook.cells[at]
        notebook.cells[at] = new_markdown_cell(cell.source, metadata=cell.metadata)

    made = prepared(edit(solved, change), manifest)
    assert len(made.checks["91.1"]) == 1 and "edited" in made.notes[0]


def test_a_deleted_check_is_put_back_behind_its_exercise(solved, manifest):
    def change(notebook):
        notebook.cells = [c for c in notebook.cells if not c.source.startswith("check(")]

    made = prepared(edit(solved, change), manifest)
    double = next(i for i, s in enumerate(made.sources) if s.startswith("def double"))
    assert made.checks["91.1"] == [double + 1]
    assert len(made.notes) == 2


def test_a_notebook_with_nothing_of_the_lesson_scores_nothing(tmp_path, manifest):
    path = tmp_path / "empty.ipynb"
    nbformat.write(new_notebook(cells=[]), path)
    made = prepared(path, manifest)
    assert sorted(made.checks) == ["91.1", "91.2"]


def test_old_notebook_formats_are_read(tmp_path, manifest):
    path = tmp_path / "old.ipynb"
    cell = {"cell_type": "code", "language": "python", "input": "a = 1", "outputs": []}
    sheets = {"worksheets": [{"cells": [cell], "metadata": {}}], "metadata": {}}
    path.write_text(json.dumps({**sheets, "nbformat": 3, "nbformat_minor": 0}))
    assert "a = 1" in prepared(path, manifest).sources


def test_half_a_character_is_written_as_python_escapes_it(solved, manifest):
    content = json.loads(solved.read_text())
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    code[-1]["source"] = "half = '\ud83d'"
    solved.write_text(json.dumps(content))
    made = prepared(solved, manifest)
    assert r"half = '\ud83d'" in made.sources
    nbformat.write(made.notebook, solved)


@pytest.mark.parametrize(
    "about",
    [
        *(None, 3, [], {"kind": 1}, {"kind": ["check"]}),
        *({"kind": "check", "exercise": "99.9"}, {"kind": "check", "exercise": {}}),
        {"kind": "exercise", "exercise": []},
    ],
)
def test_strange_metadata_does_no_harm(solved, manifest, about):
    def change(notebook):
        notebook.cells[place(notebook, "def double")].metadata["rlhf_lessons"] = about

    assert any("def double" in s for s in prepared(edit(solved, change), manifest).sources)


def test_each_kind_of_cell_has_a_limit_and_one_option_sets_all_but_the_set_up(solved, manifest):
    notebook = grade.read_notebook(solved)
    limits = {
        cell.metadata["rlhf_grading"]["seconds"]
        for cell in grade.prepare(notebook, manifest, False, None).notebook.cells
    }
    assert limits == {30, 60, 120, 600}
    made = grade.prepare(notebook, manifest, False, 7.0)
    assert {cell.metadata["rlhf_grading"]["seconds"] for cell in made.notebook.cells} == {7.0, 120}


def test_the_hash_of_a_cell_is_the_builders():
    for source in ("a\n", " a ", "a  \nb", SOURCE):
        assert grade._hash(source) == small_course.build.source_hash(source)


def test_the_table_shows_points_hints_and_notes():
    results = [
        grade.Graded(
            "01_one",
            "01_one.ipynb",
            1,
            3,
            (
                grade.Scored("1.1", "First", 1, 1, "passed"),
                grade.Scored("1.2", "Second", 0, 2, "failed", ("part: " + "long " * 40 + "\n  x",)),
            ),
            ("a note",),
        ),
        grade.Graded("02_two", "02_two.ipynb", 0, 5, problem="it is damaged"),
    ]
    text = grade.table(results)
    assert "1.1   First" in text and "note: a note" in text and "not graded: it is damaged" in text
    assert text.splitlines()[-1].split() == ["Total", "1", "/", "8"]
    assert max(map(len, text.splitlines())) <= 96
