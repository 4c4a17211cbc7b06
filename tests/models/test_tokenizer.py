from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from rlhf_lessons.models.tokenizer import SPECIAL_TOKENS, word_tokenizer
from rlhf_lessons.worlds import VOCABULARY, sample_reviews, sample_web_text

TOKENIZER = word_tokenizer(VOCABULARY)


def test_ids_follow_the_vocabulary():
    tokenizer = word_tokenizer(["the", "plot", "."])
    assert tokenizer.get_vocab() == {
        "<pad>": 0, "<start>": 1, "<end>": 2, "<unk>": 3, "the": 4, "plot": 5, ".": 6,
    }  # fmt: skip
    assert tokenizer("the plot .")["input_ids"] == [1, 4, 5, 6]
    assert tokenizer("the plot .", add_special_tokens=False)["input_ids"] == [4, 5, 6]
    assert tokenizer("")["input_ids"] == [1]
    assert tokenizer("a  plot")["input_ids"] == [1, 3, 5]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id) == (0, 1)
    assert (tokenizer.eos_token_id, tokenizer.unk_token_id) == (2, 3)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_round_trip_is_exact(seed):
    texts = [f"{p} {r}" for p, r in sample_reviews(20, seed)] + sample_web_text(20, seed)
    ids = TOKENIZER(texts)["input_ids"]
    assert TOKENIZER.batch_decode(ids, skip_special_tokens=True) == texts
    assert all(len(row) == len(text.split()) + 1 for row, text in zip(ids, texts, strict=True))
    assert TOKENIZER.unk_token_id not in {token for row in ids for token in row}


def test_special_tokens_are_left_out_and_kept():
    assert TOKENIZER.decode([1, *TOKENIZER("it is", add_special_tokens=False)["input_ids"], 2, 0])
    ids = [1, *TOKENIZER("it is .", add_special_tokens=False)["input_ids"], 2, 0, 0]
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == "it is ."
    assert TOKENIZER.decode(ids) == "<start> it is . <end> <pad> <pad>"


def test_reads_back_from_a_folder(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == TOKENIZER.get_vocab()
    text = "my sister showed me this swedish mystery ."
    assert loaded(text)["input_ids"] == TOKENIZER(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"], skip_special_tokens=True) == text
    assert loaded.eos_token == SPECIAL_TOKENS[2]
    # Written down, since transformers 4 takes its own where none are: token types, too.
    assert loaded.init_kwargs["model_input_names"] == list(loaded(text))


@pytest.mark.parametrize("vocabulary, error, message", [
    ([], ValueError, "at least one word"),
    (["a", "a"], ValueError, "each word must be new, got 'a', there already"),
    (["<end>"], ValueError, "'<end>', a special token"),
    (["two words"], ValueError, "got 'two words'"),
    ([""], ValueError, "got ''"),
    ("word", TypeError, "got 'word'"),
    (["a", 3], TypeError, "vocabulary must be words"),
])  # fmt: skip
def test_refuses(vocabulary, error, message):
    with pytest.raises(error, match=message):
        word_tokenizer(vocabulary)
