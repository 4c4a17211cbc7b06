"""Texts from files, folders and the library ``datasets``, and openings cut by hand."""

from __future__ import annotations

import builtins
import codecs
import json
from pathlib import Path

import pytest

from rlhf_lessons.worlds import LabelledText, load_texts, split_openings

ROWS = [{"text": f"film {i} was\n<br /><br /> fine .", "label": i % 2} for i in range(20)]


def write(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_file_keeps_its_last_tenth_apart(tmp_path):
    training, held_out = load_texts(write(tmp_path / "a.jsonl", ROWS), label_column="label")
    assert training[3] == LabelledText("film 3 was fine .", True)
    assert [row.text for row in held_out] == ["film 18 was fine .", "film 19 was fine ."]
    assert len(training) == 18 and [row.label for row in held_out] == [False, True]


def test_a_folder_of_files_has_splits_and_empty_texts_are_left_out(tmp_path):
    write(tmp_path / "train.jsonl", [*ROWS, {"text": " <br />", "label": 0}])
    write(tmp_path / "test.jsonl", ROWS[:3])
    training, held_out = load_texts(tmp_path)
    assert (len(training), len(held_out)) == (20, 3)
    assert held_out[0] == LabelledText("film 0 was fine .", None)


def test_what_datasets_saved_is_read_like_a_file(tmp_path):
    datasets = pytest.importorskip("datasets", exc_type=ImportError)
    table = datasets.Dataset.from_list([{"review": r["text"], "label": r["label"]} for r in ROWS])
    splits = datasets.DatasetDict({"train": table, "test": table.select([4])})
    splits.save_to_disk(str(tmp_path / "splits"))
    training, held_out = load_texts(tmp_path / "splits", text_column="review", label_column="label")
    assert [row.label for row in training] == [bool(i % 2) for i in range(20)]
    assert held_out == [LabelledText("film 4 was fine .", False)]
    table.save_to_disk(str(tmp_path / "one"))
    assert len(load_texts(tmp_path / "one", text_column="review")[1]) == 2
    with pytest.raises(ValueError, match=r"one \(train\) must have a column 'text', got 'review'"):
        load_texts(tmp_path / "one")


def test_a_mark_and_an_array_change_nothing(tmp_path):
    path = write(tmp_path / "a.jsonl", ROWS)
    plain = load_texts(path, label_column="label")
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert load_texts(path, label_column="label") == plain
    (tmp_path / "a.json").write_bytes(codecs.BOM_UTF8 + json.dumps(ROWS, indent=1).encode())
    assert load_texts(tmp_path / "a.json", label_column="label") == plain
    (tmp_path / "a.json").write_text(json.dumps([*ROWS, 3]))
    with pytest.raises(ValueError, match=r"a\.json, row 21: expected an object"):
        load_texts(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[3, 4")
    with pytest.raises(ValueError, match=r"a\.json, line 1: cut off in the middle"):
        load_texts(tmp_path / "a.json")


def test_parquet_is_read_like_a_file(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", exc_type=ImportError)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    table = datasets.Dataset.from_list(ROWS).add_column("more", [[i] for i in range(20)])
    (tmp_path / "hub" / "data").mkdir(parents=True)
    table.to_parquet(str(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet"))
    table.to_parquet(str(tmp_path / "a.parquet"))
    plain = load_texts(write(tmp_path / "a.jsonl", ROWS), label_column="label")
    for name in ("a.parquet", "hub"):
        assert load_texts(tmp_path / name, label_column="label") == plain
    table.select([3]).to_parquet(str(tmp_path / "hub" / "data" / "test-00000-of-00001.parquet"))
    training, held_out = load_texts(tmp_path / "hub")
    assert len(training) == 20 and held_out == [LabelledText("film 3 was fine .", None)]
    with pytest.raises(ValueError, match="column 'review', got 'text', 'label', 'more'"):
        load_texts(tmp_path / "a.parquet", text_column="review")


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([{"review": "a"}] * 2, "must have a column 'text', got 'review'"),
        ([{"text": "a"}] * 2, r"\(train\) must have a column 'label', got 'text'"),
        (
            [{"text": "a", "label": 1}, {"text": "b"}],
            "line 2: expected a column 'label', got 'text'",
        ),
        ([{"text": 3, "label": 1}] * 2, "line 1: expected a text in 'text', got 3"),
        ([{"text": "a", "label": "good"}] * 2, "line 1: expected 0 .* or 1 .* got 'good'"),
        ([{"text": "a", "label": 1}], "must hold at least 2 texts, got 1"),
        ([], "must hold at least 2 texts, got 0"),
        (["a"], "line 1: expected an object"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path, rows, match):
    with pytest.raises(ValueError, match=match):
        load_texts(write(tmp_path / "a.jsonl", rows), label_column="label")


def test_a_broken_line_is_named_by_its_number(tmp_path):
    path = write(tmp_path / "a.jsonl", ROWS)
    path.write_text(path.read_text() + "{cut")
    with pytest.raises(
        ValueError, match=r"a\.jsonl, line 21: cut off in the middle: no valid JSON"
    ):
        load_texts(path)


@pytest.mark.parametrize("lines", [['{"label": 1}', "{cut", "3"], ["{cut", "3", '{"label": 1}']])
def test_the_first_of_several_bad_lines_is_named(tmp_path, lines):
    good = '{"text": "fine .", "label": 1}'
    (tmp_path / "a.jsonl").write_text("\n".join([good, "", *lines, good]) + "\n")
    with pytest.raises(ValueError, match=r"a\.jsonl, line 3: "):
        load_texts(tmp_path / "a.jsonl")


def test_what_is_not_there_is_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        load_texts(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"must hold train\.jsonl"):
        load_texts(tmp_path)
    write(tmp_path / "test.jsonl", ROWS)
    with pytest.raises(ValueError, match=r"must have a split 'train', got \['test'\]"):
        load_texts(tmp_path)

    found = builtins.__import__

    def without_datasets(name, *rest, **named):
        if name == "datasets":
            raise ModuleNotFoundError("No module named 'datasets'", name="datasets")
        return found(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without_datasets)
    with pytest.raises(ModuleNotFoundError, match="pip install datasets"):
        load_texts("imdb")


def test_a_hub_out_of_reach_is_named(monkeypatch):
    datasets = pytest.importorskip("datasets", exc_type=ImportError)

    def unreachable(name):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(OSError, match="could not load the data set 'imdb' .* hub: no route$"):
        load_texts("imdb")


def test_openings_by_hand():
    """One token a word: where each prompt ends is drawn, all else follows."""
    texts = [
        "a b c d e f g h i . j k l m n o p q r s t u v w x y z .",
        "a b c d e f g h i j k l m n o p q r s t u v w x y z no end",
        "a b",
        "a b c d e f g h i .",
    ]
    ends = [[i for i, c in enumerate(t + " ") if c == " "] for t in texts]
    seen = set()
    for seed in range(40):
        found = split_openings(texts, ends, 9, seed)
        assert len(found) == 2  # no sentence of the second ends in time, the third is an opening
        for (prompt, response), text in zip(found, (texts[0], texts[3]), strict=True):
            seen.add(len(prompt.split()))
            assert text.startswith(prompt + response) and response[0] == " "
            assert prompt + response == "a b c d e f g h i ."
    assert seen == {2, 3, 4, 5, 6, 7, 8}
    # Two openings of 2 leave 8 tokens to the full stop, which 8 new tokens, the end one of them,
    # do not hold.
    short = [split_openings(texts[3:] * 50, ends[3:] * 50, 8, seed=0)]
    assert {len(p.split()) for p, _ in short[0]} == {3, 4, 5, 6, 7, 8}
    with pytest.raises(ValueError, match="max_new_tokens = 9 tokens after the opening, got none"):
        split_openings(texts[1:3], ends[1:3], 9, seed=0)
