"""The checks of lesson 7, factuality.

Hidden inputs are drawn fresh at every run: made-up phrasings and values, cut-off texts, answers
that contain one another, ties, empty bins and contradictions. Each known mistake is computed beside
the right answer, so that a hint can name it. Left out on purpose: the words of the course's own
world, so that nothing can be looked up.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from rlhf_lessons.classroom.exercises import Exercise, compare, require

VALUES = tuple("amber birch cedar copper falcon golden ivory jade maple pearl raven silver".split())
Claims = list[tuple[str, str, int, int]]


def draw_words(draw: np.random.Generator, count: int) -> list[str]:
    """Draw different words of two syllables."""
    heads, tails = (
        "ba ke li mo nu pa re sti tro vu".split(),
        "dan gel kin mos nar pit rus tel".split(),
    )
    picked = draw.choice(len(heads) * len(tails), size=count, replace=False)
    return [heads[i // len(tails)] + tails[i % len(tails)] for i in picked]


# 7.1 · claims from text ---------------------------------------------------------------------------


def reference_find_claims(text: str, phrasings: Sequence[tuple[str, str]]) -> Claims:
    """Return (relation, value, first word, word after the last) of each claim of a text."""
    words, claims, start = text.split(), [], 0
    for i, word in enumerate(words):
        if word != ".":
            continue
        sentence = words[start + 1 : i]
        for relation, phrasing in phrasings:
            form = phrasing.split()
            if len(form) == len(sentence) and all(
                a in ("VALUE", b) for a, b in zip(form, sentence, strict=True)
            ):
                claims.append((relation, sentence[form.index("VALUE")], start, i + 1))
                break
        start = i + 1
    return claims


find_claims = Exercise(
    "7.1", "Claims from text", function="find_claims", reference=lambda: reference_find_claims
)


def _find_with(
    text: str,
    phrasings: Sequence[tuple[str, str]],
    place: Callable[[int, int, list[str]], tuple[int, int]] = lambda start, stop, words: (
        start,
        stop,
    ),
    finish: bool = False,
    loose: bool = False,
) -> Claims:
    """Find claims with a mistake: in the places, at the end of the text, or in the match."""
    words, found, start = text.split(), [], 0
    if finish and words and words[-1] != ".":
        words = [*words, "."]
    for i, word in enumerate(words):
        if word != ".":
            continue
        sentence = words[start + 1 : i]
        for relation, phrasing in phrasings:
            form = phrasing.split()
            same_length = len(form) == len(sentence) or (loose and len(form) <= len(sentence))
            if same_length and all(a in ("VALUE", b) for a, b in zip(form, sentence, strict=False)):
                value = sentence[form.index("VALUE")]
                found.append((relation, value, *place(start, i + 1, words)))
                break
        start = i + 1
    return found


def _first_of_each(claims: Claims) -> Claims:
    first: dict[str, tuple] = {}
    for claim in claims:
        first.setdefault(claim[0], claim)
    return list(first.values())


def _claim_mistakes(text: str, phrasings: Sequence[tuple[str, str]]) -> dict[str, Claims]:
    right = reference_find_claims(text, phrasings)

    def characters(start: int, stop: int, words: list[str]) -> tuple[int, int]:
        first = len(" ".join(words[:start])) + (start > 0)
        return first, first + len(" ".join(words[start:stop]))

    return {
        "Your places count characters: count words, text.split()": _find_with(
            text, phrasings, place=characters
        ),
        "Your end leaves out the full stop: the sentence's last word is its full stop, and the end "
        "is the number of the word after it": _find_with(
            text, phrasings, place=lambda a, b, _: (a, b - 1)
        ),
        "Your start leaves out the subject: the sentence begins with the word for whom it speaks "
        "of": _find_with(text, phrasings, place=lambda a, b, _: (a + 1, b)),
        "Your places begin at 0 in each sentence: count from the beginning of the text": _find_with(
            text, phrasings, place=lambda a, b, _: (0, b - a)
        ),
        "You took a sentence without its full stop: a text that is cut off may still go on, so "
        "its last words claim nothing yet": _find_with(text, phrasings, finish=True),
        "You matched only the beginning of a sentence: a hedge ('a town i do not know') starts "
        "like a claim; all words must match": _find_with(text, phrasings, loose=True),
        "You matched only the beginning of a sentence, and took one without its full stop": (
            _find_with(text, phrasings, loose=True, finish=True)
        ),
        "You stopped at the first claim: return every one": right[:1],
        "You listed each relation once: a text can speak of one fact twice, and both are claims": (
            _first_of_each(right)
        ),
        "You sorted the claims: keep the order of the text": sorted(right),
    }


def _story(draw: np.random.Generator, cut: bool) -> tuple[str, list[tuple[str, str]]]:
    verb, noun, place, craft, town, thing = draw_words(draw, 6)
    phrasings = [
        ("town", f"{verb} in VALUE"),
        ("town", f"'s {noun} is VALUE"),
        ("craft", f"{craft} on VALUE"),
        ("prize", f"won the VALUE {thing}"),
    ]
    values = [str(value) for value in draw.choice(VALUES, size=6, replace=False)]
    who = str(draw.choice(["she", "he", "it"]))
    sentences = [
        f"{who} {verb} in {values[0]} .",
        f"{who} {craft} on {values[1]} .",
        f"{who} won the {values[2]} {thing} .",
        f"{who} 's {noun} is {values[3]} .",
        f"{who} {verb} in a {town} i do not know .",
        f"{who} {place} {place} .",
        f"{who} {verb} in {values[4]} and {values[5]} .",
        f"{who} {verb} in {values[4]} .",
    ]
    order = draw.permutation(len(sentences))
    text = " ".join(sentences[i] for i in order)
    if cut:
        text += f" {who} {craft} on {values[5]}"
    return text, phrasings


@find_claims.part("one sentence, and no sentence", points=1)
def _(answer, draw) -> None:
    verb, thing = draw_words(draw, 2)
    value = str(draw.choice(VALUES))
    phrasings = [("kind", f"{verb} the VALUE {thing}")]
    text = f"he {verb} the {value} {thing} ."
    compare(
        f"find_claims({text!r}, ...)",
        answer(text, phrasings),
        [("kind", value, 0, 6)],
        mistakes=_claim_mistakes(text, phrasings),
    )
    compare("find_claims of a text without words", answer("", phrasings), [])
    compare(
        "find_claims of a text in which nothing matches",
        answer(f"he {thing} a {verb} .", phrasings),
        [],
    )


@find_claims.part("several sentences, hedges and nonsense among them", points=1)
def _(answer, draw) -> None:
    for _ in range(3):
        text, phrasings = _story(draw, cut=False)
        compare(
            f"find_claims({text!r}, ...)",
            answer(text, phrasings),
            reference_find_claims(text, phrasings),
            mistakes=_claim_mistakes(text, phrasings),
        )


@find_claims.part("a text that was cut off", points=1)
def _(answer, draw) -> None:
    text, phrasings = _story(draw, cut=True)
    compare(
        f"find_claims({text!r}, ...)",
        answer(text, phrasings),
        reference_find_claims(text, phrasings),
        mistakes=_claim_mistakes(text, phrasings),
    )


# 7.2 · right, wrong, precision --------------------------------------------------------------------


def reference_score_claims(
    claims: Sequence[tuple[str, str]], truth: dict[str, str]
) -> tuple[int, int, float]:
    """Return the right facts, the wrong values and the precision of (relation, value) claims."""
    values: dict[str, set[str]] = {}
    for relation, value in claims:
        values.setdefault(relation, set()).add(value)
    right = sum(given == {truth[relation]} for relation, given in values.items())
    wrong = sum(len(given) for relation, given in values.items() if given != {truth[relation]})
    return right, wrong, right / (right + wrong) if right + wrong else math.nan


score_claims = Exercise(
    "7.2", "Factual precision", function="score_claims", reference=lambda: reference_score_claims
)


def _score_mistakes(
    claims: Sequence[tuple[str, str]], truth: dict[str, str]
) -> dict[str, tuple[int, int, float]]:
    right, wrong, precision = reference_score_claims(claims, truth)

    def share(a: int, b: int) -> float:
        return a / b if b else math.nan

    hits = [truth[relation] == value for relation, value in claims]
    different = set(claims)
    kept = [truth[relation] == value for relation, value in different]
    last = dict(claims)
    first = dict(reversed(list(claims)))
    found = {
        "You counted a repeated claim again: saying a fact twice makes it no truer": (
            sum(hits),
            len(hits) - sum(hits),
            share(sum(hits), len(hits)),
        ),
        "You let a contradiction be half right: who gives two values for one fact has hedged his "
        "bet, so none of them counts as right and each as wrong": (
            sum(kept),
            len(kept) - sum(kept),
            share(sum(kept), len(kept)),
        ),
        "You gave 0 for no claims at all: 0/0 is not a number, and silence is not a lie": (
            right,
            wrong,
            precision if right + wrong else 0.0,
        ),
        "You gave 1 for no claims at all: 0/0 is not a number, and silence is no merit": (
            right,
            wrong,
            precision if right + wrong else 1.0,
        ),
        "You divided by the facts in the encyclopedia: that is recall; precision divides by what "
        "was claimed": (right, wrong, share(right, len(truth))),
        "You swapped right and wrong": (wrong, right, share(wrong, right + wrong)),
        "You divided right by wrong: precision is right / (right + wrong)": (
            right,
            wrong,
            share(right, wrong),
        ),
    }
    for kept in (last, first):
        hits = [truth[relation] == value for relation, value in kept.items()]
        found[
            f"You kept one value of a contradiction, the {'last' if kept is last else 'first'}: "
            f"look at all values that are claimed"
        ] = (sum(hits), len(hits) - sum(hits), share(sum(hits), len(hits)))
    return found


def _truth(draw: np.random.Generator) -> dict[str, str]:
    relations = draw_words(draw, 6)
    return {relation: str(draw.choice(VALUES)) for relation in relations}


def _other(draw: np.random.Generator, value: str, count: int = 1) -> list[str]:
    others = [other for other in VALUES if other != value]
    return [str(other) for other in draw.choice(others, size=count, replace=False)]


def _shuffled(draw: np.random.Generator, claims: list) -> list:
    return [claims[i] for i in draw.permutation(len(claims))]


@score_claims.part("right and wrong", points=1)
def _(answer, draw) -> None:
    for _ in range(3):
        truth = _truth(draw)
        relations = list(truth)[: int(draw.integers(3, 6))]
        claims = [(relations[0], truth[relations[0]]), (relations[1], truth[relations[1]])]
        claims += [(r, _other(draw, truth[r])[0]) for r in relations[2:]]
        claims = _shuffled(draw, claims)
        compare(
            "score_claims(claims, truth)",
            answer(claims, truth),
            reference_score_claims(claims, truth),
            mistakes=_score_mistakes(claims, truth),
        )


@score_claims.part("repeated claims, and none", points=1)
def _(answer, draw) -> None:
    truth = _truth(draw)
    first, second, third, *_ = truth
    wrong = _other(draw, truth[second])[0]
    claims = [(first, truth[first])] * 3 + [(second, wrong)] * 2 + [(third, truth[third])]
    claims = _shuffled(draw, claims)
    compare(
        "score_claims with repeated claims",
        answer(claims, truth),
        reference_score_claims(claims, truth),
        mistakes=_score_mistakes(claims, truth),
    )
    compare(
        "score_claims([], truth)",
        answer([], truth),
        (0, 0, math.nan),
        mistakes=_score_mistakes([], truth),
    )


@score_claims.part("contradictions", points=1)
def _(answer, draw) -> None:
    truth = _truth(draw)
    first, second, third, fourth, *_ = truth
    a, b = _other(draw, truth[second], 2)
    claims = [
        (first, truth[first]),
        (first, _other(draw, truth[first])[0]),
        (second, a),
        (second, b),
        (third, truth[third]),
        (third, truth[third]),
        (fourth, truth[fourth]),
    ]
    claims = _shuffled(draw, claims)
    compare(
        "score_claims with contradictions",
        answer(claims, truth),
        (2, 4, 1 / 3),
        mistakes=_score_mistakes(claims, truth),
    )


# 7.3 · confidence by sampling ---------------------------------------------------------------------


def reference_confidence(value: str, answers: Sequence[str]) -> float:
    """Return the share of sampled answers whose first word is the value."""
    return sum(answer.split()[:1] == [value] for answer in answers) / len(answers)


confidence = Exercise(
    "7.3",
    "Confidence of a claim",
    function="confidence",
    reference=lambda: reference_confidence,
)


def _confidence_mistakes(value: str, answers: Sequence[str]) -> dict[str, float]:
    firsts = [answer.split()[0] if answer.split() else "" for answer in answers]
    counted = Counter(firsts)
    said = [first for first in firsts if first]
    return {
        "You compared the whole answer: 'norbury .' also says norbury; take its first word": sum(
            answer == value for answer in answers
        )
        / len(answers),
        "You looked for the value anywhere in the answer: 'art' is in 'artist', and a later word "
        "is another thought; compare the first word": sum(value in answer for answer in answers)
        / len(answers),
        "You looked for the value among all words: a later word is another thought; compare the "
        "first word": sum(value in answer.split() for answer in answers) / len(answers),
        "You returned the confidence of the commonest answer: the question is how often the "
        "model agrees with THIS claim": max(counted.values()) / len(answers),
        "You returned a vote: 1 or 0 for the commonest answer throws the degree away": float(
            counted.most_common(1)[0][0] == value
        ),
        "You divided by the number of different answers: divide by all answers": counted[value]
        / len(counted),
        "You returned a count: divide by the number of answers": float(counted[value]),
        "You left the empty answers out: a model that says nothing does not agree": (
            counted[value] / max(1, len(said))
        ),
        "You returned the doubt: 1 minus it is the confidence": 1 - counted[value] / len(answers),
    }


@confidence.part("the share that agrees", points=1)
def _(answer, draw) -> None:
    for _ in range(3):
        a, b, c = (str(value) for value in draw.choice(VALUES, size=3, replace=False))
        answers = [f"{a} ."] * int(draw.integers(2, 5)) + [f"{b} ."] * int(draw.integers(5, 8))
        answers = _shuffled(draw, [*answers, f"{c} .", f"{c} ."])
        for value in (a, b):
            compare(
                f"confidence({value!r}, answers)",
                answer(value, answers),
                reference_confidence(value, answers),
                mistakes=_confidence_mistakes(value, answers),
            )


@confidence.part("answers that contain one another, and empty ones", points=1)
def _(answer, draw) -> None:
    a, b = draw_words(draw, 2)
    answers = [a, f"{a} .", f"{a}{b} .", f"{b} {a} .", "", ".", f"{b} .", f"{b} ."]
    answers = _shuffled(draw, answers + [f"{a} ."] * int(draw.integers(1, 4)))
    compare(
        f"confidence({a!r}, answers)",
        answer(a, answers),
        reference_confidence(a, answers),
        mistakes=_confidence_mistakes(a, answers),
    )
    compare(
        "confidence of a value that was never answered",
        answer("norbury", answers),
        0.0,
        mistakes=_confidence_mistakes("norbury", answers),
    )


# 7.4 · area under the ROC curve -------------------------------------------------------------------


def reference_auroc(scores: np.ndarray, outcomes: np.ndarray) -> float:
    """Return P(score of a true one > score of a false one), a tie counted half."""
    true, false = scores[outcomes], scores[~outcomes]
    wins = (true[:, None] > false[None, :]) + 0.5 * (true[:, None] == false[None, :])
    return float(wins.mean())


auroc = Exercise("7.4", "Separation", function="auroc", reference=lambda: reference_auroc)


def _auroc_mistakes(scores: np.ndarray, outcomes: np.ndarray) -> dict[str, float]:
    true, false = scores[outcomes], scores[~outcomes]
    above, equal = true[:, None] > false[None, :], true[:, None] == false[None, :]
    count = min(len(true), len(false))
    return {
        "You gave ties nothing: a tie counts half, or a score that is always the same would get "
        "0 and not the coin's 1/2": float(above.mean()),
        "You gave ties everything: a tie counts half": float((above | equal).mean()),
        "The wrong way round: the TRUE one should have the higher score": float(
            1 - (above + 0.5 * equal).mean()
        ),
        "You returned an accuracy at the threshold 1/2: compare every true one with every false "
        "one, no threshold": float(((scores > 0.5) == outcomes).mean()),
        "You compared them one by one in order: every true one meets EVERY false one": float(
            np.mean((true[:count] > false[:count]) + 0.5 * (true[:count] == false[:count]))
        ),
        "You returned a difference of means: count which of two is higher": float(
            true.mean() - false.mean()
        ),
        "You counted the wins: divide by the number of comparisons": float(
            (above + 0.5 * equal).sum()
        ),
        "You divided by all N² comparisons: only a true one meets a false one": float(
            (above + 0.5 * equal).sum() / len(scores) ** 2
        ),
    }


@auroc.part("scores without ties", points=1)
def _(answer, draw) -> None:
    for _ in range(2):
        outcomes = draw.permutation(np.arange(14) < draw.integers(4, 7))
        scores = draw.random(14) * 0.6 + 0.3 * outcomes
        compare(
            "auroc(scores, outcomes)",
            answer(scores, outcomes),
            reference_auroc(scores, outcomes),
            mistakes=_auroc_mistakes(scores, outcomes),
        )
    scores = np.where(outcomes, 2.0, 1.0) + 0.5 * draw.random(14)
    compare(
        "auroc of scores without a mistake",
        answer(scores, outcomes),
        1.0,
        mistakes=_auroc_mistakes(scores, outcomes),
    )


@auroc.part("ties", points=2)
def _(answer, draw) -> None:
    outcomes = draw.permutation(np.arange(20) < draw.integers(6, 9))
    scores = (draw.integers(0, 5, size=20) + 2 * outcomes) / 8
    compare(
        "auroc with ties",
        answer(scores, outcomes),
        reference_auroc(scores, outcomes),
        mistakes=_auroc_mistakes(scores, outcomes),
    )
    same = np.full(20, 0.7)
    compare(
        "auroc of one score for all",
        answer(same, outcomes),
        0.5,
        mistakes=_auroc_mistakes(same, outcomes),
    )


# 7.5 · calibration --------------------------------------------------------------------------------


def reference_calibration_error(confidences: np.ndarray, correct: np.ndarray, bins: int) -> float:
    """Return Σ_k n_k/N · |share correct − mean confidence| over bins of equal width."""
    place = np.minimum((confidences * bins).astype(int), bins - 1)
    error = 0.0
    for k in range(bins):
        inside = place == k
        if inside.any():
            gap = abs(correct[inside].mean() - confidences[inside].mean())
            error += inside.mean() * gap
    return float(error)


calibration_error = Exercise(
    "7.5",
    "Calibration",
    function="calibration_error",
    reference=lambda: reference_calibration_error,
)


def _calibration_mistakes(
    confidences: np.ndarray, correct: np.ndarray, bins: int
) -> dict[str, float]:
    place = (confidences * bins).astype(int)
    gaps, signed, weights, centres, lost = [], [], [], [], 0.0
    for k in range(bins):
        inside = np.minimum(place, bins - 1) == k
        if inside.any():
            observed, stated = correct[inside].mean(), confidences[inside].mean()
            gaps.append(abs(observed - stated))
            signed.append(observed - stated)
            weights.append(inside.mean())
            centres.append(abs(observed - (k + 0.5) / bins))
        strict = place == k
        if strict.any():
            lost += strict.mean() * abs(correct[strict].mean() - confidences[strict].mean())
    weights = np.array(weights)
    return {
        "You averaged the bins alike: weigh each by its share of the claims, n_k/N": float(
            np.mean(gaps)
        ),
        "You divided by all bins, empty ones too: weigh each by its share of the claims": float(
            np.sum(gaps) / bins
        ),
        "You let gaps cancel: take |observed − stated| in each bin": float(
            np.sum(weights * signed)
        ),
        "You let gaps cancel: the absolute value belongs inside the sum": float(
            abs(np.sum(weights * signed))
        ),
        "You compared with the middle of the bin: compare with the mean confidence in it": float(
            np.sum(weights * centres)
        ),
        "You lost the claims of confidence 1: the last bin holds its upper border too": float(lost),
        "You squared the gaps: take their absolute value": float(np.sum(weights * np.square(gaps))),
        "You took the worst bin: sum over the bins": float(np.max(gaps)),
        "You averaged |correct − confidence| over claims: a claim alone is 0 or 1; compare means "
        "over bins": float(np.abs(correct - confidences).mean()),
    }


@calibration_error.part("ten bins", points=1)
def _(answer, draw) -> None:
    for bins in (10, 5):
        confidences = draw.random(60) * 0.999
        correct = draw.random(60) < confidences**2
        compare(
            f"calibration_error(confidences, correct, {bins})",
            answer(confidences, correct, bins),
            reference_calibration_error(confidences, correct, bins),
            mistakes=_calibration_mistakes(confidences, correct, bins),
        )


@calibration_error.part("confidences of 0 and 1, and empty bins", points=2)
def _(answer, draw) -> None:
    confidences = np.concatenate([np.zeros(6), np.ones(9), draw.random(15) * 0.2 + 0.41])
    correct = draw.random(30) < 0.6
    correct[6:8] = False  # sure and wrong
    order = draw.permutation(30)
    confidences, correct = confidences[order], correct[order]
    compare(
        "calibration_error with confidences of 0 and 1",
        answer(confidences, correct, 8),
        reference_calibration_error(confidences, correct, 8),
        mistakes=_calibration_mistakes(confidences, correct, 8),
    )


# 7.6 · pairs from scores --------------------------------------------------------------------------


def reference_make_pairs(
    responses: Sequence[str], scores: Sequence[float]
) -> list[tuple[str, str]]:
    """Return every (chosen, rejected) of different responses, the chosen one's score higher."""
    scored: dict[str, float] = {}
    for response, score in zip(responses, scores, strict=True):
        scored.setdefault(response, score)
    return [(a, b) for a in scored for b in scored if scored[a] > scored[b]]


