"""Adapters: W + (α/r) · B · A by hand, weights that are shared and stay, folders, every loop."""

from __future__ import annotations

import json
import shutil
import sys
import warnings

import pytest
import torch
from model_families import FAMILIES, save_family
from transformers.pytorch_utils import Conv1D

from rlhf_lessons.models import (
    LanguagePolicy,
    ResponseClassifier,
    RewardModel,
    TokenRewardModel,
    ValueHead,
    gpt2_body,
    load_policy,
    small_gpt2,
    word_tokenizer,
)
from rlhf_lessons.models.saved_model import try_saving
from rlhf_lessons.training import (
    DPOSettings,
    PPOSettings,
    SupervisedSettings,
    train_dpo,
    train_ppo,
    train_sft,
)

pytest.importorskip("peft", reason="the extra lora is not installed")

PROMPTS = ["the film", "it made me smile . the plot"]
RESPONSES = [" was good .", " bad"]
WORDS = ["a", "b", "c", "d", "."]
PAIRS = [
    ("a", "b .", "c c c ."),
    ("c a a", "d", "b b ."),
    ("", "a b .", "d ."),
    ("b b", "c . . .", "a"),
]
EXAMPLES = [(prompt, chosen) for prompt, chosen, _ in PAIRS]
# Logits here are below 100, where float32 steps are 8e-6; what sums in another order differs so.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def same(a, b) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


def snapshot(policy: LanguagePolicy) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in policy.parameters()]


def trained(policy: LanguagePolicy) -> dict[str, torch.Tensor]:
    return {n: w.detach() for n, w in policy.model.named_parameters() if w.requires_grad}


