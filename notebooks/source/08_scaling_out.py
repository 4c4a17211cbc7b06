# %% [markdown]
# # Lesson 8 · Scaling out
#
# Everything so far ran on two CPU cores and a model of 174 thousand weights. Your own model has a
# thousand or a million times as many. What changes? Not the mathematics. What changes is *where the
# numbers lie*, *how exact they are* and *how many machines share them*, and each of these can silently
# change a result. This lesson computes what a run needs before it is started, splits batches and
# gradients by hand until the splitting is invisible, finds out what bfloat16 loses, and then hands the
# very run of lesson 6 to a distributed engine: same file, same settings, two processes, same losses.
#
# **After this lesson you can**
#
# - say whether a run fits on a GPU, and about how long it takes, before you rent it;
# - split a batch over time (gradient accumulation) and over processes (data parallelism) without
#   changing the gradient, and spot code that does change it;
# - say which numbers may be bfloat16 and which must not;
# - hand a preference file, a model and settings to TRL under `accelerate launch`, and prove that it is
#   the same run;
# - train a reward model, DPO and PPO in your own project in twenty lines each.
#
# **Time** about 120 minutes, 8 exercises, 23 points. **Needs** DPO (lesson 6); for the last part also
# reward models and PPO. Two CPU cores are enough, and no network.

# %% kind="setup"
import gc
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import psutil
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from rlhf_lessons import formulas
from rlhf_lessons.classroom import Choice, Slider, check, explore, glossary, use_style, watch, yours
from rlhf_lessons.classroom.pictures.scaling import (
    draw_lost_updates,
    draw_memory,
    draw_parity,
    draw_real_point,
)
from rlhf_lessons.evaluation import (
    SentimentSettings,
    load_real_frontier,
    missing_real_parts,
    run_sentiment,
)
from rlhf_lessons.models import LanguagePolicy, load_policy, small_gpt2
from rlhf_lessons.training import DPOSettings, train_dpo, train_dpo_with_trl, trl_command
from rlhf_lessons.training.scale import trl_settings
from rlhf_lessons.worlds import NoisyComparer, label_pairs, reviews, save_preferences

torch.set_num_threads(1)  # the same numbers on every run
use_style()

# %% kind="setup"
policy = load_policy("reviews-sft")
prompts = reviews.sample_prompts(256, seed=8)
draw = torch.Generator().manual_seed(8)
ones, others = (policy.sample(prompts, 48, generator=draw).responses for _ in range(2))
labelled = label_pairs(NoisyComparer(reviews.gold_reward, 1.0), prompts, ones, others, seed=8)
pairs = [pair for pair in labelled if pair.chosen != pair.rejected]

# %%
weights = sum(weight.numel() for weight in policy.parameters())
print(f"{len(pairs)} pairs, a model of {weights:,} weights")

# %% [markdown]
# ## 1 · Will it fit?
#
# Four kinds of numbers fill a GPU in training. **Weights**, of every model that takes part. A
# **gradient** for each weight that is trained. The **optimizer's state**: Adam keeps the running mean of
# each gradient and of its square. And the **activations** of the forward pass, kept until the backward
# pass has used them. The first three are known before anything runs.
#
# ### Exercise 8.1 · What training keeps in memory
#
# ●○○ · 8 min · 2 points
#
# With N trained and F frozen weights, all numbers in float32, 4 bytes each:
#
# $$\text{weights} = 4(N + F) \qquad \text{gradients} = 4N \qquad \text{Adam} = 2 \cdot 4N$$
#
# *Why it matters:* 16 bytes a trained weight is the first number to know of any run. A "7B" model that
# answers you from 14 GB of memory (2 bytes a weight) takes 112 GB to train.
#
# <details><summary>Hint 1</summary>
#
# A frozen model (the reference, PPO's reward model) has weights and nothing else.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Return a dict with the keys `"weights"`, `"gradients"` and `"adam"`, in bytes.
#
# </details>


# %% kind="exercise" exercise="8.1"
def training_bytes(trained: int, frozen: int) -> dict[str, int]:
    """Say what training with Adam keeps in memory, activations left out.

    Args:
        trained: number of weights that are trained.
        frozen: number of weights that are only read.

    Returns:
        bytes by kind: "weights", "gradients", "adam".
    """
    ### BEGIN SOLUTION
    return {"weights": 4 * (trained + frozen), "gradients": 4 * trained, "adam": 8 * trained}
    ### END SOLUTION


# %% kind="check" exercise="8.1"
check("8.1", training_bytes)

# %% [markdown]
# **Claim: that is what a real update holds, to the byte.** The cell makes one step of AdamW on the review
# model beside a frozen reference and adds up the tensors. (Adam also keeps one step counter of 4 bytes for
# each tensor; it is left out on both sides.) Then the same from outside: a model of 19 million weights, and
# by how much the memory of this process grew.

# %%
training_bytes = yours("8.1", training_bytes)


def held(model, optimizer, reference=None) -> dict[str, int]:
    """Add up the bytes of the tensors that a run holds."""
    frozen = [] if reference is None else list(reference.parameters())
    moments = [t for s in optimizer.state.values() for n, t in s.items() if n != "step"]
    kinds = {
        "weights": [*model.parameters(), *frozen],
        "gradients": [w.grad for w in model.parameters() if w.grad is not None],
        "adam": moments,
    }
    return {kind: sum(t.nbytes for t in tensors) for kind, tensors in kinds.items()}


def one_step(model) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model(torch.zeros(1, 4, dtype=torch.long)).logits.logsumexp(-1).sum().backward()
    optimizer.step()
    return optimizer


trial, frozen = load_policy("reviews-sft"), policy.copy()
measured = held(trial.model, one_step(trial.model), frozen)
computed = training_bytes(weights, weights)
print("computed", computed)
print("measured", measured)
assert measured == computed

gc.collect()
before = psutil.Process().memory_info().rss
larger = small_gpt2(304, width=512, layers=6, heads=8)
optimizer = one_step(larger)
grown = psutil.Process().memory_info().rss - before
count = sum(weight.numel() for weight in larger.parameters())
expected = sum(training_bytes(count, 0).values())
print(f"\n{count:,} weights: computed {expected / 1e6:.0f} MB")
print("the process grew by that much, within a third:", abs(grown / expected - 1) < 1 / 3)
assert abs(grown / expected - 1) < 1 / 3
del larger, optimizer

# %% [markdown]
# Sampling has no gradients, but it keeps something else: the keys and values of every position so far, so
# that the next token need not read the text again. This **cache** is why a large batch of long samples can
# fill a GPU that holds the model with ease.
#
# ### Exercise 8.2 · What sampling keeps in memory
#
# ●○○ · 6 min · 2 points
#
# Each layer keeps, for each key head and each position of each row, one key and one value of `head_width`
# numbers:
#
# $$2 \cdot \text{layers} \cdot \text{key heads} \cdot \text{head width} \cdot \text{rows} \cdot
# \text{length} \cdot \text{bytes a number}$$
#
# *Why "key heads"?* Recent models let several query heads share one key head, to make exactly this number
# smaller. In GPT-2 there are as many of both.
#
# <details><summary>Hint 1</summary>
#
# Seven factors, one of them 2.
#
# </details>
# <details><summary>Hint 2</summary>
#
# It grows with the length, not with its square: the attention weights are computed and dropped.
#
# </details>


