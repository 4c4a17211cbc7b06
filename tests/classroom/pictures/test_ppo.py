"""What the pictures of lesson 4 show is what they were given."""

from __future__ import annotations

import math

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from rlhf_lessons.classroom import style
from rlhf_lessons.classroom.pictures import ppo as pictures
from rlhf_lessons.evaluation import SentimentRun, SentimentSettings

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def title(axes) -> str:
    return axes.get_title(loc="left") or axes.get_title()


def test_two_ways_share_a_root_and_each_token_is_named_with_its_advantage():
    first = {"great": 1.5, "fine": 0.25, "dull": -2.0}
    better = [(first, "great"), ({"and": -0.5, "<end>": 0.75}, "<end>")]
    worse = [(first, "dull")]
    figure = pictures.draw_continuations(better, worse, "V = 0")
    (axes,) = figure.axes
    named = {text.get_text(): text for text in axes.texts}
    minus = "\N{MINUS SIGN}"
    ways = {"great +1.50", "fine +0.25", f"dull {minus}2.00", f"and {minus}0.50", "<end> +0.75"}
    assert named.keys() == ways | {"V = 0"}
    bold = {name for name, text in named.items() if text.get_fontweight() == "bold"}
    assert bold == {"great +1.50", f"dull {minus}2.00", "<end> +0.75"}
    # A better token stands higher, and the second step begins where the first ended.
    heights = {name: text.get_position()[1] for name, text in named.items()}
    assert heights["great +1.50"] > heights["fine +0.25"] > heights[f"dull {minus}2.00"]
    starts = {float(line.get_ydata()[0]) for line in axes.lines if line.get_xdata()[0] > 1}
    assert starts == {heights["great +1.50"]}
    assert len(axes.lines) == 6  # "fine" once by each way, each taken token once, two at the end


def test_estimates_stand_beside_exact_advantages():
    figure = style.new_figure()
    for estimates, here in (([0.5, 0.5], (0.0, 3.0)), ([1.0, -2.0], (0.5, 2.0))):
        pictures.draw_estimates(
            figure, ["not", "good"], [0.25, -1.0], estimates, [0, 0.5, 1], [3, 2, 4], here
        )
    left, right = figure.axes
    exact, estimated = ([bar.get_height() for bar in bars] for bars in left.containers)
    assert exact == [0.25, -1.0] and estimated == [1.0, -2.0]
    assert [text.get_text() for text in left.get_xticklabels()] == ["not", "good"]
    line, dot = right.lines
    assert list(line.get_ydata()) == [3, 2, 4]
    assert (list(dot.get_xdata()), list(dot.get_ydata())) == ([0.5], [2.0])
    assert {text.get_text() for text in left.get_legend().texts} == {"exact A", "GAE"}


def test_the_clip_range_is_shaded_where_epsilon_says():
    figure = style.new_figure()
    for epsilon in (0.2, 0.5):
        pictures.draw_clip(figure, [0.5, 1.5], [epsilon, 1.0], [1.0, 0.0], epsilon)
    objective, slope = figure.axes
    assert list(objective.lines[0].get_ydata()) == [0.5, 1.0]
    assert list(slope.lines[0].get_ydata()) == [1.0, 0.0]
    for axes in figure.axes:
        box = axes.patches[0].get_extents().transformed(axes.transData.inverted())
        assert (box.x0, box.x1) == pytest.approx((0.5, 1.5))
        assert axes.get_xlabel() == "ρ = π/π_old"


def test_bars_of_the_best_policy_move_and_those_of_the_reference_stay():
    figure = style.new_figure()
    for best in ([0.2, 0.3], [0.1, 0.6]):
        pictures.draw_optimum(figure, ["dull", "great"], [0.4, 0.05], best, f"{best[1]}")
    (axes,) = figure.axes
    reference, moved = ([bar.get_width() for bar in bars] for bars in axes.containers)
    assert reference == [0.4, 0.05] and moved == [0.1, 0.6]
    assert title(axes) == "0.6"
    assert [text.get_text() for text in axes.get_yticklabels()] == ["dull", "great"]
    assert axes.yaxis_inverted()


