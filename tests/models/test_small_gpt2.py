from __future__ import annotations

import pytest
import torch

from rlhf_lessons.models.small_gpt2 import small_gpt2


def test_size_is_what_the_formula_says():
    width, layers, vocabulary, context = 16, 2, 30, 20
    model = small_gpt2(vocabulary, width=width, layers=layers, heads=2, context=context)
    # A block: query, key, value and output (4w²), two maps of the MLP (8w²), their biases (9w) and
    # two normalisations (4w). One more follows the blocks; the head is the embedding.
    block = 12 * width**2 + 13 * width
    expected = layers * block + 2 * width + (vocabulary + context) * width
    assert sum(weight.numel() for weight in model.parameters()) == expected
    assert model.lm_head.weight is model.transformer.wte.weight


def test_seed_decides_the_weights_and_nothing_else():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = small_gpt2(20, width=8, heads=2, seed=1)
    assert torch.equal(torch.rand(3), expected)  # the global generator is as it was
    again = small_gpt2(20, width=8, heads=2, seed=1)
    other = small_gpt2(20, width=8, heads=2, seed=2)
    assert torch.equal(first.transformer.wte.weight, again.transformer.wte.weight)
    assert not torch.equal(first.transformer.wte.weight, other.transformer.wte.weight)


def test_no_dropout_even_in_training_mode():
    model = small_gpt2(20, width=8, heads=2)
    tokens = torch.arange(10).unsqueeze(0)
    assert not model.training
    expected = model(tokens).logits
    model.train()
    torch.testing.assert_close(model(tokens).logits, expected, rtol=0, atol=0)


def test_the_future_changes_nothing():
    model = small_gpt2(20, width=8, heads=2)
    tokens = torch.arange(10).unsqueeze(0)
    changed = tokens.clone()
    changed[0, 6:] = 3
    torch.testing.assert_close(model(tokens).logits[:, :6], model(changed).logits[:, :6])


@pytest.mark.parametrize("sizes, message", [
    ({"vocabulary_size": 4}, "more than the 4 special tokens, got 4"),
    ({"width": 30}, "width must be a multiple of heads = 4, got 30"),
    ({"layers": 0}, "layers must be a whole number ≥ 1, got 0"),
    ({"heads": 2.0}, "heads must be a whole number"),
    ({"context": -1}, "context must be"),
])  # fmt: skip
def test_refuses(sizes, message):
    with pytest.raises(ValueError, match=f"small_gpt2: .*{message}"):
        small_gpt2(**{"vocabulary_size": 20, **sizes})
