"""The facts come from a part that the test makes; the real ones are read where they are."""

from __future__ import annotations

import pytest
from small_facts import write_facts_part

from rlhf_lessons.real_parts import PartError, part_damage
from rlhf_lessons.worlds import (
    FACT_KINDS,
    PHRASINGS,
    plain_name,
    question,
    real_fact,
    real_facts,
)


@pytest.fixture
def part(tmp_path, monkeypatch):
    """The part of the facts, with a few countries."""
    monkeypatch.setenv("RLHF_LESSONS_CACHE", str(tmp_path))
    write_facts_part(tmp_path)


def subjects(facts):
    return [fact.subject for fact in facts]


def test_countries_with_people_the_most_populous_first(part):
    capitals = subjects(real_facts("capital"))
    assert capitals[:4] == ["Ukraine", "Peru", "Kazakhstan", "the Netherlands"]
    assert capitals[4:] == ["Chad", "Bolivia", "Panama", "Zedland"]
    # Only the capital of Israel is in dispute, not its money.
    assert set(subjects(real_facts("currency"))) == {*capitals, "Israel"}
    assert subjects(real_facts("capital", least_population=0))[-1] == "Tuvalu"


def test_both_kinds_split_alike_and_by_the_name_alone(part):
    for held_out in (True, False):
        halves = [set(subjects(real_facts(kind, held_out=held_out))) for kind in FACT_KINDS]
        assert halves[0] == halves[1] - {"Israel"}
        assert all(f.held_out == held_out for f in real_facts("capital", held_out=held_out))
    whole = real_facts("capital")
    parts = [real_facts("capital", held_out=side) for side in (True, False)]
    assert all(parts) and sorted(subjects(whole)) == sorted(subjects(parts[0] + parts[1]))


@pytest.mark.parametrize(
    ("kind", "subject", "right", "wrong"),
    [
        ("capital", "Kazakhstan", "Astana; ASTANA; Nur-Sultan; nur sultan", "Almaty; Kazakhstan"),
        ("capital", "Bolivia", "Sucre; La Paz", "Lima; Paz"),
        ("capital", "Chad", "N'Djamena; N’Djaména; ndjamena", "Moundou"),
        ("capital", "the Netherlands", "Amsterdam", "The Hague; Amster"),
        ("currency", "Chad", "the CFA franc; franc; Central African CFA franc", "Chadian franc"),
        ("currency", "Panama", "balboa; the US dollar; U.S. dollar", "peso"),
        ("currency", "Zedland", "zed", "euro"),
        ("currency", "the Netherlands", "Euro; euros", "guilder"),
    ],
)
def test_other_spellings_and_former_names_are_right(part, kind, subject, right, wrong):
    fact = real_fact(kind, subject)
    assert [name for name in right.split("; ") if not fact.accepts(name)] == []
    assert [name for name in wrong.split("; ") if fact.accepts(name)] == []
    assert fact in real_facts(kind)


def test_a_country_is_found_by_any_of_its_names(part):
    for name in ("Netherlands", "the netherlands", "Holland", " The Netherlands. "):
        assert real_fact("capital", name).subject == "the Netherlands"
    with pytest.raises(ValueError, match="must be a country .* got 'Kazakstan'; near it: Kazakhst"):
        real_fact("capital", "Kazakstan")
    with pytest.raises(ValueError, match="must be a country that GeoNames has, got 'Hong Kong'$"):
        real_fact("capital", "Hong Kong")
    with pytest.raises(ValueError, match="the capital of Israel is in dispute"):
        real_fact("capital", "Israel")


def test_a_question_names_the_country_as_english_does(part):
    for kind in FACT_KINDS:
        asked = {question(real_fact(kind, "Netherlands"), phrasing) for phrasing in range(3)}
        assert len(asked) == len(PHRASINGS[kind]) == 3
        assert all("the Netherlands" in each and kind in each for each in asked)
        assert not any("Amsterdam" in each or "euro" in each for each in asked)


def test_bad_input_is_named(part):
    with pytest.raises(ValueError, match="kind must be one of capital, currency, got 'river'"):
        real_facts("river")
    with pytest.raises(ValueError, match="kind must be one of capital, currency, got 'river'"):
        real_fact("river", "Chad")
    with pytest.raises(ValueError, match="least_population must be 0 or more, got -1"):
        real_facts("capital", least_population=-1)
    for phrasing in (-1, 3):
        with pytest.raises(ValueError, match=f"phrasing must be 0 to 2, got {phrasing}"):
            question(real_fact("capital", "Chad"), phrasing)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("N'Djaména", "ndjamena"),
        ("  Porto-Novo.", "porto novo"),
        ("The Hague", "hague"),
        ("the", "the"),
        ("Washington, D.C.", "washington d c"),
        ("Złoty", "zloty"),
        ("Tórshavn", "torshavn"),
        ("København", "kobenhavn"),
        ("Москва", "москва"),
        ("…", ""),
    ],
)
def test_plain_names(name, plain):
    assert plain_name(name) == plain == plain_name(plain)


def test_absent_facts_say_how_to_fetch_them(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_LESSONS_CACHE", str(tmp_path))
    with pytest.raises(PartError, match="python -m rlhf_lessons real get facts"):
        real_facts("capital")


@pytest.mark.skipif(bool(part_damage("facts")), reason="the real facts were not fetched")
def test_the_real_facts():
    capitals, currencies = real_facts("capital"), real_facts("currency")
    assert (len(capitals), len(currencies)) == (166, 168)
    # Half of 166; its standard error is 6.4.
    assert 70 < sum(fact.held_out for fact in capitals) < 96
    for fact in capitals + currencies:
        assert fact.population >= 500_000 and len(set(fact.answers)) == len(fact.answers)
        assert fact.answers[0] and fact.accepts(fact.answers[0])
        assert fact == real_fact(fact.kind, fact.subject)
    # What an atlas says.
    for kind, subject, answer in (
        ("capital", "Australia", "Canberra"),
        ("capital", "Ukraine", "Kiev"),
        ("capital", "Sri Lanka", "Colombo"),
        ("capital", "Colombia", "Bogota"),
        ("capital", "USA", "Washington DC"),
        ("currency", "Poland", "zloty"),
        ("currency", "Ecuador", "US dollar"),
        ("currency", "Croatia", "kuna"),
        ("currency", "Germany", "euro"),
        ("currency", "UK", "pound"),
        ("currency", "India", "Indian rupee"),
    ):
        assert real_fact(kind, subject).accepts(answer)
    assert not real_fact("currency", "Australia").accepts("US dollar")
    assert not real_fact("capital", "Turkey").accepts("Istanbul")