# %% kind="exercise" exercise="8.2"
def kv_cache_bytes(
    layers: int, key_heads: int, head_width: int, rows: int, length: int, number_bytes: int
) -> int:
    """Say how large the cache of keys and values is at the end of sampling.

    Args:
        layers: transformer blocks.
        key_heads: key heads of each block.
        head_width: numbers in a key, and in a value.
        rows: texts that are sampled side by side.
        length: tokens of each text, prompt included.
        number_bytes: 4 for float32, 2 for bfloat16.

    Returns:
        bytes.
    """
    ### BEGIN SOLUTION
    return 2 * layers * key_heads * head_width * rows * length * number_bytes
    ### END SOLUTION


# %% kind="check" exercise="8.2"
check("8.2", kv_cache_bytes)

# %%
kv_cache_bytes = yours("8.2", kv_cache_bytes)

shape = policy.model.config
with torch.no_grad():
    cache = policy.model(torch.zeros(64, 60, dtype=torch.long), use_cache=True).past_key_values
measured = sum(part.nbytes for layer in cache for part in layer[:2])
computed = kv_cache_bytes(shape.n_layer, shape.n_head, shape.n_embd // shape.n_head, 64, 60, 4)
print(f"64 rows of 60 tokens: computed {computed:,} bytes, measured {measured:,}")
assert measured == computed

# %% [markdown]
# The fourth kind, the **activations**, depends on how the model is written. So measure: PyTorch can call a
# function for each tensor that it keeps for the backward pass. The cell counts their bytes for several
# batches and two models, and asserts the rule that the numbers suggest: so many bytes for each token, layer
# and number of the width, and 4 bytes for each logit.


# %%
def saved_bytes(compute: Callable[[], Tensor], model) -> int:
    """Bytes of what autograd keeps of one forward pass, the weights themselves left out."""
    known = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept, total = [], 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal total
        place = tensor.untyped_storage().data_ptr()
        if place not in known:
            known.add(place)
            kept.append(tensor)  # so that its place is not given to another
            total += tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        compute()
    return total


print("rows  length  layers  width   bytes a token   (bytes a token − 4·V) / (layers · width)")
rates = []
for model in (policy.model, small_gpt2(304, width=96, layers=2, heads=4)):
    for rows, length in ((2, 20), (8, 20), (8, 60)):
        tokens = torch.zeros(rows, length, dtype=torch.long)
        size = saved_bytes(lambda t=tokens, m=model: m(t).logits.logsumexp(-1).sum(), model)
        c, each = model.config, size / (rows * length)
        rates.append((each - 4 * c.vocab_size) / (c.n_layer * c.n_embd))
        print(
            f"{rows:>4}  {length:>6}  {c.n_layer:>6}  {c.n_embd:>5}   {each:>13.0f}   {rates[-1]:.1f}"
        )
RATE = sum(rates) / len(rates)
assert max(rates) - min(rates) < 0.1 * RATE

# %% [markdown]
# A straight line: twice the rows or twice the length, twice the activations. (An attention that keeps the
# weights of all pairs of positions would add a square of the length. The *fused* one, which PyTorch picks here,
# computes them in small blocks, in one operation with what needs them, and keeps none.) That is why lowering the batch helps at once, and why nothing but fewer weights helps against
# the first three kinds.
#
# Now the calculator. **Your two functions** fill it, with the rule just measured for the activations. Choose
# a method and a model, then drag: what fills the memory? At which batch does `gpt2` under DPO, with 96 tokens,
# no longer fit into 24 GB? (To fit means here: into four fifths, for something always comes on top.)

# %% kind="setup"
MODELS = {  # vocabulary, width, layers, heads, context
    "the course's": (304, 64, 3, 4, 64),
    "gpt2": (50257, 768, 12, 12, 1024),
    "gpt2-medium": (50257, 1024, 24, 16, 1024),
    "gpt2-large": (50257, 1280, 36, 20, 1024),
    "gpt2-xl": (50257, 1600, 48, 25, 1024),
}


def gpt2_weights(vocabulary: int, width: int, layers: int, heads: int, context: int) -> int:
    """Count the weights of a GPT-2: embeddings, blocks and the last normalisation."""
    return (vocabulary + context) * width + layers * (12 * width * width + 13 * width) + 2 * width


METHODS = {  # models trained, models frozen, texts a prompt, samples
    "SFT": (1, 0, 1, False),
    "DPO": (1, 0, 2, False),
    "DPO, reference kept": (1, 1, 2, False),
    "PPO": (1, 2, 1, True),
}


def run_bytes(model: str, method: str, rows: int, length: int) -> dict[str, float]:
    """Bytes of a run in float32, by kind."""
    vocabulary, width, layers, heads, _ = MODELS[model]
    count = gpt2_weights(*MODELS[model])
    trained, kept, texts, samples = METHODS[method]
    cache = kv_cache_bytes(layers, heads, width // heads, rows, length, 4) if samples else 0
    activations = rows * texts * length * (RATE * layers * width + 4 * vocabulary)
    # Sampling and training take turns: the larger of the two counts.
    return {
        **training_bytes(trained * count, kept * count),
        "activations": max(activations, cache),
    }


assert gpt2_weights(*MODELS["the course's"]) == weights
assert gpt2_weights(*MODELS["gpt2"]) == 124_439_808  # what the hub says of it
filled = [sum(run_bytes("gpt2", "DPO", rows, 96).values()) / 24e9 for rows in (95, 105)]
assert filled[0] < 0.8 < filled[1]

# %%
GPUS = (16, 24, 80)


def draw_run(figure, model, method, rows, length):
    gigabytes = {kind: size / 1e9 for kind, size in run_bytes(model, method, rows, length).items()}
    total = sum(gigabytes.values())
    fitting = next((f"fits into {size} GB" for size in GPUS if total < 0.8 * size), "exceeds 80 GB")
    title = f"{method}, {model}, {rows} × {length} tokens: {total:.3g} GB, {fitting}"
    draw_memory(figure, gigabytes, title)
    return f"{title}: " + ", ".join(f"{kind} {size:.3g}" for kind, size in gigabytes.items())


explore(
    draw_run,
    caption="Your training_bytes and kv_cache_bytes at work. A fifth of the GPU is left for what comes and goes.",
    size=(8.0, 3.0),
    model=Choice("model", list(MODELS), "gpt2"),
    method=Choice("method", list(METHODS), "DPO"),
    rows=Slider("B", "prompts a forward pass", 1, 128, 32),
    length=Slider("T", "tokens of a text", 16, 1024, 96),
)

# %% [markdown]
# `gpt2` under DPO leaves the 24 GB at about 100 pairs: 2 GB are there at any batch, and each pair adds 0.17.
#
# Three readings. DPO needs no second model while it trains: the reference's log-probabilities are numbers,
# computed once (that is how `train_dpo` does it). At a vocabulary of 50,257 a good part of "activations" is
# logits: 4 bytes × 50,257 for each token. And `gpt2-xl` does not fit into 24 GB at *any* batch: 16 bytes ×
# 1.56 billion weights are 25 GB.
#
# ## 2 · How long will it take?
#
# A matrix product multiplies and adds once for each weight and token: 2 operations. The backward pass does
# that twice, for the gradients of its inputs and of its weights: 4 more.
#
# ### Exercise 8.3 · Operations of a run
#
# ●●○ · 8 min · 3 points
#
# A DPO run makes S steps on B pairs each. N weights; each pair has t tokens, both texts with their prompts.
# Before the first step, the reference reads each of the P pairs once:
#
# $$\underbrace{6\,N\,t \cdot S \cdot B}_{\text{training}} + \underbrace{2\,N\,t \cdot P}_{\text{reference}}$$
#
# *Why it matters:* divide by what your machine really does in a second, and you know the hours before you
# have paid for one. What it really does is a share of its data sheet; how large a share comes next.
#
# <details><summary>Hint 1</summary>
#
# How many pairs are read in training? S · B, whatever P is: some are read several times.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `parameters * pair_tokens * (6 * steps * batch_size + 2 * pairs)`
#
# </details>


# %% kind="exercise" exercise="8.3"
def dpo_operations(
    parameters: int, pair_tokens: int, pairs: int, steps: int, batch_size: int
) -> float:
    """Estimate the operations of a DPO run.

    Args:
        parameters: N, number of weights.
        pair_tokens: t, tokens of a pair, prompts included.
        pairs: P, number of pairs that there are.
        steps: S, number of updates.
        batch_size: B, pairs an update.

    Returns:
        multiplications and additions, together.
    """
    ### BEGIN SOLUTION
    return parameters * pair_tokens * (6 * steps * batch_size + 2 * pairs)
    ### END SOLUTION


# %% kind="check" exercise="8.3"
check("8.3", dpo_operations)

# %% [markdown]
# **Claim: 2 operations forward, 4 backward, for each weight and token.** PyTorch can count the operations of every
# matrix product. A little is missing, for position embeddings are added and not multiplied; attention itself, which
# grows with the length, comes on top and is small at these lengths.

# %%
dpo_operations = yours("8.3", dpo_operations)

plain = small_gpt2(304, width=128, layers=4, heads=4)
count = sum(weight.numel() for weight in plain.parameters())
tokens = torch.zeros(16, 60, dtype=torch.long)
with FlopCounterMode(display=False) as counter:
    logits = plain(tokens).logits
    forward = counter.get_total_flops()
    logits.logsumexp(-1).sum().backward()
    backward = counter.get_total_flops() - forward
for name, operations in (("forward", forward), ("backward", backward)):
    print(f"{name:<9} {operations / (count * tokens.numel()):.2f} operations a weight and token")
assert 1.9 < forward / (count * tokens.numel()) < 2.1
assert 3.8 < backward / (count * tokens.numel()) < 4.2

encoded = policy.encode(
    [pair.prompt for pair in pairs] * 2,
    [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs],
)
pair_tokens = round(int(encoded.prompt_mask.sum() + encoded.response_mask.sum()) / len(pairs))
operations = dpo_operations(weights, pair_tokens, len(pairs), 12, 32)
print(f"\n12 steps of DPO on these pairs, {pair_tokens} tokens each: {operations:.2g} operations")

# %% [markdown]
# **How fast is a machine, really?** A data sheet says how many operations a second a processor does in large
# matrix products. Training gets a *share* of that (the field says *model FLOP utilisation*). The smaller model
# and batch are, the more of the time goes into starting each operation, and into everything that is no product.
#
# *Predict, then run:* of the speed of a large matrix product on this machine, which share does an update of the
# review model reach with one text? Which one a model of 19 million weights with eight? (Times differ from run to
# run, so the numbers appear on your machine and are not stored in the notebook.)


# %%
def speed(compute: Callable[[], object], operations: float) -> float:
    """Operations a second of processor time: the best of three, after one that warms up."""
    seconds = []
    for _ in range(4):
        start = time.process_time()
        compute()
        seconds.append(time.process_time() - start)
    return operations / min(seconds[1:])


def update_speed(model, rows: int) -> float:
    tokens = torch.zeros(rows, 60, dtype=torch.long)
    count = sum(weight.numel() for weight in model.parameters())
    read = lambda: model(tokens).logits.logsumexp(-1).sum().backward()  # noqa: E731
    return speed(read, 6 * count * tokens.numel())


square = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0))
fastest = speed(lambda: square @ square, 2 * 1024**3)
small, large = load_policy("reviews-sft").model, small_gpt2(304, width=512, layers=6, heads=8)
shares = {}
for name, model, rows in (("small", small, 1), ("small", small, 32), ("large", large, 8)):
    shares[name, rows] = update_speed(model, rows) / fastest
    print(f"{name} model, {rows} texts: {shares[name, rows]:.0%} of the product", file=sys.stderr)