make_pairs = Exercise(
    "7.6", "Pairs from scores", function="make_pairs", reference=lambda: reference_make_pairs
)


def _as_set(pairs: object) -> object:
    """Make pairs comparable whatever their order; anything else stays as it is."""
    try:
        return sorted(tuple(pair) for pair in pairs)
    except TypeError:
        return pairs


def _pair_mistakes(responses: Sequence[str], scores: Sequence[float]) -> dict[str, object]:
    right = reference_make_pairs(responses, scores)
    rows = list(zip(responses, scores, strict=True))
    every = [(a, b) for i, (a, s) in enumerate(rows) for j, (b, t) in enumerate(rows) if s > t]
    ties = [
        (a, b)
        for i, (a, s) in enumerate(rows)
        for j, (b, t) in enumerate(rows)
        if s > t or (s == t and i < j and a != b)
    ]
    ranked = sorted(dict(reversed(rows)), key=dict(rows).get, reverse=True)
    return {
        "You put the rejected one first: a pair is (chosen, rejected), the higher score first": (
            _as_set((b, a) for a, b in right)
        ),
        "You counted a repeated response again: each pair of texts once": _as_set(every),
        "You paired ties: equal scores say nothing about which is better": _as_set(ties),
        "You paired ties: equal scores say nothing about which is better; and each pair of texts "
        "once": _as_set(set(ties)),
        "You took only the best against the worst: every two responses with different scores make "
        "a pair": [(ranked[0], ranked[-1])] if right else [],
        "You took only the best against the others: every two responses with different scores "
        "make a pair": _as_set((a, b) for a, b in right if a == ranked[0]),
        "You took only neighbours in the ranking: every two responses with different scores make "
        "a pair": _as_set(
            (a, b) for a, b in zip(ranked, ranked[1:], strict=False) if (a, b) in right
        ),
    }


