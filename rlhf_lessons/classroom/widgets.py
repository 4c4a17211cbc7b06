"""The widget base: a picture with controls (`explore`) and a training run one watches (`watch`).

Used by all lessons. A picture is an `<img>` with alternative text in an HTML widget, drawn on one
figure that is reused: of the ways tried it is the only one that answers within 100 ms, does not
flicker and can be read aloud. Each widget also carries its first picture as a plain PNG, for
readers without a kernel.

Two things shape the code. JupyterLab can deliver widget messages on a thread of their own (a kernel
subshell), so a callback may run while a cell runs; and an exception that passes through a
generator ends it, so `watch` turns an interrupt into a flag that it reads between two steps.

Left out on purpose: `ipywidgets.interact` and output widgets (a new figure for each picture, blank
frames in between), and a Resume button (training would then hold up every other widget).
"""

from __future__ import annotations

import contextlib
import dataclasses
import html
import math
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets

from rlhf_lessons.classroom import plots, style

_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_MESSAGE = "margin:2px 0;line-height:1.5;font-size:13px;color:var(--jp-ui-font-color1,#1a1a1c)"
_WARNING = (
    "margin:4px 0;padding:4px 10px;max-width:700px;line-height:1.5;font-size:13px;"
    "background:#fff4e5;color:#5c2e00;border-left:4px solid #b25e00;white-space:pre-wrap"
)


def caption_html(text: str) -> str:
    """Write a caption in the theme's own text colour; backticks set code.

    Args:
        text: the caption, plain text.

    Returns:
        One `<p>` element, or an empty string for an empty text.
    """
    return f'<p style="{_MESSAGE};max-width:720px">{html.escape(text)}</p>' if text else ""


def warning_html(text: str) -> str:
    """Write a warning that screen readers announce when it appears.

    Args:
        text: the warning, plain text.

    Returns:
        One element with the role of an alert, or an empty string for an empty text.
    """
    return f'<div role="alert" style="{_WARNING}">{html.escape(text)}</div>' if text else ""


def progress_html(name: str, done: int, total: int | None, width: int) -> str:
    """Write a progress bar that can be read on white and on black.

    The browser's own `<progress>` has a pale track, which looks full on a dark page.

    Args:
        name: what makes progress, for screen readers.
        done: how much of it is done.
        total: how much there is, or None where no one knows: the bar is then striped.
        width: in pixels.

    Returns:
        One element with the role of a progress bar.
    """
    if total is None:
        state, part = "", 100.0
        fill = "repeating-linear-gradient(135deg,#1f5fd6 0 6px,transparent 6px 12px)"
    else:
        state = f'aria-valuemin="0" aria-valuenow="{done}" aria-valuemax="{total}" '
        part, fill = 100.0 * done / max(total, 1), "#1f5fd6"
    return (
        f'<span role="progressbar" aria-label="{html.escape(name, quote=True)}" {state}'
        f'style="display:inline-block;box-sizing:border-box;width:{width}px;height:12px;'
        'vertical-align:middle;overflow:hidden;border:1px solid #8a8a90;border-radius:6px">'
        f'<span style="display:block;width:{part:.4g}%;height:100%;background:{fill}"></span>'
        "</span>"
    )


def script_html(script: str) -> str:
    """Write a script that runs once, when the page shows it: an image that cannot be loaded.

    Args:
        script: JavaScript; `this` is the image, which goes away at the end.

    Returns:
        One `<img>` element without a picture.
    """
    handler = html.escape(f"{script}\nthis.remove();", quote=True)
    return f'<img src="data:," alt="" onerror="{handler}">'


def display_bundle(widget: ipywidgets.Widget, picture: bytes | None, text: str) -> dict[str, Any]:
    """Make what Jupyter displays: the live widget, and what stands in for it without a kernel.

    Args:
        widget: the widget to show.
        picture: a PNG to show where widgets cannot live, or None.
        text: the same in words, for terminals.

    Returns:
        A MIME bundle.
    """
    bundle: dict[str, Any] = {"text/plain": text}
    if picture is not None:
        bundle["image/png"] = picture
    bundle[_WIDGET_VIEW] = {
        "version_major": 2,
        "version_minor": 0,
        "model_id": widget.model_id,
    }
    return bundle


