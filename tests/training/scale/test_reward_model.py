"""A reward model handed to TRL gives the numbers of ``train_reward_model``, in one process."""

from __future__ import annotations

import dataclasses

import pytest
from model_families import FAMILIES, save_family
from scaled_runs import (
    PAIRS,
    assert_same,
    assert_same_weights,
    needs_trl,
    run_here,
    tiny_reward_model,
    words,
    write_files,
)

from rlhf_lessons.models import LanguagePolicy, RewardModel, TokenRewardModel
from rlhf_lessons.training import RewardSettings, scale, train_reward_model
from rlhf_lessons.worlds import save_preferences

pytestmark = [needs_trl, pytest.mark.filterwarnings("ignore::FutureWarning")]

SETTINGS = RewardSettings(
    steps=5,
    batch_size=4,
    learning_rate=5e-3,
    warmup=0.4,
    weight_decay=0.2,
    max_gradient_norm=0.5,
    evaluate_every=2,
    seed=3,
)
MEASURED = dict.fromkeys(["loss", "accuracy", "margin", "gradient_norm", "learning_rate"], 1e-5)


@pytest.fixture
def given(tmp_path):
    write_files(tmp_path)
    return tmp_path / "reward_model", tmp_path / "pairs.jsonl", tmp_path / "out"


@pytest.mark.parametrize("change", [{}, {"accumulate": 2, "freeze_embeddings": True}])
def test_a_whole_run_gives_the_numbers_of_train_reward_model(given, tmp_path, capsys, change):
    settings = dataclasses.replace(SETTINGS, **change)
    model = tiny_reward_model()
    model.normalise(["a", "b", "c"], ["b .", "c c", "d"])
    model.save_pretrained(given[0])
    theirs = run_here(capsys, *given, settings, validation=tmp_path / "validation.jsonl")
    ours = list(train_reward_model(model, PAIRS, settings, validation=PAIRS[:3]))
    assert_same(ours, theirs, MEASURED)
    assert any(record.gradient_norm > settings.max_gradient_norm for record in ours)
    for mine, other in zip(ours, theirs, strict=True):
        if mine.step % 2 == 0:
            assert mine.validation_loss == pytest.approx(other["validation_loss"], abs=1e-5)
            assert mine.validation_accuracy == pytest.approx(other["validation_accuracy"])
    trained = RewardModel.from_pretrained(given[2])
    assert_same_weights(trained, model, tiny_reward_model())
    assert (trained.offset, trained.scale) == (model.offset, model.scale)
    assert trained.model.config.pad_token_id == model.model.config.pad_token_id
    for table in trained.embeddings() if settings.freeze_embeddings else ():
        assert any(bool((table == old).all()) for old in tiny_reward_model().embeddings()
                   if old.shape == table.shape)  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_other_families(family, given, tmp_path, capsys):
    """Of some the end token stands in for padding, and is read all the same."""
    save_family(family, tmp_path / "one", seed=0)
    model = tiny_reward_model(LanguagePolicy.from_pretrained(tmp_path / "one"))
    model.save_pretrained(tmp_path / "two")
    pairs = [("the film was", "good .", " bad ."), ("it", " made me smile", "was dull .")]
    save_preferences(tmp_path / "texts.jsonl", pairs)
    # A small step: where a gradient is next to nothing Adam moves by its sign, that is by rounding.
    settings = dataclasses.replace(SETTINGS, steps=2, batch_size=2, learning_rate=1e-4)
    theirs = run_here(capsys, tmp_path / "two", tmp_path / "texts.jsonl", given[2], settings)
    # Gradients of length 10 and more: their rounding is larger.
    allowed = dict.fromkeys(MEASURED, 3e-4)
    assert_same(list(train_reward_model(model, pairs, settings)), theirs, allowed)
    trained = RewardModel.from_pretrained(given[2])
    texts = ["the film was"] * 2, ["good .", "dull"]
    assert trained.score(*texts).tolist() == pytest.approx(model.score(*texts).tolist(), abs=1e-3)


def test_every_setting_is_handed_on_and_an_average_refused(given):
    said = scale.trl_settings(dataclasses.replace(SETTINGS, accumulate=2, length_groups=1), 2)
    assert said == {
        "max_steps": 5, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2,
        "learning_rate": 5e-3, "weight_decay": 0.2, "max_grad_norm": 0.5, "eval_steps": 2,
        "save_steps": 50, "bf16": False, "seed": 3,
    }  # fmt: skip
    with pytest.raises(ValueError, match="no counterpart in TRL: average"):
        scale.train_reward_model_with_trl(*given, dataclasses.replace(SETTINGS, average=0.9))


def test_equal_pairs_are_left_out_where_that_is_asked_for(given, tmp_path, capsys):
    save_preferences(tmp_path / "equal.jsonl", [*PAIRS, ("a", "b", "b")])
    settings = dataclasses.replace(SETTINGS, steps=1)
    where = given[0], tmp_path / "equal.jsonl", given[2]
    assert scale.main(words(*where, settings)) == 2
    assert "chosen equals rejected" in capsys.readouterr().err
    (theirs,) = run_here(capsys, *where, dataclasses.replace(settings, drop_equal=True))
    (ours,) = train_reward_model(tiny_reward_model(), PAIRS, settings)
    assert theirs["loss"] == pytest.approx(ours.loss, abs=1e-5)


def test_what_cannot_be_handed_over_is_refused(given, tmp_path, capsys):
    assert scale.main(words(*given, dataclasses.replace(SETTINGS, batch_size=8))) == 2
    assert "must hold a batch of batch_size = 8 pairs, got 7" in capsys.readouterr().err
    assert scale.main(words(tmp_path / "policy", *given[1:], SETTINGS)) == 2
    assert "RewardModel.from_policy adds one" in capsys.readouterr().err
    policy = LanguagePolicy.from_pretrained(tmp_path / "policy")
    TokenRewardModel.from_policy(policy).save_pretrained(tmp_path / "tokens")
    assert scale.main(words(tmp_path / "tokens", *given[1:], SETTINGS)) == 2
    assert "TokenRewardModel every token" in capsys.readouterr().err
    assert not given[2].exists()
