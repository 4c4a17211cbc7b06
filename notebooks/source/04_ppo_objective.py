# %% [markdown]
# # Lesson 4 · The PPO objective
#
# Lesson 3 turned opinions into a reward model. Now the language model learns from it. **Proximal
# policy optimisation** (PPO) lets the model write, scores what it wrote, and shifts probability
# toward the tokens that led to better scores: a little at a time, and on a leash. This lesson
# builds its objective term by term. You write each term; then your functions train the model.
#
# **After this lesson you can**
#
# - say what happens in the two phases of a PPO cycle, and which number comes from which model;
# - compute exact advantages on a small world, and estimate them with GAE where nothing is exact;
# - write the clipped policy loss, the value loss, the entropy and their weighted total;
# - shape rewards with a KL penalty, adapt its strength, and compute the best policy there is;
# - run PPO on a language model, see it hack its reward when the leash is off, and choose β.
#
# **Time** about 150 minutes, 9 exercises, 24 points. **Needs** lesson 1's return, value and
# advantage, lesson 2's token log-probabilities and KL, lesson 3's reward model. Two CPU cores are
# enough, and no network.

# %% kind="setup"
import dataclasses
import itertools
import textwrap

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from rlhf_lessons import formulas
from rlhf_lessons.classroom import Choice, Slider, check, explore, glossary, use_style, watch, yours
from rlhf_lessons.classroom.pictures.ppo import (
    draw_clip,
    draw_continuations,
    draw_convergence,
    draw_estimates,
    draw_hacking,
    draw_optimum,
    draw_real_runs,
    draw_run,
    draw_sweep,
)
from rlhf_lessons.evaluation import estimate_mean, load_ppo_sweep, load_real_frontier
from rlhf_lessons.models import ResponseTree, ValueHead, table_policy
from rlhf_lessons.models import load_policy, load_reward_model
from rlhf_lessons.training import PPOSettings, train_ppo
from rlhf_lessons.worlds import OPINION_LENGTH, OPINION_WORDS
from rlhf_lessons.worlds import opinion_habits, opinion_score, reviews

torch.set_num_threads(1)  # the same numbers on every run, and fast enough for small models
use_style()

# %% [markdown]
# ## 1 · Two phases a cycle
#
# PPO repeats one cycle:
#
# | | who | does what |
# | --- | --- | --- |
# | **Phase I: roll out** | the policy π_old | completes a batch of prompts: the *rollout* |
# | | the reward model | scores each completion |
# | | the reference π_ref | says how likely it found each token |
# | | the value head | predicts, at each token, the reward still to come |
# | **Phase II: update** | the policy π_θ, starting at π_old | takes a few small steps on policy loss, value loss and entropy |
# | | | then π_θ takes π_old's place |
#
# In the words of reinforcement learning: a **state** s is the prompt and the tokens so far, an
# **action** a is the next token, and an episode ends with the end token. Phase I on our film
# reviews:

# %%
sft = load_policy("reviews-sft")
reward_model = load_reward_model("reviews-reward")
prompts = reviews.sample_prompts(2_000, seed=500)
rollout = sft.sample(prompts[:3], 48, generator=torch.Generator().manual_seed(4))
scores = reward_model(rollout.prompts, rollout.responses)
for x, y, score in zip(rollout.prompts, rollout.responses, scores.tolist(), strict=True):
    print(f"score {score:+.2f}   {x} | {y}\n")

# %% [markdown]
# One number for some twenty-five tokens: which of them earned it? That is the question of *credit*,
# and the advantage answers it. First the quantity that Phase II changes.
#
# ## 2 · The probability ratio
#
# ### Exercise 4.1 · The probability ratio
#
# ●○○ · 6 minutes · 2 points
#
# $$\rho_t = \frac{\pi_\theta(a_t \mid s_t)}{\pi_{old}(a_t \mid s_t)} = e^{\log \pi_\theta - \log
# \pi_{old}}$$
#
# The ratio says how much likelier a sampled token has become since it was sampled: 1 where nothing
# has changed, 1.2 where it became 20 % likelier. The denominator is **frozen**: π_old is the policy
# that wrote the rollout, a number in the data. The numerator is trained. So gradients flow through
# `log_probs` and not through `old_log_probs`. (Papers also write $r_t(\theta)$; here r is the
# reward. Lesson 1's $\rho_\pi$, with a policy as its index, is something else: how often states are
# met.)
#
# *Why subtract logarithms first?* Below a log-probability of −104, $e^x$ is 0 in float32, and 0/0
# is not a number. A token that a policy has turned away from gets there. The difference of the
# logarithms has no such limit.
#
# <details><summary>Hint 1</summary>
#
# `torch.exp` of a difference.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `old_log_probs.detach()` is the same number without its history.
#
# </details>


# %% kind="exercise" exercise="4.1"
def ratio(log_probs: Tensor, old_log_probs: Tensor) -> Tensor:
    """Give π_θ/π_old of each token.

    Args:
        log_probs: (B, T) log π_θ of the sampled tokens, with gradient.
        old_log_probs: (B, T) log π_old of the same tokens; to be held fixed.

    Returns:
        (B, T) ratios.
    """
    ### BEGIN SOLUTION
    return torch.exp(log_probs - old_log_probs.detach())
    ### END SOLUTION


# %% kind="check" exercise="4.1"
check("4.1", ratio)

# %% [markdown]
# Before the first update all ratios are 1. *Predict, then run:* one gradient step makes the first
# response likelier. What happens to the tokens of the other two?

# %%
ratio = yours("4.1", ratio)

policy = load_policy("reviews-sft")
optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
mask = rollout.response_mask
for step in range(2):
    log_probs = policy.log_probs_of(rollout)
    rho = ratio(log_probs, rollout.log_probs).detach()
    for row in range(3):
        counted = rho[row][mask[row]]
        print(
            f"{('before', 'after')[step]} the step, response {row + 1}: "
            f"ratios from {counted.min():.2f} to {counted.max():.2f}"
        )
    if step == 0:
        assert bool((rho[mask] - 1).abs().max() < 1e-4)
    optimizer.zero_grad()
    (-log_probs[0].sum()).backward()
    optimizer.step()

# %% [markdown]
# They move too, some of them far: all texts share one set of weights. This is why Phase II must be
# careful, and why one step at learning rate 0.001 is already a large one.
#
# ## 3 · Advantages, exactly
#
# The **advantage** of a token says how much better it is than the average token here:
#
# $$A^\pi(s, a) = Q^\pi(s, a) - V^\pi(s) \qquad V^\pi(s) = \sum_a \pi(a \mid s)\, Q^\pi(s, a)$$
#
# For a real model nobody can sum over all continuations. So here is a world where one can: a review
# of at most four tokens over six words, 1,555 responses in all. `opinion_score` is its reward:
# opinions count ("great" more than "good", "very" strengthens, "not" turns round), faults cost.
# `opinion_habits` gives the next-token probabilities of its reference policy.

# %%
tree = ResponseTree(OPINION_WORDS, OPINION_LENGTH)
reference_logits = torch.tensor(opinion_habits(tree.prefixes)).log()
rewards = torch.tensor(opinion_score([""] * len(tree.responses), tree.responses))
reference_log_probs = tree.response_log_probs(reference_logits)
print(tree)
for index in reference_log_probs.topk(6).indices.tolist():
    probability = reference_log_probs[index].exp()
    print(f"  π = {probability:.3f}   r = {rewards[index]:+.2f}   “{tree.responses[index]}”")

