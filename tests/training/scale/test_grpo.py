"""GRPO handed to TRL gives the numbers of ``train_grpo``, in one process: draws and losses."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from model_families import FAMILIES, save_family
from scaled_runs import (
    PROMPTS,
    assert_same,
    assert_same_weights,
    needs_trl,
    run_here,
    tiny,
    tiny_reward_model,
    words,
    write_files,
)

from rlhf_lessons.models import LanguagePolicy
from rlhf_lessons.training import GRPOSettings, scale, train_grpo
from rlhf_lessons.training.rollouts import judge_named

pytestmark = [
    needs_trl,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:You are using"),
]

# No field at its default. Four updates a cycle, from ratios far from 1.
SETTINGS = GRPOSettings(
    cycles=3,
    group_size=4,
    batch_size=16,
    max_new_tokens=6,
    epochs=2,
    minibatch_size=8,
    learning_rate=2e-2,
    final_learning_rate=5e-3,
    beta=0.1,
    epsilon_low=0.1,
    epsilon_high=0.15,
    max_gradient_norm=0.5,
    save_every=2,
    seed=3,
)
MEASURED = {
    **dict.fromkeys(
        ["reward", "silent_groups", "redrawn", "left_silent", "response_length", "finished"], 1e-6
    ),
    **dict.fromkeys(["policy_loss", "clip_fraction", "learning_rate", "updates"], 1e-5),
    **dict.fromkeys(["entropy", "update_kl", "gradient_norm"], 1e-4),
    "kl": 1e-4,
}


@pytest.fixture
def given(tmp_path, monkeypatch):
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "policy", tmp_path / "prompts.jsonl", tmp_path / "out"


def count_letters(prompts, responses):
    return [text.count("b") - 0.5 * text.count(".") for text in responses]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_whole_run_gives_the_numbers_of_train_grpo(given, tmp_path, capsys, accumulate):
    """Prompts of one to three tokens, of which a model with learned positions reads all alike."""
    settings = dataclasses.replace(SETTINGS, accumulate=accumulate)
    theirs = run_here(
        capsys, *given, settings, judge="letters_judge:score", reference=tmp_path / "reference"
    )
    policy = tiny(0)
    ours = list(train_grpo(policy, PROMPTS, count_letters, settings, reference=tiny(1)))
    assert_same(ours, theirs, MEASURED)
    assert any(record.gradient_norm > settings.max_gradient_norm for record in ours)
    assert any(record.clip_fraction > 0 for record in ours)
    assert_same_weights(LanguagePolicy.from_pretrained(given[2]), policy, tiny(0))


def test_without_kl_and_with_one_update_a_cycle(given, capsys):
    settings = GRPOSettings(
        cycles=2, group_size=2, batch_size=8, max_new_tokens=5, beta=0, learning_rate=1e-2
    )
    theirs = run_here(capsys, *given, settings, judge="letters_judge:score")
    ours = list(train_grpo(tiny(0), PROMPTS, count_letters, settings))
    assert [record["kl"] for record in theirs] == [None, None]
    allowed = {name: tolerance for name, tolerance in MEASURED.items() if name != "kl"}
    assert_same(ours, theirs, allowed)


def test_a_reward_model_is_a_judge(given, tmp_path, capsys):
    settings = dataclasses.replace(SETTINGS, cycles=1)
    theirs = run_here(capsys, *given, settings, judge=tmp_path / "reward_model")
    ours = list(train_grpo(tiny(0), PROMPTS, tiny_reward_model(), settings))
    assert_same(ours, theirs, MEASURED)


@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_other_families(family, given, tmp_path, capsys):
    save_family(family, tmp_path / "one", seed=0)
    prompts = ["the film was", "it", "the", "it made me"]
    rows = "\n".join(json.dumps({"prompt": prompt}) for prompt in prompts)
    (tmp_path / "texts.jsonl").write_text(rows)
    (tmp_path / "length_judge.py").write_text(
        "def score(prompts, texts):\n  return [*map(len, texts)]"
    )
    settings = dataclasses.replace(SETTINGS, cycles=1, learning_rate=1e-3, minibatch_size=16)
    theirs = run_here(
        capsys, tmp_path / "one", tmp_path / "texts.jsonl", given[2], settings,
        judge="length_judge:score",
    )  # fmt: skip
    policy = LanguagePolicy.from_pretrained(tmp_path / "one")
    judge = judge_named("test", "length_judge:score")
    assert_same(list(train_grpo(policy, prompts, judge, settings)), theirs, MEASURED)
    trained = LanguagePolicy.from_pretrained(given[2])
    torch.testing.assert_close(
        trained.next_token_logits(["the film"]), policy.next_token_logits(["the film"]),
        atol=1e-3, rtol=1e-3,
    )  # fmt: skip


def test_a_run_taken_up_gives_what_it_would_have_given(given, tmp_path, capsys):
    """The draws of the cycles before are passed over."""
    folder = tmp_path / "checkpoints"
    how = {"judge": "letters_judge:score"}
    straight = run_here(capsys, *given, SETTINGS, **how)
    stopped = (*given[:2], tmp_path / "stopped")
    import letters_judge

    asked, plain = [], letters_judge.score

    def stop_in_the_third(prompts, responses):
        asked.append(responses)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return plain(prompts, responses)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(letters_judge, "score", stop_in_the_third)
        with pytest.raises(KeyboardInterrupt):
            run_here(capsys, *stopped, SETTINGS, **how, checkpoint=folder)
    again = run_here(capsys, *stopped, SETTINGS, **how, checkpoint=folder)
    assert [record["step"] for record in again] == [3]
    assert again[0] == pytest.approx(straight[2], abs=1e-6)


# --- what is refused ------------------------------------------------------------------------------


def test_every_setting_is_handed_on():
    said = scale.trl_settings(dataclasses.replace(SETTINGS, accumulate=2, bf16=True), 2)
    assert said == {
        "max_steps": 12, "num_generations": 4, "steps_per_generation": 4,
        "max_completion_length": 6, "num_iterations": 2, "per_device_train_batch_size": 2,
        "learning_rate": 2e-2, "beta": 0.1, "epsilon": 0.1, "epsilon_high": 0.15,
        "max_grad_norm": 0.5, "save_steps": 8, "gradient_accumulation_steps": 2, "bf16": True,
        "seed": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "processes", "message"),
    [
        ({"redraws": 1}, 1, "no counterpart in TRL: redraws"),
        ({"minibatch_size": 6}, 2, "batch_size must be a multiple of minibatch_size = 6"),
        ({"minibatch_size": 5}, 2, "minibatch_size must be a multiple of .* = 2 × 1 = 2"),
        ({"batch_size": 12, "minibatch_size": 12}, 2, "as many groups for each of the 2 processes"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(given, change, processes, message):
    settings = dataclasses.replace(SETTINGS, **change)
    with pytest.raises(ValueError, match=message):
        scale.train_grpo_with_trl(
            *given[:2], "letters_judge:score", given[2], settings, processes=processes
        )


def test_a_reference_without_kl_is_refused(given, tmp_path):
    with pytest.raises(ValueError, match="reference must be left out where beta is 0"):
        scale.train_grpo_with_trl(
            *given[:2], "letters_judge:score", given[2], dataclasses.replace(SETTINGS, beta=0),
            reference=tmp_path / "reference",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ("nobodys:score", "judge must name a function .* got 'nobodys:score': No module named"),
        ("letters_judge:praise", "letters_judge has no praise"),
        ("./nowhere", "there is no folder nowhere"),
    ],
)
def test_a_judge_that_is_not_there_is_refused_before_anything_is_started(given, judge, message):
    with pytest.raises((ValueError, OSError), match=message):
        scale.train_grpo_with_trl(*given[:2], judge, given[2], SETTINGS)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [float('nan')] * len(texts)", "judge must return finite scores, got nan"),
        ("return [1]", "judge must return one score per response"),
        (
            "return [0.5] * len(texts)",
            "got equal scores in each of the 4 groups of the first cycle",
        ),
        ("raise ValueError('out of order')", "out of order"),
    ],
)
def test_a_judge_that_fails_is_named_and_nothing_saved(given, tmp_path, capsys, body, message):
    name = f"judge_{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(f"def score(prompts, texts):\n    {body}\n")
    assert scale.main(words(*given, SETTINGS, judge=f"{name}:score")) == 2
    assert message in capsys.readouterr().err
    assert not given[2].exists()
