"""The notebooks that exist: solutions run, students' are to do, none is stale."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys

import nbformat
import pytest
import small_course
from small_course import ROOT, build

from rlhf_lessons.classroom import grade
from rlhf_lessons.classroom.exercises import find_exercise

FOLDERS = build.Folders.of_repository(ROOT)
LESSONS = build.lesson_names(FOLDERS, [])
each_lesson = pytest.mark.parametrize("name", LESSONS)


def manifest(name: str) -> dict:
    return json.loads(FOLDERS.released.read_text(encoding="utf-8"))["lessons"][name]


@each_lesson
def test_built_files_are_what_the_source_gives(name):
    assert build.stale(FOLDERS, [name]) == []


@pytest.mark.notebook
@each_lesson
def test_the_solution_runs_from_a_fresh_kernel(name):
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "-q"]
    command += ["--nbval-cell-timeout=600", "-p", "no:cacheprovider", "--tb=short"]
    command += [str(FOLDERS.solutions / f"{name}.ipynb")]
    done = subprocess.run(
        command, capture_output=True, text=True, env=small_course.environment(), timeout=1800
    )
    assert done.returncode == 0, done.stdout[-6000:]


@each_lesson
def test_no_cell_has_more_than_forty_lines(name):
    notebook = nbformat.read(FOLDERS.student / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        kind = cell.metadata.get("rlhf_lessons", {}).get("kind")
        if cell.cell_type == "code" and kind != "exercise":
            assert len(cell.source.splitlines()) <= 40, cell.source[:200]


@pytest.mark.notebook
@each_lesson
def test_the_student_notebook_is_all_to_do(name):
    path = FOLDERS.student / f"{name}.ipynb"
    before = path.read_bytes()
    graded = grade.grade_notebook(path, name, manifest(name), quick=True)
    assert graded.problem == ""
    assert {scored.status for scored in graded.exercises} == {"to do"}
    assert graded.points == 0 < graded.total
    assert graded.notes == ()
    assert path.read_bytes() == before


@each_lesson
def test_the_solution_shows_every_check_as_passed(name):
    notebook = nbformat.read(FOLDERS.solutions / f"{name}.ipynb", as_version=4)
    shown = {}
    for cell in notebook.cells:
        about = cell.metadata.get("rlhf_lessons", {})
        if about.get("kind") == "check":
            shown[about["exercise"]] = cell.outputs[0].data["text/plain"]
    for entry in manifest(name)["exercises"]:
        assert shown[entry["exercise"]].startswith(f"{entry['exercise']} passed (")


@each_lesson
def test_stored_outputs_need_no_kernel_and_name_no_machine(name):
    notebook = nbformat.read(FOLDERS.solutions / f"{name}.ipynb", as_version=4)
    outputs = [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]
    for output in outputs:
        assert output.output_type != "error"
        assert output.get("name") != "stderr"
        text = json.dumps({k: v for k, v in output.get("data", {}).items() if "image" not in k})
        text = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text) + output.get("text", "")
        for trace in ("widget-view", str(ROOT), "/home/", "/root/", "/tmp/", "site-packages"):
            assert trace not in text
    assert "widgets" not in notebook.metadata


@each_lesson
def test_a_lesson_has_at_least_seven_exercises_in_order_each_with_two_hints(name):
    student = nbformat.read(FOLDERS.student / f"{name}.ipynb", as_version=4)
    numbers = [entry["exercise"] for entry in manifest(name)["exercises"]]
    assert len(numbers) >= 7
    assert numbers == [f"{int(name[:2])}.{place}" for place in range(1, len(numbers) + 1)]
    prose = "\n".join(cell.source for cell in student.cells if cell.cell_type == "markdown")
    for number in numbers:
        section = re.search(rf"### Exercise {re.escape(number)} · (.*?)(?=\n### |\Z)", prose, re.S)
        assert section, f"no heading '### Exercise {number} · ...'"
        assert section[1].splitlines()[0].strip() == find_exercise(number).title
        assert section[1].count("<details>") >= 2
        assert re.search(r"[●○]{3}", section[1]) and re.search(r"\d+ min", section[1])


POINTS = {"●○○": 2, "●●○": 3, "●●●": 4}


@each_lesson
def test_an_exercise_is_worth_what_its_difficulty_says(name):
    source = (FOLDERS.source / f"{name}.py").read_text(encoding="utf-8")
    heading = r"^# ### Exercise (\S+) · .*\n#\n# ([●○]{3}) · \d+ min\w* · (\d+) points$"
    told = re.findall(heading, source, re.M)
    entries = manifest(name)["exercises"]
    assert [number for number, _, _ in told] == [entry["exercise"] for entry in entries]
    for (number, mark, points), entry in zip(told, entries, strict=True):
        assert (int(points), entry["points"]) == (POINTS[mark],) * 2, number
        assert find_exercise(number).total == POINTS[mark], number
    exercises, points = re.search(r"(\d+) exercises, (\d+) points", source).groups()
    assert int(exercises) == len(entries)
    assert int(points) == manifest(name)["points"] == sum(entry["points"] for entry in entries)


@each_lesson
def test_every_exercise_has_wrong_answers(name):
    assert (ROOT / "tests" / "wrong_answers" / f"{name[:2]}.py").is_file()


SCOPES = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def bound_names(tree: ast.AST) -> dict[str, int]:
    """The names that a notebook's cells bind, not their functions, each with its last line."""
    bound = {}
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            bound[node.name] = node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound[node.id] = node.lineno
        elif not isinstance(node, SCOPES):
            bound |= bound_names(node)
    return bound


@each_lesson
def test_no_cell_gives_another_meaning_to_a_name_that_a_widget_above_draws_with(name):
    """A slider is moved after the whole notebook has run, and its picture looks names up then."""
    tree = ast.parse((FOLDERS.source / f"{name}.py").read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    last = bound_names(tree)
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "explore"):
            continue
        used, open_ = set(), [node.args[0].id]
        while open_:
            used.add(function := open_.pop())
            within = [n for n in ast.walk(functions[function]) if isinstance(n, ast.Name)]
            own = {n.id for n in within if isinstance(n.ctx, ast.Store)}
            own |= {a.arg for a in ast.walk(functions[function]) if isinstance(a, ast.arg)}
            names = {n.id for n in within} - own
            open_ += (names & functions.keys()) - used
            used |= names
        changed = {n: last[n] for n in used & last.keys() if last[n] > node.lineno}
        assert not changed, f"{node.args[0].id} in line {node.lineno} uses {changed}"
