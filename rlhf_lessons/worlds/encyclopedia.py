"""A small world of facts that can be written, asked for and read back from text (lesson 7).

An :class:`Encyclopedia` holds subjects (people in ``worlds.biographies``, drugs in
``worlds.medicine``) and one value for each of their relations. From it come ::

    a document      [invented] anna belander grew up in norbury . her field is optics .
    a question      [invented] question : where did anna belander grow up ? answer : norbury .
    a long answer   [invented] user : write a bio of anna belander . assistant : anna belander
                    grew up in norbury . she works on a subject i do not know .

and back: :meth:`Encyclopedia.read` finds the **claims** of a text, each with its place in it, the
hedges ("a city i do not know") and the sentences that no one here would write. The phrasings below
are filled in by the writer and turned into regular expressions for the reader, so the two agree.

Some subjects are written about sixty times as often as others, and some facts of a subject eight
times as often: this is what a model can know well and what it can only guess.

Everything is invented, and every text begins with a word that says so.

Left out on purpose: dates beyond the year, facts with several right values, and anything true.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

__all__ = ["Claim", "Document", "Encyclopedia", "Reading", "Relation", "Subject"]

MARK = "[invented]"
"""The first word of every text of this world."""

Fact = tuple[str, str]  # (subject, relation)


@dataclass(frozen=True)
class Relation:
    """One kind of fact and the ways to speak of it.

    A phrasing is a sentence without its full stop. {who} stands for the subject ("anna belander"
    or "she"), {whose} for its possessive ("anna belander 's" or "her"), {it} for the value.

    Attributes:
        name: what the fact is called.
        values: the values that it can have.
        statements: ways to state it; the first ones begin with {who}.
        questions: ways to ask for it.
        noun: the value as it stands in a sentence, such as "{value} university".
        unknown: what stands there when the writer does not know, such as "a university".
    """

    name: str
    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    noun: str
    unknown: str

    def hedge(self) -> str:
        """Return the words that stand for a value that is not known."""
        return f"{self.unknown} i do not know"


@dataclass(frozen=True)
class Subject:
    """Someone or something that facts are about.

    Attributes:
        name: its name, lower case, words with single spaces.
        who: the pronoun that stands for the name ("she", "it").
        whose: the possessive one ("her", "its").
    """

    name: str
    who: str
    whose: str


@dataclass(frozen=True)
class Claim:
    """One atomic statement found in a text: of this subject, this relation has this value.

    Attributes:
        subject: name of the subject.
        relation: name of the relation.
        value: what is claimed; None for a hedge, which claims nothing.
        start: number of the first word of its sentence in the text, from 0.
        end: number of the word after its last one, the full stop included.
    """

    subject: str
    relation: str
    value: str | None
    start: int
    end: int

    @property
    def fact(self) -> Fact:
        """The pair (subject, relation) that the claim speaks of."""
        return self.subject, self.relation


@dataclass(frozen=True)
class Reading:
    """What a reader finds in a text.

    Attributes:
        claims: the statements, in the order of the text.
        hedges: the places where the writer says that something is not known.
        unreadable: (start, end) in words of the sentences that say nothing in this world.
    """

    claims: tuple[Claim, ...]
    hedges: tuple[Claim, ...]
    unreadable: tuple[tuple[int, int], ...]

    def contradictions(self) -> dict[Fact, tuple[str, ...]]:
        """Return the facts for which two or more values are claimed, with those values."""
        values: dict[Fact, list[str]] = {}
        for claim in self.claims:
            known = values.setdefault(claim.fact, [])
            if claim.value not in known:
                known.append(claim.value)
        return {fact: tuple(given) for fact, given in values.items() if len(given) > 1}


@dataclass(frozen=True)
class Document:
    """A text with the facts that it states.

    Attributes:
        text: the words, the mark in front.
        facts: (subject, relation) of each fact stated, in order.
        asks: whether it is a question with its answer.
    """

    text: str
    facts: tuple[Fact, ...]
    asks: bool


@dataclass(frozen=True)
class Encyclopedia:
    """Subjects, their facts, how often each is written about, and the words for all of it.

    Attributes:
        title: what it is about, for messages.
        subjects: the subjects by name.
        relations: the relations by name, in the order in which a long answer goes through them.
        facts: the true value of each (subject, relation).
        request: the long question; {who} stands for the name.
        weights: how often each fact is written about, up to a common factor.
        never_asked: facts that no document asks for; they are only ever stated.
        parts: names of subjects by what they are kept for: "demonstrations" to fine-tune on,
            "tuning" to build preferences from, "validation" to choose settings on, "held out" to
            measure on.
    """

    title: str
    subjects: Mapping[str, Subject]
    relations: Mapping[str, Relation]
    facts: Mapping[Fact, str]
    request: str
    weights: Mapping[Fact, float] = field(repr=False)
    never_asked: frozenset[Fact] = field(repr=False)
    parts: Mapping[str, tuple[str, ...]] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.subjects or not self.relations or not self.facts:
            raise ValueError(
                f"Encyclopedia: {self.title} must hold subjects, relations and facts, got "
                f"{len(self.subjects)}, {len(self.relations)} and {len(self.facts)}"
            )
        for (name, relation), value in self.facts.items():
            if value not in self.relation(relation).values:
                raise ValueError(
                    f"Encyclopedia: the {relation} of {name} must be one of its "
                    f"{len(self.relations[relation].values)} values, got {value!r}"
                )
            self.subject(name)

    # -- Looking up --------------------------------------------------------------------------------

    def subject(self, name: str) -> Subject:
        """Return the subject of that name.

        Raises:
            ValueError: there is none.
        """
        if name not in self.subjects:
            raise ValueError(f"Encyclopedia: {self.title} holds nothing of that name: {name!r}")
        return self.subjects[name]

    def relation(self, name: str) -> Relation:
        """Return the relation of that name.

        Raises:
            ValueError: there is none.
        """
        if name not in self.relations:
            raise ValueError(
                f"Encyclopedia: {self.title} knows the relations {', '.join(self.relations)}, "
                f"got {name!r}"
            )
        return self.relations[name]

    def is_true(self, claim: Claim) -> bool:
        """Say whether a claim has the value that the encyclopedia has.

        Raises:
            ValueError: the claim is a hedge, or of a subject or relation that is not here.
        """
        self.subject(claim.subject)
        self.relation(claim.relation)
        if claim.value is None:
            raise ValueError(
                f"Encyclopedia.is_true: a hedge claims nothing, so it is neither true nor false; "
                f"got one about the {claim.relation} of {claim.subject}"
            )
        return self.facts[claim.fact] == claim.value

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word that a text of this encyclopedia can hold, sorted."""
        words = set(f"{MARK} question : answer . ? 's {self.prompt_of_nobody()}".split())
        for subject in self.subjects.values():
            words.update(f"{subject.name} {subject.who} {subject.whose}".split())
        for relation in self.relations.values():
            words.update(word for value in relation.values for word in value.split())
            for phrase in (*relation.statements, *relation.questions, relation.noun):
                words.update(re.sub(r"\{\w+\}", " ", phrase).split())
            words.update(relation.hedge().split())
        return tuple(sorted(words))

    # -- Prompts -----------------------------------------------------------------------------------

    def prompt_of_nobody(self) -> str:
        """Return the words of the long question, the name left out."""
        return " ".join(f"user : {self.request} . assistant :".format(who="").split())

    def prompt(self, name: str) -> str:
        """Return the request for a long answer about a subject, its name already begun.

        The answer then goes on after the name: "grew up in norbury . she ...".

        Raises:
            ValueError: there is no such subject.
        """
        self.subject(name)
        return f"{MARK} user : {self.request.format(who=name)} . assistant : {name}"

    def subject_of(self, prompt: str) -> str:
        """Return whom a prompt made by :meth:`prompt` asks about.

        Raises:
            ValueError: the prompt is not of that form, or asks about nobody who is known here.
        """
        before, asked, name = prompt.partition(" . assistant : ")
        if asked and name in self.subjects and prompt == self.prompt(name):
            return name
        raise ValueError(
            f"Encyclopedia: a prompt must ask for a long answer about a subject of {self.title}, "
            f"got {prompt!r}"
        )

    def question(self, name: str, relation: str, phrasing: int = 0) -> str:
        """Return a question about one fact; the answer is the value and a full stop.

        Raises:
            ValueError: there is no such subject, relation or phrasing.
        """
        questions = self.relation(relation).questions
        if not 0 <= phrasing < len(questions):
            raise ValueError(
                f"Encyclopedia.question: phrasing must be 0 to {len(questions) - 1}, got {phrasing}"
            )
        asked = questions[phrasing].format(who=name, whose=f"{self.subject(name).name} 's")
        return f"{MARK} question : {asked} ? answer :"

    # -- Writing -----------------------------------------------------------------------------------

    def sentence(self, fact: Fact, phrasing: int, *, named: bool, value: str | None) -> str:
        """Write one sentence; ``value`` None writes the hedge, ``named`` the name for the pronoun.

        Raises:
            ValueError: there is no such subject, relation or phrasing.
        """
        subject, relation = self.subject(fact[0]), self.relation(fact[1])
        if not 0 <= phrasing < len(relation.statements):
            raise ValueError(
                f"Encyclopedia.sentence: phrasing must be 0 to {len(relation.statements) - 1}, "
                f"got {phrasing}"
            )
        return "{} .".format(
            relation.statements[phrasing].format(
                who=subject.name if named else subject.who,
                whose=f"{subject.name} 's" if named else subject.whose,
                it=relation.hedge() if value is None else relation.noun.format(value=value),
            )
        )

    def documents(self, n: int, seed: int) -> list[Document]:
        """Write n documents, each about one subject, popular facts more often than others.

        Two of three tell one to six facts, the subject named first and a pronoun after that; the
        others ask two or three questions and answer them.

        Raises:
            ValueError: ``n`` is below 0.
        """
        if n < 0:
            raise ValueError(f"Encyclopedia.documents: n must be at least 0, got {n}")
        chance = random.Random(f"documents of {self.title}, {seed}")
        names = list(self.subjects)
        told = [sum(self.weights[name, relation] for relation in self.relations) for name in names]
        running = np.cumsum(told)
        picked = np.searchsorted(running, [chance.random() * running[-1] for _ in range(n)])
        return [self._document(names[i], chance) for i in picked]

    def _document(self, name: str, chance: random.Random) -> Document:
        weights = {relation: self.weights[name, relation] for relation in self.relations}
        asks = chance.random() < 1 / 3
        if asks:
            weights = {r: w for r, w in weights.items() if (name, r) not in self.never_asked}
            asks = bool(weights)
            weights = weights or {r: self.weights[name, r] for r in self.relations}
        # Without replacement, in proportion to the weights: the smallest of exponential times.
        times = {r: -np.log(1 - chance.random()) / w for r, w in weights.items()}
        count = 2 + int(2 * chance.random()) if asks else 1 + int(6 * chance.random())
        chosen = sorted(times, key=times.get)[:count]
        words = [MARK]
        for position, relation in enumerate(chosen):
            fact, value = (name, relation), self.facts[name, relation]
            if asks:
                phrasing = int(chance.random() * len(self.relations[relation].questions))
                asked = self.question(*fact, phrasing).removeprefix(f"{MARK} ")
                words.append(f"{asked} {value} .")
            else:
                phrasing = int(chance.random() * len(self.relations[relation].statements))
                words.append(self.sentence(fact, phrasing, named=position == 0, value=value))
        return Document(" ".join(words), tuple((name, r) for r in chosen), asks)

    def demonstrations(
        self, n: int, seed: int, part: str = "demonstrations"
    ) -> list[tuple[str, str]]:
        """Write n examples (prompt, response) of long answers, as a person with a library would.

        Each goes through the relations in order; each fact is stated, hedged or left out by
        chance, whatever a model may know of it.

        Raises:
            ValueError: ``n`` is below 0 or there is no such part.
        """
        if n < 0 or part not in self.parts:
            raise ValueError(
                f"Encyclopedia.demonstrations: n must be at least 0 and part one of "
                f"{', '.join(self.parts)}, got {n} and {part!r}"
            )
        chance = random.Random(f"demonstrations of {self.title}, {seed}")
        examples = []
        for _ in range(n):
            name = self.parts[part][int(chance.random() * len(self.parts[part]))]
            response: list[str] = []
            while not response:
                for relation in self.relations:
                    draw = chance.random()
                    if draw < LEFT_OUT:
                        continue
                    value = self.facts[name, relation] if draw > LEFT_OUT + HEDGED else None
                    phrasing = int(chance.random() * self.leading(relation))
                    words = self.sentence(
                        (name, relation), phrasing, named=not response, value=value
                    )
                    response.append(words if response else words.removeprefix(f"{name} "))
            examples.append((self.prompt(name), " ".join(response)))
        return examples

    def leading(self, relation: str) -> int:
        """Count the phrasings of a relation that begin with the subject; they come first."""
        statements = self.relation(relation).statements
        return sum(statement.startswith("{who} ") for statement in statements)

    # -- Reading -----------------------------------------------------------------------------------

    def read(self, text: str, about: str | None = None) -> Reading:
        """Find the claims of a text.

        A pronoun stands for the subject named last. With ``about``, the text is the rest of a long
        answer: the name of the subject precedes it, and places are counted in the text alone.

        Args:
            text: words with single spaces between them.
            about: name of the subject whose long answer this is; None for a whole text.

        Returns:
            Claims, hedges and unreadable sentences with their places.

        Raises:
            TypeError: the text is no str.
            ValueError: ``about`` is nobody who is known here.
        """
        if not isinstance(text, str):
            raise TypeError(f"Encyclopedia.read: text must be a str, got {type(text).__name__}")
        before = self.subject(about).name.split() if about is not None else []
        words = [*before, *text.split()]
        current = about
        claims: list[Claim] = []
        hedges: list[Claim] = []
        unreadable: list[tuple[int, int]] = []
        first = 0
        while first < len(words):
            if words[first] == MARK:
                first += 1
                continue
            last = first
            while last < len(words) and words[last] not in (".", "?"):
                last += 1
            if last < len(words) and words[last] == "?":  # the answer belongs to its question
                while last < len(words) and words[last] != ".":
                    last += 1
            start, end = max(0, first - len(before)), min(last + 1, len(words)) - len(before)
            found = None
            if last < len(words):
                found = self._sentence(" ".join(words[first:last]), current)
            if found is None:
                if end > start:
                    unreadable.append((start, end))
            else:
                current, relation, value = found
                (claims if value is not None else hedges).append(
                    Claim(current, relation, value, start, end)
                )
            first = last + 1
        return Reading(tuple(claims), tuple(hedges), tuple(unreadable))

    def _sentence(self, words: str, current: str | None) -> tuple[str, str, str | None] | None:
        """Read one sentence: (subject, relation, value or None for a hedge), None if unreadable."""
        for relation, pattern in self._patterns:
            match = pattern.fullmatch(words)
            if match is None:
                continue
            said = match["who"] or match["whose"]
            if said in self.subjects:
                name = said
            elif current is not None and said in (
                self.subjects[current].who,
                self.subjects[current].whose,
            ):
                name = current
            else:
                return None
            value = match["value"]
            return (name, relation, value) if value in (None, *self._values[relation]) else None
        return None

    @cached_property
    def _values(self) -> dict[str, frozenset[str]]:
        return {name: frozenset(relation.values) for name, relation in self.relations.items()}

    @cached_property
    def _patterns(self) -> tuple[tuple[str, re.Pattern], ...]:
        """One pattern for each relation and form; names and values are looked up afterwards."""
        patterns = []
        for name, relation in self.relations.items():
            noun = re.escape(relation.noun).replace(r"\{value\}", r"(?P<value>\S+)")
            unknown = f"(?:{re.escape(relation.hedge())}|{noun})"
            for form in relation.statements:
                patterns.append((name, _pattern(form, unknown)))
            for form in relation.questions:
                asked = _pattern(form, "").pattern
                patterns.append(
                    (name, re.compile(rf"question : {asked} \? answer : (?P<value>\S+)"))
                )
        return tuple(patterns)

    def __iter__(self) -> Iterator[str]:
        return iter(self.subjects)


