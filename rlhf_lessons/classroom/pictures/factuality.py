"""The pictures of lesson 7: what a model knows, how sure it is, and what tuning made of it.

A figure is drawn by pyplot, so that `plt.show()` on the page shows it; what a slider moves is drawn
on the figure that the widget hands in.

Left out on purpose: every number. Estimates, shares and confidences are the lesson's own, and come
as arguments.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_lessons.classroom.plots import curve, label_ends
from rlhf_lessons.classroom.style import COLORS, DARK, GREY, INK, PALE

if TYPE_CHECKING:
    from IPython.display import HTML
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from rlhf_lessons.evaluation import Calibration, Estimate

__all__ = [
    "SIGNS",
    "draw_confidence",
    "draw_fame",
    "draw_knowledge",
    "draw_policy",
    "draw_right_wrong",
    "draw_said",
    "draw_threshold",
    "marked_answer",
]

SIGNS = {"right": "✓", "wrong": "✗", "hedged": "?", "unreadable": "~"}
"""What stands before a sentence: whether it is right, wrong, a hedge, or cannot be read."""

Mean = tuple[float, float, float]
"""A mean with the ends of its interval."""

_PAINT = {  # ground and letters of a sentence
    "right": ("#d7f0dc", "#0b4f1d"),
    "wrong": ("#fbd9d6", "#8a1208"),
    "hedged": ("#ececef", DARK),
    "unreadable": ("#fff0cc", "#5c4200"),
}
_BARS = {"right": COLORS[0], "wrong": COLORS[2], "hedged": COLORS[5], "unreadable": COLORS[1]}
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")


def marked_answer(name: str, sentences: Sequence[tuple[str, str]]) -> HTML:
    """Write an answer with its sentences marked, by sign and by colour.

    Args:
        name: whom it is about.
        sentences: (what it is, its words) in order: "right", "wrong", "hedged" or "unreadable".

    Returns:
        A paragraph to display.
    """
    from IPython.display import HTML

    spans = []
    for kind, text in sentences:
        ground, ink = _PAINT[kind]
        spans.append(
            f'<span style="background:{ground};color:{ink};padding:1px 4px;border-radius:3px">'
            f"{SIGNS[kind]} {html.escape(text)}</span>"
        )
    return HTML(f"<p><b>{html.escape(name)}</b> {' '.join(spans)}</p>")


def draw_knowledge(groups: Mapping[str, Sequence[tuple[float, Estimate]]]) -> Figure:
    """Draw how well facts are known against how often they were read.

    Args:
        groups: name of a group of facts -> (times read, P(true answer)) of each of its bins.

    Returns:
        The figure.
    """
    return _draw_known(
        groups,
        xlabel="how often the fact was read in pretraining",
        ylabel="P(true answer)",
        title="A fact must be read dozens of times to be known",
        xlim=(2, 3_000),
    )


def draw_fame(groups: Mapping[str, Sequence[tuple[float, Estimate]]]) -> Figure:
    """Draw how well facts of countries are known against how many people live there.

    Args:
        groups: kind of fact -> (population, share of right answers) of each of its bins.

    Returns:
        The figure.
    """
    return _draw_known(
        groups,
        xlabel="population of the country",
        ylabel="right answers",
        title="Of a large country it knows more",
        xlim=(6e5, 6e8),
    )


def _draw_known(
    groups: Mapping[str, Sequence[tuple[float, Estimate]]], xlim: tuple[float, float], **told: str
) -> Figure:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 4.0), layout="constrained")
    for index, (label, bins) in enumerate(groups.items()):
        times, estimates = zip(*bins, strict=True)
        low, high = zip(*(estimate.interval() for estimate in estimates), strict=True)
        values = [estimate.value for estimate in estimates]
        curve(axes, times, values, low=low, high=high, label=label, index=index)
    axes.set_xscale("log")
    axes.set(ylim=(0, 1.02), xlim=xlim, **told)
    label_ends(axes)
    return figure


def draw_said(
    policies: Mapping[str, Mapping[str, Mapping[str, Mean]]],
) -> Figure:
    """Draw what policies say, of each the right, hedged, unreadable and wrong answers in one bar.

    Args:
        policies: world -> policy -> "right", "hedged", "unreadable", "wrong" -> the share of the
            answers, with the ends of its interval.

    Returns:
        The figure: a panel a world, a bar a policy. The intervals of right and wrong are drawn from
        the two ends of the bar.
    """
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        1, len(policies), figsize=(9.6, 0.9 + 0.42 * max(map(len, policies.values()))),
        layout="constrained", sharey=True, squeeze=False,
    )  # fmt: skip
    for axes, (world, bars) in zip(panels[0], policies.items(), strict=True):
        for place, shares in enumerate(bars.values()):
            left = 0.0
            for measure in ("right", "hedged", "unreadable", "wrong"):
                width = shares[measure][0]
                axes.barh(
                    place, width, left=left, color=_BARS[measure], edgecolor="white",
                    hatch="//" if measure == "wrong" else "",
                    label=measure if place == 0 else "_more",
                )  # fmt: skip
                left += width
            _, low, high = shares["right"]
            axes.hlines(place, low, high, color=INK, linewidth=1.5)
            _, low, high = shares["wrong"]
            axes.hlines(place, left - high, left - low, color=INK, linewidth=1.5)
        axes.set(yticks=range(len(bars)), yticklabels=list(bars), xlim=(0, 1), title=world)
        axes.set_xlabel("share of the answers")
    panels[0, 0].invert_yaxis()
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def draw_hedging(
    panels: Mapping[str, tuple[Sequence[float], Mapping[str, Sequence[float]]]],
) -> Figure:
    """Draw where policies hedge: of what was known before, or not.

    Args:
        panels: kind of fact -> agreement of the answers before tuning, (N,), and of each label the
            (N,) shares.

    Returns:
        The figure: a panel a kind, a line a label.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(panels), figsize=(9.6, 3.8), layout="constrained", sharey=True, squeeze=False
    )
    for place, (kind, (agreement, lines)) in zip(axes[0], panels.items(), strict=True):
        for index, (label, shares) in enumerate(lines.items()):
            curve(place, agreement, shares, label=label, index=index)
        place.set(
            xlim=(0, 1), ylim=(0, 1.02), title=kind, xlabel="agreement of the answers before tuning"
        )
        label_ends(place)
    axes[0, 0].set_ylabel("share of the questions")
    return figure


