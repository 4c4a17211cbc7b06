"""``benchmarks/kill_table.py``: the checks refuse a sample of mutants, and a survivor shows."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "kill_table.py"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="mutants run in forked processes")


@pytest.fixture(scope="module")
def kill_table():
    spec = importlib.util.spec_from_file_location("kill_table", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own: one that forks while threads run may hang."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=300
    )


def test_a_sample_of_mutants_is_refused():
    done = run(str(SCRIPT), "3.6", "5.6", "6.9", "--sample", "30", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3


def test_a_mutant_that_survives_and_is_not_listed_is_a_fault(tmp_path):
    (tmp_path / "none.csv").write_text("exercise,change,reason\n6.4,1 → 2,never made\n")
    code = (
        f"import pathlib, sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import kill_table\n"
        f"kill_table.EQUAL = pathlib.Path({str(tmp_path / 'none.csv')!r})\n"
        "sys.argv[1:] = ['6.4', '--jobs', '1']; sys.exit(kill_table.main())"
    )
    done = run("-c", code)
    assert done.returncode == 1
    assert "6.4: survived: -1 → 1" in done.stderr
    assert "6.4: none.csv lists what is killed: 1 → 2" in done.stderr


def test_the_table_in_docs_is_that_of_todays_exercises_and_list(kill_table):
    lines = [
        line.strip("| ").split(" | ") for line in kill_table.TABLE.read_text("utf-8").splitlines()
    ]
    table = {line[0]: list(map(int, line[1:])) for line in lines if line[-1].isdecimal()}
    total = table.pop("all")
    assert total == [sum(column) for column in zip(*table.values(), strict=True)]
    lessons = json.loads((ROOT / "rlhf_lessons/classroom/released.json").read_text("utf-8"))[
        "lessons"
    ]
    exercises = [one["exercise"] for lesson in lessons.values() for one in lesson["exercises"]]
    assert list(table) == exercises
    equal = kill_table.read_equal()
    for exercise, (mutants, killed, survived, listed) in table.items():
        assert (mutants - killed, survived) == (listed, 0)
        assert listed == len(equal[exercise])


def test_an_exercise_that_does_not_exist_is_refused():
    done = run(str(SCRIPT), "6.4", "10.1")
    assert done.returncode == 2
    assert done.stderr.endswith("NUMBER must be a lesson or an exercise, got 10.1\n")


def test_a_mutant_that_hangs_grows_crashes_or_errs_is_killed():
    bodies = ["while True: pass", "torch.zeros(2**36)", "import os; os.abort()", "return None"]
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import kill_table\n"
        "kill_table.SECONDS = 2\n"
        "for body in sys.argv[1:]:\n"
        "    source = 'import torch\\ndef implicit_reward(*given): ' + body\n"
        "    assert not kill_table.passes(kill_table.Mutant('6.4', 'none', source)), body"
    )
    done = run("-c", code, *bodies)
    assert done.returncode == 0, done.stderr


def test_every_kind_of_change_is_made(kill_table):
    source = '''
def f(x, mask):
    """Docstring."""
    with torch.no_grad():
        y = x.sum(dim=0) - x.detach()
    if y < 0 and mask:
        y += 3
    return -y if mask else [one for one in y if one]
'''
    module = ast.parse(source)
    before = ast.unparse(module)
    made = kill_table.mutants("0.0", module, module.body[0])
    assert ast.unparse(module) == before
    assert len({mutant.source for mutant in made}) == len(made)
    assert {mutant.change for mutant in made} == {
        "with torch.no_grad(): → if True:",
        "torch.no_grad() → torch",
        "y = x.sum(dim=0) - x.detach() → pass",
        "x.sum(dim=0) - x.detach() → x.sum(dim=0) + x.detach()",
        "x.sum(dim=0) → x.sum()",
        "x.sum(dim=0) → x.mean(dim=0)",
        "x.sum(dim=0) → x.max(dim=0)",
        "x.detach() → x",
        "0 → 1",
        "if y < 0 and mask: → if not (y < 0 and mask):",
        "if y < 0 and mask: → pass",
        "y < 0 and mask → y < 0 or mask",
        "y < 0 → y <= 0",
        "y < 0 → y > 0",
        "0 → 1 (place 2)",
        "y += 3 → y -= 3",
        "y += 3 → pass",
        "3 → 4",
        "3 → 0",
        "-y if mask else [one for one in y if one] → [one for one in y if one] if mask else -y",
        "-y → y",
        "for one in y if one → for one in y",
    }