rising = shares["small", 1] < shares["large", 8]
print("the larger model with more texts reaches the larger share:", rising)
assert rising
del small, large

# %% [markdown]
# On a GPU the gap is wider, since it is so much faster between the waits. Measured on one H200, whose data sheet
# says 989 trillion operations a second (dense products in 16 bits): an update of DPO on a model of Llama's architecture and
# **135 million weights** is 3.1e12 operations and took 132 ms. That is 23 trillion a second, **2.4 %**. Those who
# train models a thousand times as large on the same kind of card report some **40 %** (Grattafiori et al. 2024).
# Why so little? Reading all 135 million weights once takes this card 0.1 ms; a step of the sampler, which does
# little else, took 23 ms. The rest is starting some thousand small operations, one after the other, and waiting.
#
# Now for a run that you might rent: the sentiment experiment of the DPO paper, on film reviews from IMDB. The
# package has it as one command, offline or, with a network and a GPU, on `gpt2` and the real reviews:
#
# `python -m rlhf_lessons run sentiment --policy gpt2 --data imdb --method dpo --beta 0.1`
#
# The cell takes its preset (`--help` shows all of them) and computes what the DPO stage needs, for `gpt2` and its
# larger sisters, at both shares. The first was measured at `gpt2`'s size (124 million weights) and holds for it
# alone; a larger sister lies between the two.

# %%
H200 = 989e12  # operations a second, by the data sheet
SMALL_SHARE = 3.1e12 / 0.132 / H200  # measured: DPO, 135 million weights, one H200
LARGE_SHARE = 0.4  # published: 38 to 43 %, 405 billion weights on cards with this data sheet


def minutes(operations: float, share: float) -> float:
    return operations / (share * H200) / 60


preset = SentimentSettings.preset(policy="gpt2", data="imdb", method="dpo", beta=0.1)
made = preset.prompts * math.comb(preset.completions, 2)
part = preset.batch_size // preset.accumulate
length = 8 + preset.max_new_tokens  # prompts of at most 8 tokens
print(
    f"{made:,} pairs of 2 × {length} tokens, {preset.steps:,} updates of {preset.batch_size} pairs "
    f"in parts of {part}\n"
)
columns = [f"at {share:.1%}" for share in (SMALL_SHARE, LARGE_SHARE)]
print(f"{'':<14}{'state':>8}{'with a part':>13}   " + "".join(f"{name:>14}" for name in columns))
for name in list(MODELS)[1:]:
    count = gpt2_weights(*MODELS[name])
    state = sum(training_bytes(count, 0).values())
    whole = sum(run_bytes(name, "DPO", part, length).values())
    operations = dpo_operations(count, 2 * length, made, preset.steps, preset.batch_size)
    times = [minutes(operations, share) for share in (SMALL_SHARE, LARGE_SHARE)]
    print(
        f"{name:<14}{state / 1e9:>5.1f} GB{whole / 1e9:>10.1f} GB   "
        + "".join(f"{time_taken:>10.1f} min" for time_taken in times)
    )

