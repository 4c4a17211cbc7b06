# %% [markdown]
# # Lesson 5 · The trust region
#
# Lesson 4 built PPO's objective, clip included, and trained with it. This lesson asks what the clip
# is for. A batch of samples says which tokens were better than average *under the policy that wrote
# them*. Change that policy a little and what the samples say is still right; change it a lot and it
# is not. The policies near enough to be judged by the samples form the **trust region**. Here we
# measure how fast trust decays, on a world where the truth can be summed, and compare the ways to
# stay inside.
#
# **After this lesson you can**
#
# - say what a policy-gradient method maximises (the surrogate), and how wrong it can be at worst;
# - tell from the sign of an advantage and the side of a ratio where PPO's gradient is exactly 0;
# - read a training log: clip fraction, approximate KL, and what the clip does *not* guarantee;
# - stop an update in time, and take a step whose length is measured in KL;
# - show why many epochs on one batch need a limit.
#
# **Time** about 115 minutes, 7 exercises, 21 points. **Needs** lesson 4's words (ratio, advantage,
# clipped objective, KL). Two CPU cores are enough, and no network.

# %% kind="setup"
import math
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from rlhf_lessons import formulas
from rlhf_lessons.classroom import Choice, Slider, check, explore, glossary, use_style, yours
from rlhf_lessons.classroom.pictures.trust_region import (
    SIMPLEX_GRID,
    draw_collapse,
    draw_likeliest,
    draw_lower_bound,
    draw_plane,
    draw_promise,
    draw_quadrants,
    draw_simplex,
)
from rlhf_lessons.evaluation import estimate_mean, step_to_kl, surrogate_bound
from rlhf_lessons.models import ResponseTree
from rlhf_lessons.worlds import OPINION_LENGTH, OPINION_WORDS, opinion_habits, opinion_score

torch.set_num_threads(1)  # the same numbers on every run
torch.set_default_dtype(torch.float64)
use_style()

# %% [markdown]
# ## 1 · A world where the truth can be summed
#
# Six words, at most four tokens, 1,555 responses: the opinions of lesson 4. The score of each
# response is known, so J(π), the expected score, is a sum and not an estimate.
#
# A table with a row for each of the 259 prefixes could learn every response by itself. Networks
# can't: their weights are **shared** between situations. So our writer looks at the *last word*
# only. It has 7 rows of logits, and what it learns about "very" in one text holds in all texts.

# %% kind="setup"
tree = ResponseTree(OPINION_WORDS, OPINION_LENGTH)
rewards = torch.from_numpy(opinion_score([""] * len(tree.responses), tree.responses))

LAST_WORDS = ("", *OPINION_WORDS)
last_word = torch.tensor(
    [LAST_WORDS.index(prefix.split()[-1] if prefix else "") for prefix in tree.prefixes]
)
start = torch.from_numpy(opinion_habits(LAST_WORDS)).log()  # (7, 7): last word, next action


def whole(theta: Tensor) -> Tensor:
    """Write a table over last words (..., 7, 7) as one over all prefixes (..., N, A)."""
    return theta[..., last_word, :]


def true_objective(theta: Tensor) -> Tensor:
    """Sum J: the expected score over all responses."""
    return (tree.response_log_probs(whole(theta)).exp() * rewards).sum(-1)


def exact_kl(old_theta: Tensor, theta: Tensor) -> Tensor:
    """Sum KL(π_old ‖ π) over all responses, in nats per response."""
    return tree.kl(whole(old_theta), whole(theta))


# %%
print(tree)
log_p = tree.response_log_probs(whole(start))
for index in log_p.topk(4).indices.tolist():
    print(f"  π {float(log_p[index].exp()):.3f}  score {float(rewards[index]):+.2f}  "
          f"{tree.responses[index]!r}")  # fmt: skip
best = int(rewards.argmax())
print(f"expected score J = {float(true_objective(start)):.3f}; the best response scores "
      f"{float(rewards[best]):.2f}: {tree.responses[best]!r}")  # fmt: skip

# %% [markdown]
# ## 2 · Promise and truth
#
# To know J of a new policy we would have to sample from it. All we have are samples, and so
# advantages, of the **old** policy. What they promise is the **surrogate**:
#
# $$L(\pi) = J(\pi_\text{old}) + \sum_s d_\text{old}(s) \sum_a \pi(a \mid s)\, A_\text{old}(s, a)$$
#
# $d_\text{old}(s)$ is the probability that a response of the old policy passes through the prefix
# s. PPO's mean of ρ·A over samples estimates the double sum. Written with the visits $d_\pi$ of the
# *new* policy, the same sum would be exact: $J(\pi) = J(\pi_\text{old}) + \sum_s d_\pi(s) \sum_a
# \pi(a \mid s) A_\text{old}(s, a)$ (Kakade and Langford 2002). So the surrogate makes one mistake:
# it judges the new policy in the places where the old one used to be.
#
# ### Exercise 5.1 · Surrogate and truth
#
# ●●○ · 15 minutes · 3 points
#
# Write both, for one policy on a tree of responses. The tree does the summing:
# `tree.reach(logits)` gives d(s), shape (N,); `tree.evaluate(logits, rewards)` gives `.v` (N,) and
# `.advantage` (N, A); prefix 0 is the empty one, so `.v[0]` is J; `tree.response_log_probs(logits)`
# gives log π(y) of all responses, (Y,).
#
# *Why both?* Their difference is what this lesson is about. At π = π_old they agree, in value and
# in gradient, which is why the policy gradient works at all.
#
# <details><summary>Hint 1</summary>
#
# Everything about visits and advantages comes from `old_logits`; only the probabilities π(a | s)
# come from `logits`. Don't forget to add J(π_old): the double sum is the promised *gain*.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `visits[:, None] * logits.softmax(-1) * old.advantage`, summed over both axes. The truth is
# `(tree.response_log_probs(logits).exp() * rewards).sum()`.
#
# </details>


# %% kind="exercise" exercise="5.1"
def surrogate_and_true(
    tree: ResponseTree, old_logits: Tensor, logits: Tensor, rewards: Tensor
) -> tuple[Tensor, Tensor]:
    """Give what the old policy's advantages promise for a new policy, and what is true.

    Args:
        tree: all responses there are.
        old_logits: (N, A) the policy that sampled; numbers, without gradient.
        logits: (N, A) the policy to judge, with gradient.
        rewards: (Y,) reward of every response.

    Returns:
        Two numbers, the surrogate L and the true J, in the unit of the rewards.
    """
    ### BEGIN SOLUTION
    old = tree.evaluate(old_logits, rewards)
    visits = tree.reach(old_logits)
    gain = (visits[:, None] * logits.softmax(-1) * old.advantage).sum()
    true = (tree.response_log_probs(logits).exp() * rewards).sum()
    return old.v[0] + gain, true
    ### END SOLUTION


# %% kind="check" exercise="5.1"
check("5.1", surrogate_and_true)

# %% [markdown]
# First the sentence about the visits: with those of the new policy in the place of the old ones,
# the sum is J, for a policy far away too.

# %%
surrogate_and_true = yours("5.1", surrogate_and_true)

old = whole(start)
advantage = tree.evaluate(old, rewards).advantage
far = whole(start + torch.randn(7, 7, generator=torch.Generator().manual_seed(0)))
exactly = true_objective(start) + (tree.reach(far)[:, None] * far.softmax(-1) * advantage).sum()
promise, truth = map(float, surrogate_and_true(tree, old, far, rewards))
print(f"true J {truth:.4f}, by visits of the new policy {float(exactly):.4f}, of the old one "
      f"{promise:.4f}")  # fmt: skip
assert abs(float(exactly) - truth) < 1e-12 < abs(promise - truth)

