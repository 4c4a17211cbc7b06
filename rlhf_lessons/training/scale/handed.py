"""What every method hands over to TRL: shares of a batch, their order, the step size.

A ``Method`` says what is special to one: its files, its settings in TRL's words, its trainer. Each
trainer is TRL's own with ``OurCourse`` mixed in, made with ``arguments`` and told to write records
by ``reporting``. Left out on purpose: starting the processes (``launched``).
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rlhf_lessons.models import LanguagePolicy
from rlhf_lessons.training.given_responses import dealt_rows
from rlhf_lessons.training.schedule import schedule

__all__: list[str] = []

NEEDED = ("trl", "accelerate", "datasets")
HELD_OUT_AT_ONCE = 64  # examples or pairs that a process measures in one forward pass


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to train, as a command.

    Attributes:
        name: of the command: ``scale name``.
        settings: the dataclass of our loop's settings.
        step: that of its records.
        model: the option that names the model to train.
        data: the option that names the file to learn from.
        needs: further options that must be given.
        takes: options that may be given.
        words: (settings, processes) -> the settings in TRL's words.
        check: (given, settings) -> None; refuses files that cannot be read, before a model is
            loaded.
        trainer: (given, settings, run) -> TRL's trainer and the function that puts its model in
            order before it is saved.
    """

    name: str
    settings: type
    step: type
    model: str
    data: str
    needs: tuple[str, ...]
    takes: tuple[str, ...]
    words: Callable[[Any, int], dict[str, Any]]
    check: Callable[[argparse.Namespace, Any], None]
    trainer: Callable[[argparse.Namespace, Any, Run], tuple[Any, Callable[[], None]]]

    @property
    def options(self) -> tuple[str, ...]:
        """The names of all options that name a file, a model or a judge."""
        return (self.model, self.data, *self.needs, *self.takes)


@dataclasses.dataclass(frozen=True)
class Run:
    """What a process knows of the run that it is part of.

    Attributes:
        processes: how many share each batch.
        place: which of them this one is, from 0.
        folder: for TRL's checkpoints.
        saves: whether there are to be any.
        cpu: whether to stay on the CPU.
        report: takes each record.
    """

    processes: int
    place: int
    folder: str | os.PathLike[str]
    saves: bool
    cpu: bool
    report: Callable[[Any], None]


# --- before anything is started -------------------------------------------------------------------


def check_installed() -> None:
    """Refuse to go on without TRL, Accelerate and Datasets; say how to install them."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"scale: {' and '.join(missing)} must be installed to train on several processes: "
            f"pip install 'rlhf-lessons[scale]' (from a clone: pip install -e '.[scale]')"
        )


def check_paths(method: Method, given: argparse.Namespace, settings: Any) -> None:
    """Refuse an output that is there, and files that are not or cannot be read."""
    if Path(given.output).exists():
        raise ValueError(f"scale: output must be a new folder, got {given.output}, which is there")
    for name in (method.data, "validation"):
        file = getattr(given, name, None)
        if file is not None and not Path(file).exists():
            raise FileNotFoundError(f"scale: there is no file of {method.data} {os.fspath(file)}")
    method.check(given, settings)


class AnyTemplate:
    """Stands for the tokenizer of a policy that is not loaded yet: the form of rows is checked."""

    chat_template, eos_token = "turn after turn", "<end>"

    @staticmethod
    def apply_chat_template(turns: list[dict[str, Any]], **_: Any) -> str:
        """Write the contents."""
        return "".join(turn["content"] + "<end>" for turn in turns)


# --- settings -------------------------------------------------------------------------------------


def parts_of(settings: Any, processes: int) -> int:
    """Say into how many forward passes an update is divided: processes × accumulate."""
    if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
        raise ValueError(f"scale: processes must be an int ≥ 1, got {processes!r}")
    return processes * settings.accumulate


def refuse_uneven(name: str, size: int, settings: Any, processes: int, of: str) -> None:
    """Refuse a batch whose parts would differ in size.

    Args:
        name: of the setting.
        size: its value.
        settings: the settings, for ``accumulate``.
        processes: how many processes share each batch.
        of: what is in a batch, in words.

    Raises:
        ValueError: if it is no multiple of processes × accumulate.
    """
    parts = parts_of(settings, processes)
    if size % parts:
        raise ValueError(
            f"scale: {name} must be a multiple of processes × accumulate = {processes} × "
            f"{settings.accumulate} = {parts}, since each process averages over its own {of} and "
            f"an uneven share would weigh {of} unevenly; got {size}"
        )


def in_words(settings: Any, said: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Any]:
    """Collect what TRL is told, and refuse what it cannot be told.

    Args:
        settings: the settings of our loop.
        said: field -> words for TRL; none where ``OurCourse`` or the data bring it along, None
            where there is no way, so that the field must have its default.

    Returns:
        keyword arguments of TRL's configuration.

    Raises:
        ValueError: a field without a counterpart has been set.
    """
    unsaid = [
        field.name
        for field in dataclasses.fields(settings)
        if said.get(field.name) is None
        and (field.name not in said or getattr(settings, field.name) != field.default)
    ]
    if unsaid:
        raise ValueError(f"scale: these settings have no counterpart in TRL: {', '.join(unsaid)}")
    return {name: value for words in said.values() for name, value in (words or {}).items()}


def supervised_words(settings: Any, share: int) -> dict[str, dict[str, Any]]:
    """Say in TRL's words the settings that the loops over fixed examples or pairs have in common.

    Args:
        settings: the settings.
        share: examples or pairs that a process reads at once.

    Returns:
        field -> words.
    """
    s = settings
    return {
        "steps": {"max_steps": s.steps},
        "batch_size": {"per_device_train_batch_size": share},
        "accumulate": {"gradient_accumulation_steps": s.accumulate},
        "learning_rate": {"learning_rate": s.learning_rate},
        "warmup": {},  # with the cosine, in ``half_cosine``
        "weight_decay": {"weight_decay": s.weight_decay},
        "max_gradient_norm": {"max_grad_norm": s.max_gradient_norm},
        "evaluate_every": {"eval_steps": s.evaluate_every},
        "save_every": {"save_steps": s.save_every},
        "bf16": {"bf16": s.bf16},
        "seed": {"seed": s.seed},
    }


def arguments(run: Run, held_out: bool) -> dict[str, Any]:
    """Give what all trainers of TRL are told besides the settings.

    Args:
        run: the run.
        held_out: whether something is measured on held-out data.

    Returns:
        keyword arguments of TRL's configuration.
    """
    cpu = run.cpu or not torch.cuda.is_available()
    return {
        "output_dir": os.fspath(run.folder),
        "per_device_eval_batch_size": HELD_OUT_AT_ONCE,
        "eval_strategy": "steps" if held_out else "no",
        "save_strategy": "steps" if run.saves else "no",
        "save_total_limit": 2,
        "gradient_checkpointing": False,
        "use_cpu": cpu,
        "dataloader_pin_memory": not cpu,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
    }


# --- models ---------------------------------------------------------------------------------------


def whole_policy(name: str, path: str | os.PathLike[str]) -> LanguagePolicy:
    """Load a policy, and refuse one of adapters; ``name`` is the option that names it."""
    policy = LanguagePolicy.from_pretrained(path)
    if policy.adapted:
        raise ValueError(
            f"scale: {name} must be a whole model, got adapters in {path}; "
            f"policy.merge().save_pretrained(folder) makes one, the loops of this package train "
            f"the adapters"
        )
    return policy


def reference_beside(policy: LanguagePolicy, given: argparse.Namespace) -> LanguagePolicy:
    """Load the reference, the policy as it is now where none is named."""
    reference = whole_policy("reference", given.reference or given.policy)
    if reference.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise ValueError(
            "scale: reference must have the tokenizer of the policy, since log-probabilities are "
            "compared token by token; got another vocabulary"
        )
    return reference


def without_dropout(model: torch.nn.Module) -> None:
    """Set all dropout to 0: TRL trains in training mode, our loops in evaluation mode.

    Some families (OPT) call it as a function and keep its strength in a field of the layer.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in [name for name in vars(module) if "dropout" in name]:
            if isinstance(getattr(module, name), float):
                setattr(module, name, 0.0)


