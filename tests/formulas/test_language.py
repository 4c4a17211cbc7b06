from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import assert_gradient, autograd, draw, right_padded_mask, softmax

from rlhf_lessons.formulas import (
    categorical_kl,
    distillation_loss,
    entropy,
    masked_mean,
    nll,
    perplexity,
    token_log_probs,
)

LENGTHS = st.lists(st.integers(1, 5), min_size=1, max_size=3)


def texts(lengths: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    mask = right_padded_mask(lengths, 5)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(4, mask.shape, generator=generator)
    return draw(*mask.shape, 4, seed=seed), tokens, mask


@given(lengths=LENGTHS.filter(lambda n: max(n) >= 2), seed=st.integers(0, 999))
def test_nll_is_cross_entropy(lengths, seed):
    logits, tokens, mask = texts(lengths, seed)
    losses = nll(logits, tokens, mask)
    assert losses.shape == (len(lengths), 4)
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2),
        tokens.masked_fill(~mask, -100)[:, 1:],
        ignore_index=-100,
        reduction="none",
    )
    torch.testing.assert_close(losses, expected)
    mean = torch.nn.functional.cross_entropy(
        logits[:, :-1][mask[:, 1:]], tokens[:, 1:][mask[:, 1:]]
    )
    torch.testing.assert_close(masked_mean(losses, mask[:, 1:]), mean)


@given(lengths=LENGTHS, seed=st.integers(0, 999))
def test_garbage_in_the_padding_changes_nothing(lengths, seed):
    logits, tokens, mask = texts(lengths, seed)
    # Position t predicts token t+1: the logits at the last counted position predict nothing either.
    predicts = torch.cat([mask[:, 1:], torch.zeros(len(lengths), 1, dtype=torch.bool)], dim=1)
    dirty_tokens = tokens.masked_fill(~mask, -100)
    for garbage in (math.nan, math.inf, 1e300):
        dirty_logits = logits.masked_fill(~predicts.unsqueeze(-1), garbage)
        assert nll(dirty_logits, dirty_tokens, mask).equal(nll(logits, tokens, mask))


def test_a_prompt_is_not_learned_but_predicts():
    logits, tokens, _ = texts([5], seed=0)
    response = torch.tensor([[False, False, True, True, True]])
    losses = nll(logits, tokens, response)
    assert losses[0, 0] == 0
    torch.testing.assert_close(losses[:, 1:], -token_log_probs(logits, tokens)[:, 1:])


def test_zero_where_nothing_counts_has_no_sign():
    logits, tokens, _ = texts([5], seed=0)
    losses = nll(logits, tokens, torch.zeros(1, 5, dtype=torch.bool))
    assert not losses.signbit().any()


def test_perplexity_by_hand():
    log_probs = torch.log(torch.tensor([[0.5, 0.125, math.nan]], dtype=torch.float64))
    mask = torch.tensor([[True, True, False]])
    assert perplexity(log_probs, mask).item() == pytest.approx(4)
    uniform = torch.full((2, 3), -math.log(7))
    assert perplexity(uniform, torch.ones(2, 3).bool()).item() == pytest.approx(7)
    with pytest.raises(ValueError, match="nothing to average"):
        perplexity(log_probs, torch.zeros_like(mask))


def test_perplexity_is_the_exponential_of_the_mean_nll():
    logits, tokens, mask = texts([5, 3], seed=1)
    mean = masked_mean(nll(logits, tokens, mask), mask[:, 1:])
    torch.testing.assert_close(perplexity(token_log_probs(logits, tokens), mask[:, 1:]), mean.exp())


def test_distillation_by_hand():
    student, teacher = draw(1, 2, 4, seed=1), draw(1, 2, 4, seed=2)
    got = distillation_loss(student, teacher, torch.tensor([[True, False]]))
    p, q = softmax(teacher[0, 0].tolist()), softmax(student[0, 0].tolist())
    expected = -sum(a * math.log(b) for a, b in zip(p, q, strict=True))
    assert got.tolist() == [[pytest.approx(expected, abs=1e-12), 0]]


