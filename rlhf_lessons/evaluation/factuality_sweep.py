"""Tuning for facts, judge by judge and seed by seed: the runs behind lesson 7 (and their data).

    python -m rlhf_lessons.evaluation.factuality_sweep              trains what is missing
    python -m rlhf_lessons.evaluation.factuality_sweep --seeds 1    only the runs of one seed

Each run starts from ``facts-sft``: long answers about the tuning subjects are sampled, sentences
are exchanged between them, a judge scores the versions, the scores become pairs, DPO trains on the
pairs, in turns with pretraining text so that nothing is forgotten. People and drugs are tuned
together. For comparison, some runs pair whole answers, as the paper does, and some only rehearse.

What is measured are the held-out people and drugs, several responses to each; the raw counts of
each subject are kept, one file a run, in the folder ``factuality_runs`` beside this module. The
settings were chosen on the validation subjects, which no run here looks at, but for ``anchor`` and
``rehearsal_rate``: they go back to trials on the held-out ones. A run whose file is there is not
done again. All of them take about 25 minutes of one core.

Left out on purpose: the weights. What the trained policies said of the first subjects is kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from rlhf_lessons import formulas
from rlhf_lessons.evaluation.factuality import (
    AssuredRater,
    ConfidenceJudge,
    ReferenceJudge,
    count_facts,
    exchange_sentences,
    pairs_by_margin,
    pairs_from_scores,
    sample_answers,
)
from rlhf_lessons.evaluation.language import Estimate, estimate_mean, sequence_kl
from rlhf_lessons.evaluation.sweeps import do_runs, read_runs
from rlhf_lessons.models import LanguagePolicy, load_policy
from rlhf_lessons.training import DPOSettings, SupervisedSettings, train_dpo, train_sft
from rlhf_lessons.training.settings import ABOVE_0, FROM_0, check_settings, whole
from rlhf_lessons.worlds import (
    Encyclopedia,
    Preference,
    drug_encyclopedia,
    people_encyclopedia,
    sample_fact_documents,
)

__all__ = [
    "FactualityRun",
    "FactualitySettings",
    "anchored_dpo_loss",
    "load_factuality_sweep",
    "sample_about",
    "take_turns",
]

Record = TypeVar("Record")
Key = tuple[str, str | None, bool, int, float | None, float | None]

FOLDER = Path(__file__).with_name("factuality_runs")
COMMAND = "python -m rlhf_lessons.evaluation.factuality_sweep"
BOOKS = {"people": people_encyclopedia, "drugs": drug_encyclopedia}
MEASURES = ("right", "wrong", "hedged", "unreadable", "words")
SHOWN = 3


@dataclass(frozen=True)
class FactualitySettings:
    """What every run of the sweep has in common.

    Attributes:
        responses: long answers sampled about each tuning subject.
        draws: how many other answers each of them exchanges each of its sentences with.
        pairs_per_prompt: at most so many pairs about one subject.
        answers: answers sampled to each question, for the confidence of claims.
        penalty: how many right facts one unreadable sentence costs the factuality judges.
        anchor: weight of the supervised term −log π(chosen) beside DPO's loss.
        steps: updates of DPO, and of the rehearsal that takes turns with it.
        batch_size: pairs an update, and documents an update of the rehearsal.
        learning_rate: of DPO.
        rehearsal_rate: learning rate of the rehearsal of pretraining documents.
        max_new_tokens: longest response.
        measured: long answers about each held-out subject that are counted.
        beta: DPO's β, where a run does not set its own.
        price: how many right facts one wrong fact costs, where a run does not set its own.
    """

    responses: int = 20
    draws: int = 3
    pairs_per_prompt: int = 24
    answers: int = 9
    penalty: float = 1.0
    anchor: float = 0.01
    steps: int = 320
    batch_size: int = 16
    learning_rate: float = 3e-4
    rehearsal_rate: float = 3e-4
    max_new_tokens: int = 80
    measured: int = 4
    beta: float = 0.5
    price: float = 2.0

    def __post_init__(self) -> None:
        fields = dataclasses.fields(self)
        check_settings(
            self,
            **{field.name: whole(1) for field in fields if isinstance(field.default, int)},
            penalty=FROM_0,
            anchor=FROM_0,
            learning_rate=ABOVE_0,
            rehearsal_rate=ABOVE_0,
            beta=ABOVE_0,
            price=FROM_0,
        )


SETTINGS = FactualitySettings()


@dataclass(frozen=True)
class FactualityRun:
    """One policy and what it says about subjects that it was not tuned on.

    Attributes:
        judge: what scored the answers: "reference", "confidence" or "assured"; "none" without DPO.
        unit: what the two responses of a pair differ in, "sentence" or "answer"; None without DPO.
        rehearsed: whether the policy was trained on pretraining text as well.
        seed: seed of samples and training.
        beta: DPO's β, None without DPO.
        price: how many right facts one wrong fact cost the judge, None where it has no price.
        pairs: number of pairs trained on.
        counts: measure -> world ("people" or "drugs") -> mean over the responses about each
            held-out subject, in the order of the encyclopedia.
        greedy: the same for the one response that takes the likeliest word each time.
        kl: world -> (KL(π ‖ π_ref) in nats per response, its standard error).
        samples: world -> what it said of the first held-out subjects.
    """

    judge: str
    unit: str | None
    rehearsed: bool
    seed: int
    beta: float | None
    price: float | None
    pairs: int
    counts: dict[str, dict[str, list[float]]]
    greedy: dict[str, dict[str, list[float]]]
    kl: dict[str, list[float]]
    samples: dict[str, list[str]]

    @property
    def key(self) -> Key:
        """What makes a run this one: judge, unit, rehearsed, seed, β, price."""
        return self.judge, self.unit, self.rehearsed, self.seed, self.beta, self.price

    def mean(self, measure: str, world: str = "people") -> Estimate:
        """Return the mean per response of "right", "wrong", "hedged", "unreadable" or "words"."""
        return estimate_mean(self.counts[measure][world])


def load_factuality_sweep(
    folder: Path | None = None, command: str = COMMAND
) -> list[FactualityRun]:
    """Read the committed runs.

    Args:
        folder: where the files are; None takes the one beside this module.
        command: what makes them, for the message where there are none.

    Returns:
        The runs, sorted by judge, unit, rehearsal, seed, β and price.

    Raises:
        FileNotFoundError: there are none; the message says how to make them.
        ValueError: a file is no run of this sweep; the message names it.
    """
    runs = read_runs(folder or FOLDER, lambda run, _: FactualityRun(**run), command)
    return sorted(runs, key=lambda run: [(part is not None, part) for part in run.key])


def anchored_dpo_loss(
    anchor: float, loss: Callable[..., torch.Tensor] = formulas.dpo_loss
) -> Callable[..., torch.Tensor]:
    """Make DPO's loss with a supervised term that keeps the chosen responses likely.

    L = −log σ(β · h) − anchor · log π(y_w)

    DPO alone is content when the rejected response falls faster than the chosen one; both then grow
    unlikely, and the probability goes to text that nobody wrote. The second term holds on to what
    was written.

    Args:
        anchor: weight of the supervised term, 0 or more; 0 is DPO.
        loss: the preference loss to add it to, with the arguments of ``formulas.dpo_loss``.

    Returns:
        A loss for ``train_dpo``.

    Raises:
        ValueError: the weight is below 0.
    """
    if anchor < 0:
        raise ValueError(f"anchored_dpo_loss: anchor must be 0 or more, got {anchor}")

    def anchored(chosen, rejected, reference_chosen, reference_rejected, beta):
        preference = loss(chosen, rejected, reference_chosen, reference_rejected, beta)
        return preference - anchor * chosen

    return anchored


def take_turns(loop: Iterator[Record], *others: Iterator[object]) -> Iterator[Record]:
    """Let training loops of one policy take turns, a step each.

    Tuning on a few subjects makes a small model forget what it knew of the others; a step on
    pretraining text after each step of tuning keeps that alive.

    Args:
        loop: the loop whose records matter.
        others: the loops that get a step after each of them, for as long as they have any.

    Yields:
        The records of ``loop``.

    Source:
        Ouyang et al. 2022, "Training language models to follow instructions with human feedback",
        section 3.4, the pretraining mix (there in one loss, with PPO).
    """
    for record in loop:
        for other in others:
            next(other, None)
        yield record


def sample_about(
    policy: LanguagePolicy,
    encyclopedia: Encyclopedia,
    names: Sequence[str],
    count: int,
    seed: int,
    temperature: float = 1.0,
    max_new_tokens: int = SETTINGS.max_new_tokens,
) -> tuple[list[str], list[str]]:
    """Sample long answers about subjects.

    Args:
        policy: who answers.
        encyclopedia: where the requests come from.
        names: whom they are about.
        count: answers to each request, side by side in what comes back.
        seed: seed of the samples.
        temperature: above 0; near 0 takes the likeliest word each time.
        max_new_tokens: longest answer.

    Returns:
        Prompts and responses, ``len(names) · count`` each.
    """
    generator = torch.Generator().manual_seed(seed)
    prompts = [encyclopedia.prompt(name) for name in names for _ in range(count)]
    responses: list[str] = []
    for first in range(0, len(prompts), 512):
        part = prompts[first : first + 512]
        rollout = policy.sample(part, max_new_tokens, temperature, generator=generator)
        responses += rollout.responses
    return prompts, responses


# --- One run --------------------------------------------------------------------------------------


class Pool:
    """What the judges of one seed look at: sampled long answers, and short ones to questions.

    Args:
        seed: seed of the samples.
        settings: how many of each.
    """

    def __init__(self, seed: int, settings: FactualitySettings):
        self.seed, self.settings = seed, settings
        self.texts, self.answers = {}, {}
        sft = load_policy("facts-sft")
        for world, make in BOOKS.items():
            book = make()
            names = book.parts["tuning"]
            self.texts[world] = sample_about(sft, book, names, settings.responses, 1_000 + seed)
            facts = [(name, relation) for name in names for relation in book.relations]
            generator = torch.Generator().manual_seed(2_000 + seed)
            self.answers[world] = sample_answers(sft, book, facts, settings.answers, generator)

    def pairs(self, judge: str, unit: str, price: float | None) -> list[Preference]:
        """Judge and pair; "confidence" looks at the model's own answers, at no truth."""
        settings, pairs = self.settings, []
        for world, make in BOOKS.items():
            book = make()
            if judge == "reference":
                scorer = ReferenceJudge(book, price, settings.penalty)
            elif judge == "confidence":
                scorer = ConfidenceJudge(book, self.answers[world], price, settings.penalty)
            else:
                scorer = AssuredRater(book)
            prompts, responses = self.texts[world]
            if unit == "sentence":
                couples = exchange_sentences(book, prompts, responses, settings.draws, self.seed)
                pairs += pairs_by_margin(*couples, scorer, settings.pairs_per_prompt, self.seed)
            else:
                scores = scorer(prompts, responses)
                pairs += pairs_from_scores(prompts, responses, scores, settings.pairs_per_prompt)
        return pairs


