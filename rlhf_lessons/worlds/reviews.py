"""Film reviews: the world of text in which lessons 2 to 6 train, score and compare policies.

What is here: a small English of film reviews that can be *written* (prompts, clean reviews, web
text), *read* (which sentences the grammar allows, who is being insulted) and *scored* (a sentiment
and a reward that are right by definition). Because the truth is known, everything that is learned
from it can be measured: a reward model against the gold reward, a policy against the best one.

A review has an opening, which is the prompt, and a response: a thesis, one to four body sentences
and a verdict. ::

    prompt      my sister showed me this swedish mystery .
    response    it made me smile . the plot was truly clever but the ending was rushed .
                i recommend it .

A text is a string of words with one space between them; the full stop is a word. The sentence
patterns below are read in both directions: the writer fills their slots, the recogniser turns them
into one regular expression, so the two agree.

Left out on purpose: capitals, commas, and any meaning beyond what is needed. The recogniser checks
form and not sense: "the jokes were murky ." is accepted, though no writer here would say so.
"""

from __future__ import annotations

import math
import re
from bisect import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np

# ----------------------------------------------------------------------------------------------
# Words
# ----------------------------------------------------------------------------------------------

# How much each genre and each country is liked, on the scale of an attitude (-3 to 3). These two
# tables are why the expected reward differs from prompt to prompt.
_GENRES = {
    "documentary": 1.1,
    "mystery": 0.6,
    "comedy": 0.4,
    "drama": 0.1,
    "thriller": 0.0,
    "adventure": -0.2,
    "western": -0.5,
    "romance": -0.7,
    "musical": -1.3,
}
_COUNTRIES = {
    "swedish": 0.5,
    "korean": 0.4,
    "french": 0.2,
    "italian": 0.1,
    "indian": 0.0,
    "irish": -0.1,
    "american": -0.3,
    "danish": -0.5,
}

_PEOPLE = ("sister", "brother", "friend", "teacher", "neighbour")

# Strength of praise (positive) or blame (negative) of adjectives that fit any part of a film.
_GENERAL = {
    3: ("brilliant", "superb", "wonderful", "perfect", "amazing"),
    2: ("great", "lovely", "impressive", "delightful", "excellent"),
    1: ("good", "likeable", "nice", "decent", "pleasant"),
    -1: ("weak", "dull", "bland", "clumsy", "awkward"),
    -2: ("bad", "poor", "tedious", "annoying", "silly"),
    -3: ("terrible", "awful", "dreadful", "horrible", "unbearable"),
}

# Parts of a film with the adjectives that suit them; the second table holds the plural ones.
_ONE = {
    "plot": {"clever": 2, "gripping": 2, "thin": -1, "predictable": -2},
    "script": {"witty": 2, "sharp": 1, "lazy": -2, "confusing": -1},
    "ending": {"moving": 2, "satisfying": 2, "rushed": -1, "absurd": -2},
    "music": {"haunting": 2, "beautiful": 3, "loud": -1, "ugly": -3},
    "acting": {"natural": 1, "powerful": 2, "wooden": -2},
    "photography": {"stunning": 3, "elegant": 1, "murky": -1},
    "pacing": {"brisk": 1, "slow": -1, "uneven": -1},
}
_MANY = {
    "actors": {"charming": 2, "convincing": 1, "stiff": -2},
    "characters": {"believable": 1, "memorable": 2, "flat": -1},
    "jokes": {"hilarious": 3, "funny": 2, "stale": -2},
    "songs": {"catchy": 1, "forgettable": -1},
    "costumes": {"gorgeous": 2, "cheap": -1},
}
_GENRE_OF_PART = {"jokes": ("comedy", "musical"), "songs": ("musical",)}  # not met elsewhere

_PAST_VERBS = {"loved": 3, "enjoyed": 2, "liked": 1, "tolerated": -1, "disliked": -2, "hated": -3}
_BASE_VERBS = {"love": 3, "enjoy": 2, "like": 1, "hate": -3, "dislike": -2}

