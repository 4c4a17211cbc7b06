from __future__ import annotations

import json
import shutil

import pytest
import torch

from rlhf_lessons.models.checkpoints import (
    CHECKPOINT_FOLDER,
    CheckpointError,
    list_checkpoints,
    load_people_judge,
    load_policy,
    load_reward_model,
    verify_checkpoints,
)
from rlhf_lessons.real_parts import part_damage
from rlhf_lessons.training import held_out_nll
from rlhf_lessons.worlds import (
    VOCABULARY,
    SumsChecker,
    faults,
    gold_reward,
    is_rude,
    load_snippets,
    openings_of,
    sample_prompts,
    sample_reviews,
    sample_sums,
)

NAMES = ["reviews-base", "reviews-sft"]


@pytest.fixture
def copied(tmp_path):
    """A copy of the shipped models that a test may damage."""
    return shutil.copytree(CHECKPOINT_FOLDER, tmp_path / "checkpoints")


def test_shipped_models_are_sound_and_small():
    checkpoints = list_checkpoints()
    names = [checkpoint.name for checkpoint in checkpoints]
    adapter = {"smollm2-snippets"}
    assert {*NAMES, "reviews-reward", "facts-base", "facts-sft", "sums-sft", *adapter} <= set(names)
    assert verify_checkpoints() == {name: [] for name in names}
    for checkpoint in checkpoints:
        if checkpoint.name != "people-judge":  # a head without a body
            assert 150_000 < checkpoint.parameters < 1_000_000
        on_disk = {path.name: path.stat().st_size for path in checkpoint.folder.iterdir()}
        assert on_disk == {name: file["bytes"] for name, file in checkpoint.files.items()}
        assert checkpoint.size == sum(on_disk.values()) < 2_100_000
    assert sum(checkpoint.size for checkpoint in checkpoints) < 10_000_000


def test_sums_are_sometimes_right_in_each_of_three_habits():
    """A checker teaches nothing where all is wrong, and little where all is right."""
    policy = load_policy("sums-sft")
    tasks = [task for task in sample_sums(100, 1, held_out=True) for _ in range(8)]
    rollout = policy.sample(tasks, 16, generator=torch.Generator().manual_seed(0))
    assert 0.2 < SumsChecker()(tasks, rollout.responses).mean() < 0.4
    habits = [
        "doubt" if "or" in response else "steps" if " " in response else "at once"
        for response in rollout.responses
    ]
    assert all(habits.count(habit) > 20 for habit in ("doubt", "steps", "at once"))
    assert float(rollout.finished.double().mean()) > 0.95


@pytest.mark.parametrize("name", NAMES)
def test_the_manifest_tells_the_truth(name):
    policy = load_policy(name)
    checkpoint = next(c for c in list_checkpoints() if c.name == name)
    assert sum(w.numel() for w in policy.parameters()) == checkpoint.parameters
    assert {w.dtype for w in policy.parameters()} == {torch.float32}
    # The tokenizer and the world must know the same words.
    words = [token for token in policy.tokenizer.get_vocab() if token[0] != "<"]
    assert sorted(words) == list(VOCABULARY)
    assert policy.vocabulary_size == len(VOCABULARY) + 4


