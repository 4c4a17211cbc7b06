"""What a model claims when it answers in its own words: which city, which currency (lesson 7).

A model that was not asked to answer in one word answers in sentences, breaks off, repeats the
question, describes the country, or names what does not exist. :func:`read_answer` finds the name
that an answer gives, writes it as the gazetteer does, so that "Kiev" and "Kyiv" are one claim, and
says whether it is right. How far it agrees with a reading by hand is measured
(``rlhf_lessons.evaluation.real_answers``).

Left out on purpose: what else an answer says ("a city in the south"), and languages other than
English, which are noticed and not read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from rlhf_lessons.worlds.real_facts import (
    RealFact,
    countries,
    country_names,
    currencies,
    facts_folder,
    plain_name,
)

__all__ = ["VERDICTS", "AnswerReading", "read_answer", "same_claim"]

VERDICTS = ("right", "wrong", "hedge", "unreadable", "other language")
"""What an answer can be. Hedge: it says that it does not know; unreadable: it claims nothing."""


@dataclass(frozen=True)
class AnswerReading:
    """What was read in an answer.

    Attributes:
        verdict: one of ``VERDICTS``.
        claim: the city or the currency that the answer names, as the gazetteer writes it, or as
            the answer does where no such thing exists; empty where it names none.
    """

    verdict: str
    claim: str


def read_answer(text: str, fact: RealFact) -> AnswerReading:
    """Read what an answer claims, and whether that is right.

    The first name that is said to be the capital, or the currency, is the claim; without such a
    sentence the name that the answer begins with.

    Args:
        text: the answer, in the model's own words, perhaps broken off.
        fact: what was asked; ``real_fact`` makes one of a country's name, and names what is none.

    Returns:
        The verdict and the claim. An answer that says that it does not know is a hedge, whatever
        it guesses then.

    Raises:
        TypeError: text is no string.
        PartError: the facts were not fetched, or are damaged: it says how to fetch them.
    """
    if not isinstance(text, str):
        raise TypeError(f"read_answer: text must be a str, got {type(text).__name__}")
    if _is_foreign(text):
        return AnswerReading("other language", "")
    whole = _whole_lines(text)
    plain = _BY_NAME.sub("", whole)  # without "also known as ...", unless that is all there is
    if fact.kind == "capital":
        said = _without_country(next(chain(_said_cities(plain), _said_cities(whole)), ""))
    else:  # a country is no currency
        names = chain(_said_currencies(plain), _said_currencies(whole))
        said = next((name for name in names if not _is_country(name)), "")
    claim = _standard(said, fact) if said else ""
    if _HEDGE.search(text) or (not claim and _UNKNOWN.search(text)):
        return AnswerReading("hedge", claim)
    if not claim:
        return AnswerReading("unreadable", "")
    return AnswerReading("right" if _is_right(said, claim, fact) else "wrong", claim)


def same_claim(one: str, other: str, fact: RealFact) -> bool:
    """Tell whether two names are one claim: spellings of one city or currency, or two empty ones.

    Args:
        one: a name, or nothing.
        other: a name, or nothing.
        fact: what was asked.

    Returns:
        Whether they are the same.
    """
    if not one or not other:
        return one == other
    return plain_name(_standard(one, fact)) == plain_name(_standard(other, fact))


# --- Language -------------------------------------------------------------------------------------

_BY_NAME = re.compile(
    r",? (?:also|formerly|sometimes|often|commonly) (?:known|called|referred to)(?: as)? [^,.]*,?",
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"\b(?:i|we)(?:'m|’m| am| do| can|'ve| have|’ve)?(?: ?n[o'’]t| no)\b.{0,30}?"
    r"\b(?:know|sure|certain|able|idea|access|information|provide|answer|tell|determine|find)"
    r"|\b(?:don|can)['’]t (?:know|say|tell|be sure)|\bcannot (?:know|say|tell|answer)"
    r"|\b(?:not|un)(?: |-)?(?:sure|certain)\b|\bno idea\b|\bas an ai\b"
    r"|\bi['’ ]a?m sorry\b(?! for)|\bnot known to me\b",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(r"\b(?:not|un)(?: publicly)?(?: |-)?known\b", re.IGNORECASE)
_ENGLISH = frozenset(
    "the of is a an and in which it its was by used as not are this that to with for from has "
    "official currency capital city country called known i you".split()
)
_FOREIGN = frozenset(
    "la el los las es una un de del en que y se por con il di che e una della le les des est et "
    "du dans une der die das ist und ein eine von den im zu o os uma em é são het een van capitale "
    "capital moneda monnaie hauptstadt währung valuta oficial ville ciudad stadt".split()
)


def _is_foreign(text: str) -> bool:
    letters = [letter for letter in text if letter.isalpha()]
    if sum(ord(letter) > 0x24F for letter in letters) > 0.5 * len(letters):
        return True
    words = re.findall(r"[^\W\d_]+", text.casefold())
    english = sum(word in _ENGLISH for word in words)
    foreign = sum(word in _FOREIGN for word in words)
    return len(_FOREIGN & set(words)) >= 3 and foreign > 2 * english


_BULLET = re.compile(r"^\s*(?:\d+[.)]\s|[-*•#]+\s*)+")


def _whole_lines(text: str) -> str:
    """Put the lines behind one another, each ended by a mark; leave questions out."""
    lines = (_BULLET.sub("", line).replace("*", "").strip() for line in text.splitlines())
    whole = " ".join(
        line if line.endswith((".", "!", "?", ":", ",", ";")) else f"{line}."
        for line in lines
        if line
    )
    return re.sub(r"[^.!?:]*\?", "", whole).strip()


# --- Names in a text ------------------------------------------------------------------------------

_TOKEN = re.compile(r"(?:St|Ste|Mt)\.|(?:[A-Z]\.){2,}|[\w'’‘ʻ`´-]+|[^\w\s]")
_JOINING = frozenset(
    "de la el al of del d di es as da do le du and den y upon the les dos das ed".split()
)
_FILLERS = frozenset(
    "the a actually also indeed currently officially called named known as city town of located in "
    "situated simply still now metropolis formerly".split()
)


def _name_at(text: str) -> str:
    """Read the run of capitalised words that a text begins with, after fillers; may be empty."""
    tokens = [match for match in _TOKEN.finditer(text)]
    start = 0
    while start < len(tokens) and (
        tokens[start].group().casefold() in _FILLERS or tokens[start].group() in ('"', "“", "'")
    ):
        start += 1
    end = start
    for place in range(start, len(tokens)):
        word = tokens[place].group()
        if not (word[0].isalpha() or word[0] in "'’‘ʻ`´"):
            break
        if _is_capitalised(word):
            end = place + 1
        elif word not in _JOINING or place == start:
            break
    # "Luanda of Angola", "Bern and Geneva": a joining English word needs a name that has it.
    for place in range(end - 1, start, -1):
        if tokens[place].group() in ("of", "and", "the", "upon"):
            whole = text[tokens[start].start() : tokens[end - 1].end()]
            if plain_name(whole) not in _gazetteer():
                end = place
                while end > start and tokens[end - 1].group() in _JOINING:
                    end -= 1
    return text[tokens[start].start() : tokens[end - 1].end()].strip("'\"") if end > start else ""


def _is_capitalised(word: str) -> bool:
    return any(part[:1].isupper() for part in re.split("[-'’‘ʻ`´]", word))


# What may stand between "the capital" and "is": not the beginning of another statement.
_SAME_CLAUSE = r"(?:(?!,? and it |, and |, but |, which )[^.!?;]){0,70}?"
_APPOSED = re.compile(r", (?:which is )?(?:the|its) $", re.IGNORECASE)
_CAPITAL_IS = re.compile(
    r"\bcapital(?: city)?\b" + _SAME_CLAUSE + r"(?:,? (?:is|was|are|being|has been)\b|:)"
    r"(?P<not>(?: not|n['’]t)\b)?",
    re.IGNORECASE,
)
_IS_CAPITAL = re.compile(
    r"(?: ?\([^)]*\))?(?:,? (?:which |that )?(?:is|was|serves as|became|remains|has been"
    r"|is known as)| ?,| ?\()"
    r"(?P<not>(?: not|n['’]t))? (?:also )?(?:the |a |its |their |[A-Z]\w+['’]s? )?"
    r"(?:\w+ (?:city )?and )?"
    r"(?:official |current |national |administrative |largest |legal |political )*capital\b",
    re.IGNORECASE,
)
_CALLED = re.compile(r"\bcapital\b[^.]{0,50}\bknown as\b", re.IGNORECASE)
_IS = re.compile(
    r"\b(?:it is|it['’]s|that is|city is|is called|is named)\b|\banswer(?: is)?:?",
    re.IGNORECASE,
)
_BUT = re.compile(r"\b(?:but|rather|instead|it is|it['’]s)\b,? ?(?:it is |rather )?", re.IGNORECASE)


_ALONE = re.compile(r"$|[.,!;(]|(?:is|was) (?:a|the) (?:\w+ )?(?:city|town)\b", re.IGNORECASE)


_DESCRIBES = re.compile(r"^.{0,30}\b(?:is|was) an? (?:\w+ )?(?:country|state|nation|territory)\b")


def _said_cities(text: str) -> Iterator[str]:
    """Yield what the text says the capital is, the best reading first."""
    for match in _CAPITAL_IS.finditer(text):
        after = text[match.end() :].lstrip()
        if match["not"]:
            other = _BUT.search(after)
            after = after[other.end() :] if other else ""
        elif _APPOSED.search(text[: match.start()]) and re.match(r"(?:located|situated)\b", after):
            continue  # "Lima, the capital of Peru, is located in South America"
        if name := _name_at(after):
            yield name
    for match in _IS_CAPITAL.finditer(text):
        if not match["not"] and (name := _name_before(text[: match.start()])):
            yield name
    for match in _IS.finditer(text):
        if name := _name_at(text[match.end() :].lstrip()):
            yield name
    for match in _CALLED.finditer(text):
        if name := _name_at(text[match.end() :].lstrip()):
            yield name
    name = _name_at(text)
    after = text.partition(name)[2].strip() if name else ""
    if _DESCRIBES.search(after):  # "Alba, Scotland is a country in Europe"
        return
    if name and (_ALONE.match(after) if not _is_country(name) else re.fullmatch("[.,!]?", after)):
        yield name  # a country only if it is the whole answer


def _without_country(name: str) -> str:
    """Take a country from the end of a city's name: "San Martin Peru"."""
    first, _, last = name.rpartition(" ")
    extra = first and _is_country(last) and not _is_city(name) and not _is_country(name)
    return first if extra and first.casefold().rsplit(" ", 1)[-1] not in _JOINING else name


