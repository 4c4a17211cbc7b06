"""Logistic regression on a language model's vectors, against its own optimality conditions."""

from __future__ import annotations

import math

import pytest
import torch

from rlhf_lessons.models import LanguagePolicy, ResponseClassifier, small_gpt2, word_tokenizer
from rlhf_lessons.training import ClassifierSettings, train_classifier

WORDS = ("good", "bad", "film", "plot", "was")


@pytest.fixture(scope="module")
def policy() -> LanguagePolicy:
    tokenizer = word_tokenizer(WORDS)
    model = small_gpt2(len(tokenizer), width=16, layers=1, heads=2, context=16, seed=0)
    return LanguagePolicy(model, tokenizer)


def labelled(count: int, seed: int) -> tuple[list[str], list[str], list[int]]:
    """Random responses; the label says whether "bad" comes in it."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(WORDS), (count, 4), generator=generator).tolist()
    responses = [" ".join(WORDS[i] for i in row) for row in drawn]
    return ["film was"] * count, responses, [int("bad" in text.split()) for text in responses]


def test_it_learns_a_rule_and_keeps_it_on_new_responses(policy):
    classifier = ResponseClassifier(policy)
    records = list(train_classifier(classifier, *labelled(200, seed=0)))
    assert [record.step for record in records] == list(range(1, 301))
    assert records[0].loss == pytest.approx(math.log(2), abs=1e-6)
    assert records[-1].loss < 0.3 and records[-1].accuracy > 0.95
    prompts, responses, labels = labelled(300, seed=1)
    said = classifier.score(prompts, responses) > 0.5
    majority = max(sum(labels), 300 - sum(labels))
    right = sum(int(s) == label for s, label in zip(said.tolist(), labels, strict=True))
    assert right > 0.5 * (300 + majority)


def test_without_decay_the_residuals_end_orthogonal_to_the_features(policy):
    prompts, responses, labels = labelled(60, seed=2)
    labels = [label ^ (i % 4 == 0) for i, label in enumerate(labels)]  # noise: no separation
    classifier = ResponseClassifier(policy)
    settings = ClassifierSettings(steps=1000, learning_rate=0.05, weight_decay=0.0)
    *_, last = train_classifier(classifier, prompts, responses, labels, settings)
    assert 0.1 < last.loss < math.log(2)
    residuals = torch.tensor(labels) - classifier.score(prompts, responses)
    features = classifier.features(prompts, responses)
    slope = (residuals.unsqueeze(1) * features).mean(0)
    # The gradient of the likelihood is Σ (z − p) h, and Σ (z − p) for the bias.
    assert float(slope.abs().max()) < 5e-3
    assert float(residuals.mean().abs()) < 5e-3


def test_the_body_stays_as_it_is(policy):
    before = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    list(
        train_classifier(ResponseClassifier(policy), *labelled(20, 0), ClassifierSettings(steps=3))
    )
    assert all(torch.equal(before[k], v) for k, v in policy.model.state_dict().items())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 0, 1], "as many as responses, 2, got 3"),
        ([1, 2], "must be 0 or 1"),
        ([1, math.nan], "must be 0 or 1"),
        ([1, 1], "both 0 and 1"),
    ],
)
def test_labels_that_teach_nothing_are_refused(policy, labels, message):
    with pytest.raises(ValueError, match=message):
        train_classifier(ResponseClassifier(policy), ["film", "plot"], ["good", "bad"], labels)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"steps": 1.5}, {"learning_rate": 0.0}, {"weight_decay": -0.1}]
)
def test_settings_are_checked_when_made(wrong):
    with pytest.raises(ValueError, match=f"ClassifierSettings: {next(iter(wrong))} must be"):
        ClassifierSettings(**wrong)
