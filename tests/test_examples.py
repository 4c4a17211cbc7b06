"""Each script in examples/ runs as it stands, with the shipped model and with somebody else's."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from model_families import save_family

from rlhf_lessons.models import CHECKPOINT_FOLDER, LanguagePolicy, RewardModel
from rlhf_lessons.training import SupervisedSettings, train_sft
from rlhf_lessons.worlds import save_preferences

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
PAIRS = [
    (f"the film {word}", f" was {better} .", f" was {worse} .")
    for word in ("that i saw", "", "we watched")
    for better, worse in (("good", "bad"), ("great", "dull"))
]


def example(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    save_preferences(path, PAIRS)
    return str(path)


@pytest.fixture(scope="module", params=["shipped", "llama"])
def policy(request, tmp_path_factory) -> str:
    if request.param == "shipped":
        return str(CHECKPOINT_FOLDER / "reviews-sft")
    folder = save_family("llama", tmp_path_factory.mktemp("families") / "llama")
    somebody_elses = LanguagePolicy.from_pretrained(folder)  # it has learned to end a text
    examples = [(prompt, response) for prompt, *both in PAIRS for response in both]
    settings = SupervisedSettings(steps=60, batch_size=12, learning_rate=1e-2)
    list(train_sft(somebody_elses, examples, settings))
    somebody_elses.save_pretrained(folder)
    return str(folder)


def test_a_reward_model_on_your_pairs(pairs, policy, tmp_path, capsys):
    words = [pairs, "--policy", policy, "--steps", "12", "--learning-rate", "3e-3"]
    example("reward_model_on_your_pairs").main([*words, "--save", str(tmp_path / "reward")])
    out = capsys.readouterr().out
    assert "step 12 of 12: loss " in out and out.endswith(f"saved to {tmp_path / 'reward'}\n")
    reward_model = RewardModel.from_pretrained(tmp_path / "reward")
    prompts, chosen, rejected = zip(*PAIRS, strict=True)
    right = reward_model(prompts, chosen) > reward_model(prompts, rejected)
    assert right[1:].all()  # the first one is held out


@pytest.mark.parametrize("adapter", [False, True])
def test_dpo_on_your_pairs(pairs, policy, adapter, tmp_path, capsys):
    words = [pairs, "--policy", policy, "--steps", "6", "--learning-rate", "1e-3"]
    if adapter:
        pytest.importorskip("peft")
        words += ["--lora", "4", "--learning-rate", "1e-2"]
    example("dpo_on_your_pairs").main([*words, "--save", str(tmp_path / "policy")])
    assert (tmp_path / "policy" / "adapter_config.json").is_file() == adapter
    out = capsys.readouterr().out
    assert "step 6 of 6: loss " in out and out.count(" -> ") == 3
    assert out.endswith(f"saved to {tmp_path / 'policy'}\n")
    prompts, chosen, rejected = map(list, zip(*PAIRS[1:], strict=True))
    margins = [
        (model.log_probs(prompts, chosen)[0].sum() - model.log_probs(prompts, rejected)[0].sum())
        for model in map(LanguagePolicy.from_pretrained, (policy, tmp_path / "policy"))
    ]
    assert margins[1] > margins[0] + 1


def test_your_pairs_may_be_messages(tmp_path, capsys):
    """A chat model reads them by its template."""
    policy = str(save_family("qwen2", tmp_path / "qwen2"))
    rows = [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        for prompt, *both in PAIRS
        for response in both
    ]
    lists = [
        {"chosen": one, "rejected": other} for one, other in zip(rows[::2], rows[1::2], strict=True)
    ]
    (tmp_path / "pairs.json").write_text(json.dumps(lists))
    words = [str(tmp_path / "pairs.json"), "--policy", policy, "--steps", "1"]
    example("dpo_on_your_pairs").main(words)
    example("reward_model_on_your_pairs").main(words)
    out = capsys.readouterr().out
    assert out.count("step 1 of 1") == 2 and "' was good .'\n" in out
    prompt = f"<|im_start|>user\n{PAIRS[0][0]}<|im_end|>\n<|im_start|>assistant\n"
    assert out.count(f"{prompt!r} -> ") == 3


@pytest.mark.parametrize("adapter", [False, True])
def test_ppo_with_your_judge(policy, adapter, tmp_path, capsys):
    script = example("ppo_with_your_judge")
    assert script.judge(["", ""], ["good good great .", "bad"]) == [2.0, 0.0]
    (tmp_path / "prompts.txt").write_text("the film that i saw\nthe film we watched\n")
    words = ["--policy", policy, "--prompts", str(tmp_path / "prompts.txt"), "--cycles", "2"]
    words += ["--batch-size", "16", "--max-new-tokens", "40", "--save", str(tmp_path / "policy")]
    if adapter:
        pytest.importorskip("peft")
        words += ["--lora", "4"]
    script.main(words)
    assert (tmp_path / "policy" / "adapter_config.json").is_file() == adapter
    out = capsys.readouterr().out
    assert "best of 4 " in out and "cycle 2 of 2: score " in out
    assert out.endswith(f"saved to {tmp_path / 'policy'}\n")
    before, after = map(LanguagePolicy.from_pretrained, (policy, tmp_path / "policy"))
    moved = (before.next_token_logits(["the film"]) - after.next_token_logits(["the film"])).abs()
    assert 0 < moved.max() < 10


def test_factuality_with_your_checker(tmp_path, capsys):
    script = example("factuality_with_your_checker")
    name = next(iter(script.PEOPLE.subjects))
    relation, value = next((r, v) for (who, r), v in script.PEOPLE.facts.items() if who == name)
    other = next(v for v in script.PEOPLE.relation(relation).values if v != value)
    true, false = (
        script.PEOPLE.sentence((name, relation), 0, named=True, value=said) + " ."
        for said in (value, other)
    )
    prompt = script.PEOPLE.prompt(name)
    said = [text.removeprefix(name).strip() for text in (true, false)]
    assert script.check(prompt, said[0]) == (1, 0) and script.check(prompt, said[1]) == (0, 1)
    assert script.judge([prompt] * 2, said) == [1, -1]

    words = [
        "--subjects",
        "8",
        "--samples",
        "4",
        "--steps",
        "3",
        "--save",
        str(tmp_path / "policy"),
    ]
    script.main(words)
    out = capsys.readouterr().out
    assert out.startswith("before: ") and "step 3 of 3" in out and "\nafter: " in out
    assert "\n32 answers sampled, " in out and out.endswith(f"saved to {tmp_path / 'policy'}\n")
    assert (tmp_path / "policy" / "model.safetensors").is_file()


def test_formulas_only():
    code = (
        "import sys, runpy; runpy.run_path(sys.argv[1], run_name='__main__');"
        "print([name for name in ('transformers', 'rlhf_lessons.models') if name in sys.modules])"
    )
    script = str(ROOT / "examples" / "formulas_only.py")
    done = subprocess.run(
        [sys.executable, "-c", code, script], capture_output=True, text=True, check=True
    )
    numbers = dict(re.findall(r"^(.*?) (-?\d+\.\d{4})", done.stdout, re.MULTILINE))
    margins = [0.5 - 0.0, 0.0 - -1.0, -1.0 - 0.0]  # (π − π_ref) of chosen minus of rejected
    loss = sum(math.log1p(math.exp(-0.1 * margin)) for margin in margins) / 3
    assert float(numbers["DPO loss"]) == pytest.approx(loss, abs=1e-4)
    assert float(numbers["KL of best-of-16 ≤"]) == pytest.approx(math.log(16) - 15 / 16, abs=1e-4)
    assert float(numbers["policy loss"]) != 0 and done.stdout.endswith("[]\n")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_it_is_short_uses_public_names_and_is_linked(script):
    source = script.read_text(encoding="utf-8")
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("rlhf_lessons"):
            room = importlib.import_module(node.module)
            assert node.module.count(".") <= 1, "a room, not a file of it"
            for alias in node.names:
                public = node.module == "rlhf_lessons" or alias.name in room.__all__
                assert public, f"{alias.name} is no public name of {node.module}"
    assert len(source.splitlines()) <= 85
    assert ("train_" in source) == ("tqdm(" in source), "a loop shows how far it is"
    assert f"python examples/{script.name}" in ast.get_docstring(tree)
    assert f"(examples/{script.name})" in (ROOT / "README.md").read_text(encoding="utf-8")
