"""Ask a person: which of two responses is better, in what order are several, how good is one?

Used by lesson 3. Each preference is on disk before the next question is shown (see
``worlds.preferences``), so closing the tab loses nothing; opening the task again goes on where it
stopped. Keys answer as well as the mouse. Ratings of real snippets are kept nowhere, and neither
are the snippets: they are shown by a living kernel alone.

Ties name no chosen response. They are kept in a file beside the preferences, with ``.ties`` in its
name, so that the preference file stays readable for ``datasets`` and TRL.

Left out on purpose: several people at one file, and dragging (numbers are quicker, and a keyboard
has them).
"""

from __future__ import annotations

import html
import itertools
import os
import shutil
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np

from rlhf_lessons.classroom import style
from rlhf_lessons.classroom.widgets import (
    caption_html,
    display_bundle,
    progress_html,
    script_html,
)
from rlhf_lessons.worlds.preferences import (
    Preference,
    PreferenceFileError,
    append_preferences,
    load_preferences,
    ranking_to_pairs,
    save_preferences,
)

_SIZE = (7.2, 2.4)  # inches, the static picture
# Keys are heard in the whole task.
_LISTEN = """
const root = this.closest('.rlhf-lessons-labelling');
const names = {names};
root.addEventListener('keydown', event => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const name = names[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!name) return;
  event.preventDefault();
  event.stopPropagation();
  if (!event.repeat) root.querySelector('button.rlhf-lessons-answer-' + name).click();
});
"""


def ties_path(path: str | os.PathLike) -> Path:
    """Name the file beside ``path`` that holds the ties."""
    path = Path(path)
    return path.with_name(f"{path.stem}.ties{path.suffix}")


def open_labels(
    path: Path, vocabulary: Collection[str] | None, keep_good: bool
) -> list[Preference]:
    """Read the labels made so far; a damaged file is copied before its good lines are taken."""
    if not path.exists():
        return []
    try:
        return load_preferences(path, vocabulary=vocabulary)
    except PreferenceFileError as error:
        if not keep_good:
            raise ValueError(
                f"{error}\nNothing was changed. keep_good=True goes on with the good lines and "
                f"keeps a copy of the file; or give another path"
            ) from error
        number = next(i for i in itertools.count(1) if not copy_name(path, i).exists())
        shutil.copy2(path, copy_name(path, number))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the note below says the same
            good = load_preferences(path, vocabulary=vocabulary, keep_good=True)
        save_preferences(path, good)
        warnings.warn(
            f"{error}\nkept {len(good)} good lines; the file as it was is "
            f"{copy_name(path, number).name}",
            stacklevel=3,
        )
        return good


def copy_name(path: Path, number: int) -> Path:
    """Name the n-th copy of a damaged file."""
    return path.with_name(f"{path.name}.damaged-{number}")


def same_pair(prompt: str, first: str, second: str) -> tuple[str, frozenset[str]]:
    """What two answers to one question have in common, whichever way it was asked."""
    return prompt, frozenset((first, second))


