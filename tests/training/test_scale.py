"""A run handed to TRL gives the numbers of ``train_dpo``, in one process and in two."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from model_families import FAMILIES, save_family

from rlhf_lessons.models import LanguagePolicy, small_gpt2, word_tokenizer
from rlhf_lessons.training import DPOSettings, scale, train_dpo
from rlhf_lessons.worlds import save_preferences

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

WORDS = ["a", "b", "c", "d", "."]
PAIRS = [
    ("a", "b .", "c c c ."),
    ("c a a", "d", "b b ."),
    ("b", "a b .", "d ."),
    ("b b", "c . . .", "a"),
    ("d", "d d .", "c b"),
    ("a c", "a .", "b b b b ."),
    ("c", "c b a .", "d a"),
]
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
MEASURED = [  # accuracy: TRL counts a tie as wrong, so it differs where there is one
    "loss", "chosen_reward", "rejected_reward", "margin", "chosen_log_prob", "rejected_log_prob",
    "kl", "gradient_norm", "learning_rate",
]  # fmt: skip


def tiny(seed: int = 0, words=WORDS) -> LanguagePolicy:
    tokenizer = word_tokenizer(words)
    model = small_gpt2(len(tokenizer), width=16, layers=1, heads=2, context=12, seed=seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0)  # clear preferences, so that a wrong token shows
    return LanguagePolicy(model, tokenizer)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    tiny(0).save_pretrained(tmp_path / "policy")
    tiny(1).save_pretrained(tmp_path / "reference")
    save_preferences(tmp_path / "pairs.jsonl", PAIRS)
    save_preferences(tmp_path / "validation.jsonl", PAIRS[:3])
    return {
        "policy": tmp_path / "policy",
        "pairs": tmp_path / "pairs.jsonl",
        "output": tmp_path / "out",
    }


def words(files: dict, settings: DPOSettings, **how) -> list[str]:
    command = scale.trl_command(**files, settings=settings, processes=1, cpu=True, **how)
    return command[command.index("scale") + 1 :]


def run_here(files: dict, settings: DPOSettings, capsys, **how) -> list[dict]:
    """One process, this one: the records that it prints."""
    capsys.readouterr()
    status = scale.main(words(files, settings, **how))
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return [json.loads(line) for line in printed.out.splitlines() if line.startswith('{"step"')]


def assert_same(ours, theirs, tolerance: float = 1e-5) -> None:
    assert [record.step for record in ours] == [record["step"] for record in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        for name in MEASURED:
            # Log-probabilities and KL are not multiplied by β < 1: their rounding is larger.
            allowed = 10 * tolerance if "log_prob" in name or name == "kl" else tolerance
            where = f"{name} of step {mine.step}"
            assert getattr(mine, name) == pytest.approx(other[name], abs=allowed), where


def weights(policy: LanguagePolicy) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in policy.parameters()])


def assert_same_weights(one: LanguagePolicy, other: LanguagePolicy) -> None:
    """Apart by less than a hundredth of the way that both went from ``tiny(0)``.

    Single weights may be further apart: where a gradient is next to nothing, Adam still moves by
    its sign, which rounding decides.
    """
    gap, way = weights(one) - weights(other), weights(one) - weights(tiny(0))
    assert float(way.norm()) > 0.1
    assert float(gap.norm() / way.norm()) < 1e-2


# --- one process ----------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_whole_run_gives_the_numbers_of_train_dpo(files, capsys, accumulate):
    pytest.importorskip("trl")
    settings = dataclasses.replace(SETTINGS, accumulate=accumulate)
    root = files["pairs"].parent
    theirs = run_here(
        files, settings, capsys,
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
    assert_same_weights(trained, policy)


def test_what_comes_out_loads_in_plain_transformers(files, capsys):
    pytest.importorskip("trl")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run_here(files, dataclasses.replace(SETTINGS, steps=1), capsys)
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
    pytest.importorskip("trl")
    for seed, name in enumerate(("one", "two")):
        save_family(family, tmp_path / name, seed=seed)
    pairs = [("the film was", "good .", " bad ."), ("it", " made me smile", "was dull .")]
    save_preferences(tmp_path / "texts.jsonl", pairs)
    settings = dataclasses.replace(SETTINGS, steps=2, batch_size=2)
    given = {"policy": tmp_path / "one", "pairs": tmp_path / "texts.jsonl"}
    theirs = run_here({**files, **given}, settings, capsys, reference=tmp_path / "two")
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
    pytest.importorskip("trl")
    policy = tiny(0)
    policy.tokenizer.chat_template = (
        "{% for message in messages %}{{ message['content'] }} <end> {% endfor %}"
    )
    policy.save_pretrained(tmp_path / "chat")
    files["policy"] = tmp_path / "chat"
    settings = dataclasses.replace(SETTINGS, steps=2)
    save_preferences(tmp_path / "texts.jsonl", [(f"{p} <end> ", c, r) for p, c, r in PAIRS])
    theirs = run_here({**files, "pairs": tmp_path / "texts.jsonl"}, settings, capsys)
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
    ours = run_here(given, settings, capsys)
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
    pytest.importorskip("trl")
    answers = [{"role": "assistant", "content": content} for content in "bc"]
    row = {"prompt": "a", "chosen": answers[:1], "rejected": answers[1:]}
    (tmp_path / "messages.jsonl").write_text(json.dumps(row))
    assert scale.main(words({**files, "pairs": tmp_path / "messages.jsonl"}, SETTINGS)) == 2
    assert "tokenizer must have a chat template, since line 1" in capsys.readouterr().err
    assert not files["output"].exists()


def test_the_first_loss_is_log_two_and_a_tie_counts_as_wrong(files, capsys):
    pytest.importorskip("trl")
    (record,) = run_here(files, dataclasses.replace(SETTINGS, steps=1), capsys)
    assert record["loss"] == pytest.approx(0.6931472, abs=1e-6)
    assert record["accuracy"] == record["margin"] == 0.0


def test_bfloat16_rounds_and_stays_near(files, capsys):
    pytest.importorskip("trl")
    root = files["pairs"].parent
    settings = dataclasses.replace(SETTINGS, steps=1, bf16=True)
    (rounded,) = run_here(files, settings, capsys, reference=root / "reference")
    (exact,) = train_dpo(tiny(0), PAIRS, dataclasses.replace(SETTINGS, steps=1), reference=tiny(1))
    # Products carry 8 bits: an error of some 2⁻⁸ a token, over a few tokens, times β.
    assert 1e-6 < abs(rounded["loss"] - exact.loss) < 0.05


def test_a_run_taken_up_gives_what_it_would_have_given(files, capsys, monkeypatch):
    pytest.importorskip("trl")
    folder = files["pairs"].parent / "checkpoints"
    straight = run_here(files, SETTINGS, capsys)
    plain = dataclasses.asdict

    def stop_after_four(thing):
        if getattr(thing, "step", None) == 4:
            raise KeyboardInterrupt
        return plain(thing)

    stopped = {**files, "output": folder.parent / "stopped"}
    monkeypatch.setattr(scale.dataclasses, "asdict", stop_after_four)
    with pytest.raises(KeyboardInterrupt):
        run_here(stopped, SETTINGS, capsys, checkpoint=folder)
    monkeypatch.undo()
    assert not stopped["output"].exists()
    again = run_here(stopped, SETTINGS, capsys, checkpoint=folder)
    assert [record["step"] for record in again] == [5]  # saved after steps 2 and 4
    assert again == straight[4:]
    other = {**files, "output": folder.parent / "other"}
    changed = dataclasses.replace(SETTINGS, beta=0.7)
    assert scale.main(words(other, changed, checkpoint=folder)) == 2
    assert "differs in beta" in capsys.readouterr().err


# --- two processes --------------------------------------------------------------------------------


def test_two_processes_give_the_losses_of_one(files):
    """Two processes of two pairs each, their gradients averaged: the batch of four."""
    pytest.importorskip("trl")
    root = files["pairs"].parent
    records = list(
        scale.train_dpo_with_trl(
            *files.values(), SETTINGS, processes=2, reference=root / "reference", cpu=True
        )
    )
    policy = tiny(0)
    ours = list(train_dpo(policy, PAIRS, SETTINGS, reference=tiny(1)))
    assert_same(ours, [dataclasses.asdict(record) for record in records])
    assert_same_weights(LanguagePolicy.from_pretrained(files["output"]), policy)


def test_ending_a_launcher_ends_what_it_launched():
    """Also what writes nothing, and so would never notice that nobody reads."""
    sleeper = "import time; time.sleep(60)"
    launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {sleeper!r}])"
    running = subprocess.Popen([sys.executable, "-c", launcher])
    family = psutil.Process(running.pid)
    while not family.children():
        time.sleep(0.01)
    launched = family.children()
    scale._end(running)
    assert psutil.wait_procs(launched, timeout=10)[1] == []


def test_leaving_the_loop_ends_what_was_started(files):
    pytest.importorskip("trl")
    settings = dataclasses.replace(SETTINGS, steps=100_000)
    run = scale.train_dpo_with_trl(*files.values(), settings, processes=1, cpu=True)
    assert next(run).step == 1
    started = psutil.Process().children(recursive=True)
    started = [p for p in started if any("rlhf_lessons" in word for word in p.cmdline())]
    assert len(started) == 2  # the launcher and the process that trains
    run.close()
    assert psutil.wait_procs(started, timeout=10)[1] == []
    assert not files["output"].exists()


def test_an_interrupt_of_our_group_stops_the_loop_and_not_the_processes(tmp_path):
    """A notebook's stop button goes to the group of the kernel; a stand-in says in which it is."""
    script, group = tmp_path / "launcher.py", tmp_path / "group"
    script.write_text(f"import os; open({str(group)!r}, 'w').write(str(os.getpgrp()))")
    popen = subprocess.Popen
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            scale.subprocess, "Popen", lambda _, **how: popen([sys.executable, script], **how)
        )
        assert list(scale._follow(["accelerate", "launch"], 2)) == []
    assert int(group.read_text()) != os.getpgrp()


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


