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
# - recognise a checker that is being fooled, and learn from thumbs.
#
# **Time** about 120 minutes, 9 exercises, 25 points. **Needs** lesson 4's words (ratio, advantage,
# KL) and, for the last section, DPO. Two CPU cores are enough, and no network.

# %% kind="setup"
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lessons import formulas
from rlhf_lessons.classroom import Choice, check, explore, glossary, use_style, yours
from rlhf_lessons.classroom.pictures import groups as pictures
from rlhf_lessons.evaluation import estimate_mean, load_group_sweep, step_to_kl
from rlhf_lessons.models import ResponseTree, load_policy
from rlhf_lessons.training import GRPOSettings, train_grpo
from rlhf_lessons.worlds import (
    OPINION_LENGTH,
    OPINION_WORDS,
    opinion_habits,
    opinion_score,
    reviews,
)

torch.set_num_threads(1)  # the same numbers on every run
torch.set_default_dtype(torch.float64)
use_style()

# %% [markdown]
# ## 1 · A world in which all groups can be listed
#
# Three words and two tokens make 13 responses. A group of two is then one of 169, a group of four
# one of 28,561: the mean and the variance of *any* estimator of the gradient are sums that we can
# take. The writer has the habits of lesson 4's opinions, and each response has its score.

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
print(f"expected score J = {float(log_p.exp() @ small_scores):.3f}, |∇J| = {float(exact.norm()):.3f}")
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
pictures.variance_by_group_size(SIZES, lines, listed)

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
# Compute w exactly. Of the other G − 1 responses c are right with the binomial chance
# $\binom{G-1}{c} p^c (1-p)^{G-1-c}$.
#
# <details><summary>Hint 1</summary>
#
# For each c from 0 to G − 1 make two rows of scores: `[1.0, *rest]` and `[0.0, *rest]`, where `rest`
# holds c ones and G − 1 − c zeros. `advantages` takes both at once, as (2, G).
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
        if_right, if_wrong = advantages(torch.tensor([[1.0, *rest], [0.0, *rest]]))[:, 0].tolist()
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
shares = [*np.linspace(0.002, 0.05, 25), *np.linspace(0.06, 0.94, 45), *np.linspace(0.95, 0.998, 25)]
limit = [1 / math.sqrt(share * (1 - share)) for share in shares]
lines = {"leave-one-out": [prompt_weight(share, 8, leave_one_out) for share in shares]}
for size in (4, 8, 64):
    lines[f"GRPO, G = {size}"] = [prompt_weight(share, size, group_advantages) for share in shares]
lines["1/√(p(1 − p))"] = limit
print("      p   leave-one-out   GRPO: G = 8      64     512   1/√(p(1 − p))   silent, G = 8")
for share in (0.5, 0.2, 0.05, 0.01):
    grpo = [prompt_weight(share, size, group_advantages) for size in (8, 64, 512)]
    silent = share**8 + (1 - share) ** 8
    print(f"{share:7.2f} {prompt_weight(share, 8, leave_one_out):15.3f} {grpo[0]:13.2f} "
          f"{grpo[1]:7.2f} {grpo[2]:7.2f} {1 / math.sqrt(share * (1 - share)):15.2f} "
          f"{silent:15.0%}")  # fmt: skip
    far = [abs(value * math.sqrt(share * (1 - share)) - 1) for value in grpo]
    assert far[0] > far[1] > far[2]
assert all(abs(weight - 1) < 1e-9 for weight in lines["leave-one-out"])
for size in (4, 8, 64):  # at the edges the weight goes to (G − 1)/√G
    edge = prompt_weight(1e-6, size, group_advantages)
    assert abs(edge / ((size - 1) / math.sqrt(size)) - 1) < 0.01
pictures.prompt_weights(shares, lines)

# %% [markdown]
# In a large group the weight is $1/\sqrt{p(1-p)}$: the mean gradient is no longer that of p, but that
# of $2 \arcsin \sqrt p$, whose slope is this weight. A prompt that is solved once in a hundred counts
# five times as much as one solved every second time. Whether that is a *bias* (Liu et al. 2025) or a
# wish for the hard prompts is a matter of what you want; it is not the expected score.
#
# In a group of eight, though, there is little of it: the weight ends at $(G-1)/\sqrt G = 2.5$ at the
# edges and is 2.2 in the middle. What decides there is the last column. A group whose marks are all
# equal is **silent**: no advantage, no gradient, for every estimator alike. DAPO (Yu et al. 2025)
# draws such groups again; leave-one-out pays for them in variance.
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
