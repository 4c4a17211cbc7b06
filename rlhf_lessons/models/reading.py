"""Reading on: the logits of the next token, one token at a time, without reading the text again.

Sampling (lesson 2 and all after it) spends its time here. What is here: :class:`Reader`, which
works for every model because it lets the model do the work, and :class:`GPT2Reader`, the same for
an ordinary GPT-2 with its steps written out, which is faster (``benchmarks/RESULTS.md``). Left out
on purpose: gradients, beams, and quantised caches.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__: list[str] = []


class Reader:
    """Reads prompts, then one token a row and call, with the model's own key-value cache.

    Args:
        forward: ``forward(tokens, seen, keep=1, use_cache=True, cache=cache)`` -> (logits, cache).
        prompt_mask: (B, P) boolean, True = a token of the prompt; None where nothing is padded.
        room: how many tokens will be read after the prompts.
    """

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
        return logits[:, -1]

    def can_drop(self) -> bool:
        """Say whether the cache, and each of its layers, knows how to keep only some rows."""
        parts = (self.cache, *getattr(self.cache, "layers", ()))
        return all(hasattr(part, "batch_select_indices") for part in parts)

    def keep(self, rows: Tensor) -> None:
        """Go on with only these rows."""
        self.cache.batch_select_indices(rows)
        if self.seen is not None:
            self.seen = self.seen[rows]


class GPT2Reader:
    """Goes on where a :class:`Reader` of a GPT-2 has read the prompts; the same logits to 1e-5.

    Keys and values are written into memory that is taken once, no mask is built where nothing is
    padded, and matrix products take the faster of two libraries where it computes the same. The
    weights are read from the model itself.
    """

    def __init__(self, model: PreTrainedModel, reader: Reader, room: int) -> None:
        self.model = model
        self.length = reader.length
        self.states = []  # a layer's keys and values, (2, B, H, N + room, D)
        for layer in reader.cache.layers:
            rows, heads, length, size = layer.keys.shape
            states = layer.keys.new_empty(2, rows, heads, length + room, size)
            states[0, :, :, :length], states[1, :, :, :length] = layer.keys, layer.values
            self.states.append(states)
        self.bias = self.padding = None
        if reader.seen is not None:
            seen = reader.seen
            self.padding = (~seen[:, : self.length]).sum(1)
            self.bias = torch.zeros(seen.shape, dtype=self.states[0].dtype, device=seen.device)
            self.bias = self.bias.masked_fill(~seen, -torch.inf)[:, None, None]

    @staticmethod
    def suits(model: PreTrainedModel, reader: Reader) -> bool:
        """Say whether the model is a plain GPT-2: nothing replaced, hooked, or set out of the way.

        Hooks, adapters and quantised layers must see every token, so such models take the ordinary
        way.
        """
        from transformers.models.gpt2 import modeling_gpt2 as gpt2

        ordinary = (
            *(gpt2.GPT2LMHeadModel, gpt2.GPT2Model, gpt2.GPT2Block, gpt2.GPT2Attention),
            *(gpt2.GPT2MLP, gpt2.Conv1D, torch.nn.LayerNorm, torch.nn.Embedding, torch.nn.Linear),
            *(torch.nn.ModuleList, torch.nn.Dropout),
        )
        if type(model) is not gpt2.GPT2LMHeadModel or model.dtype not in (
            torch.float32,
            torch.float64,
        ):
            return False
        config = model.config
        settings = (config.scale_attn_weights, config.scale_attn_by_inverse_layer_idx)
        if settings != (True, False) or config.add_cross_attention:
            return False
        activations = {type(block.mlp.act) for block in model.transformer.h}
        return all(
            (type(module) in ordinary or type(module) in activations)
            and not module._forward_hooks
            and not module._forward_pre_hooks
            and "forward" not in vars(module)
            for module in model.modules()
        ) and all(
            getattr(layer, "keys", None) is not None and layer.keys.shape[-2] == reader.length
            for layer in getattr(reader.cache, "layers", (None,))
        )

    def can_drop(self) -> bool:
        """Say that rows can be dropped."""
        return True

    def read(self, tokens: Tensor) -> Tensor:
        """Read one more token a row, (B, 1), and give the next token's logits (B, V)."""
        body = self.model.transformer
        rows, heads = tokens.shape[0], self.model.config.n_head
        at, end = self.length, self.length + 1
        positions = body.wpe.weight[at] if self.padding is None else body.wpe(at - self.padding)
        hidden = body.wte(tokens.squeeze(1)) + positions
        for block, states in zip(body.h, self.states, strict=True):
            attention, mlp = block.attn, block.mlp
            projected = _affine(attention.c_attn, _normalised(block.ln_1, hidden))
            projected = projected.view(rows, 3, heads, 1, -1).transpose(0, 1)
            query, states[..., at:end, :] = projected[0], projected[1:]
            keys, values = states[..., :end, :]
            bias = None if self.bias is None else self.bias[..., :end]
            # For a single query two products are faster than fused attention.
            scores = (query @ keys.transpose(-1, -2)).mul_(query.shape[-1] ** -0.5)
            scores = scores if bias is None else scores.add_(bias)
            mixed = scores.softmax(-1) @ values
            hidden = hidden + _affine(attention.c_proj, mixed.view(rows, -1))
            inner = mlp.act(_affine(mlp.c_fc, _normalised(block.ln_2, hidden)))
            hidden = hidden + _affine(mlp.c_proj, inner)
        self.length = end
        return F.linear(_normalised(body.ln_f, hidden), self.model.lm_head.weight)

    def keep(self, rows: Tensor) -> None:
        """Go on with only these rows; a row that stays where it was costs nothing."""
        count = rows.shape[0]
        (places,) = (rows != torch.arange(count, device=rows.device)).nonzero(as_tuple=True)
        moved = rows[places]
        for states in self.states:
            states[:, places, :, : self.length] = states[:, moved, :, : self.length]
        self.states = [states[:, :count] for states in self.states]
        if self.bias is not None:
            self.bias, self.padding = self.bias[rows], self.padding[rows]


def _affine(layer: Any, x: Tensor) -> Tensor:
    """x W + b, for the layers of GPT-2, which store W as (in, out)."""
    if x.device.type != "cpu" or not _onednn_keeps_float32():
        return torch.addmm(layer.bias, x, layer.weight)
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        return torch.addmm(layer.bias, x, layer.weight)
    finally:
        setting.fp32_precision = before


@functools.cache
def _onednn_keeps_float32() -> bool:
    """Say whether products may go to oneDNN, up to twice as fast as torch's default on some CPUs.

    torch sends float32 products there only when told that bfloat16 would do. Few CPUs (those with
    AMX) then use it; on all others the result is float32 as before. One product tells which: its
    error is near 1e-7 in float32 and near 1e-3 in bfloat16.
    """
    setting = getattr(torch.backends.mkldnn, "matmul", None)  # since torch 2.9
    if setting is None or not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 128, 128, generator=generator)
    exact = a.double() @ b.double()
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        error = (torch.mm(a, b) - exact).abs().max() / exact.abs().max()
    finally:
        setting.fp32_precision = before
    return bool(error < 1e-5)


def _normalised(layer: torch.nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)