# %% [markdown]
# For `gpt2` twelve minutes, not the one that 40 % would promise. (Sampling the pairs comes on top: token by token, at
# some 23 ms each.) Before you rent for long, time ten updates of *your* model on *that* card and divide: a larger model
# or batch raises the share, a faster card lowers it. In memory, one GPU of 24 GB carries all of them but `gpt2-xl`. For
# such models the code of this course is enough: the same loops, on a model from the hub.
#
# From Python it is the lines below. They download half a gigabyte, so they run only when you say so. Where the
# hub cannot be reached, they say that and go on.

# %%
USE_HUB = False  # True fetches gpt2

try:
    if not USE_HUB:
        raise OSError("USE_HUB is False")
    gpt2 = LanguagePolicy.from_pretrained("gpt2")
    gpt2.model.to("cuda" if torch.cuda.is_available() else "cpu")
    print(gpt2.sample(["This film was"], max_new_tokens=20, generator=torch.Generator()).responses)
except OSError as reason:
    print(f"Skipped: {reason}.\nEverything below uses the course's own model; nothing is missing.")

# %% [markdown]
# ## 3 · A batch in parts
#
# The activations do not fit, and the learning rate was tuned for a batch of 64. **Gradient accumulation**:
# read the batch in parts, go backward after each, let the gradients add up, and only then move the weights.
# The gradient must be *that of the whole batch*, and here most home-made loops go wrong.
#
# ### Exercise 8.4 · Gradient accumulation
#
# ●●○ · 12 min · 3 points
#
# `parts` are pieces of one batch, the last one may be smaller. `loss(part)` gives one loss for each example
# of a part. The weights have no gradient when you are called (clearing it is the caller's work). Leave in them
# the gradient of
#
# $$\frac{1}{n} \sum_{\text{parts}} \sum_{i \in \text{part}} L_i \qquad n = \text{examples of ALL parts}$$
#
# and return the mean. Only one part's graph may be in memory at a time.
#
# *Why not the mean of the parts' means?* An example in a part of 3 would weigh more than one in a part of 5.
# A bug of this kind was found in widely used trainers in 2024: losses of long and short texts were averaged part
# by part, and the loss curves looked fine.
#
# <details><summary>Hint 1</summary>
#
# `.backward()` *adds* to the gradients that are there. Divide each part's sum by n before it.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `(losses.sum() / count).backward()` inside the loop frees the graph before the next part is read. For the
# returned number add up `losses.sum().item()`.
#
# </details>


# %% kind="exercise" exercise="8.4"
def accumulate(parts: list[Tensor], loss: Callable[[Tensor], Tensor]) -> float:
    """Leave the gradient of the mean loss over all parts in the weights, one part at a time.

    Args:
        parts: pieces of one batch; `len(part)` examples each.
        loss: part -> (len(part),) losses, with gradient.

    Returns:
        the mean loss over all examples.
    """
    ### BEGIN SOLUTION
    count, total = sum(len(part) for part in parts), 0.0
    for part in parts:
        losses = loss(part)
        (losses.sum() / count).backward()
        total += losses.sum().item()
    return total / count
    ### END SOLUTION


# %% kind="check" exercise="8.4"
check("8.4", accumulate)

# %% [markdown]
# **Claim: parts change the memory and not the gradient.** DPO's loss on 48 pairs, whole and in parts of 20, 20
# and 8, on a policy that has moved a little away from the reference.

# %%
accumulate = yours("8.4", accumulate)

trial = load_policy("reviews-sft")
for _ in train_dpo(trial, pairs, DPOSettings(steps=5, batch_size=32, learning_rate=1e-3)):
    pass


def summed(model: LanguagePolicy, rows: Tensor, side: str) -> Tensor:
    """log π(y | x) of the chosen or rejected responses of some pairs."""
    some = [pairs[row] for row in rows.tolist()]
    log_probs, mask = model.log_probs([p.prompt for p in some], [getattr(p, side) for p in some])
    return formulas.sequence_log_prob(log_probs, mask)


def pair_losses(rows: Tensor) -> Tensor:
    with torch.no_grad():
        fixed = [summed(frozen, rows, side) for side in ("chosen", "rejected")]
    moving = [summed(trial, rows, side) for side in ("chosen", "rejected")]
    return formulas.dpo_loss(*moving, *fixed, 0.5)


def gradient() -> Tensor:
    """Take the gradient out of the weights, as one vector, and clear it."""
    flat = torch.cat([weight.grad.flatten() for weight in trial.parameters()])
    trial.model.zero_grad()
    return flat


# %%
rows = torch.arange(48)
whole_loss = accumulate([rows], pair_losses)
whole = gradient()
parts_loss = accumulate(list(rows.split(20)), pair_losses)
parts = gradient()
peaks = [
    max(saved_bytes(lambda part=part: pair_losses(part), trial.model) for part in split)
    for split in ([rows], rows.split(20))
]
error = float((whole - parts).norm() / whole.norm())
print(f"loss whole {whole_loss:.6f}, in parts {parts_loss:.6f}")
print(f"relative difference of the gradients below 1e-5: {error < 1e-5}")
print(
    f"kept for the backward pass: whole {peaks[0] / 1e6:.1f} MB, in parts {peaks[1] / 1e6:.1f} MB"
)
assert error < 1e-5 and peaks[1] < 0.5 * peaks[0]

# %% [markdown]
# All loops of the package take `accumulate` among their settings. It costs a little time, for smaller products
# keep the machine less busy, and no exactness:

# %%
runs = {}
for count in (1, 4):
    trained = load_policy("reviews-sft")
    settings = DPOSettings(steps=6, batch_size=32, beta=0.5, learning_rate=1e-3, accumulate=count)
    runs[count] = [step.loss for step in train_dpo(trained, pairs, settings)]
    print(f"accumulate={count}: " + "  ".join(f"{loss:.5f}" for loss in runs[count]))
assert max(abs(a - b) for a, b in zip(*runs.values(), strict=True)) < 1e-4

# %% [markdown]
# ## 4 · Two processes, one gradient
#
# **Data parallelism** is accumulation in space: each process has a copy of the weights, reads its *shard* of
# the batch, goes backward, and then all exchange gradients (an *all-reduce*) so that all make the same move. What
# every engine does in that exchange is *average over processes*. Is that the gradient of the whole batch?
#
# *Predict, then run:* two processes fine-tune on 8 texts each. One got eight short texts and the other eight long
# ones. Each takes the mean over its own tokens. Is the average of the two gradients that of all 16 texts?
#
# ### Exercise 8.5 · Two shards, one gradient
#
# ●●○ · 10 min · 3 points
#
# Process p had $n_p$ tokens and $g_p$, the gradient of the mean over *its own* tokens. Give back the gradient of the
# mean over *all* tokens:
#
# $$g = \frac{\sum_p n_p\, g_p}{\sum_p n_p}$$
#
# A process may have had nothing to read: $n_p = 0$, and its mean is NaN.
#
# <details><summary>Hint 1</summary>
#
# $n_p\, g_p$ is the gradient of a sum. Sums add up, means do not.
#
# </details>
# <details><summary>Hint 2</summary>
#
# 0 · NaN is NaN: leave processes with `n == 0` out of the sum.
#
# </details>


