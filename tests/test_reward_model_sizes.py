"""The file of results of ``benchmarks.reward_model_sizes``: it goes on, and mixes nothing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEADER = {"command": "test", "ceiling": 0.7}
CASES = [{"pairs": 300, "passes": 4, "seed": seed} for seed in (0, 1)]


@pytest.fixture(scope="module")
def keep_results():
    path = ROOT / "benchmarks" / "reward_model_sizes.py"
    spec = importlib.util.spec_from_file_location("reward_model_sizes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.keep_results


class Measured(list):
    """Measures nothing, and remembers what it was asked."""

    def __call__(self, **case) -> dict:
        self.append(case)
        return {"accuracy": len(self) / 10}


def test_an_interrupted_run_goes_on_where_it_was(keep_results, tmp_path):
    def broken(**case) -> dict:
        if case["seed"] == 1:
            raise KeyboardInterrupt
        return {"accuracy": 0.5}

    output = tmp_path / "results.json"
    with pytest.raises(KeyboardInterrupt):
        keep_results(output, HEADER, CASES, broken)
    measure = Measured()
    keep_results(output, HEADER, CASES, measure)
    assert measure == CASES[1:]
    kept = json.loads(output.read_text(encoding="utf-8"))
    assert kept["ceiling"] == 0.7 and "torch" in kept["versions"]
    assert [(run["seed"], run["accuracy"]) for run in kept["runs"]] == [(0, 0.5), (1, 0.1)]
    assert [run["settings"]["seed"] for run in kept["runs"]] == [0, 1]


def test_another_reading_is_another_case(keep_results, tmp_path):
    output, measure = tmp_path / "results.json", Measured()
    read = [CASES[0] | {"reads": name} for name in ("every token", "else")]
    keep_results(output, HEADER, read, measure)
    keep_results(output, HEADER, [*CASES, *read], measure)
    assert measure == [*read, *CASES]
    assert len(json.loads(output.read_text(encoding="utf-8"))["runs"]) == 4


@pytest.mark.parametrize(
    ("header", "change", "message"),
    [
        ({"ceiling": 0.8}, {}, r"other ceiling \(0.7, now 0.8\): move it away"),
        ({"more": 1}, {}, r"other more \(none, now 1\): move it away"),
        (
            {},
            {"learning_rate": 1.0},
            r"other settings: learning_rate \(1.0, now 0.002\): move it away",
        ),
    ],
)
def test_results_of_other_settings_are_refused(keep_results, tmp_path, header, change, message):
    output = tmp_path / "results.json"
    keep_results(output, HEADER, CASES[:1], Measured())
    old = json.loads(output.read_text(encoding="utf-8"))
    old["runs"][0]["settings"] |= change
    before = json.dumps(old)
    output.write_text(before, encoding="utf-8")
    measure = Measured()
    with pytest.raises(SystemExit, match=message):
        keep_results(output, HEADER | header, CASES, measure)
    assert measure == [] and output.read_text(encoding="utf-8") == before
