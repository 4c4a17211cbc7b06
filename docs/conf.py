"""The pages as a site with search: ``make build`` writes it to ``docs/_build/index.html``.

The site is the Markdown files of the repository as they are, linked as they are linked; what they
link to beside them (notebooks, scripts) can be fetched from it. Read without a network, from a
folder or a server: fonts, styles and the search are files of the site. There is no rule for
formulas, since those of the pages are Unicode text.
"""

from __future__ import annotations

from pathlib import Path

project = "rlhf_lessons"
extensions = ["myst_parser"]
root_doc = "README"
CONTENTS = (
    "notebooks/README",
    "docs/reference",
    "docs/glossary",
    "docs/scaling",
    "docs/kill_table",
    "benchmarks/README",
    "benchmarks/RESULTS",
    "CONTRIBUTING",
    "CHANGELOG",
)
include_patterns = [f"{name}.md" for name in (root_doc, *CONTENTS)]
myst_heading_anchors = 3  # [...](#formulas) leads to the heading
myst_enable_extensions = ["html_image"]  # <img> is a picture of the site
highlight_language = "text"

html_theme = "furo"
html_title = "rlhf_lessons"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_search_scorer = str(Path(__file__).with_name("search_scores.js"))
html_theme_options = {"navigation_with_keys": True}

TOCTREE = """
```{{toctree}}
:hidden:

{}
```
"""
FORWARD = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={0}">\n'


def add_contents(app, docname, source):
    """Give the first page the list of pages, which a code host would show as text."""
    if docname == root_doc:
        source[0] += TOCTREE.format("\n".join(CONTENTS))


def forward(app, exception):
    """Let index.html lead to the first page."""
    if exception is None:
        page = Path(app.outdir, "index.html")
        page.write_text(FORWARD.format(f"{root_doc}.html"), encoding="utf-8")


def setup(app):
    """Connect both to the build."""
    app.connect("source-read", add_contents)
    app.connect("build-finished", forward)