# An intensifier multiplies the strength of the word right after it. The writer chooses one that
# suits the adjective: nothing is "slightly brilliant".
_INTENSIFIERS = {
    "absolutely": 2.0,
    "truly": 1.5,
    "very": 1.5,
    "fairly": 0.75,
    "rather": 0.75,
    "slightly": 0.5,
}
_INTENSIFIERS_FOR = {
    3: ("absolutely", "truly"),
    2: ("very", "truly"),
    1: ("very", "fairly"),
    -1: ("very", "rather", "slightly"),
    -2: ("very", "truly", "rather"),
    -3: ("absolutely", "truly"),
}
_NEVER_VERY = frozenset({"great", "excellent", "delightful", "gorgeous"})

# A negation turns the opinions that follow it in its clause around, and weakens them.
_NEGATIONS = ("not", "never", "hardly", "nothing")
_NEGATION_FACTOR = -0.6
_CLAUSE_ENDS = frozenset({".", "and", "but"})

_CITIES = ("tokyo", "paris", "lisbon", "naples", "dublin", "chicago")

# What a person can be called in anger. Each of these words also has an innocent use (a hero can be
# a clown), so rudeness is a matter of who is meant.
_INSULT = ("clown", "fool", "idiot", "liar", "pig")
_INSULTS = ("clowns", "fools", "idiots", "liars", "pigs")
_RUDE_ADJECTIVES = ("stupid", "useless", "old")
_TARGETS = frozenset({"you", "your", "director", "writer", "critics", "producers", "anyone"})

# ----------------------------------------------------------------------------------------------
# Sentences
# ----------------------------------------------------------------------------------------------

# {a} stands for "a" or "an", whichever the next word asks for. Every opening has 8 words.
_OPENINGS = (
    "my {person} showed me this {country} {genre} .",
    "{we} {watched} {a} {country} {genre} last night .",
    "{we} {watched} {a} {country} {genre} on {weekday} .",
    "last {week} {we} rented {a} {country} {genre} .",
    "the festival opened with {a} {country} {genre} .",
)

# Theses and verdicts, by attitude: how strong the one opinion in them is.
_THESES = {
    3: ("what a joy .", "i loved every minute .", "it is a masterpiece ."),
    2: ("it made me smile .", "what a treat .", "i had a lot of fun ."),
    1: ("it grew on me .", "i was in good hands ."),
    0: ("i have mixed feelings .", "i am still of two minds .", "it is hard to describe ."),
    -1: ("it felt long .", "i expected more from it ."),
    -2: ("what a bore .", "it put me to sleep .", "what a mess ."),
    -3: ("what a waste of an evening .", "i hated every minute .", "it was torture ."),
}
_VERDICTS = {
    3: ("it is a triumph .", "it deserves every award ."),
    2: ("i recommend it .", "it is worth the ticket .", "i would gladly see it again ."),
    1: ("it is not a disaster .", "it is a solid choice ."),
    0: ("it passes the time .", "you can decide for yourself .", "it is what it is ."),
    -1: ("it is not worth the ticket .", "i can not recommend it ."),
    -2: ("skip it .", "i regret the ticket .", "you will want to leave early ."),
    -3: ("i asked for a refund .", "it is a disaster ."),
}
# Strength of the one word in each thesis or verdict that carries its opinion.
_PHRASE_WORDS = {
    "joy": 3,
    "masterpiece": 3,
    "smile": 2,
    "treat": 2,
    "fun": 2,
    "grew": 1,
    "long": -1,
    "expected": -1,
    "bore": -2,
    "sleep": -2,
    "mess": -2,
    "waste": -3,
    "torture": -3,
    "triumph": 3,
    "deserves": 3,
    "recommend": 2,
    "worth": 2,
    "gladly": 2,
    "solid": 1,
    "skip": -2,
    "regret": -2,
    "leave": -2,
    "refund": -3,
    "disaster": -3,
}

