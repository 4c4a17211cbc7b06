"""Reading on: the logits of the next token, one token at a time, without reading the text again.

Sampling (lesson 2 and all after it) spends its time here. What is here: :class:`Reader`, which
works for every model because it lets the model do the work, and :class:`GPT2Reader`, the same for
an ordinary GPT-2 with its steps written out, which is faster (``benchmarks/RESULTS.md``). For a GPU
there is :mod:`~rlhf_lessons.models.static_reading`. Left out on purpose: gradients, beams, and
quantised caches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rlhf_lessons.models.gpt2_body import affine, normalised, widened
from rlhf_lessons.models.products import FROM_NUMBERS_SAMPLING, OneDNN, onednn_suits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__: list[str] = []


class Reader:
    """Reads prompts, then one token a row and call, with the model's own key-value cache.

    Args:
        forward: ``forward(tokens, seen, keep=1, use_cache=True, cache=cache)`` -> (logits, cache).
        prompt_mask: (B, P) boolean, True = a token of the prompt; None where nothing is padded.
        room: how many tokens will be read after the prompts.

    Attributes:
        look_every: after how many steps the sampler asks which rows have ended.
    """

    look_every = 1

    def __init__(
        self, forward: Callable[..., tuple[Tensor, Any]], prompt_mask: Tensor | None, room: int
    ) -> None:
        self.forward = forward
        self.cache: Any = None
        self.seen = None
        if prompt_mask is not None:
            self.seen = F.pad(prompt_mask, (0, room), value=True)
        self.text: Tensor | None = None
        self.length = 0

    def read(self, tokens: Tensor) -> Tensor:
        """Read (B, N) tokens that follow what was read and give the next token's logits (B, V)."""
        self.length += tokens.shape[1]
        if self.cache is None and self.text is not None:
            tokens = torch.cat([self.text, tokens], dim=1)  # no cache: the whole text again
        self.text = tokens
        seen = None if self.seen is None else self.seen[:, : self.length]
        logits, self.cache = self.forward(tokens, seen, keep=1, use_cache=True, cache=self.cache)
        if type(self.cache).__name__ == "HybridCache":
            self.cache = None  # of transformers 4.48: it has room for what it read first, no more
        return logits[:, -1]

    def read_prompts(self, tokens: Tensor) -> Tensor:
        """Read the (B, P) prompts and give the next token's logits (B, V); equal ones once.

        Of n responses to one prompt the prompt is most of the work: it is read in one row, whose
        part of the cache is then copied for the others.
        """
        first, which = _distinct(tokens, self.seen)
        if len(first) == len(tokens):
            return self.read(tokens)
        seen = self.seen
        if seen is not None:
            self.seen = seen[first]
        logits = self.read(tokens[first])
        if not self.can_drop():  # nor to copy: from the beginning, with all rows
            self.cache, self.text, self.length, self.seen = None, None, 0, seen
            return self.read(tokens)
        self.keep(which)
        return logits[which]

    def can_drop(self) -> bool:
        """Say whether the cache, and each of its layers, knows how to keep only some rows."""
        parts = (self.cache, *getattr(self.cache, "layers", ()))
        return all(hasattr(part, "batch_select_indices") for part in parts)

    def batch_for(self, running: int) -> int:
        """Give the fewest rows it can go on with that hold these."""
        return running

    def keep(self, rows: Tensor) -> None:
        """Go on with only these rows."""
        self.cache.batch_select_indices(rows)
        if self.seen is not None:
            self.seen = self.seen[rows]


