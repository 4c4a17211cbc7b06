"""A JupyterLab on a free port, a headless Chromium, notebooks opened in it, and their colours.

The browser tests and `benchmarks/widgets.py` stand on it.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat

# Without the background-networking flags Chromium calls its maker's hosts at every start.
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-color-profile=srgb",
]


def find_chromium():
    """The path of a Chromium, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


def launch_chromium(driver, path):
    return driver.chromium.launch(executable_path=path, headless=True, args=CHROMIUM_FLAGS)


class Lab:
    """A running JupyterLab that serves one temporary folder."""

    def __init__(self, root, home):
        self.root = root
        self.home = home
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.theme("JupyterLab Light")
        home_variables = {
            "JUPYTER_CONFIG_DIR": "config",
            "JUPYTER_DATA_DIR": "data",
            "JUPYTER_RUNTIME_DIR": "runtime",
            "JUPYTERLAB_SETTINGS_DIR": "settings",
            "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
            "IPYTHONDIR": "ipython",
        }
        environment = dict(os.environ)
        environment.update({name: str(home / sub) for name, sub in home_variables.items()})
        self.log = open(home / "lab.log", "w")
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "jupyterlab",
                "--no-browser",
                "--allow-root",
                "--ServerApp.ip=127.0.0.1",
                f"--ServerApp.port={self.port}",
                "--ServerApp.port_retries=0",
                f"--ServerApp.root_dir={root}",
                "--IdentityProvider.token=",
                "--ServerApp.password=",
                "--LabApp.expose_app_in_browser=True",
            ],
            cwd=root,
            env=environment,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        self._wait()

    def _wait(self):
        end = time.monotonic() + 600  # on a busy machine; one that died is noticed at once
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.url}/api/status", timeout=2):
                    return
            except OSError:
                time.sleep(0.2)
        self.stop()
        log = (self.home / "lab.log").read_text()
        raise RuntimeError(f"JupyterLab did not start:\n{log[-3000:]}")

    def theme(self, name):
        settings = {
            "apputils-extension/themes": {"theme": name},
            "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
            "notebook-extension/tracker": {"windowingMode": "none"},  # every cell is in the page
        }
        for plugin, chosen in settings.items():
            path = self.home / "settings" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(chosen))

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


class Notebook:
    """A notebook that is open in a page."""

    def __init__(self, page):
        self.page = page

    def run_all(self):
        """Start all cells; they run on while the test goes on."""
        self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")

    def run_cell(self, index):
        self.page.evaluate(
            """async index => {
                const panel = window.jupyterapp.shell.currentWidget;
                panel.content.activeCellIndex = index;
                window.jupyterapp.commands.execute('notebook:run-cell');
            }""",
            index,
        )

    def run_to_the_end(self):
        """Run all cells, however long it takes; say it when one fails."""
        self.page.evaluate(
            "() => window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => null)"
        )
        failed = self.page.evaluate(
            """() => window.jupyterapp.shell.currentWidget.content.widgets
                .flatMap(cell => cell.model.outputs ? cell.model.outputs.toJSON() : [])
                .filter(output => output.output_type === 'error')
                .map(output => output.ename + ': ' + output.evalue)"""
        )
        if failed:
            raise RuntimeError(f"a cell failed: {failed}")

    def command(self, name, **options):
        self.page.evaluate(
            "([name, options]) => { window.jupyterapp.commands.execute(name, options) }",
            [name, options],
        )

    def cell(self, index):
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index)

    def output(self, index):
        return self.cell(index).locator(".jp-Cell-outputWrapper")

    def close(self):
        self.page.evaluate(
            "() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()",
        )
        self.page.context.close()


def open_notebook(lab, browser, cells, theme="JupyterLab Light"):
    """Open a new notebook of code cells, and wait for its kernel."""
    lab.theme(theme)
    name = f"page_{time.monotonic_ns()}.ipynb"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    nbformat.write(notebook, lab.root / name)
    page = browser.new_context(viewport={"width": 1100, "height": 900}).new_page()
    page.set_default_timeout(60_000)
    page.goto(f"{lab.url}/doc/tree/{name}")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.wait_for_function(
        """() => {
            const panel = window.jupyterapp && window.jupyterapp.shell.currentWidget;
            const kernel = panel && panel.sessionContext && panel.sessionContext.session
                && panel.sessionContext.session.kernel;
            return kernel && kernel.status === 'idle';
        }"""
    )
    return Notebook(page)


def look(page, name):
    """Keep a screenshot where RLHF_LESSONS_SCREENSHOTS names a folder, to be looked at."""
    folder = os.environ.get("RLHF_LESSONS_SCREENSHOTS")
    if folder:
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{folder}/{name}.png")


def luminance(page, selector, which):
    """The relative luminance, 0 to 1, of an element's ground or one of its colours, say "color"."""
    rgb = page.evaluate(
        """([selector, which]) => {
            let element = document.querySelector(selector);
            if (which !== 'ground') return getComputedStyle(element)[which];
            let ground;
            do {
                ground = getComputedStyle(element).backgroundColor;
                element = element.parentElement;
            } while (element && /rgba\\(.*, 0\\)|transparent/.test(ground));
            return ground;
        }""",
        [selector, which],
    )
    channels = [float(n) / 255 for n in re.findall(r"[\d.]+", rgb)[:3]]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(page, selector, which="color"):
    """How an element's colour stands out from its ground, 1 to 21."""
    shape, ground = (luminance(page, selector, of) for of in (which, "ground"))
    return (max(shape, ground) + 0.05) / (min(shape, ground) + 0.05)