def draw_confidence(
    roc: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    areas: Mapping[str, float],
    bins: Mapping[str, Calibration],
) -> Figure:
    """Draw how confidence separates true from false claims, and whether it means what it says.

    Args:
        roc: world -> shares of the false and of the true claims that are kept, from the highest
            threshold down.
        areas: world -> area under that curve.
        bins: world -> the calibration of the same claims; empty bins are left out.

    Returns:
        The figure: the ROC curves on the left, calibration on the right.
    """
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 4.0), layout="constrained")
    for index, (world, (false_kept, true_kept)) in enumerate(roc.items()):
        curve(left, false_kept, true_kept, label=f"{world}: {areas[world]:.2f}", index=index)
        filled = bins[world].counts > 0
        predicted, observed = bins[world].predicted[filled], bins[world].observed[filled]
        curve(right, predicted, observed, label=world, index=index)
    for axes in (left, right):
        axes.plot([0, 1], [0, 1], color=PALE, linewidth=1, label="_diagonal")
        axes.legend(loc="lower right")
    left.set(xlabel="false claims kept", ylabel="true claims kept", title="ROC: area")
    right.set(xlabel="confidence", ylabel="share true", title="Calibration")
    return figure


def draw_threshold(
    figure: Figure,
    threshold: float,
    title: str,
    claims: Sequence[tuple[str, float, bool]],
    kept: tuple[Sequence[float], Sequence[int], Sequence[int]],
) -> None:
    """Draw which claims of one answer are said above a threshold, and how many of all.

    Args:
        figure: what the widget hands in, empty at the first call.
        threshold: confidence from which a claim is said.
        title: whom the answer is about.
        claims: (words, confidence, whether it is true) of each claim of the answer.
        kept: thresholds, and how many true and how many false claims of all answers reach each.

    Returns:
        None; the figure is drawn.
    """
    if not figure.axes:
        _, totals = figure.subplots(1, 2, width_ratios=(3, 2))
        thresholds, true, false = kept
        totals.plot(thresholds, true, color=COLORS[0], label="true, said")
        totals.plot(thresholds, false, color=COLORS[2], linestyle="--", label="false, said")
        # Few ticks and a legend that stays where it is: a slider draws this anew at each step.
        totals.set(xlabel="threshold", title="All held-out people", xticks=(0, 0.5, 1))
        totals.locator_params(axis="y", nbins=4)
        totals.legend(loc="upper right", frameon=True, framealpha=1.0, edgecolor="white")
        totals.axvline(threshold, color=INK, linewidth=1)
    bars, totals = figure.axes
    totals.lines[-1].set_xdata([threshold, threshold])
    bars.clear()
    drawn = bars.barh(range(len(claims)), [max(p, 0.01) for _, p, _ in claims], edgecolor="white")
    for place, (bar, (words, confidence, right)) in enumerate(zip(drawn, claims, strict=True)):
        said = confidence >= threshold
        bar.set(
            facecolor=COLORS[0] if right else COLORS[2],
            alpha=1.0 if said else 0.25,
            hatch="" if right else "//",
        )
        text = f"{SIGNS['right' if right else 'wrong']} {words}" + ("" if said else "  (left out)")
        bars.text(1.04, place, text, va="center", color=INK if said else GREY, in_layout=False)
    bars.axvline(threshold, color=INK, linewidth=1)
    bars.set(xlim=(0, 2.2), yticks=[], xlabel="confidence", title=title, xticks=(0, 0.5, 1))
    bars.invert_yaxis()


