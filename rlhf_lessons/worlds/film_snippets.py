"""Snippets of real film reviews with the ratings of real people, and VADER, a judge of rules.

The ratings are means over people, from −4 (very negative) to 4 (very positive). The texts are not
part of the course: ``python -m rlhf_lessons real get`` fetches them.

Source: Hutto & Gilbert (2014), VADER: A Parsimonious Rule-based Model for Sentiment Analysis of
    Social Media Text, ICWSM.

Left out on purpose: the ratings of single people, and the other data of the same source.
"""

from __future__ import annotations

import hashlib
import html
import importlib.util
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlhf_lessons.real_parts import part_folder

__all__ = ["FilmSnippet", "VaderJudge", "load_snippets"]

_FEWEST_WORDS = 6
_HELD_OUT_SHARE = 0.1


class FilmSnippet(NamedTuple):
    """A sentence or two of a film review, and what people think of it.

    Attributes:
        text: the snippet.
        rating: mean rating of the people who read it, from −4 to 4.
    """

    text: str
    rating: float


def load_snippets() -> tuple[list[FilmSnippet], list[FilmSnippet]]:
    """Read the snippets, cleaned, in a split that depends on nothing but each text.

    Entities of HTML become characters, two single quotes a double one, runs of spaces one space.
    Left out are texts of fewer than six words and second copies.

    Returns:
        Snippets to learn from, about 9,000, and snippets to measure on, about 1,000, each in an
        order that is mixed and always the same.

    Raises:
        PartError: If the snippets were not fetched, or are damaged: it says how to fetch them.
    """
    found: dict[str, float] = {}
    lines = (part_folder("snippets") / "ratings.txt").read_text(encoding="latin-1").split("\n")
    for line in lines:
        if not line.strip():
            continue
        _, rating, raw = line.split("\t", 2)
        text = " ".join(html.unescape(raw).replace("''", '"').split())
        if len(text.split()) >= _FEWEST_WORDS:
            found.setdefault(text, float(rating))
    places = {text: _place(text) for text in found}
    snippets = [FilmSnippet(text, found[text]) for text in sorted(found, key=places.__getitem__)]
    training = [snippet for snippet in snippets if places[snippet.text] >= _HELD_OUT_SHARE]
    return training, snippets[: len(snippets) - len(training)]


def _place(text: str) -> float:
    """Give each text a number from 0 to 1 that looks random and never changes."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


class VaderJudge:
    """VADER's reading of the whole text, prompt and response: −1 (negative) to 1 (positive).

    A lexicon and a handful of rules, written by people before any language model: nothing that is
    trained here was trained on it, so it tells when a judge that was optimised is fooled.

    Source: Hutto & Gilbert (2014).

    Raises:
        PartError: If VADER was not fetched, or is damaged: it says how to fetch it.
    """

    def __init__(self) -> None:
        path = part_folder("snippets") / "vaderSentiment.py"
        spec = importlib.util.spec_from_file_location("vaderSentiment", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self._analyzer = module.SentimentIntensityAnalyzer(
            lexicon_file="vader_lexicon.txt", emoji_lexicon="emoji_utf8_lexicon.txt"
        )

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Score responses.

        Args:
            prompts: B texts.
            responses: B texts that continue them.

        Returns:
            (B,) scores.
        """
        texts = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
        return np.array([self._analyzer.polarity_scores(text)["compound"] for text in texts])
