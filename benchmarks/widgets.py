"""How fast a picture follows a key, on a picture of three lines and in the lessons.

    python benchmarks/widgets.py                              three JSON lines
    python benchmarks/widgets.py --lessons 1 4 --looks looks  every widget of these lessons

`draw` is the kernel's share, from a new value to the message with the picture; `draw_cpu` is the
same in processor time, which a busy machine does not stretch. `key_to_picture` is what a learner
feels: from the key press in JupyterLab, in headless Chromium, to the decoded new picture. The goal
is 100 ms.

`--lessons` runs each solved lesson in JupyterLab, then uses every widget as a learner does: slider
by slider with the arrow keys (a JSON line each), every option of every choice, every switch, a move
on the board, an answer to what is to be labelled, a search in the glossary. A line on stderr names
a widget that warns, gives no new picture or is wider than its page. `--looks` keeps pictures of
each, in the light and the dark theme, on pages 1,400 and 800 pixels wide.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import statistics
import sys
import tempfile
import time

import nbformat

ROOT = pathlib.Path(__file__).parents[1]

sys.path.insert(0, str(ROOT / "tests"))

CELL = """
import numpy as np
from rlhf_lessons.classroom import Slider, explore

steps = np.arange(200)

def draw(figure, gamma):
    if not figure.axes:
        axes = figure.subplots()
        for _ in range(3):
            axes.plot(steps, np.ones(200))
        axes.set(ylim=(0, 1.05), xlabel="step t", ylabel="weight", title="γ to the power of t")
    for power, line in enumerate(figure.axes[0].lines, start=1):
        line.set_ydata(gamma ** (steps / 10 * power))
    return f"discount {gamma:.3f}"

