"""What README says can be run, links to what exists, and counts what is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rlhf_lessons.real_parts import PartError, part_folder

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
START = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
LINK = re.compile(r"\]\(((?!https?:)[^)#]+)\)")
ROWS = re.findall(r"^\| \d \| \[.*?\]\((.*?)\).*\| (\d+) \| (\d+) min \|$", README, re.MULTILINE)


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


@pytest.mark.parametrize("link", LINK.findall(README))
def test_the_link_leads_somewhere(link: str):
    assert (ROOT / link).exists()


def test_every_lesson_has_a_row_with_its_number_of_exercises():
    released = json.loads((ROOT / "rlhf_lessons" / "classroom" / "released.json").read_text())
    listed = {Path(path).stem: int(count) for path, count, _ in ROWS}
    assert listed == {
        name: len(lesson["exercises"]) for name, lesson in released["lessons"].items()
    }


def test_the_start_page_gives_every_lesson_the_time_that_it_gives_itself():
    row = r"^\| \d \| \[.*?\]\((\w+)\.ipynb\) \| (\d+) min \|"
    rows = dict(re.findall(row, START, re.MULTILINE))
    said = {}
    for path in sorted((ROOT / "notebooks" / "source").glob("[0-9][0-9]_*.py")):
        said[path.stem] = re.search(r"\*\*Time\*\* about (\d+)", path.read_text("utf-8"))[1]
    assert rows == said
    assert {Path(path).stem: minutes for path, _, minutes in ROWS} == said


def test_the_links_of_the_start_page_lead_somewhere():
    for link in LINK.findall(START):
        assert (ROOT / "notebooks" / link).exists(), link


def test_every_lesson_has_a_picture_with_words_for_those_who_cannot_see_it():
    picture = r'<img src="(figures/(\d\d)_\w+\.png)" width="\d+" alt="([^"]*)">'
    pictures = re.findall(picture, README)
    sources = (ROOT / "notebooks" / "source").glob("[0-9][0-9]_*.py")
    assert [number for _, number, _ in pictures] == sorted(path.name[:2] for path in sources)
    for path, _, words in pictures:
        assert (ROOT / path).is_file() and len(words) > 60, path
