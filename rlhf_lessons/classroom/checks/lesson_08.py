"""The checks of lesson 8, scaling out.

Hidden inputs are drawn fresh at every run: model shapes with fewer key heads than heads, parts and
processes of unequal size, one with nothing at all, padding with NaN in it, updates just above and
below what bfloat16 can see. Each known mistake is computed beside the right answer, so that a hint
can name it. Left out on purpose: clocks and the memory of this machine, which differ from run to
run; the notebook measures those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from rlhf_lessons.classroom.exercises import Exercise, Mistake, compare, require
from rlhf_lessons.training import DPOSettings

# 8.1 · what training keeps in memory --------------------------------------------------------------


def reference_training_bytes(trained: int, frozen: int) -> dict[str, int]:
    """Return the bytes of weights, gradients and Adam's two moments, all float32."""
    return {"weights": 4 * (trained + frozen), "gradients": 4 * trained, "adam": 8 * trained}


training_bytes = Exercise(
    "8.1",
    "What training keeps in memory",
    function="training_bytes",
    reference=lambda: reference_training_bytes,
)


def _state(weights: int, gradients: int, adam: int) -> dict[str, int]:
    return {"weights": weights, "gradients": gradients, "adam": adam}


def _state_mistakes(t: int, f: int) -> dict[str, dict[str, int]]:
    both = t + f
    return {
        "Adam keeps two numbers for each weight, the mean of the gradient and that of its square: "
        "8 bytes": _state(4 * both, 4 * t, 4 * t),
        "A frozen weight has no gradient and no moments; it only has to be there": _state(
            4 * both, 4 * both, 8 * both
        ),
        "A frozen weight has no moments: the optimizer never hears of it": _state(
            4 * both, 4 * t, 8 * both
        ),
        "A frozen weight has no gradient": _state(4 * both, 4 * both, 8 * t),
        "You left the frozen weights out: they are never changed, but they must be there to be "
        "read": _state(4 * t, 4 * t, 8 * t),
        "You counted numbers: a float32 number takes 4 bytes": _state(both, t, 2 * t),
        "You counted bits: a float32 number takes 4 bytes": _state(32 * both, 32 * t, 64 * t),
        "You counted 2 bytes a number: the weights stay float32, 4 bytes, also where the products "
        "are taken in bfloat16": _state(2 * both, 2 * t, 4 * t),
    }


def _compare_state(answer, trained: int, frozen: int) -> None:
    compare(
        "the bytes",
        answer(trained, frozen),
        reference_training_bytes(trained, frozen),
        mistakes=_state_mistakes(trained, frozen),
    )


@training_bytes.part("one model that is trained")
def _(answer, draw) -> None:
    _compare_state(answer, int(draw.integers(10**3, 10**9)), 0)


@training_bytes.part("a frozen reference beside it")
def _(answer, draw) -> None:
    for _ in range(2):
        trained, frozen = (int(n) for n in draw.integers(10**3, 10**9, size=2))
        _compare_state(answer, trained, frozen)


# 8.2 · the key-value cache ------------------------------------------------------------------------


def reference_kv_cache_bytes(
    layers: int, key_heads: int, head_width: int, rows: int, length: int, number_bytes: int
) -> int:
    """Return 2 · layers · key_heads · head_width · rows · length · number_bytes."""
    return 2 * layers * key_heads * head_width * rows * length * number_bytes


kv_cache_bytes = Exercise(
    "8.2",
    "What sampling keeps in memory",
    function="kv_cache_bytes",
    reference=lambda: reference_kv_cache_bytes,
)


def _draw_cache(draw: np.random.Generator) -> list[int]:
    """Draw layers, heads, width, rows and length: primes, so that no two mistakes agree."""
    choices = ((5, 7, 11, 13), (17, 19, 23), (29, 31, 37), (41, 43, 47), (101, 503, 997))
    return [int(draw.choice(numbers)) for numbers in choices]


