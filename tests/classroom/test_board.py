from __future__ import annotations

import numpy as np
import pytest
import torch

from rlhf_lessons.classroom import play
from rlhf_lessons.worlds.tic_tac_toe import (
    Board,
    exact_q_values,
    minimax_policy,
    random_policy,
    state_space,
)


def lowest(board):
    return board.legal_moves()[0]


def names(game):
    return [button.description for button in game._buttons]


def table_of_squares():
    """(S, 9): each square's number is the square itself, so that a mix-up shows."""
    return np.tile(np.arange(9.0), (len(state_space()), 1))


def test_a_game_from_the_first_move_to_the_result():
    game = play(lowest)
    assert game.message == "New game, you are X. Your move."
    game.press(4)
    assert game.board.cells == "O...X...."
    assert game.message == "You took centre. The agent took top left. Your move."
    assert names(game)[0] == "top left, O"
    assert names(game)[4] == "centre, X"
    assert names(game)[8] == "bottom right, empty"
    game.press(1)
    game.press(7)
    assert game.board.winner == "X"
    assert game.message.endswith("You win: top middle, centre, bottom middle.")
    assert game.results == {"won": 1, "drawn": 0, "lost": 0}
    assert names(game)[7] == "bottom middle, X, in the winning line"
    game.press(8)
    assert game.message == "The game is over. Press New game."
    game.new_game()
    assert game.board == Board()
    assert game.results["won"] == 1


def test_losing_and_drawing_are_counted():
    game = play(lowest)
    for square in (8, 7, 3):  # the agent takes 0, 1, 2
        game.press(square)
    assert game.message.endswith("The agent wins: top left, top middle, top right.")
    assert game.results == {"won": 0, "drawn": 0, "lost": 1}

    perfect = play(minimax_policy(), seed=3)
    while not perfect.board.finished:
        row = minimax_policy()[perfect.board.index]
        perfect.press(int(row.argmax()))
    assert perfect.results == {"won": 0, "drawn": 1, "lost": 0}
    assert perfect.message.endswith("A draw.")


def test_a_taken_square_is_refused_in_words():
    game = play(lowest)
    game.press(4)
    before = game.board
    game.press(0)
    assert game.board is before
    assert game.message == "That square is taken: top left holds O."
    assert 'role="alert"' in game._status.value


def test_the_agent_begins_when_asked():
    game = play(lowest, begins="agent")
    assert game.you == "O"
    assert game.board.cells == "X........"
    assert game.message == "New game, you are O. The agent took top left. Your move."
    game._begins.value = "you"
    assert game.you == "X"
    assert game.board == Board()


def test_numbers_are_those_of_the_present_board_and_the_player_to_move():
    uniform = random_policy()
    q_values = exact_q_values(uniform, uniform)
    game = play(lowest, show={"π": uniform, "Q": q_values}, showing="Q")
    game.press(4)
    row = q_values[state_space().index_of["O...X...."]]
    assert game._numbers() == {s: pytest.approx(row[s]) for s in (1, 2, 3, 5, 6, 7, 8)}
    # By hand: X at the centre, then top middle, threatens bottom middle.
    text = names(game)[1]
    assert text == f"top middle, empty, Q {row[1]:+.2f}".replace("-", "\N{MINUS SIGN}")
    game._showing.value = "π"
    assert names(game)[1] == "top middle, empty, π 0.14"
    game._showing.value = "nothing"
    assert names(game)[1] == "top middle, empty"


def test_each_square_shows_its_own_number():
    game = play(lowest, show={"n": table_of_squares()}, showing="n")
    for square, name in enumerate(names(game)):
        assert name.endswith(f"n {square}.00")
        rules = game._sheet.value.split(f".rlhf-lessons-square-{square}::before")[1]
        assert f'content:"{square}.00"' in rules.split("}")[0]


def test_what_the_agent_saw_in_its_move_is_told():
    game = play(lowest, show={"n": table_of_squares()}, showing="n")
    game.press(0)
    assert "The agent took top middle (n 1.00)." in game.message


def test_tensors_and_callables_are_welcome():
    game = play(
        torch.tensor(random_policy()),
        show={"V": lambda board: {move: -0.5 for move in board.legal_moves()}},
        showing="V",
    )
    assert names(game)[0] == "top left, empty, V \N{MINUS SIGN}0.50"
    game.press(0)
    assert game.board.cells.count("O") == 1


def test_the_agent_samples_its_policy():
    answers = set()
    for seed in range(40):
        game = play(random_policy(), seed=seed)
        game.press(4)
        answers.add(game.board.cells.index("O"))
        again = play(random_policy(), seed=seed)
        again.press(4)
        assert again.board == game.board
    assert answers == {0, 1, 2, 3, 5, 6, 7, 8}


def test_an_agent_that_fails_is_named_and_may_try_again():
    state = {"broken": True}

    def agent(board):
        if state["broken"]:
            raise KeyError("no such state")
        return lowest(board)

    game = play(agent)
    game.press(4)
    assert "The agent failed: KeyError: 'no such state'" in game.message
    assert game.board.cells == "....X...."
    state["broken"] = False
    game.press(8)  # not the reader's turn: the agent gets its second chance
    assert game.board.cells == "O...X...."


def test_an_illegal_move_or_an_empty_policy_is_reported():
    game = play(lambda board: 4)
    game.press(4)
    assert "The agent failed: ValueError: Board.step: square 4 is taken" in game.message
    game = play(np.zeros((len(state_space()), 9)))
    game.press(4)
    assert "gives no probabilities on '....X....'" in game.message


def test_numbers_that_fail_do_not_stop_the_game():
    game = play(lowest, show={"V": lambda board: 1 / 0}, showing=None)
    game._showing.value = "V"
    assert "The numbers failed: division by zero" in game.message
    game.press(4)
    assert game.board.cells == "O...X...."


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"agent": np.ones((3, 9))}, r"agent must have shape \(5478, 9\), got \(3, 9\)"),
        ({"show": {"V": np.ones(5478)}}, r"show\['V'\] must have shape .* q_values_from"),
        ({"begins": "me"}, "begins must be 'you' or 'agent', got 'me'"),
        ({"showing": "Q"}, r"showing must be one of \[\] or None, got 'Q'"),
        ({"show": {"nothing": random_policy()}}, "must not use the name 'nothing'"),
    ],
)
def test_what_play_refuses(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        play(**{"agent": lowest, **arguments})


def test_the_first_position_is_there_without_a_kernel():
    bundle = play(lowest, caption="Play.")._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert bundle["text/plain"].endswith("Your move.\nPlay.")


def test_boards_on_one_page_do_not_share_their_look():
    first, second = play(lowest), play(lowest)
    assert first._class != second._class
    assert second._class not in first._sheet.value


def test_a_choice_of_one_thing_is_not_offered():
    def offered(game):
        return {getattr(child, "description", "") for child in game.widget.children[1].children}

    assert "on the squares" in offered(play(random_policy(), show={"π": random_policy()}))
    assert offered(play(random_policy())) == {"who begins", "New game"}
