"""A sentiment classifier of the Hugging Face hub as a judge (lesson 8).

A judge is any callable ``(prompts, responses) -> scores (B,)``. Here the score is the log-odds that
the whole text, prompt and response, is positive: what the DPO paper's sentiment experiment calls
its ground truth. Log-odds are unbounded where a probability saturates at 1, so two good texts still
differ.

Left out on purpose: training (``RewardModel`` learns from preferences, ``ResponseClassifier`` from
labels) and classifiers with several answers at once.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlhf_lessons.models.saved_model import checked_classifier, load_whole
from rlhf_lessons.models.tokens_of_text import padding_token, text_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["SequenceClassifierJudge"]


class SequenceClassifierJudge:
    """Log-odds of the positive class: score(x, y) = log p(+ | x y) − log(1 − p(+ | x y)).

    Args:
        model: a sequence classifier of transformers, of any family.
        tokenizer: its tokenizer. Where it has no padding token, its end token stands in for it.
        positive: number of the positive class; None takes the one whose name begins with "pos",
            else class 1 of two.
        separator: what stands between prompt and response; "" where responses bring their own
            leading space.
        batch_size: texts a forward pass.
        bf16: whether the forward pass computes in bfloat16: faster on a GPU, and coarser (8 bits),
            so that near scores can tie.

    Attributes:
        model: the classifier, frozen and in evaluation mode.
        tokenizer: its tokenizer.
        positive: number of the positive class.
        separator: what stands between prompt and response.
        batch_size: texts a forward pass.
        bf16: whether it computes in bfloat16.

    Raises:
        ValueError: if the model has one class, or several and none that is known to be positive, or
            if its tokenizer has neither a padding nor an end token.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        positive: int | None = None,
        separator: str = "",
        batch_size: int = 64,
        bf16: bool = False,
    ) -> None:
        names = [str(model.config.id2label[i]) for i in range(model.config.num_labels)]
        named = [i for i, name in enumerate(names) if name.lower().startswith("pos")]
        if positive is None and len(names) == 2:
            positive = named[0] if len(named) == 1 else 1
        elif positive is None and len(named) == 1:
            positive = named[0]
        if len(names) < 2 or positive is None or not 0 <= positive < len(names):
            raise ValueError(
                f"SequenceClassifierJudge: positive must be the number of one of at least 2 "
                f"classes, got {positive} for the classes {', '.join(names)}; a model of one score "
                f"is a RewardModel"
            )
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = _padding(model, tokenizer)
        self.positive, self.separator = positive, separator
        self.batch_size, self.bf16 = batch_size, bf16
        # Special tokens take a few of the positions; the tokenizer knows, where it was told.
        positions = getattr(model.config, "max_position_embeddings", 512) - 2
        self._longest = min(positions, tokenizer.model_max_length)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        device: str | torch.device = "cpu",
        **kw: Any,
    ) -> SequenceClassifierJudge:
        """Load a classifier from a folder, or by name from the Hugging Face hub.

        Args:
            name_or_path: a folder, or a name such as ``"siebert/sentiment-roberta-large-english"``;
                only safetensors files are read.
            device: where the model goes.
            **kw: keyword arguments of the class.

        Returns:
            the judge.

        Raises:
            OSError: if there is no such model, it cannot be fetched, or it holds no safetensors
                weights.
            ValueError: if it is no trained sequence classifier.
        """
        where = f"{cls.__name__}.from_pretrained"
        name = checked_classifier(where, name_or_path)

        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(name)
            model = load_whole(where, AutoModelForSequenceClassification, name)
        except OSError as error:
            reason = str(error).strip().split("\n")[0]
            raise OSError(f"{where}: could not load {name!r}: {reason}") from error
        return cls(model.to(device), tokenizer, **kw)

    @torch.no_grad()
    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Score responses together with their prompts; what is beyond the context is cut.

        Args:
            prompts: B texts.
            responses: B texts that continue them.

        Returns:
            (B,) log-odds in nats, float32, on the CPU.

        Raises:
            ValueError: if their numbers differ.
        """
        texts = [
            f"{prompt}{self.separator}{response}"
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        scores = torch.empty(len(texts))
        # Texts of like length go together, so that little padding is computed.
        order = torch.tensor(sorted(range(len(texts)), key=lambda row: len(texts[row])))
        for rows in order.split(self.batch_size) if texts else ():
            batch = self.tokenizer(
                [texts[row] for row in rows.tolist()],
                padding=True,
                truncation=True,
                max_length=self._longest,
                return_tensors="pt",
            ).to(self.model.device)
            with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.bf16):
                logits = self.model(**batch).logits
            logits = logits.float().cpu()
            others = [i for i in range(logits.shape[1]) if i != self.positive]
            scores[rows] = logits[:, self.positive] - logits[:, others].logsumexp(1)
        return scores

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Score responses: a classifier of sentiment is a judge."""
        return self.score(prompts, responses)


def _padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Give a tokenizer that pads, and tell the model with what: the last token before is read."""
    known = model.get_input_embeddings().weight.shape[0]
    pad = padding_token(tokenizer, tokenizer.eos_token_id, known)
    if pad is None:
        raise ValueError(
            "SequenceClassifierJudge: tokenizer must have a padding or an end token, got "
            "neither; tokenizer.pad_token = '<pad>' names one of its tokens"
        )
    if pad != tokenizer.pad_token_id:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    config = text_config(model)
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    return tokenizer
