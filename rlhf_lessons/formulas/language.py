"""Losses of language modelling (lesson 2).

Maximum likelihood on texts, and distillation: learning from a teacher's probabilities where maximum
likelihood learns from the one token that came.

Left out on purpose: label smoothing, and a softening temperature for distillation, which is
``logits / temperature`` on both sides and a factor of temperature² on the loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lessons.formulas.log_probs import token_log_probs
from rlhf_lessons.formulas.masking import masked_mean
from rlhf_lessons.formulas.shapes import check_mask, check_same_shape, check_tokens

__all__ = ["distillation_loss", "nll", "perplexity"]


def nll(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """Give the negative log-likelihood of each token after the first.

        L_t = −log π(y_{t+1} | y_{≤t})

    Its mean over the tokens that count is the cross-entropy that pretraining and supervised
    fine-tuning minimise.

    Args:
        logits: (B, T, V) a model's output for ``tokens``, unit nats up to a constant per position.
        tokens: (B, T) token ids; where the mask is False any integer may stand, such as −100.
        mask: (B, T) boolean, True = a token to learn, such as the response without its prompt. The
            first column is never learned: nothing predicts it.

    Returns:
        (B, T−1) losses in nats; entry t belongs to token t+1, 0 where that token does not count.
        Average them with ``masked_mean(losses, mask[:, 1:])``.

    Raises:
        TypeError: If logits are not floating point, tokens not integers, or the mask not boolean.
        ValueError: If the shapes do not fit, there is no token, or a counted id lies outside the
            vocabulary.

    Source:
        Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", equation
        1.
    """
    check_tokens("nll", logits, tokens)
    check_mask("nll", mask, tokens=tokens)
    log_probs = token_log_probs(logits, tokens.masked_fill(~mask, 0))
    return (-log_probs).masked_fill(~mask[:, 1:], 0)


def perplexity(token_log_probs: Tensor, mask: Tensor) -> Tensor:
    """Say between how many equally likely tokens the model hesitates on average.

        exp(−(1/N) · Σ_t log π(y_t | y_{<t})), over the N tokens that count

    Args:
        token_log_probs: (B, T) log-probabilities of tokens in nats.
        mask: (B, T) boolean, True = counts.

    Returns:
        () perplexity: 1 where every token was certain, V where the model knows nothing.

    Raises:
        TypeError: If the log-probabilities are not floating point or the mask is not boolean.
        ValueError: If a shape differs or no token counts.

    Source:
        Jelinek et al. 1977, "Perplexity: a measure of the difficulty of speech recognition tasks".
    """
    check_same_shape("perplexity", "(B, T)", token_log_probs=token_log_probs)
    check_mask("perplexity", mask, token_log_probs=token_log_probs)
    return torch.exp(-masked_mean(token_log_probs, mask))


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, mask: Tensor) -> Tensor:
    """Give the cross-entropy of the student under the teacher's probabilities, at each position.

        L_t = −Σ_v p_teacher(v | y_{≤t}) · log p_student(v | y_{≤t})

    It equals KL(teacher ‖ student) plus the teacher's entropy, which no student can change: its
    gradient is the gradient of the KL, and its lowest value is the teacher's entropy, not 0. With a
    teacher that is certain of one token it is the negative log-likelihood of that token.

    Args:
        student_logits: (B, T, V) unit nats up to a constant per position, with gradient.
        teacher_logits: (B, T, V) of the same positions; taken as constants.
        mask: (B, T) boolean, True = a position whose *prediction* counts. There is no shift:
            position t compares what the two models predict after position t.

    Returns:
        (B, T) losses in nats, 0 where nothing counts.

    Raises:
        TypeError: If logits are not floating point or the mask is not boolean.
        ValueError: If a shape differs.

    Source:
        Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2, at
        temperature 1.
    """
    check_same_shape(
        "distillation_loss",
        "(B, T, V)",
        student_logits=student_logits,
        teacher_logits=teacher_logits,
    )
    check_mask("distillation_loss", mask, **{"logits without V": student_logits[..., 0]})
    teacher_p = torch.softmax(teacher_logits.detach(), dim=-1)
    student_log_p = torch.log_softmax(student_logits, dim=-1)
    # A token that the teacher never says costs nothing, even where the student's log p is −∞.
    losses = -(teacher_p * student_log_p.masked_fill(teacher_p == 0, 0)).sum(-1)
    return losses.masked_fill(~mask, 0)
