"""How the shipped models are made, and the command that makes them.

    python -m rlhf_lessons models list
    python -m rlhf_lessons models verify
    python -m rlhf_lessons models build reviews-base reviews-sft reviews-reward

A recipe names everything that a model depends on: its size, its data, its settings, its seeds. On
one machine, with the same libraries and loops, it gives the same bytes each time; where one of them
sums in another order it gives another model of the same quality. The shipped weights were not made
anew for such a change, since the measurements of the lessons stand on them.

Left out on purpose: choosing settings. They are written here once; lessons 2 and 7 show what they
do.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf_lessons.models.checkpoints import (
    CHECKPOINT_FOLDER,
    CheckpointError,
    list_checkpoints,
    load_policy,
    verify_checkpoints,
)
from rlhf_lessons.models.language_policy import LanguagePolicy
from rlhf_lessons.models.people_judge import PeopleJudge
from rlhf_lessons.models.reward_model import RewardModel
from rlhf_lessons.models.small_gpt2 import small_gpt2
from rlhf_lessons.models.tokenizer import word_tokenizer
from rlhf_lessons.real_parts import PARTS, PartError, part_damage
from rlhf_lessons.training.people_judge import fit_people_judge
from rlhf_lessons.training.reward_model import RewardSettings, train_reward_model
from rlhf_lessons.training.supervised import SupervisedSettings, held_out_nll, train_sft
from rlhf_lessons.training.versions import versions
from rlhf_lessons.whole_files import fingerprint, replace_file
from rlhf_lessons.worlds.fact_corpus import (
    fact_vocabulary,
    sample_fact_demonstrations,
    sample_fact_documents,
)
from rlhf_lessons.worlds.film_snippets import load_snippets
from rlhf_lessons.worlds.labellers import NoisyComparer, label_pairs
from rlhf_lessons.worlds.reviews import (
    VOCABULARY,
    gold_reward,
    sample_prompts,
    sample_reviews,
    sample_web_text,
)
from rlhf_lessons.worlds.sums import SUMS_VOCABULARY, sample_sum_demonstrations
from rlhf_lessons.worlds.texts import openings_of

__all__ = [
    "RECIPES",
    "AdapterRecipe",
    "JudgeRecipe",
    "Recipe",
    "RewardRecipe",
    "build_checkpoint",
    "main",
]


@dataclass(frozen=True)
class Recipe:
    """Everything that a shipped model is made from.

    Attributes:
        name: Name of the model.
        summary: One sentence about what it is trained on.
        start: Name of the model whose weights it starts from; None for new weights.
        vocabulary: Words of its tokenizer; used where the weights are new.
        size: Arguments of ``small_gpt2``; used where the weights are new.
        sample: ``sample(n, seed)`` -> n examples (prompt, response).
        data: What ``sample`` writes, in words.
        examples: Number of examples to train on.
        validation: Number of examples to measure the held-out loss on.
        data_seed: Seed of the training examples; the validation set has the next one.
        settings: Settings of ``train_sft``.
        stored_as: "float32", or "float16" for files of half the size: the weights are then rounded
            once, when training is done, and loaded as float32 again.
    """

    name: str
    summary: str
    start: str | None
    vocabulary: tuple[str, ...]
    size: dict[str, int]
    sample: Callable[[int, int], list[tuple[str, str]]]
    data: str
    examples: int
    validation: int
    data_seed: int
    settings: SupervisedSettings
    stored_as: str = "float32"

    def as_json(self) -> dict:
        """Give the recipe as JSON values, the vocabulary by its size alone."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for left_out in ("name", "summary", "sample"):
            del values[left_out]
        values["vocabulary"] = len(self.vocabulary)
        values["settings"] = dataclasses.asdict(self.settings)
        if self.stored_as == "float32":
            del values["stored_as"]
        return values


@dataclass(frozen=True)
class RewardRecipe:
    """Everything that a shipped reward model is made from.

    The policy it starts from answers each prompt twice; noisy Bradley-Terry raters of the gold
    reward choose. Pairs of equal responses are left out.

    Attributes:
        name: Name of the model.
        summary: One sentence about what it is trained on.
        start: Name of the policy that writes the responses and lends its body.
        pairs: Number of prompts answered twice for training.
        validation: Number of prompts answered twice for the held-out loss.
        noise: Temperature T of the raters; 0 agrees with the gold reward always.
        max_new_tokens: Most tokens of a response.
        data_seed: Seed of prompts, responses and raters.
        settings: Settings of ``train_reward_model``.
    """

    name: str
    summary: str
    start: str
    pairs: int
    validation: int
    noise: float
    max_new_tokens: int
    data_seed: int
    settings: RewardSettings

    def as_json(self) -> dict:
        """Give the recipe as JSON values."""
        values = dataclasses.asdict(self)
        del values["name"], values["summary"]
        return {"data": "worlds.NoisyComparer(worlds.gold_reward)", **values}


