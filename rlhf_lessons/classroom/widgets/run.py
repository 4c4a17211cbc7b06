"""A training run one watches: progress, live curves, a way to stop it and to go on."""

from __future__ import annotations

import contextlib
import html
import math
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import ipywidgets

from rlhf_lessons.classroom import plots, style
from rlhf_lessons.classroom.widgets.page import MESSAGE_STYLE, display_bundle, progress_html

__all__ = ["Run", "watch"]


class Run:
    """A training run that can be watched, stopped and resumed; made by `watch`.

    Attributes:
        records: every record the loop has yielded so far, in order.
        last: the latest record, or None before the first.
        finished: whether the loop came to its own end.
    """

    def __init__(
        self,
        loop: Iterable[Any],
        curves: Sequence[str | Sequence[str]] = ("loss",),
        *,
        every: float = 0.3,
        title: str = "training",
        total: int | None = None,
    ):
        if not every >= 0:
            raise ValueError(f"watch: every must be a number of seconds ≥ 0, got {every}")
        if isinstance(curves, str):
            raise TypeError(
                f"watch: curves must be a sequence of names such as ({curves!r},), got a text"
            )
        self.records: list[Any] = []
        self.finished = False
        self._loop = iter(loop)
        self._curves = [(c,) if isinstance(c, str) else tuple(c) for c in curves]
        self._every = every
        self._title = title
        self._total = total
        self._stop = threading.Event()
        self._running = threading.Lock()

    @property
    def last(self) -> Any:
        """The latest record, or None before the first."""
        return self.records[-1] if self.records else None

    def stop(self) -> None:
        """Ask the loop to stop after the step it is in; `resume` goes on from there."""
        self._stop.set()

    def resume(self) -> Run:
        """Go on where the run stopped; on a finished run, say so and change nothing.

        Returns:
            The run itself.

        Raises:
            RuntimeError: the run is going on at this moment.
        """
        if not self._running.acquire(blocking=False):
            raise RuntimeError("Run.resume: this run is still going on; stop it first")
        try:
            if not self.finished:
                self._stop.clear()
                self._go()
        finally:
            self._running.release()
        print(self.summary())
        return self

    def summary(self) -> str:
        """Say in one line how far the run came and where its curves stand, without any times.

        Returns:
            The line that is printed when the run ends.
        """
        step, total = self._progress()
        parts = [
            f"{name.replace('_', ' ')} {_number(value)}"
            for group in self._curves
            for name in group
            if (value := self._latest(name)) is not None
        ]
        count = step if total is None else total
        done = f"{step}" if total is None else f"{step} of {total}"
        done += " step" if count == 1 else " steps"
        if not self.finished:
            done = f"stopped after {done}"
            parts.append("resume() on this run goes on")
        return (
            f"{self._title}: {done} · " + " · ".join(parts) if parts else f"{self._title}: {done}"
        )

    def _go(self) -> None:
        view = _NotebookView(self) if _in_notebook() else _TerminalView(self)
        try:
            with _interrupt_sets(self._stop), view:
                while not self._stop.is_set():
                    try:
                        record = next(self._loop)
                    except StopIteration:
                        self.finished = True
                        break
                    self.records.append(record)
                    if len(self.records) == 1:
                        self._check_curves(record)
                    view.step()
        except BaseException as error:
            # The caller never gets to name this run, so the exception carries it.
            error.run = self  # type: ignore[attr-defined]
            if hasattr(error, "add_note"):
                error.add_note(
                    f"watch: {len(self.records)} records were kept; "
                    "they are in sys.last_value.run.records"
                )
            raise

    def _check_curves(self, record: Any) -> None:
        for name in (name for group in self._curves for name in group):
            if not hasattr(record, name):
                known = ", ".join(getattr(record, "__dataclass_fields__", None) or vars(record))
                raise ValueError(
                    f"watch: curves must name fields of the record ({known}), got {name!r}"
                )

    def _progress(self) -> tuple[int, int | None]:
        total = self._total if self._total is not None else getattr(self.last, "total", None)
        return getattr(self.last, "step", len(self.records)), total

    def _latest(self, name: str) -> float | None:
        for record in reversed(self.records):
            value = _float(getattr(record, name, None))
            if value is not None:
                return value
        return None

    def _curve(self, name: str) -> tuple[list[float], list[float]]:
        steps, values = [], []
        for index, record in enumerate(self.records, start=1):
            value = _float(getattr(record, name, None))
            if value is not None:
                steps.append(getattr(record, "step", index))
                values.append(value)
        return steps, values

    def __repr__(self) -> str:
        return f"<Run {self.summary()}>"


