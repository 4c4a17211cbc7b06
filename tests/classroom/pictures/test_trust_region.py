"""The pictures of lesson 5 hold the numbers that they were given, and the geometry is right."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest

from rlhf_lessons.classroom.pictures import trust_region
from rlhf_lessons.classroom.style import new_figure


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def lines(axes) -> dict[str, np.ndarray]:
    return {line.get_label(): line.get_xydata() for line in axes.lines}


def texts(axes) -> set[str]:
    return {text.get_text() for text in axes.texts}


def test_promise_and_truth():
    (axes,) = trust_region.draw_promise([0, 1, 2], [0.1, 0.5, 0.9], [0.1, 0.4, 0.3]).axes
    drawn = lines(axes)
    assert drawn["promised: L"].tolist() == [[0, 0.1], [1, 0.5], [2, 0.9]]
    assert drawn["true: J"].tolist() == [[0, 0.1], [1, 0.4], [2, 0.3]]
    assert texts(axes) == {"promised: L", "true: J"} and "KL" in axes.get_xlabel()


def test_a_bound_ends_where_it_leaves_the_picture():
    kls = [0.0, 0.01, 0.02]
    given = {
        "L": [-0.3, -0.2, -0.1],
        "J": [-0.3, -0.25, -0.2],
        "sharper": [-0.3, -0.3, -0.5],
        "bound": [-0.3, -0.5, -0.9],
    }
    (axes,) = trust_region.draw_lower_bound(kls, given, start=-0.3).axes
    drawn = lines(axes)
    assert drawn["bound"].tolist() == [[0.0, -0.3], [0.01, -0.5]]
    assert drawn["sharper"][:, 1].tolist() == given["sharper"]
    assert texts(axes) == {*given, "the old policy"}
    assert any(set(y) == {-0.3} for y in (line.get_ydata() for line in axes.lines))


def test_the_flat_parts_are_those_without_gradient():
    ratios = [0.5, 1.0, 1.5]
    given = {1.0: ([0.5, 1.0, 1.2], [0.5, 1.0, 0.0]), -1.0: ([-0.8, -1, -1.5], [0, -1, -1.5])}
    figure = trust_region.draw_quadrants(ratios, given, 0.2)
    good, bad = figure.axes
    nan = math.nan
    for axes, moving, flat in (
        (good, [0.5, 1.0, nan], [nan, nan, 1.2]),
        (bad, [nan, -1, -1.5], [-0.8, nan, nan]),
    ):
        drawn = lines(axes)
        np.testing.assert_array_equal(drawn["gradient ρ·A"][:, 1], moving)
        np.testing.assert_array_equal(drawn["gradient 0"][:, 1], flat)
        strip = axes.patches[0].get_bbox()
        assert (strip.x0, strip.x1) == pytest.approx((0.8, 1.2))
    assert "good" in good.get_title() and "bad" in bad.get_title()


def barycentric(points: np.ndarray) -> np.ndarray:
    """Probabilities of points of the plane, by solving three equations a point."""
    equations = np.vstack([trust_region.CORNERS.T, np.ones(3)])
    return np.linalg.solve(equations, np.vstack([points.T, np.ones(len(points))])).T


def test_outlines_lie_where_the_regions_end():
    old = np.array([0.42, 0.33, 0.25])
    hexagon = barycentric(trust_region.clip_outline(old, 0.2))
    ratios = hexagon / old
    assert np.abs(ratios - 1).max() <= 0.2 + 1e-9
    # At a corner two of the three ratios are at an end of the range.
    assert ((np.abs(np.abs(ratios - 1) - 0.2) < 1e-9).sum(-1) >= 2).all()
    oval = barycentric(trust_region.kl_outline(old, 0.02))
    kl = (old * np.log(old / oval)).sum(-1)
    assert kl == pytest.approx(np.full(73, 0.02), abs=1e-9)
    np.testing.assert_allclose(oval[0], oval[-1], atol=1e-12)


def test_the_triangle_shows_path_jump_and_levels():
    grid = trust_region.SIMPLEX_GRID
    inside = (grid >= 0).all(-1)
    assert grid.sum(-1) == pytest.approx(np.ones(inside.shape))
    old, jump = np.array([0.5, 0.3, 0.2]), np.array([0.3, 0.3, 0.4])
    path = np.array([old, [0.4, 0.3, 0.3], [0.1, 0.2, 0.7]])
    figure = new_figure()
    for turn in range(2):  # the second call moves what the first one made
        drawn = trust_region.draw_simplex(
            figure, names=("a", "b", "c"), value=grid[..., 2], old=old, path=path[: 3 - turn],
            jump=jump, epsilon=0.2, delta=0.02, title=f"turn {turn}",
        )  # fmt: skip
    (axes,) = figure.axes
    assert drawn is figure and axes.get_title() == "turn 1" and {"a", "b", "c"} <= texts(axes)
    found = {name: barycentric(points) for name, points in lines(axes).items()}
    np.testing.assert_allclose(found["the path"], path[:2], atol=1e-12)
    for name, policy in (("where it ends", path[1]), ("natural step", jump), ("π_old", old)):
        np.testing.assert_allclose(found[name], [policy], atol=1e-12)
    bands = axes.images[0].get_array().filled(math.nan)
    np.testing.assert_array_equal(np.isnan(bands), ~inside)
    column = bands[:, 65]  # straight up from the middle of the base; the value grows with height
    column = column[~np.isnan(column)]
    assert (np.diff(column) >= 0).all() and column[0] == 0 and column[-1] > 0.8


def test_a_plane_for_each_size_of_batch():
    rows = [(0.0, -0.1, -0.1, -0.1), (0.2, 0.3, 0.1, 0.5)]
    figure = trust_region.draw_plane({"few": {"clip": rows}, "many": {"clip": rows, "stop": rows}})
    few, many = figure.axes
    assert lines(few)["clip"].tolist() == [[0.0, -0.1], [0.2, 0.3]]
    assert len(many.lines) == 2 and (few.get_title(), many.get_title()) == ("few", "many")
    band = few.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == (-0.1, 0.5)


def test_score_and_entropy_over_the_batches():
    scores, entropies = [(0.0, -1.0, 1.0), (2.0, 1.0, 3.0)], [(4.0, 3.0, 5.0), (1.0, 0.5, 1.5)]
    left, right = trust_region.draw_collapse({"clip": scores}, {"clip": entropies}).axes
    assert lines(left)["clip"].tolist() == [[0, 0.0], [1, 2.0]]
    assert lines(right)["clip"].tolist() == [[0, 4.0], [1, 1.0]]
    assert left.get_ylabel() == "true J" and right.get_ylabel() == "nats"
    assert left.get_legend().get_texts()[0].get_text() == "clip"


def test_bars_follow_the_policies():
    figure = new_figure()
    for share in (0.25, 0.5):
        trust_region.draw_likeliest(
            figure,
            {
                "clip": ("J -0.5", [("good (+1.0)", share), ("bad (-1.0)", 0.125)]),
                "no limit": ("J +1.5", [("great (+2.0)", 1.0), ("good (+1.0)", 0.0)]),
            },
        )
    left, right = figure.axes
    assert [bar.get_width() for bar in left.patches] == [0.5, 0.125]
    assert [bar.get_width() for bar in right.patches] == [1.0, 0.0]
    assert [label.get_text() for label in left.get_yticklabels()] == ["good (+1.0)", "bad (−1.0)"]
    assert left.get_title() == "clip\nJ −0.5"
