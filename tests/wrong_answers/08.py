"""Answers to the exercises of lesson 8 that learners give: wrong ones with the hint each must get.

``WRONG`` maps an exercise to (name, function, fragment of its hint); ``RIGHT`` to unusual answers
that must pass.
"""

from __future__ import annotations

import dataclasses
import math

import torch

# 8.1 · what training keeps in memory --------------------------------------------------------------


def state_one_moment(trained, frozen):
    return {"weights": 4 * (trained + frozen), "gradients": 4 * trained, "adam": 4 * trained}


def state_trains_all(trained, frozen):
    both = trained + frozen
    return {"weights": 4 * both, "gradients": 4 * both, "adam": 8 * both}


def state_moments_of_all(trained, frozen):
    both = trained + frozen
    return {"weights": 4 * both, "gradients": 4 * trained, "adam": 8 * both}


def state_without_frozen(trained, frozen):
    return {"weights": 4 * trained, "gradients": 4 * trained, "adam": 8 * trained}


def state_in_numbers(trained, frozen):
    return {"weights": trained + frozen, "gradients": trained, "adam": 2 * trained}


def state_in_half(trained, frozen):
    return {"weights": 2 * (trained + frozen), "gradients": 2 * trained, "adam": 4 * trained}


def state_by_dtype(trained, frozen):
    size = torch.finfo(torch.float32).bits // 8
    state = dict.fromkeys(("adam", "gradients", "weights"), size * trained)
    state["adam"] *= 2
    state["weights"] += size * frozen
    return state


def state_in_floats(trained, frozen):
    return {"weights": 4.0 * (trained + frozen), "gradients": 4.0 * trained, "adam": 8.0 * trained}


# 8.2 · the key-value cache ------------------------------------------------------------------------


def cache_keys_alone(layers, heads, width, rows, length, size):
    return layers * heads * width * rows * length * size


def cache_one_row(layers, heads, width, rows, length, size):
    return 2 * layers * heads * width * length * size


def cache_one_layer(layers, heads, width, rows, length, size):
    return 2 * heads * width * rows * length * size


def cache_square(layers, heads, width, rows, length, size):
    return 2 * layers * heads * width * rows * length**2 * size


def cache_in_numbers(layers, heads, width, rows, length, size):
    return 2 * layers * heads * width * rows * length


def cache_without_heads(layers, heads, width, rows, length, size):
    return 2 * layers * width * rows * length * size


def cache_by_product(*sizes):
    return 2 * math.prod(sizes)


def cache_by_tensor(layers, heads, width, rows, length, size):
    keys = torch.empty(rows, heads, length, width, device="meta")
    return layers * 2 * keys.numel() * size


# 8.3 · operations of a run ------------------------------------------------------------------------


def operations_without_reference(n, t, pairs, steps, batch):
    return 6 * n * t * steps * batch


def operations_reference_each_step(n, t, pairs, steps, batch):
    return 8 * n * t * steps * batch


def operations_reference_trained(n, t, pairs, steps, batch):
    return 6 * n * t * (steps * batch + pairs)


def operations_forward_alone(n, t, pairs, steps, batch):
    return 2 * n * t * (steps * batch + pairs)


def operations_backward_like_forward(n, t, pairs, steps, batch):
    return n * t * (4 * steps * batch + 2 * pairs)


def operations_one_pair_a_step(n, t, pairs, steps, batch):
    return n * t * (6 * steps + 2 * pairs)


def operations_by_passes(n, t, pairs, steps, batch):
    forward = 2 * n * t
    return sum([forward * pairs, steps * batch * forward, steps * batch * 2 * forward])


def operations_in_floats(n, t, pairs, steps, batch):
    return float(6 * n * t) * steps * batch + 2.0 * n * t * pairs


# 8.4 · gradient accumulation ----------------------------------------------------------------------


def accumulate_means(parts, loss):
    total = 0.0
    for part in parts:
        mean = loss(part).mean()
        mean.backward()
        total += mean.item()
    return total / len(parts)


def accumulate_mean_of_means(parts, loss):
    total = 0.0
    for part in parts:
        mean = loss(part).mean() / len(parts)
        mean.backward()
        total += mean.item()
    return total


def accumulate_sums(parts, loss):
    total = 0.0
    for part in parts:
        losses = loss(part).sum()
        losses.backward()
        total += losses.item()
    return total / sum(map(len, parts))


