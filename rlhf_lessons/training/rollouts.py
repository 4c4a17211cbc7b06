"""What the loops that learn from their own samples share: from prompts to judged responses.

    import a judge by its name                 ``judge_named``
    deal the prompts, sample, judge            ``dealt``, ``sampling_precision``, ``judged``
    divide the batch up for the updates        ``minibatches``
    measure it in parts, without gradient      ``in_parts``
    hold a learner's formula to its shape      ``shaped``

``train_ppo`` and ``train_grpo`` read from top to bottom and call these. Left out on purpose: the
updates, in which the two differ.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rlhf_lessons.models import LanguagePolicy, Rollout, TokenBatch
from rlhf_lessons.models.token_batch import moved
from rlhf_lessons.training.update import precision

__all__: list[str] = []

Judge = Callable[[Sequence[str], Sequence[str]], Any]


def judge_named(where: str, name: str) -> Judge:
    """Import a judge, from the working folder too.

    Args:
        where: who asks, for messages.
        name: module:function; a class in its place is made without arguments.

    Returns:
        the judge.

    Raises:
        ValueError: if there is no such module, or nothing in it that can be called.
    """
    module, _, attribute = name.partition(":")
    wanted = f"{where}: judge must name a function as module:function"
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
        found = found() if isinstance(found, type) else found
    except ModuleNotFoundError as error:
        raise ValueError(f"{wanted}, got {name!r}: {error}") from error
    except AttributeError as error:
        raise ValueError(f"{wanted}, got {name!r}: {module} has no {attribute}") from error
    except TypeError as error:
        raise ValueError(f"{wanted}, got {name!r}, a class: {error}") from error
    if not callable(found):
        raise ValueError(f"{wanted}, got {name!r}, which is a {type(found).__name__}")
    return found


def checked_prompts(where: str, prompts: Sequence[str]) -> list[str]:
    """Refuse what is no list of texts.

    Args:
        where: the loop, for messages.
        prompts: what it was given.

    Returns:
        the prompts.

    Raises:
        TypeError: if they are not a list of strings.
        ValueError: if there are none.
    """
    if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
        raise TypeError(f"{where}: prompts must be a list of str, got {prompts!r:.60}")
    if len(prompts) == 0:
        raise ValueError(f"{where}: prompts must hold at least one text, got none")
    return list(prompts)


def dealt(prompts: Sequence[str], order: torch.Generator) -> Iterator[str]:
    """Deal prompts without end, in a new order each time that it is called.

    Args:
        prompts: at least one.
        order: source of the order.

    Yields:
        each of them once before any twice.
    """
    drawn = torch.randperm(len(prompts), generator=order).tolist()
    while True:
        for place in drawn:
            yield prompts[place]


def judged(where: str, judge: Judge, rollout: Rollout, first: bool) -> Tensor:
    """Ask the judge, and refuse what is no score.

    Args:
        where: the loop, for messages.
        judge: (prompts, responses) -> (B,) scores.
        rollout: what is judged.
        first: whether it is the first of the run: one without a word is then refused, and one in
            which no response ended by itself is warned about.

    Returns:
        (B,) scores in float64, without gradient.

    Raises:
        ValueError: if they are not one finite number per response.
    """
    if first and not any(rollout.responses):
        raise ValueError(
            f"{where}: policy must write something, got empty responses to all "
            f"{len(rollout.responses)} prompts of the first cycle"
        )
    if first and not bool(rollout.finished.any()):
        warnings.warn(
            f"{where}: none of the {len(rollout.responses)} responses of the first cycle ended "
            f"by itself within max_new_tokens = {rollout.response_mask.shape[1]}; each is judged "
            f"as it was cut, with its score at the last token",
            stacklevel=2,
        )
    given = judge(rollout.prompts, rollout.responses)
    try:
        scores = torch.as_tensor(given).detach().to(torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{where}: judge must return numbers, got {type(given).__name__}: {error}"
        ) from error
    wanted = (len(rollout.responses),)
    if scores.shape != wanted:
        raise ValueError(
            f"{where}: judge must return one score per response, (B,) = {wanted}, got "
            f"{tuple(scores.shape)}"
        )
    if not bool(scores.isfinite().all()):
        row = int((~scores.isfinite()).nonzero()[0])
        raise ValueError(
            f"{where}: judge must return finite scores, got {float(scores[row])} for response "
            f"{row}, {rollout.responses[row]!r}"
        )
    return scores


def minibatches(count: int, size: int, epochs: int, order: torch.Generator) -> Iterator[Tensor]:
    """Give the rows of each update: every response once an epoch, divided up anew.

    Args:
        count: responses of the batch.
        size: responses an update; the last one of an epoch may be smaller.
        epochs: passes over the batch.
        order: source of the division.

    Yields:
        (N,) rows, in ascending order.
    """
    for _ in range(epochs):
        rows = torch.randperm(count, generator=order)
        yield from (part.sort().values for part in rows.split(size))


def in_parts(batch: TokenBatch, size: int, measure: Callable[[TokenBatch], Tensor]) -> Tensor:
    """Measure something of each token, some responses at a time.

    Args:
        batch: the B responses.
        size: how many of them at a time.
        measure: (batch, on the CPU) -> one number per token.

    Returns:
        (B, T) numbers, 0 at padding.
    """
    batch = batch.to("cpu")
    rows, width = batch.response_mask.shape
    parts = []
    for some in torch.arange(rows).split(size):
        part = batch.take(some)
        numbers = measure(part)
        (mask,) = moved(numbers.device, part.response_mask)
        parts.append(F.pad(numbers.masked_fill(~mask, 0), (0, width - numbers.shape[1])))
    return torch.cat(parts)


def shaped(where: str, name: str, result: Any, mask: Tensor) -> Tensor:
    """Refuse what a formula gave, unless it is one value per token.

    Args:
        where: the loop, for messages.
        name: of the formula.
        result: what it gave.
        mask: (B, T) of the tokens.

    Returns:
        the result.

    Raises:
        ValueError: if it has another shape.
    """
    if not isinstance(result, Tensor) or result.shape != mask.shape:
        got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise ValueError(
            f"{where}: {name} must give one value per token, (B, T) = {tuple(mask.shape)}, "
            f"got {got}"
        )
    return result


def sampling_precision(policy: LanguagePolicy, bf16: bool) -> torch.autocast:
    """Make the context of sampling: in bfloat16 if asked for, on a CPU alone.

    On a CPU with bfloat16 units it takes two thirds of the time; on a GPU nobody has measured it.

    Args:
        policy: who samples.
        bf16: whether it was asked for.

    Returns:
        the context manager.
    """
    return precision(policy.device, bf16 and policy.device.type == "cpu")


def reads_in_full_precision(policy: LanguagePolicy, bf16: bool) -> bool:
    """Whether the sampler's log-probs are those of an update, up to rounding in float32.

    In half precision it rounds in another way than the reading of a whole text does.
    """
    return not bf16 and all(weight.dtype.itemsize >= 4 for weight in policy.parameters())