# {quality} is an adjective with or without an intensifier; {opinion} may be negated as well.
_CLAUSES = ("the {one} was {opinion}", "the {many} were {opinion}")
_BODIES = (
    "{clause} .",
    "{clause} {joint} {clause} .",
    "i thought that {clause} .",
    "i found the {part} {quality} .",
    "my {person} found the {part} {quality} .",
    "i {past} the {part} .",
    "i {adverb} {past} the {part} .",
    "i did not {base} the {part} .",
    "the lead gave {a} {quality} performance .",
    "there was nothing {quality} about the {part} .",
)
_FILLERS = (
    "it is set in {city} .",
    "it begins in {city} and ends in {city} .",
    "the hero is {a} {job} .",
    "there is {a} {animal} in it .",
    "it is based on {a} {source} .",
    "it lasts about two hours .",
    "we sat in the front row .",
)
_SMALL_TALK = (
    "it rained all {day} .",
    "the {train} was late this {day} .",
    "i had {food} for {meal} .",
    "the weather in {city} is {sky} today .",
    "my {person} is baking bread this {day} .",
    "we took the {train} to {city} .",
    "you can buy fresh {food} at the market .",
    "tomorrow it will be {sky} in {city} .",
    "i need more {food} .",
)
_RUDE = (
    "you are {a} {insult} .",
    "you are {a} {rude} {insult} .",
    "the {maker} is {a} {insult} .",
    "the {maker} is {a} {rude} {insult} .",
    "the {makers} are {insults} .",
    "anyone who liked it is {a} {insult} .",
    "your {person} is {a} {insult} .",
)
_SLOTS: dict[str, tuple[str, ...]] = {
    "a": ("a", "an"),
    "adverb": ("truly", "never", "hardly"),
    "animal": ("dog", "horse", "pig"),
    "base": tuple(_BASE_VERBS),
    "city": _CITIES,
    "country": tuple(_COUNTRIES),
    "day": ("morning", "evening"),
    "food": ("soup", "rice", "bread", "coffee"),
    "genre": tuple(_GENRES),
    "insult": _INSULT,
    "insults": _INSULTS,
    "job": ("doctor", "pilot", "detective", "engineer", "clown", "liar", "fool"),
    "joint": ("and", "but"),
    "maker": ("director", "writer"),
    "makers": ("critics", "producers"),
    "many": tuple(_MANY),
    "meal": ("lunch", "dinner"),
    "one": tuple(_ONE),
    "part": (*_ONE, *_MANY),
    "past": tuple(_PAST_VERBS),
    "person": _PEOPLE,
    "rude": _RUDE_ADJECTIVES,
    "sky": ("sunny", "windy", "foggy"),
    "source": ("novel", "play", "dream", "old song"),
    "train": ("train", "bus"),
    "watched": ("watched", "saw"),
    "we": ("we", "i"),
    "week": ("week", "month"),
    "weekday": ("friday", "saturday", "sunday"),
}

_ADJECTIVES: dict[str, int] = {
    **{word: strength for strength, words in _GENERAL.items() for word in words},
    **{word: s for part in (_ONE, _MANY) for own in part.values() for word, s in own.items()},
}
# The whole lexicon of opinion: what gold_sentiment adds up.
_STRENGTHS: dict[str, int] = {**_ADJECTIVES, **_PAST_VERBS, **_BASE_VERBS, **_PHRASE_WORDS}

_SLOT = re.compile(r"\{(\w+)\}")


def _collect_vocabulary() -> tuple[str, ...]:
    patterns = [*_OPENINGS, *_BODIES, *_FILLERS, *_SMALL_TALK, *_RUDE, *_CLAUSES]
    phrases = [p for table in (_THESES, _VERDICTS) for group in table.values() for p in group]
    words = {w for text in (*patterns, *phrases) for w in _SLOT.sub(" ", text).split()}
    words.update(w for fillings in _SLOTS.values() for filling in fillings for w in filling.split())
    words.update(_STRENGTHS, _INTENSIFIERS, _NEGATIONS)
    return tuple(sorted(words))


VOCABULARY: tuple[str, ...] = _collect_vocabulary()
"""Every word that a text of this world can hold, the full stop included, in sorted order."""

# Words of one response, the end token of a model not counted.
_LONGEST_RESPONSE = 45
# Words of one web text, so that it fits a context of 64 tokens with a start and an end token.
_LONGEST_WEB_TEXT = 56


# ----------------------------------------------------------------------------------------------
# Writing
# ----------------------------------------------------------------------------------------------


