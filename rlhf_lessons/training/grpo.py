"""Policy gradient with groups of responses in the place of a value model (lesson 9).

The algorithm, one cycle::

    Phase I   ask      G responses y ~ π_old(· | x) to each of P prompts
              judge    r(x, y), one score per response; a checker gives 0 or 1
              again    where all scores of a group are equal: other prompts, if asked for
              credit   A = how much better than its group a response is
    Phase II  for each epoch, for each minibatch:
                  one step down  mean of L_policy + β · KL(π ‖ π_ref), token by token

One loop, and each method of the family is a choice of its formulas:

    =========  ===================  ===================  ==================  ================
    method     advantages           policy_loss          mean                settings
    =========  ===================  ===================  ==================  ================
    GRPO       grpo_advantages      dapo_policy_loss     mean_of_responses   (the defaults)
    RLOO       rloo_advantages      dapo_policy_loss     mean_over_length    beta=0
    Dr. GRPO   dr_grpo_advantages   dapo_policy_loss     mean_over_length    beta=0
    DAPO       grpo_advantages      dapo_policy_loss     masked_mean         beta=0, redraws,
                                                                             epsilon_high=0.28
    GSPO       grpo_advantages      gspo_policy_loss     mean_of_responses   beta=0, both ε near
                                                                             3e-4
    CISPO      grpo_advantages      cispo_policy_loss    masked_mean         beta=0
    =========  ===================  ===================  ==================  ================

(With one ε above and below ``dapo_policy_loss`` is PPO's.) In all of them responses that have no
advantage have no gradient, so with β = 0 they are not read again. A loss of your own that has a
term there, too, is noticed, and they are.

Left out on purpose: a value model (``train_ppo``), groups of different sizes, leaving out responses
that were cut, a bonus for entropy, and several devices: ``scale`` hands GRPO to TRL for those.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from rlhf_lessons import formulas
from rlhf_lessons.models import LanguagePolicy, Rollout
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
    check_settings,
    or_none,
    whole,
)
from rlhf_lessons.training.update import gradient_step, precision, with_memory_advice

__all__ = ["GRPOSettings", "GRPOStep", "train_grpo"]


@dataclass(frozen=True)
class GRPOSettings:
    """How to run GRPO and its relatives.

    Attributes:
        cycles: number of cycles of rollout and update.
        group_size: G, responses to each prompt, at least 2.
        batch_size: responses a cycle, a multiple of G: P = batch_size / G prompts.
        redraws: how often in a cycle the groups whose scores are all equal are drawn again, with
            other prompts where there are others. What is left without signal after that is kept.
        max_new_tokens: most tokens of a response, its end token included. A response that is cut
            there counts as it is.
        epochs: passes over the batch in a cycle.
        minibatch_size: responses an update; the last one of a pass may be smaller. Also the number
            of responses in a forward pass without gradient.
        learning_rate: step size of Adam in the first cycle.
        final_learning_rate: step size in the last cycle; between the two it changes in a line.
            None keeps the first.
        beta: KL strength β, 0 or more, in units of the advantage per nat. With 0 there is no
            reference, unless one is given, which is then read to measure the KL alone.
        epsilon_low: how far below 1 the ratio counts, above 0.
        epsilon_high: how far above 1 it counts, above 0; wider than ``epsilon_low`` is DAPO's
            clip-higher.
        max_gradient_norm: largest norm of the gradient; a longer one is shortened to it.
        save_every: cycles between two checkpoints, where a folder for them is given; the last
            cycle is always saved.
        accumulate: parts that a minibatch is split into, each with a forward and a backward pass of
            its own; the gradient is that of the whole minibatch, in less memory.
        bf16: whether the forward passes of policy and reference run in bfloat16, on a CPU sampling,
            too; weights and losses stay in the precision of the model. The sampler rounds in
            another way than a whole text is read, so old log-probs are then read again.
        seed: of the choice of prompts, the sampling and the minibatches.
    """

    cycles: int = 40
    group_size: int = 8
    batch_size: int = 64
    redraws: int = 0
    max_new_tokens: int = 48
    epochs: int = 1
    minibatch_size: int = 64
    learning_rate: float = 5e-4
    final_learning_rate: float | None = None
    beta: float = 0.04
    epsilon_low: float = 0.2
    epsilon_high: float = 0.2
    max_gradient_norm: float = 1.0
    save_every: int = 10
    accumulate: int = 1
    bf16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(
            self,
            cycles=whole(1),
            group_size=whole(2),
            batch_size=whole(2),
            redraws=whole(0),
            max_new_tokens=whole(1),
            epochs=whole(1),
            minibatch_size=whole(1),
            learning_rate=ABOVE_0,
            final_learning_rate=or_none(FROM_0),
            beta=FROM_0,
            epsilon_low=ABOVE_0,
            epsilon_high=ABOVE_0,
            max_gradient_norm=ABOVE_0,
            save_every=whole(1),
            accumulate=whole(1),
            bf16=SWITCH,
            seed=whole(0),
        )
        if self.batch_size % self.group_size:
            raise ValueError(
                f"GRPOSettings: batch_size must be a multiple of group_size = {self.group_size}, "
                f"got {self.batch_size}"
            )


@dataclass(frozen=True)
class GRPOStep:
    """What one cycle did. Scores, KL and lengths are those of its rollout, before the updates.

    Attributes:
        step: which cycle, from 1.
        total: how many cycles there will be.
        reward: mean score of what was drawn first, so that drawing again does not change what it
            estimates; the share that is right, where a checker is the judge.
        kl: mean over responses of Σ_t log π − log π_ref, in nats: an estimate of KL(π ‖ π_ref).
            None without a reference.
        silent_groups: share of the groups, as drawn first, whose scores were all equal.
        redrawn: number of groups that were drawn again.
        left_silent: share of the groups without signal among those learned from.
        entropy: mean of −log π over the sampled tokens, in nats: an estimate of the mean entropy of
            the next-token distribution.
        clip_fraction: share of tokens that had an advantage and no gradient of the policy loss,
            over the updates.
        response_length: mean tokens of a response, the end token included.
        finished: share of the responses that ended by themselves.
        policy_loss: mean over the updates.
        update_kl: KL(π_old ‖ π) per token in nats, measured at the last minibatch that was read.
        gradient_norm: largest norm of a gradient before it was clipped.
        learning_rate: step size of this cycle.
        updates: number of updates. A minibatch of which no response is read makes none; the five
            numbers of the updates are NaN where there were none.
    """

    step: int
    total: int
    reward: float
    kl: float | None
    silent_groups: float
    redrawn: int
    left_silent: float
    entropy: float
    clip_fraction: float
    response_length: float
    finished: float
    policy_loss: float
    update_kl: float
    gradient_norm: float
    learning_rate: float
    updates: int


@dataclass(frozen=True)
class _Formulas:
    advantages: Callable[..., Tensor]
    policy_loss: Callable[..., Tensor]
    mean: Callable[..., Tensor]
    kl_estimate: Callable[[Tensor], Tensor]


def train_grpo(
    policy: LanguagePolicy,
    prompts: Sequence[str],
    judge: Judge,
    settings: GRPOSettings | None = None,
    *,
    reference: LanguagePolicy | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    advantages: Callable[[Tensor], Tensor] = formulas.grpo_advantages,
    policy_loss: Callable[..., Tensor] = formulas.dapo_policy_loss,
    mean: Callable[..., Tensor] = formulas.mean_of_responses,
    kl_estimate: Callable[[Tensor], Tensor] = formulas.kl_k3,
) -> Iterator[GRPOStep]:
    """Train a policy on how much better than its group each response is, without a value model.

        −∇L = mean_t w(ρ_t) · A · ∇ log π(y_t | x, y_{<t}) − β · ∇ KL(π ‖ π_ref)

    The weights of ``policy`` change in place with each record that is taken; stopping between two
    records keeps them.

    Args:
        policy: The policy to train. It must get something right now and then: a group whose scores
            are all equal teaches nothing.
        prompts: The prompts to draw from; each cycle takes P of them without repetition, or all in
            turn where there are fewer.
        judge: ``judge(prompts, responses) -> (B,)`` finite scores, as array, tensor or list; a
            checker gives 0 or 1. The G responses to a prompt stand side by side.
        settings: How to train; None takes the defaults.
        reference: π_ref, another model with the same vocabulary; None takes a frozen copy of the
            policy as it is given where β is above 0, of an adapted one of its adapters alone.
        checkpoint: A folder to save the run to every ``save_every`` cycles. If it holds the
            checkpoint of an interrupted run, the run goes on from there and gives the numbers that
            it would have given without interruption, on a CPU to the last bit. Call it with the
            arguments of the first call: the policy with its first weights, or give the
            ``reference``.
        advantages: ``scores (P, G) -> (P, G)``, such as ``formulas.rloo_advantages``.
        policy_loss: Gives (B, T) losses. It is called by name with those that it takes of
            ``log_probs``, ``old_log_probs``, ``advantages``, ``mask`` (all (B, T)), ``epsilon_low``
            and ``epsilon_high``. Where it is 0 and flat at the advantage 0, as each of the table
            is, and β = 0, responses without advantage are not read.
        mean: Makes one number of the (B, T) losses ``x``; it must be linear in them. It is called
            by name with those that it takes of ``x``, ``mask`` and ``length``, which is
            ``max_new_tokens``.
        kl_estimate: ``log π − log π_ref (B, T) -> (B, T)`` the KL of each token, with gradient.

    Yields:
        One record per cycle.

    Raises:
        TypeError: If prompts are not a list of strings.
        ValueError: If there are no prompts, the policy is frozen, the reference is the same model
            or has another vocabulary, the judge gives the wrong shape, a NaN or (in the first
            cycle) no two scores in any group that differ, all responses of the first cycle are
            empty, a formula asks for what there is not or gives the wrong shape, the checkpoint is
            damaged or belongs to another run, or transformers would not save the policy. No weight
            has changed then, unless by earlier cycles. What the judge itself raises comes through
            as it is, likewise.
        OSError: If the checkpoint cannot be written; what was there before is unchanged.
        FloatingPointError: If the loss or its gradient is not finite; it names the cycle, and the
            weights are those before that update.

    Source:
        Shao et al. 2024, "DeepSeekMath", algorithm 1 and equations 3 and 4 (GRPO); Ahmadian et al.
        2024 (RLOO); Liu et al. 2025 (Dr. GRPO); Yu et al. 2025, "DAPO", algorithm 1; Zheng et al.
        2025 (GSPO); MiniMax 2025 (CISPO).
    """
    settings = GRPOSettings() if settings is None else settings
    prompts = checked_prompts("train_grpo", prompts)
    refuse_frozen("train_grpo", policy)
    used = _Formulas(
        advantages,
        _by_name(
            "policy_loss", policy_loss,
            ("log_probs", "old_log_probs", "advantages", "mask", "epsilon_low", "epsilon_high"),
        ),
        _by_name("mean", mean, ("x", "mask", "length")),
        kl_estimate,
    )  # fmt: skip
    try_saving("train_grpo", policy.model, policy.tokenizer)
    if reference is None and settings.beta > 0:
        reference = policy.copy()
    if reference is not None:
        refuse_shared_weights("train_grpo", policy, reference)
        refuse_other_tokens("train_grpo", policy, reference)
    weights = {n: w for n, w in policy.model.named_parameters() if w.requires_grad}
    optimizer = torch.optim.Adam(
        list(weights.values()), lr=settings.learning_rate, eps=1e-5, fused=True
    )
    order = torch.Generator().manual_seed(settings.seed)
    sampling = torch.Generator(policy.device).manual_seed(settings.seed)
    given = (advantages, policy_loss, mean, kl_estimate)
    run = RunCheckpoint(
        "train_grpo",
        checkpoint,
        settings,
        weights,
        optimizer,
        every=settings.save_every,
        last=settings.cycles,
        generators={"order": order, "sampling": sampling},
        same={
            "prompts": prompts,
            "reference": "none" if reference is None else reference.parameters(),
            "frozen weights": frozen_beside(policy, reference),
            "judge": name_of(judge),
            "formulas": ", ".join(map(name_of, given)),
        },
    )
    loop = _cycles(
        policy, reference, prompts, judge, settings, used, optimizer, order, sampling, run
    )
    return with_memory_advice("train_grpo", loop)


def _cycles(
    policy: LanguagePolicy,
    reference: LanguagePolicy | None,
    prompts: list[str],
    judge: Judge,
    settings: GRPOSettings,
    use: _Formulas,
    optimizer: torch.optim.Optimizer,
    order: torch.Generator,
    sampling: torch.Generator,
    run: RunCheckpoint,
) -> Iterator[GRPOStep]:
    s = settings
    weights = optimizer.param_groups[0]["params"]
    full_precision = reads_in_full_precision(policy, s.bf16)
    per_token = partial(shaped, "train_grpo")

    def draw(asked: list[str], first: bool) -> tuple[Rollout, Tensor]:
        """Sample a group of responses to each prompt; the scores are (P, G)."""
        repeated = [prompt for prompt in asked for _ in range(s.group_size)]
        with sampling_precision(policy, s.bf16):
            rollout = policy.sample(repeated, s.max_new_tokens, generator=sampling)
        scores = judged("train_grpo", judge, rollout, first)
        return rollout, scores.view(-1, s.group_size).clone()  # not the judge's own memory

    reads_all = None  # whether responses without an advantage are read, too
    done, _, _ = run.take_up()
    for cycle in range(done + 1, s.cycles + 1):
        # Phase I: ask, judge, and ask again --------------------------------------------------
        dealing = dealt(prompts, order)
        rollout, scores = draw(list(islice(dealing, s.batch_size // s.group_size)), cycle == 1)
        reward = float(scores.mean())
        silent = without_signal(scores)
        silent_groups, redrawn = float(silent.double().mean()), 0
        for _ in range(s.redraws):
            if not silent.any():
                break
            others, their_scores = draw(list(islice(dealing, int(silent.sum()))), False)
            rows = silent.repeat_interleave(s.group_size).nonzero().flatten()
            rollout, scores[silent] = rollout.replaced(rows, others), their_scores
            redrawn += len(their_scores)
            silent = without_signal(scores)
        if cycle == 1:
            refuse_silence("train_grpo", scores, rollout.prompts[0])
        mask = rollout.response_mask
        texts = rollout.to("cpu")  # to know without a wait what is where
        with torch.no_grad(), precision(policy.device, s.bf16):
            old_log_probs = rollout.log_probs
            if not full_precision:
                old_log_probs = in_parts(texts, s.minibatch_size, policy.log_probs_of)
            reference_log_probs = old_log_probs
            if reference is not None:
                reference_log_probs = in_parts(texts, s.minibatch_size, reference.log_probs_of)
                reference_log_probs = reference_log_probs.to(mask.device)
        with torch.no_grad():
            advantages = use.advantages(scores)
        if not isinstance(advantages, Tensor) or advantages.shape != scores.shape:
            got = tuple(getattr(advantages, "shape", ())) or type(advantages).__name__
            raise ValueError(
                f"train_grpo: advantages must give one value per response, (P, G) = "
                f"{tuple(scores.shape)}, got {got}"
            )
        advantages = advantages.to(old_log_probs).view(-1, 1).expand(mask.shape)
        if reads_all is None:
            reads_all = s.beta > 0 or _acts_without_advantage(use, old_log_probs, mask, s)
        read = ((advantages[:, 0] != 0) | reads_all).cpu()

        # Phase II: update --------------------------------------------------------------------
        learning_rate = in_a_line(s.learning_rate, s.final_learning_rate, cycle, s.cycles)
        optimizer.zero_grad()  # what the caller or the judge may have left
        updates, norms = [], []
        for rows in minibatches(len(mask), s.minibatch_size, s.epochs, order):
            known = texts.response_mask
            weight = torch.zeros(known.shape, dtype=old_log_probs.dtype)
            weight[rows] = _token_weights(use, known[rows], s.max_new_tokens).to(weight)
            (weight,) = moved(mask.device, weight)
            count, rows = known[rows].sum(), rows[read[rows]]
            if len(rows) == 0:
                continue
            count_read = known[rows].sum()
            measured = torch.zeros(4, dtype=torch.float64, device=mask.device)
            for part in rows.tensor_split(min(s.accumulate, len(rows))):
                batch = texts.take(part)
                at, counted = moved(mask.device, part, batch.response_mask)
                old, anchor, advantage, weigh = (
                    x[at, : counted.shape[1]]
                    for x in (old_log_probs, reference_log_probs, advantages, weight)
                )
                with precision(policy.device, s.bf16):
                    log_probs = policy.log_probs_of(batch)
                losses = per_token(
                    "policy_loss",
                    use.policy_loss(
                        log_probs=log_probs, old_log_probs=old, advantages=advantage, mask=counted,
                        epsilon_low=s.epsilon_low, epsilon_high=s.epsilon_high,
                    ),
                    counted,
                )  # fmt: skip
                (slope,) = torch.autograd.grad(losses.sum(), log_probs, retain_graph=True)
                policy_loss = formulas.masked_sum(weigh * losses, counted)
                loss = policy_loss
                if s.beta > 0:
                    kl = per_token("kl_estimate", use.kl_estimate(log_probs - anchor), counted)
                    loss = loss + s.beta * formulas.masked_sum(weigh * kl, counted)
                loss.backward()
                with torch.no_grad():
                    clipped = ((slope == 0) & (advantage != 0) & counted).sum() / count
                    kl_3 = formulas.masked_sum(formulas.kl_k3(old - log_probs), counted)
                    measured += torch.stack([loss, policy_loss, clipped, kl_3 / count_read])
            _, norm = gradient_step(
                "train_grpo", f"step {cycle} of {s.cycles}", measured[0], optimizer, weights,
                s.max_gradient_norm, learning_rate,
            )  # fmt: skip
            updates.append(measured)
            norms.append(norm)

        none = torch.full((4,), math.nan)
        _, policy_mean, clip_mean, _ = torch.stack(updates or [none]).mean(0).tolist()
        away = formulas.masked_sum(old_log_probs - reference_log_probs, mask, 1).mean()
        record = GRPOStep(
            step=cycle,
            total=s.cycles,
            reward=reward,
            kl=None if reference is None else float(away),
            silent_groups=silent_groups,
            redrawn=redrawn,
            left_silent=float(silent.double().mean()),
            entropy=-float(formulas.masked_mean(old_log_probs, mask)),
            clip_fraction=clip_mean,
            response_length=float(mask.sum(1).double().mean()),
            finished=float(rollout.finished.double().mean()),
            policy_loss=policy_mean,
            update_kl=float((updates or [none])[-1][3]),
            gradient_norm=max(norms, default=math.nan),
            learning_rate=learning_rate,
            updates=len(updates),
        )
        run.save(cycle)
        yield record


# --- pieces of a cycle ----------------------------------------------------------------------------


def without_signal(scores: Tensor) -> Tensor:
    """Say of each of (P, G) groups whether its scores are all equal, (P,)."""
    return (scores == scores[:, :1]).all(1)


def refuse_silence(where: str, scores: Tensor, prompt: str) -> None:
    """Refuse (P, G) scores of a first cycle of which no group has a signal; name a prompt."""
    if not without_signal(scores).all():
        return
    raise ValueError(
        f"{where}: judge must tell responses to one prompt apart, got equal scores in each of the "
        f"{len(scores)} groups of the first cycle, such as {float(scores[0, 0]):g} for all "
        f"{scores.shape[1]} responses to {prompt!r:.60}. Prompts that are neither too hard nor too "
        f"easy, a larger group_size or redraws may help"
    )


def _acts_without_advantage(
    use: _Formulas, old_log_probs: Tensor, mask: Tensor, s: GRPOSettings
) -> bool:
    """Say whether the policy loss has a value or a slope where all advantages are 0.

    It is asked beside the ratio 1, where a term that holds the policy would be flat.
    """
    moved = (old_log_probs - 0.1).detach().requires_grad_()
    with torch.enable_grad():
        losses = use.policy_loss(
            log_probs=moved, old_log_probs=old_log_probs, advantages=torch.zeros_like(moved),
            mask=mask, epsilon_low=s.epsilon_low, epsilon_high=s.epsilon_high,
        )  # fmt: skip
        losses = shaped("train_grpo", "policy_loss", losses, mask)
        (slope,) = torch.autograd.grad(losses.sum(), moved)
    return bool(((losses != 0) | (slope != 0))[mask].any())


def _token_weights(use: _Formulas, mask: Tensor, length: int) -> Tensor:
    """Say what each token's loss weighs in the mean of a minibatch, (B, T).

    A mean is linear in what it averages, so its gradient says all of it: parts of the minibatch can
    be passed one by one, and each adds its share.
    """
    x = torch.zeros(mask.shape, dtype=torch.float64, device=mask.device, requires_grad=True)
    with torch.enable_grad():
        total = use.mean(x=x, mask=mask, length=length)
    if not isinstance(total, Tensor) or total.shape != ():
        got = tuple(total.shape) if isinstance(total, Tensor) else type(total).__name__
        raise ValueError(f"train_grpo: mean must give one number, got {got}")
    (weight,) = torch.autograd.grad(total, x)
    of_ones = float(use.mean(x=torch.ones_like(weight), mask=mask, length=length))
    if not math.isclose(of_ones, float(weight.sum()), rel_tol=1e-6, abs_tol=1e-12):
        raise ValueError(
            f"train_grpo: mean must be linear in x, as a mean is, got {of_ones:g} for ones and "
            f"weights that add up to {float(weight.sum()):g}"
        )
    return weight


def _by_name(
    name: str, formula: Callable[..., Any], offered: tuple[str, ...]
) -> Callable[..., Any]:
    """Make a function of all that the loop offers, which hands on what the formula takes."""
    parameters = inspect.signature(formula).parameters.values()
    taken = {p.name for p in parameters if p.name in offered}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        taken = set(offered)
    unknown = [
        p.name
        for p in parameters
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        and p.default is p.empty
        and p.name not in offered
    ]
    if unknown:
        raise ValueError(
            f"train_grpo: {name} must take its arguments by the names {', '.join(offered)}, as "
            f"many of them as it needs, got one that asks for {', '.join(unknown)}"
        )
    return lambda **values: formula(**{key: values[key] for key in taken})
