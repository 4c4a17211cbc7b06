from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from rlhf_lessons.classroom.pictures.tic_tac_toe import draw_boards, draw_discount, draw_learning
from rlhf_lessons.classroom.style import drawing, new_figure


@pytest.fixture(autouse=True)
def look_of_the_course():
    with drawing():
        yield
    plt.close("all")


def test_bars_of_a_discount_have_the_heights_given_and_say_them():
    worths = {"corner": 0.75, "edge": 0.5}
    figure = draw_discount(new_figure(), [0.25, 0.5, 1.0], {"corner": 0.1, "edge": 0.2})
    assert draw_discount(figure, [0.0, 0.125, 0.9], worths) is figure  # the same bars, moved
    left, right = figure.axes
    assert [bar.get_height() for bar in left.patches] == [0.0, 0.125, 0.9]
    assert [bar.get_height() for bar in right.patches] == [0.75, 0.5]
    assert [text.get_text() for text in left.texts] == ["0.000", "0.125", "0.900"]
    assert [text.get_text() for text in right.texts] == ["0.750", "0.500"]
    assert all(
        t.get_position()[1] > b.get_height() for t, b in zip(left.texts, left.patches, strict=True)
    )
    assert [tick.get_text() for tick in right.get_xticklabels()] == ["corner", "edge"]
    assert left.get_xlabel() == "step t" and left.get_ylabel() == "$G_t$"


def test_boards_show_the_numbers_of_their_empty_squares():
    first, second = np.linspace(-0.9, 0.7, 9), np.full(9, 0.25)
    figure = draw_boards({"opening": ("." * 9, first), "reply": ("X...O....", second)})
    opening, reply = figure.axes
    assert (opening.get_title(loc="left"), reply.get_title(loc="left")) == ("opening", "reply")
    shown = [float(text.get_text().replace("−", "-")) for text in opening.texts]
    assert shown == pytest.approx(first.tolist(), abs=0.005)
    assert [text.get_text() for text in reply.texts] == ["×", *["+0.25"] * 3, "○", *["+0.25"] * 4]


def test_learning_is_drawn_beside_what_is_exact():
    runs = np.array([[0.2, 0.5, 0.8], [0.4, 0.6, 0.6]])
    figure = draw_learning(
        {"TD, max": ([10, 1000], [0.5, 0.1]), "TD, mean": ([10, 1000], [0.2, 0.02])},
        {"REINFORCE": ([100, 200, 300], runs), "Q": ([150, 300], [[0.7, 0.9]])},
        optimum=0.95,
    )
    left, right = figure.axes
    assert [line.get_ydata().tolist() for line in left.lines] == [[0.5, 0.1], [0.2, 0.02]]
    assert left.get_xscale() == left.get_yscale() == "log"
    assert left.get_xlim()[1] > 1000 and "exact V" in left.get_ylabel()
    middle, single, level = right.lines
    np.testing.assert_allclose(middle.get_ydata(), [0.3, 0.55, 0.7])
    np.testing.assert_allclose(single.get_ydata(), [0.7, 0.9])
    assert level.get_xydata().tolist() == [[0, 0.95], [300, 0.95]]
    (band,) = right.collections  # of the two runs; one run has no band
    edge = band.get_paths()[0].vertices
    heights = [set(edge[edge[:, 0] == x, 1].tolist()) for x in (100, 200, 300)]
    assert heights == [{0.2, 0.4}, {0.5, 0.6}, {0.6, 0.8}]
    named = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert named == {"TD, max", "TD, mean", "REINFORCE", "Q", "exact optimum"}
    ticks = [tick.get_text() for tick in right.get_xticklabels()]
    assert ticks == ["0", "0.1", "0.2", "0.3"] and right.get_xlabel() == "thousand games"