# %% [markdown]
# Now walk. The direction raises each logit by its *average advantage*: how much better the action
# is than usual, averaged over the prefixes with this last word. It is a good direction, the best
# there is for a short step, as section 7 shows.
#
# *Predict, then run:* the promise grows all along the way. What does the truth do?

# %% figure="05_promise"
visits = tree.reach(old)
visits_of = torch.zeros(7).index_add(0, last_word, visits)  # per response, for each last word
direction = torch.zeros(7, 7).index_add(0, last_word, visits[:, None] * advantage)
direction = direction / visits_of[:, None]

kls = [0.0, 0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0]
thetas = [
    start + (step_to_kl(tree, old, whole(direction), kl) if kl else 0) * direction for kl in kls
]
promised, true = zip(
    *(map(float, surrogate_and_true(tree, old, whole(theta), rewards)) for theta in thetas),
    strict=True,
)
gaps = [abs(p - t) for p, t in zip(promised, true, strict=True)]

draw_promise(kls, promised, true)
plt.show()

for kl, p, t in zip(kls, promised, true, strict=True):
    if kl in (0.0, 0.01, 0.1, 1.0, 4.0):
        print(f"KL {kl:4.2f}: promised {p:+.3f}, true {t:+.3f}, gap {abs(p - t):.3f}")
assert gaps[0] < 1e-12
assert all(a < b for a, b in zip(gaps, gaps[1:], strict=False))  # the gap grows with the KL

place = tree.prefixes.index("great and great")
reached_by = [float(tree.reach(whole(theta))[place]) for theta in (start, thetas[-1])]
print(f"responses that begin with 'great and great': old policy {reached_by[0]:.2%}, "
      f"at {kls[-1]:g} nats {reached_by[1]:.2%}")  # fmt: skip
assert reached_by[1] > 10 * reached_by[0]

# %% [markdown]
# Near the old policy the two can't be told apart; at 4 nats more than a third of the promised gain
# is not there. The gap grows with every step along the KL. Why? The surrogate raised "great" after
# every word, judged by the prefixes of the old policy. But where "great" has become likely
# everywhere, "great and great" is written, which the old policy hardly ever did. The places have
# changed.
#
# ## 3 · A promise one can rely on
#
# How wrong can the surrogate be? Let α be the largest **total variation** between the next-token
# distributions of the two policies, $\text{TV} = \frac{1}{2} \sum_a |\pi(a \mid s) -
# \pi_\text{old}(a \mid s)|$, over all prefixes s, and $\varepsilon_A = \max |A_\text{old}|$.
#
# - After t tokens the two policies have parted with probability at most t·α, so the chances of all
#   prefixes differ, summed, by at most 2tα.
# - A policy's own advantages average to 0, so the promised gain at a prefix is $\sum_a \pi A_\text{old}
#   = \sum_a (\pi - \pi_\text{old}) A_\text{old}$, at most $2\alpha\varepsilon_A$.
# - Sum over the tokens t = 0, …, L − 1:
#
# $$|J(\pi) - L(\pi)| \le \sum_{t=0}^{L-1} 2t\alpha \cdot 2\alpha\varepsilon_A
# = 4\,\varepsilon_A\,\alpha^2\,\frac{L(L-1)}{2}$$
#
# This is TRPO's theorem 1 (Schulman et al. 2015) for responses of at most L tokens. The gap is of
# *second* order in α, the promised gain of first: short steps can be relied on. What is left,
# $J \ge L - $ bound, is the **pessimistic lower bound**. Pinsker's inequality $\alpha^2 \le
# \frac{1}{2} \text{KL}$ turns it into a price on the KL: TRPO's, and the idea of every KL penalty.
#
# ### Exercise 5.2 · The worst gap
#
# ●●○ · 10 minutes · 3 points
#
# Compute the bound: $2\,\varepsilon_A\,\alpha^2\,L(L-1)$, with L = `tree.longest`.
#
# <details><summary>Hint 1</summary>
#
# One total variation per prefix: half the sum of absolute differences of *probabilities*. Then the
# largest of the 259.
#
# </details>
# <details><summary>Hint 2</summary>
#
# $\varepsilon_A$ is the largest *absolute* advantage, of the old policy:
# `tree.evaluate(old_logits, rewards).advantage.abs().max()`.
#
# </details>


# %% kind="exercise" exercise="5.2"
def worst_gap(tree: ResponseTree, old_logits: Tensor, logits: Tensor, rewards: Tensor) -> Tensor:
    """Bound how far the surrogate can lie from the truth, by the largest total variation.

    Args:
        tree: all responses there are; L is ``tree.longest``.
        old_logits: (N, A) the policy that sampled.
        logits: (N, A) the policy to judge.
        rewards: (Y,) reward of every response.

    Returns:
        One number, in the unit of the rewards.
    """
    ### BEGIN SOLUTION
    variation = 0.5 * (logits.softmax(-1) - old_logits.softmax(-1)).abs().sum(-1)
    largest_advantage = tree.evaluate(old_logits, rewards).advantage.abs().max()
    steps = tree.longest * (tree.longest - 1)
    return 2 * largest_advantage * variation.max().square() * steps
    ### END SOLUTION


# %% kind="check" exercise="5.2"
check("5.2", worst_gap)

# %% [markdown]
# **Claim: the gap never exceeds the bound.** Along the direction above, and for 300 policies drawn
# at random, near and far. The package also has a sharper bound that weighs each prefix by how often
# it is visited (after Achiam et al. 2017); it stands beside yours.

# %%
worst_gap = yours("5.2", worst_gap)

generator = torch.Generator().manual_seed(0)
shares = []
for number in range(300):
    size = 10 ** (-2 + 3 * number / 299)  # from hardly moved to unrecognisable
    theta = start + size * torch.randn(7, 7, generator=generator)
    promise, truth = surrogate_and_true(tree, old, whole(theta), rewards)
    gap, bound = abs(float(promise - truth)), float(worst_gap(tree, old, whole(theta), rewards))
    packaged = surrogate_bound(tree, old, whole(theta), rewards)
    sharper, by_kl = float(packaged.by_visits), float(packaged.by_kl)
    shares.append((gap / bound, gap / sharper))
    assert gap <= sharper <= bound <= by_kl + 1e-12  # the last one is Pinsker's inequality
mean_share, mean_sharper = np.mean(shares, axis=0)
print(f"300 random policies: the gap is {mean_share:.1%} of the bound on average, "
      f"{max(s for s, _ in shares):.1%} at most")  # fmt: skip
print(f"of the sharper bound: {mean_sharper:.1%} on average, "
      f"{max(s for _, s in shares):.1%} at most")  # fmt: skip
for theta, gap in zip(thetas, gaps, strict=True):
    assert gap <= float(worst_gap(tree, old, whole(theta), rewards)) + 1e-12

# %% figure="05_lower_bound"
near = [0.0] + [10**power for power in np.linspace(-4, math.log10(0.06), 25)]
lines = {"promised: L": [], "true: J": [], "bound by visits": [], "your bound": []}
for kl in near:
    theta = start + (step_to_kl(tree, old, whole(direction), kl) if kl else 0) * direction
    promise, truth = map(float, surrogate_and_true(tree, old, whole(theta), rewards))
    lines["promised: L"].append(promise)
    lines["true: J"].append(truth)
    sharper = surrogate_bound(tree, old, whole(theta), rewards).by_visits
    lines["bound by visits"].append(promise - float(sharper))
    lines["your bound"].append(promise - float(worst_gap(tree, old, whole(theta), rewards)))

draw_lower_bound(near, lines, start=true[0])
plt.show()

guaranteed = {}
for name in ("your bound", "bound by visits"):
    top = int(np.argmax(lines[name]))
    guaranteed[name] = lines[name][top] - true[0]
    print(f"{name:<16} guarantees most at KL {near[top]:.4f}: a gain of {guaranteed[name]:.3f} "
          f"(true there: {lines['true: J'][top] - true[0]:.3f})")  # fmt: skip
    for bound, truth in zip(lines[name], lines["true: J"], strict=True):
        assert bound <= truth + 1e-12
