"""The builder: what it makes of a source, what it refuses, and that two builds are the same."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path

import nbformat
import pytest
import small_course
from nbformat.v4 import new_code_cell, new_notebook, new_output
from small_course import SOURCE, build

NAME = "91_small"


def read(path):
    return nbformat.read(path, as_version=4)


def code(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The small course, built with its solution executed."""
    with pytest.MonkeyPatch.context() as patch:
        yield small_course.make(tmp_path_factory.mktemp("course"), patch, execute=True)


@pytest.fixture
def course(tmp_path, monkeypatch):
    """The small course with student notebook and manifest, nothing executed."""
    return small_course.make(tmp_path, monkeypatch)


def files(folders):
    paths = [*folders.student.rglob("*.ipynb"), *folders.figures.glob("*"), folders.released]
    return {path: path.read_bytes() for path in paths}


# What is built ----------------------------------------------------------------------------------


def test_the_student_notebook_has_stubs_and_no_outputs(course):
    cells = code(course.student / f"{NAME}.ipynb")
    stub = next(cell.source for cell in cells if cell.source.startswith("def double"))
    assert stub == (
        'def double(x: float) -> float:\n    """Return 2x."""\n'
        '    raise NotImplementedError("exercise 91.1")'
    )
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)
    text = (course.student / f"{NAME}.ipynb").read_text()
    assert "x + x" not in text and "SOLUTION" not in text and "lines_to_next_cell" not in text


def test_the_solution_is_solved_and_executed(built):
    cells = code(built.solutions / f"{NAME}.ipynb")
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = {cell.source.splitlines()[0]: cell.outputs for cell in cells}
    assert outputs['check("91.1", double)'][0].data == {"text/plain": "91.1 passed (3 points)"}
    assert outputs["double(21)"][0].data["text/plain"] == "42"
    assert "SOLUTION" not in (built.solutions / f"{NAME}.ipynb").read_text()


def test_outputs_hold_nothing_of_the_machine_or_of_a_live_kernel(built):
    path = built.solutions / f"{NAME}.ipynb"
    text = str([cell.outputs for cell in code(path)])
    assert "step 1" in text
    for trace in ("widget-view", "stderr", "a warning", str(small_course.ROOT), "0x7", "ipykernel"):
        assert trace not in text
    assert set(read(path).metadata) == {"kernelspec", "language_info", "rlhf_lessons"}


def test_a_lesson_is_built_as_if_the_real_parts_were_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_LESSONS_CACHE", str(tmp_path))  # here they would be
    look = "from rlhf_lessons.real_parts import cache_folder\nprint(cache_folder().exists())"
    notebook = new_notebook(cells=[new_code_cell(look)])
    assert build.execute(notebook, "one").cells[0].outputs[0].text == "False\n"


