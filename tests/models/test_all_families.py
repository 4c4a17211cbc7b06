"""Every family of causal language models that builds small: plain transformers is the oracle.

Each is random, with a vocabulary of words, and gets through the same three questions: are
log-probabilities those of the model itself whatever stands beside a text in a batch, does sampling
agree with reading again, and do policy and reward model come back from a folder as they were?
"""

from __future__ import annotations

import pytest
import torch
from model_families import SETTINGS, WORDS, random_policy

from rlhf_lessons.models import LanguagePolicy, RewardModel

PROMPTS = ["the film", "it", "the plot and people", ""]
RESPONSES = ["was good .", "", "bad and dull and bad .", "smile"]
# float32, sums over a few dozen numbers of size 10: other orders of the sum differ by less.
CLOSE = {"atol": 2e-5, "rtol": 0}


@pytest.fixture(scope="module", params=SETTINGS)
def policy(request) -> LanguagePolicy:
    return random_policy(request.param, WORDS, SETTINGS[request.param])


@torch.no_grad()
def alone(policy: LanguagePolicy, prompt: list[int], response: list[int]) -> torch.Tensor:
    """log π of a response's tokens, from the whole model on the one text."""
    logits = policy.model(input_ids=torch.tensor([prompt + response])).logits[0].float()
    log_probs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return log_probs.gather(1, torch.tensor(response)[:, None])[:, 0]


def test_log_probs_are_the_models_own_alone_and_in_a_batch(policy):
    batch = policy.encode(PROMPTS, RESPONSES)
    log_probs = policy.log_probs_of(batch).detach()
    for row in range(len(PROMPTS)):
        prompt = batch.prompt_tokens[row][batch.prompt_mask[row]].tolist()
        response = batch.response_tokens[row][batch.response_mask[row]].tolist()
        expected = alone(policy, prompt, response)
        torch.testing.assert_close(log_probs[row, : len(response)], expected, **CLOSE)
        (single,), _ = policy.log_probs([PROMPTS[row]], [RESPONSES[row]])
        torch.testing.assert_close(single.detach(), expected, **CLOSE)


@pytest.mark.parametrize("static_cache", [False, True])
def test_sampling_agrees_with_reading_again(policy, static_cache):
    generator = torch.Generator().manual_seed(0)
    rollout = policy.sample(PROMPTS * 4, 20, generator=generator, static_cache=static_cache)
    assert len(set(rollout.responses)) > 1
    # Mamba's state adds up the whole text, and here token by token: another order of a longer sum.
    close = {**CLOSE, "atol": 2e-4} if policy.model.config.model_type == "mamba" else CLOSE
    torch.testing.assert_close(rollout.log_probs, policy.log_probs_of(rollout).detach(), **close)


def test_policy_and_reward_model_come_back_from_a_folder(policy, tmp_path):
    policy.save_pretrained(tmp_path / "policy")
    batch = policy.encode(PROMPTS, RESPONSES)
    again = LanguagePolicy.from_pretrained(tmp_path / "policy")
    torch.testing.assert_close(again.log_probs_of(batch), policy.log_probs_of(batch), **CLOSE)

    reward_model = RewardModel.from_policy(policy)
    with torch.no_grad():
        reward_model.model.score.weight.normal_(generator=torch.Generator().manual_seed(0))
    scores = reward_model.score(PROMPTS, RESPONSES)
    with torch.no_grad():  # the head on the body's own last state, text by text
        for row in range(len(PROMPTS)):
            ids = torch.cat(
                [batch.prompt_tokens[row][batch.prompt_mask[row]],
                 batch.response_tokens[row][batch.response_mask[row]]]
            )  # fmt: skip
            state = policy.model.base_model(input_ids=ids[None]).last_hidden_state[0, -1]
            wanted = state @ reward_model.model.score.weight[0]
            torch.testing.assert_close(scores[row], wanted, atol=1e-4, rtol=1e-5)
    reward_model.save_pretrained(tmp_path / "reward")
    # With the words of this test: transformers takes some families' own tokenizer for them.
    loaded = RewardModel(RewardModel.from_pretrained(tmp_path / "reward").model, policy.tokenizer)
    torch.testing.assert_close(loaded.score(PROMPTS, RESPONSES), scores, atol=1e-5, rtol=1e-5)
