"""Files of examples and prompts, read and written, and what is wrong with them."""

from __future__ import annotations

import json

import pytest

from rlhf_lessons.worlds import (
    Example,
    PreferenceFileError,
    load_examples,
    load_prompts,
    save_examples,
)

EXAMPLES = [Example("Wie war’s?", "gut ."), Example("", "two\nlines"), Example("x", " spaced ")]


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "new" / "examples.jsonl"
    save_examples(path, [tuple(EXAMPLES[0]), list(EXAMPLES[1]), EXAMPLES[2]])
    assert load_examples(path) == EXAMPLES
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[1]) == {
        "prompt": "", "response": "two\nlines",
    }  # fmt: skip
    assert load_prompts(path) == ["Wie war’s?", "", "x"]


def test_the_columns_of_trl_and_splits_are_read_too(tmp_path):
    rows = [{"prompt": "a", "completion": "b", "more": 3}, {"response": "d", "prompt": "a"}]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    (tmp_path / "test.jsonl").write_text('{"prompt": "c"}\n')
    assert load_examples(tmp_path) == [Example("a", "b"), Example("a", "d")]
    assert load_prompts(tmp_path) == ["a", "a"]
    assert load_prompts(tmp_path, split="test") == ["c"]
    with pytest.raises(ValueError, match=r"load_prompts: split must be one of \['test', 'train'\]"):
        load_prompts(tmp_path, split="validation")


BAD = {
    '{"prompt": "a"}': "the column 'response' is missing, got ['prompt']",
    '{"response": "a"}': "the column 'prompt' is missing, got ['response']",
    '{"prompt": 3, "response": "b"}': "the column 'prompt' must be text, got int",
    '{"prompt": "a", "completion": ["b"]}': "the column 'completion' must be text, got list",
    '["a", "b"]': "expected an object with prompt, got list",
    '{"prompt": "a",': "no valid JSON",
}


def test_every_bad_line_is_named(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "a", "response": "b"}\n' + "\n".join(BAD))
    with pytest.raises(PreferenceFileError) as error:
        load_examples(path)
    assert list(error.value.problems) == list(range(2, 2 + len(BAD)))
    for message, said in zip(BAD.values(), error.value.problems.values(), strict=True):
        assert message in said


def test_nothing_is_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="load_prompts: .* must hold at least one row, got none"):
        load_prompts(tmp_path / "empty.jsonl")
    with pytest.raises(FileNotFoundError, match="load_examples: there is no file or folder"):
        load_examples(tmp_path / "none.jsonl")


@pytest.mark.parametrize("bad", [("a",), ("a", None), "ab", ("a", "b", "c")])
def test_what_is_no_example_is_not_written(tmp_path, bad):
    path = tmp_path / "examples.jsonl"
    save_examples(path, EXAMPLES[:1])
    with pytest.raises(ValueError, match=r"must hold \(prompt, response\) of str, got .* at 1"):
        save_examples(path, [EXAMPLES[1], bad])
    assert load_examples(path) == EXAMPLES[:1]
