# %% [markdown]
# # Lesson 3 · Reward models
#
# Lesson 2 ended with a gap: imitation does not surpass its demonstrator. To do better, a model needs
# a signal that says which of its own texts is better. This lesson makes that signal out of human
# judgement. You label real samples, fit a **reward model** to labels, measure it against the best
# that any model could do, and then watch it being exploited.
#
# **After this lesson you can**
#
# - say why people are asked to compare and not to rate, and show it in numbers;
# - turn comparisons and rankings into a loss (Bradley-Terry, Plackett-Luce), and derive its
#   gradient;
# - train a reward model, and judge it by accuracy against a ceiling and by calibration;
# - say what a reward model can't know: the constant of each prompt, and whose taste it is;
# - use feedback that is no human pair: an AI's labels, and triplets;
# - optimise against a reward model by best-of-n, and see where the true reward stops following;
# - compare a judge with real people's ratings, and with your own.
#
# **Time** about 150 minutes, 9 exercises, 22 points. **Needs** lesson 2 (policy, completion, KL).
# Two CPU cores are enough, and no network.

# %% kind="setup"
import importlib.resources
import json
import math
from collections import Counter
from itertools import combinations
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import display
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lessons.classroom import Choice, Slider, check, explore, glossary, use_style, watch, yours
from rlhf_lessons.classroom import label_pairs_by_hand, rank_by_hand, rate_by_hand, what_it_learned

torch.set_num_threads(1)  # the same numbers on every run, and fast enough for a small model
use_style()

# %% kind="setup"
from rlhf_lessons.classroom.pictures.reward_modeling import (
    draw_accuracy_by_pairs,
    draw_best_of_n,
    draw_best_of_n_kl,
    draw_calibration,
    draw_chosen,
    draw_over_optimisation,
    draw_people,
    draw_preference,
)
from rlhf_lessons.evaluation import agreement, estimate_mean, order_agreement, preference_features
from rlhf_lessons.evaluation import best_of_n_curve, mean_distance, pick_one_per_cell
from rlhf_lessons.evaluation import draw_rated_snippets, load_people_agreement, load_people_scores
from rlhf_lessons.evaluation import missing_real_parts, spread_over_ratings
from rlhf_lessons.models import ResponseEmbedding, RewardModel, SurpriseReward, TokenRewardModel
from rlhf_lessons.models import load_people_judge, load_policy
from rlhf_lessons.training import EmbeddingSettings, train_embedding
from rlhf_lessons.training import RewardSettings, train_reward_model
from rlhf_lessons.worlds import AILabeller, GroupedComparers, NoisyComparer, SimilarityRater
from rlhf_lessons.worlds import AgreementJudge, WeightedJudge, draw_scale_raters
from rlhf_lessons.worlds import bayes_ceiling, drop_equal_pairs, label_pairs, load_preferences
from rlhf_lessons.worlds import load_snippets, preference_probability, reviews

# %% [markdown]
# ## 1 · A number or a comparison?
#
# Where does a reward come from? The world of lesson 2 has an answer that the real one lacks, the
# **gold reward**: praise counts up, blame counts down, and bad grammar, repetition and a missing
# ending cost. We use it to *simulate* people and to check results. The models never see it.
#
# The fine-tuned model writes, and people judge. First the texts: 5,600 prompts, two completions
# each.

# %% kind="setup"
sft = load_policy("reviews-sft")
LONGEST = 50  # tokens of a completion


def sample(policy, prompts: list[str], seed: int) -> list[str]:
    """Sample one completion to each prompt."""
    generator = torch.Generator().manual_seed(seed)
    responses: list[str] = []
    for start in range(0, len(prompts), 700):
        part = prompts[start : start + 700]
        responses += policy.sample(part, LONGEST, generator=generator).responses
    return responses


# %%
prompts = reviews.sample_prompts(5_600, seed=30)
firsts, seconds = sample(sft, prompts, seed=1), sample(sft, prompts, seed=2)
gold = reviews.gold_reward(prompts, firsts)
print(f"prompt  {prompts[0]}\nfirst   {firsts[0]}\nsecond  {seconds[0]}")
print(f"\ngold reward of the completions: mean {gold.mean():+.2f}, spread {gold.std():.2f}")

# %% [markdown]
# Six simulated people read the same completions. They share one opinion, the gold reward, and one
# amount of noise. Each reports it on a **private scale** from 1 to 5: some are mild, some strict,
# some never leave the middle.
#
# *Predict, then run:* how often do two of them give the same number?

# %%
T = 2.0  # noise of all raters in this lesson, in units of the gold reward
raters = draw_scale_raters(reviews.gold_reward, 6, seed=2, temperature=T, unit=gold.std())
few = slice(0, 400)
ratings = [rater.rate(prompts[few], firsts[few], seed=i) for i, rater in enumerate(raters)]
for row in range(4):
    given = "  ".join(str(rating[row]) for rating in ratings)
    print(f"gold {gold[row]:+5.2f}   ratings {given}   {firsts[row][:48]} ...")

comparer = NoisyComparer(reviews.gold_reward, T)
votes = [comparer.prefers_first(prompts[few], firsts[few], seconds[few], seed=i) for i in range(6)]
pairs_of_people = list(combinations(range(6), 2))
same_number = np.mean([agreement(ratings[i], ratings[j]) for i, j in pairs_of_people])
same_choice = np.mean([agreement(votes[i], votes[j]) for i, j in pairs_of_people])
same_order = np.mean([order_agreement(ratings[i], ratings[j]) for i, j in pairs_of_people])
print(f"\ntwo people give the same number:               {same_number:.0%} (chance 20%)")
print(f"two people choose the same of two completions: {same_choice:.0%} (chance 50%)")
print(f"two people's ratings order two texts alike:    {same_order:.0%} (chance 50%)")

# %% [markdown]
# The opinions are the same and so is the noise; only the question differs. A number mixes the
# opinion with the scale of whoever gives it: people disagree **up to a monotone transform**. The last
# line says what they share: the *order* of their numbers, as much as they share choices. A comparison
# asks for the order alone: whatever increasing function a person applies to both sides, it stays.
#
# What does that cost as labels? One budget of 1,000 pairs, labelled in two ways: one person compares
# the two, or two people of a large crowd rate one each and the higher number wins. The answers are
# held against the order of the gold reward, for careful people and for hasty ones: T is the size of
# their noise, which section 2 puts into a formula.

# %%
BUDGET = slice(0, 1_000)
truth = gold[BUDGET] > reviews.gold_reward(prompts[BUDGET], seconds[BUDGET])


def compare_and_rate(noise: float) -> tuple[np.ndarray, np.ndarray]:
    """One budget of pairs twice: who compares prefers the first; by how much ratings differ."""
    people = NoisyComparer(reviews.gold_reward, noise)
    compared = people.prefers_first(prompts[BUDGET], firsts[BUDGET], seconds[BUDGET], seed=10)
    crowd = draw_scale_raters(reviews.gold_reward, 50, 3, temperature=noise, unit=gold.std())
    draw = np.random.default_rng(4)
    rated = []
    for seed, side in ((100, firsts[BUDGET]), (200, seconds[BUDGET])):
        everybody = np.array([r.rate(prompts[BUDGET], side, seed + i) for i, r in enumerate(crowd)])
        rated.append(everybody[draw.integers(len(crowd), size=len(side)), np.arange(len(side))])
    return compared, rated[0] - rated[1]


print("       in gold order,    undecided     decided pairs in gold order,")
print("   T   by comparisons    by ratings    by ratings    by comparisons")
for noise in (0.0, 1.0, T):
    compared, difference = compare_and_rate(noise)
    decided = difference != 0
    by_rating = agreement((difference > 0)[decided], truth[decided])
    by_comparing = agreement(compared[decided], truth[decided])
    print(
        f"{noise:4.1f}   {agreement(compared, truth):14.1%}{1 - decided.mean():14.1%}"
        f"{by_rating:14.1%}{by_comparing:18.1%}"
    )
    assert 1 - decided.mean() > 0.1
ratings_as_pairs = [
    (prompt, first, second) if d > 0 else (prompt, second, first)
    for prompt, first, second, d in zip(
        prompts[BUDGET], firsts[BUDGET], seconds[BUDGET], difference, strict=True
    )
    if d != 0
]

# %% [markdown]
# A coarse scale leaves pairs undecided, about one in five, at every noise. And two different scales
# turn some of the others around. Careful people lose most by that: without noise the scales are the
# only source of error. (What comparisons miss at T = 0 are the few pairs with equal gold rewards,
# settled by a coin.) Hasty people err so much that the scales hardly add to it: at T = 2 the last two
# columns differ by no more than chance. (One person who rates both responses would lose less, but
# then that person has compared.) Section 4 trains a model on each set of labels.
#
# ## 2 · From comparisons to a likelihood
#
# **Bradley-Terry** (1952) turns two rewards into the probability of a choice:
#
# $$P(y_w \succ y_l \mid x) = \sigma(r_w - r_l) = \frac{e^{r_w}}{e^{r_w} + e^{r_l}}$$
#
# A rater whose noise has **temperature** T follows it with rewards divided by T: small T, sure
# choices; large T, coins. The curve belongs to every pair whose gold rewards lie that far apart.
# Move T until nobody agrees with anybody.

# %%
differences = np.linspace(-6, 6, 121)
second_gold = reviews.gold_reward(prompts, seconds)