assert 0 < guaranteed["your bound"] < guaranteed["bound by visits"]

# %% [markdown]
# Maximise the lower curve and every step is an improvement, *guaranteed*. But the guarantee is for
# the worst world there can be, and its steps are tiny: the truth rises on, long after the bound has
# fallen below the start. That is why nobody trains with the bound. All practical methods keep its
# message, *stay near the policy that sampled*, and choose the size of the region by trial: a clip
# range ε, a price on the KL, or a limit δ.
#
# ## 4 · The clip: four quadrants
#
# PPO builds the region into the objective of each token, with $\rho = \pi/\pi_\text{old}$:
#
# $$\min\big(\rho A,\ \text{clip}(\rho, 1-\varepsilon, 1+\varepsilon)\,A\big)$$
#
# The **min** takes the lower of two terms, so it never promises more than either. What that does to
# the gradient depends on the sign of A and on the side of ρ.
#
# *Predict before you go on:* of the four quadrants outside the range (A above or below 0, ρ too
# high or too low), in which is the gradient 0? Two of the four. Which, and why not the others?
#
# ### Exercise 5.3 · Four quadrants
#
# ●●○ · 12 minutes · 3 points
#
# Give the gradient of the objective with respect to log π, for each token, without autograd. Since
# $\partial\rho/\partial\log\pi = \rho$, it is ρ·A where the unclipped term counts, and **exactly
# 0** where the clipped one does.
#
# *Why by hand?* Whoever knows where the gradient vanishes can read a training log.
#
# <details><summary>Hint 1</summary>
#
# A good action (A > 0) that is already much likelier has nothing more to gain. A good action that
# has become *less* likely, by accident, must be able to come back: there the unclipped term is the
# lower one.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Stopped: A > 0 and ρ > 1 + ε, or A < 0 and ρ < 1 − ε. `torch.where(stopped, 0.0, ratios *
# advantages)`.
#
# </details>


# %% kind="exercise" exercise="5.3"
def clipped_gradient(ratios: Tensor, advantages: Tensor, epsilon: float) -> Tensor:
    """Give the gradient of PPO's clipped objective with respect to log π, for each token.

    Args:
        ratios: (...) ρ = π / π_old of the tokens, above 0, none exactly at the edge of the range.
        advantages: (...) advantage A of each token.
        epsilon: clip range ε above 0.

    Returns:
        (...) gradients, 0 where the clip holds.
    """
    ### BEGIN SOLUTION
    stopped = (advantages > 0) & (ratios > 1 + epsilon)
    stopped |= (advantages < 0) & (ratios < 1 - epsilon)
    return torch.where(stopped, 0.0, ratios * advantages)
    ### END SOLUTION


# %% kind="check" exercise="5.3"
check("5.3", clipped_gradient)

# %% figure="05_quadrants"
clipped_gradient = yours("5.3", clipped_gradient)

EPSILON = 0.2
ratios = torch.linspace(0.405, 1.595, 120)
by_advantage = {}
for sign in (1.0, -1.0):
    advantages = torch.full_like(ratios, sign)
    objective = -formulas.ppo_policy_loss(
        ratios.log()[None], torch.zeros_like(ratios)[None], advantages[None], EPSILON
    )[0]
    by_advantage[sign] = objective, clipped_gradient(ratios, advantages, EPSILON)
draw_quadrants(ratios, by_advantage, EPSILON)
plt.show()

# %% [markdown]
# The shaded strip is the clip range. Each objective is flat on one side of it, and only on one.
#
# **Claim: where the clip holds, the gradient is exactly 0**; not small, zero. Autograd on the
# package's loss agrees with your function at all tokens, in all quadrants.

# %%
generator = torch.Generator().manual_seed(1)
log_ratio = 0.5 * torch.randn(1, 4_000, generator=generator)
advantages = torch.randn(1, 4_000, generator=generator)
log_probs = log_ratio.clone().requires_grad_()
losses = formulas.ppo_policy_loss(log_probs, torch.zeros_like(log_ratio), advantages, EPSILON)
(slope,) = torch.autograd.grad(-losses.sum(), log_probs)
by_hand = clipped_gradient(log_ratio.exp(), advantages, EPSILON)
assert torch.allclose(slope, by_hand, atol=1e-12)

rho = log_ratio.exp()
for sign, is_sign in (("A > 0", advantages > 0), ("A < 0", advantages < 0)):
    for side, is_side in (("ρ < 1 − ε", rho < 1 - EPSILON), ("ρ > 1 + ε", rho > 1 + EPSILON)):
        here = is_sign & is_side
        zeros = int((slope[here] == 0).sum())
        print(f"{sign}, {side}: {int(here.sum()):4} tokens, gradient exactly 0 at {zeros}")
        should = (sign == "A > 0") == (side == "ρ > 1 + ε")
        assert zeros == (int(here.sum()) if should else 0)

# %% [markdown]
# The clip stops a good action that went up, and a bad one that went down. In the other two
# quadrants the policy has moved *against* its advantages, and the gradient leads it back.
#
# ### Exercise 5.4 · Clip fraction
#
# ●○○ · 6 minutes · 2 points
#
# The first number to watch in a PPO log: the share of counted tokens whose gradient the clip has
# set to 0. Near 0: the steps are so short that the clip has no work. Above a third: a large part of
# the batch has no more say. A mean needs numbers, not booleans: give it in the dtype of the
# log-probabilities, `.to(log_probs.dtype)`.
#
# <details><summary>Hint 1</summary>
#
# The two quadrants of exercise 5.3, then a mean over the tokens where the mask is True.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `stopped[mask].to(log_probs.dtype).mean()`. The ratio is `exp(log_probs - old_log_probs)`; in the padding it
# may be NaN, and `[mask]` leaves it behind.
#
# </details>


# %% kind="exercise" exercise="5.4"
def clip_fraction(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float
) -> Tensor:
    """Give the share of counted tokens whose gradient the clip has set to 0.

    Args:
        log_probs: (B, T) log-probabilities under the policy in training.
        old_log_probs: (B, T) log-probabilities under the policy that sampled.
        advantages: (B, T) advantage of each token.
        mask: (B, T) boolean, True = a token of a response; elsewhere anything may stand.
        epsilon: clip range ε above 0.

    Returns:
        () share in [0, 1], in the dtype of the log-probabilities.
    """
    ### BEGIN SOLUTION
    ratios = (log_probs - old_log_probs).exp()
    stopped = (advantages > 0) & (ratios > 1 + epsilon)
    stopped |= (advantages < 0) & (ratios < 1 - epsilon)
    return stopped[mask].to(log_probs.dtype).mean()
    ### END SOLUTION


# %% kind="check" exercise="5.4"
check("5.4", clip_fraction)

# %% [markdown]
# ## 5 · One batch, many epochs
#
# Now a training loop, small enough to read. A judge scores 64 sampled responses, with **noise**:
# every judge that is not a formula gives two readings of one text two scores. As advantage each
# token gets the whitened score of its response. An *epoch* is one step on the whole batch.
#
# All methods of this lesson are one loop with different **weights** w: the gradient is the mean of
# $w \cdot \nabla \log \pi$ over tokens.
#
# | method | weight of a token | |
# | --- | --- | --- |
# | no limit | $\rho A$ | |
# | clip | `clipped_gradient(ρ, A, ε)` | PPO |
# | KL penalty | $\rho A - \beta (\rho - 1)$ | $\rho - 1$ is the gradient, in log π, of $\rho - 1 - \log\rho$, the k3 of section 6 |
# | KL early stop | $\rho A$, until the KL is above a limit | |
#
# Chance decides much with 64 noisy scores, so everything runs with twelve seeds side by side: the
# first axis of each tensor is the seed.