def _web_text(n: int, seed: int) -> list[tuple[str, str]]:
    return [("", text) for text in sample_web_text(n, seed)]


def _fact_texts(n: int, seed: int) -> list[tuple[str, str]]:
    return [("", document.text) for document in sample_fact_documents(n, seed)]


def _fact_demonstrations(n: int, seed: int) -> list[tuple[str, str]]:
    # Half of the examples are pretraining text: without it, fine-tuning on a few subjects makes the
    # model forget what it knew of the others.
    half = n // 2
    return [*sample_fact_demonstrations(n - half, seed), *_fact_texts(half, seed)]


_SIZE = {"width": 64, "layers": 3, "heads": 4, "context": 64, "seed": 0}

_FACTS_SIZE = {"width": 128, "layers": 4, "heads": 4, "context": 96, "seed": 0}

_SUMS_SIZE = {"width": 64, "layers": 3, "heads": 4, "context": 40, "seed": 0}


@dataclass(frozen=True)
class JudgeRecipe:
    """Everything that the shipped judge of people is made from.

    Attributes:
        name: Name of the judge.
        summary: One sentence about what it is fitted to.
        start: Name of the language model whose body it reads; it and the ratings are fetched.
        layers: Layers that are read.
        ending: What is added to each text.
        ridges: Strengths of the ridge to choose from.
    """

    name: str
    summary: str
    start: str
    layers: tuple[int, ...]
    ending: str
    ridges: tuple[float, ...]

    def as_json(self) -> dict:
        """Give the recipe as JSON values."""
        values = dataclasses.asdict(self)
        del values["name"], values["summary"]
        for name in ("layers", "ridges"):
            values[name] = list(values[name])
        return {"data": "worlds.load_snippets", **values}


@dataclass(frozen=True)
class AdapterRecipe:
    """Everything that a shipped adapter on a fetched model is made from.

    The model is fine-tuned on film snippets: an opening of 2 to 8 tokens is the prompt, what
    follows the response.

    Attributes:
        name: Name of the adapted model.
        summary: One sentence about what it is trained on.
        start: Name of the language model it stands on; it and the snippets are fetched.
        rank: Rows of A and columns of B.
        max_new_tokens: Most tokens of a response, its end token included.
        validation: Number of held-out snippets to measure the loss on.
        data_seed: Seed of the lengths of the openings; those to measure on have the next one.
        settings: Settings of ``train_sft``.
    """

    name: str
    summary: str
    start: str
    rank: int
    max_new_tokens: int
    validation: int
    data_seed: int
    settings: SupervisedSettings

    def as_json(self) -> dict:
        """Give the recipe as JSON values."""
        values = dataclasses.asdict(self)
        del values["name"], values["summary"]
        return {"data": "worlds.load_snippets", **values, "stored_as": "float16"}


