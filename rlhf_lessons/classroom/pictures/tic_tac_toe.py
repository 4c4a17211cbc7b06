"""The pictures of lesson 1: what a discount does, values on boards, and how learning went.

Left out on purpose: every number that is drawn. The lesson computes them, on its page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from rlhf_lessons.classroom.plots import board_map, curve, label_ends
from rlhf_lessons.classroom.style import COLORS, INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_discount(figure: Figure, returns: Sequence[float], worths: Mapping[str, float]) -> Figure:
    """Draw the return of each step of a game beside the worth of first moves, or move the bars.

    Args:
        figure: an empty figure, or one that this function has drawn.
        returns: (T,) the return of each step, 0 to 1.
        worths: what a first move is worth, 0 to 1, by its name; as many in every call.

    Returns:
        The figure.
    """
    heights = (list(returns), list(worths.values()))
    if not figure.axes:
        left, right = figure.subplots(1, 2)
        left.bar(range(len(returns)), heights[0], width=0.6)
        left.set(title="return of each step of a won game", xlabel="step t", ylabel="$G_t$")
        right.bar(
            list(worths), heights[1], width=0.5, color=COLORS[1], hatch="//", edgecolor="white"
        )
        right.set(title="value of X's first move")
        for axes, tall in zip((left, right), heights, strict=True):
            axes.set_ylim(0, 1.12)
            axes.grid(False, axis="x")
            for x in range(len(tall)):
                axes.text(x, 0, "", ha="center", fontsize=10)
    for axes, tall in zip(figure.axes, heights, strict=True):
        for bar, text, height in zip(axes.patches, axes.texts, tall, strict=True):
            bar.set_height(height)
            text.set(y=height + 0.02, text=f"{height:.3f}")
    return figure


def draw_boards(boards: Mapping[str, tuple[str, Sequence[float]]]) -> Figure:
    """Draw boards side by side, with a number on each empty square.

    Args:
        boards: by the title of each board, its nine cells and its nine numbers, −1 to 1.

    Returns:
        The figure.
    """
    size = (3 * len(boards), 3.3)
    figure, panels = plt.subplots(1, len(boards), figsize=size, layout="constrained", squeeze=False)
    for axes, (title, (cells, numbers)) in zip(panels[0], boards.items(), strict=True):
        board_map(axes, cells, numbers, title=title, limit=1)
    return figure


def draw_learning(
    distances: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    objectives: Mapping[str, tuple[Sequence[int], np.ndarray]],
    optimum: float,
) -> Figure:
    """Draw how far learned values are from the exact ones, and how well learned policies play.

    Args:
        distances: by the name of a line, games played (N,) and the distance from the exact V (N,).
        objectives: by the name of a line, games played (N,) and J of each run after them (R, N):
            the line is the mean over the runs, the band reaches from the lowest to the highest.
        optimum: the exact J of the best policy.

    Returns:
        The figure.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for index, (name, (games, distance)) in enumerate(distances.items()):
        curve(left, games, distance, label=name, index=index)
    most = max(games[-1] for games, _ in distances.values())
    left.set(xscale="log", yscale="log", xlabel="games", ylabel="distance to the exact V")
    left.set(title="learned V", xlim=(most / 100, most * 10))  # a decade for the names

    for index, (name, (games, runs)) in enumerate(objectives.items()):
        low, high, middle = np.min(runs, axis=0), np.max(runs, axis=0), np.mean(runs, axis=0)
        band = {"low": low, "high": high} if len(runs) > 1 else {}
        curve(right, games, middle, label=name, index=index, **band)
    last = max(games[-1] for games, _ in objectives.values())
    right.plot([0, last], [optimum, optimum], color=INK, linewidth=1, linestyle="-")
    right.text(0.01 * last, optimum + 0.008, "exact optimum", fontsize=10)
    ticks = np.linspace(0, last, 4)
    right.set(title="learned play against random", xlabel="thousand games", ylabel="J(π)")
    right.set(ylim=(0.6, 1.03), xlim=(0, 1.4 * last), xticks=ticks)
    right.set_xticklabels([f"{tick / 1000:g}" for tick in ticks])
    label_ends(left)
    label_ends(right)
    return figure
