"""The checks of lesson 1, reinforcement learning with tic-tac-toe.

Each exercise meets hidden inputs drawn fresh at every run: positions of the real game, padded
batches with arbitrary numbers in the padding, illegal squares that hold anything, logits far beyond
the range of ``exp``, float32 and float64. Each known mistake is computed beside the right answer,
so that a hint can name it. Left out on purpose: speed. A slow right answer passes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rlhf_lessons import formulas
from rlhf_lessons.classroom.exercises import Exercise, Mistake, compare, require
from rlhf_lessons.worlds.tic_tac_toe import Board, state_space

DTYPES = (torch.float32, torch.float64)
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}


def draw_tensor(
    draw: np.random.Generator, *shape: int, scale: float = 1.0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Draw a tensor of independent normal numbers with standard deviation ``scale``."""
    return torch.from_numpy(scale * draw.standard_normal(shape)).to(dtype)


def draw_mask(draw: np.random.Generator, batch: int, length: int) -> Tensor:
    """Draw a right-padded mask: one full row, one with a single step, others of any length."""
    lengths = draw.integers(1, length, size=batch, endpoint=True)
    lengths[0], lengths[1] = length, 1
    lengths = draw.permutation(lengths)
    return torch.from_numpy(np.arange(length)[None, :] < lengths[:, None])


def draw_legal(draw: np.random.Generator, rows: int, actions: int) -> Tensor:
    """Draw which actions are legal: one row allows all, one a single one, others two to all."""
    legal = np.zeros((rows, actions), dtype=bool)
    counts = draw.integers(2, actions, size=rows)
    counts[0], counts[1] = actions, 1
    for row, count in enumerate(draw.permutation(counts)):
        legal[row, draw.choice(actions, size=count, replace=False)] = True
    return torch.from_numpy(legal)


def draw_actions(draw: np.random.Generator, legal: Tensor) -> Tensor:
    """Draw one legal action in each row."""
    return torch.tensor([int(draw.choice(np.flatnonzero(row))) for row in legal.numpy()])


def draw_board(draw: np.random.Generator, choose) -> Board:
    """Draw a reachable board for which ``choose(board)`` is true."""
    boards = state_space().boards
    while True:
        board = boards[int(draw.integers(len(boards)))]
        if choose(board):
            return board


# 1.1 · legal moves ------------------------------------------------------------------------------


def reference_legal_moves(cells: str) -> list[int]:
    """Return the empty squares of an unfinished board in order, nothing on a finished one."""
    return list(Board(cells).legal_moves())


legal_moves = Exercise(
    "1.1", "Legal moves", function="legal_moves", reference=lambda: reference_legal_moves
)


def _legal_move_mistakes(cells: str) -> dict[str, list]:
    empty = [square for square in range(9) if cells[square] == "."]
    return {
        "You counted the squares from 1: the first square has number 0": [s + 1 for s in empty],
        "You returned the squares that are taken: a move marks an empty one": [
            square for square in range(9) if cells[square] != "."
        ],
        "You returned the marks, not the numbers of their squares": ["."] * len(empty),
        "You returned True or False for each square: return the numbers of the empty squares": [
            mark == "." for mark in cells
        ],
        "You return the squares in another order: go from 0 to 8": empty[::-1],
        "The last square is missing: range(8) ends at 7": [s for s in empty if s < 8],
    }


@legal_moves.part("a game that goes on")
def _(answer, draw) -> None:
    boards = [Board(), draw_board(draw, lambda b: not b.finished and b.cells[8] == ".")]
    boards += [draw_board(draw, lambda b: not b.finished and "X" in b.cells) for _ in range(4)]
    for board in boards:
        compare(
            f"legal_moves({board.cells!r})",
            answer(board.cells),
            list(board.legal_moves()),
            mistakes=_legal_move_mistakes(board.cells),
        )


@legal_moves.part("a game that is over")
def _(answer, draw) -> None:
    boards = [
        draw_board(draw, lambda b: b.winner == "X" and "." in b.cells),
        draw_board(draw, lambda b: b.winner == "O"),
        draw_board(draw, lambda b: "." not in b.cells),
    ]
    for board in boards:
        empty = [square for square in range(9) if board.cells[square] == "."]
        compare(
            f"legal_moves({board.cells!r})",
            answer(board.cells),
            [],
            mistakes={
                "Somebody has three in a row, so the game is over and nothing is legal: ask "
                "winner(cells) first": empty,
                "Return an empty list when the game is over, not None": None,
            },
        )


