"""Answers to the exercises of lesson 5 that learners give: wrong ones with the hint each must get.

``WRONG`` maps an exercise to (name, function, fragment of its hint); ``RIGHT`` to unusual answers
that must pass.
"""

from __future__ import annotations

import math

import torch

# 5.1 · surrogate and truth ----------------------------------------------------------------------


def _true(tree, logits, rewards):
    return (tree.response_log_probs(logits).exp() * rewards).sum()


def _gain(tree, old_logits, logits, rewards, visits=None, weights=None, advantage=None):
    values = tree.evaluate(old_logits, rewards)
    visits = tree.reach(old_logits) if visits is None else visits
    weights = logits.softmax(-1) if weights is None else weights
    advantage = values.advantage if advantage is None else advantage
    return (visits[:, None] * weights * advantage).sum()


def _start(tree, old_logits, rewards):
    return tree.evaluate(old_logits, rewards).v[0]


def surrogate_without_start(tree, old_logits, logits, rewards):
    return _gain(tree, old_logits, logits, rewards), _true(tree, logits, rewards)


def surrogate_with_new_visits(tree, old_logits, logits, rewards):
    gain = _gain(tree, old_logits, logits, rewards, visits=tree.reach(logits))
    return _start(tree, old_logits, rewards) + gain, _true(tree, logits, rewards)


def surrogate_last(tree, old_logits, logits, rewards):
    surrogate = _start(tree, old_logits, rewards) + _gain(tree, old_logits, logits, rewards)
    return _true(tree, logits, rewards), surrogate


def surrogate_without_visits(tree, old_logits, logits, rewards):
    gain = _gain(tree, old_logits, logits, rewards, visits=torch.ones(len(logits)))
    return _start(tree, old_logits, rewards) + gain, _true(tree, logits, rewards)


def surrogate_with_old_probabilities(tree, old_logits, logits, rewards):
    gain = _gain(tree, old_logits, logits, rewards, weights=old_logits.softmax(-1))
    return _start(tree, old_logits, rewards) + gain, _true(tree, logits, rewards)


def surrogate_with_new_advantages(tree, old_logits, logits, rewards):
    own = tree.evaluate(logits, rewards).advantage
    gain = _gain(tree, old_logits, logits, rewards, advantage=own)
    return _start(tree, old_logits, rewards) + gain, _true(tree, logits, rewards)


def surrogate_with_q(tree, old_logits, logits, rewards):
    q = tree.evaluate(old_logits, rewards).q
    gain = _gain(tree, old_logits, logits, rewards, advantage=q)
    return _start(tree, old_logits, rewards) + gain, _true(tree, logits, rewards)


def surrogate_with_ratio(tree, old_logits, logits, rewards):
    ratio = logits.softmax(-1) / old_logits.softmax(-1)
    gain = _gain(tree, old_logits, logits, rewards, weights=ratio)
    return _start(tree, old_logits, rewards) + gain, _true(tree, logits, rewards)


def true_of_the_old_policy(tree, old_logits, logits, rewards):
    gain = _gain(tree, old_logits, logits, rewards)
    return _start(tree, old_logits, rewards) + gain, _true(tree, old_logits, rewards)


def true_with_log_probs(tree, old_logits, logits, rewards):
    gain = _gain(tree, old_logits, logits, rewards)
    true = (tree.response_log_probs(logits) * rewards).sum()
    return _start(tree, old_logits, rewards) + gain, true


def surrogate_twice(tree, old_logits, logits, rewards):
    surrogate = _start(tree, old_logits, rewards) + _gain(tree, old_logits, logits, rewards)
    return surrogate, surrogate


def surrogate_detached(tree, old_logits, logits, rewards):
    surrogate, true = surrogate_by_sampling_weights(tree, old_logits, logits, rewards)
    return surrogate.detach(), true.detach()


def surrogate_alone(tree, old_logits, logits, rewards):
    return _start(tree, old_logits, rewards) + _gain(tree, old_logits, logits, rewards)


def surrogate_by_sampling_weights(tree, old_logits, logits, rewards):
    """E over responses of the old policy of Σ_t ρ_t A_t, as PPO's loss has it."""
    values = tree.evaluate(old_logits, rewards)
    log_rho = logits.log_softmax(-1) - old_logits.log_softmax(-1)
    at = tree.path_prefixes, tree.path_actions
    terms = (log_rho.exp() * values.advantage)[at].masked_fill(~tree.path_mask, 0.0)
    p = tree.response_log_probs(old_logits).exp()
    true = tree.evaluate(logits, rewards).v[0]
    return values.v[0] + (p * terms.sum(-1)).sum(), true


