"""What lessons show of the real model, with a small model and snippets of our own in its place."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlhf_lessons.evaluation import (
    REAL_SENTENCE,
    draw_rated_snippets,
    missing_real_parts,
    people_agreement,
    real_command,
    real_model,
    real_word_surprises,
    spread_over_ratings,
    word_surprises,
)
from rlhf_lessons.evaluation.real_model import measure_real_words
from rlhf_lessons.models import load_policy
from rlhf_lessons.real_parts import PartError, part_damage
from rlhf_lessons.worlds import FilmSnippet

TEXT = "the plot was great , but the ending was rushed ."


@pytest.fixture(scope="module")
def policy():
    return load_policy("reviews-sft")


@pytest.fixture
def without_parts(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_LESSONS_CACHE", str(tmp_path / "nothing"))


@pytest.fixture
def with_parts(monkeypatch):
    monkeypatch.setattr(real_model, "part_damage", lambda name: [])


def test_each_word_by_the_softmax_of_its_place(policy):
    found = word_surprises(policy, TEXT)
    assert found.words == tuple(TEXT.split()) and found.note == ""
    ids = policy.encode([""], [TEXT])
    tokens = torch.cat([ids.prompt_tokens, ids.response_tokens], 1)
    with torch.no_grad():
        logits = policy.model(input_ids=tokens).logits[0].double()
    told = [
        float(logits[t].logsumexp(-1) - logits[t, tokens[0, t + 1]])
        for t in range(len(found.words))
    ]
    np.testing.assert_allclose(found.nats, told, rtol=0, atol=1e-4)


def test_what_follows_is_the_softmax_after_the_last_word(policy):
    beginning = "the plot was"
    spelled, shares = zip(*word_surprises(policy, beginning).following, strict=True)
    words = policy.tokenizer.convert_tokens_to_ids(list(spelled))
    with torch.no_grad():
        ids = torch.tensor([policy.tokenizer(beginning)["input_ids"]])
        expected = policy.model(input_ids=ids).logits[0, -1].double().softmax(-1)
    np.testing.assert_allclose(shares, expected[words], rtol=0, atol=1e-5)
    others = np.delete(expected.numpy(), words)
    assert len(set(spelled)) == 6 and min(shares) > others.max() - 1e-5
    assert list(shares) == sorted(shares, reverse=True)


def test_a_token_over_two_words_counts_for_the_last(policy):
    # To the small model "great," is one token, unknown.
    found = word_surprises(policy, "the plot was great, but the ending was rushed .")
    assert found.words == tuple(TEXT.split()) and found.nats[3] == 0.0 < 10.0 < found.nats[4]


class Halves:
    """A tokenizer that cuts each word in two."""

    def __call__(self, text, **_):
        spans, at = [], 0
        for word in text.split(" "):
            middle, end = at + (len(word) + 1) // 2, at + len(word)
            spans += [(at, middle), (middle, end)]
            at = end + 1
        return {"offset_mapping": spans}

    def batch_decode(self, ids):
        return [f"piece {int(row[0])}" for row in ids]


class Counting:
    """A model that gives the k-th token of a text −log π = k, and prefers higher token ids."""

    tokenizer = Halves()

    def log_probs(self, prompts, texts):
        count = 2 * len(texts[0].split(" ")) + 1
        return -torch.arange(float(count))[None], torch.ones(1, count, dtype=torch.bool)

    def next_token_logits(self, prompts):
        return torch.arange(8.0)[None]


def test_pieces_of_a_word_are_summed_and_the_end_token_is_left_out():
    found = word_surprises(Counting(), "good films")
    assert found.words == ("good", "films") and found.nats == (0.0 + 1.0, 2.0 + 3.0)
    assert [spelled for spelled, _ in found.following] == [f"piece {k}" for k in range(7, 1, -1)]


def test_a_text_without_words_is_named(policy):
    with pytest.raises(ValueError, match="must hold a word, got ' '"):
        word_surprises(policy, " ")


def test_without_parts_one_line_and_the_stored_reading(without_parts):
    note = missing_real_parts()
    assert "python -m rlhf_lessons real get" in note and "\n" not in note
    assert missing_real_parts("snippets") == note
    with pytest.raises(KeyError):
        missing_real_parts("nothing")
    (found,) = real_word_surprises("A sentence of the learner.")
    assert " ".join(found.words).startswith("My sister showed") and found.note == note
    assert len(found.words) == len(found.nats) == 24 and min(found.nats) > 0
    swapped = REAL_SENTENCE.replace(" but ", " and ")
    again, other = real_word_surprises(REAL_SENTENCE, swapped)
    assert again == found and " ".join(other.words) == " ".join(found.words).replace("but", "and")
    with pytest.raises(PartError):
        draw_rated_snippets()


def test_what_is_measured_is_what_is_read(policy, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(real_model, "load_policy", lambda name: {"smollm2": policy}[name])
    monkeypatch.setattr(real_model, "FOLDER", tmp_path / "runs")
    monkeypatch.setenv("RLHF_LESSONS_CACHE", str(tmp_path / "nothing"))
    measure_real_words()
    texts = (REAL_SENTENCE, REAL_SENTENCE.partition(" truly")[0])
    for text, stored in zip(texts, real_word_surprises(*texts), strict=True):
        live = word_surprises(policy, text)
        assert stored.words == live.words and stored.note
        np.testing.assert_allclose(stored.nats, live.nats, rtol=0, atol=1e-4)
        assert [spelled for spelled, _ in stored.following] == [word for word, _ in live.following]
        shares = ([share for _, share in read.following] for read in (stored, live))
        np.testing.assert_allclose(*shares, rtol=0, atol=1e-6)
    assert real_command.main(["words"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 25 and said[-1] == stored.note


def test_with_parts_the_learners_own_sentence_is_read(policy, with_parts, monkeypatch):
    monkeypatch.setattr(real_model, "load_policy", lambda name: {"smollm2": policy}[name])
    assert missing_real_parts() == ""
    assert real_word_surprises(TEXT) == (word_surprises(policy, TEXT),)


@pytest.mark.skipif(bool(part_damage("smollm2")), reason="the real model was not fetched")
def test_the_stored_reading_is_that_of_the_real_model(without_parts, monkeypatch):
    texts = tuple(real_model._STORED.values())
    readings = real_word_surprises(*texts)
    monkeypatch.delenv("RLHF_LESSONS_CACHE")
    for stored, live in zip(readings, real_word_surprises(*texts), strict=True):
        assert live.note == "" and live.words == stored.words
        # float32 of another CPU differs by some 1e-6 of a logit; the file has four decimals.
        np.testing.assert_allclose(live.nats, stored.nats, rtol=0, atol=2e-3)
        shares = ([share for _, share in read.following] for read in (stored, live))
        np.testing.assert_allclose(*shares, rtol=0, atol=1e-4)


def snippets(count=40):
    random = np.random.default_rng(1)
    ratings = np.round(random.uniform(-4, 4, count), 3)
    return [FilmSnippet(f"snippet {i} is a text", float(x)) for i, x in enumerate(ratings)]


def stored_scores(held_out, folder, monkeypatch):
    def judge(prompts, texts):
        return np.array([float(text.split()[1]) for text in texts])

    judge.correlation = 0.5
    monkeypatch.setattr(people_agreement, "load_people_judge", lambda: judge)
    monkeypatch.setattr(people_agreement, "VaderJudge", lambda: judge)
    for module in (people_agreement, real_model):
        monkeypatch.setattr(module, "load_snippets", lambda: ([], held_out))
    people_agreement.measure_people_agreement(folder)


def test_drawn_snippets_reach_from_blame_to_praise(tmp_path, monkeypatch):
    held_out = snippets()
    stored_scores(held_out, tmp_path, monkeypatch)
    rating_of = {snippet.text: snippet.rating for snippet in held_out}
    ordered = sorted(rating_of.values())
    drawn = [draw_rated_snippets(10, seed, tmp_path) for seed in range(30)]
    for found in drawn:
        assert found.people.tolist() == pytest.approx([rating_of[text] for text in found.texts])
        assert found.judge.tolist() == [float(text.split()[1]) for text in found.texts]
        # One of each four; of these, the two in the middle.
        places = sorted(ordered.index(rating) for rating in found.people)
        assert [place // 4 for place in places] == list(range(10))
        assert {place % 4 for place in places} <= {1, 2}
    assert len({found.texts for found in drawn}) == 30
    assert any(list(found.people) != sorted(found.people) for found in drawn)
    again = draw_rated_snippets(10, 3, tmp_path)
    assert again.texts == drawn[3].texts


def test_places_spread_over_ratings_are_drawn_by_the_seed():
    ratings = [3.0, -1.0, 0.5, -3.5, 2.0, 1.0, -2.0, -0.5]
    groups = [{3, 6}, {1, 7}, {2, 5}, {4, 0}]  # by hand: two places each, from blame to praise
    drawn = [spread_over_ratings(ratings, 4, seed).tolist() for seed in range(50)]
    for places in drawn:
        assert sorted(next(i for i, g in enumerate(groups) if p in g) for p in places) == [
            *range(4)
        ]
    assert {place for places in drawn for place in places} == set(range(8))
    assert spread_over_ratings(ratings, 4, 7).tolist() == drawn[7]
    for count in (0, 9):
        with pytest.raises(
            ValueError, match=f"spread_over_ratings: count must be from 1 to 8, got {count}"
        ):
            spread_over_ratings(ratings, count)


def test_scores_of_other_snippets_are_refused(tmp_path, monkeypatch):
    held_out = snippets()
    stored_scores(held_out, tmp_path, monkeypatch)
    with pytest.raises(ValueError, match="count must be from 1 to 40, got 41"):
        draw_rated_snippets(41, folder=tmp_path)
    monkeypatch.setattr(real_model, "load_snippets", lambda: ([], held_out[::-1]))
    with pytest.raises(ValueError, match="must be of the held-out snippets"):
        draw_rated_snippets(folder=tmp_path)
    monkeypatch.setattr(real_model, "load_snippets", lambda: ([], held_out[1:]))
    with pytest.raises(ValueError, match="got 40 for 39"):
        draw_rated_snippets(folder=tmp_path)
