"""Several texts in one row: no padding, and what texts begin with alike is read once.

Two answers to one prompt, and all texts of a chat template, begin with the same tokens; texts of
unequal length leave padding. So the rows become one tree of tokens, cut into packed rows::

    the film was fine .            the film was fine . bad <end>
    the film was bad <end>         0   1    2   3    4 3   4

Each token keeps the position that it has in its own text and looks at the tokens before it there,
and at no others. What is here: :func:`distinct_tokens`, the tree; :func:`model_inputs`, which gives
packed rows to any model of transformers that takes positions and a mask of our own. A model is
asked once, on a few tokens, whether it reads them as it reads each text alone. What is not finite
in one text reaches the others of its packed row. Left out on purpose: models in half precision,
where the answer can't be told from rounding, and attention that no mask reaches.

Source:
    Krell et al. 2021, Efficient sequence packing without cross-contamination (arXiv 2107.02027).
"""

from __future__ import annotations

import inspect
import weakref
from typing import NamedTuple

import torch
from torch import Tensor

from rlhf_lessons.models import adapters
from rlhf_lessons.models.token_batch import moved
from rlhf_lessons.models.tokens_of_text import text_config

__all__: list[str] = []

# Tokens of a packed row. Wider ones waste less padding, and hold more answers to one long prompt;
# attention costs more there. None is narrower than the longest text.
WIDTHS = (128, 256)
TIMES_LONGEST = (1, 2, 4)
GAIN = 0.9  # packed rows must cost less than this share: masks and positions cost something too
# Of a model's attention and of its masks, as configurations call them.
BOUNDS = (
    *("sliding_window", "attention_window", "window_size", "attention_chunk_size"),
    *("keep_window_size", "index_topk"),
    *("max_position_embeddings", "n_positions"),
)
# What models answered, by precision and attention: either may change.
_answers: weakref.WeakKeyDictionary[torch.nn.Module, dict[object, bool]]
_answers = weakref.WeakKeyDictionary()


class DistinctTokens(NamedTuple):
    """Rows of tokens as a tree: a token that another row has after the same ones is there once.

    Attributes:
        index: (B, L) which of the N tokens stands for each one of the rows.
        rows: (N,) the row that each comes from.
        columns: (N,) its place there.
        counts: how many of the N stand in each packed row, in their order.
    """

    index: Tensor
    rows: Tensor
    columns: Tensor
    counts: list[int]


def distinct_tokens(tokens: Tensor, lengths: Tensor) -> DistinctTokens:
    """Find the tokens that no other row has after the same ones, for one packed row.

    Args:
        tokens: (B, L) token ids on the CPU, padded on the right.
        lengths: (B,) how many of each row count, at least 1.

    Returns:
        the tree.
    """
    return _SideBySide(tokens, lengths).tree(None)


class _SideBySide:
    """Rows of tokens by what they begin with: neighbours have as much in common as any two can."""

    def __init__(self, tokens: Tensor, lengths: Tensor) -> None:
        counts = lengths.tolist()
        texts = [row[:count] for row, count in zip(tokens.tolist(), counts, strict=True)]
        order = sorted(range(len(texts)), key=texts.__getitem__)
        self.order = torch.tensor(order)
        self.lengths = [counts[row] for row in order]
        self.counted = torch.arange(tokens.shape[1]) < lengths[self.order].unsqueeze(1)
        tokens = tokens[self.order]
        alike = (tokens[1:] == tokens[:-1]) & self.counted[1:] & self.counted[:-1]
        self.shared = [0, *alike.cumprod(1).sum(1).tolist()]

    def filled(self, width: int | None) -> tuple[list[int], list[int]]:
        """Fill packed rows of at most ``width`` tokens, one where that is None.

        Gives how many first tokens of each row are those of the row before it, in one packed row
        with it, and how many tokens each packed row holds.
        """
        shared, filled = list(self.shared), [0]
        for place, length in enumerate(self.lengths):
            new = length - shared[place]
            if width is not None and filled[-1] + new > width:
                shared[place], new = 0, length
                filled.append(0)
            filled[-1] += new
        return shared, filled

    def tree(self, width: int | None) -> DistinctTokens:
        """Number the tokens, packed row by packed row."""
        shared, filled = self.filled(width)
        columns = torch.arange(self.counted.shape[1])
        new = self.counted & (columns >= torch.tensor(shared).unsqueeze(1))
        # What is not new is where it is in a row above.
        index = (new.flatten().cumsum(0) - 1).view(new.shape).masked_fill(~new, 0)
        rows, columns = new.nonzero().unbind(1)
        index = index.cummax(0).values[self.order.argsort()]
        return DistinctTokens(index, self.order[rows], columns, filled)


