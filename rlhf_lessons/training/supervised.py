"""Learning from examples: pretraining, supervised fine-tuning and distillation (lesson 2).

Three names for one loop. What differs is what the loss compares the model with:

    pretraining            the next word of any text      examples ("", text)
    supervised fine-tuning the next word of a response    examples (prompt, response)
    distillation           a teacher's probabilities of every next word

Training a student on *texts* that a teacher sampled needs no loop of its own: those are examples.

Left out on purpose: mixed precision, several devices, gradient accumulation and resuming from disk.
Lesson 8 hands those to TRL.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_lessons import formulas
from rlhf_lessons.models import LanguagePolicy, TokenBatch
from rlhf_lessons.training.schedule import schedule

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
        seed: Seed of the order of the examples.
    """

    steps: int = 1000
    batch_size: int = 32
    learning_rate: float = 2e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    evaluate_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        lowest = {"steps": 1, "batch_size": 1, "evaluate_every": 1, "seed": 0}
        for name, least in lowest.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(
                    f"SupervisedSettings: {name} must be a whole number ≥ {least}, got {value!r}"
                )
        if not 0 <= self.warmup < 1:
            raise ValueError(
                f"SupervisedSettings: warmup must be a share in [0, 1), got {self.warmup!r}"
            )
        for name in ("learning_rate", "max_gradient_norm", "weight_decay"):
            value = getattr(self, name)
            right = isinstance(value, (int, float)) and math.isfinite(value)
            if not right or value < 0 or (value == 0 and name != "weight_decay"):
                bound = "≥ 0" if name == "weight_decay" else "> 0"
                raise ValueError(
                    f"SupervisedSettings: {name} must be a finite number {bound}, got {value!r}"
                )


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
            in nats, as ``formulas.nll``: entry t belongs to token t + 1. Column 0 holds the last
            token of each prompt, and the mask counts the tokens of the response.

    Yields:
        One record per step.

    Raises:
        TypeError: If examples are not pairs of strings.
        ValueError: If there are no examples, one does not fit the context, the policy is frozen, or
            the loss has the wrong shape.
        FloatingPointError: If the loss or its gradient is not finite; the weights are then those
            of the step before.
    """

    def token_losses(batch: TokenBatch) -> Tensor:
        # The formula shifts: position t predicts token t + 1. So the last token of the prompt goes
        # in front, and a position that predicts nothing goes to the end.
        logits = policy.logits_of(batch)
        tokens = torch.cat([batch.prompt_tokens[:, -1:], batch.response_tokens], dim=1)
        mask = torch.nn.functional.pad(batch.response_mask, (1, 0), value=False)
        return loss(torch.nn.functional.pad(logits, (0, 0, 0, 1)), tokens, mask)

    return _train("train_sft", policy, examples, settings, validation, token_losses)


def train_distillation(
    policy: LanguagePolicy,
    teacher: LanguagePolicy,
    examples: Sequence[Example],
    settings: SupervisedSettings | None = None,
    *,
    validation: Sequence[Example] | None = None,
    loss: TokenLoss = formulas.distillation_loss,
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
            T)) -> (B, T)`` in nats, as ``formulas.distillation_loss``.

    Yields:
        One record per step.

    Raises:
        TypeError: If examples are not pairs of strings.
        ValueError: If student and teacher have different vocabularies or are the same model, or for
            one of the reasons of ``train_sft``.
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
            teacher_logits = teacher.logits_of(batch)
        return loss(policy.logits_of(batch), teacher_logits, batch.response_mask)

    return _train("train_distillation", policy, examples, settings, validation, token_losses)


@torch.no_grad()
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
    lengths = _lengths("held_out_nll", policy, examples)
    order = sorted(range(len(examples)), key=lengths.__getitem__)
    total, count = 0.0, 0
    for first in range(0, len(order), batch_size):
        batch = _encode(policy, [examples[i] for i in order[first : first + batch_size]])
        total -= float(policy.log_probs_of(batch).sum(dtype=torch.float64))
        count += int(batch.response_mask.sum())
    return total / count


# --- the loop -------------------------------------------------------------------------------------


def _train(
    where: str,
    policy: LanguagePolicy,
    examples: Sequence[Example],
    settings: SupervisedSettings | None,
    validation: Sequence[Example] | None,
    token_losses: Callable[[TokenBatch], Tensor],
) -> Iterator[SupervisedStep]:
    """Check everything now, before the first step is asked for."""
    settings = SupervisedSettings() if settings is None else settings
    lengths = _lengths(where, policy, examples)
    if validation is not None:
        _lengths(where, policy, validation, "validation")
    if not any(weight.requires_grad for weight in policy.parameters()):
        raise ValueError(
            f"{where}: policy must have weights to train, got a frozen one; copy() makes a "
            f"reference, which is never trained"
        )
    return _loop(where, policy, examples, lengths, settings, validation, token_losses)


def _loop(
    where: str,
    policy: LanguagePolicy,
    examples: Sequence[Example],
    lengths: Sequence[int],
    settings: SupervisedSettings,
    validation: Sequence[Example] | None,
    token_losses: Callable[[TokenBatch], Tensor],
) -> Iterator[SupervisedStep]:
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [w for w in weights if w.ndim > 1]},
            {"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        betas=(0.9, 0.95),
    )
    batches = _batches(lengths, settings.batch_size, settings.seed)
    tokens = 0
    for step in range(1, settings.steps + 1):
        batch = _encode(policy, [examples[i] for i in next(batches)])
        losses = token_losses(batch)
        if losses.shape != batch.response_mask.shape:
            raise ValueError(
                f"{where}: loss must give one value for each of the (B, T) = "
                f"{tuple(batch.response_mask.shape)} response tokens, got {tuple(losses.shape)}"
            )
        loss = formulas.masked_mean(losses, batch.response_mask)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(weights, settings.max_gradient_norm)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            optimizer.zero_grad()
            raise FloatingPointError(
                f"{where}: loss and gradient must be finite, got a loss of {loss.item():g} and a "
                f"gradient norm of {norm.item():g} at step {step} of {settings.steps}; the weights "
                f"are those of the step before. A lower learning_rate often helps"
            )
        learning_rate = settings.learning_rate * schedule(step, settings.steps, settings.warmup)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        optimizer.zero_grad()
        tokens += int(batch.response_mask.sum())

        measured = step % settings.evaluate_every == 0 or step == settings.steps
        yield SupervisedStep(
            step=step,
            total=settings.steps,
            loss=loss.item(),
            validation_loss=held_out_nll(policy, validation) if validation and measured else None,
            learning_rate=learning_rate,
            gradient_norm=norm.item(),
            tokens=tokens,
        )


def _batches(lengths: Sequence[int], batch_size: int, seed: int) -> Iterator[list[int]]:
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
                yield dealt[i]


def _encode(policy: LanguagePolicy, examples: Sequence[Example]) -> TokenBatch:
    return policy.encode([prompt for prompt, _ in examples], [answer for _, answer in examples])


def _lengths(
    where: str, policy: LanguagePolicy, examples: Sequence[Example], name: str = "examples"
) -> list[int]:
    """Count the tokens of each example, and refuse what cannot be learned from."""
    if isinstance(examples, str) or not hasattr(examples, "__getitem__"):
        raise TypeError(f"{where}: {name} must be a list of pairs, got {type(examples).__name__}")
    if len(examples) == 0:
        raise ValueError(f"{where}: {name} must hold at least one pair, got none")
    for row, example in enumerate(examples):
        pair = isinstance(example, (tuple, list)) and len(example) == 2
        if not pair or not all(isinstance(text, str) for text in example):
            raise TypeError(
                f"{where}: {name} must be pairs (prompt, response) of str, got {example!r:.60} at "
                f"{row}"
            )
    lengths: list[int] = []
    for first in range(0, len(examples), 4096):
        part = examples[first : first + 4096]
        prompts = policy.tokenizer([prompt for prompt, _ in part], verbose=False)["input_ids"]
        answers = policy.tokenizer(
            [answer for _, answer in part], add_special_tokens=False, verbose=False
        )["input_ids"]
        # An empty prompt becomes a start token, and the end token follows the response.
        lengths += [max(len(p), 1) + len(a) + 1 for p, a in zip(prompts, answers, strict=True)]
    limit = policy.context_length
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    if limit is not None and lengths[longest] > limit:
        raise ValueError(
            f"{where}: each of the {name} must fit into the context of {limit} tokens, got "
            f"{lengths[longest]} at {longest}"
        )
    return lengths
