"""What a language model knows and how far two of them differ, each with its standard error.

Lesson 2 measures with it; the later lessons report KL and rates by it. A number estimated from
samples is an :class:`Estimate`: it carries its own uncertainty, so a claim about it can be tested.

Left out on purpose: bootstrap and other resampling (the intervals here are closed formulas), and
KL by the log-ratio of the sampled tokens alone, which has the same mean and more variance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch

from rlhf_lessons import formulas
from rlhf_lessons.models import LanguagePolicy

__all__ = ["Estimate", "estimate_mean", "estimate_nll", "estimate_share", "sequence_kl"]


@dataclass(frozen=True)
class Estimate:
    """A number estimated from samples, with its uncertainty.

    Attributes:
        value: the estimate, in the unit of what was measured.
        standard_error: standard deviation of the estimate over repetitions of the experiment.
        count: how many independent samples went in.
    """

    value: float
    standard_error: float
    count: int

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Give the interval that holds the true value in a share ``confidence`` of repetitions.

            value ± z · standard error, with z the normal quantile of (1 + confidence)/2

        Args:
            confidence: share in (0, 1).

        Returns:
            The lower and the upper end.

        Raises:
            ValueError: If the confidence is not inside (0, 1).
        """
        half_width = _quantile("Estimate.interval", confidence) * self.standard_error
        return self.value - half_width, self.value + half_width

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.standard_error:.3f}"


def estimate_mean(samples: Sequence[float]) -> Estimate:
    """Estimate a mean from independent samples.

        mean = Σ x_i / N, standard error = √(Σ (x_i − mean)² / (N − 1) / N)

    Args:
        samples: (N,) numbers, N ≥ 2: a sequence, a NumPy array or a tensor.

    Returns:
        The estimate.

    Raises:
        ValueError: If there are fewer than two samples or they are not in one row.
    """
    values = torch.as_tensor(samples, dtype=torch.float64).detach().cpu()
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(
            f"estimate_mean: samples must be a row of at least 2 numbers, got shape "
            f"{tuple(values.shape)}"
        )
    return Estimate(float(values.mean()), float(values.std() / math.sqrt(len(values))), len(values))


