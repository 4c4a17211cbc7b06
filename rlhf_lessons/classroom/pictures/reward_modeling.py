"""The pictures of lesson 3: choices, what pairs teach, calibration, variety, best-of-n, people.

Each function makes a figure of pyplot, which ``plt.show()`` on the page shows. One that is given a
figure draws for a slider: axes the first time, then only what moves.

Left out on purpose: every number; the page computes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from rlhf_lessons.classroom.plots import curve, label_ends
from rlhf_lessons.classroom.style import COLORS, GREY, PALE, TEXT_COLORS

if TYPE_CHECKING:
    from rlhf_lessons.evaluation import BestOfNCurve

_ROOT_KL = "√KL (nats)"


def draw_preference(
    figure: Figure, differences: Sequence[float], probabilities: Sequence[float], title: str
) -> Figure:
    """Draw how likely the first of two is preferred.

    Args:
        figure: empty, or drawn before by this function.
        differences: (N,) reward of the first minus that of the second.
        probabilities: (N,) P(first is preferred).
        title: written above.

    Returns:
        The figure.
    """
    if not figure.axes:
        axes = figure.subplots()
        axes.plot(differences, probabilities)
        axes.axhline(0.5, color=GREY, linewidth=1, linestyle=":")
        axes.set(
            ylim=(0, 1),
            xlabel="gold reward of the first minus that of the second",
            ylabel="P(first is preferred)",
        )
    axes = figure.axes[0]
    axes.lines[0].set_ydata(probabilities)
    axes.set_title(title)
    return figure


def draw_accuracy_by_pairs(
    pairs: Sequence[int],
    by_seed: Mapping[str, np.ndarray],
    ceiling: float,
    here: tuple[int, float],
) -> Figure:
    """Draw accuracy over the number of pairs: the mean over seeds, and from the worst to the best.

    Args:
        pairs: (N,) numbers of pairs.
        by_seed: for each kind of accuracy (N, seeds) values.
        ceiling: accuracy that no model can surpass on the labels.
        here: pairs and accuracy of one more model, drawn as a diamond.

    Returns:
        The figure.
    """
    figure, axes = plt.subplots(layout="constrained")
    for index, (name, values) in enumerate(by_seed.items()):
        low, high = values.min(1), values.max(1)
        curve(axes, pairs, values.mean(1), low=low, high=high, label=name, index=index)
    axes.plot(*here, "D", color=GREY, zorder=3)
    axes.axhline(ceiling, color=GREY, linewidth=1.2, linestyle=":")
    axes.text(pairs[-1], ceiling + 0.005, "Bayes ceiling of the labels", ha="right", fontsize=10)
    axes.set(
        xscale="log", xlabel="pairs", ylabel="accuracy", title="More pairs, nearer to the ceiling"
    )
    axes.set_xticks(pairs, [f"{count:,}" for count in pairs])
    axes.minorticks_off()
    label_ends(axes)
    return figure


def draw_calibration(bins: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Draw what was observed over what was stated; on the diagonal they are one.

    Args:
        bins: for each model its stated probabilities and observed shares, bin by bin.

    Returns:
        The figure.
    """
    figure, axes = plt.subplots(figsize=(5.6, 4.6), layout="constrained")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    for index, (name, (stated, observed)) in enumerate(bins.items()):
        curve(axes, stated, observed, label=name, index=index)
    axes.set(
        xlim=(0, 1),
        ylim=(0, 1),
        xlabel="stated probability",
        ylabel="observed share",
        title="Calibration on held-out labels",
    )
    label_ends(axes)
    return figure


def draw_chosen(places: np.ndarray, chosen: Mapping[str, Sequence[int]]) -> Figure:
    """Draw responses in their latent plane, and which of them each way chooses.

    Args:
        places: (K, 2) points.
        chosen: for each way the rows of ``places`` that it chooses.

    Returns:
        The figure, a panel a way.
    """
    figure, panels = plt.subplots(
        1, len(chosen), sharex=True, sharey=True, figsize=(9, 3.3), layout="constrained"
    )
    for panel, (name, rows) in zip(panels, chosen.items(), strict=True):
        panel.scatter(*places.T, s=6, color=PALE)
        panel.scatter(*places[rows].T, s=40, marker="D", color=TEXT_COLORS[0])
        panel.set(title=name, xlabel="latent 1")
    panels[0].set_ylabel("latent 2")
    return figure