# %% kind="exercise" exercise="8.5"
def average_gradients(gradients: list[Tensor], counts: list[int]) -> Tensor:
    """Combine gradients of means into the gradient of the mean over everything.

    Args:
        gradients: of P processes, each of the mean over its own tokens; NaN where it had none.
        counts: how many tokens each process had; at least one is above 0.

    Returns:
        the gradient of the mean over all tokens.
    """
    ### BEGIN SOLUTION
    total = sum(counts)
    shares = [g * (n / total) for g, n in zip(gradients, counts, strict=True) if n > 0]
    return torch.stack(shares).sum(0)
    ### END SOLUTION


# %% kind="check" exercise="8.5"
check("8.5", average_gradients)

# %% [markdown]
# Both experiments, by hand: fine-tuning, whose loss is a mean over *tokens*, and DPO, whose loss is a mean over
# *pairs*. In each the batch is split into two shards, short texts and long ones.

# %%
average_gradients = yours("8.5", average_gradients)

by_length = sorted(range(64), key=lambda row: len(pairs[row].chosen.split()))
short, long = torch.tensor(by_length[:8]), torch.tensor(by_length[-8:])
both = torch.cat([short, long])


def sft_gradient(rows: Tensor) -> tuple[Tensor, int]:
    some = [pairs[row] for row in rows.tolist()]
    log_probs, mask = trial.log_probs([p.prompt for p in some], [p.chosen for p in some])
    (-formulas.masked_mean(log_probs, mask)).backward()
    return gradient(), int(mask.sum())


def dpo_gradient(rows: Tensor) -> tuple[Tensor, int]:
    pair_losses(rows).mean().backward()
    return gradient(), len(rows)


def off(found: Tensor, right: Tensor) -> float:
    return float((found - right).norm() / right.norm())


errors = {}
for name, gradient_of in (("fine-tuning", sft_gradient), ("DPO", dpo_gradient)):
    right, _ = gradient_of(both)
    shards = [gradient_of(rows) for rows in (short, long)]
    vectors, counts = [g for g, _ in shards], [n for _, n in shards]
    errors[name] = off(sum(vectors) / 2, right), off(average_gradients(vectors, counts), right)
    print(
        f"{name:<12} counts {counts}: plain average off by {errors[name][0]:6.1%}, yours by "
        f"{errors[name][1]:.1%}"
    )
assert errors["fine-tuning"][0] > 0.05 and errors["fine-tuning"][1] < 1e-4
assert max(errors["DPO"]) < 1e-4

# %% [markdown]
# For fine-tuning the plain average is a *different objective*: a token of a short text counts more. Not a crash,
# not even a bad curve, just another model. For DPO each pair gives one loss, so equal shares of pairs need no
# correction. Remember the rule: **what is averaged must be counted the same on every process**. That is why the
# script of section 6 refuses a batch that cannot be shared out evenly.
#
# ## 5 · Fewer bits
#
# bfloat16 keeps the range of float32 and 8 of its 24 bits of precision. Its matrix products run several times
# faster on a GPU. Between 1 and 2 it has 128 numbers; what is added to a 1 must be at least about 1/256 to be
# noticed at all.

# %%
one = torch.tensor(1.0)
for update in (1 / 64, 1 / 128, 1 / 256, 1 / 512):
    print(f"1 + 1/{round(1 / update):<4} in bfloat16: {float((one + update).bfloat16()):.7f}")

# %% [markdown]
# ### Exercise 8.6 · Updates that bfloat16 loses
#
# ●●○ · 10 min · 3 points
#
# Suppose the *weights themselves* were stored in bfloat16. Round the weights to bfloat16, add the updates in float32,
# round the sum to bfloat16. Among the updates that are not 0, what share leaves the weight exactly as it was stored?
#
# *Why it matters:* it answers why training code keeps a float32 copy of the weights.
#
# <details><summary>Hint 1</summary>
#
# `stored = weights.bfloat16()`, then `(stored.float() + updates).bfloat16()`.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Compare with `stored`, and pick `updates != 0` before you take the mean.
#
# </details>


# %% kind="exercise" exercise="8.6"
def lost_share(weights: Tensor, updates: Tensor) -> float:
    """Say which share of updates would not move a weight that is stored in bfloat16.

    Args:
        weights: (N,) float32.
        updates: (N,) float32, what is added to them; at least one is not 0.

    Returns:
        lost updates / updates that are not 0.
    """
    ### BEGIN SOLUTION
    stored = weights.bfloat16()
    moved = (stored.float() + updates).bfloat16()
    return float((moved == stored)[updates != 0].float().mean())
    ### END SOLUTION


# %% kind="check" exercise="8.6"
check("8.6", lost_share)

# %% [markdown]
# *Predict, then run:* the same step of DPO with five learning rates. At 1e-5, a usual one for large models, which
# share of the updates would be lost?

# %% figure="08_lost_updates"
lost_share = yours("8.6", lost_share)

RATES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
start = torch.cat([weight.detach().flatten() for weight in policy.parameters()])
lost = []
for rate in RATES:
    moved = load_policy("reviews-sft")
    settings = DPOSettings(steps=1, batch_size=32, learning_rate=rate, warmup=0.0)
    for _ in train_dpo(moved, pairs, settings):
        pass
    end = torch.cat([weight.detach().flatten() for weight in moved.parameters()])
    lost.append(lost_share(start, end - start))
    print(f"learning rate {rate:.0e}: {lost[-1]:.1%} of the updates lost")

draw_lost_updates(RATES, lost)
plt.show()
assert lost[1] > 0.9 and lost[-1] < 0.5 and lost == sorted(lost, reverse=True)

# %% [markdown]
# Nearly everything, and it does not average out: an update that is lost at each step is lost for good. So
# **the weights stay float32, and only the products of the forward and backward pass are taken in bfloat16**.
# (Their gradients and Adam's state then are float32, too. What those would lose in bfloat16 is not measured here.)
# PyTorch calls that *autocast*; in this package it is the setting `bf16=True`.
#
# A second place where precision goes lost. A log-ratio is a *small difference of large numbers*: each log-probability is
# some −1 to −10 nats a token, the difference often a hundredth of that, and it is summed over many tokens.
#
# ### Exercise 8.7 · Log-ratios in float32
#
# ●●● · 12 min · 4 points
#
# The logits come in bfloat16, as autocast gives them. Give the log-ratio of each response,
#
# $$\sum_t \big(\log \pi(y_t) - \log \pi_\text{ref}(y_t)\big) \qquad \text{over the tokens that the mask counts}$$
#
# in float32, as exact as these logits allow. In the padding the token numbers are valid, but in the logits anything may
# stand, NaN too; it counts for nothing.
#
# *Why here and not at the end?* What is rounded stays rounded. Cast before the difference is taken, in fact before
# the log-softmax, for that is where numbers of size 20 meet numbers of size 0.01.
#
# <details><summary>Hint 1</summary>
#
# `logits.float().log_softmax(-1)`, then `gather` the tokens, for each of the two models.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `logits.float().masked_fill(~mask.unsqueeze(-1), 0.0)`, before the log-softmax: there the two models then agree, and
# the difference is 0. (Filled only before the sum, NaN would give the right number, but come back with the gradient.)
#
# </details>


