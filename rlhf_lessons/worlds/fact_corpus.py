"""What the small models of lesson 7 read: both encyclopedias in one corpus.

Left out on purpose: text about anything else. The lesson asks what a model knows, not how it got
its grammar.
"""

from __future__ import annotations

import random

from rlhf_lessons.worlds.biographies import people_encyclopedia
from rlhf_lessons.worlds.encyclopedia import Document
from rlhf_lessons.worlds.medicine import drug_encyclopedia

__all__ = ["fact_vocabulary", "sample_fact_demonstrations", "sample_fact_documents"]

SHARE_OF_PEOPLE = 0.8


def fact_vocabulary() -> tuple[str, ...]:
    """Give every word that a text about people or drugs can hold, sorted.

    Returns:
        The words, the full stop included.
    """
    words = {*people_encyclopedia().vocabulary, *drug_encyclopedia().vocabulary}
    return tuple(sorted(words))


def sample_fact_documents(n: int, seed: int) -> list[Document]:
    """Write a corpus to pretrain on: four of five documents about people, the others about drugs.

    Args:
        n: number of documents.
        seed: seed of everything that is drawn.

    Returns:
        The documents, mixed; each names the facts that it states.
    """
    people = round(SHARE_OF_PEOPLE * n)
    documents = people_encyclopedia().documents(people, seed)
    documents += drug_encyclopedia().documents(n - people, seed)
    chance = random.Random(f"corpus, {seed}")
    return sorted(documents, key=lambda _: chance.random())


def sample_fact_demonstrations(n: int, seed: int) -> list[tuple[str, str]]:
    """Write demonstrations of long answers about the subjects kept for them.

    Args:
        n: number of examples.
        seed: seed of everything that is drawn.

    Returns:
        (prompt, response) examples, two of three about people.
    """
    people = round(2 / 3 * n)
    examples = people_encyclopedia().demonstrations(people, seed)
    examples += drug_encyclopedia().demonstrations(n - people, seed)
    chance = random.Random(f"demonstrations, {seed}")
    return sorted(examples, key=lambda _: chance.random())
