from __future__ import annotations

import csv
import html.parser
from importlib import resources

import pytest

from rlhf_lessons.classroom import glossary
from rlhf_lessons.classroom.glossary import Entry, Glossary, entries, read_entries

POLICY = Entry("policy", "The chance of each action.", "π(a|s)", 1, "策略", "chính sách")
RETURN = Entry("return", "The sum of rewards, discounted.", "x_<t>", 1, "回报", "đường về")
DIVERGENCE = Entry("KL divergence", "How far apart.", "KL(p‖q)", 2, "KL散度", "phân kỳ KL")
ALL = [POLICY, RETURN, DIVERGENCE]


class Cells(html.parser.HTMLParser):
    """The texts of a table's cells, row by row."""

    def __init__(self, text):
        super().__init__()
        self.rows = []
        self.languages = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.languages.append(dict(attributes).get("lang"))

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def test_the_table_holds_every_entry_in_every_language():
    table = Cells(Glossary(ALL, "")._repr_html_())
    assert table.rows[1] == ["policy", POLICY.sentence, "π(a|s)", "1", "策略", "chính sách"]
    assert table.rows[2][2] == "x<t>"  # escaped and read back
    assert len(table.rows) == 4
    assert table.languages.count("zh") == table.languages.count("vi") == 3


@pytest.mark.parametrize(
    ("equation", "written"),
    [
        ("π(y_t | x, y_<t)", "π(y<sub>t</sub> | x, y<sub>&lt;t</sub>)"),
        ("Σ_{t<T} γ^t·r_t", "Σ<sub>t&lt;T</sub> γ<sup>t</sup>·r<sub>t</sub>"),
        ("V^π(s) − π_ref", "V<sup>π</sup>(s) − π<sub>ref</sub>"),
        ("E_{τ∼π_θ} Σ_s' π^*", "E<sub>τ∼π<sub>θ</sub></sub> Σ<sub>s&#x27;</sub> π<sup>*</sup>"),
        ("s', r ~ p(·|s, a)", "s&#x27;, r ~ p(·|s, a)"),
    ],
)
def test_indices_and_exponents_leave_the_line(equation, written):
    entry = Entry("term", "Sentence.", equation, 1, "", "")
    assert f">{written}</td>" in Glossary([entry], "")._repr_html_()


def test_no_equation_keeps_a_raw_index():
    cells = [row[2] for row in Cells(glossary()._repr_html_()).rows[1:]]
    assert not [cell for cell in cells if "_" in cell or "^" in cell]


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("", ALL),
        ("POLICY", [POLICY]),
        ("策略", [POLICY]),
        ("duong ve", [RETURN]),
        ("chinh sach", [POLICY]),
        ("sum discounted", [RETURN]),
        ("kl", [DIVERGENCE]),
        ("chinhsach", [POLICY]),  # written without its spaces
        ("nothing of the kind", []),
    ],
)
def test_search(search, found):
    table = Glossary(ALL, "")
    table._box.value = search
    assert list(table.found) == found
    if not found:
        assert "No entry" in table._table.value


def test_it_reads_without_a_kernel():
    bundle = Glossary(ALL, "policy")._repr_mimebundle_()
    assert "<table" in bundle["text/html"]
    assert "KL divergence" not in bundle["text/html"]
    assert bundle["text/plain"] == "policy: The chance of each action. π(a|s)"
    # The page's own colours, so that it can be read in both themes.
    assert "color:inherit" in bundle["text/html"]
    assert "background" not in bundle["text/html"]


HEADER = "term,sentence,equation,lesson,chinese,vietnamese\n"


def test_reading():
    text = HEADER + 'b,"One, two.",x,2,中,v\n\na,Three.,y,1,文,w\nc,Four.,z,1,字,u\n'
    assert [entry.term for entry in read_entries(text)] == ["a", "c", "b"]
    assert read_entries(text)[2].sentence == "One, two."


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "the columns must be"),
        ("term,lesson\n", "the columns must be"),
        (HEADER + "a,b,c,1,d\n", "row 2 must have 6 cells"),
        (HEADER + "a,b,c,one,d,e\n", "row 2 .* lesson number"),
    ],
)
def test_a_broken_file_is_named(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_entries(text)


def test_choosing_terms_and_lessons(monkeypatch):
    import sys

    module = sys.modules["rlhf_lessons.classroom.glossary"]
    monkeypatch.setattr(module, "entries", lambda: tuple(ALL))
    assert list(glossary().found) == ALL
    assert list(glossary(1).found) == [POLICY, RETURN]
    assert list(glossary("kl DIVERGENCE", 2).found) == [DIVERGENCE]
    assert list(glossary(search="sum").found) == [RETURN]
    with pytest.raises(ValueError, match="'polcy' is no entry; near it are policy"):
        glossary("polcy")
    with pytest.raises(
        ValueError, match=r"lesson 7 has no entries; lessons with entries: \[1, 2\]"
    ):
        glossary(7)


def test_the_entries_of_the_course_are_whole():
    path = resources.files("rlhf_lessons.classroom") / "glossary.csv"
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    for row in rows:
        assert None not in row, f"too many cells: {row}"
        empty = [name for name, cell in row.items() if not (cell or "").strip()]
        assert not empty, f"{row['term']}: empty {empty}"
        assert row["sentence"].strip().endswith("."), row["term"]
        assert 1 <= int(row["lesson"]) <= 9, row["term"]
        assert any("\u4e00" <= c <= "\u9fff" for c in row["chinese"]), row["term"]
    terms = [entry.term.casefold() for entry in entries()]
    assert sorted(set(terms)) == sorted(terms)
