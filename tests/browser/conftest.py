"""One JupyterLab and one Chromium for all browser tests; without one they skip, but not in CI."""

from __future__ import annotations

import os

import pytest
from jupyter_page import Lab, find_chromium, launch_chromium, open_notebook


def pytest_collection_modifyitems(items):
    for item in items:
        if "/browser/" in item.path.as_posix():
            item.add_marker("browser")


@pytest.fixture(scope="session")
def chromium_path():
    path = find_chromium()
    if path is None:
        reason = "no Chromium on this machine (Debian: apt-get install chromium)"
        if os.environ.get("CI"):
            pytest.fail(f"browser tests must run in CI, but there is {reason}")
        pytest.skip(reason)
    return path


@pytest.fixture(scope="session")
def lab(chromium_path, tmp_path_factory):
    server = Lab(tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("home"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def browser(chromium_path):
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        chromium = launch_chromium(driver, chromium_path)
        yield chromium
        chromium.close()


@pytest.fixture
def notebook_of(lab, browser):
    """A function that opens a notebook of the given cells."""
    opened = []

    def open_(*cells, **options):
        opened.append(open_notebook(lab, browser, cells, **options))
        return opened[-1]

    yield open_
    for notebook in opened:
        notebook.close()
