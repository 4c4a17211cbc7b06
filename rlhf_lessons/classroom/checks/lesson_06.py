"""The checks of lesson 6, DPO derived and measured.

Each exercise meets hidden inputs drawn fresh at every run: several prompts, responses that the
reference never gives, log-probabilities of hundreds of nats, padding with NaN in it, ties, both
dtypes. Each known mistake is computed beside the right answer, so that a hint can name it.
Left out on purpose: speed. A slow right answer passes.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lessons import formulas
from rlhf_lessons.classroom.exercises import Exercise, compare, require

DTYPES = (torch.float32, torch.float64)
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}


def draw_tensor(
    draw: np.random.Generator, *shape: int, scale: float = 2.0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Draw a tensor of independent normal numbers with standard deviation ``scale``."""
    return torch.from_numpy(scale * draw.standard_normal(shape)).to(dtype)


def draw_log_probs(draw: np.random.Generator, *shape: int, dtype=torch.float64) -> Tensor:
    """Draw distributions over the last axis, as log-probabilities."""
    return draw_tensor(draw, *shape, dtype=torch.float64).log_softmax(-1).to(dtype)


def draw_beta(draw: np.random.Generator) -> float:
    """Draw a β that is not 1, so that a forgotten β shows."""
    return float(draw.choice([draw.uniform(0.1, 0.7), draw.uniform(1.5, 3.0)]))


def draw_mask(draw: np.random.Generator, batch: int, length: int) -> Tensor:
    """Draw a right-padded mask: one full row, one with two or more gaps, others of any length."""
    lengths = draw.integers(1, length, size=batch, endpoint=True)
    lengths[0], lengths[-1] = length, draw.integers(1, length - 2, endpoint=True)
    return torch.from_numpy(np.arange(length)[None, :] < draw.permutation(lengths)[:, None])


# 6.1 · the best policy ----------------------------------------------------------------------------


