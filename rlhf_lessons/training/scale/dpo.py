"""DPO in TRL's hands: the pairs of ``train_dpo``, two responses a row, beside a reference."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from typing import Any

from rlhf_lessons.training.dpo import DPOSettings, DPOStep, Pairs
from rlhf_lessons.training.scale.handed import (
    AnyTemplate,
    Method,
    OurCourse,
    Run,
    arguments,
    cut_rows,
    drawn_pairs,
    half_cosine,
    in_words,
    parts_of,
    reference_beside,
    refuse_uneven,
    reporting,
    supervised_words,
    whole_policy,
    without_dropout,
)
from rlhf_lessons.training.scale.launched import launched
from rlhf_lessons.worlds.preferences import load_preferences

__all__: list[str] = []


def train_dpo_with_trl(
    policy: str | os.PathLike[str],
    pairs: str | os.PathLike[str],
    output: str | os.PathLike[str],
    settings: DPOSettings | None = None,
    *,
    processes: int = 2,
    reference: str | os.PathLike[str] | None = None,
    validation: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    cpu: bool = False,
) -> Iterator[DPOStep]:
    """Train by DPO in processes of their own, with TRL and Accelerate, one update a step.

    θ ← θ − lr · ∇ (1/P) Σ_p mean over the pairs of process p of loss

    Args:
        policy: a folder that ``LanguagePolicy.save_pretrained`` wrote, or a name on the hub.
        pairs: a file or folder of prompt, chosen and rejected that ``load_preferences`` reads;
            messages become text by the policy's chat template.
        output: the folder for the trained model; must not exist yet.
        settings: those of ``train_dpo``, with the same meaning.
        processes: how many processes share each batch, one a GPU.
        reference: folder or name of π_ref; the policy as it is at the start when left out.
        validation: the same of held-out pairs; None measures nothing.
        checkpoint: a folder for TRL's checkpoints, from which a run of the same settings goes on.
        cpu: stay on the CPU although there is a GPU.

    Yields:
        A ``DPOStep`` after each update, as ``train_dpo`` does; TRL counts a tie as wrong, so its
        accuracy is 0 at the start and not ½. Leaving the loop early ends the processes.

    Raises:
        ModuleNotFoundError: TRL, Accelerate or Datasets is missing; says how to install them.
        FileNotFoundError: there is no file of pairs.
        ValueError: a bad line in it, a batch that cannot be shared out, an output that is there.
        RuntimeError: the processes ended with an error, which the message repeats.
    """
    return launched(
        "train_dpo_with_trl", METHOD, settings, processes, cpu, policy=policy, pairs=pairs,
        output=output, reference=reference, validation=validation, checkpoint=checkpoint,
    )  # fmt: skip


def _words(settings: DPOSettings, processes: int) -> dict[str, Any]:
    """Say the settings in the words of ``trl.DPOConfig``."""
    s, parts = settings, parts_of(settings, processes)
    refuse_uneven("batch_size", s.batch_size, s, processes, "pairs")
    return in_words(s, {**supervised_words(s, s.batch_size // parts), "beta": {"beta": s.beta}})


def _check(given: argparse.Namespace, _: Any) -> None:
    for file in (given.pairs, given.validation):
        if file is not None:
            load_preferences(file, tokenizer=AnyTemplate())


def _trainer(
    given: argparse.Namespace, settings: DPOSettings, run: Run
) -> tuple[Any, Callable[[], None]]:
    """Build TRL's trainer with our tokens, our order of pairs and our course of the step size."""
    import trl
    from datasets import Dataset

    policy = whole_policy("policy", given.policy)
    reference = reference_beside(policy, given)

    def read(name: str) -> Pairs | None:
        file = getattr(given, name)
        if file is None:
            return None
        return Pairs.encode(policy, load_preferences(file, tokenizer=policy.tokenizer), name)

    pairs, held_out = read("pairs"), read("validation")

    class Trainer(OurCourse, trl.DPOTrainer):
        order, course = drawn_pairs(len(pairs), settings), staticmethod(half_cosine(settings))

    without_dropout(policy.model)
    trainer = Trainer(
        model=policy.model,
        ref_model=reference.model,
        args=trl.DPOConfig(
            **arguments(run, held_out is not None),
            **_words(settings, run.processes),
            max_length=None,  # texts that do not fit were refused, none is cut
            precompute_ref_log_probs=False,
        ),
        processing_class=policy.tokenizer,
        train_dataset=Dataset.from_list(_rows(pairs)),
        eval_dataset=None if held_out is None else Dataset.from_list(_rows(held_out)),
    )

    def record(step: int, logs: dict[str, Any], measured: dict[str, Any]) -> DPOStep:
        chosen, rejected = logs["rewards/chosen"], logs["rewards/rejected"]
        return DPOStep(
            step=step,
            total=settings.steps,
            loss=logs["loss"],
            chosen_reward=chosen,
            rejected_reward=rejected,
            margin=logs["rewards/margins"],
            accuracy=logs["rewards/accuracies"],
            chosen_log_prob=logs["logps/chosen"],
            rejected_log_prob=logs["logps/rejected"],
            kl=-(chosen + rejected) / (2 * settings.beta),
            gradient_norm=logs["grad_norm"],
            learning_rate=logs["learning_rate"],
            validation_loss=measured.get("eval_loss"),
            validation_accuracy=measured.get("eval_rewards/accuracies"),
        )

    reporting(trainer, record, run.report)
    return trainer, lambda: None


def _rows(pairs: Pairs) -> list[dict[str, list[int]]]:
    """Give each pair as the token ids that TRL's collator reads."""
    t, count = pairs.tokens, len(pairs)
    prompts = list(cut_rows(t.prompt_tokens, t.prompt_mask))
    responses = list(cut_rows(t.response_tokens, t.response_mask))
    return [
        {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
        for prompt, chosen, rejected in zip(
            prompts[:count], responses[:count], responses[count:], strict=True
        )
    ]


METHOD = Method(
    name="dpo", settings=DPOSettings, step=DPOStep, model="policy", data="pairs", needs=(),
    takes=("reference", "validation"), words=_words, check=_check, trainer=_trainer,
)  # fmt: skip
