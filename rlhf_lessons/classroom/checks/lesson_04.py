"""The checks of lesson 4, the PPO objective.

Each exercise meets hidden inputs drawn fresh at every run: padded batches with arbitrary numbers in
the padding, ratios on both sides of the clip range with both signs of the advantage, log-probs near
−200 as rare tokens have them, responses of one token, float32 and float64. Each known mistake is
computed beside the right answer, so that a hint can name it. Left out on purpose: ratios exactly at
the edge of the clip range, where the objective has no gradient, and speed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rlhf_lessons import formulas
from rlhf_lessons.classroom.exercises import Exercise, compare, require

DTYPES = (torch.float32, torch.float64)
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}
CLOSE = {"atol": 1e-12, "rtol": 5e-7}  # float32 passes; the smallest mistake of 4.9 is larger
EDGE = 0.02  # how far drawn ratios stay away from the edges of the clip range


def draw_tensor(
    draw: np.random.Generator, *shape: int, scale: float = 1.0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Draw a tensor of independent normal numbers with standard deviation ``scale``."""
    return torch.from_numpy(scale * draw.standard_normal(shape)).to(dtype)


def draw_mask(draw: np.random.Generator, batch: int, length: int, shortest: int = 1) -> Tensor:
    """Draw a right-padded mask: one full row, one with two or more gaps, others of any length."""
    lengths = draw.integers(shortest, length, size=batch, endpoint=True)
    lengths[0], lengths[-1] = length, draw.integers(shortest, length - 2, endpoint=True)
    return torch.from_numpy(np.arange(length)[None, :] < draw.permutation(lengths)[:, None])


def cleared(values: Tensor, mask: Tensor) -> Tensor:
    """Return ``values`` where the mask counts and 0 elsewhere, whatever stood there (even NaN)."""
    return values.masked_fill(~mask, 0.0)


def spoiled(values: Tensor, mask: Tensor) -> Tensor:
    """Return ``values`` with NaN where the mask does not count."""
    return values.masked_fill(~mask, math.nan)


def slope(result: Tensor, inputs: Tensor) -> Tensor:
    """Return the gradient of the sum of ``result`` in ``inputs``, 0 where there is none."""
    if not (isinstance(result, Tensor) and result.requires_grad):
        return torch.zeros_like(inputs)
    (gradient,) = torch.autograd.grad(result.sum(), (inputs,), allow_unused=True, retain_graph=True)
    return torch.zeros_like(inputs) if gradient is None else gradient


def refuse_gradient(result: Tensor, inputs: Tensor, hint: str) -> None:
    """Ask that no gradient of ``result`` flows into ``inputs``."""
    require(not bool(slope(result, inputs).any()), hint)


def _last(mask: Tensor) -> Tensor:
    """Return a mask of the last counted token of each row."""
    places = torch.arange(mask.shape[1]).expand_as(mask)
    return mask & (places == mask.sum(1, keepdim=True) - 1)


def refuse_nan(what: str, result: object, hint: str) -> None:
    """Ask that no NaN of the padding has come through, wherever it ended up."""
    if isinstance(result, Tensor):
        require(not bool(result.isnan().any()), f"{what}: {hint}")


# 4.1 · the probability ratio --------------------------------------------------------------------


def reference_ratio(log_probs: Tensor, old_log_probs: Tensor) -> Tensor:
    """Return π/π_old with the denominator held fixed."""
    return formulas.ratio(log_probs, old_log_probs.detach())


ratio = Exercise(
    "4.1", "The probability ratio", function="ratio", reference=lambda: reference_ratio
)


def _ratio_mistakes(new: Tensor, old: Tensor) -> dict[str, Tensor]:
    return {
        "You returned the log-ratio: the ratio is its exponential": new - old,
        "You inverted the ratio: the policy in training is the numerator, π/π_old": (
            (old - new).exp()
        ),
        "You divided log-probabilities: a quotient of probabilities is the exponential of the "
        "DIFFERENCE of their logarithms": new / old,
        "You took the exponential of a quotient of logarithms: subtract them first": (
            (new / old).exp()
        ),
        "You returned the new probability: divide it by the old one": new.exp(),
        "You subtracted probabilities: the ratio divides them": new.exp() - old.exp(),
        "Every ratio is 1: you compared the new policy with itself; the denominator is "
        "old_log_probs": torch.ones_like(new),
        "You clipped: the ratio itself is asked for, the clip comes in exercise 4.5": (
            (new - old).exp().clamp(0.8, 1.2)
        ),
        "You multiplied the ratios of a response: return one ratio per token": (
            (new - old).sum(1, keepdim=True).exp().expand_as(new)
        ),
    }


@ratio.part("ratios of likely tokens, over a frozen denominator", points=1)
def _(answer, draw) -> None:
    for dtype in DTYPES:
        old = -draw_tensor(draw, 3, 5, dtype=dtype).abs() - 0.2
        new = (old + draw_tensor(draw, 3, 5, scale=0.5, dtype=dtype)).clamp(max=-0.05)
        new[0, 0] = old[0, 0]  # an unchanged token: ratio 1
        compare(
            "ratio(log_probs, old_log_probs)",
            answer(new, old),
            (new - old).exp(),
            mistakes=_ratio_mistakes(new, old),
            atol=TOLERANCE[dtype],
        )
    old = (-draw_tensor(draw, 2, 4).abs() - 0.5).requires_grad_(True)
    new = (old.detach() + draw_tensor(draw, 2, 4, scale=0.3)).requires_grad_(True)
    right = (new - old).exp().detach()
    got = answer(new, old)
    compare(
        "ratio(log_probs, old_log_probs)",
        got,
        right,
        mistakes=_ratio_mistakes(new.detach(), old.detach()),
        gradient=True,
    )
    compare(
        "the gradient of the ratio in log_probs (it is the ratio itself)",
        slope(got, new),
        right,
        mistakes={
            "No gradient reaches log_probs: the numerator is what is trained; detach the "
            "denominator alone": torch.zeros_like(right)
        },
    )
    refuse_gradient(
        got,
        old,
        "A gradient flows into old_log_probs: the denominator is frozen, use "
        "old_log_probs.detach()",
    )


