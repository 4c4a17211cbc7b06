"""What handing a DPO run to TRL costs: ``train_dpo`` against one and two processes of TRL.

    python benchmarks/scale.py               # one JSON line a model
    python benchmarks/scale.py --model tiny --steps 20

The same model, pairs, batch (32) and settings, float32 on the CPU, one thread a process. ``start``
is the time from the call to the first record: processes, imports, tokens. ``step`` is the median
time between two records after it. All in seconds of the wall clock, so run it on a machine with
nothing else to do; the losses of the three runs are compared, too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from against_trl import BATCH, SIZES, pairs

from rlhf_lessons.models import LanguagePolicy, small_gpt2, word_tokenizer
from rlhf_lessons.training import DPOSettings, DPOStep, train_dpo, train_dpo_with_trl
from rlhf_lessons.worlds import reviews, save_preferences


def timed(run: Callable[[], Iterator[DPOStep]]) -> tuple[float, float, list[float]]:
    """Give seconds to the first record, the median between two, and the losses."""
    times, losses = [time.perf_counter()], []
    for step in run():
        times.append(time.perf_counter())
        losses.append(step.loss)
    gaps = [after - before for before, after in zip(times[1:], times[2:], strict=False)]
    return times[1] - times[0], statistics.median(gaps), losses


def measure(size: str, steps: int) -> dict:
    tokenizer = word_tokenizer(reviews.VOCABULARY)
    model = small_gpt2(len(tokenizer), **SIZES[size], context=64, seed=0)
    policy, preferences = LanguagePolicy(model, tokenizer), pairs(BATCH * 4)
    settings = DPOSettings(steps=steps, batch_size=BATCH, learning_rate=1e-4)
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        policy.save_pretrained(where / "policy")
        save_preferences(where / "pairs.jsonl", preferences)
        found = {"ours": timed(lambda: train_dpo(policy, preferences, settings))}
        for processes in (1, 2):
            found[f"trl_{processes}"] = timed(
                lambda n=processes: train_dpo_with_trl(
                    where / "policy", where / "pairs.jsonl", where / f"out{n}", settings,
                    processes=n, cpu=True,
                )
            )  # fmt: skip
    return {
        "benchmark": "scale",
        "model": size,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "pairs_a_step": BATCH,
        **{f"{name}_start_s": round(start, 2) for name, (start, _, _) in found.items()},
        **{f"{name}_step_ms": round(1000 * gap, 1) for name, (_, gap, _) in found.items()},
        "largest_loss_difference": max(
            abs(a - b)
            for name in ("trl_1", "trl_2")
            for a, b in zip(found["ours"][2], found[name][2], strict=True)
        ),
        "steps": steps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=SIZES, nargs="*", default=list(SIZES))
    parser.add_argument("--steps", type=int, default=12)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that it starts
    torch.set_num_threads(1)
    for size in arguments.model:
        print(json.dumps(measure(size, arguments.steps)), flush=True)


if __name__ == "__main__":
    main()
