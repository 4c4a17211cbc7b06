"""Learning a latent space from triplets: "which of B and C is more like A?" (lesson 3).

One loop, ``train_embedding``. The three responses of a triplet go through the body in one forward
pass; the loss pulls what was called alike together and pushes the other away.

Left out on purpose: mining hard triplets, and a probability for each answer (a noisy rater's
mistakes average out).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_lessons.formulas.comparison import triplet_loss
from rlhf_lessons.models.response_embedding import ResponseEmbedding
from rlhf_lessons.models.saved_model import try_saving
from rlhf_lessons.training.settings import ABOVE_0, SUPERVISED, check_settings

__all__ = ["EmbeddingSettings", "EmbeddingStep", "train_embedding"]


@dataclass(frozen=True)
class EmbeddingSettings:
    """How to learn a latent space.

    Attributes:
        steps: number of updates.
        batch_size: triplets an update.
        learning_rate: of AdamW at the start; it falls to 0 along a line.
        margin: distance that the farther response must be farther, in the unit of the space.
        max_gradient_norm: the gradient is scaled down to this length where it is longer.
        seed: of the order in which triplets are seen.
    """

    steps: int = 200
    batch_size: int = 32
    learning_rate: float = 1e-3
    margin: float = 1.0
    max_gradient_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        names = ("steps", "batch_size", "learning_rate", "max_gradient_norm", "seed")
        check_settings(self, **{name: SUPERVISED[name] for name in names}, margin=ABOVE_0)


@dataclass(frozen=True)
class EmbeddingStep:
    """What one update of ``train_embedding`` measured, before the weights changed.

    Attributes:
        step: number of this update, from 1.
        total: updates in all.
        loss: mean loss of the batch.
        accuracy: share of the batch's triplets with the nearer response nearer, ties counted half.
    """

    step: int
    total: int
    loss: float
    accuracy: float


def train_embedding(
    embedding: ResponseEmbedding,
    triplets: Sequence[Sequence[str]],
    settings: EmbeddingSettings | None = None,
    *,
    loss: Callable[[Tensor, Tensor, Tensor, float], Tensor] = triplet_loss,
) -> Iterator[EmbeddingStep]:
    """Learn a latent space in which the response called nearer is nearer.

    θ ← θ − lr · ∇ mean_i loss(z(anchor_i), z(nearer_i), z(farther_i), margin)

    Args:
        embedding: the model to train, in place.
        triplets: (prompt, anchor, nearer, farther) records.
        settings: how to train; the defaults of ``EmbeddingSettings`` when left out.
        loss: (anchors (B, D), nearer (B, D), farther (B, D), margin) -> losses (B,).

    Yields:
        An ``EmbeddingStep`` after each update.

    Raises:
        ValueError: no triplets, a record of another form, or a response beyond the context.
        FloatingPointError: loss or gradient is NaN or infinite; the weights are those of the step
            before.
    """
    settings = EmbeddingSettings() if settings is None else settings
    if len(triplets) == 0:
        raise ValueError("train_embedding: triplets must hold at least one, got none")
    for position, triplet in enumerate(triplets):
        if len(triplet) != 4:
            raise ValueError(
                "train_embedding: triplets must hold (prompt, anchor, nearer, farther), got "
                f"{triplet!r} at {position}"
            )
    try_saving("train_embedding", embedding.model, embedding.tokenizer)
    prompts, *texts = zip(*triplets, strict=True)
    tokens, lengths = embedding.rows_of([*prompts] * 3, [text for side in texts for text in side])
    return _steps(embedding, tokens, lengths, settings, loss)


def _steps(
    embedding: ResponseEmbedding,
    tokens: Tensor,
    lengths: Tensor,
    settings: EmbeddingSettings,
    loss: Callable[[Tensor, Tensor, Tensor, float], Tensor],
) -> Iterator[EmbeddingStep]:
    count = len(lengths) // 3
    weights = [weight for weight in embedding.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, fused=True)
    generator = torch.Generator().manual_seed(settings.seed)
    order = torch.empty(0, dtype=torch.long)
    batch_size = min(settings.batch_size, count)

    for step in range(1, settings.steps + 1):
        if len(order) < batch_size:  # every triplet once before any again
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        batch, order = order[:batch_size], order[batch_size:]

        rows = torch.cat([batch, batch + count, batch + 2 * count])
        places = embedding.read_rows(tokens[rows], lengths[rows])
        anchor, nearer, farther = places.chunk(3)
        objective = loss(anchor, nearer, farther, settings.margin).mean()
        optimizer.zero_grad()
        objective.backward()
        norm = torch.nn.utils.clip_grad_norm_(weights, settings.max_gradient_norm)
        if not (math.isfinite(objective.item()) and math.isfinite(norm.item())):
            raise FloatingPointError(
                f"train_embedding: loss and gradient must be finite, got loss {objective.item()} "
                f"and gradient norm {norm.item()} at step {step}; the weights are those of step "
                f"{step - 1}"
            )
        share_left = 1 - (step - 1) / settings.steps
        optimizer.param_groups[0]["lr"] = settings.learning_rate * share_left
        optimizer.step()

        with torch.no_grad():
            gap = (anchor - farther).norm(dim=1) - (anchor - nearer).norm(dim=1)
        yield EmbeddingStep(
            step=step,
            total=settings.steps,
            loss=objective.item(),
            accuracy=float(((gap > 0).double() + 0.5 * (gap == 0).double()).mean()),
        )