def accumulate_all_at_once(parts, loss):
    mean = torch.cat([loss(part) for part in parts]).mean()
    mean.backward()
    return mean.item()


def accumulate_nothing(parts, loss):
    with torch.no_grad():
        return float(torch.cat([loss(part) for part in parts]).mean())


def accumulate_returns_last(parts, loss):
    count = sum(map(len, parts))
    for part in parts:
        losses = loss(part)
        (losses.sum() / count).backward()
    return losses.mean().item()


def accumulate_cleared(parts, loss):
    count, total = sum(map(len, parts)), 0.0
    for part in parts:
        losses = loss(part)
        loss.weights.grad = None
        (losses.sum() / count).backward()
        total += losses.sum().item()
    return total / count


def accumulate_by_weight(parts, loss):
    count, total = sum(len(part) for part in parts), 0.0
    for part in parts:
        losses = loss(part)
        losses.backward(torch.full_like(losses, 1 / count))
        total += losses.detach().mean().item() * len(part) / count
    return total


def accumulate_row_by_row(parts, loss):
    rows = [row for part in parts for row in part.split(1)]
    total = 0.0
    for row in rows:
        mean = loss(row).squeeze() / len(rows)
        mean.backward()
        total += mean.detach()
    return total


# 8.5 · two shards, one gradient -------------------------------------------------------------------


def average_plain(gradients, counts):
    return torch.stack(gradients).mean(0)


def average_sum(gradients, counts):
    return torch.stack(gradients).sum(0)


def average_not_divided(gradients, counts):
    return sum(n * g for g, n in zip(gradients, counts, strict=True))


def average_by_processes(gradients, counts):
    return sum(n * g for g, n in zip(gradients, counts, strict=True)) / len(counts)


def average_inverse(gradients, counts):
    shares = [1 / n if n else 0.0 for n in counts]
    return sum(g * s for g, s in zip(gradients, shares, strict=True)) / sum(shares)


def average_nan(gradients, counts):
    return sum(n * g for g, n in zip(gradients, counts, strict=True)) / sum(counts)


def average_without_single_tokens(gradients, counts):
    return sum(g * (n / sum(counts)) for g, n in zip(gradients, counts, strict=True) if n > 1)


def average_by_nan_to_num(gradients, counts):
    share = torch.tensor(counts, dtype=gradients[0].dtype) / sum(counts)
    return torch.einsum("p,p...->...", share, torch.stack(gradients).nan_to_num())


def average_running(gradients, counts):
    mean, seen = torch.zeros_like(gradients[0]), 0
    for gradient, count in zip(gradients, counts, strict=True):
        if count == 0:
            continue
        seen += count
        mean = mean + (gradient - mean) * count / seen
    return mean


# 8.6 · updates that bfloat16 loses ----------------------------------------------------------------


def lost_with_zeros(weights, updates):
    stored = weights.bfloat16()
    return float(((stored.float() + updates).bfloat16() == stored).float().mean())


def lost_kept(weights, updates):
    stored = weights.bfloat16()
    moved = (stored.float() + updates).bfloat16()
    return float((moved != stored)[updates != 0].float().mean())


def lost_in_float32(weights, updates):
    return float((weights + updates == weights)[updates != 0].float().mean())


def lost_against_unrounded(weights, updates):
    moved = (weights.bfloat16().float() + updates).bfloat16()
    return float((moved.float() == weights)[updates != 0].float().mean())


def lost_counted(weights, updates):
    stored = weights.bfloat16()
    moved = (stored.float() + updates).bfloat16()
    return float((moved == stored)[updates != 0].sum())


def lost_subtracted(weights, updates):
    return lost_by_loop(weights, -updates)


def lost_by_loop(weights, updates):
    lost = []
    for weight, update in zip(weights.tolist(), updates.tolist(), strict=True):
        if update:
            stored = torch.tensor(weight).to(torch.bfloat16)
            lost.append(bool((stored.double() + update).to(torch.bfloat16) == stored))
    return sum(lost) / len(lost)


def lost_by_difference(weights, updates):
    stored = weights.to(torch.bfloat16).double()
    step = (stored + updates).float().to(torch.bfloat16).double() - stored
    return 1 - (step[updates != 0] != 0).double().mean().item()


# 8.7 · log-ratios in float32 ----------------------------------------------------------------------


def _gathered(logits, tokens):
    return logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]


def ratio_rounded(policy, reference, tokens, mask):
    ratio = _gathered(policy, tokens) - _gathered(reference, tokens)
    return ratio.float().masked_fill(~mask, 0).sum(-1)


