"""What ``sft``, ``reward_model``, ``dpo`` and ``grpo`` share: TRL's step and ours, in turns.

Both train the same GPT-2 (same weights at the start, AdamW, gradients clipped at 1) on the same
texts, 32 a step, on one thread, interleaved in one process: after each step of TRL one of ours, as
ours is and once more with the products of the library that torch takes by default. A step is
everything from one update to the next, batching included. A ratio is the median over the steps of
(CPU seconds of TRL / CPU seconds of ours); above 1 means that ours took less.

Rows of TRL:

    defaults   what a user gets: bfloat16 and gradient checkpointing; ours with bf16=True has a
               turn there, too
    float32    both off
    best       (DPO) both off and the reference's log-probabilities computed beforehand; that time
               counts for neither side

and of the model's activation, the same on both sides: ``gelu_new`` is that of GPT-2 as published,
``gelu_pytorch_tanh`` the same function in one operation, as in the course's small models.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from rlhf_lessons.models import (
    LanguagePolicy,
    gpt2_body,
    products,
    small_gpt2,
    word_tokenizer,
)
from rlhf_lessons.worlds import NoisyComparer, Preference, label_pairs, reviews

BATCH = 32
SIZES = {
    "tiny": {"width": 128, "layers": 4, "heads": 4},  # 0.8 million parameters
    "small": {"width": 384, "layers": 6, "heads": 6},  # 10.8 million
}
FLOAT32 = {"bf16": False, "gradient_checkpointing": False}
LEARNING_RATE = 1e-4


def gpt2(size: str, activation: str = "gelu_new") -> LanguagePolicy:
    """Make an untrained GPT-2 of a size."""
    tokenizer = word_tokenizer(reviews.VOCABULARY)
    model = small_gpt2(len(tokenizer), **SIZES[size], context=64, seed=0)
    model.config.activation_function = activation
    # As transformers itself builds it from this configuration.
    again = type(model)(model.config).eval()
    again.load_state_dict(model.state_dict())
    return LanguagePolicy(again, tokenizer)


def pairs(count: int) -> list[Preference]:
    """Write and compare pairs of reviews: 9 tokens of prompt, 31 ± 7 of response."""
    firsts, seconds = (reviews.sample_reviews(count, seed=seed) for seed in (1, 2))
    prompts = [prompt for prompt, _ in firsts]
    first, second = ([response for _, response in side] for side in (firsts, seconds))
    return label_pairs(NoisyComparer(reviews.gold_reward, 1.0), prompts, first, second, seed=0)


def pairs_for_trl(preferences: Sequence[Preference]) -> Any:
    """Give the pairs as the data set that TRL's trainers read: the prompt ends in a space."""
    from datasets import Dataset

    return Dataset.from_list([{**p._asdict(), "prompt": p.prompt + " "} for p in preferences])


@contextlib.contextmanager
def default_products() -> Iterator[None]:
    """Make a block without the faster products of ``models/products.py``."""
    suits = products._onednn_keeps_float32
    products._onednn_keeps_float32 = lambda: False
    try:
        yield
    finally:
        products._onednn_keeps_float32 = suits


@contextlib.contextmanager
def ordinary_body() -> Iterator[None]:
    """Make a block in which transformers' own forward pass runs, as for other families."""
    plain = gpt2_body.is_plain
    gpt2_body.is_plain = lambda model: False
    try:
        yield
    finally:
        gpt2_body.is_plain = plain