RECIPES: dict[str, Recipe | RewardRecipe | JudgeRecipe | AdapterRecipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="reviews-base",
            summary="pretrained on web text: reviews, fragments, small talk, insults",
            start=None,
            vocabulary=VOCABULARY,
            size=_SIZE,
            sample=_web_text,
            data="worlds.sample_web_text",
            examples=50_000,
            validation=1_000,
            data_seed=100,
            settings=SupervisedSettings(
                steps=2_000, batch_size=32, learning_rate=5e-3, warmup=0.05, evaluate_every=500
            ),
        ),
        Recipe(
            name="reviews-sft",
            summary="fine-tuned from reviews-base on clean reviews",
            start="reviews-base",
            vocabulary=VOCABULARY,
            size=_SIZE,
            sample=sample_reviews,
            data="worlds.sample_reviews",
            examples=50_000,
            validation=1_000,
            data_seed=200,
            settings=SupervisedSettings(
                steps=1_600, batch_size=32, learning_rate=3e-3, warmup=0.03125, evaluate_every=400
            ),
        ),
        RewardRecipe(
            name="reviews-reward",
            summary="a reward model from 4,000 noisy comparisons of reviews-sft's completions",
            start="reviews-sft",
            pairs=4_000,
            validation=1_000,
            noise=1.5,
            max_new_tokens=48,
            data_seed=300,
            settings=RewardSettings(steps=330, batch_size=32, average=0.98, evaluate_every=330),
        ),
        Recipe(
            name="facts-base",
            summary="pretrained on documents about invented people and drugs",
            start=None,
            vocabulary=fact_vocabulary(),
            size=_FACTS_SIZE,
            sample=_fact_texts,
            data="worlds.sample_fact_documents",
            examples=96_000,
            validation=500,
            data_seed=100,
            settings=SupervisedSettings(
                steps=1_200, batch_size=80, learning_rate=5e-3, warmup=0.083, evaluate_every=300
            ),
            stored_as="float16",
        ),
        Recipe(
            name="facts-sft",
            summary="fine-tuned from facts-base on long answers, half of the text as before",
            start="facts-base",
            vocabulary=fact_vocabulary(),
            size=_FACTS_SIZE,
            sample=_fact_demonstrations,
            data="worlds.sample_fact_demonstrations and worlds.sample_fact_documents, half each",
            examples=24_000,
            validation=500,
            data_seed=200,
            settings=SupervisedSettings(
                steps=500, batch_size=48, learning_rate=1e-3, warmup=0.02, evaluate_every=250
            ),
            stored_as="float16",
        ),
        Recipe(
            name="sums-sft",
            summary="fine-tuned on sums that people answer step by step, at once or in doubt",
            start=None,
            vocabulary=SUMS_VOCABULARY,
            size=_SUMS_SIZE,
            sample=sample_sum_demonstrations,
            data="worlds.sample_sum_demonstrations",
            examples=32_000,
            validation=500,
            data_seed=100,
            settings=SupervisedSettings(
                steps=1_000, batch_size=32, learning_rate=3e-3, warmup=0.05, evaluate_every=500
            ),
            stored_as="float16",
        ),
        JudgeRecipe(
            name="people-judge",
            summary="what people would say of a film snippet, read from the body of smollm2",
            start="smollm2",
            layers=(16, 22),
            ending=" Overall, the film was",
            ridges=(1000.0, 2000.0, 3000.0, 5000.0, 8000.0, 12_000.0),
        ),
        AdapterRecipe(
            name="smollm2-snippets",
            summary="fine-tuned from smollm2 on film snippets: an adapter of rank 2",
            start="smollm2",
            rank=2,
            max_new_tokens=48,
            validation=256,
            data_seed=0,
            settings=SupervisedSettings(
                steps=300, batch_size=32, learning_rate=1e-3, warmup=0.05, evaluate_every=300
            ),
        ),
    )
}
"""The recipe of each shipped model, by name, each after the one it starts from."""


def build_checkpoint(
    recipe: Recipe | RewardRecipe | JudgeRecipe | AdapterRecipe,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> dict:
    """Train a shipped model and write it to disk with its entry in the manifest.

    Training runs on one thread, so that sums are added up in the same order each time; that of an
    adapter, whose model is a hundred times as large as the others, on two. The folder
    of the model and the manifest are each replaced as a whole; the manifest comes last, so that an
    interrupted build can be noticed and never be loaded.

    Args:
        recipe: What to make it from.
        folder: Where models and manifest go; None takes ``CHECKPOINT_FOLDER``.
        progress: Whether to draw a progress bar on standard error.

    Returns:
        The entry of the manifest.

    Raises:
        CheckpointError: If the model it starts from is missing or damaged.
        PartError: If the ratings it is fitted to were not fetched.
        OSError: If the files cannot be written.
    """
    import torch

    folder = CHECKPOINT_FOLDER if folder is None else Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass  # a folder that cannot be written is told before minutes of training, not after
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if isinstance(recipe, AdapterRecipe) else 1)
    try:
        start = None
        if recipe.start is not None:
            try:
                start = load_policy(recipe.start, folder)
            except (CheckpointError, ValueError) as error:
                raise CheckpointError(
                    f"{recipe.name} starts from {recipe.start}, which cannot be loaded: {error}"
                ) from error
        train = {
            Recipe: _trained_policy,
            RewardRecipe: _trained_reward_model,
            JudgeRecipe: _fitted_judge,
            AdapterRecipe: _trained_adapter,
        }[type(recipe)]
        model, *losses = train(recipe, start, progress)
        rounded = [round(loss, 4) for loss in losses]
        learned = [weight for weight in model.parameters() if weight.requires_grad]
        entry = {
            "summary": recipe.summary,
            "parameters": sum(weight.numel() for weight in learned),
            # A closed form takes no steps and draws nothing.
            "steps": recipe.settings.steps if hasattr(recipe, "settings") else 0,
            "seed": recipe.settings.seed if hasattr(recipe, "settings") else 0,
            **dict(zip(("held_out_nll", "held_out_nll_before"), rounded, strict=False)),
            "recipe": recipe.as_json(),
            "versions": versions(),
        }
    finally:
        torch.set_num_threads(threads)
    if entry["recipe"].get("stored_as") == "float16":
        for weight in learned:
            weight.data = weight.data.half()
    model.save_pretrained(folder / recipe.name)
    entry["files"] = _finish(folder / recipe.name)
    _update_manifest(folder / "manifest.json", recipe.name, entry)
    return entry


