"""A tic-tac-toe board to click, with what the agent thinks written on the empty squares.

Used by lesson 1. The squares are buttons, so Tab, Space and Enter play as well as the mouse. A
button's name for screen readers is its text ("centre, empty, Q +0.42"); what one sees (a mark or a
number) is laid over it by a style sheet that is rewritten after each move. Every change of the game
is announced.

Left out on purpose: two human players, and taking a move back.
"""

from __future__ import annotations

import contextlib
import html
import itertools
from collections.abc import Mapping
from typing import Any

import ipywidgets
import numpy as np

from rlhf_lessons.classroom import plots, style
from rlhf_lessons.classroom.widgets import caption_html, display_bundle, warning_html
from rlhf_lessons.worlds.tic_tac_toe import LINES, Board, state_space

_SIZE = (2.9, 3.1)  # inches, the static picture
_NOTHING = "nothing"
_SERIAL = itertools.count()


class BoardGame:
    """A game between the reader and an agent; see `play`.

    Attributes:
        board: the present position.
        message: what was announced last.
        results: how many finished games the reader has won, drawn and lost.
        widget: the live widget, for those who want to place it themselves.
    """

    def __init__(
        self,
        agent: Any,
        show: Mapping[str, Any],
        begins: str,
        showing: str | None,
        caption: str,
        seed: int,
    ):
        if begins not in ("you", "agent"):
            raise ValueError(f"play: begins must be 'you' or 'agent', got {begins!r}")
        if _NOTHING in show:
            raise ValueError(f"play: show must not use the name {_NOTHING!r}")
        if showing is not None and showing not in show:
            raise ValueError(f"play: showing must be one of {list(show)} or None, got {showing!r}")
        self._policy = None if callable(agent) else _table("agent", agent)
        self._choose = agent if callable(agent) else self._sample
        self._show = {
            name: numbers if callable(numbers) else _table(f"show[{name!r}]", numbers)
            for name, numbers in show.items()
        }
        self._signed = {name: self._has_negative(n) for name, n in self._show.items()}
        self._generator = np.random.default_rng(seed)
        self._caption = caption
        self.board = Board()
        self.message = ""
        self.results = {"won": 0, "drawn": 0, "lost": 0}
        self._class = f"rlhf-lessons-board-{next(_SERIAL)}"
        self._build(begins, showing)
        self.new_game()
        self._first = self._draw()

    # --- playing ---------------------------------------------------------------------------------

    @property
    def you(self) -> str:
        """The reader's mark; whoever begins has X."""
        return self._you

    def new_game(self) -> None:
        """Clear the board; the agent moves at once when it begins."""
        self._you = "X" if self._begins.value == "you" else "O"
        self.board = Board()
        if self._you == "O":
            self._reply(f"New game, you are {self._you}.")
        else:
            self._say(f"New game, you are {self._you}. Your move.")

    def press(self, square: int) -> None:
        """Mark a square for the reader and let the agent answer; says so when that is illegal.

        Args:
            square: 0 to 8, left to right and top to bottom.
        """
        if self.board.finished:
            self._say("The game is over. Press New game.")
            return
        if self.board.player != self._you:
            self._reply("")  # an agent that failed before gets another chance
            return
        try:
            self.board = self.board.step(square)
        except ValueError:
            taken = self.board.cells[square]
            self._say(f"That square is taken: {plots.SQUARE_NAMES[square]} holds {taken}.")
            return
        said = f"You took {plots.SQUARE_NAMES[square]}."
        if self.board.finished:
            self._end(said)
        else:
            self._reply(said)

    def _reply(self, said: str) -> None:
        try:
            square = int(self._choose(self.board))
            after = self.board.step(square)
        except Exception as error:
            self._say(f"{said} The agent failed: {type(error).__name__}: {error}", warn=True)
            return
        said = f"{said} The agent took {plots.SQUARE_NAMES[square]}"
        with contextlib.suppress(Exception):  # numbers that fail are reported with the position
            name, numbers = self._showing.value, self._numbers()
            if square in numbers:
                said += f" ({name} {plots.number_text(numbers[square], self._signed[name])})"
        self.board = after
        if self.board.finished:
            self._end(f"{said}.".strip())
        else:
            self._say(f"{said}. Your move.".strip())

    def _end(self, said: str) -> None:
        winner = self.board.winner
        if winner is None:
            self.results["drawn"] += 1
            said = f"{said} A draw."
        else:
            self.results["won" if winner == self._you else "lost"] += 1
            line = ", ".join(plots.SQUARE_NAMES[square] for square in self._line())
            who = "You win" if winner == self._you else "The agent wins"
            said = f"{said} {who}: {line}."
        self._say(said)

    def _line(self) -> tuple[int, ...]:
        """The three squares that won, or none."""
        cells = self.board.cells
        for line in LINES:
            if cells[line[0]] in "XO" and len({cells[square] for square in line}) == 1:
                return line
        return ()

    def _sample(self, board: Board) -> int:
        chances = self._policy[board.index]
        legal = list(board.legal_moves())
        total = chances[legal].sum()
        if not np.isfinite(total) or total <= 0 or (chances[legal] < 0).any():
            raise ValueError(
                f"its policy gives no probabilities on {board.cells!r}: {chances.tolist()}"
            )
        return int(self._generator.choice(legal, p=chances[legal] / total))

    def _numbers(self) -> dict[int, float]:
        """The chosen number of each legal move on the present board."""
        name = self._showing.value
        if name == _NOTHING or self.board.finished:
            return {}
        numbers = self._show[name]
        if callable(numbers):
            return plots.shown_numbers(self.board.cells, numbers(self.board))
        return plots.shown_numbers(self.board.cells, numbers[self.board.index])

    def _has_negative(self, numbers: Any) -> bool:
        if callable(numbers):
            return True
        return bool((numbers[np.asarray(state_space().legal)] < 0).any())

    # --- the page --------------------------------------------------------------------------------

    def _build(self, begins: str, showing: str | None) -> None:
        self._begins = ipywidgets.Dropdown(
            options=["you", "agent"],
            value=begins,
            description="who begins",
            layout={"width": "180px"},
            style={"description_width": "80px"},
        )
        self._showing = ipywidgets.Dropdown(
            options=[_NOTHING, *self._show],
            value=_NOTHING if showing is None else showing,
            description="on the squares",
            layout={"width": "230px"},
            style={"description_width": "100px"},
        )
        new = ipywidgets.Button(description="New game", layout={"width": "100px"})
        new.on_click(lambda button: self.new_game())
        self._begins.observe(lambda change: self.new_game(), "value")
        self._showing.observe(lambda change: self._say("", quiet=True), "value")
        self._sheet = ipywidgets.HTML(layout={"display": "flex", "height": "0", "margin": "0"})
        self._status = ipywidgets.HTML()
        self._score = ipywidgets.HTML()
        self._buttons = []
        for square in range(9):
            button = ipywidgets.Button(layout={"width": "88px", "height": "88px", "margin": "0"})
            button.add_class("rlhf-lessons-square")
            button.add_class(f"rlhf-lessons-square-{square}")
            button.on_click(lambda button, square=square: self.press(square))
            self._buttons.append(button)
        grid = ipywidgets.GridBox(
            self._buttons,
            layout={
                "grid_template_columns": "repeat(3, 88px)",
                "grid_gap": "4px",
                "padding": "6px",
            },
        )
        self.widget = ipywidgets.VBox(
            [
                self._sheet,
                ipywidgets.HBox(
                    # Where there is nothing to show, there is nothing to choose.
                    [self._begins, *([self._showing] if self._show else []), new],
                    layout={"flex_flow": "row wrap"},
                ),
                grid,
                self._status,
                self._score,
                ipywidgets.HTML(caption_html(self._caption)),
            ]
        )
        self.widget.add_class(self._class)
        self.widget.add_class("rlhf-lessons-board")

    def _say(self, text: str, *, warn: bool = False, quiet: bool = False) -> None:
        """Show the position, and announce the text unless only the numbers changed."""
        numbers: dict[int, float] = {}
        try:
            numbers = self._numbers()
        except Exception as error:
            text, warn, quiet = f"{text} The numbers failed: {error}".strip(), True, False
        self._render(numbers)
        if quiet:
            return
        self.message = text
        self._status.value = (
            warning_html(text)
            if warn
            else f'<p role="alert" style="margin:2px 0;line-height:1.5;font-weight:600;'
            f'color:var(--jp-ui-font-color1,#1a1a1c)">{html.escape(text)}</p>'
        )
        self._score.value = caption_html(
            " · ".join(f"{name} {count}" for name, count in self.results.items())
        ).replace("<p ", '<p aria-label="your games so far" ')

    def _render(self, numbers: Mapping[int, float]) -> None:
        name, line = self._showing.value, self._line()
        limit = max([0.01, *(abs(n) for n in numbers.values() if np.isfinite(n))])
        root = f".{self._class} button.rlhf-lessons-square"
        rules = [
            # The button's own text is its name for screen readers; the eye gets ::before.
            f"{root}{{font-size:0;color:#1a1a1c;border:1px solid #55555a;border-radius:4px;"
            "line-height:86px;padding:0}",
            f"{root}:focus-visible{{outline:3px solid #1f5fd6;outline-offset:1px}}",
        ]
        for square, mark in enumerate(self.board.cells):
            spoken, seen, ground, look = "empty", "", "#ffffff", "font-size:17px"
            if mark in "XO":
                spoken, seen = mark, "×" if mark == "X" else "○"
                color = style.TEXT_COLORS[0] if mark == "X" else style.TEXT_COLORS[1]
                look = f"font-size:52px;font-weight:700;color:{color}"
                if square in line:
                    ground, spoken = "#d9f2d9", f"{mark}, in the winning line"
            elif square in numbers:
                seen = plots.number_text(numbers[square], self._signed[name])
                ground, spoken = plots.tint(numbers[square], limit), f"empty, {name} {seen}"
            label = f"{plots.SQUARE_NAMES[square]}, {spoken}"
            if self._buttons[square].description != label:
                self._buttons[square].description = label
            cell = f"{root}.rlhf-lessons-square-{square}"
            frame = "box-shadow:inset 0 0 0 3px #2e7d32;" if square in line else ""
            # The second content, without words for screen readers, replaces the first where known.
            rules.append(
                f'{cell}{{background:{ground};{frame}}}{cell}::before{{content:"{seen}";'
                f'content:"{seen}" / "";{look}}}'
            )
        self._sheet.value = f"<style>{''.join(rules)}</style>"

    def _draw(self) -> bytes:
        figure = style.new_figure(_SIZE)
        name = self._showing.value
        with style.drawing():
            title = "tic-tac-toe" if name == _NOTHING else f"{name} of each move"
            signed = self._signed.get(name, True)
            axes = figure.subplots()
            plots.board_map(axes, self.board.cells, self._numbers(), title=title, signed=signed)
            return style.png(figure)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        text = f"{self.board}\n{self.message}\n{self._caption}".strip()
        return display_bundle(self.widget, self._first, text)


