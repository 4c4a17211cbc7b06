from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import assert_gradient, autograd, draw, softmax

from rlhf_lessons.formulas import (
    adapt_kl_coefficient,
    best_of_n_kl,
    categorical_kl,
    kl_k1,
    kl_k2,
    kl_k3,
)

INF = math.inf


def test_categorical_kl_by_hand():
    logits_p, logits_q = draw(3, 5, seed=1), draw(3, 5, seed=2)
    got = categorical_kl(logits_p, logits_q)
    for b in range(3):
        p, q = softmax(logits_p[b].tolist()), softmax(logits_q[b].tolist())
        expected = sum(a * math.log(a / c) for a, c in zip(p, q, strict=True))
        assert got[b].item() == pytest.approx(expected, abs=1e-12)


def test_categorical_kl_takes_the_direction_of_its_arguments():
    certain, fair = torch.tensor([10.0, 0.0]), torch.zeros(2)
    # Certain against fair is at most log 2; fair against certain grows with the certainty.
    assert categorical_kl(certain, fair) < math.log(2) < 4 < categorical_kl(fair, certain)
    assert categorical_kl(fair, fair + 3) == 0


@given(seed=st.integers(0, 999), scale=st.floats(0.01, 50))
def test_categorical_kl_is_never_negative_and_ignores_constants(seed, scale):
    p, q = draw(4, 6, seed=seed, scale=scale), draw(4, 6, seed=seed + 1000, scale=scale)
    kl = categorical_kl(p, q)
    assert (kl >= -1e-12).all()
    torch.testing.assert_close(categorical_kl(p + 7, q - 3), kl, rtol=1e-9, atol=1e-9)


def test_categorical_kl_with_impossible_tokens():
    p = torch.tensor([0.3, -INF, 1.0, -INF], dtype=torch.float64)
    q = torch.tensor([0.1, 0.2, 0.3, -INF], dtype=torch.float64)
    log_q = torch.log_softmax(q, -1)
    expected = sum(
        a * (math.log(a) - log_q[v].item())
        for a, v in zip(softmax([0.3, 1.0]), (0, 2), strict=True)
    )
    assert categorical_kl(p, q).item() == pytest.approx(expected, abs=1e-12)
    assert categorical_kl(q, p).item() == INF
    assert categorical_kl(p, p).item() == 0
    for gradient in (
        autograd(lambda x: categorical_kl(x, q), p),
        autograd(lambda x: categorical_kl(p, x), q),
    ):
        assert gradient.isfinite().all()
        assert gradient[3] == 0


def test_gradients():
    p, q = draw(2, 4, seed=1), draw(2, 4, seed=2)
    assert_gradient(lambda x: categorical_kl(x, q), p)
    assert_gradient(lambda x: categorical_kl(p, x), q)
    for estimator in (kl_k1, kl_k2, kl_k3):
        assert_gradient(estimator, draw(2, 3))


def test_estimators_by_hand():
    log_ratio = torch.tensor([0.0, math.log(2), -math.log(2)], dtype=torch.float64)
    assert kl_k1(log_ratio).tolist() == log_ratio.tolist()
    half_square = math.log(2) ** 2 / 2
    assert kl_k2(log_ratio).tolist() == pytest.approx([0, half_square, half_square])
    # π_ref/π is ½ where π is twice the reference.
    assert kl_k3(log_ratio).tolist() == pytest.approx(
        [0, 0.5 - 1 + math.log(2), 2 - 1 - math.log(2)]
    )


def test_estimators_in_expectation():
    logits, reference = draw(6, seed=3), draw(6, seed=4)
    log_p, log_q = torch.log_softmax(logits, -1), torch.log_softmax(reference, -1)
    exact = categorical_kl(logits, reference)
    for estimator in (kl_k1, kl_k3):
        expectation = (log_p.exp() * estimator(log_p - log_q)).sum()
        torch.testing.assert_close(expectation, exact, rtol=1e-12, atol=1e-12)
    # k2 is biased; its relative bias shrinks with the distance between the policies.
    biases = []
    for scale in (1.0, 0.1, 0.01):
        log_q = torch.log_softmax(logits + scale * reference, -1)
        exact = categorical_kl(logits, logits + scale * reference)
        biases.append(((log_p.exp() * kl_k2(log_p - log_q)).sum() / exact - 1).abs().item())
    assert biases[0] > 5 * biases[1] > 25 * biases[2] > 0


