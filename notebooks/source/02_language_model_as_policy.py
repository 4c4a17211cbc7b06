# %% [markdown]
# # Lesson 2 · A language model as a policy
#
# In lesson 1 an agent looked at a board, chose an empty square and learned from how the game ended.
# A language model does the same with text: it looks at the words so far, chooses the next word, and
# can learn from what people think of the whole. This lesson builds that view, piece by piece, and
# trains a small GPT-2 through the first two steps of the pipeline: **pretraining** and **supervised
# fine-tuning**.
#
# **After this lesson you can**
#
# - turn a model's logits into the probability of a text, and train on it by maximum likelihood;
# - sample from a model with a temperature, and show that the sample follows the model;
# - measure how far two models are apart (KL), and how well one predicts (perplexity);
# - write a rollout in both views, as many small actions or as one large one, and give its return;
# - fine-tune a model on demonstrations, distil it into a smaller one, and say what imitation cannot
#   do.
#
# **Time** about 135 minutes, 8 exercises, 22 points. **Needs** lesson 1's words (state, action,
# policy, return) and a little PyTorch. Two CPU cores are enough, and no network.

# %% kind="setup"
import itertools
import math
import textwrap

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from rlhf_lessons import formulas
from rlhf_lessons.evaluation import (
    REAL_SENTENCE,
    estimate_mean,
    estimate_nll,
    estimate_share,
    real_word_surprises,
    sequence_kl,
    word_surprises,
)
from rlhf_lessons.models import (
    LanguagePolicy,
    ResponseClassifier,
    load_policy,
    small_gpt2,
    word_tokenizer,
)
from rlhf_lessons.training import (
    SupervisedSettings,
    train_classifier,
    train_distillation,
    train_sft,
)
from rlhf_lessons.worlds import reviews

# %% kind="setup"
from rlhf_lessons.classroom import Choice, Slider, check, explore, glossary, use_style, watch, yours
from rlhf_lessons.classroom.pictures.language_model import (
    draw_action,
    draw_attention,
    draw_distributions,
    draw_fits,
    draw_losses,
    draw_next_word,
)

torch.set_num_threads(1)  # the same numbers on every run, and fast enough for a small model
use_style()


def tell(text: str) -> None:
    """Print a text in lines that break between words."""
    print(textwrap.fill(text, 96, subsequent_indent="    "))


# %% [markdown]
# ## 1 · The world: film reviews
#
# Real models learn from text that nobody can score exactly. Ours learns from a small English of
# film reviews with 300 words, written by a grammar, so that the truth is known: which sentences are
# well formed, and what a review says for or against its film. An opening of 8 words is the
# **prompt** x; the rest of the review is the **completion** y (also called *response*).

# %%
demonstrations = reviews.sample_reviews(6_000, seed=1)
for prompt, response in demonstrations[:2]:
    tell(f"x  {prompt}")
    tell(f"y  {response}")
    sentiment = reviews.gold_sentiment([prompt], [response])[0]
    print(f"   gold sentiment {sentiment:+.2f}\n")

# %% [markdown]
# A model reads numbers, so a **tokenizer** maps words to token ids. Here one word is one token.
# Large models cut rare words into pieces, which changes nothing in what follows. Four tokens are
# not words: padding (0), the start (1) and the end (2) of a text, and "unknown" (3). The **end
# token** is an action like any other: choosing it is how the model stops.

# %%
tokenizer = word_tokenizer(reviews.VOCABULARY)
ids = tokenizer("the plot was great .")["input_ids"]
print("tokens:", ids)
print("back:  ", tokenizer.convert_ids_to_tokens(ids))
print("vocabulary V =", len(tokenizer))

# %% [markdown]
# ## 2 · A text is a chain of choices
#
# The probability of a text of T tokens factorises, one token at a time:
#
# $$P(x_1, \dots, x_T) = \prod_{t=1}^{T} P(x_t \mid x_1, \dots, x_{t-1})$$
#
# This is the chain rule of probability. It holds for *every* distribution over texts, so a model
# that gives each next token a probability has lost nothing. The cell takes a distribution over all
# texts of three tokens (four symbols, so 64 texts), reads the conditionals off it, and multiplies
# them.

# %%
draw = torch.Generator().manual_seed(0)
joint = torch.rand(4, 4, 4, generator=draw, dtype=torch.float64) ** 3
joint /= joint.sum()

first = joint.sum((1, 2))  # P(x₁)
second = joint.sum(2) / first[:, None]  # P(x₂ | x₁)
third = joint / joint.sum(2, keepdim=True)  # P(x₃ | x₁, x₂)
product = first[:, None, None] * second[:, :, None] * third

gap = float((product - joint).abs().max())
print(f"largest difference between the product and the joint: {gap:.1e}")
print(f"sum of the product over all 64 texts: {float(product.sum()):.12f}")
assert gap < 1e-15 and abs(float(product.sum()) - 1) < 1e-12

# %% [markdown]
# The product *is* the joint. What a language model adds is not the factorisation but one network
# that computes every conditional $\pi_\theta(x_t \mid x_{<t})$, which nobody could store in a
# table.
#
# Now the vocabulary of lesson 1, with new meaning:
#
# | tic-tac-toe | language model |
# | --- | --- |
# | state s | the text so far: prompt and the tokens written since |
# | action a | the next token |
# | action space | the vocabulary, the same in every state |
# | policy π(a \| s) | softmax of the model's logits |
# | step of the environment | append the token |
# | playout | **rollout**: sample tokens until the end token |
#
# The policy comes as **logits**, one number z per token; softmax makes them a distribution: $\pi(v)
# = e^{z_v} / \sum_u e^{z_u}$. We load the fine-tuned model that comes with the course and ask for
# its next word. Later you train such a model yourself.

# %%
sft = load_policy("reviews-sft")
prompt = "my sister showed me this swedish mystery ."
start_of_response = f"{prompt} it made me smile . the plot was"
logits = sft.next_token_logits([start_of_response])[0]
probabilities = logits.softmax(-1)
top = probabilities.topk(6)
print(start_of_response, "...")
for probability, token in zip(top.values.tolist(), top.indices.tolist(), strict=True):
    print(f"  {sft.tokenizer.decode([token]):<12} {probability:.3f}")

# %% [markdown]
# ### Exercise 2.1 · Token log-probabilities
#
# ●●○ · 12 minutes · 3 points
#
# A model that has read T tokens gives logits of shape (B, T, V) in one forward pass. Row t was
# computed from tokens up to t, so it speaks about the token **after** t. From it, take the
# log-probability of the token that did come:
#
# $$\ell_t = \log \pi(x_{t+1} \mid x_{\le t}) = z_t[x_{t+1}] - \log \sum_v e^{z_t[v]}
# \qquad t = 1, \dots, T-1$$
#
# Three moves, **shift, gather, mask**: pair row t with token t+1; pick that token's entry; put 0
# where the predicted token does not count (padding, or a prompt that is given and not chosen).
# Texts in a batch differ in length, so nearly every batch has padding. What stands there may even be
# a token that the model forbids (logit −∞): the 0 must come out all the same.
#
# *Why log-probabilities?* A review of 30 tokens has a probability near $e^{-30}$; products of such
# numbers soon underflow. And why `log_softmax` and not `log(softmax(z))`? Because softmax
# underflows to 0 for an unlikely token, and log 0 is −∞.
#
# <details><summary>Hint 1</summary>
#
# The last row of logits predicts a token that is not there, and nothing predicts the first token.
# So the rows are `logits[:, :-1]`, the tokens `tokens[:, 1:]`, and the mask of what is predicted is
# `mask[:, 1:]`.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `log_probs.gather(-1, next_tokens.unsqueeze(-1)).squeeze(-1)` picks one entry a position. For the
# mask use `torch.where` or `masked_fill`, not a product: a forbidden token has log-probability −∞,
# and −∞ · 0 is not a number.
#
# </details>


# %% kind="exercise" exercise="2.1"
def token_log_probs(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """Give log π(x_{t+1} | x_{≤t}) for each token after the first.

    Args:
        logits: (B, T, V) the model's output for ``tokens``; −∞ at a token that is forbidden.
        tokens: (B, T) token ids, in [0, V).
        mask: (B, T) boolean, True = a token that counts.

    Returns:
        (B, T-1) log-probabilities; entry t belongs to token t+1, and is 0 where that token does not
        count.
    """
    ### BEGIN SOLUTION
    log_probs = torch.log_softmax(logits[:, :-1], dim=-1)
    chosen = log_probs.gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1)
    return chosen.masked_fill(~mask[:, 1:], 0.0)
    ### END SOLUTION


