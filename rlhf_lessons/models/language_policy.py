"""A language model as a policy: state = the text so far, action = the next token.

Lessons 2 to 8 stand on this room. :class:`LanguagePolicy` wraps any causal language model of
Hugging Face together with its tokenizer and answers two questions: *what would you say?*
(:meth:`LanguagePolicy.sample`) and *how likely was that?* (:meth:`LanguagePolicy.log_probs_of`).
The two agree to 1e-5, which PPO's ratio needs: it starts at exactly one.

A prompt is plain text. For a chat model it is the text that the model's template writes::

    policy.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

What is read and written is in ``token_batch``; the steps are in ``tokens_of_text``, ``reading``,
``sampling`` and ``saved_model``. Left out on purpose: stop strings and whatever else samples from
something other than π.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rlhf_lessons.models import adapters, gpt2_body, head, packing, static_reading
from rlhf_lessons.models.memory import memory_advice
from rlhf_lessons.models.products import FROM_ROWS, fast_products, linear
from rlhf_lessons.models.reading import GPT2Reader, Reader
from rlhf_lessons.models.sampling import check_sampling, sample_tokens
from rlhf_lessons.models.saved_model import load_language_model, save_whole
from rlhf_lessons.models.static_reading import StaticReader
from rlhf_lessons.models.token_batch import Rollout, TokenBatch, check_batch, moved
from rlhf_lessons.models.tokens_of_text import TokensOfText, checked_texts, text_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["LanguagePolicy"]


class LanguagePolicy:
    """A causal language model and its tokenizer, as a policy π(next token | text so far).

    Works with any causal LM of Hugging Face transformers. The model is put in evaluation mode and
    stays there while it is trained: dropout would make the log-probs of a rollout differ from those
    that the training step computes. Gradients flow all the same.

    A response ends at any of the end tokens that tokenizer and model name (chat models often have
    one for the turn and one for the text); the tokenizer's own is what ``encode`` writes.

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
        end_token_id: the token that ``encode`` ends a response with.
        end_token_ids: all tokens that end a response, that one first.
        pad_token_id: the token written where there is none.
        packed: whether several texts are read in one row, and what they begin with alike once,
            where the model reads such rows and they save work (``models/packing.py``). None does it
            on CPUs; it was never run on a GPU, where True does it. Set on the class it holds for
            the copies that loops make of a policy, too.

    Raises:
        ValueError: if the model is an encoder or an encoder-decoder, if neither the tokenizer nor
            the model names an end token, or if the end token is outside the model's vocabulary.
    """

    packed: bool | None = None

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        if other := _other_kind(model.config):
            raise ValueError(
                f"LanguagePolicy: model must be a causal language model, which goes on where the "
                f"prompt ends, such as GPT-2, Llama or Qwen; got {type(model).__name__}, {other}"
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        config = text_config(model)
        self.context_length: int | None = next(
            (
                getattr(config, name)
                for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
                if isinstance(getattr(config, name, None), int) and getattr(config, name) > 0
            ),
            None,
        )
        self.vocabulary_size: int = model.get_input_embeddings().weight.shape[0]
        self._text = TokensOfText(model, tokenizer, self.vocabulary_size)
        self.end_token_ids: tuple[int, ...] = self._text.end_token_ids
        self.end_token_id: int = self.end_token_ids[0]
        self.pad_token_id: int = self._text.pad_token_id

        self._head_in_parts: bool | None = None  # whether it can; None: not tried

        # Adapters hide the signature of the model that they wrap.
        accepted = inspect.signature(adapters.inside(model).forward).parameters
        self._takes_positions = "position_ids" in accepted
        # Its name was `num_logits_to_keep` before transformers 4.50.
        self._keep_argument = next(
            (name for name in ("logits_to_keep", "num_logits_to_keep") if name in accepted), None
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
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        base: str | os.PathLike[str] | None = None,
        **kw: Any,
    ) -> LanguagePolicy:
        """Load a policy from a folder, or by name from the Hugging Face hub.

        Only safetensors files are read: the older ``.bin`` files can run code when opened.

        A folder of adapters names its base, which is loaded first: a hub name, a folder, or one of
        the models that come with the course. The adapters learn on.

        Args:
            name_or_path: a folder that :meth:`save_pretrained` wrote, or a name such as ``"gpt2"``.
            base: the base of the adapters in that folder, where it is no longer where they say.
            **kw: passed on to ``AutoModelForCausalLM.from_pretrained`` (``revision``,
                ``local_files_only``, ...). ``dtype`` is float32 when left out, because the small
                updates of training vanish in half precision; "auto" takes that of the checkpoint.

        Returns:
            the policy, in evaluation mode.

        Raises:
            ImportError: if it holds adapters and peft is not installed.
            TypeError: if ``name_or_path`` is no name and no path.
            OSError: if there is no such folder or model (or base of its adapters), if it cannot be
                fetched, or if it holds no safetensors weights.
            ValueError: if it holds another kind of model than a causal LM, or not all its weights,
                or adapters of another base; or if ``base`` is given where there are no adapters.
        """
        where = "LanguagePolicy.from_pretrained"
        return cls(*load_language_model(where, name_or_path, base=base, **kw))

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write model and tokenizer to a folder, all or nothing; of an adapted one the adapters.

        The base of adapters is not written again: their folder names where it was when they were
        added. One that was trained in memory is saved before that, or later by ``base()`` and then
        given to ``from_pretrained``.

        The files are first written to a new folder beside it, which is then renamed; a full disk
        or a crash never leaves a half-written checkpoint. Weights that were in the folder are
        replaced, other files in it are kept.

        Args:
            path: the folder; made if missing.

        Raises:
            TypeError: if ``path`` is no path.
            OSError: if it cannot be written, with the path and the reason. What was there before
                is unchanged.
            ValueError: if the folder exists and holds something other than a saved model, or the
                base of these adapters.
        """
        save_whole("LanguagePolicy.save_pretrained", path, self.model, self.tokenizer)

    def copy(self) -> LanguagePolicy:
        """Make a frozen copy of the policy as it is now, to serve as the reference π_ref.

        Returns:
            a policy with weights of its own that need no gradient; the tokenizer is shared, and of
            an adapted policy the base, which does not change.
        """
        return LanguagePolicy(adapters.frozen_copy(self.model), self.tokenizer)

    # -- Adapters ----------------------------------------------------------------------------------

    @property
    def adapted(self) -> bool:
        """Whether adapters stand in the model."""
        return adapters.is_adapted(self.model)

    def with_adapter(
        self, rank: int, *, alpha: float | None = None, seed: int = 0
    ) -> LanguagePolicy:
        """Make a policy that learns beside this one's weights, which are shared and stay.

        h = W x + (α/r) · B A x, in all linear layers but the head. B starts at zero: the new policy
        starts as this one, which from now on is frozen and can be its reference.

        Args:
            rank: r, the rows of A (r, in) and the columns of B (out, r).
            alpha: α, None for 2 · rank. What B A learns counts α/r times.
            seed: of A; torch's random numbers stay as they were.

        Returns:
            the adapted policy. It is trained, saved and loaded like any other.

        Raises:
            ImportError: if peft is not installed.
            TypeError: if rank or seed is no int, or alpha no number.
            ValueError: if rank or alpha is not above 0, this policy has adapters already, or peft
                finds nothing to adapt.

        Source:
            Hu et al. 2022, LoRA (arXiv 2106.09685), equation 3.
        """
        model = adapters.add_adapter("with_adapter", self.model, rank, alpha, seed)
        return LanguagePolicy(model, self.tokenizer)

    def base(self) -> LanguagePolicy:
        """Give the policy without its adapters, as a reference that takes no memory.

        Returns:
            a policy around the same weights; they are frozen.

        Raises:
            ValueError: if the policy has no adapters.
        """
        self._check_adapted("base")
        return LanguagePolicy(adapters.base_of(self.model), self.tokenizer)

    def merge(self) -> LanguagePolicy:
        """Make a policy without adapters that says the same: W + (α/r) · B A in one weight.

        Returns:
            a policy with weights of its own, all of them trainable, a model like any other. This
            one stays as it is.

        Raises:
            ValueError: if the policy has no adapters.
        """
        self._check_adapted("merge")
        return LanguagePolicy(adapters.merged(self.model), self.tokenizer)

    def _check_adapted(self, where: str) -> None:
        if not self.adapted:
            raise ValueError(
                f"{where}: policy must have adapters, got a {type(self.model).__name__} without; "
                f"with_adapter(rank) adds them"
            )

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
        and a prompt that begins with the start token, as chat templates write it, gets no second;
        nor does a response that ends with an end token.

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
        return self._encode("encode", prompts, responses, end).to(self.device)

    def _encode(
        self, where: str, prompts: Sequence[str], responses: Sequence[str] | None, end: bool
    ) -> TokenBatch:
        """Do what ``encode`` does, and leave the batch on the CPU."""
        prompts = checked_texts(where, "prompts", prompts)
        if not prompts:
            raise ValueError(f"{where}: prompts must hold at least one text, got an empty list")
        prompt_ids = self._text.of_prompts(prompts)
        response_ids: list[list[int]] = [[] for _ in prompts]
        if responses is not None:
            responses = checked_texts(where, "responses", responses)
            if len(responses) != len(prompts):
                raise ValueError(
                    f"{where}: responses must hold one text for each of the {len(prompts)} "
                    f"prompts, got {len(responses)}"
                )
            response_ids = self._text.of_responses(responses, end)

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
            *self._text.padded(prompt_ids, left=True), *self._text.padded(response_ids, left=False)
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
        check_batch("logits_of", batch)
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
        states, read = self._read("states_of", batch, logits)
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
        check_batch("flat_logits_of", batch)
        batch = batch.to("cpu")
        mask = batch.response_mask
        wanted = F.pad(mask, (0, 1))
        wanted[-1, int(mask[-1].sum())] = True  # one more, for what comes after the last token
        _, logits = self._read_at("flat_logits_of", batch, wanted)
        tokens = torch.cat([batch.prompt_tokens[:1, -1], batch.response_tokens[mask]])
        (tokens,) = moved(self.device, tokens[None])
        counts = torch.arange(tokens.shape[1], device=self.device)[None] > 0
        return logits[None], tokens, counts

    def _read(
        self, where: str, batch: TokenBatch, logits_too: bool = True
    ) -> tuple[Tensor | None, Tensor | None]:
        """Give (B, T, H) states, None where the model has no head, and (B, T, V) logits."""
        batch = batch.to("cpu")
        shape = tuple(batch.response_tokens.shape)
        every = torch.ones_like(batch.response_mask)
        states, logits = self._read_at(where, batch, every, None if logits_too else 0)
        return (
            None if states is None else states.unflatten(0, shape),
            logits.unflatten(0, shape) if logits_too else None,
        )

    def _read_at(
        self, where: str, batch: TokenBatch, wanted: Tensor, first: int | None = None
    ) -> tuple[Tensor | None, Tensor]:
        """Give states (N, H) and logits (N, V) for the N places of the responses that are wanted.

        The model's head reads the ``first`` of them, None for all: so many logits there are.
        ``batch`` and ``wanted`` (B, T) are on the CPU: nothing here has to wait for a GPU.

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
        columns = torch.arange(tokens.shape[1])
        tokens = tokens.gather(1, (columns + skipped).clamp(max=tokens.shape[1] - 1))
        # The last token predicts nothing that is asked for, and token t of a response is predicted
        # from the place before it.
        width = max(longest - 1, 1)
        tokens = tokens[:, :width]
        lengths = (lengths - 1).clamp(min=1)
        places = batch.prompt_mask.sum(1, keepdim=True) - 1 + torch.arange(wanted.shape[1])
        places = places.minimum(lengths.unsqueeze(1) - 1)
        return self._states_and_logits(tokens, lengths, places, wanted, first)

    def _states_and_logits(
        self, tokens: Tensor, lengths: Tensor, places: Tensor, wanted: Tensor, first: int | None
    ) -> tuple[Tensor | None, Tensor]:
        """Read (B, L) tokens, the first ``lengths`` (B,) of each row.

        Gives states (N, H) at those N of the (B, T) places that are wanted, and the logits there,
        of the ``first`` alone or of all (N, V).
        """
        if gpt2_body.is_plain(self.model):
            chosen = gpt2_body.states_at(self.model.transformer, tokens, lengths, places, wanted)
            logits = linear(chosen[:first], self.model.lm_head.weight)
            return chosen, logits.to(self._logits_dtype)

        layer = adapters.inside(self.model).get_output_embeddings()
        states: list[Tensor] = []
        inputs, (places,) = packing.model_inputs(
            self.model, tokens, lengths, places, wanted, self.packed
        )

        def choose(_: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            chosen = inputs[0].flatten(0, 1).index_select(0, places)
            states.append(chosen)
            return (chosen[:first].unsqueeze(0), *inputs[1:])

        # The head of a language model is as large as several layers: it reads what is asked for.
        hook = None if layer is None else layer.register_forward_pre_hook(choose)
        try:
            with fast_products(self.device):
                logits = self.model(**inputs, use_cache=False).logits.flatten(0, 1)
        finally:
            if hook is not None:
                hook.remove()
        if not states:
            return None, logits.index_select(0, places)[:first].to(self._logits_dtype)
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
        check_batch("log_probs_of", batch)
        return self._log_probs_of("log_probs_of", batch)

    def _log_probs_of(self, where: str, batch: TokenBatch) -> Tensor:
        batch = batch.to("cpu")
        mask = batch.response_mask
        slots = mask.flatten().nonzero().squeeze(1)
        tokens, slots = moved(self.device, batch.response_tokens[mask], slots)
        large = len(tokens) * self.vocabulary_size > head.WHOLE
        in_parts = large and self._head_in_parts is not False
        states, logits = self._read_at(where, batch, mask, 0 if in_parts else None)
        if in_parts and self._head_in_parts is None:
            self._head_in_parts = in_parts = self._can_read_in_parts(states)
            if not in_parts:
                _, logits = self._read_at(where, batch, mask)
        if in_parts:
            size = max(1, head.PART // self.vocabulary_size)
            chosen = head.log_probs_in_parts(self._own_head, states, tokens, size)
        else:
            chosen = head.log_probs(logits, tokens)
        return chosen.new_zeros(mask.numel()).index_copy(0, slots, chosen).view(mask.shape)

    def _own_head(self, states: Tensor) -> Tensor:
        """Give the logits (n, V) of states (n, H), as the model would."""
        if gpt2_body.is_plain(self.model):
            logits = linear(states, self.model.lm_head.weight)
        else:
            with fast_products(self.device):
                logits = head.after_body(adapters.inside(self.model), states)
        return logits.to(self._logits_dtype)

    def _can_read_in_parts(self, states: Tensor | None) -> bool:
        if states is None or gpt2_body.is_plain(self.model):
            return states is not None
        return head.follows_body(adapters.inside(self.model), states)

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
        sums = log_probs.detach().sum(1)
        if self.packed is not False and not bool(sums.isfinite().all()):
            # Which text it is: in a packed row what is not finite reaches the others.
            alone = copy.copy(self)
            alone.packed = False
            with torch.no_grad():
                sums = alone._log_probs_of("log_probs", batch).sum(1)
        _check_rows_finite("log_probs", sums)
        return log_probs, batch.response_mask.to(self.device)

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
        padded = not bool(batch.prompt_mask.all())
        batch = batch.to(self.device)
        seen = batch.prompt_mask if padded else None
        logits = self._forward(batch.prompt_tokens, seen, keep=1, use_cache=False)[0][:, -1]
        _check_rows_finite("next_token_logits", logits.logsumexp(-1))
        return logits

    def _forward(
        self,
        tokens: Tensor,
        seen: Tensor | None,
        *,
        keep: int,
        use_cache: bool,
        cache: Any = None,
        positions: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Run the model on ``tokens`` (B, N), which follow what is in the cache.

        ``seen`` (B, past + N) is True at real tokens; None, the fast way, says that all are.
        ``positions`` (B, N) are counted from it unless they are given.
        Returns the logits of the last ``keep`` positions and the cache.
        """
        arguments: dict[str, Any] = {"input_ids": tokens, "use_cache": use_cache}
        if cache is not None:
            arguments["past_key_values"] = cache
        if seen is not None:
            arguments["attention_mask"] = seen.long()
            if self._takes_positions and positions is None:
                # The first real token of a row is at position 0, however much padding precedes it.
                positions = (seen.long().cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        if self._takes_positions and positions is not None:
            arguments["position_ids"] = positions
        if self._keep_argument is not None:
            arguments[self._keep_argument] = keep
        # A few rows gain nothing by it; below that, to look at each operation costs more.
        suits = tokens.numel() >= FROM_ROWS
        with fast_products(self.device) if suits else contextlib.nullcontext():
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
        uniforms: Tensor | None = None,
        static_cache: bool = False,
    ) -> Rollout:
        """Sample one response to each prompt, token by token, until the end token.

        Each token is drawn from softmax(logits / temperature), cut to the ``top_k`` likeliest
        tokens and then to the fewest likeliest that hold ``top_p`` of what is left. Tokens that
        stand for no text (many models have more rows of weights than their tokenizer has tokens)
        are cut, too. The log-probs that come back are those of the policy itself, at temperature 1
        and with nothing cut.

        Args:
            prompts: B texts. For n responses to one prompt, repeat it n times.
            max_new_tokens: the most tokens a response may have, its end token included.
            temperature: > 0; below 1 sharpens the distribution, near 0 takes the likeliest token.
            top_k: how many tokens to keep, ≥ 1; None keeps all.
            top_p: the probability to keep, in (0, 1]; None keeps all.
            generator: source of randomness, on the policy's device; None takes torch's global one.
                The same generator state, prompts and weights give the same rollout.
            uniforms: (max_new_tokens, B) numbers in [0, 1), one for each token that could be drawn,
                in the place of a generator. What a row says depends on its own column alone, so
                that several processes can share out the columns of one draw.
            static_cache: whether to take the memory of keys and values once, so that each step is
                the same work: a GPU then replays it as a CUDA graph in the place of waiting for
                hundreds of launches. The draws are the same. Families that cannot are sampled as
                without it. It was tested on the CPU alone, where it gains nothing (a step takes 2
                to 11 % longer), and has not yet run on a GPU.

        Returns:
            the rollout; T is the length of the longest response.

        Raises:
            TypeError: if prompts is not a sequence of str.
            TypeError: if generator is no ``torch.Generator``, or prompts no list of str.
            ValueError: if a setting is out of its range, if prompts is empty, if a prompt with
                ``max_new_tokens`` does not fit into the context, if the generator is on another
                device, or if uniforms are no such numbers or given beside a generator.
            FloatingPointError: if the model gives NaN or infinite logits; it names step and row.
            torch.OutOfMemoryError: if memory runs out; it says what to lower.
        """
        check_sampling(max_new_tokens, temperature, top_k, top_p)
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
        if uniforms is None:
            uniforms = torch.rand((max_new_tokens, rows), generator=generator, device=device)
        else:
            _check_uniforms(uniforms, (max_new_tokens, rows), generator)
        uniforms = (uniforms.unsqueeze(-1) * (1 - 2**-22)).to(device, self._logits_dtype)
        unspoken = self._text.unspoken
        padded = not bool(batch.prompt_mask.all())
        batch = batch.to(device)
        prompt_mask = batch.prompt_mask if padded else None
        room = max_new_tokens - 1
        reader: Reader | GPT2Reader
        if static_cache and static_reading.suits(self.model):
            reader = StaticReader(self.model, self._forward, prompt_mask, room)
        elif gpt2_body.is_plain(self.model) and not torch.is_autocast_enabled(device.type):
            reader = GPT2Reader(self.model, prompt_mask, room)
        else:
            reader = Reader(self._forward, prompt_mask, room)
        with memory_advice(
            "sample",
            f"{rows} responses of up to {max_new_tokens} tokens, their keys and values too,",
            "Sample fewer at once (batch_size in a loop), or lower max_new_tokens",
        ):
            tokens, log_probs, is_end = sample_tokens(
                reader, batch.prompt_tokens, uniforms,
                torch.tensor(self.end_token_ids, device=device),
                None if unspoken is None else unspoken.to(device), temperature, top_k, top_p,
            )  # fmt: skip
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
        kept = [ids[:n] for ids, n in zip(tokens.tolist(), mask.sum(1).tolist(), strict=True)]
        return Rollout(
            batch.prompt_tokens,
            batch.prompt_mask,
            tokens,
            mask,
            prompts=prompts,
            responses=tuple(self._text.to_texts(kept)),
            log_probs=log_probs,
            finished=(is_end & mask).any(1),
        )


