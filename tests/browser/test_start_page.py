"""``make lab`` opens JupyterLab at a page that says how the course works."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from jupyter_page import Lab, look

ROOT = Path(__file__).parents[2]


@pytest.fixture
def lab_of_the_course(chromium_path, tmp_path, monkeypatch):
    """A JupyterLab in a copy of notebooks/, with the settings that ``make lab`` gives it."""
    root, home = tmp_path / "notebooks", tmp_path / "home"
    home.mkdir()
    shutil.copytree(ROOT / "notebooks", root, ignore=shutil.ignore_patterns("solutions", "source"))
    command = subprocess.run(["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True).stdout
    (setting,) = (word for word in command.split() if word.startswith("JUPYTER_CONFIG_PATH="))
    folder = setting.removeprefix("JUPYTER_CONFIG_PATH=").split("$")[0]
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", folder)
    server = Lab(root, home)
    yield server
    server.stop()


def test_the_start_page_is_shown_as_a_page_and_leads_to_the_lessons(lab_of_the_course, browser):
    page = browser.new_context(viewport={"width": 1400, "height": 900}).new_page()
    page.set_default_timeout(60_000)
    page.goto(lab_of_the_course.url)
    shown = page.locator(".jp-MarkdownViewer")
    shown.get_by_role("heading", name="Start here").wait_for()
    look(page, "start_page")
    assert page.locator(".cm-editor").count() == 0  # a page, and no text to edit
    for lesson in sorted(lab_of_the_course.root.glob("*.ipynb")):
        assert shown.locator(f'a[href*="{lesson.name}"]').count() >= 1, lesson
    shown.get_by_role("link", name="lesson 1").click()
    page.locator(".jp-Notebook h1").filter(has_text="Lesson 1").wait_for()
    page.context.close()
