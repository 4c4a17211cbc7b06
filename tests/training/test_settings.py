from __future__ import annotations

from rlhf_lessons.training.settings import changes


def test_changes_name_what_differs_or_is_in_one_alone():
    assert changes({"a": 1, "b": 2}, {"b": 3, "a": 1}) == ["b (2, now 3)"]
    assert changes({"old": 0}, {"new": None}) == ["new (none, now None)", "old (0, now none)"]


def test_what_a_file_gives_back_is_no_change():
    assert changes({"betas": [0.1, 0.2]}, {"betas": (0.1, 0.2)}) == []
