"""A language model as a policy: state = the text so far, action = the next token.

Lessons 2 to 8 stand on this room. :class:`LanguagePolicy` wraps any causal language model of
Hugging Face together with its tokenizer and answers two questions: *what would you say?*
(:meth:`LanguagePolicy.sample`) and *how likely was that?* (:meth:`LanguagePolicy.log_probs_of`).
The two agree to 1e-5, which PPO's ratio needs: it starts at exactly one.

Layout of a batch: prompts are padded on the left and responses on the right, side by side, so that
every response starts in the same column::

    .  the  film | was  fine  <end>
    I   saw   it | <end>  .     .

A prompt is plain text. For a chat model it is the text that the model's template writes::

    policy.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

Left out on purpose: beam search, repetition penalties and stop strings (they sample from something
other than π), and assembling tokens by a tokenizer's own padding (each family pads in its own way).
"""

from __future__ import annotations

import copy
import inspect
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rlhf_lessons.formulas.log_probs import truncate_logits
from rlhf_lessons.models import gpt2_body
from rlhf_lessons.models.products import fast_products
from rlhf_lessons.models.reading import GPT2Reader, Reader

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["LanguagePolicy", "Rollout", "TokenBatch"]

# `sample` goes on without the rows that have ended once no more than this share still runs. To drop
# moves rows of the cache, so it waits until enough is gained.
DROP_BELOW = 0.9


@dataclass(frozen=True)
class TokenBatch:
    """Prompts and responses as tokens, side by side.

    Attributes:
        prompt_tokens: (B, P) token ids, padded on the left.
        prompt_mask: (B, P) boolean, True = a token of the prompt.
        response_tokens: (B, T) token ids, padded on the right; the end token included where there
            is one.
        response_mask: (B, T) boolean, True = a token of the response, the end token included.
    """

    prompt_tokens: Tensor
    prompt_mask: Tensor
    response_tokens: Tensor
    response_mask: Tensor

    def __post_init__(self) -> None:
        for side in ("prompt", "response"):
            tokens, mask = getattr(self, f"{side}_tokens"), getattr(self, f"{side}_mask")
            if tokens.ndim != 2 or tokens.dtype != torch.long:
                raise ValueError(
                    f"TokenBatch: {side}_tokens must be a (B, T) tensor of dtype torch.int64, "
                    f"got {tuple(tokens.shape)} of {tokens.dtype}"
                )
            if mask.shape != tokens.shape or mask.dtype != torch.bool:
                raise ValueError(
                    f"TokenBatch: {side}_mask must be boolean with shape {tuple(tokens.shape)} "
                    f"like {side}_tokens, got {tuple(mask.shape)} of {mask.dtype}"
                )
        if len(self.prompt_tokens) != len(self.response_tokens):
            raise ValueError(
                f"TokenBatch: as many responses as prompts are needed, got "
                f"{len(self.prompt_tokens)} prompts and {len(self.response_tokens)} responses"
            )
        if self.prompt_mask.shape[1] == 0 or not self.prompt_mask[:, -1].all():
            raise ValueError(
                "TokenBatch: prompts must be padded on the left and hold at least one token, "
                "so the last column of prompt_mask must be True; got a row that ends in padding"
            )
        if (self.prompt_mask[:, :-1] & ~self.prompt_mask[:, 1:]).any():
            raise ValueError("TokenBatch: prompt_mask must have its padding on the left, got a gap")
        if (~self.response_mask[:, :-1] & self.response_mask[:, 1:]).any():
            raise ValueError(
                "TokenBatch: response_mask must have its padding on the right, got a gap"
            )

    def take(self, rows: Tensor) -> TokenBatch:
        """Make a batch of some rows, without the columns that none of them uses.

        Args:
            rows: (N,) which rows, on any device.

        Returns:
            the N rows.
        """
        rows = rows.to(self.prompt_mask.device)
        prompt, response = self.prompt_mask[rows], self.response_mask[rows]
        start = int((~prompt).sum(1).min())
        end = int(response.sum(1).max())
        return TokenBatch(
            self.prompt_tokens[rows, start:],
            prompt[:, start:],
            self.response_tokens[rows, :end],
            response[:, :end],
        )


