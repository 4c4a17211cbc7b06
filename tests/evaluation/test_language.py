"""Measures of language models, against enumeration and hand arithmetic."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from rlhf_lessons.evaluation import (
    Estimate,
    estimate_mean,
    estimate_nll,
    estimate_share,
    sequence_kl,
)
from rlhf_lessons.models import LanguagePolicy, small_gpt2, word_tokenizer

WORDS = ("a", "b", "c")


def tiny_policy(seed: int, words: tuple[str, ...] = WORDS, scale: float = 20.0) -> LanguagePolicy:
    """A random model with clear preferences: two seeds give two different distributions."""
    tokenizer = word_tokenizer(words)
    model = small_gpt2(len(tokenizer), width=8, layers=1, heads=2, context=12, seed=seed)
    with torch.no_grad():
        model.transformer.wte.weight.mul_(scale)
    return LanguagePolicy(model, tokenizer)


def all_log_probs(policy: LanguagePolicy, prompt: str, length: int) -> dict[tuple[int, ...], float]:
    """log π of every token string of this length (an end token stops a string before)."""
    end = policy.end_token_id
    start = policy.encode([prompt], end=False).prompt_tokens[0].tolist()
    rows = list(itertools.product(range(policy.vocabulary_size), repeat=length))
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([[*start, *row] for row in rows])).logits
    log_probs = logits[:, len(start) - 1 : -1].double().log_softmax(-1).tolist()
    strings: dict[tuple[int, ...], float] = {}
    for row, table in zip(rows, log_probs, strict=True):
        cut = row[: row.index(end) + 1] if end in row else row
        strings[cut] = sum(table[t][token] for t, token in enumerate(cut))
    return strings


def test_sequence_kl_is_the_enumerated_kl():
    policy, reference = tiny_policy(1), tiny_policy(2)
    p, q = (all_log_probs(model, "a b", 3) for model in (policy, reference))
    assert sum(map(math.exp, p.values())) == pytest.approx(1.0, abs=1e-5)
    exact = sum(math.exp(p[y]) * (p[y] - q[y]) for y in p)
    assert exact > 0.1
    generator = torch.Generator().manual_seed(0)
    got = sequence_kl(policy, reference, ["a b"] * 4000, 3, generator)
    assert got.count == 4000
    assert got.standard_error < 0.05 * exact
    assert abs(got.value - exact) < 4 * got.standard_error
    other_way = sum(math.exp(q[y]) * (q[y] - p[y]) for y in p)
    assert abs(other_way - exact) > 8 * got.standard_error


def test_sequence_kl_of_a_policy_with_itself_is_zero_and_does_not_depend_on_batches():
    policy, reference = tiny_policy(1), tiny_policy(2)
    same = sequence_kl(policy, policy.copy(), ["a", "b c"], 4, torch.Generator().manual_seed(0))
    assert same.value == pytest.approx(0.0, abs=1e-6)
    assert same.standard_error == pytest.approx(0.0, abs=1e-6)
    prompts = ["a", "b c a", "c", "b"]
    one_by_one = [
        sequence_kl(policy, reference, prompts, 1, torch.Generator().manual_seed(0), batch_size=n)
        for n in (1, 4)
    ]
    # With one token to sample, the exact sum over the vocabulary leaves nothing to chance.
    assert one_by_one[0].value == pytest.approx(one_by_one[1].value, abs=1e-5)


def test_sequence_kl_refuses_what_it_cannot_measure():
    policy = tiny_policy(1)
    with pytest.raises(ValueError, match="sequence_kl: prompts must be at least 2, got 1"):
        sequence_kl(policy, policy, ["a"], 3)
    with pytest.raises(ValueError, match="must share a vocabulary, got 7 and 8"):
        sequence_kl(policy, tiny_policy(1, ("a", "b", "c", "d")), ["a", "a"], 3)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        sequence_kl(policy, policy, ["a", "a"], 3, batch_size=0)


@pytest.mark.parametrize("batch_size", [1, 2, 50])
def test_estimate_nll_weighs_tokens_and_treats_texts_as_independent(batch_size):
    policy = tiny_policy(3)
    examples = [("a", "b"), ("a b c", "c c c c c"), ("", "a b"), ("b", "")]
    losses, lengths = [], []
    for prompt, response in examples:
        text = policy.encode([prompt], end=False).prompt_tokens[0].tolist()
        tokens = [WORDS.index(word) + 4 for word in response.split()] + [policy.end_token_id]
        with torch.no_grad():
            logits = policy.model(input_ids=torch.tensor([text + tokens])).logits[0].double()
        chosen = [
            float(logits[len(text) - 1 + i].log_softmax(-1)[token])
            for i, token in enumerate(tokens)
        ]
        losses.append(-sum(chosen))
        lengths.append(len(tokens))
    value = sum(losses) / sum(lengths)
    residuals = [loss - value * length for loss, length in zip(losses, lengths, strict=True)]
    error = math.sqrt(sum(r * r for r in residuals) * 4 / 3) / sum(lengths)
    got = estimate_nll(policy, examples, batch_size)
    assert got.value == pytest.approx(value, abs=1e-5)
    assert got.standard_error == pytest.approx(error, abs=1e-5)
    assert got.count == 4


def test_estimate_nll_of_a_model_that_knows_nothing_is_log_v():
    policy = tiny_policy(0, scale=0.0)
    got = estimate_nll(policy, [("a", "b c"), ("c", "b")])
    assert got.value == pytest.approx(math.log(7), abs=1e-5)
    assert got.standard_error == pytest.approx(0.0, abs=1e-5)
    with pytest.raises(ValueError, match="estimate_nll: examples must be at least 2, got 0"):
        estimate_nll(policy, [])


def test_estimate_mean_by_hand():
    got = estimate_mean([1.0, 2.0, 3.0, 6.0])
    assert got.value == pytest.approx(3.0)
    assert got.standard_error == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3 / 4))
    assert got.count == 4
    assert str(Estimate(1.23456, 0.0321, 5)) == "1.235 ± 0.032"
    for samples in ([1.0], [[1.0, 2.0]]):
        with pytest.raises(ValueError, match="estimate_mean: samples must be a row"):
            estimate_mean(samples)


def test_interval_holds_the_mean_as_often_as_it_says():
    draws = torch.randn(4000, 40, generator=torch.Generator().manual_seed(0)) + 5.0
    for confidence in (0.5, 0.95):
        held = sum(
            low < 5.0 < high
            for low, high in (estimate_mean(row).interval(confidence) for row in draws)
        )
        # At 40 samples the normal quantile falls short of Student's by less than 0.01.
        assert held / 4000 == pytest.approx(confidence, abs=0.025)
    with pytest.raises(ValueError, match="confidence must lie inside"):
        Estimate(0.0, 1.0, 9).interval(1.0)


def test_estimate_share_is_wilsons_interval():
    share, low, high = estimate_share(8, 10)
    # Worked by hand with z = 1.959964: centre 0.716738, half width 0.226577.
    assert (share, low, high) == pytest.approx((0.8, 0.490162, 0.943318), abs=1e-5)
    none = estimate_share(0, 20)
    assert none[0] == 0.0 and none[1] == 0.0 and 0.1 < none[2] < 0.2
    every = estimate_share(20, 20)
    assert every[2] == 1.0 and every[1] == pytest.approx(1 - none[2])
    narrow, wide = estimate_share(5, 20, 0.5), estimate_share(5, 20, 0.99)
    assert wide[1] < narrow[1] < 0.25 < narrow[2] < wide[2]


@pytest.mark.parametrize(("successes", "trials"), [(-1, 5), (6, 5), (0, 0)])
def test_estimate_share_refuses_impossible_counts(successes, trials):
    with pytest.raises(ValueError, match="estimate_share: successes must lie in"):
        estimate_share(successes, trials)
