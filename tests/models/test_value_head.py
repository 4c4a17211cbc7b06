"""The value head reads, at each position, the vector from which the model speaks there."""

from __future__ import annotations

import pytest
import torch

from rlhf_lessons.models import (
    LanguagePolicy,
    ResponseTree,
    ValueHead,
    small_gpt2,
    table_policy,
    word_tokenizer,
)


def make_policy() -> LanguagePolicy:
    tokenizer = word_tokenizer(["a", "b", "c", "d"])
    return LanguagePolicy(small_gpt2(len(tokenizer), 16, 2, 2, 16, seed=0), tokenizer)


def make_head(policy) -> ValueHead:
    head = ValueHead(policy)
    torch.manual_seed(0)
    torch.nn.init.normal_(head.linear.weight)
    torch.nn.init.constant_(head.linear.bias, 0.5)
    return head


def test_a_new_head_says_zero():
    policy = make_policy()
    _, values = ValueHead(policy)(policy.encode(["a"], ["b c"]))
    assert values.shape == (1, 3)
    assert not values.detach().any()


def test_values_are_read_from_the_last_hidden_state_before_each_token():
    policy = make_policy()
    head = make_head(policy)
    batch = policy.encode(["a b"], ["c d"])
    logits, values = head(batch)
    torch.testing.assert_close(logits, policy.logits_of(batch))
    tokens = torch.cat([batch.prompt_tokens, batch.response_tokens], 1)
    hidden = policy.model.transformer(input_ids=tokens).last_hidden_state
    before_response = hidden[:, batch.prompt_tokens.shape[1] - 1 : -1]
    expected = before_response @ head.linear.weight[0] + 0.5
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-5)


def test_values_alone_are_the_same_and_have_the_same_gradient():
    policy = make_policy()
    head = make_head(policy)
    batch = policy.encode(["a b", "c"], ["c d", "a"])
    _, values = head(batch)
    values.square().sum().backward()
    gradients = [weight.grad.clone() for weight in (*head.parameters(), *policy.parameters())]
    for weight in (*head.parameters(), *policy.parameters()):
        weight.grad = None
    alone = head.values_of(batch)
    torch.testing.assert_close(alone, values, rtol=0, atol=1e-6)
    alone.square().sum().backward()
    for weight, expected in zip((*head.parameters(), *policy.parameters()), gradients, strict=True):
        torch.testing.assert_close(weight.grad, expected, rtol=0, atol=1e-5)


def test_values_keep_all_digits_where_the_body_runs_in_bfloat16():
    head = make_head(make_policy())
    batch = head.policy.encode(["a b"], ["c d"])
    with torch.autocast("cpu", torch.bfloat16):
        states, _ = head.policy.states_of(batch)
        _, values = head(batch)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, head.linear(states.float()).squeeze(-1), rtol=0, atol=1e-6)


def test_a_value_knows_nothing_of_its_own_token():
    policy = make_policy()
    head = make_head(policy)
    _, one = head(policy.encode(["a"], ["b c"]))
    _, other = head(policy.encode(["a"], ["b d"]))
    torch.testing.assert_close(one[:, :2], other[:, :2])
    assert float((one[:, 2] - other[:, 2]).detach().abs()) > 1e-3


def test_padding_changes_no_value():
    policy = make_policy()
    head = make_head(policy)
    _, alone = head(policy.encode(["a"], ["b"]))
    _, beside = head(policy.encode(["a", "a b c"], ["b", "c d a b"]))
    torch.testing.assert_close(beside[:1, :2], alone, rtol=1e-5, atol=1e-5)


def test_gradient_reaches_head_and_body():
    policy = make_policy()
    head = make_head(policy)
    head(policy.encode(["a"], ["b c"]))[1].sum().backward()
    assert float(head.linear.weight.grad.abs().sum()) > 0
    assert float(policy.model.transformer.wpe.weight.grad.abs().sum()) > 0


def test_half_precision_bodies_get_float32_values():
    policy = make_policy()
    policy.model.to(torch.bfloat16)
    _, values = ValueHead(policy)(policy.encode(["a"], ["b c"]))
    assert values.dtype == torch.float32


def test_on_a_table_it_is_a_table_of_values():
    tree = ResponseTree(("x", "y"), 2)
    policy = table_policy(tree, torch.zeros(len(tree.prefixes), 3).double())
    head = ValueHead(policy)
    with torch.no_grad():
        head.linear.weight[0] = torch.arange(3.0)
    _, values = head(policy.encode(["", ""], ["x", "y"]))
    assert values.tolist() == [[0.0, 1.0], [0.0, 2.0]]


def test_it_leaves_no_hook_behind():
    policy = make_policy()
    head = make_head(policy)
    head(policy.encode(["a"], ["b"]))
    with pytest.raises(ValueError, match="context"):
        head(policy.encode(["a " * 9], ["b " * 9]))
    assert not policy.model.get_output_embeddings()._forward_pre_hooks


def test_a_model_without_a_named_head_is_refused():
    policy = make_policy()
    policy.model.get_output_embeddings = lambda: None
    with pytest.raises(ValueError, match="layer that gives the logits"):
        ValueHead(policy)
