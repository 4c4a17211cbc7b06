"""The written-out GPT-2 against the model itself, and when it must step back."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig

from rlhf_lessons.models import LanguagePolicy, gpt2_body, products, reading, word_tokenizer
from rlhf_lessons.models.reading import GPT2Reader, Reader

WORDS = ["a", "b", "c", "d"]


def gpt2(**settings) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = {"n_embd": 24, "n_layer": 3, "n_head": 2, "n_positions": 32, "vocab_size": 8}
    model = GPT2LMHeadModel(GPT2Config(**(sizes | settings), bos_token_id=1, eos_token_id=2))
    with torch.no_grad():
        for parameter in model.parameters():  # no weight may be zero, no bias unseen
            parameter.copy_(torch.randn_like(parameter) * 0.4)
    return model.eval()


def policy_of(model) -> LanguagePolicy:
    return LanguagePolicy(model, word_tokenizer(WORDS))


@pytest.mark.parametrize("prompts", [["a b", "c d", "d d"], ["a b c d", "", "d d"]], ids=str)
@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("activation", ["gelu_new", "gelu_pytorch_tanh", "relu"])
@torch.no_grad()
def test_the_written_out_steps_equal_the_model(prompts, onednn, activation, monkeypatch):
    monkeypatch.setattr(products, "FROM_ROWS", 1 if onednn else 10**9)
    monkeypatch.setattr(reading, "FROM_NUMBERS_SAMPLING", 0)
    policy = policy_of(gpt2(activation_function=activation))
    batch = policy.encode(prompts)
    mask = None if batch.prompt_mask.all() else batch.prompt_mask
    assert gpt2_body.is_plain(policy.model)
    slow, fast = Reader(policy._forward, mask, room=9), GPT2Reader(policy.model, mask, room=9)
    torch.testing.assert_close(
        fast.read(batch.prompt_tokens), slow.read(batch.prompt_tokens), atol=1e-5, rtol=1e-5
    )
    generator = torch.Generator().manual_seed(0)
    rows = len(prompts)
    for step in range(9):
        if step == 4 and not isinstance(slow.cache, tuple):  # transformers 4.48 gives a tuple
            kept = torch.tensor([2, 0])
            assert slow.can_drop() and fast.can_drop()
            slow.keep(kept)
            fast.keep(kept)
            rows = 2
        tokens = torch.randint(8, (rows, 1), generator=generator)
        expected = slow.read(tokens)
        torch.testing.assert_close(fast.read(tokens), expected, atol=1e-5, rtol=1e-5)
        assert expected.std() > 0.1


def test_sampling_from_a_plain_gpt2_takes_the_written_out_steps():
    policy = policy_of(gpt2())
    calls = []
    body = type(policy.model).forward

    def counted(self, *args, **kw):
        calls.append(1)
        return body(self, *args, **kw)

    policy.model.__class__.forward = counted
    try:
        rollout = policy.sample(["a"] * 8, 6, generator=torch.Generator().manual_seed(0))
    finally:
        policy.model.__class__.forward = body
    assert rollout.response_tokens.shape[1] > 2 and not calls


@pytest.mark.parametrize(
    "change",
    [
        *("none", "hook", "pre-hook", "forward", "layer", "half", "scale", "inverse", "subclass"),
        "attention",
    ],
)
@torch.no_grad()
def test_it_steps_back_from_a_model_that_was_changed(change):
    """Whoever changes a layer must see every token go through it."""
    model = gpt2(
        scale_attn_weights=change != "scale", scale_attn_by_inverse_layer_idx=change == "inverse"
    )
    if change == "hook":
        model.transformer.h[1].mlp.register_forward_hook(lambda module, args, out: out * 2)
    elif change == "pre-hook":
        model.transformer.h[1].register_forward_pre_hook(lambda module, args: None)
    elif change == "forward":
        model.lm_head.forward = lambda x: x @ model.lm_head.weight.T * 2
    elif change == "layer":
        attention = model.transformer.h[0].attn
        attention.c_attn = type("Adapter", (type(attention.c_attn),), {})(72, 24)
    elif change == "half":
        model.bfloat16()
    elif change == "subclass":
        model.__class__ = type("Mine", (GPT2LMHeadModel,), {})
    elif change == "attention":
        model.config._attn_implementation = "flex_attention"
    assert gpt2_body.is_plain(model) == (change == "none")
    model.config._attn_implementation = "sdpa"
    policy = policy_of(model)
    if change != "half":
        rollout = policy.sample(["a b", "c"], 6, generator=torch.Generator().manual_seed(0))
        again = policy.log_probs_of(rollout)
        torch.testing.assert_close(rollout.log_probs, again, atol=1e-5, rtol=0)


def test_it_steps_back_from_other_families():
    config = LlamaConfig(
        vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    assert not gpt2_body.is_plain(AutoModelForCausalLM.from_config(config))


def test_within_autocast_the_model_reads_for_itself():
    policy = policy_of(gpt2())
    with torch.autocast("cpu", torch.bfloat16):
        rollout = policy.sample(["a b"] * 40, 6, generator=torch.Generator().manual_seed(0))
    assert rollout.log_probs.dtype == torch.float32
    assert rollout.log_probs.isfinite().all()


@pytest.mark.parametrize("prompts", [["a b", "c d"], ["a b c d", "d d"]], ids=str)
@torch.no_grad()
def test_the_written_out_steps_read_equal_prompts_once(prompts, monkeypatch):
    policy = policy_of(gpt2())
    batch = policy.encode([prompts[i] for i in (1, 0, 1, 1, 0)])
    mask = None if batch.prompt_mask.all() else batch.prompt_mask
    seen, read = [], GPT2Reader.read

    def counted(reader, tokens):
        seen.append(len(tokens))
        return read(reader, tokens)

    once, each = (GPT2Reader(policy.model, mask, room=5) for _ in range(2))
    monkeypatch.setattr(GPT2Reader, "read", counted)
    got = once.read_prompts(batch.prompt_tokens)
    assert seen == [2]
    expected = read(each, batch.prompt_tokens)
    rows = 5
    for step in range(5):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
        if step == 2:
            kept, rows = torch.tensor([4, 1, 2]), 3
            once.keep(kept)
            each.keep(kept)
        tokens = (torch.arange(rows) + step)[:, None] % 8  # other tokens after equal prompts
        got, expected = once.read(tokens), read(each, tokens)
    assert expected.std() > 0.01


def test_repeated_prompts_are_the_tokens_of_each():
    policy = policy_of(gpt2())
    texts = ["a b", "c", "a b", "", "c"]
    together, apart = policy.encode(texts), [policy.encode([text]) for text in texts]
    for row, alone in enumerate(apart):
        found = together.prompt_tokens[row][together.prompt_mask[row]]
        assert found.tolist() == alone.prompt_tokens[0].tolist()


@pytest.mark.parametrize("prompts", [["a b", "c d"], ["a b c d", "d d"]], ids=str)
@pytest.mark.parametrize("cached", [True, False])
@torch.no_grad()
def test_equal_prompts_are_read_once_and_go_on_apart(prompts, cached):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=32, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    policy = policy_of(AutoModelForCausalLM.from_config(config).eval())
    batch = policy.encode([prompts[i] for i in (0, 1, 0, 0, 1)])
    mask = None if batch.prompt_mask.all() else batch.prompt_mask
    seen = []

    def forward(tokens, *args, **kw):
        seen.append(len(tokens))
        logits, cache = policy._forward(tokens, *args, **kw)
        return logits, cache if cached else None

    def apart(tokens, *args, **kw):
        logits, cache = policy._forward(tokens, *args, **kw)
        return logits, cache if cached else None

    once, each = Reader(forward, mask, room=4), Reader(apart, mask, room=4)
    got, expected = once.read_prompts(batch.prompt_tokens), each.read(batch.prompt_tokens)
    for step in range(4):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
        tokens = (torch.arange(5) + step)[:, None] % 8  # other tokens after equal prompts
        got, expected = once.read(tokens), each.read(tokens)
    assert expected.std() > 0.01
    if cached and once.can_drop():  # transformers 4.48 gives a tuple
        assert seen == [2, 5, 5, 5, 5]
