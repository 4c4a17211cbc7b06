"""Sampling: one token a step, drawn from π, until each response has ended.

Belongs to lesson 2. Each token is drawn by inverting the cumulative distribution at a number from
[0, 1), one a row and step, which are drawn at once: what a row says does not depend on its
neighbours. :mod:`~rlhf_lessons.models.reading` computes the logits.

Left out on purpose: beam search, repetition penalties and stop strings (they sample from something
other than π).
"""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor

from rlhf_lessons.formulas.log_probs import truncate_logits
from rlhf_lessons.models.reading import GPT2Reader, Reader

__all__: list[str] = []

# Goes on without the rows that have ended once no more than this share still runs. To drop moves
# rows of the cache, so it waits until enough is gained.
DROP_BELOW = 0.9


def sample_tokens(
    reader: Reader | GPT2Reader,
    prompt_tokens: Tensor,
    uniforms: Tensor,
    end_token_ids: Tensor,
    unspoken: Tensor | None,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a response to each prompt.

    Args:
        reader: a new reader of the model. How often to look who has ended, for which a GPU must be
            waited for, and to how many rows it shrinks is up to it.
        prompt_tokens: (B, P) token ids, padded on the left.
        uniforms: (N, B, 1) numbers in [0, 1), N the most tokens of a response.
        end_token_ids: (E,) the tokens that end a response.
        unspoken: (V,) boolean, True = a token that is never drawn; None where there is none.
        temperature: > 0.
        top_k: how many tokens to keep; None keeps all.
        top_p: the probability to keep; None keeps all.

    Returns:
        (B, T) tokens, (B, T) log-probs at temperature 1 with nothing cut, and (B, T) True at the
        end tokens. What follows the first of them in a row means nothing.
    """
    most, rows, _ = uniforms.shape
    device = prompt_tokens.device
    tokens = torch.zeros((rows, most), dtype=torch.long, device=device)
    log_probs = torch.zeros((rows, most), dtype=uniforms.dtype, device=device)
    row = torch.arange(rows, device=device)  # which rows are still computed
    ended = torch.zeros(rows, dtype=torch.bool, device=device)  # and which of them have ended
    logits = reader.read_prompts(prompt_tokens)
    for step in range(most):
        drawn, log_prob = _draw(logits, uniforms[step, row], unspoken, temperature, top_k, top_p)
        tokens[row, step], log_probs[row, step] = drawn, log_prob
        ended = ended | _is_any(drawn, end_token_ids)
        if step + 1 == most:
            break
        if (step + 1) % reader.look_every == 0:
            running = len(row) - int(ended.sum())
            if running == 0:
                break
            kept = reader.batch_for(running)
            if kept <= DROP_BELOW * len(row) and reader.can_drop():
                places = _packed(~ended, kept)
                reader.keep(places)
                row, drawn, ended = row[places], drawn[places], ended[places]
        logits = reader.read(drawn.unsqueeze(1))
    is_end = _is_any(tokens[:, : step + 1], end_token_ids)
    # Where nobody looked at once, steps came after the last row had ended.
    longest = min(step, int((is_end.cumsum(1) == 0).any(0).sum())) + 1
    return tokens[:, :longest], log_probs[:, :longest], is_end[:, :longest]


def check_sampling(
    max_new_tokens: int, temperature: float, top_k: int | None, top_p: float | None
) -> None:
    """Refuse settings of ``sample`` that are out of their range."""

    def whole(value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 1

    def number(value: object) -> bool:
        return isinstance(value, Real) and not isinstance(value, bool)

    if not whole(max_new_tokens):
        raise ValueError(f"sample: max_new_tokens must be an int ≥ 1, got {max_new_tokens!r}")
    if not (number(temperature) and math.isfinite(temperature) and temperature > 0):
        raise ValueError(
            f"sample: temperature must be a finite number > 0, got {temperature!r}; for the "
            f"likeliest token take a small one such as 1e-6"
        )
    if top_k is not None and not whole(top_k):
        raise ValueError(f"sample: top_k must be None or an int ≥ 1, got {top_k!r}")
    if top_p is not None and not (number(top_p) and 0 < top_p <= 1):
        raise ValueError(f"sample: top_p must be None or in (0, 1], got {top_p!r}")


def _is_any(tokens: Tensor, wanted: Tensor) -> Tensor:
    """Say where tokens are one of the (E,) wanted ones, which are few."""
    if len(wanted) == 1:
        return tokens == wanted
    return (tokens.unsqueeze(-1) == wanted).any(-1)


def _packed(running: Tensor, count: int) -> Tensor:
    """Give for each of the first ``count`` places the row that goes there, so that few rows move.

    Running rows that stand in the first places stay, and the last ones fill the gaps.
    """
    kept = torch.arange(count, device=running.device)
    late = running[count:].nonzero().squeeze(1) + count
    kept[(~running[:count]).nonzero().squeeze(1)[: len(late)]] = late
    return kept


def _draw(
    logits: Tensor,
    uniforms: Tensor,
    unspoken: Tensor | None,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> tuple[Tensor, Tensor]:
    """Draw one token a row by inverting the cumulative distribution at ``uniforms`` (B, 1).

    Returns the tokens (B,) and their log-probs (B,) at temperature 1 with nothing cut, NaN where
    logits are NaN or infinite.
    """
    # The largest logit becomes 0 first, so that no temperature can overflow it.
    shifted = logits - logits.amax(-1, keepdim=True)
    scaled = shifted
    if unspoken is not None:
        scaled = shifted.masked_fill(unspoken, -torch.inf)
        scaled = scaled - scaled.amax(-1, keepdim=True)  # the largest that is left
    if temperature != 1:
        scaled = scaled / max(temperature, 1e-30)
    if top_k is not None or top_p is not None:
        scaled = truncate_logits(scaled, top_k, top_p)
    cumulative = scaled.exp().cumsum(-1)
    total = cumulative[:, -1:]
    # `right`: a token of probability zero is never drawn.
    drawn = torch.searchsorted(cumulative, uniforms * total, right=True)
    drawn = drawn.clamp(max=logits.shape[-1] - 1)  # past the end only where logits are NaN
    normaliser = total.log() if scaled is shifted else shifted.logsumexp(-1, keepdim=True)
    return drawn.squeeze(-1), (shifted.gather(-1, drawn) - normaliser).squeeze(-1)
