"""Files of thumbs, read and written, and what is wrong with them named by the line."""

from __future__ import annotations

import json

import pytest

from rlhf_lessons.worlds import (
    Preference,
    PreferenceFileError,
    Thumb,
    load_thumbs,
    save_thumbs,
    thumbs_of_pairs,
)

THUMBS = [
    Thumb("Wie war’s?", "gut .", True),
    Thumb("", "two\nlines", False),
    Thumb("x", " spaced ", True),
]


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "new" / "thumbs.jsonl"
    save_thumbs(path, THUMBS)
    assert load_thumbs(path) == THUMBS
    assert len(path.read_bytes().splitlines()) == 3 and "’" in path.read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[1]) == {
        "prompt": "", "response": "two\nlines", "up": False,
    }  # fmt: skip
    save_thumbs(path, [("a", "b", 1), ["a", "c", 0]])
    loaded = load_thumbs(path)
    assert loaded == [Thumb("a", "b", True), Thumb("a", "c", False)]
    assert all(isinstance(thumb.up, bool) for thumb in loaded)


def test_the_columns_of_trl_are_read_too(tmp_path):
    rows = [{"prompt": "a", "completion": "b", "label": True, "more": 3}]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    (tmp_path / "test.json").write_text(json.dumps([{"prompt": "c", "response": "d", "up": 0}]))
    assert load_thumbs(tmp_path) == [Thumb("a", "b", True)]
    assert load_thumbs(tmp_path, split="test") == [Thumb("c", "d", False)]
    with pytest.raises(ValueError, match=r"load_thumbs: split must be one of \['test', 'train'\]"):
        load_thumbs(tmp_path, split="validation")


BAD = {
    '{"prompt": "a", "response": "b"}': "the column 'up' is missing, got ['prompt', 'response']",
    '{"prompt": "a", "up": true}': "the column 'response' is missing, got ['prompt', 'up']",
    '{"prompt": "a", "response": "b", "up": 2}': "'up' must be true or false, got 2",
    '{"prompt": "a", "response": "b", "up": 1.0}': "'up' must be true or false, got 1.0",
    '{"prompt": "a", "response": "b", "up": "yes"}': "'up' must be true or false, got 'yes'",
    '{"prompt": "a", "response": "b", "up": null}': "'up' must be true or false, got None",
    '{"prompt": 3, "response": "b", "up": true}': "'prompt' must be text, got int",
    '{"prompt": "a", "completion": ["b"], "label": true}': "'completion' must be text, got list",
    '{"prompt": "a", "response": " ", "up": true}': "the response is empty",
    '["a", "b", true]': "expected an object with prompt, response and up, got list",
    '{"prompt": "a",': "no valid JSON",
}


@pytest.mark.parametrize("line", BAD)
def test_a_bad_line_is_named_and_the_rest_can_be_kept(line, tmp_path):
    path = tmp_path / "thumbs.jsonl"
    good = '{"prompt": "a", "response": "b", "up": true}\n'
    path.write_text(good + line + "\n" + good)
    with pytest.raises(PreferenceFileError) as caught:
        load_thumbs(path)
    assert list(caught.value.problems) == [2]
    assert BAD[line] in caught.value.problems[2]
    assert f"{path}: 1 bad line\n  line 2: " in str(caught.value)
    with pytest.warns(UserWarning, match="(?s)line 2.*kept 2"):
        assert load_thumbs(path, keep_good=True) == [Thumb("a", "b", True)] * 2


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="load_thumbs: there is no file or folder"):
        load_thumbs(tmp_path / "none.jsonl")


@pytest.mark.parametrize("bad", [("a", "b"), ("a", "b", None), ("a", "", True), ("a", 3, True), 7])
def test_a_bad_record_is_not_written_and_nothing_is_lost(bad, tmp_path):
    path = tmp_path / "thumbs.jsonl"
    save_thumbs(path, THUMBS)
    with pytest.raises(ValueError, match=r"save_thumbs: thumbs must hold .* at 1"):
        save_thumbs(path, [THUMBS[0], bad])
    assert load_thumbs(path) == THUMBS
    assert list(tmp_path.iterdir()) == [path]


def test_pairs_taken_apart():
    pairs = [Preference("x", "good", "bad"), ("y", "fine", "dull")]
    assert thumbs_of_pairs(pairs) == [
        ("x", "good", True), ("x", "bad", False), ("y", "fine", True), ("y", "dull", False),
    ]  # fmt: skip
    assert thumbs_of_pairs([]) == []
    for bad in (("x", "good"), ("x", "good", None), "abc"):
        with pytest.raises(ValueError, match="thumbs_of_pairs: pairs must hold .* at 1"):
            thumbs_of_pairs([pairs[0], bad])
