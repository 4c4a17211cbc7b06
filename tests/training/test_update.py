"""What all loops share: parts of a batch, bfloat16, and advice where memory runs out."""

from __future__ import annotations

import types

import pytest
import torch
from unequal_pairs import PAIRS

from rlhf_lessons.models import LanguagePolicy, RewardModel, small_gpt2, word_tokenizer
from rlhf_lessons.training import (
    DPOSettings,
    RewardSettings,
    SupervisedSettings,
    train_dpo,
    train_reward_model,
    train_sft,
)
from rlhf_lessons.training.update import precision, with_memory_advice


def policy(seed: int = 1) -> LanguagePolicy:
    tokenizer = word_tokenizer(["a", "b", "c", "d", "."])
    model = small_gpt2(len(tokenizer), width=32, layers=2, heads=2, context=16, seed=seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0)
    return LanguagePolicy(model, tokenizer)


def sft(model, **changes):
    examples = [(prompt, chosen) for prompt, chosen, _ in PAIRS]
    validation = examples[:2]
    settings = SupervisedSettings(**{"steps": 3, "batch_size": 6, "warmup": 0.0, **changes})
    return train_sft(model, examples, settings, validation=validation)


def reward(model, **changes):
    settings = RewardSettings(**{"steps": 3, "batch_size": 6, "warmup": 0.0, **changes})
    return train_reward_model(model, PAIRS, settings, validation=PAIRS[:2])


def dpo(model, **changes):
    settings = DPOSettings(**{"steps": 3, "batch_size": 6, "warmup": 0.0, **changes})
    return train_dpo(model, PAIRS, settings, reference=policy(2), validation=PAIRS[:2])


def reward_model() -> RewardModel:
    model = RewardModel.from_policy(policy())
    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(model.model.score.weight, std=0.1, generator=generator)
    return model


LOOPS = {"sft": (sft, policy), "reward_model": (reward, reward_model), "dpo": (dpo, policy)}
each_loop = pytest.mark.parametrize("name", LOOPS)


def numbers(record) -> torch.Tensor:
    return torch.tensor([v for v in vars(record).values() if v is not None], dtype=torch.float64)


def first_gradient(monkeypatch, loop) -> torch.Tensor:
    found = []
    step = torch.optim.AdamW.step

    def spy(self, *arguments):
        gradients = [weight.grad for group in self.param_groups for weight in group["params"]]
        found.append(torch.cat([g.flatten() for g in gradients]).clone())
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", spy)
        next(loop)
    return found[0]


@each_loop
def test_gradients_that_were_there_before_do_not_count(name):
    loop, make = LOOPS[name]
    model = make()
    for weight in model.parameters():
        weight.grad = torch.full_like(weight, 1e3)
    assert next(loop(model)).gradient_norm == next(loop(make())).gradient_norm


@each_loop
@pytest.mark.parametrize("parts", [2, 4, 100])
def test_parts_have_the_gradient_of_the_whole_batch(name, parts, monkeypatch):
    loop, make = LOOPS[name]
    whole = first_gradient(monkeypatch, loop(make()))
    in_parts = first_gradient(monkeypatch, loop(make(), accumulate=parts))
    assert whole.abs().max() > 1e-2
    torch.testing.assert_close(in_parts, whole, atol=1e-6, rtol=1e-6)
    for one, other in zip(loop(make()), loop(make(), accumulate=parts), strict=True):
        # Adam divides by the gradient's size, which enlarges a rounding where that is near 0.
        torch.testing.assert_close(numbers(one), numbers(other), atol=1e-4, rtol=1e-4)


@each_loop
def test_parts_are_passed_one_by_one(name, monkeypatch):
    loop, make = LOOPS[name]
    model = make()
    model.packed = False  # a text a row
    rows = []
    embedding = model.model.get_input_embeddings()
    embedding.register_forward_hook(lambda _, inputs, output: rows.append(len(inputs[0])))
    run = loop(model, accumulate=3, **({"length_groups": 1} if name == "reward_model" else {}))
    next(run)
    per_part = 2 if name == "sft" else 4  # two pairs are four texts
    assert rows[:3] == [per_part] * 3


@each_loop
def test_bf16_stays_near_float32_and_keeps_float32_weights(name):
    loop, make = LOOPS[name]
    exact, model = make(), make()
    for one, other in zip(loop(exact), loop(model, bf16=True), strict=True):
        assert one != other  # something was computed in bfloat16
        # bfloat16 keeps 8 bits: relative errors of 2⁻⁸ = 0.4% an operation.
        torch.testing.assert_close(numbers(other), numbers(one), rtol=0.1, atol=0.1)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_bf16_reads_policy_and_reference_alike():
    model = policy()
    settings = DPOSettings(steps=1, batch_size=6, bf16=True)
    (record,) = train_dpo(model, PAIRS, settings, reference=policy())
    assert abs(record.margin) < 1e-6  # the same weights: rounding cancels


@pytest.mark.parametrize("has_units", [True, False])
def test_a_cpu_without_bfloat16_is_said_to_be_slow_at_it(has_units, monkeypatch, recwarn):
    units = types.SimpleNamespace(_is_mkldnn_bf16_supported=lambda: has_units)
    monkeypatch.setattr(torch.ops, "mkldnn", units)
    precision(torch.device("cpu"), False)
    assert not recwarn.list
    precision(torch.device("cpu"), True)
    assert ["several times" in str(warning.message) for warning in recwarn.list] == [True] * (
        not has_units
    )


@pytest.mark.parametrize("settings", [SupervisedSettings, RewardSettings, DPOSettings])
@pytest.mark.parametrize("bad", [{"accumulate": 0}, {"accumulate": 1.5}, {"bf16": 1}])
def test_bad_settings_are_refused(settings, bad):
    with pytest.raises(ValueError, match=f"{settings.__name__}: {next(iter(bad))} must"):
        settings(**bad)


@each_loop
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 4000000000000 bytes."
        ),
        MemoryError(),
    ],
)
def test_running_out_of_memory_says_what_to_lower(name, error, monkeypatch):
    loop, make = LOOPS[name]
    model = make()

    def full(*arguments):
        raise error

    run = loop(model)
    next(run)
    model.model.get_input_embeddings().register_forward_pre_hook(full)
    advice = f"train_{name}: .*memory.*accumulate.*batch_size.*max_new_tokens.*bf16"
    with pytest.raises(torch.OutOfMemoryError, match=advice):
        next(run)


def test_sampling_that_runs_out_of_memory_says_what_to_lower_there():
    """In a loop, too, whose own advice is about gradients."""
    model = policy()

    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")

    model.model.transformer.h[0].register_forward_pre_hook(full)
    advice = r"sample: 4 responses of up to 5 tokens.*2\.00 GiB\. Sample fewer.*max_new_tokens$"
    with pytest.raises(torch.OutOfMemoryError, match=advice):
        model.sample(["a"] * 4, 5)
    with pytest.raises(torch.OutOfMemoryError, match="^" + advice):
        next(with_memory_advice("train_ppo", _samples(model)))


def _samples(model):
    yield model.sample(["a"] * 4, 5)


def test_the_cpus_allocator_is_recognised():
    def loop():
        yield 1
        torch.empty(2**50)

    run = with_memory_advice("train_sft", loop())
    assert next(run) == 1
    with pytest.raises(torch.OutOfMemoryError, match="train_sft: .*you tried to allocate"):
        next(run)


def test_other_errors_pass_unchanged():
    def loop():
        yield
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    run = with_memory_advice("train_sft", loop())
    next(run)
    with pytest.raises(RuntimeError, match="^mat1 and mat2"):
        next(run)