class _Task:
    """What both tasks share: the page, the keys, the progress."""

    def __init__(self, caption: str, keys: dict[str, str], hint: str):
        self._caption = caption
        self._prompt = ipywidgets.HTML()
        self._status = ipywidgets.HTML()
        self._buttons: dict[str, ipywidgets.Button] = {}
        names = "{" + ",".join(f"'{key}':'{name}'" for key, name in keys.items()) + "}"
        script = script_html(_LISTEN.replace("{names}", names))
        self._keys = ipywidgets.HTML(
            f'<div tabindex="0" role="group" class="rlhf-lessons-keys" aria-label="{hint}" '
            'style="border:1px dashed #8a8a90;border-radius:4px;padding:2px 8px;'
            f'color:var(--jp-ui-font-color1,#1a1a1c)">Click here, then: {hint}{script}</div>'
        )

    def _button(self, name: str, text: str, tooltip: str, width: str) -> ipywidgets.Button:
        button = ipywidgets.Button(description=text, tooltip=tooltip, layout={"width": width})
        button.add_class(f"rlhf-lessons-answer-{name}")
        button.on_click(lambda _: self._press(name))
        self._buttons[name] = button
        return button

    def _page(self, rows: list[ipywidgets.Widget]) -> None:
        self.widget = ipywidgets.VBox(
            [
                self._prompt,
                *rows,
                self._keys,
                self._status,
                ipywidgets.HTML(caption_html(self._caption)),
            ]
        )
        self.widget.add_class("rlhf-lessons-labelling")
        self._render()
        self._first = self._draw()

    def _press(self, name: str) -> None:
        try:
            self._answer(name)
            self._render()
        except Exception as error:  # a full disk, say: the page must say so, the answer is not lost
            self._say(f"Not saved: {type(error).__name__}: {error}")

    def _say_prompt(self, prompt: str) -> None:
        dots = "" if self.position is None else " ..."
        self._prompt.value = f"<p style='margin:2px 6px'><i>{html.escape(prompt)}</i>{dots}</p>"

    def _say(self, text: str) -> None:
        done, total = self.done, self.total
        bar = progress_html("labelled so far", done, total, width=160)
        self._status.value = (
            f'<p role="status" style="margin:2px 6px;color:var(--jp-ui-font-color1,#1a1a1c)">{bar}'
            f"&ensp;{done} of {total}&ensp;·&ensp;{html.escape(text)}</p>"
        )

    def _draw(self) -> bytes | None:
        prompt, cards = self._shown()
        figure = style.new_figure(_SIZE)
        with style.drawing():
            figure.suptitle(prompt, fontsize=11, x=0.02, ha="left")
            for axes, (name, text) in zip(
                figure.subplots(1, len(cards), squeeze=False)[0], cards, strict=True
            ):
                axes.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1))
                axes.set_title(name)
                axes.grid(False)
                axes.text(0.02, 0.96, wrapped(text, 88 // len(cards)), va="top", fontsize=9)
            return style.png(figure)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        prompt, cards = self._shown()
        words = [prompt, *(f"{name}: {text}" for name, text in cards), self._caption]
        return display_bundle(self.widget, self._first, "\n".join(words))

    # What each task fills in.
    done: int
    total: int
    position: int | None
    _answer: Callable[[str], None]
    _render: Callable[[], None]
    _shown: Callable[[], tuple[str, list[tuple[str, str]]]]


def wrapped(text: str, width: int) -> str:
    """Break a text at spaces so that no line is longer than ``width``."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def card_html(name: str, text: str, note: str = "") -> str:
    """One response in a frame."""
    return (
        f'<div role="group" aria-label="{html.escape(name, quote=True)}" style="border:1px solid '
        "#8a8a90;border-radius:4px;padding:6px 10px;min-height:96px;line-height:1.45;"
        'white-space:normal;color:var(--jp-ui-font-color1,#1a1a1c)">'
        f"<b>{html.escape(name)}</b> {html.escape(note)}<br>{html.escape(text)}</div>"
    )


class PairLabels(_Task):
    """A task of choosing between two responses; see ``label_pairs_by_hand``.

    Attributes:
        path: the file of preferences.
        widget: the live widget, for those who want to place it themselves.
    """

    def __init__(self, pairs, path, caption, vocabulary, keep_good):
        keys = {
            "ArrowLeft": "left",
            "ArrowRight": "right",
            "ArrowDown": "tie",
            "t": "tie",
            "u": "undo",
            "Backspace": "undo",
        }
        super().__init__(caption, keys, "← left is better, → right is better, T tie, U undo")
        self.path = Path(path)
        self._pairs = pairs
        known = {same_pair(*pair): index for index, pair in enumerate(pairs)}
        self._history: list[tuple[int, str]] = []
        kept = open_labels(self.path, vocabulary, keep_good)
        ties = open_labels(ties_path(self.path), vocabulary, keep_good)
        self._others = 0
        for record, tie in [*((r, False) for r in kept), *((r, True) for r in ties)]:
            index = known.get(same_pair(*record))
            if index is None:
                self._others += 1
            elif tie:
                self._history.append((index, "tie"))
            else:
                side = "left" if record.chosen == pairs[index][1] else "right"
                self._history.append((index, side))
        # A pair that was answered twice counts once, by its last answer in the file.
        self._history = sorted(dict(self._history).items())
        self._left, self._right = (ipywidgets.HTML(layout={"flex": "1 1 0%"}) for _ in range(2))
        self._page(
            [
                ipywidgets.HBox([self._left, self._right], layout={"width": "100%"}),
                ipywidgets.HBox(
                    [
                        self._button("left", "← left is better", "key: left arrow", "150px"),
                        self._button("tie", "tie (T)", "key: T or down arrow", "90px"),
                        self._button("right", "right is better →", "key: right arrow", "150px"),
                        self._button("undo", "undo (U)", "key: U or Backspace", "100px"),
                    ],
                    layout={"flex_flow": "row wrap"},
                ),
            ]
        )

    @property
    def done(self) -> int:
        """How many pairs are answered, ties included."""
        return len(self._history)

    @property
    def total(self) -> int:
        """How many pairs there are."""
        return len(self._pairs)

    @property
    def position(self) -> int | None:
        """The pair that is shown, None when all are answered."""
        answered = {index for index, _ in self._history}
        return next((i for i in range(self.total) if i not in answered), None)

    @property
    def labels(self) -> list[Preference]:
        """The preferences among these pairs, in the order in which they were given."""
        return [self._record(i, verdict) for i, verdict in self._history if verdict != "tie"]

    @property
    def ties(self) -> int:
        """How many pairs were called a tie."""
        return sum(verdict == "tie" for _, verdict in self._history)

    def choose(self, verdict: str) -> None:
        """Answer the pair that is shown; the answer is on disk when this returns.

        Args:
            verdict: ``"left"``, ``"right"`` or ``"tie"``.

        Raises:
            ValueError: another word, or no pair is left.
        """
        if verdict not in ("left", "right", "tie"):
            raise ValueError(f"choose: verdict must be left, right or tie, got {verdict!r}")
        position = self.position
        if position is None:
            raise ValueError(f"choose: all {self.total} pairs are answered")
        target = ties_path(self.path) if verdict == "tie" else self.path
        append_preferences(target, [self._record(position, verdict)])
        self._history.append((position, verdict))
        self._render()

    def undo(self) -> None:
        """Take the last answer back, also in the file; nothing happens when there is none."""
        if not self._history:
            return
        index, verdict = self._history[-1]
        target = ties_path(self.path) if verdict == "tie" else self.path
        replace_records(target, [same_pair(*self._pairs[index])], [])
        self._history.pop()
        self._render()

    def _record(self, index: int, verdict: str) -> Preference:
        prompt, first, second = self._pairs[index]
        return Preference(prompt, *((second, first) if verdict == "right" else (first, second)))

    def _answer(self, name: str) -> None:
        if name == "undo":
            self.undo()
        elif self.position is not None:
            self.choose(name)

    def _shown(self) -> tuple[str, list[tuple[str, str]]]:
        if self.position is None:
            return "All pairs are answered.", [("left", ""), ("right", "")]
        prompt, first, second = self._pairs[self.position]
        return prompt, [("left", first), ("right", second)]

    def _render(self) -> None:
        prompt, ((_, first), (_, second)) = self._shown()
        self._say_prompt(prompt)
        self._left.value, self._right.value = card_html("left", first), card_html("right", second)
        for name, button in self._buttons.items():
            button.disabled = not self._history if name == "undo" else self.position is None
        text = f"saved in {self.path.name}"
        if self._others:
            text += f", beside {self._others} labels of other pairs"
        self._say(text if self._history or self._others else "which one is better?")


class RankLabels(_Task):
    """A task of ordering several responses, best first; see ``rank_by_hand``.

    Attributes:
        path: the file of preferences.
        widget: the live widget, for those who want to place it themselves.
    """

    def __init__(self, groups, path, caption, vocabulary, keep_good):
        self._count = len(groups[0][1])
        keys = {str(i + 1): str(i + 1) for i in range(self._count)}
        keys |= {"u": "undo", "Backspace": "undo"}
        super().__init__(
            caption, keys, f"press the numbers 1 to {self._count}, best response first; U undo"
        )
        self.path = Path(path)
        self._groups = groups
        self._picked: list[int] = []
        wins = set(open_labels(self.path, vocabulary, keep_good))
        self._rankings: dict[int, list[str]] = {}
        for index, (prompt, responses) in enumerate(groups):
            won = {a: sum(Preference(prompt, a, b) in wins for b in responses) for a in responses}
            if sorted(won.values()) == list(range(self._count)):
                self._rankings[index] = sorted(responses, key=won.__getitem__, reverse=True)
        self._cards = [ipywidgets.HTML(layout={"flex": "1 1 0%"}) for _ in range(self._count)]
        buttons = [
            self._button(str(i + 1), str(i + 1), f"key: {i + 1}", "60px")
            for i in range(self._count)
        ]
        self._page(
            [
                ipywidgets.HBox(self._cards, layout={"width": "100%"}),
                ipywidgets.HBox(
                    [*buttons, self._button("undo", "undo (U)", "key: U or Backspace", "100px")],
                    layout={"flex_flow": "row wrap"},
                ),
            ]
        )

    @property
    def done(self) -> int:
        """How many groups are ranked."""
        return len(self._rankings)

    @property
    def total(self) -> int:
        """How many groups there are."""
        return len(self._groups)

    @property
    def position(self) -> int | None:
        """The group that is shown, None when all are ranked."""
        return next((i for i in range(self.total) if i not in self._rankings), None)

    @property
    def labels(self) -> list[Preference]:
        """All pairs of all rankings."""
        return [
            pair
            for index, ranked in self._rankings.items()
            for pair in ranking_to_pairs(self._groups[index][0], ranked)
        ]

    def pick(self, number: int) -> None:
        """Name the best of those that are left; the last one follows by itself and all is saved.

        Args:
            number: of the response, counted from 1.

        Raises:
            ValueError: no such response, one that has its place already, or no group is left.
        """
        position = self.position
        if position is None:
            raise ValueError(f"pick: all {self.total} groups are ranked")
        if not 1 <= number <= self._count or number in self._picked:
            left = [i for i in range(1, self._count + 1) if i not in self._picked]
            raise ValueError(f"pick: number must be one of {left}, got {number}")
        picked = [*self._picked, number]
        if len(picked) == self._count - 1:
            picked += [i for i in range(1, self._count + 1) if i not in picked]
            prompt, responses = self._groups[position]
            ranked = [responses[i - 1] for i in picked]
            self._store(position, ranking_to_pairs(prompt, ranked))
            self._rankings[position] = ranked
            picked = []
        self._picked = picked
        self._render()

    def undo(self) -> None:
        """Take the last pick back, or open the last ranking again, also in the file."""
        if self._picked:
            self._picked.pop()
        elif self._rankings:
            last = list(self._rankings)[-1]
            self._store(last, [])
            del self._rankings[last]
        self._render()

    def _store(self, index: int, pairs: list[Preference]) -> None:
        """Replace what the file says of one group, in one step."""
        prompt, responses = self._groups[index]
        questions = [same_pair(*pair) for pair in ranking_to_pairs(prompt, responses)]
        replace_records(self.path, questions, pairs)

    def _answer(self, name: str) -> None:
        if name == "undo":
            self.undo()
        elif self.position is not None and int(name) not in self._picked:
            self.pick(int(name))

    def _shown(self) -> tuple[str, list[tuple[str, str]]]:
        names = [str(i + 1) for i in range(self._count)]
        if self.position is None:
            return "All groups are ranked.", [(name, "") for name in names]
        prompt, responses = self._groups[self.position]
        return prompt, list(zip(names, responses, strict=True))

    def _render(self) -> None:
        prompt, cards = self._shown()
        self._say_prompt(prompt)
        for i, (card, (name, text)) in enumerate(zip(self._cards, cards, strict=True), start=1):
            place = f"· place {self._picked.index(i) + 1}" if i in self._picked else ""
            card.value = card_html(name, text, place)
        for name, button in self._buttons.items():
            if name == "undo":
                button.disabled = not (self._picked or self._rankings)
            else:
                button.disabled = self.position is None or int(name) in self._picked
        rank = ("best", *("next best" for _ in range(self._count)))[len(self._picked)]
        asked = "" if self.position is None else f"which is the {rank}?"
        saved = f"saved in {self.path.name}" if self._rankings else ""
        self._say(" · ".join(text for text in (asked, saved) if text))


class RateTexts(_Task):
    """A task of rating texts from −4 to 4; see ``rate_by_hand``.

    Attributes:
        widget: the live widget, for those who want to place it themselves.
        ratings: what was given so far, in the order of the texts.
    """

    def __init__(self, texts, people, judge, caption):
        keys = {str(i + 1): f"rating-{i}" for i in range(9)} | {"u": "undo", "Backspace": "undo"}
        hint = "press 1 (−4, very negative) to 9 (+4, very positive), 5 is neutral; U undo"
        super().__init__(caption, keys, hint)
        self._texts, self._people, self._judge = texts, people, judge
        self.ratings: list[int] = []
        self._card = ipywidgets.HTML(layout={"flex": "1 1 0%"})
        card = ipywidgets.HBox([self._card], layout={"width": "100%"})
        buttons = [
            self._button(f"rating-{i}", _signed(i - 4), f"key: {i + 1}", "54px") for i in range(9)
        ]
        buttons.append(self._button("undo", "undo (U)", "key: U or Backspace", "100px"))
        self._page([card, ipywidgets.HBox(buttons, layout={"flex_flow": "row wrap"})])

    @property
    def done(self) -> int:
        """How many texts are rated."""
        return len(self.ratings)

    @property
    def total(self) -> int:
        """How many texts there are."""
        return len(self._texts)

    @property
    def position(self) -> int | None:
        """The text that is shown, None when all are rated."""
        return self.done if self.done < self.total else None

    def rate(self, rating: int) -> None:
        """Rate the text that is shown.

        Args:
            rating: a whole number from −4 (very negative) to 4 (very positive).

        Raises:
            ValueError: another number, or no text is left.
        """
        if rating not in range(-4, 5):
            raise ValueError(f"rate: rating must be a whole number from -4 to 4, got {rating!r}")
        if self.position is None:
            raise ValueError(f"rate: all {self.total} texts are rated")
        self.ratings.append(int(rating))
        self._render()

    def undo(self) -> None:
        """Take the last rating back; nothing happens when there is none."""
        if self.ratings:
            self.ratings.pop()
        self._render()

    def comparison(self) -> dict[str, tuple[float, float]]:
        """Compare what was rated so far, every two of you, people and the judge.

        Returns:
            For each two their correlation, NaN where one has given a single number, and the mean
            distance in rating points.

        Raises:
            ValueError: fewer than 2 texts are rated.
        """
        if self.done < 2:
            raise ValueError(f"comparison: at least 2 texts must be rated, got {self.done}")
        given = {
            "you and people": (self.ratings, self._people[: self.done]),
            "you and the judge": (self.ratings, self._judge[: self.done]),
            "the judge and people": (self._judge[: self.done], self._people[: self.done]),
        }
        found = {}
        for name, (one, other) in given.items():
            x, y = np.asarray(one, np.float64), np.asarray(other, np.float64)
            alike = float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else np.nan
            found[name] = alike, float(np.abs(x - y).mean())
        return found

    def _answer(self, name: str) -> None:
        if name == "undo":
            self.undo()
        elif self.position is not None:
            self.rate(int(name.removeprefix("rating-")) - 4)

    def _render(self) -> None:
        for name, button in self._buttons.items():
            button.disabled = not self.ratings if name == "undo" else self.position is None
        if self.position is None:
            self._prompt.value = ""
            self._card.value = self._outcome()
            self._say("kept nowhere: run the cell again to start anew")
        else:
            self._prompt.value = (
                '<p style="margin:2px 6px;color:var(--jp-ui-font-color1,#1a1a1c)">How does this '
                "reviewer like the film?</p>"
            )
            self._card.value = card_html(f"{self.done + 1}", self._texts[self.position])
            self._say("from −4, very negative, to +4, very positive")

    def _outcome(self) -> str:
        """Say as HTML how alike the ratings are, and show them beside each text."""
        rows = []
        for name, (alike, distance) in self.comparison().items() if self.done > 1 else ():
            told = "none, one of them is always the same" if np.isnan(alike) else f"{alike:+.2f}"
            rows.append(f"<b>{name}</b>: correlation {told}, mean distance {distance:.2f}")
        given = zip(
            self._texts, map(_signed, self.ratings), map(_signed, self._people),
            map(_signed, self._judge), strict=True,
        )  # fmt: skip
        cells = [
            "".join(f'<td style="text-align:right;padding:1px 8px">{value}</td>' for value in v)
            + f'<td style="text-align:left">{html.escape(text)}</td>'
            for text, *v in given
        ]
        head = "".join(
            f'<th scope="col">{name}</th>' for name in ("you", "people", "judge", "text")
        )
        return (
            '<div style="line-height:1.45;white-space:normal;'
            'color:var(--jp-ui-font-color1,#1a1a1c)">'
            f"<p>{'<br>'.join(rows)}</p><table><tr>{head}</tr>"
            f"{''.join(f'<tr>{row}</tr>' for row in cells)}</table></div>"
        )

    def _draw(self) -> None:
        """Draw nothing: a picture would put a text into the notebook's file."""

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        words = f"{self.total} texts to rate from −4 to 4, which a living kernel shows"
        return display_bundle(self.widget, None, words)


def _signed(number: float) -> str:
    """Write a rating: a whole one without decimals, others with one, and never "−0"."""
    text = f"{number:+d}" if isinstance(number, int) else f"{round(number, 1) + 0.0:+.1f}"
    return "0" if text == "+0" else text.replace("-", "\N{MINUS SIGN}")


def replace_records(
    path: Path, questions: Iterable[tuple[str, frozenset[str]]], records: Sequence[Preference]
) -> None:
    """Write a file anew without the answers to some questions, with others added at the end."""
    gone = set(questions)
    old = load_preferences(path) if path.exists() else []
    save_preferences(path, [*(r for r in old if same_pair(*r) not in gone), *records])


def label_pairs_by_hand(
    prompts: Sequence[str],
    firsts: Sequence[str],
    seconds: Sequence[str],
    path: str | os.PathLike,
    *,
    caption: str = "",
    vocabulary: Collection[str] | None = None,
    keep_good: bool = False,
) -> PairLabels:
    """Ask which of two responses is better; leave it on a cell's last line.

    Keys: left and right arrow choose, T or down arrow is a tie, U or Backspace takes the last
    answer back. Answers made before are found in the file and not asked again.

    Args:
        prompts: (B,) texts.
        firsts: (B,) responses shown on the left.
        seconds: (B,) responses shown on the right; pairs of equal responses are left out.
        path: JSONL file of the preferences; made with the first answer.
        caption: what to look for, shown below.
        vocabulary: words of the world, to notice a file from another one; None accepts any.
        keep_good: whether to go on with the good lines of a damaged file, after copying it.

    Returns:
        The task: the widget, ``labels``, ``choose`` and ``undo``. It also holds a picture of its
        first question, for readers without a kernel.

    Raises:
        ValueError: the lists are not equally long, nothing is left to ask, or the file is damaged
            or from another world; the file is then unchanged.
    """
    if not len(prompts) == len(firsts) == len(seconds):
        raise ValueError(
            "label_pairs_by_hand: prompts, firsts and seconds must be equally many, got "
            f"{len(prompts)}, {len(firsts)} and {len(seconds)}"
        )
    different = {
        same_pair(*pair): pair
        for pair in zip(prompts, firsts, seconds, strict=True)
        if pair[1] != pair[2]
    }
    if not different:
        raise ValueError(
            "label_pairs_by_hand: firsts and seconds must hold at least one pair of different "
            f"responses, got {len(prompts)} pairs of equal ones"
        )
    return PairLabels(list(different.values()), path, caption, vocabulary, keep_good)


def rank_by_hand(
    prompts: Sequence[str],
    responses: Sequence[Sequence[str]],
    path: str | os.PathLike,
    *,
    caption: str = "",
    vocabulary: Collection[str] | None = None,
    keep_good: bool = False,
) -> RankLabels:
    """Ask for the order of three or more responses by their numbers; leave it on the last line.

    A ranking of K is saved as its K(K−1)/2 pairs, all at once.

    Args:
        prompts: (B,) texts.
        responses: (B, K) responses to each, K from 2 to 9, all different.
        path: JSONL file of the preferences; made with the first ranking.
        caption: what to look for, shown below.
        vocabulary: words of the world, to notice a file from another one; None accepts any.
        keep_good: whether to go on with the good lines of a damaged file, after copying it.

    Returns:
        The task: the widget, ``labels``, ``pick`` and ``undo``.

    Raises:
        ValueError: nothing to rank, groups of different size, a repeated response, or a file that
            is damaged or from another world; the file is then unchanged.
    """
    if len(prompts) != len(responses):
        raise ValueError(
            f"rank_by_hand: responses must hold one list for each of the {len(prompts)} prompts, "
            f"got {len(responses)}"
        )
    groups = [(prompt, list(own)) for prompt, own in zip(prompts, responses, strict=True)]
    if not groups:
        raise ValueError("rank_by_hand: prompts must hold at least one text, got none")
    sizes = {len(own) for _, own in groups}
    if len(sizes) != 1 or not 2 <= min(sizes) <= 9:
        raise ValueError(
            f"rank_by_hand: responses must hold 2 to 9 for every prompt, equally many, got "
            f"{sorted(sizes)}"
        )
    for index, (_, own) in enumerate(groups):
        if len(set(own)) != len(own):
            raise ValueError(f"rank_by_hand: responses must all differ, got a repeat in {index}")
    return RankLabels(groups, path, caption, vocabulary, keep_good)


def rate_by_hand(
    texts: Sequence[str],
    people: Sequence[float],
    judge: Sequence[float],
    *,
    caption: str = "",
) -> RateTexts:
    """Ask how positive each text is, and compare at the end; leave it on a cell's last line.

    Keys: 1 to 9 rate from −4 to 4, U or Backspace takes the last rating back. Nothing is kept, and
    no text gets into the notebook's file.

    Args:
        texts: (B,) texts, shown one by one.
        people: (B,) people's mean ratings, shown when all are rated.
        judge: (B,) a judge's scores on the same scale, shown likewise.
        caption: what to look for, shown below.

    Returns:
        The task: the widget, ``ratings``, ``rate``, ``undo`` and ``comparison``.

    Raises:
        ValueError: the lists are not equally long, or empty.
    """
    if not len(texts) == len(people) == len(judge) or not len(texts):
        raise ValueError(
            "rate_by_hand: texts, people and judge must be equally many, at least 1, got "
            f"{len(texts)}, {len(people)} and {len(judge)}"
        )
    return RateTexts(list(texts), list(map(float, people)), list(map(float, judge)), caption)


def what_it_learned(
    judge: Callable[[Sequence[str], Sequence[str]], Any],
    prompts: Sequence[str],
    responses: Sequence[str],
    count: int = 3,
) -> str:
    """Show as text what a judge likes most and least.

    Args:
        judge: (prompts, responses) -> scores (B,), such as a reward model.
        prompts: (B,) texts.
        responses: (B,) texts to sort.
        count: how many of each end to show.

    Returns:
        Lines of score and text, the highest first.

    Raises:
        ValueError: fewer than ``count`` responses, or scores that are not finite.
    """
    scores = np.asarray(judge(prompts, responses), dtype=np.float64)
    if scores.shape != (len(responses),) or not np.isfinite(scores).all():
        raise ValueError(
            f"what_it_learned: judge must return {len(responses)} finite scores, got shape "
            f"{scores.shape}"
        )
    if not 1 <= count <= len(responses):
        raise ValueError(f"what_it_learned: count must be 1 to {len(responses)}, got {count}")
    order = np.argsort(-scores, kind="stable")
    lines = ["likes most"]
    lines += [f"  {scores[i]:+.2f}  {responses[i]}" for i in order[:count]]
    lines += ["likes least"]
    lines += [f"  {scores[i]:+.2f}  {responses[i]}" for i in order[-count:]]
    return "\n".join(lines)
