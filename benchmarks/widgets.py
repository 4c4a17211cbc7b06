"""How fast a picture follows a key: `python benchmarks/widgets.py`, three JSON lines.

`draw` is the kernel's share, from a new value to the message with the picture; `draw_cpu` is the
same in processor time, which a busy machine does not stretch. `key_to_picture` is what a learner
feels: from the key press in JupyterLab, in headless Chromium, to the decoded new picture. The goal
is 100 ms.
"""

from __future__ import annotations

import json
import pathlib
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))

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

# Resolves when the picture has changed *and* its pixels are decoded.
WAIT_FOR_PICTURE = """() => new Promise(resolve => {
    const box = document.querySelector('.rlhf-lessons-explore');
    const watcher = new MutationObserver(async () => {
        const image = box.querySelector('img');
        if (!image || image.src === window.lastPicture) return;
        window.lastPicture = image.src;
        watcher.disconnect();
        await image.decode();
        requestAnimationFrame(() => resolve(performance.now() - window.keyTime));
    });
    watcher.observe(box, {childList: true, subtree: true, attributes: true});
    window.lastPicture = box.querySelector('img').src;
})"""


def report(name, milliseconds):
    milliseconds = sorted(milliseconds)
    row = {
        "benchmark": f"widgets.{name}",
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


def key_times(runs=40):
    from jupyter_page import Lab, find_chromium, launch_chromium, open_notebook
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
            notebook = open_notebook(lab, launch_chromium(driver, path), [CELL])
            notebook.run_all()
            page = notebook.page
            handle = notebook.output(0).get_by_role("slider")
            handle.wait_for()
            page.evaluate(
                "() => document.addEventListener("
                "'keydown', () => { window.keyTime = performance.now() }, true)"
            )
            handle.focus()
            times = []
            for _ in range(runs):
                page.evaluate(f"() => {{ window.pending = ({WAIT_FOR_PICTURE})() }}")
                page.keyboard.press("ArrowRight")
                times.append(page.evaluate("() => window.pending"))
                time.sleep(0.15)
            notebook.close()
        finally:
            lab.stop()
    return times[5:]


if __name__ == "__main__":
    report("draw", draw_times(time.perf_counter))
    report("draw_cpu", draw_times(time.process_time))
    report("key_to_picture", key_times())