@dataclass(frozen=True)
class Rollout(TokenBatch):
    """Responses that a policy sampled, with all that policy-gradient methods need of them.

    Attributes:
        prompt_tokens: (B, P) token ids, padded on the left.
        prompt_mask: (B, P) boolean, True = a token of the prompt.
        response_tokens: (B, T) sampled token ids, padded on the right.
        response_mask: (B, T) boolean, True = a sampled token, the end token included.
        prompts: the B prompts as they were given.
        responses: the B responses as text, special tokens left out.
        log_probs: (B, T) log π(token | text so far) of the policy itself, that is at temperature 1
            and with nothing cut; 0 where not counted.
        finished: (B,) boolean, True = the response ended with the end token, False = it was cut at
            ``max_new_tokens``.
    """

    prompts: tuple[str, ...]
    responses: tuple[str, ...]
    log_probs: Tensor
    finished: Tensor


class LanguagePolicy:
    """A causal language model and its tokenizer, as a policy π(next token | text so far).

    Works with any causal LM of Hugging Face transformers. The model is put in evaluation mode and
    stays there while it is trained: dropout would make the log-probs of a rollout differ from those
    that the training step computes. Gradients flow all the same.

    Args:
        model: a causal LM whose ``forward`` returns ``logits`` (B, T, V).
        tokenizer: its tokenizer. It needs no padding token: padding is masked, and the end token
            stands in for it.

    Attributes:
        model: the wrapped model.
        tokenizer: the wrapped tokenizer.
        device: where tokens go and log-probs come from.
        context_length: the most tokens (prompt + response) the model takes, None if unlimited.
        vocabulary_size: V, the number of tokens the model knows.
        end_token_id: the token that ends a response.
        pad_token_id: the token written where there is none.

    Raises:
        ValueError: if neither the tokenizer nor the model names an end token, or if the end token
            is outside the model's vocabulary.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        config = model.config
        if hasattr(config, "get_text_config"):
            config = config.get_text_config()
        self.context_length: int | None = next(
            (
                getattr(config, name)
                for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
                if isinstance(getattr(config, name, None), int) and getattr(config, name) > 0
            ),
            None,
        )
        self.vocabulary_size: int = model.get_input_embeddings().weight.shape[0]

        end = tokenizer.eos_token_id
        if end is None:
            end = getattr(config, "eos_token_id", None)
            end = end[0] if isinstance(end, (list, tuple)) and end else end
        if not isinstance(end, int):
            raise ValueError(
                "LanguagePolicy: tokenizer must have an end token, because sampling stops there; "
                "got none. Name one of its tokens: tokenizer.eos_token = '<end>' (or set "
                "model.config.eos_token_id)"
            )
        if not 0 <= end < self.vocabulary_size:
            raise ValueError(
                f"LanguagePolicy: the end token must be in the model's vocabulary of "
                f"{self.vocabulary_size} tokens, got id {end}. After adding tokens call "
                f"model.resize_token_embeddings(len(tokenizer))"
            )
        self.end_token_id: int = end
        pad = tokenizer.pad_token_id
        self.pad_token_id: int = pad if pad is not None and pad < self.vocabulary_size else end

        # Adapters (peft) hide the signature of the model that they wrap.
        wrapped = model.get_base_model() if hasattr(model, "get_base_model") else model
        accepted = inspect.signature(wrapped.forward).parameters
        self._takes_positions = "position_ids" in accepted
        # Its name was `num_logits_to_keep` before transformers 4.50.
        self._keep_argument = next(
            (name for name in ("logits_to_keep", "num_logits_to_keep") if name in accepted), None
        )
        # Some tokenizers end every text with the end token; a prompt must not. Some begin it with
        # the start token, which chat templates write, too; it must not stand there twice.
        plain = tokenizer("a", add_special_tokens=False)["input_ids"]
        dressed = tokenizer("a")["input_ids"]
        self._tokenizer_appends_end = bool(plain and plain[-1] != end and dressed[-1] == end)
        self._tokenizer_prepends_start = bool(
            plain and plain[0] != tokenizer.bos_token_id and dressed[0] == tokenizer.bos_token_id
        )

    @property
    def device(self) -> torch.device:
        """Where tokens go and log-probs come from."""
        return self.model.get_input_embeddings().weight.device

    @property
    def _logits_dtype(self) -> torch.dtype:
        """float32, also for models in half precision, and float64 for models in float64."""
        return torch.promote_types(self.model.get_input_embeddings().weight.dtype, torch.float32)

    # -- Loading, saving, copying ------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], **kw: Any) -> LanguagePolicy:
        """Load a policy from a folder, or by name from the Hugging Face hub.

        Only safetensors files are read: the older ``.bin`` files can run code when opened.

        Args:
            name_or_path: a folder that :meth:`save_pretrained` wrote, or a name such as ``"gpt2"``.
            **kw: passed on to ``AutoModelForCausalLM.from_pretrained`` (``revision``,
                ``local_files_only``, ...). ``dtype`` is float32 when left out, because the small
                updates of training vanish in half precision; "auto" takes that of the checkpoint.

        Returns:
            the policy, in evaluation mode.

        Raises:
            TypeError: if ``name_or_path`` is no name and no path.
            OSError: if there is no such folder or model, if it cannot be fetched, or if it holds no
                safetensors weights.
            ValueError: if it holds another kind of model than a causal LM, or not all its weights.
        """
        where = "LanguagePolicy.from_pretrained"
        name = _path(where, "name_or_path", name_or_path)
        folder = Path(name).expanduser()
        offline = (
            "Without a network, give the folder of a saved policy, take one that comes with the "
            "course (rlhf_lessons.models.load_policy), or fetch the model once on a machine with "
            "a network and copy its folder here"
        )
        if folder.is_dir():
            name = str(folder)
            if not (folder / "config.json").is_file():
                raise OSError(
                    f"{where}: {folder} must hold a saved model, got no config.json there"
                )
            if not any(folder.glob("*.safetensors")):
                old = sorted(path.name for path in folder.glob("*.bin"))
                raise OSError(
                    f"{where}: {folder} must hold safetensors weights, got "
                    f"{', '.join(old) if old else 'no weights'}. Files of the older kind can run "
                    f"code when opened and are not read: load the model where you trust it and "
                    f"save it again with model.save_pretrained(folder)"
                )
        elif folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
            raise OSError(f"{where}: there is no folder {folder}. {offline}")

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
        return cls(model, tokenizer)

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write model and tokenizer to a folder, all or nothing.

        The files are first written to a new folder beside it, which is then renamed; a full disk
        or a crash never leaves a half-written checkpoint. Weights that were in the folder are
        replaced, other files in it are kept.

        Args:
            path: the folder; made if missing.

        Raises:
            TypeError: if ``path`` is no path.
            OSError: if it cannot be written, with the path and the reason. What was there before
                is unchanged.
            ValueError: if the folder exists and holds something other than a saved model.
        """
        where = "LanguagePolicy.save_pretrained"
        target = Path(os.path.realpath(Path(_path(where, "path", path)).expanduser()))
        if target.exists() and not target.is_dir():
            raise ValueError(f"{where}: path must be a folder, got the file {target}")
        exists = target.is_dir()
        if exists and any(target.iterdir()) and not (target / "config.json").is_file():
            raise ValueError(
                f"{where}: path must be a new folder or one that holds a saved model, got {target} "
                f"with other files in it"
            )
        mark = uuid.uuid4().hex[:8]
        written = target.with_name(f".{target.name}.{mark}.new")
        replaced = target.with_name(f".{target.name}.{mark}.old")
        try:
            written.mkdir(parents=True)
            self.model.save_pretrained(written)
            self.tokenizer.save_pretrained(written)
            if exists:
                os.rename(target, replaced)
            try:
                os.rename(written, target)
            except BaseException:
                if exists:
                    os.rename(replaced, target)
                raise
        except (
            Exception
        ) as error:  # safetensors and tokenizers raise their own kinds on a full disk
            raise OSError(
                f"{where}: could not write {target}: {error}. What was there before is unchanged"
            ) from error
        finally:
            shutil.rmtree(written, ignore_errors=True)
        if exists:
            new = {entry.name for entry in target.iterdir()}
            for entry in replaced.iterdir():
                weights = entry.suffix in (".safetensors", ".bin") and "model" in entry.name
                if not (entry.name in new or weights or entry.name.endswith(".index.json")):
                    os.rename(entry, target / entry.name)
            shutil.rmtree(replaced, ignore_errors=True)

    def copy(self) -> LanguagePolicy:
        """Make a frozen deep copy, to serve as the reference π_ref.

        Returns:
            a policy with weights of its own that need no gradient; the tokenizer is shared.
        """
        model = copy.deepcopy(self.model)
        model.requires_grad_(False)
        return LanguagePolicy(model, self.tokenizer)

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Iterate over the model's weights, for an optimizer.

        Yields:
            each parameter of the model once.
        """
        return self.model.parameters()

    # -- Text to tokens ----------------------------------------------------------------------------

    def encode(
        self, prompts: Sequence[str], responses: Sequence[str] | None = None, *, end: bool = True
    ) -> TokenBatch:
        """Turn prompts and responses into one batch of tokens.

        Prompt and response are tokenized apart, so that the tokens of a prompt never depend on
        what follows it. An empty prompt becomes the start token (the end token if there is none),
        and a prompt that begins with the start token, as chat templates write it, gets no second.

        Args:
            prompts: B texts.
            responses: B texts that continue them; None for prompts alone (T = 0).
            end: whether to append the end token to each response.

        Returns:
            the batch, on the policy's device.

        Raises:
            TypeError: if prompts or responses is not a sequence of str.
            ValueError: if prompts is empty, if the numbers of prompts and responses differ, if
                a prompt with its response is longer than the context, or if the tokenizer knows
                tokens that the model does not.
        """
        return self._encode("encode", prompts, responses, end)

    def _encode(
        self, where: str, prompts: Sequence[str], responses: Sequence[str] | None, end: bool
    ) -> TokenBatch:
        prompts = self._texts(where, "prompts", prompts)
        if not prompts:
            raise ValueError(f"{where}: prompts must hold at least one text, got an empty list")
        prompt_ids = self.tokenizer(prompts, verbose=False)["input_ids"]
        if self._tokenizer_appends_end:
            prompt_ids = [ids[:-1] for ids in prompt_ids]
        start = self.tokenizer.bos_token_id
        if self._tokenizer_prepends_start:
            prompt_ids = [ids[1:] if ids[1:2] == [start] else ids for ids in prompt_ids]
        start = self.end_token_id if start is None else start
        prompt_ids = [ids or [start] for ids in prompt_ids]

        if responses is None:
            response_ids: list[list[int]] = [[] for _ in prompts]
        else:
            responses = self._texts(where, "responses", responses)
            if len(responses) != len(prompts):
                raise ValueError(
                    f"{where}: responses must hold one text for each of the {len(prompts)} "
                    f"prompts, got {len(responses)}"
                )
            response_ids = self.tokenizer(responses, add_special_tokens=False, verbose=False)[
                "input_ids"
            ]
            if end:
                response_ids = [[*ids, self.end_token_id] for ids in response_ids]

        for row, (prompt, response) in enumerate(zip(prompt_ids, response_ids, strict=True)):
            if (
                self.context_length is not None
                and len(prompt) + len(response) > self.context_length
            ):
                what = f"prompt {row} has {len(prompt)} tokens"
                if response:
                    what += f" and its response {len(response)}, together"
                    what += f" {len(prompt) + len(response)}"
                raise ValueError(
                    f"{where}: a text must fit into the context of {self.context_length} tokens, "
                    f"got too long a one: {what}"
                )
            if max(max(prompt), max(response, default=0)) >= self.vocabulary_size:
                raise ValueError(
                    f"{where}: tokens must be in the model's vocabulary, ids 0 to "
                    f"{self.vocabulary_size - 1}, got id {max(prompt + response)} in row {row}. "
                    f"After adding tokens call model.resize_token_embeddings(len(tokenizer))"
                )
        return TokenBatch(
            *self._padded(prompt_ids, left=True), *self._padded(response_ids, left=False)
        )

    @staticmethod
    def _texts(where: str, name: str, texts: Sequence[str]) -> list[str]:
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

    def _padded(self, rows: list[list[int]], left: bool) -> tuple[Tensor, Tensor]:
        width = max(map(len, rows))
        tokens, mask = [], []
        for ids in rows:
            padding, gap = [self.pad_token_id] * (width - len(ids)), [False] * (width - len(ids))
            tokens.append(padding + ids if left else ids + padding)
            mask.append(gap + [True] * len(ids) if left else [True] * len(ids) + gap)
        return (
            torch.tensor(tokens, dtype=torch.long, device=self.device).reshape(len(rows), width),
            torch.tensor(mask, dtype=torch.bool, device=self.device).reshape(len(rows), width),
        )

    # -- How likely? -------------------------------------------------------------------------------

    def logits_of(self, batch: TokenBatch) -> Tensor:
        """Compute the logits that predict each token of the responses, with gradient.

        Args:
            batch: prompts and responses; what stands in the padding changes nothing.

        Returns:
            (B, T, V) logits: entry t is computed from the prompt and the response tokens before t.
            Half-precision models give float32.

        Raises:
            TypeError: if batch is no ``TokenBatch``.
            ValueError: if prompt and response are longer than the context, or if a token is outside
                the vocabulary.
        """
        _check_batch("logits_of", batch)
        return self._read("logits_of", batch)[1]

    def states_of(self, batch: TokenBatch, *, logits: bool = True) -> tuple[Tensor, Tensor | None]:
        """Compute the vectors from which each token of the responses is predicted, and its logits.

        Args:
            batch: prompts and responses; what stands in the padding changes nothing.
            logits: whether they are wanted; the model's head does no work where they are not.

        Returns:
            (B, T, H) the vectors that the model's head reads, and (B, T, V) the logits, as
            ``logits_of`` gives them, or None.

        Raises:
            ValueError: as ``logits_of`` raises it, or if the model names no head.
        """
        states, read = self._read("states_of", batch, head=logits)
        if states is None:
            raise ValueError(
                f"states_of: the model must have a layer that gives the logits, got none from "
                f"{type(self.model).__name__}.get_output_embeddings()"
            )
        return states, read

    def flat_logits_of(self, batch: TokenBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the logits of all response tokens in one row, in the form of ``formulas.nll``.

        Entry t predicts token t + 1, whichever text that is in; no padding is computed.

        Args:
            batch: prompts and responses that hold N tokens together, at least one.

        Returns:
            (1, N+1, V) logits, (1, N+1) tokens and the (1, N+1) boolean mask of what counts. Column
            0 holds a token that is given and does not count; the last logits predict nothing.

        Raises:
            TypeError: if batch is no ``TokenBatch``.
            ValueError: as ``logits_of`` raises it.
        """
        _check_batch("flat_logits_of", batch)
        mask = batch.response_mask
        wanted = F.pad(mask, (0, 1))
        wanted[-1, int(mask[-1].sum())] = True  # one more, for what comes after the last token
        _, logits = self._read_at("flat_logits_of", batch, wanted)
        tokens = torch.cat([batch.prompt_tokens[:1, -1], batch.response_tokens[mask]])
        counts = torch.ones_like(tokens, dtype=torch.bool)
        counts[0] = False
        return logits[None], tokens[None].to(self.device), counts[None].to(self.device)

    def _read(
        self, where: str, batch: TokenBatch, head: bool = True
    ) -> tuple[Tensor | None, Tensor | None]:
        """Give (B, T, H) states, None where the model has no head, and (B, T, V) logits."""
        shape = tuple(batch.response_tokens.shape)
        every = torch.ones_like(batch.response_mask)
        states, logits = self._read_at(where, batch, every, head)
        return (
            None if states is None else states.unflatten(0, shape),
            logits.unflatten(0, shape) if head else None,
        )

    def _read_at(
        self, where: str, batch: TokenBatch, wanted: Tensor, head: bool = True
    ) -> tuple[Tensor | None, Tensor]:
        """Give states (N, H) and logits (N, V) for the N places of the responses that are wanted.

        Where ``head`` is False the model's head reads nothing, and there are no logits (0, V).

        Each row moves to the left, so that its padding stands on the right, where nothing that
        counts looks: no attention mask is needed, and positions count from the first token.
        """
        lengths = batch.prompt_mask.sum(1) + batch.response_mask.sum(1)
        longest = int(lengths.max())
        if self.context_length is not None and longest > self.context_length:
            prompt = int(batch.prompt_mask[lengths.argmax()].sum())
            raise ValueError(
                f"{where}: prompt and response must fit into the context of {self.context_length} "
                f"tokens, got {prompt} + {longest - prompt} = {longest}"
            )
        tokens = torch.cat([batch.prompt_tokens, batch.response_tokens], dim=1)
        counted = torch.cat([batch.prompt_mask, batch.response_mask], dim=1)
        # Padding is filled with a real token: some models warn of padding tokens without a mask.
        tokens = torch.where(counted, tokens, batch.prompt_tokens[:, -1:])
        low, high = (int(bound) for bound in torch.stack(tokens.aminmax()).tolist())
        if low < 0 or high >= self.vocabulary_size:
            raise ValueError(
                f"{where}: tokens must be in the model's vocabulary, ids 0 to "
                f"{self.vocabulary_size - 1}, got {low if low < 0 else high}"
            )
        if not wanted.any():
            nothing = torch.zeros((0, self.vocabulary_size), dtype=self._logits_dtype)
            return nothing[:, :0].to(self.device), nothing.to(self.device)
        skipped = (~batch.prompt_mask).sum(1, keepdim=True)
        columns = torch.arange(tokens.shape[1], device=tokens.device)
        tokens = tokens.gather(1, (columns + skipped).clamp(max=tokens.shape[1] - 1))
        # The last token predicts nothing that is asked for, and token t of a response is predicted
        # from the place before it.
        width = max(longest - 1, 1)
        tokens = tokens[:, :width].to(self.device)
        lengths = (lengths.to(self.device) - 1).clamp(min=1)
        first = batch.prompt_mask.sum(1, keepdim=True).to(self.device) - 1
        places = first + torch.arange(wanted.shape[1], device=tokens.device)
        places = places.minimum(lengths.unsqueeze(1) - 1)
        return self._states_and_logits(tokens, lengths, places, wanted.to(self.device), head)

    def _states_and_logits(
        self, tokens: Tensor, lengths: Tensor, places: Tensor, wanted: Tensor, logits_too: bool
    ) -> tuple[Tensor | None, Tensor]:
        """Read (B, L) tokens, the first ``lengths`` (B,) of each row.

        Gives states (N, H) and logits (N, V) at those N of the (B, T) places that are wanted.
        """
        if gpt2_body.is_plain(self.model):
            with fast_products(self.device):
                chosen = gpt2_body.states_at(
                    self.model.transformer, tokens, lengths, places, wanted
                )
                logits = self.model.lm_head(chosen if logits_too else chosen[:0])
            return chosen, logits.to(self._logits_dtype)

        model = self.model
        model = model.get_base_model() if hasattr(model, "get_base_model") else model  # adapters
        head = model.get_output_embeddings()
        states: list[Tensor] = []
        rows = torch.arange(len(tokens), device=tokens.device).unsqueeze(1)
        places = (rows * tokens.shape[1] + places)[wanted]

        def choose(_: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            chosen = inputs[0].flatten(0, 1).index_select(0, places)
            states.append(chosen)
            return ((chosen if logits_too else chosen[:0]).unsqueeze(0), *inputs[1:])

        # The head of a language model is as large as several layers: it reads what is asked for.
        hook = None if head is None else head.register_forward_pre_hook(choose)
        try:
            with fast_products(self.device):
                logits = self.model(input_ids=tokens, use_cache=False).logits.flatten(0, 1)
        finally:
            if hook is not None:
                hook.remove()
        if not states:
            return None, logits.index_select(0, places).to(self._logits_dtype)
        return states[0], logits.to(self._logits_dtype)

    def log_probs_of(self, batch: TokenBatch) -> Tensor:
        """Compute log π(token | text so far) of each response token, with gradient.

        log π(a | s) = logit_a − log Σ_b exp(logit_b)

        Args:
            batch: prompts and responses, for instance a :class:`Rollout`.

        Returns:
            (B, T) log-probs, 0 where ``response_mask`` is False.

        Raises:
            TypeError: if batch is no ``TokenBatch``.
            ValueError: if prompt and response are longer than the context, or if a token is outside
                the vocabulary.
        """
        _check_batch("log_probs_of", batch)
        return self._log_probs_of("log_probs_of", batch)

    def _log_probs_of(self, where: str, batch: TokenBatch) -> Tensor:
        mask = batch.response_mask
        _, logits = self._read_at(where, batch, mask)
        tokens = batch.response_tokens.to(self.device)
        mask = mask.to(self.device)
        # log π is minus the cross-entropy, which needs no second tensor of the logits' size.
        chosen = -F.cross_entropy(logits, tokens[mask], reduction="none")
        return chosen.new_zeros(mask.shape).masked_scatter(mask, chosen)

    def log_probs(self, prompts: Sequence[str], responses: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Compute log π of each token of given responses, end token included, with gradient.

        Args:
            prompts: B texts.
            responses: B texts that continue them; an empty one is only the end token.

        Returns:
            (B, T) log-probs, 0 where not counted, and the (B, T) boolean mask of what counts.

        Raises:
            TypeError: if prompts or responses is not a sequence of str.
            ValueError: as :meth:`encode` raises it.
            FloatingPointError: if the model gives NaN or infinite logits; it names the row.
        """
        batch = self._encode("log_probs", prompts, responses, end=True)
        log_probs = self._log_probs_of("log_probs", batch)
        _check_rows_finite("log_probs", log_probs.detach().sum(1))
        return log_probs, batch.response_mask

    @torch.no_grad()
    def next_token_logits(self, prompts: Sequence[str]) -> Tensor:
        """Compute the logits of the token that follows each prompt, without gradient.

        Args:
            prompts: B texts.

        Returns:
            (B, V) logits.

        Raises:
            TypeError: if prompts is not a sequence of str.
            ValueError: as :meth:`encode` raises it.
            FloatingPointError: if the model gives NaN or infinite logits; it names the row.
        """
        batch = self._encode("next_token_logits", prompts, None, end=False)
        seen = None if batch.prompt_mask.all() else batch.prompt_mask
        logits = self._forward(batch.prompt_tokens, seen, keep=1, use_cache=False)[0][:, -1]
        _check_rows_finite("next_token_logits", logits.logsumexp(-1))
        return logits

    def _forward(
        self, tokens: Tensor, seen: Tensor | None, *, keep: int, use_cache: bool, cache: Any = None
    ) -> tuple[Tensor, Any]:
        """Run the model on ``tokens`` (B, N), which follow what is in the cache.

        ``seen`` (B, past + N) is True at real tokens; None, the fast way, says that all are.
        Returns the logits of the last ``keep`` positions and the cache.
        """
        arguments: dict[str, Any] = {"input_ids": tokens, "use_cache": use_cache}
        if cache is not None:
            arguments["past_key_values"] = cache
        if seen is not None:
            arguments["attention_mask"] = seen.long()
            if self._takes_positions:
                # The first real token of a row is at position 0, however much padding precedes it.
                positions = (seen.long().cumsum(-1) - 1).clamp(min=0)
                arguments["position_ids"] = positions[:, -tokens.shape[1] :]
        if self._keep_argument is not None:
            arguments[self._keep_argument] = keep
        output = self.model(**arguments)
        logits = output.logits[:, -keep:].to(self._logits_dtype)
        return logits, getattr(output, "past_key_values", None) if use_cache else None

    # -- What would you say? -----------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Rollout:
        """Sample one response to each prompt, token by token, until the end token.

        Each token is drawn from softmax(logits / temperature), cut to the ``top_k`` likeliest
        tokens and then to the fewest likeliest that hold ``top_p`` of what is left. The log-probs
        that come back are those of the policy itself, at temperature 1 and with nothing cut.

        Args:
            prompts: B texts. For n responses to one prompt, repeat it n times.
            max_new_tokens: the most tokens a response may have, its end token included.
            temperature: > 0; below 1 sharpens the distribution, near 0 takes the likeliest token.
            top_k: how many tokens to keep, ≥ 1; None keeps all.
            top_p: the probability to keep, in (0, 1]; None keeps all.
            generator: source of randomness, on the policy's device; None takes torch's global one.
                The same generator state, prompts and weights give the same rollout.

        Returns:
            the rollout; T is the length of the longest response.

        Raises:
            TypeError: if prompts is not a sequence of str.
            TypeError: if generator is no ``torch.Generator``, or prompts no list of str.
            ValueError: if a setting is out of its range, if prompts is empty, if a prompt with
                ``max_new_tokens`` does not fit into the context, or if the generator is on another
                device.
            FloatingPointError: if the model gives NaN or infinite logits; it names step and row.
        """
        _check_sampling(max_new_tokens, temperature, top_k, top_p)
        if generator is not None and not hasattr(generator, "device"):
            raise TypeError(
                f"sample: generator must be None or a torch.Generator, such as "
                f"torch.Generator().manual_seed(0); got {generator!r}"
            )
        if generator is not None and generator.device.type != self.device.type:
            raise ValueError(
                f"sample: generator must be on the policy's device, {self.device}, "
                f"got one on {generator.device}"
            )
        batch = self._encode("sample", prompts, None, end=False)
        prompts = tuple(prompts)
        rows, width = batch.prompt_tokens.shape
        if self.context_length is not None and width + max_new_tokens > self.context_length:
            raise ValueError(
                f"sample: prompt and max_new_tokens must fit into the context of "
                f"{self.context_length} tokens, got {width} + {max_new_tokens} = "
                f"{width + max_new_tokens}"
            )

        device = self.device
        # Drawn at once, so that a row's draws do not depend on when other rows end. Below 1 by more
        # than a rounding, so that a draw times the total of the probabilities is below the total.
        uniforms = torch.rand((max_new_tokens, rows, 1), generator=generator, device=device)
        uniforms = (uniforms * (1 - 2**-22)).to(self._logits_dtype)
        tokens = torch.full((rows, max_new_tokens), self.pad_token_id, device=device)
        log_probs = torch.zeros((rows, max_new_tokens), dtype=self._logits_dtype, device=device)

        prompt_mask = None if batch.prompt_mask.all() else batch.prompt_mask
        fast = gpt2_body.is_plain(self.model) and not torch.is_autocast_enabled(device.type)
        reader: Reader | GPT2Reader = (GPT2Reader if fast else Reader)(
            self.model if fast else self._forward, prompt_mask, room=max_new_tokens - 1
        )
        row = torch.arange(rows, device=device)  # which rows are still computed
        ended = torch.zeros(rows, dtype=torch.bool, device=device)  # and which of them have ended
        logits = reader.read(batch.prompt_tokens)
        for step in range(max_new_tokens):
            drawn, log_prob = _draw(logits, uniforms[step, row], temperature, top_k, top_p)
            tokens[row, step], log_probs[row, step] = drawn, log_prob
            ended = ended | (drawn == self.end_token_id)
            running = len(row) - int(ended.sum())
            if running == 0 or step + 1 == max_new_tokens:
                break
            if running <= DROP_BELOW * len(row) and reader.can_drop():
                places = _packed(~ended)
                reader.keep(places)
                row, drawn, ended = row[places], drawn[places], ended[places]
            logits = reader.read(drawn.unsqueeze(1))

        tokens, log_probs = tokens[:, : step + 1], log_probs[:, : step + 1]
        is_end = tokens == self.end_token_id
        mask = is_end.cumsum(1) - is_end.long() == 0  # no end token before this one
        broken = (~log_probs.isfinite() & mask).nonzero()
        if len(broken):
            at, of = broken[broken[:, 1].argmin()].tolist()[::-1]
            raise FloatingPointError(
                f"sample: the model must give finite logits, got NaN or infinite ones at step {at} "
                f"in row {of}; its weights are probably NaN"
            )
        tokens = tokens.masked_fill(~mask, self.pad_token_id)
        log_probs = log_probs.masked_fill(~mask, 0.0)
        finished = (is_end & mask).any(1)
        kept = [ids[:n] for ids, n in zip(tokens.tolist(), mask.sum(1).tolist(), strict=True)]
        responses = self.tokenizer.batch_decode(
            kept, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return Rollout(
            batch.prompt_tokens,
            batch.prompt_mask,
            tokens,
            mask,
            prompts=prompts,
            responses=tuple(responses),
            log_probs=log_probs,
            finished=finished,
        )


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


def _path(where: str, argument: str, value: object) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{where}: {argument} must be a str or a path, got {value!r}")
    return os.fspath(value)


def _check_batch(where: str, batch: object) -> None:
    if not isinstance(batch, TokenBatch):
        raise TypeError(
            f"{where}: batch must be a TokenBatch, as encode and sample make it, got "
            f"{type(batch).__name__}"
        )


def _check_rows_finite(where: str, rows: Tensor) -> None:
    """Refuse (B,) numbers that come of NaN or infinite logits."""
    broken = (~rows.isfinite()).nonzero()
    if len(broken):
        raise FloatingPointError(
            f"{where}: the model must give finite logits, got NaN or infinite ones in row "
            f"{int(broken[0])}; its weights are probably NaN"
        )


def _packed(running: Tensor) -> Tensor:
    """Give for each of the first places the row that goes there, so that few rows move.

    Running rows that stand in the first places stay, and the last ones fill the gaps.
    """
    count = int(running.sum())
    kept = torch.arange(count, device=running.device)
    kept[~running[:count]] = running[count:].nonzero().squeeze(1) + count
    return kept


def _check_sampling(
    max_new_tokens: int, temperature: float, top_k: int | None, top_p: float | None
) -> None:
    def whole(value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 1

    def number(value: object) -> bool:
        return isinstance(value, Real) and not isinstance(value, bool)

    if not whole(max_new_tokens):
        raise ValueError(f"sample: max_new_tokens must be an int ≥ 1, got {max_new_tokens!r}")
    if not (number(temperature) and math.isfinite(temperature) and temperature > 0):
        raise ValueError(
            f"sample: temperature must be a finite number > 0, got {temperature!r}; for the "
            f"likeliest token take a small one such as 1e-6"
        )
    if top_k is not None and not whole(top_k):
        raise ValueError(f"sample: top_k must be None or an int ≥ 1, got {top_k!r}")
    if top_p is not None and not (number(top_p) and 0 < top_p <= 1):
        raise ValueError(f"sample: top_p must be None or in (0, 1], got {top_p!r}")


def _draw(
    logits: Tensor, uniforms: Tensor, temperature: float, top_k: int | None, top_p: float | None
) -> tuple[Tensor, Tensor]:
    """Draw one token a row by inverting the cumulative distribution at ``uniforms`` (B, 1).

    Returns the tokens (B,) and their log-probs (B,) at temperature 1 with nothing cut, NaN where
    logits are NaN or infinite.
    """
    # The largest logit becomes 0 first, so that no temperature can overflow it.
    shifted = logits - logits.amax(-1, keepdim=True)
    scaled = shifted if temperature == 1 else shifted / max(temperature, 1e-30)
    if top_k is not None or top_p is not None:
        scaled = truncate_logits(scaled, top_k, top_p)
    cumulative = scaled.exp().cumsum(-1)
    total = cumulative[:, -1:]
    # `right`: a token of probability zero is never drawn.
    drawn = torch.searchsorted(cumulative, uniforms * total, right=True)
    drawn = drawn.clamp(max=logits.shape[-1] - 1)  # past the end only where logits are NaN
    normaliser = total.log() if scaled is shifted else shifted.logsumexp(-1, keepdim=True)
    return drawn.squeeze(-1), (shifted.gather(-1, drawn) - normaliser).squeeze(-1)