def play(
    agent: Any,
    *,
    show: Mapping[str, Any] | None = None,
    showing: str | None = None,
    begins: str = "you",
    caption: str = "",
    seed: int = 0,
) -> BoardGame:
    """Play tic-tac-toe against an agent on a clickable board; leave it on a cell's last line.

    Args:
        agent: (S, 9) move probabilities, one row for each position of `state_space()`, as an array
            or tensor; or a callable that takes a `Board` and returns a square.
        show: numbers that the reader can have written on the empty squares, by name ("π", "V",
            "Q"): (S, 9) tables, or callables that take a `Board` and return the number of each
            square. They are those of the player to move, who is the reader.
        showing: which of them is shown at first; None shows none.
        begins: "you" or "agent"; whoever begins plays X.
        caption: what to look for, shown below the board.
        seed: decides what the agent samples.

    Returns:
        The game. It also holds a picture of its first position, for readers without a kernel.

    Raises:
        ValueError: a table has another shape, or a name is unknown.
    """
    return BoardGame(agent, show or {}, begins, showing, caption, seed)


def _table(name: str, table: Any) -> np.ndarray:
    if hasattr(table, "detach"):  # a tensor
        table = table.detach().cpu()
    table = np.asarray(table, dtype=float)
    expected = (len(state_space()), 9)
    if table.shape != expected:
        hint = "; turn V into the value of each move with q_values_from" if table.ndim == 1 else ""
        raise ValueError(f"play: {name} must have shape {expected}, got {table.shape}{hint}")
    return table
