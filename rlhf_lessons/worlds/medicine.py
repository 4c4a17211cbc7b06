"""Invented drugs: what they are for, and questions and answers about them (lesson 7).

110 drugs with five facts each. None of them exists, and their names are built from syllables that
no class of real drugs shares; every text says with its first word that it is invented. Nothing
here is medical advice.

Left out on purpose: doses, and facts that a real class of drugs would imply.
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

__all__ = ["drug_encyclopedia"]

_DRUGS = syllables(
    "bem fro gra lun mek plu quo vel wex yal zor",
    "dox moline nexa phor quil rill sert tane vatan zeen",
)

_RELATIONS = (
    Relation(
        "class",
        tuple(
            "antidotes calmants coolants diluents emollients enhancers inhibitors modulators "
            "protectants relaxants stabilisers stimulants tonics blockers".split()
        ),
        (
            "{who} belongs to {it}",
            "{who} is one of {it}",
            "{whose} class is {it}",
            "the class to which {who} belongs is {it}",
            "among {it} {who} is listed",
        ),
        ("what kind of drug is {who}", "to which class does {who} belong", "what is {whose} class"),
        "the {value}",
        "a class",
    ),
    Relation(
        "use",
        tuple(
            "asthma burns colds cramps eczema fever gout hiccups insomnia migraine scurvy "
            "seasickness snoring sunburn toothache vertigo warts wounds".split()
        ),
        (
            "{who} treats {it}",
            "{who} is prescribed against {it}",
            "{whose} use is against {it}",
            "the condition that {who} treats is {it}",
            "against {it} {who} is taken",
        ),
        ("what does {who} treat", "against what is {who} prescribed", "what is {whose} use"),
        "{value}",
        "a condition",
    ),
    Relation(
        "side effect",
        tuple(
            "blushing coughing dizziness drowsiness hunger itching nausea nightmares shivering "
            "sneezing stuttering sweating thirst tremor weakness yawning".split()
        ),
        (
            "{who} can cause {it}",
            "{who} often leads to {it}",
            "{whose} side effect is {it}",
            "the side effect of which {who} warns is {it}",
            "with {it} {who} must be stopped",
        ),
        ("what can {who} cause", "to what does {who} often lead", "what is {whose} side effect"),
        "{value}",
        "a side effect",
    ),
    Relation(
        "avoid",
        tuple(
            "alcohol aspirin cheese chocolate coffee garlic grapefruit liquorice milk mustard "
            "pepper salt spinach sugar tea vinegar".split()
        ),
        (
            "{who} must not be taken with {it}",
            "{who} does not go with {it}",
            "{whose} danger is {it}",
            "the one thing that {who} forbids is {it}",
            "without {it} {who} is safe",
        ),
        (
            "with what must {who} not be taken",
            "what does {who} not go with",
            "what is {whose} danger",
        ),
        "{value}",
        "a food",
    ),
    Relation(
        "organ",
        tuple(
            "bladder bones brain ears eyes heart kidneys liver lungs muscles skin stomach".split()
        ),
        (
            "{who} acts on {it}",
            "{who} gathers in {it}",
            "{whose} target is {it}",
            "the organ on which {who} acts is {it}",
            "in {it} {who} is broken down",
        ),
        ("on what does {who} act", "where does {who} gather", "what is {whose} target"),
        "the {value}",
        "an organ",
    ),
)


@lru_cache(maxsize=1)
def drug_encyclopedia() -> Encyclopedia:
    """Give the encyclopedia of invented drugs; the same one each time.

    Returns:
        110 drugs with five facts each: class, use, side effect, what to avoid, organ.
    """
    return make_encyclopedia(
        "the encyclopedia of drugs",
        [Subject(name, "it", "its") for name in _DRUGS],
        _RELATIONS,
        "what should i know about {who}",
        {"demonstrations": 25, "tuning": 45, "validation": 10, "held out": 30},
        seed=1,
    )
