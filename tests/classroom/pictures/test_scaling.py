from __future__ import annotations

import numpy as np
import pytest
from matplotlib import pyplot as plt

from rlhf_lessons.classroom import style
from rlhf_lessons.classroom.pictures import scaling


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def points(line) -> list[tuple[float, float]]:
    return [tuple(map(float, point)) for point in line.get_xydata()]


def test_memory_is_a_bar_a_kind():
    figure = style.new_figure()
    for weights in (50.0, 2.0):
        scaling.draw_memory(figure, {"weights": weights, "adam": 4.0}, f"{weights} GB")
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [2.0, 4.0]
    assert [text.get_text() for text in axes.texts] == [" 2 GB", " 4 GB"]
    assert [text.get_position()[0] for text in axes.texts] == [2.0, 4.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["weights", "adam"]
    assert axes.get_xlim() == (0, 5.0)  # the smaller picture is not drawn at the larger one's scale
    assert axes.get_title(loc="left") + axes.get_title() == "2.0 GB"


def test_lost_updates_stand_at_their_learning_rates():
    (axes,) = scaling.draw_lost_updates([1e-5, 1e-3], [0.99, 0.4]).axes
    assert [points(line) for line in axes.lines] == [[(1e-5, 0.99), (1e-3, 0.4)]]
    assert axes.lines[0].get_marker() == "o"
    assert axes.get_xscale() == "log" and axes.get_ylim() == (0, 1.05)


def test_two_engines_share_their_steps():
    (axes,) = scaling.draw_parity([0.7, 0.6, 0.5], [0.7, 0.61, 0.5]).axes
    line, dots = axes.lines
    assert points(line) == [(1, 0.7), (2, 0.6), (3, 0.5)]
    assert points(dots) == [(1, 0.7), (2, 0.61), (3, 0.5)]
    assert line.get_marker() == "None" and dots.get_linestyle() == "None"
    names = [text.get_text() for text in axes.get_legend().texts]
    assert names == ["train_dpo", "TRL, two processes"]


@pytest.mark.parametrize("own", [False, True])
def test_a_point_of_ones_own_stands_among_the_stored_ones(own):
    stored = {
        "β = 0.1": {"kl": 2.5, "reward": 1.3, "reward_error": 0.1},
        "β = 1": {"kl": 0.9, "reward": 0.5, "reward_error": 0.2},
    }
    here = ("β = 0.5", {"kl": 1.4, "reward": 0.9, "reward_error": 0.05}) if own else None
    (axes,) = scaling.draw_real_point(stored, here).axes
    bars = [container.lines for container in axes.containers]
    assert points(bars[0][0]) == [(0.9, 0.5), (2.5, 1.3)]  # in the order of KL, not as given
    assert np.allclose(bars[0][2][0].get_segments()[0], [(0.9, 0.5 - 0.392), (0.9, 0.5 + 0.392)])
    names = {text.get_text(): text.xy for text in axes.texts}
    wanted = {"β = 0.1": (2.5, 1.3), "β = 1": (0.9, 0.5)}
    assert names == (wanted | {"β = 0.5": (1.4, 0.9)} if own else wanted)
    assert len(bars) == 1 + own
    if own:
        assert points(bars[1][0]) == [(1.4, 0.9)]
