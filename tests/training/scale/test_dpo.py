"""DPO handed to TRL gives the numbers of ``train_dpo``, in one process."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from model_families import FAMILIES, save_family
from scaled_runs import PAIRS, assert_same_weights, needs_trl, run_here, tiny, words, write_files
from scaled_runs import assert_same as assert_same_numbers

from rlhf_lessons.models import LanguagePolicy
from rlhf_lessons.training import DPOSettings, scale, train_dpo
from rlhf_lessons.training.scale import command
from rlhf_lessons.worlds import save_preferences

pytestmark = [needs_trl, pytest.mark.filterwarnings("ignore::FutureWarning")]

# No field at its default, batches that straddle two passes over the seven pairs, clipping at work.
SETTINGS = DPOSettings(
    steps=5,
    batch_size=4,
    beta=0.3,
    learning_rate=5e-3,
    warmup=0.4,
    weight_decay=0.2,
    max_gradient_norm=0.5,
    evaluate_every=2,
    save_every=2,
    seed=3,
)
# Log-probabilities and KL are not multiplied by β < 1: their rounding is larger. Not the accuracy:
# TRL counts a tie as wrong.
MEASURED = {
    **dict.fromkeys(
        ["loss", "chosen_reward", "rejected_reward", "margin", "gradient_norm", "learning_rate"],
        1e-5,
    ),
    **dict.fromkeys(["chosen_log_prob", "rejected_log_prob", "kl"], 1e-4),
}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    write_files(tmp_path)
    return {
        "policy": tmp_path / "policy",
        "pairs": tmp_path / "pairs.jsonl",
        "output": tmp_path / "out",
    }


def assert_same(ours, theirs) -> None:
    assert_same_numbers(ours, theirs, MEASURED)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_whole_run_gives_the_numbers_of_train_dpo(files, capsys, accumulate):
    settings = dataclasses.replace(SETTINGS, accumulate=accumulate)
    root = files["pairs"].parent
    theirs = run_here(
        capsys, *files.values(), settings,
        reference=root / "reference", validation=root / "validation.jsonl",
    )  # fmt: skip
    policy = tiny(0)
    ours = list(train_dpo(policy, PAIRS, settings, reference=tiny(1), validation=PAIRS[:3]))
    assert_same(ours, theirs)
    assert any(record.gradient_norm > settings.max_gradient_norm for record in ours)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.accuracy == other["accuracy"]
        if mine.step % 2 == 0:  # TRL does not measure the last step where it is not due
            assert mine.validation_loss == pytest.approx(other["validation_loss"], abs=1e-5)
            assert mine.validation_accuracy == pytest.approx(other["validation_accuracy"])
    trained = LanguagePolicy.from_pretrained(files["output"])
    assert_same_weights(trained, policy, tiny(0))


def test_what_comes_out_loads_in_plain_transformers(files, capsys):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run_here(capsys, *files.values(), dataclasses.replace(SETTINGS, steps=1))
    ours = LanguagePolicy.from_pretrained(files["output"])
    plain = AutoModelForCausalLM.from_pretrained(files["output"])
    tokens = AutoTokenizer.from_pretrained(files["output"])(["a b c"], return_tensors="pt")
    assert tokens["input_ids"].tolist() == tiny().tokenizer(["a b c"])["input_ids"]
    logits = plain(tokens["input_ids"]).logits[:, -1]
    # Not the same bits: ours asks the last layer for the last position alone.
    torch.testing.assert_close(logits, ours.next_token_logits(["a b c"]), atol=1e-6, rtol=0)
    left = sorted(path.name for path in files["output"].iterdir())
    assert "training_args.bin" not in left and "model.safetensors" in left
    assert [path.name for path in files["output"].parent.glob(".*")] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_other_families(family, files, tmp_path, capsys):
    """Tokenizers that merge across the boundary, start texts themselves or cannot pad."""
    for seed, name in enumerate(("one", "two")):
        save_family(family, tmp_path / name, seed=seed)
    pairs = [("the film was", "good .", " bad ."), ("it", " made me smile", "was dull .")]
    save_preferences(tmp_path / "texts.jsonl", pairs)
    settings = dataclasses.replace(SETTINGS, steps=2, batch_size=2)
    given = {"policy": tmp_path / "one", "pairs": tmp_path / "texts.jsonl"}
    theirs = run_here(capsys, *{**files, **given}.values(), settings, reference=tmp_path / "two")
    policy, reference = (LanguagePolicy.from_pretrained(tmp_path / n) for n in ("one", "two"))
    assert_same(list(train_dpo(policy, pairs, settings, reference=reference)), theirs)
    trained = LanguagePolicy.from_pretrained(files["output"])
    torch.testing.assert_close(
        trained.next_token_logits(["the film"]), policy.next_token_logits(["the film"]),
        atol=1e-3, rtol=1e-3,
    )  # fmt: skip


@pytest.mark.parametrize("array", [False, True])
def test_messages_are_read_by_the_template_of_the_policy(files, tmp_path, capsys, array):
    """Against a file whose texts were written by hand."""
    policy = tiny(0)
    policy.tokenizer.chat_template = (
        "{% for message in messages %}{{ message['content'] }} <end> {% endfor %}"
    )
    policy.save_pretrained(tmp_path / "chat")
    files["policy"] = tmp_path / "chat"
    settings = dataclasses.replace(SETTINGS, steps=2)
    save_preferences(tmp_path / "texts.jsonl", [(f"{p} <end> ", c, r) for p, c, r in PAIRS])
    theirs = run_here(capsys, *{**files, "pairs": tmp_path / "texts.jsonl"}.values(), settings)
    rows = [
        {
            "prompt": prompt,
            "chosen": [{"role": "user", "content": prompt}, {"role": "assistant", "content": one}],
            "rejected": [{"role": "assistant", "content": other}],
        }
        for prompt, one, other in PAIRS
    ]
    text = json.dumps(rows) if array else "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "messages.json").write_text(text)
    given = {**files, "pairs": tmp_path / "messages.json", "output": tmp_path / "two"}
    ours = run_here(capsys, *given.values(), settings)
    assert len(ours) == 2
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(
            other, abs=1e-6
        )  # the same tokens: rounding of two runs at most
    bad = [*rows, {**rows[0], "chosen": []}, {"chosen": 1}]
    (tmp_path / "messages.json").write_text(json.dumps(bad))
    with pytest.raises(ValueError, match="2 bad rows\n  row 8: .*empty\n  row 9: "):
        scale.train_dpo_with_trl(*{**given, "output": tmp_path / "three"}.values(), settings)


def test_messages_for_a_policy_without_a_template_are_refused(files, tmp_path, capsys):
    answers = [{"role": "assistant", "content": content} for content in "bc"]
    row = {"prompt": "a", "chosen": answers[:1], "rejected": answers[1:]}
    (tmp_path / "messages.jsonl").write_text(json.dumps(row))
    assert (
        scale.main(words(*{**files, "pairs": tmp_path / "messages.jsonl"}.values(), SETTINGS)) == 2
    )
    assert "tokenizer must have a chat template, since line 1" in capsys.readouterr().err
    assert not files["output"].exists()


def test_the_first_loss_is_log_two_and_a_tie_counts_as_wrong(files, capsys):
    (record,) = run_here(capsys, *files.values(), dataclasses.replace(SETTINGS, steps=1))
    assert record["loss"] == pytest.approx(0.6931472, abs=1e-6)
    assert record["accuracy"] == record["margin"] == 0.0


def test_bfloat16_rounds_and_stays_near(files, capsys):
    root = files["pairs"].parent
    settings = dataclasses.replace(SETTINGS, steps=1, bf16=True)
    (rounded,) = run_here(capsys, *files.values(), settings, reference=root / "reference")
    (exact,) = train_dpo(tiny(0), PAIRS, dataclasses.replace(SETTINGS, steps=1), reference=tiny(1))
    # Products carry 8 bits: an error of some 2⁻⁸ a token, over a few tokens, times β.
    assert 1e-6 < abs(rounded["loss"] - exact.loss) < 0.05


def test_a_run_taken_up_gives_what_it_would_have_given(files, capsys, monkeypatch):
    folder = files["pairs"].parent / "checkpoints"
    straight = run_here(capsys, *files.values(), SETTINGS)
    plain = dataclasses.asdict

    def stop_after_four(thing):
        if getattr(thing, "step", None) == 4:
            raise KeyboardInterrupt
        return plain(thing)

    stopped = {**files, "output": folder.parent / "stopped"}
    monkeypatch.setattr(command.dataclasses, "asdict", stop_after_four)
    with pytest.raises(KeyboardInterrupt):
        run_here(capsys, *stopped.values(), SETTINGS, checkpoint=folder)
    monkeypatch.undo()
    assert not stopped["output"].exists()
    again = run_here(capsys, *stopped.values(), SETTINGS, checkpoint=folder)
    assert [record["step"] for record in again] == [5]  # saved after steps 2 and 4
    assert again == straight[4:]
    other = {**files, "output": folder.parent / "other"}
    changed = dataclasses.replace(SETTINGS, beta=0.7)
    assert scale.main(words(*other.values(), changed, checkpoint=folder)) == 2
    assert "differs in beta" in capsys.readouterr().err


# --- what is refused ------------------------------------------------------------------------------


def test_every_setting_is_handed_on_and_an_unknown_one_refused():
    said = scale.trl_settings(SETTINGS, 2)
    assert said == {
        "max_steps": 5, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1,
        "beta": 0.3, "learning_rate": 5e-3, "weight_decay": 0.2, "max_grad_norm": 0.5,
        "eval_steps": 2, "save_steps": 2, "bf16": False, "seed": 3,
    }  # fmt: skip

    @dataclasses.dataclass(frozen=True)
    class Longer(DPOSettings):
        label_smoothing: float = 0.1

    with pytest.raises(ValueError, match="no counterpart in TRL: label_smoothing"):
        scale.trl_settings(Longer(), 2)


def test_the_worker_says_what_is_wrong_and_saves_nothing(files, tmp_path, capsys):
    tiny(words=["a", "b", "c", "e", "."]).save_pretrained(tmp_path / "other")
    cases = [
        ({"policy": tmp_path / "none"}, {}, "there is no folder"),
        ({}, {"reference": tmp_path / "other"}, "reference must have the tokenizer"),
        ({"pairs": tmp_path / "long.jsonl"}, {}, "must fit into the context of 12 tokens"),
    ]
    save_preferences(tmp_path / "long.jsonl", [("a " * 11 + "a", "b", "c")])
    for change, how, message in cases:
        assert scale.main(words(*{**files, **change}.values(), SETTINGS, **how)) == 2
        assert message in capsys.readouterr().err
        assert not files["output"].exists()


def test_adapters_are_sent_to_train_dpo(files, tmp_path, capsys):
    pytest.importorskip("peft")
    LanguagePolicy.from_pretrained(files["policy"]).with_adapter(2).save_pretrained(tmp_path / "a")
    assert scale.main(words(*{**files, "policy": tmp_path / "a"}.values(), SETTINGS)) == 2
    assert "policy must be a whole model, got adapters in" in capsys.readouterr().err
    assert scale.main(words(*files.values(), SETTINGS, reference=tmp_path / "a")) == 2
    assert "reference must be a whole model" in capsys.readouterr().err
