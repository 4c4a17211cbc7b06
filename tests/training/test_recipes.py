from __future__ import annotations

import dataclasses
from importlib.util import find_spec

import pytest
import torch
from model_families import save_family
from safetensors import safe_open

from rlhf_lessons.models import LanguagePolicy
from rlhf_lessons.models.checkpoints import (
    CheckpointError,
    list_checkpoints,
    load_people_judge,
    load_policy,
    load_reward_model,
)
from rlhf_lessons.training import recipes
from rlhf_lessons.training.recipes import (
    RECIPES,
    AdapterRecipe,
    JudgeRecipe,
    RewardRecipe,
    build_checkpoint,
    main,
)
from rlhf_lessons.training.supervised import SupervisedSettings, held_out_nll
from rlhf_lessons.worlds import FilmSnippet, openings_of

POLICIES = ("reviews-base", "reviews-sft")
# An adapter is made where the extra lora is installed.
MADE = [name for name in RECIPES if name != "smollm2-snippets" or find_spec("peft")]


def shrink(name: str):
    """The recipe of a shipped model with next to no work in it."""
    if isinstance(RECIPES[name], RewardRecipe):
        settings = dataclasses.replace(RECIPES[name].settings, steps=3, batch_size=4)
        return dataclasses.replace(RECIPES[name], pairs=20, validation=10, settings=settings)
    if isinstance(RECIPES[name], JudgeRecipe):
        return dataclasses.replace(RECIPES[name], layers=(1, 2), ending=" the film")
    if isinstance(RECIPES[name], AdapterRecipe):
        settings = SupervisedSettings(steps=3, batch_size=4, warmup=0.3)
        return dataclasses.replace(RECIPES[name], settings=settings)
    return dataclasses.replace(
        RECIPES[name],
        size={"width": 8, "layers": 1, "heads": 2, "context": 96, "seed": 0},
        examples=40,
        validation=10,
        settings=SupervisedSettings(steps=3, batch_size=4, warmup=0.3),
    )


