"""Thumbs straight into the policy: KTO, from single responses called good or bad (lesson 9).

    1  give each prompt a response that was written for another one: a mismatched pair
       log π_ref of every response and of every mismatched pair, once: the reference never changes
    2  repeat: take a batch of thumbs,
               z = the reference point, from the mismatched pairs of its prompts, without gradient
               loss(log π(y), log π_ref(y), thumb, z, β, weights), one update

Loss and reference point are formulas handed in as arguments; any functions of the same
log-probabilities drop in, for instance a reference point that stays at 0::

    def at_zero(policy_log_probs, reference_log_probs):
        return policy_log_probs.new_zeros(())

Left out on purpose: choosing λ_D and λ_U from the number of thumbs, which is one division, and
several devices.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf_lessons import formulas
from rlhf_lessons.models import LanguagePolicy, TokenBatch
from rlhf_lessons.models.saved_model import try_saving
from rlhf_lessons.models.token_batch import moved
from rlhf_lessons.training.given_responses import (
    as_tokens,
    check_reference_log_probs,
    checked_list,
    dealt_rows,
    summed_log_probs,
)
from rlhf_lessons.training.reference import refuse_frozen, refuse_other_tokens
from rlhf_lessons.training.run_checkpoint import RunCheckpoint, name_of
from rlhf_lessons.training.schedule import schedule
from rlhf_lessons.training.settings import ABOVE_0, SUPERVISED, check_settings
from rlhf_lessons.training.update import gradient_step, with_memory_advice

__all__ = ["KTOSettings", "KTOStep", "thumb_log_probs", "train_kto"]

ThumbLoss = Callable[[Tensor, Tensor, Tensor, Tensor, float, float, float], Tensor]
ReferencePoint = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class KTOSettings:
    """How to train on thumbs.

    Attributes:
        steps: number of updates.
        batch_size: thumbs an update.
        beta: β above 0, per nat: how soon the loss levels off on both sides of z; large stays near
            the reference.
        desirable_weight: λ_D above 0, the weight of good responses.
        undesirable_weight: λ_U above 0, the weight of bad ones. Where one kind is rarer, raise its
            weight until λ_D · (number of good ones) and λ_U · (number of bad ones) are about equal.
        learning_rate: of AdamW at its highest, after the warm-up; it falls to 0 along a half
            cosine.
        warmup: share of the steps in which the learning rate rises from 0.
        weight_decay: of AdamW, on all weights.
        max_gradient_norm: the gradient is scaled down to this length where it is longer.
        evaluate_every: steps between two measurements on the validation thumbs; the last step is
            always measured.
        save_every: steps between two checkpoints, where a folder for them is given; the last step
            is always saved.
        accumulate: parts that a batch is split into, each with a forward and a backward pass of its
            own; the gradient is that of the whole batch, in less memory.
        bf16: whether the forward passes, those of the reference too, run in bfloat16; weights and
            losses stay float32.
        seed: of the order in which thumbs are seen.
    """

    steps: int = 200
    batch_size: int = 32
    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    learning_rate: float = 3e-4
    warmup: float = 0.05
    weight_decay: float = 0.0
    max_gradient_norm: float = 1.0
    evaluate_every: int = 50
    save_every: int = 50
    accumulate: int = 1
    bf16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(
            self,
            **SUPERVISED,
            beta=ABOVE_0,
            desirable_weight=ABOVE_0,
            undesirable_weight=ABOVE_0,
        )


@dataclass(frozen=True)
class KTOStep:
    """What one update of ``train_kto`` measured on its batch, before the weights changed.

    Attributes:
        step: number of this update, from 1.
        total: updates in all.
        loss: mean loss of the batch; 1/2 where the policy is the reference and both weights are 1.
        reference_point: z in nats, from the mismatched pairs of the batch.
        desirable_reward: mean implicit reward β · (log π − log π_ref) of the good responses; None
            where the batch has none.
        undesirable_reward: the same of the bad ones.
        kl: mean of log π_ref − log π over all responses of the batch, in nats per response. Where
            they were sampled from the reference it estimates KL(π_ref ‖ π) without bias.
        gradient_norm: length of the gradient before it was clipped.
        learning_rate: of this update.
        validation_loss: mean loss on the validation thumbs after the update, None where not
            measured.
    """

    step: int
    total: int
    loss: float
    reference_point: float
    desirable_reward: float | None
    undesirable_reward: float | None
    kl: float
    gradient_norm: float
    learning_rate: float
    validation_loss: float | None = None


def train_kto(
    policy: LanguagePolicy,
    thumbs: Sequence[Sequence[Any]],
    settings: KTOSettings | None = None,
    *,
    reference: LanguagePolicy | None = None,
    reference_log_probs: tuple[Tensor, Tensor] | None = None,
    validation: Sequence[Sequence[Any]] | None = None,
    loss: ThumbLoss = formulas.kto_loss,
    reference_point: ReferencePoint = formulas.kto_reference_point,
    max_new_tokens: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Iterator[KTOStep]:
    """Fine-tune a policy on single responses that somebody called good or bad.

    θ ← θ − lr · ∇ mean_i loss(log π_θ(y_i), log π_ref(y_i), up_i, z, β, λ_D, λ_U)

    Log-probabilities are summed over the response with its end token, the prompt left out. The
    reference point z comes from mismatched pairs: each prompt of the batch with a response to
    another prompt, the same one each time, that lies half of ``thumbs`` away. The policy learns in
    place; stopping between two steps leaves it usable, and a number that is not finite ends the
    loop before it touches a weight.

    Args:
        policy: the policy to train, any causal language model.
        thumbs: (prompt, response, up) records, up True or 1 for a thumb up, False or 0 for one
            down; of each kind at least one.
        settings: how to train; the defaults of ``KTOSettings`` when left out.
        reference: π_ref, with the tokenizer of the policy; the policy as it is now when left out.
        reference_log_probs: what ``thumb_log_probs`` gives for the reference and these thumbs, (N,)
            each in nats, so that several runs on them read it once; None reads it here.
        validation: held-out records of the same form; None measures nothing.
        loss: (log π, log π_ref, thumbs up, z, β, λ_D, λ_U) -> losses, the first three of shape
            (B,), as ``formulas.kto_loss``.
        reference_point: (log π, log π_ref) of the mismatched pairs, (B,) each -> z, (), as
            ``formulas.kto_reference_point``. It is called without gradient.
        max_new_tokens: where the sampling of the responses stopped, their end tokens counted. What
            is longer was cut there, and is read without the end token that it never had; None takes
            every response to have ended.
        checkpoint: a folder to save the run to every ``save_every`` steps. If it holds the
            checkpoint of an interrupted run, the run goes on from there and gives the numbers that
            it would have given without interruption, on a CPU to the last bit. Call it with the
            arguments of the first call: the policy with its first weights, or give the
            ``reference``.

    Yields:
        A ``KTOStep`` after each update.

    Raises:
        TypeError: a record is no (text, text, thumb).
        ValueError: no thumbs, or of one kind alone, an empty response, a text that does not fit the
            context, a reference with other tokens, a frozen policy or one that transformers would
            not save, a loss or reference point of the wrong shape, ``max_new_tokens`` below 1, or a
            damaged checkpoint or that of another run.
        OSError: the checkpoint cannot be written; what was there before is unchanged.
        FloatingPointError: loss or gradient is NaN or infinite; the weights are those of the step
            before.

    Source:
        Ethayarajh et al. 2024, "KTO: Model Alignment as Prospect Theoretic Optimization", section
        4.1.
    """
    settings = KTOSettings() if settings is None else settings
    refuse_frozen("train_kto", policy)
    try_saving("train_kto", policy.model, policy.tokenizer)
    if reference is not None:
        refuse_other_tokens("train_kto", policy, reference)
    trained = _Thumbs.encode("train_kto", "thumbs", policy, thumbs, max_new_tokens)
    check_reference_log_probs(
        "train_kto",
        reference_log_probs,
        len(trained),
        "log π_ref of the responses and of the mismatched pairs",
    )
    held_out = None
    if validation is not None:
        held_out = _Thumbs.encode("train_kto", "validation", policy, validation, max_new_tokens)
    reference = reference or policy
    named = dict(policy.model.named_parameters())
    weights = {name: weight for name, weight in named.items() if weight.requires_grad}
    optimizer = torch.optim.AdamW(
        list(weights.values()),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    generator = torch.Generator().manual_seed(settings.seed)
    run = RunCheckpoint(
        "train_kto",
        checkpoint,
        settings,
        weights,
        optimizer,
        every=settings.save_every,
        last=settings.steps,
        generators={"order": generator},
        same={
            "loss": name_of(loss),
            "reference point": name_of(reference_point),
            "thumbs": (trained.tokens.prompt_tokens, trained.tokens.response_tokens, trained.up),
            "reference": reference.parameters(),
            "frozen weights": [w for w in named.values() if not w.requires_grad],
        },
    )
    loop = _loop(
        policy, trained, held_out, settings, reference, reference_log_probs, loss, reference_point,
        optimizer, generator, run,
    )  # fmt: skip
    return with_memory_advice("train_kto", loop)


def thumb_log_probs(
    policy: LanguagePolicy,
    thumbs: Sequence[Sequence[Any]],
    *,
    max_new_tokens: int | None = None,
    bf16: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute the log-probabilities of thumbs once, for several runs of ``train_kto`` on them.

    Args:
        policy: what reads them, in general the reference.
        thumbs: as for ``train_kto``.
        max_new_tokens: as for ``train_kto``.
        bf16: whether the forward passes run in bfloat16.

    Returns:
        log π of the responses and of the mismatched pairs, (N,) each in nats, in the order of the
        thumbs.

    Raises:
        TypeError: a record is no (text, text, thumb).
        ValueError: no thumbs, or of one kind alone, an empty response, or a text that does not fit
            the context.
    """
    encoded = _Thumbs.encode("thumb_log_probs", "thumbs", policy, thumbs, max_new_tokens)
    return encoded.all_log_probs(policy, bf16)


