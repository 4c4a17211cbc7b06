"""The checks of lesson 9, groups, checkers and thumbs.

Hidden inputs are drawn fresh at every run: groups with ties and without, tiny response spaces whose
groups can all be listed, padded batches with NaN in the padding, ratios far outside the clip range,
marks of many tries, float32 and float64. Each known mistake is computed beside the right answer, so
that a hint can name it. Left out on purpose: groups of different sizes, and responses without any
token, which no sampler gives.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from rlhf_lessons import formulas
from rlhf_lessons.classroom.exercises import Exercise, compare, require

DTYPES = (torch.float32, torch.float64)
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}

Advantages = Callable[[Tensor], Tensor]


def draw_tensor(
    draw: np.random.Generator, *shape: int, scale: float = 2.0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Draw a tensor of independent normal numbers with standard deviation ``scale``."""
    return torch.from_numpy(scale * draw.standard_normal(shape)).to(dtype)


def draw_mask(draw: np.random.Generator, batch: int, length: int) -> Tensor:
    """Draw a right-padded mask: one full row, one of a single token, others of any length."""
    lengths = draw.integers(1, length, size=batch, endpoint=True)
    lengths[0], lengths[-1] = length, 1
    return torch.from_numpy(np.arange(length)[None, :] < draw.permutation(lengths)[:, None])


# 9.1 · leave one out ----------------------------------------------------------------------------

leave_one_out = Exercise(
    "9.1", "Leave one out", function="leave_one_out", reference=lambda: formulas.rloo_advantages
)


def _leave_one_out_mistakes(scores: Tensor) -> dict[str, Tensor]:
    size = scores.shape[1]
    centred = scores - scores.mean(1, keepdim=True)
    others = (scores.sum(1, keepdim=True) - scores) / (size - 1)
    return {
        "You compared with the mean of the whole group: the response's own score must not stand in "
        "its baseline": centred,
        "You divided the sum of the others by G: the others are G − 1": (
            scores - (scores.sum(1, keepdim=True) - scores) / size
        ),
        "You compared with the mean of the whole batch: each prompt has its own group, dim=1": (
            scores - scores.mean()
        ),
        "You averaged over the prompts: the group of a prompt is a ROW, dim=1": (
            scores - scores.mean(0, keepdim=True)
        ),
        "You gave the baseline itself: the advantage is the score less the baseline": others,
        "The sign is turned: better than the others is a positive advantage": others - scores,
        "You divided by the deviation: that comes in exercise 9.3": (
            formulas.grpo_advantages(scores)
        ),
        "You compared with the SUM of the others: divide by G − 1": (scores - others * (size - 1)),
    }


@leave_one_out.part("groups of several", points=1)
def _(answer, draw) -> None:
    for dtype in DTYPES:
        scores = draw_tensor(draw, 4, int(draw.integers(3, 7)), dtype=dtype) + 1.5
        compare(
            "leave_one_out(scores)",
            answer(scores),
            formulas.rloo_advantages(scores),
            mistakes=_leave_one_out_mistakes(scores),
            atol=TOLERANCE[dtype],
        )


@leave_one_out.part("a checker's marks, two responses each", points=1)
def _(answer, draw) -> None:
    scores = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])[draw.permutation(4)]
    compare(
        "leave_one_out of marks 0 and 1",
        answer(scores),
        formulas.rloo_advantages(scores),
        mistakes=_leave_one_out_mistakes(scores),
    )
    compare(
        "leave_one_out of a single prompt, which keeps its axis",
        answer(scores[:1]),
        formulas.rloo_advantages(scores[:1]),
    )


# 9.2 · mean and variance over all groups --------------------------------------------------------


def reference_over_all_groups(
    log_probs: Tensor, slopes: Tensor, rewards: Tensor, advantages: Advantages, group_size: int
) -> tuple[Tensor, Tensor]:
    """Return the mean of the estimator and the mean squared distance from it, over all groups."""
    groups = torch.cartesian_prod(*[torch.arange(len(log_probs))] * group_size)
    groups = groups.reshape(-1, group_size)  # with G = 1 cartesian_prod leaves the axis out
    chances = log_probs[groups].sum(1).exp()
    weights = advantages(rewards[groups])
    estimates = (weights[..., None] * slopes[groups]).mean(1)
    mean = chances @ estimates
    return mean, chances @ (estimates - mean).square().sum(1)


over_all_groups = Exercise(
    "9.2",
    "Over all groups",
    function="over_all_groups",
    reference=lambda: reference_over_all_groups,
)


