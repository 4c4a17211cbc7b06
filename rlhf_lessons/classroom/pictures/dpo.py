"""The pictures of lesson 6: policies as bars, losses of a margin, and frontiers of reward and KL.

A method keeps its colour and its marker from picture to picture. Left out on purpose: everything
that is measured; it comes from the page.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from rlhf_lessons.classroom.plots import curve, label_ends
from rlhf_lessons.classroom.style import COLORS, GREY, INK, PALE, TEXT_COLORS

MARKERS = "os^Dv*"
_KL = "KL(π ‖ π_ref) in nats per response"


def draw_policies(
    figure: Figure,
    names: Sequence[str],
    reference: Sequence[float],
    best: Sequence[float],
    title: str,
) -> Figure:
    """Draw two policies as bars side by side.

    Args:
        figure: the widget's; its axes are made on the first call.
        names: (N,) the responses.
        reference: (N,) their probabilities under π_ref.
        best: (N,) their probabilities under π*.
        title: what is written above.

    Returns:
        The figure.
    """
    if not figure.axes:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0.1, 0.32, 0.87, 0.57))
        places, empty = np.arange(len(names)), [0] * len(names)
        axes.grey = axes.bar(places - 0.2, empty, 0.4, color=PALE, label="π_ref")
        axes.blue = axes.bar(places + 0.2, empty, 0.4, color=TEXT_COLORS[0], label="π*")
        axes.set_xticks(places, names, rotation=40, ha="right", fontsize=9)
        axes.set(ylim=(0, 1), ylabel="probability")
        axes.grid(axis="x", visible=False)
        axes.legend()
    axes = figure.axes[0]
    for bars, heights in ((axes.grey, reference), (axes.blue, best)):
        for bar, height in zip(bars, heights, strict=True):
            bar.set_height(height)
    axes.set_title(title)
    return figure


def draw_margin_losses(
    figure: Figure,
    margins: Sequence[float],
    own: tuple[Sequence[float], Sequence[float]],
    other: tuple[Sequence[float], Sequence[float]] | None = None,
) -> Figure:
    """Draw a loss and its pull over the margin, and beside it another loss.

    Args:
        figure: the widget's; its axes are made on the first call.
        margins: (N,) margin h in nats.
        own: (N,) losses and (N,) weights.
        other: the same of the loss beside it, or None.

    Returns:
        The figure.
    """
    if not figure.axes:
        figure.set_layout_engine("none")
        for left, title, limits in (
            (0.08, "loss", (0, 6)),
            (0.57, "pull / β  (DPO: the weight)", (-0.6, 2.1)),
        ):
            axes = figure.add_axes((left, 0.15, 0.39, 0.72))
            axes.own, axes.other = (curve(axes, margins, margins, index=i) for i in range(2))
            axes.set(xlabel="margin h (nats)", xlim=(margins[0], margins[-1]))
            axes.set(ylim=limits, title=title)
    for place, axes in enumerate(figure.axes):
        axes.own.set_ydata(own[place])
        axes.other.set_visible(other is not None)
        if other is not None:
            axes.other.set_ydata(other[place])
    return figure


def draw_distances(distances: Mapping[str, Sequence[float]]) -> Figure:
    """Draw how far from π* training is after each step.

    Args:
        distances: for each name its total variations, from before the first step on.

    Returns:
        The figure.
    """
    figure, axes = plt.subplots(figsize=(7.2, 3.4), layout="constrained")
    for index, (name, values) in enumerate(distances.items()):
        curve(axes, range(1, len(values) + 1), values, label=name, index=index)
    axes.set(
        xscale="log",
        xlabel="step",
        ylabel="TV(π, π*)",
        ylim=(-0.03, 1),
        title="DPO on an enumerated world",
    )
    label_ends(axes)
    return figure


def draw_frontier(
    ends: Mapping[str, Sequence],
    on_the_way: Mapping[str, Sequence],
    optima: Sequence[tuple[float, float]],
    own: tuple[float, float],
    far: float,
) -> Figure:
    """Draw reward over KL for each method.

    Args:
        ends: for each method's name the points where its runs ended, each with ``kl``, ``reward``
            and their ``_error``.
        on_the_way: for each method's name the points of its checkpoints.
        optima: KL and reward of π*, from the reference on.
        own: KL and reward of the learner's run.
        far: the largest KL that is shown, in nats.

    Returns:
        The figure.
    """
    figure, axes = plt.subplots(figsize=(7.6, 4.6), layout="constrained")
    for index, (name, points) in enumerate(ends.items()):
        axes.errorbar(
            [point.kl for point in points],
            [point.reward for point in points],
            xerr=[1.96 * point.kl_error for point in points],
            yerr=[1.96 * point.reward_error for point in points],
            fmt=MARKERS[index],
            markersize=5,
            color=COLORS[index],
            elinewidth=1,
            label=name,
        )
        passed = on_the_way.get(name, ())
        axes.plot(
            [point.kl for point in passed],
            [point.reward for point in passed],
            MARKERS[index],
            markersize=2.5,
            color=COLORS[index],
            alpha=0.5,
        )
    axes.plot(*zip(*optima, strict=True), "-", color=INK, lw=1.2, label="π*, estimated")
    axes.plot(*own, "P", color="black", markersize=9, label="your run")
    axes.set_xscale("symlog", linthresh=1.0)
    axes.set(
        xlim=(0, far),
        xlabel=_KL,
        ylabel="mean gold reward",
        title="Large: ends of runs, with 95 % intervals; small: checkpoints on the way",
    )
    axes.set_xticks([0, 0.5, 1, 2, 5, 10, 20], ["0", "0.5", "1", "2", "5", "10", "20"])
    axes.legend(fontsize=9, loc="upper left")
    return figure


def draw_position(
    figure: Figure,
    points: Sequence[tuple[float, float]],
    here: tuple[float, float],
    title: str,
    words: Sequence[str],
) -> Figure:
    """Draw where one policy lies on the plane of KL and reward, and what it wrote.

    Args:
        figure: the widget's; its axes are made on the first call.
        points: KL and reward of all policies of the method.
        here: KL and reward of the one that is marked.
        title: what is written above.
        words: prompt, response and what is said of it; the response is wrapped.

    Returns:
        The figure.
    """
    if not figure.axes:
        figure.set_layout_engine("none")
        top = figure.add_axes((0.09, 0.5, 0.88, 0.42))
        bottom = figure.add_axes((0.03, 0.0, 0.94, 0.32))
        (top.all,) = top.plot([], [], "o", markersize=4, color=COLORS[0])
        (top.here,) = top.plot([], [], "kX", markersize=11)
        top.set_xscale("symlog", linthresh=1.0)
        top.set(ylim=(-6, 8), ylabel="gold reward", xlabel="KL in nats")
        top.xaxis.set_major_formatter("{x:g}")
        bottom.axis("off")
        bottom.words = bottom.text(0, 1, "", va="top", family="DejaVu Sans Mono", fontsize=8.5)
    top, bottom = figure.axes
    top.all.set_data(*zip(*points, strict=True))
    top.here.set_data(*([number] for number in here))
    top.set_xlim(0, max(10, 1.2 * max(kl for kl, _ in points)))
    top.set_title(title, fontsize=10)
    prompt, response, said = words
    lines = textwrap.wrap(response, 84, initial_indent="y  ", subsequent_indent="   ")
    bottom.words.set_text("\n".join([f"x  {prompt}", *lines, f"   {said}"]))
    return figure


def draw_power_laws(
    runs: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    lines: Mapping[str, Sequence[tuple[float, float]]],
    ticks: Sequence[float],
) -> Figure:
    """Draw the KL at the end of runs over β, both logarithmic, with a straight line a method.

    Args:
        runs: for each method's name β and KL of its runs.
        lines: for each method's name β and KL at both ends of its line.
        ticks: values of β to write on the axis.

    Returns:
        The figure.
    """
    figure, axes = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
    for index, (name, (betas, kls)) in enumerate(runs.items()):
        axes.plot(betas, kls, MARKERS[index], color=COLORS[index])
        curve(axes, *zip(*lines[name], strict=True), label=name, index=index)
    axes.set(xscale="log", yscale="log", xlabel="β", ylabel="KL in nats")
    axes.set_title("KL at the end of training")
    axes.set_xticks(ticks, [f"{beta:g}" for beta in ticks])
    axes.set_yticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    axes.minorticks_off()
    axes.legend()
    return figure


def draw_real_frontier(
    gained: Mapping[str, Mapping[int, Sequence[tuple[float, float, float, float]]]],
) -> Figure:
    """Draw what the judge and what VADER gained over the KL, a line for each method and seed.

    Args:
        gained: for each method's name and each seed its rows, from where the run began on: KL in
            nats, what the judge gained, the half width of its interval, what VADER gained.

    Returns:
        The figure.
    """
    figure, (judge, vader) = plt.subplots(1, 2, figsize=(9, 3.9), layout="constrained")
    for index, (name, by_seed) in enumerate(gained.items()):
        for place, (seed, rows) in enumerate(by_seed.items()):
            kls, rewards, widths, second = zip(*rows, strict=True)
            look = {
                "color": COLORS[index],
                "marker": MARKERS[index],
                "linestyle": ("-", "--", ":")[place % 3],
                "markerfacecolor": "white" if place % 2 else COLORS[index],
                "markersize": 5,
                "linewidth": 1.4,
            }
            judge.errorbar(kls, rewards, yerr=widths, elinewidth=0.8, **look)
            vader.plot(kls, second, label=f"{name}, seed {seed}", **look)
    for axes in (judge, vader):
        axes.axhline(0.0, color=GREY, linestyle="-", linewidth=1)
        axes.set_xlabel(_KL)
    judge.set(ylabel="gained, rating points", title="The judge of people, which is optimised")
    vader.set(ylabel="gained, of −1 to 1", title="VADER, which nobody optimises")
    vader.legend(fontsize=8.5, loc="lower right")
    return figure