def _check_uniforms(
    uniforms: Tensor, shape: tuple[int, int], generator: torch.Generator | None
) -> None:
    """Refuse what is no number in [0, 1) for each token, or one source of randomness too many."""
    if generator is not None:
        raise ValueError("sample: uniforms stand in the place of a generator, got both")
    if tuple(uniforms.shape) != shape or not uniforms.is_floating_point():
        raise ValueError(
            f"sample: uniforms must be numbers of shape (max_new_tokens, B) = {shape}, got "
            f"{tuple(uniforms.shape)} of {uniforms.dtype}"
        )
    if not bool(((uniforms >= 0) & (uniforms < 1)).all()):
        raise ValueError(
            f"sample: uniforms must be in [0, 1), got numbers from {float(uniforms.min()):g} to "
            f"{float(uniforms.max()):g}"
        )


def _check_rows_finite(where: str, rows: Tensor) -> None:
    """Refuse (B,) numbers that come of NaN or infinite logits."""
    broken = (~rows.isfinite()).nonzero()
    if len(broken):
        raise FloatingPointError(
            f"{where}: the model must give finite logits, got NaN or infinite ones in row "
            f"{int(broken[0])}; its weights are probably NaN"
        )


def _other_kind(config: Any) -> str:
    """Say what a model is that cannot go on where a prompt ends; nothing of one that can."""
    if getattr(config, "is_encoder_decoder", False):
        return "an encoder-decoder, which reads prompts with one half and writes with the other"
    if not hasattr(config, "model_type"):
        return ""  # a model that is none of transformers'
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    # Families that fill gaps can be told to read forwards alone (XLM has a word of its own for it).
    forwards = getattr(config, "is_decoder", False) or getattr(config, "causal", False)
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and not forwards:
        return (
            "an encoder, in which a token sees those after it; with is_decoder=True in its "
            "configuration it reads forwards alone"
        )
    return ""
