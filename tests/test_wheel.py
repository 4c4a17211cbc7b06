"""The wheel, installed alone: away from the repository, with its small models and its types."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from email import message_from_bytes
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LARGEST = 15_000_000  # bytes; what a person waits for, and far below PyPI's limit of 100 MB

try:
    SETUPTOOLS = int(version("setuptools").split(".")[0])
except PackageNotFoundError:
    SETUPTOOLS = 0
pytestmark = pytest.mark.skipif(SETUPTOOLS < 77, reason="a wheel is built with setuptools ≥ 77")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(
        ROOT / "rlhf_lessons",
        source / "rlhf_lessons",
        ignore=shutil.ignore_patterns("__pycache__", ".*"),
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", "built"]
    subprocess.run([*pip, "wheel", ".", *options], cwd=source, check=True)
    (built,) = (source / "built").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder with the package alone; its dependencies come from this environment."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    options = ["--no-deps", "--no-index", "--no-compile", "--target", str(folder)]
    subprocess.run([*pip, "install", *options, str(wheel)], check=True)
    return folder


def run(installed: Path, code: str, *arguments: str) -> str:
    """Run code with the installed package first, no other path of ours, and an empty home."""
    away = installed.parent / "away"
    away.mkdir(exist_ok=True)
    code = "import sys; sys.path.insert(0, sys.argv.pop(1))\n" + code
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(installed), *arguments],
        cwd=away,
        env={**os.environ, "HOME": str(away), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


COMMAND = "import runpy; runpy.run_module('rlhf_lessons', run_name='__main__', alter_sys=True)"


def test_it_holds_every_file_of_the_package_and_is_small(wheel):
    with zipfile.ZipFile(wheel) as file:
        held = {name for name in file.namelist() if name.startswith("rlhf_lessons/")}
        (metadata,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        about = message_from_bytes(file.read(metadata))
        assert any(name.endswith("/LICENSE") for name in file.namelist())
    source = wheel.parents[1]
    package = {
        path.relative_to(source).as_posix()
        for path in (source / "rlhf_lessons").rglob("*")
        if path.is_file()
    }
    assert held == package
    assert {"rlhf_lessons/py.typed", "rlhf_lessons/classroom/glossary.csv"} <= held
    assert any(name.endswith(".safetensors") for name in held)
    assert wheel.stat().st_size < LARGEST
    assert "extra" not in "".join(
        line
        for line in about.get_all("Requires-Dist")
        if line.startswith(("torch", "transformers"))
    )


def test_it_imports_from_where_it_lies_without_torch(installed):
    code = "import rlhf_lessons; print(rlhf_lessons.__file__, 'torch' in sys.modules)"
    assert run(installed, code).split() == [
        str(installed / "rlhf_lessons" / "__init__.py"),
        "False",
    ]


def test_a_shipped_model_speaks(installed):
    code = (
        "from rlhf_lessons.models import load_policy, load_reward_model\n"
        "policy = load_policy('reviews-sft')\n"
        "rollout = policy.sample(['the film'] * 2, 12)\n"
        "scores = load_reward_model('reviews-reward')(rollout.prompts, rollout.responses)\n"
        "print(len(rollout.responses), tuple(scores.shape), policy.model.name_or_path)"
    )
    said = run(installed, code)
    assert said.startswith("2 (2,) ") and str(installed) in said


def test_the_commands_work(installed):
    assert run(installed, COMMAND, "models", "verify")
    assert "commands:" in run(installed, COMMAND, "--help")
    assert "usage" in run(installed, COMMAND, "grade", "--help")


def test_words_sweeps_and_checks_came_along(installed):
    code = (
        "from rlhf_lessons.classroom import check\n"
        "from rlhf_lessons.classroom.glossary import entries\n"
        "from rlhf_lessons.evaluation import load_ppo_sweep\n"
        "print(len(entries()), len(load_ppo_sweep()))"
    )
    words, runs = map(int, run(installed, code).split())
    assert words > 30 and runs > 1
