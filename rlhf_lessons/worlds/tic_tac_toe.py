"""Tic-tac-toe, small enough that every value is known exactly.

What is here: an immutable board, a table of all 5,478 positions that play can reach, opponents,
a fast simulator, and the exact answers that learning is compared with: V and Q of any policy
against any opponent, the best response, minimax. Lesson 1 stands on it.

The view is the agent's. One time step is a move of the agent *and* the opponent's reply, so the
opponent is part of the environment: p(s'|s, a) is the chance of the reply that leads to s'. The
reward is +1, 0 or -1 when the game ends (won, drawn, lost) and 0 before. A policy is an array
(S, 9) of move probabilities, one row for each position, both for X to move and for O to move; an
opponent is another such array. So one table plays either side, and self-play is a policy against
itself.

Left out on purpose: merging boards that are mirror images (eight times smaller, and harder to
read), and any board size but three by three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

__all__ = [
    "Board",
    "Playouts",
    "StateSpace",
    "advantages_of",
    "best_response",
    "exact_q_values",
    "exact_values",
    "expected_return",
    "greedy_policy",
    "minimax_policy",
    "minimax_values",
    "mix_policies",
    "play_games",
    "q_values_from",
    "random_policy",
    "result_probabilities",
    "state_space",
    "visit_probabilities",
]

SQUARES = 9
LINES = (
    (0, 1, 2),
    (3, 4, 5),
    (6, 7, 8),
    (0, 3, 6),
    (1, 4, 7),
    (2, 5, 8),
    (0, 4, 8),
    (2, 4, 6),
)


@dataclass(frozen=True)
class Board:
    """One position: nine squares, numbered 0 to 8 from left to right and top to bottom.

    A board never changes; :meth:`step` returns the next one. X moves first.

    Attributes:
        cells: nine characters, ``X``, ``O`` or ``.`` for an empty square.

    Raises:
        ValueError: the cells are not nine of ``X``, ``O``, ``.``, or play cannot reach them.
    """

    cells: str = "." * SQUARES

    def __post_init__(self) -> None:
        if not isinstance(self.cells, str) or len(self.cells) != 9 or set(self.cells) - set("XO."):
            raise ValueError(
                f"Board: cells must be 9 characters out of 'X', 'O' and '.', got {self.cells!r}"
            )
        crosses, noughts = self.cells.count("X"), self.cells.count("O")
        if crosses - noughts not in (0, 1):
            raise ValueError(
                "Board: X moves first and the players alternate, so X has as many marks as O or "
                f"one more; got {crosses} X and {noughts} O in {self.cells!r}"
            )
        if any(self._has_line(mark) and self._last_mover != mark for mark in "XO"):
            raise ValueError(f"Board: play went on after a player had won in {self.cells!r}")

    @property
    def player(self) -> str:
        """Who moves next, ``X`` or ``O`` (on a finished board: who would have moved)."""
        return "X" if self.cells.count("X") == self.cells.count("O") else "O"

    @property
    def winner(self) -> str | None:
        """The player with three in a row, or None."""
        return self._last_mover if self._has_line(self._last_mover) else None

    @property
    def finished(self) -> bool:
        """Whether the game is over: somebody won, or no square is empty."""
        return self.winner is not None or "." not in self.cells

    @property
    def index(self) -> int:
        """The row of this position in every table of :func:`state_space`."""
        return state_space().index_of[self.cells]

    def legal_moves(self) -> tuple[int, ...]:
        """Return the empty squares, in order; none when the game is over."""
        if self.finished:
            return ()
        return tuple(square for square, mark in enumerate(self.cells) if mark == ".")

    def step(self, square: int) -> Board:
        """Return the board after the player to move has marked a square.

        Args:
            square: an empty square, 0 to 8.

        Returns:
            The next board; this one is unchanged.

        Raises:
            ValueError: the game is over, or the square is taken or not on the board.
        """
        if self.finished:
            outcome = f"{self.winner} has won" if self.winner else "it is a draw"
            raise ValueError(f"Board.step: the game is over ({outcome}): {self.cells!r}")
        if square not in range(SQUARES):
            raise ValueError(f"Board.step: square must be one of 0 to 8, got {square!r}")
        if self.cells[square] != ".":
            raise ValueError(
                f"Board.step: square {square} is taken by {self.cells[square]}; "
                f"legal moves are {self.legal_moves()}"
            )
        return Board(self.cells[:square] + self.player + self.cells[square + 1 :])

    @property
    def _last_mover(self) -> str:
        return "O" if self.player == "X" else "X"

    def _has_line(self, mark: str) -> bool:
        return any(all(self.cells[square] == mark for square in line) for line in LINES)

    def __str__(self) -> str:
        return "\n".join(" ".join(self.cells[row : row + 3]) for row in (0, 3, 6))


@dataclass(frozen=True)
class StateSpace:
    """Every position that play can reach, as tables; row 0 is the empty board.

    Rows are ordered by the number of marks, so a move always leads to a later row.

    Attributes:
        boards: the S = 5,478 boards.
        next_state: (S, 9) the row after marking a square, -1 where that is illegal.
        legal: (S, 9) bool, the squares that may be marked; none on a finished board.
        finished: (S,) bool, whether the game is over.
        last_mover_won: (S,) bool, whether the last mark made three in a row.
        marks: (S,) how many squares are taken; X is to move where it is even.
    """

    boards: tuple[Board, ...]
    next_state: np.ndarray
    legal: np.ndarray
    finished: np.ndarray
    last_mover_won: np.ndarray
    marks: np.ndarray

    @cached_property
    def index_of(self) -> dict[str, int]:
        """The row of each position, by its nine cells."""
        return {board.cells: row for row, board in enumerate(self.boards)}

    @cached_property
    def layers(self) -> tuple[np.ndarray, ...]:
        """The rows with 0, 1, ... 9 marks: dynamic programming goes through them backwards."""
        return tuple(np.flatnonzero(self.marks == marks) for marks in range(SQUARES + 1))

    def __len__(self) -> int:
        return len(self.boards)


@lru_cache(maxsize=1)
def state_space() -> StateSpace:
    """Return the tables of all reachable positions; built once, then shared and read-only.

    Returns:
        The state space: 5,478 positions, of which 958 are finished.
    """
    layers = [[Board()]]
    while layers[-1]:
        following: dict[str, Board] = {}
        for board in layers[-1]:
            for square in board.legal_moves():
                child = board.step(square)
                following.setdefault(child.cells, child)
        layers.append([following[cells] for cells in sorted(following)])
    boards = tuple(board for layer in layers for board in layer)
    row_of = {board.cells: row for row, board in enumerate(boards)}

    next_state = np.full((len(boards), SQUARES), -1)
    for row, board in enumerate(boards):
        for square in board.legal_moves():
            next_state[row, square] = row_of[board.step(square).cells]
    space = StateSpace(
        boards=boards,
        next_state=next_state,
        legal=next_state >= 0,
        finished=np.array([board.finished for board in boards]),
        last_mover_won=np.array([board.winner is not None for board in boards]),
        marks=np.array([SQUARES - board.cells.count(".") for board in boards]),
    )
    for table in (next_state, space.legal, space.finished, space.last_mover_won, space.marks):
        table.flags.writeable = False
    return space


# --- policies -------------------------------------------------------------------------------------


def random_policy() -> np.ndarray:
    """Return the policy that picks each empty square with the same probability.

    Returns:
        (S, 9) move probabilities; the rows of finished boards are 0.
    """
    legal = state_space().legal
    return legal / np.maximum(legal.sum(axis=1, keepdims=True), 1)


def greedy_policy(q_values: np.ndarray, tolerance: float = 1e-9) -> np.ndarray:
    """Return the policy that picks a best move, sharing its probability among equally good ones.

    Args:
        q_values: (S, 9) the value of each move; illegal moves are ignored, whatever they hold.
        tolerance: moves this close to the best one count as equally good.

    Returns:
        (S, 9) move probabilities; the rows of finished boards are 0.
    """
    legal = state_space().legal
    q_values = np.where(legal, _table("greedy_policy", "q_values", q_values), -np.inf)
    best = legal & (q_values >= q_values.max(axis=1, keepdims=True) - tolerance)
    return best / np.maximum(best.sum(axis=1, keepdims=True), 1)


def mix_policies(first: np.ndarray, second: np.ndarray, weight: float) -> np.ndarray:
    """Return a policy that follows the second with probability ``weight``, drawn anew each move.

    (1 - w)·π₁(a|s) + w·π₂(a|s). Mixed with :func:`random_policy` it explores.

    Args:
        first: (S, 9) move probabilities.
        second: (S, 9) move probabilities.
        weight: how much of the second, 0 to 1.

    Returns:
        (S, 9) move probabilities.

    Raises:
        ValueError: the weight is outside 0 to 1, or a policy is not one.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"mix_policies: weight must be between 0 and 1, got {weight!r}")
    first = _policy("mix_policies", "first", first)
    return (1 - weight) * first + weight * _policy("mix_policies", "second", second)


