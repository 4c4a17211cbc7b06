# %% [markdown]
# # Lesson 9 · After PPO and DPO: groups, checkers and thumbs
#
# PPO learns a second network, the value function, only to say what a response was expected to
# score. Yet a language model can answer a prompt as often as we like. Draw a **group** of responses
# to each prompt, and the others tell what to expect of one. RLOO, GRPO, Dr. GRPO, DAPO, GSPO and
# CISPO are variations on this. Where the judge is a program that *knows* whether an answer is
# right, a **checker**, the same loops train models to reason. And where people give no pairs but
# single **thumbs**, KTO takes the place of DPO.
#
# **After this lesson you can**
#
# - replace a value function by a group, and say what each variant does to the mean and to the
#   variance of the gradient: by sums over *all* groups, not by opinion;
# - say which prompts a division by the deviation favours, and which texts a division by the length;
# - say which of three ratios can still be trusted as the policy leaves the one that sampled;
# - measure whether training with a checker has taught anything, or made the likely likelier;
# - recognise a checker that is being fooled, and learn from thumbs;
# - say of a real model's gain how much is the form of an answer and how much is in the answer.
#
# **Time** about 150 minutes, 9 exercises, 25 points. **Needs** lesson 4's words (ratio, advantage,
# value function, KL), Bradley-Terry (lesson 3), and DPO with its best policy π\* (lesson 6), which
# sections 2, 6 and 11 use. Two CPU cores are enough, and no network.

# %% kind="setup"
import math
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lessons import formulas
from rlhf_lessons.classroom import Choice, check, explore, glossary, use_style, yours
from rlhf_lessons.classroom.pictures.groups import (
    draw_group_and_beta,
    draw_old_samples,
    draw_prompt_weights,
    draw_real_sums,
    draw_reward_by_kl_and_time,
    draw_tries,
    draw_variance,
)

torch.set_num_threads(1)  # the same numbers on every run
use_style()

# %% kind="setup"
from rlhf_lessons.evaluation import (
    RealSumsSettings,
    estimate_mean,
    load_group_sweep,
    load_real_sums,
    load_sums_sweep,
    missing_real_parts,
    run_real_sums,
    step_to_kl,
)
from rlhf_lessons.models import ResponseTree, load_policy
from rlhf_lessons.training import GRPOSettings, SupervisedSettings, train_grpo, train_sft
from rlhf_lessons.worlds import (
    OPINION_LENGTH,
    OPINION_WORDS,
    FooledSumsChecker,
    SumsChecker,
    opinion_habits,
    opinion_score,
    reviews,
    sample_sums,
)

# %% [markdown]
# ## 1 · A world in which all groups can be listed
#
# A response has at most two tokens, each one of three words or the end. With no word, one word (and
# the end) or two (no room is left for the end) there are 1 + 3 + 9 = 13 responses, and the table of
# logits has 4 prefixes times 4 tokens. A group of two is then one of 169, a group of four one of
# 28,561: the mean and the variance of *any* estimator of the gradient are sums that we can take. The
# writer has the habits of lesson 4's opinions, and each response has its score.

# %% kind="setup"
small = ResponseTree(("very", "good", "dull"), 2)
of_words = [OPINION_WORDS.index(word) for word in small.words] + [len(OPINION_WORDS)]
small_logits = torch.from_numpy(opinion_habits(small.prefixes))[:, of_words].log()
small_scores = torch.from_numpy(opinion_score([""] * len(small.responses), small.responses))

log_p = small.response_log_probs(small_logits)  # (13,) log π(y)
# (13, 16): ∇ log π(y) with respect to the table of 4 × 4 logits, written in a row.
slopes = torch.autograd.functional.jacobian(small.response_log_probs, small_logits).flatten(1)
exact = log_p.exp() @ (small_scores[:, None] * slopes)  # ∇J = Σ_y π(y) · r(y) · ∇ log π(y)

# %%
print(small)
for index in log_p.topk(5).indices.tolist():
    print(f"  π {float(log_p[index].exp()):.3f}  score {float(small_scores[index]):+.2f}  "
          f"{small.responses[index]!r}")  # fmt: skip
print(
    f"expected score J = {float(log_p.exp() @ small_scores):.3f}, |∇J| = {float(exact.norm()):.3f}"
)
assert float((log_p.exp() @ slopes).norm()) < 1e-12  # ∇ log π has mean 0: why a baseline is free

# %% [markdown]
# ## 2 · The others are the baseline
#
# REINFORCE with G responses to one prompt:
#
# $$\hat g = \frac{1}{G} \sum_{i=1}^{G} A_i\, \nabla \log \pi(y_i), \qquad A_i = r_i - b_i$$
#
# With b = 0 its mean is ∇J. Any baseline that does not depend on $y_i$ leaves the mean alone
# (lesson 1). The other G − 1 responses of the group were drawn independently of $y_i$, so *their*
# mean score is such a baseline, and needs no network, no training and no second forward pass:
#
# $$A_i = r_i - \frac{1}{G - 1} \sum_{j \ne i} r_j$$
#
# This is **leave-one-out**, RLOO (Kool et al. 2019, Ahmadian et al. 2024).
#
# ### Exercise 9.1 · Leave one out
#
# ●○○ · 6 min · 2 points
#
# One row of `scores` is the group of one prompt. No loop is needed.
#
# <details><summary>Hint 1</summary>
#
# The sum of the others is the sum of the row less the score itself.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `scores.sum(1, keepdim=True)` has shape (P, 1), and spreads over the row.
#
# </details>


# %% kind="exercise" exercise="9.1"
def leave_one_out(scores: Tensor) -> Tensor:
    """Compare each score with the mean of the others of its group.

    Args:
        scores: (P, G) scores of G ≥ 2 responses to each of P prompts.

    Returns:
        (P, G) advantages.
    """
    ### BEGIN SOLUTION
    others = scores.sum(1, keepdim=True) - scores
    return scores - others / (scores.shape[1] - 1)
    ### END SOLUTION


# %% kind="check" exercise="9.1"
check("9.1", leave_one_out)

# %% [markdown]
# What is such an estimator worth? Two numbers say it: its **mean**, which should be ∇J or at least
# point the same way, and its **variance**, the mean squared distance from the mean. Both are sums
# over all groups, each weighed with its probability.
#
# ### Exercise 9.2 · Over all groups
#
# ●●● · 15 min · 4 points
#
# $$\bar g = \sum_{y_1, \dots, y_G} \Big(\prod_i \pi(y_i)\Big)\, \hat g(y_1, \dots, y_G), \qquad
# \text{Var} = \sum_{y_1, \dots, y_G} \Big(\prod_i \pi(y_i)\Big)\, \big\|\hat g - \bar g\big\|^2$$
#
# `advantages` is a function like yours above: it takes the scores of K groups (K, G) and gives
# (K, G) advantages. A response may come twice in a group, and (a, b) and (b, a) are two groups.
# `torch.cartesian_prod` lists all tuples of some index vectors as rows; given only one vector, as for G = 1, it
# gives back that vector, so reshape.
#
# *Why all this?* The papers disagree on which division is harmless. Your function will answer.
#
# <details><summary>Hint 1</summary>
#
# `torch.cartesian_prod(*[torch.arange(Y)] * group_size)` lists all groups as indices (K, G), where
# G ≥ 2; `.reshape(-1, group_size)` keeps the shape for G = 1, too. `rewards[groups]` is (K, G),
# `slopes[groups]` is (K, G, D).
#
# </details>
# <details><summary>Hint 2</summary>
#
# `chances = log_probs[groups].sum(1).exp()`; the estimates are `(A[..., None] *
# slopes[groups]).mean(1)`, shape (K, D); the mean is `chances @ estimates`.
#
# </details>


# %% kind="exercise" exercise="9.2"
def over_all_groups(
    log_probs: Tensor,
    slopes: Tensor,
    rewards: Tensor,
    advantages: Callable[[Tensor], Tensor],
    group_size: int,
) -> tuple[Tensor, Tensor]:
    """Give the exact mean and variance of the group estimator of the policy gradient.

    Args:
        log_probs: (Y,) log π(y) of every response there is.
        slopes: (Y, D) ∇ log π(y) of every response.
        rewards: (Y,) score of every response.
        advantages: scores (K, G) -> advantages (K, G).
        group_size: G, 1 or more.

    Returns:
        (D,) the mean of 1/G · Σ_i A_i · ∇ log π(y_i), and () its variance: the mean squared
        distance from it.
    """
    ### BEGIN SOLUTION
    groups = torch.cartesian_prod(*[torch.arange(len(log_probs))] * group_size)
    groups = groups.reshape(-1, group_size)
    chances = log_probs[groups].sum(1).exp()
    estimates = (advantages(rewards[groups])[..., None] * slopes[groups]).mean(1)
    mean = chances @ estimates
    return mean, chances @ (estimates - mean).square().sum(1)
    ### END SOLUTION


# %% kind="check" exercise="9.2"
check("9.2", over_all_groups)

# %% [markdown]
# **Claim: leave-one-out is the exact gradient in the mean; the group's own mean (Dr. GRPO) makes it
# (G − 1)/G as long and does not turn it.**
#
# *Predict, then run:* the baseline is there to lower the variance. Does it, with a group of two?

# %%
leave_one_out = yours("9.1", leave_one_out)
over_all_groups = yours("9.2", over_all_groups)


def no_baseline(scores: Tensor) -> Tensor:
    """Take the score itself: plain REINFORCE."""
    return scores


def compare_with_exact(mean: Tensor, exact: Tensor) -> tuple[float, float]:
    """Give the cosine with the exact gradient, and how long the mean is along it."""
    cosine = torch.cosine_similarity(mean, exact, dim=0)
    return float(cosine), float(mean @ exact / (exact @ exact))


BASELINES = {
    "no baseline": no_baseline,
    "no baseline, scores + 3": lambda scores: scores + 3,
    "leave-one-out": leave_one_out,
    "the group's mean": formulas.dr_grpo_advantages,
}
variances = {}
for name, advantages in BASELINES.items():
    for size in (2, 3, 4):
        mean, variance = over_all_groups(log_p, slopes, small_scores, advantages, size)
        cosine, length = compare_with_exact(mean, exact)
        variances[name, size] = float(variance)
        print(f"{name:<24} G = {size}: cosine {cosine:.6f}, length {length:.4f}, variance "
              f"{float(variance):.3f}")  # fmt: skip
        own = name == "the group's mean"
        assert cosine > 1 - 1e-9 and abs(length - ((size - 1) / size if own else 1)) < 1e-9