@given(st.floats(-80, 80))
def test_k2_and_k3_are_never_negative(log_ratio):
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor(log_ratio, dtype=dtype)
        assert kl_k2(x) >= 0
        assert kl_k3(x) >= 0


@pytest.mark.parametrize("log_ratio", [1e-2, 1e-3, 1e-4])
def test_k3_keeps_its_digits_for_a_small_log_ratio_in_float32(log_ratio):
    # exp(−x) − 1 + x in float32 is off by 1e-7, more than all of x²/2 at x = 1e-4.
    expected = log_ratio**2 / 2 - log_ratio**3 / 6 + log_ratio**4 / 24
    assert kl_k3(torch.tensor(log_ratio)).item() == pytest.approx(expected, rel=3e-3)


@pytest.mark.parametrize(
    ("kl", "factor"),
    [(6.0, 1.0), (6.6, 1.01), (5.4, 0.99), (60.0, 1.02), (-5.0, 0.98), (INF, 1.02)],
)
def test_adaptive_coefficient_by_hand(kl, factor):
    got = adapt_kl_coefficient(0.2, kl, target=6.0, horizon=1000, batch_size=100)
    assert got == pytest.approx(0.2 * factor, rel=1e-12)


def test_adaptive_coefficient_hands_nan_on():
    assert math.isnan(adapt_kl_coefficient(0.2, math.nan, 6.0, 1000, 100))


@pytest.mark.parametrize("name", ["beta", "target", "horizon", "batch_size"])
def test_adaptive_coefficient_refuses_numbers_that_are_not_positive(name):
    settings = {"beta": 0.2, "kl": 1.0, "target": 6.0, "horizon": 1000, "batch_size": 100}
    with pytest.raises(ValueError, match=f"adapt_kl_coefficient: {name} must be above 0"):
        adapt_kl_coefficient(**(settings | {name: 0}))


def test_adaptive_coefficient_cannot_turn_its_sign():
    with pytest.raises(ValueError, match="horizon must be above"):
        adapt_kl_coefficient(0.2, 0.0, 6.0, horizon=20, batch_size=100)
    assert adapt_kl_coefficient(0.2, 0.0, 6.0, horizon=20.1, batch_size=100) > 0


@pytest.mark.parametrize("n", [1, 2, 4])
def test_best_of_n_kl_by_enumeration(n):
    # Over many equally likely responses with distinct scores, the k-th best wins with probability
    # ((m−k+1)^n − (m−k)^n) / m^n. The KL approaches the bound from below like 1/m.
    m = 20_000
    win = [((k + 1) ** n - k**n) / m**n for k in range(m)]
    kl = math.fsum(p * math.log(p * m) for p in win)
    assert kl <= best_of_n_kl(n) + 1e-12
    assert kl == pytest.approx(best_of_n_kl(n), abs=1e-3)


def test_best_of_n_kl_needs_a_candidate():
    assert best_of_n_kl(1) == 0
    for n in (0, -1, math.nan):
        with pytest.raises(ValueError, match="best_of_n_kl: n must be 1 or more"):
            best_of_n_kl(n)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    x = draw(2, 3).to(dtype)
    assert categorical_kl(x, x).dtype == dtype
    for estimator in (kl_k1, kl_k2, kl_k3):
        assert estimator(x).dtype == dtype


def test_nan_is_not_hidden():
    x = torch.tensor([0.0, math.nan])
    assert categorical_kl(x, torch.zeros(2)).isnan()
    assert categorical_kl(torch.zeros(2), x).isnan()
    for estimator in (kl_k1, kl_k2, kl_k3):
        assert estimator(x)[1].isnan()
