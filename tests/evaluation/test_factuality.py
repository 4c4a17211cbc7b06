"""Counting facts by hand, judges, pairs, and the confidence of claims against a known model."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lessons.evaluation import (
    AssuredRater,
    ConfidenceJudge,
    FactCount,
    ReferenceJudge,
    area_under_roc,
    claim_confidence,
    count_facts,
    exchange_sentences,
    factual_precision,
    pairs_by_margin,
    pairs_from_scores,
    sample_answers,
    summarise_facts,
)
from rlhf_lessons.models import LanguagePolicy, small_gpt2, word_tokenizer
from rlhf_lessons.worlds import Claim, people_encyclopedia

PEOPLE = people_encyclopedia()
NAME = next(iter(PEOPLE.subjects))
OTHER = next(name for name in list(PEOPLE)[1:] if PEOPLE.subjects[name].who == "she")
WHO = PEOPLE.subjects[NAME].who
PROMPT = PEOPLE.prompt(NAME)
TRUE = {relation: PEOPLE.facts[NAME, relation] for relation in PEOPLE.relations}


def false(relation: str, which: int = 0) -> str:
    """A value that the relation could have and does not."""
    return [v for v in PEOPLE.relations[relation].values if v != TRUE[relation]][which]


def say(*said: tuple[str, str | None]) -> str:
    """A long answer that states these values; None hedges."""
    sentences = [
        PEOPLE.sentence((NAME, relation), 0, named=i == 0, value=value)
        for i, (relation, value) in enumerate(said)
    ]
    return " ".join(sentences).removeprefix(f"{NAME} ")


MIXED = say(
    ("birth year", TRUE["birth year"]),
    ("city", false("city")),
    ("field", None),
    ("employer", TRUE["employer"]),
)


def one(response: str) -> FactCount:
    (count,) = count_facts(PEOPLE, [PROMPT], [response])
    return count


def test_counts_by_hand():
    assert one(MIXED) == FactCount(2, 1, 1, 0, 0, len(MIXED.split()))
    assert one(MIXED).precision == pytest.approx(2 / 3)
    noisy = MIXED + f" {WHO} {WHO} was . {OTHER} works on optics . {WHO} won"
    assert one(noisy) == FactCount(2, 1, 1, 3, 0, len(noisy.split()))


def test_a_response_without_claims_is_not_a_share():
    empty = one("")
    assert empty == FactCount(0, 0, 0, 0, 0, 0)
    assert math.isnan(empty.precision)
    with pytest.raises(ValueError, match="factual_precision: counts must hold at least one claim"):
        factual_precision([empty, one(say(("city", None)))])
    assert factual_precision([empty, one(MIXED)]) == pytest.approx(2 / 3)


def test_precision_pools_the_claims():
    counts = [one(say(("city", TRUE["city"]))), one(MIXED), one(say(("field", false("field"))))]
    assert factual_precision(counts) == pytest.approx((1 + 2 + 0) / (1 + 3 + 1))


def test_saying_a_fact_twice_counts_once():
    assert one(say(("city", TRUE["city"]), ("city", TRUE["city"]))).right == 1
    assert one(say(("city", false("city")), ("city", false("city")))).wrong == 1


def test_contradicting_oneself_is_never_right():
    both = say(("city", TRUE["city"]), ("city", false("city")))
    assert one(both) == FactCount(0, 2, 0, 0, 1, len(both.split()))


def test_an_unknown_person_is_an_error():
    with pytest.raises(ValueError, match="about a subject of the encyclopedia of people"):
        count_facts(PEOPLE, [PROMPT.replace(NAME, "zara nobody")], [MIXED])
    with pytest.raises(ValueError, match="equally many and at least one, got 1 and 2"):
        count_facts(PEOPLE, [PROMPT], [MIXED, MIXED])


def test_the_reference_judge_by_hand():
    texts = [MIXED, MIXED + " no .", say(("city", false("city"))), say(("city", None))]
    judge = ReferenceJudge(PEOPLE, price=3.0, penalty=0.5)
    assert judge([PROMPT] * 4, texts).tolist() == [-1.0, -1.5, -3.0, 0.0]
    assert ReferenceJudge(PEOPLE)([PROMPT], [MIXED]).tolist() == [1.0]


def test_the_confidence_judge_looks_at_no_truth():
    answers = {
        (NAME, "birth year"): Counter({TRUE["birth year"]: 3, "1901": 1}),
        (NAME, "city"): Counter({false("city"): 4}),
        (NAME, "employer"): Counter({false("employer"): 4}),
    }
    judge = ConfidenceJudge(PEOPLE, answers, price=2.0, penalty=1.0)
    # p = 3/4, 1, 0: p − 2·(1 − p) is 1/4, 1, −2
    assert judge([PROMPT], [MIXED]) == pytest.approx([0.25 + 1 - 2])
    assert judge([PROMPT], [MIXED + " no ."]) == pytest.approx([0.25 + 1 - 2 - 1])
    assert judge([PROMPT], [say(("field", None))]) == pytest.approx([0.0])


def test_the_confidence_judge_expects_what_the_reference_gives():
    """Where an answer is certain and right, the two judges agree."""
    answers = {(NAME, relation): Counter({value: 5}) for relation, value in TRUE.items()}
    texts = [MIXED, say(("prize", TRUE["prize"])), say(("city", None)), MIXED + " no ."]
    first = ConfidenceJudge(PEOPLE, answers, price=1.5)([PROMPT] * 4, texts)
    assert first.tolist() == ReferenceJudge(PEOPLE, price=1.5)([PROMPT] * 4, texts).tolist()


def test_the_assured_rater_likes_length_and_no_doubt():
    rater = AssuredRater(PEOPLE)
    short = say(("city", TRUE["city"]))
    long = say(*((relation, false(relation)) for relation in PEOPLE.relations))
    doubting = say(("city", TRUE["city"]), ("field", None))
    scores = rater([PROMPT] * 3, [long, short, doubting])
    assert scores[0] > scores[1] > scores[2]
    right = say(*TRUE.items())
    assert rater([PROMPT], [right]) == pytest.approx(scores[:1])  # truth plays no part


# -- Confidence ------------------------------------------------------------------------------------


def test_confidence_is_the_share_of_answers_that_agree():
    answers = {(NAME, "city"): {"ashbury": 3, "ashford": 1}, (NAME, "field"): {"optics": 2}}
    claims = [
        Claim(NAME, "city", "ashbury", 0, 1),
        Claim(NAME, "city", "ashford", 0, 1),
        Claim(NAME, "city", "elmford", 0, 1),
        Claim(NAME, "field", "optics", 0, 1),
    ]
    assert claim_confidence(claims, answers).tolist() == [0.75, 0.25, 0.0, 1.0]
    assert claim_confidence([], answers).shape == (0,)


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        (Claim(NAME, "city", None, 0, 1), "got a hedge"),
        (Claim(NAME, "prize", "golden", 0, 1), "whose fact was not asked for"),
    ],
)
def test_a_confidence_that_cannot_be_had(claim, message):
    with pytest.raises(ValueError, match=f"claim_confidence: .*{message}"):
        claim_confidence([claim], {(NAME, "city"): {"ashbury": 1}})


def test_sampled_answers_follow_the_model():
    """Frequencies against the exact next-token probabilities of an untrained model."""
    tokenizer = word_tokenizer(PEOPLE.vocabulary)
    model = small_gpt2(len(tokenizer), width=16, layers=1, heads=2, context=32, seed=0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6.0)
    policy = LanguagePolicy(model, tokenizer)
    fact, n = (NAME, "city"), 3000
    generator = torch.Generator().manual_seed(0)
    answers = sample_answers(policy, PEOPLE, [fact, (NAME, "field")], n, generator)
    assert set(answers) == {fact, (NAME, "field")} and sum(answers[fact].values()) == n
    questions = [PEOPLE.question(*fact, phrasing) for phrasing in range(3)]
    expected = policy.next_token_logits(questions).softmax(-1).mean(0)
    for token in expected.topk(4).indices.tolist():
        p = float(expected[token])
        word = tokenizer.convert_ids_to_tokens(token)
        if word.startswith("<"):
            continue
        # Five standard errors; a first word that ends the answer leaves an empty one.
        assert abs(answers[fact][word] / n - p) < 5 * math.sqrt(p * (1 - p) / n)


def test_nothing_to_ask_is_an_error():
    with pytest.raises(ValueError, match="facts and samples must be at least 1, got 0 and 20"):
        sample_answers(None, PEOPLE, [])
    with pytest.raises(ValueError, match="got 1 and 0"):
        sample_answers(None, PEOPLE, [(NAME, "city")], 0)
    with pytest.raises(ValueError, match="knows the relations"):
        sample_answers(None, PEOPLE, [(NAME, "shoe size")])


@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=30).filter(
        lambda rows: len({truth for _, truth in rows}) == 2
    )
)
@settings(deadline=None)
def test_area_under_roc_counts_pairs(rows):
    scores, truths = zip(*rows, strict=True)
    wins = [
        (a > b) + 0.5 * (a == b)
        for (a, first), (b, second) in itertools.product(rows, rows)
        if first and not second
    ]
    assert area_under_roc(scores, truths) == pytest.approx(sum(wins) / len(wins))
    assert area_under_roc([math.exp(s) for s in scores], truths) == pytest.approx(
        area_under_roc(scores, truths)
    )
    assert area_under_roc([-s for s in scores], truths) == pytest.approx(
        1 - area_under_roc(scores, truths)
    )


@pytest.mark.parametrize(
    ("scores", "outcomes", "message"),
    [
        ([0.1, 0.2], [True, True], "got 2 true and 0 false"),
        ([0.1], [True, False], "got shapes"),
        ([math.nan, 0.1], [True, False], "finite"),
    ],
)
def test_a_separation_that_cannot_be_measured(scores, outcomes, message):
    with pytest.raises(ValueError, match=f"area_under_roc: .*{message}"):
        area_under_roc(scores, outcomes)


# -- Versions that differ in one sentence ----------------------------------------------------------


def told(response: str) -> dict[str, str | None]:
    """Relation -> value or None for a hedge, of an answer that says nothing else."""
    reading = PEOPLE.read(response, about=NAME)
    assert not reading.unreadable
    return {claim.relation: claim.value for claim in (*reading.claims, *reading.hedges)}


def test_versions_differ_from_their_answer_in_one_fact():
    answers = [
        MIXED,
        say(("city", TRUE["city"]), ("field", TRUE["field"]), ("prize", None)),
        say(("birth year", None), ("prize", TRUE["prize"])),
        say(("university", TRUE["university"])),
    ]
    long = "no . " * 30  # unreadable, but it makes room
    prompts, first, second = exchange_sentences(PEOPLE, [PROMPT] * 5, [*answers, long], draws=20)
    assert set(prompts) == {PROMPT} and set(first) <= set(answers)
    seen = set()
    for answer, version in zip(first, second, strict=True):
        before, after = told(answer), told(version)
        changed = {r for r in {*before, *after} if before.get(r, 0) != after.get(r, 0)}
        assert len(changed) == 1
        assert (version, answer) not in seen and (answer, version) not in seen
        seen.add((answer, version))
        (relation,) = changed
        # What stands there is what another answer says of that fact, or nothing as there.
        assert after.get(relation, 0) in {told(other).get(relation, 0) for other in answers}
        seen.add((answer, relation, after.get(relation, 0)))
    # With twenty draws nearly every alternative comes up; these three are among them.
    assert (MIXED, "city", TRUE["city"]) in seen
    assert (MIXED, "city", 0) in seen and (MIXED, "prize", None) in seen


def test_alternatives_come_as_often_as_they_are_said():
    """Of 40 answers 30 hedge the city and 10 state it: so does what the versions draw."""
    rest = [(r, TRUE[r]) for r in ("birth year", "university", "field")]
    years = PEOPLE.relations["birth year"].values
    answers = [  # the year makes each a text of its own
        say(("birth year", years[i]), ("city", None if i < 30 else TRUE["city"]), *rest[1:])
        for i in range(40)
    ]
    hits = Counter()
    for seed in range(20):
        _, first, second = exchange_sentences(PEOPLE, [PROMPT] * 40, answers, 1, seed)
        for answer, version in zip(first, second, strict=True):
            if answer in answers and told(answer)["city"] != told(version)["city"]:
                hits[told(answer)["city"]] += 1
    # 30 answers find a stated city with chance 1/4, 10 a hedged one with 3/4: 150 each in twenty
    # seeds. A couple that both sides find counts once, half of them for each; 5 standard errors.
    assert abs(hits[None] - hits[TRUE["city"]]) < 5 * np.sqrt(2 * 150)


def test_answers_that_cannot_be_taken_apart_are_left_out():
    good = [say(("city", TRUE["city"])), say(("city", None))]
    for bad in (
        good[0] + f" {WHO} {WHO} was .",  # unreadable
        say(("city", None), ("city", TRUE["city"])),  # a fact told twice
        f"'s field is optics . {WHO} won a prize i do not know .",
        say(("city", None)) + f" in 1920 {WHO} was born .",  # cannot follow a name
        say(("city", None)) + f" {OTHER} works on optics .",
    ):
        _, first, second = exchange_sentences(PEOPLE, [PROMPT] * 3, [bad, *good], draws=9)
        assert {*first, *second} == set(good)


def test_no_version_is_longer_than_the_longest_answer():
    answers = [say(("city", TRUE["city"]), ("prize", None)), say(("city", None))]
    answers.append(say(("field", TRUE["field"])))
    _, first, second = exchange_sentences(PEOPLE, [PROMPT] * 3, answers, draws=9)
    longest = max(len(text.split()) for text in answers)
    assert max(len(text.split()) for text in (*first, *second)) == longest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([PROMPT], [MIXED, MIXED]), "equally many and at least one, got 1 and 2"),
        (([], []), "at least one"),
        (([PROMPT] * 2, [MIXED, MIXED]), "got none such among 2 answers to 1 prompts"),
        (([PROMPT] * 2, ["", "no ."]), "got none such"),
        (([PROMPT] * 2, [MIXED, ""], 0), "draws must be at least 1, got 0"),
        ((["hello"], [MIXED]), "about a subject of the encyclopedia of people"),
    ],
)
def test_sentences_that_cannot_be_exchanged(arguments, message):
    with pytest.raises(ValueError, match=message):
        exchange_sentences(PEOPLE, *arguments)


# -- Pairs -----------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("abcdef"), st.integers(0, 3)))
    .map(lambda rows: [(x, y, len(x) + (ord(y) * s) % 4) for x, y, s in rows])
    .filter(bool)
)
@settings(deadline=None)
def test_pairs_are_all_that_the_scores_order(rows):
    fixed = {}
    rows = [(x, y, fixed.setdefault((x, y), s)) for x, y, s in rows]  # one text, one score
    expected = {
        (x1, y1, y2)
        for (x1, y1, s1), (x2, y2, s2) in itertools.product(rows, rows)
        if x1 == x2 and s1 > s2
    }
    prompts, responses, scores = zip(*rows, strict=True)
    if not expected:
        with pytest.raises(ValueError, match="same score for all responses"):
            pairs_from_scores(prompts, responses, scores)
        return
    pairs = pairs_from_scores(prompts, responses, scores)
    assert len(pairs) == len(expected) and {tuple(pair) for pair in pairs} == expected
    few = pairs_from_scores(prompts, responses, scores, per_prompt=2)
    assert {tuple(pair) for pair in few} <= expected
    assert max(Counter(pair.prompt for pair in few).values()) <= 2


def test_few_pairs_take_the_best_with_the_worst():
    pairs = pairs_from_scores(["x"] * 5, list("abcde"), [3, 1, 5, 2, 4], per_prompt=2)
    assert [tuple(pair) for pair in pairs] == [("x", "c", "b"), ("x", "e", "d")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["x", "x"], ["a", "b"], [1.0, 1.0]), "prefers nothing, and there are no pairs"),
        ((["x", "y"], ["a", "b"], [1.0, 2.0]), "each of the 2 prompts"),
        ((["x", "x"], ["a", "b"], [1.0, math.nan]), "must be 2 finite numbers"),
        ((["x"], ["a", "b"], [1.0]), "equally many"),
        (([], [], []), "at least one"),
        ((["x", "x"], ["a", "b"], [1.0, 2.0], 0), "per_prompt must be at least 1, got 0"),
    ],
)
def test_scores_that_make_no_pairs(arguments, message):
    with pytest.raises(ValueError, match=f"pairs_from_scores: .*{message}"):
        pairs_from_scores(*arguments)


def lengths(prompts, responses):
    return np.array([len(response) for response in responses], dtype=float)


def test_the_longer_response_is_chosen_and_ties_make_no_pair():
    pairs = pairs_by_margin(["x", "x", "y"], ["a", "bbb", "cc"], ["aa", "b", "dd"], lengths, 5)
    assert sorted(map(tuple, pairs)) == [("x", "aa", "a"), ("x", "bbb", "b")]


def test_pairs_are_drawn_in_proportion_to_their_margins():
    first, second = ["a", "b" * 2, "c" * 4], ["a" * 2, "b" * 5, "c" * 10]  # margins 1, 3, 6
    drawn = Counter(
        pairs_by_margin(["x"] * 3, first, second, lengths, 1, seed)[0].rejected[0]
        for seed in range(2000)
    )
    for letter, margin in zip("abc", (1, 3, 6), strict=True):
        p = margin / 10
        assert abs(drawn[letter] / 2000 - p) < 5 * math.sqrt(p * (1 - p) / 2000)
    two = [pairs_by_margin(["x"] * 3, first, second, lengths, 2, seed) for seed in range(300)]
    assert all(len({tuple(pair) for pair in pairs}) == 2 for pairs in two)
    assert pairs_by_margin(["x"] * 3, first, second, lengths, 2, 7) == two[7]
    assert len({tuple(map(tuple, pairs)) for pairs in two}) == 6  # any two, in any order


def test_few_pairs_of_each_prompt():
    prompts = [x for x in "xyz" for _ in range(9)]
    first = [f"{x}{i}" for i, x in enumerate(prompts)]
    pairs = pairs_by_margin(prompts, first, [text + "!" for text in first], lengths, 4)
    assert Counter(pair.prompt for pair in pairs) == {"x": 4, "y": 4, "z": 4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["x"], ["a"], ["b"], lengths, 1), "prefers nothing, and there are no pairs"),
        ((["x"], ["a", "b"], ["b"], lengths, 1), "equally many"),
        ((["x"], ["a"], ["b", "a"], lengths, 1), "equally many"),
        ((["x"], ["a"], ["bb"], lengths, 0), "per_prompt must be at least 1, got 0"),
        ((["x"], ["a"], ["bb"], lambda p, r: np.array([math.nan]), 1), "1 finite scores"),
        ((["x"], ["a"], ["bb"], lambda p, r: np.zeros(2), 1), "got differences of shape"),
    ],
)
def test_couples_that_make_no_pairs(arguments, message):
    with pytest.raises(ValueError, match=f"pairs_by_margin: .*{message}"):
        pairs_by_margin(*arguments)


# -- Means -----------------------------------------------------------------------------------------


def test_means_have_the_error_of_subjects():
    counts = [FactCount(r, w, 1, 0, 0, 10) for r, w in [(4, 0), (2, 2), (1, 3), (1, 1), (0, 0)] * 2]
    summary = summarise_facts(counts, per_subject=2)
    means = np.array([3.0, 1.0, 2.0, 1.5, 0.5])  # 4 2 | 1 1 | 0 4 | 2 1 | 1 0
    assert summary.right.value == pytest.approx(means.mean())
    assert summary.right.standard_error == pytest.approx(means.std(ddof=1) / math.sqrt(5))
    assert summary.right.count == 5
    assert summary.precision == pytest.approx(16 / 28)
    assert summary.hedged.value == 1 and summary.words.value == 10
    assert math.isnan(summarise_facts([FactCount(0, 0, 1, 0, 0, 5)] * 2).precision)


def test_means_need_whole_groups():
    with pytest.raises(ValueError, match="multiple of per_subject = 2, got 3"):
        summarise_facts([FactCount(1, 0, 0, 0, 0, 5)] * 3, per_subject=2)
