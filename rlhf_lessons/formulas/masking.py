"""Averages over the positions that count (lessons 2, 4 and 9).

Responses of one batch differ in length. They are padded to one width, and a boolean mask says which
positions count. Every average of a loss, a KL or an advantage goes through here.

What a position that does not count holds is never looked at: NaN and infinity there change nothing,
in the value or in the gradient, because it is replaced by 0 and not multiplied by 0 (0 · NaN is
NaN).

Which average makes one number of the losses of a batch decides what a token weighs: ``masked_mean``
gives all tokens the same weight (DAPO), ``mean_of_responses`` all responses (GRPO), and
``mean_over_length`` lets a response weigh as much as it has tokens, whatever the others are like
(Dr. GRPO).

Left out on purpose: a default mask of all ones. A forgotten mask is the most common bug of this
field, so the mask is always an argument.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lessons.formulas.shapes import (
    check_float,
    check_mask,
    check_positive,
    check_same_shape,
)

__all__ = [
    "masked_mean",
    "masked_sum",
    "masked_variance",
    "mean_of_responses",
    "mean_over_length",
    "whiten",
]


def masked_sum(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Sum the positions that count.

        Σ_i m_i · x_i

    Args:
        x: (...) values of any unit.
        mask: (...) boolean, True = counts.
        dim: Dimension to sum over; None sums over all of them.

    Returns:
        () or, with ``dim``, the shape of x without that dimension. Nothing that counts sums to 0.

    Raises:
        TypeError: If x is not floating point or the mask is not boolean.
        ValueError: If the shapes differ.

    Source:
        Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training",
        equation 1: a sum over the tokens of a text.
    """
    check_float("masked_sum", "(...)", x=x)
    check_mask("masked_sum", mask, x=x)
    return x.masked_fill(~mask, 0).sum() if dim is None else x.masked_fill(~mask, 0).sum(dim)


def masked_mean(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Average the positions that count.

        x̄ = Σ_i m_i · x_i / Σ_i m_i

    Without ``dim`` every token weighs the same, so a long response weighs more than a short one.
    With ``dim=1`` the result is one mean per response, and their average weighs each response the
    same.

    Args:
        x: (...) values of any unit.
        mask: (...) boolean, True = counts.
        dim: Dimension to average over; None averages over all of them.

    Returns:
        () or, with ``dim``, the shape of x without that dimension, in the unit of x.

    Raises:
        TypeError: If x is not floating point or the mask is not boolean.
        ValueError: If the shapes differ, or there is nothing to average.

    Source:
        Schulman et al. 2017, "Proximal Policy Optimization Algorithms", section 2.1: the average
        Ê_t over a batch; Yu et al. 2025, "DAPO", equation 12.
    """
    check_float("masked_mean", "(...)", x=x)
    check_mask("masked_mean", mask, x=x)
    count = mask.sum() if dim is None else mask.sum(dim)
    if (count == 0).any():
        where = "the mask has no True" if dim is None else f"the mask has no True along dim {dim}"
        raise ValueError(f"masked_mean: {where} in shape {tuple(mask.shape)}; nothing to average")
    return masked_sum(x, mask, dim) / count


def mean_of_responses(x: Tensor, mask: Tensor) -> Tensor:
    """Average over the tokens of each response, then over responses: GRPO's mean.

        1/B · Σ_i 1/|y_i| · Σ_t m_it · x_it

    Each response weighs the same, so a token of a long one weighs less: a long wrong answer is
    punished less per token than a short one.

    Args:
        x: (B, T) values of any unit, such as losses of tokens.
        mask: (B, T) boolean, True = a token of the response.

    Returns:
        () mean, in the unit of x.

    Raises:
        TypeError: If x is not floating point or the mask is not boolean.
        ValueError: If the shapes differ, there is no response, or one without a token.

    Source:
        Shao et al. 2024, "DeepSeekMath", equation 3.
    """
    check_same_shape("mean_of_responses", "(B, T)", x=x)
    if len(x) == 0:
        raise ValueError("mean_of_responses: x must hold a response, got B = 0")
    return masked_mean(x, mask, dim=1).mean()


def mean_over_length(x: Tensor, mask: Tensor, length: float) -> Tensor:
    """Sum over the tokens of each response, divide by one constant length: Dr. GRPO's mean.

        1/B · Σ_i 1/L · Σ_t m_it · x_it

    A token weighs the same in every response and every batch. So the gradient is that of the
    responses' sums, up to the constant 1/L, which neither of the other two means can say.

    Args:
        x: (B, T) values of any unit, such as losses of tokens.
        mask: (B, T) boolean, True = a token of the response.
        length: L above 0, such as the largest number of tokens that is drawn.

    Returns:
        () mean, in the unit of x. A response without a token adds 0.

    Raises:
        TypeError: If x is not floating point or the mask is not boolean.
        ValueError: If the shapes differ, there is no response, or L is not above 0.

    Source:
        Liu et al. 2025, "Understanding R1-Zero-Like Training: A Critical Perspective", section 3
        and the listing of appendix A.
    """
    check_same_shape("mean_over_length", "(B, T)", x=x)
    check_positive("mean_over_length", length=length)
    if len(x) == 0:
        raise ValueError("mean_over_length: x must hold a response, got B = 0")
    return masked_sum(x, mask, dim=1).mean() / length


def masked_variance(x: Tensor, mask: Tensor) -> Tensor:
    """Estimate the variance of the positions that count, with Bessel's correction.

        s² = Σ_i m_i · (x_i − x̄)² / (Σ_i m_i − 1)

    Args:
        x: (...) values of any unit.
        mask: (...) boolean, True = counts.

    Returns:
        () in the unit of x, squared.

    Raises:
        TypeError: If x is not floating point or the mask is not boolean.
        ValueError: If the shapes differ, or fewer than two positions count.

    Source:
        Casella and Berger 2002, "Statistical Inference", definition 5.2.3.
    """
    check_float("masked_variance", "(...)", x=x)
    check_mask("masked_variance", mask, x=x)
    count = mask.sum()
    if count < 2:
        raise ValueError(
            f"masked_variance: the mask must have two True or more for Bessel's correction, "
            f"got {int(count)}"
        )
    x = x.masked_fill(~mask, 0)  # before the square, whose gradient would take NaN along
    return masked_sum((x - masked_mean(x, mask)).square(), mask) / (count - 1)


def whiten(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Scale the positions that count to variance 1, and shift them to mean 0.

        (x − x̄) / √(s² + 10⁻⁸), and + x̄ again where the mean is to stay

    PPO whitens advantages, so that one step size serves rewards of any scale. The 10⁻⁸ keeps
    constant inputs at 0 and does not blow up their rounding error.

    Args:
        x: (...) values of any unit.
        mask: (...) boolean, True = counts.
        shift_mean: True moves the mean to 0; False keeps it and changes the spread only.

    Returns:
        (...) whitened values, 0 where nothing counts.

    Raises:
        TypeError: If x is not floating point or the mask is not boolean.
        ValueError: If the shapes differ, or fewer than two positions count.

    Source:
        Huang et al. 2024, "The N+ Implementation Details of RLHF with PPO", details on whitening.
    """
    check_float("whiten", "(...)", x=x)
    check_mask("whiten", mask, x=x)
    x = x.masked_fill(~mask, 0)
    mean = masked_mean(x, mask)
    whitened = (x - mean) * torch.rsqrt(masked_variance(x, mask) + 1e-8)
    if not shift_mean:
        whitened = whitened + mean
    return whitened.masked_fill(~mask, 0)