# --- order, step sizes, records -------------------------------------------------------------------


def drawn_pairs(count: int, settings: Any) -> list[int]:
    """Give the rows of all updates one after the other, as our loops over pairs draw them."""
    generator = torch.Generator().manual_seed(settings.seed)
    left, order = torch.empty(0, dtype=torch.long), []
    for _ in range(settings.steps):
        rows, left = dealt_rows(left, count, settings.batch_size, generator)
        order += rows.tolist()
    return order


def half_cosine(settings: Any) -> Callable[[int], float]:
    """Give the course of our supervised loops: updates done -> share of the highest step size."""
    return lambda done: schedule(done + 1, settings.steps, settings.warmup)


class OurCourse:
    """Mixed into a trainer of TRL: our tokens, our order and our course of the step size.

    Attributes:
        order: rows of the data in the order in which they are read.
        course: updates done -> share of the highest step size.
    """

    order: Sequence[int]
    course: Callable[[int], float]

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset  # tokens already, made by LanguagePolicy

    def _get_train_sampler(self, *_: Any) -> Sequence[int]:
        return self.order

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Let weight decay act on all weights, as our loops do."""
        return [name for name, _ in model.named_parameters()]

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Make what sets the step size."""
        if self.lr_scheduler is None:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, self.course
            )
        return self.lr_scheduler


def reporting(
    trainer: Any,
    record: Callable[[int, dict[str, Any], dict[str, Any]], Any],
    report: Callable[[Any], None],
) -> None:
    """Have a trainer's updates written as records of our loop.

    Args:
        trainer: TRL's trainer.
        record: (update, what TRL logged of it, what it measured on held-out data after it, if
            anything) -> a record, None for none.
        report: takes each record, in the first process alone.
    """
    # transformers' own name, by way of TRL: only ``models`` imports transformers.
    from trl.trainer.dpo_trainer import TrainerCallback

    class Report(TrainerCallback):
        logged: dict[str, Any] = {}
        measured: dict[str, Any] = {}

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **_: Any) -> None:
            self.measured = metrics

        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
            if "loss" in logs:
                self.logged = logs

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.flush(state)

        def flush(self, state: Any) -> None:
            """Pass on the update before; the measurement on held-out data follows its log."""
            logged, measured, self.logged, self.measured = self.logged, self.measured, {}, {}
            if not logged:
                return
            made = record(state.global_step, logged, measured)
            if made is not None and state.is_world_process_zero:
                report(made)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.flush(state)

    trainer.add_callback(Report())
    callbacks = trainer.callback_handler.callbacks
    trainer.remove_callback(next(c for c in callbacks if type(c).__name__ == "PrinterCallback"))


def cut_rows(tokens: torch.Tensor, mask: torch.Tensor) -> Iterator[list[int]]:
    """Give the token ids of each row that count."""
    for ids, counts in zip(tokens, mask, strict=True):
        yield ids[counts].tolist()
