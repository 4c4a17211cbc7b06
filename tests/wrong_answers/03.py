"""Answers to the exercises of lesson 3 that learners give: wrong ones with the hint each must get.

``WRONG`` maps an exercise to (name, function, fragment of its hint); ``RIGHT`` to unusual answers
that must pass.
"""

from __future__ import annotations

import math
from itertools import combinations, permutations

import numpy as np
import torch
from torch.nn import functional

# 3.1 · Bradley-Terry loss -----------------------------------------------------------------------


def bt_reversed(chosen_rewards, rejected_rewards):
    return -functional.logsigmoid(rejected_rewards - chosen_rewards)


def bt_log_likelihood(chosen_rewards, rejected_rewards):
    return functional.logsigmoid(chosen_rewards - rejected_rewards)


def bt_probability(chosen_rewards, rejected_rewards):
    return torch.sigmoid(chosen_rewards - rejected_rewards)


def bt_mean(chosen_rewards, rejected_rewards):
    return -functional.logsigmoid(chosen_rewards - rejected_rewards).mean()


def bt_log_of_sigmoid(chosen_rewards, rejected_rewards):
    return -torch.log(torch.sigmoid(chosen_rewards - rejected_rewards))


def bt_naive_softplus(chosen_rewards, rejected_rewards):
    return torch.log(1 + torch.exp(rejected_rewards - chosen_rewards))


def bt_rejected_detached(chosen_rewards, rejected_rewards):
    return -functional.logsigmoid(chosen_rewards - rejected_rewards.detach())


def bt_chosen_detached(chosen_rewards, rejected_rewards):
    return -functional.logsigmoid(chosen_rewards.detach() - rejected_rewards)


def bt_with_a_small_number(chosen_rewards, rejected_rewards):
    return -torch.log(torch.sigmoid(chosen_rewards - rejected_rewards) + 1e-8)


def bt_difference(chosen_rewards, rejected_rewards):
    return rejected_rewards - chosen_rewards


def bt_each_through_sigma(chosen_rewards, rejected_rewards):
    return -functional.logsigmoid(chosen_rewards) - functional.logsigmoid(-rejected_rewards)


def bt_softplus(chosen_rewards, rejected_rewards):
    return functional.softplus(rejected_rewards - chosen_rewards)


def bt_as_cross_entropy(chosen_rewards, rejected_rewards):
    both = torch.stack([chosen_rewards, rejected_rewards], dim=1)
    return functional.cross_entropy(
        both, torch.zeros(len(both), dtype=torch.long), reduction="none"
    )


def bt_by_loop(chosen_rewards, rejected_rewards):
    losses = []
    for w, l in zip(chosen_rewards, rejected_rewards, strict=True):  # noqa: E741
        losses.append(torch.logaddexp(w, l) - w)
    return torch.stack(losses)


# 3.2 · its gradient -----------------------------------------------------------------------------


def gradient_signs_turned(chosen_rewards, rejected_rewards):
    p = torch.sigmoid(rejected_rewards - chosen_rewards)
    return p, -p


def gradient_of_the_right_pair(chosen_rewards, rejected_rewards):
    p = torch.sigmoid(chosen_rewards - rejected_rewards)
    return -p, p


def gradient_of_sigma(chosen_rewards, rejected_rewards):
    p = torch.sigmoid(chosen_rewards - rejected_rewards)
    return -p * (1 - p), p * (1 - p)


def gradient_of_the_mean(chosen_rewards, rejected_rewards):
    p = torch.sigmoid(rejected_rewards - chosen_rewards) / len(chosen_rewards)
    return -p, p


def gradient_same_sign(chosen_rewards, rejected_rewards):
    p = torch.sigmoid(rejected_rewards - chosen_rewards)
    return -p, -p


def gradient_with_exp(chosen_rewards, rejected_rewards):
    e = torch.exp(rejected_rewards - chosen_rewards)
    return -e / (1 + e), e / (1 + e)


