"""The reward model against a plain forward pass of transformers, text by text."""

from __future__ import annotations

import pytest
import torch

from rlhf_lessons.models import (
    LanguagePolicy,
    ResponseEmbedding,
    RewardModel,
    TokenBatch,
    TokenRewardModel,
    gpt2_body,
)
from rlhf_lessons.models.readout import as_rows
from rlhf_lessons.models.small_gpt2 import small_gpt2
from rlhf_lessons.models.tokenizer import word_tokenizer

WORDS = ("the", "film", "was", "good", "bad", "long", ".")
PROMPTS = ["the film .", "film .", "the film was long ."]
RESPONSES = ["good .", "the film was bad .", ""]


@pytest.fixture
def policy() -> LanguagePolicy:
    tokenizer = word_tokenizer(WORDS)
    model = small_gpt2(len(tokenizer), width=16, layers=2, heads=2, context=16, seed=1)
    return LanguagePolicy(model, tokenizer)


@pytest.fixture
def reward_model(policy) -> RewardModel:
    model = RewardModel.from_policy(policy)
    torch.nn.init.normal_(model.model.score.weight, generator=torch.Generator().manual_seed(0))
    return model


def oracle(policy, model, prompt, response) -> float:
    """One text at a time: ids by hand, the policy's own body, one dot product."""
    ids = [1, *(WORDS.index(word) + 4 for word in f"{prompt} {response}".split()), 2]
    hidden = policy.model.transformer(torch.tensor([ids])).last_hidden_state
    return (hidden[0, -1] @ model.model.score.weight[0]).item()


def test_score_is_the_head_at_the_end_token(policy, reward_model):
    expected = [
        oracle(policy, reward_model, *pair) for pair in zip(PROMPTS, RESPONSES, strict=True)
    ]
    assert reward_model(PROMPTS, RESPONSES).tolist() == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) == 3


def test_a_fresh_model_finds_all_even(policy):
    assert RewardModel.from_policy(policy).score(PROMPTS, RESPONSES).tolist() == [0.0] * 3


