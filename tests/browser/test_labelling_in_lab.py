"""Labelling as a learner does it: keys in JupyterLab, a closed tab, opened again."""

from __future__ import annotations

import pytest
from jupyter_page import contrast, luminance

from rlhf_lessons.worlds import load_preferences

PAIRS = """
from rlhf_lessons.classroom.labelling import label_pairs_by_hand
label_pairs_by_hand(
    ["p .", "q .", "r ."], ["a a", "c c", "e e"], ["b b", "d d", "f f"], {path!r},
    caption="Choose the better one.",
)
"""
RANKS = """
from rlhf_lessons.classroom.labelling import rank_by_hand
rank_by_hand(["p .", "q ."], [["a a", "b b", "c c"], ["d d", "e e", "f f"]], {path!r})
"""


def started(notebook):
    notebook.run_cell(0)
    task = notebook.output(0).locator(".rlhf-lessons-labelling")
    task.wait_for()
    return task


def shows(task, text):
    task.get_by_text(text, exact=False).first.wait_for()


def test_pairs_by_keyboard(notebook_of, tmp_path):
    path = tmp_path / "labels.jsonl"
    notebook = notebook_of(PAIRS.format(path=str(path)))
    task = started(notebook)
    shows(task, "0 of 3")
    task.locator(".rlhf-lessons-keys").focus()
    notebook.page.keyboard.press("ArrowRight")
    shows(task, "1 of 3")
    shows(task, "c c")
    assert load_preferences(path) == [("p .", "b b", "a a")]
    notebook.page.keyboard.press("t")
    shows(task, "2 of 3")
    notebook.page.keyboard.press("u")
    shows(task, "1 of 3")
    # After a click the keys still work, though the focus is on a button.
    task.locator("button.rlhf-lessons-answer-left").click()
    shows(task, "2 of 3")
    notebook.page.keyboard.press("ArrowLeft")
    shows(task, "3 of 3")
    shows(task, "All pairs are answered.")
    assert load_preferences(path) == [
        ("p .", "b b", "a a"),
        ("q .", "c c", "d d"),
        ("r .", "e e", "f f"),
    ]
    assert task.locator("button.rlhf-lessons-answer-left").is_disabled()


def test_a_closed_tab_loses_nothing(notebook_of, tmp_path):
    path = tmp_path / "labels.jsonl"
    notebook = notebook_of(PAIRS.format(path=str(path)))
    task = started(notebook)
    task.locator(".rlhf-lessons-keys").focus()
    notebook.page.keyboard.press("ArrowLeft")
    shows(task, "1 of 3")
    notebook.page.reload()
    again = notebook_of(PAIRS.format(path=str(path)))
    shows(started(again), "1 of 3")
    assert load_preferences(path) == [("p .", "a a", "b b")]


def test_ranking_by_numbers(notebook_of, tmp_path):
    path = tmp_path / "ranks.jsonl"
    notebook = notebook_of(RANKS.format(path=str(path)))
    task = started(notebook)
    task.locator(".rlhf-lessons-keys").focus()
    notebook.page.keyboard.press("3")
    shows(task, "place 1")
    notebook.page.keyboard.press("1")
    shows(task, "1 of 2")
    assert load_preferences(path) == [
        ("p .", "c c", "a a"),
        ("p .", "c c", "b b"),
        ("p .", "a a", "b b"),
    ]


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_the_bar_is_as_full_as_it_looks(notebook_of, tmp_path, theme):
    notebook = notebook_of(PAIRS.format(path=str(tmp_path / "labels.jsonl")), theme=theme)
    page, bar = notebook.page, ".rlhf-lessons-labelling [role=progressbar]"
    task = started(notebook)
    shows(task, "0 of 3")

    def share():
        return page.evaluate(
            """bar => {
                const [frame, full] = [bar, bar.firstChild].map(e => e.getBoundingClientRect());
                return full.width / (frame.width - 2);
            }""",
            page.query_selector(bar),
        )

    assert share() == 0
    # What is not done yet looks like the page, in a frame that stands out from it.
    assert luminance(page, bar, "ground") == luminance(page, ".rlhf-lessons-labelling", "ground")
    assert contrast(page, bar, "borderColor") >= 3.0
    task.locator(".rlhf-lessons-keys").focus()
    for done in (1, 2, 3):
        page.keyboard.press("ArrowRight")
        shows(task, f"{done} of 3")
        assert abs(share() - done / 3) < 0.01
        assert task.get_by_role("progressbar").get_attribute("aria-valuenow") == str(done)
    done, left = (luminance(page, f"{bar}{part}", "ground") for part in (" > span", ""))
    assert (max(done, left) + 0.05) / (min(done, left) + 0.05) >= 3.0


RATINGS = """
from rlhf_lessons.classroom import rate_by_hand
rate_by_hand(
    ["a warm and clever film", "two dull hours", "it is set in tokyo"],
    [2.5, -3.0, 2.0], [2.0, -1.5, 0.5], caption="How does the reviewer like the film?",
)
"""


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_ratings_by_keyboard_meet_people_and_judge(notebook_of, theme):
    notebook = notebook_of(RATINGS, theme=theme)
    task = started(notebook)
    shows(task, "0 of 3")
    task.locator(".rlhf-lessons-keys").focus()
    notebook.page.keyboard.press("9")
    shows(task, "two dull hours")
    notebook.page.keyboard.press("5")
    shows(task, "2 of 3")
    notebook.page.keyboard.press("u")
    shows(task, "two dull hours")
    assert task.get_by_text("people").count() == 0  # nobody's rating but one's own, so far
    task.locator("button.rlhf-lessons-answer-rating-0").click()  # and by mouse: −4
    notebook.page.keyboard.press("5")
    shows(task, "you and people")
    # Deviations (4, −4, 0) and (2, −3.5, 1.5): 22 / √(32 · 18.5); distances 1.5, 1 and 2.
    shows(task, "correlation +0.90, mean distance 1.50")
    assert task.locator("td", has_text="a warm and clever film").is_visible()
    assert task.locator("button.rlhf-lessons-answer-rating-0").is_disabled()
    ground = ".rlhf-lessons-labelling"
    assert contrast(notebook.page, f"{ground} td", "color") >= 4.5
