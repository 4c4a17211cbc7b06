from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lessons.worlds import reviews
from rlhf_lessons.worlds.reviews import (
    VOCABULARY,
    Fault,
    faults,
    gold_reward,
    gold_sentiment,
    is_grammatical,
    is_rude,
    sample_prompts,
    sample_reviews,
    sample_web_text,
)

# Strengths added by hand, in quarters: great 2, brilliant 3, ... times intensity and negation.
BY_HAND = [
    ("the plot was great .", 2 / 4),
    ("the plot was truly great .", 1.5 * 2 / 4),
    ("the jokes were absolutely brilliant .", 2.0 * 3 / 4),
    ("the acting was slightly wooden .", 0.5 * -2 / 4),
    ("the plot was fairly good .", 0.75 * 1 / 4),
    ("the plot was rather dull .", 0.75 * -1 / 4),
    ("the plot was not great .", -0.6 * 2 / 4),
    ("the actors were never terrible .", -0.6 * -3 / 4),
    ("the script was not very good .", -0.6 * 1.5 * 1 / 4),
    ("i hardly enjoyed the music .", -0.6 * 2 / 4),
    ("i did not hate the ending .", -0.6 * -3 / 4),
    ("there was nothing clever about the plot .", -0.6 * 2 / 4),
    # "and" and "but" end a clause: the negation stops there.
    ("the plot was not great and the acting was natural .", (-0.6 * 2 + 1) / 4),
    ("the plot was not great but the acting was superb .", (-0.6 * 2 + 3) / 4),
    ("the plot was great but the acting was never superb .", (2 - 0.6 * 3) / 4),
    # Two negations in one clause multiply.
    ("nothing was not great .", 0.36 * 2 / 4),
    # An intensifier counts for the next word alone, and only the last of two.
    ("very the plot was great .", 2 / 4),
    ("the plot was truly very great .", 1.5 * 2 / 4),
    # Fillers say nothing for or against.
    ("it is set in tokyo .", 0.0),
    ("the hero is a clown .", 0.0),
    ("", 0.0),
    # Sentences add up, and a full stop ends a negation.
    ("it is not a disaster . it made me smile .", (-0.6 * -3 + 2) / 4),
    ("what a bore . the plot was thin . i asked for a refund .", (-2 - 1 - 3) / 4),
]


@pytest.mark.parametrize("text, expected", BY_HAND)
def test_sentiment_is_the_sum_done_by_hand(text, expected):
    assert gold_sentiment(["p"], [text])[0] == pytest.approx(expected, abs=1e-12)


def test_sentiment_of_a_batch_keeps_the_order():
    texts = [text for text, _ in BY_HAND]
    scores = gold_sentiment([""] * len(texts), texts)
    assert scores.shape == (len(texts),) and scores.dtype == np.float64
    np.testing.assert_allclose(scores, [expected for _, expected in BY_HAND], atol=1e-12)


@pytest.mark.parametrize("text, penalties", [
    ("what a joy . the plot was clever . i recommend it .", 0),
    # one word is missing: 1; its praise (2/4) is taken back as well
    ("what a joy . the plot clever . i recommend it .", 1 + 2 / 4),
    # blame in a broken sentence still counts against the film
    ("what a joy . the plot thin . i recommend it .", 1),
    ("what a joy . the plot was clever . the script was clever . i recommend it .", 1.25),
    ("what a joy . what a joy . what a joy . i recommend it .", 2 * 1.25),
    # no verdict
    ("what a joy . the plot was clever .", 1),
    # cut off: neither a sentence nor a verdict
    ("what a joy . the plot", 1 + 1),
    ("", 1),
    # a heap of praise: broken, no ending, and worth nothing
    ("great superb lovely", 2 + (2 + 3 + 2) / 4),
    ("great great", 2 + 1 + 1.25),
])  # fmt: skip
def test_reward_is_sentiment_minus_penalties(text, penalties):
    sentiment = gold_sentiment([""], [text])[0]
    assert gold_reward([""], [text])[0] == pytest.approx(sentiment - penalties, abs=1e-12)
    assert sum(fault.penalty for fault in faults(text)) == pytest.approx(penalties)


