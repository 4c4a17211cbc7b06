"""Preferences straight into the policy: DPO and its relatives, one loop (lessons 6 and 7).

    1  log π_ref(y | x) of every response, once: the reference never changes
    2  repeat: take a batch of pairs,
               one forward pass over chosen and rejected together,
               loss(log π(y_w), log π(y_l), log π_ref(y_w), log π_ref(y_l), β), one update

The loss is a formula handed in as an argument; any function of the four log-probabilities and β
drops in, for instance DPO with a supervised term::

    def anchored(chosen, rejected, reference_chosen, reference_rejected, beta):
        dpo = dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta)
        return dpo - 0.1 * chosen

No reward model, no sampling, no value head: that is all there is.

Left out on purpose: a ``loss_type`` switch, averaging log-probabilities over tokens (DPO sums
them), several devices: ``scale`` hands the same pairs to TRL for those (lesson 8).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

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
from rlhf_lessons.training.reward_model import accuracy_of
from rlhf_lessons.training.run_checkpoint import RunCheckpoint, name_of
from rlhf_lessons.training.schedule import schedule
from rlhf_lessons.training.settings import ABOVE_0, SUPERVISED, check_settings
from rlhf_lessons.training.update import gradient_step, with_memory_advice

__all__ = ["DPOSettings", "DPOStep", "pair_log_probs", "train_dpo"]

PairLoss = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class DPOSettings:
    """How to train on preferences.

    Attributes:
        steps: number of updates.
        batch_size: pairs an update.
        beta: KL strength β above 0, in reward per nat; large stays near the reference.
        learning_rate: of AdamW at its highest, after the warm-up; it falls to 0 along a half
            cosine.
        warmup: share of the steps in which the learning rate rises from 0.
        weight_decay: of AdamW, on all weights.
        max_gradient_norm: the gradient is scaled down to this length where it is longer.
        evaluate_every: steps between two measurements on the validation pairs; the last step is
            always measured.
        save_every: steps between two checkpoints, where a folder for them is given; the last step
            is always saved.
        accumulate: parts that a batch is split into, each with a forward and a backward pass of its
            own; the gradient is that of the whole batch, in less memory.
        bf16: whether the forward passes, those of the reference too, run in bfloat16; weights and
            losses stay float32. Weights that come from 4 bits lie between two numbers of bfloat16,
            and small steps then look ten times too large: fine-tune them in float32 first.
        seed: of the order in which pairs are seen.
    """

    steps: int = 200
    batch_size: int = 32
    beta: float = 0.1
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
        check_settings(self, **SUPERVISED, beta=ABOVE_0)


@dataclass(frozen=True)
class DPOStep:
    """What one update of ``train_dpo`` measured on its batch, before the weights changed.

    Attributes:
        step: number of this update, from 1.
        total: updates in all.
        loss: mean loss of the batch; log 2 = 0.693 where DPO's policy is the reference.
        chosen_reward: mean implicit reward β · (log π − log π_ref) of the chosen responses.
        rejected_reward: the same of the rejected ones.
        margin: mean of chosen minus rejected implicit reward.
        accuracy: share of pairs whose chosen implicit reward is above the rejected one, ties
            counted half. What differs by the rounding of log-probabilities alone is a tie, so it is
            0.5 where the policy is the reference.
        chosen_log_prob: mean log π(y_w | x) in nats, summed over each response.
        rejected_log_prob: the same of the rejected ones.
        kl: mean of log π_ref − log π over all responses of the batch, in nats per response. Where
            the pairs were sampled from the reference it estimates KL(π_ref ‖ π) without bias;
            the KL of the frontier, KL(π ‖ π_ref), needs samples of the policy.
        gradient_norm: length of the gradient before it was clipped.
        learning_rate: of this update.
        validation_loss: mean loss on the validation pairs after the update, None where not
            measured.
        validation_accuracy: the accuracy there, None where not measured.
    """

    step: int
    total: int
    loss: float
    chosen_reward: float
    rejected_reward: float
    margin: float
    accuracy: float
    chosen_log_prob: float
    rejected_log_prob: float
    kl: float
    gradient_norm: float
    learning_rate: float
    validation_loss: float | None = None
    validation_accuracy: float | None = None


def train_dpo(
    policy: LanguagePolicy,
    pairs: Sequence[Sequence[str]],
    settings: DPOSettings | None = None,
    *,
    reference: LanguagePolicy | None = None,
    reference_log_probs: tuple[Tensor, Tensor] | None = None,
    validation: Sequence[Sequence[str]] | None = None,
    loss: PairLoss = formulas.dpo_loss,
    max_new_tokens: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Iterator[DPOStep]:
    """Fine-tune a policy on preferences without a reward model, one update a step.

    θ ← θ − lr · ∇ mean_i loss(log π_θ(w_i), log π_θ(l_i), log π_ref(w_i), log π_ref(l_i), β)

    Log-probabilities are summed over the response with its end token, the prompt left out. Those of
    the reference are computed once, before the first update. The policy learns in place; stopping
    between two steps leaves it usable, and a number that is not finite ends the loop before it
    touches a weight.

    Args:
        policy: the policy to train, any causal language model.
        pairs: (prompt, chosen, rejected) records.
        settings: how to train; the defaults of ``DPOSettings`` when left out.
        reference: π_ref, with the tokenizer of the policy; the policy as it is now when left out.
        reference_log_probs: what ``pair_log_probs`` gives for the reference and these pairs, (N,)
            each in nats, so that several runs on them read it once; None reads it here.
        validation: held-out records of the same form; None measures nothing.
        loss: (log π chosen, log π rejected, log π_ref chosen, log π_ref rejected, β) -> losses,
            tensors of shape (B,), as ``formulas.dpo_loss`` and its relatives.
        max_new_tokens: where the sampling of the responses stopped, their end tokens counted. What
            is longer was cut there, and is read without the end token that it never had; None takes
            every response to have ended.
        checkpoint: a folder to save the run to every ``save_every`` steps. If it holds the
            checkpoint of an interrupted run, the run goes on from there and gives the numbers that
            it would have given without interruption, on a CPU to the last bit. Call it with the
            arguments of the first call: the policy with its first weights, or give the
            ``reference``.

    Yields:
        A ``DPOStep`` after each update.

    Raises:
        TypeError: a record is no triple of texts.
        ValueError: no pairs, an empty response, two equal responses, a pair that does not fit the
            context, a reference with other tokens, a frozen policy or one that transformers would
            not save, a loss of the wrong shape, ``max_new_tokens`` below 1, or a damaged checkpoint
            or that of another run.
        OSError: the checkpoint cannot be written; what was there before is unchanged.
        FloatingPointError: loss or gradient is NaN or infinite; the weights are those of the step
            before.
    """
    settings = DPOSettings() if settings is None else settings
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    refuse_frozen("train_dpo", policy)
    try_saving("train_dpo", policy.model, policy.tokenizer)
    if reference is not None:
        refuse_other_tokens("train_dpo", policy, reference)
    trained = Pairs.encode(policy, pairs, "pairs", max_new_tokens)
    check_reference_log_probs(
        "train_dpo",
        reference_log_probs,
        len(trained),
        "log π_ref of the chosen and of the rejected responses",
    )
    held_out = None
    if validation is not None:
        held_out = Pairs.encode(policy, validation, "validation", max_new_tokens)
    reference = reference or policy
    generator = torch.Generator().manual_seed(settings.seed)
    optimizer = torch.optim.AdamW(
        weights, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    named = dict(policy.model.named_parameters())
    run = RunCheckpoint(
        "train_dpo",
        checkpoint,
        settings,
        {name: weight for name, weight in named.items() if weight.requires_grad},
        optimizer,
        every=settings.save_every,
        last=settings.steps,
        generators={"order": generator},
        same={
            "loss": name_of(loss),
            "pairs": (trained.tokens.prompt_tokens, trained.tokens.response_tokens),
            "reference": reference.parameters(),
            "frozen weights": [w for w in named.values() if not w.requires_grad],
        },
    )
    loop = _loop(
        policy, weights, trained, held_out, settings, reference, reference_log_probs, loss,
        optimizer, generator, run,
    )  # fmt: skip
    return with_memory_advice("train_dpo", loop)


def pair_log_probs(
    policy: LanguagePolicy,
    pairs: Sequence[Sequence[str]],
    *,
    max_new_tokens: int | None = None,
    bf16: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute the log-probabilities of pairs once, for several runs of ``train_dpo`` on them.

    Args:
        policy: what reads them, in general the reference.
        pairs: as for ``train_dpo``.
        max_new_tokens: as for ``train_dpo``.
        bf16: whether the forward passes run in bfloat16.

    Returns:
        log π of the chosen and of the rejected responses, (N,) each in nats, in the order of the
        pairs.

    Raises:
        TypeError: a record is no triple of texts.
        ValueError: no pairs, an empty response, two equal responses, or a pair that does not fit
            the context.
    """
    encoded = Pairs.encode(policy, pairs, "pairs", max_new_tokens, "pair_log_probs")
    return encoded.all_log_probs(policy, bf16)


