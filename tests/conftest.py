from __future__ import annotations

import os

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
