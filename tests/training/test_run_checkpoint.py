"""Runs that are interrupted and taken up, for every loop that saves through the one room."""

from __future__ import annotations

import math
import shutil

import pytest
import torch

from rlhf_lessons.formulas import ipo_loss
from rlhf_lessons.models import LanguagePolicy, RewardModel, small_gpt2, word_tokenizer
from rlhf_lessons.training import (
    DPOSettings,
    KTOSettings,
    RewardSettings,
    SupervisedSettings,
    train_distillation,
    train_dpo,
    train_kto,
    train_reward_model,
    train_sft,
)
from rlhf_lessons.training.run_checkpoint import fingerprint
from rlhf_lessons.worlds import thumbs_of_pairs

PAIRS = [
    ("a", "b .", "c c c ."),
    ("c a a", "d", "b b ."),
    ("", "a b .", "d ."),
    ("b b", "c . . .", "a"),
    ("d", "d d", "a a a"),
]
EXAMPLES = [(prompt, chosen) for prompt, chosen, _ in PAIRS]
COMMON = {"steps": 7, "batch_size": 3, "save_every": 2, "warmup": 0.2, "learning_rate": 3e-3}


def policy(seed: int = 1, width: int = 16) -> LanguagePolicy:
    tokenizer = word_tokenizer(["a", "b", "c", "d", "."])
    model = small_gpt2(len(tokenizer), width=width, layers=1, heads=2, context=12, seed=seed)
    return LanguagePolicy(model, tokenizer)


def reward_model(seed: int = 1, width: int = 16) -> RewardModel:
    return RewardModel.from_policy(policy(seed, width))


def sft(model, data=EXAMPLES, **kw):
    checkpoint = kw.pop("checkpoint", None)
    settings = SupervisedSettings(**{**COMMON, **kw})
    return train_sft(model, data, settings, checkpoint=checkpoint)


def distillation(model, data=EXAMPLES, **kw):
    checkpoint = kw.pop("checkpoint", None)
    settings = SupervisedSettings(**{**COMMON, **kw})
    return train_distillation(model, policy(5), data, settings, checkpoint=checkpoint)


def reward(model, data=PAIRS, **kw):
    checkpoint = kw.pop("checkpoint", None)
    settings = RewardSettings(**{"average": 0.5, **COMMON, **kw})
    return train_reward_model(model, data, settings, checkpoint=checkpoint)


def dpo(model, data=PAIRS, **kw):
    checkpoint, loss = kw.pop("checkpoint", None), kw.pop("loss", None)
    given = {} if loss is None else {"loss": loss}
    settings = DPOSettings(**{**COMMON, **kw})
    return train_dpo(model, data, settings, checkpoint=checkpoint, **given)


def kto(model, data=PAIRS, **kw):
    checkpoint = kw.pop("checkpoint", None)
    settings = KTOSettings(**{**COMMON, **kw})
    return train_kto(model, thumbs_of_pairs(data), settings, checkpoint=checkpoint)


LOOPS = {
    "sft": (sft, policy),
    "distillation": (distillation, policy),
    "reward_model": (reward, reward_model),
    "dpo": (dpo, policy),
    "kto": (kto, policy),
}
each_loop = pytest.mark.parametrize("name", LOOPS)


def weights(model) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


@each_loop
def test_a_run_taken_up_gives_what_it_would_have_given(name, tmp_path):
    loop, make = LOOPS[name]
    straight = make()
    expected = list(loop(straight))

    records = []
    for record in loop(make(), checkpoint=tmp_path):
        records.append(record)
        if record.step == 5:  # saved after steps 2 and 4
            break
    resumed = make()
    again = list(loop(resumed, checkpoint=tmp_path))
    assert [record.step for record in again] == [5, 6, 7]
    assert records[:4] + again == expected
    assert torch.equal(weights(resumed), weights(straight))
    # A finished run has nothing left to do, and leaves the trained weights.
    finished = make()
    assert list(loop(finished, checkpoint=tmp_path)) == []
    assert torch.equal(weights(finished), weights(straight))
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.safetensors"]