def _loop(
    policy: LanguagePolicy,
    weights: list[Tensor],
    pairs: Pairs,
    held_out: Pairs | None,
    settings: DPOSettings,
    reference: LanguagePolicy,
    reference_log_probs: tuple[Tensor, Tensor] | None,
    loss: PairLoss,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    run: RunCheckpoint,
) -> Iterator[DPOStep]:
    s = settings
    old = reference_log_probs or pairs.all_log_probs(reference, s.bf16)
    old = tuple(side.to(policy.device) for side in old)
    rounding = _rounding(policy, s.bf16)
    held_out_old = ()
    if held_out is not None:
        held_out_old = tuple(
            side.to(policy.device) for side in held_out.all_log_probs(reference, s.bf16)
        )
    done, saved, _ = run.take_up()
    optimizer.zero_grad()  # what the caller may have left
    order = saved.get("order", torch.empty(0, dtype=torch.long))
    for step in range(done + 1, s.steps + 1):
        batch, order = dealt_rows(order, len(pairs), s.batch_size, generator)
        parts = []
        for part in batch.tensor_split(min(s.accumulate, len(batch))):
            chosen, rejected = pairs.log_probs(policy, part, s.bf16)
            (kept,) = moved(chosen.device, part)
            old_chosen, old_rejected = (side[kept] for side in old)
            losses = loss(chosen, rejected, old_chosen, old_rejected, s.beta)
            if losses.shape != chosen.shape:
                raise ValueError(
                    f"train_dpo: loss must give one value for each of the (B,) = "
                    f"{tuple(chosen.shape)} pairs, got {tuple(losses.shape)}"
                )
            (losses.sum() / len(batch)).backward()
            parts.append(torch.stack([losses, chosen, rejected, old_chosen, old_rejected]).detach())
        measured = torch.cat(parts, dim=1).double()
        learning_rate = s.learning_rate * schedule(step, s.steps, s.warmup)
        chosen_reward, rejected_reward = s.beta * (measured[1:3] - measured[3:])
        means = torch.cat([measured[1:], chosen_reward[None], rejected_reward[None]]).mean(1)
        mean_loss, norm, accuracy, *means = gradient_step(
            "train_dpo", f"step {step} of {s.steps}", measured[0].mean(), optimizer, weights,
            s.max_gradient_norm, learning_rate, _accuracy(measured[1:], rounding), *means,
        )  # fmt: skip
        chosen_mean, rejected_mean, old_chosen_mean, old_rejected_mean, *rewards = means
        run.save(step, {"order": order})

        validation = (None, None)
        if held_out is not None and (step == s.steps or step % s.evaluate_every == 0):
            validation = _validate(policy, held_out, held_out_old, settings, loss)
        yield DPOStep(
            step=step,
            total=s.steps,
            loss=mean_loss,
            chosen_reward=rewards[0],
            rejected_reward=rewards[1],
            margin=rewards[0] - rewards[1],
            accuracy=accuracy,
            chosen_log_prob=chosen_mean,
            rejected_log_prob=rejected_mean,
            kl=(old_chosen_mean - chosen_mean + old_rejected_mean - rejected_mean) / 2,
            gradient_norm=norm,
            learning_rate=learning_rate,
            validation_loss=validation[0],
            validation_accuracy=validation[1],
        )


