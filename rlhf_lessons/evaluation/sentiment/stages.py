"""The stages of a run that methods share, and how a method is followed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlhf_lessons.evaluation.best_of_n import best_of_n
from rlhf_lessons.evaluation.frontier import frontier_point
from rlhf_lessons.evaluation.sentiment.record import SentimentRun
from rlhf_lessons.evaluation.sentiment.settings import SentimentSettings, preset_of
from rlhf_lessons.evaluation.sentiment.sources import Judge, Sources
from rlhf_lessons.models import LanguagePolicy, RewardModel
from rlhf_lessons.models.saved_model import KINDS
from rlhf_lessons.training import (
    RewardSettings,
    SupervisedSettings,
    pair_log_probs,
    train_reward_model,
    train_sft,
)
from rlhf_lessons.training.settings import changes
from rlhf_lessons.training.versions import versions
from rlhf_lessons.whole_files import replace_file
from rlhf_lessons.worlds import (
    Preference,
    drop_equal_pairs,
    load_preferences,
    preference_probability,
    save_preferences,
)

__all__ = ["KEPT_TEXTS", "Stages"]

KEPT_TEXTS = 6
"""Texts in a record."""


class Stages(Sources):
    """The stages of a run: each is made when it is needed, or read back from the folder.

    Args:
        settings: of the run.
        folder: where what it makes is kept.
        command: what was typed, for the record.
        progress: whether to show bars.
        home: the folder of what several runs share; None where there is one run.
    """

    def __init__(
        self,
        settings: SentimentSettings,
        folder: Path,
        command: str,
        progress: bool,
        home: Path | None = None,
    ) -> None:
        super().__init__(settings)
        self.folder, self.progress = folder, progress
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

    def record(self, **values: Any) -> None:
        """Change the record, and write it."""
        self.run = dataclasses.replace(self.run, **values)
        text = json.dumps(dataclasses.asdict(self.run), ensure_ascii=False, indent=1)
        replace_file(self.results, text + "\n")

    def read(self) -> None:
        """Read model, texts and judge, so that what is wrong is found before hours of training."""
        _ = self.start, self.examples, self.judge
        if self.run.judge_accuracy is None:
            self.record(judge_accuracy=self.judge_accuracy())

    def take_over(self, other: Stages) -> None:
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

    # -- The stages before the method --------------------------------------------------------------

    def stage(self, name: str, steps: int = 0) -> dict[str, Any]:
        """Settings of a loop: the run's for its method, the preset's for a stage before it."""
        s = self.settings
        own = preset_of(s.data)[name]
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
        """Begin to fine-tune a policy on the texts."""
        settings = SupervisedSettings(**self.stage("sft", steps))
        return train_sft(policy, self.examples[0], settings, checkpoint=self.checkpoints)

    def reward_learning(self, model: RewardModel, steps: int = 0) -> Iterator:
        """Begin to train a reward model on the pairs."""
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
        """The fine-tuned policy, frozen: π_ref."""
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
        """The pairs to train on."""
        return self.labelled(self.prompts[self._held_out :], "pairs.jsonl", 2 * self.settings.seed)

    @cached_property
    def reference_log_probs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Log π_ref of the pairs' responses, the chosen and the rejected ones."""
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
        """Pairs to measure a reward model on, of prompts that are not trained on."""
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
        """Make a progress bar."""
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
            self.record(**{"texts" if step else "texts_before": found.texts[:KEPT_TEXTS]})
            names = ("reward", "reward_error", "kl", "kl_error")
            own = {name: function() for name, function in more.items()}
            if s.data == "snippets":
                own |= self.seen_from_outside(reference, found.texts)
            point = {"step": step, **{name: getattr(found, name) for name in names}, **own}
            if step == 0:
                self.untrained = point, found.texts[:KEPT_TEXTS]
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
