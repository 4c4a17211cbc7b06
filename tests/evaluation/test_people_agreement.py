from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from rlhf_lessons.evaluation import (
    agreement_with_people,
    load_people_agreement,
    measure_people_agreement,
    people_agreement,
    real_command,
)
from rlhf_lessons.worlds import FilmSnippet


def test_the_figures_by_hand():
    scores = [2.0, -0.5, -1.0, 0.5, 3.0, -2.0]
    ratings = [1.5, 0.5, -3.0, 0.0, -1.0, -2.5]  # the fourth has no sign; the fifth is not beyond 1
    found = agreement_with_people(scores * 9, ratings * 9)
    assert found.count == 54
    assert found.sign[0] == pytest.approx(3 / 5)
    assert found.clear_sign[0] == pytest.approx(3 / 3)
    x, y = (np.array(values) - np.mean(values) for values in (scores, ratings))
    assert found.correlation[0] == pytest.approx(x @ y / np.sqrt((x @ x) * (y @ y)))


def test_the_intervals_are_those_of_the_normal_approximation_where_it_holds():
    random = np.random.default_rng(3)
    ratings = random.normal(0, 2, 4000)
    scores = ratings + random.normal(0, 2, 4000)
    found = agreement_with_people(scores, ratings)
    share = np.mean((scores > 0) == (ratings > 0))
    half = 1.96 * np.sqrt(share * (1 - share) / 4000)
    # 2,000 resamples place an end to some 3 % of the half width; it is 0.013.
    ends = share, share - half, share + half
    np.testing.assert_allclose(found.sign, ends, rtol=0, atol=0.002)
    value = found.correlation[0]
    spread = np.tanh(np.arctanh(value) + np.array([-1.96, 1.96]) / np.sqrt(4000 - 3))  # Fisher's z
    np.testing.assert_allclose(found.correlation[1:], spread, rtol=0, atol=0.003)
    assert agreement_with_people(scores, ratings) == found  # the resamples are always the same


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="must be as many, at least 2"):
        agreement_with_people([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="at least 2"):
        agreement_with_people([1.0], [1.0])


def test_what_is_measured_is_what_is_read(tmp_path, monkeypatch):
    snippets = [
        FilmSnippet(f"text {i}", rating) for i, rating in enumerate((2.0, -1.5, 3.0, -2.0) * 9)
    ]

    def judge(prompts, responses):
        assert prompts == [""] * 36
        return torch.tensor([float(text[5:]) - 17.5 for text in responses])

    judge.correlation = 0.75
    monkeypatch.setattr(people_agreement, "load_people_judge", lambda: judge)
    monkeypatch.setattr(people_agreement, "load_snippets", lambda: ([], snippets))
    monkeypatch.setattr(
        people_agreement, "VaderJudge", lambda: lambda x, y: np.array([1.0, -1.0] * 18)
    )
    measure_people_agreement(tmp_path)
    found, left_out = load_people_agreement(tmp_path)
    ratings = [snippet.rating for snippet in snippets]
    assert left_out == 0.75
    assert found["people-judge"] == agreement_with_people(np.arange(36) - 17.5, ratings)
    assert found["vader"].sign[0] == 1.0
    assert "text" not in json.loads((tmp_path / "held_out.json").read_text())["run"]


def test_the_shipped_judge_agrees_with_people_and_vader_less(capsys):
    found, left_out = load_people_agreement()
    judge, vader = found["people-judge"], found["vader"]
    assert judge.count == vader.count == 1005
    assert judge.correlation[1] > 0.82 > vader.correlation[2]
    assert judge.sign[1] > vader.sign[2]
    assert left_out > 0.81
    assert real_command.main(["judge"]) == 0
    printed = capsys.readouterr().out
    assert f"{judge.correlation[0]:.3f}" in printed and f"{vader.sign[0]:.1%}" in printed
    assert f"each left out: correlation {left_out:.3f}" in printed
