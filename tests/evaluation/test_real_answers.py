"""The reader beside answers that were read by hand; those are real, the facts where they are."""

from __future__ import annotations

import pytest
from small_facts import write_facts_part

from rlhf_lessons.evaluation import (
    HandReadAnswer,
    ReaderAgreement,
    load_hand_read,
    load_reader_agreement,
    measure_reader,
    real_answers,
    real_command,
)
from rlhf_lessons.real_parts import part_damage
from rlhf_lessons.worlds import FACT_KINDS, VERDICTS


def answer(text, claim, verdict, kind="capital", subject="Peru"):
    return HandReadAnswer(text, kind, subject, 0, 0.7, "test", claim, verdict)


def test_agreement_is_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_LESSONS_CACHE", str(tmp_path))
    write_facts_part(tmp_path)
    found = measure_reader(
        [
            answer("The capital of Peru is Lima.", "Lima", "right"),
            answer("The capital of Peru is Cuzco.", "Cusco", "wrong"),  # two spellings
            answer("The capital of Peru is Lima.", "Cusco", "wrong"),  # another claim
            answer("Peru is a country.", "Lima", "right"),  # nothing was found
            answer("The capital of Peru is Lima.", "", "unreadable"),  # nothing was there
            answer("", "", "unreadable"),
            answer("sol", "Peruvian sol", "right", "currency"),
        ]
    )
    assert found == ReaderAgreement(count=7, claimed=5, named=5, equal=3, verdicts=4)
    assert found.precision[0] == found.recall[0] == 3 / 5 and found.accuracy[0] == 4 / 7
    # Wilson's interval of 3 in 5, from its equation: (0.6 + 0.384) / 1.768 -+ ...
    assert found.precision[1:] == pytest.approx((0.2307, 0.8824), abs=1e-4)
    assert "7 answers: precision 0.600 (0.231 to 0.882)" in str(found)


def test_bad_input_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_LESSONS_CACHE", str(tmp_path))
    write_facts_part(tmp_path)
    with pytest.raises(ValueError, match="answers must hold one or more, got none"):
        measure_reader([])
    with pytest.raises(ValueError, match="verdict must be one of right, .* got 'fine'"):
        measure_reader([answer("Lima", "Lima", "fine")])
    with pytest.raises(ValueError, match="must be a country"):
        measure_reader([answer("Lima", "Lima", "right", subject="Wakanda")])
    with pytest.raises(ValueError, match="split must be developing or test, got 'all'"):
        load_hand_read("all")


def test_the_answers_read_by_hand_are_whole():
    halves = [load_hand_read(split) for split in ("developing", "test")]
    for half in halves:
        for each in half:
            assert each.verdict in VERDICTS and each.kind in FACT_KINDS
            assert each.phrasing in range(3) and 0 <= each.temperature <= 1
            # A verdict on a claim needs one.
            assert bool(each.claim) or each.verdict not in ("right", "wrong")
            assert not each.claim or each.verdict in ("right", "wrong", "hedge")
    assert [len(half) for half in halves] == [882, 215]


@pytest.mark.skipif(bool(part_damage("facts")), reason="the real facts were not fetched")
def test_the_reader_agrees_with_the_reading_by_hand(capsys, tmp_path, monkeypatch):
    answers = load_hand_read("test")
    found = measure_reader(answers)  # 0.973, 0.973 and 0.991
    assert found.precision[0] >= 0.97 and found.recall[0] >= 0.97 and found.accuracy[0] >= 0.97
    stored = load_reader_agreement()
    cold = measure_reader([answer for answer in answers if answer.temperature == 0])
    assert stored["all"] == found and stored["temperature 0"] == cold
    monkeypatch.setattr(real_answers, "FOLDER", tmp_path)
    assert real_command.main(["reader", "--measure"]) == 0
    assert load_reader_agreement() == stored
    said = capsys.readouterr().out
    assert str(found) in said and str(cold) in said and "currency" in said
