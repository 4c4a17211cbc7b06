"""The pictures of lesson 9: groups, checkers and thumbs.

Each function takes numbers and gives a figure; nothing is computed here but where to draw.

Left out on purpose: sliders. ``draw_group_and_beta`` fills the figure that ``explore`` hands it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_lessons.classroom.plots import curve, label_ends
from rlhf_lessons.classroom.style import COLORS, INK, PALE, TEXT_COLORS
from rlhf_lessons.evaluation import Estimate


def draw_variance(
    sizes: Sequence[int],
    lines: Mapping[str, Sequence[float]],
    listed: Mapping[int, float],
) -> Figure:
    """Draw what a response adds to the variance, by the size of its group.

    Args:
        sizes: the group sizes G.
        lines: estimator -> G times the variance of its mean over a group.
        listed: group size -> the same of leave-one-out, from a list of all groups.

    Returns:
        The figure.
    """
    figure, axes = plt.subplots(figsize=(7.4, 3.8), layout="constrained")
    for index, (name, values) in enumerate(lines.items()):
        curve(axes, sizes, values, label=name, index=index)
    axes.plot(list(listed), list(listed.values()), "o", color=INK, markersize=7, zorder=3)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(sizes), [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set(
        xlabel="group size G",
        ylabel="variance · G",
        title="What a baseline saves, and what it costs in a small group",
        xlim=(sizes[0], sizes[-1] * 6),
        ylim=(0, None),
    )
    label_ends(axes)
    return figure


def draw_prompt_weights(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Draw how much a prompt weighs in the mean gradient, by how often its responses are right.

    Args:
        lines: estimator -> the probabilities p that a response is right, and its weights there.

    Returns:
        The figure.
    """
    figure, axes = plt.subplots(figsize=(7.4, 3.8), layout="constrained")
    for index, (name, (shares, weights)) in enumerate(lines.items()):
        curve(axes, shares, weights, label=name, index=index)
    axes.set(
        xlabel="p, the chance that a response to the prompt is right",
        ylabel="weight of the prompt",
        title="Divided by the deviation, the hard and the easy count more",
        xlim=(0, 1.45),
        ylim=(0, 9),
    )
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    label_ends(axes)
    return figure


def draw_old_samples(
    kls: Sequence[float],
    cosines: Mapping[str, Sequence[float]],
    noise: Mapping[str, Sequence[float]],
) -> Figure:
    """Draw how far each weighting of old samples points from the exact gradient, and its noise.

    Args:
        kls: (N,) KL from the policy that sampled.
        cosines: weighting -> (N,) cosine of its mean with the exact gradient.
        noise: weighting -> (N,) standard deviation of a batch over the length of the mean.

    Returns:
        The figure.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 4.0), layout="constrained")
    for index, name in enumerate(cosines):
        curve(left, kls, cosines[name], label=name, index=index)
        curve(right, kls, noise[name], label=name, index=index)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("KL(π_old ‖ π), nats")
    left.set(title="cosine with the exact gradient", ylim=(-0.4, 1.04))
    right.set(title="noise of 64 responses, relative", ylim=(0, 3))
    left.legend(loc="lower left", fontsize=9)
    return figure


def _over_seeds(
    axes: Axes, x: Sequence[float], estimates: Sequence[Estimate], label: str, index: int
) -> None:
    low, high = zip(*(estimate.interval() for estimate in estimates), strict=True)
    values = [estimate.value for estimate in estimates]
    curve(axes, x, values, low=low, high=high, label=label, index=index)


def draw_reward_by_kl_and_time(
    by_kl: Mapping[str, tuple[Sequence[float], Sequence[Estimate]]],
    by_seconds: Mapping[str, tuple[Sequence[float], Sequence[Estimate]]],
) -> Figure:
    """Draw reward against KL, and reward against processor time, each over seeds.

    Args:
        by_kl: method -> KL in nats, and the mean reward over seeds there.
        by_seconds: method -> seconds, and the mean reward over seeds there.

    Returns:
        The figure.
    """
    figure, panels = plt.subplots(1, 2, figsize=(9.0, 3.9), sharey=True, layout="constrained")
    for axes, lines in zip(panels, (by_kl, by_seconds), strict=True):
        for index, (name, (x, estimates)) in enumerate(lines.items()):
            _over_seeds(axes, x, estimates, name, index)
    panels[0].set(
        xlabel="KL(π ‖ π_ref), nats", ylabel="gold reward", title="what a nat buys", xlim=(0, None)
    )
    panels[1].set(xlabel="seconds of one core", title="what a second buys", xlim=(0, None))
    panels[0].legend(loc="lower right")
    return figure


def draw_tries(
    ks: Sequence[int], lines: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]]
) -> Figure:
    """Draw pass@k against the number of tries k.

    Args:
        ks: the numbers of tries.
        lines: policy -> pass@k with the lower and the upper end of its interval.

    Returns:
        The figure.
    """
    figure, axes = plt.subplots(figsize=(7.4, 3.9), layout="constrained")
    for index, (name, (values, low, high)) in enumerate(lines.items()):
        curve(axes, ks, values, low=low, high=high, label=name, index=index)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(ks), [str(k) for k in ks])
    axes.minorticks_off()
    axes.set(
        xlabel="tries k",
        ylabel="pass@k",
        title="One of k tries is right",
        xlim=(1, ks[-1] * 5),
        ylim=(0, 1.02),
    )
    label_ends(axes)
    return figure


def draw_real_sums(
    rewards: Mapping[str, Sequence[float]],
    tries: Mapping[str, tuple[Sequence[int], Sequence[Mapping[int, float]]]],
) -> Figure:
    """Draw how a run with a checker went, and pass@k before and after it.

    Args:
        rewards: run -> the share right in the rollout of each cycle.
        tries: policy -> the numbers of tries k, and for each seed k -> pass@k.

    Returns:
        The figure.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.9), layout="constrained")
    for index, (name, shares) in enumerate(rewards.items()):
        curve(left, range(1, len(shares) + 1), shares, label=name, index=index)
    for index, (name, (ks, seeds)) in enumerate(tries.items()):
        for place, passed in enumerate(seeds):
            curve(right, ks, [passed[k] for k in ks], label="" if place else name, index=index)
    left.set(
        xlabel="cycle", ylabel="share right", title="In training, before each update", ylim=(0, 1)
    )
    left.xaxis.get_major_locator().set_params(integer=True)
    left.legend(loc="lower right", fontsize=9)
    right.set_xscale("log", base=2)
    ks = max((row for row, _ in tries.values()), key=len)
    right.set_xticks(list(ks), [str(k) for k in ks])
    right.minorticks_off()
    right.set(xlabel="tries k", ylabel="pass@k", title="Held out, a line a seed", ylim=(0, 1.02))
    right.legend(loc="lower right", fontsize=9)
    return figure


