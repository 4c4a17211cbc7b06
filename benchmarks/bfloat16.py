"""What ``bf16=True`` does to a real model whose weights come from 4 bits: ties, margins, log-probs.

    python benchmarks/bfloat16.py        # one JSON line for each model; five minutes on two cores

Three models: SmolLM2 as it is fetched; the same with every weight rounded to bfloat16 once; and the
one that was fine-tuned on film snippets, its adapter merged. For each:

    moved          share of the weights which 1e-6 more or less turn into another bfloat16 number
    margin_float32 DPO's margin log π/π_ref(chosen) − log π/π_ref(rejected), mean over the pairs, in
                   nats, after two updates of 1e-6 in float32
    margin_bf16    the same with bf16=True
    sum_mean       mean |difference| of the summed log-probs of a response in bfloat16 and float32
    sum_worst      the largest
    tokens         mean tokens of a response
    sampling       tokens a second, 64 rows of 24, of the sampler in float32 and in bfloat16

Pairs are samples of the fetched model after openings of ours; which is chosen does not matter here.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import islice

import torch

from rlhf_lessons.models import LanguagePolicy, load_policy
from rlhf_lessons.training import DPOSettings, train_dpo
from rlhf_lessons.training.update import precision

OPENINGS = (
    "A film that", "The story of", "This one is", "As a comedy,", "Its director", "The first half",
    "A slow and", "Nobody in it",
)  # fmt: skip
BETA = 0.1


@torch.no_grad()
def rounded(policy: LanguagePolicy) -> LanguagePolicy:
    """Give the policy with every weight rounded to the nearest bfloat16 number."""
    for weight in policy.parameters():
        weight.copy_(weight.bfloat16())
    return policy


@torch.no_grad()
def moved(policy: LanguagePolicy) -> float:
    """Give the share of weights that a change of 1e-6 carries over the border of two numbers."""
    changed, count = 0, 0
    for weight in policy.parameters():
        here = weight.bfloat16()
        other = ((weight + 1e-6).bfloat16() != here) | ((weight - 1e-6).bfloat16() != here)
        changed, count = changed + int(other.sum()), count + weight.numel()
    return changed / count


def margin(make, pairs: list[tuple[str, str, str]], bf16: bool) -> float:
    """Give DPO's margin in nats after two updates of 1e-6: what the third step begins with."""
    settings = DPOSettings(
        steps=1000,  # so that the step size stays what it is over the three that are taken
        batch_size=len(pairs), learning_rate=1e-6, warmup=0.0, beta=BETA, bf16=bf16,
    )  # fmt: skip
    policy = make()
    policy.model.requires_grad_(True)
    *_, last = islice(train_dpo(policy, pairs, settings), 3)
    return (last.chosen_reward - last.rejected_reward) / BETA


@torch.no_grad()
def sums(policy: LanguagePolicy, prompts: list[str], responses: list[str]) -> dict[str, float]:
    """Compare summed log-probs of the responses in both precisions."""
    found = {}
    for bf16 in (False, True):
        with precision(policy.device, bf16):
            log_probs, mask = policy.log_probs(prompts, responses)
        found[bf16] = (log_probs.double() * mask).sum(1)
    apart = (found[True] - found[False]).abs()
    return {
        "sum_mean": round(float(apart.mean()), 3),
        "sum_worst": round(float(apart.max()), 3),
        "tokens": round(float(mask.sum(1).double().mean()), 1),
    }


def sampling(policy: LanguagePolicy, rounds: int = 3) -> dict[str, list[int]]:
    """Give the tokens a second of both precisions, in turns, the best of some rounds."""
    best = [0.0, 0.0]
    for round_ in range(rounds):
        for bf16 in (False, True):
            draws = torch.Generator().manual_seed(round_)
            start = time.perf_counter()
            with precision(policy.device, bf16):
                rollout = policy.sample(list(OPENINGS) * 8, 24, generator=draws)
            tokens = int(rollout.response_mask.sum())
            best[bf16] = max(best[bf16], tokens / (time.perf_counter() - start))
    return {"sampling": [round(speed) for speed in best]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    makers = {
        "from 4 bits": lambda: load_policy("smollm2"),
        "rounded once": lambda: rounded(load_policy("smollm2")),
        "fine-tuned": lambda: load_policy("smollm2-snippets").merge(),
    }
    policy = makers["from 4 bits"]()
    draws = torch.Generator().manual_seed(0)
    prompts = list(OPENINGS) * 4
    responses = policy.sample(prompts, 20, generator=draws).responses
    half = len(OPENINGS)
    pairs = list(zip(OPENINGS, responses[:half], responses[half : 2 * half], strict=True))
    for name, make in makers.items():
        policy = make()
        line = {"model": name, "moved": round(moved(policy), 4), **sums(policy, prompts, responses)}
        line |= sampling(policy)
        del policy
        for bf16 in (False, True):
            key = "margin_bf16" if bf16 else "margin_float32"
            line[key] = round(margin(make, pairs, bf16), 4)
        print(json.dumps(line, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
