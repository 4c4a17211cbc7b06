"""The command ``scale``: its words, its options, its help."""

from __future__ import annotations

import dataclasses

import pytest

from rlhf_lessons.training import (
    DPOSettings,
    GRPOSettings,
    PPOSettings,
    RewardSettings,
    SupervisedSettings,
    scale,
    train_dpo_with_trl,
    train_grpo_with_trl,
    train_reward_model_with_trl,
    train_sft_with_trl,
    trl_command,
)
from rlhf_lessons.training.scale import command, dpo, grpo, launched, reward_model, sft

# No field at its default that could have another value.
SETTINGS = {
    "sft": SupervisedSettings(
        5, 4, 5e-3, 0.4, 0.2, 0.5, evaluate_every=2, save_every=3, accumulate=2, bf16=True, seed=3
    ),
    "reward": RewardSettings(
        5, 4, 5e-3, 0.4, 0.2, 0.5, freeze_embeddings=True, evaluate_every=2, save_every=3,
        accumulate=2, bf16=True, length_groups=2, truncate=True, drop_equal=True, seed=3,
    ),
    "dpo": DPOSettings(5, 4, 0.3, 5e-3, 0.4, 0.2, 0.5, 2, 3, 2, True, 3),
    "grpo": GRPOSettings(
        3, 4, 16, 0, 6, 2, 8, 2e-2, 5e-3, 0.1, 0.1, 0.15, 0.5, 2, 2, True, 3
    ),
}  # fmt: skip
FUNCTIONS = {
    "sft": (train_sft_with_trl, sft, ("policy", "examples")),
    "reward": (train_reward_model_with_trl, reward_model, ("reward_model", "preferences")),
    "dpo": (train_dpo_with_trl, dpo, ("policy", "pairs")),
    "grpo": (train_grpo_with_trl, grpo, ("policy", "prompts", "judge")),
}


@pytest.mark.parametrize("method", SETTINGS)
def test_the_command_reads_back_as_the_settings(method):
    how = {"judge": "a:b"} if method == "grpo" else {"validation": "held.jsonl"}
    words = trl_command("model", "data", "out", SETTINGS[method], **how, checkpoint="run")
    assert words[:5] == ["accelerate", "launch", "--multi_gpu", "--num_processes", "2"]
    assert "--cpu" not in words
    given = command._parser().parse_args(words[words.index("scale") + 1 :])
    assert given.method == method and str(given.output) == "out" and str(given.checkpoint) == "run"
    for field in dataclasses.fields(SETTINGS[method]):
        assert getattr(given, field.name) == getattr(SETTINGS[method], field.name), field.name
    for name, value in how.items():
        assert str(getattr(given, name)) == value


@pytest.mark.parametrize("method", SETTINGS)
def test_the_function_of_a_method_hands_over_all_that_it_takes(method, monkeypatch):
    """What would be started is the command of the same files and settings."""
    function, room, names = FUNCTIONS[method]
    seen = {}

    def recorded(where, kind, settings, processes, cpu, **paths):
        seen.update(where=where, words=launched.command_of(kind, settings, processes, cpu,
                                                                 **paths))  # fmt: skip
        return iter([])

    monkeypatch.setattr(room, "launched", recorded)
    others = {"validation": "held"} if method != "grpo" else {}
    others |= {"reference": "ref"} if method in ("dpo", "grpo") else {}
    function(*names, "out", SETTINGS[method], processes=1, checkpoint="run", cpu=True, **others)
    judge = {"judge": "judge"} if method == "grpo" else {}
    expected = trl_command(
        *names[:2], "out", SETTINGS[method], processes=1, checkpoint="run", cpu=True,
        **judge, **others,
    )  # fmt: skip
    assert seen["where"] == function.__name__
    assert seen["words"] == expected


@pytest.mark.parametrize(("processes", "accumulate"), [(3, 1), (2, 4), (1, 3)])
@pytest.mark.parametrize("kind", [DPOSettings, RewardSettings])
def test_a_batch_that_cannot_be_shared_out_is_refused(kind, processes, accumulate):
    settings = kind(batch_size=4, accumulate=accumulate)
    with pytest.raises(ValueError, match=f"batch_size must be a multiple of .*{processes} × "):
        trl_command("model", "data", "out", settings, processes=processes)


@pytest.mark.parametrize("processes", [0, 1.5, True])
@pytest.mark.parametrize("method", SETTINGS)
def test_processes_are_counted(method, processes):
    with pytest.raises(ValueError, match="processes must be an int ≥ 1"):
        scale.trl_settings(SETTINGS[method], processes)


def test_files_that_a_method_does_not_take_are_refused():
    given = ("model", "data", "out")
    with pytest.raises(ValueError, match="judge must be given for grpo, got None"):
        trl_command(*given, SETTINGS["grpo"])
    with pytest.raises(ValueError, match="judge must be left out for dpo, got a:b"):
        trl_command(*given, SETTINGS["dpo"], judge="a:b")
    with pytest.raises(ValueError, match="reference must be left out for sft"):
        trl_command(*given, SETTINGS["sft"], reference="ref")
    with pytest.raises(ValueError, match="validation must be left out for grpo"):
        trl_command(*given, SETTINGS["grpo"], judge="a:b", validation="held")
    with pytest.raises(TypeError, match="settings must be one of .*, got PPOSettings"):
        trl_command(*given, PPOSettings())


@pytest.mark.parametrize("method", SETTINGS)
def test_help_explains_every_setting(method, capsys):
    with pytest.raises(SystemExit):
        scale.main([method, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(SETTINGS[method]):
        assert f"--{field.name.replace('_', '-')}" in shown
    if method == "dpo":
        told = "KL strength β above 0, in reward per nat; large stays near the reference (0.1)"
        assert told in shown


def test_help_names_the_methods(capsys):
    with pytest.raises(SystemExit):
        scale.main(["--help"])
    shown = capsys.readouterr().out
    assert all(method in shown for method in SETTINGS)