def run_one(
    key: Key, pool: Pool | None = None, settings: FactualitySettings = SETTINGS
) -> FactualityRun:
    """Make one policy and measure it on the held-out people and drugs."""
    judge, unit, rehearsed, seed, beta, price = key
    sft, policy = load_policy("facts-sft"), load_policy("facts-sft")
    pairs: list[Preference] = []
    loops: list[Iterator[object]] = []
    if unit is not None:
        pairs = (pool or Pool(seed, settings)).pairs(judge, unit, price)
        training = DPOSettings(
            steps=settings.steps,
            batch_size=settings.batch_size,
            beta=beta,
            learning_rate=settings.learning_rate,
            seed=seed,
        )
        loops.append(train_dpo(policy, pairs, training, loss=anchored_dpo_loss(settings.anchor)))
    if rehearsed:
        documents = sample_fact_documents(settings.steps * settings.batch_size, 5_000 + seed)
        rehearsal = SupervisedSettings(
            steps=settings.steps,
            batch_size=settings.batch_size,
            learning_rate=settings.rehearsal_rate,
            warmup=0.04,
            seed=seed,
        )
        loops.append(train_sft(policy, [("", document.text) for document in documents], rehearsal))
    if loops:
        for _ in take_turns(*loops):
            pass
    return _measured(key, policy, sft, len(pairs), settings)