def _compare_cache(answer, layers, heads, width, rows, length, size) -> None:
    right = reference_kv_cache_bytes(layers, heads, width, rows, length, size)
    compare(
        "the bytes",
        answer(layers, heads, width, rows, length, size),
        right,
        mistakes={
            "A key AND a value are kept for each position: twice as much": right // 2,
            "Each row of the batch has its own texts, and so its own cache": right // rows,
            "Each layer has keys and values of its own": right // layers,
            "Every position of the text keeps its key and value: multiply by the length": (
                right // length
            ),
            "The cache grows with the length, not with its square: the products of all pairs of "
            "positions are not kept": right * length,
            "You counted numbers: multiply by number_bytes": right // size,
            "You left the heads out: each key head has head_width numbers": right // heads,
        },
    )


@kv_cache_bytes.part("a model, a batch, a length", points=2)
def _(answer, draw) -> None:
    for number_bytes in (4, 2):
        _compare_cache(answer, *_draw_cache(draw), number_bytes)


# 8.3 · operations of a run ------------------------------------------------------------------------


def reference_dpo_operations(
    parameters: int, pair_tokens: int, pairs: int, steps: int, batch_size: int
) -> int:
    """Return 6·N per trained token of every step, and 2·N per token of the reference, once."""
    return parameters * pair_tokens * (6 * steps * batch_size + 2 * pairs)


dpo_operations = Exercise(
    "8.3",
    "Operations of a run",
    function="dpo_operations",
    reference=lambda: reference_dpo_operations,
)


@dpo_operations.part("training and reference", points=3)
def _(answer, draw) -> None:
    for _ in range(3):
        n, t, pairs, steps, batch = (
            int(draw.integers(low, high))
            for low, high in ((10**5, 10**9), (20, 400), (500, 5000), (20, 500), (4, 65))
        )
        trained, read = n * t * steps * batch, n * t * pairs
        compare(
            "the operations",
            answer(n, t, pairs, steps, batch),
            float(6 * trained + 2 * read),
            mistakes={
                "You left the reference out: it reads each pair once, forward only": 6 * trained,
                "The reference is read once, before the first step, not at every step: it never "
                "changes": 8 * trained,
                "The reference is never trained: 2 operations a weight and token, not 6": 6
                * (trained + read),
                "The backward pass costs twice the forward pass: 2 + 4 = 6 operations a weight and "
                "token": 2 * (trained + read),
                "Forward 2 and backward 4 operations: 6 in all": 4 * trained + 2 * read,
                "A multiplication AND an addition for each weight: 2 operations forward, 4 "
                "backward": 3 * trained + read,
                "Each step reads batch_size pairs": 6 * n * t * steps + 2 * read,
                "Training goes on for `steps` steps": 6 * n * t * batch + 2 * read,
                "You took `pairs` for what is trained on: each of the `steps` steps reads "
                "batch_size pairs, old or new": 8 * read,
            },
        )


# 8.4 · gradient accumulation ----------------------------------------------------------------------


def reference_accumulate(parts: Sequence[Tensor], loss: Callable[[Tensor], Tensor]) -> float:
    """Leave the gradient of the mean over all examples, one part's graph at a time."""
    count, total = sum(map(len, parts)), 0.0
    for part in parts:
        losses = loss(part)
        (losses.sum() / count).backward()
        total += float(losses.detach().sum())
    return total / count


accumulate = Exercise(
    "8.4", "Gradient accumulation", function="accumulate", reference=lambda: reference_accumulate
)


class _Watched:
    """A loss of one weight vector, (n, D) -> (n,), that notices what is called between its calls.

    Attributes:
        weights: (D,) what is trained.
        open: how many losses were computed and not yet gone back through, at the most.
    """

    def __init__(self, draw: np.random.Generator) -> None:
        self.weights = torch.from_numpy(draw.standard_normal(3)).requires_grad_()
        self.open, self._now = 0, 0
        self.weights.register_post_accumulate_grad_hook(lambda _: self._closed())

    def _closed(self) -> None:
        self._now = 0

    def __call__(self, part: Tensor) -> Tensor:
        self._now += 1
        self.open = max(self.open, self._now)
        return self.of(self.weights, part)

    @staticmethod
    def of(weights: Tensor, part: Tensor) -> Tensor:
        return (part @ weights - 1).square()

    def gradient(self, parts: Sequence[Tensor], reduce: Callable) -> Tensor:
        """Give the gradient of ``reduce(losses of each part)`` with respect to the weights."""
        weights = self.weights.detach().clone().requires_grad_()
        (found,) = torch.autograd.grad(reduce([self.of(weights, part) for part in parts]), weights)
        return found


