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

log π_old comes from the sampler, which computed it as it drew; V_old, where an update takes the
whole batch, from the forward pass of the first one. Left out on purpose: rewards before
the last token (a judge reads whole responses), sampling at another temperature (the ratio is that
of π itself), several devices, and saving the judge's own random state.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional as F

from rlhf_lessons import formulas
from rlhf_lessons.models import LanguagePolicy, TokenBatch, ValueHead
from rlhf_lessons.models.saved_model import try_saving
from rlhf_lessons.models.token_batch import moved
from rlhf_lessons.training.reference import (
    frozen_beside,
    refuse_frozen,
    refuse_other_tokens,
    refuse_shared_weights,
)
from rlhf_lessons.training.rollouts import (
    Judge,
    checked_prompts,
    dealt,
    in_parts,
    judged,
    minibatches,
    reads_in_full_precision,
    sampling_precision,
    shaped,
)
from rlhf_lessons.training.run_checkpoint import RunCheckpoint, name_of
from rlhf_lessons.training.schedule import in_a_line
from rlhf_lessons.training.settings import (
    ABOVE_0,
    FROM_0,
    SWITCH,
    UNIT,
    check_settings,
    or_none,
    whole,
)
from rlhf_lessons.training.update import gradient_step, precision, with_memory_advice

__all__ = ["PPOSettings", "PPOStep", "train_ppo"]


@dataclass(frozen=True)
class PPOSettings:
    """How to run PPO.

    Attributes:
        cycles: number of cycles of rollout and update.
        batch_size: responses a cycle, at least 2.
        max_new_tokens: most tokens of a response, its end token included. A response that is cut
            there counts as it is, with its score at the last token.
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
        accumulate: parts that a minibatch is split into, each with a forward and a backward pass of
            its own; the gradient is that of the whole minibatch, in less memory.
        bf16: whether the forward passes of policy, values and reference run in bfloat16, on a CPU
            sampling, too; weights and losses stay in the precision of the model. The sampler rounds
            in another way than a whole text is read, so old log-probs are then read again.
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
    accumulate: int = 1
    bf16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(
            self,
            cycles=whole(1),
            batch_size=whole(2),
            max_new_tokens=whole(1),
            epochs=whole(1),
            minibatch_size=whole(1),
            learning_rate=ABOVE_0,
            final_learning_rate=or_none(FROM_0),
            beta=FROM_0,
            kl_target=or_none(ABOVE_0),
            kl_horizon=ABOVE_0,
            gamma=UNIT,
            lam=UNIT,
            epsilon=ABOVE_0,
            value_epsilon=ABOVE_0,
            value_coefficient=FROM_0,
            entropy_coefficient=FROM_0,
            stop_kl=or_none(ABOVE_0),
            max_gradient_norm=ABOVE_0,
            save_every=whole(1),
            accumulate=whole(1),
            bf16=SWITCH,
            seed=whole(0),
        )
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
            policy as it is given, of an adapted one of its adapters alone.
        value_head: The value function; None puts a new ``ValueHead`` on the policy's own body.
        checkpoint: A folder to save the run to every ``save_every`` cycles. If it holds the
            checkpoint of an interrupted run, the run goes on from there and gives the numbers that
            it would have given without interruption, on a CPU to the last bit. Call it with the
            arguments of the first call: the policy with its first weights, or give the
            ``reference``.
        token_rewards: ``(scores (B,), kl (B, T), mask, beta) -> (B, T)`` reward of each token.
        kl_estimate: ``log π_old − log π_ref (B, T) -> (B, T)``, the KL of each token.
        advantages: ``(rewards, values, mask, gamma, lam) -> (B, T)``.
        whiten: ``(advantages, mask) -> (B, T)``.
        policy_loss: ``(log_probs, old_log_probs, advantages, epsilon) -> (B, T)``.
        value_loss: ``(values, old_values, returns, value_epsilon) -> (B, T)``.
        entropy: ``logits (B, T, V) -> (B, T)``.
        total_loss: ``(policy_losses, value_losses, entropies, mask, c1, c2) -> ()``, a mean over
            the tokens.
        adapt: ``(beta, kl, kl_target, kl_horizon, batch_size) -> beta``, used with ``kl_target``.

    Yields:
        One record per cycle.

    Raises:
        TypeError: If prompts are not a list of strings.
        ValueError: If there are no prompts, the policy is frozen, the reference is the same model
            or has another vocabulary, the judge gives the wrong shape, a NaN or (in the first
            cycle) one score for all, all responses of the first cycle are empty, a formula gives
            the wrong shape, the checkpoint is damaged or belongs to another run, or transformers
            would not save the policy. No weight has changed then, unless by earlier cycles.
        OSError: If the checkpoint cannot be written; what was there before is unchanged.
        FloatingPointError: If the loss or its gradient is not finite; it names the cycle, and the
            weights are those before that update.
    """
    settings = PPOSettings() if settings is None else settings
    prompts = checked_prompts("train_ppo", prompts)
    refuse_frozen("train_ppo", policy)
    try_saving("train_ppo", policy.model, policy.tokenizer)
    reference = policy.copy() if reference is None else reference
    refuse_shared_weights("train_ppo", policy, reference)
    refuse_other_tokens("train_ppo", policy, reference)
    value_head = ValueHead(policy) if value_head is None else value_head
    used = _Formulas(
        token_rewards, kl_estimate, advantages, whiten, policy_loss, value_loss, entropy,
        total_loss, adapt,
    )  # fmt: skip
    weights = _weights(policy, value_head)
    optimizer = torch.optim.Adam(
        list(weights.values()), lr=settings.learning_rate, eps=1e-5, fused=True
    )
    order = torch.Generator().manual_seed(settings.seed)
    sampling = torch.Generator(policy.device).manual_seed(settings.seed)
    # What the reference shares is in its fingerprint; unless there is more, nothing is added.
    frozen = frozen_beside(policy, reference)
    run = RunCheckpoint(
        "train_ppo",
        checkpoint,
        settings,
        weights,
        optimizer,
        every=settings.save_every,
        last=settings.cycles,
        generators={"order": order, "sampling": sampling},
        same={
            "prompts": prompts,
            "reference": reference.parameters(),
            "judge": name_of(judge),
            "formulas": ", ".join(name_of(value) for value in vars(used).values()),
            **({"frozen weights": frozen} if frozen else {}),
        },
    )
    loop = _cycles(
        policy, reference, value_head, prompts, judge, settings, used, optimizer, order, sampling,
        run,
    )  # fmt: skip
    return with_memory_advice("train_ppo", loop)


