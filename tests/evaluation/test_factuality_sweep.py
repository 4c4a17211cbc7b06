"""The sweep behind lesson 7: its plumbing, and that the committed runs are whole."""

from __future__ import annotations

import dataclasses
import functools
import json

import pytest
import torch

from rlhf_lessons import formulas
from rlhf_lessons.evaluation import (
    FactualityRun,
    anchored_dpo_loss,
    factuality_sweep,
    load_factuality_sweep,
    sample_about,
    take_turns,
)
from rlhf_lessons.models import load_policy
from rlhf_lessons.worlds import drug_encyclopedia, people_encyclopedia

BOOKS = {"people": people_encyclopedia(), "drugs": drug_encyclopedia()}


def test_the_anchor_adds_the_chosen_log_prob():
    logs = [-torch.rand(5, dtype=torch.float64, requires_grad=True) * 20 for _ in range(2)]
    fixed = [-torch.rand(5, dtype=torch.float64) * 20 for _ in range(2)]
    plain = formulas.dpo_loss(*logs, *fixed, 0.3)
    anchored = anchored_dpo_loss(0.25)(*logs, *fixed, 0.3)
    torch.testing.assert_close(anchored, plain - 0.25 * logs[0])
    torch.testing.assert_close(anchored_dpo_loss(0.0)(*logs, *fixed, 0.3), plain)
    with pytest.raises(ValueError, match="anchored_dpo_loss: anchor must be 0 or more, got -1"):
        anchored_dpo_loss(-1)


def test_samples_stand_side_by_side_and_follow_their_seed():
    policy, book = load_policy("facts-sft"), BOOKS["drugs"]
    names = book.parts["validation"][:3]
    prompts, responses = sample_about(policy, book, names, 2, seed=1, max_new_tokens=12)
    assert prompts == [book.prompt(name) for name in names for _ in range(2)]
    again = sample_about(policy, book, names, 2, seed=1, max_new_tokens=12)
    assert (prompts, responses) == again
    assert responses != sample_about(policy, book, names, 2, seed=2, max_new_tokens=12)[1]


class Loop:
    """Notes its name at each step."""

    def __init__(self, name, steps, seen):
        self.name, self.steps, self.seen = name, steps, seen

    def __iter__(self):
        for step in range(self.steps):
            self.seen.append(self.name)
            yield step


def test_loops_take_turns():
    seen = []
    a, b, c = (iter(Loop(name, steps, seen)) for name, steps in (("a", 3), ("b", 9), ("c", 1)))
    assert list(take_turns(a, b, c)) == [0, 1, 2]
    assert "".join(seen) == "abcabab"  # b and c stop with a
    assert list(take_turns(iter(Loop("d", 2, seen)))) == [0, 1]


@pytest.fixture
def small(monkeypatch):
    """A plan of three short runs about four subjects of each part."""
    settings = dataclasses.replace(
        factuality_sweep.SETTINGS, responses=4, answers=2, steps=4, measured=2, batch_size=4
    )
    monkeypatch.setattr(factuality_sweep, "SETTINGS", settings)
    plan = (
        ("confidence", "sentence", True, 1, 0.1, 2.0),
        ("reference", "answer", False, 1, 0.1, 2.0),
        ("none", None, False, 0, None, None),
    )
    monkeypatch.setattr(factuality_sweep, "PLAN", plan)
    few = {}
    for world, book in BOOKS.items():
        parts = {part: names[:4] for part, names in book.parts.items()}
        few[world] = functools.partial(dataclasses.replace, book, parts=parts)
    monkeypatch.setattr(factuality_sweep, "BOOKS", few)


def test_runs_from_samples_to_counts(tmp_path, monkeypatch, small, capsys):
    """Two small runs through the command; the second call finds them done, the third refuses."""
    command = ["--folder", str(tmp_path), "--seeds", "1"]
    assert factuality_sweep.main(command) == 0
    runs = load_factuality_sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "confidence_sentences_beta0.1_price2_rehearsed_seed1.json",
        "reference_answers_beta0.1_price2_seed1.json",
    }
    assert [run.key for run in runs] == list(factuality_sweep.PLAN[:2])
    for run in runs:
        assert {len(run.counts[m][w]) for m in run.counts for w in BOOKS} == {4}
        assert run.pairs > 0 and run.mean("words").value > 0 and run.kl["people"][0] > 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    monkeypatch.setattr(factuality_sweep, "run_one", None)  # nothing is left to do
    assert factuality_sweep.main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    changed = dataclasses.replace(factuality_sweep.SETTINGS, steps=5)
    monkeypatch.setattr(factuality_sweep, "SETTINGS", changed)
    assert factuality_sweep.main(command) == 1
    assert "made with other settings: steps (" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps must be a whole number ≥ 1, got 0"),
        ({"anchor": -0.1}, "anchor must be a finite number ≥ 0, got -0.1"),
        ({"beta": 0.0}, "beta must be a finite number > 0, got 0.0"),
    ],
)
def test_a_setting_out_of_range_is_named(wrong, message):
    with pytest.raises(ValueError, match=f"FactualitySettings: {message}"):
        dataclasses.replace(factuality_sweep.SETTINGS, **wrong)


def test_no_runs_say_how_to_make_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="make them: python -m rlhf_lessons.evaluation"):
        load_factuality_sweep(tmp_path)


# -- The committed runs ----------------------------------------------------------------------------

RUNS = load_factuality_sweep()


def test_every_run_of_the_plan_is_there_once():
    assert sorted(map(str, (run.key for run in RUNS))) == sorted(map(str, factuality_sweep.PLAN))


@pytest.mark.parametrize("run", RUNS, ids=lambda run: "-".join(map(str, run.key)))
def test_a_run_counts_every_held_out_subject(run: FactualityRun):
    for world, book in BOOKS.items():
        held_out = book.parts["held out"]
        for measure in factuality_sweep.MEASURES:
            assert len(run.counts[measure][world]) == len(held_out)
        facts = [
            sum(pair)
            for pair in zip(run.counts["right"][world], run.counts["hedged"][world], strict=True)
        ]
        assert max(facts) <= 2 * len(book.relations)
        assert len(run.samples[world]) == factuality_sweep.SHOWN


def test_the_runs_were_made_with_the_settings_of_the_code():
    expected = dataclasses.asdict(factuality_sweep.SETTINGS)
    for path in factuality_sweep.FOLDER.glob("*.json"):
        assert json.loads(path.read_text(encoding="utf-8"))["settings"] == expected
