"""Learning from examples: pretraining, supervised fine-tuning and distillation (lesson 2).

Three names for one loop. What differs is what the loss compares the model with:

    pretraining            the next word of any text      examples ("", text)
    supervised fine-tuning the next word of a response    examples (prompt, response)
    distillation           a teacher's probabilities of every next word

Training a student on *texts* that a teacher sampled needs no loop of its own: those are examples.

Left out on purpose: packing several short texts into one row, and several devices: ``scale`` hands
the same examples to TRL for those.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf_lessons import formulas
from rlhf_lessons.models import LanguagePolicy, TokenBatch
from rlhf_lessons.models.saved_model import try_saving
from rlhf_lessons.training.given_responses import checked_list
from rlhf_lessons.training.reference import refuse_frozen
from rlhf_lessons.training.run_checkpoint import RunCheckpoint, name_of
from rlhf_lessons.training.schedule import schedule
from rlhf_lessons.training.settings import SUPERVISED, check_settings
from rlhf_lessons.training.update import gradient_step, precision, with_memory_advice

__all__ = [
    "SupervisedSettings",
    "SupervisedStep",
    "held_out_nll",
    "train_distillation",
    "train_sft",
]

Example = tuple[str, str]
TokenLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class SupervisedSettings:
    """How to learn from examples.

    Attributes:
        steps: Number of batches, each one update of the weights.
        batch_size: Examples in a batch.
        learning_rate: Highest step size of AdamW; it falls to 0 along half a cosine.
        warmup: Share of the steps in which the step size first rises from 0 to the highest.
        weight_decay: How much of each weight matrix AdamW takes away, per step and unit of step
            size.
        max_gradient_norm: Largest norm of the gradient; a longer one is shortened to it.
        evaluate_every: Steps between two measurements of the held-out loss, where there is a
            validation set; the last step is always measured.
        save_every: Steps between two checkpoints, where a folder for them is given; the last step
            is always saved.
        accumulate: Parts that a batch is split into, each with a forward and a backward pass of its
            own; the gradient is that of the whole batch, in less memory.
        bf16: Whether the forward passes run in bfloat16; weights and losses stay float32.
        seed: Seed of the order of the examples.
    """

    steps: int = 1000
    batch_size: int = 32
    learning_rate: float = 2e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    evaluate_every: int = 100
    save_every: int = 100
    accumulate: int = 1
    bf16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self, **SUPERVISED)


@dataclass(frozen=True)
class SupervisedStep:
    """What one batch did.

    Attributes:
        step: Which batch, from 1.
        total: How many batches there will be.
        loss: Mean loss per token of the batch in nats, before the update.
        validation_loss: Mean negative log-likelihood per token of the validation set in nats, after
            the update; None where it was not measured.
        learning_rate: Step size of this update.
        gradient_norm: Norm of the gradient before it was clipped.
        tokens: Tokens learned from so far.
    """

    step: int
    total: int
    loss: float
    validation_loss: float | None
    learning_rate: float
    gradient_norm: float
    tokens: int


def train_sft(
    policy: LanguagePolicy,
    examples: Sequence[Example],
    settings: SupervisedSettings | None = None,
    *,
    validation: Sequence[Example] | None = None,
    loss: TokenLoss = formulas.nll,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Iterator[SupervisedStep]:
    """Fine-tune a policy to give the responses of examples; with empty prompts, pretrain it.

    Minimises −(1/N) Σ log π(y_t | x, y_{<t}) over the N tokens of the responses of a batch, the end
    token included and the prompt not, with AdamW. The weights of ``policy`` change in place with
    each record that is taken; stopping between two records keeps the model as it is.

    Args:
        policy: The policy to train.
        examples: Pairs (prompt, response). They are gone through in a new order each time.
        settings: How to train; None takes the defaults.
        validation: Examples to measure the held-out loss on, None for none.
        loss: What to minimise: ``loss(logits (B, T, V), tokens (B, T), mask (B, T)) -> (B, T-1)``
            in nats, as ``formulas.nll``: entry t belongs to token t + 1. The response tokens of all
            texts stand in one row, B = 1, behind a token that the mask does not count.
        checkpoint: A folder to save the run to every ``save_every`` steps. If it holds the
            checkpoint of an interrupted run, the run goes on from there and gives the numbers that
            it would have given without interruption, on a CPU to the last bit. Call it with the
            arguments of the first call, the policy with the weights it had then.

    Yields:
        One record per step.

    Raises:
        TypeError: If examples are not pairs of strings.
        ValueError: If there are no examples, one does not fit the context, the policy is frozen or
            transformers would not save it, the loss has the wrong shape, or the checkpoint is
            damaged or that of another run.
        OSError: If the checkpoint cannot be written; what was there before is unchanged.
        FloatingPointError: If the loss or its gradient is not finite; the weights are then those
            of the step before.
    """

    def token_losses(batch: TokenBatch) -> Tensor:
        return loss(*policy.flat_logits_of(batch))

    same = {"loss": name_of(loss)}
    return _train(
        "train_sft", policy, examples, settings, validation, token_losses, checkpoint, same
    )


def train_distillation(
    policy: LanguagePolicy,
    teacher: LanguagePolicy,
    examples: Sequence[Example],
    settings: SupervisedSettings | None = None,
    *,
    validation: Sequence[Example] | None = None,
    loss: TokenLoss = formulas.distillation_loss,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Iterator[SupervisedStep]:
    """Train a student on the probabilities that a teacher gives to every next token.

    Minimises −(1/N) Σ_t Σ_v π_teacher(v | x, y_{<t}) · log π(v | x, y_{<t}) over the N tokens of
    the responses of a batch: each position tells the student how likely *every* token is, where the
    text alone tells it one.

    Args:
        policy: The student; its weights change in place.
        teacher: The teacher, with the same vocabulary; its weights stay as they are.
        examples: Pairs (prompt, response): texts along which the two are compared.
        settings: How to train; None takes the defaults.
        validation: Examples to measure the held-out negative log-likelihood on, None for none.
        loss: What to minimise: ``loss(student_logits (B, T, V), teacher_logits (B, T, V), mask (B,
            T)) -> (B, T)`` in nats, as ``formulas.distillation_loss``; B = 1 as for ``train_sft``.
        checkpoint: A folder to save the run to, as for ``train_sft``.

    Yields:
        One record per step.

    Raises:
        TypeError: If examples are not pairs of strings.
        ValueError: If student and teacher have different vocabularies or are the same model, or for
            one of the reasons of ``train_sft``.
        OSError: If the checkpoint cannot be written; what was there before is unchanged.
        FloatingPointError: If the loss or its gradient is not finite; the weights are then those
            of the step before.
    """
    if teacher.model is policy.model:
        raise ValueError("train_distillation: teacher must be another model than policy")
    if teacher.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise ValueError(
            f"train_distillation: teacher must have the vocabulary of policy, got "
            f"{len(teacher.tokenizer)} tokens and {len(policy.tokenizer)}, or other words"
        )

    def token_losses(batch: TokenBatch) -> Tensor:
        with torch.no_grad():
            teacher_logits = teacher.flat_logits_of(batch)[0]
        logits, _, mask = policy.flat_logits_of(batch)
        return loss(logits[:, :-1], teacher_logits[:, :-1], mask[:, 1:])

    same = {"loss": name_of(loss), "teacher": teacher.parameters()}
    return _train(
        "train_distillation", policy, examples, settings, validation, token_losses, checkpoint, same
    )


def held_out_nll(
    policy: LanguagePolicy, examples: Sequence[Example], batch_size: int = 128
) -> float:
    """Measure the mean negative log-likelihood per token of the responses of examples.

    −(1/N) Σ log π(y_t | x, y_{<t}) over the N tokens of all responses, end tokens included.

    Args:
        policy: The policy to measure.
        examples: Pairs (prompt, response) that it was not trained on.
        batch_size: Examples in a forward pass; the result does not depend on it.

    Returns:
        Nats per token.

    Raises:
        TypeError: If examples are not pairs of strings.
        ValueError: If there are no examples or one does not fit the context.
    """
    return _mean_nll(
        policy, encoded_examples("held_out_nll", policy, examples, "examples"), batch_size
    )


@torch.no_grad()
def _mean_nll(policy: LanguagePolicy, texts: TokenBatch, batch_size: int = 128) -> float:
    total = torch.zeros((), dtype=torch.float64, device=policy.device)
    for rows in text_lengths(texts).argsort(stable=True).split(batch_size):
        total -= policy.log_probs_of(texts.take(rows)).sum(dtype=torch.float64)
    return float(total / texts.response_mask.sum())


# --- the loop -------------------------------------------------------------------------------------


def _train(
    where: str,
    policy: LanguagePolicy,
    examples: Sequence[Example],
    settings: SupervisedSettings | None,
    validation: Sequence[Example] | None,
    token_losses: Callable[[TokenBatch], Tensor],
    checkpoint: str | os.PathLike[str] | None,
    same: dict[str, Any],
) -> Iterator[SupervisedStep]:
    """Check everything now, before the first step is asked for."""
    settings = SupervisedSettings() if settings is None else settings
    texts = encoded_examples(where, policy, examples, "examples")
    held_out = None
    if validation is not None:
        held_out = encoded_examples(where, policy, validation, "validation")
    named = dict(policy.model.named_parameters())
    weights = {name: weight for name, weight in named.items() if weight.requires_grad}
    refuse_frozen(where, policy)
    try_saving(where, policy.model, policy.tokenizer)
    optimizer = torch.optim.AdamW(
        [
            {"params": [w for w in weights.values() if w.ndim > 1]},
            {"params": [w for w in weights.values() if w.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        betas=(0.9, 0.95),
        fused=True,
    )
    run = RunCheckpoint(
        where,
        checkpoint,
        settings,
        weights,
        optimizer,
        every=settings.save_every,
        last=settings.steps,
        generators={},
        same={
            **same,
            "examples": (texts.prompt_tokens, texts.response_tokens),
            "policy": named.values(),
        },
    )
    loop = _loop(where, policy, texts, settings, held_out, token_losses, optimizer, run)
    return with_memory_advice(where, loop)


def _loop(
    where: str,
    policy: LanguagePolicy,
    texts: TokenBatch,
    settings: SupervisedSettings,
    held_out: TokenBatch | None,
    token_losses: Callable[[TokenBatch], Tensor],
    optimizer: torch.optim.Optimizer,
    run: RunCheckpoint,
) -> Iterator[SupervisedStep]:
    s = settings
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    counts = texts.response_mask.sum(1)
    done, _, numbers = run.take_up()
    optimizer.zero_grad()  # what the caller may have left
    tokens = numbers.get("tokens", 0)
    batches = dealt_batches(text_lengths(texts).tolist(), s.batch_size, s.seed)
    for _ in range(done):
        next(batches)
    for step in range(done + 1, s.steps + 1):
        rows = next(batches)
        count = int(counts[rows].sum())
        total = torch.zeros((), dtype=torch.float64, device=policy.device)
        for part in rows.tensor_split(min(s.accumulate, len(rows))):
            batch = texts.take(part)
            with precision(policy.device, s.bf16):
                losses = token_losses(batch)
            shape = (1, int(counts[part].sum()))
            if losses.shape != shape:
                raise ValueError(
                    f"{where}: loss must give one value for each of the (B, T) = {shape} response "
                    f"tokens, got {tuple(losses.shape)}"
                )
            # The mean over the tokens of the whole batch, whichever part they are in.
            loss = losses.sum() / count
            loss.backward()
            total += loss.detach()
        learning_rate = s.learning_rate * schedule(step, s.steps, s.warmup)
        mean_loss, norm = gradient_step(
            where,
            f"step {step} of {s.steps}",
            total,
            optimizer,
            weights,
            s.max_gradient_norm,
            learning_rate,
        )
        tokens += count
        run.save(step, numbers={"tokens": tokens})

        validation_loss = None
        if held_out is not None and (step % s.evaluate_every == 0 or step == s.steps):
            with precision(policy.device, s.bf16):
                validation_loss = _mean_nll(policy, held_out)
        yield SupervisedStep(
            step=step,
            total=s.steps,
            loss=mean_loss,
            validation_loss=validation_loss,
            learning_rate=learning_rate,
            gradient_norm=norm,
            tokens=tokens,
        )


def dealt_batches(lengths: Sequence[int], batch_size: int, seed: int) -> Iterator[Tensor]:
    """Deal batches of examples of similar length, for ever, in a new order each time through.

    Sorting by length within a pool of 16 batches leaves little padding and much chance.
    """
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(lengths), generator=generator).tolist()
        for first in range(0, len(order), 16 * batch_size):
            pool = sorted(order[first : first + 16 * batch_size], key=lengths.__getitem__)
            dealt = [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
            for i in torch.randperm(len(dealt), generator=generator).tolist():
                yield torch.tensor(dealt[i])


def text_lengths(texts: TokenBatch) -> Tensor:
    """Count the tokens of each text, (N,), prompt included."""
    return texts.prompt_mask.sum(1) + texts.response_mask.sum(1)


def encoded_examples(
    where: str, policy: LanguagePolicy, examples: Sequence[Example], name: str
) -> TokenBatch:
    """Tokenize examples once, and refuse what cannot be learned from."""
    checked_list(where, name, examples, "pairs", "pair")
    for row, example in enumerate(examples):
        pair = isinstance(example, (tuple, list)) and len(example) == 2
        if not pair or not all(isinstance(text, str) for text in example):
            raise TypeError(
                f"{where}: {name} must be pairs (prompt, response) of str, got {example!r:.60} at "
                f"{row}"
            )
    try:
        # Each update looks at its own rows, which on the CPU is no wait for a GPU.
        return policy.encode(*zip(*examples, strict=True)).to("cpu")
    except ValueError as error:
        raise ValueError(f"{where}: {name} cannot be read by the policy: {error}") from error
