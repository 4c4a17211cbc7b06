"""The record of a run, ``results.json``, and what is said of it in lines of text."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf_lessons.evaluation.sentiment.settings import SentimentSettings

__all__ = ["SentimentRun", "comparison"]


@dataclass(frozen=True)
class SentimentRun:
    """What came out, and how: the content of ``results.json``.

    Attributes:
        settings: of the run.
        versions: of Python and the libraries.
        command: what was typed.
        finished: whether the run came to its end.
        judge_accuracy: share of labelled texts to which the judge's sign gives their label; None
            without labels.
        points: what was measured, in order. Each has its ``step`` (for bon n); 0 is before the
            method. Policies have ``reward``, ``reward_error``, ``kl`` and ``kl_error`` (nats per
            response; of bon the bound log n − (n − 1)/n), and sft ``held_out_loss`` (nats per
            token); rm has ``held_out_loss`` (nats per pair) and ``held_out_accuracy``. On snippets
            policies have ``vader`` too (what VADER says of prompt and response, −1 to 1), and but
            for bon ``distinct`` (different responses, as a share) and ``untouched_loss`` (of the
            responses under the model without any adapters, nats per token).
        texts: a few (prompt, response, reward) of the last policy.
        texts_before: the same of the policy before the method, to the same prompts; none for rm and
            bon.
    """

    settings: SentimentSettings
    versions: dict[str, str]
    command: str = ""
    finished: bool = False
    judge_accuracy: float | None = None
    points: tuple[dict[str, float], ...] = ()
    texts: tuple[tuple[str, str, float], ...] = ()
    texts_before: tuple[tuple[str, str, float], ...] = ()

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> SentimentRun:
        """Read a ``results.json``.

        Args:
            path: the file.

        Returns:
            what it holds.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is no record of a run.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            values["settings"] = SentimentSettings(**values["settings"])
            values["points"] = tuple(values["points"])
            for name in ("texts", "texts_before"):
                values[name] = tuple(map(tuple, values[name]))
            return cls(**values)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"SentimentRun: {path} is no record of a run: {error}. Give another folder"
            ) from error

    @property
    def name(self) -> str:
        """Method and β, where the method has one."""
        s = self.settings
        return f"{s.method}, β = {s.beta:g}" if s.method in ("dpo", "ppo") else s.method

    def table(self) -> str:
        """Give what came out as lines of text."""
        method, points = self.settings.method, self.points
        lines = [f"{self.name} from {self.settings.policy} on {self.settings.data}"]
        for point in points if method == "bon" else (points[0], points[-1]):
            step = point["step"]
            lines.append(
                f"  {f'best of {step}' if method == 'bon' else f'step {step}':<11}{_line(point)}"
            )
        if self.judge_accuracy is not None:
            lines.append(f"  the judge agrees with {self.judge_accuracy:.1%} of the labels")
        lines += [f"  {reward:+.2f} [{x}] {y}" for x, y, reward in self.texts]
        return "\n".join(lines)


def comparison(runs: Sequence[SentimentRun]) -> str:
    """Give where several runs began and ended as a line of text each."""
    lines = []
    for run in runs:
        steps = {"before": run.points[0], "": run.points[-1]}
        if run.settings.method == "bon":
            steps = {f" {point['step']}": point for point in run.points}
        lines += [f"{f'{run.name} {when}':<20}{_line(point)}" for when, point in steps.items()]
    return "\n".join(lines)


def _line(point: dict[str, float]) -> str:
    """Say in a line what was measured."""
    line = ""
    if "kl" in point:
        line += f" reward {point['reward']:+7.3f} ± {point['reward_error']:.3f}"
        error = f"± {point['kl_error']:.3f} " if "kl_error" in point else ""
        line += f"   KL {point['kl']:7.3f} {error}nats per response"
    if "held_out_loss" in point:
        line += f"   held-out loss {point['held_out_loss']:.3f} nats"
    if "held_out_accuracy" in point:
        line += f", {point['held_out_accuracy']:.1%} of pairs right"
    if "vader" in point:
        line += f"   VADER {point['vader']:+.3f}"
    if "distinct" in point:
        line += f"   distinct {point['distinct']:.0%}"
        line += f"   under the untouched model {point['untouched_loss']:.2f} nats per token"
    return line