def _panel_texts(names: Sequence[str]) -> tuple[str, list[str]]:
    """The title of a panel and the label of each curve; words that all names end in stand above.

    A panel of three in a row has no room for "chosen log prob, rejected log prob".
    """
    words = [name.split("_") for name in names]
    shared = 0
    while len(names) > 1 and all(len(w) > shared + 1 for w in words):
        if len({w[-1 - shared] for w in words}) > 1:
            break
        shared += 1
    labels = [" ".join(w[: len(w) - shared]) for w in words]
    return " ".join(words[0][len(words[0]) - shared :]) or ", ".join(labels), labels


def _float(value: Any) -> float | None:
    """The value as a finite number, or None where a step did not measure it."""
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _number(value: float) -> str:
    return f"{value:.4g}"


def watch(
    loop: Iterable[Any],
    curves: Sequence[str | Sequence[str]] = ("loss",),
    *,
    every: float = 0.3,
    title: str = "training",
    total: int | None = None,
) -> Run:
    """Run a training loop to its end with a progress bar and live curves.

    The Stop button, the notebook's ■ button and Ctrl-C end the run after the step it is in; the
    model and the records stay, and `run.resume()` goes on. At the end one line is printed that is
    the same in every run with the same seed.

    Args:
        loop: the generator of records, such as `train_q(...)`.
        curves: fields of the records to draw, one panel each; several names in a tuple share one.
        every: seconds from one redraw to the next; drawing never takes more than a tenth of
            the time.
        title: what is trained, for the progress bar and the last line.
        total: the number of steps, where the records have no field `total`.

    Returns:
        The run, with `records`, `last` and `finished`.

    Raises:
        ValueError: a curve is no field of the records.
        Exception: whatever the loop raises, with the run as its attribute `run`.
    """
    return Run(loop, curves, every=every, title=title, total=total).resume()


