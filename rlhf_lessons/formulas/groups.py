"""Advantages from a group of responses to one prompt, without a value model (lesson 9).

Draw G responses to a prompt and score them. How much better than its group a response is needs no
learned baseline: the others are the baseline. Only differences within a group matter: a constant
added to all scores of a prompt changes no advantage, and a group whose scores are all equal says
nothing, so that its advantages are exactly 0.

Leave-one-out is unbiased: its policy gradient is the exact one in the mean. Taking the whole
group's mean shrinks that gradient by (G − 1)/G and turns nothing. Dividing by the group's deviation
turns it: prompts and groups whose scores hardly differ weigh as much as those that differ a lot.

Left out on purpose: the deviation of the whole batch in the place of the group's (``whiten`` of the
centred scores), groups of different sizes, and drawing a group without signal again, which is the
loop's affair.

What a group of marked responses says of the policy is ``pass_at_k``: how likely one of k tries is
right.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lessons.formulas.shapes import check_float, check_positive

__all__ = ["dr_grpo_advantages", "grpo_advantages", "pass_at_k", "rloo_advantages"]


def _centred(function: str, scores: Tensor) -> Tensor:
    """Check the scores of groups and subtract from each its group's mean."""
    check_float(function, "(P, G)", scores=scores)
    if scores.shape[1] < 2:
        raise ValueError(
            f"{function}: scores must hold two responses or more of each prompt, (P, G) with "
            f"G ≥ 2, got {tuple(scores.shape)}"
        )
    finite = scores.isfinite()
    if not bool(finite.all()):
        prompt, response = (~finite).nonzero()[0].tolist()
        raise ValueError(
            f"{function}: scores must be finite, got {scores[prompt, response].item()} for "
            f"response {response} of prompt {prompt}"
        )
    # A mean of equal numbers can round to another number; a mean of zeros can't.
    from_first = scores - scores[:, :1]
    return from_first - from_first.mean(1, keepdim=True)


def rloo_advantages(scores: Tensor) -> Tensor:
    """Compare each score with the mean of the others of its group: leave-one-out.

        A_i = r_i − 1/(G − 1) · Σ_{j≠i} r_j = G/(G − 1) · (r_i − r̄)

    The baseline of a response does not depend on that response. So the mean of
    1/G · Σ_i A_i · ∇ log π(y_i) over groups is the exact policy gradient.

    Args:
        scores: (P, G) scores of G ≥ 2 responses to each of P prompts.

    Returns:
        (P, G) advantages in the unit of the scores; each row adds up to 0.

    Raises:
        TypeError: If the scores are not floating point.
        ValueError: If the shape is not (P, G), a group holds one response, or a score is not
            finite.

    Source:
        Ahmadian et al. 2024, "Back to Basics: Revisiting REINFORCE Style Optimization for Learning
        from Human Feedback in LLMs", the RLOO estimator; Kool et al. 2019, "Buy 4 REINFORCE
        Samples, Get a Baseline for Free!".
    """
    centred = _centred("rloo_advantages", scores)
    group_size = scores.shape[1]
    return centred * (group_size / (group_size - 1))


def dr_grpo_advantages(scores: Tensor) -> Tensor:
    """Compare each score with the mean of its group, itself included.

        A_i = r_i − r̄

    The baseline holds 1/G of the response's own score. So the mean policy gradient is (G − 1)/G
    times the exact one: shorter, in the same direction.

    Args:
        scores: (P, G) scores of G ≥ 2 responses to each of P prompts.

    Returns:
        (P, G) advantages in the unit of the scores; each row adds up to 0.

    Raises:
        TypeError: If the scores are not floating point.
        ValueError: If the shape is not (P, G), a group holds one response, or a score is not
            finite.

    Source:
        Liu et al. 2025, "Understanding R1-Zero-Like Training: A Critical Perspective", section 3:
        Dr. GRPO, GRPO without dividing by the deviation.
    """
    return _centred("dr_grpo_advantages", scores)


def grpo_advantages(scores: Tensor, epsilon: float = 1e-4) -> Tensor:
    """Compare each score with the mean of its group, in units of the group's deviation.

        A_i = (r_i − r̄) / (s + ε), with s² = 1/(G − 1) · Σ_j (r_j − r̄)²

    The scale of the scores drops out. With it drops out how much a prompt's responses differ: where
    one in G is right the advantages are as large as where it's half of them, so that the mean
    gradient is another one than that of the expected score.

    Args:
        scores: (P, G) scores of G ≥ 2 responses to each of P prompts.
        epsilon: ε above 0, in the unit of the scores; small beside any deviation that matters.

    Returns:
        (P, G) advantages without a unit; each row adds up to 0.

    Raises:
        TypeError: If the scores are not floating point.
        ValueError: If the shape is not (P, G), a group holds one response, a score is not finite,
            or ε is not above 0.

    Source:
        Shao et al. 2024, "DeepSeekMath", section 4.1.2, outcome supervision. The paper leaves open
        which deviation and has no ε; both are here as in TRL.
    """
    check_positive("grpo_advantages", epsilon=epsilon)
    centred = _centred("grpo_advantages", scores)
    return centred / (centred.std(1, keepdim=True) + epsilon)


def pass_at_k(correct: Tensor, k: int) -> Tensor:
    """Estimate how likely one of k responses to a prompt is right, from n ≥ k of them.

        pass@k = 1 − C(n − c, k) / C(n, k), with c of the n responses right

    It is the share of all choices of k of the n responses that hold a right one, and so without
    bias. 1 − (1 − c/n)^k is not: it is too low.

    Args:
        correct: (P, n) boolean, True = right, of n responses to each of P prompts.
        k: Number of tries, from 1 to n.

    Returns:
        (P,) estimates in [0, 1], in float64; their mean is that of the prompts. At k = 1 it is the
        share that is right.

    Raises:
        TypeError: If the marks are not boolean.
        ValueError: If the shape is not (P, n), or k is no whole number from 1 to n.

    Source:
        Chen et al. 2021, "Evaluating Large Language Models Trained on Code", equation 1.
    """
    if correct.dtype != torch.bool:
        raise TypeError(f"pass_at_k: correct must be boolean, got {correct.dtype}")
    if correct.ndim != 2:
        raise ValueError(f"pass_at_k: correct must have shape (P, n), got {tuple(correct.shape)}")
    n = correct.shape[1]
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= n:
        raise ValueError(f"pass_at_k: k must be a whole number from 1 to n = {n}, got {k!r}")
    wrong = n - correct.sum(1, keepdim=True)
    left = torch.arange(k, device=correct.device)
    # C(n − c, k) / C(n, k) as a product of k factors, none of which is large; a factor of 0 or
    # below stands where fewer than k are wrong.
    factors = (wrong - left).clamp(min=0).double() / (n - left)
    return 1 - factors.prod(1)
