"""From logits to log-probabilities (lesson 2; used by every later lesson).

A language model gives logits: one number per token of the vocabulary at each position. Here they
become log π(token | what came before), the log-probability of a whole response, and the entropy of
a choice. ``truncate_logits`` cuts unlikely tokens before sampling.

A logit of −∞ means "this token cannot come": it gets probability 0, and 0 · log 0 counts as 0.

Left out on purpose: temperature, which is ``logits / temperature`` and needs no function, and a
mean over the tokens of a response: where DPO sums, a mean is a common bug.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lessons.formulas.masking import masked_sum
from rlhf_lessons.formulas.shapes import (
    check_float,
    check_mask,
    check_same_shape,
    check_tokens,
)

__all__ = ["entropy", "sequence_log_prob", "token_log_probs", "truncate_logits"]


def token_log_probs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Give the log-probability of each token after the first, given the tokens before it.

        log π(y_{t+1} | y_{≤t}) = z_t[y_{t+1}] − log Σ_v exp z_t[v]

    The logits at position t predict token t+1: the first token is given, and what the last position
    predicts has not come yet.

    Args:
        logits: (B, T, V) a model's output for ``tokens``, unit nats up to a constant per position.
        tokens: (B, T) token ids, integers in [0, V).

    Returns:
        (B, T−1) log-probabilities in nats; entry t belongs to token t+1.

    Raises:
        TypeError: If logits are not floating point or tokens are not integers.
        ValueError: If the shapes do not fit, there is no token, or an id lies outside the
            vocabulary.

    Source:
        Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", equation 1.
    """
    check_tokens("token_log_probs", logits, tokens)
    if tokens.shape[1] == 0:
        raise ValueError("token_log_probs: tokens must hold a first token, got T = 0")
    next_tokens = tokens[:, 1:].long()
    vocabulary_size = logits.shape[-1]
    if next_tokens.numel() > 0:
        lowest, highest = torch.stack(next_tokens.aminmax()).tolist()
        if lowest < 0 or highest >= vocabulary_size:
            raise ValueError(
                f"token_log_probs: tokens must lie in [0, {vocabulary_size}), "
                f"got {lowest if lowest < 0 else highest}"
            )
    log_probs = torch.log_softmax(logits[:, :-1], dim=-1)
    return log_probs.gather(-1, next_tokens.unsqueeze(-1)).squeeze(-1)


def sequence_log_prob(token_log_probs: Tensor, mask: Tensor) -> Tensor:
    """Sum the log-probabilities of a response's tokens: the log-probability of the response.

        log π(y | x) = Σ_t log π(y_t | x, y_{<t})

    Args:
        token_log_probs: (B, T) log-probabilities of tokens in nats.
        mask: (B, T) boolean, True = a token of the response, its end token included.

    Returns:
        (B,) log-probabilities of the responses in nats; 0 for an empty response.

    Raises:
        TypeError: If the log-probabilities are not floating point or the mask is not boolean.
        ValueError: If a shape differs.

    Source:
        Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", equation 1.
    """
    check_same_shape("sequence_log_prob", "(B, T)", token_log_probs=token_log_probs)
    check_mask("sequence_log_prob", mask, token_log_probs=token_log_probs)
    return masked_sum(token_log_probs, mask, dim=1)


def entropy(logits: Tensor) -> Tensor:
    """Measure how undecided a distribution is.

        H = −Σ_v p(v) · log p(v), with p = softmax(logits)

    It is 0 where one token is certain and log V where all are equally likely.

    Args:
        logits: (..., V) unit nats up to a constant per distribution.

    Returns:
        (...) entropies in nats.

    Raises:
        TypeError: If the logits are not floating point.
        ValueError: If there is no vocabulary dimension.

    Source:
        Shannon 1948, "A Mathematical Theory of Communication", section 6.
    """
    check_float("entropy", "(..., V)", logits=logits)
    log_p = torch.log_softmax(logits, dim=-1)
    p = log_p.exp()
    # lim p→0 of p · log p is 0, but 0 · (−∞) is NaN.
    return -(p * log_p.masked_fill(p == 0, 0)).sum(-1)


def truncate_logits(logits: Tensor, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Cut unlikely tokens: their logits become −∞.

        top-k: z'(v) = z(v) if z(v) is among the k highest, else −∞
        top-p: z'(v) = z(v) if the tokens likelier than v have less than p in total, else −∞

    Given both, top-k cuts first and top-p looks at what is left. The likeliest token always stays.
    A tie with the k-th highest logit stays too, so no choice hangs on the order of equal numbers.

    Args:
        logits: (..., V) unit nats up to a constant per distribution.
        top_k: How many tokens to keep, 1 or more; None or V and above cuts nothing.
        top_p: Probability to keep, in (0, 1]; None or 1 cuts nothing.

    Returns:
        (..., V) the logits, −∞ where cut.

    Raises:
        TypeError: If the logits are not floating point.
        ValueError: If there is no vocabulary dimension, top_k is below 1, or top_p outside (0, 1].

    Source:
        Fan et al. 2018, "Hierarchical Neural Story Generation" (top-k); Holtzman et al. 2020, "The
        Curious Case of Neural Text Degeneration", equations 2 and 3 (top-p).
    """
    check_float("truncate_logits", "(..., V)", logits=logits)
    if top_k is not None and not top_k >= 1:
        raise ValueError(f"truncate_logits: top_k must be 1 or more, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"truncate_logits: top_p must lie in (0, 1], got {top_p}")
    if top_k is not None and top_k < logits.shape[-1]:
        kth_highest = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < kth_highest, -torch.inf)
    # At top_p = 1 rounding of the running sum could still cut the tail, so nothing is summed.
    if top_p is not None and top_p < 1:
        sorted_logits, order = logits.sort(dim=-1, descending=True, stable=True)
        sorted_p = torch.softmax(sorted_logits, dim=-1)
        p_of_likelier = sorted_p.cumsum(-1) - sorted_p
        cut = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, p_of_likelier >= top_p)
        logits = logits.masked_fill(cut, -torch.inf)
    return logits
