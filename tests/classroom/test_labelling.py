"""Labelling without a browser: every answer is on disk, nothing is asked twice, nothing is lost."""

from __future__ import annotations

import pytest

from rlhf_lessons.classroom.labelling import (
    label_pairs_by_hand,
    rank_by_hand,
    ties_path,
    what_it_learned,
)
from rlhf_lessons.worlds import Preference, load_preferences, save_preferences

PROMPTS = ["p .", "q .", "r ."]
FIRSTS = ["a", "c", "e"]
SECONDS = ["b", "d", "f"]


def pairs(path, **kw):
    return label_pairs_by_hand(PROMPTS, FIRSTS, SECONDS, path, **kw)


def test_each_answer_is_on_disk_at_once(tmp_path):
    path = tmp_path / "new" / "labels.jsonl"
    task = pairs(path)
    assert not path.exists() and (task.done, task.total, task.position) == (0, 3, 0)
    task.choose("left")
    assert load_preferences(path) == [("p .", "a", "b")]
    task.choose("right")
    assert load_preferences(path) == [("p .", "a", "b"), ("q .", "d", "c")] == task.labels
    task.choose("tie")
    assert load_preferences(path) == task.labels
    assert load_preferences(ties_path(path)) == [("r .", "e", "f")]
    assert (task.done, task.position, task.ties) == (3, None, 1)
    with pytest.raises(ValueError, match="all 3 pairs are answered"):
        task.choose("left")


def test_opening_again_goes_on_where_it_stopped(tmp_path):
    path = tmp_path / "labels.jsonl"
    task = pairs(path)
    task.choose("right")
    task.choose("tie")
    again = pairs(path)
    assert (again.done, again.position, again.ties) == (2, 2, 1)
    assert again.labels == [("p .", "b", "a")]
    swapped = label_pairs_by_hand(PROMPTS, SECONDS, FIRSTS, path)
    assert swapped.labels == [("p .", "b", "a")]  # the file knows texts, not sides


def test_undo_takes_the_last_answer_back_also_after_reopening(tmp_path):
    path = tmp_path / "labels.jsonl"
    task = pairs(path)
    task.undo()  # nothing to take back
    for verdict in ("left", "right", "tie"):
        task.choose(verdict)
    task = pairs(path)
    task.undo()
    assert load_preferences(ties_path(path)) == [] and task.position == 2
    task.undo()
    assert load_preferences(path) == [("p .", "a", "b")] and task.position == 1
    task.choose("left")
    assert load_preferences(path) == [("p .", "a", "b"), ("q .", "c", "d")]


def test_labels_of_other_pairs_stay_in_the_file(tmp_path):
    path = tmp_path / "labels.jsonl"
    other = Preference("z .", "x", "y")
    save_preferences(path, [other])
    task = pairs(path)
    assert task.done == 0 and "beside 1 labels of other pairs" in task._status.value
    task.choose("left")
    task.undo()
    assert load_preferences(path) == [other]


def test_a_file_cut_in_the_middle_is_refused_and_unchanged(tmp_path):
    path = tmp_path / "labels.jsonl"
    pairs(path).choose("left")
    damaged = path.read_bytes() + b'{"prompt": "q .", "cho'
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="line 2: cut off(.|\n)*Nothing was changed"):
        pairs(path)
    assert path.read_bytes() == damaged
    with pytest.warns(UserWarning, match="kept 1 good lines.*labels.jsonl.damaged-1"):
        task = pairs(path, keep_good=True)
    assert task.labels == [("p .", "a", "b")] == load_preferences(path)
    assert (tmp_path / "labels.jsonl.damaged-1").read_bytes() == damaged


def test_a_file_of_another_world_is_refused(tmp_path):
    path = tmp_path / "labels.jsonl"
    save_preferences(path, [Preference("p .", "aspirin", "b")])
    with pytest.raises(ValueError, match="'aspirin' is no word of this world"):
        pairs(path, vocabulary=set("p q r . a b c d e f".split()))


def test_equal_and_repeated_pairs_are_asked_once_or_never(tmp_path):
    task = label_pairs_by_hand(
        ["p", "p", "p"], ["a", "b", "c"], ["b", "a", "c"], tmp_path / "x.jsonl"
    )
    assert task.total == 1
    with pytest.raises(ValueError, match="at least one pair of different"):
        label_pairs_by_hand(["p"], ["a"], ["a"], tmp_path / "x.jsonl")
    with pytest.raises(ValueError, match="equally many, got 1, 2 and 1"):
        label_pairs_by_hand(["p"], ["a", "b"], ["a"], tmp_path / "x.jsonl")
    with pytest.raises(ValueError, match="left, right or tie, got 'both'"):
        task.choose("both")


