"""The pictures of lesson 9 hold the numbers that they were given."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import pytest

from rlhf_lessons.classroom.pictures import groups
from rlhf_lessons.classroom.style import new_figure
from rlhf_lessons.evaluation import estimate_mean


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def lines(axes) -> dict[str, list]:
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines}


def texts(axes) -> set[str]:
    return {text.get_text() for text in axes.texts}


def test_variance_with_its_dots():
    given = {"one out": [4.0, 3.0], "none": [2.0, 2.0]}
    (axes,) = groups.draw_variance([2, 4], given, {2: 4.5}).axes
    drawn = lines(axes)
    assert drawn["one out"] == [[2, 4], [4, 3]] and drawn["none"] == [[2, 2], [4, 2]]
    assert [[2, 4.5]] in drawn.values() and texts(axes) == set(given)
    assert axes.get_xscale() == "log" and "G" in axes.get_xlabel()


def test_weights_of_prompts_each_over_its_own_shares():
    given = {"a": ([0.1, 0.9], [1, 2]), "b": ([0.4, 0.5, 0.6], [3, 4, 5])}
    (axes,) = groups.draw_prompt_weights(given).axes
    drawn = lines(axes)
    assert drawn["a"] == [[0.1, 1], [0.9, 2]] and drawn["b"] == [[0.4, 3], [0.5, 4], [0.6, 5]]


def test_old_samples_point_on_the_left_and_shake_on_the_right():
    left, right = groups.draw_old_samples(
        [0.1, 1.0], {"x": [1, 0.5], "y": [1, -0.2]}, {"x": [0.5, 2], "y": [0.4, 0.3]}
    ).axes
    assert lines(left)["y"] == [[0.1, 1], [1, -0.2]] and lines(right)["x"] == [[0.1, 0.5], [1, 2]]
    assert "cosine" in left.get_title() and "noise" in right.get_title()


def test_reward_over_seeds_by_kl_and_by_seconds():
    at = [estimate_mean([1.0, 3.0]), estimate_mean([2.0, 4.0])]
    by_kl, by_seconds = groups.draw_reward_by_kl_and_time(
        {"PPO": ([0.5, 1.5], at)}, {"PPO": ([10, 20], at[::-1])}
    ).axes
    assert lines(by_kl)["PPO"] == [[0.5, 2], [1.5, 3]]
    assert lines(by_seconds)["PPO"] == [[10, 3], [20, 2]]
    heights = by_kl.collections[0].get_paths()[0].vertices[:, 1]
    low, high = at[0].interval()
    assert math.isclose(min(heights), low) and math.isclose(max(heights), at[1].interval()[1])
    assert high > at[0].value


def test_tries_with_their_intervals():
    (axes,) = groups.draw_tries([1, 4], {"before": ([0.2, 0.5], [0.1, 0.4], [0.3, 0.6])}).axes
    assert lines(axes)["before"] == [[1, 0.2], [4, 0.5]] and texts(axes) == {"before"}
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert math.isclose(min(heights), 0.1) and math.isclose(max(heights), 0.6)


def test_group_and_beta_moves_with_the_choice():
    figure = new_figure((9.2, 4.2))
    given = {
        "others": [([0, 1], [0.2, 0.3]), ([0, 2], [0.2, 0.4])],
        "best": ([0, 1, 2], [0.2, 0.6, 0.9]),
        "sizes": [2, 8],
        "deviations": [0.9, 0.4],
    }
    for size, last in ((2, 0.5), (8, 0.7)):
        groups.draw_group_and_beta(
            figure, paths=[([0, 1], [0.2, last]), ([0, 1.5], [0.2, 0.6])], target=(1.0, last),
            group_size=size, title=f"G = {size}", **given,
        )  # fmt: skip
    left, right = figure.axes
    drawn = lines(left)
    assert drawn["your runs, a line a seed"] == [[0, 0.2], [1, 0.7]]
    assert drawn["the best there is"] == [[0, 0.2], [1, 0.6], [2, 0.9]]
    assert drawn["π* for this β"] == [[1, 0.7]] and left.get_title() == "G = 8"
    assert [[8, 0.4]] in lines(right).values() and texts(right) == {"0.40"}
    assert len(left.lines) == 2 + 1 + 2 + 1


def test_real_sums_by_cycle_and_by_tries():
    left, right = groups.draw_real_sums(
        {"seed 0": [0.1, 0.4], "seed 1": [0.2, 0.3]},
        {"before": ((1, 2), [{1: 0.1, 2: 0.2}, {1: 0.15, 2: 0.25}]), "after": ((1,), [{1: 0.6}])},
    ).axes
    assert lines(left) == {"seed 0": [[1, 0.1], [2, 0.4]], "seed 1": [[1, 0.2], [2, 0.3]]}
    drawn = [line.get_xydata().tolist() for line in right.lines]
    assert drawn == [[[1, 0.1], [2, 0.2]], [[1, 0.15], [2, 0.25]], [[1, 0.6]]]
    colors = [line.get_color() for line in right.lines]
    assert colors[0] == colors[1] != colors[2]
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["before", "after"]
