"""Every part on every family: the numbers of plain transformers, one unpadded text at a time."""

from __future__ import annotations

import itertools
import json
import math
import shutil

import pytest
import torch
from model_families import CONTEXT, FAMILIES, SPECIAL, save_family

from rlhf_lessons.evaluation import best_of_n
from rlhf_lessons.models import LanguagePolicy, RewardModel, ValueHead
from rlhf_lessons.models.response_embedding import ResponseEmbedding
from rlhf_lessons.training import (
    DPOSettings,
    PPOSettings,
    RewardSettings,
    SupervisedSettings,
    train_dpo,
    train_ppo,
    train_reward_model,
    train_sft,
)

PROMPTS = ["the film", "", "it made me smile . the plot", "x"]
RESPONSES = [" was good .", " bad", "", " göod 漢"]
EXAMPLES = [("the film was", " good"), ("the film was", " bad"), ("the plot", " was good .")]
PAIRS = [("the film was", " good", " bad"), ("the plot", " was good .", " was dull .")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root, made = tmp_path_factory.mktemp("families"), {}

    def folder(family: str):
        if family not in made:
            made[family] = save_family(family, root / family)
        return made[family]

    return folder


@pytest.fixture(params=FAMILIES)
def policy(request, folders):
    return LanguagePolicy.from_pretrained(folders(request.param))


@pytest.fixture(scope="module")
def tuned(folders):
    """A policy of each family that has learned EXAMPLES, so that it says few things and ends."""
    made = {}

    def make(family: str) -> LanguagePolicy:
        if family not in made:
            made[family] = LanguagePolicy.from_pretrained(folders(family))
            settings = SupervisedSettings(steps=40, batch_size=3, learning_rate=1e-2)
            list(train_sft(made[family], EXAMPLES, settings))
        policy = made[family].copy()
        policy.model.requires_grad_(True)
        return policy

    return make


def rows_by_hand(policy: LanguagePolicy, prompt: str, response: str) -> tuple[list[int], list[int]]:
    tokenizer = policy.tokenizer
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    text = tokenizer(prompt)["input_ids"] or [start]
    said = tokenizer(response, add_special_tokens=False)["input_ids"]
    return text, [*said, tokenizer.eos_token_id]


def log_probs_by_hand(policy: LanguagePolicy, text: list[int], said: list[int]) -> torch.Tensor:
    """One row, no padding, no mask, no cache: log π of each token of ``said`` after ``text``."""
    logits = policy.model(input_ids=torch.tensor([text + said])).logits[0].double()
    predicted = logits[len(text) - 1 : len(text) + len(said) - 1].log_softmax(-1)
    return predicted[torch.arange(len(said)), torch.tensor(said)]


@torch.no_grad()
def log_prob_by_hand(policy: LanguagePolicy, prompt: str, response: str) -> float:
    return float(log_probs_by_hand(policy, *rows_by_hand(policy, prompt, response)).sum())


# -- Sampling, log-probs, files --------------------------------------------------------------------


def test_samples_and_log_probs_are_those_of_a_plain_forward_pass(policy):
    rollout = policy.sample(PROMPTS, 10, generator=torch.Generator().manual_seed(1))
    again = policy.log_probs_of(rollout)
    texts, counted = policy.log_probs(PROMPTS, RESPONSES)
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        said = rollout.response_tokens[row][rollout.response_mask[row]].tolist()
        text, given = rows_by_hand(policy, prompt, response)
        assert rollout.prompt_tokens[row][rollout.prompt_mask[row]].tolist() == text
        exact = log_probs_by_hand(policy, text, said).float()
        assert exact.abs().max() > 1  # not an equality of zeros
        for got in (rollout.log_probs, again):  # float32 over two layers: 1e-6 is typical
            torch.testing.assert_close(got[row, : len(said)], exact, atol=1e-5, rtol=0)
        exact = log_probs_by_hand(policy, text, given).float()
        torch.testing.assert_close(texts[row][counted[row]], exact, atol=1e-5, rtol=0)


def test_a_saved_policy_is_the_same_for_plain_transformers(policy, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy.save_pretrained(tmp_path / "saved")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        assert tokenizer(prompt)["input_ids"] == policy.tokenizer(prompt)["input_ids"]
        text, said = rows_by_hand(policy, prompt, response)
        with torch.no_grad():
            ours, theirs = (
                model(input_ids=torch.tensor([text + said])).logits
                for model in (policy.model, plain)
            )
        assert torch.equal(ours, theirs)


def test_weights_are_float32_unless_told(folders, tmp_path):
    half = LanguagePolicy.from_pretrained(folders("llama"), dtype=torch.bfloat16)
    assert half.model.dtype == torch.bfloat16
    half.save_pretrained(tmp_path / "half")
    assert LanguagePolicy.from_pretrained(tmp_path / "half").model.dtype == torch.float32
    kept = LanguagePolicy.from_pretrained(tmp_path / "half", dtype="auto")
    assert kept.model.dtype == torch.bfloat16
    RewardModel.from_policy(kept).save_pretrained(tmp_path / "reward")
    assert RewardModel.from_pretrained(tmp_path / "reward").model.dtype == torch.float32


def test_texts_survive_the_tokens(policy):
    for response in (" was good .", " göod 漢", " two  spaces"):
        tokens = policy.encode(["the film"], [response], end=False).response_tokens[0].tolist()
        text = policy.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        # Pieces with "▁" hold one space before every text, and leave it out when it comes back.
        assert text in (response, response[1:])
        again = policy.encode(["the film"], [text], end=False).response_tokens[0].tolist()
        assert again == tokens


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_what_a_chat_template_writes_is_a_prompt(folders, family):
    policy = LanguagePolicy.from_pretrained(folders(family))
    tokenizer = policy.tokenizer
    chats = [
        [{"role": "user", "content": "was it good"}],
        [
            {"role": "user", "content": "the film"},
            {"role": "assistant", "content": "was bad"},
            {"role": "user", "content": "the plot"},
        ],
    ]
    prompts = [
        tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        for chat in chats
    ]
    batch = policy.encode(prompts)
    for row, chat in enumerate(chats):
        # transformers' own way from messages to tokens
        right = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)
        assert batch.prompt_tokens[row][batch.prompt_mask[row]].tolist() == right["input_ids"]
    if family == "llama":
        assert all(text.startswith("<s>") for text in prompts)
        assert (batch.prompt_tokens == tokenizer.bos_token_id).sum(1).tolist() == [1, 1]


def test_a_start_token_that_the_user_doubles_stays_where_the_tokenizer_adds_none(folders):
    policy = LanguagePolicy.from_pretrained(folders("gpt2"))
    text = policy.tokenizer.bos_token * 2 + "the"
    assert policy.encode([text]).prompt_tokens[0, :2].tolist() == [policy.end_token_id] * 2


def test_tokens_without_a_text_are_never_drawn_and_keep_their_probability(folders):
    policy = LanguagePolicy.from_pretrained(folders("qwen2"))
    known = len(policy.tokenizer)
    assert policy.vocabulary_size > known
    head = policy.model.get_output_embeddings().weight
    with torch.no_grad():
        head[known:] *= 3  # so that they are among the likeliest
    for temperature in (1.0, 1e-6):
        rollout = policy.sample(
            [""] * 64, 8, temperature, generator=torch.Generator().manual_seed(0)
        )
        mask = rollout.response_mask
        assert (rollout.response_tokens[mask] < known).all()
        # π itself is the model's, as plain transformers gives it.
        tokens = torch.cat([rollout.prompt_tokens, rollout.response_tokens], 1)
        with torch.no_grad():
            plain = policy.model(tokens).logits.log_softmax(-1)[:, :-1]
        wanted = plain.gather(2, tokens[:, 1:, None])[:, -mask.shape[1] :, 0].masked_fill(~mask, 0)
        torch.testing.assert_close(rollout.log_probs, wanted, atol=1e-5, rtol=0)
        torch.testing.assert_close(policy.log_probs_of(rollout), wanted, atol=1e-5, rtol=0)
        assert plain[..., known:].exp().sum(-1).max() > 0.1


# -- Each loop moves what it should ----------------------------------------------------------------


def test_one_step_of_fine_tuning_makes_the_examples_likelier(policy):
    before = [log_prob_by_hand(policy, *example) for example in EXAMPLES]
    tokens = sum(len(rows_by_hand(policy, *example)[1]) for example in EXAMPLES)
    settings = SupervisedSettings(steps=1, batch_size=3, learning_rate=1e-3, warmup=0)
    (step,) = train_sft(policy, EXAMPLES, settings)
    assert step.loss == pytest.approx(-sum(before) / tokens, rel=1e-5)
    assert sum(log_prob_by_hand(policy, *example) for example in EXAMPLES) > sum(before)


def test_one_step_of_dpo_widens_the_margin(policy):
    def margin() -> float:
        likely = {(p, y): log_prob_by_hand(policy, p, y) for p, *ys in PAIRS for y in ys}
        return sum(likely[p, chosen] - likely[p, rejected] for p, chosen, rejected in PAIRS)

    before = margin()
    settings = DPOSettings(steps=1, batch_size=2, learning_rate=1e-3, warmup=0)
    (step,) = train_dpo(policy, PAIRS, settings)
    assert step.loss == pytest.approx(math.log(2), abs=1e-5)
    assert margin() > before


def test_a_reward_model_learns_its_pairs_and_scores_like_transformers(policy, tmp_path):
    from transformers import AutoModelForSequenceClassification

    reward_model = RewardModel.from_policy(policy)
    settings = RewardSettings(steps=8, batch_size=2, learning_rate=3e-3, warmup=0)
    first, *_, last = train_reward_model(reward_model, PAIRS, settings)
    assert first.loss == pytest.approx(math.log(2), abs=1e-6) and last.loss < first.loss
    prompts, chosen, rejected = map(list, zip(*PAIRS, strict=True))
    assert (reward_model(prompts, chosen) > reward_model(prompts, rejected)).all()

    reward_model.save_pretrained(tmp_path / "saved")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    for judge in (reward_model, RewardModel.from_pretrained(tmp_path / "saved")):
        scores = judge(PROMPTS, RESPONSES)
        for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
            text, said = rows_by_hand(policy, prompt, response)
            with torch.no_grad():
                hidden = plain.base_model(input_ids=torch.tensor([text + said])).last_hidden_state
                exact = hidden[0, -1] @ plain.score.weight[0]
            assert float(scores[row]) == pytest.approx(float(exact), abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_ppo_makes_likelier_what_its_judge_likes(tuned, family):
    policy = tuned(family)
    prompt = "the film was"
    good, bad = (log_prob_by_hand(policy, prompt, word) for word in (" good", " bad"))

    def judge(prompts, responses):
        return [1.0 if "good" in response else 0.0 for response in responses]

    settings = PPOSettings(
        cycles=2, batch_size=16, max_new_tokens=6, epochs=2, learning_rate=1e-3, beta=0.01
    )
    first, _ = train_ppo(policy, [prompt], judge, settings)
    assert first.kl == pytest.approx(0, abs=1e-4)  # the reference is the policy itself
    assert log_prob_by_hand(policy, prompt, " good") > good
    assert log_prob_by_hand(policy, prompt, " bad") < bad


@pytest.mark.parametrize("family", FAMILIES)
def test_best_of_n_keeps_what_its_judge_likes(tuned, family):
    policy = tuned(family)

    def judge(prompts, responses):
        return [-len(response) for response in responses]

    generator = torch.Generator().manual_seed(0)
    result = best_of_n(policy, PROMPTS, judge, 4, max_new_tokens=6, generator=generator)
    for best, candidates in zip(result.responses, result.candidates, strict=True):
        assert len(candidates) == 4 and len(best) == min(map(len, candidates))
    # without max_new_tokens: what the context leaves
    assert best_of_n(policy, ["the film"], judge, 2, generator=generator).responses


def test_the_end_token_of_a_reward_model_learns_where_it_stands_in_for_padding(folders):
    policy = LanguagePolicy.from_pretrained(folders("llama"))
    reward_model = RewardModel.from_policy(policy)
    torch.nn.init.ones_(reward_model.model.score.weight)
    assert policy.pad_token_id == policy.end_token_id
    reward_model.rewards_of(policy.encode(["the"], [" film"])).sum().backward()
    words = reward_model.model.get_input_embeddings().weight
    assert words.grad[policy.end_token_id].abs().max() > 0


def test_values_are_read_where_the_logits_come_from(policy):
    head = ValueHead(policy)
    torch.nn.init.normal_(head.linear.weight, generator=torch.Generator().manual_seed(0))
    batch = policy.encode(PROMPTS, RESPONSES)
    with torch.no_grad():
        logits, values = head(batch)
        for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
            text, said = rows_by_hand(policy, prompt, response)
            hidden = policy.model.base_model(input_ids=torch.tensor([text + said]))
            hidden = hidden.last_hidden_state[0, len(text) - 1 : -1]
            exact = hidden @ head.linear.weight[0]
            torch.testing.assert_close(values[row, : len(said)], exact, atol=1e-5, rtol=0)
            exact = policy.model.get_output_embeddings()(hidden)
            torch.testing.assert_close(logits[row, : len(said)], exact, atol=1e-4, rtol=1e-5)


def test_an_embedding_of_responses_has_its_axes(policy):
    places = ResponseEmbedding.from_policy(policy, 3).embed(PROMPTS, RESPONSES)
    assert places.shape == (4, 3) and places.isfinite().all()


# -- What is refused -------------------------------------------------------------------------------


def edited(source, target, **changes):
    """Copy a saved model and change its config.json."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | changes))
    return target


def test_a_reward_model_is_no_policy(folders, tmp_path):
    for family in ("gpt2", "llama"):  # with one matrix for words in and out, and with two
        reward_model = RewardModel.from_policy(LanguagePolicy.from_pretrained(folders(family)))
        reward_model.save_pretrained(tmp_path / family)
        with pytest.raises(
            ValueError, match="from_pretrained: .* got a checkpoint of .*ForSequence"
        ):
            LanguagePolicy.from_pretrained(tmp_path / family)


def test_other_kinds_of_models_are_no_policy(folders, tmp_path):
    from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

    sizes = {"vocab_size": 400, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = BertConfig(hidden_size=16, intermediate_size=16, **sizes)
    t5 = T5Config(vocab_size=400, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    for name, model, message in (
        ("bert", BertForMaskedLM(bert), "got a checkpoint of BertForMaskedLM"),
        ("t5", T5ForConditionalGeneration(t5), "AutoModelForCausalLM loads, got Unrecognized"),
    ):
        model.save_pretrained(tmp_path / name)
        for path in folders("gpt2").glob("tokenizer*"):
            shutil.copy(path, tmp_path / name)
        with pytest.raises(ValueError, match=f"LanguagePolicy.from_pretrained: .*{message}"):
            LanguagePolicy.from_pretrained(tmp_path / name)


def test_weights_of_another_model_are_no_policy(folders, tmp_path):
    llama = folders("llama")
    deeper = edited(llama, tmp_path / "deeper", num_hidden_layers=3)
    with pytest.raises(ValueError, match="none for model.layers.2.* and 8 others; .* random"):
        LanguagePolicy.from_pretrained(deeper)
    wider = edited(llama, tmp_path / "wider", hidden_size=64)
    with pytest.raises(
        ValueError, match="LanguagePolicy.from_pretrained: .*wider must hold a model"
    ):
        LanguagePolicy.from_pretrained(wider)
    body = edited(llama, tmp_path / "body", architectures=["LlamaModel"])
    assert LanguagePolicy.from_pretrained(body).vocabulary_size > 0  # the head is there


def test_a_reward_model_needs_its_own_weights(folders, tmp_path):
    name = "LlamaForSequenceClassification"
    lying = edited(folders("llama"), tmp_path / "lying", architectures=[name], num_labels=1)
    with pytest.raises(ValueError, match="RewardModel.from_pretrained: .*none for score.weight"):
        RewardModel.from_pretrained(lying)


def test_a_reward_model_in_pickle_is_refused(folders, tmp_path):
    policy = LanguagePolicy.from_pretrained(folders("gpt2"))
    RewardModel.from_policy(policy).save_pretrained(tmp_path / "saved")
    weights = tmp_path / "saved" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(OSError, match="safetensors weights, got .*pytorch_model.bin"):
        RewardModel.from_pretrained(tmp_path / "saved")


def test_a_vocabulary_without_an_end_token_is_told(folders, tmp_path):
    folder = edited(folders("gpt_neox"), tmp_path / "endless", eos_token_id=None)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast"}
    del settings["eos_token"], settings["bos_token"], settings["unk_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="must have an end token.*tokenizer.eos_token = "):
        LanguagePolicy.from_pretrained(folder)


def test_nan_weights_are_told_wherever_they_are_read(folders):
    policy = LanguagePolicy.from_pretrained(folders("qwen2"))
    token = policy.tokenizer(" good", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():  # tied weights: only texts with this word, or its logit, break
        policy.model.get_input_embeddings().weight[token] = math.nan
    for call in (
        lambda: policy.log_probs(["the"], [" film"]),
        lambda: policy.next_token_logits(["the"]),
    ):
        with pytest.raises(FloatingPointError, match="must give finite logits, got .* in row 0"):
            call()
    with pytest.raises(FloatingPointError, match="sample: .* at step 0 in row 0"):
        policy.sample(["the"], 2)


@pytest.mark.parametrize("method", ["log_probs_of", "logits_of"])
def test_what_is_no_batch_is_told(folders, method):
    policy = LanguagePolicy.from_pretrained(folders("gpt2"))
    with pytest.raises(TypeError, match=f"{method}: batch must be a TokenBatch, .* got str"):
        getattr(policy, method)("x")


def test_what_is_no_path_is_told(folders):
    policy = LanguagePolicy.from_pretrained(folders("gpt2"))
    with pytest.raises(TypeError, match="save_pretrained: path must be a str or a path, got None"):
        policy.save_pretrained(None)
    with pytest.raises(TypeError, match="from_pretrained: name_or_path must be a str .* got 3"):
        LanguagePolicy.from_pretrained(3)


def test_the_families_are_as_described(folders):
    policies = {family: LanguagePolicy.from_pretrained(folders(family)) for family in FAMILIES}
    assert all(policy.context_length == CONTEXT for policy in policies.values())
    ends = {family: policy.tokenizer.eos_token for family, policy in policies.items()}
    assert all(end in SPECIAL[family] for family, end in ends.items())
    assert policies["gpt2"].tokenizer.pad_token is None
    opt, llama = policies["opt"], policies["llama"]
    assert opt.encode(["the"]).prompt_tokens[0, 0] == opt.end_token_id
    assert llama.encode(["the"]).prompt_tokens[0, 0] == llama.tokenizer.bos_token_id
    assert opt.model.get_output_embeddings().in_features < opt.model.config.hidden_size
    for one, other in itertools.combinations(policies.values(), 2):
        assert type(one.model) is not type(other.model)
