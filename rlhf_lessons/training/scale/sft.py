"""Fine-tuning in TRL's hands: the examples of ``train_sft``, each batch a mean over its tokens.

TRL counts the tokens of the whole batch, over all processes and parts, and divides by that number.
So a process may hold more examples than another, and a batch that comes out short is filled up with
rows of which no token counts.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from itertools import accumulate, islice
from typing import Any

import torch

from rlhf_lessons.models import TokenBatch
from rlhf_lessons.training.scale.handed import (
    HELD_OUT_AT_ONCE,
    Method,
    OurCourse,
    Run,
    arguments,
    cut_rows,
    half_cosine,
    in_words,
    parts_of,
    reporting,
    supervised_words,
    whole_policy,
    without_dropout,
)
from rlhf_lessons.training.scale.launched import launched
from rlhf_lessons.training.supervised import (
    SupervisedSettings,
    SupervisedStep,
    dealt_batches,
    encoded_examples,
    text_lengths,
)
from rlhf_lessons.worlds.examples import load_examples

__all__: list[str] = []

NOT_COUNTED = -100  # what TRL writes where a token is not learned


def train_sft_with_trl(
    policy: str | os.PathLike[str],
    examples: str | os.PathLike[str],
    output: str | os.PathLike[str],
    settings: SupervisedSettings | None = None,
    *,
    processes: int = 2,
    validation: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    cpu: bool = False,
) -> Iterator[SupervisedStep]:
    """Fine-tune a policy in processes of their own, with TRL and Accelerate, one update a step.

    θ ← θ − lr · ∇ (1/P) Σ_p P/N · (sum over the response tokens of process p of −log π), where N
    counts those of all P processes

    Args:
        policy: a folder that ``LanguagePolicy.save_pretrained`` wrote, or a name on the hub.
        examples: a file or folder of prompt and response that ``load_examples`` reads.
        output: the folder for the trained model; must not exist yet.
        settings: those of ``train_sft``, with the same meaning.
        processes: how many processes share each batch, one a GPU.
        validation: the same of held-out examples; None measures nothing.
        checkpoint: a folder for TRL's checkpoints, from which a run of the same settings goes on.
        cpu: stay on the CPU although there is a GPU.

    Yields:
        A ``SupervisedStep`` after each update, as ``train_sft`` does. Leaving the loop early ends
        the processes.

    Raises:
        ModuleNotFoundError: TRL, Accelerate or Datasets is missing; says how to install them.
        FileNotFoundError: there is no file of examples.
        ValueError: a bad line in it, or an output that is there.
        RuntimeError: the processes ended with an error, which the message repeats.
    """
    return launched(
        "train_sft_with_trl", METHOD, settings, processes, cpu, policy=policy, examples=examples,
        output=output, validation=validation, checkpoint=checkpoint,
    )  # fmt: skip


def _words(settings: SupervisedSettings, processes: int) -> dict[str, Any]:
    """Say the settings in the words of ``trl.SFTConfig``."""
    share = -(-settings.batch_size // parts_of(settings, processes))  # rounded up
    return in_words(settings, supervised_words(settings, share))


def _check(given: argparse.Namespace, _: Any) -> None:
    for file in (given.examples, given.validation):
        if file is not None:
            load_examples(file)


def _trainer(
    given: argparse.Namespace, settings: SupervisedSettings, run: Run
) -> tuple[Any, Callable[[], None]]:
    """Build TRL's trainer with our tokens, our batches and our course of the step size."""
    import trl
    from datasets import Dataset

    policy = whole_policy("policy", given.policy)
    texts = encoded_examples("scale", policy, load_examples(given.examples), "examples")
    held_out = None
    if given.validation is not None:
        held_out = encoded_examples("scale", policy, load_examples(given.validation), "validation")
    words = _words(settings, run.processes)
    width = words["per_device_train_batch_size"] * parts_of(settings, run.processes)
    # One row after the last stands for none: it fills up what has fewer rows than the others.
    nothing = {"input_ids": [policy.end_token_id] * 2, "labels": [NOT_COUNTED] * 2}
    rows = [*_rows(texts), nothing]
    batches = dealt_batches(text_lengths(texts).tolist(), settings.batch_size, settings.seed)
    batches = [batch.tolist() for batch in islice(batches, settings.steps)]
    counts = texts.response_mask.sum(1).tolist()
    learned = list(accumulate(sum(counts[row] for row in batch) for batch in batches))
    measured_rows, tokens_a_row = None, 1.0
    if held_out is not None:
        measured_rows = _rows(held_out)
        measured_rows += [nothing] * (-len(measured_rows) % (run.processes * HELD_OUT_AT_ONCE))
        tokens_a_row = int(held_out.response_mask.sum()) / len(measured_rows)

    class Trainer(OurCourse, trl.SFTTrainer):
        order = [
            row for batch in batches for row in [*batch, *[len(rows) - 1] * (width - len(batch))]
        ]
        course = staticmethod(half_cosine(settings))

        def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
            return [name for name, weight in model.named_parameters() if weight.ndim > 1]

        def prediction_step(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
            """Give what averages over rows to the mean over tokens."""
            loss, *rest = super().prediction_step(model, inputs, prediction_loss_only=True)
            counted = (inputs["labels"][:, 1:] != NOT_COUNTED).sum()
            return loss * counted / len(inputs["labels"]) / tokens_a_row, *rest

    without_dropout(policy.model)
    trainer = Trainer(
        model=policy.model,
        args=trl.SFTConfig(
            **arguments(run, held_out is not None),
            **words,
            adam_beta2=0.95,
            loss_type="nll",
            max_length=None,  # texts that do not fit were refused, none is cut
            packing=False,
            average_tokens_across_devices=True,
        ),
        processing_class=policy.tokenizer,
        train_dataset=Dataset.from_list(rows),
        eval_dataset=None if measured_rows is None else Dataset.from_list(measured_rows),
    )
    # TRL's loss is divided by the tokens of the whole batch whichever family the model is of.
    trainer.model_accepts_loss_kwargs = True

    def record(step: int, logs: dict[str, Any], measured: dict[str, Any]) -> SupervisedStep:
        return SupervisedStep(
            step=step,
            total=settings.steps,
            loss=logs["loss"],
            validation_loss=measured.get("eval_loss"),
            learning_rate=logs["learning_rate"],
            gradient_norm=logs["grad_norm"],
            tokens=learned[step - 1],
        )

    reporting(trainer, record, run.report)
    return trainer, lambda: None


def _rows(texts: TokenBatch) -> list[dict[str, list[int]]]:
    """Give each example as the token ids that TRL's collator reads."""
    prompts = cut_rows(texts.prompt_tokens, texts.prompt_mask)
    responses = cut_rows(texts.response_tokens, texts.response_mask)
    return [
        {"input_ids": prompt + response, "labels": [NOT_COUNTED] * len(prompt) + response}
        for prompt, response in zip(prompts, responses, strict=True)
    ]


METHOD = Method(
    name="sft", settings=SupervisedSettings, step=SupervisedStep, model="policy", data="examples",
    needs=(), takes=("validation",), words=_words, check=_check, trainer=_trainer,
)  # fmt: skip
