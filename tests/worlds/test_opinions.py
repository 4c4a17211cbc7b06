"""The smallest world: scores by hand, habits that are probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_lessons.worlds import OPINION_WORDS, opinion_habits, opinion_score


@pytest.mark.parametrize(
    ("response", "score"),
    [
        ("", -1.0),
        ("good", 1.0),
        ("very great", 3.0),
        ("not good", -0.6),
        ("not dull", 0.9),
        ("not very dull", 1.35),
        ("good and very great", 4.0),
        ("good great", 1 + 2 - 1),  # no "and"
        ("good and good", 1 - 1),  # said once
        ("very very great", 3.0 - 1),
        ("great very", 2 - 1 - 1),  # nothing between, nothing behind
        ("and", -1 - 1),  # nothing before it, nothing behind it
        ("not", -1.0),
        ("good and", 1 - 1),
        ("not and good", 1 - 1),  # the modifier is lost
    ],
)
def test_scores_by_hand(response, score):
    assert opinion_score(["the film was"], [response])[0] == pytest.approx(score)


def test_habits_are_probabilities_and_nothing_is_impossible():
    rows = opinion_habits(["", *OPINION_WORDS, "not very"])
    assert rows.shape == (8, 7)
    np.testing.assert_allclose(rows.sum(1), 1, atol=1e-12)
    assert rows.min() > 0
    np.testing.assert_array_equal(rows[-1], rows[1])  # the last word alone counts


def test_words_of_other_worlds_are_named():
    with pytest.raises(ValueError, match="'superb'"):
        opinion_score([""], ["superb"])
    with pytest.raises(ValueError, match="'superb'"):
        opinion_habits(["superb"])
    with pytest.raises(ValueError, match="as many as the 2 prompts"):
        opinion_score(["", ""], ["good"])