exact = tree.evaluate(reference_logits, rewards)
mean_advantage = (reference_logits.softmax(-1) * exact.advantage).sum(-1)
print(f"V of the empty response, the expected reward: {exact.v[0]:.3f}")
print(
    f"largest |Σ_a π(a|s)·A(s, a)| over {len(tree.prefixes)} prefixes: {mean_advantage.abs().max():.1e}"
)
assert float(mean_advantage.abs().max()) < 1e-12
assert abs(float(exact.v[0]) - float((reference_log_probs.exp() * rewards).sum())) < 1e-12

# %% [markdown]
# **Claim: advantages average to 0 under the policy**, at every prefix. So not every token can be
# good: where one has A > 0, another has A < 0, and probability can move from the second to the
# first.
#
# The tree below shows the continuations of one prompt with their exact advantages. The better path
# takes the highest advantage at each step, the worse path the lowest.


# %% figure="04_tree_of_continuations"
def follow(pick) -> list[tuple[dict[str, float], str]]:
    """Walk from the root, taking the best or the worst token: the advantages met, the token taken."""
    prefix, path = 0, []
    while prefix >= 0:
        taken = int(pick(exact.advantage[prefix]))
        met = dict(zip(tree.actions, exact.advantage[prefix].tolist(), strict=True))
        path.append((met, tree.actions[taken]))
        v, q = exact.v[prefix], exact.q[prefix, taken]
        print(f"   V {v:+.2f}   Q {q:+.2f}   A {q - v:+.2f}   {tree.actions[taken]}")
        prefix = int(tree.child[prefix, taken])
        assert prefix < 0 or abs(float(q - exact.v[prefix])) < 1e-12
    return path


print("better path")
better = follow(torch.argmax)
print("worse path")
worse = follow(torch.argmin)
draw_continuations(better, worse, root=f"“the film was …”\nV = {exact.v[0]:+.2f}")
plt.show()

# %% [markdown]
# Read one column: the numbers are advantages; weighed with the policy's probabilities they average
# to 0. Read down a path: the Q of one token is the V from which the next one starts. The worse path
# begins with blame and then adds fault to fault. After the better path's first word the best action
# is to stop: what the reference would add costs more than it earns.
#
# ## 4 · Advantages, estimated: the value head and GAE
#
# A language model has too many continuations to sum over. PPO estimates instead. A **value head**,
# a linear map on the policy's last layer, predicts V at each token, and the rollout's
# rewards tell what came. Their difference over one step is the TD error of lesson 1, $\delta_t =
# r_t + \gamma V_{t+1} - V_t$.
#
# ### Exercise 4.2 · Generalized advantage estimation
#
# ●●● · 20 minutes · 4 points
#
# $$A_t = \delta_t + \gamma\lambda\, A_{t+1} \qquad \delta_t = r_t + \gamma V_{t+1} - V_t \qquad V = A
# = 0 \text{ after the last token}$$
#
# *Why λ?* With λ = 0 the estimate trusts the value head and looks one step ahead; if the head is
# wrong, so is the estimate (bias). With λ = 1 it trusts the rewards that came, all the way to the
# end; they are right on average and noisy (variance). A λ between mixes the two.
#
# Responses end at different places. The recursion starts at the *last counted token* of each row,
# with V = A = 0 behind it: the rewards and values in the padding, even NaN, must change nothing.
#
# <details><summary>Hint 1</summary>
#
# Go through the columns from the last to the first, `for t in reversed(range(T))`, and carry two
# (B,) tensors: the next value and the next advantage, both `torch.zeros_like(rewards[:, 0])` at
# first. (`torch.zeros(B)` would be float32 whatever the rewards are.)
#
# </details>
# <details><summary>Hint 2</summary>
#
# Update what you carry only in rows where `mask[:, t]` is True: `torch.where(mask[:, t], new,
# carried)`. In the padding they stay 0, so each row starts at its own last token.
#
# </details>


# %% kind="exercise" exercise="4.2"
def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """Estimate the advantage of each token.

    Args:
        rewards: (B, T) reward of each token.
        values: (B, T) V of the state before each token.
        mask: (B, T) boolean, True = a token of the response; padding is on the right.
        gamma: discount γ.
        lam: λ.

    Returns:
        (B, T) advantages in the dtype of the rewards, 0 where nothing counts.
    """
    ### BEGIN SOLUTION
    advantages = torch.zeros_like(rewards)
    next_value = next_advantage = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        counts = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = torch.where(counts, delta + gamma * lam * next_advantage, next_advantage)
        next_value = torch.where(counts, values[:, t], next_value)
        advantages[:, t] = next_advantage.masked_fill(~counts, 0.0)
    return advantages
    ### END SOLUTION


# %% kind="check" exercise="4.2"
check("4.2", gae)

# %% [markdown]
# **Claim: at λ = 1, GAE is return minus value.** The cell measures it on sampled responses of the
# small world. Then it compares estimates with the exact advantages, for a value function that is a
# little wrong, as learned ones are.

# %%
gae = yours("4.2", gae)

table = table_policy(tree, reference_logits, ["the film was"])
sampled = table.sample(
    ["the film was"] * 4_000, OPINION_LENGTH, generator=torch.Generator().manual_seed(0)
)
place = {text: index for index, text in enumerate(tree.responses)}
which = torch.tensor([place[text] for text in sampled.responses])
mask = tree.path_mask[which]
states, actions = tree.path_prefixes[which], tree.path_actions[which]
token_rewards = torch.zeros(mask.shape, dtype=torch.float64)
token_rewards[torch.arange(len(which)), mask.sum(1) - 1] = rewards[which]

error = 0.5 * torch.randn(len(tree.prefixes), generator=torch.Generator().manual_seed(1)).double()
values = (exact.v + error)[states]
returns = formulas.discounted_returns(token_rewards, mask, 1.0)
gap = (gae(token_rewards, values, mask, 1.0, 1.0) - (returns - values))[mask].abs().max()
print(f"largest difference between GAE at λ = 1 and return − V: {gap:.1e}")
assert float(gap) < 1e-9

true_advantages = exact.advantage[states, actions]
lambdas = np.linspace(0, 1, 21)
root_mean_square = [
    float(
        (gae(token_rewards, values, mask, 1.0, lam) - true_advantages)[mask].square().mean().sqrt()
    )
    for lam in lambdas
]
best = int(np.argmin(root_mean_square))
print(
    f"error of the estimate (root mean square): λ = 0 {root_mean_square[0]:.2f}, "
    f"λ = 1 {root_mean_square[-1]:.2f}, lowest {root_mean_square[best]:.2f} at λ = {lambdas[best]:.2f}"
)
assert root_mean_square[best] < root_mean_square[-1]

# %% [markdown]
# Here λ near 0 wins: these values are only a little wrong, and what a response goes on to say is
# mostly luck. Real runs use λ = 0.95, because a value head begins by knowing nothing, and γ = 1, as
# here: the score at the end counts in full for every token.
#
# Move λ below. On the left one sampled response: your estimate beside the exact advantage. On the
# right the error over 4,000 responses.