def surrogate_by_loop(tree, old_logits, logits, rewards):
    values = tree.evaluate(old_logits, rewards)
    visits, p = tree.reach(old_logits), logits.softmax(-1)
    surrogate = values.v[0]
    for node in range(len(tree.prefixes)):
        surrogate = surrogate + visits[node] * torch.dot(p[node], values.q[node] - values.v[node])
    return surrogate, torch.dot(tree.response_log_probs(logits).exp(), rewards)


# 5.2 · the worst gap ----------------------------------------------------------------------------


def _variation(old_logits, logits):
    return 0.5 * (logits.softmax(-1) - old_logits.softmax(-1)).abs().sum(-1)


def _largest(tree, old_logits, rewards):
    return tree.evaluate(old_logits, rewards).advantage.abs().max()


def _pairs(tree):
    return tree.longest * (tree.longest - 1)


def gap_without_half(tree, old_logits, logits, rewards):
    alpha = 2 * _variation(old_logits, logits).max()
    return 2 * _largest(tree, old_logits, rewards) * _pairs(tree) * alpha**2


def gap_with_mean_variation(tree, old_logits, logits, rewards):
    alpha = _variation(old_logits, logits).mean()
    return 2 * _largest(tree, old_logits, rewards) * _pairs(tree) * alpha**2


def gap_not_squared(tree, old_logits, logits, rewards):
    alpha = _variation(old_logits, logits).max()
    return 2 * _largest(tree, old_logits, rewards) * _pairs(tree) * alpha


def gap_signed_advantage(tree, old_logits, logits, rewards):
    alpha = _variation(old_logits, logits).max()
    return 2 * tree.evaluate(old_logits, rewards).advantage.max() * _pairs(tree) * alpha**2


def gap_new_advantages(tree, old_logits, logits, rewards):
    alpha = _variation(old_logits, logits).max()
    return 2 * _largest(tree, logits, rewards) * _pairs(tree) * alpha**2


def gap_length_squared(tree, old_logits, logits, rewards):
    alpha = _variation(old_logits, logits).max()
    return 2 * _largest(tree, old_logits, rewards) * tree.longest**2 * alpha**2


def gap_one_token(tree, old_logits, logits, rewards):
    alpha = _variation(old_logits, logits).max()
    return 4 * _largest(tree, old_logits, rewards) * alpha**2


def gap_by_kl(tree, old_logits, logits, rewards):
    p, q = old_logits.log_softmax(-1), logits.log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1).max()
    return _largest(tree, old_logits, rewards) * _pairs(tree) * kl


def gap_of_logits(tree, old_logits, logits, rewards):
    alpha = (0.5 * (logits - old_logits).abs().sum(-1)).max()
    return 2 * _largest(tree, old_logits, rewards) * _pairs(tree) * alpha**2


def gap_by_sum_over_tokens(tree, old_logits, logits, rewards):
    """Count Σ_t 2tα · 2αε term by term, with the total variation as a sum of positive parts."""
    difference = logits.softmax(-1) - old_logits.softmax(-1)
    alpha = float(difference.clamp(min=0).sum(-1).max())
    largest = float(_largest(tree, old_logits, rewards))
    return math.fsum(2 * t * alpha * 2 * alpha * largest for t in range(tree.longest))


def gap_by_overlap(tree, old_logits, logits, rewards):
    alpha = 1 - torch.minimum(logits.softmax(-1), old_logits.softmax(-1)).sum(-1).min()
    values = tree.evaluate(old_logits, rewards)
    largest = torch.maximum(values.advantage.max(), -values.advantage.min())
    return largest * alpha.clamp(min=0).square() * 2 * _pairs(tree)


# 5.3 · the four quadrants -----------------------------------------------------------------------


def _outside(ratios, epsilon):
    return (ratios < 1 - epsilon) | (ratios > 1 + epsilon)


def _is_stopped(ratios, advantages, epsilon):
    good = (advantages > 0) & (ratios > 1 + epsilon)
    return good | ((advantages < 0) & (ratios < 1 - epsilon))


