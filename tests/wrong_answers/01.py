"""Answers to the exercises of lesson 1 that learners give: wrong ones with the hint each must get.

``WRONG`` maps an exercise to (name, function, fragment of its hint); ``RIGHT`` to unusual answers
that must pass.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch

LINES = (
    (0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6),
)  # fmt: skip


def winner(cells):
    for a, b, c in LINES:
        if cells[a] != "." and cells[a] == cells[b] == cells[c]:
            return cells[a]
    return None


# 1.1 · legal moves ------------------------------------------------------------------------------


def moves_after_the_end(cells):
    return [square for square in range(9) if cells[square] == "."]


def moves_from_one(cells):
    return [] if winner(cells) else [square + 1 for square in range(9) if cells[square] == "."]


def moves_on_taken_squares(cells):
    return [] if winner(cells) else [square for square in range(9) if cells[square] != "."]


def moves_as_marks(cells):
    return [] if winner(cells) else [mark for mark in cells if mark == "."]


def moves_as_flags(cells):
    return [] if winner(cells) else [mark == "." for mark in cells]


def moves_without_the_last(cells):
    return [] if winner(cells) else [square for square in range(8) if cells[square] == "."]


def moves_none_at_the_end(cells):
    if winner(cells) is None and "." in cells:
        return [square for square in range(9) if cells[square] == "."]


def moves_as_array(cells):
    over = winner(cells) is not None
    return np.flatnonzero(np.array([mark == "." and not over for mark in cells]))


def moves_by_find(cells):
    found, square = [], cells.find(".")
    while square >= 0 and not winner(cells):
        found.append(square)
        square = cells.find(".", square + 1)
    return tuple(found)


# 1.2 · step -------------------------------------------------------------------------------------


def _refuse(cells, square):
    if not 0 <= square <= 8 or cells[square] != "." or winner(cells):
        raise ValueError(f"illegal move {square}")


def _to_move(cells):
    return "X" if cells.count("X") == cells.count("O") else "O"


def step_wrong_player(cells, square):
    _refuse(cells, square)
    return cells[:square] + ("O" if _to_move(cells) == "X" else "X") + cells[square + 1 :]


def step_always_x(cells, square):
    _refuse(cells, square)
    return cells[:square] + "X" + cells[square + 1 :]


def step_unchanged(cells, square):
    _refuse(cells, square)
    cells.replace(".", _to_move(cells), 1)
    return cells


def step_inserts(cells, square):
    _refuse(cells, square)
    return cells[:square] + _to_move(cells) + cells[square:]


def step_as_list(cells, square):
    _refuse(cells, square)
    after = list(cells)
    after[square] = _to_move(cells)
    return after


def step_overwrites(cells, square):
    if not 0 <= square <= 8 or winner(cells):
        raise ValueError(f"illegal move {square}")
    return cells[:square] + _to_move(cells) + cells[square + 1 :]


def step_after_the_end(cells, square):
    if not 0 <= square <= 8 or cells[square] != ".":
        raise ValueError(f"illegal move {square}")
    return cells[:square] + _to_move(cells) + cells[square + 1 :]


def step_counts_from_the_end(cells, square):
    if square > 8 or cells[square] != "." or winner(cells):
        raise ValueError(f"illegal move {square}")
    after = list(cells)
    after[square] = _to_move(cells)
    return "".join(after)


def step_asserts(cells, square):
    assert 0 <= square <= 8 and cells[square] == "." and not winner(cells)
    return cells[:square] + _to_move(cells) + cells[square + 1 :]


def step_by_parity(cells, square):
    if winner(cells) or square not in [i for i, mark in enumerate(cells) if mark == "."]:
        raise ValueError("illegal")
    mark = "XO"[(9 - cells.count(".")) % 2]
    return "".join(mark if i == square else old for i, old in enumerate(cells))


def step_by_bytes(cells, square):
    _refuse(cells, square)
    board = bytearray(cells, "ascii")
    board[square] = ord("O" if board.count(b"X") > board.count(b"O") else "X")
    return board.decode()


# 1.3 · discounted returns -----------------------------------------------------------------------


def _suffix_sums(rewards, gamma):
    result = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        following = rewards[:, t] + gamma * following
        result[:, t] = following
    return result


def returns_of_the_past(rewards, mask, gamma):
    return _suffix_sums((rewards * mask).flip(1), gamma).flip(1) * mask


def returns_without_discount(rewards, mask, gamma):
    return _suffix_sums(rewards * mask, 1.0) * mask


def returns_without_own_reward(rewards, mask, gamma):
    return (_suffix_sums(rewards * mask, gamma) - rewards) * mask


def returns_discounted_once_more(rewards, mask, gamma):
    return gamma * _suffix_sums(rewards * mask, gamma) * mask


def returns_discounted_from_the_start(rewards, mask, gamma):
    weights = gamma ** torch.arange(rewards.shape[1], dtype=rewards.dtype)
    return _suffix_sums(rewards * mask * weights, 1.0) * mask


def returns_as_mean(rewards, mask, gamma):
    left = mask.flip(1).cumsum(1).flip(1).clamp(min=1)
    return _suffix_sums(rewards * mask, gamma) / left * mask


def returns_with_padding(rewards, mask, gamma):
    return _suffix_sums(rewards, gamma)


def returns_masked_too_late(rewards, mask, gamma):
    return _suffix_sums(rewards, gamma) * mask


def returns_of_the_whole_game(rewards, mask, gamma):
    return _suffix_sums(rewards * mask, gamma)[:, :1] * mask


def returns_in_place(rewards, mask, gamma):
    for t in reversed(range(rewards.shape[1] - 1)):
        rewards[:, t] += gamma * rewards[:, t + 1] * mask[:, t + 1]
    return rewards * mask


def returns_cleared_by_a_product(rewards, mask, gamma):
    return _suffix_sums(rewards * mask, gamma) * mask


def returns_cleared_twice(rewards, mask, gamma):
    return _suffix_sums(rewards * mask, gamma).masked_fill(~mask, 0.0)


def returns_by_matrix(rewards, mask, gamma):
    time = torch.arange(rewards.shape[1])
    gap = (time[:, None] - time[None, :]).clamp(min=0)
    weights = torch.tensor(gamma, dtype=rewards.dtype) ** gap * (time[:, None] >= time[None, :])
    return torch.where(mask, rewards, 0.0) @ weights.to(rewards.dtype) * mask


def returns_by_rows(rewards, mask, gamma):
    result = torch.zeros_like(rewards)
    for row, length in enumerate(mask.sum(1).tolist()):
        pieces = rewards[row, :length].tolist()[::-1]
        sums = itertools.accumulate(pieces, lambda later, now: now + gamma * later)
        result[row, :length] = torch.tensor(list(sums)[::-1], dtype=rewards.dtype)
    return result


# 1.4 · V by Monte Carlo -------------------------------------------------------------------------


def _totals(states, returns, mask, size):
    totals = torch.zeros(size, dtype=returns.dtype)
    return totals.index_add(0, states[mask], returns[mask])


def values_as_sums(states, returns, mask, number_of_states):
    return _totals(states, returns, mask, number_of_states)


def values_per_game(states, returns, mask, number_of_states):
    return _totals(states, returns, mask, number_of_states) / len(states)


def values_per_visit_of_any_state(states, returns, mask, number_of_states):
    return _totals(states, returns, mask, number_of_states) / mask.sum()


def values_with_one_more_visit(states, returns, mask, number_of_states):
    counts = torch.bincount(states[mask], minlength=number_of_states)
    return _totals(states, returns, mask, number_of_states) / (counts + 1)


def values_by_assignment(states, returns, mask, number_of_states):
    values = torch.zeros(number_of_states, dtype=returns.dtype)
    for state, value in zip(states[mask].tolist(), returns[mask].tolist(), strict=True):
        values[state] = value
    return values


def values_not_a_number(states, returns, mask, number_of_states):
    counts = torch.bincount(states[mask], minlength=number_of_states)
    return _totals(states, returns, mask, number_of_states) / counts


def values_with_padding(states, returns, mask, number_of_states):
    everything = torch.ones_like(mask)
    counts = torch.bincount(states.flatten(), minlength=number_of_states).clamp(min=1)
    return _totals(states, returns, everything, number_of_states) / counts


def values_count_the_padding(states, returns, mask, number_of_states):
    counts = torch.bincount(states.flatten(), minlength=number_of_states).clamp(min=1)
    return _totals(states, returns, mask, number_of_states) / counts


def values_half_and_half(states, returns, mask, number_of_states):
    values = torch.zeros(number_of_states, dtype=returns.dtype)
    for state, value in zip(states[mask].tolist(), returns[mask].tolist(), strict=True):
        values[state] += 0.5 * (value - values[state])
    return values


def values_by_running_mean(states, returns, mask, number_of_states):
    values, visits = [0.0] * number_of_states, [0] * number_of_states
    for game in range(states.shape[0]):
        for time in range(states.shape[1]):
            if mask[game, time]:
                state = int(states[game, time])
                visits[state] += 1
                values[state] += (float(returns[game, time]) - values[state]) / visits[state]
    return torch.tensor(values, dtype=returns.dtype)


def values_by_one_hot(states, returns, mask, number_of_states):
    belongs = torch.nn.functional.one_hot(states, number_of_states) * mask[..., None]
    belongs = belongs.to(returns.dtype)
    sums = torch.einsum("bts,bt->s", belongs, returns)
    return sums / belongs.sum((0, 1)).clamp(min=1)


# 1.5 · TD update --------------------------------------------------------------------------------


def td_beyond_the_end(value, reward, next_value, finished, step_size, gamma):
    return value + step_size * (reward + gamma * next_value - value)


def td_without_gamma(value, reward, next_value, finished, step_size, gamma):
    return value + step_size * (reward + (0 if finished else next_value) - value)


def td_without_reward(value, reward, next_value, finished, step_size, gamma):
    return value + step_size * (gamma * (0 if finished else next_value) - value)


def td_discounts_the_reward(value, reward, next_value, finished, step_size, gamma):
    return value + step_size * (gamma * (reward + (0 if finished else next_value)) - value)


def td_moves_away(value, reward, next_value, finished, step_size, gamma):
    return value - step_size * (reward + gamma * (0 if finished else next_value) - value)


def td_returns_the_target(value, reward, next_value, finished, step_size, gamma):
    return reward + gamma * (0 if finished else next_value)


def td_returns_the_change(value, reward, next_value, finished, step_size, gamma):
    return step_size * (reward + gamma * (0 if finished else next_value) - value)


def td_adds_the_target(value, reward, next_value, finished, step_size, gamma):
    return value + step_size * (reward + gamma * (0 if finished else next_value))


def td_swaps_the_shares(value, reward, next_value, finished, step_size, gamma):
    target = reward + gamma * (0 if finished else next_value)
    return step_size * value + (1 - step_size) * target


def td_as_mixture(value, reward, next_value, finished, step_size, gamma):
    target = reward + gamma * next_value * (1 - finished)
    return (1 - step_size) * value + step_size * target


def td_with_tensors(value, reward, next_value, finished, step_size, gamma):
    old = torch.tensor(value, dtype=torch.float64)
    target = torch.tensor(reward, dtype=torch.float64)
    if not finished:
        target = target + gamma * next_value
    return torch.lerp(old, target, step_size)


# 1.6 · advantage --------------------------------------------------------------------------------


def _cleared(q_values, legal):
    return torch.where(legal, q_values, torch.zeros_like(q_values))


def advantage_on_illegal_squares(q_values, probabilities, legal):
    q = _cleared(q_values, legal)
    return q - (probabilities * q).sum(1, keepdim=True)


def advantage_over_the_best(q_values, probabilities, legal):
    best = q_values.masked_fill(~legal, -torch.inf).amax(1, keepdim=True)
    return _cleared(_cleared(q_values, legal) - best, legal)


def advantage_over_the_mean(q_values, probabilities, legal):
    q = _cleared(q_values, legal)
    return _cleared(q - q.sum(1, keepdim=True) / legal.sum(1, keepdim=True), legal)


def advantage_turned_around(q_values, probabilities, legal):
    q = _cleared(q_values, legal)
    return _cleared((probabilities * q).sum(1, keepdim=True) - q, legal)


def advantage_weighed(q_values, probabilities, legal):
    q = _cleared(q_values, legal)
    return probabilities * (q - (probabilities * q).sum(1, keepdim=True))


def advantage_without_a_sum(q_values, probabilities, legal):
    q = _cleared(q_values, legal)
    return q - probabilities * q


def advantage_over_columns(q_values, probabilities, legal):
    q = _cleared(q_values, legal)
    return _cleared(q - (probabilities * q).sum(0, keepdim=True), legal)


def advantage_nan(q_values, probabilities, legal):
    values = (probabilities * q_values).sum(1, keepdim=True)
    return (q_values - values).masked_fill(~legal, 0.0)


def advantage_times_the_mask(q_values, probabilities, legal):
    q_values = q_values * legal
    return (q_values - (probabilities * q_values).sum(1, keepdim=True)) * legal


def advantage_without_keepdim(q_values, probabilities, legal):
    q = _cleared(q_values, legal)
    return _cleared(q - (probabilities * q).sum(1), legal)


def advantage_by_einsum(q_values, probabilities, legal):
    q = q_values.masked_fill(~legal, 0.0)
    return legal * (q - torch.einsum("ba,ba->b", probabilities, q).unsqueeze(-1))


def advantage_by_loop(q_values, probabilities, legal):
    result = torch.zeros_like(q_values)
    for row in range(len(q_values)):
        allowed = legal[row].nonzero().flatten()
        value = probabilities[row, allowed] @ q_values[row, allowed]
        result[row, allowed] = q_values[row, allowed] - value
    return result


# 1.7 · REINFORCE gradient -----------------------------------------------------------------------


def _pi(logits, legal):
    return logits.masked_fill(~legal, -torch.inf).softmax(1)


def _one_hot(logits, actions):
    return torch.nn.functional.one_hot(actions, logits.shape[1]).to(logits.dtype)


def gradient_with_illegal_squares(logits, legal, actions, weights):
    return weights[:, None] * (_one_hot(logits, actions) - logits.softmax(1))


def gradient_masked_too_late(logits, legal, actions, weights):
    return legal * weights[:, None] * (_one_hot(logits, actions) - logits.softmax(1))


def gradient_turned_around(logits, legal, actions, weights):
    return weights[:, None] * (_pi(logits, legal) - _one_hot(logits, actions))


def gradient_without_pi(logits, legal, actions, weights):
    return weights[:, None] * _one_hot(logits, actions)


def gradient_without_one(logits, legal, actions, weights):
    return weights[:, None] * (0 - _pi(logits, legal))


def gradient_of_pi(logits, legal, actions, weights):
    pi = _pi(logits, legal)
    taken = pi.gather(1, actions[:, None])
    return weights[:, None] * taken * (_one_hot(logits, actions) - pi)


def gradient_without_weight(logits, legal, actions, weights):
    return _one_hot(logits, actions) - _pi(logits, legal)


def gradient_summed(logits, legal, actions, weights):
    return (weights[:, None] * (_one_hot(logits, actions) - _pi(logits, legal))).sum(0)


def gradient_of_taken_alone(logits, legal, actions, weights):
    chosen = _one_hot(logits, actions)
    return weights[:, None] * chosen * (1 - _pi(logits, legal))


def gradient_overflows(logits, legal, actions, weights):
    exponentials = logits.exp() * legal
    pi = exponentials / exponentials.sum(1, keepdim=True)
    return weights[:, None] * (_one_hot(logits, actions) - pi)


def gradient_by_the_batchs_largest(logits, legal, actions, weights):
    logits = logits.masked_fill(~legal, -torch.inf)
    return gradient_overflows(logits - logits.max(), legal, actions, weights)


def gradient_by_autograd(logits, legal, actions, weights):
    leaf = logits.clone().requires_grad_()
    log_pi = leaf.masked_fill(~legal, -torch.inf).log_softmax(1)
    taken = log_pi.gather(1, actions[:, None]).squeeze(1)
    return torch.autograd.grad((weights * taken).sum(), leaf)[0]


def gradient_in_place(logits, legal, actions, weights):
    shifted = logits - logits.masked_fill(~legal, -torch.inf).amax(1, keepdim=True)
    exponentials = torch.where(legal, shifted, -torch.inf).exp()
    result = -exponentials / exponentials.sum(1, keepdim=True)
    result[torch.arange(len(actions)), actions] += 1
    return result * weights.unsqueeze(1)


# 1.8 · mean and variance of the gradient --------------------------------------------------------


def _with_baseline(scores, returns, baselines):
    return (returns - baselines)[:, None] * scores


def _mean_and_variance(samples):
    mean = samples.mean(0)
    return mean, (samples - mean).square().sum(1).mean()


def statistics_without_baseline(scores, returns, baselines):
    return _mean_and_variance(returns[:, None] * scores)


def statistics_with_baseline_added(scores, returns, baselines):
    return _mean_and_variance((returns + baselines)[:, None] * scores)


def statistics_baseline_outside(scores, returns, baselines):
    return _mean_and_variance(returns[:, None] * scores - baselines[:, None])


def statistics_summed(scores, returns, baselines):
    samples = _with_baseline(scores, returns, baselines)
    return samples.sum(0), _mean_and_variance(samples)[1]


def statistics_n_minus_one(scores, returns, baselines):
    samples = _with_baseline(scores, returns, baselines)
    return samples.mean(0), samples.var(0).sum()


def statistics_mean_square(scores, returns, baselines):
    samples = _with_baseline(scores, returns, baselines)
    return samples.mean(0), samples.square().sum(1).mean()


def statistics_mean_over_coordinates(scores, returns, baselines):
    samples = _with_baseline(scores, returns, baselines)
    return samples.mean(0), (samples - samples.mean(0)).square().mean()


def statistics_square_root(scores, returns, baselines):
    mean, variance = _mean_and_variance(_with_baseline(scores, returns, baselines))
    return mean, variance.sqrt()


def statistics_per_coordinate(scores, returns, baselines):
    samples = _with_baseline(scores, returns, baselines)
    return samples.mean(0), samples.var(0, unbiased=False)


def statistics_averaged_apart(scores, returns, baselines):
    samples = _with_baseline(scores, returns, baselines)
    return (returns - baselines).mean() * scores.mean(0), _mean_and_variance(samples)[1]


def statistics_mean_only(scores, returns, baselines):
    return _with_baseline(scores, returns, baselines).mean(0)


def statistics_by_moments(scores, returns, baselines):
    samples = torch.einsum("n,nd->nd", returns - baselines, scores)
    mean = samples.mean(0)
    return [mean, samples.pow(2).sum(1).mean() - mean.pow(2).sum()]


def statistics_by_covariance(scores, returns, baselines):
    samples = scores * (returns - baselines).unsqueeze(1)
    return samples.mean(0), torch.cov(samples.T, correction=0).trace()


WRONG = {
    "1.1": [
        ("legal after the end", moves_after_the_end, "three in a row, so the game is over"),
        ("squares from 1", moves_from_one, "counted the squares from 1"),
        ("taken squares", moves_on_taken_squares, "squares that are taken"),
        ("marks", moves_as_marks, "not the numbers of their squares"),
        ("flags", moves_as_flags, "True or False for each square"),
        ("the last square missing", moves_without_the_last, "last square is missing"),
        ("None at the end", moves_none_at_the_end, "an empty list when the game is over"),
    ],
    "1.2": [
        ("wrong player", step_wrong_player, "wrong player moved"),
        ("always X", step_always_x, "wrong player moved"),
        ("nothing changed", step_unchanged, "returned the board as it was"),
        ("mark inserted", step_inserts, "put the mark between two squares"),
        ("a list", step_as_list, "returned a list"),
        ("taken squares overwritten", step_overwrites, "the square is taken by"),
        ("plays on after the end", step_after_the_end, "has won already"),
        ("counts from the end", step_counts_from_the_end, "counts -1 from the end"),
        ("another exception", step_asserts, "Raise a ValueError; yours raised AssertionError"),
    ],
    "1.3": [
        ("the past", returns_of_the_past, "summed the past"),
        ("no discount", returns_without_discount, "forgot the discount"),
        ("own reward missing", returns_without_own_reward, "left out the reward of the step"),
        ("once more", returns_discounted_once_more, "discounted one step too much"),
        ("from the start", returns_discounted_from_the_start, "from the start of the game"),
        ("mean for sum", returns_as_mean, "took the mean where the return is a sum"),
        ("padding", returns_with_padding, "no rewards; use the mask"),
        ("mask too late", returns_masked_too_late, "you cleared the result, but the sums"),
        ("whole game", returns_of_the_whole_game, "every step the return of the whole game"),
        ("in place", returns_in_place, "changed its input `rewards` in place"),
        ("a product", returns_cleared_by_a_product, "not by a product with the mask"),
        ("a product first", returns_cleared_twice, "with the mask, before you sum"),
    ],
    "1.4": [
        ("sums", values_as_sums, "returned the sum"),
        ("per game", values_per_game, "divided by the number of games"),
        ("per visit", values_per_visit_of_any_state, "divided by the number of all visits"),
        ("one visit too many", values_with_one_more_visit, "divided by the visits plus 1"),
        ("last one wins", values_by_assignment, "kept only one return per state"),
        ("0/0", values_not_a_number, "give it 0, not 0/0"),
        ("padding", values_with_padding, "which nobody visited there"),
        ("padding counted", values_count_the_padding, "still counted them as visits"),
        ("half and half", values_half_and_half, "half and half"),
    ],
    "1.5": [
        ("beyond the end", td_beyond_the_end, "looked beyond the end of the game"),
        ("no γ", td_without_gamma, "forgot γ"),
        ("no reward", td_without_reward, "forgot the reward"),
        ("γ on the reward", td_discounts_the_reward, "discounted the reward too"),
        ("away", td_moves_away, "moved away from the target"),
        ("all the way", td_returns_the_target, "jumped to the target"),
        ("change only", td_returns_the_change, "returned the change"),
        ("target added", td_adds_the_target, "did not take V off the target"),
        ("shares swapped", td_swaps_the_shares, "kept the part α of the old value"),
    ],
    "1.6": [
        ("illegal squares", advantage_on_illegal_squares, "must have the advantage 0"),
        ("the best", advantage_over_the_best, "subtracted the best Q"),
        ("plain mean", advantage_over_the_mean, "subtracted the plain mean of Q"),
        ("sign", advantage_turned_around, "A = Q − V"),
        ("weighed", advantage_weighed, "weighed the advantage by π"),
        ("no sum", advantage_without_a_sum, "V is its SUM over the moves"),
        ("wrong axis", advantage_over_columns, "summed over the wrong axis"),
        ("0 times −∞", advantage_nan, "before you multiply with π"),
        ("−∞ times the mask", advantage_times_the_mask, "not by a product with the mask"),
        ("no keepdim", advantage_without_keepdim, "keepdim=True"),
    ],
    "1.7": [
        ("illegal squares", gradient_with_illegal_squares, "set their logits to −∞ first"),
        ("mask too late", gradient_masked_too_late, "already divided by a sum"),
        ("sign", gradient_turned_around, "MORE likely"),
        ("no π", gradient_without_pi, "left out the −π(b|s)"),
        ("no 1", gradient_without_one, "left out the 1 of the move"),
        ("π, not log π", gradient_of_pi, "gradient of π, not of log π"),
        ("no weight", gradient_without_weight, "forgot the weight"),
        ("summed", gradient_summed, "summed over the batch"),
        ("taken alone", gradient_of_taken_alone, "gave the other moves no gradient"),
        ("overflow", gradient_overflows, "subtract the largest legal logit"),
        ("largest of the batch", gradient_by_the_batchs_largest, "logit of the whole batch"),
    ],
    "1.8": [
        ("no baseline", statistics_without_baseline, "forgot the baseline"),
        ("baseline added", statistics_with_baseline_added, "added the baseline"),
        ("baseline outside", statistics_baseline_outside, "took the baseline off the product"),
        ("sum for mean", statistics_summed, "summed over the samples"),
        ("N − 1", statistics_n_minus_one, "divided by N − 1"),
        ("mean square", statistics_mean_square, "forgot to take off the mean"),
        (
            "mean over coordinates",
            statistics_mean_over_coordinates,
            "mean over the coordinates too: sum",
        ),
        ("square root", statistics_square_root, "took the square root"),
        ("per coordinate", statistics_per_coordinate, "one variance per coordinate"),
        ("averaged apart", statistics_averaged_apart, "averaged weights and scores apart"),
        ("mean only", statistics_mean_only, "must return two things"),
    ],
}

RIGHT = {
    "1.1": [("an array", moves_as_array), ("searching the text", moves_by_find)],
    "1.2": [("by parity", step_by_parity), ("by bytes", step_by_bytes)],
    "1.3": [("by a matrix", returns_by_matrix), ("row by row", returns_by_rows)],
    "1.4": [("running mean", values_by_running_mean), ("by one-hot", values_by_one_hot)],
    "1.5": [("a mixture", td_as_mixture), ("tensors", td_with_tensors)],
    "1.6": [("by einsum", advantage_by_einsum), ("row by row", advantage_by_loop)],
    "1.7": [("autograd", gradient_by_autograd), ("in place", gradient_in_place)],
    "1.8": [("by moments", statistics_by_moments), ("by covariance", statistics_by_covariance)],
}