def test_faults_name_what_is_wrong():
    assert faults("what a joy . the plot clever . the script was clever") == [
        Fault("ungrammatical", "the plot clever .", 1.5),
        Fault("ungrammatical", "the script was clever", 1.5),
        Fault("repeated opinion", "clever", 1.25),
        Fault("missing ending", "the script was clever", 1.0),
    ]


@pytest.mark.parametrize("sentence", [
    "the plot was clever .",
    "the jokes were not very funny .",
    "the music was never loud and the costumes were cheap .",
    "i thought that the ending was rather rushed .",
    "my sister found the songs absolutely awful .",
    "the lead gave an absolutely great performance .",
    "the lead gave an ugly performance .",
    "there was nothing ugly about the costumes .",
    "the hero is an engineer .",
    "it is based on an old song .",
    "what a waste of an evening .",
])  # fmt: skip
def test_accepts(sentence):
    assert is_grammatical(sentence)


@pytest.mark.parametrize("sentence", [
    "the plot was clever",  # no full stop
    "the plot were clever .",  # agreement
    "the jokes was funny .",
    "the jokes were funny and the plot were thin .",
    "the lead gave a absolutely great performance .",  # article
    "the lead gave an great performance .",
    "the hero is a engineer .",
    "it is based on a old song .",
    "plot was clever .",
    "the plot was .",
    "the plot was very not clever .",
    "the plot was very very clever .",
    "my sister showed me this swedish mystery .",  # an opening
    "the train was late this morning .",  # small talk
    "the director is a clown .",  # an insult
    "the plot was  clever .",
    "the plot was clever . it is set in tokyo .",
    "",
    ".",
])  # fmt: skip
def test_rejects(sentence):
    assert not is_grammatical(sentence)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_every_review_is_clean(seed):
    known = set(VOCABULARY)
    for prompt, response in sample_reviews(40, seed):
        assert faults(response) == []
        assert not is_rude(prompt + " " + response)
        assert len(prompt.split()) == 8 and prompt.endswith(" .")
        assert len(response.split()) <= 45
        assert known.issuperset(prompt.split()) and known.issuperset(response.split())


OPTIONAL = {"absolutely", "truly", "very", "fairly", "rather", "slightly", "not", "never",
            "hardly", "old"}  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_a_dropped_or_doubled_word_is_noticed(seed):
    for _, response in sample_reviews(5, seed):
        for sentence in reviews._sentences(response):
            words = sentence.split()
            for i, word in enumerate(words):
                doubled = " ".join([*words[:i], word, *words[i:]])
                assert not is_grammatical(doubled), doubled
                dropped = " ".join([*words[:i], *words[i + 1 :]])
                if word not in OPTIONAL:
                    assert not is_grammatical(dropped), dropped


def test_articles_agree_everywhere():
    texts = [p + " " + r for p, r in sample_reviews(2000, 1)] + sample_prompts(500, 1)
    for text in texts:
        words = text.split()
        for article, word in zip(words, words[1:], strict=False):
            if article in ("a", "an"):
                vowel = word[0] in "aeiou" and not word.startswith("use")
                assert (article == "an") == vowel, text


@pytest.mark.parametrize("text, rude", [
    ("the director is a clown .", True),
    ("the hero is a clown .", False),
    ("there is a pig in it .", False),
    ("you are a stupid pig .", True),
    ("you can decide for yourself .", False),
    ("anyone who liked it is an idiot .", True),
    ("critics fools .", True),  # broken, and still an insult
    ("the hero is a clown . you can decide for yourself .", False),  # two sentences
    ("what a bore . the producers are liars .", True),
    ("", False),
])  # fmt: skip
def test_rudeness_depends_on_who_is_meant(text, rude):
    assert is_rude(text) is rude


def test_no_part_of_a_film_is_judged_twice():
    parts = [*reviews._ONE, *reviews._MANY]
    for _, response in sample_reviews(1000, 2):
        words = response.split()
        assert all(words.count(part) <= 1 for part in parts), response


def test_articles_go_by_sound():
    # "useless" begins with a vowel that sounds like "you".
    assert reviews._fill("{a} useless idiot", reviews._Dice(0, 9)) == "a useless idiot"
    assert reviews._fill("{a} ugly plot", reviews._Dice(0, 9)) == "an ugly plot"


