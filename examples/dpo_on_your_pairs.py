"""Fine-tune a policy on your own preferences with DPO: no reward model, no sampling.

    python examples/dpo_on_your_pairs.py pairs.jsonl --policy gpt2 --beta 0.1 --save my-policy

Each line of the file is {"prompt": ..., "chosen": ..., "rejected": ...}: texts, or, for a model
with a chat template, lists of messages. A JSON array, parquet and a folder of a data set do, too.
"""

from __future__ import annotations

import argparse

import torch
from tqdm import tqdm

from rlhf_lessons.models import CHECKPOINT_FOLDER, LanguagePolicy
from rlhf_lessons.training import DPOSettings, train_dpo
from rlhf_lessons.worlds import load_preferences


def main(words: list[str] | None = None) -> None:
    """Read the pairs, hold a tenth of them out, train, report, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", help="JSON Lines, JSON array, parquet or folder")
    parser.add_argument(
        "--policy", default=CHECKPOINT_FOLDER / "reviews-sft", help="name or folder"
    )
    parser.add_argument("--save", help="folder for the trained policy")
    parser.add_argument("--lora", type=int, metavar="RANK", help="train low-rank adapters alone")
    parser.add_argument("--beta", type=float, default=0.1, help="KL strength β: large stays near")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument(
        "--learning-rate", type=float, default=1e-4, help="near 1e-5 for large models"
    )
    given = parser.parse_args(words)

    policy = LanguagePolicy.from_pretrained(given.policy)
    pairs = load_preferences(  # names each bad line
        given.pairs, tokenizer=policy.tokenizer, drop_equal=True
    )
    held_out = max(1, len(pairs) // 10)
    train, validation = pairs[held_out:], pairs[:held_out]

    if given.lora:
        policy = policy.with_adapter(given.lora)
    settings = DPOSettings(steps=given.steps, beta=given.beta, learning_rate=given.learning_rate)
    loop = train_dpo(policy, train, settings, validation=validation)
    for step in (bar := tqdm(loop, "DPO", total=given.steps, disable=None)):
        if step.validation_loss is not None:
            bar.write(
                f"step {step.step} of {step.total}: loss {step.loss:.3f}, held out "
                f"{step.validation_loss:.3f} with {step.validation_accuracy:.0%} in the right order"
            )

    prompt = validation[0].prompt
    rollout = policy.sample([prompt] * 3, 24, generator=torch.Generator().manual_seed(0))
    for response in rollout.responses:
        print(f"{prompt!r} -> {response!r}")
    if given.save:
        policy.save_pretrained(given.save)  # any tool of Hugging Face loads it, or its adapters
        print(f"saved to {given.save}")


if __name__ == "__main__":
    main()
