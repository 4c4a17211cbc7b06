"""Low-rank adapters: beside each frozen weight W two thin matrices learn, W + (α/r) · B · A.

A model of 135 million weights then trains 5 million, and the optimizer keeps moments of those
alone (LoRA: Hu et al. 2022, arXiv 2106.09685, section 4.1). A is (r, in) and random, B is (out, r)
and starts at zero, so the policy starts as its base::

    policy = LanguagePolicy.from_pretrained("gpt2").with_adapter(rank=16)
    policy.base()    the weights W alone, shared: a reference that takes no memory
    policy.copy()    the policy as it is now, frozen: W shared, A and B copied
    policy.merge()   W + (α/r) · B · A in weights of its own: a model like any other

The library peft does the work; what is here keeps weights shared, files whole and messages plain.
Nothing is switched on and off: a base, its adapted policy and their copies have layers of their own
around the same weights. Left out on purpose: other kinds of adapters, several at once, and bases in
4 or 8 bits.
"""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__: list[str] = []

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # as peft names them


def is_adapted(model: Any) -> bool:
    """Say whether adapters (peft) stand in this model."""
    return hasattr(model, "get_base_model")


def inside(model: Any) -> PreTrainedModel:
    """Give the model of transformers in whose layers the adapters stand; any other as it is."""
    return model.get_base_model() if is_adapted(model) else model


# --- making ---------------------------------------------------------------------------------------