@lru_cache(maxsize=1)
def minimax_values() -> np.ndarray:
    """Return what each position is worth to the player to move, when both play perfectly.

    M(s) = max_a -M(s·a), and -1 on a board that the other player has won.

    Returns:
        (S,) values in {-1, 0, 1}, read-only.
    """
    space = state_space()
    values = np.where(space.last_mover_won, -1.0, 0.0)
    for rows in reversed(space.layers):
        rows = rows[~space.finished[rows]]
        after = 0.0 - values[space.next_state[rows]]  # 0 - v, so that no draw prints as -0
        values[rows] = np.where(space.legal[rows], after, -np.inf).max(axis=1, initial=-np.inf)
    values.flags.writeable = False
    return values


@lru_cache(maxsize=1)
def minimax_policy() -> np.ndarray:
    """Return perfect play: each move that keeps the minimax value, with the same probability.

    Returns:
        (S, 9) move probabilities, read-only; the rows of finished boards are 0.
    """
    space = state_space()
    policy = greedy_policy(np.where(space.legal, -minimax_values()[space.next_state], -np.inf))
    policy.flags.writeable = False
    return policy


# --- exact values ---------------------------------------------------------------------------------


def q_values_from(values: np.ndarray, opponent: np.ndarray, gamma: float = 1.0) -> np.ndarray:
    """Look one time step ahead: the agent's move, and every reply of the opponent.

    Q(s, a) = Σ_s' p(s'|s, a)·(r + γ·V(s')), the reward r being ±1 or 0 at the end, 0 before.

    Args:
        values: (S,) what each position is worth to the player to move, who is the agent.
        opponent: (S, 9) move probabilities of the opponent.
        gamma: discount γ of one time step, 0 to 1.

    Returns:
        (S, 9) Q values for the player to move; 0 where a move is illegal.

    Raises:
        ValueError: a table has another shape, or γ is outside 0 to 1.
    """
    space = state_space()
    values = _values("q_values_from", values)
    opponent = _policy("q_values_from", "opponent", opponent)
    _check_gamma("q_values_from", gamma)
    # Worth of a position to the player who is *not* to move: the agent, who waits for the reply.
    reply_values = np.where(
        space.finished[space.next_state],
        np.where(space.last_mover_won[space.next_state], -1.0, 0.0),
        gamma * values[space.next_state],
    )
    waiting = (opponent * np.where(space.legal, reply_values, 0.0)).sum(axis=1)
    waiting = np.where(space.finished, space.last_mover_won, waiting)
    return np.where(space.legal, waiting[space.next_state], 0.0)


