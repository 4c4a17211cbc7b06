"""The checks of lesson 5, the trust region.

Hidden inputs are drawn fresh at every run: policies on small trees of responses, ratios on both
sides of the clip range with both signs of the advantage, padded batches with arbitrary numbers in
the padding, states that are never visited, float32 and float64. Each known mistake is computed
beside the right answer, so that a hint can name it. Left out on purpose: ratios exactly at the edge
of the clip range, where the objective has no gradient.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from rlhf_lessons import formulas
from rlhf_lessons.classroom.exercises import Exercise, compare, require
from rlhf_lessons.evaluation import surrogate_bound, surrogate_objective
from rlhf_lessons.models import ResponseTree

DTYPES = (torch.float32, torch.float64)
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}
WORDS = ("good", "bad", "very")


def draw_tensor(
    draw: np.random.Generator, *shape: int, scale: float = 2.0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Draw a tensor of independent normal numbers with standard deviation ``scale``."""
    return torch.from_numpy(scale * draw.standard_normal(shape)).to(dtype)


def draw_mask(draw: np.random.Generator, batch: int, length: int, shortest: int) -> Tensor:
    """Draw a right-padded mask: one full row, one with two or more gaps, others of any length."""
    lengths = draw.integers(shortest, length, size=batch, endpoint=True)
    lengths[0], lengths[-1] = length, draw.integers(shortest, length - 2, endpoint=True)
    return torch.from_numpy(np.arange(length)[None, :] < draw.permutation(lengths)[:, None])


def cleared(values: Tensor, mask: Tensor) -> Tensor:
    """Return ``values`` where the mask counts and 0 elsewhere, whatever stood there (even NaN)."""
    return values.masked_fill(~mask, 0.0)


def draw_world(draw: np.random.Generator) -> tuple[ResponseTree, Tensor, Tensor, Tensor]:
    """Draw a small tree, an old and a new policy on it, and a reward for each response."""
    tree = ResponseTree(WORDS[: int(draw.integers(2, 4))], int(draw.integers(3, 5)))
    shape = (len(tree.prefixes), len(tree.actions))
    old = draw_tensor(draw, *shape, scale=1.0)
    new = old + draw_tensor(draw, *shape, scale=0.7)
    return tree, old, new, draw_tensor(draw, len(tree.responses)) - 1.0


# 5.1 · surrogate and truth ----------------------------------------------------------------------


