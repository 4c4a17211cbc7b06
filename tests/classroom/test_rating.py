"""Rating without a browser: what is compared, and that no text gets into a notebook's file."""

from __future__ import annotations

import math

import pytest

from rlhf_lessons.classroom import rate_by_hand

TEXTS = ["a warm film", "a <b>dull</b> film", "an odd film", "a film"]
PEOPLE = [2.5, -3.0, 0.5, 1.0]
JUDGE = [2.0, -1.0, 0.0, 3.0]


def test_the_comparison_by_hand():
    task = rate_by_hand(TEXTS, PEOPLE, JUDGE)
    for rating in (4, -4, 0, 2):
        task.rate(rating)
    found = task.comparison()
    # You: mean 0.5, deviations 3.5, −4.5, −0.5, 1.5. People: mean 0.25, 2.25, −3.25, 0.25, 0.75.
    both = 3.5 * 2.25 + 4.5 * 3.25 - 0.5 * 0.25 + 1.5 * 0.75
    alone = math.sqrt((12.25 + 20.25 + 0.25 + 2.25) * (5.0625 + 10.5625 + 0.0625 + 0.5625))
    assert found["you and people"] == pytest.approx((both / alone, (1.5 + 1 + 0.5 + 1) / 4))
    assert found["you and the judge"][1] == pytest.approx((2 + 3 + 0 + 1) / 4)
    assert found["the judge and people"][1] == pytest.approx((0.5 + 2 + 0.5 + 2) / 4)
    assert f"correlation {both / alone:+.2f}, mean distance 1.00" in task._card.value


def test_people_and_judge_are_shown_only_when_all_are_rated():
    task = rate_by_hand(TEXTS, PEOPLE, JUDGE)
    for done in range(4):
        assert task.position == done and "judge" not in task._card.value
        assert "+2.5" not in task._card.value and "−2.5" not in task._card.value
        task._press(f"rating-{done}")
    assert task.ratings == [-4, -3, -2, -1]
    assert task.position is None and "+2.5" in task._card.value
    assert all(button.disabled for name, button in task._buttons.items() if name != "undo")
    with pytest.raises(ValueError, match="all 4 texts are rated"):
        task.rate(0)
    task._press("undo")
    assert task.ratings == [-4, -3, -2] and "judge" not in task._card.value


def test_one_number_for_all_has_no_correlation():
    task = rate_by_hand(TEXTS[:2], PEOPLE[:2], JUDGE[:2])
    task.rate(1)
    with pytest.raises(ValueError, match="at least 2 texts"):
        task.comparison()
    task.rate(1)
    alike, distance = task.comparison()["you and people"]
    assert math.isnan(alike) and distance == pytest.approx((1.5 + 4) / 2)
    assert "always the same" in task._card.value


def test_a_single_text_is_rated_without_a_comparison():
    task = rate_by_hand(TEXTS[:1], PEOPLE[:1], JUDGE[:1])
    task.rate(3)
    assert "correlation" not in task._card.value and "a warm film" in task._card.value


def test_what_a_notebook_keeps_holds_no_text():
    task = rate_by_hand(TEXTS, PEOPLE, JUDGE, caption="By your own taste.")
    kept = task._repr_mimebundle_()
    assert "image/png" not in kept and "film" not in str(kept)


def test_texts_are_no_markup():
    task = rate_by_hand(TEXTS, PEOPLE, JUDGE)
    task.rate(0)
    assert "&lt;b&gt;dull" in task._card.value and "<b>dull" not in task._card.value
    for _ in range(3):
        task.rate(0)
    assert "&lt;b&gt;dull" in task._card.value and "<b>dull" not in task._card.value


@pytest.mark.parametrize("rating", [5, -5, 0.5])
def test_other_numbers_are_named(rating):
    with pytest.raises(ValueError, match="whole number from -4 to 4"):
        rate_by_hand(TEXTS, PEOPLE, JUDGE).rate(rating)


def test_bad_lists_are_named():
    with pytest.raises(ValueError, match="4, 3 and 4"):
        rate_by_hand(TEXTS, PEOPLE[:3], JUDGE)
    with pytest.raises(ValueError, match="at least 1"):
        rate_by_hand([], [], [])