def _parts(draw: np.random.Generator, sizes: Sequence[int]) -> list[Tensor]:
    return [torch.from_numpy(draw.standard_normal((size, 3))) for size in sizes]


def _compare_accumulated(answer, draw, sizes: Sequence[int]) -> _Watched:
    loss, parts = _Watched(draw), _parts(draw, sizes)
    losses = [float(_Watched.of(loss.weights.detach(), part).sum()) for part in parts]
    count = sum(sizes)
    got = answer(parts, loss)
    require(
        loss.weights.grad is not None,
        "no gradient was left: call .backward() on the loss of each part",
    )
    compare(
        "the gradient that is left",
        loss.weights.grad,
        loss.gradient(parts, lambda each: torch.cat(each).mean()),
        mistakes={
            "You averaged within each part and added up: a gradient as many times too long as "
            "there are parts; divide by the number of ALL examples": loss.gradient(
                parts, lambda each: sum(one.mean() for one in each)
            ),
            "You averaged the means of the parts: an example of a small part then weighs more; "
            "divide each part's SUM by the number of all examples": loss.gradient(
                parts, lambda each: sum(one.mean() for one in each) / len(each)
            ),
            "You added up the losses: divide by the number of all examples": loss.gradient(
                parts, lambda each: torch.cat(each).sum()
            ),
            "Only the last part is left: do not clear the gradient between two parts": (
                loss.gradient(parts, lambda each: each[-1].sum() / count)
            ),
            "Only the last part is left, and its mean: do not clear the gradient between two "
            "parts": loss.gradient(parts, lambda each: each[-1].mean()),
        },
    )
    compare(
        "the returned loss",
        got,
        sum(losses) / count,
        mistakes={
            "You returned the sum: return the mean over all examples": sum(losses),
            "You returned the loss of the last part": losses[-1] / sizes[-1],
            "You returned the mean of the parts' means: parts need not be equally long": sum(
                value / size for value, size in zip(losses, sizes, strict=True)
            )
            / len(sizes),
        },
    )
    return loss


@accumulate.part("equal parts")
def _(answer, draw) -> None:
    _compare_accumulated(answer, draw, [4] * int(draw.integers(2, 5)))


@accumulate.part("a last part that is smaller")
def _(answer, draw) -> None:
    _compare_accumulated(answer, draw, [5, 5, int(draw.integers(1, 4))])


@accumulate.part("one part in memory at a time")
def _(answer, draw) -> None:
    loss = _compare_accumulated(answer, draw, [3, 3, 3])
    require(
        loss.open == 1,
        f"the gradient is right, but the forward passes of {loss.open} parts were in memory at "
        f"once, so nothing was saved: call .backward() on a part before the next part's loss",
    )


# 8.5 · two shards, one gradient -------------------------------------------------------------------