def draw_group_and_beta(
    figure: Figure,
    *,
    paths: Sequence[tuple[Sequence[float], Sequence[float]]],
    others: Sequence[tuple[Sequence[float], Sequence[float]]],
    best: tuple[Sequence[float], Sequence[float]],
    target: tuple[float, float],
    sizes: Sequence[int],
    deviations: Sequence[float],
    group_size: int,
    title: str,
) -> None:
    """Fill the figure of the slider: reward against KL on the left, noise on the right.

    Args:
        figure: an empty figure, or the one that an earlier call has filled.
        paths: one (KL, reward) path a seed, with the chosen G and β.
        others: the mean paths of all other choices, drawn faintly.
        best: (KL, reward) of the best policies of all KL strengths.
        target: KL and reward of the best policy for the chosen β.
        sizes: the group sizes.
        deviations: for each the standard deviation of the first gradient, over its length.
        group_size: the chosen G.
        title: what to write above the left panel.
    """
    if not figure.axes:
        left, right = figure.subplots(1, 2, width_ratios=(1.7, 1))
        left.faint = [left.plot([], [], "-", color=PALE, lw=1.0)[0] for _ in others]
        left.plot(*best, color=INK, linestyle="--", linewidth=1.6, label="the best there is")
        left.seeds = [left.plot([], [], "-", color=COLORS[0], lw=1.4, alpha=0.8)[0] for _ in paths]
        left.seeds[0].set_label("your runs, a line a seed")
        (left.star,) = left.plot(
            [], [], "*", color=COLORS[2], markersize=13, linestyle="none", label="π* for this β"
        )
        left.set(
            xlabel="KL(π ‖ π_ref), nats", ylabel="share right", xlim=(0, 3.2), ylim=(0.2, 1.02)
        )
        left.legend(loc="lower right", fontsize=9)
        right.plot(sizes, deviations, "-o", color=COLORS[1])
        (right.chosen,) = right.plot([], [], "o", color=COLORS[2], markersize=12)
        right.set_xscale("log", base=2)
        right.set_xticks(list(sizes), [str(size) for size in sizes])
        right.minorticks_off()
        right.set(xlabel="group size G", title="noise of the first gradient", ylim=(0, None))
        right.said = right.annotate("", (0, 0), (0, 12), textcoords="offset points", ha="center",
                                    color=TEXT_COLORS[2])  # fmt: skip
    left, right = figure.axes
    for line, (kl, reward) in zip(left.faint, others, strict=True):
        line.set_data(kl, reward)
    for line, (kl, reward) in zip(left.seeds, paths, strict=True):
        line.set_data(kl, reward)
    left.star.set_data([target[0]], [target[1]])
    left.set_title(title)
    height = deviations[list(sizes).index(group_size)]
    right.chosen.set_data([group_size], [height])
    right.said.xy = (group_size, height)
    right.said.set_text(f"{height:.2f}")
