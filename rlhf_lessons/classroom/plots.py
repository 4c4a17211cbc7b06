"""Pictures that several lessons draw: curves with an interval, and numbers on a board.

Each function adds to axes that the caller made, so it serves a figure file, a widget and a
notebook cell alike. Line `index` picks colour and line style together, so that a curve is still
known in grey.

Left out on purpose: anything that one lesson alone draws; it has a module of its own in `pictures`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlhf_lessons.classroom.style import COLORS, GREY, INK, LINE_STYLES, TEXT_COLORS, label_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
    from matplotlib.text import Annotation

SQUARE_NAMES = (
    "top left", "top middle", "top right",
    "middle left", "centre", "middle right",
    "bottom left", "bottom middle", "bottom right",
)  # fmt: skip


def curve(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    *,
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
    label: str = "",
    index: int = 0,
) -> Line2D:
    """Draw a line, and around it the interval of its uncertainty.

    Args:
        axes: where to draw.
        x: (N,) positions, for example steps.
        y: (N,) values.
        low: (N,) lower end of the interval; give both ends or none.
        high: (N,) upper end of the interval.
        label: the line's name; `label_ends` writes it beside the last point.
        index: which of the six colours and line styles.

    Returns:
        The line.

    Raises:
        ValueError: the lengths differ, or only one end of the interval is given.
    """
    if (low is None) != (high is None):
        raise ValueError("curve: give both low and high, or neither")
    lengths = {"x": x, "y": y, "low": low, "high": high}
    lengths = {name: len(v) for name, v in lengths.items() if v is not None}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"curve: x, y, low and high must be equally long, got {lengths}")
    color = COLORS[index % len(COLORS)]
    (line,) = axes.plot(
        x, y, color=color, linestyle=LINE_STYLES[index % len(LINE_STYLES)], label=label
    )
    if low is not None and high is not None:
        axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
    return line


def label_ends(axes: Axes) -> list[Annotation]:
    """Write each labelled line's name beside its last point, moved apart where they would overlap.

    Call it last, when the limits of the axes are settled.

    Args:
        axes: the axes whose lines to name.

    Returns:
        The labels, from the lowest to the highest.
    """
    lines = [line for line in axes.lines if not line.get_label().startswith("_")]
    lines = [line for line in lines if len(line.get_xdata())]
    axes.get_figure(root=True).draw_without_rendering()
    labels = []
    for line in lines:
        index = next((k for k, c in enumerate(COLORS) if c == line.get_color()), 0)
        labels.append(label_line(axes, line, line.get_label(), index))
    return move_apart(labels)


def move_apart(labels: Sequence[Annotation]) -> list[Annotation]:
    """Shift labels of one picture up or down, as little as needed, so that none overlap.

    Args:
        labels: labels made by `label_line` on axes that were laid out once.

    Returns:
        The labels, from the lowest to the highest.
    """
    heights = []
    for label in labels:
        pixels = label.axes.transData.transform(label.xy)[1]
        heights.append(pixels * 72.0 / label.get_figure(root=True).dpi)
    order = sorted(range(len(labels)), key=heights.__getitem__)
    for place, i in zip(_apart([heights[i] for i in order], 13.0), order, strict=True):
        labels[i].xyann = (5, place - heights[i])
    return [labels[i] for i in order]


def _apart(sorted_heights: list[float], gap: float) -> list[float]:
    """Move sorted heights as little as needed for a gap between neighbours.

    Heights that would touch form a group, which is spread evenly around its mean.
    """
    groups: list[list[float]] = []
    for height in sorted_heights:
        groups.append([height])
        while len(groups) > 1 and _spread(groups[-1], gap)[0] - _spread(groups[-2], gap)[-1] < gap:
            groups[-2:] = [groups[-2] + groups[-1]]
    return [place for group in groups for place in _spread(group, gap)]


def _spread(group: list[float], gap: float) -> list[float]:
    middle = sum(group) / len(group)
    return [middle + gap * (i - (len(group) - 1) / 2) for i in range(len(group))]


def tint(number: float, limit: float = 1.0) -> str:
    """Colour the ground behind a number: white at 0, blue above, orange below.

    The two hues differ for colour-blind readers as well, and stay pale enough for dark letters.

    Args:
        number: the number to be shown.
        limit: the size of number that gets the full colour.

    Returns:
        A colour such as "#d5e3fe".
    """
    if not math.isfinite(number) or limit <= 0:
        return "#ffffff"
    strength = min(abs(number) / limit, 1.0)
    full = (0x8F, 0xB5, 0xFD) if number > 0 else (0xFB, 0xBE, 0x6E)
    channels = (round(255 + strength * (channel - 255)) for channel in full)
    return "#" + "".join(f"{channel:02x}" for channel in channels)


def board_map(
    axes: Axes,
    cells: str,
    numbers: Mapping[int, float] | Sequence[float] | None = None,
    *,
    title: str = "",
    signed: bool = True,
    limit: float | None = None,
) -> Axes:
    """Draw a tic-tac-toe position with a number on each empty square.

    Args:
        axes: empty axes to draw on.
        cells: nine characters, `X`, `O`, and anything else for an empty square.
        numbers: the number of each empty square, as a mapping from square or as nine numbers.
        title: written above the board.
        signed: whether to write the sign, for values; False for probabilities.
        limit: the size of number that gets the full colour; by default the largest shown, at
            least 0.01.

    Returns:
        The axes, without their frame.

    Raises:
        ValueError: there are not nine cells.
    """
    from matplotlib.patches import Rectangle

    if len(cells) != 9:
        raise ValueError(f"board_map: cells must be 9 characters, got {len(cells)}: {cells!r}")
    shown = shown_numbers(cells, numbers)
    limit = limit or max([0.01, *(abs(n) for n in shown.values() if math.isfinite(n))])
    for square, mark in enumerate(cells):
        row, column = divmod(square, 3)
        ground = tint(shown[square], limit) if square in shown else "white"
        corner = (column - 0.5, row - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, facecolor=ground, edgecolor=GREY, lw=1.2))
        if mark in "XO":
            color = TEXT_COLORS[0] if mark == "X" else TEXT_COLORS[1]
            style: dict[str, Any] = {"fontsize": 30, "color": color, "fontweight": "bold"}
            text = "×" if mark == "X" else "○"
        else:
            style = {"fontsize": 12, "color": INK}
            text = number_text(shown[square], signed) if square in shown else ""
        axes.text(column, row, text, ha="center", va="center_baseline", **style)
    axes.set(xlim=(-0.55, 2.55), ylim=(2.55, -0.55), aspect="equal", title=title)
    axes.set_axis_off()
    return axes


def shown_numbers(
    cells: str, numbers: Mapping[int, float] | Sequence[float] | None
) -> dict[int, float]:
    """Keep the numbers of the empty squares.

    Args:
        cells: nine characters, `X` and `O` for taken squares.
        numbers: a mapping from square, or nine numbers, or None.

    Returns:
        The number of each empty square that has one.
    """
    if numbers is None:
        return {}
    items = numbers.items() if isinstance(numbers, Mapping) else enumerate(numbers)
    return {int(square): float(n) for square, n in items if cells[int(square)] not in "XO"}


def number_text(number: float, signed: bool) -> str:
    """Write a number as the boards show it.

    Args:
        number: the number.
        signed: whether to write the sign of a positive number too.

    Returns:
        Two decimals, with a typographic minus.
    """
    rounded = round(number, 2) + 0.0  # no negative zero
    text = f"{rounded:+.2f}" if signed and rounded else f"{rounded:.2f}"
    return text.replace("-", "\N{MINUS SIGN}")