widget = explore(draw, gamma=Slider("γ", "discount", 0.0, 1.0, 0.5, step=0.005))
widget
"""

# Resolves to the time from the key, when the picture has changed *and* its pixels are decoded; to
# null where nothing changes.
WAIT_FOR_PICTURE = """box => new Promise(resolve => {
    const before = box.querySelector('img').src;
    const finish = milliseconds => { watcher.disconnect(); resolve(milliseconds); };
    const watcher = new MutationObserver(async () => {
        const image = box.querySelector('img');
        if (!image || image.src === before) return;
        watcher.disconnect();
        await image.decode();
        requestAnimationFrame(() => finish(performance.now() - window.keyTime));
    });
    watcher.observe(box, {childList: true, subtree: true, attributes: true});
    setTimeout(() => finish(null), PATIENCE);
})"""
NOTE_KEYS = """() => document.addEventListener(
    'keydown', () => { window.keyTime = performance.now() }, true
)"""
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
WIDTHS = (1400, 800)


def report(name, milliseconds, **about):
    milliseconds = sorted(milliseconds)
    row = {
        "benchmark": f"widgets.{name}",
        **about,
        "unit": "ms",
        "median": round(statistics.median(milliseconds), 1),
        "p90": round(milliseconds[int(0.9 * (len(milliseconds) - 1))], 1),
        "runs": len(milliseconds),
    }
    print(json.dumps(row), flush=True)


def draw_times(clock, runs=60):
    namespace = {}
    exec(CELL, namespace)
    control = namespace["widget"]._controls["gamma"]
    times = []
    for run in range(runs):
        start = clock()
        control._slider.value = 0.3 + 0.005 * run
        times.append(1e3 * (clock() - start))
    return times[5:]


@contextlib.contextmanager
def lab_and_browser():
    from jupyter_page import Lab, find_chromium, launch_chromium
    from playwright.sync_api import sync_playwright

    path = find_chromium()
    if path is None:
        sys.exit("benchmarks/widgets.py needs a Chromium (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        root, home = pathlib.Path(folder, "notebooks"), pathlib.Path(folder, "home")
        root.mkdir()
        home.mkdir()
        lab = Lab(root, home)
        try:
            yield lab, launch_chromium(driver, path)
        finally:
            lab.stop()


def press(page, box, key, patience=20_000):
    """Press a key and return the milliseconds to the new picture, or None when there is none."""
    pending = page.evaluate_handle(
        f"box => ({{promise: ({WAIT_FOR_PICTURE.replace('PATIENCE', str(patience))})(box)}})", box
    )
    page.keyboard.press(key)
    return pending.evaluate("waiting => waiting.promise")


def key_times(runs=40):
    from jupyter_page import open_notebook

    with lab_and_browser() as (lab, browser):
        notebook = open_notebook(lab, browser, [CELL])
        notebook.run_all()
        page = notebook.page
        handle = notebook.output(0).get_by_role("slider")
        handle.wait_for()
        page.evaluate(NOTE_KEYS)
        box = notebook.output(0).locator(".rlhf-lessons-explore").element_handle()
        handle.focus()
        times = []
        for _ in range(runs):
            times.append(press(page, box, "ArrowRight"))
            time.sleep(0.15)
        notebook.close()
    return times[5:]


def use_explore(widget, page, lesson, complain, runs=10):
    """Move every slider, choose every option, turn every switch; report the times of sliders."""
    box = widget.element_handle()
    for handle in widget.get_by_role("slider").all():
        name = handle.get_attribute("aria-label")
        handle.focus()
        times = []
        for key in ["ArrowRight"] * runs + ["ArrowLeft"] * runs:
            times.append(press(page, box, key, patience=4_000))
            time.sleep(0.15)
        drawn = [found for found in times if found is not None]
        if drawn:
            report("lesson", drawn, lesson=lesson, slider=name)
        else:
            complain(f"slider {name!r} gives no new picture")
    for choice in widget.locator("select").all():
        for option in choice.locator("option").all_inner_texts():
            choice.select_option(label=option)
            time.sleep(0.5)
            warned(widget, complain, f"with {option!r}")
    for switch in widget.get_by_role("checkbox").all():
        switch.click()
        time.sleep(0.5)
        switch.click()
    warned(widget, complain, "at the end")


def warned(widget, complain, when):
    for alert in widget.get_by_role("alert").all():
        complain(f"warns {when}: {alert.inner_text()!r}")


def use_board(widget, page, lesson, complain):
    """Take the first free square; the agent answers on another."""
    free = widget.get_by_role("button", name="empty")
    before = free.count()
    free.first.click()
    time.sleep(1)
    if not free.count() < before - 1:
        complain("the agent does not answer a move")


def use_labelling(widget, page, lesson, complain):
    """Answer by keyboard; what is shown changes."""
    before = widget.inner_text()
    widget.locator(".rlhf-lessons-keys").focus()
    for key in ("ArrowLeft", "1", "2", "3"):  # a pair, or the places of three
        page.keyboard.press(key)
        time.sleep(0.5)
    if widget.inner_text() == before:
        complain("no key is an answer")


def use_glossary(widget, page, lesson, complain):
    """Search for a word of the first entry; fewer rows are left."""
    rows = widget.get_by_role("row")
    before, word = rows.count(), rows.nth(1).inner_text().split()[0]
    widget.get_by_label("search").fill(word)
    time.sleep(1)
    if not 0 < rows.count() <= before:
        complain("the search finds nothing")


def use_nothing(widget, page, lesson, complain):
    """A training run is over when the lesson is; its curves are looked at."""


USES = {
    "explore": use_explore,
    "board": use_board,
    "labelling": use_labelling,
    "glossary": use_glossary,
    "watch": use_nothing,
}


def look_at(widget, notebook, looks, name, complain):
    """See that a widget fits its page in both themes and widths, and keep pictures of it."""
    page = notebook.page
    for theme, label in THEMES.items():
        notebook.command("apputils:change-theme", theme=label)
        is_light = str(theme == "light").lower()
        page.wait_for_selector(f"body[data-jp-theme-light={is_light}]", state="attached")
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            time.sleep(0.5)
            if widget.evaluate("box => box.scrollWidth > box.clientWidth + 1"):
                complain(f"is wider than a page of {width} pixels")
            if looks:
                widget.screenshot(path=looks / f"{name}_{theme}_{width}.png")


def use_lesson(lab, browser, number, looks):
    """Run a solved lesson, use its widgets and, where a folder is given, keep how they look."""
    from jupyter_page import open_notebook

    (path,) = (ROOT / "notebooks" / "solutions").glob(f"{number:02d}_*.ipynb")
    cells = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    notebook = open_notebook(lab, browser, cells)
    notebook.page.evaluate(NOTE_KEYS)
    notebook.run_to_the_end()
    for index in range(len(cells)):
        for kind, use in USES.items():
            found = notebook.output(index).locator(f".rlhf-lessons-{kind}").all()
            for place, widget in enumerate(found):
                name = f"lesson_{number:02d}_cell_{index:02d}_{kind}" + (
                    f"_{place}" if place else ""
                )

                def complain(text, name=name):
                    print(f"{name}: {text}", file=sys.stderr, flush=True)

                notebook.page.set_viewport_size({"width": WIDTHS[0], "height": 900})
                use(widget, notebook.page, number, complain)
                look_at(widget, notebook, looks, name, complain)
    notebook.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lessons", type=int, nargs="+", metavar="N")
    parser.add_argument("--looks", type=pathlib.Path, metavar="FOLDER")
    given = parser.parse_args()
    if given.looks:
        given.looks.mkdir(parents=True, exist_ok=True)
    if given.lessons:
        with lab_and_browser() as (lab, browser):
            for number in given.lessons:
                use_lesson(lab, browser, number, given.looks)
        return
    report("draw", draw_times(time.perf_counter))
    report("draw_cpu", draw_times(time.process_time))
    report("key_to_picture", key_times())


if __name__ == "__main__":
    main()
