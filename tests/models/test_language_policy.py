"""The policy against slow oracles: one row at a time, no cache, every logit computed."""

from __future__ import annotations

import copy
import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)

from rlhf_lessons.models import LanguagePolicy, Rollout, TokenBatch

CONTEXT = 48
FAMILIES = ["gpt2", "llama", "qwen2", "opt", "gpt_neox", "bloom", "mamba"]
PROMPTS = ["the film", "", "it made me smile . the plot was good", "x"]


def byte_tokenizer():
    """Byte-level BPE with an end token and no padding token, like GPT-2's."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the film was good . it made me smile"] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


def words_with_start():
    """Whole words; every text is given a start token."""
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<start>", "<end>", "<unk>", "the", "film", "was", "good", "bad", "."]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A", special_tokens=[("<start>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<start>",
        eos_token="<end>",
        unk_token="<unk>",
    )


def random_model(family: str, vocabulary: int, seed: int = 0):
    from transformers import AutoConfig, AutoModelForCausalLM

    # The embedding of `pad_token_id` is zero in some families: not a token of the tests' prompts.
    common = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 3}
    if family == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": CONTEXT}
    elif family == "opt":
        sizes = {"hidden_size": 32, "ffn_dim": 64, "word_embed_proj_dim": 32}
        sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2}
        sizes |= {"max_position_embeddings": CONTEXT}
    elif family == "bloom":
        sizes = {"hidden_size": 32, "n_layer": 2, "n_head": 2}
    elif family == "mamba":
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
    else:
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        sizes |= {"num_attention_heads": 4, "max_position_embeddings": CONTEXT}
        if family == "qwen2":
            sizes["num_key_value_heads"] = 2
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **common, **sizes))
    with torch.no_grad():  # a fresh model is near uniform; make it have opinions
        for parameter in model.parameters():
            if parameter.ndim == 2 and family != "mamba":
                parameter.mul_(4)
    return model


@pytest.fixture(scope="module")
def policies():
    tokenizer = byte_tokenizer()
    made = {}

    def make(family: str) -> LanguagePolicy:
        if family not in made:
            made[family] = LanguagePolicy(random_model(family, len(tokenizer)), tokenizer)
        return made[family]

    return make


@pytest.fixture(scope="module")
def words():
    tokenizer = words_with_start()
    return LanguagePolicy(random_model("gpt2", len(tokenizer), seed=3), tokenizer)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def slow_log_probs(policy: LanguagePolicy, batch: TokenBatch) -> torch.Tensor:
    """One row at a time, nothing padded, the whole text again for every token."""
    out = torch.zeros(batch.response_tokens.shape)
    for row in range(len(out)):
        text = batch.prompt_tokens[row][batch.prompt_mask[row]].tolist()
        for t in range(int(batch.response_mask[row].sum())):
            token = int(batch.response_tokens[row, t])
            logits = policy.model(input_ids=torch.tensor([text])).logits[0, -1]
            out[row, t] = logits.log_softmax(-1)[token]
            text.append(token)
    return out


# -- Sampled and recomputed log-probs agree --------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kw", [{}, {"temperature": 0.6, "top_k": 50, "top_p": 0.9}], ids=str)
def test_sampled_log_probs_equal_a_fresh_forward_pass(policies, family, kw):
    policy = policies(family)
    rollout = policy.sample(PROMPTS, 10, generator=seeded(1), **kw)
    slow = slow_log_probs(policy, rollout)
    torch.testing.assert_close(rollout.log_probs, slow, atol=1e-5, rtol=0)
    torch.testing.assert_close(policy.log_probs_of(rollout), slow, atol=1e-5, rtol=0)
    assert slow.abs().max() > 1  # not an equality of zeros


@pytest.mark.parametrize("family", FAMILIES)
def test_low_temperature_is_the_argmax_of_a_naive_loop(policies, family):
    policy = policies(family)
    rollout = policy.sample(PROMPTS, 8, temperature=1e-8, generator=seeded(0))
    for row, prompt in enumerate(PROMPTS):
        text = policy.tokenizer(prompt)["input_ids"] or [policy.end_token_id]
        expected = []
        while len(expected) < 8 and policy.end_token_id not in expected:
            with torch.no_grad():
                logits = policy.model(input_ids=torch.tensor([text + expected])).logits
            expected.append(int(logits[0, -1].argmax()))
        got = rollout.response_tokens[row][rollout.response_mask[row]].tolist()
        assert got == expected


@pytest.mark.parametrize("kw", [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.7}], ids=str)
def test_sampled_frequencies_are_the_probabilities(words, kw):
    n = 4000
    logits = words.next_token_logits(["the film"])[0] / kw.get("temperature", 1.0)
    exact = logits.softmax(-1).tolist()
    order = sorted(range(len(exact)), key=lambda token: -exact[token])
    if "top_k" in kw:
        order = order[: kw["top_k"]]
    if "top_p" in kw:  # the fewest that reach it
        total, count = 0.0, 0
        while total < kw["top_p"]:
            total, count = total + exact[order[count]], count + 1
        order = order[:count]
    kept = sum(exact[token] for token in order)
    rollout = words.sample(["the film"] * n, 1, generator=seeded(5), **kw)
    counts = torch.bincount(rollout.response_tokens[:, 0], minlength=len(exact)).tolist()
    assert sum(counts[token] for token in order) == n, "a token that was cut has been drawn"
    expected = {token: n * exact[token] / kept for token in order}
    chi_square = sum((counts[t] - e) ** 2 / e for t, e in expected.items() if e >= 5)
    freedom = sum(e >= 5 for e in expected.values()) - 1
    assert freedom >= 1
    # (χ²/k)^⅓ is close to normal with mean 1 − 2/(9k) and variance 2/(9k) (Wilson and Hilferty):
    # 3.1 deviations, one fair sample in 1,000.
    spread = 2 / (9 * freedom)
    assert (chi_square / freedom) ** (1 / 3) < 1 - spread + 3.1 * math.sqrt(spread)


def test_a_row_does_not_depend_on_when_the_others_end(words):
    """Rows that have ended are dropped from the cache; the others must not notice."""
    prompts = ["the film was", "bad", "good . the", "film"] * 6
    rollout = words.sample(prompts, 30, generator=seeded(2))
    lengths = rollout.response_mask.sum(1)
    assert lengths.min() < 5 < 25 < lengths.max(), "the test needs responses of many lengths"
    torch.testing.assert_close(rollout.log_probs, slow_log_probs(words, rollout), atol=1e-5, rtol=0)
    # Draws of step t for row b are uniforms[t, b] whatever has ended: a naive loop repeats them.
    uniforms = torch.rand((30, len(prompts)), generator=seeded(2))
    for row in (0, 1, 2, 3, 21):
        text = words.tokenizer(prompts[row])["input_ids"]
        for t in range(int(lengths[row])):
            with torch.no_grad():
                p = words.model(input_ids=torch.tensor([text])).logits[0, -1].softmax(-1)
            token = int((p.double().cumsum(0) <= uniforms[t, row]).sum())
            assert token == int(rollout.response_tokens[row, t])
            text.append(token)


# -- Shapes, masks, text ---------------------------------------------------------------------------


def test_rollout_is_laid_out_as_promised(words):
    prompts = ["the film", "the", "bad film was good"] * 8
    rollout = words.sample(prompts, 12, generator=seeded(4))
    assert isinstance(rollout, Rollout) and isinstance(rollout, TokenBatch)
    assert rollout.prompts == tuple(prompts)
    assert rollout.finished.any() and not rollout.finished.all()
    start = words.tokenizer.bos_token_id
    for row in range(len(prompts)):
        mask = rollout.response_mask[row]
        tokens = rollout.response_tokens[row]
        n = int(mask.sum())
        assert mask.tolist() == [True] * n + [False] * (len(mask) - n)
        ends = (tokens[:n] == words.end_token_id).tolist()
        assert ends == [False] * (n - 1) + [bool(rollout.finished[row])]
        assert rollout.finished[row] or n == 12
        assert (tokens[n:] == words.pad_token_id).all()
        assert (rollout.log_probs[row, n:] == 0).all()
        assert (rollout.log_probs[row, :n] < 0).all()
        prompt = rollout.prompt_tokens[row][rollout.prompt_mask[row]].tolist()
        assert prompt[0] == start and prompt == words.tokenizer(prompts[row])["input_ids"]
        vocabulary = words.tokenizer.convert_ids_to_tokens(tokens[:n].tolist())
        special = words.tokenizer.all_special_tokens
        said = [word for word in vocabulary if word not in special]
        assert rollout.responses[row].split() == said


def test_sampling_stops_when_every_row_has_ended(words):
    rollout = words.sample(["good"] * 4, 30, generator=seeded(0))
    longest = int(rollout.response_mask.sum(1).max())
    assert rollout.response_tokens.shape == (4, longest)


def test_same_generator_state_same_rollout(words):
    one, same, other = (words.sample(PROMPTS, 12, generator=seeded(s)) for s in (7, 7, 8))
    for field in dataclasses.fields(Rollout):
        a, b = getattr(one, field.name), getattr(same, field.name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    assert one.responses != other.responses
    torch.manual_seed(3)
    first = words.sample(PROMPTS, 5)
    assert first.responses != words.sample(PROMPTS, 5).responses
    torch.manual_seed(3)
    assert first.responses == words.sample(PROMPTS, 5).responses


def test_columns_of_one_draw_can_be_shared_out(words):
    """Two halves say what the whole says, and the whole what a generator says."""
    prompts = ["the film was", "bad", "good . the", "film"]
    whole = words.sample(prompts, 12, generator=seeded(7))
    uniforms = torch.rand((12, 4), generator=seeded(7))
    assert words.sample(prompts, 12, uniforms=uniforms).responses == whole.responses
    halves = [
        words.sample(prompts[rows], 12, uniforms=uniforms[:, rows]).responses
        for rows in (slice(0, 2), slice(2, 4))
    ]
    assert halves[0] + halves[1] == whole.responses
    zeros = words.sample(["film"] * 2, 3, uniforms=torch.zeros(3, 2))
    assert zeros.responses[0] == zeros.responses[1]


@pytest.mark.parametrize(
    ("uniforms", "message"),
    [
        (torch.rand(2, 4), r"shape \(max_new_tokens, B\) = \(4, 2\), got \(2, 4\)"),
        (torch.zeros(4, 2, dtype=torch.long), "of torch.int64"),
        (torch.full((4, 2), 1.0), r"in \[0, 1\), got numbers from 1 to 1"),
        (torch.full((4, 2), float("nan")), r"in \[0, 1\)"),
    ],
)
def test_numbers_that_are_no_draws_are_refused(words, uniforms, message):
    with pytest.raises(ValueError, match=f"sample: uniforms must be .*{message}"):
        words.sample(["the film"] * 2, 4, uniforms=uniforms)


def test_two_sources_of_randomness_are_refused(words):
    with pytest.raises(ValueError, match="uniforms stand in the place of a generator, got both"):
        words.sample(["film"], 4, uniforms=torch.rand(4, 1), generator=seeded(0))


def test_a_generator_moves_on(words):
    generator = seeded(1)
    first = words.sample(PROMPTS, 8, generator=generator)
    assert first.responses != words.sample(PROMPTS, 8, generator=generator).responses


def test_encode_adds_start_and_end(words):
    batch = words.encode(["", "the film"], ["was good", ""])
    assert batch.prompt_tokens.tolist() == [[0, 0, 1], [1, 4, 5]]
    assert batch.prompt_mask.tolist() == [[False, False, True], [True, True, True]]
    assert batch.response_tokens.tolist() == [[6, 7, 2], [2, 0, 0]]
    assert batch.response_mask.tolist() == [[True] * 3, [True, False, False]]
    open_ended = words.encode(["", "the film"], ["was good", ""], end=False)
    assert open_ended.response_mask.tolist() == [[True, True], [False, False]]
    alone = words.encode(["the"])
    assert alone.response_tokens.shape == (1, 0)
    assert words.logits_of(alone).shape == (1, 0, 10)


def test_an_empty_prompt_is_the_end_token_where_there_is_no_start_token(policies):
    policy = policies("gpt2")
    assert policy.tokenizer.bos_token_id is None and policy.tokenizer.pad_token_id is None
    assert policy.pad_token_id == policy.end_token_id
    assert policy.encode([""]).prompt_tokens.tolist() == [[policy.end_token_id]]


def test_a_tokenizer_that_ends_every_text_does_not_end_the_prompt():
    tokenizer = words_with_start()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    policy = LanguagePolicy(random_model("gpt2", len(tokenizer)), tokenizer)
    batch = policy.encode(["the film", ""], ["was", ""])
    assert batch.prompt_tokens.tolist() == [[1, 4, 5], [0, 0, 1]]
    assert batch.response_tokens.tolist() == [[6, 2], [2, 0]]


def test_bytes_of_a_response_come_back(policies):
    policy = policies("gpt2")
    text = " was good . ünïcode  spaces"
    ids = policy.encode(["it"], [text], end=False).response_tokens[0].tolist()
    assert policy.tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_log_probs_of_texts(words):
    prompts, responses = ["the film", "the"], ["was bad .", ""]
    log_probs, mask = words.log_probs(prompts, responses)
    assert mask.tolist() == [[True] * 4, [True, False, False, False]]
    batch = words.encode(prompts, responses)
    torch.testing.assert_close(log_probs, slow_log_probs(words, batch), atol=1e-5, rtol=0)
    logits = words.logits_of(batch)
    assert logits.shape == (2, 4, 10)
    torch.testing.assert_close(logits[:, 0], words.next_token_logits(prompts), atol=1e-5, rtol=0)


def test_gradient_reaches_every_weight_and_not_the_padding(words):
    log_probs, mask = words.log_probs(["the film", "good"], ["was bad", ""])
    log_probs.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in words.parameters())
    words.model.zero_grad()
    assert not words.next_token_logits(["the"]).requires_grad
    assert not words.sample(["the"], 2).log_probs.requires_grad


def test_dropout_stays_off_while_training():
    tokenizer = words_with_start()
    model = random_model("gpt2", len(tokenizer))
    model.config.attn_pdrop = model.config.resid_pdrop = 0.5
    policy = LanguagePolicy(model.train(), tokenizer)
    assert not policy.model.training
    one, _ = policy.log_probs(["the"], ["film was"])
    two, _ = policy.log_probs(["the"], ["film was"])
    assert torch.equal(one, two)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_padding_changes_nothing(words, data):
    """More padding, or any garbage in it, leaves every log-prob as it was."""
    text = st.lists(st.sampled_from(["the", "film", "good", "."]), max_size=6).map(" ".join)
    pairs = data.draw(st.lists(st.tuples(text, text), min_size=1, max_size=4))
    left, right = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4))
    garbage = data.draw(st.sampled_from([-100, 0, 5, 10**6]))
    batch = words.encode([p for p, _ in pairs], [r for _, r in pairs])

    def widened(values: torch.Tensor, before: int, after: int, fill) -> torch.Tensor:
        return torch.nn.functional.pad(values, (before, after), value=fill)

    prompt_mask = widened(batch.prompt_mask, left, 0, False)
    response_mask = widened(batch.response_mask, 0, right, False)
    wider = TokenBatch(
        widened(batch.prompt_tokens, left, 0, 0).masked_fill(~prompt_mask, garbage),
        prompt_mask,
        widened(batch.response_tokens, 0, right, 0).masked_fill(~response_mask, garbage),
        response_mask,
    )
    count = batch.response_mask.shape[1]
    with torch.no_grad():
        before, after = words.log_probs_of(batch), words.log_probs_of(wider)
    torch.testing.assert_close(after[:, :count], before, atol=1e-5, rtol=0)
    assert (after[:, count:] == 0).all()


def test_half_precision_gives_float32_and_double_gives_double():
    tokenizer = words_with_start()
    half = LanguagePolicy(random_model("gpt2", 10).bfloat16(), tokenizer)
    rollout = half.sample(["the", "the film"], 4, generator=seeded(0))
    assert rollout.log_probs.dtype == half.log_probs_of(rollout).dtype == torch.float32
    double = LanguagePolicy(random_model("gpt2", 10).double(), tokenizer)
    rollout = double.sample(["the", "the film"], 4, generator=seeded(0))
    assert rollout.log_probs.dtype == torch.float64
    torch.testing.assert_close(rollout.log_probs, double.log_probs_of(rollout), atol=1e-12, rtol=0)


def test_adapters_that_hide_the_signature_still_get_positions(words):
    class Adapter(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model, self.config = model, model.config

        def get_base_model(self):
            return self.model

        def get_input_embeddings(self):
            return self.model.get_input_embeddings()

        def forward(self, input_ids, **kwargs):
            return self.model(input_ids=input_ids, **kwargs)

    adapted = LanguagePolicy(Adapter(words.model), words.tokenizer)
    batch = words.encode(["the", "the film was"], ["good", "bad"])
    torch.testing.assert_close(
        adapted.log_probs_of(batch), slow_log_probs(words, batch), atol=1e-5, rtol=0
    )


# -- Copies and files ------------------------------------------------------------------------------


def test_copy_is_frozen_and_apart(words):
    reference = words.copy()
    batch = words.encode(["the"], ["film"])
    before = reference.log_probs_of(batch)
    assert not before.requires_grad
    assert all(p.requires_grad for p in words.parameters())
    mine = dict(words.model.named_parameters())
    for name, parameter in reference.model.named_parameters():
        assert parameter.data_ptr() != mine[name].data_ptr()
        assert torch.equal(parameter, mine[name])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_saved_policy_comes_back(policies, family, tmp_path):
    policy = policies(family)
    folder = tmp_path / "new" / "policy"
    policy.save_pretrained(folder)
    assert {path.name for path in folder.parent.iterdir()} == {"policy"}
    assert any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin"))
    again = LanguagePolicy.from_pretrained(folder)
    batch = policy.encode(PROMPTS, PROMPTS)
    assert torch.equal(again.encode(PROMPTS, PROMPTS).prompt_tokens, batch.prompt_tokens)
    torch.testing.assert_close(again.log_probs_of(batch), policy.log_probs_of(batch))


def test_saving_again_replaces_weights_and_keeps_notes(words, tmp_path):
    folder = tmp_path / "policy"
    words.save_pretrained(folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"stale")
    (folder / "run").mkdir()
    other = words.copy()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other.save_pretrained(folder)
    assert (folder / "notes.txt").read_text() == "mine" and (folder / "run").is_dir()
    assert not (folder / "model-00001-of-00002.safetensors").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"policy"}
    saved = LanguagePolicy.from_pretrained(folder)
    for mine, theirs in zip(saved.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def snapshot(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_full_disk_leaves_the_old_checkpoint(words, tmp_path):
    import resource

    folder = tmp_path / "policy"
    words.save_pretrained(folder)
    before = snapshot(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))  # less than the weights take
    try:
        with pytest.raises(OSError, match="could not write .*policy: .*unchanged"):
            words.save_pretrained(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("broken", ["mkdir", "tokenizer", "first rename", "second rename"])
def test_a_failure_at_any_point_leaves_the_old_checkpoint(words, tmp_path, monkeypatch, broken):
    folder = tmp_path / "policy"
    words.save_pretrained(folder)
    before = snapshot(tmp_path)
    error = OSError(30, "Read-only file system")

    def fail(*args, **kw):
        raise error

    import os
    import pathlib

    rename, calls = os.rename, []

    def rename_failing(source, target):
        calls.append(source)
        if len(calls) == (1 if broken == "first rename" else 2):
            raise error
        rename(source, target)

    if broken == "mkdir":
        monkeypatch.setattr(pathlib.Path, "mkdir", fail)
    elif broken == "tokenizer":
        monkeypatch.setattr(words.tokenizer, "save_pretrained", fail)
    else:
        monkeypatch.setattr(os, "rename", rename_failing)
    with pytest.raises(OSError, match="policy: .*Read-only file system.*unchanged"):
        words.save_pretrained(folder)
    monkeypatch.undo()
    assert snapshot(tmp_path) == before


def test_other_peoples_folders_are_left_alone(words, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="save_pretrained: path must be a new folder"):
        words.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="path must be a folder, got the file"):
        words.save_pretrained(tmp_path / "thesis.tex")
    assert snapshot(tmp_path) == {"thesis.tex": b"years of work"}


def test_weights_that_are_cut_off_are_told(words, tmp_path):
    words.save_pretrained(tmp_path / "p")
    weights = tmp_path / "p" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(OSError, match="from_pretrained: could not load '.*p': .*deserializ"):
        LanguagePolicy.from_pretrained(tmp_path / "p")


def test_a_folder_without_a_tokenizer_is_told(words, tmp_path):
    words.save_pretrained(tmp_path / "p")
    for path in (tmp_path / "p").glob("tokenizer*"):
        path.unlink()
    with pytest.raises(OSError, match="from_pretrained: .*p must hold a tokenizer"):
        LanguagePolicy.from_pretrained(tmp_path / "p")


def test_pickled_weights_are_refused(words, tmp_path):
    words.save_pretrained(tmp_path / "p")
    (tmp_path / "p" / "model.safetensors").rename(tmp_path / "p" / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors weights, got pytorch_model.bin"):
        LanguagePolicy.from_pretrained(tmp_path / "p")


def test_what_cannot_be_loaded_says_what_to_do(tmp_path):
    with pytest.raises(OSError, match="no config.json there"):
        LanguagePolicy.from_pretrained(tmp_path)
    with pytest.raises(OSError, match="there is no folder .*missing.*load_policy"):
        LanguagePolicy.from_pretrained(tmp_path / "missing")
    with pytest.raises(OSError, match="could not load 'nobody/nothing'.*Without a network"):
        LanguagePolicy.from_pretrained("nobody/nothing", local_files_only=True)


# -- What is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompts", "error", "message"),
    [
        ([], ValueError, "prompts must hold at least one text, got an empty list"),
        ("the film", TypeError, "prompts must be a list of str, got the single str 'the film'"),
        (["the", 3], TypeError, "prompts must be a list of str, got int at 1"),
        (7, TypeError, "prompts must be a list of str, got int"),
        (["the " * 60], ValueError, "context of 48 tokens, got .*prompt 0 has 61 tokens"),
    ],
)
@pytest.mark.parametrize("method", ["sample", "encode", "next_token_logits"])
def test_bad_prompts(words, method, prompts, error, message):
    call = getattr(words, method)
    with pytest.raises(error, match=f"^{method}: .*{message}"):
        call(prompts, 4) if method == "sample" else call(prompts)


@pytest.mark.parametrize(
    ("kw", "message"),
    [
        ({"temperature": 0.0}, "temperature must be a finite number > 0, got 0.0"),
        ({"temperature": -1.0}, "temperature .* got -1.0"),
        ({"temperature": math.nan}, "temperature .* got nan"),
        ({"temperature": math.inf}, "temperature .* got inf"),
        ({"temperature": None}, "temperature .* got None"),
        ({"temperature": "1"}, "temperature .* got '1'"),
        ({"top_p": "0.9"}, "top_p .* got '0.9'"),
        ({"top_k": 0}, "top_k must be None or an int ≥ 1, got 0"),
        ({"top_k": 2.5}, "top_k .* got 2.5"),
        ({"top_p": 0.0}, r"top_p must be None or in \(0, 1\], got 0.0"),
        ({"top_p": 1.1}, "top_p .* got 1.1"),
        ({"top_p": math.nan}, "top_p .* got nan"),
        ({"max_new_tokens": 0}, "max_new_tokens must be an int ≥ 1, got 0"),
        ({"max_new_tokens": True}, "max_new_tokens .* got True"),
        ({"max_new_tokens": 46}, r"context of 48 tokens, got 3 \+ 46 = 49"),
    ],
    ids=str,
)
def test_bad_settings(words, kw, message):
    with pytest.raises(ValueError, match=f"^sample: .*{message}"):
        words.sample(["the film"], **({"max_new_tokens": 4} | kw))


def test_the_context_may_be_filled_to_the_last_token(words):
    rollout = words.sample(["the film"], 45, generator=seeded(0))
    assert rollout.log_probs.isfinite().all()
    words.log_probs(["the"], ["film " * 45])  # <start> the, 45 words, <end> = 48
    with pytest.raises(ValueError, match="prompt 0 has 2 tokens and its response 47, together 49"):
        words.log_probs(["the"], ["film " * 46])


@pytest.mark.parametrize("generator", [3, np.random.default_rng(3)])
def test_a_seed_in_place_of_a_generator_is_told(words, generator):
    with pytest.raises(TypeError, match="sample: generator must be None or a torch.Generator"):
        words.sample(["the film"], 4, generator=generator)


def test_a_generator_of_another_device_is_refused(words):
    class Elsewhere:
        device = torch.device("cuda:0")

    with pytest.raises(
        ValueError, match="generator must be on the policy's device, cpu, got .*cuda"
    ):
        words.sample(["the"], 2, generator=Elsewhere())


def test_prompts_and_responses_must_pair_up(words):
    with pytest.raises(ValueError, match="log_probs: responses .* each of the 2 prompts, got 1"):
        words.log_probs(["the", "film"], ["good"])
    with pytest.raises(TypeError, match="log_probs: responses must be a list of str"):
        words.log_probs(["the"], "good")


def test_tokens_outside_the_vocabulary(words):
    batch = words.encode(["the"], ["film"])
    for wrong in (10, -1):
        tokens = torch.tensor([[wrong, 2]])
        with pytest.raises(ValueError, match=f"vocabulary, ids 0 to 9, got {wrong}"):
            words.log_probs_of(dataclasses.replace(batch, response_tokens=tokens))
    grown = words_with_start()
    grown.add_tokens(["new"])
    policy = LanguagePolicy(words.model, grown)
    with pytest.raises(ValueError, match="got id 10 in row 1.*resize_token_embeddings"):
        policy.sample(["the", "the new film"], 2)


def test_text_batches_that_are_too_long_are_refused(words):
    batch = words.encode(["the"] * 2, ["film " * 40] * 2)
    long = dataclasses.replace(
        batch,
        prompt_tokens=torch.full((2, 20), 4),
        prompt_mask=torch.ones(2, 20, dtype=torch.bool),
    )
    with pytest.raises(ValueError, match=r"log_probs_of: .*48 tokens, got 20 \+ 41 = 61"):
        words.log_probs_of(long)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_broken_logits_name_step_and_row(words, monkeypatch, poison):
    forward, calls = words.model.forward, []

    def poisoned(*args, **kw):
        output = forward(*args, **kw)
        if len(calls) == 2:
            output.logits[1, -1, 3] = poison
        calls.append(1)
        return output

    monkeypatch.setattr(words.model, "forward", poisoned)
    with pytest.raises(FloatingPointError, match="sample: .* at step 2 in row 1"):
        words.sample(["the", "film", "bad"], 6, temperature=1.0, generator=seeded(2))


def test_a_model_without_an_end_token_is_refused():
    tokenizer = words_with_start()
    tokenizer.eos_token = None
    model = random_model("gpt2", len(tokenizer))
    model.config.eos_token_id = None
    with pytest.raises(ValueError, match="end token.*tokenizer.eos_token = "):
        LanguagePolicy(model, tokenizer)
    model.config.eos_token_id = [5, 6]
    assert LanguagePolicy(model, tokenizer).end_token_id == 5
    model.config.eos_token_id = 99
    with pytest.raises(ValueError, match="vocabulary of 10 tokens, got id 99"):
        LanguagePolicy(model, tokenizer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"prompt_tokens": torch.zeros(2, 3)},
            r"prompt_tokens must be .*torch.int64, got \(2, 3\)",
        ),
        ({"response_mask": torch.ones(2, 2)}, "response_mask must be boolean .* of torch.float32"),
        ({"response_mask": torch.ones(2, 3, dtype=torch.bool)}, r"\(2, 2\) like .* got \(2, 3\)"),
        (
            {"prompt_mask": torch.tensor([[True, True, False]] * 2)},
            "padded on the left .* ends in padding",
        ),
        (
            {"prompt_mask": torch.tensor([[True, False, True]] * 2)},
            "padding on the left, got a gap",
        ),
        ({"response_mask": torch.tensor([[False, True]] * 2)}, "padding on the right, got a gap"),
        (
            {
                "response_tokens": torch.zeros(1, 2, dtype=torch.long),
                "response_mask": torch.ones(1, 2, dtype=torch.bool),
            },
            "got 2 prompts and 1 responses",
        ),
    ],
)
def test_token_batches_are_checked(change, message):
    good = {
        "prompt_tokens": torch.zeros(2, 3, dtype=torch.long),
        "prompt_mask": torch.ones(2, 3, dtype=torch.bool),
        "response_tokens": torch.zeros(2, 2, dtype=torch.long),
        "response_mask": torch.ones(2, 2, dtype=torch.bool),
    }
    TokenBatch(**good)
    with pytest.raises(ValueError, match=f"^TokenBatch: .*{message}"):
        TokenBatch(**(good | change))


def test_importing_models_does_not_import_transformers():
    code = "import sys, rlhf_lessons.models; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# -- What published models bring along -------------------------------------------------------------


def test_odd_generation_settings_are_saved_as_they_came(words, tmp_path):
    import json
    import warnings

    from transformers import GenerationConfig

    policy = LanguagePolicy(copy.deepcopy(words.model), words.tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = GenerationConfig(do_sample=False, temperature=0.7, top_p=0.9, eos_token_id=2)
    policy.model.generation_config = settings
    policy.save_pretrained(tmp_path / "policy")
    assert policy.model.generation_config is settings
    written = json.loads((tmp_path / "policy" / "generation_config.json").read_text())
    assert (written["temperature"], written["top_p"]) == (0.7, 0.9)
    LanguagePolicy.from_pretrained(tmp_path / "policy").save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "generation_config.json").read_text()) == written


def test_what_cannot_be_saved_is_found_before_the_first_update(words, monkeypatch):
    from rlhf_lessons.training import train_dpo, train_ppo, train_sft

    def refuse(*args, **kw):
        raise ValueError("no such setting")

    policy = LanguagePolicy(copy.deepcopy(words.model), words.tokenizer)
    monkeypatch.setattr(policy.tokenizer, "save_pretrained", refuse)
    before = copy.deepcopy(policy.model.state_dict())
    pairs = [("the film", "was good", "was bad")]
    for loop in (
        lambda: train_sft(policy, [("the film", "was good")]),
        lambda: train_dpo(policy, pairs),
        lambda: train_ppo(policy, ["the film"], lambda prompts, responses: [0.0]),
    ):
        with pytest.raises(ValueError, match="saving it fails already: no such setting"):
            next(iter(loop()))
    for name, weight in policy.model.state_dict().items():
        assert torch.equal(weight, before[name])


def several_ends(words, ends, *, chosen=True):
    policy = LanguagePolicy(copy.deepcopy(words.model), words.tokenizer)
    policy.model.generation_config.eos_token_id = ends
    policy.model.generation_config._from_model_config = not chosen
    return LanguagePolicy(policy.model, words.tokenizer)


def test_a_response_ends_at_any_end_token_and_says_at_which(words):
    tokenizer = words.tokenizer
    stop, end = tokenizer.convert_tokens_to_ids("."), tokenizer.eos_token_id
    policy = several_ends(words, [end, stop, 10**6])
    assert policy.end_token_ids == (end, stop) and policy.end_token_id == end
    rollout = policy.sample(["the film"] * 200, 6, generator=torch.Generator().manual_seed(0))
    ends = torch.tensor([end, stop])
    for row in range(200):
        kept = rollout.response_tokens[row][rollout.response_mask[row]]
        assert not torch.isin(kept[:-1], ends).any()
        finished = bool(torch.isin(kept[-1], ends))
        assert bool(rollout.finished[row]) == finished
        assert int(rollout.ended_by[row]) == (int(kept[-1]) if finished else -1)
        words_said = tokenizer.decode(kept[:-1] if finished else kept, skip_special_tokens=True)
        assert rollout.responses[row] == words_said
    assert set(rollout.ended_by.tolist()) == {-1, end, stop}
    # The draws are those of the policy that ends at one token alone, as far as both go.
    one = words.sample(["the film"] * 200, 6, generator=torch.Generator().manual_seed(0))
    width = rollout.response_tokens.shape[1]
    same = rollout.response_tokens == one.response_tokens[:, :width]
    assert same[rollout.response_mask].all()
    torch.testing.assert_close(
        rollout.log_probs, policy.log_probs_of(rollout).detach(), atol=1e-5, rtol=0
    )


def test_one_end_token_that_nobody_chose_is_left_alone(words):
    stop, end = words.tokenizer.convert_tokens_to_ids("."), words.tokenizer.eos_token_id
    assert several_ends(words, stop, chosen=False).end_token_ids == (end,)
    assert several_ends(words, stop, chosen=True).end_token_ids == (end, stop)


def test_a_response_that_ends_with_an_end_token_gets_no_second(words):
    end = words.tokenizer.eos_token
    batch = words.encode(["the film"] * 2, ["was good", f"was good {end}"])
    assert batch.response_mask.sum(1).tolist() == [3, 3]
    assert torch.equal(batch.response_tokens[0], batch.response_tokens[1])
    several = several_ends(words, [words.end_token_id, words.tokenizer.convert_tokens_to_ids(".")])
    assert several.encode(["the film"], ["was good ."]).response_mask.sum() == 3
    assert words.encode(["the film"], ["was good ."]).response_mask.sum() == 4


def test_encoder_decoders_are_refused_with_the_reason(words):
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=len(words.tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2
    )
    with pytest.raises(ValueError, match="got T5ForConditionalGeneration, an encoder-decoder"):
        LanguagePolicy(T5ForConditionalGeneration(config), words.tokenizer)


@pytest.mark.parametrize("head", ["BertLMHeadModel", "BertForMaskedLM", "DistilBertForMaskedLM"])
def test_encoders_are_refused_and_decoders_of_their_family_are_not(words, head):
    import transformers

    kind, size = getattr(transformers, head), len(words.tokenizer)
    if "Distil" in head:
        config = transformers.DistilBertConfig(
            vocab_size=size, dim=16, hidden_dim=16, n_layers=1, n_heads=2
        )
    else:
        config = transformers.BertConfig(
            vocab_size=size, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2,
        )  # fmt: skip
    with pytest.raises(ValueError, match=f"got {head}, an encoder, in which a token sees those"):
        LanguagePolicy(kind(config), words.tokenizer)
    if head == "BertLMHeadModel":
        config.is_decoder = True
        policy = LanguagePolicy(kind(config), words.tokenizer)
        short, long = (policy.log_probs(["the film"], [text])[0] for text in ("was", "was good"))
        # What comes after changes nothing: that is what an encoder would break.
        torch.testing.assert_close(short[0, 0], long[0, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("longer", [False, True])
def test_rows_of_a_rollout_are_replaced_with_all_that_belongs_to_them(words, longer):
    sizes = [(["the film", "was", "good film ."], 3), (["the film was good . bad", "bad"], 7)]
    (prompts, most), (other_prompts, other_most) = sizes if longer else sizes[::-1]
    rollout = words.sample(prompts, most, generator=seeded(0))
    by = words.sample(other_prompts[:2], other_most, generator=seeded(1))
    rows = torch.tensor([1, 0])
    mixed = rollout.replaced(rows, by)
    sources = [(by, 1), (by, 0), (rollout, 2)][: len(prompts)]
    read = words.log_probs_of(mixed)
    for row, (source, place) in enumerate(sources):
        assert mixed.prompts[row] == source.prompts[place]
        assert mixed.responses[row] == source.responses[place]
        assert mixed.finished[row] == source.finished[place]
        for side in ("prompt", "response"):
            tokens, mask = f"{side}_tokens", f"{side}_mask"
            assert torch.equal(
                getattr(mixed, tokens)[row][getattr(mixed, mask)[row]],
                getattr(source, tokens)[place][getattr(source, mask)[place]],
            )
        kept = mixed.response_mask[row]
        sampled = source.log_probs[place][source.response_mask[place]]
        assert torch.equal(mixed.log_probs[row][kept], sampled)
        torch.testing.assert_close(read[row][kept], sampled, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="by must hold one row for each of the 1 rows, got 2"):
        rollout.replaced(rows[:1], by)