def reference_average_gradients(gradients: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """Return Σ n_p · g_p / Σ n_p over the processes that had anything."""
    total = sum(counts)
    return sum(g * (n / total) for g, n in zip(gradients, counts, strict=True) if n)


average_gradients = Exercise(
    "8.5",
    "Two shards, one gradient",
    function="average_gradients",
    reference=lambda: reference_average_gradients,
)


def _compare_average(answer, gradients: list[Tensor], counts: list[int]) -> None:
    right = reference_average_gradients(gradients, counts)
    stacked, n = torch.stack(gradients), torch.tensor(counts, dtype=gradients[0].dtype)
    column = n.reshape(-1, *[1] * gradients[0].ndim)
    compare(
        "the averaged gradient",
        answer(gradients, counts),
        right,
        mistakes={
            "0 tokens give a mean of NaN, and 0 · NaN is NaN: leave out a process with nothing": (
                (stacked * column).sum(0) / n.sum()
            ),
            "You left out a process with one token: leave out those with none alone": sum(
                g * (n / sum(counts)) for g, n in zip(gradients, counts, strict=True) if n > 1
            ),
            "You averaged over processes: each gradient is a mean over its own tokens, so one with "
            "more tokens must weigh more; weigh by counts": stacked.mean(0),
            "You added the gradients up: that is not a mean": stacked.sum(0),
            "You left out the division by the number of all tokens": (stacked * column).sum(0),
            "You divided by the counts: the gradients are means already, so multiply each by its "
            "share of the tokens": (stacked / column).sum(0) / (1 / n).sum(),
            "You divided by the number of processes: divide by the number of all tokens": (
                stacked * column
            ).mean(0),
        },
    )


@average_gradients.part("unequal shares", points=2)
def _(answer, draw) -> None:
    for dtype in (torch.float64, torch.float32):
        processes = int(draw.integers(2, 5))
        gradients = [
            torch.from_numpy(draw.standard_normal((2, 3))).to(dtype) for _ in range(processes)
        ]
        counts = [int(n) for n in draw.permutation(np.arange(1, 60))[:processes]]
        _compare_average(answer, gradients, counts)


@average_gradients.part("a process with nothing to read")
def _(answer, draw) -> None:
    gradients = [torch.from_numpy(draw.standard_normal(4)) for _ in range(3)]
    gradients[1] = torch.full((4,), math.nan, dtype=torch.float64)
    _compare_average(answer, gradients, [int(draw.integers(5, 20)), 0, 1])


# 8.6 · updates that bfloat16 loses ----------------------------------------------------------------


def reference_lost_share(weights: Tensor, updates: Tensor) -> float:
    """Return the share of the updates that leave a bfloat16 weight as it was."""
    stored = weights.bfloat16()
    moved = (stored.float() + updates).bfloat16()
    wanted = updates != 0
    return float((moved == stored)[wanted].float().mean())


lost_share = Exercise(
    "8.6",
    "Updates that bfloat16 loses",
    function="lost_share",
    reference=lambda: reference_lost_share,
)


def _compare_lost(answer, weights: Tensor, updates: Tensor) -> None:
    stored = weights.bfloat16()
    moved = (stored.float() + updates).bfloat16()
    same, wanted = moved == stored, updates != 0
    compare(
        "the share of lost updates",
        answer(weights, updates),
        float(same[wanted].float().mean()),
        mistakes={
            "An update of 0 cannot be lost: count among the updates that are not 0": float(
                same.float().mean()
            ),
            "That is the share of updates that arrive: 1 minus it is lost": float(
                (~same)[wanted].float().mean()
            ),
            "In float32 hardly anything is lost: store the weights as bfloat16, add, and round "
            "the sum to bfloat16 again": float(
                (weights + updates == weights)[wanted].float().mean()
            ),
            "You compared with the weights before they were rounded: compare with what was "
            "stored": float((moved.float() == weights)[wanted].float().mean()),
            "You counted them: divide by the number of updates that are not 0": float(
                same[wanted].sum()
            ),
            "You subtracted the updates: add them": float(
                ((stored.float() - updates).bfloat16() == stored)[wanted].float().mean()
            ),
        },
    )


@lost_share.part("updates around what bfloat16 can see", points=3)
def _(answer, draw) -> None:
    for _ in range(2):
        weights = torch.from_numpy(draw.standard_normal(60)).float()
        scale = 2.0 ** torch.from_numpy(draw.integers(-12, -3, size=60)).float()
        scale[:6] = 2.0**-30  # beyond float32, too
        updates = weights * scale * torch.from_numpy(draw.choice([-1.0, 1.0], size=60)).float()
        updates[torch.from_numpy(6 + draw.permutation(54)[:15])] = 0.0
        _compare_lost(answer, weights, updates)
    # bfloat16's steps are 2⁻⁷ above 1 and 2⁻⁸ below it: 0.003 is lost upwards alone.
    updates = torch.tensor([0.003] * 5 + [-0.003, 0.1, -0.1])[torch.from_numpy(draw.permutation(8))]
    _compare_lost(answer, torch.ones(8), updates)


# 8.7 · log-ratios in float32 ----------------------------------------------------------------------


def reference_log_ratio(
    policy_logits: Tensor, reference_logits: Tensor, tokens: Tensor, mask: Tensor
) -> Tensor:
    """Return Σ_t log π − log π_ref of each row, in float32 whatever the logits are."""
    log_probs = [
        logits.float().log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        for logits in (policy_logits, reference_logits)
    ]
    return (log_probs[0] - log_probs[1]).masked_fill(~mask, 0.0).sum(-1)


log_ratio = Exercise(
    "8.7", "Log-ratios in float32", function="log_ratio", reference=lambda: reference_log_ratio
)


def _draw_logits(draw: np.random.Generator, rows: int, length: int, words: int):
    base = torch.from_numpy(3 * draw.standard_normal((rows, length, words))) - 20.0
    moved = base + torch.from_numpy(0.3 * draw.standard_normal((rows, length, words)))
    tokens = torch.from_numpy(draw.integers(words, size=(rows, length)))
    return moved.bfloat16(), base.bfloat16(), tokens


def _compare_ratio(answer, policy, reference, tokens, mask) -> None:
    def gathered(logits: Tensor) -> Tensor:
        return logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)

    def picked(logits: Tensor) -> Tensor:
        return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)

    def summed(x: Tensor) -> Tensor:
        return x.masked_fill(~mask, 0.0).sum(-1)

    exact = gathered(policy.double()) - gathered(reference.double())
    right = summed(exact).float()
    rounded = gathered(policy) - gathered(reference)
    got = answer(policy, reference, tokens, mask)
    single = gathered(policy.float()) - gathered(reference.float())
    wrong = {
        "You took the log-softmax in bfloat16 and cast the result: what was rounded stays rounded; "
        "cast the LOGITS with .float() first": summed(rounded.float()),
        "You added up in bfloat16: cast the logits with .float() first and stay there": summed(
            rounded
        ).float(),
        "You rounded between log-softmax and sum: stay in float32 to the end": summed(
            single.bfloat16()
        ).float(),
        "The sign: log π of the policy minus that of the reference": -right,
        "You averaged over the tokens: a response's log-ratio is the SUM": right / mask.sum(-1),
        "You subtracted logits: they are log-probabilities only after log_softmax": summed(
            picked(policy.float()) - picked(reference.float())
        ),
        "The padding counted: set what the mask leaves out to 0 with masked_fill": single.sum(-1),
        "0 · NaN is NaN: multiplying by the mask leaves NaN of the padding in; use masked_fill": (
            (single * mask).sum(-1)
        ),
    }
    if isinstance(got, Tensor) and got.dtype == torch.bfloat16:
        raise Mistake(
            "the result must be float32, got bfloat16, which keeps 8 bits: cast both logits with "
            ".float() before the log_softmax"
        )
    compare("the log-ratios", got, right, mistakes=wrong, atol=2e-4, rtol=1e-5)


