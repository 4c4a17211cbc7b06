"""The two encyclopedias: every phrasing is read back, and what is said of them is so."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lessons.worlds import (
    Claim,
    Encyclopedia,
    drug_encyclopedia,
    fact_vocabulary,
    people_encyclopedia,
    sample_fact_demonstrations,
    sample_fact_documents,
)

BOOKS = {"people": people_encyclopedia(), "drugs": drug_encyclopedia()}
PEOPLE, DRUGS = BOOKS.values()
MARK = "[invented]"


def templates() -> list:
    found = []
    for title, book in BOOKS.items():
        for name, relation in book.relations.items():
            for phrasing in range(len(relation.statements)):
                found.append(pytest.param(book, name, phrasing, id=f"{title} {name} {phrasing}"))
    return found


@pytest.mark.parametrize(("book", "relation", "phrasing"), templates())
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_every_phrasing_is_read_back(book: Encyclopedia, relation, phrasing, data):
    """By name and by pronoun, every value and the hedge, with the place of the sentence."""
    names = sorted(book.subjects)
    name = data.draw(st.sampled_from(names))
    values = [*book.relations[relation].values, None]
    first, second = data.draw(st.lists(st.sampled_from(values), min_size=2, max_size=2))
    before = data.draw(st.sampled_from(["", f"{MARK} ", "nobody said that . "]))
    named = book.sentence((name, relation), phrasing, named=True, value=first)
    pronoun = book.sentence((name, relation), phrasing, named=False, value=second)
    reading = book.read(before + f"{named} {pronoun}")
    a = len(before.split())
    b, c = a + len(named.split()), a + len(named.split()) + len(pronoun.split())
    expected = [
        Claim(name, relation, first, a, b),
        Claim(name, relation, second, b, c),
    ]
    assert list(reading.claims) == [claim for claim in expected if claim.value is not None]
    assert list(reading.hedges) == [claim for claim in expected if claim.value is None]
    assert reading.unreadable == (((0, a),) if "nobody" in before else ())


@pytest.mark.parametrize("book", BOOKS.values(), ids=BOOKS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_every_question_with_its_answer_is_a_claim(book: Encyclopedia, data):
    name = data.draw(st.sampled_from(sorted(book.subjects)))
    relation = data.draw(st.sampled_from(sorted(book.relations)))
    value = data.draw(st.sampled_from(book.relations[relation].values))
    for phrasing in range(len(book.relations[relation].questions)):
        text = f"{book.question(name, relation, phrasing)} {value} ."
        (claim,) = book.read(text).claims
        assert claim == Claim(name, relation, value, 1, len(text.split()))


@pytest.mark.parametrize("seed", [0, 1])
def test_documents_state_the_facts_that_they_name(seed):
    for book in BOOKS.values():
        for document in book.documents(400, seed):
            reading = book.read(document.text)
            assert tuple(claim.fact for claim in reading.claims) == document.facts
            assert all(book.is_true(claim) for claim in reading.claims)
            assert reading.hedges == reading.unreadable == ()
            assert reading.contradictions() == {}


def test_every_text_is_marked_as_invented():
    texts = [document.text for document in sample_fact_documents(300, 0)]
    texts += [prompt for prompt, _ in sample_fact_demonstrations(100, 0)]
    for book in BOOKS.values():
        name = next(iter(book.subjects))
        texts += [book.question(name, relation) for relation in book.relations]
    assert all(text.split()[0] == MARK for text in texts)


def test_texts_are_words_of_the_vocabulary_and_fit_the_context():
    words = set(fact_vocabulary())
    for document in sample_fact_documents(3000, 2):
        assert words.issuperset(document.text.split()) and len(document.text.split()) <= 70
    for prompt, response in sample_fact_demonstrations(1000, 2):
        assert words.issuperset(f"{prompt} {response}".split())
        assert len(f"{prompt} {response}".split()) + 2 <= 96
    assert 800 <= len(words) <= 1150


def test_the_same_seed_writes_the_same_texts():
    assert sample_fact_documents(50, 3) == sample_fact_documents(50, 3)
    assert sample_fact_documents(50, 3) != sample_fact_documents(50, 4)
    assert sample_fact_demonstrations(50, 3) == sample_fact_demonstrations(50, 3)


def test_the_encyclopedias_are_what_their_docstrings_say():
    assert len(PEOPLE.subjects) == 360 and len(PEOPLE.relations) == 6
    assert len(DRUGS.subjects) == 110 and len(DRUGS.relations) == 5
    for book in BOOKS.values():
        assert len(book.facts) == len(book.subjects) * len(book.relations)
        assert all(book.facts[fact] in book.relations[fact[1]].values for fact in book.facts)
        assert all(len(relation.statements) == 5 for relation in book.relations.values())
        assert sorted(sum(book.parts.values(), ())) == sorted(book.subjects)
        assert set(book.parts) == {"demonstrations", "tuning", "validation", "held out"}


def test_no_word_of_a_value_is_spaced():
    """The reader takes one word for a value."""
    for book in BOOKS.values():
        for relation in book.relations.values():
            assert all(len(value.split()) == 1 for value in relation.values)
            assert len(set(relation.values)) == len(relation.values)


def test_popularity_is_log_uniform_over_its_ranges():
    weights = np.array(
        [[PEOPLE.weights[name, relation] for relation in PEOPLE.relations] for name in PEOPLE]
    )
    assert weights.min() >= 1 and weights.max() <= 480
    # log w = log u·60 + log v·8: the mean is half of log 480, each part uniform.
    logs = np.log(weights)
    assert logs.mean() == pytest.approx(np.log(480) / 2, abs=0.15)
    assert logs.mean(1).std() == pytest.approx(np.log(60) / np.sqrt(12), abs=0.2)
    within = (logs - logs.mean(1, keepdims=True)).std() * np.sqrt(6 / 5)
    assert within == pytest.approx(np.log(8) / np.sqrt(12), abs=0.05)


def test_facts_are_written_about_as_often_as_their_weights_say():
    documents = PEOPLE.documents(6000, 5)
    seen = Counter(fact for document in documents for fact in document.facts)
    told = {name: sum(PEOPLE.weights[name, r] for r in PEOPLE.relations) for name in PEOPLE}
    subjects = Counter(document.facts[0][0] for document in documents)
    share = np.array([told[name] for name in PEOPLE]) / sum(told.values())
    counts = np.array([subjects[name] for name in PEOPLE])
    # Multinomial: the squared deviations over the expectations follow χ² with 359 degrees.
    chi = float(((counts - 6000 * share) ** 2 / (6000 * share)).sum())
    assert 359 - 5 * np.sqrt(2 * 359) < chi < 359 + 5 * np.sqrt(2 * 359)
    # Within a subject the likelier fact comes more often.
    name = max(told, key=told.get)
    relations = sorted(PEOPLE.relations, key=lambda r: PEOPLE.weights[name, r])
    assert seen[name, relations[-1]] > seen[name, relations[0]]


def test_facts_that_are_never_asked_are_never_asked():
    documents = [document for document in sample_fact_documents(8000, 6) if document.asks]
    asked = {fact for document in documents for fact in document.facts}
    for book in BOOKS.values():
        assert not asked & book.never_asked
        assert len(book.never_asked) / len(book.facts) == pytest.approx(0.4, abs=0.04)
    assert len(documents) / 8000 == pytest.approx(1 / 3, abs=0.02)


def test_demonstrations_state_hedge_and_leave_out():
    shares = Counter()
    for book in BOOKS.values():
        for prompt, response in book.demonstrations(500, 7):
            name = book.subject_of(prompt)
            assert name in book.parts["demonstrations"]
            reading = book.read(response, about=name)
            assert not reading.unreadable
            assert all(book.is_true(claim) for claim in reading.claims)
            found = sorted((*reading.claims, *reading.hedges), key=lambda claim: claim.start)
            order = [list(book.relations).index(claim.relation) for claim in found]
            assert order == sorted(set(order)) and {claim.subject for claim in found} == {name}
            shares.update(
                said=len(reading.claims), hedged=len(reading.hedges), facts=len(book.relations)
            )
    assert shares["said"] / shares["facts"] == pytest.approx(0.6, abs=0.03)
    assert shares["hedged"] / shares["facts"] == pytest.approx(0.2, abs=0.03)


# -- Reading what nobody here would write ----------------------------------------------------------

NAME = next(iter(PEOPLE.subjects))
WHO = PEOPLE.subjects[NAME].who


def test_the_rest_of_a_long_answer_begins_after_the_name():
    reading = PEOPLE.read(f"was born in 1920 . {WHO} works on optics .", about=NAME)
    assert reading.claims == (
        Claim(NAME, "birth year", "1920", 0, 5),
        Claim(NAME, "field", "optics", 5, 10),
    )
    reading = PEOPLE.read("'s field is optics .", about=NAME)
    assert reading.claims == (Claim(NAME, "field", "optics", 0, 5),)


def test_a_text_without_claims_has_none():
    assert PEOPLE.read("").claims == ()
    assert PEOPLE.read("", about=NAME).unreadable == ()
    reading = PEOPLE.read("the weather is fine . good .")
    assert reading.claims == () and reading.unreadable == ((0, 5), (5, 7))


@pytest.mark.parametrize(
    "text",
    [
        "he was born in 1920 .",  # nobody was named
        f"{NAME} was born in 2020 .",  # no value of this relation
        f"{NAME} was born in norbury .",
        "zara nobody was born in 1920 .",  # nobody here is called that
        f"{NAME} was born in 1920",  # cut off before its end
        f"{NAME} was was born in 1920 .",
        f"{NAME} was born in a town i do not know .",  # the hedge of another relation
        f"{MARK} question : when was {NAME} born ? answer : optics .",
    ],
)
def test_what_cannot_be_read_is_named_as_such(text):
    reading = PEOPLE.read(text)
    assert reading.claims == reading.hedges == ()
    start = 1 if text.startswith(MARK) else 0
    assert reading.unreadable == ((start, len(text.split())),)


def test_a_pronoun_of_the_wrong_kind_is_unreadable():
    other = {"she": "he", "he": "she"}[WHO]
    reading = PEOPLE.read(f"{NAME} was born in 1920 . {other} works on optics .")
    assert len(reading.claims) == 1 and reading.unreadable == ((7, 12),)


def test_a_pronoun_stands_for_the_one_named_last():
    names = [name for name in PEOPLE if PEOPLE.subjects[name].who == WHO][:2]
    text = f"{names[0]} works on optics . {names[1]} works on logic . {WHO} was born in 1920 ."
    assert [claim.subject for claim in PEOPLE.read(text).claims] == [names[0], names[1], names[1]]


def test_contradictory_claims_are_reported_with_their_values():
    text = f"{NAME} works on optics . {WHO} was born in 1920 . {WHO} was born in 1930 ."
    text += f" {WHO} came into the world in 1920 . {WHO} works on optics ."
    assert PEOPLE.read(text).contradictions() == {(NAME, "birth year"): ("1920", "1930")}


def test_a_hedge_is_neither_true_nor_false():
    with pytest.raises(ValueError, match="a hedge claims nothing"):
        PEOPLE.is_true(Claim(NAME, "field", None, 0, 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PEOPLE.prompt("zara nobody"), "nothing of that name: 'zara nobody'"),
        (lambda: PEOPLE.read("", about="zara nobody"), "nothing of that name"),
        (lambda: PEOPLE.is_true(Claim("zara nobody", "field", "optics", 0, 1)), "nothing of that"),
        (lambda: PEOPLE.question(NAME, "shoe size"), "knows the relations .*, got 'shoe size'"),
        (lambda: PEOPLE.question(NAME, "field", 3), "phrasing must be 0 to 2, got 3"),
        (lambda: PEOPLE.sentence((NAME, "field"), 5, named=True, value="optics"), "0 to 4, got 5"),
        (lambda: PEOPLE.subject_of("hello"), "must ask for a long answer"),
        (lambda: PEOPLE.subject_of(DRUGS.prompt("bemdox")), "must ask for a long answer"),
        (lambda: PEOPLE.documents(-1, 0), "n must be at least 0, got -1"),
        (lambda: PEOPLE.demonstrations(1, 0, "friends"), "part one of .*'friends'"),
        (lambda: dataclasses.replace(PEOPLE, facts={}), "must hold subjects, relations and facts"),
        (lambda: dataclasses.replace(PEOPLE, subjects={}), "got 0, 6 and 2160"),
        (
            lambda: dataclasses.replace(PEOPLE, facts={(NAME, "field"): "magic"}),
            "the field of .* must be one of its .* got 'magic'",
        ),
    ],
)
def test_what_does_not_exist_is_refused(call, message):
    with pytest.raises(ValueError, match=f"Encyclopedia.*{message}"):
        call()


def test_a_text_must_be_text():
    with pytest.raises(TypeError, match="text must be a str, got list"):
        PEOPLE.read(["no"])


def test_prompts_come_back_to_their_subject():
    for book in BOOKS.values():
        for name in book:
            assert book.subject_of(book.prompt(name)) == name
