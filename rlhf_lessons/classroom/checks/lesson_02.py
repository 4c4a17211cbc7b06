"""The checks of lesson 2, a language model as a policy.

Each exercise meets hidden inputs drawn fresh at every run: padded batches with arbitrary numbers in
the padding, logits far beyond the range of ``exp``, forbidden tokens (a logit of −∞), ties, float32
and float64. Each known mistake is computed beside the right answer, so that a hint can name it.
Left out on purpose: speed. A slow right answer passes.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from rlhf_lessons import formulas
from rlhf_lessons.classroom.exercises import Exercise, compare, require

DTYPES = (torch.float32, torch.float64)
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}
SAMPLES = 20_000  # standard error of a frequency is at most 0.0036
FREQUENCY_TOLERANCE = 0.022  # six standard errors: a right sampler fails once in 10^8 comparisons


def draw_tensor(
    draw: np.random.Generator, *shape: int, scale: float = 2.0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Draw a tensor of independent normal numbers with standard deviation ``scale``."""
    return torch.from_numpy(scale * draw.standard_normal(shape)).to(dtype)


def draw_tokens(draw: np.random.Generator, batch: int, length: int, vocabulary: int) -> Tensor:
    """Draw token numbers; every token of the vocabulary is as likely as another."""
    return torch.from_numpy(draw.integers(vocabulary, size=(batch, length)))


def draw_mask(draw: np.random.Generator, batch: int, length: int, shortest: int = 1) -> Tensor:
    """Draw a right-padded mask: one full row, one with two or more gaps, others of any length."""
    lengths = draw.integers(shortest, length, size=batch, endpoint=True)
    lengths[0], lengths[-1] = length, draw.integers(shortest, length - 2, endpoint=True)
    lengths = draw.permutation(lengths)
    return torch.from_numpy(np.arange(length)[None, :] < lengths[:, None])


def log_softmax(logits: Tensor) -> Tensor:
    """Return log softmax over the last axis."""
    return torch.log_softmax(logits, dim=-1)


def gather(values: Tensor, tokens: Tensor) -> Tensor:
    """Return ``values[..., tokens]``: at each position, the entry of its token."""
    return values.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def cleared(values: Tensor, mask: Tensor) -> Tensor:
    """Return ``values`` where the mask counts and 0 elsewhere, whatever stood there (even NaN)."""
    return values.masked_fill(~mask, 0.0)


# 2.1 · token log-probabilities ------------------------------------------------------------------