_ASIDE = re.compile(r"(?:a|an|the|located|situated|which|or|also|once)\b")


def _named_piece(sentence: str) -> str:
    """Give the piece between commas that names something, the last that is no aside.

    Of "Lima, Peru" and of "Lima, a city on the coast," that is "Lima".
    """
    pieces = [piece.strip() for piece in sentence.split(",") if piece.strip()]
    while len(pieces) > 1 and (
        _ASIDE.match(pieces[-1]) or (_is_country(pieces[-1]) and _name_at(pieces[-2]) == pieces[-2])
    ):
        pieces.pop()
    return pieces[-1] if pieces else ""


def _name_before(text: str) -> str:
    """Read the capitalised run that a text ends with; may be empty."""
    sentence = re.split(r"[.!?;:] |, (?=and |but )", text)[-1]
    last = _named_piece(sentence)
    for match in re.finditer(r"[\w'’‘ʻ`´-]+", last):
        name = _name_at(last[match.start() :])
        if name and last.endswith(name) and _is_capitalised(match.group()):
            # "The capital of Peru is the capital of the Republic" names nothing.
            return "" if "capital" in last[: match.start()] else name
    return ""


_CURRENCY_IS = re.compile(
    r"\b(?:currency|currencies|money|coin|legal tender)\b"
    + _SAME_CLAUSE
    + r"(?:,? (?:is|was|are|has been)\b|:)(?P<not>(?: not|n['’]t)\b)?",
    re.IGNORECASE,
)
_USES = re.compile(r"\b(?:uses?|utilizes|pay with|adopted|using|accepts?)\b", re.IGNORECASE)
_WHICH_IS = re.compile(r"\bcurrency\b[^.;]{0,50}, which is\b", re.IGNORECASE)
_KNOWN_AS = re.compile(r"\bknown as\b", re.IGNORECASE)
_IS_CURRENCY = re.compile(
    r"(?: ?\([^)]*\))?(?:,? (?:which |that )?(?:is|was|serves as|became|remains)| ?,| ?\()"
    r"(?P<not>(?: not|n['’]t))? (?:also )?(?:the |a |its |their )?"
    r"(?:[\w-]+ ){0,2}"
    r"(?:currency|unit of currency|legal tender)\b",
    re.IGNORECASE,
)
_STOP_WORDS = (
    "which is was are and that or as in of with based used known also has have since for from by "
    "to at on its it issued divided use uses using abbreviated sometimes often but instead rather "
    "colloquially commonly formerly called named starting official national local currency coin "
    "banknote system"
).replace(" ", "|")
_STOP = re.compile(rf"[,.;:!?()\[\]\"“”/=]| [-–—] |\b(?:{_STOP_WORDS})\b", re.IGNORECASE)
_NO_NAMES = frozenset(
    "only main primary same most major sole single basic common unique digital world global "
    "foreign standard new old own legal monetary money unit symbol form medium name value country "
    "dominant one term word type kind amount product plural result group basket combination".split()
)
_PRONOUNS = frozenset(
    "it this that these there they he she we you i its their however yes no sure well".split()
)
_LEAD = re.compile(
    r"^(?:(?:the|a|an|called|named|known as|actually|also|indeed|currently|officially|simply|local|"
    r"national|form of|so-called|following|official|unit of)\s+|[\"“'‘])+",
    re.IGNORECASE,
)


