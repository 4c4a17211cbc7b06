"""The command ``scale``: what each process of a run does, from the files to the saved model."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from rlhf_lessons.training.scale import dpo, grpo, reward_model, sft
from rlhf_lessons.training.scale.handed import Method, Run, check_installed, check_paths
from rlhf_lessons.training.scale.launched import command_of
from rlhf_lessons.training.settings import changes
from rlhf_lessons.whole_files import replace_file

__all__: list[str] = []

METHODS = (sft.METHOD, reward_model.METHOD, dpo.METHOD, grpo.METHOD)
PURPOSES = {
    "sft": "learn from examples",
    "reward": "fit a reward model to preferences",
    "dpo": "train a policy on preferences",
    "grpo": "train a policy on a judge's scores of groups of responses",
}
ROWS = "JSON Lines, a JSON array, parquet or a folder"
PAIRS = (
    f"{ROWS}: prompt, chosen, rejected, as texts or as messages, of which the chat template makes "
    f"texts"
)
HELP = {
    "policy": "folder of the model, or its name",
    "reward_model": "folder of the model, or its name; RewardModel.from_policy makes a new one",
    "examples": f"{ROWS}: prompt, response",
    "preferences": PAIRS,
    "pairs": PAIRS,
    "prompts": f"{ROWS}: prompt",
    "judge": "module:function of (prompts, responses) -> scores, or the folder of a reward model",
    "reference": "folder or name of π_ref; the policy when left out",
    "validation": "held-out data, of the same form",
}
FILES = ("examples", "preferences", "pairs", "prompts", "validation")


def _method_of(settings: Any) -> Method:
    for method in METHODS:
        if isinstance(settings, method.settings):
            return method
    kinds = ", ".join(method.settings.__name__ for method in METHODS)
    raise TypeError(f"scale: settings must be one of {kinds}, got {type(settings).__name__}")


def trl_command(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    settings: Any,
    *,
    processes: int = 2,
    judge: str | os.PathLike[str] | None = None,
    reference: str | os.PathLike[str] | None = None,
    validation: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    cpu: bool = False,
) -> list[str]:
    """Write the shell command that hands a run to TRL; the kind of the settings says which.

    Args:
        model: the folder of the policy (in the case of ``RewardSettings``, of the reward model), or
            a name on the hub.
        data: the file or folder of examples, preferences or prompts, as the ``train_..._with_trl``
            of the method takes it.
        output: the folder for the trained model; must not exist yet.
        settings: ``SupervisedSettings``, ``RewardSettings``, ``DPOSettings`` or ``GRPOSettings``;
            only what differs from the defaults is written out.
        processes: how many processes share each batch, one a GPU.
        judge: what scores the responses, for GRPO alone.
        reference: folder or name of π_ref, for DPO and GRPO; the policy as it is at the start when
            left out.
        validation: held-out data, not for GRPO; None measures nothing.
        checkpoint: a folder for TRL's checkpoints, from which a run of the same settings goes on.
        cpu: stay on the CPU although there is a GPU.

    Returns:
        the words of the command, beginning with ``accelerate launch``.

    Raises:
        TypeError: settings of another kind.
        ValueError: the batch cannot be shared out evenly, a setting has no counterpart, or the
            method does not take one of the files, or lacks one.
    """
    method = _method_of(settings)
    others = {"judge": judge, "reference": reference, "validation": validation}
    for name, value in others.items():
        if value is not None and name not in method.options:
            raise ValueError(f"scale: {name} must be left out for {method.name}, got {value}")
        if value is None and name in method.needs:
            raise ValueError(f"scale: {name} must be given for {method.name}, got None")
    others = {name: value for name, value in others.items() if value is not None}
    paths = {method.model: model, method.data: data}
    paths |= {name: others.pop(name) for name in method.needs} | {"output": output} | others
    return command_of(method, settings, processes, cpu, **paths, checkpoint=checkpoint)


def trl_settings(settings: Any, processes: int) -> dict[str, Any]:
    """Say the settings of one of our loops in the words of TRL's configuration.

    batch_size = processes × accumulate × rows a process reads at once

    Args:
        settings: how to train; their kind says which loop.
        processes: how many processes share each batch.

    Returns:
        keyword arguments. The order of the data and the course of the step size have no words
        there; ``OurCourse`` brings them along.

    Raises:
        TypeError: settings of another kind.
        ValueError: the batch cannot be shared out evenly, or a setting has no counterpart.
    """
    return _method_of(settings).words(settings, processes)


# --- one process ----------------------------------------------------------------------------------


def _train(method: Method, given: argparse.Namespace, settings: Any) -> None:
    """What each process does."""
    check_installed()
    processes, place = (int(os.environ.get(n, d)) for n, d in (("WORLD_SIZE", 1), ("RANK", 0)))
    method.words(settings, processes)
    check_paths(method, given, settings)

    def say(line: dict[str, Any]) -> None:
        if place == 0:
            print(json.dumps(line), flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        run = Run(
            processes, place, given.checkpoint or scratch, given.checkpoint is not None, given.cpu,
            report=lambda step: say(dataclasses.asdict(step)),
        )  # fmt: skip
        trainer, before_saving = method.trainer(given, settings, run)
        say({"processes": processes})
        trainer.train(resume_from_checkpoint=_go_on(method, given, settings, place == 0))
        before_saving()
        unfinished = given.output.with_name(f".{given.output.name}.unfinished")
        trainer.save_model(str(unfinished))  # gathers the shards, where there are any
    if place == 0:
        (unfinished / "training_args.bin").unlink(missing_ok=True)  # a pickle that nobody needs
        os.replace(unfinished, given.output)
    say({"saved": str(given.output)})


def _go_on(method: Method, given: argparse.Namespace, settings: Any, leader: bool) -> bool:
    """Whether there is a checkpoint to go on from; one of another run is refused."""
    if given.checkpoint is None:
        return False
    note = given.checkpoint / "run.json"
    names = [name for name in (method.data, *method.needs)]
    now = {"method": method.name, **{name: str(getattr(given, name)) for name in names}}
    saved = any(given.checkpoint.glob("checkpoint-*/trainer_state.json"))
    if saved:
        then = json.loads(note.read_text(encoding="utf-8"))
        own = changes(then.pop("settings"), dataclasses.asdict(settings))
        if other := changes(then, now) + own:
            raise ValueError(
                f"scale: checkpoint must belong to this run, but that in {given.checkpoint} "
                f"differs in {', '.join(other)}; give the first call's settings or another folder"
            )
    elif leader:
        given.checkpoint.mkdir(parents=True, exist_ok=True)
        replace_file(note, json.dumps({**now, "settings": dataclasses.asdict(settings)}))
    return saved


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="accelerate launch -m rlhf_lessons scale",
        description="Train with TRL, on as many processes as accelerate launch starts.",
    )
    commands = parser.add_subparsers(dest="method", required=True, metavar="METHOD")
    for method in METHODS:
        purpose = PURPOSES[method.name]
        one = commands.add_parser(method.name, help=purpose, description=purpose.capitalize())
        for name in method.options:
            one.add_argument(
                f"--{name.replace('_', '-')}", required=name not in method.takes, help=HELP[name],
                type=Path if name in FILES else str,
            )  # fmt: skip
        one.add_argument("--output", required=True, type=Path, help="new folder for the model")
        one.add_argument("--checkpoint", type=Path, help="folder to save to and go on from")
        one.add_argument("--cpu", action="store_true", help="stay on the CPU")
        _add_settings(one, method.settings)
    return parser


def _add_settings(parser: argparse.ArgumentParser, settings: type) -> None:
    """Add an option for each field, explained by its line in the docstring."""
    entries = re.findall(
        r"^ {4}(\w+): (.*?)(?=^ {4}\w|\Z)", inspect.getdoc(settings), re.MULTILINE | re.DOTALL
    )
    explained = {name: " ".join(text.split()).rstrip(".") for name, text in entries}
    for field in dataclasses.fields(settings):
        flag = f"--{field.name.replace('_', '-')}"
        help_text = explained[field.name].replace("%", "%%")
        if field.default is False:
            parser.add_argument(flag, action="store_true", help=help_text)
        else:
            parser.add_argument(
                flag, type=float if field.default is None else type(field.default),
                default=field.default, metavar="N", help=f"{help_text} (%(default)s)",
            )  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run one process of ``python -m rlhf_lessons scale``; the first one prints a record a line.

    Args:
        arguments: command-line words after ``scale``; ``sys.argv[1:]`` when left out.

    Returns:
        0 when the model was saved, 2 when something that was given cannot be used.
    """
    given = _parser().parse_args(arguments)
    given.output = Path(os.path.abspath(given.output))
    method = next(method for method in METHODS if method.name == given.method)
    names = [field.name for field in dataclasses.fields(method.settings)]
    try:
        settings = method.settings(**{name: getattr(given, name) for name in names})
        _train(method, given, settings)
    except (ImportError, OSError, ValueError) as error:
        if int(os.environ.get("RANK", 0)) == 0:
            print(f"scale: {str(error).removeprefix('scale: ')}", file=sys.stderr)
        shutil.rmtree(given.output.with_name(f".{given.output.name}.unfinished"), True)
        return 2
    return 0