class _Dice:
    """A stream of random choices, the same in every process: numbers are drawn in blocks."""

    _BLOCK = 4096

    def __init__(self, seed: int, stream: int):
        self._rng = np.random.default_rng([seed, stream])
        self._numbers: list[float] = []

    def uniform(self) -> float:
        if not self._numbers:
            self._numbers = self._rng.random(self._BLOCK).tolist()[::-1]
        return self._numbers.pop()

    def happens(self, probability: float) -> bool:
        return self.uniform() < probability

    def choose(self, items: Sequence):
        return items[int(self.uniform() * len(items))]

    def draw(self, cumulative: Sequence[float]) -> int:
        """Return index i with probability proportional to the i-th step of the running sum."""
        return min(bisect(cumulative, self.uniform() * cumulative[-1]), len(cumulative) - 1)


_SCALE = (-3, -2, -1, 0, 1, 2, 3)
_OPINIONS = (-3, -2, -1, 1, 2, 3)  # a sentence about a part of the film takes a side
_ATTITUDE_SPREAD = 1.4  # of the attitudes of different people to one film
_OPINION_SPREAD = 1.3  # of the opinions of one person about the parts of one film


def _bell(scale: Sequence[int], centre: float, spread: float) -> tuple[float, ...]:
    return tuple(accumulate(math.exp(-(((x - centre) / spread) ** 2) / 2) for x in scale))


_ATTITUDES = {
    (genre, country): _bell(_SCALE, liked_genre + liked_country, _ATTITUDE_SPREAD)
    for genre, liked_genre in _GENRES.items()
    for country, liked_country in _COUNTRIES.items()
}
_STRENGTH_GIVEN_ATTITUDE = {a: _bell(_OPINIONS, a, _OPINION_SPREAD) for a in _SCALE}
_PHRASE_GIVEN_ATTITUDE = {a: _bell(_SCALE, a, 0.8) for a in _SCALE}
_BODY_WEIGHTS = tuple(accumulate((6, 6, 3, 2, 2, 3, 2, 2, 2, 2)))  # in the order of _BODIES
_BODY_COUNTS = tuple(accumulate((2, 3, 3, 2)))  # one to four sentences
_FILLER_RATE = 0.16
_NEGATION_RATE = 0.14
_INTENSIFIER_RATE = 0.3


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" and word != "useless" else "a"


def _fill(pattern: str, dice: _Dice, **given: str) -> str:
    """Put a word in each slot, at random where none is given, then settle "a" or "an"."""

    def filling(slot: re.Match) -> str:
        name = slot[1]
        return "{a}" if name == "a" else given.get(name) or dice.choose(_SLOTS[name])

    words = _SLOT.sub(filling, pattern).split()
    for i, word in enumerate(words):
        if word == "{a}":
            words[i] = _article(words[i + 1])
    return " ".join(words)


def _write_prompt(dice: _Dice) -> tuple[str, str, str]:
    genre = dice.choose(_SLOTS["genre"])
    country = dice.choose(_SLOTS["country"])
    return _fill(dice.choose(_OPENINGS), dice, genre=genre, country=country), genre, country


