from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from rlhf_lessons.classroom.pictures.language_model import (
    draw_action,
    draw_attention,
    draw_distributions,
    draw_fits,
    draw_losses,
    draw_next_word,
)
from rlhf_lessons.classroom.style import drawing, new_figure


@pytest.fixture(autouse=True)
def look_of_the_course():
    with drawing():
        yield
    plt.close("all")


def words_of(ticks):
    return [tick.get_text() for tick in ticks]


def test_attention_maps_hold_the_weights_with_a_word_at_each_row_and_column():
    weights = np.arange(1.0, 7.0).reshape(2, 3) / 10
    figure = draw_attention({"one": weights, "two": weights / 2}, ["b", "c"], ["a", "b", "c"])
    one, two = figure.axes
    np.testing.assert_array_equal(one.images[0].get_array(), weights)
    np.testing.assert_array_equal(two.images[0].get_array(), weights / 2)
    assert words_of(one.get_xticklabels()) == words_of(two.get_xticklabels()) == ["a", "b", "c"]
    assert words_of(one.get_yticklabels()) == ["b", "c"]
    assert (one.get_title(loc="left"), two.get_title(loc="left")) == ("one", "two")
    assert (one.get_ylabel(), two.get_xlabel()) == ("looks", "looked at")
    assert one.images[0].get_clim()[0] == 0.0  # white is a weight of 0, not the smallest one


def test_losses_are_drawn_with_their_names_and_a_level():
    losses = {"held out": ([0, 10, 20], [3.0, 2.0, 1.5]), "training": (range(5, 21), [1.0] * 16)}
    figure = draw_losses(losses, 1.2, "the course's model", "it learns")
    (axes,) = figure.axes
    held_out, training, level = axes.lines
    assert held_out.get_xydata().tolist() == [[0, 3.0], [10, 2.0], [20, 1.5]]
    assert training.get_xdata()[0] == 5 and set(training.get_ydata()) == {1.0}
    assert list(level.get_ydata()) == [1.2, 1.2]
    assert {text.get_text() for text in axes.texts} == {
        "held out",
        "training",
        "the course's model",
    }
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "nats per token")
    assert axes.get_title(loc="left") == "it learns" and axes.get_xlim()[1] > 20


@pytest.mark.parametrize("count", [2, 3, 4])
def test_distributions_stand_beside_each_other_without_overlap(count):
    given = {f"τ = {k}": [0.5 / (k + 1), 0.2, 0.1] for k in range(count)}
    (axes,) = draw_distributions(["a", "b", "c"], given, "three words").axes
    assert [[bar.get_height() for bar in bars] for bars in axes.containers] == [*given.values()]
    assert words_of(axes.get_legend().get_texts()) == [*given]
    assert words_of(axes.get_xticklabels()) == ["a", "b", "c"]
    spans = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches)
    assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:], strict=False))
    around = np.array(spans).reshape(3, count, 2).mean(axis=(1, 2))
    np.testing.assert_allclose(around, [0, 1, 2], atol=1e-9)  # each group around its word
    assert len({bars[0].get_hatch() for bars in axes.containers}) == count  # known in grey, too


def test_bars_and_dots_of_the_next_word_move():
    figure = draw_next_word(new_figure(), ["a", "b"], [0.5, 0.1], [0.4, 0.2], 1.0)
    (axes,) = figure.axes
    assert axes.get_ylim() == (0, 0.6)
    assert draw_next_word(figure, ["c", "d"], [0.9, 0.05], [0.88, 0.06], 0.123) is figure
    assert figure.axes == [axes]
    assert [bar.get_height() for bar in axes.patches] == [0.9, 0.05]
    assert list(axes.lines[0].get_ydata()) == [0.88, 0.06]
    assert words_of(axes.get_xticklabels()) == ["c", "d"]
    assert axes.get_title(loc="left").startswith("entropy 0.12 nats")
    assert axes.get_ylim() == (0, 1.1)
    assert set(words_of(axes.get_legend().get_texts())) == {"exact", "drawn"}
    draw_next_word(figure, ["c", "d"], [1.0, 0.0], [1.0, 0.0], 0.0)  # a sure choice fits, too
    assert axes.get_ylim()[1] > 1.0


def test_fits_are_lines_over_the_ground_of_p():
    x, p = [0, 1, 2], [0.1, 0.3, 0.6]
    (axes,) = draw_fits(x, p, {"wide": [0.3, 0.4, 0.3], "narrow": [0, 0.2, 0.8]}, "two").axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[0.3, 0.4, 0.3], [0, 0.2, 0.8]]
    edge = axes.collections[0].get_paths()[0].vertices
    assert [edge[edge[:, 0] == at, 1].max() for at in x] == p
    assert words_of(axes.get_legend().get_texts()) == ["p", "wide", "narrow"]
    assert axes.get_ylim()[0] == 0 and axes.get_ylim()[1] > 0.8
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("outcome", "probability")
    assert axes.get_title(loc="left") == "two"


def test_the_action_alone_is_filled_and_the_state_grows():
    figure = draw_action(new_figure(), "a film .", [], ["it", "i"], [0.7, 0.2], 0, "step 1")
    said = [f"word{k}" for k in range(40)]
    assert draw_action(figure, "b film .", said, ["was", "is"], [0.5, 0.3], 1, "step 9") is figure
    top, bottom = figure.axes
    (state,) = (text.get_text().splitlines() for text in top.texts)
    assert state[0] == "x  b film ." and max(map(len, state)) <= 78
    assert " ".join(state[1:]).split() == ["y", *said, "▁"]
    assert [bar.get_width() for bar in bottom.patches] == [0.5, 0.3]
    white = [bar.get_facecolor() == (1.0, 1.0, 1.0, 1.0) for bar in bottom.patches]
    assert white == [True, False]
    assert words_of(bottom.get_yticklabels()) == ["was", "is"]
    assert bottom.get_title(loc="left") == "step 9" and "π" in bottom.get_xlabel()
    above, below = (bar.get_y() for bar in bottom.patches)
    lower, upper = bottom.transData.transform([(0, above), (0, below)])[:, 1]
    assert lower > upper  # the first word stands on top
