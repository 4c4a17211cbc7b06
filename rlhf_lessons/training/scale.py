"""DPO on several processes or machines: our pairs, model and settings in TRL's hands (lesson 8).

``train_dpo`` is one process on one device. Beyond that an engine is needed that copies gradients
between processes, shards weights and survives a lost machine; TRL's ``DPOTrainer`` under
``accelerate launch`` is one, and nothing of it is worth writing again::

    accelerate launch --multi_gpu --num_processes 2 -m rlhf_lessons scale \\
        --policy my-policy --pairs pairs.jsonl --output aligned --beta 0.1 --steps 200

What is handed over is everything that decides the numbers: the tokens that ``LanguagePolicy`` makes
of each pair, the order in which ``train_dpo`` would draw them, the size of the *global* batch, the
course of the learning rate, and every field of ``DPOSettings``. So a run gives the losses that
``train_dpo`` gives, up to rounding, on any number of processes. A setting that cannot be kept is
refused, never dropped.

``train_dpo_with_trl`` starts that command from Python and yields the records of ``train_dpo``.

Left out on purpose: other losses (TRL's IPO divides by the length, ours does not), PPO (TRL has
moved it out of its stable trainers), and flags of Accelerate, which belong before ``-m``.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from rlhf_lessons.models import LanguagePolicy
from rlhf_lessons.training.dpo import DPOSettings, DPOStep, Pairs
from rlhf_lessons.training.schedule import schedule
from rlhf_lessons.training.settings import changes
from rlhf_lessons.whole_files import replace_file
from rlhf_lessons.worlds.preferences import load_preferences

if TYPE_CHECKING:
    from trl import DPOTrainer

__all__ = ["train_dpo_with_trl", "trl_command"]

NEEDED = ("trl", "accelerate", "datasets")


def trl_command(
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
) -> list[str]:
    """Write the shell command that hands a run of DPO to TRL.

    Args:
        policy: a folder that ``LanguagePolicy.save_pretrained`` wrote, or a name on the hub.
        pairs: a file or folder of prompt, chosen and rejected that ``load_preferences`` reads;
            messages become text by the policy's chat template.
        output: the folder for the trained model; must not exist yet.
        settings: those of ``train_dpo``; only what differs from the defaults is written out.
        processes: how many processes share each batch, one a GPU.
        reference: folder or name of π_ref; the policy as it is at the start when left out.
        validation: the same of held-out pairs; None measures nothing.
        checkpoint: a folder for TRL's checkpoints, from which a run of the same settings goes on.
        cpu: stay on the CPU although there is a GPU.

    Returns:
        the words of the command, beginning with ``accelerate launch``.

    Raises:
        ValueError: the batch cannot be shared out evenly, or a setting has no counterpart.
    """
    settings = DPOSettings() if settings is None else settings
    trl_settings(settings, processes)
    words = ["accelerate", "launch"]
    # `--cpu --num_processes 2` would start one process; this starts two, on GPUs or not.
    words += ["--multi_gpu"] if processes > 1 else []
    words += ["--num_processes", str(processes), "--num_machines", "1", "--main_process_port", "0"]
    words += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", "rlhf_lessons", "scale"]
    paths = {
        "policy": policy, "pairs": pairs, "output": output, "reference": reference,
        "validation": validation, "checkpoint": checkpoint,
    }  # fmt: skip
    for name, path in paths.items():
        words += [] if path is None else [f"--{name}", os.fspath(path)]
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value != field.default:
            flag = f"--{field.name.replace('_', '-')}"
            words += [flag] if value is True else [flag, repr(value)]
    return words + (["--cpu"] if cpu else [])


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
    words = trl_command(
        policy, pairs, output, settings, processes=processes, reference=reference,
        validation=validation, checkpoint=checkpoint, cpu=cpu,
    )  # fmt: skip
    _check_installed()
    _check_files(Path(output), pairs, validation)
    return _follow(words, processes)


def _follow(words: list[str], processes: int) -> Iterator[DPOStep]:
    """Run the command and read its records, one a line."""
    module = [sys.executable, "-m", "accelerate.commands.launch", *words[2:]]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        # In a session of its own: a notebook's ■ or Ctrl-C stops the loop, not the processes.
        running = subprocess.Popen(
            module, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
        try:
            for line in running.stdout:
                if line.startswith('{"processes":'):
                    started = json.loads(line)["processes"]
                    if started != processes:
                        raise RuntimeError(
                            f"train_dpo_with_trl: {processes} processes were asked for, but "
                            f"accelerate launch started {started}"
                        )
                elif line.startswith('{"step":'):
                    yield DPOStep(**json.loads(line))
            if running.wait() != 0:
                errors.seek(0)
                said = errors.read().strip().splitlines()
                own = [line for line in said if line.startswith("scale: ")]
                raise RuntimeError(
                    "train_dpo_with_trl: the launched run failed:\n"
                    + "\n".join(own[:1] or said[-15:])
                )
        finally:
            _end(running)
            running.stdout.close()


def _end(running: subprocess.Popen) -> None:
    """End a launcher and what it launched, which would otherwise go on training alone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(running.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
    running.terminate()
    running.wait()


def trl_settings(settings: DPOSettings, processes: int) -> dict[str, Any]:
    """Say ``DPOSettings`` in the words of ``trl.DPOConfig``.

    batch_size = processes × accumulate × pairs a process reads at once

    Args:
        settings: how to train.
        processes: how many processes share each batch.

    Returns:
        keyword arguments. The order of the pairs and the course of the learning rate have no words
        there; ``_trainer`` brings them along.

    Raises:
        ValueError: the batch cannot be shared out evenly, or a setting has no counterpart.
    """
    s = settings
    if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
        raise ValueError(f"scale: processes must be an int ≥ 1, got {processes!r}")
    parts = processes * s.accumulate
    if s.batch_size % parts:
        raise ValueError(
            f"scale: batch_size must be a multiple of processes × accumulate = {processes} × "
            f"{s.accumulate} = {parts}, since each process averages over its own pairs and an "
            f"uneven share would weigh pairs unevenly; got {s.batch_size}"
        )
    said: dict[str, dict[str, Any]] = {
        "steps": {"max_steps": s.steps},
        "batch_size": {"per_device_train_batch_size": s.batch_size // parts},
        "accumulate": {"gradient_accumulation_steps": s.accumulate},
        "beta": {"beta": s.beta},
        "learning_rate": {"learning_rate": s.learning_rate},
        "warmup": {},  # in the trainer, with the cosine
        "weight_decay": {"weight_decay": s.weight_decay},
        "max_gradient_norm": {"max_grad_norm": s.max_gradient_norm},
        "evaluate_every": {"eval_steps": s.evaluate_every},
        "save_every": {"save_steps": s.save_every},
        "bf16": {"bf16": s.bf16},
        "seed": {"seed": s.seed},
    }
    unsaid = [field.name for field in dataclasses.fields(s) if field.name not in said]
    if unsaid:
        raise ValueError(f"scale: these settings have no counterpart in TRL: {', '.join(unsaid)}")
    return {name: value for words in said.values() for name, value in words.items()}


def _trainer(
    policy: LanguagePolicy,
    reference: LanguagePolicy,
    pairs: Pairs,
    held_out: Pairs | None,
    settings: DPOSettings,
    folder: str | os.PathLike[str],
    *,
    processes: int = 1,
    cpu: bool = False,
    save: bool = False,
    report: Callable[[DPOStep], None] = lambda step: None,
) -> DPOTrainer:
    """Build TRL's trainer with our tokens, our order of pairs and our course of the step size."""
    import torch
    import trl
    from datasets import Dataset

    # transformers' own names, by way of TRL: only ``models`` imports transformers.
    callback = trl.trainer.dpo_trainer.TrainerCallback

    generator = torch.Generator().manual_seed(settings.seed)
    order = torch.empty(0, dtype=torch.long)
    while len(order) < settings.steps * settings.batch_size:  # as train_dpo draws them
        order = torch.cat([order, torch.randperm(len(pairs), generator=generator)])
    order = order[: settings.steps * settings.batch_size].tolist()

    class Trainer(trl.DPOTrainer):
        def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
            return dataset  # tokens already, made by LanguagePolicy

        def _get_train_sampler(self, *_: Any) -> Sequence[int]:
            return order

        def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
            return [name for name, _ in model.named_parameters()]

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            if self.lr_scheduler is None:
                self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                    optimizer or self.optimizer,
                    lambda done: schedule(done + 1, settings.steps, settings.warmup),
                )
            return self.lr_scheduler

    class Report(callback):
        last: dict[str, float] = {}
        measured: tuple[float | None, float | None] = (None, None)

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **_: Any) -> None:
            self.measured = metrics["eval_loss"], metrics["eval_rewards/accuracies"]

        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
            if "loss" in logs:
                self.last = logs

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.flush(state)

        def flush(self, state: Any) -> None:
            """Pass on the update before; the measurement on held-out pairs follows its log."""
            logs, self.last = self.last, {}
            if not logs or not state.is_world_process_zero:
                return
            chosen, rejected = logs["rewards/chosen"], logs["rewards/rejected"]
            report(
                DPOStep(
                    step=state.global_step,
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
                    validation_loss=self.measured[0],
                    validation_accuracy=self.measured[1],
                )
            )
            self.measured = (None, None)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.flush(state)

    # Some families (OPT) call dropout as a function, where `disable_dropout` does not reach it.
    for module in policy.model.modules():
        for name in [name for name in vars(module) if "dropout" in name]:
            if isinstance(getattr(module, name), float):
                setattr(module, name, 0.0)
    arguments = trl.DPOConfig(
        output_dir=os.fspath(folder),
        **trl_settings(settings, processes),
        per_device_eval_batch_size=64,
        eval_strategy="no" if held_out is None else "steps",
        save_strategy="steps" if save else "no",
        save_total_limit=2,
        max_length=None,  # texts that do not fit were refused, none is cut
        precompute_ref_log_probs=False,
        gradient_checkpointing=False,
        disable_dropout=True,
        use_cpu=cpu or not torch.cuda.is_available(),
        dataloader_pin_memory=not cpu and torch.cuda.is_available(),
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=policy.model,
        ref_model=reference.model,
        args=arguments,
        processing_class=policy.tokenizer,
        train_dataset=Dataset.from_list(_rows(pairs)),
        eval_dataset=None if held_out is None else Dataset.from_list(_rows(held_out)),
        callbacks=[Report()],
    )
    trainer.remove_callback(_named_callback(trainer, "PrinterCallback"))
    return trainer


