"""Two processes give the losses of one, in each method: one launch, as starting takes longest."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from scaled_runs import (
    EXAMPLES,
    PAIRS,
    PROMPTS,
    assert_same,
    assert_same_weights,
    needs_trl,
    tiny,
    tiny_reward_model,
    write_files,
)

from rlhf_lessons.models import LanguagePolicy, RewardModel
from rlhf_lessons.training import (
    DPOSettings,
    GRPOSettings,
    RewardSettings,
    SupervisedSettings,
    scale,
    train_dpo,
    train_grpo,
    train_reward_model,
    train_sft,
)
from rlhf_lessons.training.rollouts import judge_named

HOW = {"steps": 4, "batch_size": 4, "learning_rate": 5e-3, "warmup": 0.4, "seed": 3}
SETTINGS = {
    # The batch of three is read in four parts, of which one process has an empty one.
    "sft": SupervisedSettings(**HOW, accumulate=2, evaluate_every=2),
    "reward": RewardSettings(**HOW),
    "dpo": DPOSettings(**HOW, beta=0.3, accumulate=2),
    # Four updates a cycle; each holds responses that the other process drew.
    "grpo": GRPOSettings(
        cycles=2, group_size=4, batch_size=16, max_new_tokens=6, epochs=2, minibatch_size=8,
        learning_rate=2e-2, beta=0.1, epsilon_high=0.25, accumulate=2, seed=3,
    ),
}  # fmt: skip
PICKY = """
import os
def score(prompts, texts):
    if os.environ["RANK"] == "1":
        raise ValueError("of the second")
    return [len(text) for text in texts]
"""
ALL = """
import json, sys
from rlhf_lessons.training import scale
*good, picky = json.load(open(sys.argv[1]))
for words in good:
    assert scale.main(words) == 0
# In one piece: the other process writes, too, and print writes the end of the line by itself.
sys.stdout.write(json.dumps({"status": scale.main(picky)}) + "\\n")
"""
MEASURED = {
    "sft": {"loss": 1e-5, "gradient_norm": 1e-5, "learning_rate": 1e-9, "tokens": 0},
    "reward": {"loss": 1e-5, "margin": 1e-5, "accuracy": 1e-9, "gradient_norm": 1e-5},
    "dpo": {"loss": 1e-5, "margin": 1e-5, "chosen_log_prob": 1e-4, "gradient_norm": 1e-5},
    "grpo": {
        "reward": 1e-6, "policy_loss": 1e-5, "kl": 1e-4, "entropy": 1e-4, "clip_fraction": 1e-5,
        "update_kl": 1e-4, "gradient_norm": 1e-4, "response_length": 1e-6, "silent_groups": 1e-6,
    },
}  # fmt: skip


def ours(method: str, judge) -> tuple[list, LanguagePolicy | RewardModel]:
    """Train with our loop, in this process."""
    model = tiny_reward_model() if method == "reward" else tiny(0)
    settings = SETTINGS[method]
    loops = {
        "sft": lambda: train_sft(model, EXAMPLES, settings, validation=EXAMPLES[:5]),
        "reward": lambda: train_reward_model(model, PAIRS, settings),
        "dpo": lambda: train_dpo(model, PAIRS, settings, reference=tiny(1)),
        "grpo": lambda: train_grpo(model, PROMPTS, judge, settings, reference=tiny(1)),
    }
    return list(loops[method]()), model


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """The folder of a run, and what its first process printed of each method."""
    folder = tmp_path_factory.mktemp("launched")
    write_files(folder)
    scale_files = {
        "sft": ("policy", "examples.jsonl", {"validation": folder / "held_out.jsonl"}),
        "reward": ("reward_model", "pairs.jsonl", {}),
        "dpo": ("policy", "pairs.jsonl", {"reference": folder / "reference"}),
        "grpo": (
            "policy",
            "prompts.jsonl",
            {"judge": "letters_judge:score", "reference": folder / "reference"},
        ),
    }
    lines = (folder / "examples.jsonl").read_text().splitlines(keepends=True)
    (folder / "held_out.jsonl").write_text("".join(lines[:5]))
    commands = {
        method: scale.trl_command(
            folder / model, folder / data, folder / f"out-{method}", SETTINGS[method],
            processes=2, cpu=True, **how,
        )
        for method, (model, data, how) in scale_files.items()
    }  # fmt: skip
    picky = [word.replace("letters", "picky") for word in commands["grpo"]]
    picky = [word.replace("out-grpo", "out-picky") for word in picky]
    behind = [words[words.index("scale") + 1 :] for words in (*commands.values(), picky)]
    (folder / "all.py").write_text(ALL)
    (folder / "picky_judge.py").write_text(PICKY)
    (folder / "words.json").write_text(json.dumps(behind))
    start = commands["dpo"][2 : commands["dpo"].index("-m")]
    run = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *start, "all.py", "words.json"],
        cwd=folder, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    printed = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    said: dict[str, Any] = {"errors": run.stderr}
    names = iter([*SETTINGS, "picky"])
    for line in printed:
        if "status" in line:
            said.update(line)
        elif "processes" in line:
            assert line["processes"] == 2
            records = said.setdefault(next(names), [])
        elif "step" in line:
            records.append(line)
    return folder, said


@needs_trl
@pytest.mark.parametrize("method", list(SETTINGS))
def test_two_processes_give_the_losses_of_one(method, launched, monkeypatch):
    folder, said = launched
    monkeypatch.chdir(folder)
    records, model = ours(method, judge_named("test", "letters_judge:score"))
    assert_same(records, said[method], MEASURED[method])
    kind = RewardModel if method == "reward" else LanguagePolicy
    start = tiny_reward_model() if method == "reward" else tiny(0)
    assert_same_weights(kind.from_pretrained(folder / f"out-{method}"), model, start)
    if method == "sft":
        for mine, other in zip(records, said[method], strict=True):
            if mine.step % 2 == 0:
                assert mine.validation_loss == pytest.approx(other["validation_loss"], abs=1e-5)


@needs_trl
def test_a_judge_that_fails_in_one_process_is_named_by_the_first(launched):
    folder, said = launched
    assert said["status"] == 2
    message = "scale: the judge failed in process 1: ValueError: of the second"
    assert message in said["errors"]
    assert not (folder / "out-picky").exists()