@pytest.mark.parametrize("name", NAMES)
def test_plain_transformers_reads_a_shipped_model_as_we_do(name):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (
        kind.from_pretrained(CHECKPOINT_FOLDER / name)
        for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    inputs = tokenizer("the film was", return_tensors="pt")
    assert list(inputs) == tokenizer.init_kwargs["model_input_names"]
    expected = load_policy(name).next_token_logits(["the film was"])[0]
    torch.testing.assert_close(model(**inputs).logits[0, -1], expected, rtol=0, atol=1e-4)


def test_fine_tuned_model_writes_clean_reviews_and_the_base_model_does_not():
    prompts = sample_prompts(400, seed=11)
    clean, rude = {}, {}
    for name in NAMES:
        generator = torch.Generator().manual_seed(0)
        responses = load_policy(name).sample(prompts, 48, generator=generator).responses
        clean[name] = sum(not faults(text) for text in responses) / len(responses)
        rude[name] = sum(is_rude(text) for text in responses) / len(responses)
    # 88.8 % of 2,000 were clean; 400 have a standard error of 1.6 points, so 4 of them are allowed.
    assert clean["reviews-sft"] > 0.82
    assert clean["reviews-base"] < 0.4
    assert rude["reviews-sft"] == 0
    assert 0.04 < rude["reviews-base"] < 0.16


def test_fine_tuning_lowered_the_loss_on_reviews():
    prompts, responses = zip(*sample_reviews(100, seed=12), strict=True)
    losses = []
    for name in NAMES:
        with torch.no_grad():
            log_probs, mask = load_policy(name).log_probs(prompts, responses)
        losses.append(-float(log_probs.sum() / mask.sum()))
    assert losses[1] < losses[0] - 0.04


def test_the_reward_model_orders_new_completions_as_the_gold_reward_does():
    prompts = sample_prompts(400, seed=13)
    generator = torch.Generator().manual_seed(1)
    responses = load_policy("reviews-sft").sample(prompts, 48, generator=generator).responses
    scores = load_reward_model("reviews-reward")(prompts, responses).double()
    gold = torch.from_numpy(gold_reward(prompts, responses))
    # 0.89 on 1,000 completions; 400 have a standard error of about 0.01.
    assert float(torch.corrcoef(torch.stack([scores, gold]))[0, 1]) > 0.83
    # Mean 0 and deviation 1 on completions of the policy; 400 have a standard error of 0.05.
    assert abs(float(scores.mean())) < 0.25 and abs(float(scores.std()) - 1) < 0.2


def test_the_fetched_model_says_how_to_fetch_it(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_LESSONS_CACHE", str(tmp_path))
    adapted = lambda: load_policy("smollm2-snippets")  # noqa: E731
    for load in (lambda: load_policy("smollm2"), load_people_judge, adapted):
        with pytest.raises(CheckpointError, match="python -m rlhf_lessons real get smollm2"):
            load()
    assert "smollm2" not in [checkpoint.name for checkpoint in list_checkpoints()]


@pytest.mark.skipif(
    bool(part_damage("smollm2") or part_damage("snippets")), reason="the parts were not fetched"
)
def test_the_real_model_and_the_judge_that_reads_it():
    policy = load_policy("smollm2")
    assert sum(weight.numel() for weight in policy.parameters()) == 134_515_008
    logits = policy.next_token_logits(["The capital of France is"])[0]
    assert policy.tokenizer.decode(logits.argmax()) == " Paris"
    assert policy.tokenizer.eos_token == policy.tokenizer.pad_token == "<|im_end|>"
    _, held_out = load_snippets()
    judge = load_people_judge(policy)
    scores = judge([""] * 100, [snippet.text for snippet in held_out[:100]])
    ratings = torch.tensor([snippet.rating for snippet in held_out[:100]])
    # 0.857 on all 1,005; the standard error on 100 is 0.03.
    assert float(torch.corrcoef(torch.stack([scores, ratings]))[0, 1]) > 0.75
    praise, blame = judge(["The film was"] * 2, [" wonderful, I loved it.", " a dull mess."])
    assert praise > 1 and blame < -1
    assert len(policy.model.model.layers) == 30  # the judge cut a copy


@pytest.mark.skipif(
    bool(part_damage("smollm2") or part_damage("snippets")), reason="the parts were not fetched"
)
def test_the_shipped_adapter_on_the_real_model():
    pytest.importorskip("peft", reason="the extra lora is not installed")
    adapted = load_policy("smollm2-snippets")
    checkpoint = next(c for c in list_checkpoints() if c.name == "smollm2-snippets")
    learned = [weight for weight in adapted.parameters() if weight.requires_grad]
    assert sum(weight.numel() for weight in learned) == checkpoint.parameters
    assert {weight.dtype for weight in learned} == {torch.float32}
    about = json.loads((checkpoint.folder / "adapter_config.json").read_text())
    assert about["base_model_name_or_path"] == "smollm2"  # and no folder of one machine
    recipe, (_, held_out) = checkpoint.recipe, load_snippets()
    texts = [snippet.text for snippet in held_out]
    examples = openings_of(adapted.tokenizer, texts, recipe["max_new_tokens"], 1)[:32]
    before, after = (held_out_nll(policy, examples) for policy in (adapted.base(), adapted))
    # On 256 texts 4.717 and 3.847; the standard error of the difference on 32 is about 0.1.
    assert after < before - 0.5
    assert checkpoint.held_out_nll < checkpoint.held_out_nll_before - 0.5


def test_an_unknown_name():
    with pytest.raises(
        ValueError, match=r"shipped .*reviews-base, .*reviews-sft.* or smollm2.*, got 'gpt'"
    ):
        load_policy("gpt")
    with pytest.raises(ValueError, match="got None"):
        load_policy(None)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_missing_file(copied, file):
    (copied / "reviews-sft" / file).unlink()
    message = rf"{file} is missing.*python -m rlhf_lessons models build reviews-sft"
    with pytest.raises(CheckpointError, match=message):
        load_policy("reviews-sft", copied)
    load_policy("reviews-base", copied)  # the other one is still sound
    damage = verify_checkpoints(copied)
    assert damage["reviews-base"] == [] and file in damage["reviews-sft"][0]


def test_a_truncated_file(copied):
    path = copied / "reviews-sft" / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    message = f"model.safetensors is cut off: 1000 of {len(whole)} bytes.*build reviews-sft"
    with pytest.raises(CheckpointError, match=message):
        load_policy("reviews-sft", copied)


def test_one_changed_bit(copied):
    path = copied / "reviews-base" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model.safetensors was changed.*build reviews-base"):
        load_policy("reviews-base", copied)


def test_a_missing_folder(copied):
    shutil.rmtree(copied / "reviews-base")
    damage = verify_checkpoints(copied, "reviews-base")
    assert list(damage) == ["reviews-base"] and len(damage["reviews-base"]) == 5


@pytest.mark.parametrize("content", [None, "{", "[]", '{"reviews-sft": {}}', '{"reviews-sft": 3}'])
def test_a_broken_manifest(copied, content):
    path = copied / "manifest.json"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(
        CheckpointError, match=r"manifest.json .*python -m rlhf_lessons models build"
    ):
        load_policy("reviews-sft", copied)


def test_a_manifest_without_hashes(copied):
    path = copied / "manifest.json"
    entries = json.loads(path.read_text())
    del entries["reviews-sft"]["files"]["config.json"]["sha256"]
    path.write_text(json.dumps(entries))
    with pytest.raises(CheckpointError, match="manifest.json cannot be read: KeyError"):
        list_checkpoints(copied)


@pytest.mark.parametrize(
    "change",
    [
        {"files": {}},
        {"files": {"config.json": {"bytes": "826", "sha256": "0"}}},
        {"files": {"config.json": {"bytes": 826, "sha256": None}}},
        {"held_out_nll": "low"},
        {"parameters": None},
    ],
)
def test_a_manifest_that_vouches_for_nothing(copied, change):
    path = copied / "manifest.json"
    entries = json.loads(path.read_text())
    entries["reviews-sft"].update(change)
    path.write_text(json.dumps(entries))
    with pytest.raises(CheckpointError, match="manifest.json cannot be read.*models build"):
        load_policy("reviews-sft", copied)


def test_loading_prints_nothing(capfd):
    load_policy("reviews-sft")
    assert capfd.readouterr() == ("", "")
