"""Learning a yes-or-no judge from a few 0/1 labels (lesson 2): logistic regression.

The body of the language model stays as it is, so its vectors are computed once and every step uses
all labels.

Left out on purpose: batches (there are few labels), and a search for the weight decay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from rlhf_lessons.models import ResponseClassifier
from rlhf_lessons.training.settings import ABOVE_0, FROM_0, check_settings, whole

__all__ = ["ClassifierSettings", "ClassifierStep", "train_classifier"]


@dataclass(frozen=True)
class ClassifierSettings:
    """How to learn from 0/1 labels.

    Attributes:
        steps: Updates of the head, each on all labels.
        learning_rate: Step size of AdamW.
        weight_decay: How much of the head's weights AdamW takes away, per step and unit of step
            size; few labels need much.
    """

    steps: int = 300
    learning_rate: float = 0.05
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        check_settings(self, steps=whole(1), learning_rate=ABOVE_0, weight_decay=FROM_0)


@dataclass(frozen=True)
class ClassifierStep:
    """What one step of training a classifier gave.

    Attributes:
        step: Number of the step, from 1.
        total: Number of steps in the whole run.
        loss: Mean negative log-likelihood of the labels before the step, in nats.
        accuracy: Share of labels that the classifier gave before the step.
    """

    step: int
    total: int
    loss: float
    accuracy: float


def train_classifier(
    classifier: ResponseClassifier,
    prompts: Sequence[str],
    responses: Sequence[str],
    labels: Sequence[int],
    settings: ClassifierSettings | None = None,
) -> Iterator[ClassifierStep]:
    """Train the head of a classifier on labelled responses.

    Minimises −mean(z · log p + (1 − z) · log(1 − p)) over the labels z, with p = σ(w · h + b).

    Args:
        classifier: the classifier; its head changes in place.
        prompts: B texts.
        responses: B texts that continue them.
        labels: B labels, 1 (or True) for yes and 0 (or False) for no.
        settings: how to train; None takes the defaults.

    Yields:
        One record per step.

    Raises:
        ValueError: If there are not as many labels as responses, a label is neither 0 nor 1, or all
            labels are equal, which teaches no difference.
    """
    settings = ClassifierSettings() if settings is None else settings
    targets = torch.as_tensor([float(label) for label in labels], device=classifier.policy.device)
    if len(targets) != len(responses):
        raise ValueError(
            f"train_classifier: labels must be as many as responses, {len(responses)}, got "
            f"{len(targets)}"
        )
    if not bool(((targets == 0) | (targets == 1)).all()):
        raise ValueError(f"train_classifier: labels must be 0 or 1, got {sorted(set(labels))}")
    if targets.unique().numel() < 2:
        raise ValueError("train_classifier: labels must hold both 0 and 1, got only one of them")
    return _loop(classifier, classifier.features(prompts, responses), targets, settings)


def _loop(
    classifier: ResponseClassifier,
    features: torch.Tensor,
    targets: torch.Tensor,
    settings: ClassifierSettings,
) -> Iterator[ClassifierStep]:
    optimizer = torch.optim.AdamW(
        classifier.head.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    targets = targets.to(features.dtype)
    for step in range(1, settings.steps + 1):
        logits = classifier(features)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right = (logits > 0) == (targets > 0)
        yield ClassifierStep(
            step=step,
            total=settings.steps,
            loss=float(loss.detach()),
            accuracy=float(right.double().mean()),
        )