# 1.2 · step -------------------------------------------------------------------------------------


def reference_step(cells: str, square: int) -> str:
    """Return the board after the player to move has marked an empty square."""
    return Board(cells).step(square).cells


step = Exercise("1.2", "Step", function="step", reference=lambda: reference_step)


def _marked(cells: str, square: int, mark: str) -> str:
    return cells[:square] + mark + cells[square + 1 :]


@step.part("marks the square for the player to move")
def _(answer, draw) -> None:
    boards = [Board(), draw_board(draw, lambda b: not b.finished and b.player == "O")]
    boards += [draw_board(draw, lambda b: not b.finished) for _ in range(5)]
    for board in boards:
        cells, square = board.cells, int(draw.choice(board.legal_moves()))
        other = "O" if board.player == "X" else "X"
        compare(
            f"step({cells!r}, {square})",
            answer(cells, square),
            board.step(square).cells,
            mistakes={
                "The wrong player moved: X begins, so X moves when both have equally many marks, "
                "and O when X has one more": _marked(cells, square, other),
                "You returned the board as it was: build a new string with the mark in it": cells,
                "You put the mark between two squares: leave out the '.' that it replaces": (
                    cells[:square] + board.player + cells[square:]
                ),
                "You counted the squares from 1: square 0 is the first": _marked(
                    cells, square - 1, board.player
                ),
                "You returned a list: join the nine characters to one string": list(
                    board.step(square).cells
                ),
            },
        )


def _must_refuse(answer, cells: str, square: int, why: str) -> None:
    """The learner's step must raise ValueError here."""
    try:
        got = answer(cells, square)
    except Mistake as mistake:
        cause = mistake.__cause__
        if isinstance(cause, ValueError):
            return
        if isinstance(cause, NotImplementedError) or cause is None:
            raise
        raise Mistake(
            f"step({cells!r}, {square}) is illegal: {why}. Raise a ValueError; yours raised "
            f"{type(cause).__name__}: {cause}"
        ) from None
    require(False, f"step({cells!r}, {square}) is illegal: {why}. Raise a ValueError; got {got!r}")


@step.part("refuses a square that is taken")
def _(answer, draw) -> None:
    for mark in "XO":
        board = draw_board(draw, lambda b, mark=mark: not b.finished and mark in b.cells)
        square = int(draw.choice([s for s in range(9) if board.cells[s] == mark]))
        _must_refuse(answer, board.cells, square, f"the square is taken by {mark}")


@step.part("refuses a move when the game is over, and squares off the board")
def _(answer, draw) -> None:
    for won_by in "XO":
        board = draw_board(draw, lambda b, who=won_by: b.winner == who and "." in b.cells)
        _must_refuse(answer, board.cells, board.cells.index("."), f"{won_by} has won already")
    board = draw_board(draw, lambda b: not b.finished and b.cells[8] == ".")
    _must_refuse(answer, board.cells, 9, "squares are numbered 0 to 8")
    _must_refuse(
        answer, board.cells, -1, "squares are numbered 0 to 8 (Python counts -1 from the end)"
    )


# 1.3 · discounted returns -----------------------------------------------------------------------

discounted_returns = Exercise(
    "1.3",
    "Discounted returns",
    function="discounted_returns",
    reference=lambda: formulas.discounted_returns,
)