def draw_right_wrong(
    policies: Mapping[str, Mapping[str, tuple[Mean, Mean]]],
    filtered: Mapping[str, tuple[Sequence[float], Sequence[float]]],
) -> Figure:
    """Draw right facts against wrong ones: a panel a world, a mark a policy.

    Args:
        policies: world -> policy -> (wrong, right) facts per answer, each with its interval.
        filtered: world -> (wrong, right) facts per answer that SFT states above each threshold.

    Returns:
        The figure, one legend for all panels.
    """
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(policies), figsize=(9.6, 4.6), layout="constrained")
    for axes, (world, means) in zip(panels, policies.items(), strict=True):
        axes.plot(
            *filtered[world], color=PALE, linewidth=1.2, zorder=1, label="SFT above a threshold"
        )
        for index, (name, (wrong, right)) in enumerate(means.items()):
            color = COLORS[index % len(COLORS)]
            axes.errorbar(
                wrong[0],
                right[0],
                xerr=_arms(wrong),
                yerr=_arms(right),
                color=color,
                marker=_MARKERS[index],
                markerfacecolor=color if index < len(COLORS) else "white",
                markersize=7,
                linestyle="none",
                linewidth=1.2,
                label=name,
            )
        axes.set(xlabel="wrong facts per answer", ylabel="right facts per answer", title=world)
        axes.set_xlim(0, None)
        axes.set_ylim(0, None)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=9.5)
    return figure


def _arms(mean: Mean) -> np.ndarray:
    """Give what matplotlib calls an error: how far the interval reaches to both sides, (2, 1)."""
    value, low, high = mean
    return np.array([[value - low], [high - value]])


def draw_policy(
    figure: Figure,
    means: Mapping[str, float],
    before: Mapping[str, float],
    title: str,
    name: str,
    sentences: Sequence[tuple[str, str]],
) -> None:
    """Draw what a policy says per answer, and one answer of it.

    Args:
        figure: what the widget hands in, empty at the first call.
        means: "right", "wrong", "hedged" and "unreadable" per answer.
        before: the same of the policy that nothing tuned, drawn as ticks.
        title: written above the bars.
        name: whom the answer on the right is about.
        sentences: (what it is, its words) of that answer, in order.

    Returns:
        None; the figure is drawn.
    """
    if not figure.axes:
        _, text = figure.subplots(1, 2, width_ratios=(2, 3))
        text.set_axis_off()
    panel, text = figure.axes
    panel.clear()
    for place, (measure, value) in enumerate(means.items()):
        panel.barh(place, value, color=_BARS[measure])
        panel.text(3.45, place, f"{value:.2f}", va="center", ha="right")
        panel.vlines(before[measure], place - 0.4, place + 0.4, color=INK, linewidth=1.5)
    panel.set(yticks=range(len(means)), yticklabels=list(means), xlim=(0, 3.5))
    panel.set(xlabel="per answer", title=title)
    panel.invert_yaxis()
    _write(text, "\n".join([f"{name} ...", *(f"{SIGNS[kind]} {s}" for kind, s in sentences)]))


def _write(axes: Axes, words: str) -> None:
    """Write words on empty axes, in place of those that stood there."""
    style: dict[str, Any] = {"va": "top", "fontsize": 10}
    for old in list(axes.texts):
        old.remove()
    axes.text(0, 1, words, **style)
