from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import assert_gradient, autograd, draw, right_padded_mask

from rlhf_lessons.formulas import (
    masked_mean,
    masked_sum,
    masked_variance,
    mean_of_responses,
    mean_over_length,
    whiten,
)

X = torch.tensor([[1.0, 2.0, 9.0], [6.0, 9.0, 9.0]], dtype=torch.float64)
MASK = torch.tensor([[True, True, False], [True, False, False]])


def test_sum_mean_and_variance_by_hand():
    assert masked_sum(X, MASK) == 9
    assert masked_mean(X, MASK) == 3
    assert masked_variance(X, MASK) == 7  # ((1−3)² + (2−3)² + (6−3)²) / (3 − 1)


def test_along_a_dimension_each_row_is_its_own():
    torch.testing.assert_close(masked_sum(X, MASK, dim=1), X.new_tensor([3, 6]))
    torch.testing.assert_close(masked_mean(X, MASK, dim=1), X.new_tensor([1.5, 6]))
    assert masked_mean(X, MASK, dim=1).mean() != masked_mean(X, MASK)


def test_whitening_by_hand():
    expected = torch.tensor([[-2, -1, 0], [3, 0, 0]], dtype=torch.float64) / math.sqrt(7)
    # 1e-8 beside a variance of 7 moves the result by less than 1e-9 of itself.
    torch.testing.assert_close(whiten(X, MASK), expected, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(
        whiten(X, MASK, shift_mean=False), (expected + 3) * MASK, rtol=1e-8, atol=1e-12
    )


def test_the_small_number_under_the_root():
    tiny = torch.tensor([[1e-4, -1e-4]], dtype=torch.float64)
    mask = torch.ones(1, 2, dtype=torch.bool)
    expected = tiny / math.sqrt(2e-8 + 1e-8)
    torch.testing.assert_close(whiten(tiny, mask), expected, rtol=1e-12, atol=0)
    assert whiten(torch.full((1, 4), 0.3), torch.ones(1, 4, dtype=torch.bool)).abs().max() < 1e-3


@given(
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(lambda n: sum(n) >= 2),
    seed=st.integers(0, 999),
)
def test_only_what_counts_matters(lengths, seed):
    mask = right_padded_mask(lengths, 5)
    x = draw(*mask.shape, seed=seed)
    counted = x[mask].tolist()
    for garbage in (math.nan, math.inf, 1e300):
        dirty = x.masked_fill(~mask, garbage)
        assert masked_sum(dirty, mask).item() == pytest.approx(sum(counted), abs=1e-12)
        assert masked_mean(dirty, mask).item() == pytest.approx(statistics.mean(counted), abs=1e-12)
        assert masked_variance(dirty, mask).item() == pytest.approx(
            statistics.variance(counted), rel=1e-10, abs=1e-12
        )
        whitened = whiten(dirty, mask)
        assert (whitened[~mask] == 0).all()
        assert whitened[mask].mean().abs() < 1e-6


@pytest.mark.parametrize("function", [masked_sum, masked_mean, masked_variance, whiten])
def test_gradients(function):
    def weighted(x):
        # Distinct weights: the plain sum of whitened values is always 0.
        result = function(x, MASK)
        return result * torch.arange(1, result.numel() + 1).reshape(result.shape)

    assert_gradient(weighted, X)


@pytest.mark.parametrize("function", [masked_sum, masked_mean, masked_variance, whiten])
def test_garbage_that_does_not_count_gives_no_gradient(function):
    gradient = autograd(lambda x: function(x, MASK).square(), X.masked_fill(~MASK, math.nan))
    assert gradient.isfinite().all()
    assert (gradient[~MASK] == 0).all()


def test_nan_that_counts_is_not_hidden():
    x = X.clone()
    x[0, 0] = math.nan
    for function in (masked_sum, masked_mean, masked_variance):
        assert function(x, MASK).isnan()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    x = X.to(dtype)
    for function in (masked_sum, masked_mean, masked_variance, whiten):
        assert function(x, MASK).dtype == dtype
    assert masked_mean(x, MASK, dim=1).dtype == dtype


def test_nothing_to_average_is_an_error():
    nothing = torch.zeros_like(MASK)
    with pytest.raises(ValueError, match="masked_mean: the mask has no True"):
        masked_mean(X, nothing)
    with pytest.raises(ValueError, match="masked_mean: the mask has no True along dim 1"):
        masked_mean(X, MASK & torch.tensor([[True], [False]]), dim=1)
    assert masked_sum(X, nothing) == 0


def test_one_value_has_no_variance():
    one = torch.zeros_like(MASK)
    one[0, 0] = True
    for function in (masked_variance, whiten):
        with pytest.raises(ValueError, match=r"two True or more .* got 1"):
            function(X, one)


@pytest.mark.parametrize("function", [masked_sum, masked_mean, masked_variance, whiten])
def test_wrong_masks_are_refused(function):
    with pytest.raises(TypeError, match=f"{function.__name__}: mask must be boolean"):
        function(X, MASK.long())
    with pytest.raises(ValueError, match=f"{function.__name__}: mask must have shape"):
        function(X, MASK[:, :1])


def test_three_means_weigh_a_token_in_three_ways():
    # Responses of two tokens and of one: sums 3 and 6.
    assert masked_mean(X, MASK).item() == pytest.approx((3 + 6) / 3)
    assert mean_of_responses(X, MASK).item() == pytest.approx((3 / 2 + 6) / 2)
    assert mean_over_length(X, MASK, 4).item() == pytest.approx((3 + 6) / (2 * 4))
    weights = MASK.double()
    for mean, expected in (
        (masked_mean, weights / 3),
        (mean_of_responses, weights / 2 / torch.tensor([[2.0], [1.0]])),
        (lambda x, mask: mean_over_length(x, mask, 4), weights / 8),
    ):
        torch.testing.assert_close(autograd(lambda x, f=mean: f(x, MASK), X), expected)
        assert_gradient(lambda x, f=mean: f(x, MASK), X)
        dirty = X.masked_fill(~MASK, math.nan)
        torch.testing.assert_close(mean(dirty, MASK), mean(X, MASK))
        torch.testing.assert_close(autograd(lambda x, f=mean: f(x, MASK), dirty), expected)
        assert mean(X.bfloat16(), MASK).dtype == torch.bfloat16


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4), seed=st.integers(0, 999))
def test_the_means_of_responses_against_plain_loops(lengths, seed):
    mask = right_padded_mask(lengths, 5)
    x = draw(*mask.shape, seed=seed)
    rows = [row[counts].tolist() for row, counts in zip(x, mask, strict=True)]
    expected = statistics.mean(statistics.mean(row) for row in rows)
    assert mean_of_responses(x, mask).item() == pytest.approx(expected, abs=1e-12)
    expected = sum(sum(row) for row in rows) / (len(rows) * 7.5)
    assert mean_over_length(x, mask, 7.5).item() == pytest.approx(expected, abs=1e-12)


def test_an_empty_response_has_no_mean_but_adds_nothing_to_a_constant_length():
    mask = torch.tensor([[True, True, False], [False, False, False]])
    with pytest.raises(ValueError, match="no True along dim 1"):
        mean_of_responses(X, mask)
    assert mean_over_length(X, mask, 4).item() == pytest.approx(3 / (2 * 4))


def test_means_of_what_is_no_batch_of_responses_are_refused():
    for mean in (mean_of_responses, lambda x, mask: mean_over_length(x, mask, 3)):
        with pytest.raises(ValueError, match=r"x must have shape \(B, T\), got \(3,\)"):
            mean(X[0], MASK[0])
        with pytest.raises(ValueError, match="x must hold a response, got B = 0"):
            mean(X[:0], MASK[:0])
        with pytest.raises(TypeError, match="mask must be boolean"):
            mean(X, MASK.long())
    for bad in (0, -1, math.nan):
        with pytest.raises(ValueError, match="mean_over_length: length must be above 0"):
            mean_over_length(X, MASK, bad)
