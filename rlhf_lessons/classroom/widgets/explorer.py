"""A picture whose settings the reader can change.

The picture is an `<img>` with alternative text in an HTML widget, drawn on one figure that is
reused: of the ways tried it is the only one that answers within 100 ms, does not flicker and can be
read aloud. The widget also carries its first picture as a plain PNG, for readers without a kernel.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets

from rlhf_lessons.classroom import style
from rlhf_lessons.classroom.widgets.controls import (
    HANDLES_HTML,
    Choice,
    PlainControl,
    Slider,
    SliderControl,
    Toggle,
)
from rlhf_lessons.classroom.widgets.page import caption_html, display_bundle, warning_html

__all__ = ["Explorer", "explore"]


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
        self._controls: dict[str, SliderControl | PlainControl] = {}
        for name, spec in controls.items():
            if isinstance(spec, Slider):
                self._controls[name] = SliderControl(spec, self._refresh, self._warn)
            elif isinstance(spec, (Choice, Toggle)):
                self._controls[name] = PlainControl(spec, self._refresh)
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
                ipywidgets.HTML(caption_html(caption) + HANDLES_HTML),
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
            if isinstance(control, SliderControl) and control.spec.end is not None:
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
