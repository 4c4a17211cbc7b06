"""Best-of-n against brute force: every choice of n out of a small pool."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_lessons.evaluation import best_of_n, best_of_n_curve, measured_best_of_n_kl
from rlhf_lessons.formulas import best_of_n_kl
from rlhf_lessons.models import LanguagePolicy
from rlhf_lessons.models.small_gpt2 import small_gpt2
from rlhf_lessons.models.tokenizer import word_tokenizer


@pytest.fixture(scope="module")
def policy() -> LanguagePolicy:
    tokenizer = word_tokenizer(("good", "bad", "."))
    model = small_gpt2(len(tokenizer), width=16, layers=1, heads=2, context=12, seed=1)
    return LanguagePolicy(model, tokenizer)


def goods(prompts, responses):
    return np.array([response.split().count("good") for response in responses], dtype=float)


def test_it_keeps_the_best_of_those_it_drew(policy):
    prompts = ["good .", "bad ."]
    got = best_of_n(policy, prompts, goods, 20, generator=torch.Generator().manual_seed(0))
    assert got.prompts == ("good .", "bad .")
    assert got.candidate_scores.shape == (2, 20)
    for i in range(2):
        counts = [text.split().count("good") for text in got.candidates[i]]
        assert counts == got.candidate_scores[i].tolist()
        assert got.scores[i] == max(counts) > np.mean(counts)
        assert got.responses[i] == got.candidates[i][counts.index(max(counts))]


def test_one_of_one_is_a_plain_sample(policy):
    got = best_of_n(policy, ["good ."] * 3, goods, 1, generator=torch.Generator().manual_seed(4))
    plain = policy.sample(["good ."] * 3, 9, generator=torch.Generator().manual_seed(4))
    assert got.responses == plain.responses


def test_batches_hold_every_prompt(policy):
    asked = []

    def judge(prompts, responses):
        asked.extend(prompts)
        return torch.zeros(len(responses))

    got = best_of_n(policy, ["good .", "bad ."], judge, 5, max_new_tokens=2, batch_size=3)
    assert asked == ["good ."] * 5 + ["bad ."] * 5
    assert [len(own) for own in got.candidates] == [5, 5]


def test_bad_input_is_named(policy):
    with pytest.raises(ValueError, match="prompts must hold at least one"):
        best_of_n(policy, [], goods, 2)
    with pytest.raises(ValueError, match="n must be an int ≥ 1, got 0"):
        best_of_n(policy, ["good ."], goods, 0)
    with pytest.raises(ValueError, match="must return 2 finite scores, .* NaN"):
        best_of_n(policy, ["good ."], lambda p, r: np.full(len(r), np.nan), 2)
    with pytest.raises(ValueError, match="must return 2 finite scores, got shape"):
        best_of_n(policy, ["good ."], lambda p, r: np.zeros((2, 1)), 2)


pools = st.lists(
    st.tuples(st.integers(0, 4), st.floats(-3, 3)), min_size=1, max_size=7
)  # few proxy values, so ties happen


@given(pools, st.data())
def test_the_curve_is_the_mean_over_every_choice(pool, data):
    n = data.draw(st.integers(1, len(pool)))
    proxy, gold = np.array(pool).T
    got = best_of_n_curve(proxy[None], gold[None], [n])
    expected = []
    for choice in combinations(range(len(pool)), n):
        best = max(proxy[i] for i in choice)
        # Equal proxies share the mean of all who have it: the pool's order must not matter.
        expected.append((best, gold[proxy == best].mean()))
    assert got.proxy[0] == pytest.approx(np.mean([p for p, _ in expected]))
    assert got.gold[0] == pytest.approx(np.mean([g for _, g in expected]))
    assert got.kl_bound[0] == best_of_n_kl(n)


def test_the_ends_of_the_curve():
    random = np.random.default_rng(0)
    proxy, gold = random.normal(size=(2, 3, 1000))
    got = best_of_n_curve(proxy, gold, [1, 1000])
    assert got.gold[0] == pytest.approx(gold.mean())
    assert got.proxy[1] == pytest.approx(proxy.max(1).mean())
    best = [gold[i, proxy[i].argmax()] for i in range(3)]
    assert got.gold[1] == pytest.approx(np.mean(best))
    assert got.gold_error[1] == pytest.approx(np.std(best, ddof=1) / np.sqrt(3))
    assert got.gold_by_prompt == pytest.approx(np.stack([gold.mean(1), best], axis=1))
    assert np.isnan(got.kl).all()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=5), st.integers(1, 4))
def test_the_measured_kl_by_enumeration(scores, n):
    """Draw every n-tuple with replacement, keep the best (ties by a fair coin), sum the KL."""
    size = len(scores)
    kept = np.zeros(size)
    for draw in product(range(size), repeat=n):
        best = max(scores[i] for i in draw)
        winners = [i for i in draw if scores[i] == best]
        for i in winners:
            kept[i] += 1 / len(winners) / size**n
    expected = sum(q * np.log(q * size) for q in kept if q > 0)
    assert measured_best_of_n_kl([str(i) for i in range(size)], scores, n) == pytest.approx(
        expected, abs=1e-12
    )
    assert expected <= best_of_n_kl(n) + 1e-12


def test_the_bound_is_met_where_no_two_tie():
    scores = np.random.default_rng(0).permutation(100_000)
    for n in (1, 4, 16):
        got = measured_best_of_n_kl([""] * 100_000, scores, n)
        assert got == pytest.approx(best_of_n_kl(n), abs=1e-3)
    assert measured_best_of_n_kl([""] * 50, [7.0] * 50, 16) == 0


def test_the_curve_measures_the_kl_of_every_prompt():
    proxy = np.array([[0.0, 1.0, 2.0, 3.0], [5.0, 5.0, 5.0, 5.0]])
    texts = [list("abcd"), list("aaaa")]
    got = best_of_n_curve(proxy, proxy, [1, 3], texts)
    expected = measured_best_of_n_kl(texts[0], proxy[0], 3) / 2
    assert got.kl == pytest.approx([0, expected])


def test_bad_pools_are_named():
    ones = np.ones((2, 3))
    with pytest.raises(ValueError, match="n_values must lie in 1 to N = 3, got 4"):
        best_of_n_curve(ones, ones, [4])
    with pytest.raises(ValueError, match=r"shape \(P, N\)"):
        best_of_n_curve(ones[0], ones[0], [1])
    with pytest.raises(ValueError, match="gold_scores must be finite"):
        best_of_n_curve(ones, ones * np.nan, [1])
    with pytest.raises(ValueError, match="one number for each of the 2 responses"):
        measured_best_of_n_kl(["a", "b"], [1.0], 2)
    with pytest.raises(ValueError, match="n must be at least 1"):
        measured_best_of_n_kl(["a"], [1.0], 0)
