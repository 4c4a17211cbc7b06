"""Small random models of the families people use, saved to a folder as the hub keeps them.

Each has the tokenizer of its family in small, with the habits that trip code up:

    gpt2      byte-level BPE, no padding token, the start token is the end token
    llama     pieces with "▁" for a space, a start token before every text, one byte a rare letter
    qwen2     byte-level BPE, a chat template, more rows of weights than the tokenizer has tokens
    opt       byte-level BPE that starts every text with its end token; logits from a narrower layer
    gpt_neox  byte-level BPE, weights of input and output apart
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from rlhf_lessons.models import LanguagePolicy, word_tokenizer

FAMILIES = ("gpt2", "llama", "qwen2", "opt", "gpt_neox")
CONTEXT = 64
CORPUS = ["the film was good . it made me smile", "the plot was bad and the people were dull"] * 4

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Llama 2 writes it: the start token is part of the text.
INST = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "[INST] {{ message['content'] }} [/INST]{% else %} {{ message['content'] }} {{ eos_token }}"
    "{% endif %}{% endfor %}"
)
SPECIAL = {  # in the order of their ids
    "gpt2": ["<|endoftext|>"],
    "llama": ["<unk>", "<s>", "</s>"],
    "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "opt": ["<s>", "<pad>", "</s>", "<unk>"],
    "gpt_neox": ["<|endoftext|>", "<|padding|>"],
}
TOKENIZER = {
    "gpt2": {
        "tokenizer_class": "GPT2Tokenizer",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    },
    "llama": {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "add_eos_token": False,
        "legacy": False,
        "chat_template": INST,
    },
    "qwen2": {
        "tokenizer_class": "Qwen2Tokenizer",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": CHATML,
    },
    "opt": {
        "tokenizer_class": "GPT2Tokenizer",
        "bos_token": "</s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "</s>",
        "add_bos_token": True,
        "add_prefix_space": False,
    },
    "gpt_neox": {
        "tokenizer_class": "GPTNeoXTokenizer",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "add_prefix_space": False,
    },
}
CONFIG = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": CONTEXT},
    "llama": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 16, "do_layer_norm_before": True},
    "gpt_neox": {"tie_word_embeddings": False},
}

WORDS = "the film was good bad and it plot people dull made me smile .".split()
# Of every family that builds small, for ``random_policy``.
SMALL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 8,
}  # fmt: skip
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
SETTINGS = {
    "apertus": SMALL,
    "arcee": SMALL,
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "codegen": {**GPT, "rotary_dim": 4},
    "cohere": SMALL,
    "cohere2": SMALL,
    "ernie4_5": SMALL,
    "exaone4": SMALL,
    "falcon": {k: v for k, v in SMALL.items() if k not in ("head_dim", "num_key_value_heads")},
    "gemma": SMALL,
    "gemma2": {**SMALL, "query_pre_attn_scalar": 8},
    "gemma3_text": {**SMALL, "query_pre_attn_scalar": 8},
    "glm": {**SMALL, "partial_rotary_factor": 0.5},
    "glm4": {**SMALL, "partial_rotary_factor": 0.5},
    "gpt2": GPT,
    "gpt_bigcode": GPT,
    "gpt_neo": {
        "hidden_size": 32, "intermediate_size": 64, "num_layers": 2, "num_heads": 4,
        "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 64,
    },
    "gpt_neox": {k: v for k, v in SMALL.items() if k != "head_dim"},
    "gptj": {**GPT, "rotary_dim": 4},
    "granite": SMALL,
    "helium": SMALL,
    "lfm2": {**SMALL, "layer_types": ["conv", "full_attention"], "block_ff_dim": 64},
    "llama": SMALL,
    "mamba": {"hidden_size": 32, "state_size": 8, "num_hidden_layers": 2},
    "mistral": SMALL,
    "mixtral": {**SMALL, **EXPERTS},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64},
    "nemotron": SMALL,
    "olmo": SMALL,
    "olmo2": SMALL,
    "opt": {
        "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 64, "word_embed_proj_dim": 32,
    },
    "persimmon": {k: v for k, v in SMALL.items() if k != "head_dim"},
    "phi": {k: v for k, v in SMALL.items() if k != "head_dim"},
    "phi3": {k: v for k, v in SMALL.items() if k != "head_dim"},
    "qwen2": {k: v for k, v in SMALL.items() if k != "head_dim"},
    "qwen3": SMALL,
    "qwen3_moe": {**SMALL, **EXPERTS, "moe_intermediate_size": 32, "decoder_sparse_step": 1},
    "seed_oss": SMALL,
    "smollm3": SMALL,
    "stablelm": {k: v for k, v in SMALL.items() if k != "head_dim"},
    "starcoder2": {k: v for k, v in SMALL.items() if k != "head_dim"},
}  # fmt: skip


def family_tokenizer(family: str) -> Tokenizer:
    """Train the tokenizer of a family on a few sentences."""
    special = [AddedToken(word, special=True, normalized=False) for word in SPECIAL[family]]
    if family == "llama":
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        tokenizer.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        alphabet: list[str] = []
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = 340 if family == "llama" else len(alphabet) + len(special) + 40
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if family == "llama":  # the bytes come after the special tokens, where Llama keeps them
        state = json.loads(tokenizer.to_str())
        words = sorted(state["model"]["vocab"], key=state["model"]["vocab"].get)
        words[3:3] = [f"<0x{byte:02X}>" for byte in range(256)]
        state["model"]["vocab"] = {word: place for place, word in enumerate(words)}
        tokenizer = Tokenizer.from_str(json.dumps(state))
    if family in ("llama", "opt"):
        start = TOKENIZER[family]["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, SPECIAL[family].index(start))]
        )
    return tokenizer


def save_family(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Write config.json, model.safetensors and the tokenizer's files of a small random model."""
    from transformers import AutoConfig

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = family_tokenizer(family)
    tokenizer.save(str(folder / "tokenizer.json"))
    state = json.loads(tokenizer.to_str())["model"]
    if family != "llama":  # the older files lie beside it on the hub, too
        (folder / "vocab.json").write_text(json.dumps(state["vocab"]), encoding="utf-8")
        merges = [" ".join(merge) for merge in state["merges"]]
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    settings = {"model_max_length": CONTEXT, **TOKENIZER[family]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")

    size = tokenizer.get_vocab_size()
    common = {
        "vocab_size": size if family != "qwen2" else -(-size // 64) * 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": tokenizer.token_to_id(TOKENIZER[family]["bos_token"] or "<|endoftext|>"),
        "eos_token_id": tokenizer.token_to_id(TOKENIZER[family]["eos_token"]),
        "pad_token_id": 1 if family == "opt" else None,
    }
    if family == "gpt2":
        for name in ("hidden_size", "intermediate_size", "num_hidden_layers"):
            del common[name]
        del common["num_attention_heads"], common["max_position_embeddings"]
    config = AutoConfig.for_model(family, **common, **CONFIG[family])
    random_model(config, seed).save_pretrained(folder)
    return folder


def random_policy(family: str, words: list[str], settings: dict) -> LanguagePolicy:
    """Make a policy of any family that transformers knows, with a token a word."""
    from transformers import CONFIG_MAPPING, AutoConfig

    if family not in CONFIG_MAPPING:
        pytest.skip(f"this version of transformers has no {family}")
    tokenizer = word_tokenizer(words)
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer), bos_token_id=None, pad_token_id=None,
        eos_token_id=tokenizer.eos_token_id, **settings,
    )  # fmt: skip
    return LanguagePolicy(random_model(config), tokenizer)


def random_model(config, seed: int = 0):
    """Draw a causal language model's weights; the caller's random numbers stay as they were."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # a fresh model is near uniform; make it have opinions
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(4)
    return model