def ratio_cast_late(policy, reference, tokens, mask):
    ratio = _gathered(policy, tokens).float() - _gathered(reference, tokens).float()
    return ratio.masked_fill(~mask, 0).sum(-1)


def ratio_in_bfloat16(policy, reference, tokens, mask):
    ratio = _gathered(policy, tokens) - _gathered(reference, tokens)
    return ratio.masked_fill(~mask, 0).sum(-1)


def ratio_turned_round(policy, reference, tokens, mask):
    ratio = _gathered(reference.float(), tokens) - _gathered(policy.float(), tokens)
    return ratio.masked_fill(~mask, 0).sum(-1)


def ratio_mean(policy, reference, tokens, mask):
    ratio = _gathered(policy.float(), tokens) - _gathered(reference.float(), tokens)
    return ratio.masked_fill(~mask, 0).sum(-1) / mask.sum(-1)


def ratio_of_logits(policy, reference, tokens, mask):
    difference = (policy.float() - reference.float()).gather(-1, tokens[..., None])[..., 0]
    return difference.masked_fill(~mask, 0).sum(-1)


def ratio_without_mask(policy, reference, tokens, mask):
    return (_gathered(policy.float(), tokens) - _gathered(reference.float(), tokens)).sum(-1)


def ratio_times_mask(policy, reference, tokens, mask):
    ratio = _gathered(policy.float(), tokens) - _gathered(reference.float(), tokens)
    return (ratio * mask).sum(-1)


def ratio_by_logsumexp(policy, reference, tokens, mask):
    parts = []
    for logits in (policy.to(torch.float32), reference.to(torch.float32)):
        picked = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        parts.append(picked - torch.logsumexp(logits, -1))
    return torch.where(mask, parts[0] - parts[1], 0.0).sum(1)


def ratio_by_cross_entropy(policy, reference, tokens, mask):
    nll = [
        torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), tokens.flatten(), reduction="none"
        ).view(tokens.shape)
        for logits in (policy, reference)
    ]
    return torch.stack([(b - a)[m].sum() for a, b, m in zip(*nll, mask, strict=True)])


# 8.8 · the same run in other words ----------------------------------------------------------------


def _words(settings, processes, **changes):
    parts = processes * settings.accumulate
    if settings.batch_size % parts:
        raise ValueError("uneven")
    return {
        "max_steps": settings.steps,
        "per_device_train_batch_size": settings.batch_size // parts,
        "gradient_accumulation_steps": settings.accumulate,
        "beta": settings.beta,
        "learning_rate": settings.learning_rate,
        "max_grad_norm": settings.max_gradient_norm,
        **changes,
    }


def words_not_shared(settings, processes):
    size = settings.batch_size // settings.accumulate
    return _words(settings, processes, per_device_train_batch_size=size)


def words_not_split(settings, processes):
    size = settings.batch_size // processes
    return _words(settings, processes, per_device_train_batch_size=size)


def words_whole_batch(settings, processes):
    return _words(settings, processes, per_device_train_batch_size=settings.batch_size)


def words_rate_scaled(settings, processes):
    return _words(settings, processes, learning_rate=settings.learning_rate * processes)


def words_steps_times_parts(settings, processes):
    return _words(settings, processes, max_steps=settings.steps * settings.accumulate)


def words_rounded_down(settings, processes):
    size = settings.batch_size // (processes * settings.accumulate)
    even = dataclasses.replace(settings, batch_size=size * processes * settings.accumulate)
    return _words(even, processes)


def words_with_a_point(settings, processes):
    size = settings.batch_size / (processes * settings.accumulate)
    return _words(settings, processes, per_device_train_batch_size=size)


def words_by_division(settings, processes):
    share, left = divmod(settings.batch_size, processes)
    each, over = divmod(share, settings.accumulate)
    if left or over:
        raise ValueError(f"{settings.batch_size} pairs for {processes} processes")
    return _words(settings, processes) | {"per_device_train_batch_size": each}


def words_by_search(settings, processes):
    sizes = range(1, settings.batch_size + 1)
    fitting = [n for n in sizes if n * processes * settings.accumulate == settings.batch_size]
    if not fitting:
        raise ValueError("no share fits")
    return _words(settings, processes, per_device_train_batch_size=fitting[0])


