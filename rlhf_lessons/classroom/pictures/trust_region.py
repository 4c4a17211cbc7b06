"""The pictures of lesson 5: promise and truth, the clip, the triangle of policies, collapse.

Numbers come from the page. What is computed here is geometry alone: where a policy lies in the
triangle, and the outlines of the two regions that the page names by ε and δ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from rlhf_lessons.classroom.plots import curve, label_ends
from rlhf_lessons.classroom.style import COLORS, DARK, INK

_KL = "KL(π_old ‖ π), nats per response"

CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]])
"""Where the three sure choices lie in the plane, anticlockwise from the lower left."""

_EXTENT = (-0.02, 1.02, -0.02, 0.9)


def _simplex_grid() -> np.ndarray:
    across, up = np.meshgrid(np.linspace(*_EXTENT[:2], 130), np.linspace(*_EXTENT[2:], 115))
    third = up / CORNERS[2, 1]
    second = across - third / 2
    return np.stack([1 - second - third, second, third], axis=-1)


SIMPLEX_GRID = _simplex_grid()
"""(115, 130, 3) the point of the plane at each pixel; outside the triangle a share is below 0."""


def draw_promise(kls: Sequence[float], promised: Sequence[float], true: Sequence[float]) -> Figure:
    """Draw the surrogate and the true objective over the KL.

    Args:
        kls: (N,) KL(π_old ‖ π) in nats per response.
        promised: (N,) surrogate L there.
        true: (N,) objective J there.

    Returns:
        The figure.
    """
    figure, axes = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
    curve(axes, kls, promised, label="promised: L", index=1)
    curve(axes, kls, true, label="true: J", index=0)
    axes.set(
        xlabel=_KL,
        ylabel="expected score",
        title="The further from the old policy, the emptier the promise",
        xlim=(0, 4.9),
    )
    label_ends(axes)
    return figure


def draw_lower_bound(
    kls: Sequence[float], lines: Mapping[str, Sequence[float]], start: float
) -> Figure:
    """Draw what is promised, true and guaranteed, near the old policy.

    Args:
        kls: (N,) KL(π_old ‖ π) in nats per response.
        lines: for each name its (N,) expected scores, the surrogate first.
        start: J of the old policy.

    Returns:
        The figure.
    """
    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    for (name, values), index in zip(lines.items(), (1, 0, 3, 2), strict=True):
        # A bound that has fallen below the floor of the picture has nothing more to say.
        shown = [i for i, value in enumerate(values) if value > -0.6]
        curve(axes, [kls[i] for i in shown], [values[i] for i in shown], label=name, index=index)
    axes.axhline(start, color=DARK, linewidth=1.0, linestyle=(0, (1, 1.5)))
    axes.annotate(
        "the old policy", (0.016, start), (0, -9), textcoords="offset points", va="center"
    )
    axes.set(
        xlabel=_KL,
        ylabel="expected score",
        title="What is promised, true, and guaranteed",
        xlim=(0, 0.074),
        ylim=(-0.62, 0.08),
    )
    label_ends(axes)
    return figure


def draw_quadrants(
    ratios: Sequence[float],
    by_advantage: Mapping[float, tuple[Sequence[float], Sequence[float]]],
    epsilon: float,
) -> Figure:
    """Draw the clipped objective over the ratio, and where its gradient is 0.

    Args:
        ratios: (N,) ρ.
        by_advantage: for A = +1 and A = −1 the (N,) objectives and (N,) gradients.
        epsilon: clip range ε.

    Returns:
        The figure.
    """
    figure, panels = plt.subplots(1, 2, figsize=(7.6, 3.6), sharex=True, layout="constrained")
    for panel, (advantage, values) in zip(panels, by_advantage.items(), strict=True):
        objective, gradient = map(np.asarray, values)
        moving = np.where(gradient == 0, math.nan, objective)
        stopped = np.where(gradient == 0, objective, math.nan)
        panel.axvspan(1 - epsilon, 1 + epsilon, color=COLORS[0], alpha=0.12, linewidth=0)
        panel.plot(ratios, moving, color=COLORS[0], linestyle="-", lw=3, label="gradient ρ·A")
        panel.plot(ratios, stopped, color=COLORS[2], linestyle=":", lw=3, label="gradient 0")
        good = advantage > 0
        panel.set(
            xlabel="ratio ρ",
            ylabel="objective" if good else "",
            title="a good action, A = +1" if good else "a bad action, A = −1",
        )
        panel.legend(loc="lower right" if good else "upper right")
    return figure


def on_plane(policies: Sequence) -> np.ndarray:
    """Place policies over three actions in the triangle.

    Args:
        policies: (..., 3) probabilities.

    Returns:
        (..., 2) points.
    """
    return np.asarray(policies) @ CORNERS


def clip_outline(old: np.ndarray, epsilon: float) -> np.ndarray:
    """Give the corners of the region where all three ratios are in [1 − ε, 1 + ε].

    Args:
        old: (3,) the old policy.
        epsilon: clip range ε.

    Returns:
        (K, 2) points of the plane, in order around the region.
    """
    low, high = np.maximum(old * (1 - epsilon), 0), np.minimum(old * (1 + epsilon), 1)
    points = []
    for fixed in range(3):
        for other in set(range(3)) - {fixed}:
            for a in (low, high):
                for b in (low, high):
                    point = np.zeros(3)
                    point[fixed], point[other] = a[fixed], b[other]
                    point[3 - fixed - other] = 1 - point.sum()
                    if (point >= low - 1e-9).all() and (point <= high + 1e-9).all():
                        points.append(on_plane(point))
    corners = np.array(points)
    around = corners - corners.mean(0)
    return corners[np.argsort(np.arctan2(around[:, 1], around[:, 0]))]


def kl_outline(old: np.ndarray, delta: float) -> np.ndarray:
    """Give the policies at KL(π_old ‖ π) = δ in all directions, found by bisection.

    Args:
        old: (3,) the old policy.
        delta: δ in nats.

    Returns:
        (73, 2) points of the plane, in order; the last is the first.
    """
    angles = np.linspace(0, 2 * math.pi, 73)
    to_policy = np.linalg.pinv(CORNERS - CORNERS.mean(0))
    rays = np.stack([np.cos(angles), np.sin(angles)], -1) @ to_policy
    rays -= rays.mean(-1, keepdims=True)
    edge = np.min(np.where(rays < 0, old / np.maximum(-rays, 1e-9), np.inf), axis=-1)
    near, far = np.zeros(73), edge * (1 - 1e-9)
    for _ in range(40):
        middle = (near + far) / 2
        policies = old + middle[:, None] * rays
        too_far = (old * np.log(old / policies)).sum(-1) > delta
        near, far = np.where(too_far, near, middle), np.where(too_far, middle, far)
    return on_plane(old + near[:, None] * rays)


def draw_simplex(
    figure: Figure,
    *,
    names: Sequence[str],
    value: np.ndarray,
    old: np.ndarray,
    path: np.ndarray,
    jump: np.ndarray,
    epsilon: float,
    delta: float,
    title: str,
) -> Figure:
    """Draw the triangle of policies over three actions: levels, two regions, a path and a jump.

    Args:
        figure: the widget's; its axes are made on the first call.
        names: the three actions.
        value: (115, 130) objective at the points of `SIMPLEX_GRID`.
        old: (3,) the policy that sampled.
        path: (N, 3) the policies that a training run passed.
        jump: (3,) where the natural step lands.
        epsilon: clip range ε, of the outlined region.
        delta: KL in nats, of the dashed oval.
        title: what is written above.

    Returns:
        The figure.
    """
    value = np.where((SIMPLEX_GRID >= 0).all(-1), value, np.nan)
    low, high = np.nanmin(value), np.nanmax(value)
    # The square root spreads the bands where the value is high, and changes no level line.
    bands = np.floor((1 - np.sqrt((high - value) / (high - low))) * 14) / 14
    if not figure.axes:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0.02, 0.02, 0.66, 0.9))
        axes.bands = axes.imshow(
            bands, origin="lower", extent=_EXTENT, cmap="Blues_r", vmin=-0.5, vmax=1.05
        )
        axes.plot(*CORNERS[[0, 1, 2, 0]].T, color=DARK, linewidth=1.2, linestyle="-")
        (axes.region,) = axes.fill(
            [0], [0], facecolor="none", edgecolor=INK, lw=1.6, label="clip range of all ratios"
        )
        (axes.ball,) = axes.plot([], [], "--", color=INK, linewidth=1.4, label="KL = ε²/2")
        (axes.walk,) = axes.plot(
            [], [], "o-", color=COLORS[2], linewidth=2.2, markersize=2.5, label="the path"
        )
        (axes.end,) = axes.plot([], [], "o", color=COLORS[2], markersize=8, label="where it ends")
        (axes.jump,) = axes.plot([], [], "D", color=COLORS[4], markersize=8, label="natural step")
        (axes.old,) = axes.plot([], [], "s", color=INK, markersize=7, label="π_old")
        for corner, text, shift in zip(CORNERS, names, ((-4, -9), (4, -9), (0, 9)), strict=True):
            axes.annotate(text, corner, shift, textcoords="offset points", ha="center", va="center")
        axes.set(xlim=(-0.08, 1.08), ylim=(-0.08, 0.95), aspect="equal")
        axes.set_axis_off()
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 0.9))
    axes = figure.axes[0]
    axes.bands.set_data(bands)
    axes.region.set_xy(clip_outline(old, epsilon))
    axes.ball.set_data(*kl_outline(old, delta).T)
    axes.walk.set_data(*on_plane(path).T)
    for artist, point in ((axes.end, path[-1]), (axes.jump, jump), (axes.old, old)):
        artist.set_data(*on_plane(point)[:, None])
    axes.set_title(title)
    return figure


def draw_plane(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float, float, float]]]],
) -> Figure:
    """Draw the score reached over the KL spent, one line a method.

    Args:
        panels: for each panel's title and each method's name, rows of KL, mean J and the lower and
            upper end of its interval.

    Returns:
        The figure.
    """
    figure, axes_of = plt.subplots(1, 2, figsize=(8.6, 3.9), sharey=True, layout="constrained")
    for axes, (title, methods) in zip(axes_of, panels.items(), strict=True):
        for index, (name, rows) in enumerate(methods.items()):
            kls, means, lows, highs = zip(*rows, strict=True)
            curve(axes, kls, means, low=lows, high=highs, label=name, index=index)
        axes.set(xlabel=_KL, title=title, xlim=(0, 0.42), ylim=(-0.5, 0.72))
    axes_of[0].set_ylabel("true J")
    axes_of[0].legend(loc="lower right")
    return figure


def draw_collapse(
    scores: Mapping[str, Sequence[tuple[float, float, float]]],
    entropies: Mapping[str, Sequence[tuple[float, float, float]]],
) -> Figure:
    """Draw score and entropy over the batches, one line a method.

    Args:
        scores: for each method rows of mean J and the ends of its interval, before the first batch
            and after each.
        entropies: the same of the entropy of responses, in nats.

    Returns:
        The figure.
    """
    figure, panels = plt.subplots(1, 2, figsize=(8.6, 3.8), layout="constrained")
    for panel, measured in zip(panels, (scores, entropies), strict=True):
        for index, (name, rows) in enumerate(measured.items()):
            means, lows, highs = zip(*rows, strict=True)
            curve(panel, range(len(rows)), means, low=lows, high=highs, label=name, index=index)
    panels[0].set(xlabel="batches", ylabel="true J", title="Expected score")
    panels[1].set(xlabel="batches", ylabel="nats", title="Entropy of the responses")
    panels[1].set_ylim(bottom=0)
    panels[0].legend(loc="lower right")
    return figure


def draw_likeliest(
    figure: Figure, panels: Mapping[str, tuple[str, Sequence[tuple[str, float]]]]
) -> Figure:
    """Draw the likeliest responses of two policies side by side, as bars.

    Args:
        figure: the widget's; its axes are made on the first call.
        panels: for each policy's name what is said of it below its name, and its responses with
            their probabilities, from the likeliest on.

    Returns:
        The figure.
    """
    for place, (name, (said, responses)) in enumerate(panels.items()):
        count = len(responses)
        if len(figure.axes) <= place:
            figure.set_layout_engine("none")
            axes = figure.add_axes((0.2 + 0.51 * place, 0.14, 0.26, 0.68))
            axes.bars = axes.barh(
                range(count), [0] * count, color=COLORS[place], hatch=("", "///")[place],
                edgecolor="white",
            )  # fmt: skip
            axes.set(xlim=(0, 1), xticks=(0, 0.5, 1), ylim=(count - 0.5, -0.5))
            axes.set_xlabel("probability")
            axes.grid(axis="y", visible=False)
        axes = figure.axes[place]
        for bar, (_, probability) in zip(axes.bars, responses, strict=True):
            bar.set_width(probability)
        names = [text.replace("-", "−") for text, _ in responses]
        axes.set_yticks(range(count), names, fontsize=8.5)
        axes.set_title(f"{name}\n{said}".replace("-", "−"), fontsize=11)
    return figure