# --------------------------------------------------------------------------------------------
# Controls
# --------------------------------------------------------------------------------------------


# What ipywidgets leaves out of a slider: a handle that shows on white, as on black, and for screen
# readers its name and, on a logarithmic slider, the value instead of the power of ten.
_HANDLES = """<style>
.rlhf-lessons-explore .widget-slider .noUi-handle { border: 2px solid #1f5fd6; }
.rlhf-lessons-explore .widget-slider .noUi-handle:focus-visible {
  outline: 2px solid #1f5fd6; outline-offset: 2px;
}
</style>"""
_NAME_HANDLES = """
const root = this.closest('.rlhf-lessons-explore');
const observer = new MutationObserver(records => name(records.map(record => record.target)));
const name = written => {
  for (const row of root.querySelectorAll('.rlhf-lessons-slider')) {
    const handle = row.querySelector('[role=slider]');
    if (!handle || (handle.hasAttribute('aria-label') && !written.includes(handle))) continue;
    handle.setAttribute('aria-label', row.querySelector('label').textContent);
    const whole = row.matches('.rlhf-lessons-log-whole');
    if (!whole && !row.matches('.rlhf-lessons-log')) continue;
    const value = 10 ** handle.getAttribute('aria-valuetext');
    handle.setAttribute(
      'aria-valuetext', whole ? Math.round(value) : Number(value.toPrecision(4))
    );
  }
  observer.takeRecords();  // what was written here is no news
};
observer.observe(
  root, {childList: true, subtree: true, attributes: true, attributeFilter: ['aria-valuetext']}
);
name([]);
"""


@dataclass(frozen=True)
class Slider:
    """A number to drag, step with the arrow keys or type.

    When all of `minimum`, `maximum`, `value` and (unless it is logarithmic) `step` are whole
    numbers (int), so is the value that `draw` gets.

    Attributes:
        symbol: the mathematical sign, such as "γ".
        name: its name in words, such as "discount".
        minimum: the smallest value.
        maximum: the largest value.
        value: where it starts.
        step: the distance of two neighbouring values; on a logarithmic slider their distance in
            powers of ten. None takes a hundredth of the range, or 1 for whole numbers.
        log: whether equal steps multiply instead of add.
        end: where the range ends now, given the values of all controls by name; None keeps it at
            `maximum`.

    Raises:
        ValueError: the range is empty, the value lies outside it, or a logarithmic range is not
            positive.
    """

    symbol: str
    name: str
    minimum: float
    maximum: float
    value: float
    step: float | None = None
    log: bool = False
    end: Callable[[Mapping[str, Any]], float] | None = None

    def __post_init__(self) -> None:
        numbers = {"minimum": self.minimum, "maximum": self.maximum, "value": self.value}
        for field, number in numbers.items():
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                raise ValueError(f"Slider: {field} must be a number, got {number!r}")
        if not self.minimum < self.maximum:
            raise ValueError(
                f"Slider: minimum must be below maximum, got {self.minimum} and {self.maximum}"
            )
        if not self.minimum <= self.value <= self.maximum:
            raise ValueError(
                f"Slider: value must lie in [{self.minimum}, {self.maximum}], got {self.value}"
            )
        if self.step is not None and not self.step > 0:
            raise ValueError(f"Slider: step must be positive, got {self.step}")
        if self.log and not self.minimum > 0:
            raise ValueError(f"Slider: a log slider needs minimum > 0, got {self.minimum}")

    @property
    def whole(self) -> bool:
        """Whether the values are whole numbers."""
        numbers = [self.minimum, self.maximum, self.value]
        if self.step is not None and not self.log:
            numbers.append(self.step)
        return all(isinstance(number, int) for number in numbers)

    @property
    def label(self) -> str:
        """Symbol and name, as the page shows them."""
        return f"{self.symbol} {self.name}".strip()

    def show(self, value: float) -> str:
        """Write a value as the number box shows it.

        Args:
            value: the number.

        Returns:
            At most four significant digits.
        """
        return str(int(value)) if self.whole else f"{value:.4g}"

    def read(self, text: str) -> float:
        """Read what someone typed.

        Args:
            text: the typed text.

        Returns:
            The number.

        Raises:
            ValueError: it is no number, not a whole one, or outside the range; the message says
                which and what the box accepts.
        """
        between = f"a number from {self.show(self.minimum)} to {self.show(self.maximum)}"
        if self.whole:
            between = between.replace("a number", "a whole number")
        try:
            # A decimal comma is what many keyboards offer.
            value = float(text.strip().replace(",", ".").replace("\N{MINUS SIGN}", "-"))
        except ValueError:
            raise ValueError(f"{self.label} takes {between}; {text!r} is no number.") from None
        if not math.isfinite(value) or not self.minimum <= value <= self.maximum:
            raise ValueError(f"{self.label} takes {between}; got {text.strip()}.")
        if self.whole:
            if value != int(value):
                raise ValueError(f"{self.label} takes {between}; got {text.strip()}.")
            return int(value)
        return value


