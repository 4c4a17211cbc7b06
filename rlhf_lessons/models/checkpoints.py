"""The small trained models that come with the course: list, verify, load.

    reviews-base      pretrained on the web text of the review world: fluent, sloppy, sometimes rude
    reviews-sft       fine-tuned from it on clean reviews: where lessons 2 to 6 start
    reviews-reward    a reward model of its completions, from noisy comparisons: lessons 4 and 6
    facts-base        pretrained on documents about invented people and drugs
    facts-sft         fine-tuned from it to write long answers: where lesson 7 starts
    sums-sft          answers sums step by step, at once or in doubt: where lesson 9 starts
    people-judge      what people would say of a film snippet, read from the body of smollm2
    smollm2           a real language model, which ``python -m rlhf_lessons real get`` fetches
    smollm2-snippets  an adapter on it, fine-tuned on snippets of real film reviews

A lesson never needs what another lesson left behind: it loads one of these. Each is a folder of
safetensors and JSON files in ``rlhf_lessons/checkpoints``; ``manifest.json`` there holds how each
was made and the SHA-256 of every file, which is compared before a file is opened.

Left out on purpose: making them. That trains, so it is in ``rlhf_lessons.training.recipes``, behind
``python -m rlhf_lessons models build``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_lessons.models.language_policy import LanguagePolicy
from rlhf_lessons.models.people_judge import PeopleJudge
from rlhf_lessons.models.reward_model import RewardModel
from rlhf_lessons.models.saved_model import CHECKPOINT_FOLDER, without_bars
from rlhf_lessons.real_parts import PartError, part_folder
from rlhf_lessons.whole_files import damage

__all__ = [
    "CHECKPOINT_FOLDER",
    "Checkpoint",
    "CheckpointError",
    "list_checkpoints",
    "load_people_judge",
    "load_policy",
    "load_reward_model",
    "verify_checkpoints",
]

FETCHED_POLICY = "smollm2"
"""The policy that is not shipped but fetched: a part of ``rlhf_lessons.real_parts``."""


class CheckpointError(RuntimeError):
    """A shipped model is missing or damaged; the message says which file and how to rebuild it."""


@dataclass(frozen=True)
class Checkpoint:
    """What the manifest says of one shipped model.

    Attributes:
        name: What ``load_policy`` takes.
        folder: Where its files are.
        summary: One sentence about what it was trained on.
        parameters: Number of weights; of an adapter its own, without those of its base.
        steps: Batches it was trained on, those of the model it started from not counted.
        seed: Seed of its weights and of the order of its examples.
        held_out_nll: Negative log-likelihood on what it was not trained on, in nats: per token of
            a text, per pair for a reward model, or per rating for a judge of people.
        recipe: Everything it was made from, as JSON values.
        versions: Versions of the libraries that made it.
        files: SHA-256 and size in bytes of each file, by name.
        held_out_nll_before: The same loss of the model that an adapter stands on; None for others.
    """

    name: str
    folder: Path
    summary: str
    parameters: int
    steps: int
    seed: int
    held_out_nll: float
    recipe: dict[str, Any]
    versions: dict[str, str]
    files: dict[str, dict[str, Any]]
    held_out_nll_before: float | None = None

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file["bytes"] for file in self.files.values())


def list_checkpoints(folder: str | os.PathLike[str] | None = None) -> list[Checkpoint]:
    """Read the manifest of the shipped models.

    Args:
        folder: Where the manifest is; None takes ``CHECKPOINT_FOLDER``.

    Returns:
        One entry per model, sorted by name. The files themselves are not looked at.

    Raises:
        CheckpointError: If the manifest is missing or cannot be read.
    """
    folder = CHECKPOINT_FOLDER if folder is None else Path(folder)
    path = folder / "manifest.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        for name, entry in entries.items():
            # What the check of the files stands on: without it, anything would pass for sound.
            if not entry["files"]:
                raise ValueError(f"{name} lists no files")
            for file in entry["files"].values():
                if not (isinstance(file["bytes"], int) and isinstance(file["sha256"], str)):
                    raise ValueError(f"{name} has a file without its size and SHA-256")
            entry["parameters"], entry["held_out_nll"] = (
                int(entry["parameters"]),
                float(entry["held_out_nll"]),
            )
        return [
            Checkpoint(name=name, folder=folder / name, **entry)
            for name, entry in sorted(entries.items())
        ]
    except FileNotFoundError:
        problem = f"{path} is missing"
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        problem = f"{path} cannot be read: {error!r}"
    raise CheckpointError(f"{problem}. Make the models again: {_build()}")


def verify_checkpoints(
    folder: str | os.PathLike[str] | None = None, name: str | None = None
) -> dict[str, list[str]]:
    """Compare the files of the shipped models with the manifest.

    Args:
        folder: Where the models are; None takes ``CHECKPOINT_FOLDER``.
        name: The one model to look at; None takes all of them.

    Returns:
        For each model the list of what is wrong with it; an empty list for a sound one.

    Raises:
        CheckpointError: If the manifest is missing or cannot be read.
        ValueError: If there is no model of that name.
    """
    checkpoints = list_checkpoints(folder)
    if name is not None:
        checkpoints = [_named("verify_checkpoints", name, checkpoints)]
    return {checkpoint.name: _damage(checkpoint) for checkpoint in checkpoints}


def load_policy(name: str, folder: str | os.PathLike[str] | None = None) -> LanguagePolicy:
    """Load a shipped or a fetched model, after comparing its files with what was recorded of them.

    Args:
        name: ``"reviews-base"``, ``"reviews-sft"``, ``"facts-base"``, ``"facts-sft"`` or
            ``"sums-sft"``, which are shipped, or ``"smollm2"``, a real language model of 135 M
            weights, which ``python -m rlhf_lessons real get`` fetches; ``"smollm2-snippets"``, a
            shipped adapter, needs it.
        folder: Where the shipped models are; None takes ``CHECKPOINT_FOLDER``.

    Returns:
        The policy, on the CPU and ready to sample from or to train.

    Raises:
        CheckpointError: If a file is missing, truncated or changed: it says which one, and how to
            make the model again, or to fetch it.
        ValueError: If there is no model of that name, or it is no policy.
    """
    if name == FETCHED_POLICY:
        try:
            found = part_folder(name)
        except PartError as error:
            raise CheckpointError(f"load_policy: {error}") from error
        with without_bars():
            return LanguagePolicy.from_pretrained(found)
    try:
        policy = _loaded("load_policy", name, folder, LanguagePolicy.from_pretrained)
    except OSError as error:  # the base of an adapter was not fetched
        raise CheckpointError(f"load_policy: {error}") from error
    policy.model.float()  # some are stored in half precision, to be half as large
    return policy


def load_reward_model(name: str, folder: str | os.PathLike[str] | None = None) -> RewardModel:
    """Load a shipped reward model, after comparing its files with the manifest.

    Args:
        name: ``"reviews-reward"``.
        folder: Where the models are; None takes ``CHECKPOINT_FOLDER``.

    Returns:
        The reward model, a judge of mean 0 and standard deviation 1 on completions of the policy
        that it was made from.

    Raises:
        CheckpointError: If a file is missing, truncated or changed: it says which one, and how to
            make the model again.
        ValueError: If there is no model of that name, or it is no reward model.
    """
    return _loaded("load_reward_model", name, folder, RewardModel.from_pretrained)


def load_people_judge(
    policy: LanguagePolicy | None = None,
    name: str = "people-judge",
    folder: str | os.PathLike[str] | None = None,
) -> PeopleJudge:
    """Load the judge that was fitted to people's ratings, after comparing its files.

    Args:
        policy: The model that it reads, which it copies; None loads ``"smollm2"``.
        name: ``"people-judge"``.
        folder: Where the shipped models are; None takes ``CHECKPOINT_FOLDER``.

    Returns:
        The judge: expected mean ratings, from −4 to 4, of prompt and response together.

    Raises:
        CheckpointError: If a file is missing, truncated or changed, or smollm2 was not fetched.
        ValueError: If there is no model of that name, or it is no judge of people.
    """
    policy = load_policy(FETCHED_POLICY) if policy is None else policy
    return _loaded(
        "load_people_judge", name, folder, lambda found: PeopleJudge.from_pretrained(found, policy)
    )


_LOADERS = {
    "ForCausalLM": ("policy", "load_policy"),
    "LMHeadModel": ("policy", "load_policy"),
    "ForSequenceClassification": ("reward model", "load_reward_model"),
    "PeopleJudge": ("judge of people", "load_people_judge"),
}


def _loaded(
    where: str,
    name: str,
    folder: str | os.PathLike[str] | None,
    load: Callable[[Path], Any],
) -> Any:
    checkpoint = _named(where, name, list_checkpoints(folder))
    problems = _damage(checkpoint)
    if problems:
        raise CheckpointError(
            f"{checkpoint.name} is damaged: {'; '.join(problems)}. "
            f"Make it again: {_build(checkpoint.name)}"
        )
    made = "ForCausalLM"  # as a folder of adapters need not say
    if "config.json" in checkpoint.files:
        config = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
        made = config["architectures"][0]
    kind, loader = next(of for ending, of in _LOADERS.items() if made.endswith(ending))
    if where != loader:
        raise ValueError(f"{where}: {name} is a {kind}; {loader} loads it")
    with without_bars():
        return load(checkpoint.folder)


def _build(name: str = "") -> str:
    return f"python -m rlhf_lessons models build {name}".strip()


def _named(where: str, name: str, checkpoints: list[Checkpoint]) -> Checkpoint:
    for checkpoint in checkpoints:
        if checkpoint.name == name:
            return checkpoint
    known = ", ".join(checkpoint.name for checkpoint in checkpoints) or "none at all"
    fetched = f" or {FETCHED_POLICY}, which is fetched" if where == "load_policy" else ""
    raise ValueError(
        f"{where}: name must be one of the shipped models ({known}){fetched}, got {name!r}"
    )


def _damage(checkpoint: Checkpoint) -> list[str]:
    return damage(checkpoint.folder, checkpoint.files, "manifest.json")
