"""Preference files: nothing bad gets in unseen, nothing good gets lost."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_lessons.worlds import (
    Preference,
    PreferenceFileError,
    append_preferences,
    drop_equal_pairs,
    load_preferences,
    ranking_to_pairs,
    save_preferences,
)

GOOD = [Preference("p .", "good .", "bad ."), Preference("q .", "über “x” .", "mist\nline .")]
TEXT = st.text().map("x".__add__)  # any characters, line separators too, but never empty


@given(st.lists(st.tuples(TEXT, TEXT, TEXT.map("y".__add__))))
def test_what_is_saved_comes_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("files") / "labels.jsonl"
    save_preferences(path, rows)
    assert load_preferences(path) == [Preference(*row) for row in rows]


def test_the_file_is_one_json_object_a_line_with_three_columns(tmp_path):
    save_preferences(tmp_path / "x.jsonl", GOOD)
    lines = (tmp_path / "x.jsonl").read_text().split("\n")
    assert lines.pop() == ""
    assert [json.loads(line) for line in lines] == [record._asdict() for record in GOOD]


def test_datasets_reads_the_file(tmp_path):
    datasets = pytest.importorskip("datasets")
    save_preferences(tmp_path / "x.jsonl", GOOD)
    table = datasets.load_dataset(
        "json", data_files=str(tmp_path / "x.jsonl"), split="train", cache_dir=str(tmp_path)
    )
    assert table.column_names == ["prompt", "chosen", "rejected"]
    assert table[1] == GOOD[1]._asdict()


BAD_LINES = [
    ("{", "no valid JSON"),
    ("[1, 2]", "expected an object"),
    ('{"prompt": "p", "chosen": "c"}', "the column 'rejected' is missing"),
    ('{"prompt": "p", "chosen": 3, "rejected": "r"}', "'chosen' must be text, got int"),
    ('{"prompt": "p", "chosen": " ", "rejected": "r"}', "'chosen' is empty"),
    ('{"prompt": "p", "chosen": "same", "rejected": "same"}', "chosen equals rejected"),
]


@pytest.mark.parametrize(("line", "problem"), BAD_LINES)
def test_a_bad_line_is_named_by_its_number(tmp_path, line, problem):
    path = tmp_path / "x.jsonl"
    save_preferences(path, GOOD)
    path.write_text(path.read_text() + "\n" + line + "\n")  # an empty line counts, and is no fault
    with pytest.raises(PreferenceFileError, match="1 bad line") as caught:
        load_preferences(path)
    assert list(caught.value.problems) == [4]
    assert problem in caught.value.problems[4]
    assert "line 4: " in str(caught.value)


def test_the_rest_is_kept_only_when_asked(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("nonsense\n")
    append_preferences(path, GOOD)
    with pytest.raises(PreferenceFileError):
        load_preferences(path)
    with pytest.warns(UserWarning, match="line 1: no valid JSON(.|\n)*kept 2"):
        assert load_preferences(path, keep_good=True) == GOOD


def test_a_file_cut_in_the_middle_says_so_and_loses_nothing(tmp_path):
    path = tmp_path / "x.jsonl"
    save_preferences(path, GOOD)
    cut = path.read_bytes()[:-12]
    path.write_bytes(cut)
    with pytest.raises(PreferenceFileError, match="line 2: cut off in the middle"):
        load_preferences(path)
    append_preferences(path, [Preference("r .", "a", "b")])
    assert path.read_bytes().startswith(cut + b"\n")
    with pytest.warns(UserWarning, match="kept 2"):
        assert load_preferences(path, keep_good=True) == [GOOD[0], Preference("r .", "a", "b")]


def test_a_file_of_another_world_is_noticed(tmp_path):
    path = tmp_path / "x.jsonl"
    save_preferences(path, [Preference("p .", "good", "bad"), Preference("p .", "aspirin", "bad")])
    with pytest.raises(PreferenceFileError, match="line 2: 'aspirin' is no word of this world"):
        load_preferences(path, vocabulary={"p", ".", "good", "bad"})


def test_equal_pairs_are_dropped_on_request(tmp_path):
    rows = [GOOD[0], Preference("p", "same", "same"), GOOD[1]]
    save_preferences(tmp_path / "x.jsonl", rows)
    assert load_preferences(tmp_path / "x.jsonl", drop_equal=True) == GOOD
    assert drop_equal_pairs(rows) == (GOOD, [1])


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.jsonl"
    save_preferences(path, GOOD)
    with pytest.raises(ValueError):
        save_preferences(path, [GOOD[0], ("only", "two")])
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_preferences(path, GOOD[:1])
    assert load_preferences(path) == GOOD
    assert os.listdir(tmp_path) == ["x.jsonl"]


def test_an_appended_bad_record_changes_nothing(tmp_path):
    path = tmp_path / "x.jsonl"
    save_preferences(path, GOOD)
    with pytest.raises(ValueError):
        append_preferences(path, [GOOD[0], ("only", "two")])
    assert load_preferences(path) == GOOD


def test_a_ranking_becomes_all_its_pairs():
    assert ranking_to_pairs("p", ["a", "b", "c"]) == [
        ("p", "a", "b"),
        ("p", "a", "c"),
        ("p", "b", "c"),
    ]
    assert len(ranking_to_pairs("p", list("abcdefg"))) == 21


@pytest.mark.parametrize("ranked", [[], ["a"], "ab"])
def test_a_ranking_needs_two(ranked):
    with pytest.raises(ValueError, match="at least 2 responses"):
        ranking_to_pairs("p", ranked)


def test_a_ranking_with_a_repeat_is_refused():
    with pytest.raises(ValueError, match="must not repeat a response, got 'b' 2 times"):
        ranking_to_pairs("p", ["a", "b", "c", "b"])
