"""The benchmark for a GPU runs without one, so that it does not break unseen."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_what_needs_no_peer_runs_on_a_cpu():
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--small"]
        + ["--rows", "right", "sampling", "ppo"],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=True,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    rows = {(line["row"], line.get("dtype", line.get("compute"))): line for line in lines}
    assert lines[0]["right"] is True
    for dtype in ("float32", "bfloat16"):
        assert rows["sampling", dtype]["ours_tokens_per_s"] > 0
        assert rows["sampling", dtype]["static_tokens_per_s"] > 0
        assert rows["ppo", dtype]["cycle_s"] > 0


def test_without_a_gpu_it_says_so():
    import torch

    if torch.cuda.is_available():
        return
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu.py"], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 2
    assert "--device cpu --small" in done.stderr