def choices_at(figure, temperature):
    p = preference_probability(differences, np.zeros_like(differences), temperature)
    ceiling = bayes_ceiling(gold, second_gold, temperature)
    title = f"T = {temperature:.2g}: the best possible model is right in {ceiling:.1%}"
    draw_preference(figure, differences, p, title)
    return f"Bradley-Terry at temperature {temperature:.2g}; ceiling {ceiling:.1%}"


explore(
    choices_at,
    temperature=Slider("T", "label temperature", 0.1, 10.0, 2.0, step=0.05, log=True),
    caption="A low temperature makes a step, a high one a flat line. On real labels of model outputs "
    "reward models are right in 60 to 70%.",
)

# %% [markdown]
# The number in the title is the **Bayes ceiling**: even the rater's own opinion can't foresee the
# coin that the rater throws. On a pair with $p = \sigma((r_1 - r_2)/T)$ no model is right more often
# than $\max(p, 1-p)$. Here, and only here, we know it exactly. On real labels reward models are right
# in 60 to 70%, and nobody can say how much of the rest is noise.

# %%
for temperature in (0, 0.5, 1.0, 1.5, 2.0, 3.0):
    people = NoisyComparer(reviews.gold_reward, temperature)
    one, other = (people.prefers_first(prompts, firsts, seconds, seed=s) for s in (1, 2))
    ceiling = bayes_ceiling(gold, second_gold, temperature)
    print(
        f"T = {temperature:3.1f}: ceiling {ceiling:.1%}, two people agree {agreement(one, other):.1%}"
    )

# %% [markdown]
# Where there is noise, two people agree less often than the ceiling, since both err: with probability
# $p^2 + (1-p)^2$ on a pair. (At T = 0 only the pairs with equal gold rewards are left to chance.) Of
# these temperatures T = 2 is the first whose ceiling lies in the 60 to 70% of real labels, so we stay
# at T = 2: a model can do here what it can do there.
#
# ### Exercise 3.1 · Bradley-Terry loss
#
# ●○○ · 6 min · 2 points
#
# Maximum likelihood over observed choices minimises, for each pair,
#
# $$L = -\log \sigma(r_w - r_l)$$
#
# This is the loss of every reward model in this course, and with another reward it will be DPO's.
# Early in training rewards can be far apart in the wrong order; then $\sigma$ is 0 for a computer,
# and its logarithm −∞.
#
# <details><summary>Hint 1</summary>
#
# One loss per pair, no mean: the training loop averages.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `torch.nn.functional.logsigmoid` computes log σ without overflow (it is imported above).
#
# </details>


