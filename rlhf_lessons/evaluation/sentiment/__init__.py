"""The DPO paper's sentiment experiment as one command (lesson 8).

    python -m rlhf_lessons run sentiment --method dpo --beta 0.1               offline, on a CPU
    python -m rlhf_lessons run sentiment --policy gpt2 --data imdb --method dpo --beta 0.1
    python -m rlhf_lessons run sentiment --data snippets --method dpo ppo bon --beta 0.05 0.1

The third is a real model of 135 M weights on real film snippets, scored by a judge that was fitted
to people's ratings, on two cores; python -m rlhf_lessons real get fetches what it needs.

A policy continues the first 2 to 8 tokens of a film review; a judge says how positive the whole is.
Each stage is a function of this package, and what it makes is kept in the folder of the run:

    sft/            the policy, fine-tuned on reviews: the reference π_ref
    pairs.jsonl     4 continuations of each prompt, 6 pairs (snippets: 2, one pair), labelled by the
                    judge's scores
    reward_model/   learned from the pairs; ppo and bon optimise it
    model/          the result of sft, rm, dpo or ppo
    results.json    settings, versions, command; reward and KL on the way and at the end
    plot.png        the same as a picture

The same command goes on where it was stopped. Several methods or β make one folder: what they share
lies there (sft/, the pairs, reward_model/), table.txt and plot.png compare them, and each run has a
folder of its own in it with the rest. Texts are cut after the last sentence that fits, so that
responses learn to end; the paper cuts them anywhere. A response that is cut at max-new-tokens is
taught no end.

Left out on purpose: several devices, and a search over settings. For texts of the hub or of your
own they are the paper's where it names them (pairs, β, batch and learning rate of DPO), else a
start.

Source: Rafailov et al. 2023, "Direct Preference Optimization", section 6.1 and appendix C.1.
"""

from __future__ import annotations

from rlhf_lessons.evaluation.sentiment.experiment import (
    compare_sentiment,
    folder_of,
    run_sentiment,
)
from rlhf_lessons.evaluation.sentiment.record import SentimentRun, comparison
from rlhf_lessons.evaluation.sentiment.settings import (
    SENTIMENT_METHODS,
    SENTIMENT_PRESETS,
    SentimentSettings,
)

__all__ = [
    "SENTIMENT_METHODS",
    "SENTIMENT_PRESETS",
    "SentimentRun",
    "SentimentSettings",
    "compare_sentiment",
    "comparison",
    "folder_of",
    "run_sentiment",
]
