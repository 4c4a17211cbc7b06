"""What the loops that learn from given responses share: from texts to log π of each response.

    refuse what is no list                     ``checked_list``
    read prompts and responses once            ``as_tokens``
    log π(y | x), summed over each response    ``summed_log_probs``
    refuse log π_ref of other responses        ``check_reference_log_probs``
    deal the rows of each update               ``dealt_rows``

``train_dpo`` takes pairs and ``train_kto`` single responses; each reads from top to bottom and
calls these. Left out on purpose: sampled responses, which are in ``rollouts``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf_lessons import formulas
from rlhf_lessons.models import LanguagePolicy, TokenBatch
from rlhf_lessons.models.token_batch import moved
from rlhf_lessons.training.update import precision

__all__: list[str] = []


def checked_list(where: str, name: str, records: Any, of: str, one: str) -> None:
    """Refuse what is no list, or an empty one.

    Args:
        where: the function, for messages.
        name: of the argument.
        records: what it was given.
        of: what the list is to hold, in words.
        one: what a single one is called.

    Raises:
        TypeError: if it is no sequence, or a text.
        ValueError: if it is empty.
    """
    if isinstance(records, str) or not hasattr(records, "__getitem__"):
        raise TypeError(f"{where}: {name} must be a list of {of}, got {type(records).__name__}")
    if len(records) == 0:
        raise ValueError(f"{where}: {name} must hold at least one {one}, got none")


def as_tokens(
    where: str,
    name: str,
    policy: LanguagePolicy,
    prompts: Sequence[str],
    responses: Sequence[str],
    max_new_tokens: int | None,
    hint: str = "",
) -> TokenBatch:
    """Tokenize given responses, each with its end token where it had one.

    Args:
        where: the function, for messages.
        name: of the argument that holds the texts, for messages.
        policy: whose tokens they become.
        prompts: B texts.
        responses: B texts that continue them.
        max_new_tokens: where their sampling stopped: what is longer was cut there, and loses the
            end token that it never had. None takes every response to have ended.
        hint: what to add to a message about a row.

    Returns:
        the B rows, on the CPU, where each update looks at its own.

    Raises:
        ValueError: if max_new_tokens is below 1, or a text does not fit the context.
    """
    if max_new_tokens is not None and max_new_tokens < 1:
        raise ValueError(f"{where}: max_new_tokens must be at least 1, got {max_new_tokens}")
    try:
        tokens = policy.encode(prompts, responses).to("cpu")
    except ValueError as error:
        raise ValueError(f"{where}: {name} cannot be read by the policy{hint}: {error}") from error
    read, mask = (t[:, :max_new_tokens] for t in (tokens.response_tokens, tokens.response_mask))
    return dataclasses.replace(tokens, response_tokens=read, response_mask=mask)


def summed_log_probs(
    policy: LanguagePolicy, tokens: TokenBatch, rows: Tensor, bf16: bool
) -> Tensor:
    """Give log π of some responses, with gradient, in one forward pass.

    Args:
        policy: what reads them.
        tokens: all responses.
        rows: (B,) which of them.
        bf16: whether the pass runs in bfloat16.

    Returns:
        (B,) log-probabilities in nats, summed over each response.
    """
    batch = tokens.take(rows)
    with precision(policy.device, bf16):
        log_probs = policy.log_probs_of(batch)
    (mask,) = moved(log_probs.device, batch.response_mask)
    return formulas.sequence_log_prob(log_probs, mask)


def check_reference_log_probs(
    where: str, given: tuple[Tensor, Tensor] | None, count: int, of: str
) -> None:
    """Refuse log-probabilities that are not those of the data.

    Args:
        where: the function, for messages.
        given: what its argument reference_log_probs was given; None is right.
        count: N, how many of each there are to be.
        of: what the two hold, in words.

    Raises:
        ValueError: if it is anything but two tensors of shape (N,).
    """
    if given is None:
        return
    shapes = [tuple(getattr(side, "shape", ())) for side in given]
    if shapes != [(count,)] * 2:
        raise ValueError(
            f"{where}: reference_log_probs must be two tensors of shape ({count},), {of}, "
            f"got {shapes}"
        )


def dealt_rows(
    left: Tensor, count: int, size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Deal the rows of an update: every row once before any row again.

    Args:
        left: rows that were not dealt yet, such as the last call gave back.
        count: rows in all.
        size: rows to deal.
        generator: source of the order.

    Returns:
        (size,) rows, and those that are left.
    """
    while len(left) < size:
        left = torch.cat([left, torch.randperm(count, generator=generator)])
    return left[:size], left[size:]