# %% kind="setup"
SEEDS, RESPONSES, NOISE = 12, 64, 1.5


@dataclass(frozen=True)
class Batch:
    """What twelve policies wrote and how it was judged; S seeds, B responses, T tokens."""

    theta: Tensor  # (S, 7, 7) the policies that wrote
    before: Tensor  # (S, B, T) last word before each token
    actions: Tensor  # (S, B, T) the tokens
    mask: Tensor  # (S, B, T) True = a token of the response
    old_log_probs: Tensor  # (S, B, T)
    advantages: Tensor  # (S, B, T) whitened score of the response, the same for all its tokens


def log_probs_of(theta: Tensor, before: Tensor, actions: Tensor) -> Tensor:
    """Look up log π(a | last word) of each token, for each seed."""
    seed = torch.arange(len(theta))[:, None, None]
    return theta.log_softmax(-1)[seed, before, actions]


def sample(theta: Tensor, responses: int, generator: torch.Generator) -> Batch:
    """Let every policy write responses, and judge them with noise."""
    p = tree.response_log_probs(whole(theta)).exp()
    y = torch.multinomial(p, responses, replacement=True, generator=generator)
    scores = rewards[y] + NOISE * torch.randn(y.shape, generator=generator)
    white = scores - scores.mean(1, keepdim=True)
    white = white / scores.std(1, keepdim=True).clamp(min=1e-6)
    before, actions = last_word[tree.path_prefixes[y]], tree.path_actions[y]
    return Batch(
        theta=theta.clone(),
        before=before,
        actions=actions,
        mask=tree.path_mask[y],
        old_log_probs=log_probs_of(theta, before, actions),
        advantages=white[..., None].expand(actions.shape),
    )


# %% [markdown]
# The update itself: Adam on one batch, with any weight, and with a rule to stop if there is one.


# %% kind="setup"
def improve(batch: Batch, weight, epochs: int, step_size: float = 0.05, stop=None):
    """Take Adam steps on one batch; yield the policies (S, 7, 7) after each epoch.

    A seed for which ``stop(log_probs, old_log_probs, mask)`` is true takes no further step.
    """
    theta = batch.theta.clone().requires_grad_()
    optimiser = torch.optim.Adam([theta], lr=step_size)
    going = torch.ones(len(theta), dtype=torch.bool)
    for _ in range(epochs):
        log_probs = log_probs_of(theta, batch.before, batch.actions)
        if stop is not None:
            measured = zip(log_probs.detach(), batch.old_log_probs, batch.mask, strict=True)
            going &= ~torch.tensor([bool(stop(*seed)) for seed in measured])
        ratios = (log_probs.detach() - batch.old_log_probs).exp()
        weights = weight(ratios, batch.advantages).masked_fill(~batch.mask, 0.0)
        gain = ((weights * log_probs).sum((1, 2)) / batch.mask.sum((1, 2))).sum()
        optimiser.zero_grad()
        (-gain).backward()
        before_step = theta.detach().clone()
        optimiser.step()
        with torch.no_grad():
            theta[~going] = before_step[~going]
        yield theta.detach().clone()


def clip_weight(epsilon: float):
    """Weight each token as the clipped objective does."""
    return lambda ratios, advantages: clipped_gradient(ratios, advantages, epsilon)


def no_limit(ratios: Tensor, advantages: Tensor) -> Tensor:
    """Weight each token as the surrogate does."""
    return ratios * advantages


twelve = start.expand(SEEDS, -1, -1)

# %% [markdown]
# **What the clip does not guarantee.** It is often said to keep the ratios inside [1 − ε, 1 + ε].
#
# *Predict, then run:* after 30 epochs with ε = 0.2, how many ratios lie outside? The cell runs the
# same batches with three step sizes.

# %%
clip_fraction = yours("5.4", clip_fraction)

batch = sample(twelve, RESPONSES, torch.Generator().manual_seed(0))
outside, moved = {}, {}
for step_size in (0.01, 0.05, 0.2):
    *_, theta = improve(batch, clip_weight(EPSILON), epochs=30, step_size=step_size)
    log_probs = log_probs_of(theta, batch.before, batch.actions)
    ratios = (log_probs - batch.old_log_probs).exp()[batch.mask]
    outside[step_size] = float(((ratios - 1).abs() > EPSILON).double().mean())
    stopped = clip_fraction(*(
        x.flatten(0, 1) for x in (log_probs, batch.old_log_probs, batch.advantages, batch.mask)
    ), EPSILON)  # fmt: skip
    moved[step_size] = float(exact_kl(twelve, theta).mean())
    print(f"step size {step_size}: {outside[step_size]:4.0%} of the ratios lie outside, clip "
          f"fraction {float(stopped):4.0%}, largest ratio {float(ratios.max()):5.2f}, "
          f"KL {moved[step_size]:.3f}")  # fmt: skip
assert min(outside.values()) > 0.05 and moved[0.2] > 2 * moved[0.05]

# %% [markdown]
# Many do, and hardly more with a longer step: what grows with it is how *far* they lie outside, and
# the KL. The clip takes away the *reason* to go further, token by token. It does not hold a ratio
# back: tokens share weights, so a token that is stopped is moved along by others that are not; and
# a step begun inside may end far outside. The KL after the update is not set by ε alone. So measure
# it.
#
# ## 6 · How far did we go?
#
# ### Exercise 5.5 · Approximate KL
#
# ●●○ · 10 minutes · 3 points
#
# The tokens were sampled from $\pi_\text{old}$, so what they can estimate is
# $\text{KL}(\pi_\text{old} \,\|\, \pi)$. With $\rho = \pi/\pi_\text{old}$, per token:
#
# $$k_1 = -\log\rho \qquad k_2 = \tfrac{1}{2} (\log\rho)^2 \qquad k_3 = \rho - 1 - \log\rho$$
#
# Lesson 4 met them for π against the reference, with samples of π. The roles are swapped here, and
# so is the ratio. Under $\pi_\text{old}$ the mean of $\rho - 1$ is 0, so k1 and k3 have the same
# mean; k3 is never negative. Return the means over the counted tokens.
#
# <details><summary>Hint 1</summary>
#
# `log_rho = (log_probs - old_log_probs)[mask]` leaves a flat row of counted tokens, padding gone.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `-log_rho.mean()`, `0.5 * log_rho.square().mean()`, `(log_rho.exp() - 1 - log_rho).mean()`.
#
# </details>