def settings_of_trl(config: type, folder: str, steps: int, **changes: Any) -> Any:
    """Make TRL's settings: on the CPU, nothing logged or saved."""
    settings = {
        "per_device_train_batch_size": BATCH,
        "max_steps": steps + 2,
        "learning_rate": LEARNING_RATE,
        "use_cpu": True,
        "report_to": "none",
        "logging_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return config(output_dir=folder, **{**settings, **changes})


def precisions(setting: str) -> list[bool]:
    """Give ``bf16`` of each of our loops: in the turn of TRL's bfloat16 ours has its turn, too."""
    return [False, False, *([True] if setting == "defaults" else [])]


def turns(
    trainer: Callable[[str, list], Any],
    loops: Sequence[Iterator],
    steps: int,
    clock: Callable[[], float] = time.process_time,
) -> tuple[list[float], list[list[float]], list[int]]:
    """Run TRL's trainer, and after each of its steps one of each loop of ours.

    Of the first step of each, which is not timed, the operations of its products are counted.

    Args:
        trainer: ``trainer(folder, callbacks)`` makes TRL's trainer.
        loops: our loops; the second one, if there is one, runs with default products.
        steps: how many steps to measure.
        clock: gives seconds; between two readings all work of one step is done.

    Returns:
        seconds of TRL's steps and of each loop's, the first two steps left out; and how many
        operations a step of TRL and one of each loop takes.
    """
    from datasets import disable_progress_bars
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import PrinterCallback, TrainerCallback

    disable_progress_bars()
    theirs, ours, plainly = [], [[] for _ in loops], contextlib.nullcontext
    operations: list[int] = []

    class Turns(TrainerCallback):
        start = None

        def on_step_end(self, arguments, state, control, **others):
            now = clock()
            if self.start is None:
                self.counter = FlopCounterMode(display=False)
                self.counter.__enter__()
                self.start = clock()
                return
            if first := not theirs:
                self.counter.__exit__(None, None, None)
                operations.append(self.counter.get_total_flops())
            theirs.append(now - self.start)
            for seconds, loop, block in zip(
                ours, loops, (plainly, default_products, plainly), strict=False
            ):
                count = FlopCounterMode(display=False) if first else plainly()
                with block(), count:
                    before = clock()
                    next(loop)
                    seconds.append(clock() - before)
                if first:
                    operations.append(count.get_total_flops())
            self.start = clock()

    with tempfile.TemporaryDirectory() as folder:
        made = trainer(folder, [Turns()])
        made.remove_callback(PrinterCallback)
        made.train()
    return theirs[1:], [seconds[1:] for seconds in ours], operations


def ratio(theirs: list[float], ours: list[float]) -> float:
    """Give the median over the steps of what theirs took, in units of ours."""
    return round(statistics.median(t / o for t, o in zip(theirs, ours, strict=True)), 2)


def milliseconds(seconds: list[float]) -> float:
    """Give the median."""
    return round(1000 * statistics.median(seconds), 1)


def report(
    theirs: list[float],
    ours: list[list[float]],
    operations: list[int],
    target: float | None,
    **about: Any,
) -> dict[str, Any]:
    """Print one JSON line."""
    fast, plain, *bf16 = ours
    of_bf16 = [{"ours_bf16_ms": milliseconds(s), "ratio_bf16": ratio(theirs, s)} for s in bf16]
    line = {
        **about,
        "trl_ms": milliseconds(theirs),
        "ours_ms": milliseconds(fast),
        "ours_default_products_ms": milliseconds(plain),
        "ratio": ratio(theirs, fast),
        "ratio_default_products": ratio(theirs, plain),
        **dict(*of_bf16),
        "ratio_operations": round(operations[0] / operations[1], 2),
        "target": target,
        "steps": len(theirs),
        **machine(),
    }
    print(json.dumps(line, ensure_ascii=False), flush=True)
    return line


@functools.cache
def machine() -> dict[str, Any]:
    """Say what was measured on, and by which command."""
    import transformers

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    with contextlib.suppress(ImportError):
        import trl

        versions["trl"] = trl.__version__
    cpu = platform.processor()
    with contextlib.suppress(OSError):
        names = [
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        cpu = f"{names[0]}, {len(names)} cores"
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    command = " ".join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]])
    return {**versions, "cpu": cpu, "threads": 1, "load": round(load, 1), "command": command}


# --- what each measure gives ----------------------------------------------------------------------


def parts(
    benchmark: str, size: str, make: Callable[[LanguagePolicy, list, int], Iterator], steps: int
) -> None:
    """Print the time of our step without the faster products, the written-out body, and both."""
    both = contextlib.ExitStack
    blocks = {
        "ours": contextlib.nullcontext,
        "default products": default_products,
        "transformers' body": ordinary_body,
        "neither": both,
    }
    loops = {}
    for name in blocks:
        loops[name] = make(gpt2(size), pairs(BATCH * 4), BATCH)
    seconds: dict[str, list[float]] = {name: [] for name in blocks}
    for _ in range(steps + 2):
        for name, block in blocks.items():
            with block() as stack:
                if name == "neither":
                    stack.enter_context(default_products())
                    stack.enter_context(ordinary_body())
                before = time.process_time()
                next(loops[name])
                seconds[name].append(time.process_time() - before)
    line = {
        "benchmark": f"{benchmark}, parts",
        "model": size,
        **{f"{n}, ms": round(1000 * statistics.median(s[2:]), 1) for n, s in seconds.items()},
        "steps": steps,
        **machine(),
    }
    print(json.dumps(line), flush=True)


