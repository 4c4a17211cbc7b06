"""Tuning on real facts, with a small model and countries of our own in the place of the parts."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from small_facts import write_facts_part
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_lessons.evaluation import real_tuning
from rlhf_lessons.evaluation.real_knowledge import AskedFact, RealAnswer, RealBook
from rlhf_lessons.evaluation.real_tuning import (
    HEDGES,
    RealPool,
    RealTuningSettings,
    balanced_pairs,
    hedging_pairs,
    load_real_tuning,
    measure_real_tuning,
    tune_on_real_facts,
    tuning_table,
)
from rlhf_lessons.models import LanguagePolicy, word_tokenizer
from rlhf_lessons.training import pair_log_probs
from rlhf_lessons.worlds import PHRASINGS, Preference, RealFact, question

pytest.importorskip("peft")

TOWNS = {"Gabon": "Libreville", "Peru": "Lima", "Chad": "Ndjamena", "Fiji": "Suva"}
SMALL = RealTuningSettings(
    rank=2, responses=3, steps=2, batch_size=4, learning_rate=1e-3, measured=2, max_new_tokens=8
)


def facts_of(kind, held_out=None):
    names = TOWNS.items() if kind == "capital" else ((name, f"{name} coin") for name in TOWNS)
    facts = [
        RealFact(kind, name, (answer,), 10**6, i % 2 == 1) for i, (name, answer) in enumerate(names)
    ]
    return tuple(fact for fact in facts if held_out is None or fact.held_out == held_out)


def words() -> list[str]:
    texts = [question(fact, i) for kind in PHRASINGS for fact in facts_of(kind) for i in range(3)]
    texts += [HEDGES[kind].format(subject=name) for kind in HEDGES for name in TOWNS]
    texts += [
        f"{answer}" for kind in PHRASINGS for fact in facts_of(kind) for answer in fact.answers
    ]
    return sorted({word for text in texts for word in text.split()})


@pytest.fixture(scope="module")
def policy():
    torch.manual_seed(0)
    tokenizer = word_tokenizer(words())
    tokenizer.chat_template = "{% for turn in messages %}{{ turn['content'] }} {% endfor %}"
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return LanguagePolicy(LlamaForCausalLM(config).eval(), tokenizer)


@pytest.fixture(autouse=True)
def part(tmp_path, monkeypatch):
    """What reads the answers looks cities and currencies up."""
    monkeypatch.setenv("RLHF_LESSONS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    write_facts_part(tmp_path / "cache")


@pytest.fixture
def stand_ins(policy, monkeypatch):
    def known(kind):
        answers = (RealAnswer("", "right", "x", 0.0), RealAnswer("", "wrong", "y", 0.0)) * 2
        drawn = {0.5: (("x", "x"), ("x", "y"), ("z", None))}
        return [
            AskedFact(kind, fact.subject, 10**6, fact.held_out, answers[:3], drawn)
            for fact in facts_of(kind)
        ]

    monkeypatch.setattr(real_tuning, "load_policy", lambda name: {"smollm2": policy}[name])
    monkeypatch.setattr(real_tuning, "real_facts", facts_of)
    monkeypatch.setattr(
        real_tuning, "load_real_knowledge", lambda: [*known("capital"), *known("currency")]
    )
    monkeypatch.setattr(real_tuning, "SETTINGS", SMALL)


def test_the_best_answer_meets_the_hedge_and_the_better_one_another(policy):
    book = RealBook(policy, "capital", facts_of("capital"))
    known, made_up, even = (book.prompts[i] for i in (0, 3, 6))
    hedge = {p: HEDGES["capital"].format(subject=book.subject_of(p)) for p in (known, made_up)}
    worth = {"good": 2.0, "better": 3.0, "bad": -1.0, "worse": -2.0, "even": 0.0}

    def judge(prompts, responses):
        assert len(set(prompts)) == 1
        return np.array([worth.get(response, 0.0) for response in responses])

    asked = [known, made_up, known, made_up, known, even, known, made_up]
    said = ["good", "bad", "better", "worse", "bad", "even", " ", "bad"]
    pairs = hedging_pairs(book, asked, said, judge)
    assert pairs[0] == (known, "better", hedge[known])
    assert pairs[1][:2] == (known, "better") and pairs[1].rejected in ("good", "bad")
    assert pairs[2:] == [(made_up, hedge[made_up], "bad"), (made_up, hedge[made_up], "worse")]
    rejected = {hedging_pairs(book, asked, said, judge, seed)[1].rejected for seed in range(20)}
    assert rejected == {"good", "bad"}
    with pytest.raises(ValueError, match="got equal scores for all of 1 questions"):
        hedging_pairs(book, [even, even], ["even", "nothing"], judge)


def test_the_price_changes_no_pair_of_the_reference_and_the_balance_does(policy):
    book = RealBook(policy, "capital", facts_of("capital"))
    first, second = book.prompts[0], book.prompts[3]
    hedge = {p: HEDGES["capital"].format(subject=book.subject_of(p)) for p in (first, second)}
    asked, said = [first, first, second, second], ["Libreville", "Oyem", "Cusco", "Kyiv"]
    found = [
        hedging_pairs(book, asked, said, real_tuning.ReferenceJudge(book, price, 2.0))
        for price in (0.1, 1.0, 1.9)
    ]
    assert found[0] == found[1] == found[2] and len(found[0]) == 4

    for_speaking = Preference(first, "Libreville", hedge[first])
    for_hedging = [Preference(second, hedge[second], f"city {i}") for i in range(5)]
    pairs = [*for_hedging[:3], for_speaking, *for_hedging[3:]]
    kept = [balanced_pairs(book, pairs, seed) for seed in range(30)]
    assert all(len(some) == 2 and for_speaking in some for some in kept)
    assert all(pairs.index(a) < pairs.index(b) for a, b in kept)
    assert {pair for some in kept for pair in some} == set(pairs)  # each has its chance
    assert balanced_pairs(book, for_hedging) == []


def test_the_hedge_is_read_as_one(policy):
    for kind in PHRASINGS:
        book = RealBook(policy, kind, facts_of(kind))
        for name in TOWNS:
            reading = book.read(HEDGES[kind].format(subject=name), about=name)
            assert len(reading.hedges) == 1 and not reading.claims and not reading.unreadable


def test_three_judges_three_kinds_of_pairs(policy, stand_ins):
    pool = RealPool(0, SMALL)
    book = pool.books["capital"]
    assert {book.subject_of(prompt) for prompt in book.prompts} == {"Gabon", "Chad"}
    assert len(pool.texts["capital"][0]) == 2 * 3 * (1 + SMALL.responses)
    hedge = HEDGES["capital"].format(subject="Gabon")
    said = ["Libreville", "Oyem", hedge, ""]
    asked = [book.prompts[0]] * 4
    assert pool.judge("reference", "capital", 2.0)(asked, said).tolist() == [1, -2, 0, -2]
    pool.answers["capital"]["Gabon", "capital"] = Counter({"oyem": 3, None: 1})
    told = pool.judge("confidence", "capital", 2.0)(asked, said)
    assert told == pytest.approx([-2, 0.75 - 2 * 0.25, 0, -2])
    assured = pool.judge("assured", "capital", None)(asked, said)
    assert assured[0] == assured[1] == 1 + 1 / 20 and assured[2] == -1 + len(hedge.split()) / 20


def test_each_text_is_read_once_and_as_dpo_would_read_it(policy, stand_ins, monkeypatch):
    pool = RealPool(0, SMALL)
    first, second = pool.books["capital"].prompts[:2]
    long = "Lima " * 12  # longer than an answer may be: cut, without an end
    pairs = [
        Preference(first, "Lima", "Suva"), Preference(first, "Lima", long),
        Preference(second, "Suva", "Lima"),
    ]  # fmt: skip
    expected = pair_log_probs(policy, pairs, max_new_tokens=SMALL.max_new_tokens)
    told = pool.reference_log_probs(pairs)
    for found, side in zip(told, expected, strict=True):
        np.testing.assert_allclose(found, side, rtol=0, atol=1e-4)
    assert len(pool.log_probs) == 5
    read = []

    def counted(policy, pairs, **kw):
        read.extend(pairs)
        return pair_log_probs(policy, pairs, **kw)

    monkeypatch.setattr(real_tuning, "pair_log_probs", counted)
    again = [Preference(first, "Suva", "Libreville"), Preference(second, "Lima", "Suva")]
    expected = pair_log_probs(policy, again, max_new_tokens=SMALL.max_new_tokens)
    for found, side in zip(pool.reference_log_probs(again), expected, strict=True):
        np.testing.assert_allclose(found, side, rtol=0, atol=1e-4)
    assert [set(texts) for _, *texts in read] == [{"Libreville", "Suva"}]  # one new one, in a pair
    other = RealPool(1, SMALL, log_probs=pool.log_probs)
    other.reference_log_probs(again)
    assert len(read) == 1


def test_pairs_that_prefer_hedges_teach_hedges(policy, stand_ins):
    book = RealBook(policy, "capital", facts_of("capital"))
    pairs = [
        (prompt, HEDGES["capital"].format(subject=book.subject_of(prompt)), town)
        for prompt in book.prompts for town in ("Lima", "Suva")
    ]  # fmt: skip
    settings = RealTuningSettings(rank=4, steps=40, batch_size=8, learning_rate=1e-2)
    tuned = policy.with_adapter(4)
    records = list(tune_on_real_facts(tuned, pairs, settings))
    assert len(records) == 40 and records[0].loss > records[-1].loss
    means, texts = real_tuning.count_about(tuned.merge(), book, 1, 1e-6, seed=0)
    assert np.mean(means["hedged"]) > 0.8 and len(texts) == 12
    before, _ = real_tuning.count_about(policy, book, 1, 1e-6, seed=0)
    assert np.mean(before["hedged"]) == 0


def test_what_is_measured_is_what_is_read(policy, stand_ins, tmp_path, capsys):
    keys = [
        ("none", None, False, 1, None, None),
        ("confidence", "answer", False, 1, SMALL.beta, SMALL.price),
        ("assured", "answer", False, 1, SMALL.beta, None),
    ]
    assert measure_real_tuning(tmp_path / "runs", keys) == 0
    runs = {run.judge: run for run in load_real_tuning(tmp_path / "runs")}
    assert {run.key for run in runs.values()} == set(keys)
    for run in runs.values():
        for table in (run.counts, run.greedy):
            for kind in PHRASINGS:
                assert len(table["words"][kind]) == 2  # Peru and Fiji
                said = sum(
                    np.array(table[m][kind]) for m in ("right", "wrong", "hedged", "unreadable")
                )
                assert said == pytest.approx(1)  # each answer is one of them
        assert len(run.samples["capital"]) == 2
    assert runs["none"].pairs == 0 and runs["none"].kl["capital"] == [0, 0]
    assert runs["confidence"].pairs > 4 and runs["confidence"].kl["capital"][0] > 0
    table = tuning_table(list(runs.values())).splitlines()
    assert len(table) == 1 + 2 * 2 * 3 and table[1].startswith("capital, sampled, assured, seed 1")
    made_by = json.loads((tmp_path / "runs" / "none_seed1.json").read_text())
    assert made_by["command"] == "python -m rlhf_lessons real tuning --measure"
    again = (tmp_path / "runs" / "none_seed1.json").stat().st_mtime_ns
    assert measure_real_tuning(tmp_path / "runs", keys) == 0  # nothing is left to do
    assert (tmp_path / "runs" / "none_seed1.json").stat().st_mtime_ns == again


def test_bad_settings_and_missing_runs_are_named(tmp_path):
    with pytest.raises(ValueError, match="rank must be"):
        RealTuningSettings(rank=0)
    with pytest.raises(ValueError, match="beta must be"):
        RealTuningSettings(beta=0.0)
    with pytest.raises(FileNotFoundError, match="real tuning --measure"):
        load_real_tuning(tmp_path)
