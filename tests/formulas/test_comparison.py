from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import assert_gradient, autograd, draw, naive_ranking_probability, softmax

from rlhf_lessons.formulas import (
    bradley_terry_loss,
    bradley_terry_probability,
    plackett_luce_loss,
    triplet_loss,
)


def test_bradley_terry_by_hand():
    first, second = torch.tensor([1.0, 0.0, -2.0]).double(), torch.tensor([0.0, 0.0, 1.0]).double()
    for a, b, p, loss in zip(
        first.tolist(),
        second.tolist(),
        bradley_terry_probability(first, second).tolist(),
        bradley_terry_loss(first, second).tolist(),
        strict=True,
    ):
        assert p == pytest.approx(softmax([a, b])[0], abs=1e-12)
        assert loss == pytest.approx(-math.log(softmax([a, b])[0]), abs=1e-12)


@given(seed=st.integers(0, 999), shift=st.floats(-100, 100))
def test_a_shift_per_prompt_changes_no_loss(seed, shift):
    chosen, rejected, scores = draw(4, seed=seed), draw(4, seed=seed + 1), draw(4, 5, seed=seed + 2)
    per_prompt = shift * draw(4, seed=seed + 3)
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(
        bradley_terry_loss(chosen + per_prompt, rejected + per_prompt),
        bradley_terry_loss(chosen, rejected),
        **close,
    )
    torch.testing.assert_close(
        plackett_luce_loss(scores + per_prompt[:, None]), plackett_luce_loss(scores), **close
    )


@given(seed=st.integers(0, 999))
def test_the_two_orders_are_all_there_is(seed):
    first, second = draw(4, seed=seed), draw(4, seed=seed + 1)
    total = bradley_terry_probability(first, second) + bradley_terry_probability(second, first)
    torch.testing.assert_close(total, torch.ones(4, dtype=torch.float64))


def test_extreme_rewards_give_finite_losses_and_gradients():
    chosen, rejected = torch.tensor([-1e4, 1e4]), torch.tensor([1e4, -1e4])
    assert bradley_terry_loss(chosen, rejected).tolist() == [2e4, 0]
    gradient = autograd(lambda r: bradley_terry_loss(r, rejected), chosen)
    assert gradient.tolist() == [-1, 0]
    assert plackett_luce_loss(torch.tensor([[-1e4, 0.0, 1e4]])).tolist() == [3e4]


def test_bradley_terry_gradient_is_the_probability_of_the_other_order():
    chosen, rejected = draw(4), draw(4, seed=1)
    other = bradley_terry_probability(rejected, chosen)
    torch.testing.assert_close(autograd(lambda r: bradley_terry_loss(r, rejected), chosen), -other)
    torch.testing.assert_close(autograd(lambda r: bradley_terry_loss(chosen, r), rejected), other)


@given(seed=st.integers(0, 999), candidates=st.integers(1, 6))
def test_plackett_luce_against_a_plain_loop(seed, candidates):
    scores = draw(3, candidates, seed=seed, scale=3)
    for row, loss in zip(scores.tolist(), plackett_luce_loss(scores).tolist(), strict=True):
        assert loss == pytest.approx(-math.log(naive_ranking_probability(row)), abs=1e-10)


def test_the_probabilities_of_all_rankings_add_up_to_one():
    scores = draw(4)
    rankings = torch.tensor(list(itertools.permutations(range(4))))
    assert (-plackett_luce_loss(scores[rankings])).exp().sum().item() == pytest.approx(1)


@given(seed=st.integers(0, 999))
def test_plackett_luce_of_two_is_bradley_terry(seed):
    scores = draw(5, 2, seed=seed, scale=5)
    torch.testing.assert_close(
        plackett_luce_loss(scores),
        bradley_terry_loss(scores[:, 0], scores[:, 1]),
        rtol=1e-9,
        atol=1e-12,
    )


def test_a_ranking_of_one_is_certain_and_of_none_an_error():
    assert plackett_luce_loss(draw(3, 1)).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="must rank at least one response, got K = 0"):
        plackett_luce_loss(draw(3, 0))


def test_triplet_by_hand():
    anchor = torch.zeros(3, 2)
    nearer = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])
    farther = torch.tensor([[0.0, 1.0], [0.0, 9.0], [2.0, 0.0]])
    assert triplet_loss(anchor, nearer, farther, margin=0.5).tolist() == [4.5, 0, 0.5]


@given(seed=st.integers(0, 999), margin=st.floats(0.01, 3))
def test_triplet_against_pytorch(seed, margin):
    points = [draw(4, 3, seed=seed + i) for i in (0, 1000, 2000)]
    expected = torch.nn.functional.triplet_margin_loss(*points, margin=margin, reduction="none")
    # PyTorch adds 1e-6 to each difference of coordinates.
    torch.testing.assert_close(triplet_loss(*points, margin), expected, rtol=0, atol=1e-5)


def test_gradients():
    assert_gradient(lambda r: bradley_terry_loss(r, draw(4, seed=1)), draw(4))
    assert_gradient(lambda r: bradley_terry_loss(draw(4, seed=1), r), draw(4))
    assert_gradient(lambda r: bradley_terry_probability(r, draw(4, seed=1)), draw(4))
    assert_gradient(plackett_luce_loss, draw(3, 4))
    points = [draw(4, 3, seed=i) for i in range(3)]
    for i in range(3):
        assert_gradient(
            lambda x, i=i: triplet_loss(*points[:i], x, *points[i + 1 :], margin=1.0), points[i]
        )


def test_points_that_fall_together_have_a_finite_gradient():
    point = draw(2, 3)
    gradient = autograd(lambda x: triplet_loss(x, point, point, 1.0), point)
    assert gradient.isfinite().all()


def test_wrong_inputs_are_refused():
    with pytest.raises(ValueError, match=r"rejected_rewards must have shape \(B,\) = \(2,\)"):
        bradley_terry_loss(torch.zeros(2), torch.zeros(1))
    with pytest.raises(ValueError, match=r"chosen_rewards must have shape \(B,\), got \(2, 1\)"):
        bradley_terry_loss(torch.zeros(2, 1), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="second_rewards must have shape"):
        bradley_terry_probability(torch.zeros(2), torch.zeros(1))
    with pytest.raises(ValueError, match=r"scores must have shape \(B, K\), got \(2,\)"):
        plackett_luce_loss(torch.zeros(2))
    with pytest.raises(ValueError, match="farther must have shape"):
        triplet_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 1), 1.0)
    with pytest.raises(ValueError, match="triplet_loss: margin must be 0 or more"):
        triplet_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3), -1.0)


def test_dtype_is_kept_and_nan_is_not_hidden():
    for dtype in (torch.float32, torch.float64):
        x = draw(2, 3).to(dtype)
        assert bradley_terry_probability(x[:, 0], x[:, 1]).dtype == dtype
        assert bradley_terry_loss(x[:, 0], x[:, 1]).dtype == dtype
        assert plackett_luce_loss(x).dtype == dtype
        assert triplet_loss(x, x, x, 1.0).dtype == dtype
    nan = torch.tensor([math.nan])
    assert bradley_terry_loss(nan, torch.zeros(1)).isnan()
    assert plackett_luce_loss(torch.tensor([[0.0, math.nan]])).isnan()
    assert triplet_loss(nan[None], nan[None], torch.zeros(1, 1), 1.0).isnan()
