"""How often an agent wins, draws and loses at tic-tac-toe: exactly, and by playing.

What is here: the exact rates by summation over all games, and the rates seen in a sample with their
standard errors. Lesson 1 judges its agents with them.

Left out on purpose: ratings such as Elo, which lose who beats whom.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rlhf_lessons.worlds.tic_tac_toe import play_games, result_probabilities

__all__ = ["Rates", "exact_rates", "sampled_rates"]


@dataclass(frozen=True)
class Rates:
    """How games end for the agent.

    Attributes:
        win: share of games won.
        draw: share of games drawn.
        loss: share of games lost.
        games: how many games were played; None when the shares are exact.
    """

    win: float
    draw: float
    loss: float
    games: int | None = None

    def standard_error(self, share: str) -> float:
        """Return the standard error √(p(1-p)/n) of one of the shares; 0 when they are exact.

        Args:
            share: ``"win"``, ``"draw"`` or ``"loss"``.

        Returns:
            The standard error, a share like the others.

        Raises:
            ValueError: there is no such share.
        """
        if share not in ("win", "draw", "loss"):
            raise ValueError(
                f"Rates.standard_error: share must be 'win', 'draw' or 'loss', got {share!r}"
            )
        p = getattr(self, share)
        return 0.0 if self.games is None else math.sqrt(p * (1 - p) / self.games)

    def __str__(self) -> str:
        source = "exact" if self.games is None else f"{self.games:,} games"
        return f"won {self.win:.2%}, drawn {self.draw:.2%}, lost {self.loss:.2%} ({source})"


def exact_rates(policy: np.ndarray, opponent: np.ndarray, agent_plays: str = "X") -> Rates:
    """Return the exact chances of each result, summed over all games that can be played.

    P(win) = Σ_τ p(τ)·1[τ is won], with p(τ) = p(s₀)·Π π(a|s)·p(s'|s, a)

    Args:
        policy: (S, 9) move probabilities of the agent.
        opponent: (S, 9) move probabilities of the opponent.
        agent_plays: ``"X"``, ``"O"``, or ``"both"`` for half of the games each.

    Returns:
        The rates; they sum to 1.

    Raises:
        ValueError: a table is no policy, or the side is unknown.
    """
    sides = "XO" if agent_plays == "both" else (agent_plays,)
    win, draw, loss = np.mean([result_probabilities(policy, opponent, s) for s in sides], axis=0)
    return Rates(float(win), float(draw), float(loss))


def sampled_rates(
    policy: np.ndarray,
    opponent: np.ndarray,
    games: int,
    seed: int,
    agent_plays: str = "X",
) -> Rates:
    """Play games and count the results.

    Args:
        policy: (S, 9) move probabilities of the agent.
        opponent: (S, 9) move probabilities of the opponent.
        games: how many games to play.
        seed: seed of all chance.
        agent_plays: ``"X"``, ``"O"``, or ``"both"`` for half of the games each.

    Returns:
        The rates, with the number of games behind them.

    Raises:
        ValueError: a table is no policy, the number of games is not positive, or the side unknown.
    """
    playouts = play_games(policy, opponent, games, np.random.default_rng(seed), agent_plays)
    results = playouts.results
    return Rates(
        win=float((results > 0).mean()),
        draw=float((results == 0).mean()),
        loss=float((results < 0).mean()),
        games=games,
    )