# %%
shown = next(i for i, text in enumerate(sampled.responses) if text == "not very good and")
shown_words = [tree.actions[a] for a in actions[shown]]


def estimates_at(figure, lam: float) -> str:
    row = slice(shown, shown + 1)
    estimates = gae(token_rewards[row], values[row], mask[row], 1.0, lam)[0].tolist()
    size = float(np.interp(lam, lambdas, root_mean_square))
    exact_ones = true_advantages[shown].tolist()
    draw_estimates(
        figure, shown_words, exact_ones, estimates, lambdas, root_mean_square, here=(lam, size)
    )
    numbers = ", ".join(f"{w} {a:+.2f}" for w, a in zip(shown_words, estimates, strict=True))
    return f"GAE with λ = {lam:.2f}: {numbers}. Error over all responses {size:.2f}."


explore(
    estimates_at,
    lam=Slider("λ", "GAE weight", 0.0, 1.0, 0.95, 0.05),
    caption="Near λ = 0 the value function's own errors show; near 1 the luck of the rest of the response.",
)

# %% [markdown]
# The value head learns by regression on what came, $R_t = A_t + V_t$; at λ = 1 that is lesson 1's
# return $G_t$. It takes several steps on one noisy batch, as the policy does; so its way may be
# limited as well. The ε of this exercise is in the unit of the reward, another number than the
# policy's ε in section 5.
#
# ### Exercise 4.3 · The clipped value loss
#
# ●●○ · 10 minutes · 3 points
#
# $$L^{V}_t = \tfrac12 \max\Big( (V_t - R_t)^2,\; (\text{clip}(V_t,\, V^{old}_t - \varepsilon,\,
# V^{old}_t + \varepsilon) - R_t)^2 \Big)$$
#
# Without the clip it is ½(V − R)², whose gradient is V − R. With it, a value that has already moved
# by more than ε toward the return gets no further push in this cycle. The maximum is the pessimist's
# choice: a value that moved *away*, or far past R, is always pulled back.
#
# R and V_old are data: no gradient flows into them.
#
# <details><summary>Hint 1</summary>
#
# `torch.clamp(values, old - epsilon, old + epsilon)` takes tensors as limits.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `torch.maximum` compares two tensors place by place. One loss per token: don't average.
#
# </details>


# %% kind="exercise" exercise="4.3"
def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, epsilon: float
) -> Tensor:
    """Give the value loss of each token.

    Args:
        values: (B, T) V_θ, with gradient.
        old_values: (B, T) V when the rollout was made; to be held fixed.
        returns: (B, T) what to predict; to be held fixed.
        epsilon: how far V may move in one cycle.

    Returns:
        (B, T) losses, with the ½.
    """
    ### BEGIN SOLUTION
    old_values, returns = old_values.detach(), returns.detach()
    clipped = torch.clamp(values, old_values - epsilon, old_values + epsilon)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
    ### END SOLUTION


# %% kind="check" exercise="4.3"
check("4.3", clipped_value_loss)

# %% [markdown]
# ### Exercise 4.4 · Whitening
#
# ●○○ · 8 minutes · 2 points
#
# $$\hat A = \frac{A - \bar A}{\sqrt{s^2 + 10^{-8}}} \qquad s^2 = \frac{1}{N - 1} \sum_{\text{counted}} (A
# - \bar A)^2$$
#
# Rewards may be of size 0.1 or 100; whitened advantages have mean 0 and variance 1, so one learning
# rate fits all. Mean and deviation run over the counted tokens of the **whole batch**: within one
# response they would wipe out which response was better.
#
# The value targets R = A + V are computed *before* whitening. They are in the unit of the reward.
#
# <details><summary>Hint 1</summary>
#
# `x[mask]` is the flat list of counted numbers; `.var()` divides by N − 1.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Compute with `x` where it counts and put 0 elsewhere with `masked_fill(~mask, 0.0)`.
#
# </details>


# %% kind="exercise" exercise="4.4"
def whiten(x: Tensor, mask: Tensor) -> Tensor:
    """Shift and scale the counted numbers to mean 0 and variance 1.

    Args:
        x: (B, T) numbers; anything, even NaN, may stand where nothing counts.
        mask: (B, T) boolean, True = counts; at least two.

    Returns:
        (B, T) whitened numbers, 0 where nothing counts.
    """
    ### BEGIN SOLUTION
    counted = x[mask]
    whitened = (x - counted.mean()) * torch.rsqrt(counted.var() + 1e-8)
    return whitened.masked_fill(~mask, 0.0)
    ### END SOLUTION


# %% kind="check" exercise="4.4"
check("4.4", whiten)

# %% [markdown]
# ## 5 · The clipped policy loss
#
# Each token now has an advantage. Raising $\rho_t$ where A > 0 and lowering it where A < 0 improves
# the policy, **as long as the policy stays close to the one that sampled**: the advantages were
# measured under π_old. PPO takes away the reason to go further.
#
# ### Exercise 4.5 · The clipped policy loss
#
# ●●○ · 12 minutes · 3 points
#
# $$L^{\pi}_t = -\min\big( A_t\, \rho_t,\; A_t\, \text{clip}(\rho_t, 1-\varepsilon, 1+\varepsilon)
# \big)$$
#
# A good token gains nothing beyond ρ = 1 + ε, a bad one nothing below 1 − ε; the gradient there is
# exactly 0. The minimum (of objectives) keeps the other side open: a good token that has become
# *less* likely still gets its full gradient.
#
# <details><summary>Hint 1</summary>
#
# Multiply by A first, then take the minimum: with a negative A the order of the two terms turns
# round.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `ratio(log_probs, old_log_probs)` from exercise 4.1, `.clamp(1 - epsilon, 1 + epsilon)`,
# `advantages.detach()`. One loss per token: don't average.
#
# </details>


# %% kind="exercise" exercise="4.5"
def ppo_policy_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, epsilon: float
) -> Tensor:
    """Give PPO's clipped loss of each token.

    Args:
        log_probs: (B, T) log π_θ of the sampled tokens, with gradient.
        old_log_probs: (B, T) log π_old; to be held fixed.
        advantages: (B, T) advantages; to be held fixed.
        epsilon: clip range ε.

    Returns:
        (B, T) losses.
    """
    ### BEGIN SOLUTION
    rho = torch.exp(log_probs - old_log_probs.detach())
    advantages = advantages.detach()
    clipped = rho.clamp(1 - epsilon, 1 + epsilon)
    return -torch.minimum(advantages * rho, advantages * clipped)
    ### END SOLUTION


# %% kind="check" exercise="4.5"
check("4.5", ppo_policy_loss)

# %% [markdown]
# Your loss draws the picture below: the objective (its negative) of one token and its slope, over
# the ratio. Change ε and the sign of A. *Predict first:* for A < 0, on which side is it flat?

# %% figure="04_clipped_objective"
ppo_policy_loss = yours("4.5", ppo_policy_loss)
ratios = torch.linspace(0.02, 2.0, 400, dtype=torch.float64)


