"""Answers to the exercises of lesson 9 that learners give: wrong ones with the hint each must get.

``WRONG`` maps an exercise to (name, function, fragment of its hint); ``RIGHT`` to unusual answers
that must pass.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch.nn.functional import logsigmoid

# 9.1 · leave one out ----------------------------------------------------------------------------


def loo_whole_group(scores):
    return scores - scores.mean(1, keepdim=True)


def loo_whole_batch(scores):
    return scores - scores.mean()


def loo_over_prompts(scores):
    return scores - scores.mean(0, keepdim=True)


def loo_divided_by_size(scores):
    return scores - (scores.sum(1, keepdim=True) - scores) / scores.shape[1]


def loo_baseline_alone(scores):
    return (scores.sum(1, keepdim=True) - scores) / (scores.shape[1] - 1)


def loo_sign(scores):
    return loo_baseline_alone(scores) - scores


def loo_sum_of_others(scores):
    return scores - (scores.sum(1, keepdim=True) - scores)


def loo_in_place(scores):
    scores -= loo_baseline_alone(scores)
    return scores


def loo_without_axis(scores):
    return loo_by_pairs(scores).squeeze()


def loo_by_masking(scores):
    size = scores.shape[1]
    others = ~torch.eye(size, dtype=torch.bool)
    rows = [torch.stack([row[i] - row[others[i]].mean() for i in range(size)]) for row in scores]
    return torch.stack(rows)


def loo_by_pairs(scores):
    return (scores[:, :, None] - scores[:, None, :]).sum(2) / (scores.shape[1] - 1)


# 9.2 · over all groups --------------------------------------------------------------------------


def _listed(log_probs, slopes, rewards, advantages, size, groups):
    groups = torch.tensor(list(groups))
    chances = log_probs[groups].sum(1).exp()
    estimates = (advantages(rewards[groups])[..., None] * slopes[groups]).mean(1)
    mean = chances @ estimates
    return chances, estimates, mean, chances @ (estimates - mean).square().sum(1)


def _every(log_probs, size):
    return itertools.product(range(len(log_probs)), repeat=size)


def groups_even(log_probs, slopes, rewards, advantages, group_size):
    _, estimates, _, _ = _listed(
        log_probs, slopes, rewards, advantages, group_size, _every(log_probs, group_size)
    )
    mean = estimates.mean(0)
    return mean, (estimates - mean).square().sum(1).mean()


def groups_summed(log_probs, slopes, rewards, advantages, group_size):
    groups = _every(log_probs, group_size)
    _, _, mean, variance = _listed(log_probs, slopes, rewards, advantages, group_size, groups)
    return group_size * mean, group_size**2 * variance


def groups_without_repetition(log_probs, slopes, rewards, advantages, group_size):
    groups = itertools.permutations(range(len(log_probs)), group_size)
    return _listed(log_probs, slopes, rewards, advantages, group_size, groups)[2:]


def groups_as_sets(log_probs, slopes, rewards, advantages, group_size):
    groups = itertools.combinations_with_replacement(range(len(log_probs)), group_size)
    return _listed(log_probs, slopes, rewards, advantages, group_size, groups)[2:]


def groups_of_scores(log_probs, slopes, rewards, advantages, group_size):
    groups = _every(log_probs, group_size)
    return _listed(log_probs, slopes, rewards, lambda scores: scores, group_size, groups)[2:]


def groups_mean_alone(log_probs, slopes, rewards, advantages, group_size):
    groups = _every(log_probs, group_size)
    return _listed(log_probs, slopes, rewards, advantages, group_size, groups)[2]


def variance_as_length(log_probs, slopes, rewards, advantages, group_size):
    groups = _every(log_probs, group_size)
    chances, e, mean, _ = _listed(log_probs, slopes, rewards, advantages, group_size, groups)
    return mean, chances @ e.square().sum(1)


def variance_by_direction(log_probs, slopes, rewards, advantages, group_size):
    groups = _every(log_probs, group_size)
    chances, e, mean, _ = _listed(log_probs, slopes, rewards, advantages, group_size, groups)
    return mean, chances @ (e - mean).square()


def variance_as_deviation(log_probs, slopes, rewards, advantages, group_size):
    groups = _every(log_probs, group_size)
    _, _, mean, variance = _listed(log_probs, slopes, rewards, advantages, group_size, groups)
    return mean, variance.sqrt()


def variance_from_the_gradient(log_probs, slopes, rewards, advantages, group_size):
    groups = _every(log_probs, group_size)
    chances, e, mean, _ = _listed(log_probs, slopes, rewards, advantages, group_size, groups)
    p = log_probs.exp()
    gradient = p @ ((rewards - p @ rewards)[:, None] * slopes)
    return mean, chances @ (e - gradient).square().sum(1)


def variance_even(log_probs, slopes, rewards, advantages, group_size):
    groups = _every(log_probs, group_size)
    _, e, mean, _ = _listed(log_probs, slopes, rewards, advantages, group_size, groups)
    return mean, (e - mean).square().sum(1).mean()


def groups_by_loop(log_probs, slopes, rewards, advantages, group_size):
    p, mean, second = log_probs.exp().tolist(), 0.0, 0.0
    for group in _every(log_probs, group_size):
        chance = math.prod(p[i] for i in group)
        weights = advantages(rewards[list(group)][None])[0]
        estimate = sum(w * slopes[i] for w, i in zip(weights, group, strict=True)) / group_size
        mean, second = mean + chance * estimate, second + chance * estimate.square().sum()
    return mean, second - mean.square().sum()


def groups_by_index_arithmetic(log_probs, slopes, rewards, advantages, group_size):
    count = len(log_probs)
    number = torch.arange(count**group_size)[:, None]
    groups = number // count ** torch.arange(group_size) % count
    return tuple(_listed(log_probs, slopes, rewards, advantages, group_size, groups.tolist())[2:])


# 9.3 · in units of the deviation ----------------------------------------------------------------


def units_of_the_batch(scores, epsilon=1e-4):
    return (scores - scores.mean(1, keepdim=True)) / (scores.std() + epsilon)


def units_from_the_batch_mean(scores, epsilon=1e-4):
    return (scores - scores.mean()) / (scores.std(1, keepdim=True) + epsilon)


def units_biased(scores, epsilon=1e-4):
    spread = scores.std(1, keepdim=True, correction=0)
    return (scores - scores.mean(1, keepdim=True)) / (spread + epsilon)


def units_of_variance(scores, epsilon=1e-4):
    return (scores - scores.mean(1, keepdim=True)) / (scores.var(1, keepdim=True) + epsilon)


def units_forgotten(scores, epsilon=1e-4):
    return scores - scores.mean(1, keepdim=True)


def units_uncentred(scores, epsilon=1e-4):
    return scores / (scores.std(1, keepdim=True) + epsilon)


def units_without_epsilon(scores, epsilon=1e-4):
    return (scores - scores.mean(1, keepdim=True)) / scores.std(1, keepdim=True)


def units_epsilon_under_the_root(scores, epsilon=1e-4):
    spread = (scores.var(1, keepdim=True) + epsilon).sqrt()
    return (scores - scores.mean(1, keepdim=True)) / spread


def units_above_epsilon(scores, epsilon=1e-4):
    centred, spread = scores - scores.mean(1, keepdim=True), scores.std(1, keepdim=True)
    return torch.where(spread > epsilon, centred / (spread + epsilon), 0.0)


def units_over_prompts(scores, epsilon=1e-4):
    return (scores - scores.mean(0)) / (scores.std(0) + epsilon)


def units_of_leave_one_out(scores, epsilon=1e-4):
    return loo_by_pairs(scores) / (scores.std(1, keepdim=True) + epsilon)


def units_by_hand(scores, epsilon=1e-4):
    centred = scores - scores.sum(1, keepdim=True) / scores.shape[1]
    spread = (centred.square().sum(1, keepdim=True) / (scores.shape[1] - 1)).sqrt()
    return centred / (spread + epsilon)


def units_from_pairs(scores, epsilon=1e-4):
    size = scores.shape[1]
    gaps = scores[:, :, None] - scores[:, None, :]
    spread = (gaps.square().sum((1, 2)) / (2 * size * (size - 1))).sqrt()
    return gaps.mean(2) / (spread[:, None] + epsilon)


# 9.4 · what a prompt weighs ---------------------------------------------------------------------


def _first(advantages, mark, right, others):
    row = [mark] + [1.0] * right + [0.0] * (others - right)
    return float(advantages(torch.tensor([row], dtype=torch.float64))[0, 0])


def _binomial(count, right, p):
    return math.comb(count, right) * p**right * (1 - p) ** (count - right)


def _weighed(p, group_size, advantages, value):
    others = group_size - 1
    return sum(
        _binomial(others, c, p)
        * value(_first(advantages, 1.0, c, others), _first(advantages, 0.0, c, others))
        for c in range(group_size)
    )


def weight_of_right_alone(p, group_size, advantages):
    return _weighed(p, group_size, advantages, lambda right, wrong: right)


def weight_added(p, group_size, advantages):
    return _weighed(p, group_size, advantages, lambda right, wrong: right + wrong)


def weight_turned(p, group_size, advantages):
    return _weighed(p, group_size, advantages, lambda right, wrong: wrong - right)


def weight_of_outcomes(p, group_size, advantages):
    return _weighed(p, group_size, advantages, lambda right, wrong: p * right - (1 - p) * wrong)


def weight_even(p, group_size, advantages):
    others = group_size - 1
    gaps = [
        _first(advantages, 1.0, c, others) - _first(advantages, 0.0, c, others)
        for c in range(group_size)
    ]
    return sum(gaps) / group_size


def weight_without_ways(p, group_size, advantages):
    others = group_size - 1
    return sum(
        p**c
        * (1 - p) ** (others - c)
        * (_first(advantages, 1.0, c, others) - _first(advantages, 0.0, c, others))
        for c in range(group_size)
    )


def weight_of_wrong_chance(p, group_size, advantages):
    return _weighed(1 - p, group_size, advantages, lambda right, wrong: right - wrong)


def weight_in_float32(p, group_size, advantages):
    return _weighed(p, group_size, lambda scores: advantages(scores.float()), lambda a, b: a - b)


def weight_from_whole_groups(p, group_size, advantages):
    """Sum over the marks of all G: Σ_i A_i · (m_i − p) is G · p(1 − p) times the weight."""
    total = 0.0
    for right in range(group_size + 1):
        marks = torch.tensor([[1.0] * right + [0.0] * (group_size - right)], dtype=torch.float64)
        total += _binomial(group_size, right, p) * float((advantages(marks) * (marks - p)).sum())
    return total / (group_size * p * (1 - p))


def weight_as_arrays(p, group_size, advantages):
    others = group_size - 1
    counts = np.arange(group_size)
    chances = np.array([_binomial(others, int(c), p) for c in counts])
    marks = torch.from_numpy((np.arange(others)[None, :] < counts[:, None]).astype(float))
    ones = torch.ones(group_size, 1, dtype=torch.float64)
    right = advantages(torch.cat([ones, marks], 1))[:, 0].numpy()
    wrong = advantages(torch.cat([0 * ones, marks], 1))[:, 0].numpy()
    return float(chances @ (right - wrong))


# 9.5 · three means ------------------------------------------------------------------------------


def _clean(x, mask):
    return x.masked_fill(~mask, 0.0)


def means_over_padding(x, mask, length):
    return x.mean(), x.mean(), x.mean()


def means_by_product(x, mask, length):
    kept = x * mask
    return (
        kept.sum() / mask.sum(),
        (kept.sum(1) / mask.sum(1)).mean(),
        kept.sum() / (len(x) * length),
    )


def means_padded_denominator(x, mask, length):
    kept = _clean(x, mask)
    return kept.mean(), (kept.sum(1) / mask.sum(1)).mean(), kept.sum() / (len(x) * length)


def means_all_of_responses(x, mask, length):
    of_responses = (_clean(x, mask).sum(1) / mask.sum(1)).mean()
    return of_responses, of_responses, of_responses


def means_responses_as_tokens(x, mask, length):
    kept = _clean(x, mask)
    of_tokens = kept.sum() / mask.sum()
    return of_tokens, of_tokens, kept.sum() / (len(x) * length)


def means_without_batch(x, mask, length):
    kept = _clean(x, mask)
    return (
        kept.sum() / mask.sum(),
        (kept.sum(1) / mask.sum(1)).mean(),
        kept.sum() / length,
    )


def means_responses_summed(x, mask, length):
    kept = _clean(x, mask)
    return (
        kept.sum() / mask.sum(),
        (kept.sum(1) / mask.sum(1)).sum(),
        kept.sum() / (len(x) * length),
    )


def means_by_width(x, mask, length):
    kept = _clean(x, mask)
    return kept.sum() / mask.sum(), (kept.sum(1) / mask.sum(1)).mean(), kept.mean()


def means_detached(x, mask, length):
    return tuple(mean.detach() for mean in means_by_selection(x, mask, length))


def means_of_the_first(x, mask, length):
    rows = [row[:count] for row, count in zip(x, mask.sum(1).tolist(), strict=True)]
    everything = torch.cat(rows)
    return (
        everything.mean(),
        torch.stack([row.mean() for row in rows]).mean(),
        everything.sum() / length / len(rows),
    )


def means_of_what_is_not_zero(x, mask, length):
    kept = _clean(x, mask)
    counts = (kept != 0).sum(1)
    return kept.sum() / counts.sum(), (kept.sum(1) / counts).mean(), kept.sum(1).mean() / length


def means_by_selection(x, mask, length):
    rows = [row[keep] for row, keep in zip(x, mask, strict=True)]
    everything = torch.cat(rows)
    return (
        everything.mean(),
        torch.stack([row.mean() for row in rows]).mean(),
        everything.sum() / length / len(rows),
    )


def means_by_weights(x, mask, length):
    kept = torch.where(mask, x, torch.zeros_like(x))
    counts = mask.sum(1, keepdim=True)
    of_responses = (kept * (mask / counts)).sum() / len(x)
    return kept.sum() / counts.sum(), of_responses, (kept / length).sum(1).mean()


# 9.6 · clip the weight --------------------------------------------------------------------------


def _rho(log_probs, old_log_probs):
    return (log_probs - old_log_probs).exp()


def weight_sign(log_probs, old_log_probs, advantages, epsilon_high):
    weight = _rho(log_probs, old_log_probs).clamp(max=1 + epsilon_high).detach()
    return weight * advantages * log_probs


def weight_unclipped(log_probs, old_log_probs, advantages, epsilon_high):
    return -_rho(log_probs, old_log_probs).detach() * advantages * log_probs


def weight_clipped_below(log_probs, old_log_probs, advantages, epsilon_high):
    weight = _rho(log_probs, old_log_probs).clamp(1 - epsilon_high, 1 + epsilon_high).detach()
    return -weight * advantages * log_probs


def weight_clipped_at_epsilon(log_probs, old_log_probs, advantages, epsilon_high):
    weight = _rho(log_probs, old_log_probs).clamp(max=epsilon_high).detach()
    return -weight * advantages * log_probs


def weight_without_log(log_probs, old_log_probs, advantages, epsilon_high):
    return -_rho(log_probs, old_log_probs).clamp(max=1 + epsilon_high) * advantages


def weight_of_ppo(log_probs, old_log_probs, advantages, epsilon_high):
    rho = _rho(log_probs, old_log_probs)
    clipped = rho.clamp(1 - epsilon_high, 1 + epsilon_high)
    return torch.maximum(-rho * advantages, -clipped * advantages)


def weight_with_gradient(log_probs, old_log_probs, advantages, epsilon_high):
    weight = _rho(log_probs, old_log_probs).clamp(max=1 + epsilon_high)
    return -weight * advantages * log_probs


def weight_upside_down(log_probs, old_log_probs, advantages, epsilon_high):
    weight = _rho(old_log_probs, log_probs).clamp(max=1 + epsilon_high).detach()
    return -weight * advantages * log_probs


def weight_stops_tokens(log_probs, old_log_probs, advantages, epsilon_high):
    rho = _rho(log_probs, old_log_probs).detach()
    moving = torch.where(rho > 1 + epsilon_high, log_probs.detach(), log_probs)
    return -rho.clamp(max=1 + epsilon_high) * advantages * moving


def weight_by_minimum(log_probs, old_log_probs, advantages, epsilon_high):
    with torch.no_grad():
        top = torch.full_like(log_probs, 1 + epsilon_high)
        weight = torch.minimum(_rho(log_probs, old_log_probs), top)
    return -(weight * advantages) * log_probs


def weight_in_logs(log_probs, old_log_probs, advantages, epsilon_high):
    log_weight = (log_probs - old_log_probs).detach().clamp(max=math.log1p(epsilon_high))
    return -advantages * log_weight.exp() * log_probs


# 9.7 · pass@k -----------------------------------------------------------------------------------


def pass_with_replacement(correct, k):
    return 1 - (1 - correct.double().mean(1)) ** k


def pass_complement(correct, k):
    return 1 - pass_by_comb(correct, k)


def pass_at_one(correct, k):
    return correct.double().mean(1)


def pass_times_k(correct, k):
    return (k * correct.double().mean(1)).clamp(max=1)


def pass_of_the_first(correct, k):
    return correct[:, :k].any(1).double()


def pass_averaged(correct, k):
    return pass_by_comb(correct, k).mean()


def pass_of_all(correct, k):
    n = correct.shape[1]
    return torch.tensor(
        [math.comb(int(c), k) / math.comb(n, k) for c in correct.sum(1)], dtype=torch.float64
    )


def pass_from_right_ones(correct, k):
    return 1 - pass_of_all(correct, k)


def pass_in_float32(correct, k):
    return pass_by_comb(correct, k).float()


def pass_by_comb(correct, k):
    n = correct.shape[1]
    values = [1 - math.comb(n - int(c), k) / math.comb(n, k) for c in correct.sum(1)]
    return torch.tensor(values, dtype=torch.float64)


def pass_by_turns(correct, k):
    """Draw one after the other: the chance that the next one is wrong, too."""
    n = correct.shape[1]
    wrong = (n - correct.sum(1)).double()
    none = torch.ones(len(correct), dtype=torch.float64)
    for drawn in range(k):
        none = none * ((wrong - drawn) / (n - drawn)).clamp(min=0)
    return 1 - none


def pass_by_log_gamma(correct, k):
    n = correct.shape[1]
    values = []
    for c in correct.sum(1).tolist():
        if n - c < k:
            values.append(1.0)
            continue
        log = math.lgamma(n - c + 1) - math.lgamma(n - c - k + 1)
        values.append(1 - math.exp(log - math.lgamma(n + 1) + math.lgamma(n - k + 1)))
    return torch.from_numpy(np.array(values))


# 9.8 · keep what passes -------------------------------------------------------------------------


def keep_everything(prompts, responses, scores, most):
    return keep_by_dict(prompts, responses, [1.0] * len(prompts), most)


def keep_the_wrong(prompts, responses, scores, most):
    return keep_by_dict(prompts, responses, [1.0 - s for s in scores], most)


def keep_with_copies(prompts, responses, scores, most):
    kept, count = [], {}
    for prompt, response, score in zip(prompts, responses, scores, strict=True):
        if score == 1 and count.get(prompt, 0) < most:
            kept.append((prompt, response))
            count[prompt] = count.get(prompt, 0) + 1
    return kept


def keep_without_limit(prompts, responses, scores, most):
    return keep_by_dict(prompts, responses, scores, len(prompts))


def keep_texts_once_in_all(prompts, responses, scores, most):
    kept, seen = [], set()
    for prompt, response, score in zip(prompts, responses, scores, strict=True):
        if score == 1 and response not in seen:
            seen.add(response)
            kept.append((prompt, response))
    return kept


def keep_few_in_all(prompts, responses, scores, most):
    kept = []
    for prompt, response, score in zip(prompts, responses, scores, strict=True):
        if score == 1 and (prompt, response) not in kept and len(kept) < most:
            kept.append((prompt, response))
    return kept


def keep_texts_alone(prompts, responses, scores, most):
    return [response for _, response in keep_by_dict(prompts, responses, scores, most)]


def keep_copies_count(prompts, responses, scores, most):
    kept, count = [], {}
    for prompt, response, score in zip(prompts, responses, scores, strict=True):
        if score == 1:
            count[prompt] = count.get(prompt, 0) + 1
            if count[prompt] <= most and (prompt, response) not in kept:
                kept.append((prompt, response))
    return kept


def keep_wrong_ones_count(prompts, responses, scores, most):
    right = {
        tuple(pair) for *pair, score in zip(prompts, responses, scores, strict=True) if score == 1
    }
    return [pair for pair in keep_everything(prompts, responses, scores, most) if pair in right]


def keep_the_last(prompts, responses, scores, most):
    found = {}
    for prompt, text in keep_by_dict(prompts, responses, scores, len(prompts)):
        found.setdefault(prompt, []).append(text)
    return [(prompt, text) for prompt, texts in found.items() for text in texts[-most:]]


def keep_sorted(prompts, responses, scores, most):
    pairs = sorted(keep_by_dict(prompts, responses, scores, len(prompts)))
    return keep_by_dict(*zip(*pairs, strict=True), [1.0] * len(pairs), most) if pairs else []


def keep_by_dict(prompts, responses, scores, most):
    found = {}
    for prompt, response, score in zip(prompts, responses, scores, strict=True):
        if score == 1:
            found.setdefault(prompt, {})[response] = None
    return [(prompt, text) for prompt, texts in found.items() for text in list(texts)[:most]]


def keep_by_filter(prompts, responses, scores, most):
    kept = []
    for prompt, response, score in zip(prompts, responses, scores, strict=True):
        of_prompt = [pair for pair in kept if pair[0] == prompt]
        if score > 0.5 and (prompt, response) not in kept and len(of_prompt) < most:
            kept.append((prompt, response))
    return kept


# 9.9 · thumbs -----------------------------------------------------------------------------------


def _thumbs(inside, up, good, bad):
    return torch.where(up, good * torch.sigmoid(-inside), bad * torch.sigmoid(inside))


def thumbs_exchanged(policy, reference, up, z, beta, good, bad):
    return _thumbs(-beta * (policy - reference - z.detach()), up, good, bad)


def thumbs_without_point(policy, reference, up, z, beta, good, bad):
    return _thumbs(beta * (policy - reference), up, good, bad)


def thumbs_without_beta(policy, reference, up, z, beta, good, bad):
    return _thumbs(policy - reference - z.detach(), up, good, bad)


def thumbs_without_reference(policy, reference, up, z, beta, good, bad):
    return _thumbs(beta * (policy - z.detach()), up, good, bad)


def thumbs_all_up(policy, reference, up, z, beta, good, bad):
    inside = beta * (policy - reference - z.detach())
    return torch.where(up, good, bad) * torch.sigmoid(-inside)


def thumbs_by_log(policy, reference, up, z, beta, good, bad):
    inside = beta * (policy - reference - z.detach())
    return torch.where(up, -good * logsigmoid(inside), -bad * logsigmoid(-inside))


def thumbs_weights_exchanged(policy, reference, up, z, beta, good, bad):
    return _thumbs(beta * (policy - reference - z.detach()), up, bad, good)


def thumbs_without_weights(policy, reference, up, z, beta, good, bad):
    return _thumbs(beta * (policy - reference - z.detach()), up, 1.0, 1.0)


def thumbs_learning_point(policy, reference, up, z, beta, good, bad):
    return _thumbs(beta * (policy - reference - z), up, good, bad)


def thumbs_mean(policy, reference, up, z, beta, good, bad):
    return _thumbs(beta * (policy - reference - z.detach()), up, good, bad).mean()


def thumbs_beta_on_the_ratio(policy, reference, up, z, beta, good, bad):
    return _thumbs(beta * (policy - reference) - z.detach(), up, good, bad)


def thumbs_by_exp(policy, reference, up, z, beta, good, bad):
    sign = torch.where(up, 1.0, -1.0)
    return torch.where(up, good, bad) / (
        1 + (sign * beta * (policy - reference - z.detach())).exp()
    )


def thumbs_by_one_less_sigma(policy, reference, up, z, beta, good, bad):
    above = beta * (policy - reference - z.detach())
    above = torch.where(up, above, -above)
    return torch.where(up, good, bad) * (1 - above.exp() / (1 + above.exp()))


def thumbs_by_sign(policy, reference, up, z, beta, good, bad):
    sign = up.to(policy.dtype) * 2 - 1
    weight = torch.where(up, good, bad)
    return weight * torch.sigmoid(-sign * beta * (policy - reference.detach() - z.detach()))


def thumbs_by_value(policy, reference, up, z, beta, good, bad):
    above = beta * (policy - reference - z.detach())
    value = torch.where(up, good * torch.sigmoid(above), bad * torch.sigmoid(-above))
    return torch.where(up, good, bad) - value


WRONG = {
    "9.1": [
        ("whole group", loo_whole_group, "own score must not stand in"),
        ("whole batch", loo_whole_batch, "mean of the whole batch"),
        ("over prompts", loo_over_prompts, "You averaged over the prompts"),
        ("divided by G", loo_divided_by_size, "the others are G − 1"),
        ("baseline alone", loo_baseline_alone, "You gave the baseline itself"),
        ("sign", loo_sign, "The sign is turned"),
        ("sum of others", loo_sum_of_others, "compared with the SUM of the others"),
        ("without its axis", loo_without_axis, "a single prompt, which keeps its axis"),
        ("in place", loo_in_place, "changed its input"),
    ],
    "9.2": [
        ("even", groups_even, "You gave every group the same weight"),
        ("summed", groups_summed, "You added up over the group"),
        ("no repetition", groups_without_repetition, "groups that hold a response twice"),
        ("as sets", groups_as_sets, "each set of responses once"),
        ("scores", groups_of_scores, "You weighed with the scores themselves"),
        ("mean alone", groups_mean_alone, "Return a pair"),
        ("squared length", variance_as_length, "the mean squared LENGTH"),
        ("by direction", variance_by_direction, "You kept the directions apart"),
        ("deviation", variance_as_deviation, "You took the root"),
        ("from the gradient", variance_from_the_gradient, "measured from the true gradient"),
        ("variance even", variance_even, "weigh the squares with the groups' chances"),
    ],
    "9.3": [
        ("of the batch", units_of_the_batch, "the deviation of the WHOLE batch"),
        ("batch mean", units_from_the_batch_mean, "You subtracted the mean of the whole batch"),
        ("biased", units_biased, "the deviation with 1/G"),
        ("variance", units_of_variance, "You divided by the VARIANCE"),
        ("forgotten", units_forgotten, "You did not divide"),
        ("uncentred", units_uncentred, "You left the group's mean in"),
        ("no epsilon", units_without_epsilon, "gives NaN"),
        ("under the root", units_epsilon_under_the_root, "ε stands under the root"),
        ("above epsilon", units_above_epsilon, "You gave 0 where the deviation is below ε"),
        ("over prompts", units_over_prompts, "You went over the prompts"),
        ("leave one out", units_of_leave_one_out, "You took the leave-one-out baseline"),
    ],
    "9.4": [
        ("right alone", weight_of_right_alone, "the right response alone"),
        ("added", weight_added, "You added the two"),
        ("turned", weight_turned, "You subtracted right from wrong"),
        ("outcomes", weight_of_outcomes, "You weighed with p and 1 − p"),
        ("even", weight_even, "You weighed all counts alike"),
        ("without ways", weight_without_ways, "in how many ways"),
        ("wrong chance", weight_of_wrong_chance, "You turned p and 1 − p round"),
        ("float32", weight_in_float32, "make the scores with dtype=torch.float64"),
    ],
    "9.5": [
        ("over padding", means_over_padding, "You averaged over the padding too"),
        ("by product", means_by_product, "NaN times 0 is NaN"),
        ("padded denominator", means_padded_denominator, "You counted the padding"),
        ("all of responses", means_all_of_responses, "This is the mean of responses"),
        ("tokens", means_responses_as_tokens, "This is the mean over tokens"),
        ("without batch", means_without_batch, "You forgot the number of responses"),
        ("responses summed", means_responses_summed, "You added up the responses"),
        ("of the first", means_of_the_first, "You took the first tokens of each response"),
        ("not zero", means_of_what_is_not_zero, "You counted the tokens that are not 0"),
        ("by width", means_by_width, "You divided by the padded width"),
        ("detached", means_detached, "gradient"),
    ],
    "9.6": [
        ("sign", weight_sign, "The sign is turned"),
        ("unclipped", weight_unclipped, "You did not clip"),
        ("below too", weight_clipped_below, "You clipped from below too"),
        ("at epsilon", weight_clipped_at_epsilon, "You clipped at ε_high"),
        ("without log", weight_without_log, "You forgot log π"),
        ("PPO", weight_of_ppo, "This is PPO's loss"),
        ("gradient", weight_with_gradient, "A gradient goes through the weight"),
        ("upside down", weight_upside_down, "Your ratio stands on its head"),
        ("stops tokens", weight_stops_tokens, "Tokens beyond 1 + ε_high have lost"),
    ],
    "9.7": [
        ("replacement", pass_with_replacement, "WITHOUT putting back"),
        ("complement", pass_complement, "the chance that NO try is right"),
        ("at one", pass_at_one, "This is pass@1"),
        ("times k", pass_times_k, "You multiplied the share by k"),
        ("first k", pass_of_the_first, "You looked at the first k tries"),
        ("averaged", pass_averaged, "You averaged over the prompts"),
        ("all right", pass_of_all, "the chance that ALL k are right"),
        ("right ones", pass_from_right_ones, "You chose from the right ones"),
        ("float32", pass_in_float32, "float64"),
    ],
    "9.8": [
        ("everything", keep_everything, "You kept wrong responses"),
        ("the wrong", keep_the_wrong, "You kept the WRONG ones"),
        ("copies", keep_with_copies, "You kept a text of a prompt more than once"),
        ("no limit", keep_without_limit, "You did not stop at `most`"),
        ("once in all", keep_texts_once_in_all, "because ANOTHER prompt had it"),
        ("few in all", keep_few_in_all, "You stopped at `most` in all"),
        ("copies count", keep_copies_count, "A copy took a place"),
        ("wrong ones count", keep_wrong_ones_count, "A wrong response took a place"),
        ("the last", keep_the_last, "You kept the LAST ones"),
        ("sorted", keep_sorted, "You sorted the texts"),
        ("texts alone", keep_texts_alone, "(prompt, response) pairs"),
    ],
    "9.9": [
        ("exchanged", thumbs_exchanged, "Up and down are exchanged"),
        ("no point", thumbs_without_point, "You forgot the reference point"),
        ("no beta", thumbs_without_beta, "You forgot β"),
        ("no reference", thumbs_without_reference, "You forgot the reference policy"),
        ("all up", thumbs_all_up, "You treated a thumb down like a thumb up"),
        ("by log", thumbs_by_log, "which levels off"),
        ("weights exchanged", thumbs_weights_exchanged, "The weights are exchanged"),
        ("no weights", thumbs_without_weights, "You forgot the weights"),
        ("learning point", thumbs_learning_point, "A gradient goes through z"),
        ("by exp", thumbs_by_exp, "Far from z the gradient is NaN"),
        ("by 1 − σ", thumbs_by_one_less_sigma, "NaN (not a number)"),
        ("mean", thumbs_mean, "a loss for each thumb"),
        ("beta on the ratio", thumbs_beta_on_the_ratio, "You multiplied r̂ alone by β"),
    ],
}

RIGHT = {
    "9.1": [("by masking", loo_by_masking), ("by pairs", loo_by_pairs)],
    "9.2": [("by loop", groups_by_loop), ("by index arithmetic", groups_by_index_arithmetic)],
    "9.3": [("by hand", units_by_hand), ("from pairs", units_from_pairs)],
    "9.4": [("from whole groups", weight_from_whole_groups), ("as arrays", weight_as_arrays)],
    "9.5": [("by selection", means_by_selection), ("by weights", means_by_weights)],
    "9.6": [("by minimum", weight_by_minimum), ("in logs", weight_in_logs)],
    "9.7": [
        ("by comb", pass_by_comb),
        ("by turns", pass_by_turns),
        ("by log gamma", pass_by_log_gamma),
    ],
    "9.8": [("by dict", keep_by_dict), ("by filter", keep_by_filter)],
    "9.9": [("by sign", thumbs_by_sign), ("by value", thumbs_by_value)],
}
