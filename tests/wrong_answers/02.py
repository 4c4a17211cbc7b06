"""Answers to the exercises of lesson 2 that learners give: wrong ones with the hint each must get.

``WRONG`` maps an exercise to (name, function, fragment of its hint); ``RIGHT`` to unusual answers
that must pass.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

# 2.1 · token log-probabilities ------------------------------------------------------------------


def _pick(values, tokens):
    return values.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def _keep(values, mask):
    return torch.where(mask, values, torch.zeros_like(values))


def log_probs_without_shift(logits, tokens, mask):
    return _keep(_pick(logits.log_softmax(-1), tokens), mask)


def log_probs_dropped_not_shifted(logits, tokens, mask):
    return _keep(_pick(logits.log_softmax(-1), tokens)[:, 1:], mask[:, 1:])


def log_probs_shifted_backwards(logits, tokens, mask):
    return _keep(_pick(logits[:, 1:].log_softmax(-1), tokens[:, :-1]), mask[:, 1:])


def log_probs_from_raw_logits(logits, tokens, mask):
    return _keep(_pick(logits[:, :-1], tokens[:, 1:]), mask[:, 1:])


def log_probs_as_probabilities(logits, tokens, mask):
    return _keep(_pick(logits[:, :-1].softmax(-1), tokens[:, 1:]), mask[:, 1:])


def log_probs_softmax_over_positions(logits, tokens, mask):
    return _keep(_pick(logits[:, :-1].log_softmax(1), tokens[:, 1:]), mask[:, 1:])


def log_probs_without_mask(logits, tokens, mask):
    return _pick(logits[:, :-1].log_softmax(-1), tokens[:, 1:])


def log_probs_unshifted_mask(logits, tokens, mask):
    return _keep(_pick(logits[:, :-1].log_softmax(-1), tokens[:, 1:]), mask[:, :-1])


def log_probs_by_log_of_softmax(logits, tokens, mask):
    return _keep(_pick(logits[:, :-1].softmax(-1).log(), tokens[:, 1:]), mask[:, 1:])


def log_probs_multiplied_by_mask(logits, tokens, mask):
    return _pick(logits[:, :-1].log_softmax(-1), tokens[:, 1:]) * mask[:, 1:]


def log_probs_by_cross_entropy(logits, tokens, mask):
    losses = functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none"
    )
    return (-losses).masked_fill(~mask[:, 1:], 0.0)


def log_probs_by_loop(logits, tokens, mask):
    result = logits.new_zeros(tokens.shape[0], tokens.shape[1] - 1)
    for b in range(tokens.shape[0]):
        for t in range(tokens.shape[1] - 1):
            if mask[b, t + 1]:
                row = logits[b, t]
                result[b, t] = row[tokens[b, t + 1]] - torch.logsumexp(row, 0)
    return result


def log_probs_by_distribution(logits, tokens, mask):
    chosen = torch.distributions.Categorical(logits=logits[:, :-1]).log_prob(tokens[:, 1:])
    return _keep(chosen, mask[:, 1:])


# 2.2 · sequence log-probability -----------------------------------------------------------------


def sequence_mean(values, mask):
    return _keep(values, mask).sum(-1) / mask.sum(-1)


def sequence_mean_of_all_positions(values, mask):
    return _keep(values, mask).mean(-1)


def sequence_without_mask(values, mask):
    return values.sum(-1)


def sequence_product(values, mask):
    return torch.where(mask, values, torch.ones_like(values)).prod(-1)


def sequence_probability(values, mask):
    return _keep(values, mask).sum(-1).exp()


def sequence_one_for_the_batch(values, mask):
    return _keep(values, mask).sum()


def sequence_multiplied_by_mask(values, mask):
    return (values * mask).sum(-1)


def sequence_log_of_product(values, mask):
    return _keep(values, mask).exp().prod(-1).log()


def sequence_by_nansum(values, mask):
    return torch.nansum(values.masked_fill(~mask, math.nan), dim=-1)


def sequence_by_rows(values, mask):
    return torch.stack([row[counted].sum() for row, counted in zip(values, mask, strict=True)])


# 2.3 · negative log-likelihood ------------------------------------------------------------------


def _next(tokens):
    return tokens[:, 1:].clamp(min=0)


def nll_with_wrong_sign(logits, tokens, mask):
    return _keep(_pick(logits[:, :-1].log_softmax(-1), _next(tokens)), mask[:, 1:])


def nll_averaged(logits, tokens, mask):
    losses = -_pick(logits[:, :-1].log_softmax(-1), _next(tokens))
    return _keep(losses, mask[:, 1:]).sum() / mask[:, 1:].sum()


def nll_summed_per_text(logits, tokens, mask):
    return -nll_with_wrong_sign(logits, tokens, mask).sum(-1)


def nll_without_mask(logits, tokens, mask):
    return -_pick(logits[:, :-1].log_softmax(-1), _next(tokens))


def nll_unshifted_mask(logits, tokens, mask):
    return _keep(-_pick(logits[:, :-1].log_softmax(-1), _next(tokens)), mask[:, :-1])


def nll_from_raw_logits(logits, tokens, mask):
    return _keep(-_pick(logits[:, :-1], _next(tokens)), mask[:, 1:])


def nll_without_shift(logits, tokens, mask):
    return _keep(-_pick(logits.log_softmax(-1), tokens.clamp(min=0)), mask)


def nll_detached(logits, tokens, mask):
    return -nll_with_wrong_sign(logits.detach(), tokens, mask)


def nll_by_log_of_softmax(logits, tokens, mask):
    return _keep(-_pick(logits[:, :-1].softmax(-1).log(), _next(tokens)), mask[:, 1:])


def nll_multiplied_by_mask(logits, tokens, mask):
    return -_pick(logits[:, :-1].log_softmax(-1), _next(tokens)) * mask[:, 1:]


def nll_gathers_the_padding(logits, tokens, mask):
    return _keep(-_pick(logits[:, :-1].log_softmax(-1), tokens[:, 1:]), mask[:, 1:])


def nll_vocabulary_last(logits, tokens, mask):
    losses = torch.nn.functional.cross_entropy(logits[:, :-1], tokens[:, 1:], reduction="none")
    return _keep(losses, mask[:, 1:])


def nll_by_cross_entropy(logits, tokens, mask):
    targets = torch.where(mask, tokens, torch.full_like(tokens, -100))[:, 1:]
    losses = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), targets.flatten(), reduction="none"
    )
    return losses.view(targets.shape)


def nll_by_logsumexp(logits, tokens, mask):
    losses = torch.logsumexp(logits[:, :-1], -1) - _pick(logits[:, :-1], _next(tokens))
    return losses.masked_fill(~mask[:, 1:], 0.0)


# 2.4 · perplexity -------------------------------------------------------------------------------


def perplexity_without_minus(values, mask):
    return (_keep(values, mask).sum() / mask.sum()).exp()


def perplexity_over_all_positions(values, mask):
    return (-_keep(values, mask).mean()).exp()


def perplexity_without_mask(values, mask):
    return (-values.mean()).exp()


def perplexity_mean_of_texts(values, mask):
    return (-_keep(values, mask).sum(-1) / mask.sum(-1)).exp().mean()


def perplexity_mean_within_texts(values, mask):
    return (-_keep(values, mask).sum(-1) / mask.sum(-1)).mean().exp()


def perplexity_mean_of_inverses(values, mask):
    return (-values[mask]).exp().mean()


def perplexity_base_two(values, mask):
    return 2.0 ** (-values[mask].mean())


def perplexity_not_exponentiated(values, mask):
    return -values[mask].mean()


def perplexity_of_the_sum(values, mask):
    return (-values[mask].sum()).exp()


def perplexity_multiplied_by_mask(values, mask):
    return (-(values * mask).sum() / mask.sum()).exp()


def perplexity_by_selection(values, mask):
    return values[mask].mean().neg().exp()


def perplexity_as_number(values, mask):
    chosen = values[mask].tolist()
    return math.exp(-math.fsum(chosen) / len(chosen))


# 2.5 · sampling with a temperature --------------------------------------------------------------


def sample_greedy(logits, temperature, generator):
    return logits.argmax(-1)


def sample_multiplied(logits, temperature, generator):
    weights = (logits * temperature).softmax(-1)
    return torch.multinomial(weights, 1, generator=generator).squeeze(-1)


def sample_without_temperature(logits, temperature, generator):
    return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)


def sample_divided_probabilities(logits, temperature, generator):
    weights = logits.softmax(-1) / temperature
    return torch.multinomial(weights, 1, generator=generator).squeeze(-1)


def sample_column(logits, temperature, generator):
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)


def sample_squeezed(logits, temperature, generator):
    return sample_column(logits, temperature, generator).squeeze()


def sample_global(logits, temperature, generator):
    return torch.multinomial((logits / temperature).softmax(-1), 1).squeeze(-1)


def sample_seeded_inside(logits, temperature, generator):
    own = torch.Generator().manual_seed(0)
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=own).squeeze(-1)


def sample_uniform(logits, temperature, generator):
    return torch.randint(logits.shape[-1], (len(logits),), generator=generator)


def sample_first_row_for_all(logits, temperature, generator):
    weights = (logits[0] / temperature).softmax(-1)
    return torch.multinomial(weights, len(logits), replacement=True, generator=generator)


def sample_by_gumbel(logits, temperature, generator):
    uniform = torch.rand(logits.shape, generator=generator, dtype=torch.float64)
    gumbel = -torch.log(-torch.log(uniform.clamp(1e-300, 1 - 1e-16)))
    return (logits.double() / temperature + gumbel).argmax(-1)


def sample_by_inverse(logits, temperature, generator):
    cumulative = (logits.double() / temperature).softmax(-1).cumsum(-1)
    uniform = torch.rand(len(logits), 1, generator=generator, dtype=torch.float64)
    return (uniform * cumulative[:, -1:] >= cumulative).sum(-1)


# 2.6 · exact KL ---------------------------------------------------------------------------------


def kl_backwards(logits_p, logits_q):
    return kl_from_entropies(logits_q, logits_p)


def kl_mean_over_vocabulary(logits_p, logits_q):
    log_p, log_q = logits_p.log_softmax(-1), logits_q.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).mean(-1)


def kl_unweighted(logits_p, logits_q):
    return (logits_p.log_softmax(-1) - logits_q.log_softmax(-1)).mean(-1)


def kl_of_raw_logits(logits_p, logits_q):
    return (logits_p.softmax(-1) * (logits_p - logits_q)).sum(-1)


def kl_with_wrong_sign(logits_p, logits_q):
    return -kl_from_entropies(logits_p, logits_q)


def kl_cross_entropy(logits_p, logits_q):
    return -(logits_p.softmax(-1) * logits_q.log_softmax(-1)).sum(-1)


def kl_for_the_batch(logits_p, logits_q):
    return kl_from_entropies(logits_p, logits_q).sum()


def kl_by_torch_swapped(logits_p, logits_q):
    log_p, log_q = logits_p.log_softmax(-1), logits_q.log_softmax(-1)
    return functional.kl_div(log_p, log_q.exp(), reduction="none").sum(-1)


def kl_zero_times_infinity(logits_p, logits_q):
    log_p, log_q = logits_p.log_softmax(-1), logits_q.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def kl_infinity_erased(logits_p, logits_q):
    log_p, log_q = logits_p.log_softmax(-1), logits_q.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).nan_to_num(0.0, 0.0, 0.0).sum(-1)


def kl_nan_to_num(logits_p, logits_q):
    log_p, log_q = logits_p.log_softmax(-1), logits_q.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).nan_to_num(0.0).sum(-1)


def kl_from_entropies(logits_p, logits_q):
    log_p, log_q = logits_p.log_softmax(-1), logits_q.log_softmax(-1)
    p = log_p.exp()
    cross = torch.where(p > 0, -p * log_q, torch.zeros_like(p)).sum(-1)
    return cross - torch.special.entr(p).sum(-1)


def kl_by_torch(logits_p, logits_q):
    log_p, log_q = logits_p.log_softmax(-1), logits_q.log_softmax(-1)
    terms = functional.kl_div(log_q, log_p, reduction="none", log_target=True)
    return torch.where(log_p.exp() > 0, terms, torch.zeros_like(terms)).sum(-1)


# 2.7 · the return of a rollout ------------------------------------------------------------------


def _with_score(token_rewards, scores, mask):
    rewards = token_rewards.masked_fill(~mask, 0.0)
    last = mask.sum(-1) - 1
    rewards[torch.arange(len(scores)), last] += scores
    return rewards


def _to_go(rewards, gamma):
    returns = torch.zeros_like(rewards)
    running = rewards.new_zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        running = rewards[:, t] + gamma * running
        returns[:, t] = running
    return returns


def returns_score_in_last_column(token_rewards, scores, mask, gamma):
    rewards = token_rewards.masked_fill(~mask, 0.0)
    rewards[:, -1] += scores
    return _keep(_to_go(rewards, gamma), mask), rewards.sum(-1)


def returns_with_padding_and_score_in_last_column(token_rewards, scores, mask, gamma):
    rewards = token_rewards.clone()
    rewards[:, -1] += scores
    return _keep(_to_go(rewards, gamma), mask), rewards.sum(-1)


def returns_score_everywhere(token_rewards, scores, mask, gamma):
    rewards = token_rewards.masked_fill(~mask, 0.0) + scores[:, None] * mask
    return _keep(_to_go(rewards, gamma), mask), _with_score(token_rewards, scores, mask).sum(-1)


def returns_not_discounted(token_rewards, scores, mask, gamma):
    rewards = _with_score(token_rewards, scores, mask)
    return _keep(_to_go(rewards, 1.0), mask), rewards.sum(-1)


def returns_of_the_past(token_rewards, scores, mask, gamma):
    rewards = _with_score(token_rewards, scores, mask)
    return _keep(_to_go(rewards.flip(1), gamma).flip(1), mask), rewards.sum(-1)


def returns_forgot_score(token_rewards, scores, mask, gamma):
    rewards = token_rewards.masked_fill(~mask, 0.0)
    return _keep(_to_go(rewards, gamma), mask), rewards.sum(-1)


def returns_bandit_discounted(token_rewards, scores, mask, gamma):
    per_token = _keep(_to_go(_with_score(token_rewards, scores, mask), gamma), mask)
    return per_token, per_token[:, 0]


def returns_bandit_score_alone(token_rewards, scores, mask, gamma):
    per_token = _keep(_to_go(_with_score(token_rewards, scores, mask), gamma), mask)
    return per_token, scores


def returns_without_bandit(token_rewards, scores, mask, gamma):
    return _keep(_to_go(_with_score(token_rewards, scores, mask), gamma), mask)


def returns_mask_multiplied(token_rewards, scores, mask, gamma):
    rewards = token_rewards * mask
    rewards[torch.arange(len(scores)), mask.sum(-1) - 1] += scores
    return _keep(_to_go(rewards, gamma), mask), rewards.sum(-1)


def returns_by_matrix(token_rewards, scores, mask, gamma):
    length = mask.shape[1]
    steps = torch.arange(length)[:, None] - torch.arange(length)[None, :]
    discount = torch.where(steps >= 0, float(gamma) ** steps.clamp(min=0).double(), 0.0)
    rewards = _with_score(token_rewards, scores, mask)
    return _keep(rewards @ discount.to(rewards.dtype), mask), rewards.sum(-1)


def returns_by_python(token_rewards, scores, mask, gamma):
    per_token, whole = torch.zeros_like(token_rewards), torch.zeros_like(scores)
    for b, count in enumerate(mask.sum(-1).tolist()):
        rewards = token_rewards[b, :count].tolist()
        rewards[-1] += float(scores[b])
        whole[b] = math.fsum(rewards)
        for t in range(count):
            per_token[b, t] = math.fsum(gamma**k * r for k, r in enumerate(rewards[t:]))
    return per_token, whole


# 2.8 · distillation -----------------------------------------------------------------------------


def distillation_backwards(student_logits, teacher_logits, mask):
    return distillation_by_logsumexp(teacher_logits, student_logits, mask)


def distillation_hard_labels(student_logits, teacher_logits, mask):
    return _keep(-_pick(student_logits.log_softmax(-1), teacher_logits.argmax(-1)), mask)


def distillation_without_mask(student_logits, teacher_logits, mask):
    return distillation_by_logsumexp(student_logits, teacher_logits, torch.ones_like(mask))


def distillation_averaged(student_logits, teacher_logits, mask):
    return distillation_by_logsumexp(student_logits, teacher_logits, mask).sum() / mask.sum()


def distillation_squared_logits(student_logits, teacher_logits, mask):
    return _keep((student_logits - teacher_logits.detach()).square().mean(-1), mask)


def distillation_kl(student_logits, teacher_logits, mask):
    return _keep(kl_by_torch(teacher_logits.detach(), student_logits), mask)


def distillation_teacher_learns(student_logits, teacher_logits, mask):
    p = teacher_logits.softmax(-1)
    return _keep(-_keep(p * student_logits.log_softmax(-1), p > 0).sum(-1), mask)


def distillation_student_detached(student_logits, teacher_logits, mask):
    return distillation_teacher_learns(student_logits.detach(), teacher_logits, mask)


def distillation_nan(student_logits, teacher_logits, mask):
    p = teacher_logits.detach().softmax(-1)
    return _keep(-(p * student_logits.log_softmax(-1)).sum(-1), mask)


def distillation_nan_in_the_gradient(student_logits, teacher_logits, mask):
    teacher, student = teacher_logits.detach().softmax(-1), student_logits.softmax(-1)
    return _keep(-torch.xlogy(teacher, student).sum(-1), mask)


def distillation_nan_times_mask(student_logits, teacher_logits, mask):
    teacher = teacher_logits.detach().softmax(-1)
    return -(teacher * student_logits.log_softmax(-1)).sum(-1) * mask


def distillation_by_logsumexp(student_logits, teacher_logits, mask):
    p = teacher_logits.detach().softmax(-1)
    allowed = student_logits.masked_fill(p == 0, 0.0)
    normaliser = torch.logsumexp(student_logits, -1)  # Σ p = 1, so it comes out of the sum
    losses = normaliser - (p * allowed).sum(-1)
    return losses.masked_fill(~mask, 0.0)


def distillation_by_entropies(student_logits, teacher_logits, mask):
    teacher_logits = teacher_logits.detach()
    entropy = torch.special.entr(teacher_logits.softmax(-1)).sum(-1)
    return _keep(kl_by_torch(teacher_logits, student_logits) + entropy, mask)


WRONG = {
    "2.1": [
        ("no shift", log_probs_without_shift, "did not shift"),
        ("dropped a position", log_probs_dropped_not_shifted, "did not shift"),
        ("shifted backwards", log_probs_shifted_backwards, "shifted the wrong way"),
        ("raw logits", log_probs_from_raw_logits, "gathered raw logits"),
        ("probabilities", log_probs_as_probabilities, "returned probabilities"),
        ("softmax over positions", log_probs_softmax_over_positions, "over the positions"),
        ("no mask", log_probs_without_mask, "left numbers in the padding"),
        ("mask not shifted", log_probs_unshifted_mask, "You used mask[:, :-1]"),
        ("log of softmax", log_probs_by_log_of_softmax, "underflows"),
        ("mask by product", log_probs_multiplied_by_mask, "−∞ · 0 is NaN"),
    ],
    "2.2": [
        ("mean for sum", sequence_mean, "took the mean over the tokens"),
        ("mean of positions", sequence_mean_of_all_positions, "mean over all positions"),
        ("no mask", sequence_without_mask, "added the padding"),
        ("product", sequence_product, "multiplied log-probabilities"),
        ("probability", sequence_probability, "returned the probability"),
        ("whole batch", sequence_one_for_the_batch, "summed over the whole batch"),
        ("mask by product", sequence_multiplied_by_mask, "multiplied by the mask"),
        ("log of product", sequence_log_of_product, "underflows to 0"),
    ],
    "2.3": [
        ("sign", nll_with_wrong_sign, "The sign"),
        ("averaged", nll_averaged, "You averaged"),
        ("summed", nll_summed_per_text, "You summed over the tokens"),
        ("no mask", nll_without_mask, "left numbers in the padding"),
        ("raw logits", nll_from_raw_logits, "used raw logits"),
        ("mask not shifted", nll_unshifted_mask, "You used mask[:, :-1]"),
        ("no shift", nll_without_shift, "did not shift"),
        ("gathers −100", nll_gathers_the_padding, "index -100"),
        ("vocabulary last", nll_vocabulary_last, "the vocabulary in dimension 1"),
        ("detached", nll_detached, "gradient"),
        ("log of softmax", nll_by_log_of_softmax, "underflows"),
        ("mask by product", nll_multiplied_by_mask, "multiplied by the mask"),
    ],
    "2.4": [
        ("no minus", perplexity_without_minus, "The sign"),
        ("all positions", perplexity_over_all_positions, "divided by all positions"),
        ("no mask", perplexity_without_mask, "used the padding"),
        ("mean of texts", perplexity_mean_of_texts, "averaged the perplexities of the texts"),
        ("mean within texts", perplexity_mean_within_texts, "within each text first"),
        ("mean of 1/π", perplexity_mean_of_inverses, "averaged 1/π"),
        ("base 2", perplexity_base_two, "2 as the base"),
        ("not exponentiated", perplexity_not_exponentiated, "exponentiate it"),
        ("sum", perplexity_of_the_sum, "used the sum of the logarithms"),
        ("mask by product", perplexity_multiplied_by_mask, "multiplied by the mask"),
    ],
    "2.5": [
        ("greedy", sample_greedy, "greedy decoding"),
        ("multiplied", sample_multiplied, "multiplied by the temperature"),
        ("no temperature", sample_without_temperature, "temperature had no effect"),
        ("divided probabilities", sample_divided_probabilities, "temperature had no effect"),
        ("column", sample_column, "returns a column"),
        ("squeezed, batch and all", sample_squeezed, "a batch of one row"),
        ("global state", sample_global, "global random state"),
        ("seeded inside", sample_seeded_inside, "don't seed it"),
        ("uniform", sample_uniform, "equally often"),
        ("first row for all", sample_first_row_for_all, "a distribution of its own"),
    ],
    "2.6": [
        ("backwards", kl_backwards, "The direction"),
        ("mean over the vocabulary", kl_mean_over_vocabulary, "mean over the vocabulary"),
        ("no weights", kl_unweighted, "equal weights"),
        ("raw logits", kl_of_raw_logits, "used raw logits"),
        ("sign", kl_with_wrong_sign, "The sign"),
        ("cross-entropy", kl_cross_entropy, "subtract the entropy"),
        ("whole batch", kl_for_the_batch, "one KL per row"),
        ("kl_div with swapped arguments", kl_by_torch_swapped, "The direction"),
        ("0 · ∞", kl_zero_times_infinity, "p = 0 adds nothing"),
        ("infinity erased", kl_infinity_erased, "set every non-finite term to 0"),
        ("infinity made a number", kl_nan_to_num, "nan_to_num turns ∞"),
    ],
    "2.7": [
        ("last column", returns_score_in_last_column, "last column"),
        (
            "last column, with padding",
            returns_with_padding_and_score_in_last_column,
            "let the padding's numbers in",
        ),
        ("every token", returns_score_everywhere, "score to every token"),
        ("no discount", returns_not_discounted, "did not discount"),
        ("the past", returns_of_the_past, "added up the past"),
        ("no score", returns_forgot_score, "forgot the score"),
        ("bandit discounted", returns_bandit_discounted, "discounted the bandit's return"),
        ("bandit score alone", returns_bandit_score_alone, "returned the score alone"),
        ("one view", returns_without_bandit, "Return a pair"),
        ("mask by product", returns_mask_multiplied, "NaN · 0 is NaN"),
    ],
    "2.8": [
        ("backwards", distillation_backwards, "The direction"),
        ("hard labels", distillation_hard_labels, "likeliest token alone"),
        ("no mask", distillation_without_mask, "left numbers in the padding"),
        ("averaged", distillation_averaged, "You averaged"),
        ("squared logits", distillation_squared_logits, "compared logits with logits"),
        ("KL", distillation_kl, "leave the teacher's entropy in"),
        ("teacher learns", distillation_teacher_learns, "detach teacher_logits"),
        ("student detached", distillation_student_detached, "No gradient reaches the student"),
        ("0 · ∞", distillation_nan, "0 · (−∞) is NaN"),
        ("0 · ∞, mask by product", distillation_nan_times_mask, "and so is NaN · 0"),
        ("NaN gradient", distillation_nan_in_the_gradient, "its gradient NaN where a token is"),
    ],
}

RIGHT = {
    "2.1": [
        ("cross-entropy", log_probs_by_cross_entropy),
        ("two loops", log_probs_by_loop),
        ("torch.distributions", log_probs_by_distribution),
    ],
    "2.2": [("nansum", sequence_by_nansum), ("row by row", sequence_by_rows)],
    "2.3": [("ignore_index", nll_by_cross_entropy), ("logsumexp", nll_by_logsumexp)],
    "2.4": [("selection", perplexity_by_selection), ("a Python number", perplexity_as_number)],
    "2.5": [("Gumbel-max", sample_by_gumbel), ("inverse cumulative", sample_by_inverse)],
    "2.6": [("entropies", kl_from_entropies), ("kl_div", kl_by_torch)],
    "2.7": [("a matrix of discounts", returns_by_matrix), ("Python", returns_by_python)],
    "2.8": [
        ("logsumexp", distillation_by_logsumexp),
        ("KL and entropy", distillation_by_entropies),
    ],
}
