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


STORED = load_real_frontier()


def test_no_run_is_stored_twice_and_all_are_of_one_experiment():
    asked = [(run.settings.method, run.settings.beta, run.settings.seed) for run in STORED]
    assert len(set(asked)) == len(asked)
    for run in STORED:
        s = run.settings
        assert (s.data, s.policy, s.judge) == ("snippets", "smollm2-snippets", "people")
        assert run.command.startswith("python -m rlhf_lessons run sentiment --data snippets")
    # What is set once for a method holds for all its β and seeds.
    for method in {run.settings.method for run in STORED}:
        same = [run.settings for run in STORED if run.settings.method == method]
        own = {dataclasses.replace(s, beta=1.0, seed=0, measure_every=1) for s in same}
        assert len(own) == 1, method


def test_every_seed_has_what_the_lesson_compares():
    for seed in {run.settings.seed for run in STORED}:
        methods = [run.settings.method for run in STORED if run.settings.seed == seed]
        assert methods.count("dpo") >= 2 and "bon" in methods
    assert any((run.settings.method, run.settings.beta) == ("dpo", 0.1) for run in STORED)


@pytest.mark.parametrize("run", STORED, ids=lambda run: f"{run.name}, seed {run.settings.seed}")
def test_a_stored_run_holds_measurements_that_can_be(run):
    steps = [point["step"] for point in run.points]
    assert steps == sorted(set(steps))
    for point in run.points:
        assert abs(point["reward"]) < 9 and point["reward_error"] > 0 and abs(point["vader"]) <= 1
    if run.settings.method == "bon":
        for point in run.points:
            n = point["step"]
            assert point["kl"] == pytest.approx(math.log(n) - (n - 1) / n)
        rewards = [point["reward"] for point in run.points]
        assert rewards == sorted(rewards)  # the best of more candidates is no worse
        return
    assert steps[0] == 0 and steps[-1] == run.settings.steps
    assert run.points[0]["kl"] == 0 < run.points[-1]["kl"]
    for point in run.points:
        assert 0 < point["distinct"] <= 1 and 1 < point["untouched_loss"] < 12
    # All of a seed start from one model with one set of openings: what differs is a token or two.
    starts = [
        other.points[0]["reward"]
        for other in STORED
        if other.settings.seed == run.settings.seed and other.settings.method != "bon"
    ]
    assert abs(run.points[0]["reward"] - starts[0]) < run.points[0]["reward_error"]
    assert len(run.texts) == len(run.texts_before) > 0
    assert [prompt for prompt, _, _ in run.texts] == [prompt for prompt, _, _ in run.texts_before]


def test_no_stored_text_goes_on_from_more_than_eight_tokens():
    """Openings of other people's texts stay short; every word after them is the model's."""
    for path in REAL_FRONTIER_FOLDER.glob("**/results.json"):
        record = json.loads(path.read_text())
        for prompt, _, _ in record["texts"] + record["texts_before"]:
            assert len(prompt.split()) <= 8 and len(prompt) < 60
