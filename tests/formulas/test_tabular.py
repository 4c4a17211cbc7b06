"""Table formulas against hand arithmetic, plain loops and autograd."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lessons import formulas


def drawn(seed: int, rows: int, actions: int, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, actions, generator=generator, dtype=dtype)
    legal = torch.rand(rows, actions, generator=generator) < 0.6
    legal[torch.arange(rows), torch.randint(actions, (rows,), generator=generator)] = True
    taken = torch.multinomial(legal.double(), 1, generator=generator).squeeze(1)
    return logits, legal, taken, generator


def test_values_by_hand():
    states = torch.tensor([[0, 3, 9], [0, 1, 1]])
    returns = torch.tensor([[1.0, 2.0, 50.0], [-3.0, 4.0, 6.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    values = formulas.monte_carlo_values(states, returns, mask, 10)
    assert values.tolist() == [-1.0, 5.0, 0.0, 2.0, 0, 0, 0, 0, 0, 0]
    assert values.dtype == torch.float32


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 8), st.integers(0, 10**6))
def test_values_equal_a_loop_whatever_the_padding_holds(batch, length, size, seed):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randint(size, (batch, length), generator=generator)
    returns = torch.randn(batch, length, generator=generator, dtype=torch.float64)
    mask = torch.rand(batch, length, generator=generator) < 0.7
    expected = []
    for state in range(size):
        seen = [
            returns[b, t].item()
            for b in range(batch)
            for t in range(length)
            if mask[b, t] and states[b, t] == state
        ]
        expected.append(sum(seen) / len(seen) if seen else 0.0)
    noisy = returns.masked_fill(~mask, torch.nan)
    got = formulas.monte_carlo_values(states, noisy, mask, size)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0.5, 0.0, 1.0, False, 0.1, 0.9), 0.5 + 0.1 * (0.9 - 0.5)),
        ((0.5, 1.0, 1.0, False, 0.1, 0.5), 0.5 + 0.1 * (1.5 - 0.5)),
        ((0.5, -1.0, 7.0, True, 0.1, 0.9), 0.5 + 0.1 * (-1.0 - 0.5)),
        ((0.5, 1.0, float("nan"), True, 1.0, 0.9), 1.0),
        ((0.5, 1.0, 0.3, False, 0.0, 0.9), 0.5),
    ],
)
def test_td_by_hand(arguments, expected):
    assert formulas.td_update(*arguments) == pytest.approx(expected, abs=1e-15)


def test_advantage_by_hand():
    q_values = torch.tensor([[1.0, -1.0, 99.0], [0.5, 0.5, 0.5]])
    probabilities = torch.tensor([[0.75, 0.25, 0.0], [0.2, 0.3, 0.5]])
    legal = torch.tensor([[True, True, False], [True, True, True]])
    got = formulas.advantage(q_values, probabilities, legal)
    torch.testing.assert_close(got, torch.tensor([[0.5, -1.5, 0.0], [0.0, 0.0, 0.0]]))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 10**6))
def test_the_policy_averages_the_advantage_to_0(rows, actions, seed):
    logits, legal, _, generator = drawn(seed, rows, actions)
    q_values = torch.randn(rows, actions, generator=generator, dtype=torch.float64)
    probabilities = logits.masked_fill(~legal, -torch.inf).softmax(dim=1)
    got = formulas.advantage(q_values.masked_fill(~legal, torch.nan), probabilities, legal)
    assert (probabilities * got).sum(dim=1).abs().max() < 1e-12
    assert not got[~legal].any()
    shifted = formulas.advantage(q_values + 3.0, probabilities, legal)
    torch.testing.assert_close(shifted, got)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 10**6))
def test_the_gradient_is_that_of_autograd(rows, actions, seed):
    logits, legal, taken, generator = drawn(seed, rows, actions)
    weights = torch.randn(rows, generator=generator, dtype=torch.float64)
    leaf = logits.clone().requires_grad_()
    log_probs = leaf.masked_fill(~legal, -torch.inf).log_softmax(dim=1)
    (weights * log_probs[torch.arange(rows), taken]).sum().backward()
    got = formulas.reinforce_gradient(logits, legal, taken, weights)
    torch.testing.assert_close(got, leaf.grad, rtol=0, atol=1e-12)


def test_the_gradient_survives_extreme_logits():
    logits = torch.tensor([[1e4, 0.0, -1e4], [-1e4, -1e4, 5.0]])
    legal = torch.tensor([[True, True, True], [True, True, False]])
    got = formulas.log_prob_gradient(logits, legal, torch.tensor([1, 0]))
    assert got.tolist() == [[-1.0, 1.0, 0.0], [0.5, -0.5, 0.0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x, m, a: formulas.reinforce_gradient(x, m, a, torch.ones(3)),
            "weights must have the shape of actions",
        ),
        (
            lambda x, m, a: formulas.log_prob_gradient(x, m, torch.tensor([0, 2])),
            r"action 2 of row 1 is illegal there; legal are \[0, 1\]",
        ),
        (lambda x, m, a: formulas.log_prob_gradient(x, m[:1], a), r"expected logits and legal"),
        (lambda x, m, a: formulas.advantage(x, x[:1], m), "must have the same shape"),
        (
            lambda x, m, a: formulas.monte_carlo_values(x.long(), x, m[:1], 3),
            "must have the same shape",
        ),
    ],
)
def test_wrong_shapes_and_moves_are_refused(call, message):
    logits = torch.zeros(2, 3)
    legal = torch.tensor([[True, True, True], [True, True, False]])
    with pytest.raises(ValueError, match=message):
        call(logits, legal, torch.tensor([0, 1]))