def _cycles(
    policy: LanguagePolicy,
    reference: LanguagePolicy,
    value_head: ValueHead,
    prompts: list[str],
    judge: Judge,
    settings: PPOSettings,
    use: _Formulas,
    optimizer: torch.optim.Optimizer,
    order: torch.Generator,
    sampling: torch.Generator,
    run: RunCheckpoint,
) -> Iterator[PPOStep]:
    s = settings
    weights = optimizer.param_groups[0]["params"]
    shared_body = value_head.policy.model is policy.model
    full_precision = reads_in_full_precision(policy, s.bf16)
    per_token = partial(shaped, "train_ppo")

    def logits_and_values(batch: TokenBatch) -> tuple[Tensor, Tensor]:
        if shared_body:
            return value_head(batch)
        return policy.logits_of(batch), value_head.values_of(batch).to(policy.device)

    # An update of all responses at once reads them with the weights that sampled them, if it is the
    # first: its forward pass gives V_old too, and log π_old where the sampler's will not do.
    one_pass = s.minibatch_size >= s.batch_size and s.accumulate == 1
    first_pass: list[tuple[Tensor, Tensor]] = []

    def old_values_of(batch: TokenBatch) -> Tensor:
        if not one_pass:
            return value_head.values_of(batch)
        with torch.enable_grad():
            first_pass.append(logits_and_values(batch))
        return first_pass[0][1].detach()

    def old_log_probs_of(batch: TokenBatch) -> Tensor:
        return _chosen(first_pass[0][0], batch) if one_pass else policy.log_probs_of(batch)

    done, _, numbers = run.take_up()
    beta = numbers.get("beta", s.beta)
    for cycle in range(done + 1, s.cycles + 1):
        # Phase I: roll out and judge ---------------------------------------------------------
        asked = list(islice(dealt(prompts, order), s.batch_size))
        with sampling_precision(policy, s.bf16):
            rollout = policy.sample(asked, s.max_new_tokens, generator=sampling)
        scores = judged("train_ppo", judge, rollout, first=cycle == 1).to(rollout.log_probs)
        if cycle == 1 and bool((scores == scores[0]).all()):
            raise ValueError(
                f"train_ppo: judge must tell responses apart, got the score {float(scores[0]):g} "
                f"for all {len(scores)} of the first cycle"
            )
        mask = rollout.response_mask
        texts = rollout.to("cpu")  # to know without a wait what is where

        with torch.no_grad(), precision(policy.device, s.bf16):
            size = s.minibatch_size
            reference_log_probs = in_parts(texts, size, reference.log_probs_of).to(mask.device)
            old_values = in_parts(texts, size, old_values_of).to(mask.device)
            old_log_probs = rollout.log_probs
            if not full_precision:  # the sampler rounds in another way than a whole text
                old_log_probs = in_parts(texts, size, old_log_probs_of)
        with torch.no_grad():
            kl = use.kl_estimate(old_log_probs - reference_log_probs)
            rewards = per_token("token_rewards", use.token_rewards(scores, kl, mask, beta), mask)
            advantages = per_token(
                "advantages", use.advantages(rewards, old_values, mask, s.gamma, s.lam), mask
            )
            returns = advantages + old_values  # before whitening: values are in units of the score
            advantages = per_token("whiten", use.whiten(advantages, mask), mask)

        # Phase II: update --------------------------------------------------------------------
        learning_rate = in_a_line(s.learning_rate, s.final_learning_rate, cycle, s.cycles)
        optimizer.zero_grad()  # what the caller or the judge may have left
        measured = torch.full((6,), math.nan)
        updates, norms = [], []
        for rows in minibatches(s.batch_size, s.minibatch_size, s.epochs, order):
            count = texts.response_mask[rows].sum()
            measured = torch.zeros(6, dtype=torch.float64, device=mask.device)
            for part in rows.tensor_split(min(s.accumulate, len(rows))):
                batch = texts.take(part)
                at, counted = moved(mask.device, part, batch.response_mask)
                old, old_value, advantage, wanted = (
                    x[at, : counted.shape[1]]
                    for x in (old_log_probs, old_values, advantages, returns)
                )
                with precision(policy.device, s.bf16):
                    logits, values = first_pass.pop() if first_pass else logits_and_values(batch)
                log_probs = _chosen(logits, batch)
                policy_losses = per_token(
                    "policy_loss", use.policy_loss(log_probs, old, advantage, s.epsilon), counted
                )
                value_losses = per_token(
                    "value_loss",
                    use.value_loss(values, old_value, wanted, s.value_epsilon),
                    counted,
                )
                # Measured always, but only differentiated where it is part of the loss.
                with torch.set_grad_enabled(s.entropy_coefficient > 0):
                    entropies = per_token("entropy", use.entropy(logits), counted)
                loss = use.total_loss(
                    policy_losses, value_losses, entropies, counted,
                    s.value_coefficient, s.entropy_coefficient,
                )  # fmt: skip
                if loss.shape != ():
                    raise ValueError(
                        f"train_ppo: total_loss must give one number, got {tuple(loss.shape)}"
                    )
                tokens = batch.response_mask.sum()
                share = tokens / count  # a part weighs as much as it has tokens
                (share * loss).backward()
                with torch.no_grad():
                    kl_3 = formulas.kl_k3(old - log_probs)
                    means = [
                        formulas.masked_sum(x, counted) / tokens
                        for x in (policy_losses, value_losses, entropies, kl_3)
                    ]
                    clipped = formulas.clip_fraction(log_probs, old, advantage, counted, s.epsilon)
                    measured += share * torch.stack([loss, *means, clipped])
            if s.stop_kl is not None and float(measured[4]) > s.stop_kl:
                optimizer.zero_grad()
                break
            _, norm = gradient_step(
                "train_ppo", f"step {cycle} of {s.cycles}", measured[0], optimizer, weights,
                s.max_gradient_norm, learning_rate,
            )  # fmt: skip
            updates.append(measured)
            norms.append(norm)

        # The new policy takes the old one's place --------------------------------------------
        means = torch.stack(updates or [torch.full_like(measured, math.nan)]).mean(0)
        _, policy_mean, value_mean, entropy_mean, _, clip_mean = means.tolist()
        mean_kl = float(formulas.masked_sum(old_log_probs - reference_log_probs, mask, 1).mean())
        reward = float(scores.mean())
        record = PPOStep(
            step=cycle,
            total=s.cycles,
            reward=reward,
            kl=mean_kl,
            objective=reward - beta * mean_kl,
            beta=beta,
            entropy=entropy_mean,
            clip_fraction=clip_mean,
            explained_variance=_explained_variance(old_values, returns, mask),
            response_length=float(mask.sum(1).double().mean()),
            finished=float(rollout.finished.double().mean()),
            policy_loss=policy_mean,
            value_loss=value_mean,
            update_kl=float(measured[4]),
            gradient_norm=max(norms, default=math.nan),
            learning_rate=learning_rate,
            updates=len(updates),
        )
        if s.kl_target is not None:
            beta = use.adapt(beta, mean_kl, s.kl_target, s.kl_horizon, s.batch_size)
        run.save(cycle, numbers={"beta": beta})
        yield record


# --- pieces of a cycle ----------------------------------------------------------------------------


def _weights(policy: LanguagePolicy, value_head: ValueHead) -> dict[str, Tensor]:
    """All that is trained, by name: the policy, the head, and the body it has of its own."""
    models = {"policy": policy.model, "value_head": value_head}
    if value_head.policy.model is not policy.model:
        models["value_body"] = value_head.policy.model
    return {
        f"{name}.{key}": weight
        for name, model in models.items()
        for key, weight in model.named_parameters()
        if weight.requires_grad
    }


def _chosen(logits: Tensor, batch: TokenBatch) -> Tensor:
    """log π of the response tokens, (B, T), 0 at padding."""
    tokens, mask = moved(logits.device, batch.response_tokens, batch.response_mask)
    tokens = tokens.masked_fill(~mask, 0)
    chosen = -F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none")
    return chosen.view(tokens.shape).masked_fill(~mask, 0)


def _explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    if int(mask.sum()) < 2:
        return math.nan
    variance = float(formulas.masked_variance(returns, mask))
    if variance == 0:
        return math.nan
    return 1 - float(formulas.masked_variance(returns - values, mask)) / variance