def exact_values(policy: np.ndarray, opponent: np.ndarray, gamma: float = 1.0) -> np.ndarray:
    """Return V^π, the expected return of each position, by dynamic programming.

    V^π(s) = Σ_a π(a|s)·Q^π(s, a), from the full boards back to the empty one.

    Args:
        policy: (S, 9) move probabilities π of the agent, who is the player to move.
        opponent: (S, 9) move probabilities of the opponent.
        gamma: discount γ of one time step, 0 to 1.

    Returns:
        (S,) values in [-1, 1]; 0 on finished boards, where no reward is left to come.

    Raises:
        ValueError: a table has another shape or is no policy, or γ is outside 0 to 1.
    """
    policy = _policy("exact_values", "policy", policy)
    return _backward(lambda rows, q: (policy[rows] * q).sum(axis=1), opponent, gamma)


def exact_q_values(policy: np.ndarray, opponent: np.ndarray, gamma: float = 1.0) -> np.ndarray:
    """Return Q^π, the expected return of each move, by dynamic programming.

    Args:
        policy: (S, 9) move probabilities π that the agent follows after this move.
        opponent: (S, 9) move probabilities of the opponent.
        gamma: discount γ of one time step, 0 to 1.

    Returns:
        (S, 9) Q values for the player to move; 0 where a move is illegal.

    Raises:
        ValueError: a table has another shape or is no policy, or γ is outside 0 to 1.
    """
    return q_values_from(exact_values(policy, opponent, gamma), opponent, gamma)


