"""What is asked of the real model, with small stand-ins for the model and the facts."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_facts import write_facts_part

from rlhf_lessons.evaluation import count_facts, real_confidence, real_knowledge
from rlhf_lessons.evaluation.real_confidence import measure_real_knowledge
from rlhf_lessons.evaluation.real_knowledge import (
    AskedFact,
    RealAnswer,
    RealBook,
    ask,
    ask_facts,
    chat_prompt,
    knowledge_by_population,
    load_real_knowledge,
    phrasings_that_disagree,
    read_claim,
    verdicts,
)
from rlhf_lessons.worlds import PHRASINGS, RealFact, question

FACTS = {
    "capital": (
        RealFact("capital", "Gabon", ("Libreville",), 2_000_000, False),
        RealFact("capital", "Peru", ("Lima", "Rimac"), 30_000_000, True),
    ),
    "currency": (
        RealFact("currency", "Gabon", ("Central African CFA franc", "CFA franc"), 2_000_000, False),
        RealFact("currency", "Peru", ("Peruvian sol", "sol"), 30_000_000, True),
    ),
}


class Tokenizer:
    """A chat template of one line, as those of Hugging Face are called."""

    eos_token = "<end>"

    def apply_chat_template(self, turns, tokenize, add_generation_prompt):
        assert not tokenize
        told = "".join(f"[{turn['role']}] {turn['content']} " for turn in turns)
        return told + "[assistant] " * add_generation_prompt


class Parrot:
    """A policy that answers by a table: words of the prompt -> its answers, in turn when drawn."""

    tokenizer = Tokenizer()
    device = torch.device("cpu")

    def __init__(self, table):
        self.table = table
        self.asked = []

    def sample(self, prompts, max_new_tokens, temperature, generator):
        self.asked += [(prompt, temperature) for prompt in prompts]
        said = []
        for place, prompt in enumerate(prompts):
            answers = next(answers for words, answers in self.table.items() if words in prompt)
            said.append(f" {answers[place % len(answers) if temperature > 0.01 else 0]}\n")
        log_probs = -torch.arange(2.0 * len(prompts)).view(-1, 2)
        return SimpleNamespace(responses=tuple(said), log_probs=log_probs)


TABLE = {
    "city is the capital of Gabon": ["Port-Gentil"],
    "capital of Gabon": [
        "The capital of Gabon is Libreville.", "The capital of Gabon is Port-Gentil.",
    ],
    "official currency of Gabon": ["The official currency of Gabon is the Gabonese dollar."],
    "Gabon": ["The currency of Gabon is the CFA franc."],
    "capital of Peru": ["Lima"],
    "Peru": ["The currency of Peru is the Peruvian dollar.", "I do not know."],
}  # fmt: skip


@pytest.fixture(autouse=True)
def part(tmp_path, monkeypatch):
    """What reads the answers looks cities and currencies up."""
    monkeypatch.setenv("RLHF_LESSONS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    write_facts_part(tmp_path / "cache")


def test_a_question_opens_the_assistants_turn():
    assert chat_prompt(Parrot({}), "Why?") == "[user] Why? [assistant] "
    with pytest.raises(ValueError, match="must be a question, got ' '"):
        chat_prompt(Parrot({}), " ")


def test_asking_gives_the_likeliest_answer_or_draws():
    parrot = Parrot(TABLE)
    asked = "What is the capital of Gabon?"
    assert ask(parrot, asked) == ["The capital of Gabon is Libreville."]
    assert ask(parrot, asked, 3, temperature=0.7) == [
        TABLE["capital of Gabon"][i] for i in (0, 1, 0)
    ]
    assert [temperature for _, temperature in parrot.asked[1:]] == [0.7] * 3
    assert parrot.asked[0][1] < 1e-3 and parrot.asked[0][0].startswith(f"[user] {asked}")


def test_a_claim_has_one_spelling():
    capital = FACTS["capital"][1]
    assert read_claim("It is Rimac.", capital) == ("right", "Lima")
    first, second = (
        read_claim(f"The capital of Peru is {c}.", capital) for c in ("CUSCO", "Cusco")
    )
    assert first == second == ("wrong", "cusco")
    assert read_claim("I am not sure.", capital) == ("hedge", None)
    assert read_claim("", capital) == ("unreadable", None)


def test_a_book_is_counted_as_an_encyclopedia():
    book = RealBook(Parrot({}), "capital", FACTS["capital"])
    assert [question(*each) for each in book.asked][3:] == [
        way.format(subject="Peru") for way in PHRASINGS["capital"]
    ]
    assert book.subject_of(book.prompts[4]) == "Peru"
    said = [
        "Lima", "The capital of Peru is Cusco.", "I do not know.", "",
        "The capital of Peru is Lima.", "秘鲁的首都是利马。",
    ]  # fmt: skip
    counts = count_facts(book, [book.prompts[3]] * 6, said)
    found = [(c.right, c.wrong, c.hedged, c.unreadable, c.words) for c in counts]
    assert found == [
        (1, 0, 0, 0, 1), (0, 1, 0, 0, 6), (0, 0, 1, 0, 4), (0, 0, 0, 1, 0),
        (1, 0, 0, 0, 6), (0, 0, 0, 1, 1),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="must ask for a fact of this book, got 'Why"):
        book.subject_of("Why?")
    with pytest.raises(ValueError, match="must be a country of this book, got 'Atlantis'"):
        book.read("Lima", about="Atlantis")


def test_what_is_measured_is_what_is_read(tmp_path, monkeypatch):
    parrot, folder = Parrot(TABLE), tmp_path / "runs"
    monkeypatch.setattr(real_confidence, "load_policy", lambda name: {"smollm2": parrot}[name])
    monkeypatch.setattr(
        real_confidence,
        "real_facts",
        lambda kind, held_out: [fact for fact in FACTS[kind] if fact.held_out == held_out],
    )
    monkeypatch.setattr(real_knowledge, "_BATCH", 2)  # a batch may end within a country
    measure_real_knowledge(folder)
    gabon, peru, gabon_money, peru_money = load_real_knowledge(folder)
    assert (gabon.kind, gabon.subject, gabon.population) == ("capital", "Gabon", 2_000_000)
    assert not gabon.held_out and peru_money.held_out and peru_money.kind == "currency"
    assert [answer.verdict for answer in gabon.answers] == ["right", "wrong", "right"]
    assert [answer.claim for answer in gabon.answers] == ["Libreville", "port gentil", "Libreville"]
    assert gabon.answers[1].text == "Port-Gentil" and gabon.right == pytest.approx(2 / 3)
    # Two rows a batch, of −(0 + 1) and −(2 + 3), and a batch of one.
    assert [answer.log_prob for answer in gabon.answers] == [-1, -5, -1]
    assert set(gabon.sampled) == set(real_confidence.TEMPERATURES)
    assert all(len(ways) == real_knowledge.SAMPLES for ways in gabon.sampled[0.6])
    assert set(gabon.sampled[0.6][0]) == {"Libreville", "port gentil"}
    assert set(gabon.sampled[1.0][1]) == {"port gentil"}
    # Of the held-out country one temperature, chosen without it: the first, all being alike.
    assert set(peru.sampled) == set(peru_money.sampled) == {0.3}
    assert {claim for ways in peru_money.sampled[0.3] for claim in ways} == {
        read_claim(TABLE["Peru"][0], FACTS["currency"][1])[1], None,
    }  # fmt: skip
    assert phrasings_that_disagree([gabon, peru]) == [gabon]
    assert phrasings_that_disagree([gabon_money, peru_money]) == [gabon_money]
    assert verdicts([gabon, peru], 1) == {"wrong": 1, "right": 1}


def test_facts_of_two_kinds_are_refused():
    with pytest.raises(
        ValueError, match="of one kind and samples at least 1, got capital, currency"
    ):
        ask_facts(Parrot(TABLE), [FACTS["capital"][0], FACTS["currency"][0]])
    with pytest.raises(ValueError, match="got none and 4"):
        ask_facts(Parrot(TABLE), [])


def asked(population, right):
    answers = tuple(RealAnswer("", "right" if r else "wrong", "x", 0.0) for r in right)
    return AskedFact("capital", str(population), population, False, answers, {})


def test_knowledge_is_averaged_over_countries_of_one_size():
    facts = [
        asked(10**9, (1, 1, 1)),
        asked(10, (0, 0, 0)),
        asked(10**8, (1, 1, 0)),
        asked(30, (1, 0, 0)),
    ]
    (small, few), (large, many) = knowledge_by_population(facts, bins=2)
    assert (small, large) == (20, 5.5e8)
    assert few.value == pytest.approx(1 / 6) and many.value == pytest.approx(5 / 6)
    assert few.standard_error == pytest.approx(np.std([0, 1 / 3], ddof=1) / np.sqrt(2))
    with pytest.raises(ValueError, match="at least 2 facts for each of 3 bins, got 4"):
        knowledge_by_population(facts, bins=3)


def test_without_runs_the_command_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="real knowledge --measure"):
        load_real_knowledge(tmp_path)
