"""The yes-or-no judge on a language model's body."""

from __future__ import annotations

import pytest
import torch

from rlhf_lessons.models import LanguagePolicy, ResponseClassifier, small_gpt2, word_tokenizer

WORDS = ("good", "bad", "film", "plot", "the", "was")


@pytest.fixture(scope="module")
def policy() -> LanguagePolicy:
    tokenizer = word_tokenizer(WORDS)
    return LanguagePolicy(
        small_gpt2(len(tokenizer), width=16, layers=2, heads=2, context=16, seed=3), tokenizer
    )


def test_features_are_the_mean_hidden_state_over_the_response(policy):
    classifier = ResponseClassifier(policy)
    pairs = [("the film", "was good"), ("", "bad"), ("the plot was bad the film", "")]
    got = classifier.features(*zip(*pairs, strict=True))
    assert got.shape == (3, 16) and not got.requires_grad
    for row, (prompt, response) in enumerate(pairs):
        start = policy.tokenizer(prompt)["input_ids"]
        tokens = policy.tokenizer(response, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[*start, *tokens, policy.end_token_id]])
        with torch.no_grad():
            hidden = policy.model.transformer(ids).last_hidden_state[0]
        torch.testing.assert_close(got[row], hidden[len(start) :].mean(0), atol=1e-5, rtol=0)


def test_untrained_it_is_undecided_and_a_head_is_a_linear_map(policy):
    classifier = ResponseClassifier(policy)
    prompts, responses = ["the film", "the plot"], ["was good", "was bad bad"]
    assert classifier.score(prompts, responses).tolist() == [0.5, 0.5]
    with torch.no_grad():
        classifier.head.weight.normal_(generator=torch.Generator().manual_seed(0))
        classifier.head.bias.fill_(0.3)
    features = classifier.features(prompts, responses)
    logits = features @ classifier.head.weight[0] + 0.3
    expected = 1 / (1 + torch.exp(-logits))
    torch.testing.assert_close(classifier.score(prompts, responses), expected.detach())


def test_only_the_head_is_trainable_and_the_policy_is_not_changed(policy):
    before = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    classifier = ResponseClassifier(policy)
    assert [tuple(weight.shape) for weight in classifier.parameters()] == [(1, 16), (1,)]
    classifier(classifier.features(["the film"], ["was good"])).sum().backward()
    assert classifier.head.weight.grad is not None
    assert all(weight.grad is None for weight in policy.parameters())
    assert all(torch.equal(before[k], v) for k, v in policy.model.state_dict().items())


def test_responses_without_their_prompt_are_refused(policy):
    with pytest.raises(ValueError, match=r"2.*1|1.*2"):
        ResponseClassifier(policy).score(["the film", "the plot"], ["was good"])
