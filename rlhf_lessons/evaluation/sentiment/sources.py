"""What the experiment reads: the model it starts from, texts, and the judge."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch

from rlhf_lessons.evaluation.sentiment.settings import SentimentSettings
from rlhf_lessons.models import (
    LanguagePolicy,
    SequenceClassifierJudge,
    list_checkpoints,
    load_people_judge,
    load_policy,
)
from rlhf_lessons.real_parts import PARTS
from rlhf_lessons.training.rollouts import Judge, judge_named
from rlhf_lessons.worlds import (
    LabelledText,
    VaderJudge,
    load_snippets,
    load_texts,
    openings_of,
    reviews,
)

__all__ = ["Judge", "Sources"]


class Sources:
    """What a run reads; each is read when it is needed, once.

    Args:
        settings: of the run.
    """

    def __init__(self, settings: SentimentSettings) -> None:
        self.settings = settings

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
        """The policy that the run was given."""
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
        """Those to train on."""
        return [prompt for prompt, _ in self.examples[0][: self.settings.prompts]]

    @property
    def measured_prompts(self) -> list[str]:
        """As many as there are samples, those to measure on again and again."""
        return [prompt for prompt, _ in islice(cycle(self.examples[1]), self.settings.samples)]

    @cached_property
    def judge(self) -> Judge:
        """What scores a text."""
        s = self.settings
        if s.judge == "gold":
            return reviews.gold_reward
        if s.judge == "people":
            return load_people_judge().to(s.device)
        if re.fullmatch(r"[\w.]+:[\w.]+", s.judge):
            return judge_named("run_sentiment", s.judge)
        return self._classifier()

    def judge_accuracy(self) -> float | None:
        """Give the share of labelled texts to which the judge's sign gives their label."""
        if not self.settings.label_column or self.settings.judge == "gold":
            return None
        rows = self.texts[1][:512]
        scores = np.asarray(self.judge([""] * len(rows), [row.text for row in rows]))
        agreed = [a == row.label for a, row in zip((scores > 0).tolist(), rows, strict=True)]
        return sum(agreed) / len(agreed)

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
        """A judge that nobody optimises."""
        return VaderJudge()


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
