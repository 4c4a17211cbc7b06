from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import all_sequences, assert_gradient, autograd, draw, softmax

from rlhf_lessons.formulas import (
    entropy,
    sequence_log_prob,
    token_log_probs,
    truncate_logits,
)

INF = math.inf


def test_token_log_probs_by_hand():
    logits = draw(2, 4, 5, scale=3)
    tokens = torch.tensor([[0, 4, 1, 2], [3, 3, 0, 4]])
    got = token_log_probs(logits, tokens)
    assert got.shape == (2, 3)
    for b in range(2):
        for t in range(3):
            p = softmax(logits[b, t].tolist())[tokens[b, t + 1]]
            assert got[b, t].item() == pytest.approx(math.log(p), abs=1e-12)


def test_the_chain_rule_on_an_enumerable_model():
    # A model whose next token depends on the last one: a start and a table of transitions.
    table = draw(3, 3)
    sequences = torch.cat([torch.zeros(27, 1, dtype=torch.long), all_sequences(3, 3)], dim=1)
    log_probs = token_log_probs(table[sequences], sequences)
    total = sequence_log_prob(log_probs, torch.ones_like(log_probs, dtype=torch.bool)).exp()
    assert total.sum().item() == pytest.approx(1, abs=1e-12)
    p = [softmax(row) for row in table.tolist()]
    for sequence, probability in zip(sequences.tolist(), total.tolist(), strict=True):
        _, a, b, c = sequence
        assert probability == pytest.approx(p[0][a] * p[a][b] * p[b][c], rel=1e-12)


@given(shift=st.floats(-1e4, 1e4), seed=st.integers(0, 99))
def test_a_constant_per_position_changes_nothing(shift, seed):
    logits, tokens = draw(1, 3, 4, seed=seed), torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(
        token_log_probs(logits + shift, tokens), token_log_probs(logits, tokens), atol=1e-9, rtol=0
    )


def test_large_float32_logits_keep_their_digits():
    logits = torch.tensor([[[1000.0, 1001.0], [0.0, 0.0]]])
    expected = -math.log1p(math.exp(-1))
    assert token_log_probs(logits, torch.tensor([[0, 1]])).item() == pytest.approx(
        expected, rel=1e-6
    )


def test_an_impossible_token_has_log_probability_minus_infinity():
    logits = torch.tensor([[[0.0, -INF, 0.0], [0.0, 0.0, 0.0]]])
    assert token_log_probs(logits, torch.tensor([[0, 1]])).item() == -INF
    assert token_log_probs(logits, torch.tensor([[0, 2]])).item() == pytest.approx(-math.log(2))


def test_the_last_position_and_the_first_token_do_not_matter():
    logits, tokens = draw(1, 3, 4), torch.tensor([[1, 2, 3]])
    other_logits, other_tokens = logits.clone(), tokens.clone()
    other_logits[:, -1], other_tokens[:, 0] = math.nan, 0
    torch.testing.assert_close(
        token_log_probs(other_logits, other_tokens), token_log_probs(logits, tokens)
    )


def test_token_log_probs_gradient():
    tokens = torch.tensor([[1, 2, 0]])
    assert_gradient(lambda logits: token_log_probs(logits, tokens), draw(1, 3, 4))


@pytest.mark.parametrize("token", [-1, -100, 4])
def test_a_token_outside_the_vocabulary_is_refused(token):
    with pytest.raises(ValueError, match=rf"tokens must lie in \[0, 4\), got {token}$"):
        token_log_probs(draw(1, 3, 4), torch.tensor([[0, 1, token]]))


def test_one_token_predicts_nothing_and_none_is_an_error():
    assert token_log_probs(draw(2, 1, 4), torch.zeros(2, 1, dtype=torch.long)).shape == (2, 0)
    with pytest.raises(ValueError, match="must hold a first token"):
        token_log_probs(draw(2, 0, 4), torch.zeros(2, 0, dtype=torch.long))


def test_sequence_log_prob_sums_what_counts():
    log_probs = torch.tensor([[-1.0, -2.0, math.nan], [-4.0, INF, -INF], [math.nan] * 3])
    mask = torch.tensor([[True, True, False], [True, False, False], [False] * 3])
    assert sequence_log_prob(log_probs, mask).tolist() == [-3, -4, 0]
    with pytest.raises(TypeError, match="sequence_log_prob: mask must be boolean"):
        sequence_log_prob(log_probs, mask.float())