def gradient_zero_outside(ratios, advantages, epsilon):
    return torch.where(_outside(ratios, epsilon), 0.0, ratios * advantages)


def gradient_wrong_side(ratios, advantages, epsilon):
    stopped = _is_stopped(ratios, -advantages, epsilon)
    return torch.where(stopped, 0.0, ratios * advantages)


def gradient_good_actions_alone(ratios, advantages, epsilon):
    stopped = (advantages > 0) & (ratios > 1 + epsilon)
    return torch.where(stopped, 0.0, ratios * advantages)


def gradient_above_whatever_the_sign(ratios, advantages, epsilon):
    return torch.where(ratios > 1 + epsilon, 0.0, ratios * advantages)


def gradient_in_the_ratio(ratios, advantages, epsilon):
    return torch.where(_is_stopped(ratios, advantages, epsilon), 0.0, advantages)


def gradient_is_the_value(ratios, advantages, epsilon):
    clipped = ratios.clamp(1 - epsilon, 1 + epsilon)
    return torch.minimum(ratios * advantages, clipped * advantages)


def gradient_of_clipped_ratio(ratios, advantages, epsilon):
    return ratios.clamp(1 - epsilon, 1 + epsilon) * advantages


def gradient_unclipped(ratios, advantages, epsilon):
    return ratios * advantages


def gradient_of_the_loss(ratios, advantages, epsilon):
    return -torch.where(_is_stopped(ratios, advantages, epsilon), 0.0, ratios * advantages)


def gradient_by_autograd(ratios, advantages, epsilon):
    log_probs = ratios.log().requires_grad_(True)
    rho = log_probs.exp()
    clipped = rho.clamp(1 - epsilon, 1 + epsilon)
    objective = torch.minimum(rho * advantages, clipped * advantages)
    return torch.autograd.grad(objective.sum(), log_probs)[0]


def gradient_by_which_term_is_lower(ratios, advantages, epsilon):
    low, high = 1 - epsilon, 1 + epsilon
    clipped = torch.max(torch.min(ratios, torch.full_like(ratios, high)), torch.tensor(low))
    chosen = (ratios * advantages <= clipped.to(ratios) * advantages).to(ratios.dtype)
    return chosen * ratios * advantages


# 5.4 · clip fraction ----------------------------------------------------------------------------


def _rho(log_probs, old_log_probs):
    return (log_probs - old_log_probs).exp()


def _counted(hit, mask, dtype):
    return (hit & mask).sum().to(dtype) / mask.sum()


def fraction_of_all_outside(log_probs, old_log_probs, advantages, mask, epsilon):
    hit = _outside(_rho(log_probs, old_log_probs), epsilon)
    return _counted(hit, mask, log_probs.dtype)


def fraction_of_wrong_quadrants(log_probs, old_log_probs, advantages, mask, epsilon):
    hit = _is_stopped(_rho(log_probs, old_log_probs), -advantages, epsilon)
    return _counted(hit, mask, log_probs.dtype)


def fraction_of_good_actions(log_probs, old_log_probs, advantages, mask, epsilon):
    hit = (advantages > 0) & (_rho(log_probs, old_log_probs) > 1 + epsilon)
    return _counted(hit, mask, log_probs.dtype)


def fraction_of_all_positions(log_probs, old_log_probs, advantages, mask, epsilon):
    hit = _is_stopped(_rho(log_probs, old_log_probs), advantages, epsilon)
    return (hit & mask).to(log_probs.dtype).mean()


def fraction_of_log_ratio(log_probs, old_log_probs, advantages, mask, epsilon):
    log_rho = log_probs - old_log_probs
    hit = ((advantages > 0) & (log_rho > epsilon)) | ((advantages < 0) & (log_rho < -epsilon))
    return _counted(hit, mask, log_probs.dtype)


def fraction_upside_down(log_probs, old_log_probs, advantages, mask, epsilon):
    hit = _is_stopped(_rho(old_log_probs, log_probs), advantages, epsilon)
    return _counted(hit, mask, log_probs.dtype)


def fraction_as_a_count(log_probs, old_log_probs, advantages, mask, epsilon):
    hit = _is_stopped(_rho(log_probs, old_log_probs), advantages, epsilon)
    return (hit & mask).sum().to(log_probs.dtype)