def reference_token_log_probs(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """Return log π(x_{t+1} | x_{≤t}), (B, T-1), and 0 where x_{t+1} is not counted."""
    return cleared(formulas.token_log_probs(logits, tokens), mask[:, 1:])


token_log_probs = Exercise(
    "2.1",
    "Token log-probabilities",
    function="token_log_probs",
    reference=lambda: reference_token_log_probs,
)


def _token_log_prob_mistakes(logits: Tensor, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
    log_probs, counted = log_softmax(logits), mask[:, 1:]
    unshifted = gather(log_probs, tokens)
    return {
        "You did not shift: logits[:, t] predict the NEXT token, so pair logits[:, :-1] with "
        "tokens[:, 1:]": cleared(unshifted, mask),
        "You did not shift: you dropped one position, but still read token t from logits t; pair "
        "logits[:, :-1] with tokens[:, 1:]": cleared(unshifted[:, 1:], counted),
        "You did not shift: you dropped the last position, but still read token t from logits t; "
        "pair logits[:, :-1] with tokens[:, 1:]": cleared(unshifted[:, :-1], counted),
        "You shifted the wrong way: logits[:, 1:] with tokens[:, :-1] asks the model for its "
        "past; pair logits[:, :-1] with tokens[:, 1:]": cleared(
            gather(log_probs[:, 1:], tokens[:, :-1]), counted
        ),
        "You gathered raw logits: they are not log-probabilities until log_softmax has "
        "subtracted log Σ exp(logits)": cleared(gather(logits[:, :-1], tokens[:, 1:]), counted),
        "You returned probabilities: take their logarithm (use log_softmax)": cleared(
            gather(log_probs[:, :-1], tokens[:, 1:]).exp(), counted
        ),
        "Your softmax runs over the positions: normalise over the vocabulary, dim=-1": cleared(
            gather(torch.log_softmax(logits[:, :-1], dim=1), tokens[:, 1:]), counted
        ),
        "You returned −log π: the log-probability itself is negative or zero": -cleared(
            gather(log_probs[:, :-1], tokens[:, 1:]), counted
        ),
    }


@token_log_probs.part("one text without padding", points=1)
def _(answer, draw) -> None:
    batch, length, vocabulary = 2, int(draw.integers(4, 8)), 7
    logits = draw_tensor(draw, batch, length, vocabulary)
    tokens = draw_tokens(draw, batch, length, vocabulary)
    mask = torch.ones(batch, length, dtype=torch.bool)
    compare(
        "token_log_probs(logits, tokens, mask)",
        answer(logits, tokens, mask),
        gather(log_softmax(logits[:, :-1]), tokens[:, 1:]),
        mistakes=_token_log_prob_mistakes(logits, tokens, mask),
        atol=1e-6,
    )


@token_log_probs.part("a padded batch", points=1)
def _(answer, draw) -> None:
    for dtype in DTYPES:
        batch, length, vocabulary = 4, 6, 9
        logits = draw_tensor(draw, batch, length, vocabulary, dtype=dtype)
        tokens = draw_tokens(draw, batch, length, vocabulary)
        mask = draw_mask(draw, batch, length)
        if draw.random() < 0.5:  # padding on the left, as in a batch of prompts
            mask = mask.flip(1)
        right = gather(log_softmax(logits[:, :-1]), tokens[:, 1:])
        compare(
            "token_log_probs(logits, tokens, mask) with padding",
            answer(logits, tokens, mask),
            cleared(right, mask[:, 1:]),
            mistakes={
                **_token_log_prob_mistakes(logits, tokens, mask),
                "You left numbers in the padding: return 0 where the predicted token is not "
                "counted": right,
                "You used mask[:, :-1]: entry t speaks about token t+1, so its mask is "
                "mask[:, 1:]": cleared(right, mask[:, :-1]),
                "You inverted the mask: True marks the tokens that count": cleared(
                    right, ~mask[:, 1:]
                ),
            },
            atol=TOLERANCE[dtype],
        )


@token_log_probs.part("extreme and forbidden logits", points=1)
def _(answer, draw) -> None:
    batch, length, vocabulary = 3, 6, 5
    logits = draw_tensor(draw, batch, length, vocabulary, scale=400.0)
    logits[0] = draw_tensor(draw, length, vocabulary).round()  # ties
    logits[0, :, 0] = -math.inf  # a forbidden token
    logits[1:, :, 1] += 5_000.0  # the other tokens have probabilities of exp(−1000s)
    tokens = torch.from_numpy(draw.integers(1, vocabulary, size=(batch, length)))
    tokens[1] = torch.from_numpy(draw.integers(2, vocabulary, size=length))
    mask = torch.ones(batch, length, dtype=torch.bool)
    mask[0, -2:] = False
    tokens[0, -2:] = 0  # the padding token: its log-probability is −∞, and −∞ · 0 is not a number
    right = cleared(gather(log_softmax(logits[:, :-1]), tokens[:, 1:]), mask[:, 1:])
    raw = gather(logits.softmax(-1).log()[:, :-1], tokens[:, 1:])
    compare(
        "token_log_probs of logits in the hundreds, one of them −∞",
        answer(logits, tokens, mask),
        right,
        mistakes={
            "log(softmax(x)) underflows to −∞: log_softmax computes the same without leaving the "
            "logarithm": cleared(raw, mask[:, 1:]),
            "You multiplied by the mask: −∞ · 0 is NaN; use torch.where or masked_fill": gather(
                log_softmax(logits[:, :-1]), tokens[:, 1:]
            )
            * mask[:, 1:],
            "log(softmax(x)) underflows to −∞, and −∞ · 0 is NaN: use log_softmax, then "
            "torch.where": raw * mask[:, 1:],
        },
        atol=1e-6,
    )


# 2.2 · sequence log-probability -----------------------------------------------------------------

sequence_log_prob = Exercise(
    "2.2",
    "Sequence log-probability",
    function="sequence_log_prob",
    reference=lambda: formulas.sequence_log_prob,
)


def _sequence_mistakes(values: Tensor, mask: Tensor) -> dict[str, Tensor]:
    kept = cleared(values, mask)
    return {
        "You took the mean over the tokens: log π(y|x) is the SUM, since log of a product is the "
        "sum of logs": kept.sum(-1) / mask.sum(-1).clamp(min=1),
        "You took the mean over all positions: log π(y|x) is the SUM over counted ones": kept.mean(
            -1
        ),
        "You added the padding too: use the mask": values.sum(-1),
        "You multiplied log-probabilities: probabilities multiply, their logarithms add": (
            torch.where(mask, values, torch.ones_like(values)).prod(-1)
        ),
        "You returned the probability: keep the logarithm, exp(−300) is 0 for a computer": (
            kept.sum(-1).exp()
        ),
        "You summed over the whole batch: one number per response, sum over the last axis": (
            kept.sum()
        ),
        "You summed over the batch axis: one number per response, sum over the last axis": kept.sum(
            0
        ),
        "You inverted the mask: True marks the tokens that count": cleared(values, ~mask).sum(-1),
    }


@sequence_log_prob.part("the sum over counted tokens", points=1)
def _(answer, draw) -> None:
    for dtype in DTYPES:
        batch, length = 4, int(draw.integers(5, 9))
        values = -draw_tensor(draw, batch, length, dtype=dtype).abs()
        mask = draw_mask(draw, batch, length)
        compare(
            "sequence_log_prob(token_log_probs, mask)",
            answer(values, mask),
            cleared(values, mask).sum(-1),
            mistakes=_sequence_mistakes(values, mask),
            atol=TOLERANCE[dtype],
        )


@sequence_log_prob.part("long responses, garbage in the padding, an empty response", points=1)
def _(answer, draw) -> None:
    batch, length = 4, 120
    values = -draw_tensor(draw, batch, length, scale=8.0).abs() - 9.0
    mask = draw_mask(draw, batch, length, shortest=100)
    empty = int(draw.integers(batch))
    mask[empty] = False  # a response of no tokens has probability 1, log-probability 0
    values[~mask] = math.nan if draw.random() < 0.5 else -math.inf
    compare(
        "sequence_log_prob with NaN or −∞ in the padding",
        answer(values, mask),
        cleared(values, mask).sum(-1),
        mistakes={
            "You multiplied by the mask: NaN · 0 and −∞ · 0 are NaN; use torch.where or "
            "masked_fill": (values * mask).sum(-1),
            "You multiplied probabilities and took the logarithm: the product underflows to 0; "
            "add the logarithms": cleared(values, mask).exp().prod(-1).log(),
            "An empty response divides by zero in a mean: take the sum": cleared(values, mask).sum(
                -1
            )
            / mask.sum(-1),
            **_sequence_mistakes(values, mask),
        },
        atol=1e-6,
    )


# 2.3 · negative log-likelihood ------------------------------------------------------------------

nll = Exercise("2.3", "Negative log-likelihood", function="nll", reference=lambda: formulas.nll)


IGNORED = -100  # what much code writes where a token is not to be learned; no token has this id


def _right_nll(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    log_probs, nexts = log_softmax(logits[:, :-1]), tokens[:, 1:].clamp(min=0)
    return cleared(-gather(log_probs, nexts), mask[:, 1:])


def _nll_mistakes(logits: Tensor, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
    tokens, counted = tokens.clamp(min=0), mask[:, 1:]
    log_probs, nexts = log_softmax(logits[:, :-1]), tokens[:, 1:]
    right = _right_nll(logits, tokens, mask)
    unshifted = -gather(log_softmax(logits), tokens)
    shift = "You did not shift: logits[:, t] predict token t+1, so the losses are (B, T-1)"
    return {
        "The sign: a loss is smaller when the tokens are likelier, so −log π": -right,
        "You averaged: return one loss per token (B, T-1), the training loop averages": right.sum()
        / counted.sum(),
        "You averaged over all positions: return one loss per token (B, T-1); padding must not "
        "count in an average either": right.mean(),
        "You summed: return one loss per token (B, T-1), the training loop averages": right.sum(),
        "You summed over the tokens: return one loss per token (B, T-1)": right.sum(-1),
        "You left numbers in the padding: 0 where the predicted token is not counted": -gather(
            log_probs, nexts
        ),
        "You used mask[:, :-1]: entry t is the loss of token t+1, so its mask is mask[:, 1:]": (
            cleared(-gather(log_probs, nexts), mask[:, :-1])
        ),
        "You used raw logits: normalise with log_softmax first": cleared(
            -gather(logits[:, :-1], nexts), counted
        ),
        "You returned −π: cross-entropy takes the logarithm": cleared(
            -gather(log_probs, nexts).exp(), counted
        ),
        "You returned the entropy of the prediction: cross-entropy with one right token is −log "
        "of that token's probability": cleared(
            -(log_probs.exp() * log_probs.clamp(min=-1e30)).sum(-1), counted
        ),
        shift: cleared(unshifted, mask),
        shift + " of token t+1": cleared(unshifted[:, :-1], counted),
        shift + " of the NEXT token": cleared(unshifted[:, 1:], counted),
        "You divided by ln 2: the course counts in nats, natural logarithm": right / math.log(2),
        **_vocabulary_last(logits, tokens, counted),
    }


def _vocabulary_last(logits: Tensor, tokens: Tensor, counted: Tensor) -> dict[str, Tensor]:
    """What cross_entropy gives where it takes positions for the vocabulary: they are as many."""
    if logits.shape[1] - 1 != logits.shape[2]:
        return {}  # PyTorch itself refuses the shapes
    given = logits[:, :-1].double()
    losses = torch.nn.functional.cross_entropy(given, tokens[:, 1:], reduction="none")
    hint = "cross_entropy wants the vocabulary in dimension 1: give it logits.transpose(1, 2)"
    return {hint: losses, hint + ", and clear the padding": cleared(losses, counted)}


@nll.part("one loss per token", points=1)
def _(answer, draw) -> None:
    for dtype in DTYPES:
        batch, length, vocabulary = 3, int(draw.integers(5, 8)), 8
        logits = draw_tensor(draw, batch, length, vocabulary, dtype=dtype)
        mask = draw_mask(draw, batch, length, shortest=2)
        tokens = draw_tokens(draw, batch, length, vocabulary).masked_fill(~mask, 0)
        compare(
            "nll(logits, tokens, mask)",
            answer(logits, tokens, mask),
            _right_nll(logits, tokens, mask),
            mistakes=_nll_mistakes(logits, tokens, mask),
            atol=TOLERANCE[dtype],
        )


@nll.part("its gradient is softmax − one-hot", points=1)
def _(answer, draw) -> None:
    batch, length, vocabulary = 3, 6, 5
    fixed = draw_tensor(draw, batch, length, vocabulary, scale=3.0)
    mask = draw_mask(draw, batch, length, shortest=2)
    tokens = draw_tokens(draw, batch, length, vocabulary)
    fixed[1, :, 0], tokens[1] = -math.inf, tokens[1].clamp(min=1)  # forbidden: in the padding alone
    tokens = tokens.masked_fill(~mask, 0)
    logits = fixed.clone().requires_grad_(True)
    got = answer(logits, tokens, mask)
    compare(
        "nll(logits, tokens, mask)",
        got,
        _right_nll(fixed, tokens, mask),
        mistakes=_nll_mistakes(fixed, tokens, mask),
        atol=1e-6,
        gradient=True,
    )
    (slope,) = torch.autograd.grad(got.sum(), logits)
    expected = torch.zeros_like(fixed)
    one_hot = torch.nn.functional.one_hot(tokens[:, 1:], vocabulary)
    expected[:, :-1] = (fixed[:, :-1].softmax(-1) - one_hot) * mask[:, 1:, None]
    compare(
        "the gradient of Σ nll in the logits (softmax − one-hot where counted, else 0)",
        slope,
        expected,
        atol=1e-6,
    )


@nll.part("−100 in the padding, extreme and forbidden logits", points=1)
def _(answer, draw) -> None:
    batch, length, vocabulary = 3, 6, 6
    logits = draw_tensor(draw, batch, length, vocabulary, scale=500.0)
    logits[:, :, 0] = -math.inf
    logits[:, :, 1] += 5_000.0  # so that every token counted below has a probability of exp(−1000s)
    mask = draw_mask(draw, batch, length, shortest=2)
    tokens = torch.from_numpy(draw.integers(2, vocabulary, size=(batch, length)))
    for padding in (0, IGNORED):
        padded = tokens.masked_fill(~mask, padding)
        nexts, log_probs = padded[:, 1:].clamp(min=0), log_softmax(logits[:, :-1])
        underflown = -gather(logits[:, :-1].softmax(-1).log(), nexts)
        compare(
            f"nll of logits in the hundreds, some of them −∞, with {padding} in the padding",
            answer(logits, padded, mask),
            _right_nll(logits, padded, mask),
            mistakes={
                "log(softmax(x)) underflows: use log_softmax or cross_entropy": cleared(
                    underflown, mask[:, 1:]
                ),
                "You multiplied by the mask: ∞ · 0 is NaN; use torch.where or masked_fill": -gather(
                    log_probs, nexts
                )
                * mask[:, 1:],
                "log(softmax(x)) underflows, and ∞ · 0 is NaN: use log_softmax, then "
                "torch.where": underflown * mask[:, 1:],
                **_nll_mistakes(logits, padded, mask),
            },
            atol=1e-6,
        )


# 2.4 · perplexity -------------------------------------------------------------------------------

perplexity = Exercise(
    "2.4", "Perplexity", function="perplexity", reference=lambda: formulas.perplexity
)


def _perplexity_mistakes(values: Tensor, mask: Tensor) -> dict[str, Tensor]:
    kept, count = cleared(values, mask), mask.sum()
    mean = kept.sum() / count
    lengths = mask.sum(-1).clamp(min=1)
    return {
        "The sign: perplexity is exp(−mean log π), at least 1": mean.exp(),
        "You divided by all positions: divide by the number of COUNTED tokens": (
            -kept.mean()
        ).exp(),
        "You used the padding too: use the mask": (-values.mean()).exp(),
        "You averaged the perplexities of the texts: average log π over all counted tokens, then "
        "exponentiate once": (-kept.sum(-1) / lengths).exp().mean(),
        "You averaged within each text first: long and short texts then weigh the same; average "
        "over all counted tokens": (-kept.sum(-1) / lengths).mean().exp(),
        "You averaged 1/π over the tokens: average the logarithms, then exponentiate": torch.where(
            mask, (-kept).exp(), torch.zeros_like(kept)
        ).sum()
        / count,
        "You averaged π over the tokens and inverted: average the logarithms": count
        / torch.where(mask, kept.exp(), torch.zeros_like(kept)).sum(),
        "You used 2 as the base with natural logarithms: exp": 2.0 ** (-mean),
        "You returned the mean negative log-likelihood: exponentiate it": -mean,
        "You returned one perplexity per text: one number for all counted tokens": (
            -kept.sum(-1) / lengths
        ).exp(),
        "You used the sum of the logarithms: divide by the number of counted tokens": (
            -kept.sum()
        ).exp(),
    }


@perplexity.part("a padded batch", points=1)
def _(answer, draw) -> None:
    for dtype in DTYPES:
        batch, length = 4, 8
        values = -draw_tensor(draw, batch, length, scale=1.5, dtype=dtype).abs() - 0.05
        mask = draw_mask(draw, batch, length, shortest=2)
        compare(
            "perplexity(token_log_probs, mask)",
            answer(values, mask),
            (-cleared(values, mask).sum() / mask.sum()).exp(),
            mistakes=_perplexity_mistakes(values, mask),
            atol=10 * TOLERANCE[dtype],
        )


@perplexity.part("a uniform guess over V tokens has perplexity V", points=1)
def _(answer, draw) -> None:
    vocabulary = int(draw.integers(20, 400))
    batch, length = 5, 60
    values = torch.full((batch, length), -math.log(vocabulary), dtype=torch.float64)
    mask = draw_mask(draw, batch, length, shortest=30)
    values[~mask] = math.nan if draw.random() < 0.5 else -math.inf
    kept = cleared(values, mask)
    compare(
        "perplexity of a uniform guess, with NaN or −∞ in the padding",
        answer(values, mask),
        torch.tensor(float(vocabulary), dtype=torch.float64),
        mistakes={
            "You multiplied by the mask: NaN · 0 and −∞ · 0 are NaN; use torch.where or "
            "masked_fill": (-(values * mask).sum() / mask.sum()).exp(),
            "You multiplied probabilities first: the product underflows to 0; average "
            "logarithms": kept.exp().prod() ** (-1 / mask.sum()),
            **_perplexity_mistakes(values, mask),
        },
        atol=1e-6,
    )


# 2.5 · sampling with a temperature --------------------------------------------------------------


def reference_sample_tokens(
    logits: Tensor, temperature: float, generator: torch.Generator
) -> Tensor:
    """Draw one token per row from softmax(logits / temperature): (B, V) -> (B,)."""
    probabilities = torch.softmax(logits / temperature, dim=-1)
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(-1)


sample_tokens = Exercise(
    "2.5",
    "Sampling with a temperature",
    function="sample_tokens",
    reference=lambda: reference_sample_tokens,
)


def _generator(draw: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(draw.integers(2**31)))


def _frequencies(tokens: Tensor, vocabulary: int) -> Tensor:
    return torch.bincount(tokens, minlength=vocabulary).double() / len(tokens)


def _drawn(answer, logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Call the learner's sampler and require one legal token number per row."""
    before = torch.random.get_rng_state()
    tokens = answer(logits, temperature, generator)
    untouched = torch.equal(before, torch.random.get_rng_state())
    require(isinstance(tokens, Tensor), f"return a tensor of token numbers, got {type(tokens)}")
    require(
        tokens.shape != (len(logits), 1),
        "torch.multinomial returns a column (B, 1): squeeze it to shape (B,)",
    )
    require(
        len(logits) > 1 or tokens.ndim > 0,
        "From a batch of one row came a number, not a batch of one: squeeze(-1) leaves that axis",
    )
    require(
        tokens.shape == (len(logits),),
        f"return one token per row, shape ({len(logits)},), got shape {tuple(tokens.shape)}",
    )
    require(tokens.dtype == torch.long, f"return token numbers (torch.long), got {tokens.dtype}")
    require(
        bool(((tokens >= 0) & (tokens < logits.shape[-1])).all()),
        f"a token number is outside 0 ... {logits.shape[-1] - 1}",
    )
    require(untouched, "You drew from the global random state: pass generator=generator")
    return tokens


def _skewed_logits(draw: np.random.Generator) -> Tensor:
    """Logits of a distribution that a temperature of 0.5 or 2 visibly changes."""
    return torch.from_numpy(draw.permutation([1.5, 0.5, 0.0, -0.5, -1.5]) + draw.normal())


def _frequency_mistakes(logits: Tensor, temperature: float) -> dict[str, Tensor]:
    vocabulary = len(logits)
    best = torch.nn.functional.one_hot(logits.argmax(), vocabulary).double()
    return {
        "You always took the likeliest token: that is greedy decoding, not a sample": best,
        "You drew each token equally often: the logits were not used": torch.full(
            (vocabulary,), 1 / vocabulary, dtype=torch.float64
        ),
        "You multiplied by the temperature: divide, so that a high temperature flattens": (
            logits * temperature
        ).softmax(-1),
        "The temperature had no effect: divide the LOGITS by it before the softmax; dividing "
        "probabilities changes nothing once they are normalised": logits.softmax(-1),
        "You took a second softmax of the probabilities: multinomial wants softmax(logits / "
        "temperature) itself": (logits / temperature).softmax(-1).softmax(-1),
        "You divided the probabilities by the temperature inside another softmax: divide the "
        "logits": (logits.softmax(-1) / temperature).softmax(-1),
        "The signs are turned: the LARGEST logit is the likeliest token": (
            -logits / temperature
        ).softmax(-1),
    }


@sample_tokens.part("frequencies follow softmax(logits / temperature)", points=1)
def _(answer, draw) -> None:
    for temperature in (1.0, 0.5, 2.0):
        logits = _skewed_logits(draw)
        tokens = _drawn(answer, logits.repeat(SAMPLES, 1), temperature, _generator(draw))
        compare(
            f"the frequencies of {SAMPLES:,} tokens drawn at temperature {temperature:g}",
            _frequencies(tokens, len(logits)),
            (logits / temperature).softmax(-1),
            mistakes=_frequency_mistakes(logits, temperature),
            atol=FREQUENCY_TOLERANCE,
        )


@sample_tokens.part("each row its own distribution, forbidden tokens, huge logits", points=1)
def _(answer, draw) -> None:
    batch, vocabulary = 64, 6
    dtype = DTYPES[int(draw.integers(2))]
    logits = draw_tensor(draw, batch, vocabulary, dtype=dtype)
    only = torch.from_numpy(draw.integers(vocabulary, size=batch))
    logits[torch.arange(batch), only] += 2_000.0  # exp overflows; no other token has a chance
    logits[::2] = logits[::2].masked_fill(
        ~torch.nn.functional.one_hot(only[::2], vocabulary).bool(), -math.inf
    )
    compare(
        "tokens where each row leaves one token possible",
        _drawn(answer, logits, 1.0, _generator(draw)),
        only,
        mistakes={
            "Every row got the same draw: each row has a distribution of its own": torch.full_like(
                only, int(only[0])
            ),
        },
    )
    _drawn(answer, logits[:1], 1.0, _generator(draw))  # a batch of one row


@sample_tokens.part("randomness comes from the generator", points=1)
def _(answer, draw) -> None:
    logits = draw_tensor(draw, 200, 8, scale=0.5)
    seed = int(draw.integers(2**31))
    first, again, other = (
        _drawn(answer, logits, 1.0, torch.Generator().manual_seed(s))
        for s in (seed, seed, seed + 1)
    )
    require(
        torch.equal(first, again),
        "The same seed drew other tokens: all randomness must come from the generator",
    )
    require(
        not torch.equal(first, other),
        "Two seeds drew the same tokens: use the generator you are given, and don't seed it again",
    )
    shared = torch.Generator().manual_seed(seed)
    one, two = (_drawn(answer, logits, 1.0, shared) for _ in range(2))
    require(
        not torch.equal(one, two),
        "A second call with the same generator repeated the first: don't seed it inside",
    )


# 2.6 · exact KL of two next-token distributions -------------------------------------------------

categorical_kl = Exercise(
    "2.6",
    "Exact KL divergence",
    function="categorical_kl",
    reference=lambda: formulas.categorical_kl,
)


def _exact_kl(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """Sum p (log p − log q), with 0 · log 0 = 0."""
    log_p, log_q = log_softmax(logits_p), log_softmax(logits_q)
    return torch.where(log_p == -math.inf, 0.0, log_p.exp() * (log_p - log_q)).sum(-1)


def _kl_mistakes(logits_p: Tensor, logits_q: Tensor) -> dict[str, Tensor]:
    log_p, log_q = log_softmax(logits_p), log_softmax(logits_q)
    p, right = log_p.exp(), _exact_kl(logits_p, logits_q)
    return {
        "The direction: KL(p‖q) weighs with p, the first argument; yours is KL(q‖p)": _exact_kl(
            logits_q, logits_p
        ),
        "The sign: Σ p (log p − log q) is never negative": -right,
        "You took the mean over the vocabulary: the expectation under p is a SUM weighted by p": (
            right / logits_p.shape[-1]
        ),
        "You averaged log p − log q with equal weights: weigh with p": (log_p - log_q).mean(-1),
        "You summed log p − log q without weights: weigh with p": (log_p - log_q).sum(-1),
        "You used raw logits in place of log-probabilities: apply log_softmax to both": (
            p * (logits_p - logits_q)
        ).sum(-1),
        "You returned the cross-entropy −Σ p log q: subtract the entropy of p": -(p * log_q).sum(
            -1
        ),
        "You reduced over the batch: one KL per row": right.sum(),
        "You averaged over the batch: one KL per row": right.mean(),
        "You divided by ln 2: the course counts in nats, natural logarithm": right / math.log(2),
        "That is the symmetric divergence, KL(p‖q) + KL(q‖p): only the first term": right
        + _exact_kl(logits_q, logits_p),
        "That is half the symmetric divergence: only KL(p‖q)": 0.5
        * (right + _exact_kl(logits_q, logits_p)),
    }


@categorical_kl.part("one KL per row", points=1)
def _(answer, draw) -> None:
    for dtype in DTYPES:
        shape = (3, 7) if dtype is torch.float32 else (2, 4, 5)
        logits_p = draw_tensor(draw, *shape, scale=1.5, dtype=dtype) + 1.0
        logits_q = draw_tensor(draw, *shape, scale=1.5, dtype=dtype)
        compare(
            "categorical_kl(logits_p, logits_q)",
            answer(logits_p, logits_q),
            _exact_kl(logits_p, logits_q),
            mistakes=_kl_mistakes(logits_p, logits_q),
            atol=TOLERANCE[dtype],
        )


@categorical_kl.part("zero for equal distributions, logits in the hundreds", points=1)
def _(answer, draw) -> None:
    logits = draw_tensor(draw, 4, 6, scale=3.0)
    constant = draw_tensor(draw, 4, 1, scale=50.0)
    compare(
        "categorical_kl of logits with the same logits plus a constant (the same distribution)",
        answer(logits, logits + constant),
        torch.zeros(4, dtype=logits.dtype),
        mistakes={
            "You used raw logits: adding a constant to all logits changes no distribution; apply "
            "log_softmax to both": -constant.squeeze(-1),
        },
        atol=1e-6,
    )
    logits_p, logits_q = (draw_tensor(draw, 4, 6, scale=300.0) for _ in range(2))
    compare(
        "categorical_kl of logits in the hundreds",
        answer(logits_p, logits_q),
        _exact_kl(logits_p, logits_q),
        mistakes={
            "log(softmax(x)) underflows: use log_softmax": (
                logits_p.softmax(-1) * (logits_p.softmax(-1).log() - logits_q.softmax(-1).log())
            ).sum(-1),
            **_kl_mistakes(logits_p, logits_q),
        },
        atol=1e-6,
    )


@categorical_kl.part("tokens of probability zero", points=1)
def _(answer, draw) -> None:
    logits_p, logits_q = (draw_tensor(draw, 4, 6) for _ in range(2))
    logits_p[:, 0] = -math.inf  # 0 · log 0 = 0
    logits_q[:2, 0] = -math.inf
    logits_q[3, 1] = -math.inf  # p puts weight where q has none: the divergence is infinite
    log_p, log_q = log_softmax(logits_p), log_softmax(logits_q)
    compare(
        "categorical_kl where a token has probability zero",
        answer(logits_p, logits_q),
        _exact_kl(logits_p, logits_q),
        mistakes={
            "0 · (−∞) is NaN: a token with p = 0 adds nothing to the sum; use torch.where on "
            "p > 0": (log_p.exp() * (log_p - log_q)).sum(-1),
            "You set every non-finite term to 0: where p > 0 and q = 0 the divergence is infinite, "
            "only p = 0 adds nothing": (log_p.exp() * (log_p - log_q))
            .nan_to_num(0.0, 0.0, 0.0)
            .sum(-1),
            "nan_to_num turns ∞ into the largest number that there is: where p > 0 and q = 0 the "
            "divergence is infinite; clear the terms with p = 0 alone": (
                log_p.exp() * (log_p - log_q)
            )
            .nan_to_num(0.0)
            .sum(-1),
        },
        atol=1e-6,
    )


# 2.7 · the return of a rollout, in both views ---------------------------------------------------


def reference_rollout_returns(
    token_rewards: Tensor, scores: Tensor, mask: Tensor, gamma: float
) -> tuple[Tensor, Tensor]:
    """Return the return of each token (B, T) and of the response as one action (B,)."""
    positions = torch.arange(mask.shape[1])
    last = torch.where(mask, positions, -1).amax(-1)
    at_end = (positions == last[:, None]) & mask
    rewards = cleared(token_rewards, mask) + torch.where(at_end, scores[:, None], 0.0)
    return formulas.discounted_returns(rewards, mask, gamma), rewards.sum(-1)


rollout_returns = Exercise(
    "2.7",
    "Two views, two returns",
    function="rollout_returns",
    reference=lambda: reference_rollout_returns,
)


def _placed(token_rewards: Tensor, scores: Tensor, mask: Tensor, where: str) -> Tensor:
    """Rewards with the score put on the "last" counted token, or where a mistake would put it."""
    rewards = cleared(token_rewards, mask).clone()
    for row, count in enumerate(mask.sum(-1).tolist()):
        if where == "last":
            rewards[row, count - 1] += scores[row]
        elif where == "first":
            rewards[row, 0] += scores[row]
        elif where == "final column":
            rewards[row, -1] += scores[row]
        elif where == "every":
            rewards[row, :count] += scores[row]
        elif where == "after" and count < mask.shape[1]:
            rewards[row, count] += scores[row]
    return rewards


def _to_go(rewards: Tensor, gamma: float) -> Tensor:
    """G_t = r_t + γ G_{t+1}, over every column."""
    returns = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        running = rewards[:, t] + gamma * running
        returns[:, t] = running
    return returns


def _returns(answer, token_rewards, scores, mask, gamma) -> tuple[object, object]:
    """Call the learner's function and require a pair."""
    got = answer(token_rewards, scores, mask, gamma)
    require(
        isinstance(got, (tuple, list)) and len(got) == 2,
        "Return a pair: return token_returns, response_return",
    )
    return got


def _compare_returns(answer, token_rewards, scores, mask, gamma, atol) -> None:
    rewards = _placed(token_rewards, scores, mask, "last")
    right = cleared(_to_go(rewards, gamma), mask)
    per_token, whole = _returns(answer, token_rewards, scores, mask, gamma)
    elsewhere = {
        f"{words}: put it on the last COUNTED token of each row": cleared(
            _to_go(_placed(token_rewards, scores, mask, where), gamma), mask
        )
        for where, words in {
            "first": "You put the score on the first token",
            "final column": "You put the score in the last column, which may be padding",
            "every": "You gave the score to every token",
            "after": "You put the score one position too late",
        }.items()
    }
    discounts = gamma ** torch.arange(mask.shape[1], dtype=rewards.dtype)
    in_final_column = torch.cat([token_rewards[:, :-1], token_rewards[:, -1:] + scores[:, None]], 1)
    compare(
        "the returns of the tokens, (B, T)",
        per_token,
        right,
        mistakes={
            **elsewhere,
            "You put the score in the last column, which may be padding, and let the padding's "
            "numbers in: use the mask for both": cleared(_to_go(in_final_column, gamma), mask),
            "You forgot the score: it is added to the last counted token's reward": cleared(
                _to_go(cleared(token_rewards, mask), gamma), mask
            ),
            "You forgot the tokens' own rewards: the return adds them up too": cleared(
                _to_go(_placed(torch.zeros_like(token_rewards), scores, mask, "last"), gamma), mask
            ),
            "You did not discount: a reward k steps later counts γ^k": cleared(
                _to_go(rewards, 1.0), mask
            ),
            "You added up the past: G_t counts the rewards from t ON; run from the end": cleared(
                _to_go(rewards.flip(1), gamma).flip(1), mask
            ),
            "You discounted from the start of the text: γ counts the steps from t on": cleared(
                _to_go(rewards * discounts, 1.0), mask
            ),
            "You returned the rewards: G_t adds up all that follow, too": rewards,
            "You skipped the reward of the present step: G_t starts with r_t": cleared(
                _to_go(rewards, gamma) - rewards, mask
            ),
            "You left numbers in the padding: 0 where the mask is False": _to_go(
                _placed(token_rewards, scores, mask, "last") + token_rewards.masked_fill(mask, 0.0),
                gamma,
            ),
        },
        atol=atol,
    )
    compare(
        "the return of the response as one action, (B,)",
        whole,
        rewards.sum(-1),
        mistakes={
            "You discounted the bandit's return: with one action there is one step and nothing "
            "to discount": right[:, 0],
            "You returned the score alone: the tokens' own rewards belong to the action too": (
                scores
            ),
            "You left the score out of the bandit's return": cleared(token_rewards, mask).sum(-1),
            "You averaged over the tokens: the return is a sum": rewards.sum(-1) / mask.sum(-1),
            "You summed the returns: they already contain each other; sum the REWARDS": right.sum(
                -1
            ),
            "You added the padding's numbers: use the mask": token_rewards.sum(-1) + scores,
        },
        atol=atol,
    )


@rollout_returns.part("a score at the end, no discount: both views agree", points=1)
def _(answer, draw) -> None:
    for dtype in DTYPES:
        batch, length = 4, int(draw.integers(4, 8))
        mask = draw_mask(draw, batch, length)
        scores = draw_tensor(draw, batch, dtype=dtype)
        _compare_returns(
            answer,
            torch.zeros(batch, length, dtype=dtype),
            scores,
            mask,
            1.0,
            TOLERANCE[dtype],
        )


@rollout_returns.part("discount, and a reward on every token", points=1)
def _(answer, draw) -> None:
    batch, length = 4, int(draw.integers(4, 8))
    mask = draw_mask(draw, batch, length)
    scores, costs = draw_tensor(draw, batch), draw_tensor(draw, batch, length)
    gamma = float(draw.uniform(0.5, 0.95))
    _compare_returns(answer, costs, scores, mask, gamma, 1e-6)


@rollout_returns.part("garbage in the padding changes nothing", points=1)
def _(answer, draw) -> None:
    batch, length = 3, 6
    mask = draw_mask(draw, batch, length)
    scores, costs = draw_tensor(draw, batch), draw_tensor(draw, batch, length)
    costs[~mask] = math.nan
    rewards = _placed(costs, scores, mask, "last")
    right = cleared(_to_go(rewards, 0.9), mask)
    per_token, whole = _returns(answer, costs, scores, mask, 0.9)
    spoiled = "NaN · 0 is NaN: clear the padding with torch.where or masked_fill"
    with_padding = _to_go(torch.where(mask, rewards, math.nan), 0.9)
    compare(
        "the returns of the tokens with NaN in the padding",
        per_token,
        right,
        mistakes={
            spoiled: cleared(with_padding, mask),
            f"{spoiled}, before you sum": with_padding,
        },
        atol=1e-6,
    )
    compare(
        "the return of the response with NaN in the padding",
        whole,
        rewards.sum(-1),
        mistakes={spoiled: torch.where(mask, rewards, math.nan).sum(-1)},
        atol=1e-6,
    )


# 2.8 · knowledge distillation -------------------------------------------------------------------

distillation_loss = Exercise(
    "2.8",
    "Distillation loss",
    function="distillation_loss",
    reference=lambda: formulas.distillation_loss,
)


def _cross_entropy(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """Sum −p log q, with 0 · log 0 = 0."""
    p, log_q = logits_p.softmax(-1), log_softmax(logits_q)
    return -torch.where(p == 0, 0.0, p * log_q).sum(-1)


def _distillation_mistakes(student: Tensor, teacher: Tensor, mask: Tensor) -> dict[str, Tensor]:
    log_s = log_softmax(student)
    every = _cross_entropy(teacher, student)
    right = cleared(every, mask)
    return {
        "The direction: the TEACHER's probabilities are the weights of the student's logarithms; "
        "yours are turned round": cleared(_cross_entropy(student, teacher), mask),
        "You used the teacher's likeliest token alone: the student learns from ALL of the "
        "teacher's probabilities": cleared(-gather(log_s, teacher.argmax(-1)), mask),
        "You left numbers in the padding: 0 where the mask is False": every,
        "You averaged: return one loss per position (B, T), the training loop averages": right.sum()
        / mask.sum(),
        "You averaged over all positions: return one loss per position (B, T)": right.mean(),
        "You summed over the positions: return one loss per position (B, T)": right.sum(-1),
        "The sign: the loss is smaller when the student is closer, so −Σ p log q": -right,
        "You took the mean over the vocabulary: sum, weighted by the teacher's probability": (
            right / student.shape[-1]
        ),
        "You compared logits with logits: compare the distributions": cleared(
            (student - teacher).square().mean(-1), mask
        ),
        "You compared logits with logits, squared: compare the distributions": cleared(
            (student - teacher).square().sum(-1), mask
        ),
        "You weighed with raw teacher logits: apply softmax to the teacher": cleared(
            -(teacher * log_s).sum(-1), mask
        ),
        "You used raw student logits: apply log_softmax to the student": cleared(
            -(teacher.softmax(-1) * student).sum(-1), mask
        ),
        "You shifted: position t compares what both predict after t, there is nothing to shift": (
            cleared(every[:, :-1], mask[:, 1:])
        ),
        "You returned KL(teacher‖student): it has the same gradient, but the loss asked for is the "
        "cross-entropy; leave the teacher's entropy in": cleared(_exact_kl(teacher, student), mask),
        "You returned KL(student‖teacher): the TEACHER's probabilities are the weights": cleared(
            _exact_kl(student, teacher), mask
        ),
    }


@distillation_loss.part("cross-entropy under the teacher", points=1)
def _(answer, draw) -> None:
    for dtype in DTYPES:
        shape = (3, int(draw.integers(3, 6)), 7)
        student, teacher = (draw_tensor(draw, *shape, dtype=dtype) for _ in range(2))
        mask = draw_mask(draw, *shape[:2])
        compare(
            "distillation_loss(student_logits, teacher_logits, mask)",
            answer(student, teacher, mask),
            cleared(_cross_entropy(teacher, student), mask),
            mistakes=_distillation_mistakes(student, teacher, mask),
            atol=TOLERANCE[dtype],
        )


@distillation_loss.part("the teacher is fixed, the student learns", points=1)
def _(answer, draw) -> None:
    shape = (3, 4, 6)
    fixed_student, fixed_teacher = (draw_tensor(draw, *shape) for _ in range(2))
    fixed_student[1, :, 0] = fixed_teacher[1, :, 0] = -math.inf  # a token that both forbid
    student, teacher = (x.clone().requires_grad_(True) for x in (fixed_student, fixed_teacher))
    mask = draw_mask(draw, *shape[:2])
    got = answer(student, teacher, mask)
    compare(
        "distillation_loss(student_logits, teacher_logits, mask)",
        got,
        cleared(_cross_entropy(fixed_teacher, fixed_student), mask),
        mistakes=_distillation_mistakes(fixed_student, fixed_teacher, mask),
        atol=1e-6,
        gradient=True,
    )
    slope, teacher_slope = torch.autograd.grad(got.sum(), (student, teacher), allow_unused=True)
    none = torch.zeros(shape, dtype=torch.float64)
    require(
        slope is None or not bool(slope.isnan().any()),
        "The loss is right and its gradient NaN where a token is forbidden (logit −∞): the "
        "logarithm has no slope at 0; take log_softmax of the student, and clear it where the "
        "teacher's probability is 0",
    )
    compare(
        "the gradient in the student's logits (softmax(student) − softmax(teacher))",
        none if slope is None else slope,
        (fixed_student.softmax(-1) - fixed_teacher.softmax(-1)) * mask.unsqueeze(-1),
        mistakes={"No gradient reaches the student: detach the teacher, not the student": none},
        atol=1e-6,
    )
    require(
        teacher_slope is None or not bool(teacher_slope.any()),
        "A gradient flows into the teacher: detach teacher_logits, or the teacher drifts towards "
        "its student",
    )


@distillation_loss.part("forbidden tokens, a perfect student", points=1)
def _(answer, draw) -> None:
    shape = (3, 4, 6)
    teacher = draw_tensor(draw, *shape, scale=float(draw.choice([2.0, 200.0])))
    teacher[:, :, 0] = -math.inf
    student = teacher + draw_tensor(draw, *shape[:2], 1, scale=20.0)  # the same distributions
    mask = draw_mask(draw, *shape[:2])
    plain = -(teacher.softmax(-1) * log_softmax(student)).sum(-1)
    compare(
        "distillation_loss of a student that equals its teacher (the teacher's entropy)",
        answer(student, teacher, mask),
        cleared(_cross_entropy(teacher, teacher), mask),
        mistakes={
            "0 · (−∞) is NaN: a token that the teacher never says adds nothing; use torch.where or "
            "masked_fill where its probability is 0": cleared(plain, mask),
            "0 · (−∞) is NaN, and so is NaN · 0: use masked_fill where the teacher's probability "
            "is 0, and for the mask": plain * mask,
            **_distillation_mistakes(student, teacher, mask),
        },
        atol=1e-6,
    )


EXERCISES = [
    token_log_probs,
    sequence_log_prob,
    nll,
    perplexity,
    sample_tokens,
    categorical_kl,
    rollout_returns,
    distillation_loss,
]
