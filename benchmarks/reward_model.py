"""Training a reward model: ``train_reward_model`` against TRL's ``RewardTrainer``, side by side.

    pip install trl accelerate datasets
    python benchmarks/reward_model.py                # one JSON line a model
    python benchmarks/reward_model.py --model tiny

Both train the same GPT-2 (same weights at the start, AdamW, gradient clipping at 1) on the same
pairs, 32 a step, in float32 on one thread. The steps are interleaved in one process: after each
step of TRL, one of ours. A step is everything from one update to the next, batching included. The
ratio is the median over the steps of (CPU seconds of TRL / CPU seconds of ours). TRL runs with
``bf16`` and gradient checkpointing off, its fastest setting on a CPU. The target is a ratio of 2.

``gelu_new`` is the activation of GPT-2's own configuration; ``RewardModel`` computes it in one
fused operation. ``gelu_pytorch_tanh`` is the same function, fused for TRL as well, as in the small
models of the course: what is left then is less padding and no attention mask.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings

import torch

from rlhf_lessons.models import LanguagePolicy, RewardModel, small_gpt2, word_tokenizer
from rlhf_lessons.training import RewardSettings, train_reward_model
from rlhf_lessons.worlds import NoisyComparer, label_pairs, reviews

BATCH = 32
SIZES = {
    "tiny": {"width": 128, "layers": 4, "heads": 4},  # 0.8 million parameters
    "small": {"width": 384, "layers": 6, "heads": 6},  # 10.8 million
}


def pairs(count: int) -> list:
    firsts, seconds = (reviews.sample_reviews(count, seed=seed) for seed in (1, 2))
    prompts = [prompt for prompt, _ in firsts]
    first, second = ([response for _, response in side] for side in (firsts, seconds))
    return label_pairs(NoisyComparer(reviews.gold_reward, 1.5), prompts, first, second, seed=0)


def measure(size: str, activation: str, steps: int) -> dict:
    import trl
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, TrainerCallback

    tokenizer = word_tokenizer(reviews.VOCABULARY)
    model = small_gpt2(len(tokenizer), **SIZES[size], context=64, seed=0)
    model.config.activation_function = activation
    ours = RewardModel.from_policy(LanguagePolicy(model, tokenizer))
    # As transformers builds it: RewardModel would fuse the activation of this one too.
    theirs = AutoModelForSequenceClassification.from_config(ours.model.config)
    theirs.load_state_dict(ours.model.state_dict())
    preferences = pairs(BATCH * 20)
    settings = RewardSettings(steps=steps + 10, batch_size=BATCH, learning_rate=1e-4, warmup=0.0)
    loop = train_reward_model(ours, preferences, settings)
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
        trainer = trl.RewardTrainer(
            model=theirs,
            args=trl.RewardConfig(
                output_dir=folder,
                per_device_train_batch_size=BATCH,
                max_steps=steps + 1,
                learning_rate=1e-4,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                report_to="none",
                logging_strategy="no",
                save_strategy="no",
                disable_tqdm=True,
                eos_token="<end>",
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
    ratios = [t / o for t, o in zip(trl_seconds, our_seconds, strict=True)][2:]
    return {
        "benchmark": "reward_model",
        "model": size,
        "activation": activation,
        "parameters": sum(weight.numel() for weight in ours.parameters()),
        "pairs_a_step": BATCH,
        "ours_ms": round(1000 * statistics.median(our_seconds), 1),
        "trl_ms": round(1000 * statistics.median(trl_seconds), 1),
        "ratio": round(statistics.median(ratios), 2),
        "target": 2.0,
        "steps": len(ratios),
        "torch": torch.__version__,
        "trl": trl.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=SIZES, nargs="*", default=list(SIZES))
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    for size in arguments.model:
        for activation in ("gelu_new", "gelu_pytorch_tanh"):
            print(json.dumps(measure(size, activation, arguments.steps)), flush=True)


if __name__ == "__main__":
    main()