# %% kind="exercise" exercise="5.5"
def approximate_kl(
    log_probs: Tensor, old_log_probs: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Estimate KL(π_old ‖ π) per token from tokens sampled by the old policy, in three ways.

    Args:
        log_probs: (B, T) log-probabilities under the policy in training.
        old_log_probs: (B, T) log-probabilities under the policy that sampled.
        mask: (B, T) boolean, True = a token of a response; elsewhere anything may stand.

    Returns:
        The means of k1, k2 and k3 over the counted tokens, in nats per token.
    """
    ### BEGIN SOLUTION
    log_rho = (log_probs - old_log_probs)[mask]
    k1 = -log_rho
    k2 = 0.5 * log_rho.square()
    k3 = log_rho.exp() - 1 - log_rho
    return k1.mean(), k2.mean(), k3.mean()
    ### END SOLUTION


# %% kind="check" exercise="5.5"
check("5.5", approximate_kl)

# %% [markdown]
# How good are they? Take a policy after 30 epochs, draw 200 new batches of the old policy, and
# compare with the exact KL per token (KL per response over tokens per response).

# %%
approximate_kl = yours("5.5", approximate_kl)

*_, theta = improve(batch, clip_weight(EPSILON), epochs=30)
new = theta[:1]  # the policy of the first seed
tokens_per_response = float(tree.reach(old).sum())
exact = float(exact_kl(start, new[0])) / tokens_per_response
generator = torch.Generator().manual_seed(2)
estimates = []
for _ in range(200):
    fresh = sample(start[None], RESPONSES, generator)
    log_probs = log_probs_of(new, fresh.before, fresh.actions)
    ks = approximate_kl(log_probs[0], fresh.old_log_probs[0], fresh.mask[0])
    estimates.append([float(k) for k in ks])
means, spreads = np.mean(estimates, axis=0), np.std(estimates, axis=0, ddof=1)
print(f"exact KL per token {exact:.4f}")
for name, mean, spread in zip(("k1", "k2", "k3"), means, spreads, strict=True):
    print(f"{name}: mean of 200 batches {mean:.4f}, one batch is off by {spread:.4f} (std)")
negative = np.mean([k1 < 0 for k1, _, _ in estimates])
print(f"k1 says that the KL is negative in {negative:.0%} of the batches")
for k in (0, 2):
    assert abs(means[k] - exact) < 4 * spreads[k] / math.sqrt(200)
assert means[1] - exact > 3 * spreads[1] / math.sqrt(200)  # k2 is biased
assert spreads[2] < spreads[0] / 2 and 0.35 * exact < spreads[0] < 0.55 * exact

# The same on the batch that was trained on, for all twelve policies.
log_probs = log_probs_of(theta, batch.before, batch.actions)
used = np.array([
    float(approximate_kl(*seed)[2])
    for seed in zip(log_probs, batch.old_log_probs, batch.mask, strict=True)
])  # fmt: skip
there = exact_kl(twelve, theta).numpy() / tokens_per_response
print(f"twelve policies on the batch that trained them: mean k3 {used.mean():.4f}, exact KL "
      f"{there.mean():.4f}; k3 is too low for {int((used < there).sum())}")  # fmt: skip
assert estimate_mean(used - there).interval()[1] < 0

# %% [markdown]
# k1 and k3 have the right mean; k2 is as sharp as k3, and a little too high. One batch of k1 is off
# by almost half of what it measures, and may even be negative; k3 is several times sharper at no
# cost. That is what a rule to stop should look at.
#
# One warning: the 200 batches were *fresh*. On the batch that was trained on, the policy has
# adapted to exactly those tokens, and k3 comes out too low (last line): for each of the twelve, and
# by more than a quarter in the mean. A rule to stop sees that batch, so its limit holds in k3, not
# in KL.
#
# ### Exercise 5.6 · Stop in time
#
# ●●○ · 8 minutes · 3 points
#
# A **KL early stop** measures before each step and takes no more steps once the policy has left the
# region: when the mean k3 is above `max_kl`. Stop as well when the KL is *not a number*: then the
# policy is broken, and one more step won't mend it.
#
# <details><summary>Hint 1</summary>
#
# Any comparison with NaN is False. Which question must be False in order to stop?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `return not kl <= max_kl`, with `kl = float(k3.mean())`.
#
# </details>


# %% kind="exercise" exercise="5.6"
def should_stop(log_probs: Tensor, old_log_probs: Tensor, mask: Tensor, max_kl: float) -> bool:
    """Say whether the update has left the trust region.

    Args:
        log_probs: (B, T) log-probabilities under the policy in training.
        old_log_probs: (B, T) log-probabilities under the policy that sampled.
        mask: (B, T) boolean, True = a token of a response; elsewhere anything may stand.
        max_kl: the limit on the mean k3, in nats per token.

    Returns:
        True to stop: the KL is above the limit, or is NaN.
    """
    ### BEGIN SOLUTION
    log_rho = (log_probs - old_log_probs)[mask]
    kl = float((log_rho.exp() - 1 - log_rho).mean())
    return not kl <= max_kl
    ### END SOLUTION


# %% kind="check" exercise="5.6"
check("5.6", should_stop)

# %%
should_stop = yours("5.6", should_stop)


def stop_at(max_kl: float):
    """Stop a seed when its mean k3 is above the limit."""
    return lambda log_probs, old, mask: should_stop(log_probs, old, mask, max_kl)


for limit in (0.01, 0.03, 0.1):
    path = torch.stack([twelve, *improve(batch, no_limit, epochs=30, stop=stop_at(limit))])
    steps = (path.diff(dim=0).abs().amax((2, 3)) > 0).sum(0).double()
    log_probs = log_probs_of(path[-1], batch.before, batch.actions)
    k3 = [
        float(approximate_kl(*seed)[2])
        for seed in zip(log_probs, batch.old_log_probs, batch.mask, strict=True)
    ]
    print(f"limit {limit}: {float(steps.mean()):4.1f} steps of 30, mean k3 {np.mean(k3):.4f}")
    assert steps.max() < 30 and min(k3) > limit

# %% [markdown]
# The last step ends a little outside, since the rule looks before it steps. A short step size keeps
# the overshoot small.
#
# ## 7 · A step measured in KL
#
# Why take thirty small steps if we know where the region ends? To first order the gain of a step Δ
# in the logits is $g^\top \Delta$, with g the gradient; to second order its KL is $\frac{1}{2}
# \Delta^\top F \Delta$, with F the **Fisher information**, the curvature of the KL. The best step
# with a KL of δ is the **natural gradient** step:
#
# $$\Delta = \eta\, x, \qquad F x = g, \qquad \eta = \sqrt{\frac{2\delta}{g^\top x}}$$
#
# For a table of softmaxes F has one block per state, $d(s) \big(\text{diag}(\pi) - \pi
# \pi^\top\big)$. It maps a constant to 0, so it has no inverse, and $F x = g$ has many solutions;
# they differ by a constant per row, which softmax ignores. One of them is a division:
#
# $$x(s, a) = \frac{g(s, a)}{d(s)\, \pi(a \mid s)}$$
#
# To see it multiply: $F x = g - \pi \sum_a g$, and the rows of g add up to 0.
#
# With the exact gradient $g = d\,\pi\,A$ this is $x = A$: *raise each logit by its advantage*, our
# direction of section 2. TRPO takes this step for networks, where F is too large to invert, and
# finds x by conjugate gradients.
#
# ### Exercise 5.7 · The natural step
#
# ●●● · 15 minutes · 4 points
#
# Give the new logits. One η for all states: δ is the KL of the *whole* step, per response. A state
# that was never visited (d = 0, so g = 0) keeps its logits. Where g is 0 everywhere nothing changes:
# then give back a *copy* of the logits, a new tensor with the same numbers. Whoever goes on training
# the new policy would otherwise change the old one with it.
#
# <details><summary>Hint 1</summary>
#
# `information = visits[:, None] * logits.softmax(-1)`, then `torch.where(information > 0, gradient
# / information, 0.0)`: the quotient 0/0 is computed, and not taken.
#
# </details>
# <details><summary>Hint 2</summary>
#
# $g^\top x$ is one number, `(gradient * x).sum()`, and not negative. If it is 0 return
# `logits.clone()`.
#
# </details>


# %% kind="exercise" exercise="5.7"
def natural_step(logits: Tensor, gradient: Tensor, visits: Tensor, max_kl: float) -> Tensor:
    """Take the step that gains most among those δ away in KL.

    Args:
        logits: (N, A) the policy, one softmax per state.
        gradient: (N, A) gradient of the objective in the logits; its rows add up to 0.
        visits: (N,) how often a response visits each state, d(s), 0 or more.
        max_kl: δ, the KL to go, in nats per response.

    Returns:
        (N, A) the new logits, a tensor of its own.
    """
    ### BEGIN SOLUTION
    information = visits[:, None] * logits.softmax(-1)
    x = torch.where(information > 0, gradient / information, 0.0)
    slope = (gradient * x).sum()
    if slope == 0:
        return logits.clone()
    return logits + (2 * max_kl / slope).sqrt() * x
    ### END SOLUTION


# %% kind="check" exercise="5.7"
check("5.7", natural_step)

# %%
natural_step = yours("5.7", natural_step)

theta = start.clone().requires_grad_()
(exact_gradient,) = torch.autograd.grad(true_objective(theta), theta)
step = natural_step(start, exact_gradient, visits_of, 0.01) - start
scale = float((step * direction).sum() / (direction * direction).sum())
print(f"the natural step is {scale:.4f} times the average advantage, up to "
      f"{float((step - scale * direction).abs().max()):.1e}")  # fmt: skip
assert torch.allclose(step, scale * direction, atol=1e-10)

for max_kl in (0.001, 0.01, 0.1, 1.0, 4.0):
    kl = float(exact_kl(start, natural_step(start, exact_gradient, visits_of, max_kl)))
    print(f"asked for a KL of {max_kl:5.3f}, came out at {kl:.4f}")
    assert abs(kl / max_kl - 1) < 0.02 if max_kl <= 1 else abs(kl / max_kl - 1) > 0.05

plain = start + step_to_kl(tree, old, whole(exact_gradient), 0.1) * exact_gradient
natural = start + step_to_kl(tree, old, whole(direction), 0.1) * direction
gains = [float(true_objective(theta) - true_objective(start)) for theta in (plain, natural)]
print(f"gain at a KL of 0.1: plain gradient {gains[0]:.3f}, natural gradient {gains[1]:.3f}")
assert gains[1] > gains[0]

# %% [markdown]
# Up to a nat the KL comes out as asked, within two percent; at 4 nats it no longer does, since the
# quadratic is only an approximation. TRPO therefore follows it with a **line search**, halving the
# step until KL and gain are as they should be (`evaluation.step_to_kl` searches exactly). And with
# exact gradients the natural direction gains a fifth more for its KL than the plain one: it does not
# shy away from rare actions, whose plain gradient is small because they are rare.
#
# ### The whole picture for three actions
#
# A policy over three actions is a point in a triangle. The corners are the sure choices; shaded
# bands are the levels of the clipped objective, lighter is better; the solid outline is the clip
# range of all three ratios; the dashed oval is the policies at KL δ = ε²/2. Your `clipped_gradient`
# walks the path, your `natural_step` jumps to the diamond.
#
# Drag ε: where does the path stop, and is that inside? Take the limit away: where does it go?

# %%
NAMES = ("bad", "good", "great")
WRITERS = {
    "mostly bad": torch.tensor([0.42, 0.33, 0.25]),
    "hardly ever great": torch.tensor([0.48, 0.46, 0.06]),
}
SCORES = torch.tensor([-1.0, 1.0, 2.0])


def clipped_value(policies, writer, advantages, epsilon):
    """Sum the clipped objective over the three actions, for policies (..., 3)."""
    rho = policies / writer
    clipped = rho.clamp(1 - epsilon, 1 + epsilon)
    return (writer * torch.minimum(rho * advantages, clipped * advantages)).sum(-1)


# %%
def show_simplex(figure, writer, limit, epsilon, epochs):
    old_policy, delta = WRITERS[writer], epsilon**2 / 2
    epsilon_used = epsilon if limit == "clip" else 1e9
    advantages = SCORES - (old_policy * SCORES).sum()
    logits, path = old_policy.log(), [old_policy]
    for _ in range(epochs):
        p = logits.softmax(-1)
        weights = old_policy * clipped_gradient(p / old_policy, advantages, epsilon_used)
        logits = logits + 0.1 * (weights - p * weights.sum())
        path.append(logits.softmax(-1))
    gradient = (old_policy * advantages)[None]
    jump = natural_step(old_policy.log()[None], gradient, torch.ones(1), delta)[0].softmax(-1)
    value = clipped_value(torch.from_numpy(SIMPLEX_GRID), old_policy, advantages, epsilon_used)

    kl = float((old_policy * (old_policy / path[-1]).log()).sum())
    largest = float((path[-1] / old_policy - 1).abs().max())
    draw_simplex(
        figure, names=NAMES, value=value.numpy(), old=old_policy.numpy(),
        path=torch.stack(path).numpy(), jump=jump.numpy(), epsilon=epsilon, delta=delta,
        title=f"KL {kl:.3f} after {epochs} epochs, largest |ρ − 1| = {largest:.2f}",
    )  # fmt: skip
    says = ", ".join(f"{n} {p:.2f}" for n, p in zip(NAMES, path[-1].tolist(), strict=True))
    return (
        f"Triangle of policies over bad, good and great; the old policy is {writer}. With "
        f"{limit}, ε {epsilon:.2f}, after {epochs} epochs the policy is {says}; KL {kl:.4f}."
    )


# %% figure="05_simplex"
explore(
    show_simplex,
    size=(7.4, 4.6),
    writer=Choice("old policy", list(WRITERS)),
    limit=Choice("limit", ["clip", "no limit"]),
    epsilon=Slider("ε", "clip range", minimum=0.05, maximum=0.8, value=0.3, step=0.01),
    epochs=Slider("E", "epochs on one batch", minimum=0, maximum=100, value=60),
    caption="The clip is a hexagon in ratios, the KL an oval: they agree on small steps and differ "
    "most where an action is rare.",
)

# %% [markdown]
# With the clip the path comes to rest where both good actions are at 1 + ε. That is *outside* the
# hexagon: "bad" has sunk below 1 − ε, though its own gradient has been 0 for long. The others push
# it, since probabilities add up to 1. Section 5 in three actions.
#
# Without the clip the path of the first writer goes on to the corner "great"; that of the second
# passes "good" first, and needs more epochs than the slider has. With exact advantages that is even
# right; section 10 shows what happens when they are estimated.
#
# For a rare action the two regions differ. The hexagon lets it grow by the same *factor* as the
# others, which is next to nothing; the oval gives it room.
#
# ## 8 · Four ways, side by side
#
# Clip, KL penalty, KL early stop, natural step: each has one knob. Turn it, and a method draws a
# curve in the plane of *KL spent* and *score reached*. All see the same batches: 12 seeds, noisy
# scores, 30 epochs of the same step size (the natural step takes one). Higher at the same KL is
# better.
#
# *Predict, then run:* in section 7 the natural step gained most. Will it with 64 noisy samples in
# the place of the exact gradient? And with 512?

# %% kind="train"
PENALTIES, LIMITS = (10.0, 3.0, 1.0, 0.5), (0.004, 0.015, 0.05, 0.12)
EPSILONS, RADII = (0.05, 0.1, 0.2, 0.3), (0.01, 0.04, 0.12, 0.25)


def last(path):
    """Run a path to its end."""
    *_, theta = path
    return theta


def penalty_weight(beta: float):
    """Weight each token as the surrogate less β times k3 does."""
    return lambda ratios, advantages: ratios * advantages - beta * (ratios - 1)


def natural_update(batch: Batch, max_kl: float) -> Tensor:
    """Take one natural step from the gradient and the visits that the batch shows."""
    theta = batch.theta.clone().requires_grad_()
    log_probs = log_probs_of(theta, batch.before, batch.actions)
    responses = batch.mask.shape[1]
    gain = (batch.advantages * log_probs).masked_fill(~batch.mask, 0.0).sum() / responses
    (gradients,) = torch.autograd.grad(gain, theta)
    seen = torch.zeros(len(theta), 7)
    seen.scatter_add_(1, batch.before.flatten(1), batch.mask.double().flatten(1))
    return torch.stack([
        natural_step(*seed, max_kl)
        for seed in zip(batch.theta, gradients, seen / responses, strict=True)
    ])  # fmt: skip


# %% kind="train"
METHODS = {
    "clip": lambda b: [last(improve(b, clip_weight(e), 30)) for e in EPSILONS],
    "KL penalty": lambda b: [last(improve(b, penalty_weight(p), 30)) for p in PENALTIES],
    "KL stop": lambda b: [last(improve(b, no_limit, 30, stop=stop_at(x))) for x in LIMITS],
    "natural step": lambda b: [natural_update(b, r) for r in RADII],
}
planes = {}
for responses in (64, 512):
    many = sample(twelve, responses, torch.Generator().manual_seed(3))
    planes[responses] = {
        name: [(exact_kl(twelve, theta), true_objective(theta)) for theta in run(many)]
        for name, run in METHODS.items()
    }


# %% figure="05_plane"
def spent_and_reached(points):
    """List mean KL, mean J and its interval at each setting of a knob, from the old policy on."""
    means = [(float(kl.mean()), estimate_mean(score)) for kl, score in points]
    rows = sorted((kl, mean.value, *mean.interval()) for kl, mean in means)
    return [(0.0, true[0], true[0], true[0]), *rows]


draw_plane({
    f"batches of {responses} noisy scores": {
        name: spent_and_reached(points) for name, points in methods.items()
    }
    for responses, methods in planes.items()
})  # fmt: skip
plt.show()

for methods in planes.values():
    for points in methods.values():
        assert all(estimate_mean(score).interval()[0] > true[0] for _, score in points)

# %% [markdown]
# To compare at one KL, read each seed's own curve at 0.1 nats:

# %%
AT = 0.1


def score_at(points, kl):
    """Read J at a KL off each seed's own curve."""
    spent = torch.stack([torch.zeros(SEEDS), *(k for k, _ in points)])
    scores = torch.stack([torch.full((SEEDS,), true[0]), *(j for _, j in points)])
    return np.array([
        np.interp(kl, *(x[spent[:, seed].argsort(), seed].numpy() for x in (spent, scores)))
        for seed in range(SEEDS)
    ])  # fmt: skip


reached = {
    responses: {name: score_at(points, AT) for name, points in methods.items()}
    for responses, methods in planes.items()
}
for responses, methods in reached.items():
    for name, scores in methods.items():
        low, high = estimate_mean(scores).interval()
        print(f"{responses:3} samples, KL {AT}: {name:<12} J = {scores.mean():+.3f} "
              f"[{low:+.3f}, {high:+.3f}]")  # fmt: skip
        assert low > true[0]
for name in ("clip", "KL penalty", "KL stop"):
    ahead = estimate_mean(reached[512]["natural step"] - reached[512][name])
    assert ahead.interval()[0] > 0, name
lead = estimate_mean(reached[64]["natural step"] - reached[64]["KL stop"])
spreads = {name: scores.std(ddof=1) for name, scores in reached[64].items()}
print(f"64 samples: the natural step leads the KL stop by {lead} (standard error); std over seeds "
      f"{spreads['natural step']:.3f} against {spreads['KL stop']:.3f}")  # fmt: skip
assert lead.interval()[0] < 0 and spreads["natural step"] > 1.5 * spreads["KL stop"]
for name in ("clip", "KL penalty"):
    assert estimate_mean(reached[64]["natural step"] - reached[64][name]).interval()[0] > 0, name

# %% [markdown]
# Read the two panels. Every method improves the true score, at every setting of its knob. With 512
# samples the natural step gains most for its KL, as theory says. With 64 it is, at 0.1 nats, still
# ahead of the clip and of the penalty, but no longer of the KL stop, and chance decides twice as
# much: it divides by $d(s)\,\pi(a \mid s)$, so a rare action that happened to get a lucky score
# takes a large step on the word of one sample. The optimality of the natural gradient is a
# statement about the exact gradient.
#
# The clip is not ahead in either panel. It is popular for other reasons: it needs no second
# quantity to be measured and no matrix, and ε = 0.2 works in many places.
#
# ## 9 · ε and the KL
#
# **Claim: the KL after an update grows with ε.** The same twelve batches, 30 epochs, seven clip
# ranges.

# %% kind="train"
SWEEP = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2)
swept = torch.stack([exact_kl(twelve, last(improve(batch, clip_weight(e), 30))) for e in SWEEP])

