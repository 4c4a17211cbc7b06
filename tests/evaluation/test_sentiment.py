"""The sentiment experiment: every method from files on disk, stopped and gone on with, refused."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from model_families import save_family

from rlhf_lessons.__main__ import main
from rlhf_lessons.evaluation import SentimentRun, SentimentSettings, frontier_point
from rlhf_lessons.evaluation.sentiment import methods, sources, stages
from rlhf_lessons.models import (
    LanguagePolicy,
    RewardModel,
    SequenceClassifierJudge,
    list_checkpoints,
)
from rlhf_lessons.training import SupervisedSettings, train_sft
from rlhf_lessons.worlds import FilmSnippet, load_preferences

GOOD = ("lovely", "great", "fine", "warm")
BAD = ("dull", "cold", "poor", "bad")


def review(dice: random.Random) -> dict:
    label = dice.randrange(2)
    words = [dice.choice(GOOD if label else BAD) for _ in range(2)]
    noun = dice.choice(("film", "plot", "cast", "music"))
    text = f"We saw this {noun} last week.<br />It was {words[0]} and {words[1]}. The end."
    return {"review": text, "label": label}


def bpe(texts):
    """Byte-level BPE with an end token and no padding token, like GPT-2's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with a small policy, a small judge and a data set, all saved by their libraries."""
    from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

    home = tmp_path_factory.mktemp("home")
    dice = random.Random(0)
    parts = {name: [review(dice) for _ in range(n)] for name, n in (("train", 60), ("test", 12))}
    try:
        import datasets
    except ImportError:
        (home / "data").mkdir()
        for name, rows in parts.items():
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (home / "data" / f"{name}.jsonl").write_text(text)
    else:
        tables = {name: datasets.Dataset.from_list(rows) for name, rows in parts.items()}
        datasets.DatasetDict(tables).save_to_disk(str(home / "data"))

    tokenizer = bpe([row["review"] for row in parts["train"]])
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 48}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes, **ends))
    policy = LanguagePolicy(model, tokenizer)
    # It must have learned to end, which PPO asks for.
    texts = [
        (
            "We saw",
            row["review"].replace("<br />", " ").removeprefix("We saw"),
        )
        for row in parts["train"]
    ]
    settings = SupervisedSettings(steps=60, batch_size=16, learning_rate=1e-2)
    for _ in train_sft(policy, texts, settings):
        pass
    policy.save_pretrained(home / "policy")

    reader = bpe([row["review"] for row in parts["train"]])
    reader.add_special_tokens({"pad_token": "<pad>"})
    judge = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(reader), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=16, max_position_embeddings=64, num_labels=2,
            id2label={0: "NEGATIVE", 1: "POSITIVE"}, pad_token_id=reader.pad_token_id,
        )
    )  # fmt: skip
    with torch.no_grad():  # a fresh one finds all texts alike
        for weight in judge.parameters():
            weight.mul_(8)
    judge.save_pretrained(home / "judge")
    reader.save_pretrained(home / "judge")
    return home


SMALL = {
    "prompts": 12, "completions": 3, "samples": 16, "max-new-tokens": 24, "batch-size": 8,
    "accumulate": 2, "learning-rate": 3e-3, "sft-steps": 2, "reward-steps": 2, "steps": 4,
    "measure-every": 2, "n": 4, "text-column": "review", "label-column": "label",
}  # fmt: skip


def words(home: Path, method: str, out: Path, **more) -> list[str]:
    options = {"policy": home / "policy", "data": home / "data", "judge": home / "judge"}
    options |= {"method": method, "out": out, **SMALL}
    options |= {name.replace("_", "-"): value for name, value in more.items()}
    return ["run", "sentiment", *(str(w) for pair in options.items() for w in _option(*pair))]


def _option(name: str, value: object) -> tuple[str, object]:
    return f"--{name}", value


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def done(home, tmp_path_factory):
    """Each method's folder, made once by the command."""
    made: dict[str, Path] = {}

    def folder(method: str) -> Path:
        if method not in made:
            out = tmp_path_factory.mktemp("runs") / method
            assert main(words(home, method, out)) == 0
            made[method] = out
        return made[method]

    return folder