# %% kind="check" exercise="2.1"
check("2.1", token_log_probs)

# %% [markdown]
# Your function now reads a review. For each word it prints −log π, the **surprise** in **nats** (the
# unit of natural logarithms, as bits are that of base 2): 0 when the model was sure, $\log V
# \approx 5.7$ when it knew nothing.
#
# *Predict, then run:* which word of this review surprises the model most, and which hardly at all?

# %%
token_log_probs = yours("2.1", token_log_probs)

text = f"{prompt} it made me smile . the plot was truly clever but the ending was rushed ."
tokens = torch.tensor([sft.tokenizer(text)["input_ids"]])
with torch.no_grad():
    logits = sft.model(input_ids=tokens).logits
surprises = -token_log_probs(logits, tokens, torch.ones_like(tokens, dtype=torch.bool))[0]
for word, surprise in zip(text.split(), surprises.tolist(), strict=True):
    print(f"{word:>9} {surprise:5.2f} {'█' * round(6 * surprise)}")

# %% [markdown]
# Where the grammar leaves one choice ("me", "was", the full stop) the surprise is near 0; where the
# reviewer decides (which film, which aspect, which opinion) it is not. The opening words are free
# too: the model was fine-tuned on completions only, and has no reason to predict prompts well.

# %% [markdown]
# ### Exercise 2.2 · Sequence log-probability
#
# ●○○ · 5 minutes · 2 points
#
# Probabilities multiply, so their logarithms add:
#
# $$\log \pi(y \mid x) = \sum_{t} \log \pi(y_t \mid x, y_{<t})$$
#
# The sum runs over the tokens of the response, the end token included. Everything from here to DPO
# in lesson 6 is built on this number. The common bug is a **mean** in place of the sum: it makes a
# long response as likely as a short one. Where nothing counts anything may stand, even NaN (not a
# number).
#
# <details><summary>Hint 1</summary>
#
# Clear what does not count, then sum over the last axis: one number per response.
#
# </details>
# <details><summary>Hint 2</summary>
#
# What stands in the padding may be anything, even NaN, and NaN · 0 is NaN: `masked_fill(~mask,
# 0.0)`.
#
# </details>


# %% kind="exercise" exercise="2.2"
def sequence_log_prob(token_log_probs: Tensor, mask: Tensor) -> Tensor:
    """Give log π(y | x), the log-probability of each whole response.

    Args:
        token_log_probs: (B, T) log-probabilities of tokens; anything may stand where nothing counts.
        mask: (B, T) boolean, True = a token of the response.

    Returns:
        (B,) sums; 0 for a response without tokens.
    """
    ### BEGIN SOLUTION
    return token_log_probs.masked_fill(~mask, 0.0).sum(-1)
    ### END SOLUTION


# %% kind="check" exercise="2.2"
check("2.2", sequence_log_prob)

# %% [markdown]
# **Claim: the product of a model's conditionals is a distribution over whole texts.** To test it we
# need a model whose texts can all be listed. The one below knows three words and writes at most
# four tokens; a text ends at its end token or at the fourth token. Its weights are random, and made
# large, so that it has clear preferences. It was never trained, so it also writes the four tokens
# that are no words: V = 7.

# %%
sequence_log_prob = yours("2.2", sequence_log_prob)

tiny_tokenizer = word_tokenizer(["good", "bad", "film"])
tiny_model = small_gpt2(len(tiny_tokenizer), width=8, layers=1, heads=2, context=8, seed=4)
with torch.no_grad():
    tiny_model.transformer.wte.weight.mul_(20)
tiny = LanguagePolicy(tiny_model, tiny_tokenizer)

LONGEST = 4
every_text = set()
for ids in itertools.product(range(tiny.vocabulary_size), repeat=LONGEST):
    end = ids.index(tiny.end_token_id) + 1 if tiny.end_token_id in ids else LONGEST
    every_text.add(ids[:end])
every_text = sorted(every_text)

START = 1
rows = torch.zeros(len(every_text), 1 + LONGEST, dtype=torch.long)
mask = torch.zeros_like(rows, dtype=torch.bool)
rows[:, 0] = START  # given, not chosen: it does not count
for row, ids in enumerate(every_text):
    rows[row, 1 : 1 + len(ids)] = torch.tensor(ids)
    mask[row, 1 : 1 + len(ids)] = True

with torch.no_grad():
    logits = tiny.model(input_ids=rows).logits.double()
log_pi = sequence_log_prob(token_log_probs(logits, rows, mask), mask[:, 1:])

total = float(log_pi.exp().sum())
print(f"{len(every_text):,} texts, sum of π(y) = {total:.9f}")
for index in log_pi.topk(4).indices.tolist():
    words = tiny.tokenizer.convert_ids_to_tokens(every_text[index])
    print(f"  π = {log_pi[index].exp():.4f}   {' '.join(words)}")
assert abs(total - 1) < 1e-6

# %% [markdown]
# The sum is 1: nothing was normalised over texts, only over next tokens. A network that gives 7
# numbers a step is a distribution over all 1,555 texts.
#
# ## 3 · Inside the model: one body, many heads
#
# A **decoder-only transformer** turns T tokens into T vectors. Each block lets a position look back
# at earlier ones (**self-attention**) and then transforms it. Attention is a weighted mean of value
# vectors,
#
# $$\text{out}_t = \sum_{s \le t} a_{ts}\, v_s \qquad a_{t\cdot} = \text{softmax}_{s \le t}\left(\frac{q_t \cdot k_s}{\sqrt d}\right)$$
#
# with queries q, keys k and values v that are linear maps of the vectors below. The sum stops at t:
# no position sees the future. That is why one forward pass gives the right conditional at *every*
# position at once. First the model's shape, then a test of that promise: change the last word, and
# see which logits move.

# %%
config = sft.model.config
parameters = sum(weight.numel() for weight in sft.parameters())
print(
    f"{config.n_layer} blocks, width {config.n_embd}, {config.n_head} attention heads a block, "
    f"context {config.n_positions} tokens, {parameters:,} parameters"
)

changed = tokens.clone()
changed[0, -1] = sft.tokenizer.convert_tokens_to_ids("and")
with torch.no_grad():
    before, after = (sft.model(input_ids=t).logits[0] for t in (tokens, changed))
moved = (before - after).abs().amax(-1)
print(f"largest change before the last position: {float(moved[:-1].max()):.1e}")
print(f"change at the last position:             {float(moved[-1]):.2f}")
assert float(moved[:-1].max()) < 1e-4 < float(moved[-1])

# %% [markdown]
# Which earlier words does the model look at? Each row of the picture is a position that looks, each
# column a word that is looked at; every row sums to 1, and the upper triangle is empty.

# %%
looking = sft.copy()
looking.model.set_attn_implementation("eager")  # the plain formula, which keeps its weights
with torch.no_grad():
    attentions = looking.model(input_ids=tokens, output_attentions=True).attentions
pattern = torch.stack(attentions)[:, 0]  # (blocks, heads, T, T)
assert torch.allclose(pattern.sum(-1), torch.ones(()), atol=1e-5)
assert float(pattern.triu(1).abs().max()) == 0.0

words = ["<start>", *text.split()]
since = words.index("it")  # the response
draw_attention(
    {
        f"block {block + 1}, mean of its heads": pattern[block].mean(0)[since:]
        for block in (0, config.n_layer - 1)
    },
    words[since:],
    words,
)
plt.show()

# %% [markdown]
# A dark cell says where a word gets its information. What a head looks at was learned, nobody
# programmed it; with few blocks each has to do several jobs, so don't expect one clean role per
# head.
#
# The body gives a vector $h_t$ per position. The **LM head** is a linear map from it to the
# vocabulary, $z_t = W h_t$, and that is all there is between a thought and a word. Put another
# linear map there and the same body answers another question:
#
# | head | maps | gives | used in |
# | --- | --- | --- | --- |
# | LM head | every $h_t$ to V numbers | the policy | this lesson |
# | scalar head | the last $h_T$ to one number | a judgement of the whole text | lesson 3, reward model |
# | value head | every $h_t$ to one number | V(s), how well it will end from here | lesson 4, PPO |

