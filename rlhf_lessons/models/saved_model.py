"""Models in folders and on the hub: read with all their weights, written all or nothing.

What is here is used by all that own weights: :func:`load_language_model` and :func:`load_whole`
refuse what transformers would complete with random numbers, :func:`save_whole` never leaves a
half-written folder, and :func:`try_saving` finds before a training what would stop it after. The
folder of an adapted model holds the adapters and says where their base is.

Only safetensors files are read: the older ``.bin`` files can run code when opened. Left out on
purpose: uploads to the hub.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rlhf_lessons.models import adapters
from rlhf_lessons.real_parts import PARTS, PartError, cache_folder, part_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__: list[str] = []

CHECKPOINT_FOLDER = Path(__file__).parent.parent / "checkpoints"
"""Where the shipped models lie."""

KINDS = ("config.json", adapters.CONFIG)  # what says that a folder holds a saved model


# --- reading --------------------------------------------------------------------------------------


def load_language_model(
    where: str,
    name_or_path: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    **kw: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer from a folder or from the hub.

    Args:
        where: the caller, to begin messages with.
        name_or_path: the folder or name.
        base: as ``LanguagePolicy.from_pretrained`` takes it.
        **kw: as ``LanguagePolicy.from_pretrained`` takes it.

    Returns:
        model and tokenizer.

    Raises:
        ImportError: as ``LanguagePolicy.from_pretrained`` raises it.
        TypeError: likewise.
        OSError: likewise.
        ValueError: likewise.
    """
    name = checked_path(where, "name_or_path", name_or_path)
    folder = Path(name).expanduser()
    offline = (
        "Without a network, give the folder of a saved policy, take one that comes with the "
        "course (rlhf_lessons.models.load_policy), or fetch the model once on a machine with "
        "a network and copy its folder here"
    )
    adapted = (folder / adapters.CONFIG).is_file() and not any(folder.glob("model*.safetensors"))
    if folder.is_dir():
        name = str(folder)
        if not (adapted or (folder / "config.json").is_file()):
            raise OSError(
                f"{where}: {folder} must hold a saved model, got no config.json there, and no "
                f"{adapters.CONFIG}"
            )
        if not any(folder.glob(adapters.WEIGHTS if adapted else "*.safetensors")):
            old = sorted(path.name for path in folder.glob("*.bin"))
            raise OSError(
                f"{where}: {folder} must hold safetensors weights, got "
                f"{', '.join(old) if old else 'no weights'}. Files of the older kind can run "
                f"code when opened and are not read: load the model where you trust it and "
                f"save it again with model.save_pretrained(folder)"
            )
    elif folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise OSError(f"{where}: there is no folder {folder}. {offline}")

    if adapted:
        return _load_adapted(where, folder, base, **kw)
    if base is not None:
        raise ValueError(
            f"{where}: base must be left out where a whole model is loaded, got {base!r} for "
            f"{name}, which holds no adapter"
        )

    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    shared = ("cache_dir", "local_files_only", "revision", "subfolder", "token")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name, **{key: kw[key] for key in (*shared, "trust_remote_code") if key in kw}
        )
        model = load_whole(where, AutoModelForCausalLM, name, **kw)
    except ImportError as error:  # what transformers 4 makes of a folder without a tokenizer
        raise OSError(
            f"{where}: {name} must hold a tokenizer, such as tokenizer.json, got one that "
            f"cannot be read: {str(error).strip()}"
        ) from error
    except (OSError, SafetensorError) as error:  # the second: weights that are cut off
        reason = str(error).strip().split("\n")[0]
        raise OSError(f"{where}: could not load {name!r}: {reason}. {offline}") from error
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        # transformers makes an empty tokenizer where the files of the saved one are missing.
        raise OSError(
            f"{where}: {name} must hold a tokenizer, such as tokenizer.json, got one of "
            f"{len(tokenizer)} tokens, all of them special"
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            f"{where}: {name} is taken for an adapter; give a folder with the adapter alone (one "
            f"from the hub is fetched first), or one with the model alone"
        )
    if folder.is_dir():
        model.name_or_path = os.path.realpath(folder)  # good from any working folder
    return model, tokenizer