@make_pairs.part("different scores", points=1)
def _(answer, draw) -> None:
    responses = draw_words(draw, 5)
    scores = [float(score) for score in draw.permutation(5) - 2.0]
    compare(
        "the pairs, in any order",
        _as_set(answer(responses, scores)),
        _as_set(reference_make_pairs(responses, scores)),
        mistakes=_pair_mistakes(responses, scores),
    )


@make_pairs.part("ties, repeated responses, and nothing to choose", points=1)
def _(answer, draw) -> None:
    a, b, c, d, e = draw_words(draw, 5)
    low, middle, high = sorted(float(x) for x in draw.normal(size=3))
    rows = _shuffled(
        draw, [(a, high), (b, middle), (b, middle), (c, middle), (d, low), (a, high), (e, low)]
    )
    responses, scores = map(list, zip(*rows, strict=True))
    compare(
        "the pairs, in any order",
        _as_set(answer(responses, scores)),
        _as_set(reference_make_pairs(responses, scores)),
        mistakes=_pair_mistakes(responses, scores),
    )
    compare(
        "the pairs of a judge that scores all alike",
        _as_set(answer([a, b, c], [1.5, 1.5, 1.5])),
        [],
        mistakes=_pair_mistakes([a, b, c], [1.5, 1.5, 1.5]),
    )