def add_adapter(
    where: str, model: PreTrainedModel, rank: int, alpha: float | None, seed: int
) -> PreTrainedModel:
    """Put adapters beside all linear layers but the head, in layers of their own.

    Args:
        where: the caller, to begin messages with.
        model: a causal language model; its weights are shared, and frozen from now on.
        rank: r, the rows of A and the columns of B.
        alpha: α, None for 2 · rank.
        seed: of A.

    Returns:
        the adapted model, of which A and B learn.

    Raises:
        ImportError: if peft is not installed.
        TypeError: if rank or seed is no int, or alpha no number.
        ValueError: if rank or alpha is not above 0, the model has adapters already, or it has no
            linear layers.
    """
    for name, value in (("rank", rank), ("seed", seed)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{where}: {name} must be an int, got {value!r}")
    alpha = 2 * rank if alpha is None else alpha
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool):
        raise TypeError(f"{where}: alpha must be None or a number, got {alpha!r}")
    if rank < 1:
        raise ValueError(f"{where}: rank must be at least 1, got {rank}")
    if not 0 < alpha < float("inf"):
        raise ValueError(f"{where}: alpha must be above 0 and finite, got {alpha}")
    if is_adapted(model):
        raise ValueError(
            f"{where}: policy must have no adapters yet, got one that has; train those, or put "
            f"new ones on policy.merge()"
        )
    peft = _peft(where)
    from transformers.pytorch_utils import Conv1D

    stored_as_in_out = any(isinstance(layer, Conv1D) for layer in model.modules())  # GPT-2's
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        target_modules="all-linear",
        fan_in_fan_out=stored_as_in_out,
    )
    adapted = _wrapped(where, peft, model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if ".lora_A." in name:  # drawn anew, as peft draws it, the same on every device
                drawn = torch.empty(weight.shape)
                torch.nn.init.kaiming_uniform_(drawn, a=5**0.5, generator=generator)
                weight.copy_(drawn)
    return adapted


def _wrapped(where: str, peft: Any, model: PreTrainedModel, config: Any) -> PreTrainedModel:
    """Put the adapters that a configuration describes around a model's weights, which freeze."""
    config.base_model_name_or_path = None  # peft asks the model
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        try:
            return peft.get_peft_model(_sharing(model), config).eval()
        except ValueError as error:
            raise ValueError(
                f"{where}: policy must be a model that peft can adapt, got {type(model).__name__}: "
                f"{error}"
            ) from error


def _peft(where: str) -> Any:
    try:
        import peft
    except ImportError as error:
        raise ImportError(
            f"{where}: adapters need peft, got {error}; pip install 'rlhf-lessons[lora]'"
        ) from error
    return peft


# --- one set of weights, several models -----------------------------------------------------------


def _sharing(model: Any) -> Any:
    """Make a model with layers of its own around the very weights of another."""
    return copy.deepcopy(model, {id(x): x for x in (*model.parameters(), *model.buffers())})


def base_of(model: Any) -> PreTrainedModel:
    """Give the model without its adapters, in layers of its own around the same weights."""
    base = _sharing(model).unload()
    vars(base).pop("peft_config", None)  # which would pass for adapters still there
    return base.eval()


def frozen_copy(model: Any) -> Any:
    """Copy a model for good; of an adapted one only the adapters, the frozen base is shared."""
    shared = base_of(model).parameters() if is_adapted(model) else ()
    result = copy.deepcopy(model, {id(w): w for w in shared if not w.requires_grad})
    return result.requires_grad_(False)


def merged(model: Any) -> PreTrainedModel:
    """Give W + (α/r) · B · A in weights of their own, all of them trainable."""
    result = copy.deepcopy(model).merge_and_unload()
    vars(result).pop("peft_config", None)
    result.name_or_path = ""  # it is no longer what lies there
    return result.requires_grad_(True).eval()


# --- files ----------------------------------------------------------------------------------------


def save_adapter(model: Any, folder: Path, base: str | None, *, weights: bool = True) -> None:
    """Write the adapters, without the base.

    Args:
        model: the adapted model.
        folder: where to, an existing one.
        base: what the folder will say of where the base is.
        weights: False writes all but the weights.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    config = copy.copy(model.active_peft_config)
    config.base_model_name_or_path, config.inference_mode = base, True
    config.target_modules = sorted(config.target_modules)  # of a set, in no order that lasts
    config.save_pretrained(folder)
    if weights:
        state = get_peft_model_state_dict(
            model, adapter_name=model.active_adapter, save_embedding_layers=False
        )
        state = {name: weight.detach().cpu().contiguous() for name, weight in state.items()}
        about = {"format": "pt", "base": _mark(base_of(model)), "base_dtype": str(model.dtype)}
        save_file(state, folder / WEIGHTS, metadata=about)


def load_adapter(where: str, folder: Path, base: PreTrainedModel) -> PreTrainedModel:
    """Put saved adapters on their base.

    Args:
        where: the caller, to begin messages with.
        folder: where ``adapter_config.json`` and ``adapter_model.safetensors`` are.
        base: the base.

    Returns:
        the adapted model, of which the adapters learn.

    Raises:
        ImportError: if peft is not installed.
        ValueError: if the adapters cannot be read, are not whole, or belong on another base.
    """
    peft = _peft(where)
    from safetensors import SafetensorError, safe_open

    try:
        config = peft.PeftConfig.from_pretrained(str(folder))
        with safe_open(folder / WEIGHTS, "pt") as file:
            about = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, TypeError, ValueError, KeyError, OSError) as error:
        raise ValueError(f"{where}: {folder} must hold an adapter, got {error}") from error
    if about.get("base_dtype") == str(base.dtype) and about.get("base") != _mark(base):
        raise ValueError(
            f"{where}: the adapter in {folder} must stand on the weights that it was trained on, "
            f"got others from {base.name_or_path or 'its base'}; base= gives the right ones"
        )
    config.inference_mode = False
    model = _wrapped(where, peft, base, config)
    wanted = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    missing = sorted(wanted.keys() - state.keys())
    if missing:
        raise ValueError(
            f"{where}: {folder} must hold all weights of its adapter, got none for {missing[0]}"
            + (f" and {len(missing) - 1} others" if len(missing) > 1 else "")
        )
    try:
        unknown = peft.set_peft_model_state_dict(model, state).unexpected_keys
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[-1].strip()
        raise ValueError(f"{where}: {folder} must fit its base, got {reason:.300}") from error
    if unknown:
        raise ValueError(
            f"{where}: {folder} must hold an adapter of its base, got weights that have no place "
            f"there, such as {unknown[0]}"
        )
    return model


def _mark(model: torch.nn.Module) -> str:
    """Give 16 characters that tell one base from another: of each weight some numbers count."""
    marks = []
    for weight in model.parameters():
        some = weight.detach().flatten()[:: max(1, weight.numel() // 256)].cpu().contiguous()
        marks.append(hashlib.sha256(some.view(torch.uint8).numpy()).hexdigest())
    return hashlib.sha256("".join(sorted(marks)).encode()).hexdigest()[:16]
