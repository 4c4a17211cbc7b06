"""Draw n responses, keep the best: the cheapest way to optimise a score, and to over-optimise it.

Belongs to lesson 3; lessons 4 and 6 draw it beside PPO and DPO. ``best_of_n`` samples and keeps;
``best_of_n_curve`` reads every n up to N off one pool of N samples for each prompt.

Left out on purpose: soft best-of-n, and rejection sampling with a threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import lgamma

import numpy as np
import torch

from rlhf_lessons.evaluation.preferences import numbers
from rlhf_lessons.formulas.divergence import best_of_n_kl
from rlhf_lessons.models.language_policy import LanguagePolicy

__all__ = ["BestOfN", "BestOfNCurve", "best_of_n", "best_of_n_curve", "measured_best_of_n_kl"]


@dataclass(frozen=True)
class BestOfN:
    """The best of n responses to each prompt, and all that were drawn.

    Attributes:
        prompts: (B,) the prompts.
        responses: (B,) the response with the highest score for each prompt, the first among equals.
        scores: (B,) their scores.
        candidates: (B, n) all responses that were drawn.
        candidate_scores: (B, n) the scores of all.
    """

    prompts: tuple[str, ...]
    responses: tuple[str, ...]
    scores: np.ndarray
    candidates: tuple[tuple[str, ...], ...]
    candidate_scores: np.ndarray


def best_of_n(
    policy: LanguagePolicy,
    prompts: Sequence[str],
    judge: Callable[[Sequence[str], Sequence[str]], np.ndarray],
    n: int,
    *,
    max_new_tokens: int | None = None,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    batch_size: int = 256,
) -> BestOfN:
    """Sample n responses to each prompt and keep the one that a judge scores highest.

    y* = argmax_i judge(x, y_i), y_1 ... y_n ~ π(· | x)

    Args:
        policy: π, which is sampled and stays as it is.
        prompts: (B,) texts.
        judge: (prompts, responses) -> scores (B,).
        n: number of responses a prompt, at least 1.
        max_new_tokens: the most tokens of a response; what the context leaves when left out.
        temperature: of the sampling.
        generator: source of randomness; torch's global one when left out.
        batch_size: responses sampled side by side.

    Returns:
        The best responses, their scores, and every candidate.

    Raises:
        ValueError: no prompts, ``n`` < 1, a judge whose scores are not one finite number for each
            response, or a model without a context length and no ``max_new_tokens``.
    """
    prompts = list(prompts)
    if not prompts:
        raise ValueError("best_of_n: prompts must hold at least one text, got none")
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"best_of_n: n must be an int ≥ 1, got {n!r}")
    if max_new_tokens is None:
        if policy.context_length is None:
            raise ValueError(
                "best_of_n: max_new_tokens must be given, the model names no context length"
            )
        max_new_tokens = policy.context_length - policy.encode(prompts).prompt_tokens.shape[1]
    repeated = [prompt for prompt in prompts for _ in range(n)]
    responses: list[str] = []
    for start in range(0, len(repeated), batch_size):
        part = repeated[start : start + batch_size]
        rollout = policy.sample(part, max_new_tokens, temperature, generator=generator)
        responses += rollout.responses
    scores = np.asarray(judge(repeated, responses), dtype=np.float64)
    if scores.shape != (len(repeated),) or not np.isfinite(scores).all():
        raise ValueError(
            f"best_of_n: judge must return {len(repeated)} finite scores, got shape {scores.shape}"
            + ("" if np.isfinite(scores).all() else " with NaN or infinity")
        )
    scores = scores.reshape(len(prompts), n)
    candidates = tuple(tuple(responses[i * n : (i + 1) * n]) for i in range(len(prompts)))
    best = scores.argmax(1)
    return BestOfN(
        prompts=tuple(prompts),
        responses=tuple(own[i] for own, i in zip(candidates, best, strict=True)),
        scores=scores[np.arange(len(prompts)), best],
        candidates=candidates,
        candidate_scores=scores,
    )


@dataclass(frozen=True)
class BestOfNCurve:
    """What best-of-n by a proxy brings, for several n.

    Attributes:
        n: (M,) the values of n.
        kl_bound: (M,) log n − (n − 1)/n, in nats.
        kl: (M,) the KL measured on the pool, NaN when no responses were given.
        proxy: (M,) expected proxy score of the response that is kept.
        gold: (M,) its expected gold score.
        gold_error: (M,) standard error of ``gold`` over prompts; NaN with one prompt.
        gold_by_prompt: (P, M) the expected gold score prompt by prompt, whose mean is ``gold``.
    """

    n: np.ndarray
    kl_bound: np.ndarray
    kl: np.ndarray
    proxy: np.ndarray
    gold: np.ndarray
    gold_error: np.ndarray
    gold_by_prompt: np.ndarray


def best_of_n_curve(
    proxy_scores: np.ndarray,
    gold_scores: np.ndarray,
    n_values: Sequence[int],
    responses: Sequence[Sequence[str]] | None = None,
) -> BestOfNCurve:
    """Expected proxy and gold score of best-of-n, without bias, from one pool of N samples.

    E[gold of best-of-n] = Σ_i C(i − 1, n − 1)/C(N, n) · gold_(i), ordered by proxy, worst first

    It is the mean over every choice of n among the N samples. Equal proxy scores share the mean of
    their gold scores.

    Args:
        proxy_scores: (P, N) proxy scores of N responses to each of P prompts.
        gold_scores: (P, N) their gold scores.
        n_values: (M,) the n to read off, each from 1 to N.
        responses: (P, N) the responses, to measure the KL; None leaves it out.

    Returns:
        Means over prompts, one entry for each n.

    Raises:
        ValueError: shapes differ, a score is not finite, or an n outside 1 to N.

    Source:
        Nakano et al. 2021, "WebGPT", appendix I (the estimator); Gao et al. 2022, "Scaling Laws for
        Reward Model Overoptimization", section 2 (the curve).
    """
    proxy, gold = numbers("best_of_n_curve", proxy_scores=proxy_scores, gold_scores=gold_scores)
    if proxy.ndim != 2:
        raise ValueError(f"best_of_n_curve: proxy_scores must have shape (P, N), got {proxy.shape}")
    count = proxy.shape[1]
    for n in n_values:
        if not 1 <= n <= count:
            raise ValueError(f"best_of_n_curve: n_values must lie in 1 to N = {count}, got {n}")
    order = proxy.argsort(1, kind="stable")
    proxy = np.take_along_axis(proxy, order, 1)
    gold = np.take_along_axis(gold, order, 1)
    for row, scores in zip(gold, proxy, strict=True):
        for group in np.split(np.arange(count), np.flatnonzero(np.diff(scores)) + 1):
            row[group] = row[group].mean()
    weights = np.array([rank_weights(count, n) for n in n_values])
    by_prompt = gold @ weights.T
    prompts = len(gold)
    kl = np.full(len(weights), np.nan)
    if responses is not None:
        kl = np.array(
            [
                np.mean(
                    [
                        measured_best_of_n_kl(texts, scores, n)
                        for texts, scores in zip(responses, np.asarray(proxy_scores), strict=True)
                    ]
                )
                for n in n_values
            ]
        )
    return BestOfNCurve(
        n=np.array(n_values),
        kl_bound=np.array([best_of_n_kl(n) for n in n_values]),
        kl=kl,
        proxy=(weights @ proxy.T).mean(1),
        gold=by_prompt.mean(0),
        gold_error=by_prompt.std(0, ddof=1) / np.sqrt(prompts)
        if prompts > 1
        else np.full(len(weights), np.nan),
        gold_by_prompt=by_prompt,
    )


def rank_weights(count: int, n: int) -> np.ndarray:
    """C(i, n−1)/C(count, n) for i = 0 ... count−1: how often rank i is the best of n drawn."""
    log_choose = lgamma(count + 1) - lgamma(n + 1) - lgamma(count - n + 1)
    weights = np.zeros(count)
    for i in range(n - 1, count):
        weights[i] = np.exp(lgamma(i + 1) - lgamma(n) - lgamma(i - n + 2) - log_choose)
    return weights


def measured_best_of_n_kl(responses: Sequence[str], scores: Sequence[float], n: int) -> float:
    """KL from the sampled policy to its best-of-n, summed over the responses of a pool.

    KL = Σ_y p_n(y)·log(p_n(y)/p(y)), p = share of y in the pool,
    p_n(y) = (F(y)ⁿ − F⁻(y)ⁿ)·p(y)/(F(y) − F⁻(y)), F and F⁻ = share with a score ≤ and < that of y

    Where a response comes more than once, or two of them tie, it lies below the bound
    log n − (n − 1)/n, which holds for scores that are all different.

    Args:
        responses: (N,) sampled responses to one prompt.
        scores: (N,) their scores; equal responses must have equal scores.
        n: number of responses that best-of-n draws from this pool, with replacement, at least 1.

    Returns:
        The KL in nats.

    Raises:
        ValueError: not one finite score for each response, or ``n`` < 1.

    Source:
        Beirami et al. 2024, "Theoretical guarantees on the best-of-n alignment policy", lemma 1.
    """
    (values,) = numbers("measured_best_of_n_kl", scores=scores)
    if values.shape != (len(responses),):
        raise ValueError(
            f"measured_best_of_n_kl: scores must hold one number for each of the "
            f"{len(responses)} responses, got shape {values.shape}"
        )
    if n < 1:
        raise ValueError(f"measured_best_of_n_kl: n must be at least 1, got {n}")
    # All responses of one score are raised by one factor p_n/p, so the sum runs over scores; equal
    # responses have equal scores and need no joining.
    _, counts = np.unique(values, return_counts=True)
    share = counts / len(values)
    upper = np.cumsum(share)
    lower = upper - share
    kept = np.clip(upper, 0, 1) ** n - np.clip(lower, 0, 1) ** n
    # 0·log 0 = 0: scores that never win add nothing.
    positive = kept > 0
    return float(np.sum(kept[positive] * np.log(kept[positive] / share[positive])))
