from __future__ import annotations

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

from rlhf_lessons.classroom import style
from rlhf_lessons.classroom.pictures import factuality
from rlhf_lessons.evaluation import Estimate, calibration


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def points(line) -> list[tuple[float, float]]:
    return [tuple(map(float, point)) for point in line.get_xydata()]


def test_an_answer_is_marked_sentence_by_sentence():
    sentences = [("right", "was born in 1950 ."), ("unreadable", "she <b> ."), ("wrong", "she .")]
    page = factuality.marked_answer("ada & co", sentences).data
    assert (
        page.index("✓ was born in 1950 .") < page.index("~ she &lt;b&gt; .") < page.index("✗ she")
    )
    assert "<b>ada &amp; co</b>" in page
    assert len({ground for ground in page.split("background:")[1:] if ground}) == 3


def test_knowledge_is_drawn_with_its_interval():
    bins = [(3, Estimate(0.2, 0.05, 10)), (100, Estimate(0.9, 0.01, 10))]
    figure = factuality.draw_knowledge({"asked": bins, "told": bins[:1]})
    (axes,) = figure.axes
    asked, told = axes.lines
    assert points(asked) == [(3, 0.2), (100, 0.9)] and points(told) == [(3, 0.2)]
    corners = axes.collections[0].get_paths()[0].get_extents()
    assert corners.y0 == pytest.approx(0.2 - 1.96 * 0.05, abs=1e-3)
    assert corners.y1 == pytest.approx(0.9 + 1.96 * 0.01, abs=1e-3)
    assert [text.get_text() for text in axes.texts] == ["asked", "told"]
    assert axes.get_xscale() == "log"


def test_confidence_has_roc_left_and_calibration_right():
    bins = calibration([0.1, 0.1, 0.9, 0.9], [False, True, True, True], bins=5)
    roc = {"people": ([0, 0, 1], [0, 0.5, 1])}
    figure = factuality.draw_confidence(roc, {"people": 0.75}, {"people": bins})
    left, right = figure.axes
    assert points(left.lines[0]) == [(0, 0), (0, 0.5), (1, 1)]
    # Three of the five bins are empty and leave no gap.
    assert np.allclose(right.lines[0].get_xydata(), [(0.1, 0.5), (0.9, 1.0)])
    assert left.get_legend().texts[0].get_text() == "people: 0.75"
    assert all(points(axes.lines[1]) == [(0, 0), (1, 1)] for axes in figure.axes)


def test_what_is_said_follows_the_threshold():
    figure = style.new_figure()
    claims = [("town: x", 0.9, True), ("year: y", 0.3, False), ("prize: z", 0.0, True)]
    kept = ([0.0, 0.5, 1.0], [2, 1, 0], [1, 0, 0])
    for threshold in (0.1, 0.5):
        factuality.draw_threshold(figure, threshold, "ada", claims, kept)
    bars, totals = figure.axes
    assert [text.get_text() for text in bars.texts] == [
        "✓ town: x", "✗ year: y  (left out)", "✓ prize: z  (left out)",
    ]  # fmt: skip
    assert [bar.get_width() for bar in bars.patches] == [0.9, 0.3, 0.01]
    assert [bar.get_alpha() for bar in bars.patches] == [1.0, 0.25, 0.25]
    assert [bool(bar.get_hatch()) for bar in bars.patches] == [False, True, False]
    assert [line.get_xdata()[0] for line in (bars.lines[0], totals.lines[2])] == [0.5, 0.5]
    assert [points(line) for line in totals.lines[:2]] == [
        [(0, 2), (0.5, 1), (1, 0)], [(0, 1), (0.5, 0), (1, 0)],
    ]  # fmt: skip
    assert len(totals.lines) == 3  # the threshold moved, it was not drawn again