@dataclass(frozen=True)
class Choice:
    """One of several things.

    Attributes:
        name: what is chosen, such as "opponent".
        options: the options as texts, or a mapping from text to the value that `draw` gets.
        value: the option chosen at the start; None takes the first.

    Raises:
        ValueError: there is no option, or the value is none of them.
    """

    name: str
    options: Sequence[Any] | Mapping[str, Any]
    value: Any = None

    def __post_init__(self) -> None:
        values = list(self.mapping.values())
        if not values:
            raise ValueError("Choice: options must not be empty")
        if self.value is not None and not any(self.value is v or self.value == v for v in values):
            raise ValueError(f"Choice: value must be one of {list(self.mapping)}, got {self.value}")

    @property
    def mapping(self) -> dict[str, Any]:
        """Each option's text with its value, in order."""
        if isinstance(self.options, Mapping):
            return {str(text): value for text, value in self.options.items()}
        return {str(option): option for option in self.options}


@dataclass(frozen=True)
class Toggle:
    """A switch.

    Attributes:
        name: what it switches on, such as "with baseline".
        value: whether it is on at the start.
    """

    name: str
    value: bool = False


class _SliderControl:
    """A slider and a number box that hold one value."""

    def __init__(self, spec: Slider, changed: Callable[[], None], warn: Callable[[str], None]):
        self.spec = spec
        self.value: float = spec.value
        self._changed = changed
        self._warn = warn
        self._quiet = False
        self._box = ipywidgets.Text(
            value=spec.show(spec.value),
            description=spec.label,
            continuous_update=False,
            style={"description_width": "170px"},
            layout={"width": "260px"},
        )
        # The value is in the box, so the slider needs no readout; a log slider's would be read
        # aloud as an exponent.
        common = {"readout": False, "layout": {"width": "min(340px, 100%)"}}
        low, high = self._place(spec.minimum), self._place(spec.maximum)
        self._step = spec.step or (1 if spec.whole and not spec.log else (high - low) / 100)
        if spec.log:
            self._slider: Any = ipywidgets.FloatLogSlider(
                value=spec.value, base=10, min=low, max=high, step=self._step, **common
            )
        else:
            kind = ipywidgets.IntSlider if spec.whole else ipywidgets.FloatSlider
            self._slider = kind(spec.value, min=low, max=high, step=self._step, **common)
        self._slider.observe(self._dragged, "value")
        self._box.observe(self._typed, "value")
        self.widget = ipywidgets.HBox(
            [self._box, self._slider], layout={"flex_flow": "row wrap", "align_items": "center"}
        )
        self.widget.add_class("rlhf-lessons-slider")
        if spec.log:
            self.widget.add_class(f"rlhf-lessons-log{'-whole' if spec.whole else ''}")

    def _place(self, value: float) -> float:
        """Where on the slider a value lies, where all steps are equally long."""
        return math.log10(value) if self.spec.log else value

    def _dragged(self, change: Any) -> None:
        if self._quiet:
            return
        # The page puts a value between two steps of the slider on the nearer one and reports that,
        # as if someone had dragged it: what was typed, or given at the start, stays.
        new = change["new"]
        if abs(self._place(new) - self._place(self.value)) <= 0.501 * self._step:
            return
        # The handle stays where it was dragged, also between two whole numbers on a log slider: the
        # next arrow key goes on from there. Powers of ten carry rounding beyond the digits shown.
        value = min(max(new, self.spec.minimum), self.spec.maximum)
        self._set(round(value) if self.spec.whole else float(f"{value:.6g}"))

    def _typed(self, change: Any) -> None:
        if self._quiet:
            return
        try:
            value = self.spec.read(change["new"])
        except ValueError as refusal:
            self._write(self._box, self.spec.show(self.value))
            self._warn(f"{refusal} Kept {self.spec.show(self.value)}.")
            return
        self._write(self._slider, value)
        self._set(value)

    def end_at(self, maximum: float) -> None:
        """Let the range end elsewhere; a value beyond moves there."""
        if maximum == self.spec.maximum:
            return
        self.value = min(self.value, maximum)
        self.spec = dataclasses.replace(self.spec, maximum=maximum, value=self.value)
        self._write(self._box, self.spec.show(self.value))
        self._write(self._slider, self.value)
        self._slider.max = self._place(maximum)

    def _set(self, value: float) -> None:
        self.value = value
        self._write(self._box, self.spec.show(value))
        self._warn("")
        self._changed()

    def _write(self, widget: Any, value: Any) -> None:
        if widget.value == value:
            return
        self._quiet = True
        try:
            widget.value = value
        finally:
            self._quiet = False