def gradient_of_the_chosen_alone(chosen_rewards, rejected_rewards):
    return -torch.sigmoid(rejected_rewards - chosen_rewards)


def gradient_by_autograd(chosen_rewards, rejected_rewards):
    chosen = chosen_rewards.clone().requires_grad_()
    rejected = rejected_rewards.clone().requires_grad_()
    loss = -functional.logsigmoid(chosen - rejected).sum()
    return torch.autograd.grad(loss, (chosen, rejected))


def gradient_from_the_probability(chosen_rewards, rejected_rewards):
    p = torch.sigmoid(chosen_rewards - rejected_rewards)
    wrong = torch.softmax(torch.stack([chosen_rewards, rejected_rewards]), dim=0)[1]
    return [torch.where(p > 2, p, -wrong), wrong]


# 3.3 · a ranking as pairs -----------------------------------------------------------------------


def _refuse_repeats(ranked):
    if len(set(ranked)) < len(ranked):
        raise ValueError("a response is ranked twice")


def pairs_worst_first(prompt, ranked):
    _refuse_repeats(ranked)
    return [(prompt, worse, better) for better, worse in combinations(ranked, 2)]


def pairs_of_neighbours(prompt, ranked):
    _refuse_repeats(ranked)
    return [(prompt, a, b) for a, b in zip(ranked, ranked[1:], strict=False)]


def pairs_of_the_best(prompt, ranked):
    _refuse_repeats(ranked)
    return [(prompt, ranked[0], worse) for worse in ranked[1:]]


def pairs_both_ways(prompt, ranked):
    _refuse_repeats(ranked)
    return [(prompt, a, b) for a, b in permutations(ranked, 2)]


def pairs_without_prompt(prompt, ranked):
    _refuse_repeats(ranked)
    return list(combinations(ranked, 2))


def pairs_with_repeats(prompt, ranked):
    return [(prompt, a, b) for a, b in combinations(ranked, 2)]


def pairs_that_may_repeat_at_a_distance(prompt, ranked):
    if any(a == b for a, b in zip(ranked, ranked[1:], strict=False)):
        raise ValueError("twice")
    return [(prompt, a, b) for a, b in combinations(ranked, 2)]


def pairs_returning_the_error(prompt, ranked):
    if len(set(ranked)) < len(ranked):
        return ValueError("twice")
    return [(prompt, a, b) for a, b in combinations(ranked, 2)]


def pairs_prompt_last(prompt, ranked):
    _refuse_repeats(ranked)
    return [(a, b, prompt) for a, b in combinations(ranked, 2)]


def pairs_sorted(prompt, ranked):
    _refuse_repeats(ranked)
    return [(prompt, a, b) for a, b in combinations(sorted(ranked), 2)]


def pairs_emptying_the_list(prompt, ranked):
    _refuse_repeats(ranked)
    pairs = []
    while ranked:
        best = ranked.pop(0)
        pairs += [(prompt, best, worse) for worse in ranked]
    return pairs


def pairs_by_two_loops(prompt, ranked):
    pairs = []
    for i in range(len(ranked)):
        for j in range(i + 1, len(ranked)):
            if ranked[i] == ranked[j]:
                raise ValueError("twice")
            pairs.append([prompt, ranked[i], ranked[j]])
    return pairs


def pairs_by_recursion(prompt, ranked):
    best, *rest = ranked
    if best in rest:
        raise ValueError(best)
    own = {(prompt, best, worse) for worse in rest}
    return own | set(pairs_by_recursion(prompt, rest)) if rest else own


# 3.4 · Plackett-Luce loss -----------------------------------------------------------------------


def pl_all_in_each(scores):
    return (torch.logsumexp(scores, 1, keepdim=True) - scores).sum(1)


def pl_worst_first(scores):
    return pl_by_cumulative_sum(scores.flip(1))


def pl_log_likelihood(scores):
    return -pl_by_cumulative_sum(scores)


