"""What the labels' noise alone costs at 10,000 pairs: two regressions that have no body to train.

    python -m benchmarks.reward_model_noise       about half a CPU minute

The pairs, labels and held-out pairs are those of ``benchmarks.reward_model_sizes``. One logistic
regression knows the form of the gold reward (each word of opinion, signed and weighted by its
context, and each kind of fault) and must learn the 107 numbers in it; the other counts words. Last,
the gap of a reward that is exact but for the faults, which needs no learning.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.reward_model_sizes import (
    HELD_OUT,
    TEMPERATURE,
    expected_accuracy,
    sample_pairs,
)
from rlhf_lessons.formulas import fit_linear_rewards
from rlhf_lessons.models import load_policy
from rlhf_lessons.worlds import (
    NoisyComparer,
    bayes_ceiling,
    drop_equal_pairs,
    label_pairs,
    preference_probability,
    reviews,
)

PAIRS = 10_000
RIDGE = 1e-3  # times the squared length of the weights; 3e-4 and 3e-3 change little
STRENGTHS = dict(
    zip(
        reviews.VOCABULARY,
        reviews.gold_sentiment([""] * len(reviews.VOCABULARY), list(reviews.VOCABULARY)),
        strict=True,
    )
)
OPINIONS = {w: i for i, w in enumerate(word for word, s in STRENGTHS.items() if s)}
KINDS = ("ungrammatical", "repeated opinion", "missing ending", "praise in a broken sentence")


def known_form(text: str) -> np.ndarray:
    """Count each word of opinion by what its context makes of it, and the faults."""
    counts = np.zeros(len(OPINIONS) + len(KINDS))
    words, before = text.split(), 0.0
    for place, word in enumerate(words):
        if word in OPINIONS:
            (now,) = reviews.gold_sentiment([""], [" ".join(words[: place + 1])])
            counts[OPINIONS[word]] += (now - before) / STRENGTHS[word]
            before = now
    for fault in reviews.faults(text):
        counts[len(OPINIONS) + KINDS.index(fault.kind)] += 1
        if fault.kind == "ungrammatical":
            counts[-1] += fault.penalty - 1
    return counts


def bag_of_words(text: str) -> np.ndarray:
    """Count each word of the vocabulary."""
    words = text.split()
    return np.array([words.count(word) for word in reviews.VOCABULARY], dtype=float)


def main() -> None:
    torch.set_num_threads(1)
    policy = load_policy("reviews-sft")
    prompts, sides = sample_pairs(policy, PAIRS)
    held_out = [side[:HELD_OUT] for side in sides]
    gold = [reviews.gold_reward(prompts[:HELD_OUT], side) for side in held_out]
    p = preference_probability(*gold, TEMPERATURE)
    ceiling = bayes_ceiling(*gold, TEMPERATURE)
    rater = NoisyComparer(reviews.gold_reward, TEMPERATURE)

    def gap(margins: np.ndarray) -> float:
        return 100 * (ceiling - expected_accuracy(margins, p))

    for name, features in (("known form", known_form), ("bag of words", bag_of_words)):
        first, second = (np.array([features(text) for text in side]) for side in held_out)
        gaps = []
        for seed in range(3):
            labels = label_pairs(rater, prompts[HELD_OUT:], *(s[HELD_OUT:] for s in sides), seed)
            labels, _ = drop_equal_pairs(labels)
            rows = np.array([features(chosen) - features(other) for _, chosen, other in labels])
            weights, _ = fit_linear_rewards(torch.from_numpy(rows), RIDGE)
            gaps.append(gap((first - second) @ weights.numpy()))
        shown = ", ".join(f"{g:.2f}" for g in gaps)
        print(f"{name:12} {first.shape[1]:3} numbers: {np.mean(gaps):.2f} points below ({shown})")
    exact = [reviews.gold_sentiment(prompts[:HELD_OUT], side) for side in held_out]
    print(f"the gold reward without its penalties: {gap(exact[0] - exact[1]):.2f} points below")


if __name__ == "__main__":
    main()