@log_ratio.part("bfloat16 logits, float32 result", points=2)
def _(answer, draw) -> None:
    rows, length = int(draw.integers(2, 5)), int(draw.integers(15, 30))
    policy, reference, tokens = _draw_logits(draw, rows, length, 200)
    _compare_ratio(answer, policy, reference, tokens, torch.ones(rows, length, dtype=torch.bool))


@log_ratio.part("garbage in the padding", points=2)
def _(answer, draw) -> None:
    policy, reference, tokens = _draw_logits(draw, 3, 20, 50)
    mask = torch.from_numpy(np.arange(20)[None, :] < draw.integers(5, 15, size=3)[:, None])
    policy[0, 16], reference[1, 17] = 300.0, math.nan
    _compare_ratio(answer, policy, reference, tokens, mask)


# 8.8 · the same run in other words ----------------------------------------------------------------


def reference_trl_words(settings: DPOSettings, processes: int) -> dict[str, float]:
    """Return six of TRL's arguments; ValueError where the batch cannot be shared out."""
    parts = processes * settings.accumulate
    if settings.batch_size % parts:
        raise ValueError(f"batch_size must be a multiple of {parts}, got {settings.batch_size}")
    return {
        "max_steps": settings.steps,
        "per_device_train_batch_size": settings.batch_size // parts,
        "gradient_accumulation_steps": settings.accumulate,
        "beta": settings.beta,
        "learning_rate": settings.learning_rate,
        "max_grad_norm": settings.max_gradient_norm,
    }