def packed_tree(
    model: torch.nn.Module,
    tokens: Tensor,
    lengths: Tensor,
    wanted: bool | None,
    cells: int | None = None,
) -> DistinctTokens | None:
    """Find the packed rows that cost a model least.

    A block of H features multiplies some 12 H² weights with each token, which is as much as its
    attention to 6 H tokens. A mask of our own lets all pairs of a packed row be computed, the usual
    one half of them.

    Args:
        model: a causal model of transformers, or its body; adapters may stand in it.
        tokens: (B, L) token ids on the CPU, padded on the right.
        lengths: (B,) how many of each row count, at least 1.
        wanted: True or False to decide it, None to pack on a CPU, where it was measured.
        cells: how many tokens, padding too, would be read otherwise; None for B · L.

    Returns:
        the rows; None where plain ones cost no more, or the model does not read packed ones.
    """
    weight = model.get_input_embeddings().weight
    if wanted is False or (wanted is None and weight.device.type != "cpu"):
        return None
    features, longest, reach = weight.shape[1], int(lengths.max()), _reach(model)
    limit = GAIN * (cells or tokens.numel()) * (1 + longest / (12 * features))
    rows, best = _SideBySide(tokens, lengths), None
    widths = (*(longest * times for times in TIMES_LONGEST), *WIDTHS)
    for width in sorted({max(longest, width) for width in widths}):
        counts = rows.filled(width)[1]
        most = max(counts)
        cost = len(counts) * most * (1 + most / (6 * features))
        if cost < limit and most <= reach:
            best, limit = width, cost
    return rows.tree(best) if best is not None and _suits(model) else None


