"""Reading on with memory that is taken once: on a GPU a step is then one launch, not hundreds.

A step of a small model keeps a GPU waiting: to read the weights takes it 0.1 ms, to be told what to
do, kernel by kernel, 23 ms. Where shapes and addresses stay the same from step to step, the whole
step can be recorded as a CUDA graph and replayed. What is here: :class:`StaticReader`, a
:class:`~rlhf_lessons.models.reading.Reader` with such steps, and :func:`suits`, which says for
which models. Without a GPU the same step is called in the place of its recording.

A recording costs about two steps and holds for one call of the sampler: weights may move in
between. It has been tested without a GPU alone, with a stand-in for one. Left out on purpose:
recordings that outlive a call, and prompts, whose shapes differ.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlhf_lessons.models.adapters import inside
from rlhf_lessons.models.reading import Reader, moves

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__: list[str] = []

LOOK_EVERY = 8  # steps: to ask who has ended is to wait for the GPU
SMALLEST_SHARE = 8  # Batches shrink by halves, each with a recording of its own, to an eighth.
_unrecorded: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()  # models where that failed


def suits(model: PreTrainedModel) -> bool:
    """Say whether the steps of this model can all be the same work.

    Its family must say so, and attention must take a mask over memory that is not yet written.

    Args:
        model: any model of transformers, with adapters or without.
    """
    try:
        from transformers.cache_utils import StaticLayer
    except ImportError:  # transformers before 4.54 keeps static memory in another form
        return False
    model = inside(model)
    return (
        # transformers 4 takes the place to write from its caller; 5 counts on the device.
        isinstance(getattr(StaticLayer(max_cache_len=1), "cumulative_length", None), Tensor)
        and getattr(model, "_can_compile_fullgraph", False)
        and getattr(model.config, "_attn_implementation", None) in ("sdpa", "eager")
        # Which makes keys and values of different precision, and copies of weights that pass away.
        and not torch.is_autocast_enabled(model.device.type)
    )


class StaticReader(Reader):
    """A :class:`Reader` with the same work at each step, recorded once on a GPU; the same logits.

    Prompts are read as ever, and their keys and values then copied into memory with room for the
    responses. A model whose cache has layers of another kind (a state in the place of keys and
    values) is read on as by :class:`Reader`. Sliding windows stay in the model's mask: here nothing
    moves out of memory.

    Args:
        model: one that ``suits``.
        forward: as for :class:`Reader`, and takes ``positions``.
        prompt_mask: (B, P) boolean, True = a token of the prompt; None where nothing is padded.
        room: how many tokens will be read after the prompts.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        forward: Callable[..., tuple[Tensor, Any]],
        prompt_mask: Tensor | None,
        room: int,
    ) -> None:
        super().__init__(forward, prompt_mask, room)
        self.model, self.room = model, room
        self.memory: Any = None
        self.warm = False  # whether a batch of this size was read
        self.replay: Callable[[], Tensor] | None = None

    @property
    def look_every(self) -> int:  # type: ignore[override]
        """After how many steps the sampler asks which rows have ended."""
        return 1 if self.memory is None else LOOK_EVERY

    def read_prompts(self, tokens: Tensor) -> Tensor:
        """Read the (B, P) prompts and give the next token's logits (B, V); equal ones once."""
        logits = super().read_prompts(tokens)
        self.memory = _memory(self.cache, self.length, self.length + self.room)
        if self.memory is not None:
            self.cache = None
            self.smallest = -(-len(tokens) // SMALLEST_SHARE)
            self.records = _can_record(tokens.device) and self.model not in _unrecorded
            # From here on addresses stay until rows are dropped.
            if self.seen is None:
                shape = len(tokens), self.length + self.room
                self.seen = torch.ones(shape, dtype=torch.bool, device=tokens.device)
            self.tokens = tokens[:, -1:].clone()
            self.positions = self._positions()
        return logits

    def read(self, tokens: Tensor) -> Tensor:
        """Read (B, N) tokens that follow what was read and give the next token's logits (B, V)."""
        if self.memory is None:
            return super().read(tokens)
        self.tokens.copy_(tokens)
        logits = self._recorded_step() if self.records else self._step()
        self.length += 1
        return logits

    def batch_for(self, running: int) -> int:
        """Give the fewest rows it can go on with that hold these."""
        if self.memory is None:
            return running
        rows = len(self.tokens)
        while (half := -(-rows // 2)) >= max(running, self.smallest) and half < rows:
            rows = half
        return rows

    def can_drop(self) -> bool:
        """Say whether it knows how to keep only some rows."""
        return self.memory is not None or super().can_drop()

    def keep(self, rows: Tensor) -> None:
        """Go on with only these rows; a row that stays where it was costs nothing."""
        if self.memory is None:
            super().keep(rows)
            return
        places, moved = moves(rows)
        for layer in self.memory.layers:
            for states in (layer.keys, layer.values):
                states[places, :, : self.length] = states[moved, :, : self.length]
            layer.keys, layer.values = layer.keys[: len(rows)], layer.values[: len(rows)]
        self.tokens = self.tokens[: len(rows)]
        self.seen, self.positions = self.seen[rows], self.positions[rows]
        self.warm, self.replay = False, None

    def _step(self) -> Tensor:
        """Read ``self.tokens`` (B, 1); all that changes, changes in place."""
        logits, _ = self.forward(
            self.tokens, self.seen, keep=1, use_cache=True,
            cache=self.memory, positions=self.positions,
        )  # fmt: skip
        self.positions.add_(1)
        return logits[:, -1]

    def _recorded_step(self) -> Tensor:
        """Do the step: plainly the first time, so that kernels are loaded, then as a recording."""
        try:
            if not self.warm:
                with _no_waits():
                    logits = self._step()
                self.warm = True
                return logits
            if self.replay is None:
                self.replay = _record(self._step)
            return self.replay()
        except Exception as error:
            _unrecorded.add(self.model)
            self.records, self.replay = False, None
            warnings.warn(
                f"sample: a step of {type(self.model).__name__} cannot be recorded as a CUDA "
                f"graph, so it goes on step by step: {type(error).__name__}: {error}",
                stacklevel=2,
            )
            self.positions.copy_(self._positions())
            for layer in self.memory.layers:
                layer.cumulative_length.fill_(self.length)
        return self._step()

    def _positions(self) -> Tensor:
        """(B, 1): how many tokens of each row were read, padding apart."""
        return self.seen[:, : self.length].sum(1, keepdim=True)


def _memory(cache: Any, length: int, room: int) -> Any:
    """Copy what was read, ``length`` tokens, into a cache for ``room``; None if it cannot be."""
    from transformers.cache_utils import Cache, StaticLayer

    read = getattr(cache, "layers", [])
    kinds = {type(layer).__name__ for layer in read}
    if not read or not kinds <= {"DynamicLayer", "DynamicSlidingWindowLayer"}:
        return None
    memory = Cache(layers=[StaticLayer(max_cache_len=room) for _ in read])
    for layer, static in zip(read, memory.layers, strict=True):
        gone = length - layer.keys.shape[2]  # out of a sliding window
        static.lazy_initialization(layer.keys, layer.values)
        static.keys[:, :, gone:length] = layer.keys
        static.values[:, :, gone:length] = layer.values
        static.cumulative_length.fill_(length)
    return memory


def _can_record(device: torch.device) -> bool:
    return device.type == "cuda"


@contextlib.contextmanager
def _no_waits() -> Iterator[None]:
    """Make waiting for the GPU an error, before a recording does, which would leave it half-way."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _record(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Record a step, which does not do it, and give what does: its logits lie in the same place."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            logits = step()
    finally:  # torch stays on the stream of a recording that failed
        torch.cuda.set_stream(stream)

    def replay() -> Tensor:
        graph.replay()
        return logits

    return replay
