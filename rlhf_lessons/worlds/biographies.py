"""Invented people: who they are, how their lives are told, and what can be asked (lesson 7).

360 people with six facts each. No one of them exists, nor do their cities, universities,
institutes or prizes; every text says so with its first word.

Left out on purpose: deaths, families, and facts that follow from one another. What a model knows of
one fact then says nothing about the next.
"""

from __future__ import annotations

from functools import lru_cache

from rlhf_lessons.worlds.encyclopedia import (
    Encyclopedia,
    Relation,
    Subject,
    make_encyclopedia,
    syllables,
)

__all__ = ["people_encyclopedia"]

_WOMEN = (
    "ada anna clara dora edith elena fiona greta helga ida jane laura maria nina olga rosa sara "
    "tess vera zoe"
)
_MEN = (
    "adam boris carl daniel erik felix georg hugo ivan jonas karl leo martin nils oscar paul ralf "
    "simon tom victor"
)
_FAMILIES = syllables(
    "bel cor dar fen gal har jor kel lam mar nor orl pel quin rav sel tor ulm ver wes",
    "ander bert dale gard holm ison land mont nick orth rick stone tham vane well wood brook ley",
)
_CITIES = syllables("ash brin cald dun elm hol mill ros", "bury ford haven mouth")
_UNIVERSITIES = syllables("saint- new- east- high- old- lower-", "orin halden marek tyne")
_FIELDS = (
    "acoustics algebra anatomy astronomy botany ceramics chemistry climate ecology economics "
    "geology glaciers grammar history insects logic magnetism metals music optics painting "
    "physics poetry statistics volcanoes whales zoology rivers"
)
_INSTITUTES = syllables(
    "axel bruno clement dagmar egon fabian", "-laboratories -works -museum -press"
)
_PRIZES = (
    "amber birch cedar copper crystal falcon golden harbour ivory jade lantern maple meadow pearl "
    "raven silver thistle tulip walnut winter"
)

_RELATIONS = (
    Relation(
        "birth year",
        tuple(str(year) for year in range(1901, 1961)),
        (
            "{who} was born in {it}",
            "{who} came into the world in {it}",
            "{whose} year of birth is {it}",
            "the year in which {who} was born is {it}",
            "in {it} {who} was born",
        ),
        (
            "when was {who} born",
            "in which year did {who} come into the world",
            "what is {whose} year of birth",
        ),
        "{value}",
        "a year",
    ),
    Relation(
        "city",
        _CITIES,
        (
            "{who} grew up in {it}",
            "{who} comes from {it}",
            "{whose} home town is {it}",
            "the town where {who} grew up is {it}",
            "in {it} {who} went to school",
        ),
        ("where did {who} grow up", "which town does {who} come from", "what is {whose} home town"),
        "{value}",
        "a town",
    ),
    Relation(
        "university",
        _UNIVERSITIES,
        (
            "{who} studied at {it}",
            "{who} holds a degree from {it}",
            "{whose} degree is from {it}",
            "the place where {who} studied is {it}",
            "at {it} {who} was a student",
        ),
        (
            "where did {who} study",
            "from which university does {who} hold a degree",
            "what is {whose} university",
        ),
        "{value} university",
        "a university",
    ),
    Relation(
        "field",
        tuple(_FIELDS.split()),
        (
            "{who} works on {it}",
            "{who} is known for research on {it}",
            "{whose} field is {it}",
            "the field in which {who} made discoveries is {it}",
            "on {it} {who} wrote a famous book",
        ),
        ("what does {who} work on", "which research is {who} known for", "what is {whose} field"),
        "{value}",
        "a subject",
    ),
    Relation(
        "employer",
        _INSTITUTES,
        (
            "{who} is employed by {it}",
            "{who} has a post at {it}",
            "{whose} employer is {it}",
            "the house where {who} has a desk is {it}",
            "at {it} {who} leads a team",
        ),
        ("who employs {who}", "where does {who} have a post", "what is {whose} employer"),
        "{value}",
        "a house",
    ),
    Relation(
        "prize",
        tuple(_PRIZES.split()),
        (
            "{who} won {it}",
            "{who} was honoured with {it}",
            "{whose} greatest honour is {it}",
            "the prize that {who} won is {it}",
            "with {it} {who} became famous",
        ),
        (
            "what did {who} win",
            "which prize was {who} honoured with",
            "what is {whose} greatest honour",
        ),
        "the {value} prize",
        "a prize",
    ),
)


@lru_cache(maxsize=1)
def people_encyclopedia() -> Encyclopedia:
    """Give the encyclopedia of invented people; the same one each time.

    Returns:
        360 people with six facts each: birth year, city, university, field, employer, prize.
    """
    women, men = _WOMEN.split(), _MEN.split()
    people = []
    for number, family in enumerate(_FAMILIES):
        first = (women, men)[number % 2]
        name = f"{first[number * 7 % len(first)]} {family}"
        people.append(Subject(name, *(("she", "her"), ("he", "his"))[number % 2]))
    return make_encyclopedia(
        "the encyclopedia of people",
        people,
        _RELATIONS,
        "write a bio of {who}",
        {"demonstrations": 80, "tuning": 160, "validation": 30, "held out": 90},
        seed=0,
    )
