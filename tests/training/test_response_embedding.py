"""The triplet loop: it learns what the rater looks at, and stops before it breaks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rlhf_lessons.models import LanguagePolicy, ResponseEmbedding
from rlhf_lessons.models.small_gpt2 import small_gpt2
from rlhf_lessons.models.tokenizer import word_tokenizer
from rlhf_lessons.training import EmbeddingSettings, train_embedding
from rlhf_lessons.worlds import SimilarityRater

WORDS = ("good", "bad", "long", ".")


def features(prompts, responses):
    return np.array([[text.split().count(word) for word in WORDS[:2]] for text in responses])


def triplets(count: int, seed: int):
    random = np.random.default_rng(seed)
    anchors, seconds, thirds = (
        [" ".join(random.choice(WORDS, size=6)) for _ in range(count)] for _ in range(3)
    )
    nearer = SimilarityRater(features).second_is_nearer(
        [""] * count, anchors, seconds, thirds, seed
    )
    return [
        ("good .", a, *((b, c) if yes else (c, b)))
        for a, b, c, yes in zip(anchors, seconds, thirds, nearer, strict=True)
    ]


@pytest.fixture
def embedding() -> ResponseEmbedding:
    tokenizer = word_tokenizer(WORDS)
    model = small_gpt2(len(tokenizer), width=16, layers=1, heads=2, context=16, seed=1)
    return ResponseEmbedding.from_policy(LanguagePolicy(model, tokenizer))


def accuracy(embedding, held_out) -> float:
    prompts, *sides = zip(*held_out, strict=True)
    anchor, nearer, farther = (embedding.embed(prompts, side) for side in sides)
    return ((anchor - nearer).norm(dim=1) < (anchor - farther).norm(dim=1)).double().mean().item()


def test_it_learns_what_the_rater_looks_at(embedding):
    # Ties fall to the rater's coin and can't be learned.
    train, held_out = ([t for t in triplets(n, n) if decided(t)] for n in (2500, 400))
    before = accuracy(embedding, held_out)
    settings = EmbeddingSettings(steps=200, learning_rate=5e-3)
    *_, last = train_embedding(embedding, train, settings)
    after = accuracy(embedding, held_out)
    assert (last.step, last.total) == (200, 200)
    assert after > 0.82 > 0.77 > before


def decided(triplet) -> bool:
    _, anchor, nearer, farther = triplet
    f = features([], [anchor, nearer, farther])
    return np.linalg.norm(f[0] - f[1]) != np.linalg.norm(f[0] - f[2])


def test_the_first_record_by_hand(embedding):
    some = triplets(8, 3)
    prompts, *sides = zip(*some, strict=True)
    anchor, nearer, farther = (embedding.embed(prompts, side).double() for side in sides)
    near, far = (anchor - nearer).norm(dim=1), (anchor - farther).norm(dim=1)
    (record,) = train_embedding(embedding, some, EmbeddingSettings(steps=1, margin=0.5))
    expected = (near - far + 0.5).clamp(min=0).mean().item()
    assert record.loss == pytest.approx(expected, abs=1e-6)
    share = ((far > near).double() + 0.5 * (far == near).double()).mean().item()
    assert record.accuracy == pytest.approx(share)


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(embedding):
    before = [weight.detach().clone() for weight in embedding.parameters()]

    def loss(anchor, nearer, farther, margin):
        return (anchor - nearer).norm(dim=1) * math.nan

    with pytest.raises(FloatingPointError, match="at step 1; the weights are those of step 0"):
        next(train_embedding(embedding, triplets(8, 1), loss=loss))
    assert all(torch.equal(a, b) for a, b in zip(before, embedding.parameters(), strict=True))


def test_bad_input_is_named(embedding):
    with pytest.raises(ValueError, match="at least one, got none"):
        next(train_embedding(embedding, []))
    with pytest.raises(ValueError, match=r"\(prompt, anchor, nearer, farther\), got .* at 0"):
        next(train_embedding(embedding, [("p", "a", "b")]))
    for name in ("steps", "batch_size", "learning_rate", "margin", "max_gradient_norm"):
        with pytest.raises(ValueError, match=f"EmbeddingSettings: {name} must"):
            EmbeddingSettings(**{name: 0})