trl_words = Exercise(
    "8.8",
    "The same run in other words",
    function="trl_words",
    reference=lambda: reference_trl_words,
)


def _draw_settings(draw: np.random.Generator, processes: int, per_pass: int) -> DPOSettings:
    accumulate = int(draw.integers(2, 5))
    return DPOSettings(
        steps=int(draw.integers(20, 500)),
        batch_size=per_pass * processes * accumulate,
        beta=float(draw.uniform(0.05, 0.9)),
        learning_rate=float(draw.uniform(1e-5, 1e-3)),
        max_gradient_norm=float(draw.uniform(0.3, 0.9)),
        accumulate=accumulate,
    )


@trl_words.part("six words", points=2)
def _(answer, draw) -> None:
    for _ in range(2):
        processes = int(draw.integers(2, 6))
        settings = _draw_settings(draw, processes, int(draw.integers(5, 9)))
        right = reference_trl_words(settings, processes)
        batch, size = "per_device_train_batch_size", settings.batch_size
        rate, times = "learning_rate", settings.learning_rate
        got = answer(settings, processes)
        compare(
            "the words",
            got,
            right,
            mistakes={
                "per_device_train_batch_size counts the pairs of ONE process: share the batch out "
                "among the processes": {**right, batch: size // settings.accumulate},
                "per_device_train_batch_size counts the pairs of ONE forward pass: gradient "
                "accumulation splits the share of a process again": {
                    **right,
                    batch: size // processes,
                },
                "per_device_train_batch_size is not the whole batch: each process would read it "
                "in every pass": {**right, batch: size},
                "max_steps counts updates, and an update waits for all parts: leave it": {
                    **right,
                    "max_steps": settings.steps * settings.accumulate,
                },
                "max_steps counts updates of all processes together, which move as one: leave it": {
                    **right,
                    "max_steps": settings.steps // processes,
                },
                "The batch stays the same, so the learning rate does, too": {
                    **right,
                    rate: times * processes,
                },
                "Gradients are AVERAGED over processes, so β needs no correction": {
                    **right,
                    "beta": settings.beta / processes,
                },
            },
        )
        require(
            isinstance(got[batch], int),
            "per_device_train_batch_size is a whole number, and / makes one with a point, which a "
            "data loader refuses: divide by //",
        )


@trl_words.part("a batch that cannot be shared out")
def _(answer, draw) -> None:
    settings = DPOSettings(batch_size=int(draw.choice([10, 22, 34])), accumulate=2)
    processes = 3
    try:
        got = answer.function(settings, processes)
    except ValueError:
        return
    except NotImplementedError:
        answer(settings, processes)
    except Exception as error:
        raise Mistake(
            f"a batch of {settings.batch_size} for {processes} processes in 2 parts must raise a "
            f"ValueError, got {type(error).__name__}: {error}"
        ) from error
    else:
        raise Mistake(
            f"{settings.batch_size} pairs cannot be shared out evenly among {processes} processes "
            f"in 2 parts, and an uneven share would weigh pairs unevenly: raise a ValueError; got "
            f"{got!r}"
        )


EXERCISES = [
    training_bytes,
    kv_cache_bytes,
    dpo_operations,
    accumulate,
    average_gradients,
    lost_share,
    log_ratio,
    trl_words,
]
