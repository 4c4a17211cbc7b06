"""The stored runs say what made them, and a small run has the same form."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from rlhf_lessons.evaluation import load_ppo_sweep, run_ppo_sweep
from rlhf_lessons.evaluation.ppo_sweep import BETAS, FOLDER, SETTINGS
from rlhf_lessons.worlds import gold_reward


def test_a_file_says_what_made_it():
    for path in FOLDER.iterdir():
        values = json.loads(path.read_text(encoding="utf-8"))
        assert values["command"] == "python benchmarks/ppo_sweep.py"
        made_with = {**values["settings"], "beta": values["run"]["beta"]}
        expected = dataclasses.replace(SETTINGS, beta=made_with["beta"])
        assert made_with.items() >= dataclasses.asdict(expected).items()
        assert path.stem == f"{values['run']['judge']}_beta{made_with['beta']:g}"
        assert {"python", "torch", "transformers", "numpy"} <= set(values["versions"])


def test_all_runs_are_there():
    runs = load_ppo_sweep()
    wanted = [(judge, beta) for judge, betas in BETAS.items() for beta in betas]
    assert [(run.judge, run.beta) for run in runs] == wanted
    for run in runs:
        curves = (run.proxy_curve, run.gold_curve, run.kl_curve)
        assert {len(curve) for curve in curves} == {SETTINGS.cycles}
        assert all(math.isfinite(value) for curve in curves for value in curve)
        assert abs(run.kl_curve[0]) < 1e-3  # every run starts at the reference
        for prompt, response, _, gold in run.samples:
            assert gold == pytest.approx(gold_reward([prompt], [response])[0], abs=1e-3)


def test_a_small_run_has_the_same_form():
    settings = dataclasses.replace(
        SETTINGS, cycles=2, batch_size=4, minibatch_size=4, epochs=1, final_learning_rate=None
    )
    (run,) = run_ppo_sweep({"gold": (0.5,)}, settings, held_out=4)
    assert (run.judge, run.beta, len(run.gold_curve), len(run.samples)) == ("gold", 0.5, 2, 4)
    assert run.kl > 0 and 0 <= run.clean <= 1 and 0 < run.distinct <= 1
