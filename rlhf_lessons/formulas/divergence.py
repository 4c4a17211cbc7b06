"""How far a policy has moved from its reference (lessons 2, 3, 4 and 5).

KL(π ‖ π_ref) can be summed exactly over one next-token distribution. Over whole texts it can only
be estimated from samples, with k1, k2 or k3; all three take log π − log π_ref of tokens *sampled
from π*.

Left out on purpose: the reverse direction, which is ``categorical_kl`` with its arguments swapped,
and reductions: a sum over tokens and a mean over samples are the caller's.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlhf_lessons.formulas.shapes import check_float, check_positive, check_same_shape

__all__ = ["adapt_kl_coefficient", "best_of_n_kl", "categorical_kl", "kl_k1", "kl_k2", "kl_k3"]


def kl_k1(log_ratio: Tensor) -> Tensor:
    """Estimate the KL by the log-ratio itself: unbiased, of either sign, noisy.

        k1 = log π − log π_ref, with E_π[k1] = KL(π ‖ π_ref)

    Args:
        log_ratio: (...) log π − log π_ref in nats, of what was sampled from π.

    Returns:
        (...) estimates in nats.

    Raises:
        TypeError: If the log-ratio is not floating point.

    Source:
        Schulman 2020, "Approximating KL Divergence", estimator k1.
    """
    check_float("kl_k1", "(...)", log_ratio=log_ratio)
    return log_ratio


def kl_k2(log_ratio: Tensor) -> Tensor:
    """Estimate the KL by half the squared log-ratio: never negative, little noise, biased.

        k2 = ½ · (log π − log π_ref)²

    The bias is of third order: small while the two policies are close.

    Args:
        log_ratio: (...) log π − log π_ref in nats, of what was sampled from π.

    Returns:
        (...) estimates in nats.

    Raises:
        TypeError: If the log-ratio is not floating point.

    Source:
        Schulman 2020, "Approximating KL Divergence", estimator k2.
    """
    check_float("kl_k2", "(...)", log_ratio=log_ratio)
    return 0.5 * log_ratio.square()


def kl_k3(log_ratio: Tensor) -> Tensor:
    """Estimate the KL by the log-ratio with a control variate: unbiased and never negative.

        k3 = π_ref/π − 1 − log(π_ref/π) = exp(−ℓ) − 1 + ℓ, with ℓ = log π − log π_ref

    π_ref/π − 1 is 0 on average under π, so adding it changes no expectation; it cancels most noise
    while the policies are close.

    Args:
        log_ratio: (...) log π − log π_ref in nats, of what was sampled from π.

    Returns:
        (...) estimates in nats.

    Raises:
        TypeError: If the log-ratio is not floating point.

    Source:
        Schulman 2020, "Approximating KL Divergence", estimator k3.
    """
    check_float("kl_k3", "(...)", log_ratio=log_ratio)
    # expm1 keeps the digits that exp(−ℓ) − 1 loses for ℓ near 0.
    return torch.expm1(-log_ratio) + log_ratio


def categorical_kl(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """Sum the KL divergence of two distributions exactly.

        KL(p ‖ q) = Σ_v p(v) · (log p(v) − log q(v))

    A token that p never says adds 0. A token that p says and q never does makes the KL infinite.

    Args:
        logits_p: (..., V) of the distribution that is sampled, unit nats up to a constant each.
        logits_q: (..., V) of the distribution it is compared with.

    Returns:
        (...) divergences in nats.

    Raises:
        TypeError: If logits are not floating point.
        ValueError: If the shapes differ or there is no vocabulary dimension.

    Source:
        Kullback and Leibler 1951, "On Information and Sufficiency", section 2.
    """
    check_same_shape("categorical_kl", "(..., V)", logits_p=logits_p, logits_q=logits_q)
    log_p = torch.log_softmax(logits_p, dim=-1)
    log_q = torch.log_softmax(logits_q, dim=-1)
    p = log_p.exp()
    return (p * (log_p - log_q).masked_fill(p == 0, 0)).sum(-1)


def adapt_kl_coefficient(
    beta: float, kl: float, target: float, horizon: float, batch_size: int
) -> float:
    """Raise β where the measured KL is above its target, lower it where it is below.

        β ← β · (1 + clip(kl/target − 1, −0.2, 0.2) · batch_size/horizon)

    Args:
        beta: KL strength β above 0, in score per nat.
        kl: Measured KL per response in nats. A NaN gives a NaN.
        target: KL per response to aim at, above 0, in nats.
        horizon: Responses over which β may change by at most about a fifth, above 0.2 ·
            batch_size.
        batch_size: Responses since the last change, above 0.

    Returns:
        The new β.

    Raises:
        ValueError: If β, the target, the horizon or the batch size is not above 0, or the horizon
            is so short that one step could turn the sign of β.

    Source:
        Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences", section 2.2.
    """
    check_positive(
        "adapt_kl_coefficient", beta=beta, target=target, horizon=horizon, batch_size=batch_size
    )
    if not horizon > 0.2 * batch_size:
        raise ValueError(
            f"adapt_kl_coefficient: horizon must be above 0.2 · batch_size = {0.2 * batch_size:g}, "
            f"got {horizon}"
        )
    # In this order min and max hand a NaN on; in the other they would replace it by a limit.
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * batch_size / horizon)


def best_of_n_kl(n: int) -> float:
    """Bound the KL from the reference to the policy "draw n, keep the best".

        KL(best-of-n ‖ π_ref) ≤ log n − (n − 1)/n

    Equality holds where no two responses tie, as with a continuous score.

    Args:
        n: Number of candidates, 1 or more.

    Returns:
        The bound in nats; 0 at n = 1.

    Raises:
        ValueError: If n is below 1.

    Source:
        Stiennon et al. 2020, "Learning to summarize from human feedback", appendix G.3; that it
        is a bound: Beirami et al. 2024, "Theoretical guarantees on the best-of-n alignment policy".
    """
    if not n >= 1:
        raise ValueError(f"best_of_n_kl: n must be 1 or more, got {n}")
    return math.log(n) - (n - 1) / n
