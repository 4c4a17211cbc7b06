"""The written-out GPT-2 against transformers' own, in float64: values and gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

from rlhf_lessons.models import (
    LanguagePolicy,
    RewardModel,
    TokenBatch,
    gpt2_body,
    word_tokenizer,
)

WORDS = [chr(code) for code in range(ord("a"), ord("p"))]


def gpt2(layers: int = 3, activation: str = "gelu_new", **changes) -> GPT2LMHeadModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=20, n_embd=24, n_layer=layers, n_head=3, n_positions=32,
            activation_function=activation, initializer_range=0.3, **changes,
        )  # fmt: skip
        model = GPT2LMHeadModel(config)
        for weight in model.parameters():  # biases and layer norms that are not 0 and 1
            torch.nn.init.normal_(weight, std=0.3)
        return model.double().eval()


def texts(rows: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of unequal lengths, each second of which begins like the one before it."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(20, (rows, 12), generator=generator)
    lengths = torch.randint(1, 13, (rows,), generator=generator)
    shared = torch.randint(0, 9, (rows,), generator=generator)
    for row in range(1, rows, 2):
        tokens[row, : shared[row]] = tokens[row - 1, : shared[row]]
    return tokens, lengths


@pytest.mark.parametrize("short", [0, 64])  # attention by the fused kernel, and by products
@pytest.mark.parametrize("rows", [1, 2, 7, 40])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("activation", ["gelu_new", "gelu_pytorch_tanh", "relu"])
def test_values_and_gradients_are_those_of_transformers(
    rows, layers, activation, short, monkeypatch
):
    monkeypatch.setattr(gpt2_body, "SHORT", short)
    monkeypatch.setattr(gpt2_body, "TOGETHER", 100)  # 40 rows go through attention in two parts
    model = gpt2(layers, activation)
    tokens, lengths = texts(rows)
    places = (lengths.unsqueeze(1) - 4 + torch.arange(4)).clamp(min=0)
    read = torch.arange(4) < (lengths % 5).clamp(max=4).unsqueeze(1)
    read[0, 0] = True
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(24, generator=generator, dtype=torch.float64)

    def both(states):
        model.zero_grad()
        (states @ weights).sin().sum().backward()
        return states.detach(), [w.grad.clone() for w in model.transformer.parameters()]

    own = both(gpt2_body.states_at(model.transformer, tokens, lengths, places, read))
    hidden = model.transformer(tokens).last_hidden_state
    plain = both(hidden[torch.arange(rows).unsqueeze(1).expand(-1, 4)[read], places[read]])
    torch.testing.assert_close(own, plain, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("short", [0, 64])
def test_nothing_may_be_read_in_all_rows_that_are_short(short, monkeypatch):
    """As where half of the responses are empty; the others have the states they have alone."""
    monkeypatch.setattr(gpt2_body, "SHORT", short)
    monkeypatch.setattr(gpt2_body, "TOGETHER", 100)  # 40 rows go through attention in two parts
    body = gpt2().transformer
    tokens, _ = texts(20)
    lengths = torch.tensor([3] * 10 + [12] * 10)
    places, read = (lengths - 1).unsqueeze(1), (lengths > 3).unsqueeze(1)
    got = gpt2_body.states_at(body, tokens, lengths, places, read)
    alone = gpt2_body.states_at(body, tokens[10:], lengths[10:], places[10:], read[10:])
    torch.testing.assert_close(got, alone, atol=1e-12, rtol=0)


def test_what_stands_in_the_padding_changes_nothing():
    model = gpt2()
    tokens, lengths = texts(20)
    places, read = (lengths - 1).unsqueeze(1), torch.ones(20, 1, dtype=torch.bool)
    other = torch.where(torch.arange(12) < lengths.unsqueeze(1), tokens, (tokens + 1) % 20)
    one, two = (
        gpt2_body.states_at(model.transformer, given, lengths, places, read)
        for given in (tokens, other)
    )
    assert torch.equal(one, two)


def test_beginnings_that_two_rows_share_are_read_once():
    model = gpt2()
    tokens = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 6, 4], [6, 2, 6, 4], [6, 2, 0, 0]])
    lengths = torch.tensor([4, 4, 4, 4, 2])
    read = torch.ones(5, 1, dtype=torch.bool)
    seen = []
    norm = torch.nn.functional.layer_norm

    def spy(x, *arguments):
        seen.append(len(x))
        return norm(x, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "layer_norm", spy)
        gpt2_body.states_at(model.transformer, tokens, lengths, lengths.unsqueeze(1) - 1, read)
    # 4, then the last one, then the last two, then all four, then none that is new.
    assert seen[0] == 4 + 1 + 2 + 4 + 0
    assert seen[-1] == 5  # after the last block only what is read


def test_policies_take_it_with_the_same_numbers_and_gradients(monkeypatch):
    policy = LanguagePolicy(gpt2(), word_tokenizer(WORDS))
    prompts = ["a b c", "a b c", "d", "", "e f g h i j", "e f g h i j"] * 3
    responses = ["k l", "k m n o", "a " * 20, "b", "", "c d"] * 3
    batch = policy.encode(prompts, responses)

    def numbers():
        policy.model.zero_grad()
        log_probs = policy.log_probs_of(batch)
        states, logits = policy.states_of(batch)
        mask = batch.response_mask
        total = log_probs.sin().sum() + states[mask].cos().sum() + logits[mask].logsumexp(-1).sum()
        total.backward()
        found = [log_probs, states[mask], logits[mask], policy.flat_logits_of(batch)[0][0, :-1]]
        return [x.detach() for x in found] + [w.grad.clone() for w in policy.parameters()]

    assert gpt2_body.is_plain(policy.model)
    own = numbers()
    torch.testing.assert_close(own[2], own[3])  # the flat logits are those of the responses
    monkeypatch.setattr(gpt2_body, "is_plain", lambda model: False)
    torch.testing.assert_close(own, numbers(), atol=1e-10, rtol=1e-10)


def test_rows_that_fit_alone_need_not_fit_side_by_side():
    policy = LanguagePolicy(gpt2(), word_tokenizer(WORDS))  # a context of 32
    prompts, responses = ["a " * 29, "b"], ["c", "d " * 29]
    together = policy.log_probs_of(policy.encode(prompts, responses))
    for row in (0, 1):
        alone = policy.log_probs_of(policy.encode([prompts[row]], [responses[row]]))
        torch.testing.assert_close(together[row, : alone.shape[1]], alone[0])


def test_take_keeps_rows_and_drops_empty_columns():
    policy = LanguagePolicy(gpt2(), word_tokenizer(WORDS))
    batch = policy.encode(["a b c", "d", "e f"], ["g", "h i j", "k l"])
    for rows in ([1], [2, 0], [0, 1, 2], [1, 1]):
        taken = batch.take(torch.tensor(rows))
        alone = policy.encode(
            [["a b c", "d", "e f"][i] for i in rows], [["g", "h i j", "k l"][i] for i in rows]
        )
        for name in ("prompt_tokens", "prompt_mask", "response_tokens", "response_mask"):
            assert torch.equal(getattr(taken, name), getattr(alone, name))
    assert type(taken) is TokenBatch


def test_what_is_not_plain_gpt2_is_recognised():
    model = gpt2()
    assert gpt2_body.is_plain(model)
    policy = LanguagePolicy(gpt2(), word_tokenizer(WORDS))
    assert gpt2_body.is_plain(RewardModel.from_policy(policy).model)  # its activations are fused
    config = copy.deepcopy(model.config)
    config.pad_token_id, config.num_labels = 0, 1
    assert gpt2_body.is_plain(GPT2ForSequenceClassification(config).eval())
    for changes in (
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
        {"reorder_and_upcast_attn": True},
        {"add_cross_attention": True},
    ):
        assert not gpt2_body.is_plain(gpt2(**changes))
    assert not gpt2_body.is_plain(gpt2().bfloat16())
    assert not gpt2_body.is_plain(gpt2().train())
    assert not gpt2_body.is_plain(torch.nn.Linear(2, 2))

    hooked = gpt2()
    hooked.transformer.h[1].mlp.register_forward_hook(lambda *_: None)
    assert not gpt2_body.is_plain(hooked)
    replaced = gpt2()
    replaced.transformer.h[0].attn.c_attn = torch.nn.Identity()
    assert not gpt2_body.is_plain(replaced)
    wrapped = gpt2()
    wrapped.transformer.h[0].forward = lambda *given: given
    assert not gpt2_body.is_plain(wrapped)