def pl_first_choice(scores):
    return torch.logsumexp(scores, 1) - scores[:, 0]


def pl_all_pairs(scores):
    i, j = torch.triu_indices(scores.shape[1], scores.shape[1], 1)
    return -functional.logsigmoid(scores[:, i] - scores[:, j]).sum(1)


def pl_with_exp(scores):
    e = scores.exp()
    return -sum((e[:, k] / e[:, k:].sum(1)).log() for k in range(scores.shape[1]))


def pl_mean_of_choices(scores):
    return pl_by_cumulative_sum(scores) / scores.shape[1]


def pl_log_of_a_sum_of_exp(scores):
    return (scores.exp().flip(1).cumsum(1).flip(1).log() - scores).sum(1)


def pl_neighbours(scores):
    return -functional.logsigmoid(scores[:, :-1] - scores[:, 1:]).sum(1)


def pl_sorted(scores):
    return pl_by_cumulative_sum(scores.sort(1, descending=True).values)


def pl_by_mask(scores):
    left = torch.ones(scores.shape[1], scores.shape[1], dtype=torch.bool).triu()
    rest = scores.unsqueeze(1).masked_fill(~left, -math.inf).logsumexp(-1)
    return (rest - scores).sum(1)


def pl_by_cumulative_sum(scores):
    rest = scores.flip(1).logcumsumexp(1).flip(1)
    return (rest - scores).sum(1)


def pl_by_cross_entropy(scores):
    total = scores.new_zeros(len(scores))
    for k in range(scores.shape[1]):
        first = torch.zeros(len(scores), dtype=torch.long)
        total = total + functional.cross_entropy(scores[:, k:], first, reduction="none")
    return total


# 3.5 · accuracy with ties -----------------------------------------------------------------------


def accuracy_ties_wrong(chosen_scores, rejected_scores):
    return (chosen_scores > rejected_scores).double().mean().item()


def accuracy_ties_right(chosen_scores, rejected_scores):
    return (chosen_scores >= rejected_scores).double().mean().item()


def accuracy_ties_left_out(chosen_scores, rejected_scores):
    decided = chosen_scores != rejected_scores
    return (chosen_scores > rejected_scores)[decided].double().mean().item()


def accuracy_count(chosen_scores, rejected_scores):
    ties = (chosen_scores == rejected_scores).sum().item() / 2
    return (chosen_scores > rejected_scores).sum().item() + ties


def accuracy_reversed(chosen_scores, rejected_scores):
    return 1 - accuracy_by_sign(chosen_scores, rejected_scores)


def accuracy_of_the_chosen_alone(chosen_scores, rejected_scores):
    return (chosen_scores > 0).double().mean().item()


def accuracy_near_is_a_tie(chosen_scores, rejected_scores):
    return ((chosen_scores - rejected_scores).round(decimals=1).sign() + 1).mean().item() / 2


def accuracy_in_percent(chosen_scores, rejected_scores):
    return 100 * accuracy_by_sign(chosen_scores, rejected_scores)


def accuracy_by_sign(chosen_scores, rejected_scores):
    return ((chosen_scores - rejected_scores).sign().double().mean().item() + 1) / 2


def accuracy_in_numpy(chosen_scores, rejected_scores):
    return np.heaviside(chosen_scores.numpy() - rejected_scores.numpy(), 0.5).mean()


# 3.6 · calibration bins -------------------------------------------------------------------------


def _binned(probabilities, outcomes, bins, place):
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(place, probabilities, bins) / counts
        observed = np.bincount(place, outcomes, bins) / counts
    return counts, predicted, observed


def _place(probabilities, bins):
    return np.minimum((probabilities * bins).astype(int), bins - 1)


def bins_all_alike(probabilities, outcomes, bins):
    parts = _binned(probabilities, outcomes, bins, _place(probabilities, bins))
    return *parts, float(np.nanmean(np.abs(parts[2] - parts[1])))


