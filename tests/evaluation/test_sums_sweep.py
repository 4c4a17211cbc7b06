"""The stored runs say what made them and show what they are to show; small runs have their form."""

from __future__ import annotations

import dataclasses
import json
import math
from itertools import combinations

import pytest

from rlhf_lessons.evaluation import SUMS_METHODS, SumsRun, load_sums_sweep, run_sums
from rlhf_lessons.evaluation.sums_sweep import COMMAND, FOLDER, SumsSweepSettings, main
from rlhf_lessons.training import ExpertIterationSettings, GRPOSettings, SupervisedSettings
from rlhf_lessons.worlds import SumsChecker, right_sum

SEEDS = (0, 1, 2)


def test_a_file_says_what_made_it():
    expected = json.loads(json.dumps(dataclasses.asdict(SumsSweepSettings())))
    paths = sorted(FOLDER.iterdir())
    assert {path.stem for path in paths} == {f"{m}_seed{s}" for m in SUMS_METHODS for s in SEEDS}
    for path in paths:
        values = json.loads(path.read_text(encoding="utf-8"))
        assert values["command"] == COMMAND and values["settings"] == expected
        assert path.stem == f"{values['run']['method']}_seed{values['run']['seed']}"
        assert {"python", "torch", "transformers", "numpy"} <= set(values["versions"])


def test_all_runs_are_there_and_whole():
    runs = load_sums_sweep()
    settings = SumsSweepSettings()
    assert [(run.method, run.seed) for run in runs] == [(m, s) for m in SUMS_METHODS for s in SEEDS]
    for run in runs:
        assert run.tries == settings.tries
        for counts in (run.right, run.fooled):
            assert set(counts) == {"held_out", "harder"}
            for row in counts.values():
                assert len(row) == settings.measured and 0 <= min(row) <= max(row) <= run.tries
        for name, row in run.right.items():  # what is right is right for the other checker, too
            assert all(f >= r for r, f in zip(row, run.fooled[name], strict=True))
        for prompt, response in run.shown:
            assert prompt.count("+") == settings.terms - 1
            assert right_sum(prompt) > 0 and SumsChecker()([prompt], [response])[0] in (0, 1)
        curves = (run.reward_curve, run.right_curve, run.length_curve)
        assert len({len(curve) for curve in curves}) == 1
        assert all(math.isfinite(value) for curve in curves for value in curve)
        if run.method != "grpo_fooled":
            assert run.reward_curve == run.right_curve
    samples = {run.samples for run in runs if run.method != "sft"}
    assert len(samples) == 1 and samples.pop() > 0  # equal samples


def means(k, tasks="held_out"):
    runs = load_sums_sweep()
    return {
        method: [run.pass_at(k, tasks) for run in runs if run.method == method]
        for method in SUMS_METHODS
    }


def test_both_ways_raise_pass_at_1_on_tasks_that_were_held_out():
    """Every seed is above every seed of the fine-tuned model."""
    passed = means(1)
    for method in ("grpo", "expert_iteration"):
        assert min(passed[method]) > max(passed["sft"]) + 0.05
    assert 0.1 < min(passed["sft"]) and max(passed["sft"]) < 0.5


def test_what_one_of_many_tries_gets_right_does_not_rise():
    """It becomes likelier what the policy could do already."""
    passed = means(16)
    before = sum(passed["sft"]) / 3
    assert before > 0.98
    for method in ("grpo", "expert_iteration"):
        assert sum(passed[method]) / 3 < before


def test_expert_iteration_loses_what_it_did_not_train_on():
    passed = means(1, "harder")
    assert max(passed["expert_iteration"]) < 0.7 * min(passed["sft"])


def test_what_fools_the_checker_is_not_right():
    """It scores higher with its own checker than what is right would explain."""
    for run in load_sums_sweep():
        if run.method == "grpo_fooled":
            gap = (sum(run.fooled["held_out"]) - sum(run.right["held_out"])) / (
                run.tries * len(run.right["held_out"])
            )
            assert gap > 0.2 and run.reward_curve[-1] - run.right_curve[-1] > 0.1


def test_pass_at_k_is_the_share_of_all_choices_that_hold_a_right_one():
    counts = (0, 1, 3, 5)
    run = SumsRun("sft", 0, 0, (), (), (), {"held_out": counts, "harder": (5,)}, {}, 5, 1.0, ())
    for k in (1, 2, 5):
        shares = [
            sum(any(i < c for i in chosen) for chosen in combinations(range(5), k))
            / math.comb(5, k)
            for c in counts
        ]
        assert run.pass_at(k) == pytest.approx(sum(shares) / 4)
    assert run.pass_at(3, "harder") == 1
    with pytest.raises(ValueError, match="k must be a whole number from 1 to n = 5, got 6"):
        run.pass_at(6)


TINY = SumsSweepSettings(
    tasks=40, measured=3, tries=4,
    grpo=GRPOSettings(cycles=2, group_size=8, batch_size=64, max_new_tokens=16),
    expert_iteration=ExpertIterationSettings(
        rounds=1, batch_size=128, max_new_tokens=16,
        fine_tuning=SupervisedSettings(steps=2, batch_size=8),
    ),
)  # fmt: skip


@pytest.mark.parametrize("method", SUMS_METHODS)
def test_a_small_run_has_the_same_form(method):
    run = run_sums(method, 1, TINY)
    assert (run.method, run.seed) == (method, 1)
    assert run.samples == (0 if method == "sft" else 128)
    assert len(run.reward_curve) == {"sft": 0, "expert_iteration": 1}.get(method, 2)
    assert [len(row) for row in run.right.values()] == [3, 3]
    assert 1 <= run.length <= 16 and len(run.shown) == 3
    assert run == run_sums(method, 1, TINY)


def test_another_method_is_refused():
    with pytest.raises(ValueError, match=r"run_sums: method must be one of .* got 'dpo'"):
        run_sums("dpo", 0)


def test_the_command_writes_what_the_loader_reads(tmp_path, monkeypatch):
    import rlhf_lessons.evaluation.sums_sweep as module

    monkeypatch.setattr(module, "run_sums", lambda *key: run_sums(*key, TINY))
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    assert main(["--folder", str(tmp_path), "--seeds", "1"]) == 0
    runs = load_sums_sweep()
    assert [run.method for run in runs] == list(SUMS_METHODS)
    assert runs == [run_sums(method, 1, TINY) for method in SUMS_METHODS]