def test_entropy_by_hand_and_at_its_limits():
    logits = draw(3, 5, scale=2)
    for row, got in zip(logits.tolist(), entropy(logits).tolist(), strict=True):
        assert got == pytest.approx(-sum(p * math.log(p) for p in softmax(row)), abs=1e-12)
    assert entropy(torch.zeros(8)).item() == pytest.approx(math.log(8))
    assert entropy(torch.tensor([0.0, 500.0])).item() == pytest.approx(0, abs=1e-30)


def test_entropy_with_impossible_tokens_is_the_entropy_of_the_others():
    logits = torch.tensor([0.5, -INF, 1.5, -INF], dtype=torch.float64)
    torch.testing.assert_close(entropy(logits), entropy(logits[[0, 2]]))
    assert entropy(torch.tensor([-INF, 0.0])).item() == 0
    gradient = autograd(entropy, logits)
    torch.testing.assert_close(gradient[[0, 2]], autograd(entropy, logits[[0, 2]]))
    assert (gradient[[1, 3]] == 0).all()


def test_entropy_gradient():
    assert_gradient(entropy, draw(2, 4))


def test_nan_logits_are_not_hidden():
    logits = torch.tensor([0.0, math.nan, 1.0])
    assert entropy(logits).isnan()
    assert token_log_probs(logits.repeat(1, 2, 1), torch.tensor([[0, 0]])).isnan().all()
    for cut in ({"top_k": 1}, {"top_k": 2}, {"top_p": 0.5}):
        assert torch.softmax(truncate_logits(logits, **cut), -1).isnan().all()


LOGITS = torch.log(torch.tensor([0.1, 0.4, 0.2, 0.3], dtype=torch.float64))


@pytest.mark.parametrize(
    ("cut", "kept"),
    [
        ({}, {0, 1, 2, 3}),
        ({"top_k": 1}, {1}),
        ({"top_k": 3}, {1, 2, 3}),
        ({"top_k": 99}, {0, 1, 2, 3}),
        ({"top_p": 0.01}, {1}),
        ({"top_p": 0.39}, {1}),
        ({"top_p": 0.41}, {1, 3}),
        ({"top_p": 0.85}, {1, 2, 3}),
        ({"top_p": 0.91}, {0, 1, 2, 3}),
        ({"top_p": 1.0}, {0, 1, 2, 3}),
        # Of the two that top-k leaves, the likelier one has 0.4/0.7 = 0.57 of the probability.
        ({"top_k": 2, "top_p": 0.5}, {1}),
        ({"top_k": 2, "top_p": 0.6}, {1, 3}),
    ],
)
def test_truncation_keeps_the_likeliest(cut, kept):
    got = truncate_logits(LOGITS.repeat(2, 3, 1), **cut)
    for row in got.reshape(-1, 4):
        for v in range(4):
            assert row[v] == (LOGITS[v] if v in kept else -INF)


@given(
    seed=st.integers(0, 999),
    top_k=st.integers(1, 7),
    top_p=st.floats(0.01, 1.0),
    shape=st.sampled_from([(6,), (2, 6), (2, 3, 6)]),
)
def test_truncation_against_a_plain_loop(seed, top_k, top_p, shape):
    logits = draw(*shape, seed=seed, scale=2)
    got = truncate_logits(logits, top_k, top_p).reshape(-1, 6)
    for row, got_row in zip(logits.reshape(-1, 6).tolist(), got.tolist(), strict=True):
        order = sorted(range(6), key=lambda v: -row[v])[:top_k]
        p = softmax([row[v] for v in order])
        kept = [v for i, v in enumerate(order) if sum(p[:i]) < top_p]
        assert got_row == [row[v] if v in kept else -INF for v in range(6)]


def test_truncation_keeps_ties_and_the_tail():
    tied = torch.tensor([1.0, 2.0, 1.0, 0.0])
    assert truncate_logits(tied, top_k=2).tolist() == [1, 2, 1, -INF]
    tail = torch.tensor([0.0, -40.0, -80.0])
    assert truncate_logits(tail, top_p=1.0).tolist() == tail.tolist()


@pytest.mark.parametrize("cut", [{"top_k": 0}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.01}])
def test_truncation_refuses_what_would_keep_nothing(cut):
    (name,) = cut
    with pytest.raises(ValueError, match=f"truncate_logits: {name} must"):
        truncate_logits(LOGITS, **cut)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    logits = draw(1, 3, 4).to(dtype)
    assert token_log_probs(logits, torch.tensor([[0, 1, 2]])).dtype == dtype
    assert entropy(logits).dtype == dtype
    assert truncate_logits(logits, 2, 0.5).dtype == dtype