def _trained_policy(
    recipe: Recipe, start: LanguagePolicy | None, progress: bool
) -> tuple[LanguagePolicy, float]:
    from tqdm import tqdm

    policy = start
    if policy is None:
        tokenizer = word_tokenizer(recipe.vocabulary)
        policy = LanguagePolicy(small_gpt2(len(tokenizer), **recipe.size), tokenizer)
    examples = recipe.sample(recipe.examples, recipe.data_seed)
    validation = recipe.sample(recipe.validation, recipe.data_seed + 1)
    loop = train_sft(policy, examples, recipe.settings, validation=validation)
    bar = tqdm(loop, recipe.name, total=recipe.settings.steps, disable=not progress, unit="step")
    for record in bar:
        if record.validation_loss is not None:
            bar.set_postfix(validation_loss=f"{record.validation_loss:.3f}")
    if recipe.stored_as == "float16":
        policy.model.half().float()  # rounded before it is measured
    return policy, held_out_nll(policy, validation)


def _trained_reward_model(
    recipe: RewardRecipe, start: LanguagePolicy, progress: bool
) -> tuple[RewardModel, float]:
    import torch
    from tqdm import tqdm

    generator = torch.Generator().manual_seed(recipe.data_seed)
    prompts = sample_prompts(recipe.pairs + recipe.validation, recipe.data_seed)
    first, second = (
        start.sample(prompts, recipe.max_new_tokens, generator=generator).responses
        for _ in range(2)
    )
    raters = NoisyComparer(gold_reward, recipe.noise)
    labelled = label_pairs(raters, prompts, first, second, recipe.data_seed)
    training, validation = (
        [pair for pair in part if pair.chosen != pair.rejected]
        for part in (labelled[: recipe.pairs], labelled[recipe.pairs :])
    )
    model = RewardModel.from_policy(start)
    loop = train_reward_model(model, training, recipe.settings, validation=validation)
    bar = tqdm(loop, recipe.name, total=recipe.settings.steps, disable=not progress, unit="step")
    validation_loss = None
    for record in bar:
        validation_loss = record.validation_loss
    model.normalise(prompts[: recipe.validation], first[: recipe.validation])
    return model, validation_loss


def _fitted_judge(
    recipe: JudgeRecipe, start: LanguagePolicy, progress: bool
) -> tuple[PeopleJudge, float]:
    import torch
    from tqdm import tqdm

    training, validation = load_snippets()
    judge = PeopleJudge(start, layers=recipe.layers, ending=recipe.ending)
    texts = [snippet.text for snippet in training]
    many = 8 * judge.batch_size  # among many, texts of like length find each other
    parts = tqdm(range(0, len(texts), many), recipe.name, disable=not progress, unit="part")
    features = torch.cat([judge.features(texts[at : at + many]) for at in parts])
    fit = fit_people_judge(judge, features, [s.rating for s in training], recipe.ridges)
    scores = judge([""] * len(validation), [snippet.text for snippet in validation])
    return judge, fit.nll(torch.tensor([snippet.rating for snippet in validation]), scores)


def _trained_adapter(
    recipe: AdapterRecipe, start: LanguagePolicy, progress: bool
) -> tuple[LanguagePolicy, float, float]:
    from tqdm import tqdm

    training, validation = (
        openings_of(start.tokenizer, [s.text for s in part], recipe.max_new_tokens, seed)
        for seed, part in enumerate(load_snippets(), recipe.data_seed)
    )
    validation = validation[: recipe.validation]
    before = held_out_nll(start, validation)
    policy = start.with_adapter(recipe.rank, seed=recipe.settings.seed)
    loop = train_sft(policy, training, recipe.settings)
    for _ in tqdm(loop, recipe.name, recipe.settings.steps, disable=not progress, unit="step"):
        pass
    for weight in policy.parameters():
        if weight.requires_grad:
            weight.data = weight.data.half().float()  # rounded before it is measured
    return policy, held_out_nll(policy, validation), before


