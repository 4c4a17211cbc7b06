"""Teaching a real model to say what it knows of real countries, and no more (lesson 7).

    python -m rlhf_lessons real tuning              the stored table
    python -m rlhf_lessons real tuning --measure    trains what is missing, minutes a run

Each run starts from SmolLM2-135M with fresh adapters: answers to the questions about tuned-on
countries are sampled, a judge says which is best and whether a sentence that hedges is better, and
DPO trains on the pairs. Judges and counts are those of the invented world. What is measured are the
held-out countries: one answer to each question by the likeliest tokens, and some sampled. One file
a run in the folder ``real_tuning_runs`` beside this module.

Left out on purpose: rehearsal, which a model of this size needs less, and the weights.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from rlhf_lessons.evaluation.factuality import (
    AssuredRater,
    ConfidenceJudge,
    Judge,
    ReferenceJudge,
    count_facts,
)
from rlhf_lessons.evaluation.factuality_sweep import (
    MEASURES,
    FactualityRun,
    anchored_dpo_loss,
    load_factuality_sweep,
)
from rlhf_lessons.evaluation.language import sequence_kl
from rlhf_lessons.evaluation.real_confidence import choose_confidence, pooled_answers
from rlhf_lessons.evaluation.real_knowledge import (
    GREEDY,
    MAX_NEW_TOKENS,
    AskedFact,
    RealBook,
    load_real_knowledge,
    sample_texts,
)
from rlhf_lessons.evaluation.sweeps import do_runs
from rlhf_lessons.models import LanguagePolicy, load_policy
from rlhf_lessons.models.checkpoints import FETCHED_POLICY
from rlhf_lessons.training import DPOSettings, DPOStep, pair_log_probs, train_dpo
from rlhf_lessons.training.settings import ABOVE_0, FROM_0, check_settings, whole
from rlhf_lessons.worlds import FACT_KINDS, Preference, real_facts

__all__ = [
    "HEDGES",
    "RealPool",
    "RealTuningSettings",
    "balanced_pairs",
    "count_about",
    "hedging_pairs",
    "load_real_tuning",
    "measure_real_tuning",
    "tune_on_real_facts",
    "tuning_table",
]

FOLDER = Path(__file__).with_name("real_tuning_runs")
COMMAND = "python -m rlhf_lessons real tuning --measure"
HEDGES = {
    "capital": "The capital of {subject} is not known to me.",
    "currency": "The currency of {subject} is not known to me.",
}
"""Of each kind of fact, the sentence that says that it is not known."""
SHOWN = 6


@dataclass(frozen=True)
class RealTuningSettings:
    """What every run has in common.

    Attributes:
        rank: of the adapters.
        responses: answers sampled to each question about a tuned-on country.
        temperature: of those answers.
        price: λ, how many right facts one wrong fact costs the factuality judges.
        penalty: how many right facts one unreadable answer costs them.
        beta: DPO's β.
        anchor: weight of the supervised term −log π(chosen) beside DPO's loss.
        steps: updates.
        batch_size: pairs an update.
        learning_rate: of the adapters.
        max_new_tokens: longest answer.
        measured: sampled answers to each question about a held-out country.
    """

    rank: int = 8
    responses: int = 2
    temperature: float = 1.0
    price: float = 1.0
    penalty: float = 2.0
    beta: float = 0.1
    anchor: float = 0.1
    steps: int = 60
    batch_size: int = 8
    learning_rate: float = 5e-4
    max_new_tokens: int = MAX_NEW_TOKENS
    measured: int = 1

    def __post_init__(self) -> None:
        fields = dataclasses.fields(self)
        check_settings(
            self,
            **{field.name: whole(1) for field in fields if isinstance(field.default, int)},
            temperature=ABOVE_0,
            price=FROM_0,
            penalty=FROM_0,
            beta=ABOVE_0,
            anchor=FROM_0,
            learning_rate=ABOVE_0,
        )


SETTINGS = RealTuningSettings()


def load_real_tuning(folder: Path | None = None) -> list[FactualityRun]:
    """Read the runs.

    Args:
        folder: where the files are; None takes the one beside this module.

    Returns:
        The runs as ``load_factuality_sweep`` gives them; their worlds are "capital" and "currency",
        and each held-out country has the mean over the answers to its questions.

    Raises:
        FileNotFoundError: there are none.
        ValueError: a file is no run of this sweep; the message names it.
    """
    return load_factuality_sweep(folder or FOLDER, command=COMMAND)


# --- Pairs ----------------------------------------------------------------------------------------


def hedging_pairs(
    book: RealBook, prompts: Sequence[str], responses: Sequence[str], judge: Judge, seed: int = 0
) -> list[Preference]:
    """Make two pairs of each question: speak or hedge, and this rather than that.

    The best answer meets the sentence that hedges; the better of the two then meets one of the
    other answers that the judge likes less. So where something is known all pairs speak for saying
    it, where nothing is known for the hedge.

    Args:
        book: what the prompts ask for.
        prompts: (B,) its prompts; answers to one may stand anywhere, and of equal scores the first
            is the best.
        responses: (B,) answers; empty ones are left out.
        judge: (prompts, responses) -> scores.
        seed: of the draws.

    Returns:
        The pairs, in the order of the questions; equal scores make none.

    Raises:
        ValueError: a prompt is none of the book's, or the judge prefers nothing.
    """
    groups: dict[str, dict[str, None]] = {}
    for prompt, response in zip(prompts, responses, strict=True):
        if response.strip():
            groups.setdefault(prompt, {})[response] = None
    chance = random.Random(f"hedging, {seed}")
    pairs = []
    for prompt, answers in groups.items():
        hedge = HEDGES[book.kind].format(subject=book.subject_of(prompt))
        texts = [hedge, *(answer for answer in answers if answer != hedge)]
        scores = np.asarray(judge([prompt] * len(texts), texts), np.float64).tolist()
        if len(texts) == 1:
            continue
        best = max(range(1, len(texts)), key=scores.__getitem__)
        if scores[best] == scores[0]:
            continue
        chosen, rejected = (best, 0) if scores[best] > scores[0] else (0, best)
        pairs.append(Preference(prompt, texts[chosen], texts[rejected]))
        others = [
            place
            for place in range(1, len(texts))
            if place != best and scores[place] < scores[chosen]
        ]
        if others:
            pairs.append(Preference(prompt, texts[chosen], texts[chance.choice(others)]))
    if not pairs:
        raise ValueError(
            f"hedging_pairs: judge must prefer some answer to the hedge or the hedge to some "
            f"answer, got equal scores for all of {len(groups)} questions"
        )
    return pairs


def balanced_pairs(book: RealBook, pairs: Sequence[Preference], seed: int = 0) -> list[Preference]:
    """Keep as many pairs that speak for hedging as pairs that speak against it.

    An answer makes one claim here, so a right one beats the hedge and the hedge beats a wrong one
    at any price λ. What is left to say how dear an error is: how many pairs there are of each sort.

    Args:
        book: what the prompts ask for.
        pairs: of ``hedging_pairs``.
        seed: of the choice among the sort that there are more of.

    Returns:
        Those that are kept, in their order.
    """
    sorts: dict[bool, list[int]] = {True: [], False: []}
    for place, (prompt, chosen, _) in enumerate(pairs):
        hedge = HEDGES[book.kind].format(subject=book.subject_of(prompt))
        sorts[chosen == hedge].append(place)
    fewer = min(map(len, sorts.values()))
    chance = random.Random(f"balanced, {seed}")
    kept = sorted(place for places in sorts.values() for place in chance.sample(places, fewer))
    return [pairs[place] for place in kept]


class RealPool:
    """What the judges of one seed look at: answers about the tuned-on countries.

    To each question the likeliest answer, as ``real_knowledge`` keeps it, and some sampled ones.

    Args:
        seed: of the samples.
        settings: how many of them.
        knowledge: what the model answered before, for its confidence; None takes what is stored.
        log_probs: (prompt, text) -> log π under the model, of what was read before; it is added to.

    Attributes:
        policy: the real model.
        books: kind -> the questions about tuned-on countries.
        texts: kind -> (prompts, responses).
        answers: kind -> (country, kind) -> claim -> how often it was given.
    """

    def __init__(
        self,
        seed: int,
        settings: RealTuningSettings = SETTINGS,
        knowledge: Sequence[AskedFact] | None = None,
        log_probs: dict[tuple[str, str], float] | None = None,
    ) -> None:
        self.seed, self.settings = seed, settings
        self.log_probs = {} if log_probs is None else log_probs
        self.policy = load_policy(FETCHED_POLICY)
        known = load_real_knowledge() if knowledge is None else knowledge
        self.books, self.texts, self.answers = {}, {}, {}
        for number, kind in enumerate(FACT_KINDS):
            book = RealBook(self.policy, kind, real_facts(kind, held_out=False))
            own = [fact for fact in known if fact.kind == kind and not fact.held_out]
            likeliest = {
                (fact.subject, number): answer.text
                for fact in own
                for number, answer in enumerate(fact.answers)
            }
            asked = [prompt for prompt in book.prompts for _ in range(settings.responses)]
            texts, _ = sample_texts(
                self.policy,
                asked,
                settings.temperature,
                1_000 + 10 * seed + number,
                f"{kind}, tuned on",
                settings.max_new_tokens,
            )
            first = [likeliest[fact.subject, phrasing] for fact, phrasing in book.asked]
            self.books[kind] = book
            self.texts[kind] = [*book.prompts, *asked], [*first, *texts]
            self.answers[kind] = pooled_answers(own, *choose_confidence(own))

    def judge(self, name: str, kind: str, price: float | None) -> Judge:
        """Give a judge; "confidence" looks at the model's own answers, at no truth."""
        book, penalty = self.books[kind], self.settings.penalty
        if name in ("reference", "balanced"):
            return ReferenceJudge(book, price, penalty)
        if name == "confidence":
            return ConfidenceJudge(book, self.answers[kind], price, penalty)
        return AssuredRater(book)

    def pairs(self, judge: str, price: float | None) -> list[Preference]:
        """Judge and pair the answers of both kinds, in mixed order.

        "balanced" is the reference judge with as many pairs for hedging as against it.
        """
        pairs = []
        for kind, book in self.books.items():
            found = hedging_pairs(
                book, *self.texts[kind], self.judge(judge, kind, price), self.seed
            )
            pairs += balanced_pairs(book, found, self.seed) if judge == "balanced" else found
        random.Random(f"order, {self.seed}").shuffle(pairs)
        return pairs

    def reference_log_probs(self, pairs: Sequence[Preference]) -> tuple[torch.Tensor, torch.Tensor]:
        """Give log π of the chosen and of the rejected texts under the real model.

        Runs have many texts in common, and to read them takes a third of a run: each is read once.

        Args:
            pairs: as ``pairs`` gives them.

        Returns:
            (N,) log-probabilities of the chosen texts and (N,) of the rejected ones, in nats.
        """
        known = self.log_probs
        new: dict[str, dict[str, None]] = {}
        for prompt, *texts in pairs:
            unread = [text for text in texts if (prompt, text) not in known]
            if unread:
                new.setdefault(prompt, {}).update(dict.fromkeys(unread))
        couples = []
        for prompt, *texts in pairs:
            order = list(new.pop(prompt, ()))
            if len(order) % 2:  # they are read in twos: with another that may be known
                order.append(next(text for text in texts if text != order[-1]))
            couples += [
                Preference(prompt, *two) for two in zip(order[::2], order[1::2], strict=True)
            ]
        if couples:
            length = self.settings.max_new_tokens
            read = pair_log_probs(self.policy, couples, max_new_tokens=length)
            for place, side in enumerate(read, start=1):
                for couple, log_prob in zip(couples, side.tolist(), strict=True):
                    known[couple[0], couple[place]] = log_prob
        return tuple(
            torch.tensor([known[pair.prompt, text] for pair, text in zip(pairs, side, strict=True)])
            for side in list(zip(*pairs, strict=True))[1:]
        )


