"""Fit a reward model to your own preferences and use it to score responses.

    python examples/reward_model_on_your_pairs.py pairs.jsonl --policy gpt2 --save my-reward-model

Each line of the file is {"prompt": ..., "chosen": ..., "rejected": ...}: texts, or, for a model
with a chat template, lists of messages. A JSON array, parquet and a folder of a data set do, too.
"""

from __future__ import annotations

import argparse

from tqdm import tqdm

from rlhf_lessons.models import CHECKPOINT_FOLDER, LanguagePolicy, RewardModel
from rlhf_lessons.training import RewardSettings, train_reward_model
from rlhf_lessons.worlds import load_preferences


def main(words: list[str] | None = None) -> None:
    """Read the pairs, hold a tenth of them out, train, report, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", help="JSON Lines, JSON array, parquet or folder")
    parser.add_argument(
        "--policy", default=CHECKPOINT_FOLDER / "reviews-sft", help="name or folder"
    )
    parser.add_argument("--save", help="folder for the reward model")
    parser.add_argument("--steps", type=int, default=300)
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

    reward_model = RewardModel.from_policy(policy)
    settings = RewardSettings(steps=given.steps, learning_rate=given.learning_rate)
    loop = train_reward_model(reward_model, train, settings, validation=validation)
    for step in (bar := tqdm(loop, "reward model", total=given.steps, disable=None)):
        if step.validation_loss is not None:
            bar.write(
                f"step {step.step} of {step.total}: loss {step.loss:.3f}, held out "
                f"{step.validation_loss:.3f} with {step.validation_accuracy:.0%} in the right order"
            )

    prompts, chosen, _ = zip(*validation, strict=True)
    for response, score in zip(chosen[:3], reward_model(prompts, chosen).tolist(), strict=False):
        print(f"{score:+.2f} {response!r}")
    if given.save:
        reward_model.save_pretrained(given.save)  # RewardModel.from_pretrained loads it
        print(f"saved to {given.save}")


if __name__ == "__main__":
    main()
