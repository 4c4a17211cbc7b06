"""Steps of one shape against the ordinary reader, called plainly and replayed as a GPU would.

There is no GPU here, so :func:`record` stands in for one: it writes down the operations of one step
with the very tensors that they got, and a replay runs these operations and nothing of the model's
own Python. A number of Python that should have moved on, or a tensor that was made anew, shows.
"""

from __future__ import annotations

import contextlib
import warnings

import pytest
import torch
from model_families import random_policy
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, LlamaConfig

from rlhf_lessons.models import LanguagePolicy, sampling, static_reading, word_tokenizer
from rlhf_lessons.models.reading import Reader
from rlhf_lessons.models.static_reading import StaticReader

WORDS = ["a", "b", "c", "d"]
SMALL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 8,
}  # fmt: skip
WINDOW = {"sliding_window": 4, "query_pre_attn_scalar": 8}
MIXED = ["sliding_attention", "full_attention"]
FAMILIES = {
    "llama": ("llama", SMALL),
    "qwen2": ("qwen2", {key: value for key, value in SMALL.items() if key != "head_dim"}),
    "mistral": ("mistral", {**SMALL, "sliding_window": None}),
    "mistral, window": ("mistral", {**SMALL, "sliding_window": 4}),
    "gemma2, windows": ("gemma2", {**SMALL, **WINDOW, "layer_types": MIXED}),
    "gemma3, windows": ("gemma3_text", {**SMALL, **WINDOW, "layer_types": MIXED}),
    "olmo2": ("olmo2", SMALL),
    "gpt_neox": ("gpt_neox", {key: value for key, value in SMALL.items() if key != "head_dim"}),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "bloom": ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
}
PROMPTS = {
    "padded": ["a b c d a b c", "d d", "", "d d", "c a b c", "d d", "a"],  # equal ones among them
    "even": ["a b", "c d", "d d", "a b", "b c", "a a", "d a"],
}
# float32, sums over a few dozen numbers of size 10: other orders of the sum differ by less.
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def policy_of(family: str) -> LanguagePolicy:
    name, settings = FAMILIES[family]
    policy = random_policy(name, WORDS, settings)
    if not static_reading.suits(policy.model):
        pytest.skip("this version of transformers keeps static memory in another way")
    return policy


# --- what stands in for a GPU ---------------------------------------------------------------------


