"""Train a policy with PPO against your own judge: any function (prompts, responses) -> scores.

    python examples/ppo_with_your_judge.py --policy gpt2 --prompts prompts.txt --save my-policy

A judge may count, call a classifier, ask another model or a person. Best-of-n and pair-building
take the same function; a ``RewardModel`` is one, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from rlhf_lessons.evaluation import best_of_n
from rlhf_lessons.models import CHECKPOINT_FOLDER, LanguagePolicy
from rlhf_lessons.training import PPOSettings, train_ppo
from rlhf_lessons.worlds import sample_prompts


def judge(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """Your judge, one finite score for each response: here how many kinds of praise it holds."""
    praise = {"good", "great", "enjoyed", "loved", "wonderful", "excellent", "superb"}
    return [float(len(praise.intersection(response.split()))) for response in responses]


def main(words: list[str] | None = None) -> None:
    """Look at best-of-n first, then train, report, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--policy", default=CHECKPOINT_FOLDER / "reviews-sft", help="name or folder"
    )
    parser.add_argument("--prompts", type=Path, help="a text file, one prompt a line")
    parser.add_argument("--save", help="folder for the trained policy")
    parser.add_argument("--lora", type=int, metavar="RANK", help="train low-rank adapters alone")
    parser.add_argument("--beta", type=float, default=0.05, help="KL strength β: large stays near")
    parser.add_argument("--cycles", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=64, help="responses a cycle")
    parser.add_argument("--max-new-tokens", type=int, default=40)
    parser.add_argument(
        "--learning-rate", type=float, default=1e-4, help="near 1e-5 for large models"
    )
    given = parser.parse_args(words)
    prompts = (
        given.prompts.read_text().splitlines() if given.prompts else sample_prompts(256, seed=0)
    )

    policy = LanguagePolicy.from_pretrained(given.policy)
    if given.lora:
        policy = policy.with_adapter(given.lora)
    best = best_of_n(policy, prompts[:8], judge, n=4, max_new_tokens=given.max_new_tokens)
    print(f"untrained {best.candidate_scores.mean():.3f}, best of 4 {best.scores.mean():.3f}")

    settings = PPOSettings(
        cycles=given.cycles,
        batch_size=given.batch_size,
        max_new_tokens=given.max_new_tokens,
        learning_rate=given.learning_rate,
        beta=given.beta,
    )
    loop = train_ppo(policy, prompts, judge, settings)
    for step in (bar := tqdm(loop, "PPO", total=given.cycles, disable=None)):
        told = f"score {step.reward:.3f}, KL {step.kl:.2f} nats"
        bar.write(f"cycle {step.step} of {step.total}: {told}")
    if given.save:
        policy.save_pretrained(given.save)
        print(f"saved to {given.save}")


if __name__ == "__main__":
    main()
