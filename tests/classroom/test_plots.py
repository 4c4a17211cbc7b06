from __future__ import annotations

import pytest

from rlhf_lessons.classroom import plots, style


@pytest.fixture
def axes():
    return style.new_figure().subplots()


def test_a_curve_has_colour_style_and_interval(axes):
    line = plots.curve(axes, [0, 1], [1, 2], low=[0, 1], high=[2, 3], label="agent", index=1)
    assert line.get_color() == style.COLORS[1]
    assert line.get_linestyle() == "--"
    (band,) = axes.collections
    assert band.get_paths()[0].get_extents().bounds == (0.0, 0.0, 1.0, 3.0)


def test_a_curve_says_what_is_wrong(axes):
    with pytest.raises(ValueError, match="equally long, got .*'y': 3"):
        plots.curve(axes, [0, 1], [1, 2, 3])
    with pytest.raises(ValueError, match="both low and high"):
        plots.curve(axes, [0, 1], [1, 2], low=[0, 0])


def test_labels_are_moved_apart_as_little_as_needed():
    assert plots._apart([0.0, 100.0], 10) == [0.0, 100.0]
    assert plots._apart([5.0, 5.0], 10) == [0.0, 10.0]
    assert plots._apart([0.0, 1.0, 2.0, 50.0], 10) == [-9.0, 1.0, 11.0, 50.0]
    # A group that has spread runs into its neighbour and takes it in.
    assert plots._apart([0.0, 0.0, 12.0], 10) == [-6.0, 4.0, 14.0]
    assert plots._apart([0.0, 12.0, 12.0], 10) == [-2.0, 8.0, 18.0]


def test_each_labelled_line_is_named_once(axes):
    for index in range(3):
        plots.curve(axes, [0, 1], [0, 1], label=f"agent {index}", index=index)
    axes.axhline(0.5)  # a line without a label gets no name
    assert len(plots.label_ends(axes)) == 3
    assert sorted(text.get_text() for text in axes.texts) == ["agent 0", "agent 1", "agent 2"]
    heights = sorted(text.xyann[1] for text in axes.texts)
    assert heights[1] - heights[0] == pytest.approx(13)
    assert {text.get_text(): text.get_color() for text in axes.texts}["agent 2"] == (
        style.TEXT_COLORS[2]
    )


def test_labels_move_apart_again_where_their_lines_have_gone(axes):
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.figure.draw_without_rendering()
    low, high = (axes.annotate(name, (1, y)) for name, y in (("low", 0.2), ("high", 0.8)))
    assert plots.move_apart([high, low]) == [low, high]
    assert low.xyann == high.xyann == (5, 0)
    low.xy = high.xy = (1, 0.5)
    assert [label.xyann for label in plots.move_apart([high, low])] == [(5, -6.5), (5, 6.5)]


def test_tints():
    assert plots.tint(0.0) == plots.tint(float("nan")) == "#ffffff"
    assert plots.tint(1.0) == plots.tint(7.0) != plots.tint(-1.0)
    red, _, blue = (int(plots.tint(0.5)[i : i + 2], 16) for i in (1, 3, 5))
    assert blue > red
    red, _, blue = (int(plots.tint(-0.5)[i : i + 2], 16) for i in (1, 3, 5))
    assert red > blue


@pytest.mark.parametrize(
    ("number", "signed", "text"),
    [
        (0.345, False, "0.34"),
        (0.5, True, "+0.50"),
        (-0.5, True, "\N{MINUS SIGN}0.50"),
        (-0.001, True, "0.00"),
        (1.0, False, "1.00"),
    ],
)
def test_numbers_as_the_boards_write_them(number, signed, text):
    assert plots.number_text(number, signed) == text


def test_a_board_shows_marks_and_the_numbers_of_empty_squares(axes):
    plots.board_map(axes, "X.......O", [0.25] * 9, title="Q", signed=True)
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["×", *["+0.25"] * 7, "○"]
    assert axes.get_title() == "Q"
    with pytest.raises(ValueError, match="9 characters, got 2"):
        plots.board_map(axes, "XO")
