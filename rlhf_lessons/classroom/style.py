"""The look of every picture: colours, line styles, and how a figure becomes a PNG.

Used by all lessons. The colours are Petroff's six (arXiv 2107.02270), chosen by survey to stay
apart for colour-blind readers; each comes with a line style of its own, and lines are labelled at
their end, so that no picture depends on colour. The face is white, because a transparent picture
turns black on black in a dark theme.

Left out on purpose: a dark variant (one picture serves both themes) and `bbox_inches="tight"`
(it costs more than the drawing itself and lets the size jump).
"""

from __future__ import annotations

import base64
import contextlib
import html
import io
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # matplotlib takes half a second, so it is imported by the first picture
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.text import Annotation

COLORS = ("#5790fc", "#f89c20", "#e42536", "#964a8b", "#7a21dd", "#6b6b70")
LINE_STYLES = ("-", "--", "-.", ":", (0, (6, 1.5, 1, 1.5, 1, 1.5)), (0, (1, 1)))

# Petroff's orange and light blue are too pale for letters on white (below 4.5:1), so a label at
# the end of a line is written in the same hue, darker.
TEXT_COLORS = ("#1f5fd6", "#9a5a00", "#c01828", "#7e3b74", "#6a17c4", "#55555a")

# From what is written to what only guides the eye.
INK, DARK, GREY, PALE = "#1a1a1c", "#3c3c40", "#55555a", "#b8b8bd"

DOTS_PER_INCH = 100  # one inch of figure is 100 CSS pixels
_DOTS_PER_PIXEL = 1.5  # letters stay sharp on dense screens, for 6 ms more a picture

_RC: dict[str, Any] = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": DOTS_PER_INCH,
    "figure.figsize": (7.2, 3.6),
    "font.family": ["DejaVu Sans"],
    "font.size": 11.0,
    "axes.titlesize": 12.0,
    "axes.titlelocation": "left",
    "axes.labelsize": 11.0,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e6",
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.0,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": DARK,
    "ytick.color": DARK,
    "svg.hashsalt": "rlhf-lessons",
}

# Slider callbacks can run on another thread than the cell (a kernel subshell), and neither
# matplotlib nor its settings are safe to share between threads.
_LOCK = threading.RLock()


def _settings() -> dict[str, Any]:
    from cycler import cycler

    return {**_RC, "axes.prop_cycle": cycler(color=COLORS) + cycler(linestyle=LINE_STYLES)}


def use_style() -> None:
    """Give every later matplotlib picture of this session the look of the course.

    Returns:
        None; pictures that were made before keep their look.
    """
    import matplotlib

    with _LOCK:
        matplotlib.rcParams.update(_settings())


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Hold the drawing lock and the look of the course while the block runs.

    Yields:
        Nothing; the settings that were in force before are back afterwards.
    """
    import matplotlib

    with _LOCK, matplotlib.rc_context(_settings()):
        yield


def new_figure(size: tuple[float, float] = (7.2, 3.6)) -> Figure:
    """Make a white figure that no window and no pyplot knows of.

    Args:
        size: width and height in inches; one inch is 100 pixels on the page.

    Returns:
        An empty figure with an Agg canvas, laid out by matplotlib's constrained layout.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with drawing():
        figure = Figure(size, dpi=DOTS_PER_INCH * _DOTS_PER_PIXEL, layout="constrained")
        FigureCanvasAgg(figure)
    return figure


def png(figure: Figure, compression: int = 6) -> bytes:
    """Render a figure to PNG bytes at its own fixed size.

    Args:
        figure: the figure to render, made by `new_figure`.
        compression: 1 (fast, for pictures that change while one looks) to 9 (small, for files).

    Returns:
        The file's bytes. Two renderings of one figure are identical: no date, no software name.
    """
    import numpy as np
    from PIL import Image

    buffer = io.BytesIO()
    with drawing():
        # `savefig` would lay every text out twice, at its own resolution and back.
        figure.canvas.draw()
        pixels = np.asarray(figure.canvas.buffer_rgba())
        Image.fromarray(pixels).convert("RGB").save(
            buffer, format="png", compress_level=compression
        )
    return buffer.getvalue()


def img(png_bytes: bytes, alt: str, size: tuple[float, float]) -> str:
    """Write an HTML image element that holds the picture itself.

    Args:
        png_bytes: the picture.
        alt: what the picture shows, in words, for readers who cannot see it.
        size: width and height in inches, so that the page keeps the place while pictures change.

    Returns:
        One `<img>` element with its alternative text.
    """
    data = base64.b64encode(png_bytes).decode("ascii")
    width, height = (round(inches * DOTS_PER_INCH) for inches in size)
    return (
        f'<img alt="{html.escape(alt, quote=True)}" width="{width}" height="{height}" '
        f'style="max-width:100%;height:auto;background:white" src="data:image/png;base64,{data}">'
    )


def label_line(axes: Axes, line: Line2D, text: str, index: int = 0) -> Annotation:
    """Write a line's name beside its last point, in the line's hue.

    Args:
        axes: where the line is drawn.
        line: the line to name; it needs at least one point.
        text: its name.
        index: which of the six colours the line has.

    Returns:
        The label; set its `xy` to the new last point when the line moves.
    """
    x, y = line.get_data()
    return axes.annotate(
        text,
        (x[-1], y[-1]),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        color=TEXT_COLORS[index % len(TEXT_COLORS)],
        annotation_clip=False,
    )
