"""The snippets come from a part that the test makes; the real ones are read where they are."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rlhf_lessons import real_parts
from rlhf_lessons.real_parts import PARTS, PartError, part_damage
from rlhf_lessons.whole_files import fingerprint
from rlhf_lessons.worlds import FilmSnippet, VaderJudge, load_snippets

LINES = [
    "1\t2.5\tA  warm and ''funny'' film for &eacute;veryone &amp; all.",
    "2\t-1.25\tnot one of its jokes works at all",
    "3\t3.0\tfar too short a text",  # five words
    "4\t-4.0\tnot one of its jokes works at all",  # a second copy
    "5\t0.5\tcaf\xe9 scenes that nobody will ever forget",
]
VADER = """
import pathlib
class SentimentIntensityAnalyzer:
    def __init__(self, lexicon_file, emoji_lexicon):
        here = pathlib.Path(__file__).parent
        self.good = (here / lexicon_file).read_text().split()
    def polarity_scores(self, text):
        return {"compound": 0.5 if any(word in text for word in self.good) else -0.5}
"""


@pytest.fixture
def part(tmp_path, monkeypatch):
    """The part of the snippets, with a few lines of our own."""
    monkeypatch.setenv("RLHF_LESSONS_CACHE", str(tmp_path))
    folder = tmp_path / "snippets"
    folder.mkdir()

    def write(lines):
        (folder / "ratings.txt").write_bytes("".join(f"{x}\r\n" for x in lines).encode("latin-1"))
        (folder / "vaderSentiment.py").write_text(VADER)
        (folder / "vader_lexicon.txt").write_text("warm love")
        files = {
            path.name: fingerprint(path) for path in folder.glob("*.*") if path.suffix != ".json"
        }
        record = {"archive": PARTS["snippets"].sha256, "files": files}
        (folder / "part.json").write_text(json.dumps(record))

    write(LINES)
    return write


def test_the_texts_are_cleaned(part):
    training, held_out = load_snippets()
    assert sorted(training + held_out) == [
        FilmSnippet('A warm and "funny" film for éveryone & all.', 2.5),
        FilmSnippet("café scenes that nobody will ever forget", 0.5),
        FilmSnippet("not one of its jokes works at all", -1.25),
    ]


def test_the_split_depends_on_nothing_but_the_text(part):
    texts = [f"film number {i} is one of a long row" for i in range(2000)]
    part([f"{i}\t{i % 5 - 2}.0\t{text}" for i, text in enumerate(texts)])
    training, held_out = load_snippets()
    # A tenth; the standard error of a share of 2,000 is 0.7 %.
    assert 140 < len(held_out) < 260 and len(training) + len(held_out) == 2000
    assert not {s.text for s in training} & {s.text for s in held_out}
    assert (training, held_out) == load_snippets()
    part([f"{i}\t1.0\t{text}" for i, text in reversed(list(enumerate(texts[:1000])))])
    fewer, held_out_of_fewer = load_snippets()
    assert {s.text for s in held_out_of_fewer} == {s.text for s in held_out} & set(texts[:1000])
    order = [texts.index(s.text) for s in fewer]
    assert abs(np.corrcoef(order, range(len(order)))[0, 1]) < 0.15  # mixed; standard error 0.03


def test_vader_reads_prompt_and_response_with_its_own_files(part):
    judge = VaderJudge()
    scores = judge(["A wa", "I "], ["rm film", "hate it"])
    assert scores.tolist() == [0.5, -0.5] and scores.shape == (2,)
    with pytest.raises(ValueError):
        judge(["one"], [])


@pytest.mark.parametrize("read", [load_snippets, VaderJudge])
def test_absent_snippets_say_how_to_fetch_them(tmp_path, monkeypatch, read):
    monkeypatch.setenv("RLHF_LESSONS_CACHE", str(tmp_path))
    with pytest.raises(PartError, match="python -m rlhf_lessons real get snippets"):
        read()


def test_changed_code_of_vader_is_never_run(part, tmp_path):
    (tmp_path / "snippets" / "vaderSentiment.py").write_text("raise SystemExit" + " " * 999)
    with pytest.raises(PartError, match="was changed"):
        VaderJudge()


@pytest.mark.skipif(bool(part_damage("snippets")), reason="the real snippets were not fetched")
def test_the_real_snippets():
    training, held_out = load_snippets()
    assert (len(training), len(held_out)) == (9036, 1005)
    ratings = np.array([snippet.rating for snippet in training + held_out])
    assert -4 <= ratings.min() and ratings.max() <= 4
    assert 0.45 < (ratings > 0).mean() < 0.55
    assert not any("&" in s.text and ";" in s.text.split("&")[1][:8] for s in training)
    scores = VaderJudge()([""] * len(held_out), [snippet.text for snippet in held_out])
    # 0.47; the standard error on 1,005 is 0.025.
    assert 0.4 < np.corrcoef(scores, [snippet.rating for snippet in held_out])[0, 1] < 0.55
    assert real_parts.part_folder("snippets").name == "snippets"
