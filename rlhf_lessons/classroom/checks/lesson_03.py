"""The checks of lesson 3, reward models.

Each exercise meets hidden inputs drawn fresh at every run: both dtypes, ties, rewards far beyond
the range of ``exp``, bins without an entry, rankings of several lengths. Each known mistake is
computed beside the right answer, so that a hint can name it.
Left out on purpose: speed. A slow right answer passes.
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lessons import formulas
from rlhf_lessons.classroom.exercises import Exercise, Mistake, compare, require

DTYPES = (torch.float32, torch.float64)
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}


def draw_tensor(
    draw: np.random.Generator, *shape: int, scale: float = 2.0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Draw a tensor of independent normal numbers with standard deviation ``scale``."""
    return torch.from_numpy(scale * draw.standard_normal(shape)).to(dtype)


# 3.1 · Bradley-Terry loss -----------------------------------------------------------------------

bradley_terry = Exercise(
    "3.1",
    "Bradley-Terry loss",
    function="bradley_terry_loss",
    reference=lambda: formulas.bradley_terry_loss,
)


def _bradley_terry_mistakes(chosen: Tensor, rejected: Tensor) -> dict[str, Tensor]:
    right = -logsigmoid(chosen - rejected)
    return {
        "You have chosen and rejected the wrong way round: the loss must fall when the chosen "
        "reward rises": -logsigmoid(rejected - chosen),
        "You returned log σ: a loss is the NEGATIVE log-likelihood": -right,
        "You returned the probability σ(r_w − r_l): take −log of it": torch.sigmoid(
            chosen - rejected
        ),
        "You returned 1 − σ(r_w − r_l): the likelihood's loss is −log σ": torch.sigmoid(
            rejected - chosen
        ),
        "You took the mean: return one loss per pair, the training loop averages": right.mean(),
        "You took the sum: return one loss per pair, the training loop averages": right.sum(),
        "You returned the difference r_l − r_w: put it through −log σ": rejected - chosen,
        "You put each reward through σ by itself: σ takes their DIFFERENCE": (
            -logsigmoid(chosen) - logsigmoid(-rejected)
        ),
        "You compared rewards by their ratio: Bradley-Terry takes the difference of rewards, which "
        "are logarithms of strengths": -torch.log(chosen.abs() / (chosen.abs() + rejected.abs())),
        "log2 in place of log: losses here are in nats": right / math.log(2),
    }


@bradley_terry.part("one loss per pair, and a gradient in both rewards")
def _(answer, draw) -> None:
    for dtype in DTYPES:
        batch = int(draw.integers(3, 7))
        chosen, rejected = (draw_tensor(draw, batch, dtype=dtype) for _ in range(2))
        rejected[0] = chosen[0]  # a tie costs log 2
        compare(
            "bradley_terry_loss(chosen_rewards, rejected_rewards)",
            answer(chosen, rejected),
            -logsigmoid(chosen - rejected),
            mistakes=_bradley_terry_mistakes(chosen, rejected),
            atol=TOLERANCE[dtype],
        )
    chosen, rejected = (draw_tensor(draw, 4).requires_grad_() for _ in range(2))
    losses = answer(chosen, rejected)
    compare(
        "bradley_terry_loss of rewards that carry a gradient",
        losses,
        -logsigmoid(chosen - rejected),
        mistakes=_bradley_terry_mistakes(chosen, rejected),
        gradient=True,
    )
    losses.sum().backward()
    require(
        rejected.grad is not None and bool(rejected.grad.ne(0).all()),
        "no gradient reaches the rejected rewards: detach neither side, the model must learn to "
        "score the rejected response lower as well",
    )
    require(
        chosen.grad is not None and bool(chosen.grad.ne(0).all()),
        "no gradient reaches the chosen rewards: detach neither side",
    )


@bradley_terry.part("rewards that are far apart")
def _(answer, draw) -> None:
    gaps = torch.from_numpy(draw.uniform(800, 3000, size=4)) * torch.tensor([1, -1, 1, -1])
    chosen = draw_tensor(draw, 4)
    rejected = chosen - gaps
    compare(
        "bradley_terry_loss with rewards thousands apart",
        answer(chosen, rejected),
        -logsigmoid(chosen - rejected),
        mistakes={
            "for a far difference exp overflows and σ is 0, whose log is −∞: "
            "torch.nn.functional.logsigmoid computes −log σ without leaving the range of "
            "numbers": -torch.sigmoid(chosen - rejected).log(),
            "A small number inside the logarithm hides the loss where the pair is most wrong: "
            "logsigmoid needs none": -(torch.sigmoid(chosen - rejected) + 1e-8).log(),
            "exp overflows for far rewards: only their difference counts, use logsigmoid of "
            "it": -torch.log(chosen.exp() / (chosen.exp() + rejected.exp())),
            **_bradley_terry_mistakes(chosen, rejected),
        },
    )


# 3.2 · its gradient -----------------------------------------------------------------------------


