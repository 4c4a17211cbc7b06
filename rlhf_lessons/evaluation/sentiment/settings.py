"""What the sentiment experiment can be asked for, and what it does where nothing is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from rlhf_lessons.training.settings import (
    ABOVE_0,
    FROM_0,
    SUPERVISED,
    Rule,
    check_settings,
    one_of,
    whole,
)

__all__ = ["SENTIMENT_METHODS", "SENTIMENT_PRESETS", "SentimentSettings", "preset_of"]

SENTIMENT_METHODS = ("sft", "rm", "dpo", "ppo", "bon")
"""Fine-tuning, the reward model alone, DPO, PPO and best-of-n; ``methods`` says what each does."""

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


def preset_of(data: str) -> dict[str, dict[str, Any]]:
    """Give what holds for a data set where nothing is given."""
    return SENTIMENT_PRESETS["texts" if data not in SENTIMENT_PRESETS else data]


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
        preset = preset_of(data)
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