@torch.no_grad()
def _validate(
    policy: LanguagePolicy,
    pairs: Pairs,
    reference_log_probs: Sequence[Tensor],
    settings: DPOSettings,
    loss: PairLoss,
) -> tuple[float, float]:
    """Give mean loss and accuracy on held-out pairs."""
    log_probs = (*pairs.all_log_probs(policy, settings.bf16), *reference_log_probs)
    mean = float(loss(*log_probs, settings.beta).mean())
    accuracy = _accuracy(torch.stack(log_probs).double(), _rounding(policy, settings.bf16))
    return mean, float(accuracy)


def _accuracy(log_probs: Tensor, rounding: float) -> Tensor:
    """() share of pairs in the right order, from (4, B) log π chosen and rejected, then log π_ref.

    Each of the four is off by some ``rounding`` of its size, which depends on the CPU and on what
    else is in the batch: implicit rewards that are no further apart are a tie. 10 nats more stand
    for the logits, whose difference a log-probability is, where this is near 0.
    """
    chosen, rejected = log_probs[:2] - log_probs[2:]
    return accuracy_of(chosen, rejected, rounding * (log_probs.abs() + 10).sum(0))


def _rounding(policy: LanguagePolicy, bf16: bool) -> float:
    """Say which share of a response's log π rounding may be.

    One and the same model, read in other batches, differed by up to 1 ε of float32 with four
    layers and 4 ε with 30, so 16 ε are allowed. In half precision sums are float32 still, and what
    is rounded averages out: 0.01 ε, so a quarter.
    """
    dtype = torch.bfloat16 if bf16 else policy.model.dtype
    epsilon = torch.finfo(dtype).eps
    return 16 * epsilon if dtype in (torch.float32, torch.float64) else epsilon / 4


