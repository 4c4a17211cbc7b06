from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import assert_gradient, autograd, draw

from rlhf_lessons.formulas import bradley_terry_loss, dpo_loss, orpo_loss, simpo_loss


def means(seed: int = 0, count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean log-probabilities of the chosen and of the rejected responses, all below 0."""
    return -draw(count, seed=seed).exp(), -draw(count, seed=seed + 1000).exp()


def test_each_by_hand():
    chosen, rejected = (torch.tensor([math.log(p)], dtype=torch.float64) for p in (0.5, 0.2))
    # SimPO at β = 2, γ = 0.5: 2 · log(0.5 / 0.2) − 0.5, so exp(−that) = 0.16 · e^0.5.
    assert simpo_loss(chosen, rejected, 2.0, 0.5).item() == pytest.approx(
        math.log(1 + 0.16 * math.exp(0.5)), abs=1e-12
    )
    # Odds 1 and 1/4: their ratio is 4, and −log σ(log 4) = log(1 + 1/4).
    assert orpo_loss(chosen, rejected, 0.3).item() == pytest.approx(
        math.log(2) + 0.3 * math.log(1.25), abs=1e-12
    )


@given(seed=st.integers(0, 999), beta=st.floats(0.1, 5))
def test_simpo_is_bradley_terry_on_mean_log_probs_with_a_margin(seed, beta):
    chosen, rejected = means(seed)
    close = {"rtol": 1e-9, "atol": 1e-12}
    expected = bradley_terry_loss(beta * chosen - 0.4, beta * rejected)
    torch.testing.assert_close(simpo_loss(chosen, rejected, beta, 0.4), expected, **close)
    zero = torch.zeros_like(chosen)
    torch.testing.assert_close(
        simpo_loss(chosen, rejected, beta, 0.0),
        dpo_loss(chosen, rejected, zero, zero, beta),
        **close,
    )
    shifted = simpo_loss(chosen - 3, rejected - 3, beta, 0.4)
    torch.testing.assert_close(shifted, expected, rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 999), weight=st.floats(0, 5))
def test_orpo_by_its_odds(seed, weight):
    chosen, rejected = means(seed)
    got = orpo_loss(chosen, rejected, weight).tolist()
    for m_w, m_l, loss in zip(chosen.tolist(), rejected.tolist(), got, strict=True):
        odds_w, odds_l = (math.exp(m) / -math.expm1(m) for m in (m_w, m_l))
        # σ(log a − log b) = a / (a + b)
        expected = -m_w - weight * math.log(odds_w / (odds_w + odds_l))
        assert loss == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_gradients():
    chosen, rejected = means()
    for loss in (lambda a, b: simpo_loss(a, b, 2.0, 0.5), lambda a, b: orpo_loss(a, b, 0.7)):
        assert_gradient(lambda x, f=loss: f(x, rejected), chosen)
        assert_gradient(lambda x, f=loss: f(chosen, x), rejected)
    # λ = 0 is fine-tuning alone.
    torch.testing.assert_close(orpo_loss(chosen, rejected, 0.0), -chosen)


def test_extremes_stay_finite_and_nan_is_not_hidden():
    # exp(−1e−9) is 1 in float32, and log(1 − 1) would be infinite.
    likely, unlikely = torch.tensor([-1e-9, -60.0]), torch.tensor([-60.0, -1e-9])
    for loss in (lambda a, b: simpo_loss(a, b, 10.0, 1.0), lambda a, b: orpo_loss(a, b, 1.0)):
        assert loss(likely, unlikely).isfinite().all()
        assert autograd(lambda x, f=loss: f(x, unlikely), likely).isfinite().all()
        assert autograd(lambda x, f=loss: f(likely, x), unlikely).isfinite().all()
        nan, other = torch.tensor([math.nan]), torch.tensor([-1.0])
        assert loss(nan, other).isnan()
        assert loss(other, nan).isnan()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    chosen, rejected = (x.to(dtype) for x in means())
    assert simpo_loss(chosen, rejected, 2.0, 0.5).dtype == dtype
    assert orpo_loss(chosen, rejected, 0.1).dtype == dtype


def test_wrong_inputs_are_refused():
    x = torch.full((2,), -1.0)
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="simpo_loss: beta must be above 0"):
            simpo_loss(x, x, bad, 0.5)
    for bad in (-0.1, math.nan):
        with pytest.raises(ValueError, match="simpo_loss: margin must be 0 or more"):
            simpo_loss(x, x, 2.0, bad)
        with pytest.raises(ValueError, match="orpo_loss: odds_weight must be 0 or more"):
            orpo_loss(x, x, bad)
    for loss in (lambda a, b: simpo_loss(a, b, 2.0, 0.5), lambda a, b: orpo_loss(a, b, 0.1)):
        with pytest.raises(ValueError, match="policy_rejected_mean must have shape"):
            loss(x, x[:1])
        with pytest.raises(ValueError, match=r"policy_chosen_mean must have shape \(B,\), got"):
            loss(x.unsqueeze(1), x.unsqueeze(1))
    certain = torch.tensor([-1.0, 0.0])
    with pytest.raises(ValueError, match="orpo_loss: policy_chosen_mean must be below 0, .* 0.0"):
        orpo_loss(certain, x, 0.1)
    with pytest.raises(ValueError, match="orpo_loss: policy_rejected_mean must be below 0"):
        orpo_loss(x, certain, 0.1)