# %% kind="exercise" exercise="8.7"
def log_ratio(
    policy_logits: Tensor, reference_logits: Tensor, tokens: Tensor, mask: Tensor
) -> Tensor:
    """Give log π − log π_ref of each response, in float32.

    Args:
        policy_logits: (B, T, V) bfloat16, logits that predict each token; in the padding
            anything may stand.
        reference_logits: (B, T, V) bfloat16, those of the reference.
        tokens: (B, T) the tokens of the responses; valid numbers in the padding, too.
        mask: (B, T) boolean, True = a token of the response.

    Returns:
        (B,) float32, in nats.
    """
    ### BEGIN SOLUTION
    ratio = 0.0
    for sign, logits in ((1, policy_logits), (-1, reference_logits)):
        clean = logits.float().masked_fill(~mask.unsqueeze(-1), 0.0)
        log_probs = clean.log_softmax(-1)
        ratio = ratio + sign * log_probs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return ratio.sum(-1)
    ### END SOLUTION


# %% kind="check" exercise="8.7"
check("8.7", log_ratio)

# %% [markdown]
# On the real policy, a few steps away from the reference: the same bfloat16 logits, once through your function and
# once in bfloat16 to the end. The truth is float64 on the same logits; the line below that tells what the rounding
# of the *logits* costs, which no later care can undo.

# %%
log_ratio = yours("8.7", log_ratio)

batch = policy.encode([p.prompt for p in pairs[:64]], [p.chosen for p in pairs[:64]])
tokens, mask = batch.response_tokens, batch.response_mask
with torch.no_grad():
    exact = [model.logits_of(batch) for model in (trial, frozen)]
rounded = [logits.bfloat16() for logits in exact]


def careless(policy_logits, reference_logits):
    """Everything in the precision of the logits."""
    ratio = 0.0
    for sign, logits in ((1, policy_logits), (-1, reference_logits)):
        ratio = ratio + sign * logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return ratio.masked_fill(~mask, 0.0).sum(-1)


truth = careless(*(logits.double() for logits in rounded))
errors = {
    "bfloat16 to the end": (careless(*rounded).double() - truth).abs().mean(),
    "yours": (log_ratio(*rounded, tokens, mask).double() - truth).abs().mean(),
    "float32 logits": (truth - careless(*(logits.double() for logits in exact))).abs().mean(),
}
print(f"mean size of a log-ratio here: {float(truth.abs().mean()):.2f} nats")
print(f"error of bfloat16 to the end:  {float(errors['bfloat16 to the end']):.3f} nats")
print(f"error of yours:                {float(errors['yours']):.0e} nats, below 1e-4")
print(f"what rounded logits cost:      {float(errors['float32 logits']):.3f} nats")
assert errors["yours"] < 1e-4 and errors["bfloat16 to the end"] > 0.01

# %% [markdown]
# The careless version adds an error of its own, 0.020 nats, that care avoids at no cost in time. It is the smaller
# part: the last line, 0.050, is the price of rounding the logits, which is what autocast does and no care undoes.
# Times a β of 0.1 that is half a hundredth of reward, noise that a batch averages out. `LanguagePolicy` gives log-probabilities in float32 whatever the model computes in, so the
# losses of this package see the last line's error alone.
#
# ## 6 · The same run, another engine
#
# Two or more GPUs, sharded weights, several machines, recovery when one is lost: that has been written, tested and
# is kept alive by others. **TRL** has the DPO loop, **Accelerate** starts the processes. The file with the columns
# `prompt`, `chosen`, `rejected` is what TRL reads, the folder that `save_pretrained` wrote is what it loads. What is
# left is to say the settings in its words. (Fine-tuning, reward models and the groups of lesson 9 are handed over in
# the same way; DPO stands for all four here.)
#
# ### Exercise 8.8 · The same run in other words
#
# ●●○ · 10 min · 3 points
#
# | ours | TRL's | |
# | --- | --- | --- |
# | `steps` | `max_steps` | updates, of all processes together |
# | `batch_size` | `per_device_train_batch_size` | pairs of *one* process in *one* forward pass |
# | `accumulate` | `gradient_accumulation_steps` | |
# | `beta`, `learning_rate` | the same | |
# | `max_gradient_norm` | `max_grad_norm` | |
#
# The **global batch** must stay what it was:
#
# $$\texttt{batch\_size} = \text{processes} \times \texttt{gradient\_accumulation\_steps} \times
# \texttt{per\_device\_train\_batch\_size}$$
#
# A batch that cannot be shared out evenly must raise a `ValueError`; otherwise TRL wants a whole number (`int`).
#
# *Why it matters:* the commonest way to "scale" a run is to leave the batch per device as it was. Then eight GPUs
# make the batch eight times as large, at a learning rate that was tuned for another one.
#
# <details><summary>Hint 1</summary>
#
# `parts = processes * settings.accumulate`; refuse where `settings.batch_size % parts` is not 0.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Neither β nor the learning rate nor the steps change: it is the same run.
#
# </details>


# %% kind="exercise" exercise="8.8"
def trl_words(settings: DPOSettings, processes: int) -> dict[str, float]:
    """Say the settings of a DPO run in TRL's words, for some number of processes.

    Args:
        settings: how to train, as `train_dpo` takes it.
        processes: how many processes share each batch.

    Returns:
        the six arguments of the table.

    Raises:
        ValueError: the batch cannot be shared out evenly.
    """
    ### BEGIN SOLUTION
    parts = processes * settings.accumulate
    if settings.batch_size % parts:
        raise ValueError(f"a batch of {settings.batch_size} does not split into {parts} parts")
    return {
        "max_steps": settings.steps,
        "per_device_train_batch_size": settings.batch_size // parts,
        "gradient_accumulation_steps": settings.accumulate,
        "beta": settings.beta,
        "learning_rate": settings.learning_rate,
        "max_grad_norm": settings.max_gradient_norm,
    }
    ### END SOLUTION


# %% kind="check" exercise="8.8"
check("8.8", trl_words)

# %% [markdown]
# The package says the rest: weight decay, seed, precision, the course of the learning rate, the order in which
# pairs are drawn, and it refuses a setting that TRL has no word for. First our own loop, in this process. Then the
# command, as you would type it on a machine with two GPUs. (`--num_machines`, `--main_process_port`,
# `--mixed_precision` and `--dynamo_backend` only settle what `accelerate` would otherwise ask, guess or warn about.
# The batch of 32 is not there, since it is the default.)

# %% kind="train"
trl_words = yours("8.8", trl_words)

HANDED = DPOSettings(steps=12, batch_size=32, beta=0.3, learning_rate=1e-3, warmup=0.25, seed=1)
words = trl_words(HANDED, 2)
print(words)
alone = load_policy("reviews-sft")
ours = list(train_dpo(alone, pairs, HANDED))
print("\nours, one process: " + "  ".join(f"{step.loss:.4f}" for step in ours))
command = trl_command("my-policy", "pairs.jsonl", "aligned", HANDED, processes=2)
print(
    "\n" + " ".join(command).replace(" -m ", " \\\n    -m ").replace(" --beta", " \\\n    --beta")
)
package = trl_settings(HANDED, 2)
print("\nthe package adds:", ", ".join(name for name in package if name not in words))
assert words == {name: package[name] for name in words}  # your six are what is handed on

# %% [markdown]
# Now that command runs: two processes on this machine's CPU, which exchange gradients after each backward pass. Most
# of the time goes into starting them (each loads PyTorch and TRL for itself). `train_dpo_with_trl` starts the command
# and passes on its records, so it is watched like any other loop.
#
# *Predict, then run:* at which of the twelve steps, if any, will the losses of the two engines differ in the fourth
# decimal?