def reference_best_policy(
    reference_log_probs: Tensor, rewards: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    """Return log Z, (P,), and log π*, (P, Y)."""
    return (
        formulas.log_partition(reference_log_probs, rewards, beta),
        formulas.optimal_policy(reference_log_probs, rewards, beta),
    )


best_policy = Exercise(
    "6.1",
    "The best policy",
    function="best_policy",
    reference=lambda: reference_best_policy,
)


def _tilts(reference: Tensor, rewards: Tensor, beta: float) -> dict[str, Tensor]:
    """Unnormalised log-policies of known mistakes, and what each of them is."""
    return {
        "You multiplied r by β: it is r/β. A small β trusts the reward MORE": reference
        + rewards * beta,
        "You left β out: the exponent is r/β": reference + rewards,
        "The sign: a response with a higher reward gets MORE probability, exp(+r/β)": reference
        - rewards / beta,
        "You left the reference out: π* ∝ π_ref · exp(r/β), a tilt of π_ref": rewards / beta,
        "You added probabilities to logarithms: log π_ref + r/β, all in logarithms": (
            reference.exp() + rewards / beta
        ),
        "You divided log π_ref by β as well: only the reward is divided": (reference + rewards)
        / beta,
    }


def _compare_best(answer, reference, rewards, beta, atol) -> None:
    got = answer(reference, rewards, beta)
    require(
        isinstance(got, (tuple, list)) and len(got) == 2,
        "return two things, (log_z, log_pi): log Z of each prompt and log π* of each response",
    )
    log_z, log_pi = got
    tilted = reference + rewards / beta
    wrong = _tilts(reference, rewards, beta)
    compare(
        "log Z",
        log_z,
        tilted.logsumexp(-1),
        mistakes={
            **{hint: value.logsumexp(-1) for hint, value in wrong.items()},
            "You summed over everything: Z is a number of each prompt, sum over dim=-1 alone": (
                tilted.flatten().logsumexp(0)
            ),
            "You averaged over the responses: Z is a sum": tilted.logsumexp(-1)
            - math.log(tilted.shape[-1]),
            "exp overflows: never leave logarithms, use torch.logsumexp": tilted.exp()
            .sum(-1)
            .log(),
            "You returned Z: take its logarithm (with logsumexp, Z itself overflows)": (
                tilted.logsumexp(-1).exp()
            ),
        },
        atol=atol,
    )
    compare(
        "log π*",
        log_pi,
        tilted.log_softmax(-1),
        mistakes={
            **{hint: value.log_softmax(-1) for hint, value in wrong.items()},
            "You did not normalise: subtract log Z of the same prompt": tilted,
            "You returned probabilities: the answer is log π*": tilted.softmax(-1),
            "You divided by log Z: in logarithms, dividing by Z is subtracting log Z": tilted
            / tilted.logsumexp(-1, keepdim=True),
            "exp overflows: never leave logarithms, use torch.logsumexp": tilted.exp().log()
            - tilted.exp().sum(-1, keepdim=True).log(),
        },
        atol=atol,
    )


@best_policy.part("several prompts, all responses listed")
def _(answer, draw) -> None:
    for dtype in DTYPES:
        shape = (3, int(draw.integers(4, 8)))
        reference = draw_log_probs(draw, *shape, dtype=dtype)
        _compare_best(
            answer, reference, draw_tensor(draw, *shape, dtype=dtype), draw_beta(draw),
            TOLERANCE[dtype],
        )  # fmt: skip


@best_policy.part("a small β, a response that the reference never gives")
def _(answer, draw) -> None:
    reference = draw_log_probs(draw, 2, 5)
    reference[:, 0] = -math.inf
    reference = reference.log_softmax(-1)
    rewards = draw_tensor(draw, 2, 5, scale=8.0) + 60
    _compare_best(answer, reference, rewards, float(draw.uniform(0.02, 0.05)), 1e-6)


# 6.2 · implied reward -----------------------------------------------------------------------------


def reference_implied_reward(
    policy_log_probs: Tensor, reference_log_probs: Tensor, log_z: Tensor, beta: float
) -> Tensor:
    """Return β · (log π* − log π_ref) + β · log Z."""
    given = formulas.implied_reward(policy_log_probs, reference_log_probs, beta)
    return given + beta * log_z.unsqueeze(-1)


implied_reward = Exercise(
    "6.2",
    "The reward that a policy implies",
    function="implied_reward",
    reference=lambda: reference_implied_reward,
)


def _implied_mistakes(policy, reference, log_z, beta) -> dict[str, Tensor]:
    ratio, column = policy - reference, log_z.unsqueeze(-1)
    return {
        "You left β · log Z out: then the reward is right only up to a constant of each prompt": (
            beta * ratio
        ),
        "The sign of log Z: solving log π* = log π_ref + r/β − log Z for r gives + β · log Z": beta
        * (ratio - column),
        "You left β out: the whole bracket is multiplied by β": ratio + column,
        "log Z needs its β too: r = β · (log π*/π_ref + log Z)": beta * ratio + column,
        "You divided by β: solving r/β = ... for r multiplies by β": (ratio + column) / beta,
        "You turned the ratio round: it is log π* − log π_ref": beta * (column - ratio),
        "You left the reference out: what counts is how far π* moved from π_ref": beta
        * (policy + column),
    }


@implied_reward.part("undo the best policy", points=2)
def _(answer, draw) -> None:
    for dtype in DTYPES:
        shape = (3, int(draw.integers(4, 7)))
        reference, beta = draw_log_probs(draw, *shape, dtype=dtype), draw_beta(draw)
        rewards = draw_tensor(draw, *shape, dtype=dtype)
        log_z, policy = reference_best_policy(reference, rewards, beta)
        compare(
            "implied_reward(policy_log_probs, reference_log_probs, log_z, beta)",
            answer(policy, reference, log_z, beta),
            rewards,
            mistakes=_implied_mistakes(policy, reference, log_z, beta),
            atol=10 * TOLERANCE[dtype],
        )


# 6.3 · one reward of many -------------------------------------------------------------------------

canonical = Exercise(
    "6.3",
    "One reward of many",
    function="canonical_reward",
    reference=lambda: formulas.canonical_reward,
)


def _canonical_mistakes(reference, rewards, beta) -> dict[str, Tensor]:
    log_z = (reference + rewards / beta).logsumexp(-1, keepdim=True)
    mean = (reference.exp() * rewards).sum(-1, keepdim=True)
    return {
        "You left β out: subtract β · log Z": rewards - log_z,
        "The sign: subtract β · log Z, then Z of what is left is 1": rewards + beta * log_z,
        "You subtracted the mean over responses: that also removes a shift, but then Z is not 1; "
        "subtract β · log Z": rewards - rewards.mean(-1, keepdim=True),
        "You subtracted the mean reward of the reference: that also removes a shift, but then Z "
        "is not 1; subtract β · log Z": rewards - mean,
        "You subtracted the largest reward: that also removes a shift, but then Z is not 1": rewards
        - rewards.amax(-1, keepdim=True),
        "You subtracted one number from all prompts: each prompt has its own Z": rewards
        - beta * (reference + rewards / beta).flatten().logsumexp(0),
        "You returned log π*: the reward is β · (log π* − log π_ref)": (
            reference + rewards / beta - log_z
        ),
        "You returned the rewards as they came: subtract β · log Z of each prompt": rewards,
        "You multiplied r by β inside Z: Z sums π_ref · exp(r/β)": rewards
        - beta * (reference + rewards * beta).logsumexp(-1, keepdim=True),
    }


@canonical.part("log Z becomes 0", points=2)
def _(answer, draw) -> None:
    for dtype in DTYPES:
        shape = (3, int(draw.integers(4, 7)))
        reference, beta = draw_log_probs(draw, *shape, dtype=dtype), draw_beta(draw)
        rewards = draw_tensor(draw, *shape, dtype=dtype)
        right = rewards - beta * (reference + rewards / beta).logsumexp(-1, keepdim=True)
        compare(
            "canonical_reward(reference_log_probs, rewards, beta)",
            answer(reference, rewards, beta),
            right,
            mistakes=_canonical_mistakes(reference, rewards, beta),
            atol=10 * TOLERANCE[dtype],
        )


@canonical.part("a shift of a prompt's rewards changes nothing")
def _(answer, draw) -> None:
    shape = (3, 5)
    reference, beta = draw_log_probs(draw, *shape), draw_beta(draw)
    rewards, shift = draw_tensor(draw, *shape), draw_tensor(draw, 3, 1, scale=50.0)
    right = rewards - beta * (reference + rewards / beta).logsumexp(-1, keepdim=True)
    compare(
        "canonical_reward of rewards with a constant added to each prompt's",
        answer(reference, rewards + shift, beta),
        right,
        mistakes={
            **_canonical_mistakes(reference, rewards + shift, beta),
            "exp overflows: never leave logarithms, use torch.logsumexp": rewards
            + shift
            - beta * (reference + (rewards + shift) / beta).exp().sum(-1, keepdim=True).log(),
        },
        atol=1e-6,
    )


# 6.4 · implicit reward ----------------------------------------------------------------------------


def reference_implicit_reward(
    policy_log_probs: Tensor, reference_log_probs: Tensor, mask: Tensor, beta: float
) -> Tensor:
    """Return β · Σ_t (log π − log π_ref) over the counted tokens, (B,)."""
    return formulas.implicit_reward(
        formulas.sequence_log_prob(policy_log_probs, mask),
        formulas.sequence_log_prob(reference_log_probs, mask),
        beta,
    )


implicit = Exercise(
    "6.4",
    "Implicit reward",
    function="implicit_reward",
    reference=lambda: reference_implicit_reward,
)


def _implicit_mistakes(policy, reference, mask, beta) -> dict[str, Tensor]:
    ratio = (policy - reference).masked_fill(~mask, 0)
    total = ratio.sum(-1)
    return {
        "You took the mean over tokens: log π(y|x) is a SUM; a mean makes long responses count as "
        "little as short ones": beta * total / mask.sum(-1),
        "You took the mean over all positions: log π(y|x) is a SUM over the counted ones": beta
        * ratio.mean(-1),
        "You left β out": total,
        "You turned the ratio round: it is log π − log π_ref": -beta * total,
        "You left the reference out: what counts is the change against π_ref": beta
        * policy.masked_fill(~mask, 0).sum(-1),
        "You returned one number per token: sum over the response": beta * ratio,
        "You summed over the batch too: one reward per response, (B,)": beta * total.sum(),
        "You divided by β: the reward is β times the log-ratio": total / beta,
        "You used the ratio itself, π/π_ref: its logarithm is what adds up": beta * total.exp(),
        "NaN · 0 is NaN: clear the padding with masked_fill or torch.where": beta
        * ((policy - reference) * mask).sum(-1),
        "You counted the padding: clear what the mask leaves out": beta
        * (policy - reference).sum(-1),
    }


def _compare_implicit(answer, policy, reference, mask, beta, atol) -> None:
    compare(
        "implicit_reward(policy_log_probs, reference_log_probs, mask, beta)",
        answer(policy, reference, mask, beta),
        beta * (policy - reference).masked_fill(~mask, 0).sum(-1),
        mistakes=_implicit_mistakes(policy, reference, mask, beta),
        atol=atol,
    )


@implicit.part("responses of different length")
def _(answer, draw) -> None:
    for dtype in DTYPES:
        shape = (4, int(draw.integers(4, 8)))
        policy, reference = (-draw_tensor(draw, *shape, dtype=dtype).abs() for _ in range(2))
        _compare_implicit(
            answer, policy, reference, draw_mask(draw, *shape), draw_beta(draw), TOLERANCE[dtype]
        )
    policy.requires_grad_()
    mask = torch.ones(shape, dtype=torch.bool)
    compare(
        "implicit_reward, which DPO differentiates",
        answer(policy, reference, mask, 0.1),
        0.1 * (policy - reference).sum(-1),
        gradient=True,
    )


@implicit.part("garbage in the padding")
def _(answer, draw) -> None:
    shape = (4, 6)
    policy, reference = (-draw_tensor(draw, *shape).abs() for _ in range(2))
    mask = draw_mask(draw, *shape)
    policy[~mask], reference[~mask] = math.nan, -math.inf
    _compare_implicit(answer, policy, reference, mask, draw_beta(draw), 1e-6)


# 6.5 · DPO loss -----------------------------------------------------------------------------------

dpo = Exercise("6.5", "DPO loss", function="dpo_loss", reference=lambda: formulas.dpo_loss)

NAMES = ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")


def draw_pairs(draw: np.random.Generator, batch: int, dtype=torch.float64, scale: float = 2.0):
    """Draw policy chosen, policy rejected, reference chosen, reference rejected, (B,) each."""
    return tuple(draw_tensor(draw, batch, scale=scale, dtype=dtype) - 25 for _ in NAMES)


def _margin(pw: Tensor, pl: Tensor, rw: Tensor, rl: Tensor) -> Tensor:
    return (pw - rw) - (pl - rl)


def _dpo_mistakes(pw, pl, rw, rl, beta) -> dict[str, Tensor]:
    h = _margin(pw, pl, rw, rl)
    right = -logsigmoid(beta * h)
    return {
        "You have chosen and rejected the wrong way round: the loss must fall when log π of the "
        "chosen rises": -logsigmoid(-beta * h),
        "You left β out: it multiplies the margin INSIDE the sigmoid": -logsigmoid(h),
        "β stands inside the sigmoid, not in front of the loss": -beta * logsigmoid(h),
        "You left the reference out: the margin compares log-RATIOS": -logsigmoid(beta * (pw - pl)),
        "The sign of the reference: subtract log π_ref from log π on both sides": -logsigmoid(
            beta * ((pw - pl) + (rw - rl))
        ),
        "You returned log σ: a loss is the NEGATIVE log-likelihood": -right,
        "You returned a probability: take −log of σ(β · h)": torch.sigmoid(beta * h),
        "You returned 1 − σ: the loss is −log σ": torch.sigmoid(-beta * h),
        "You took the mean: return one loss per pair, the training loop averages": right.mean(),
        "You took the sum: return one loss per pair, the training loop averages": right.sum(),
        "You used probabilities: the margin is made of log-probabilities": -logsigmoid(
            beta * _margin(pw.exp(), pl.exp(), rw.exp(), rl.exp())
        ),
        "log(sigmoid(...)) and log(1 + exp(...)) run into infinity: use logsigmoid": -torch.log(
            torch.sigmoid(beta * h)
        ),
    }


@dpo.part("one loss per pair")
def _(answer, draw) -> None:
    for dtype in DTYPES:
        given = draw_pairs(draw, int(draw.integers(3, 7)), dtype)
        beta = draw_beta(draw)
        compare(
            "dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta)",
            answer(*given, beta),
            -logsigmoid(beta * _margin(*given)),
            mistakes=_dpo_mistakes(*given, beta),
            atol=TOLERANCE[dtype],
        )


@dpo.part("margins of thousands of nats")
def _(answer, draw) -> None:
    pw, pl, rw, rl = draw_pairs(draw, 4)
    gaps = torch.from_numpy(draw.uniform(3000, 9000, size=4)) * torch.tensor([1, -1, 1, -1])
    given, beta = (pw + gaps, pl, rw, rl), float(draw.uniform(0.3, 0.7))
    compare(
        "the losses of margins far from 0",
        answer(*given, beta),
        -logsigmoid(beta * _margin(*given)),
        mistakes=_dpo_mistakes(*given, beta),
        atol=1e-6,
    )


@dpo.part("the gradient reaches the policy and not the reference")
def _(answer, draw) -> None:
    given = tuple(tensor.requires_grad_(True) for tensor in draw_pairs(draw, 4))
    beta = draw_beta(draw)
    got = answer(*given, beta)
    fixed = tuple(tensor.detach() for tensor in given)
    compare(
        "dpo_loss(...)",
        got,
        -logsigmoid(beta * _margin(*fixed)),
        mistakes=_dpo_mistakes(*fixed, beta),
        gradient=True,
    )
    slopes = torch.autograd.grad(got.sum(), given, allow_unused=True)
    _compare_slopes(slopes, -beta * torch.sigmoid(-beta * _margin(*fixed)))


def _compare_slopes(slopes: tuple[Tensor | None, ...], expected: Tensor) -> None:
    """Compare the gradients of a loss of the margin; ``expected`` is policy_chosen's, (B,)."""
    for name, slope, right in zip(NAMES[:2], slopes[:2], (expected, -expected), strict=True):
        compare(
            f"the gradient with respect to {name}",
            torch.zeros_like(right) if slope is None else slope,
            right,
            mistakes={f"No gradient reaches {name}: detach the reference alone": right * 0},
        )
    require(
        all(slope is None or not bool(slope.any()) for slope in slopes[2:]),
        "A gradient flows into the reference: it is a constant, so detach reference_chosen and "
        "reference_rejected",
    )


# 6.6 · gradient weight ----------------------------------------------------------------------------

weight_exercise = Exercise(
    "6.6",
    "How hard DPO pulls",
    function="dpo_gradient_weight",
    reference=lambda: formulas.dpo_gradient_weight,
)


def _weight_mistakes(pw, pl, rw, rl, beta) -> dict[str, Tensor]:
    h = _margin(pw, pl, rw, rl)
    right = torch.sigmoid(-beta * h)
    return {
        "The sign: the weight is LARGE where the implicit reward is wrong, σ(r̂_l − r̂_w)": (
            torch.sigmoid(beta * h)
        ),
        "You left β out: the implicit rewards have it": torch.sigmoid(-h),
        "You multiplied by β: the weight is the sigmoid alone, β stands in front of the gradient": (
            beta * right
        ),
        "You left the reference out: implicit rewards are β times log-RATIOS": torch.sigmoid(
            -beta * (pw - pl)
        ),
        "You returned the loss: the weight is σ(r̂_l − r̂_w), without a logarithm": -logsigmoid(
            beta * h
        ),
        "You took the mean: one weight per pair": right.mean(),
        "You returned σ·(1 − σ), the derivative of the sigmoid: the derivative of −log σ is "
        "−(1 − σ)": right * (1 - right),
        "The minus belongs to the gradient, the weight is positive": -right,
        "exp overflows: torch.sigmoid does not": torch.exp(-beta * h) / (1 + torch.exp(-beta * h)),
    }


@weight_exercise.part("one weight per pair")
def _(answer, draw) -> None:
    for dtype in DTYPES:
        given = draw_pairs(draw, int(draw.integers(3, 7)), dtype)
        beta = draw_beta(draw)
        compare(
            "dpo_gradient_weight(policy_chosen, ..., beta)",
            answer(*given, beta),
            torch.sigmoid(-beta * _margin(*given)),
            mistakes=_weight_mistakes(*given, beta),
            atol=TOLERANCE[dtype],
        )


@weight_exercise.part("pairs that are quite right or quite wrong")
def _(answer, draw) -> None:
    pw, pl, rw, rl = draw_pairs(draw, 4)
    gaps = torch.from_numpy(draw.uniform(3000, 9000, size=4)) * torch.tensor([1, -1, 1, -1])
    given, beta = (pw + gaps, pl, rw, rl), float(draw.uniform(0.3, 0.7))
    compare(
        "the weights of margins far from 0",
        answer(*given, beta),
        torch.sigmoid(-beta * _margin(*given)),
        mistakes=_weight_mistakes(*given, beta),
        atol=1e-6,
    )


# 6.7 · win rate -----------------------------------------------------------------------------------


def reference_win_rate(
    rewards: np.ndarray, other_rewards: np.ndarray
) -> tuple[float, float, float]:
    """Return the win rate, ties counted half, with Wilson's 95 % interval."""
    from rlhf_lessons.evaluation import win_rate

    found = win_rate(rewards, other_rewards)
    return found.value, found.low, found.high


winning = Exercise(
    "6.7",
    "Win rate with its interval",
    function="win_rate",
    reference=lambda: reference_win_rate,
)


def _wilson(p: float, n: int, z: float = 1.959963984540054) -> tuple[float, float, float]:
    centre, shrink = p + z * z / (2 * n), 1 + z * z / n
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return p, (centre - half) / shrink, (centre + half) / shrink


def _win_mistakes(own: np.ndarray, other: np.ndarray) -> dict[str, tuple]:
    n = len(own)
    p = float((own > other).mean() + 0.5 * (own == other).mean())
    plain = 1.96 * math.sqrt(p * (1 - p) / n)
    decided = int((own != other).sum())
    return {
        "Ties: a tie counts half a win, you counted it as a loss": _wilson(
            float((own > other).mean()), n
        ),
        "Ties: a tie counts half a win, you counted it as a whole one": _wilson(
            float((own >= other).mean()), n
        ),
        "Ties: you left them out; a tie counts half a win, and n is all prompts": _wilson(
            float((own > other).sum()) / max(decided, 1), max(decided, 1)
        ),
        "You used p ± 1.96·√(p(1−p)/n): near 0 and 1 it has no width; use Wilson's": (
            p, p - plain, p + plain,
        ),
        "The wrong way round: that is how often the OTHER policy wins": _wilson(1 - p, n),
        "You left n out of the width: it shrinks with √n": _wilson(p, 1),
        "You returned lower and upper end only: (rate, low, high)": _wilson(p, n)[1:],
        "You returned the centre of the interval as the rate: the rate is p": (
            (p + 1.96**2 / (2 * n)) / (1 + 1.96**2 / n), *_wilson(p, n)[1:],
        ),
        "You took one standard error: 95 % is z = 1.96 of them": _wilson(p, n, 1.0),
        "You gave percent: the three numbers are shares between 0 and 1": tuple(
            100 * share for share in _wilson(p, n)
        ),
        "The ends of the interval are the wrong way round: (rate, low, high)": (
            p, *_wilson(p, n)[:0:-1],
        ),
    }  # fmt: skip


def _compare_wins(answer, own: np.ndarray, other: np.ndarray) -> None:
    p = float((own > other).mean() + 0.5 * (own == other).mean())
    compare(
        "win_rate(rewards, other_rewards)",
        answer(own, other),
        _wilson(p, len(own)),
        mistakes=_win_mistakes(own, other),
        atol=1e-4,  # z = 1.96 is close enough
    )


@winning.part("rewards with ties", points=2)
def _(answer, draw) -> None:
    for _ in range(2):
        n = int(draw.integers(20, 60))
        own, other = draw.integers(0, 4, size=n) / 4 + 0.25, draw.integers(0, 4, size=n) / 4
        own[:3], other[:3] = 0.25, 0.25
        own[3], other[3], own[4], other[4] = 1.0, 0.0, 0.0, 1.0
        _compare_wins(answer, own, other)


@winning.part("a policy that always wins")
def _(answer, draw) -> None:
    n = int(draw.integers(5, 30))
    other = draw.normal(size=n)
    _compare_wins(answer, other + draw.uniform(0.5, 1, size=n), other)


# 6.8 · what DPO can't see -------------------------------------------------------------------------

prefix = Exercise(
    "6.8",
    "What DPO can't see",
    function="shared_prefix_length",
    reference=lambda: formulas.shared_prefix_length,
)


def _leading(equal: Tensor) -> Tensor:
    return equal.long().cumprod(-1).sum(-1)


def _prefix_mistakes(cr, rr, cm, rm) -> dict[str, Tensor]:
    close, both = (cr - rr).abs() <= 1e-6, cm & rm
    safe = close | (cr.isnan() & rr.isnan())
    right = _leading(close & both)
    return {
        "You counted every equal token: only those BEFORE the first difference are shared": (
            (close & both).sum(-1)
        ),
        "You counted padding: where a mask is False there is no token": _leading(safe),
        "You counted padding: both masks must be True": _leading(safe & (cm | rm)),
        "You counted the tokens that differ: those that cancel are asked for": cm.sum(-1) - right,
        "You are one off: you counted the first token that differs too": right + 1,
        "You returned the index of the last shared token: that is one less than their number": (
            right - 1
        ),
        "You returned a mask (B, T): one number per pair": (close & both).long().cumprod(-1).bool(),
        "You summed over the batch: one number per pair": right.sum(),
        "Equal up to rounding: two forward passes differ in the last digits, so compare with a "
        "tolerance such as 1e-6": _leading((cr == rr) & both),
    }


def _prefixes(draw, dtype=torch.float64, jitter: float = 0.0):
    """Draw log-ratios with a planted shared prefix, and a coincidence behind it."""
    batch, length = 5, int(draw.integers(7, 10))
    cr, rr = (draw_tensor(draw, batch, length, dtype=dtype) for _ in range(2))
    rr = torch.where((cr - rr).abs() < 1e-3, rr + 1, rr)
    shared = torch.from_numpy(draw.permutation([0, 1, 2, 3, 4]))
    same = torch.arange(length) < shared[:, None]
    same |= torch.arange(length) == shared[:, None] + 1  # equal by chance, behind a difference
    rr = torch.where(same, cr + jitter * draw_tensor(draw, batch, length, dtype=dtype).sign(), rr)
    lengths = torch.from_numpy(draw.integers(6, length, size=(2, batch), endpoint=True))
    cm, rm = (torch.arange(length) < n[:, None] for n in lengths)
    cr, rr = cr.masked_fill(~cm, 0), rr.masked_fill(~rm, 0)
    return cr, rr, cm, rm


def _compare_prefix(answer, given, dtype_matters: bool = False) -> None:
    cr, rr, cm, rm = given
    close = (cr - rr).abs() <= 1e-6
    compare(
        "shared_prefix_length(chosen_log_ratios, rejected_log_ratios, chosen_mask, rejected_mask)",
        answer(*given),
        _leading(close & cm & rm),
        mistakes=_prefix_mistakes(*given),
        dtype=dtype_matters,
    )


@prefix.part("shared beginnings, equal up to rounding", points=2)
def _(answer, draw) -> None:
    _compare_prefix(answer, _prefixes(draw))
    _compare_prefix(answer, _prefixes(draw, jitter=2e-8))


@prefix.part("one response begins like the whole other one")
def _(answer, draw) -> None:
    same = draw_tensor(draw, 2, 5)
    full = torch.ones(2, 5, dtype=torch.bool)
    compare(
        "shared_prefix_length of two pairs that are equal to the last token",
        answer(same, same.clone(), full, full.clone()),
        torch.tensor([5, 5]),
        mistakes={
            "Where no token differs there is no first difference to find: all 5 are shared": (
                torch.tensor([0, 0])
            ),
            **_prefix_mistakes(same, same, full, full),
        },
        dtype=False,
    )
    length = 7
    cr = draw_tensor(draw, 2, length)
    rr = cr.clone()
    ends = draw.integers(1, 5, size=2)
    cm, rm = torch.ones(2, length, dtype=torch.bool), torch.ones(2, length, dtype=torch.bool)
    cm[0, ends[0] :], rm[1, ends[1] :] = False, False
    cm[0, length - 1 :], rm[0, length - 1 :] = False, False
    _compare_prefix(answer, (cr.masked_fill(~cm, 0), rr.masked_fill(~rm, 0), cm, rm))
    for row in range(2):  # padding that happens to agree
        one = (cr[row : row + 1], rr[row : row + 1], cm[row : row + 1], rm[row : row + 1])
        _compare_prefix(answer, one)


# 6.9 · IPO ----------------------------------------------------------------------------------------

ipo = Exercise("6.9", "IPO loss", function="ipo_loss", reference=lambda: formulas.ipo_loss)


def _ipo_mistakes(pw, pl, rw, rl, beta) -> dict[str, Tensor]:
    h = _margin(pw, pl, rw, rl)
    right = (h - 1 / (2 * beta)).square()
    return {
        "The margin aimed at is 1/(2β), you took 1/β": (h - 1 / beta).square(),
        "The margin aimed at is 1/(2β), you took β/2": (h - beta / 2).square(),
        "The margin aimed at is 1/(2β), you took 1/2": (h - 0.5).square(),
        "h itself has no β here: β sets the margin aimed at": (beta * h - 1 / (2 * beta)).square(),
        "You have chosen and rejected the wrong way round": (-h - 1 / (2 * beta)).square(),
        "You left the reference out: h is made of log-RATIOS": (pw - pl - 1 / (2 * beta)).square(),
        "You forgot the square": h - 1 / (2 * beta),
        "You took the absolute value: the loss is a square": (h - 1 / (2 * beta)).abs(),
        "You halved the square: (h − 1/(2β))² as it is": right / 2,
        "You cut it off at the aim, like a hinge: a margin BEYOND it costs too": (
            torch.relu(1 / (2 * beta) - h).square()
        ),
        "You took the mean: return one loss per pair": right.mean(),
        "The sign: h MINUS 1/(2β)": (h + 1 / (2 * beta)).square(),
    }


@ipo.part("one loss per pair")
def _(answer, draw) -> None:
    for dtype in DTYPES:
        given = draw_pairs(draw, int(draw.integers(4, 7)), dtype)
        given[0][:2] += 20  # margins on both sides of the aim
        beta = draw_beta(draw)
        compare(
            "ipo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta)",
            answer(*given, beta),
            (_margin(*given) - 1 / (2 * beta)).square(),
            mistakes=_ipo_mistakes(*given, beta),
            atol=100 * TOLERANCE[dtype],
        )


@ipo.part("the gradient vanishes at the margin aimed at")
def _(answer, draw) -> None:
    beta = draw_beta(draw)
    pw, pl, rw, rl = draw_pairs(draw, 3)
    pw = pw - _margin(pw, pl, rw, rl) + 1 / (2 * beta) + torch.tensor([0.0, 3.0, -3.0])
    given = tuple(tensor.requires_grad_(True) for tensor in (pw, pl, rw, rl))
    got = answer(*given, beta)
    fixed = tuple(tensor.detach() for tensor in given)
    compare(
        "ipo_loss(...) at, above and below the margin aimed at",
        got,
        (_margin(*fixed) - 1 / (2 * beta)).square(),
        mistakes=_ipo_mistakes(*fixed, beta),
        atol=1e-6,
        gradient=True,
    )
    slopes = torch.autograd.grad(got.sum(), given, allow_unused=True)
    slope = 2 * (_margin(*fixed) - 1 / (2 * beta))
    _compare_slopes(slopes, slope)


EXERCISES = [
    best_policy,
    implied_reward,
    canonical,
    implicit,
    dpo,
    weight_exercise,
    winning,
    prefix,
    ipo,
]
