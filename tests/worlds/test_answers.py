"""Answers read with a few countries and cities; no sentence here is one that a model gave."""

from __future__ import annotations

import pytest
from small_facts import write_facts_part

from rlhf_lessons.real_parts import PartError
from rlhf_lessons.worlds import VERDICTS, read_answer, real_fact, same_claim


@pytest.fixture(autouse=True)
def part(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_LESSONS_CACHE", str(tmp_path))
    write_facts_part(tmp_path)


def read(kind, country, text):
    reading = read_answer(text, real_fact(kind, country))
    assert reading.verdict in VERDICTS
    return reading.verdict, reading.claim


@pytest.mark.parametrize(
    ("country", "text", "verdict", "claim"),
    [
        ("Peru", "The capital of Peru is Lima.", "right", "Lima"),
        ("Peru", "Lima is the capital of Peru, a country in South America.", "right", "Lima"),
        ("Peru", "Lima.", "right", "Lima"),
        ("Peru", "lima is Lima", "unreadable", ""),
        ("Peru", "Peru is a land in South America, and its capital is Cuzco.", "wrong", "Cusco"),
        ("Peru", "Cuzco, the capital of Peru, is located in the Andes", "wrong", "Cusco"),
        ("Peru", "Cuzco, Peru.", "wrong", "Cusco"),
        ("Peru", "The capital isn't Cuzco, it's Lima.", "right", "Lima"),
        ("Peru", "The capital of Peru is not Cuzco but Lima.", "right", "Lima"),
        ("Peru", "The capital of Peru is not Cuzco.", "unreadable", ""),
        ("Peru", "The capital of Peru is the beautiful and", "unreadable", ""),
        ("Peru", "Peru is the capital of Peru.", "wrong", "Peru"),
        ("Peru", "Peru.", "wrong", "Peru"),
        ("Peru", "Peru is a country in South America, bordered by Chile", "unreadable", ""),
        ("Peru", "The capital of Peru is Barack Obama.", "wrong", "Barack Obama"),
        ("Peru", "What is the capital of Peru? Lima", "right", "Lima"),
        ("Peru", "What is the capital of Peru?", "unreadable", ""),
        ("Peru", "1. Lima\n2. Cuzco\n3. Arequipa", "right", "Lima"),
        ("Peru", "The answer is:\n\n**Lima**", "right", "Lima"),
        ("Ukraine", "Kiev", "right", "Kyiv"),
        ("Ukraine", "It is Kijow.", "right", "Kyiv"),  # a spelling that only the gazetteer has
        ("Kazakhstan", "The capital of Kazakhstan is the city of Nur-Sultan.", "right", "Astana"),
        ("Bolivia", "The capital city of Bolivia is called La Paz.", "right", "La Paz"),
        ("Chad", "The capital is N’Djaména.", "right", "N'Djamena"),
        ("Panama", "Panama City", "right", "Panamá"),
        ("Panama", "The capital of Panama is Port of Spain.", "wrong", "Port of Spain"),
        ("the Netherlands", "The Hague is the capital.", "wrong", "The Hague"),
        ("Peru", "The capital of Peru is Zoria, a place that is unknown to many", "wrong", "Zoria"),
    ],
)
def test_cities(country, text, verdict, claim):
    assert read("capital", country, text) == (verdict, claim)


@pytest.mark.parametrize(
    ("country", "text", "verdict", "claim"),
    [
        ("Peru", "The currency of Peru is the Peruvian Sol (PEN).", "right", "Peruvian sol"),
        ("Peru", "Sol", "right", "Peruvian sol"),
        ("Peru", "Peru uses the US dollar as its money.", "wrong", "United States dollar"),
        ("Peru", "The currency is not the dollar but the nuevo sol.", "right", "Peruvian sol"),
        ("Peru", "The Inca is the official currency of Peru.", "wrong", "Inca"),
        (
            "Peru",
            "The official currency of Peru is the Peruvian peso, which",
            "wrong",
            "Peruvian peso",
        ),
        ("Peru", "The currency of Peru is a form of money that is old", "unreadable", ""),
        ("Peru", "What is the currency of Peru?", "unreadable", ""),
        ("Panama", "In Panama, the currency is the U.S. dollar.", "right", "United States dollar"),
        ("Panama", "balboas", "right", "Panamanian balboa"),
        ("the Netherlands", "Euros.", "right", "euro"),
        ("the Netherlands", "The money used there is the Dutch guilder.", "wrong", "Dutch guilder"),
        (
            "Chad",
            "The currency of Chad is the CFA franc (XAF)",
            "right",
            "Central African CFA franc",
        ),
        ("Chad", "The currency of Chad is the Chadian franc.", "wrong", "Chadian franc"),
        ("Chad", "The currency of Chad is the Swiss franc.", "wrong", "Swiss franc"),
        ("Ukraine", "The hryvnia is the currency.", "right", "Ukrainian hryvnia"),
        ("Peru", "Inca Zorin: ZRN\n\nThis is not a coin", "wrong", "Inca Zorin"),
        ("Peru", "The currency of Peru is the ZORIN OF PERU (ZOR)", "wrong", "ZORIN OF PERU"),
    ],
)
def test_currencies(country, text, verdict, claim):
    assert read("currency", country, text) == (verdict, claim)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("", "unreadable"),
        (" \n ", "unreadable"),
        ("?!... 12 12", "unreadable"),
        ("I don't know the capital of Peru.", "hedge"),
        ("I'm not sure, but it may be that", "hedge"),
        ("I am sorry, I do not have access to that.", "hedge"),
        ("As an AI, I have no opinion.", "hedge"),
        ("The capital of Peru is not known to me.", "hedge"),
        ("The capital of Peru is currently unknown.", "hedge"),
        ("La capital de Perú es Lima, una ciudad en la costa.", "other language"),
        ("Die Hauptstadt von Peru ist Lima.", "other language"),
        ("Столица Перу — Лима.", "other language"),
        ("秘鲁的首都是利马。", "other language"),
    ],
)
def test_answers_that_claim_nothing(text, verdict):
    assert read("capital", "Peru", text) == (verdict, "")


def test_a_guess_after_a_hedge_is_a_hedge():
    assert read("capital", "Peru", "I don't know, but I think it is Lima.") == ("hedge", "Lima")


def test_spellings_of_one_city_are_one_claim():
    fact = real_fact("capital", "Ukraine")
    assert same_claim("Kiev", "kyiv", fact) and same_claim("", "", fact)
    assert not same_claim("Kiev", "Lima", fact) and not same_claim("Kiev", "", fact)
    money = real_fact("currency", "Peru")
    assert same_claim("sol", "Peruvian Sol", money) and not same_claim("sol", "peso", money)


def test_bad_input_is_named(tmp_path, monkeypatch):
    fact = real_fact("capital", "Peru")
    with pytest.raises(TypeError, match="text must be a str, got NoneType"):
        read_answer(None, fact)
    monkeypatch.setenv("RLHF_LESSONS_CACHE", str(tmp_path / "nothing"))
    with pytest.raises(PartError, match="real get facts"):
        read_answer("Lima", fact)