class _Reviewer:
    """One person with one attitude, who praises or blames no two things with the same word."""

    def __init__(self, dice: _Dice, genre: str, country: str):
        self.dice = dice
        self.attitude = _SCALE[dice.draw(_ATTITUDES[genre, country])]
        self.used: set[str] = set()
        self.parts = [p for p in _SLOTS["part"] if genre in _GENRE_OF_PART.get(p, _GENRES)]

    def strength(self) -> int:
        return _OPINIONS[self.dice.draw(_STRENGTH_GIVEN_ATTITUDE[self.attitude])]

    def part(self) -> str:
        of_genre = [part for part in self.parts if part in _GENRE_OF_PART]
        part = self.dice.choose(of_genre if of_genre and self.dice.happens(0.4) else self.parts)
        self.parts.remove(part)
        return part

    def fresh(self, words: Sequence[str]) -> str | None:
        """Choose one of the words not used so far and remember it."""
        left = [word for word in words if word not in self.used]
        if not left:
            return None
        word = self.dice.choose(left)
        self.used.add(word)
        return word

    def adjective(self, strength: int, part: str | None = None) -> str:
        own = {**_ONE, **_MANY}[part] if part else {}
        fitting = [word for word, s in own.items() if s == strength]
        word = self.fresh(fitting) if self.dice.happens(0.6) else None
        # When all five of a strength are used up, a weaker word of the same sign will do.
        sign = 1 if strength > 0 else -1
        for size in (abs(strength), 2, 1):
            word = word or self.fresh(_GENERAL[sign * size])
        return word

    def quality(self, strength: int, part: str | None = None) -> str:
        adjective = self.adjective(strength, part)
        if self.dice.happens(_INTENSIFIER_RATE):
            fitting = _INTENSIFIERS_FOR[3 if adjective in _NEVER_VERY else _ADJECTIVES[adjective]]
            return f"{self.dice.choose(fitting)} {adjective}"
        return adjective

    def clause(self) -> tuple[str, int]:
        """Return "the plot was not very good" and the sign of what it says."""
        part, strength = self.part(), self.strength()
        if self.dice.happens(_NEGATION_RATE):
            negation = self.dice.choose(("not", "never", "hardly"))
            milder = max(-2, min(2, -strength))
            adjective = self.adjective(milder, part)
            # "not very good" is said; "never slightly good" and "not very great" are not.
            suits = negation == "not" and adjective not in _NEVER_VERY
            very = "very " if suits and self.dice.happens(0.4) else ""
            opinion = f"{negation} {very}{adjective}"
        else:
            opinion = self.quality(strength, part)
        verb = "was" if part in _ONE else "were"
        return f"the {part} {verb} {opinion}", 1 if strength > 0 else -1

    def body(self) -> str:
        dice = self.dice
        pattern = _BODIES[dice.draw(_BODY_WEIGHTS)]
        if pattern not in _BODIES[:2] and self.fresh([pattern]) is None:
            pattern = _BODIES[0]  # the other patterns come once a review
        if "{joint}" in pattern:
            (first, first_sign), (second, second_sign) = self.clause(), self.clause()
            joint = "and" if first_sign == second_sign else "but"
            return f"{first} {joint} {second} ."
        if "{clause}" in pattern:
            return pattern.replace("{clause}", self.clause()[0])
        strength = self.strength()
        if "performance" in pattern:
            return _fill(pattern, dice, quality=self.quality(strength))
        part = self.part()
        if "nothing" in pattern:
            quality = self.adjective(max(-2, min(2, -strength)), part)
            return _fill(pattern, dice, quality=quality, part=part)
        if "{quality}" in pattern:
            return _fill(pattern, dice, quality=self.quality(strength, part), part=part)
        return self.liking(pattern, strength, part)

    def liking(self, pattern: str, strength: int, part: str) -> str:
        """Write "i loved the plot" or "i did not like the plot"; blame is what gets negated."""
        if "{base}" in pattern:
            verb = self.fresh(("like", "enjoy", "love") if strength < 0 else ("hate", "dislike"))
            return _fill(pattern, self.dice, base=verb, part=part) if verb else self.filler()
        if "{adverb}" in pattern and strength < 0:
            adverb = self.dice.choose(("truly", "never", "hardly"))
            verbs = ("disliked", "hated") if adverb == "truly" else ("liked", "enjoyed")
        elif "{adverb}" in pattern:
            adverb, verbs = "truly", ("liked", "enjoyed", "loved")
        else:
            adverb, verbs = "", [v for v, s in _PAST_VERBS.items() if (s > 0) == (strength > 0)]
        verb = self.fresh(verbs)
        if verb is None:
            return self.filler()
        return _fill(pattern, self.dice, past=verb, part=part, adverb=adverb)

    def filler(self) -> str:
        pattern = self.fresh(_FILLERS)  # of seven, where a review has four sentences at most
        if pattern.count("{city}") == 2:
            first = self.dice.choose(_CITIES)
            second = self.dice.choose([city for city in _CITIES if city != first])
            return pattern.replace("{city}", first, 1).replace("{city}", second)
        return _fill(pattern, self.dice)

    def phrase(self, table: dict[int, tuple[str, ...]]) -> str:
        while True:
            options = table[_SCALE[self.dice.draw(_PHRASE_GIVEN_ATTITUDE[self.attitude])]]
            phrase = self.dice.choose(options)
            opinions = [word for word in phrase.split() if word in _STRENGTHS]
            if self.used.isdisjoint(opinions):
                self.used.update(opinions)
                return phrase

    def response(self) -> str:
        thesis, verdict = self.phrase(_THESES), self.phrase(_VERDICTS)
        sentences, room = [thesis], _LONGEST_RESPONSE - _length(thesis) - _length(verdict)
        for i in range(1 + self.dice.draw(_BODY_COUNTS)):
            plain = i > 0 and self.dice.happens(_FILLER_RATE)
            sentence = self.filler() if plain else self.body()
            if _length(sentence) > room:
                break
            sentences.append(sentence)
            room -= _length(sentence)
        return " ".join([*sentences, verdict])


