"""Exact and sampled results of games."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_lessons.evaluation import Rates, exact_rates, sampled_rates
from rlhf_lessons.worlds.tic_tac_toe import minimax_policy, random_policy


def test_exact_rates_of_random_play():
    rates = exact_rates(random_policy(), random_policy(), "X")
    assert (rates.win, rates.draw, rates.loss) == pytest.approx((737 / 1260, 8 / 63, 121 / 420))
    both = exact_rates(random_policy(), random_policy(), "both")
    assert both.win == pytest.approx(both.loss) and both.draw == pytest.approx(8 / 63)
    assert rates.standard_error("win") == 0.0


def test_sampled_rates_agree_with_the_exact_ones():
    exact = exact_rates(minimax_policy(), random_policy(), "O")
    sampled = sampled_rates(minimax_policy(), random_policy(), 20_000, seed=1, agent_plays="O")
    assert sampled.win + sampled.draw + sampled.loss == pytest.approx(1)
    assert abs(sampled.win - exact.win) < 5 * sampled.standard_error("win")
    assert sampled.loss == 0 and sampled.win != exact.win
    again = sampled_rates(minimax_policy(), random_policy(), 20_000, seed=1, agent_plays="O")
    assert again == sampled


def test_the_standard_error_is_that_of_a_share():
    rates = Rates(0.5, 0.3, 0.2, games=400)
    assert rates.standard_error("win") == pytest.approx(0.025)
    assert rates.standard_error("loss") == pytest.approx(np.sqrt(0.16 / 400))
    assert str(rates) == "won 50.00%, drawn 30.00%, lost 20.00% (400 games)"
    with pytest.raises(ValueError, match="share must be 'win', 'draw' or 'loss', got 'wins'"):
        rates.standard_error("wins")