def test_a_marked_figure_is_written(built):
    picture = (built.figures / "91_line.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


def test_check_cells_are_locked_and_marked(course):
    check = next(c for c in code(course.student / f"{NAME}.ipynb") if c.source.startswith("check"))
    assert check.metadata == {
        "editable": False,
        "deletable": False,
        "rlhf_lessons": {"kind": "check", "exercise": "91.1"},
    }


def test_student_and_solution_share_ids_and_a_source_hash(built):
    student, solution = (
        read(built.student / f"{NAME}.ipynb"),
        read(built.solutions / f"{NAME}.ipynb"),
    )
    ids = [cell.id for cell in student.cells]
    assert ids == [cell.id for cell in solution.cells]
    assert len(set(ids)) == len(ids)
    assert student.metadata == solution.metadata
    assert student.metadata.kernelspec.name == "python3"
    assert re.fullmatch(r"[0-9a-f]{64}", student.metadata.rlhf_lessons.source_sha256)


def test_equal_cells_have_different_ids(tmp_path, monkeypatch):
    folders = small_course.make(tmp_path, monkeypatch, SOURCE + "\n# %%\ndouble(21)\n")
    ids = [cell.id for cell in read(folders.student / f"{NAME}.ipynb").cells]
    assert len(set(ids)) == len(ids)


def test_the_manifest_has_the_points(course):
    entry = json.loads(course.released.read_text())["lessons"][NAME]
    assert entry["points"] == 4
    assert entry["title"] == "A small lesson"
    assert [e["exercise"] for e in entry["exercises"]] == ["91.1", "91.2"]
    assert entry["exercises"][0]["parts"][1] == {"name": "a negative number", "points": 2}
    assert entry["exercises"][0]["check"] == 'check("91.1", double)'


def test_two_builds_give_the_same_bytes(built, monkeypatch):
    small_course.allow_checks(built.source.parents[1] / "checks", monkeypatch)
    before = files(built)
    assert len(before) == 4
    for path in before:
        path.unlink()
    assert build.build(built, [NAME], say=lambda text: None) == []
    assert files(built) == before


# Saying what is stale ---------------------------------------------------------------------------


@pytest.fixture
def verified(built, monkeypatch):
    """The built course, as it was, after the test has damaged it."""
    small_course.allow_checks(built.source.parents[1] / "checks", monkeypatch)
    source = built.source / f"{NAME}.py"
    before = files(built) | {source: source.read_bytes()}
    yield built
    for path, content in before.items():
        path.write_bytes(content)


def test_a_fresh_build_is_not_stale(verified):
    assert build.stale(verified, [NAME]) == []
    assert build.main(["--verify"], verified) == 0


def test_an_edited_source_makes_everything_stale(verified, capsys):
    source = verified.source / f"{NAME}.py"
    source.write_text(source.read_text().replace("double(21)", "double(22)"))
    problems = "\n".join(build.stale(verified, [NAME]))
    assert f"{verified.student / NAME}.ipynb is stale" in problems
    assert f"{verified.solutions / NAME}.ipynb is stale" in problems
    assert "released.json does not match" in problems
    assert build.main(["--verify"], verified) == 1
    assert "make build" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"lessons": 3}', b"\xff\xfe"])
def test_damaged_files_are_stale_and_built_anew(tmp_path, monkeypatch, content):
    folders = small_course.make(tmp_path, monkeypatch)
    student = folders.student / f"{NAME}.ipynb"
    sound = student.read_bytes(), folders.released.read_bytes()
    student.write_bytes(content)
    folders.released.write_bytes(content)
    problems = "\n".join(build.stale(folders, [NAME]))
    assert "91_small.ipynb is stale" in problems
    folders.solutions.mkdir()
    (folders.solutions / f"{NAME}.ipynb").write_bytes(content)
    assert "91_small.ipynb cannot be read" in "\n".join(build.stale(folders, [NAME]))
    assert build.build(folders, [NAME], student_only=True, say=lambda text: None) == []
    assert (student.read_bytes(), folders.released.read_bytes()) == sound


def test_a_source_that_is_no_text_is_told(tmp_path, monkeypatch):
    folders = small_course.make(tmp_path, monkeypatch)
    (folders.source / f"{NAME}.py").write_bytes(b"\xff")
    (problem,) = build.stale(folders, [NAME])
    assert "a source is text in UTF-8" in problem
    (failure,) = build.build(folders, [NAME], student_only=True, say=lambda text: None)
    assert "is not built: 91_small.py: a source is text in UTF-8" in failure


def test_edited_built_files_are_stale(verified):
    student = verified.student / f"{NAME}.ipynb"
    student.write_text(student.read_text().replace("You will double", "You will triple"))
    (verified.figures / "91_line.png").write_bytes(b"something else")
    problems = "\n".join(build.stale(verified, [NAME]))
    assert "91_small.ipynb is stale" in problems and "91_line.png is stale" in problems


def test_missing_and_damaged_files_are_told(verified):
    (verified.student / f"{NAME}.ipynb").unlink()
    (verified.solutions / f"{NAME}.ipynb").write_text("{")
    problems = "\n".join(build.stale(verified, [NAME]))
    assert "is missing" in problems and "cannot be read" in problems


