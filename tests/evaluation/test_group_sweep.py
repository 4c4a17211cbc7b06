"""The stored runs say what made them, and a small run has the same form."""

from __future__ import annotations

import json
import math

import pytest

from rlhf_lessons.evaluation import load_group_sweep, run_group_sweep
from rlhf_lessons.evaluation.group_sweep import COMMON, CYCLES, FOLDER, METHODS, SEEDS


def test_a_file_says_what_made_it():
    for path in FOLDER.iterdir():
        values = json.loads(path.read_text(encoding="utf-8"))
        assert values["command"] == "python benchmarks/group_sweep.py"
        assert values["settings"].items() >= {**COMMON, "cycles": CYCLES}.items()
        assert path.stem == "{method}_seed{seed}".format(**values["run"])
        assert {"python", "torch", "transformers", "numpy"} <= set(values["versions"])


def test_all_runs_are_there():
    runs = load_group_sweep()
    assert [(run.method, run.seed) for run in runs] == [(m, s) for m in METHODS for s in SEEDS]
    for run in runs:
        curves = (run.reward_curve, run.kl_curve, run.seconds_curve)
        assert {len(curve) for curve in curves} == {CYCLES}
        assert all(math.isfinite(value) for curve in curves for value in curve)
        assert abs(run.kl_curve[0]) < 1e-3  # every run starts at the reference
        assert list(run.seconds_curve) == sorted(run.seconds_curve)
    for seed in SEEDS:  # the first rollout is the same draw from the same model
        assert len({run.reward_curve[0] for run in runs if run.seed == seed and
                    run.method != "ppo"}) == 1  # fmt: skip


def test_a_small_run_has_the_same_form():
    runs = run_group_sweep(
        seeds=(1,), cycles=2, held_out=4, batch_size=8, minibatch_size=8, epochs=1
    )
    assert [(run.method, run.seed) for run in runs] == [(m, 1) for m in METHODS]
    for run in runs:
        assert len(run.reward_curve) == len(run.seconds_curve) == 2
        assert run.kl > 0 and 0 < run.distinct <= 1
    assert len({run.reward for run in runs}) == 3 or len({run.kl for run in runs}) == 3
    with pytest.raises(ValueError, match=r"methods must be of .*, got 'dpo'"):
        run_group_sweep(("dpo",))