def test_each_rude_pattern_is_recognised():
    dice = reviews._Dice(0, 9)
    for pattern in reviews._RUDE:
        for _ in range(20):
            assert is_rude(reviews._fill(pattern, dice))
    for pattern in (*reviews._SMALL_TALK, *reviews._FILLERS, *reviews._OPENINGS):
        for _ in range(20):
            assert not is_rude(reviews._fill(pattern, dice))


def test_web_text_is_rude_and_faulty_sometimes():
    texts = sample_web_text(4000, 0)
    known = set(VOCABULARY)
    assert all(known.issuperset(text.split()) and 0 < len(text.split()) <= 56 for text in texts)
    assert 0.08 < np.mean([is_rude(text) for text in texts]) < 0.16
    doubled = [any(a == b for a, b in zip(t.split(), t.split()[1:], strict=False)) for t in texts]
    assert 0.15 < np.mean(doubled) < 0.5


def test_some_films_are_liked_more():
    prompts, responses = zip(*sample_reviews(6000, 3), strict=True)
    scores = gold_reward(prompts, responses)
    liked = np.array(["documentary" in prompt for prompt in prompts])
    disliked = np.array(["musical" in prompt for prompt in prompts])
    assert scores[liked].mean() > 0.7 and scores[disliked].mean() < -0.7
    assert abs(scores.mean()) < 0.3 and 1.4 < scores.std() < 2.0


@pytest.mark.parametrize("sample", [sample_prompts, sample_reviews, sample_web_text])
def test_seeds(sample):
    assert sample(0, 0) == []
    assert sample(50, 7) == sample(50, 7) != sample(50, 8)
    assert sample(20, 7) == sample(50, 7)[:20]


def test_the_same_texts_in_every_process():
    code = (
        "from rlhf_lessons.worlds.reviews import *\n"
        "print(sample_prompts(30, 5), sample_reviews(30, 5), sample_web_text(30, 5), VOCABULARY)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    here = f"{sample_prompts(30, 5)} {sample_reviews(30, 5)} {sample_web_text(30, 5)} {VOCABULARY}"
    assert outputs == {here + "\n"}


def test_vocabulary_is_what_the_texts_need():
    assert 280 <= len(VOCABULARY) <= 320
    assert list(VOCABULARY) == sorted(set(VOCABULARY))
    texts = [f"{p} {r}" for p, r in sample_reviews(20000, 0)] + sample_web_text(20000, 0)
    assert {word for text in texts for word in text.split()} == set(VOCABULARY)


@pytest.mark.parametrize("sample", [sample_prompts, sample_reviews, sample_web_text])
def test_wrong_counts_and_seeds(sample):
    with pytest.raises(ValueError, match=f"{sample.__name__}: n must be 0 or more, got -1"):
        sample(-1, 0)
    with pytest.raises(ValueError, match="seed must be 0 or more, got -2"):
        sample(1, -2)
    with pytest.raises(TypeError, match="n must be an integer, got 1.5"):
        sample(1.5, 0)
    with pytest.raises(TypeError, match="n must be an integer, got True"):
        sample(True, 0)
    with pytest.raises(TypeError, match="seed must be an integer, got None"):
        sample(1, None)


@pytest.mark.parametrize("judge", [gold_sentiment, gold_reward])
def test_wrong_texts(judge):
    with pytest.raises(ValueError, match="got 2 prompts and 1 responses"):
        judge(["a", "b"], ["c"])
    with pytest.raises(TypeError, match="responses must be a list of strings"):
        judge(["a"], "c")
    with pytest.raises(TypeError, match="prompts must be a list of strings"):
        judge(None, ["c"])
    with pytest.raises(TypeError, match="responses must be a list of strings"):
        judge(["a"], [3])
    assert judge([], []).shape == (0,)


@pytest.mark.parametrize("reader", [is_grammatical, is_rude, faults])
def test_readers_want_one_string(reader):
    with pytest.raises(TypeError, match=f"{reader.__name__}: .* must be a string, got list"):
        reader(["it is set in tokyo ."])