for size in (2, 3, 4):
    one_out = variances["leave-one-out", size]
    assert variances["no baseline", size] < one_out < variances["no baseline, scores + 3", size]
    group_mean = variances["the group's mean", size]
    assert abs(group_mean * (size / (size - 1)) ** 2 - one_out) < 1e-9

# %% [markdown]
# Means as claimed. The variance may surprise: in groups of two to four, leave-one-out is *noisier*
# than no baseline at all. A baseline from one other response carries the noise of that response.
# What it buys is that a constant no longer matters: with 3 added to every score, which changes
# nothing about what is better, plain REINFORCE is by far the worst. (The group's mean only looks
# quiet: it is leave-one-out times (G − 1)/G. Divide by its length, and the two are the same.)
#
# **Claim: leave-one-out is a mean over all pairs of the group.** Sort its terms by pairs:
#
# $$\hat g = \binom{G}{2}^{-1} \sum_{i < j} h_{ij}, \qquad h_{ij} = \tfrac{1}{2}\,(r_i - r_j)
# \big(\nabla \log \pi(y_i) - \nabla \log \pi(y_j)\big)$$
#
# Every pair pulls its better response up and its worse one down: the gradient of DPO at the
# reference, weighed with the difference of the scores. It also gives the variance for *every* G from
# sums over pairs alone (Hoeffding 1948): with $\zeta_2$ the variance of $h_{12}$ and $\zeta_1$ that
# of its mean given $y_1$,
#
# $$\text{Var} = \frac{4(G - 2)\,\zeta_1 + 2\,\zeta_2}{G(G - 1)}$$

# %% figure="09_variance"
p = log_p.exp()
h = 0.5 * (small_scores[:, None] - small_scores)[..., None] * (slopes[:, None] - slopes)
assert torch.allclose(torch.einsum("i,j,ijd->d", p, p, h), exact, atol=1e-12)
zeta_2 = float(torch.einsum("i,j,ij->", p, p, (h - exact).square().sum(-1)))
zeta_1 = float(p @ (torch.einsum("j,ijd->id", p, h) - exact).square().sum(1))


def alone(scores: Tensor) -> float:
    """Give the variance of a single response whose advantage is its score less a constant."""
    estimates = scores[:, None] * slopes
    return float(p @ (estimates - p @ estimates).square().sum(1))


SIZES = (2, 3, 4, 8, 16, 32, 64)
one_out = [(4 * (G - 2) * zeta_1 + 2 * zeta_2) / (G - 1) for G in SIZES]  # G times the variance
centred = alone(small_scores - p @ small_scores)
lines = {
    "leave-one-out": one_out,
    "no baseline": [alone(small_scores)] * len(SIZES),
    "baseline J": [centred] * len(SIZES),
    "no baseline, + 3": [alone(small_scores + 3)] * len(SIZES),
}
listed = {G: G * variances["leave-one-out", G] for G in (2, 3, 4)}
for G, value in listed.items():
    assert abs(value - one_out[SIZES.index(G)]) < 1e-9
for G, value in zip(SIZES, one_out, strict=True):
    print(f"G = {G:2}: variance · G of leave-one-out {value:.3f}, with the exact baseline J "
          f"{centred:.3f}")  # fmt: skip
assert one_out[2] > alone(small_scores) > one_out[3] and one_out[-1] < 1.03 * centred
draw_variance(SIZES, lines, listed)
plt.show()

# %% [markdown]
# The dots are the lists of all groups, the lines the formula. From eight responses on the group
# beats no baseline here, and at 64 it is within three percent of knowing J exactly, which is what a
# value function tries to learn.
#
# ## 3 · In units of the deviation
#
# GRPO (Shao et al. 2024) takes one step more and divides by the group's standard deviation.
#
# ### Exercise 9.3 · In units of the deviation
#
# ●○○ · 6 min · 2 points
#
# $$A_i = \frac{r_i - \bar r}{s + \varepsilon}, \qquad s^2 = \frac{1}{G - 1} \sum_j (r_j - \bar r)^2$$
#
# $\bar r$ is the mean of the whole group. *Why ε?* Where all scores are equal s is 0, and 0/0 is NaN,
# which one update later is in every weight.
#
# <details><summary>Hint 1</summary>
#
# `scores.std(1, keepdim=True)` is s, with 1/(G − 1) as here.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `centred / (spread + epsilon)`: ε stands outside of the root.
#
# </details>


# %% kind="exercise" exercise="9.3"
def group_advantages(scores: Tensor, epsilon: float = 1e-4) -> Tensor:
    """Compare each score with its group's mean, in units of the group's deviation.

    Args:
        scores: (P, G) scores of G ≥ 2 responses to each of P prompts.
        epsilon: ε above 0, added to the deviation.

    Returns:
        (P, G) advantages without a unit; 0 where a group's scores are all equal.
    """
    ### BEGIN SOLUTION
    centred = scores - scores.mean(1, keepdim=True)
    return centred / (scores.std(1, keepdim=True) + epsilon)
    ### END SOLUTION


# %% kind="check" exercise="9.3"
check("9.3", group_advantages)

# %% [markdown]
# The scale of the scores drops out, so that one step size suits many judges. *Predict, then run:*
# is the mean still the exact gradient, up to its length?

# %%
group_advantages = yours("9.3", group_advantages)

turned = {}
for size in (2, 3, 4):
    mean, _ = over_all_groups(log_p, slopes, small_scores, group_advantages, size)
    turned[size], length = compare_with_exact(mean, exact)
    print(f"G = {size}: cosine {turned[size]:.4f}, an angle of "
          f"{math.degrees(math.acos(turned[size])):4.1f}°, length {length:.3f}")  # fmt: skip
assert turned[2] < turned[3] < turned[4] < 0.9995 and turned[2] < 0.99

# %% [markdown]
# It is not: groups whose scores hardly differ count as much as those that differ a lot. On one
# prompt the turn is a matter of degrees. Where it matters is **between prompts**.
#
# Take a checker: r is 1 or 0, and p the chance that a response is right. Then $\nabla J = \nabla p$,
# and for one prompt every advantage that depends on the scores alone can only make it longer or
# shorter: with $p\,\mathbb{E}[\nabla \log \pi \mid \text{right}] = \nabla p = -(1 - p)\,\mathbb{E}
# [\nabla \log \pi \mid \text{wrong}]$,
#
# $$\bar g = w(p)\, \nabla p, \qquad w(p) = \mathbb{E}[A_1 \mid y_1 \text{ right}] -
# \mathbb{E}[A_1 \mid y_1 \text{ wrong}]$$
#
# w is the weight that a prompt has beside the others of the batch.
#
# ### Exercise 9.4 · What a prompt weighs
#
# ●●○ · 12 min · 3 points
#
# Compute w exactly, in float64. Of the other G − 1 responses c are right with the binomial chance
# $\binom{G-1}{c} p^c (1-p)^{G-1-c}$.
#
# <details><summary>Hint 1</summary>
#
# For each c from 0 to G − 1 make two rows of scores: `[1.0, *rest]` and `[0.0, *rest]`, where `rest`
# holds c ones and G − 1 − c zeros. `advantages` takes both at once, as (2, G). Let them be float64
# (`dtype=torch.float64`): the next cell compares to 12 digits.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `math.comb(G - 1, c)`. The advantage of the response in question stands in column 0.
#
# </details>


# %% kind="exercise" exercise="9.4"
def prompt_weight(p: float, group_size: int, advantages: Callable[[Tensor], Tensor]) -> float:
    """Give the factor by which a group estimator stretches ∇p of a prompt.

    Args:
        p: the chance in (0, 1) that a response to the prompt is right.
        group_size: G, 2 or more.
        advantages: scores (K, G) -> advantages (K, G).

    Returns:
        E[A of a right response] − E[A of a wrong one], over the marks of the other G − 1.
    """
    ### BEGIN SOLUTION
    weight, others = 0.0, group_size - 1
    for right in range(group_size):
        chance = math.comb(others, right) * p**right * (1 - p) ** (others - right)
        rest = [1.0] * right + [0.0] * (others - right)
        scores = torch.tensor([[1.0, *rest], [0.0, *rest]], dtype=torch.float64)
        if_right, if_wrong = advantages(scores)[:, 0].tolist()
        weight += chance * (if_right - if_wrong)
    return weight
    ### END SOLUTION


# %% kind="check" exercise="9.4"
check("9.4", prompt_weight)

# %% [markdown]
# First the equation itself: the mean over all groups against w times ∇p, with a checker that takes
# scores of 1 and above for right.

# %%
prompt_weight = yours("9.4", prompt_weight)

marks = (small_scores >= 1).double()
chance = float(p @ marks)
slope = p @ (marks[:, None] * slopes)  # ∇p
for size in (2, 4):
    for name, advantages in (("leave-one-out", leave_one_out), ("GRPO", group_advantages)):
        mean, _ = over_all_groups(log_p, slopes, marks, advantages, size)
        weight = prompt_weight(chance, size, advantages)
        print(f"p = {chance:.3f}, G = {size}, {name:<13}: w = {weight:.4f}, largest error of w · ∇p "
              f"{float((mean - weight * slope).abs().max()):.0e}")  # fmt: skip
        assert torch.allclose(mean, weight * slope, atol=1e-12)

# %% figure="09_prompt_weight"
shares = [
    *np.linspace(0.002, 0.05, 25),
    *np.linspace(0.06, 0.94, 45),
    *np.linspace(0.95, 0.998, 25),
]
lines = {"leave-one-out": (shares, [prompt_weight(share, 8, leave_one_out) for share in shares])}
for size in (4, 8, 64):
    weights = [prompt_weight(share, size, group_advantages) for share in shares]
    lines[f"GRPO, G = {size}"] = (shares, weights)
inner = [share for share in shares if 0.014 < share < 0.986]
lines["1/√(p(1 − p))"] = (inner, [1 / math.sqrt(share * (1 - share)) for share in inner])
print("      p   leave-one-out   GRPO: G = 8      64     512   1/√(p(1 − p))   silent, G = 8")
for share in (0.5, 0.2, 0.05, 0.01):
    grpo = [prompt_weight(share, size, group_advantages) for size in (8, 64, 512)]
    silent = share**8 + (1 - share) ** 8
    print(f"{share:7.2f} {prompt_weight(share, 8, leave_one_out):15.3f} {grpo[0]:13.2f} "
          f"{grpo[1]:7.2f} {grpo[2]:7.2f} {1 / math.sqrt(share * (1 - share)):15.2f} "
          f"{silent:15.0%}")  # fmt: skip
    far = [abs(value * math.sqrt(share * (1 - share)) - 1) for value in grpo]
    assert far[0] > far[1] > far[2]