def advantages_of(q_values: np.ndarray, policy: np.ndarray) -> np.ndarray:
    """Return how much better each move is than what the policy gets on average.

    A^π(s, a) = Q^π(s, a) - Σ_b π(b|s)·Q^π(s, b)

    Args:
        q_values: (S, 9) values of the moves.
        policy: (S, 9) move probabilities π.

    Returns:
        (S, 9) advantages; 0 where a move is illegal.
    """
    legal = state_space().legal
    q_values = np.where(legal, _table("advantages_of", "q_values", q_values), 0.0)
    policy = _policy("advantages_of", "policy", policy)
    return np.where(legal, q_values - (policy * q_values).sum(axis=1, keepdims=True), 0.0)


def best_response(opponent: np.ndarray, gamma: float = 1.0) -> np.ndarray:
    """Return the exact best policy against one opponent, by dynamic programming.

    π*(s) = argmax_a Q*(s, a); equally good moves share the probability.

    Args:
        opponent: (S, 9) move probabilities of the opponent.
        gamma: discount γ of one time step, 0 to 1.

    Returns:
        (S, 9) move probabilities.

    Raises:
        ValueError: the opponent is no policy, or γ is outside 0 to 1.
    """
    legal = state_space().legal
    values = _backward(
        lambda rows, q: np.where(legal[rows], q, -np.inf).max(axis=1, initial=-np.inf),
        opponent,
        gamma,
    )
    return greedy_policy(q_values_from(values, opponent, gamma))


def visit_probabilities(
    policy: np.ndarray, opponent: np.ndarray, agent_plays: str = "X"
) -> np.ndarray:
    """Return how likely a playout is to pass through each position: ρ_π, not normalised.

    ρ(s') = Σ_s ρ(s)·π(a|s) along the one move a that leads from s to s'; π is the mover's policy.

    Args:
        policy: (S, 9) move probabilities of the agent.
        opponent: (S, 9) move probabilities of the opponent.
        agent_plays: ``"X"`` or ``"O"``, the agent's side.

    Returns:
        (S,) probabilities; they sum to 1 over the finished boards, and over each depth until games
        begin to end. Divide by the sum over the agent's positions for a distribution.

    Raises:
        ValueError: a table is no policy, or the side is unknown.
    """
    space = state_space()
    agent_turn = _side("visit_probabilities", agent_plays)
    policy = _policy("visit_probabilities", "policy", policy)
    opponent = _policy("visit_probabilities", "opponent", opponent)
    visits = np.zeros(len(space))
    visits[0] = 1.0
    for marks, rows in enumerate(space.layers[:-1]):
        mover = policy if marks % 2 == agent_turn else opponent
        flow = visits[rows, None] * mover[rows]
        legal = space.legal[rows]
        visits += np.bincount(space.next_state[rows][legal], flow[legal], minlength=len(space))
    return visits


