"""What each method does with the shared pairs, and at which β."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rlhf_lessons import formulas
from rlhf_lessons.evaluation.best_of_n import best_of_n_curve
from rlhf_lessons.evaluation.frontier.point import LONGEST, FrontierPoint, Judge
from rlhf_lessons.evaluation.frontier.world import KEPT_TEXTS, World, sample_responses
from rlhf_lessons.evaluation.language import estimate_mean
from rlhf_lessons.models import LanguagePolicy, ValueHead, small_gpt2, word_tokenizer
from rlhf_lessons.training import (
    DPOSettings,
    PPOSettings,
    SupervisedSettings,
    train_dpo,
    train_ppo,
    train_sft,
)
from rlhf_lessons.worlds import reviews

__all__ = ["FRONTIER_METHODS", "FrontierMethod"]


Outcome = tuple[list[FrontierPoint], Sequence[float]]

LIKED = ("documentary", "mystery")
"""The labelled genres of the study of prompts."""


def _outcome(points: Sequence[FrontierPoint]) -> Outcome:
    """Take the rewards of the last point's responses, and leave it as many texts as the others."""
    *before, last = points
    rewards = [reward for _, _, reward in last.texts]
    return [*before, dataclasses.replace(last, texts=last.texts[:KEPT_TEXTS])], rewards