def reference_surrogate_and_true(
    tree: ResponseTree, old_logits: Tensor, logits: Tensor, rewards: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what the old policy's advantages promise for a new policy, and its true J."""
    true = (tree.response_log_probs(logits).exp() * rewards).sum(-1)
    return surrogate_objective(tree, old_logits, logits, rewards), true


surrogate_and_true = Exercise(
    "5.1",
    "Surrogate and truth",
    function="surrogate_and_true",
    reference=lambda: reference_surrogate_and_true,
)


def _pair(got: object) -> tuple[object, object]:
    require(
        isinstance(got, (tuple, list)) and len(got) == 2, "Return a pair: return surrogate, true"
    )
    return got[0], got[1]


def _surrogate_mistakes(tree, old, new, rewards) -> dict[str, Tensor]:
    values = tree.evaluate(old, rewards)
    visits, p, p_old = tree.reach(old).unsqueeze(-1), new.softmax(-1), old.softmax(-1)
    start = values.v[0]
    gain = (visits * p * values.advantage).sum()
    return {
        "You forgot J(π_old): the sum over visits and advantages is the promised GAIN": gain,
        "This is J(π) itself: either you weighed with the visits of the NEW policy, which nobody "
        "knows before sampling from π (use tree.reach(old_logits)), or the pair stands the wrong "
        "way round: return surrogate, true": (
            start + (tree.reach(new).unsqueeze(-1) * p * values.advantage).sum()
        ),
        "You left out the visits: a prefix that π_old hardly ever reaches counts little": (
            start + (p * values.advantage).sum()
        ),
        "This is J(π_old) for every π: take the NEW policy's probabilities with the OLD policy's "
        "advantages (a policy's own advantages average to 0)": start,
        "You took Q for A: the advantage is Q − V": start + (visits * p * values.q).sum(),
        "You weighed with the ratio π/π_old: the sum over all actions weighs with π": (
            start + (visits * (p / p_old) * values.advantage).sum()
        ),
        "You took the mean over the prefixes: it is a sum, weighted by visits": (
            start + (visits * p * values.advantage).sum(-1).mean()
        ),
        "You subtracted the gain: L(π) = J(π_old) + gain": start - gain,
    }


@surrogate_and_true.part("the surrogate", points=1)
def _(answer, draw) -> None:
    tree, old, new, rewards = draw_world(draw)
    surrogate, _ = _pair(answer(tree, old, new, rewards))
    compare(
        "the surrogate L(π)",
        surrogate,
        surrogate_objective(tree, old, new, rewards),
        mistakes=_surrogate_mistakes(tree, old, new, rewards),
        dtype=False,
    )


@surrogate_and_true.part("the true objective", points=1)
def _(answer, draw) -> None:
    tree, old, new, rewards = draw_world(draw)
    _, true = _pair(answer(tree, old, new, rewards))
    log_p = tree.response_log_probs(new)
    compare(
        "the true J(π)",
        true,
        (log_p.exp() * rewards).sum(),
        mistakes={
            "You gave J of the OLD policy": (tree.response_log_probs(old).exp() * rewards).sum(),
            "You weighed rewards with log-probabilities: apply .exp() first": (
                log_p * rewards
            ).sum(),
            "You took the mean over responses: weigh each with its probability and sum": (
                log_p.exp() * rewards
            ).mean(),
            "You gave every response the same weight: J is the mean under π": rewards.mean(),
            "You gave the surrogate again: J sums π(y) · r(y) over all responses": (
                surrogate_objective(tree, old, new, rewards)
            ),
        },
        dtype=False,
    )


@surrogate_and_true.part("at the old policy they touch, with one gradient", points=1)
def _(answer, draw) -> None:
    tree, old, _, rewards = draw_world(draw)
    logits = old.clone().requires_grad_(True)
    surrogate, true = _pair(answer(tree, old, logits, rewards))
    values = tree.evaluate(old, rewards)
    for name, got in (("the surrogate at π_old", surrogate), ("the true J at π_old", true)):
        compare(
            name,
            got,
            values.v[0],
            mistakes={
                "You forgot J(π_old): the sum over visits and advantages is the promised GAIN": (
                    torch.zeros((), dtype=old.dtype)
                )
            },
            gradient=True,
            dtype=False,
        )
    slope = torch.autograd.grad(surrogate, logits, allow_unused=True)[0]
    visits = tree.reach(old).unsqueeze(-1)
    right = visits * old.softmax(-1) * values.advantage
    compare(
        "the surrogate's gradient in the new logits (d_old · π · A at π_old)",
        torch.zeros_like(old) if slope is None else slope,
        right,
        mistakes={
            "No gradient reaches the new logits: π is new.softmax(-1), with gradient": (
                torch.zeros_like(old)
            ),
            "You left out the visits: a prefix that π_old hardly ever reaches counts little": (
                old.softmax(-1) * values.advantage
            ),
        },
    )


# 5.2 · the worst gap ----------------------------------------------------------------------------


def reference_worst_gap(
    tree: ResponseTree, old_logits: Tensor, logits: Tensor, rewards: Tensor
) -> Tensor:
    """Return the bound on |J − L| by the largest total variation."""
    return surrogate_bound(tree, old_logits, logits, rewards).by_total_variation


worst_gap = Exercise(
    "5.2", "The worst gap", function="worst_gap", reference=lambda: reference_worst_gap
)


def _worst_gap_mistakes(tree, old, new, rewards) -> dict[str, Tensor]:
    variation = 0.5 * (new.softmax(-1) - old.softmax(-1)).abs().sum(-1)
    advantages = tree.evaluate(old, rewards).advantage
    alpha, largest, length = variation.max(), advantages.abs().max(), tree.longest
    steps = length * (length - 1)
    own = tree.evaluate(new, rewards).advantage.abs().max()
    kl = formulas.categorical_kl(old, new).max()
    return {
        "You forgot the ½ of the total variation: TV = ½ · Σ_a |π − π_old|": (
            2 * largest * steps * (2 * alpha).square()
        ),
        "You averaged the total variation over the prefixes: the worst case takes the largest": (
            2 * largest * steps * variation.mean().square()
        ),
        "You forgot the square: the gap is of SECOND order, α²": 2 * largest * steps * alpha,
        "You took the largest advantage without its sign removed: the worst may be negative, "
        "ε_A = max |A|": 2 * advantages.max() * steps * alpha.square(),
        "You averaged |A|: the worst case takes the largest": (
            2 * advantages.abs().mean() * steps * alpha.square()
        ),
        "These are the advantages of the NEW policy: take those of the old one": (
            2 * own * steps * alpha.square()
        ),
        "You counted L² pairs of steps: Σ_{t<L} t = L(L − 1)/2, the first token has no past": (
            2 * largest * length**2 * alpha.square()
        ),
        "You took Σ_{t≤L} t: the tokens are numbered 0 to L − 1": (
            2 * largest * length * (length + 1) * alpha.square()
        ),
        "You forgot to sum over the tokens: Σ_{t<L} t = L(L − 1)/2": 4 * largest * alpha.square(),
        "You lost a factor: 4 · ε_A · α² · L(L − 1)/2 = 2 · ε_A · α² · L(L − 1)": (
            largest * steps * alpha.square()
        ),
        "You doubled: 4 · ε_A · α² · L(L − 1)/2 = 2 · ε_A · α² · L(L − 1)": (
            4 * largest * steps * alpha.square()
        ),
        "You took the largest KL for α: the bound asked for uses the total variation": (
            2 * largest * steps * kl.square()
        ),
        "You gave the bound by KL: the one asked for uses the total variation, which is tighter": (
            largest * steps * kl
        ),
        "You summed the differences over ALL prefixes: one total variation per prefix, then the "
        "largest": 2
        * largest
        * steps
        * (0.5 * (new.softmax(-1) - old.softmax(-1)).abs().sum()).square(),
    }


@worst_gap.part("the bound", points=2)
def _(answer, draw) -> None:
    tree, old, new, rewards = draw_world(draw)
    advantages = tree.evaluate(old, rewards).advantage
    if bool(advantages.max() == advantages.abs().max()):
        rewards = -rewards  # now the largest |A| is a negative one, and max A another number
    compare(
        "worst_gap(tree, old_logits, logits, rewards)",
        answer(tree, old, new, rewards),
        reference_worst_gap(tree, old, new, rewards),
        mistakes=_worst_gap_mistakes(tree, old, new, rewards),
        dtype=False,
    )


@worst_gap.part("the same policy; a response of one token", points=1)
def _(answer, draw) -> None:
    tree, old, _, rewards = draw_world(draw)
    shifted = old + draw_tensor(draw, len(old), 1)  # the same policy in other logits
    compare(
        "worst_gap of a policy and itself, a constant added to its logits",
        answer(tree, old, shifted, rewards),
        torch.zeros((), dtype=old.dtype),
        mistakes={
            "You compared logits: a constant added to them changes no policy, compare "
            "probabilities": lambda: (
                2
                * tree.evaluate(old, rewards).advantage.abs().max()
                * tree.longest
                * (tree.longest - 1)
                * (0.5 * (shifted - old).abs().sum(-1)).max().square()
            ),
        },
        dtype=False,
    )
    tree = ResponseTree(WORDS, 1)
    old, new = (draw_tensor(draw, 1, len(tree.actions)) for _ in range(2))
    rewards = draw_tensor(draw, len(tree.responses))
    compare(
        "worst_gap where a response is one token (there the surrogate IS the truth)",
        answer(tree, old, new, rewards),
        torch.zeros((), dtype=old.dtype),
        mistakes=_worst_gap_mistakes(tree, old, new, rewards),
        dtype=False,
    )


# 5.3 · the four quadrants -----------------------------------------------------------------------


def reference_clipped_gradient(ratios: Tensor, advantages: Tensor, epsilon: float) -> Tensor:
    """Return d/d log π of min(ρA, clip(ρ, 1 − ε, 1 + ε)·A), by autograd."""
    log_probs = ratios.detach().log().requires_grad_(True)
    old = torch.zeros_like(log_probs)
    losses = formulas.ppo_policy_loss(
        log_probs.reshape(1, -1), old.reshape(1, -1), advantages.reshape(1, -1), epsilon
    )
    return -torch.autograd.grad(losses.sum(), log_probs)[0]


clipped_gradient = Exercise(
    "5.3",
    "Four quadrants",
    function="clipped_gradient",
    reference=lambda: reference_clipped_gradient,
)


def _quadrants(draw, size: int, epsilon: float, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    """Draw ratios on both sides of the range and inside it, with both signs of A."""
    inside = 1 + epsilon * draw.uniform(-0.9, 0.9, size=2 * size)
    above = 1 + epsilon * draw.uniform(1.1, 3.0, size=2 * size)
    below = (1 - epsilon) * draw.uniform(0.2, 0.9, size=2 * size)
    signs = torch.tensor([1.0, -1.0], dtype=dtype).repeat_interleave(size).repeat(3)
    ratios = torch.tensor([*inside, *above, *below], dtype=dtype)
    sizes = torch.tensor(draw.uniform(0.5, 3.0, size=6 * size), dtype=dtype)
    return ratios, signs * sizes


def _clipped_gradient_right(ratios: Tensor, advantages: Tensor, epsilon: float) -> Tensor:
    stopped = ((advantages > 0) & (ratios > 1 + epsilon)) | (
        (advantages < 0) & (ratios < 1 - epsilon)
    )
    return (ratios * advantages).masked_fill(stopped, 0)


def _clipped_gradient_mistakes(ratios, advantages, epsilon) -> dict[str, Tensor]:
    full = ratios * advantages
    outside = (ratios < 1 - epsilon) | (ratios > 1 + epsilon)
    stopped = ((advantages > 0) & (ratios > 1 + epsilon)) | (
        (advantages < 0) & (ratios < 1 - epsilon)
    )
    clipped = ratios.clamp(1 - epsilon, 1 + epsilon)
    return {
        "You set every gradient outside the range to 0: the min keeps the unclipped term where it "
        "is the LOWER one, so a mistake can be undone": full.masked_fill(outside, 0),
        "You stop the wrong side, as the MAX of the two terms would: the clip stops a good "
        "action from going further UP and a bad one from going further DOWN": full.masked_fill(
            outside & ~stopped, 0
        ),
        "You looked at one sign of the advantage alone: with A < 0 the side below 1 − ε is "
        "stopped": full.masked_fill((advantages > 0) & (ratios > 1 + epsilon), 0),
        "You stop ρ > 1 + ε whatever the sign of A: a bad action that has become likelier must "
        "still be pushed down": full.masked_fill(ratios > 1 + epsilon, 0),
        "You gave the gradient in the ratio: in log π it is ρ · A, since dρ/d log π = ρ": (
            advantages.masked_fill(stopped, 0)
        ),
        "You gave the value of the objective: its SLOPE is 0 where the clip holds": torch.minimum(
            full, clipped * advantages
        ),
        "You clipped the ratio in the gradient: where the objective is flat the gradient is 0, and "
        "elsewhere the ratio is as it is": clipped * advantages,
        "You ignored the clip: where the lower term is the clipped one the gradient is 0": full,
        "You gave the gradient of the LOSS: the objective's has the other sign": -(
            full.masked_fill(stopped, 0)
        ),
    }


@clipped_gradient.part("inside the range", points=1)
def _(answer, draw) -> None:
    epsilon = float(draw.uniform(0.1, 0.3))
    ratios = torch.tensor(1 + epsilon * draw.uniform(-0.9, 0.9, size=6))
    advantages = draw_tensor(draw, 6)
    compare(
        "clipped_gradient with all ratios inside the range",
        answer(ratios, advantages, epsilon),
        ratios * advantages,
        mistakes={
            **_clipped_gradient_mistakes(ratios, advantages, epsilon),
            "Inside the range nothing is clipped: the gradient is ρ · A": torch.zeros(6).double(),
        },
    )


@clipped_gradient.part("the four quadrants", points=1)
def _(answer, draw) -> None:
    for dtype in DTYPES:
        epsilon = float(draw.uniform(0.1, 0.3))
        ratios, advantages = _quadrants(draw, 2, epsilon, dtype)
        compare(
            "clipped_gradient(ratios, advantages, epsilon)",
            answer(ratios, advantages, epsilon),
            _clipped_gradient_right(ratios, advantages, epsilon),
            mistakes=_clipped_gradient_mistakes(ratios, advantages, epsilon),
            atol=TOLERANCE[dtype],
        )


@clipped_gradient.part("advantage 0, a wide range, a batch in two dimensions", points=1)
def _(answer, draw) -> None:
    epsilon = float(draw.uniform(1.2, 1.8))  # 1 − ε < 0: no ratio is ever below the range
    ratios = torch.tensor(draw.uniform(0.01, 4.0, size=(3, 4)))
    ratios[0, :2] = 1 + 1.5 * epsilon
    advantages = draw_tensor(draw, 3, 4)
    advantages[0, 0], advantages[0, 1], advantages[1, 1] = 1.3, -0.7, 0.0
    compare(
        "clipped_gradient with ε above 1",
        answer(ratios, advantages, epsilon),
        _clipped_gradient_right(ratios, advantages, epsilon),
        mistakes=_clipped_gradient_mistakes(ratios, advantages, epsilon),
    )


# 5.4 · clip fraction ----------------------------------------------------------------------------

clip_fraction = Exercise(
    "5.4", "Clip fraction", function="clip_fraction", reference=lambda: formulas.clip_fraction
)


def _draw_update(draw, epsilon: float, dtype=torch.float64):
    """Draw a padded batch whose ratios lie on all sides of the range."""
    batch, length = 5, int(draw.integers(9, 16))
    mask = draw_mask(draw, batch, length, shortest=4)
    old = -draw_tensor(draw, batch, length, scale=1.0, dtype=dtype).abs() - 0.1
    log_ratio = draw_tensor(draw, batch, length, scale=2 * epsilon, dtype=dtype)
    advantages = draw_tensor(draw, batch, length, dtype=dtype)
    # An update moves most tokens where their advantage points; so the quadrants differ in size.
    follows = torch.from_numpy(draw.random((batch, length)) < 0.6)
    log_ratio = torch.where(follows, log_ratio.abs() * advantages.sign(), log_ratio)
    near = torch.minimum(
        (log_ratio - math.log1p(epsilon)).abs(), (log_ratio - math.log1p(-epsilon)).abs()
    )
    log_ratio = torch.where(near < 1e-3, log_ratio + 0.01, log_ratio)  # never at the edge
    return old + log_ratio, old, advantages, mask


def _share(hit: Tensor, mask: Tensor, dtype=torch.float64) -> Tensor:
    return (hit & mask).sum().to(dtype) / mask.sum()


def _stopped(log_probs, old, advantages, epsilon) -> Tensor:
    rho = (log_probs - old).exp()
    return ((advantages > 0) & (rho > 1 + epsilon)) | ((advantages < 0) & (rho < 1 - epsilon))


def _clip_fraction_mistakes(log_probs, old, advantages, mask, epsilon) -> dict[str, Tensor]:
    rho = (log_probs - old).exp()
    stopped = _stopped(log_probs, old, advantages, epsilon)
    outside = (rho - 1).abs() > epsilon
    upside_down = _stopped(old, log_probs, advantages, epsilon)
    dtype = log_probs.dtype
    return {
        "You counted every ratio outside the range: where the unclipped term is the lower one the "
        "clip has no say; look at the sign of A": _share(outside, mask, dtype),
        "You counted the two quadrants that the clip leaves alone: with A > 0 it stops ρ > 1 + ε, "
        "with A < 0 it stops ρ < 1 − ε": _share(outside & ~stopped, mask, dtype),
        "You counted the quadrants that the clip leaves alone, by a ratio upside down: "
        "ρ = π / π_old": _share(upside_down, mask, dtype),
        "You counted good actions alone: bad ones are stopped below 1 − ε": _share(
            (advantages > 0) & (rho > 1 + epsilon), mask, dtype
        ),
        "You averaged over the padding too: divide by the number of counted tokens": (
            (stopped & mask).to(dtype).mean()
        ),
        "You ignored the mask: tokens of the padding are no actions": stopped.to(dtype).mean(),
        "You compared log ρ with ε: the range is on the ratio, ρ = exp(log π − log π_old)": _share(
            ((advantages > 0) & (rho.log() > epsilon))
            | ((advantages < 0) & (rho.log() < -epsilon)),
            mask,
            dtype,
        ),
        "You gave the number of tokens: divide by how many count": (stopped & mask).sum().to(dtype),
        "You averaged the rows' shares: each token counts the same": (
            (stopped & mask).sum(1).to(dtype) / mask.sum(1)
        ).mean(),
        "You gave the share that is NOT clipped": 1 - _share(stopped, mask, dtype),
    }


@clip_fraction.part("a padded batch", points=1)
def _(answer, draw) -> None:
    for dtype in DTYPES:
        epsilon = float(draw.uniform(0.1, 0.3))
        log_probs, old, advantages, mask = _draw_update(draw, epsilon, dtype)
        # Two tokens between the range of ρ and the same range on log ρ; padding that looks clipped.
        log_probs[:2, 0] = old[:2, 0] + (math.log1p(epsilon) + epsilon) / 2
        advantages[:2, 0] = 1.0
        log_probs[~mask], old[~mask] = -0.1, -3.0
        advantages[~mask] = 1.0
        compare(
            "clip_fraction(log_probs, old_log_probs, advantages, mask, epsilon)",
            answer(log_probs, old, advantages, mask, epsilon),
            _share(_stopped(log_probs, old, advantages, epsilon), mask, dtype),
            mistakes=_clip_fraction_mistakes(log_probs, old, advantages, mask, epsilon),
            atol=TOLERANCE[dtype],
        )


@clip_fraction.part("nothing moved; everything clipped; NaN in the padding", points=1)
def _(answer, draw) -> None:
    epsilon = float(draw.uniform(0.1, 0.3))
    log_probs, old, advantages, mask = _draw_update(draw, epsilon)
    compare(
        "clip_fraction of a policy that has not moved",
        answer(old.clone(), old, advantages, mask, epsilon),
        torch.zeros((), dtype=old.dtype),
        mistakes={"You gave the share that is NOT clipped": torch.ones((), dtype=old.dtype)},
    )
    far = torch.where(advantages > 0, 1.0, -1.0)
    log_probs = old + far
    log_probs[~mask], advantages[~mask] = math.nan, math.nan
    compare(
        "clip_fraction where every token went its way, with NaN in the padding",
        answer(log_probs, old, advantages, mask, epsilon),
        torch.ones((), dtype=old.dtype),
        mistakes=_clip_fraction_mistakes(log_probs, old, advantages, mask, epsilon),
    )
    neutral = "You counted tokens with A = 0: their gradient is 0 without the clip"
    for side in (1.0, -1.0):
        compare(
            f"clip_fraction where every A is 0, and every ratio {'above' if side > 0 else 'below'}",
            answer(old + side, old, torch.zeros_like(old), torch.ones_like(mask), epsilon),
            torch.zeros((), dtype=old.dtype),
            mistakes={neutral: torch.ones((), dtype=old.dtype)},
        )


# 5.5 · approximate KL ---------------------------------------------------------------------------


def reference_approximate_kl(
    log_probs: Tensor, old_log_probs: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the means of k1, k2 and k3 of KL(π_old ‖ π) over the counted tokens."""
    log_ratio = cleared(old_log_probs - log_probs, mask)
    k1, k2, k3 = (
        formulas.masked_mean(estimate(log_ratio), mask)
        for estimate in (formulas.kl_k1, formulas.kl_k2, formulas.kl_k3)
    )
    return k1, k2, k3


approximate_kl = Exercise(
    "5.5",
    "Approximate KL",
    function="approximate_kl",
    reference=lambda: reference_approximate_kl,
)


def _three(got: object) -> tuple[object, object, object]:
    require(
        isinstance(got, (tuple, list)) and len(got) == 3, "Return three numbers: return k1, k2, k3"
    )
    return tuple(got)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return cleared(values, mask).sum() / mask.sum()


def _compare_kls(answer, log_probs, old, mask, dtype) -> None:
    got = _three(answer(log_probs, old, mask))
    log_rho = log_probs - old  # log π − log π_old
    rho = log_rho.exp()
    terms = (-log_rho, 0.5 * log_rho.square(), rho - 1 - log_rho)
    specific = (
        {
            "k1 has the wrong direction: the tokens were sampled from π_OLD, so the KL is "
            "KL(π_old ‖ π) and k1 = log π_old − log π": log_rho,
            "k1 is the log-ratio itself, which may be negative: leave out abs": log_rho.abs(),
            "k1 is the LOG-ratio: you gave the ratio": rho,
        },
        {
            "k2 has a factor ½": log_rho.square(),
            "k2 squares the LOG-ratio: you squared ρ − 1": 0.5 * (rho - 1).square(),
            "k2 is ½ of the SQUARED log-ratio: you took its absolute value": 0.5 * log_rho.abs(),
        },
        {
            "k3 has the wrong direction: under π_OLD the control variate is ρ − 1 with "
            "ρ = π/π_old, so k3 = ρ − 1 − log ρ": (-log_rho).exp() - 1 + log_rho,
            "k3 lost its −1: k3 = ρ − 1 − log ρ is 0 where nothing moved": rho - log_rho,
            "k3 subtracts log ρ, you added it": rho - 1 + log_rho,
            "k3 = ρ − 1 − log ρ with ρ = π/π_old: you took ρ upside down in its first term": (
                (-log_rho).exp() - 1 - log_rho
            ),
        },
    )
    for name, value, term, wrong in zip(("k1", "k2", "k3"), got, terms, specific, strict=True):
        kept = cleared(term, mask)
        compare(
            f"{name}, a mean over the counted tokens",
            value,
            _mean(term, mask),
            mistakes={
                **{hint: _mean(other, mask) for hint, other in wrong.items()},
                "You averaged over the padding too: divide by the number of counted tokens": (
                    kept.mean()
                ),
                "You ignored the mask: tokens of the padding were never sampled": term.mean(),
                "You summed over the tokens: the KL per token is the mean": kept.sum(),
                "You summed over each response: the KL per TOKEN is asked for": (
                    kept.sum(1).mean()
                ),
                "You averaged the rows' means: each token counts the same": (
                    kept.sum(1) / mask.sum(1)
                ).mean(),
                "You gave one number per token: take the mean": kept,
            },
            atol=TOLERANCE[dtype],
        )


@approximate_kl.part("a padded batch", points=1)
def _(answer, draw) -> None:
    for dtype in DTYPES:
        log_probs, old, _, mask = _draw_update(draw, 0.3, dtype)
        _compare_kls(answer, log_probs, old, mask, dtype)


@approximate_kl.part("garbage in the padding", points=1)
def _(answer, draw) -> None:
    log_probs, old, _, mask = _draw_update(draw, 0.3)
    log_probs[~mask] = math.nan if draw.random() < 0.5 else -math.inf
    spoiled = (old - log_probs) * mask
    got = _three(answer(log_probs, old, mask))
    for name, value, right in zip(
        ("k1", "k2", "k3"), got, reference_approximate_kl(log_probs, old, mask), strict=True
    ):
        compare(
            f"{name} with NaN or −∞ in the padding",
            value,
            right,
            mistakes={
                "NaN · 0 and ∞ · 0 are NaN: clear the padding with masked_fill, or pick the "
                "counted tokens with [mask]": spoiled.sum(),
                "NaN · 0 and ∞ · 0 are NaN: clear the padding BEFORE the mean": (
                    old - log_probs
                ).mean(),
            },
        )


@approximate_kl.part("the mean of k1 and k3 is the exact KL", points=1)
def _(answer, draw) -> None:
    # Every token of the old policy in the share in which it samples it: no noise is left.
    counts = draw.integers(1, 6, size=5)
    old = torch.tensor(counts / counts.sum()).log()
    new = draw_tensor(draw, 5, scale=0.8).log_softmax(-1)
    tokens = torch.arange(5).repeat_interleave(torch.tensor(counts))
    exact = formulas.categorical_kl(old, new)
    mask = torch.ones(1, len(tokens), dtype=torch.bool)
    k1, _, k3 = _three(answer(new[tokens][None], old[tokens][None], mask))
    for name, value in (("k1", k1), ("k3", k3)):
        compare(
            f"the mean of {name} over samples in exact proportion, against Σ π_old log(π_old/π)",
            value,
            exact,
            mistakes={
                "the direction: the samples come from π_OLD, so the log-ratio is log π_old − "
                "log π": -exact,
                "the control variate must average to 0 under π_OLD: ρ − 1 with ρ = π/π_old": (
                    (old.exp() * (torch.expm1(old - new) + new - old)).sum()
                ),
            },
        )


# 5.6 · early stopping ---------------------------------------------------------------------------


def reference_should_stop(
    log_probs: Tensor, old_log_probs: Tensor, mask: Tensor, max_kl: float
) -> bool:
    """Return whether the mean of k3 has left the trust region, which NaN has."""
    return not float(reference_approximate_kl(log_probs, old_log_probs, mask)[2]) <= max_kl


should_stop = Exercise(
    "5.6",
    "Stop in time",
    function="should_stop",
    reference=lambda: reference_should_stop,
)


def _moved(draw, log_ratios: list[list[float]]) -> tuple[Tensor, Tensor, Tensor]:
    """A batch whose log ρ is given; NaN marks padding, and stands there."""
    log_rho = torch.tensor(log_ratios, dtype=torch.float64)
    mask = ~log_rho.isnan()
    old = -draw_tensor(draw, *log_rho.shape, scale=1.0).abs() - 2.0
    return old + log_rho, old, mask


def _expect(answer, what: str, batch, max_kl: float, expected: bool, hint: str) -> None:
    compare(what, answer(*batch, max_kl), expected, mistakes={hint: not expected})


@should_stop.part("inside and outside the region, and a KL that is not a number", points=1)
def _(answer, draw) -> None:
    x = float(draw.uniform(0.05, 0.1))
    near = [[x, -x, x, -x], [-x, x, -x, x]]
    batch = _moved(draw, near)
    direction = "The other way round: stop when the KL is ABOVE the limit"
    _expect(answer, "a policy that has hardly moved", batch, 0.05, False, direction)
    x = float(draw.uniform(0.8, 1.0))
    batch = _moved(draw, [[x, -x, x, -x], [-x, x, -x, x]])
    _expect(answer, "a policy that has moved far", batch, 0.05, True, direction)
    batch = _moved(draw, [[0.0] * 4, [0.0] * 4])
    _expect(
        answer,
        "a policy that has not moved at all, the limit 0: the KL is AT the limit",
        batch,
        0.0,
        False,
        "You stopped AT the limit: the rule says above it, `not kl <= limit`",
    )
    log_probs, old, mask = _moved(draw, [[0.1, -0.1, 0.1], [0.1, 0.1, -0.1]])
    log_probs[0, int(draw.integers(3))] = math.nan
    _expect(
        answer,
        "the policy has turned NaN",
        (log_probs, old, mask),
        0.05,
        True,
        "NaN > limit is False, so you went on with a broken policy: ask `not kl <= limit`",
    )


@should_stop.part("k1 would miss it", points=1)
def _(answer, draw) -> None:
    x = float(draw.uniform(0.8, 1.0))
    batch = _moved(draw, [[x, x, -x / 2, x], [x, -x / 2, x, x]])
    _expect(
        answer,
        "every token likelier than before: log π_old − log π is negative on average, and the "
        "policy has moved far",
        batch,
        0.05,
        True,
        "You used k1: it can be NEGATIVE where the policy has moved far; k3 can't",
    )
    batch = _moved(draw, [[-0.25] * 4, [-0.25] * 4])  # k1 = 0.25, k3 = 0.029
    _expect(
        answer,
        "every token a little less likely: k1 is 0.25, k3 is 0.03, the limit 0.1",
        batch,
        0.1,
        False,
        "You used k1 (or its size): it is far more noisy than k3, which is what the rule asks for",
    )
    batch = _moved(draw, [[-1.0] * 4, [-1.0] * 4])  # k3 = 0.368; the other way round e − 2 = 0.718
    _expect(
        answer,
        "every token e times less likely: k3 is e⁻¹ − 1 + 1 = 0.37, the limit 0.45",
        batch,
        0.45,
        False,
        "Your k3 has the wrong direction (or is k2): k3 = ρ − 1 − log ρ with ρ = π/π_old",
    )


@should_stop.part("per token, padding left out", points=1)
def _(answer, draw) -> None:
    x, none = 0.3, math.nan
    batch = _moved(draw, [[x, -x] * 5, [-x, x] * 5])  # k3 about 0.045 a token, 0.45 a response
    _expect(
        answer,
        "a small move on each of ten tokens: the KL is 0.045 per token, the limit 0.1",
        batch,
        0.1,
        False,
        "You summed over tokens: the limit is per TOKEN, so take the mean (or you stop as soon as "
        "one ratio is far out)",
    )
    batch = _moved(draw, [[0.02] * 9 + [0.9], [0.02] * 10])  # k3 of one token 0.56, mean 0.028
    _expect(
        answer,
        "one token far out, the mean k3 is 0.03, the limit 0.1",
        batch,
        0.1,
        False,
        "You looked at the LARGEST token: the rule is about the mean",
    )
    moved, old, mask = _moved(draw, [[0.7, -0.7] + [none] * 8, [0.7, -0.7] + [none] * 8])
    log_probs = torch.where(mask, old + 0.05, -50.0)
    _expect(
        answer,
        "a small move, and garbage in the padding",
        (log_probs, old, mask),
        0.1,
        False,
        "You ignored the mask: what stands in the padding was never sampled",
    )
    log_probs = torch.where(mask, moved, old)  # padding that has not moved dilutes a mean
    _expect(
        answer,
        "two tokens far out in each row, eight of padding: the mean k3 is 0.26, the limit 0.1",
        (log_probs, old, mask),
        0.1,
        True,
        "You averaged over the padding too: it dilutes the KL; divide by the counted tokens",
    )


# 5.7 · the natural step -------------------------------------------------------------------------

natural_step = Exercise(
    "5.7",
    "The natural step",
    function="natural_step",
    reference=lambda: formulas.natural_gradient_step,
)


def _natural_mistakes(logits, gradient, visits, max_kl) -> dict[str, Tensor]:
    p = logits.softmax(-1)
    x = torch.where(visits[:, None] * p > 0, gradient / (visits[:, None] * p), 0)
    slope = (gradient * x).sum()
    size = (2 * max_kl / slope).sqrt()
    rows = (gradient * x).sum(-1, keepdim=True)
    each = (2 * max_kl / rows).sqrt().masked_fill(rows == 0, 0)
    plain = gradient / p

    def one(direction: Tensor) -> Tensor:
        return logits + (2 * max_kl / (gradient * direction).sum()).sqrt() * direction

    return {
        "You took the plain gradient's direction, whose length in LOGITS says nothing of the KL: "
        "divide by visits · π": one(gradient),
        "You forgot the visits: a state that is visited seldom has a small gradient and a small "
        "weight in the KL, so divide by visits too": one(plain),
        "You forgot π: x = g / (visits · π)": one(
            torch.where(visits[:, None] > 0, gradient / visits[:, None], 0)
        ),
        "You multiplied by π: F⁻¹ divides by it": one(gradient * p * visits[:, None]),
        "You forgot the 2 under the root: the KL is ½ · η² · gᵀx": logits
        + (max_kl / slope).sqrt() * x,
        "You forgot the root: ½ · η² · gᵀx = δ gives η = √(2δ / gᵀx)": logits
        + 2 * max_kl / slope * x,
        "You went down: the gradient points to where J grows": logits - size * x,
        "You returned probabilities: return the new LOGITS": (logits + size * x).softmax(-1),
        "You gave each state a step of its own length: there is ONE η, and δ is shared": logits
        + each * x,
        "You returned the step: add it to the logits": size * x,
        "You did not scale: η = √(2δ / gᵀx) makes the KL come out as δ": logits + x,
        "You divided by |x|: the length is measured by gᵀx": logits
        + math.sqrt(2 * max_kl) * x / x.square().sum().sqrt(),
    }


def _draw_natural(draw, dtype=torch.float64):
    n, a = int(draw.integers(2, 5)), int(draw.integers(3, 6))
    logits = draw_tensor(draw, n, a, scale=1.0, dtype=dtype)
    visits = torch.tensor(draw.uniform(0.1, 1.5, size=n), dtype=dtype)
    advantages = draw_tensor(draw, n, a, dtype=dtype)
    p = logits.softmax(-1)
    advantages = advantages - (p * advantages).sum(-1, keepdim=True)
    return logits, visits[:, None] * p * advantages, visits, float(draw.uniform(0.005, 0.05))


def _same_policy(what, got, right, mistakes, atol=1e-6) -> None:
    """Compare logits up to a constant per row, which changes no policy."""
    if isinstance(got, Tensor) and got.shape == right.shape and got.is_floating_point():
        got = got + (right - got).mean(-1, keepdim=True)
    wrong = {
        hint: value + (right - value).mean(-1, keepdim=True) for hint, value in mistakes.items()
    }
    compare(what, got, right, mistakes=wrong, atol=atol)


@natural_step.part("a table of softmaxes", points=2)
def _(answer, draw) -> None:
    for dtype in DTYPES:
        logits, gradient, visits, max_kl = _draw_natural(draw, dtype)
        _same_policy(
            "natural_step(logits, gradient, visits, max_kl)",
            answer(logits, gradient, visits, max_kl),
            formulas.natural_gradient_step(logits, gradient, visits, max_kl),
            _natural_mistakes(logits, gradient, visits, max_kl),
            atol=TOLERANCE[dtype],
        )


@natural_step.part("its KL is the one that was asked for", points=1)
def _(answer, draw) -> None:
    logits, gradient, visits, _ = _draw_natural(draw)
    max_kl = 1e-6
    new = answer(logits, gradient, visits, max_kl)
    require(
        isinstance(new, Tensor) and new.shape == logits.shape,
        f"Return the new logits, a tensor of shape {tuple(logits.shape)}",
    )
    kl = float((visits * formulas.categorical_kl(logits, new.to(logits.dtype))).sum())
    require(
        abs(kl / max_kl - 1) < 0.05,
        f"With δ = 1e-6 the step must lead to a KL of 1e-6 per response (Σ_s visits · KL); "
        f"yours leads to {kl:.3g}",
    )


@natural_step.part("states never visited; no gradient at all", points=1)
def _(answer, draw) -> None:
    logits, gradient, visits, max_kl = _draw_natural(draw)
    visits, gradient = visits.clone(), gradient.clone()
    visits[0], gradient[0] = 0.0, 0.0
    right = formulas.natural_gradient_step(logits, gradient, visits, max_kl)
    zero = gradient / (visits[:, None] * logits.softmax(-1))
    _same_policy(
        "natural_step where state 0 is never visited: its row stays as it is",
        answer(logits, gradient, visits, max_kl),
        right,
        {
            "0/0 is NaN at a state without visits, and one NaN in gᵀx spoils every row: use "
            "torch.where": logits + zero + zero.sum(),
            "0/0 is NaN: a state without visits gets no step, use torch.where": right + zero * 0,
            **_natural_mistakes(logits, gradient, visits, max_kl),
        },
    )
    none = torch.zeros_like(gradient)
    got = answer(logits, none, visits, max_kl)
    compare(
        "natural_step with a gradient of 0 everywhere: nothing changes",
        got,
        logits,
        mistakes={"η = √(2δ/0) is infinite, and ∞ · 0 is NaN: no gradient, no step": none / none},
    )
    require(
        got.data_ptr() != logits.data_ptr(),
        "You returned the very tensor that you were given: whoever changes the new logits would "
        "change the old ones with them, so return logits.clone()",
    )


EXERCISES = [
    surrogate_and_true,
    worst_gap,
    clipped_gradient,
    clip_fraction,
    approximate_kl,
    should_stop,
    natural_step,
]