def _draw_space(draw: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a few responses: log π, ∇ log π with mean 0 under π as it must be, and rewards."""
    log_probs = draw_tensor(draw, int(draw.integers(4, 6)), scale=1.0).log_softmax(-1)
    slopes = draw_tensor(draw, len(log_probs), 3)
    return log_probs, slopes - log_probs.exp() @ slopes, draw_tensor(draw, len(log_probs)) + 1.0


def _pair(got: object) -> tuple[object, object]:
    require(
        isinstance(got, (tuple, list)) and len(got) == 2, "Return a pair: return mean, variance"
    )
    return got[0], got[1]


def _over_groups(
    log_probs: Tensor,
    slopes: Tensor,
    rewards: Tensor,
    advantages: Advantages,
    size: int,
    groups: Sequence[Sequence[int]],
    even: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return chances (K,) and estimates (K, D) of the groups given; ``even`` weighs all alike."""
    chosen = torch.tensor(list(groups))
    chances = log_probs[chosen].sum(1).exp()
    if even:
        chances = torch.full_like(chances, 1 / len(chosen))
    estimates = (advantages(rewards[chosen])[..., None] * slopes[chosen]).sum(1) / size
    return chances, estimates


def _mean_mistakes(log_probs, slopes, rewards, advantages, size) -> dict[str, object]:
    count = range(len(log_probs))
    space = (log_probs, slopes, rewards, advantages, size)
    everything = list(itertools.product(count, repeat=size))

    def mean(groups, even=False):
        chances, estimates = _over_groups(*space, groups, even)
        return chances @ estimates

    def first_alone():
        chosen = torch.tensor(everything)
        chances = log_probs[chosen].sum(1).exp()
        return chances @ (advantages(rewards[chosen])[:, :1] * slopes[chosen[:, 0]]) / size

    return {
        "You gave every group the same weight: a group's chance is the PRODUCT of its responses' "
        "probabilities": lambda: mean(everything, even=True),
        "You added up over the group: the estimator is the MEAN, 1/G · Σ_i": (
            lambda: size * mean(everything)
        ),
        "You left out groups that hold a response twice: draws are independent": (
            lambda: mean(itertools.permutations(count, size))
        ),
        "You took each set of responses once: (a, b) and (b, a) are two groups": (
            lambda: mean(itertools.combinations_with_replacement(count, size))
        ),
        "You took the first response of each group alone: average over all G": first_alone,
        "You weighed with the scores themselves: call advantages(rewards of the group)": (
            lambda: log_probs.exp() @ (rewards[:, None] * slopes)
        ),
    }


@over_all_groups.part("the mean", points=2)
def _(answer, draw) -> None:
    for advantages, size in ((formulas.rloo_advantages, 2), (formulas.dr_grpo_advantages, 3)):
        space = _draw_space(draw)
        mean, _ = _pair(answer(*space, advantages, size))
        compare(
            "the mean over all groups",
            mean,
            reference_over_all_groups(*space, advantages, size)[0],
            mistakes=_mean_mistakes(*space, advantages, size),
            dtype=False,
        )


@over_all_groups.part("the variance", points=1)
def _(answer, draw) -> None:
    space, advantages, size = _draw_space(draw), formulas.grpo_advantages, 3
    mean, variance = reference_over_all_groups(*space, advantages, size)
    count = range(len(space[0]))
    chances, estimates = _over_groups(
        *space, advantages, size, list(itertools.product(count, repeat=size))
    )
    squares = (estimates - mean).square()
    shares = space[0].exp()
    gradient = shares @ ((space[2] - shares @ space[2])[:, None] * space[1])
    compare(
        "the variance over all groups",
        _pair(answer(*space, advantages, size))[1],
        variance,
        mistakes={
            "You gave the mean squared LENGTH: subtract the mean estimate before squaring": (
                chances @ estimates.square().sum(1)
            ),
            "You gave every group the same weight: weigh the squares with the groups' chances": (
                squares.sum(1).mean()
            ),
            "You measured from the true gradient: the variance is the distance from the mean of "
            "the estimator itself, which these advantages bias": (
                chances @ (estimates - gradient).square().sum(1)
            ),
            "You averaged over the D directions: the squared distance is their SUM": (
                chances @ squares.mean(1)
            ),
            "You kept the directions apart: one number, the sum over them": chances @ squares,
            "You took the root: the variance is asked for": variance.sqrt(),
            "You divided by G: the estimator is a mean over the group already": variance / size,
        },
        dtype=False,
    )


@over_all_groups.part("a group of one", points=1)
def _(answer, draw) -> None:
    space = _draw_space(draw)
    got = _pair(answer(*space, lambda scores: scores, 1))
    expected = reference_over_all_groups(*space, lambda scores: scores, 1)
    for name, value, right in zip(("mean", "variance"), got, expected, strict=True):
        compare(
            f"the {name} where G = 1 and the advantage is the score: plain REINFORCE",
            value,
            right,
            dtype=False,
        )


# 9.3 · in units of the deviation ----------------------------------------------------------------

group_advantages = Exercise(
    "9.3",
    "In units of the deviation",
    function="group_advantages",
    reference=lambda: formulas.grpo_advantages,
)


def _group_advantages_mistakes(scores: Tensor, epsilon: float) -> dict[str, Tensor]:
    centred = scores - scores.mean(1, keepdim=True)
    size = scores.shape[1]
    return {
        "You divided by the deviation of the WHOLE batch: each group has its own, dim=1": (
            centred / (scores.std() + epsilon)
        ),
        "You subtracted the mean of the whole batch: each group has its own, dim=1": (
            (scores - scores.mean()) / (scores.std(1, keepdim=True) + epsilon)
        ),
        "You took the deviation with 1/G: here it is the one with 1/(G − 1), torch's own": (
            centred / (scores.std(1, keepdim=True, correction=0) + epsilon)
        ),
        "You divided by the VARIANCE: take its root": (
            centred / (scores.var(1, keepdim=True) + epsilon)
        ),
        "You did not divide: the advantage is in units of the group's deviation": centred,
        "You left the group's mean in: subtract it first": (
            scores / (scores.std(1, keepdim=True) + epsilon)
        ),
        "You took the leave-one-out baseline: here it is the mean of the whole group": (
            centred * size / (size - 1) / (scores.std(1, keepdim=True) + epsilon)
        ),
        "You went over the prompts: the group of a prompt is a ROW, dim=1": (
            (scores - scores.mean(0)) / (scores.std(0) + epsilon)
        ),
        "You forgot ε: it goes into the denominator, beside s": (
            centred / scores.std(1, keepdim=True)
        ),
        "The sign is turned: better than the group is a positive advantage": (
            -centred / (scores.std(1, keepdim=True) + epsilon)
        ),
        "ε stands under the root: add it to the deviation, outside": (
            centred / (scores.var(1, keepdim=True) + epsilon).sqrt()
        ),
    }


@group_advantages.part("groups of several", points=1)
def _(answer, draw) -> None:
    for dtype in DTYPES:
        spread = torch.from_numpy(draw.uniform(0.5, 3.0, size=(4, 1))).to(dtype)
        scores = spread * draw_tensor(draw, 4, int(draw.integers(3, 7)), dtype=dtype) + 1.5
        epsilon = float(draw.uniform(0.05, 0.2))
        compare(
            "group_advantages(scores, epsilon)",
            answer(scores, epsilon),
            formulas.grpo_advantages(scores, epsilon),
            mistakes=_group_advantages_mistakes(scores, epsilon),
            atol=TOLERANCE[dtype],
        )


@group_advantages.part("a group whose scores are all equal", points=1)
def _(answer, draw) -> None:
    scores = draw_tensor(draw, 3, 4)
    scores[1] = float(draw.integers(0, 2))
    scores[2] *= 1e-5  # almost equal: beside this deviation ε is large
    got = answer(scores, 1e-4)
    require(
        not isinstance(got, Tensor) or not bool(got.isnan().any()),
        "A group of equal scores gives NaN: its deviation is 0, so ε must stand beside it in the "
        "denominator",
    )
    compare(
        "group_advantages where one group has equal scores (its advantages are 0), one almost",
        got,
        formulas.grpo_advantages(scores, 1e-4),
        mistakes={
            "You gave 0 where the deviation is below ε: ε is added to every deviation": (
                formulas.grpo_advantages(scores, 1e-4).masked_fill(
                    scores.std(1, keepdim=True) <= 1e-4, 0.0
                )
            ),
            **_group_advantages_mistakes(scores, 1e-4),
        },
    )


# 9.4 · what a prompt weighs ---------------------------------------------------------------------


def reference_prompt_weight(p: float, group_size: int, advantages: Advantages) -> float:
    """Return E[A | right] − E[A | wrong] of one response, the others right with probability p."""
    weight, others = 0.0, group_size - 1
    for right in range(others + 1):
        chance = math.comb(others, right) * p**right * (1 - p) ** (others - right)
        rest = [1.0] * right + [0.0] * (others - right)
        scores = torch.tensor([[1.0, *rest], [0.0, *rest]], dtype=torch.float64)
        if_right, if_wrong = advantages(scores)[:, 0].tolist()
        weight += chance * (if_right - if_wrong)
    return weight


prompt_weight = Exercise(
    "9.4",
    "What a prompt weighs",
    function="prompt_weight",
    reference=lambda: reference_prompt_weight,
)


def _prompt_weight_mistakes(p: float, size: int, advantages: Advantages) -> dict[str, float]:
    others = size - 1

    def expected(count: int, value: Callable[[int], float]) -> float:
        return sum(
            math.comb(count, c) * p**c * (1 - p) ** (count - c) * value(c) for c in range(count + 1)
        )

    def first(mark: float, right: int) -> float:
        right = min(right, others)
        row = [mark] + [1.0] * right + [0.0] * (others - right)
        return float(advantages(torch.tensor([row], dtype=torch.float64))[0, 0])

    if_right = expected(others, lambda c: first(1.0, c))
    if_wrong = expected(others, lambda c: first(0.0, c))
    return {
        "You took the right response alone: subtract what a wrong one gets": if_right,
        "You added the two: a prompt weighs by the DIFFERENCE of right and wrong": (
            if_right + if_wrong
        ),
        "You subtracted right from wrong": if_wrong - if_right,
        "You weighed with p and 1 − p: what is asked for is given right, less given wrong": (
            p * if_right - (1 - p) * if_wrong
        ),
        "You drew G others: beside the response there are G − 1": (
            expected(size, lambda c: first(1.0, c) - first(0.0, c))
        ),
        "You weighed all counts alike: c of the others are right with the binomial chance": (
            sum(first(1.0, c) - first(0.0, c) for c in range(size)) / size
        ),
        "You forgot in how many ways c of the others can be right: comb(G − 1, c)": sum(
            p**c * (1 - p) ** (others - c) * (first(1.0, c) - first(0.0, c)) for c in range(size)
        ),
        "You turned p and 1 − p round": sum(
            math.comb(others, c)
            * (1 - p) ** c
            * p ** (others - c)
            * (first(1.0, c) - first(0.0, c))
            for c in range(size)
        ),
    }


@prompt_weight.part("leave-one-out and the group's mean", points=1)
def _(answer, draw) -> None:
    p, size = float(draw.uniform(0.1, 0.4)), int(draw.integers(3, 7))
    for name in ("rloo_advantages", "dr_grpo_advantages"):
        advantages = getattr(formulas, name)
        compare(
            f"prompt_weight(p, G, {name})",
            answer(p, size, advantages),
            1.0 if name == "rloo_advantages" else (size - 1) / size,
            mistakes=_prompt_weight_mistakes(p, size, advantages),
            dtype=False,
        )


def lopsided(scores: Tensor) -> Tensor:
    """Give advantages that change more than their sign where right and wrong change places."""
    return scores * scores.sum(1, keepdim=True) - 0.5 * scores.mean(1, keepdim=True)


@prompt_weight.part("in units of the deviation, and any others", points=1)
def _(answer, draw) -> None:
    for low, high in ((0.1, 0.4), (0.7, 0.9)):
        p, size = float(draw.uniform(low, high)), int(draw.integers(3, 7))
        compare(
            "prompt_weight(p, G, grpo_advantages)",
            answer(p, size, formulas.grpo_advantages),
            reference_prompt_weight(p, size, formulas.grpo_advantages),
            mistakes=_prompt_weight_mistakes(p, size, formulas.grpo_advantages),
            dtype=False,
        )
    compare(
        "prompt_weight with advantages that treat right and wrong unlike",
        answer(0.2, 4, lopsided),
        reference_prompt_weight(0.2, 4, lopsided),
        mistakes=_prompt_weight_mistakes(0.2, 4, lopsided),
        dtype=False,
    )


@prompt_weight.part("a hard prompt, a large group", points=1)
def _(answer, draw) -> None:
    p = float(draw.uniform(0.002, 0.01))
    got = answer(p, 64, formulas.grpo_advantages)
    right = reference_prompt_weight(p, 64, formulas.grpo_advantages)
    compare(
        "prompt_weight(p, 64, grpo_advantages)",
        got,
        right,
        mistakes=_prompt_weight_mistakes(p, 64, formulas.grpo_advantages),
        dtype=False,
    )
    require(
        abs(float(got) - right) < 1e-10 * right,
        "Right to about seven digits, which is all that float32 holds, and what torch.tensor makes "
        "of Python's numbers: make the scores with dtype=torch.float64",
    )


# 9.5 · three means ------------------------------------------------------------------------------


def reference_three_means(x: Tensor, mask: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean over tokens, over responses of their token means, and over B · length."""
    return (
        formulas.masked_mean(x, mask),
        formulas.mean_of_responses(x, mask),
        formulas.mean_over_length(x, mask, length),
    )


three_means = Exercise(
    "9.5", "Three means", function="three_means", reference=lambda: reference_three_means
)


def _three_means_mistakes(x: Tensor, mask: Tensor, length: int) -> tuple[dict, dict, dict]:
    kept = x.masked_fill(~mask, 0.0)
    counts, width = mask.sum(1), mask.shape[1]
    nonzero = (kept != 0).sum(1)
    first = torch.arange(width) < counts[:, None]
    shared = {
        "You averaged over the padding too: only tokens where the mask is True count": x.mean(),
    }
    tokens = {
        **shared,
        "You counted the padding in the denominator: divide by the number of counted tokens": (
            kept.mean()
        ),
        "This is the mean of responses: the first one gives each TOKEN the same weight": (
            (kept.sum(1) / counts).mean()
        ),
        "You added up and did not divide": kept.sum(),
        "You took the first tokens of each response: the mask says WHICH count, and here the "
        "padding stands on the left": x[first].mean(),
    }
    responses = {
        **shared,
        "This is the mean over tokens: the second one gives each RESPONSE the same weight": (
            kept.sum() / mask.sum()
        ),
        "You divided each response by the padded width: divide by its own number of tokens": (
            (kept.sum(1) / width).mean()
        ),
        "You added up the responses: divide by their number": (kept.sum(1) / counts).sum(),
        "You counted the tokens that are not 0: a loss may be 0 where the mask is True": (
            (kept.sum(1) / nonzero).mean()
        ),
        "You averaged the sums of the responses: divide each by its own number of tokens": (
            kept.sum(1).mean()
        ),
    }
    fixed = {
        **shared,
        "You divided by the padded width: `length` is given, the same for every batch": (
            kept.sum() / kept.numel()
        ),
        "You forgot the number of responses: divide by B · length": kept.sum() / length,
        "You divided by the number of responses alone: divide by B · length": kept.sum(1).mean(),
        "You divided each response by its own number of tokens: divide by `length`": (
            (kept.sum(1) / counts).mean()
        ),
    }
    return tokens, responses, fixed


def _three(got: object) -> Sequence[object]:
    require(
        isinstance(got, (tuple, list)) and len(got) == 3,
        "Return three numbers: return over_tokens, over_responses, over_length",
    )
    return got


@three_means.part("over tokens", points=1)
def _(answer, draw) -> None:
    # A mask says which tokens count, wherever they stand: here the padding is on the left.
    x, mask = draw_tensor(draw, 4, 6) + 1.0, draw_mask(draw, 4, 6).flip(1)
    compare(
        "the mean over tokens",
        _three(answer(x, mask, 9))[0],
        reference_three_means(x, mask, 9)[0],
        mistakes=_three_means_mistakes(x, mask, 9)[0],
        dtype=False,
    )


@three_means.part("over responses, and over a fixed length", points=1)
def _(answer, draw) -> None:
    x, mask = draw_tensor(draw, 5, 6) + 1.0, draw_mask(draw, 5, 6)
    x[:, 0] = 0.0  # counted, though it is 0
    got, right = _three(answer(x, mask, 9)), reference_three_means(x, mask, 9)
    names = ("the mean over tokens", "the mean over responses", "the mean over a fixed length")
    for place in (1, 2):
        compare(
            names[place],
            got[place],
            right[place],
            mistakes=_three_means_mistakes(x, mask, 9)[place],
            dtype=False,
        )


@three_means.part("NaN in the padding, and the gradient", points=1)
def _(answer, draw) -> None:
    mask = draw_mask(draw, 4, 6)
    x = (draw_tensor(draw, 4, 6) + 1.0).masked_fill(~mask, math.nan).requires_grad_(True)
    right = reference_three_means(x, mask, 8)
    for name, got, expected in zip(
        ("over tokens", "over responses", "over a fixed length"),
        _three(answer(x, mask, 8)),
        right,
        strict=True,
    ):
        require(
            isinstance(got, Tensor) and not bool(got.detach().isnan().any()),
            f"The padding reached the mean {name}: NaN times 0 is NaN, so select, or fill with 0, "
            f"before you add up",
        )
        compare(f"the mean {name}, NaN in the padding", got, expected, gradient=True, dtype=False)
        (slope,) = torch.autograd.grad(got, x, retain_graph=True)
        (wanted,) = torch.autograd.grad(expected, x, retain_graph=True)
        compare(f"the gradient of the mean {name}", slope, wanted, dtype=False)


# 9.6 · clip the weight --------------------------------------------------------------------------

clipped_weight_loss = Exercise(
    "9.6",
    "Clip the weight",
    function="clipped_weight_loss",
    reference=lambda: formulas.cispo_policy_loss,
)


def _draw_moved(draw: np.random.Generator, scale: float, dtype=torch.float64):
    """Draw log π, log π_old and advantages of a batch; ``scale`` says how far π has moved."""
    old = -draw_tensor(draw, 3, 5, scale=1.0, dtype=dtype).abs() - 1.0
    log_probs = (old + draw_tensor(draw, 3, 5, scale=scale, dtype=dtype)).clamp(max=-0.05)
    return log_probs, old, draw_tensor(draw, 3, 5, dtype=dtype)


def _clipped_weight_mistakes(log_probs, old, advantages, epsilon) -> dict[str, Tensor]:
    rho = (log_probs - old).exp()
    top = rho.clamp(max=1 + epsilon)
    return {
        "The sign is turned: a loss goes down where a good action becomes likelier": (
            top * advantages * log_probs
        ),
        "You did not clip: the weight is min(ρ, 1 + ε_high)": -rho * advantages * log_probs,
        "You clipped from below too: the weight has an upper end alone": (
            -rho.clamp(1 - epsilon, 1 + epsilon) * advantages * log_probs
        ),
        "You clipped at ε_high: the largest weight is 1 + ε_high": (
            -rho.clamp(max=epsilon) * advantages * log_probs
        ),
        "You forgot log π: the loss is the weight times A times log π": -top * advantages,
        "This is PPO's loss: here the WEIGHT is clipped, and log π keeps its gradient": (
            formulas.dapo_policy_loss(log_probs, old, advantages, epsilon, epsilon)
        ),
        "You left out the weight: this is REINFORCE": -advantages * log_probs,
        "Your ratio stands on its head: ρ = exp(log π − log π_old)": (
            -(1 / rho).clamp(max=1 + epsilon) * advantages * log_probs
        ),
    }


@clipped_weight_loss.part("the loss of each token", points=1)
def _(answer, draw) -> None:
    for dtype in DTYPES:
        batch = _draw_moved(draw, 0.8, dtype)
        batch[0][0, :2], batch[1][0, :2] = -0.5, torch.tensor([-2.0, -0.1], dtype=dtype)
        epsilon = float(draw.uniform(0.1, 0.3))
        compare(
            "clipped_weight_loss(log_probs, old_log_probs, advantages, epsilon_high)",
            answer(*batch, epsilon),
            formulas.cispo_policy_loss(*batch, epsilon),
            mistakes=_clipped_weight_mistakes(*batch, epsilon),
            atol=TOLERANCE[dtype],
        )


def _slope(answer, draw, scale: float) -> None:
    log_probs, old, advantages = _draw_moved(draw, scale)
    epsilon = 0.2
    log_probs[0, :2], old[0, :2] = -0.5, torch.tensor([-2.0, -0.1], dtype=torch.float64)
    log_probs = log_probs.requires_grad_(True)
    losses = answer(log_probs, old, advantages, epsilon)
    compare(
        "the losses",
        losses,
        formulas.cispo_policy_loss(log_probs, old, advantages, epsilon),
        gradient=True,
    )
    (slope,) = torch.autograd.grad(losses.sum(), log_probs)
    rho = (log_probs - old).exp().detach()
    top = rho.clamp(max=1 + epsilon)
    inside = (rho < 1 + epsilon).to(rho.dtype)
    compare(
        "the gradient of the loss in log π, −min(ρ, 1 + ε_high) · A",
        slope,
        -top * advantages,
        mistakes={
            "A gradient goes through the weight: hold it fixed, .detach()": -(
                top * advantages * (1 + inside * log_probs.detach())
            ),
            "Tokens beyond 1 + ε_high have lost their gradient: the weight is clipped, not the "
            "objective": -top * advantages * inside,
        },
    )


@clipped_weight_loss.part("the gradient near the old policy", points=1)
def _(answer, draw) -> None:
    _slope(answer, draw, 0.1)


@clipped_weight_loss.part("the gradient far from it", points=1)
def _(answer, draw) -> None:
    _slope(answer, draw, 1.5)


# 9.7 · pass@k -----------------------------------------------------------------------------------

pass_at_k = Exercise("9.7", "Pass at k", function="pass_at_k", reference=lambda: formulas.pass_at_k)


def _draw_marks(draw: np.random.Generator, prompts: int, n: int) -> Tensor:
    """Draw marks of n tries: one prompt never right, one always, others in between."""
    right = draw.integers(1, n, size=prompts)
    right[0], right[-1] = 0, n
    rows = [draw.permutation(np.arange(n) < count) for count in right]
    return torch.from_numpy(np.array(rows))[draw.permutation(prompts)]


def _pass_at_k_mistakes(correct: Tensor, k: int) -> dict[str, Tensor]:
    n = correct.shape[1]
    share = correct.double().mean(1)
    right = formulas.pass_at_k(correct, k)
    wrong = [n - int(c) for c in correct.sum(1)]
    return {
        "This is 1 − (1 − c/n)^k, which is too low: draw k of the n WITHOUT putting back": (
            1 - (1 - share) ** k
        ),
        "This is the chance that NO try is right: take 1 minus it": 1 - right,
        "This is pass@1, the share that is right": share,
        "You multiplied the share by k: two right tries are counted twice": (
            (k * share).clamp(max=1)
        ),
        "You looked at the first k tries: all n of them tell something": (
            correct[:, :k].any(1).double()
        ),
        "You averaged over the prompts: one number for each": right.mean(),
        "This is the chance that ALL k are right: one is enough": torch.tensor(
            [math.comb(n - w, k) / math.comb(n, k) for w in wrong], dtype=torch.float64
        ),
        "You chose from the right ones: C(n − c, k) counts the choices without a right one": 1
        - torch.tensor([math.comb(n - w, k) / math.comb(n, k) for w in wrong], dtype=torch.float64),
    }


@pass_at_k.part("some tries of many", points=1)
def _(answer, draw) -> None:
    n = int(draw.integers(8, 13))
    correct, k = _draw_marks(draw, 6, n), int(draw.integers(2, 5))
    compare(
        f"pass_at_k(correct, {k})",
        answer(correct, k),
        formulas.pass_at_k(correct, k),
        mistakes=_pass_at_k_mistakes(correct, k),
    )


@pass_at_k.part("one try, and all of them", points=1)
def _(answer, draw) -> None:
    correct = _draw_marks(draw, 5, 9)
    for k in (1, 9):
        compare(
            f"pass_at_k(correct, {k})",
            answer(correct, k),
            formulas.pass_at_k(correct, k),
            mistakes=_pass_at_k_mistakes(correct, k),
            dtype=False,
        )


@pass_at_k.part("a thousand tries", points=1)
def _(answer, draw) -> None:
    correct = _draw_marks(draw, 4, 1200)
    compare(
        "pass_at_k of 1,200 tries, k = 400",
        answer(correct, 400),
        formulas.pass_at_k(correct, 400),
        dtype=False,
    )


# 9.8 · keep what passes -------------------------------------------------------------------------


def reference_keep_what_passes(
    prompts: Sequence[str], responses: Sequence[str], scores: Sequence[float], most: int
) -> list[tuple[str, str]]:
    """Return the right responses, each text once a prompt and at most ``most`` of each prompt."""
    kept: dict[str, list[str]] = {}
    for prompt, response, score in zip(prompts, responses, scores, strict=True):
        texts = kept.setdefault(prompt, [])
        if score == 1 and response not in texts and len(texts) < most:
            texts.append(response)
    return [(prompt, text) for prompt, texts in kept.items() for text in texts]


keep_what_passes = Exercise(
    "9.8",
    "Keep what passes",
    function="keep_what_passes",
    reference=lambda: reference_keep_what_passes,
)


def _draw_answers(draw: np.random.Generator) -> tuple[list[str], list[str], np.ndarray]:
    """Draw ten responses to each of three prompts, in turn, with a checker's marks.

    The first task begins with a right one twice, the others with a wrong one: neither copies nor
    wrong ones may take a place among the most that are kept. The first right one is the last in the
    alphabet, so that sorting changes which come first.
    """
    texts, marks = [], []
    for task in range(3):
        # A mark belongs to a text: the same answer to the same task has the same one.
        right = [(text + task) % 8 < 5 for text in range(8)]
        drawn = [int(text) for text in draw.permutation(8)]
        good = [text for text in drawn if right[text]]
        good.insert(0, good.pop(good.index(max(good))))
        wrong = next(text for text in drawn if not right[text])
        rest = [int(text) for text in draw.integers(0, 8, size=4)]
        begin = [good[0], good[0], good[1], wrong] if task == 0 else [wrong, *good[:2], good[0]]
        texts.append([*begin, *good[2:4], *rest])
        marks.append([float(right[text]) for text in texts[-1]])
    places = [(task, place) for place in range(10) for task in range(3)]
    return (
        [f"task {task}" for task, _ in places],
        [f"answer {texts[task][place]}" for task, place in places],
        np.array([marks[task][place] for task, place in places]),
    )


def _counted(pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Say how often each pair is there: the order of the prompts does not matter."""
    return dict(Counter((prompt, response) for prompt, response in pairs))


def _learned(pairs: object) -> dict[tuple[str, str], int]:
    require(
        isinstance(pairs, (list, tuple))
        and all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs),
        "Return a list of (prompt, response) pairs",
    )
    return _counted(pairs)


def _kept_mistakes(prompts, responses, scores, most) -> dict[str, object]:
    rows = list(zip(prompts, responses, scores, strict=True))
    right = [(p, y) for p, y, s in rows if s == 1]
    once_each = list({y: (p, y) for p, y in reversed(right)}.values())  # the first prompt has it
    firsts: dict[str, list[str]] = {}
    for prompt, text in right:
        firsts.setdefault(prompt, []).append(text)
    capped = [(p, y) for p, texts in firsts.items() for y in texts[:most]]
    kept = {p: list(dict.fromkeys(texts)) for p, texts in firsts.items()}
    tried = reference_keep_what_passes(prompts, responses, np.ones(len(rows)), most)
    return {
        "You kept wrong responses: those with score 1 alone": _counted(
            reference_keep_what_passes(prompts, responses, np.ones(len(rows)), most)
        ),
        "You kept the WRONG ones": _counted(
            reference_keep_what_passes(prompts, responses, 1 - np.asarray(scores), most)
        ),
        "You kept a text of a prompt more than once": _counted(capped),
        "You kept everything that is right, copies too": _counted(right),
        "You did not stop at `most` for each prompt": _counted(dict.fromkeys(right)),
        "You dropped a text because ANOTHER prompt had it: copies count within a prompt": _counted(
            once_each
        ),
        "A copy took a place: `most` counts the texts that you keep": _counted(
            dict.fromkeys(capped)
        ),
        "A wrong response took a place: `most` counts the texts that you keep": _counted(
            pair for pair in tried if pair in right
        ),
        "You kept the LAST ones of a prompt: at most `most`, the first": _counted(
            (p, y) for p, texts in kept.items() for y in texts[-most:]
        ),
        "You sorted the texts: keep the first ones in the order in which they came": _counted(
            (p, y) for p, texts in kept.items() for y in sorted(texts)[:most]
        ),
        "You stopped at `most` in all: it is the most of each PROMPT": _counted(
            list(dict.fromkeys(right))[:most]
        ),
    }


@keep_what_passes.part("right ones, each text once", points=1)
def _(answer, draw) -> None:
    prompts, responses, scores = _draw_answers(draw)
    compare(
        "what keep_what_passes kept (pair: how often), most = 10",
        _learned(answer(prompts, responses, scores, 10)),
        _counted(reference_keep_what_passes(prompts, responses, scores, 10)),
        mistakes=_kept_mistakes(prompts, responses, scores, 10),
    )


@keep_what_passes.part("the first few of each prompt, in order", points=1)
def _(answer, draw) -> None:
    prompts, responses, scores = _draw_answers(draw)
    compare(
        "what keep_what_passes kept (pair: how often), most = 2",
        _learned(answer(prompts, responses, scores, 2)),
        _counted(reference_keep_what_passes(prompts, responses, scores, 2)),
        mistakes=_kept_mistakes(prompts, responses, scores, 2),
    )
    nothing = answer(prompts, responses, np.zeros(len(prompts)), 2)
    require(len(nothing) == 0, "Where nothing is right, nothing is kept: return an empty list")


# 9.9 · thumbs -----------------------------------------------------------------------------------

thumbs_loss = Exercise("9.9", "Thumbs", function="thumbs_loss", reference=lambda: formulas.kto_loss)


def _draw_thumbs(draw: np.random.Generator, dtype=torch.float64):
    """Draw log π, log π_ref, thumbs of both kinds, and a reference point above 0."""
    reference = -draw_tensor(draw, 6, dtype=dtype).abs() - 10.0
    policy = reference + draw_tensor(draw, 6, dtype=dtype)
    up = torch.from_numpy(draw.permutation(np.arange(6) < int(draw.integers(2, 5))))
    return policy, reference, up, torch.tensor(float(draw.uniform(0.5, 2.0)), dtype=dtype)


def _thumbs_mistakes(policy, reference, up, z, beta, good=1.0, bad=1.0) -> dict[str, Tensor]:
    ratio = policy - reference
    above = ratio - z

    def loss(inside: Tensor, good: float = good, bad: float = bad) -> Tensor:
        return torch.where(up, good * torch.sigmoid(-inside), bad * torch.sigmoid(inside))

    return {
        "Up and down are exchanged: a thumb up wants r̂ ABOVE z": loss(-beta * above),
        "You forgot the reference point: compare r̂ with z": loss(beta * ratio),
        "You forgot β": loss(above),
        "You multiplied r̂ alone by β: it is β · (r̂ − z)": loss(beta * ratio - z),
        "You forgot the reference policy: r̂ = log π − log π_ref": loss(beta * (policy - z)),
        "You treated a thumb down like a thumb up: it wants r̂ BELOW z": torch.where(
            up, good * torch.sigmoid(-beta * above), bad * torch.sigmoid(-beta * above)
        ),
        "You took −log σ, as DPO does: KTO's loss is 1 − σ, which levels off": torch.where(
            up,
            -good * torch.nn.functional.logsigmoid(beta * above),
            -bad * torch.nn.functional.logsigmoid(-beta * above),
        ),
        "You gave σ: the loss is 1 − σ": torch.where(
            up, good * torch.sigmoid(beta * above), bad * torch.sigmoid(-beta * above)
        ),
        "The weights are exchanged: desirable_weight goes to the thumbs up": loss(
            beta * above, bad, good
        ),
        "You forgot the weights": loss(beta * above, 1.0, 1.0),
        "You averaged: give a loss for each thumb": loss(beta * above).mean(),
        "You added z: it is r̂ − z": loss(beta * (ratio + z)),
    }


@thumbs_loss.part("up and down", points=1)
def _(answer, draw) -> None:
    for dtype in DTYPES:
        batch, beta = _draw_thumbs(draw, dtype), float(draw.uniform(0.3, 0.7))
        compare(
            "thumbs_loss(...)",
            answer(*batch, beta, 1.0, 1.0),
            formulas.kto_loss(*batch, beta),
            mistakes=_thumbs_mistakes(*batch, beta),
            atol=TOLERANCE[dtype],
        )


@thumbs_loss.part("the weights of up and down", points=1)
def _(answer, draw) -> None:
    batch, beta = _draw_thumbs(draw), float(draw.uniform(0.3, 0.7))
    good, bad = float(draw.uniform(1.2, 2.0)), float(draw.uniform(0.3, 0.8))
    compare(
        "thumbs_loss(...) with two weights",
        answer(*batch, beta, good, bad),
        formulas.kto_loss(*batch, beta, good, bad),
        mistakes=_thumbs_mistakes(*batch, beta, good, bad),
    )


@thumbs_loss.part("what learns, and what is held fixed", points=1)
def _(answer, draw) -> None:
    policy, reference, up, z = _draw_thumbs(draw)
    # On both sides of z, for both thumbs, so far away that a σ written with exp overflows.
    up[:4] = torch.tensor([True, True, False, False])
    policy[:4] = reference[:4] + torch.tensor([3000.0, -3000.0, 3000.0, -3000.0])
    policy, z = policy.requires_grad_(True), z.requires_grad_(True)
    losses = answer(policy, reference, up, z, 0.5, 1.0, 1.0)
    expected = formulas.kto_loss(policy, reference, up, z, 0.5)
    compare("thumbs_loss far from z", losses, expected, gradient=True)
    (of_z,) = torch.autograd.grad(losses.sum(), z, retain_graph=True, allow_unused=True)
    require(
        of_z is None or not bool(of_z.abs() > 0),
        "A gradient goes through z: the reference point is held fixed, .detach()",
    )
    (of_policy,) = torch.autograd.grad(losses.sum(), policy)
    require(
        not bool(of_policy.isnan().any()),
        "Far from z the gradient is NaN, since exp overflows: torch.sigmoid does not",
    )
    compare(
        "the gradient in log π",
        of_policy,
        torch.autograd.grad(expected.sum(), policy)[0],
    )


EXERCISES = [
    leave_one_out,
    over_all_groups,
    group_advantages,
    prompt_weight,
    three_means,
    clipped_weight_loss,
    pass_at_k,
    keep_what_passes,
    thumbs_loss,
]