# 7.7 · facts per response with an interval --------------------------------------------------------


def reference_mean_with_interval(counts: np.ndarray) -> tuple[float, float, float]:
    """Return mean, lower and upper end over subjects; (S, K) counts, K responses a subject."""
    means = counts.mean(1)
    error = means.std(ddof=1) / math.sqrt(len(means))
    return (
        float(means.mean()),
        float(means.mean() - 1.96 * error),
        float(means.mean() + 1.96 * error),
    )


mean_with_interval = Exercise(
    "7.7",
    "Facts per response",
    function="mean_with_interval",
    reference=lambda: reference_mean_with_interval,
)


def _interval_mistakes(counts: np.ndarray) -> dict[str, tuple[float, float, float]]:
    means = counts.mean(1)
    mean = float(means.mean())

    def around(error: float, z: float = 1.96) -> tuple[float, float, float]:
        return mean, mean - z * float(error), mean + z * float(error)

    right = means.std(ddof=1) / math.sqrt(len(means))
    found = {
        "You treated all responses as independent: those about one subject are alike; average "
        "each subject first": around(counts.std(ddof=1) / math.sqrt(counts.size)),
        "You treated all responses as independent, and divided by N in the variance": around(
            counts.std() / math.sqrt(counts.size)
        ),
        "You divided by N in the variance: ddof=1, the mean was estimated from the same numbers": (
            around(means.std() / math.sqrt(len(means)))
        ),
        "You forgot the √N: a mean varies less than one subject, s/√N": around(means.std(ddof=1)),
        "You divided by N in place of √N": around(means.std(ddof=1) / len(means)),
        "You gave one standard error to each side: 95 % need 1.96 of them": around(right, 1.0),
    }
    if counts.shape[1] > 1:
        found["You averaged over subjects first: axis 1 holds the responses about one subject"] = (
            around(counts.mean(0).std(ddof=1) / math.sqrt(counts.shape[1]))
        )
    return found


