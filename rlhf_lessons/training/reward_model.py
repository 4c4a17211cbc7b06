"""Fitting a reward model to comparisons: maximum likelihood under Bradley-Terry (lesson 3).

One loop, ``train_reward_model``. Chosen and rejected responses go through the body together; the
loss is a formula handed in as an argument. The labels' noise is in the data, so the loop
guards against learning it: the learning rate falls to zero and the record tells the loss on
held-out pairs beside the one on trained pairs.

Left out on purpose: a margin per pair, an auxiliary language-model loss, and training on rankings
(``worlds.ranking_to_pairs`` turns a ranking into pairs).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_lessons.formulas.comparison import bradley_terry_loss
from rlhf_lessons.models.reward_model import RewardModel
from rlhf_lessons.training.schedule import schedule

__all__ = ["RewardSettings", "RewardStep", "train_reward_model"]


@dataclass(frozen=True)
class RewardSettings:
    """How to fit a reward model.

    Attributes:
        steps: number of updates.
        batch_size: pairs an update.
        learning_rate: of AdamW at its highest, after the warm-up; it falls to 0 along a half
            cosine.
        warmup: share of the steps in which the learning rate rises from 0.
        weight_decay: of AdamW, on all weights.
        max_gradient_norm: the gradient is scaled down to this length where it is longer.
        freeze_embeddings: whether the vectors of words and positions stay as the language model
            learned them. With few or noisy pairs they would move by chance, word by word.
        average: how much of the running average of the weights each step keeps, 0 to below 1; the
            average replaces the weights at the end. 0 keeps the last weights.
        evaluate_every: steps between two measurements on the validation pairs; the last step is
            always measured.
        length_groups: forward passes a batch is split into, each over texts of like length: less
            padding is computed, and the result is the same. 1 keeps a GPU busiest.
        truncate: whether to cut responses beyond the context; False refuses them.
        drop_equal: whether to leave out pairs whose two responses are equal, with a warning; False
            refuses them.
        seed: of the order in which pairs are seen.
    """

    steps: int = 300
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    freeze_embeddings: bool = False
    average: float = 0.0
    evaluate_every: int = 50
    length_groups: int = 4
    truncate: bool = False
    drop_equal: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "evaluate_every", "length_groups"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"RewardSettings: {name} must be an int ≥ 1, got {value!r}")
        for name in ("learning_rate", "max_gradient_norm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"RewardSettings: {name} must be above 0, got {value!r}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(
                f"RewardSettings: weight_decay must be 0 or more, got {self.weight_decay!r}"
            )
        for name in ("warmup", "average"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ValueError(f"RewardSettings: {name} must lie in [0, 1), got {value!r}")


@dataclass(frozen=True)
class RewardStep:
    """What one update of ``train_reward_model`` measured, before the weights changed.

    Attributes:
        step: number of this update, from 1.
        total: updates in all.
        loss: mean loss of the batch, in nats; log 2 = 0.693 is a coin.
        accuracy: share of the batch's pairs with the chosen reward above the rejected one, ties
            counted half.
        margin: mean of chosen minus rejected reward.
        gradient_norm: length of the gradient before it was clipped.
        learning_rate: of this update.
        validation_loss: the loss on the validation pairs after the update, None where not measured.
        validation_accuracy: the accuracy there, None where not measured.
    """

    step: int
    total: int
    loss: float
    accuracy: float
    margin: float
    gradient_norm: float
    learning_rate: float
    validation_loss: float | None = None
    validation_accuracy: float | None = None


@dataclass(frozen=True)
class Pairs:
    """Preferences as rows of tokens: rows 0 to N−1 are chosen, N to 2N−1 rejected."""

    tokens: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.lengths) // 2

    def rewards(self, model: RewardModel, pairs: Tensor, groups: int) -> tuple[Tensor, Tensor]:
        """Rewards of the chosen and of the rejected responses, which share the forward pass."""
        rows = torch.cat([pairs, pairs + len(self)])
        rewards = model.read_rows(self.tokens[rows], self.lengths[rows], groups=groups)
        return tuple(rewards.squeeze(-1).chunk(2))


def as_pairs(
    model: RewardModel,
    preferences: Sequence[Sequence[str]],
    what: str,
    truncate: bool,
    drop_equal: bool,
) -> Pairs:
    """Tokenize preferences, and refuse or drop pairs that hold nothing to choose between."""
    where = "train_reward_model"
    if len(preferences) == 0:
        raise ValueError(f"{where}: {what} must hold at least one pair, got none")
    for position, preference in enumerate(preferences):
        if len(preference) != 3:
            raise ValueError(
                f"{where}: {what} must hold (prompt, chosen, rejected), got {preference!r} at "
                f"{position}"
            )
    prompts, chosen, rejected = zip(*preferences, strict=True)
    tokens, lengths = model.rows_of([*prompts, *prompts], [*chosen, *rejected], truncate=truncate)
    # After cutting, two different texts can be the same row.
    n = len(prompts)
    counted = torch.arange(tokens.shape[1], device=lengths.device) < lengths.unsqueeze(1)
    rows = tokens.masked_fill(~counted, -1)
    equal = (rows[:n] == rows[n:]).all(1)
    if equal.any():
        places = equal.nonzero().flatten().tolist()
        cut = sum(chosen[i] != rejected[i] for i in places)
        report = (
            f"{where}: {what} must differ in their two responses, got {len(places)} equal pairs"
            + (f", {cut} of them equal only after cutting to the context" if cut else "")
            + f", at {', '.join(map(str, places[:10]))}{', ...' if len(places) > 10 else ''}"
        )
        if not drop_equal:
            raise ValueError(f"{report}; RewardSettings(drop_equal=True) leaves them out")
        if len(places) == n:
            raise ValueError(f"{report}; no pair is left")
        warnings.warn(f"{report}; they are left out", stacklevel=3)
        kept = (~equal).nonzero().flatten()
        kept = torch.cat([kept, kept + n])
        tokens, lengths = tokens[kept], lengths[kept]
    return Pairs(tokens, lengths)


def accuracy_of(chosen: Tensor, rejected: Tensor) -> float:
    """Share of pairs in the right order, ties counted half."""
    return float(((chosen > rejected).double() + 0.5 * (chosen == rejected).double()).mean())


@torch.no_grad()
def validate(
    model: RewardModel, pairs: Pairs, loss: Callable[[Tensor, Tensor], Tensor]
) -> tuple[float, float]:
    """Mean loss and accuracy on held-out pairs."""
    chosen, rejected = zip(
        *(pairs.rewards(model, part, 1) for part in torch.arange(len(pairs)).split(128)),
        strict=True,
    )
    chosen, rejected = torch.cat(chosen), torch.cat(rejected)
    return float(loss(chosen, rejected).mean()), accuracy_of(chosen, rejected)


def train_reward_model(
    reward_model: RewardModel,
    preferences: Sequence[Sequence[str]],
    settings: RewardSettings | None = None,
    *,
    validation: Sequence[Sequence[str]] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = bradley_terry_loss,
) -> Iterator[RewardStep]:
    """Fit a reward model to comparisons, one update a step.

    θ ← θ − lr · ∇ mean_i loss(r_θ(x_i, chosen_i), r_θ(x_i, rejected_i))

    The model learns in place. Stopping between two steps leaves it usable, and a number that is not
    finite ends the loop before it touches a weight.

    Args:
        reward_model: the model to train.
        preferences: (prompt, chosen, rejected) records.
        settings: how to train; the defaults of ``RewardSettings`` when left out.
        validation: held-out records of the same form; None measures nothing.
        loss: (chosen rewards (B,), rejected rewards (B,)) -> losses (B,).

    Yields:
        A ``RewardStep`` after each update.

    Raises:
        ValueError: no pairs, a record that is no triple, a response beyond the context, or a pair
            of equal responses (see ``truncate`` and ``drop_equal`` of the settings).
        FloatingPointError: loss or gradient is NaN or infinite; the weights are those of the step
            before.
    """
    settings = RewardSettings() if settings is None else settings
    pairs = as_pairs(
        reward_model, preferences, "preferences", settings.truncate, settings.drop_equal
    )
    held_out = None
    if validation is not None:
        held_out = as_pairs(
            reward_model, validation, "validation", settings.truncate, settings.drop_equal
        )
    return _steps(reward_model, pairs, settings, held_out, loss)


def _steps(
    reward_model: RewardModel,
    pairs: Pairs,
    settings: RewardSettings,
    held_out: Pairs | None,
    loss: Callable[[Tensor, Tensor], Tensor],
) -> Iterator[RewardStep]:
    frozen = reward_model.embeddings() if settings.freeze_embeddings else set()
    weights = [w for w in reward_model.parameters() if w.requires_grad and w not in frozen]
    optimizer = torch.optim.AdamW(
        weights, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    detached = [weight.detach() for weight in weights]
    averages = [weight.clone() for weight in detached] if settings.average else []
    generator = torch.Generator().manual_seed(settings.seed)
    order = torch.empty(0, dtype=torch.long)
    batch_size = min(settings.batch_size, len(pairs))

    for step in range(1, settings.steps + 1):
        if len(order) < batch_size:  # every pair once before any pair again
            order = torch.cat([order, torch.randperm(len(pairs), generator=generator)])
        batch, order = order[:batch_size], order[batch_size:]

        chosen, rejected = pairs.rewards(reward_model, batch, settings.length_groups)
        objective = loss(chosen, rejected).mean()
        optimizer.zero_grad()
        objective.backward(inputs=weights)
        norm = torch.nn.utils.clip_grad_norm_(weights, settings.max_gradient_norm)
        if not (math.isfinite(objective.item()) and math.isfinite(norm.item())):
            raise FloatingPointError(
                f"train_reward_model: loss and gradient must be finite, got loss "
                f"{objective.item()} and gradient norm {norm.item()} at step {step}; the weights "
                f"are those of step {step - 1}. Lower the learning rate, or look at the loss"
            )
        rate = settings.learning_rate * schedule(step, settings.steps, settings.warmup)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()

        last = step == settings.steps
        if settings.average:
            # Early on the average forgets faster, so that the first weights do not linger.
            torch._foreach_lerp_(averages, detached, max(1 - settings.average, 1 / step))
            if last:
                torch._foreach_copy_(detached, averages)
        measured = (None, None)
        if held_out is not None and (last or step % settings.evaluate_every == 0):
            measured = validate(reward_model, held_out, loss)
        yield RewardStep(
            step=step,
            total=settings.steps,
            loss=objective.item(),
            accuracy=accuracy_of(chosen.detach(), rejected.detach()),
            margin=float((chosen - rejected).detach().mean()),
            gradient_norm=norm.item(),
            learning_rate=rate,
            validation_loss=measured[0],
            validation_accuracy=measured[1],
        )
