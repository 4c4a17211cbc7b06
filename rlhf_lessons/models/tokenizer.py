"""Words to numbers and back (lesson 2): the tokenizer of the small worlds.

One word is one token, so a learner can read a rollout token by token, and every text of a world
comes back from its tokens exactly as it was.

Left out on purpose: subwords (byte-pair encoding). Models from the Hugging Face hub bring their own
tokenizer, and :class:`~rlhf_lessons.models.language_policy.LanguagePolicy` takes any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["SPECIAL_TOKENS", "word_tokenizer"]

SPECIAL_TOKENS = ("<pad>", "<start>", "<end>", "<unk>")
"""Padding, start of a text, end of a text, a word outside the vocabulary: ids 0 to 3."""


def word_tokenizer(vocabulary: Sequence[str]) -> PreTrainedTokenizerFast:
    """Make a tokenizer with one token per word.

    Text is split at white space. ``<start>`` is put before every text that is encoded with special
    tokens, as a prompt is; ids 0 to 3 are the special tokens and word i has id i + 4. Decoding puts
    one space between words: ``decode(encode(text), skip_special_tokens=True) == text`` for words
    of the vocabulary with single spaces between them. A word outside it becomes ``<unk>``.

    Args:
        vocabulary: V words, each once and without white space.

    Returns:
        A Hugging Face tokenizer of V + 4 tokens; ``save_pretrained`` writes it to a folder from
        which ``AutoTokenizer`` reads it back.

    Raises:
        TypeError: If the vocabulary is one string or holds something other than strings.
        ValueError: If it is empty, or a word is empty, comes twice, holds white space or is a
            special token.
    """
    if isinstance(vocabulary, str) or not all(isinstance(word, str) for word in vocabulary):
        raise TypeError(f"word_tokenizer: vocabulary must be words, got {vocabulary!r:.60}")
    if not vocabulary:
        raise ValueError("word_tokenizer: vocabulary must hold at least one word, got none")
    ids = {token: i for i, token in enumerate(SPECIAL_TOKENS)}
    for word in vocabulary:
        if word.split() != [word]:
            raise ValueError(f"word_tokenizer: a word must not be empty or spaced, got {word!r}")
        if word in ids:
            kind = "a special token" if word in SPECIAL_TOKENS else "there already"
            raise ValueError(f"word_tokenizer: each word must be new, got {word!r}, {kind}")
        ids[word] = len(ids)

    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pad, start, end, unknown = SPECIAL_TOKENS
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, ids[start])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=start,
        eos_token=end,
        unk_token=unknown,
        # transformers 4 adds token_type_ids by itself, and GPT-2 their embeddings to the words'.
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,  # it would glue the full stop to its word
    )
