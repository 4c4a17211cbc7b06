"""The smallest world of opinions: so few responses that all of them can be listed (lessons 4 to 6).

A prompt such as "the film was" is continued by at most four words out of six: "very good", "not
dull and great", "". With the end token that makes 1,555 responses, few enough to sum over all of
them, and enough that a policy has something to plan: "not" lowers what comes after "good" and
raises what comes after "dull".

What is here: the words, the score of a response, and the habits of a writer (which word follows
which), from which the reference policy is made.

Left out on purpose: the tree of all prefixes and everything that sums over it, which needs tensors:
``models.ResponseTree``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["OPINION_LENGTH", "OPINION_WORDS", "opinion_habits", "opinion_score"]

OPINION_WORDS: tuple[str, ...] = ("very", "not", "and", "good", "great", "dull")
"""The six words of the world."""

OPINION_LENGTH = 4
"""The most tokens a response has; its end token counts."""

_STRENGTH = {"good": 1.0, "great": 2.0, "dull": -1.5}
_FACTOR = {"very": 1.5, "not": -0.6}
_FAULT = 1.0
_SILENCE = -1.0

# Rows: the word before ("" at the start); columns: OPINION_WORDS, then the end.
_HABITS = {
    "": (0.22, 0.14, 0.01, 0.22, 0.08, 0.29, 0.04),
    "very": (0.06, 0.01, 0.01, 0.42, 0.06, 0.42, 0.02),
    "not": (0.24, 0.01, 0.01, 0.34, 0.12, 0.26, 0.02),
    "and": (0.22, 0.22, 0.01, 0.24, 0.08, 0.21, 0.02),
    "good": (0.02, 0.04, 0.30, 0.01, 0.01, 0.02, 0.60),
    "great": (0.02, 0.02, 0.22, 0.02, 0.01, 0.01, 0.70),
    "dull": (0.02, 0.02, 0.26, 0.01, 0.01, 0.02, 0.66),
}


def opinion_score(prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
    """Score responses by what they say and how well they say it; this is a judge.

    "good" counts 1, "great" 2 and "dull" −1.5; "very" multiplies the opinion after it by 1.5 and
    "not" by −0.6. Said twice, an opinion counts once, and "very very" is no more than "very". Each
    fault takes 1: a word said twice in these ways, two opinions without "and", "and" without an
    opinion before it, a modifier or "and" at the end. Silence scores −1.

    Args:
        prompts: B prompts; the score is the same after each.
        responses: B responses, words of ``OPINION_WORDS`` with single spaces.

    Returns:
        (B,) float64 scores.

    Raises:
        ValueError: if the numbers differ, or a word is not of this world.
    """
    if len(prompts) != len(responses):
        raise ValueError(
            f"opinion_score: responses must be as many as the {len(prompts)} prompts, "
            f"got {len(responses)}"
        )
    return np.array([_score(response) for response in responses], dtype=np.float64)


def _score(response: str) -> float:
    total, factor, faults = 0.0, 1.0, 0
    said: set[str] = set()
    before = ""
    for word in response.split():
        if word in _FACTOR:
            faults += before in _STRENGTH
            if word == before:
                faults += 1
            else:
                factor *= _FACTOR[word]
        elif word == "and":
            faults += before not in _STRENGTH
            factor = 1.0
        elif word in _STRENGTH:
            faults += before in _STRENGTH
            if word in said:
                faults += 1
            else:
                total += factor * _STRENGTH[word]
            said.add(word)
            factor = 1.0
        else:
            raise ValueError(
                f"opinion_score: responses must be made of {', '.join(OPINION_WORDS)}, "
                f"got {word!r} in {response!r}"
            )
        before = word
    if not before:
        return _SILENCE
    faults += before not in _STRENGTH
    return total - _FAULT * faults


def opinion_habits(prefixes: Sequence[str]) -> np.ndarray:
    """Give the probabilities of the next word after each beginning of a response.

    The writer looks at the last word alone. Nothing is impossible, so every log-probability is
    finite.

    Args:
        prefixes: N beginnings of responses, "" for the empty one.

    Returns:
        (N, 7) probabilities of ``OPINION_WORDS`` and, last, of ending there.

    Raises:
        ValueError: if a word is not of this world.
    """
    rows = []
    for prefix in prefixes:
        last = prefix.split()[-1] if prefix else ""
        if last not in _HABITS:
            raise ValueError(
                f"opinion_habits: prefixes must be made of {', '.join(OPINION_WORDS)}, "
                f"got {last!r} in {prefix!r}"
            )
        rows.append(_HABITS[last])
    return np.array(rows, dtype=np.float64)