@dataclass(frozen=True)
class Pairs:
    """Preferences as tokens: rows 0 to N−1 are chosen, rows N to 2N−1 rejected."""

    tokens: TokenBatch

    def __len__(self) -> int:
        return len(self.tokens.prompt_tokens) // 2

    @classmethod
    def encode(
        cls,
        policy: LanguagePolicy,
        pairs: Sequence[Sequence[str]],
        name: str,
        max_new_tokens: int | None = None,
        where: str = "train_dpo",
    ) -> Pairs:
        """Tokenize preferences once, and refuse pairs that hold nothing to choose between."""
        checked_list(where, name, pairs, "(prompt, chosen, rejected)", "pair")
        for row, pair in enumerate(pairs):
            triple = isinstance(pair, (tuple, list)) and len(pair) == 3
            if not triple or not all(isinstance(text, str) for text in pair):
                raise TypeError(
                    f"{where}: {name} must hold (prompt, chosen, rejected) of str, got "
                    f"{pair!r:.80} at {row}"
                )
            for side, text in zip(("chosen", "rejected"), pair[1:], strict=True):
                if not text.strip():
                    raise ValueError(
                        f"{where}: {name} must hold responses with words, got an empty {side} "
                        f"one at {row}"
                    )
        equal = [row for row, (_, chosen, rejected) in enumerate(pairs) if chosen == rejected]
        if equal:
            raise ValueError(
                f"{where}: {name} must differ in their two responses, got {len(equal)} equal, "
                f"the first at {equal[0]}; worlds.drop_equal_pairs leaves them out"
            )
        prompts, chosen, rejected = zip(*pairs, strict=True)
        hint = f" (rows from {len(pairs)} on are the rejected responses)"
        both = ([*prompts, *prompts], [*chosen, *rejected])
        return cls(as_tokens(where, name, policy, *both, max_new_tokens, hint))

    def log_probs(self, policy: LanguagePolicy, pairs: Tensor, bf16: bool) -> tuple[Tensor, Tensor]:
        """Give log π of the chosen and of the rejected responses, (B,) each, in one forward."""
        # Side by side, so that what the two begin with is read once.
        rows = torch.stack([pairs, pairs + len(self)], dim=1).flatten()
        sums = summed_log_probs(policy, self.tokens, rows, bf16)
        return sums.view(-1, 2).unbind(1)

    @torch.no_grad()
    def all_log_probs(self, policy: LanguagePolicy, bf16: bool) -> tuple[Tensor, Tensor]:
        """Give log π of all responses, without gradient, (N,) each."""
        parts = [self.log_probs(policy, part, bf16) for part in torch.arange(len(self)).split(64)]
        chosen, rejected = zip(*parts, strict=True)
        return torch.cat(chosen), torch.cat(rejected)
