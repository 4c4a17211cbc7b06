"""Answers to the exercises of lesson 6 that learners give: wrong ones with the hint each must get.

``WRONG`` maps an exercise to (name, function, fragment of its hint); ``RIGHT`` to unusual answers
that must pass.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import torch
from torch.nn import functional

# 6.1 · the best policy ----------------------------------------------------------------------------


def _best(tilted):
    return tilted.logsumexp(-1), tilted.log_softmax(-1)


def best_times_beta(reference, rewards, beta):
    return _best(reference + rewards * beta)


def best_without_beta(reference, rewards, beta):
    return _best(reference + rewards)


def best_wrong_sign(reference, rewards, beta):
    return _best(reference - rewards / beta)


def best_without_reference(reference, rewards, beta):
    return _best(rewards / beta)


def best_not_normalised(reference, rewards, beta):
    tilted = reference + rewards / beta
    return tilted.logsumexp(-1), tilted


def best_z_not_logged(reference, rewards, beta):
    tilted = reference + rewards / beta
    return tilted.exp().sum(-1), tilted.log_softmax(-1)


def best_z_over_prompts(reference, rewards, beta):
    tilted = reference + rewards / beta
    return tilted.logsumexp((0, 1)), tilted.log_softmax(-1)


def best_overflowing(reference, rewards, beta):
    tilted = (reference + rewards / beta).exp()
    return tilted.sum(-1).log(), (tilted / tilted.sum(-1, keepdim=True)).log()


def best_as_probabilities(reference, rewards, beta):
    tilted = reference + rewards / beta
    return tilted.logsumexp(-1), tilted.softmax(-1)


def best_policy_alone(reference, rewards, beta):
    return (reference + rewards / beta).log_softmax(-1)


def best_by_shift(reference, rewards, beta):
    tilted = reference + rewards / beta
    top = tilted.max(-1, keepdim=True).values
    log_z = (tilted - top).exp().sum(-1, keepdim=True).log() + top
    return log_z.squeeze(-1), tilted - log_z


def best_by_distribution(reference, rewards, beta):
    tilted = reference + rewards / beta
    log_z = torch.stack([torch.logsumexp(row, 0) for row in tilted])
    return [log_z, torch.distributions.Categorical(logits=tilted).logits]


# 6.2 · implied reward -----------------------------------------------------------------------------


def implied_without_z(policy, reference, log_z, beta):
    return beta * (policy - reference)


def implied_minus_z(policy, reference, log_z, beta):
    return beta * (policy - reference - log_z[:, None])


def implied_without_beta(policy, reference, log_z, beta):
    return policy - reference + log_z[:, None]


def implied_z_without_beta(policy, reference, log_z, beta):
    return beta * (policy - reference) + log_z[:, None]


def implied_divided(policy, reference, log_z, beta):
    return (policy - reference + log_z[:, None]) / beta


def implied_turned_round(policy, reference, log_z, beta):
    return beta * (reference - policy + log_z[:, None])


def implied_without_reference(policy, reference, log_z, beta):
    return beta * (policy + log_z[:, None])


def implied_by_loop(policy, reference, log_z, beta):
    rows = zip(policy, reference, log_z, strict=True)
    return torch.stack([beta * (p - q) + beta * z for p, q, z in rows])


def implied_by_ratio(policy, reference, log_z, beta):
    return beta * torch.log(torch.exp(policy - reference + log_z.unsqueeze(1)))


# 6.3 · one reward of many -------------------------------------------------------------------------


def _log_z(reference, rewards, beta):
    return (reference + rewards / beta).logsumexp(-1, keepdim=True)


def canonical_without_beta(reference, rewards, beta):
    return rewards - _log_z(reference, rewards, beta)


def canonical_wrong_sign(reference, rewards, beta):
    return rewards + beta * _log_z(reference, rewards, beta)


def canonical_mean(reference, rewards, beta):
    return rewards - rewards.mean(-1, keepdim=True)


def canonical_reference_mean(reference, rewards, beta):
    return rewards - (reference.exp() * rewards).sum(-1, keepdim=True)


def canonical_one_z(reference, rewards, beta):
    return rewards - beta * (reference + rewards / beta).logsumexp((0, 1))


def canonical_log_policy(reference, rewards, beta):
    return (reference + rewards / beta).log_softmax(-1)


def canonical_unchanged(reference, rewards, beta):
    return rewards.clone()


def canonical_times_beta(reference, rewards, beta):
    return rewards - beta * (reference + rewards * beta).logsumexp(-1, keepdim=True)


def canonical_by_policy(reference, rewards, beta):
    return beta * ((reference + rewards / beta).log_softmax(-1) - reference)


def canonical_by_loop(reference, rewards, beta):
    rows = zip(reference, rewards, strict=True)
    return torch.stack([r - beta * torch.logsumexp(q + r / beta, 0) for q, r in rows])


# 6.4 · implicit reward ----------------------------------------------------------------------------


def _ratio(policy, reference, mask):
    return (policy - reference).masked_fill(~mask, 0)


def implicit_mean(policy, reference, mask, beta):
    return beta * _ratio(policy, reference, mask).sum(-1) / mask.sum(-1)


def implicit_mean_of_all(policy, reference, mask, beta):
    return beta * _ratio(policy, reference, mask).mean(-1)


def implicit_without_beta(policy, reference, mask, beta):
    return _ratio(policy, reference, mask).sum(-1)


def implicit_turned_round(policy, reference, mask, beta):
    return -beta * _ratio(policy, reference, mask).sum(-1)


def implicit_without_reference(policy, reference, mask, beta):
    return beta * policy.masked_fill(~mask, 0).sum(-1)


def implicit_per_token(policy, reference, mask, beta):
    return beta * _ratio(policy, reference, mask)


def implicit_with_padding(policy, reference, mask, beta):
    return beta * (policy - reference).sum(-1)


def implicit_multiplied(policy, reference, mask, beta):
    return beta * ((policy - reference) * mask).sum(-1)


def implicit_detached(policy, reference, mask, beta):
    return implicit_by_where(policy, reference, mask, beta).detach()


def implicit_by_where(policy, reference, mask, beta):
    zero = torch.zeros((), dtype=policy.dtype)
    return beta * (
        torch.where(mask, policy, zero).sum(1) - torch.where(mask, reference, zero).sum(1)
    )


def implicit_by_rows(policy, reference, mask, beta):
    return torch.stack(
        [beta * (p[m] - q[m]).sum() for p, q, m in zip(policy, reference, mask, strict=True)]
    )


# 6.5 · DPO loss -----------------------------------------------------------------------------------


def _h(pw, pl, rw, rl):
    return (pw - pl) - (rw - rl).detach()


def dpo_swapped(pw, pl, rw, rl, beta):
    return -functional.logsigmoid(-beta * _h(pw, pl, rw, rl))


def dpo_without_beta(pw, pl, rw, rl, beta):
    return -functional.logsigmoid(_h(pw, pl, rw, rl))


def dpo_beta_outside(pw, pl, rw, rl, beta):
    return -beta * functional.logsigmoid(_h(pw, pl, rw, rl))


def dpo_without_reference(pw, pl, rw, rl, beta):
    return -functional.logsigmoid(beta * (pw - pl))


def dpo_reference_added(pw, pl, rw, rl, beta):
    return -functional.logsigmoid(beta * ((pw - pl) + (rw - rl).detach()))


def dpo_not_negative(pw, pl, rw, rl, beta):
    return functional.logsigmoid(beta * _h(pw, pl, rw, rl))


def dpo_averaged(pw, pl, rw, rl, beta):
    return -functional.logsigmoid(beta * _h(pw, pl, rw, rl)).mean()


def dpo_probability(pw, pl, rw, rl, beta):
    return torch.sigmoid(beta * _h(pw, pl, rw, rl))


def dpo_log_of_sigmoid(pw, pl, rw, rl, beta):
    return -torch.log(torch.sigmoid(beta * _h(pw, pl, rw, rl)))


def dpo_overflowing(pw, pl, rw, rl, beta):
    return torch.log(1 + torch.exp(-beta * _h(pw, pl, rw, rl)))


def dpo_reference_learns(pw, pl, rw, rl, beta):
    return -functional.logsigmoid(beta * ((pw - rw) - (pl - rl)))


def dpo_detached(pw, pl, rw, rl, beta):
    return -functional.logsigmoid(beta * _h(pw, pl, rw, rl).detach())


def dpo_by_softplus(pw, pl, rw, rl, beta):
    return functional.softplus(-beta * _h(pw, pl, rw, rl))


def dpo_by_cross_entropy(pw, pl, rw, rl, beta):
    rewards = torch.stack([beta * (pw - rw.detach()), beta * (pl - rl.detach())], dim=1)
    return functional.cross_entropy(
        rewards, torch.zeros(len(pw), dtype=torch.long), reduction="none"
    )


# 6.6 · gradient weight ----------------------------------------------------------------------------


def weight_wrong_sign(pw, pl, rw, rl, beta):
    return torch.sigmoid(beta * _h(pw, pl, rw, rl))


def weight_without_beta(pw, pl, rw, rl, beta):
    return torch.sigmoid(-_h(pw, pl, rw, rl))


def weight_times_beta(pw, pl, rw, rl, beta):
    return beta * torch.sigmoid(-beta * _h(pw, pl, rw, rl))


def weight_without_reference(pw, pl, rw, rl, beta):
    return torch.sigmoid(-beta * (pw - pl))


def weight_is_loss(pw, pl, rw, rl, beta):
    return -functional.logsigmoid(beta * _h(pw, pl, rw, rl))


def weight_slope_of_sigmoid(pw, pl, rw, rl, beta):
    s = torch.sigmoid(beta * _h(pw, pl, rw, rl))
    return s * (1 - s)


def weight_negative(pw, pl, rw, rl, beta):
    return -torch.sigmoid(-beta * _h(pw, pl, rw, rl))


def weight_overflowing(pw, pl, rw, rl, beta):
    e = torch.exp(-beta * _h(pw, pl, rw, rl))
    return e / (1 + e)


def weight_one_minus(pw, pl, rw, rl, beta):
    return 1 - torch.sigmoid(beta * _h(pw, pl, rw, rl))


def weight_by_autograd(pw, pl, rw, rl, beta):
    h = _h(pw, pl, rw, rl).detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(-functional.logsigmoid(beta * h).sum(), h)
    return -slope / beta


# 6.7 · win rate -----------------------------------------------------------------------------------


def _wilson(p, n, z=1.96):
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    centre = p + z * z / (2 * n)
    return p, (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def wins_ties_lost(own, other):
    return _wilson(float(np.mean(own > other)), len(own))


def wins_ties_won(own, other):
    return _wilson(float(np.mean(own >= other)), len(own))


def wins_ties_dropped(own, other):
    decided = int(np.sum(own != other))
    return _wilson(float(np.sum(own > other)) / decided, decided)


def _rate(own, other):
    return float(np.mean(own > other) + 0.5 * np.mean(own == other))


def wins_plain_interval(own, other):
    p = _rate(own, other)
    half = 1.96 * math.sqrt(p * (1 - p) / len(own))
    return p, p - half, p + half


def wins_backwards(own, other):
    return _wilson(_rate(other, own), len(own))


def wins_without_n(own, other):
    return _wilson(_rate(own, other), 1)


def wins_ends_only(own, other):
    return _wilson(_rate(own, other), len(own))[1:]


def wins_one_error(own, other):
    return _wilson(_rate(own, other), len(own), z=1.0)


def wins_in_percent(own, other):
    return tuple(100 * share for share in _wilson(_rate(own, other), len(own)))


def wins_ends_swapped(own, other):
    rate, low, high = _wilson(_rate(own, other), len(own))
    return rate, high, low


def wins_by_score_equation(own, other):
    """The two p₀ with (p − p₀)² = z² · p₀(1 − p₀)/n, by the quadratic formula."""
    p, n, z = _rate(own, other), len(own), NormalDist().inv_cdf(0.975)
    a, b, c = 1 + z * z / n, -(2 * p + z * z / n), p * p
    root = math.sqrt(max(b * b - 4 * a * c, 0.0))
    return p, (-b - root) / (2 * a), (-b + root) / (2 * a)


def wins_by_python(own, other):
    pairs = zip(own.tolist(), other.tolist(), strict=True)
    points = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs]
    return list(_wilson(sum(points) / len(points), len(points)))


# 6.8 · what DPO can't see -------------------------------------------------------------------------


def _lead(equal):
    return equal.long().cumprod(-1).sum(-1)


def _close(cr, rr):
    return (cr - rr).abs() <= 1e-6


def prefix_every_equal(cr, rr, cm, rm):
    return (_close(cr, rr) & cm & rm).sum(-1)


def prefix_with_padding(cr, rr, cm, rm):
    return _lead(_close(cr, rr))


def prefix_either_mask(cr, rr, cm, rm):
    return _lead(_close(cr, rr) & (cm | rm))


def prefix_rest(cr, rr, cm, rm):
    return cm.sum(-1) - _lead(_close(cr, rr) & cm & rm)


def prefix_one_more(cr, rr, cm, rm):
    return _lead(_close(cr, rr) & cm & rm) + 1


def prefix_last_index(cr, rr, cm, rm):
    return _lead(_close(cr, rr) & cm & rm) - 1


def prefix_as_mask(cr, rr, cm, rm):
    return (_close(cr, rr) & cm & rm).long().cumprod(-1).bool()


def prefix_exactly_equal(cr, rr, cm, rm):
    return _lead((cr == rr) & cm & rm)


def prefix_first_zero(cr, rr, cm, rm):
    return (_close(cr, rr) & cm & rm).int().argmin(-1)


def prefix_by_loop(cr, rr, cm, rm):
    counts = []
    for a, b, m, n in zip(cr.tolist(), rr.tolist(), cm.tolist(), rm.tolist(), strict=True):
        count = 0
        for x, y, i, j in zip(a, b, m, n, strict=True):
            if not (i and j and abs(x - y) <= 1e-6):
                break
            count += 1
        counts.append(count)
    return torch.tensor(counts)


def prefix_by_first_difference(cr, rr, cm, rm):
    differs = ~(_close(cr, rr) & cm & rm)
    padded = functional.pad(differs.int(), (0, 1), value=1)
    return padded.argmax(-1)


# 6.9 · IPO ----------------------------------------------------------------------------------------


def ipo_one_over_beta(pw, pl, rw, rl, beta):
    return (_h(pw, pl, rw, rl) - 1 / beta).square()


def ipo_half_beta(pw, pl, rw, rl, beta):
    return (_h(pw, pl, rw, rl) - beta / 2).square()


def ipo_beta_on_margin(pw, pl, rw, rl, beta):
    return (beta * _h(pw, pl, rw, rl) - 1 / (2 * beta)).square()


def ipo_swapped(pw, pl, rw, rl, beta):
    return (-_h(pw, pl, rw, rl) - 1 / (2 * beta)).square()


def ipo_without_reference(pw, pl, rw, rl, beta):
    return (pw - pl - 1 / (2 * beta)).square()


def ipo_not_squared(pw, pl, rw, rl, beta):
    return _h(pw, pl, rw, rl) - 1 / (2 * beta)


def ipo_hinged(pw, pl, rw, rl, beta):
    return torch.relu(1 / (2 * beta) - _h(pw, pl, rw, rl)).square()


def ipo_averaged(pw, pl, rw, rl, beta):
    return (_h(pw, pl, rw, rl) - 1 / (2 * beta)).square().mean()


def ipo_reference_learns(pw, pl, rw, rl, beta):
    return ((pw - rw) - (pl - rl) - 1 / (2 * beta)).square()


def ipo_rejected_detached(pw, pl, rw, rl, beta):
    return (_h(pw, pl.detach(), rw, rl) - 1 / (2 * beta)).square()


def ipo_expanded(pw, pl, rw, rl, beta):
    h = _h(pw, pl, rw, rl)
    return h * h - h / beta + 1 / (4 * beta * beta)


def ipo_by_mse(pw, pl, rw, rl, beta):
    h = _h(pw, pl, rw, rl)
    return functional.mse_loss(h, torch.full_like(h, 1 / (2 * beta)), reduction="none")


WRONG = {
    "6.1": [
        ("r · β", best_times_beta, "You multiplied r by β"),
        ("no β", best_without_beta, "You left β out"),
        ("sign", best_wrong_sign, "The sign"),
        ("no reference", best_without_reference, "You left the reference out"),
        ("not normalised", best_not_normalised, "You did not normalise"),
        ("Z", best_z_not_logged, "You returned Z"),
        ("one Z", best_z_over_prompts, "You summed over everything"),
        ("overflow", best_overflowing, "exp overflows"),
        ("probabilities", best_as_probabilities, "You returned probabilities"),
        ("one thing", best_policy_alone, "return two things"),
    ],
    "6.2": [
        ("no log Z", implied_without_z, "up to a constant of each prompt"),
        ("minus log Z", implied_minus_z, "The sign of log Z"),
        ("no β", implied_without_beta, "You left β out"),
        ("log Z without β", implied_z_without_beta, "log Z needs its β too"),
        ("divided", implied_divided, "You divided by β"),
        ("turned round", implied_turned_round, "turned the ratio round"),
        ("no reference", implied_without_reference, "left the reference out"),
    ],
    "6.3": [
        ("no β", canonical_without_beta, "You left β out"),
        ("sign", canonical_wrong_sign, "The sign"),
        ("mean", canonical_mean, "subtracted the mean over responses"),
        ("mean under the reference", canonical_reference_mean, "mean reward of the reference"),
        ("one Z", canonical_one_z, "subtracted one number from all prompts"),
        ("log policy", canonical_log_policy, "You returned log π*"),
        ("unchanged", canonical_unchanged, "as they came"),
        ("r · β", canonical_times_beta, "You multiplied r by β"),
    ],
    "6.4": [
        ("mean", implicit_mean, "You took the mean over tokens"),
        ("mean of all", implicit_mean_of_all, "mean over all positions"),
        ("no β", implicit_without_beta, "You left β out"),
        ("turned round", implicit_turned_round, "turned the ratio round"),
        ("no reference", implicit_without_reference, "left the reference out"),
        ("per token", implicit_per_token, "one number per token"),
        ("padding", implicit_with_padding, "counted the padding"),
        ("mask by product", implicit_multiplied, "NaN · 0 is NaN"),
        ("detached", implicit_detached, "it carries no gradient"),
    ],
    "6.5": [
        ("swapped", dpo_swapped, "the wrong way round"),
        ("no β", dpo_without_beta, "You left β out"),
        ("β outside", dpo_beta_outside, "β stands inside the sigmoid"),
        ("no reference", dpo_without_reference, "left the reference out"),
        ("reference added", dpo_reference_added, "The sign of the reference"),
        ("not negative", dpo_not_negative, "a loss is the NEGATIVE"),
        ("averaged", dpo_averaged, "You took the mean"),
        ("probability", dpo_probability, "You returned a probability"),
        ("log of sigmoid", dpo_log_of_sigmoid, "run into infinity"),
        ("overflow", dpo_overflowing, "run into infinity"),
        ("reference learns", dpo_reference_learns, "gradient flows into the reference"),
        ("detached", dpo_detached, "gradient"),
    ],
    "6.6": [
        ("sign", weight_wrong_sign, "The sign"),
        ("no β", weight_without_beta, "You left β out"),
        ("times β", weight_times_beta, "You multiplied by β"),
        ("no reference", weight_without_reference, "left the reference out"),
        ("the loss", weight_is_loss, "You returned the loss"),
        ("σ(1 − σ)", weight_slope_of_sigmoid, "the derivative of the sigmoid"),
        ("negative", weight_negative, "the weight is positive"),
        ("overflow", weight_overflowing, "exp overflows"),
    ],
    "6.7": [
        ("ties lost", wins_ties_lost, "you counted it as a loss"),
        ("ties won", wins_ties_won, "you counted it as a whole one"),
        ("ties dropped", wins_ties_dropped, "you left them out"),
        ("plain interval", wins_plain_interval, "near 0 and 1 it has no width"),
        ("backwards", wins_backwards, "The wrong way round"),
        ("no n", wins_without_n, "it shrinks with √n"),
        ("ends only", wins_ends_only, "(rate, low, high)"),
        ("one standard error", wins_one_error, "You took one standard error"),
        ("percent", wins_in_percent, "You gave percent"),
        ("ends swapped", wins_ends_swapped, "the wrong way round: (rate, low, high)"),
    ],
    "6.8": [
        ("every equal token", prefix_every_equal, "BEFORE the first difference"),
        ("padding", prefix_with_padding, "where a mask is False there is no token"),
        ("either mask", prefix_either_mask, "both masks must be True"),
        ("the rest", prefix_rest, "those that cancel are asked for"),
        ("one more", prefix_one_more, "You are one off"),
        ("last index", prefix_last_index, "index of the last shared token"),
        ("a mask", prefix_as_mask, "You returned a mask"),
        ("exactly equal", prefix_exactly_equal, "Equal up to rounding"),
        ("first zero", prefix_first_zero, "Where no token differs"),
    ],
    "6.9": [
        ("1/β", ipo_one_over_beta, "you took 1/β"),
        ("β/2", ipo_half_beta, "you took β/2"),
        ("β on the margin", ipo_beta_on_margin, "h itself has no β"),
        ("swapped", ipo_swapped, "the wrong way round"),
        ("no reference", ipo_without_reference, "left the reference out"),
        ("no square", ipo_not_squared, "You forgot the square"),
        ("hinge", ipo_hinged, "like a hinge"),
        ("averaged", ipo_averaged, "You took the mean"),
        ("reference learns", ipo_reference_learns, "A gradient flows into the reference"),
        ("rejected detached", ipo_rejected_detached, "No gradient reaches policy_rejected"),
    ],
}

RIGHT = {
    "6.1": [("shifted by the maximum", best_by_shift), ("Categorical", best_by_distribution)],
    "6.2": [("row by row", implied_by_loop), ("through the ratio", implied_by_ratio)],
    "6.3": [("through π*", canonical_by_policy), ("row by row", canonical_by_loop)],
    "6.4": [("where", implicit_by_where), ("row by row", implicit_by_rows)],
    "6.5": [("softplus", dpo_by_softplus), ("cross-entropy", dpo_by_cross_entropy)],
    "6.6": [("1 − σ", weight_one_minus), ("autograd", weight_by_autograd)],
    "6.7": [("score equation", wins_by_score_equation), ("Python", wins_by_python)],
    "6.8": [("two loops", prefix_by_loop), ("first difference", prefix_by_first_difference)],
    "6.9": [("expanded", ipo_expanded), ("mse_loss", ipo_by_mse)],
}