WRONG = {
    "8.1": [
        ("one moment", state_one_moment, "Adam keeps two numbers"),
        ("trains the reference", state_trains_all, "no gradient and no moments"),
        ("moments of all", state_moments_of_all, "never hears of it"),
        ("no reference", state_without_frozen, "You left the frozen weights out"),
        ("numbers", state_in_numbers, "You counted numbers"),
        ("half precision", state_in_half, "the weights stay float32"),
    ],
    "8.2": [
        ("keys alone", cache_keys_alone, "A key AND a value"),
        ("one row", cache_one_row, "Each row of the batch"),
        ("one layer", cache_one_layer, "Each layer has keys"),
        ("square", cache_square, "not with its square"),
        ("numbers", cache_in_numbers, "You counted numbers"),
        ("no heads", cache_without_heads, "You left the heads out"),
    ],
    "8.3": [
        ("no reference", operations_without_reference, "You left the reference out"),
        ("reference each step", operations_reference_each_step, "not at every step"),
        ("reference trained", operations_reference_trained, "The reference is never trained"),
        ("forward alone", operations_forward_alone, "costs twice the forward pass"),
        ("backward like forward", operations_backward_like_forward, "6 in all"),
        ("one pair a step", operations_one_pair_a_step, "Each step reads batch_size pairs"),
    ],
    "8.4": [
        ("sum of means", accumulate_means, "as many times too long"),
        ("mean of means", accumulate_mean_of_means, "You averaged the means of the parts"),
        ("sum", accumulate_sums, "You added up the losses"),
        ("all at once", accumulate_all_at_once, "in memory at once"),
        ("no gradient", accumulate_nothing, "no gradient was left"),
        ("last loss", accumulate_returns_last, "the loss of the last part"),
        ("cleared", accumulate_cleared, "do not clear the gradient"),
    ],
    "8.5": [
        ("plain mean", average_plain, "You averaged over processes"),
        ("sum", average_sum, "You added the gradients up"),
        ("not divided", average_not_divided, "You left out the division"),
        ("by processes", average_by_processes, "divide by the number of all tokens"),
        ("inverse", average_inverse, "You divided by the counts"),
        ("NaN", average_nan, "leave out a process with nothing"),
        ("one token", average_without_single_tokens, "You left out a process with one token"),
    ],
    "8.6": [
        ("zeros counted", lost_with_zeros, "An update of 0 cannot be lost"),
        ("kept", lost_kept, "the share of updates that arrive"),
        ("float32", lost_in_float32, "In float32 hardly anything is lost"),
        ("unrounded", lost_against_unrounded, "before they were rounded"),
        ("counted", lost_counted, "You counted them"),
        ("subtracted", lost_subtracted, "You subtracted the updates"),
    ],
    "8.7": [
        ("rounded", ratio_rounded, "cast the LOGITS with .float() first"),
        ("cast late", ratio_cast_late, "cast the LOGITS with .float() first"),
        ("bfloat16", ratio_in_bfloat16, "which keeps 8 bits"),
        ("turned round", ratio_turned_round, "The sign"),
        ("mean", ratio_mean, "is the SUM"),
        ("logits", ratio_of_logits, "You subtracted logits"),
        ("no mask", ratio_without_mask, "padding"),
        ("times mask", ratio_times_mask, "0 · NaN is NaN"),
    ],
    "8.8": [
        ("not shared", words_not_shared, "pairs of ONE process"),
        ("not split", words_not_split, "pairs of ONE forward pass"),
        ("whole batch", words_whole_batch, "is not the whole batch"),
        ("rate scaled", words_rate_scaled, "so the learning rate does, too"),
        ("steps times parts", words_steps_times_parts, "waits for all parts"),
        ("rounded down", words_rounded_down, "cannot be shared out evenly"),
        ("a point", words_with_a_point, "is a whole number"),
    ],
}

RIGHT = {
    "8.1": [("by dtype", state_by_dtype), ("floats", state_in_floats)],
    "8.2": [("product", cache_by_product), ("by tensor", cache_by_tensor)],
    "8.3": [("by passes", operations_by_passes), ("floats", operations_in_floats)],
    "8.4": [("by weight", accumulate_by_weight), ("row by row", accumulate_row_by_row)],
    "8.5": [("nan_to_num", average_by_nan_to_num), ("running mean", average_running)],
    "8.6": [("loop", lost_by_loop), ("difference", lost_by_difference)],
    "8.7": [("logsumexp", ratio_by_logsumexp), ("cross entropy", ratio_by_cross_entropy)],
    "8.8": [("divmod", words_by_division), ("search", words_by_search)],
}