@contextlib.contextmanager
def _interrupt_sets(flag: threading.Event) -> Iterator[None]:
    """Let the first interrupt set a flag and the second one through, while the block runs."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return

    def handle(number: int, frame: Any) -> None:
        if flag.is_set():
            raise KeyboardInterrupt
        flag.set()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _in_notebook() -> bool:
    """Whether this process is a Jupyter kernel, which can display widgets."""
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return getattr(shell, "kernel", None) is not None


class _TerminalView:
    """A text progress bar; nothing at all where no one looks at a terminal."""

    def __init__(self, run: Run):
        from tqdm import tqdm

        self._run = run
        step, total = run._progress()
        self._bar = tqdm(total=total, initial=step, desc=run._title, disable=None, leave=False)

    def __enter__(self) -> _TerminalView:
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def step(self) -> None:
        step, total = self._run._progress()
        if self._bar.total is None and total is not None:
            self._bar.total = total
        self._bar.update(step - self._bar.n)


class _NotebookView:
    """Progress bar, Stop button and curves, redrawn a few times a second."""

    def __init__(self, run: Run):
        self._run = run
        self._head = ipywidgets.HTML()
        self._picture = ipywidgets.HTML()
        self._button = ipywidgets.Button(
            description="Stop",
            tooltip="Stop after this step, as the notebook's ■ button does",
            layout={"width": "80px"},
        )
        self._button.on_click(self._clicked)
        # ipykernel answers a widget where it was made, here in the cell that is busy, and would
        # keep a click until the run is over. Without this note the click is delivered on the
        # thread that JupyterLab asked for. Where that is impossible, the ■ button still stops.
        vars(self._button.comm).pop("_reply_subshell_id", None)
        self._top = ipywidgets.HBox([self._button, self._head], layout={"align_items": "center"})
        self.widget = ipywidgets.VBox([self._top, self._picture])
        self.widget.add_class("rlhf-lessons-watch")
        self._size = (7.2, 2.6) if len(run._curves) > 1 else (7.2, 3.0)
        self._figure: Any = None
        self._lines: dict[str, Any] = {}
        self._labels: dict[str, Any] = {}
        self._due = 0.0
        self._handle: Any = None

    def __enter__(self) -> _NotebookView:
        from IPython.display import display

        self._write_head(running=True)
        bundle = display_bundle(self.widget, None, self._run._title)
        self._handle = display(bundle, raw=True, display_id=True)
        self._due = time.perf_counter() + self._run._every
        return self

    def step(self) -> None:
        start = time.perf_counter()
        if start < self._due:
            return
        self._write_head(running=True)
        self._redraw(compression=1)
        end = time.perf_counter()
        self._due = end + max(self._run._every, 9 * (end - start))

    def __exit__(self, *_: Any) -> None:
        self._write_head(running=False)
        self._top.children = (self._head,)
        self._button.close()
        # The last picture also stays in the notebook, as a PNG. A layout depends on the ones before
        # it, and how many there were on the clock: so this one starts from an empty figure.
        self._figure, self._lines, self._labels = None, {}, {}
        picture = self._redraw(compression=6) if self._run.records else None
        self._handle.update(display_bundle(self.widget, picture, self._run.summary()), raw=True)

    def _clicked(self, button: Any) -> None:
        button.description = "Stopping"  # a step can take a while
        self._run.stop()

    def _write_head(self, running: bool) -> None:
        run = self._run
        step, total = run._progress()
        bar = progress_html(run._title, step, total or (step if run.finished else None), width=220)
        text = f"{run._title}: step {step}" + (f" of {total}" if total else "")
        if not running:
            text += ", finished" if run.finished else ", stopped"
        self._head.value = f'<span style="{MESSAGE_STYLE}">{bar}&ensp;{html.escape(text)}</span>'

    def _redraw(self, compression: int) -> bytes:
        with style.drawing():
            if self._figure is None:
                self._set_up()
            for name, line in self._lines.items():
                steps, values = self._run._curve(name)
                line.set_data(steps, values)
                if name in self._labels:  # without a value yet, it would widen the axes
                    self._labels[name].set_visible(bool(steps))
                    if steps:
                        self._labels[name].xy = (steps[-1], values[-1])
            for axes in self._figure.axes:
                axes.relim()
                axes.autoscale_view()
                plots.move_apart([label for label in self._labels.values() if label.axes is axes])
            picture = style.png(self._figure, compression)
        self._picture.value = style.img(picture, self._alt(), self._size)
        return picture

    def _set_up(self) -> None:
        self._figure = style.new_figure(self._size)
        panels = self._figure.subplots(1, len(self._run._curves), squeeze=False)[0]
        _, total = self._run._progress()
        for axes, group in zip(panels, self._run._curves, strict=True):
            axes.set_xlabel("step")
            axes.locator_params(axis="x", integer=True)
            title, texts = _panel_texts(group)
            axes.set_title(title)
            if total:
                axes.set_xlim(0, total * (1.0 if len(group) == 1 else 1.15))
            for index, (name, text) in enumerate(zip(group, texts, strict=True)):
                # The first name lies on top: noise belongs behind what it scatters around.
                (line,) = axes.plot([], [], zorder=3 - 0.1 * index)
                self._lines[name] = line
                if len(group) > 1:
                    line.set_data([0], [0])
                    self._labels[name] = style.label_line(axes, line, text, index)
        self._figure.draw_without_rendering()  # labels move apart on axes that were laid out

    def _alt(self) -> str:
        words = []
        for name in self._lines:
            _, values = self._run._curve(name)
            if values:
                spoken = name.replace("_", " ")
                words.append(f"{spoken} from {_number(values[0])} to {_number(values[-1])}")
        step, _ = self._run._progress()
        return f"Curves of {self._run._title} up to step {step}: " + "; ".join(words)
