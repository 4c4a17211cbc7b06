"""The frontier: its numbers by hand, its files, and a sweep in miniature."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from rlhf_lessons.evaluation.frontier import (
    FRONTIER_METHODS,
    FrontierSettings,
    frontier_point,
    load_frontier,
    main,
    run_frontier,
)
from rlhf_lessons.models import ResponseTree, table_policy

PACKAGE = "rlhf_lessons.evaluation.frontier"
SMALL = FrontierSettings(
    pairs=40,
    dpo_steps=3,
    dpo_rounds=3,
    supervised_steps=2,
    reward_steps=2,
    ppo_cycles=1,
    checkpoints=2,
    samples=24,
    checkpoint_samples=8,
    pool_prompts=2,
    pool_samples=64,
    larger_width=8,
    larger_steps=2,
)


# --- what is measured -----------------------------------------------------------------------------


def test_a_point_against_the_exact_sums():
    """KL and mean reward of a table, both known by enumeration, within five standard errors."""
    tree = ResponseTree(["good", "bad"], 3)
    draw = torch.Generator().manual_seed(0)
    reference, logits = (
        torch.randn(len(tree.prefixes), len(tree.actions), generator=draw, dtype=torch.float64)
        for _ in range(2)
    )

    def judge(prompts, responses):
        return np.array([text.split().count("good") - 0.3 for text in responses])

    point = frontier_point(
        table_policy(tree, logits),
        table_policy(tree, reference),
        [""] * 3000,
        judge=judge,
        max_new_tokens=3,
        step=2,
        total=5,
        texts=2,
    )
    rewards = torch.from_numpy(judge([], tree.responses))
    exact_reward = float((tree.response_log_probs(logits).exp() * rewards).sum())
    exact_kl = float(tree.kl(logits, reference))
    assert abs(point.kl - exact_kl) < 5 * point.kl_error < 0.3 * exact_kl
    assert abs(point.reward - exact_reward) < 5 * point.reward_error < 0.2
    assert (point.step, point.total, point.samples, len(point.texts)) == (2, 5, 3000, 2)
    prompt, text, reward = point.texts[0]
    assert reward == pytest.approx(judge([prompt], [text])[0])


def test_a_policy_is_no_way_from_itself():
    tree = ResponseTree(["good", "bad"], 2)
    logits = torch.randn(len(tree.prefixes), len(tree.actions), dtype=torch.float64)
    policy = table_policy(tree, logits)
    point = frontier_point(
        policy, policy, [""] * 8, judge=lambda p, r: np.arange(8.0), max_new_tokens=2
    )
    assert point.kl == 0 and point.reward == 3.5
    for prompts in ([], [""]):
        with pytest.raises(ValueError, match="prompts must be at least 2"):
            frontier_point(policy, policy, prompts, max_new_tokens=2)


# --- the sweep ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Every method once, in miniature, through the command."""
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{PACKAGE}.command.FrontierSettings", lambda: SMALL)
        for method in FRONTIER_METHODS.values():
            small = dataclasses.replace(method, betas=method.betas[:1])
            patch.setitem(FRONTIER_METHODS, method.name, small)
        assert main(["--folder", str(folder), "run", "--seeds", "0"]) == 0
    return folder


def test_every_method_leaves_a_file_that_says_how_it_was_made(sweep):
    runs = {run.method: run for run in load_frontier(sweep)}
    assert list(runs) == list(FRONTIER_METHODS)
    for name, run in runs.items():
        assert run.settings == dataclasses.asdict(SMALL) and run.seed == 0
        assert run.versions["torch"] and "run --seeds 0" in run.command
        assert run.points, name
        assert all(math.isfinite(point.kl) and point.kl >= 0 for point in run.points)
        assert run.last.step == run.last.total
    assert [point.step for point in runs["dpo"].points] == [1, 3]
    assert [point.samples for point in runs["dpo"].points] == [8, 24]
    assert len(runs["iterated-dpo"].points) == SMALL.dpo_rounds
    assert [point.step for point in runs["best-of-n-true"].points] == [1, 2, 4, 8, 16]
    assert runs["sft"].last.kl == 0 and len(runs["sft"].rewards) == 24
    for run in runs.values():  # rewards are those of the last point's responses, to three digits
        if run.rewards:
            assert np.mean(run.rewards) == pytest.approx(run.last.reward, abs=6e-4)
            assert run.rewards[:2] == tuple(reward for _, _, reward in run.last.texts)
        assert all(len(point.texts) <= 2 for point in run.points)
    # The same prompts in all runs, so that rewards can be paired.
    prompts = {run.last.texts[0][0] for run in runs.values() if run.last.texts and run.rewards
               and not FRONTIER_METHODS[run.method].genres}  # fmt: skip
    assert len(prompts) == 1