def _named_callback(trainer: DPOTrainer, name: str) -> Any:
    return next(c for c in trainer.callback_handler.callbacks if type(c).__name__ == name)


def _rows(pairs: Pairs) -> list[dict[str, list[int]]]:
    """Give each pair as the token ids that TRL's collator reads."""
    t = pairs.tokens
    prompts = [ids[mask].tolist() for ids, mask in zip(t.prompt_tokens, t.prompt_mask, strict=True)]
    responses = [
        ids[mask].tolist() for ids, mask in zip(t.response_tokens, t.response_mask, strict=True)
    ]
    count = len(pairs)
    return [
        {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
        for prompt, chosen, rejected in zip(
            prompts[:count], responses[:count], responses[count:], strict=True
        )
    ]


def _check_installed() -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"scale: {' and '.join(missing)} must be installed to train on several processes: "
            f"pip install 'rlhf-lessons[scale]' (from a clone: pip install -e '.[scale]')"
        )


class _AnyTemplate:
    """Stands for the tokenizer of a policy that is not loaded yet: the form of rows is checked."""

    chat_template, eos_token = "turn after turn", "<end>"

    @staticmethod
    def apply_chat_template(turns: list[dict[str, Any]], **_: Any) -> str:
        return "".join(turn["content"] + "<end>" for turn in turns)


