"""A language model from one GGUF file to a folder of safetensors that every version here reads.

transformers reads the 4-bit weights of a GGUF file into float32, in seconds each time, and refuses
to save what it read. Here it is done once. The tokenizer and the special tokens are made from what
the file itself says: what transformers makes of them changes from version to version.

Left out on purpose: other families than Llama with a byte-level BPE of the kind ``smollm``, and
writing GGUF.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["gguf_to_folder"]

# How the file marks a token that only the template writes, such as the end token.
_CONTROL = 3
# Our names of the special tokens, and the file's.
_SPECIAL = {"bos": "bos", "eos": "eos", "pad": "padding"}


def gguf_to_folder(gguf: Path, folder: Path) -> None:
    """Write the model of a GGUF file as safetensors, with tokenizer and configuration.

    Args:
        gguf: the file.
        folder: where the files go; it exists.

    Returns:
        None.

    Raises:
        ValueError: if it is of a family or has a tokenizer that is not known here, or the written
            model is not equal to the one that was read.
        ModuleNotFoundError: if ``gguf`` is not installed.
        OSError: if the files cannot be written.
    """
    import transformers
    from gguf import GGUFReader
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    fields = GGUFReader(gguf).fields

    def said(name: str, otherwise: Any = None) -> Any:
        return fields[name].contents() if name in fields else otherwise

    kind = tuple(said(name) for name in ("general.architecture", "tokenizer.ggml.pre"))
    if kind != ("llama", "smollm"):
        raise ValueError(
            f"gguf_to_folder: {gguf} must hold a llama with a tokenizer of the kind smollm, "
            f"got {kind[0]} with {kind[1]}"
        )
    tokenizer = _tokenizer(said)
    auto = transformers.AutoModelForCausalLM
    model = auto.from_pretrained(gguf.parent, gguf_file=gguf.name).eval()
    weights = {
        name: weight.float().contiguous()
        for name, weight in model.state_dict().items()
        if not (name == "lm_head.weight" and model.config.tie_word_embeddings)
    }
    try:
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    except SafetensorError as error:  # what it makes of a full disk
        raise OSError(f"could not write {folder / 'model.safetensors'}: {error}") from error
    (folder / "model.safetensors").chmod(0o644)  # it writes for the owner's eyes only
    config = model.config.to_dict()
    for passing in ("quantization_config", "_name_or_path", "transformers_version"):
        config.pop(passing, None)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in _SPECIAL}
    # transformers 4 looks for the base of the positions here, transformers 5 in rope_parameters.
    config["rope_theta"] = said("llama.rope.freq_base", 10_000.0)
    config |= {"architectures": ["LlamaForCausalLM"], **special}
    _write(folder / "config.json", config)
    _write(folder / "generation_config.json", special)
    _save_tokenizer(tokenizer, folder)
    _compare(model, auto.from_pretrained(folder).eval())


def _tokenizer(said: Any) -> PreTrainedTokenizerFast:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = said("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in said("tokenizer.ggml.merges")]
    made = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    control = [
        word
        for word, kind in zip(words, said("tokenizer.ggml.token_type"), strict=True)
        if kind == _CONTROL
    ]
    made.add_special_tokens([AddedToken(word, normalized=False) for word in control])
    special = {
        f"{ours}_token": words[said(f"tokenizer.ggml.{theirs}_token_id")]
        for ours, theirs in _SPECIAL.items()
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        chat_template=said("tokenizer.chat_template"),
        model_max_length=said("llama.context_length"),
        clean_up_tokenization_spaces=False,
        **special,
    )


def _save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save a tokenizer so that transformers 4 and 5 read the same: one writes more, one less."""
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    values = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": tokenizer.model_max_length,
        "chat_template": tokenizer.chat_template,
        **{f"{name}_token": getattr(tokenizer, f"{name}_token") for name in _SPECIAL},
    }
    _write(folder / "tokenizer_config.json", values)


@torch.no_grad()
def _compare(read: torch.nn.Module, written: torch.nn.Module) -> None:
    tokens = torch.arange(16).unsqueeze(0) % read.config.vocab_size
    difference = float((read(tokens).logits - written(tokens).logits).abs().max())
    if not difference < 1e-4:  # the same sums in the same order: anything more is a lost setting
        raise ValueError(
            f"gguf_to_folder: the logits of the written model must be those of the one that was "
            f"read, got a difference of {difference:g}"
        )


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
