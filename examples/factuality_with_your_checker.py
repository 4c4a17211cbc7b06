"""Score facts with your own claim checker, and teach the policy what the checker found.

    python examples/factuality_with_your_checker.py --policy my-model --save my-honest-model

The checker reads a response and says how many of its claims are right and how many wrong. Here it
looks claims up in the course's encyclopedia of invented people; put a search, a database or another
model in its place, and your own prompts in place of ``PROMPTS``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from tqdm import tqdm

from rlhf_lessons.evaluation import pairs_from_scores
from rlhf_lessons.models import CHECKPOINT_FOLDER, LanguagePolicy
from rlhf_lessons.training import DPOSettings, train_dpo
from rlhf_lessons.worlds import people_encyclopedia

PEOPLE = people_encyclopedia()
PROMPTS = [PEOPLE.prompt(name) for name in PEOPLE.subjects]


def check(prompt: str, response: str) -> tuple[int, int]:
    """Your claim checker: how many claims are right, and how many are wrong."""
    claims = PEOPLE.read(response, about=PEOPLE.subject_of(prompt)).claims
    right = sum(PEOPLE.is_true(claim) for claim in claims)
    return right, len(claims) - right


def judge(prompts: Sequence[str], responses: Sequence[str]) -> list[int]:
    """Score responses: a wrong claim costs what a right one earns."""
    checked = map(check, prompts, responses)
    return [right - wrong for right, wrong in checked]


def main(words: list[str] | None = None) -> None:
    """Sample answers, score them, make pairs of better and worse, train on the pairs, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", default=CHECKPOINT_FOLDER / "facts-sft", help="name or folder")
    parser.add_argument("--save", help="folder for the trained policy")
    parser.add_argument("--lora", type=int, metavar="RANK", help="train low-rank adapters alone")
    parser.add_argument("--subjects", type=int, default=100, help="prompts to train on")
    parser.add_argument("--samples", type=int, default=6, help="answers sampled for each prompt")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument(
        "--learning-rate", type=float, default=1e-4, help="near 1e-5 for large models"
    )
    given = parser.parse_args(words)
    policy = LanguagePolicy.from_pretrained(given.policy)
    if given.lora:
        policy = policy.with_adapter(given.lora)
    asked, held_out = PROMPTS[: given.subjects], PROMPTS[given.subjects : 2 * given.subjects]
    generator = torch.Generator().manual_seed(0)

    def answer(prompts: list[str]) -> tuple[tuple[str, ...], list[int]]:
        rollout = policy.sample(prompts, given.max_new_tokens, generator=generator)
        return rollout.responses, judge(prompts, rollout.responses)

    _, scores = answer(held_out)
    print(f"before: {sum(scores) / len(scores):+.2f} right minus wrong claims an answer")

    prompts = asked * given.samples
    responses, scores = answer(prompts)
    pairs = pairs_from_scores(prompts, responses, scores, per_prompt=given.samples // 2)
    print(f"{len(responses)} answers sampled, {len(pairs)} pairs of a better and a worse one")
    settings = DPOSettings(steps=given.steps, learning_rate=given.learning_rate)
    for step in (bar := tqdm(train_dpo(policy, pairs, settings), "DPO", given.steps, disable=None)):
        if step.step % 20 == 0 or step.step == step.total:
            told = f"loss {step.loss:.3f}, KL {step.kl:.2f} nats"
            bar.write(f"step {step.step} of {step.total}: {told}")
    _, scores = answer(held_out)
    print(f"after: {sum(scores) / len(scores):+.2f}, on prompts that were not trained on")
    if given.save:
        policy.save_pretrained(given.save)
        print(f"saved to {given.save}")


if __name__ == "__main__":
    main()