def _loop(
    policy: LanguagePolicy,
    thumbs: _Thumbs,
    held_out: _Thumbs | None,
    settings: KTOSettings,
    reference: LanguagePolicy,
    reference_log_probs: tuple[Tensor, Tensor] | None,
    loss: ThumbLoss,
    reference_point: ReferencePoint,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    run: RunCheckpoint,
) -> Iterator[KTOStep]:
    s = settings
    weights = optimizer.param_groups[0]["params"]
    old, old_mismatched = (
        side.to(policy.device)
        for side in reference_log_probs or thumbs.all_log_probs(reference, s.bf16)
    )
    held_out_old = ()
    if held_out is not None:
        held_out_old = held_out.all_log_probs(reference, s.bf16)
    done, saved, _ = run.take_up()
    optimizer.zero_grad()  # what the caller may have left
    order = saved.get("order", torch.empty(0, dtype=torch.long))
    for step in range(done + 1, s.steps + 1):
        batch, order = dealt_rows(order, len(thumbs), s.batch_size, generator)
        parts = batch.tensor_split(min(s.accumulate, len(batch)))
        # z is that of the whole batch, so it's there before any part has its loss.
        with torch.no_grad():
            mismatched = torch.cat(
                [summed_log_probs(policy, thumbs.mismatched, part, s.bf16) for part in parts]
            )
            z = _point(reference_point, mismatched, old_mismatched[moved(policy.device, batch)])
        measured = []
        for part in parts:
            log_probs = summed_log_probs(policy, thumbs.tokens, part, s.bf16)
            (part,) = moved(policy.device, part)
            up, anchor = thumbs.up[part], old[part]
            losses = _losses(loss, log_probs, anchor, up, z, s)
            (losses.sum() / len(batch)).backward()
            ratios = log_probs.detach() - anchor
            measured.append(torch.stack([losses.detach(), ratios, up.to(ratios)]))
        losses, ratios, up = torch.cat(measured, dim=1).double()
        learning_rate = s.learning_rate * schedule(step, s.steps, s.warmup)
        mean_loss, norm = gradient_step(
            "train_kto", f"step {step} of {s.steps}", losses.mean(), optimizer, weights,
            s.max_gradient_norm, learning_rate,
        )  # fmt: skip
        run.save(step, {"order": order})

        validation_loss = None
        if held_out is not None and (step == s.steps or step % s.evaluate_every == 0):
            log_probs, mismatched = held_out.all_log_probs(policy, s.bf16)
            with torch.no_grad():
                at = _point(reference_point, mismatched, held_out_old[1])
                held = _losses(loss, log_probs, held_out_old[0], held_out.up, at, s)
            validation_loss = float(held.mean())
        desirable, undesirable = (
            s.beta * float(ratios[up == thumb].mean()) if bool((up == thumb).any()) else None
            for thumb in (1, 0)
        )
        yield KTOStep(
            step=step,
            total=s.steps,
            loss=mean_loss,
            reference_point=float(z),
            desirable_reward=desirable,
            undesirable_reward=undesirable,
            kl=-float(ratios.mean()),
            gradient_norm=norm,
            learning_rate=learning_rate,
            validation_loss=validation_loss,
        )