def clip_at(figure, epsilon: float, advantage: float) -> str:
    log_probs = ratios.log().unsqueeze(0).requires_grad_(True)
    objective = -ppo_policy_loss(
        log_probs, torch.zeros_like(log_probs), torch.full_like(log_probs, advantage), epsilon
    )
    (by_log,) = torch.autograd.grad(objective.sum(), log_probs)
    slope = by_log[0] / ratios  # d/dρ = (d/d log π) / ρ
    draw_clip(figure, ratios, objective.detach()[0], slope, epsilon)
    flat = ratios[slope == 0]
    where = f"from ρ = {flat.min():.2f} to {flat.max():.2f}" if len(flat) else "nowhere"
    return f"The clipped objective for A = {advantage:+g} and ε = {epsilon:.2f}; flat {where}."


explore(
    clip_at,
    epsilon=Slider("ε", "clip range", 0.05, 0.6, 0.2, 0.01),
    advantage=Choice("sign of A", {"A = +1, a good token": 1.0, "A = −1, a bad token": -1.0}),
    caption="Shaded: the range 1 ± ε. Flat means gradient exactly 0: nothing more to gain in this cycle.",
)

# %% [markdown]
# ## 6 · Entropy, and the total
#
# ### Exercise 4.6 · Entropy
#
# ●●○ · 8 minutes · 3 points
#
# $$H(\pi(\cdot \mid s)) = -\sum_v \pi(v \mid s) \log \pi(v \mid s)$$
#
# A policy that has found something good soon says nothing else, and then it can find nothing
# better. An entropy term rewards it for staying undecided where it costs little: it keeps the model
# creative.
#
# A forbidden token has the logit −∞ and probability 0. It adds nothing, but 0 · (−∞) is not a
# number for a computer. To put a 0 in its place *after* the product mends the entropy and can leave
# NaN in its gradient.
#
# <details><summary>Hint 1</summary>
#
# `log_p = logits.log_softmax(-1)`, `p = log_p.exp()`.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `log_p.masked_fill(p == 0, 0.0)` before multiplying.
#
# </details>


# %% kind="exercise" exercise="4.6"
def entropy(logits: Tensor) -> Tensor:
    """Measure how undecided each next-token distribution is.

    Args:
        logits: (B, T, V); −∞ marks a token that cannot come.

    Returns:
        (B, T) entropies in nats, with gradient.
    """
    ### BEGIN SOLUTION
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    return -(p * log_p.masked_fill(p == 0, 0.0)).sum(-1)
    ### END SOLUTION


# %% kind="check" exercise="4.6"
check("4.6", entropy)

# %% [markdown]
# ### Exercise 4.7 · The total
#
# ●○○ · 8 minutes · 2 points
#
# The objective to maximise is $L_{policy} - c_1 L_{value} + c_2 H$, where $L_{policy}$ is PPO's
# clipped *objective*. As a loss to minimise:
#
# $$L = \text{mean}_t\, L^\pi_t + c_1\, \text{mean}_t\, L^V_t - c_2\, \text{mean}_t\, H_t$$
#
# The means run over the counted tokens of the whole batch, whatever the padding holds. A mean of each
# response's mean would be something else: it gives the tokens of short responses more weight.
#
# <details><summary>Hint 1</summary>
#
# `x[mask].mean()`.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Two pluses and a minus: only the entropy is something to have more of.
#
# </details>


# %% kind="exercise" exercise="4.7"
def ppo_total_loss(
    policy_losses: Tensor,
    value_losses: Tensor,
    entropies: Tensor,
    mask: Tensor,
    value_coefficient: float,
    entropy_coefficient: float,
) -> Tensor:
    """Weigh policy loss, value loss and entropy into one number to minimise.

    Args:
        policy_losses: (B, T) losses of the policy.
        value_losses: (B, T) losses of the values.
        entropies: (B, T) entropies.
        mask: (B, T) boolean, True = a token of the response; elsewhere anything may stand, even NaN.
        value_coefficient: c1.
        entropy_coefficient: c2.

    Returns:
        () the total, with gradient.
    """
    ### BEGIN SOLUTION
    return (
        policy_losses[mask].mean()
        + value_coefficient * value_losses[mask].mean()
        - entropy_coefficient * entropies[mask].mean()
    )
    ### END SOLUTION


# %% kind="check" exercise="4.7"
check("4.7", ppo_total_loss)

# %% [markdown]
# ## 7 · The leash: KL to the reference
#
# *Why not maximise the reward alone?* Because a reward model is right only near the data it has
# seen. It compared completions of π_ref; far from those it guesses (**distribution shift**), and a
# policy that is rewarded for finding its errors will find them. So PPO maximises
#
# $$J(\pi) = \mathbb E_{y \sim \pi}\left[ r(x, y) \right] - \beta\, \text{KL}(\pi \,\|\, \pi_{ref})
# \qquad \text{KL} = \mathbb E_{y \sim \pi}\Big[ \sum_t \log \frac{\pi(y_t)}{\pi_{ref}(y_t)} \Big]$$
#
# The KL is itself a mean over samples, so each token can pay its own share. With $\ell = \log \pi -
# \log \pi_{ref}$ of a sampled token there are three common estimators: $k_1 = \ell$, $k_2 =
# \ell^2/2$ and $k_3 = e^{-\ell} - 1 + \ell$. The small world knows the exact value:

# %%
first = 0  # look at the first token: one categorical distribution, summed exactly
spread = {}
for near_or_far, beta in (("near", 2.0), ("far from", 0.5)):
    p = tree.optimum(reference_logits, rewards, beta)[first].softmax(-1)
    log_ratio = (p / reference_logits[first].softmax(-1)).log()
    exact_kl = float((p * log_ratio).sum())
    print(f"a policy {near_or_far} the reference: KL {exact_kl:.4f}")
    for name, estimator in (("k1", formulas.kl_k1), ("k2", formulas.kl_k2), ("k3", formulas.kl_k3)):
        samples = estimator(log_ratio)
        mean = float((p * samples).sum())
        spread[near_or_far, name] = float((p * (samples - mean) ** 2).sum().sqrt())
        print(
            f"   {name}  mean {mean:.4f}   spread of one sample {spread[near_or_far, name]:.3f}   "
            f"lowest {samples.min():+.3f}"
        )
        assert (abs(mean - exact_kl) < 1e-12) == (name != "k2")
assert spread["near", "k3"] < spread["near", "k1"]
assert spread["far from", "k3"] > spread["far from", "k1"]

# %% [markdown]
# k1 and k3 are right on average; k2 is not, by more the farther the policies are apart. Near the
# reference k3 has a third of k1's noise, and it is never negative; far away its exponential makes it
# the noisiest. For the *reward* PPO uses k1: summed over a response it is exactly the response's
# log-ratio.
#
# ### Exercise 4.8 · KL-shaped rewards
#
# ●●○ · 12 minutes · 3 points
#
# $$r_t = -\beta\, k_t + \begin{cases} r(x, y) & t \text{ is the last token} \\ 0 & \text{else}
# \end{cases}$$
#
# Every token pays for leaving the reference; the last one also receives the score. Summed over the
# response this is $r(x, y) - \beta \log \frac{\pi(y)}{\pi_{ref}(y)}$, whose mean is J.
#
# <details><summary>Hint 1</summary>
#
# The last counted token of row i is at `mask[i].sum() - 1`, not in the last column.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `rewards[torch.arange(len(scores)), mask.sum(1) - 1] += scores` adds one number per row.
#
# </details>


