"""The pictures of lesson 8: what fills a GPU, what bfloat16 loses, one run in two engines.

A figure is drawn by pyplot, so that `plt.show()` on the page shows it; what a slider moves is drawn
on the figure that the widget hands in.

Left out on purpose: every number. Bytes, shares, losses and rewards are the lesson's own, and come
as arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rlhf_lessons.classroom.plots import curve
from rlhf_lessons.classroom.style import COLORS, TEXT_COLORS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_lost_updates", "draw_memory", "draw_parity", "draw_real_point"]


def draw_memory(figure: Figure, gigabytes: Mapping[str, float], title: str) -> None:
    """Draw what fills the memory, a bar for each kind of number.

    Args:
        figure: what the widget hands in, empty at the first call; later calls must have the same
            kinds.
        gigabytes: GB by kind.
        title: written above the bars.

    Returns:
        None; the figure is drawn.
    """
    if not figure.axes:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0.16, 0.2, 0.8, 0.66))
        axes.barh(range(len(gigabytes)), [0] * len(gigabytes), color=COLORS[: len(gigabytes)])
        for place in range(len(gigabytes)):
            axes.text(0, place, "", va="center", fontsize=9)
        axes.set_yticks(range(len(gigabytes)), list(gigabytes))
        axes.invert_yaxis()
        axes.set(xlabel="GB")
        axes.grid(axis="y", visible=False)
    (axes,) = figure.axes
    for bar, label, value in zip(axes.patches, axes.texts, gigabytes.values(), strict=True):
        bar.set_width(value)
        label.set_text(f" {value:.3g} GB")
        label.set_x(value)
    axes.set_xlim(0, max(1.25 * max(gigabytes.values()), 1e-3))
    axes.set_title(title)


def draw_lost_updates(rates: Sequence[float], lost: Sequence[float]) -> Figure:
    """Draw the share of updates that bfloat16 weights lose at each learning rate.

    Args:
        rates: (N,) learning rates.
        lost: (N,) shares from 0 to 1.

    Returns:
        The figure.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.0), layout="constrained")
    line = curve(axes, rates, lost)
    line.set_marker("o")
    axes.set(
        xscale="log",
        ylim=(0, 1.05),
        xlabel="learning rate",
        ylabel="share of updates lost",
        title="If the weights were stored in bfloat16",
    )
    return figure


def draw_parity(ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    """Draw the losses of one run in two engines.

    Args:
        ours: (N,) loss of each step in `train_dpo`, drawn as a line.
        theirs: (N,) the same in TRL, drawn as dots.

    Returns:
        The figure.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.8, 3.2), layout="constrained")
    curve(axes, range(1, len(ours) + 1), ours, label="train_dpo")
    steps = range(1, len(theirs) + 1)
    axes.plot(steps, theirs, "o", color=COLORS[1], label="TRL, two processes")
    axes.set(xlabel="step", ylabel="loss", title="One run, two engines")
    axes.legend()
    return figure


def draw_real_point(
    stored: Mapping[str, Mapping[str, float]], here: tuple[str, Mapping[str, float]] | None
) -> Figure:
    """Draw runs of the real model on the plane of KL and the judge's score.

    Args:
        stored: name -> what was measured at the end of a run: `kl` in nats per response, `reward`
            and its standard error `reward_error` in rating points.
        here: name and measurement of the learner's own run; None where there is none.

    Returns:
        The figure, with intervals of 95 %.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.8, 3.6), layout="constrained")
    kinds = [("stored with the course", "o-", COLORS[0], TEXT_COLORS[0], list(stored.items()))]
    if here is not None:
        kinds.append(("this machine", "D", COLORS[2], TEXT_COLORS[2], [here]))
    for label, form, color, ink, runs in kinds:
        runs.sort(key=lambda run: run[1]["kl"])
        axes.errorbar(
            [point["kl"] for _, point in runs],
            [point["reward"] for _, point in runs],
            yerr=[1.96 * point["reward_error"] for _, point in runs],
            fmt=form,
            color=color,
            capsize=3,
            label=label,
        )
        for name, point in runs:
            axes.annotate(
                name,
                (point["kl"], point["reward"]),
                xytext=(7, -13) if form == "o-" else (-7, 6),
                ha="left" if form == "o-" else "right",
                textcoords="offset points",
                fontsize=9.5,
                color=ink,
            )
    axes.margins(x=0.16, y=0.14)
    axes.set(
        xlabel="KL(π ‖ π_ref) in nats per response",
        ylabel="judge of people (rating points)",
        title="DPO on a real model",
    )
    axes.legend(loc="upper left")
    return figure