def fraction_of_rows(log_probs, old_log_probs, advantages, mask, epsilon):
    hit = _is_stopped(_rho(log_probs, old_log_probs), advantages, epsilon) & mask
    return (hit.sum(1).to(log_probs.dtype) / mask.sum(1)).mean()


def fraction_with_neutral_actions(log_probs, old_log_probs, advantages, mask, epsilon):
    rho = _rho(log_probs, old_log_probs)
    stopped = torch.where(advantages >= 0, rho > 1 + epsilon, rho < 1 - epsilon)
    return stopped[mask].to(log_probs.dtype).mean()


def fraction_by_gradient(log_probs, old_log_probs, advantages, mask, epsilon):
    """Count the counted tokens whose gradient is 0 though their advantage is not."""
    ratios, chosen = _rho(log_probs, old_log_probs)[mask], advantages[mask]
    slope = gradient_by_autograd(ratios, chosen, epsilon)
    return ((slope == 0) & (chosen != 0)).to(log_probs.dtype).mean()


def fraction_by_signs(log_probs, old_log_probs, advantages, mask, epsilon):
    signed = advantages.sign() * (_rho(log_probs, old_log_probs) - 1)
    return float((signed[mask] > epsilon).double().mean())


# 5.5 · approximate KL ---------------------------------------------------------------------------


def _mean(values, mask):
    return values.masked_fill(~mask, 0.0).sum() / mask.sum()


def _k123(log_rho, reduce):
    return tuple(map(reduce, (-log_rho, 0.5 * log_rho**2, log_rho.exp() - 1 - log_rho)))


def kl_of_the_wrong_direction(log_probs, old_log_probs, mask):
    return _k123(old_log_probs - log_probs, lambda k: _mean(k, mask))


def kl_k3_upside_down(log_probs, old_log_probs, mask):
    log_rho = log_probs - old_log_probs
    k1, k2, _ = _k123(log_rho, lambda k: _mean(k, mask))
    return k1, k2, _mean((-log_rho).exp() - 1 + log_rho, mask)


def kl_k3_without_one(log_probs, old_log_probs, mask):
    log_rho = log_probs - old_log_probs
    k1, k2, _ = _k123(log_rho, lambda k: _mean(k, mask))
    return k1, k2, _mean(log_rho.exp() - log_rho, mask)


def kl_k2_without_half(log_probs, old_log_probs, mask):
    log_rho = log_probs - old_log_probs
    k1, k2, k3 = _k123(log_rho, lambda k: _mean(k, mask))
    return k1, 2 * k2, k3


def kl_k1_absolute(log_probs, old_log_probs, mask):
    log_rho = log_probs - old_log_probs
    _, k2, k3 = _k123(log_rho, lambda k: _mean(k, mask))
    return _mean(log_rho.abs(), mask), k2, k3


def kl_over_the_padding(log_probs, old_log_probs, mask):
    return _k123(log_probs - old_log_probs, lambda k: k.masked_fill(~mask, 0.0).mean())


def kl_per_response(log_probs, old_log_probs, mask):
    return _k123(log_probs - old_log_probs, lambda k: k.masked_fill(~mask, 0.0).sum(1).mean())


def kl_masked_by_product(log_probs, old_log_probs, mask):
    return _k123(log_probs - old_log_probs, lambda k: (k * mask).sum() / mask.sum())


def kl_per_token(log_probs, old_log_probs, mask):
    return _k123(log_probs - old_log_probs, lambda k: k.masked_fill(~mask, 0.0))


def kl_by_selection(log_probs, old_log_probs, mask):
    log_rho = (log_probs - old_log_probs)[mask]
    return -log_rho.mean(), log_rho.square().mean() / 2, (torch.expm1(log_rho) - log_rho).mean()


def kl_as_a_list_of_numbers(log_probs, old_log_probs, mask):
    n = int(mask.sum())
    log_rho = [float(x) for x in (log_probs - old_log_probs)[mask]]
    return [
        -math.fsum(log_rho) / n,
        0.5 * math.fsum(x * x for x in log_rho) / n,
        math.fsum(math.exp(x) - 1 - x for x in log_rho) / n,
    ]


# 5.6 · early stopping ---------------------------------------------------------------------------