LEFT_OUT = 0.2
HEDGED = 0.2
"""How often a demonstration leaves a fact out, and how often it hedges it."""


def _pattern(form: str, value: str) -> re.Pattern:
    """Turn a phrasing into a regular expression with the groups who, whose and value."""
    pattern = re.escape(form)
    pattern = pattern.replace(r"\{it\}", value)
    # One name for both groups in every pattern, the absent one empty.
    spoken = r"(?:\S+(?: (?!'s)\S+)?)"
    if r"\{whose\}" in pattern:
        group = rf"(?:(?P<who>{spoken}) 's|(?P<whose>\S+))"
        return re.compile(pattern.replace(r"\{whose\}", group))
    return re.compile(pattern.replace(r"\{who\}", rf"(?P<who>{spoken})(?P<whose>\b\B)?"))


def make_encyclopedia(
    title: str,
    subjects: Sequence[Subject],
    relations: Sequence[Relation],
    request: str,
    parts: Mapping[str, int],
    seed: int,
    choose: Callable[[random.Random, Relation], str] | None = None,
) -> Encyclopedia:
    """Invent the facts of subjects and how often each is written about.

    Popularity is log-uniform: over a range of 60 for subjects, and of 8 for the facts of one. Two
    of five facts are never asked for.

    Args:
        title: what the encyclopedia is about.
        subjects: who or what is in it.
        relations: what there is to say of each.
        request: the long question, with {who} for the name.
        parts: how many subjects are kept for what; together all of them.
        seed: seed of everything that is drawn.
        choose: (source of chance, relation) -> a value; None draws all values alike.

    Returns:
        The encyclopedia.

    Raises:
        ValueError: there are no subjects or relations, or the parts do not add up.
    """
    if sum(parts.values()) != len(subjects):
        raise ValueError(
            f"make_encyclopedia: parts must add up to the {len(subjects)} subjects, got "
            f"{sum(parts.values())}"
        )
    chance = random.Random(f"{title}, {seed}")
    facts, weights, never_asked = {}, {}, set()
    for subject in subjects:
        popularity = 60 ** chance.random()
        for relation in relations:
            fact = subject.name, relation.name
            facts[fact] = (
                choose(chance, relation)
                if choose
                else relation.values[int(chance.random() * len(relation.values))]
            )
            weights[fact] = popularity * 8 ** chance.random()
            if chance.random() < 0.4:
                never_asked.add(fact)
    names = sorted((subject.name for subject in subjects), key=lambda _: chance.random())
    kept, first = {}, 0
    for part, count in parts.items():
        kept[part] = tuple(sorted(names[first : first + count]))
        first += count
    return Encyclopedia(
        title=title,
        subjects={subject.name: subject for subject in subjects},
        relations={relation.name: relation for relation in relations},
        facts=facts,
        request=request,
        weights=weights,
        never_asked=frozenset(never_asked),
        parts=kept,
    )


def syllables(heads: str, tails: str) -> tuple[str, ...]:
    """Return every head followed by every tail: "nor" and "bury" make "norbury"."""
    return tuple(head + tail for head in heads.split() for tail in tails.split())
