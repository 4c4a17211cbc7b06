"""How far a judge agrees with people, on texts that it was not fitted to.

    python -m rlhf_lessons real judge              the stored figures
    python -m rlhf_lessons real judge --measure    measure them again, a few minutes

Ratings and scores of the held-out snippets lie in ``people_agreement_runs`` beside this module,
without the texts; the figures and their intervals are computed from them when they are asked for.

Left out on purpose: agreement of people with each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_lessons.evaluation.resampling import bootstrap_intervals
from rlhf_lessons.evaluation.sweeps import read_runs, write_run
from rlhf_lessons.models import load_people_judge
from rlhf_lessons.worlds import VaderJudge, load_snippets

__all__ = [
    "PeopleAgreement",
    "agreement_with_people",
    "load_people_agreement",
    "load_people_scores",
    "measure_people_agreement",
]

FOLDER = Path(__file__).with_name("people_agreement_runs")
COMMAND = "python -m rlhf_lessons real judge --measure"
CLEAR = 1.0


@dataclass(frozen=True)
class PeopleAgreement:
    """How far scores agree with people's mean ratings; each with its 95 % interval.

    Attributes:
        count: number of texts.
        sign: share of texts to whose rating the score has the same sign; ratings of 0 left out.
        clear_sign: the same where the rating is beyond ±1.
        correlation: Pearson's, of ratings and scores.
    """

    count: int
    sign: tuple[float, float, float]
    clear_sign: tuple[float, float, float]
    correlation: tuple[float, float, float]

    def __str__(self) -> str:
        sign, clear = (
            f"{value:.1%} [{low:.1%}, {high:.1%}]"
            for value, low, high in (self.sign, self.clear_sign)
        )
        value, low, high = self.correlation
        correlation = f"{value:.3f} [{low:.3f}, {high:.3f}]"
        return f"sign {sign}, beyond ±1 {clear}, correlation {correlation}"


def agreement_with_people(scores: Sequence[float], ratings: Sequence[float]) -> PeopleAgreement:
    """Compare scores with ratings; the intervals are percentiles of a bootstrap over texts.

    Args:
        scores: (B,) what a judge says, 0 between praise and blame.
        ratings: (B,) mean ratings of people, likewise.

    Returns:
        The agreement, each figure as (value, lower end, upper end).

    Raises:
        ValueError: there are not as many scores as ratings, or fewer than 2.
    """
    x, y = np.asarray(scores, np.float64), np.asarray(ratings, np.float64)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 2:
        raise ValueError(
            f"agreement_with_people: scores and ratings must be as many, at least 2, got "
            f"{x.shape} and {y.shape}"
        )

    def figures(rows: np.ndarray) -> list[float]:
        a, b = x[rows], y[rows]
        right = (a > 0) == (b > 0)
        return [
            right[b != 0].mean(),
            right[np.abs(b) > CLEAR].mean(),
            np.corrcoef(a, b)[0, 1],
        ]

    return PeopleAgreement(len(x), *bootstrap_intervals(range(len(x)), figures))


def measure_people_agreement(folder: Path | None = None) -> None:
    """Let the judge of people and VADER score the held-out snippets, and keep what they say.

    Args:
        folder: where the file goes; None takes the one beside this module.

    Returns:
        None.

    Raises:
        PartError: the snippets were not fetched.
        CheckpointError: the real model was not fetched, or the judge is damaged.
        OSError: the file cannot be written.
    """
    judge = load_people_judge()
    _, held_out = load_snippets()
    texts, nothing = [snippet.text for snippet in held_out], [""] * len(held_out)
    scores = {"people-judge": judge(nothing, texts), "vader": VaderJudge()(nothing, texts)}
    run: dict[str, Any] = {
        "ratings": [round(snippet.rating, 3) for snippet in held_out],
        "scores": {name: [round(float(x), 4) for x in given] for name, given in scores.items()},
    }
    settings = {"left_out_correlation": judge.correlation}
    write_run((folder or FOLDER) / "held_out.json", run, command=COMMAND, settings=settings)


def load_people_agreement(
    folder: Path | None = None,
) -> tuple[dict[str, PeopleAgreement], float]:
    """Read what is stored of the held-out snippets.

    Args:
        folder: where the file is; None takes the one beside this module.

    Returns:
        The agreement of each judge, by its name, and the correlation of the judge of people on the
        texts that it was fitted to, each left out of its own fit.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file.
    """

    def make(
        run: dict[str, Any], made_by: dict[str, Any]
    ) -> tuple[dict[str, PeopleAgreement], float]:
        found = {
            name: agreement_with_people(scores, run["ratings"])
            for name, scores in run["scores"].items()
        }
        return found, made_by["settings"]["left_out_correlation"]

    (found,) = read_runs(folder or FOLDER, make, COMMAND)
    return found


def load_people_scores(
    folder: Path | None = None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Read what people and judges said of each held-out snippet.

    Args:
        folder: where the file is; None takes the one beside this module.

    Returns:
        (B,) people's mean ratings, and of each judge, by its name, its (B,) scores: all in the
        order of the second list of ``load_snippets``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file.
    """

    def make(run: dict[str, Any], _: dict[str, Any]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        scores = {name: np.array(given, np.float64) for name, given in run["scores"].items()}
        return np.array(run["ratings"], np.float64), scores

    (found,) = read_runs(folder or FOLDER, make, COMMAND)
    return found