def _returns(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """Σ_{k ≥ t} γ^(k-t)·r_k, one sum for each step."""
    rewards = torch.where(mask, rewards, torch.zeros_like(rewards))
    length = rewards.shape[1]
    columns = [
        sum(gamma ** (k - t) * rewards[:, k] for k in range(t, length)) for t in range(length)
    ]
    return torch.where(mask, torch.stack(columns, dim=1), torch.zeros_like(rewards))


def _return_mistakes(rewards: Tensor, mask: Tensor, gamma: float) -> dict[str, Tensor]:
    right = _returns(rewards, mask, gamma)
    counted = torch.where(mask, rewards, torch.zeros_like(rewards))
    zero = torch.zeros_like(rewards)
    powers = gamma ** torch.arange(rewards.shape[1], dtype=rewards.dtype)
    backwards = _returns(counted.flip(1), torch.ones_like(mask), gamma).flip(1)
    lengths = mask.sum(dim=1, keepdim=True)
    left = lengths - torch.arange(rewards.shape[1])
    return {
        "You summed the past: G_t adds the rewards from t ON, so walk from the last step "
        "backwards": torch.where(mask, backwards, zero),
        "You forgot the discount: multiply what comes one step later by γ": _returns(
            rewards, mask, 1.0
        ),
        "You left out the reward of the step itself: G_t starts with r_t, undiscounted": right
        - counted,
        "You discounted one step too much: r_t itself is not multiplied by γ": gamma * right,
        "You discounted from the start of the game: step t has the weight γ^(k−t), not γ^k": right
        * powers,
        "You took the mean where the return is a sum": torch.where(
            mask, right / left.clamp(min=1), zero
        ),
        "You discounted the reward and added the later return whole: it is r_t + γ·G_{t+1}": (
            torch.where(
                mask,
                torch.stack(
                    [gamma * counted[:, t:].sum(dim=1) for t in range(rewards.shape[1])], dim=1
                ),
                zero,
            )
        ),
        "You gave every step the return of the whole game: the return of step t counts "
        "from t": torch.where(mask, right[:, :1].expand_as(right), zero),
    }


def _compare_returns(answer, rewards: Tensor, mask: Tensor, gamma: float, more=None) -> None:
    compare(
        f"discounted_returns(rewards, mask, gamma={gamma:g})",
        answer(rewards, mask, gamma),
        _returns(rewards, mask, gamma),
        mistakes={**_return_mistakes(rewards, mask, gamma), **(more or {})},
        atol=TOLERANCE[rewards.dtype],
    )


@discounted_returns.part("games of one length")
def _(answer, draw) -> None:
    length = int(draw.integers(3, 6))
    mask = torch.ones(2, length, dtype=torch.bool)
    gamma = float(draw.uniform(0.3, 0.9))
    ended = torch.zeros(2, length, dtype=torch.float64)
    ended[:, -1] = torch.tensor([1.0, -1.0])
    _compare_returns(answer, ended, mask, gamma)
    _compare_returns(answer, draw_tensor(draw, 2, length), mask, gamma)
    _compare_returns(answer, draw_tensor(draw, 2, 1), mask[:, :1], gamma)  # of one step


@discounted_returns.part("a padded batch")
def _(answer, draw) -> None:
    for dtype in DTYPES:
        batch, length = 4, 5
        rewards, mask = (
            draw_tensor(draw, batch, length, dtype=dtype),
            draw_mask(draw, batch, length),
        )
        gamma = float(draw.uniform(0.3, 0.9))
        everything = _returns(rewards, torch.ones_like(mask), gamma)
        _compare_returns(
            answer,
            rewards,
            mask,
            gamma,
            {
                "You let the padding in: the numbers behind the end of a game are no rewards; use "
                "the mask": everything,
                "You let the padding in: you cleared the result, but the sums before the end of a "
                "game still hold what stands behind it": torch.where(
                    mask, everything, torch.zeros_like(rewards)
                ),
                "You inverted the mask: True marks the steps that count": _returns(
                    rewards, ~mask, gamma
                ),
            },
        )
    spoiled = torch.where(mask, rewards, torch.nan)
    multiplied = _returns(spoiled * mask, torch.ones_like(mask), gamma)
    hint = "NaN · 0 is NaN (not a number): clear the padding with masked_fill, not by a product"
    more = {
        f"{hint} with the mask": multiplied,
        f"{hint} with the mask, before you sum": torch.where(mask, multiplied, 0.0),
    }
    _compare_returns(answer, spoiled, mask, gamma, more)


@discounted_returns.part("γ = 0 and γ = 1")
def _(answer, draw) -> None:
    rewards, mask = draw_tensor(draw, 3, 5), draw_mask(draw, 3, 5)
    for gamma in (0.0, 1.0):
        padded = torch.where(mask, _returns(rewards, torch.ones_like(mask), gamma), 0.0)
        let_in = "You let the padding in: clear the rewards behind the end of a game before you sum"
        _compare_returns(answer, rewards, mask, gamma, {let_in: padded})


# 1.4 · V by Monte Carlo -------------------------------------------------------------------------

monte_carlo_values = Exercise(
    "1.4",
    "V by Monte Carlo",
    function="monte_carlo_values",
    reference=lambda: formulas.monte_carlo_values,
)


def _grouped_mean(states: Tensor, returns: Tensor, mask: Tensor, size: int) -> Tensor:
    values = torch.zeros(size, dtype=returns.dtype)
    for state in range(size):
        here = mask & (states == state)
        if here.any():
            values[state] = returns[here].mean()
    return values


def _monte_carlo_mistakes(
    states: Tensor, returns: Tensor, mask: Tensor, size: int
) -> dict[str, Tensor]:
    visited, seen = states[mask], returns[mask]
    totals = torch.zeros(size, dtype=returns.dtype)
    totals.index_add_(0, visited, seen)
    counts = torch.bincount(visited, minlength=size)
    last, first = torch.zeros_like(totals), torch.zeros_like(totals)
    for state, value in zip(visited.tolist(), seen.tolist(), strict=True):
        last[state] = value
    for state, value in zip(visited.tolist()[::-1], seen.tolist()[::-1], strict=True):
        first[state] = value
    halfway = torch.zeros_like(totals)
    for state, value in zip(visited.tolist(), seen.tolist(), strict=True):
        halfway[state] = (halfway[state] + value) / 2
    right = totals / counts.clamp(min=1)
    return {
        "You returned the sum: divide by how many visits the state had": totals,
        "You divided by the number of games: divide by the visits of that state": totals
        / len(states),
        "You divided by the number of all visits: each state has a count of its own": totals
        / max(len(visited), 1),
        "You divided by the visits plus 1: the mean of one return is that return": totals
        / (counts + 1),
        "You kept only one return per state, the last one seen; with values[states] = ... or += a "
        "state that occurs twice is written once: use index_add_ or a loop": last,
        "You kept only one return per state, the first one seen: average over all visits": first,
        "You averaged the old value and the new return half and half: each return must weigh the "
        "same": halfway,
        "A state that was never visited has no mean: give it 0, not 0/0": torch.where(
            counts > 0, right, torch.nan
        ),
        "You returned the counts": counts.to(returns.dtype),
    }


def _compare_values(answer, states, returns, mask, size, more=None) -> None:
    compare(
        "monte_carlo_values(states, returns, mask, number_of_states)",
        answer(states, returns, mask, size),
        _grouped_mean(states, returns, mask, size),
        mistakes={**_monte_carlo_mistakes(states, returns, mask, size), **(more or {})},
        atol=TOLERANCE[returns.dtype],
    )


@monte_carlo_values.part("states that occur once or more")
def _(answer, draw) -> None:
    size = 4
    flat = draw.permutation(np.concatenate([np.arange(size), draw.integers(size, size=8)]))
    states = torch.from_numpy(flat.reshape(3, 4))
    returns = draw_tensor(draw, 3, 4)
    _compare_values(answer, states, returns, torch.ones(3, 4, dtype=torch.bool), size)


@monte_carlo_values.part("states that never occur")
def _(answer, draw) -> None:
    size = 9
    states = torch.from_numpy(draw.choice([1, 2, 5, 7], size=(3, 4)))
    returns = draw_tensor(draw, 3, 4)
    _compare_values(answer, states, returns, torch.ones(3, 4, dtype=torch.bool), size)


@monte_carlo_values.part("a padded batch")
def _(answer, draw) -> None:
    for dtype in DTYPES:
        batch, length, size = 5, 4, 6
        mask = draw_mask(draw, batch, length)
        # As in real playouts: everybody starts in state 0, and the padding says state 0 as well.
        states = torch.from_numpy(draw.integers(1, size, size=(batch, length)))
        states[:, 0] = 0
        states = states.masked_fill(~mask, 0)
        returns = draw_tensor(draw, batch, length, dtype=dtype)
        everything = torch.ones_like(mask)
        _compare_values(
            answer,
            states,
            returns,
            mask,
            size,
            {
                "You let the padding in: it says state 0, which nobody visited there; use the "
                "mask": _grouped_mean(states, returns, everything, size),
                "You let the padding in: you cleared the returns behind the end, but still counted "
                "them as visits to state 0": _grouped_mean(
                    states, returns.masked_fill(~mask, 0.0), everything, size
                ),
                "You inverted the mask: True marks the steps that count": _grouped_mean(
                    states, returns, ~mask, size
                ),
            },
        )


# 1.5 · TD update --------------------------------------------------------------------------------

td_update = Exercise("1.5", "TD update", function="td_update", reference=lambda: formulas.td_update)


def _td_mistakes(
    value: float, reward: float, next_value: float, finished: bool, alpha: float, gamma: float
) -> dict[str, float]:
    following = 0.0 if finished else next_value
    target = reward + gamma * following
    error = target - value
    return {
        "You looked beyond the end of the game: after the last move nothing comes, so V(s') counts "
        "as 0 when finished": value + alpha * (reward + gamma * next_value - value),
        "You forgot γ: what comes next is discounted by one step": value
        + alpha * (reward + following - value),
        "You forgot the reward: the target is r + γ·V(s')": value
        + alpha * (gamma * following - value),
        "You discounted the reward too: it is r + γ·V(s'), γ stands before V(s') alone": value
        + alpha * (gamma * (reward + following) - value),
        "You moved away from the target: add α·(target − V), do not subtract it": value
        - alpha * error,
        "You jumped to the target: move only the part α of the way": target,
        "You returned the change: add it to the old value": alpha * error,
        "You returned the TD error alone: the new value is V + α·error": error,
        "You did not take V off the target: move by α·(r + γ·V(s') − V)": value + alpha * target,
        "You kept the part α of the old value: it is (1 − α)·V + α·target": alpha * value
        + (1 - alpha) * target,
        "You turned the meaning of finished around: V(s') counts while the game goes on": value
        + alpha * (reward + gamma * (next_value if finished else 0.0) - value),
    }


def _compare_td(answer, value, reward, next_value, finished, alpha, gamma) -> None:
    target = reward if finished else reward + gamma * next_value
    compare(
        "td_update(value, reward, next_value, finished, step_size, gamma)",
        answer(value, reward, next_value, finished, alpha, gamma),
        value + alpha * (target - value),
        mistakes=_td_mistakes(value, reward, next_value, finished, alpha, gamma),
        atol=1e-9,
        rtol=1e-9,
    )


@td_update.part("in the middle of a game")
def _(answer, draw) -> None:
    for _ in range(3):
        value, next_value = (float(x) for x in draw.uniform(-1, 1, size=2))
        reward = float(draw.choice([-1, 1])) * float(draw.uniform(0.2, 1))
        alpha, gamma = float(draw.uniform(0.1, 0.4)), float(draw.uniform(0.5, 0.9))
        _compare_td(answer, value, reward, next_value, False, alpha, gamma)


@td_update.part("the last move of a game")
def _(answer, draw) -> None:
    for reward in (-1.0, 0.0, 1.0):
        value, next_value = float(draw.uniform(-0.9, 0.9)), float(draw.uniform(2, 3))
        alpha, gamma = float(draw.uniform(0.1, 0.4)), float(draw.uniform(0.5, 0.9))
        _compare_td(answer, value, reward, next_value, True, alpha, gamma)


@td_update.part("α and γ at 0 and 1")
def _(answer, draw) -> None:
    for alpha in (0.0, 1.0):
        for gamma in (0.0, 1.0):
            value, next_value = (float(x) for x in draw.uniform(-1, 1, size=2))
            reward, finished = float(draw.integers(-1, 2)), bool(draw.random() < 0.3)
            _compare_td(answer, value, reward, next_value, finished, alpha, gamma)


# 1.6 · advantage --------------------------------------------------------------------------------

advantage = Exercise("1.6", "Advantage", function="advantage", reference=lambda: formulas.advantage)


def _draw_policy(draw: np.random.Generator, legal: Tensor, dtype: torch.dtype) -> Tensor:
    weights = torch.from_numpy(draw.exponential(size=tuple(legal.shape))) * legal
    return (weights / weights.sum(dim=1, keepdim=True)).to(dtype)


def _advantage(q_values: Tensor, probabilities: Tensor, legal: Tensor) -> Tensor:
    q_values = torch.where(legal, q_values, torch.zeros_like(q_values))
    values = (probabilities * q_values).sum(dim=1, keepdim=True)
    return torch.where(legal, q_values - values, torch.zeros_like(q_values))


def _advantage_mistakes(
    q_values: Tensor, probabilities: Tensor, legal: Tensor
) -> dict[str, Tensor]:
    zero = torch.zeros_like(q_values)
    q_legal = torch.where(legal, q_values, zero)
    values = (probabilities * q_legal).sum(dim=1, keepdim=True)
    best = torch.where(legal, q_values, -torch.inf).amax(dim=1, keepdim=True)
    count = legal.sum(dim=1, keepdim=True)

    def kept(result: Tensor) -> Tensor:
        return torch.where(legal, result, zero)

    return {
        "Illegal squares must have the advantage 0: nobody can play them": q_legal - values,
        "You subtracted the best Q: V is what the policy gets on average": kept(q_legal - best),
        "You subtracted the plain mean of Q: V weighs each move by its probability π(a|s)": kept(
            q_legal - q_legal.sum(dim=1, keepdim=True) / count
        ),
        "You subtracted the plain mean over all columns, illegal squares included: V weighs each "
        "move by π(a|s)": kept(q_legal - q_legal.mean(dim=1, keepdim=True)),
        "The sign is turned around: A = Q − V": kept(values - q_legal),
        "You weighed the advantage by π: only V holds π, A = Q − V": kept(
            probabilities * (q_legal - values)
        ),
        "You subtracted π·Q of each move alone: V is its SUM over the moves": kept(
            q_legal - probabilities * q_legal
        ),
        "You returned V: the advantage is Q − V": kept(values.expand_as(q_values)),
        "You summed over the wrong axis: V needs one sum for each row, dim=1 with keepdim=True": (
            kept(q_legal - (probabilities * q_legal).sum(dim=0, keepdim=True))
        ),
        "V came out as a row, not a column: keep the axis you sum over (keepdim=True)": (
            kept(q_legal - values.T) if len(q_values) == q_values.shape[1] else zero
        ),
    }


def _compare_advantage(answer, q_values, probabilities, legal, more=None) -> None:
    compare(
        "advantage(q_values, probabilities, legal)",
        answer(q_values, probabilities, legal),
        _advantage(q_values, probabilities, legal),
        mistakes={**_advantage_mistakes(q_values, probabilities, legal), **(more or {})},
        atol=TOLERANCE[q_values.dtype],
    )


@advantage.part("every square legal")
def _(answer, draw) -> None:
    for rows, actions in ((4, 4), (3, 5)):  # a square table hides a lost keepdim from PyTorch
        legal = torch.ones(rows, actions, dtype=torch.bool)
        probabilities = _draw_policy(draw, legal, torch.float64)
        _compare_advantage(answer, draw_tensor(draw, rows, actions), probabilities, legal)


@advantage.part("some squares illegal")
def _(answer, draw) -> None:
    for dtype in DTYPES:
        legal = draw_legal(draw, 4, 6)
        q_values = torch.where(legal, draw_tensor(draw, 4, 6, dtype=dtype), 0.0)
        _compare_advantage(answer, q_values, _draw_policy(draw, legal, dtype), legal)


@advantage.part("illegal squares hold −∞ or any number")
def _(answer, draw) -> None:
    for filler in (-torch.inf, 50.0):
        legal = draw_legal(draw, 4, 6)
        q_values = torch.where(legal, draw_tensor(draw, 4, 6), filler)
        probabilities = _draw_policy(draw, legal, torch.float64)
        uncleared = q_values - (probabilities * q_values).sum(dim=1, keepdim=True)
        multiplied = q_values * legal
        multiplied = multiplied - (probabilities * multiplied).sum(dim=1, keepdim=True)
        spoiled = "0 · (−∞) is NaN (not a number): clear the illegal entries of Q with masked_fill"
        more = {
            f"{spoiled} before you multiply with π": torch.where(legal, uncleared, 0.0),
            f"{spoiled}, not by a product with the mask": multiplied * legal,
        }
        _compare_advantage(answer, q_values, probabilities, legal, more)


# 1.7 · REINFORCE gradient -----------------------------------------------------------------------

reinforce_gradient = Exercise(
    "1.7",
    "The REINFORCE gradient",
    function="reinforce_gradient",
    reference=lambda: formulas.reinforce_gradient,
)


def _softmax(logits: Tensor, legal: Tensor) -> Tensor:
    return torch.where(legal, logits, -torch.inf).softmax(dim=1)


def _gradient_mistakes(
    logits: Tensor, legal: Tensor, actions: Tensor, weights: Tensor
) -> dict[str, Tensor]:
    pi = _softmax(logits, legal)
    chosen = torch.nn.functional.one_hot(actions, logits.shape[1]).to(logits.dtype)
    column = weights[:, None]
    right = column * (chosen - pi)
    of_taken = (pi * chosen).sum(dim=1, keepdim=True)
    zero = torch.zeros_like(pi)
    return {
        "You forgot that illegal squares take no part in the softmax: set their logits to −∞ "
        "first": column * (chosen - logits.softmax(dim=1)),
        "You forgot that illegal squares take no part in the softmax: you cleared the result, but "
        "π was already divided by a sum with them in it": torch.where(
            legal, column * (chosen - logits.softmax(dim=1)), zero
        ),
        "The sign is turned around: this direction must make a move with a positive weight MORE "
        "likely": -right,
        "You left out the −π(b|s) of the other moves: the log of the softmax's sum has a gradient "
        "too": column * chosen,
        "You left out the 1 of the move that was taken: its own logit raises its "
        "log-probability": column * (0 - pi),
        "You gave the other moves no gradient: raising one logit lowers the probability of all "
        "others": right * chosen,
        "You took the gradient of π, not of log π: divide by π(a|s)": right * of_taken,
        "You forgot the weight: multiply each row by its return": chosen - pi,
        "You summed over the batch: return one row for each visit": right.sum(dim=0),
        "You took the mean over the batch: return one row for each visit": right.mean(dim=0),
        "You divided by the number of rows: return one row for each visit, as it is": right
        / len(right),
        "You squared the weight: it enters once": column * right,
        "Your softmax runs over the batch: normalise each row, dim=1": column
        * (chosen - torch.where(legal, logits, -torch.inf).softmax(dim=0).nan_to_num()),
    }


def _compare_gradient(answer, logits, legal, actions, weights, more=None) -> None:
    chosen = torch.nn.functional.one_hot(actions, logits.shape[1]).to(logits.dtype)
    compare(
        "reinforce_gradient(logits, legal, actions, weights)",
        answer(logits, legal, actions, weights),
        weights[:, None] * (chosen - _softmax(logits, legal)),
        mistakes={**_gradient_mistakes(logits, legal, actions, weights), **(more or {})},
        atol=TOLERANCE[logits.dtype],
        gradient=False,
    )


@reinforce_gradient.part("every square legal")
def _(answer, draw) -> None:
    logits = draw_tensor(draw, 4, 5)
    legal = torch.ones(4, 5, dtype=torch.bool)
    weights = torch.tensor([1.0, -1.0, 0.5, -2.0], dtype=torch.float64)
    _compare_gradient(answer, logits, legal, draw_actions(draw, legal), weights)


@reinforce_gradient.part("some squares illegal", points=2)
def _(answer, draw) -> None:
    for dtype in DTYPES:
        legal = draw_legal(draw, 5, 9)
        logits, weights = (
            draw_tensor(draw, *shape, scale=2.0, dtype=dtype) for shape in ((5, 9), (5,))
        )
        _compare_gradient(answer, logits, legal, draw_actions(draw, legal), weights)


@reinforce_gradient.part("logits of any size")
def _(answer, draw) -> None:
    for size in (1e3, -1e3):
        legal = draw_legal(draw, 4, 6)
        logits = draw_tensor(draw, 4, 6) + size * torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
        logits[:, int(draw.integers(6))] += 500
        weights, actions = draw_tensor(draw, 4), draw_actions(draw, legal)
        exponentials = logits.exp() * legal
        naive = exponentials / exponentials.sum(dim=1, keepdim=True)
        below = torch.where(legal, logits - logits[legal].max(), -torch.inf).exp()
        far_below = below / below.sum(dim=1, keepdim=True)
        chosen = torch.nn.functional.one_hot(actions, 6).to(logits.dtype)
        more = {
            "e to the power of 1000 is no number for a computer, so the softmax became NaN (not a "
            "number): subtract the largest legal logit of each row first, or use torch.softmax": (
                weights[:, None] * (chosen - naive)
            ),
            "You subtracted the largest logit of the whole batch: a row far below it becomes 0/0; "
            "subtract the largest logit of each row, dim=1 with keepdim=True": (
                weights[:, None] * (chosen - far_below)
            ),
        }
        _compare_gradient(answer, logits, legal, actions, weights, more)


# 1.8 · mean and variance of the gradient --------------------------------------------------------


def reference_gradient_statistics(
    scores: Tensor, returns: Tensor, baselines: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the mean of (G − b)·∇log π over samples, and its mean squared distance from it."""
    samples = (returns - baselines)[:, None] * scores
    mean = samples.mean(dim=0)
    return mean, ((samples - mean) ** 2).sum(dim=1).mean()


gradient_statistics = Exercise(
    "1.8",
    "Variance with and without a baseline",
    function="gradient_statistics",
    reference=lambda: reference_gradient_statistics,
)


def _statistics(samples: Tensor) -> tuple[Tensor, Tensor]:
    mean = samples.mean(dim=0)
    return mean, ((samples - mean) ** 2).sum(dim=1).mean()


def _draw_samples(draw: np.random.Generator, dtype: torch.dtype = torch.float64):
    count, size = int(draw.integers(5, 9)), 4
    scores = draw_tensor(draw, count, size, dtype=dtype)
    returns = torch.from_numpy(draw.choice([-1.0, 0.0, 1.0], size=count)).to(dtype)
    returns[:2] = torch.tensor([1.0, -1.0], dtype=dtype)
    baselines = draw_tensor(draw, count, scale=0.3, dtype=dtype) + 0.4
    return scores, returns, baselines


def _mean_mistakes(scores: Tensor, returns: Tensor, baselines: Tensor) -> dict[str, Tensor]:
    samples = (returns - baselines)[:, None] * scores
    return {
        "You forgot the baseline: the weight is G − b": (returns[:, None] * scores).mean(dim=0),
        "You added the baseline: the weight is G − b": (
            (returns + baselines)[:, None] * scores
        ).mean(dim=0),
        "The sign is turned around: the weight is G − b, not b − G": -samples.mean(dim=0),
        "You summed over the samples: take their mean": samples.sum(dim=0),
        "You averaged weights and scores apart: multiply each sample first, then take the mean": (
            (returns - baselines).mean() * scores.mean(dim=0)
        ),
        "You took the baseline off the product: it is taken off the return, before the score "
        "multiplies it": (returns[:, None] * scores - baselines[:, None]).mean(dim=0),
        "You averaged over the coordinates: average over the samples, dim=0": samples.mean(dim=1),
        "You averaged everything into one number: the mean gradient has D coordinates": (
            samples.mean()
        ),
    }


def _variance_mistakes(scores: Tensor, returns: Tensor, baselines: Tensor) -> dict[str, Tensor]:
    samples = (returns - baselines)[:, None] * scores
    distances = (samples - samples.mean(dim=0)) ** 2
    count = len(samples)
    return {
        "You divided by N − 1: the formula above divides by N": distances.sum() / (count - 1),
        "You forgot to take off the mean: that is the mean square, not the variance": (
            (samples**2).sum(dim=1).mean()
        ),
        "You took the mean over the coordinates too: sum over them, average over samples": (
            distances.mean()
        ),
        "You took the mean over the coordinates too (and divided by N − 1): sum over them": (
            samples.var(dim=0).mean()
        ),
        "You took the square root: that is the standard deviation": distances.sum(dim=1)
        .mean()
        .sqrt(),
        "You summed over the samples too: take their mean": distances.sum(),
        "You returned one variance per coordinate: add them up": distances.mean(dim=0),
        "You averaged the lengths before squaring: the variance is the mean of the SQUARED "
        "distances": distances.sum(dim=1).sqrt().mean(),
    }


def _compare_statistics(answer, scores, returns, baselines, which: str) -> None:
    got = answer(scores, returns, baselines)
    require(
        isinstance(got, (tuple, list)) and len(got) == 2,
        f"gradient_statistics must return two things, mean and variance, got {type(got).__name__}",
    )
    mean, variance = reference_gradient_statistics(scores, returns, baselines)
    tolerance = TOLERANCE[scores.dtype]
    if which == "mean":
        mistakes = _mean_mistakes(scores, returns, baselines)
        compare("the mean gradient", got[0], mean, mistakes=mistakes, atol=tolerance)
    else:
        mistakes = {
            **_variance_mistakes(scores, returns, baselines),
            "You forgot the baseline: the weight is G − b": _statistics(returns[:, None] * scores)[
                1
            ],
            "You added the baseline: the weight is G − b": _statistics(
                (returns + baselines)[:, None] * scores
            )[1],
        }
        compare("the variance", got[1], variance, mistakes=mistakes, atol=tolerance)


@gradient_statistics.part("the mean")
def _(answer, draw) -> None:
    for dtype in DTYPES:
        _compare_statistics(answer, *_draw_samples(draw, dtype), "mean")


@gradient_statistics.part("the variance")
def _(answer, draw) -> None:
    for dtype in DTYPES:
        _compare_statistics(answer, *_draw_samples(draw, dtype), "variance")


@gradient_statistics.part("without a baseline, and with samples that agree")
def _(answer, draw) -> None:
    scores, returns, baselines = _draw_samples(draw)
    for which in ("mean", "variance"):
        _compare_statistics(answer, scores, returns, torch.zeros_like(baselines), which)
    same = scores[:1].expand(6, -1).clone()
    for which in ("mean", "variance"):
        _compare_statistics(answer, same, torch.ones(6).double(), torch.zeros(6).double(), which)


EXERCISES = [
    legal_moves,
    step,
    discounted_returns,
    monte_carlo_values,
    td_update,
    advantage,
    reinforce_gradient,
    gradient_statistics,
]