def reference_bradley_terry_gradient(
    chosen_rewards: Tensor, rejected_rewards: Tensor
) -> tuple[Tensor, Tensor]:
    """Return (∂L/∂r_w, ∂L/∂r_l) = (−σ(r_l − r_w), σ(r_l − r_w)), each (B,)."""
    surprise = torch.sigmoid(rejected_rewards - chosen_rewards)
    return -surprise, surprise


gradient = Exercise(
    "3.2",
    "The gradient in r",
    function="bradley_terry_gradient",
    reference=lambda: reference_bradley_terry_gradient,
)


def _two_tensors(got):
    """Ask for a pair of derivatives, and hand it on."""
    require(
        isinstance(got, (tuple, list)) and len(got) == 2,
        "return two tensors, (∂L/∂r_w, ∂L/∂r_l), each (B,)",
    )
    return got


def _gradient_mistakes(chosen: Tensor, rejected: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    surprise = torch.sigmoid(rejected - chosen)
    expected = torch.sigmoid(chosen - rejected)
    batch = len(chosen)
    return {
        "Your signs are turned around: descending the gradient must RAISE the chosen reward, so "
        "its derivative is negative": (surprise, -surprise),
        "You used σ(r_w − r_l): the derivative of −log σ(z) is −(1 − σ(z)) = −σ(−z), large where "
        "the model has the pair WRONG": (-expected, expected),
        "You used σ·(1 − σ), the derivative of σ itself: the loss is −log σ, which divides by σ": (
            -surprise * expected,
            surprise * expected,
        ),
        "You divided by the number of pairs: the losses are one per pair, so is the gradient": (
            -surprise / batch,
            surprise / batch,
        ),
        "Both derivatives have the same sign: what raises r_w lowers r_l by as much": (
            -surprise,
            -surprise,
        ),
        "You forgot the chain rule's minus for the rejected reward, or gave the chosen one twice": (
            surprise,
            surprise,
        ),
        "You returned the derivative with respect to the probability, −1/σ: one more step, times "
        "σ·(1 − σ)": (-1 / expected, 1 / expected),
    }


@gradient.part("both derivatives", points=2)
def _(answer, draw) -> None:
    for dtype in DTYPES:
        chosen, rejected = (draw_tensor(draw, 5, dtype=dtype) for _ in range(2))
        compare(
            "bradley_terry_gradient(chosen_rewards, rejected_rewards)",
            _two_tensors(answer(chosen, rejected)),
            reference_bradley_terry_gradient(chosen, rejected),
            mistakes=_gradient_mistakes(chosen, rejected),
            atol=TOLERANCE[dtype],
        )


@gradient.part("ties and rewards that are far apart")
def _(answer, draw) -> None:
    chosen = draw_tensor(draw, 5)
    rejected = chosen - torch.tensor([0.0, 900.0, -900.0, 40.0, -40.0], dtype=torch.float64)
    difference = rejected - chosen
    compare(
        "bradley_terry_gradient with rewards hundreds apart",
        _two_tensors(answer(chosen, rejected)),
        reference_bradley_terry_gradient(chosen, rejected),
        mistakes={
            "exp overflows for a far difference, and ∞/∞ is NaN: torch.sigmoid computes the same "
            "without overflow": (
                -difference.exp() / (1 + difference.exp()),
                difference.exp() / (1 + difference.exp()),
            ),
            **_gradient_mistakes(chosen, rejected),
        },
    )


# 3.3 · a ranking as pairs -----------------------------------------------------------------------


def reference_ranking_to_pairs(prompt: str, ranked: list[str]) -> list[tuple[str, str, str]]:
    """Return the K(K−1)/2 triples (prompt, better, worse) of a ranking, best first."""
    from rlhf_lessons.worlds import ranking_to_pairs

    return [tuple(pair) for pair in ranking_to_pairs(prompt, ranked)]


ranking = Exercise(
    "3.3",
    "From a ranking to pairs",
    function="ranking_to_pairs",
    reference=lambda: reference_ranking_to_pairs,
)
_FILMS = ("alien", "brazil", "casablanca", "dune", "elf", "fargo", "gravity", "heat")


def _draw_ranking(draw: np.random.Generator, size: int) -> list[str]:
    """Draw a ranking that is not in the order of the alphabet, nor backwards if it is of three."""
    while True:
        ranked = [str(film) for film in draw.permutation(_FILMS)[:size]]
        ordered = sorted(ranked)
        if ranked != ordered and (size < 3 or ranked != ordered[::-1]):
            return ranked


def _in_any_order(pairs) -> list:
    """The pairs sorted, so that their order does not count; anything else as it came."""
    try:
        return sorted(tuple(pair) for pair in pairs)
    except TypeError:
        return pairs


@ranking.part("every pair once, the better first")
def _(answer, draw) -> None:
    for size in (3, 2, int(draw.integers(4, 8))):
        ranked = _draw_ranking(draw, size)
        right = [("p", a, b) for a, b in combinations(ranked, 2)]
        neighbours = [("p", a, b) for a, b in zip(ranked, ranked[1:], strict=False)]
        compare(
            f"the pairs of a ranking of {size}",
            _in_any_order(answer("p", ranked)),
            sorted(right),
            mistakes={
                "You have better and worse the wrong way round: the ranking is best first": sorted(
                    ("p", b, a) for _, a, b in right
                ),
                "You only paired neighbours: a ranking of K also says that the first beats the "
                "third, so there are K(K−1)/2 pairs": sorted(neighbours),
                "You only paired the best with each other response: the rest is ranked too": sorted(
                    ("p", ranked[0], b) for b in ranked[1:]
                ),
                "You have every pair twice, once in each order: the worse one never wins": sorted(
                    [*right, *(("p", b, a) for _, a, b in right)]
                ),
                "You paired responses with themselves: nothing is better than itself": sorted(
                    [*right, *(("p", a, a) for a in ranked)]
                ),
                "The prompt is missing: a record is (prompt, chosen, rejected)": sorted(
                    combinations(ranked, 2)
                ),
                "The prompt comes first: a record is (prompt, chosen, rejected)": sorted(
                    (a, b, "p") for a, b in combinations(ranked, 2)
                ),
                "You sorted the responses: their order is the ranking": sorted(
                    ("p", a, b) for a, b in combinations(sorted(ranked), 2)
                ),
            },
        )


@ranking.part("a ranking that names one response twice is refused")
def _(answer, draw) -> None:
    ranked = _draw_ranking(draw, 4)
    ranked[3] = ranked[int(draw.integers(2))]  # never beside each other
    try:
        got = answer("p", list(ranked))
    except Mistake as mistake:
        if isinstance(mistake.__cause__, ValueError):
            return
        raise
    require(
        not isinstance(got, BaseException),
        "you returned the error: end with `raise ValueError(...)`",
    )
    require(
        False,
        f"the ranking {ranked} names {max(ranked, key=ranked.count)!r} twice, which says that it "
        f"is better than itself: raise a ValueError (you returned {len(got or [])} pairs)",
    )


# 3.4 · Plackett-Luce loss -----------------------------------------------------------------------

plackett_luce = Exercise(
    "3.4",
    "Plackett-Luce loss",
    function="plackett_luce_loss",
    reference=lambda: formulas.plackett_luce_loss,
)


def _plackett_luce(scores: Tensor) -> Tensor:
    return sum(torch.logsumexp(scores[:, k:], 1) - scores[:, k] for k in range(scores.shape[1]))


def _plackett_luce_mistakes(scores: Tensor) -> dict[str, Tensor]:
    size = scores.shape[1]
    right = _plackett_luce(scores)
    everyone = sum(torch.logsumexp(scores, 1) - scores[:, k] for k in range(size))
    without = sum(torch.logsumexp(scores[:, k + 1 :], 1) - scores[:, k] for k in range(size - 1))
    pairs = sum(-logsigmoid(scores[:, i] - scores[:, j]) for i, j in combinations(range(size), 2))
    return {
        "You put all K responses into each denominator: who has been placed is gone, so the sum "
        "runs over j ≥ k": everyone,
        "You left the one that is chosen out of its own denominator: the sum runs over j ≥ k, with "
        "k itself": without,
        "You read the ranking from the wrong end: scores[:, 0] belongs to the BEST": _plackett_luce(
            scores.flip(1)
        ),
        "You returned log-likelihoods: a loss is their negative": -right,
        "You stopped after the first choice: the second best is chosen among the rest, and so "
        "on": torch.logsumexp(scores, 1) - scores[:, 0],
        "You summed Bradley-Terry over all pairs: near, but the K(K−1)/2 pairs are not independent "
        "choices; Plackett-Luce makes K − 1": pairs,
        "You summed Bradley-Terry over neighbours: each choice is one among ALL that are left": (
            -logsigmoid(scores[:, :-1] - scores[:, 1:]).sum(1)
        ),
        "You sorted the scores: their order is the ranking that people gave": _plackett_luce(
            scores.sort(1, descending=True).values
        ),
        "You took the mean over the batch: return one loss per ranking": right.mean(),
        "You took the sum over the batch: return one loss per ranking": right.sum(),
        "You divided by K: the log-likelihood of a ranking is the SUM over its choices": right
        / size,
        "You divided by K − 1: the log-likelihood of a ranking is the SUM over its choices": right
        / max(size - 1, 1),
    }


@plackett_luce.part("the loss of a ranking")
def _(answer, draw) -> None:
    for dtype in DTYPES:
        scores = draw_tensor(draw, 4, int(draw.integers(3, 6)), dtype=dtype)
        scores[0, 1] = scores[0, 0]
        compare(
            "plackett_luce_loss(scores)",
            answer(scores),
            _plackett_luce(scores),
            mistakes=_plackett_luce_mistakes(scores),
            atol=TOLERANCE[dtype],
        )


@plackett_luce.part("K = 2 is Bradley-Terry, K = 1 costs nothing")
def _(answer, draw) -> None:
    pair = draw_tensor(draw, 5, 2)
    compare(
        "plackett_luce_loss at K = 2",
        answer(pair),
        -logsigmoid(pair[:, 0] - pair[:, 1]),
        mistakes=_plackett_luce_mistakes(pair),
    )
    alone = draw_tensor(draw, 3, 1)
    compare(
        "plackett_luce_loss at K = 1, where nothing is chosen",
        answer(alone),
        torch.zeros(3, dtype=torch.float64),
    )


@plackett_luce.part("scores beyond the range of exp")
def _(answer, draw) -> None:
    scores = draw_tensor(draw, 4, 4, scale=600.0)
    scores[0, 1], scores[1, 3] = 900.0, -900.0  # e^900 is ∞ and e^-900 is 0
    naive = -sum(
        (scores[:, k].exp() / scores[:, k:].exp().sum(1)).log() for k in range(scores.shape[1])
    )
    careless = (scores.exp().flip(1).cumsum(1).flip(1).log() - scores).sum(1)
    compare(
        "plackett_luce_loss of scores in the hundreds",
        answer(scores),
        _plackett_luce(scores),
        mistakes={
            "exp overflows: log Σ exp(s) is torch.logsumexp, or logcumsumexp from the end": naive,
            "exp overflows, and log 0 is −∞: torch.logsumexp, or logcumsumexp from the end, does "
            "all three steps in one": careless,
            **_plackett_luce_mistakes(scores),
        },
    )


# 3.5 · accuracy with ties -----------------------------------------------------------------------


def reference_preference_accuracy(chosen_scores: Tensor, rejected_scores: Tensor) -> float:
    """Return the share of pairs in the right order, ties counted half."""
    from rlhf_lessons.evaluation import preference_accuracy

    return preference_accuracy(chosen_scores, rejected_scores)


accuracy = Exercise(
    "3.5",
    "Accuracy with ties",
    function="preference_accuracy",
    reference=lambda: reference_preference_accuracy,
)


@accuracy.part("the share of pairs in the right order")
def _(answer, draw) -> None:
    size = 2 * int(draw.integers(3, 10)) + 1  # odd: the share is not 1/2
    gaps = draw.choice([-1, 1], size=size) * (0.3 + np.abs(draw.normal(size=size)))
    gaps[:3] = 1.0, -1.0, 1e-3  # not all alike; and near is no tie
    rejected = 50 + draw_tensor(draw, size)  # scores have no zero
    chosen = rejected + torch.from_numpy(gaps)
    right = (chosen > rejected).double().mean().item()
    compare(
        "preference_accuracy(chosen_scores, rejected_scores)",
        answer(chosen, rejected),
        right,
        mistakes={
            "You counted the pairs in the WRONG order": 1 - right,
            "You returned a count: divide by the number of pairs": right * size,
            "You returned a percentage: a share lies between 0 and 1": 100 * right,
            "You asked whether the chosen score is positive: scores have no zero of their own, "
            "compare it with the rejected one": (chosen > 0).double().mean().item(),
            "You took near scores for a tie: only equal ones are": (
                ((chosen - rejected).round(decimals=1).sign() + 1) / 2
            )
            .mean()
            .item(),
            "You averaged σ(difference): accuracy asks for the order alone": torch.sigmoid(
                chosen - rejected
            )
            .mean()
            .item(),
        },
    )


@accuracy.part("ties count half")
def _(answer, draw) -> None:
    chosen = torch.from_numpy(draw.integers(0, 3, size=31)).double()
    rejected = torch.from_numpy(draw.integers(0, 2, size=31)).double()  # lower: far from 1/2
    chosen[:3], rejected[:3] = torch.tensor([1.0, 1.0, 2.0]), torch.tensor([1.0, 0.0, 2.0])
    above = (chosen > rejected).double()
    ties = (chosen == rejected).double()
    mistakes = {
        "You counted ties as wrong: a tie is a coin, worth 1/2": above.mean().item(),
        "You counted ties as right: a judge that scores everything alike would have accuracy 1": (
            above + ties
        )
        .mean()
        .item(),
        "You left ties out of the count: they are pairs too, worth 1/2 each": (
            above.sum() / (1 - ties).sum()
        ).item(),
        "You counted the pairs in the WRONG order": 1 - (above + ties / 2).mean().item(),
        "You returned a percentage: a share lies between 0 and 1": (
            100 * (above + ties / 2).mean().item()
        ),
    }
    compare(
        "preference_accuracy with ties",
        answer(chosen, rejected),
        (above + ties / 2).mean().item(),
        mistakes=mistakes,
    )
    same = torch.full((7,), float(draw.normal()), dtype=torch.float64)
    compare("preference_accuracy of a judge that scores all alike", answer(same, same.clone()), 0.5)


# 3.6 · calibration bins -------------------------------------------------------------------------


def reference_calibration_bins(probabilities: np.ndarray, outcomes: np.ndarray, bins: int):
    """Return counts (K,), mean probability (K,), observed share (K,), and the ECE."""
    from rlhf_lessons.evaluation import calibration

    got = calibration(probabilities, outcomes, bins)
    return got.counts, got.predicted, got.observed, got.error


calibration = Exercise(
    "3.6",
    "Calibration bins",
    function="calibration_bins",
    reference=lambda: reference_calibration_bins,
)


def _bins(p: np.ndarray, happened: np.ndarray, bins: int, *, low_open: bool = False):
    if low_open:  # (k/K, (k+1)/K] in place of [k/K, (k+1)/K)
        place = np.clip(np.ceil(p * bins).astype(int) - 1, 0, bins - 1)
    else:
        place = np.minimum((p * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(place, p, bins) / counts
        observed = np.bincount(place, happened, bins) / counts
    return counts, predicted, observed


def _error(counts, predicted, observed, *, absolute=True, weighted=True) -> float:
    full = counts > 0
    gaps = observed[full] - predicted[full]
    gaps = np.abs(gaps) if absolute else gaps
    return float((gaps * counts[full]).sum() / counts.sum() if weighted else gaps.mean())


def _draw_forecast(draw: np.random.Generator, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities inside their bins (never on an edge), with overconfident outcomes."""
    size = 60
    place = draw.integers(0, bins, size=size)
    place[:bins] = np.arange(bins)
    p = (place + draw.uniform(0.1, 0.9, size=size)) / bins
    return p, (draw.random(size) < 0.5 + 0.4 * (p - 0.5)).astype(float)


def _four_things(got):
    """Ask for all that is wanted, and hand it on."""
    require(
        isinstance(got, (tuple, list)) and len(got) == 4,
        "return four things: counts, predicted, observed, error",
    )
    return got


@calibration.part("counts and means of each bin")
def _(answer, draw) -> None:
    bins = int(draw.integers(3, 9))
    p, happened = _draw_forecast(draw, bins)
    counts, predicted, observed = _bins(p, happened, bins)
    got = _four_things(answer(p, happened, bins))
    compare(
        "the counts",
        np.asarray(got[0]),
        counts,
        mistakes={
            "You counted only the events that happened: count all probabilities of a "
            "bin": np.bincount((p * bins).astype(int), happened, bins),
            "You returned shares: the counts are whole numbers": counts / len(p),
            "You rounded to the nearest edge: the bin of p is the whole part of p · K": (
                np.bincount(np.minimum(np.round(p * bins).astype(int), bins - 1), minlength=bins)
            ),
        },
        dtype=False,
    )
    centres = (np.arange(bins) + 0.5) / bins
    compare(
        "the mean probability of each bin",
        np.asarray(got[1]),
        predicted,
        mistakes={
            "You returned the middle of the bins: take the mean of the probabilities that fell "
            "into it": centres,
            "You returned observed and predicted the wrong way round": observed,
            "You returned sums: divide by the counts": predicted * counts,
        },
        dtype=False,
    )
    compare(
        "how often it happened in each bin",
        np.asarray(got[2]),
        observed,
        mistakes={
            "You returned sums: divide by the counts": observed * counts,
            "You divided by all N: divide by the count of the bin": observed * counts / len(p),
        },
        dtype=False,
    )


@calibration.part("the expected calibration error")
def _(answer, draw) -> None:
    bins = int(draw.integers(3, 9))
    p, happened = _draw_forecast(draw, bins)
    parts = _bins(p, happened, bins)
    compare(
        "the expected calibration error",
        _four_things(answer(p, happened, bins))[3],
        _error(*parts),
        mistakes={
            "You left out the division by N: a bin weighs n_k/N": _error(*parts) * len(p),
            "You took the root of the mean square: ECE averages absolute gaps": float(
                np.sqrt(((parts[2] - parts[1]) ** 2 * parts[0]).sum() / len(p))
            ),
            "You weighted all bins alike: a bin counts with its share of the "
            "probabilities, n_k/N": _error(*parts, weighted=False),
            "You let gaps cancel: take the absolute value of each bin's gap": _error(
                *parts, absolute=False
            ),
            "You let gaps cancel: take the absolute value of each bin's gap, and not of their "
            "sum": abs(_error(*parts, absolute=False)),
            "You averaged |outcome − p| over single events: a bin's gap compares its two "
            "means": float(np.abs(happened - p).mean()),
            "You took the largest gap: the EXPECTED error weights the gaps": float(
                np.abs(parts[2] - parts[1]).max()
            ),
            "You squared the gaps: ECE takes absolute values": float(
                ((parts[2] - parts[1]) ** 2 * parts[0]).sum() / parts[0].sum()
            ),
        },
    )


@calibration.part("empty bins, and probabilities of exactly 0, 1/2 and 1")
def _(answer, draw) -> None:
    p = np.array([0.0, 0.5, 0.5, 1.0, 1.0, 0.5 + 0.3 * draw.random()])
    happened = (draw.random(6) < 0.5).astype(float)
    happened[:3] = 0.0, 1.0, 0.0
    counts, predicted, observed = _bins(p, happened, 4)
    got = _four_things(answer(p, happened, 4))
    low_open = _bins(p, happened, 4, low_open=True)
    outside = counts.copy()
    outside[3] -= 2
    compare(
        "the counts with probabilities on the edges",
        np.asarray(got[0]),
        counts,
        mistakes={
            "You put an edge into the lower bin: bin k is [k/K, (k+1)/K), its lower edge "
            "included": low_open[0],
            "A probability of exactly 1 fell out: the last bin includes 1": outside,
        },
        dtype=False,
    )
    require(
        bool(np.isnan(np.asarray(got[1], dtype=float)[1]))
        and bool(np.isnan(np.asarray(got[2], dtype=float)[1])),
        "an empty bin has no mean: put NaN there, since 0 would claim a bin that is perfectly "
        "wrong or right",
    )
    compare(
        "the expected calibration error with an empty bin",
        got[3],
        _error(counts, predicted, observed),
        mistakes={"NaN of the empty bin reached the error: leave empty bins out": math.nan},
    )
    low, happened = np.array([0.1, 0.3, 0.6]), np.array([0.0, 1.0, 1.0])
    hint = (
        "The LAST bin is empty here, and np.bincount stops at the last bin that has an entry: "
        "minlength=bins makes it count all of them"
    )
    try:
        got = answer(low, happened, 4)
    except Mistake as mistake:
        raise Mistake(f"{hint}. Without it, {mistake}") from mistake
    require(all(np.shape(part) == (4,) for part in _four_things(got)[:3]), hint)
    compare(
        "the counts with an empty last bin", np.asarray(got[0]), np.array([1, 1, 1, 0]), dtype=False
    )


# 3.7 · the free constant ------------------------------------------------------------------------


def reference_centre_per_prompt(rewards: Tensor, prompts: Tensor) -> Tensor:
    """Return the rewards minus the mean reward of their own prompt."""
    _, group = torch.unique(prompts, return_inverse=True)
    sums = torch.zeros(int(group.max()) + 1, dtype=rewards.dtype).index_add(0, group, rewards)
    return rewards - (sums / torch.bincount(group).to(rewards.dtype))[group]


centre = Exercise(
    "3.7",
    "The free constant",
    function="centre_per_prompt",
    reference=lambda: reference_centre_per_prompt,
)


def _draw_prompts(draw: np.random.Generator) -> Tensor:
    """Prompt numbers with gaps between them, each at least twice and not all equally often."""
    numbers = draw.choice(50, size=4, replace=False)
    times = [2, 3, 4, 5]
    return torch.from_numpy(draw.permutation(np.repeat(numbers, times)))


def _centre_mistakes(rewards: Tensor, prompts: Tensor) -> dict[str, Tensor]:
    right = reference_centre_per_prompt(rewards, prompts)
    groups = [prompts == number for number in prompts.unique()]
    best, unit, unit_biased = (torch.empty_like(rewards) for _ in range(3))
    for group in groups:
        own = rewards[group]
        best[group] = own - own.max()
        unit[group] = (own - own.mean()) / own.std(correction=min(1, len(own) - 1))
        unit_biased[group] = (own - own.mean()) / own.std(correction=0)
    counted_up = rewards.clone()
    for number in range(len(groups)):
        group = prompts == number
        counted_up[group] = rewards[group] - rewards[group].mean()
    size = sum(group.sum() * group for group in groups)
    others = (size * (rewards - right) - rewards) / (size - 1).clamp(min=1)
    return {
        "You subtracted the sum of the prompt's rewards: subtract their mean": (
            rewards - size * (rewards - right)
        ),
        "You left the response itself out of its prompt's mean: the mean is over all of them": (
            rewards - others
        ),
        "You put the rewards in the order of the prompts: each result belongs where its reward "
        "stood": torch.cat([right[group] for group in groups]),
        "You counted the prompts 0, 1, 2, ...: their numbers have gaps, so take "
        "prompts.unique()": counted_up,
        "You subtracted the mean of ALL rewards: each prompt has a constant of its own": rewards
        - rewards.mean(),
        "You returned the means: subtract them from the rewards": rewards - right,
        "You added the mean: subtract it": rewards + (rewards - right),
        "You subtracted the best reward of the prompt: a constant too, but the question was for "
        "mean 0": best,
        "You divided by the spread: a shift changes no preference, a change of scale does": unit,
        "You divided by the spread: a shift changes no preference, a change of scale "
        "changes its strength": unit_biased,
    }


@centre.part("mean 0 for every prompt")
def _(answer, draw) -> None:
    for dtype in DTYPES:
        prompts = _draw_prompts(draw)
        rewards = draw_tensor(draw, len(prompts), dtype=dtype) + prompts.to(dtype)
        compare(
            "centre_per_prompt(rewards, prompts)",
            answer(rewards, prompts),
            reference_centre_per_prompt(rewards, prompts),
            mistakes=_centre_mistakes(rewards, prompts),
            atol=TOLERANCE[dtype],
        )


@centre.part("no pair's loss changes, whatever constant a prompt had")
def _(answer, draw) -> None:
    prompts = _draw_prompts(draw)
    rewards = draw_tensor(draw, len(prompts))
    shift = draw_tensor(draw, 50, scale=30.0)[prompts]
    got = answer(rewards + shift, prompts)
    compare(
        "centre_per_prompt(rewards + f(prompt), prompts), which must not depend on f",
        got,
        reference_centre_per_prompt(rewards, prompts),
        mistakes=_centre_mistakes(rewards + shift, prompts),
    )
    i, j = torch.triu_indices(len(prompts), len(prompts), 1)
    same = prompts[i] == prompts[j]
    i, j = i[same], j[same]
    compare(
        "the Bradley-Terry loss of all pairs of equal prompts, after centring",
        -logsigmoid(got[i] - got[j]),
        -logsigmoid(rewards[i] - rewards[j]),
    )


@centre.part("a prompt with one response")
def _(answer, draw) -> None:
    prompts = torch.tensor([7, 3, 3])
    rewards = draw_tensor(draw, 3)
    compare(
        "centre_per_prompt where a prompt has one response",
        answer(rewards, prompts),
        reference_centre_per_prompt(rewards, prompts),
        mistakes=_centre_mistakes(rewards, prompts),
    )


# 3.8 · triplet loss -----------------------------------------------------------------------------

triplet = Exercise(
    "3.8",
    "Triplet loss",
    function="triplet_loss",
    reference=lambda: formulas.triplet_loss,
)


def _triplet_mistakes(a: Tensor, n: Tensor, f: Tensor, margin: float) -> dict[str, Tensor]:
    near, far = (a - n).norm(dim=1), (a - f).norm(dim=1)
    right = (near - far + margin).clamp(min=0)
    return {
        "You have nearer and farther the wrong way round: the loss must fall when the nearer one "
        "comes nearer": (far - near + margin).clamp(min=0),
        "You forgot max(0, ·): a triplet that is already right by the margin costs nothing": near
        - far
        + margin,
        "You forgot the margin: then all points may fall together at no cost": (near - far).clamp(
            min=0
        ),
        "You subtracted the margin: it asks for MORE distance to the farther one": (
            near - far - margin
        ).clamp(min=0),
        "You squared the distances: here the margin is a plain distance": (
            near.square() - far.square() + margin
        ).clamp(min=0),
        "You compared nearer and farther with each other: both distances start at the anchor": (
            near - (n - f).norm(dim=1) + margin
        ).clamp(min=0),
        "You added the margin behind max(0, ·): it belongs inside": (near - far).clamp(min=0)
        + margin,
        "You used margin 1: take the argument": (near - far + 1).clamp(min=0),
        "You averaged over the coordinates: a distance is the root of a SUM of squares": (
            (near - far) / math.sqrt(a.shape[1]) + margin
        ).clamp(min=0),
        "You took one norm over the whole batch: one distance per triplet, over the last axis": (
            ((a - n).norm() - (a - f).norm() + margin).clamp(min=0).expand(len(a))
        ),
        "You took the mean: return one loss per triplet": right.mean(),
        "You took the sum: return one loss per triplet": right.sum(),
        "You summed |differences| of the coordinates: distance here is Euclidean": (
            (a - n).abs().sum(1) - (a - f).abs().sum(1) + margin
        ).clamp(min=0),
        "You took the norm over the batch: one distance per triplet, over the last axis": (
            (a - n).norm(dim=0) - (a - f).norm(dim=0) + margin
        ).clamp(min=0),
    }


@triplet.part("one loss per triplet")
def _(answer, draw) -> None:
    for dtype in DTYPES:
        batch, width = 6, int(draw.integers(2, 5))
        a, n, f = (draw_tensor(draw, batch, width, dtype=dtype) for _ in range(3))
        n[0], f[0] = a[0] + 3, a[0] + 0.5  # wrong: costs more than the margin
        n[1], f[1] = a[1] + 0.1, a[1] + 9  # right by more than the margin: costs nothing
        margin = float(draw.uniform(0.5, 1.5))
        compare(
            "triplet_loss(anchor, nearer, farther, margin)",
            answer(a, n, f, margin),
            ((a - n).norm(dim=1) - (a - f).norm(dim=1) + margin).clamp(min=0),
            mistakes=_triplet_mistakes(a, n, f, margin),
            atol=TOLERANCE[dtype],
        )


@triplet.part("points that fall together")
def _(answer, draw) -> None:
    a = draw_tensor(draw, 3, 2)
    margin = float(draw.uniform(0.5, 1.5))
    compare(
        "triplet_loss where all three are one point",
        answer(a, a.clone(), a.clone(), margin),
        torch.full((3,), margin, dtype=torch.float64),
        mistakes={
            "You forgot the margin: then all points may fall together at no cost": torch.zeros(
                3, dtype=torch.float64
            )
        },
    )
    points = [draw_tensor(draw, 4, 3) for _ in range(3)]
    a, n, f = (x.clone().requires_grad_() for x in points)
    margin = 40.0  # so large that every triplet costs something
    got = answer(a, n, f, margin)
    near, far = points[0] - points[1], points[0] - points[2]
    compare(
        "triplet_loss of points that carry a gradient",
        got,
        near.norm(dim=1) - far.norm(dim=1) + margin,
        mistakes=_triplet_mistakes(*points, margin),
        gradient=True,
    )
    to_near, to_far = (x / x.norm(dim=1, keepdim=True) for x in (near, far))
    found = torch.autograd.grad(got.sum(), (a, n, f), allow_unused=True)
    right = (to_near - to_far, -to_near, to_far)
    whys = ("it moves by both distances", "it must be pulled in", "it must be pushed away too")
    for name, gradient_of, push, why in zip(
        ("anchor", "nearer", "farther"), found, right, whys, strict=True
    ):
        hint = f"no gradient reaches the {name} point: {why}, so detach nothing"
        nothing = torch.zeros_like(push)
        compare(
            f"the gradient in {name}",
            nothing if gradient_of is None else gradient_of,
            push,
            mistakes={hint: nothing},
        )


# 3.9 · best of n and its KL ---------------------------------------------------------------------


def reference_best_of_n(scores: Tensor) -> tuple[Tensor, float]:
    """Return the index of each row's best score (B,), the first among equals, and the KL bound."""
    return scores.argmax(1), formulas.best_of_n_kl(scores.shape[1])


best = Exercise(
    "3.9",
    "Best of n, and what it costs in KL",
    function="best_of_n",
    reference=lambda: reference_best_of_n,
)


@best.part("the best of each row")
def _(answer, draw) -> None:
    scores = draw_tensor(draw, 5, int(draw.integers(4, 9)))
    scores[0] = -scores[0].abs() - 1  # the best of bad ones is still the best
    got = answer(scores)
    require(
        isinstance(got, (tuple, list)) and len(got) == 2,
        "return two things: the index of the best response for each prompt, and the KL bound",
    )
    compare(
        "the index of the best",
        got[0],
        scores.argmax(1),
        mistakes={
            "You returned the best scores: return their places, to pick the responses": scores.amax(
                1
            ),
            "You kept the worst: argmax, and not argmin": scores.argmin(1),
            "You took the best over prompts: scores has one ROW per prompt": scores.argmax(0),
            "You took the best of the whole batch: one per prompt": scores.argmax(),
            "You compared |scores|: a score below 0 is low": scores.abs().argmax(1),
            "You counted places from 1: the first is 0": scores.argmax(1) + 1,
        },
        dtype=False,
    )


@best.part("log n − (n − 1)/n")
def _(answer, draw) -> None:
    for n in (2, 1, int(draw.integers(5, 200))):
        scores = draw_tensor(draw, 3, n)
        compare(
            f"the KL bound of best of {n}",
            answer(scores)[1],
            math.log(n) - (n - 1) / n,
            mistakes={
                "You forgot −(n − 1)/n": math.log(n),
                "You added (n − 1)/n: subtract it": math.log(n) + (n - 1) / n,
                "log2 or log10 in place of log: KL here is in nats": math.log2(n) - (n - 1) / n,
                "log10 in place of log: KL here is in nats": math.log10(n) - (n - 1) / n,
                "You subtracted 1: the term is (n − 1)/n, which is 0 at n = 1": math.log(n) - 1,
                "You subtracted 1/n: the term is (n − 1)/n": math.log(n) - 1 / n,
                "You used the number of prompts: n is the number of responses to each": (
                    math.log(3) - 2 / 3
                ),
                "You used the number of all scores: n is the number of responses to each prompt": (
                    math.log(3 * n) - (3 * n - 1) / (3 * n)
                ),
                "You divided all of it by n: only n − 1 is": (math.log(n) - (n - 1)) / n,
                "You turned the fraction round: the term is (n − 1)/n": (
                    math.log(n) - n / max(n - 1, 1)
                ),
                "The sign: log n comes first, a KL is never negative": (n - 1) / n - math.log(n),
                "You summed over the prompts: the bound is that of one": 3
                * (math.log(n) - (n - 1) / n),
            },
            dtype=False,
        )


EXERCISES = [
    bradley_terry,
    gradient,
    ranking,
    plackett_luce,
    accuracy,
    calibration,
    centre,
    triplet,
    best,
]