@each_loop
def test_what_differs_is_named_before_anything_changes(name, tmp_path):
    loop, make = LOOPS[name]
    next(run := loop(make(), checkpoint=tmp_path, save_every=1))
    run.close()
    path = tmp_path / f"{name}.safetensors"
    saved = path.read_bytes()
    data = PAIRS if name in ("reward_model", "dpo", "kto") else EXAMPLES
    model = {"reward_model": "reward model", "dpo": "reference", "kto": "reference"}
    model = model.get(name, "policy")
    what = {"reward_model": "pairs", "dpo": "pairs", "kto": "thumbs"}.get(name, "examples")
    same = {"checkpoint": tmp_path, "save_every": 1}
    for given, changes, expected in (
        (make(), {"learning_rate": 0.1}, r"settings.learning_rate \(0.003, now 0.1\)"),
        (make(), {"accumulate": 2}, r"settings.accumulate \(1, now 2\)"),
        (make(), {"data": data[::-1]}, rf"differs in {what} \("),
        (make(2), {}, rf"differs in {model} \("),
        (make(width=8), {}, r"architecture.transformer.wte.weight \(\(\d+, 16\) of"),
    ):
        before = weights(given)
        with pytest.raises(ValueError, match=f"train_{name}: checkpoint must .*{expected}"):
            loop(given, **{**same, **changes})
        assert torch.equal(weights(given), before)
        assert path.read_bytes() == saved


def test_another_formula_is_another_run(tmp_path):
    next(dpo(policy(), checkpoint=tmp_path, save_every=1))
    with pytest.raises(ValueError, match=r"differs in loss \(dpo_loss, now ipo_loss\)"):
        dpo(policy(), checkpoint=tmp_path, save_every=1, loss=ipo_loss)


def damaged(content: bytes) -> dict[str, bytes]:
    changed = bytearray(content)
    changed[-5] ^= 1  # one bit of a weight
    return {
        "nothing": b"",
        "cut off": content[: len(content) // 2],
        "one byte short": content[:-1],
        "one bit changed": bytes(changed),
        "something else": b"nothing of ours" * 100,
    }


@pytest.mark.parametrize("how", damaged(bytes(9)))
def test_a_damaged_file_is_refused_and_kept(how, tmp_path):
    next(sft(policy(), checkpoint=tmp_path, save_every=1))
    path = tmp_path / "sft.safetensors"
    broken = damaged(path.read_bytes())[how]
    path.write_bytes(broken)
    given = policy()
    before = weights(given)
    with pytest.raises(ValueError, match="train_sft: checkpoint must .*cannot be read: .*delete"):
        next(sft(given, checkpoint=tmp_path, save_every=1))
    assert path.read_bytes() == broken
    assert torch.equal(weights(given), before)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    path = tmp_path / "run"
    path.write_text("mine")
    with pytest.raises(ValueError, match="train_sft: checkpoint must be a folder, got the file"):
        sft(policy(), checkpoint=path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("stop", [OSError("no space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("place", ["safetensors.torch.save_file", "os.fsync", "os.replace"])
def test_an_interruption_while_saving_leaves_the_last_checkpoint(
    stop, place, tmp_path, monkeypatch
):
    run = sft(policy(), checkpoint=tmp_path, save_every=1)
    expected = [next(run), next(run)][1:] + list(sft(policy(), save_every=1))[2:]
    path = tmp_path / "sft.safetensors"
    before = path.read_bytes()

    def interrupt(*arguments, **keywords):
        raise stop

    with monkeypatch.context() as patch:
        patch.setattr(place, interrupt)
        wanted = OSError if isinstance(stop, OSError) else KeyboardInterrupt
        with pytest.raises(wanted):
            next(run)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]  # nothing half-written is left behind
    assert list(sft(policy(), checkpoint=tmp_path, save_every=1)) == expected[1:]


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="train_dpo: could not write .* no space left .* unchanged"):
        next(dpo(policy(), checkpoint=tmp_path, save_every=1))


def test_a_checkpoint_moves_between_folders_and_keeps_its_name(tmp_path):
    next(sft(policy(), checkpoint=tmp_path / "a" / "b", save_every=1))
    shutil.move(tmp_path / "a", tmp_path / "c")
    again = next(sft(policy(), checkpoint=str(tmp_path / "c" / "b"), save_every=1))
    assert again.step == 2


def test_fingerprints_tell_apart():
    ones = torch.ones(2, 3)
    prints = [
        fingerprint(parts)
        for parts in (
            [ones],
            [ones.T.contiguous()],
            [ones.double()],
            [ones * 2],
            [ones, ones],
            [ones.bfloat16()],
            ["ab", "c"],
            ["a", "bc"],
            [],
        )
    ]
    assert len(set(prints)) == len(prints)
    assert fingerprint([ones.T]) == fingerprint([ones.T.clone()])
    assert fingerprint([torch.tensor(math.pi)]) == fingerprint([torch.tensor(math.pi)])
