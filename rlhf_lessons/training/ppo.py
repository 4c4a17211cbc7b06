"""Proximal policy optimisation of a language model against a judge (lessons 4 and 5).

The algorithm, one cycle::

    Phase I   roll out   y ~ π_old(· | x) for a batch of prompts x
              judge      r(x, y), one score per response
              shape      r_t = −β · (log π_old − log π_ref), the score added at the last token
              credit     A_t by GAE on r_t and V_old;  R_t = A_t + V_old;  then whiten A_t
    Phase II  for each epoch, for each minibatch:
                  one step down  L_policy + c1 · L_value − c2 · entropy
    then      β ← adapted to the measured KL, and the new policy takes the old one's place

Every formula in it is an argument with the package's own as its default, so a learner's function or
another estimator drops in.

Left out on purpose: rewards before the last token (a judge reads whole responses), sampling at
another temperature (the ratio is that of π itself), several devices and mixed precision inside the
loop (load the model in the precision you want), and saving the judge's own random state.
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
from rlhf_lessons.models import LanguagePolicy, Rollout, TokenBatch, ValueHead

__all__ = ["PPOSettings", "PPOStep", "train_ppo"]

Judge = Callable[[Sequence[str], Sequence[str]], Any]


@dataclass(frozen=True)
class PPOSettings:
    """How to run PPO.

    Attributes:
        cycles: number of cycles of rollout and update.
        batch_size: responses a cycle, at least 2.
        max_new_tokens: most tokens of a response, its end token included.
        epochs: passes over the batch in a cycle.
        minibatch_size: responses an update; the last one of a pass may be smaller. Also the number
            of responses in a forward pass without gradient.
        learning_rate: step size of Adam in the first cycle.
        final_learning_rate: step size in the last cycle; between the two it changes in a line.
            None keeps the first.
        beta: KL strength β in score per nat, 0 or more.
        kl_target: KL per response in nats that β is adapted to reach; None keeps β fixed.
        kl_horizon: responses over which an adapted β may change by about a fifth.
        gamma: discount γ in [0, 1] per token.
        lam: GAE's λ in [0, 1].
        epsilon: clip range ε of the policy ratio, above 0.
        value_epsilon: clip range of the values, above 0, in units of the score.
        value_coefficient: weight c1 of the value loss.
        entropy_coefficient: weight c2 of the entropy.
        stop_kl: KL(π_old ‖ π) per token in nats beyond which a cycle makes no further update; None
            never stops.
        max_gradient_norm: largest norm of the gradient; a longer one is shortened to it.
        save_every: cycles between two checkpoints, where a folder for them is given; the last
            cycle is always saved.
        seed: of the choice of prompts, the sampling and the minibatches.
    """

    cycles: int = 40
    batch_size: int = 64
    max_new_tokens: int = 48
    epochs: int = 4
    minibatch_size: int = 64
    learning_rate: float = 5e-4
    final_learning_rate: float | None = None
    beta: float = 0.2
    kl_target: float | None = None
    kl_horizon: float = 2000.0
    gamma: float = 1.0
    lam: float = 0.95
    epsilon: float = 0.2
    value_epsilon: float = 0.5
    value_coefficient: float = 0.1
    entropy_coefficient: float = 0.0
    stop_kl: float | None = None
    max_gradient_norm: float = 1.0
    save_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        lowest = {
            "cycles": 1, "batch_size": 2, "max_new_tokens": 1, "epochs": 1, "minibatch_size": 1,
            "save_every": 1, "seed": 0,
        }  # fmt: skip
        for name, least in lowest.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(
                    f"PPOSettings: {name} must be a whole number ≥ {least}, got {value!r}"
                )
        above_0 = ("learning_rate", "epsilon", "value_epsilon", "max_gradient_norm", "kl_horizon")
        optional = ("final_learning_rate", "kl_target", "stop_kl")
        not_negative = ("beta", "value_coefficient", "entropy_coefficient")
        for name in (*above_0, *optional, *not_negative, "gamma", "lam"):
            value = getattr(self, name)
            if value is None and name in optional:
                continue
            number = isinstance(value, (int, float)) and math.isfinite(value)
            if name in ("gamma", "lam"):
                right, expected = number and 0 <= value <= 1, "in [0, 1]"
            elif name in not_negative or name == "final_learning_rate":
                right, expected = number and value >= 0, "a finite number ≥ 0"
            else:
                right, expected = number and value > 0, "a finite number > 0"
            if not right:
                raise ValueError(f"PPOSettings: {name} must be {expected}, got {value!r}")
        if self.kl_target is not None and self.beta == 0:
            raise ValueError(
                "PPOSettings: beta must be above 0 where kl_target adapts it (β is multiplied), "
                "got 0"
            )
        if self.kl_target is not None and self.kl_horizon <= 0.2 * self.batch_size:
            raise ValueError(
                f"PPOSettings: kl_horizon must be above 0.2 · batch_size = "
                f"{0.2 * self.batch_size:g}, got {self.kl_horizon}"
            )


@dataclass(frozen=True)
class PPOStep:
    """What one cycle did. Scores, KL and lengths are those of its rollout, before the updates.

    Attributes:
        step: which cycle, from 1.
        total: how many cycles there will be.
        reward: mean score that the judge gave.
        kl: mean over responses of Σ_t log π − log π_ref, in nats: an estimate of KL(π ‖ π_ref).
        objective: reward − β · kl, an estimate of J(π).
        beta: the β of this cycle.
        entropy: mean entropy of the next-token distribution in nats, over the updates.
        clip_fraction: share of tokens whose gradient the clip set to 0, over the updates.
        explained_variance: 1 − Var(R − V)/Var(R) of the values before the updates; 1 is perfect, 0
            no better than a constant.
        response_length: mean tokens of a response, the end token included.
        finished: share of the responses that ended by themselves.
        policy_loss: mean over the updates.
        value_loss: mean over the updates.
        update_kl: KL(π_old ‖ π) per token in nats, measured at the last minibatch looked at.
        gradient_norm: largest norm of a gradient before it was clipped.
        learning_rate: step size of this cycle.
        updates: number of updates; fewer than planned where ``stop_kl`` ended the cycle.
    """

    step: int
    total: int
    reward: float
    kl: float
    objective: float
    beta: float
    entropy: float
    clip_fraction: float
    explained_variance: float
    response_length: float
    finished: float
    policy_loss: float
    value_loss: float
    update_kl: float
    gradient_norm: float
    learning_rate: float
    updates: int


@dataclass(frozen=True)
class _Formulas:
    token_rewards: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    kl_estimate: Callable[[Tensor], Tensor]
    advantages: Callable[[Tensor, Tensor, Tensor, float, float], Tensor]
    whiten: Callable[[Tensor, Tensor], Tensor]
    policy_loss: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    value_loss: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    entropy: Callable[[Tensor], Tensor]
    total_loss: Callable[[Tensor, Tensor, Tensor, Tensor, float, float], Tensor]
    adapt: Callable[[float, float, float, float, int], float]


def train_ppo(
    policy: LanguagePolicy,
    prompts: Sequence[str],
    judge: Judge,
    settings: PPOSettings | None = None,
    *,
    reference: LanguagePolicy | None = None,
    value_head: ValueHead | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    token_rewards: Callable[[Tensor, Tensor, Tensor, float], Tensor] = formulas.kl_shaped_rewards,
    kl_estimate: Callable[[Tensor], Tensor] = formulas.kl_k1,
    advantages: Callable[[Tensor, Tensor, Tensor, float, float], Tensor] = formulas.gae,
    whiten: Callable[[Tensor, Tensor], Tensor] = formulas.whiten,
    policy_loss: Callable[[Tensor, Tensor, Tensor, float], Tensor] = formulas.ppo_policy_loss,
    value_loss: Callable[[Tensor, Tensor, Tensor, float], Tensor] = formulas.clipped_value_loss,
    entropy: Callable[[Tensor], Tensor] = formulas.entropy,
    total_loss: Callable[
        [Tensor, Tensor, Tensor, Tensor, float, float], Tensor
    ] = formulas.ppo_total_loss,
    adapt: Callable[[float, float, float, float, int], float] = formulas.adapt_kl_coefficient,
) -> Iterator[PPOStep]:
    """Train a policy by PPO to score high with a judge without leaving its reference.

    Maximises J(π) = E[r(x, y)] − β · KL(π ‖ π_ref). The weights of ``policy`` and ``value_head``
    change in place with each record that is taken; stopping between two records keeps them.

    Args:
        policy: The policy to train, best a fine-tuned one.
        prompts: The prompts to draw from; each cycle takes ``batch_size`` of them without
            repetition, or all in turn where there are fewer.
        judge: ``judge(prompts, responses) -> (B,)`` finite scores, as array, tensor or list.
        settings: How to train; None takes the defaults.
        reference: π_ref, another model with the same vocabulary; None takes a frozen copy of the
            policy as it is given.
        value_head: The value function; None puts a new ``ValueHead`` on the policy's own body.
        checkpoint: A folder to save the run to every ``save_every`` cycles. If it holds the
            checkpoint of an interrupted run, the run goes on from there and gives the numbers
            that it would have given without interruption. Call it with the arguments of the first
            call: the policy with its first weights, or give the ``reference``.
        token_rewards: ``(scores (B,), kl (B, T), mask, beta) -> (B, T)`` reward of each token.
        kl_estimate: ``log π_old − log π_ref (B, T) -> (B, T)``, the KL of each token.
        advantages: ``(rewards, values, mask, gamma, lam) -> (B, T)``.
        whiten: ``(advantages, mask) -> (B, T)``.
        policy_loss: ``(log_probs, old_log_probs, advantages, epsilon) -> (B, T)``.
        value_loss: ``(values, old_values, returns, value_epsilon) -> (B, T)``.
        entropy: ``logits (B, T, V) -> (B, T)``.
        total_loss: ``(policy_losses, value_losses, entropies, mask, c1, c2) -> ()``.
        adapt: ``(beta, kl, kl_target, kl_horizon, batch_size) -> beta``, used with ``kl_target``.

    Yields:
        One record per cycle.

    Raises:
        TypeError: If prompts are not a list of strings.
        ValueError: If there are no prompts, the policy is frozen, the reference is the same model
            or has another vocabulary, the judge gives the wrong shape, a NaN or (in the first
            cycle) one score for all, all responses of the first cycle are empty or cut at
            ``max_new_tokens``, a formula gives the wrong shape, or the checkpoint belongs to
            another run. No weight has changed then, unless by earlier cycles.
        FloatingPointError: If the loss or its gradient is not finite; it names the cycle, and the
            weights are those before that update.
    """
    settings = PPOSettings() if settings is None else settings
    prompts = _checked_prompts(prompts)
    if not any(weight.requires_grad for weight in policy.parameters()):
        raise ValueError(
            "train_ppo: policy must have weights to train, got a frozen one; copy() makes a "
            "reference, which is never trained"
        )
    if reference is None:
        reference = policy.copy()
    if reference.model is policy.model:
        raise ValueError(
            "train_ppo: reference must be another model than policy, or it would move along; "
            "policy.copy() makes one"
        )
    own, other = policy.tokenizer.get_vocab(), reference.tokenizer.get_vocab()
    if own != other or policy.vocabulary_size != reference.vocabulary_size:
        raise ValueError(
            f"train_ppo: reference must have the vocabulary of policy, got {len(own)} tokens of "
            f"the policy and {len(other)} of the reference, or other words"
        )
    value_head = ValueHead(policy) if value_head is None else value_head
    used = _Formulas(
        token_rewards, kl_estimate, advantages, whiten, policy_loss, value_loss, entropy,
        total_loss, adapt,
    )  # fmt: skip
    run = _Run(policy, reference, value_head, settings)
    if checkpoint is not None:
        run.resume(Path(checkpoint))
    return _cycles(run, prompts, judge, used)


def _cycles(run: _Run, prompts: list[str], judge: Judge, use: _Formulas) -> Iterator[PPOStep]:
    policy, reference, value_head, s = run.policy, run.reference, run.value_head, run.settings
    shared_body = value_head.policy.model is policy.model

    def logits_and_values(batch: TokenBatch) -> tuple[Tensor, Tensor]:
        logits, values = value_head(batch)
        return (logits if shared_body else policy.logits_of(batch)), values

    while run.done < s.cycles:
        cycle = run.done + 1

        # Phase I: roll out and judge ---------------------------------------------------------
        n = len(prompts)
        drawn = torch.randperm(n, generator=run.order)[: s.batch_size].tolist()
        asked = [prompts[drawn[i % len(drawn)]] for i in range(s.batch_size)]
        rollout = policy.sample(asked, s.max_new_tokens, generator=run.sampling)
        scores = _judged(judge, rollout, first=cycle == 1).to(rollout.log_probs)
        mask = rollout.response_mask

        with torch.no_grad():
            old_log_probs, old_values, reference_log_probs = (
                torch.cat(parts)
                for parts in zip(
                    *(
                        _measure(part, logits_and_values, reference)
                        for part in _parts(rollout, s.minibatch_size)
                    ),
                    strict=True,
                )
            )
            kl = use.kl_estimate(old_log_probs - reference_log_probs)
            rewards = _shaped("token_rewards", use.token_rewards(scores, kl, mask, run.beta), mask)
            advantages = _shaped(
                "advantages", use.advantages(rewards, old_values, mask, s.gamma, s.lam), mask
            )
            returns = advantages + old_values  # before whitening: values are in units of the score
            advantages = _shaped("whiten", use.whiten(advantages, mask), mask)

        # Phase II: update --------------------------------------------------------------------
        learning_rate = run.set_learning_rate(cycle)
        measured: list[tuple[float, ...]] = []
        update_kl, stopped = 0.0, False
        for _ in range(s.epochs):
            order = torch.randperm(s.batch_size, generator=run.order).to(mask.device)
            for rows in order.split(s.minibatch_size):
                length = int(mask[rows].sum(1).max())
                batch = _rows(rollout, rows, length)
                counted = batch.response_mask
                old, advantage = old_log_probs[rows, :length], advantages[rows, :length]

                logits, values = logits_and_values(batch)
                log_probs = _chosen(logits, batch)
                update_kl = float(
                    formulas.masked_mean(formulas.kl_k3(old - log_probs.detach()), counted)
                )
                if s.stop_kl is not None and update_kl > s.stop_kl:
                    stopped = True
                    break
                policy_losses = _shaped(
                    "policy_loss", use.policy_loss(log_probs, old, advantage, s.epsilon), counted
                )
                value_losses = _shaped(
                    "value_loss",
                    use.value_loss(
                        values, old_values[rows, :length], returns[rows, :length], s.value_epsilon
                    ),
                    counted,
                )
                # Measured always, but only differentiated where it is part of the loss.
                with torch.set_grad_enabled(s.entropy_coefficient > 0):
                    entropies = _shaped("entropy", use.entropy(logits), counted)
                loss = use.total_loss(
                    policy_losses, value_losses, entropies, counted,
                    s.value_coefficient, s.entropy_coefficient,
                )  # fmt: skip
                norm = run.update(loss, cycle)
                clipped = formulas.clip_fraction(
                    log_probs.detach(), old, advantage, counted, s.epsilon
                )
                means = (
                    formulas.masked_mean(x.detach(), counted)
                    for x in (policy_losses, value_losses, entropies)
                )
                measured.append((*map(float, means), float(clipped), norm))
            if stopped:
                break

        # The new policy takes the old one's place --------------------------------------------
        mean_kl = float(formulas.masked_sum(old_log_probs - reference_log_probs, mask, 1).mean())
        reward = float(scores.mean())
        policy_mean, value_mean, entropy_mean, clip_mean = (
            sum(row[i] for row in measured) / len(measured) if measured else math.nan
            for i in range(4)
        )
        record = PPOStep(
            step=cycle,
            total=s.cycles,
            reward=reward,
            kl=mean_kl,
            objective=reward - run.beta * mean_kl,
            beta=run.beta,
            entropy=entropy_mean,
            clip_fraction=clip_mean,
            explained_variance=_explained_variance(old_values, returns, mask),
            response_length=float(mask.sum(1).double().mean()),
            finished=float(rollout.finished.double().mean()),
            policy_loss=policy_mean,
            value_loss=value_mean,
            update_kl=update_kl,
            gradient_norm=max((row[4] for row in measured), default=math.nan),
            learning_rate=learning_rate,
            updates=len(measured),
        )
        if s.kl_target is not None:
            run.beta = use.adapt(run.beta, mean_kl, s.kl_target, s.kl_horizon, s.batch_size)
        run.done = cycle
        if run.folder is not None and (cycle % s.save_every == 0 or cycle == s.cycles):
            run.save()
        yield record


# --- the state of a run ---------------------------------------------------------------------------


class _Run:
    """Everything that changes in a run: weights, Adam's moments, random states, β, cycles done."""

    def __init__(
        self,
        policy: LanguagePolicy,
        reference: LanguagePolicy,
        value_head: ValueHead,
        settings: PPOSettings,
    ) -> None:
        self.policy, self.reference, self.value_head = policy, reference, value_head
        self.settings = settings
        self.beta = settings.beta
        self.done = 0
        self.folder: Path | None = None
        models = {"policy": policy.model, "value_head": value_head}
        if value_head.policy.model is not policy.model:
            models["value_body"] = value_head.policy.model
        self.weights = {
            f"{name}.{key}": weight
            for name, model in models.items()
            for key, weight in model.named_parameters()
            if weight.requires_grad
        }
        self.optimizer = torch.optim.Adam(
            list(self.weights.values()), lr=settings.learning_rate, eps=1e-5
        )
        self.order = torch.Generator().manual_seed(settings.seed)
        self.sampling = torch.Generator(policy.device).manual_seed(settings.seed)

    def set_learning_rate(self, cycle: int) -> float:
        """Move along the line from the first step size to the final one."""
        s = self.settings
        last = s.learning_rate if s.final_learning_rate is None else s.final_learning_rate
        along = (cycle - 1) / max(1, s.cycles - 1)
        rate = s.learning_rate + along * (last - s.learning_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def update(self, loss: Tensor, cycle: int) -> float:
        """Take one step of Adam, unless a number is not finite; give the gradient's norm."""
        if loss.shape != ():
            raise ValueError(f"train_ppo: total_loss must give one number, got {tuple(loss.shape)}")
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(
            self.weights.values(), self.settings.max_gradient_norm
        )
        if not (bool(loss.isfinite()) and bool(norm.isfinite())):
            self.optimizer.zero_grad()
            raise FloatingPointError(
                f"train_ppo: loss and gradient must be finite, got a loss of {loss.item():g} and a "
                f"gradient norm of {norm.item():g} at step {cycle} of {self.settings.cycles}; the "
                f"weights are those before this update. A lower learning_rate, a smaller epsilon "
                f"or stop_kl often help"
            )
        self.optimizer.step()
        return float(norm)

    # One file, written beside and renamed, holds it all: a crash leaves the old one or the new one.

    FILE = "ppo.safetensors"

    def save(self) -> None:
        from safetensors.torch import save_file

        tensors = {f"weights.{name}": weight.detach() for name, weight in self.weights.items()}
        for name, weight in self.weights.items():
            for key, value in self.optimizer.state[weight].items():
                tensors[f"adam.{key}.{name}"] = torch.as_tensor(value)
        tensors["random.order"] = self.order.get_state()
        tensors["random.sampling"] = self.sampling.get_state()
        about = {"done": self.done, "beta": self.beta, **self._identity()}
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=f".{self.FILE}.")
        os.close(handle)
        try:
            save_file(
                {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()},
                temporary,
                metadata={"ppo": json.dumps(about)},
            )
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, self.folder / self.FILE)
        except BaseException as error:
            os.unlink(temporary)
            if isinstance(error, Exception):
                raise OSError(
                    f"train_ppo: could not write {self.folder / self.FILE}: {error}. What was "
                    f"there before is unchanged"
                ) from error
            raise

    def resume(self, folder: Path) -> None:
        """Take up the run that the folder holds, if it holds one."""
        from safetensors import SafetensorError, safe_open

        self.folder = folder
        path = folder / self.FILE
        if not path.exists():
            return
        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["ppo"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
            raise ValueError(
                f"train_ppo: checkpoint must hold a run of train_ppo, but {path} cannot be read: "
                f"{error}. Delete it to start anew"
            ) from error
        for name, now in self._identity().items():
            then = about.get(name)
            if then != now:
                if isinstance(now, dict) and isinstance(then, dict):
                    then = {key: then.get(key) for key in now if then.get(key) != now[key]}
                    now = {key: now[key] for key in then}
                raise ValueError(
                    f"train_ppo: checkpoint must belong to this run, but {path} was made with "
                    f"another {name}: {then}, now {now}. Give the first call's arguments, or "
                    f"another folder"
                )
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(tensors[f"weights.{name}"])
                for key in ("step", "exp_avg", "exp_avg_sq"):
                    if f"adam.{key}.{name}" in tensors:
                        value = tensors[f"adam.{key}.{name}"]
                        self.optimizer.state[weight][key] = (
                            value if key == "step" else value.to(weight.device)
                        )
        self.order.set_state(tensors["random.order"])
        self.sampling.set_state(tensors["random.sampling"])
        self.done, self.beta = about["done"], about["beta"]

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint and the run that takes it up must agree on."""
        digest = hashlib.sha256()
        for weight in self.reference.model.parameters():
            digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return {
            "settings": dataclasses.asdict(self.settings),
            "weights": {name: list(weight.shape) for name, weight in self.weights.items()},
            "reference": digest.hexdigest()[:16],
        }


# --- pieces of a cycle ----------------------------------------------------------------------------


def _checked_prompts(prompts: Sequence[str]) -> list[str]:
    if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
        raise TypeError(f"train_ppo: prompts must be a list of str, got {prompts!r:.60}")
    if len(prompts) == 0:
        raise ValueError("train_ppo: prompts must hold at least one text, got none")
    return list(prompts)


def _judged(judge: Judge, rollout: Rollout, first: bool) -> Tensor:
    """Ask the judge, and refuse what nothing can be learned from."""
    if first and not any(rollout.responses):
        raise ValueError(
            "train_ppo: policy must write something, got empty responses to all "
            f"{len(rollout.responses)} prompts of the first cycle"
        )
    if first and not bool(rollout.finished.any()):
        raise ValueError(
            f"train_ppo: max_new_tokens must leave room for responses to end, got "
            f"{rollout.response_mask.shape[1]}, at which all {len(rollout.responses)} responses "
            f"of the first cycle were cut"
        )
    given = judge(rollout.prompts, rollout.responses)
    try:
        scores = torch.as_tensor(given).detach().to(torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"train_ppo: judge must return numbers, got {type(given).__name__}: {error}"
        ) from error
    wanted = (len(rollout.responses),)
    if scores.shape != wanted:
        raise ValueError(
            f"train_ppo: judge must return one score per response, (B,) = {wanted}, got "
            f"{tuple(scores.shape)}"
        )
    if not bool(scores.isfinite().all()):
        row = int((~scores.isfinite()).nonzero()[0])
        raise ValueError(
            f"train_ppo: judge must return finite scores, got {float(scores[row])} for response "
            f"{row}, {rollout.responses[row]!r}"
        )
    if first and bool((scores == scores[0]).all()):
        raise ValueError(
            f"train_ppo: judge must tell responses apart, got the score {float(scores[0]):g} for "
            f"all {len(scores)} of the first cycle"
        )
    return scores


def _chosen(logits: Tensor, batch: TokenBatch) -> Tensor:
    """log π of the response tokens, (B, T), 0 at padding."""
    tokens = batch.response_tokens.masked_fill(~batch.response_mask, 0)
    chosen = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)
    return chosen.masked_fill(~batch.response_mask, 0)


def _measure(
    batch: TokenBatch,
    logits_and_values: Callable[[TokenBatch], tuple[Tensor, Tensor]],
    reference: LanguagePolicy,
) -> tuple[Tensor, Tensor, Tensor]:
    """Old log-probs, old values and the reference's log-probs, each (B, T)."""
    logits, values = logits_and_values(batch)
    old_log_probs = _chosen(logits, batch)
    del logits  # a large vocabulary makes this the largest tensor of the cycle
    reference_log_probs = reference.log_probs_of(batch).to(old_log_probs)
    return old_log_probs, values.masked_fill(~batch.response_mask, 0), reference_log_probs


def _rows(batch: TokenBatch, rows: Tensor, length: int) -> TokenBatch:
    return TokenBatch(
        batch.prompt_tokens[rows],
        batch.prompt_mask[rows],
        batch.response_tokens[rows, :length],
        batch.response_mask[rows, :length],
    )


def _parts(batch: TokenBatch, size: int) -> Iterator[TokenBatch]:
    count, length = batch.response_mask.shape
    for rows in torch.arange(count, device=batch.response_mask.device).split(size):
        yield _rows(batch, rows, length)


def _shaped(name: str, result: Tensor, mask: Tensor) -> Tensor:
    if not isinstance(result, Tensor) or result.shape != mask.shape:
        got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise ValueError(
            f"train_ppo: {name} must give one value per token, (B, T) = {tuple(mask.shape)}, "
            f"got {got}"
        )
    return result


def _explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    if int(mask.sum()) < 2:
        return math.nan
    variance = float(formulas.masked_variance(returns, mask))
    if variance == 0:
        return math.nan
    return 1 - float(formulas.masked_variance(returns - values, mask)) / variance
