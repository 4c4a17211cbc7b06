"""Fitting a reward model in TRL's hands: the pairs of ``train_reward_model``, two rows a pair."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch

from rlhf_lessons.models import RewardModel
from rlhf_lessons.training.reward_model import Pairs, RewardSettings, RewardStep, as_pairs
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
    refuse_uneven,
    reporting,
    supervised_words,
    without_dropout,
)
from rlhf_lessons.training.scale.launched import launched
from rlhf_lessons.worlds.preferences import load_preferences

__all__: list[str] = []


def train_reward_model_with_trl(
    reward_model: str | os.PathLike[str],
    preferences: str | os.PathLike[str],
    output: str | os.PathLike[str],
    settings: RewardSettings | None = None,
    *,
    processes: int = 2,
    validation: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    cpu: bool = False,
) -> Iterator[RewardStep]:
    """Fit a reward model in processes of their own, with TRL and Accelerate, one update a step.

    θ ← θ − lr · ∇ (1/P) Σ_p mean over the pairs of process p of −log σ(r(chosen) − r(rejected))

    Args:
        reward_model: a folder that ``RewardModel.save_pretrained`` wrote, at the start in general
            that of ``RewardModel.from_policy(policy)``, or a name on the hub.
        preferences: a file or folder of prompt, chosen and rejected that ``load_preferences``
            reads; messages become text by the chat template of the model's tokenizer.
        output: the folder for the trained model, which ``RewardModel.from_pretrained`` loads; must
            not exist yet.
        settings: those of ``train_reward_model``, with the same meaning; ``average`` has no
            counterpart in TRL and must be 0.
        processes: how many processes share each batch, one a GPU.
        validation: the same of held-out pairs; None measures nothing.
        checkpoint: a folder for TRL's checkpoints, from which a run of the same settings goes on.
        cpu: stay on the CPU although there is a GPU.

    Yields:
        A ``RewardStep`` after each update, as ``train_reward_model`` does; TRL counts a tie as
        wrong, so its accuracy is 0 at the start and not ½. Leaving the loop early ends the
        processes.

    Raises:
        ModuleNotFoundError: TRL, Accelerate or Datasets is missing; says how to install them.
        FileNotFoundError: there is no file of preferences.
        ValueError: a bad line in it, a batch that cannot be shared out, a setting without a
            counterpart, an output that is there.
        RuntimeError: the processes ended with an error, which the message repeats.
    """
    return launched(
        "train_reward_model_with_trl", METHOD, settings, processes, cpu, reward_model=reward_model,
        preferences=preferences, output=output, validation=validation, checkpoint=checkpoint,
    )  # fmt: skip


def _words(settings: RewardSettings, processes: int) -> dict[str, Any]:
    """Say the settings in the words of ``trl.RewardConfig``."""
    s, parts = settings, parts_of(settings, processes)
    refuse_uneven("batch_size", s.batch_size, s, processes, "pairs")
    return in_words(
        s,
        {
            **supervised_words(s, s.batch_size // parts),
            "freeze_embeddings": {},  # in the model
            "average": None,
            "length_groups": {},  # the result does not depend on it
            "truncate": {},  # in the data, as ``drop_equal``
            "drop_equal": {},
        },
    )


def _check(given: argparse.Namespace, settings: RewardSettings) -> None:
    for file in (given.preferences, given.validation):
        if file is not None:
            load_preferences(file, tokenizer=AnyTemplate(), drop_equal=settings.drop_equal)


def _trainer(
    given: argparse.Namespace, settings: RewardSettings, run: Run
) -> tuple[Any, Callable[[], None]]:
    """Build TRL's trainer with our tokens, our order of pairs and our course of the step size."""
    import trl
    from datasets import Dataset

    reward_model = RewardModel.from_pretrained(given.reward_model)
    model = reward_model.model
    if type(model).forward is torch.nn.Module.forward:
        raise ValueError(
            f"scale: reward_model must be of a family for which transformers has a sequence "
            f"classifier, got {type(model).__name__}; train_reward_model trains it"
        )

    def read(name: str) -> Pairs | None:
        file = getattr(given, name)
        if file is None:
            return None
        rows = load_preferences(
            file, tokenizer=reward_model.tokenizer, drop_equal=settings.drop_equal
        )
        return as_pairs(reward_model, rows, name, settings.truncate, settings.drop_equal)

    pairs, held_out = read("preferences"), read("validation")
    if len(pairs) < settings.batch_size:
        raise ValueError(
            f"scale: preferences must hold a batch of batch_size = {settings.batch_size} pairs, "
            f"got {len(pairs)}"
        )

    rows = [_rows(part) for part in (pairs, held_out) if part is not None]
    # Transformers takes the last token that is no padding. Where the end token stands in for
    # padding that would be the one before it, so another token stands in that ends no row.
    last = {ids[-1] for part in rows for row in part for ids in row.values()}
    padding = next(token for token in range(len(last) + 1) if token not in last)
    config = model.config.get_text_config()
    own_padding = config.pad_token_id

    class Trainer(OurCourse, trl.RewardTrainer):
        order, course = drawn_pairs(len(pairs), settings), staticmethod(half_cosine(settings))

        def compute_loss(self, *given: Any, **named: Any) -> Any:
            config.pad_token_id = padding  # again: ``train`` begins with the tokenizer's own
            return super().compute_loss(*given, **named)

    without_dropout(model)
    if settings.freeze_embeddings:
        for weight in reward_model.embeddings():
            weight.requires_grad_(False)
    trainer = Trainer(
        model=model,
        args=trl.RewardConfig(
            **arguments(run, held_out is not None),
            **_words(settings, run.processes),
            max_length=None,  # texts that do not fit were refused or cut
            center_rewards_coefficient=None,
        ),
        processing_class=reward_model.tokenizer,
        train_dataset=Dataset.from_list(rows[0]),
        eval_dataset=None if held_out is None else Dataset.from_list(rows[1]),
    )
    trainer.data_collator.pad_token_id = padding

    def record(step: int, logs: dict[str, Any], measured: dict[str, Any]) -> RewardStep:
        return RewardStep(
            step=step,
            total=settings.steps,
            loss=logs["loss"],
            accuracy=logs["accuracy"],
            margin=logs["margin"],
            gradient_norm=logs["grad_norm"],
            learning_rate=logs["learning_rate"],
            validation_loss=measured.get("eval_loss"),
            validation_accuracy=measured.get("eval_accuracy"),
        )

    def before_saving() -> None:
        config.pad_token_id = own_padding

    reporting(trainer, record, run.report)
    return trainer, before_saving


def _rows(pairs: Pairs) -> list[dict[str, list[int]]]:
    """Give each pair as the token ids that TRL's collator reads."""
    columns = torch.arange(pairs.tokens.shape[1], device=pairs.lengths.device)
    rows = list(cut_rows(pairs.tokens, columns < pairs.lengths.unsqueeze(1)))
    return [
        {"chosen_ids": chosen, "rejected_ids": rejected}
        for chosen, rejected in zip(rows[: len(pairs)], rows[len(pairs) :], strict=True)
    ]


METHOD = Method(
    name="reward", settings=RewardSettings, step=RewardStep, model="reward_model",
    data="preferences", needs=(), takes=("validation",), words=_words, check=_check,
    trainer=_trainer,
)  # fmt: skip