# --- what comes out -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["sft", "rm", "dpo", "ppo", "bon"])
def test_a_method_from_the_shell(done, method):
    found = results(done(method))
    assert found["finished"] and found["settings"]["method"] == method
    assert f"--method {method}" in found["command"] and "torch" in found["versions"]
    assert {p["step"] for p in found["points"]} == ({1, 2, 4} if method == "bon" else {0, 2, 4})
    assert all(np.isfinite(list(point.values())).all() for point in found["points"])
    files = {path.name for path in done(method).iterdir()}
    own = {
        "sft": {"model"},
        "rm": {"sft", "pairs.jsonl", "held_out_pairs.jsonl", "model"},
        "dpo": {"sft", "pairs.jsonl", "model"},
        "ppo": {"sft", "pairs.jsonl", "reward_model", "model"},
        "bon": {"sft", "pairs.jsonl", "reward_model"},
    }
    assert files == {"results.json", "plot.png"} | own[method]
    assert (done(method) / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("method", ["sft", "dpo", "ppo"])
def test_the_saved_policy_is_the_one_that_was_measured(done, home, method):
    out = done(method)
    policy = LanguagePolicy.from_pretrained(out / "model")
    reference = LanguagePolicy.from_pretrained(home / "policy" if method == "sft" else out / "sft")
    judge = SequenceClassifierJudge.from_pretrained(home / "judge")
    run = stages.Stages(SentimentSettings(**results(out)["settings"]), out, "", False)
    again = frontier_point(
        policy, reference, run.measured_prompts, judge=judge, max_new_tokens=24, texts=6
    )
    before, *_, last = results(out)["points"]
    assert last["reward"] == pytest.approx(again.reward, abs=1e-5)  # batches padded alike
    assert last["kl"] == pytest.approx(again.kl, rel=1e-4) and last["kl"] > 0
    assert before["kl"] == 0 and before["step"] == 0
    assert [tuple(row) for row in results(out)["texts"]] == list(again.texts)
    again = frontier_point(
        reference, reference, run.measured_prompts, judge=judge, max_new_tokens=24, texts=6
    )
    assert [tuple(row) for row in results(out)["texts_before"]] == list(again.texts)


def test_pairs_are_ordered_by_the_judge_who_reads_prompt_and_response(done, home):
    judge = SequenceClassifierJudge.from_pretrained(home / "judge")
    pairs = load_preferences(done("dpo") / "pairs.jsonl")
    assert len(pairs) <= 11 * 3 and len({pair.prompt for pair in pairs}) > 3
    prompts, chosen, rejected = zip(*pairs, strict=True)
    assert (judge(prompts, chosen) >= judge(prompts, rejected)).all()
    # The tokens of this policy bring their own spaces.
    assert any(response.startswith(" ") for response in chosen)
    labels = [(row["review"].replace("<br />", " "), row["label"]) for row in _held_out(home)]
    right = [(judge([""], [text]).item() > 0) == bool(label) for text, label in labels]
    assert results(done("dpo"))["judge_accuracy"] == pytest.approx(np.mean(right))


def _held_out(home: Path) -> list[dict]:
    if (home / "data" / "test.jsonl").exists():
        return [json.loads(line) for line in (home / "data" / "test.jsonl").open()]
    import datasets

    return list(datasets.load_from_disk(str(home / "data"))["test"])


def test_the_reward_model_is_measured_on_pairs_of_other_prompts(done):
    out = done("rm")
    model = RewardModel.from_pretrained(out / "model")
    held_out = load_preferences(out / "held_out_pairs.jsonl")
    prompts, chosen, rejected = zip(*held_out, strict=True)
    margin = (model(prompts, chosen) - model(prompts, rejected)).double()
    before, *_, last = results(out)["points"]
    assert (
        before["held_out_loss"] == pytest.approx(np.log(2)) and before["held_out_accuracy"] == 0.5
    )
    assert last["held_out_loss"] == pytest.approx(float((-margin.sigmoid().log()).mean()), abs=1e-5)
    assert last["held_out_accuracy"] == pytest.approx(
        float(((margin > 0) + 0.5 * (margin == 0)).double().mean())
    )


def test_best_of_n_by_the_judge_itself_never_falls(home, tmp_path, capsys):
    assert main(words(home, "bon", tmp_path / "bon", reward="judge", n=3, samples=6)) == 0
    points = results(tmp_path / "bon")["points"]
    rewards = [point["reward"] for point in points]
    assert [point["step"] for point in points] == [1, 2, 3]
    assert np.diff(rewards).min() > -1e-9  # means of the same numbers, where the best is the same
    assert points[1]["kl"] == pytest.approx(np.log(2) - 0.5)
    table = capsys.readouterr().out
    assert f"best of 3   reward {rewards[-1]:+7.3f}" in table and "of the labels" in table
    assert not (tmp_path / "bon" / "pairs.jsonl").exists()


def test_the_offline_default(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = "--steps 2 --prompts 6 --samples 8 --batch-size 4 --measure-every 2".split()
    assert main(["run", "sentiment", *small]) == 0
    out = tmp_path / "runs" / "sentiment_reviews_dpo_beta0.1_seed0"
    found = results(out)
    assert found["settings"]["policy"] == "reviews-sft" and found["judge_accuracy"] is None
    assert "dpo, β = 0.1 from reviews-sft on reviews" in capsys.readouterr().out
    stamp = (out / "model" / "model.safetensors").stat().st_mtime_ns
    assert main(["run", "sentiment", *small]) == 0  # a finished run is shown, not done again
    assert "dpo, β = 0.1 from reviews-sft" in capsys.readouterr().out
    assert (out / "model" / "model.safetensors").stat().st_mtime_ns == stamp


# --- stopped, and gone on with --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "room", "part", "call"),
    [
        ("dpo", stages, "frontier_point", 2),  # while step 2, which has its checkpoint, is measured
        ("dpo", stages, "frontier_point", 3),  # while the end is measured
        ("dpo", stages, "best_of_n", 1),  # while pairs are sampled
        ("ppo", methods, "train_ppo", 1),
        ("rm", methods, "preference_accuracy", 2),
        ("sft", methods, "held_out_nll", 2),
    ],
)
def test_a_stopped_run_ends_like_one_that_was_not(
    done, home, tmp_path, monkeypatch, capsys, method, room, part, call
):
    whole, out = results(done(method)), tmp_path / "run"
    genuine, calls = getattr(room, part), []

    def stopped(*arguments, **named):
        calls.append(part)
        if len(calls) == call:
            raise KeyboardInterrupt
        return genuine(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(room, part, stopped)
        assert main(words(home, method, out)) == 130
    message = capsys.readouterr().err
    assert "To go on: python -m rlhf_lessons run sentiment" in message and str(out) in message
    assert not results(out)["finished"]
    assert main(words(home, method, out)) == 0
    found = results(out)
    assert found["points"][-1] == whole["points"][-1] and found["texts"] == whole["texts"]
    steps = [point["step"] for point in found["points"]]
    assert steps == ([0, 3, 4] if (part, call) in MEASURED_LATER else [0, 2, 4])


MEASURED_LATER = {("frontier_point", 2), ("preference_accuracy", 2), ("held_out_nll", 2)}


def test_a_folder_of_another_run_is_refused_by_the_name_of_what_differs(
    done, home, tmp_path, capsys
):
    assert main(words(home, "dpo", done("dpo"), beta=0.2, seed=1)) == 1
    assert "settings: beta (0.1, now 0.2), seed (0, now 1). Give" in capsys.readouterr().err
    (tmp_path / "results.json").write_text('{"settings": {}}')
    assert main(words(home, "dpo", tmp_path)) == 1
    assert "results.json is no record of a run: 'points'" in capsys.readouterr().err


def test_a_run_that_failed_at_once_keeps_no_folder(home, tmp_path, capsys):
    assert main(words(home, "dpo", tmp_path, text_column="text")) == 1
    assert "must have a column 'text', got 'review', 'label'" in capsys.readouterr().err
    SentimentSettings(**results(tmp_path)["settings"])
    assert main(words(home, "sft", tmp_path)) == 0


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--method rl", "invalid choice: 'rl' (choose from"),
        ("--beta 0", "SentimentSettings: beta must be a finite number > 0, got 0.0"),
        ("--beta nan", "beta must be a finite number > 0, got nan"),
        ("--steps 0", "steps must be a whole number ≥ 1, got 0"),
        ("--completions 1", "completions must be a whole number ≥ 2, got 1"),
        ("--label-temperature -1", "label_temperature must be a finite number ≥ 0, got -1.0"),
        ("--reward gold", "reward must be one of learned, judge, got 'gold'"),
        ("--data imdb --judge gold", "judge must be a sequence classifier for imdb"),
        ("--device quantum", "device must be one that PyTorch finds, got 'quantum'"),
    ],
)
def test_an_option_out_of_range_is_named(options, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["run", "sentiment", *options.split()])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_models_that_cannot_serve_are_named(home, tmp_path, capsys):
    def told(**more) -> str:
        assert main(words(home, "dpo", tmp_path / "out", **more)) == 1
        return capsys.readouterr().err

    reward = next(c.folder for c in list_checkpoints() if c.name == "reviews-reward")
    assert "GPT2ForSequenceClassification" in told(policy=reward)
    assert "holds GPT2LMHeadModel, which has no head" in told(judge=home / "policy")
    assert "got reviews-sft, which knows those of the offline world" in told(policy="reviews-sft")
    assert "--policy ./none: LanguagePolicy.from_pretrained: there is no folder" in (
        text := told(policy="./none")
    )
    assert text.rstrip().endswith("python -m rlhf_lessons run sentiment --method dpo")

    endless = tmp_path / "endless"
    shutil.copytree(home / "policy", endless)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        values = json.loads((endless / name).read_text())
        values = {k: v for k, v in values.items() if not k.startswith("eos_token")}
        (endless / name).write_text(json.dumps({**values, "eos_token_id": None}))
    text = told(policy=endless)
    assert "must have an end token" in text and "tokenizer.save_pretrained" in text


def test_a_hub_out_of_reach_is_named_with_the_way_without_it(home, tmp_path, monkeypatch, capsys):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert main(words(home, "dpo", tmp_path / "out", policy="nobodys-model")) == 1
    text = capsys.readouterr().err
    assert "--policy nobodys-model: LanguagePolicy.from_pretrained: could not load" in text
    assert "Without network and data: python -m rlhf_lessons run sentiment --method dpo" in text
    assert main(words(home, "dpo", tmp_path / "out", judge="nobodys-judge")) == 1
    assert "--judge nobodys-judge: SequenceClassifierJudge" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(home, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(words(home, "dpo", tmp_path / "file" / "run")) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_out_of_memory_says_what_to_lower(home, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise torch.OutOfMemoryError("train_dpo: it ran out. Raise accumulate")

    monkeypatch.setattr(methods, "train_dpo", full)
    assert main(words(home, "dpo", tmp_path / "out")) == 1
    assert "Raise accumulate" in capsys.readouterr().err


# --- real snippets, several runs, a judge of one's own --------------------------------------------

SNIPPETS = [
    FilmSnippet(f"the {noun} was {word} . it made me {end}", rating)
    for noun in ("film", "plot", "people")
    for word, rating in (("good", 2.5), ("dull", -1.5), ("bad", -2.0), ("fine", 0.1))
    for end in ("smile", "leave")
]


@pytest.fixture
def real(tmp_path, monkeypatch):
    """In the place of what is fetched: a tiny llama, a few lines, a judge in the working folder."""
    pytest.importorskip("peft", reason="the extra lora is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "load_snippets", lambda: (SNIPPETS[6:], SNIPPETS[:6]))
    monkeypatch.setattr(sources, "VaderJudge", lambda: lambda prompts, _: np.zeros(len(prompts)))
    save_family("llama", tmp_path / "llama")
    name = f"taste_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(
        "def praise(prompts, responses):\n"
        "    return [(p + r).count('o') - 0.1 * len(r) for p, r in zip(prompts, responses)]\n"
        "number = 3\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield [
        "run", "sentiment", "--policy", "llama", "--data", "snippets", "--judge", f"{name}:praise",
        *"--prompts 12 --samples 8 --steps 2 --batch-size 4 --max-new-tokens 10 --n 4".split(),
    ]  # fmt: skip
    sys.modules.pop(name, None)


def test_several_methods_and_betas_share_what_is_equal(real, tmp_path, monkeypatch, capsys):
    genuine, asked = stages.best_of_n, []

    def counted(policy, prompts, judge, n, **more):
        asked.append(len(prompts) * n)
        return genuine(policy, prompts, judge, n, **more)

    monkeypatch.setattr(stages, "best_of_n", counted)
    placed, place = [], stages.frontier_point
    monkeypatch.setattr(
        stages, "frontier_point", lambda *a, **k: placed.append(a) or place(*a, **k)
    )
    several = [*real, "--out", "all", "--lora", "2", "--method", "dpo", "bon", "--beta"]
    assert main([*several, "0.1", "2"]) == 0
    assert asked == [11 * 2, 8 * 4]  # one prompt is held out
    assert len(placed) == 5  # before both, and each after one step and two
    runs = {name: results(Path("all") / name) for name in ("dpo_beta0.1", "dpo_beta2", "bon")}
    assert all(run["finished"] and run["judge_accuracy"] is not None for run in runs.values())
    kl = [runs[f"dpo_beta{beta}"]["points"][-1]["kl"] for beta in ("0.1", "2")]
    assert kl[0] != kl[1] and min(kl) > 0
    out = capsys.readouterr().out
    assert Path("all/table.txt").read_text() in out and "dpo, β = 2" in out and "bon  4" in out
    shared = {"pairs.jsonl", "shared.json", "plot.png", "table.txt"}
    assert {path.name for path in Path("all").iterdir()} == {*runs, *shared}

    last = runs["dpo_beta0.1"]["points"][-1]
    assert main([*real, "--out", "one", "--lora", "2", "--method", "dpo", "--beta", "0.1"]) == 0
    alone = results(Path("one"))["points"]
    assert alone[-1] == pytest.approx(last, rel=1e-6)
    assert runs["dpo_beta2"]["points"][0] == pytest.approx(alone[0], rel=1e-6)
    policy = LanguagePolicy.from_pretrained(Path("one") / "model")
    assert policy.adapted and policy.model.active_peft_config.r == 2
    base = LanguagePolicy.from_pretrained("llama")
    for before, after in zip(base.parameters(), policy.base().parameters(), strict=True):
        torch.testing.assert_close(before, after, rtol=0, atol=0)

    asked.clear()
    assert main([*several, "0.1", "2", "5"]) == 0  # one more
    assert asked == [] and results(Path("all/dpo_beta5"))["finished"]
    assert results(Path("all/dpo_beta2")) == runs["dpo_beta2"]
    assert main([*several, "0.1", "7", "--prompts", "10"]) == 1
    assert "settings: prompts (12, now 10). Give" in capsys.readouterr().err


def test_what_nobody_optimised_is_measured_on_the_same_responses(real, monkeypatch):
    seen = []

    def vader():
        return lambda *texts: seen.append(texts) or np.full(len(texts[0]), 0.25)

    monkeypatch.setattr(sources, "VaderJudge", vader)
    adapted = ["--lora", "2", "--learning-rate", "0.1"]
    assert main([*real, "--out", "one", "--method", "sft", *adapted]) == 0
    last = results(Path("one"))["points"][-1]
    prompts, responses = seen[-1]
    assert last["vader"] == 0.25 and last["distinct"] == len(set(responses)) / 8
    reference = LanguagePolicy.from_pretrained("llama")
    total, count = 0.0, 0
    for prompt, response in zip(prompts, responses, strict=True):
        tokens = reference.log_probs([prompt], [response])[0][0, :10].tolist()
        total, count = total - sum(tokens), count + len(tokens)
    assert last["untouched_loss"] == pytest.approx(total / count, rel=1e-4)


def test_fine_tuning_alone_stands_beside_that_of_the_others(real):
    words = [*real, "--out", "all", "--lora", "2", "--sft-steps", "1", "--method", "sft", "rm"]
    assert main(words) == 0
    home = Path("all")
    assert {path.name for path in home.iterdir() if path.is_dir()} == {"sft", "sft_alone", "rm"}
    assert (home / "sft" / "adapter_config.json").exists()
    assert results(home / "sft_alone")["finished"] and results(home / "rm")["finished"]


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ("nobodys_module:praise", "got 'nobodys_module:praise': No module named 'nobodys_module'"),
        ("math:praise", "got 'math:praise': math has no praise"),
        ("math:pi", "got 'math:pi', which is a float"),
    ],
)
def test_a_judge_that_cannot_be_imported_is_named(real, judge, message, capsys):
    assert main([*real, "--judge", judge]) == 1
    assert f"judge must name a function as module:function, {message}" in capsys.readouterr().err


def test_without_the_fetched_parts_the_command_says_how_to_get_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLHF_LESSONS_CACHE", str(tmp_path / "none"))
    save_family("llama", tmp_path / "llama")
    for policy in ("smollm2", "llama"):  # the model is missing, then the snippets
        words = ["run", "sentiment", "--data", "snippets", "--policy", policy, "--lora", "0"]
        assert main([*words, "--out", policy + "-run"]) == 1
        assert "python -m rlhf_lessons real get" in capsys.readouterr().err


# --- settings and help ----------------------------------------------------------------------------


def test_the_presets():
    paper = SentimentSettings.preset(policy="gpt2", data="imdb", device="cpu")
    assert (paper.prompts, paper.completions, paper.label_temperature) == (25_000, 4, 0)
    assert (paper.batch_size, paper.learning_rate, paper.beta) == (64, 1e-6, 0.1)
    assert paper.judge == "siebert/sentiment-roberta-large-english"
    assert paper.label_column == "label" and paper.sft_steps == 800 and not paper.bf16
    offline = SentimentSettings.preset(device="cpu")
    assert offline == SentimentSettings()
    assert SentimentSettings.preset(method="sft").policy == "reviews-base"
    real = SentimentSettings.preset(data="snippets", device="cpu")
    assert (real.policy, real.judge, real.reward) == ("smollm2-snippets", "people", "judge")
    assert (real.lora, real.sft_steps, real.label_temperature) == (0, 0, 0.0)
    assert SentimentSettings.preset(data="snippets", policy="smollm2").lora == 16
    assert SentimentSettings.preset(data="snippets", method="sft").policy == "smollm2"
    assert SentimentSettings.preset(policy="reviews-base").sft_steps == 400
    for method in ("rm", "ppo", "bon"):
        assert SentimentSettings.preset(method=method, data="imdb", steps=80).measure_every == 10


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["run", "sentiment", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(SentimentSettings):
        option = f"--{field.name.replace('_', '-')}"
        after = text.split(f"\n  {option}", 1)[1].split("\n  --")[0]
        assert len(after.split()) > 2, option
    assert "in reward per nat" in " ".join(text.split()) and "computed and not measured" in text
    # 1.3e16, 1e15 and 8e15 operations at 3.1e12 in 132 ms: 554, 43 and 341 seconds.
    assert "2.4% of its data sheet" in text and "of dpo 9, sft 1, reference and judge 6." in text


def test_the_table_of_a_run_with_labels():
    points = ({"step": 0, "held_out_loss": 0.693, "held_out_accuracy": 0.5},) * 2
    run = SentimentRun(SentimentSettings(method="rm"), {}, points=points, judge_accuracy=0.9)
    assert run.table().splitlines()[1:] == [
        "  step 0        held-out loss 0.693 nats, 50.0% of pairs right",
    ] * 2 + ["  the judge agrees with 90.0% of the labels"]
