"""What can be set above a picture: a slider with a number box, a choice, a switch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets

from rlhf_lessons.classroom.widgets.page import script_html

__all__ = ["HANDLES_HTML", "Choice", "PlainControl", "Slider", "SliderControl", "Toggle"]

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
HANDLES_HTML = _HANDLES + script_html(_NAME_HANDLES)


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


class SliderControl:
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


class PlainControl:
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
        """What is chosen now."""
        return self.widget.value