def _measured(
    key: Key,
    policy: LanguagePolicy,
    sft: LanguagePolicy,
    pairs: int,
    settings: FactualitySettings,
) -> FactualityRun:
    """Count what a policy says of the held-out subjects."""
    seed = key[3]
    counts: dict[str, dict[str, list[float]]] = {measure: {} for measure in MEASURES}
    likeliest: dict[str, dict[str, list[float]]] = {measure: {} for measure in MEASURES}
    kl, samples = {}, {}
    for world, make in BOOKS.items():
        book = make()
        names = book.parts["held out"]
        for table, per_subject, temperature in (
            (likeliest, 1, 1e-4),
            (counts, settings.measured, 1.0),
        ):
            prompts, responses = sample_about(
                policy, book, names, per_subject, 3_000 + seed, temperature
            )
            found = count_facts(book, prompts, responses)
            for measure in MEASURES:
                values = np.array([getattr(count, measure) for count in found], dtype=np.float64)
                table[measure][world] = values.reshape(-1, per_subject).mean(1).round(4).tolist()
        samples[world] = responses[: SHOWN * per_subject : per_subject]
        divergence = Estimate(0.0, 0.0, len(names))
        if key[1] is not None or key[2]:
            divergence = sequence_kl(
                policy,
                sft,
                prompts[::per_subject],
                settings.max_new_tokens,
                torch.Generator().manual_seed(4_000 + seed),
            )
        kl[world] = [round(divergence.value, 4), round(divergence.standard_error, 4)]
    return FactualityRun(*key, pairs, counts, likeliest, kl, samples)