def _losses(
    loss: ThumbLoss, log_probs: Tensor, old: Tensor, up: Tensor, z: Tensor, s: KTOSettings
) -> Tensor:
    losses = loss(log_probs, old, up, z, s.beta, s.desirable_weight, s.undesirable_weight)
    if losses.shape != log_probs.shape:
        raise ValueError(
            f"train_kto: loss must give one value for each of the (B,) = {tuple(log_probs.shape)} "
            f"thumbs, got {tuple(losses.shape)}"
        )
    return losses


def _point(reference_point: ReferencePoint, log_probs: Tensor, old: Tensor) -> Tensor:
    z = reference_point(log_probs, old)
    if not isinstance(z, Tensor) or z.shape != ():
        got = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
        raise ValueError(f"train_kto: reference_point must give one number, (), got {got}")
    return z


@dataclass(frozen=True)
class _Thumbs:
    """Responses as tokens, each beside another one to its prompt, and what was said of it."""

    tokens: TokenBatch
    mismatched: TokenBatch
    up: Tensor

    def __len__(self) -> int:
        return len(self.up)

    @classmethod
    def encode(
        cls,
        where: str,
        name: str,
        policy: LanguagePolicy,
        thumbs: Sequence[Sequence[Any]],
        max_new_tokens: int | None,
    ) -> _Thumbs:
        """Tokenize thumbs once, and refuse those from which nothing can be learned."""
        checked_list(where, name, thumbs, "(prompt, response, up)", "thumb")
        for row, thumb in enumerate(thumbs):
            triple = isinstance(thumb, (tuple, list)) and len(thumb) == 3
            if not triple or not (
                isinstance(thumb[0], str)
                and isinstance(thumb[1], str)
                and isinstance(thumb[2], (bool, int))
                and thumb[2] in (0, 1)
            ):
                raise TypeError(
                    f"{where}: {name} must hold (prompt, response, up), two str and True or False, "
                    f"got {thumb!r:.80} at {row}"
                )
            if not thumb[1].strip():
                raise ValueError(
                    f"{where}: {name} must hold responses with words, got an empty one at {row}"
                )
        prompts, responses, up = zip(*thumbs, strict=True)
        if len(set(map(bool, up))) < 2:
            raise ValueError(
                f"{where}: {name} must hold thumbs of both kinds, got {len(up)} that are all "
                f"{'up' if up[0] else 'down'}: alone, they say nothing of what is better"
            )
        tokens = as_tokens(where, name, policy, prompts, responses, max_new_tokens)
        return cls(
            tokens,
            _mismatched(tokens, prompts, policy.context_length),
            torch.tensor(up, dtype=torch.bool, device=policy.device),
        )

    @torch.no_grad()
    def all_log_probs(self, policy: LanguagePolicy, bf16: bool) -> tuple[Tensor, Tensor]:
        """Give log π of all responses and of all mismatched pairs, without gradient, (N,) each."""
        parts = torch.arange(len(self)).split(128)
        responses, mismatched = (
            torch.cat([summed_log_probs(policy, texts, part, bf16) for part in parts])
            for texts in (self.tokens, self.mismatched)
        )
        return responses, mismatched


def _mismatched(
    tokens: TokenBatch, prompts: Sequence[str], context_length: int | None
) -> TokenBatch:
    """Give each prompt the response to another one: half of the rows back, or further.

    Rows side by side often belong to one prompt. Where there is no other prompt at all, it is
    another response to this one. What does not fit the context beside the prompt is cut.
    """
    count = len(prompts)
    half = [(row - count // 2) % count for row in range(count)]
    if len(set(prompts)) > 1:
        # Of each row the last one before it, going round, that has another prompt.
        before = [next(row for row in reversed(range(count)) if prompts[row] != prompts[0])]
        for row in range(1, count):
            before.append(row - 1 if prompts[row - 1] != prompts[row] else before[row - 1])
        half = [
            at if prompts[at] != prompt else before[at]
            for at, prompt in zip(half, prompts, strict=True)
        ]
    rows = torch.tensor(half, device=tokens.response_mask.device)
    mask = tokens.response_mask[rows]
    if context_length is not None:
        room = context_length - tokens.prompt_mask.sum(1, keepdim=True)
        mask = mask & (torch.arange(mask.shape[1], device=mask.device) < room)
    return dataclasses.replace(
        tokens, response_tokens=tokens.response_tokens[rows], response_mask=mask
    )