# %%
with torch.no_grad():
    hidden = sft.model.transformer(input_ids=tokens).last_hidden_state  # (1, T, width)
    by_hand = hidden @ sft.model.lm_head.weight.T
    logits = sft.model(input_ids=tokens).logits
    scalar_head = torch.nn.Linear(config.n_embd, 1)
    value_head = torch.nn.Linear(config.n_embd, 1)
    print("hidden vectors      ", tuple(hidden.shape))
    print("LM head     W h_t   ", tuple(by_hand.shape))
    print("scalar head w·h_T   ", tuple(scalar_head(hidden[:, -1]).squeeze(-1).shape))
    print("value head  w·h_t   ", tuple(value_head(hidden).squeeze(-1).shape))
difference = float((by_hand - logits).abs().max())
print(f"LM head by hand against the model's logits: {difference:.1e}")
assert difference < 1e-4
assert sft.model.lm_head.weight is sft.model.transformer.wte.weight  # the input embedding, reused

# %% [markdown]
# ## 4 · Maximum likelihood
#
# Which parameters θ? Those that make the text we have likely. **Maximum likelihood** maximises
# $\sum \log \pi_\theta(x)$, so training minimises its negative, averaged over tokens.
#
# ### Exercise 2.3 · Negative log-likelihood
#
# ●●○ · 10 minutes · 3 points
#
# $$L_t = -\log \pi_\theta(x_{t+1} \mid x_{\le t})$$
#
# This is the **cross-entropy** $-\sum_v q(v) \log \pi(v)$ between the distribution q that puts all
# its weight on the token that came and the model's π: of the sum, one term is left. Its gradient in
# the logits is $\pi - q$: the model lowers what it expected too much and raises what came.
#
# You may call `token_log_probs`. Return the losses per token, not their mean: the training loop
# averages them, over the tokens of the whole batch. One more thing about padding: much code writes
# **−100** there, a token id that does not exist, so that a forgotten mask is noticed at once.
#
# <details><summary>Hint 1</summary>
#
# It is −1 times exercise 2.1, with tokens that may hold −100. What must happen to those before
# `gather`?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `tokens.masked_fill(~mask, 0)` makes every id legal, and the mask clears those losses afterwards.
# Or use `torch.nn.functional.cross_entropy` with `reduction="none"`: it skips −100 by itself, wants
# the vocabulary in dimension 1, and does not know your mask.
#
# </details>


# %% kind="exercise" exercise="2.3"
def nll(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """Give the negative log-likelihood of each token after the first.

    Args:
        logits: (B, T, V) the model's output for ``tokens``; −∞ at a token that is forbidden.
        tokens: (B, T) token ids; where the mask is False any number may stand, such as −100.
        mask: (B, T) boolean, True = a token to learn.

    Returns:
        (B, T-1) losses in nats, with gradient; entry t belongs to token t+1, 0 where that token does
        not count.
    """
    ### BEGIN SOLUTION
    next_tokens = tokens.masked_fill(~mask, 0)[:, 1:]
    log_probs = torch.log_softmax(logits[:, :-1], dim=-1)
    losses = -log_probs.gather(-1, next_tokens.unsqueeze(-1)).squeeze(-1)
    return losses.masked_fill(~mask[:, 1:], 0.0)
    ### END SOLUTION


# %% kind="check" exercise="2.3"
check("2.3", nll)

# %% [markdown]
# **Claim: it is PyTorch's cross-entropy**, and a model that knows nothing has a loss of log V.

# %%
nll = yours("2.3", nll)

whole = torch.ones_like(tokens, dtype=torch.bool)
ours = nll(logits, tokens, whole).mean()
torchs = torch.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:])
ignorant = nll(torch.zeros_like(logits), tokens, whole).mean()
print(f"mean NLL {ours:.6f}, cross-entropy {torchs:.6f}")
print(f"a model that knows nothing: {ignorant:.4f}, log V = {math.log(sft.vocabulary_size):.4f}")
assert torch.allclose(ours, torchs, atol=1e-6)
assert abs(float(ignorant) - math.log(sft.vocabulary_size)) < 1e-5

# %% [markdown]
# ### Exercise 2.4 · Perplexity
#
# ●○○ · 6 minutes · 2 points
#
# A loss of 1.2 nats says little to most people. Its exponential does:
#
# $$\text{perplexity} = \exp\Big(-\frac{1}{N} \sum_{t} \log \pi(x_t \mid x_{<t})\Big)$$
#
# with N the number of counted tokens of *all* texts together. It is the number of equally likely
# tokens between which the model hesitates on average: V for a model that knows nothing, 1 for an
# oracle.
#
# <details><summary>Hint 1</summary>
#
# One mean over all counted tokens of the batch, then one exponential. Averaging per text first
# gives each token of a short text more weight.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `token_log_probs[mask]` picks exactly the counted numbers.
#
# </details>


# %% kind="exercise" exercise="2.4"
def perplexity(token_log_probs: Tensor, mask: Tensor) -> Tensor:
    """Say between how many equally likely tokens the model hesitates on average.

    Args:
        token_log_probs: (B, T) log-probabilities in nats; anything may stand where nothing counts.
        mask: (B, T) boolean, True = counts.

    Returns:
        () one number for all counted tokens.
    """
    ### BEGIN SOLUTION
    return token_log_probs[mask].mean().neg().exp()
    ### END SOLUTION


# %% kind="check" exercise="2.4"
check("2.4", perplexity)

# %% [markdown]
# ## 5 · Step 0: pretraining
#
# **Pretraining** is maximum likelihood on all the text one can find. Ours is "web text": reviews
# with words lost or repeated, fragments, small talk about weather and trains, and some rude
# sentences. The model below starts from random weights.
#
# *Predict, then run:* what is the loss of the very first step, before anything was learned? And
# what will the model write after 240 steps?

# %%
web = reviews.sample_web_text(8_000, seed=2)
for line in web[:3]:
    tell(f"· {line}")

# %% kind="train"
mine = LanguagePolicy(small_gpt2(len(tokenizer), seed=0), tokenizer)
OPENERS = ["i", "the", "last week"]
samples = {}


def keep_samples(loop, policy, steps):
    """Hand the records of a training loop on, and remember what the policy says at some steps."""
    for record in loop:
        if record.step in steps:
            generator = torch.Generator().manual_seed(2)
            samples[record.step] = policy.sample(OPENERS, 24, generator=generator).responses
        yield record


pretraining = SupervisedSettings(steps=240, learning_rate=5e-3, warmup=0.08)
loop = train_sft(mine, [("", text) for text in web], pretraining, loss=nll)
run = watch(keep_samples(loop, mine, (1, 60, 240)), title="pretraining")

# %%
print(f"first loss {run.records[0].loss:.2f}, log V = {math.log(mine.vocabulary_size):.2f}")
assert abs(run.records[0].loss - math.log(mine.vocabulary_size)) < 0.3
assert run.last.loss < 0.5 * run.records[0].loss
for step, responses in samples.items():
    print(f"\nafter step {step}:")
    for opener, response in zip(OPENERS, responses, strict=True):
        tell(f"· {opener} | {response}")

# %% [markdown]
# First noise; then pairs of words that often stand together; then whole phrases, badly joined. Many
# more steps later the model that comes with the course speaks in sentences, with the web's faults,
# since it imitates the web.

# %%
base = load_policy("reviews-base")
rollout = base.sample([""] * 4, 40, generator=torch.Generator().manual_seed(0))
for response in rollout.responses:
    tell(f"· {response}")

# %% [markdown]
# ## 6 · Step 1: supervised fine-tuning
#
# A pretrained model continues any text in the way of the web. We want one behaviour: given an
# opening, write a good review of that film. **Supervised fine-tuning** (SFT) shows it
# **demonstrations**, pairs (x, y) written by people, and minimises the same loss on the tokens of y
# alone:
#
# $$L_\text{SFT} = -\,\mathbb{E}_{(x, y)}\Big[\sum_t \log \pi_\theta(y_t \mid x, y_{<t})\Big]$$
#
# The prompt is given, so its tokens are masked out. The loop calls **your** `nll`. To know whether
# the model learns to write reviews or learns these reviews by heart, we measure on reviews that it
# never saw: the **held-out** loss. The start is the course's pretrained model, which has taken many
# more steps than yours of section 5; its copy now bears the name `mine`.