def result_probabilities(
    policy: np.ndarray, opponent: np.ndarray, agent_plays: str = "X"
) -> tuple[float, float, float]:
    """Return the exact chances that the agent wins, draws and loses.

    Args:
        policy: (S, 9) move probabilities of the agent.
        opponent: (S, 9) move probabilities of the opponent.
        agent_plays: ``"X"`` or ``"O"``, the agent's side.

    Returns:
        The probabilities of a win, a draw and a loss; they sum to 1.

    Raises:
        ValueError: a table is no policy, or the side is unknown.
    """
    space = state_space()
    visits = visit_probabilities(policy, opponent, agent_plays)
    # X makes marks 1, 3, ...: a finished board with an odd number of marks was ended by X.
    agent_ended = (space.marks % 2 == 1) == (agent_plays == "X")
    win = visits[space.last_mover_won & agent_ended].sum()
    loss = visits[space.last_mover_won & ~agent_ended].sum()
    draw = visits[space.finished & ~space.last_mover_won].sum()
    return float(win), float(draw), float(loss)


def expected_return(
    policy: np.ndarray, opponent: np.ndarray, agent_plays: str = "X", gamma: float = 1.0
) -> float:
    """Return the objective J(π): the expected return from the start of a game.

    J(π) = E_{s₀}[V^π(s₀)], where s₀ is the first board on which the agent moves.

    Args:
        policy: (S, 9) move probabilities π of the agent.
        opponent: (S, 9) move probabilities of the opponent.
        agent_plays: ``"X"`` or ``"O"``, the agent's side.
        gamma: discount γ of one time step, 0 to 1.

    Returns:
        J(π), between -1 and 1.

    Raises:
        ValueError: a table is no policy, the side is unknown, or γ is outside 0 to 1.
    """
    plays_second = _side("expected_return", agent_plays)
    values = exact_values(policy, opponent, gamma)
    if plays_second:
        return float(np.asarray(opponent)[0] @ values[state_space().next_state[0]])
    return float(values[0])


# --- playing --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Playouts:
    """A batch of finished games as the agent saw them, padded on the right.

    B games, T = the most moves that the agent made in one of them (at most 5).

    Attributes:
        states: (B, T) the row of the position before the agent's move; 0 in the padding.
        actions: (B, T) the square that the agent marked; 0 in the padding.
        rewards: (B, T) the reward of each time step: ±1 or 0 at the last, 0 before.
        mask: (B, T) bool, True = a move of the agent.
        agent_is_x: (B,) bool, whether the agent played X.
    """

    states: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    mask: np.ndarray
    agent_is_x: np.ndarray

    @property
    def results(self) -> np.ndarray:
        """(B,) how each game ended for the agent: 1 won, 0 drawn, -1 lost."""
        return self.rewards.sum(axis=1)

    def __len__(self) -> int:
        return len(self.states)