SNIPPETS = [
    FilmSnippet(f"the film was {word} . it made me {end}", rating)
    for end in ("smile", "leave", "think")
    for word, rating in (("good", 2.5), ("dull", -1.5), ("bad", -2.0), ("so so", 0.1))
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return LanguagePolicy.from_pretrained(save_family("llama", tmp_path_factory.mktemp("llama")))


@pytest.fixture(autouse=True)
def parts(monkeypatch, llama):
    """In the place of what is fetched: a tiny llama and a dozen snippets."""

    def load(name, folder=None):
        return llama if name == "smollm2" else load_policy(name, folder)

    monkeypatch.setattr(recipes, "load_policy", load)
    monkeypatch.setattr(recipes, "load_snippets", lambda: (SNIPPETS, SNIPPETS[::2]))
    monkeypatch.setattr(recipes, "part_damage", lambda name: [])


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(recipes, "RECIPES", {name: shrink(name) for name in MADE})


def test_the_same_bytes_each_time(tmp_path):
    entries = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        torch.rand(3)  # the state of torch's own generator must not matter
        entries.append([build_checkpoint(shrink(name), folder) for name in MADE])
    assert entries[0] == entries[1]
    for name in MADE:
        for path in (tmp_path / "a" / name).iterdir():
            assert path.read_bytes() == (tmp_path / "b" / name / path.name).read_bytes()


def test_the_entry_says_what_was_made(tmp_path):
    recipe = shrink("reviews-base")
    build_checkpoint(recipe, tmp_path)
    (checkpoint,) = list_checkpoints(tmp_path)
    policy = load_policy("reviews-base", tmp_path)
    validation = recipe.sample(recipe.validation, recipe.data_seed + 1)
    assert checkpoint.held_out_nll == pytest.approx(held_out_nll(policy, validation), abs=1e-4)
    assert checkpoint.steps == 3 and checkpoint.seed == 0
    assert checkpoint.recipe["size"] == recipe.size
    assert checkpoint.recipe["settings"]["learning_rate"] == recipe.settings.learning_rate
    assert torch.__version__.startswith(checkpoint.versions["torch"])  # "2.6.0+cu124"
    assert {path.name for path in checkpoint.folder.iterdir()} == set(checkpoint.files)


def test_fine_tuning_starts_from_the_base_model(tmp_path):
    build_checkpoint(shrink("reviews-base"), tmp_path)
    barely = dataclasses.replace(
        shrink("reviews-sft"),
        settings=SupervisedSettings(steps=1, warmup=0.0, learning_rate=1e-9, weight_decay=0.0),
    )
    build_checkpoint(barely, tmp_path)
    base, tuned = (load_policy(name, tmp_path) for name in POLICIES)
    for before, after in zip(base.parameters(), tuned.parameters(), strict=True):
        torch.testing.assert_close(before, after, rtol=0, atol=1e-8)


def test_a_reward_model_is_a_normalised_judge_of_its_policy(tmp_path):
    for name in MADE:
        build_checkpoint(shrink(name), tmp_path)
    model = load_reward_model("reviews-reward", tmp_path)
    entry = next(c for c in list_checkpoints(tmp_path) if c.name == "reviews-reward")
    assert entry.held_out_nll == pytest.approx(0.6931, abs=0.05)  # nothing is learned in 3 steps
    assert entry.recipe["noise"] == 1.5 and entry.recipe["settings"]["steps"] == 3
    assert model(["a film ."], ["i loved it ."]).shape == (1,)
    assert model.scale != 1.0


def test_a_judge_of_people_is_fitted_to_their_ratings(tmp_path, llama):
    entry = build_checkpoint(shrink("people-judge"), tmp_path)
    judge = load_people_judge(llama, folder=tmp_path)
    assert judge.layers == (1, 2) and judge.ending == " the film"
    assert entry["parameters"] == 2 * 3 * 32 + 1 and entry["steps"] == 0
    assert set(entry["files"]) == {"config.json", "model.safetensors"}
    texts, ratings = zip(*SNIPPETS, strict=True)
    scores = judge([""] * len(texts), texts)
    mean = sum(ratings) / len(ratings)
    assert float((scores - torch.tensor(ratings)).square().mean()) < 0.9 * float(
        (mean - torch.tensor(ratings)).square().mean()
    )


def test_an_adapter_is_small_says_what_it_changed_and_is_rounded_before_it_is_measured(
    tmp_path, llama
):
    pytest.importorskip("peft", reason="the extra lora is not installed")
    recipe = dataclasses.replace(
        shrink("smollm2-snippets"),
        settings=SupervisedSettings(steps=20, batch_size=4, learning_rate=1e-2),
    )
    entry = build_checkpoint(recipe, tmp_path)
    assert set(entry["files"]) == {"adapter_config.json", "adapter_model.safetensors"}
    with safe_open(tmp_path / recipe.name / "adapter_model.safetensors", "pt") as file:
        stored = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
        assert list(file.metadata()) and file.metadata()["format"] == "pt"
    assert {weight.dtype for weight in stored} == {torch.float16}
    assert entry["parameters"] == sum(weight.numel() for weight in stored)

    policy = LanguagePolicy.from_pretrained(tmp_path / recipe.name, base=llama.model.name_or_path)
    assert {weight.dtype for weight in policy.parameters()} == {torch.float32}
    texts = [snippet.text for snippet in SNIPPETS[::2]]
    held_out = openings_of(llama.tokenizer, texts, recipe.max_new_tokens, recipe.data_seed + 1)
    (checkpoint,) = list_checkpoints(tmp_path)
    assert checkpoint.held_out_nll == pytest.approx(held_out_nll(policy, held_out), abs=1e-4)
    before = held_out_nll(llama, held_out)
    assert checkpoint.held_out_nll_before == pytest.approx(before, abs=1e-4)
    assert checkpoint.held_out_nll < before - 0.1


def test_without_the_fetched_parts_all_others_are_built(tmp_path, small, monkeypatch, capsys):
    monkeypatch.setattr(recipes, "part_damage", lambda name: ["it is not there"])
    assert main(["--folder", str(tmp_path), "build"]) == 0
    assert "people-judge: left out; it needs python -m rlhf_lessons real get" in (
        capsys.readouterr().out
    )
    assert sorted(c.name for c in list_checkpoints(tmp_path)) == sorted(
        set(MADE) - {"people-judge", "smollm2-snippets"}
    )


def test_each_kind_has_its_own_loader(tmp_path, llama):
    for name in MADE:
        build_checkpoint(shrink(name), tmp_path)
    with pytest.raises(ValueError, match="reviews-reward is a reward model; load_reward_model"):
        load_policy("reviews-reward", tmp_path)
    with pytest.raises(ValueError, match="reviews-sft is a policy; load_policy loads it"):
        load_reward_model("reviews-sft", tmp_path)
    with pytest.raises(ValueError, match="people-judge is a judge of people; load_people_judge"):
        load_policy("people-judge", tmp_path)
    with pytest.raises(ValueError, match="reviews-sft is a policy"):
        load_people_judge(llama, "reviews-sft", tmp_path)


def test_fine_tuning_needs_a_sound_base_model(tmp_path):
    with pytest.raises(CheckpointError, match="reviews-sft starts from reviews-base"):
        build_checkpoint(shrink("reviews-sft"), tmp_path)
    build_checkpoint(shrink("reviews-base"), tmp_path)
    (tmp_path / "reviews-base" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"config.json is cut off.*build reviews-base"):
        build_checkpoint(shrink("reviews-sft"), tmp_path)


def test_threads_are_given_back(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        build_checkpoint(shrink("reviews-base"), tmp_path)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_recipes_are_those_of_the_shipped_models():
    for checkpoint in list_checkpoints():
        assert RECIPES[checkpoint.name].as_json() == checkpoint.recipe


def test_build_verify_list(tmp_path, small, capsys):
    folder = ["--folder", str(tmp_path)]
    assert main([*folder, "verify"]) == 1
    assert "manifest.json is missing" in capsys.readouterr().err

    assert main([*folder, "build", "reviews-base"]) == 0
    assert "reviews-base: built, held-out loss" in capsys.readouterr().out
    assert main([*folder, "verify"]) == 1
    lines = capsys.readouterr().out.splitlines()
    missing = [name for name in MADE if name != "reviews-base"]
    assert lines == ["reviews-base: sound"] + [
        line
        for name in missing
        for line in (
            f"{name}: not in manifest.json",
            f"  make it again: python -m rlhf_lessons models build {name}",
        )
    ]

    assert main([*folder, "build"]) == 0
    assert main([*folder, "verify"]) == 0
    sound = "".join(f"{name}: sound\n" for name in sorted(MADE))
    assert capsys.readouterr().out.endswith(sound)
    assert main([*folder, "list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == sorted(MADE)

    (tmp_path / "reviews-sft" / "tokenizer.json").write_text("{}")
    assert main([*folder, "verify"]) == 1
    assert "tokenizer.json is cut off" in capsys.readouterr().out


def test_unknown_names_and_commands(capsys):
    for words, fragment in (
        (
            ["build", "gpt"],
            "no recipe for gpt; there are reviews-base, reviews-sft, reviews-reward",
        ),
        (["paint"], "invalid choice"),
        ([], "required"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2
        assert fragment in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(tmp_path, small, capsys):
    (tmp_path / "file").write_text("")
    assert main(["--folder", str(tmp_path / "file" / "below"), "build", "reviews-base"]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_told_before_training(tmp_path, monkeypatch):
    def never(*arguments):
        raise AssertionError("trained in vain")

    monkeypatch.setattr(recipes, "_trained_policy", never)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="file"):
        build_checkpoint(shrink("reviews-base"), tmp_path / "file" / "models")


def test_ctrl_c_leaves_the_models_as_they_were(tmp_path, small, monkeypatch, capsys):
    main(["--folder", str(tmp_path), "build", "reviews-base"])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(recipes, "_trained_policy", interrupt)
    assert main(["--folder", str(tmp_path), "build", "reviews-base"]) == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("stopped; the models")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_half_precision_is_half_as_large_and_loads_as_float32(tmp_path):
    recipe = shrink("facts-base")
    assert recipe.stored_as == "float16"
    sizes = {}
    for stored_as in ("float32", "float16"):
        entry = build_checkpoint(dataclasses.replace(recipe, stored_as=stored_as), tmp_path)
        sizes[stored_as] = entry["files"]["model.safetensors"]["bytes"]
    assert sizes["float16"] < 0.6 * sizes["float32"]
    policy = load_policy("facts-base", tmp_path)
    assert {weight.dtype for weight in policy.parameters()} == {torch.float32}
    validation = recipe.sample(recipe.validation, recipe.data_seed + 1)
    # The loss in the manifest is that of the rounded weights.
    assert held_out_nll(policy, validation) == pytest.approx(entry["held_out_nll"], abs=6e-5)