# %%
for epsilon, kl in zip(SWEEP, swept, strict=True):
    low, high = estimate_mean(kl).interval()
    print(f"ε = {epsilon:4.2f}: KL {float(kl.mean()):.3f} [{low:.3f}, {high:.3f}]")
means = swept.mean(1)
growth = swept.diff(dim=0)
print(f"mean KL grows at each step of the sweep; so it does in {int((growth > 0).all(0).sum())} of "
      f"{SEEDS} seeds taken alone")  # fmt: skip
assert bool((means.diff() > 0).all())

# %% [markdown]
# It does. ε sets the size of the region, if not its exact edge: at another step size the same ε
# gives another KL (section 5).
#
# ## 10 · Many epochs: what goes wrong without a limit
#
# Samples are expensive, in RLHF more than anywhere: each costs a forward pass per token, and a
# judge. It is tempting to squeeze a batch for all it has. So: 120 epochs on each batch of 64, then
# a new batch from the new policy, 24 times over; with the clip and without.
#
# *Predict, then run:* which is ahead after the first batch? And after the last?

# %% kind="train"
CYCLES, EPOCHS = 24, 120
histories = {}
for name, weight in {"clip, ε = 0.2": clip_weight(EPSILON), "no limit": no_limit}.items():
    theta, generator = twelve, torch.Generator().manual_seed(4)
    trace = [theta]
    for _ in range(CYCLES):
        theta = last(improve(sample(theta, RESPONSES, generator), weight, EPOCHS, step_size=0.1))
        trace.append(theta)
    histories[name] = torch.stack(trace)  # (cycles + 1, S, 7, 7)