def _k3(log_probs, old_log_probs, mask):
    log_rho = (log_probs - old_log_probs)[mask]
    return log_rho.exp() - 1 - log_rho


def stop_below(log_probs, old_log_probs, mask, max_kl):
    return float(_k3(log_probs, old_log_probs, mask).mean()) < max_kl


def stop_by_k1(log_probs, old_log_probs, mask, max_kl):
    return not float((old_log_probs - log_probs)[mask].mean()) <= max_kl


def stop_by_size_of_k1(log_probs, old_log_probs, mask, max_kl):
    return not abs(float((old_log_probs - log_probs)[mask].mean())) <= max_kl


def stop_by_reversed_k3(log_probs, old_log_probs, mask, max_kl):
    return not float(_k3(old_log_probs, log_probs, mask).mean()) <= max_kl


def stop_per_response(log_probs, old_log_probs, mask, max_kl):
    log_rho = (log_probs - old_log_probs).masked_fill(~mask, 0.0)
    return not float((log_rho.exp() - 1 - log_rho).sum(1).mean()) <= max_kl


def stop_at_the_largest_token(log_probs, old_log_probs, mask, max_kl):
    return not float(_k3(log_probs, old_log_probs, mask).max()) <= max_kl


def stop_diluted_by_padding(log_probs, old_log_probs, mask, max_kl):
    log_rho = (log_probs - old_log_probs).masked_fill(~mask, 0.0)
    return not float((log_rho.exp() - 1 - log_rho).mean()) <= max_kl


def stop_without_mask(log_probs, old_log_probs, mask, max_kl):
    return not float(_k3(log_probs, old_log_probs, torch.ones_like(mask)).mean()) <= max_kl


def stop_but_not_at_nan(log_probs, old_log_probs, mask, max_kl):
    return bool(_k3(log_probs, old_log_probs, mask).mean() > max_kl)


def stop_at_the_limit(log_probs, old_log_probs, mask, max_kl):
    return not float(_k3(log_probs, old_log_probs, mask).mean()) < max_kl


def stop_by_tensor(log_probs, old_log_probs, mask, max_kl):
    return ~(_k3(log_probs, old_log_probs, mask).mean() <= max_kl)


def stop_by_two_questions(log_probs, old_log_probs, mask, max_kl):
    total, count = 0.0, 0
    for now, before, counts in zip(
        log_probs.flatten().tolist(),
        old_log_probs.flatten().tolist(),
        mask.flatten().tolist(),
        strict=True,
    ):
        if counts:
            total += math.exp(now - before) - 1 - (now - before)
            count += 1
    return math.isnan(total) or total > max_kl * count


# 5.7 · the natural step -------------------------------------------------------------------------


def _quotient(gradient, below):
    return torch.where(below > 0, gradient / below, torch.zeros_like(gradient))


def _information(logits, visits):
    return visits[:, None] * logits.softmax(-1)


def _scaled(logits, gradient, direction, max_kl):
    slope = (gradient * direction).sum()
    if slope <= 0:
        return logits.clone()
    return logits + (2 * max_kl / slope).sqrt() * direction


def natural_plain_direction(logits, gradient, visits, max_kl):
    return _scaled(logits, gradient, gradient, max_kl)


def natural_without_visits(logits, gradient, visits, max_kl):
    return _scaled(logits, gradient, gradient / logits.softmax(-1), max_kl)


def natural_without_policy(logits, gradient, visits, max_kl):
    direction = _quotient(gradient, visits[:, None].expand_as(gradient))
    return _scaled(logits, gradient, direction, max_kl)


def natural_multiplied(logits, gradient, visits, max_kl):
    return _scaled(logits, gradient, gradient * _information(logits, visits), max_kl)


def natural_without_two(logits, gradient, visits, max_kl):
    return natural_by_pinv(logits, gradient, visits, max_kl / 2)


def natural_without_root(logits, gradient, visits, max_kl):
    direction = _quotient(gradient, _information(logits, visits))
    slope = (gradient * direction).sum()
    return logits + (2 * max_kl / slope if slope > 0 else 0.0) * direction


def natural_downhill(logits, gradient, visits, max_kl):
    return 2 * logits - natural_by_rows(logits, gradient, visits, max_kl)


def natural_each_row(logits, gradient, visits, max_kl):
    direction = _quotient(gradient, _information(logits, visits))
    slope = (gradient * direction).sum(-1, keepdim=True)
    return logits + (2 * max_kl / slope).sqrt().masked_fill(slope == 0, 0.0) * direction


