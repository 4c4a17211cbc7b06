"""The oldest algorithms of reinforcement learning, on tables, playing tic-tac-toe.

What is here: learning V^π by Monte Carlo and by temporal differences, Q-learning, and REINFORCE
with and without a baseline; one loop each, for lesson 1. The loops take the formulas they use as
arguments, so a learner's own function drops in, and yield one frozen record a step. A step is a
batch of games, played side by side with the policy held still, then learned from.

Where exact answers exist the record holds the distance to them.

Left out on purpose: eligibility traces, function approximation, replay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from rlhf_lessons.formulas.credit import discounted_returns
from rlhf_lessons.formulas.tabular import monte_carlo_values, reinforce_gradient, td_update
from rlhf_lessons.models.tabular import ActionValueTable, SoftmaxPolicy, ValueTable
from rlhf_lessons.worlds.tic_tac_toe import (
    Playouts,
    exact_values,
    expected_return,
    greedy_policy,
    mix_policies,
    play_games,
    random_policy,
    state_space,
    visit_probabilities,
)

__all__ = [
    "ControlStep",
    "MonteCarlo",
    "QSettings",
    "ReinforceSettings",
    "TemporalDifference",
    "ValueSettings",
    "ValueStep",
    "train_q",
    "train_reinforce",
    "train_values",
]


# --- settings and records -------------------------------------------------------------------------


@dataclass(frozen=True)
class ValueSettings:
    """How to learn V.

    Attributes:
        steps: batches of games.
        games_per_step: games in a batch.
        gamma: discount γ, 0 to 1.
        agent_plays: ``"X"``, ``"O"`` or ``"both"``.
        seed: seed of all chance.
    """

    steps: int = 100
    games_per_step: int = 100
    gamma: float = 1.0
    agent_plays: str = "X"
    seed: int = 0

    def __post_init__(self) -> None:
        _check_settings(self)


@dataclass(frozen=True)
class QSettings:
    """How to learn Q.

    Attributes:
        steps: batches of games.
        games_per_step: games in a batch.
        gamma: discount γ, 0 to 1.
        explore: chance of a random move instead of the best known one, 0 to 1.
        step_decay: how the step size α = visits^(-step_decay) of each table entry falls, above 0.5
            and at most 1, so that the noise of the replies averages out.
        agent_plays: ``"X"``, ``"O"`` or ``"both"``.
        seed: seed of all chance.
    """

    steps: int = 300
    games_per_step: int = 100
    gamma: float = 1.0
    explore: float = 0.3
    step_decay: float = 0.7
    agent_plays: str = "both"
    seed: int = 0

    def __post_init__(self) -> None:
        _check_settings(self)
        if not 0 <= self.explore <= 1:
            raise ValueError(f"QSettings: explore must be between 0 and 1, got {self.explore!r}")
        if not 0.5 < self.step_decay <= 1:
            raise ValueError(
                "QSettings: step_decay must be above 0.5 and at most 1 for the values to settle, "
                f"got {self.step_decay!r}"
            )


@dataclass(frozen=True)
class ReinforceSettings:
    """How to learn a softmax policy.

    Attributes:
        steps: batches of games.
        games_per_step: games in a batch.
        learning_rate: how far the logits follow the gradient, summed over the batch.
        gamma: discount γ, 0 to 1.
        agent_plays: ``"X"``, ``"O"`` or ``"both"``.
        seed: seed of all chance.
    """

    steps: int = 300
    games_per_step: int = 100
    learning_rate: float = 0.1
    gamma: float = 1.0
    agent_plays: str = "X"
    seed: int = 0

    def __post_init__(self) -> None:
        _check_settings(self)
        if not self.learning_rate > 0:
            raise ValueError(
                f"ReinforceSettings: learning_rate must be positive, got {self.learning_rate!r}"
            )


@dataclass(frozen=True)
class ValueStep:
    """What one batch of games did to V.

    Attributes:
        step: which batch, from 1.
        total: how many batches there will be.
        games: games played so far.
        mean_error: Σ_s ρ_π(s)·|V(s) - V^π(s)|, over the states that the agent meets.
        max_error: the largest |V(s) - V^π(s)| over the states that the agent can meet.
    """

    step: int
    total: int
    games: int
    mean_error: float
    max_error: float


@dataclass(frozen=True)
class ControlStep:
    """What one batch of games did to a policy.

    Attributes:
        step: which batch, from 1.
        total: how many batches there will be.
        games: games played so far.
        mean_return: mean result of the games of this batch, as they were played.
        objective: the exact J(π) of the learned policy (for Q: of the greedy one) against this
            opponent.
        weight_variance: variance of the weights of ∇ log π in this batch (0 for Q-learning).
    """

    step: int
    total: int
    games: int
    mean_return: float
    objective: float
    weight_variance: float = 0.0


def _check_settings(settings) -> None:
    name = type(settings).__name__
    for field in ("steps", "games_per_step"):
        number = getattr(settings, field)
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"{name}: {field} must be a whole number, at least 1, got {number!r}")
    if not 0 <= settings.gamma <= 1:
        raise ValueError(f"{name}: gamma must be between 0 and 1, got {settings.gamma!r}")
    if settings.agent_plays not in ("X", "O", "both"):
        raise ValueError(
            f"{name}: agent_plays must be 'X', 'O' or 'both', got {settings.agent_plays!r}"
        )


# --- learning V -----------------------------------------------------------------------------------


class ValueMethod(Protocol):
    """How a batch of games changes a value table."""

    def __call__(self, table: ValueTable, playouts: Playouts, gamma: float) -> None:
        """Update the table in place."""


@dataclass(frozen=True)
class MonteCarlo:
    """Learn from whole games: V(s) is the mean of the returns seen after s.

    Attributes:
        returns: the formula for discounted returns.
        average: the formula that averages returns by state.
    """

    returns: Callable[..., Tensor] = discounted_returns
    average: Callable[..., Tensor] = monte_carlo_values

    def __call__(self, table: ValueTable, playouts: Playouts, gamma: float) -> None:
        """Blend the means of this batch into the table, each weighed by its number of visits.

        Args:
            table: the values to update, in place.
            playouts: a batch of finished games.
            gamma: discount γ.
        """
        states, mask = torch.from_numpy(playouts.states), torch.from_numpy(playouts.mask)
        returns = self.returns(torch.from_numpy(playouts.rewards), mask, gamma)
        batch_values = self.average(states, returns, mask, len(table.values))
        batch_visits = torch.bincount(states[mask], minlength=len(table.values))
        table.visits += batch_visits
        table.values += (batch_values - table.values) * batch_visits / table.visits.clamp(min=1)


@dataclass(frozen=True)
class TemporalDifference:
    """Learn from each time step: move V(s) towards r + γ·V(s').

    Attributes:
        update: the formula that moves one value.
        step_decay: α = visits^(-step_decay): large at first, small once the estimate is good.
    """

    update: Callable[..., float] = td_update
    step_decay: float = 0.8

    def __call__(self, table: ValueTable, playouts: Playouts, gamma: float) -> None:
        """Go through the games, one time step after the other.

        Args:
            table: the values to update, in place.
            playouts: a batch of finished games.
            gamma: discount γ.
        """
        # Plain lists: reading one number out of a tensor costs more than the update itself.
        values, visits = table.values.tolist(), table.visits.tolist()
        for states, rewards in _games(playouts):
            for time, state in enumerate(states):
                finished = time == len(states) - 1
                next_value = 0.0 if finished else values[states[time + 1]]
                visits[state] += 1
                step_size = visits[state] ** -self.step_decay
                values[state] = self.update(
                    values[state], rewards[time], next_value, finished, step_size, gamma
                )
        table.values.copy_(torch.tensor(values, dtype=torch.float64))
        table.visits.copy_(torch.tensor(visits))


def train_values(
    table: ValueTable,
    policy: np.ndarray,
    opponent: np.ndarray,
    settings: ValueSettings | None = None,
    *,
    method: ValueMethod | None = None,
) -> Iterator[ValueStep]:
    """Learn V^π of a policy that does not change, by watching it play.

    Args:
        table: the values to learn, changed in place.
        policy: (S, 9) move probabilities π of the agent.
        opponent: (S, 9) move probabilities of the opponent.
        settings: how to learn; the defaults of :class:`ValueSettings` when left out.
        method: :class:`MonteCarlo` or :class:`TemporalDifference`, with the formulas to use; Monte
            Carlo when left out.

    Yields:
        One record a batch, with the distance to the exact V^π.

    Raises:
        ValueError: a table has the wrong shape or is no policy.
    """
    settings = ValueSettings() if settings is None else settings
    method = MonteCarlo() if method is None else method
    _check_table("train_values", table.values, (len(state_space()),))
    generator = np.random.default_rng(settings.seed)
    exact = exact_values(policy, opponent, settings.gamma)
    visited = _agent_visits(policy, opponent, settings.agent_plays)
    for step in range(1, settings.steps + 1):
        playouts = play_games(
            policy, opponent, settings.games_per_step, generator, settings.agent_plays
        )
        method(table, playouts, settings.gamma)
        error = np.abs(table.values.numpy() - exact)
        yield ValueStep(
            step=step,
            total=settings.steps,
            games=step * settings.games_per_step,
            mean_error=float(visited @ error / visited.sum()),
            max_error=float(error[visited > 0].max()),
        )


# --- learning to play -----------------------------------------------------------------------------


def train_q(
    table: ActionValueTable,
    opponent: np.ndarray | None,
    settings: QSettings | None = None,
    *,
    update: Callable[..., float] = td_update,
) -> Iterator[ControlStep]:
    """Learn Q of the best policy by Q-learning: act with exploration, learn about acting best.

    Q(s, a) ← Q(s, a) + α·(r + γ·max_b Q(s', b) - Q(s, a))

    Off-policy: the games are played with random moves mixed in, the values are those of the policy
    without them.

    Args:
        table: the values to learn, changed in place.
        opponent: (S, 9) move probabilities of the opponent; None plays the agent against itself.
        settings: how to learn; the defaults of :class:`QSettings` when left out.
        update: the formula that moves one value.

    Yields:
        One record a batch, with the exact objective of the greedy policy learned so far.

    Raises:
        ValueError: a table has the wrong shape or is no policy.

    Source:
        Watkins & Dayan 1992, "Q-learning", eq. 1.
    """
    settings = QSettings() if settings is None else settings
    space = state_space()
    _check_table("train_q", table.values, space.legal.shape)
    generator = np.random.default_rng(settings.seed)
    squares = [np.flatnonzero(row).tolist() for row in space.legal]
    # Plain lists: reading one number out of a tensor costs more than the update itself.
    values, visits = table.values.tolist(), table.visits.tolist()
    uniform = random_policy()
    for step in range(1, settings.steps + 1):
        greedy = greedy_policy(table.values.numpy())
        behaviour = mix_policies(greedy, uniform, settings.explore)
        playouts = play_games(
            behaviour,
            behaviour if opponent is None else opponent,
            settings.games_per_step,
            generator,
            settings.agent_plays,
        )
        for (states, rewards), actions in zip(
            _games(playouts), playouts.actions.tolist(), strict=True
        ):
            for time, state in enumerate(states):
                finished, action = time == len(states) - 1, actions[time]
                next_value = 0.0
                if not finished:
                    next_state = states[time + 1]
                    next_value = max(values[next_state][square] for square in squares[next_state])
                visits[state][action] += 1
                step_size = visits[state][action] ** -settings.step_decay
                values[state][action] = update(
                    values[state][action],
                    rewards[time],
                    next_value,
                    finished,
                    step_size,
                    settings.gamma,
                )
        touched = np.unique(playouts.states[playouts.mask]).tolist()
        table.values[touched] = torch.tensor([values[row] for row in touched], dtype=torch.float64)
        table.visits[touched] = torch.tensor([visits[row] for row in touched])
        learned = greedy_policy(table.values.numpy())
        yield _control_step(step, settings, playouts, learned, opponent)


def train_reinforce(
    policy: SoftmaxPolicy,
    opponent: np.ndarray | None,
    settings: ReinforceSettings | None = None,
    *,
    baseline: ValueTable | None = None,
    returns: Callable[..., Tensor] = discounted_returns,
    gradient: Callable[..., Tensor] = reinforce_gradient,
) -> Iterator[ControlStep]:
    """Learn a softmax policy by REINFORCE: make moves that were followed by wins more likely.

    z ← z + η·Σ_games Σ_t (G_t - b(s_t))·∇ log π(a_t|s_t)

    On-policy: each gradient is estimated from games that the policy of that moment has played.

    Args:
        policy: the policy to learn, changed in place.
        opponent: (S, 9) move probabilities of the opponent; None plays the agent against itself.
        settings: how to learn; the defaults of :class:`ReinforceSettings` when left out.
        baseline: a value table b(s), learned along the way as a moving mean of the returns and used
            before it sees the batch, so that it does not depend on the actions it judges; None
            weighs with the return alone.
        returns: the formula for discounted returns.
        gradient: the formula for the weighted gradient of log π.

    Yields:
        One record a batch, with the exact objective of the policy learned so far.

    Raises:
        ValueError: a table has the wrong shape or is no policy.

    Source:
        Williams 1992, "Simple statistical gradient-following algorithms".
    """
    settings = ReinforceSettings() if settings is None else settings
    _check_table("train_reinforce", policy.logits, state_space().legal.shape)
    if baseline is not None:
        _check_table("train_reinforce", baseline.values, (len(state_space()),))
    generator = np.random.default_rng(settings.seed)
    for step in range(1, settings.steps + 1):
        probabilities = policy.probabilities().numpy()
        playouts = play_games(
            probabilities,
            probabilities if opponent is None else opponent,
            settings.games_per_step,
            generator,
            settings.agent_plays,
        )
        mask = torch.from_numpy(playouts.mask)
        states = torch.from_numpy(playouts.states)[mask]
        actions = torch.from_numpy(playouts.actions)[mask]
        returns_seen = returns(torch.from_numpy(playouts.rewards), mask, settings.gamma)[mask]
        weights = returns_seen
        if baseline is not None:
            weights = returns_seen - baseline.values[states]
            _follow_returns(baseline, states, returns_seen)
        rows = gradient(policy.logits[states], policy.legal[states], actions, weights)
        policy.logits.index_add_(0, states, settings.learning_rate * rows)
        learned = policy.probabilities().numpy()
        yield _control_step(
            step, settings, playouts, learned, opponent, float(weights.var(unbiased=False))
        )


def _follow_returns(baseline: ValueTable, states: Tensor, returns: Tensor) -> None:
    """Move b(s) towards the batch's mean return of s; the policy changes, so old returns fade."""
    size = len(baseline.values)
    mean = monte_carlo_values(
        states[None], returns[None], torch.ones_like(states[None]).bool(), size
    )
    count = torch.bincount(states, minlength=size)
    baseline.visits += count
    # Like a running mean at first; later like a mean of the last 200 visits or so.
    share = count / torch.minimum(baseline.visits, count + 200).clamp(min=1)
    baseline.values += share * (mean - baseline.values)


# --- shared by the loops --------------------------------------------------------------------------


def _games(playouts: Playouts) -> Iterator[tuple[list[int], list[float]]]:
    """The states and rewards of each game as lists, padding cut off."""
    lengths = playouts.mask.sum(axis=1).tolist()
    for states, rewards, length in zip(
        playouts.states.tolist(), playouts.rewards.tolist(), lengths, strict=True
    ):
        yield states[:length], rewards[:length]


def _agent_visits(policy: np.ndarray, opponent: np.ndarray, agent_plays: str) -> np.ndarray:
    """How often a game passes through each position on which the agent moves."""
    space = state_space()
    sides = "XO" if agent_plays == "both" else agent_plays
    visits = np.zeros(len(space))
    for side in sides:
        turn = (space.marks % 2 == "XO".index(side)) & ~space.finished
        visits += turn * visit_probabilities(policy, opponent, side) / len(sides)
    return visits


def _control_step(
    step: int,
    settings: QSettings | ReinforceSettings,
    playouts: Playouts,
    learned: np.ndarray,
    opponent: np.ndarray | None,
    weight_variance: float = 0.0,
) -> ControlStep:
    opponent = learned if opponent is None else opponent
    sides = "XO" if settings.agent_plays == "both" else settings.agent_plays
    return ControlStep(
        step=step,
        total=settings.steps,
        games=step * settings.games_per_step,
        mean_return=float(playouts.results.mean()),
        objective=float(
            np.mean([expected_return(learned, opponent, side, settings.gamma) for side in sides])
        ),
        weight_variance=weight_variance,
    )


def _check_table(function: str, table: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(table.shape) != tuple(shape):
        raise ValueError(
            f"{function}: the table must have shape {tuple(shape)}, one row for each position of "
            f"the game, got {tuple(table.shape)}"
        )
