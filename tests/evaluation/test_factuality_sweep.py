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


def test_a_run_from_samples_to_counts(tmp_path, monkeypatch):
    """One small run through the command; the second call finds it done."""
    small = dataclasses.replace(
        factuality_sweep.SETTINGS, responses=3, answers=2, steps=6, measured=2, batch_size=4
    )
    monkeypatch.setattr(factuality_sweep, "SETTINGS", small)
    plan = (("confidence", 1, 0.1, 2.0), ("none", 0, None, None))
    monkeypatch.setattr(factuality_sweep, "PLAN", plan)
    few = {}
    for world, book in BOOKS.items():
        parts = {part: names[:4] for part, names in book.parts.items()}
        few[world] = functools.partial(dataclasses.replace, book, parts=parts)
    monkeypatch.setattr(factuality_sweep, "BOOKS", few)
    monkeypatch.setattr(
        factuality_sweep,
        "run_one",
        lambda *run, original=factuality_sweep.run_one: original(*run, settings=small),
    )
    threads = torch.get_num_threads()
    try:
        assert factuality_sweep.main(["--folder", str(tmp_path), "--seeds", "1"]) == 0
    finally:
        torch.set_num_threads(threads)
    (path,) = tmp_path.glob("*.json")
    assert path.name == "confidence_seed1_beta0.1_price2.json"
    (run,) = load_factuality_sweep(tmp_path)
    assert run.key == ("confidence", 1, 0.1, 2.0) and run.pairs > 0
    assert {len(run.counts[m][w]) for m in run.counts for w in BOOKS} == {4}
    assert run.mean("words").value > 0 and run.kl["people"][0] > 0
    written = json.loads(path.read_text(encoding="utf-8"))
    assert set(written) == {"command", "settings", "versions", "run"}
    before = path.stat().st_mtime_ns
    monkeypatch.setattr(factuality_sweep, "run_one", None)  # nothing is left to do
    assert factuality_sweep.main(["--folder", str(tmp_path), "--seeds", "1"]) == 0
    assert path.stat().st_mtime_ns == before


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
