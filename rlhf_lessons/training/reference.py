"""The policy that learns and the reference that stays: what must hold of the two.

Left out on purpose: making the reference, which each loop does where a reader sees it.
"""

from __future__ import annotations

from torch import Tensor

from rlhf_lessons.models import LanguagePolicy

__all__: list[str] = []


def refuse_frozen(where: str, policy: LanguagePolicy) -> None:
    """Refuse a policy without weights to train.

    Args:
        where: the loop, for messages.
        policy: what it was given.

    Raises:
        ValueError: if no weight is trained.
    """
    if not any(weight.requires_grad for weight in policy.parameters()):
        raise ValueError(
            f"{where}: policy must have weights to train, got a frozen one; copy() makes a "
            f"reference, which is never trained"
        )


def refuse_other_tokens(where: str, policy: LanguagePolicy, reference: LanguagePolicy) -> None:
    """Refuse a reference whose log-probabilities can't be compared token by token.

    Args:
        where: the loop, for messages.
        policy: the policy.
        reference: π_ref.

    Raises:
        ValueError: if the vocabularies differ.
    """
    own, other = policy.tokenizer.get_vocab(), reference.tokenizer.get_vocab()
    if own != other or policy.vocabulary_size != reference.vocabulary_size:
        raise ValueError(
            f"{where}: reference must have the tokens of policy, since log-probabilities are "
            f"compared token by token; got a vocabulary of {reference.vocabulary_size} beside the "
            f"policy's {policy.vocabulary_size}, or other words"
        )


def refuse_shared_weights(where: str, policy: LanguagePolicy, reference: LanguagePolicy) -> None:
    """Refuse a reference that is read during training and would move along.

    Args:
        where: the loop, for messages.
        policy: the policy.
        reference: π_ref.

    Raises:
        ValueError: if it has weights that the policy trains.
    """
    shared = {id(weight) for weight in reference.parameters()}
    if any(weight.requires_grad and id(weight) in shared for weight in policy.parameters()):
        raise ValueError(
            f"{where}: reference must be another model than policy, without the weights that "
            f"policy trains, or it would move along; policy.copy() makes one"
        )


def frozen_beside(policy: LanguagePolicy, reference: LanguagePolicy | None) -> list[Tensor]:
    """Give the weights that policy has without training them, and without the reference's.

    Args:
        policy: the policy.
        reference: π_ref, whose weights a checkpoint knows already; None for none.

    Returns:
        those weights.
    """
    known = {id(weight) for weight in ([] if reference is None else reference.parameters())}
    return [w for w in policy.parameters() if not w.requires_grad and id(w) not in known]