def test_each_policy_stands_at_wrong_and_right():
    sft, tuned = ((1.2, 1.0, 1.4), (1.6, 1.5, 1.8)), ((0.5, 0.4, 0.6), (1.9, 1.8, 2.0))
    figure = factuality.draw_right_wrong(
        {"people": {"SFT": sft, "tuned": tuned}, "drugs": {"SFT": tuned, "tuned": sft}},
        {"people": ([1.2, 0.0], [1.6, 0.1]), "drugs": ([0.5, 0.0], [1.9, 0.2])},
    )
    left, right = figure.axes
    for axes, places in ((left, [(1.2, 1.6), (0.5, 1.9)]), (right, [(0.5, 1.9), (1.2, 1.6)])):
        assert [points(bar.lines[0]) for bar in axes.containers] == [[place] for place in places]
    across, upwards = left.containers[0].lines[2]  # the two bars of SFT's interval
    assert np.allclose(across.get_segments()[0], [(1.0, 1.6), (1.4, 1.6)])
    assert np.allclose(upwards.get_segments()[0], [(1.2, 1.5), (1.2, 1.8)])
    assert points(left.lines[0]) == [(1.2, 1.6), (0.0, 0.1)]
    names = [text.get_text() for text in figure.legends[0].texts]
    assert names == ["SFT above a threshold", "SFT", "tuned"]
    assert left.get_xlim()[0] == left.get_ylim()[0] == 0


def test_a_policy_is_drawn_beside_the_one_before_it():
    figure = style.new_figure()
    before = {"right": 1.5, "wrong": 1.2, "hedged": 1.0, "unreadable": 0.2}
    for wrong in (0.9, 0.4):
        means = {**before, "wrong": wrong}
        said = [("right", "a ."), ("hedged", f"{wrong} .")]
        factuality.draw_policy(figure, means, before, f"KL {wrong}", "ada", said)
    panel, text = figure.axes
    assert [bar.get_width() for bar in panel.patches] == [1.5, 0.4, 1.0, 0.2]
    ticks = [group.get_segments()[0][0][0] for group in panel.collections]
    assert ticks == [1.5, 1.2, 1.0, 0.2]
    assert [word.get_text() for word in panel.texts] == ["1.50", "0.40", "1.00", "0.20"]
    assert panel.get_title(loc="left") + panel.get_title() == "KL 0.4"
    assert [word.get_text() for word in text.texts] == ["ada ...\n✓ a .\n? 0.4 ."]
    assert len({to_hex(bar.get_facecolor()) for bar in panel.patches}) == 4


def test_fame_is_drawn_over_the_population():
    bins = [(1e6, Estimate(0.2, 0.05, 10)), (1e8, Estimate(0.9, 0.01, 10))]
    (axes,) = factuality.draw_fame({"capital": bins}).axes
    assert points(axes.lines[0]) == [(1e6, 0.2), (1e8, 0.9)] and axes.get_xscale() == "log"
    assert axes.get_xlim()[0] < 1e6 and "population" in axes.get_xlabel()


def test_what_policies_say_fills_a_bar_each():
    def shares(right, hedged, unreadable, wrong):
        values = {"right": right, "hedged": hedged, "unreadable": unreadable, "wrong": wrong}
        return {name: (value, value - 0.05, value + 0.05) for name, value in values.items()}

    bars = {"before": shares(0.4, 0.0, 0.1, 0.5), "tuned": shares(0.35, 0.4, 0.05, 0.2)}
    figure = factuality.draw_said({"capital": bars, "currency": bars})
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == ("capital", "currency")
    widths = [bar.get_width() for bar in left.patches]
    assert widths == pytest.approx([0.4, 0.0, 0.1, 0.5, 0.35, 0.4, 0.05, 0.2])
    assert [bar.get_x() for bar in left.patches[4:]] == pytest.approx([0, 0.35, 0.75, 0.8])
    ends = [
        path.vertices[:, 0].tolist() for lines in left.collections for path in lines.get_paths()
    ]
    assert ends[2] == pytest.approx([0.3, 0.4])  # right, from the left end
    assert ends[3] == pytest.approx([0.75, 0.85])  # wrong, from the right end
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["right", "hedged", "unreadable", "wrong"]


def test_where_policies_hedge_is_a_line_each():
    lines = {"right before": [0.1, 0.9], "tuned": [0.8, 0.2]}
    panels = {"capital": ([0.2, 0.7], lines), "currency": ([0.3, 0.6], lines)}
    figure = factuality.draw_hedging(panels)
    left, right = figure.axes
    assert points(left.lines[1]) == [(0.2, 0.8), (0.7, 0.2)]
    assert points(right.lines[0]) == [(0.3, 0.1), (0.6, 0.9)]
    assert (left.get_title(), right.get_title()) == ("capital", "currency")
    assert {label.get_text() for label in left.texts} == set(lines)
