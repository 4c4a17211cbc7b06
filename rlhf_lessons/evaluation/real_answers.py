"""How well answers of the real model are read: beside a reading of the same answers by hand.

    python -m rlhf_lessons real reader              the stored figures
    python -m rlhf_lessons real reader --measure    read the answers again, some seconds

Beside this module lies ``real_answers.jsonl``: answers of SmolLM2-135M-Instruct about capitals and
currencies, in three phrasings, each read by hand: the name that it gives, if any, and a verdict. By
hand is: one by one, without rules written down as code, by a large language model.
The reader was developed on 882 of them, at temperatures from 0 (the likeliest token each time) to
1; the other 215, from 0 to 0.7, were drawn last and read by hand before the reader saw them. Only
they measure: precision and recall are 0.973 and 0.973.

Four earlier sets were such a test once, in turn, and were developed on afterwards: 0.934 and 0.923,
0.937 and 0.962, 0.956 and 0.956 (0.980 and 0.987 below temperature 1, 0.84 and 0.82 at 1, where one
answer in five names nothing), and, of 42 answers at 0.6, 0.917 and 0.943.

Left out on purpose: people who read them. Where a reading is a matter of taste (two names in one
answer) the rule of ``read_answer`` holds for both: what is *said to be* the capital, first mention
first.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_lessons.evaluation.language import estimate_share
from rlhf_lessons.evaluation.sweeps import read_runs, write_run
from rlhf_lessons.worlds import FACT_KINDS, VERDICTS, read_answer, real_fact, same_claim

__all__ = [
    "HandReadAnswer",
    "ReaderAgreement",
    "load_hand_read",
    "load_reader_agreement",
    "measure_reader",
    "measure_real_reader",
]

FILE = Path(__file__).with_name("real_answers.jsonl")
SPLITS = ("developing", "test")
FOLDER = Path(__file__).with_name("real_reader_runs")
COMMAND = "python -m rlhf_lessons real reader --measure"


@dataclass(frozen=True)
class HandReadAnswer:
    """An answer of the real model, and what was read in it by hand.

    Attributes:
        text: the answer.
        kind: what was asked, "capital" or "currency".
        subject: the country it was asked about.
        phrasing: in which of the three ways, 0 to 2.
        temperature: of the sampling; 0 takes the likeliest token.
        split: "developing" or "test".
        claim: the city or the currency that it names; empty where it names none.
        verdict: one of ``VERDICTS``.
    """

    text: str
    kind: str
    subject: str
    phrasing: int
    temperature: float
    split: str
    claim: str
    verdict: str


@dataclass(frozen=True)
class ReaderAgreement:
    """How far the reader agrees with the reading by hand.

    Attributes:
        count: answers.
        claimed: answers in which the reader found a claim.
        named: answers in which the reading by hand did.
        equal: answers in which both did, and the same one.
        verdicts: answers with the same verdict.
    """

    count: int
    claimed: int
    named: int
    equal: int
    verdicts: int

    @property
    def precision(self) -> tuple[float, float, float]:
        """equal / claimed, and the ends of its 95 % interval (Wilson)."""
        return estimate_share(self.equal, self.claimed)

    @property
    def recall(self) -> tuple[float, float, float]:
        """equal / named, and the ends of its 95 % interval (Wilson)."""
        return estimate_share(self.equal, self.named)

    @property
    def accuracy(self) -> tuple[float, float, float]:
        """verdicts / count, and the ends of its 95 % interval (Wilson)."""
        return estimate_share(self.verdicts, self.count)

    def __str__(self) -> str:
        shares = (
            f"{name} {share:.3f} ({low:.3f} to {high:.3f})"
            for name, (share, low, high) in (
                ("precision", self.precision),
                ("recall", self.recall),
                ("same verdict", self.accuracy),
            )
        )
        return f"{self.count:>4} answers: {', '.join(shares)}"


def load_hand_read(split: str = "test") -> tuple[HandReadAnswer, ...]:
    """Read the answers that were read by hand.

    Args:
        split: "developing" or "test".

    Returns:
        The answers, in the order in which they were drawn.

    Raises:
        ValueError: there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"load_hand_read: split must be developing or test, got {split!r}")
    lines = FILE.read_text(encoding="utf-8").splitlines()
    answers = (HandReadAnswer(**json.loads(line)) for line in lines)
    return tuple(answer for answer in answers if answer.split == split)


def measure_reader(answers: Sequence[HandReadAnswer]) -> ReaderAgreement:
    """Read answers with the reader, and compare with the reading by hand.

    precision = equal claims / claims found, recall = equal claims / claims that are there

    Two spellings of one city or currency are equal.

    Args:
        answers: one or more, of ``load_hand_read``.

    Returns:
        The counts, from which shares and intervals come.

    Raises:
        ValueError: there are no answers, or one holds a verdict that there is not.
        PartError: the facts were not fetched, or are damaged: it says how to fetch them.
    """
    if not answers:
        raise ValueError("measure_reader: answers must hold one or more, got none")
    claimed = named = equal = verdicts = 0
    for answer in answers:
        if answer.verdict not in VERDICTS:
            raise ValueError(
                f"measure_reader: a verdict must be one of {', '.join(VERDICTS)}, got "
                f"{answer.verdict!r}"
            )
        fact = real_fact(answer.kind, answer.subject)
        read = read_answer(answer.text, fact)
        claimed += bool(read.claim)
        named += bool(answer.claim)
        equal += bool(read.claim) and same_claim(read.claim, answer.claim, fact)
        verdicts += read.verdict == answer.verdict
    return ReaderAgreement(len(answers), claimed, named, equal, verdicts)


def measure_real_reader(folder: Path | None = None) -> dict[str, ReaderAgreement]:
    """Read the test half with the reader, and keep the counts.

    Args:
        folder: where the file goes; None takes the one beside this module.

    Returns:
        The agreement, by which answers: all, and those of each kind and of each temperature.

    Raises:
        PartError: the facts were not fetched, or are damaged: it says how to fetch them.
        OSError: the file cannot be written.
    """
    answers = load_hand_read("test")
    some = {"all": answers}
    some |= {kind: [a for a in answers if a.kind == kind] for kind in FACT_KINDS}
    for temperature in sorted({answer.temperature for answer in answers}):
        some[f"temperature {temperature:g}"] = [a for a in answers if a.temperature == temperature]
    found = {name: measure_reader(part) for name, part in some.items()}
    run = {name: dataclasses.asdict(agreed) for name, agreed in found.items()}
    path = (folder or FOLDER) / "test.json"
    write_run(path, run, command=COMMAND, settings={"split": "test"})
    return found


def load_reader_agreement(folder: Path | None = None) -> dict[str, ReaderAgreement]:
    """Read what is stored of the test half; needs no facts.

    Args:
        folder: where the file is; None takes the one beside this module.

    Returns:
        The agreement, as ``measure_real_reader`` gives it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file.
    """

    def make(run: dict[str, Any], _: dict[str, Any]) -> dict[str, ReaderAgreement]:
        return {name: ReaderAgreement(**counts) for name, counts in run.items()}

    (found,) = read_runs(folder or FOLDER, make, COMMAND)
    return found
