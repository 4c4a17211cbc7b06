"""A language model's body with another head: a few numbers read at the last token of a text.

Belongs to lesson 3. The reward model reads one number, the response embedding a few; both are this
class. The body is the policy's own, so what pretraining taught about texts is not learned again.

::

    tokens     my sister showed ... | it made me smile . ... <end>
    body       h₁ h₂ h₃ ...                                  h_last
    head                                                     W · h_last  (B, D)

The layout on disk is that of transformers' sequence classifiers, so that a saved model also loads
with ``AutoModelForSequenceClassification`` and in TRL, where transformers has one of its family
(``scored_body`` makes the others).

Left out on purpose: pooling over tokens (the last token of a causal model has seen them all) and
adapters.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from rlhf_lessons.models import gpt2_body, packing
from rlhf_lessons.models.language_policy import LanguagePolicy
from rlhf_lessons.models.products import fast_products
from rlhf_lessons.models.saved_model import checked_classifier, load_whole
from rlhf_lessons.models.scored_body import scored_class
from rlhf_lessons.models.token_batch import TokenBatch, moved

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Self = TypeVar("Self", bound="Readout")


class Readout:
    """A causal body and a linear head that reads D numbers at the last counted token.

    Args:
        model: a sequence classifier of transformers with a body (``base_model``) and a linear head
            (``score``) of D outputs.
        tokenizer: the tokenizer of the body.

    Attributes:
        model: the wrapped model.
        tokenizer: the wrapped tokenizer.
        context_length: the most tokens (prompt + response + end) the body takes, None if unlimited.
        packed: as :class:`LanguagePolicy` has it.

    Raises:
        ValueError: if the model has no linear head named ``score``.
    """

    packed: bool | None = None

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        if not isinstance(getattr(model, "score", None), torch.nn.Linear):
            raise ValueError(
                f"{type(self).__name__}: model must have a linear head named 'score', "
                f"got {type(model).__name__}"
            )
        # Only the wrapper's reading and writing of text and files is used, not its policy.
        self._text = LanguagePolicy(model, tokenizer)
        self.context_length = self._text.context_length
        self._text.context_length = None  # too long a text is named, or cut, by rows_of
        fuse_activations(model)
        # The end token stands in for a missing padding token, and must learn like all others.
        model.get_input_embeddings().padding_idx = None
        self.model = model
        self.tokenizer = tokenizer

    @property
    def device(self) -> torch.device:
        """Where tokens go and numbers come from."""
        return self._text.device

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Iterate over the weights of body and head, for an optimizer.

        Yields:
            each parameter once.
        """
        return self.model.parameters()

    def embeddings(self) -> set[torch.nn.Parameter]:
        """Return the weights of the embeddings of words and positions."""
        tables = (m for m in self.model.modules() if isinstance(m, torch.nn.Embedding))
        return {weight for table in tables for weight in table.parameters()}

    # -- Making, loading, saving -------------------------------------------------------------------

    @classmethod
    def _from_body(
        cls: type[Self],
        policy: LanguagePolicy,
        outputs: int,
        head: Callable[[int], Tensor],
        **marks: str,
    ) -> Self:
        """Copy the policy's body and put the head on it: ``head(H)`` gives (D, H) weights.

        ``marks`` are kept, and saved, with the model's configuration.
        """
        policy = policy.merge() if policy.adapted else policy
        config = copy.deepcopy(policy.model.config)
        config.num_labels = outputs
        config.pad_token_id = policy.pad_token_id
        for name, value in marks.items():
            setattr(config, name, value)
        # The weights drawn here are all replaced: the caller's random numbers stay as they were.
        with torch.random.fork_rng(devices=[]):
            try:
                model = scored_class(config).from_config(config)
            except ValueError as error:
                raise ValueError(
                    f"{cls.__name__}.from_policy: transformers has no scalar head for "
                    f"{type(policy.model).__name__}: {error}"
                ) from error
        model.base_model.load_state_dict(policy.model.base_model.state_dict())
        with torch.no_grad():
            model.score.weight.copy_(head(model.score.in_features))
            if model.score.bias is not None:
                model.score.bias.zero_()
        model.to(device=policy.device, dtype=next(policy.parameters()).dtype)
        return cls(model, policy.tokenizer)

    @classmethod
    def from_pretrained(cls: type[Self], name_or_path: str | os.PathLike[str], **kw: Any) -> Self:
        """Load from a folder that ``save_pretrained`` wrote, or by name from the hub.

        Args:
            name_or_path: the folder or name; only safetensors files are read.
            **kw: passed on to ``AutoModelForSequenceClassification.from_pretrained``.

        Returns:
            the model, in evaluation mode.

        Raises:
            OSError: if there is no such model, or it holds no safetensors weights.
            ValueError: if it holds a language model without this head, another kind of model, or
                not all its weights.
        """
        where = f"{cls.__name__}.from_pretrained"
        name = checked_classifier(where, name_or_path)

        from transformers import AutoConfig, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(name)
        kind = scored_class(AutoConfig.from_pretrained(name))
        return cls(load_whole(where, kind, name, **kw), tokenizer)

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write model and tokenizer to a folder as safetensors, all or nothing.

        Args:
            path: the folder; made if missing. A saved model in it is replaced once the new one is
                complete.

        Raises:
            OSError: if it cannot be written; what was there before is unchanged.
            ValueError: if the folder holds something other than a saved model.
        """
        self._text.save_pretrained(path)

    def copy(self: Self) -> Self:
        """Make a deep copy with weights of its own; the tokenizer is shared."""
        return type(self)(copy.deepcopy(self.model), self.tokenizer)

    # -- Reading -----------------------------------------------------------------------------------

    def rows_of(
        self, prompts: Sequence[str], responses: Sequence[str], *, truncate: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Turn texts into rows of tokens: prompt, response, end token, then padding.

        Args:
            prompts: B texts.
            responses: B texts that continue them.
            truncate: whether to cut what is beyond the context; False refuses such a text.

        Returns:
            (B, L) token ids and (B,) how many of each row count, on the CPU.

        Raises:
            TypeError: if prompts or responses is not a sequence of str.
            ValueError: if there are none, their numbers differ, or a text is too long.
        """
        tokens, lengths = as_rows(self._text.encode(prompts, responses).to("cpu"))
        limit = self.context_length
        if limit is not None and tokens.shape[1] > limit:
            long = (lengths > limit).nonzero().flatten().tolist()
            if long and not truncate:
                raise ValueError(
                    f"{type(self).__name__}: prompt, response and end token must fit into the "
                    f"context of {limit} tokens, got {int(lengths[long[0]])} in row {long[0]} "
                    f"({len(long)} of {len(lengths)} rows are too long)"
                )
            tokens, lengths = tokens[:, :limit], lengths.clamp(max=limit)
        return tokens, lengths

    def read_rows(self, tokens: Tensor, lengths: Tensor, *, groups: int = 1) -> Tensor:
        """Read the head at the last counted token of each row, with gradient.

        Args:
            tokens: (B, L) token ids, padded on the right; what stands in the padding changes
                nothing.
            lengths: (B,) how many tokens of each row count, at least 1.
            groups: number of forward passes, each over rows of like length. More of them compute
                less padding and keep the processor less busy; the result is the same.

        Returns:
            (B, D) numbers, float32 or better.

        Raises:
            ValueError: if a row counts no token or more than L.
        """
        tokens, lengths = moved(torch.device("cpu"), tokens, lengths)
        if lengths.shape != tokens.shape[:1] or not bool(
            ((lengths >= 1) & (lengths <= tokens.shape[1])).all()
        ):
            raise ValueError(
                f"{type(self).__name__}: lengths must hold {len(tokens)} numbers from 1 to "
                f"{tokens.shape[1]}, got {lengths.tolist()}"
            )
        if groups == 1 or gpt2_body.is_plain(self.model):  # which computes no padding
            return self._forward(tokens, lengths)
        order = lengths.argsort()
        chunks = order.chunk(groups)
        cells = sum(len(rows) * int(lengths[rows].max()) for rows in chunks)
        body = self.model.base_model
        if packing.packed_tree(body, tokens, lengths, self.packed, cells) is not None:
            return self._forward(tokens, lengths)
        numbers = [self._forward(tokens[rows], lengths[rows]) for rows in chunks]
        return torch.cat(numbers).index_select(0, *moved(self.device, order.argsort()))

    def _forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """One forward pass, without the columns that no row uses; what is given is on the CPU."""
        used = int(lengths.max())
        tokens = tokens[:, :used]
        counted = torch.arange(used) < lengths.unsqueeze(1)
        # Padding is on the right, where no counted token looks: no attention mask is needed, and
        # the row's first token fills it as well as any.
        tokens = torch.where(counted, tokens, tokens[:, :1])
        places, read = self._places(lengths)
        row = torch.arange(len(tokens)).unsqueeze(1).expand_as(places)[read]
        body = self.model.base_model
        if gpt2_body.is_plain(self.model):
            states = gpt2_body.states_at(body, tokens, lengths, places, read)
            (row,) = moved(self.device, row)
        else:
            inputs, (cells, row) = packing.model_inputs(
                body, tokens, lengths, places, read, self.packed, row
            )
            with fast_products(self.device):
                hidden = body(**inputs, use_cache=False).last_hidden_state
            states = hidden.flatten(0, 1).index_select(0, cells)
        numbers = self.model.score(states)
        numbers = numbers.to(torch.promote_types(numbers.dtype, torch.float32))
        return numbers.new_zeros(len(tokens), numbers.shape[1]).index_add(0, row, numbers)

    def _places(self, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Say where the head reads, and what counts; a row's numbers are summed.

        Gives (B, T) columns of counted tokens and a boolean (B, T), what counts first in each row;
        here the last token alone.
        """
        places = (lengths - 1).unsqueeze(1)
        return places, torch.ones_like(places, dtype=torch.bool)

    @torch.no_grad()
    def read(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        batch_size: int = 256,
        truncate: bool = False,
    ) -> Tensor:
        """Read the head at the end of each response, without gradient.

        Args:
            prompts: B texts.
            responses: B texts that continue them.
            batch_size: texts a forward pass; it changes speed and memory alone.
            truncate: whether to cut what is beyond the context.

        Returns:
            (B, D) numbers.

        Raises:
            ValueError: as ``rows_of`` raises it.
            FloatingPointError: if a number is NaN or infinite; it names the response.
        """
        tokens, lengths = self.rows_of(prompts, responses, truncate=truncate)
        numbers = None
        # Texts of like length go together, so that little padding is computed.
        for rows in lengths.argsort().split(batch_size):
            part = self.read_rows(tokens[rows], lengths[rows])
            if numbers is None:
                numbers = part.new_empty(len(tokens), part.shape[1])
            numbers[rows] = part
        broken = (~numbers.isfinite()).any(1)
        if broken.any() and self.packed is not False:
            # Which text it is: in a packed row what is not finite reaches the others.
            alone = copy.copy(self)
            alone.packed = False
            return alone.read(prompts, responses, batch_size=batch_size, truncate=truncate)
        if broken.any():
            row = int(broken.nonzero()[0])
            raise FloatingPointError(
                f"{type(self).__name__}: scores must be finite, got {numbers[row].tolist()} for "
                f"response {row}, {list(responses)[row]!r}; the weights are probably NaN"
            )
        return numbers


def as_rows(batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Move prompts and responses together: (B, L) tokens padded on the right, (B,) lengths."""
    tokens = torch.cat([batch.prompt_tokens, batch.response_tokens], dim=1)
    before = (~batch.prompt_mask).sum(1, keepdim=True)
    places = torch.arange(tokens.shape[1], device=tokens.device) + before
    lengths = batch.prompt_mask.sum(1) + batch.response_mask.sum(1)
    return tokens.gather(1, places.clamp(max=tokens.shape[1] - 1)), lengths


def fuse_activations(model: torch.nn.Module) -> None:
    """Replace GPT-2's tanh form of GELU, written in eight operations, by torch's single one.

    ½x·(1 + tanh(√(2/π)·(x + 0.044715x³))) is the same function at less than half the time. The
    model's settings, and what is saved, stay as they were.
    """
    for module in model.modules():
        for name, child in module.named_children():
            if type(child).__name__ == "NewGELUActivation":
                setattr(module, name, torch.nn.GELU(approximate="tanh"))
