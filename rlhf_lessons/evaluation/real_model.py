"""What the real model says: live where its parts are there, else as it was stored.

    python -m rlhf_lessons real words              how much each word of a sentence surprises it
    python -m rlhf_lessons real words --measure    measure it again, some seconds

Stored are a sentence of ours, the same with one word swapped and its beginning, in
``real_words_runs`` beside this module, and what judges say of the held-out snippets
(``people_agreement``); no text of the fetched parts. Goes with lessons 2 and 3.

Left out on purpose: pictures, and a second copy of what ``real_frontier`` holds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlhf_lessons.evaluation import people_agreement
from rlhf_lessons.evaluation.people_agreement import load_people_scores
from rlhf_lessons.evaluation.sweeps import read_runs, write_run
from rlhf_lessons.models import LanguagePolicy, load_policy
from rlhf_lessons.models.checkpoints import FETCHED_POLICY
from rlhf_lessons.real_parts import PARTS, part_damage
from rlhf_lessons.worlds import load_snippets

__all__ = [
    "REAL_SENTENCE",
    "RatedSnippets",
    "WordSurprises",
    "draw_rated_snippets",
    "measure_real_words",
    "missing_real_parts",
    "real_word_surprises",
    "spread_over_ratings",
    "word_surprises",
]

FOLDER = Path(__file__).with_name("real_words_runs")
COMMAND = "python -m rlhf_lessons real words --measure"
REAL_SENTENCE = (
    "My sister showed me this Swedish mystery. It made me smile. The plot was truly clever but the "
    "ending was rushed."
)
"""The text whose reading by the real model is stored."""

_STORED = {  # file -> text
    "sentence": REAL_SENTENCE,
    "swapped": REAL_SENTENCE.replace(" but ", " and "),
    "beginning": REAL_SENTENCE.partition(" truly")[0],
}
_FILM_PARTS = (FETCHED_POLICY, "snippets")
_FOLLOWING = 6  # how many of the likeliest next tokens are told
_WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
_SHARE = 0.25  # the middle of a group of snippets, from which one is drawn


@dataclass(frozen=True)
class WordSurprises:
    """How much each word of a text surprised a model, and what it expects next.

    Attributes:
        words: the words and the marks between them, in order.
        nats: of each −log π, summed over its tokens.
        following: the likeliest tokens after the text, spelled, each with its probability.
        note: empty for a live reading; else that it is a stored one, and how to have a live one.
    """

    words: tuple[str, ...]
    nats: tuple[float, ...]
    following: tuple[tuple[str, float], ...]
    note: str = ""


@dataclass(frozen=True)
class RatedSnippets:
    """Real snippets, with what people and a judge say of them.

    Attributes:
        texts: (B) the snippets.
        people: (B,) mean ratings of people, from −4 to 4.
        judge: (B,) what the judge of people says, which was not fitted to them.
    """

    texts: tuple[str, ...]
    people: np.ndarray
    judge: np.ndarray


def missing_real_parts(*names: str) -> str:
    """Say in one line how to get real parts, where one is not there.

    Args:
        *names: ``"smollm2"``, ``"snippets"``, ``"facts"``; none asks for the first two.

    Returns:
        The line; empty where each is there and sound.

    Raises:
        KeyError: there is no part of that name.
    """
    if not any(part_damage(PARTS[name].name) for name in names or _FILM_PARTS):
        return ""
    return "For the live version of this cell, once: python -m rlhf_lessons real get"


@torch.no_grad()
def word_surprises(policy: LanguagePolicy, text: str) -> WordSurprises:
    """Read a text with a model, from its start token on.

    −log π(word | text before it) = −Σ log π(token | tokens before it) over the tokens of the word.

    Args:
        policy: any causal language model whose tokenizer tells where in the text a token stands.
        text: what is read.

    Returns:
        The surprise of each word, in nats, where tokens of white space count for the word after
        them; and the six likeliest tokens after the text.

    Raises:
        ValueError: the text has no word, or is longer than the model's context.
    """
    spans = [match.span() for match in _WORD.finditer(text)]
    if not spans:
        raise ValueError(f"word_surprises: text must hold a word, got {text!r}")
    told = policy.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    log_probs, _ = policy.log_probs([""], [text])
    ends = np.array([end for _, end in spans])
    nats = np.zeros(len(spans))
    for (_, end), log_prob in zip(told["offset_mapping"], log_probs[0].tolist(), strict=False):
        # A token that reaches over several words counts for the last of them.
        nats[min(int(np.searchsorted(ends, end)), len(ends) - 1)] -= log_prob
    after = policy.next_token_logits([text])[0].softmax(-1).topk(_FOLLOWING)
    following = zip(
        policy.tokenizer.batch_decode(after.indices[:, None]), after.values, strict=True
    )
    return WordSurprises(
        tuple(text[a:b] for a, b in spans),
        tuple(nats.tolist()),
        tuple((spelled, float(probability)) for spelled, probability in following),
    )


def real_word_surprises(*texts: str, folder: Path | None = None) -> tuple[WordSurprises, ...]:
    """Read texts with SmolLM2 where it was fetched, else give the stored readings of ours.

    Args:
        *texts: what is read; ``REAL_SENTENCE`` where none is given.
        folder: where the stored readings are; None takes the one beside this module.

    Returns:
        The reading of each text. Without the model a text that is not stored gets the reading of
        ``REAL_SENTENCE``; the note says of a stored reading that it is one.

    Raises:
        ValueError: a text has no word, or is longer than the model's context.
        FileNotFoundError: nothing is stored.
    """
    texts = texts or (REAL_SENTENCE,)
    note = missing_real_parts(FETCHED_POLICY)
    if not note:
        policy = load_policy(FETCHED_POLICY)
        return tuple(word_surprises(policy, text) for text in texts)

    def make(run: dict[str, Any], about: dict[str, Any]) -> tuple[str, WordSurprises]:
        following = tuple((spelled, probability) for spelled, probability in run["following"])
        return about["settings"]["text"], WordSurprises(
            tuple(run["words"]), tuple(run["nats"]), following, note
        )

    stored = dict(read_runs(folder or FOLDER, make, COMMAND))
    return tuple(stored.get(text, stored[REAL_SENTENCE]) for text in texts)


def measure_real_words(folder: Path | None = None) -> None:
    """Let SmolLM2 read our texts, and keep how each word surprised it and what it expects next.

    Args:
        folder: where the files go; None takes the one beside this module.

    Returns:
        None.

    Raises:
        CheckpointError: the real model was not fetched.
        OSError: a file cannot be written.
    """
    policy = load_policy(FETCHED_POLICY)
    for name, text in _STORED.items():
        found = word_surprises(policy, text)
        run = {
            "words": found.words,
            "nats": [round(nats, 4) for nats in found.nats],
            "following": [(spelled, round(share, 6)) for spelled, share in found.following],
        }
        settings = {"policy": FETCHED_POLICY, "text": text}
        write_run((folder or FOLDER) / f"{name}.json", run, command=COMMAND, settings=settings)


def spread_over_ratings(ratings: Sequence[float], count: int, seed: int = 0) -> np.ndarray:
    """Draw texts from blame to praise, in mixed order.

    They are put in order of their ratings and shared out into as many groups as asked for; one
    comes from the middle half of each, so that every draw reaches from blame to praise.

    Args:
        ratings: (B,) what people say of each.
        count: K, how many.
        seed: of the draw.

    Returns:
        (K,) places in ``ratings``.

    Raises:
        ValueError: there are fewer.
    """
    if not 1 <= count <= len(ratings):
        raise ValueError(
            f"spread_over_ratings: count must be from 1 to {len(ratings)}, got {count}"
        )
    random = np.random.default_rng(seed)
    chosen = []
    for group in np.array_split(np.argsort(ratings, kind="stable"), count):
        edge = int(_SHARE * len(group))
        chosen.append(int(random.choice(group[edge : len(group) - edge])))
    random.shuffle(chosen)
    return np.array(chosen)


def draw_rated_snippets(
    count: int = 10, seed: int = 0, folder: Path | None = None
) -> RatedSnippets:
    """Draw held-out snippets from blame to praise, in mixed order: see ``spread_over_ratings``.

    Args:
        count: B, how many.
        seed: of the draw.
        folder: where the judge's scores are; None takes those of ``people_agreement``.

    Returns:
        The snippets, read from the fetched part.

    Raises:
        ValueError: there are fewer, or the scores are not of these snippets.
        PartError: the snippets were not fetched: it says how to fetch them.
    """
    ratings, scores = load_people_scores(folder)
    _, held_out = load_snippets()
    own = np.array([snippet.rating for snippet in held_out])
    if own.shape != ratings.shape or np.abs(own - ratings).max(initial=0) > 1e-3:
        raise ValueError(
            f"draw_rated_snippets: the scores must be of the held-out snippets, got "
            f"{len(ratings)} for {len(own)}; measure them: {people_agreement.COMMAND}"
        )
    chosen = spread_over_ratings(ratings, count, seed)
    return RatedSnippets(
        tuple(held_out[i].text for i in chosen), ratings[chosen], scores["people-judge"][chosen]
    )
