"""Answers to the exercises of lesson 7 that learners give: wrong ones with the hint each must get.

``WRONG`` maps an exercise to (name, function, fragment of its hint); ``RIGHT`` to unusual answers
that are right all the same.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter

import numpy as np

# 7.1 · claims from text ---------------------------------------------------------------------------


def _sentences(text):
    words, start = text.split(), 0
    for i, word in enumerate(words):
        if word == ".":
            yield start, i + 1, words[start : i + 1]
            start = i + 1


def _match(phrasing, words):
    form = phrasing.split()
    if len(form) != len(words) or any(
        a not in ("VALUE", b) for a, b in zip(form, words, strict=True)
    ):
        return None
    return words[form.index("VALUE")]


def claims_with_characters(text, phrasings):
    found, place = [], 0
    for _, _, words in _sentences(text):
        sentence = " ".join(words)
        place = text.index(sentence, place)
        for relation, phrasing in phrasings:
            value = _match(phrasing, words[1:-1])
            if value:
                found.append((relation, value, place, place + len(sentence)))
        place += len(sentence)
    return found


def _claims(text, phrasings, place=lambda a, b: (a, b), sentences=_sentences):
    return [
        (relation, value, *place(start, stop))
        for start, stop, words in sentences(text)
        for relation, phrasing in phrasings
        if (value := _match(phrasing, words[1:-1]))
    ]


def claims_without_stop(text, phrasings):
    return _claims(text, phrasings, lambda a, b: (a, b - 1))


def claims_without_subject(text, phrasings):
    return _claims(text, phrasings, lambda a, b: (a + 1, b))


def claims_within_sentences(text, phrasings):
    return _claims(text, phrasings, lambda a, b: (0, b - a))


def claims_of_cut_text(text, phrasings):
    return _claims(text + " ." if text and not text.endswith(".") else text, phrasings)


def claims_by_beginning(text, phrasings):
    found = []
    for start, stop, words in _sentences(text):
        for relation, phrasing in phrasings:
            form = phrasing.split()
            if len(words) - 2 >= len(form):
                value = _match(phrasing, words[1 : 1 + len(form)])
                if value:
                    found.append((relation, value, start, stop))
                    break
    return found


def claims_first_only(text, phrasings):
    return _claims(text, phrasings)[:1]


def claims_sorted(text, phrasings):
    return sorted(_claims(text, phrasings))


def claims_once_each(text, phrasings):
    found = {}
    for claim in _claims(text, phrasings):
        found.setdefault(claim[0], claim)
    return list(found.values())


def claims_by_regex(text, phrasings):
    found = []
    for match in re.finditer(r"(?:^|(?<=\. ))((?:(?!\. )[^.])+) \.(?= |$)", text):
        sentence = match[1]
        start = len(text[: match.start(1)].split())
        for relation, phrasing in phrasings:
            pattern = re.escape(phrasing).replace("VALUE", r"(\S+)")
            hit = re.fullmatch(rf"\S+ {pattern}", sentence)
            if hit:
                found.append((relation, hit[1], start, start + len(sentence.split()) + 1))
    return found


def claims_by_walking(text, phrasings):
    words, claims, sentence, start = text.split(), [], [], 0
    for position, word in enumerate(words):
        sentence.append(word)
        if word != ".":
            continue
        for relation, phrasing in phrasings:
            wanted = ["", *phrasing.split(), "."]
            if len(wanted) != len(sentence):
                continue
            differing = [i for i in range(1, len(wanted)) if wanted[i] != sentence[i]]
            if len(differing) == 1 and wanted[differing[0]] == "VALUE":
                claims.append([relation, sentence[differing[0]], start, position + 1])
        sentence, start = [], position + 1
    return [tuple(claim) for claim in claims]


# 7.2 · right, wrong, precision --------------------------------------------------------------------


def _share(a, b):
    return a / b if b else math.nan


def score_with_repeats(claims, truth):
    hits = [truth[relation] == value for relation, value in claims]
    return sum(hits), len(hits) - sum(hits), _share(sum(hits), len(hits))


def score_with_half_contradictions(claims, truth):
    return score_with_repeats(set(claims), truth)


def score_by_last_value(claims, truth):
    return score_with_repeats(list(dict(claims).items()), truth)


def score_by_first_value(claims, truth):
    return score_with_repeats(list(dict(claims[::-1]).items()), truth)


def score_fixed(claims, truth):
    given = {}
    for relation, value in claims:
        given.setdefault(relation, set()).add(value)
    right = sum(values == {truth[r]} for r, values in given.items())
    wrong = sum(len(values) for r, values in given.items() if values != {truth[r]})
    return right, wrong


def score_recall(claims, truth):
    right, wrong = score_fixed(claims, truth)
    return right, wrong, _share(right, len(truth))


def score_silence_is_bad(claims, truth):
    right, wrong = score_fixed(claims, truth)
    return right, wrong, right / (right + wrong) if right + wrong else 0.0


def score_silence_is_good(claims, truth):
    right, wrong = score_fixed(claims, truth)
    return right, wrong, right / (right + wrong) if right + wrong else 1.0


def score_swapped(claims, truth):
    right, wrong = score_fixed(claims, truth)
    return wrong, right, _share(wrong, right + wrong)


def score_by_counter(claims, truth):
    different = Counter(relation for relation, _ in set(claims))
    right = wrong = 0
    for relation, value in set(claims):
        if different[relation] == 1 and truth[relation] == value:
            right += 1
        else:
            wrong += 1
    return right, wrong, float(np.divide(right, right + wrong)) if claims else float("nan")


def score_by_sorting(claims, truth):
    groups = itertools.groupby(sorted(set(claims)), key=lambda claim: claim[0])
    marks = []
    for relation, group in groups:
        values = [value for _, value in group]
        marks += [True] if values == [truth[relation]] else [False] * len(values)
    return marks.count(True), marks.count(False), _share(sum(marks), len(marks))


# 7.3 · confidence ---------------------------------------------------------------------------------


def _firsts(answers):
    return [(answer.split() or [""])[0] for answer in answers]


def confidence_of_whole_answers(value, answers):
    return sum(answer == value for answer in answers) / len(answers)


def confidence_anywhere(value, answers):
    return sum(value in answer for answer in answers) / len(answers)


def confidence_among_words(value, answers):
    return sum(value in answer.split() for answer in answers) / len(answers)


def confidence_of_the_commonest(value, answers):
    return max(Counter(_firsts(answers)).values()) / len(answers)


def confidence_vote(value, answers):
    return float(Counter(_firsts(answers)).most_common(1)[0][0] == value)


def confidence_count(value, answers):
    return float(_firsts(answers).count(value))


def confidence_over_different(value, answers):
    return _firsts(answers).count(value) / len(set(_firsts(answers)))


def confidence_without_empty(value, answers):
    said = [first for first in _firsts(answers) if first]
    return said.count(value) / max(1, len(said))


def confidence_doubt(value, answers):
    return 1 - _firsts(answers).count(value) / len(answers)


def confidence_by_mean(value, answers):
    return np.mean([answer.partition(" ")[0] == value for answer in answers])


def confidence_by_prefix(value, answers):
    return sum(f"{answer} ".startswith(f"{value} ") for answer in answers) / len(answers)


# 7.4 · area under the ROC curve -------------------------------------------------------------------


def auroc_strict(scores, outcomes):
    return float((scores[outcomes][:, None] > scores[~outcomes][None]).mean())


def auroc_lenient(scores, outcomes):
    return float((scores[outcomes][:, None] >= scores[~outcomes][None]).mean())


def auroc_reversed(scores, outcomes):
    return 1 - auroc_by_ranks(scores, outcomes)


def auroc_accuracy(scores, outcomes):
    return float(((scores > 0.5) == outcomes).mean())


def auroc_means(scores, outcomes):
    return float(scores[outcomes].mean() - scores[~outcomes].mean())


def auroc_count(scores, outcomes):
    return auroc_by_ranks(scores, outcomes) * outcomes.sum() * (~outcomes).sum()


def auroc_by_ranks(scores, outcomes):
    order = np.sort(scores)
    ranks = (np.searchsorted(order, scores, "left") + np.searchsorted(order, scores, "right")) / 2
    n = int(outcomes.sum())
    return float((ranks[outcomes].sum() - n * n / 2) / (n * (len(scores) - n)))


def auroc_by_curve(scores, outcomes):
    levels = [math.inf, *np.unique(scores)[::-1]]
    hits = [float((scores[outcomes] >= level).mean()) for level in levels]
    alarms = [float((scores[~outcomes] >= level).mean()) for level in levels]
    return sum(
        (alarms[i + 1] - alarms[i]) * (hits[i + 1] + hits[i]) / 2 for i in range(len(levels) - 1)
    )


# 7.5 · calibration --------------------------------------------------------------------------------


def _bins(confidences, correct, bins):
    place = np.minimum((confidences * bins).astype(int), bins - 1)
    for k in range(bins):
        inside = place == k
        if inside.any():
            yield k, inside.mean(), correct[inside].mean(), confidences[inside].mean()


def ece_unweighted(confidences, correct, bins):
    return float(np.mean([abs(o - s) for _, _, o, s in _bins(confidences, correct, bins)]))


def ece_over_all_bins(confidences, correct, bins):
    return float(sum(abs(o - s) for _, _, o, s in _bins(confidences, correct, bins)) / bins)


def ece_signed(confidences, correct, bins):
    return float(sum(w * (o - s) for _, w, o, s in _bins(confidences, correct, bins)))


def ece_middles(confidences, correct, bins):
    found = _bins(confidences, correct, bins)
    return float(sum(w * abs(o - (k + 0.5) / bins) for k, w, o, _ in found))


def ece_without_ones(confidences, correct, bins):
    total = 0.0
    for k in range(bins):
        inside = (confidences >= k / bins) & (confidences < (k + 1) / bins)
        if inside.any():
            gap = abs(correct[inside].mean() - confidences[inside].mean())
            total += inside.mean() * gap
    return float(total)


def ece_squared(confidences, correct, bins):
    return float(sum(w * (o - s) ** 2 for _, w, o, s in _bins(confidences, correct, bins)))


def ece_worst(confidences, correct, bins):
    return float(max(abs(o - s) for _, _, o, s in _bins(confidences, correct, bins)))


def ece_of_single_claims(confidences, correct, bins):
    return float(np.abs(correct - confidences).mean())


def ece_by_bincount(confidences, correct, bins):
    place = np.clip(np.floor(confidences * bins), 0, bins - 1).astype(int)
    difference = np.bincount(place, correct.astype(float) - confidences, bins)
    return float(np.abs(difference).sum() / len(confidences))


def ece_by_loop(confidences, correct, bins):
    sums = [[0, 0.0, 0] for _ in range(bins)]
    for p, hit in zip(confidences, correct, strict=True):
        entry = sums[-1 if p == 1 else int(p * bins)]
        entry[0] += 1
        entry[1] += p
        entry[2] += bool(hit)
    return sum(abs(hits - stated) for _, stated, hits in sums) / len(confidences)


# 7.6 · pairs --------------------------------------------------------------------------------------


def _all_pairs(responses, scores):
    scored = dict(zip(responses, scores, strict=True))
    return {(a, b) for a, b in itertools.permutations(scored, 2) if scored[a] > scored[b]}


def pairs_swapped(responses, scores):
    return [(b, a) for a, b in _all_pairs(responses, scores)]


def pairs_repeated(responses, scores):
    rows = list(zip(responses, scores, strict=True))
    return [(a, b) for a, s in rows for b, t in rows if s > t]


def pairs_with_ties(responses, scores):
    rows = list(dict(zip(responses, scores, strict=True)).items())
    return [
        (a, b)
        for i, (a, s) in enumerate(rows)
        for j, (b, t) in enumerate(rows)
        if s > t or (s == t and i < j)
    ]


def pairs_best_and_worst(responses, scores):
    ranked = sorted(set(_all_pairs(responses, scores)) and set(responses))
    scored = dict(zip(responses, scores, strict=True))
    ranked = sorted(dict.fromkeys(responses), key=scored.get, reverse=True)
    return [(ranked[0], ranked[-1])] if scored[ranked[0]] > scored[ranked[-1]] else []


def pairs_best_and_others(responses, scores):
    scored = dict(zip(responses, scores, strict=True))
    best = max(dict.fromkeys(responses), key=scored.get)
    return [(a, b) for a, b in _all_pairs(responses, scores) if a == best]


def pairs_neighbours(responses, scores):
    scored = dict(zip(responses, scores, strict=True))
    ranked = sorted(scored, key=scored.get, reverse=True)
    return [(a, b) for a, b in itertools.pairwise(ranked) if scored[a] > scored[b]]


def pairs_as_lists(responses, scores):
    found = []
    for a, s in zip(responses, scores, strict=True):
        for b, t in zip(responses, scores, strict=True):
            if s > t and [a, b] not in found:
                found.append([a, b])
    return found


def pairs_by_sorting(responses, scores):
    ranked = sorted(set(zip(scores, responses, strict=True)), reverse=True)
    both = itertools.combinations(ranked, 2)
    return [(a, b) for (s, a), (t, b) in both if s != t]


# 7.7 · interval -----------------------------------------------------------------------------------


def _around(mean, error, z=1.96):
    return float(mean), float(mean - z * error), float(mean + z * error)


def interval_of_all_responses(counts):
    return _around(counts.mean(), counts.std(ddof=1) / math.sqrt(counts.size))


def interval_biased(counts):
    means = counts.mean(1)
    return _around(means.mean(), means.std() / math.sqrt(len(means)))


def interval_of_a_subject(counts):
    means = counts.mean(1)
    return _around(means.mean(), means.std(ddof=1))


def interval_over_n(counts):
    means = counts.mean(1)
    return _around(means.mean(), means.std(ddof=1) / len(means))


def interval_one_error(counts):
    means = counts.mean(1)
    return _around(means.mean(), means.std(ddof=1) / math.sqrt(len(means)), 1.0)


def interval_by_variance(counts):
    means = [sum(row) / len(row) for row in counts.tolist()]
    mean = sum(means) / len(means)
    variance = sum((m - mean) ** 2 for m in means) / (len(means) - 1)
    return _around(mean, (variance / len(means)) ** 0.5)


def interval_as_array(counts):
    means = np.mean(counts, axis=-1)
    half = 1.96 * np.sqrt(np.var(means, ddof=1) / means.size)
    return [means.mean(), means.mean() - half, means.mean() + half]


# 7.8 · a threshold that keeps a promise -----------------------------------------------------------


def _levels(confidences, right, share):
    return [t for t in np.unique(confidences) if right[confidences >= t].mean() >= share]


def threshold_highest(confidences, right, share):
    return max(_levels(confidences, right, share), default=math.inf)


def threshold_unbroken(confidences, right, share):
    best = math.inf
    for t in np.unique(confidences)[::-1]:
        if right[confidences >= t].mean() < share:
            break
        best = t
    return best


def threshold_within_ties(confidences, right, share):
    order = np.argsort(-confidences, kind="stable")
    shares = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    return min(confidences[order][shares >= share], default=math.inf)


def threshold_above(confidences, right, share):
    levels = np.unique(confidences)[:-1]
    return min((t for t in levels if right[confidences > t].mean() >= share), default=math.inf)


def threshold_of_one_level(confidences, right, share):
    levels = np.unique(confidences)
    return min((t for t in levels if right[confidences == t].mean() >= share), default=math.inf)


def threshold_of_all(confidences, right, share):
    levels = np.unique(confidences)
    met = (t for t in levels if right[confidences >= t].sum() / len(right) >= share)
    return min(met, default=math.inf)


def threshold_more_than(confidences, right, share):
    levels = np.unique(confidences)
    return min((t for t in levels if right[confidences >= t].mean() > share), default=math.inf)


def threshold_always(confidences, right, share):
    return min(_levels(confidences, right, share), default=confidences.max())


def threshold_by_cumsum(confidences, right, share):
    levels, place = np.unique(-confidences, return_inverse=True)
    said, good = np.bincount(place), np.bincount(place, right)
    met = np.flatnonzero(np.cumsum(good) / np.cumsum(said) >= share)
    return -levels[met[-1]] if len(met) else float("inf")


def threshold_by_loop(confidences, right, share):
    for t in sorted(confidences.tolist()):
        said = [bool(r) for p, r in zip(confidences, right, strict=True) if p >= t]
        if sum(said) / len(said) >= share:
            return t
    return np.inf


WRONG = {
    "7.1": [
        ("characters", claims_with_characters, "Your places count characters"),
        ("no full stop", claims_without_stop, "Your end leaves out the full stop"),
        ("no subject", claims_without_subject, "Your start leaves out the subject"),
        ("place in the sentence", claims_within_sentences, "Your places begin at 0"),
        ("cut text", claims_of_cut_text, "a text that is cut off may still go on"),
        ("beginning only", claims_by_beginning, "You matched only the beginning"),
        ("first only", claims_first_only, "You stopped at the first claim"),
        ("sorted", claims_sorted, "keep the order of the text"),
        ("once each", claims_once_each, "You listed each relation once"),
    ],
    "7.2": [
        ("repeats", score_with_repeats, "You counted a repeated claim again"),
        ("half right", score_with_half_contradictions, "You let a contradiction be half right"),
        ("last value", score_by_last_value, "You kept one value of a contradiction, the last"),
        ("first value", score_by_first_value, "You kept one value of a contradiction, the first"),
        ("recall", score_recall, "that is recall"),
        ("silence bad", score_silence_is_bad, "silence is not a lie"),
        ("silence good", score_silence_is_good, "silence is no merit"),
        ("swapped", score_swapped, "You swapped right and wrong"),
    ],
    "7.3": [
        ("whole answers", confidence_of_whole_answers, "You compared the whole answer"),
        ("anywhere", confidence_anywhere, "'art' is in 'artist'"),
        ("among words", confidence_among_words, "You looked for the value among all words"),
        ("commonest", confidence_of_the_commonest, "the confidence of the commonest answer"),
        ("vote", confidence_vote, "throws the degree away"),
        ("count", confidence_count, "You returned a count"),
        ("over different", confidence_over_different, "the number of different answers"),
        ("without empty", confidence_without_empty, "You left the empty answers out"),
        ("doubt", confidence_doubt, "You returned the doubt"),
    ],
    "7.4": [
        ("strict", auroc_strict, "You gave ties nothing"),
        ("lenient", auroc_lenient, "You gave ties everything"),
        ("reversed", auroc_reversed, "The wrong way round"),
        ("accuracy", auroc_accuracy, "an accuracy at the threshold"),
        ("means", auroc_means, "a difference of means"),
        ("count", auroc_count, "divide by the number of comparisons"),
    ],
    "7.5": [
        ("unweighted", ece_unweighted, "You averaged the bins alike"),
        ("over all bins", ece_over_all_bins, "empty ones too"),
        ("signed", ece_signed, "You let gaps cancel"),
        ("middles", ece_middles, "You compared with the middle of the bin"),
        ("without ones", ece_without_ones, "You lost the claims of confidence 1"),
        ("squared", ece_squared, "You squared the gaps"),
        ("worst", ece_worst, "You took the worst bin"),
        ("single claims", ece_of_single_claims, "a claim alone is 0 or 1"),
    ],
    "7.6": [
        ("swapped", pairs_swapped, "You put the rejected one first"),
        ("repeated", pairs_repeated, "You counted a repeated response again"),
        ("ties", pairs_with_ties, "You paired ties"),
        ("best and worst", pairs_best_and_worst, "only the best against the worst"),
        ("best and others", pairs_best_and_others, "only the best against the others"),
        ("neighbours", pairs_neighbours, "You took only neighbours"),
    ],
    "7.7": [
        ("all responses", interval_of_all_responses, "all responses as independent"),
        ("biased", interval_biased, "You divided by N in the variance"),
        ("one subject", interval_of_a_subject, "You forgot the √N"),
        ("over n", interval_over_n, "You divided by N in place of √N"),
        ("one error", interval_one_error, "You gave one standard error"),
    ],
    "7.8": [
        ("highest", threshold_highest, "You took the highest threshold"),
        ("unbroken", threshold_unbroken, "You stopped at the first failure"),
        ("within ties", threshold_within_ties, "You cut between claims of equal confidence"),
        ("above", threshold_above, "a claim at the threshold is said too"),
        ("one level", threshold_of_one_level, "You looked at the claims of one confidence"),
        ("of all", threshold_of_all, "divide by those that are said"),
        ("more than", threshold_more_than, "at least it is enough"),
        ("always", threshold_always, "return math.inf"),
    ],
}

RIGHT = {
    "7.1": [("regex", claims_by_regex), ("walking", claims_by_walking)],
    "7.2": [("counter", score_by_counter), ("sorting", score_by_sorting)],
    "7.3": [("mean", confidence_by_mean), ("prefix", confidence_by_prefix)],
    "7.4": [("ranks", auroc_by_ranks), ("curve", auroc_by_curve)],
    "7.5": [("bincount", ece_by_bincount), ("loop", ece_by_loop)],
    "7.6": [("lists", pairs_as_lists), ("sorting", pairs_by_sorting)],
    "7.7": [("variance", interval_by_variance), ("array", interval_as_array)],
    "7.8": [("cumulative sums", threshold_by_cumsum), ("loop", threshold_by_loop)],
}
