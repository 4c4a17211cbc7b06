"""Simulated raters: their noise is the noise that is written on them."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_lessons.worlds import (
    AgreementJudge,
    AILabeller,
    GroupedComparers,
    NoisyComparer,
    ScaleRater,
    SimilarityRater,
    WeightedJudge,
    bayes_ceiling,
    draw_scale_raters,
    label_pairs,
    length_judge,
    preference_probability,
)

MANY = 20_000
# Five standard errors of a share measured on MANY draws.
TOLERANCE = 5 * 0.5 / math.sqrt(MANY)


def value(prompts, responses):
    return np.array([float(response) for response in responses])


def backwards(prompts, responses):
    return -value(prompts, responses)


def test_probability_by_hand():
    p = preference_probability([1.0, 0.0, 2.0], [0.0, 0.0, 5.0], 2.0)
    assert p == pytest.approx([1 / (1 + math.exp(-0.5)), 0.5, 1 / (1 + math.exp(1.5))], abs=1e-15)
    assert preference_probability([1, 0, 2], [0, 0, 5], 0).tolist() == [1.0, 0.5, 0.0]
    assert preference_probability([1e6], [-1e6], 1e-3).tolist() == [1.0]


scores = st.lists(st.floats(-50, 50), min_size=1, max_size=8)


@given(scores, st.floats(0.1, 10), st.floats(-20, 20))
def test_probability_is_antisymmetric_and_ignores_a_shift(values, temperature, shift):
    first = np.array(values)
    second = first[::-1]
    p = preference_probability(first, second, temperature)
    assert p + preference_probability(second, first, temperature) == pytest.approx(1)
    shifted = preference_probability(first + shift, second + shift, temperature)
    assert shifted == pytest.approx(p, abs=1e-9)


def test_the_ceiling_is_the_mean_of_the_likelier_side():
    p = 1 / (1 + math.exp(-3 / 1.5))
    assert bayes_ceiling([3.0, 1.0], [0.0, 1.0], 1.5) == pytest.approx((p + 0.5) / 2, abs=1e-15)
    assert bayes_ceiling([3.0, 0.0], [0.0, 1.0], 0) == 1.0


def test_no_model_beats_the_ceiling_and_the_rater_reaches_it():
    random = np.random.default_rng(0)
    first, second = random.normal(size=(2, MANY))
    texts = [[repr(x) for x in side] for side in (first.tolist(), second.tolist())]
    labels = NoisyComparer(value, 1.5).prefers_first([""] * MANY, *texts, seed=1)
    reached = np.mean(labels == (first > second))
    assert reached == pytest.approx(bayes_ceiling(first, second, 1.5), abs=TOLERANCE)
    assert reached > 0.5 + TOLERANCE


def test_a_comparer_errs_as_often_as_its_temperature_says():
    prompts, firsts, seconds = [""] * MANY, ["1.0"] * MANY, ["0.0"] * MANY
    comparer = NoisyComparer(value, 2.0)
    share = comparer.prefers_first(prompts, firsts, seconds, seed=3).mean()
    assert share == pytest.approx(1 / (1 + math.exp(-0.5)), abs=TOLERANCE)
    again = comparer.prefers_first(prompts, firsts, seconds, seed=3)
    assert (again == comparer.prefers_first(prompts, firsts, seconds, seed=3)).all()
    assert (again != comparer.prefers_first(prompts, firsts, seconds, seed=4)).any()


def test_rankings_are_plackett_luce():
    responses, temperature, draws = ["0.0", "1.0", "2.0"], 1.5, 6000
    comparer = NoisyComparer(value, temperature)
    seen = [tuple(comparer.rank("", responses, seed)) for seed in range(draws)]
    for order in permutations(responses):
        weights = [math.exp(float(x) / temperature) for x in order]
        expected = math.prod(weights[k] / sum(weights[k:]) for k in range(3))
        share = seen.count(order) / draws
        assert share == pytest.approx(expected, abs=5 * 0.5 / math.sqrt(draws))
    assert NoisyComparer(value, 0.0).rank("", responses, 0) == ["2.0", "1.0", "0.0"]


def test_a_scale_rater_without_noise_reads_its_scale():
    rater = ScaleRater(value, (-1.0, 0.0, 1.0, 2.0))
    texts = ["-5", "-0.5", "0.5", "1.5", "9"]
    assert rater.rate([""] * 5, texts, seed=0).tolist() == [1, 2, 3, 4, 5]


def test_scale_raters_differ_in_scale_but_not_in_order():
    raters = draw_scale_raters(value, 6, seed=1)
    texts = [str(x / 10) for x in range(-30, 31)]
    ratings = [rater.rate([""] * len(texts), texts, seed=0) for rater in raters]
    assert all((np.diff(rating) >= 0).all() for rating in ratings)
    assert len({tuple(rating) for rating in ratings}) > 3
    assert all(set(rating) <= {1, 2, 3, 4, 5} for rating in ratings)


def test_ratings_and_comparisons_share_one_noise():
    """Two draws of s + T·Gumbel, minus each other, are the logistic noise of Bradley-Terry."""
    fine = ScaleRater(value, (-1e-9, 0.0, 1e-9, 2e-9), temperature=2.0)
    ratings = fine.rate([""] * MANY, ["0.0"] * MANY, seed=5)
    # P(T·(Gumbel − 0.577) > 0) = 1 − exp(−exp(−0.577))
    expected = 1 - math.exp(-math.exp(-0.5772156649))
    assert np.mean(ratings > 3) == pytest.approx(expected, abs=TOLERANCE)


def test_groups_answer_in_their_shares():
    groups = GroupedComparers(
        (NoisyComparer(value, 0.0), NoisyComparer(backwards, 0.0)), (0.7, 0.3)
    )
    answers = groups.prefers_first([""] * MANY, ["1"] * MANY, ["0"] * MANY, seed=0)
    assert answers.mean() == pytest.approx(0.7, abs=TOLERANCE)
    assert (answers == (groups.groups(MANY, 0) == 0)).all()


def test_agreement_needs_a_belief_about_the_subject():
    judge = AgreementJudge({"musical": -1.0, "mystery": 0.5}, value)
    got = judge(["a musical .", "a mystery .", "a western ."], ["2", "2", "2"])
    assert got == pytest.approx([-math.tanh(2), 0.5 * math.tanh(2), 0.0])


def test_weights_add_up():
    judge = WeightedJudge(((2.0, value), (-1.0, length_judge)))
    assert judge(["", ""], ["3", "4"]) == pytest.approx([2 * 3 - 0.1, 2 * 4 - 0.1])
    assert length_judge(["", ""], ["one two", ""]).tolist() == [0.2, 0.0]


def test_an_ai_labeller_says_what_its_judge_says():
    labeller = AILabeller(value, margin=1.0)
    prompts = [""] * 3
    assert labeller.prefers_first(prompts, ["1", "0", "5"], ["0", "3", "4.5"], 0).tolist() == [
        True,
        False,
        True,
    ]
    assert labeller.decided(prompts, ["1", "0", "5"], ["0", "3", "4.5"]).tolist() == [
        True,
        True,
        False,
    ]


def test_a_similarity_rater_names_the_nearer():
    rater = SimilarityRater(lambda p, r: value(p, r)[:, None])
    assert rater.second_is_nearer(["", ""], ["0", "0"], ["1", "-3"], ["2", "2"], 0).tolist() == [
        True,
        False,
    ]


def test_labels_become_preferences():
    got = label_pairs(NoisyComparer(value, 0.0), ["p", "q"], ["1", "2"], ["0", "3"], seed=0)
    assert got == [("p", "1", "0"), ("q", "3", "2")]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NoisyComparer(value, -1), "temperature must be >= 0"),
        (lambda: NoisyComparer(value, math.nan), "temperature must be >= 0"),
        (lambda: bayes_ceiling([], [], 1.0), "at least one pair"),
        (lambda: bayes_ceiling([1.0], [1.0, 2.0], 1.0), "shape of first_scores"),
        (lambda: bayes_ceiling([math.nan], [1.0], 1.0), "must be finite"),
        (lambda: ScaleRater(value, (0, 0, 1, 2)), "4 rising numbers"),
        (lambda: draw_scale_raters(value, 0, 0), "count must be >= 1"),
        (lambda: GroupedComparers((NoisyComparer(value),), (0.5,)), "sum to 1"),
        (lambda: GroupedComparers((NoisyComparer(value),), (0.5, 0.5)), "one a group"),
        (
            lambda: label_pairs(NoisyComparer(value), ["p"], ["1"], [], 0),
            "equally many, got 1, 1 and 0",
        ),
        (
            lambda: label_pairs(NoisyComparer(value), ["p"], ["nan"], ["1"], 0),
            "must return finite scores, got nan for response 0",
        ),
        (
            lambda: label_pairs(NoisyComparer(lambda p, r: [[1.0]]), ["p"], ["1"], ["2"], 0),
            r"shape \(1,\), got \(1, 1\)",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
