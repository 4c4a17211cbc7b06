"""A tiny GGUF file is made here; what transformers reads from it is the reference."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from rlhf_lessons.models import LanguagePolicy
from rlhf_lessons.models.gguf_folder import gguf_to_folder

gguf = pytest.importorskip("gguf")

WIDTH, INNER, HEADS, KV_HEADS, LAYERS = 64, 96, 4, 2, 2
WORDS = ["<|endoftext|>", "<|start|>", "<|stop|>", "t", "h", "e", "f", "i", "l", "m", "1", "2", "Ġ"]
MERGES = ["t h", "th e", "f i", "l m", "fi lm", "Ġ film", "Ġ the"]
TEMPLATE = "{% for m in messages %}<|start|>{{ m.content }}<|stop|>{% endfor %}"


def write_gguf(path, architecture="llama", tokenizer="smollm"):
    writer = gguf.GGUFWriter(path, architecture)
    words = WORDS + [merge.replace(" ", "") for merge in MERGES]
    writer.add_name("tiny")  # transformers 4.48 asks for one
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(500.0)  # no version's default
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-3)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(tokenizer)
    writer.add_token_list(words)
    writer.add_token_types([3, 3, 3] + [1] * (len(words) - 3))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    random = np.random.default_rng(0)
    shapes = {
        "attn_norm": (WIDTH,),
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (WIDTH // HEADS * KV_HEADS, WIDTH),
        "attn_v": (WIDTH // HEADS * KV_HEADS, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_norm": (WIDTH,),
        "ffn_gate": (INNER, WIDTH),
        "ffn_up": (INNER, WIDTH),
        "ffn_down": (WIDTH, INNER),
    }
    tensors = {"token_embd": (len(words), WIDTH), "output_norm": (WIDTH,)}
    tensors |= {f"blk.{i}.{name}": shape for i in range(LAYERS) for name, shape in shapes.items()}
    four_bits = gguf.GGMLQuantizationType.Q4_1
    for name, shape in tensors.items():
        values = random.normal(0, 0.2, shape).astype(np.float32) + (len(shape) == 1)
        if len(shape) == 2 and name != "token_embd":
            packed = gguf.quants.quantize(values, four_bits)
            writer.add_tensor(f"{name}.weight", packed, raw_dtype=four_bits)
        else:
            writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "model.gguf")


@pytest.fixture(scope="module")
def folder(file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder")
    gguf_to_folder(file, folder)
    return folder


def test_the_folder_holds_the_model_that_transformers_reads(file, folder):
    from transformers import AutoModelForCausalLM

    expected = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name).eval()
    policy = LanguagePolicy.from_pretrained(folder)
    assert {weight.dtype for weight in policy.parameters()} == {torch.float32}
    tokens = torch.arange(len(policy.tokenizer)).unsqueeze(0)
    with torch.no_grad():
        pairs = policy.model(tokens).logits, expected(tokens).logits
    torch.testing.assert_close(*pairs, rtol=0, atol=1e-5)
    assert pairs[1].std() > 0.1  # they tell one token from another


def test_the_four_bits_are_read_as_gguf_says(file, folder):
    """Q4_1: 32 numbers share a scale d and a least value m; each is q·d + m with q from 0 to 15."""
    from safetensors.torch import load_file

    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    packed = tensors["blk.1.ffn_down.weight"].data
    blocks = packed.reshape(WIDTH, INNER // 32, 20)
    d, m = (blocks[..., at : at + 2].copy().view(np.float16).astype(np.float32) for at in (0, 2))
    low, high = blocks[..., 4:] & 15, blocks[..., 4:] >> 4
    expected = (d * np.concatenate([low, high], -1) + m).reshape(WIDTH, INNER)
    weight = load_file(folder / "model.safetensors")["model.layers.1.mlp.down_proj.weight"]
    np.testing.assert_allclose(weight.numpy(), expected, rtol=0, atol=1e-6)


def test_the_special_tokens_are_those_of_the_file(folder):
    policy = LanguagePolicy.from_pretrained(folder)
    tokenizer = policy.tokenizer
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|start|>",
        "<|stop|>",
        "<|stop|>",
    )
    for settings in (policy.model.config, policy.model.generation_config):
        ids = settings.bos_token_id, settings.eos_token_id, settings.pad_token_id
        assert ids == (1, 2, 2)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "the film"}], tokenize=False)
    assert chat == "<|start|>the film<|stop|>"
    assert tokenizer(chat).input_ids[0] == 1 and tokenizer(chat).input_ids[-1] == 2
    assert tokenizer.model_max_length == 128


def test_the_tokenizer_is_that_of_the_file(folder):
    tokenizer = LanguagePolicy.from_pretrained(folder).tokenizer
    text = "the film 12 the"
    assert tokenizer.tokenize(text) == ["the", "Ġfilm", "Ġ", "1", "2", "Ġthe"]
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_every_version_reads_the_same_settings(folder):
    """transformers 4 takes the base of the positions from rope_theta, 5 from rope_parameters."""
    config = json.loads((folder / "config.json").read_text())
    assert config["rope_theta"] == 500.0
    assert config["architectures"] == ["LlamaForCausalLM"] and "quantization_config" not in config
    words = json.loads((folder / "tokenizer_config.json").read_text())
    assert words["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert words["chat_template"] == TEMPLATE  # not in a file that transformers 4 overlooks
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ({"architecture": "qwen2"}, "got qwen2 with smollm"),
        ({"tokenizer": "qwen2"}, "llama with q"),
    ],
)
def test_other_families_are_refused(tmp_path, kind, complaint):
    with pytest.raises(ValueError, match=complaint):
        gguf_to_folder(write_gguf(tmp_path / "model.gguf", **kind), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_a_lost_setting_is_noticed(file, tmp_path, monkeypatch):
    genuine = json.dumps

    def forgetful(values, **kw):
        for name in ("rope_theta", "rope_parameters"):
            values.pop(name, None)
        return genuine(values, **kw)

    monkeypatch.setattr(json, "dumps", forgetful)
    with pytest.raises(ValueError, match="must be those of the one that was read"):
        gguf_to_folder(file, tmp_path)


def test_a_full_disk_is_an_error_of_the_system(file, tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        gguf_to_folder(file, tmp_path)


def test_a_folder_of_several_files_is_no_trouble(file, tmp_path):
    copied = shutil.copy(file, tmp_path / "model.gguf")
    (tmp_path / "LICENSE").write_text("…", encoding="utf-8")
    gguf_to_folder(copied, tmp_path)  # as the fetched part does: in its own folder
    LanguagePolicy.from_pretrained(tmp_path)