# %% figure="05_collapse"
def with_interval(values):
    """List the mean over the seeds and its interval after each batch."""
    means = [estimate_mean(row) for row in values]
    return [(mean.value, *mean.interval()) for mean in means]


scores, entropies = {}, {}
for name, trace in histories.items():
    log_p = tree.response_log_probs(whole(trace))
    scores[name] = true_objective(trace)
    entropies[name] = -(log_p.exp() * log_p.clamp(min=-700)).sum(-1)
draw_collapse(
    *({name: with_interval(rows) for name, rows in measured.items()}
      for measured in (scores, entropies))
)  # fmt: skip
plt.show()

for moment in (1, 4, CYCLES - 1, CYCLES):
    for name, values in scores.items():
        low, high = estimate_mean(values[moment]).interval()
        print(f"after batch {moment:2}, {name:<14} J = {float(values[moment].mean()):+.2f} "
              f"[{low:+.2f}, {high:+.2f}], seeds from {float(values[moment].min()):+.2f} to "
              f"{float(values[moment].max()):+.2f}")  # fmt: skip
clipped, unlimited = (estimate_mean(values[-1]) for values in scores.values())
assert unlimited.interval()[1] < clipped.interval()[0]
dead = int((entropies["no limit"][-1] < 0.1).sum())
early = int((entropies["no limit"][4] < 0.1).sum())
print(f"no limit: {early} of {SEEDS} seeds write one and the same text after 4 batches, "
      f"{dead} at the end")  # fmt: skip
assert dead >= SEEDS // 2

# %% [markdown]
# After one batch the unlimited runs are spread over the whole range of scores, some far ahead, some
# far below where they began: twelve seeds can't tell which method leads, nor can they after four,
# when no limit has the higher mean. Each went where its 64 noisy scores pointed, to the very end:
# one text, again and again. The entropy is gone, and with it most of the learning. A batch of 64
# equal texts has nothing to compare but noise, so a policy stays with its text, or jumps to another
# when chance has it: between the last two batches their mean moves by half a point. That is
# **policy collapse**. The clipped runs take small steps, lose their variety slowly, see new samples
# of each new policy, and overtake.
#
# How far does this reach? The setting is harsh, and was looked for: noisy scores, small batches,
# 120 epochs. The same runs with 10 epochs a batch:

# %% kind="train"
gentle = {}
for name, weight in {"clip, ε = 0.2": clip_weight(EPSILON), "no limit": no_limit}.items():
    theta, generator = twelve, torch.Generator().manual_seed(4)
    for _ in range(CYCLES):
        theta = last(improve(sample(theta, RESPONSES, generator), weight, 10, step_size=0.1))
    mean = estimate_mean(true_objective(theta))
    low, high = mean.interval()
    print(f"10 epochs a batch, {name:<14} J = {mean.value:+.2f} [{low:+.2f}, {high:+.2f}]")
    gentle[name] = (low, high)
assert max(low for low, _ in gentle.values()) < min(high for _, high in gentle.values())

# %% [markdown]
# With so few epochs the two end level: nothing runs away in ten steps, and the clip has nothing to
# prevent. It pays for those who squeeze a batch.
#
# Now look inside one update. The same twelve batches of section 5, 120 epochs on each, every epoch
# kept.

# %% kind="train"
recorded = {
    name: torch.stack([twelve, *improve(batch, weight, EPOCHS, step_size=0.1)])
    for name, weight in {"clip, ε = 0.2": clip_weight(EPSILON), "no limit": no_limit}.items()
}

# %%
for epochs in (10, 30, 60, EPOCHS):
    for name, trace in recorded.items():
        values = true_objective(trace[epochs])
        low, high = estimate_mean(values).interval()
        below = int((values < true[0]).sum())
        print(f"{epochs:3} epochs, {name:<14} J = {float(values.mean()):+.2f} "
              f"[{low:+.2f}, {high:+.2f}], {below} of {SEEDS} batches end below the start")  # fmt: skip
by_epoch = {name: true_objective(trace).mean(1) for name, trace in recorded.items()}
assert by_epoch["no limit"][10] > by_epoch["clip, ε = 0.2"].max()
assert all(means[EPOCHS] < means.max() for means in by_epoch.values())
ends = {name: true_objective(trace[EPOCHS]) for name, trace in recorded.items()}
assert bool((ends["clip, ε = 0.2"] > true[0]).all())
assert int((ends["no limit"] < true[0]).sum()) >= 2
at_ten, at_end = by_epoch["clip, ε = 0.2"][[10, EPOCHS]] - true[0]
assert at_end < (1 - 1 / 3) * at_ten
in_time = true_objective(recorded["no limit"][30, 6])
print(f"batch 7 without a limit: J {float(in_time):+.2f} after 30 epochs, "
      f"{float(ends['no limit'][6]):+.2f} after {EPOCHS}")  # fmt: skip
assert float(in_time) > 1 > true[0] > float(ends["no limit"][6])

# %% [markdown]
# Without a limit, ten epochs gain more than the clip ever does on one batch, and thirty more still.
# Then the mean falls, the intervals grow on, and some batches end far below the start. (The first
# batches of the runs above were others, and ended with a loss in the mean: one setting, one wide
# interval.) With the clip all twelve stay above it. Yet it is no licence for many epochs either:
# between epoch 10 and epoch 120 its mean loses more than a third of what it had gained.
#
# Step through batch 7: where does the score turn, and what has the policy bet on by then? A writer
# who sees the last word only has learned "great" after "very", and "very" after "great".

# %% figure="05_epochs"
SHOWN = 6


def show_epochs(figure, number, epochs):
    panels, spoken = {}, []
    one = slice(number - 1, number)
    for name, trace in recorded.items():
        theta = trace[epochs, number - 1]
        p = tree.response_log_probs(whole(theta)).exp()
        log_probs = log_probs_of(theta[None], batch.before[one], batch.actions[one])
        _, _, k3 = approximate_kl(log_probs[0], batch.old_log_probs[one][0], batch.mask[one][0])
        score, top = float((p * rewards).sum()), p.topk(SHOWN).indices.tolist()
        likeliest = [
            (f"{tree.responses[i] or '(nothing)'} ({float(rewards[i]):+.1f})", float(p[i]))
            for i in top
        ]
        panels[name] = f"J {score:+.2f}, mean k3 {float(k3):.2f}", likeliest
        first = tree.responses[top[0]]
        spoken.append(f"{name}: J {score:+.2f}, likeliest {first!r} at {likeliest[0][1]:.2f}")
    draw_likeliest(figure, panels)
    return f"After {epochs} epochs on batch {number}. " + "; ".join(spoken) + "."


explore(
    show_epochs,
    size=(8.8, 3.8),
    number=Slider("", "batch number", minimum=1, maximum=SEEDS, value=7),
    epochs=Slider("E", "epochs on one batch", minimum=0, maximum=EPOCHS, value=EPOCHS),
    caption="The likeliest responses, true scores in brackets; above them the true J, and your k3 on "
    "the batch itself. Which text wins without a limit, the noise of 64 scores decides.",
)

# %% [markdown]
# ## What was shown
#
# | claim | where | measured by |
# | --- | --- | --- |
# | surrogate and truth agree at the old policy, and part as the KL grows | 2 | enumeration |
# | the gap is never above the bound; the lower bound guarantees a gain, a small one | 3 | 300 random policies, one direction |
# | where the clip holds, the gradient is exactly 0: two quadrants of four | 4 | autograd |
# | the clip does not keep ratios inside | 5 | three step sizes |
# | k1 and k3 are unbiased, k3 is far sharper | 6 | 200 batches |
# | the natural step has the KL asked for while it is short, and gains most with exact gradients | 7 | enumeration |
# | all four ways improve the true score; the natural step leads all three others only with many samples | 8 | 12 seeds, intervals |
# | the KL after an update grows with ε | 9 | 12 seeds |
# | many epochs without a limit collapse, and end below the clip | 10 | 12 seeds, intervals |
#
# **In the package.** `rlhf_lessons.evaluation`: `surrogate_objective`, `surrogate_bound`,
# `profile_direction`, `step_to_kl`. `rlhf_lessons.formulas`: `ppo_policy_loss`, `clip_fraction`,
# `kl_k1`, `kl_k2`, `kl_k3`, `natural_gradient_step`. In `rlhf_lessons.training`, `train_ppo` has
# `epsilon` and `stop_kl`.
#
# **Further reading.**
#
# - Kakade 2001, *A Natural Policy Gradient*; Kakade and Langford 2002, *Approximately Optimal
#   Approximate Reinforcement Learning*: where the surrogate comes from.
# - Schulman et al. 2015, *Trust Region Policy Optimization*; Schulman et al. 2017, *Proximal Policy
#   Optimization Algorithms*.
# - Achiam et al. 2017, *Constrained Policy Optimization*: the sharper bound.
# - Engstrom et al. 2020, *Implementation Matters in Deep Policy Gradients*: how much of PPO is the
#   clip.
# - Schulman 2020, *Approximating KL Divergence*: k1, k2, k3.
#
# **Three quick questions.**
#
# 1. A log shows a clip fraction of 0.00 all through a run. Is everything fine?
#
# <details><summary>Answer</summary>
#
# The clip never acts, so the policy hardly moves within a batch: one step per batch, or a small
# step size. It is safe, and more could be learned from each batch. It may also be a bug: old
# log-probabilities that are computed again after each step give ρ = 1 for ever.
#
# </details>
#
# 2. A token with A < 0 has ρ = 1.5, ε = 0.2. What does the gradient do?
#
# <details><summary>Answer</summary>
#
# It pushes the token down with full force, 1.5·A. The clip stops bad tokens only below 1 − ε.
#
# </details>
#
# 3. Why is the KL of the early stop measured per token and from the *old* policy, while β of lesson
#    4 prices the KL from the *reference*?
#
# <details><summary>Answer</summary>
#
# They guard against different things. The trust region keeps one update where its samples are
# right; after each batch it moves along with the policy. The reference stays: β keeps the whole run
# where the *reward model* is right.
#
# </details>
#
# The words of this lesson, in three languages:

# %%
glossary(5)
