"""Reward against KL: what each way of aligning a policy buys, and at what distance (lesson 6).

    python -m rlhf_lessons frontier list                which runs there are, and which are done
    python -m rlhf_lessons frontier run --seeds 0 1 2   do those that are not, one file each
    python -m rlhf_lessons frontier table               what came out

All methods start from the shipped fine-tuned model and get the same labelled pairs (or, for
``ppo-true``, the reward that made the labels). Labels are Bradley-Terry on the gold reward at
temperature 1, so that one β asks every method for one and the same optimal policy. A run is written
when it ends, as a whole, with its settings, seed, versions and command; the next call goes on with
what is missing.

Settings are in ``FrontierSettings``, once for all β. Two were chosen after a look at results: DPO's
learning rate, the better of 3e-4 and 1e-3 by reward at β = 0.2, and PPO's value model of its own,
after runs with a shared body ran away at β ≥ 0.5. Left out on purpose: a search over the rest.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlhf_lessons import formulas
from rlhf_lessons.evaluation.best_of_n import best_of_n_curve
from rlhf_lessons.evaluation.language import estimate_mean, estimate_share, sample_kl
from rlhf_lessons.evaluation.preferences import numbers
from rlhf_lessons.evaluation.sweeps import do_runs, read_runs, write_run
from rlhf_lessons.models import (
    LanguagePolicy,
    RewardModel,
    ValueHead,
    load_policy,
    small_gpt2,
    word_tokenizer,
)
from rlhf_lessons.training import (
    DPOSettings,
    PPOSettings,
    RewardSettings,
    SupervisedSettings,
    train_dpo,
    train_ppo,
    train_reward_model,
    train_sft,
)
from rlhf_lessons.training.settings import ABOVE_0, check_settings, whole
from rlhf_lessons.training.versions import versions
from rlhf_lessons.worlds import reviews
from rlhf_lessons.worlds.labellers import NoisyComparer, label_pairs
from rlhf_lessons.worlds.preferences import Preference

__all__ = [
    "FRONTIER_METHODS",
    "FrontierMethod",
    "FrontierPoint",
    "FrontierRun",
    "FrontierSettings",
    "PowerLaw",
    "WinRate",
    "fit_power_law",
    "frontier_point",
    "load_frontier",
    "main",
    "run_frontier",
    "win_rate",
]

FRONTIER_FOLDER = Path(__file__).parent / "frontier_runs"
"""Where the runs behind lesson 6 lie."""

_LONGEST = 48  # tokens of a response; the longest review has 46
_BATCH = 512  # responses sampled and read side by side
_KEPT_REWARDS = 400  # rewards of single responses kept for win rates, on prompts that all share
_LIKED = ("documentary", "mystery")  # the labelled genres of the study of prompts

Judge = Callable[[Sequence[str], Sequence[str]], Any]


# --- what is measured -----------------------------------------------------------------------------


@dataclass(frozen=True)
class FrontierPoint:
    """One policy on the plane of KL and reward.

    Attributes:
        step: updates (PPO: cycles, best-of-n: n) that made the policy.
        total: of how many.
        kl: KL(π ‖ π_ref) in nats per response.
        kl_error: its standard error.
        reward: mean gold reward of a response.
        reward_error: its standard error.
        clean: share of responses without a fault.
        samples: responses that were sampled.
        chosen_log_ratio: mean log π − log π_ref of the chosen responses in training, in nats; None
            where there are none.
        rejected_log_ratio: the same of the rejected ones.
        texts: a few (prompt, response, gold reward), the same prompts for every policy.
    """

    step: int
    total: int
    kl: float
    kl_error: float
    reward: float
    reward_error: float
    clean: float
    samples: int
    chosen_log_ratio: float | None = None
    rejected_log_ratio: float | None = None
    texts: tuple[tuple[str, str, float], ...] = ()


@dataclass(frozen=True)
class FrontierRun:
    """One method at one β with one seed: a file of the sweep.

    Attributes:
        method: name in ``FRONTIER_METHODS``.
        beta: KL strength β in reward per nat; None where the method has none.
        seed: of pairs, labels, training and sampling.
        points: the checkpoints in order, the last one the end of training.
        rewards: gold rewards of the first responses of the last point, one for each evaluation
            prompt, for win rates; prompts are the same in every run.
        settings: of the sweep, as JSON values.
        versions: of Python and the libraries.
        command: what was typed.
        cpu_seconds: that the run took.
    """

    method: str
    beta: float | None
    seed: int
    points: tuple[FrontierPoint, ...]
    rewards: tuple[float, ...]
    settings: dict[str, Any]
    versions: dict[str, str]
    command: str
    cpu_seconds: float

    @property
    def last(self) -> FrontierPoint:
        """The policy at the end of training."""
        return self.points[-1]


@torch.no_grad()
def frontier_point(
    policy: LanguagePolicy,
    reference: LanguagePolicy,
    prompts: Sequence[str],
    *,
    judge: Judge = reviews.gold_reward,
    max_new_tokens: int = _LONGEST,
    seed: int = 0,
    batch_size: int = _BATCH,
    step: int = 0,
    total: int = 0,
    texts: int = 0,
) -> FrontierPoint:
    """Place any policy on the frontier: KL to its reference and mean reward, by sampling.

    KL and reward are measured on the same responses, one to each prompt.

    Args:
        policy: π, which is sampled.
        reference: π_ref, with the same tokens.
        prompts: 2 or more texts; repeat a prompt for more responses to it.
        judge: (prompts, responses) -> rewards (B,), by default the gold reward.
        max_new_tokens: the most tokens of a response.
        seed: of the sampling.
        batch_size: responses sampled and read side by side.
        step: updates that made the policy, for the record.
        total: of how many.
        texts: number of responses to keep in the record.

    Returns:
        The point.

    Raises:
        ValueError: if there are fewer than two prompts or the vocabularies differ.
    """
    generator = torch.Generator(policy.device).manual_seed(seed)
    responses, divergences = sample_kl(
        policy, reference, prompts, max_new_tokens, generator, batch_size
    )
    kl = estimate_mean(divergences)
    rewards = np.asarray(judge(prompts, responses), dtype=np.float64)
    reward = estimate_mean(rewards)
    clean = sum(not reviews.faults(response) for response in responses) / len(responses)
    kept = zip(prompts[:texts], responses[:texts], rewards[:texts].tolist(), strict=True)
    return FrontierPoint(
        step=step,
        total=total,
        kl=kl.value,
        kl_error=kl.standard_error,
        reward=reward.value,
        reward_error=reward.standard_error,
        clean=clean,
        samples=len(responses),
        texts=tuple((prompt, text, round(score, 3)) for prompt, text, score in kept),
    )


@torch.no_grad()
def _responses(
    policy: LanguagePolicy, prompts: Sequence[str], max_new_tokens: int, seed: int
) -> list[str]:
    generator = torch.Generator(policy.device).manual_seed(seed)
    responses: list[str] = []
    for start in range(0, len(prompts), _BATCH):
        part = prompts[start : start + _BATCH]
        responses += policy.sample(part, max_new_tokens, generator=generator).responses
    return responses


@dataclass(frozen=True)
class WinRate:
    """How often one policy's responses beat another's.

    Attributes:
        value: share of prompts won, a tie counted half.
        low: lower end of Wilson's interval.
        high: upper end.
        count: number of prompts.
    """

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


def win_rate(
    rewards: Sequence[float], other_rewards: Sequence[float], confidence: float = 0.95
) -> WinRate:
    """Compare two policies on the same prompts by the rewards of one response each.

        p = (wins + ½ · ties)/n, with Wilson's interval

    Args:
        rewards: (N,) rewards of the first policy's responses.
        other_rewards: (N,) those of the other one's, to the same prompts.
        confidence: share of repetitions in which the interval holds the true rate, in (0, 1).

    Returns:
        The rate with its interval; with ties the interval is a little too wide.

    Raises:
        ValueError: if there are no rewards, the numbers differ, or one is not finite.
    """
    own, other = numbers("win_rate", rewards=rewards, other_rewards=other_rewards)
    won = float((own > other).sum() + 0.5 * (own == other).sum())
    return WinRate(*estimate_share(won, len(own), confidence), count=len(own))


@dataclass(frozen=True)
class PowerLaw:
    """A straight line through logarithms: y ≈ exp(intercept) · x^slope.

    Attributes:
        slope: change of log y with log x.
        intercept: log y at x = 1.
        r_squared: share of the variance of log y that the line explains.
        slope_low: lower end of the slope's 95 % interval.
        slope_high: upper end.
        count: number of points.
    """

    slope: float
    intercept: float
    r_squared: float
    slope_low: float
    slope_high: float
    count: int

    def __call__(self, x: float) -> float:
        """Give y on the line."""
        return math.exp(self.intercept + self.slope * math.log(x))


def fit_power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """Fit log y = a + b · log x by least squares.

    The interval of b is Student's: b ± t · s_b with N − 2 degrees of freedom.

    Args:
        x: (N,) numbers above 0, N ≥ 3, not all equal.
        y: (N,) numbers above 0.

    Returns:
        The line.

    Raises:
        ValueError: if there are fewer than three points, a number is not above 0, or all x are
            equal.
    """
    xs, ys = numbers("fit_power_law", x=x, y=y)
    if len(xs) < 3 or (xs <= 0).any() or (ys <= 0).any() or xs.min() == xs.max():
        raise ValueError(
            f"fit_power_law: x and y must be at least 3 numbers above 0, x not all equal, got "
            f"x = {xs.tolist()} and y = {ys.tolist()}"
        )
    u, v = np.log(xs), np.log(ys)
    du = u - u.mean()
    slope = float((du * v).sum() / (du * du).sum())
    intercept = float(v.mean() - slope * u.mean())
    residual = float(((v - intercept - slope * u) ** 2).sum())
    spread = float(((v - v.mean()) ** 2).sum())
    error = math.sqrt(residual / (len(u) - 2) / float((du * du).sum()))
    half_width = _student_quantile(len(u) - 2) * error
    return PowerLaw(
        slope,
        intercept,
        1 - residual / spread if spread > 0 else 1.0,
        slope - half_width,
        slope + half_width,
        len(u),
    )


def _student_quantile(degrees: int, probability: float = 0.975) -> float:
    """Quantile of Student's t by Simpson's rule on t = √ν · tan θ, whose density is cos^(ν−1) θ."""
    theta = np.linspace(0.0, math.pi / 2, 20_001)
    density = np.cos(theta) ** (degrees - 1)
    steps = (density[:-1] + density[1:]) / 2
    cumulative = 0.5 + 0.5 * np.concatenate([[0.0], np.cumsum(steps)]) / steps.sum()
    return math.sqrt(degrees) * math.tan(float(np.interp(probability, cumulative, theta)))


# --- the sweep ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FrontierSettings:
    """What all runs of a sweep share.

    Attributes:
        pairs: labelled pairs, sampled from the fine-tuned model.
        temperature: of the labels: P(first ≻ second) = σ((r₁ − r₂)/temperature).
        dpo_steps: updates of DPO, iterated DPO and unlikelihood.
        dpo_learning_rate: their highest step size.
        dpo_rounds: rounds of iterated DPO; each gets its share of pairs and updates.
        supervised_steps: updates of preferred fine-tuning.
        supervised_learning_rate: their highest step size.
        reward_steps: updates of the reward model.
        ppo_cycles: cycles of PPO, of 64 responses and 4 epochs each, with a value model apart.
        ppo_learning_rate: step size of the first cycle; it falls in a line to a tenth.
        checkpoints: points measured along a run; the k-th before the last is after 2^−k of it.
        samples: responses that measure the last point.
        checkpoint_samples: responses that measure the others.
        pool_prompts: prompts of best-of-n and of the estimated optimum.
        pool_samples: responses to each of them.
        larger_width: width of the larger model that is fine-tuned only.
        larger_steps: updates of its fine-tuning.
    """

    pairs: int = 4000
    temperature: float = 1.0
    dpo_steps: int = 125
    dpo_learning_rate: float = 1e-3
    dpo_rounds: int = 3
    supervised_steps: int = 125
    supervised_learning_rate: float = 1e-3
    reward_steps: int = 250
    ppo_cycles: int = 40
    ppo_learning_rate: float = 1e-3
    checkpoints: int = 3
    samples: int = 2048
    checkpoint_samples: int = 512
    pool_prompts: int = 64
    pool_samples: int = 256
    larger_width: int = 128
    larger_steps: int = 1600

    def __post_init__(self) -> None:
        rules = {
            field.name: whole(1) if isinstance(field.default, int) else ABOVE_0
            for field in dataclasses.fields(self)
        }
        check_settings(self, **rules)


class _World:
    """What the runs of one seed share: policies, prompts, pairs, the reward model. Made on use."""

    def __init__(self, settings: FrontierSettings, seed: int, genres: Sequence[str] = ()) -> None:
        self.settings, self.seed, self.genres = settings, seed, tuple(genres)

    def fresh(self) -> LanguagePolicy:
        """Load the fine-tuned policy, ready to be trained."""
        return load_policy("reviews-sft")

    @cached_property
    def reference(self) -> LanguagePolicy:
        return self.fresh().copy()

    def prompts(self, count: int, seed: int, genres: Sequence[str] = ()) -> list[str]:
        """Write prompts, of some genres alone where they are named."""
        found, tries = [], 0
        while len(found) < count:
            written = reviews.sample_prompts(4 * count, seed=seed + tries)
            found += [p for p in written if not genres or any(g in p.split() for g in genres)]
            tries += 1
        return found[:count]

    @cached_property
    def evaluation_prompts(self) -> list[str]:
        # The same for every seed and method: win rates pair responses to the same prompt.
        if not self.genres:
            return self.prompts(self.settings.samples, seed=900_000)
        others = self.prompts(4 * self.settings.samples, seed=900_000)
        kept = [p for p in others if not any(g in p.split() for g in self.genres)]
        return kept[: self.settings.samples]

    @cached_property
    def training_prompts(self) -> list[str]:
        return self.prompts(self.settings.pairs, 1000 + 10 * self.seed, self.genres)

    def pairs_from(self, policy: LanguagePolicy, prompts: Sequence[str], seed: int) -> list:
        """Sample two responses to each prompt and label them; equal ones teach nothing."""
        first, second = (_responses(policy, prompts, _LONGEST, 2 * seed + i) for i in range(2))
        comparer = NoisyComparer(reviews.gold_reward, self.settings.temperature)
        labelled = label_pairs(comparer, prompts, first, second, seed)
        return [pair for pair in labelled if pair.chosen != pair.rejected]

    @cached_property
    def pairs(self) -> list[Preference]:
        return self.pairs_from(self.reference, self.training_prompts, 2000 + self.seed)

    @cached_property
    def reward_model(self) -> RewardModel:
        model = RewardModel.from_policy(self.reference)
        settings = RewardSettings(steps=self.settings.reward_steps, seed=self.seed)
        for _ in train_reward_model(model, self.pairs, settings):
            pass
        return model

    def measure(self, policy: LanguagePolicy, step: int, total: int) -> FrontierPoint:
        """Place the policy: with many samples at the end of a run, fewer on the way."""
        s = self.settings
        count = s.samples if step == total else s.checkpoint_samples
        prompts = self.evaluation_prompts[:count]
        seed = 3000 + self.seed
        return frontier_point(
            policy, self.reference, prompts, seed=seed, step=step, total=total, texts=2
        )

    def checkpoints(self, total: int) -> set[int]:
        """Say after which steps to measure."""
        return {max(1, total >> k) for k in range(self.settings.checkpoints)}

    def rewards(self, policy: LanguagePolicy) -> np.ndarray:
        """Score the first responses that the last point was measured on."""
        prompts = self.evaluation_prompts
        responses = _responses(policy, prompts, _LONGEST, 3000 + self.seed)[:_KEPT_REWARDS]
        return reviews.gold_reward(prompts[:_KEPT_REWARDS], responses)


Outcome = tuple[list[FrontierPoint], Sequence[float]]


def _trained(world: _World, policy: LanguagePolicy, loop: Iterator, beta: float | None) -> Outcome:
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
    return points, world.rewards(policy)


def _sft(world: _World, beta: float | None) -> Outcome:
    return [world.measure(world.reference, 0, 0)], world.rewards(world.reference)


def _preferred(world: _World, beta: float | None) -> Outcome:
    s, policy = world.settings, world.fresh()
    settings = SupervisedSettings(
        steps=s.supervised_steps,
        learning_rate=s.supervised_learning_rate,
        warmup=0.04,
        seed=world.seed,
    )
    examples = [(pair.prompt, pair.chosen) for pair in world.pairs]
    return _trained(world, policy, train_sft(policy, examples, settings), None)


def _dpo_settings(world: _World, beta: float, steps: int) -> DPOSettings:
    return DPOSettings(
        steps=steps, beta=beta, learning_rate=world.settings.dpo_learning_rate, seed=world.seed
    )


def _unlikelihood(world: _World, beta: float | None) -> Outcome:
    policy = world.fresh()

    def loss(chosen, rejected, reference_chosen, reference_rejected, beta):
        return formulas.unlikelihood_loss(chosen, rejected)

    settings = _dpo_settings(world, 1.0, world.settings.dpo_steps)  # its loss has no β
    loop = train_dpo(policy, world.pairs, settings, reference=world.reference, loss=loss)
    return _trained(world, policy, loop, 1.0)


def _dpo(world: _World, beta: float | None) -> Outcome:
    policy = world.fresh()
    settings = _dpo_settings(world, beta, world.settings.dpo_steps)
    loop = train_dpo(policy, world.pairs, settings, reference=world.reference)
    return _trained(world, policy, loop, beta)


def _iterated_dpo(world: _World, beta: float | None) -> Outcome:
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
    return points, world.rewards(policy)


def _ppo(world: _World, beta: float, judge: Judge, prompts: Sequence[str]) -> Outcome:
    s, policy = world.settings, world.fresh()
    settings = PPOSettings(
        cycles=s.ppo_cycles,
        beta=beta,
        learning_rate=s.ppo_learning_rate,
        final_learning_rate=s.ppo_learning_rate / 10,
        max_new_tokens=_LONGEST,
        seed=world.seed,
    )
    # Values on the policy's own body pull it about: at large β such runs collapsed.
    value_head = ValueHead(world.fresh())
    loop = train_ppo(
        policy, prompts, judge, settings, reference=world.reference, value_head=value_head
    )
    return _trained(world, policy, loop, beta)


def _ppo_true(world: _World, beta: float | None) -> Outcome:
    return _ppo(world, beta, reviews.gold_reward, world.training_prompts)


def _ppo_learned(world: _World, beta: float | None) -> Outcome:
    return _ppo(world, beta, world.reward_model, world.training_prompts)


def _ppo_unlabelled(world: _World, beta: float | None) -> Outcome:
    prompts = world.prompts(world.settings.pairs, 5000 + 10 * world.seed)
    return _ppo(world, beta, world.reward_model, prompts)


def _pool(world: _World) -> tuple[list[str], np.ndarray, list[list[str]]]:
    """Sample many responses to a few prompts; the gold rewards, (P, N), and the responses."""
    s = world.settings
    prompts = world.evaluation_prompts[: s.pool_prompts]
    repeated = [prompt for prompt in prompts for _ in range(s.pool_samples)]
    responses = _responses(world.reference, repeated, _LONGEST, 6000 + world.seed)
    gold = reviews.gold_reward(repeated, responses).reshape(len(prompts), s.pool_samples)
    rows = [responses[i : i + s.pool_samples] for i in range(0, len(responses), s.pool_samples)]
    return repeated, gold, rows


def _best_of_n(world: _World, judge: Judge) -> Outcome:
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


def _best_of_n_learned(world: _World, beta: float | None) -> Outcome:
    return _best_of_n(world, world.reward_model)


def _best_of_n_true(world: _World, beta: float | None) -> Outcome:
    return _best_of_n(world, reviews.gold_reward)


def _optimum(world: _World, beta: float | None) -> Outcome:
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


def _larger_sft(world: _World, beta: float | None) -> Outcome:
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
    point = world.measure(policy, s.larger_steps, s.larger_steps)
    return [point], world.rewards(policy)


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
    run: Callable[[_World, float | None], Outcome]
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
        FrontierMethod("genres-sft", "fine-tuned, on unlabelled genres", (None,), _sft, _LIKED),
        FrontierMethod("genres-dpo", "DPO, two genres labelled", (0.2,), _dpo, _LIKED),
        FrontierMethod("genres-ppo", "PPO on the labelled prompts", (0.2,), _ppo_learned, _LIKED),
        FrontierMethod(
            "genres-ppo-all", "PPO on unlabelled ones too", (0.2,), _ppo_unlabelled, _LIKED
        ),
        FrontierMethod("larger-sft", "a larger model, fine-tuned only", (None,), _larger_sft),
    )
}
"""The methods of the sweep, by name; their runs are done in this order, seed by seed."""


def _name(method: str, beta: float | None, seed: int) -> str:
    return f"{method}{'' if beta is None else f'_beta{beta:g}'}_seed{seed}.json"


def run_frontier(
    method: str,
    beta: float | None = None,
    seed: int = 0,
    settings: FrontierSettings | None = None,
    *,
    folder: str | os.PathLike[str] | None = None,
    command: str = "",
) -> FrontierRun:
    """Do one run of the sweep, and keep it.

    Args:
        method: name in ``FRONTIER_METHODS``.
        beta: KL strength β above 0, in reward per nat; None for methods without one.
        seed: of everything random in the run.
        settings: of the sweep; the defaults when left out.
        folder: where to write the run's file, replaced as a whole; None writes nothing.
        command: what was typed, for the record.

    Returns:
        The run.

    Raises:
        ValueError: if there is no such method, or β is missing, needless or not above 0.
    """
    world = _World(
        FrontierSettings() if settings is None else settings, seed, _checked(method, beta).genres
    )
    run = _run(world, method, beta, command)
    if folder is not None:
        path = Path(folder) / _name(method, beta, seed)
        write_run(path, _measured(run), command=command, settings=run.settings)
    return run


def _checked(method: str, beta: float | None) -> FrontierMethod:
    if method not in FRONTIER_METHODS:
        raise ValueError(
            f"run_frontier: method must be one of {', '.join(FRONTIER_METHODS)}, got {method!r}"
        )
    found = FRONTIER_METHODS[method]
    without = found.betas == (None,)
    if (beta is None) != without or (beta is not None and not 0 < beta < math.inf):
        needed = "None for a method without one" if without else "a finite number above 0"
        raise ValueError(f"run_frontier: beta must be {needed} for {method}, got {beta!r}")
    return found


def _run(world: _World, method: str, beta: float | None, command: str) -> FrontierRun:
    started = time.process_time()
    points, rewards = FRONTIER_METHODS[method].run(world, beta)
    return FrontierRun(
        method=method,
        beta=beta,
        seed=world.seed,
        points=tuple(_rounded(point) for point in points),
        rewards=tuple(round(float(reward), 3) for reward in rewards),
        settings=dataclasses.asdict(world.settings),
        versions=versions(),
        command=command,
        cpu_seconds=round(time.process_time() - started, 1),
    )


def _rounded(point: FrontierPoint) -> FrontierPoint:
    values = {
        field.name: round(value, 5)
        for field in dataclasses.fields(point)
        if isinstance(value := getattr(point, field.name), float) and math.isfinite(value)
    }
    return dataclasses.replace(point, **values)


def _measured(run: FrontierRun) -> dict[str, Any]:
    """Give what a run measured as JSON values, which have no NaN."""
    values = dataclasses.asdict(run)
    for name in ("command", "settings", "versions"):
        del values[name]
    for point in values["points"]:
        if math.isnan(point["clean"]):
            point["clean"] = None
    return values


def load_frontier(folder: str | os.PathLike[str] | None = None) -> list[FrontierRun]:
    """Read the runs of a sweep.

    Args:
        folder: where they lie; None takes the ones that come with the course.

    Returns:
        The runs, ordered by method, falling β and seed.

    Raises:
        FileNotFoundError: if there is no run.
        ValueError: if a file is no run; the message names file and field.
    """
    folder = FRONTIER_FOLDER if folder is None else Path(folder)
    runs = read_runs(folder, _taken_up, "python -m rlhf_lessons frontier run")
    order = list(FRONTIER_METHODS)
    return sorted(runs, key=lambda r: (order.index(r.method), -(r.beta or 0), r.seed))


def _taken_up(run: dict[str, Any], made_by: dict[str, Any]) -> FrontierRun:
    if run["method"] not in FRONTIER_METHODS:
        raise ValueError(f"no method is called {run['method']!r}")
    points = []
    for point in run.pop("points"):
        clean = math.nan if point["clean"] is None else point["clean"]
        texts = tuple(map(tuple, point["texts"]))
        points.append(FrontierPoint(**{**point, "clean": clean, "texts": texts}))
    rewards = tuple(run.pop("rewards"))
    return FrontierRun(**run, **made_by, points=tuple(points), rewards=rewards)


# --- the command ----------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m rlhf_lessons frontier``: list, run or tabulate the sweep.

    Args:
        argv: the words after ``frontier``; None takes those of the command line.

    Returns:
        0 when all went well, 1 when there is nothing to show or a run that is there was made with
        other settings.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="python -m rlhf_lessons frontier",
        description="The sweep behind lesson 6: reward against KL for every method.",
    )
    parser.add_argument(
        "--folder", type=Path, default=FRONTIER_FOLDER, help="where the runs' files are"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="name the runs and say which are done")
    commands.add_parser("table", help="print KL and reward of each run")
    run = commands.add_parser("run", help="do the runs that have no file yet, 10 to 30 s each")
    run.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED")
    run.add_argument("--methods", nargs="+", default=list(FRONTIER_METHODS), metavar="METHOD")
    arguments = parser.parse_args(words)
    if arguments.command == "run":
        unknown = [name for name in arguments.methods if name not in FRONTIER_METHODS]
        if unknown:
            run.error(f"no method {', '.join(unknown)}; there are {', '.join(FRONTIER_METHODS)}")
        return _sweep(arguments, "python -m rlhf_lessons frontier " + " ".join(words))
    if arguments.command == "list":
        for method in FRONTIER_METHODS.values():
            done = len(list(arguments.folder.glob(f"{method.name}[_]*seed*.json")))
            print(f"{method.name:<18} {done:>3} runs done   {method.summary}")
        return 0
    try:
        runs = load_frontier(arguments.folder)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    for item in runs:
        for point in item.points[-1:]:
            beta = "" if item.beta is None else f"β = {item.beta:g}"
            print(
                f"{item.method:<18} {beta:<9} seed {item.seed}   KL {point.kl:6.3f} ± "
                f"{point.kl_error:.3f}   gold {point.reward:+.3f} ± {point.reward_error:.3f}   "
                f"clean {point.clean:.0%}"
            )
    return 0


def _sweep(arguments: argparse.Namespace, command: str) -> int:
    settings = FrontierSettings()
    world = cache(lambda seed, genres: _World(settings, seed, genres))

    def do(key: tuple[str, float | None, int]) -> tuple[dict, str]:
        method, beta, seed = key
        run = _run(world(seed, FRONTIER_METHODS[method].genres), method, beta, command)
        place = f"KL {run.last.kl:.3f}, gold {run.last.reward:+.3f}"
        return _measured(run), f"{place}, {run.cpu_seconds:.0f} s"

    keys = [
        (name, beta, seed)
        for seed in arguments.seeds
        for name in arguments.methods
        for beta in FRONTIER_METHODS[name].betas
    ]
    return do_runs(
        {key: arguments.folder / _name(*key) for key in keys},
        do,
        command=command,
        settings=dataclasses.asdict(settings),
    )