def bins_gaps_cancel(probabilities, outcomes, bins):
    parts = _binned(probabilities, outcomes, bins, _place(probabilities, bins))
    return *parts, float(np.nansum((parts[2] - parts[1]) * parts[0]) / len(probabilities))


def bins_centres(probabilities, outcomes, bins):
    counts, _, observed = _binned(probabilities, outcomes, bins, _place(probabilities, bins))
    centres = (np.arange(bins) + 0.5) / bins
    return counts, centres, observed, float(np.nansum(np.abs(observed - centres) * counts))


def bins_swapped(probabilities, outcomes, bins):
    counts, predicted, observed, error = bins_right(probabilities, outcomes, bins)
    return counts, observed, predicted, error


def bins_lower_edge_out(probabilities, outcomes, bins):
    place = np.clip(np.ceil(probabilities * bins).astype(int) - 1, 0, bins - 1)
    parts = _binned(probabilities, outcomes, bins, place)
    return *parts, float(np.nansum(np.abs(parts[2] - parts[1]) * parts[0]) / len(probabilities))


def bins_nan_in_the_error(probabilities, outcomes, bins):
    parts = _binned(probabilities, outcomes, bins, _place(probabilities, bins))
    return *parts, float(np.sum(np.abs(parts[2] - parts[1]) * parts[0]) / len(probabilities))


def bins_empty_is_zero(probabilities, outcomes, bins):
    counts, predicted, observed, error = bins_right(probabilities, outcomes, bins)
    return counts, np.nan_to_num(predicted), np.nan_to_num(observed), error


def bins_without_n(probabilities, outcomes, bins):
    *parts, error = bins_right(probabilities, outcomes, bins)
    return *parts, error * len(probabilities)


def bins_largest_gap(probabilities, outcomes, bins):
    *parts, _ = bins_right(probabilities, outcomes, bins)
    return *parts, float(np.nanmax(np.abs(parts[2] - parts[1])))


def bins_rounded(probabilities, outcomes, bins):
    place = np.minimum(np.round(probabilities * bins).astype(int), bins - 1)
    return *_binned(probabilities, outcomes, bins, place), 0.0


def bins_as_shares(probabilities, outcomes, bins):
    counts, *rest = bins_right(probabilities, outcomes, bins)
    return counts / len(probabilities), *rest


def bins_counted_without_minlength(probabilities, outcomes, bins):
    place = _place(probabilities, bins)
    counts = np.bincount(place)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(place, probabilities, bins) / counts
        observed = np.bincount(place, outcomes, bins) / counts
    error = float(np.nansum(np.abs(observed - predicted) * counts) / len(probabilities))
    return counts, predicted, observed, error


def bins_without_any_minlength(probabilities, outcomes, bins):
    parts = _binned(probabilities, outcomes, 0, _place(probabilities, bins))
    return *parts, float(np.nansum(np.abs(parts[2] - parts[1]) * parts[0]) / len(probabilities))


def bins_of_three_things(probabilities, outcomes, bins):
    return bins_right(probabilities, outcomes, bins)[:3]


def bins_right(probabilities, outcomes, bins):
    parts = _binned(probabilities, outcomes, bins, _place(probabilities, bins))
    return *parts, float(np.nansum(np.abs(parts[2] - parts[1]) * parts[0]) / len(probabilities))


def bins_by_loop(probabilities, outcomes, bins):
    counts, predicted, observed, error = [], [], [], 0.0
    for k in range(bins):
        low, high = k / bins, (k + 1) / bins
        inside = (probabilities >= low) & ((probabilities < high) | (k == bins - 1))
        counts.append(int(inside.sum()))
        predicted.append(probabilities[inside].mean() if inside.any() else math.nan)
        observed.append(outcomes[inside].mean() if inside.any() else math.nan)
        if inside.any():
            error += inside.mean() * abs(observed[-1] - predicted[-1])
    return counts, predicted, observed, error


