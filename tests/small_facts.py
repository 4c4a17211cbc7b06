"""A part of real facts with a few countries and cities, in the place of what is fetched."""

from __future__ import annotations

import json
from pathlib import Path

from rlhf_lessons.real_parts import PARTS
from rlhf_lessons.whole_files import fingerprint

_COUNTRIES = (
    ("KZ", "Kazakhstan", "Nur-Sultan", "KZT", "Tenge", 18_000_000),
    ("NL", "The Netherlands", "Amsterdam", "EUR", "Euro", 17_000_000),
    ("BO", "Bolivia", "Sucre", "BOB", "Boliviano", 11_000_000),
    ("TD", "Chad", "N'Djamena", "XAF", "Franc", 15_000_000),
    ("PA", "Panama", "Panama City", "PAB", "Balboa", 4_000_000),
    ("PE", "Peru", "Lima", "PEN", "Sol", 32_000_000),
    ("UA", "Ukraine", "Kyiv", "UAH", "Hryvnia", 40_000_000),
    ("IL", "Israel", "Jerusalem", "ILS", "Shekel", 9_000_000),
    ("HK", "Hong Kong", "Hong Kong", "HKD", "Dollar", 7_000_000),
    ("TV", "Tuvalu", "Funafuti", "AUD", "Dollar", 11_000),
    ("AQ", "Antarctica", "", "", "", 0),
    ("ZZ", "Zedland", "Zedtown", "ZZZ", "Zed", 600_000),
)
_CITIES = (
    ("Lima", 7_700_000, ["Lima", "Лима"]),
    ("Cusco", 400_000, ["Cuzco", "CUZ"]),
    ("Kyiv", 2_800_000, ["Kiev", "Kijow", "Київ"]),
    ("Astana", 1_100_000, ["Nur-Sultan", "Akmola"]),
    ("La Paz", 800_000, []),
    ("Sucre", 220_000, []),
    ("The Hague", 500_000, ["Den Haag"]),
    ("Panamá", 400_000, ["Panama City", "Ciudad de Panama"]),
    ("Port of Spain", 49_000, []),
)


def write_facts_part(cache: Path) -> None:
    """Write the part into a cache folder: what GeoNames has of a few places, and one made up."""
    folder = cache / "facts"
    folder.mkdir()
    keys = ("iso", "name", "capital", "currencycode", "currencyname", "population")
    countries = {row[0]: dict(zip(keys, row, strict=True)) for row in _COUNTRIES}
    cities = {
        str(number): {"name": name, "population": people, "alternatenames": others}
        for number, (name, people, others) in enumerate(_CITIES)
    }
    (folder / "countries.json").write_text(json.dumps(countries))
    (folder / "cities.json").write_text(json.dumps(cities))
    files = {path.name: fingerprint(path) for path in folder.iterdir()}
    record = {"archive": PARTS["facts"].sha256, "files": files}
    (folder / "part.json").write_text(json.dumps(record))
