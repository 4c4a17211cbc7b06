"""Low-rank adapters against all weights: time and memory of ``train_dpo`` on 134 million weights.

    python benchmarks/lora.py                   # one JSON line for each of the two
    python benchmarks/lora.py --rank 64 --rounds 5

A random model of the shape of SmolLM2-135M in float32 learns from 8 pairs a step, prompt and
response about 32 tokens together. Each round measures both in processes of their own, one after the
other, so that peaks of memory do not mix and other work on the machine meets both. A step is all
from one update to the next, the first left out; ``copy_mib`` is what the weights of
``policy.copy()``, PPO's reference, take beside those of the policy.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

WAYS = ("full", "lora")


def measure(way: str, rank: int, steps: int) -> dict[str, float]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rlhf_lessons.models import LanguagePolicy, word_tokenizer
    from rlhf_lessons.training import DPOSettings, train_dpo

    words = [f"w{i}" for i in range(500)]
    tokenizer = word_tokenizer(words)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=2048,
        tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    policy = LanguagePolicy(LlamaForCausalLM(config), tokenizer)
    if way == "lora":
        policy = policy.with_adapter(rank)

    def text(length: int, seed: int) -> str:
        drawn = torch.randint(len(words), (length,), generator=torch.Generator().manual_seed(seed))
        return " ".join(words[i] for i in drawn)

    pairs = [(text(8, 3 * i), text(23, 3 * i + 1), text(23, 3 * i + 2)) for i in range(32)]
    settings = DPOSettings(steps=steps + 1, batch_size=8, learning_rate=1e-4, warmup=0.0)
    loop = train_dpo(policy, pairs, settings)
    next(loop)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in loop:
        pass
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    there = {weight.data_ptr() for weight in policy.parameters()}
    copied = [weight for weight in policy.copy().parameters() if weight.data_ptr() not in there]
    return {
        "ms": 1000 * wall / steps,
        "cpu_ms": 1000 * cpu / steps,
        "peak_mib": peak,
        "copy_mib": sum(weight.nbytes for weight in copied) / 2**20,
        "trained": sum(weight.numel() for weight in policy.parameters() if weight.requires_grad),
        "weights": sum(weight.numel() for weight in policy.parameters()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4, help="measured steps a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=WAYS, help="measure this one in this process")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one, given.rank, given.steps)))
        return
    rounds: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(given.rounds):
        for way in WAYS:
            words = [sys.executable, __file__, "--one", way, "--rank", str(given.rank)]
            words += ["--steps", str(given.steps)]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            rounds[way].append(json.loads(done.stdout.splitlines()[-1]))
    for way, measured in rounds.items():
        medians = {name: statistics.median(m[name] for m in measured) for name in measured[0]}
        print(json.dumps({"way": way, **{name: round(value) for name, value in medians.items()}}))


if __name__ == "__main__":
    main()
