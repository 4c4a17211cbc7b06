"""Sampling with ``LanguagePolicy.sample`` against ``model.generate``, side by side.

    python benchmarks/sampling.py                 # prints one JSON line for each setting
    python benchmarks/sampling.py --model tiny    # only the small ones
    python benchmarks/sampling.py --leave-out oneDNN       # or: steps

Both sample from the same model and the same prompts, on one thread, in turn within one process.
``generate`` is called the fastest way it has: pure sampling, no scores kept. ``sample`` also
returns log-probs and text, and its time includes the tokenizer's. A ratio is the median over the
rounds of (CPU seconds of ``generate`` / CPU seconds of ``sample``) within a round.

Responses end on their own after 25 ± 6 tokens, like the course's film reviews: the model's position
embeddings are set so that the end token comes then. With ``ends: never`` no response ends before
the last token, so that no row can be dropped. ``--leave-out`` shows what a part of the sampler
gains: without ``oneDNN`` products go to torch's default library; without ``steps`` the model's own
``forward`` runs, as for any Hugging Face model.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import time
import warnings
from unittest import mock

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from rlhf_lessons.models import LanguagePolicy, gpt2_body, products

VOCABULARY = 512
CONTEXT = 64
PROMPT_TOKENS = 8
MAX_NEW_TOKENS = 48
SIZES = {
    "tiny": {"n_embd": 128, "n_layer": 4, "n_head": 4},  # 0.87 million parameters
    "small": {"n_embd": 384, "n_layer": 6, "n_head": 6},  # 10.9 million
}


LEFT_OUT = {
    "oneDNN": lambda: mock.patch.object(products, "_onednn_keeps_float32", lambda: False),
    "steps": lambda: mock.patch.object(gpt2_body, "is_plain", lambda model: False),
}


def word_tokenizer() -> PreTrainedTokenizerFast:
    words = {"<end>": 0} | {f"w{i}": i for i in range(1, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


def hazard(tokens_so_far: int, mean: float = 25.0, deviation: float = 6.0) -> float:
    """The probability that a response of normally distributed length ends at this token."""

    def longer_than(tokens: float) -> float:
        return 0.5 * math.erfc((tokens - mean) / (deviation * math.sqrt(2)))

    return 1 - longer_than(tokens_so_far + 0.5) / longer_than(tokens_so_far - 0.5)


def build(size: str, ends: bool) -> GPT2LMHeadModel:
    """A random GPT-2 that ends its responses at set times, and is near uniform otherwise.

    The position embedding p_t = 10·(cos θ_t·u + sin θ_t·v) drowns the rest of the residual stream,
    so after the last layer norm the end token, whose embedding is s·u/d, has the logit s·cos θ_t.
    """
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        activation_function="gelu_pytorch_tanh",
        bos_token_id=0,
        eos_token_id=0,
        **SIZES[size],
    )
    model = GPT2LMHeadModel(config).eval()
    width, scale = config.n_embd, 14.0
    u = torch.ones(width)
    u[1::2] = -1
    v = torch.ones(width)
    v[2::4] = v[3::4] = -1
    with torch.no_grad():
        for position in range(CONTEXT):
            response_token = position - PROMPT_TOKENS + 2
            logit = -scale
            if ends and response_token >= 1:
                chance = min(max(hazard(response_token), 1e-4), 0.9)
                logit = math.log((VOCABULARY - 1) * chance / (1 - chance))
            cosine = logit / scale
            embedding = cosine * u + math.sqrt(1 - cosine**2) * v
            model.transformer.wpe.weight[position] = 10 * embedding
        model.transformer.wte.weight[0] = scale * u / width
    return model


def cpu_seconds(work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(size: str, batch: int, lengths: str, ends: bool, rounds: int) -> dict:
    model = build(size, ends)
    policy = LanguagePolicy(model, word_tokenizer())
    prompts = []
    for row in range(batch):
        words = PROMPT_TOKENS - (row % 4 if lengths == "unequal" else 0)
        prompts.append(" ".join(f"w{1 + (row * 7 + i) % (VOCABULARY - 1)}" for i in range(words)))
    encoded = policy.encode(prompts)
    sampled: list[int] = []

    def generate() -> None:
        torch.manual_seed(len(sampled))
        model.generate(
            encoded.prompt_tokens,
            attention_mask=encoded.prompt_mask.long(),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=MAX_NEW_TOKENS,
            pad_token_id=0,
        )

    def sample() -> None:
        torch.manual_seed(len(sampled))
        rollout = policy.sample(prompts, MAX_NEW_TOKENS)
        sampled.append(int(rollout.response_mask.sum()))

    generate()
    sample()
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(cpu_seconds(sample))
        theirs.append(cpu_seconds(generate))
    return {
        "benchmark": "sampling",
        "model": size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "batch": batch,
        "prompts": lengths,
        "ends": "after 25 ± 6 tokens" if ends else "never",
        "tokens_per_response": round(statistics.mean(sampled) / batch, 1),
        "sample_ms": round(1000 * statistics.median(ours), 1),
        "generate_ms": round(1000 * statistics.median(theirs), 1),
        "ratio": round(statistics.median(t / o for t, o in zip(theirs, ours, strict=True)), 2),
        "rounds": rounds,
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=SIZES, nargs="*", default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, nargs="*", default=[64, 256, 512])
    parser.add_argument("--leave-out", choices=LEFT_OUT)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    left_out = arguments.leave_out and LEFT_OUT[arguments.leave_out]()
    with left_out or contextlib.nullcontext():
        for size in arguments.model:
            for batch in arguments.batch if size == "tiny" else arguments.batch[:1]:
                for lengths in ("equal", "unequal"):
                    for ends in (True, False):
                        result = measure(size, batch, lengths, ends, arguments.rounds)
                        result["left_out"] = arguments.leave_out
                        print(json.dumps(result, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
