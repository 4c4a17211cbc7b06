"""GPT-2's body written out for training: nothing is computed twice, or where nobody reads it.

    packed      tokens of all rows one after another; padding has no place there, and what rows
                begin with alike (two answers to one prompt) has one (``packing``)
    all blocks  products on what is packed, attention on rows of like length
    last block  queries, output and MLP only at the places that are read: where the response is for
                log-probabilities, the last token for a reward

The numbers and the gradients are those of transformers' own GPT-2 to 1e-5. Left out on purpose:
other architectures and half precision (they take the ordinary way), and dropout.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rlhf_lessons.models.gelu import gelu_tanh
from rlhf_lessons.models.packing import distinct_tokens
from rlhf_lessons.models.products import product
from rlhf_lessons.models.token_batch import moved

__all__: list[str] = []

TOGETHER = 1024  # tokens, padding too: below it a second call of each kernel costs more than it
SHORT = 64  # tokens: up to here two products take less time than the fused kernel, and few bytes

# The names that one function has in transformers; the first takes eight operations for it.
TANH_FORMS = ("NewGELUActivation", "PytorchGELUTanh", "GELUTanh")


def is_plain(model: torch.nn.Module) -> bool:
    """Say whether this is GPT-2 as published: nothing replaced, hooked or set out of the way.

    Hooks, adapters and quantised layers must see every token, so such models take the ordinary way.

    Args:
        model: any model of transformers.
    """
    from transformers.models.gpt2 import modeling_gpt2 as gpt2

    if type(model) not in (gpt2.GPT2LMHeadModel, gpt2.GPT2ForSequenceClassification):
        return False
    ordinary = {
        *(type(model), gpt2.GPT2Model, gpt2.GPT2Block, gpt2.GPT2Attention, gpt2.GPT2MLP),
        *(gpt2.Conv1D, torch.nn.LayerNorm, torch.nn.Embedding, torch.nn.Linear),
        *(torch.nn.ModuleList, torch.nn.Dropout),
    }
    activations = {type(block.mlp.act) for block in model.transformer.h}
    config = model.config
    if not (
        model.dtype in (torch.float32, torch.float64)
        and config.scale_attn_weights
        and not config.scale_attn_by_inverse_layer_idx
        and not config.reorder_and_upcast_attn
        and not config.add_cross_attention
        and config._attn_implementation in ("sdpa", "eager")
    ):
        return False
    modules: list[torch.nn.Module] = [model]
    for module in modules:  # model.modules() takes three times as long, at every pass
        kind = type(module)
        if (
            (kind not in activations and (kind not in ordinary or module.training))
            or module._forward_hooks
            or module._forward_pre_hooks
            or "forward" in vars(module)
        ):
            return False
        modules += filter(None, module._modules.values())
    return True


def states_at(body: Any, tokens: Tensor, lengths: Tensor, places: Tensor, read: Tensor) -> Tensor:
    """Compute the body's output at some places, with gradient.

    What goes where is worked out on the CPU, and then moves to the body's device in one copy.

    Args:
        body: the ``GPT2Model`` of a model that ``is_plain``. The other tensors are on the CPU.
        tokens: (B, L) token ids, padded on the right.
        lengths: (B,) how many tokens of each row count, at least 1.
        places: (B, T) columns of counted tokens; those that are read come first in each row.
        read: (B, T) boolean, True = this place is read.

    Returns:
        (N, H) vectors of the N places that are read, row by row.
    """
    device = body.wte.weight.device
    index, at_row, at_column, _ = distinct_tokens(tokens, lengths)
    slots = (read.flatten().cumsum(0) - 1).clamp(min=0).view(read.shape)
    chosen = index.gather(1, places)[read]

    # Rows of like length go through attention together, so that less of it is padding.
    groups = []
    packed_from, read_from = torch.zeros_like(lengths), torch.zeros_like(lengths)
    cells = read_cells = 0
    few = device.type != "cpu" or tokens.numel() < TOGETHER
    together = few or bool(lengths.min() == lengths.max())
    for rows in lengths.argsort().chunk(1 if together else 2):
        length, most = int(lengths[rows].max()), int(read[rows].sum(1).max())
        groups.append((index[rows, :length], slots[rows, :most], places[rows, :most]))
        count = torch.arange(len(rows))
        packed_from[rows], read_from[rows] = cells + count * length, read_cells + count * most
        cells, read_cells = cells + len(rows) * length, read_cells + len(rows) * most
    packed_from = packed_from[at_row] + at_column
    read_from = (read_from.unsqueeze(1) + torch.arange(read.shape[1]))[read]

    ids, at_column, chosen, packed_from, read_from, *parts = moved(
        device, tokens[at_row, at_column], at_column, chosen, packed_from, read_from,
        *(part for group in groups for part in group),
    )  # fmt: skip
    groups = [tuple(parts[first : first + 3]) for first in range(0, len(parts), 3)]
    heads = body.config.n_head
    hidden = F.embedding(ids, body.wte.weight)
    hidden = hidden + F.embedding(at_column, body.wpe.weight)
    for block in body.h[:-1]:
        states = affine(block.attn.c_attn, normalised(block.ln_1, hidden))
        mixed = []
        for index, _, _ in groups:
            mixed.append(_attention(*_rows(states, index, 3, heads)))
        mixed = torch.cat(mixed).index_select(0, packed_from)
        hidden = _mlp(block, hidden + affine(block.attn.c_proj, mixed))

    block, width = body.h[-1], hidden.shape[1]
    weight, bias = block.attn.c_attn.weight, block.attn.c_attn.bias
    normed = normalised(block.ln_1, hidden)
    queries = product(bias[:width], normed.index_select(0, chosen), weight[:, :width])
    states = product(bias[width:], normed, weight[:, width:])
    mixed = []
    for index, slots, places in groups:
        looks = torch.arange(index.shape[1], device=device) <= places.unsqueeze(2)  # (b, t, l)
        (query,) = _rows(queries, slots, 1, heads)
        key, value = _rows(states, index, 2, heads)
        mixed.append(_attention(query, key, value, looks.unsqueeze(1)))
    mixed = torch.cat(mixed).index_select(0, read_from)
    hidden = hidden.index_select(0, chosen) + affine(block.attn.c_proj, mixed)
    return normalised(body.ln_f, _mlp(block, hidden))


def _rows(states: Tensor, index: Tensor, count: int, heads: int) -> tuple[Tensor, ...]:
    """Lay (N, count·H) states out as rows: ``count`` tensors of shape (b, heads, l, H/heads)."""
    size = states.shape[1] // (count * heads)  # -1 would be ambiguous where no row has a place
    states = states.index_select(0, index.flatten()).view(*index.shape, count, heads, size)
    return tuple(part.transpose(1, 2) for part in states.unbind(2))


def _attention(query: Tensor, key: Tensor, value: Tensor, looks: Tensor | None = None) -> Tensor:
    """Mix values by softmax(q·kᵀ/√d) over the tokens that each place looks at, (b·t, H).

    ``looks`` is (b, 1, t, l), True = looks there; without it each looks at itself and those before.
    """
    rows, heads, length, size = query.shape
    tokens = key.shape[2]
    if query.device.type != "cpu" or tokens > SHORT:
        mixed = F.scaled_dot_product_attention(query, key, value, looks, is_causal=looks is None)
    else:
        later = torch.ones(length, length, dtype=torch.bool).triu(1) if looks is None else ~looks
        query, key, value = (x.flatten(0, 1) for x in (query, key, value))
        scores = product(None, query * size**-0.5, key.mT).view(rows, heads, length, tokens)
        weights = scores.masked_fill_(later, -torch.inf).softmax(-1)
        mixed = product(None, weights.flatten(0, 1), value).view(rows, heads, length, size)
    return mixed.transpose(1, 2).flatten(2).flatten(0, 1)


def _mlp(block: Any, hidden: Tensor) -> Tensor:
    return hidden + affine(block.mlp.c_proj, widened(block, hidden))


def widened(block: Any, hidden: Tensor) -> Tensor:
    """The first half of a block's MLP."""
    inner = affine(block.mlp.c_fc, normalised(block.ln_2, hidden))
    act = block.mlp.act
    tanh = type(act).__name__ in TANH_FORMS or getattr(act, "approximate", None) == "tanh"
    return gelu_tanh(inner) if tanh else act(inner)


def affine(layer: Any, x: Tensor) -> Tensor:
    """x W + b, for the layers of GPT-2, which store W as (in, out)."""
    return product(layer.bias, x, layer.weight)


def normalised(layer: torch.nn.LayerNorm, x: Tensor) -> Tensor:
    """A layer norm."""
    return F.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)