@mean_with_interval.part("one response a subject", points=1)
def _(answer, draw) -> None:
    counts = draw.integers(0, 6, size=(int(draw.integers(20, 40)), 1)).astype(float)
    compare(
        "mean_with_interval(counts) with K = 1",
        answer(counts),
        reference_mean_with_interval(counts),
        mistakes={
            hint: value
            for hint, value in _interval_mistakes(counts).items()
            if "independent" not in hint
        },
    )


@mean_with_interval.part("several responses a subject, alike", points=2)
def _(answer, draw) -> None:
    subjects = draw.normal(3, 1.5, size=(int(draw.integers(15, 30)), 1))
    counts = np.maximum(0, np.rint(subjects + draw.normal(0, 0.7, size=(len(subjects), 4))))
    got = answer(counts)
    compare(
        "mean_with_interval(counts) with K = 4",
        got,
        reference_mean_with_interval(counts),
        mistakes=_interval_mistakes(counts),
    )
    require(got[1] <= got[0] <= got[2], "The interval must hold the mean: lower, then upper end")


# 7.8 · a threshold that keeps a promise -----------------------------------------------------------


def reference_choose_threshold(confidences: np.ndarray, right: np.ndarray, share: float) -> float:
    """Return the lowest confidence t from which on at least ``share`` is right, else ∞."""
    for t in np.unique(confidences):
        if right[confidences >= t].mean() >= share:
            return float(t)
    return math.inf


