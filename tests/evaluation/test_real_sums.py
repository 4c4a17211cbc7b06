"""GRPO on sums in words: a small chat model in the place of the real one; the stored runs."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import torch
from model_families import save_family

from rlhf_lessons.__main__ import main
from rlhf_lessons.evaluation import RealSumsSettings, load_real_sums, real_sums, run_real_sums
from rlhf_lessons.models import LanguagePolicy
from rlhf_lessons.real_parts import part_damage
from rlhf_lessons.training import SupervisedSettings, train_sft
from rlhf_lessons.worlds import LastNumberChecker, ask_sum, right_sum, sample_sums

SMALL = {
    "terms": 2, "largest": 4, "harder_terms": 2, "harder_largest": 9, "tasks": 8, "measured": 2,
    "tries": 4, "max_new_tokens": 8, "lora": 2, "cycles": 3, "group_size": 8, "batch_size": 64,
    "learning_rate": 1e-2, "save_every": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def chat(tmp_path_factory) -> str:
    """A chat model that answers some sum of the range, seldom the one that it was asked."""
    folder = tmp_path_factory.mktemp("chat")
    save_family("qwen2", folder / "fresh")
    policy = LanguagePolicy.from_pretrained(folder / "fresh")
    dice, examples = random.Random(0), []
    for task in sample_sums(200, 5, terms=2, largest=4):
        (asked,) = real_sums._asked(policy, [task])
        examples.append((asked, f"{dice.randint(2, 8)}."))
    settings = SupervisedSettings(steps=50, batch_size=16, learning_rate=1e-2)
    for _ in train_sft(policy, examples, settings):
        pass
    policy.save_pretrained(folder / "chat")
    return str(folder / "chat")


def settings(chat: str, **more) -> RealSumsSettings:
    return RealSumsSettings(**{"policy": chat, **SMALL, **more})


def words(chat: str, out, **more) -> list[str]:
    options = {"policy": chat, **SMALL, **more, "out": out}
    given = [(f"--{name.replace('_', '-')}", str(value)) for name, value in options.items()]
    return ["run", "sums", *(word for pair in given for word in pair)]


# --- the tasks ------------------------------------------------------------------------------------


def test_no_sum_is_trained_on_and_measured_in_any_order():
    s = RealSumsSettings(tasks=900)
    measured = s.measured_tasks("held_out")
    assert len(set(measured)) == s.measured == len(measured)
    assert measured == dataclasses.replace(s, seed=5).measured_tasks("held_out")
    kept = {frozenset(map(int, task[:-2].split(" + "))) for task in measured}
    trained = s.training_tasks()
    assert len(trained) == 900
    assert not kept & {frozenset(map(int, task[:-2].split(" + "))) for task in trained}
    other = dataclasses.replace(s, seed=1).training_tasks()
    assert other != trained
    for task in trained:
        numbers = [int(word) for word in task[:-2].split(" + ")]
        assert len(numbers) == s.terms and max(numbers) <= s.largest
    for task in s.measured_tasks("harder"):
        assert task.count("+") == s.harder_terms - 1


def test_wrong_settings_are_refused_by_name():
    for bad, message in (
        ({"terms": 1}, "RealSumsSettings: terms must be a whole number ≥ 2, got 1"),
        ({"learning_rate": 0}, "learning_rate must be a finite number > 0"),
        ({"batch_size": 60}, "batch_size must be a multiple of group_size = 8, got 60"),
        ({"terms": 9}, "terms · largest must be at most 99"),
        ({"largest": 3, "measured": 9}, "measured must be at most .* got 9"),
    ):
        with pytest.raises(ValueError, match=message):
            RealSumsSettings(**bad)


# --- a run ----------------------------------------------------------------------------------------


def test_a_run_learns_from_the_checker_and_keeps_what_it_measured(chat, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(words(chat, out, cycles=12)) == 0
    (run,) = load_real_sums(tmp_path)
    assert sorted(path.name for path in out.iterdir()) == ["model", "results.json"]
    assert run.command.startswith("python -m rlhf_lessons run sums --policy")
    assert [point["step"] for point in run.points] == list(range(1, 13))
    said = capsys.readouterr().out
    assert "held-out sums" in said and "results.json" in said
    rewards = [point["reward"] for point in run.points]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3])
    assert run.kl > 0 and run.seconds > 0
    # What was saved is what was measured: once more, from the folder.
    policy = LanguagePolicy.from_pretrained(out / "model", base=chat)
    assert policy.adapted
    again = real_sums._measure(policy, run.settings.measured_tasks("held_out"), run.settings, Bar())
    assert again == run.after["held_out"]
    untrained = LanguagePolicy.from_pretrained(chat)
    tasks = run.settings.measured_tasks("harder")
    assert real_sums._measure(untrained, tasks, run.settings, Bar()) == run.before["harder"]
    # A finished run is shown, not done again.
    before = (out / "results.json").read_bytes()
    assert main(words(chat, out, cycles=12)) == 0
    assert (out / "results.json").read_bytes() == before
    assert main(words(chat, out, cycles=13)) == 1
    assert "holds a run with other settings: cycles (12, now 13)" in capsys.readouterr().err


class Bar:
    def update(self, count):
        pass


def test_a_stopped_run_goes_on_to_the_same_numbers(chat, tmp_path, monkeypatch, capsys):
    whole = run_real_sums(settings(chat), tmp_path / "whole")
    train = real_sums.train_grpo

    def stopped(*arguments, **more):
        loop = train(*arguments, **more)
        yield next(loop)
        yield next(loop)
        raise KeyboardInterrupt

    monkeypatch.setattr(real_sums, "train_grpo", stopped)
    assert main(words(chat, tmp_path / "stopped")) == 130
    assert "To go on: python -m rlhf_lessons run sums" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="results.json of finished runs"):
        load_real_sums(tmp_path / "stopped")
    monkeypatch.undo()
    assert main(words(chat, tmp_path / "stopped")) == 0
    (run,) = load_real_sums(tmp_path / "stopped")
    for name in ("points", "before", "after", "kl"):
        assert getattr(run, name) == getattr(whole, name)


def test_what_is_measured_by_hand(chat):
    """Of a model that always gives one answer, everything is known."""
    s = settings(chat)
    policy = LanguagePolicy.from_pretrained(chat)
    tasks = ["1 + 2 =", "2 + 2 =", "1 + 1 ="]
    sampled = policy.sample

    def three(prompts, max_new_tokens, **more):
        rollout = sampled(prompts, max_new_tokens, **more)
        texts = ["It is 3.", "Three."] * len(prompts)
        ended = torch.arange(len(prompts)) % 4 != 2  # of four tries the third, which is right
        return dataclasses.replace(rollout, responses=tuple(texts[: len(prompts)]), finished=ended)

    policy.sample = three
    found = real_sums._measure(policy, tasks, s, Bar())
    assert found.right == (2, 0, 0) and found.tries == 4
    assert found.finished == 0.75 and found.right_finished == pytest.approx(1 / 9, abs=1e-4)
    assert found.pass_at(1) == pytest.approx(1 / 6)
    assert found.pass_at(2) == pytest.approx((1 - 1 / 6) / 3)
    assert found.likeliest == pytest.approx(
        1 / 3, abs=1e-4
    )  # the first prompt's text is "It is 3."
    assert found.shown == tuple((f"What is {task[:-2]}?", "It is 3.") for task in tasks)


def test_a_begun_answer_by_the_softmax_of_each_digit(chat):
    policy = LanguagePolicy.from_pretrained(chat)
    tasks = ["3 + 4 =", "9 + 9 ="]
    found = real_sums._begun(policy, real_sums._asked(policy, tasks), tasks)
    for task, probability, likeliest in zip(tasks, *map(torch.Tensor.tolist, found), strict=True):
        text = real_sums._asked(policy, [task])[0] + task
        ids, expected, best = policy.tokenizer(text)["input_ids"], 1.0, True
        answer = policy.tokenizer(f" {right_sum(task)}", add_special_tokens=False)["input_ids"]
        for token in answer:
            with torch.no_grad():
                logits = policy.model(input_ids=torch.tensor([ids])).logits[0, -1].double()
            expected *= float(logits.softmax(-1)[token])
            best = best and int(logits.argmax()) == token
            ids = [*ids, token]
        assert probability == pytest.approx(expected, rel=1e-3) and likeliest == best


def test_a_model_without_a_chat_template_is_refused(tmp_path, capsys):
    assert main(words("sums-sft", tmp_path / "run")) == 1
    assert "policy must be a chat model, whose tokenizer has a chat template, got sums-sft" in (
        capsys.readouterr().err
    )


def test_without_the_real_model_the_command_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RLHF_LESSONS_CACHE", str(tmp_path / "nothing"))
    assert main(["run", "sums", "--out", str(tmp_path / "run")]) == 1
    assert "python -m rlhf_lessons real get" in capsys.readouterr().err


def test_what_is_no_run_is_named(tmp_path):
    for text in ("[]", "{}", '{"settings": {"terms": 1}}', "no"):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(ValueError, match=r"results\.json is no record of a run"):
            load_real_sums(tmp_path)


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit):
        main(["run", "sums", "--help"])
    said = capsys.readouterr().out
    for field in dataclasses.fields(RealSumsSettings):
        assert f"--{field.name.replace('_', '-')} " in said
    with pytest.raises(SystemExit):
        main(["run", "sums", "--terms", "1"])
    assert "terms must be a whole number ≥ 2, got 1" in capsys.readouterr().err


# --- what comes with the course -------------------------------------------------------------------

STORED = load_real_sums()


def test_two_seeds_are_stored_of_one_experiment():
    assert [run.settings.seed for run in STORED] == [0, 1]
    for run in STORED:
        assert run.command == f"python -m rlhf_lessons run sums --seed {run.settings.seed}"
        assert run.settings == RealSumsSettings(seed=run.settings.seed)
        assert {"python", "torch", "transformers", "numpy"} <= set(run.versions)
        assert run.seconds < 15 * 60


@pytest.mark.parametrize("run", STORED, ids=lambda run: f"seed {run.settings.seed}")
def test_a_stored_run_is_whole_and_of_these_sums(run):
    s, mark = run.settings, LastNumberChecker()
    assert [point["step"] for point in run.points] == list(range(1, s.cycles + 1))
    assert all(0 <= point["reward"] <= 1 for point in run.points)
    for found in (run.before, run.after):
        assert set(found) == {"held_out", "harder"}
        for kind, measured in found.items():
            tasks = s.measured_tasks(kind)
            assert measured.tries == s.tries and len(measured.right) == s.measured == len(tasks)
            assert 0 <= min(measured.right) and max(measured.right) <= s.tries
            shares = (measured.likeliest, measured.finished, measured.right_finished)
            assert all(0 <= share <= 1 for share in (*shares, *measured.begun))
            assert len(measured.begun) == len(measured.begun_likeliest) == len(tasks)
            # Of two digits each the likeliest, both together may still be less likely than not.
            for probability, likeliest in zip(
                measured.begun, measured.begun_likeliest, strict=True
            ):
                assert likeliest or probability <= 0.5
            questions, answers = zip(*measured.shown, strict=True)
            assert list(questions) == [ask_sum(task) for task in tasks[: len(questions)]]
            # A first try that is right is one of those that were counted.
            right = mark(questions, answers)
            assert all(m <= n for m, n in zip(right, measured.right, strict=False))


@pytest.mark.skipif(bool(part_damage("smollm2")), reason="the real model was not fetched")
def test_the_stored_beginning_is_that_of_the_real_model():
    run = STORED[0]
    policy = real_sums._chat_model(run.settings.policy)
    tasks = run.settings.measured_tasks("held_out")
    begun, likeliest = real_sums._begun(policy, real_sums._asked(policy, tasks), tasks)
    # float32 of another CPU differs by some 1e-6 of a logit; the file has four decimals.
    np.testing.assert_allclose(begun, run.before["held_out"].begun, rtol=0, atol=1e-3)
    same = likeliest.tolist() == np.array(run.before["held_out"].begun_likeliest)
    assert same.mean() > 0.9  # all, but for near ties
