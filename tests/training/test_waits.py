"""How often a CPU waits for a GPU in one update of each loop: nobody adds a wait unseen."""

from __future__ import annotations

import contextlib
import dataclasses

import pretend_device
import pytest
import torch
from unequal_pairs import PAIRS

from rlhf_lessons.models import (
    LanguagePolicy,
    RewardModel,
    ValueHead,
    packing,
    small_gpt2,
    word_tokenizer,
)
from rlhf_lessons.training import (
    DPOSettings,
    GRPOSettings,
    PPOSettings,
    RewardSettings,
    SupervisedSettings,
    dpo,
    grpo,
    ppo,
    reward_model,
    supervised,
    train_dpo,
    train_grpo,
    train_ppo,
    train_reward_model,
    train_sft,
)


def written_out(seed: int) -> LanguagePolicy:
    tokenizer = word_tokenizer(["a", "b", "c", "d", "."])
    return LanguagePolicy(
        small_gpt2(len(tokenizer), width=16, layers=2, heads=2, context=16, seed=seed), tokenizer
    )


def any_family(seed: int) -> LanguagePolicy:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = word_tokenizer(["a", "b", "c", "d", "."])
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=16, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LanguagePolicy(LlamaForCausalLM(config), tokenizer)


class OnTheCPU(torch.Generator):
    """A generator for a device that has none."""

    def __new__(cls, device="cpu"):
        return super().__new__(cls, "cpu")

    def __init__(self, device="cpu"):
        pass


@pytest.fixture
def device(monkeypatch):
    """The device, and what torch does not do for it: fused optimizers, autocast, generators."""
    for name in ("Adam", "AdamW"):
        plain = getattr(torch.optim, name)
        monkeypatch.setattr(
            torch.optim, name, lambda w, fused, plain=plain, **kw: plain(w, foreach=False, **kw)
        )
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch, "Generator", OnTheCPU)
    for loop in (dpo, grpo, ppo, reward_model, supervised):
        monkeypatch.setattr(loop, "try_saving", lambda *_: None)
    return pretend_device.PretendDevice()


def moved(policy):
    """The policy on the device; it samples on the CPU, which is not what is counted here."""
    twin = LanguagePolicy(policy.model.__class__(policy.model.config), policy.tokenizer)

    def sample(prompts, max_new_tokens, generator):
        with torch.utils._python_dispatch._disable_current_modes():
            seen = torch.Generator().manual_seed(len(prompts))
            rollout = twin.sample(prompts, max_new_tokens, generator=seen)
        tensors = {
            field.name: pretend_device.Elsewhere(value)
            for field in dataclasses.fields(rollout)
            if isinstance(value := getattr(rollout, field.name), torch.Tensor)
        }
        return dataclasses.replace(rollout, **tensors)

    policy.sample = sample
    pretend_device.move(policy.model)
    return policy


def counted(device, loop):
    """What the second step waits for and copies; in the first much is checked once."""
    next(loop)
    device.waits.clear()
    device.copies.clear()
    next(loop)
    return device.waits, device.copies


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("family", [written_out, any_family])
def test_an_update_on_given_texts_waits_once(device, family, packed, monkeypatch):
    monkeypatch.setattr(packing, "GAIN", 1e9)
    for reads in (LanguagePolicy, RewardModel):
        monkeypatch.setattr(reads, "packed", packed)
    policies = [family(seed) for seed in range(3)]
    rewards = RewardModel.from_policy(policies[0])
    examples = [(prompt, chosen) for prompt, chosen, _ in PAIRS]
    with device:
        for policy in policies:
            pretend_device.move(policy.model)
        pretend_device.move(rewards.model)
        first, second, reference = policies
        for loop, most, copies in (
            # nll looks whether its tokens are in the vocabulary.
            (train_sft(first, examples, SupervisedSettings(steps=2, batch_size=4)), 2, 2),
            (
                train_dpo(second, PAIRS, DPOSettings(steps=2, batch_size=4), reference=reference),
                1,
                4,
            ),
            (train_reward_model(rewards, PAIRS, RewardSettings(steps=2, batch_size=4)), 1, 5),
        ):
            waits, moves = counted(device, loop)
            assert 1 <= sum(waits.values()) <= most, (loop, waits)
            assert 1 <= sum(moves.values()) <= copies, (loop, moves)


def judge(prompts, responses):
    return [float(len(response) + row % 3) for row, response in enumerate(responses)]


@pytest.mark.parametrize("family", [written_out, any_family])
def test_an_update_on_samples_waits_for_its_formulas_and_once_more(device, family):
    def cycle(train, settings, epochs):
        policy, reference = family(1), family(2)
        with device:
            loop = train(
                moved(policy), ["a", "b b", "c"], judge,
                dataclasses.replace(settings, epochs=epochs), reference=moved(reference),
            )  # fmt: skip
            return [sum(counter.values()) for counter in counted(device, loop)]

    # ppo_total_loss and clip_fraction take four means, and a mean refuses to average nothing.
    of_ppo = PPOSettings(
        cycles=2, batch_size=4, minibatch_size=4, accumulate=1, max_new_tokens=6, kl_target=None
    )
    of_grpo = GRPOSettings(cycles=2, batch_size=4, group_size=2, minibatch_size=4, max_new_tokens=6)
    for train, settings, an_update in ((train_ppo, of_ppo, (5, 4)), (train_grpo, of_grpo, (1, 5))):
        one, three = (cycle(train, settings, epochs) for epochs in (1, 3))
        for few, many, most in zip(one, three, an_update, strict=True):
            assert 1 <= (many - few) / 2 <= most, train
        assert one[0] <= 30  # of a cycle: what it measures, and the whitening of advantages


def step_of_ppo(policy, other, settings):
    return train_ppo(policy, ["a", "b b", "c"], judge, settings, reference=other)


def step_of_ppo_with_values(policy, other, settings):
    head, reference = ValueHead(other), any_family(3)
    return train_ppo(
        policy, ["a", "b b", "c"], judge, settings, value_head=head, reference=reference
    )


def step_of_grpo(policy, other, settings):
    return train_grpo(policy, ["a", "b b", "c"], judge, settings, reference=other)


def step_of_dpo(policy, other, settings):
    return train_dpo(policy, PAIRS, settings, reference=other)


FEW = {"batch_size": 4, "minibatch_size": 4, "max_new_tokens": 6}


@pytest.mark.parametrize("elsewhere", ["policy", "other"])
@pytest.mark.parametrize(
    "train, settings",
    [
        (step_of_dpo, DPOSettings(steps=2, batch_size=4)),
        (step_of_grpo, GRPOSettings(cycles=2, group_size=2, beta=0.1, **FEW)),
        (step_of_ppo, PPOSettings(cycles=2, **FEW)),
        (step_of_ppo_with_values, PPOSettings(cycles=2, **{**FEW, "minibatch_size": 2})),
        (step_of_ppo_with_values, PPOSettings(cycles=2, **FEW)),
    ],
)
def test_policy_reference_and_values_may_be_on_two_devices(device, train, settings, elsewhere):
    """What stands on the wrong one fails on the pretended device as it would on a real one."""
    with device:
        policies = {"policy": any_family(1), "other": any_family(2)}
        policies[elsewhere] = moved(policies[elsewhere])
        loop = train(policies["policy"], policies["other"], settings)
        first, second = next(loop), next(loop)
    assert first.gradient_norm > 0 and second.gradient_norm > 0