def bins_by_histogram(probabilities, outcomes, bins):
    edges = np.linspace(0, 1, bins + 1)
    counts, _ = np.histogram(probabilities, edges)
    sums, _ = np.histogram(probabilities, edges, weights=probabilities)
    wins, _ = np.histogram(probabilities, edges, weights=outcomes)
    blank = np.full(bins, np.nan)
    predicted = np.divide(sums, counts, out=blank.copy(), where=counts > 0)
    observed = np.divide(wins, counts, out=blank.copy(), where=counts > 0)
    return [counts, predicted, observed, np.abs(wins - sums).sum() / len(probabilities)]


# 3.7 · the free constant ------------------------------------------------------------------------


def centre_over_all(rewards, prompts):
    return rewards - rewards.mean()


def centre_to_the_best(rewards, prompts):
    result = rewards.clone()
    for number in prompts.unique():
        result[prompts == number] -= rewards[prompts == number].max()
    return result


def centre_and_scale(rewards, prompts):
    result = rewards.clone()
    for number in prompts.unique():
        own = rewards[prompts == number]
        result[prompts == number] = (own - own.mean()) / own.std(correction=min(1, len(own) - 1))
    return result


def centre_means_only(rewards, prompts):
    return rewards - centre_by_loop(rewards, prompts)


def centre_added(rewards, prompts):
    return 2 * rewards - centre_by_loop(rewards, prompts)


def centre_in_place(rewards, prompts):
    for number in prompts.unique():
        rewards[prompts == number] -= rewards[prompts == number].mean()
    return rewards


def centre_by_the_sum(rewards, prompts):
    same = (prompts[:, None] == prompts[None, :]).to(rewards.dtype)
    return rewards - same @ rewards


def centre_by_the_others(rewards, prompts):
    same = (prompts[:, None] == prompts[None, :]).to(rewards.dtype)
    return rewards - (same @ rewards - rewards) / (same.sum(1) - 1).clamp(min=1)


def centre_in_another_order(rewards, prompts):
    groups = [rewards[prompts == number] for number in prompts.unique()]
    return torch.cat([own - own.mean() for own in groups])


def centre_counting_prompts(rewards, prompts):
    result = rewards.clone()
    for number in range(len(prompts.unique())):
        own = prompts == number
        result[own] = rewards[own] - rewards[own].mean()
    return result


def centre_by_loop(rewards, prompts):
    result = torch.empty_like(rewards)
    for number in prompts.unique():
        result[prompts == number] = rewards[prompts == number] - rewards[prompts == number].mean()
    return result


def centre_by_matrix(rewards, prompts):
    same = (prompts[:, None] == prompts[None, :]).to(rewards.dtype)
    return rewards - (same @ rewards) / same.sum(1)


# 3.8 · triplet loss -----------------------------------------------------------------------------


def triplet_reversed(anchor, nearer, farther, margin):
    return torch.relu((anchor - farther).norm(dim=1) - (anchor - nearer).norm(dim=1) + margin)


def triplet_without_hinge(anchor, nearer, farther, margin):
    return (anchor - nearer).norm(dim=1) - (anchor - farther).norm(dim=1) + margin


def triplet_without_margin(anchor, nearer, farther, margin):
    return torch.relu((anchor - nearer).norm(dim=1) - (anchor - farther).norm(dim=1))


def triplet_squared(anchor, nearer, farther, margin):
    near, far = (anchor - nearer).square().sum(1), (anchor - farther).square().sum(1)
    return torch.relu(near - far + margin)


def triplet_mean(anchor, nearer, farther, margin):
    return triplet_by_distance(anchor, nearer, farther, margin).mean()


def triplet_farther_detached(anchor, nearer, farther, margin):
    return triplet_by_distance(anchor, nearer, farther.detach(), margin)


def triplet_nearer_detached(anchor, nearer, farther, margin):
    return triplet_by_distance(anchor, nearer.detach(), farther, margin)