# %% kind="train"
workplace = tempfile.TemporaryDirectory()
folder = Path(workplace.name)
policy.save_pretrained(folder / "my-policy")
save_preferences(folder / "pairs.jsonl", pairs)
try:
    run = watch(
        train_dpo_with_trl(
            folder / "my-policy",
            folder / "pairs.jsonl",
            folder / "aligned",
            HANDED,
            processes=2,
            cpu=True,
        ),
        curves=("loss", ("chosen_reward", "rejected_reward")),
        title="TRL, two processes",
    )
except ModuleNotFoundError as reason:  # TRL is an extra of the package
    print(f"Skipped: {reason}")
    run = None


# %% kind="train" figure="08_parity"
def came_to_its_end():
    """Whether TRL's run did; a run that was stopped on the way proves nothing."""
    if run is not None and not run.finished:
        print(
            f"Nothing to compare: TRL was stopped after {len(run.records)} of {HANDED.steps} steps."
        )
        print("run.resume() in a new cell goes on; then run the cells below that one again.")
    return run is not None and run.finished


if came_to_its_end():
    theirs = run.records
    draw_parity([step.loss for step in ours], [step.loss for step in theirs])
    plt.show()
    pairs_of_steps = list(zip(ours, theirs, strict=True))
    print("ours  " + "".join(f"{step.loss:9.4f}" for step in ours))
    print("TRL's " + "".join(f"{step.loss:9.4f}" for step in theirs))
    print("gap   " + "".join(f"{abs(a.loss - b.loss):9.0e}" for a, b in pairs_of_steps))
    for name in ("loss", "margin", "gradient_norm", "learning_rate"):
        gap = max(abs(getattr(a, name) - getattr(b, name)) for a, b in pairs_of_steps)
        print(f"{name:<14} largest difference below 1e-4: {gap < 1e-4}")
        assert gap < 1e-4
    assert max(abs(a.loss - b.loss) for a, b in pairs_of_steps[:3]) < 1e-5

# %% [markdown]
# At none. It is one run: the same tokens, the same pairs in the same order, the same mean, the same step sizes. What
# remains, in the row of gaps, is rounding: two processes add up in another order than one.
#
# **Claim: what comes out is an ordinary model.** It loads in plain `transformers` (that is all TRL asks for, too) and in
# `LanguagePolicy`, with equal logits, and it is the model that our loop trained.

# %% kind="train"
if came_to_its_end():
    aligned = LanguagePolicy.from_pretrained(folder / "aligned")
    plain = AutoModelForCausalLM.from_pretrained(folder / "aligned")
    tokens = torch.tensor(aligned.tokenizer(prompts[:1])["input_ids"])
    with torch.no_grad():
        logits = plain(tokens).logits[:, -1]
        ours_logits = alone.next_token_logits(prompts[:1])
    assert torch.allclose(logits, aligned.next_token_logits(prompts[:1]), atol=1e-5)
    assert torch.allclose(logits, ours_logits, atol=0.02)
    print(f"{type(plain).__module__}.{type(plain).__name__}: equal logits")
    print("it writes:", aligned.sample(prompts[:1], 48, generator=draw).responses[0])
    workplace.cleanup()

# %% [markdown]
# When should you move? When the state of section 1 does not fit on one GPU, or the hours of section 2 are too many.
# Not before: a second process costs code, waiting and new ways to be wrong. `docs/scaling.md` in the repository says
# what changes on the way to several GPUs and machines, and what it costs.
#
# ## 7 · In your own project
#
# The package is `pip install`ed and needs none of these notebooks. Three programs, each whole: put your own model's
# name and your own data where the comments say so. (The runs are short, so that they finish here; the numbers are
# those of a beginning.)
#
# **A reward model from pairs.**

# %% kind="train"
from rlhf_lessons.models import RewardModel, load_policy  # noqa: F811
from rlhf_lessons.training import RewardSettings, train_reward_model
from rlhf_lessons.worlds import reviews  # noqa: F811

start = load_policy("reviews-sft")  # LanguagePolicy.from_pretrained("your/model")
# load_preferences("yours.jsonl"): one {"prompt": ..., "chosen": ..., "rejected": ...} a line
mine = [(p.prompt, p.chosen, p.rejected) for p in pairs]

reward_model = RewardModel.from_policy(start)
settings = RewardSettings(steps=60, batch_size=32, learning_rate=1e-3)
for step in train_reward_model(reward_model, mine[:200], settings, validation=mine[200:]):
    if step.step % 20 == 0:
        print(f"step {step.step}: loss {step.loss:.3f}, accuracy {step.accuracy:.2f}")
print(f"held out: accuracy {step.validation_accuracy:.2f}")

scores = reward_model.score([mine[0][0]] * 2, list(mine[0][1:]))
print(f"chosen {float(scores[0]):+.2f}, rejected {float(scores[1]):+.2f}")
# reward_model.save_pretrained("my-reward-model")

# %% [markdown]
# **DPO on pairs.**

# %% kind="train"
from rlhf_lessons.training import DPOSettings, train_dpo  # noqa: F811

mine_policy = load_policy("reviews-sft")  # LanguagePolicy.from_pretrained("your/model")
reference = mine_policy.copy()

settings = DPOSettings(
    steps=20,
    batch_size=32,
    beta=0.3,
    learning_rate=5e-4,
    accumulate=2,  # the batch in two parts
    bf16=False,  # True on a GPU
)
for step in train_dpo(mine_policy, mine, settings, reference=reference):
    if step.step % 10 == 0:
        print(f"step {step.step}: loss {step.loss:.3f}, margin {step.margin:+.2f}")

print(mine_policy.sample(prompts[:1], max_new_tokens=48, generator=draw).responses[0])
# mine_policy.save_pretrained("my-policy")

# %% [markdown]
# **PPO with any judge.** A judge is a function from prompts and responses to scores. Here it is one line of Python; the
# reward model above, a fact checker or a person would do as well.

# %% kind="train"
from rlhf_lessons.training import PPOSettings, train_ppo


def judge(prompts, responses):
    """Anything that scores texts. Higher is better."""
    return [2.0 * ("jokes" in response.split()) for response in responses]


player = load_policy("reviews-sft")  # LanguagePolicy.from_pretrained("your/model")
settings = PPOSettings(cycles=6, batch_size=64, beta=0.2, learning_rate=1e-3, max_new_tokens=48)
first = last = None
for last in train_ppo(player, prompts, judge, settings):
    first = first or last
    kl = round(last.kl, 2) + 0.0  # no "-0.00"
    print(f"cycle {last.step}: score {last.reward:+.2f}, KL {kl:.2f}")

print(player.sample(prompts[:1], max_new_tokens=48, generator=draw).responses[0])
assert last.reward > first.reward
# player.save_pretrained("my-player")

# %% [markdown]
# ## 8 · One point of the real frontier
#
# Lesson 6 ended with the frontier of a real model: SmolLM2, 135 million weights, fine-tuned on snippets of real
# film reviews, tuned by DPO to what a **judge of people** prefers. Those points come with the course. Now make
# one yourself, at a β that is not among them: openings, two responses to each, the judge's labels, 60 updates of
# DPO, and reward and KL measured before, halfway and at the end. It takes about ten minutes on two cores and is
# switched off; `RUN_REAL = True` switches it on. After a silent minute, in which the judge reads snippets whose
# ratings are known, a progress bar shows each stage. Stop it when you like: the folder keeps what is done, and the
# same cell goes on from there.
#
# VADER, in the table below, is a lexicon of sentiment words (lesson 3): a second opinion, which nobody optimises.
#
# What does it cost? Your `dpo_operations` of section 2 says so, and a little too much: only low-rank adapters are
# trained (LoRA), and a frozen weight needs no gradient of its own, which leaves 4 of the 6 operations.
#
# *Predict first:* between which two stored points will β = 0.5 fall?