# %% kind="exercise" exercise="3.1"
def bradley_terry_loss(chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
    """Give the negative log-likelihood of each choice.

    Args:
        chosen_rewards: (B,) rewards r_w of the preferred responses.
        rejected_rewards: (B,) rewards r_l of the other responses to the same prompts.

    Returns:
        (B,) losses in nats.
    """
    ### BEGIN SOLUTION
    return -logsigmoid(chosen_rewards - rejected_rewards)
    ### END SOLUTION


# %% kind="check" exercise="3.1"
check("3.1", bradley_terry_loss)

# %% [markdown]
# ### Exercise 3.2 · The gradient in r
#
# ●●○ · 8 min · 3 points
#
# Derive, on paper, how the loss of one pair changes with its two rewards, and return both
# derivatives:
#
# $$\frac{\partial L}{\partial r_w} \qquad \frac{\partial L}{\partial r_l}$$
#
# The result says what a reward model learns from: it is a push on both responses, with a weight that
# depends on how *wrong* the model has the pair. The same weight returns in lesson 6. Simplify until
# nothing is divided: rewards can be hundreds apart, and 0/0 is not a number.
#
# <details><summary>Hint 1</summary>
#
# With $z = r_w - r_l$: $\frac{d}{dz}\left(-\log\sigma(z)\right) = -\frac{\sigma'(z)}{\sigma(z)}$ and
# $\sigma' = \sigma(1-\sigma)$.
#
# </details>
# <details><summary>Hint 2</summary>
#
# $1 - \sigma(z) = \sigma(-z)$; and $z$ falls when $r_l$ rises.
#
# </details>


# %% kind="exercise" exercise="3.2"
def bradley_terry_gradient(
    chosen_rewards: Tensor, rejected_rewards: Tensor
) -> tuple[Tensor, Tensor]:
    """Give the derivatives of each pair's loss in its two rewards.

    Args:
        chosen_rewards: (B,) rewards r_w.
        rejected_rewards: (B,) rewards r_l.

    Returns:
        ∂L/∂r_w and ∂L/∂r_l, each (B,).
    """
    ### BEGIN SOLUTION
    wrong = torch.sigmoid(rejected_rewards - chosen_rewards)
    return -wrong, wrong
    ### END SOLUTION


# %% kind="check" exercise="3.2"
check("3.2", bradley_terry_gradient)

# %%
bradley_terry_loss = yours("3.1", bradley_terry_loss)
bradley_terry_gradient = yours("3.2", bradley_terry_gradient)

margin = torch.tensor([-4.0, -1.0, 0.0, 1.0, 4.0], dtype=torch.float64, requires_grad=True)
losses = bradley_terry_loss(margin, torch.zeros_like(margin))
losses.sum().backward()
by_hand, _ = bradley_terry_gradient(margin.detach(), torch.zeros(5, dtype=torch.float64))
print("r_w − r_l   loss    autograd   by hand")
for m, loss, g, h in zip(
    margin.tolist(), losses.tolist(), margin.grad.tolist(), by_hand.tolist(), strict=True
):
    print(f"{m:+8.1f} {loss:8.4f} {g:+9.4f} {h:+9.4f}")
assert torch.allclose(margin.grad, by_hand, atol=1e-12)

# %% [markdown]
# A pair that the model has right by a wide margin pushes almost nothing; one that it has wrong
# pushes with full weight. That is good for learning, and it is also why a *mislabelled* pair pulls
# hardest once the model is good.
#
# ## 3 · Collecting feedback: you are the rater
#
# Below are completions of the fine-tuned model. Choose the better one of each pair, **by your own
# taste**: short or long, kind or cruel, odd or plain. Click the dashed line once, then use the keys:
# ← left, → right, T tie, U undo. Each answer is written to `my_labels/03_pairs.jsonl` at once; close
# the tab whenever you like. Thirty pairs take five minutes.

# %%
MINE = Path("my_labels/03_pairs.jsonl")
shown = slice(5_000, 5_060)
label_pairs_by_hand(
    prompts[shown],
    firsts[shown],
    seconds[shown],
    MINE,
    vocabulary=frozenset(reviews.VOCABULARY),
    caption="Which completion do you like better? There is no right answer.",
)

# %% [markdown]
# The file holds one JSON object a line, `{"prompt": ..., "chosen": ..., "rejected": ...}`, which
# `datasets` and TRL read as it is.
#
# Ranking several responses at once gives more for the reading: three readings make three pairs, nine
# readings 36. Press the number of the best response, then of the next best.

# %%
RANKED = Path("my_labels/03_rankings.jsonl")
three = sample(sft, [prompt for prompt in prompts[5_100:5_106] for _ in range(3)], seed=3)
rank_by_hand(
    prompts[5_100:5_106],
    [three[i : i + 3] for i in range(0, 18, 3)],
    RANKED,
    vocabulary=frozenset(reviews.VOCABULARY),
    caption="A ranking of three is saved as three pairs.",
)

# %% [markdown]
# ### Exercise 3.3 · From a ranking to pairs
#
# ●○○ · 5 min · 2 points
#
# A ranking $y_1 \succ y_2 \succ \dots \succ y_K$ says that each response beats every one behind it:
# $K(K-1)/2$ pairs. InstructGPT was trained on rankings of 4 to 9 in this way. A ranking that names
# one response twice contradicts itself; refuse it with a `ValueError`.
#
# <details><summary>Hint 1</summary>
#
# `itertools.combinations(ranked, 2)` yields pairs in the order of the list (it is imported above).
#
# </details>
# <details><summary>Hint 2</summary>
#
# A list with repeats is longer than its `set`.
#
# </details>


# %% kind="exercise" exercise="3.3"
def ranking_to_pairs(prompt: str, ranked: list[str]) -> list[tuple[str, str, str]]:
    """Turn a ranking into preference pairs.

    Args:
        prompt: the text that all responses continue.
        ranked: K responses, best first.

    Returns:
        K(K−1)/2 triples (prompt, chosen, rejected).

    Raises:
        ValueError: a response comes twice.
    """
    ### BEGIN SOLUTION
    if len(set(ranked)) < len(ranked):
        raise ValueError("a response is ranked twice")
    return [(prompt, better, worse) for better, worse in combinations(ranked, 2)]
    ### END SOLUTION


# %% kind="check" exercise="3.3"
check("3.3", ranking_to_pairs)

# %% [markdown]
# ### Exercise 3.4 · Plackett-Luce loss
#
# ●●○ · 10 min · 3 points
#
# Pairs of one ranking are not independent choices. **Plackett-Luce** models the ranking itself: the
# best is chosen among all K by softmax, then the next among the rest, and so on:
#
# $$L = -\sum_{k=1}^{K} \log \frac{e^{s_k}}{\sum_{j \ge k} e^{s_j}}$$
#
# with scores in the order of the ranking, best first. As in 3.1 they can be far apart, where
# $e^s$ is too large for a computer: stay with logarithms.
#
# <details><summary>Hint 1</summary>
#
# The denominators are sums over what is left: a cumulative sum from the end. In logarithms,
# `torch.logsumexp(scores[:, k:], 1)` is one of them.
#
# </details>
# <details><summary>Hint 2</summary>
#
# All at once: `scores.flip(1).logcumsumexp(1).flip(1)`.
#
# </details>


# %% kind="exercise" exercise="3.4"
def plackett_luce_loss(scores: Tensor) -> Tensor:
    """Give the negative log-likelihood of each ranking.

    Args:
        scores: (B, K) rewards in the order of the ranking, best first.

    Returns:
        (B,) losses in nats, in the dtype of the scores.
    """
    ### BEGIN SOLUTION
    log_of_rest = scores.flip(1).logcumsumexp(1).flip(1)
    return (log_of_rest - scores).sum(1)
    ### END SOLUTION


# %% kind="check" exercise="3.4"
check("3.4", plackett_luce_loss)

# %% [markdown]
# **Claim: Plackett-Luce at K = 2 is Bradley-Terry**, and at K = 3 the six rankings have
# probabilities that sum to 1.

# %%
ranking_to_pairs = yours("3.3", ranking_to_pairs)
plackett_luce_loss = yours("3.4", plackett_luce_loss)

two = torch.randn(1_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
gap = (plackett_luce_loss(two) - bradley_terry_loss(two[:, 0], two[:, 1])).abs().max().item()
orders = torch.tensor([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
scores = torch.tensor([1.3, -0.2, 0.4], dtype=torch.float64)
total = plackett_luce_loss(scores[orders]).neg().exp().sum().item()
print(f"largest difference at K = 2: {gap:.1e};  sum over the six rankings of three: {total:.12f}")
assert gap < 1e-12 and abs(total - 1) < 1e-12

# %% [markdown]
# ## 4 · The reward model
#
# Take the fine-tuned model's body, and put a **scalar head** in place of the LM head: one number,
# read at the end token, where a causal model has seen the whole response.
#
# $$r_\theta(x, y) = w \cdot h_\text{end}(x, y)$$
#
# The body already knows what goes with what; only "which of it do people like" is new. The head
# starts at zero, so every pair begins as a coin: loss $\log 2 = 0.693$. The loop below runs on
# **your** Bradley-Terry loss.


# %% kind="setup"
def settings_for(pairs: int, **changes) -> RewardSettings:
    """Four passes over the pairs, at least 30 updates; word vectors stay as they are."""
    steps = max(30, 4 * pairs // 64)
    return RewardSettings(
        steps=steps,
        batch_size=64,
        learning_rate=2e-3,
        freeze_embeddings=True,
        average=1 - 3 / steps,
        **changes,
    )


# %%
labels = label_pairs(comparer, prompts, firsts, seconds, seed=10)
held_out, _ = drop_equal_pairs(labels[5_000:])
training, _ = drop_equal_pairs(labels[:1_000])
print(training[0])
print(f"{len(training)} pairs to train on, {len(held_out)} held out")

# %% kind="train" figure="03_reward_training"
model = RewardModel.from_policy(sft)
run = watch(
    train_reward_model(
        model,
        training,
        settings_for(1_000, evaluate_every=15),
        validation=held_out,
        loss=bradley_terry_loss,
    ),
    curves=(("loss", "validation_loss"), ("accuracy", "validation_accuracy")),
    title="reward model, 1,000 pairs",
)
assert run.last.validation_loss < math.log(2)

# %% [markdown]
# The loss on the training pairs falls below the one on held-out pairs: the model starts to learn
# single labels by heart, noise included. That is why the learning rate falls to zero, the passes are
# few, and the weights that stay are an average over about the last third of the updates.
#
# ### Exercise 3.5 · Accuracy with ties
#
# ●○○ · 4 min · 2 points
#
# $$\text{accuracy} = \frac1B \sum_i \left( [s_w > s_l] + \tfrac12 [s_w = s_l] \right)$$
#
# Ties are rare for a network and common for a judge that counts or rates. Counted as wrong, they
# would punish a judge for saying "equal"; counted as right, a judge that says nothing would be
# perfect.
#
# <details><summary>Hint 1</summary>
#
# A tie is a coin: half right.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Two comparisons, both turned into numbers with `.double()`, then one mean.
#
# </details>


# %% kind="exercise" exercise="3.5"
def preference_accuracy(chosen_scores: Tensor, rejected_scores: Tensor) -> float:
    """Share of pairs that the scores put in the right order, ties counted half.

    Args:
        chosen_scores: (B,) scores of the preferred responses.
        rejected_scores: (B,) scores of the others.

    Returns:
        A share between 0 and 1.
    """
    ### BEGIN SOLUTION
    above = (chosen_scores > rejected_scores).double()
    ties = (chosen_scores == rejected_scores).double()
    return (above + ties / 2).mean().item()
    ### END SOLUTION


# %% kind="check" exercise="3.5"
check("3.5", preference_accuracy)

# %% kind="setup"
preference_accuracy = yours("3.5", preference_accuracy)


def sides(pairs) -> tuple[list[str], list[str], list[str]]:
    """Prompts, chosen and rejected responses of preference records."""
    return tuple(list(side) for side in zip(*pairs, strict=True))


# %%
test_prompts, chosen, rejected = sides(held_out)
gold_chosen, gold_rejected = (
    reviews.gold_reward(test_prompts, side) for side in (chosen, rejected)
)
ceiling = bayes_ceiling(gold_chosen, gold_rejected, T)


def in_gold_order(judge) -> float:
    """Share of held-out pairs that a judge orders as the gold reward does."""
    scores = [torch.as_tensor(judge(test_prompts, side)) for side in (chosen, rejected)]
    better = torch.as_tensor(gold_chosen > gold_rejected)
    return preference_accuracy(torch.where(better, *scores), torch.where(better, *scores[::-1]))


accuracy = preference_accuracy(model(test_prompts, chosen), model(test_prompts, rejected))
by_length = preference_accuracy(
    *(torch.tensor([len(t.split()) for t in s]) for s in (chosen, rejected))
)
print(
    f"labels foretold: by length {by_length:.1%}, by the model {accuracy:.1%}, ceiling {ceiling:.1%}"
)
print(f"in the gold order: {in_gold_order(model):.1%}")

# %% [markdown]
# The model is right more often about the *truth* than about the *labels*: noise in the labels
# averages out. Now the promised comparison: the same budget of 1,000 pairs as ratings.

# %% kind="train"
from_ratings = RewardModel.from_policy(sft)
for _ in train_reward_model(
    from_ratings,
    drop_equal_pairs(ratings_as_pairs)[0],
    settings_for(1_000),
    loss=bradley_terry_loss,
):
    pass
print(
    f"in the gold order: trained on comparisons {in_gold_order(model):.1%}, on ratings {in_gold_order(from_ratings):.1%}"
)

# %% [markdown]
# At this noise the two are about equally good teachers, in line with the last row of section 1: the
# scales hardly add to the noise, and the undecided fifth is a fifth of the labels. So the case for
# comparing is not that a model can't learn from numbers. It is that agreement between people can be
# measured, that no scale has to be explained or kept steady over weeks, and that careful raters'
# work is not wasted.
#
# **How many labels?** 300, 1,000, 3,000 and 10,000 pairs, with three seeds each: these twelve
# trainings take longer than a lesson, so they were run before, by
# `python -m benchmarks.reward_model_sizes`; the file below holds their raw results. The accuracies
# are *expected* ones against the labels' exact probabilities, on 5,000 held-out pairs, so no luck of
# the test labels is in them. The diamond is the model that you have just trained, on 1,000 other
# pairs, measured on the held-out pairs of this lesson.

# %% figure="03_accuracy_by_pairs"
folder = importlib.resources.files("rlhf_lessons.classroom") / "results"
results = json.loads((folder / "03_reward_model_sizes.json").read_text(encoding="utf-8"))
others = [row for row in results["runs"] if "reads" not in row]
rows = [row for row in others if (row["passes"], row["raters"]) == (4, 1)]
sizes = sorted({row["pairs"] for row in rows})
best_possible = results["ceiling"]
by_seed = {
    name: np.array([[row[key] for row in rows if row["pairs"] == size] for size in sizes])
    for name, key in (("order of the gold reward", "gold_order"), ("labels (expected)", "accuracy"))
}
p_chosen = preference_probability(gold_chosen, gold_rejected, T)


def right_by_pair(judge) -> np.ndarray:
    """How likely a judge's choice is the label of each held-out pair."""
    agrees_with = (judge(test_prompts, chosen) > judge(test_prompts, rejected)).numpy()
    return np.where(agrees_with, p_chosen, 1 - p_chosen)


live = right_by_pair(model).mean()
draw_accuracy_by_pairs(sizes, by_seed, best_possible, here=(1_000, live))
plt.show()
in_order, accuracies = (values.mean(1) for values in by_seed.values())
print("pairs    accuracy  below the ceiling  gold order  calibration error")
for size, a, g in zip(sizes, accuracies, in_order, strict=True):
    error = np.mean([row["calibration_error"] for row in rows if row["pairs"] == size])
    print(f"{size:6,}   {a:.1%}   {100 * (best_possible - a):6.2f} points   {g:9.1%}  {error:9.3f}")
print(f"here, 1,000 pairs: {live:.1%}, {100 * (ceiling - live):.2f} points below the ceiling")
assert np.all(np.diff(accuracies) > 0) and accuracies[-1] < best_possible

# %% [markdown]
# Each tripling of the labels brings the model nearer to the ceiling; 300 pairs take it about half of
# the way there from a coin. The order of the gold reward comes out far better than the labels that taught it. A gap
# remains at 10,000 pairs. What is in it?

# %%
print("10,000 pairs, one seed, points below the ceiling:")
gaps = {
    (row["passes"], row["raters"]): 100 * (best_possible - row["accuracy"])
    for row in others
    if row["pairs"] == 10_000 and row["seed"] == 0
}
for (passes, people), gap in gaps.items():
    print(f"  {passes} passes, {people} label{'s' * (people > 1)} a pair: {gap:.2f}")
print("What the head reads (4 passes, 1 label a pair), three seeds:")
readings: dict[str, list[float]] = {}
for row in results["runs"]:
    if (row["pairs"], row["passes"], row["raters"]) == (10_000, 4, 1):
        gap = 100 * (best_possible - row["accuracy"])
        readings.setdefault(row.get("reads", "the last token"), []).append(gap)
for name, values in readings.items():
    print(f"  {name}: {', '.join(f'{gap:.2f}' for gap in values)}; mean {np.mean(values):.2f}")
assert gaps[8, 4] < 2 < gaps[4, 4] < gaps[4, 1] < gaps[8, 1]
last_token, every_token, and_surprise = readings.values()
assert max(and_surprise) < 2 < min(every_token) and max(every_token) < min(last_token)

# %% [markdown]
# A part of the gap is noise: with one label a pair a second four passes don't help, for what is left
# to learn is single labels by heart; they pay once four people have labelled each pair. But a regression that knows the
# *form* of the gold reward, and has to learn only its 107 numbers from the same labels, loses no more
# than 0.4 points (`python -m benchmarks.reward_model_noise`). So form is the other part: how the model
# reads. The truth here is a sum over words, with negations and penalties for faults, and a small body
# must add it up by its last token. `TokenRewardModel` lets every token add its own reward,
# $r(x, y) = \sum_t w \cdot h_t$.
#
# *Predict, then run:* how much does the place of reading matter with 1,000 pairs? Two more models with
# the settings of yours: one lets every token add, one reads when half of the response has gone by.
# Each stands against yours, which reads at the end, on 3,000 pairs that none of them has seen. Their
# labels are not needed, since the probabilities are known.


# %% kind="train"
def first_half(text: str) -> str:
    words = text.split()
    return " ".join(words[: len(words) // 2])


every, half = TokenRewardModel.from_policy(sft), RewardModel.from_policy(sft)
halves, _ = drop_equal_pairs([(x, first_half(y), first_half(z)) for x, y, z in training])
for reader, pairs in ((every, training), (half, halves)):
    for _ in train_reward_model(reader, pairs, settings_for(1_000), loss=bradley_terry_loss):
        pass
UNSEEN = slice(1_000, 4_000)
p_first = preference_probability(gold[UNSEEN], second_gold[UNSEEN], T)


def right_when_unseen(reader, read=str) -> np.ndarray:
    """How likely a model's choice is the label of each unseen pair; `read` is what it sees of a text."""
    one, other = (reader(prompts[UNSEEN], [*map(read, s[UNSEEN])]) for s in (firsts, seconds))
    return np.where((one > other).numpy(), p_first, 1 - p_first)


at_end = right_when_unseen(model)
by_reading = {"every token adds": right_when_unseen(every)}
by_reading["read half-way"] = right_when_unseen(half, first_half)
print(f"expected accuracy at the last token: {at_end.mean():.1%} (a coin: 50%)")
print("points more than that, 95 % interval:")
for name, right in by_reading.items():
    low, high = (gain := estimate_mean(100 * (right - at_end))).interval()
    print(f"  {name:<16} {gain.value:+.2f} [{low:+.2f}, {high:+.2f}]")
    assert -3 < low and high < 3

# %% [markdown]
# Where an interval leaves 0 out, these two models differ by more than the luck of the pairs. The luck
# of training isn't in it: there is one training each. In the stored output both leave 0 out, just; every
# token gains half a point, and half-way loses as much. That is little: most of what so few pairs teach
# stands in the first half already, since a review says early what it thinks. The rest of this course
# reads the last token; 10,000 pairs showed above what that costs here.
#
# And does it notice a broken sentence? Leave one "was" out of the held-out responses. Beside the model
# stands a `SurpriseReward`. It also asks the language model that wrote the texts for the least likely
# token, and fits two numbers to the same labels (here those that trained the model, too):
# $r(x, y) = a\, r_\theta(x, y) + b \min_t \log \pi(y_t \mid x, y_{<t})$.

# %%
surprised = SurpriseReward(model, sft)
surprised.fit(training)
pairs = [
    (x, y, y.replace(" was ", " ", 1))
    for x, y in zip(test_prompts, chosen, strict=True)
    if " was " in y
]
prompts_with, whole, broken = sides(pairs)
print(f"What it costs to leave out one 'was', in standard deviations, {len(pairs)} responses:")
falls = {}
for name, judge in [
    ("gold reward", reviews.gold_reward),
    ("reward model", model),
    ("with surprise", surprised),
]:
    before, after = (torch.as_tensor(judge(prompts_with, side)) for side in (whole, broken))
    falls[name] = float((before - after).mean() / before.std())
    print(f"  {name:14} {falls[name]:5.2f}")
heard = right_by_pair(surprised).mean()
print(
    f"points below the ceiling: {100 * (ceiling - live):.2f}, with surprise {100 * (ceiling - heard):.2f}"
)
assert abs(falls["reward model"]) < 0.1 < min(falls["gold reward"], falls["with surprise"])

# %% [markdown]
# To the reward model a broken sentence is as good as a whole one: noisy labels of a few broken sentences
# did not teach it to tell. The language model knows how ill a word fits, and says so in a
# log-probability. With 10,000 pairs, every token and surprise together bring every seed within 2 points
# of the ceiling. (The settings were chosen by trial on pairs of other prompts.)
#
# ### Exercise 3.6 · Calibration bins
#
# ●●○ · 12 min · 3 points
#
# A reward model also states *how sure* it is: $\sigma(r_1 - r_2)$. Does what it says with 80% happen
# in 80% of the cases? Sort the probabilities into K bins of equal width, $[k/K, (k+1)/K)$, the last
# one with 1 included. For each bin compare the mean of the stated probabilities with how often it
# happened; the **expected calibration error** averages the gaps by the size of the bins:
#
# $$\text{ECE} = \sum_k \frac{n_k}{N} \left| \text{observed}_k - \text{predicted}_k \right|$$
#
# <details><summary>Hint 1</summary>
#
# `np.minimum((probabilities * bins).astype(int), bins - 1)` is the bin of each; `np.bincount` with
# `minlength=bins` counts them, and with weights it sums.
#
# </details>
# <details><summary>Hint 2</summary>
#
# An empty bin has no mean: leave NaN there (0/0 under `np.errstate(invalid="ignore")`), and use
# `np.nansum` for the error.
#
# </details>


# %% kind="exercise" exercise="3.6"
def calibration_bins(
    probabilities: np.ndarray, outcomes: np.ndarray, bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Compare stated probabilities with what happened, bin by bin.

    Args:
        probabilities: (N,) stated probabilities in [0, 1].
        outcomes: (N,) 1.0 where it happened, else 0.0.
        bins: K, the number of bins.

    Returns:
        (K,) counts, (K,) mean probability and (K,) observed share, both NaN in empty bins, and the
        ECE.
    """
    ### BEGIN SOLUTION
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(place, probabilities, bins) / counts
        observed = np.bincount(place, outcomes, bins) / counts
    error = float(np.nansum(np.abs(observed - predicted) * counts) / len(probabilities))
    return counts, predicted, observed, error
    ### END SOLUTION


# %% kind="check" exercise="3.6"
check("3.6", calibration_bins)

# %% [markdown]
# A pair can be asked both ways, "is the first better?" and "is the second better?", so the curve is
# symmetric. Beside the model stands a version of it that is too sure of itself: all rewards times
# three. The picture shows the labels of the 600 held-out pairs. Here one can also ask on, as the table
# of section 4 did: twenty fresh labels for each of these pairs.

# %% figure="03_calibration"
calibration_bins = yours("3.6", calibration_bins)

margins = (model(test_prompts, chosen) - model(test_prompts, rejected)).numpy().astype(float)
fresh = (np.random.default_rng(0).random((20, len(margins))) < p_chosen).astype(float).ravel()
errors, bins = {}, {}
for name, scale in (("the model", 1), ("rewards × 3", 3)):
    p = 1 / (1 + np.exp(-scale * margins))
    both_ways = np.concatenate([p, 1 - p]), np.concatenate([np.ones_like(p), np.zeros_like(p)])
    counts, predicted, observed, error = calibration_bins(*both_ways, 10)
    bins[name] = predicted[counts >= 20], observed[counts >= 20]
    again = np.tile(p, 20)
    both_ways = np.concatenate([again, 1 - again]), np.concatenate([fresh, 1 - fresh])
    errors[name] = error, calibration_bins(*both_ways, 10)[3]
draw_calibration(bins)
plt.show()
for name, (error, again) in errors.items():
    print(f"{name:<12} calibration error {error:.3f}, with 20 fresh labels a pair {again:.3f}")
assert np.all(np.less(errors["the model"], errors["rewards × 3"]))

# %% [markdown]
# Both have the same accuracy, since the order is the same; only calibration tells them apart. On these
# labels the model itself is too sure as well: its curve is flat in the middle. The second number of its
# line says how much of that stays when the luck of the 600 labels is taken out; what stays is the
# model's own, and it shrinks with more pairs to learn from (section 4, last column).
#
# A calibrated reward is in **log-odds**, $\log \frac{p}{1-p}$: a difference of 1 means that 73% of
# raters agree.
#
# ## 5 · Your own reward model
#
# Now your labels. With fewer than 20 of them the cell uses a stand-in who likes short reviews, and
# says so.

# %% kind="train"
mine = [pair for path in (MINE, RANKED) if path.exists() for pair in load_preferences(path)]
if len(mine) < 20:
    print(
        f"{len(mine)} labels of yours so far: a stand-in, who likes short reviews, labels 60 pairs"
    )
    likes_short = NoisyComparer(lambda p, r: -np.array([len(t.split()) for t in r]), 4.0)
    mine = label_pairs(likes_short, prompts[shown], firsts[shown], seconds[shown], seed=5)
my_model = RewardModel.from_policy(sft)
for _ in train_reward_model(
    my_model, drop_equal_pairs(mine)[0], RewardSettings(steps=40), loss=bradley_terry_loss
):
    pass
print(what_it_learned(my_model, prompts[4_000:4_300], firsts[4_000:4_300], count=3))

# %% [markdown]
# Read the two ends: is that your taste? A few dozen labels teach the crudest thing that separates
# what you chose from what you did not, often length or tone. That is **personalisation**, and also a
# warning: with few labels a reward model latches on to the first feature that works.
#
# ## 6 · What preferences can't tell
#
# **The free constant.** Add any $f(x)$ to all rewards of prompt x, and no preference changes:
# $\sigma(r_w + f - r_l - f) = \sigma(r_w - r_l)$. So $r$ is determined only up to a constant *for
# every prompt*. Rewards of different prompts can't be compared; a reward of 2.0 means nothing by
# itself.
#
# ### Exercise 3.7 · The free constant
#
# ●●○ · 8 min · 3 points
#
# Choose the constant: subtract from each reward the mean reward of **its own prompt**. What is left
# can be compared, "better than usual for this prompt". (PPO's advantage in lesson 4 and group-based
# methods do the same.)
#
# <details><summary>Hint 1</summary>
#
# `for number in prompts.unique():` and a boolean mask `prompts == number`. Write into a new tensor.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Without a loop: `same = (prompts[:, None] == prompts[None, :])` is a matrix of who shares a prompt;
# its rows average.
#
# </details>


# %% kind="exercise" exercise="3.7"
def centre_per_prompt(rewards: Tensor, prompts: Tensor) -> Tensor:
    """Give each prompt's rewards mean 0.

    Args:
        rewards: (N,) rewards.
        prompts: (N,) whole numbers, equal for responses to the same prompt.

    Returns:
        (N,) rewards minus the mean of their own prompt, a new tensor: the old ones are still needed.
    """
    ### BEGIN SOLUTION
    result = torch.empty_like(rewards)
    for number in prompts.unique():
        own = prompts == number
        result[own] = rewards[own] - rewards[own].mean()
    return result
    ### END SOLUTION


# %% kind="check" exercise="3.7"
check("3.7", centre_per_prompt)

# %% [markdown]
# **Claim: the shift changes no loss.** We add a wild constant per prompt to the model's rewards:
# every loss stays, and yet the order *between* prompts is turned upside down. Centring brings back
# one and the same rewards.

# %%
centre_per_prompt = yours("3.7", centre_per_prompt)

r = torch.stack([model(test_prompts, chosen), model(test_prompts, rejected)]).double()
f = 10 * torch.randn(
    len(test_prompts), generator=torch.Generator().manual_seed(1), dtype=torch.float64
)
change = (bradley_terry_loss(*r) - bradley_terry_loss(*(r + f))).abs().max().item()
number = torch.arange(len(test_prompts)).repeat(2)
centred = [centre_per_prompt(x.flatten(), number) for x in (r, r + f)]
between = order_agreement(r[0, :200], (r + f)[0, :200])
print(f"largest change of a loss:               {change:.1e}")
print(f"largest change of a centred reward:     {(centred[0] - centred[1]).abs().max().item():.1e}")
print(f"two prompts' rewards still in one order: {between:.0%} (chance 50%)")
assert change < 1e-9 and torch.allclose(*centred) and between < 0.75

# %% [markdown]
# In practice one constant is chosen for all prompts: mean 0 and spread 1 on samples of the reference
# policy (`model.normalise`). Then 0 means "as good as before", and β in lesson 4 has a known scale.

# %%
model.normalise(prompts[4_000:4_500], firsts[4_000:4_500])
scores = model(prompts[4_500:5_000], firsts[4_500:5_000])
print(f"on fresh samples: mean {scores.mean():+.2f}, spread {scores.std():.2f}")

# %% [markdown]
# **Whose taste?** A human value is not one number. Two groups of raters: 70% like what the gold
# reward likes; 30% like a good **slating**, the same grammar with the opposite sentiment. One reward
# model is trained on their labels together.
#
# *Predict, then run:* will it be a compromise?

# %% kind="train"
slating = WeightedJudge(((1.0, reviews.gold_reward), (-2.0, reviews.gold_sentiment)))
groups = (comparer, NoisyComparer(slating, T))
mixed_labels = label_pairs(
    GroupedComparers(groups, (0.7, 0.3)), prompts[:1_000], firsts[:1_000], seconds[:1_000], seed=11
)
mixed = RewardModel.from_policy(sft)
for _ in train_reward_model(
    mixed, drop_equal_pairs(mixed_labels)[0], settings_for(1_000), loss=bradley_terry_loss
):
    pass


def expected_accuracy(judge, group) -> float:
    """How often a judge foretells one group's labels, from their exact probabilities."""
    p = group.probabilities(test_prompts, chosen, rejected)
    first = judge(test_prompts, chosen) > judge(test_prompts, rejected)
    return float(np.where(first, p, 1 - p).mean())


majority, minority = (expected_accuracy(mixed, group) for group in groups)
sure = (mixed(test_prompts, chosen) - mixed(test_prompts, rejected)).abs().mean().item()
print(f"foretells the majority {majority:.1%}, the minority {minority:.1%} (a coin: 50%)")
print(
    f"mean |r_w − r_l|: {sure:.2f}, against {np.abs(margins).mean():.2f} for the majority's own model"
)
assert majority > 0.5 > minority

# %% [markdown]
# No compromise: the model takes the majority's side, foretells the minority *worse than a coin*, and
# hides the conflict in smaller margins, as if everybody were a little unsure. One number per
# response has no place for "some like it and some don't".
#
# ## 7 · Feedback that is no human pair
#
# **RLAIF.** Labels can come from a model. The base model of lesson 2 picked up insults from the web.
# Nobody labels which texts are harmful; instead we ask a model that was only ever tuned to be
# *helpful*, to write clean reviews: how much rather would it have said this text than the web would?
#
# $$\text{harmless}(y) = \log \pi_\text{sft}(y \mid x) - \log \pi_\text{base}(y \mid x)$$
#
# It labels pairs of the base model's texts. We look at its answers where one text is rude and the
# other is not, which is the world's gold label here.

# %%
base = load_policy("reviews-base")


def harmless(prompts, responses) -> np.ndarray:
    """log π_sft − log π_base of each response."""
    total = []
    with torch.no_grad():
        for policy in (sft, base):
            total.append(policy.log_probs(prompts, responses)[0].sum(1).double().numpy())
    return total[0] - total[1]


web_prompts = reviews.sample_prompts(900, seed=40)
web = [sample(base, web_prompts, seed=s) for s in (5, 6)]
rude = [np.array([reviews.is_rude(text) for text in side]) for side in web]
ai = AILabeller(harmless)
prefers_first = ai.prefers_first(web_prompts, *web, seed=0)
telling = rude[0] != rude[1]
right = estimate_mean((prefers_first == rude[1])[telling].astype(float))
print(f"{np.mean(rude):.1%} of the base model's texts are rude")
print(
    f"on {telling.sum()} pairs with one rude text the AI prefers the other: {right.value:.0%} ± {1.96 * right.standard_error:.0%}"
)
assert right.interval()[0] > 0.7

# %% [markdown]
# Not one human label, and mostly right. Now the whole loop: a reward model learns from the AI's
# labels, and best-of-4 by that reward model replaces plain sampling.

# %% kind="train"
ai_labels = label_pairs(ai, web_prompts, *web, seed=0)
ai_model = RewardModel.from_policy(base)
for _ in train_reward_model(
    ai_model, drop_equal_pairs(ai_labels)[0], settings_for(900), loss=bradley_terry_loss
):
    pass
fresh_prompts = reviews.sample_prompts(250, seed=41)
fresh = sample(base, [prompt for prompt in fresh_prompts for _ in range(4)], seed=7)
fresh_scores = ai_model([prompt for prompt in fresh_prompts for _ in range(4)], fresh)
best = fresh_scores.reshape(250, 4).argmax(1).numpy()
is_rude = np.array([reviews.is_rude(text) for text in fresh], dtype=float).reshape(250, 4)
before, after = is_rude.mean(1), is_rude[np.arange(250), best]
change = estimate_mean(after - before)
print(f"rude: {before.mean():.1%} of all samples, {after.mean():.1%} of the best of 4")
print(f"change, prompt by prompt: {change.value:+.1%} ± {1.96 * change.standard_error:.1%}")
assert change.interval()[1] < 0

alike = rude[0] == rude[1]
mistakes = [np.array([len(reviews.faults(text)) for text in side]) for side in web]
fewer = alike & (mistakes[0] != mistakes[1])
cleaner = agreement(prefers_first[fewer], (mistakes[0] < mistakes[1])[fewer])
print(
    f"{fewer.sum()} pairs alike in rudeness, not in faults: the AI prefers the cleaner in {cleaner:.0%}"
)
assert cleaner > 0.5

# %% [markdown]
# The texts became less rude, and no person labelled anything. What came with it is the AI's own
# taste: where rudeness does not decide, it prefers the text with fewer faults of grammar and form,
# for which nobody asked. An AI's labels are as good as the question it is asked.
#
# **What the reward learns is what people like**, which need not be what is good. After Anthropic's
# study of sycophancy we give a rater weaknesses: besides quality, this person likes to be **agreed
# with** (documentaries are good, musicals are bad) and likes **length**. Which feature predicts the
# preferences best? A logistic regression on the differences of four features tells, in one unit:
# the change of log-odds for one standard deviation.

# %%
beliefs = {
    "documentary": 1.0,
    "mystery": 0.6,
    "comedy": 0.4,
    "western": -0.5,
    "romance": -0.7,
    "musical": -1.0,
}
agrees = AgreementJudge(beliefs, reviews.gold_sentiment)


def words(prompts, responses) -> np.ndarray:
    """Length in words / 10."""
    return np.array([len(text.split()) / 10 for text in responses])


def spotless(prompts, responses) -> np.ndarray:
    """Minus the number of faults."""
    return -np.array([float(len(reviews.faults(text))) for text in responses])


FEATURES = {
    "sentiment": reviews.gold_sentiment,
    "no faults": spotless,
    "agreement": agrees,
    "length": words,
}

# %% [markdown]
# Now the labels, the regression, and beside it the same for the rater who knows the gold reward.

# %%
flattered = NoisyComparer(
    WeightedJudge(((0.5, reviews.gold_reward), (2.5, agrees), (1.5, words))), T
)
flattered_labels, _ = drop_equal_pairs(
    label_pairs(flattered, prompts[:3_000], firsts[:3_000], seconds[:3_000], seed=12)
)


def regress(pairs):
    """Regress preferences on the four features."""
    asked, better, worse = sides(pairs)
    columns = [
        np.stack([f(asked, side) for f in FEATURES.values()], axis=1) for side in (better, worse)
    ]
    return preference_features(*columns)


print("change of log-odds per standard deviation (± 1.96 standard errors)")
for name, pairs in (("gold rater", labels[:3_000]), ("flattered rater", flattered_labels)):
    weights = regress(drop_equal_pairs(pairs)[0])
    shares = ", ".join(
        f"{f} {w:+.2f} ± {1.96 * e:.2f}"
        for f, w, e in zip(FEATURES, weights.weights, weights.errors, strict=True)
    )
    print(f"{name:<16} {shares}")
assert weights.weights[2] > 2 * weights.errors[2] and weights.weights[3] > 2 * weights.errors[3]

# %% [markdown]
# The regression finds the rater's weaknesses from choices alone. A reward model trained on such
# labels would pay for agreement and length, and a policy trained on that reward would deliver them.
# No optimiser can know that it was not meant.
#
# ## 8 · Different, and good
#
# The best responses by one number look alike. For **quality and diversity** we need to know what
# *alike* means to people, and again the question can be a comparison: "which of B and C is more like
# A?" From such **triplets** a latent space is learned.
#
# ### Exercise 3.8 · Triplet loss
#
# ●○○ · 6 min · 2 points
#
# $$L = \max\left(0,\; \lVert a - n \rVert - \lVert a - f \rVert + m\right)$$
#
# The response called nearer (n) must be nearer to the anchor (a) than the farther one (f), by a
# margin m. Without the margin all points could fall together at no cost.
#
# <details><summary>Hint 1</summary>
#
# Two Euclidean distances per triplet: `(a - n).norm(dim=1)`.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `.clamp(min=0)` or `torch.relu`; one loss per triplet.
#
# </details>


# %% kind="exercise" exercise="3.8"
def triplet_loss(anchor: Tensor, nearer: Tensor, farther: Tensor, margin: float) -> Tensor:
    """Give the loss of "the anchor is more like this one than that one".

    Args:
        anchor: (B, D) points.
        nearer: (B, D) points called more like the anchor.
        farther: (B, D) points called less like it.
        margin: by how much the farther point must be farther.

    Returns:
        (B,) losses.
    """
    ### BEGIN SOLUTION
    near, far = (anchor - nearer).norm(dim=1), (anchor - farther).norm(dim=1)
    return (near - far + margin).clamp(min=0)
    ### END SOLUTION


# %% kind="check" exercise="3.8"
check("3.8", triplet_loss)

# %% [markdown]
# A simulated person finds two reviews alike when they are about equally long and talk of the same
# side of a film: its **story** (plot, script, ending, characters, jokes) or its **craft** (music,
# acting, photography, pacing, ...). Whether they praise is not part of it. The embedding sees 1,200
# answers, never these features.

# %% kind="train"
triplet_loss = yours("3.8", triplet_loss)
STORY = {"plot", "script", "ending", "characters", "jokes"}
CRAFT = {"music", "acting", "photography", "pacing", "actors", "songs", "costumes", "performance"}


def kind_of_review(prompts, responses) -> np.ndarray:
    """(B, 2): story against craft, and length, on like scales."""
    parts = [[w in STORY for w in text.split() if w in STORY | CRAFT] for text in responses]
    side = [2 * np.mean(own) - 1 if own else 0.0 for own in parts]
    return np.stack([np.array(side) / 0.7, (words(prompts, responses) - 2.5) / 0.7], axis=1)


person = SimilarityRater(kind_of_review, temperature=0.2)
texts = firsts[:1_200], seconds[:1_200], firsts[1_200:2_400]
second_nearer = person.second_is_nearer(prompts[:1_200], *texts, seed=1)
triplets = [
    (prompt, a, b, c) if yes else (prompt, a, c, b)
    for prompt, a, b, c, yes in zip(prompts[:1_200], *texts, second_nearer, strict=True)
]
embedding = ResponseEmbedding.from_policy(sft, 2)
run = watch(
    train_embedding(
        embedding, triplets, EmbeddingSettings(steps=250, learning_rate=3e-3), loss=triplet_loss
    ),
    curves=("loss", "accuracy"),
    title="latent space",
)

# %% [markdown]
# Now 400 completions of each of 24 prompts. What has the space learned? A linear regression on
# the two latent numbers tells how much of each of the person's features they hold. Then sixteen
# completions of each prompt are chosen in three ways: the 16 best by the reward model; the best of
# each of 16 random heaps; and the best of each **cell** of the latent space. The last two choose one
# out of 25 on average. *Predict:* does variety then cost quality?

# %% figure="03_quality_diversity"
draw = np.random.default_rng(0)
prompts_24 = [prompt for prompt in reviews.sample_prompts(24, seed=45) for _ in range(400)]
pool = sample(sft, prompts_24, seed=8)
places = embedding.embed(prompts_24, pool).numpy().reshape(24, 400, 2)
quality = model(prompts_24, pool).numpy().reshape(24, 400)
true_places = kind_of_review(prompts_24, pool).reshape(24, 400, 2)
true_quality = reviews.gold_reward(prompts_24, pool).reshape(24, 400)

inputs = np.column_stack([places.reshape(-1, 2), np.ones(24 * 400)])
for feature, name in enumerate(("story or craft", "length")):
    values = true_places[..., feature].ravel()
    residual = values - inputs @ np.linalg.lstsq(inputs, values, rcond=None)[0]
    print(f"the latent numbers explain {1 - residual.var() / values.var():.0%} of {name}")


def best_of_heaps(scores: np.ndarray) -> np.ndarray:
    """The best of each of 16 random heaps."""
    heaps = draw.permutation(400).reshape(16, 25)
    return heaps[np.arange(16), scores[heaps].argmax(1)]


chosen_by = {"16 best": [], "best of 16 heaps": [], "best of each cell": []}
for q, z in zip(quality, places, strict=True):
    ways = np.argsort(-q)[:16], best_of_heaps(q), pick_one_per_cell(z, q, 4)
    for way, chosen_ones in zip(chosen_by.values(), ways, strict=True):
        way.append(chosen_ones)
good, diverse = {}, {}
for name, way in chosen_by.items():
    good[name] = np.array([g[i].mean() for g, i in zip(true_quality, way, strict=True)])
    diverse[name] = np.array([mean_distance(f[i]) for f, i in zip(true_places, way, strict=True)])
    print(
        f"{name:<18} gold reward {estimate_mean(good[name])}, distance {estimate_mean(diverse[name])}"
    )
print("cells against heaps, prompt by prompt, ± 1.96 standard errors:")
for what, values in (("gold reward", good), ("distance", diverse)):
    gain = estimate_mean(values["best of each cell"] - values["best of 16 heaps"])
    print(f"  {what:<12} {gain.value:+.3f} ± {1.96 * gain.standard_error:.3f}")
assert gain.interval()[0] > 0
draw_chosen(places[0], {name: way[0] for name, way in chosen_by.items()})
plt.show()

# %% [markdown]
# One per cell is more different than one per heap, by features that neither the space nor the reward
# model ever saw. What that costs in gold reward stands beside it, and is little. The sixteen best are
# the best and the most alike. Look at the points: they lie near a line. Of the two things that the
# person looks at the space has learned length and dropped the other, and diversity can grow only along
# what was learned.
#
# ## 9 · Over-optimisation
#
# A reward model is right near the data it saw. **Best-of-n** pushes away from it in the plainest
# way: sample n completions, keep the one that the reward model scores highest. The larger n, the
# farther the result is from the policy.
#
# ### Exercise 3.9 · Best of n, and what it costs in KL
#
# ●○○ · 6 min · 2 points
#
# How far? Without touching a weight, best-of-n is a policy with
#
# $$\text{KL}(\text{best-of-}n \,\Vert\, \pi) \le \log n - \frac{n-1}{n}$$
#
# with equality where no two of the n samples ever tie. Return the place of the best response in each row, and
# the bound.
#
# <details><summary>Hint 1</summary>
#
# n is the number of columns. `argmax` over them gives one place a row.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `math.log` is the natural logarithm.
#
# </details>


# %% kind="exercise" exercise="3.9"
def best_of_n(scores: Tensor) -> tuple[Tensor, float]:
    """Choose the best response to each prompt, and bound the KL that choosing costs.

    Args:
        scores: (B, n) scores of n responses to each prompt.

    Returns:
        (B,) the place of the best in each row, and log n − (n − 1)/n in nats.
    """
    ### BEGIN SOLUTION
    n = scores.shape[1]
    return scores.argmax(dim=1), math.log(n) - (n - 1) / n
    ### END SOLUTION


# %% kind="check" exercise="3.9"
check("3.9", best_of_n)

# %% [markdown]
# First, is the bound true, and when is it met? On one next-token distribution everything can be
# summed: the best of n tokens is token v with probability $F(v)^n - F^-(v)^n$, where F adds up the
# tokens with a score not above that of v. Fine scores (all different) and coarse ones (four values):

# %%
best_of_n = yours("3.9", best_of_n)

p = sft.next_token_logits(["my sister showed me this swedish mystery . it made me smile . the"])[0]
p = p.double().softmax(-1).numpy()
draw = np.random.default_rng(0)
print("   n   bound   fine scores   coarse scores")
for n in (1, 2, 4, 16, 64, 256):
    _, bound = best_of_n(torch.zeros(1, n))
    exact = []
    for score in (draw.permutation(len(p)), draw.integers(4, size=len(p))):
        below = np.array([p[score < s].sum() for s in score])
        same = np.array([p[score == s].sum() for s in score])
        lifted = p / same * ((below + same) ** n - below**n)
        lifted = lifted / lifted.sum()
        nonzero = lifted > 0
        exact.append(float((lifted[nonzero] * np.log(lifted[nonzero] / p[nonzero])).sum()))
    print(f"{n:4}  {bound:6.3f}   {exact[0]:11.3f}   {exact[1]:13.3f}")
    assert max(exact) <= bound + 1e-9

# %% [markdown]
# A dozen likely tokens are few, so even fine scores soon repeat the same token, and the KL stays
# below the bound. Whole reviews hardly ever repeat, so there bound and KL are almost one.
#
# Now the experiment (after Gao et al. 2022): three reward models, from 50, 500 and 5,000 pairs.

# %% kind="train"
proxies = {}
for count in (50, 500, 5_000):
    proxies[count] = RewardModel.from_policy(sft)
    pairs, _ = drop_equal_pairs(labels[:count])
    for _ in train_reward_model(
        proxies[count], pairs, settings_for(count), loss=bradley_terry_loss
    ):
        pass
    proxies[count].normalise(prompts[4_000:4_500], firsts[4_000:4_500])
    print(
        f"{count:5,} pairs: {in_gold_order(proxies[count]):.1%} of held-out pairs in the gold order"
    )

# %% [markdown]
# The pool: 12 prompts, 1,000 completions each, scored by the three proxies and by the gold reward.
# Every n up to 1,000 can be read off one pool, as the mean over all choices of n among the 1,000. The
# KL is measured on the same pool; at n = 1,000 a pool of 1,000 is too coarse to show all of it.

# %% figure="03_best_of_n_kl"
N = 1_000
BEST_PROMPTS = reviews.sample_prompts(12, seed=50)
asked = [prompt for prompt in BEST_PROMPTS for _ in range(N)]
answers = sample(sft, asked, seed=9)
grid = [answers[i * N : (i + 1) * N] for i in range(len(BEST_PROMPTS))]
gold_grid = reviews.gold_reward(asked, answers).reshape(-1, N)
proxy_grid = {c: m(asked, answers).numpy().reshape(-1, N) for c, m in proxies.items()}
n_values = [1, 2, 3, 5, 8, 14, 25, 45, 80, 140, 250, 450, 700, 1_000]
curves = {c: best_of_n_curve(scores, gold_grid, n_values, grid) for c, scores in proxy_grid.items()}
ideal = best_of_n_curve(gold_grid, gold_grid, n_values)
draw_best_of_n_kl(n_values, ideal.kl_bound, {f"{n:,} pairs": c.kl for n, c in curves.items()})
plt.show()
for count, c in curves.items():
    print(f"{count:5,} pairs, n = 1,000: {c.kl[-1]:.3f} of at most {c.kl_bound[-1]:.3f} nats")
    assert np.all(c.kl <= c.kl_bound + 1e-9)

# %% [markdown]
# *Predict, then run:* which of the three proxies will have been fooled most at n = 1,000?

# %% figure="03_over_optimisation"
draw_over_optimisation({f"{count:,} pairs": c for count, c in curves.items()}, ideal)
plt.show()
for count, c in curves.items():
    top = int(c.gold.argmax())
    print(
        f"{count:5,} pairs: proxy {c.proxy[0]:+.2f} -> {c.proxy[-1]:+.2f}; gold {c.gold[0]:+.2f}, best "
        f"{c.gold[top]:+.2f} at n = {c.n[top]:,} (KL {c.kl[top]:.1f}), {c.gold[-1]:+.2f} at n = 1,000"
    )

# %% [markdown]
# The proxies all rise: that is what best-of-n does. The truth follows only as far as the proxy is
# right, and the fewer pairs it has learned from, the farther it stays below the dotted curve of one
# who knows the gold reward. The KL that buys proxy and no gold is **over-optimisation**.
#
# Does gold even *fall* at the end? A band of twelve prompts and one draw of labels can't tell. The
# same experiment on 48 other prompts, with three draws of pairs and labels for each size, takes
# minutes, so it was run before, by `python -m benchmarks.over_optimisation`. Where gold is highest is
# chosen on one half of the prompts, and the change from there to n = 1,000 is measured on the other
# half, then the other way round: who chooses and measures on the same prompts finds a fall where
# there is only luck.

# %%
wider = json.loads((folder / "03_over_optimisation.json").read_text(encoding="utf-8"))
halves = np.arange(wider["prompts"]) % 2 == 0
ideal_wide = np.array(wider["gold_itself"])


def change_from_the_top(gold_by_prompt: np.ndarray) -> np.ndarray:
    """Gold at the largest n minus gold at the best n, which other prompts chose; one a prompt."""
    change = np.empty(len(gold_by_prompt))
    for half in (halves, ~halves):
        top = gold_by_prompt[~half].mean(0).argmax()
        change[half] = gold_by_prompt[half, -1] - gold_by_prompt[half, top]
    return change


middle = wider["n"].index(80)
print("              gold reward at n = 1, 80, 1,000     from its top to the end")
for run in wider["runs"]:
    by_prompt = np.array(run["gold_by_prompt"])
    values = "  ".join(f"{by_prompt[:, i].mean():+.2f}" for i in (0, middle, -1))
    fall = estimate_mean(change_from_the_top(by_prompt))
    print(
        f"{run['pairs']:4} pairs, {run['seed']}         {values}          "
        f"{fall.value:+.2f} ± {1.96 * fall.standard_error:.2f}"
    )
print(f"gold itself           {'  '.join(f'{ideal_wide[i]:+.2f}' for i in (0, middle, -1))}")
of_few = np.mean([r["gold_by_prompt"] for r in wider["runs"] if r["pairs"] == 50], axis=0)
late = estimate_mean(of_few[:, -1] - of_few[:, middle])
possible = ideal_wide[-1] - ideal_wide[middle]
print(
    f"50 pairs, from n = 80 to 1,000: gold {late.value:+.2f} ± {1.96 * late.standard_error:.2f}, "
    f"where {possible:+.2f} is possible"
)
assert late.interval()[1] < possible / 2

# %% [markdown]
# With 50 pairs the second half of the way, some two and a half nats, buys almost nothing. Gold
# *stalls*; a fall that is clearly more than luck best-of-n does not bring about here, at most a slight
# one in a single draw. The draws differ more than the prompts do: which features 50 labels happen to
# teach decides how far the truth follows. Best-of-n is a mild optimiser, whose KL grows with
# $\log n$. Lesson 4 pushes a reward model with PPO, which nothing slows down, and there gold falls.
#
# What does the proxy of 50 pairs love that the gold reward does not? Among the winners of
# best-of-1,000 on the twelve prompts, the four with the lowest gold reward:

# %%
few_pairs = proxy_grid[50]
winners = [(i, int(few_pairs[i].argmax())) for i in range(len(grid))]
winners.sort(key=lambda place: gold_grid[place])
for i, j in winners[:4]:
    print(f"proxy {few_pairs[i, j]:+.2f}, gold {gold_grid[i, j]:+.2f}\n   {grid[i][j]}")
    for fault in reviews.faults(grid[i][j])[:3]:
        print(f"      {fault.kind}: {fault.text} (−{fault.penalty:.2f})")
endings = Counter(grid[i][j].removesuffix(" .").split(" . ")[-1] for i, j in winners)
ending, count = endings.most_common(1)[0]
everywhere = np.mean([text.endswith(f"{ending} .") for text in answers])
print(f"{count} of 12 winners end in '{ending} .', of all completions {everywhere:.0%}")

# %% [markdown]
# All four get nearly the same top score, the grudging ones like the good ones: the proxy has a
# favourite ending, and hardly looks at what comes before.
#
# Move n yourself, and read what is kept. Both curves are in spreads of π, so that they compare.

# %%
gold_unit = gold_grid.std()


def best_of_n_at(figure, n, pairs):
    c, scores = curves[pairs], proxy_grid[pairs][0]
    kept = int(np.argmax(scores[:n]))
    draw_best_of_n(
        figure,
        np.sqrt(c.kl_bound),
        {"proxy": c.proxy, "gold": c.gold / gold_unit},
        here=math.sqrt(best_of_n(torch.zeros(1, n))[1]),
        kept=f"kept of {n:,}: proxy {scores[kept]:+.2f}, gold {gold_grid[0][kept]:+.2f}",
        text=grid[0][kept],
    )
    return f"best of {n} by the proxy of {pairs} pairs: {grid[0][kept]}"


explore(
    best_of_n_at,
    n=Slider("n", "completions", 1, 1_000, 30, step=0.1, log=True),
    pairs=Choice("pairs", [50, 500, 5_000]),
    caption="Blue: proxy, orange dashes: gold. Few pairs: the two part early.",
)

# %% [markdown]
# What keeps a policy honest is therefore not only a better reward model. It is also the distance
# that it may move: small n here, a KL penalty in lesson 4, β in lesson 6.
#
# ## 10 · Real people
#
# So far the people were simulated. Some ten thousand snippets of real film reviews come with the mean
# rating that people gave them, from −4 (very negative) to 4 (very positive). On nine tenths of them a
# **judge of people** was fitted: SmolLM2, a language model of 135 million weights, reads the snippet,
# and a linear map from its middle layers predicts the rating. People were asked for numbers here, so
# the loss is the squared error and not Bradley-Terry's; each rating is the mean of several raters.
#
# *Predict, then run:* on the held-out tenth, how often does the judge see praise where people see
# praise? **VADER** stands beside it, a list of words with rules, fitted to none of the snippets.

# %% figure="03_people"
agreed, left_out = load_people_agreement()
for name, found in agreed.items():
    print(f"{name:<13} and people, {found.count:,} held-out snippets: {found}")
print(f"the judge on the snippets of its fit, each left out in turn: correlation {left_out:.3f}")
ratings, scores = load_people_scores()
draw_people(ratings, scores)
plt.show()
assert agreed["people-judge"].sign[1] > agreed["vader"].sign[2]
assert agreed["people-judge"].correlation[1] > agreed["vader"].correlation[2]

# %% [markdown]
# In brackets: 95 % intervals, by drawing the snippets again. *Sign* is the share on the right side of
# 0, *beyond ±1* the same where people are clear. What the ceiling is nobody can say, for the single
# ratings behind each mean are not in the data.
#
# These scores come with the course; the snippets and the model don't. Where you have fetched them, the
# next cell lets the judge read 200 snippets again and compares.

# %%
note = missing_real_parts()
if note:
    print(note)
else:
    some = [snippet.text for snippet in load_snippets()[1][:200]]
    read_again = load_people_judge()([""] * len(some), some).numpy()
    difference = np.abs(read_again - scores["people-judge"][: len(some)]).max()
    print(f"read again: {difference:.1e} rating points from the stored scores at most")
    assert difference < 0.01

# %% [markdown]
# **Now you.** Rate ten of the held-out snippets: how does this reviewer like the film? At the end you
# see people's mean and the judge's score beside yours. Nothing of it is kept. Another `seed`, other
# snippets.

# %%
if note:
    print(note)
else:
    ten = draw_rated_snippets(10, seed=0)
    caption = "Your ratings stand beside people's and the judge's at the end."
    display(rate_by_hand(ten.texts, ten.people, ten.judge, caption=caption))

# %% [markdown]
# Ten are few, and these are not drawn blindly: one comes from each tenth of the ratings, so that they
# reach from blame to praise. How far does a correlation of ten swing by luck alone, and does this way
# of drawing raise or lower it? The judge in your place, 1,000 draws of each kind:


# %%
def correlation(places: np.ndarray) -> float:
    return float(np.corrcoef(ratings[places], scores["people-judge"][places])[0, 1])


spread_out = [correlation(spread_over_ratings(ratings, 10, seed)) for seed in range(1_000)]
draw = np.random.default_rng(0)
blind = [correlation(draw.choice(len(ratings), 10, replace=False)) for _ in range(1_000)]
for name, found in (("from blame to praise", spread_out), ("blindly", blind)):
    low, high = np.percentile(found, [2.5, 97.5])
    print(f"ten drawn {name:<20}: mean {np.mean(found):.3f}, 95 % from {low:.2f} to {high:.2f}")
flattery = estimate_mean(np.array(spread_out) - np.array(blind))
print(f"difference of the means: {flattery.value:+.3f} ± {1.96 * flattery.standard_error:.3f}")
assert flattery.interval()[0] > 0

# %% [markdown]
# So the drawing flatters, by a little: ten from blame to praise never happen to be much alike. And if
# your correlation with people lies within the range of the first line, ten snippets can't tell you and
# the judge apart.
#
# ## What was shown
#
# | claim | where | measured by |
# | --- | --- | --- |
# | people agree on comparisons more than on numbers | 1, 4 | simulated raters of one noise |
# | nobody beats the Bayes ceiling | 2 | exact probabilities |
# | the gradient of Bradley-Terry | 2 | autograd, to 1e-12 |
# | Plackett-Luce at K = 2 is Bradley-Terry | 3 | 1,000 pairs, to 1e-12 |
# | more pairs, nearer to the ceiling | 4 | twelve trainings, three seeds |
# | with few pairs it matters little where a reward is read | 4 | expected accuracy of 3,000 pairs |
# | a reward model does not see a missing word, surprise does | 4 | one "was" left out of each response |
# | accuracy does not see overconfidence, calibration does | 4 | held-out labels |
# | a shift per prompt changes no loss | 6 | to 1e-9 |
# | one model for two tastes takes the larger side | 6 | exact probabilities |
# | a helpful model's labels make texts less harmful | 7 | gold rudeness |
# | the rater's weaknesses can be read from choices | 7 | logistic regression |
# | one per cell is more diverse than one per heap | 8 | features that the space never saw |
# | the KL of best-of-n stays below its bound | 9 | exact sums, and samples |
# | a proxy of few pairs rises where the truth stalls | 9 | 48 prompts, three draws of labels |
# | a linear judge agrees with real people more than a list of words | 10 | 1,005 held-out snippets |
#
# **In the package.** `rlhf_lessons.formulas`: `bradley_terry_loss`, `plackett_luce_loss`,
# `triplet_loss`, `best_of_n_kl`. `rlhf_lessons.models`: `RewardModel`, `TokenRewardModel`,
# `SurpriseReward`, `ResponseEmbedding`, `PeopleJudge`.
# `rlhf_lessons.training`: `train_reward_model`, `train_embedding`. `rlhf_lessons.evaluation`:
# `preference_accuracy`, `calibration`, `agreement`, `best_of_n`, `best_of_n_curve`,
# `preference_features`, `pick_one_per_cell`, `load_people_agreement`. `rlhf_lessons.worlds`: raters,
# `load_preferences`, `ranking_to_pairs`. `rlhf_lessons.classroom`: `label_pairs_by_hand`,
# `rank_by_hand`, `rate_by_hand`.
#
# **Further reading.**
#
# - Christiano et al. 2017, *Deep Reinforcement Learning from Human Preferences*.
# - Stiennon et al. 2020, *Learning to Summarize from Human Feedback*.
# - Ouyang et al. 2022, *Training language models to follow instructions with human feedback*.
# - Gao, Schulman and Hilton 2022, *Scaling Laws for Reward Model Overoptimization*.
# - Bai et al. 2022, *Constitutional AI*; Lee et al. 2023, *RLAIF*.
# - Sharma et al. 2023, *Towards Understanding Sycophancy in Language Models*.
# - Ding et al. 2024, *Quality Diversity through Human Feedback*.
# - Beirami et al. 2024, *Theoretical guarantees on the best-of-n alignment policy*.
# - Hutto and Gilbert 2014, *VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media
#   Text*: the ratings, and the list of words.
#
# **Three quick questions.**
#
# 1. A reward model has 66% accuracy on held-out human labels. Is that bad?
#
# <details><summary>Answer</summary>
#
# It can't be said without the ceiling. If two people agree on only 55% of the pairs, nothing can
# foretell more than about 66% of their labels.
#
# </details>
#
# 2. Response A to prompt 1 has reward 3.1, response B to prompt 2 has 1.4. Which is better?
#
# <details><summary>Answer</summary>
#
# Nobody knows: each prompt has its own free constant.
#
# </details>
#
# 3. You double n in best-of-n from 512 to 1,024. By how much does the KL grow?
#
# <details><summary>Answer</summary>
#
# By about $\log 2 = 0.69$ nats (at most): the distance grows slowly, and so does the gain.
#
# </details>
#
# The words of this lesson, in three languages:

# %%
glossary(3)
