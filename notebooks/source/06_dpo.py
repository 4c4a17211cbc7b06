# %% [markdown]
# # Lesson 6 · DPO, derived and measured
#
# PPO needs a reward model, a value function, a reference and fresh samples at every step, and
# tuning for each. **Direct preference optimisation** (DPO) needs pairs and one loss. This lesson
# derives that loss line by line, executes every line where all responses can be listed, trains with
# it, measures it against the other methods with intervals, and then breaks it on purpose.
#
# **After this lesson you can**
#
# - give the best policy for a reward in closed form, and read the reward off a policy;
# - derive DPO's loss and its gradient, and say what the weight in it does;
# - compare methods fairly: reward against KL, several seeds, win rates with intervals;
# - say what DPO can't see, why the log-probability of *chosen* responses falls, and what label
#   smoothing and IPO change.
#
# **Time** about 135 minutes, 9 exercises, 22 points. **Needs** Bradley-Terry (lesson 3) and the
# objective of RLHF (lesson 4). Two CPU cores are enough, and no network.

# %% kind="setup"
import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lessons import formulas
from rlhf_lessons.classroom import Choice, Slider, check, explore, glossary, use_style, watch, yours
from rlhf_lessons.classroom.pictures.dpo import (
    draw_distances,
    draw_frontier,
    draw_margin_losses,
    draw_policies,
    draw_position,
    draw_power_laws,
    draw_real_frontier,
)
from rlhf_lessons.evaluation import (
    FrontierSettings,
    fit_power_law,
    frontier_point,
    load_frontier,
    load_people_agreement,
    load_people_scores,
    load_real_frontier,
)
from rlhf_lessons.models import ResponseTree, load_policy
from rlhf_lessons.training import DPOSettings, SupervisedSettings, train_dpo, train_sft
from rlhf_lessons.worlds import NoisyComparer, label_pairs, reviews

torch.set_num_threads(1)  # the same numbers on every run
use_style()

# %% [markdown]
# ## 1 · What is unpleasant about PPO
#
# RLHF wants the policy with the highest
#
# $$J(\pi) = \mathbb{E}_{x,\; y \sim \pi(\cdot \mid x)}\big[r(x, y)\big] - \beta \,
# \mathrm{KL}\big(\pi \,\|\, \pi_\text{ref}\big)$$
#
# The road of lessons 3 to 5: fit r to comparisons, then climb J by sampling. Four things hurt.
# *Complexity*: two stages, four models. *Memory*: policy, reference, reward and value at once.
# *Stability*: ε, λ, epochs, value loss, step size. *A free constant*: comparisons fix r only up to
# a number c(x) for each prompt, which the value function must then learn for nothing.
#
# Yet J has a **closed-form** maximum. Maybe no search is needed at all. To watch that happen we take
# a world in which every response can be listed: at most four tokens over three words, so 121
# responses, and two prompts. Each sum over responses below is a sum over all of them.

# %% kind="setup"
tree = ResponseTree(["good", "bad", "very"], longest=4)
PROMPTS = ("a comedy", "a western")
draw = torch.Generator().manual_seed(1)
reference_logits = 0.7 * torch.randn(2, *tree.leaf.shape, generator=draw, dtype=torch.float64)
ref = tree.response_log_probs(reference_logits)  # (2 prompts, 121 responses): log π_ref(y | x)


def opinion(response: str) -> float:
    """Praise counts +0.4, blame −0.4, "very" doubles what follows; each word costs a little."""
    total, strength = 0.0, 1.0
    for word in response.split():
        if word == "very":
            strength = min(2 * strength, 4.0)
        else:
            total += 0.4 * strength if word == "good" else -0.4 * strength
            strength = 1.0
    return total - 0.05 * len(response.split())


opinions = torch.tensor([opinion(response) for response in tree.responses], dtype=torch.float64)
r = torch.stack([opinions + 3.0, opinions - 2.0])  # comedies are liked more: c(x) differs

# %%
print(tree)
for x, prompt in enumerate(PROMPTS):
    print(f"\n{prompt}: the responses that the reference likes best")
    for y in ref[x].topk(4).indices.tolist():
        print(f"  π_ref = {ref[x, y].exp():.3f}   r = {r[x, y]:+.1f}   “{tree.responses[y]}”")
assert torch.allclose(ref.exp().sum(-1), torch.ones(2, dtype=torch.float64), atol=1e-12)

# %% [markdown]
# ## 2 · The best policy in closed form
#
# Write J for one prompt as one sum, and pull −β out:
#
# $$J(\pi) = \sum_y \pi(y) \Big(r(y) - \beta \log \tfrac{\pi(y)}{\pi_\text{ref}(y)}\Big)
# = -\beta \sum_y \pi(y) \log \frac{\pi(y)}{\pi_\text{ref}(y)\, e^{r(y)/\beta}}$$
#
# The denominator is positive but does not add up to 1. Divide it by its sum $Z(x) = \sum_y
# \pi_\text{ref}(y \mid x)\, e^{r(x,y)/\beta}$, and call the result π*:
#
# $$\pi^*(y \mid x) = \frac{1}{Z(x)}\, \pi_\text{ref}(y \mid x)\, e^{r(x, y)/\beta}
# \qquad\Longrightarrow\qquad J(\pi) = \beta \log Z(x) - \beta \,\mathrm{KL}(\pi \,\|\, \pi^*)$$
#
# Z does not depend on π. A KL is never negative, and 0 only where both are equal (**Gibbs'
# inequality**). So π* is the best policy, the only one, and it reaches β · log Z.
#
# ### Exercise 6.1 · The best policy
#
# ●○○ · 8 min · 2 points
#
# $$\log Z(x) = \log \sum_y e^{\log \pi_\text{ref}(y \mid x) + r(x, y)/\beta} \qquad
# \log \pi^*(y \mid x) = \log \pi_\text{ref}(y \mid x) + r(x, y)/\beta - \log Z(x)$$
#
# *Why logarithms throughout?* At β = 0.03 and r = 60, $e^{r/\beta}$ has 869 digits.
#
# <details><summary>Hint 1</summary>
#
# Both parts need `tilted = reference_log_probs + rewards / beta`. Each row is one prompt.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `torch.logsumexp(tilted, dim=-1)` gives log Z of shape (P,). To subtract it from (P, Y), give it a
# last dimension with `unsqueeze(-1)`.
#
# </details>


