"""The set-up behind ``make lab`` and ``make test`` says what is missing and what to do.

Each test runs the project's Makefile in a folder of its own with a stand-in for Python.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

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
    assert "No 'no-such-python' found. Install Python 3.11 or newer" in done.stdout


def test_an_old_python_is_refused_with_its_version(folder: Path):
    done = make(folder, OLD="1")
    assert done.returncode != 0
    assert "Python 3.11 or newer is needed" in done.stdout
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
    for target in ("lab", "test", "test-kernels", "test-oldest", "build", "clean"):
        assert re.search(f"^make {target} ", done.stdout, re.M)


def requirements() -> list[Requirement]:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML itself")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(text) for part in (project["dependencies"], *extras) for text in part]


def pins_of(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / name).read_text(), re.M))


def test_the_pins_lie_in_the_package_ranges():
    wanted, pins = requirements(), pins_of("requirements.txt")
    assert set(pins) == {requirement.name for requirement in wanted}
    for requirement in wanted:
        assert requirement.specifier.contains(pins[requirement.name]), requirement


def test_the_oldest_pins_are_the_lower_bounds_of_the_package():
    bounds = {
        requirement.name: SpecifierSet(f"=={specifier.version}.*")  # 4.48 and 4.48.1, not 4.49
        for requirement in requirements()
        for specifier in requirement.specifier
        if specifier.operator == ">="
    }
    pins = pins_of("requirements-oldest.txt")
    assert {"torch", "transformers", "numpy", "peft"} <= set(pins)
    for name, pin in pins.items():
        assert bounds[name].contains(pin), (name, pin, bounds[name])


def test_the_oldest_environment_is_one_of_its_own(folder: Path):
    shutil.copy(ROOT / "requirements-oldest.txt", folder)
    words = ("VENV=.venv-oldest", "REQUIREMENTS=requirements-oldest.txt", ".venv-oldest/.installed")
    stand_in = (folder / "python").read_text().replace("-m venv .venv", "-m venv .venv-oldest")
    stand_in = stand_in.replace(".venv/bin", ".venv-oldest/bin").replace(
        ".venv/i", ".venv-oldest/i"
    )
    (folder / "python").write_text(stand_in)
    done = subprocess.run(
        ["make", *words, f"PYTHON={folder}/python"], cwd=folder, capture_output=True, text=True,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / ".venv-oldest" / ".installed").exists() and not (folder / ".venv").exists()


# .ci/run, with stand-ins for the programs that change the machine ---------------------------------

NOTED = """#!/bin/sh
echo "$(basename "$0") $*" >> "$NOTES"
"""


def run_ci(folder: Path, user: int, *browsers: str) -> list[str]:
    """Run a copy of .ci/run where nothing is installed but ``browsers``; return what it called."""
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", folder / ".ci")
    programs = folder / "programs"
    programs.mkdir()
    for name in ("bash", "sh", "dirname", "basename", "env"):
        (programs / name).symlink_to(shutil.which(name))
    scripts = dict.fromkeys(("apt-get", "make", *browsers), NOTED)
    scripts["sudo"] = NOTED + 'exec "$@"\n'
    scripts["id"] = f"#!/bin/sh\necho {user}\n"
    for name, script in scripts.items():
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    notes = folder / "notes"
    environment = {"PATH": str(programs), "NOTES": str(notes)}
    subprocess.run([folder / ".ci" / "run"], check=True, env=environment)
    return notes.read_text().splitlines()


TARGETS = ["make test", "make test-kernels", "make test-oldest"]


def test_ci_installs_a_browser_as_root(tmp_path: Path):
    update, install, *rest = run_ci(tmp_path, 0)
    assert update.startswith("apt-get update") and install.startswith("apt-get install -y")
    assert "chromium" in install.split() and rest == TARGETS


def test_ci_installs_a_browser_by_sudo(tmp_path: Path):
    called = run_ci(tmp_path, 1000)
    assert [line.split()[0] for line in called[:4]] == ["sudo", "apt-get", "sudo", "apt-get"]
    assert called[4:] == TARGETS


@pytest.mark.parametrize("browser", ["chromium", "chromium-browser", "google-chrome"])
def test_ci_takes_the_browser_that_is_there(tmp_path: Path, browser: str):
    assert run_ci(tmp_path, 1000, browser) == TARGETS


def test_the_hosted_workflow_calls_the_same_script():
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert job["steps"][-1] == {"run": ".ci/run"}


def test_without_a_browser_the_tests_say_what_they_skip():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/browser"]
    nowhere = {name: text for name, text in os.environ.items() if name != "CI"} | {"PATH": ""}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=nowhere)
    assert done.returncode == 0, done.stdout
    (skipped,) = re.findall(r"^(\d+) skipped", done.stdout, re.M)
    assert f"Not run: {skipped} browser tests, no Chromium on this machine" in done.stdout