def model_inputs(
    model: torch.nn.Module,
    tokens: Tensor,
    lengths: Tensor,
    places: Tensor,
    read: Tensor,
    wanted: bool | None,
    *others: Tensor,
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Make what a model is called with, packed or not; all of it moves there in one copy.

    Args:
        model: as for ``packed_tree``; tokens, lengths and wanted likewise.
        tokens: (B, L).
        lengths: (B,).
        places: (B, T) columns of counted tokens.
        read: (B, T) boolean, True = this place is read.
        wanted: whether to pack.
        *others: more whole numbers to move there.

    Returns:
        the arguments of the model's forward pass; and (N,) where the N places that are read are
        among its outputs, once rows and columns are one dimension, before the others.
    """
    weight = model.get_input_embeddings().weight
    tree = packed_tree(model, tokens, lengths, wanted)
    if tree is None:
        cells = torch.arange(len(tokens)).unsqueeze(1) * tokens.shape[1] + places
        tokens, *moved_there = moved(weight.device, tokens, cells[read], *others)
        return {"input_ids": tokens}, moved_there
    return _packed(tree, tokens, tree.index.gather(1, places)[read], weight, *others)


def _reach(model: torch.nn.Module) -> float:
    """Say how many tokens a row of the model may hold, whoever looks at whom."""
    config = text_config(model)
    bounds = (getattr(config, name, None) for name in BOUNDS)
    return min((b for b in bounds if isinstance(b, int) and b > 0), default=float("inf"))


def _packed(
    tree: DistinctTokens, tokens: Tensor, chosen: Tensor, like: Tensor, *others: Tensor
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Lay a tree out in packed rows, as the arguments of a model whose weights are ``like``."""
    counts = torch.tensor(tree.counts)
    starts = counts.cumsum(0) - counts
    slots = torch.arange(max(tree.counts))
    filled = slots < counts.unsqueeze(1)  # (K, W)
    which = (starts.unsqueeze(1) + slots).where(filled, starts.unsqueeze(1))
    row = torch.arange(len(counts)).repeat_interleave(counts)
    cells = row * len(slots) + torch.arange(len(row)) - starts[row]
    ids, columns, rows, which, filled, index, *moved_there = moved(
        like.device, tokens[tree.rows, tree.columns], tree.columns, tree.rows,
        which, filled, tree.index, cells[chosen], *others,
    )  # fmt: skip
    positions, index = columns[which], index.int()  # a number for each pair of tokens: small ones
    # Token i looks at j where j stands for i's own row at j's column, before i; and at itself.
    looks = index[rows[which].unsqueeze(2), positions.unsqueeze(1)] == which.int().unsqueeze(1)
    looks &= (positions.unsqueeze(1) < positions.unsqueeze(2)) & filled.unsqueeze(1)
    looks |= torch.eye(len(slots), dtype=torch.bool, device=like.device)
    mask = torch.zeros(looks.shape, dtype=like.dtype, device=like.device)
    mask = mask.masked_fill_(~looks, torch.finfo(like.dtype).min).unsqueeze(1)
    inputs = {"input_ids": ids[which], "position_ids": positions, "attention_mask": mask}
    return inputs, moved_there


def _suits(model: torch.nn.Module) -> bool:
    """Say whether the model reads packed rows; it is asked once, or when it has changed."""
    weight = model.get_input_embeddings().weight
    if (
        weight.dtype not in (torch.float32, torch.float64)
        or model.training  # dropout draws random numbers
        or torch._C._are_functorch_transforms_active()  # which hide the numbers
    ):
        return False
    key = (weight.dtype, getattr(text_config(model), "_attn_implementation", None))
    answers = _answers.setdefault(model, {})
    if key not in answers:
        answer = _reads_packed_rows(model)
        if answer is None:
            return False
        answers[key] = answer
    return answers[key]


@torch.no_grad()
def _reads_packed_rows(model: torch.nn.Module) -> bool | None:
    """Say whether the model gives each token of packed rows what it gives it in its own text.

    And whether that can be told: it must give something else without the mask or the positions.
    None where its numbers are not finite.
    """
    weight = model.get_input_embeddings().weight
    accepted = inspect.signature(adapters.inside(model).forward).parameters
    if not {"position_ids", "attention_mask"} <= accepted.keys():
        return False
    texts = torch.tensor([[3, 1, 4, 1, 5, 9, 2], [3, 1, 4, 8, 6, 0, 0], [7, 1, 8, 2, 0, 0, 0]])
    texts = (37 * texts + 5) % len(weight)
    lengths = torch.tensor([7, 5, 4])
    counted = torch.arange(texts.shape[1]) < lengths.unsqueeze(1)
    tree = distinct_tokens(texts, lengths)
    packed, (cells,) = _packed(tree, texts, tree.index[counted], weight)

    def outputs(**inputs: Tensor) -> Tensor:
        return model(**inputs, use_cache=False)[0].flatten(0, 1)

    with torch.autocast(weight.device.type, enabled=False):
        alone = outputs(input_ids=texts.to(weight.device))[counted.flatten().to(weight.device)]
        if not bool(alone.isfinite().all()):
            return None
        try:
            together = outputs(**packed)[cells]
            unmasked = packed["attention_mask"].triu(1)
            others = (
                outputs(**{**packed, "attention_mask": unmasked})[cells],
                outputs(**{**packed, "position_ids": packed["position_ids"] * 0 + 1})[cells],
            )
        except Exception:  # a model that is called with what it does not take fails in any way
            return False
    error = (together - alone).abs().max()
    far = min((other - alone).abs().max() for other in others)
    return bool(error <= 1e-4 * alone.abs().max()) and bool(20 * error < far)
