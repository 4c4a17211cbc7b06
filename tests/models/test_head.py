"""A large head reads states in parts: the numbers and gradients of reading them all at once."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from rlhf_lessons.models import LanguagePolicy, TokenBatch, head, small_gpt2, word_tokenizer

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = {**SIZES, "intermediate_size": 32, "num_key_value_heads": 2, "head_dim": 8}
# What each does to its logits: nothing, a soft cap, two kinds of scales, a bias of the head.
FAMILIES = {
    "Llama": LLAMA,
    "Gemma2": {**LLAMA, "final_logit_softcapping": 0.5},
    "Cohere": {**LLAMA, "logit_scale": 3.0},
    "Granite": {**LLAMA, "logits_scaling": 0.2},
    "Phi": {**SIZES, "intermediate_size": 32},
    "Mixtral": {**LLAMA, "num_local_experts": 2},  # whose body says which experts it asked
}


def of_family(name: str) -> LanguagePolicy:
    import transformers

    tokenizer = word_tokenizer(["a", "b", "c", "d", "."])
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.eos_token_id)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name == "GPT-2":
            model = small_gpt2(len(tokenizer), width=16, layers=2, heads=2, context=32, seed=0)
        else:
            config = getattr(transformers, f"{name}Config")(
                vocab_size=len(tokenizer), max_position_embeddings=32, **ends, **FAMILIES[name]
            )
            model = getattr(transformers, f"{name}ForCausalLM")(config)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight) * 0.2)
    # Experts multiply in float32 at most.
    return LanguagePolicy(model if name == "Mixtral" else model.double(), tokenizer)


def batch_of(policy: LanguagePolicy) -> TokenBatch:
    return policy.encode(["a b", "c", "d d d ."], ["b b a .", "", "c d a a b ."])


def read(policy: LanguagePolicy) -> list[torch.Tensor]:
    """Log-probs, and the gradients of a loss in which each counts differently."""
    batch = batch_of(policy)
    log_probs = policy.log_probs_of(batch)
    weights = torch.arange(1, log_probs.numel() + 1).view(log_probs.shape).to(log_probs)
    parameters = [weight for weight in policy.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad((weights * log_probs).sum(), parameters, allow_unused=True)
    return [log_probs.detach(), *(g for g in gradients if g is not None)]


class Parts(list):
    """What is read in parts, as the sizes of the parts; ``begin`` makes them small."""

    def __init__(self, monkeypatch) -> None:
        super().__init__()
        self.monkeypatch, self.whole = monkeypatch, head.log_probs_in_parts
        monkeypatch.setattr(head, "log_probs_in_parts", self.watched)

    def watched(self, own_head, states, tokens, size):
        return self.whole(
            lambda some: self.append(len(some)) or own_head(some), states, tokens, size
        )

    def begin(self, policy: LanguagePolicy) -> None:
        self.monkeypatch.setattr(head, "WHOLE", 12 * policy.vocabulary_size)
        self.monkeypatch.setattr(head, "PART", 4 * policy.vocabulary_size)


@pytest.fixture
def parts(monkeypatch):
    return Parts(monkeypatch)


@pytest.mark.parametrize("name", ["GPT-2", *FAMILIES])
def test_the_parts_give_what_the_whole_gives(name, parts):
    policy = of_family(name)
    whole = read(policy)
    assert not parts  # a small vocabulary is read at once
    parts.begin(policy)
    in_parts = read(policy)
    assert parts[:4] == [4, 4, 4, 1]  # 13 tokens, and once more for the gradient
    assert sorted(parts[4:]) == [1, 4, 4, 4]
    near = 1e-10 if whole[0].dtype == torch.float64 else 1e-4
    for x, y in zip(in_parts, whole, strict=True):
        torch.testing.assert_close(x, y, rtol=near, atol=near)
    with torch.no_grad():
        batch = batch_of(policy)
        by_hand = policy.logits_of(batch).log_softmax(-1)
    by_hand = by_hand.gather(2, batch.response_tokens.unsqueeze(2)).squeeze(2)
    mask = batch.response_mask
    torch.testing.assert_close(in_parts[0][mask], by_hand[mask], rtol=near, atol=near)
    assert "forward" not in vars(policy.model.base_model)


@pytest.mark.parametrize("name", ["GPT-2", "Gemma2"])
def test_under_autocast_the_parts_round_as_the_whole_does(name, parts):
    policy = of_family(name)
    policy.model.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        whole = read(policy)
        parts.begin(policy)
        in_parts = read(policy)
    assert parts
    # Gradients of the head are rounded part by part: 8 bits of each, so 2 % of the largest.
    for x, y in zip(in_parts, whole, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0.02 * float(y.abs().max()))


def test_adapters_learn_through_the_parts(parts):
    pytest.importorskip("peft")
    policy = of_family("Llama").with_adapter(2)
    whole = read(policy)
    parts.begin(policy)
    for x, y in zip(read(policy), whole, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-10)
    assert parts


@pytest.mark.parametrize("between", [lambda x: 2 * x, lambda x: F.rms_norm(x, x.shape[-1:])])
def test_what_does_more_before_its_head_takes_the_ordinary_way(between, parts):
    from transformers import LlamaForCausalLM

    class More(LlamaForCausalLM):
        def forward(self, input_ids, **kw):
            output = self.model(input_ids, use_cache=False)
            logits = self.lm_head(between(output.last_hidden_state))
            return type("Output", (), {"logits": logits})

    policy = of_family("Llama")
    policy.model.__class__ = More
    whole = read(policy)
    parts.begin(policy)
    for _ in range(2):  # the first is tried, the second knows
        for x, y in zip(read(policy), whole, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-10)
    assert not parts