# What every version of peft reads; all else that it writes is as it is where nothing is said.
_ADAPTER_KEYS = (
    "base_model_name_or_path", "fan_in_fan_out", "inference_mode", "lora_alpha", "peft_type", "r",
    "target_modules", "task_type",
)  # fmt: skip


def _finish(folder: Path) -> dict[str, dict]:
    """Make the saved files fit to be shipped, and list them with size and SHA-256."""
    if (folder / "adapter_config.json").exists():  # its tokenizer is that of its base
        for path in folder.iterdir():
            if not path.name.startswith("adapter_"):
                path.unlink()
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        _write_json(folder / "adapter_config.json", {key: config[key] for key in _ADAPTER_KEYS})
        _sort_metadata(folder / "adapter_model.safetensors")
    # The class name that every version of transformers reads; 5 writes one of its own.
    changes = {
        "config.json": {},
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"},
    }
    for name, change in changes.items():
        if not (folder / name).exists():
            continue  # a judge has no tokenizer of its own
        values = json.loads((folder / name).read_text(encoding="utf-8"))
        for loaded_how in ("_name_or_path", "is_local", "local_files_only"):
            values.pop(loaded_how, None)
        _write_json(folder / name, {**values, **change})
    files = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors"):
            path.chmod(0o644)  # safetensors writes files for the owner's eyes only
            files[path.name] = fingerprint(path)
    return files


def _sort_metadata(path: Path) -> None:
    """Put what a safetensors file says of itself in order: safetensors writes it in any."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode().ljust(end - 8)
    path.write_bytes(content[:8] + text + content[end:])


def _update_manifest(path: Path, name: str, entry: dict) -> None:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # a missing or broken manifest starts anew
        entries = {}
    _write_json(path, dict(sorted({**entries, name: entry}.items())))


def _write_json(path: Path, values: dict) -> None:
    replace_file(path, json.dumps(values, indent=2) + "\n")


# --- the command ----------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m rlhf_lessons models``: list, verify or build the shipped models.

    Args:
        argv: The words after ``models``; None takes those of the command line.

    Returns:
        0 when all went well, 1 when a model is missing or damaged or could not be made, 130 when
        Ctrl-C stopped it.
    """
    parser = argparse.ArgumentParser(
        prog="python -m rlhf_lessons models",
        description="List, verify or rebuild the small models that come with the course.",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=CHECKPOINT_FOLDER,
        help="where the models are (the folder inside the package when left out)",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="name the models, with size and held-out loss")
    commands.add_parser("verify", help="compare every file with the manifest")
    build = commands.add_parser("build", help="train models again, minutes each")
    build.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(RECIPES)}; all when left out"
    )
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "build":
            unknown = [name for name in arguments.names if name not in RECIPES]
            if unknown:
                build.error(f"no recipe for {', '.join(unknown)}; there are {', '.join(RECIPES)}")
            return _build(arguments.names, arguments.folder)
        return {"list": _list, "verify": _verify}[arguments.command](arguments.folder)
    except (CheckpointError, ImportError, PartError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the models that were there are unchanged", file=sys.stderr)
        return 130


def _build(names: Sequence[str], folder: Path) -> int:
    for recipe in RECIPES.values():  # in the order of what starts from what
        if not names and recipe.start in PARTS and any(map(part_damage, PARTS)):
            print(f"{recipe.name}: left out; it needs python -m rlhf_lessons real get")
        elif not names or recipe.name in names:
            entry = build_checkpoint(recipe, folder, progress=True)
            print(f"{recipe.name}: built, held-out loss {entry['held_out_nll']:.4f} nats")
    return 0


def _list(folder: Path) -> int:
    for checkpoint in list_checkpoints(folder):
        print(
            f"{checkpoint.name:<16} {checkpoint.parameters:>9,} weights "
            f"{checkpoint.size / 1e6:5.2f} MB  "
            f"held-out loss {checkpoint.held_out_nll:.3f}  {checkpoint.summary}"
        )
    return 0


def _verify(folder: Path) -> int:
    damage = verify_checkpoints(folder)
    damage.update({name: ["not in manifest.json"] for name in RECIPES if name not in damage})
    for name, problems in damage.items():
        print(f"{name}: {'; '.join(problems) if problems else 'sound'}")
        if problems:
            print(f"  make it again: python -m rlhf_lessons models build {name}")
    return 1 if any(damage.values()) else 0