def _check_files(output: Path, *files: str | os.PathLike[str] | None) -> None:
    """Refuse an output that is there, and pairs that are not or cannot be read."""
    if output.exists():
        raise ValueError(f"scale: output must be a new folder, got {output}, which is there")
    for file in files:
        if file is not None and not Path(file).exists():
            raise FileNotFoundError(f"scale: there is no file of pairs {os.fspath(file)}")
        if file is not None:
            load_preferences(file, tokenizer=_AnyTemplate())


def _train(given: argparse.Namespace, settings: DPOSettings) -> None:
    """What each process does, from the files to the saved model."""
    _check_installed()
    processes = int(os.environ.get("WORLD_SIZE", 1))
    leader = int(os.environ.get("RANK", 0)) == 0
    trl_settings(settings, processes)
    _check_files(given.output, given.pairs, given.validation)
    policy = LanguagePolicy.from_pretrained(given.policy)
    reference = LanguagePolicy.from_pretrained(given.reference or given.policy)
    for name, model in (("policy", policy), ("reference", reference)):
        if model.adapted:
            raise ValueError(
                f"scale: {name} must be a whole model, got adapters in {getattr(given, name)}; "
                f"policy.merge().save_pretrained(folder) makes one, train_dpo trains the adapters"
            )
    if reference.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise ValueError(
            "scale: reference must have the tokenizer of the policy, since log-probabilities are "
            "compared token by token; got another vocabulary"
        )

    def read(name: str, file: Path) -> Pairs:
        return Pairs.encode(policy, load_preferences(file, tokenizer=policy.tokenizer), name)

    pairs = read("pairs", given.pairs)
    held_out = None if given.validation is None else read("validation", given.validation)

    def say(line: dict[str, Any]) -> None:
        if leader:
            print(json.dumps(line), flush=True)

    say({"processes": processes})
    with tempfile.TemporaryDirectory() as scratch:
        trainer = _trainer(
            policy, reference, pairs, held_out, settings, given.checkpoint or scratch,
            processes=processes, cpu=given.cpu, save=given.checkpoint is not None,
            report=lambda step: say(dataclasses.asdict(step)),
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=_go_on(given, settings, leader))
        unfinished = given.output.with_name(f".{given.output.name}.unfinished")
        trainer.save_model(str(unfinished))  # gathers the shards, where there are any
    if leader:
        (unfinished / "training_args.bin").unlink(missing_ok=True)  # a pickle that nobody needs
        os.replace(unfinished, given.output)
    say({"saved": str(given.output)})