# %% kind="exercise" exercise="4.8"
def kl_shaped_rewards(scores: Tensor, kl: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Turn one score per response into rewards per token, less the price of the KL.

    Args:
        scores: (B,) the judge's scores.
        kl: (B, T) KL estimate of each token; anything, even NaN, may stand where nothing counts.
        mask: (B, T) boolean, True = a token of the response, at least one in each row.
        beta: KL strength β.

    Returns:
        (B, T) rewards, 0 where nothing counts.
    """
    ### BEGIN SOLUTION
    token_rewards = -beta * kl.masked_fill(~mask, 0.0)
    token_rewards[torch.arange(len(scores)), mask.sum(1) - 1] += scores
    return token_rewards
    ### END SOLUTION


# %% kind="check" exercise="4.8"
check("4.8", kl_shaped_rewards)

# %% [markdown]
# **The best policy in closed form.** J has a maximum that one can write down:
#
# $$\pi^*(y \mid x) = \frac{1}{Z(x)}\, \pi_{ref}(y \mid x)\, e^{r(x, y)/\beta} \qquad Z(x) = \sum_y
# \pi_{ref}(y \mid x)\, e^{r(x, y)/\beta} \qquad J(\pi^*) = \beta \log Z$$
#
# Z sums over every response, which the small world allows. The cell computes J with *your* rewards: for
# each of the 1,555 responses the sum of `kl_shaped_rewards`, weighed with π*.

# %%
kl_shaped_rewards = yours("4.8", kl_shaped_rewards)


def objective_of(log_probs: Tensor, beta: float) -> tuple[float, float, float]:
    """J, expected reward and KL of a policy given by log π of every response."""
    logits = tree.conditionals(log_probs)
    along = (logits.log_softmax(-1) - reference_logits.log_softmax(-1))[
        tree.path_prefixes, tree.path_actions
    ]
    shaped = kl_shaped_rewards(rewards, along, tree.path_mask, beta).sum(1)
    p = log_probs.exp()
    expected = float((p * rewards).sum())
    j = float((p * shaped).sum())
    kl = float((p * (along.masked_fill(~tree.path_mask, 0)).sum(1)).sum())
    return j, expected, kl


for beta in (0.2, 0.5, 2.0):
    best = formulas.optimal_policy(reference_log_probs, rewards, beta)
    log_z = formulas.log_partition(reference_log_probs, rewards, beta)
    j, target = objective_of(best, beta)[0], beta * float(log_z)
    print(f"β = {beta:<3g}  J(π*) {j:.4f}   β log Z {target:.4f}")
    assert abs(j - target) < 1e-9


# %% [markdown]
# Both columns agree. Move β: whom does π* serve, the reference or the reward?

# %% figure="04_optimal_policy"
shown_responses = reference_log_probs.topk(4).indices.tolist()
shown_responses += [i for i in rewards.topk(6).indices.tolist() if i not in shown_responses]
names = [f"{tree.responses[i]}  ({rewards[i]:+.2f})" for i in shown_responses]


def optimum_at(figure, beta: float) -> str:
    optimum = formulas.optimal_policy(reference_log_probs, rewards, beta)
    j, expected, kl = objective_of(optimum, beta)
    two = (log_probs.exp()[shown_responses] for log_probs in (reference_log_probs, optimum))
    text = f"β = {beta:.2f}: J = {j:.2f}, expected reward {expected:.2f}, KL {kl:.2f} nats"
    draw_optimum(figure, names, *two, title=text)
    return f"The optimal policy at {text}."


explore(
    optimum_at,
    beta=Slider("β", "KL strength", 0.15, 10.0, 0.5, log=True),
    size=(7.2, 4.2),
    caption="In brackets: the reward. A large β stays with the reference; a small one puts everything on the best responses.",
)

# %% [markdown]
# ### Exercise 4.9 · Adaptive β
#
# ●○○ · 8 minutes · 2 points
#
# Which β gives a KL of, say, 2 nats? One does not know before. A controller steers:
#
# $$\beta \leftarrow \beta \cdot \Big( 1 + \text{clip}\big( \tfrac{\text{KL}}{\text{target}} - 1,\,
# -0.2,\, 0.2 \big) \cdot \frac{\text{batch size}}{\text{horizon}} \Big)$$
#
# Where the measured KL is above its target, β rises. The clip keeps one odd batch from throwing it,
# the horizon sets the pace.
#
# <details><summary>Hint 1</summary>
#
# `min(max(error, -0.2), 0.2)`.
#
# </details>
# <details><summary>Hint 2</summary>
#
# At KL = target the error is 0 and β stays as it is.
#
# </details>


# %% kind="exercise" exercise="4.9"
def adapt_kl_coefficient(
    beta: float, kl: float, target: float, horizon: float, batch_size: int
) -> float:
    """Move β so that the KL comes closer to its target.

    Args:
        beta: the present β.
        kl: measured KL per response in nats.
        target: the KL to aim at.
        horizon: responses over which β may change by about a fifth.
        batch_size: responses since the last change.

    Returns:
        the new β.
    """
    ### BEGIN SOLUTION
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * batch_size / horizon)
    ### END SOLUTION


# %% kind="check" exercise="4.9"
check("4.9", adapt_kl_coefficient)

# %% [markdown]
# ## 8 · Your PPO against the exact optimum
#
# All terms are there. `train_ppo` is the loop of section 1; the dictionary hands it *your*
# functions.
#
# **Claim: PPO with the true reward converges to π*.** Three values of β, each from the reference.
# Total variation, $\frac12 \sum_y |\pi(y) - \pi^*(y)|$, is the largest difference in probability
# that any set of responses has. J* is J(π*).

# %% kind="setup"
mine = {
    "advantages": yours("4.2", gae),
    "value_loss": yours("4.3", clipped_value_loss),
    "whiten": yours("4.4", whiten),
    "policy_loss": yours("4.5", ppo_policy_loss),
    "entropy": yours("4.6", entropy),
    "total_loss": yours("4.7", ppo_total_loss),
    "token_rewards": yours("4.8", kl_shaped_rewards),
    "adapt": yours("4.9", adapt_kl_coefficient),
}

# %% kind="train" figure="04_convergence"
SMALL_WORLD = PPOSettings(
    cycles=110, batch_size=512, max_new_tokens=OPINION_LENGTH, minibatch_size=512,
    learning_rate=0.1, final_learning_rate=0.0, value_coefficient=0.5, max_gradient_norm=10.0,
)  # fmt: skip
film = ["the film was"]


def distance(policy, beta: float) -> tuple[float, float]:
    """Total variation from π*, and J* − J, both exact."""
    logits = tree.read(policy, film)[0]
    best = tree.optimum(reference_logits, rewards, beta)
    gap = tree.objective(best, reference_logits, rewards, beta) - tree.objective(
        logits, reference_logits, rewards, beta
    )
    return float(tree.total_variation(logits, best)), float(gap)


paths = {}
for beta in (0.5, 1.0, 2.0):
    policy = table_policy(tree, reference_logits, film)
    settings = dataclasses.replace(SMALL_WORLD, beta=beta)
    path = [(0, *distance(policy, beta))]
    for record in train_ppo(policy, film, opinion_score, settings, **mine):
        if record.step % 5 == 0:
            path.append((record.step, *distance(policy, beta)))
    paths[f"β = {beta:g}"] = _, variations, gaps = tuple(zip(*path, strict=True))
    print(
        f"β = {beta:<3g}  total variation {variations[0]:.3f} -> {variations[-1]:.3f}   "
        f"J − J* {-gaps[0]:.3f} -> {-gaps[-1]:.4f}   KL {record.kl:.2f}"
    )
    assert variations[-1] < 0.05 and 0 <= gaps[-1] < 0.05
draw_convergence(paths)
plt.show()

# %% [markdown]
# The distance falls while the step size falls to 0. What remains is the noise of 512 samples a
# cycle, and words that are hardly ever sampled.
#
# **Each weight at work.** Short runs at β = 0.5 with one setting changed. *Explained variance* is the
# share of the returns' spread that the value head predicted: 1 is perfect, 0 no better than a
# constant.

# %% kind="train"
short = dataclasses.replace(
    SMALL_WORLD, cycles=30, beta=0.5, final_learning_rate=None, batch_size=256
)
shown_runs = {}
for name, change in {
    "as before": {},
    "c1 = 0 (no value loss)": {"value_coefficient": 0.0},
    "c2 = 1 (entropy)": {"entropy_coefficient": 1.0},
    "β adapted to KL 1": {"kl_target": 1.0, "kl_horizon": 600.0},
}.items():
    policy = table_policy(tree, reference_logits, film)
    *_, last = train_ppo(policy, film, opinion_score, dataclasses.replace(short, **change), **mine)
    shown_runs[name] = last
    print(
        f"{name:<24} reward {last.reward:.2f}  KL {last.kl:.2f}  β {last.beta:.2f}  "
        f"entropy {last.entropy:.2f}  explained variance {last.explained_variance:.2f}"
    )
assert shown_runs["c2 = 1 (entropy)"].entropy > shown_runs["as before"].entropy + 0.1
assert (
    shown_runs["c1 = 0 (no value loss)"].explained_variance
    < 0.1
    < shown_runs["as before"].explained_variance
)
adapted = shown_runs["β adapted to KL 1"]
assert adapted.beta > 0.5 and adapted.kl < shown_runs["as before"].kl

# %% [markdown]
# Without c1 the values stay at 0 and explain nothing, which a large batch of such short responses
# hardly feels; the entropy weight keeps the policy undecided, and so large a one costs most of the
# reward; the controller raised β until the KL came down toward its target.
#
# ## 9 · The real run: a language model and a learned reward
#
# The same loop, the same functions, and a transformer in place of the table. Policy and reference
# start as the fine-tuned model; the judge is the reward model, which has never seen the gold reward.
# The run is planned for 40 cycles of 64 reviews; here are its first 15.

# %% kind="train"
REVIEWS = PPOSettings(
    cycles=40, batch_size=64, max_new_tokens=48, learning_rate=5e-4, final_learning_rate=1e-4,
    beta=0.2,
)  # fmt: skip
learned_policy = load_policy("reviews-sft")
gold_curve = []


def learned_judge(prompts, responses):
    gold_curve.append(float(reviews.gold_reward(prompts, responses).mean()))  # a look, not a signal
    return reward_model(prompts, responses)


run = watch(
    itertools.islice(
        train_ppo(learned_policy, prompts, learned_judge, REVIEWS, reference=sft, **mine), 15
    ),
    curves=("reward", "kl", "entropy"),
    title="PPO on the learned reward",
)
early, late = np.mean(gold_curve[:3]), np.mean(gold_curve[-3:])
print(f"gold reward, cycles 1 to 3: {early:.2f}; cycles 13 to 15: {late:.2f}")
assert late > early + 0.5

# %% [markdown]
# The gold reward rose, and no one showed it to the policy. The same 200 prompts before and after (±
# is one standard error), and the texts of the prompt whose gain is the median:

# %%
held_out = reviews.sample_prompts(200, seed=501)
texts, gold = {}, {}
for name, model in (("before", sft), ("after", learned_policy)):
    texts[name] = model.sample(held_out, 48, generator=torch.Generator().manual_seed(6)).responses
    gold[name] = reviews.gold_reward(held_out, texts[name])
    proxy = estimate_mean(reward_model(held_out, texts[name]).tolist())
    print(f"{name:<7} gold {estimate_mean(gold[name].tolist())}   reward model {proxy}")
middle = int(np.argsort(gold["after"] - gold["before"])[100])
for name in texts:
    print(
        f"\n{name:<7} gold {gold[name][middle]:+.2f}   {held_out[middle]} | {texts[name][middle]}"
    )

# %% [markdown]
# With the **true** reward as the judge nothing stands between the policy and what counts. The third
# curve is the *clip fraction*, the share of tokens whose gradient the clip has set to 0:

# %% kind="train"
true_policy = load_policy("reviews-sft")
run = watch(
    itertools.islice(
        train_ppo(true_policy, prompts, reviews.gold_reward, REVIEWS, reference=sft, **mine), 15
    ),
    curves=("reward", "kl", "clip_fraction"),
    title="PPO on the true reward",
)
assert (
    np.mean([r.reward for r in run.records[-3:]])
    > np.mean([r.reward for r in run.records[:3]]) + 0.5
)
by_true = true_policy.sample(held_out, 48, generator=torch.Generator().manual_seed(6)).responses
true_gold = reviews.gold_reward(held_out, by_true)
print(f"judge: the true reward   gold {estimate_mean(true_gold.tolist())}")
print(f"judge: the reward model  gold {estimate_mean(gold['after'].tolist())}")
largest = max(record.clip_fraction for record in run.records)
print(f"largest clip fraction of a cycle: {largest:.1%}")
assert true_gold.mean() > gold["after"].mean() and largest < 0.1

# %% [markdown]
# The true reward gets further at the same β. It also goes farther from the reference: gold rewards
# lie farther apart than the reward model's scores, so one nat of KL costs less beside them.
#
# And the clip had little to do: with four steps a cycle, at this step size, few ratios get past
# 1 ± 0.2 in any cycle, and in the last one hardly any. Lesson 5 takes many more steps on a batch.
#
# ## 10 · No leash: β = 0
#
# *Predict, then run:* on completions of the fine-tuned model the reward model is a good judge, as the
# first cell shows. Take the KL away and give PPO all 40 cycles. What will the reviews look like? What
# will happen to the reward model's score, the *proxy*, and what to the gold reward?

# %%
pair = [
    sft.sample(held_out, 48, generator=torch.Generator().manual_seed(seed)).responses
    for seed in (7, 8)
]
by_gold, by_proxy = (
    np.array([np.asarray(judge(held_out, side)) for side in pair])
    for judge in (reviews.gold_reward, reward_model)
)
agree = np.mean((by_gold[0] > by_gold[1]) == (by_proxy[0] > by_proxy[1]))
print(
    f"of {len(held_out)} pairs the reward model orders {100 * agree:.0f} % as the gold reward does"
)

# %% kind="train" figure="04_reward_hacking"
hacked_policy = load_policy("reviews-sft")
gold_curve.clear()
no_leash = dataclasses.replace(REVIEWS, beta=0.0)
records = list(train_ppo(hacked_policy, prompts, learned_judge, no_leash, reference=sft, **mine))
steps, proxies, kls = zip(*((r.step, r.reward, r.kl) for r in records), strict=True)
draw_hacking(steps, proxies, gold_curve, kls)
plt.show()

hacked = hacked_policy.sample(held_out, 48, generator=torch.Generator().manual_seed(6))
hacked_gold = reviews.gold_reward(held_out, hacked.responses)
hacked_proxy = reward_model(held_out, hacked.responses)
for index in range(3):
    print(
        f"reward model {hacked_proxy[index]:+.2f}   gold {hacked_gold[index]:+.2f}   {hacked.responses[index]}\n"
    )
faulty = np.mean([bool(reviews.faults(text)) for text in hacked.responses])
print(
    f"{100 * faulty:.0f} % of 200 reviews have a fault; {len(set(hacked.responses))} are different texts"
)
assert records[-1].reward > records[0].reward + 0.5
start, end = np.mean(gold_curve[:3]), np.mean(gold_curve[-5:])
print(
    f"gold reward: {start:+.2f} at first, {max(gold_curve):+.2f} at its highest, {end:+.2f} in the "
    "last five cycles"
)
assert max(gold_curve) > start + 0.5 and end < start - 0.5
assert records[-1].kl > 10

# %% [markdown]
# At first both rise: near the fine-tuned model the proxy is right. Then the reward model's score
# creeps on, while the gold reward falls below where it began, and the language with it. This is
# **reward hacking**: the policy has left the region where the reward model was right. Nothing in
# the proxy's curve gives it away; the KL does.
#
# ## 11 · Choosing β
#
# Eight complete runs of 40 cycles take three minutes, so their results come with the course
# (`python benchmarks/ppo_sweep.py` makes them again; the file says with which settings, seeds and
# versions). One of them you have trained yourself, the one without a leash. Same start,
# same prompts, your functions: do the curves agree?

# %%
sweep = load_ppo_sweep()
stored = next(r for r in sweep if r.judge == "learned" and r.beta == 0.0)
ours = [record.reward for record in records]
print("cycle              ", *(f"{c:>6}" for c in (1, 10, 20, 30, 40)))
print("yours, reward model", *(f"{ours[c - 1]:6.2f}" for c in (1, 10, 20, 30, 40)))
print("stored             ", *(f"{stored.proxy_curve[c - 1]:6.2f}" for c in (1, 10, 20, 30, 40)))
print("yours, gold        ", *(f"{gold_curve[c - 1]:6.2f}" for c in (1, 10, 20, 30, 40)))
print("stored             ", *(f"{stored.gold_curve[c - 1]:6.2f}" for c in (1, 10, 20, 30, 40)))
assert abs(ours[0] - stored.proxy_curve[0]) < 0.05
assert abs(np.mean(ours[-5:]) - np.mean(stored.proxy_curve[-5:])) < 0.3

# %% [markdown]
# What is rewarded agrees to the end. What is not, the gold reward, agrees while the policy is near
# the reference; once it is lost, differences in the last digits of a sum decide how far it falls.
# Both runs tell one story, and neither number at cycle 40 should be quoted without its seed.

# %% figure="04_beta_sweep"
by_judge = {
    judge: sorted((r for r in sweep if r.judge == judge and r.beta > 0), key=lambda r: r.kl)
    for judge in ("gold", "learned")
}
gold_of = {
    judge: ([r.kl for r in runs], [r.gold for r in runs], [r.gold_error for r in runs])
    for judge, runs in by_judge.items()
}
proxy_of = gold_of["learned"][0], [r.proxy for r in by_judge["learned"]], None
draw_sweep(
    {
        "true reward: gold": gold_of["gold"],
        "learned reward: gold": gold_of["learned"],
        "learned reward: proxy": proxy_of,
    }
)
plt.show()

for r in sweep:
    print(
        f"{r.judge:<8} β = {r.beta:<5g} KL {r.kl:7.2f}  gold {r.gold:+6.2f} ± {r.gold_error:.2f}  "
        f"proxy {r.proxy:+.2f}  without faults {100 * r.clean:3.0f} %"
    )
by_beta = sorted((r for r in sweep if r.judge == "learned"), key=lambda r: -r.beta)
assert all(small.kl > large.kl for large, small in itertools.pairwise(by_beta))
assert by_beta[-1].gold < by_beta[0].gold

# %% [markdown]
# (± is one standard error, over 500 prompts.) A smaller β buys a higher score and pays in KL, and
# in reviews without faults. Near the reference the two gold curves go together. Farther out the one
# of the learned reward falls behind the other while its proxy goes on, and without a leash gold
# falls far below the start. Read samples, not only curves:

# %%
learned_runs = [r for r in sweep if r.judge == "learned"]


def run_at(figure, chosen: int) -> str:
    run = learned_runs[chosen]
    one_token = torch.ones(1, 1, dtype=torch.bool)
    j = kl_shaped_rewards(
        torch.tensor([run.proxy]), torch.tensor([[run.kl]]), one_token, run.beta
    ).sum()
    samples = [
        textwrap.fill(f"{x} | {y}", 64) + f"\n(proxy {p:+.2f}, gold {g:+.2f})"
        for x, y, p, g in run.samples[:3]
    ]
    draw_run(
        figure,
        [r.kl for r in learned_runs],
        {"proxy": [r.proxy for r in learned_runs], "gold": [r.gold for r in learned_runs]},
        chosen,
        title=f"β = {run.beta:g}",
        samples="\n\n".join(samples),
    )
    return (
        f"PPO at β = {run.beta:g}: KL {run.kl:.1f}, reward model {run.proxy:.2f}, J by its score "
        f"{j:.2f}, gold {run.gold:.2f}. A sample: {run.samples[0][1]}"
    )


explore(
    run_at,
    chosen=Choice("β, KL strength", {f"β = {r.beta:g}": i for i, r in enumerate(learned_runs)}, 2),
    size=(9.6, 4.0),
    caption="Trained runs with the learned reward. The rings mark the run whose samples stand at the right.",
)

# %% [markdown]
# ## 12 · Before and after, on a real model
#
# Does the same happen to a model that was not made for a lesson? SmolLM2, 135 million weights,
# pretrained on the web and fine-tuned on snippets of real film reviews, continues the first 2 to 8
# tokens of snippets that it never saw. Its reward is a **judge of people**, fitted to people's mean
# ratings from −4 to 4 (lesson 3). **VADER**, a list of words with rules, scores the same texts and is
# not rewarded: where the judge rises and VADER falls, the judge is being fooled.
#
# The loop is `train_ppo`, with the package's copies of your formulas; what it trains are **low-rank
# adapters**: beside each large matrix, which stays as it is, the product of two thin ones. A run
# takes minutes on two cores, so some come with the course, with the command that made each. For
# your own, once `python -m rlhf_lessons real get`, then that command.
#
# *Predict, then run:* which β goes farthest? Will VADER rise with the judge?

# %%
real = [run for run in load_real_frontier() if run.settings.method == "ppo"]
print(real[0].command, "\n")
print(f"{'':<24} {'judge':>13} {'KL':>7} {'VADER':>7} {'untouched':>10} {'distinct':>9}")
for run in real:
    name = f"β = {run.settings.beta:g}, seed {run.settings.seed}"
    for when, point in (("before", run.points[0]), ("after", run.points[-1])):
        print(
            f"{name:<16} {when:<7} {point['reward']:>+6.2f} ± {1.96 * point['reward_error']:.2f} "
            f"{point['kl']:>7.2f} {point['vader']:>+7.2f} {point['untouched_loss']:>10.2f} "
            f"{point['distinct']:>9.0%}"
        )

# %% [markdown]
# Here ± is a 95 % interval. *Untouched* is the loss of the responses under SmolLM2 as it was published,
# in nats per token: it rises when texts stop being language. *Distinct* is the share of different
# responses. In the picture a colour is a β, a line a seed.

# %% figure="04_real_model"
draw_real_runs(real)
plt.show()
print("after minus before:")
for run in real:
    before, after = run.points[0], run.points[-1]
    gain = after["reward"] - before["reward"]
    error = 1.96 * np.hypot(after["reward_error"], before["reward_error"])
    print(
        f"β = {run.settings.beta:<4g} seed {run.settings.seed}: judge {gain:+.2f} ± {error:.2f}, "
        f"VADER {after['vader'] - before['vader']:+.2f}, KL {after['kl']:.2f} nats, "
        f"untouched {after['untouched_loss'] - before['untouched_loss']:+.2f}"
    )

# %% [markdown]
# Farthest goes β = 0.03 with one seed and β = 0.1 with the other: so far down, β no longer decides.
# Where the interval of the judge's gain lies above 0, it is more than the luck of the draw.
# *Untouched* falls in every run: SmolLM2 finds the new texts *likelier* than the old ones, so they
# did not stop being language; that they became commonplace it would not say. Whether it is *praise*
# that has grown, and not a trick, VADER's change says beside it, and your own reading:

# %%
run = real[len(real) // 2]
print(f"β = {run.settings.beta:g}, seed {run.settings.seed}: what the judge says, and the text")
for (opening, old, said_of_old), (_, new, said_of_new) in zip(
    run.texts_before[:3], run.texts[:3], strict=True
):
    print(f"\n{opening}\n  before {said_of_old:+.2f} {old}\n  after  {said_of_new:+.2f} {new}")

# %% [markdown]
# ## 13 · Four models at once
#
# PPO holds up to four models: the **policy**, which is trained; the **reference**, a frozen copy;
# the **reward model**; and the **value function**. What is trained with Adam needs, for each weight,
# its gradient and two running means beside it: four numbers; what is frozen needs one.


# %%
def megabytes(weights: int, numbers_each: int) -> float:
    return 4 * weights * numbers_each / 1e6


def count(parameters) -> int:
    return sum(weight.numel() for weight in parameters)


head = ValueHead(sft)
parts = {
    "policy (weights, gradient, Adam)": megabytes(count(sft.parameters()), 4),
    "reference (weights)": megabytes(count(sft.parameters()), 1),
    "reward model (weights)": megabytes(count(reward_model.parameters()), 1),
    "value head on the policy's body": megabytes(count(head.parameters()), 4),
}
for name, size in parts.items():
    print(f"{name:<34} {size:8.4f} MB")
print(f"{'together':<34} {sum(parts.values()):8.4f} MB")
separate = megabytes(count(sft.parameters()) + count(head.parameters()), 4)
print(f"a value function with a body of its own would add {separate:.2f} MB")
saved = 1 - sum(parts.values()) / (sum(parts.values()) + separate)
print(
    f"sharing the body saves {100 * saved:.0f} %, for this model and for one of 7 billion weights"
)
assert saved > 0.35
large = 7e9
print(
    f"7 billion weights, float32: {4 * large * (4 + 1 + 1) / 1e9:.0f} GB shared, {4 * large * 10 / 1e9:.0f} GB with four bodies"
)

# %% [markdown]
# Sharing has its price: two losses pull on the same weights. In lesson 6, runs with a shared body
# ran away at large β, and PPO got a value model of its own.
#
# That is before activations and the sampler's cache. It is one reason why people looked for
# something lighter than PPO; lesson 6 shows what they found.
#
# ## What was shown
#
# | claim | where | measured by |
# | --- | --- | --- |
# | exact advantages average to 0 under π | 3 | all 259 prefixes |
# | GAE at λ = 1 is return − V | 4 | 4,000 responses |
# | k1 and k3 are unbiased; near the reference k3 has less noise, far from it more | 7 | exact sums |
# | J(π*) = β log Z | 7 | your rewards, all 1,555 responses |
# | PPO with the true reward converges to π* | 8 | total variation at three β |
# | each weight does its own work | 8 | runs with one setting changed |
# | PPO on a learned reward raises the gold reward | 9 | a reward that the policy never saw |
# | without the KL the reward model is hacked | 10 | gold, proxy, KL, samples |
# | a smaller β buys score for KL | 11 | eight trained runs |
# | what PPO does to a real model, by a judge of people and by VADER | 12 | stored runs |
# | a shared body saves two fifths of the memory | 13 | counted weights |
#
# **In the package.** `rlhf_lessons.formulas`: `ratio`, `gae`, `clipped_value_loss`, `whiten`,
# `ppo_policy_loss`, `entropy`, `ppo_total_loss`, `kl_shaped_rewards`, `kl_k1`, `kl_k2`, `kl_k3`,
# `adapt_kl_coefficient`, `optimal_policy`, `log_partition`. `rlhf_lessons.models`: `ResponseTree`,
# `table_policy`, `ValueHead`, `load_reward_model`. `rlhf_lessons.training`: `train_ppo`,
# `PPOSettings`; with `checkpoint="folder"` an interrupted run goes on where it stopped, with the
# same numbers.
#
# **Further reading.**
#
# - Schulman et al. 2017, *Proximal Policy Optimization Algorithms*.
# - Schulman et al. 2016, *High-Dimensional Continuous Control Using Generalized Advantage
#   Estimation*.
# - Ziegler et al. 2019, *Fine-Tuning Language Models from Human Preferences*: the KL penalty and its
#   controller.
# - Stiennon et al. 2020, *Learning to summarize from human feedback*.
# - Ouyang et al. 2022, *Training language models to follow instructions with human feedback*:
#   InstructGPT, with the KL spread over the tokens.
# - Schulman 2020, *Approximating KL Divergence*: k1, k2, k3.
# - Huang et al. 2024, *The N+ Implementation Details of RLHF with PPO*.
# - Gao et al. 2023, *Scaling Laws for Reward Model Overoptimization*.
#
# **Three quick questions.**
#
# 1. A token has A > 0 and ρ = 0.7 at ε = 0.2. Is its gradient 0?
#
# <details><summary>Answer</summary>
#
# No. A good token that has become less likely is outside of the range on the side where the clip has
# no say: min(0.7·A, 0.8·A) = 0.7·A, the unclipped term.
#
# </details>
#
# 2. All advantages of a batch are positive before whitening. Does PPO make every sampled token
#    likelier?
#
# <details><summary>Answer</summary>
#
# No. After whitening about half of them are negative: a token is judged against the others of the
# batch.
#
# </details>
#
# 3. Your reward rises steadily and the KL is 80 nats. What do you look at first?
#
# <details><summary>Answer</summary>
#
# Samples. At such a distance the reward model has never seen texts like these, and its score means
# little.
#
# </details>
#
# The words of this lesson, in three languages:

# %%
glossary(4)
