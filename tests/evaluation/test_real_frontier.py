"""The stored frontier of the real model: whole, consistent, and read from any folder."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from rlhf_lessons.evaluation import (
    REAL_FRONTIER_FOLDER,
    SentimentRun,
    SentimentSettings,
    load_real_frontier,
)


def put(folder: Path, finished: bool = True, **settings) -> None:
    run = SentimentRun(SentimentSettings(**settings), {}, finished=finished, points=({"step": 0},))
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(dataclasses.asdict(run)))


def test_runs_come_by_method_beta_and_seed_and_unfinished_ones_stay_out(tmp_path):
    put(tmp_path / "a" / "x", method="ppo", beta=0.5, seed=1)
    put(tmp_path / "b" / "x", method="dpo", beta=0.1, seed=1)
    put(tmp_path / "c", method="dpo", beta=0.1)
    put(tmp_path / "d", method="dpo", beta=1.0)
    put(tmp_path / "e", finished=False, method="bon")
    found = [
        (r.settings.method, r.settings.beta, r.settings.seed) for r in load_real_frontier(tmp_path)
    ]
    assert found == [("dpo", 1.0, 0), ("dpo", 0.1, 0), ("dpo", 0.1, 1), ("ppo", 0.5, 1)]


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="folder must hold results.json of finished runs"):
        load_real_frontier(tmp_path)
    put(tmp_path / "a")
    path = tmp_path / "a" / "results.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match=r"results\.json is no record of a run"):
        load_real_frontier(tmp_path)
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"results\.json is no record of a run"):
        load_real_frontier(tmp_path)


def test_the_stored_runs_are_those_of_one_experiment():
    runs = load_real_frontier()
    for seed in {run.settings.seed for run in runs}:
        own = [run for run in runs if run.settings.seed == seed]
        betas = {
            m: {r.settings.beta for r in own if r.settings.method == m} for m in ("dpo", "ppo")
        }
        assert len(betas["dpo"]) >= 4 and max(betas["dpo"]) / min(betas["dpo"]) >= 30
        assert any(run.settings.method == "bon" for run in own)
        # Those of one method learn at one pace from one start; only β differs.
        for method in ("dpo", "ppo"):
            same = [run for run in own if run.settings.method == method]
            starts = [run.points[0] for run in same]
            assert all(start == starts[0] and start["kl"] == 0 for start in starts)
            steps = [
                (r.settings.steps, r.settings.learning_rate, r.settings.batch_size) for r in same
            ]
            assert len(set(steps)) <= 1
    for run in runs:
        s = run.settings
        assert (s.data, s.policy, s.judge) == ("snippets", "smollm2-snippets", "people")
        assert run.command.startswith("python -m rlhf_lessons run sentiment --data snippets")
        for point in run.points:
            assert abs(point["reward"]) < 9 and abs(point["vader"]) <= 1 and point["kl"] >= 0
            if s.method == "bon":
                n = point["step"]
                assert point["kl"] == pytest.approx(math.log(n) - (n - 1) / n)
            else:
                assert 0 < point["distinct"] <= 1 and 1 < point["untouched_loss"] < 12


def test_no_stored_text_goes_on_from_more_than_eight_tokens():
    """Openings of other people's texts stay short; every word after them is the model's."""
    for path in REAL_FRONTIER_FOLDER.glob("**/results.json"):
        record = json.loads(path.read_text())
        for prompt, _, _ in record["texts"] + record["texts_before"]:
            assert len(prompt.split()) <= 8 and len(prompt) < 60