class _Operations(TorchDispatchMode):
    """Writes down what is computed; to look at a number is an error, as while a GPU records."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        out = function(*args, **(kwargs or {}))
        self.done.append((function, args, kwargs or {}, out))
        return out


def record(step):
    """Write down a step without its effects, and give what does it again in the same places."""
    reader = step.__self__
    state = [reader.positions, *(layer.cumulative_length for layer in reader.memory.layers)]
    before = [tensor.clone() for tensor in state]
    operations = _Operations()
    try:
        with operations:
            logits = step()
    finally:
        for tensor, was in zip(state, before, strict=True):
            tensor.copy_(was)

    def replay():
        for function, args, kwargs, out in operations.done:
            places = [t.data_ptr() for t in pytree.tree_leaves(out) if isinstance(t, torch.Tensor)]
            again = function(*args, **kwargs)
            for place, new in zip(pytree.tree_leaves(out), pytree.tree_leaves(again), strict=True):
                # A view, or what was changed in place, lies there already.
                if isinstance(new, torch.Tensor) and new.data_ptr() not in places:
                    place.copy_(new)
        return logits

    return replay


@pytest.fixture
def gpu(monkeypatch):
    """Let steps be recorded, and count the recordings."""
    recorded = []

    def counted(step):
        recorded.append(len(step.__self__.tokens))
        return record(step)

    monkeypatch.setattr(static_reading, "_can_record", lambda device: True)
    monkeypatch.setattr(static_reading, "_no_waits", contextlib.nullcontext)
    monkeypatch.setattr(static_reading, "_record", counted)
    return recorded


# --- the same logits ------------------------------------------------------------------------------


@pytest.mark.parametrize("prompts", PROMPTS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("replayed", [False, True])
@torch.no_grad()
def test_logits_are_those_of_the_ordinary_reader_step_by_step(family, prompts, replayed, request):
    recorded = request.getfixturevalue("gpu") if replayed else []
    policy = policy_of(family)
    batch = policy.encode(PROMPTS[prompts])
    mask = None if batch.prompt_mask.all() else batch.prompt_mask
    steps, generator = 12, torch.Generator().manual_seed(0)
    slow = Reader(policy._forward, mask, room=steps)
    fast = StaticReader(policy.model, policy._forward, mask, room=steps)
    expected, got = (reader.read_prompts(batch.prompt_tokens) for reader in (slow, fast))
    assert fast.memory is not None and fast.look_every == 8 and slow.look_every == 1
    addresses = [layer.keys.data_ptr() for layer in fast.memory.layers]
    rows = 7
    for step in range(steps):
        torch.testing.assert_close(got, expected, **CLOSE)
        assert expected.std() > 0.1
        if step == 6:
            kept = torch.tensor([0, 6, 2, 5])
            slow.keep(kept)
            fast.keep(kept)
            rows = 4
        tokens = torch.randint(4, (rows, 1), generator=generator) + 3
        expected, got = slow.read(tokens), fast.read(tokens)
    torch.testing.assert_close(got, expected, **CLOSE)
    assert [layer.keys.data_ptr() for layer in fast.memory.layers] == addresses
    assert recorded == ([7, 4] if replayed else [])


@pytest.mark.parametrize("replayed", [False, True])
@pytest.mark.parametrize("prompts", PROMPTS)
def test_the_draws_are_the_same_and_rows_are_dropped_at_few_sizes(prompts, replayed, request):
    recorded = request.getfixturevalue("gpu") if replayed else []
    policy = policy_of("llama")
    texts = PROMPTS[prompts] * 6  # 42 rows
    sizes, keep = [], StaticReader.keep

    def counted(reader, rows):
        if reader.memory is not None:  # and not of prompts that were read once
            sizes.append(len(rows))
        keep(reader, rows)

    settings = {"max_new_tokens": 40, "temperature": 1.3}
    plain = policy.sample(texts, **settings, generator=torch.Generator().manual_seed(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StaticReader, "keep", counted)
        static = policy.sample(
            texts, **settings, generator=torch.Generator().manual_seed(0), static_cache=True
        )
    torch.testing.assert_close(static.log_probs, policy.log_probs_of(static).detach(), **CLOSE)
    # Of 1,680 draws one could fall between two sums of probabilities that differ by rounding.
    same = [a == b for a, b in zip(static.responses, plain.responses, strict=True)]
    assert sum(same) >= 41 and len(set(plain.responses)) > 20
    assert (static.finished == plain.finished)[torch.tensor(same)].all()
    assert sizes and set(sizes) <= {21, 11, 6}
    assert recorded == ([42, *sizes] if replayed else [])
    assert len(static.response_mask[0]) == int(static.response_mask.sum(1).max())


@torch.no_grad()
def test_the_sampler_looks_every_few_steps_and_cuts_what_came_after_the_end():
    """By hand: three rows end at steps 2, 3 and 1 of at most 9; nobody looks before the fourth."""

    class Scripted:
        look_every = 4
        read_rows: list[int] = []

        def read_prompts(self, tokens):
            return self.logits([5, 5, 2])

        def read(self, tokens):
            self.read_rows.append(len(tokens))
            step = len(self.read_rows)
            return self.logits([[2, 5, 5], [5, 2, 5], [5, 5, 2]][step - 1])

        def logits(self, tokens):
            return torch.nn.functional.one_hot(torch.tensor(tokens), 8) * 100.0

    reader = Scripted()
    tokens, log_probs, is_end = sampling.sample_tokens(
        reader, torch.zeros((3, 1), dtype=torch.long), torch.full((9, 3, 1), 0.5),
        torch.tensor([2]), None, 1.0, None, None,
    )  # fmt: skip
    assert reader.read_rows == [3, 3, 3]
    assert is_end.tolist() == [
        [False, True, False],
        [False, False, True],
        [True, False, False],
    ]
    assert tokens.shape == log_probs.shape == (3, 3)


@pytest.mark.parametrize(("running", "count"), [("TFTFF", 2), ("FTFTT", 4), ("FFFFT", 3)])
def test_rows_that_run_come_first_and_few_move(running, count):
    running = torch.tensor([letter == "T" for letter in running])
    kept = sampling._packed(running, count)
    assert len(kept) == count == len(set(kept.tolist()))
    assert set(running.nonzero().flatten().tolist()) <= set(kept.tolist())
    moved = int((kept != torch.arange(count)).sum())
    assert moved == int(running[count:].sum())


def test_batches_shrink_by_halves_to_an_eighth():
    policy = policy_of("llama")
    reader = StaticReader(policy.model, policy._forward, None, room=3)
    with torch.no_grad():
        reader.read_prompts(policy.encode(["a"] * 20).prompt_tokens)
    sizes = {running: reader.batch_for(running) for running in range(1, 21)}
    assert [sizes[n] for n in (20, 11, 10, 6, 5, 4, 3, 2, 1)] == [20, 20, 10, 10, 5, 5, 3, 3, 3]


def test_nobody_gets_it_who_did_not_ask(monkeypatch):
    monkeypatch.setattr(StaticReader, "__init__", lambda *args: pytest.fail("static memory"))
    policy_of("llama").sample(["a b", "c"], 12)


# --- what cannot ----------------------------------------------------------------------------------


def test_half_precision_and_autocast_sample_too():
    policy = policy_of("llama")
    with torch.autocast("cpu", torch.bfloat16):
        assert not static_reading.suits(policy.model)
        rollout = policy.sample(["a b", "c"], 20, static_cache=True)
    assert rollout.log_probs.dtype == torch.float32 and rollout.log_probs.isfinite().all()
    policy.model.bfloat16()
    rollout = policy.sample(["a b", "c"], 20, static_cache=True)
    assert rollout.log_probs.dtype == torch.float32 and rollout.log_probs.isfinite().all()


@pytest.mark.parametrize("family", ["mamba", "lfm2"])
def test_states_in_the_place_of_keys_are_sampled_as_without(family):
    if family not in CONFIG_MAPPING:
        pytest.skip(f"this version of transformers has no {family}")
    tokenizer = word_tokenizer(WORDS)
    settings = {
        "mamba": {"hidden_size": 32, "state_size": 8, "num_hidden_layers": 2},
        "lfm2": {**SMALL, "layer_types": ["conv", "full_attention"], "block_ff_dim": 64},
    }[family]
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer), bos_token_id=None, pad_token_id=None,
        eos_token_id=tokenizer.eos_token_id, **settings,
    )  # fmt: skip
    policy = LanguagePolicy(AutoModelForCausalLM.from_config(config), tokenizer)
    plain, static = (
        policy.sample(
            PROMPTS["padded"], 12, generator=torch.Generator().manual_seed(0), static_cache=static
        )
        for static in (False, True)
    )
    assert torch.equal(plain.response_tokens, static.response_tokens)
    torch.testing.assert_close(plain.log_probs, static.log_probs, **CLOSE)


@pytest.mark.parametrize("change", ["attention", "family", "version"])
def test_it_suits_models_whose_steps_can_be_the_same(change, monkeypatch):
    policy = policy_of("llama")
    assert static_reading.suits(policy.model)
    if change == "attention":
        policy.model.config._attn_implementation = "flex_attention"
    elif change == "family":
        monkeypatch.setattr(type(policy.model), "_can_compile_fullgraph", False)
    else:
        from transformers import cache_utils

        class Counted(cache_utils.StaticLayer):  # as transformers 4 has it
            def __init__(self, max_cache_len):
                super().__init__(max_cache_len)
                del self.cumulative_length

        monkeypatch.setattr(cache_utils, "StaticLayer", Counted)
    assert not static_reading.suits(policy.model)
    if change != "attention":
        assert policy.sample(["a b"] * 4, 12, static_cache=True).log_probs.isfinite().all()


@pytest.mark.parametrize("where", ["first step", "recording", "first replay"])
def test_where_recording_fails_it_says_so_once_and_goes_on(where, gpu, monkeypatch):
    policy = policy_of("llama")
    texts, tried = PROMPTS["padded"], []

    def broken():
        tried.append(where)
        raise RuntimeError("operation not permitted when stream is capturing")

    def half_way(step):
        policy._forward(
            step.__self__.tokens, step.__self__.seen, keep=1, use_cache=True,
            cache=step.__self__.memory, positions=step.__self__.positions,
        )  # fmt: skip
        broken()

    if where == "recording":
        monkeypatch.setattr(static_reading, "_record", half_way)
    elif where == "first replay":
        monkeypatch.setattr(static_reading, "_record", lambda step: lambda: half_way(step))
    else:

        @contextlib.contextmanager
        def waits():
            yield
            broken()

        monkeypatch.setattr(static_reading, "_no_waits", waits)
    with pytest.warns(UserWarning, match=r"LlamaForCausalLM cannot be recorded.*not permitted"):
        rollout = policy.sample(texts, 12, static_cache=True)
    torch.testing.assert_close(rollout.log_probs, policy.log_probs_of(rollout).detach(), **CLOSE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy.sample(texts, 12, static_cache=True)
    assert len(tried) == 1


def test_an_interrupt_passes_through_and_the_next_call_works(gpu, monkeypatch):
    policy = policy_of("llama")
    forward, calls = type(policy.model).forward, []

    def interrupted(self, *args, **kw):
        calls.append(1)
        if len(calls) == 3:  # prompts, the plain step, and now it is being recorded
            raise KeyboardInterrupt
        return forward(self, *args, **kw)

    with monkeypatch.context() as patch:
        patch.setattr(type(policy.model), "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            policy.sample(["a b", "c"], 12, static_cache=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rollout = policy.sample(["a b", "c"], 12, static_cache=True)
    torch.testing.assert_close(rollout.log_probs, policy.log_probs_of(rollout).detach(), **CLOSE)
    assert gpu[:2] == [2, 2]  # where the interrupt came, and in the next call


def test_adapters_read_with_static_memory():
    pytest.importorskip("peft")
    policy = policy_of("llama").with_adapter(rank=2)
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(0))
    assert static_reading.suits(policy.model)
    rollout = policy.sample(PROMPTS["padded"], 12, static_cache=True)
    torch.testing.assert_close(rollout.log_probs, policy.log_probs_of(rollout).detach(), **CLOSE)


def test_one_token_a_response_needs_no_memory():
    policy = policy_of("llama")
    rollout = policy.sample(["a b", "c"], 1, static_cache=True)
    assert rollout.response_tokens.shape == (2, 1)


def test_the_weights_may_move_between_two_calls(gpu):
    config = LlamaConfig(
        vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    policy = LanguagePolicy(AutoModelForCausalLM.from_config(config), word_tokenizer(WORDS))
    if not static_reading.suits(policy.model):
        pytest.skip("this version of transformers keeps static memory in another way")
    for _ in range(2):
        rollout = policy.sample(["a b", "c"], 8, static_cache=True)
        expected = policy.log_probs_of(rollout).detach()
        torch.testing.assert_close(rollout.log_probs, expected, **CLOSE)
        for weight in policy.model.parameters():
            weight.data = weight.data * 1.5