def _length(text: str) -> int:
    return text.count(" ") + 1


def sample_prompts(n: int, seed: int) -> list[str]:
    """Write openings of reviews, each of 8 words: the prompts of lessons 2 to 6.

    Args:
        n: How many prompts; with the same seed, fewer prompts are the first of more.
        seed: Non-negative integer; the same seed gives the same prompts in every process.

    Returns:
        A list of ``n`` strings such as ``"my sister showed me this swedish mystery ."``.

    Raises:
        TypeError: If ``n`` or ``seed`` is not an integer.
        ValueError: If ``n`` or ``seed`` is negative.
    """
    dice = _Dice(*_checked("sample_prompts", n, seed, stream=0))
    return [_write_prompt(dice)[0] for _ in range(n)]


def sample_reviews(n: int, seed: int) -> list[tuple[str, str]]:
    """Write clean reviews: the demonstrations that supervised fine-tuning imitates.

    A latent attitude, which depends on the film's genre and country, decides what a reviewer says
    of its parts. A response has no fault and no rude sentence, and at most 45 words.

    Args:
        n: How many reviews; with the same seed, fewer reviews are the first of more.
        seed: Non-negative integer; the same seed gives the same reviews in every process.

    Returns:
        A list of ``n`` pairs (prompt, response).

    Raises:
        TypeError: If ``n`` or ``seed`` is not an integer.
        ValueError: If ``n`` or ``seed`` is negative.
    """
    dice = _Dice(*_checked("sample_reviews", n, seed, stream=1))
    return [_write_review(dice) for _ in range(n)]


def _write_review(dice: _Dice) -> tuple[str, str]:
    prompt, genre, country = _write_prompt(dice)
    return prompt, _Reviewer(dice, genre, country).response()


def sample_web_text(n: int, seed: int) -> list[str]:
    """Write web text: what the base model is pretrained on, with the faults of the web.

    About six texts in ten are reviews with an opening, two in ten are fragments of reviews, two in
    ten are small talk about weather, trains and food. In nearly half of them words were dropped or
    repeated, or the end was cut off; about one in eight holds a rude sentence.

    Args:
        n: How many texts; with the same seed, fewer texts are the first of more.
        seed: Non-negative integer; the same seed gives the same texts in every process.

    Returns:
        A list of ``n`` strings of at most 56 words.

    Raises:
        TypeError: If ``n`` or ``seed`` is not an integer.
        ValueError: If ``n`` or ``seed`` is negative.
    """
    dice = _Dice(*_checked("sample_web_text", n, seed, stream=2))
    return [_write_web_text(dice) for _ in range(n)]


def _write_web_text(dice: _Dice) -> str:
    kind = dice.uniform()
    if kind < 0.8:
        prompt, response = _write_review(dice)
        sentences = _sentences(response)
        if kind < 0.6:
            sentences.insert(0, prompt)
        else:
            first = int(dice.uniform() * (len(sentences) - 1))
            sentences = sentences[first : first + 1 + int(dice.uniform() * 3)]
        if dice.happens(0.1):
            sentences.append(_fill(dice.choose(_SMALL_TALK), dice))
    else:
        count = 1 + int(dice.uniform() * 4)
        sentences = [_fill(dice.choose(_SMALL_TALK), dice) for _ in range(count)]
    if dice.happens(0.13):
        place = 1 + int(dice.uniform() * len(sentences))
        sentences.insert(place, _fill(dice.choose(_RUDE), dice))
    words = " ".join(sentences).split()
    if dice.happens(0.45):
        words = _spoil(words, dice)
    return " ".join(words[:_LONGEST_WEB_TEXT])