# %% kind="train"
RUN_REAL = False  # True trains the real model here: about ten minutes on two cores

real = SentimentSettings.preset(data="snippets", method="dpo", beta=0.5)
tokens_of_pair = 2 * (8 + real.max_new_tokens)
operations = dpo_operations(135e6, tokens_of_pair, real.prompts, real.steps, real.batch_size)
print(f"{real.steps} updates of {real.batch_size} pairs: at most {operations:.1g} operations")
here = None
if note := missing_real_parts():
    print(note)
elif not RUN_REAL:
    print("Stored results only. RUN_REAL = True makes a point of your own.")
else:
    torch.set_num_threads(psutil.cpu_count(logical=False) or 1)
    try:
        here = run_sentiment(real, "real_point", progress=True)
    except KeyboardInterrupt:
        print("Stopped. The folder real_point keeps what is done; run this cell again to go on.")
    finally:
        torch.set_num_threads(1)

# %% kind="train" figure="08_real_point"
frontier = [item for item in load_real_frontier() if item.settings.method == "dpo"]
stored = {
    f"β = {item.settings.beta:g}": item.points[-1]
    for item in frontier
    if item.settings.seed == real.seed
}
own = None if here is None else (f"β = {real.beta:g}", here.points[-1])
draw_real_point(stored, own)
plt.show()
before = frontier[0].points[0]
print(f"{'':<24} {'judge':>14} {'KL':>6} {'VADER':>7}")
rows = [("before", before), *stored.items()]
for name, point in rows if own is None else [*rows, (f"yours: {own[0]}", own[1])]:
    judged = f"{point['reward']:+.2f} ± {point['reward_error']:.2f}"
    print(f"{name:<24} {judged:>14} {point['kl']:>6.2f} {point['vader']:>+7.2f}")

# %% [markdown]
# **Claim: your point falls where its β belongs.** Its KL lies between those of the next larger and the next smaller
# β, as far as the errors of measuring KL allow, and its texts please the judge more than before. (Without a point of
# your own the cell says the same of a stored one, β = 0.3.)

# %% kind="train"
points = {
    item.settings.beta: item.points[-1] for item in frontier if item.settings.seed == real.seed
}
mine, point = (0.3, points.pop(0.3)) if own is None else (real.beta, own[1])
larger, smaller = min(b for b in points if b > mine), max(b for b in points if b < mine)
for near, sign in ((larger, 1), (smaller, -1)):
    gap = sign * (point["kl"] - points[near]["kl"])
    error = math.hypot(point["kl_error"], points[near]["kl_error"])
    print(
        f"KL at β = {mine:g} and β = {near:g}: {point['kl']:.2f} and {points[near]['kl']:.2f} nats"
    )
    assert gap > -2 * error
gained = point["reward"] - before["reward"]
print(f"judge: {gained:+.2f} rating points")
assert gained > 2 * math.hypot(point["reward_error"], before["reward_error"])
if here is not None:
    for (prompt, old, score), (_, new, after) in zip(here.texts_before, here.texts, strict=True):
        print(f"\n{prompt}\n  before {score:+.2f} {old}\n  after  {after:+.2f} {new}")

# %% [markdown]
# Several points, or another method, are one command: `python -m rlhf_lessons run sentiment --data snippets --method
# dpo ppo bon --beta 0.1 0.3 1` (`bon`: the best of n samples, lesson 6) keeps what they share and draws them in one picture (`compare_sentiment` in Python).

# %% [markdown]
# ## What was shown
#
# | claim | where | measured by |
# | --- | --- | --- |
# | 16 bytes a trained weight, 4 a frozen one | 1 | tensors of a real step; this process's memory |
# | the cache's size | 1 | a real cache |
# | activations grow in a line with tokens, layers and width | 1 | what autograd keeps |
# | 6·N operations a trained token | 2 | PyTorch's counter |
# | small models reach a small share of a machine's speed | 2 | two models on your processor; one H200 |
# | parts change memory, not the gradient | 3 | your function on the real policy |
# | the average over processes can be the wrong mean | 4 | short texts and long ones |
# | bfloat16 weights lose nearly all updates at small learning rates | 5 | five learning rates |
# | float32 from the logits on spares log-ratios an error, two fifths of what rounded logits cost anyway | 5 | against float64 |
# | TRL in two processes gives our losses | 6 | every step of a run |
# | the model that comes out is an ordinary one | 6 | equal logits |
# | a point of the real frontier falls where its β belongs | 8 | stored runs; your own |
#
# **In the package.** `rlhf_lessons.training`: `train_dpo_with_trl`, `train_sft_with_trl`,
# `train_reward_model_with_trl`, `train_grpo_with_trl`, `trl_command`, and `accumulate` and `bf16` in the settings of
# every loop. `rlhf_lessons.evaluation`: `run_sentiment`, `compare_sentiment`, `load_real_frontier`,
# `missing_real_parts`. On the command line: `accelerate launch -m rlhf_lessons scale --help` and
# `python -m rlhf_lessons run sentiment --help`.
#
# **Further reading.**
#
# - Rajbhandari et al. 2020, *ZeRO: Memory Optimizations Toward Training Trillion Parameter Models*: the 16 bytes a
#   weight, and how to share them out.
# - Kaplan et al. 2020, *Scaling Laws for Neural Language Models*: the rule of 6·N operations (section 2.1).
# - Chowdhery et al. 2022, *PaLM*: what model FLOP utilisation is (46 % there). Grattafiori et al. 2024, *The Llama 3
#   Herd of Models*: 38 to 43 %.
# - Micikevicius et al. 2018, *Mixed Precision Training*: why a float32 copy of the weights.
# - Kalamkar et al. 2019, *A Study of BFLOAT16 for Deep Learning Training*.
# - Hu et al. 2022, *LoRA*: train few weights and most of the 16 bytes are gone.
# - The documentation of TRL (`DPOTrainer`) and Accelerate (`accelerate launch`; FSDP, which shares out weights, gradients and
#   Adam's state over the GPUs).
#
# **Three quick questions.**
#
# 1. You go from one GPU to eight and leave `per_device_train_batch_size` as it was. What have you changed?
#
# <details><summary>Answer</summary>
#
# The batch is eight times as large, at the same number of steps. The run sees eight times as many pairs, and the
# learning rate was tuned for another amount of noise. Divide by 8, or tune again.
#
# </details>
#
# 2. A colleague stores the weights in bfloat16 to save memory and reports that DPO "does not learn at small learning
#    rates". Why?
#
# <details><summary>Answer</summary>
#
# An update below about 1/256 of its weight is rounded away, and again at the next step. Keep float32 weights and take
# only the products in bfloat16.
#
# </details>
#
# 3. LoRA trains 1 % of the weights. Which of the four kinds of memory shrink, and which stay?
#
# <details><summary>Answer</summary>
#
# Gradients and Adam's state shrink to about 1 %. The weights stay, frozen: 4 bytes each (or 2, for what is never
# updated can be bfloat16). The activations stay too: the gradient still travels through every layer.
#
# </details>
#
# The words of this lesson, in three languages:

# %%
glossary(8)