def test_other_genres_are_measured_than_were_labelled(sweep):
    for run in load_frontier(sweep):
        if FRONTIER_METHODS[run.method].genres and run.last.texts:
            for prompt, _, _ in run.last.texts:
                assert not {"documentary", "mystery"} & set(prompt.split())


def test_what_is_done_is_not_done_again(sweep, capsys):
    files = {path.name: path.stat().st_mtime_ns for path in sweep.iterdir()}
    victim = sweep / "sft_seed0.json"
    content = victim.read_text()
    victim.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{PACKAGE}.command.FrontierSettings", lambda: SMALL)
        main(["--folder", str(sweep), "run", "--methods", "sft", "preferred-ft"])
    assert "preferred" not in capsys.readouterr().out
    now = {path.name: path.stat().st_mtime_ns for path in sweep.iterdir()}
    assert now.keys() == files.keys()
    assert all(now[name] == files[name] for name in files if name != victim.name)
    # The same numbers again, whatever ran in between.
    kept = ("points", "rewards")
    then, again = (json.loads(text)["run"] for text in (content, victim.read_text()))
    assert [then[name] for name in kept] == [again[name] for name in kept]


def test_a_sweep_mixes_no_settings(sweep, capsys):
    """The files are those of ``SMALL``: the command's own settings would do other runs."""
    files = {path: path.read_bytes() for path in sweep.iterdir()}
    assert main(["--folder", str(sweep), "run", "--methods", "larger-sft"]) == 1
    assert "made with other settings: pairs (" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in sweep.iterdir()} == files


def test_an_interrupted_run_leaves_no_file(tmp_path, monkeypatch):
    def stop(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"{PACKAGE}.point.sample_kl", stop)
    with pytest.raises(KeyboardInterrupt):
        run_frontier("sft", seed=0, settings=SMALL, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_and_files_are_named(tmp_path, sweep, capsys):
    with pytest.raises(ValueError, match="method must be one of sft, dpo"):
        run_frontier("gpt")
    for method, beta in (("dpo", None), ("dpo", 0.0), ("dpo", -1.0), ("sft", 0.1)):
        with pytest.raises(ValueError, match="run_frontier: beta must be"):
            run_frontier(method, beta)
    with pytest.raises(ValueError, match="FrontierSettings: pairs must be a whole number ≥ 1"):
        FrontierSettings(pairs=0)
    with pytest.raises(ValueError, match="temperature must be a finite number > 0, got inf"):
        FrontierSettings(temperature=math.inf)
    with pytest.raises(FileNotFoundError, match="make them: python -m rlhf_lessons frontier run"):
        load_frontier(tmp_path)
    assert main(["--folder", str(tmp_path), "table"]) == 1
    good = json.loads((sweep / "sft_seed0.json").read_text())
    for broken, message in (
        ("{", "is no run"),
        (json.dumps({**good, "run": {"method": "gpt"}}), "no method is called 'gpt'"),
        (json.dumps({**good, "run": {"method": "sft"}}), "KeyError.'points'"),
    ):
        (tmp_path / "x_seed0.json").write_text(broken)
        with pytest.raises(ValueError, match=f"x_seed0.json.*{message}"):
            load_frontier(tmp_path)
    assert main(["--folder", str(sweep), "table"]) == 0
    assert "iterated-dpo" in capsys.readouterr().out
    assert main(["--folder", str(sweep), "list"]) == 0


def test_the_runs_that_come_with_the_course_are_the_sweeps_own():
    runs = load_frontier()
    assert len({(run.method, run.beta, run.seed) for run in runs}) == len(runs)
    for run in runs:
        assert run.beta in FRONTIER_METHODS[run.method].betas
        assert run.settings == dataclasses.asdict(FrontierSettings())
        assert run.command.startswith("python -m rlhf_lessons frontier run")
        assert all(math.isfinite(point.kl + point.reward) for point in run.points)
    dpo = {run.beta for run in runs if run.method == "dpo"}
    assert dpo == set(FRONTIER_METHODS["dpo"].betas)