def natural_step_alone(logits, gradient, visits, max_kl):
    return natural_by_rows(logits, gradient, visits, max_kl) - logits


def natural_as_probabilities(logits, gradient, visits, max_kl):
    return natural_by_rows(logits, gradient, visits, max_kl).softmax(-1)


def natural_nan_at_unvisited(logits, gradient, visits, max_kl):
    direction = gradient / _information(logits, visits)
    return logits + (2 * max_kl / (gradient * direction).sum()).sqrt() * direction


def natural_infinite_without_gradient(logits, gradient, visits, max_kl):
    direction = _quotient(gradient, _information(logits, visits))
    return logits + (2 * max_kl / (gradient * direction).sum()).sqrt() * direction


def natural_hands_back_its_input(logits, gradient, visits, max_kl):
    return natural_by_rows(logits, gradient, visits, max_kl) if gradient.any() else logits


def natural_by_pinv(logits, gradient, visits, max_kl):
    """Build each state's Fisher matrix and use its pseudo-inverse."""
    p = logits.softmax(-1)
    fisher = visits[:, None, None] * (torch.diag_embed(p) - p[:, :, None] * p[:, None, :])
    inverse = torch.linalg.pinv(fisher.double(), rtol=1e-6, hermitian=True).to(logits.dtype)
    direction = (inverse @ gradient[:, :, None]).squeeze(-1)
    return _scaled(logits, gradient, direction, max_kl)


def natural_by_rows(logits, gradient, visits, max_kl):
    """Row by row in plain Python, skipping states that are never visited."""
    direction = torch.zeros_like(gradient)
    slope = 0.0
    for s, weight in enumerate(visits.tolist()):
        if weight == 0:
            continue
        for a, probability in enumerate(logits[s].softmax(-1).tolist()):
            direction[s, a] = gradient[s, a] / (weight * probability)
            slope += float(gradient[s, a] * direction[s, a])
    return logits + (math.sqrt(2 * max_kl / slope) if slope else 0.0) * direction