# --- One run --------------------------------------------------------------------------------------

Key = tuple[str, str | None, bool, int, float | None, float | None]


def tune_on_real_facts(
    policy: LanguagePolicy,
    pairs: Sequence[Preference],
    settings: RealTuningSettings = SETTINGS,
    seed: int = 0,
    reference_log_probs: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> Iterator[DPOStep]:
    """Train adapters on pairs, as every run does.

    Args:
        policy: the real model with fresh adapters, ``with_adapter``; it learns in place.
        pairs: (prompt, chosen, rejected).
        settings: how.
        seed: of the order in which pairs are seen.
        reference_log_probs: as for ``train_dpo``.

    Yields:
        The records of ``train_dpo``.
    """
    yield from train_dpo(
        policy,
        pairs,
        DPOSettings(
            steps=settings.steps,
            batch_size=settings.batch_size,
            beta=settings.beta,
            learning_rate=settings.learning_rate,
            seed=seed,
        ),
        reference_log_probs=reference_log_probs,
        loss=anchored_dpo_loss(settings.anchor),
        max_new_tokens=settings.max_new_tokens,
    )


def run_one(
    key: Key, pool: RealPool | None = None, settings: RealTuningSettings = SETTINGS
) -> FactualityRun:
    """Make one policy and measure it on the held-out countries."""
    judge, unit, _, seed, _, price = key
    base = load_policy(FETCHED_POLICY) if pool is None else pool.policy
    if unit is None:
        return _measured(key, base, base, 0, settings)
    pool = pool or RealPool(seed, settings)
    pairs = pool.pairs(judge, price)[: settings.steps * settings.batch_size]  # what is seen
    policy = base.with_adapter(settings.rank, seed=seed)
    steps = tune_on_real_facts(policy, pairs, settings, seed, pool.reference_log_probs(pairs))
    for _ in tqdm(steps, desc=f"{judge}, seed {seed}", total=settings.steps, unit="step"):
        pass
    return _measured(key, policy.merge(), base, len(pairs), settings)


def count_about(
    policy: LanguagePolicy,
    book: RealBook,
    samples: int,
    temperature: float,
    seed: int,
    max_new_tokens: int = SETTINGS.max_new_tokens,
) -> tuple[dict[str, list[float]], list[str]]:
    """Ask a policy every question of a book, and count what it says.

    Args:
        policy: who answers.
        book: the questions.
        samples: answers to each question.
        temperature: of the draws.
        seed: of the draws.
        max_new_tokens: longest answer.

    Returns:
        Measure ("right", "wrong", "hedged", "unreadable", "words") -> the mean over the answers
        about each country, in the order of the book; and the answers themselves.
    """
    asked = [prompt for prompt in book.prompts for _ in range(samples)]
    label = f"{book.kind}, {temperature:g}"
    texts, _ = sample_texts(policy, asked, temperature, seed, label, max_new_tokens)
    found = count_facts(book, asked, texts)
    means = {}
    for measure in MEASURES:
        values = np.array([getattr(count, measure) for count in found], np.float64)
        means[measure] = values.reshape(len(book.facts), -1).mean(1).round(4).tolist()
    return means, texts


def _measured(
    key: Key,
    policy: LanguagePolicy,
    base: LanguagePolicy,
    pairs: int,
    settings: RealTuningSettings,
) -> FactualityRun:
    seed = key[3]
    counts: dict[str, dict[str, list[float]]] = {measure: {} for measure in MEASURES}
    greedy: dict[str, dict[str, list[float]]] = {measure: {} for measure in MEASURES}
    kl, samples = {}, {}
    for number, kind in enumerate(FACT_KINDS):
        book = RealBook(policy, kind, real_facts(kind, held_out=True))
        for table, count, temperature in ((counts, settings.measured, 1.0), (greedy, 1, GREEDY)):
            draws = 3_000 + 10 * seed + number
            found, texts = count_about(
                policy, book, count, temperature, draws, settings.max_new_tokens
            )
            for measure, means in found.items():
                table[measure][kind] = means
        samples[kind] = texts[:: len(book.prompts) // len(book.facts)][:SHOWN]
        kl[kind] = [0.0, 0.0]
        if policy is not base:
            draw = torch.Generator().manual_seed(4_000 + seed)
            once = book.prompts[:: len(book.prompts) // len(book.facts)]  # the first phrasing
            found = sequence_kl(policy, base, once, settings.max_new_tokens, draw)
            kl[kind] = [round(found.value, 4), round(found.standard_error, 4)]
    return FactualityRun(*key, pairs, counts, greedy, kl, samples)


PLAN: tuple[Key, ...] = tuple(
    (judge, unit, False, seed, beta, price)
    for seed in range(2)
    for judge, unit, beta, price in (
        ("none", None, None, None),
        ("reference", "answer", SETTINGS.beta, SETTINGS.price),
        ("balanced", "answer", SETTINGS.beta, SETTINGS.price),
        # Of claims on which 5 answers of 12 agree most are right, of those on which 4 do few: the
        # price ½ puts the border, λ/(1 + λ), there.
        ("confidence", "answer", SETTINGS.beta, 0.5),
        ("confidence", "answer", SETTINGS.beta, 1.0),
        ("assured", "answer", SETTINGS.beta, None),
    )
    if seed == 0 or judge != "none"
)
"""Every run: (judge, unit, rehearsed, seed, β, price); two seeds of whatever was tuned."""


def measure_real_tuning(folder: Path | None = None, keys: Sequence[Key] = PLAN) -> int:
    """Do the runs that have no file yet, on two threads.

    Args:
        folder: where the files go; None takes the one beside this module.
        keys: which runs: (judge, unit, rehearsed, seed, β, price).

    Returns:
        0, or 1 when a run that is there was made with other settings.

    Raises:
        CheckpointError: the real model was not fetched.
        PartError: the facts were not fetched.
        OSError: a file cannot be written.
    """
    read: dict[tuple[str, str], float] = {}
    pool = functools.cache(lambda seed: RealPool(seed, SETTINGS, log_probs=read))

    def do(key: Key) -> tuple[dict, str]:
        run = run_one(key, pool(key[3]), SETTINGS)
        told = (f"{name} {run.mean(name, 'capital')}" for name in MEASURES[:4])
        return dataclasses.asdict(run), " ".join(told)

    def path(key: Key) -> Path:
        judge, _, _, seed, _, price = key
        name = judge if price is None else f"{judge}_price{price:g}"
        return (folder or FOLDER) / f"{name}_seed{seed}.json"

    return do_runs(
        {key: path(key) for key in keys},
        do,
        command=COMMAND,
        settings=dataclasses.asdict(SETTINGS),
        threads=2,
    )


def tuning_table(runs: Sequence[FactualityRun]) -> str:
    """Write what each policy says of held-out countries, in answers of a hundred.

    Args:
        runs: of any judges and seeds.

    Returns:
        A line for each kind of fact, way of answering, judge and seed.
    """
    lines = [f"{'':<50}" + "".join(f"{name:>12}" for name in (*MEASURES, "KL"))]
    for kind in FACT_KINDS:
        for way in ("sampled", "likeliest"):
            for run in runs:
                table = run.counts if way == "sampled" else run.greedy
                means = [float(np.mean(table[measure][kind])) for measure in MEASURES]
                cells = [f"{100 * mean:>12.1f}" for mean in means[:-1]]
                cells += [f"{means[-1]:>12.1f}", f"{run.kl[kind][0]:>12.2f}"]
                price = "" if run.price is None else f" λ = {run.price:g}"
                name = f"{kind}, {way}, {run.judge}{price}, seed {run.seed}"
                lines.append(f"{name:<50}" + "".join(cells))
    return "\n".join(lines)
