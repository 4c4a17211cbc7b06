"""A GPT-2 small enough to train on one CPU core within a minute or two (lessons 2 to 7).

It is Hugging Face's own ``GPT2LMHeadModel`` with small numbers, not a model of ours: what works on
it works on ``gpt2``.

Left out on purpose: dropout. The log-probs of a rollout and those of the training step that
follows must be equal, and on generated text there is always more data instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_lessons.models.tokenizer import SPECIAL_TOKENS

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

__all__ = ["small_gpt2"]


def small_gpt2(
    vocabulary_size: int,
    width: int = 64,
    layers: int = 3,
    heads: int = 4,
    context: int = 64,
    seed: int = 0,
) -> GPT2LMHeadModel:
    """Make an untrained decoder-only transformer with a language-model head.

    The head shares its weights with the token embedding. The activation is the tanh form of GELU
    in its fused version, the same function as GPT-2's at less than half the time on a CPU.

    Args:
        vocabulary_size: V tokens, special tokens included (``len(tokenizer)``).
        width: Size of the vector at each position; a multiple of ``heads``.
        layers: Number of transformer blocks.
        heads: Attention heads per block.
        context: The most tokens of a text, prompt and response together.
        seed: Seed of the initial weights; torch's global generator is left as it was.

    Returns:
        The model, on the CPU in float32, about 12·layers·width² + V·width parameters.

    Raises:
        ValueError: If a size is not a whole number of at least 1, if ``width`` is no multiple of
            ``heads``, or if V leaves no room beside the special tokens.
    """
    sizes = {
        "vocabulary_size": vocabulary_size,
        "width": width,
        "layers": layers,
        "heads": heads,
        "context": context,
    }
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"small_gpt2: {name} must be a whole number ≥ 1, got {size!r}")
    if width % heads:
        raise ValueError(f"small_gpt2: width must be a multiple of heads = {heads}, got {width}")
    if vocabulary_size <= len(SPECIAL_TOKENS):
        raise ValueError(
            f"small_gpt2: vocabulary_size must be more than the {len(SPECIAL_TOKENS)} special "
            f"tokens, got {vocabulary_size}"
        )

    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocabulary_size,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        n_positions=context,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        # The tokenizer names the padding token. A config that names it too makes transformers
        # warn of batches without an attention mask, and padding on the right needs none.
        pad_token_id=None,
        bos_token_id=SPECIAL_TOKENS.index("<start>"),
        eos_token_id=SPECIAL_TOKENS.index("<end>"),
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config).eval()