WRONG = {
    "5.1": [
        ("the gain alone", surrogate_without_start, "You forgot J(π_old)"),
        ("visits of the new policy", surrogate_with_new_visits, "visits of the NEW policy"),
        ("wrong way round", surrogate_last, "the pair stands the wrong way round"),
        ("no visits", surrogate_without_visits, "You left out the visits"),
        ("probabilities of the old policy", surrogate_with_old_probabilities, "for every π"),
        ("advantages of the new policy", surrogate_with_new_advantages, "for every π"),
        ("Q for A", surrogate_with_q, "You took Q for A"),
        ("ratio for probability", surrogate_with_ratio, "with the ratio"),
        ("J of the old policy", true_of_the_old_policy, "J of the OLD policy"),
        ("log-probabilities as weights", true_with_log_probs, "apply .exp() first"),
        ("the surrogate twice", surrogate_twice, "the surrogate again"),
        ("detached", surrogate_detached, "carries no gradient"),
        ("one number", surrogate_alone, "Return a pair"),
    ],
    "5.2": [
        ("no half", gap_without_half, "You forgot the ½"),
        ("mean variation", gap_with_mean_variation, "You averaged the total variation"),
        ("not squared", gap_not_squared, "You forgot the square"),
        ("signed advantage", gap_signed_advantage, "the worst may be negative"),
        ("advantages of the new policy", gap_new_advantages, "advantages of the NEW policy"),
        ("L squared", gap_length_squared, "the first token has no past"),
        ("one token", gap_one_token, "You forgot to sum over the tokens"),
        ("by KL", gap_by_kl, "You gave the bound by KL"),
        ("logits", gap_of_logits, "You compared logits"),
    ],
    "5.3": [
        ("zero outside", gradient_zero_outside, "You set every gradient outside"),
        ("wrong side", gradient_wrong_side, "You stop the wrong side"),
        ("good actions alone", gradient_good_actions_alone, "one sign of the advantage alone"),
        ("above, whatever the sign", gradient_above_whatever_the_sign, "whatever the sign of A"),
        ("in the ratio", gradient_in_the_ratio, "the gradient in the ratio"),
        ("the value", gradient_is_the_value, "the value of the objective"),
        ("clipped ratio", gradient_of_clipped_ratio, "You clipped the ratio in the gradient"),
        ("unclipped", gradient_unclipped, "You ignored the clip"),
        ("of the loss", gradient_of_the_loss, "the gradient of the LOSS"),
    ],
    "5.4": [
        ("all outside", fraction_of_all_outside, "You counted every ratio outside"),
        ("wrong quadrants", fraction_of_wrong_quadrants, "that the clip leaves alone"),
        ("good actions alone", fraction_of_good_actions, "You counted good actions alone"),
        ("all positions", fraction_of_all_positions, "You averaged over the padding too"),
        ("log ratio", fraction_of_log_ratio, "You compared log ρ with ε"),
        ("upside down", fraction_upside_down, "that the clip leaves alone"),
        ("a count", fraction_as_a_count, "You gave the number of tokens"),
        ("rows", fraction_of_rows, "You averaged the rows' shares"),
        ("A = 0", fraction_with_neutral_actions, "You counted tokens with A = 0"),
    ],
    "5.5": [
        ("wrong direction", kl_of_the_wrong_direction, "k1 has the wrong direction"),
        ("k3 upside down", kl_k3_upside_down, "k3 has the wrong direction"),
        ("k3 without −1", kl_k3_without_one, "k3 lost its −1"),
        ("k2 without ½", kl_k2_without_half, "k2 has a factor ½"),
        ("k1 absolute", kl_k1_absolute, "leave out abs"),
        ("over the padding", kl_over_the_padding, "You averaged over the padding too"),
        ("per response", kl_per_response, "You summed over each response"),
        ("mask by product", kl_masked_by_product, "clear the padding"),
        ("per token", kl_per_token, "shape ()"),
    ],
    "5.6": [
        ("below", stop_below, "The other way round"),
        ("k1", stop_by_k1, "it can be NEGATIVE"),
        ("size of k1", stop_by_size_of_k1, "far more noisy than k3"),
        ("k3 reversed", stop_by_reversed_k3, "Your k3 has the wrong direction"),
        ("per response", stop_per_response, "You summed over tokens"),
        ("largest token", stop_at_the_largest_token, "You looked at the LARGEST token"),
        ("diluted", stop_diluted_by_padding, "it dilutes the KL"),
        ("no mask", stop_without_mask, "what stands in the padding was never sampled"),
        ("NaN goes on", stop_but_not_at_nan, "NaN > limit is False"),
        ("at the limit", stop_at_the_limit, "You stopped AT the limit"),
    ],
    "5.7": [
        ("plain direction", natural_plain_direction, "the plain gradient's direction"),
        ("no visits", natural_without_visits, "You forgot the visits"),
        ("no policy", natural_without_policy, "You forgot π"),
        ("multiplied", natural_multiplied, "You multiplied by π"),
        ("no 2", natural_without_two, "You forgot the 2"),
        ("no root", natural_without_root, "You forgot the root"),
        ("downhill", natural_downhill, "You went down"),
        ("each row", natural_each_row, "a step of its own length"),
        ("the step alone", natural_step_alone, "You returned the step"),
        ("probabilities", natural_as_probabilities, "You returned probabilities"),
        ("NaN at unvisited", natural_nan_at_unvisited, "0/0 is NaN"),
        ("no gradient", natural_infinite_without_gradient, "no gradient, no step"),
        ("its input", natural_hands_back_its_input, "the very tensor that you were given"),
    ],
}

RIGHT = {
    "5.1": [
        ("by sampling weights", surrogate_by_sampling_weights),
        ("by loop", surrogate_by_loop),
    ],
    "5.2": [("term by term", gap_by_sum_over_tokens), ("by overlap", gap_by_overlap)],
    "5.3": [
        ("by autograd", gradient_by_autograd),
        ("by which term is lower", gradient_by_which_term_is_lower),
    ],
    "5.4": [("by gradient", fraction_by_gradient), ("by signs", fraction_by_signs)],
    "5.5": [("by selection", kl_by_selection), ("Python numbers", kl_as_a_list_of_numbers)],
    "5.6": [("a tensor", stop_by_tensor), ("two questions", stop_by_two_questions)],
    "5.7": [("by pseudo-inverse", natural_by_pinv), ("by rows", natural_by_rows)],
}