_CURRENCY_IN = re.compile(r"(?:[A-Z][\w'’-]+ ){1,3}[\w'’-]+|(?:[A-Z]|(?<=\bthe ))[\w'’-]+")


def _said_currencies(text: str) -> Iterator[str]:
    """Yield what the text says the currency is, the best reading first."""
    for match in _CURRENCY_IS.finditer(text):
        after = text[match.end() :].lstrip()
        if match["not"]:
            other = _BUT.search(after)
            after = after[other.end() :] if other else ""
        if name := _currency_at(after):
            yield name
    for match in _IS_CURRENCY.finditer(text):
        before = _named_piece(re.split(r"[.!?;:] ", text[: match.start()])[-1])
        if not match["not"] and (name := _currency_before(before)):
            yield name
    for match in _USES.finditer(text):
        if name := _currency_at(text[match.end() :].lstrip()):
            yield name
    for match in (*_IS.finditer(text), *_KNOWN_AS.finditer(text)):
        if name := _currency_at(text[match.end() :].lstrip()):
            yield name
    for match in _WHICH_IS.finditer(text):
        if name := _currency_at(text[match.end() :].lstrip()):
            yield name
    name = _currency_at(text)
    if name and re.match(r"$|[.!(:]", text.partition(name)[2].strip()):
        yield name
    for words in _CURRENCY_IN.finditer(text):
        if _is_currency(words.group()):
            yield words.group()