# --- growth ---------------------------------------------------------------------------------------


def growth(script: str) -> None:
    """Print how our time and memory grow, each point in a process of its own.

    Args:
        script: the benchmark, which does ``--point MODEL BATCH TOKENS`` by calling ``point``.
    """
    points = [
        *(("tiny", batch, 32) for batch in (8, 32, 128)),
        *(("tiny", 32, tokens) for tokens in (64, 128, 256)),
        ("small", 32, 32),
    ]
    for model, batch, tokens in points:
        command = [sys.executable, script, "--point", model, str(batch), str(tokens)]
        subprocess.run(command, check=True)


def point(
    benchmark: str, make: Callable[[LanguagePolicy, list, int], Iterator], arguments: Sequence[str]
) -> None:
    """Measure the median step and the peak of memory of one of our loops at one size.

    Args:
        benchmark: its name.
        make: ``make(policy, pairs, batch_size)`` starts the loop; pairs of texts of equal length.
        arguments: model, texts a step, tokens of a text.
    """
    size, batch, tokens = arguments[0], int(arguments[1]), int(arguments[2])
    tokenizer = word_tokenizer(reviews.VOCABULARY)
    model = small_gpt2(len(tokenizer), **SIZES[size], context=tokens, seed=0)
    words = reviews.VOCABULARY
    texts = [
        " ".join(words[(7 * row + place * place) % len(words)] for place in range(tokens - 10))
        for row in range(2 * batch)
    ]
    prompts = [" ".join(words[i % 200 : i % 200 + 8]) for i in range(batch)]
    rows = [(prompts[i], texts[i], texts[batch + i]) for i in range(batch)]
    loop = make(LanguagePolicy(model, tokenizer), rows, batch)
    next(loop)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(4):
        start = time.process_time()
        next(loop)
        seconds.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = {
        "benchmark": f"{benchmark}, growth",
        "model": size,
        "batch": batch,
        "tokens": tokens,
        "ms": round(1000 * statistics.median(seconds), 1),
        "peak_MiB": round(max(before, peak) / 1024),
    }
    print(json.dumps(line), flush=True)


# --- the command line -----------------------------------------------------------------------------


def run(
    description: str,
    script: str,
    measure: Callable[[str, str, str, int], Any],
    settings: Sequence[str],
    make: Callable[[LanguagePolicy, list, int], Iterator],
    shipped: Sequence[str] = (),
) -> None:
    """Read the command line and measure.

    Args:
        description: the script's docstring.
        script: the script's file.
        measure: ``measure(size, trl_setting, activation, steps)`` prints one line.
        settings: the settings of TRL.
        make: starts our loop for ``growth``.
        shipped: names of models of the course that ``measure`` takes in place of a size.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    models = [*SIZES, *shipped]
    parser.add_argument("--model", choices=models, nargs="*", default=models)
    parser.add_argument("--trl", choices=settings, nargs="*", default=list(settings))
    parser.add_argument("--steps", type=int, help="to measure; 3 for small, else 10")
    parser.add_argument("--parts", action="store_true", help="what each measure gives, ours alone")
    parser.add_argument("--growth", action="store_true", help="time and memory of ours alone")
    parser.add_argument("--point", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if arguments.point:
        return point(Path(script).stem, make, arguments.point)
    if arguments.growth:
        return growth(script)
    for size in arguments.model:
        if size in shipped:  # has its own activation
            for setting in () if arguments.parts else arguments.trl:
                measure(size, setting, "gelu_pytorch_tanh", arguments.steps or 10)
            continue
        if arguments.parts:
            steps = arguments.steps or (3 if size == "small" else 10)
            parts(Path(script).stem, size, make, steps)
            continue
        for activation in ("gelu_new", "gelu_pytorch_tanh")[: 2 if size == "tiny" else 1]:
            for setting in arguments.trl:
                steps = arguments.steps or (3 if size == "small" else 10)
                measure(size, setting, activation, steps)
    return None
