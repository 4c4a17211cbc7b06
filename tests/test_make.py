"""The set-up behind ``make lab`` and ``make test`` says what is missing and what to do.

Each test runs the project's Makefile in a folder of its own with a stand-in for Python.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

# A Python that is modern and has venv, whose environments hold a pip that behaves as $PIP says.
STAND_IN = """#!/bin/sh
case "$*" in
  "-c import sys"*) exit ${OLD:-0} ;;
  "-c import ensurepip"*) exit ${NO_VENV:-0} ;;
  "-V") echo "Python 3.8.1" ;;
  "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  "-m pip"*) echo "$PIP_SAYS" > .venv/install.log; echo called >> calls; exit ${PIP_EXIT:-0} ;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    return tmp_path


def make(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    path = "/usr/local/bin:/usr/bin:/bin"
    return subprocess.run(
        ["make", ".venv/.installed", *(words or (f"PYTHON={folder}/python",))],
        cwd=folder,
        capture_output=True,
        text=True,
        env={"PATH": path, **environment},
    )


def test_a_missing_python_is_named(folder: Path):
    done = make(folder, "PYTHON=no-such-python")
    assert done.returncode != 0
    assert "No 'no-such-python' found. Install Python 3.10 or newer" in done.stdout


def test_an_old_python_is_refused_with_its_version(folder: Path):
    done = make(folder, OLD="1")
    assert done.returncode != 0
    assert "Python 3.10 or newer is needed" in done.stdout
    assert "Python 3.8.1" in done.stdout


def test_a_missing_venv_module_names_the_package(folder: Path):
    done = make(folder, NO_VENV="1")
    assert done.returncode != 0
    assert "sudo apt install python3-venv" in done.stdout


def test_too_little_disk_is_said_before_anything_is_fetched(folder: Path):
    done = make(folder, f"PYTHON={folder}/python", "DISK_KIB=900000000000")
    assert done.returncode != 0
    assert "this disk has" in done.stdout
    assert not (folder / ".venv").exists()


@pytest.mark.parametrize(
    ("pip_says", "advice"),
    [
        ("OSError: [Errno 28] No space left on device", "The disk is full."),
        ("NewConnectionError: Temporary failure in name resolution", "no network"),
        ("ReadTimeoutError: Read timed out.", "no network"),
        ("ERROR: ResolutionImpossible", "its messages are above"),
    ],
)
def test_a_failed_install_says_why(folder: Path, pip_says: str, advice: str):
    done = make(folder, PIP_SAYS=pip_says, PIP_EXIT="1")
    assert done.returncode != 0
    assert advice in done.stdout
    assert not (folder / ".venv" / ".installed").exists(), "a failed set-up must be tried again"


def test_a_second_run_installs_nothing(folder: Path):
    assert make(folder).returncode == 0
    calls = (folder / "calls").read_text()
    assert make(folder).returncode == 0
    assert (folder / "calls").read_text() == calls


def test_changed_requirements_install_again(folder: Path):
    make(folder)
    before = (folder / "calls").read_text()
    stamp = (folder / ".venv" / ".installed").stat().st_mtime
    os.utime(folder / "requirements.txt", (stamp + 10, stamp + 10))
    make(folder)
    assert len((folder / "calls").read_text()) > len(before)


def test_help_lists_the_targets():
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True)
    for target in ("make lab", "make test", "make build", "make clean"):
        assert target in done.stdout


def test_the_pins_lie_in_the_package_ranges():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML itself")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(text for extra in extras.values() for text in extra)]
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "requirements.txt").read_text(), re.M))
    assert set(pins) == {Requirement(text).name for text in wanted}
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pins[requirement.name]), requirement