# %% kind="exercise" exercise="6.1"
def best_policy(reference_log_probs: Tensor, rewards: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Give log Z and the policy with the highest J, over enumerated responses.

    Args:
        reference_log_probs: (P, Y) log π_ref(y | x) in nats.
        rewards: (P, Y) r(x, y).
        beta: KL strength β above 0.

    Returns:
        (P,) log Z(x), and (P, Y) log π*(y | x).
    """
    ### BEGIN SOLUTION
    tilted = reference_log_probs + rewards / beta
    log_z = torch.logsumexp(tilted, dim=-1)
    return log_z, tilted - log_z.unsqueeze(-1)
    ### END SOLUTION


# %% kind="check" exercise="6.1"
check("6.1", best_policy)

# %% kind="setup"
best_policy = yours("6.1", best_policy)
BETA = 0.5
log_z, best = best_policy(ref, r, BETA)

# %% [markdown]
# **Claim: nothing beats π*, and what a policy lacks is β · KL(π ‖ π*).** The cell draws 2,000 policies,
# near π* and far from it, and compares both sides of the last equation.

# %%
rivals = best + 10 ** torch.linspace(-2, 1, 2000, dtype=torch.float64)[:, None, None] * torch.randn(
    2000, *best.shape, generator=draw, dtype=torch.float64
)
rivals = rivals.log_softmax(-1)


def objective(log_policy: Tensor) -> Tensor:
    """J(π) = Σ π · (r − β · log π/π_ref), summed over all responses."""
    return (log_policy.exp() * (r - BETA * (log_policy - ref))).sum(-1)


kl_to_best = (rivals.exp() * (rivals - best)).sum(-1)
error = (objective(rivals) - (BETA * log_z - BETA * kl_to_best)).abs().max()
print(f"J(π*)            {objective(best).tolist()}")
print(f"β · log Z        {(BETA * log_z).tolist()}")
print(f"best of 2,000    {objective(rivals).max(0).values.tolist()}")
print(f"largest error of J(π) = β log Z − β KL(π ‖ π*): {float(error):.1e}")
assert float((objective(best) - BETA * log_z).abs().max()) < 1e-9 and float(error) < 1e-9
assert bool((objective(rivals) < objective(best)).all())

# %% [markdown]
# Drag β. Grey is the reference, blue your π*. At a large β nothing moves; near 0 everything goes to
# the two responses that share the highest reward. In between π* trades reward for distance, and the title says at what price.

# %%
SHOWN = (best[0] + ref[0]).topk(12).indices.tolist()


def show_best(figure, prompt, beta):
    x = PROMPTS.index(prompt)
    _, tilted = best_policy(ref, r, beta)
    p, q = tilted[x].exp(), ref[x].exp()
    kl = float((p * (tilted[x] - ref[x])).sum())
    gain = float((p * r[x]).sum() - (q * r[x]).sum())
    names = [tree.responses[y] or "(nothing)" for y in SHOWN]
    title = f"β = {beta:.3g}: {gain:+.2f} reward above π_ref, for a KL of {kl:.2f} nats"
    draw_policies(figure, names, q[SHOWN].tolist(), p[SHOWN].tolist(), title)
    top = int(p.argmax())
    return (
        f"At beta {beta:.3g} the best policy gains {gain:.2f} reward for {kl:.2f} nats; its "
        f"likeliest response is {tree.responses[top] or '(nothing)'} with {float(p[top]):.2f}"
    )


explore(
    show_best,
    caption="Your best_policy at work. The rewards stay; β says how far the policy may go for them.",
    prompt=Choice("prompt", list(PROMPTS)),
    beta=Slider("β", "KL strength", 0.05, 20.0, 0.5, log=True),
)

# %% [markdown]
# So why did anyone need PPO? Because Z is a sum over *all* responses. Here 121; for the review model
# with 304 tokens and up to 48 of them $304^{48} \approx 10^{119}$. π* is known up to a number that
# nobody can compute, and a policy known up to that number cannot be sampled token by token.
#
# ## 3 · Turn it round
#
# If we can't go from r to π*, go from π* to r. Take the logarithm of the definition and solve:
#
# $$r(x, y) = \beta \log \frac{\pi^*(y \mid x)}{\pi_\text{ref}(y \mid x)} + \beta \log Z(x)$$
#
# Every policy is the best one for *some* reward: this one.
#
# ### Exercise 6.2 · The reward that a policy implies
#
# ●○○ · 5 min · 2 points
#
# Undo exercise 6.1: from log π*, log π_ref and log Z give back r, by the equation above.
#
# *Why?* This step carries the whole idea. It says that a policy *is* a reward model.
#
# <details><summary>Hint 1</summary>
#
# β multiplies the log-ratio *and* log Z.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `log_z` has shape (P,), the others (P, Y): `log_z.unsqueeze(-1)`.
#
# </details>


# %% kind="exercise" exercise="6.2"
def implied_reward(
    policy_log_probs: Tensor, reference_log_probs: Tensor, log_z: Tensor, beta: float
) -> Tensor:
    """Give the reward whose best policy this policy is.

    Args:
        policy_log_probs: (P, Y) log π*(y | x) in nats.
        reference_log_probs: (P, Y) log π_ref(y | x) in nats.
        log_z: (P,) log Z(x).
        beta: KL strength β above 0.

    Returns:
        (P, Y) r(x, y).
    """
    ### BEGIN SOLUTION
    return beta * (policy_log_probs - reference_log_probs + log_z.unsqueeze(-1))
    ### END SOLUTION


# %% kind="check" exercise="6.2"
check("6.2", implied_reward)

# %%
implied_reward = yours("6.2", implied_reward)

error = float((implied_reward(best, ref, log_z, BETA) - r).abs().max())
print(f"r -> π* -> r: largest error {error:.1e}")
assert error < 1e-6

# %% [markdown]
# ## 4 · The constant that nobody can see
#
# Now put that reward into Bradley-Terry. Two responses to **the same prompt**:
#
# $$P(y_1 \succ y_2) = \sigma\big(r(x, y_1) - r(x, y_2)\big) = \sigma\Big(\beta \log
# \tfrac{\pi^*(y_1 \mid x)}{\pi_\text{ref}(y_1 \mid x)} - \beta \log \tfrac{\pi^*(y_2 \mid x)}
# {\pi_\text{ref}(y_2 \mid x)}\Big)$$
#
# β · log Z(x) stood in both and has **cancelled**. The number that nobody can compute is not needed.

# %%
from_rewards = torch.sigmoid(r[:, :, None] - r[:, None, :])  # P(y₁ ≻ y₂) of all 121² pairs
log_ratio = BETA * (best - ref)
from_policy = torch.sigmoid(log_ratio[:, :, None] - log_ratio[:, None, :])
error = float((from_rewards - from_policy).abs().max())
print(f"{from_rewards.numel():,} preference probabilities, largest difference {error:.1e}")
assert error < 1e-6

# %% [markdown]
# Is something lost, when the reward must be a log-ratio? A policy adds up to 1, so its log-ratios are
# tied together; a reward is not. Take any r and add c(x). Preferences and π* stay. Rewards that
# differ by such a shift form one class, and in each class exactly one member has Z = 1. That one is a
# log-ratio, β · log(π*/π_ref). So the classes and the policies match **one to one**: nothing that
# comparisons can tell is lost, and the free constant is gone.
#
# ### Exercise 6.3 · One reward of many
#
# ●●○ · 8 min · 3 points
#
# Pick the member of the class that has Z = 1:
#
# $$r'(x, y) = r(x, y) - \beta \log Z(x)$$
#
# *Why it works, by hand:* $Z' = \sum \pi_\text{ref}\, e^{r'/\beta} = \sum \pi_\text{ref}\,
# e^{r/\beta}\, e^{-\log Z} = Z / Z = 1$. And if $r$ becomes $r + c(x)$, then $\log Z$ grows by
# $c(x)/\beta$, so that $r'$ stays.
#
# <details><summary>Hint 1</summary>
#
# log Z as in exercise 6.1, one number per prompt.
#
# </details>
# <details><summary>Hint 2</summary>
#
# With `keepdim=True`, `logsumexp` keeps the shape (P, 1), which subtracts from (P, Y).
#
# </details>


# %% kind="exercise" exercise="6.3"
def canonical_reward(reference_log_probs: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """Choose, among all rewards that differ by a constant per prompt, the one with log Z = 0.

    Args:
        reference_log_probs: (P, Y) log π_ref(y | x) in nats.
        rewards: (P, Y) r(x, y).
        beta: KL strength β above 0.

    Returns:
        (P, Y) r'(x, y).
    """
    ### BEGIN SOLUTION
    log_z = torch.logsumexp(reference_log_probs + rewards / beta, dim=-1, keepdim=True)
    return rewards - beta * log_z
    ### END SOLUTION


# %% kind="check" exercise="6.3"
check("6.3", canonical_reward)

# %%
canonical_reward = yours("6.3", canonical_reward)

shift = torch.tensor([[7.0], [-40.0]], dtype=torch.float64)
one, other = canonical_reward(ref, r, BETA), canonical_reward(ref, r + shift, BETA)
moved = (best_policy(ref, r + shift, BETA)[1] - best).abs().max()
print(f"shift the rewards by {shift.flatten().tolist()}:")
print(f"  r' changes by                       {float((one - other).abs().max()):.1e}")
print(f"  π* changes by                       {float(moved):.1e}")
print(f"  r' and β · log(π*/π_ref) differ by  {float((one - log_ratio).abs().max()):.1e}")
print(f"  log Z of r'                         {best_policy(ref, one, BETA)[0].abs().max():.1e}")
assert torch.allclose(one, other, atol=1e-6) and float(moved) < 1e-6
assert torch.allclose(one, log_ratio, atol=1e-6)

# %% [markdown]
# ## 5 · The loss
#
# Replace the unknown π* by the policy $\pi_\theta$ that we train, and call
#
# $$\hat r_\theta(x, y) = \beta \log \frac{\pi_\theta(y \mid x)}{\pi_\text{ref}(y \mid x)}$$
#
# its **implicit reward**. Maximum likelihood under Bradley-Terry, exactly the reward-model loss of
# lesson 3 with this special reward, is
#
# $$L_\text{DPO} = -\log \sigma\big(\hat r_\theta(x, y_w) - \hat r_\theta(x, y_l)\big)$$
#
# No reward model, no sampling, no value function. The policy is its own reward model.
#
# ### Exercise 6.4 · Implicit reward
#
# ●○○ · 6 min · 2 points
#
# A language model gives log-probabilities token by token. Sum them over the response (lesson 2), then
#
# $$\hat r = \beta \sum_t \big(\log \pi_\theta(y_t \mid x, y_{<t}) - \log \pi_\text{ref}(y_t \mid x,
# y_{<t})\big)$$
#
# *Why it matters:* public code has been found to average here. Then a response of 40 tokens weighs as
# little as one of 4, and the derivation no longer holds.
#
# <details><summary>Hint 1</summary>
#
# Subtract, clear what the mask leaves out, sum over tokens, multiply by β.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Anything may stand in the padding, even NaN, and NaN · 0 is NaN: `masked_fill(~mask, 0.0)`.
#
# </details>


# %% kind="exercise" exercise="6.4"
def implicit_reward(
    policy_log_probs: Tensor, reference_log_probs: Tensor, mask: Tensor, beta: float
) -> Tensor:
    """Give the reward for which this policy would be the best one, up to a constant per prompt.

    Args:
        policy_log_probs: (B, T) log π_θ of each token in nats; anything may stand in the padding,
            NaN too.
        reference_log_probs: (B, T) the same under the reference.
        mask: (B, T) boolean, True = a token of the response.
        beta: KL strength β above 0.

    Returns:
        (B,) implicit rewards.
    """
    ### BEGIN SOLUTION
    log_ratios = (policy_log_probs - reference_log_probs).masked_fill(~mask, 0.0)
    return beta * log_ratios.sum(-1)
    ### END SOLUTION


# %% kind="check" exercise="6.4"
check("6.4", implicit_reward)

# %% [markdown]
# ### Exercise 6.5 · DPO loss
#
# ●●○ · 10 min · 3 points
#
# From log-probabilities summed over responses:
#
# $$L = -\log \sigma\Big(\beta \underbrace{\big[(\log \pi_\theta(y_w) - \log \pi_\text{ref}(y_w)) -
# (\log \pi_\theta(y_l) - \log \pi_\text{ref}(y_l))\big]}_{h}\Big)$$
#
# One loss per pair. The reference is a constant: no gradient may reach it.
#
# *Why `logsigmoid`?* σ of −800 is 0 in floating point, and log 0 is −∞, though the true loss is 800.
#
# <details><summary>Hint 1</summary>
#
# Compute the margin h first, with `.detach()` on both reference terms.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `-logsigmoid(beta * h)`; PyTorch computes it without overflow.
#
# </details>


# %% kind="exercise" exercise="6.5"
def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> Tensor:
    """Give DPO's loss for each pair.

    Args:
        policy_chosen: (B,) log π_θ(y_w | x) in nats, summed over the response.
        policy_rejected: (B,) log π_θ(y_l | x).
        reference_chosen: (B,) log π_ref(y_w | x), a constant.
        reference_rejected: (B,) log π_ref(y_l | x), a constant.
        beta: KL strength β above 0.

    Returns:
        (B,) losses in nats.
    """
    ### BEGIN SOLUTION
    chosen = policy_chosen - reference_chosen.detach()
    rejected = policy_rejected - reference_rejected.detach()
    return -logsigmoid(beta * (chosen - rejected))
    ### END SOLUTION


# %% kind="check" exercise="6.5"
check("6.5", dpo_loss)

# %% [markdown]
# **Claims.** DPO's loss is Bradley-Terry's on implicit rewards. At the start, where policy and
# reference are one, every loss is log 2. And a number added to both responses of a pair changes nothing.

# %%
implicit_reward = yours("6.4", implicit_reward)
dpo_loss = yours("6.5", dpo_loss)

sums = [torch.randn(6, generator=draw, dtype=torch.float64) * 3 - 20 for _ in range(4)]
policy_w, policy_l, ref_w, ref_l = sums
everything = torch.ones(6, 1, dtype=torch.bool)
reward_w, reward_l = (
    implicit_reward(p[:, None], q[:, None], everything, BETA)
    for p, q in ((policy_w, ref_w), (policy_l, ref_l))
)
losses = dpo_loss(*sums, BETA)
shifted = dpo_loss(policy_w + 11, policy_l + 11, ref_w, ref_l, BETA)
print("DPO          ", [f"{loss:.4f}" for loss in losses.tolist()])
bradley_terry = formulas.bradley_terry_loss(reward_w, reward_l)
print("Bradley-Terry", [f"{loss:.4f}" for loss in bradley_terry.tolist()])
print(f"at the start {dpo_loss(ref_w, ref_l, ref_w, ref_l, BETA)[0]:.4f} = log 2")
assert torch.allclose(losses, bradley_terry, atol=1e-6)
assert torch.allclose(losses, shifted, atol=1e-6)
assert torch.allclose(dpo_loss(ref_w, ref_l, ref_w, ref_l, BETA), torch.tensor(2.0).log().double())

# %% [markdown]
# ## 6 · The gradient
#
# With $-\frac{d}{dz} \log \sigma(z) = -\sigma(-z)$ and $z = \hat r_w - \hat r_l$:
#
# $$\nabla_\theta L = -\beta\, \underbrace{\sigma(\hat r_l - \hat r_w)}_{\text{weight}}\,
# \Big[\underbrace{\nabla_\theta \log \pi_\theta(y_w)}_{\text{raise the chosen}} -
# \underbrace{\nabla_\theta \log \pi_\theta(y_l)}_{\text{lower the rejected}}\Big]$$
#
# ### Exercise 6.6 · How hard DPO pulls
#
# ●○○ · 5 min · 2 points
#
# $$w = \sigma(\hat r_l - \hat r_w) = \sigma(-\beta h)$$
#
# *Why it matters:* near 1 where the implicit reward has the pair wrong, ½ at the start, near 0 where the pair is
# learned. Without it DPO would push on and on at pairs long learned, and degenerate (*unlikelihood training*,
# section 11).
#
# <details><summary>Hint 1</summary>
#
# The margin h as in exercise 6.5; note the sign.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `torch.sigmoid(-beta * h)`. β in front of the gradient is not part of the weight.
#
# </details>


# %% kind="exercise" exercise="6.6"
def dpo_gradient_weight(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> Tensor:
    """Say how hard DPO pulls on each pair.

    Args:
        policy_chosen: (B,) log π_θ(y_w | x) in nats, summed over the response.
        policy_rejected: (B,) log π_θ(y_l | x).
        reference_chosen: (B,) log π_ref(y_w | x).
        reference_rejected: (B,) log π_ref(y_l | x).
        beta: KL strength β above 0.

    Returns:
        (B,) weights between 0 and 1.
    """
    ### BEGIN SOLUTION
    chosen = policy_chosen - reference_chosen
    rejected = policy_rejected - reference_rejected
    return torch.sigmoid(beta * (rejected - chosen))
    ### END SOLUTION


# %% kind="check" exercise="6.6"
check("6.6", dpo_gradient_weight)

# %% [markdown]
# **Claim: autograd of the loss equals the written gradient.** The parameters here are the logits of a
# table, one row per prefix; the cell compares the derivative of your loss with the formula, weight by
# your function.

# %%
dpo_gradient_weight = yours("6.6", dpo_gradient_weight)

theta = (reference_logits[0] + torch.randn(reference_logits[0].shape, generator=draw)).detach()
theta.requires_grad_(True)
win, lose = torch.randint(len(tree.responses), (2, 32), generator=draw)
log_pi = tree.response_log_probs(theta)
quartet = (log_pi[win], log_pi[lose], ref[0, win], ref[0, lose])
(by_autograd,) = torch.autograd.grad(dpo_loss(*quartet, BETA).mean(), theta, retain_graph=True)
weight = dpo_gradient_weight(*(tensor.detach() for tensor in quartet), BETA)
raised_and_lowered = (weight * (log_pi[win] - log_pi[lose])).mean()
(written,) = torch.autograd.grad(raised_and_lowered, theta)
error = float((by_autograd + BETA * written).abs().max())
print(f"weights of the first pairs: {[round(w, 3) for w in weight[:6].tolist()]}")
print(f"largest difference of {theta.numel()} derivatives: {error:.1e}")
assert error < 1e-6 < float(by_autograd.abs().max())

# %% [markdown]
# The left panel is the loss over the margin h, the right one the weight. β sets how many nats of margin
# count as "learned". The other losses are for section 12; come back then.

# %%
MARGINS = torch.linspace(-12, 12, 241, dtype=torch.float64)
NOTHING = torch.zeros_like(MARGINS)


def smoothed(*arguments):
    return formulas.label_smoothed_dpo_loss(*arguments, flip_probability=0.1)


OTHERS = {
    "none": None,
    "label smoothing, 10 %": smoothed,
    "IPO": formulas.ipo_loss,
    "hinge": formulas.hinge_preference_loss,
    "exponential": formulas.exponential_preference_loss,
}


def pull(loss, beta):
    """−dL/dh, which DPO's formula calls β times the weight."""
    h = MARGINS.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(loss(h, NOTHING, NOTHING, NOTHING, beta).sum(), h)
    return -slope


# %%
def show_loss(figure, beta, beside):
    pair = (MARGINS, NOTHING, NOTHING, NOTHING, beta)
    own, other = (dpo_loss(*pair), dpo_gradient_weight(*pair)), OTHERS[beside]
    draw_margin_losses(
        figure, MARGINS, own, None if other is None else (other(*pair), pull(other, beta) / beta)
    )
    return (
        f"At beta {beta:.2g} DPO's weight is {float(own[1][80]):.2f} at a margin of minus 4 nats "
        f"and {float(own[1][160]):.2f} at plus 4; shown beside it: {beside}"
    )


explore(
    show_loss,
    caption="Blue: your dpo_loss and dpo_gradient_weight. Orange, dashed: another loss of the same margin.",
    size=(8.2, 3.4),
    beta=Slider("β", "KL strength", 0.05, 2.0, 0.5, log=True),
    beside=Choice("beside DPO", list(OTHERS), "none"),
)

# %% [markdown]
# ## 7 · Does it get there?
#
# The derivation says: with *all* preferences known exactly, the minimum of DPO's loss is π*. Here they
# are known, $P(y_1 \succ y_2) = \sigma(r_1 - r_2)$, so the loss can be summed over all pairs, each as often
# as the reference would sample it. That is DPO on **population pairs**. Beside it the same loop on
# 2,000 and 20,000 *sampled* pairs per prompt, each labelled once.
#
# *Predict, then run:* how far from π* will 2,000 pairs end, against 121 responses?

# %%
Y = len(tree.responses)


def both_sides(log_p: Tensor) -> list[Tensor]:
    """List log p of the first and of the second response in all 2 · 121² pairs."""
    return [side.expand(2, Y, Y).flatten() for side in (log_p[:, :, None], log_p[:, None, :])]


def train_table(wins: Tensor, steps: int, loss=dpo_loss, beta: float = BETA):
    """Minimise Σ wins[x, i, j] · loss(i beats j) over a table; yield log π of all responses."""
    theta = reference_logits.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([theta], lr=0.2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        log_pi = tree.response_log_probs(theta)
        yield log_pi.detach()
        losses = loss(*both_sides(log_pi), *both_sides(ref), beta)
        optimizer.zero_grad()
        (wins.flatten() * losses).sum().backward()
        optimizer.step()
        schedule.step()
    yield tree.response_log_probs(theta).detach()


def sampled_wins(count: int, seed: int) -> Tensor:
    """Sample pairs from the reference, label each once by Bradley-Terry; shares of (i beats j)."""
    generator = torch.Generator().manual_seed(seed)
    wins = torch.zeros(2, Y, Y, dtype=torch.float64)
    for x in range(2):
        one, two = (torch.multinomial(ref[x].exp(), count, True, generator=generator) for _ in "12")
        coin = torch.rand(count, generator=generator, dtype=torch.float64)
        first_wins = coin < torch.sigmoid(r[x, one] - r[x, two])
        won, lost = torch.where(first_wins, one, two), torch.where(first_wins, two, one)
        share = torch.full((count,), 1 / count, dtype=torch.float64)
        wins[x].index_put_((won, lost), share, accumulate=True)
    return wins


# %%
def total_variation(log_pi: Tensor) -> float:
    """The larger of the two prompts' TV(π, π*)."""
    return float((0.5 * (log_pi.exp() - best.exp()).abs().sum(-1)).max())


population = 2 * ref.exp()[:, :, None] * ref.exp()[:, None, :] * from_rewards
few = sampled_wins(2_000, seed=1)
distances = {
    name: [total_variation(log_pi) for log_pi in train_table(wins, 400)]
    for name, wins in (
        ("population", population),
        ("20,000 pairs", sampled_wins(20_000, seed=1)),
        ("2,000 pairs", few),
    )
}
for name, values in distances.items():
    print(
        f"{name:<13} TV(π, π*): start {values[0]:.3f}, nearest {min(values):.4f} after "
        f"{int(np.argmin(values))} steps, end {values[-1]:.4f}"
    )
seen = ((few + few.mT) * 2_000).round().triu(1)  # how often each pair of responses was compared
once = float((seen == 1).sum() / (seen > 0).sum())
print(f"of all different pairs among the 2,000, {once:.0%} were compared once")
assert once > 0.5
assert distances["population"][-1] < 0.01
assert distances["2,000 pairs"][-1] > min(distances["2,000 pairs"]) + 0.1

# %% figure="06_population"
draw_distances(distances)
plt.show()

# %% [markdown]
# Population pairs take DPO to π*, as derived. The 2,000 pairs first come nearer and then lead *away*.
# Most of the different pairs among them were compared once, "this one beat that one", which a
# maximum-likelihood fit reads as *always*. Its implicit reward for them goes to infinity. A reward model
# has the same problem and is saved by generalising; so is a language model, up to a point. **Early
# stopping, few epochs and a small step size are part of DPO**, not a detail.
#
# ## 8 · On real text
#
# Now the reviews. From the fine-tuned model of lesson 2 two responses are sampled to each prompt, and
# a rater who follows Bradley-Terry on the **gold reward** says which is better. The labels have
# temperature 1, so that r in the derivation *is* the gold reward.

# %% kind="train"
SETTINGS = FrontierSettings()
NEW_SEED = 7  # none of the seeds of the stored runs
reference = load_policy("reviews-sft").copy()
prompts = reviews.sample_prompts(SETTINGS.pairs, seed=1000 + 10 * NEW_SEED)
sampling = torch.Generator().manual_seed(NEW_SEED)


def sample_all(policy, prompts):
    texts = []
    for start in range(0, len(prompts), 500):
        texts += policy.sample(prompts[start : start + 500], 48, generator=sampling).responses
    return texts


rater = NoisyComparer(reviews.gold_reward, SETTINGS.temperature)
labelled = label_pairs(
    rater, prompts, sample_all(reference, prompts), sample_all(reference, prompts), seed=NEW_SEED
)
pairs = [pair for pair in labelled if pair.chosen != pair.rejected]
chosen_gold, rejected_gold = (
    reviews.gold_reward(prompts[: len(pairs)], [getattr(pair, side) for pair in pairs])
    for side in ("chosen", "rejected")
)
print(
    f"{len(pairs):,} pairs; the chosen response has more gold reward in "
    f"{(chosen_gold > rejected_gold).mean():.0%}"
)
vocabulary = len(reference.tokenizer)
print(
    f"{vocabulary} tokens: {vocabulary}^48 = 10^{48 * math.log10(vocabulary):.0f} texts of 48 tokens"
)
print("x  ", pairs[0].prompt)
print("y_w", pairs[0].chosen)
print("y_l", pairs[0].rejected)

# %% kind="train"
policy = load_policy("reviews-sft")
LIVE_BETA = 0.5
run = watch(
    train_dpo(
        policy,
        pairs,
        DPOSettings(
            steps=SETTINGS.dpo_steps,
            beta=LIVE_BETA,
            learning_rate=SETTINGS.dpo_learning_rate,
            seed=NEW_SEED,
        ),
        reference=reference,
        loss=dpo_loss,  # yours
    ),
    curves=("loss", ("chosen_reward", "rejected_reward"), ("chosen_log_prob", "rejected_log_prob")),
    title="DPO, β = 0.5",
)

# %% kind="train"
live = frontier_point(
    policy,
    reference,
    reviews.sample_prompts(SETTINGS.samples, seed=900_000),
    seed=NEW_SEED,
    texts=2,
)
before = frontier_point(
    reference, reference, reviews.sample_prompts(512, seed=900_000), seed=NEW_SEED, texts=2
)
print("± is one standard error")
print(f"fine-tuned: gold reward {before.reward:+.2f} ± {before.reward_error:.2f}")
print(
    f"DPO:        gold reward {live.reward:+.2f} ± {live.reward_error:.2f}, KL {live.kl:.2f} ± {live.kl_error:.2f}"
)
for (prompt, old, old_gold), (_, new, new_gold) in zip(before.texts, live.texts, strict=True):
    print(f"\n{prompt}\n  before {old_gold:+.2f}  {old}\n  after  {new_gold:+.2f}  {new}")
assert live.reward - 5 * live.reward_error > before.reward + 5 * before.reward_error

# %% [markdown]
# ## 9 · The frontier
#
# "DPO reaches a reward of 2" means nothing without "at which KL": a smaller β buys more of both. So
# methods are compared as *curves* on the plane of KL and reward. The runs behind the next picture
# took longer than a lesson should; they come with the course as data, and each file names its command,
# seed, settings and versions:
#
# `python -m rlhf_lessons frontier run --seeds 0 1 2`

# %% kind="setup"
runs = load_frontier()
by_method = {}
for item in runs:
    by_method.setdefault(item.method, []).append(item)

# %%
print(runs[0].command, runs[0].versions, sep="\n")
print(f"\n{'method':<18} {'seeds':<8} β")
for method, items in by_method.items():
    seeds = sorted({item.seed for item in items})
    betas = sorted({item.beta for item in items if item.beta is not None}, reverse=True)
    print(f"{method:<18} {str(seeds):<8} {', '.join(f'{beta:g}' for beta in betas)}")

# %% [markdown]
# What to look for: **best-of-n** costs no training and is a strong baseline at small KL; its KL is the
# bound log n − (n−1)/n. **π*** is estimated by weighing samples of the reference with $e^{r/\beta}$,
# which works while a few samples don't carry all the weight, up to about 2 nats here. **Preferred-FT** is
# fine-tuning on the chosen responses. **PPO (true)** is told the gold reward itself and so has more
# information than the others; PPO (learned) uses a reward model of the same pairs as DPO.
#
# *Predict, then run:* who is ahead at 1 nat? At 5?

# %% figure="06_frontier"
NAMES = {
    "dpo": "DPO",
    "ppo-true": "PPO, true reward",
    "ppo-learned": "PPO, learned reward",
    "best-of-n-true": "best of n, true",
    "preferred-ft": "preferred-FT",
    "iterated-dpo": "iterated DPO",
}
FAR = 30.0  # nats; what went further is listed below the picture
ends, on_the_way = {}, {}
for method, name in NAMES.items():
    items = by_method.get(method, [])
    every_point = method.startswith(("best", "pref"))  # there a point is a policy of its own
    reached = [p for item in items for p in (item.points if every_point else [item.last])]
    near = sorted((point for point in reached if point.kl <= FAR), key=lambda point: point.kl)
    if near:
        ends[name] = near
        on_the_way[name] = [point for item in items for point in item.points[:-1]]
optima = []  # KL and reward of π* for each β, mean over the seeds
for beta in sorted({item.beta for item in by_method["optimum"]}, reverse=True):
    at_end = [item.last for item in by_method["optimum"] if item.beta == beta]
    optima.append((np.mean([p.kl for p in at_end]), np.mean([p.reward for p in at_end])))
draw_frontier(
    ends, on_the_way, [(0.0, before.reward), *optima], own=(live.kl, live.reward), far=FAR
)
plt.show()

# %%
for item in runs:
    if item.last.kl > FAR:
        beta = "" if item.beta is None else f" β = {item.beta:g}"
        print(
            f"off the picture: {item.method}{beta}, seed {item.seed}: KL {item.last.kl:.0f}, "
            f"gold {item.last.reward:+.2f}, {item.last.clean:.0%} of the texts without fault"
        )

# %% [markdown]
# **Claim: your run falls on the stored curve.** Between stored DPO runs the curve of reward over log KL
# is drawn by a straight line; your point, from new pairs with a new seed, should lie near it. How near
# may two runs of one setting be expected to lie? The stored runs at the same β say it, where there are
# several seeds.

# %% kind="train"
stored = sorted(
    ((item.last.kl, item.last.reward) for item in by_method["dpo"]), key=lambda point: point[0]
)
on_curve = float(
    np.interp(np.log(live.kl), np.log([kl for kl, _ in stored]), [y for _, y in stored])
)
twins = [item.last for item in by_method["dpo"] if item.beta == LIVE_BETA]
for twin in twins:
    print(f"stored, β = {LIVE_BETA}: KL {twin.kl:.2f}, reward {twin.reward:+.2f}")
print(
    f"yours,  β = {LIVE_BETA}: KL {live.kl:.2f}, reward {live.reward:+.2f}; on the curve {on_curve:+.2f}"
)
assert abs(live.reward - on_curve) < 0.4  # 0.04 is sampling; the rest is another 4,000 labels

# %% [markdown]
# Now the order, at equal KL. For each run the cell reads DPO's reward at the same KL off the curve *of the
# same seed* (same pairs, same labels) and subtracts. Three seeds give a mean and Student's interval: its
# width holds all that differs from seed to seed, labels, training and sampling.

# %%
STUDENT = 4.303  # 97.5 % quantile of Student's t with 3 − 1 degrees of freedom


def above_dpo(point, seed):
    """Reward of a point minus DPO's at the same KL and with the same pairs; None where DPO has none."""
    curve_of_dpo = sorted(
        (item.last.kl, item.last.reward) for item in by_method["dpo"] if item.seed == seed
    )
    kls, rewards_there = zip(*curve_of_dpo, strict=True)
    if not kls[0] <= point.kl <= kls[-1]:
        return None
    return point.reward - float(np.interp(np.log(point.kl), np.log(kls), rewards_there))


gaps = {}
for method in ("ppo-true", "ppo-learned", "iterated-dpo", "best-of-n-true"):
    for item in by_method[method]:
        for point in item.points if method.startswith("best") else [item.last]:
            gap = above_dpo(point, item.seed)
            if gap is not None:
                key = f"n = {point.step}" if method.startswith("best") else f"β = {item.beta:g}"
                gaps.setdefault((method, key), []).append((point.kl, gap))

# %%
ahead = {}
print("reward above DPO's at equal KL and seed, mean and 95 % interval")
for (method, key), found in gaps.items():
    kl, values = np.mean([kl for kl, _ in found]), np.array([gap for _, gap in found])
    if len(values) < 3:
        continue
    half = STUDENT * values.std(ddof=1) / math.sqrt(len(values))
    ahead.setdefault(method, []).append((float(kl), values.mean() - half, values.mean() + half))
    print(
        f"  {method:<15} {key:<9} KL {kl:5.2f}   {values.mean():+.2f} "
        f"[{values.mean() - half:+.2f}, {values.mean() + half:+.2f}]"
    )

assert all(low > 0 for kl, low, _ in ahead["ppo-true"] if kl > 2)
assert all(low < 0 < high for _, low, high in ahead["ppo-learned"])
assert all(low > 0 for _, low, _ in ahead["best-of-n-true"])
# Nothing may lie above π*; the line between its points runs below its curve, hence the allowance.
for item in runs:
    for point in item.points:
        if item.method != "optimum" and optima[0][0] <= point.kl <= optima[-1][0]:
            limit = np.interp(point.kl, *zip(*optima, strict=True))
            assert point.reward < limit + 0.1 + 3 * point.reward_error

# %%
print("share of texts without fault at the end, mean of the seeds")
clean = {}
for method in ("sft", "dpo", "ppo-true", "ppo-learned", "iterated-dpo"):
    for item in by_method[method]:
        clean.setdefault(method, {}).setdefault(item.beta, []).append(item.last.clean)
    shares = [
        f"{'' if beta is None else f'β = {beta:g}: '}{np.mean(found):.0%}"
        for beta, found in clean[method].items()
    ]
    print(f"  {method:<15} " + ", ".join(shares))
for method in ("dpo", "ppo-true"):
    means = [np.mean(clean[method][beta]) for beta in sorted(clean[method])]
    assert means == sorted(means)  # the smaller β, the more faults

# %% [markdown]
# Read the picture from the left. **π\*** is the upper edge: no policy has more reward at its KL. (Its curve bends
# between the four points that are drawn, so best-of-n can touch the straight lines.) **Best-of-n** stays close to
# it, for no training at all; it ends where n does. The trained policies lie below, for they had 125 updates, or 40
# cycles, to find the way. **Preferred-FT** moves a quarter of a nat and stops: it imitates the better half of what
# the model wrote anyway. **DPO** climbs up to some 3 to 5 nats; past that it pays KL for nothing, and then for
# less than nothing. **PPO with the true reward** goes on climbing: from 2 nats on it is ahead of DPO, and the gap
# grows with the KL. **PPO with a learned reward** knows what DPO knows. Its mean lies above DPO's at each β, but
# three seeds can't tell the gap from 0: each of the four intervals holds it.
#
# In the DPO paper's own experiment DPO lay above PPO, even above PPO with the true reward. That order **does not
# come back here**, and the runs say why. *Information*: PPO was told the gold reward of 2,560 responses, as
# numbers; DPO saw 4,000 answers of one bit, a fifth of them against the gold order. *Freshness*: one text in ten
# of the reference is broken, so its pairs rarely punish that. Of DPO's texts half are broken at β = 0.2, and nine
# in ten at 0.05. Give DPO fresh pairs and, at β = 0.1, more than half of the gap to PPO with the true reward
# closes (iterated DPO; at the other two β the interval holds 0). What holds in both worlds: near the reference,
# DPO gives about what PPO gives, with one loss and no sampling.
#
# PPO's texts break too: at β = 0.05 three in four have a fault, and still their gold reward is the highest
# of all. There PPO has found what this judge pays for and does not punish. More reward is better only as
# far as the judge is right.
#
# Each method has one learning rate here for all β. DPO's was chosen, from two, by its reward at β = 0.2; PPO got a
# value model of its own because runs with a shared body ran away at large β, and begins with twice the step size
# of lesson 4. At one β it goes farther here: with the true reward at β = 0.05 to 22 nats instead of 13. Another
# setting could move a curve by more than its interval.
#
# Scrub through the policies. Each was really trained; the black cross shows where it lies, the text is
# what it wrote for the same prompt.

# %%
SCRUB = {
    NAMES.get(method, method): sorted(
        ((point, item) for item in by_method[method] for point in item.points if point.texts),
        key=lambda pair: pair[0].kl,
    )
    for method in ("dpo", "ppo-true", "ppo-learned", "preferred-ft", "unlikelihood", "iterated-dpo")
    if method in by_method
}
STEPS = 20


def show_policy(figure, method, position):
    entries = SCRUB[method]
    point, item = entries[round((position - 1) / (STEPS - 1) * (len(entries) - 1))]
    prompt, text, gold = point.texts[0]
    beta = "" if item.beta is None else f", β = {item.beta:g}"
    draw_position(
        figure,
        [(p.kl, p.reward) for p, _ in entries],
        here=(point.kl, point.reward),
        title=f"{method}{beta}, step {point.step} of {point.total}: KL {point.kl:.2f}, reward "
        f"{point.reward:+.2f}, {point.clean:.0%} without fault",
        words=(prompt, text, f"gold reward {gold:+.2f}"),
    )
    return (
        f"{method}{beta}, step {point.step}: KL {point.kl:.2f}, mean reward {point.reward:.2f}; "
        f"it writes: {text}"
    )


explore(
    show_policy,
    caption="From near the reference (left) to far from it. Where does the text begin to break?",
    size=(8.2, 4.4),
    method=Choice("method", list(SCRUB)),
    position=Slider("", "position along the KL", 1, STEPS, 1),
)

# %% [markdown]
# ## 10 · β and the KL that comes out
#
# β has a meaning in DPO: it sets the scale of the implicit reward, and with it how far the policy
# goes. Is log KL a straight line in log β? The cell fits one by least squares, over all stored runs of
# each method, with Student's interval for the slope.

# %% figure="06_beta_kl"
fits, points, lines = {}, {}, {}
for method in ("dpo", "ppo-true", "ppo-learned"):
    items, name = by_method.get(method, []), NAMES[method]
    if len({item.beta for item in items}) < 3:
        continue
    betas, kls = [item.beta for item in items], [item.last.kl for item in items]
    fits[method] = line = fit_power_law(betas, kls)
    points[name] = betas, kls
    lines[name] = [(beta, line(beta)) for beta in (min(betas), max(betas))]
    print(
        f"{name:<20} slope {line.slope:+.2f} [{line.slope_low:+.2f}, {line.slope_high:+.2f}]"
        f"   R² {line.r_squared:.2f}   {line.count} runs"
    )
    spread = [
        max(same) / min(same)
        for beta in sorted(set(betas), reverse=True)
        for same in [[item.last.kl for item in items if item.beta == beta]]
    ]
    print(f"{'':<20} largest KL of the seeds over the smallest, at each β: ", end="")
    print(", ".join(f"{ratio:.2f}" for ratio in spread))
draw_power_laws(points, lines, ticks=sorted({item.beta for item in by_method["dpo"]}))
plt.show()
assert fits["dpo"].r_squared > 0.9 and fits["dpo"].slope_high < -0.5
assert max(fits["dpo"].slope_high, fits["ppo-true"].slope_high) < fits["ppo-learned"].slope_low

# %% [markdown]
# Halve β and DPO's KL about doubles: a slope near −1, over a factor of 40 in β. That is what makes β a usable
# knob: two runs tell which β gives the KL you want. PPO's line with the true reward is about as steep.
# With a learned reward it is flatter than both. Why, these runs don't say: they kept the gold reward of what PPO
# wrote, not what the learned reward said of it.
#
# It is often said that one β gives PPO a wide spread of KL. *Not in this world*: over three seeds the
# KL of PPO with the true reward differs by 15 % at most, DPO's by up to 80 %. PPO's KL is paid for at every
# step of training, so a β means the same price; DPO's β works through the labels alone, as section 12 shows,
# and each seed has other labels.
#
# ### Exercise 6.7 · Win rate with its interval
#
# ●●○ · 10 min · 3 points
#
# People compare two models by asking which of two responses to the same prompt is better. The **win
# rate** p counts a tie as half a win. Its interval is Wilson's, with z = 1.96:
#
# $$\frac{p + \frac{z^2}{2n} \pm z \sqrt{\frac{p(1-p)}{n} + \frac{z^2}{4n^2}}}{1 + \frac{z^2}{n}}$$
#
# *Why not p ± 1.96 · √(p(1−p)/n)?* A model that wins all of 20 comparisons would get [100 %, 100 %].
#
# <details><summary>Hint 1</summary>
#
# `(own > other).mean() + 0.5 * (own == other).mean()`, with NumPy arrays.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Compute the centre `p + z²/2n` and the half width under the root, and divide both by `1 + z²/n`.
#
# </details>


# %% kind="exercise" exercise="6.7"
def win_rate(rewards: np.ndarray, other_rewards: np.ndarray) -> tuple[float, float, float]:
    """Compare two policies by the rewards of one response each to the same prompts.

    Args:
        rewards: (N,) rewards of the first policy's responses.
        other_rewards: (N,) those of the other one's.

    Returns:
        The win rate of the first policy, and the lower and upper end of its 95 % interval.
    """
    ### BEGIN SOLUTION
    p = float((rewards > other_rewards).mean() + 0.5 * (rewards == other_rewards).mean())
    n, z = len(rewards), 1.96
    half_width = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    centre, shrink = p + z * z / (2 * n), 1 + z * z / n
    return p, (centre - half_width) / shrink, (centre + half_width) / shrink
    ### END SOLUTION


# %% kind="check" exercise="6.7"
check("6.7", win_rate)

# %% [markdown]
# **Who is preferred?** Judged by gold reward on 400 prompts that all runs share, three seeds each: aligned models
# against the one they started from, each trained at β = 0.5 where it has a β. The picture that made RLHF famous
# (Ouyang et al. 2022) was a small aligned model preferred to a much larger one that was only fine-tuned. The
# second opponent is such a one: twice the width, nearly four times the weights, trained on more reviews. (The
# intervals take the 1,200 comparisons as independent; the three seeds of a method share their prompts.)

# %%
win_rate = yours("6.7", win_rate)


def at_one_beta(method):
    """List a method's runs by seed, at β = 0.5 where it has one."""
    items = [item for item in by_method[method] if item.beta in (None, 0.5)]
    return sorted(items, key=lambda item: item.seed)


def rewards_of(method):
    """Rewards of all seeds in one row."""
    return np.concatenate([item.rewards for item in at_one_beta(method)])


won = {}
opponents = {"the fine-tuned model": "sft", "the larger fine-tuned model": "larger-sft"}
for opponent, other in opponents.items():
    print(f"against {opponent}, mean gold reward {rewards_of(other).mean():+.2f}:")
    for own in ("preferred-ft", "dpo", "ppo-learned", "ppo-true"):
        p, low, high = won[own, other] = win_rate(rewards_of(own), rewards_of(other))
        kl = np.mean([item.last.kl for item in at_one_beta(own)])
        print(f"  {own:<12} {p:.1%} [{low:.1%}, {high:.1%}]   KL {kl:.2f}")
assert all(low > 0.5 for _, low, _ in won.values())
assert all(won[own, "larger-sft"][1] > 0.7 for own in ("dpo", "ppo-learned", "ppo-true"))

# %% [markdown]
# Preferred-FT already wins more often than it loses; DPO and PPO win by far, and against the larger model by as
# much: more weights imitate the same reviewers and earn no more reward. *Better imitation is not what was
# asked for*: a reviewer who is imitated well is imitated in a bad mood too. (The judge is the very reward that
# the labels came from. People who compare models are not so kind.)
#
# DPO stands above PPO with the learned reward here, and in the mean stood below it in section 9. No contradiction:
# this is one β, and at it DPO goes twice as far. At *equal KL* the order is that of section 9.
#
# **Off-policy or not?** DPO learns from responses that the *reference* wrote. The further the policy
# moves, the less those say about what it writes now. **Iterated DPO** samples new pairs from the current
# policy, labels them and trains on, three rounds here, with the same number of labels in all.
#
# **Unlabelled prompts.** PPO needs labels for its reward model but none for the prompts it practises on. Does
# practising on more of them help it generalise? In the runs `genres-…` only documentaries and mysteries are
# labelled, and all policies are measured on the *other* seven genres.
#
# *Predict, then run:* do fresh pairs help more at a large β or at a small one?


# %%
def over_seeds(name, values, form):
    """Print the mean of one number a seed with Student's interval, and give the interval."""
    mean, half = np.mean(values), STUDENT * np.std(values, ddof=1) / math.sqrt(len(values))
    print(f"  {name:<44} {mean:{form}} [{mean - half:{form}}, {mean + half:{form}}]")
    return mean - half, mean + half


def last_point(method, seed, beta=None):
    return next(i.last for i in by_method[method] if i.seed == seed and beta in (None, i.beta))


SEEDS = range(3)
print("fixed pairs against fresh ones, at one β")
gained = {}
for beta in (0.2, 0.1, 0.05):
    old = [last_point("dpo", seed, beta) for seed in SEEDS]
    new = [last_point("iterated-dpo", seed, beta) for seed in SEEDS]
    over_seeds(f"β = {beta:g}: KL, fixed pairs", [p.kl for p in old], ".1f")
    over_seeds(f"β = {beta:g}: KL, fresh pairs", [p.kl for p in new], ".1f")
    over_seeds(
        f"β = {beta:g}: KL added by fresh pairs",
        [b.kl - a.kl for a, b in zip(old, new, strict=True)],
        "+.1f",
    )
    gained[beta] = over_seeds(
        f"β = {beta:g}: reward gained by fresh pairs",
        [b.reward - a.reward for a, b in zip(old, new, strict=True)],
        "+.2f",
    )

assert gained[0.1][0] > 0 and gained[0.05][0] > 0

# %%
print("two genres labelled, measured on the seven others")
for method in ("genres-sft", "genres-dpo", "genres-ppo", "genres-ppo-all"):
    over_seeds(f"{method}: KL", [last_point(method, seed).kl for seed in SEEDS], ".2f")
    over_seeds(f"{method}: reward", [last_point(method, seed).reward for seed in SEEDS], "+.2f")
practised = over_seeds(
    "reward gained by practice on all genres",
    [
        last_point("genres-ppo-all", seed).reward - last_point("genres-ppo", seed).reward
        for seed in SEEDS
    ],
    "+.2f",
)
assert practised[0] > 0

# %% [markdown]
# Fresh pairs help where the policy goes far: same number of labels, same number of updates, and at β = 0.1 and
# 0.05 more reward. The KL is smaller with each of the three seeds, by 5 and by 21 nats in the mean; but three
# seeds are few, and both intervals still hold 0. The later pairs are written by the policy itself, so they hold
# its new faults, and the labels punish them. That is the main thing that PPO has and DPO lacks. (At β = 0.2 the
# interval holds 0.)
#
# Practice on unlabelled prompts helps too: PPO gains a third of a point on genres that no label ever named, and
# pays a third of a nat for it, so part of the gain is bought. DPO, with labels of the same two genres,
# goes two nats further and gets as much reward there as PPO: a preference for praise carries over to other films.
#
# ## 11 · When DPO fails
#
# **What is equal in both is invisible.** Write the margin token by token. Where chosen and rejected
# begin with the same words, the model sees the same text and gives the same log-ratios. They cancel.
# Suppose that every good and every bad summary must begin with "TL;DR". DPO never learns to write it,
# though each single training text has it.
#
# ### Exercise 6.8 · What DPO can't see
#
# ●●○ · 10 min · 3 points
#
# Given log-ratios token by token, count for each pair the leading tokens whose log-ratios are equal in both: the
# tokens that no loss of the margin can see. Equal up to rounding (1e-6), only **before the first difference**, and
# only where both masks are True. (A model's own log-ratios, in float32, differ by more; the experiment below
# rounds them to four digits first.)
#
# *Why from log-ratios and not from the words?* Because that is what enters the loss: the test holds for
# any tokenizer and any model.
#
# <details><summary>Hint 1</summary>
#
# `equal = ((chosen - rejected).abs() <= 1e-6) & chosen_mask & rejected_mask` marks too much: also
# tokens that happen to agree later.
#
# </details>
# <details><summary>Hint 2</summary>
#
# A running product of 1s and 0s stays 1 until the first 0: `equal.long().cumprod(-1)`.
#
# </details>


# %% kind="exercise" exercise="6.8"
def shared_prefix_length(
    chosen_log_ratios: Tensor,
    rejected_log_ratios: Tensor,
    chosen_mask: Tensor,
    rejected_mask: Tensor,
) -> Tensor:
    """Count the leading tokens of each pair that preference losses can't see.

    Args:
        chosen_log_ratios: (B, T) log π − log π_ref of each token of the chosen response.
        rejected_log_ratios: (B, T) the same of the rejected one.
        chosen_mask: (B, T) boolean, True = a token of the chosen response.
        rejected_mask: (B, T) boolean, True = a token of the rejected one.

    Returns:
        (B,) numbers of tokens.
    """
    ### BEGIN SOLUTION
    equal = (chosen_log_ratios - rejected_log_ratios).abs() <= 1e-6
    return (equal & chosen_mask & rejected_mask).long().cumprod(-1).sum(-1)
    ### END SOLUTION


# %% kind="check" exercise="6.8"
check("6.8", shared_prefix_length)

# %% [markdown]
# The experiment: 600 pairs of reviews, and before each of the 1,200 responses the word "the", with which
# the reference begins fewer than one review in a thousand. Train by DPO, by fine-tuning on the chosen
# responses, and by DPO after that; measure how likely "the" is as the first word.
#
# *Predict, then run:* which of the three will learn it?

# %% kind="train"
shared_prefix_length = yours("6.8", shared_prefix_length)

WORD = "the"
token = reference.tokenizer.convert_tokens_to_ids(WORD)
asked = [pair.prompt for pair in pairs[:200]]
marked = [(p.prompt, f"{WORD} {p.chosen}", f"{WORD} {p.rejected}") for p in pairs[:600]]


def first_word_probability(policy) -> float:
    return float(policy.next_token_logits(asked).softmax(-1)[:, token].mean())


def by_dpo(policy, reference):
    settings = DPOSettings(steps=40, beta=0.1, learning_rate=1e-3)
    *_, last_step = train_dpo(policy, marked, settings, reference=reference, loss=dpo_loss)
    return last_step


# %% kind="train"
only_dpo, tuned = load_policy("reviews-sft"), load_policy("reviews-sft")
last = by_dpo(only_dpo, reference)
for _ in train_sft(
    tuned,
    [(prompt, chosen) for prompt, chosen, _ in marked],
    SupervisedSettings(steps=30, learning_rate=1e-3, warmup=0.1),
):
    pass
after_tuning = first_word_probability(tuned)
tuned_reference = tuned.copy()
by_dpo(tuned, tuned_reference)

first_word = {
    "reference": first_word_probability(reference),
    "DPO": first_word_probability(only_dpo),
    "SFT": after_tuning,
    "SFT, then DPO": first_word_probability(tuned),
}
for name, probability in first_word.items():
    print(f"P(first word “{WORD}”) {name:<14} {probability:.4f}")
print(f"DPO's accuracy on its last batch: {last.accuracy:.0%}")
assert first_word["DPO"] < 0.02
assert first_word["SFT"] > 0.2 and first_word["SFT, then DPO"] > 0.5 * first_word["SFT"]

# %% [markdown]
# DPO ranks the pairs well and still doesn't write the word: no gradient asks for it, and what little its
# probability moves comes from weights shared with other words. Fine-tuning learns it in 30 steps, and DPO
# after that does not take it away. That is why DPO is run on a model that was fine-tuned on the chosen
# responses first. Your function shows the cause:

# %% kind="train"
some = marked[:300]
log_ratios, masks = [], []
with torch.no_grad():
    for side in (1, 2):
        texts = [pair[side] for pair in some]
        own, mask = only_dpo.log_probs([pair[0] for pair in some], texts)
        other, _ = reference.log_probs([pair[0] for pair in some], texts)
        width = 48 - own.shape[1]
        # Batches of other widths round differently in the sixth digit; that is no difference here.
        log_ratios.append(torch.nn.functional.pad(own - other, (0, width)).round(decimals=4))
        masks.append(torch.nn.functional.pad(mask, (0, width)))
invisible = shared_prefix_length(*log_ratios, *masks)
words_shared = torch.tensor(
    [
        next(
            i
            for i, (a, b) in enumerate(zip([*won.split(), 0], [*lost.split(), 1], strict=False))
            if a != b
        )
        for _, won, lost in some
    ]
)
print("invisible tokens, and how many pairs have them:")
for count, pairs_with in zip(*torch.unique(invisible, return_counts=True), strict=True):
    print(f"  {int(count):>2}: {int(pairs_with)}")
print(
    f"pairs where that is the number of shared first words: {(invisible == words_shared).float().mean():.1%}"
)
assert int(invisible.min()) >= 1 and float((invisible >= words_shared).float().mean()) > 0.99

# %% [markdown]
# **The log-probability of the chosen falls.** The loss asks for a *difference*. If rejected falls by 10 nats
# and chosen by 5, the margin has grown by 5 and the loss is content. That the chosen *may* fall doesn't say
# that they do:

# %%
print("mean log π − log π_ref at the end of training, in nats")
print(f"{'method':<14} {'β':<6} {'chosen':>8} {'rejected':>9}")
fallen = []
for method in ("dpo", "unlikelihood"):
    for item in by_method.get(method, []):
        if item.seed == 0:
            point = item.last
            fallen.append((method, point))
            print(
                f"{method:<14} {'' if item.beta is None else item.beta:<6} "
                f"{point.chosen_log_ratio:>8.2f} {point.rejected_log_ratio:>9.2f}"
            )
assert all(point.rejected_log_ratio < point.chosen_log_ratio for _, point in fallen)
assert all(point.chosen_log_ratio < 0 for _, point in fallen)

# %% [markdown]
# Why, when one arrow of the gradient *raises* them? The pairs were sampled from the *reference*. So over all
# their responses, chosen and rejected together, the mean of log π/π_ref estimates −KL(π_ref ‖ π), which is below
# 0 as soon as the policy has moved. The chosen lie above that mean and the rejected below it, by half the margin h:
#
# $$\overline{\log \frac{\pi}{\pi_\text{ref}}}_{\,\text{chosen}} = \frac{h}{2} - \mathrm{KL}(\pi_\text{ref} \,\|\, \pi)$$
#
# *Predict, then run:* from population pairs DPO learns π* itself. Do the chosen end above 0 or below?

# %%
won, lost = population.sum(2), population.sum(1)  # (2, 121) how often each response wins, and loses
print(f"{'step':<6}{'chosen':>8}{'rejected':>10}{'mean of both':>14}{'−KL(π_ref ‖ π)':>17}")
for step, log_pi in enumerate(train_table(population, 100)):
    chosen, rejected = ((side * (log_pi - ref)).sum(1).mean() for side in (won, lost))
    kl_from_reference = (ref.exp() * (ref - log_pi)).sum(1).mean()
    assert abs(float((chosen + rejected) / 2 + kl_from_reference)) < 1e-9
    if step in (0, 5, 20, 100):
        print(f"{step:<6}{chosen:>+8.3f}{rejected:>+10.3f}{(chosen + rejected) / 2:>+14.3f}"
              f"{-kl_from_reference:>+17.3f}")  # fmt: skip
assert float(chosen) < -0.1

# %% [markdown]
# Below: at the very best policy there is. A falling log-probability of the chosen is not by itself a fault of
# DPO. To leave the reference costs its own texts, on average, more than being chosen gives back.
#
# Where does the probability go? Take 200 pairs a prompt. A response can be chosen in one and rejected in
# another, so the 121 fall into four groups.
#
# *Predict, then run:* which group gains what the others lose?

# %%
wins = sampled_wins(200, seed=1)
wins.diagonal(dim1=1, dim2=2).zero_()  # a response compared with itself
won, lost = wins.sum(2), wins.sum(1)  # (2, 121) shares of the pairs that a response won, and lost
GROUPS = {
    "only chosen": (won > 0) & (lost == 0), "only rejected": (won == 0) & (lost > 0),
    "both": (won > 0) & (lost > 0), "in no pair": (won == 0) & (lost == 0),
}  # fmt: skip


def mean_over(shares: Tensor, log_ratios: Tensor) -> float:
    return float((shares * log_ratios).sum() / shares.sum())


print(f"{'':<6}{'mean log π/π_ref of':<44}probability of responses")
print(f"{'step':<6}{'rejected':>9}{'chosen':>8}{'only chosen':>13}{'both':>7}", end="       ")
print("".join(f"{group:>15}" for group in GROUPS))
followed = {}
for step, log_pi in enumerate(train_table(wins, 100)):
    if step in (0, 5, 10, 20, 50, 100):
        means = [mean_over(lost, log_pi - ref), mean_over(won, log_pi - ref)]
        means += [mean_over(won * GROUPS[g], log_pi - ref) for g in ("only chosen", "both")]
        mass = [float((log_pi.exp() * group).sum(1).mean()) for group in GROUPS.values()]
        followed[step] = means, mass
        print(f"{step:<6}{means[0]:>+9.2f}{means[1]:>+8.2f}{means[2]:>+13.2f}{means[3]:>+7.2f}"
              "       " + "".join(f"{share:>15.1%}" for share in mass))  # fmt: skip
lose_too = float((won * GROUPS["both"]).sum() / won.sum())
print(f"{lose_too:.0%} of the pairs have a chosen response that is rejected in another")
means, mass = followed[100]
assert means[0] < means[1] < -1 and means[3] < -1 < 0.5 < means[2] and lose_too > 0.5
assert mass[0] > followed[0][1][0] + 0.5 and mass[3] < followed[0][1][3] / 2

# %% [markdown]
# The probability goes to responses that were chosen and *never* rejected; those in no pair lose theirs, as
# those that lost do. What falls are the chosen responses that lose other pairs, and that is most of them: a
# good response beats a bad one and loses to a better one. A logarithm, besides, isn't fair: a probability of
# 0.1 can rise by 2.3 nats at most, and fall without end.
#
# Among the reviews hardly a text occurs twice, but the model shares its weights among all of them. A step of
# gradient descent changes the mean log-probability of the chosen at the rate
#
# $$\underbrace{\nabla \overline{\log \pi}_w \cdot \overline{\omega\, \nabla \log \pi_w}}_{\text{own push}}
# \;-\; \underbrace{\nabla \overline{\log \pi}_w \cdot \overline{\omega\, \nabla \log \pi_l}}_{\text{through the
# rejected}}$$
#
# times β and the step size, where ω is your weight. The cell takes both from 256 pairs, at the reference and at
# your trained policy, and the KL from other samples of the reference.

# %% kind="train"
watched = pairs[:256]
watched_prompts = [pair.prompt for pair in watched]


def response_log_probs(model, texts) -> Tensor:
    """Give log π of one response to each of the watched prompts, (256,)."""
    log_probs, mask = model.log_probs(watched_prompts, texts)
    return log_probs.masked_fill(~mask, 0.0).sum(-1)


def gradient_of(model, number: Tensor) -> Tensor:
    """Give the gradient of a number in all weights, as one long row."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    slopes = torch.autograd.grad(number, weights, retain_graph=True, materialize_grads=True)
    return torch.cat([slope.flatten() for slope in slopes])


sides = [[getattr(pair, side) for pair in watched] for side in ("chosen", "rejected")]
others = sample_all(reference, watched_prompts)
with torch.no_grad():
    *at_reference, elsewhere = (response_log_probs(reference, t) for t in (*sides, others))
    kl_from_reference = float((elsewhere - response_log_probs(policy, others)).mean())
pushes = {}
for name, model in (("reference", load_policy("reviews-sft")), ("your run", policy)):
    chosen, rejected = (response_log_probs(model, texts) for texts in sides)
    weight = dpo_gradient_weight(chosen.detach(), rejected.detach(), *at_reference, LIVE_BETA)
    mean = gradient_of(model, chosen.mean())
    pushes[name] = own, through = [
        float(mean @ gradient_of(model, (weight * side).mean())) for side in (chosen, rejected)
    ]
    moved = [float((new - old).detach().mean())
             for new, old in zip((chosen, rejected), at_reference, strict=True)]  # fmt: skip
    print(f"{name:<10} chosen {moved[0]:+.2f} nats, rejected {moved[1]:+.2f}, mean "
          f"{sum(moved) / 2:+.2f}; own push {own:+.1f}, through the rejected {-through:+.1f}")  # fmt: skip
print(f"−KL(π_ref ‖ π) of your run, from other samples: {-kl_from_reference:+.2f}")
assert pushes["reference"][1] < 0.5 * pushes["reference"][0]
assert pushes["your run"][1] > 0.5 * pushes["your run"][0]

# %% [markdown]
# At the reference nothing stands in the way. Gradients of its own samples average to 0, so the rejected pull
# where the chosen push, and lowering them even helps. Once the policy has moved, all the texts of the pairs are
# strange to it in the same way, both gradients point back to them, and most of what the own push gives comes off
# again through the rejected.
#
# **Degeneration.** Unlikelihood training has DPO's two arrows and no weight: it pushes on pairs long
# learned, and nothing holds it. Its texts, from the stored run:

# %%
for item in by_method.get("unlikelihood", [])[:1]:
    for point in item.points:
        print(
            f"step {point.step:>3}: KL {point.kl:6.1f}, gold {point.reward:+.2f}, "
            f"{point.clean:.0%} without fault\n   {point.texts[0][1]}"
        )

# %% [markdown]
# ## 12 · Other functions of the margin
#
# DPO's loss never stops asking for a larger margin: −log σ has no minimum. With a pair labelled once, or
# labelled *without noise*, its best margin is infinite, whatever β. Label smoothing, IPO and the hinge are
# three answers; the exponential loss goes the other way:
#
# | loss | L(h) | asks for |
# | --- | --- | --- |
# | DPO | −log σ(βh) | h → ∞ |
# | label smoothing | −(1−ε) log σ(βh) − ε log σ(−βh) | h = log((1−ε)/ε)/β |
# | IPO | (h − 1/(2β))² | h = 1/(2β) |
# | hinge | max(0, 1 − βh) | h ≥ 1/β |
# | exponential | exp(−βh) | h → ∞, and hardest on wrong pairs |
#
# (ε is here the share of labels taken to be wrong, no clip range.)
#
# Go back to the widget of section 6 and choose them one by one.
#
# ### Exercise 6.9 · IPO loss
#
# ●○○ · 6 min · 2 points
#
# $$L = \Big(h - \frac{1}{2\beta}\Big)^2$$
#
# with the margin h of exercise 6.5; here too the reference is a constant. *Why it matters:* a square has a minimum. IPO keeps its distance to the
# reference even when every label says the same.
#
# <details><summary>Hint 1</summary>
#
# h itself carries no β here; β stands in the aim alone.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `(h - 1 / (2 * beta)).square()`, one loss per pair.
#
# </details>


# %% kind="exercise" exercise="6.9"
def ipo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> Tensor:
    """Give IPO's loss for each pair.

    Args:
        policy_chosen: (B,) log π_θ(y_w | x) in nats, summed over the response.
        policy_rejected: (B,) log π_θ(y_l | x).
        reference_chosen: (B,) log π_ref(y_w | x), a constant.
        reference_rejected: (B,) log π_ref(y_l | x), a constant.
        beta: strength β above 0; the margin aimed at is 1/(2β) nats.

    Returns:
        (B,) losses in nats, squared.
    """
    ### BEGIN SOLUTION
    chosen = policy_chosen - reference_chosen.detach()
    rejected = policy_rejected - reference_rejected.detach()
    return (chosen - rejected - 1 / (2 * beta)).square()
    ### END SOLUTION


# %% kind="check" exercise="6.9"
check("6.9", ipo_loss)

# %% [markdown]
# **Claim: with labels that never err, DPO never comes to rest, whatever β; IPO does, and β sets how far off.** The
# enumerated world again, every pair labelled by the sign of the reward's difference, three values of β that are
# ten times apart in all.

# %%
ipo_loss = yours("6.9", ipo_loss)

certain = 2 * ref.exp()[:, :, None] * ref.exp()[:, None, :] * (r[:, :, None] > r[:, None, :])
TENFOLD = (0.3, 1.0, 3.0)


def mean_kl(log_policy: Tensor) -> float:
    return float((log_policy.exp() * (log_policy - ref)).sum(-1).mean())


# %%
STEPS_SHOWN = (100, 400, 1600)
print("KL to the reference after so many steps")
print(f"{'':<22}" + "".join(f"{f'β = {beta:g}':>22}" for beta in TENFOLD))
print(f"{'':<22}" + "".join(f"{steps:>{10 if steps == 100 else 6}}" for steps in STEPS_SHOWN) * 3)
kls = {}
for name, loss in (("DPO", dpo_loss), ("label smoothing, 10 %", smoothed), ("IPO", ipo_loss)):
    for beta in TENFOLD:
        path = [mean_kl(log_pi) for log_pi in train_table(certain, 1600, loss=loss, beta=beta)]
        kls[name, beta] = [path[steps] for steps in STEPS_SHOWN]
    rows = [
        f"{kls[name, b][0]:>10.2f}{kls[name, b][1]:>6.2f}{kls[name, b][2]:>6.2f}" for b in TENFOLD
    ]
    print(f"{name:<22}" + "".join(rows))
at_best = [mean_kl(best_policy(ref, r, beta)[1]) for beta in TENFOLD]
print(f"{'π* of the reward':<22}" + "".join(f"{kl:>22.2f}" for kl in at_best))
for beta, kl in zip(TENFOLD, at_best, strict=True):
    _, halfway, end = kls["DPO", beta]
    assert end > halfway + 0.3 and end > kl + 1
    assert abs(kls["IPO", beta][2] - kls["IPO", beta][0]) < 1e-3
assert kls["DPO", 0.3][2] < 2 * kls["DPO", 3.0][2]
assert kls["IPO", 0.3][2] > 10 * kls["IPO", 3.0][2]

# %% [markdown]
# DPO has nowhere to stop: at each β its KL is still growing between step 400 and step 1,600, far beyond the π* of
# the reward, and ten times the β makes less than a factor of two. IPO has come to rest after 100 steps, at a KL
# that falls with β. That is not the KL of π*: IPO's β sets a margin, 1/(2β), and is another scale. Smoothing rests
# too, at the two larger β; at 0.3 its KL still moves between step 400 and step 1,600. So β bounds DPO's KL only as
# far as the labels' own noise does. In section 10 the labels *were* noisy, and training short.
#
# ## 13 · A real model, and what people said
#
# Up to here the model was small, the world invented and the reward known exactly. Does the picture hold
# where none of that is so? SmolLM2, 135 million weights, pretrained on the web and fine-tuned on snippets of
# real film reviews, continues the first 2 to 8 tokens of snippets that it never saw. Its reward is a **judge
# of people**: a linear map from the middle of the same model, fitted to people's mean ratings from −4 to 4.
# **VADER**, a list of words with rules, scores the same texts, and nobody optimises it: where the judge rises
# and VADER falls, the judge is being fooled.
#
# A run takes some minutes on two cores, so they come with the course as data; each record names its
# command. To fetch model and ratings and make your own: `python -m rlhf_lessons real get`, then
# `python -m rlhf_lessons run sentiment --data snippets --method dpo --beta 0.1`.

# %% kind="setup"
real = load_real_frontier()
CALLED = {"dpo": "DPO", "ppo": "PPO", "bon": "best of n"}
# By method and seed: (name, what was measured) along the KL; prompts asked.
paths, openings = {}, {}
for item in real:
    seed, method = item.settings.seed, item.settings.method
    path = paths.setdefault(method, {}).setdefault(seed, [])
    openings[method, seed] = item.settings.samples
    if method == "bon":
        path += [(f"best of {point['step']}", point) for point in item.points]
    else:
        path += [("fine-tuned", item.points[0])] if not path else []
        path.append((f"{CALLED[method]}, β = {item.settings.beta:g}", item.points[-1]))
    path.sort(key=lambda row: row[1]["kl"])

# %%
for name, agreed in load_people_agreement()[0].items():
    print(f"{name} and people on {agreed.count:,} held-out snippets: {agreed}")
print("\n" + real[0].command)

table = {"fine-tuned": {}}  # name -> seed -> what was measured
for method in CALLED:
    for seed, path in paths.get(method, {}).items():
        for name, point in path:
            table.setdefault(name, {}).setdefault(seed, point)


def over_all_seeds(points, measure, form):
    """Write a measure's mean over the seeds, and behind it the value of each seed."""
    values = [point[measure] for point in points if measure in point]
    each = ", ".join(f"{value:{form}}" for value in values)
    return f"{np.mean(values):{form}} ({each})" if values else ""


COLUMNS = {
    "judge": ("reward", "+.2f"), "VADER": ("vader", "+.2f"), "KL": ("kl", ".2f"),
    "untouched": ("untouched_loss", ".2f"), "distinct": ("distinct", ".0%"),
}  # fmt: skip
for shown in (("judge", "VADER", "KL"), ("untouched", "distinct")):
    print("\n" + (" " * 14 + "".join(f"{column:<24}" for column in shown)).rstrip())
    for name, by_seed in table.items():
        cells = [over_all_seeds(by_seed.values(), *COLUMNS[column]) for column in shown]
        if any(cells):
            print((f"{name:<14}" + "".join(f"{cell:<24}" for cell in cells)).rstrip())

# %% [markdown]
# Each row is the mean over the seeds, and in brackets every seed. *Untouched* is the loss of the responses
# under SmolLM2 as it was published, in nats per token: it rises when texts stop being language. *Distinct* is
# the share of different responses. Best-of-n was asked for other openings, and fewer, so compare gains, not levels.
# (A gain's interval takes its two ends as independent. They answer the same openings, so it is rather too wide.)
#
# *Predict, then run:* which method gains most at equal KL? Does VADER follow the judge?

# %% figure="06_real_frontier"
SURE = 1.96  # standard errors to either side: 95 %


def gains(path):
    """List KL, what the judge gained, half the width of its interval, and what VADER gained."""
    _, first = path[0]
    return [
        (
            point["kl"],
            point["reward"] - first["reward"],
            0.0
            if point is first
            else SURE * math.hypot(point["reward_error"], first["reward_error"]),
            point["vader"] - first["vader"],
        )
        for _, point in path
    ]


draw_real_frontier({
    name: {seed: gains(path) for seed, path in paths[method].items()}
    for method, name in CALLED.items() if method in paths
})  # fmt: skip
plt.show()

# %% [markdown]
# **Claim: for each seed the smallest β goes further than the largest, and earns more.** And at equal KL? The
# cell reads DPO's gain at the KL of every other run off the curve of the same seed, and says whether the
# difference is larger than its 95 % interval.

# %%
for seed, path in paths["dpo"].items():
    (_, first), (_, last) = path[1], path[-1]  # path[0] is the fine-tuned model
    for measure in ("kl", "reward"):
        noise = math.hypot(first[f"{measure}_error"], last[f"{measure}_error"])
        more = last[measure] - first[measure]
        print(
            f"{path[1][0]} to {path[-1][0]}, seed {seed}: {measure} {more:+.2f} ± {SURE * noise:.2f}"
        )
        assert more > SURE * noise

print("\ngained at one KL, and how much more than by DPO")
for method in sorted(paths.keys() - {"dpo"}):
    for seed in sorted(paths[method].keys() & paths["dpo"].keys()):
        kls, by_dpo, widths, _ = zip(*gains(paths["dpo"][seed]), strict=True)
        for (name, _), (kl, gain, width, _) in zip(
            paths[method][seed], gains(paths[method][seed]), strict=True
        ):
            if 0 < kl <= kls[-1]:
                ahead_of_dpo = gain - float(np.interp(kl, kls, by_dpo))
                unsure = math.hypot(width, float(np.interp(kl, kls, widths)))
                says = "can't tell" if abs(ahead_of_dpo) < unsure else (
                    "ahead of DPO" if ahead_of_dpo > 0 else "behind DPO"
                )  # fmt: skip
                print(f"  {name:<13} seed {seed}: KL {kl:.2f}, {gain:+.2f}; "
                      f"{ahead_of_dpo:+.2f} ± {unsure:.2f}, {says}")  # fmt: skip

# %% [markdown]
# **Is the judge being fooled?** The mark of over-optimisation would be a judge that rises while VADER falls.
# The cell asks twice: from the start to the furthest run, and over the last step to it. How much may VADER
# move by chance? The records hold its means, so its spread is taken from what it says of the held-out snippets.

# %%
spread = load_people_scores()[1]["vader"].std(ddof=1)
print(f"standard deviation of VADER over held-out snippets: {spread:.2f}")
verdicts = []
for method, by_seed in paths.items():
    for seed, path in by_seed.items():
        by_chance = SURE * spread * math.sqrt(2 / openings[method, seed])
        far, two = path[-1]
        for place in sorted({0, len(path) - 2}):
            near, one = path[place]
            judge, vader = (two[measure] - one[measure] for measure in ("reward", "vader"))
            unsure = SURE * math.hypot(one["reward_error"], two["reward_error"])
            if judge < unsure:
                verdict = "the judge doesn't rise by more than chance"
            elif abs(vader) < by_chance:
                verdict = "VADER doesn't move by more than chance"
            else:
                verdict = "VADER rises too" if vader > 0 else "VADER FALLS"
            verdicts.append(verdict)
            print(f"seed {seed}, {near} to {far}: judge {judge:+.2f} ± {unsure:.2f}, "
                  f"VADER {vader:+.2f} ± {by_chance:.2f}: {verdict}")  # fmt: skip
print(f"\nof {len(verdicts)} comparisons the judge rises in "
      f"{sum(verdict.startswith('VADER') for verdict in verdicts)}; there VADER rises too in "
      f"{verdicts.count('VADER rises too')} and falls in {verdicts.count('VADER FALLS')}")  # fmt: skip

# %% [markdown]
# A fall of VADER in that last line would say that the judge is being fooled, as lesson 3 did with a reward model
# of few pairs; a rise says that what the judge likes is liked by another measure too, *as far as these runs
# went*. Neither is what people would say of the texts, so read them:

# %%
run = next(item for item in real if item.settings.method == "dpo" and item.settings.beta == 0.1)
for (prompt, old, before_it), (_, new, after_it) in zip(run.texts_before, run.texts, strict=True):
    print(f"\n{prompt}\n  before {before_it:+.2f} {old}\n  after  {after_it:+.2f} {new}")

# %% [markdown]
# All texts of the record stand there, good and bad. The model didn't become clever: it learned to praise.
# Best-of-n asks the judge about every candidate; DPO heard of its taste from some 900 comparisons.
#
# ## What was shown
#
# | claim | where | measured by |
# | --- | --- | --- |
# | π* ∝ π_ref · exp(r/β) is the one best policy | 2 | 2,000 rivals, exact sums |
# | r → π* → r, Z cancels, one reward per class | 3, 4 | exact sums |
# | DPO is Bradley-Terry on implicit rewards | 5 | your functions |
# | the written gradient is autograd's | 6 | every logit of a table |
# | population pairs lead to π*, few pairs away from it | 7 | total variation |
# | your run falls on the stored frontier | 9 | a new seed |
# | log KL against log β | 10 | slope, R², interval |
# | shared first words are invisible to DPO | 11 | probability of the word |
# | chosen log-probs fall even on the way to π*, and whose probability grows | 11 | stored runs, exact sums |
# | when labels never err, IPO comes to rest and DPO does not | 12 | exact KL, 1,600 steps |
# | the frontier of a real model, and a judge that is not fooled yet | 13 | stored runs, VADER |
#
# **In the package.** `rlhf_lessons.formulas`: `optimal_policy`, `log_partition`, `implied_reward`,
# `canonical_reward`, `implicit_reward`, `dpo_loss`, `dpo_gradient_weight`, `label_smoothed_dpo_loss`,
# `ipo_loss`, `hinge_preference_loss`, `exponential_preference_loss`, `unlikelihood_loss`,
# `shared_prefix_length`. `rlhf_lessons.training`: `train_dpo`. `rlhf_lessons.evaluation`:
# `frontier_point`, `run_frontier`, `load_frontier`, `load_real_frontier`, `fit_power_law`, `win_rate`. On the command line:
# `python -m rlhf_lessons frontier`.
#
# **Further reading.**
#
# - Rafailov et al. 2023, *Direct Preference Optimization: Your Language Model is Secretly a Reward Model*.
# - Azar et al. 2023, *A General Theoretical Paradigm to Understand Learning from Human Preferences*: IPO.
# - Tang et al. 2024, *Generalized Preference Optimization*: the losses as functions of the margin.
# - Razin et al. 2024, *Unintentional Unalignment*: why the chosen log-probability falls.
# - Ouyang et al. 2022, *Training language models to follow instructions with human feedback*.
#
# **Three quick questions.**
#
# 1. You double β and double all rewards. What happens to π*?
#
# <details><summary>Answer</summary>
#
# Nothing: only r/β enters. With labels of temperature T, DPO at β aims at the best policy for the reward
# r/T, which is that of r at β · T.
#
# </details>
#
# 2. All your chosen responses end politely, and all rejected ones too. Does DPO teach politeness?
#
# <details><summary>Answer</summary>
#
# Hardly. The endings differ in what precedes them, so they don't cancel exactly, but nothing *rewards* them:
# fine-tune on the chosen responses first.
#
# </details>
#
# 3. A colleague reports a higher reward for DPO than for PPO, at the same β. Is DPO better?
#
# <details><summary>Answer</summary>
#
# Ask for the KL. The same β does not give the same KL; compare at equal distance, over several seeds.
#
# </details>
#
# The words of this lesson, in three languages:

# %%
glossary(6)