@pytest.mark.parametrize("batch_size", [1, 2, 256])
def test_batches_change_nothing(reward_model, batch_size):
    alone = [float(reward_model.score([p], [r])) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    got = reward_model.score(PROMPTS, RESPONSES, batch_size=batch_size)
    assert got.tolist() == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("groups", [2, 3, 8])
def test_groups_of_like_length_change_nothing(reward_model, groups):
    rows = reward_model.rows_of(PROMPTS, RESPONSES)
    together = reward_model.read_rows(*rows)
    torch.testing.assert_close(reward_model.read_rows(*rows, groups=groups), together)


def test_the_written_out_body_gives_the_bodys_own_numbers(reward_model, monkeypatch):
    """Values and gradients of the fast path against the body's own forward pass."""
    rows = reward_model.rows_of(PROMPTS, RESPONSES)
    assert gpt2_body.is_plain(reward_model.model)

    def values_and_gradients():
        reward_model.model.zero_grad()
        values = reward_model.read_rows(*rows)
        values.square().sum().backward()
        return values.detach(), [weight.grad.clone() for weight in reward_model.parameters()]

    fast = values_and_gradients()
    monkeypatch.setattr(gpt2_body, "is_plain", lambda model: False)
    torch.testing.assert_close(fast, values_and_gradients(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "variant",
    [{"scale_attn_by_inverse_layer_idx": True}, {"scale_attn_weights": False}],
)
def test_variants_of_gpt2_take_the_plain_way(policy, variant):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=len(policy.tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=32, **variant
    )
    model = RewardModel.from_policy(LanguagePolicy(GPT2LMHeadModel(config), policy.tokenizer))
    torch.nn.init.normal_(model.model.score.weight)
    hidden = model.model.transformer(model.rows_of(PROMPTS[:1], RESPONSES[:1])[0]).last_hidden_state
    expected = (hidden[0, -1] @ model.model.score.weight[0]).item()
    assert model(PROMPTS[:1], RESPONSES[:1]).item() == pytest.approx(expected, abs=1e-5)


def test_the_fused_activation_is_the_same_function(policy, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=len(policy.tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=32
        )
        stock = GPT2LMHeadModel(config)
    assert config.activation_function == "gelu_new"
    model = RewardModel.from_policy(LanguagePolicy(stock, policy.tokenizer))
    torch.nn.init.normal_(model.model.score.weight)
    expected = [
        oracle(LanguagePolicy(stock, policy.tokenizer), model, *pair)
        for pair in zip(PROMPTS, RESPONSES, strict=True)
    ]
    assert model(PROMPTS, RESPONSES).tolist() == pytest.approx(expected, abs=1e-5)
    assert isinstance(model.model.transformer.h[0].mlp.act, torch.nn.GELU)
    model.save_pretrained(tmp_path / "stock")
    assert '"gelu_new"' in (tmp_path / "stock" / "config.json").read_text()


def test_garbage_in_the_padding_changes_nothing(policy, reward_model):
    batch = policy.encode(PROMPTS, RESPONSES)
    noisy = TokenBatch(
        batch.prompt_tokens.where(batch.prompt_mask, 5),
        batch.prompt_mask,
        batch.response_tokens.where(batch.response_mask, 6),
        batch.response_mask,
    )
    clean = reward_model.rewards_of(batch)
    assert torch.equal(clean, reward_model.rewards_of(noisy))
    assert clean.tolist() == pytest.approx(reward_model(PROMPTS, RESPONSES).tolist(), abs=1e-5)


def test_rows_are_the_texts_without_gaps(policy):
    tokens, lengths = as_rows(policy.encode(PROMPTS, RESPONSES))
    rows = [row[:n].tolist() for row, n in zip(tokens, lengths, strict=True)]
    texts = [policy.tokenizer.decode(row, skip_special_tokens=True) for row in rows]
    assert texts == [f"{p} {r}".strip() for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    assert all(row[0] == 1 and row[-1] == 2 for row in rows)


def test_the_policy_stays_as_it_was(policy):
    before = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    state = torch.random.get_rng_state()
    model = RewardModel.from_policy(policy)
    assert torch.equal(state, torch.random.get_rng_state())
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1)
    assert all(torch.equal(before[name], w) for name, w in policy.model.state_dict().items())


def test_it_learns_although_the_policy_was_frozen(policy):
    model = RewardModel.from_policy(policy.copy())
    assert all(weight.requires_grad for weight in model.parameters())


def test_save_and_load_give_the_same_scores(reward_model, tmp_path):
    reward_model.normalise(PROMPTS, RESPONSES)
    reward_model.save_pretrained(tmp_path / "reward")
    assert [path.suffix for path in (tmp_path / "reward").glob("model*")] == [".safetensors"]
    again = RewardModel.from_pretrained(tmp_path / "reward")
    # Where weights lie in memory can change the last bit.
    torch.testing.assert_close(again(PROMPTS, RESPONSES), reward_model(PROMPTS, RESPONSES))
    assert (again.offset, again.scale) == (reward_model.offset, reward_model.scale)


def test_a_saved_model_is_a_plain_sequence_classifier(reward_model, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    reward_model.save_pretrained(tmp_path / "reward")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "reward")
    texts = [f"{p} {r} <end>" for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    with torch.no_grad():
        logits = plain(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    got = reward_model(PROMPTS, RESPONSES)
    assert logits.squeeze(-1).tolist() == pytest.approx(got.tolist(), abs=1e-5)


def test_other_architectures(tmp_path):
    """A Llama body, with rotary positions and no position table."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = word_tokenizer(WORDS)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=32,
                eos_token_id=2,
                bos_token_id=1,
                pad_token_id=0,
            )
        )
    policy = LanguagePolicy(model, tokenizer)
    reward_model = RewardModel.from_policy(policy)
    torch.nn.init.normal_(reward_model.model.score.weight)
    alone = [float(reward_model.score([p], [r])) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    assert reward_model(PROMPTS, RESPONSES).tolist() == pytest.approx(alone, abs=1e-5)
    reward_model.save_pretrained(tmp_path / "llama")
    again = RewardModel.from_pretrained(tmp_path / "llama")
    torch.testing.assert_close(again(PROMPTS, RESPONSES), reward_model(PROMPTS, RESPONSES))


def test_normalise_fixes_constant_and_unit(reward_model):
    before = reward_model(PROMPTS, RESPONSES)
    reward_model.normalise(PROMPTS, RESPONSES)
    after = reward_model(PROMPTS, RESPONSES)
    assert float(after.mean()) == pytest.approx(0, abs=1e-5)
    assert float(after.std()) == pytest.approx(1, abs=1e-5)
    assert after.argsort().tolist() == before.argsort().tolist()
    reward_model.normalise(PROMPTS, RESPONSES)  # once more changes nothing
    torch.testing.assert_close(reward_model(PROMPTS, RESPONSES), after, atol=1e-5, rtol=0)


def test_normalise_needs_a_spread(policy, reward_model):
    with pytest.raises(ValueError, match="at least two texts with different scores"):
        reward_model.normalise(PROMPTS[:1], RESPONSES[:1])
    with pytest.raises(ValueError, match="got 3 with 1 different"):
        RewardModel.from_policy(policy).normalise(PROMPTS, RESPONSES)


def test_too_long_a_response_is_named_or_cut(reward_model):
    long = " ".join(["film"] * 20)
    with pytest.raises(ValueError, match=r"context of 16 tokens, got 26 in row 1 \(1 of 2"):
        reward_model.score(PROMPTS[:2], ["good .", "good . " + long])
    cut = reward_model.score(PROMPTS[:1], ["good . " + long], truncate=True)
    other = reward_model.score(PROMPTS[:1], ["good . " + long + " bad bad"], truncate=True)
    assert torch.equal(cut, other)


def test_nan_scores_are_refused(reward_model):
    with torch.no_grad():
        reward_model.model.score.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="must be finite, got .*nan.* for response 0"):
        reward_model(PROMPTS, RESPONSES)


@pytest.mark.parametrize(
    ("prompts", "responses", "message"),
    [([], [], "at least one text"), (PROMPTS, RESPONSES[:2], "one text for each of the 3")],
)
def test_bad_texts_are_named(reward_model, prompts, responses, message):
    with pytest.raises(ValueError, match=message):
        reward_model.score(prompts, responses)


def test_a_language_model_is_no_reward_model(policy, tmp_path):
    policy.save_pretrained(tmp_path / "policy")
    with pytest.raises(ValueError, match="has no head; .* RewardModel.from_policy adds one"):
        RewardModel.from_pretrained(tmp_path / "policy")
    with pytest.raises(ValueError, match="a linear head named 'score'"):
        RewardModel(policy.model, policy.tokenizer)


def test_a_missing_or_empty_folder_is_named(tmp_path):
    with pytest.raises(OSError, match="there is no folder"):
        RewardModel.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match="must hold config.json and safetensors"):
        RewardModel.from_pretrained(tmp_path / "empty")


def test_an_embedding_has_its_dimensions(policy):
    embedding = ResponseEmbedding.from_policy(policy, 3, seed=1)
    same, other = (ResponseEmbedding.from_policy(policy, 3, seed=seed) for seed in (1, 2))
    places = embedding.embed(PROMPTS, RESPONSES)
    assert places.shape == (3, 3)
    torch.testing.assert_close(places, same.embed(PROMPTS, RESPONSES))
    assert not torch.allclose(places, other.embed(PROMPTS, RESPONSES))
    with pytest.raises(ValueError, match="dimensions must be at least 2"):
        ResponseEmbedding.from_policy(policy, 1)
    with pytest.raises(ValueError, match="one output, got 3"):
        RewardModel(embedding.model, embedding.tokenizer)


# Every token adds its own -------------------------------------------------------------------------


@pytest.fixture
def token_model(policy) -> TokenRewardModel:
    model = TokenRewardModel.from_policy(policy)
    torch.nn.init.normal_(model.model.score.weight, generator=torch.Generator().manual_seed(0))
    return model


def summed(policy, model, prompt, response) -> float:
    """One text at a time, as ``oracle``, with the dot products of all places added up."""
    ids = [1, *(WORDS.index(word) + 4 for word in f"{prompt} {response}".split()), 2]
    hidden = policy.model.transformer(torch.tensor([ids])).last_hidden_state
    return sum((state @ model.model.score.weight[0]).item() for state in hidden[0])


@pytest.mark.parametrize("plain", [True, False])
def test_the_sum_over_all_tokens_is_read(policy, token_model, plain, monkeypatch):
    monkeypatch.setattr(gpt2_body, "is_plain", lambda model: plain)
    expected = [summed(policy, token_model, *pair) for pair in zip(PROMPTS, RESPONSES, strict=True)]
    got = token_model(PROMPTS, RESPONSES)
    assert got.tolist() == pytest.approx(expected, abs=2e-5)
    assert len(set(expected)) == 3
    alone = [float(token_model([p], [r])) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    assert got.tolist() == pytest.approx(alone, abs=2e-5)


def test_each_kind_loads_its_own_and_refuses_the_other(token_model, reward_model, tmp_path):
    token_model.normalise(PROMPTS, RESPONSES)
    token_model.save_pretrained(tmp_path / "every")
    reward_model.save_pretrained(tmp_path / "last")
    again = TokenRewardModel.from_pretrained(tmp_path / "every")
    # Loaded weights begin elsewhere in a line of the cache, which moves the last bits of sums.
    torch.testing.assert_close(
        again(PROMPTS, RESPONSES), token_model(PROMPTS, RESPONSES), atol=1e-6, rtol=0
    )
    assert torch.equal(token_model.copy()(PROMPTS, RESPONSES), token_model(PROMPTS, RESPONSES))
    with pytest.raises(
        ValueError, match="RewardModel: model must read .* last token, got .* every"
    ):
        RewardModel.from_pretrained(tmp_path / "every")
    with pytest.raises(ValueError, match="TokenRewardModel: model must read .* every token, got"):
        TokenRewardModel.from_pretrained(tmp_path / "last")
