"""The pictures of lesson 4: a tree of advantages, the clip, π*, and what runs of PPO came to.

Each function makes a figure of pyplot, which ``plt.show()`` on the page shows. One that is given a
figure draws for a slider: axes the first time, then only what moves.

Left out on purpose: every number; the page computes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_lessons.classroom.plots import curve, label_ends, number_text
from rlhf_lessons.classroom.style import COLORS, GREY, INK, PALE

if TYPE_CHECKING:
    from rlhf_lessons.evaluation import SentimentRun

Step = tuple[Mapping[str, float], str]
"""The advantage of each token that may come next, and the one that is taken."""

_KL = "KL to the reference, nats"


def draw_continuations(better: Sequence[Step], worse: Sequence[Step], root: str) -> Figure:
    """Draw two ways through a tree of tokens, each with the advantages of all that was possible.

    Args:
        better: the steps of the way that ends at the top.
        worse: those of the way below; both begin at the same token.
        root: written where they begin.

    Returns:
        The figure.
    """
    figure, axes = plt.subplots(figsize=(9.6, 5.4), layout="constrained")
    elsewhere = {better[0][1], worse[0][1]}  # at the first step each way draws its own token
    for steps, height, index in ((worse, -2.4, 1), (better, 2.4, 0)):
        _draw_way(axes, steps, height, index, elsewhere - {steps[0][1]})
    axes.text(0.4, 0, root, ha="right", va="center", fontsize=10)
    axes.set(xlim=(-0.4, 4.6), ylim=(-3.8, 3.8), title="Continuations with their exact advantages")
    axes.set_axis_off()
    return figure


def _draw_way(
    axes: Axes, steps: Sequence[Step], height: float, index: int, elsewhere: set[str]
) -> None:
    start = 0.0
    for x, (advantages, taken) in enumerate(steps):
        middle, spacing = (height, 0.36) if x else (0.0, 0.95)
        lowest = middle - spacing * (len(advantages) - 1) / 2
        for rank, token in enumerate(sorted(advantages, key=advantages.__getitem__)):
            if x == 0 and token in elsewhere:
                continue
            place, own = lowest + spacing * rank, token == taken
            axes.plot(
                [x + 0.42, x + 0.66], [start, place], color=COLORS[index] if own else PALE,
                linewidth=3 if own else 1, linestyle="-", zorder=2 if own else 1,
            )  # fmt: skip
            axes.text(
                x + 0.68, place, f"{token} {number_text(advantages[token], signed=True)}",
                fontsize=9, fontweight="bold" if own else "normal", va="center",
                color=INK if own else GREY,
            )  # fmt: skip
            if own:
                end = place
        start = end


def draw_estimates(
    figure: Figure, words: Sequence[str], exact: Sequence[float], estimates: Sequence[float],
    lambdas: Sequence[float], errors: Sequence[float], here: tuple[float, float],
) -> Figure:  # fmt: skip
    """Draw estimated beside exact advantages of one response, and the error over λ.

    Args:
        figure: empty, or drawn before by this function.
        words: (T,) the tokens of the response.
        exact: (T,) their advantages.
        estimates: (T,) what was estimated.
        lambdas: (N,) values of λ.
        errors: (N,) error of the estimate at each.
        here: λ and error where the slider stands.

    Returns:
        The figure.
    """
    if not figure.axes:
        left, right = figure.subplots(1, 2)
        places = np.arange(len(words))
        left.bar(places - 0.2, exact, 0.36, color=COLORS[5], label="exact A", hatch="//")
        left.bar(places + 0.2, estimates, 0.36, color=COLORS[0], label="GAE")
        left.set_xticks(places, words)
        left.set(ylim=(-3.2, 2.2), title="one response")
        left.legend(loc="upper right")
        curve(right, lambdas, errors)
        right.plot(*([value] for value in here), "o", color=COLORS[2], markersize=9)
        right.set(xlabel="λ", title="error of the estimate", ylim=(0, None))
    left, right = figure.axes
    for bar, height in zip(left.containers[1], estimates, strict=True):
        bar.set_height(float(height))
    right.lines[1].set_data(*([value] for value in here))
    return figure


def draw_clip(
    figure: Figure, ratios: Sequence[float], objective: Sequence[float], slope: Sequence[float],
    epsilon: float,
) -> Figure:  # fmt: skip
    """Draw the clipped objective of one token and its slope over the ratio.

    Args:
        figure: empty, or drawn before by this function.
        ratios: (N,) ρ.
        objective: (N,) objective of the token.
        slope: (N,) its derivative in ρ.
        epsilon: clip range ε, shaded around 1.

    Returns:
        The figure.
    """
    lines = {"objective of one token": objective, "its slope in ρ": slope}
    if not figure.axes:
        for axes, (title, line) in zip(figure.subplots(1, 2), lines.items(), strict=True):
            axes.plot(ratios, line, color=COLORS[0])
            axes.axvline(1, color=GREY, linewidth=1, linestyle=":")
            axes.axvspan(1 - epsilon, 1 + epsilon, color=COLORS[1], alpha=0.15)
            axes.set(xlabel="ρ = π/π_old", title=title, ylim=(-2.2, 2.2))
    for axes, line in zip(figure.axes, lines.values(), strict=True):
        axes.lines[0].set_ydata(line)
        axes.patches[0].set_x(1 - epsilon)
        axes.patches[0].set_width(2 * epsilon)
    return figure


def draw_optimum(
    figure: Figure, responses: Sequence[str], reference: Sequence[float], best: Sequence[float],
    title: str,
) -> Figure:  # fmt: skip
    """Draw the probabilities that two policies give to some responses.

    Args:
        figure: empty, or drawn before by this function.
        responses: (N,) their names.
        reference: (N,) probabilities under π_ref.
        best: (N,) probabilities under π*.
        title: written above.

    Returns:
        The figure.
    """
    if not figure.axes:
        axes = figure.subplots()
        places = np.arange(len(responses))
        axes.barh(places + 0.2, reference, 0.36, color=COLORS[5], hatch="//", label="π_ref")
        axes.barh(places - 0.2, best, 0.36, color=COLORS[0], label="π*")
        axes.set_yticks(places, responses, fontsize=9)
        axes.invert_yaxis()
        axes.set(xlim=(0, 0.65), xlabel="probability")
        axes.legend(loc="lower right")
    axes = figure.axes[0]
    for bar, width in zip(axes.containers[1], best, strict=True):
        bar.set_width(float(width))
    axes.set_title(title)
    return figure


def draw_convergence(
    paths: Mapping[str, tuple[Sequence[int], Sequence[float], Sequence[float]]],
) -> Figure:
    """Draw how runs come near the best policy.

    Args:
        paths: for each run its cycles, its total variation from π* and its J* − J there.

    Returns:
        The figure.
    """
    figure, panels = plt.subplots(1, 2, figsize=(9.2, 3.6), layout="constrained")
    for index, (name, (cycles, variations, gaps)) in enumerate(paths.items()):
        curve(panels[0], cycles, variations, label=name, index=index)
        curve(panels[1], cycles, gaps, label=name, index=index)
    panels[0].set(title="total variation from π*", xlabel="cycle", yscale="log")
    panels[1].set(title="J* − J", xlabel="cycle", yscale="log")
    label_ends(panels[1])
    return figure


def draw_hacking(
    cycles: Sequence[int], proxy: Sequence[float], gold: Sequence[float], kl: Sequence[float]
) -> Figure:
    """Draw what a reward model says of a run, what is true, and how far the policy has gone.

    Args:
        cycles: (N,) cycles.
        proxy: (N,) mean score of the reward model.
        gold: (N,) mean gold reward.
        kl: (N,) KL to the reference in nats per response.

    Returns:
        The figure.
    """
    figure, panels = plt.subplots(1, 2, figsize=(9.2, 3.4), layout="constrained")
    curve(panels[0], cycles, proxy, label="reward model", index=0)
    curve(panels[0], cycles, gold, label="gold", index=2)
    panels[0].set(title="β = 0: proxy and gold", xlabel="cycle")
    curve(panels[1], cycles, kl, index=3)
    panels[1].set(title=_KL, xlabel="cycle")
    label_ends(panels[0])
    return figure


def draw_sweep(
    scores: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float] | None]],
) -> Figure:
    """Draw mean scores of runs over their KL.

    Args:
        scores: for each line its KLs in nats, its scores and, where they are known, the standard
            errors of these, drawn as 95 % intervals.

    Returns:
        The figure.
    """
    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    for index, (name, (kls, heights, errors)) in enumerate(scores.items()):
        curve(axes, kls, heights, label=name, index=index)
        bars = None if errors is None else 1.96 * np.asarray(errors)
        axes.errorbar(kls, heights, bars, fmt="o", color=COLORS[index])
    axes.set(xscale="log", xlabel=_KL, ylabel="mean score", title="Runs of PPO at β from 1 to 0.05")
    label_ends(axes)
    return figure


def draw_run(
    figure: Figure, kls: Sequence[float], scores: Mapping[str, Sequence[float]], chosen: int,
    title: str, samples: str,
) -> Figure:  # fmt: skip
    """Draw runs as points, with rings around one of them and samples of it beside.

    Args:
        figure: empty, or drawn before by this function.
        kls: (N,) KL of each run in nats.
        scores: for each reward the (N,) mean scores.
        chosen: which run the rings mark.
        title: written above.
        samples: what stands beside.

    Returns:
        The figure.
    """
    if not figure.axes:
        left, right = figure.subplots(1, 2, width_ratios=[1, 1.7])
        left.plot([], [], "o", markersize=17, markerfacecolor="none", color=INK)
        for (name, heights), marker, color in zip(scores.items(), "so", (0, 2), strict=True):
            left.plot(kls, heights, marker, color=COLORS[color], label=name)
        left.set(xscale="log", xlabel="KL, nats", ylabel="mean score")
        left.legend(loc="lower left")
        right.set_axis_off()
        right.text(0, 1, "", va="top", fontsize=9, family="DejaVu Sans Mono")
    left, right = figure.axes
    heights = [values[chosen] for values in scores.values()]
    left.lines[0].set_data([kls[chosen]] * len(heights), heights)
    left.set_title(title)
    right.texts[0].set_text(samples)
    return figure


def draw_real_runs(runs: Sequence[SentimentRun]) -> Figure:
    """Draw what runs on the real model were measured to be on their way, over their KL.

    Args:
        runs: runs of one method; those of one β are drawn alike.

    Returns:
        The figure: the judge of people on the left, VADER on the right.
    """
    figure, panels = plt.subplots(1, 2, figsize=(9.2, 3.8), sharex=True, layout="constrained")
    by_beta: dict[float, list[SentimentRun]] = {}
    for run in runs:
        by_beta.setdefault(run.settings.beta, []).append(run)
    for panel, measure in zip(panels, ("reward", "vader"), strict=True):
        for index, (beta, alike) in enumerate(by_beta.items()):
            for again, run in enumerate(alike):
                kls, heights = ([point[name] for point in run.points] for name in ("kl", measure))
                errors = [1.96 * point.get(f"{measure}_error", 0.0) for point in run.points]
                curve(panel, kls, heights, label="" if again else f"β = {beta:g}", index=index)
                panel.errorbar(kls, heights, errors, fmt="o", color=COLORS[index])
    panels[0].set(xlabel=_KL, ylabel="rating points", title="the judge of people, rewarded")
    panels[1].set(xlabel=_KL, ylabel="from −1 to 1", title="VADER, not rewarded")
    panels[0].legend(loc="lower right")
    return figure
