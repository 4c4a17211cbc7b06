"""What the pictures of lesson 3 show is what they were given."""

from __future__ import annotations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from rlhf_lessons.classroom import style
from rlhf_lessons.classroom.pictures import reward_modeling as pictures
from rlhf_lessons.evaluation import BestOfNCurve

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def words(axes) -> set[str]:
    """The labels at the ends of lines and other texts inside the axes."""
    return {text.get_text() for text in axes.texts}


def best_of_n(height: float) -> BestOfNCurve:
    n = np.array([1, 4, 16])
    kl = np.array([0.0, 1.0, 4.0])
    return BestOfNCurve(n, kl + 0.25, kl, kl + height, kl - height, kl / 10, np.ones((2, 3)))


def test_a_slider_moves_the_curve_of_choices():
    figure = style.new_figure()
    for half in (0.4, 0.6):
        assert pictures.draw_preference(figure, [-1, 1], [half, 0.9], f"at {half}") is figure
    (axes,) = figure.axes
    assert list(axes.lines[0].get_ydata()) == [0.6, 0.9]
    assert list(axes.lines[0].get_xdata()) == [-1, 1]
    assert axes.get_title(loc="left") == "at 0.6" or axes.get_title() == "at 0.6"
    assert "gold reward" in axes.get_xlabel() and axes.get_ylim() == (0, 1)


def test_accuracy_is_the_mean_over_seeds_with_its_range():
    values = np.array([[0.5, 0.6, 0.7], [0.7, 0.8, 0.75]])
    figure = pictures.draw_accuracy_by_pairs([300, 1000], {"labels": values}, 0.9, (1000, 0.65))
    (axes,) = figure.axes
    line, diamond, ceiling = axes.lines
    assert line.get_ydata() == pytest.approx([0.6, 0.75])
    corners = axes.collections[0].get_paths()[0].vertices
    assert {(300, 0.5), (300, 0.7), (1000, 0.7), (1000, 0.8)} <= set(map(tuple, corners.tolist()))
    assert diamond.get_xydata().tolist() == [[1000, 0.65]]
    assert set(ceiling.get_ydata()) == {0.9}
    assert {"labels", "Bayes ceiling of the labels"} <= words(axes)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["300", "1,000"]


def test_calibration_stands_beside_the_diagonal():
    bins = {"sure": ([0.1, 0.9], [0.4, 0.6]), "calm": ([0.4, 0.6], [0.3, 0.7])}
    (axes,) = pictures.draw_calibration(bins).axes
    diagonal, *lines = axes.lines
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [0, 1]
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in lines}
    assert drawn == bins and words(axes) == set(bins)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("stated probability", "observed share")


def test_each_way_marks_what_it_chooses():
    places = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    figure = pictures.draw_chosen(places, {"best": [2], "spread": [0, 2]})
    for panel, rows in zip(figure.axes, ([2], [0, 2]), strict=True):
        everything, marked = panel.collections
        assert everything.get_offsets().tolist() == places.tolist()
        assert marked.get_offsets().tolist() == places[rows].tolist()
    assert figure.axes[0].get_ylabel() == "latent 2"


def test_measured_kl_stands_beside_its_bound():
    measured = {"50 pairs": [0.0, 0.8], "500 pairs": [0.0, 0.9]}
    (axes,) = pictures.draw_best_of_n_kl([1, 4], [0.0, 1.0], measured).axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert drawn == {"log n − (n − 1)/n": [0.0, 1.0]} | {
        f"measured, {name}": kl for name, kl in measured.items()
    }
    assert {text.get_text() for text in axes.get_legend().texts} == set(drawn)
    assert axes.get_xscale() == "log" and axes.get_ylabel() == "KL (nats)"


def test_over_optimisation_is_drawn_over_the_root_of_the_kl():
    figure = pictures.draw_over_optimisation({"50 pairs": best_of_n(1.0)}, best_of_n(0.0))
    proxy, gold = figure.axes
    assert proxy.lines[0].get_xdata().tolist() == [0.0, 1.0, 2.0]
    assert proxy.lines[0].get_ydata().tolist() == [1.0, 2.0, 5.0]
    assert gold.lines[0].get_ydata().tolist() == [-1.0, 0.0, 3.0]
    assert gold.lines[1].get_xdata() == pytest.approx([0.5, 1.25**0.5, 4.25**0.5])
    assert gold.lines[1].get_ydata().tolist() == [0.0, 1.0, 4.0]
    corners = gold.collections[0].get_paths()[0].vertices[:, 1]
    assert corners.max() == pytest.approx(3 + 1.96 * 0.4)
    assert words(proxy) == {"50 pairs"} and words(gold) == {"50 pairs", "gold itself"}


def test_a_slider_moves_the_line_of_n_and_shows_the_response_whole():
    figure = style.new_figure()
    text = " ".join(["a word that is long"] * 8)
    for here, heights in ((0.5, [0, 1, 2]), (1.5, [0, 3, 4])):
        lines = {"proxy": heights, "gold": [0, 0, here]}
        pictures.draw_best_of_n(figure, [0, 1, 2], lines, here, "kept of 9", text)
    (axes,) = figure.axes
    proxy, gold, now = axes.lines
    assert list(proxy.get_ydata()) == [0, 3, 4] and list(gold.get_ydata()) == [0, 0, 1.5]
    assert list(now.get_xdata()) == [1.5, 1.5]
    title = axes.get_title(loc="left") or axes.get_title()
    assert title.split("\n")[0] == "kept of 9"
    assert " ".join(title.split("\n")[1:]) == text and len(title.split("\n")) == 3


def test_a_short_response_takes_one_line():
    figure = style.new_figure()
    pictures.draw_best_of_n(figure, [0, 1], {"proxy": [0, 1]}, 0.0, "kept", "good .")
    (axes,) = figure.axes
    assert (axes.get_title(loc="left") or axes.get_title()) == "kept\ngood ."


def test_people_stand_on_one_axis_and_each_judge_on_its_own():
    people = [-3.0, 0.5, 2.0]
    judges = {"people-judge": [-2.0, 0.1, 1.5], "vader": [0.3, 0.2, 0.9]}
    figure = pictures.draw_people(people, judges)
    for panel, (name, scores) in zip(figure.axes, judges.items(), strict=True):
        points = panel.collections[0].get_offsets()
        assert points[:, 0].tolist() == people and points[:, 1].tolist() == scores
        assert name in (panel.get_title(loc="left"), panel.get_title())
        assert panel.get_xlabel() == "people's mean rating"
        assert [set(line.get_ydata()) for line in panel.lines][0] == {0}