def test_a_solution_that_was_not_run_is_told(verified):
    path = verified.solutions / f"{NAME}.ipynb"
    notebook = read(path)
    next(c for c in notebook.cells if c.cell_type == "code").execution_count = None
    path.write_text(build.notebook_text(notebook))
    assert "not run" in "\n".join(build.stale(verified, [NAME]))


def test_a_removed_output_of_a_check_is_told(verified):
    path = verified.solutions / f"{NAME}.ipynb"
    notebook = read(path)
    next(c for c in notebook.cells if "check(" in c.source and c.cell_type == "code").outputs = []
    path.write_text(build.notebook_text(notebook))
    assert "output was removed" in "\n".join(build.stale(verified, [NAME]))


# What is refused --------------------------------------------------------------------------------

REFUSED = {
    "an unknown kind": ('kind="train"', 'kind="trian"', "kind= is one of"),
    "an unknown entry": ('kind="train"', 'kid="train"', "got kid"),
    "an exercise without number": ('kind="exercise" exercise="91.2"', 'kind="exercise"', "need it"),
    "a number without exercise": ('kind="train"', 'kind="train" exercise="91.2"', "goes with"),
    "a region at the margin": (
        "    ### BEGIN SOLUTION\n    return x",
        "### BEGIN SOLUTION\n    return x",
        "inside the function",
    ),
    "a region without end": (
        "    return x + x\n    ### END SOLUTION",
        "    return x + x",
        "without ### END",
    ),
    "an end without beginning": (
        "    ### BEGIN SOLUTION\n    return x",
        "    return x",
        "without ### BEGIN",
    ),
    "an exercise without region": (
        "    ### BEGIN SOLUTION\n    return x + x\n    ### END SOLUTION",
        "    return x + x",
        "an exercise needs",
    ),
    "a region elsewhere": (
        "double(21)",
        "if True:\n    ### BEGIN SOLUTION\n    pass\n    ### END SOLUTION",
        "belongs in a cell",
    ),
    "a check with more lines": (
        'check("91.1", double)',
        'check("91.1", double)\nprint()',
        "one line",
    ),
    "a check of another exercise": (
        'check("91.1", double)',
        'check("91.2", double)',
        "cell checks 91.2",
    ),
    "a check of another function": (
        'check("91.1", double)',
        'check("91.1", total)',
        "asks for double",
    ),
    "a name that is not defined": ("def double", "def dubble", "does not define double"),
    "an unknown exercise": ('"91.2"', '"91.7"', "91.7"),
    "a check before its exercise": (
        '# %% kind="exercise" exercise="91.1"',
        '# %% kind="check" exercise="91.1"\ncheck("91.1", double)\n\n'
        '# %% kind="exercise" exercise="91.1"',
        "before its exercise",
    ),
    "an exercise without check": (
        '# %% kind="check" exercise="91.2"\ncheck("91.2", total)',
        "",
        "no check cell",
    ),
    "no title": ("# # A small lesson", "# A small lesson", "first cell"),
    "a stub that does not compile": ("def double(x: float)", "def double(x: float", "line 1"),
    "a figure with a path": ('figure="91_line"', 'figure="../line"', "figure="),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_source_that_breaks_a_rule_is_refused(course, case):
    old, new, fragment = REFUSED[case]
    assert old in SOURCE
    (course.source / f"{NAME}.py").write_text(SOURCE.replace(old, new))
    before = files(course)
    failures = build.build(course, [NAME], student_only=True, say=lambda text: None)
    assert len(failures) == 1 and fragment in failures[0]
    assert files(course) == before


def test_a_lesson_that_fails_leaves_the_others_built(course):
    (course.source / "90_other.py").write_text("print(1)")
    (course.student / f"{NAME}.ipynb").unlink()
    failures = build.build(course, ["90_other", NAME], student_only=True, say=lambda text: None)
    assert len(failures) == 1 and "90_other" in failures[0]
    assert (course.student / f"{NAME}.ipynb").is_file()


def test_a_folder_that_cannot_be_written_is_told(course, monkeypatch):
    def refuse(*arguments, **named):
        raise PermissionError(13, "Permission denied", str(course.student))

    monkeypatch.setattr(build.tempfile, "mkstemp", refuse)
    (course.student / f"{NAME}.ipynb").unlink()
    failures = build.build(course, [NAME], student_only=True, say=lambda text: None)
    assert len(failures) == 1 and "Permission denied" in failures[0]


def test_a_cell_that_fails_writes_nothing(course):
    source = SOURCE[: SOURCE.index("# %% [markdown]\n# ### Exercise")]
    (course.source / f"{NAME}.py").write_text(source + "\n# %%\n1 / 0\n")
    before = files(course)
    failures = build.build(course, [NAME], say=lambda text: None)
    assert "ZeroDivisionError" in failures[0] and "1 / 0" in failures[0]
    assert files(course) == before


def test_a_marked_cell_without_picture_is_refused(course):
    with pytest.raises(RuntimeError, match="'91_line'.*shows no PNG"):
        build.figures_of(read(course.student / f"{NAME}.ipynb"))


def test_unknown_lesson(course, capsys):
    assert build.main(["97"], course) == 2
    assert "no source for '97'" in capsys.readouterr().err
    assert build.lesson_names(course, ["91"]) == [NAME]
    assert build.lesson_names(course, ["notebooks/source/91_small.py", "91"]) == [NAME]


# Parts ------------------------------------------------------------------------------------------


def test_streams_are_joined_and_overwritten_lines_are_gone():
    outputs = [
        new_output("stream", name="stdout", text="one\n"),
        new_output("stream", name="stderr", text="noise"),
        new_output("stream", name="stdout", text="10%\r100%\ntwo\r\n"),
    ]
    (output,) = build.clean_outputs(outputs, ())
    assert output.text == "one\n100%\ntwo\n"


def test_a_widget_keeps_its_picture_only():
    view = {build.WIDGET_MIME: {"model_id": "x"}, "text/plain": "HBox()"}
    outputs = [
        new_output("display_data", data=view),
        new_output("display_data", data=view | {"image/png": "AAAA"}),
    ]
    (output,) = build.clean_outputs(outputs, ())
    assert output.data == {"image/png": "AAAA"}


def test_machine_traces_are_taken_out():
    text = f"{os.path.expanduser('~')}/x <o at 0x7f12ab34cd56> /tmp/work/a /tmp/ipykernel_3/12.py:1"
    outputs = [new_output("stream", name="stdout", text=text)]
    (output,) = build.clean_outputs(outputs, ("/tmp/work",))
    assert output.text == ".../x <o at 0x...> .../a <cell>:1"


def test_a_full_disk_leaves_the_old_files_of_a_lesson_in_place(tmp_path, monkeypatch):
    old = {tmp_path / "new" / name: b"old" for name in "abc"}
    assert build.write_changed(old) == list(old)
    assert build.write_changed(old) == []
    assert {stat.S_IMODE(path.stat().st_mode) for path in old} == {0o644}

    genuine = Path.write_bytes

    def full(path, data):
        if path.name.startswith(".c"):
            raise OSError(28, "No space left on device")
        return genuine(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        build.write_changed(dict.fromkeys(old, b"new"))
    assert {path: path.read_bytes() for path in (tmp_path / "new").iterdir()} == old


def test_the_manifest_forgets_lessons_without_source(course):
    content = json.loads(course.released.read_text())
    content["lessons"]["90_gone"] = {}
    course.released.write_text(json.dumps(content))
    build.build(course, [NAME], student_only=True, say=lambda text: None)
    assert list(json.loads(course.released.read_text())["lessons"]) == [NAME]