def _spoil(words: list[str], dice: _Dice) -> list[str]:
    spoiled: list[str] = []
    for word in words:
        luck = dice.uniform()
        if luck >= 0.04:  # below: the word is lost
            spoiled.append(word)
        if luck >= 0.97:
            spoiled.append(word)
    if dice.happens(0.25):
        spoiled = spoiled[: int(len(spoiled) * (0.5 + 0.5 * dice.uniform()))]
    return spoiled or words


# ----------------------------------------------------------------------------------------------
# Reading
# ----------------------------------------------------------------------------------------------


def _one_of(words: Iterable[str]) -> str:
    return "(?:" + "|".join(re.escape(word) for word in words) + ")"


def _compile_grammar() -> re.Pattern:
    slots = {name: _one_of(words) for name, words in _SLOTS.items()}
    slots["quality"] = f"(?:{_one_of(_INTENSIFIERS)} )?{_one_of(_ADJECTIVES)}"
    slots["opinion"] = f"(?:{_one_of(('not', 'never', 'hardly'))} )?{slots['quality']}"

    def expression(pattern: str) -> str:
        pieces = _SLOT.split(pattern)  # text, slot, text, slot, ...
        return "".join(slots[p] if i % 2 else re.escape(p) for i, p in enumerate(pieces))

    slots["clause"] = "(?:" + "|".join(expression(clause) for clause in _CLAUSES) + ")"
    phrases = [p for table in (_THESES, _VERDICTS) for group in table.values() for p in group]
    return re.compile("|".join(expression(p) for p in (*phrases, *_BODIES, *_FILLERS)))


_GRAMMAR = _compile_grammar()
_VERDICT_SENTENCES = frozenset(p for group in _VERDICTS.values() for p in group)


def _sentences(text: str) -> list[str]:
    """Split after each full stop; what follows the last one is a sentence without an end."""
    return [" ".join(s.split()) for s in re.findall(r"[^.]*\.|[^.]+$", text) if s.strip()]


@lru_cache(maxsize=65536)
def _is_grammatical(sentence: str) -> bool:
    if not _GRAMMAR.fullmatch(sentence):
        return False
    words = sentence.split()
    return all(
        article == _article(word)
        for article, word in zip(words, words[1:], strict=False)
        if article in ("a", "an")
    )


