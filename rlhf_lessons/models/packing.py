"""Several texts in one row: no padding, and what texts begin with alike is read once.

Two answers to one prompt, and all texts of a chat template, begin with the same tokens; texts of
unequal length leave padding. So the rows become one tree of tokens, cut into packed rows::

    the film was fine .            the film was fine . bad <end>
    the film was bad <end>         0   1    2   3    4 3   4

Each token keeps the position that it has in its own text and looks at the tokens before it there,
and at no others. What is here: :func:`distinct_tokens`, the tree; :class:`Packing`, which gives
packed rows to any model of transformers that takes positions and a mask of our own. A model is
asked once, on a few tokens, whether it reads them as it reads each text alone. Left out on
purpose: models in half precision, where that can't be told, and attention that no mask reaches.

Source:
    Krell et al. 2021, Efficient sequence packing without cross-contamination (arXiv 2107.02027).
"""

from __future__ import annotations

import inspect
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
WINDOWS = ("sliding_window", "attention_window", "window_size", "attention_chunk_size")


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


class Packing:
    """Gives a model rows of tokens: packed where it reads them so, and where that saves work.

    Args:
        model: a causal model of transformers, or its body; adapters may stand in it.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self._suits: bool | None = None  # None: not asked

    def suits(self, wanted: bool | None) -> bool:
        """Say whether rows are packed where that saves work.

        Args:
            wanted: True or False to decide it, None to do it on a CPU, where it was measured. A
                model that does not read packed rows gets none.
        """
        weight = self.model.get_input_embeddings().weight
        if wanted is False or (wanted is None and weight.device.type != "cpu"):
            return False
        if self._suits is None:
            self._suits = _reads_packed_rows(self.model)
        return self._suits

    def inputs(
        self,
        tokens: Tensor,
        lengths: Tensor,
        places: Tensor,
        read: Tensor,
        wanted: bool | None,
        *others: Tensor,
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Make what the model is called with; all of it moves to the model in one copy.

        Args:
            tokens: (B, L) token ids on the CPU, padded on the right.
            lengths: (B,) how many of each row count, at least 1.
            places: (B, T) columns of counted tokens.
            read: (B, T) boolean, True = this place is read.
            wanted: as ``suits`` takes it.
            *others: more whole numbers to move there.

        Returns:
            the arguments of the model's forward pass; and (N,) where the N places that are read
            are among its outputs, once rows and columns are one dimension, before the others.
        """
        weight = self.model.get_input_embeddings().weight
        tree = self._cheapest(tokens, lengths, weight.shape[1]) if self.suits(wanted) else None
        if tree is None:
            cells = torch.arange(len(tokens)).unsqueeze(1) * tokens.shape[1] + places
            tokens, *moved_there = moved(weight.device, tokens, cells[read], *others)
            return {"input_ids": tokens}, moved_there
        return _packed(tree, tokens, tree.index.gather(1, places)[read], weight, *others)

    def _cheapest(self, tokens: Tensor, lengths: Tensor, features: int) -> DistinctTokens | None:
        """Find the packed rows that cost least; None where the rows as they are cost no more.

        A block of H features multiplies some 12 H² weights with each token, which is as much as its
        attention to 6 H tokens. A mask of our own lets all pairs of a packed row be computed, the
        usual one half of them.
        """
        rows, best = _SideBySide(tokens, lengths), None
        limit = GAIN * tokens.numel() * (1 + tokens.shape[1] / (12 * features))
        longest = int(lengths.max())
        widths = (*(longest * times for times in TIMES_LONGEST), *WIDTHS)
        for width in sorted({max(longest, width) for width in widths}):
            counts = rows.filled(width)[1]
            most = max(counts)
            cost = len(counts) * most * (1 + most / (6 * features))
            if cost < limit and most <= self._window():
                best, limit = width, cost
        return None if best is None else rows.tree(best)

    def _window(self) -> float:
        """Say how far the model's attention reaches."""
        config = text_config(self.model)
        windows = (getattr(config, name, None) for name in WINDOWS)
        return min((w for w in windows if isinstance(w, int) and w > 0), default=float("inf"))


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
    positions = columns[which]
    # Token i looks at j where j stands for i's own row at j's column, before i; and at itself.
    looks = index[rows[which].unsqueeze(2), positions.unsqueeze(1)] == which.unsqueeze(1)
    looks &= (positions.unsqueeze(1) < positions.unsqueeze(2)) & filled.unsqueeze(1)
    looks |= torch.eye(len(slots), dtype=torch.bool, device=like.device)
    mask = torch.zeros(looks.shape, dtype=like.dtype, device=like.device)
    mask = mask.masked_fill_(~looks, torch.finfo(like.dtype).min).unsqueeze(1)
    inputs = {"input_ids": ids[which], "position_ids": positions, "attention_mask": mask}
    return inputs, moved_there


@torch.no_grad()
def _reads_packed_rows(model: torch.nn.Module) -> bool:
    """Say whether the model gives each token of packed rows what it gives it in its own text.

    And whether that can be told: it must give something else without the mask or the positions.
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

    try:
        with torch.autocast(weight.device.type, enabled=False):
            alone = outputs(input_ids=texts.to(weight.device))[counted.flatten().to(weight.device)]
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