choose_threshold = Exercise(
    "7.8",
    "A threshold that keeps a promise",
    function="choose_threshold",
    reference=lambda: reference_choose_threshold,
)


def _threshold_mistakes(
    confidences: np.ndarray, right: np.ndarray, share: float
) -> dict[str, float]:
    levels = np.unique(confidences)
    kept = [right[confidences >= t] for t in levels]
    meets = np.array([of.mean() >= share for of in kept])
    last = levels[meets][-1] if meets.any() else math.inf
    run = np.flatnonzero(~meets)  # from above, the first level that fails
    unbroken = levels[run[-1] + 1] if len(run) and run[-1] + 1 < len(levels) else math.inf
    order = np.argsort(-confidences, kind="stable")
    within = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    torn = confidences[order][within >= share]
    above = [t for t in levels[:-1] if right[confidences > t].mean() >= share]
    alone = [t for t in levels if right[confidences == t].mean() >= share]
    of_all = [t for t, of in zip(levels, kept, strict=True) if of.sum() / len(right) >= share]
    strict = [t for t, of in zip(levels, kept, strict=True) if of.mean() > share]

    def lowest(found: Sequence[float]) -> float:
        return float(min(found, default=math.inf))

    return {
        "You took the highest threshold that keeps the promise: the lowest one keeps more": float(
            last
        ),
        "You stopped at the first failure, coming from above: further down the share can be met "
        "again": float(unbroken),
        "You cut between claims of equal confidence: a threshold keeps all of them or none": lowest(
            torn
        ),
        "You kept p > t: a claim at the threshold is said too": lowest(above),
        "You looked at the claims of one confidence: count all that are said, p ≥ t": lowest(alone),
        "You asked for more than the share: at least it is enough": lowest(strict),
        "You divided by all claims: divide by those that are said": lowest(of_all),
        "Where no threshold keeps the promise say nothing: return math.inf": (
            lowest([]) if meets.any() else float(levels[-1])
        ),
    }


