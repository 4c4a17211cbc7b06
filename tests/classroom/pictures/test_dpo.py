"""The pictures of lesson 6 hold the numbers that they were given."""

from __future__ import annotations

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from rlhf_lessons.classroom.pictures import dpo
from rlhf_lessons.classroom.style import new_figure


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def lines(axes) -> dict[str, list]:
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines}


def legend(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def point(kl, reward, kl_error=0.1, reward_error=0.2):
    return SimpleNamespace(kl=kl, reward=reward, kl_error=kl_error, reward_error=reward_error)


def test_bars_of_two_policies():
    figure = new_figure()
    for title, best in (("first", [0.5, 0.5]), ("second", [0.875, 0.125])):
        dpo.draw_policies(figure, ["good", "bad"], [0.25, 0.75], best, title)
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == [0.25, 0.75, 0.875, 0.125]
    assert axes.get_title() == "second" and legend(axes) == ["π_ref", "π*"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["good", "bad"]


def test_a_loss_and_another_beside_it():
    figure, margins = new_figure(), [-2.0, 0.0, 2.0]
    dpo.draw_margin_losses(figure, margins, ([3, 2, 1], [0.9, 0.5, 0.1]), ([4, 1, 0], [1, 1, 0]))
    left, right = figure.axes
    assert [list(line.get_ydata()) for line in left.lines] == [[3, 2, 1], [4, 1, 0]]
    assert [list(line.get_ydata()) for line in right.lines] == [[0.9, 0.5, 0.1], [1, 1, 0]]
    assert all(line.get_visible() for axes in figure.axes for line in axes.lines)
    dpo.draw_margin_losses(figure, margins, ([6, 5, 4], [0.5, 0.4, 0.3]))
    assert list(left.lines[0].get_ydata()) == [6, 5, 4]
    assert [line.get_visible() for line in left.lines] == [True, False]
    assert left.get_title() == "loss" and "margin" in right.get_xlabel()


def test_distances_from_the_first_step_on():
    (axes,) = dpo.draw_distances({"all": [0.5, 0.25], "few": [0.5, 0.75]}).axes
    drawn = lines(axes)
    assert drawn["all"] == [[1, 0.5], [2, 0.25]] and drawn["few"] == [[1, 0.5], [2, 0.75]]
    assert axes.get_xscale() == "log" and {t.get_text() for t in axes.texts} == {"all", "few"}


def test_a_frontier_has_ends_intervals_and_checkpoints():
    ends = {"DPO": [point(1.0, 2.0), point(3.0, 4.0)], "PPO": [point(2.0, 5.0)]}
    (axes,) = dpo.draw_frontier(
        ends, {"DPO": [point(0.5, 1.0)]}, [(0.0, 0.0), (1.5, 6.0)], own=(2.5, 3.5), far=30.0
    ).axes
    drawn = lines(axes)
    assert drawn["π*, estimated"] == [[0.0, 0.0], [1.5, 6.0]]
    assert drawn["your run"] == [[2.5, 3.5]]
    assert legend(axes) == ["π*, estimated", "your run", "DPO", "PPO"]
    bars = {bar.get_label(): bar for bar in axes.containers}
    data, _, (across, up) = bars["DPO"]
    assert data.get_xydata().tolist() == [[1.0, 2.0], [3.0, 4.0]]
    np.testing.assert_allclose(across.get_segments()[0][:, 0], [1 - 0.196, 1 + 0.196])
    np.testing.assert_allclose(up.get_segments()[1][:, 1], [4 - 0.392, 4 + 0.392])
    assert [[0.5, 1.0]] in [line.get_xydata().tolist() for line in axes.lines]
    assert axes.get_xlim() == (0, 30)


def test_a_policy_on_the_plane_and_its_words():
    figure = new_figure()
    words = ("a comedy", "very " * 30 + "good", "gold reward +2.00")
    for here in ((1.0, 2.0), (3.0, 1.0)):
        dpo.draw_position(figure, [(1.0, 2.0), (3.0, 1.0)], here, f"KL {here[0]}", words)
    top, bottom = figure.axes
    assert top.lines[0].get_xydata().tolist() == [[1, 2], [3, 1]]
    assert top.lines[1].get_xydata().tolist() == [[3, 1]] and top.get_title() == "KL 3.0"
    shown = bottom.texts[0].get_text().splitlines()
    assert shown[0] == "x  a comedy" and shown[-1] == "   gold reward +2.00"
    assert " ".join(" ".join(shown[1:-1]).split()) == "y " + words[1]
    assert max(map(len, shown)) <= 84


def test_power_laws_are_straight_on_logarithmic_axes():
    (axes,) = dpo.draw_power_laws(
        {"DPO": ([0.1, 1.0], [10.0, 1.0])}, {"DPO": [(0.1, 9.0), (1.0, 1.1)]}, ticks=[0.1, 1.0]
    ).axes
    dots, line = axes.lines
    assert dots.get_xydata().tolist() == [[0.1, 10], [1, 1]] and dots.get_linestyle() == "None"
    assert line.get_xydata().tolist() == [[0.1, 9.0], [1.0, 1.1]]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log") and legend(axes) == ["DPO"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.1", "1"]


def test_every_seed_of_the_real_frontier_is_drawn_in_both_panels():
    rows = {
        seed: [(0.0, 0.0, 0.0, 0.0), (2.0, 1.0 + seed, 0.25, 0.1 * (seed + 1))] for seed in (0, 1)
    }
    judge, vader = dpo.draw_real_frontier({"DPO": rows, "PPO": {1: rows[1]}}).axes
    drawn = [bar[0].get_xydata().tolist() for bar in judge.containers]
    assert drawn == [[[0, 0], [2, 1.0]], [[0, 0], [2, 2.0]], [[0, 0], [2, 2.0]]]
    _, _, (up,) = judge.containers[0]
    assert up.get_segments()[1][:, 1].tolist() == [0.75, 1.25]
    assert lines(vader)["DPO, seed 1"] == [[0, 0], [2, 0.2]]
    assert legend(vader) == ["DPO, seed 0", "DPO, seed 1", "PPO, seed 1"]
    looks = {(line.get_color(), line.get_markerfacecolor()) for line in vader.lines[:3]}
    assert len(looks) == 3
    assert "judge" in judge.get_title() and "VADER" in vader.get_title()