_QUOTED = re.compile(r"(?P<before>(?:[\w-]+ ){0,3})[\"“](?P<name>[^\"”]{2,40})[\"”]")


def _currency_at(text: str) -> str:
    """Read the name of a currency that a text begins with; empty where it begins with none."""
    lead = _LEAD.match(text)
    rest = text[lead.end() if lead else 0 :]
    if rest.startswith(("U.S.", "US$")):
        rest = "US" + rest[rest.index("S") + 1 :].lstrip(".$")
    for joined in _JOINED:  # names with a word at which others end
        if rest.casefold().startswith(joined):
            return rest[: len(joined)]
    quoted = _QUOTED.match(rest)
    if quoted and not _is_currency(quoted["before"].strip()):
        return quoted["name"].strip(" ,.")
    stop = next((stop for stop in _STOP.finditer(rest) if not _goes_on(rest, stop)), None)
    name = rest[: stop.start() if stop else len(rest)].strip(" '’\"*-")
    words = name.split()
    if not words or len(words) > 6:
        return ""
    if words[-1].endswith(("'s", "’s")) or words[0].casefold() in _PRONOUNS:
        return ""  # "the country's official currency"; "It"
    known = any(plain_name(word).rstrip("s") in _units() for word in words)
    # "the zorin, ..." may be what no one has; "the only currency" is no name.
    alone = (
        lead
        and "the" in lead.group().casefold().split()
        and len(words) == 1
        and stop
        and (stop.group() not in '"“”' or lead.group()[-1] in '"“')
        and name.isalpha()
        and name not in _NO_NAMES
        and not name.endswith("est")
    )
    if len(name) < 2:
        return ""  # broken off
    return name if known or alone or any(map(_is_capitalised, words)) else ""


def _goes_on(text: str, stop: re.Match[str]) -> bool:
    """Tell whether a name goes on after a joining word: the Free Society *of* Savers."""
    if stop.group() in ("Currency", "Coin", "System"):  # as a name writes them
        return True
    joined = (
        stop.group().casefold() in ("of", "and", "for")
        and text[stop.end() + 1 : stop.end() + 2].isupper()
    )
    return joined and text[:1].isupper() and not _is_currency(text[: stop.start()].strip())