# %% kind="train"
held_out = reviews.sample_reviews(400, seed=101)
mine = load_policy("reviews-base")
fine_tuning = SupervisedSettings(steps=200, learning_rate=3e-3, warmup=0.05, evaluate_every=10)
run = watch(
    train_sft(mine, demonstrations, fine_tuning, validation=held_out[:150], loss=nll),
    curves=("loss", "validation_loss"),
    title="fine-tuning",
)

# %% figure="02_sft_curve"
measured = [record for record in run.records if record.validation_loss is not None]
before = estimate_nll(base, held_out[:150])  # the same reviews as in the run
final = estimate_nll(sft, held_out[:150])

WINDOW = 20  # one batch is noise
smooth = np.convolve([r.loss for r in run.records], np.ones(WINDOW) / WINDOW, mode="valid")
draw_losses(
    {
        "held out": (
            [0] + [r.step for r in measured],
            [before.value] + [r.validation_loss for r in measured],
        ),
        "training": (range(WINDOW, len(run.records) + 1), smooth),
    },
    level=final.value,
    level_name="the course's fine-tuned model",
    title="Fine-tuning lowers the held-out loss",
)
plt.show()

# %% [markdown]
# At first the held-out loss rises a little, while the steps are largest; then it falls, as they get
# smaller. (The last loss under the progress bar is that of one batch of 32; the picture averages 20
# of them.)
#
# **Claim: SFT lowers the held-out NLL.** Here are the three models on 400 unseen reviews, with
# standard errors, the perplexity from your function, and how many of their samples are free of
# faults: no broken sentence, no repeated opinion, a proper ending.

# %%
perplexity = yours("2.4", perplexity)

prompts = reviews.sample_prompts(200, seed=103)
measures = {}
for name, policy in {"base": base, "yours": mine, "sft": sft}.items():
    loss = estimate_nll(policy, held_out)
    with torch.no_grad():
        perplexed = perplexity(*policy.log_probs(*zip(*held_out, strict=True)))
    rollout = policy.sample(prompts, 48, generator=torch.Generator().manual_seed(1))
    clean = np.mean([not reviews.faults(response) for response in rollout.responses])
    measures[name] = loss
    print(
        f"{name:<6} NLL {loss}   perplexity {perplexed:.3f}   samples without faults {clean:4.0%}"
    )

for name in ("yours", "sft"):
    assert measures[name].interval()[1] < measures["base"].interval()[0]

# %% [markdown]
# Both intervals lie below that of the base model. A small step in nats per token is a large step
# per text, since the differences of all tokens add up: one in four of the base model's samples is
# clean, and most of the fine-tuned models' are. Fewer steps leave faults behind; the model that
# comes with the course went on for longer.
#
# From now on π_ref, the **reference model**, is this fine-tuned model, frozen. Every method of
# lessons 3 to 6 starts from it and is held close to it.

# %%
reference = sft.copy()
print("weights that can change:", sum(weight.requires_grad for weight in reference.parameters()))

# %% [markdown]
# ## 7 · Sampling
#
# To write is to sample: draw a token from π(· | text so far), append it, repeat until the end
# token. The **temperature** τ sharpens or flattens the distribution before the draw:
#
# $$\pi_\tau(v) = \frac{e^{z_v / \tau}}{\sum_u e^{z_u / \tau}}$$
#
# τ = 1 is the policy itself, τ → 0 always takes the likeliest token (*greedy*), τ → ∞ makes all
# tokens equal.
#
# ### Exercise 2.5 · Sampling with a temperature
#
# ●●○ · 10 minutes · 3 points
#
# Draw one token per row of logits. All chance comes from the `generator`, so that an experiment can
# be repeated. A logit of −∞ marks a forbidden token, and must never be drawn. `torch.multinomial` draws places from
# probabilities.
#
# <details><summary>Hint 1</summary>
#
# Divide the *logits* by the temperature, before the softmax. Dividing probabilities changes nothing
# once they are normalised again.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `torch.multinomial(probabilities, 1, generator=generator)` gives a column (B, 1). Other ways work
# too: inverting the cumulative sum, or the largest of `logits / temperature + Gumbel noise`.
#
# </details>


