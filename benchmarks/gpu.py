"""On one GPU: sampling, SFT, reward model, DPO and PPO beside ``generate`` and TRL, in turns.

    python benchmarks/gpu.py                        # six minutes, one JSON line a row
    python benchmarks/gpu.py --rows dpo sampling    # some rows
    python benchmarks/gpu.py --packed               # texts in packed rows, as on a CPU
    python benchmarks/gpu.py --device cpu --dtypes float32     # less of each: 4 pairs, 64 × 24
    python benchmarks/gpu.py --device cpu --small   # proves that it runs; its times mean nothing

A Llama-shaped model of 135 million random weights, 30 layers, vocabulary of 49,152, on texts of
random words. First ``right``: log-probs, the draws and DPO's loss on the device in float32 beside
those of the CPU; the script stops where they differ. Then each row: the same model, data and batch
on both sides, a step of theirs and one of ours in turns within one process, medians of wall seconds
between two waits for the device.

    sampling   256 prompts × 48 tokens (hardly any response of random weights ends), float32 and
               bfloat16, with ``static_cache=True`` and without, beside ``generate`` as users call
               it, and on a GPU with its static cache, which compiles
    sft, rm    64 texts or pairs a step; dpo also beside TRL with the reference's log-probs
               computed beforehand, which is counted for neither side
    ppo        a cycle of 256 × 48 with a value function on its own body, 16 updates; no peer

``transient_MiB`` is the most memory that a step takes beyond what stays between two steps. Left out
on purpose: several GPUs (``benchmarks/scale.py``).
"""

from __future__ import annotations

import argparse
import copy
import gc
import itertools
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import against_trl as side_by_side
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_lessons import formulas
from rlhf_lessons.models import (
    LanguagePolicy,
    RewardModel,
    ValueHead,
    static_reading,
    word_tokenizer,
)
from rlhf_lessons.models.reading import Reader
from rlhf_lessons.models.sampling import sample_tokens
from rlhf_lessons.training import (
    DPOSettings,
    PPOSettings,
    RewardSettings,
    SupervisedSettings,
    train_dpo,
    train_ppo,
    train_reward_model,
    train_sft,
)
from rlhf_lessons.worlds import Preference

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Size:
    """What is measured on: 135 million weights, or the least that runs."""

    words: int = 49_148
    width: int = 576
    layers: int = 30
    heads: int = 9
    pairs: int = 64
    rows: int = 256
    new_tokens: int = 48
    steps: int = 12
    prompt_words: int = 8


ON_CPU = Size(pairs=4, rows=64, new_tokens=24, steps=4)
SMALL = Size(words=300, width=32, layers=2, heads=2, pairs=4, rows=8, new_tokens=6, steps=2)


# --- what both sides get --------------------------------------------------------------------------


def llama(size: Size, device: str = "cpu", dtype: torch.dtype = torch.float32) -> LanguagePolicy:
    """Make a random model of Llama's shape with a tokenizer of one token a word."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer([f"w{i}" for i in range(size.words)])
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.width,
        intermediate_size=size.width * 8 // 3,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=max(1, size.heads // 3),
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LanguagePolicy(LlamaForCausalLM(config).eval().to(device, dtype), tokenizer)


def text(start: int, words: int, size: Size) -> str:
    return " ".join(f"w{(start * 31 + 7 * i * i) % size.words}" for i in range(words))


def prompts(count: int, size: Size) -> list[str]:
    return [text(row, size.prompt_words, size) for row in range(count)]


def pairs(count: int, size: Size) -> list[Preference]:
    """Pairs of responses of 24 to 38 words."""
    return [
        Preference(
            text(row, size.prompt_words, size),
            text(row + 1, 24 + row % 15, size),
            text(row + 2, 24 + (row * 7) % 15, size),
        )
        for row in range(count)
    ]


# --- the clock, memory, and one line --------------------------------------------------------------


class Device:
    """Where it runs: when its work is done, and the most memory that it took."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_gpu = name.startswith("cuda")

    def clock(self) -> float:
        """Give the seconds once all work is done."""
        if self.is_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    def describe(self) -> str:
        """Name it."""
        return torch.cuda.get_device_name() if self.is_gpu else "cpu"

    def metered(self, loop: Iterator, peaks: list[float]) -> Iterator:
        """Give what the loop gives and keep the MiB that each step took beyond what stays."""
        while True:
            if self.is_gpu:
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            try:
                record = next(loop)
            except StopIteration:
                return
            if self.is_gpu:
                peaks.append((torch.cuda.max_memory_allocated() - before) / 2**20)
            yield record

    def meter_of_trl(self, peaks: list[float]) -> Any:
        """Make a callback of TRL's trainer that does the same."""
        from transformers import TrainerCallback

        device = self

        class Meter(TrainerCallback):
            def on_step_begin(self, arguments, state, control, **others):
                if device.is_gpu:
                    torch.cuda.reset_peak_memory_stats()
                    self.before = torch.cuda.memory_allocated()

            def on_step_end(self, arguments, state, control, **others):
                if device.is_gpu:
                    peaks.append((torch.cuda.max_memory_allocated() - self.before) / 2**20)

        return Meter()