def test_distillation_is_the_kl_plus_the_teachers_entropy():
    student, teacher = draw(2, 3, 4, seed=1), draw(2, 3, 4, seed=2)
    mask = torch.ones(2, 3, dtype=torch.bool)
    torch.testing.assert_close(
        distillation_loss(student, teacher, mask),
        categorical_kl(teacher, student) + entropy(teacher),
    )
    torch.testing.assert_close(
        autograd(lambda x: distillation_loss(x, teacher, mask), student),
        autograd(lambda x: categorical_kl(teacher, x), student),
    )


def test_a_teacher_that_is_certain_gives_the_nll():
    logits, tokens, mask = texts([5], seed=3)
    teacher = torch.full((1, 4, 4), -math.inf, dtype=torch.float64)
    teacher.scatter_(2, tokens[:, 1:, None], 0.0)
    torch.testing.assert_close(
        distillation_loss(logits[:, :-1], teacher, mask[:, 1:]), nll(logits, tokens, mask)
    )


def test_impossible_tokens():
    student = torch.tensor([[[0.0, -math.inf, 1.0]]], dtype=torch.float64)
    mask = torch.ones(1, 1, dtype=torch.bool)
    same = distillation_loss(student, student, mask)
    torch.testing.assert_close(same, entropy(student))
    gradient = autograd(lambda x: distillation_loss(x, student, mask), student)
    assert gradient.isfinite().all()
    assert distillation_loss(student, torch.zeros_like(student), mask).item() == math.inf


def test_gradients():
    logits, tokens, mask = texts([5, 3], seed=4)
    assert_gradient(lambda x: nll(x, tokens, mask), logits)
    assert_gradient(lambda x: distillation_loss(x, logits, mask), draw(2, 5, 4, seed=9))
    assert_gradient(lambda x: perplexity(x, mask), -draw(2, 5).abs())


def test_what_does_not_count_and_the_teacher_get_no_gradient():
    logits, tokens, mask = texts([5, 3], seed=4)
    dirty = logits.masked_fill(~mask.unsqueeze(-1), math.nan)
    gradient = autograd(lambda x: distillation_loss(x, logits, mask), dirty)
    assert gradient[mask].isfinite().all()
    teacher = logits.clone().requires_grad_()
    student = draw(2, 5, 4, seed=9).requires_grad_()
    distillation_loss(student, teacher, mask).sum().backward()
    assert teacher.grad is None
    assert student.grad[~mask].abs().max() == 0


def test_wrong_inputs_are_refused():
    logits, tokens, mask = texts([5, 3], seed=5)
    with pytest.raises(TypeError, match="nll: mask must be boolean"):
        nll(logits, tokens, mask.long())
    with pytest.raises(ValueError, match=r"nll: mask must have shape \(2, 5\) like tokens"):
        nll(logits, tokens, mask[:, 1:])
    with pytest.raises(ValueError, match=r"nll: tokens must have shape \(B, T\) = \(2, 5\)"):
        nll(logits, tokens[:, 1:], mask[:, 1:])
    with pytest.raises(ValueError, match=r"tokens must lie in \[0, 4\), got 4"):
        nll(logits, torch.full_like(tokens, 4), mask)
    with pytest.raises(ValueError, match="distillation_loss: teacher_logits must have shape"):
        distillation_loss(logits, logits[..., :3], mask)
    with pytest.raises(ValueError, match=r"distillation_loss: mask must have shape \(2, 5\)"):
        distillation_loss(logits, logits, mask[:, 1:])
    with pytest.raises(TypeError, match="perplexity: mask must be boolean"):
        perplexity(logits[..., 0], mask.float())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    logits, tokens, mask = texts([5, 3], seed=6)
    logits = logits.to(dtype)
    assert nll(logits, tokens, mask).dtype == dtype
    assert distillation_loss(logits, logits, mask).dtype == dtype
    assert perplexity(logits[..., 0], mask).dtype == dtype


def test_nan_that_counts_is_not_hidden():
    logits, tokens, mask = texts([5], seed=7)
    bad = logits.clone()
    bad[0, 1, 2] = math.nan
    assert nll(bad, tokens, mask)[0, 1].isnan()
    assert distillation_loss(bad, logits, mask)[0, 1].isnan()
    assert distillation_loss(logits, bad, mask)[0, 1].isnan()