def test_convergence_shows_both_distances_of_each_run():
    paths = {"β = 1": ([0, 5], [0.5, 0.1], [0.3, 0.01]), "β = 2": ([0, 5], [0.4, 0.2], [0.2, 0.02])}
    figure = pictures.draw_convergence(paths)
    for k, panel in enumerate(figure.axes, 1):
        drawn = {line.get_label(): list(line.get_ydata()) for line in panel.lines}
        assert drawn == {name: path[k] for name, path in paths.items()}
        assert panel.get_yscale() == "log"
    assert {text.get_text() for text in figure.axes[1].texts} == set(paths)


def test_hacking_shows_proxy_gold_and_kl():
    figure = pictures.draw_hacking([1, 2], [0.5, 2.0], [0.25, -3.0], [1.0, 40.0])
    scores, kl = figure.axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in scores.lines}
    assert drawn == {"reward model": [0.5, 2.0], "gold": [0.25, -3.0]}
    assert {text.get_text() for text in scores.texts} == set(drawn)
    assert list(kl.lines[0].get_ydata()) == [1.0, 40.0]


def test_a_sweep_has_intervals_where_errors_are_known():
    scores = {"gold": ([1, 10], [0.5, 2.0], [0.1, 0.2]), "proxy": ([1, 10], [0.7, 1.5], None)}
    (axes,) = pictures.draw_sweep(scores).axes
    drawn = {line.get_label(): line for line in axes.lines if line.get_label() in scores}
    assert {name: list(line.get_ydata()) for name, line in drawn.items()} == {
        "gold": [0.5, 2.0],
        "proxy": [0.7, 1.5],
    }
    (bars,) = axes.collections  # of gold alone
    ends = [[point[1] for point in segment] for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, [[0.5 - 0.196, 0.5 + 0.196], [2 - 0.392, 2 + 0.392]])
    assert axes.get_xscale() == "log"


def test_rings_and_samples_follow_the_run_that_is_chosen():
    figure = style.new_figure()
    scores = {"proxy": [0.5, 1.0, 2.0], "gold": [0.4, 0.9, -3.0]}
    for chosen in (0, 2):
        pictures.draw_run(figure, [1, 2, 30], scores, chosen, f"run {chosen}", f"text {chosen}")
    left, right = figure.axes
    rings, *points = left.lines
    assert (list(rings.get_xdata()), list(rings.get_ydata())) == ([30, 30], [2.0, -3.0])
    assert {line.get_label(): list(line.get_ydata()) for line in points} == scores
    assert title(left) == "run 2" and [text.get_text() for text in right.texts] == ["text 2"]


def real_run(beta: float, seed: int, *points: tuple[float, float, float]) -> SentimentRun:
    settings = SentimentSettings(method="ppo", beta=beta, seed=seed)
    names = ("kl", "reward", "vader")
    measured = [dict(zip(names, point, strict=True), reward_error=0.5) for point in points]
    return SentimentRun(settings, {}, finished=True, points=tuple(measured))


def test_real_runs_of_one_strength_look_alike_and_are_named_once():
    runs = [
        real_run(1.0, 0, (0.0, -0.5, 0.25), (1.0, 0.5, 0.5)),
        real_run(1.0, 1, (0.0, -0.25, 0.125), (2.0, 0.75, 0.75)),
        real_run(0.1, 0, (0.0, -0.5, 0.25), (4.0, 2.0, 0.875)),
    ]
    figure = pictures.draw_real_runs(runs)
    judge, vader = figure.axes
    for panel, place in ((judge, 1), (vader, 2)):
        lines = [line for line in panel.lines if line.get_marker() == "None"]
        drawn = [list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in lines]
        given = [[(point["kl"], point[("reward", "vader")[place - 1]]) for point in run.points]
                 for run in runs]  # fmt: skip
        assert drawn == given
        assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color()
    assert [text.get_text() for text in judge.get_legend().texts] == ["β = 1", "β = 0.1"]
    spans = [abs(a[1] - b[1]) for bars in judge.collections for a, b in bars.get_segments()]
    assert spans == pytest.approx([2 * 1.96 * 0.5] * 6)
    assert not any(
        math.dist(a, b) for bars in vader.collections for a, b in bars.get_segments()
    )  # VADER's error is not on record
