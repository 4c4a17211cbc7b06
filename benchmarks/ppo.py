"""A PPO cycle of ``train_ppo`` against TRL's ``PPOTrainer``, side by side.

    pip install "trl==1.12.0" accelerate datasets      # the last release that has a PPOTrainer
    python benchmarks/ppo.py                           # prints one JSON line for each setting

The same GPT-2, the same prompts, 64 responses of 24 tokens, one minibatch, 4 epochs, float32, one
thread, in turn within one process. TRL holds four separate models. ``train_ppo`` is measured
twice: with a value function on a body of its own (the same work), and with the value head on the
policy's body (what the course teaches). A ratio is the median over the rounds of (CPU seconds of
TRL / CPU seconds of ours) within a round. The reward model's time is part of both, and so is the
tokenizer's on our side.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
import warnings

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from rlhf_lessons.models import LanguagePolicy, RewardModel, ValueHead
from rlhf_lessons.training import PPOSettings, train_ppo

VOCABULARY, PROMPT_TOKENS, NEW_TOKENS, BATCH, EPOCHS = 512, 8, 24, 64, 4
SIZES = {
    "tiny": {"n_embd": 128, "n_layer": 4, "n_head": 4},  # 0.87 million parameters
    "small": {"n_embd": 384, "n_layer": 6, "n_head": 6},  # 10.9 million
}


def word_tokenizer() -> PreTrainedTokenizerFast:
    words = {"<end>": 0} | {f"w{i}": i for i in range(1, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>", padding_side="left"
    )


def build(size: str) -> GPT2LMHeadModel:
    """A random GPT-2, near uniform over its tokens, so that few responses end early."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=64,
        activation_function="gelu_pytorch_tanh",
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        **SIZES[size],
    )
    return GPT2LMHeadModel(config).eval()


def a_reward_model(size: str) -> RewardModel:
    model = RewardModel.from_policy(LanguagePolicy(build(size), word_tokenizer()))
    torch.manual_seed(1)
    torch.nn.init.normal_(model.model.score.weight)
    return model


def prompts() -> list[str]:
    return [
        " ".join(f"w{1 + (row * 7 + i) % (VOCABULARY - 1)}" for i in range(PROMPT_TOKENS))
        for row in range(BATCH)
    ]


def our_run(size: str, shared: bool, cycles: int):
    policy = LanguagePolicy(build(size), word_tokenizer())
    head = ValueHead(policy if shared else LanguagePolicy(build(size), word_tokenizer()))
    settings = PPOSettings(
        cycles=cycles,
        batch_size=BATCH,
        max_new_tokens=NEW_TOKENS,
        epochs=EPOCHS,
        minibatch_size=BATCH,
        learning_rate=3e-6,
        beta=0.05,
        value_epsilon=0.2,
    )
    judge = a_reward_model(size)
    return train_ppo(policy, prompts(), judge, settings, value_head=head)


def trl_run(size: str, cycles: int, folder: str):
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    tokenizer = word_tokenizer()
    dataset = Dataset.from_list([{"input_ids": tokenizer(text)["input_ids"]} for text in prompts()])
    config = PPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        num_sample_generations=0,
        total_episodes=BATCH * cycles,
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=1,
        num_mini_batches=1,
        num_ppo_epochs=EPOCHS,
        local_rollout_forward_batch_size=BATCH,
        response_length=NEW_TOKENS,
        temperature=1.0,
        learning_rate=3e-6,
        kl_coef=0.05,
    )
    return PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=build(size),
        ref_model=build(size),
        reward_model=a_reward_model(size).model,
        value_model=a_reward_model(size).model,
        train_dataset=dataset,
    )


def cpu_seconds(work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=SIZES, nargs="*", default=["tiny"])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    import trl

    for size in arguments.model:
        own, shared = (our_run(size, kind, arguments.rounds + 1) for kind in (False, True))
        times: dict[str, list[float]] = {"four": [], "shared": [], "trl": []}
        with tempfile.TemporaryDirectory() as folder:
            for index in range(arguments.rounds + 1):
                trainer = trl_run(size, 1, folder)
                with contextlib.redirect_stdout(io.StringIO()):
                    theirs = cpu_seconds(trainer.train)
                first, second = (cpu_seconds(lambda run=run: next(run)) for run in (own, shared))
                if index > 0:  # the first round warms up
                    for name, seconds in zip(times, (first, second, theirs), strict=True):
                        times[name].append(seconds)
        for name, models_held in (("four", "four bodies"), ("shared", "value head on the policy")):
            ratios = [t / o for t, o in zip(times["trl"], times[name], strict=True)]
            result = {
                "benchmark": "ppo",
                "model": size,
                "ours": models_held,
                "batch": BATCH,
                "new_tokens": NEW_TOKENS,
                "epochs": EPOCHS,
                "ours_ms": round(1000 * statistics.median(times[name])),
                "trl_ms": round(1000 * statistics.median(times["trl"])),
                "ratio": round(statistics.median(ratios), 2),
                "rounds": arguments.rounds,
                "torch": torch.__version__,
                "trl": trl.__version__,
            }
            print(json.dumps(result, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