def triplet_anchor_detached(anchor, nearer, farther, margin):
    return triplet_by_distance(anchor.detach(), nearer, farther, margin)


def triplet_all_detached(anchor, nearer, farther, margin):
    return triplet_by_distance(anchor, nearer, farther, margin).detach()


def triplet_margin_outside(anchor, nearer, farther, margin):
    return torch.relu((anchor - nearer).norm(dim=1) - (anchor - farther).norm(dim=1)) + margin


def triplet_of_mean_squares(anchor, nearer, farther, margin):
    near = (anchor - nearer).square().mean(1).sqrt()
    return torch.relu(near - (anchor - farther).square().mean(1).sqrt() + margin)


def triplet_with_margin_one(anchor, nearer, farther, margin):
    return triplet_by_distance(anchor, nearer, farther, 1.0)


def triplet_by_einsum(anchor, nearer, farther, margin):
    near, far = (
        torch.einsum("bd,bd->b", anchor - other, anchor - other).sqrt()
        for other in (nearer, farther)
    )
    return functional.relu(near - far + margin)


def triplet_by_distance(anchor, nearer, farther, margin):
    near = functional.pairwise_distance(anchor, nearer, eps=0.0)
    return (near - functional.pairwise_distance(anchor, farther, eps=0.0) + margin).clamp(min=0)


def triplet_by_torch(anchor, nearer, farther, margin):
    return functional.triplet_margin_loss(
        anchor, nearer, farther, margin=margin, eps=0.0, reduction="none"
    )


# 3.9 · best of n --------------------------------------------------------------------------------


def best_scores(scores):
    n = scores.shape[1]
    return scores.amax(1), math.log(n) - (n - 1) / n


def best_of_prompts(scores):
    n = scores.shape[1]
    return scores.argmax(0), math.log(n) - (n - 1) / n


def best_is_worst(scores):
    n = scores.shape[1]
    return scores.argmin(1), math.log(n) - (n - 1) / n


def best_log_n(scores):
    return scores.argmax(1), math.log(scores.shape[1])


def best_n_is_the_batch(scores):
    n = scores.shape[0]
    return scores.argmax(1), math.log(n) - (n - 1) / n


def best_minus_one(scores):
    return scores.argmax(1), math.log(scores.shape[1]) - 1


def best_counted_from_one(scores):
    n = scores.shape[1]
    return scores.argmax(1) + 1, math.log(n) - (n - 1) / n


def best_n_is_all(scores):
    n = scores.numel()
    return scores.argmax(1), math.log(n) - (n - 1) / n


def best_all_divided(scores):
    n = scores.shape[1]
    return scores.argmax(1), (math.log(n) - (n - 1)) / n


def best_sign_turned(scores):
    n = scores.shape[1]
    return scores.argmax(1), (n - 1) / n - math.log(n)


def best_by_loop(scores):
    n = scores.shape[1]
    places = [max(range(n), key=row.__getitem__) for row in scores.tolist()]
    return torch.tensor(places), math.log(n) - 1 + 1 / n


def best_by_sorting(scores):
    n = scores.shape[1]
    order = scores.argsort(dim=1, descending=True, stable=True)
    return [order[:, 0], np.log(n) - 1 + 1 / n]


def best_by_max(scores):
    n = torch.tensor(float(scores.shape[1]), dtype=torch.float64)
    return scores.max(dim=1).indices, n.log() - (n - 1) / n