class _PlainControl:
    """A dropdown or a checkbox."""

    def __init__(self, spec: Choice | Toggle, changed: Callable[[], None]):
        self._changed = changed
        if isinstance(spec, Choice):
            options = spec.mapping
            first = next(iter(options.values())) if spec.value is None else spec.value
            width = 220 + 8 * max(map(len, options))  # no option is cut off, a letter is 8 wide
            self.widget: Any = ipywidgets.Dropdown(
                options=list(options.items()),
                value=first,
                description=spec.name,
                style={"description_width": "170px"},
                layout={"width": f"{max(width, 300)}px", "max_width": "100%"},
            )
        else:
            self.widget = ipywidgets.Checkbox(
                value=spec.value,
                description=spec.name,
                indent=False,
                layout={"width": "auto", "margin": "2px 2px 2px 178px"},
            )
        self.widget.observe(lambda change: self._changed(), "value")

    @property
    def value(self) -> Any:
        return self.widget.value


# --------------------------------------------------------------------------------------------
# Explore
# --------------------------------------------------------------------------------------------


class Explorer:
    """A picture with controls above and a caption below; see `explore`.

    Attributes:
        figure: the one figure that every picture is drawn on.
        alt: the present picture in words.
        widget: the live widget, for those who want to place it themselves.
    """

    def __init__(
        self,
        draw: Callable[..., str],
        controls: Mapping[str, Slider | Choice | Toggle],
        caption: str,
        size: tuple[float, float],
    ):
        self._draw = draw
        self._caption = caption
        self._size = size
        self._message = ipywidgets.HTML()
        self._controls: dict[str, _SliderControl | _PlainControl] = {}
        for name, spec in controls.items():
            if isinstance(spec, Slider):
                self._controls[name] = _SliderControl(spec, self._refresh, self._warn)
            elif isinstance(spec, (Choice, Toggle)):
                self._controls[name] = _PlainControl(spec, self._refresh)
            else:
                raise TypeError(
                    f"explore: {name} must be a Slider, Choice or Toggle, got {type(spec).__name__}"
                )
        self.figure = style.new_figure(size)
        self._end_ranges()
        self._drawn = self.values
        self.alt = self._draw_now()
        self._first = style.png(self.figure)
        # The layout is settled once: it costs as much as the drawing, and a moving frame distracts.
        self.figure.set_layout_engine("none")
        self._picture = ipywidgets.HTML(style.img(self._first, self.alt, size))
        self.widget = ipywidgets.VBox(
            [
                *(control.widget for control in self._controls.values()),
                self._message,
                self._picture,
                ipywidgets.HTML(caption_html(caption) + _HANDLES + script_html(_NAME_HANDLES)),
            ]
        )
        self.widget.add_class("rlhf-lessons-explore")

    @property
    def values(self) -> dict[str, Any]:
        """The present value of each control."""
        return {name: control.value for name, control in self._controls.items()}

    def _end_ranges(self) -> None:
        """Give the sliders the range that goes with the other values."""
        values = self.values
        for control in self._controls.values():
            if isinstance(control, _SliderControl) and control.spec.end is not None:
                control.end_at(control.spec.end(values))

    def _draw_now(self) -> str:
        with style.drawing():
            alt = self._draw(self.figure, **self.values)
        if not isinstance(alt, str) or not alt.strip():
            raise TypeError(
                "explore: draw must return the picture in words (a str, its alternative text), "
                f"got {alt!r}"
            )
        return alt

    def _refresh(self) -> None:
        self._end_ranges()
        values = self.values
        if _same(values, self._drawn):
            return
        self._drawn = values
        try:
            alt = self._draw_now()
            picture = style.png(self.figure, compression=1)
        except Exception as error:
            self._drawn = {}
            self._warn(_readable(error, values))
            return
        self.alt = alt
        self._picture.value = style.img(picture, alt, self._size)
        self._warn("")

    def _warn(self, text: str) -> None:
        message = warning_html(text)
        if self._message.value != message:
            self._message.value = message

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        text = f"{self.alt}\n{self._caption}".strip()
        return display_bundle(self.widget, self._first, text)


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two sets of values are equal; objects that cannot be compared count by identity."""
    if a.keys() != b.keys():
        return False
    for name in a:
        if a[name] is b[name]:
            continue
        try:
            if not bool(a[name] == b[name]):
                return False
        except Exception:  # arrays and tensors refuse a single truth value
            return False
    return True


def _readable(error: Exception, values: Mapping[str, Any]) -> str:
    """Say what went wrong, with which values, and in which line of whose code."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    line = f"\nin {frame.name}: {frame.line}" if frame.line else ""
    setting = ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in values.items()
    )
    return (
        f"The picture could not be drawn with {setting}; the last good one stays.\n"
        f"{type(error).__name__}: {error}{line}"
    )


