"""Tic-tac-toe against a second, slower implementation: recursion on strings, without any table."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lessons.worlds import tic_tac_toe as world
from rlhf_lessons.worlds.tic_tac_toe import Board, state_space

ROWS = [{0, 1, 2}, {3, 4, 5}, {6, 7, 8}]
COLUMNS = [{0, 3, 6}, {1, 4, 7}, {2, 5, 8}]
DIAGONALS = [{0, 4, 8}, {2, 4, 6}]


def won_by(cells: str, mark: str) -> bool:
    taken = {square for square in range(9) if cells[square] == mark}
    return any(line <= taken for line in ROWS + COLUMNS + DIAGONALS)


def over(cells: str) -> bool:
    return won_by(cells, "X") or won_by(cells, "O") or "." not in cells


def to_move(cells: str) -> str:
    return "XO"[cells.count("X") > cells.count("O")]


def children(cells: str) -> dict[int, str]:
    if over(cells):
        return {}
    mark = to_move(cells)
    return {i: cells[:i] + mark + cells[i + 1 :] for i in range(9) if cells[i] == "."}


def result_for(cells: str, side: str) -> float:
    other = "O" if side == "X" else "X"
    return float(won_by(cells, side)) - float(won_by(cells, other))


def drawn_policy(seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    weights = generator.exponential(size=(len(state_space()), 9)) * state_space().legal
    return weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)


def slow_value(cells: str, side: str, policy, opponent, gamma: float) -> float:
    """The expected discounted result from here for ``side``, whoever moves, by plain recursion."""
    row = state_space().index_of

    @cache
    def value(position: str) -> float:
        mine = to_move(position) == side
        table = policy if mine else opponent
        total = 0.0
        for square, child in children(position).items():
            # A time step ends after the opponent's reply, or when the agent's move ends the game.
            passes = gamma if not mine else 1.0
            worth = result_for(child, side) if over(child) else passes * value(child)
            total += table[row[position], square] * worth
        return total

    return value(cells)


# --- the board ------------------------------------------------------------------------------------


def test_a_board_does_not_change():
    board = Board()
    after = board.step(4)
    assert board.cells == "........." and after.cells == "....X...."
    with pytest.raises(AttributeError):
        board.cells = "X........"


def test_players_alternate_and_x_begins():
    board = Board()
    for square, player in ((0, "X"), (4, "O"), (8, "X"), (2, "O")):
        assert board.player == player
        board = board.step(square)
    assert board.cells == "X.O.O...X"
    assert board.legal_moves() == (1, 3, 5, 6, 7)
    assert board.winner is None and not board.finished
    assert str(board) == "X . O\n. O .\n. . X"


@pytest.mark.parametrize("line", world.LINES)
@pytest.mark.parametrize("mark", "XO")
def test_each_line_wins_for_each_player(line, mark):
    other = [square for square in range(9) if square not in line]
    for first in other:  # marks of the other player that do not win
        taken = [first, *[s for s in other if s != first][: 2 if mark == "O" else 1]]
        cells = ["."] * 9
        for square in line:
            cells[square] = mark
        for square in taken:
            cells[square] = "O" if mark == "X" else "X"
        if won_by("".join(cells), "O" if mark == "X" else "X"):
            continue
        board = Board("".join(cells))
        assert board.winner == mark and board.finished and board.legal_moves() == ()


@pytest.mark.parametrize(
    ("cells", "square", "message"),
    [
        (".........", 9, "must be one of 0 to 8, got 9"),
        (".........", -1, "must be one of 0 to 8, got -1"),
        ("X........", 0, "square 0 is taken by X"),
        ("XXXOO....", 8, "the game is over .X has won."),
        ("XOXXOOOXX", 0, "the game is over .it is a draw."),
    ],
)
def test_illegal_moves_are_refused(cells, square, message):
    with pytest.raises(ValueError, match=message):
        Board(cells).step(square)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("........", "9 characters"),
        ("........x", "9 characters"),
        (None, "9 characters"),
        ("O........", "got 0 X and 1 O"),
        ("XX.......", "got 2 X and 0 O"),
        ("XXXOOO...", "after a player had won"),
        ("XXXOOO..X", "got 4 X and 3 O|after a player had won"),
        ("OOOXX.X.X", "after a player had won"),
    ],
)
def test_impossible_boards_are_refused(cells, message):
    with pytest.raises(ValueError, match=message):
        Board(cells)


# --- the state space ------------------------------------------------------------------------------


def test_the_known_counts():
    space = state_space()
    x_wins = sum(board.winner == "X" for board in space.boards)
    o_wins = sum(board.winner == "O" for board in space.boards)
    draws = sum(board.finished and board.winner is None for board in space.boards)
    assert len(space) == 5478
    assert (x_wins, o_wins, draws) == (626, 316, 16)
    assert [len(rows) for rows in space.layers] == [1, 9, 72, 252, 756, 1260, 1520, 1140, 390, 78]


def test_tables_say_what_the_boards_say():
    space = state_space()
    assert space.boards[0] == Board()
    for row, board in enumerate(space.boards):
        assert board.index == row
        following = {
            s: space.boards[i].cells for s, i in enumerate(space.next_state[row]) if i >= 0
        }
        assert following == children(board.cells)
        assert space.finished[row] == over(board.cells)
        assert space.last_mover_won[row] == (won_by(board.cells, "X") or won_by(board.cells, "O"))
    with pytest.raises(ValueError, match="read-only"):
        space.legal[0, 0] = False


# --- exact values ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "gamma"), [(0, 1.0), (1, 0.8), (2, 0.0)])
def test_values_equal_recursion(seed, gamma):
    policy, opponent = drawn_policy(seed), drawn_policy(seed + 100)
    values = world.exact_values(policy, opponent, gamma)
    q_values = world.exact_q_values(policy, opponent, gamma)
    space = state_space()
    generator = np.random.default_rng(seed)
    rows = [0, 5, *generator.choice(np.flatnonzero(~space.finished), 40, replace=False)]
    for row in rows:
        cells = space.boards[row].cells
        side = to_move(cells)
        assert values[row] == pytest.approx(
            slow_value(cells, side, policy, opponent, gamma), abs=1e-12
        )
        for square, child in children(cells).items():
            worth = (
                result_for(child, side)
                if over(child)
                else slow_value(child, side, policy, opponent, gamma)
            )
            assert q_values[row, square] == pytest.approx(worth, abs=1e-12)
    assert not values[space.finished].any()
    assert not q_values[~space.legal].any()


def test_random_play_has_the_known_odds():
    # 212,256 of the 362,880 orders of marking all squares are won by X, 104,544 by O.
    random = world.random_policy()
    win, draw, loss = world.result_probabilities(random, random, "X")
    assert win == pytest.approx(737 / 1260, abs=1e-12)
    assert loss == pytest.approx(121 / 420, abs=1e-12)
    assert draw == pytest.approx(8 / 63, abs=1e-12)
    assert world.result_probabilities(random, random, "O") == pytest.approx((loss, draw, win))


def test_the_objective_is_wins_minus_losses_without_discount():
    policy, opponent = drawn_policy(3), drawn_policy(4)
    for side in "XO":
        win, draw, loss = world.result_probabilities(policy, opponent, side)
        assert win + draw + loss == pytest.approx(1, abs=1e-12)
        assert world.expected_return(policy, opponent, side) == pytest.approx(win - loss, abs=1e-12)


def test_discount_lowers_the_worth_of_a_late_win():
    random = world.random_policy()
    returns = [world.expected_return(random, random, "X", gamma) for gamma in (0.0, 0.5, 1.0)]
    assert returns[0] == 0.0 and returns[0] < returns[1] < returns[2]


def test_visits_are_the_chance_to_pass_through():
    policy, opponent = drawn_policy(5), drawn_policy(6)
    for side in "XO":
        visits = world.visit_probabilities(policy, opponent, side)
        expected: dict[str, float] = {}

        def spread(cells, chance, side=side, expected=expected):
            expected[cells] = expected.get(cells, 0.0) + chance
            if cells.count(".") < 5:  # deep enough, and quick
                return
            table = policy if to_move(cells) == side else opponent
            for square, child in children(cells).items():
                spread(child, chance * table[state_space().index_of[cells], square])

        spread(".........", 1.0)
        for cells, chance in expected.items():
            assert visits[state_space().index_of[cells]] == pytest.approx(chance, abs=1e-12)
        assert visits[state_space().finished].sum() == pytest.approx(1.0, abs=1e-12)


def test_minimax_equals_recursion_and_never_loses():
    @cache
    def worth(cells: str) -> float:  # to the player to move
        if over(cells):
            return result_for(cells, to_move(cells))
        return max(-worth(child) for child in children(cells).values())

    values, policy = world.minimax_values(), world.minimax_policy()
    for row, board in enumerate(state_space().boards):
        assert values[row] == worth(board.cells)
        best = [
            s
            for s, c in children(board.cells).items()
            if not over(board.cells) and -worth(c) == values[row]
        ]
        assert np.flatnonzero(policy[row]).tolist() == best
    for side in "XO":
        assert world.result_probabilities(policy, world.random_policy(), side)[2] == 0
        assert world.result_probabilities(policy, world.best_response(policy), side)[1] == 1


def test_best_response_equals_expectimax_and_beats_others():
    opponent = drawn_policy(7)
    row = state_space().index_of

    @cache
    def best(cells: str, side: str) -> float:
        if over(cells):
            return result_for(cells, side)
        if to_move(cells) == side:
            return max(best(child, side) for child in children(cells).values())
        return sum(opponent[row[cells], s] * best(c, side) for s, c in children(cells).items())

    response = world.best_response(opponent)
    for side in "XO":
        reached = world.expected_return(response, opponent, side)
        assert reached == pytest.approx(best(".........", side), abs=1e-12)
        for other in (world.random_policy(), world.minimax_policy(), drawn_policy(8)):
            assert world.expected_return(other, opponent, side) < reached


def test_a_policy_has_no_advantage_over_itself():
    policy, opponent = drawn_policy(9), drawn_policy(10)
    advantages = world.advantages_of(world.exact_q_values(policy, opponent), policy)
    assert np.abs((policy * advantages).sum(axis=1)).max() < 1e-12
    assert np.abs(advantages).max() > 0.5


def test_greedy_policies_share_ties_and_ignore_illegal_moves():
    q_values = np.where(state_space().legal, 0.0, np.inf)
    q_values[0, [2, 6]] = 1.0
    policy = world.greedy_policy(q_values)
    assert policy[0].tolist() == [0, 0, 0.5, 0, 0, 0, 0.5, 0, 0]
    np.testing.assert_allclose(policy[1:], world.random_policy()[1:])
    np.testing.assert_allclose(
        world.mix_policies(policy, world.random_policy(), 0.9)[0, [0, 2]], [0.1, 0.15]
    )


# --- playing --------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.sampled_from(["X", "O", "both"]), st.integers(0, 2**31))
def test_playouts_are_games_that_could_be_played(games, side, seed):
    playouts = world.play_games(
        drawn_policy(1), drawn_policy(2), games, np.random.default_rng(seed), side
    )
    assert len(playouts) == games
    assert playouts.mask.any(axis=0).all()
    is_x = {"X": games, "O": 0, "both": (games + 1) // 2}[side]
    assert playouts.agent_is_x.sum() == is_x
    boards = state_space().boards
    for game in range(games):
        steps = int(playouts.mask[game].sum())
        assert playouts.mask[game, :steps].all()
        agent = "X" if playouts.agent_is_x[game] else "O"
        for time in range(steps):
            board = boards[playouts.states[game, time]]
            assert board.player == agent
            after = board.step(int(playouts.actions[game, time]))
            reward = playouts.rewards[game, time]
            if time < steps - 1:
                following = boards[playouts.states[game, time + 1]].cells
                assert following in children(after.cells).values() and reward == 0
            elif after.finished:
                assert reward == result_for(after.cells, agent)
            else:
                assert reward in {result_for(c, agent) for c in children(after.cells).values()}
        for padding in (playouts.states, playouts.actions, playouts.rewards):
            assert not padding[game, steps:].any()


def test_playing_is_repeatable_and_follows_the_probabilities():
    policy, opponent = drawn_policy(11), drawn_policy(12)
    first, second = (
        world.play_games(policy, opponent, 40_000, np.random.default_rng(3), "both") for _ in "ab"
    )
    assert np.array_equal(first.states, second.states)
    for side, is_x in (("X", True), ("O", False)):
        results = first.results[first.agent_is_x == is_x]
        shares = [(results == r).mean() for r in (1, 0, -1)]
        exact = world.result_probabilities(policy, opponent, side)
        # Five standard errors of a share of 20,000 games.
        np.testing.assert_allclose(shares, exact, atol=5 * 0.5 / np.sqrt(20_000))
    openings = np.bincount(first.actions[first.agent_is_x, 0], minlength=9) / 20_000
    np.testing.assert_allclose(openings, policy[0], atol=5 * 0.5 / np.sqrt(20_000))


def test_a_move_of_probability_0_is_never_played():
    policy = np.zeros_like(world.random_policy())
    policy[np.arange(len(policy)), state_space().legal.argmax(axis=1)] = 1.0
    policy[~state_space().legal] = 0.0
    playouts = world.play_games(policy, policy, 50, np.random.default_rng(0), "X")
    assert (playouts.states == playouts.states[0]).all() and (playouts.actions[:, 0] == 0).all()


# --- what comes in --------------------------------------------------------------------------------


def broken(change) -> np.ndarray:
    policy = world.random_policy()
    change(policy)
    return policy


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (np.ones((3, 9)), r"policy must have shape \(5478, 9\), got \(3, 9\)"),
        (broken(lambda p: p.__setitem__((0, 0), -0.1)), "negative or NaN"),
        (broken(lambda p: p.__setitem__((7, 3), np.nan)), "negative or NaN"),
        (broken(lambda p: p.__setitem__((1, 8), 0.5)), r"illegal move on '........X' \(row 1\)"),
        (broken(lambda p: p.__setitem__((0, 0), 0.5)), "must sum to 1"),
    ],
)
def test_what_is_no_policy_is_refused(policy, message):
    with pytest.raises(ValueError, match=message):
        world.exact_values(policy, world.random_policy())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: world.exact_values(r, r, 1.5), "gamma must be between 0 and 1, got 1.5"),
        (lambda r: world.mix_policies(r, r, -0.1), "weight must be between 0 and 1"),
        (lambda r: world.result_probabilities(r, r, "x"), "must be 'X' or 'O', got 'x'"),
        (lambda r: world.q_values_from(np.zeros(9), r), r"values must have shape \(5478,\)"),
        (
            lambda r: world.play_games(r, r, 0, np.random.default_rng(0)),
            "games must be a whole number, at least 1, got 0",
        ),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(world.random_policy())
