"""Fine-tuning handed to TRL gives the numbers of ``train_sft``, in one process."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from model_families import FAMILIES, save_family
from scaled_runs import (
    EXAMPLES,
    assert_same,
    assert_same_weights,
    needs_trl,
    run_here,
    tiny,
    write_files,
)

from rlhf_lessons.models import LanguagePolicy
from rlhf_lessons.training import SupervisedSettings, held_out_nll, scale, train_sft
from rlhf_lessons.worlds import save_examples

pytestmark = [needs_trl, pytest.mark.filterwarnings("ignore::FutureWarning")]

# Of the seven examples each second batch is one of three; decay at work and clipping, too.
SETTINGS = SupervisedSettings(
    steps=5,
    batch_size=4,
    learning_rate=5e-3,
    warmup=0.4,
    weight_decay=5.0,
    max_gradient_norm=0.5,
    evaluate_every=2,
    seed=3,
)
MEASURED = dict.fromkeys(["loss", "gradient_norm", "learning_rate", "tokens"], 1e-5)


@pytest.fixture
def given(tmp_path):
    write_files(tmp_path)
    return tmp_path / "policy", tmp_path / "examples.jsonl", tmp_path / "out"


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_whole_run_gives_the_numbers_of_train_sft(given, tmp_path, capsys, accumulate):
    """Where the batch of three is read in four parts, one part holds nothing."""
    settings = dataclasses.replace(SETTINGS, accumulate=accumulate)
    save_examples(tmp_path / "held_out.jsonl", EXAMPLES[:3])
    theirs = run_here(capsys, *given, settings, validation=tmp_path / "held_out.jsonl")
    policy = tiny(0)
    ours = list(train_sft(policy, EXAMPLES, settings, validation=EXAMPLES[:3]))
    assert_same(ours, theirs, MEASURED)
    assert {record.tokens for record in ours} == {record["tokens"] for record in theirs}
    assert any(record.gradient_norm > settings.max_gradient_norm for record in ours)
    for mine, other in zip(ours, theirs, strict=True):
        if mine.step % 2 == 0:  # TRL does not measure the last step where it is not due
            assert mine.validation_loss == pytest.approx(other["validation_loss"], abs=1e-5)
    assert_same_weights(LanguagePolicy.from_pretrained(given[2]), policy, tiny(0))


def test_a_mean_over_held_out_tokens_weighs_no_batch_more(given, tmp_path, capsys):
    """130 texts, read in three batches: two full ones of long texts, then two short ones."""
    held_out = [("a", "b c d a b c")] * 128 + [("d", "d")] * 2
    save_examples(tmp_path / "held_out.jsonl", held_out)
    settings = dataclasses.replace(SETTINGS, steps=2)
    _, last = run_here(capsys, *given, settings, validation=tmp_path / "held_out.jsonl")
    trained = LanguagePolicy.from_pretrained(given[2])
    assert last["validation_loss"] == pytest.approx(held_out_nll(trained, held_out), abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_other_families(family, given, tmp_path, capsys):
    save_family(family, tmp_path / "one", seed=0)
    examples = [("the film was", " good ."), ("it", " made me smile"), ("", "the film")]
    save_examples(tmp_path / "texts.jsonl", examples)
    settings = dataclasses.replace(SETTINGS, steps=2, batch_size=2, weight_decay=0.1)
    theirs = run_here(capsys, tmp_path / "one", tmp_path / "texts.jsonl", given[2], settings)
    policy = LanguagePolicy.from_pretrained(tmp_path / "one")
    assert_same(list(train_sft(policy, examples, settings)), theirs, MEASURED)
    trained = LanguagePolicy.from_pretrained(given[2])
    torch.testing.assert_close(
        trained.next_token_logits(["the film"]), policy.next_token_logits(["the film"]),
        atol=1e-3, rtol=1e-3,
    )  # fmt: skip


def test_every_setting_is_handed_on_and_no_share_is_uneven():
    said = scale.trl_settings(dataclasses.replace(SETTINGS, batch_size=5, bf16=True), 2)
    assert said == {
        "max_steps": 5, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 1,
        "learning_rate": 5e-3, "weight_decay": 5.0, "max_grad_norm": 0.5, "eval_steps": 2,
        "save_steps": 100, "bf16": True, "seed": 3,
    }  # fmt: skip
