"""Learning from what was right: sample, keep what the judge accepts, fine-tune on it (lesson 9).

    repeat:  sample     G responses y ~ π(· | x) to each of P prompts
             judge      r(x, y), one score per response; a checker gives 0 or 1
             keep       those with r ≥ the least accepted score that ended by themselves
             fine-tune  π on them, as ``train_sft`` does

No advantage, no ratio, no reference: rejection sampling, and the loop of lesson 2. One update on
what was kept follows the gradient of log π where r = 1, which is the policy gradient with baseline
0: nothing pushes a wrong response down but that right ones are pushed up. With one round it is
rejection sampling fine-tuning.

Left out on purpose: starting each round from the first policy (STaR does; call it with a copy and
one round), leaving out responses that were drawn twice (what is drawn often is learned often), and
wrong answers turned right by a hint.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch

from rlhf_lessons.models import LanguagePolicy
from rlhf_lessons.models.saved_model import try_saving
from rlhf_lessons.training.reference import refuse_frozen
from rlhf_lessons.training.rollouts import Judge, checked_prompts, dealt, judged
from rlhf_lessons.training.run_checkpoint import RunCheckpoint, name_of
from rlhf_lessons.training.settings import NUMBER, Rule, check_settings, whole
from rlhf_lessons.training.supervised import SupervisedSettings, train_sft
from rlhf_lessons.training.update import with_memory_advice

__all__ = ["ExpertIterationSettings", "ExpertIterationStep", "train_expert_iteration"]


@dataclass(frozen=True)
class ExpertIterationSettings:
    """How to learn from accepted samples.

    Attributes:
        rounds: number of rounds of sampling and fine-tuning.
        group_size: G, responses to each prompt.
        batch_size: responses a round, a multiple of G: P = batch_size / G prompts.
        max_new_tokens: most tokens of a response, its end token included. What is cut there is
            judged, and never kept.
        least_score: the lowest score that is accepted.
        fine_tuning: how to learn from what was kept in a round; its step size rises and falls anew
            in each, its seed grows by 1.
        save_every: rounds between two checkpoints, where a folder for them is given; the last
            round is always saved.
        seed: of the choice of prompts and the sampling.
    """

    rounds: int = 5
    group_size: int = 8
    batch_size: int = 512
    max_new_tokens: int = 48
    least_score: float = 1.0
    fine_tuning: SupervisedSettings = field(
        default_factory=lambda: SupervisedSettings(steps=20, batch_size=64, learning_rate=1e-3)
    )
    save_every: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(
            self,
            rounds=whole(1),
            group_size=whole(1),
            batch_size=whole(1),
            max_new_tokens=whole(1),
            least_score=NUMBER,
            fine_tuning=Rule(
                "SupervisedSettings", lambda value: isinstance(value, SupervisedSettings)
            ),
            save_every=whole(1),
            seed=whole(0),
        )
        if self.batch_size % self.group_size:
            raise ValueError(
                f"ExpertIterationSettings: batch_size must be a multiple of group_size = "
                f"{self.group_size}, got {self.batch_size}"
            )


@dataclass(frozen=True)
class ExpertIterationStep:
    """What one round did. Scores and lengths are those of its samples, before the fine-tuning.

    Attributes:
        step: which round, from 1.
        total: how many rounds there will be.
        reward: mean score; the share that is right, where a checker is the judge.
        solved: share of the prompts with a response that was accepted.
        kept: number of responses that were learned from.
        response_length: mean tokens of a response, the end token included.
        finished: share of the responses that ended by themselves.
        loss: mean loss per token of the last batch of fine-tuning in nats; None where nothing was
            kept, and nothing learned.
    """

    step: int
    total: int
    reward: float
    solved: float
    kept: int
    response_length: float
    finished: float
    loss: float | None


def train_expert_iteration(
    policy: LanguagePolicy,
    prompts: Sequence[str],
    judge: Judge,
    settings: ExpertIterationSettings | None = None,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Iterator[ExpertIterationStep]:
    """Fine-tune a policy on those of its own responses that a judge accepts, round after round.

        −∇L = 1/N · Σ over kept y, Σ_t ∇ log π(y_t | x, y_{<t}), with N their tokens

    The weights of ``policy`` change in place with each record that is taken; stopping between two
    records keeps them.

    Args:
        policy: The policy to train. It must get something right now and then.
        prompts: The prompts to draw from; each round takes P of them without repetition, or all in
            turn where there are fewer.
        judge: ``judge(prompts, responses) -> (B,)`` finite scores, as array, tensor or list; a
            checker gives 0 or 1. The G responses to a prompt stand side by side.
        settings: How to train; None takes the defaults.
        checkpoint: A folder to save the run to every ``save_every`` rounds. If it holds the
            checkpoint of an interrupted run, the run goes on from there and gives the numbers that
            it would have given without interruption, on a CPU to the last bit. Call it with the
            arguments of the first call, the policy with the weights it had then.

    Yields:
        One record per round.

    Raises:
        TypeError: If prompts are not a list of strings.
        ValueError: If there are no prompts, the policy is frozen, the judge gives the wrong shape,
            a NaN or (in the first round) no response that can be kept, all responses of the first
            round are empty, the checkpoint is damaged or belongs to another run, or transformers
            would not save the policy. No weight has changed then, unless by earlier rounds. What
            the judge itself raises comes through as it is, likewise.
        OSError: If the checkpoint cannot be written; what was there before is unchanged.
        FloatingPointError: If loss or gradient of the fine-tuning is not finite; the weights are
            those before that update.

    Source:
        Anthony et al. 2017, "Thinking Fast and Slow with Deep Learning and Tree Search" (the name);
        Zelikman et al. 2022, "STaR"; Yuan et al. 2023, "Scaling Relationship on Learning
        Mathematical Reasoning with Large Language Models" (rejection sampling fine-tuning).
    """
    settings = ExpertIterationSettings() if settings is None else settings
    prompts = checked_prompts("train_expert_iteration", prompts)
    refuse_frozen("train_expert_iteration", policy)
    try_saving("train_expert_iteration", policy.model, policy.tokenizer)
    named = dict(policy.model.named_parameters())
    order = torch.Generator().manual_seed(settings.seed)
    sampling = torch.Generator(policy.device).manual_seed(settings.seed)
    run = RunCheckpoint(
        "train_expert_iteration",
        checkpoint,
        settings,
        {name: weight for name, weight in named.items() if weight.requires_grad},
        None,  # each round has an optimizer of its own
        every=settings.save_every,
        last=settings.rounds,
        generators={"order": order, "sampling": sampling},
        same={"prompts": prompts, "policy": named.values(), "judge": name_of(judge)},
    )
    loop = _rounds(policy, prompts, judge, settings, order, sampling, run)
    return with_memory_advice("train_expert_iteration", loop)


def _rounds(
    policy: LanguagePolicy,
    prompts: list[str],
    judge: Judge,
    settings: ExpertIterationSettings,
    order: torch.Generator,
    sampling: torch.Generator,
    run: RunCheckpoint,
) -> Iterator[ExpertIterationStep]:
    s = settings
    done, _, _ = run.take_up()
    for at in range(done + 1, s.rounds + 1):
        asked = list(islice(dealt(prompts, order), s.batch_size // s.group_size))
        repeated = [prompt for prompt in asked for _ in range(s.group_size)]
        rollout = policy.sample(repeated, s.max_new_tokens, generator=sampling)
        scores = judged("train_expert_iteration", judge, rollout, at == 1)
        accepted = scores >= s.least_score
        # A response that was cut has no end token, and would be taught one.
        kept = (accepted & rollout.finished.to(accepted.device)).nonzero().flatten().tolist()
        if at == 1 and not kept:
            raise ValueError(
                f"train_expert_iteration: judge must accept something, got no finished response "
                f"with a score of {s.least_score:g} or more among the {len(scores)} of the first "
                f"round; the highest score is {float(scores.max()):g}. Tasks that are less hard, "
                f"a larger group_size or more fine-tuning before it may help"
            )
        loss = None
        if kept:
            examples = [(rollout.prompts[row], rollout.responses[row]) for row in kept]
            tuning = dataclasses.replace(s.fine_tuning, seed=s.fine_tuning.seed + at - 1)
            for update in train_sft(policy, examples, tuning):
                loss = update.loss
        record = ExpertIterationStep(
            step=at,
            total=s.rounds,
            reward=float(scores.mean()),
            solved=float(accepted.view(-1, s.group_size).any(1).double().mean()),
            kept=len(kept),
            response_length=float(rollout.response_mask.sum(1).double().mean()),
            finished=float(rollout.finished.double().mean()),
            loss=loss,
        )
        run.save(at)
        yield record