def play_games(
    policy: np.ndarray,
    opponent: np.ndarray,
    games: int,
    generator: np.random.Generator,
    agent_plays: str = "both",
) -> Playouts:
    """Play a batch of games side by side.

    Args:
        policy: (S, 9) move probabilities of the agent.
        opponent: (S, 9) move probabilities of the opponent.
        games: how many games, at least 1.
        generator: the source of chance.
        agent_plays: ``"X"``, ``"O"``, or ``"both"``: the agent plays X in the first half, O in the
            second.

    Returns:
        The games, as the agent saw them.

    Raises:
        ValueError: a table is no policy, the number of games is not positive, or the side unknown.
    """
    if not isinstance(games, (int, np.integer)) or games < 1:
        raise ValueError(f"play_games: games must be a whole number, at least 1, got {games!r}")
    if agent_plays == "both":
        turn_of_agent = (np.arange(games) >= (games + 1) // 2).astype(int)
    else:
        turn_of_agent = np.full(games, _side("play_games", agent_plays))
    space = state_space()
    cumulative = [
        np.cumsum(_policy("play_games", name, table), axis=1)
        for name, table in (("policy", policy), ("opponent", opponent))
    ]
    depth = (SQUARES + 1) // 2
    states, actions = np.zeros((games, depth), dtype=int), np.zeros((games, depth), dtype=int)
    rewards, mask = np.zeros((games, depth)), np.zeros((games, depth), dtype=bool)
    position = np.zeros(games, dtype=int)
    for ply in range(SQUARES):
        uniform = generator.random(games)
        running = ~space.finished[position]
        for is_opponent, table in enumerate(cumulative):
            movers = np.flatnonzero(running & ((ply % 2 == turn_of_agent) != is_opponent))
            if not len(movers):
                continue
            before = position[movers]
            bounds = table[before]
            # The first square whose cumulative probability exceeds u: it has probability > 0.
            square = (bounds > (uniform[movers] * bounds[:, -1])[:, None]).argmax(axis=1)
            after = space.next_state[before, square]
            position[movers] = after
            if is_opponent:
                # The reply ends the agent's time step, which began with the move before it.
                step = (ply - 1) // 2
                if step >= 0:
                    rewards[movers, step] = np.where(space.last_mover_won[after], -1.0, 0.0)
            else:
                step = ply // 2
                states[movers, step], actions[movers, step] = before, square
                rewards[movers, step] = space.last_mover_won[after]
                mask[movers, step] = True
    longest = int(mask.sum(axis=1).max())
    cut = slice(None), slice(0, longest)
    return Playouts(states[cut], actions[cut], rewards[cut], mask[cut], turn_of_agent == 0)


# --- checks of what comes in ----------------------------------------------------------------------


def _backward(value_of_layer, opponent: np.ndarray, gamma: float) -> np.ndarray:
    """Dynamic programming from full boards to the empty one; the callback turns Q into V."""
    space = state_space()
    opponent = _policy("exact values", "opponent", opponent)
    _check_gamma("exact values", gamma)
    values = np.zeros(len(space))
    # waiting(s): worth of s to the agent when the opponent is to move there.
    waiting = space.last_mover_won.astype(float)
    for rows in reversed(space.layers):
        rows = rows[~space.finished[rows]]
        following, legal = space.next_state[rows], space.legal[rows]
        lost = np.where(space.last_mover_won[following], -1.0, 0.0)
        reply = np.where(space.finished[following], lost, gamma * values[following])
        q_values = np.where(legal, waiting[following], 0.0)
        values[rows] = value_of_layer(rows, q_values)
        waiting[rows] = (opponent[rows] * np.where(legal, reply, 0.0)).sum(axis=1)
    return values


def _table(function: str, name: str, table: Sequence) -> np.ndarray:
    table = np.asarray(table, dtype=float)
    expected = (len(state_space()), SQUARES)
    if table.shape != expected:
        raise ValueError(f"{function}: {name} must have shape {expected}, got {table.shape}")
    return table


def _values(function: str, values: Sequence) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    expected = (len(state_space()),)
    if values.shape != expected:
        raise ValueError(f"{function}: values must have shape {expected}, got {values.shape}")
    return values


def _policy(function: str, name: str, policy: Sequence) -> np.ndarray:
    policy = _table(function, name, policy)
    space = state_space()
    if not policy.min() >= 0:  # also refuses NaN
        raise ValueError(f"{function}: {name} holds a negative or NaN probability")
    totals = policy.sum(axis=1)
    if not np.array_equal(np.where(space.legal, policy, 0.0).sum(axis=1), totals):
        row = int(np.flatnonzero((policy * ~space.legal).any(axis=1))[0])
        raise ValueError(
            f"{function}: {name} gives probability to an illegal move on "
            f"{space.boards[row].cells!r} (row {row}): {policy[row].tolist()}"
        )
    wrong = np.flatnonzero(~space.finished & (np.abs(totals - 1) > 1e-4))
    if len(wrong):
        raise ValueError(
            f"{function}: the probabilities of {name} must sum to 1 on each unfinished board, got "
            f"{totals[wrong[0]]:.6g} on {space.boards[wrong[0]].cells!r} (row {wrong[0]})"
        )
    return policy


def _check_gamma(function: str, gamma: float) -> None:
    if not 0 <= gamma <= 1:
        raise ValueError(f"{function}: gamma must be between 0 and 1, got {gamma!r}")


def _side(function: str, agent_plays: str) -> int:
    """0 when the agent moves on boards with an even number of marks (X), 1 when on odd ones (O)."""
    if agent_plays not in ("X", "O"):
        raise ValueError(f"{function}: agent_plays must be 'X' or 'O', got {agent_plays!r}")
    return "XO".index(agent_plays)
