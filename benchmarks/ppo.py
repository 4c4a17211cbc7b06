"""A PPO cycle of ``train_ppo`` against TRL's ``PPOTrainer``, side by side.

    pip install "trl==1.12.0" accelerate datasets      # the last release that has a PPOTrainer
    python benchmarks/ppo.py                           # prints one JSON line for each setting

The same GPT-2, the same prompts, 64 responses of 24 tokens, one minibatch, 4 epochs, float32, one
thread, in turn within one process. TRL holds four separate models. ``train_ppo`` is measured with a
value function on a body of its own (the same work), and with the value head on the policy's body
(what the course teaches); and both once more without oneDNN, which torch does not use for float32
products by default. TRL is measured with GPT-2's own activation, ``gelu_new``, which a user of TRL
gets, and with that of our small models, ``gelu_pytorch_tanh``: the same function, computed by one
kernel. Before they are timed the operations of each side's products are counted. A ratio is the
median over the rounds of (CPU seconds of TRL / CPU seconds of ours) within a round. The reward
model's time is part of all, and so is the tokenizer's on our side.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import statistics
import tempfile
import time
import warnings
from collections import Counter
from unittest import mock

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from rlhf_lessons.models import LanguagePolicy, RewardModel, ValueHead, products
from rlhf_lessons.training import PPOSettings, train_ppo

VOCABULARY, PROMPT_TOKENS, NEW_TOKENS, BATCH, EPOCHS = 512, 8, 24, 64, 4
ACTIVATIONS = ("gelu_new", "gelu_pytorch_tanh")
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


def build(size: str, activation: str = "gelu_pytorch_tanh") -> GPT2LMHeadModel:
    """A random GPT-2, near uniform over its tokens, so that few responses end early."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=64,
        activation_function=activation,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        **SIZES[size],
    )
    return GPT2LMHeadModel(config).eval()


def a_reward_model(size: str, activation: str = "gelu_pytorch_tanh") -> RewardModel:
    model = RewardModel.from_policy(LanguagePolicy(build(size, activation), word_tokenizer()))
    torch.manual_seed(1)
    torch.nn.init.normal_(model.model.score.weight)
    return model


def prompts() -> list[str]:
    return [
        " ".join(f"w{1 + (row * 7 + i) % (VOCABULARY - 1)}" for i in range(PROMPT_TOKENS))
        for row in range(BATCH)
    ]


def our_run(size: str, shared: bool, cycles: int, spent: Counter[str]):
    """A run of ``train_ppo`` that adds the CPU seconds of its phases to ``spent``."""
    policy = LanguagePolicy(build(size), word_tokenizer())
    reference = policy.copy()
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

    def timed(phase: str, work):
        def measured(*arguments, **named):
            start = time.process_time()
            result = work(*arguments, **named)
            spent[phase] += time.process_time() - start
            return result

        return measured

    policy.sample = timed("sampling", policy.sample)
    reference.log_probs_of = timed("reference", reference.log_probs_of)
    judge = timed("judge", a_reward_model(size))
    return train_ppo(policy, prompts(), judge, settings, value_head=head, reference=reference)


def trl_run(size: str, activation: str, folder: str):
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
        total_episodes=BATCH,
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
        model=build(size, activation),
        ref_model=build(size, activation),
        reward_model=a_reward_model(size, activation).model,
        value_model=a_reward_model(size, activation).model,
        train_dataset=dataset,
    )


def operations_of(work) -> int:
    """How many operations its products take."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


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
        spent = {key: Counter() for key in itertools.product((False, True), (True, False))}
        ours = {key: our_run(size, key[0], arguments.rounds + 2, spent[key]) for key in spent}
        times: dict[object, list[float]] = {key: [] for key in (*ours, *ACTIVATIONS)}
        operations: dict[object, int] = {}
        with tempfile.TemporaryDirectory() as folder:
            for index in range(arguments.rounds + 1):
                for activation in ACTIVATIONS:
                    trainer = trl_run(size, activation, folder)
                    with contextlib.redirect_stdout(io.StringIO()):
                        times[activation].append(cpu_seconds(trainer.train))
                        if index == 0:
                            trainer = trl_run(size, activation, folder)
                            operations[activation] = operations_of(trainer.train)
                for (shared, onednn), run in ours.items():
                    if index == 1:  # the first round warms up
                        spent[shared, onednn].clear()
                    with contextlib.ExitStack() as stack:
                        if not onednn:
                            stack.enter_context(
                                mock.patch.object(products, "_onednn_keeps_float32", lambda: False)
                            )
                        times[shared, onednn].append(cpu_seconds(lambda run=run: next(run)))
                        if index == 0:
                            operations[shared, onednn] = operations_of(lambda run=run: next(run))
        times = {key: seconds[1:] for key, seconds in times.items()}
        for (shared, onednn), phases in spent.items():
            seconds = times[shared, onednn]
            result = {
                "benchmark": "ppo",
                "model": size,
                "ours": "value head on the policy" if shared else "four bodies",
                "oneDNN": onednn,
                "ours_ms": round(1000 * statistics.median(seconds)),
                "trl_ms": {
                    name: round(1000 * statistics.median(times[name])) for name in ACTIVATIONS
                },
                "ratio": {
                    name: round(
                        statistics.median(t / o for t, o in zip(times[name], seconds, strict=True)),
                        2,
                    )
                    for name in ACTIVATIONS
                },
                "ratio_operations": round(
                    operations[ACTIVATIONS[0]] / operations[shared, onednn], 2
                ),
                "share": {
                    name: round(phases[name] / sum(seconds), 3)
                    for name in ("sampling", "judge", "reference")
                },
                "batch": BATCH,
                "new_tokens": NEW_TOKENS,
                "epochs": EPOCHS,
                "rounds": arguments.rounds,
                "torch": torch.__version__,
                "trl": trl.__version__,
            }
            print(json.dumps(result, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
