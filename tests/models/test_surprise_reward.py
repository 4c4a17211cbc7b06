"""Reward and surprise together: against transformers, and the fit against its equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlhf_lessons.models import LanguagePolicy, RewardModel, SurpriseReward
from rlhf_lessons.models.small_gpt2 import small_gpt2
from rlhf_lessons.models.tokenizer import word_tokenizer

WORDS = ("the", "film", "was", "good", "bad", "long", ".")
PROMPTS = ["the film .", "film .", "the film was long ."]
RESPONSES = ["good .", "the film was bad .", ""]


@pytest.fixture
def policy() -> LanguagePolicy:
    tokenizer = word_tokenizer(WORDS)
    model = small_gpt2(len(tokenizer), width=16, layers=2, heads=2, context=16, seed=1)
    for weight in model.parameters():  # far from even, so that tokens differ in likelihood
        weight.data.mul_(3)
    return LanguagePolicy(model, tokenizer)


@pytest.fixture
def reward_model(policy) -> RewardModel:
    model = RewardModel.from_policy(policy)
    torch.nn.init.normal_(model.model.score.weight, generator=torch.Generator().manual_seed(0))
    return model


def least_likely(policy, prompt: str, response: str) -> float:
    """One text at a time: ids by hand, all logits of transformers, the smallest log-softmax."""
    before = [1, *(WORDS.index(word) + 4 for word in prompt.split())]
    ids = [*before, *(WORDS.index(word) + 4 for word in response.split()), 2]
    with torch.no_grad():
        log_probs = policy.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return min(log_probs[t - 1, ids[t]].item() for t in range(len(before), len(ids)))


def test_score_is_the_weighted_sum_of_reward_and_least_log_probability(policy, reward_model):
    judge = SurpriseReward(reward_model, policy, weights=(0.5, 2.0))
    rewards = reward_model(PROMPTS, RESPONSES).tolist()
    surprise = [least_likely(policy, *pair) for pair in zip(PROMPTS, RESPONSES, strict=True)]
    expected = [0.5 * r + 2 * s for r, s in zip(rewards, surprise, strict=True)]
    scores = judge(PROMPTS, RESPONSES)
    assert scores.tolist() == pytest.approx(expected, abs=1e-5)
    assert scores.dtype == torch.float32 and not scores.requires_grad
    assert len({round(s, 3) for s in surprise}) == 3
    # Without weights chosen it is the reward model alone.
    alone = SurpriseReward(reward_model, policy)(PROMPTS, RESPONSES)
    assert torch.equal(alone, reward_model(PROMPTS, RESPONSES))


def test_more_texts_than_a_forward_pass_takes(policy, reward_model):
    judge = SurpriseReward(reward_model, policy, weights=(1.0, 1.0))
    many = judge(PROMPTS * 100, RESPONSES * 100)
    torch.testing.assert_close(many, judge(PROMPTS, RESPONSES).repeat(100), atol=1e-5, rtol=0)


@pytest.fixture
def choices() -> list[tuple[str, str, str]]:
    """Choices among random responses, by coin."""
    rng = np.random.default_rng(0)
    sides = [[" ".join(rng.choice(WORDS, rng.integers(1, 6))) for _ in range(60)] for _ in range(2)]
    return [("the film .", *pair) for pair in zip(*sides, strict=True)]


def test_fit_finds_the_maximum_of_the_likelihood(policy, reward_model, choices):
    """At the maximum Σ (1 − σ(w·d)) d = 0, and it is the only one, for the sum is concave."""
    judge = SurpriseReward(reward_model, policy)
    judge.fit(choices)
    prompts, chosen, rejected = map(list, zip(*choices, strict=True))
    r = (reward_model(prompts, chosen) - reward_model(prompts, rejected)).double().numpy()
    s = [
        least_likely(policy, prompt, a) - least_likely(policy, prompt, b)
        for prompt, a, b in choices
    ]
    d = np.stack([r, s], axis=1)
    wrong = 1 / (1 + np.exp(d @ np.array(judge.weights)))
    # 1e-4: the texts' numbers come from float32.
    np.testing.assert_allclose((wrong[:, None] * d).mean(0), 0, atol=1e-4)
    assert np.abs(d.mean(0) / 2).min() > 1e-2  # the slope at w = 0 is far from that


def test_fit_recovers_what_made_the_choices(policy, reward_model, choices):
    """Each choice both ways, as often as a = 0.1, b = 0.05 say: the likelihood is largest there."""
    judge = SurpriseReward(reward_model, policy, weights=(0.1, 0.05))
    few = choices[:20]
    prompts, chosen, rejected = map(list, zip(*few, strict=True))
    p = torch.sigmoid(judge(prompts, chosen) - judge(prompts, rejected))
    counts = (p * 100).round().int().tolist()
    made = []
    for (prompt, a, b), n in zip(few, counts, strict=True):
        made += [(prompt, a, b)] * n + [(prompt, b, a)] * (100 - n)
    judge.fit(made)
    assert judge.weights == pytest.approx((0.1, 0.05), abs=5e-3)  # counts are rounded to 1 in 100


def test_the_two_parts_and_two_numbers_are_all_there_is_to_save(policy, reward_model, tmp_path):
    judge = SurpriseReward(reward_model, policy, weights=(0.5, 2.0))
    reward_model.save_pretrained(tmp_path / "reward")
    policy.save_pretrained(tmp_path / "policy")
    again = SurpriseReward(
        RewardModel.from_pretrained(tmp_path / "reward"),
        LanguagePolicy.from_pretrained(tmp_path / "policy"),
        judge.weights,
    )
    # Loaded weights begin elsewhere in a line of the cache, which moves the last bits of sums.
    torch.testing.assert_close(
        again(PROMPTS, RESPONSES), judge(PROMPTS, RESPONSES), atol=1e-6, rtol=0
    )


def test_choices_without_noise_or_of_another_form_are_refused(policy, reward_model, choices):
    judge = SurpriseReward(reward_model, policy)
    sorted_by_reward = [
        (x, a, b) if reward_model([x], [a]) > reward_model([x], [b]) else (x, b, a)
        for x, a, b in choices
        if a != b
    ]
    with pytest.raises(ValueError, match="choices that reward and surprise do not explain, got"):
        judge.fit([*sorted_by_reward, ("film .", "good .", "good .")])  # equal ones are no noise
    with pytest.raises(ValueError, match="two different responses, got none among 0"):
        judge.fit([])
    with pytest.raises(ValueError, match="two different responses, got none among 1"):
        judge.fit([("film .", "good .", "good .")])
    with pytest.raises(ValueError, match=r"must hold \(prompt, chosen, rejected\), got .* at 1"):
        judge.fit([choices[0], choices[1][:2]])
    assert judge.weights == (1.0, 0.0)


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_rewards_and_weights_that_are_not_finite_are_refused(policy, choices, odd):
    judge = SurpriseReward(lambda prompts, responses: [odd, *range(len(responses) - 1)], policy)
    with pytest.raises(ValueError, match="reward_model must give finite rewards, got NaN"):
        judge.fit(choices)
    assert judge.weights == (1.0, 0.0)
    for weights in ((1.0, odd), (1.0,), (1.0, 2.0, 3.0)):
        with pytest.raises(ValueError, match="weights must be two finite numbers, got"):
            SurpriseReward(judge, policy, weights=weights)
