"""The DPO paper's sentiment experiment as one command (lesson 8).

    python -m rlhf_lessons run sentiment --method dpo --beta 0.1               offline, on a CPU
    python -m rlhf_lessons run sentiment --policy gpt2 --data imdb --method dpo --beta 0.1
    python -m rlhf_lessons run sentiment --data snippets --method dpo ppo bon --beta 0.05 0.1

The third is a real model of 135 M weights on real film snippets, scored by a judge that was fitted
to people's ratings, on two cores; python -m rlhf_lessons real get fetches what it needs.

A policy continues the first 2 to 8 tokens of a film review; a judge says how positive the whole is.
Each stage is a function of this package, and what it makes is kept in the folder of the run:

    sft/            the policy, fine-tuned on reviews: the reference π_ref
    pairs.jsonl     4 continuations of each prompt, 6 pairs (snippets: 2, one pair), labelled by the
                    judge's scores
    reward_model/   learned from the pairs; ppo and bon optimise it
    model/          the result of sft, rm, dpo or ppo
    results.json    settings, versions, command; reward and KL on the way and at the end
    plot.png        the same as a picture

The same command goes on where it was stopped. Several methods or β make one folder: what they share
lies there (sft/, the pairs, reward_model/), table.txt and plot.png compare them, and each run has a
folder of its own in it with the rest. Texts are cut after the last sentence that fits, so that
responses learn to end; the paper cuts them anywhere. A response that is cut at max-new-tokens is
taught no end.

Left out on purpose: several devices, and a search over settings. For texts of the hub or of your
own they are the paper's where it names them (pairs, β, batch and learning rate of DPO), else a
start.

Source: Rafailov et al. 2023, "Direct Preference Optimization", section 6.1 and appendix C.1.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlhf_lessons import formulas
from rlhf_lessons.evaluation.best_of_n import best_of_n, best_of_n_curve
from rlhf_lessons.evaluation.frontier import frontier_point
from rlhf_lessons.evaluation.preferences import preference_accuracy
from rlhf_lessons.models import (
    LanguagePolicy,
    RewardModel,
    SequenceClassifierJudge,
    ValueHead,
    list_checkpoints,
    load_people_judge,
    load_policy,
)
from rlhf_lessons.models.saved_model import KINDS
from rlhf_lessons.real_parts import PARTS
from rlhf_lessons.training import (
    DPOSettings,
    PPOSettings,
    RewardSettings,
    SupervisedSettings,
    held_out_nll,
    pair_log_probs,
    train_dpo,
    train_ppo,
    train_reward_model,
    train_sft,
)
from rlhf_lessons.training.settings import (
    ABOVE_0,
    FROM_0,
    SUPERVISED,
    Rule,
    changes,
    check_settings,
    one_of,
    whole,
)
from rlhf_lessons.training.versions import versions
from rlhf_lessons.whole_files import replace_file
from rlhf_lessons.worlds import (
    LabelledText,
    Preference,
    VaderJudge,
    drop_equal_pairs,
    load_preferences,
    load_snippets,
    load_texts,
    openings_of,
    preference_probability,
    reviews,
    save_preferences,
)

__all__ = ["SentimentRun", "SentimentSettings", "compare_sentiment", "run_sentiment"]

Judge = Callable[[Sequence[str], Sequence[str]], Any]

_KEPT = 6  # texts in a record

# What holds where nothing is given, for the offline world on a CPU, for the real snippets with
# adapters on a CPU, and for other texts with a model of the size of gpt2 on one GPU: of the whole
# run, then of each method and of the stages before it.
SENTIMENT_PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "reviews": {
        "run": {"policy": "reviews-sft", "judge": "gold", "prompts": 1000, "reward_steps": 250},
        "sft": {"steps": 400, "batch_size": 32, "learning_rate": 3e-3},
        "rm": {"steps": 250, "batch_size": 32, "learning_rate": 1e-3},
        "dpo": {"steps": 125, "batch_size": 32, "learning_rate": 1e-3},
        "ppo": {"steps": 40, "batch_size": 64, "learning_rate": 1e-3},
        "bon": {"samples": 64},
    },
    "snippets": {
        "run": {
            "policy": "smollm2-snippets", "judge": "people", "reward": "judge",
            "label_column": "rating", "prompts": 1000, "completions": 2, "label_temperature": 0.0,
            "max_new_tokens": 24, "samples": 128, "reward_steps": 60,
        },
        "sft": {"steps": 60, "batch_size": 24, "learning_rate": 1e-3},
        "rm": {"steps": 60, "batch_size": 16, "learning_rate": 1e-5},
        "dpo": {"steps": 60, "batch_size": 16, "learning_rate": 6e-4},
        "ppo": {"steps": 8, "batch_size": 64, "learning_rate": 6e-4},
        "bon": {"samples": 64, "n": 16},
    },
    "texts": {
        "run": {
            "policy": "gpt2", "judge": "siebert/sentiment-roberta-large-english",
            "prompts": 25_000, "reward_steps": 2400, "label_temperature": 0.0,
        },
        "sft": {"steps": 800, "batch_size": 32, "learning_rate": 5e-5},
        "rm": {"steps": 2400, "batch_size": 64, "learning_rate": 1e-5},
        "dpo": {"steps": 2400, "batch_size": 64, "learning_rate": 1e-6, "accumulate": 4},
        "ppo": {"steps": 200, "batch_size": 256, "learning_rate": 1.4e-5},
        "bon": {"samples": 256},
    },
}  # fmt: skip


@dataclass(frozen=True)
class SentimentSettings:
    """What a run of the experiment depends on.

    Attributes:
        method: sft, rm (the reward model alone), dpo, ppo, or bon (best-of-n).
        policy: the causal language model: a shipped or fetched model, a folder, or a name of the
            hub.
        data: the texts: reviews (the offline world), snippets (real ones with people's ratings,
            fetched), a name of the hub such as imdb, a file (JSONL, a JSON array or parquet), or a
            folder with train.jsonl and test.jsonl or a saved data set.
        text_column: column of the texts.
        label_column: column of 0 (blame) and 1 (praise), to say how often the judge agrees; empty
            for none; of snippets rating, which is praise above 0.
        judge: what scores a text: gold (the offline world's reward), people (fitted to people's
            ratings, fetched), module:function for one of your own (prompts, responses) -> scores,
            or folder or hub name of a sequence classifier, whose log-odds of "positive" are the
            reward.
        reward: what ppo and bon optimise: learned (a reward model of the pairs) or judge.
        beta: KL strength β of dpo and ppo, above 0, in reward per nat.
        steps: updates of the method; for ppo cycles: 4 passes over a batch, 64 responses per
            update; nothing for bon.
        batch_size: examples or pairs per update, for ppo responses per cycle.
        accumulate: parts that an update is computed in: less memory, the same numbers.
        learning_rate: highest step size of the method.
        lora: rank of adapters that learn instead of the weights; 0 trains what the policy has: all
            its weights, or the adapters it came with.
        sft_steps: updates of fine-tuning before rm, dpo, ppo and bon; 0 takes the policy as it is.
        reward_steps: updates of the reward model before ppo and bon.
        prompts: prompts to train on; the pairs continue them.
        completions: continuations of each prompt, 2 or more; every two of them make a pair.
        label_temperature: T in reward: the first of a pair is preferred with probability σ((r₁ −
            r₂)/T); 0 prefers the higher score always.
        n: most responses that bon draws for a prompt.
        max_new_tokens: most tokens of a response, its end token included.
        samples: responses that measure reward and KL; for bon prompts, n responses to each.
        measure_every: steps between two measurements, and between two checkpoints.
        bf16: whether models compute in bfloat16; weights stay float32.
        device: cpu, cuda, cuda:1, ...
        seed: of prompts, samples, labels and training.
    """

    method: str = "dpo"
    policy: str = "reviews-sft"
    data: str = "reviews"
    text_column: str = "text"
    label_column: str = ""
    judge: str = "gold"
    reward: str = "learned"
    beta: float = 0.1
    steps: int = 125
    batch_size: int = 32
    accumulate: int = 1
    learning_rate: float = 1e-3
    lora: int = 0
    sft_steps: int = 0
    reward_steps: int = 250
    prompts: int = 1000
    completions: int = 4
    label_temperature: float = 1.0
    n: int = 64
    max_new_tokens: int = 48
    samples: int = 1024
    measure_every: int = 15
    bf16: bool = False
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        shared = ("steps", "batch_size", "accumulate", "learning_rate", "bf16", "seed")
        check_settings(
            self,
            **{name: SUPERVISED[name] for name in shared},
            method=one_of(SENTIMENT_METHODS),
            judge=Rule(
                f"a sequence classifier for {self.data}, since gold reads the offline world alone",
                lambda judge: judge != "gold" or self.data == "reviews",
            ),
            reward=one_of(("learned", "judge")),
            beta=ABOVE_0,
            lora=whole(0),
            sft_steps=whole(0),
            reward_steps=whole(1),
            prompts=whole(2),
            completions=whole(2),
            label_temperature=FROM_0,
            n=whole(1),
            max_new_tokens=whole(1),
            samples=whole(2),
            measure_every=whole(1),
        )

    @classmethod
    def preset(cls, **given: Any) -> SentimentSettings:
        """Fill in what is not given: small for reviews and snippets, one GPU for other texts.

        Args:
            **given: fields; None counts as not given.

        Returns:
            the settings.

        Raises:
            ValueError: if a field is out of its range.
        """
        given = {name: value for name, value in given.items() if value is not None}
        method, data = given.get("method", cls.method), given.get("data", cls.data)
        preset = _preset(data)
        values = {**preset["run"], **preset.get(method, {})}
        if method == "sft":
            values["policy"] = {"reviews": "reviews-base", "snippets": "smollm2"}.get(
                data, values["policy"]
            )
        if data == "imdb":
            values["label_column"] = "label"
        values["device"] = "cuda" if torch.cuda.is_available() else "cpu"
        values.update(given)
        values.setdefault("bf16", data != "reviews" and values["device"].startswith("cuda"))
        ready = method == "sft" or values["policy"] == "reviews-sft" or data == "snippets"
        values.setdefault("sft_steps", 0 if ready else preset["sft"]["steps"])
        if data == "snippets":
            values.setdefault("lora", 0 if values["policy"] == "smollm2-snippets" else 16)
        # A measurement of the real model costs as much as five updates.
        often = 2 if data == "snippets" else 8
        values.setdefault("measure_every", max(1, values.get("steps", cls.steps) // often))
        return cls(**values)


def _preset(data: str) -> dict[str, dict[str, Any]]:
    return SENTIMENT_PRESETS["texts" if data not in SENTIMENT_PRESETS else data]


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


def run_sentiment(
    settings: SentimentSettings,
    folder: str | os.PathLike[str],
    *,
    command: str = "",
    progress: bool = False,
) -> SentimentRun:
    """Do the experiment, or go on with it where it was stopped.

    Args:
        settings: what to do.
        folder: where everything is kept.
        command: what was typed, for the record.
        progress: whether to show bars.

    Returns:
        What came out.

    Raises:
        OSError: the folder cannot be written, or a model or data set cannot be reached.
        ValueError: the folder holds a run with other settings, or a stage refuses its input.
        FloatingPointError: a loss is NaN or infinite.
    """
    folder = Path(folder).expanduser()
    return _Experiment(settings, folder, command, progress).done()


def compare_sentiment(
    runs: Sequence[SentimentSettings],
    folder: str | os.PathLike[str],
    *,
    command: str = "",
    progress: bool = False,
) -> list[SentimentRun]:
    """Do several runs that share fine-tuning, samples, labels and reward model; or go on with them.

    Args:
        runs: methods and β in the order in which they are done.
        folder: where what they share is kept, with a folder for each run in it.
        command: what was typed, for the record.
        progress: whether to show bars.

    Returns:
        What came out of each.

    Raises:
        OSError: as ``run_sentiment`` raises it.
        ValueError: as ``run_sentiment`` raises it, or if the runs differ in what they share from
            each other or from those that the folder holds.
        FloatingPointError: as ``run_sentiment`` raises it.
    """
    home, done, before = Path(folder).expanduser(), [], None
    home.mkdir(parents=True, exist_ok=True)
    for settings in runs:
        _check_shared(home, settings)
        alone = "_alone" if settings.method == "sft" else ""  # sft/ is where the others start
        run = _Experiment(settings, home / f"{folder_of(settings)}{alone}", command, progress, home)
        if alone:  # it shares nothing
            done.append(run.done())
            continue
        if before is not None:
            run.take_over(before)
        done.append(run.done())
        before = run
    _plot_all(done, home / "plot.png")
    replace_file(home / "table.txt", comparison(done) + "\n")
    return done


def folder_of(settings: SentimentSettings) -> str:
    """Name a run for its folder: the method, and β where the method has one."""
    beta = f"_beta{settings.beta:g}" if settings.method in ("dpo", "ppo") else ""
    return settings.method + beta


def comparison(runs: Sequence[SentimentRun]) -> str:
    """Give where several runs began and ended as a line of text each."""
    lines = []
    for run in runs:
        steps = {"before": run.points[0], "": run.points[-1]}
        if run.settings.method == "bon":
            steps = {f" {point['step']}": point for point in run.points}
        lines += [f"{f'{run.name} {when}':<20}{_line(point)}" for when, point in steps.items()]
    return "\n".join(lines)


# What the runs of one folder may differ in; fine-tuning starts elsewhere and shares nothing.
_OWN = {
    "method", "beta", "steps", "batch_size", "accumulate", "learning_rate", "n", "samples",
    "measure_every",
}  # fmt: skip


def _check_shared(home: Path, settings: SentimentSettings) -> None:
    """Refuse a run that could not use what lies in the folder; the first one writes the record."""
    if settings.method == "sft":
        return
    path = home / "shared.json"
    now = {k: v for k, v in dataclasses.asdict(settings).items() if k not in _OWN}
    if not path.exists():
        replace_file(path, json.dumps(now, ensure_ascii=False, indent=1) + "\n")
    then = json.loads(path.read_text(encoding="utf-8"))
    if differ := changes(then, now):
        raise ValueError(
            f"compare_sentiment: {home} holds runs with other settings: {', '.join(differ)}. Give "
            f"the first ones, or another --out"
        )


class _Experiment:
    """The stages of a run: each is made when it is needed, or read back from the folder."""

    def __init__(
        self,
        settings: SentimentSettings,
        folder: Path,
        command: str,
        progress: bool,
        home: Path | None = None,
    ) -> None:
        self.settings, self.folder, self.progress = settings, folder, progress
        self.home = folder if home is None else home  # of what several runs share
        self.checkpoints, self.results = folder / "checkpoints", folder / "results.json"
        self.run = SentimentRun(settings, versions(), command)
        # Point and texts of the policy that every run of one home begins with.
        self.untrained: tuple[dict[str, float], tuple] | None = None
        if self.results.exists():
            self.run = self._taken_up()
        else:
            folder.mkdir(parents=True, exist_ok=True)
            self.record()

    def _taken_up(self) -> SentimentRun:
        then = SentimentRun.read(self.results)
        differ = changes(*map(dataclasses.asdict, (then.settings, self.settings)))
        if differ and list(self.folder.iterdir()) == [self.results]:
            return self.run  # that run failed before it made anything
        if differ:
            raise ValueError(
                f"run_sentiment: {self.folder} holds a run with other settings: "
                f"{', '.join(differ)}. Give the first ones, or another --out"
            )
        return then

    def record(self, **changes: Any) -> None:
        """Change the record, and write it."""
        self.run = dataclasses.replace(self.run, **changes)
        text = json.dumps(dataclasses.asdict(self.run), ensure_ascii=False, indent=1)
        replace_file(self.results, text + "\n")

    def done(self) -> SentimentRun:
        """Do what is not done yet."""
        if not self.run.finished:
            self.read()
            SENTIMENT_METHODS[self.settings.method](self)
            _plot(self.run, self.folder / "plot.png")
            shutil.rmtree(self.checkpoints, ignore_errors=True)
            self.record(finished=True)
        return self.run

    def take_over(self, other: _Experiment) -> None:
        """Take what another run of the same home has read or made."""
        shared = [
            "texts", "judge", "vader", "reference", "pairs", "reference_log_probs",
            "held_out_pairs", "reward",
        ]  # fmt: skip
        if self.settings.samples == other.settings.samples:
            shared.append("untrained")
        vars(self).update({name: vars(other)[name] for name in shared if name in vars(other)})
        if "judge" in vars(self):
            self.record(judge_accuracy=other.run.judge_accuracy)

    # -- What is read ------------------------------------------------------------------------------

    def read(self) -> tuple:
        """Read model, texts and judge, so that what is wrong is found before hours of training."""
        return self.start, self.examples, self.judge

    def load(self, name: str) -> LanguagePolicy:
        """Load a policy, in float32 and ready to be trained."""
        data = self.settings.data
        # Of the models that come with the course, those on a fetched one know all words.
        starts = {name: name for name in PARTS} | {
            c.name: c.recipe["start"] for c in list_checkpoints()
        }
        if name not in starts:
            policy = _reached("policy", name, LanguagePolicy.from_pretrained)
        elif data == "reviews" or starts[name] in PARTS:
            policy = load_policy(name)
        else:
            raise ValueError(
                f"run_sentiment: policy must know the words of {data}, got {name}, which knows "
                f"those of the offline world alone; gpt2 and smollm2 are others"
            )
        policy.model.to(self.settings.device, torch.float32)
        if self.settings.lora and name == self.settings.policy:
            policy = policy.with_adapter(self.settings.lora, seed=self.settings.seed)
        return policy

    @cached_property
    def start(self) -> LanguagePolicy:
        return self.load(self.settings.policy)

    @cached_property
    def texts(self) -> tuple[list, list]:
        """Texts to train on and to measure on, in an order of the seed's."""
        s = self.settings

        def read(data: str) -> tuple[list, list]:
            if data == "snippets":
                return tuple([LabelledText(t, r > 0) for t, r in part] for part in load_snippets())
            return load_texts(data, text_column=s.text_column, label_column=s.label_column or None)

        random, parts = np.random.default_rng(s.seed), _reached("data", s.data, read)
        return tuple([part[i] for i in random.permutation(len(part))] for part in parts)

    @cached_property
    def examples(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """(prompt, response) to train on and to measure on."""
        s = self.settings
        if s.data == "reviews":
            count = max(s.prompts, 20_000 if s.method == "sft" or s.sft_steps else 0)
            return (
                reviews.sample_reviews(count, seed=1000 + 10 * s.seed),
                reviews.sample_reviews(s.samples, seed=900_000),
            )
        tokenizer, longest = self.start.tokenizer, s.max_new_tokens
        return tuple(
            openings_of(tokenizer, [row.text for row in part], longest, s.seed)
            for part in self.texts
        )

    @property
    def prompts(self) -> list[str]:
        return [prompt for prompt, _ in self.examples[0][: self.settings.prompts]]

    @property
    def measured_prompts(self) -> list[str]:
        return [prompt for prompt, _ in islice(cycle(self.examples[1]), self.settings.samples)]

    @cached_property
    def judge(self) -> Judge:
        s = self.settings
        if s.judge == "gold":
            return reviews.gold_reward
        if s.judge == "people":
            judge = load_people_judge().to(s.device)
        elif re.fullmatch(r"[\w.]+:[\w.]+", s.judge):
            judge = _function(s.judge)
        else:
            judge = self._classifier()
        if s.label_column and self.run.judge_accuracy is None:
            rows = self.texts[1][:512]
            scores = np.asarray(judge([""] * len(rows), [row.text for row in rows]))
            agreed = [a == row.label for a, row in zip((scores > 0).tolist(), rows, strict=True)]
            self.record(judge_accuracy=sum(agreed) / len(agreed))
        return judge

    def _classifier(self) -> SequenceClassifierJudge:
        s, tokenizer = self.settings, self.start.tokenizer
        word = tokenizer.decode(tokenizer(" a", add_special_tokens=False)["input_ids"])
        # Some tokenizers drop the space that a response begins with.
        separator = "" if s.data != "reviews" and word.startswith(" ") else " "

        def load(name: str) -> SequenceClassifierJudge:
            return SequenceClassifierJudge.from_pretrained(
                name, device=s.device, bf16=s.bf16, separator=separator
            )

        return _reached("judge", s.judge, load)

    @cached_property
    def vader(self) -> VaderJudge:
        return VaderJudge()

    # -- The stages before the method --------------------------------------------------------------

    def stage(self, name: str, steps: int = 0) -> dict[str, Any]:
        """Settings of a loop: the run's for its method, the preset's for a stage before it."""
        s = self.settings
        own = _preset(s.data)[name]
        if s.method == name:
            own = {name: getattr(s, name) for name in ("batch_size", "learning_rate")}
            steps, every = s.steps, s.measure_every
        else:
            every = max(1, steps // 8)
        return {
            "batch_size": own["batch_size"], "learning_rate": own["learning_rate"], "steps": steps,
            "save_every": every, "accumulate": s.accumulate, "bf16": s.bf16, "seed": s.seed,
        }  # fmt: skip

    def fine_tuning(self, policy: LanguagePolicy, steps: int = 0) -> Iterator:
        settings = SupervisedSettings(**self.stage("sft", steps))
        return train_sft(policy, self.examples[0], settings, checkpoint=self.checkpoints)

    def reward_learning(self, model: RewardModel, steps: int = 0) -> Iterator:
        settings = RewardSettings(**self.stage("rm", steps))
        return train_reward_model(model, self.pairs, settings, checkpoint=self.checkpoints)

    def tuned(self) -> LanguagePolicy:
        """Give the fine-tuned policy, ready to be trained on."""
        s, folder = self.settings, self.home / "sft"
        if s.sft_steps == 0:
            return self.load(s.policy)
        if not any((folder / kind).exists() for kind in KINDS):
            policy = self.load(s.policy)
            self.follow(self.fine_tuning(policy, s.sft_steps), "sft")
            policy.save_pretrained(folder)
        return self.load(str(folder))

    @cached_property
    def reference(self) -> LanguagePolicy:
        return self.tuned().copy()

    def drawn(
        self, prompts: Sequence[str], judge: Judge, n: int, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sample n responses of the reference to each prompt, and score them: (P, n) both."""
        generator = torch.Generator(self.reference.device).manual_seed(seed)
        size, found = max(1, 256 // n), []
        with self.bar("sample", len(prompts), "prompt") as bar:
            for first in range(0, len(prompts), size):
                part, longest = prompts[first : first + size], self.settings.max_new_tokens
                found.append(
                    best_of_n(
                        self.reference, part, judge, n, max_new_tokens=longest, generator=generator
                    )
                )
                bar.update(len(part))
        candidates = np.array([row for best in found for row in best.candidates], dtype=object)
        return candidates, np.concatenate([best.candidate_scores for best in found])

    def labelled(self, prompts: list[str], name: str, seed: int) -> list[Preference]:
        """Label every two continuations of a prompt, once; the file keeps them."""
        s, path = self.settings, self.home / name
        if not path.exists():
            texts, scores = self.drawn(prompts, self.judge, s.completions, seed)
            i, j = map(list, zip(*combinations(range(s.completions), 2), strict=True))
            firsts, seconds = texts[:, i].ravel(), texts[:, j].ravel()
            chances = preference_probability(
                scores[:, i].ravel(), scores[:, j].ravel(), s.label_temperature
            )
            first_won = np.random.default_rng(seed).random(len(chances)) < chances
            pairs = zip(
                np.repeat(prompts, len(i)).tolist(),
                np.where(first_won, firsts, seconds),
                np.where(first_won, seconds, firsts),
                strict=True,
            )
            kept, _ = drop_equal_pairs(p for p in pairs if p[1].strip() and p[2].strip())
            save_preferences(path, kept)
        return load_preferences(path)

    @property
    def _held_out(self) -> int:
        return min(128, max(1, len(self.prompts) // 10))

    @cached_property
    def pairs(self) -> list[Preference]:
        return self.labelled(self.prompts[self._held_out :], "pairs.jsonl", 2 * self.settings.seed)

    @cached_property
    def reference_log_probs(self) -> tuple[torch.Tensor, torch.Tensor]:
        s, found = self.settings, []
        with self.bar("reference", len(self.pairs), "pair") as bar:
            for first in range(0, len(self.pairs), 64):
                part = self.pairs[first : first + 64]
                found.append(
                    pair_log_probs(
                        self.reference, part, max_new_tokens=s.max_new_tokens, bf16=s.bf16
                    )
                )
                bar.update(len(part))
        chosen, rejected = zip(*found, strict=True)
        return torch.cat(chosen), torch.cat(rejected)

    @cached_property
    def held_out_pairs(self) -> list[Preference]:
        prompts = self.prompts[: self._held_out]
        return self.labelled(prompts, "held_out_pairs.jsonl", 2 * self.settings.seed + 1)

    @cached_property
    def reward(self) -> Judge:
        """What ppo and bon optimise."""
        if self.settings.reward == "judge":
            return self.judge
        folder = self.home / "reward_model"
        if not (folder / "config.json").exists():
            model = RewardModel.from_policy(self.reference)
            self.follow(self.reward_learning(model, self.settings.reward_steps), "rm")
            model.save_pretrained(folder)
        model = RewardModel.from_pretrained(folder)
        model.model.to(self.settings.device)
        return model.score

    # -- Following a loop --------------------------------------------------------------------------

    def bar(self, what: str, total: int, unit: str) -> Any:
        from tqdm import tqdm

        return tqdm(total=total, desc=what, unit=unit, disable=not self.progress)

    def follow(
        self, loop: Iterator, name: str, measure: Callable[[int], dict[str, float]] | None = None
    ) -> None:
        """Run a loop; measure before it, on the way, and at its end."""
        s, missing = self.settings, []
        if measure:
            # Stopped between a checkpoint and its measurement, a run measures the step after it.
            steps = [point["step"] for point in self.run.points]
            missing = [
                due
                for due in [*range(0, s.steps, s.measure_every), s.steps]
                if not any(due <= step < due + s.measure_every for step in steps)
            ]
        if missing and missing[0] == 0:
            self.record(points=(measure(missing.pop(0)),))
        with self.bar(name, 0, "step") as bar:
            for record in loop:
                bar.total = record.total
                bar.update(record.step - bar.n)
                if missing and missing[0] <= record.step:
                    missing = [due for due in missing if due > record.step]
                    self.record(points=(*self.run.points, measure(record.step)))
        if missing:
            self.record(points=(*self.run.points, measure(s.steps)))

    def train(
        self, policy: LanguagePolicy, reference: LanguagePolicy, loop: Iterator, **more: Callable
    ) -> None:
        """Train a policy, place it on the plane of KL and reward on the way, and save it."""
        s = self.settings
        # The logits of a forward pass, (B, T, V) in float32, stay below half a gigabyte.
        rows = 2**27 // (s.max_new_tokens * policy.vocabulary_size)

        def measure(step: int) -> dict[str, float]:
            if step == 0 and self.untrained:
                point, texts = self.untrained
                self.record(texts_before=texts)
                return point
            found = frontier_point(
                policy, reference, self.measured_prompts, judge=self.judge, seed=s.seed,
                texts=s.samples, max_new_tokens=s.max_new_tokens,
                batch_size=min(512, max(1, rows)),
            )  # fmt: skip
            self.record(**{"texts" if step else "texts_before": found.texts[:_KEPT]})
            names = ("reward", "reward_error", "kl", "kl_error")
            own = {name: function() for name, function in more.items()}
            if s.data == "snippets":
                own |= self.seen_from_outside(reference, found.texts)
            point = {"step": step, **{name: getattr(found, name) for name in names}, **own}
            if step == 0:
                self.untrained = point, found.texts[:_KEPT]
            return point

        self.follow(loop, s.method, measure)
        policy.save_pretrained(self.folder / "model")

    @torch.no_grad()
    def seen_from_outside(
        self, reference: LanguagePolicy, texts: Sequence[tuple[str, str, float]]
    ) -> dict[str, float]:
        """Measure responses by what nobody optimised."""
        prompts, responses, _ = zip(*texts, strict=True)
        untouched = reference.base() if reference.adapted else reference
        total, tokens = 0.0, 0
        for first in range(0, len(texts), 64):
            part = slice(first, first + 64)
            log_probs, mask = untouched.log_probs(prompts[part], responses[part])
            # An end token after the longest response is none of its own.
            log_probs, mask = (t[:, : self.settings.max_new_tokens] for t in (log_probs, mask))
            total, tokens = total + float(log_probs.sum()), tokens + int(mask.sum())
        return {
            "vader": float(self.vader(prompts, responses).mean()),
            "distinct": len(set(responses)) / len(responses),
            "untouched_loss": -total / tokens,
        }


def _function(name: str) -> Judge:
    """Import a judge by module:function, from the working folder too."""
    module, _, attribute = name.partition(":")
    where = "run_sentiment: judge must name a function as module:function"
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        raise ValueError(f"{where}, got {name!r}: {error}") from error
    except AttributeError as error:
        raise ValueError(f"{where}, got {name!r}: {module} has no {attribute}") from error
    if not callable(found):
        raise ValueError(f"{where}, got {name!r}, which is a {type(found).__name__}")
    return found


def _reached(option: str, name: str, load: Callable[[str], Any]) -> Any:
    """Load by name; what cannot be reached is named with the option and the way without it."""
    try:
        return load(name)
    except (OSError, ModuleNotFoundError) as error:
        kind = ModuleNotFoundError if isinstance(error, ModuleNotFoundError) else OSError
        raise kind(
            f"--{option} {name}: {error}\nWithout network and data: "
            f"python -m rlhf_lessons run sentiment --method dpo"
        ) from error
    except ValueError as error:
        if "end token" not in str(error):
            raise
        raise ValueError(
            f"--{option} {name}: {error}. Save it so in a folder (tokenizer.save_pretrained, "
            f"model.save_pretrained), and give that to --{option}"
        ) from error


# --- the methods ----------------------------------------------------------------------------------


def _sft(run: _Experiment) -> None:
    policy, held_out = run.start, run.examples[1][:512]
    loss = lambda: held_out_nll(policy, held_out)  # noqa: E731
    run.train(policy, policy.copy(), run.fine_tuning(policy), held_out_loss=loss)


def _rm(run: _Experiment) -> None:
    model, held_out = RewardModel.from_policy(run.reference), run.held_out_pairs

    def measure(step: int) -> dict[str, float]:
        prompts, chosen, rejected = zip(*held_out, strict=True)
        won, lost = model.score(prompts, chosen), model.score(prompts, rejected)
        loss = float(formulas.bradley_terry_loss(won, lost).mean())
        return {
            "step": step,
            "held_out_loss": loss,
            "held_out_accuracy": preference_accuracy(won, lost),
        }

    run.follow(run.reward_learning(model), "rm", measure)
    model.save_pretrained(run.folder / "model")


def _dpo(run: _Experiment) -> None:
    policy = run.tuned()
    settings = DPOSettings(beta=run.settings.beta, **run.stage("dpo"))
    loop = train_dpo(
        policy, run.pairs, settings, reference=run.reference,
        reference_log_probs=run.reference_log_probs, checkpoint=run.checkpoints,
        max_new_tokens=run.settings.max_new_tokens,
    )  # fmt: skip
    run.train(policy, run.reference, loop)


def _ppo(run: _Experiment) -> None:
    policy, s, values = run.tuned(), run.settings, run.stage("ppo")
    settings = PPOSettings(
        beta=s.beta, cycles=values.pop("steps"), minibatch_size=min(64, s.batch_size),
        final_learning_rate=s.learning_rate / 10, max_new_tokens=s.max_new_tokens, **values,
    )  # fmt: skip
    # Values on the policy's own body pull it about; they get one of their own, unless its weights
    # are frozen and a second one would double the time.
    loop = train_ppo(
        policy, run.prompts, run.reward, settings, reference=run.reference,
        value_head=ValueHead(policy if policy.adapted else run.tuned()),
        checkpoint=run.checkpoints,
    )  # fmt: skip
    run.train(policy, run.reference, loop)


def _bon(run: _Experiment) -> None:
    s, prompts = run.settings, run.measured_prompts
    texts, proxy = run.drawn(prompts, run.reward, s.n, s.seed)
    repeated = np.repeat(prompts, s.n).tolist()
    responses = texts.ravel().tolist()
    gold = proxy  # which is the judge's own where it is optimised itself
    if s.reward != "judge":
        gold = np.asarray(run.judge(repeated, responses), np.float64).reshape(proxy.shape)
    values = sorted({1 << k for k in range(s.n.bit_length())} | {s.n})
    curve = best_of_n_curve(proxy, gold, values)
    # The bound log n − (n − 1)/n is the KL itself where no two scores are equal.
    columns = zip(values, curve.gold.tolist(), curve.gold_error, curve.kl_bound, strict=True)
    points = [
        {"step": n, "reward": r, "reward_error": float(e), "kl": float(kl)}
        for n, r, e, kl in columns
    ]
    if s.data == "snippets":
        vader = run.vader(repeated, responses).reshape(proxy.shape)
        for point, value in zip(points, best_of_n_curve(proxy, vader, values).gold, strict=True):
            point["vader"] = float(value)
    best = [(i, int(proxy[i].argmax())) for i in range(min(_KEPT, len(prompts)))]
    kept = tuple((prompts[i], texts[i, k], round(float(gold[i, k]), 3)) for i, k in best)
    run.record(points=tuple(points), texts=kept)


SENTIMENT_METHODS: dict[str, Callable[[_Experiment], None]] = {
    "sft": _sft, "rm": _rm, "dpo": _dpo, "ppo": _ppo, "bon": _bon,
}  # fmt: skip


def _plot(run: SentimentRun, path: Path) -> None:
    """Draw what was measured over the steps, and a policy's way on the plane of KL and reward."""
    from matplotlib.figure import Figure

    s, steps = run.settings, [point["step"] for point in run.points]
    unit = {"bon": "n", "ppo": "cycles"}.get(s.method, "updates")
    panels = [
        ("step", unit, "held_out_loss", "held-out loss (nats)"),
        ("step", unit, "held_out_accuracy", "share of held-out pairs right"),
        ("step", unit, "reward", "reward of the judge"),
        ("step", unit, "kl", "KL (nats per response)"),
        ("kl", "KL (nats per response)", "reward", "reward of the judge"),
    ]
    panels = [panel for panel in panels if panel[2] in run.points[0]]
    figure = Figure(figsize=(4 * len(panels), 3.4), dpi=120, layout="constrained")
    for axes, (x, x_label, y, y_label) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        xs, ys = ([point[name] for point in run.points] for name in (x, y))
        errors = [point.get(f"{y}_error", 0.0) for point in run.points]
        axes.errorbar(xs, ys, yerr=errors, fmt="o-", color="#0b6ba8", capsize=3, markersize=4)
        axes.plot(xs[-1:], ys[-1:], "D", color="#c2410c", markersize=8)
        end = f"{'best of' if s.method == 'bon' else 'step'} {steps[-1]}: {ys[-1]:.3g}"
        axes.set_title(end, loc="right", fontsize="medium", color="#c2410c")
        if s.method == "bon" and x == "step":
            axes.set_xscale("log", base=2)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(alpha=0.3)
    figure.suptitle(f"{run.name}: {Path(s.policy).name} on {Path(s.data).name}, seed {s.seed}")
    figure.savefig(path)


def _plot_all(runs: Sequence[SentimentRun], path: Path) -> None:
    """Draw where the runs ended, on the plane of KL and reward; beside it what VADER says."""
    from matplotlib.figure import Figure

    names = [("reward", "reward of the judge")]
    if any("vader" in run.points[-1] for run in runs):
        names.append(("vader", "VADER, which nobody optimised"))
    figure = Figure(figsize=(5 * len(names), 4), dpi=120, layout="constrained")
    methods = dict.fromkeys(run.settings.method for run in runs if "kl" in run.points[-1])
    for axes, (y, label) in zip(
        figure.subplots(1, len(names), squeeze=False)[0], names, strict=True
    ):
        for method in methods:
            own = [run for run in runs if run.settings.method == method]
            points = own[0].points if method == "bon" else [run.points[-1] for run in own]
            points = sorted((p for p in points if y in p), key=lambda point: point["kl"])
            xs, ys = ([point[name] for point in points] for name in ("kl", y))
            errors = [point.get(f"{y}_error", 0.0) for point in points]
            axes.errorbar(xs, ys, yerr=errors, fmt="o-", capsize=3, markersize=4, label=method)
        axes.set_xlabel("KL (nats per response)")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    if methods:
        figure.axes[0].legend()
    s = runs[0].settings
    figure.suptitle(f"{Path(s.policy).name} on {Path(s.data).name}, seed {s.seed}")
    figure.savefig(path)
