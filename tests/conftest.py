from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# One thread, here and in every process that a test starts: the small models are no faster on two,
# and tests that run side by side don't slow each other down.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No test may depend on how fast the machine is, and every run tries the same examples.
settings.register_profile("course", deadline=None, derandomize=True)
settings.load_profile("course")


def pytest_terminal_summary(terminalreporter):
    """Say it when the browser tests were skipped: a letter in a row of dots is overlooked."""
    skipped = terminalreporter.stats.get("skipped", [])
    browser = [report for report in skipped if "/browser/" in report.nodeid]
    if browser:
        reason = browser[0].longrepr[-1].removeprefix("Skipped: ")
        terminalreporter.write_line(f"Not run: {len(browser)} browser tests, {reason}", yellow=True)


@pytest.fixture
def sampled_in_bfloat16(monkeypatch) -> list[bool]:
    """A list that grows by one at each call of ``sample``: whether it ran under autocast."""
    import torch

    from rlhf_lessons.models import LanguagePolicy

    seen, sample = [], LanguagePolicy.sample

    def spied(policy, *args, **kw):
        seen.append(torch.is_autocast_enabled("cpu"))
        return sample(policy, *args, **kw)

    monkeypatch.setattr(LanguagePolicy, "sample", spied)
    return seen


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The folder of the pages as a site, built as ``make build`` does."""
    pytest.importorskip("sphinx", reason="the extra docs is not installed")
    root, folder = Path(__file__).parents[1], tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going"]
    command += ["-d", str(folder / "doctrees"), "-c", "docs", ".", str(folder / "html")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "html"
