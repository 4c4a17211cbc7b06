"""A device that is not there: tensors that compute on the CPU and say that they are elsewhere.

A CPU runs ahead of a GPU until it asks for something that the GPU has not computed yet: a number,
or a shape that depends on numbers. Each such wait leaves the GPU without work. Here they
are counted where there is no GPU, and what would fail there fails: a tensor of the CPU among those
of the device. What transformers itself waits for does not count.
"""

from __future__ import annotations

import traceback
from collections import Counter
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")  # the one that every build of torch knows and that has no numbers
aten = torch.ops.aten
# Their results have a shape that only the numbers tell.
SHAPED_BY_NUMBERS = (aten.nonzero, aten.masked_select, aten._unique2, aten.repeat_interleave)
INDEXING = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)


class Elsewhere(torch.Tensor):
    """A tensor of that device; ``held`` are its numbers."""

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Elsewhere:
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, device=DEVICE,
        )  # fmt: skip
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self):
        """Give the numbers, as a tensor of a device does: by way of the CPU."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} outside of PretendDevice")


class PretendDevice(TorchDispatchMode):
    """A block in which the device is there.

    Attributes:
        waits: how often the CPU waits, by operation and line.
        copies: how often something is copied to the device, likewise.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Do what was called, on the numbers."""
        kwargs = dict(kwargs or {})
        flat, _ = tree_flatten((args, kwargs))
        tensors = [x for x in flat if isinstance(x, torch.Tensor)]
        there = [x for x in tensors if isinstance(x, Elsewhere)]
        here = [x for x in tensors if not isinstance(x, Elsewhere) and x.ndim > 0]
        name, wanted = function.overloadpacket, kwargs.get("device")
        result_there = bool(there) if wanted is None else torch.device(wanted) == DEVICE
        if name in (aten._to_copy, aten.copy_):
            source = args[0] if name is aten._to_copy else args[1]
            if name is aten.copy_:
                result_there = isinstance(args[0], Elsewhere)
            if isinstance(source, Elsewhere) != result_there:
                _count(self.copies if result_there else self.waits, name)
        elif there:
            by_mask = name in INDEXING and any(
                i is not None and i.dtype == torch.bool for i in args[1]
            )
            if name in SHAPED_BY_NUMBERS or name is aten._local_scalar_dense or by_mask:
                _count(self.waits, name)
            if here and name in INDEXING:
                _count(self.waits, name)
            elif here:
                raise RuntimeError(f"{function} of tensors on {DEVICE} and on the CPU")
        if wanted is not None:
            kwargs["device"] = torch.device("cpu")
        args, kwargs = tree_map(_held, args), tree_map(_held, kwargs)
        result = function(*args, **kwargs)
        same = {id(x.held): x for x in there}  # what works in place gives back what it was given
        if not result_there:
            return result

        def back(x):
            if not isinstance(x, torch.Tensor):
                return x
            return same[id(x)] if id(x) in same else Elsewhere(x)

        return tree_map(back, result)


def _count(counter: Counter[str], name: object) -> None:
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if "transformers" in path.parts:
            return
        if "rlhf_lessons" in path.parts:
            counter[f"{name} at {path.name}:{frame.lineno}"] += 1
            return
    counter[str(name)] += 1


def _held(x):
    return x.held if isinstance(x, Elsewhere) else x


def move(module: torch.nn.Module) -> torch.nn.Module:
    """Move weights and buffers of a model to the device, in place; what is tied stays tied."""
    moved: dict[int, torch.Tensor] = {}
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                at = moved.setdefault(
                    id(weight), torch.nn.Parameter(Elsewhere(weight.detach()), weight.requires_grad)
                )
                part._parameters[name] = at
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = Elsewhere(buffer)
    return module
