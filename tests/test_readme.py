"""What README says can be run, links to what exists, and counts what is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rlhf_lessons.real_parts import PartError, part_folder

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
LINKS = re.findall(r"\]\(((?!https?:)[^)#]+)\)", README)
ROWS = re.findall(r"^\| (\d) \| \[.*?\]\((.*?)\).*\| (\d+) \| \d+ min \|$", README, re.MULTILINE)


def run(code: str) -> dict:
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    return names


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    names = run(EXAMPLES[0])
    assert (tmp_path / "my-policy" / "model.safetensors").is_file()
    assert names["step"].step == 10


def test_the_example_with_a_checker_runs():
    _, code, _ = EXAMPLES
    step = run(code)["step"]
    assert step.step == 3 and 0.2 < step.reward < 0.5


def test_the_real_example_runs_where_the_parts_are():
    for part in ("smollm2", "snippets"):
        try:
            part_folder(part)
        except PartError as error:
            pytest.skip(str(error))
    names = run(EXAMPLES[2])
    liked, disliked = names["judge"](["The film is ", "The film is "], ["a joy.", "a bore."])
    assert liked > 0 > disliked and names["adapted"].adapted


@pytest.mark.parametrize("link", LINKS)
def test_the_link_leads_somewhere(link: str):
    assert (ROOT / link).exists()


def test_every_lesson_has_a_row_with_its_number_of_exercises():
    released = json.loads((ROOT / "rlhf_lessons" / "classroom" / "released.json").read_text())
    listed = {Path(path).stem: int(count) for _, path, count in ROWS}
    assert listed == {
        name: len(lesson["exercises"]) for name, lesson in released["lessons"].items()
    }