def shake(policy: LanguagePolicy) -> LanguagePolicy:
    """Give B numbers, as training would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if ".lora_B." in name:
                weight.normal_(0, 0.1, generator=generator)
    return policy


def log_probs(policy: LanguagePolicy) -> torch.Tensor:
    return policy.log_probs(PROMPTS, RESPONSES)[0].detach()


def tiny(seed: int = 0) -> LanguagePolicy:
    tokenizer = word_tokenizer(WORDS)
    model = small_gpt2(len(tokenizer), width=16, layers=1, heads=2, context=12, seed=seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0)
    return LanguagePolicy(model, tokenizer)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    return {family: save_family(family, root / family) for family in FAMILIES}


@pytest.fixture(params=["gpt2", "llama", "qwen2"])
def base(request, folders) -> LanguagePolicy:
    return LanguagePolicy.from_pretrained(folders[request.param])


@pytest.fixture
def llama(folders) -> LanguagePolicy:
    return LanguagePolicy.from_pretrained(folders["llama"])


# -- The mathematics -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("alpha", [None, 6])
def test_each_linear_layer_but_the_head_becomes_w_plus_scaled_b_a(folders, family, alpha):
    base = LanguagePolicy.from_pretrained(folders[family])
    before = log_probs(base)
    adapted = shake(base.with_adapter(4, alpha=alpha))
    scale = (8 if alpha is None else alpha) / 4

    by_hand = LanguagePolicy.from_pretrained(folders[family])
    weights = dict(adapted.model.get_base_model().named_parameters())
    head = by_hand.model.get_output_embeddings()
    layers = {
        name: layer
        for name, layer in by_hand.model.named_modules()
        if isinstance(layer, (torch.nn.Linear, Conv1D)) and layer is not head
    }
    assert len(trained(adapted)) == 2 * len(layers) > 0
    with torch.no_grad():
        for name, layer in layers.items():
            a, b = (weights[f"{name}.lora_{which}.default.weight"] for which in "AB")
            change = scale * b @ a
            layer.weight += change.T if isinstance(layer, Conv1D) else change  # W is (in, out)

    torch.testing.assert_close(log_probs(adapted), log_probs(by_hand), **CLOSE)
    assert (log_probs(adapted) - before).abs().max() > 0.01
    torch.testing.assert_close(log_probs(adapted.merge()), log_probs(by_hand), **CLOSE)


def test_it_starts_as_the_base_and_draws_a_by_seed_alone(base):
    torch.manual_seed(5)
    random = torch.get_rng_state()
    adapted = base.with_adapter(3)
    assert torch.equal(torch.get_rng_state(), random)
    torch.testing.assert_close(log_probs(adapted), log_probs(base), **CLOSE)
    torch.manual_seed(6)
    again, other = base.with_adapter(3), base.with_adapter(3, seed=1)
    assert same(list(trained(again).values()), list(trained(adapted).values()))
    assert not same(list(trained(other).values()), list(trained(adapted).values()))
    a = torch.cat([w.flatten() for n, w in trained(adapted).items() if ".lora_A." in n])
    b = torch.cat([w.flatten() for n, w in trained(adapted).items() if ".lora_B." in n])
    assert len(trained(adapted)) == 2 * sum(".lora_A." in n for n in trained(adapted))
    assert a.std() > 0.05 and not b.any()


def test_what_it_samples_has_the_log_probs_of_a_whole_text(base):
    adapted = shake(base.with_adapter(4))
    rollout = adapted.sample(PROMPTS * 4, 12, generator=torch.Generator().manual_seed(0))
    read = adapted.log_probs_of(rollout).detach()
    torch.testing.assert_close(read, rollout.log_probs, rtol=0, atol=1e-4)
    merged = adapted.merge()
    torch.testing.assert_close(merged.log_probs_of(rollout).detach(), read, **CLOSE)


def test_the_fast_way_of_gpt2_is_for_the_base_alone():
    base = tiny()
    adapted = base.with_adapter(2)
    assert gpt2_body.is_plain(base.model) and not gpt2_body.is_plain(adapted.model)
    assert not gpt2_body.is_plain(adapted.model.get_base_model())
    assert gpt2_body.is_plain(adapted.base().model) and gpt2_body.is_plain(adapted.merge().model)


# -- One set of weights ----------------------------------------------------------------------------


def test_base_and_copy_share_the_weights_and_merge_does_not(base):
    before = log_probs(base)
    weights = {weight.data_ptr() for weight in base.parameters()}
    adapted = shake(base.with_adapter(4))
    assert not any(weight.requires_grad for weight in base.parameters())
    assert torch.equal(log_probs(base), before)

    reference = adapted.base()
    assert {weight.data_ptr() for weight in reference.parameters()} == weights
    assert torch.equal(log_probs(reference), before)
    assert not reference.adapted and adapted.adapted

    copied, now = adapted.copy(), log_probs(adapted)
    assert weights < {weight.data_ptr() for weight in copied.parameters()}
    assert not trained(copied)
    own = trained(adapted)
    for one, other in ((adapted, copied), (copied, copied.copy())):
        theirs = {weight.data_ptr() for weight in other.parameters()}
        assert {weight.data_ptr() for weight in one.parameters()} & theirs == weights

    merged = adapted.merge()
    assert not weights & {weight.data_ptr() for weight in merged.parameters()}
    assert all(weight.requires_grad for weight in merged.parameters())

    with torch.no_grad():
        for weight in own.values():
            weight.zero_()
    assert torch.equal(log_probs(copied), now)
    torch.testing.assert_close(log_probs(adapted), before, **CLOSE)
    torch.testing.assert_close(log_probs(merged), now, **CLOSE)
    assert torch.equal(log_probs(base), before)


def test_the_reference_does_not_disturb_the_gradient(llama):
    adapted = shake(llama.with_adapter(4))
    log_ratio = adapted.log_probs(PROMPTS, RESPONSES)[0]
    log_ratio = log_ratio - log_probs(adapted.base())  # read in between
    log_ratio.sum().backward()
    alone = shake(llama.with_adapter(4))
    alone.log_probs(PROMPTS, RESPONSES)[0].sum().backward()
    for (name, weight), other in zip(
        adapted.model.named_parameters(), alone.parameters(), strict=True
    ):
        assert (weight.grad is None) == (".lora_" not in name)
        assert weight.grad is None or torch.equal(weight.grad, other.grad)


def test_a_base_in_half_precision_learns_in_float32(folders):
    half = LanguagePolicy.from_pretrained(folders["llama"], dtype=torch.bfloat16)
    adapted = half.with_adapter(2)
    assert {weight.dtype for weight in trained(adapted).values()} == {torch.float32}
    assert adapted.base().model.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("kw", "error", "message"),
    [
        ({"rank": 0}, ValueError, "rank must be at least 1, got 0"),
        ({"rank": 2.0}, TypeError, "rank must be an int, got 2.0"),
        ({"rank": True}, TypeError, "rank must be an int, got True"),
        ({"rank": 2, "alpha": 0}, ValueError, "alpha must be above 0 and finite, got 0"),
        ({"rank": 2, "alpha": float("nan")}, ValueError, "alpha must be above 0 .* got nan"),
        ({"rank": 2, "alpha": "8"}, TypeError, "alpha must be None or a number, got '8'"),
        ({"rank": 2, "seed": None}, TypeError, "seed must be an int, got None"),
    ],
    ids=str,
)
def test_bad_settings_are_refused_and_freeze_nothing(llama, kw, error, message):
    with pytest.raises(error, match=f"^with_adapter: {message}"):
        llama.with_adapter(**kw)
    assert all(weight.requires_grad for weight in llama.parameters())


def test_adapters_are_needed_or_in_the_way(llama):
    for method in ("base", "merge"):
        with pytest.raises(ValueError, match=f"^{method}: policy must have .*with_adapter"):
            getattr(llama, method)()
    with pytest.raises(ValueError, match=r"no adapters yet.*policy.merge\(\)"):
        llama.with_adapter(2).with_adapter(2)
    for bare in (llama.with_adapter(2).merge(), llama.with_adapter(2).base()):
        assert not hasattr(bare.model, "peft_config")
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # peft's, where it finds old adapters
            bare.with_adapter(2)


def test_without_peft_it_says_what_to_install(llama, tmp_path, monkeypatch):
    llama.with_adapter(2).save_pretrained(tmp_path / "a")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"pip install 'rlhf-lessons\[lora\]'"):
        llama.with_adapter(2)
    with pytest.raises(ImportError, match=r"pip install 'rlhf-lessons\[lora\]'"):
        LanguagePolicy.from_pretrained(tmp_path / "a")


# -- Files -----------------------------------------------------------------------------------------


def test_a_folder_holds_the_adapter_and_finds_its_base(base, tmp_path):
    adapted = shake(base.with_adapter(4, alpha=5))
    adapted.save_pretrained(tmp_path / "a")
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= names
    assert not names & {"config.json", "model.safetensors"}
    size = 4 * sum(weight.numel() for weight in trained(adapted).values())
    assert (tmp_path / "a" / "adapter_model.safetensors").stat().st_size < size + 10_000

    loaded = LanguagePolicy.from_pretrained(tmp_path / "a")
    assert torch.equal(log_probs(loaded), log_probs(adapted))
    assert trained(loaded).keys() == trained(adapted).keys()
    assert loaded.tokenizer.get_vocab() == adapted.tokenizer.get_vocab()
    loaded.save_pretrained(tmp_path / "b")
    assert torch.equal(log_probs(LanguagePolicy.from_pretrained(tmp_path / "b")), log_probs(loaded))


def test_peft_reads_what_is_written_and_the_other_way_round(llama, folders, tmp_path):
    import peft
    from transformers import AutoModelForCausalLM

    adapted = shake(llama.with_adapter(4))
    adapted.save_pretrained(tmp_path / "ours")
    plain = AutoModelForCausalLM.from_pretrained(folders["llama"])
    theirs = peft.PeftModel.from_pretrained(plain, str(tmp_path / "ours"))
    read = LanguagePolicy(theirs, adapted.tokenizer)
    torch.testing.assert_close(log_probs(read), log_probs(adapted), **CLOSE)
    theirs.save_pretrained(tmp_path / "theirs")  # without a tokenizer: that of the base
    loaded = LanguagePolicy.from_pretrained(tmp_path / "theirs")
    torch.testing.assert_close(log_probs(loaded), log_probs(adapted), **CLOSE)


def test_a_base_of_the_course_is_named_and_a_folder_from_anywhere(llama, tmp_path, monkeypatch):
    def named(folder) -> str:
        return json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]

    load_policy("reviews-sft").with_adapter(2).save_pretrained(tmp_path / "course")
    assert named(tmp_path / "course") == "reviews-sft"
    assert LanguagePolicy.from_pretrained(tmp_path / "course").adapted

    llama.save_pretrained(tmp_path / "llama")
    monkeypatch.chdir(tmp_path)
    adapted = LanguagePolicy.from_pretrained("llama").with_adapter(2)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    adapted.save_pretrained("../a")
    assert LanguagePolicy.from_pretrained("../a").adapted


def test_a_base_that_was_trained_and_saved_is_the_one_named(tmp_path):
    policy = tiny()
    with pytest.raises(ValueError, match="must name the adapter's base, got none; base= of"):
        policy.with_adapter(2).save_pretrained(tmp_path / "nameless")
        LanguagePolicy.from_pretrained(tmp_path / "nameless")
    policy.save_pretrained(tmp_path / "base")
    adapted = shake(policy.with_adapter(2))
    adapted.save_pretrained(tmp_path / "a")
    loaded = LanguagePolicy.from_pretrained(tmp_path / "a")
    assert same(snapshot(loaded), snapshot(adapted))
    loaded = LanguagePolicy.from_pretrained(tmp_path / "nameless", base=tmp_path / "base")
    assert loaded.adapted


def test_a_base_that_moved_is_told_and_can_be_given(llama, tmp_path):
    llama.save_pretrained(tmp_path / "here")
    adapted = shake(llama.with_adapter(2))
    adapted.save_pretrained(tmp_path / "a")
    (tmp_path / "here").rename(tmp_path / "there")
    with pytest.raises(OSError, match=r"no folder .*here.*base= of .* where the base of the adap"):
        LanguagePolicy.from_pretrained(tmp_path / "a")
    loaded = LanguagePolicy.from_pretrained(tmp_path / "a", base=tmp_path / "there")
    assert torch.equal(log_probs(loaded), log_probs(adapted))
    with pytest.raises(ValueError, match="base of an adapter must be a whole model.*merge"):
        LanguagePolicy.from_pretrained(tmp_path / "a", base=tmp_path / "a")
    with pytest.raises(ValueError, match="base must be left out where a whole model is loaded"):
        LanguagePolicy.from_pretrained(tmp_path / "there", base=tmp_path / "there")
    with pytest.raises(TypeError, match="base must be a str or a path, got 3"):
        LanguagePolicy.from_pretrained(tmp_path / "a", base=3)


def test_another_base_is_refused(tmp_path):
    tiny(0).save_pretrained(tmp_path / "zero")
    tiny(1).save_pretrained(tmp_path / "one")
    policy = LanguagePolicy.from_pretrained(tmp_path / "zero")
    policy.with_adapter(2).save_pretrained(tmp_path / "a")
    with pytest.raises(ValueError, match="must stand on the weights that it was trained on, got"):
        LanguagePolicy.from_pretrained(tmp_path / "a", base=tmp_path / "one")
    # Trained in memory, and saved nowhere: the folder that it came from is not its base.
    list(train_sft(policy_ := tiny(0), EXAMPLES, SupervisedSettings(steps=1, batch_size=4)))
    policy_.model.name_or_path = str(tmp_path / "zero")
    policy_.with_adapter(2).save_pretrained(tmp_path / "b")
    with pytest.raises(ValueError, match="must stand on the weights that it was trained on, got"):
        LanguagePolicy.from_pretrained(tmp_path / "b")


def edited(change):
    def damage(folder):
        from safetensors.torch import load_file, save_file

        state = load_file(folder / "adapter_model.safetensors")
        change(state, sorted(state))
        save_file(state, folder / "adapter_model.safetensors")

    return damage


def cut(folder):
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-40])


DAMAGE = {
    "no weights": (
        lambda folder: (folder / "adapter_model.safetensors").unlink(),
        OSError,
        "must hold safetensors weights, got no weights",
    ),
    "pickled": (
        lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin"),
        OSError,
        "safetensors weights, got adapter_model.bin. .* can run code",
    ),
    "cut off": (cut, ValueError, "must hold an adapter, got"),
    "one missing": (
        edited(lambda state, names: [state.pop(names[0]), state.pop(names[-1])]),
        ValueError,
        r"must hold all weights of its adapter, got none for base_model.*lora_A.* and 1 others",
    ),
    "another shape": (
        edited(lambda state, names: state.update({names[0]: state[names[0]][:, 1:].clone()})),
        ValueError,
        "must fit its base, got size mismatch",
    ),
    "one too many": (
        edited(lambda state, names: state.update({"base_model.model.lm_head.x": torch.ones(1)})),
        ValueError,
        "weights that have no place there, such as .*lm_head",
    ),
    "no configuration": (
        lambda folder: (folder / "adapter_config.json").write_text("{"),
        ValueError,
        "adapter_config.json must name the adapter's base, but it cannot be read",
    ),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_adapters_are_refused(how, tmp_path):
    damage, error, message = DAMAGE[how]
    tiny().save_pretrained(tmp_path / "base")
    policy = LanguagePolicy.from_pretrained(tmp_path / "base")
    policy.with_adapter(2).save_pretrained(tmp_path / "a")
    damage(tmp_path / "a")
    with pytest.raises(error, match=f"^LanguagePolicy.from_pretrained: .*{message}"):
        LanguagePolicy.from_pretrained(tmp_path / "a")


def test_folders_are_replaced_whole_whatever_was_in_them(tmp_path, monkeypatch):
    tiny().save_pretrained(tmp_path / "base")
    adapted = shake(LanguagePolicy.from_pretrained(tmp_path / "base").with_adapter(2))
    folder = tmp_path / "policy"
    adapted.save_pretrained(folder)
    (folder / "notes.txt").write_text("mine")
    adapted.merge().save_pretrained(folder)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "notes.txt"} <= names
    assert not {name for name in names if name.startswith("adapter")}
    assert not LanguagePolicy.from_pretrained(folder).adapted
    adapted.save_pretrained(folder)
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_config.json", "notes.txt"} <= names and "config.json" not in names
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    with pytest.raises(ValueError, match="another folder than that of the base, which the adapter"):
        adapted.save_pretrained(tmp_path / "base")
    assert not LanguagePolicy.from_pretrained(tmp_path / "base").adapted

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="no space left on device.*unchanged"):
        adapted.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"base", "policy"}


def test_saving_can_be_tried_without_writing_weights(llama, monkeypatch):
    import safetensors.torch

    def refuse(*_, **__):
        raise AssertionError("weights were written")

    monkeypatch.setattr(safetensors.torch, "save_file", refuse)
    adapted = llama.with_adapter(2)
    try_saving("train_dpo", adapted.model, adapted.tokenizer)
    monkeypatch.setattr(type(adapted.model.peft_config["default"]), "save_pretrained", refuse)
    with pytest.raises(ValueError, match="train_dpo: a model must be one that can be saved"):
        try_saving("train_dpo", adapted.model, adapted.tokenizer)


def test_settings_that_transformers_would_not_write_are_no_matter(llama, tmp_path):
    llama.model.generation_config.do_sample = False
    llama.model.generation_config.temperature = 0.7
    adapted = llama.with_adapter(2)
    try_saving("train_dpo", adapted.model, adapted.tokenizer)
    adapted.save_pretrained(tmp_path / "a")
    adapted.merge().save_pretrained(tmp_path / "m")


def test_an_adapter_that_transformers_would_load_its_own_way_is_refused(llama, tmp_path):
    llama.save_pretrained(tmp_path / "both")
    llama.with_adapter(2).save_pretrained(tmp_path / "a")
    for file in (tmp_path / "a").glob("adapter*"):
        shutil.copy(file, tmp_path / "both")
    with pytest.raises(ValueError, match="both is taken for an adapter; give a folder with the ad"):
        LanguagePolicy.from_pretrained(tmp_path / "both")


# -- Heads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RewardModel, TokenRewardModel])
def test_a_reward_model_stands_on_the_merged_weights(base, kind):
    adapted = shake(base.with_adapter(4))
    before = snapshot(adapted)
    of_adapted, of_merged, of_base = map(kind.from_policy, (adapted, adapted.merge(), base))
    head = torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    scores = []
    for model in (of_adapted, of_merged, of_base):
        model.model.score.weight.data = head
        scores.append(model.score(PROMPTS, RESPONSES))
    torch.testing.assert_close(scores[0], scores[1], **CLOSE)
    assert (scores[0] - scores[2]).abs().max() > 1e-3
    assert all(weight.requires_grad for weight in of_adapted.parameters())
    assert same(snapshot(adapted), before)


def test_a_value_head_and_a_classifier_read_the_adapted_body(base):
    adapted = shake(base.with_adapter(4))
    merged = adapted.merge()
    batch = adapted.encode(PROMPTS, RESPONSES)
    heads = [ValueHead(policy) for policy in (adapted, merged)]
    for head in heads:
        torch.nn.init.constant_(head.linear.weight, 0.1)
    (logits, values), (other_logits, other_values) = (head(batch) for head in heads)
    mask = batch.response_mask
    torch.testing.assert_close(values[mask], other_values[mask], **CLOSE)
    torch.testing.assert_close(logits[mask], other_logits[mask], **CLOSE)
    values[mask].sum().backward()
    assert all(w.grad is not None for n, w in adapted.model.named_parameters() if "lora_B" in n)
    ours, theirs = (
        ResponseClassifier(policy).features(PROMPTS, RESPONSES) for policy in (adapted, merged)
    )
    torch.testing.assert_close(ours, theirs, **CLOSE)


# -- Every loop ------------------------------------------------------------------------------------


def count_b(prompts, responses):
    return [float(response.count("b")) - 0.1 * len(response) for response in responses]


def sft(policy, checkpoint=None, **kw):
    settings = SupervisedSettings(steps=6, batch_size=3, save_every=2, learning_rate=1e-2)
    return train_sft(policy, EXAMPLES, settings, checkpoint=checkpoint, **kw)


def dpo(policy, checkpoint=None, **kw):
    settings = DPOSettings(steps=6, batch_size=3, save_every=2, learning_rate=1e-2)
    return train_dpo(policy, PAIRS, settings, checkpoint=checkpoint, **kw)


def ppo(policy, checkpoint=None, **kw):
    settings = PPOSettings(
        cycles=6, batch_size=8, minibatch_size=4, max_new_tokens=6, save_every=2, learning_rate=1e-2
    )
    prompts = [prompt for prompt, _, _ in PAIRS]
    return train_ppo(policy, prompts, count_b, settings, checkpoint=checkpoint, **kw)


LOOPS = {"sft": sft, "dpo": dpo, "ppo": ppo}
each_loop = pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)


@each_loop
def test_only_the_adapters_are_trained(loop):
    base = tiny()
    before = snapshot(base)
    adapted = base.with_adapter(2)
    start = [weight.clone() for weight in trained(adapted).values()]
    list(loop(adapted))
    assert same(snapshot(base), before) and same(snapshot(adapted.base()), before)
    moved = [not torch.equal(a, b) for a, b in zip(start, trained(adapted).values(), strict=True)]
    assert all(moved)


def test_the_reference_is_the_policy_as_it_is_now_unless_the_base_is_given():
    for loop, tolerance in ((dpo, 1e-5), (ppo, 1e-5)):
        first = next(loop(tiny().with_adapter(2)))
        assert abs(first.kl) < tolerance  # B is zero: both are the base
        adapted = shake(tiny().with_adapter(2))
        assert abs(next(loop(adapted)).kl) < tolerance
        adapted = shake(tiny().with_adapter(2))
        assert abs(next(loop(adapted, reference=adapted.base())).kl) > 1e-2


def test_a_reference_that_moves_along_is_refused():
    adapted = tiny().with_adapter(2)
    twin = LanguagePolicy(adapted.model.get_base_model(), adapted.tokenizer)
    for reference in (adapted, twin):
        with pytest.raises(ValueError, match="reference must be another model than policy"):
            ppo(adapted, reference=reference)


@each_loop
def test_a_run_taken_up_gives_what_it_would_have_given(loop, tmp_path):
    straight = tiny().with_adapter(2)
    expected = list(loop(straight))
    records = []
    for record in loop(tiny().with_adapter(2), tmp_path / "run"):
        records.append(record)
        if record.step == 5:
            break
    resumed = tiny().with_adapter(2)
    again = list(loop(resumed, tmp_path / "run"))
    assert records[:4] + again == expected
    assert same(snapshot(resumed), snapshot(straight))

    from safetensors import safe_open

    (file,) = (tmp_path / "run").iterdir()
    with safe_open(file, "pt") as saved:
        weights = [name for name in saved.keys() if name.startswith("weights.")]  # noqa: SIM118
    assert weights and all(".lora_" in name or "value_head" in name for name in weights)


@each_loop
def test_a_run_on_another_base_is_refused(loop, tmp_path):
    next(run := loop(tiny(0).with_adapter(2), tmp_path))
    run.close()
    next(run := loop(tiny(0).with_adapter(2), tmp_path))
    run.close()
    list(loop(tiny(0).with_adapter(2), tmp_path))
    with pytest.raises(ValueError, match="must belong to this run.*differs in"):
        list(loop(tiny(1).with_adapter(2), tmp_path))


def test_a_ppo_run_with_a_reference_of_its_own_knows_its_base(tmp_path):
    list(ppo(tiny(0).with_adapter(2), tmp_path, reference=tiny(3)))
    with pytest.raises(ValueError, match=r"differs in frozen weights"):
        list(ppo(tiny(1).with_adapter(2), tmp_path, reference=tiny(3)))


def test_an_adapted_policy_learns_what_the_pairs_say(llama):
    pairs = [("the film was", " good", " bad"), ("the plot was", " good .", " dull .")]
    adapted = llama.with_adapter(4)
    settings = DPOSettings(steps=30, batch_size=2, learning_rate=1e-2, warmup=0.0)
    last = list(train_dpo(adapted, pairs, settings))[-1]
    assert last.accuracy == 1 and last.loss < 0.4
