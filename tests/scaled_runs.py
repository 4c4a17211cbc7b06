"""What the tests of ``scale`` share: a tiny policy, its files, and runs in this process."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_lessons.models import LanguagePolicy, RewardModel, small_gpt2, word_tokenizer
from rlhf_lessons.training import scale
from rlhf_lessons.worlds import save_examples, save_preferences

needs_trl = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="needs TRL")

WORDS = ["a", "b", "c", "d", "."]
EXAMPLES = [  # the fourth is a whole text
    ("a", "b ."),
    ("c a a", "d"),
    ("b", "a b . c"),
    ("", "c . . ."),
    ("d", "d d ."),
    ("a c", "a ."),
    ("c", "c b a . d"),
]
PAIRS = [
    ("a", "b .", "c c c ."),
    ("c a a", "d", "b b ."),
    ("b", "a b .", "d ."),
    ("b b", "c . . .", "a"),
    ("d", "d d .", "c b"),
    ("a c", "a .", "b b b b ."),
    ("c", "c b a .", "d a"),
]
PROMPTS = ["a", "c a a", "b", "b b", "d . a", "a c"]  # of one to three tokens
JUDGE = """
def score(prompts, responses):
    return [text.count("b") - 0.5 * text.count(".") for text in responses]
"""


def tiny(seed: int = 0, words: list[str] = WORDS) -> LanguagePolicy:
    """Make a small policy with clear preferences, so that a wrong token shows."""
    tokenizer = word_tokenizer(words)
    model = small_gpt2(len(tokenizer), width=16, layers=1, heads=2, context=12, seed=seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0)
    return LanguagePolicy(model, tokenizer)


def tiny_reward_model(policy: LanguagePolicy | None = None) -> RewardModel:
    """Make a reward model that begins with a preference."""
    model = RewardModel.from_policy(tiny() if policy is None else policy)
    with torch.no_grad():
        weight = model.model.score.weight
        weight.copy_(torch.linspace(-0.2, 0.2, weight.numel()).view_as(weight))
    return model


def write_files(folder: Path) -> None:
    """Write models, data and a judge that the tests hand over."""
    tiny(0).save_pretrained(folder / "policy")
    tiny(1).save_pretrained(folder / "reference")
    tiny_reward_model().save_pretrained(folder / "reward_model")
    save_examples(folder / "examples.jsonl", EXAMPLES)
    save_preferences(folder / "pairs.jsonl", PAIRS)
    save_preferences(folder / "validation.jsonl", PAIRS[:3])
    rows = [json.dumps({"prompt": prompt}) for prompt in PROMPTS]
    (folder / "prompts.jsonl").write_text("\n".join(rows))
    (folder / "letters_judge.py").write_text(JUDGE)


def words(model: Any, data: Any, output: Any, settings: Any, **how: Any) -> list[str]:
    """Give the words behind ``scale`` of a run in one process."""
    command = scale.trl_command(model, data, output, settings, processes=1, cpu=True, **how)
    return command[command.index("scale") + 1 :]


def run_here(capsys: Any, *given: Any, **how: Any) -> list[dict]:
    """Run in one process, this one, and give the records that it prints."""
    capsys.readouterr()
    status = scale.main(words(*given, **how))
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return [json.loads(line) for line in printed.out.splitlines() if line.startswith('{"step"')]


def assert_same(ours: list, theirs: list[dict], allowed: dict[str, float]) -> None:
    """Compare records of our loop with printed ones, each number within what is allowed it."""
    assert [record.step for record in ours] == [record["step"] for record in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        for name, tolerance in allowed.items():
            where = f"{name} of step {mine.step}"
            assert getattr(mine, name) == pytest.approx(other[name], abs=tolerance), where


def weights(model: LanguagePolicy | RewardModel) -> torch.Tensor:
    """Give all weights in one row."""
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def assert_same_weights(one: Any, other: Any, start: Any) -> None:
    """Apart by less than a hundredth of the way that both went from ``start``.

    Single weights may be further apart: where a gradient is next to nothing, Adam still moves by
    its sign, which rounding decides.
    """
    gap, way = weights(one) - weights(other), weights(one) - weights(start)
    assert float(way.norm()) > 0.1
    assert float(gap.norm() / way.norm()) < 1e-2