def explore(
    draw: Callable[..., str],
    *,
    caption: str = "",
    size: tuple[float, float] = (7.2, 3.6),
    **controls: Slider | Choice | Toggle,
) -> Explorer:
    """Show a picture whose settings the reader can change; leave it on a cell's last line.

    `draw(figure, **values)` is called once with an empty figure, then with the same figure for
    each change. It adds its axes when `figure.axes` is empty and otherwise updates what is there
    (`line.set_ydata(...)`), which keeps a change within 100 ms. An exception in a later call is
    shown above the last good picture; one in the first call is raised.

    Args:
        draw: draws the picture and returns it in words, the alternative text.
        caption: what to look for, shown below the picture.
        size: width and height in inches; one inch is 100 pixels on the page.
        controls: for each further argument of `draw` its `Slider`, `Choice` or `Toggle`.

    Returns:
        The widget. It also holds its first picture as a PNG, for readers without a kernel.

    Raises:
        TypeError: a control is of another type, or `draw` does not return a text.
    """
    return Explorer(draw, controls, caption, size)


# --------------------------------------------------------------------------------------------
# Watch
# --------------------------------------------------------------------------------------------


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
        self._head.value = f'<span style="{_MESSAGE}">{bar}&ensp;{html.escape(text)}</span>'

    def _redraw(self, compression: int) -> bytes:
        with style.drawing():
            if self._figure is None:
                self._set_up()
            for name, line in self._lines.items():
                steps, values = self._run._curve(name)
                line.set_data(steps, values)
                if name in self._labels and steps:
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
