"""Fitting a reward model to comparisons: maximum likelihood under Bradley-Terry (lesson 3).

One loop, ``train_reward_model``. Chosen and rejected responses go through the body together; the
loss is a formula handed in as an argument. The labels' noise is in the data, so the loop
guards against learning it: the learning rate falls to zero and the record tells the loss on
held-out pairs beside the one on trained pairs.

Left out on purpose: a margin per pair, an auxiliary language-model loss, training on rankings
(``worlds.ranking_to_pairs`` turns a ranking into pairs), and several devices: ``scale`` hands the
same pairs to TRL for those.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_lessons.formulas.comparison import bradley_terry_loss
from rlhf_lessons.models.reward_model import RewardModel
from rlhf_lessons.models.saved_model import try_saving
from rlhf_lessons.training.run_checkpoint import RunCheckpoint, name_of
from rlhf_lessons.training.schedule import schedule
from rlhf_lessons.training.settings import SHARE, SUPERVISED, SWITCH, check_settings, whole
from rlhf_lessons.training.update import gradient_step, precision, with_memory_advice

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
        save_every: steps between two checkpoints, where a folder for them is given; the last step
            is always saved.
        accumulate: parts that a batch is split into, each with a forward and a backward pass of its
            own; the gradient is that of the whole batch, in less memory.
        bf16: whether the forward passes run in bfloat16; weights and losses stay float32.
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
    save_every: int = 50
    accumulate: int = 1
    bf16: bool = False
    length_groups: int = 4
    truncate: bool = False
    drop_equal: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(
            self,
            **SUPERVISED,
            freeze_embeddings=SWITCH,
            average=SHARE,
            length_groups=whole(1),
            truncate=SWITCH,
            drop_equal=SWITCH,
        )


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

    def rewards(
        self, model: RewardModel, pairs: Tensor, groups: int, bf16: bool
    ) -> tuple[Tensor, Tensor]:
        """Rewards of the chosen and of the rejected responses, which share the forward pass."""
        # Side by side, so that what the two begin with is read once.
        rows = torch.stack([pairs, pairs + len(self)], dim=1).flatten()
        with precision(model.device, bf16):
            rewards = model.read_rows(self.tokens[rows], self.lengths[rows], groups=groups)
        return rewards.view(-1, 2).unbind(1)


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


def accuracy_of(chosen: Tensor, rejected: Tensor, rounding: Tensor | float = 0.0) -> Tensor:
    """() share of pairs in the right order, ties counted half.

    Args:
        chosen: (B,) rewards of the chosen responses.
        rejected: (B,) those of the rejected ones.
        rounding: (B,) or one number: two rewards no further apart differ by rounding alone, a tie.
    """
    margin = chosen - rejected
    return torch.where(margin.abs() <= rounding, 0.5, (margin > 0).double()).mean()


@torch.no_grad()
def validate(
    model: RewardModel, pairs: Pairs, bf16: bool, loss: Callable[[Tensor, Tensor], Tensor]
) -> tuple[float, float]:
    """Mean loss and accuracy on held-out pairs."""
    chosen, rejected = zip(
        *(pairs.rewards(model, part, 1, bf16) for part in torch.arange(len(pairs)).split(128)),
        strict=True,
    )
    chosen, rejected = torch.cat(chosen), torch.cat(rejected)
    return float(loss(chosen, rejected).mean()), float(accuracy_of(chosen, rejected))


def train_reward_model(
    reward_model: RewardModel,
    preferences: Sequence[Sequence[str]],
    settings: RewardSettings | None = None,
    *,
    validation: Sequence[Sequence[str]] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = bradley_terry_loss,
    checkpoint: str | os.PathLike[str] | None = None,
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
        checkpoint: a folder to save the run to every ``save_every`` steps. If it holds the
            checkpoint of an interrupted run, the run goes on from there and gives the numbers that
            it would have given without interruption, on a CPU to the last bit. Call it with the
            arguments of the first call, the model with the weights it had then.

    Yields:
        A ``RewardStep`` after each update.

    Raises:
        ValueError: no pairs, a record that is no triple, a response beyond the context, a pair of
            equal responses (see ``truncate`` and ``drop_equal`` of the settings), a loss of the
            wrong shape, or a damaged checkpoint or that of another run.
        OSError: the checkpoint cannot be written; what was there before is unchanged.
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
    try_saving("train_reward_model", reward_model.model, reward_model.tokenizer)
    frozen = reward_model.embeddings() if settings.freeze_embeddings else set()
    weights = {
        name: weight
        for name, weight in reward_model.model.named_parameters()
        if weight.requires_grad and weight not in frozen
    }
    optimizer = torch.optim.AdamW(
        weights.values(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    generator = torch.Generator().manual_seed(settings.seed)
    run = RunCheckpoint(
        "train_reward_model",
        checkpoint,
        settings,
        weights,
        optimizer,
        every=settings.save_every,
        last=settings.steps,
        generators={"order": generator},
        same={
            "loss": name_of(loss),
            "pairs": (pairs.tokens, pairs.lengths),
            "reward model": reward_model.parameters(),
        },
    )
    loop = _steps(reward_model, weights, pairs, settings, held_out, loss, optimizer, generator, run)
    return with_memory_advice("train_reward_model", loop)


def _steps(
    reward_model: RewardModel,
    named: dict[str, Tensor],
    pairs: Pairs,
    settings: RewardSettings,
    held_out: Pairs | None,
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    run: RunCheckpoint,
) -> Iterator[RewardStep]:
    s, weights = settings, list(named.values())
    detached = [weight.detach() for weight in weights]
    done, saved, _ = run.take_up()
    optimizer.zero_grad()  # what the caller may have left
    order = saved.get("order", torch.empty(0, dtype=torch.long))
    averages = {}
    if s.average:
        averages = {
            name: saved[f"average.{name}"].to(weight.device) if done else weight.detach().clone()
            for name, weight in named.items()
        }
    batch_size = min(s.batch_size, len(pairs))

    for step in range(done + 1, s.steps + 1):
        if len(order) < batch_size:  # every pair once before any pair again
            order = torch.cat([order, torch.randperm(len(pairs), generator=generator)])
        batch, order = order[:batch_size], order[batch_size:]

        parts = []
        for part in batch.tensor_split(min(s.accumulate, batch_size)):
            chosen, rejected = pairs.rewards(reward_model, part, s.length_groups, s.bf16)
            losses = loss(chosen, rejected)
            if losses.shape != chosen.shape:
                raise ValueError(
                    f"train_reward_model: loss must give one value for each of the (B,) = "
                    f"{tuple(chosen.shape)} pairs, got {tuple(losses.shape)}"
                )
            (losses.sum() / batch_size).backward(inputs=weights)
            parts.append(torch.stack([losses, chosen, rejected]).detach())
        losses, chosen, rejected = torch.cat(parts, dim=1).double()
        rate = s.learning_rate * schedule(step, s.steps, s.warmup)
        mean_loss, norm, accuracy, margin = gradient_step(
            "train_reward_model",
            f"step {step} of {s.steps}",
            losses.mean(),
            optimizer,
            weights,
            s.max_gradient_norm,
            rate,
            accuracy_of(chosen, rejected),
            (chosen - rejected).mean(),
        )

        last = step == s.steps
        if s.average:
            # Early on the average forgets faster, so that the first weights do not linger.
            torch._foreach_lerp_(list(averages.values()), detached, max(1 - s.average, 1 / step))
            if last:
                torch._foreach_copy_(detached, list(averages.values()))
        run.save(step, {"order": order, **{f"average.{n}": w for n, w in averages.items()}})
        validation = (None, None)
        if held_out is not None and (last or step % s.evaluate_every == 0):
            validation = validate(reward_model, held_out, s.bf16, loss)
        yield RewardStep(
            step=step,
            total=s.steps,
            loss=mean_loss,
            accuracy=accuracy,
            margin=margin,
            gradient_norm=norm,
            learning_rate=rate,
            validation_loss=validation[0],
            validation_accuracy=validation[1],
        )