def draw_best_of_n_kl(
    n: Sequence[int], bound: Sequence[float], measured: Mapping[str, Sequence[float]]
) -> Figure:
    """Draw the KL of best-of-n as it was measured, and its bound.

    Args:
        n: (M,) responses to choose from.
        bound: (M,) log n − (n − 1)/n in nats.
        measured: for each proxy (M,) KL in nats.

    Returns:
        The figure.
    """
    figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
    axes.plot(n, bound, color=GREY, linewidth=1.2, linestyle="-", label="log n − (n − 1)/n")
    # They nearly coincide: open marks of three sizes, so that none hides another.
    for (name, kl), (marker, size), color in zip(
        measured.items(), (("o", 11), ("^", 7), ("x", 5)), COLORS, strict=False
    ):
        marks = {"marker": marker, "markersize": size, "markerfacecolor": "none"}
        axes.plot(n, kl, linestyle="", color=color, label=f"measured, {name}", **marks)
    axes.set(xscale="log", xlabel="n", ylabel="KL (nats)", title="The KL of best-of-n, its bound")
    axes.legend()
    return figure


def draw_over_optimisation(curves: Mapping[str, BestOfNCurve], ideal: BestOfNCurve) -> Figure:
    """Draw proxy and gold reward over √KL.

    Args:
        curves: best-of-n by each proxy, with the 95 % interval of its gold reward.
        ideal: best-of-n by the gold reward itself, over the bound of its KL.

    Returns:
        The figure: what proxies say on the left, what is true on the right.
    """
    figure, panels = plt.subplots(1, 2, sharex=True, figsize=(9.4, 3.9), layout="constrained")
    for index, (name, c) in enumerate(curves.items()):
        root = np.sqrt(c.kl)
        low, high = c.gold - 1.96 * c.gold_error, c.gold + 1.96 * c.gold_error
        curve(panels[0], root, c.proxy, label=name, index=index)
        curve(panels[1], root, c.gold, low=low, high=high, label=name, index=index)
    curve(panels[1], np.sqrt(ideal.kl_bound), ideal.gold, label="gold itself", index=len(curves))
    panels[0].set(title="what the proxy says", xlabel=_ROOT_KL, ylabel="proxy, spread of π = 1")
    panels[1].set(title="what is true", xlabel=_ROOT_KL, ylabel="gold reward")
    for panel in panels:
        label_ends(panel)
    return figure


def draw_best_of_n(
    figure: Figure, root_kl: Sequence[float], lines: Mapping[str, Sequence[float]],
    here: float, kept: str, text: str,
) -> Figure:  # fmt: skip
    """Draw proxy and gold of best-of-n, where n stands now, and the response that is kept.

    Args:
        figure: empty, or drawn before by this function.
        root_kl: (M,) √KL of each n, in nats.
        lines: for each reward its (M,) means, always the same names.
        here: √KL of the n that is chosen.
        kept: what is known of the response that is kept.
        text: that response.

    Returns:
        The figure.
    """
    if not figure.axes:
        axes = figure.subplots()
        for name in lines:
            axes.plot(root_kl, root_kl, label=name)
        axes.axvline(0, color=GREY, linewidth=1.2, linestyle=":")
        axes.set(xlabel=_ROOT_KL, ylabel="mean, in spreads of π", ylim=(-0.3, 2.6))
        axes.legend(loc="upper left")
    axes = figure.axes[0]
    for line, heights in zip(axes.lines, lines.values(), strict=False):
        line.set_ydata(heights)
    axes.lines[-1].set_xdata([here, here])
    half = len(text) if len(text) < 95 else text.rfind(" ", 0, 95)
    axes.set_title(f"{kept}\n{text[:half]}\n{text[half:].strip()}".rstrip("\n"), fontsize=9)
    return figure


def draw_people(people: Sequence[float], judges: Mapping[str, Sequence[float]]) -> Figure:
    """Draw what judges say of texts over what people say.

    Args:
        people: (B,) mean ratings of people, from −4 to 4.
        judges: for each judge its (B,) scores.

    Returns:
        The figure, a panel a judge; upper right and lower left are the same sign.
    """
    figure, panels = plt.subplots(
        1, len(judges), figsize=(9, 3.6), sharex=True, layout="constrained"
    )
    for index, (panel, (name, scores)) in enumerate(zip(panels, judges.items(), strict=True)):
        panel.scatter(people, scores, s=7, alpha=0.45, linewidths=0, color=COLORS[index])
        panel.axhline(0, color=GREY, linewidth=1)
        panel.axvline(0, color=GREY, linewidth=1)
        panel.set(title=name, xlabel="people's mean rating", ylabel="score")
    return figure