def estimate_share(
    successes: int, trials: int, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Estimate a probability from how often something happened, with Wilson's interval.

        (p + z²/2n ± z · √(p(1 − p)/n + z²/4n²)) / (1 + z²/n), with p = successes/n

    Unlike p ± z · √(p(1 − p)/n), it keeps a width when nothing or everything happened.

    Args:
        successes: how often it happened, 0 to ``trials``.
        trials: n, how often it was tried, 1 or more.
        confidence: share of repetitions in which the interval holds the true probability, in
            (0, 1).

    Returns:
        The share p, and the lower and upper end of its interval.

    Raises:
        ValueError: If a count or the confidence is out of its range.

    Source:
        Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(
            f"estimate_share: successes must lie in 0 to trials and trials be at least 1, got "
            f"{successes} of {trials}"
        )
    z = _quantile("estimate_share", confidence)
    share, shrink = successes / trials, 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / shrink
    half_width = (z / shrink) * math.sqrt(
        share * (1 - share) / trials + z * z / (4 * trials * trials)
    )
    return share, max(0.0, centre - half_width), min(1.0, centre + half_width)


@torch.no_grad()
def estimate_nll(
    policy: LanguagePolicy, examples: Sequence[tuple[str, str]], batch_size: int = 128
) -> Estimate:
    """Measure the mean negative log-likelihood per token of texts that were not trained on.

        L = −Σ_i Σ_t log π(y_it | x_i, y_i,<t) / Σ_i T_i

    The value is that of ``training.held_out_nll``; here it comes with its uncertainty. Its
    exponential is the perplexity. The standard error treats texts, not tokens, as independent:
    it is that of a ratio of two sums over texts.

    Args:
        policy: the model to measure.
        examples: pairs (prompt, response), 2 or more; the end token of each response counts too.
        batch_size: texts per forward pass; it changes the memory, not the result.

    Returns:
        The estimate in nats per token; its ``count`` is the number of texts.

    Raises:
        ValueError: If there are fewer than two examples or the batch size is below 1.
    """
    _check_count("estimate_nll", "examples", examples, batch_size)
    losses, lengths = [], []
    for start in range(0, len(examples), batch_size):
        prompts, responses = zip(*examples[start : start + batch_size], strict=True)
        log_probs, mask = policy.log_probs(prompts, responses)
        losses.append(-formulas.sequence_log_prob(log_probs, mask).double().cpu())
        lengths.append(mask.sum(1).double().cpu())
    loss, length = torch.cat(losses), torch.cat(lengths)
    value = loss.sum() / length.sum()
    residual = loss - value * length
    count = len(examples)
    error = (residual.square().sum() * count / (count - 1)).sqrt() / length.sum()
    return Estimate(float(value), float(error), count)


@torch.no_grad()
def sequence_kl(
    policy: LanguagePolicy,
    reference: LanguagePolicy,
    prompts: Sequence[str],
    max_new_tokens: int,
    generator: torch.Generator | None = None,
    batch_size: int = 128,
) -> Estimate:
    """Estimate how far a policy is from a reference over whole responses, by sampling from it.

        KL(π ‖ π_ref) = E_{y∼π}[ Σ_t KL(π(·|x, y_{<t}) ‖ π_ref(·|x, y_{<t})) ]

    The KL of each next-token distribution is summed exactly over the vocabulary; only the texts are
    sampled. That has the same mean as the log-ratio of the sampled tokens, and less variance.

    Args:
        policy: π, which is sampled.
        reference: π_ref, over the same tokens.
        prompts: 2 or more; one response is sampled for each. Repeat a prompt for more.
        max_new_tokens: the most tokens of a response. A response that is cut there counts up to the
            cut.
        generator: source of randomness; None takes torch's global one.
        batch_size: responses per forward pass.

    Returns:
        The estimate in nats per response.

    Raises:
        ValueError: If there are fewer than two prompts, the batch size is below 1, or the two
            vocabularies differ.
    """
    return estimate_mean(
        sample_kl(policy, reference, prompts, max_new_tokens, generator, batch_size)[1]
    )


@torch.no_grad()
def sample_kl(
    policy: LanguagePolicy,
    reference: LanguagePolicy,
    prompts: Sequence[str],
    max_new_tokens: int,
    generator: torch.Generator | None,
    batch_size: int,
) -> tuple[list[str], torch.Tensor]:
    """Sample a response to each prompt: the responses, and (N,) their KL as ``sequence_kl``'s."""
    _check_count("sequence_kl", "prompts", prompts, batch_size)
    if policy.vocabulary_size != reference.vocabulary_size:
        raise ValueError(
            f"sequence_kl: policy and reference must share a vocabulary, got "
            f"{policy.vocabulary_size} and {reference.vocabulary_size} tokens"
        )
    responses: list[str] = []
    divergences = []
    for start in range(0, len(prompts), batch_size):
        batch = policy.sample(
            prompts[start : start + batch_size], max_new_tokens, generator=generator
        )
        responses += batch.responses
        per_token = formulas.categorical_kl(policy.logits_of(batch), reference.logits_of(batch))
        divergences.append(formulas.masked_sum(per_token, batch.response_mask, dim=1))
    return responses, torch.cat(divergences)


def _quantile(function: str, confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"{function}: confidence must lie inside (0, 1), got {confidence}")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _check_count(function: str, name: str, items: Sequence, batch_size: int) -> None:
    if len(items) < 2:
        raise ValueError(f"{function}: {name} must be at least 2, got {len(items)}")
    if batch_size < 1:
        raise ValueError(f"{function}: batch_size must be at least 1, got {batch_size}")
