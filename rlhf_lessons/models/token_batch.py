"""Prompts and responses as tokens, side by side: what every loop reads and every sampler writes.

Prompts are padded on the left and responses on the right, so that every response starts in the same
column::

    .  the  film | was  fine  <end>
    I   saw   it | <end>  .     .

Left out on purpose: text (``language_policy`` turns it into tokens and back).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Rollout", "TokenBatch"]


@dataclass(frozen=True)
class TokenBatch:
    """Prompts and responses as tokens, side by side.

    Attributes:
        prompt_tokens: (B, P) token ids, padded on the left.
        prompt_mask: (B, P) boolean, True = a token of the prompt.
        response_tokens: (B, T) token ids, padded on the right; the end token included where there
            is one.
        response_mask: (B, T) boolean, True = a token of the response, the end token included.
    """

    prompt_tokens: Tensor
    prompt_mask: Tensor
    response_tokens: Tensor
    response_mask: Tensor

    def __post_init__(self) -> None:
        for side in ("prompt", "response"):
            tokens, mask = getattr(self, f"{side}_tokens"), getattr(self, f"{side}_mask")
            if tokens.ndim != 2 or tokens.dtype != torch.long:
                raise ValueError(
                    f"TokenBatch: {side}_tokens must be a (B, T) tensor of dtype torch.int64, "
                    f"got {tuple(tokens.shape)} of {tokens.dtype}"
                )
            if mask.shape != tokens.shape or mask.dtype != torch.bool:
                raise ValueError(
                    f"TokenBatch: {side}_mask must be boolean with shape {tuple(tokens.shape)} "
                    f"like {side}_tokens, got {tuple(mask.shape)} of {mask.dtype}"
                )
        if len(self.prompt_tokens) != len(self.response_tokens):
            raise ValueError(
                f"TokenBatch: as many responses as prompts are needed, got "
                f"{len(self.prompt_tokens)} prompts and {len(self.response_tokens)} responses"
            )
        if self.prompt_mask.shape[1] == 0 or not self.prompt_mask[:, -1].all():
            raise ValueError(
                "TokenBatch: prompts must be padded on the left and hold at least one token, "
                "so the last column of prompt_mask must be True; got a row that ends in padding"
            )
        if (self.prompt_mask[:, :-1] & ~self.prompt_mask[:, 1:]).any():
            raise ValueError("TokenBatch: prompt_mask must have its padding on the left, got a gap")
        if (~self.response_mask[:, :-1] & self.response_mask[:, 1:]).any():
            raise ValueError(
                "TokenBatch: response_mask must have its padding on the right, got a gap"
            )

    def to(self, device: torch.device | str) -> TokenBatch:
        """Make a batch of the same tokens on a device; of a rollout, its tokens alone.

        A policy reads batches of any device. Where they are on the CPU, how long and where they are
        is known without waiting for a GPU.

        Args:
            device: where to.

        Returns:
            the B rows; this batch itself where it is there already.
        """
        parts = (self.prompt_tokens, self.prompt_mask, self.response_tokens, self.response_mask)
        there = moved(torch.device(device), *parts)
        return (
            self if all(x is y for x, y in zip(parts, there, strict=True)) else TokenBatch(*there)
        )

    def take(self, rows: Tensor) -> TokenBatch:
        """Make a batch of some rows, without the columns that none of them uses.

        Args:
            rows: (N,) which rows, on any device.

        Returns:
            the N rows.
        """
        rows = rows.to(self.prompt_mask.device)
        prompt, response = self.prompt_mask[rows], self.response_mask[rows]
        start = int((~prompt).sum(1).min())
        end = int(response.sum(1).max())
        return TokenBatch(
            self.prompt_tokens[rows, start:],
            prompt[:, start:],
            self.response_tokens[rows, :end],
            response[:, :end],
        )


@dataclass(frozen=True)
class Rollout(TokenBatch):
    """Responses that a policy sampled, with all that policy-gradient methods need of them.

    Attributes:
        prompt_tokens: (B, P) token ids, padded on the left.
        prompt_mask: (B, P) boolean, True = a token of the prompt.
        response_tokens: (B, T) sampled token ids, padded on the right.
        response_mask: (B, T) boolean, True = a sampled token, the end token included.
        prompts: the B prompts as they were given.
        responses: the B responses as text, special tokens left out.
        log_probs: (B, T) log π(token | text so far) of the policy itself, that is at temperature 1
            and with nothing cut; 0 where not counted.
        finished: (B,) boolean, True = the response ended with an end token, False = it was cut at
            ``max_new_tokens``.
        ended_by: (B,) the id of that end token, −1 where the response was cut.
    """

    prompts: tuple[str, ...]
    responses: tuple[str, ...]
    log_probs: Tensor
    finished: Tensor

    @property
    def ended_by(self) -> Tensor:
        """(B,) the id of the end token that each response ended with, −1 where it was cut."""
        last = (self.response_mask.sum(1, keepdim=True) - 1).clamp(min=0)
        tokens = self.response_tokens.gather(1, last).squeeze(1)
        return tokens.masked_fill(~self.finished.to(tokens.device), -1)

    def replaced(self, rows: Tensor, by: Rollout) -> Rollout:
        """Make a rollout in which others stand in the place of some rows.

        Args:
            rows: (N,) which rows, each once.
            by: the N rows to put there, in that order.

        Returns:
            the B rows, as wide as the wider of the two.

        Raises:
            ValueError: if ``by`` does not hold N rows.
        """
        if len(by.responses) != len(rows):
            raise ValueError(
                f"replaced: by must hold one row for each of the {len(rows)} rows, got "
                f"{len(by.responses)}"
            )
        rows = rows.to(self.prompt_mask.device)

        def put(name: str, left: bool) -> Tensor:
            old, new = getattr(self, name), getattr(by, name)
            width = max(old.shape[1], new.shape[1])
            old, new = (
                F.pad(x, (width - x.shape[1], 0) if left else (0, width - x.shape[1]))
                for x in (old, new)
            )
            return old.index_copy(0, rows, new.to(old))

        texts = {name: list(getattr(self, name)) for name in ("prompts", "responses")}
        for place, row in enumerate(rows.tolist()):
            for name, column in texts.items():
                column[row] = getattr(by, name)[place]
        return Rollout(
            put("prompt_tokens", left=True),
            put("prompt_mask", left=True),
            put("response_tokens", left=False),
            put("response_mask", left=False),
            prompts=tuple(texts["prompts"]),
            responses=tuple(texts["responses"]),
            log_probs=put("log_probs", left=False),
            finished=self.finished.index_copy(0, rows, by.finished.to(self.finished)),
        )


def moved(device: torch.device, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Move tensors to a device in one copy; to a GPU it goes from pinned memory, so nobody waits.

    Args:
        device: where to.
        *tensors: whole numbers and booleans, or all of one other kind; on one device.

    Returns:
        the tensors there; where they are there already, they themselves.
    """
    if all(tensor.device == device for tensor in tensors):
        return tensors
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    to_gpu = flat.device.type == "cpu" and device.type == "cuda"
    flat = (flat.pin_memory() if to_gpu else flat).to(device, non_blocking=to_gpu)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return tuple(
        part.view(tensor.shape).to(tensor.dtype)
        for part, tensor in zip(parts, tensors, strict=True)
    )


def check_batch(where: str, batch: object) -> None:
    """Refuse what is no batch of tokens."""
    if not isinstance(batch, TokenBatch):
        raise TypeError(
            f"{where}: batch must be a TokenBatch, as encode and sample make it, got "
            f"{type(batch).__name__}"
        )