def report(device: Device, **about: Any) -> None:
    machine = {**side_by_side.machine(), "threads": torch.get_num_threads()}
    line = {**about, "device": device.describe(), **machine}
    print(json.dumps(line, ensure_ascii=False), flush=True)


# --- right first ----------------------------------------------------------------------------------


def right(device: Device, size: Size) -> None:
    """Compare log-probs, draws and DPO's loss in float32 with the CPU's; stop if they differ."""
    here, there = llama(size), llama(size, device.name)
    here.packed = False
    data = pairs(size.pairs, size)
    asked, chosen, rejected = zip(*data, strict=True)
    differences = {}
    sums = []
    for policy in (here, there):
        with torch.no_grad():
            sums.append([_sequence_log_probs(policy, asked, side) for side in (chosen, rejected)])
    differences["log_probs"] = max(float((a - b).abs().max()) for a, b in zip(*sums, strict=True))
    zero = torch.zeros(len(data))
    losses = [formulas.dpo_loss(*side, zero, zero, beta=0.1).mean() for side in sums]
    differences["dpo_loss"] = abs(float(losses[0] - losses[1]))

    uniforms = torch.rand((size.new_tokens, size.rows, 1), generator=torch.manual_seed(1))
    drawn = []
    room = size.new_tokens - 1
    readers = [Reader(here._forward, None, room), Reader(there._forward, None, room)]
    if static_reading.suits(there.model):
        readers.append(static_reading.StaticReader(there.model, there._forward, None, room))
    for policy, reader in zip((here, there, there), readers, strict=False):
        batch = policy.encode(prompts(size.rows, size))
        with torch.no_grad():
            tokens, _, _ = sample_tokens(
                reader, batch.prompt_tokens, uniforms.to(policy.device),
                torch.tensor(policy.end_token_ids, device=policy.device), None, 1.0, None, None,
            )  # fmt: skip
        drawn.append(tokens.cpu())
    # One draw in some ten thousand falls between two sums of probabilities that differ by rounding.
    names = ("rows_drawn_otherwise", "rows_drawn_otherwise_static")
    for name, tokens in zip(names, drawn[1:], strict=False):
        differences[name] = float((drawn[0] != tokens).any(1).float().mean())
    fine = (
        differences["log_probs"] < 1e-3
        and differences["dpo_loss"] < 1e-4
        and all(differences.get(name, 0) < 0.1 for name in names)
    )
    recorded = getattr(readers[-1], "replay", None) is not None
    report(device, row="right", right=fine, static_step_recorded=recorded, **differences)
    if not fine:
        raise SystemExit("gpu.py: the device's float32 differs from the CPU's; nothing was timed")


def _sequence_log_probs(policy: LanguagePolicy, asked: Any, responses: Any) -> torch.Tensor:
    log_probs, mask = policy.log_probs(list(asked), list(responses))
    return formulas.sequence_log_prob(log_probs, mask).cpu()


# --- sampling -------------------------------------------------------------------------------------


