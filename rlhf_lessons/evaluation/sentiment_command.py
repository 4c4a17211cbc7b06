"""``python -m rlhf_lessons run sentiment``: its options (lesson 8).

What an option means is said once, in ``SentimentSettings``; what is done, in ``sentiment``.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rlhf_lessons.evaluation import sentiment
from rlhf_lessons.evaluation.command_options import add_field
from rlhf_lessons.evaluation.sentiment import (
    SENTIMENT_METHODS,
    SENTIMENT_PRESETS,
    SentimentSettings,
    compare_sentiment,
    comparison,
    folder_of,
    run_sentiment,
)

__all__: list[str] = []

_SHEET = 989e12  # operations a second of an H200, dense products in 16 bits, by its data sheet
_SHARE = 3.1e12 / 0.132 / _SHEET  # measured, as the help says


def _cost(share: float = _SHARE) -> str:
    """Reckon memory and time of gpt2, at a share of the data sheet's operations a second."""

    updates, sft, reading = (work / (share * _SHEET) / 60 for work in (1.3e16, 1e15, 8e15))
    sampling = 100_000 / 256 * 48 * 0.023 / 60
    return f"""
What gpt2 (124 M weights) costs with these, computed and not measured:
  memory  16 bytes a trained weight (float32: weight, gradient, Adam's two moments), 4 a weight that
          is only read (2 copies of the policy; the judge, 355 M), and the logits, 4 bytes for each
          of rows x max-new-tokens x 50,257: 5 copies to learn from, 3 to read.
          dpo: 2.0 + 1.0 + 1.4 + 32 rows 1.5 = 5.9 GB, and while the reference reads the pairs,
          before the first update, 0.5 + 1.0 + 1.4 + 128 rows 3.7 = 6.6 GB.
          ppo: policy and value model 4.0, reward model 0.5, 1.0 + 1.4 + 64 rows 3.1 = 10 GB.
  work    6 operations a weight and token learned, 2 a weight and token read; rows have 56 tokens.
          dpo: 2400 updates of 128 rows 1.3e16, sft 1e15, reference 4e15, judge 4e15.
  time    An H200 gave dpo of a Llama-shaped model of 135 M weights {share:.1%} of its data sheet's
          989 TFLOP/s (3.1e12 operations an update, 132 ms): a small model spends most of the time
          on starting operations. At that share, which holds for this size, in minutes: the updates
          of dpo {updates:.0f}, sft {sft:.0f}, reference and judge {reading:.0f}.
          Larger models reach more, up to 40 %. Sampling goes token by token, 23 ms each there
          whatever the rows: 100,000 samples of 48 tokens, 256 side by side, {sampling:.0f} minutes.
          In all half an hour.
Out of memory: raise --accumulate, lower --max-new-tokens, add --bf16."""


def add_experiment(experiments: Any) -> None:
    """Add the experiment to those of ``python -m rlhf_lessons run``.

    Args:
        experiments: what ``add_subparsers`` gave.
    """
    experiment = experiments.add_parser(
        "sentiment",
        usage="python -m rlhf_lessons run sentiment [--method METHOD ...] [--beta β ...] [options]",
        help="the DPO paper's: continue film reviews more positively",
        description=inspect.cleandoc(sentiment.__doc__).split("\n\nLeft out")[0],
        epilog=f"where nothing is given:\n{_presets()}\n{_cost()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for field in dataclasses.fields(SentimentSettings):
        kind: dict[str, Any] = {}
        if field.name == "method":
            kind["choices"] = list(SENTIMENT_METHODS)
        if field.name in ("method", "beta"):
            kind["nargs"], kind["more"] = "+", "several share what is equal"
        add_field(experiment, SentimentSettings, field, **kind)
    experiment.add_argument(
        "--out",
        type=Path,
        help="folder of the run; runs/sentiment_..., named after data, method, β and seed",
    )
    experiment.set_defaults(prepare=partial(_prepare, experiment))


def _prepare(
    experiment: argparse.ArgumentParser, given: dict[str, Any], command: str
) -> tuple[Path, Callable[[], str]]:
    """Check what was given; give the folder, and what does the run and says what came out."""
    folder = given.pop("out")
    methods, betas = (given.pop(name) or [None] for name in ("method", "beta"))
    try:
        runs = [
            SentimentSettings.preset(**given, method=method, beta=beta)
            for method in dict.fromkeys(methods)
            # Of the other methods, β changes nothing.
            for beta in dict.fromkeys(betas[:1] if method in ("sft", "rm", "bon") else betas)
        ]
        settings = runs[0]
        torch.zeros(1, device=settings.device)
    except ValueError as error:
        experiment.error(str(error))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        experiment.error(
            f"device must be one that PyTorch finds, got {settings.device!r}: {reason}"
        )
    if folder is None:
        what = folder_of(settings) if len(runs) == 1 else "runs"
        folder = Path("runs") / f"sentiment_{Path(settings.data).stem}_{what}_seed{settings.seed}"

    def do() -> str:
        if len(runs) == 1:
            return run_sentiment(settings, folder, command=command, progress=True).table()
        return comparison(compare_sentiment(runs, folder, command=command, progress=True))

    return folder, do


def _presets() -> str:
    lines = []
    for data, parts in SENTIMENT_PRESETS.items():
        lines.append("  other --data" if data == "texts" else f"  --data {data}, on a CPU")
        for name, values in parts.items():
            options = (f"--{key.replace('_', '-')} {value}" for key, value in values.items())
            lines.append(f"    {'' if name == 'run' else name:<4} {' '.join(options)}")
    return "\n".join(lines)