_DEFAULT = SETTINGS.beta, SETTINGS.price

PLAN: tuple[Key, ...] = tuple(
    (judge, unit, rehearsed, seed, beta, price)
    for judge, unit, rehearsed, beta, price in (
        ("none", None, False, None, None),
        ("none", None, True, None, None),
        ("reference", "sentence", True, *_DEFAULT),
        ("confidence", "sentence", True, *_DEFAULT),
        ("assured", "sentence", True, SETTINGS.beta, None),
        ("reference", "answer", True, *_DEFAULT),
        ("reference", "sentence", True, SETTINGS.beta, 1.0),
        ("reference", "sentence", True, SETTINGS.beta, 4.0),
        ("reference", "sentence", True, 0.1, SETTINGS.price),
        ("reference", "sentence", True, 2.0, SETTINGS.price),
    )
    for seed in range(3)
)
"""Every run: (judge, unit, rehearsed, seed, β, price)."""


# --- The command ----------------------------------------------------------------------------------


def _path(folder: Path, key: Key) -> Path:
    judge, unit, rehearsed, seed, beta, price = key
    parts = [judge]
    parts += [f"{unit}s", f"beta{beta:g}"] if unit is not None else []
    parts += [f"price{price:g}"] if price is not None else []
    parts += ["rehearsed"] if rehearsed else []
    parts += [f"seed{seed}"]
    return folder / f"{'_'.join(parts)}.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Do the runs of the plan that have no file yet.

    Args:
        argv: the words of the command line; None takes those of the process.

    Returns:
        0, or 1 when a run that is there was made with other settings.
    """
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the results go")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="only the runs of these seeds"
    )
    arguments = parser.parse_args(argv)
    pool = functools.cache(lambda seed: Pool(seed, SETTINGS))

    def do(key: Key) -> tuple[dict, str]:
        run = run_one(key, None if key[1] is None else pool(key[3]), SETTINGS)
        return dataclasses.asdict(run), " ".join(
            f"{name} {run.mean(name)}" for name in MEASURES[:4]
        )

    return do_runs(
        {key: _path(arguments.folder, key) for key in PLAN if key[3] in arguments.seeds},
        do,
        command=COMMAND,
        settings=dataclasses.asdict(SETTINGS),
    )


if __name__ == "__main__":
    sys.exit(main())