@ratio.part("tokens that are hardly ever said", points=1)
def _(answer, draw) -> None:
    old = -draw_tensor(draw, 3, 4, dtype=torch.float32).abs() - 150.0
    new = old + draw_tensor(draw, 3, 4, scale=0.4, dtype=torch.float32)
    compare(
        "ratio of log-probabilities near −150",
        answer(new, old),
        (new - old).exp(),
        mistakes={
            "You took exponentials before dividing: exp(−150) is 0 in float32, and 0/0 is NaN; "
            "subtract the logarithms first": new.exp() / old.exp(),
            "You took exponentials before dividing: they underflow; subtract logarithms first": (
                new.exp() / (old.exp() + 1e-8)
            ),
            **_ratio_mistakes(new, old),
        },
        atol=1e-4,
    )


# 4.2 · generalized advantage estimation ---------------------------------------------------------

gae = Exercise(
    "4.2",
    "Generalized advantage estimation",
    function="gae",
    reference=lambda: formulas.gae,
)


def _walk(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    step: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """Go backwards through each row; ``step(r_t, V_t, V_{t+1}, A_{t+1})`` gives A_t."""
    advantages = torch.zeros_like(rewards)
    for row in range(len(rewards)):
        later = next_value = rewards.new_zeros(())
        for t in reversed(range(int(mask[row].sum()))):
            later = step(rewards[row, t], values[row, t], next_value, later)
            next_value = values[row, t]
            advantages[row, t] = later
    return advantages


def _gae_mistakes(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> dict[str, object]:
    def walk(step):
        return lambda: _walk(rewards, values, mask, step)

    full = torch.ones_like(mask)
    before = cleared(values, mask)
    after = torch.cat([before[:, 1:], torch.zeros_like(before[:, :1])], dim=1)
    forward, carried = [], torch.zeros_like(before[:, 0])
    for r, v, n in zip(cleared(rewards, mask).T, before.T, after.T, strict=True):
        carried = r + gamma * n - v + gamma * lam * carried
        forward.append(carried)
    right = _walk(rewards, values, mask, lambda r, v, n, a: r + gamma * n - v + gamma * lam * a)
    deltas = _walk(rewards, values, mask, lambda r, v, n, a: r + gamma * n - v)
    return {
        "You left γ out of the recursion: A_t = δ_t + γ·λ·A_{t+1}": walk(
            lambda r, v, n, a: r + gamma * n - v + lam * a
        ),
        "You left λ out of the recursion: A_t = δ_t + γ·λ·A_{t+1}": walk(
            lambda r, v, n, a: r + gamma * n - v + gamma * a
        ),
        "You left γ out of δ: δ_t = r_t + γ·V_{t+1} − V_t": walk(
            lambda r, v, n, a: r + n - v + gamma * lam * a
        ),
        "You returned the TD errors δ: they still have to be added up, A_t = δ_t + γ·λ·A_{t+1}": (
            deltas
        ),
        "You returned advantage + value: that is the return; GAE gives A alone": cleared(
            right + values, mask
        ),
        "You left γ out everywhere: δ_t = r_t + γ·V_{t+1} − V_t and A_t = δ_t + γ·λ·A_{t+1}": walk(
            lambda r, v, n, a: r + n - v + lam * a
        ),
        "You weighed what comes by γ·(1 − λ): its weight is γ·λ": walk(
            lambda r, v, n, a: r + gamma * n - v + gamma * (1 - lam) * a
        ),
        "Your V_{t+1} is V_t: compute δ_t first, and only then carry values[:, t] on": walk(
            lambda r, v, n, a: r + gamma * v - v + gamma * lam * a
        ),
        "You walked forwards: A_t needs A_{t+1}, so begin at the last token": cleared(
            torch.stack(forward, dim=1), mask
        ),
        "You left out the last column: reversed(range(T)) begins at T − 1": lambda: _walk(
            rewards,
            values,
            mask & (torch.arange(mask.shape[1]) < mask.shape[1] - 1),
            lambda r, v, n, a: r + gamma * n - v + gamma * lam * a,
        ),
        "You took the last value as the one that comes after it: V = 0 after the last token": (
            lambda: _walk(
                torch.where(_last(mask), rewards + gamma * values, rewards),
                values,
                mask,
                lambda r, v, n, a: r + gamma * n - v + gamma * lam * a,
            )
        ),
        "The sign of V_t: an advantage is what came MINUS what was expected": walk(
            lambda r, v, n, a: r + gamma * n + v + gamma * lam * a
        ),
        "The sign of V_{t+1}: δ_t = r_t + γ·V_{t+1} − V_t": walk(
            lambda r, v, n, a: r - gamma * n - v + gamma * lam * a
        ),
        "You left V_{t+1} out of δ: δ_t = r_t + γ·V_{t+1} − V_t": walk(
            lambda r, v, n, a: r - v + gamma * lam * a
        ),
        "You subtracted the value from the reward alone and not from what comes: with λ you must "
        "weigh δ, not returns": walk(lambda r, v, n, a: r + gamma * lam * a),
        "You left numbers in the padding: 0 where the mask is False": lambda: _walk(
            cleared(rewards, mask),
            cleared(values, mask),
            full,
            lambda r, v, n, a: r + gamma * n - v + gamma * lam * a,
        ),
    }


@gae.part("one response by hand", points=1)
def _(answer, draw) -> None:
    gamma, lam = float(draw.uniform(0.7, 0.95)), float(draw.uniform(0.4, 0.9))
    for length in (int(draw.integers(4, 7)), 1):
        rewards, values = draw_tensor(draw, 1, length), draw_tensor(draw, 1, length)
        mask = torch.ones(1, length, dtype=torch.bool)
        compare(
            "gae(rewards, values, mask, gamma, lam)",
            answer(rewards, values, mask, gamma, lam),
            _walk(rewards, values, mask, lambda r, v, n, a: r + gamma * n - v + gamma * lam * a),
            mistakes=_gae_mistakes(rewards, values, mask, gamma, lam),
        )


@gae.part("λ = 0 looks one step ahead, λ = 1 to the end", points=1)
def _(answer, draw) -> None:
    for lam in (0.0, 1.0):
        rewards, values = draw_tensor(draw, 3, 6), draw_tensor(draw, 3, 6)
        mask = draw_mask(draw, 3, 6)
        rewards, values = cleared(rewards, mask), cleared(values, mask)
        gamma = float(draw.uniform(0.7, 1.0))
        if lam == 0:
            right = _walk(rewards, values, mask, lambda r, v, n, a: r + gamma * n - v)  # noqa: B023
        else:
            returns = formulas.discounted_returns(rewards, mask, gamma)
            right = cleared(returns - values, mask)
        compare(
            f"gae with λ = {lam:g}",
            answer(rewards, values, mask, gamma, lam),
            right,
            mistakes=_gae_mistakes(rewards, values, mask, gamma, lam),
        )


@gae.part("a padded batch, numbers in the padding", points=2)
def _(answer, draw) -> None:
    for dtype in DTYPES:
        rewards = draw_tensor(draw, 4, 7, dtype=dtype)
        values = draw_tensor(draw, 4, 7, dtype=dtype)
        mask = draw_mask(draw, 4, 7)
        gamma, lam = float(draw.uniform(0.8, 1.0)), float(draw.uniform(0.5, 0.95))
        right = _walk(
            rewards,
            values,
            mask,
            lambda r, v, n, a: r + gamma * n - v + gamma * lam * a,  # noqa: B023
        )
        empty = answer(cleared(rewards, mask), cleared(values, mask), mask, gamma, lam)
        rewards = rewards.masked_fill(~mask, 5.0)
        values = values.masked_fill(~mask, -3.0)
        got = answer(rewards, values, mask, gamma, lam)
        if all(isinstance(x, Tensor) and x.shape == mask.shape for x in (empty, got)):
            require(
                torch.allclose(got[mask], empty[mask], atol=TOLERANCE[dtype], equal_nan=True),
                "The padding leaks in: with other numbers behind a response's last token its "
                "advantages change; start anew at the last counted token, with V = A = 0 after it",
            )
        compare(
            "gae of a padded batch",
            got,
            right,
            mistakes=_gae_mistakes(rewards, values, mask, gamma, lam),
            atol=TOLERANCE[dtype],
        )
    got = answer(spoiled(rewards, mask), spoiled(values, mask), mask, gamma, lam)
    refuse_nan(
        "gae with NaN in the padding",
        got,
        "NaN · 0 is NaN: clear the padding with torch.where or masked_fill, not with a product",
    )
    compare("gae with NaN in the padding", got, right, atol=TOLERANCE[dtype])


# 4.3 · the value loss ---------------------------------------------------------------------------

clipped_value_loss = Exercise(
    "4.3",
    "The clipped value loss",
    function="clipped_value_loss",
    reference=lambda: formulas.clipped_value_loss,
)


def _value_mistakes(
    values: Tensor, old: Tensor, returns: Tensor, epsilon: float
) -> dict[str, Tensor]:
    clipped = torch.clamp(values, old - epsilon, old + epsilon)
    free, held = (values - returns).square(), (clipped - returns).square()
    right = 0.5 * torch.maximum(free, held)
    return {
        "The ½ is missing: with it the gradient is V − R": 2 * right,
        "You did not clip around the OLD VALUE (or around something else): this is the plain "
        "½(V − R)², one of the two terms": 0.5 * free,
        "You took the clipped term alone: where clipping makes the loss SMALLER it would hide an "
        "error; take the larger of the two": 0.5 * held,
        "You took the smaller of the two: pessimism for a loss is the maximum": (
            0.5 * torch.minimum(free, held)
        ),
        "You clipped the ratio V/V_old: values are clipped by a distance, not a ratio": (
            0.5
            * torch.maximum(
                free, (old * (values / old).clamp(1 - epsilon, 1 + epsilon) - returns).square()
            )
        ),
        "You clipped V to ±ε: the range lies around the old value": 0.5
        * torch.maximum(free, (values.clamp(-epsilon, epsilon) - returns).square()),
        "You clipped the error V − R: clip V, around the old value": (
            0.5 * (values - returns).clamp(-epsilon, epsilon).square()
        ),
        "You took the larger of two values or errors and squared then: square both, then compare": (
            0.5 * torch.maximum(values - returns, clipped - returns).square()
        ),
        "You took the absolute error: the loss is a square": torch.maximum(
            (values - returns).abs(), (clipped - returns).abs()
        ),
        "You averaged: return one loss per token (B, T), the loop averages over what counts": (
            right.mean()
        ),
        "You summed: return one loss per token (B, T), the loop averages over what counts": (
            right.sum()
        ),
        "You added the two terms: take the larger": 0.5 * (free + held),
    }


def _draw_values(
    draw: np.random.Generator, epsilon: float, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw values inside and outside of the clip range, on both sides of the return."""
    old = draw_tensor(draw, 4, 6, dtype=dtype)
    away = torch.from_numpy(draw.choice([-2.5, -0.5, 0.5, 2.5], size=(4, 6)))
    away[0, :4] = torch.tensor([-2.5, -0.5, 0.5, 2.5])
    values = old + epsilon * away.to(dtype)
    returns = values + 2.0 * draw_tensor(draw, 4, 6, dtype=dtype)
    returns[0, :4] = values[0, :4] + torch.tensor([2.0, 1.0, -1.0, 2.0], dtype=dtype)
    returns[0, 3] = old[0, 3]
    return values, old, returns


@clipped_value_loss.part("inside and outside of the range", points=2)
def _(answer, draw) -> None:
    for dtype in DTYPES:
        epsilon = float(draw.uniform(0.1, 0.6))
        values, old, returns = _draw_values(draw, epsilon, dtype)
        clipped = torch.clamp(values, old - epsilon, old + epsilon)
        compare(
            "clipped_value_loss(values, old_values, returns, epsilon)",
            answer(values, old, returns, epsilon),
            0.5 * torch.maximum((values - returns).square(), (clipped - returns).square()),
            mistakes=_value_mistakes(values, old, returns, epsilon),
            atol=TOLERANCE[dtype],
        )


@clipped_value_loss.part("its gradient", points=1)
def _(answer, draw) -> None:
    epsilon = float(draw.uniform(0.1, 0.6))
    values, old, returns = (x.requires_grad_(True) for x in _draw_values(draw, epsilon))
    got = answer(values, old, returns, epsilon)
    fixed_values, fixed_old, fixed_returns = (x.detach() for x in (values, old, returns))
    clipped = torch.clamp(fixed_values, fixed_old - epsilon, fixed_old + epsilon)
    free, held = (fixed_values - fixed_returns).square(), (clipped - fixed_returns).square()
    compare(
        "clipped_value_loss(values, old_values, returns, epsilon)",
        got,
        0.5 * torch.maximum(free, held),
        mistakes=_value_mistakes(fixed_values, fixed_old, fixed_returns, epsilon),
        gradient=True,
    )
    error = fixed_values - fixed_returns
    compare(
        "the gradient in the values (V − R, and 0 where the clipped term is the larger)",
        slope(got, values),
        error.masked_fill((held > free) & (clipped != fixed_values), 0.0),
        mistakes={
            "No gradient reaches the values: they are what is trained": torch.zeros_like(error)
        },
    )
    refuse_gradient(
        got, returns, "A gradient flows into the returns: they are the target, use returns.detach()"
    )
    refuse_gradient(
        got,
        old,
        "A gradient flows into old_values: they say where the range lies, use old_values.detach()",
    )


# 4.4 · whitening --------------------------------------------------------------------------------


def reference_whiten(x: Tensor, mask: Tensor) -> Tensor:
    """Return x with mean 0 and variance 1 over what counts, 0 elsewhere."""
    return formulas.whiten(x, mask)


whiten = Exercise("4.4", "Whitening", function="whiten", reference=lambda: reference_whiten)


def _whiten_mistakes(x: Tensor, mask: Tensor) -> dict[str, Tensor]:
    counted = x[mask]
    mean, deviation = counted.mean(), (counted.var() + 1e-8).sqrt()
    kept = cleared(x, mask)
    row_count = mask.sum(1, keepdim=True).clamp(min=2)
    row_mean = kept.sum(1, keepdim=True) / mask.sum(1, keepdim=True)
    row_variance = cleared((x - row_mean).square(), mask).sum(1, keepdim=True) / (row_count - 1)
    every = torch.ones_like(mask)
    return {
        "You added the mean back: advantages shall have mean 0": cleared(
            (x - mean) / deviation + mean, mask
        ),
        "You did not subtract the mean": cleared(x / deviation, mask),
        "You did not scale: divide by the standard deviation": cleared(x - mean, mask),
        "You divided by the variance: take its square root": cleared(
            (x - mean) / counted.var(), mask
        ),
        "The padding counts in your mean and deviation: use the mask": cleared(
            (x - x[every].mean()) / (x[every].var() + 1e-8).sqrt(), mask
        ),
        "The padding counts as zeros in your mean and deviation: use counted tokens alone": cleared(
            (kept - kept.mean()) / (kept.var() + 1e-8).sqrt(), mask
        ),
        "You left numbers in the padding: 0 where the mask is False": (x - mean) / deviation,
        "You whitened each response by itself: that wipes out which response was better; use one "
        "mean and deviation for the whole batch": cleared(
            (x - row_mean) / (row_variance + 1e-8).sqrt(), mask
        ),
        "You divided by N instead of N − 1: a sample's variance needs Bessel's correction": cleared(
            (x - mean) / (counted.var(correction=0) + 1e-8).sqrt(), mask
        ),
        "You mapped to [0, 1]: subtract the mean, divide by the standard deviation": cleared(
            (x - counted.min()) / (counted.max() - counted.min() + 1e-8), mask
        ),
    }


@whiten.part("mean 0 and variance 1 over what counts", points=1)
def _(answer, draw) -> None:
    for dtype in DTYPES:
        mask = draw_mask(draw, 4, 6, shortest=2)
        x = 3.0 * draw_tensor(draw, 4, 6, dtype=dtype) + float(draw.uniform(1, 4))
        x = x + 2.0 * draw_tensor(draw, 4, 1, dtype=dtype)
        counted = x[mask]
        compare(
            "whiten(x, mask)",
            answer(x, mask),
            cleared((x - counted.mean()) / (counted.var() + 1e-8).sqrt(), mask),
            mistakes=_whiten_mistakes(x, mask),
            atol=TOLERANCE[dtype],
        )


@whiten.part("numbers in the padding, and nothing to whiten", points=1)
def _(answer, draw) -> None:
    mask = draw_mask(draw, 4, 6, shortest=2)
    clean = draw_tensor(draw, 4, 6) - 2.0
    counted = clean[mask]
    got = answer(spoiled(clean, mask), mask)
    refuse_nan(
        "whiten with NaN in the padding",
        got,
        "NaN · 0 is NaN: take the counted tokens with x[mask], and write 0 into the padding with "
        "masked_fill",
    )
    compare(
        "whiten with NaN in the padding",
        got,
        cleared((clean - counted.mean()) / (counted.var() + 1e-8).sqrt(), mask),
        mistakes=_whiten_mistakes(clean, mask),
    )
    same = torch.full((3, 4), float(draw.integers(1, 4)), dtype=torch.float64)
    every = torch.ones(3, 4, dtype=torch.bool)
    compare(
        "whiten of equal numbers (nothing is better than anything)",
        answer(same, every),
        torch.zeros_like(same),
        mistakes={
            "Equal numbers have deviation 0, and 0/0 is NaN: add 1e-8 to the variance before its "
            "root": torch.full_like(same, math.nan)
        },
        atol=1e-3,
    )


# 4.5 · the clipped policy loss ------------------------------------------------------------------

ppo_policy_loss = Exercise(
    "4.5",
    "The clipped policy loss",
    function="ppo_policy_loss",
    reference=lambda: formulas.ppo_policy_loss,
)


def _policy_mistakes(
    new: Tensor, old: Tensor, advantages: Tensor, epsilon: float
) -> dict[str, Tensor]:
    rho = (new - old).exp()
    clipped = rho.clamp(1 - epsilon, 1 + epsilon)
    right = torch.maximum(-advantages * rho, -advantages * clipped)
    log_ratio = (new - old).clamp(-epsilon, epsilon)
    inverse = 1 / rho
    return {
        "The sign: PPO maximises min(A·ρ, A·clip(ρ)), so the LOSS is its negative": -right,
        "You did not clip: −A·ρ alone rewards any distance": -advantages * rho,
        "You took the clipped term alone: then a mistake outside of the range gets no gradient and "
        "stays; take the more pessimistic of the two": -advantages * clipped,
        "You took the more hopeful of the two: min of the objectives is the MAX of the losses": (
            torch.minimum(-advantages * rho, -advantages * clipped)
        ),
        "You clipped the log-ratio: the range 1 ± ε is one of ratios": torch.maximum(
            -advantages * rho, -advantages * log_ratio.exp()
        ),
        "You clipped on one side alone: the range ends at 1 − ε too": torch.maximum(
            -advantages * rho, -advantages * rho.clamp(max=1 + epsilon)
        ),
        "You set the loss to 0 outside of the range: there the gradient may be 0, and only on one "
        "side; take the min of the two terms": -advantages * rho * (rho == clipped),
        "You used ε = 0.2: take the argument epsilon": torch.maximum(
            -advantages * rho, -advantages * rho.clamp(0.8, 1.2)
        ),
        "You clipped to ±ε: the range lies around 1, from 1 − ε to 1 + ε": torch.maximum(
            -advantages * rho, -advantages * rho.clamp(-epsilon, epsilon)
        ),
        "You clipped the objective A·ρ: clip the ratio, then multiply": torch.maximum(
            -advantages * rho, -(advantages * rho).clamp(1 - epsilon, 1 + epsilon)
        ),
        "You inverted the ratio: the policy in training is the numerator": torch.maximum(
            -advantages * inverse, -advantages * inverse.clamp(1 - epsilon, 1 + epsilon)
        ),
        "You took the smaller ratio first and multiplied then: for a negative advantage the order "
        "turns round; multiply before you compare": -advantages * torch.minimum(rho, clipped),
        "You averaged: return one loss per token (B, T), the loop averages over what counts": (
            right.mean()
        ),
        "You summed: return one loss per token (B, T), the loop averages over what counts": (
            right.sum()
        ),
        "You used log-probabilities where ratios belong: −A·log π is REINFORCE's loss": (
            -advantages * new
        ),
    }


def _draw_ratios(
    draw: np.random.Generator, epsilon: float, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw log-probs whose ratios meet all four quadrants and the middle, off the edges."""
    inside = draw.uniform(1 - epsilon + EDGE, 1 + epsilon - EDGE, size=(4, 6))
    above = draw.uniform(1 + epsilon + EDGE, 2.5, size=(4, 6))
    below = draw.uniform(0.2, 1 - epsilon - EDGE, size=(4, 6))
    which = draw.integers(0, 3, size=(4, 6))
    which[0] = [0, 0, 1, 1, 2, 2]
    rho = np.choose(which, [inside, above, below])
    advantages = draw.uniform(0.3, 3.0, size=(4, 6)) * draw.choice([-1, 1], size=(4, 6))
    advantages[0] = np.abs(advantages[0]) * [1, -1, 1, -1, 1, -1]
    old = -np.abs(draw.normal(size=(4, 6))) - 1.2
    new = old + np.log(rho)
    return tuple(torch.from_numpy(x).to(dtype) for x in (new, old, advantages))


@ppo_policy_loss.part("all four quadrants and the middle", points=2)
def _(answer, draw) -> None:
    for dtype in DTYPES:
        epsilon = float(draw.uniform(0.1, 0.4))
        new, old, advantages = _draw_ratios(draw, epsilon, dtype)
        rho = (new - old).exp()
        compare(
            "ppo_policy_loss(log_probs, old_log_probs, advantages, epsilon)",
            answer(new, old, advantages, epsilon),
            torch.maximum(-advantages * rho, -advantages * rho.clamp(1 - epsilon, 1 + epsilon)),
            mistakes=_policy_mistakes(new, old, advantages, epsilon),
            atol=TOLERANCE[dtype],
        )


@ppo_policy_loss.part("where its gradient is 0, and where it is not", points=1)
def _(answer, draw) -> None:
    epsilon = float(draw.uniform(0.1, 0.4))
    new, old, advantages = (x.requires_grad_(True) for x in _draw_ratios(draw, epsilon))
    got = answer(new, old, advantages, epsilon)
    fixed = [x.detach() for x in (new, old, advantages)]
    rho, weight = (fixed[0] - fixed[1]).exp(), fixed[2]
    compare(
        "ppo_policy_loss(log_probs, old_log_probs, advantages, epsilon)",
        got,
        torch.maximum(-weight * rho, -weight * rho.clamp(1 - epsilon, 1 + epsilon)),
        mistakes=_policy_mistakes(*fixed, epsilon),
        gradient=True,
    )
    free = -weight * rho
    clipped = ((weight > 0) & (rho > 1 + epsilon)) | ((weight < 0) & (rho < 1 - epsilon))
    compare(
        "the gradient in log_probs (−A·ρ, and exactly 0 where the clip has its say)",
        slope(got, new),
        free.masked_fill(clipped, 0.0),
        mistakes={
            "No gradient reaches log_probs: the numerator is what is trained": torch.zeros_like(
                free
            ),
            "Your clip lets the gradient through: clamp the ratio itself": free,
        },
    )
    refuse_gradient(
        got, old, "A gradient flows into old_log_probs: they are frozen, use old_log_probs.detach()"
    )
    refuse_gradient(
        got,
        advantages,
        "A gradient flows into the advantages: they are numbers that were estimated, use "
        "advantages.detach()",
    )


# 4.6 · entropy ----------------------------------------------------------------------------------

entropy = Exercise("4.6", "Entropy", function="entropy", reference=lambda: formulas.entropy)


def _right_entropy(logits: Tensor) -> Tensor:
    log_p = logits.log_softmax(-1)
    return -torch.where(log_p == -math.inf, 0.0, log_p.exp() * log_p.clamp(min=-1e30)).sum(-1)


def _entropy_mistakes(logits: Tensor) -> dict[str, Tensor]:
    right = _right_entropy(logits)
    log_p = logits.log_softmax(-1)
    return {
        "The sign: log p is negative, so entropy needs a minus to be positive": -right,
        "You averaged over the vocabulary: sum −p·log p over all tokens": right / logits.shape[-1],
        "You counted in bits: the course counts in nats, natural logarithm": right / math.log(2),
        "You weighed all tokens alike: each −log p counts with its probability p": -log_p.sum(-1),
        "You returned −log p of the likeliest token: entropy is a mean over all tokens": (
            -log_p.amax(-1)
        ),
        "Your softmax runs over another axis: normalise over the vocabulary, the last one": (
            -(logits.log_softmax(1).exp() * logits.log_softmax(1)).sum(-1)
        ),
        "You used raw logits as log-probabilities: subtract log Σ exp first (log_softmax)": (
            -(logits.softmax(-1) * logits).sum(-1)
        ),
        "You averaged over the batch: return one entropy per position": right.mean(),
        "You normalised by log V: the entropy asked for is in nats, not a share of its maximum": (
            right / math.log(logits.shape[-1])
        ),
    }


@entropy.part("one entropy per position", points=1)
def _(answer, draw) -> None:
    for dtype in DTYPES:
        logits = draw_tensor(draw, 3, 5, 7, scale=2.0, dtype=dtype)
        logits[0, 0] = 0.0  # undecided: log V
        compare(
            "entropy(logits)",
            answer(logits),
            _right_entropy(logits),
            mistakes=_entropy_mistakes(logits),
            atol=TOLERANCE[dtype],
        )


@entropy.part("sure choices and forbidden tokens", points=1)
def _(answer, draw) -> None:
    logits = draw_tensor(draw, 3, 5, 6, scale=3.0)
    logits[0] *= 400.0  # sure
    logits[1, :, 0] = -math.inf  # forbidden
    p = logits.softmax(-1)
    compare(
        "entropy of sure choices, and of choices with a forbidden token (logit −∞)",
        answer(logits),
        _right_entropy(logits),
        mistakes={
            "0 · log 0 is NaN for a computer and 0 in the limit: a token that never comes adds "
            "nothing; clear it with torch.where or masked_fill": -(p * p.log()).sum(-1),
            "0 · (−∞) is NaN: a forbidden token adds nothing; clear it with torch.where or "
            "masked_fill": -(p * logits.log_softmax(-1)).sum(-1),
            "You added a small number inside the logarithm: it changes the entropy; use "
            "log_softmax and clear what has probability 0": -(p * (p + 1e-3).log()).sum(-1),
            **_entropy_mistakes(logits),
        },
    )


@entropy.part("its gradient, forbidden tokens included", points=1)
def _(answer, draw) -> None:
    for forbidden in (False, True):
        fixed = draw_tensor(draw, 2, 4, 5)
        if forbidden:
            fixed[1, :, 0] = -math.inf
        logits = fixed.clone().requires_grad_(True)
        got = answer(logits)
        right, p = _right_entropy(fixed), fixed.softmax(-1)
        compare("entropy(logits)", got, right, mistakes=_entropy_mistakes(fixed), gradient=True)
        gradient = slope(got, logits)
        refuse_nan(
            "the gradient where a token is forbidden (logit −∞)",
            gradient,
            "the entropy is right, and one step with this gradient would break every weight: the "
            "logarithm has no slope at 0. Clear log p where p = 0 BEFORE the product, and take it "
            "from log_softmax",
        )
        compare(
            "the gradient in the logits, −p·(log p + H)",
            gradient,
            -p * (fixed.log_softmax(-1).masked_fill(p == 0, 0.0) + right.unsqueeze(-1)),
            mistakes={
                "The gradient is cut: neither the probabilities nor their logarithms may be "
                "detached": slope(
                    -(p * logits.log_softmax(-1).masked_fill(p == 0, 0.0)).sum(-1), logits
                ),
            },
        )


# 4.7 · the total --------------------------------------------------------------------------------

ppo_total_loss = Exercise(
    "4.7",
    "The total",
    function="ppo_total_loss",
    reference=lambda: formulas.ppo_total_loss,
)


def _mean(x: Tensor, mask: Tensor) -> Tensor:
    return cleared(x, mask).sum() / mask.sum()


def _total_mistakes(
    policy: Tensor, value: Tensor, spread: Tensor, mask: Tensor, c1: float, c2: float
) -> dict[str, Tensor]:
    p, v, h = (_mean(x, mask) for x in (policy, value, spread))

    def rows(x: Tensor) -> Tensor:
        return (cleared(x, mask).sum(1) / mask.sum(1)).mean()

    kept = [cleared(x, mask) for x in (policy, value, spread)]
    return {
        "The sign of the entropy: the loss falls when the entropy RISES, so − c2 · entropy": (
            p + c1 * v + c2 * h
        ),
        "The sign of the value loss: both losses are to be made small, so + c1 · value loss": (
            p - c1 * v - c2 * h
        ),
        "You wrote the objective: the loss is its negative": -(p + c1 * v - c2 * h),
        "You turned the sign of the policy loss: policy_losses are losses already": (
            -p + c1 * v - c2 * h
        ),
        "You kept the objective's signs: the policy loss, too, is a loss already; only the "
        "entropy has a minus": p - c1 * v + c2 * h,
        "The coefficients are swapped: c1 weighs the value loss, c2 the entropy": (
            p + c2 * v - c1 * h
        ),
        "You left the coefficients out: c1 · value loss, c2 · entropy": p + v - h,
        "You left the entropy out": p + c1 * v,
        "You left the value loss out": p - c2 * h,
        "The padding counts: take the mean over counted tokens alone": (
            policy.mean() + c1 * value.mean() - c2 * spread.mean()
        ),
        "You divided by all positions: divide by the number of counted tokens": (
            kept[0].mean() + c1 * kept[1].mean() - c2 * kept[2].mean()
        ),
        "You took a mean of each response's mean: then a token in a short response weighs more; "
        "take one mean over all counted tokens": rows(policy)
        + c1 * rows(value)
        - c2 * rows(spread),
        "You summed over the tokens: take the mean, or long responses raise the step size": (
            (p + c1 * v - c2 * h) * mask.sum()
        ),
        "You divided by the number of responses: divide by the number of counted tokens": (
            (p + c1 * v - c2 * h) * mask.sum() / len(mask)
        ),
    }


@ppo_total_loss.part("the weighted sum of three means", points=1)
def _(answer, draw) -> None:
    for dtype in DTYPES:
        mask = draw_mask(draw, 4, 6)
        policy = draw_tensor(draw, 4, 6, dtype=dtype) + 1.0
        value = draw_tensor(draw, 4, 6, dtype=dtype).square() + 0.5
        spread = draw_tensor(draw, 4, 6, dtype=dtype).abs() + 1.0
        c1, c2 = float(draw.uniform(0.1, 0.6)), float(draw.uniform(1.2, 2.0))
        compare(
            "ppo_total_loss(policy_losses, value_losses, entropies, mask, c1, c2)",
            answer(policy, value, spread, mask, c1, c2),
            _mean(policy, mask) + c1 * _mean(value, mask) - c2 * _mean(spread, mask),
            mistakes=_total_mistakes(policy, value, spread, mask, c1, c2),
            atol=TOLERANCE[dtype],
        )


@ppo_total_loss.part("numbers in the padding, and the gradient", points=1)
def _(answer, draw) -> None:
    mask = draw_mask(draw, 4, 6)
    clean = [draw_tensor(draw, 4, 6) + 1.0 for _ in range(3)]
    terms = [spoiled(x, mask).requires_grad_(True) for x in clean]
    c1, c2 = float(draw.uniform(0.1, 0.6)), float(draw.uniform(1.2, 2.0))
    got = answer(*terms, mask, c1, c2)
    refuse_nan(
        "ppo_total_loss with NaN in the padding",
        got,
        "NaN · 0 is NaN: clear the padding with masked_fill, or take x[mask]",
    )
    compare(
        "ppo_total_loss with NaN in the padding",
        got,
        _mean(clean[0], mask) + c1 * _mean(clean[1], mask) - c2 * _mean(clean[2], mask),
        mistakes=_total_mistakes(*clean, mask, c1, c2),
        gradient=True,
    )
    share = mask.double() / mask.sum()
    for name, term, weight in zip(
        ("policy_losses", "value_losses", "entropies"), terms, (1.0, c1, -c2), strict=True
    ):
        compare(
            f"the gradient in {name}",
            slope(got, term),
            weight * share,
            mistakes={
                f"No gradient reaches {name}: nothing may be detached here, all three are "
                f"trained": torch.zeros_like(share)
            },
        )


# 4.8 · KL-shaped rewards ------------------------------------------------------------------------

kl_shaped_rewards = Exercise(
    "4.8",
    "KL-shaped rewards",
    function="kl_shaped_rewards",
    reference=lambda: formulas.kl_shaped_rewards,
)


def _shaped(scores: Tensor, kl: Tensor, mask: Tensor, beta: float) -> Tensor:
    return cleared(torch.where(_last(mask), scores.unsqueeze(1), 0.0) - beta * kl, mask)


def _shaping_mistakes(scores: Tensor, kl: Tensor, mask: Tensor, beta: float) -> dict[str, Tensor]:
    column, last = scores.unsqueeze(1), _last(mask)
    paid = cleared(-beta * kl, mask)
    at_end = torch.where(last, column, 0.0)
    final = torch.zeros_like(kl)
    final[:, -1] = scores
    first = torch.zeros_like(kl)
    first[:, 0] = scores
    early = torch.zeros_like(kl)
    early[:, :-1] = at_end[:, 1:]
    lengths = mask.sum(1, keepdim=True)
    crossed = torch.zeros_like(kl)
    crossed[:, lengths[:, 0] - 1] = scores  # two rows of one length: the later score stands
    whole = cleared(kl, mask).sum(1, keepdim=True)
    return {
        "The sign of the KL: leaving the reference COSTS, so −β·kl": at_end - paid,
        "You left β out: the price is β per nat": at_end - cleared(kl, mask),
        "You left the score out": paid,
        "You left the KL out": at_end,
        "You gave the score to every token: it belongs to the last counted one": cleared(
            column - beta * kl, mask
        ),
        "You spread the score over the tokens: it belongs to the last counted one": cleared(
            column / lengths - beta * kl, mask
        ),
        "You put the score into the last column: where a response is shorter that is padding; find "
        "the last counted token": paid + final,
        "You put the score on the first token: it comes when the response is complete": paid
        + first,
        "You put the score one token early: the last counted token is at length − 1": paid + early,
        "You paid the whole response's KL at the end: each token pays its own": torch.where(
            last, column - beta * whole, 0.0
        ),
        "You multiplied the score by β too: β is the price of the KL alone": paid + beta * at_end,
        "You left numbers in the padding: 0 where the mask is False": at_end - beta * kl,
        "The last token pays its KL too: add the score to −β·kl, don't overwrite it": torch.where(
            last, column, paid
        ),
        "You multiplied score and KL: the KL's price is subtracted": cleared(
            -beta * kl * column, mask
        ),
        "The score stands in other rows' columns: `rewards[:, last]` takes every row; pair rows "
        "with columns, `rewards[torch.arange(B), last]`": paid + crossed,
        "You made the KL of each token positive: an estimate may be negative, and only the sum is "
        "right on average": at_end - beta * cleared(kl.abs(), mask),
        "You cut negative KL estimates to 0: they belong to the sum, which is right on average": (
            at_end - beta * cleared(kl.clamp(min=0), mask)
        ),
        "You divided the KL by the length: each token pays its whole share": at_end
        + paid / lengths,
    }


@kl_shaped_rewards.part("the score at the end, the price at each token", points=2)
def _(answer, draw) -> None:
    for dtype in DTYPES:
        mask = draw_mask(draw, 4, 6, shortest=2)
        scores = draw_tensor(draw, 4, dtype=dtype) + 2.0
        kl = draw_tensor(draw, 4, 6, dtype=dtype)
        beta = float(draw.uniform(0.1, 0.8))
        compare(
            "kl_shaped_rewards(scores, kl, mask, beta)",
            answer(scores, kl, mask, beta),
            _shaped(scores, kl, mask, beta),
            mistakes=_shaping_mistakes(scores, kl, mask, beta),
            atol=TOLERANCE[dtype],
        )


@kl_shaped_rewards.part("responses of one token, numbers in the padding, β = 0", points=1)
def _(answer, draw) -> None:
    mask = draw_mask(draw, 4, 6)
    mask[1] = torch.arange(6) < 1
    scores, clean = draw_tensor(draw, 4) - 1.0, draw_tensor(draw, 4, 6)
    for beta in (float(draw.uniform(0.1, 0.8)), 0.0):
        what = f"kl_shaped_rewards with β = {beta:.2g} and NaN in the padding"
        got = answer(scores, spoiled(clean, mask), mask, beta)
        refuse_nan(what, got, "NaN · 0 is NaN: clear the padding with torch.where or masked_fill")
        compare(
            what,
            got,
            _shaped(scores, clean, mask, beta),
            mistakes=_shaping_mistakes(scores, clean, mask, beta),
        )


# 4.9 · adaptive β -------------------------------------------------------------------------------

adapt_kl_coefficient = Exercise(
    "4.9",
    "Adaptive β",
    function="adapt_kl_coefficient",
    reference=lambda: formulas.adapt_kl_coefficient,
)


def _adapted(beta: float, kl: float, target: float, horizon: float, batch: int) -> float:
    return beta * (1 + min(max(kl / target - 1, -0.2), 0.2) * batch / horizon)


def _adapt_mistakes(
    beta: float, kl: float, target: float, horizon: float, batch: int
) -> dict[str, float]:
    def clip(error: float) -> float:
        return min(max(error, -0.2), 0.2)

    error, share = kl / target - 1, batch / horizon
    return {
        "The direction: a KL above its target needs a LARGER β": beta * (1 - clip(error) * share),
        "You did not clip the error to ±0.2: one odd batch would throw β": (
            beta * (1 + error * share)
        ),
        "You divided the target by the KL: the error is kl/target − 1": (
            beta * (1 + clip(target / kl - 1) * share)
        ),
        "You used the difference kl − target: the error is relative, kl/target − 1": (
            beta * (1 + clip(kl - target) * share)
        ),
        "You left batch_size/horizon out: it sets the pace": beta * (1 + clip(error)),
        "You turned batch_size/horizon round: a longer horizon means smaller steps": (
            beta * (1 + clip(error) * horizon / batch)
        ),
        "You returned the factor: multiply β by it": 1 + clip(error) * share,
        "You added the change to β: β is multiplied, so it stays positive and has no unit of its "
        "own": beta + clip(error) * share,
        "You left batch_size out: the more responses, the larger the step": (
            beta * (1 + clip(error) / horizon)
        ),
        "You left the horizon out: divide by it": beta * (1 + clip(error) * batch),
        "You moved β by the full 20 % whatever the error": (
            beta * (1 + math.copysign(0.2, error) * share)
        ),
        "You took the exponential: β · (1 + ...) is asked for": (
            beta * math.exp(clip(error) * share)
        ),
        "You forgot the − 1: a KL at its target must leave β as it is": beta
        * (1 + clip(kl / target) * share),
        "You returned the change alone: return the new β": beta * clip(error) * share,
    }


@adapt_kl_coefficient.part("above and below the target", points=1)
def _(answer, draw) -> None:
    for factor in (draw.uniform(0.85, 0.95), draw.uniform(1.05, 1.15), 1.0):
        # So small a target that kl − target stays within ±0.2, and its hint apart from the others.
        beta, target = float(draw.uniform(0.05, 0.5)), float(draw.uniform(0.3, 0.8))
        arguments = (beta, float(factor) * target, target, float(draw.uniform(500, 2000)), 64)
        compare(
            "adapt_kl_coefficient(beta, kl, target, horizon, batch_size)",
            answer(*arguments),
            _adapted(*arguments),
            mistakes=_adapt_mistakes(*arguments),
            **CLOSE,
        )


@adapt_kl_coefficient.part("far from the target", points=1)
def _(answer, draw) -> None:
    for factor in (draw.uniform(3, 20), draw.uniform(0.01, 0.4), -0.3):
        beta, target = float(draw.uniform(0.05, 0.5)), float(draw.uniform(2, 8))
        horizon, batch = float(draw.uniform(100, 300)), int(draw.integers(32, 90))
        arguments = (beta, float(factor) * target, target, horizon, batch)
        compare(
            "adapt_kl_coefficient with a KL far from its target",
            answer(*arguments),
            _adapted(*arguments),
            mistakes={
                "You clipped β's whole change, or left batch_size/horizon out: clip the error, "
                "THEN multiply it by batch_size/horizon": (
                    beta * (1 + math.copysign(0.2, factor - 1))
                ),
                **_adapt_mistakes(*arguments),
            },
            **CLOSE,
        )


EXERCISES = [
    ratio,
    gae,
    clipped_value_loss,
    whiten,
    ppo_policy_loss,
    entropy,
    ppo_total_loss,
    kl_shaped_rewards,
    adapt_kl_coefficient,
]
