"""The pages in docs/: made from the code as it is, complete, and with links that lead somewhere."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\(((?!https?:)[^)#]+)\)")


def load_build():
    spec = importlib.util.spec_from_file_location("docs_build", DOCS / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load_build()


@pytest.mark.parametrize("name", build.PAGES)
def test_the_page_is_what_the_code_says_now(name: str):
    page = (DOCS / name).read_text(encoding="utf-8")
    assert page == build.PAGES[name](), f"docs/{name} is old: python docs/build.py"


def test_every_public_name_has_its_entry_with_its_first_sentence():
    page = build.reference()
    sections = re.split(r"(?m)^## ", page)[1:]
    assert [section.split("\n")[0] for section in sections] == list(build.FLOORS)
    for section, floor in zip(sections, build.FLOORS, strict=True):
        names = importlib.import_module(f"rlhf_lessons.{floor}").__all__
        assert sorted(re.findall(r"(?m)^### `(\w+)`", section)) == sorted(names)


def test_every_formula_has_an_equation_and_a_source():
    formulas = importlib.import_module("rlhf_lessons.formulas")
    for name in formulas.__all__:
        written = "\n".join(build.entry(name, getattr(formulas, name)))
        assert "\n```text\n" in written, name
        assert "\nSource: " in written, name


def test_nothing_of_this_process_or_machine_is_on_a_page():
    for name in build.PAGES:
        page = (DOCS / name).read_text(encoding="utf-8")
        assert not re.search(r" at 0x|/home/|/root/|/tmp/|site-packages", page)


def test_an_entry_by_hand():
    class Thing:
        """Hold a thing, see :class:`~a.b.Other`.

        y = x + 1
        """

        def turn(self) -> None:
            """Turn ``it``."""

    def call(x: int, *rest: str, flag: bool = True) -> list[int]:
        """Give the first
        sentence.

        It goes on.
            a ← b

        Args:
            x: z = 3.

        Source:
            Someone 1999.
        """

    assert build.entry("call", call) == [
        "",
        "### `call`",
        "",
        "Give the first sentence.",
        "",
        "```python",
        "call(x: int, *rest: str, flag: bool = True) -> list[int]",
        "```",
        "",
        "```text",
        "a ← b",
        "```",
        "",
        "Source: Someone 1999.",
    ]
    assert build.entry("Thing", Thing)[3] == "Hold a thing, see `Other`."
    assert build.entry("Thing", Thing)[-1] == "- `.turn()` Turn `it`."


def test_the_glossary_page_holds_every_term_in_every_language():
    page = (DOCS / "glossary.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith(("| English", "| ---"))]
    assert len(rows) == len(build.entries())
    for row, item in zip(rows, build.entries(), strict=True):
        # A bar within a cell is written \|.
        cells = [cell.strip().replace("\\*", "*") for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        assert len(cells) == 5
        assert cells[1:3] == [item.chinese, item.vietnamese]
        assert cells[0] == item.term


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_links_lead_somewhere(page: str):
    for link in LINK.findall((DOCS / page).read_text(encoding="utf-8")):
        assert (DOCS / link).exists(), link


def test_the_commands_of_the_scaling_page_have_the_options_that_there_are():
    from rlhf_lessons.training.scale import command

    page = (DOCS / "scaling.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?m)^    accelerate launch(?:.*\\\n)*.*$", page)
    assert len(blocks) >= 3
    for block in blocks:
        own = block.split("rlhf_lessons scale", 1)[1].replace("\\\n", " ")
        given = command._parser().parse_args(own.split())
        assert given.method in own.split()


class Fetched(HTMLParser):
    """What a browser fetches on its own when it shows a page."""

    def __init__(self, page: str):
        super().__init__()
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "link":
            self.addresses.append(given.get("href", ""))
        self.addresses += [given[name] for name in ("src", "data") if name in given]


def test_the_site_is_built_without_a_warning_and_starts_at_index(site: Path):
    to = re.search(r'url=([^"]+)"', (site / "index.html").read_text("utf-8"))[1]
    assert (site / to).is_file()
    for name in build.PAGES:
        assert (site / "docs" / name).with_suffix(".html").is_file()


def test_a_page_of_the_site_fetches_nothing_from_elsewhere(site: Path):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        fetched = Fetched(page.read_text("utf-8")).addresses
        assert not [address for address in fetched if re.match(r"(https?:)?//", address)], page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//|@import", style.read_text("utf-8")), style


def test_the_search_of_the_site_knows_every_public_name(site: Path):
    index = (site / "searchindex.js").read_text("utf-8")
    titles = json.loads(index.removeprefix("Search.setIndex(").removesuffix(")"))["alltitles"]
    for floor in build.FLOORS:
        for name in importlib.import_module(f"rlhf_lessons.{floor}").__all__:
            assert name in titles, name