WRONG = {
    "3.1": [
        ("chosen and rejected swapped", bt_reversed, "wrong way round"),
        ("log-likelihood for loss", bt_log_likelihood, "NEGATIVE log-likelihood"),
        ("probability for loss", bt_probability, "take −log of it"),
        ("mean", bt_mean, "one loss per pair"),
        ("log of sigmoid", bt_log_of_sigmoid, "whose log is −∞"),
        ("exp overflows", bt_naive_softplus, "exp overflows"),
        ("rejected detached", bt_rejected_detached, "no gradient reaches the rejected"),
        ("chosen detached", bt_chosen_detached, "no gradient reaches the chosen"),
        ("a small number", bt_with_a_small_number, "small number inside the logarithm"),
        ("difference", bt_difference, "put it through −log σ"),
        ("each through σ", bt_each_through_sigma, "σ takes their DIFFERENCE"),
    ],
    "3.2": [
        ("signs turned", gradient_signs_turned, "signs are turned around"),
        ("weight of the right pair", gradient_of_the_right_pair, "has the pair WRONG"),
        ("derivative of sigma", gradient_of_sigma, "derivative of σ itself"),
        ("mean", gradient_of_the_mean, "divided by the number of pairs"),
        ("same sign", gradient_same_sign, "same sign"),
        ("exp overflows", gradient_with_exp, "exp overflows"),
        ("one of two", gradient_of_the_chosen_alone, "return two tensors"),
    ],
    "3.3": [
        ("worst first", pairs_worst_first, "better and worse the wrong way round"),
        ("neighbours only", pairs_of_neighbours, "only paired neighbours"),
        ("best against the rest", pairs_of_the_best, "only paired the best"),
        ("both ways", pairs_both_ways, "twice, once in each order"),
        ("no prompt", pairs_without_prompt, "prompt is missing"),
        ("repeats accepted", pairs_with_repeats, "raise a ValueError"),
        ("repeats at a distance", pairs_that_may_repeat_at_a_distance, "twice, which says"),
        ("error returned", pairs_returning_the_error, "you returned the error"),
        ("prompt last", pairs_prompt_last, "The prompt comes first"),
        ("sorted", pairs_sorted, "You sorted the responses"),
        ("list emptied", pairs_emptying_the_list, "changed its input `ranked` in place"),
    ],
    "3.4": [
        ("all in each denominator", pl_all_in_each, "who has been placed is gone"),
        ("worst first", pl_worst_first, "from the wrong end"),
        ("log-likelihood for loss", pl_log_likelihood, "a loss is their negative"),
        ("first choice only", pl_first_choice, "stopped after the first choice"),
        ("all pairs", pl_all_pairs, "not independent choices"),
        ("exp overflows", pl_with_exp, "exp overflows"),
        ("mean of choices", pl_mean_of_choices, "divided by K"),
        ("log of a sum", pl_log_of_a_sum_of_exp, "all three steps in one"),
        ("neighbours", pl_neighbours, "Bradley-Terry over neighbours"),
        ("sorted", pl_sorted, "You sorted the scores"),
    ],
    "3.5": [
        ("ties wrong", accuracy_ties_wrong, "counted ties as wrong"),
        ("ties right", accuracy_ties_right, "counted ties as right"),
        ("ties left out", accuracy_ties_left_out, "left ties out"),
        ("a count", accuracy_count, "divide by the number of pairs"),
        ("reversed", accuracy_reversed, "WRONG order"),
        ("chosen alone", accuracy_of_the_chosen_alone, "no zero of their own"),
        ("near is a tie", accuracy_near_is_a_tie, "took near scores for a tie"),
        ("percent", accuracy_in_percent, "returned a percentage"),
    ],
    "3.6": [
        ("bins all alike", bins_all_alike, "weighted all bins alike"),
        ("gaps cancel", bins_gaps_cancel, "let gaps cancel"),
        ("centres", bins_centres, "middle of the bins"),
        ("swapped", bins_swapped, "wrong way round"),
        ("edges below", bins_lower_edge_out, "edge into the lower bin"),
        ("NaN in the error", bins_nan_in_the_error, "leave empty bins out"),
        ("empty bin as 0", bins_empty_is_zero, "an empty bin has no mean"),
        ("not divided by N", bins_without_n, "left out the division by N"),
        ("largest gap", bins_largest_gap, "You took the largest gap"),
        ("rounded", bins_rounded, "rounded to the nearest edge"),
        ("shares", bins_as_shares, "the counts are whole numbers"),
        ("three things", bins_of_three_things, "return four things"),
        ("counts without minlength", bins_counted_without_minlength, "minlength=bins"),
        ("no minlength", bins_without_any_minlength, "minlength=bins"),
    ],
    "3.7": [
        ("mean of all", centre_over_all, "mean of ALL rewards"),
        ("best as zero", centre_to_the_best, "subtracted the best reward"),
        ("scaled", centre_and_scale, "divided by the spread"),
        ("the means", centre_means_only, "returned the means"),
        ("added", centre_added, "added the mean"),
        ("in place", centre_in_place, "in place"),
        ("sum", centre_by_the_sum, "subtract their mean"),
        ("the others", centre_by_the_others, "left the response itself out"),
        ("another order", centre_in_another_order, "belongs where its reward stood"),
        ("prompts counted", centre_counting_prompts, "their numbers have gaps"),
    ],
    "3.8": [
        ("reversed", triplet_reversed, "nearer and farther the wrong way round"),
        ("no hinge", triplet_without_hinge, "forgot max(0, ·)"),
        ("no margin", triplet_without_margin, "forgot the margin"),
        ("squared", triplet_squared, "squared the distances"),
        ("mean", triplet_mean, "one loss per triplet"),
        ("farther detached", triplet_farther_detached, "must be pushed away"),
        ("nearer detached", triplet_nearer_detached, "it must be pulled in"),
        ("anchor detached", triplet_anchor_detached, "it moves by both distances"),
        ("all detached", triplet_all_detached, "carries no gradient"),
        ("margin outside", triplet_margin_outside, "it belongs inside"),
        ("mean squares", triplet_of_mean_squares, "averaged over the coordinates"),
        ("margin 1", triplet_with_margin_one, "You used margin 1"),
    ],
    "3.9": [
        ("scores", best_scores, "return their places"),
        ("over prompts", best_of_prompts, "one ROW per prompt"),
        ("worst", best_is_worst, "kept the worst"),
        ("log n", best_log_n, "forgot −(n − 1)/n"),
        ("n of the batch", best_n_is_the_batch, "number of prompts"),
        ("minus one", best_minus_one, "0 at n = 1"),
        ("from one", best_counted_from_one, "counted places from 1"),
        ("n of all", best_n_is_all, "the number of all scores"),
        ("all divided", best_all_divided, "divided all of it by n"),
        ("sign", best_sign_turned, "a KL is never negative"),
    ],
}