def sampling(device: Device, size: Size) -> None:
    for name, dtype in DTYPES.items():
        policy = llama(size, device.name, dtype)
        asked = prompts(size.rows, size)
        encoded = policy.encode(asked)

        def ours(policy=policy, asked=asked, **settings: bool) -> None:
            policy.sample(asked, size.new_tokens, **settings)

        def static(ours=ours) -> None:
            ours(static_cache=True)

        def generate(policy=policy, encoded=encoded, **cache: str) -> None:
            policy.model.generate(
                encoded.prompt_tokens, attention_mask=encoded.prompt_mask.long(), do_sample=True,
                top_k=0, top_p=1.0, max_new_tokens=size.new_tokens, pad_token_id=0, **cache,
            )  # fmt: skip

        peers: dict[str, Callable[[], None]] = {"generate": generate}
        if device.is_gpu:
            peers["generate, static cache"] = lambda g=generate: g(cache_implementation="static")
        for peer, theirs in peers.items():
            seconds: tuple[list[float], ...] = ([], [], [])
            for turn in range(size.steps // 2 + 2):
                for work, kept in zip((theirs, ours, static), seconds, strict=True):
                    torch.manual_seed(turn)
                    start = device.clock()
                    work()
                    kept.append(device.clock() - start)
            tokens = size.rows * size.new_tokens
            report(
                device, row="sampling", dtype=name, peer=peer, rows=size.rows,
                new_tokens=size.new_tokens,
                ours_tokens_per_s=round(tokens / statistics.median(seconds[1][2:])),
                static_tokens_per_s=round(tokens / statistics.median(seconds[2][2:])),
                theirs_tokens_per_s=round(tokens / statistics.median(seconds[0][2:])),
                ratio=side_by_side.ratio(seconds[0][2:], seconds[1][2:]),
                static_ratio=side_by_side.ratio(seconds[0][2:], seconds[2][2:]),
            )  # fmt: skip
        del policy
        clean(device)


def clean(device: Device) -> None:
    gc.collect()
    if device.is_gpu:
        torch.cuda.empty_cache()


# --- training -------------------------------------------------------------------------------------


def settings_of_trl(device: Device, size: Size, config: type, folder: str, **changes: Any) -> Any:
    return side_by_side.settings_of_trl(
        config, folder, size.steps, per_device_train_batch_size=size.pairs,
        use_cpu=not device.is_gpu, gradient_checkpointing=False, **changes,
    )  # fmt: skip


def against(
    device: Device, size: Size, row: str, loop: Iterator, trainer: Callable[..., Any], **about: Any
) -> None:
    """Run a trainer of TRL and a loop of ours in turns and print the line."""
    of_theirs: list[float] = []
    of_ours: list[float] = []

    def metered(folder: str, callbacks: list) -> Any:
        return trainer(folder, [device.meter_of_trl(of_theirs), *callbacks])

    theirs, (ours,), operations = side_by_side.turns(
        metered, [device.metered(loop, of_ours)], size.steps, device.clock
    )
    line = {
        "ours_ms": side_by_side.milliseconds(ours),
        "trl_ms": side_by_side.milliseconds(theirs),
        "ratio": side_by_side.ratio(theirs, ours),
        "ratio_operations": round(operations[0] / operations[1], 2),
    }
    if device.is_gpu:
        line["ours_transient_MiB"] = round(statistics.median(of_ours))
        line["trl_transient_MiB"] = round(statistics.median(of_theirs))
    words = {"prompt_words": size.prompt_words}
    report(device, row=row, batch=size.pairs, **words, **about, **line, steps=len(theirs))


def shared(size: Size, bf16: bool) -> dict[str, Any]:
    return {
        "steps": 1000, "batch_size": size.pairs, "learning_rate": 1e-6, "warmup": 0.0, "bf16": bf16
    }  # fmt: skip


def sft(device: Device, size: Size) -> None:
    import trl
    from datasets import Dataset

    data = pairs(size.pairs * 4, size)
    rows = [{"prompt": p.prompt + " ", "completion": p.chosen} for p in data]
    for name in DTYPES:
        bf16 = name == "bfloat16"
        policy = llama(size, device.name)
        theirs = copy.deepcopy(policy.model)

        def trainer(folder, callbacks, policy=policy, theirs=theirs, bf16=bf16):
            return trl.SFTTrainer(
                model=theirs,
                args=settings_of_trl(
                    device, size, trl.SFTConfig, folder, completion_only_loss=True, bf16=bf16
                ),
                processing_class=policy.tokenizer,
                train_dataset=Dataset.from_list(rows),
                callbacks=callbacks,
            )

        loop = train_sft(
            policy, [(p.prompt, p.chosen) for p in data], SupervisedSettings(**shared(size, bf16))
        )
        against(device, size, "sft", loop, trainer, compute=name)
        clean(device)


def rm(device: Device, size: Size) -> None:
    import trl

    data = pairs(size.pairs * 4, size)
    for name in DTYPES:
        bf16 = name == "bfloat16"
        policy = llama(size, device.name)
        model = RewardModel.from_policy(policy)
        theirs = copy.deepcopy(model.model)

        def trainer(folder, callbacks, policy=policy, theirs=theirs, bf16=bf16):
            return trl.RewardTrainer(
                model=theirs,
                args=settings_of_trl(
                    device, size, trl.RewardConfig, folder, bf16=bf16,
                    eos_token=policy.tokenizer.eos_token,
                ),
                processing_class=policy.tokenizer,
                train_dataset=side_by_side.pairs_for_trl(data),
                callbacks=callbacks,
            )  # fmt: skip

        loop = train_reward_model(model, data, RewardSettings(**shared(size, bf16)))
        against(device, size, "rm", loop, trainer, compute=name)
        clean(device)


def dpo(device: Device, size: Size) -> None:
    import trl

    data = pairs(size.pairs * 4, size)
    for name, beforehand in itertools.product(DTYPES, (False, True)):
        bf16 = name == "bfloat16"
        policy = llama(size, device.name)
        theirs, reference = (copy.deepcopy(policy.model) for _ in range(2))

        def trainer(
            folder, callbacks, policy=policy, theirs=theirs, reference=reference, bf16=bf16,
            beforehand=beforehand,
        ):  # fmt: skip
            return trl.DPOTrainer(
                model=theirs,
                ref_model=reference,
                args=settings_of_trl(
                    device, size, trl.DPOConfig, folder, beta=0.1, bf16=bf16,
                    precompute_ref_log_probs=beforehand,
                ),
                processing_class=policy.tokenizer,
                train_dataset=side_by_side.pairs_for_trl(data),
                callbacks=callbacks,
            )  # fmt: skip

        loop = train_dpo(policy, data, DPOSettings(**shared(size, bf16)))
        next(loop)  # the reference is read before the first step
        against(
            device, size, "dpo", loop, trainer, compute=name,
            trl_reference="beforehand" if beforehand else "each step",
        )  # fmt: skip
        clean(device)


def ppo(device: Device, size: Size) -> None:
    for name in DTYPES:
        policy = llama(size, device.name)
        settings = PPOSettings(
            cycles=1000, batch_size=size.rows, max_new_tokens=size.new_tokens, epochs=4,
            minibatch_size=max(2, size.rows // 4), learning_rate=1e-6, bf16=name == "bfloat16",
        )  # fmt: skip
        peaks: list[float] = []
        loop = device.metered(
            train_ppo(
                policy,
                prompts(size.rows, size),
                lambda _, responses: [float(len(set(r.split()))) for r in responses],
                settings,
                value_head=ValueHead(llama(size, device.name)),
            ),
            peaks,
        )
        seconds = []
        for _ in range(4):
            start = device.clock()
            next(loop)
            seconds.append(device.clock() - start)
        line = {"transient_MiB": round(statistics.median(peaks[1:]))} if device.is_gpu else {}
        report(
            device, row="ppo", compute=name, rows=size.rows, new_tokens=size.new_tokens, updates=16,
            cycle_s=round(statistics.median(seconds[1:]), 3), **line,
        )  # fmt: skip
        del loop, policy
        clean(device)


ROWS = {"right": right, "sampling": sampling, "sft": sft, "rm": rm, "dpo": dpo, "ppo": ppo}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="the least that runs")
    parser.add_argument("--packed", action=argparse.BooleanOptionalAction, help="rows of texts")
    parser.add_argument("--prompt-words", type=int, default=Size.prompt_words)
    parser.add_argument("--dtypes", choices=DTYPES, nargs="*", default=list(DTYPES))
    parser.add_argument("--rows", choices=ROWS, nargs="*", default=list(ROWS))
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("no GPU is there; python benchmarks/gpu.py --device cpu --small runs without")
    torch.backends.cuda.matmul.allow_tf32 = False
    LanguagePolicy.packed = RewardModel.packed = arguments.packed
    for name in DTYPES.keys() - set(arguments.dtypes):
        del DTYPES[name]
    device = Device(arguments.device)
    size = SMALL if arguments.small else Size() if device.is_gpu else ON_CPU
    size = replace(size, prompt_words=arguments.prompt_words)
    for row in arguments.rows:
        start = time.perf_counter()
        ROWS[row](device, size)
        print(json.dumps({"row": row, "wall_s": round(time.perf_counter() - start, 1)}), flush=True)


if __name__ == "__main__":
    main()
