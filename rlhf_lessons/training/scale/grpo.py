"""GRPO in TRL's hands: the prompts, draws and minibatches of ``train_grpo``.

Sampling, judging and learning are shared out: a process draws and judges whole groups and reads its
part of each minibatch. The draws are those of ``train_grpo``, because our sampler takes them as
numbers: every process draws the numbers of all responses and uses those of its own. So is the
division into minibatches, since every process sees all samples, which are a few numbers a token
beside the model.

TRL's part is the rest: log-probabilities under policy and reference, advantages, the clipped loss
with its KL, gradients, and their exchange. It must be told one thing about reading. It pads prompts
on the left and lets models count positions from there, so that one with learned positions (GPT-2)
would read a short prompt beside a long one as another text.
"""

from __future__ import annotations

import argparse
import inspect
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from rlhf_lessons import formulas
from rlhf_lessons.models import RewardModel
from rlhf_lessons.training.grpo import GRPOSettings, GRPOStep, refuse_silence, without_signal
from rlhf_lessons.training.rollouts import Judge, dealt, judge_named, judged, minibatches
from rlhf_lessons.training.scale.handed import (
    Method,
    OurCourse,
    Run,
    arguments,
    cut_rows,
    in_words,
    parts_of,
    reference_beside,
    refuse_uneven,
    reporting,
    whole_policy,
    without_dropout,
)
from rlhf_lessons.training.scale.launched import launched
from rlhf_lessons.training.schedule import in_a_line
from rlhf_lessons.worlds.examples import load_prompts

__all__: list[str] = []


def train_grpo_with_trl(
    policy: str | os.PathLike[str],
    prompts: str | os.PathLike[str],
    judge: str | os.PathLike[str],
    output: str | os.PathLike[str],
    settings: GRPOSettings | None = None,
    *,
    processes: int = 2,
    reference: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    cpu: bool = False,
) -> Iterator[GRPOStep]:
    """Train by GRPO in processes of their own, with TRL and Accelerate, one cycle a step.

    θ ← θ − lr · ∇ (1/P) Σ_p mean over the responses of process p of the mean over their tokens of
    (clipped loss + β · k3)

    Args:
        policy: a folder that ``LanguagePolicy.save_pretrained`` wrote, or a name on the hub.
        prompts: a file or folder with a column ``prompt`` that ``load_prompts`` reads.
        judge: ``module:function``, which each process imports, from the working folder too: called
            with prompts and responses, the G responses to a prompt side by side, it gives finite
            scores. A class in its place is made without arguments. Or the folder of a reward model.
        output: the folder for the trained model; must not exist yet.
        settings: those of ``train_grpo``, with the same meaning; ``redraws`` has no counterpart in
            TRL and must be 0.
        processes: how many processes share each batch, one a GPU; each takes whole groups.
        reference: folder or name of π_ref; the policy as it is at the start when left out. None may
            be given where β is 0, since TRL then reads none.
        checkpoint: a folder for TRL's checkpoints, from which a run of the same settings goes on.
        cpu: stay on the CPU although there is a GPU.

    Yields:
        A ``GRPOStep`` after each cycle, as ``train_grpo`` does with its default formulas. Leaving
        the loop early ends the processes.

    Raises:
        ModuleNotFoundError: TRL, Accelerate or Datasets is missing; says how to install them.
        FileNotFoundError: there is no file of prompts.
        ValueError: a bad line in it, a judge that cannot be imported, a batch that cannot be shared
            out, a setting without a counterpart, an output that is there.
        RuntimeError: the processes ended with an error, which the message repeats; so also where
            the judge fails, or gives equal scores in all groups of the first cycle.
    """
    return launched(
        "train_grpo_with_trl", METHOD, settings, processes, cpu, policy=policy, prompts=prompts,
        judge=judge, output=output, reference=reference, checkpoint=checkpoint,
    )  # fmt: skip


# --- settings and files ---------------------------------------------------------------------------


def _minibatch(settings: GRPOSettings) -> int:
    """Count the responses of an update."""
    return min(settings.minibatch_size, settings.batch_size)