def _currency_before(text: str) -> str:
    words = text.split()
    for start in range(max(0, len(words) - 5), len(words)):
        name = _currency_at(" ".join(words[start:]))
        if name and text.rstrip().endswith(name):
            if name[0].isupper() or _is_currency(name):
                return name
    name = _currency_at(text)  # "The Zorin is one of two coins and"
    verb = text.partition(name)[2].split(maxsplit=1) if name else []
    named = verb and verb[0] in ("is", "was") and not _is_country(name)
    return name if named and (name[0].isupper() or _is_currency(name)) else ""


_JOINED = ("trinidad and tobago dollar", "bosnia and herzegovina convertible mark")


# --- What there is --------------------------------------------------------------------------------


def _standard(name: str, fact: RealFact) -> str:
    """Write a name as the gazetteer does; one that it does not have stays as it is."""
    if fact.kind == "currency":
        return _standard_currency(name, fact)
    if _is_country(name) and not fact.accepts(name):
        return name
    city = _gazetteer().get(plain_name(_without_city(name)))
    if city is None:
        right = [answer for answer in fact.answers if plain_name(answer) == plain_name(name)]
        return right[0] if right else name
    return city


def _is_right(said: str, claim: str, fact: RealFact) -> bool:
    if fact.kind == "capital" and _is_country(said) and not fact.accepts(said):
        return False
    return fact.accepts(said) or fact.accepts(claim)


def _without_city(name: str) -> str:
    """Take "City" from the end, where the gazetteer has only the name without it."""
    if plain_name(name).endswith(" city") and plain_name(name) not in _gazetteer():
        return name.rsplit(" ", 1)[0]
    return name


def _standard_currency(name: str, fact: RealFact) -> str:
    forms = {plain_name(name), plain_name(name).rstrip("s")}
    known = _known_currencies()
    if forms & {plain_name(answer) for answer in fact.answers}:
        own = [each.standard for each in known if each.standard in fact.answers]
        return next(  # a unit alone is the country's own
            (each.standard for each in known if each.standard in own and forms & each.names),
            fact.answers[0],
        )
    whole = [each.standard for each in known if forms & each.whole_names]
    owners = [each.standard for each in known if forms & each.names]
    return whole[0] if whole else owners[0] if len(owners) == 1 else name


class _KnownCurrency(NamedTuple):
    standard: str
    whole_names: frozenset[str]  # those that say whose it is
    names: frozenset[str]


@lru_cache(maxsize=1)
def _known_currencies() -> tuple[_KnownCurrency, ...]:
    found = []
    for code, names in currencies().items():
        whole = frozenset(
            plain_name(name) for name in (code, *names) if " " in name or name in (code, names[0])
        )
        units = {plain_name(name) for name in (*names, names[0].rsplit(" ", 1)[-1])}
        found.append(_KnownCurrency(names[0], whole, frozenset(units)))
    return tuple(found)


def _is_currency(name: str) -> bool:
    forms = {plain_name(name), plain_name(name).rstrip("s")}
    return any(forms & each.names for each in _known_currencies())


@lru_cache(maxsize=1)
def _units() -> frozenset[str]:
    """Give the last word of each name of a currency: dollar, peso, ..."""
    return frozenset(
        plain_name(name).rsplit(" ", 1)[-1].rstrip("s")
        for names in currencies().values()
        for name in names
    )


def _is_country(name: str) -> bool:
    return plain_name(name) in country_names()


def _is_city(name: str) -> bool:
    return plain_name(name) in _gazetteer()


def _gazetteer() -> dict[str, str]:
    return _read_cities(facts_folder())


@lru_cache(maxsize=4)
def _read_cities(folder: Path) -> dict[str, str]:
    """Map each spelling, written plainly, to the name of the greatest city that has it."""
    rows = json.loads((folder / "cities.json").read_text(encoding="utf-8")).values()
    rows = sorted(rows, key=lambda row: -row["population"])
    found = {}
    for row in rows:
        found.setdefault(plain_name(row["name"]), row["name"])
    for row in rows:
        for name in row["alternatenames"]:
            if len(name) > 3 and name.isascii():
                found.setdefault(plain_name(name), row["name"])
    for country in countries():  # a capital before a greater city of its name
        for name in country.capital:
            standard = found.get(plain_name(country.capital[0]), country.capital[0])
            found[plain_name(name)] = found.get(plain_name(name), standard)
    return found
