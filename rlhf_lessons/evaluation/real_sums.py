"""GRPO on a real model: sums asked in words, answered in words, marked by a checker (lesson 9).

    python -m rlhf_lessons run sums --seed 0      two cores, under a quarter of an hour

SmolLM2-135M-Instruct, which ``python -m rlhf_lessons real get`` fetches, is asked "What is 7 + 9?"
by its chat template. Adapters learn by ``train_grpo`` from what ``LastNumberChecker`` marks.
Before and after, it is measured on sums that were not trained on in either order of their numbers,
and on harder ones, of larger numbers:

    tries        of how many tries at each sum are right: pass@1 to pass@k
    likeliest    the share that is right where each token is the likeliest one: what a lower
                 temperature gives without any training
    begun        the probability of the right sum where the answer is begun for it, "7 + 9 =",
                 and the share of sums that are the likeliest there: the arithmetic, without what
                 has to be said before it
    finished     the share of tries that come to an end, and how many of those are right: the form
                 of an answer, and what it is worth

The folder of a run holds ``results.json``, the adapters in ``model/`` and, until it is finished,
``checkpoints/``; the same command goes on where it was stopped. What comes with the course lies in
``real_sums_runs`` beside this module, without the weights.

Left out on purpose: several kinds of tasks at once, and a search over settings.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from rlhf_lessons.evaluation.language import sequence_kl
from rlhf_lessons.evaluation.sums_sweep import pass_at_of_counts
from rlhf_lessons.evaluation.sweeps import finished_runs
from rlhf_lessons.models import LanguagePolicy, list_checkpoints, load_policy
from rlhf_lessons.models.checkpoints import FETCHED_POLICY
from rlhf_lessons.training import GRPOSettings, train_grpo
from rlhf_lessons.training.settings import ABOVE_0, FROM_0, changes, check_settings, whole
from rlhf_lessons.training.versions import versions
from rlhf_lessons.whole_files import replace_file
from rlhf_lessons.worlds import LastNumberChecker, ask_sum, right_sum, sample_sums
from rlhf_lessons.worlds.dialogues import write_turns

__all__ = [
    "REAL_SUMS_FOLDER",
    "MeasuredSums",
    "RealSumsRun",
    "RealSumsSettings",
    "load_real_sums",
    "run_real_sums",
]

REAL_SUMS_FOLDER = Path(__file__).with_name("real_sums_runs")
"""Where the runs lie that come with the course, as ``seed<s>/results.json``."""

SHOWN = 8
_ROWS = 64  # responses side by side


@dataclass(frozen=True)
class RealSumsSettings:
    """What a run depends on.

    Attributes:
        policy: the chat model: smollm2, which is fetched, or folder or hub name of another.
        terms: numbers to add.
        largest: each is from 1 to this; terms · largest is 99 at most.
        harder_terms: numbers to add in the harder sums, which are measured alone.
        harder_largest: each of those is from 1 to this.
        tasks: sums to train on.
        measured: held-out sums, and as many harder ones, all different.
        tries: responses to each of them.
        max_new_tokens: most tokens of a response, its end token included.
        lora: rank of the adapters.
        cycles: rollouts, with one update for each.
        group_size: responses to each sum of a rollout.
        batch_size: responses of a rollout, a multiple of group_size.
        accumulate: parts that an update is computed in: less memory, the same numbers.
        learning_rate: step size of the first cycle.
        final_learning_rate: step size of the last one; in a line between the two.
        beta: price of a nat of KL to the untrained model; 0 has none.
        save_every: cycles between two checkpoints.
        seed: of the sums to train on, the adapters, training and measurement.
    """

    policy: str = FETCHED_POLICY
    terms: int = 2
    largest: int = 12
    harder_terms: int = 2
    harder_largest: int = 49
    tasks: int = 400
    measured: int = 24
    tries: int = 16
    max_new_tokens: int = 24
    lora: int = 16
    cycles: int = 16
    group_size: int = 8
    batch_size: int = 64
    accumulate: int = 2
    learning_rate: float = 5e-4
    final_learning_rate: float = 1e-4
    beta: float = 0.0
    save_every: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(
            self,
            terms=whole(2), largest=whole(2), harder_terms=whole(2), harder_largest=whole(2),
            tasks=whole(1), measured=whole(2), tries=whole(1), max_new_tokens=whole(1),
            lora=whole(1), cycles=whole(1), group_size=whole(2), batch_size=whole(2),
            accumulate=whole(1), learning_rate=ABOVE_0, final_learning_rate=FROM_0, beta=FROM_0,
            save_every=whole(1), seed=whole(0),
        )  # fmt: skip
        _ = self.grpo, self.measured_tasks("held_out"), self.measured_tasks("harder")

    @property
    def grpo(self) -> GRPOSettings:
        """What ``train_grpo`` is told."""
        return GRPOSettings(
            cycles=self.cycles, group_size=self.group_size, batch_size=self.batch_size,
            minibatch_size=self.batch_size, max_new_tokens=self.max_new_tokens, beta=self.beta,
            learning_rate=self.learning_rate, final_learning_rate=self.final_learning_rate,
            accumulate=self.accumulate, save_every=self.save_every, seed=self.seed,
        )  # fmt: skip

    def measured_tasks(self, name: str) -> list[str]:
        """Draw the sums to measure on, the same for every seed.

        Args:
            name: ``"held_out"`` or ``"harder"``.

        Returns:
            As many different tasks of ``sample_sums`` as are measured.

        Raises:
            ValueError: there are not so many.
        """
        harder = name == "harder"
        drawn = sample_sums(
            20 * self.measured, 1,
            terms=self.harder_terms if harder else self.terms,
            largest=self.harder_largest if harder else self.largest, held_out=True,
        )  # fmt: skip
        different = list(dict.fromkeys(drawn))[: self.measured]
        if len(different) < self.measured:
            raise ValueError(
                f"RealSumsSettings: measured must be at most the number of different held-out "
                f"sums, some {len(different)}, got {self.measured}"
            )
        return different

    def training_tasks(self) -> list[str]:
        """Draw the sums to train on: none that is measured, in any order of its numbers."""
        kinds = ("held_out", "harder")
        measured = {_numbers(task) for kind in kinds for task in self.measured_tasks(kind)}
        # A fifth of all sums is held out, so more than enough of the others are left.
        drawn = sample_sums(2 * self.tasks, 10 + self.seed, terms=self.terms, largest=self.largest)
        return [task for task in drawn if _numbers(task) not in measured][: self.tasks]


@dataclass(frozen=True)
class MeasuredSums:
    """What a policy does with sums of one kind.

    Attributes:
        right: for each sum, how many of the tries at it are right.
        tries: responses to each.
        likeliest: share right where each token is the likeliest.
        begun: for each sum, the probability that it comes next where the answer is begun for the
            model, "7 + 9 =".
        begun_likeliest: for each, whether every digit of it is the likeliest token there.
        finished: share of the tries that end by themselves.
        right_finished: share right among those; 0 where there are none.
        length: mean tokens of a try, its end token included.
        shown: (question, answer) of the first try at the first few sums.
    """

    right: tuple[int, ...]
    tries: int
    likeliest: float
    begun: tuple[float, ...]
    begun_likeliest: tuple[bool, ...]
    finished: float
    right_finished: float
    length: float
    shown: tuple[tuple[str, str], ...]

    def pass_at(self, k: int) -> float:
        """Estimate pass@k from the tries, without bias.

        Args:
            k: number of tries, from 1 to those that were made.

        Returns:
            The mean over the sums.

        Raises:
            ValueError: k is out of its range.
        """
        return pass_at_of_counts(self.right, self.tries, k)


@dataclass(frozen=True)
class RealSumsRun:
    """What came out, and how: the content of ``results.json``.

    Attributes:
        settings: of the run.
        versions: of Python and the libraries.
        command: what was typed.
        finished: whether the run came to its end.
        seconds: by the clock, of all that was done, stops left out.
        points: of each cycle ``step``, ``reward`` (the share of its rollout that is right),
            ``silent_groups``, ``response_length``, ``entropy`` and ``gradient_norm``.
        before: ``"held_out"`` and ``"harder"`` -> what the untrained model does.
        after: the same of the trained one.
        kl: how far it went on held-out sums, in nats a response.
    """

    settings: RealSumsSettings
    versions: dict[str, str]
    command: str = ""
    finished: bool = False
    seconds: float = 0.0
    points: tuple[dict[str, float], ...] = ()
    before: dict[str, MeasuredSums] = dataclasses.field(default_factory=dict)
    after: dict[str, MeasuredSums] = dataclasses.field(default_factory=dict)
    kl: float | None = None

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> RealSumsRun:
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
            values["settings"] = RealSumsSettings(**values["settings"])
            values["points"] = tuple(values["points"])
            for when in ("before", "after"):
                values[when] = {
                    name: MeasuredSums(
                        **{
                            **found,
                            **{
                                name: tuple(found[name])
                                for name in ("right", "begun", "begun_likeliest")
                            },
                            "shown": tuple(map(tuple, found["shown"])),
                        }
                    )
                    for name, found in values[when].items()
                }
            return cls(**values)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"RealSumsRun: {path} is no record of a run: {error}. Give another folder"
            ) from error

    def table(self) -> str:
        """Give what came out as lines of text."""
        ks = [k for k in (1, 2, 4, 8, 16, 32) if k <= self.settings.tries]
        lines = [
            f"{self.settings.policy}, GRPO on sums in words, seed {self.settings.seed}: "
            f"{self.seconds / 60:.1f} min"
        ]
        for name in self.before:
            lines.append(f"{name.replace('_', '-')} sums")
            for when in ("before", "after"):
                found = getattr(self, when)[name]
                passed = " ".join(f"{found.pass_at(k):.2f}" for k in ks)
                lines.append(
                    f"  {when:<7} pass@{','.join(map(str, ks))} {passed}   likeliest "
                    f"{found.likeliest:.2f}   begun {mean(found.begun):.2f}, "
                    f"likeliest {mean(found.begun_likeliest):.2f}   finished "
                    f"{found.finished:.2f}, right {found.right_finished:.2f} of them"
                )
        lines.append(f"KL {self.kl:.2f} nats a response")
        lines += [f"  {asked} {answer}" for asked, answer in self.after["held_out"].shown]
        return "\n".join(lines)


def load_real_sums(folder: str | os.PathLike[str] | None = None) -> list[RealSumsRun]:
    """Read the runs that came to their end, from this folder or from one of your own.

    Args:
        folder: what ``run sums --out`` wrote, or a folder of such folders; None takes what comes
            with the course.

    Returns:
        The runs, by seed.

    Raises:
        FileNotFoundError: there are none.
        ValueError: a file is no record of a run; the message names it.
    """
    folder = REAL_SUMS_FOLDER if folder is None else Path(folder).expanduser()
    command = "python -m rlhf_lessons run sums"
    runs = finished_runs("load_real_sums", folder, RealSumsRun.read, command)
    return sorted(runs, key=lambda run: run.settings.seed)


def run_real_sums(
    settings: RealSumsSettings,
    folder: str | os.PathLike[str],
    *,
    command: str = "",
    progress: bool = False,
) -> RealSumsRun:
    """Measure, train, and measure again; or go on where that was stopped.

    Args:
        settings: what to do.
        folder: where everything is kept.
        command: what was typed, for the record.
        progress: whether to show bars.

    Returns:
        What came out.

    Raises:
        CheckpointError: the model was not fetched, or is damaged.
        ImportError: peft is not installed.
        OSError: the folder cannot be written, or the model cannot be reached.
        ValueError: the folder holds a run with other settings, the model has no chat template, or
            it answers no sum right now and then.
        FloatingPointError: a loss is NaN or infinite.
    """
    run = _Run(settings, Path(folder).expanduser(), command, progress)
    if not run.record.finished:
        run.do()
    return run.record


class _Run:
    """A run and its folder."""

    def __init__(
        self, settings: RealSumsSettings, folder: Path, command: str, progress: bool
    ) -> None:
        self.settings, self.folder, self.progress = settings, folder, progress
        self.path = folder / "results.json"
        self.record = RealSumsRun(settings, versions(), command)
        if self.path.exists():
            then = RealSumsRun.read(self.path)
            differ = changes(*map(dataclasses.asdict, (then.settings, settings)))
            if differ:
                raise ValueError(
                    f"run_real_sums: {folder} holds a run with other settings: "
                    f"{', '.join(differ)}. Give the first ones, or another --out"
                )
            self.record = then
        self.clock = time.perf_counter()

    def keep(self, **values: Any) -> None:
        """Change the record, and write it."""
        now = time.perf_counter()
        values["seconds"] = round(self.record.seconds + now - self.clock, 1)
        self.record, self.clock = dataclasses.replace(self.record, **values), now
        text = json.dumps(dataclasses.asdict(self.record), ensure_ascii=False, allow_nan=False)
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_file(self.path, text + "\n")

    def do(self) -> None:
        s = self.settings
        base = _chat_model(s.policy)
        policy = base.with_adapter(s.lora, seed=s.seed)
        if not self.record.before:
            self.keep(before=self.measured(base, "before"))

        checkpoints = self.folder / "checkpoints"
        loop = train_grpo(
            policy, _asked(policy, s.training_tasks()), LastNumberChecker(), s.grpo,
            reference=policy.base() if s.beta > 0 else None, checkpoint=checkpoints,
        )  # fmt: skip
        with self.bar("grpo", s.cycles, "cycle") as bar:
            for step in loop:
                names = ("reward", "silent_groups", "response_length", "entropy", "gradient_norm")
                # Where no group has a signal there is no gradient, and JSON has no NaN.
                point = {
                    name: round(getattr(step, name), 4)
                    for name in names
                    if step.updates or name != "gradient_norm"
                }
                # What was done after the last checkpoint is done again.
                done = [row for row in self.record.points if row["step"] < step.step]
                self.keep(points=(*done, {"step": step.step, **point}))
                bar.update(step.step - bar.n)
                bar.set_postfix(right=f"{step.reward:.0%}")
        policy.save_pretrained(self.folder / "model")
        after = self.measured(policy, "after")
        kl = sequence_kl(
            policy, base, _asked(policy, s.measured_tasks("held_out")), s.max_new_tokens,
            torch.Generator(policy.device).manual_seed(s.seed), batch_size=_ROWS // 2,
        )  # fmt: skip
        self.keep(after=after, kl=round(kl.value, 4), finished=True)
        shutil.rmtree(checkpoints, ignore_errors=True)

    def measured(self, policy: LanguagePolicy, when: str) -> dict[str, MeasuredSums]:
        s, found = self.settings, {}
        for name in ("held_out", "harder"):
            tasks = s.measured_tasks(name)
            with self.bar(f"{name.replace('_', '-')} {when}", s.measured * s.tries, "try") as bar:
                found[name] = _measure(policy, tasks, s, bar)
        return found

    def bar(self, what: str, total: int, unit: str) -> Any:
        """Make a progress bar."""
        from tqdm import tqdm

        return tqdm(total=total, desc=what, unit=unit, disable=not self.progress)


def _numbers(task: str) -> tuple[str, ...]:
    """Give the words of a sum in an order that does not depend on the order of its numbers."""
    return tuple(sorted(task.split()))


def _chat_model(name: str) -> LanguagePolicy:
    shipped = {FETCHED_POLICY, *(checkpoint.name for checkpoint in list_checkpoints())}
    policy = load_policy(name) if name in shipped else LanguagePolicy.from_pretrained(name)
    if getattr(policy.tokenizer, "chat_template", None) is None:
        raise ValueError(
            f"run_real_sums: policy must be a chat model, whose tokenizer has a chat template, got "
            f"{name}; smollm2 is one"
        )
    return policy


def _asked(policy: LanguagePolicy, tasks: Sequence[str]) -> list[str]:
    """Ask for each sum in words, as the chat template writes it."""
    # Empty: the model's own system message is longer than question and answer, and would be read
    # anew with each response.
    silent = {"role": "system", "content": ""}
    return [
        write_turns(policy.tokenizer, [silent, {"role": "user", "content": ask_sum(task)}])[0]
        for task in tasks
    ]


def _measure(
    policy: LanguagePolicy, tasks: Sequence[str], s: RealSumsSettings, bar: Any
) -> MeasuredSums:
    asked, mark = _asked(policy, tasks), LastNumberChecker()
    generator = torch.Generator(policy.device).manual_seed(s.seed)
    repeated = [prompt for prompt in asked for _ in range(s.tries)]
    responses, finished, tokens = [], [], 0
    for at in range(0, len(repeated), _ROWS):
        rollout = policy.sample(repeated[at : at + _ROWS], s.max_new_tokens, generator=generator)
        responses += rollout.responses
        finished += rollout.finished.tolist()
        tokens += int(rollout.response_mask.sum())
        bar.update(len(rollout.responses))
    marks, count = mark(repeated, responses), len(responses)
    begun, begun_likeliest = _begun(policy, asked, tasks)
    # So cold that the likeliest token is the only one.
    likeliest = policy.sample(asked, s.max_new_tokens, temperature=1e-4).responses
    return MeasuredSums(
        right=tuple(map(int, marks.reshape(-1, s.tries).sum(1))),
        tries=s.tries,
        likeliest=round(float(mark(asked, likeliest).mean()), 4),
        begun=tuple(round(probability, 4) for probability in begun.tolist()),
        begun_likeliest=tuple(begun_likeliest.tolist()),
        finished=round(sum(finished) / count, 4),
        right_finished=round(float(marks @ finished) / max(1, sum(finished)), 4),
        length=round(tokens / count, 3),
        shown=tuple(
            (ask_sum(task), text) for task, text in zip(tasks, responses[:: s.tries], strict=True)
        )[:SHOWN],
    )


@torch.no_grad()
def _begun(
    policy: LanguagePolicy, asked: Sequence[str], tasks: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Say of answers begun as "7 + 9 =" how probable the right sum is, and whether likeliest.

    Returns:
        (B,) the probability that its digits come next, and (B,) whether each is the likeliest token
        after those before it.
    """
    begun = [prompt + task for prompt, task in zip(asked, tasks, strict=True)]
    batch = policy.encode(begun, [f" {right_sum(task)}" for task in tasks], end=False)
    tokens, padding = batch.response_tokens, ~batch.response_mask
    logits = policy.logits_of(batch)
    log_probs = logits.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)
    likeliest = (logits.argmax(-1) == tokens) | padding
    return log_probs.masked_fill(padding, 0.0).sum(1).exp(), likeliest.all(1)