def _trained(world: World, policy: LanguagePolicy, loop: Iterator, beta: float | None) -> Outcome:
    """Run a loop and measure its policy on the way."""
    points: list[FrontierPoint] = []
    ratios: list[tuple[float, float]] = []
    for record in loop:
        if beta is not None and hasattr(record, "chosen_reward"):
            ratios.append((record.chosen_reward / beta, record.rejected_reward / beta))
        if record.step in world.checkpoints(record.total):
            point = world.measure(policy, record.step, record.total)
            if ratios:
                chosen, rejected = np.mean(ratios[-max(1, len(ratios) // 4) :], axis=0)
                point = dataclasses.replace(
                    point, chosen_log_ratio=float(chosen), rejected_log_ratio=float(rejected)
                )
            points.append(point)
    return _outcome(points)


def _sft(world: World, beta: float | None) -> Outcome:
    return _outcome([world.measure(world.reference, 0, 0)])


def _preferred(world: World, beta: float | None) -> Outcome:
    s, policy = world.settings, world.fresh()
    settings = SupervisedSettings(
        steps=s.supervised_steps,
        learning_rate=s.supervised_learning_rate,
        warmup=0.04,
        seed=world.seed,
    )
    examples = [(pair.prompt, pair.chosen) for pair in world.pairs]
    return _trained(world, policy, train_sft(policy, examples, settings), None)


def _dpo_settings(world: World, beta: float, steps: int) -> DPOSettings:
    return DPOSettings(
        steps=steps, beta=beta, learning_rate=world.settings.dpo_learning_rate, seed=world.seed
    )


def _unlikelihood(world: World, beta: float | None) -> Outcome:
    policy = world.fresh()

    def loss(chosen, rejected, reference_chosen, reference_rejected, beta):
        return formulas.unlikelihood_loss(chosen, rejected)

    settings = _dpo_settings(world, 1.0, world.settings.dpo_steps)  # its loss has no β
    loop = train_dpo(policy, world.pairs, settings, reference=world.reference, loss=loss)
    return _trained(world, policy, loop, 1.0)


def _dpo(world: World, beta: float | None) -> Outcome:
    policy = world.fresh()
    settings = _dpo_settings(world, beta, world.settings.dpo_steps)
    loop = train_dpo(policy, world.pairs, settings, reference=world.reference)
    return _trained(world, policy, loop, beta)


def _iterated_dpo(world: World, beta: float | None) -> Outcome:
    """Sample pairs from the policy as it is, label them, train, again; the reference stays."""
    s, policy = world.settings, world.fresh()
    steps = max(1, s.dpo_steps // s.dpo_rounds)
    points = []
    for round_ in range(s.dpo_rounds):
        prompts = world.training_prompts[round_ :: s.dpo_rounds]
        seed = 4000 + 100 * world.seed + round_
        pairs = world.pairs_from(policy, prompts, seed)
        settings = _dpo_settings(world, beta, steps)
        for _ in train_dpo(policy, pairs, settings, reference=world.reference):
            pass
        points.append(world.measure(policy, (round_ + 1) * steps, s.dpo_rounds * steps))
    return _outcome(points)


def _ppo(world: World, beta: float, judge: Judge, prompts: Sequence[str]) -> Outcome:
    s, policy = world.settings, world.fresh()
    settings = PPOSettings(
        cycles=s.ppo_cycles,
        beta=beta,
        learning_rate=s.ppo_learning_rate,
        final_learning_rate=s.ppo_learning_rate / 10,
        max_new_tokens=LONGEST,
        seed=world.seed,
    )
    # Values on the policy's own body pull it about: at large β such runs collapsed.
    value_head = ValueHead(world.fresh())
    loop = train_ppo(
        policy, prompts, judge, settings, reference=world.reference, value_head=value_head
    )
    return _trained(world, policy, loop, beta)


def _ppo_true(world: World, beta: float | None) -> Outcome:
    return _ppo(world, beta, reviews.gold_reward, world.training_prompts)


def _ppo_learned(world: World, beta: float | None) -> Outcome:
    return _ppo(world, beta, world.reward_model, world.training_prompts)


def _ppo_unlabelled(world: World, beta: float | None) -> Outcome:
    prompts = world.prompts(world.settings.pairs, 5000 + 10 * world.seed)
    return _ppo(world, beta, world.reward_model, prompts)


def _pool(world: World) -> tuple[list[str], np.ndarray, list[list[str]]]:
    """Sample many responses to a few prompts; the gold rewards, (P, N), and the responses."""
    s = world.settings
    prompts = world.evaluation_prompts[: s.pool_prompts]
    repeated = [prompt for prompt in prompts for _ in range(s.pool_samples)]
    responses = sample_responses(world.reference, repeated, 6000 + world.seed)
    gold = reviews.gold_reward(repeated, responses).reshape(len(prompts), s.pool_samples)
    rows = [responses[i : i + s.pool_samples] for i in range(0, len(responses), s.pool_samples)]
    return repeated, gold, rows


def _best_of_n(world: World, judge: Judge) -> Outcome:
    repeated, gold, rows = _pool(world)
    flat = [response for row in rows for response in row]
    scores = np.asarray(judge(repeated, flat), dtype=np.float64).reshape(gold.shape)
    largest = world.settings.pool_samples // 4
    values = [1 << k for k in range(largest.bit_length()) if 1 << k <= largest]
    curve = best_of_n_curve(scores, gold, values)
    points = [
        FrontierPoint(
            step=n,
            total=values[-1],
            kl=float(kl),
            kl_error=0.0,  # the bound log n − (n − 1)/n, which is what distinct scores give
            reward=float(reward),
            reward_error=float(error),
            clean=math.nan,
            samples=gold.size,
        )
        for n, kl, reward, error in zip(
            values, curve.kl_bound, curve.gold, curve.gold_error, strict=True
        )
    ]
    return points, ()


def _best_of_n_learned(world: World, beta: float | None) -> Outcome:
    return _best_of_n(world, world.reward_model)


def _best_of_n_true(world: World, beta: float | None) -> Outcome:
    return _best_of_n(world, reviews.gold_reward)


def _optimum(world: World, beta: float | None) -> Outcome:
    """Estimate π* by weighing samples of the reference: w ∝ exp(r/β), prompt by prompt.

    E*[r] = Σ w·r and KL* = Σ w·log(N·w). Both are too small where a few samples carry the weight:
    KL cannot pass log N. So the β of the sweep are large.
    """
    _, gold, rows = _pool(world)
    rewards = torch.from_numpy(gold)
    log_w = (rewards / beta).log_softmax(-1)
    w = log_w.exp()
    kl = estimate_mean((w * (log_w + math.log(gold.shape[1]))).sum(-1))
    reward = estimate_mean((w * rewards).sum(-1))
    clean = np.array([[not reviews.faults(text) for text in row] for row in rows])
    point = FrontierPoint(
        step=gold.shape[1],
        total=gold.shape[1],
        kl=kl.value,
        kl_error=kl.standard_error,
        reward=reward.value,
        reward_error=reward.standard_error,
        clean=float((w.numpy() * clean).sum(-1).mean()),
        samples=gold.size,
    )
    return [point], ()


def _larger_sft(world: World, beta: float | None) -> Outcome:
    s = world.settings
    tokenizer = word_tokenizer(reviews.VOCABULARY)
    model = small_gpt2(len(tokenizer), width=s.larger_width, layers=3, heads=4, seed=world.seed)
    policy = LanguagePolicy(model, tokenizer)
    settings = SupervisedSettings(
        steps=s.larger_steps,
        learning_rate=3e-3,
        warmup=0.03125,
        seed=world.seed,
    )
    for _ in train_sft(policy, reviews.sample_reviews(25_000, seed=200), settings):
        pass
    return _outcome([world.measure(policy, s.larger_steps, s.larger_steps)])


@dataclass(frozen=True)
class FrontierMethod:
    """One way to align a policy.

    Attributes:
        name: its name in files and on the command line.
        summary: one line about it.
        betas: the β of its runs; (None,) where it has none.
        run: (world, β) -> points and rewards.
        genres: where named, the only genres that are labelled; measured on the others.
    """

    name: str
    summary: str
    betas: tuple[float | None, ...]
    run: Callable[[World, float | None], Outcome]
    genres: tuple[str, ...] = ()


_BETAS = (0.5, 0.1, 1.0, 0.2, 0.05)

FRONTIER_METHODS: dict[str, FrontierMethod] = {
    method.name: method
    for method in (
        FrontierMethod("sft", "the fine-tuned model, where all start", (None,), _sft),
        FrontierMethod("dpo", "DPO on the labelled pairs", (*_BETAS, 2.0), _dpo),
        FrontierMethod("ppo-true", "PPO against the gold reward", _BETAS, _ppo_true),
        FrontierMethod("ppo-learned", "PPO against a learned reward", _BETAS, _ppo_learned),
        FrontierMethod("preferred-ft", "fine-tuning on the chosen responses", (None,), _preferred),
        FrontierMethod(
            "unlikelihood", "chosen up, rejected down, unweighted", (None,), _unlikelihood
        ),
        FrontierMethod("best-of-n-true", "the best of n by gold reward", (None,), _best_of_n_true),
        FrontierMethod(
            "best-of-n-learned", "the same by a learned one", (None,), _best_of_n_learned
        ),
        FrontierMethod("optimum", "π*, from weighted samples", (2.0, 1.0, 0.7), _optimum),
        FrontierMethod(
            "iterated-dpo", "DPO on pairs of its own, 3 rounds", (0.1, 0.2, 0.05), _iterated_dpo
        ),
        FrontierMethod("genres-sft", "fine-tuned, on unlabelled genres", (None,), _sft, LIKED),
        FrontierMethod("genres-dpo", "DPO, two genres labelled", (0.2,), _dpo, LIKED),
        FrontierMethod("genres-ppo", "PPO on the labelled prompts", (0.2,), _ppo_learned, LIKED),
        FrontierMethod(
            "genres-ppo-all", "PPO on unlabelled ones too", (0.2,), _ppo_unlabelled, LIKED
        ),
        FrontierMethod("larger-sft", "a larger model, fine-tuned only", (None,), _larger_sft),
    )
}
"""The methods of the sweep, by name; their runs are done in this order, seed by seed."""
