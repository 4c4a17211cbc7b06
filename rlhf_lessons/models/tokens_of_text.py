"""Text to tokens and back: where a prompt starts, where a response ends.

Prompt and response are tokenized apart, so that the tokens of a prompt never depend on what follows
it. What differs from family to family is settled here once: a start token that chat templates write
too, an end token behind every text, several tokens that end a turn, tokens without a text.

Left out on purpose: the side on which a tokenizer pads (each family has its own), and chat
templates, which write the text of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__: list[str] = []


class TokensOfText:
    """How one model's tokenizer is used.

    Args:
        model: the model, which may name end tokens.
        tokenizer: its tokenizer.
        vocabulary_size: V, the number of tokens the model knows.

    Attributes:
        end_token_ids: the tokens that end a response; the first is written at its end.
        pad_token_id: the token written where there is none.

    Raises:
        ValueError: if nobody names an end token, or if it is outside the vocabulary.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        vocabulary_size: int,
    ) -> None:
        self.tokenizer, self.vocabulary_size = tokenizer, vocabulary_size
        self.end_token_ids = _end_tokens(model, tokenizer, vocabulary_size)
        end = self.end_token_ids[0]
        self.pad_token_id: int = padding_token(tokenizer, end, vocabulary_size)
        # Some tokenizers end every text with the end token; a prompt must not. Some begin it with
        # the start token, which chat templates write, too; it must not stand there twice.
        plain = tokenizer("a", add_special_tokens=False)["input_ids"]
        dressed = tokenizer("a")["input_ids"]
        self._appends_end = bool(plain and plain[-1] != end and dressed[-1] == end)
        self._prepends_start = bool(
            plain and plain[0] != tokenizer.bos_token_id and dressed[0] == tokenizer.bos_token_id
        )

    def of_prompts(self, prompts: list[str]) -> list[list[int]]:
        """Give the tokens of prompts, each at least one; equal prompts are read once."""
        places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
        rows = self.tokenizer(list(places), verbose=False)["input_ids"]
        if self._appends_end:
            rows = [ids[:-1] for ids in rows]
        start = self.tokenizer.bos_token_id
        if self._prepends_start:
            rows = [ids[1:] if ids[1:2] == [start] else ids for ids in rows]
        start = self.end_token_ids[0] if start is None else start
        rows = [ids or [start] for ids in rows]
        return [rows[places[prompt]] for prompt in prompts]

    def of_responses(self, responses: list[str], end: bool) -> list[list[int]]:
        """Give the tokens of responses, with one end token each where ``end`` says so."""
        rows = self.tokenizer(responses, add_special_tokens=False, verbose=False)["input_ids"]
        if end:
            last = self.end_token_ids[0]
            rows = [ids if ids and ids[-1] in self.end_token_ids else [*ids, last] for ids in rows]
        return rows

    def to_texts(self, rows: list[list[int]]) -> list[str]:
        """Give the texts of responses, end token and other special tokens left out."""
        ended = [ids[:-1] if ids and ids[-1] in self.end_token_ids else ids for ids in rows]
        return self.tokenizer.batch_decode(
            ended, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    @cached_property
    def unspoken(self) -> Tensor | None:
        """(V,) True at ids that stand for no text, since the tokenizer lacks them; None if none."""
        known = torch.zeros(self.vocabulary_size, dtype=torch.bool)
        ids = torch.tensor(sorted(self.tokenizer.get_vocab().values()))
        known[ids[ids < self.vocabulary_size]] = True
        return None if known.all() else ~known

    def padded(self, rows: list[list[int]], left: bool) -> tuple[Tensor, Tensor]:
        """Lay rows of unequal length out as (B, T) tokens and their mask."""
        width = max(map(len, rows))
        tokens, mask = [], []
        for ids in rows:
            padding, gap = [self.pad_token_id] * (width - len(ids)), [False] * (width - len(ids))
            tokens.append(padding + ids if left else ids + padding)
            mask.append(gap + [True] * len(ids) if left else [True] * len(ids) + gap)
        return (
            torch.tensor(tokens, dtype=torch.long).reshape(len(rows), width),
            torch.tensor(mask, dtype=torch.bool).reshape(len(rows), width),
        )


def checked_texts(where: str, name: str, texts: Sequence[str]) -> list[str]:
    """Refuse what is no list of texts."""
    if isinstance(texts, str):
        raise TypeError(
            f"{where}: {name} must be a list of str, got the single str {texts!r}: "
            f"write [{texts!r}]"
        )
    try:
        texts = list(texts)
    except TypeError:
        raise TypeError(
            f"{where}: {name} must be a list of str, got {type(texts).__name__}"
        ) from None
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(
                f"{where}: {name} must be a list of str, got {type(text).__name__} at {row}"
            )
    return texts


def text_config(model: PreTrainedModel) -> PretrainedConfig:
    """Give the configuration of what reads text: in a model that sees, too, of a part of it."""
    config = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def padding_token(
    tokenizer: PreTrainedTokenizerBase, end: int | None, vocabulary_size: int
) -> int | None:
    """Choose what stands where no token is: the tokenizer's padding token, else the end token.

    One that is outside the model's vocabulary cannot be read, and counts as none.
    """
    pad = tokenizer.pad_token_id
    return pad if pad is not None and pad < vocabulary_size else end


def _end_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, vocabulary_size: int
) -> tuple[int, ...]:
    """Give the tokenizer's end token, then those that the model's generation settings name."""
    config = text_config(model)
    settings = getattr(model, "generation_config", None)
    named = _as_list(getattr(settings, "eos_token_id", None))
    if len(named) == 1 and getattr(settings, "_from_model_config", True):
        named = []  # nobody's choice: the default of the family's configuration
    if tokenizer.eos_token_id is not None:
        first = [tokenizer.eos_token_id]
    else:
        first = _as_list(getattr(config, "eos_token_id", None)) or named
    if not first:
        raise ValueError(
            "LanguagePolicy: tokenizer must have an end token, because sampling stops there; "
            "got none. Name one of its tokens: tokenizer.eos_token = '<end>' (or set "
            "model.config.eos_token_id)"
        )
    if not 0 <= first[0] < vocabulary_size:
        raise ValueError(
            f"LanguagePolicy: the end token must be in the model's vocabulary of "
            f"{vocabulary_size} tokens, got id {first[0]}. After adding tokens call "
            f"model.resize_token_embeddings(len(tokenizer))"
        )
    known = (end for end in (*first, *named) if 0 <= end < vocabulary_size)
    return tuple(dict.fromkeys(known))


def _as_list(ids: object) -> list[int]:
    """One id, several or none, as a list."""
    ids = ids if isinstance(ids, (list, tuple)) else [ids]
    return [one for one in ids if isinstance(one, int)]