def _compare_threshold(
    answer: Callable[..., float], what: str, claims: Sequence[tuple[float, bool]], share: float
) -> None:
    confidences, right = (np.array(column) for column in zip(*claims, strict=True))
    compare(
        f"choose_threshold with {what}, share {share}",
        answer(confidences, right, share),
        reference_choose_threshold(confidences, right, share),
        mistakes=_threshold_mistakes(confidences, right, share),
    )


def _mixed(draw: np.random.Generator, claims: list[tuple[float, bool]]) -> list[tuple[float, bool]]:
    return [claims[i] for i in draw.permutation(len(claims))]


@choose_threshold.part("no two claims alike", points=1)
def _(answer, draw) -> None:
    low, middle, high = np.sort(draw.random((3, 5)) * 0.2 + np.array([[0.1], [0.4], [0.7]]), 1)
    claims = [(p, False) for p in low] + [(p, True) for p in high]
    claims += [(p, bool(i % 2)) for i, p in enumerate(middle)]
    _compare_threshold(answer, "claims of different confidence", _mixed(draw, claims), 0.72)


@choose_threshold.part("equal confidences, and a share that is met again", points=1)
def _(answer, draw) -> None:
    # From above: all right, then too many wrong ones, then enough again. Ties at most levels.
    levels = np.sort(draw.choice(np.arange(1, 20) / 20, 5, replace=False))[::-1].tolist()
    counts = ((1, 0), (2, 0), (1, 3), (int(draw.integers(10, 15)), 0), (0, 9))
    claims = [
        (p, is_right)
        for p, (right, wrong) in zip(levels, counts, strict=True)
        for is_right in [True] * right + [False] * wrong
    ]
    _compare_threshold(answer, "ties", _mixed(draw, claims), 0.75)
    tied = [(0.8, True)] * 3 + [(0.8, False)] + [(0.6, False)] * int(draw.integers(2, 6))
    _compare_threshold(answer, "a share that is met exactly", _mixed(draw, tied), 0.75)


@choose_threshold.part("all of it, and none of it", points=1)
def _(answer, draw) -> None:
    known = [(float(p), True) for p in draw.random(6)]
    _compare_threshold(answer, "claims that are all right", known, 0.9)
    wrong = [(0.95, False)] * 2 + [
        (float(p), bool(i % 3)) for i, p in enumerate(draw.random(7) * 0.9)
    ]
    _compare_threshold(answer, "a promise that none keeps", _mixed(draw, wrong), 0.95)


EXERCISES = [
    find_claims,
    score_claims,
    confidence,
    auroc,
    calibration_error,
    make_pairs,
    mean_with_interval,
    choose_threshold,
]