RIGHT = {
    "3.1": [
        ("softplus", bt_softplus),
        ("cross-entropy of two classes", bt_as_cross_entropy),
        ("a loop with logaddexp", bt_by_loop),
    ],
    "3.2": [
        ("autograd", gradient_by_autograd),
        ("softmax of two, in a list", gradient_from_the_probability),
    ],
    "3.3": [("two loops, lists", pairs_by_two_loops), ("recursion, a set", pairs_by_recursion)],
    "3.4": [
        ("cumulative log-sum-exp", pl_by_cumulative_sum),
        ("cross-entropy of each choice", pl_by_cross_entropy),
        ("a mask", pl_by_mask),
    ],
    "3.5": [("mean sign", accuracy_by_sign), ("heaviside", accuracy_in_numpy)],
    "3.6": [("a loop", bins_by_loop), ("histograms", bins_by_histogram)],
    "3.7": [("a loop", centre_by_loop), ("a matrix", centre_by_matrix)],
    "3.8": [
        ("pairwise_distance", triplet_by_distance),
        ("torch's own", triplet_by_torch),
        ("einsum", triplet_by_einsum),
    ],
    "3.9": [
        ("sorting, numpy's log", best_by_sorting),
        ("max, a tensor", best_by_max),
        ("a loop", best_by_loop),
    ],
}
