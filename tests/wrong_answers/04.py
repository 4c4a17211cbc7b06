"""Answers to the exercises of lesson 4 that learners give: wrong ones with the hint each must get.

``WRONG`` maps an exercise to (name, function, fragment of its hint); ``RIGHT`` to unusual answers
that must pass.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional


def _keep(values, mask):
    return torch.where(mask, values, torch.zeros_like(values))


# 4.1 · the probability ratio --------------------------------------------------------------------


def ratio_as_log_ratio(log_probs, old_log_probs):
    return log_probs - old_log_probs.detach()


def ratio_inverted(log_probs, old_log_probs):
    return torch.exp(old_log_probs - log_probs)


def ratio_of_logarithms(log_probs, old_log_probs):
    return log_probs / old_log_probs


def ratio_of_exponentials(log_probs, old_log_probs):
    return torch.exp(log_probs) / torch.exp(old_log_probs.detach())


def ratio_not_frozen(log_probs, old_log_probs):
    return torch.exp(log_probs - old_log_probs)


def ratio_all_frozen(log_probs, old_log_probs):
    return torch.exp(log_probs - old_log_probs).detach()


def ratio_difference_of_probabilities(log_probs, old_log_probs):
    return log_probs.exp() - old_log_probs.detach().exp()


def ratio_with_itself(log_probs, old_log_probs):
    return torch.exp(log_probs - log_probs.detach())


def ratio_clipped(log_probs, old_log_probs):
    return torch.exp(log_probs - old_log_probs.detach()).clamp(0.8, 1.2)


def ratio_of_whole_responses(log_probs, old_log_probs):
    log_ratio = (log_probs - old_log_probs.detach()).sum(1, keepdim=True)
    return log_ratio.exp().expand_as(log_probs)


def ratio_in_place(log_probs, old_log_probs):
    with torch.no_grad():
        log_probs -= old_log_probs
    return log_probs.exp()


def ratio_by_sigmoids(log_probs, old_log_probs):
    # σ(d) / σ(−d) = e^d
    difference = log_probs - old_log_probs.detach()
    return torch.sigmoid(difference) / torch.sigmoid(-difference)


def ratio_by_expm1(log_probs, old_log_probs):
    return torch.expm1(log_probs - old_log_probs.data) + 1


def ratio_with_no_grad(log_probs, old_log_probs):
    with torch.no_grad():
        frozen = old_log_probs.clone()
    return (log_probs - frozen).exp()


# 4.2 · generalized advantage estimation ---------------------------------------------------------


def _gae(rewards, values, mask, gamma, lam, *, delta, carry):
    advantages = torch.zeros_like(rewards)
    for row in range(len(rewards)):
        later = next_value = rewards.new_zeros(())
        for t in reversed(range(int(mask[row].sum()))):
            later = delta(rewards[row, t], values[row, t], next_value) + carry * later
            next_value = values[row, t]
            advantages[row, t] = later
    return advantages


def gae_without_gamma_in_the_recursion(rewards, values, mask, gamma, lam):
    return _gae(
        rewards, values, mask, gamma, lam, delta=lambda r, v, n: r + gamma * n - v, carry=lam
    )


def gae_without_lambda(rewards, values, mask, gamma, lam):
    return _gae(
        rewards, values, mask, gamma, lam, delta=lambda r, v, n: r + gamma * n - v, carry=gamma
    )


def gae_one_step_only(rewards, values, mask, gamma, lam):
    return _gae(
        rewards, values, mask, gamma, lam, delta=lambda r, v, n: r + gamma * n - v, carry=0.0
    )


def gae_plus_values(rewards, values, mask, gamma, lam):
    return _keep(gae_by_rows(rewards, values, mask, gamma, lam) + values, mask)


def gae_without_next_value(rewards, values, mask, gamma, lam):
    return _gae(rewards, values, mask, gamma, lam, delta=lambda r, v, n: r - v, carry=gamma * lam)


def gae_through_the_padding(rewards, values, mask, gamma, lam):
    advantages = torch.zeros_like(rewards)
    later = next_value = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        later = delta + gamma * lam * later
        next_value = values[:, t]
        advantages[:, t] = later
    return _keep(advantages, mask)


def gae_with_a_value_of_the_padding(rewards, values, mask, gamma, lam):
    advantages = torch.zeros_like(rewards)
    later = next_value = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        later = torch.where(mask[:, t], delta + gamma * lam * later, later)
        next_value = values[:, t]
        advantages[:, t] = later
    return _keep(advantages, mask)


def gae_with_an_advantage_of_the_padding(rewards, values, mask, gamma, lam):
    advantages = torch.zeros_like(rewards)
    later = next_value = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        later = rewards[:, t] + gamma * next_value - values[:, t] + gamma * lam * later
        next_value = values[:, t].where(mask[:, t], torch.zeros_like(next_value))
        advantages[:, t] = later
    return _keep(advantages, mask)


def gae_with_next_value_subtracted(rewards, values, mask, gamma, lam):
    return _gae(
        rewards,
        values,
        mask,
        gamma,
        lam,
        delta=lambda r, v, n: r - gamma * n - v,
        carry=gamma * lam,
    )


def gae_multiplied_by_mask(rewards, values, mask, gamma, lam):
    return gae_through_the_padding(rewards * mask, values * mask, mask, gamma, lam)


def gae_with_values_added(rewards, values, mask, gamma, lam):
    return _gae(
        rewards, values, mask, gamma, lam, delta=lambda r, v, n: r + gamma * n + v,
        carry=gamma * lam,
    )  # fmt: skip


def gae_without_gamma(rewards, values, mask, gamma, lam):
    return gae_by_rows(rewards, values, mask, 1.0, lam)


def gae_with_one_minus_lambda(rewards, values, mask, gamma, lam):
    return gae_by_rows_weighted(rewards, values, mask, gamma, gamma * (1 - lam))


def gae_with_a_value_after_the_end(rewards, values, mask, gamma, lam):
    last = mask & ~functional.pad(mask[:, 1:], (0, 1), value=False)
    kept = torch.where(last, rewards + gamma * values, rewards)
    return gae_by_rows(kept, values, mask, gamma, lam)


def _gae_by_columns(rewards, values, mask, gamma, lam, columns, value_first=False):
    advantages = torch.zeros_like(rewards)
    later = next_value = torch.zeros_like(rewards[:, 0])
    for t in columns:
        if value_first:
            next_value = torch.where(mask[:, t], values[:, t], next_value)
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        later = torch.where(mask[:, t], delta + gamma * lam * later, later)
        next_value = torch.where(mask[:, t], values[:, t], next_value)
        advantages[:, t] = later
    return _keep(advantages, mask)


def gae_with_the_value_too_early(rewards, values, mask, gamma, lam):
    columns = reversed(range(rewards.shape[1]))
    return _gae_by_columns(rewards, values, mask, gamma, lam, columns, value_first=True)


def gae_without_the_last_column(rewards, values, mask, gamma, lam):
    columns = reversed(range(rewards.shape[1] - 1))
    return _gae_by_columns(rewards, values, mask, gamma, lam, columns)


def gae_forwards(rewards, values, mask, gamma, lam):
    rewards, values = _keep(rewards, mask), _keep(values, mask)
    advantages = torch.zeros_like(rewards)
    earlier = torch.zeros_like(rewards[:, 0])
    for t in range(rewards.shape[1]):
        after = values[:, t + 1] if t + 1 < rewards.shape[1] else torch.zeros_like(earlier)
        earlier = rewards[:, t] + gamma * after - values[:, t] + gamma * lam * earlier
        advantages[:, t] = earlier
    return _keep(advantages, mask)


def gae_carrying_nan(rewards, values, mask, gamma, lam):
    advantages = torch.zeros_like(rewards)
    later = next_value = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        later = (delta + gamma * lam * later) * mask[:, t]
        next_value = values[:, t] * mask[:, t]
        advantages[:, t] = later
    return advantages


def gae_in_float32(rewards, values, mask, gamma, lam):
    return gae_by_rows(rewards, values, mask, gamma, lam).float()


def gae_clearing_in_place(rewards, values, mask, gamma, lam):
    rewards[~mask] = 0.0
    values[~mask] = 0.0
    return gae_by_rows(rewards, values, mask, gamma, lam)


def gae_by_lambda_returns(rewards, values, mask, gamma, lam):
    # G_t = r_t + γ·((1 − λ)·V_{t+1} + λ·G_{t+1}), A = G − V
    result = torch.zeros_like(rewards)
    for row, length in enumerate(mask.sum(1).tolist()):
        target = value = 0.0
        for t in range(length - 1, -1, -1):
            target = rewards[row, t] + gamma * ((1 - lam) * value + lam * target)
            value = values[row, t]
            result[row, t] = target - value
    return result


def gae_by_rows_weighted(rewards, values, mask, gamma, carry):
    return _gae(
        rewards, values, mask, gamma, None, delta=lambda r, v, n: r + gamma * n - v, carry=carry
    )


def gae_by_rows(rewards, values, mask, gamma, lam):
    return _gae(
        rewards, values, mask, gamma, lam, delta=lambda r, v, n: r + gamma * n - v,
        carry=gamma * lam,
    )  # fmt: skip


def gae_by_matrix(rewards, values, mask, gamma, lam):
    rewards, values = _keep(rewards, mask), _keep(values, mask)
    next_values = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    deltas = _keep(rewards + gamma * next_values - values, mask)
    steps = torch.arange(rewards.shape[1])
    distance = (steps[:, None] - steps[None, :]).clamp(min=0)
    weights = torch.tril((torch.tensor(gamma * lam).double() ** distance).to(rewards))
    return _keep(deltas @ weights, mask)


def gae_by_recursion(rewards, values, mask, gamma, lam):
    if rewards.shape[1] == 0:
        return rewards
    later = gae_by_recursion(rewards[:, 1:], values[:, 1:], mask[:, 1:], gamma, lam)
    zero = torch.zeros_like(rewards[:, :1])
    more = mask[:, 1:2] if rewards.shape[1] > 1 else torch.zeros_like(mask[:, :1])
    value_after = torch.where(more, values[:, 1:2], zero) if rewards.shape[1] > 1 else zero
    after = later[:, :1] if rewards.shape[1] > 1 else zero
    first = rewards[:, :1] + gamma * value_after - values[:, :1] + gamma * lam * after
    return torch.cat([torch.where(mask[:, :1], first, zero), later], dim=1)


# 4.3 · the clipped value loss -------------------------------------------------------------------


def _clamped(values, old, epsilon):
    return old + (values - old).clamp(-epsilon, epsilon)


def value_without_half(values, old_values, returns, epsilon):
    clipped = _clamped(values, old_values.detach(), epsilon)
    target = returns.detach()
    return torch.maximum((values - target) ** 2, (clipped - target) ** 2)


def value_unclipped(values, old_values, returns, epsilon):
    return 0.5 * (values - returns.detach()) ** 2


def value_clipped_alone(values, old_values, returns, epsilon):
    return 0.5 * (_clamped(values, old_values.detach(), epsilon) - returns.detach()) ** 2


def value_smaller_of_two(values, old_values, returns, epsilon):
    return torch.minimum(
        value_unclipped(values, old_values, returns, epsilon),
        value_clipped_alone(values, old_values, returns, epsilon),
    )


def value_around_the_return(values, old_values, returns, epsilon):
    target = returns.detach()
    clipped = _clamped(values, target, epsilon)
    return 0.5 * torch.maximum((values - target) ** 2, (clipped - target) ** 2)


def value_averaged(values, old_values, returns, epsilon):
    return 0.5 * value_without_half(values, old_values, returns, epsilon).mean()


def value_without_detach(values, old_values, returns, epsilon):
    clipped = _clamped(values, old_values.detach(), epsilon)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)


def value_around_zero(values, old_values, returns, epsilon):
    target = returns.detach()
    clipped = values.clamp(-epsilon, epsilon)
    return 0.5 * torch.maximum((values - target) ** 2, (clipped - target) ** 2)


def value_with_clipped_error(values, old_values, returns, epsilon):
    return 0.5 * (values - returns.detach()).clamp(-epsilon, epsilon) ** 2


def value_compared_before_squaring(values, old_values, returns, epsilon):
    clipped = _clamped(values, old_values.detach(), epsilon)
    return 0.5 * (torch.maximum(values, clipped) - returns.detach()) ** 2


def value_all_detached(values, old_values, returns, epsilon):
    return value_by_where(values, old_values, returns, epsilon).detach()


def value_with_old_not_detached(values, old_values, returns, epsilon):
    target = returns.detach()
    clipped = _clamped(values, old_values, epsilon)
    return 0.5 * torch.maximum((values - target) ** 2, (clipped - target) ** 2)


def value_token_by_token(values, old_values, returns, epsilon):
    target, old = returns.detach(), old_values.detach()
    losses = []
    for v, o, r in zip(values.flatten(), old.flatten(), target.flatten(), strict=True):
        held = min(max(v, o - epsilon), o + epsilon)
        losses.append(max((v - r) ** 2, (held - r) ** 2) / 2)
    return torch.stack(losses).view_as(values)


def value_by_where(values, old_values, returns, epsilon):
    target, old = returns.detach(), old_values.detach()
    held = _clamped(values, old, epsilon)
    free_is_larger = (values - target).abs() >= (held - target).abs()
    return torch.where(free_is_larger, values - target, held - target).square() / 2


def value_by_mse(values, old_values, returns, epsilon):
    target, old = returns.detach(), old_values.detach()
    terms = [
        functional.mse_loss(v, target, reduction="none") / 2
        for v in (values, torch.minimum(torch.maximum(values, old - epsilon), old + epsilon))
    ]
    return torch.stack(terms).amax(0)


# 4.4 · whitening --------------------------------------------------------------------------------


def whiten_adding_the_mean_back(x, mask):
    mean = x[mask].mean()
    return _keep((x - mean) / (x[mask].var() + 1e-8).sqrt() + mean, mask)


def whiten_without_scaling(x, mask):
    return _keep(x - x[mask].mean(), mask)


def whiten_by_variance(x, mask):
    return _keep((x - x[mask].mean()) / (x[mask].var() + 1e-8), mask)


def whiten_with_padding(x, mask):
    return _keep((x - x.mean()) / (x.var() + 1e-8).sqrt(), mask)


def whiten_with_zeros(x, mask):
    kept = _keep(x, mask)
    return _keep((x - kept.mean()) / (kept.var() + 1e-8).sqrt(), mask)


def whiten_each_row(x, mask):
    rows = []
    for values, counted in zip(x, mask, strict=True):
        chosen = values[counted]
        rows.append((values - chosen.mean()) / (chosen.var() + 1e-8).sqrt())
    return _keep(torch.stack(rows), mask)


def whiten_leaving_padding(x, mask):
    return (x - x[mask].mean()) / (x[mask].var() + 1e-8).sqrt()


def whiten_without_small_number(x, mask):
    return _keep((x - x[mask].mean()) / x[mask].std(), mask)


def whiten_dividing_by_n(x, mask):
    counted = x[mask]
    return _keep((x - counted.mean()) / (counted.var(correction=0) + 1e-8).sqrt(), mask)


def whiten_without_shifting(x, mask):
    return _keep(x / (x[mask].var() + 1e-8).sqrt(), mask)


def whiten_multiplied_by_mask(x, mask):
    return (x - x[mask].mean()) / (x[mask].var() + 1e-8).sqrt() * mask


def whiten_clearing_in_place(x, mask):
    x[~mask] = 0.0
    return whiten_by_scatter(x, mask)


def whiten_by_loops(x, mask):
    counted = [float(value) for value in x[mask]]
    mean = sum(counted) / len(counted)
    variance = sum((value - mean) ** 2 for value in counted) / (len(counted) - 1)
    result = torch.zeros_like(x)
    for row, column in mask.nonzero().tolist():
        result[row, column] = (float(x[row, column]) - mean) / math.sqrt(variance + 1e-8)
    return result


def whiten_by_scatter(x, mask):
    result = torch.zeros_like(x)
    counted = x[mask]
    result[mask] = (counted - counted.mean()) / torch.sqrt(counted.var() + 1e-8)
    return result


def whiten_by_moments(x, mask):
    kept, count = _keep(x, mask), mask.sum()
    mean = kept.sum() / count
    squares = (_keep(x - mean, mask) ** 2).sum()
    return _keep((kept - mean) * torch.rsqrt(squares / (count - 1) + 1e-8), mask)


# 4.5 · the clipped policy loss ------------------------------------------------------------------


def _rho(log_probs, old_log_probs):
    return torch.exp(log_probs - old_log_probs.detach())


def policy_with_wrong_sign(log_probs, old_log_probs, advantages, epsilon):
    rho, a = _rho(log_probs, old_log_probs), advantages.detach()
    return torch.minimum(a * rho, a * rho.clamp(1 - epsilon, 1 + epsilon))


def policy_unclipped(log_probs, old_log_probs, advantages, epsilon):
    return -advantages.detach() * _rho(log_probs, old_log_probs)


def policy_clipped_alone(log_probs, old_log_probs, advantages, epsilon):
    rho = _rho(log_probs, old_log_probs)
    return -advantages.detach() * rho.clamp(1 - epsilon, 1 + epsilon)


def policy_hopeful(log_probs, old_log_probs, advantages, epsilon):
    rho, a = _rho(log_probs, old_log_probs), advantages.detach()
    return torch.minimum(-a * rho, -a * rho.clamp(1 - epsilon, 1 + epsilon))


def policy_smaller_ratio_first(log_probs, old_log_probs, advantages, epsilon):
    rho = _rho(log_probs, old_log_probs)
    return -advantages.detach() * torch.minimum(rho, rho.clamp(1 - epsilon, 1 + epsilon))


def policy_clipped_around_zero(log_probs, old_log_probs, advantages, epsilon):
    rho, a = _rho(log_probs, old_log_probs), advantages.detach()
    return torch.maximum(-a * rho, -a * rho.clamp(-epsilon, epsilon))


def policy_averaged(log_probs, old_log_probs, advantages, epsilon):
    return -policy_with_wrong_sign(log_probs, old_log_probs, advantages, epsilon).mean()


def policy_advantages_not_detached(log_probs, old_log_probs, advantages, epsilon):
    rho = _rho(log_probs, old_log_probs)
    return -torch.minimum(advantages * rho, advantages * rho.clamp(1 - epsilon, 1 + epsilon))


def policy_old_not_detached(log_probs, old_log_probs, advantages, epsilon):
    rho, a = torch.exp(log_probs - old_log_probs), advantages.detach()
    return -torch.minimum(a * rho, a * rho.clamp(1 - epsilon, 1 + epsilon))


def policy_with_clipped_log_ratio(log_probs, old_log_probs, advantages, epsilon):
    log_ratio, a = log_probs - old_log_probs.detach(), advantages.detach()
    return -torch.minimum(a * log_ratio.exp(), a * log_ratio.clamp(-epsilon, epsilon).exp())


def policy_clipped_above_alone(log_probs, old_log_probs, advantages, epsilon):
    rho, a = _rho(log_probs, old_log_probs), advantages.detach()
    return -torch.minimum(a * rho, a * rho.clamp(max=1 + epsilon))


def policy_zero_outside(log_probs, old_log_probs, advantages, epsilon):
    rho = _rho(log_probs, old_log_probs)
    return -advantages.detach() * rho * ((rho - 1).abs() < epsilon)


def policy_with_a_fixed_epsilon(log_probs, old_log_probs, advantages, epsilon):
    return policy_by_cases(log_probs, old_log_probs, advantages, 0.2)


def policy_letting_the_gradient_through(log_probs, old_log_probs, advantages, epsilon):
    rho, a = _rho(log_probs, old_log_probs), advantages.detach()
    clipped = rho + (rho.clamp(1 - epsilon, 1 + epsilon) - rho).detach()
    return -torch.minimum(a * rho, a * clipped)


def policy_by_signs(log_probs, old_log_probs, advantages, epsilon):
    rho, a = _rho(log_probs, old_log_probs), advantages.detach()
    good, bad = a.clamp(min=0), (-a).clamp(min=0)
    return bad * rho.clamp(min=1 - epsilon) - good * rho.clamp(max=1 + epsilon)


def policy_by_cases(log_probs, old_log_probs, advantages, epsilon):
    rho, a = _rho(log_probs, old_log_probs), advantages.detach()
    bound = torch.where(a >= 0, 1 + epsilon, 1 - epsilon).to(rho)
    beyond = torch.where(a >= 0, rho > bound, rho < bound)
    return -a * torch.where(beyond, bound, rho)


def policy_by_limits(log_probs, old_log_probs, advantages, epsilon):
    # max_ρ' of A·ρ' over the allowed side: g(ε, A) = (1 + ε)A or (1 − ε)A.
    a = advantages.detach()
    limit = a + epsilon * a.abs()
    return -torch.minimum(_rho(log_probs, old_log_probs) * a, limit)


# 4.6 · entropy ----------------------------------------------------------------------------------


def entropy_with_wrong_sign(logits):
    return -entropy_by_entr(logits)


def entropy_averaged_over_tokens(logits):
    return entropy_by_entr(logits) / logits.shape[-1]


def entropy_in_bits(logits):
    return entropy_by_entr(logits) / math.log(2)


def entropy_without_weights(logits):
    return -logits.log_softmax(-1).sum(-1)


def entropy_from_raw_logits(logits):
    return -(logits.softmax(-1) * logits).sum(-1)


def entropy_with_nan_erased(logits):
    p = logits.softmax(-1)
    return -(p * p.log()).nan_to_num(0.0).sum(-1)


def entropy_by_log_of_softmax(logits):
    p = logits.softmax(-1)
    return -(p * p.log()).sum(-1)


def entropy_with_frozen_weights(logits):
    log_p = logits.log_softmax(-1)
    return -(log_p.exp().detach() * log_p.masked_fill(log_p == -math.inf, 0)).sum(-1)


def entropy_averaged_over_positions(logits):
    return entropy_by_entr(logits).mean()


def entropy_of_the_positions(logits):
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p.masked_fill(log_p == -math.inf, 0)).sum(-1)


def entropy_as_a_share(logits):
    return entropy_by_entr(logits) / math.log(logits.shape[-1])


def entropy_clearing_in_place(logits):
    with torch.no_grad():
        logits[logits == -math.inf] = -1e9
    return entropy_by_distribution(logits)


def entropy_with_a_floor(logits):
    p = logits.softmax(-1)
    return -(p * (p + 1e-3).log()).sum(-1)


def entropy_by_einsum(logits):
    log_p = logits.double().log_softmax(-1)
    return -torch.einsum("btv,btv->bt", log_p.exp(), log_p.clamp(min=-1e9)).to(logits.dtype)


def entropy_by_entr(logits):
    return torch.special.entr(logits.softmax(-1)).sum(-1)


def entropy_by_logsumexp(logits):
    p = logits.softmax(-1)
    return logits.logsumexp(-1) - (p * logits.masked_fill(p == 0, 0)).sum(-1)


def entropy_by_xlogy(logits):
    p = logits.softmax(-1)
    return -torch.xlogy(p, p).sum(-1)


def entropy_by_distribution(logits):
    return torch.distributions.Categorical(logits=logits).entropy()


# 4.7 · the total --------------------------------------------------------------------------------


def _means(policy, value, spread, mask):
    return (x[mask].mean() for x in (policy, value, spread))


def total_with_entropy_added(policy_losses, value_losses, entropies, mask, c1, c2):
    p, v, h = _means(policy_losses, value_losses, entropies, mask)
    return p + c1 * v + c2 * h


def total_with_value_subtracted(policy_losses, value_losses, entropies, mask, c1, c2):
    p, v, h = _means(policy_losses, value_losses, entropies, mask)
    return p - c1 * v - c2 * h


def total_as_objective(policy_losses, value_losses, entropies, mask, c1, c2):
    return -total_by_selection(policy_losses, value_losses, entropies, mask, c1, c2)


def total_with_swapped_coefficients(policy_losses, value_losses, entropies, mask, c1, c2):
    return total_by_selection(policy_losses, value_losses, entropies, mask, c2, c1)


def total_with_padding(policy_losses, value_losses, entropies, mask, c1, c2):
    return policy_losses.mean() + c1 * value_losses.mean() - c2 * entropies.mean()


def total_of_row_means(policy_losses, value_losses, entropies, mask, c1, c2):
    def mean(x):
        return (_keep(x, mask).sum(1) / mask.sum(1)).mean()

    return mean(policy_losses) + c1 * mean(value_losses) - c2 * mean(entropies)


def total_summed(policy_losses, value_losses, entropies, mask, c1, c2):
    p, v, h = (x[mask].sum() for x in (policy_losses, value_losses, entropies))
    return p + c1 * v - c2 * h


def total_with_frozen_entropy(policy_losses, value_losses, entropies, mask, c1, c2):
    return total_by_selection(policy_losses, value_losses, entropies.detach(), mask, c1, c2)


def total_multiplied_by_mask(policy_losses, value_losses, entropies, mask, c1, c2):
    mixed = policy_losses + c1 * value_losses - c2 * entropies
    return (mixed * mask).sum() / mask.sum()


def total_with_policy_negated(policy_losses, value_losses, entropies, mask, c1, c2):
    p, v, h = _means(policy_losses, value_losses, entropies, mask)
    return -(p - c1 * v + c2 * h)


def total_with_the_objectives_signs(policy_losses, value_losses, entropies, mask, c1, c2):
    p, v, h = _means(policy_losses, value_losses, entropies, mask)
    return p - c1 * v + c2 * h


def total_per_response(policy_losses, value_losses, entropies, mask, c1, c2):
    return total_summed(policy_losses, value_losses, entropies, mask, c1, c2) / len(mask)


def total_of_what_is_not_nan(policy_losses, value_losses, entropies, mask, c1, c2):
    return policy_losses.nanmean() + c1 * value_losses.nanmean() - c2 * entropies.nanmean()


def total_by_loops(policy_losses, value_losses, entropies, mask, c1, c2):
    total = policy_losses.new_zeros(())
    for row, column in mask.nonzero().tolist():
        total = total + policy_losses[row, column] + c1 * value_losses[row, column]
        total = total - c2 * entropies[row, column]
    return total / int(mask.sum())


def total_by_selection(policy_losses, value_losses, entropies, mask, c1, c2):
    p, v, h = _means(policy_losses, value_losses, entropies, mask)
    return p + c1 * v - c2 * h


def total_in_one_mean(policy_losses, value_losses, entropies, mask, c1, c2):
    return (policy_losses + c1 * value_losses - c2 * entropies)[mask].mean()


def total_by_einsum(policy_losses, value_losses, entropies, mask, c1, c2):
    terms = torch.stack([_keep(x, mask) for x in (policy_losses, value_losses, entropies)])
    weights = torch.tensor([1.0, c1, -c2]).to(terms)
    return torch.einsum("k,kbt->", weights, terms) / mask.sum()


# 4.8 · KL-shaped rewards ------------------------------------------------------------------------


def _at_last(scores, mask):
    result = scores.new_zeros(mask.shape)
    for row, length in enumerate(mask.sum(1).tolist()):
        result[row, length - 1] = scores[row]
    return result


def shaped_with_kl_added(scores, kl, mask, beta):
    return _at_last(scores, mask) + beta * _keep(kl, mask)


def shaped_without_beta(scores, kl, mask, beta):
    return _at_last(scores, mask) - _keep(kl, mask)


def shaped_score_everywhere(scores, kl, mask, beta):
    return _keep(scores.unsqueeze(1) - beta * kl, mask)


def shaped_score_in_the_last_column(scores, kl, mask, beta):
    rewards = -beta * _keep(kl, mask)
    rewards[:, -1] += scores
    return rewards


def shaped_score_one_early(scores, kl, mask, beta):
    at_last = _at_last(scores, mask)
    early = torch.cat([at_last[:, 1:], torch.zeros_like(at_last[:, :1])], dim=1)
    return early - beta * _keep(kl, mask)


def shaped_kl_at_the_end(scores, kl, mask, beta):
    return _at_last(scores - beta * _keep(kl, mask).sum(1), mask)


def shaped_score_overwrites(scores, kl, mask, beta):
    rewards = -beta * _keep(kl, mask)
    rewards[torch.arange(len(kl)), mask.sum(1) - 1] = scores
    return rewards


def shaped_without_mask(scores, kl, mask, beta):
    return _at_last(scores, mask) - beta * kl


def shaped_multiplied_by_mask(scores, kl, mask, beta):
    return _at_last(scores, mask) - beta * kl * mask


def shaped_in_every_row(scores, kl, mask, beta):
    rewards = -beta * _keep(kl, mask)
    rewards[:, mask.sum(1) - 1] += scores
    return rewards


def shaped_with_positive_kl(scores, kl, mask, beta):
    return shaped_by_index(scores, kl.abs(), mask, beta)


def shaped_with_cut_kl(scores, kl, mask, beta):
    return shaped_by_index(scores, kl.clamp(min=0), mask, beta)


def shaped_with_mean_kl(scores, kl, mask, beta):
    return shaped_by_index(scores, kl / mask.sum(1, keepdim=True), mask, beta)


def shaped_in_place(scores, kl, mask, beta):
    kl[~mask] = 0.0
    return shaped_by_index(scores, kl, mask, beta)


def shaped_by_scatter(scores, kl, mask, beta):
    at_last = torch.zeros_like(kl).scatter(1, mask.sum(1, keepdim=True) - 1, scores.unsqueeze(1))
    return at_last - beta * kl.where(mask, torch.zeros_like(kl))


def shaped_by_index(scores, kl, mask, beta):
    rewards = -beta * kl.masked_fill(~mask, 0.0)
    rewards[torch.arange(len(kl)), mask.sum(1) - 1] += scores
    return rewards


def shaped_by_difference(scores, kl, mask, beta):
    # A token is the last one where it counts and the next one does not.
    following = functional.pad(mask[:, 1:], (0, 1), value=False)
    return _keep(scores.unsqueeze(1) * (mask & ~following) - beta * _keep(kl, mask), mask)


# 4.9 · adaptive β -------------------------------------------------------------------------------


def _clip(error):
    return min(max(error, -0.2), 0.2)


def adapt_in_the_wrong_direction(beta, kl, target, horizon, batch_size):
    return beta * (1 - _clip(kl / target - 1) * batch_size / horizon)


def adapt_without_clip(beta, kl, target, horizon, batch_size):
    return beta * (1 + (kl / target - 1) * batch_size / horizon)


def adapt_by_difference(beta, kl, target, horizon, batch_size):
    return beta * (1 + _clip(kl - target) * batch_size / horizon)


def adapt_without_pace(beta, kl, target, horizon, batch_size):
    return beta * (1 + _clip(kl / target - 1))


def adapt_the_factor_alone(beta, kl, target, horizon, batch_size):
    return 1 + _clip(kl / target - 1) * batch_size / horizon


def adapt_by_adding(beta, kl, target, horizon, batch_size):
    return beta + _clip(kl / target - 1) * batch_size / horizon


def adapt_without_minus_one(beta, kl, target, horizon, batch_size):
    return beta * (1 + _clip(kl / target) * batch_size / horizon)


def adapt_clipping_the_whole_change(beta, kl, target, horizon, batch_size):
    return beta * (1 + _clip((kl / target - 1) * batch_size / horizon))


def adapt_without_batch_size(beta, kl, target, horizon, batch_size):
    return beta * (1 + _clip(kl / target - 1) / horizon)


def adapt_without_horizon(beta, kl, target, horizon, batch_size):
    return beta * (1 + _clip(kl / target - 1) * batch_size)


def adapt_by_full_steps(beta, kl, target, horizon, batch_size):
    return beta * (1 + (0.2 if kl > target else -0.2) * batch_size / horizon)


def adapt_by_exponential(beta, kl, target, horizon, batch_size):
    return beta * math.exp(_clip(kl / target - 1) * batch_size / horizon)


def adapt_by_sorting(beta, kl, target, horizon, batch_size):
    ratio = sorted((0.8, kl / target, 1.2))[1]
    return beta + beta * (ratio - 1) * (batch_size / horizon)


def adapt_by_tensor(beta, kl, target, horizon, batch_size):
    error = torch.tensor(kl / target - 1, dtype=torch.float64).clamp(-0.2, 0.2)
    return float(beta + beta * error * batch_size / horizon)


def adapt_by_cases(beta, kl, target, horizon, batch_size):
    if kl > 1.2 * target:
        error = 0.2
    elif kl < 0.8 * target:
        error = -0.2
    else:
        error = (kl - target) / target
    return beta * (horizon + error * batch_size) / horizon


WRONG = {
    "4.1": [
        ("log-ratio", ratio_as_log_ratio, "returned the log-ratio"),
        ("inverted", ratio_inverted, "inverted the ratio"),
        ("quotient of logarithms", ratio_of_logarithms, "divided log-probabilities"),
        ("quotient of exponentials", ratio_of_exponentials, "exponentials before dividing"),
        ("not frozen", ratio_not_frozen, "the denominator is frozen"),
        ("all frozen", ratio_all_frozen, "gradient"),
        ("difference", ratio_difference_of_probabilities, "You subtracted probabilities"),
        ("with itself", ratio_with_itself, "Every ratio is 1"),
        ("clipped", ratio_clipped, "the clip comes in exercise 4.5"),
        ("whole responses", ratio_of_whole_responses, "multiplied the ratios of a response"),
        ("in place", ratio_in_place, "changed its input `log_probs` in place"),
    ],
    "4.2": [
        ("γ missing in the recursion", gae_without_gamma_in_the_recursion, "left γ out of the rec"),
        ("λ missing", gae_without_lambda, "left λ out of the recursion"),
        ("TD errors", gae_one_step_only, "returned the TD errors"),
        ("returns", gae_plus_values, "returned advantage + value"),
        ("no bootstrap", gae_without_next_value, "left V_{t+1} out"),
        ("padding leaks in", gae_through_the_padding, "padding leaks in"),
        ("padding's value", gae_with_a_value_of_the_padding, "padding leaks in"),
        ("padding's advantage", gae_with_an_advantage_of_the_padding, "padding leaks in"),
        ("sign of the next V", gae_with_next_value_subtracted, "The sign of V_{t+1}"),
        ("mask by product", gae_multiplied_by_mask, "NaN · 0 is NaN"),
        ("sign of V", gae_with_values_added, "The sign of V_t"),
        ("γ missing", gae_without_gamma, "left γ out everywhere"),
        ("1 − λ", gae_with_one_minus_lambda, "by γ·(1 − λ)"),
        ("value after the end", gae_with_a_value_after_the_end, "V = 0 after the last token"),
        ("value too early", gae_with_the_value_too_early, "Your V_{t+1} is V_t"),
        ("last column missing", gae_without_the_last_column, "left out the last column"),
        ("forwards", gae_forwards, "You walked forwards"),
        ("NaN carried on", gae_carrying_nan, "NaN · 0 is NaN"),
        ("float32", gae_in_float32, "torch.zeros_like(x)"),
        ("cleared in place", gae_clearing_in_place, "changed its input `rewards` in place"),
    ],
    "4.3": [
        ("no ½", value_without_half, "The ½ is missing"),
        ("no clip", value_unclipped, "did not clip around the OLD VALUE"),
        ("clipped term alone", value_clipped_alone, "clipped term alone"),
        ("smaller of the two", value_smaller_of_two, "took the smaller of the two"),
        ("around the return", value_around_the_return, "this is the plain"),
        ("averaged", value_averaged, "You averaged"),
        ("returns not detached", value_without_detach, "flows into the returns"),
        ("around zero", value_around_zero, "You clipped V to ±ε"),
        ("error clipped", value_with_clipped_error, "You clipped the error"),
        ("compared first", value_compared_before_squaring, "square both, then compare"),
        ("all detached", value_all_detached, "carries no gradient"),
        ("old not detached", value_with_old_not_detached, "flows into old_values"),
    ],
    "4.4": [
        ("mean added back", whiten_adding_the_mean_back, "added the mean back"),
        ("not scaled", whiten_without_scaling, "You did not scale"),
        ("by variance", whiten_by_variance, "divided by the variance"),
        ("padding counts", whiten_with_padding, "The padding counts in your"),
        ("padding as zeros", whiten_with_zeros, "counts as zeros"),
        ("each row", whiten_each_row, "each response by itself"),
        ("padding left", whiten_leaving_padding, "left numbers in the padding"),
        ("0/0", whiten_without_small_number, "0/0 is NaN"),
        ("N", whiten_dividing_by_n, "You divided by N instead of N − 1"),
        ("not shifted", whiten_without_shifting, "You did not subtract the mean"),
        ("mask by product", whiten_multiplied_by_mask, "NaN · 0 is NaN"),
        ("cleared in place", whiten_clearing_in_place, "changed its input `x` in place"),
    ],
    "4.5": [
        ("sign", policy_with_wrong_sign, "The sign: PPO maximises"),
        ("no clip", policy_unclipped, "You did not clip"),
        ("clipped term alone", policy_clipped_alone, "clipped term alone"),
        ("hopeful", policy_hopeful, "more hopeful of the two"),
        ("smaller ratio first", policy_smaller_ratio_first, "smaller ratio first"),
        ("around zero", policy_clipped_around_zero, "You clipped to ±ε"),
        ("averaged", policy_averaged, "You averaged"),
        ("advantages not detached", policy_advantages_not_detached, "flows into the advantages"),
        ("old not detached", policy_old_not_detached, "flows into old_log_probs"),
        ("log-ratio clipped", policy_with_clipped_log_ratio, "You clipped the log-ratio"),
        ("one side", policy_clipped_above_alone, "clipped on one side alone"),
        ("0 outside", policy_zero_outside, "set the loss to 0 outside"),
        ("ε = 0.2", policy_with_a_fixed_epsilon, "take the argument epsilon"),
        ("gradient let through", policy_letting_the_gradient_through, "lets the gradient through"),
    ],
    "4.6": [
        ("sign", entropy_with_wrong_sign, "The sign: log p is negative"),
        ("mean over tokens", entropy_averaged_over_tokens, "averaged over the vocabulary"),
        ("bits", entropy_in_bits, "counted in bits"),
        ("no weights", entropy_without_weights, "weighed all tokens alike"),
        ("raw logits", entropy_from_raw_logits, "raw logits as log-probabilities"),
        ("log of softmax", entropy_by_log_of_softmax, "0 · log 0 is NaN"),
        ("frozen weights", entropy_with_frozen_weights, "The gradient is cut"),
        ("mean over positions", entropy_averaged_over_positions, "averaged over the batch"),
        ("another axis", entropy_of_the_positions, "softmax runs over another axis"),
        ("share of log V", entropy_as_a_share, "You normalised by log V"),
        ("cleared in place", entropy_clearing_in_place, "changed its input `logits` in place"),
        ("floor", entropy_with_a_floor, "small number inside the logarithm"),
        ("NaN erased", entropy_with_nan_erased, "the logarithm has no slope at 0"),
        ("entr", entropy_by_entr, "the logarithm has no slope at 0"),
        ("xlogy", entropy_by_xlogy, "the logarithm has no slope at 0"),
    ],
    "4.7": [
        ("entropy added", total_with_entropy_added, "The sign of the entropy"),
        ("value subtracted", total_with_value_subtracted, "The sign of the value loss"),
        ("objective", total_as_objective, "You wrote the objective"),
        ("swapped", total_with_swapped_coefficients, "coefficients are swapped"),
        ("padding", total_with_padding, "The padding counts"),
        ("mean of means", total_of_row_means, "mean of each response's mean"),
        ("sum", total_summed, "You summed over the tokens"),
        ("frozen entropy", total_with_frozen_entropy, "No gradient reaches entropies"),
        ("mask by product", total_multiplied_by_mask, "NaN · 0 is NaN"),
        ("policy negated", total_with_policy_negated, "turned the sign of the policy loss"),
        ("objective's signs", total_with_the_objectives_signs, "kept the objective's signs"),
        ("per response", total_per_response, "divided by the number of responses"),
        ("not NaN", total_of_what_is_not_nan, "The padding counts"),
    ],
    "4.8": [
        ("KL added", shaped_with_kl_added, "The sign of the KL"),
        ("β missing", shaped_without_beta, "You left β out"),
        ("score everywhere", shaped_score_everywhere, "gave the score to every token"),
        ("last column", shaped_score_in_the_last_column, "into the last column"),
        ("one early", shaped_score_one_early, "one token early"),
        ("KL at the end", shaped_kl_at_the_end, "whole response's KL at the end"),
        ("overwritten", shaped_score_overwrites, "don't overwrite it"),
        ("no mask", shaped_without_mask, "left numbers in the padding"),
        ("mask by product", shaped_multiplied_by_mask, "NaN · 0 is NaN"),
        ("every row", shaped_in_every_row, "`rewards[:, last]` takes every row"),
        ("KL positive", shaped_with_positive_kl, "made the KL of each token positive"),
        ("KL cut", shaped_with_cut_kl, "You cut negative KL estimates"),
        ("mean KL", shaped_with_mean_kl, "divided the KL by the length"),
        ("in place", shaped_in_place, "changed its input `kl` in place"),
    ],
    "4.9": [
        ("direction", adapt_in_the_wrong_direction, "The direction"),
        ("no clip", adapt_without_clip, "did not clip the error"),
        ("difference", adapt_by_difference, "used the difference"),
        ("no pace", adapt_without_pace, "left batch_size/horizon out"),
        ("factor alone", adapt_the_factor_alone, "returned the factor"),
        ("added", adapt_by_adding, "added the change to β"),
        ("no − 1", adapt_without_minus_one, "forgot the − 1"),
        ("whole change", adapt_clipping_the_whole_change, "You clipped β's whole change"),
        ("no batch size", adapt_without_batch_size, "left batch_size out"),
        ("no horizon", adapt_without_horizon, "left the horizon out"),
        ("full steps", adapt_by_full_steps, "by the full 20 %"),
        ("exponential", adapt_by_exponential, "took the exponential"),
    ],
}

RIGHT = {
    "4.1": [
        ("expm1", ratio_by_expm1),
        ("no_grad", ratio_with_no_grad),
        ("sigmoids", ratio_by_sigmoids),
    ],
    "4.2": [
        ("row by row", gae_by_rows),
        ("one matrix product", gae_by_matrix),
        ("recursive", gae_by_recursion),
        ("λ-returns", gae_by_lambda_returns),
    ],
    "4.3": [
        ("where", value_by_where),
        ("mse_loss", value_by_mse),
        ("token by token", value_token_by_token),
    ],
    "4.4": [
        ("scatter", whiten_by_scatter),
        ("moments", whiten_by_moments),
        ("loops", whiten_by_loops),
    ],
    "4.5": [("cases", policy_by_cases), ("limits", policy_by_limits), ("signs", policy_by_signs)],
    "4.6": [
        ("distribution", entropy_by_distribution),
        ("logsumexp", entropy_by_logsumexp),
        ("einsum in float64", entropy_by_einsum),
    ],
    "4.7": [
        ("selection", total_by_selection),
        ("one mean", total_in_one_mean),
        ("einsum", total_by_einsum),
        ("loops", total_by_loops),
    ],
    "4.8": [
        ("index", shaped_by_index),
        ("difference of masks", shaped_by_difference),
        ("scatter", shaped_by_scatter),
    ],
    "4.9": [("tensor", adapt_by_tensor), ("cases", adapt_by_cases), ("sorting", adapt_by_sorting)],
}
