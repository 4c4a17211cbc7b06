"""The checkpoint of a run: one file from which an interrupted training goes on (lessons 2 to 8).

    what a run must agree on   settings, architecture, data, reference, formulas
    what changes in it         weights, the optimizer's moments, random states, the step

The first part is compared before anything is put back, so that no run goes on as another one. The
file is replaced as a whole: an interruption at any time leaves the checkpoint before.

What goes on is what was, bit for bit, where sums are added in the same order: on the same CPU with
the same versions and number of threads. On a GPU gradients are added up in the order in which they
happen to be ready, so two runs of one program differ, interrupted or not: by some 1e-7 at first.

Left out on purpose: keeping older checkpoints, and saving what a caller's own functions remember.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf_lessons.training.settings import changes
from rlhf_lessons.whole_files import replacing

__all__: list[str] = []


class RunCheckpoint:
    """Saves a run to ``folder/NAME.safetensors`` and takes it up from there.

    Args:
        where: the loop, such as ``"train_dpo"``; it names the file and begins every message.
        folder: where to save; None saves nothing and takes nothing up.
        settings: the frozen dataclass of the run.
        weights: the weights that are trained, by name.
        optimizer: what trains them; None where it remembers nothing from one step to the next.
        every: steps between two checkpoints.
        last: the last step, which is always saved.
        generators: sources of randomness, by name.
        same: what the run that is taken up must have had, too, by name: a str is compared as it is
            (``name_of(loss)``), tensors or texts by their fingerprint (data, frozen weights).

    Raises:
        ValueError: if folder is a file, or if it holds a damaged checkpoint or that of a run with
            other settings, weights or data; the message names what differs. The file stays as it
            is, and so do the weights.
    """

    def __init__(
        self,
        where: str,
        folder: str | os.PathLike[str] | None,
        settings: Any,
        weights: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer | None,
        *,
        every: int,
        last: int,
        generators: Mapping[str, torch.Generator],
        same: Mapping[str, str | Iterable[Tensor | str]],
    ) -> None:
        self.where, self.every, self.last = where, every, last
        self.weights, self.optimizer, self.generators = weights, optimizer, generators
        self.path: Path | None = None
        if folder is None:
            return
        folder = Path(folder).expanduser()
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{where}: checkpoint must be a folder, got the file {folder}")
        self.path = folder / f"{where.removeprefix('train_')}.safetensors"
        self.identity = {
            "settings": dataclasses.asdict(settings),
            "architecture": {
                name: f"{tuple(weight.shape)} of {weight.dtype}" for name, weight in weights.items()
            },
            **{
                name: value if isinstance(value, str) else fingerprint(value)
                for name, value in same.items()
            },
        }
        if self.path.exists():
            self._compare(self._read(tensors=False)[0])

    def take_up(self) -> tuple[int, dict[str, Tensor], dict[str, float]]:
        """Put weights, moments and random states back as they were.

        Returns:
            the steps done, 0 for a new run, and the tensors and numbers given to the last ``save``.

        Raises:
            ValueError: as the constructor raises it.
        """
        if self.path is None or not self.path.exists():
            return 0, {}, {}
        about, saved = self._read(tensors=True)
        self._compare(about)
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(saved[f"weights.{name}"])
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in saved.items():
            if key.startswith("optimizer."):
                _, place, name = key.split(".")
                moments.setdefault(int(place), {})[name] = value
        if self.optimizer is not None:
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        for name, generator in self.generators.items():
            generator.set_state(saved[f"random.{name}"])
        own = {
            key.removeprefix("own."): value
            for key, value in saved.items()
            if key.startswith("own.")
        }
        return about["step"], own, about["numbers"]

    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensor] | None = None,
        numbers: Mapping[str, float] | None = None,
    ) -> None:
        """Write the state after a step, where a checkpoint is due.

        Args:
            step: steps done.
            tensors: what else changes in the run, by name.
            numbers: the same for plain numbers.

        Raises:
            OSError: if it cannot be written; what was there before is unchanged.
        """
        if self.path is None or not (step % self.every == 0 or step == self.last):
            return
        from safetensors.torch import save_file

        state = {f"weights.{name}": weight for name, weight in self.weights.items()}
        moments = {} if self.optimizer is None else self.optimizer.state_dict()["state"]
        for place, values in moments.items():
            for name, value in values.items():
                state[f"optimizer.{place}.{name}"] = torch.as_tensor(value)
        for name, generator in self.generators.items():
            state[f"random.{name}"] = generator.get_state()
        for name, tensor in (tensors or {}).items():
            state[f"own.{name}"] = tensor
        state = {name: state[name].detach().cpu().contiguous() for name in sorted(state)}
        about = {
            **self.identity,
            "step": step,
            "numbers": dict(numbers or {}),
            "content": fingerprint(state.values()),
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as new:
                save_file(state, new, metadata={"run": json.dumps(about)})
        except Exception as error:  # safetensors raises its own kind on a full disk
            raise OSError(
                f"{self.where}: could not write {self.path}: {error}. What was there before is "
                f"unchanged"
            ) from error

    def _read(self, tensors: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, "pt") as file:
                about = json.loads(file.metadata()["run"])
                names = sorted(file.keys()) if tensors else []
                state = {name: file.get_tensor(name) for name in names}
            if tensors and fingerprint(state.values()) != about["content"]:
                raise ValueError("its numbers were changed after they were written")
        except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
            raise ValueError(
                f"{self.where}: checkpoint must hold a run of {self.where}, but {self.path} cannot "
                f"be read: {error}. It stays as it is: delete it to start anew"
            ) from error
        return about, state

    def _compare(self, about: Mapping[str, Any]) -> None:
        differences = []
        for name, now in self.identity.items():
            then = about.get(name)
            if isinstance(now, dict) and isinstance(then, dict):
                differences += [f"{name}.{change}" for change in changes(then, now)]
            else:
                differences += changes({name: then}, {name: now})
        if differences:
            more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
            raise ValueError(
                f"{self.where}: checkpoint must belong to this run, but that of {self.path} "
                f"differs in {', '.join(differences[:3])}{more}. Give the first call's arguments, "
                f"models with the weights that they had then, or another folder"
            )


def fingerprint(parts: Iterable[Tensor | str]) -> str:
    """Give 16 characters that tell tensors or texts from others.

    Args:
        parts: tensors of any dtype and device, or texts; their order counts.

    Returns:
        the beginning of a SHA-256 in hexadecimal digits.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            content = part.encode()
            digest.update(f"{len(content)}:".encode())
        else:
            flat = part.detach().cpu().contiguous().reshape(-1)
            content = flat.view(torch.uint8).numpy()
            digest.update(f"{tuple(part.shape)} {part.dtype}:".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def name_of(formula: Callable[..., Any]) -> str:
    """Name a function that was handed to a loop, as far as it has a name.

    Args:
        formula: any callable.

    Returns:
        its qualified name, or that of its type.
    """
    return getattr(formula, "__qualname__", type(formula).__qualname__)