def _updates(settings: GRPOSettings) -> int:
    """Count the updates of a cycle."""
    return settings.epochs * (settings.batch_size // _minibatch(settings))


def _words(settings: GRPOSettings, processes: int) -> dict[str, Any]:
    """Say the settings in the words of ``trl.GRPOConfig``."""
    s, parts, minibatch = settings, parts_of(settings, processes), _minibatch(settings)
    refuse_uneven("minibatch_size", minibatch, s, processes, "responses")
    if s.batch_size % minibatch:
        raise ValueError(
            f"scale: batch_size must be a multiple of minibatch_size = {minibatch}, since all "
            f"updates of TRL are of one size, got {s.batch_size}"
        )
    groups = s.batch_size // s.group_size
    if groups % processes:
        raise ValueError(
            f"scale: batch_size must hold as many groups for each of the {processes} processes, "
            f"got {groups} groups of group_size = {s.group_size} in {s.batch_size}"
        )
    return in_words(
        s,
        {
            "cycles": {"max_steps": s.cycles * _updates(s)},
            "group_size": {"num_generations": s.group_size},
            "batch_size": {"steps_per_generation": s.batch_size // minibatch * s.accumulate},
            "redraws": None,
            "max_new_tokens": {"max_completion_length": s.max_new_tokens},
            "epochs": {"num_iterations": s.epochs},
            "minibatch_size": {"per_device_train_batch_size": minibatch // parts},
            "learning_rate": {"learning_rate": s.learning_rate},
            "final_learning_rate": {},  # in the course of the step size
            "beta": {"beta": s.beta},
            "epsilon_low": {"epsilon": s.epsilon_low},
            "epsilon_high": {"epsilon_high": s.epsilon_high},
            "max_gradient_norm": {"max_grad_norm": s.max_gradient_norm},
            "save_every": {"save_steps": s.save_every * _updates(s)},
            "accumulate": {"gradient_accumulation_steps": s.accumulate},
            "bf16": {"bf16": s.bf16},
            "seed": {"seed": s.seed},
        },
    )


def _check(given: argparse.Namespace, settings: GRPOSettings) -> None:
    if given.reference is not None and settings.beta == 0:
        raise ValueError(
            "scale: reference must be left out where beta is 0, since TRL then reads none"
        )
    load_prompts(given.prompts)
    _judge(given.judge)


def _judge(name: str | os.PathLike[str]) -> Judge:
    """Import a judge, or load a reward model."""
    if re.fullmatch(r"[\w.]+:[\w.]+", os.fspath(name)):
        return judge_named("scale", os.fspath(name))
    return RewardModel.from_pretrained(name)


# --- what is drawn, whoever draws it --------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """What ``train_grpo`` draws that does not depend on what the policy says.

    Attributes:
        rows: of each cycle the prompts, a row of the file for each group.
        parts: of each cycle the responses of each forward pass of each update.
    """

    rows: list[list[int]]
    parts: list[list[Tensor]]

    @classmethod
    def of(cls, prompts: int, settings: GRPOSettings) -> _Plan:
        """Draw as ``train_grpo`` does: the prompts of a cycle, then its minibatches."""
        s, order = settings, torch.Generator().manual_seed(settings.seed)
        plan = cls([], [])
        for _ in range(s.cycles):
            dealing = dealt(range(prompts), order)
            plan.rows.append(list(islice(dealing, s.batch_size // s.group_size)))
            updates = minibatches(s.batch_size, _minibatch(s), s.epochs, order)
            plan.parts.append([part for rows in updates for part in rows.chunk(s.accumulate)])
        return plan

    def order(self, group_size: int) -> list[int]:
        """Give the rows that TRL reads: those of a cycle again for each of its forward passes."""
        return [
            row
            for rows, parts in zip(self.rows, self.parts, strict=True)
            for _ in parts
            for row in rows
            for _ in range(group_size)
        ]


class _Draws:
    """The numbers with which responses are drawn, of one cycle after the other.

    Args:
        settings: of the run.
        device: where the policy is; another kind of device draws other numbers.
    """

    def __init__(self, settings: GRPOSettings, device: torch.device) -> None:
        self._shape = (settings.max_new_tokens, settings.batch_size)
        self._generator = torch.Generator(device).manual_seed(settings.seed)
        self._done = 0

    def of(self, cycle: int) -> Tensor:
        """Give the (max_new_tokens, B) numbers of a cycle, counted from 0; no cycle comes again."""
        while self._done <= cycle:  # a run that is taken up draws those of the cycles before
            numbers = torch.rand(
                self._shape, generator=self._generator, device=self._generator.device
            )
            self._done += 1
        return numbers


# --- the trainer ----------------------------------------------------------------------------------


def _trainer(
    given: argparse.Namespace, settings: GRPOSettings, run: Run
) -> tuple[Any, Callable[[], None]]:
    """Build TRL's trainer with our samples, our minibatches and our course of the step size."""
    import trl
    from accelerate.utils import gather_object
    from datasets import Dataset
    from trl.models import unwrap_model_for_generation

    s, updates = settings, _updates(settings)
    policy, prompts = whole_policy("policy", given.policy), load_prompts(given.prompts)
    judge = _judge(given.judge)
    policy.encode(prompts)  # refuses what does not fit
    own_name = policy.model.config._name_or_path
    if s.beta > 0:  # TRL loads the model of this name as the reference
        policy.model.config._name_or_path = reference_beside(policy, given).model.name_or_path
    plan = _Plan.of(len(prompts), s)

    class Trainer(OurCourse, trl.GRPOTrainer):
        order = plan.order(s.group_size)
        draws: _Draws | None = None
        sampled: dict[str, Tensor]  # of this process, then of all
        measured: list[Tensor] = []  # of each forward pass since the last update

        @staticmethod
        def course(done: int) -> float:
            cycle = min(done // updates + 1, s.cycles)
            first, last = s.learning_rate, s.final_learning_rate
            return in_a_line(first, last, cycle, s.cycles) / first

        @property
        def cycle(self) -> int:
            """Which cycle this is, from 0."""
            return self.state.global_step // updates

        def rollout(self, asked: list[str]) -> dict[str, list[Any]]:
            """Draw and judge this process's share of the responses."""
            self.draws = self.draws or _Draws(s, policy.device)
            mine = slice(run.place * len(asked), (run.place + 1) * len(asked))
            with (
                unwrap_model_for_generation(self.model_wrapped, self.accelerator),
                self._dist.summon_full_params(self.model_wrapped, recurse=False),
            ):
                rollout = policy.sample(
                    asked, s.max_new_tokens, uniforms=self.draws.of(self.cycle)[:, mine]
                )
            scores, problem = None, None
            try:
                scores = judged("scale", judge, rollout, self.cycle == 0)
            except Exception as error:
                problem = error
            said = gather_object(
                [None if problem is None else f"{type(problem).__name__}: {problem}"]
            )
            if problem is not None:
                raise problem
            if failed := [place for place, text in enumerate(said) if text is not None]:
                raise ValueError(
                    f"scale: the judge failed in process {failed[0]}: {said[failed[0]]}"
                )
            self.sampled = {"scores": scores, "finished": rollout.finished}
            self.sampled = {k: v.to(self.accelerator.device) for k, v in self.sampled.items()}
            return {
                "prompt_ids": list(cut_rows(rollout.prompt_tokens, rollout.prompt_mask)),
                "completion_ids": list(cut_rows(rollout.response_tokens, rollout.response_mask)),
                "logprobs": list(cut_rows(rollout.log_probs, rollout.response_mask)),
                "score": scores.tolist(),
            }

        def _prepare_inputs(self, asked: Any) -> dict[str, Tensor]:
            """Sample where a cycle begins, and give this process its part of a minibatch."""
            parts = plan.parts[self.cycle]
            if self._step % len(parts) == 0 or self._buffered_inputs is None:
                self._buffered_inputs = self._all(self._generate_and_score_completions(asked))
                scores = self.sampled["scores"].view(-1, s.group_size)
                if self.cycle == 0:
                    refuse_silence("scale", scores, prompts[plan.rows[0][0]])
            rows = parts[self._step % len(parts)].chunk(run.processes)[run.place]
            rows = rows.to(self.accelerator.device)
            return {
                name: value[rows] if value.ndim else value
                for name, value in self._buffered_inputs.items()
            }

        def _all(self, mine: dict[str, Tensor]) -> dict[str, Tensor]:
            """Gather the samples of all processes, each padded to the longest."""

            def gathered(name: str, value: Tensor) -> Tensor:
                if value.ndim == 2:
                    value = self.accelerator.pad_across_processes(
                        value, dim=1, pad_first=name.startswith("prompt")
                    )
                return self.accelerator.gather(value) if value.ndim else value

            self.sampled = {name: gathered(name, value) for name, value in self.sampled.items()}
            return {name: gathered(name, value) for name, value in mine.items()}

        def _get_per_token_logps_and_entropies(self, *read: Any, **how: Any) -> Any:
            found = super()._get_per_token_logps_and_entropies(*read, **how)
            if how.get("compute_entropy"):  # that of an update
                self.log_probs = found[0].detach()
            return found

        def _compute_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
            loss = super()._compute_loss(model, inputs)
            with torch.no_grad():
                mine = _measured(self.log_probs, inputs, s)
            self.measured.append(self.accelerator.reduce(mine, "sum"))
            return loss

    without_dropout(policy.model)
    takes_positions = "position_ids" in inspect.signature(type(policy.model).forward).parameters

    def score(completions: list[str], score: list[float], **_: Any) -> list[float]:
        return score

    trainer = Trainer(
        model=policy.model,
        reward_funcs=score,
        args=trl.GRPOConfig(
            **arguments(run, False),
            **_words(s, run.processes),
            adam_epsilon=1e-5,
            weight_decay=0.0,
            loss_type="grpo",
            scale_rewards="group",
            importance_sampling_level="token",
            use_bias_correction_kl=False,  # or the KL would be times the ratio
            temperature=1.0,
            disable_dropout=True,  # of the reference, which TRL loads
            remove_unused_columns=False,
        ),
        processing_class=policy.tokenizer,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        rollout_func=lambda asked, trainer: trainer.rollout(asked),
    )
    policy.model.config._name_or_path = own_name
    if isinstance(judge, RewardModel):
        judge.model.to(trainer.accelerator.device)
    if takes_positions:
        for model in (policy.model, trainer.ref_model):
            if model is not None:
                model.register_forward_pre_hook(_count_positions, with_kwargs=True)
    reporting(trainer, _Records(trainer, s), run.report)
    return trainer, lambda: None


def _count_positions(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
    """Before a forward pass: let the first token of each row that counts be at position 0."""
    tokens, mask = named.get("input_ids"), named.get("attention_mask")
    if tokens is not None and mask is not None and mask.shape == tokens.shape:
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)
        named = {"position_ids": positions, **named}
    return given, named


def _measured(log_probs: Tensor, inputs: dict[str, Tensor], s: GRPOSettings) -> Tensor:
    """Measure a forward pass: sums over its tokens, to be added up over passes and processes.

    Gives (5,): the sum over responses of their mean k3 to the reference, tokens whose gradient is
    clipped, all tokens, the sum of k3 from the policy that sampled over the tokens that are read,
    and how many those are.
    """
    mask = inputs["completion_mask"].bool()
    old = inputs.get("old_per_token_logps", log_probs)
    anchor = inputs.get("ref_per_token_logps", log_probs)
    advantages = inputs["advantages"].unsqueeze(1).expand_as(log_probs)
    clipped = formulas.clip_fraction(
        log_probs, old, advantages, mask, s.epsilon_low, s.epsilon_high
    )
    read = mask if s.beta > 0 else mask & (advantages != 0)
    return torch.stack(
        [
            formulas.masked_mean(formulas.kl_k3(log_probs - anchor), mask, 1).sum(),
            clipped * mask.sum(),
            mask.sum(),
            formulas.masked_sum(formulas.kl_k3(old - log_probs), read),
            read.sum(),
        ]
    ).double()


class _Records:
    """Makes a ``GRPOStep`` of the updates of a cycle.

    Args:
        trainer: what was trained.
        settings: of the run.
    """

    def __init__(self, trainer: Any, settings: GRPOSettings) -> None:
        self._trainer, self._settings = trainer, settings
        self._logged: list[dict[str, float]] = []

    def __call__(
        self, step: int, logs: dict[str, Any], measured: dict[str, Any]
    ) -> GRPOStep | None:
        s, trainer = self._settings, self._trainer
        passes, trainer.measured = torch.stack(trainer.measured).sum(0).tolist(), []
        kl, clipped, tokens, away, read = passes
        self._logged.append(
            {
                # TRL's loss holds the KL.
                "policy_loss": logs["loss"] - s.beta * kl / _minibatch(s),
                "clip_fraction": clipped / tokens,
                "update_kl": away / read if read else math.nan,
                "gradient_norm": logs["grad_norm"],
            }
        )
        if step % _updates(s):
            return None
        logged, self._logged = self._logged, []
        whole, sampled = trainer._buffered_inputs, trainer.sampled
        mask = whole["completion_mask"].bool()
        old = whole["sampling_per_token_logps"]
        silent = without_signal(sampled["scores"].view(-1, s.group_size)).double().mean()
        kl = None
        if s.beta > 0:
            kl = formulas.masked_sum(old - whole["ref_per_token_logps"], mask, 1).mean().item()
        return GRPOStep(
            step=step // _updates(s),
            total=s.cycles,
            reward=float(sampled["scores"].mean()),
            kl=kl,
            silent_groups=float(silent),
            redrawn=0,
            left_silent=float(silent),
            entropy=-float(formulas.masked_mean(old, mask)),
            clip_fraction=sum(one["clip_fraction"] for one in logged) / len(logged),
            response_length=float(mask.sum(1).double().mean()),
            finished=float(sampled["finished"].double().mean()),
            policy_loss=sum(one["policy_loss"] for one in logged) / len(logged),
            update_kl=logged[-1]["update_kl"],
            gradient_norm=max(one["gradient_norm"] for one in logged),
            learning_rate=logs["learning_rate"],
            updates=len(logged),
        )


METHOD = Method(
    name="grpo", settings=GRPOSettings, step=GRPOStep, model="policy", data="prompts",
    needs=("judge",), takes=("reference",), words=_words, check=_check, trainer=_trainer,
)  # fmt: skip