def _load_adapted(
    where: str, folder: Path, base: str | os.PathLike[str] | None, **kw: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the base that an adapter's folder names, or the one that is given, and put it there."""
    named = checked_path(where, "base", base) if base is not None else None
    if named is None:
        try:
            about = json.loads((folder / adapters.CONFIG).read_text(encoding="utf-8"))
            named = about["base_model_name_or_path"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{where}: {folder / adapters.CONFIG} must name the adapter's base, but it cannot "
                f"be read: {error!r}"
            ) from error
        kw.setdefault("revision", about.get("revision") or "main")
    advice = f"base= of {where} says where the base of the adapter in {folder} is now"
    if not named:
        raise ValueError(f"{where}: {folder} must name the adapter's base, got none; {advice}")
    named = _course_folder(where, named)
    if (Path(named).expanduser() / adapters.CONFIG).is_file():
        raise ValueError(
            f"{where}: the base of an adapter must be a whole model, got the adapter {named}; "
            f"LanguagePolicy.from_pretrained({named!r}).merge() makes one"
        )
    try:
        model, tokenizer = load_language_model(where, named, **kw)
    except OSError as error:
        raise OSError(f"{error}. It is the base of an adapter: {advice}") from error
    if (folder / "tokenizer_config.json").is_file():
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    return adapters.load_adapter(where, folder, model), tokenizer


def load_whole(where: str, auto_class: Any, name: str, **kw: Any) -> PreTrainedModel:
    """Load a model, and refuse what transformers would make one of by adding random weights.

    The weights are float32 unless ``dtype`` says otherwise.
    """
    import transformers

    # Its name was `torch_dtype` before transformers 4.56.
    new_name = tuple(map(int, transformers.__version__.split(".")[:2])) >= (4, 56)
    kw["dtype" if new_name else "torch_dtype"] = kw.pop("dtype", torch.float32)
    try:
        model, found = auto_class.from_pretrained(
            name, use_safetensors=True, output_loading_info=True, **kw
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).split("\n")[0]
        if "ignore_mismatched_sizes" in reason:
            reason = "weights of other sizes than config.json says"
        raise ValueError(
            f"{where}: {name} must hold a model that {auto_class.__name__} loads, got {reason:.300}"
        ) from error
    made = type(model).__name__
    named = (getattr(model.config, "architectures", None) or [made])[0]
    # A body without a head, and a model of texts and pictures, are loaded under another name.
    if named != made and not named.endswith(("Model", "ForConditionalGeneration")):
        raise ValueError(f"{where}: {name} must hold a {made}, got a checkpoint of {named}")
    missing = sorted(found["missing_keys"])
    if missing:
        raise ValueError(
            f"{where}: {name} must hold all weights of {made}, got none for {missing[0]}"
            + (f" and {len(missing) - 1} others" if len(missing) > 1 else "")
            + "; they would be random"
        )
    return model


def checked_classifier(where: str, name_or_path: str | os.PathLike[str]) -> str:
    """Refuse a folder without a sequence classifier in it; give the name transformers takes."""
    name = os.fspath(name_or_path)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
            raise OSError(
                f"{where}: {folder} must hold config.json and safetensors weights, got "
                f"{sorted(path.name for path in folder.iterdir())}"
            )
        kinds = json.loads((folder / "config.json").read_text()).get("architectures") or [""]
        if not kinds[0].endswith("ForSequenceClassification"):
            raise ValueError(
                f"{where}: {folder} holds {kinds[0] or 'no named model'}, which has no head; "
                f"LanguagePolicy.from_pretrained loads it, RewardModel.from_policy adds one"
            )
        return str(folder)
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise OSError(f"{where}: there is no folder {folder}")
    return name


def checked_path(where: str, argument: str, value: object) -> str:
    """Refuse what is no path."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{where}: {argument} must be a str or a path, got {value!r}")
    return os.fspath(value)


# --- writing --------------------------------------------------------------------------------------


def save_whole(
    where: str,
    path: str | os.PathLike[str],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Write model and tokenizer to a folder, all or nothing; of an adapted model the adapters.

    The files are first written to a new folder beside it, which is then renamed; a full disk or a
    crash never leaves a half-written checkpoint. Weights that were in the folder are replaced,
    other files in it are kept.

    Args:
        where: the caller, to begin messages with.
        path: the folder; made if missing.
        model: what to write.
        tokenizer: its tokenizer.

    Raises:
        TypeError: if ``path`` is no path.
        OSError: if it cannot be written, with the path and the reason. What was there before is
            unchanged.
        ValueError: if the folder exists and holds something other than a saved model.
    """
    target = Path(os.path.realpath(Path(checked_path(where, "path", path)).expanduser()))
    if target.exists() and not target.is_dir():
        raise ValueError(f"{where}: path must be a folder, got the file {target}")
    exists = target.is_dir()
    if exists and any(target.iterdir()) and not any((target / kind).is_file() for kind in KINDS):
        raise ValueError(
            f"{where}: path must be a new folder or one that holds a saved model, got {target} "
            f"with other files in it"
        )
    if adapters.is_adapted(model) and _base_name(model) == str(target):
        raise ValueError(
            f"{where}: path must be another folder than that of the base, which the adapter needs, "
            f"got {target}"
        )
    mark = uuid.uuid4().hex[:8]
    written = target.with_name(f".{target.name}.{mark}.new")
    replaced = target.with_name(f".{target.name}.{mark}.old")
    try:
        written.mkdir(parents=True)
        _write(model, written)
        tokenizer.save_pretrained(written)
        if exists:
            os.rename(target, replaced)
        try:
            os.rename(written, target)
        except BaseException:
            if exists:
                os.rename(replaced, target)
            raise
    except Exception as error:  # safetensors and tokenizers raise their own kinds on a full disk
        raise OSError(
            f"{where}: could not write {target}: {error}. What was there before is unchanged"
        ) from error
    finally:
        shutil.rmtree(written, ignore_errors=True)
    if exists:
        new = {entry.name for entry in target.iterdir()}
        for entry in replaced.iterdir():
            weights = entry.suffix in (".safetensors", ".bin") and "model" in entry.name
            weights = weights or entry.name.endswith(".index.json")
            if not (entry.name in new or weights or entry.name in KINDS):
                os.rename(entry, target / entry.name)
        shutil.rmtree(replaced, ignore_errors=True)
    if not adapters.is_adapted(model):
        model.name_or_path = str(target)  # where an adapter will find its base


def try_saving(where: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Save all but the weights for a moment, so that nothing learned is lost at the end.

    Args:
        where: the loop, to begin messages with.
        model: what will be trained; one without ``save_pretrained`` is its owner's to save.
        tokenizer: its tokenizer.

    Raises:
        ValueError: if transformers refuses to save them.
    """
    if not hasattr(model, "save_pretrained"):
        return
    with tempfile.TemporaryDirectory() as folder, without_bars():
        try:
            _write(model, Path(folder), weights=False)
            tokenizer.save_pretrained(folder)
        except OSError:
            return  # no room for temporary files says nothing about the folder of the model
        except Exception as error:  # each kind of model and tokenizer refuses in its own way
            raise ValueError(
                f"{where}: a model must be one that can be saved after its training, but saving it "
                f"fails already: {error}"
            ) from error


def _write(model: PreTrainedModel, folder: Path, *, weights: bool = True) -> None:
    """Write a model, or its adapters, into an empty folder; without weights all but those."""
    if adapters.is_adapted(model):
        adapters.save_adapter(model, folder, _base_name(model), weights=weights)
        return
    with _generation_as_it_is(model):
        model.save_pretrained(folder, **({} if weights else {"state_dict": {}}))


def _base_name(model: PreTrainedModel) -> str | None:
    """Say where the base of an adapted model is: a course's name, a folder, a name on the hub."""
    name = adapters.inside(model).name_or_path or None
    if name is None or not Path(name).is_dir():
        return name
    folder = Path(os.path.realpath(name))
    homes = (CHECKPOINT_FOLDER.resolve(), Path(os.path.realpath(cache_folder())))
    return folder.name if folder.parent in homes else str(folder)


def _course_folder(where: str, name: str) -> str:
    """Give the folder of a model that comes with the course or is fetched; any other name as is."""
    if (CHECKPOINT_FOLDER / name / "config.json").is_file():
        return str(CHECKPOINT_FOLDER / name)
    if name in PARTS:
        try:
            return str(part_folder(name))
        except PartError as error:
            raise OSError(f"{where}: {error}") from error
    return name


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Make a block in which transformers shows no progress: its files are small."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _generation_as_it_is(model: PreTrainedModel) -> Iterator[None]:
    """Make a block in which the model's generation settings are saved unjudged, as they came.

    Many published models carry settings that transformers reads with a warning and refuses to
    write, such as ``do_sample=False`` beside a temperature. Training does not touch them.
    """
    from transformers import GenerationConfig

    class Unjudged(GenerationConfig):
        def validate(self, *args: Any, **kw: Any) -> None:
            """Accept."""

    settings = getattr(model, "generation_config", None)
    if type(settings) is not GenerationConfig:
        yield
        return
    model.generation_config = copy.copy(settings)
    model.generation_config.__class__ = Unjudged
    try:
        yield
    finally:
        model.generation_config = settings