def _go_on(given: argparse.Namespace, settings: DPOSettings, leader: bool) -> bool:
    """Whether there is a checkpoint to go on from; one of other settings is refused."""
    if given.checkpoint is None:
        return False
    note = given.checkpoint / "run.json"
    now = {"settings": dataclasses.asdict(settings), "pairs": str(given.pairs)}
    saved = any(given.checkpoint.glob("checkpoint-*/trainer_state.json"))
    if saved:
        then = json.loads(note.read_text(encoding="utf-8"))
        own = changes(then["settings"], now["settings"])
        if other := own + changes({"pairs": then["pairs"]}, {"pairs": now["pairs"]}):
            raise ValueError(
                f"scale: checkpoint must belong to this run, but that in {given.checkpoint} "
                f"differs in {', '.join(other)}; give the first call's settings or another folder"
            )
    elif leader:
        given.checkpoint.mkdir(parents=True, exist_ok=True)
        replace_file(note, json.dumps(now))
    return saved


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="accelerate launch -m rlhf_lessons scale",
        description="Train by DPO with TRL, on as many processes as accelerate launch starts.",
    )
    parser.add_argument("--policy", required=True, help="folder of the model, or its name")
    parser.add_argument(
        "--pairs", required=True, type=Path,
        help="JSON Lines, a JSON array, parquet or a folder: prompt, chosen, rejected, as texts or "
        "as messages, of which the policy's chat template makes texts",
    )  # fmt: skip
    parser.add_argument("--output", required=True, type=Path, help="new folder for the model")
    parser.add_argument("--reference", help="folder or name of π_ref; the policy when left out")
    parser.add_argument("--validation", type=Path, help="held-out pairs, as --pairs")
    parser.add_argument("--checkpoint", type=Path, help="folder to save to and go on from")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    entries = re.findall(
        r"^ {4}(\w+): (.*?)(?=^ {4}\w|\Z)", inspect.getdoc(DPOSettings), re.MULTILINE | re.DOTALL
    )
    explained = {name: " ".join(text.split()).rstrip(".") for name, text in entries}
    for field in dataclasses.fields(DPOSettings):
        flag, help_text = f"--{field.name.replace('_', '-')}", explained[field.name]
        if field.default is False:
            parser.add_argument(flag, action="store_true", help=help_text.replace("%", "%%"))
        else:
            parser.add_argument(
                flag, type=type(field.default), default=field.default, metavar="N",
                help=f"{help_text.replace('%', '%%')} (%(default)s)",
            )  # fmt: skip
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one process of ``python -m rlhf_lessons scale``; the first one prints a record a line.

    Args:
        arguments: command-line words after ``scale``; ``sys.argv[1:]`` when left out.

    Returns:
        0 when the model was saved, 2 when something that was given cannot be used.
    """
    given = _parser().parse_args(arguments)
    given.output = Path(os.path.abspath(given.output))
    try:
        names = [field.name for field in dataclasses.fields(DPOSettings)]
        _train(given, DPOSettings(**{name: getattr(given, name) for name in names}))
    except (ImportError, OSError, ValueError) as error:
        if int(os.environ.get("RANK", 0)) == 0:
            print(f"scale: {str(error).removeprefix('scale: ')}", file=sys.stderr)
        shutil.rmtree(given.output.with_name(f".{given.output.name}.unfinished"), True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
