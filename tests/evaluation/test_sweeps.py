"""One file a run: written as a whole, taken up again, refused when it is another sweep's."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass

import pytest
import torch

from rlhf_lessons.evaluation.sweeps import do_runs, is_done, read_runs, write_run

SETTINGS = {"steps": 3, "betas": (0.1, 0.2)}


@dataclass(frozen=True)
class Run:
    seed: int
    curve: list[float]


def make(run, made_by):
    return Run(**run)


def test_a_run_comes_back_with_what_it_was_made_by(tmp_path):
    for seed in (1, 0):
        path = tmp_path / "runs" / f"seed{seed}.json"
        write_run(path, {"seed": seed, "curve": [0.5]}, command="make it", settings=SETTINGS)
    assert read_runs(path.parent, make, "make it") == [Run(0, [0.5]), Run(1, [0.5])]
    (made_by,) = {json.dumps(found) for found in read_runs(path.parent, lambda _, by: by, "")}
    values = json.loads(made_by)
    assert values["command"] == "make it" and values["settings"]["steps"] == 3
    assert torch.__version__.startswith(values["versions"]["torch"])  # "2.6.0+cu124"
    assert values["versions"]["python"] == platform.python_version()


def test_a_run_is_done_once(tmp_path):
    path = tmp_path / "run.json"
    assert not is_done(path, SETTINGS)
    write_run(path, {"seed": 0, "curve": []}, command="", settings=SETTINGS)
    assert is_done(path, SETTINGS)  # a tuple comes back from JSON as a list
    expected = (
        r"other settings: betas \(\[0.1, 0.2\], now \[0.1\]\), size \(none, now None\); delete"
    )
    with pytest.raises(ValueError, match=expected):
        is_done(path, {"steps": 3, "betas": (0.1,), "size": None})
    with pytest.raises(ValueError, match=r"other settings: betas \(.*, now none\); delete"):
        is_done(path, {"steps": 3})


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_sweep_goes_on_where_it_was_stopped(tmp_path, capsys, two_threads):
    paths = {seed: tmp_path / f"seed{seed}.json" for seed in range(3)}
    done = []

    def do(seed):
        if seed == 1 and len(done) == 1:
            raise KeyboardInterrupt
        done.append((seed, torch.get_num_threads()))
        return {"seed": seed, "curve": []}, f"seed {seed} done"

    with pytest.raises(KeyboardInterrupt):
        do_runs(paths, do, command="", settings=SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["seed0.json"]
    assert torch.get_num_threads() == 2
    done.append("again")
    assert do_runs(paths, do, command="", settings=SETTINGS) == 0
    assert done == [(0, 1), "again", (1, 1), (2, 1)]
    assert "seed2: seed 2 done" in capsys.readouterr().out
    assert do_runs({3: tmp_path / "seed3.json", **paths}, do, command="", settings={}) == 1
    assert "made with other settings" in capsys.readouterr().err and len(done) == 4


def test_an_interrupted_write_leaves_nothing(tmp_path):
    path = tmp_path / "run.json"
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_run(path, {"loss": float("nan")}, command="", settings={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "run.json is no run"),
        ("[]", "must hold settings and a run"),
        ('{"run": {}}', "must hold settings and a run"),
        ('{"settings": {}, "run": {"seed": 1}}', "no run of this sweep: .*curve"),
    ],
)
def test_what_is_no_run_is_named(tmp_path, text, message):
    (tmp_path / "run.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_runs(tmp_path, make, "")


def test_no_runs_say_how_to_make_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="must hold runs, got none; make them: do it"):
        read_runs(tmp_path, make, "do it")