def test_the_command_reads_back_as_the_settings(files):
    given = scale._parser().parse_args(words(files, SETTINGS))
    for field in dataclasses.fields(DPOSettings):
        assert getattr(given, field.name) == getattr(SETTINGS, field.name)
    command = scale.trl_command(*files.values(), SETTINGS)
    assert command[:5] == ["accelerate", "launch", "--multi_gpu", "--num_processes", "2"]
    assert "--cpu" not in command


@pytest.mark.parametrize(("processes", "accumulate"), [(3, 1), (2, 4), (1, 3)])
def test_a_batch_that_cannot_be_shared_out_is_refused(files, processes, accumulate):
    settings = dataclasses.replace(SETTINGS, accumulate=accumulate)
    with pytest.raises(ValueError, match=f"batch_size must be a multiple of .*{processes} × "):
        scale.train_dpo_with_trl(*files.values(), settings, processes=processes)


@pytest.mark.parametrize("processes", [0, 1.5, True])
def test_processes_are_counted(files, processes):
    with pytest.raises(ValueError, match="processes must be an int ≥ 1"):
        scale.trl_command(*files.values(), SETTINGS, processes=processes)


def test_files_are_looked_at_before_anything_is_started(files, tmp_path):
    pytest.importorskip("trl")
    missing = {**files, "pairs": tmp_path / "none.jsonl"}
    with pytest.raises(FileNotFoundError, match="no file of pairs .*none.jsonl"):
        scale.train_dpo_with_trl(*missing.values(), SETTINGS)
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "chosen": "b"}\n')
    bad = {**files, "pairs": tmp_path / "bad.jsonl"}
    with pytest.raises(ValueError, match="line 1: the column 'rejected' is missing"):
        scale.train_dpo_with_trl(*bad.values(), SETTINGS)
    there = {**files, "output": tmp_path}
    with pytest.raises(ValueError, match="output must be a new folder"):
        scale.train_dpo_with_trl(*there.values(), SETTINGS)


