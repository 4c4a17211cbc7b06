"""A course of one short lesson, made in a folder of the test, for the builder and the grader."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]

CHECKS = """
from rlhf_lessons.classroom.exercises import Exercise, compare

double = Exercise("91.1", "Double", function="double", reference=lambda: lambda x: 2 * x)
total = Exercise("91.2", "Total", function="total", reference=lambda: sum)


@double.part("a number")
def _(answer, draw):
    x = 3.0 + float(draw.random())
    compare("twice x", answer(x), 2 * x, mistakes={"You squared x: add it to itself": x * x})


@double.part("a negative number", points=2)
def _(answer, draw):
    x = -1.0 - float(draw.random())
    compare("twice x", answer(x), 2 * x, mistakes={"The sign is lost: keep it": -2 * x})


@total.part("three numbers")
def _(answer, draw):
    x = draw.normal(size=3)
    compare("the total", answer(x), float(x.sum()), mistakes={"That is the mean": x.mean()})


EXERCISES = [double, total]
"""

SOURCE = '''# %% [markdown]
# # A small lesson
#
# You will double. *1 minute.*

# %% kind="setup"
import matplotlib.pyplot as plt

from rlhf_lessons.classroom import check, yours

# %% [markdown]
# ### Exercise 91.1 · Double

# %% kind="exercise" exercise="91.1"
def double(x: float) -> float:
    """Return 2x."""
    ### BEGIN SOLUTION
    return x + x
    ### END SOLUTION

# %% kind="check" exercise="91.1"
check("91.1", double)

# %% kind="setup"
double = yours("91.1", double)

# %% figure="91_line"
figure, axes = plt.subplots(figsize=(2, 1))
axes.plot([0, 1], [0, double(1)])
plt.show()

# %% kind="exercise" exercise="91.2"
def total(numbers) -> float:
    """Return the sum."""
    ### BEGIN SOLUTION
    return float(sum(numbers))
    ### END SOLUTION

# %% kind="check" exercise="91.2"
check("91.2", total)

# %% kind="train"
import sys
import time

import ipywidgets
from tqdm import tqdm
from tqdm.notebook import tqdm as notebook_bar

for i in notebook_bar(range(2)):
    print("step", i)
for _ in tqdm(range(2)):
    pass
print("a warning", file=sys.stderr)
print({"b", "a", "c"}, object(), __file__ if "__file__" in globals() else "no file")
ipywidgets.IntSlider()

# %%
double(21)
'''


def load_build():
    """The module notebooks/build.py, which is a script and in no package."""
    path = ROOT / "notebooks" / "build.py"
    spec = importlib.util.spec_from_file_location("notebooks_build", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


build = load_build()


def make(folder: Path, monkeypatch, source: str = SOURCE, execute: bool = False):
    """Write the small course into ``folder`` and build it; return the builder's Folders."""
    checks = folder / "checks"
    checks.mkdir(exist_ok=True)
    (checks / "lesson_91.py").write_text(CHECKS)
    (folder / "notebooks" / "source").mkdir(parents=True, exist_ok=True)
    (folder / "notebooks" / "source" / "91_small.py").write_text(source)
    allow_checks(checks, monkeypatch)
    folders = build.Folders(
        source=folder / "notebooks" / "source",
        student=folder / "notebooks",
        solutions=folder / "notebooks" / "solutions",
        figures=folder / "figures",
        released=folder / "released.json",
    )
    failures = build.build(folders, ["91_small"], student_only=not execute, say=lambda text: None)
    assert failures == []
    return folders


def allow_checks(folder: Path, monkeypatch) -> None:
    """Let ``check`` find lessons in ``folder``, in this process and in kernels that it starts."""
    import rlhf_lessons.classroom.checks as package

    monkeypatch.setenv("RLHF_LESSONS_CHECKS", str(folder))
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    for name in [n for n in sys.modules if n.startswith("rlhf_lessons.classroom.checks.lesson_9")]:
        monkeypatch.delitem(sys.modules, name)


def solve(path: Path, **answers: str) -> Path:
    """Write code into the stubs of a student notebook: function name -> source of its body."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        for function, body in answers.items():
            if cell.cell_type == "code" and cell.source.startswith(f"def {function}("):
                lines = cell.source.splitlines()
                stub = next(i for i, line in enumerate(lines) if "NotImplementedError" in line)
                lines[stub : stub + 1] = [f"    {line}" for line in body.splitlines()]
                cell.source = "\n".join(lines)
    nbformat.write(notebook, path)
    return path


def cells(path: Path):
    """The notebook, and its code cells by the start of their source."""
    notebook = nbformat.read(path, as_version=4)
    return notebook, [cell for cell in notebook.cells if cell.cell_type == "code"]


def environment() -> dict[str, str]:
    """The environment of a process that finds the package."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
