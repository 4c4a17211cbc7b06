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
them), mixed precision, several devices. Lesson 8 hands the same pairs to TRL for those.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf_lessons import formulas
from rlhf_lessons.models import LanguagePolicy, TokenBatch
from rlhf_lessons.training.reward_model import accuracy_of
from rlhf_lessons.training.schedule import schedule

__all__ = ["DPOSettings", "DPOStep", "train_dpo"]

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
    seed: int = 0

    def __post_init__(self) -> None:
        lowest = {"steps": 1, "batch_size": 1, "evaluate_every": 1, "save_every": 1, "seed": 0}
        for name, least in lowest.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"DPOSettings: {name} must be an int ≥ {least}, got {value!r}")
        for name in ("beta", "learning_rate", "max_gradient_norm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"DPOSettings: {name} must be above 0, got {value!r}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(
                f"DPOSettings: weight_decay must be 0 or more, got {self.weight_decay!r}"
            )
        if not 0 <= self.warmup < 1:
            raise ValueError(f"DPOSettings: warmup must lie in [0, 1), got {self.warmup!r}")


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
            counted half.
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
    validation: Sequence[Sequence[str]] | None = None,
    loss: PairLoss = formulas.dpo_loss,
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
        validation: held-out records of the same form; None measures nothing.
        loss: (log π chosen, log π rejected, log π_ref chosen, log π_ref rejected, β) -> losses,
            tensors of shape (B,), as ``formulas.dpo_loss`` and its relatives.
        checkpoint: a folder to save the run to every ``save_every`` steps. If it holds the
            checkpoint of an interrupted run, the run goes on from there and gives the numbers that
            it would have given without interruption. Call it with the arguments of the first call:
            the policy with its first weights, or give the ``reference``.

    Yields:
        A ``DPOStep`` after each update.

    Raises:
        TypeError: a record is no triple of texts.
        ValueError: no pairs, an empty response, two equal responses, a pair that does not fit the
            context, a reference with other tokens, a frozen policy, a loss of the wrong shape, or
            a checkpoint of another run.
        OSError: the checkpoint cannot be written; what was there before is unchanged.
        FloatingPointError: loss or gradient is NaN or infinite; the weights are those of the step
            before.
    """
    settings = DPOSettings() if settings is None else settings
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    if not weights:
        raise ValueError(
            "train_dpo: policy must have weights to train, got a frozen one; copy() makes a "
            "reference, which is never trained"
        )
    if reference is not None and (
        reference.tokenizer.get_vocab() != policy.tokenizer.get_vocab()
        or reference.vocabulary_size != policy.vocabulary_size
    ):
        raise ValueError(
            f"train_dpo: reference must have the tokens of policy, since log-probabilities are "
            f"compared token by token; got vocabularies of {reference.vocabulary_size} and "
            f"{policy.vocabulary_size}, or other words"
        )
    trained = Pairs.encode(policy, pairs, "pairs")
    held_out = None if validation is None else Pairs.encode(policy, validation, "validation")
    folder = None if checkpoint is None else Path(checkpoint)
    return _loop(policy, weights, trained, held_out, settings, reference or policy, loss, folder)


def _loop(
    policy: LanguagePolicy,
    weights: list[Tensor],
    pairs: Pairs,
    held_out: Pairs | None,
    settings: DPOSettings,
    reference: LanguagePolicy,
    loss: PairLoss,
    folder: Path | None,
) -> Iterator[DPOStep]:
    saved = None if folder is None else _Saved(folder, settings, reference, pairs)
    reference_chosen, reference_rejected = pairs.all_log_probs(reference)
    held_out_reference = None if held_out is None else held_out.all_log_probs(reference)
    optimizer = torch.optim.AdamW(
        weights, lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    generator = torch.Generator().manual_seed(settings.seed)
    order = torch.empty(0, dtype=torch.long)
    done = 0
    if saved is not None and saved.exists():
        done, order = saved.take_up(weights, optimizer, generator)
    for step in range(done + 1, settings.steps + 1):
        while len(order) < settings.batch_size:  # every pair once before any pair again
            order = torch.cat([order, torch.randperm(len(pairs), generator=generator)])
        batch, order = order[: settings.batch_size], order[settings.batch_size :]

        chosen, rejected = pairs.log_probs(policy, batch)
        kept = batch.to(reference_chosen.device)
        old_chosen, old_rejected = reference_chosen[kept], reference_rejected[kept]
        losses = loss(chosen, rejected, old_chosen, old_rejected, settings.beta)
        if losses.shape != chosen.shape:
            raise ValueError(
                f"train_dpo: loss must give one value for each of the (B,) = {tuple(chosen.shape)} "
                f"pairs, got {tuple(losses.shape)}"
            )
        objective = losses.mean()
        objective.backward()
        norm = torch.nn.utils.clip_grad_norm_(weights, settings.max_gradient_norm)
        if not (math.isfinite(objective.item()) and math.isfinite(norm.item())):
            optimizer.zero_grad()
            raise FloatingPointError(
                f"train_dpo: loss and gradient must be finite, got a loss of {objective.item():g} "
                f"and a gradient norm of {norm.item():g} at step {step} of {settings.steps}; the "
                f"weights are those of the step before. A lower learning_rate often helps"
            )
        learning_rate = settings.learning_rate * schedule(step, settings.steps, settings.warmup)
        optimizer.param_groups[0]["lr"] = learning_rate
        optimizer.step()
        optimizer.zero_grad()

        if saved is not None and (step == settings.steps or step % settings.save_every == 0):
            saved.save(step, weights, optimizer, generator, order)

        measured = (None, None)
        if held_out is not None and (step == settings.steps or step % settings.evaluate_every == 0):
            measured = _validate(policy, held_out, held_out_reference, settings.beta, loss)
        chosen, rejected = chosen.detach(), rejected.detach()
        chosen_reward = settings.beta * (chosen - old_chosen)
        rejected_reward = settings.beta * (rejected - old_rejected)
        yield DPOStep(
            step=step,
            total=settings.steps,
            loss=objective.item(),
            chosen_reward=float(chosen_reward.mean()),
            rejected_reward=float(rejected_reward.mean()),
            margin=float((chosen_reward - rejected_reward).mean()),
            accuracy=accuracy_of(chosen_reward, rejected_reward),
            chosen_log_prob=float(chosen.mean()),
            rejected_log_prob=float(rejected.mean()),
            kl=float((old_chosen - chosen + old_rejected - rejected).mean() / 2),
            gradient_norm=norm.item(),
            learning_rate=learning_rate,
            validation_loss=measured[0],
            validation_accuracy=measured[1],
        )


@torch.no_grad()
def _validate(
    policy: LanguagePolicy,
    pairs: Pairs,
    reference_log_probs: tuple[Tensor, Tensor],
    beta: float,
    loss: PairLoss,
) -> tuple[float, float]:
    """Give mean loss and accuracy on held-out pairs."""
    chosen, rejected = pairs.all_log_probs(policy)
    old_chosen, old_rejected = reference_log_probs
    mean = float(loss(chosen, rejected, old_chosen, old_rejected, beta).mean())
    return mean, accuracy_of(chosen - old_chosen, rejected - old_rejected)


class _Saved:
    """The checkpoint of a run: weights, Adam's moments, the pairs still to be seen, random state.

    One file, written beside and renamed, holds it all: a crash leaves the old one or the new one.
    """

    FILE = "dpo.safetensors"

    def __init__(
        self, folder: Path, settings: DPOSettings, reference: LanguagePolicy, pairs: Pairs
    ) -> None:
        self.path = folder / self.FILE
        digest = hashlib.sha256()
        tokens = (pairs.tokens.prompt_tokens, pairs.tokens.response_tokens)
        for tensor in (*reference.parameters(), *tokens):
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        self.identity: dict[str, Any] = {
            "settings": dataclasses.asdict(settings),
            "reference and pairs": digest.hexdigest()[:16],
        }

    def exists(self) -> bool:
        return self.path.exists()

    def save(
        self,
        step: int,
        weights: Sequence[Tensor],
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        order: Tensor,
    ) -> None:
        from safetensors.torch import save_file

        tensors = {"order": order, "random": generator.get_state()}
        for place, weight in enumerate(weights):
            tensors[f"weight.{place}"] = weight.detach()
            for name, value in optimizer.state[weight].items():
                tensors[f"{name}.{place}"] = torch.as_tensor(value)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.FILE}.")
        os.close(handle)
        try:
            save_file(
                {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()},
                temporary,
                metadata={"dpo": json.dumps({"step": step, **self.identity})},
            )
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except BaseException as error:
            os.unlink(temporary)
            if isinstance(error, Exception):
                raise OSError(
                    f"train_dpo: could not write {self.path}: {error}. What was there before is "
                    f"unchanged"
                ) from error
            raise

    def take_up(
        self,
        weights: Sequence[Tensor],
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
    ) -> tuple[int, Tensor]:
        """Put everything back as it was; give the steps done and the pairs still to be seen."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, "pt") as file:
                about = json.loads(file.metadata()["dpo"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
            raise ValueError(
                f"train_dpo: checkpoint must hold a run of train_dpo, but {self.path} cannot be "
                f"read: {error}. Delete it to start anew"
            ) from error
        for name, now in self.identity.items():
            if about.get(name) != now:
                raise ValueError(
                    f"train_dpo: checkpoint must belong to this run, but {self.path} was made with "
                    f"another {name}: {about.get(name)}, now {now}. Give the first call's "
                    f"arguments, or another folder"
                )
        with torch.no_grad():
            for place, weight in enumerate(weights):
                weight.copy_(tensors[f"weight.{place}"])
                for name in ("step", "exp_avg", "exp_avg_sq"):
                    if f"{name}.{place}" in tensors:
                        value = tensors[f"{name}.{place}"]
                        # Adam counts its steps on the CPU.
                        moved = value if name == "step" else value.to(weight.device)
                        optimizer.state[weight][name] = moved
        generator.set_state(tensors["random"])
        return about["step"], tensors["order"]


@dataclass(frozen=True)
class Pairs:
    """Preferences as tokens: rows 0 to N−1 are chosen, rows N to 2N−1 rejected."""

    tokens: TokenBatch

    def __len__(self) -> int:
        return len(self.tokens.prompt_tokens) // 2

    @classmethod
    def encode(cls, policy: LanguagePolicy, pairs: Sequence[Sequence[str]], name: str) -> Pairs:
        """Tokenize preferences once, and refuse pairs that hold nothing to choose between."""
        if isinstance(pairs, str) or not hasattr(pairs, "__getitem__"):
            raise TypeError(
                f"train_dpo: {name} must be a list of (prompt, chosen, rejected), got "
                f"{type(pairs).__name__}"
            )
        if len(pairs) == 0:
            raise ValueError(f"train_dpo: {name} must hold at least one pair, got none")
        for row, pair in enumerate(pairs):
            triple = isinstance(pair, (tuple, list)) and len(pair) == 3
            if not triple or not all(isinstance(text, str) for text in pair):
                raise TypeError(
                    f"train_dpo: {name} must hold (prompt, chosen, rejected) of str, got "
                    f"{pair!r:.80} at {row}"
                )
            for side, text in zip(("chosen", "rejected"), pair[1:], strict=True):
                if not text.strip():
                    raise ValueError(
                        f"train_dpo: {name} must hold responses with words, got an empty {side} "
                        f"one at {row}"
                    )
        equal = [row for row, (_, chosen, rejected) in enumerate(pairs) if chosen == rejected]
        if equal:
            raise ValueError(
                f"train_dpo: {name} must differ in their two responses, got {len(equal)} equal, "
                f"the first at {equal[0]}; worlds.drop_equal_pairs leaves them out"
            )
        prompts, chosen, rejected = zip(*pairs, strict=True)
        try:
            return cls(policy.encode([*prompts, *prompts], [*chosen, *rejected]))
        except ValueError as error:
            raise ValueError(
                f"train_dpo: {name} cannot be read by the policy (rows from {len(pairs)} on are "
                f"the rejected responses): {error}"
            ) from error

    def log_probs(self, policy: LanguagePolicy, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Give log π of the chosen and of the rejected responses, (B,) each, in one forward."""
        rows = torch.cat([pairs, pairs + len(self)]).to(self.tokens.prompt_mask.device)
        chosen, rejected = _sequence_log_probs(policy, self.tokens, rows).chunk(2)
        return chosen, rejected

    @torch.no_grad()
    def all_log_probs(self, policy: LanguagePolicy) -> tuple[Tensor, Tensor]:
        """Give log π of all responses, without gradient, (N,) each."""
        parts = [self.log_probs(policy, part) for part in torch.arange(len(self)).split(64)]
        chosen, rejected = zip(*parts, strict=True)
        return torch.cat(chosen), torch.cat(rejected)


def _sequence_log_probs(policy: LanguagePolicy, tokens: TokenBatch, rows: Tensor) -> Tensor:
    """Give (B,) log-probabilities of some rows, their padding cut to what these rows need."""
    prompt, response = tokens.prompt_mask[rows], tokens.response_mask[rows]
    longest_prompt, longest_response = int(prompt.sum(1).max()), int(response.sum(1).max())
    limit = policy.context_length
    if limit is not None and longest_prompt + longest_response > limit:
        # A long prompt and a long response of two rows do not fit side by side, though each row
        # alone does: read the rows with long prompts apart from those with short ones.
        order = prompt.sum(1).argsort()
        halves = order.split((len(order) + 1) // 2)
        read = torch.cat([_sequence_log_probs(policy, tokens, rows[half]) for half in halves])
        return read[order.argsort()]
    start = tokens.prompt_mask.shape[1] - longest_prompt
    log_probs = policy.log_probs_of(
        TokenBatch(
            tokens.prompt_tokens[rows, start:],
            prompt[:, start:],
            tokens.response_tokens[rows, :longest_response],
            response[:, :longest_response],
        )
    )
    return formulas.sequence_log_prob(log_probs, response[:, :longest_response].to(policy.device))
