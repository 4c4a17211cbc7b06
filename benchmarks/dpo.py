"""Training by DPO: ``train_dpo`` against TRL's ``DPOTrainer``, side by side.

    pip install trl accelerate datasets
    python benchmarks/dpo.py                 # one JSON line a setting of TRL and model
    python benchmarks/dpo.py --model tiny --steps 10

Both train the same GPT-2 (same weights at the start, AdamW, gradient clipping at 1) on the same
pairs, 32 a step, in float32 on one thread. The steps are interleaved in one process: after each
step of TRL, one of ours. A step is everything from one update to the next, batching included. The
ratio is the median over the steps of (CPU seconds of TRL / CPU seconds of ours).

``float32`` is TRL with bf16 and gradient checkpointing off; it asks the reference at each step.
``best`` also has the reference's log-probabilities precomputed, as ``train_dpo`` always does; for
neither does that time count. The targets are 3.3 and 2.2.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
import warnings

import torch

from rlhf_lessons.models import LanguagePolicy, small_gpt2, word_tokenizer
from rlhf_lessons.training import DPOSettings, train_dpo
from rlhf_lessons.worlds import NoisyComparer, label_pairs, reviews

BATCH = 32
SIZES = {
    "tiny": {"width": 128, "layers": 4, "heads": 4},  # 0.8 million parameters
    "small": {"width": 384, "layers": 6, "heads": 6},  # 10.8 million
}
TARGETS = {"float32": 3.3, "best": 2.2}


def pairs(count: int) -> list:
    firsts, seconds = (reviews.sample_reviews(count, seed=seed) for seed in (1, 2))
    prompts = [prompt for prompt, _ in firsts]
    first, second = ([response for _, response in side] for side in (firsts, seconds))
    return label_pairs(NoisyComparer(reviews.gold_reward, 1.0), prompts, first, second, seed=0)


def measure(size: str, setting: str, steps: int) -> dict:
    import trl
    from datasets import Dataset
    from transformers import TrainerCallback

    tokenizer = word_tokenizer(reviews.VOCABULARY)
    model = small_gpt2(len(tokenizer), **SIZES[size], context=64, seed=0)
    theirs, their_reference = copy.deepcopy(model), copy.deepcopy(model)
    preferences = pairs(BATCH * 4)
    settings = DPOSettings(steps=steps + 10, batch_size=BATCH, learning_rate=1e-4, warmup=0.0)
    loop = train_dpo(LanguagePolicy(model, tokenizer), preferences, settings)
    next(loop)  # the reference is read before the first step
    trl_seconds, our_seconds = [], []

    class Interleave(TrainerCallback):
        start = None

        def on_step_end(self, arguments, state, control, **others):
            now = time.process_time()
            if self.start is not None:
                trl_seconds.append(now - self.start)
            before = time.process_time()
            next(loop)
            our_seconds.append(time.process_time() - before)
            self.start = time.process_time()

    with tempfile.TemporaryDirectory() as folder:
        trainer = trl.DPOTrainer(
            model=theirs,
            ref_model=their_reference,
            args=trl.DPOConfig(
                output_dir=folder,
                beta=0.1,
                per_device_train_batch_size=BATCH,
                max_steps=steps + 1,
                learning_rate=1e-4,
                precompute_ref_log_probs=setting == "best",
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                report_to="none",
                logging_strategy="no",
                save_strategy="no",
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(
                [{**p._asdict(), "prompt": p.prompt + " "} for p in preferences]
            ),
            callbacks=[Interleave()],
        )
        trainer.train()
    our_seconds = our_seconds[:-1]  # each of ours beside the step of TRL that follows it
    ratios = [t / o for t, o in zip(trl_seconds, our_seconds, strict=True)][1:]
    return {
        "benchmark": "dpo",
        "model": size,
        "trl_setting": setting,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "pairs_a_step": BATCH,
        "ours_ms": round(1000 * statistics.median(our_seconds), 1),
        "trl_ms": round(1000 * statistics.median(trl_seconds), 1),
        "pairs_a_second": round(BATCH / statistics.median(our_seconds), 1),
        "ratio": round(statistics.median(ratios), 2),
        "target": TARGETS[setting],
        "steps": len(ratios),
        "torch": torch.__version__,
        "trl": trl.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=SIZES, nargs="*", default=list(SIZES))
    parser.add_argument("--setting", choices=TARGETS, nargs="*", default=list(TARGETS))
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    for size in arguments.model:
        for setting in arguments.setting:
            print(json.dumps(measure(size, setting, arguments.steps)), flush=True)


if __name__ == "__main__":
    main()