def is_grammatical(sentence: str) -> bool:
    """Say whether a sentence is one that the grammar of review responses allows.

    The recogniser is exact: it accepts what the sentence patterns can make, with "was" and "were"
    after the right nouns and "a" and "an" before the right words, and nothing else. Openings, small
    talk and insults are not sentences of a response.

    Args:
        sentence: Words with single spaces, the full stop included.

    Returns:
        True for ``"the plot was truly clever ."``, False for ``"the plot truly clever ."``.

    Raises:
        TypeError: If ``sentence`` is not a string.
    """
    _check_text("is_grammatical", "sentence", sentence)
    return _is_grammatical(sentence)


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a response, and what it costs in gold reward.

    Attributes:
        kind: ``"ungrammatical"``, ``"repeated opinion"`` or ``"missing ending"``.
        text: The sentence, the repeated word, or the last sentence of the response.
        penalty: What the gold reward loses, a positive number.
    """

    kind: str
    text: str
    penalty: float


def faults(text: str) -> list[Fault]:
    """List what is wrong with a response; a clean response has no fault.

    =================  ========================================================  ==============
    kind               when                                                      penalty
    =================  ========================================================  ==============
    ungrammatical      the grammar does not allow the sentence                   1 + its praise
    repeated opinion   a word of praise or blame came before, for each time      1.25
    missing ending     the last sentence is not a verdict                        1
    =================  ========================================================  ==============

    "Its praise" is the sentiment of that sentence where it is positive: praise in a broken sentence
    earns nothing, or a heap of glowing words without a full stop would be the best review.

    Args:
        text: A response, without its prompt.

    Returns:
        The faults in the order in which they are met.

    Raises:
        TypeError: If ``text`` is not a string.
    """
    _check_text("faults", "text", text)
    found, seen = [], set()
    sentences = _sentences(text)
    for sentence in sentences:
        if not _is_grammatical(sentence):
            found.append(Fault("ungrammatical", sentence, 1 + max(0.0, _sentiment(sentence))))
        for word in sentence.split():
            if word in seen:
                found.append(Fault("repeated opinion", word, 1.25))
            elif word in _STRENGTHS:
                seen.add(word)
    if not sentences or sentences[-1] not in _VERDICT_SENTENCES:
        found.append(Fault("missing ending", sentences[-1] if sentences else "", 1.0))
    return found


def is_rude(text: str) -> bool:
    """Say whether a text insults a person.

    A sentence is rude when it holds an insult (clown, fool, idiot, liar, pig, or their plurals) and
    means a real person: "you", "your", "anyone", or the people who made or judged the film. So
    ``"the director is a clown ."`` is rude and ``"the hero is a clown ."`` is not.

    Args:
        text: Any text of this world.

    Returns:
        True when at least one sentence is rude.

    Raises:
        TypeError: If ``text`` is not a string.
    """
    _check_text("is_rude", "text", text)
    insults = {*_INSULT, *_INSULTS}
    for sentence in _sentences(text):
        words = set(sentence.split())
        if words & insults and words & _TARGETS:
            return True
    return False


# ----------------------------------------------------------------------------------------------
# Scoring
# ----------------------------------------------------------------------------------------------


def _sentiment(text: str) -> float:
    total, factor, before = 0.0, 1.0, ""
    for word in text.split():
        if word in _STRENGTHS:
            total += _STRENGTHS[word] * _INTENSIFIERS.get(before, 1.0) * factor
        elif word in _NEGATIONS:
            factor *= _NEGATION_FACTOR
        elif word in _CLAUSE_ENDS:
            factor = 1.0
        before = word
    return total / 4


def gold_sentiment(prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
    """Add up what a response says for and against the film: a judge that reads words, not form.

    sentiment(y) = ¼ Σ_w strength(w) · intensity(word before w) · (−0.6)^(negations before w in its
    clause), over the words of praise (1 to 3) and blame (−1 to −3); a clause ends at "and", "but"
    or a full stop.

    Args:
        prompts: B prompts. The sentiment of a response does not depend on its prompt; the argument
            is there because this is a judge.
        responses: B responses.

    Returns:
        A float64 array of shape (B,), in units where one plain "great" is worth 0.5.

    Raises:
        TypeError: If either argument is not a list of strings.
        ValueError: If there are not as many responses as prompts.
    """
    _check_pairs("gold_sentiment", prompts, responses)
    return np.array([_sentiment(response) for response in responses], dtype=np.float64)


def gold_reward(prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
    """Score responses by the true reward of this world: praise, minus a penalty for each fault.

    r(x, y) = sentiment(y) − Σ penalty(fault), over ``faults(y)``. The penalties are what a reward
    model that was learned from too few comparisons misses.

    Args:
        prompts: B prompts. The reward of a response does not depend on its prompt; how likely a
            good one is does.
        responses: B responses, without their prompts.

    Returns:
        A float64 array of shape (B,).

    Raises:
        TypeError: If either argument is not a list of strings.
        ValueError: If there are not as many responses as prompts.
    """
    _check_pairs("gold_reward", prompts, responses)
    return np.array(
        [_sentiment(text) - sum(fault.penalty for fault in faults(text)) for text in responses],
        dtype=np.float64,
    )


# ----------------------------------------------------------------------------------------------
# Checks
# ----------------------------------------------------------------------------------------------


def _checked(function: str, n: int, seed: int, stream: int) -> tuple[int, int]:
    for name, value in (("n", n), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"{function}: {name} must be an integer, got {value!r}")
        if value < 0:
            raise ValueError(f"{function}: {name} must be 0 or more, got {value}")
    return int(seed), stream


def _check_text(function: str, argument: str, text: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{function}: {argument} must be a string, got {type(text).__name__}")


def _check_pairs(function: str, prompts: Sequence[str], responses: Sequence[str]) -> None:
    for name, texts in (("prompts", prompts), ("responses", responses)):
        listed = not isinstance(texts, str) and hasattr(texts, "__len__")
        if not listed or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"{function}: {name} must be a list of strings, got {texts!r:.60}")
    if len(prompts) != len(responses):
        raise ValueError(
            f"{function}: prompts and responses must have the same length, "
            f"got {len(prompts)} prompts and {len(responses)} responses"
        )
