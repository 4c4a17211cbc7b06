from __future__ import annotations

import numpy as np
import pytest

from rlhf_lessons.evaluation.real_confidence import (
    agreement_confidence,
    choose_confidence,
    confidence_report,
    knowledge_table,
    likelihood_confidence,
    pooled_answers,
    real_claims,
)
from rlhf_lessons.evaluation.real_knowledge import AskedFact, RealAnswer


def fact(subject, answers, sampled, held_out=False, population=1_000_000):
    """(verdict, claim) of three phrasings, and temperature -> three rows of claims."""
    said = tuple(RealAnswer("...", *answer, -float(i)) for i, answer in enumerate(answers))
    return AskedFact("capital", subject, population, held_out, said, sampled)


R, W, H = ("right", "r"), ("wrong", "w"), ("hedge", None)
KNOWN = fact("a", (R, R, H), {0.5: (("r", "r"), ("r", None), ("r", "w")), 1.0: (("w", "r"),) * 3})
MADE_UP = fact("b", (W, R, W), {0.5: (("w", "x"), ("y", "z"), ("r", None)), 1.0: (("w", "w"),) * 3})


def test_claims_leave_hedges_out_and_keep_their_place():
    found = real_claims([KNOWN, MADE_UP])
    assert found.subjects == ["a", "a", "b", "b", "b"]
    assert [claim.value for claim in found.claims] == ["r", "r", "w", "r", "w"]
    assert found.right.tolist() == [True, True, False, True, False]
    assert found.phrasing.tolist() == [0, 1, 0, 1, 2] == (-found.log_probs).tolist()
    with pytest.raises(ValueError, match="must hold an answer that claims something"):
        real_claims([fact("a", (H, H, H), {})])


def test_confidence_is_the_share_of_all_pooled_answers():
    assert pooled_answers([KNOWN], 0.5, 2) == {("a", "capital"): {"r": 4, None: 1, "w": 1}}
    assert pooled_answers([KNOWN], 0.5, 1) == {("a", "capital"): {"r": 3}}
    found = agreement_confidence([KNOWN, MADE_UP], 0.5, 2)
    assert found == pytest.approx([4 / 6, 4 / 6, 1 / 6, 1 / 6, 1 / 6])
    for temperature, samples in ((0.7, 1), (0.5, 3), (0.5, 0)):
        with pytest.raises(ValueError, match=f"got {samples} at {temperature}; there are"):
            pooled_answers([KNOWN], temperature, samples)


def test_the_best_area_is_chosen_and_of_equal_ones_the_fewest_samples():
    """At 0.5 the wrong claims get less than the right ones already by one sample; at 1 more."""
    facts = [
        fact("a", (R, R, R), {0.5: (("r", "r"),) * 3, 1.0: (("w", "r"),) * 3}),
        fact("b", (W, W, W), {0.5: (("x", "w"),) * 3, 1.0: (("w", "w"),) * 3}),
    ]
    assert choose_confidence(facts) == (0.5, 1)
    facts[1].sampled[0.5] = (("w", "x"),) * 3  # one sample says nothing, two do
    assert choose_confidence(facts) == (0.5, 2)
    with pytest.raises(ValueError, match="no held-out facts"):
        choose_confidence([fact("c", (R, R, R), {}, held_out=True)])


def test_the_report_by_hand_and_over_countries():
    p = [0.9, 0.9, 0.1, 0.3, 0.9, 0.1]
    right = [True, True, False, True, False, False]
    report = confidence_report(p, right, list("aabbcc"), bins=5)
    # Of nine couples six and a half... (0.9, 0.9): tie with the wrong 0.9; above both 0.1.
    assert report.area[0] == pytest.approx((2 * (0.5 + 1 + 1) + (0 + 1 + 1)) / 9)
    gaps = 3 * abs(2 / 3 - 0.9) + 2 * 0.1 + 1 * 0.7
    assert report.error[0] == pytest.approx(gaps / 6) and report.count == 6
    assert report.right == (0.5, 0.0, 1.0)  # a is always right, b half, c never
    with pytest.raises(ValueError, match=r"must be as many, got \(6,\), \(6,\) and 5"):
        confidence_report(p, right, list("aabbc"))
    with pytest.raises(ValueError, match="got 6 true and 0 false"):
        confidence_report(p, [True] * 6, list("aabbcc"))


def test_intervals_over_countries_are_wider_than_over_claims():
    random = np.random.default_rng(0)
    known = random.random(60) < 0.5
    p = np.repeat(np.clip(known * 0.4 + random.random(60) * 0.6, 0, 1), 3)
    right = np.repeat(known, 3)
    subjects = np.repeat(np.arange(60), 3).tolist()
    _, low, high = confidence_report(p, right, subjects).area
    _, inner_low, inner_high = confidence_report(p, right, range(180)).area
    assert (high - low) > 1.4 * (inner_high - inner_low)


def test_the_table_has_each_figure(monkeypatch):
    facts = [
        fact(f"{i}{out}", (R, R, W) if i % 3 else (W, W, W),
             {0.5: (("r", "w"),) * 3 if i % 3 else (("w", "x"),) * 3}, out, 10**6 + i)
        for i in range(8) for out in (False, True)
    ]  # fmt: skip
    told = knowledge_table(facts, bins=2).splitlines()
    assert told[0] == "capital: 16 countries"
    assert told[1] == "  phrasing 0: right 10, wrong 6" and told[3] == "  phrasing 2: wrong 16"
    assert told[4].endswith("wrong in another: 10")
    assert told[5].startswith("  median population     1,000,002: right 0.3")
    assert "confidence by 1 answers a phrasing at temperature 0.5" in told[7]
    starts = [line.split(": AUROC")[0].strip() for line in told[8:]]
    assert starts == [
        f"{part}, 24 claims, {measure}"
        for part in ("chosen on", "held out") for measure in ("agreement", "likelihood")
    ]  # fmt: skip


def test_likelihood_is_that_of_the_words():
    assert likelihood_confidence([KNOWN, MADE_UP]) == pytest.approx(
        np.exp([0.0, -1.0, 0.0, -1.0, -2.0])
    )