class GPT2Reader:
    """A :class:`Reader` of a GPT-2 with its steps written out; the same logits to 1e-5.

    Keys and values are written into memory that is taken once, no mask is built where nothing is
    padded, and matrix products take the faster of two libraries where it computes the same. The
    weights are read from the model itself.

    Args:
        model: one that ``gpt2_body.is_plain``.
        prompt_mask: (B, P) boolean, True = a token of the prompt; None where nothing is padded.
        room: how many tokens will be read after the prompts.
    """

    look_every = 1

    def __init__(self, model: PreTrainedModel, prompt_mask: Tensor | None, room: int) -> None:
        self.model = model
        self.seen = self.padding = None
        if prompt_mask is not None:
            self.seen = F.pad(prompt_mask, (0, room), value=True)
            self.padding = (~prompt_mask).sum(1, keepdim=True)
        self.room = room
        self.length = 0
        self.states: list[Tensor] = []  # a layer's keys and values, (2, B, H, P + room, D)

    def read_prompts(self, tokens: Tensor) -> Tensor:
        """Read the (B, P) prompts and give the next token's logits (B, V); equal ones once."""
        first, which = _distinct(tokens, self.seen)
        if len(first) == len(tokens):
            return self.read(tokens)
        seen, padding = self.seen, self.padding
        if seen is not None:
            self.seen, self.padding = seen[first], padding[first]
        logits = self.read(tokens[first])
        self.seen, self.padding = seen, padding
        for layer, read in enumerate(self.states):
            shape = (read.shape[0], len(tokens), *read.shape[2:])
            self.states[layer] = read.new_empty(shape)
            self.states[layer][..., : self.length, :] = read[:, which, :, : self.length]
        return logits[which]

    def can_drop(self) -> bool:
        """Say that rows can be dropped."""
        return True

    def batch_for(self, running: int) -> int:
        """Give the fewest rows it can go on with that hold these."""
        return running

    def read(self, tokens: Tensor) -> Tensor:
        """Read (B, N) tokens that follow what was read and give the next token's logits (B, V)."""
        body, heads = self.model.transformer, self.model.config.n_head
        rows, new = tokens.shape
        at, end = self.length, self.length + new
        if self.seen is None:
            positions, bias = body.wpe.weight[at:end], None
        else:
            # The first real token of a row is at position 0, however much padding precedes it.
            columns = torch.arange(at, end, device=tokens.device)
            positions = body.wpe((columns - self.padding).clamp(min=0))
            bias = _bias(self.seen[:, :end], new).to(positions.dtype)
        hidden = (body.wte(tokens) + positions).view(rows * new, -1)
        if not self.states:
            shape = (2, rows, heads, end + self.room, hidden.shape[1] // heads)
            self.states = [hidden.new_empty(shape) for _ in body.h]
        onednn = onednn_suits(hidden, FROM_NUMBERS_SAMPLING)
        for block, states in zip(body.h, self.states, strict=True):
            attention = block.attn
            with OneDNN(onednn):
                projected = affine(attention.c_attn, normalised(block.ln_1, hidden))
            projected = projected.view(rows, new, 3, heads, -1).permute(2, 0, 3, 1, 4)
            query, states[..., at:end, :] = projected[0], projected[1:]
            keys, values = states[..., :end, :]
            if new > 1:
                mixed = F.scaled_dot_product_attention(
                    query, keys, values, attn_mask=bias, is_causal=bias is None
                ).transpose(1, 2)
            else:  # For a single query two products are faster than fused attention.
                scores = (query @ keys.transpose(-1, -2)).mul_(query.shape[-1] ** -0.5)
                mixed = (scores if bias is None else scores.add_(bias)).softmax(-1) @ values
            with OneDNN(onednn):
                _add_affine(hidden, attention.c_proj, mixed.reshape(rows * new, -1))
                _add_affine(hidden, block.mlp.c_proj, widened(block, hidden))
        self.length = end
        last = normalised(body.ln_f, hidden.view(rows, new, -1)[:, -1])
        with OneDNN(onednn_suits(last, FROM_NUMBERS_SAMPLING)):
            return F.linear(last, self.model.lm_head.weight)

    def keep(self, rows: Tensor) -> None:
        """Go on with only these rows; a row that stays where it was costs nothing."""
        places, moved = moves(rows)
        for states in self.states:
            states[:, places, :, : self.length] = states[:, moved, :, : self.length]
        self.states = [states[:, : len(rows)] for states in self.states]
        if self.seen is not None:
            self.seen, self.padding = self.seen[rows], self.padding[rows]


def moves(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Give the first places to which other rows come when only ``rows`` (N,) stay, and which."""
    (places,) = (rows != torch.arange(len(rows), device=rows.device)).nonzero(as_tuple=True)
    return places, rows[places]


def _distinct(tokens: Tensor, seen: Tensor | None) -> tuple[Tensor, Tensor]:
    """Give the first of each kind of equal rows, (N,), and which of those each row is, (B,)."""
    whole = tokens if seen is None else torch.cat([tokens, seen.long()], dim=1)
    kinds: dict[tuple[int, ...], int] = {}
    first, which = [], []
    for place, row in enumerate(map(tuple, whole.tolist())):
        if row not in kinds:
            kinds[row] = len(first)
            first.append(place)
        which.append(kinds[row])
    return tuple(torch.tensor(rows, device=tokens.device) for rows in (first, which))


def _bias(seen: Tensor, new: int) -> Tensor:
    """(B, 1, N, L): 0 where one of the last N positions may look, −∞ where it may not.

    Padding looks at itself, so that it has numbers too, which nobody reads.
    """
    if new == 1:  # which sees all before it
        return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, -torch.inf)[
            :, None, None
        ]
    length = seen.shape[1]
    earlier = torch.ones(new, length, dtype=torch.bool, device=seen.device).tril(length - new)
    itself = torch.eye(length, dtype=torch.bool, device=seen.device)[-new:]
    allowed = (seen[:, None] & earlier) | itself
    return torch.zeros(allowed.shape, device=seen.device).masked_fill(~allowed, -torch.inf)[:, None]


def _add_affine(hidden: Tensor, layer: Any, x: Tensor) -> None:
    """Add x W + b to ``hidden``, in place."""
    hidden.addmm_(x, layer.weight).add_(layer.bias)
