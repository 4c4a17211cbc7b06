"""The pictures of lesson 2: what a model looks at, how it learns, and the next word it would write.

Left out on purpose: every number that is drawn. The lesson computes them, on its page.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from rlhf_lessons.classroom.plots import curve, label_ends
from rlhf_lessons.classroom.style import DARK, PALE, TEXT_COLORS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HATCHES = ("", "///", "...", "xx")
_TALLEST = (0.12, 0.3, 0.6, 1.1)  # the scales of bars that move: few, so that they seldom jump


def draw_attention(
    patterns: Mapping[str, np.ndarray], looking: Sequence[str], looked_at: Sequence[str]
) -> Figure:
    """Draw attention weights as maps side by side: the darker, the more a word looks at another.

    Args:
        patterns: by the title of each map, weights (R, T), 0 to 1.
        looking: (R) the words of the rows.
        looked_at: (T) the words of the columns.

    Returns:
        The figure.
    """
    figure, panels = plt.subplots(
        1,
        len(patterns),
        figsize=(4.8 * len(patterns), 4.6),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    for axes, (title, weights) in zip(panels[0], patterns.items(), strict=True):
        axes.imshow(np.asarray(weights), cmap="Blues", vmin=0, aspect="auto")
        axes.set(title=title, xlabel="looked at")
        axes.set_xticks(range(len(looked_at)), looked_at, rotation=90, fontsize=8)
        axes.set_yticks(range(len(looking)), looking, fontsize=8)
        axes.grid(False)
    panels[0, 0].set_ylabel("looks")
    return figure


def draw_losses(
    losses: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    level: float,
    level_name: str,
    title: str,
) -> Figure:
    """Draw losses over the steps of a run, and a level to compare them with.

    Args:
        losses: by the name of a line, steps (N,) and losses in nats per token (N,).
        level: a loss in nats per token, drawn as a horizontal line.
        level_name: written below that line.
        title: what the picture shows.

    Returns:
        The figure.
    """
    figure, axes = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
    for index, (name, (steps, nats)) in enumerate(losses.items()):
        curve(axes, steps, nats, label=name, index=index)
    axes.axhline(level, color=DARK, linewidth=1.2, linestyle=(0, (1, 1.5)))
    axes.annotate(level_name, (0, level), (2, -13), textcoords="offset points")
    axes.set(xlabel="step", ylabel="nats per token", title=title)
    axes.set_xlim(0, 1.12 * max(steps[-1] for steps, _ in losses.values()))  # room for the names
    label_ends(axes)
    return figure


def draw_distributions(
    words: Sequence[str], distributions: Mapping[str, Sequence[float]], title: str
) -> Figure:
    """Draw distributions over the same words as bars beside each other.

    Args:
        words: (K) the words, in the order of the bars.
        distributions: by what the legend says of it, up to four times K probabilities.
        title: what the picture shows.

    Returns:
        The figure.
    """
    figure, axes = plt.subplots(figsize=(7.6, 4.0), layout="constrained")
    step = 0.81 / len(distributions)
    for index, (name, probabilities) in enumerate(distributions.items()):
        axes.bar(
            np.arange(len(words)) + step * (index - (len(distributions) - 1) / 2),
            probabilities,
            width=0.92 * step,
            hatch=_HATCHES[index],
            edgecolor="white",
            label=name,
        )
    axes.set_xticks(range(len(words)), words, rotation=40, ha="right")
    axes.set(ylabel="probability", title=title)
    axes.grid(axis="x", visible=False)
    axes.legend()
    return figure


def draw_next_word(
    figure: Figure,
    words: Sequence[str],
    exact: Sequence[float],
    drawn: Sequence[float],
    entropy: float,
) -> Figure:
    """Draw how likely each next word is and how often it was drawn, or move bars and dots.

    Args:
        figure: an empty figure, or one that this function has drawn for as many words.
        words: (K) the words, in the order of the bars.
        exact: (K,) the probability of each, drawn as a bar.
        drawn: (K,) the share of draws that gave it, drawn as a dot.
        entropy: of the whole distribution, in nats.

    Returns:
        The figure.
    """
    places = range(len(words))
    if not figure.axes:
        figure.set_layout_engine("none")  # the frame stays where it is when the words change
        axes = figure.add_axes((0.1, 0.25, 0.87, 0.65))
        axes.bar(places, exact, width=0.7, label="exact")
        axes.plot(places, drawn, "ko", markersize=4, label="drawn")
        axes.set_ylabel("probability")
        axes.grid(axis="x", visible=False)
        axes.legend(loc="upper right")
    (axes,) = figure.axes
    for bar, height in zip(axes.patches, exact, strict=True):
        bar.set_height(height)
    axes.lines[0].set_ydata(drawn)
    axes.set_xticks(places, words, rotation=40, ha="right")
    tallest = max(exact)
    axes.set_ylim(0, next(limit for limit in _TALLEST if tallest < 0.95 * limit))
    axes.set_title(f"entropy {entropy:.2f} nats (the scale follows the bars)")
    return figure


def draw_fits(
    x: Sequence[float], target: Sequence[float], fits: Mapping[str, Sequence[float]], title: str
) -> Figure:
    """Draw a distribution as a grey ground, and others that were fitted to it as lines.

    Args:
        x: (N,) the outcomes.
        target: (N,) the probabilities of p.
        fits: by what the legend says of it, (N,) probabilities.
        title: what the picture shows.

    Returns:
        The figure.
    """
    figure, axes = plt.subplots(figsize=(7.6, 3.8), layout="constrained")
    axes.fill_between(x, target, color=PALE, label="p")
    for index, (name, probabilities) in enumerate(fits.items()):
        curve(axes, x, probabilities, label=name, index=index)
    highest = max(float(max(line)) for line in (target, *fits.values()))
    axes.set(xlabel="outcome", ylabel="probability", title=title)
    axes.set_ylim(0, 1.25 * highest)  # room for the legend
    axes.legend(loc="upper right")
    return figure


def draw_action(
    figure: Figure,
    prompt: str,
    said: Sequence[str],
    words: Sequence[str],
    probabilities: Sequence[float],
    taken: int,
    title: str,
) -> Figure:
    """Draw one step of a rollout: the text so far, and below it the policy there.

    Args:
        figure: an empty figure, or one that this function has drawn for as many words.
        prompt: the text that was given.
        said: the words written since.
        words: (K) the words that the bars stand for.
        probabilities: (K,) π of each in this state.
        taken: which of them is the action; its bar is filled.
        title: written above the bars.

    Returns:
        The figure.
    """
    count = len(words)
    if not figure.axes:
        figure.set_layout_engine("none")  # both frames stay where they are when the text grows
        top = figure.add_axes((0.03, 0.74, 0.95, 0.24))
        bottom = figure.add_axes((0.19, 0.12, 0.78, 0.5))
        top.axis("off")
        top.text(0, 1, "", va="top", family="DejaVu Sans Mono", fontsize=9)
        bottom.barh(range(count), [0] * count, edgecolor=TEXT_COLORS[0], linewidth=1.2)
        bottom.set(xlim=(0, 1), xlabel="π(action | state)")
        bottom.invert_yaxis()
        bottom.grid(axis="y", visible=False)
    top, bottom = figure.axes
    lines = textwrap.wrap(f"y  {' '.join([*said, '▁'])}", 78, subsequent_indent="   ")
    top.texts[0].set_text("\n".join([f"x  {prompt}", *lines]))
    for place, (bar, probability) in enumerate(zip(bottom.patches, probabilities, strict=True)):
        bar.set_width(probability)
        bar.set_facecolor(TEXT_COLORS[0] if place == taken else "white")
    bottom.set_yticks(range(count), words)
    bottom.set_title(title)
    return figure