def test_the_worker_says_what_is_wrong_and_saves_nothing(files, tmp_path, capsys):
    pytest.importorskip("trl")
    tiny(words=["a", "b", "c", "e", "."]).save_pretrained(tmp_path / "other")
    cases = [
        ({"policy": tmp_path / "none"}, {}, "there is no folder"),
        ({}, {"reference": tmp_path / "other"}, "reference must have the tokenizer"),
        ({"pairs": tmp_path / "long.jsonl"}, {}, "must fit into the context of 12 tokens"),
    ]
    save_preferences(tmp_path / "long.jsonl", [("a " * 11 + "a", "b", "c")])
    for change, how, message in cases:
        assert scale.main(words({**files, **change}, SETTINGS, **how)) == 2
        assert message in capsys.readouterr().err
        assert not files["output"].exists()


def test_adapters_are_sent_to_train_dpo(files, tmp_path, capsys):
    pytest.importorskip("trl")
    pytest.importorskip("peft")
    LanguagePolicy.from_pretrained(files["policy"]).with_adapter(2).save_pretrained(tmp_path / "a")
    assert scale.main(words({**files, "policy": tmp_path / "a"}, SETTINGS)) == 2
    assert "policy must be a whole model, got adapters in" in capsys.readouterr().err
    assert scale.main(words(files, SETTINGS, reference=tmp_path / "a")) == 2
    assert "reference must be a whole model" in capsys.readouterr().err


def test_without_trl_it_says_how_to_install_it(files, monkeypatch):
    monkeypatch.setattr(
        scale.importlib.util, "find_spec", lambda name: None if name == "trl" else name
    )
    with pytest.raises(ModuleNotFoundError, match=r"trl must be installed .*rlhf-lessons\[scale\]"):
        scale.train_dpo_with_trl(*files.values(), SETTINGS)


def test_a_run_that_fails_says_why(files, tmp_path):
    """The processes are real, the launcher a stand-in: what it writes comes back as the error."""
    script = tmp_path / "launcher.py"
    script.write_text("import sys; print('noise'); sys.exit('scale: the model is no model')")
    run = scale._follow(["accelerate", "launch"], 2)
    popen = subprocess.Popen
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            scale.subprocess, "Popen", lambda _, **how: popen([sys.executable, script], **how)
        )
        with pytest.raises(RuntimeError, match="failed:\nscale: the model is no model"):
            list(run)
        script.write_text("print('{\"processes\": 1}')")
        with pytest.raises(RuntimeError, match="2 processes were asked for, but .* started 1"):
            list(scale._follow(["accelerate", "launch"], 2))


def test_help_explains_every_setting(capsys):
    with pytest.raises(SystemExit):
        scale.main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(DPOSettings):
        assert f"--{field.name.replace('_', '-')}" in shown
    assert "KL strength β above 0, in reward per nat; large stays near the reference (0.1)" in shown