assert all(abs(weight - 1) < 1e-9 for weight in lines["leave-one-out"][1])
for size in (4, 8, 64):  # at the edges the weight goes to (G − 1)/√G
    edge = prompt_weight(1e-6, size, group_advantages)
    assert abs(edge / ((size - 1) / math.sqrt(size)) - 1) < 0.01
draw_prompt_weights(lines)
plt.show()

# %% [markdown]
# In a large group the weight is $1/\sqrt{p(1-p)}$: the mean gradient is no longer that of p, but that
# of $2 \arcsin \sqrt p$, whose slope is this weight. A prompt that is solved once in a hundred counts
# five times as much as one solved every second time. Whether that is a *bias* (Liu et al. 2025) or a
# wish for the hard prompts is a matter of what you want; it is not the expected score.
#
# In a group of eight, though, there is little of it: the weight ends at $(G-1)/\sqrt G = 2.5$ at the
# edges and is 1.7 in the middle. What decides there is the last column. A group whose marks are all
# equal is **silent**: no advantage, no gradient, for every estimator alike. The mean counts them in
# already; what they cost is variance, since the few other groups decide alone. DAPO (Yu et al. 2025)
# draws such groups again, which costs samples.
#
# ## 4 · Three means
#
# An advantage belongs to a response, a loss to each of its tokens. How to average? GRPO took the
# mean over the tokens of each response and then over responses; DAPO over all tokens of the batch;
# Dr. GRPO and RLOO divide the sum by a fixed length.
#
# ### Exercise 9.5 · Three means
#
# ●●○ · 10 min · 3 points
#
# $$\frac{\sum_{it} x_{it}}{\sum_i |y_i|} \qquad
# \frac{1}{B} \sum_i \frac{1}{|y_i|} \sum_t x_{it} \qquad
# \frac{1}{B\,L} \sum_{it} x_{it}$$
#
# The sums run over the counted tokens alone, $|y_i|$ is their number in response i and L the given
# `length`. In the padding anything may stand, NaN too.
#
# <details><summary>Hint 1</summary>
#
# NaN times 0 is NaN. `x.masked_fill(~mask, 0.0)` replaces it, and keeps the gradient of the rest.
#
# </details>
# <details><summary>Hint 2</summary>
#
# With `sums = kept.sum(1)` and `counts = mask.sum(1)`: `sums.sum() / counts.sum()`, `(sums /
# counts).mean()`, `sums.mean() / length`.
#
# </details>