# %% kind="exercise" exercise="2.5"
def sample_tokens(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Draw one token per row from softmax(logits / temperature).

    Args:
        logits: (B, V) one distribution per row; −∞ forbids a token.
        temperature: τ above 0.
        generator: the source of all randomness.

    Returns:
        (B,) token ids, torch.long.
    """
    ### BEGIN SOLUTION
    probabilities = torch.softmax(logits / temperature, dim=-1)
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(-1)
    ### END SOLUTION


# %% kind="check" exercise="2.5"
check("2.5", sample_tokens)

# %% [markdown]
# **Claim: sampled texts come as often as the model says.** The tiny model again, whose every text
# has a known probability. The loop below is all there is to a sampler. With 40,000 texts, each of
# the likeliest texts should come at a frequency whose confidence interval holds its π. We look at
# 30 texts at once, so the intervals are made wide enough that a right sampler passes all 30 in
# 9,999 runs of 10,000.

# %%
sample_tokens = yours("2.5", sample_tokens)

COUNT, LOOKED_AT = 40_000, 30
generator = torch.Generator().manual_seed(0)
written = torch.full((COUNT, 1), START)
ended = torch.zeros(COUNT, dtype=torch.bool)
for _ in range(LONGEST):
    with torch.no_grad():
        next_logits = tiny.model(input_ids=written).logits[:, -1]
    chosen = sample_tokens(next_logits, 1.0, generator)
    chosen = chosen.masked_fill(ended, tiny.pad_token_id)
    ended |= chosen == tiny.end_token_id
    written = torch.cat([written, chosen.unsqueeze(1)], dim=1)

place = {tuple(row): index for index, row in enumerate(rows.tolist())}  # padded texts, listed above
counts = torch.bincount(
    torch.tensor([place[tuple(row)] for row in written.tolist()]), minlength=len(every_text)
)
held = 0
likeliest = log_pi.topk(LOOKED_AT).indices.tolist()
for rank, index in enumerate(likeliest):
    exact = float(log_pi[index].exp())
    share, low, high = estimate_share(int(counts[index]), COUNT, confidence=1 - 1e-4 / LOOKED_AT)
    held += low <= exact <= high
    if rank < 5:
        words = " ".join(tiny.tokenizer.convert_ids_to_tokens(every_text[index]))
        print(f"π {exact:.4f}   sampled {share:.4f} in [{low:.4f}, {high:.4f}]   {words}")
print(f"{held} of {LOOKED_AT} intervals hold π")
assert held == LOOKED_AT

# %% [markdown]
# Now the temperature on the real model. **Entropy**, $H = -\sum_v \pi(v) \log \pi(v)$, says how
# undecided a distribution is: 0 for a sure choice, log V for a blind one.

# %% figure="02_temperature"
logits = sft.next_token_logits([start_of_response])[0]
order = logits.argsort(descending=True)[:12]
distributions = {}
for temperature in (0.3, 1.0, 2.0):
    undecided = float(formulas.entropy(logits / temperature))
    name = f"τ = {temperature}, entropy {undecided:.2f} nats"
    distributions[name] = (logits / temperature).softmax(-1)[order]
draw_distributions(
    sft.tokenizer.convert_ids_to_tokens(order.tolist()),
    distributions,
    title="“… the plot was”: the next word at three temperatures",
)
plt.show()

# %% [markdown]
# The order of the words never changes; how much the first ones get does. **Top-k** is the other
# knob: keep the k likeliest tokens, forbid the rest (logit −∞), and renormalise. It removes the
# long tail of unlikely tokens, each harmless alone, of which one comes up every few words.
#
# Drag both. The bars are the exact distribution, the dots the frequencies of 1,000 draws by your
# `sample_tokens`. Where does top-k change nothing any more?

# %%
BEGINNINGS = {
    "the plot was": start_of_response,
    "the plot": f"{prompt} it made me smile . the plot",
    "(the review begins)": prompt,
}
BEGINNING_LOGITS = dict(
    zip(BEGINNINGS, sft.next_token_logits(list(BEGINNINGS.values())), strict=True)
)


def show_next_word(figure, text, temperature, top_k):
    logits = BEGINNING_LOGITS[text]
    shown = logits.argsort(descending=True)[:14]
    cut = formulas.truncate_logits(logits / temperature, top_k=top_k)
    exact = cut.softmax(-1)[shown].tolist()
    drawn = sample_tokens(cut.repeat(1_000, 1), 1.0, torch.Generator().manual_seed(0))
    frequency = (torch.bincount(drawn, minlength=len(logits)) / 1_000)[shown].tolist()
    names = sft.tokenizer.convert_ids_to_tokens(shown.tolist())
    undecided = max(0.0, float(formulas.entropy(cut)))  # rounding can leave −0.00
    draw_next_word(figure, names, exact, frequency, undecided)
    best = ", ".join(f"{n} {p:.2f}" for n, p in zip(names[:3], exact[:3], strict=True))
    return f"Next-word probabilities at temperature {temperature:.2f}, top-k {top_k}: {best}"


explore(
    show_next_word,
    text=Choice("text so far ends", list(BEGINNINGS)),
    temperature=Slider("τ", "temperature", minimum=0.1, maximum=5.0, value=1.0, log=True),
    top_k=Slider("k", "top-k", minimum=1, maximum=304, value=304),
    caption="A low temperature takes from all but the likeliest; top-k takes from the tail alone.",
)

# %% [markdown]
# What does it do to whole reviews? *Predict, then run:* which temperature writes the fewest faults,
# and which says the most different things? Two hundred reviews of one film at each temperature.

# %%
for temperature in (0.3, 1.0, 1.5):
    generator = torch.Generator().manual_seed(2)
    rollout = sft.sample([prompt] * 200, 48, temperature=temperature, generator=generator)
    clean = np.mean([not reviews.faults(response) for response in rollout.responses])
    first_sentences = {response.split(" .")[0] for response in rollout.responses}
    print(
        f"τ = {temperature}: without faults {clean:4.0%}, {len(first_sentences):3} different first "
        f"sentences, ended by the end token {float(rollout.finished.float().mean()):4.0%}"
    )

# %% [markdown]
# A low temperature buys clean text with sameness, a high one leaves the language. The samples that
# train a policy in lessons 3 to 6 are drawn at τ = 1: only those are samples of π.
#
# ## 8 · How far apart are two policies?
#
# ### Exercise 2.6 · Exact KL divergence
#
# ●●○ · 10 minutes · 3 points
#
# $$\text{KL}(p \,\|\, q) = \sum_v p(v) \log \frac{p(v)}{q(v)}$$
#
# The mean, over samples of p, of how much likelier p finds them than q does. It is never negative,
# and 0 only for equal distributions. It is no distance: swap p and q and another number comes out.
# In RLHF it is the leash: KL(π ‖ π_ref) says how far a policy has gone from its reference.
#
# Two edges. A token with p = 0 adds nothing (0 · log 0 counts as 0). A token that p says and q
# never does makes the KL infinite.
#
# <details><summary>Hint 1</summary>
#
# `log_softmax` of both; weigh the difference with p, the *first* argument; sum over the last axis.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Where p = 0, log p is −∞, and 0 · (−∞) is NaN. Clear the *difference* there, before the product,
# with `masked_fill(p == 0, 0.0)`; clearing every infinity would hide the second edge.
#
# </details>


# %% kind="exercise" exercise="2.6"
def categorical_kl(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """Sum KL(p ‖ q) exactly, for each pair of distributions.

    Args:
        logits_p: (..., V) logits of p, the distribution that is sampled; −∞ where p is 0.
        logits_q: (..., V) logits of q, the one it is compared with; −∞ where q is 0.

    Returns:
        (...) divergences in nats; infinite where p says a token that q never does.
    """
    ### BEGIN SOLUTION
    log_p = torch.log_softmax(logits_p, dim=-1)
    log_q = torch.log_softmax(logits_q, dim=-1)
    p = log_p.exp()
    return (p * (log_p - log_q).masked_fill(p == 0, 0.0)).sum(-1)
    ### END SOLUTION


# %% kind="check" exercise="2.6"
check("2.6", categorical_kl)

# %% [markdown]
# **The two directions want different things.** Let p have two hills, and let q be a family with one
# hill (a discretised bell curve). Choose q once to minimise the **forward** KL(p ‖ q), as maximum
# likelihood does when p is the data, and once to minimise the **reverse** KL(q ‖ p), as RLHF does
# when p is the reference.
#
# *Predict, then run:* one of them sits on a single hill, the other spreads over both. Which is
# which?

# %% figure="02_kl"
categorical_kl = yours("2.6", categorical_kl)

x = torch.arange(41, dtype=torch.float64)
p = torch.log(
    0.6 * torch.exp(-0.5 * ((x - 11) / 2.5) ** 2) + 0.4 * torch.exp(-0.5 * ((x - 29) / 2.5) ** 2)
)
centres, widths = torch.meshgrid(
    torch.arange(0, 40.1, 0.5), torch.arange(1, 16.1, 0.25), indexing="ij"
)
family = -0.5 * ((x - centres[..., None]) / widths[..., None]) ** 2  # logits, one bell each
directions = {
    "forward KL(p ‖ q)": categorical_kl(p.expand_as(family), family),
    "reverse KL(q ‖ p)": categorical_kl(family, p.expand_as(family)),
}

fits, widest = {}, {}
for name, values in directions.items():
    best = int(values.argmin())
    widest[name] = float(widths.flatten()[best])
    q = family.reshape(-1, len(x))[best]
    fits[f"q of least {name} = {values.min():.2f} nats"] = q.softmax(-1)
draw_fits(x, p.softmax(-1), fits, title="Forward KL covers, reverse KL chooses")
plt.show()
assert widest["forward KL(p ‖ q)"] > 3 * widest["reverse KL(q ‖ p)"]

# %% [markdown]
# Forward KL pays dearly where p has weight and q has none, so q covers both hills, and puts much of
# its weight in the valley where p has almost none. Reverse KL pays where *q* has weight and p has
# none, so q takes one hill and leaves the other. This is why a model trained by likelihood is
# broad, and a policy trained by RLHF grows narrow.
#
# For whole texts there are too many to sum over, but the chain rule helps again:
#
# $$\text{KL}(\pi \,\|\, \pi_\text{ref}) = \mathbb{E}_{y \sim \pi} \sum_t \text{KL}\big(\pi(\cdot \mid x, y_{<t}) \,\|\, \pi_\text{ref}(\cdot \mid x, y_{<t})\big)$$
#
# So: sample texts from π, and at each position sum the KL exactly. `sequence_kl` does it. On the
# tiny model it can be compared with the sum over all texts.

# %%
other_model = small_gpt2(len(tiny_tokenizer), width=8, layers=1, heads=2, context=8, seed=5)
with torch.no_grad():
    other_model.transformer.wte.weight.mul_(20)
    other_logits = other_model(input_ids=rows).logits.double()
other = LanguagePolicy(other_model, tiny_tokenizer)
log_other = sequence_log_prob(token_log_probs(other_logits, rows, mask), mask[:, 1:])

exact = float((log_pi.exp() * (log_pi - log_other)).sum())
sampled = sequence_kl(tiny, other, [""] * 4_000, LONGEST, torch.Generator().manual_seed(0))
print(f"KL over all {len(every_text):,} texts {exact:.4f}, from 4,000 samples {sampled}")
assert abs(sampled.value - exact) < 4 * sampled.standard_error

# %% [markdown]
# Now the two models of the pipeline, in both directions, in nats per response.

# %%
generator = torch.Generator().manual_seed(4)
there = sequence_kl(sft, base, prompts, 48, generator)
back = sequence_kl(base, sft, prompts, 48, generator)
print(f"KL(sft ‖ base) = {there}")
print(f"KL(base ‖ sft) = {back}")
assert there.interval()[1] < back.interval()[0]

# %% [markdown]
# The base model can write clean reviews, it often does something else; so the fine-tuned model's
# texts surprise it little. The other way round, rude sentences and repeated words are nearly
# impossible for the fine-tuned model, and each costs many nats. KL is asymmetric, and here you can
# see why.
#
# ## 9 · Two views of one rollout
#
# Step through a rollout. Above is the state (the text so far), below the policy in that state; the
# filled bar is the action that was taken.

# %%
chosen_prompts = [
    "my sister showed me this swedish mystery .",
    "last week i rented an italian western .",
    "we saw an indian comedy on friday .",
]
watched = sft.sample(chosen_prompts, 48, generator=torch.Generator().manual_seed(5))
lengths = dict(zip(chosen_prompts, watched.response_mask.sum(1).tolist(), strict=True))
with torch.no_grad():
    watched_probabilities = sft.logits_of(watched).softmax(-1)


# %%
def show_step(figure, film, step):
    row, t = chosen_prompts.index(film), step - 1
    action = int(watched.response_tokens[row, t])
    distribution = watched_probabilities[row, t]
    shown = distribution.topk(8).indices.tolist()
    if action not in shown:
        shown[-1] = action
    probability = float(distribution[action])
    spell = sft.tokenizer.convert_ids_to_tokens
    names, taken = spell(shown), spell(action)
    said = spell(watched.response_tokens[row, :t].tolist())
    title = f"step {step} of {lengths[film]}: action “{taken}”, π = {probability:.3f}"
    draw_action(figure, film, said, names, distribution[shown].tolist(), shown.index(action), title)
    return f"State: {' '.join([film, *said])}. Action {taken} with probability {probability:.3f}."


explore(
    show_step,
    film=Choice("prompt", chosen_prompts),
    step=Slider(
        "t",
        "step",
        minimum=1,
        maximum=max(lengths.values()),
        value=9,
        end=lambda values: lengths[values["film"]],
    ),
    size=(7.2, 4.4),
    caption="Nothing is random in the environment: the next state is this state with the action added.",
)

# %% [markdown]
# The same rollout can be read in two ways. One is lesson 1's, with states, actions and rewards one
# after the other: a **Markov decision process** (MDP). The other has a single step: a **contextual
# bandit**.
#
# | | token view (MDP) | response view (contextual bandit) |
# | --- | --- | --- |
# | state | prompt and tokens so far | the prompt |
# | action | the next token | the whole response |
# | steps | T | 1 |
# | policy | $\pi(y_t \mid x, y_{<t})$ | $\pi(y \mid x) = \prod_t \pi(y_t \mid x, y_{<t})$ |
# | reward | of each token; the score comes with the last | one number |
# | return | $G_t = \sum_{k \ge t} \gamma^{k-t} r_k$ | the sum of all rewards |
#
# PPO in lesson 4 works in the token view, since that gives each token its own credit. DPO in lesson
# 6 works in the response view. Both speak of the same policy.
#
# ### Exercise 2.7 · Two views, two returns
#
# ●●○ · 12 minutes · 3 points
#
# A response gets a **score** at its end (does a person like it?), and each token may have a reward
# of its own (in lesson 4: a price for moving away from the reference). So the reward of token t is
#
# $$r_t = \text{token reward}_t + \begin{cases} \text{score} & t \text{ is the last counted token} \\ 0 & \text{else} \end{cases}$$
#
# Give the return of every token, $G_t = r_t + \gamma\, G_{t+1}$, and the return of the response as
# one action, $\sum_t r_t$. In the second view there is one step, so nothing to discount.
#
# <details><summary>Hint 1</summary>
#
# The mask is padded on the right, so the last counted token of a row stands at `mask.sum(-1) - 1`.
# The last *column* is often padding.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Build the rewards on a cleared copy (`token_rewards.masked_fill(~mask, 0.0)`), add the scores,
# then walk backwards in t as in lesson 1 and clear the padding once more.
#
# </details>


# %% kind="exercise" exercise="2.7"
def rollout_returns(
    token_rewards: Tensor, scores: Tensor, mask: Tensor, gamma: float
) -> tuple[Tensor, Tensor]:
    """Give the return of a rollout in both views.

    Args:
        token_rewards: (B, T) reward of each token, without the score; anything may stand where
            nothing counts.
        scores: (B,) score of each response, which comes with its last token.
        mask: (B, T) boolean, True = a token of the response; padding is on the right, and each row
            has at least one token.
        gamma: discount γ in [0, 1] per token.

    Returns:
        (B, T) the return G_t of each token, 0 where nothing counts, and (B,) the return of the whole
        response as one action.
    """
    ### BEGIN SOLUTION
    rewards = token_rewards.masked_fill(~mask, 0.0)
    rewards[torch.arange(len(rewards)), mask.sum(-1) - 1] += scores
    token_returns = torch.zeros_like(rewards)
    following = torch.zeros_like(scores)
    for t in reversed(range(rewards.shape[1])):
        following = rewards[:, t] + gamma * following
        token_returns[:, t] = following
    return token_returns.masked_fill(~mask, 0.0), rewards.sum(-1)
    ### END SOLUTION


# %% kind="check" exercise="2.7"
check("2.7", rollout_returns)

# %% [markdown]
# On the three rollouts above, scored by the **gold reward** of this world: the gold sentiment
# less a price for each fault. *Predict, then run:* with γ
# = 1, what are the returns of the first and of the last token? And with γ = 0.95?

# %%
rollout_returns = yours("2.7", rollout_returns)

scores = torch.tensor(reviews.gold_reward(watched.prompts, watched.responses))
no_token_rewards = torch.zeros(watched.response_mask.shape, dtype=scores.dtype)
for gamma in (1.0, 0.95):
    per_token, whole = rollout_returns(no_token_rewards, scores, watched.response_mask, gamma)
    print(f"γ = {gamma}")
    for row in range(len(scores)):
        length = int(watched.response_mask[row].sum())
        print(
            f"  score {scores[row]:+.2f} after {length} tokens: first token {per_token[row, 0]:+.3f}, "
            f"last {per_token[row, length - 1]:+.3f}, as one action {whole[row]:+.3f}"
        )
    if gamma == 1.0:
        assert torch.allclose(per_token[:, 0], whole)

# %% [markdown]
# At γ = 1 every token has the return of the whole response, and both views agree: this is the
# choice of nearly all RLHF. With γ < 1 a score counts for less at the first token, the longer the
# response: a good one would lose by being long, and a bad one gain.
#
# **Dialogue** adds no new idea. The state is the conversation so far, whoever wrote its parts; what
# the person says next is the environment's move.

# %%
conversation = [prompt]
for remark in ("we sat in the front row .", "i need more coffee ."):
    state = " ".join(conversation)
    generator = torch.Generator().manual_seed(9)
    answer = sft.sample([state], 20, generator=generator).responses[0]
    answer = answer.split(" .")[0] + " ."  # its first sentence
    tell(f"state of {len(state.split()):2} words: {state}")
    print(f"     the policy says: {answer}\n")
    conversation += [answer, remark]

# %% [markdown]
# The state grows with each turn until it fills the context, here 64 tokens; then something must be
# forgotten. Our model has never seen a conversation, so it goes on reviewing.
#
# ## 10 · Why not stop at SFT?
#
# Two reasons. Demonstrations are slow to write; to judge a review takes a person far less time than
# to write one. And imitation aims at the demonstrator, not beyond. *Predict, then run:* is the gold
# reward of the model's reviews above, at, or below that of the demonstrations that it imitates?

# %%
ask = reviews.sample_prompts(600, seed=105)
rollout = sft.sample(ask, 48, generator=torch.Generator().manual_seed(7))
shown = reviews.sample_reviews(600, seed=106)
by_model = estimate_mean(reviews.gold_reward(ask, rollout.responses))
by_people = estimate_mean(reviews.gold_reward(*zip(*shown, strict=True)))
print(f"gold reward of demonstrations {by_people}, of the model's samples {by_model}")
gap = by_model.value - by_people.value
gap_error = math.hypot(by_model.standard_error, by_people.standard_error)
print(f"difference {gap:+.3f} ± {gap_error:.3f}")
assert gap < 3 * gap_error  # not above the demonstrator, as far as 600 samples can tell

generator = torch.Generator().manual_seed(11)
four = sft.sample([p for p in ask[:200] for _ in range(4)], 48, generator=generator)
scores = reviews.gold_reward(four.prompts, four.responses).reshape(200, 4)
best = estimate_mean(scores.max(1))
print(f"the best of four samples, chosen by someone who can only judge: {best}")
assert best.interval()[0] > by_people.interval()[1]

# %% [markdown]
# The imitator reaches its demonstrators and stops there. Likelihood copies *every* demonstration,
# the dull ones as eagerly as the good. The last line is the way out that the rest of the course
# takes: someone who cannot write better can still say which is better, and picking by that
# judgement already beats the demonstrations by far.
#
# ## 11 · The simplest feedback: yes or no
#
# The base model learned from the web, and some of its completions insult people. Ask a person: rude
# (1) or not (0)? Then learn the answer, so that nobody has to read every text. The classifier is a
# linear head on the frozen body, fed with the mean hidden vector of the completion: $p(\text{rude})
# = \sigma(w \cdot \bar h + b)$.
#
# Words alone do not settle it: in "the hero is a clown ." nobody is insulted.

# %%
asked = reviews.sample_prompts(1_500, seed=107)
told = base.sample(asked, 48, generator=torch.Generator().manual_seed(8)).responses
rude = np.array([reviews.is_rude(response) for response in told])  # what a person would mark
LABELS = 300
print(f"{rude[:LABELS].sum()} of {LABELS} labelled completions are rude, for example:")
tell("· " + next(response for response, mark in zip(told, rude, strict=True) if mark))

classifier = ResponseClassifier(base)
*_, last = train_classifier(classifier, asked[:LABELS], told[:LABELS], rude[:LABELS].astype(int))
print(f"on its labels: accuracy {last.accuracy:.3f}")

# %%
scores = classifier.score(asked[LABELS:], told[LABELS:]).numpy()
truth = rude[LABELS:]
right = int(((scores > 0.5) == truth).sum())
share, low, high = estimate_share(right, len(truth))
order = np.argsort(scores)
politest = truth[order[: len(truth) // 2]].mean()
print(f"on {len(truth)} new completions: accuracy {share:.3f} in [{low:.3f}, {high:.3f}]")
print(f"always saying “not rude”:        accuracy {1 - truth.mean():.3f}")
print(f"rude among all {truth.mean():.1%}, among the half that the classifier likes {politest:.1%}")
assert low > 1 - truth.mean()
assert politest < 0.2 * truth.mean()

# %% [markdown]
# A few hundred clicks give a **judge**: a function from (prompt, completion) to a score. That is
# the seam of this course. Whatever is a judge (a classifier, a reward model, the gold reward, you)
# can pick samples, build training pairs or drive PPO.
#
# Why not go on, and ask for a rating from 1 to 5 of how *good* a review is? Lesson 3 asks two
# people, and finds that they don't agree on what a 4 is.
#
# ## 12 · Teachers and students
#
# A few more words of the field, each tried out.
#
# **Synthetic data** is text written by a model and used to train one. It costs nothing but compute.
# With a filter (here: no faults) it can even be cleaner than what the model writes on average.

# %%
synthetic = [
    (prompt, response)
    for prompt, response in zip(rollout.prompts, rollout.responses, strict=True)
    if not reviews.faults(response)
]
print(f"{len(rollout.responses)} sampled, {len(synthetic)} kept: synthetic demonstrations")

# %% [markdown]
# **Distillation** trains a small *student* to do what a large *teacher* does. On the teacher's
# *texts*, this is plain SFT. **Knowledge distillation** uses the teacher's *probabilities*: at each
# position the student is told how likely every token is, and not only which one came.
#
# ### Exercise 2.8 · Distillation loss
#
# ●●○ · 10 minutes · 3 points
#
# $$L_t = -\sum_v \pi_\text{teacher}(v \mid y_{<t}) \, \log \pi_\text{student}(v \mid y_{<t})$$
#
# The cross-entropy again, with the teacher's distribution where exercise 2.3 had a single token. It
# equals KL(teacher ‖ student) plus the teacher's entropy, which no student can change, so its
# gradient is that of the KL. Here both logits stand at the same positions: nothing is shifted. A
# token that the teacher forbids (logit −∞) adds nothing: 0 · log 0 counts as 0, as in exercise 2.6.
#
# <details><summary>Hint 1</summary>
#
# Softmax for the teacher, `log_softmax` for the student, product, sum over the vocabulary. The
# teacher must not learn: `detach` it.
#
# </details>
# <details><summary>Hint 2</summary>
#
# A token that both forbid has teacher probability 0 and student log-probability −∞, and 0 · (−∞) is
# NaN: clear the student's entry where the teacher's probability is 0.
#
# </details>


# %% kind="exercise" exercise="2.8"
def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, mask: Tensor) -> Tensor:
    """Give the cross-entropy of the student under the teacher's probabilities, at each position.

    Args:
        student_logits: (B, T, V) logits of the student, with gradient.
        teacher_logits: (B, T, V) logits of the teacher at the same positions; no gradient flows
            into them.
        mask: (B, T) boolean, True = a position that counts.

    Returns:
        (B, T) losses in nats, 0 where nothing counts.
    """
    ### BEGIN SOLUTION
    teacher = torch.softmax(teacher_logits.detach(), dim=-1)
    log_student = torch.log_softmax(student_logits, dim=-1)
    losses = -(teacher * log_student.masked_fill(teacher == 0, 0.0)).sum(-1)
    return losses.masked_fill(~mask, 0.0)
    ### END SOLUTION


# %% kind="check" exercise="2.8"
check("2.8", distillation_loss)

# %% [markdown]
# **Claim: a distilled student beats one trained from scratch on the same number of examples.** Four
# students of one size, with the same initial weights. The first learns from 300 demonstrations; the
# second from the same 300, with the teacher's probabilities beside each word; the third from 300
# texts that the teacher wrote, words alone; the fourth from 3,000 of those. All take equally many
# steps.
#
# *Predict, then run:* in which order will they come, by held-out NLL?

# %% kind="train"
distillation_loss = yours("2.8", distillation_loss)

EXAMPLES = 300
few = demonstrations[:EXAMPLES]
more = reviews.sample_prompts(3_000, seed=108)
written = sft.sample(more, 48, generator=torch.Generator().manual_seed(10)).responses
by_teacher = list(zip(more, written, strict=True))
schooling = SupervisedSettings(steps=300, learning_rate=5e-3, warmup=0.065)

students = {
    name: LanguagePolicy(small_gpt2(len(tokenizer), width=32, layers=2, seed=1), tokenizer)
    for name in ("from scratch", "distilled", "300 teacher texts", "3,000 teacher texts")
}
scratch, distilled, fed, overfed = students.values()
loops = (
    train_sft(scratch, few, schooling, loss=nll),
    train_distillation(distilled, sft, few, schooling, loss=distillation_loss),
    train_sft(fed, by_teacher[:EXAMPLES], schooling, loss=nll),
    train_sft(overfed, by_teacher, schooling, loss=nll),
)
for name, loop in zip(students, loops, strict=True):
    watch(loop, title=name)

# %%
results = {name: estimate_nll(student, held_out) for name, student in students.items()}
for name, student in students.items():
    own = by_teacher[:EXAMPLES] if "texts" in name else few
    print(
        f"{name:<19} held-out NLL {results[name]}   on its own first 300 texts "
        f"{estimate_nll(student, own).value:.3f}"
    )
print(f"{'the teacher':<19} held-out NLL {estimate_nll(sft, held_out)}")
assert results["distilled"].interval()[1] < results["from scratch"].interval()[0]
assert results["3,000 teacher texts"].interval()[1] < results["300 teacher texts"].interval()[0]

# %% [markdown]
# The distilled student wins clearly. With the teacher's help each word of the 300 texts comes with
# a whole distribution, which says what else could have stood there. The two students that see 300
# texts as words alone do much better on those texts than on new ones: they learn them by heart. The
# teacher's texts teach no more than real ones, one for one; their advantage is that there is no end
# of them.
#
# **In-context learning**: a model behaves differently because of what stands in its context, with
# no weight changed. Our model infers a reviewer's mood from one sentence. Below: how likely the
# next opinion is praise.

# %%
words = sft.tokenizer.convert_ids_to_tokens(range(sft.vocabulary_size))
sentiment = torch.tensor(reviews.gold_sentiment([""] * len(words), words)).float()
opening = "we saw an indian comedy on friday ."
liked = {}
for mood in ("i loved every minute .", "i have mixed feelings .", "what a bore ."):
    distribution = sft.next_token_logits([f"{opening} {mood} the plot was"]).softmax(-1)[0]
    opinion = distribution[sentiment != 0].sum()  # the rest: "very", "not", ...
    liked[mood] = float(distribution[sentiment > 0].sum() / opinion)
    print(f"{mood:<25} P(praise | an opinion follows) = {liked[mood]:.2f}")
assert liked["i loved every minute ."] > 0.8 and liked["what a bore ."] < 0.2

# %% [markdown]
# Large models do more: shown a few examples of a *new* task in the prompt, they carry it on. Does
# ours? Below, every part of the film so far was "bland", a pattern that a person would continue.
#
# *Predict, then run:* does P(bland) rise?

# %%
bland = sft.tokenizer.convert_tokens_to_ids("bland")
repeated = []
for times in range(4):
    so_far = [f"the {part} was bland ." for part in ("music", "acting", "ending")[:times]]
    asking = " ".join([opening, "it felt long .", *so_far, "the plot was"])
    repeated.append(float(sft.next_token_logits([asking]).softmax(-1)[0, bland]))
    print(f"“bland” {times} times before: P(bland) = {repeated[-1]:.4f}")
assert max(repeated) < 2 * repeated[0]

# %% [markdown]
# Hardly. Nothing in its training texts asked it to carry on a pattern, so it never learned to. With
# 0.17 million weights and 300 words this model knows one thing, reviews.
#
# **Chain of thought**: the model writes intermediate steps before its answer, so that each later
# token can build on them; the state of the token view grows by the model's own working. It helps
# where a problem has steps, and where the model has learned to write them. Our world has neither
# arithmetic nor arguments, so there is nothing here to show it on, and we don't pretend. Remember
# it as a use of the token view: actions that earn no reward themselves, and make a later one
# possible.
#
# ## 13 · A real model
#
# Does it hold for a model that people use, and a text that no grammar wrote? **SmolLM2** is a
# decoder-only transformer too, with 135 million weights and 49,152 tokens, pretrained on the web. It
# cuts rare words into pieces, but each word below is one token to it, as it is to our model. So both
# can read one sentence, word by word, and then read it again with "and" in the place of "but".
#
# *Predict, then run:* which numbers change with that word? Which of the two sentences is likelier?

# %%
ours, ours_and = (word_surprises(sft, said) for said in (text, text.replace(" but ", " and ")))
real, real_and = real_word_surprises(REAL_SENTENCE, REAL_SENTENCE.replace(" but ", " and "))
readings = {"ours": ours, "ours, and": ours_and, "SmolLM2": real, "SmolLM2, and": real_and}
tell(REAL_SENTENCE)
print(f"{'surprise in nats':>20}" + "".join(f"{name:>14}" for name in readings))
for place, word in enumerate(real.words):
    print(f"{word:>20}" + "".join(f"{read.nats[place]:>14.2f}" for read in readings.values()))

totals, perplexities = {}, {}
for name, read in readings.items():
    log_pi = -torch.tensor([read.nats])
    every = torch.ones_like(log_pi, dtype=torch.bool)
    totals[name] = float(sequence_log_prob(log_pi, every))
    perplexities[name] = float(perplexity(log_pi, every))
print(f"{'log π(sentence)':>20}" + "".join(f"{total:>14.2f}" for total in totals.values()))
print(f"{'perplexity':>20}" + "".join(f"{each:>14.2f}" for each in perplexities.values()))
print(real.note)

at, after = real.words.index("but"), real.words.index("rushed")
for one, other in ((ours, ours_and), (real, real_and)):
    change = np.abs(np.subtract(one.nats, other.nats))
    assert change[:at].max() < 2e-3 < change[at]
assert real_and.nats[after] - real.nats[after] > 1
assert abs(ours_and.nats[after] - ours.nats[after]) < 0.2
assert totals["SmolLM2, and"] > totals["SmolLM2"] and totals["ours, and"] > totals["ours"]

# %% [markdown]
# Before the swapped word nothing changes: no position sees the future. After it, look at "rushed". In
# our world "and" joins two opinions of a kind and "but" two that differ, without exception, and our
# model has hardly noticed: it learned how a whole review is meant (section 12), and not the rule of one
# small word. SmolLM2 has: after "clever **and**" it expects praise, and "rushed" costs it over one nat
# more. The sentence with "and" is likelier all the same, since "and" itself costs less than "but": the
# sum over the words decides.
#
# The perplexity of SmolLM2 is 40 times that of our model, and that makes it no worse. It shares its
# probability out over all that people write; ours knows nothing but reviews of 300 words. Perplexities
# compare models on text that is as new to the one as to the other.
#
# And the next word, when both have read "... The plot was"?

# %%
after_ours = word_surprises(sft, start_of_response)
(after_real,) = real_word_surprises(REAL_SENTENCE.partition(" truly")[0])
print(f"{'ours':>12}{'π':>8}{'SmolLM2':>14}{'π':>8}")
for (word, share), (piece, real_share) in zip(
    after_ours.following, after_real.following, strict=True
):
    print(f"{word:>12}{share:>8.3f}{piece:>14}{real_share:>8.3f}")
for read in (after_ours, after_real):
    assert sum(share for _, share in read.following) < 0.5

# %% [markdown]
# Both go on with a degree or an opinion, and both leave most of the probability to words that are not
# among these six: a policy, not an oracle. A piece of SmolLM2 begins with its blank, since that belongs
# to the word.
#
# With the model on your machine (`python -m rlhf_lessons real get` fetches it, once), the next cell
# reads a sentence of yours. Without it, the stored reading of the sentence above comes back.

# %%
(own,) = real_word_surprises("This course made me think twice about what a word is worth.")
for word, nats in zip(own.words, own.nats, strict=True):
    print(f"{word:>12} {nats:5.2f} {'█' * round(3 * nats)}")
print(own.note)

# %% [markdown]
# ## What was shown
#
# | claim | where | measured by |
# | --- | --- | --- |
# | the product of conditionals is the joint, and sums to 1 | 2 | enumeration |
# | one forward pass gives every conditional, none sees the future | 3 | a changed last word |
# | the LM head is a linear map | 3 | by hand |
# | NLL is cross-entropy | 4 | PyTorch |
# | SFT lowers the held-out NLL | 6 | 400 unseen reviews |
# | samples follow π | 7 | 30 confidence intervals |
# | forward KL covers, reverse KL chooses; KL is asymmetric | 8 | exact sums, samples |
# | both views give the same return at γ = 1 | 9 | your function |
# | imitation does not surpass its demonstrator, picking by judgement does | 10 | gold reward |
# | a few 0/1 labels make a judge | 11 | completions it never saw |
# | a distilled student beats one from scratch on the same examples | 12 | held-out NLL |
# | a swapped word changes what follows and nothing before, in a real model too | 13 | SmolLM2 |
#
# **In the package.** `rlhf_lessons.formulas`: `token_log_probs`, `sequence_log_prob`, `nll`,
# `perplexity`, `entropy`, `categorical_kl`, `distillation_loss`, `truncate_logits`,
# `discounted_returns`. `rlhf_lessons.models`: `LanguagePolicy`, `small_gpt2`, `word_tokenizer`,
# `ResponseClassifier`. `rlhf_lessons.training`: `train_sft`, `train_distillation`,
# `train_classifier`. `rlhf_lessons.evaluation`: `estimate_nll`, `sequence_kl`, `estimate_share`,
# `word_surprises`, `real_word_surprises`.
#
# **Further reading.**
#
# - Vaswani et al. 2017, *Attention Is All You Need*: the transformer.
# - Radford et al. 2019, *Language Models are Unsupervised Multitask Learners*: GPT-2.
# - Ouyang et al. 2022, *Training language models to follow instructions with human feedback*: the
#   pipeline that this course follows.
# - Hinton et al. 2015, *Distilling the Knowledge in a Neural Network*.
# - Holtzman et al. 2020, *The Curious Case of Neural Text Degeneration*: temperature, top-k, top-p.
# - Xie et al. 2022, *An Explanation of In-context Learning as Implicit Bayesian Inference*.
# - Wei et al. 2022, *Chain-of-Thought Prompting Elicits Reasoning in Large Language Models*.
#
# **Three quick questions.**
#
# 1. Two responses have mean token log-probabilities of −0.5 (40 tokens) and −0.6 (10 tokens). Which
#    is likelier under the policy?
#
# <details><summary>Answer</summary>
#
# The second: −0.6 · 10 = −6 against −0.5 · 40 = −20. Likelihood is about sums.
#
# </details>
#
# 2. You sample at temperature 0.7 and estimate KL(π ‖ π_ref) from those samples. What is wrong?
#
# <details><summary>Answer</summary>
#
# The samples come from another distribution, $\pi_{0.7}$, so the mean is taken over the wrong
# texts. Sample at temperature 1.
#
# </details>
#
# 3. A colleague wants to beat the best human writers by SFT on more demonstrations. What do you
#    say?
#
# <details><summary>Answer</summary>
#
# More demonstrations bring the model closer to the distribution of its demonstrators, good and bad
# alike. To go beyond, it needs a signal that says which of its own texts is better: the next
# lesson.
#
# </details>
#
# The words of this lesson, in three languages:

# %%
glossary(2)