def test_buttons_answer_and_a_full_disk_is_said(tmp_path, monkeypatch):
    task = pairs(tmp_path / "labels.jsonl")
    task._buttons["left"].click()
    assert task.labels == [("p .", "a", "b")]

    def full(path, records):
        raise OSError("No space left on device")

    monkeypatch.setattr("rlhf_lessons.classroom.labelling.append_preferences", full)
    task._buttons["right"].click()
    assert "Not saved: OSError: No space left" in task._status.value
    assert task.done == 1 and task.position == 1  # asked again, not forgotten


def test_text_is_shown_as_text(tmp_path):
    task = label_pairs_by_hand(["<b>p"], ["<i>a"], ["b & c"], tmp_path / "x.jsonl")
    assert "&lt;b&gt;p" in task._prompt.value
    assert "&lt;i&gt;a" in task._left.value and "b &amp; c" in task._right.value


def test_it_holds_a_picture_for_readers_without_a_kernel(tmp_path):
    bundle = pairs(tmp_path / "x.jsonl", caption="Choose.")._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert bundle["text/plain"] == "p .\nleft: a\nright: b\nChoose."


GROUPS = [["a", "b", "c"], ["d", "e", "f"]]


def test_a_ranking_is_saved_as_its_pairs(tmp_path):
    path = tmp_path / "ranks.jsonl"
    task = rank_by_hand(["p", "q"], GROUPS, path)
    task.pick(2)
    assert not path.exists()
    task.pick(3)
    assert load_preferences(path) == [("p", "b", "c"), ("p", "b", "a"), ("p", "c", "a")]
    assert (task.done, task.position) == (1, 1)
    assert rank_by_hand(["p", "q"], GROUPS, path).position == 1
    task.pick(1)
    with pytest.raises(ValueError, match=r"one of \[2, 3\], got 1"):
        task.pick(1)
    task.undo()
    task.pick(3)
    task.pick(2)
    assert task.labels == load_preferences(path)
    assert task.labels[3:] == [("q", "f", "e"), ("q", "f", "d"), ("q", "e", "d")]
    with pytest.raises(ValueError, match="all 2 groups are ranked"):
        task.pick(1)


def test_undo_opens_the_last_ranking_again(tmp_path):
    path = tmp_path / "ranks.jsonl"
    task = rank_by_hand(["p", "q"], GROUPS, path)
    for number in (1, 2, 1, 2):
        task.pick(number)
    task = rank_by_hand(["p", "q"], GROUPS, path)
    assert task.position is None
    task.undo()
    assert task.position == 1 and len(load_preferences(path)) == 3
    task.undo()
    task.undo()
    assert task.position == 0 and load_preferences(path) == []


def test_half_a_ranking_in_the_file_is_asked_again_and_replaced(tmp_path):
    path = tmp_path / "ranks.jsonl"
    save_preferences(path, [("p", "a", "b"), ("z", "x", "y")])
    task = rank_by_hand(["p"], GROUPS[:1], path)
    assert task.position == 0
    task.pick(3)
    task.pick(2)
    assert load_preferences(path)[0] == ("z", "x", "y")
    assert load_preferences(path)[1:] == [("p", "c", "b"), ("p", "c", "a"), ("p", "b", "a")]


@pytest.mark.parametrize(
    ("prompts", "groups", "message"),
    [
        ([], [], "at least one text"),
        (["p"], GROUPS, "one list for each of the 1 prompts, got 2"),
        (["p", "q"], [["a", "b"], ["c"]], r"equally many, got \[1, 2\]"),
        (["p"], [["a", "b", "a"]], "must all differ, got a repeat in 0"),
    ],
)
def test_bad_groups_are_named(tmp_path, prompts, groups, message):
    with pytest.raises(ValueError, match=message):
        rank_by_hand(prompts, groups, tmp_path / "x.jsonl")


def test_what_it_learned_shows_both_ends():
    def judge(prompts, responses):
        return [float(len(text)) for text in responses]

    assert what_it_learned(judge, [""] * 3, ["bb", "a", "cccc"], 1).split("\n") == [
        "likes most",
        "  +4.00  cccc",
        "likes least",
        "  +1.00  a",
    ]
    with pytest.raises(ValueError, match="3 finite scores"):
        what_it_learned(lambda p, r: [float("nan")] * 3, [""] * 3, ["a", "b", "c"])
    with pytest.raises(ValueError, match="count must be 1 to 1, got 3"):
        what_it_learned(judge, [""], ["a"])