# %% kind="exercise" exercise="9.5"
def three_means(x: Tensor, mask: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Average losses of tokens in three ways.

    Args:
        x: (B, T) a loss for each token, with gradient; in the padding anything may stand.
        mask: (B, T) boolean, True = a token of a response; at least one in each.
        length: L, a fixed number of tokens, such as the most that a response may have.

    Returns:
        The mean over tokens, the mean over responses of their means, and the sum over B · L.
    """
    ### BEGIN SOLUTION
    sums = x.masked_fill(~mask, 0.0).sum(1)
    counts = mask.sum(1)
    return sums.sum() / counts.sum(), (sums / counts).mean(), sums.mean() / length
    ### END SOLUTION


# %% kind="check" exercise="9.5"
check("9.5", three_means)

# %% [markdown]
# Only the third leaves the gradient of a response as the sum over its tokens that it is. The second
# multiplies it by $1/|y_i|$. **Claim: then the mean gradient is that of another score,**
#
# $$r'(y) = \frac{r(y) - J}{|y|},$$
#
# with J held fixed: leave-one-out is independent of $y_i$, and has mean J. A good response gains
# most if it is short. A bad one loses least if it is *long*.

# %%
three_means = yours("9.5", three_means)

lengths = small.path_mask.sum(1)
J = float(p @ small_scores)
one_over_length = slopes / lengths[:, None]
for size in (2, 3):
    mean, _ = over_all_groups(log_p, one_over_length, small_scores, leave_one_out, size)
    other = p @ (((small_scores - J) / lengths)[:, None] * slopes)
    cosine, length = compare_with_exact(mean, exact)
    print(f"G = {size}: cosine with ∇J {cosine:.4f}; difference to the gradient of r' "
          f"{float((mean - other).abs().max()):.0e}")  # fmt: skip
    assert torch.allclose(mean, other, atol=1e-12) and cosine < 0.9999

# %% [markdown]
# With one or two tokens the turn is small. To see where it leads, follow both mean gradients exactly,
# no sample drawn, on the larger tree of lesson 4: six words and up to four tokens. *Predict, then
# run:* what happens to the length of the responses that score below 0?

# %% kind="setup"
tree = ResponseTree(OPINION_WORDS, OPINION_LENGTH)
rewards = torch.from_numpy(opinion_score([""] * len(tree.responses), tree.responses))
start = torch.from_numpy(opinion_habits(tree.prefixes)).log()  # (259, 7)
token_counts = tree.path_mask.sum(1)

# %%
REPORTED = (0, 10, 20, 40, 120)
score_of, length_of = {}, {}
for name, divisor in {"summed over tokens": 1.0, "mean over tokens": token_counts}.items():
    logits = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=0.05)
    for step in range(max(REPORTED) + 1):
        chances = tree.response_log_probs(logits).exp()
        score = (chances * rewards).sum().detach()
        if step in REPORTED:
            low = (rewards < 0) * chances.detach()
            score_of[name, step] = float(score)
            length_of[name, step] = float(low @ token_counts.double() / low.sum())
            print(f"{name:<18} step {step:3}: J {float(score):+.2f}; {float(low.sum()):4.0%} score "
                  f"below 0, in {length_of[name, step]:.2f} tokens")  # fmt: skip
        optimiser.zero_grad()
        (-(chances * (rewards - score) / divisor).sum()).backward()
        optimiser.step()

for step in (10, 20):
    (summed, meant), (short, long) = (
        [values[name, step] for name in ("summed over tokens", "mean over tokens")]
        for values in (score_of, length_of)
    )
    assert abs(summed - meant) < 0.05 and long > short + 0.2
    assert long > length_of["mean over tokens", 0] > short

# %% [markdown]
# At steps 10 and 20, where J is the same, the low responses have become *longer* than they were where
# the mean runs over their tokens, and shorter where it doesn't. In models that think aloud this was
# seen as wrong answers that grow and grow (Liu et al. 2025). It is no iron law: in the end, when
# hardly any low response is left, what is left is long with either mean.
#
# ## 5 · Away from the policy that sampled
#
# Samples cost the most, so a batch is used for several updates, and in large systems the policy that
# samples lags behind the one that learns. Then the samples are *old*, and a **ratio** makes up for
# it. Which?
#
# | weight of token t | name | |
# | --- | --- | --- |
# | $\rho_t = \pi(y_t)/\pi_\text{old}(y_t)$, clipped objective | PPO, GRPO, DAPO | gradient 0 outside of the range |
# | $\big(\prod_u \rho_u\big)^{1/\lvert y\rvert}$, of the whole response | GSPO | one weight a response |
# | $\min(\rho_t, 1 + \varepsilon)$, held fixed | CISPO | bounded, never 0 |
# | $\prod_u \rho_u$ | importance sampling | exact in the mean |
#
# ### Exercise 9.6 · Clip the weight
#
# ●●○ · 8 min · 3 points
#
# CISPO (MiniMax 2025) is REINFORCE with a weight that is cut off above and *held fixed*:
#
# $$L_t = -\big[\min(\rho_t, 1 + \varepsilon_\text{high})\big]_\text{fixed}\, A_t \log \pi(y_t)$$
#
# *Why fixed?* The gradient is then the weight times $A_t \nabla \log \pi$ and nothing else. A token
# whose ratio has grown keeps its gradient; PPO's would be 0.
#
# <details><summary>Hint 1</summary>
#
# `.detach()` turns a tensor into a constant.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `(log_probs - old_log_probs).exp().clamp(max=1 + epsilon_high).detach()`.
#
# </details>


# %% kind="exercise" exercise="9.6"
def clipped_weight_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, epsilon_high: float
) -> Tensor:
    """Give CISPO's loss for each token.

    Args:
        log_probs: (B, T) log-probabilities under the policy in training, with gradient.
        old_log_probs: (B, T) log-probabilities under the policy that sampled.
        advantages: (B, T) advantage of each token.
        epsilon_high: ε_high above 0: no weight is larger than 1 + ε_high.

    Returns:
        (B, T) losses.
    """
    ### BEGIN SOLUTION
    ratios = (log_probs - old_log_probs).exp()
    weights = ratios.clamp(max=1 + epsilon_high).detach()
    return -weights * advantages * log_probs
    ### END SOLUTION


# %% kind="check" exercise="9.6"
check("9.6", clipped_weight_loss)

# %% [markdown]
# The policy walks away from the one that sampled: each logit moves in proportion to the exact
# advantage of its token after its prefix, as lesson 5 had it. At each distance, the *mean* of each
# weighting over all 1,555 old responses stands beside the exact gradient of J **there**; and the
# noise is that of a batch of 64.
#
# *Predict, then run:* which points furthest from the exact gradient at 0.1 nats? Is any ratio worse
# than none?

# %% kind="setup"
clipped_weight_loss = yours("9.6", clipped_weight_loss)

EPSILON = 0.2
old_p = tree.response_log_probs(start).exp()
gains = (rewards - old_p @ rewards)[:, None].expand(tree.path_mask.shape)  # A of each token


def of_tokens(logits: Tensor) -> Tensor:
    """Give log π of each token of each response, (Y, 4), 0 behind its end."""
    chosen = logits.log_softmax(-1)[tree.path_prefixes, tree.path_actions]
    return chosen.masked_fill(~tree.path_mask, 0.0)


old = of_tokens(start)


def token_ratio(log_probs: Tensor) -> Tensor:
    """Weigh each token with its own ratio: the loss is −ρ · A."""
    return -(log_probs - old).exp() * gains


def response_ratio(log_probs: Tensor) -> Tensor:
    """Weigh all tokens of a response alike: with the geometric mean of their ratios."""
    weights = formulas.sequence_ratio(log_probs.detach(), old, tree.path_mask)
    return -weights[:, None] * gains * log_probs


def whole_product(log_probs: Tensor) -> Tensor:
    """Weigh each token with the product of all ratios of its response."""
    return -(log_probs - old).sum(1, keepdim=True).exp().detach() * gains * log_probs


WEIGHTINGS = {
    "clipped objective (PPO)": lambda now: formulas.ppo_policy_loss(now, old, gains, EPSILON),
    "clipped weight (CISPO)": lambda now: clipped_weight_loss(now, old, gains, EPSILON),
    "ratio of the response (GSPO)": response_ratio,
    "product of the ratios": whole_product,
    "ratio of the token": token_ratio,
    "no ratio": lambda now: -gains * now,
}

# %% figure="09_old_samples"
direction = tree.evaluate(start, rewards).advantage
KLS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
cosines, noise = ({name: [] for name in WEIGHTINGS} for _ in range(2))
for kl in KLS:
    table = (start + step_to_kl(tree, start, direction, kl) * direction).requires_grad_()
    (truth,) = torch.autograd.grad((tree.response_log_probs(table).exp() * rewards).sum(), table)
    now = table.log_softmax(-1).detach()
    # |∇ log π(a | s)|² of each token: 1 − 2π(a) + Σ π².
    sizes = 1 - 2 * of_tokens(table).detach().exp() + now.exp().square().sum(-1)[tree.path_prefixes]
    for name, weighting in WEIGHTINGS.items():
        log_probs = of_tokens(table)
        losses = weighting(log_probs).masked_fill(~tree.path_mask, 0.0).sum(1)
        (weights,) = torch.autograd.grad(-losses.sum(), log_probs, retain_graph=True)
        (mean,) = torch.autograd.grad(-(old_p * losses).sum(), table)
        second = (old_p[:, None] * weights.square() * sizes)[tree.path_mask].sum()
        cosines[name].append(compare_with_exact(mean.flatten(), truth.flatten())[0])
        spread = (second - mean.square().sum()).clamp(min=0).sqrt() / math.sqrt(64)
        noise[name].append(float(spread / mean.norm()))
draw_old_samples(KLS, cosines, noise)
plt.show()

# %%
print("cosine with the exact gradient   " + "".join(f"{kl:8g}" for kl in KLS) + "  nats")
for name, values in cosines.items():
    print(f"{name:<33}" + "".join(f"{value:8.3f}" for value in values))
at = {name: dict(zip(KLS, values, strict=True)) for name, values in cosines.items()}
assert all(abs(value - 1) < 1e-9 for value in cosines["product of the ratios"])
for kl in (0.01, 0.03, 0.1, 0.3):
    assert at["ratio of the response (GSPO)"][kl] > at["ratio of the token"][kl] + 0.003
    assert at["clipped objective (PPO)"][kl] < at["clipped weight (CISPO)"][kl] - 0.05
assert at["no ratio"][0.03] > at["ratio of the token"][0.03]
assert at["no ratio"][1.0] < at["ratio of the token"][1.0] - 0.1
for kl in (0.03, 0.1, 0.3, 1.0):
    assert at["clipped weight (CISPO)"][kl] < at["no ratio"][kl]
noisy = {name: values[-1] / values[0] for name, values in noise.items()}
assert noisy["product of the ratios"] > 3 > noisy["ratio of the token"]
blue, exact_one = (noise[name] for name in ("clipped objective (PPO)", "product of the ratios"))
assert all(blue[KLS.index(kl)] > 1.5 * exact_one[KLS.index(kl)] for kl in (0.1, 0.3))

# %% [markdown]
# Only the product of all ratios is exact, and of what isn't clipped its noise grows fastest, here with four
# tokens; with four hundred it is of no use. The ratio of the *token* forgets that the old policy came to
# other prefixes (lesson 5), and up to 0.1 nats it is no better than **no ratio at all**. The ratio of the
# response knows something of that, and of the inexact ones it points best up to 0.3 nats.
#
# The clipped objective is the odd one: at 0.1 nats its gradient has nothing to do with the true one
# any more. That is its purpose. The tokens that have moved as they should have lost their gradient,
# and what is left pulls elsewhere, weakly. (So weakly that its noise *relative to that mean* is the largest of
# all at 0.1 and 0.3 nats: the peak on the right.) It is a **brake**.
#
# The clipped weight is no brake: it goes on roughly in the right direction, 0.83 at 0.3 nats, and something
# else must say when to stop. Nor does it point better than no ratio at any distance here, and at 1 nat far
# worse: where a token has become much likelier, what it cuts off is just what the ratio was to make up for.
#
# (In the paper GSPO clips, too, at 3 · 10⁻⁴ from 1, since a mean over tokens moves less than one
# token. Here its ratio is shown unclipped.)
#
# ## 6 · Group size and KL strength
#
# Four requests to the opinion writer, each with a checker, from easy to hard; 16 responses to each
# request and update, in groups of G: the same samples, otherwise grouped. Each request has a table of
# its own, so that the best policy for every β, π\* of lesson 6, is known: the star in the picture,
# and the last line of the table below it. Six seeds, 60 updates, every choice.

# %% kind="setup"
REQUESTS = {"no complaint": 0.0, "praise": 1.0, "high praise": 2.0, "highest praise": 3.0}
marks_of = torch.stack([(rewards >= least).double() for least in REQUESTS.values()])  # (4, Y)
start_log_p = tree.response_log_probs(start)
GROUP_SIZES, BETAS, PER_REQUEST, SEEDS = (2, 4, 8, 16), (0.0, 0.05, 0.2, 0.5), 16, 6


def train_tables(advantages, group_size: int, beta: float, updates: int = 60) -> Tensor:
    """Train six policies for the four requests; give KL and share right, (updates, 2, seeds)."""
    generator = torch.Generator().manual_seed(0)
    logits = start.expand(SEEDS, len(REQUESTS), -1, -1).clone().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=0.1)
    marks, trace = marks_of.expand(SEEDS, -1, -1), []
    for _ in range(updates):
        log_p = tree.response_log_probs(logits)
        chances = log_p.detach().exp()
        kl = (log_p.exp() * (log_p - start_log_p)).sum(-1).mean(1)
        trace.append(torch.stack([kl.detach(), (chances * marks).sum(-1).mean(1)]))
        drawn = torch.multinomial(chances.flatten(0, 1), PER_REQUEST, True, generator=generator)
        drawn = drawn.view(SEEDS, len(REQUESTS), PER_REQUEST)
        groups = marks.gather(2, drawn).view(-1, group_size)
        weights = advantages(groups).view_as(drawn)
        gain = (weights * log_p.gather(2, drawn)).mean((1, 2)) - beta * kl
        optimiser.zero_grad()
        (-gain.sum()).backward()
        optimiser.step()
    return torch.stack(trace)


# %% kind="train"
ESTIMATORS = {"leave-one-out": leave_one_out, "in deviations": group_advantages}
traces = {
    (name, size, beta): train_tables(advantages, size, beta)
    for name, advantages in ESTIMATORS.items()
    for size in GROUP_SIZES
    for beta in BETAS
}

# %% [markdown]
# The noise of the very first gradient is a sum again. Given that c of a group's G marks are right,
# each right response is drawn independently from the right ones, and each wrong one from the wrong:
# so the means of $\nabla \log \pi$ and of its square over the two kinds are all it takes.


# %%
def first_noise(advantages, group_size: int) -> float:
    """Give the exact standard deviation of the first gradient, over the length of its mean."""
    table = start.clone().requires_grad_()
    squares = 1 - 2 * old.exp() + start.softmax(-1).square().sum(-1)[tree.path_prefixes]
    squares = (squares * tree.path_mask).sum(1)  # |∇ log π(y)|²
    variance, mean, G = 0.0, 0.0, group_size
    for marks in marks_of:
        chance = (tree.response_log_probs(table).exp() * marks).sum()
        (slope,) = torch.autograd.grad(chance, table)
        p, length = chance.item(), float(slope.square().sum())  # |∇p|²
        right, wrong = (float(old_p @ (squares * kind)) for kind in (marks, 1 - marks))
        second = 0.0
        for c in range(G + 1):
            scores = torch.tensor([[1.0] * c + [0.0] * (G - c)], dtype=torch.float64)
            a, b = (float(advantages(scores)[0, place]) for place in (0, -1))
            within = c * a**2 * right / p + (G - c) * b**2 * wrong / (1 - p)
            between = c * (c - 1) * (a / p) ** 2 + (G - c) * (G - c - 1) * (b / (1 - p)) ** 2
            between -= 2 * c * (G - c) * (a / p) * (b / (1 - p))
            binomial = math.comb(G, c) * p**c * (1 - p) ** (G - c)
            second += binomial * (within + between * length) / G**2
        weight = prompt_weight(p, G, advantages)
        variance += (second - weight**2 * length) * G / PER_REQUEST
        mean += weight**2 * length
    return math.sqrt(variance / mean)


deviations = {
    name: [first_noise(advantages, size) for size in GROUP_SIZES]
    for name, advantages in ESTIMATORS.items()
}
for name, values in deviations.items():
    said = ", ".join(f"G = {size}: {v:.3f}" for size, v in zip(GROUP_SIZES, values, strict=True))
    print(f"noise of the first gradient, {name:<13}  {said}")
    assert all(larger > smaller for larger, smaller in zip(values, values[1:], strict=False))

# %% kind="setup"
ENDS = {choice: trace[-1].mean(1).tolist() for choice, trace in traces.items()}
FRONTIER = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 3.0)


def best_policy(beta: float) -> tuple[float, float]:
    """Give KL and share right of the best policies for a β, over the four requests."""
    best_log_p = formulas.optimal_policy(start_log_p.expand(4, -1), marks_of, beta)
    kl = (best_log_p.exp() * (best_log_p - start_log_p)).sum(-1).mean()
    return float(kl), float((best_log_p.exp() * marks_of).sum(-1).mean())


best = tuple(zip(*map(best_policy, FRONTIER), strict=True))
optima = {beta: best_policy(max(beta, 0.01)) for beta in BETAS}  # β = 0 has no best one
seeds_of = {choice: [(kl, share) for kl, share in trace.permute(2, 1, 0).tolist()]
            for choice, trace in traces.items()}  # fmt: skip
means_of = {choice: tuple(trace.mean(2).T.tolist()) for choice, trace in traces.items()}


# %% figure="09_group_and_beta"
def draw_choice(figure, estimator, group_size, beta):
    choice = (estimator, group_size, beta)
    kl, share = ENDS[choice]
    at = GROUP_SIZES.index(group_size)
    draw_group_and_beta(
        figure,
        paths=seeds_of[choice],
        others=[means_of[other] for other in means_of],
        best=best,
        target=optima[beta],
        sizes=GROUP_SIZES,
        deviations=deviations[estimator],
        group_size=group_size,
        title=f"{share:.0%} right after 60 updates, KL {kl:.2f}",
    )
    return (
        f"Reward against KL with {estimator}, G = {group_size}, β = {beta}: after 60 updates "
        f"{share:.0%} right for {kl:.2f} nats; the best policy has {optima[beta][1]:.0%} for "
        f"{optima[beta][0]:.2f}. Noise of the first gradient {deviations[estimator][at]:.2f}."
    )


explore(
    draw_choice,
    size=(9.2, 4.2),
    estimator=Choice("advantage", list(ESTIMATORS)),
    group_size=Choice("G, group size", GROUP_SIZES, 8),
    beta=Choice("β, KL strength", BETAS, 0.05),
    caption="Your advantages at work, 16 responses to a request whatever G. Dashed: the best that any "
    "policy reaches for its KL. Faint: all other choices.",
)

# %%
print("share right and KL after 60 updates, mean of six seeds")
for name in ESTIMATORS:
    for beta in BETAS:
        row = "".join(f"   G={size}: {ENDS[name, size, beta][1]:.2f} at {ENDS[name, size, beta][0]:.2f}"
                      for size in GROUP_SIZES)  # fmt: skip
        print(f"{name:<13} β = {beta:<5}{row}")
stars = ", ".join(
    f"β = {beta}: {optima[beta][1]:.2f} at {optima[beta][0]:.2f}" for beta in BETAS[1:]
)
print(f"π*, the star      {stars}")
gone = {name: [ENDS[name, size, 0.2][0] for size in GROUP_SIZES] for name in ESTIMATORS}
assert max(gone["leave-one-out"]) < 1.25 * min(gone["leave-one-out"])
assert gone["in deviations"][-1] > 1.8 * gone["in deviations"][0]
for kl, share in ENDS.values():  # no policy has a higher J than π*, whatever the β
    for beta, best_kl, best_share in zip(FRONTIER, *best, strict=True):
        assert share - beta * kl < best_share - beta * best_kl + 1e-9
for size in GROUP_SIZES:
    assert abs(ENDS["leave-one-out", size, 0.5][1] - optima[0.5][1]) < 0.05
    assert ENDS["leave-one-out", size, 0.05][0] > optima[0.05][0] + 0.1

# %% [markdown]
# With leave-one-out, β says how far the policy goes and G next to nothing: sixteen samples are sixteen
# samples, and the noise on the right falls by little beyond G = 4. At β = 0.5 the runs end beside the
# star. At 0.05 they have passed it: up to 0.98 right for 2.4 nats, where π\* has 1.00 for 2.08, since chance
# decides which of many right responses were drawn, and got likelier. In deviations β = 0.2 ends, in groups of
# sixteen, at twice the KL that it has in groups of two (2.34 and 1.03): the KL is counted in nats, but the
# advantage in a unit that changes with G and p. Whoever changes G has changed β.
#
# ## 7 · PPO beside its relatives
#
# Now the film reviews of lesson 2, a network, and the gold reward, the score that the world itself
# gives a review (lesson 3). `python benchmarks/group_sweep.py` trained PPO, RLOO and GRPO, three seeds
# each: 40 cycles of 64 responses, four epochs, one step size. PPO draws 64 prompts a cycle and learns
# a value function; the others draw 8 prompts and eight responses to each. PPO and RLOO have the same
# objective, β = 0.2; GRPO counts in deviations, with β = 0.1. The first table is measured on *held-out*
# prompts, which no run was trained on.
#
# *Predict, then run:* 64 prompts or 8 times 8, who learns more from as many samples? And in as much
# time?

# %%
runs = load_group_sweep()
METHODS = {"PPO": "ppo", "RLOO": "rloo", "GRPO": "grpo"}
of_method = {
    name: [run for run in runs if run.method == method] for name, method in METHODS.items()
}
print("held-out prompts after 40 cycles, three seeds")
for name, seeds in of_method.items():
    reward, kl = (estimate_mean([getattr(run, what) for run in seeds]) for what in ("reward", "kl"))
    seconds = np.mean([run.seconds_curve[-1] for run in seeds])
    print(f"{name:<5} gold reward {reward}, KL {kl}, {seconds:.0f} s of one core")


# %% figure="09_reviews"
def smooth(curve) -> np.ndarray:
    """Average five cycles: one batch of 64 is noisy."""
    return np.convolve(curve, np.ones(5) / 5, "valid")


def at_points(seeds, axis: str, points) -> list:
    """Read the smoothed reward of each seed at points of its KL or its seconds."""
    read = []
    for run in seeds:
        x, y = smooth(getattr(run, axis)), smooth(run.reward_curve)
        order = np.argsort(x)
        read.append(np.interp(points, x[order], y[order]))
    return [estimate_mean(column) for column in np.array(read).T]


lines = {"kl_curve": {}, "seconds_curve": {}}
for axis, of_axis in lines.items():
    for name, seeds in of_method.items():
        first = max(smooth(getattr(run, axis)).min() for run in seeds)
        last = min(smooth(getattr(run, axis)).max() for run in seeds)
        points = np.linspace(first, last, 12)
        of_axis[name] = (points, at_points(seeds, axis, points))
draw_reward_by_kl_and_time(lines["kl_curve"], lines["seconds_curve"])
plt.show()

# %%
same_time = min(run.seconds_curve[-1] for run in runs)
same_kl = 0.9 * min(max(run.kl_curve) for run in runs)
read = {}
for axis, point, said in (
    ("seconds_curve", same_time, f"in {same_time:.0f} s"),
    ("kl_curve", same_kl, f"at a KL of {same_kl:.1f}"),
):
    for name, seeds in of_method.items():
        (reward,) = at_points(seeds, axis, [point])
        low, high = reward.interval()
        read[axis, name] = reward.value
        print(f"{said:<16} {name:<5} gold reward {reward.value:.2f} [{low:.2f}, {high:.2f}]")
objective = {
    name: np.mean([run.reward - 0.2 * run.kl for run in of_method[name]])
    for name in ("PPO", "RLOO")
}
print("J = reward − 0.2 · KL:", ", ".join(f"{n} {j:.2f}" for n, j in objective.items()))
for name in ("RLOO", "GRPO"):
    assert read["seconds_curve", name] > read["seconds_curve", "PPO"] + 1.5
    assert abs(read["kl_curve", name] - read["kl_curve", "PPO"]) < 0.2
assert objective["RLOO"] > objective["PPO"] + 0.15

# %% [markdown]
# From as many samples and in as much time the groups gain far more. But look at the left picture: at
# the same KL the three lie nearly on one line. Groups did not find better reviews, they went further along
# the same way, and PPO with the same β is on its way still: its J is the lower one. So "RLOO learns faster
# than PPO" says here: at *this* step size, which is one for all three and was tuned for none. What slows
# PPO down is not measured here. And the value function cost no time, since it is one more head on the
# policy's own network (lesson 4): what is saved is a model to train and to tune.
#
# Your functions drive the same loop. `train_grpo` takes the advantages, the policy loss and the mean
# as arguments: here your leave-one-out, your clipped weight and your mean over tokens; and once more
# with the clipped objective in the place of your loss: `dapo_policy_loss`. DAPO clips at 1 − ε_low and
# 1 + ε_high and sets the upper ε wider; here both are 0.2, the loop's default, which is the clip of section 5.
# Four epochs on each batch.
#
# *Predict, then run:* which of the two is further away after twelve batches?

# %% kind="train"
settings = GRPOSettings(cycles=12, epochs=4, beta=0.2, seed=0)
LOSSES = {"clipped weight": clipped_weight_loss, "clipped objective": formulas.dapo_policy_loss}
records_of = {
    name: list(
        train_grpo(
            load_policy("reviews-sft"),
            reviews.sample_prompts(2_000, seed=500),
            reviews.gold_reward,
            settings,
            advantages=leave_one_out,
            policy_loss=loss,
            mean=lambda x, mask, length: three_means(x, mask, length)[0],
        )
    )
    for name, loss in LOSSES.items()
}

# %%
for name, records in records_of.items():
    for record in (records[0], records[5], records[-1]):
        kl = round(record.kl, 2) + 0.0  # no "-0.00"
        print(f"{name:<17} cycle {record.step:2}: gold reward {record.reward:+.2f}, KL {kl:.2f}, "
              f"gradient set to 0 on {record.clip_fraction:.0%} of the tokens")  # fmt: skip
    rewards_seen = [record.reward for record in records]
    assert np.mean(rewards_seen[-4:]) > np.mean(rewards_seen[:2]) + 0.5
assert max(record.clip_fraction for record in records_of["clipped weight"]) == 0
assert max(record.clip_fraction for record in records_of["clipped objective"]) < 0.1
far, near = (np.mean([record.kl for record in records[-4:]]) for records in records_of.values())
assert far > 1.15 * near

# %% [markdown]
# The run without a brake is further away in KL, and in reward. One seed is no more than a hint, but it is
# what section 5 leads one to expect; and it took little: the clip had stopped a few tokens in a hundred. (The
# clipped weight stops none. It only limits what a token counts, which that column doesn't tell.)

# %% [markdown]
# ## 8 · A checker
#
# A judge of taste can be pleased. A **checker** knows: it runs the tests, compares the number,
# verifies the proof. Here the tasks are sums of four numbers. The shipped policy `sums-sft` was
# fine-tuned on people of different habits. Most write the sum at once, which a network of this size
# can't; some go step by step, which it can.

# %% kind="setup"
checker = SumsChecker()
HELD_OUT = sample_sums(100, 1, held_out=True)


def ask(policy, prompts: list[str], tries: int, seed: int) -> tuple[list[str], list[str], Tensor]:
    """Draw several responses to each prompt; give prompts, responses and marks (P, tries)."""
    asked = [prompt for prompt in prompts for _ in range(tries)]
    generator = torch.Generator().manual_seed(seed)
    responses = policy.sample(asked, max_new_tokens=16, generator=generator).responses
    right = torch.from_numpy(checker(asked, responses)) == 1
    return asked, responses, right.view(len(prompts), tries)


# %%
asked, answers, right = ask(load_policy("sums-sft"), HELD_OUT[:3], 5, seed=0)
for prompt, answer, mark in zip(asked, answers, right.flatten().tolist(), strict=True):
    print(f"{'right' if mark else 'wrong':<6} {prompt} {answer}")

# %% [markdown]
# With the checker a *second* measure makes sense. **pass@k** is the chance that at least one of k
# tries is right. pass@1 says how good the policy is, pass@k for a large k what it *can* do at all.
#
# ### Exercise 9.7 · Pass at k
#
# ●●○ · 10 min · 3 points
#
# From n tries of which c are right:
#
# $$\text{pass@}k = 1 - \binom{n - c}{k} \Big/ \binom{n}{k}$$
#
# *Why not $1 - (1 - c/n)^k$?* It is too low on average: drawing k of the n tries, no try is drawn
# twice (Chen et al. 2021).
#
# <details><summary>Hint 1</summary>
#
# `math.comb(a, b)` is 0 where b > a, which is right: with fewer than k wrong tries one is right.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Python divides whole numbers of any length: `math.comb(n - c, k) / math.comb(n, k)` is fine for a
# thousand tries. `correct.sum(1).tolist()` gives the c of each prompt.
#
# </details>


# %% kind="exercise" exercise="9.7"
def pass_at_k(correct: Tensor, k: int) -> Tensor:
    """Estimate the chance that one of k tries is right.

    Args:
        correct: (P, n) boolean, True = right, of n tries at each of P prompts.
        k: number of tries, from 1 to n.

    Returns:
        (P,) estimates, float64.
    """
    ### BEGIN SOLUTION
    n = correct.shape[1]
    missed = [math.comb(n - c, k) / math.comb(n, k) for c in correct.sum(1).tolist()]
    return 1 - torch.tensor(missed, dtype=torch.float64)
    ### END SOLUTION


# %% kind="check" exercise="9.7"
check("9.7", pass_at_k)

# %% [markdown]
# First the claim about the simple formula, on marks of which we know the truth: p = 0.05, ten tries,
# 4,000 times.

# %%
pass_at_k = yours("9.7", pass_at_k)

drawn = torch.rand(4_000, 10, generator=torch.Generator().manual_seed(0)) < 0.05
truth = 1 - 0.95**8
unbiased = estimate_mean(pass_at_k(drawn, 8))
simple = estimate_mean(1 - (1 - drawn.double().mean(1)) ** 8)
print(f"pass@8 is {truth:.3f}; your estimate {unbiased}, 1 − (1 − c/n)^8 {simple}")
assert abs(unbiased.value - truth) < 4 * unbiased.standard_error
assert simple.interval()[1] < truth - 0.02

# %% [markdown]
# Now the question that divides the field: does training with a checker **teach**, or does it
# **sharpen**, making the likely likelier? If it only sharpens, pass@1 rises, and pass@k for large k
# does not, or falls (Yue et al. 2025).
#
# `python -m rlhf_lessons.evaluation.sums_sweep` trained `sums-sft` with the checker, three seeds:
# GRPO with groups of 16, and **expert iteration** (fine-tuning on one's own right answers, again and
# again; section 9) with equally many samples. Held-out tasks of four numbers, 128 tries at each.
#
# *Predict, then run:* where do the lines cross, if they do?

# %% figure="09_tries"
sums_runs = load_sums_sweep()
KS = (1, 2, 4, 8, 16, 32, 64, 128)
NAMES = {"sft": "before", "grpo": "GRPO", "expert_iteration": "expert iteration"}


def tries_of(method: str, tasks: str = "held_out") -> Tensor:
    """Give the marks of all tries of a method's three seeds, (3 · tasks, tries)."""
    counts = torch.tensor([run.right[tasks] for run in sums_runs if run.method == method])
    return torch.arange(sums_runs[0].tries) < counts.flatten()[:, None]


solved = {
    (method, tasks): [estimate_mean(pass_at_k(tries_of(method, tasks), k)) for k in KS]
    for method in NAMES
    for tasks in ("held_out", "harder")
}
lines = {
    name: tuple(zip(*((e.value, *e.interval()) for e in solved[method, "held_out"]), strict=True))
    for method, name in NAMES.items()
}
draw_tries(KS, lines)
plt.show()

# %%
for tasks, said in (("held_out", "four numbers"), ("harder", "five numbers, never trained on")):
    print(f"{said:<33} k =" + "".join(f"{k:>7}" for k in KS))
    for method, name in NAMES.items():
        values = "".join(f"{estimate.value:7.3f}" for estimate in solved[method, tasks])
        print(f"    pass@k, {name:<25}{values}")
tokens = {m: np.mean([run.length for run in sums_runs if run.method == m]) for m in NAMES}
for method, name in NAMES.items():
    print(f"{name:<17} {tokens[method]:.2f} tokens a response, the end token included")
assert tokens["expert_iteration"] < tokens["sft"] - 0.4

passed = {key: dict(zip(KS, values, strict=True)) for key, values in solved.items()}
for method in ("grpo", "expert_iteration"):
    now, then = passed[method, "held_out"], passed["sft", "held_out"]
    assert now[1].value > then[1].value + 0.08 and now[16].value < then[16].value - 0.005
    now, then = passed[method, "harder"], passed["sft", "harder"]
    assert now[16].value < then[16].value - 0.1 and now[128].value < then[128].value - 0.02
firsts = {m: [run.pass_at(1, "harder") for run in sums_runs if run.method == m] for m in NAMES}
print("five numbers, pass@1 of each seed: " + "; ".join(
    f"{NAMES[m]} {', '.join(f'{value:.2f}' for value in values)}" for m, values in firsts.items()
))  # fmt: skip
assert max(firsts["expert_iteration"]) < min(firsts["sft"]) - 0.05
ahead = passed["expert_iteration", "held_out"][1].value - passed["grpo", "held_out"][1].value
assert ahead > 0.1

# %% [markdown]
# On the first try both are far better than before, and expert iteration, the simpler method, more so
# than GRPO, from as many samples. Between four and sixteen tries the lines cross. At 16 and 32 tries
# `sums-sft` as it was *before* is ahead, and with 128 all three solve every task: training has made
# nothing possible that was not. Here, then, it sharpened.
#
# And it lost something. With one number more, on which no run was trained, sixteen tries solve far fewer
# tasks than before, and with 128 some stay unsolved that were solved. After expert iteration even the
# *first* try is worse, for each seed; after GRPO the seeds disagree. For expert iteration the length says
# why: it has learned to write the sum of four numbers at once, and given up the steps, which carry over
# to five. Nobody had asked for them: the checker sees the answer alone. (Others report that long training
# on many kinds of tasks widens what a model can do. That is not this setting: four numbers, one small
# network.)
#
# ## 9 · Keep what passes
#
# Is the policy gradient needed for that? **Expert iteration** (rejection sampling, STaR) does
# without: draw responses, keep those that are right, fine-tune on them as on demonstrations, repeat.
#
# ### Exercise 9.8 · Keep what passes
#
# ●○○ · 8 min · 2 points
#
# Give the pairs to fine-tune on: right responses alone (score 1); of each prompt every text once, and
# at most `most` of them, the first ones. *Why at most?* Else the tasks that are solved already fill
# the whole batch.
#
# <details><summary>Hint 1</summary>
#
# A dictionary from prompt to the list of texts kept for it.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `texts = kept.setdefault(prompt, [])`, then append where the score is 1, the text not in `texts` and
# `len(texts) < most`.
#
# </details>


# %% kind="exercise" exercise="9.8"
def keep_what_passes(
    prompts: list[str], responses: list[str], scores: np.ndarray, most: int
) -> list[tuple[str, str]]:
    """Choose the responses to learn from.

    Args:
        prompts: B prompts; one comes as often as it was answered.
        responses: B responses.
        scores: (B,) marks of a checker, 1 = right.
        most: the most texts to keep of one prompt.

    Returns:
        (prompt, response) pairs.
    """
    ### BEGIN SOLUTION
    kept: dict[str, list[str]] = {}
    for prompt, response, score in zip(prompts, responses, scores, strict=True):
        texts = kept.setdefault(prompt, [])
        if score == 1 and response not in texts and len(texts) < most:
            texts.append(response)
    return [(prompt, text) for prompt, texts in kept.items() for text in texts]
    ### END SOLUTION


# %% kind="check" exercise="9.8"
check("9.8", keep_what_passes)

# %% [markdown]
# Your function decides more than it seems. The bare answer is *one* text, so that "each text once" keeps
# it once a task; with steps before it there are many texts that end in the right number. *Predict, then
# run:* which habit will grow?

# %% kind="train"
keep_what_passes = yours("9.8", keep_what_passes)

student = load_policy("sums-sft")
for turn in range(2):
    tasks = sample_sums(64, 10 + turn)
    asked, answers, right = ask(student, tasks, 16, seed=turn)
    pairs = keep_what_passes(asked, answers, right.flatten().double().numpy(), 4)
    print(f"round {turn + 1}: {float(right.double().mean()):4.0%} right, {len(pairs)} texts kept of "
          f"{len(answers):,}")  # fmt: skip
    tuning = SupervisedSettings(steps=30, batch_size=64, learning_rate=1e-3)
    for _ in train_sft(student, pairs, tuning):
        pass

# %%
first_tries, in_steps = {}, {}
for name, trained in {"before": load_policy("sums-sft"), "after two rounds": student}.items():
    _, answers, right = ask(trained, HELD_OUT, 32, seed=1)
    first_tries[name] = pass_at_k(right, 1)
    in_steps[name] = np.mean([len(answer.split()) == 3 for answer in answers])
    print(f"{name:<17} pass@1 {estimate_mean(first_tries[name])}, pass@32 "
          f"{float(pass_at_k(right, 32).mean()):.3f}, {in_steps[name]:4.0%} in three words, as "
          f"step by step is")  # fmt: skip
gain = estimate_mean(first_tries["after two rounds"] - first_tries["before"])
print(f"gain in pass@1, task by task: {gain}")
assert gain.interval()[0] > 0
assert in_steps["after two rounds"] > in_steps["before"] + 0.15

# %% [markdown]
# The habit of three words has grown, and pass@1 with it, after two rounds that took seconds. The stored
# runs kept every right response, copies too: there the bare answer won, as section 8 shows. The checker
# is the same in both, and did not choose; *what is kept* did.
#
# ## 10 · A checker that is fooled
#
# A checker is a program, and programs have holes. Ours looked at what follows the last "=". Suppose
# that its author had looked for the right number *anywhere* in the response. It marks no right
# response wrong, and on what the policy writes today the two hardly differ.

# %%
fooled_checker = FooledSumsChecker()
asked, answers, right = ask(load_policy("sums-sft"), HELD_OUT, 16, seed=2)
with_hole = fooled_checker(asked, answers)
disagree = float((torch.from_numpy(with_hole) != right.flatten().double()).double().mean())
print(f"before training the two checkers disagree on {disagree:.1%} of {len(answers):,} responses; "
      f"{with_hole.mean():.1%} pass the one with the hole, {float(right.double().mean()):.1%} are "
      f"right")  # fmt: skip
assert bool((torch.from_numpy(with_hole) >= right.flatten().double()).all())

# %% [markdown]
# *Predict, then run:* same policy, same loop, the checker with the hole. What will it write?

# %%
for run in sums_runs:
    if run.method in ("grpo", "grpo_fooled") and run.seed == 0:
        print(f"{run.method}: its checker marked {run.reward_curve[-1]:4.0%} of the last batch right, "
              f"{run.right_curve[-1]:4.0%} are right")  # fmt: skip
        for prompt, response in run.shown[:4]:
            print(f"    {prompt} {response}")
fooled_runs = [run for run in sums_runs if run.method == "grpo_fooled"]
honest_runs = [run for run in sums_runs if run.method == "grpo"]
for name, chosen in (("fooled", fooled_runs), ("honest", honest_runs)):
    by_hole = estimate_mean([np.mean(run.fooled["held_out"]) / run.tries for run in chosen])
    by_truth = estimate_mean([np.mean(run.right["held_out"]) / run.tries for run in chosen])
    print(f"trained with the {name} checker: {by_hole.value:.0%} pass the hole, {by_truth.value:.1%} "
          f"are right (held-out tasks, three seeds)")  # fmt: skip
    fooled = name == "fooled"
    assert (by_hole.value > 0.8 and by_truth.value < 0.02) if fooled else by_truth.value > 0.4

# %% [markdown]
# It names every number that might be right, as long as there is room. In the log this run looks like the
# better one by far, with nine in ten marked right; what it learned to do is worth nothing, and where one answer
# in three was right before, it is now one in a thousand. No number in the log says so. Three things would
# have: **samples**, read by a person; the length, which went to its limit; and a *second* checker, written
# by somebody else, that training never sees.
#
# ## 11 · Thumbs
#
# Nobody clicks on pairs. What products collect is a thumb, up or down, on the one response that was
# shown. KTO (Ethayarajh et al. 2024) learns from those. With $\hat r = \log \pi(y) - \log
# \pi_\text{ref}(y)$ and a **reference point** z, which says how far the policy has moved on the whole (below
# it is the mean of $\hat r$ over the batch, but not less than 0):
#
# $$L = \begin{cases} \lambda_D \big(1 - \sigma(\beta(\hat r - z))\big) & \text{thumb up} \\
# \lambda_U \big(1 - \sigma(\beta(z - \hat r))\big) & \text{thumb down} \end{cases}$$
#
# ### Exercise 9.9 · Thumbs
#
# ●●○ · 10 min · 3 points
#
# One loss for each thumb. z is held fixed. *Why 1 − σ, and not −log σ as in DPO?* It levels off on
# both sides: a response that is far from where it should be pulls no more than one that is there.
#
# <details><summary>Hint 1</summary>
#
# `inside = beta * (policy_log_probs - reference_log_probs - reference_point.detach())`.
#
# </details>
# <details><summary>Hint 2</summary>
#
# $1 - \sigma(x) = \sigma(-x)$, so the loss is `torch.sigmoid(-inside)` for a thumb up and
# `torch.sigmoid(inside)` for one down; `torch.where(desirable_mask, ..., ...)`.
#
# </details>


# %% kind="exercise" exercise="9.9"
def thumbs_loss(
    policy_log_probs: Tensor,
    reference_log_probs: Tensor,
    desirable_mask: Tensor,
    reference_point: Tensor,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
) -> Tensor:
    """Give KTO's loss for each thumb.

    Args:
        policy_log_probs: (B,) log π(y | x) in nats, with gradient.
        reference_log_probs: (B,) log π_ref(y | x) in nats; constants.
        desirable_mask: (B,) boolean, True = thumb up.
        reference_point: () z in nats; a constant.
        beta: β above 0, per nat.
        desirable_weight: λ_D, of the thumbs up.
        undesirable_weight: λ_U, of the thumbs down.

    Returns:
        (B,) losses.
    """
    ### BEGIN SOLUTION
    inside = beta * (policy_log_probs - reference_log_probs - reference_point.detach())
    return torch.where(
        desirable_mask,
        desirable_weight * torch.sigmoid(-inside),
        undesirable_weight * torch.sigmoid(inside),
    )
    ### END SOLUTION


# %% kind="check" exercise="9.9"
check("9.9", thumbs_loss)

# %% [markdown]
# Against DPO, with as many **labels**: N pairs need 2N responses, N thumbs need N. People are
# simulated: of two responses they choose the first with Bradley-Terry's chance
# $\sigma(r_1 - r_2)$, and they put a thumb up with the chance that it beats an average one, $\sigma(r - J)$. What
# counts is the *true J*, the exact mean of the scores. The writer of lesson 5 learns, who sees the
# last word alone, so that what is learned in one text holds in others. 24 seeds, full batches.
#
# *Predict, then run:* is a pair worth more than a thumb? With 100 labels, with 1,600?

# %% kind="setup"
thumbs_loss = yours("9.9", thumbs_loss)

LAST_WORDS = ("", *OPINION_WORDS)
last_word = torch.tensor(
    [LAST_WORDS.index(prefix.split()[-1] if prefix else "") for prefix in tree.prefixes]
)
habits = torch.from_numpy(opinion_habits(LAST_WORDS)).log()  # (7, 7): last word, next action
LABELS, EPOCHS, RATERS = (100, 400, 1600), (10, 30, 60, 100, 150), 24
average = float(old_p @ rewards)


def learn(loss_of, labels: int) -> dict[int, tuple[Tensor, Tensor]]:
    """Train 24 writers on labels of their own; give true score and KL at some epochs."""
    draw = torch.Generator().manual_seed(labels)
    theta = habits.expand(RATERS, 7, 7).clone().requires_grad_()
    one, other = (
        torch.multinomial(old_p.expand(RATERS, -1), labels, True, generator=draw) for _ in range(2)
    )
    coin = torch.rand(RATERS, labels, generator=draw, dtype=torch.float64)
    optimiser, reached = torch.optim.Adam([theta], lr=0.05), {}
    for epoch in range(1, max(EPOCHS) + 1):
        moved = tree.response_log_probs(theta[:, last_word]) - start_log_p
        optimiser.zero_grad()
        loss_of(moved, one, other, coin).sum().backward()
        optimiser.step()
        if epoch in EPOCHS:
            log_p = tree.response_log_probs(theta.detach()[:, last_word])
            kl = (log_p.exp() * (log_p - start_log_p)).sum(1)
            reached[epoch] = (log_p.exp() @ rewards, kl)
    return reached


# %% kind="setup"
def by_pairs(moved, one, other, coin):
    """Give DPO's loss on pairs, (raters,)."""
    first_wins = coin < torch.sigmoid(rewards[one] - rewards[other])
    margin = moved.gather(1, one) - moved.gather(1, other)
    return -logsigmoid(0.3 * torch.where(first_wins, margin, -margin)).mean(1)


def by_thumbs(moved, one, other, coin):
    """Give KTO's loss on thumbs, (raters,)."""
    del other
    up = coin < torch.sigmoid(rewards[one] - average)
    losses = []
    for row, thumbs in zip(moved.gather(1, one), up, strict=True):
        z = row.detach().mean().clamp(min=0)
        losses.append(thumbs_loss(row, torch.zeros_like(row), thumbs, z, 0.3, 1.0, 1.0).mean())
    return torch.stack(losses)


# %% kind="train"
labelled = {
    (name, count): learn(loss_of, count)
    for count in LABELS
    for name, loss_of in (("DPO, pairs", by_pairs), ("KTO, thumbs", by_thumbs))
}

# %%
for (name, count), reached in labelled.items():
    said = ", ".join(
        f"{epoch}: {estimate_mean(score).value:+.2f} ({float(kl.mean()):.1f})"
        for epoch, (score, kl) in reached.items()
    )
    print(f"{count:5} labels, {name:<11}  true J (KL) after epochs {said}")


for count in LABELS:
    pairs, thumbs = (labelled[name, count] for name in ("DPO, pairs", "KTO, thumbs"))
    ahead = estimate_mean(pairs[150][0] - thumbs[150][0])
    spread = [float(method[150][0].std()) for method in (pairs, thumbs)]
    print(f"{count:5} labels, 150 epochs: DPO ahead by {ahead}; std over the seeds {spread[0]:.2f} "
          f"and {spread[1]:.2f}")  # fmt: skip
    assert abs(float((pairs[30][0] - thumbs[30][0]).mean())) < 0.15
    assert float(pairs[150][1].mean()) > 1.4 * float(thumbs[150][1].mean())
    if count == 100:
        assert ahead.interval()[0] < 0 and spread[0] > 1.5 * spread[1]
    if count == 1600:
        assert ahead.interval()[0] > 0

# %% [markdown]
# For thirty epochs the two are level, label for label, though the pairs show twice as many responses.
# Then they part. DPO's −log σ asks for more margin without end, of every pair, the mislabelled ones
# too: its KL goes on and on. KTO's loss levels off, and so does its KL. With 1,600 labels DPO's way is
# the better one. With 100 it is no gain on the average, and a gamble: the seeds differ twice as much.
#
# What the world grants to the thumbs: its raters put the bar at the average response. Where nine in
# ten thumbs go up, λ must make up for it, and whether one can tell is exactly what a pair need not ask.
#
# ## 12 · A checker for a real model
#
# A policy of ours that answers in numbers alone can't tell whether a gain is *arithmetic* or merely
# the *form* of an answer. A real chat model can: SmolLM2, 135 million weights, is asked "What is 7 +
# 9?" and says whatever it likes, in 24 tokens. The checker reads the last number that it names.
# `train_grpo` trains low-rank adapters: 16 cycles of 64 responses, groups of 8, no price on the KL.
# The loop is that of section 7.
#
# Measured are sums that were not trained on (in neither order of their numbers), 16 tries at each, and harder
# ones, of numbers up to 49. Beside pass@k stand
#
# - **likeliest**: the share right where each token is the likeliest one. A lower temperature gives that without
#   any training: if GRPO only made the likely likelier, it could not get far beyond;
# - **begun**: the probability of the right sum where the answer is begun for the model, "7 + 9 =". That is the
#   arithmetic alone, without what has to be said before it;
# - **finished**: the share of tries that come to an end, and how many of those are right.
#
# Two runs come with the course, each by one command. For one of your own, once `python -m rlhf_lessons real get`
# and then `RUN_REAL = True`, or the command. Stopped, it goes on where it was.
#
# *Predict, then run:* the model starts at one right try in ten. Where will it end, and which of the three
# measures explains it?

# %% kind="train"
RUN_REAL = False  # True trains the real model here: under a quarter of an hour on two cores

real_runs, own = load_real_sums(), None
if note := missing_real_parts("smollm2"):
    print(note)
elif not RUN_REAL:
    print("Stored results only. RUN_REAL = True makes a run of your own.")
else:
    torch.set_num_threads(2)
    try:
        own = run_real_sums(RealSumsSettings(seed=2), "real_sums", progress=True)
    except KeyboardInterrupt:
        print("Stopped. The folder real_sums keeps what is done; run this cell again to go on.")
    finally:
        torch.set_num_threads(1)
real_runs += [] if own is None else [own]
for run in real_runs:
    print(f"{run.command or 'your own'}: {run.seconds / 60:.0f} minutes")

# %% figure="09_real_sums"
REAL_KS = (1, 2, 4, 8, 16)


def passes(run, when: str, kind: str = "held_out") -> dict[int, float]:
    """Give pass@k of a real run, before or after it."""
    return {k: getattr(run, when)[kind].pass_at(k) for k in REAL_KS}


draw_real_sums(
    {f"seed {run.settings.seed}": [point["reward"] for point in run.points] for run in real_runs},
    {when: (REAL_KS, [passes(run, when) for run in real_runs]) for when in ("before", "after")},
)
plt.show()

# %%
KINDS = {"held_out": "held out", "harder": "harder"}
print(f"{'':<49}              begun:")
print(f"{'':<26} pass@1  pass@8 pass@16  likeliest   mean  likeliest  finished  right of them")
for run in real_runs:
    for kind, said in KINDS.items():
        for when in ("before", "after"):
            found, passed = getattr(run, when)[kind], passes(run, when, kind)
            name = f"seed {run.settings.seed}, {said}, {when}"
            print(f"{name:<26} {passed[1]:6.2f}  {passed[8]:6.2f} {passed[16]:7.2f}  "
                  f"{found.likeliest:9.2f}  {np.mean(found.begun):5.2f}  "
                  f"{np.mean(found.begun_likeliest):9.2f}  {found.finished:8.2f}  "
                  f"{found.right_finished:13.2f}")  # fmt: skip
    first, last = run.points[0], run.points[-1]
    print(f"seed {run.settings.seed}: KL {run.kl:.1f} nats a response, entropy {first['entropy']:.1f} to "
          f"{last['entropy']:.1f} nats a token, {first['response_length']:.0f} to "
          f"{last['response_length']:.0f} tokens\n")  # fmt: skip

# %%
run = real_runs[0]
for kind in ("held_out", "harder"):
    before, after = run.before[kind].shown, run.after[kind].shown
    for (question, old), (_, new) in zip(before[:4], after[:4], strict=True):
        print(f"{question}\n  before {old!r}\n  after  {new!r}")

# %% [markdown]
# From one try in ten to nine in ten, on sums that were not trained on, in 1,024 responses. Before,
# the model talks *about* adding until its tokens are used up. The likeliest answer is no better than
# a drawn one, so a lower temperature would have won nothing.
#
# **How much of the gain is form, how much arithmetic?** Four steps, on the same sums: what the
# untrained model gets right; what it gets right where the answer is begun for it, so that form costs
# nothing; what it would get right there if it always took the likeliest digits, which is as far as
# *sharpening* goes; and what the trained model gets right, form and all.

# %%
for run in real_runs:
    for kind, said in KINDS.items():
        old, new = run.before[kind], run.after[kind]
        now = np.array(new.right) / new.tries
        steps = [np.mean(old.right) / old.tries, np.mean(old.begun), np.mean(old.begun_likeliest)]
        print(
            f"seed {run.settings.seed}, {said}: "
            + " → ".join(f"{x:.2f}" for x in (*steps, now.mean()))
        )
        for what, rows in (
            ("the trained model over the begun answer", now - np.array(old.begun)),
            ("                      over its likeliest", now - np.array(old.begun_likeliest)),
            ("begun answers, after over before", np.array(new.begun) - np.array(old.begun)),
        ):
            gain = estimate_mean(rows)
            low, high = gain.interval()
            says = "more" if low > 0 else "less" if high < 0 else "can't tell"
            print(f"    {what:<42} {gain.value:+.2f} [{low:+.2f}, {high:+.2f}]  {says}")

for run in real_runs[:2]:
    for kind in KINDS:
        old, new = run.before[kind], run.after[kind]
        assert new.pass_at(1) > old.pass_at(1) + 0.3 and new.pass_at(16) > old.pass_at(16)
        assert old.likeliest <= old.pass_at(1) and new.finished > 0.9 > 0.2 > old.finished
        assert estimate_mean(np.array(new.begun) - np.array(old.begun)).interval()[0] > 0

# %% [markdown]
# **Form carries the larger part, but not all.** To be *brought* to the answer takes the untrained
# model from 0.10 to 0.60, and its likeliest digits there are right on 0.71 of these sums. Training
# goes beyond: 0.86 and 0.88. On the 24 held-out sums that last step could be luck. On the harder
# sums, most with a number larger than any in training, it is more than the intervals allow for chance
# in both seeds (of the same 24 sums): there the model says sums right whose likeliest answer was
# wrong before. And where the answer is begun for both, the trained model is better in all four
# comparisons.
#
# So section 8's verdict, that a checker sharpens, does not hold here as it stands. pass@16 *rises*,
# and so does what was not trained on. The two cases differ in where they start. `sums-sft` had been
# fine-tuned on these very tasks, and 16 tries found nearly every sum. SmolLM2 knew more of adding
# than it said, and there was something left to learn at 16 tries as well. What it paid: 5 to 6 nats a
# response, and nearly all the variety of its answers.
#
# Two doubts. "7 + 9 =" is one beginning of many, so another question may bring more out of the
# untrained model (with "equals", or after a solved example, it did a little:
# `benchmarks/RESULTS.md`). And 16 tries are few: whether a thousand tries of the untrained model
# would find what the trained one says at once, nobody asked.
#
# ## What was shown
#
# | claim | where | measured by |
# | --- | --- | --- |
# | leave-one-out has the exact gradient as its mean; the group's mean shortens it by (G − 1)/G | 2 | all groups |
# | in small groups a baseline costs variance; it is a mean over pairs, known for every G | 2 | all groups, all pairs |
# | dividing by the deviation turns the gradient, to that of 2·arcsin √p in large groups | 3 | all groups |
# | a mean over tokens makes the score (r − J)/length | 4 | all groups, enumeration |
# | only the product of ratios is exact; the response's ratio is nearest, a clip is a brake | 5 | enumeration |
# | leave-one-out: β says how far, G hardly; in deviations, who changes G has changed β | 6 | 6 seeds, exact π\* |
# | PPO, RLOO and GRPO on reviews, at equal samples and at equal time | 7 | 3 seeds, intervals |
# | a checker sharpens: pass@1 rises, pass@16 falls, and so does what was not trained on | 8 | 3 seeds, 100 tasks |
# | keeping what passes does as much or more; what is kept decides the habit | 8, 9 | 3 seeds; 100 tasks |
# | a checker with a hole is found out by the policy | 10 | 3 seeds |
# | thumbs are level with pairs at first; with many labels pairs go further, with few they gamble | 11 | 24 seeds, exact scores |
# | a real model learns to give an answer, and some arithmetic | 12 | 2 stored runs, paired intervals |
#
# **In the package.** `rlhf_lessons.formulas`: `rloo_advantages`, `dr_grpo_advantages`,
# `grpo_advantages`, `masked_mean`, `mean_of_responses`, `mean_over_length`, `dapo_policy_loss`,
# `gspo_policy_loss`, `cispo_policy_loss`, `pass_at_k`, `kto_loss`. `rlhf_lessons.training`:
# `train_grpo`, whose table names the choices that make RLOO, Dr. GRPO, DAPO, GSPO and CISPO,
# `train_expert_iteration`, `train_kto`; `train_grpo_with_trl`, which hands GRPO to TRL on several
# processes (lesson 8). `rlhf_lessons.worlds`: `SumsChecker`, `FooledSumsChecker`, `LastNumberChecker`.
# `rlhf_lessons.evaluation`: `run_real_sums`, `load_real_sums`; on the command line `python -m rlhf_lessons run sums`.
#
# **Further reading.**
#
# - Kool et al. 2019, *Buy 4 REINFORCE Samples, Get a Baseline for Free!*; Ahmadian et al. 2024, *Back
#   to Basics*: RLOO.
# - Shao et al. 2024, *DeepSeekMath*: GRPO. Liu et al. 2025, *Understanding R1-Zero-Like Training*: Dr.
#   GRPO. Yu et al. 2025, *DAPO*. Zheng et al. 2025, *Group Sequence Policy Optimization*. MiniMax 2025,
#   *MiniMax-M1*: CISPO.
# - Hoeffding 1948, *A Class of Statistics with Asymptotically Normal Distribution*: means over pairs.
# - Chen et al. 2021, *Evaluating Large Language Models Trained on Code*: pass@k. Yue et al. 2025, *Does
#   Reinforcement Learning Really Incentivize Reasoning Capacity in LLMs Beyond the Base Model?*
# - Zelikman et al. 2022, *STaR*: learning from one's own right answers.
# - Ethayarajh et al. 2024, *KTO: Model Alignment as Prospect Theoretic Optimization*.
#
# **Three quick questions.**
#
# 1. A log of GRPO shows 70 % silent groups. What does it cost, and what can you do?
#
# <details><summary>Answer</summary>
#
# Seven in ten samples teach nothing. Draw other prompts in their place (`redraws`), make the groups
# larger, or leave out prompts that are solved always or never.
#
# </details>
#
# 2. Two runs reach the same reward. In one the wrong answers have grown longer and longer. What do you
#    look at first?
#
# <details><summary>Answer</summary>
#
# At the mean over tokens. Divided by its own length, a long wrong answer is punished less per token.
#
# </details>
#
# 3. pass@1 has doubled and pass@64 is unchanged. Was the training in vain?
#
# <details><summary>Answer</summary>
#
# No: one answer now does what took several. But expect little where the policy never succeeded before,
# and measure what lies beside the tasks trained on: it may have got worse.
#
# </details>
#
# The words of this lesson, in three languages:

# %%
glossary(9)
