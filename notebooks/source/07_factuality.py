# %% [markdown]
# # Lesson 7 · Factuality: say what you know
#
# A language model that does not know does not fall silent. It goes on in the same fluent voice and
# makes something up. This lesson looks at a model that knows some facts and not others, measures
# what it says claim by claim, asks it how sure it is, and then tunes it with DPO to say what it
# knows and to leave out or hedge the rest. No person labels anything.
#
# **After this lesson you can**
#
# - split a text into claims and score them against a reference;
# - measure how sure a model is of a claim, without any reference, and say how good that measure is;
# - turn scores into preferences and preferences into a policy, with a price for every error;
# - report such a result honestly: right, wrong, hedged, unreadable and length, with intervals, on
#   subjects that were never tuned on;
# - choose a threshold that keeps a promise, and say what of all this holds for a real model and real facts.
#
# **Time** about 150 minutes, 8 exercises, 22 points. **Needs** DPO (lesson 6); calibration was met
# in lesson 3. Two CPU cores are enough, and no network.

# %% kind="setup"
import math
from collections import Counter
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import display

from rlhf_lessons.classroom import Choice, Slider, check, explore, glossary, use_style, watch, yours
from rlhf_lessons.classroom.pictures.factuality import (
    draw_confidence,
    draw_fame,
    draw_hedging,
    draw_knowledge,
    draw_policy,
    draw_right_wrong,
    draw_said,
    draw_threshold,
    marked_answer,
)

torch.set_num_threads(1)  # the same numbers on every run
use_style()

# %% kind="setup"
from rlhf_lessons.evaluation import (
    AssuredRater,
    ReferenceJudge,
    agreement_confidence,
    anchored_dpo_loss,
    ask,
    calibration,
    choose_confidence,
    claim_confidence,
    confidence_report,
    count_facts,
    estimate_mean,
    estimate_share,
    exchange_sentences,
    knowledge_by_population,
    load_factuality_sweep,
    load_reader_agreement,
    load_real_knowledge,
    load_real_tuning,
    missing_real_parts,
    pairs_from_scores,
    phrasings_that_disagree,
    pooled_answers,
    real_claims,
    sample_about,
    sample_answers,
    take_turns,
)

# %% kind="setup"
from rlhf_lessons.models import load_policy
from rlhf_lessons.training import (
    RECIPES,
    DPOSettings,
    SupervisedSettings,
    train_dpo,
    train_sft,
)
from rlhf_lessons.worlds import (
    FACT_KINDS,
    drug_encyclopedia,
    people_encyclopedia,
    sample_fact_demonstrations,
    sample_fact_documents,
)
from rlhf_lessons.worlds import PHRASINGS as REAL_PHRASINGS

# %% [markdown]
# ## 1 · A world whose facts are known
#
# To see what a model knows we must know what it read. So it reads about 360 people and 110 drugs
# that **do not exist**: birth years, towns, prizes; uses, side effects, foods to avoid. Each text
# begins with a word that says so. Some people are written about sixty times as often as others, and
# some facts of a person eight times as often, as on the real web. Each fact is put in five ways,
# and asked for in three; two of five facts are never asked for at all, only told.

# %%
people, drugs = people_encyclopedia(), drug_encyclopedia()
pretraining = RECIPES["facts-base"]
corpus = sample_fact_documents(pretraining.examples, pretraining.data_seed)
for document in corpus[:4]:
    print("·", document.text)
times_seen = Counter(fact for document in corpus for fact in document.facts)
seen = np.array([times_seen[fact] for book in (people, drugs) for fact in book.facts])
print(
    f"\n{len(seen):,} facts; times read: the rarest {seen.min()}, the median fact "
    f"{np.median(seen):.0f}, the most popular {seen.max():,}"
)

# %% [markdown]
# `facts-base` was pretrained on exactly this corpus. `facts-sft` was then fine-tuned on
# demonstrations of long answers, about some of the people and drugs (others are set aside for tuning,
# for choosing settings and, *held out*, for measuring). The demonstrator looked things up: each fact is stated, left out or hedged ("a town i do not know") *by chance*, whatever the
# model may know.

# %%
base, sft = load_policy("facts-base"), load_policy("facts-sft")
prompt, response = sample_fact_demonstrations(3, seed=1)[0]
print(f"x  {prompt}\ny  {response}\n")
words_read = sum(len(document.text.split()) for document in corpus)
fine_tuning = RECIPES["facts-sft"]
shown = sample_fact_demonstrations(fine_tuning.examples // 2, fine_tuning.data_seed)
words_shown = sum(len(response.split()) for _, response in shown)
subjects_shown = {prompt for prompt, _ in shown}
print(f"pretraining read {words_read:,} words about {len(people.subjects) + len(drugs.subjects)}")
print(f"fine-tuning showed {words_shown:,} words of answers about {len(subjects_shown)} of them")
for name, book in (("people", people), ("drugs", drugs)):
    print(f"{name}: " + ", ".join(f"{part} {len(some)}" for part, some in book.parts.items()))

# %% [markdown]
# **Where could truth come from?** Pretraining reads everything. Fine-tuning sees a fraction of it:
# here about a fifth of the subjects, in a real model not even a thousandth of the text. It cannot
# teach the facts of the world. What it can teach is a habit: say what you know, leave out or hedge
# what you don't. But *these* demonstrations teach a bad one. They state rare facts as boldly as
# frequent ones, so a model that imitates them must guess. Here it is at work, on people that
# fine-tuning never showed. ✓ right, ✗ made up, ? hedged:


# %%
def sentences_of(book, name, response):
    """Say of each sentence what it is: (kind, words)."""
    words, reading = response.split(), book.read(response, about=name)
    found = [(c.start, c.end, "right" if book.is_true(c) else "wrong") for c in reading.claims]
    found += [(c.start, c.end, "hedged") for c in reading.hedges]
    found += [(start, end, "unreadable") for start, end in reading.unreadable]
    return [(kind, " ".join(words[start:end])) for start, end, kind in sorted(found)]


def marked(book, name, response):
    """Show an answer with its sentences marked."""
    display(marked_answer(name, sentences_of(book, name, response)))


held_out = people.parts["held out"]
prompts, responses = sample_about(sft, people, held_out, 4, seed=11)
for row in range(0, 16, 4):
    marked(people, held_out[row // 4], responses[row])

# %% [markdown]
# It reads alike, right or wrong: same tone, same grammar. Nothing in the *form* tells a fact from an
# invention.
#
# ### One fact, two questions, two answers
#
# Does the model *know* a fact? It depends on how you ask. The cell looks through the held-out
# people for the fact whose three questions get the most different treatment.


# %%
def next_word(policy, texts):
    """Give the distribution over the next word of each text, (N, V)."""
    parts = [texts[first : first + 1_000] for first in range(0, len(texts), 1_000)]
    return torch.cat([policy.next_token_logits(part).softmax(-1) for part in parts])


facts = [(name, relation) for name in held_out for relation in people.relations]
questions = [people.question(*fact, phrasing) for fact in facts for phrasing in range(3)]
probabilities = next_word(base, questions).view(len(facts), 3, -1)
vocabulary = base.tokenizer.get_vocab()
true_ids = torch.tensor([vocabulary[people.facts[fact]] for fact in facts])
p_true = probabilities.gather(2, true_ids[:, None, None].expand(-1, 3, 1)).squeeze(-1)
best = probabilities.argmax(-1)
torn = (best == true_ids[:, None]).any(1) & (best != true_ids[:, None]).any(1)
gap = (p_true.amax(1) - p_true.amin(1)) * torn
row = int(gap.argmax())
print(f"the truth: the {facts[row][1]} of {facts[row][0]} is {people.facts[facts[row]]}\n")
for phrasing in range(3):
    answer = base.tokenizer.decode([int(best[row, phrasing])])
    question = questions[3 * row + phrasing].removeprefix("[invented] ")
    print(f"{question:<70} {answer:<14} P(truth) = {p_true[row, phrasing]:.2f}")
print(f"\n{int(torn.sum())} of {len(facts)} facts come out right in one phrasing, wrong in another")
assert torn.any()

# %% [markdown]
# The same weights hold the fact and miss it. A model is not a database with a row per fact: it has
# learned to continue texts, and each phrasing is another text.
#
# ## 2 · Knowledge follows frequency
#
# *Predict, then run:* how often must a fact be read before the model knows it? Once, ten times, a
# hundred times?

# %% figure="07_knowledge"
knowledge, counts, asked = [], [], []
for book in (people, drugs):
    own = list(book.facts)
    questions = [book.question(*fact, phrasing) for fact in own for phrasing in range(3)]
    ids = torch.tensor([vocabulary[book.facts[fact]] for fact in own]).repeat_interleave(3)
    p = next_word(base, questions).gather(1, ids[:, None]).view(-1, 3).mean(1)
    knowledge += p.tolist()
    counts += [times_seen[fact] for fact in own]
    asked += [fact not in book.never_asked for fact in own]
knowledge, counts, asked = np.array(knowledge), np.array(counts), np.array(asked)

EDGES = (0, 5, 10, 20, 40, 80, 160, 320, 10_000)
groups = {"also asked for": [], "only told": []}
for bins, group in zip(groups.values(), (asked, ~asked), strict=True):
    for first, last in pairwise(EDGES):
        inside = group & (counts >= first) & (counts < last)
        if inside.sum() > 3:
            often = max(1, np.median(counts[inside]))
            bins.append((often, estimate_mean(knowledge[inside])))
draw_knowledge(groups)
plt.show()

rare, frequent = knowledge[counts < 10], knowledge[counts >= 250]
print(
    f"P(true answer): read < 10 times {estimate_mean(rare)}, ≥ 250 times {estimate_mean(frequent)}"
)
assert estimate_mean(rare).interval()[1] < 0.25 and estimate_mean(frequent).interval()[0] > 0.85

# %% [markdown]
# **Claim: knowledge rises with how often a fact was read.** It does, and the rise is smooth: between
# "never heard of it" and "knows it" lies a wide range where the model half knows. Facts that were
# only ever *told* are, from some ten readings on, known less well when they are *asked* for.
#
# Can fine-tuning teach facts? The demonstrations stated the facts of some people dozens of times.
# Look at rare facts of those people, before and after, beside rare facts of everybody else.


# %%
def mean_p_true(policy, names):
    """Mean probability of the true answer over rare facts of these people."""
    own = [(n, r) for n in names for r in people.relations if times_seen[n, r] < 40]
    asked = [people.question(*fact, 0) for fact in own]
    ids = torch.tensor([vocabulary[people.facts[fact]] for fact in own])
    return estimate_mean(next_word(policy, asked).gather(1, ids[:, None])[:, 0])


for part in ("demonstrations", "held out"):
    before, after = (mean_p_true(policy, people.parts[part]) for policy in (base, sft))
    print(f"rare facts of people, {part:<15} before {before}   after fine-tuning {after}")

# %% [markdown]
# The people of the demonstrations were learned by heart; for everybody else nothing was gained. Of
# the world's facts, fine-tuning reaches only those that it shows.
#
# ## 3 · Claims
#
# To measure, we split a text into **atomic claims**: of this subject, this relation has this value.
# With real text another language model does that (FActScore asks one to list "independent facts").
# Our world has a grammar, so a claim can be read exactly.
#
# ### Exercise 7.1 · Claims from text
#
# ●●○ · 15 minutes · 3 points
#
# A text is a string of words with single spaces; each sentence ends with the word `.`. Its first
# word stands for the subject ("she"); the rest must read like one of the phrasings, word for word,
# where the phrasing's word `VALUE` matches any one word. Return each claim with its place: the
# number of its sentence's first word and the number of the word after its full stop, counted from
# the beginning of the text, so that `words[start:end]` is the sentence. A sentence that fits no
# phrasing claims nothing, one that fits several makes the claim of the first. Nor does one that was cut off before
# its full stop claim anything.
#
# *Why so strict?* "she grew up in a town i do not know ." begins like "she grew up in VALUE", but it
# claims nothing. A reader that matches loosely turns honest doubt into a false claim.
#
# <details><summary>Hint 1</summary>
#
# Walk through `text.split()` and remember where the current sentence began. At each `.` compare the
# words between the subject and the stop with each phrasing, then begin the next sentence.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Two lists of words match when they are equally long and at each place the words are equal or the
# phrasing says `VALUE`. The value stands at `form.index("VALUE")`.
#
# </details>


# %% kind="exercise" exercise="7.1"
def find_claims(text: str, phrasings: list[tuple[str, str]]) -> list[tuple[str, str, int, int]]:
    """Find the claims of a text.

    Args:
        text: words with single spaces; sentences end with the word ".".
        phrasings: (relation, words after the subject), with VALUE for the value: ("town", "grew up
            in VALUE").

    Returns:
        (relation, value, start, end) of each claim in the order of the text, start and end in words.
    """
    ### BEGIN SOLUTION
    words, claims, start = text.split(), [], 0
    for position, word in enumerate(words):
        if word != ".":
            continue
        said = words[start + 1 : position]  # without the subject and the full stop
        for relation, phrasing in phrasings:
            form = phrasing.split()
            if len(form) == len(said) and all(
                wanted in ("VALUE", given) for wanted, given in zip(form, said, strict=True)
            ):
                claims.append((relation, said[form.index("VALUE")], start, position + 1))
                break
        start = position + 1
    return claims
    ### END SOLUTION


# %% kind="check" exercise="7.1"
check("7.1", find_claims)

# %% [markdown]
# Your function against the package's reader, on every answer sampled above. The package knows more
# phrasings (it also reads "the town where she grew up is ..."); on the ones that begin with the
# subject, the two must agree.

# %%
find_claims = yours("7.1", find_claims)

PHRASINGS = [
    (name, statement.format(who="", whose="", it=relation.noun.format(value="VALUE")).strip())
    for name, relation in people.relations.items()
    for statement in relation.statements
    if statement.startswith(("{who} ", "{whose} "))
]
agreed = more = 0
for prompt, response in zip(prompts, responses, strict=True):
    name = people.subject_of(prompt)
    found = find_claims(f"{people.subjects[name].who} {response}", PHRASINGS)
    # The package knows the values too: "was born in norbury" says nothing about a year.
    mine = {(r, v) for r, v, _, _ in found if v in people.relations[r].values}
    theirs = {(c.relation, c.value) for c in people.read(response, about=name).claims}
    agreed, more = agreed + len(mine & theirs), more + len(theirs - mine)
    assert mine <= theirs
print(f"{agreed} claims found by both, {more} in other word orders found by the package alone")
assert agreed > 20 * more

# %% [markdown]
# ### Exercise 7.2 · Factual precision
#
# ●●○ · 10 minutes · 3 points
#
# $$\text{precision} = \frac{\text{right}}{\text{right} + \text{wrong}}$$
#
# the share of claims that the encyclopedia confirms (FActScore's number). Three cases need thought:
#
# - a claim made twice counts **once**: saying it again makes it no truer;
# - two values for one fact are a **contradiction**: who says both has hedged his bet, so *none* of
#   them counts as right and *each* as wrong;
# - a text without claims has **no** precision: 0/0 is `math.nan`. It is not 0, since silence is no
#   lie, and not 1, or saying nothing would be the best policy.
#
# <details><summary>Hint 1</summary>
#
# Collect the set of claimed values of each relation first. A relation is right when that set is
# exactly {truth}.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `values.setdefault(relation, set()).add(value)`; wrong adds `len(values)` for every relation whose
# set is not {truth}.
#
# </details>


# %% kind="exercise" exercise="7.2"
def score_claims(claims: list[tuple[str, str]], truth: dict[str, str]) -> tuple[int, int, float]:
    """Count right and wrong claims about one subject, and give the precision.

    Args:
        claims: (relation, value) as claimed, in any order, perhaps repeated or contradictory.
        truth: the true value of each relation.

    Returns:
        Number of right facts, number of wrong values, and right / (right + wrong), NaN when nothing
        is claimed.
    """
    ### BEGIN SOLUTION
    values: dict[str, set[str]] = {}
    for relation, value in claims:
        values.setdefault(relation, set()).add(value)
    right = sum(given == {truth[relation]} for relation, given in values.items())
    wrong = sum(len(given) for relation, given in values.items() if given != {truth[relation]})
    return right, wrong, right / (right + wrong) if right + wrong else math.nan
    ### END SOLUTION


# %% kind="check" exercise="7.2"
check("7.2", score_claims)

# %%
score_claims = yours("7.2", score_claims)


def own_claims(book, prompt, response):
    """Give the claims of an answer about the subject that was asked for, as (relation, value)."""
    name = book.subject_of(prompt)
    claims = book.read(response, about=name).claims
    return [(claim.relation, claim.value) for claim in claims if claim.subject == name]


def truth_about(book, prompt):
    name = book.subject_of(prompt)
    return {relation: book.facts[name, relation] for relation in book.relations}


scored = [
    score_claims(own_claims(people, p, r), truth_about(people, p))
    for p, r in zip(prompts, responses, strict=True)
]
right, wrong = sum(s[0] for s in scored), sum(s[1] for s in scored)
share, low, high = estimate_share(right, right + wrong)
print(f"{len(responses)} answers about held-out people: {right} right and {wrong} wrong claims")
print(f"factual precision {share:.2f}")
package = count_facts(people, prompts, responses)
assert (right, wrong) == (sum(c.right for c in package), sum(c.wrong for c in package))

# %% [markdown]
# ## 4 · Why people's preferences do not fix it
#
# RLHF rewards what people like. To prefer the *true* answer, a rater would have to look up every
# claim, and few do. What shows at a glance is length and confidence. Below, a rater who likes both
# (and cannot tell true from false) compares pairs of answers to one prompt. *Predict, then run:* does the
# preferred one hold more wrong facts, or fewer?

# %%
rater = AssuredRater(people)
liking = rater(prompts, responses).reshape(-1, 4)
errors = np.array([s[1] for s in scored]).reshape(-1, 4)
hits = np.array([s[0] for s in scored]).reshape(-1, 4)
better = liking[:, :, None] > liking[:, None, :]
extra_errors = (errors[:, :, None] - errors[:, None, :])[better]
extra_hits = (hits[:, :, None] - hits[:, None, :])[better]
print(f"{len(extra_errors)} pairs. The preferred answer has, compared with the other one,")
print(f"  {extra_errors.mean():+.2f} wrong facts and {extra_hits.mean():+.2f} right ones")
assert extra_errors.mean() > 0

# %% [markdown]
# The rater's favourites hold *more* errors: a longer, bolder answer states more of everything. A
# policy trained on these preferences learns to be long and bold. We will see how far it goes.
#
# ## 5 · Asking the model how sure it is
#
# Looking things up needs a reference, and for most of the world's facts there is none at hand. But
# the model itself can be asked. A fact that it knows comes out the same every time; one that it
# makes up comes out differently each time. So: turn the claim into a question, sample many answers,
# and count how many agree.
#
# ### Exercise 7.3 · Confidence of a claim
#
# ●○○ · 6 minutes · 2 points
#
# $$p(\text{claim}) = \frac{\#\{\text{sampled answers that equal the claimed value}\}}{\#\{\text{sampled answers}\}}$$
#
# An answer is a text such as "norbury ."; what counts is its **first word**. Empty answers count
# too: they do not agree.
#
# <details><summary>Hint 1</summary>
#
# `answer.split()[:1] == [value]` is false for an empty answer and never raises.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Not `value in answer`: "art" is in "artist".
#
# </details>


# %% kind="exercise" exercise="7.3"
def confidence(value: str, answers: list[str]) -> float:
    """Give the share of sampled answers that agree with a claimed value.

    Args:
        value: the claimed value, one word.
        answers: N ≥ 1 sampled answers to the question for this fact.

    Returns:
        A share between 0 and 1.
    """
    ### BEGIN SOLUTION
    return sum(answer.split()[:1] == [value] for answer in answers) / len(answers)
    ### END SOLUTION


# %% kind="check" exercise="7.3"
check("7.3", confidence)

# %%
confidence = yours("7.3", confidence)

generator = torch.Generator().manual_seed(3)
sample = [(name, relation) for name in held_out[:3] for relation in ("city", "field")]
for fact in sample:
    asked = [people.question(*fact, number % 3) for number in range(12)]
    answers = sft.sample(asked, 2, generator=generator).responses
    commonest, _ = Counter(answer.split()[0] for answer in answers if answer).most_common(1)[0]
    verdict = "right" if people.facts[fact] == commonest else "wrong"
    print(
        f"the {fact[1]} of {fact[0]} (read {times_seen[fact]} times): {commonest}, confidence "
        f"{confidence(commonest, answers):.2f}, {verdict}"
    )

# %% [markdown]
# Now for every fact of the held-out people and drugs. 20 answers each, spread over the three
# phrasings; then the confidence of every claim that the answers of section 1 made.

# %%
books = {"people": people, "drugs": drugs}
texts = {"people": (prompts, responses)}
texts["drugs"] = sample_about(sft, drugs, drugs.parts["held out"], 4, seed=12)
claims, sure, true = {}, {}, {}
for world, book in books.items():
    names = book.parts["held out"]
    every = [(name, relation) for name in names for relation in book.relations]
    answers = sample_answers(sft, book, every, 20, torch.Generator().manual_seed(4))
    claims[world] = [
        claim
        for prompt, response in zip(*texts[world], strict=True)
        for claim in book.read(response, about=book.subject_of(prompt)).claims
        if claim.subject == book.subject_of(prompt)
    ]
    sure[world] = claim_confidence(claims[world], answers)
    true[world] = np.array([book.is_true(claim) for claim in claims[world]])
    print(
        f"{world}: mean confidence of {int(true[world].sum())} true claims "
        f"{sure[world][true[world]].mean():.2f}, of {int((~true[world]).sum())} false ones "
        f"{sure[world][~true[world]].mean():.2f}"
    )

# %% [markdown]
# ### Exercise 7.4 · Separation
#
# ●●○ · 10 minutes · 3 points
#
# How well does the confidence tell true from false? Draw one true and one false claim at random:
# how often is the true one's confidence higher? That share is the **area under the ROC curve** (the share of true
# claims kept, drawn over the share of false claims kept, as a threshold falls),
#
# $$\text{AUROC} = P(s_\text{true} > s_\text{false}) + \tfrac12 P(s_\text{true} = s_\text{false})$$
#
# 1/2 is a coin, 1 means that some threshold makes no mistake. It needs no threshold, and no
# monotone change of the scores alters it.
#
# <details><summary>Hint 1</summary>
#
# Compare every true one with every false one: `true[:, None] > false[None, :]`.
#
# </details>
# <details><summary>Hint 2</summary>
#
# With sampled confidences ties are frequent. Without the half for ties, a score that is always the
# same would get 0.
#
# </details>


# %% kind="exercise" exercise="7.4"
def auroc(scores: np.ndarray, outcomes: np.ndarray) -> float:
    """Say how well scores separate what is true from what is not.

    Args:
        scores: (N,) scores.
        outcomes: (N,) boolean, True = true; there is at least one of each.

    Returns:
        The probability that a true one has the higher score, ties counted half.
    """
    ### BEGIN SOLUTION
    true, false = scores[outcomes], scores[~outcomes]
    higher = true[:, None] > false[None, :]
    equal = true[:, None] == false[None, :]
    return float((higher + 0.5 * equal).mean())
    ### END SOLUTION


# %% kind="check" exercise="7.4"
check("7.4", auroc)

# %% [markdown]
# **Claim: confidence separates true from false claims.** The interval comes from resampling
# subjects, since the claims about one subject are not independent.

# %%
auroc = yours("7.4", auroc)

areas = {}
for world, book in books.items():
    names = book.parts["held out"]
    groups = [
        np.array([i for i, claim in enumerate(claims[world]) if claim.subject == name], dtype=int)
        for name in names
    ]
    chance, resampled = np.random.default_rng(0), []
    for _ in range(300):
        picked = np.concatenate([groups[i] for i in chance.integers(len(names), size=len(names))])
        resampled.append(auroc(sure[world][picked], true[world][picked]))
    low, high = np.quantile(resampled, (0.025, 0.975))
    areas[world] = auroc(sure[world], true[world])
    print(f"{world}: AUROC {areas[world]:.3f}, 95 % interval [{low:.3f}, {high:.3f}]")
    assert low > 0.8
assert areas["people"] > 0.9

# %% [markdown]
# The model knows what it knows, though no one taught it to say so.
#
# ### Exercise 7.5 · Calibration
#
# ●●○ · 10 minutes · 3 points
#
# Separation is about *order*. **Calibration** asks whether the number means what it says: of the
# claims with confidence near 0.7, are 70 % true? Sort the claims into K bins of equal width, bin k
# holding $[k/K, (k+1)/K)$ and the last one 1 as well:
#
# $$\text{ECE} = \sum_k \frac{n_k}{N}\, \big|\, \text{share true}_k - \text{mean confidence}_k \,\big|$$
#
# <details><summary>Hint 1</summary>
#
# `np.minimum((confidences * bins).astype(int), bins - 1)` is the bin of each claim.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Skip empty bins; weigh each other one by its share of the claims. The absolute value belongs inside
# the sum.
#
# </details>


# %% kind="exercise" exercise="7.5"
def calibration_error(confidences: np.ndarray, correct: np.ndarray, bins: int) -> float:
    """Give the expected calibration error.

    Args:
        confidences: (N,) confidences in [0, 1].
        correct: (N,) boolean, True = the claim is true.
        bins: K, number of bins of equal width.

    Returns:
        Σ_k n_k/N · |share true − mean confidence|.
    """
    ### BEGIN SOLUTION
    place = np.minimum((confidences * bins).astype(int), bins - 1)
    error = 0.0
    for k in range(bins):
        inside = place == k
        if inside.any():
            gap = abs(correct[inside].mean() - confidences[inside].mean())
            error += inside.mean() * gap
    return float(error)
    ### END SOLUTION


# %% kind="check" exercise="7.5"
check("7.5", calibration_error)

# %% figure="07_confidence"
calibration_error = yours("7.5", calibration_error)

roc, bins = {}, {}
for world in books:
    levels = [math.inf, *np.unique(sure[world])[::-1]]
    kept = [sure[world] >= level for level in levels]
    roc[world] = (
        [(k & ~true[world]).sum() / (~true[world]).sum() for k in kept],
        [(k & true[world]).sum() / true[world].sum() for k in kept],
    )
    bins[world] = calibration(sure[world], true[world], bins=5)
draw_confidence(roc, areas, bins)
plt.show()
for world in books:
    print(f"{world}: calibration error {calibration_error(sure[world], true[world], 10):.3f}")

# %% [markdown]
# Where the left curve hugs the corner, a threshold exists that keeps nearly all true claims and few
# false ones. On the right a calibrated confidence lies on the diagonal; the mean gap is some six points of a
# hundred (in ten bins, where the picture has five), so "0.7" may be read as seven in ten, roughly.
#
# **Move the threshold** below: each bar is a claim of one answer, long where the model
# is sure; what lies right of the line would be said, the rest left out. Below it, the same for all
# claims about held-out people. Which threshold would you choose, and does that depend on what an
# error costs?

# %%
shown_people = {}
for row in range(0, len(prompts), 4):
    name = people.subject_of(prompts[row])
    own = [c for c in people.read(responses[row], about=name).claims if c.subject == name]
    verdicts = {people.is_true(claim) for claim in own}
    if len(own) >= 4 and len(verdicts) == 2:
        shown_people[name] = own
    if len(shown_people) == 4:
        break
answers_people = sample_answers(
    sft,
    people,
    [(name, relation) for name in shown_people for relation in people.relations],
    20,
    torch.Generator().manual_seed(4),
)
GRID = np.linspace(0, 1, 41)
kept_true = [int((true["people"] & (sure["people"] >= t)).sum()) for t in GRID]
kept_false = [int((~true["people"] & (sure["people"] >= t)).sum()) for t in GRID]

# %%


def draw_person(figure, threshold, person):
    own = shown_people[person]
    levels = claim_confidence(own, answers_people)
    right = np.array([people.is_true(claim) for claim in own])
    words = [f"{claim.relation}: {claim.value}" for claim in own]
    told = list(zip(words, levels, right, strict=True))
    draw_threshold(figure, threshold, person, told, (GRID, kept_true, kept_false))
    said = levels >= threshold
    return (
        f"At threshold {threshold:.2f} the answer about {person} keeps {int((said & right).sum())} "
        f"of {int(right.sum())} true claims and {int((said & ~right).sum())} of "
        f"{int((~right).sum())} false ones."
    )


explore(
    draw_person,
    threshold=Slider("p", "confidence threshold", 0.0, 1.0, 0.5, step=0.025),
    person=Choice("person", list(shown_people)),
    size=(9.2, 3.8),
    caption="✓ and solid: true. ✗ and hatched: false. Pale: below the threshold, left out.",
)

# %% [markdown]
# A threshold works from outside: it needs twenty questions per claim each time the model speaks.
# We want a policy that does so by itself, in one pass. Every answer above already comes with a
# score, and scores make preferences.
#
# ## 6 · From scores to preferences to a policy
#
# Two judges, the same but for where they get their truth (λ is the **price** of an error, counted
# in right facts):
#
# - **reference-based**: right − λ · wrong, looked up in the encyclopedia;
# - **reference-free**: Σ over claims of p − λ · (1 − p), with p the model's confidence. That is the
#   score the model *expects* from the reference.
#
# A hedge costs nothing and earns nothing, an unreadable sentence costs as much as an error at λ = 1.
# Why "right minus wrong" and not the *share* of right claims? Because the share is best for
# an answer with one safe claim: it rewards silence. The difference pays for every further claim that
# is more likely right than 1/2.
#
# ### Exercise 7.6 · Pairs from scores
#
# ●○○ · 8 minutes · 2 points
#
# From K responses to one prompt make every pair (chosen, rejected) of *different* texts whose scores
# differ, the one with the higher score first. Equal scores make no pair, and a text that was sampled
# twice makes its pairs once. The order of the pairs does not matter.
#
# <details><summary>Hint 1</summary>
#
# A dictionary from response to score forgets repetitions; then two loops and one comparison.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `[(a, b) for a in scored for b in scored if scored[a] > scored[b]]`
#
# </details>


# %% kind="exercise" exercise="7.6"
def make_pairs(responses: list[str], scores: list[float]) -> list[tuple[str, str]]:
    """Turn scored responses to one prompt into preferences.

    Args:
        responses: K responses; the same text has the same score each time.
        scores: their K scores.

    Returns:
        Each (chosen, rejected) once; an empty list when all scores are equal.
    """
    ### BEGIN SOLUTION
    scored = dict(zip(responses, scores, strict=True))
    return [(a, b) for a in scored for b in scored if scored[a] > scored[b]]
    ### END SOLUTION


# %% kind="check" exercise="7.6"
check("7.6", make_pairs)

# %% [markdown]
# Twenty answers about each **tuning** person and drug (none of them is held out), scored with the
# reference by *your* function. Before we pair them, look at what a pair of whole answers would say:

# %%
score_claims, make_pairs = yours("7.2", score_claims), yours("7.6", make_pairs)
PRICE, PENALTY, SAMPLES, DRAWS, PER_PROMPT = 2.0, 1.0, 20, 3, 24


def looked_up(book, prompts, responses):
    """Score answers with score_claims: right − λ · wrong − unreadable."""
    scores = []
    for prompt, response in zip(prompts, responses, strict=True):
        right, wrong, _ = score_claims(
            own_claims(book, prompt, response), truth_about(book, prompt)
        )
        unreadable = len(book.read(response, about=book.subject_of(prompt)).unreadable)
        scores.append(right - PRICE * wrong - PENALTY * unreadable)
    return np.array(scores)


sampled = {
    world: sample_about(sft, book, book.parts["tuning"], SAMPLES, seed=21)
    for world, book in books.items()
}
scores = looked_up(people, *sampled["people"])
assert np.array_equal(scores, ReferenceJudge(people, PRICE, PENALTY)(*sampled["people"]))
whole = pairs_from_scores(*sampled["people"], scores, per_prompt=10)
for side, column in {"chosen": 1, "rejected": 2}.items():
    found = count_facts(people, [pair[0] for pair in whole], [pair[column] for pair in whole])
    print(
        f"a {side:<8} whole answer: {np.mean([c.right for c in found]):.2f} right facts, "
        f"{np.mean([c.wrong for c in found]):.2f} wrong ones"
    )

# %% [markdown]
# The better of two answers still makes errors, and the worse one holds truths. DPO raises *all* of
# the one and lowers *all* of the other: nothing in such a pair says which sentence mattered. That
# averages out over many pairs. Section 7 measures what is lost by it.
#
# ### One sentence apart
#
# So let two answers differ in **one fact** only. Take an answer, draw another answer to the same
# prompt, and put what *that* one says about the fact (a value, a hedge, or nothing) in place of what
# this one says. The judge scores both versions; whatever they share cancels, and the difference
# belongs to one sentence. Every word is still the policy's own.
#
# How often does a pair come up? In proportion to its **margin**, the difference of the two scores.
# That is where the price λ enters. Let the policy be right about some fact with probability p. Its
# claim wins against a hedge by 1 with chance p and loses by λ with chance 1 − p, so the two pull
# equally where
#
# $$p \cdot 1 = (1 - p) \cdot \lambda \quad\Longleftrightarrow\quad p = \frac{\lambda}{1 + \lambda}$$
#
# At λ = 2 a fact should be stated from $p = 2/3$ on: the threshold of section 5, moved inside the
# policy.

# %%
chance = np.random.default_rng(0)


def pairs_about(world, draws, per_prompt):
    """Pairs (prompt, chosen, rejected) of answers one sentence apart, drawn by their margin."""
    asked, first, second = exchange_sentences(books[world], *sampled[world], draws)
    groups = {}
    both = np.stack([looked_up(books[world], asked, said) for said in (first, second)], 1)
    for prompt, a, b, (score_a, score_b) in zip(asked, first, second, both, strict=True):
        for better, worse in make_pairs([a, b], [score_a, score_b]):  # none where they agree
            pair = abs(score_a - score_b), prompt, better, worse
            groups.setdefault(prompt, []).append(pair)
    found = []
    for own in groups.values():
        margins = np.array([margin for margin, *_ in own])
        count = min(per_prompt, len(own))
        picked = chance.choice(len(own), count, replace=False, p=margins / margins.sum())
        found += [own[i][1:] for i in picked]
    return found


def shuffled(some):
    return [some[i] for i in chance.permutation(len(some))]


pairs_of = {world: pairs_about(world, DRAWS, PER_PROMPT) for world in books}
pairs = shuffled([pair for some in pairs_of.values() for pair in some])
print(f"{len(pairs)} pairs about {len({prompt for prompt, _, _ in pairs})} subjects\n")
for prompt, chosen, rejected in pairs[:3]:
    print(f"{prompt.split(' : ')[-1]}\nchosen    {chosen}\nrejected  {rejected}\n")

# %% [markdown]
# The pairs go to DPO, for one to two minutes on a quiet machine. No new loop: `train_dpo` is lesson 6's. One
# addition to its loss: a small supervised term −log π(chosen), an *anchor*. DPO is content when the rejected text falls faster
# than the chosen one; without the anchor both can fall, and what rises is text that nobody wrote
# (lesson 6 showed why).
#
# One danger is left. DPO on a few hundred subjects changes weights that hold the facts of all the
# others: a small model *forgets*. The remedy is old: rehearse. After each step of DPO comes one step
# of pretraining text (InstructGPT mixed it into PPO). Loops are generators, so two of them can take
# turns.

# %% kind="train"
STEPS, BATCH = 320, 16
settings = DPOSettings(steps=STEPS, batch_size=BATCH, beta=0.5, learning_rate=3e-4)


def tuning(policy, pairs):
    """DPO on the pairs, in turns with rehearsal."""
    rehearsal = train_sft(
        policy,
        pretraining.sample(STEPS * BATCH, 22),
        SupervisedSettings(steps=STEPS, batch_size=BATCH, learning_rate=3e-4, warmup=0.04),
    )
    dpo = train_dpo(policy, pairs, settings, loss=anchored_dpo_loss(0.01))
    return take_turns(dpo, rehearsal)


def came_to_its_end(run):
    """Whether a training did; of a policy that was stopped on the way nothing is claimed."""
    if not run.finished:
        done = f"{len(run.records)} of {STEPS} steps"
        print(
            f"Nothing is claimed here: training was stopped after {done}. In a new cell, resume()"
        )
        print("of this run goes on; then run the cells below that one again.")
    return run.finished


tuned = load_policy("facts-sft")
run = watch(
    tuning(tuned, pairs),
    curves=("loss", ("chosen_reward", "rejected_reward")),
    title="DPO on reference-based pairs",
)
if came_to_its_end(run):
    assert np.mean([record.accuracy for record in run.records[-20:]]) > 0.6

# %% [markdown]
# ### Exercise 7.7 · Facts per response
#
# ●●○ · 8 minutes · 3 points
#
# We sample K answers about each of S held-out subjects and count. The mean is plain; its interval
# is not, because the K answers about one subject are alike (the model knows this person or it does
# not). What is independent are the **subjects**: average each subject's K counts first, then take
# the standard error of those S means,
#
# $$\bar m \pm 1.96 \cdot \frac{s}{\sqrt S}, \qquad s^2 = \frac{1}{S-1} \sum_i (m_i - \bar m)^2$$
#
# Treating all S·K answers as independent gives an interval that is too narrow, a frequent mistake in
# published tables.
#
# <details><summary>Hint 1</summary>
#
# `counts.mean(1)` has one number per subject.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `.std(ddof=1)` divides by S − 1.
#
# </details>


# %% kind="exercise" exercise="7.7"
def mean_with_interval(counts: np.ndarray) -> tuple[float, float, float]:
    """Give the mean per response and its 95 % interval over subjects.

    Args:
        counts: (S, K) counts of K responses about each of S ≥ 2 subjects.

    Returns:
        Mean, lower end, upper end.
    """
    ### BEGIN SOLUTION
    means = counts.mean(1)
    half_width = 1.96 * means.std(ddof=1) / math.sqrt(len(means))
    return float(means.mean()), float(means.mean() - half_width), float(means.mean() + half_width)
    ### END SOLUTION


# %% kind="check" exercise="7.7"
check("7.7", mean_with_interval)

# %%
mean_with_interval = yours("7.7", mean_with_interval)

MEASURES = ("right", "wrong", "hedged", "unreadable", "words")
counted = {}  # policy, world, measure -> (subjects, 4) counts


def count_held_out(name, policy):
    for world, book in books.items():
        asked, said = sample_about(policy, book, book.parts["held out"], 4, seed=31)
        found = count_facts(book, asked, said)
        for measure in MEASURES:
            numbers = np.array([getattr(count, measure) for count in found], dtype=float)
            counted[name, world, measure] = numbers.reshape(-1, 4)


count_held_out("SFT", sft)
count_held_out("tuned here", tuned)
live = {kind: mean_with_interval(numbers) for kind, numbers in counted.items()}
for world in books:
    print(f"{world:<8}" + "".join(f"{measure:>22}" for measure in MEASURES))
    for name in ("SFT", "tuned here"):
        row = (live[name, world, measure] for measure in MEASURES)
        cells = (f"{mean:.2f} [{low:.2f}, {high:.2f}]" for mean, low, high in row)
        print(f"{name:<12}" + "".join(f"{cell:>22}" for cell in cells))
if came_to_its_end(run):
    assert live["tuned here", "people", "wrong"][2] < live["SFT", "people", "wrong"][1]

# %% [markdown]
# What does it look like? The same people as at the beginning, none of whom was tuned on:

# %%
_, after = sample_about(tuned, people, held_out[:4], 1, seed=11)
for name, response in zip(held_out[:4], after, strict=True):
    marked(people, name, response)

# %% [markdown]
# ## 7 · Who judged, and what came of it
#
# One run proves little. The same was done for three judges and three seeds (fresh samples, fresh
# pairs, another order of training), and measured on the held-out people and drugs, four answers to
# each. Two more rows are controls: pairs of *whole answers*, best with worst, as in the paper and with
# the same judge; and *rehearsal only*, without any preference. These runs come with the course;
# `python -m rlhf_lessons.evaluation.factuality_sweep` makes them again. The counts of every subject
# are kept, so the intervals are computed here.
#
# The settings (price, β, learning rate, steps, pairs) were chosen on thirty people and ten drugs that
# were set aside for it; no policy was tuned on those either. Two go back to earlier trials that did
# look at the held-out subjects: the weight of the anchor and the learning rate of the rehearsal.
#
# *Predict, then run:* sort them by wrong facts per answer: the fine-tuned model (SFT), tuned by
# looking up (*reference*), tuned by its own confidence (*confidence*), tuned by the rater of section
# 4 (*assured rater*), and the first two with the likeliest word taken each time (*greedy*).

# %%
mean_with_interval = yours("7.7", mean_with_interval)
runs = load_factuality_sweep()
BETA = settings.beta
ROWS = {  # judge, what a pair differs in, rehearsed, β, λ, greedy
    "SFT": ("none", None, False, None, None, False),
    "reference": ("reference", "sentence", True, BETA, PRICE, False),
    "confidence": ("confidence", "sentence", True, BETA, PRICE, False),
    "assured rater": ("assured", "sentence", True, BETA, None, False),
    "SFT, greedy": ("none", None, False, None, None, True),
    "reference, greedy": ("reference", "sentence", True, BETA, PRICE, True),
    "whole answers": ("reference", "answer", True, BETA, PRICE, False),
    "rehearsal only": ("none", None, True, None, None, False),
}


def of(judge, unit, rehearsed, beta, price):
    """The runs of one kind, one a seed."""
    wanted = judge, unit, rehearsed, beta, price
    return [r for r in runs if (r.judge, r.unit, r.rehearsed, r.beta, r.price) == wanted]


def table(row, measure, world):
    """(subjects, seeds): what a run said of each held-out subject, a mean of four answers."""
    *kind, greedy = ROWS[row]
    return np.array([(r.greedy if greedy else r.counts)[measure][world] for r in of(*kind)]).T


def measured(row, measure, world):
    """Mean per answer with its interval over subjects; the seeds stand side by side as answers."""
    return mean_with_interval(table(row, measure, world))


for world in books:
    print(f"{world:<18}" + "".join(f"{measure:>22}" for measure in MEASURES) + f"{'precision':>11}")
    for row in ROWS:
        means = [measured(row, measure, world) for measure in MEASURES]
        cells = [f"{mean:.2f} [{low:.2f}, {high:.2f}]" for mean, low, high in means]
        precision = means[0][0] / (means[0][0] + means[1][0])
        print(f"{row:<18}" + "".join(f"{cell:>22}" for cell in cells) + f"{precision:>11.2f}")

# %% [markdown]
# Right against wrong tells it best: up and to the left is better. The grey line needs no tuning at
# all: it takes the answers of SFT and leaves out every claim below a confidence threshold, from none
# (its right end) to nearly all.

# %% figure="07_right_wrong"
filtered = {}
for world in books:
    answers_here = len(texts[world][0])
    said = [sure[world] >= t for t in np.linspace(0, 1, 21)]
    filtered[world] = (
        [(k & ~true[world]).sum() / answers_here for k in said],
        [(k & true[world]).sum() / answers_here for k in said],
    )
policies = {
    world: {row: (measured(row, "wrong", world), measured(row, "right", world)) for row in ROWS}
    for world in books
}
draw_right_wrong(policies, filtered)
plt.show()

# %% [markdown]
# The same subjects were asked of every policy, so compare subject by subject: the interval of a
# difference is much narrower than that of either mean.

# %%
change = {}
for world in books:
    for row in list(ROWS)[1:]:
        for measure in ("right", "wrong"):
            before, after = (table(r, measure, world) for r in ("SFT", row))
            change[row, measure, world] = mean_with_interval(after - before)
        cells = []
        for measure in ("wrong", "right"):
            gained, low, high = change[row, measure, world]
            share = gained / measured("SFT", measure, world)[0]
            cells.append(f"{measure} {share:+5.0%}  {gained:+.2f} [{low:+.2f}, {high:+.2f}]")
        print(f"{world}, {row:<18} {'    '.join(cells)}")

halved = measured("SFT", "wrong", "people")[0] / 2
assert measured("reference", "wrong", "people")[0] < halved
assert measured("SFT, greedy", "wrong", "people")[0] > halved
assert change["reference", "right", "people"][0] > 0  # not fewer right facts
for row in ("reference", "confidence"):
    assert change[row, "wrong", "people"][2] < 0 and change[row, "wrong", "drugs"][2] < 0
assert change["assured rater", "wrong", "people"][1] > 0
for measure in ("wrong", "right"):
    gained = table("reference", measure, "people") - table("whole answers", measure, "people")
    mean, low, high = mean_with_interval(gained)
    print(f"sentence against whole answers, {measure}: {mean:+.2f} [{low:+.2f}, {high:+.2f}]")
assert low > 0

# %% [markdown]
# Read right, wrong and words together.
#
# - **Reference-based** tuning more than halves the wrong facts of people it never saw, and states no
#   fewer right ones. Where the guesses went the other columns say: some became hedges, some sentences that nobody
#   can read, and some are not said at all.
# - **Reference-free** tuning never looked anything up. It removes even more errors, and some right
#   facts with them: a fact that was only ever *told* is known less well when it is *asked* for
#   (section 2), so its confidence is too low, and the policy learns to keep it to itself.
# - The **assured rater** gets what he likes, and more errors with it.
# - **Greedy** decoding alone removes the errors that come from drawing unlikely words, and states many
#   more right facts. But it removes fewer wrong ones than tuning does: what the model believes
#   falsely, or guesses for want of anything better, stays. The two add up.
# - Pairs of **whole answers**, same judge and settings, halve the errors too and keep the right facts.
#   One sentence apart, the policy states more right facts at the same number of wrong ones.
# - **Rehearsal only** makes the policy state more of everything, right and wrong: it drifts back to
#   the pretraining text, which never hedges. So rehearsal is not what removes the errors.
# - The grey line asks twenty questions per claim; the policy needs none. Where a tuned policy lies
#   *above* the line, that is no contradiction: SFT leaves out or hedges two facts of five by chance,
#   known or not, and a threshold cannot bring back what was never said. Where it lies *below*, as the confidence
#   judge does, tuning has reached only a part of what twenty questions would give.
#
# Two numbers ask for an explanation, and get one below: on **drugs**, reference-based tuning gains much
# less than on people, and **unreadable** sentences double in every sampled row tuned for facts. That is why they
# are in the table: a number that no one watches is where a policy hides its losses.
#
# Does the small live run of section 6 fall where the committed runs lie?

# %%
spread = [run.mean("wrong").value for run in of(*ROWS["reference"][:-1])]
here = live["tuned here", "people", "wrong"]
print(f"wrong facts per answer, committed seeds: {', '.join(f'{x:.2f}' for x in spread)}")
print(f"live run: {here[0]:.2f} [{here[1]:.2f}, {here[2]:.2f}]")
committed = measured("reference", "wrong", "people")
if came_to_its_end(run):
    assert here[1] < committed[2] and committed[1] < here[2]  # the intervals overlap

# %% [markdown]
# ### Two losses, and where they come from
#
# **Why do drugs gain so little?** A first suspicion, that the confidence separates worse there, was answered in section
# 5: it does not. So see what there was to gain, in the judge's own measure right − λ · wrong per answer: as much as the
# threshold p = λ/(1 + λ) gains, with its twenty questions per claim. And take the three seeds one by one.
#
# *Predict, then run:* SFT is the same model in each seed, and was asked about the same thirty drugs. How far apart are
# its three numbers of wrong facts?


# %%
def score(row, world):
    """(subjects, seeds): right − λ · wrong per answer."""
    return table(row, "right", world) - PRICE * table(row, "wrong", world)


to_gain, gained = {}, {}
for world in books:
    worth = np.where(true[world], 1.0, -PRICE)  # of each claim that SFT made in section 5
    to_gain[world] = -worth[sure[world] < PRICE / (1 + PRICE)].sum() / len(texts[world][0])
    gain = score("reference", world) - score("SFT", world)
    gained[world] = mean_with_interval(gain)
    mean, low, high = gained[world]
    print(f"{world}: to gain {to_gain[world]:.2f}, gained {mean:+.2f} [{low:+.2f}, {high:+.2f}]")
    print("   gained, seed by seed      " + "  ".join(f"{x:+.2f}" for x in gain.mean(0)))
    wrong = table("SFT", "wrong", world).mean(0)
    print("   wrong facts of SFT alone   " + "   ".join(f"{x:.2f}" for x in wrong))
assert to_gain["drugs"] < to_gain["people"] and gained["drugs"][1] > 0

# %% [markdown]
# On drugs SFT makes fewer errors, so there is less to gain. And thirty drugs tell little: three samplings of one and
# the same SFT differ by half as much again, and each seed's gain follows that luck. "Drugs gain little" is the mean of
# a large gain, a middling one and none. A table with one seed would have said either. Report the interval, and ask
# about more subjects before you explain a difference.
#
# **Why do unreadable sentences double?** *Predict, then run:* the judge takes a point off for each. How many of the
# pairs above set a readable sentence against an unreadable one?


# %%
def unreadable_in(world, prompt, response):
    return books[world].read(response, about=books[world].subject_of(prompt)).unreadable


against = sum(
    bool(unreadable_in(world, prompt, chosen) or unreadable_in(world, prompt, rejected))
    for world, some in pairs_of.items()
    for prompt, chosen, rejected in some
)
print(f"pairs with an unreadable sentence on either side: {against} of {len(pairs)}")
assert against == 0

# %% [markdown]
# None. `exchange_sentences` takes answers apart into sentences that it can read, and leaves the other answers out, so
# the penalty never counted. What no pair speaks against, DPO is free to raise. It can't be the only reason: in the
# row *whole answers* pairs may speak against such sentences, and there they nearly double, too.
#
# If it is one reason, pairs that do speak against it must help, with the same loss and as many steps. Beside each
# sampled answer with an unreadable sentence we set the same answer without it:

# %% kind="train"
cleaned = {}
for world, (asked, said) in sampled.items():
    for prompt, response in zip(asked, said, strict=True):
        words, bad = response.split(), unreadable_in(world, prompt, response)
        gone = {place for start, end in bad for place in range(start, end)}
        rest = " ".join(word for place, word in enumerate(words) if place not in gone)
        if gone and 0 not in gone:  # the first sentence goes on from the name
            cleaned[prompt, rest, response] = None
print(f"{len(cleaned)} pairs against unreadable sentences, beside the {len(pairs)} others")
mended = load_policy("facts-sft")
second = watch(
    tuning(mended, shuffled([*pairs, *cleaned])),
    curves=("loss", ("chosen_reward", "rejected_reward")),
    title="DPO on these pairs, too",
)

# %% kind="train"
count_held_out("these, too", mended)
print(f"{'':<20}" + "".join(f"{measure:>12}" for measure in MEASURES))
for world in books:
    for name in ("SFT", "tuned here", "these, too"):
        means = [counted[name, world, measure].mean() for measure in MEASURES]
        print(f"{f'{world}, {name}':<20}" + "".join(f"{mean:>12.2f}" for mean in means))
for world in books:
    less = counted["these, too", world, "unreadable"] - counted["tuned here", world, "unreadable"]
    mean, low, high = mean_with_interval(less)
    print(f"{world}, unreadable: {mean:+.2f} [{low:+.2f}, {high:+.2f}] against tuned here")
    if world == "people" and came_to_its_end(run) and came_to_its_end(second):
        assert high < 0

# %% [markdown]
# On people a good part of the increase is gone, though not all, and wrong facts stay far below SFT. It has a price:
# answers are shorter and hold fewer right facts than without these pairs. (On thirty drugs the interval is too wide to
# tell.) So read your pairs before you blame the model: DPO learns from what they show, and is free where they are
# silent. The committed runs keep the pairs of section 6, whose settings were chosen on the validation subjects. This
# addition was tried on the held-out ones: it shows where the loss comes from, and is no fair measure of a better recipe.

# %% [markdown]
# ### The price of an error, and β
#
# λ is the threshold moved inside the policy: at λ = 1 it pays to say what is more likely right than
# wrong, at λ = 4 only what is 80 % sure. β decides how far the policy may go for it. *Predict, then
# move:* does a smaller β go farther from SFT here, as it did in lesson 6?

# %%
SWEPT = {"SFT, nothing tuned": ("none", None, False, None, None)}
for beta in (2.0, 0.5, 0.1):
    SWEPT[f"β = {beta:g}, λ = {PRICE:g}"] = ("reference", "sentence", True, beta, PRICE)
for price in (1.0, 4.0):
    SWEPT[f"β = {BETA:g}, λ = {price:g}"] = ("reference", "sentence", True, BETA, price)
swept = {name: of(*kind) for name, kind in SWEPT.items()}
means = {
    name: {
        m: mean_with_interval(np.array([run.counts[m]["people"] for run in some]).T)
        for m in MEASURES
    }
    for name, some in swept.items()
}
nats = {name: np.mean([run.kl["people"][0] for run in some]) for name, some in swept.items()}
first_person = held_out[0]


def draw_swept(figure, policy):
    per_answer, before = (
        {m: means[name][m][0] for m in MEASURES[:4]} for name in (policy, "SFT, nothing tuned")
    )
    said = sentences_of(people, first_person, swept[policy][0].samples["people"][0])
    draw_policy(figure, per_answer, before, f"KL {nats[policy]:.1f} nats", first_person, said)
    return f"{policy}: " + ", ".join(f"{m} {value:.2f}" for m, value in per_answer.items())


explore(
    draw_swept,
    policy=Choice("β, KL strength", list(swept)),
    size=(9.6, 3.4),
    caption="Bars: means over held-out people and seeds. Black ticks: SFT. Right: what this policy "
    "said of one of them.",
)

# %%
print(
    f"{'people':<22}{'seeds':>6}{'KL':>6}" + "".join(f"{measure:>20}" for measure in MEASURES[:4])
)
for name, some in swept.items():
    cells = (means[name][measure] for measure in MEASURES[:4])
    row = "".join(f"{f'{mean:.2f} [{low:.2f}, {high:.2f}]':>20}" for mean, low, high in cells)
    print(f"{name:<22}{len(some):>6}{nats[name]:>6.1f}{row}")

# %% [markdown]
# The price does what it should: from λ = 1 to λ = 4 wrong facts fall, and right ones with them. There
# is no setting that is best for everyone: how much an error costs is a question about the use, not
# about the model. β is another matter. At β = 2 the policy stays nearer to SFT and keeps more errors, as
# lesson 6 would have it; but β = 0.1 takes it no farther than β = 0.5. These runs are short: they stop
# long before the margins are as large as a small β asks for. And the weight of the anchor is fixed,
# while the pull of DPO is proportional to β: where β is small, the anchor counts for more.
#
# ## 8 · Medical questions
#
# The second world is the one where errors hurt: questions about drugs (invented ones; nothing here
# is medical advice). The same policies, tuned on both worlds together, answer about drugs that they
# were never tuned on; the tables and the right panel of section 7 have the counts. One drug, before and after:

# %%
drug = drugs.parts["held out"][0]
for label, policy in {"SFT": sft, "tuned": tuned}.items():
    _, said = sample_about(policy, drugs, [drug], 2, seed=41)
    print(label)
    for response in said:
        marked(drugs, drug, response)

# %% [markdown]
# ## 9 · Real countries, a real model
#
# So far everything was invented. Does it hold where nobody arranged it? SmolLM2-135M, the real model of lessons 2
# to 6, was asked for the **capital** and the **currency** of every country above half a million people (the truth:
# GeoNames), in three phrasings: once with the likeliest token each time, and several times by sampling. What it
# said comes with the course, so these cells need no model.

# %%
known = {kind: [fact for fact in load_real_knowledge() if fact.kind == kind] for kind in FACT_KINDS}
for kind, facts in known.items():
    held_out = sorted((f for f in facts if f.held_out), key=lambda fact: -fact.population)
    print(f"{kind}: {len(facts)} countries, {len(held_out)} of them held out\n")
    for fact in held_out[:: len(held_out) // 3][:3]:
        print(f"  {fact.subject}, {fact.population / 1e6:.1f} million people")
        for phrasing, answer in zip(REAL_PHRASINGS[kind], fact.answers, strict=True):
            print(f"    {phrasing.format(subject='…')}\n      {answer.text:.76} → {answer.verdict}")
    print()

# %% [markdown]
# The answers are free text: "Y is the capital", a list, another spelling, a name that the city has lost since. A
# **reader** finds the claim. Before anything is built on it, it is measured against answers that were read one by one,
# by a large language model, before the reader saw them: of the claims that it finds, how many are those that were read
# (precision), and of those that were read, how many does it find (recall)?

# %%
for name, agreed in load_reader_agreement().items():
    print(f"{name:<20}{agreed}")

# %% [markdown]
# These answers are drawn at temperatures up to 0.7; what follows is drawn at 0.6. At temperature 1, where the model
# itself gets lost between two names, the reader does, too.
#
# How often the model read of a country nobody has counted. How many people live there stands in for it.
#
# *Predict, then run:* of the largest quarter of the countries, how many capitals does it know? Of the smallest?
#
# **Claim: knowledge follows fame**, and one fact can be known in one phrasing and missed in another.

# %% figure="07_fame"
fame = {kind: knowledge_by_population(facts, 4) for kind, facts in known.items()}
draw_fame(fame)
plt.show()
for kind, facts in known.items():
    torn = phrasings_that_disagree(facts)
    print(f"{kind}: right in one phrasing and wrong in another: {len(torn)} of {len(facts)}")
    (_, smallest), (_, largest) = fame[kind][0], fame[kind][-1]
    more = largest.value - smallest.value
    error = 1.96 * math.hypot(largest.standard_error, smallest.standard_error)
    print(f"  largest quarter of the countries over the smallest: {more:+.2f} ± {error:.2f}")
    assert len(torn) > 10 and more > error

# %% [markdown]
# **Does it know what it knows?** As in section 5, confidence is the share of sampled answers that claim the same;
# the answers to all three phrasings are pooled. Temperature and number of samples are chosen on one half of the
# countries, and the choice is measured on the other half.

# %%
sure_of, right_of = {}, {}
for kind, facts in known.items():
    parts = {out: [fact for fact in facts if fact.held_out == out] for out in (False, True)}
    temperature, samples = choose_confidence(parts[False])
    print(f"{kind}: {samples} answers a phrasing at temperature {temperature:g}")
    for out, name in ((False, "chosen on"), (True, "held out")):
        found = real_claims(parts[out])
        sure_of[kind, out] = agreement_confidence(parts[out], temperature, samples)
        right_of[kind, out] = found.right
        report = confidence_report(sure_of[kind, out], found.right, found.subjects)
        cells = [
            f"{what} {mean:.3f} [{low:.3f}, {high:.3f}]"
            for what, (mean, low, high) in (
                ("right", report.right), ("AUROC", report.area), ("calibration error", report.error)
            )
        ]  # fmt: skip
        print(f"  {name}, {report.count} claims: {'  '.join(cells)}")
        area = auroc(sure_of[kind, out], found.right)  # yours
        assert abs(area - report.area[0]) < 1e-9
        assert report.area[1] > 0.5

# %% [markdown]
# ### Exercise 7.8 · A threshold that keeps a promise
#
# ●●○ · 10 minutes · 3 points
#
# "What I say is right nine times in ten." A model whose confidence separates can promise that by leaving out what
# it is not sure of. Which threshold t keeps the promise, and says as much as possible?
#
# $$t = \min \Big\{\, t' \in \{p_1, \dots, p_N\} \;:\;
# \frac{\#\{n : p_n \ge t',\ \text{right}\}}{\#\{n : p_n \ge t'\}} \ge \text{share} \Big\}$$
#
# The share that is right need not fall evenly as t falls: it can dip and recover. The lowest t counts. If none
# keeps the promise, say nothing at all.
#
# <details><summary>Hint 1</summary>
#
# `np.unique(confidences)` gives the candidates, the lowest first. For each, keep `confidences >= t`.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Return the first candidate whose `right[kept].mean()` reaches the share, and `math.inf` after the loop.
#
# </details>


# %% kind="exercise" exercise="7.8"
def choose_threshold(confidences: np.ndarray, right: np.ndarray, share: float) -> float:
    """Choose from which confidence on claims are said.

    Args:
        confidences: (N,) confidences in [0, 1].
        right: (N,) boolean, True = the claim is true.
        share: of the claims that are said at least this share is to be right; in (0, 1].

    Returns:
        The lowest of the confidences with that property, ∞ if there is none.
    """
    ### BEGIN SOLUTION
    for t in np.unique(confidences):
        if right[confidences >= t].mean() >= share:
            return float(t)
    return math.inf
    ### END SOLUTION


# %% kind="check" exercise="7.8"
check("7.8", choose_threshold)

# %% [markdown]
# *Predict, then run:* your threshold is chosen on countries whose truth is known. Will it keep its promise on the
# others? And what is left to say?

# %%
choose_threshold = yours("7.8", choose_threshold)

for kind in FACT_KINDS:
    chosen_on, held_out = ((sure_of[kind, out], right_of[kind, out]) for out in (False, True))
    print(f"{kind}: of all held-out claims {held_out[1].mean():.0%} are right")
    for share in (0.6, 0.75, 0.9):
        t = choose_threshold(*chosen_on, share)
        said = held_out[0] >= t
        if not said.any():
            print(f"  promised {share:.0%}: says nothing")
            continue
        kept, low, high = estimate_share(int(held_out[1][said].sum()), int(said.sum()))
        print(
            f"  promised {share:.0%}: from {t:.2f} on, says {said.mean():.0%} of its claims, "
            f"{kept:.0%} [{low:.0%}, {high:.0%}] of them right"
        )

# %% [markdown]
# What is promised on one half of the countries is kept on the other, as far as so few can tell, and it costs most of
# what the model would have said. (The intervals take claims as independent. Three answers about one country are not,
# so they are rather too narrow.) Tuning should do the same without asking twelve times.
#
# **Tuned on one half, measured on the other.** The judges are those of section 6. To each question about a
# tuned-on country the policy's own answers stand beside one sentence that hedges, "The capital of … is not known to
# me.": the reference judge prefers a right answer to it and it to a wrong one, the confidence judge the same with the
# agreement above in place of the truth, the assured rater likes whatever sounds sure. DPO with low-rank adapters.

# %%
tuned_runs = load_real_tuning()
REAL_ROWS = {
    "not tuned": ("none", None),
    "reference": ("reference", 1.0),
    "reference, balanced": ("balanced", 1.0),
    "confidence, λ = ½": ("confidence", 0.5),
    "confidence, λ = 1": ("confidence", 1.0),
    "assured rater": ("assured", None),
}
SAID = ("right", "wrong", "hedged", "unreadable")


def real_table(row, measure, kind, drawn=False):
    """(countries, seeds): what a policy said of each held-out country, a mean over its questions."""
    runs = [run for run in tuned_runs if (run.judge, run.price) == REAL_ROWS[row]]
    return np.array([(r.counts if drawn else r.greedy)[measure][kind] for r in runs]).T


shares = {
    drawn: {
        kind: {
            row: {m: mean_with_interval(real_table(row, m, kind, drawn)) for m in SAID}
            for row in REAL_ROWS
        }
        for kind in FACT_KINDS
    }
    for drawn in (False, True)
}
for drawn, kinds in shares.items():
    for kind, rows in kinds.items():
        title = f"{kind}, {'drawn' if drawn else 'likeliest'}"
        print(f"{title:<21}" + "".join(f"{m:>19}" for m in SAID) + f"{'words':>7}{'KL':>6}")
        for row, measures in rows.items():
            cells = [f"{mean:.2f} [{low:.2f}, {high:.2f}]" for mean, low, high in measures.values()]
            words = real_table(row, "words", kind, drawn).mean()
            own = [run for run in tuned_runs if (run.judge, run.price) == REAL_ROWS[row]]
            kl = np.mean([run.kl[kind][0] for run in own])
            print(
                f"{row:<21}" + "".join(f"{cell:>19}" for cell in cells) + f"{words:>7.1f}{kl:>6.1f}"
            )

# %% [markdown]
# Read the likeliest answers first, which is how one would ask. The picture has them alone.

# %% figure="07_real_policies"
draw_said(shares[False])
plt.show()
change = {}
for kind in FACT_KINDS:
    for row in list(REAL_ROWS)[1:]:
        cells = []
        for measure in ("wrong", "right"):
            before, after = (real_table(name, measure, kind) for name in ("not tuned", row))
            gained = mean_with_interval(after - before)
            change[kind, row, measure] = gained, gained[0] / before.mean()
            cells.append("{} {:+5.0%}  {:+.2f} [{:+.2f}, {:+.2f}]".format(
                measure, change[kind, row, measure][1], *gained
            ))  # fmt: skip
        print(f"{kind}, {row:<21} {'    '.join(cells)}")

# %% [markdown]
# - **Capitals.** The reference judge more than halves the wrong answers about countries that no pair was about, and
#   keeps the right ones within a tenth. The confidence judge at λ = ½ removes nearly half of them, and for it nobody
#   looked anything up.
# - **Drawn answers** gain in another way, too: before, a third of them could not be read. Afterwards hardly any, and more
#   than twice as many are right. That is form, as in lesson 9: the pairs taught to answer in one short sentence.
# - **Currencies** show the price. After the reference judge the policy hedges most of its answers, and half of the right
#   ones are gone. Why?
# - The **assured rater** is the control: same loop, same hedge to choose, no truth in it. Drawn answers become readable
#   with it, too. It never hedges, and as many answers are wrong as before, or more.
#
# The price λ can't be why. An answer makes one claim here, so a right one beats the hedge and the hedge beats a wrong
# one *at any λ*: the reference judge's pairs are the same at each. What differs is how many there are of each sort.
# (For the confidence judge λ says which answers beat the hedge: those on which more than λ/(1 + λ) of the answers agree.
# It is ½ because, of the questions that are tuned on, claims with 5 of 12 answers behind them are mostly right and those
# with 4 mostly wrong. At λ = 1 few pairs are left that speak, and about currencies it hedges most of what it says.)
#
# *Predict, then run:* the model knows more than half of the capitals that it is tuned on, and a third of the currencies.
# Balance the pairs: as many for the hedge as against it. Will it hedge more or less about capitals? About currencies?
#
# **Claim: how often it hedges follows how often the pairs did.**

# %%
for kind in FACT_KINDS:
    right = np.mean([fact.right for fact in known[kind] if not fact.held_out])
    print(
        f"{kind}: of the likeliest answers to the questions that are tuned on {right:.0%} are right"
    )
    for measure in ("hedged", "right"):
        plain, even = (
            real_table(row, measure, kind) for row in ("reference", "reference, balanced")
        )
        more, low, high = mean_with_interval(even - plain)
        print(
            f"  balanced, {measure} {plain.mean():.2f} → {even.mean():.2f}: {more:+.2f} [{low:+.2f}, {high:+.2f}]"
        )
        fewer = (kind == "currency") == (measure == "hedged")
        assert high < 0 if fewer else low > 0

# %% [markdown]
# So the mix of the pairs is the price. Half of the pairs for the hedge: about currencies it hedges less and keeps every
# right answer, about capitals it hedges more and loses some. *Whether* to hedge at all is the first thing that sixty
# updates teach, *where* comes after. The picture shows where: the countries in the order of how far the answers agreed
# before tuning.

# %% figure="07_where_it_hedges"
places = {}
for kind, facts in known.items():
    parts = {out: [fact for fact in facts if fact.held_out == out] for out in (False, True)}
    given = pooled_answers(parts[True], *choose_confidence(parts[False]))
    agreed = np.array([
        max((n for claim, n in given[fact.subject, kind].items() if claim), default=0)
        / given[fact.subject, kind].total() for fact in parts[True]
    ])  # fmt: skip
    quarters = np.array_split(agreed.argsort(kind="stable"), 4)
    lines = {"right before": [np.mean([parts[True][i].right for i in q]) for q in quarters]}
    for row in ("reference", "reference, balanced", "confidence, λ = ½"):
        hedged = real_table(row, "hedged", kind).mean(1)
        lines[f"hedges: {row}"] = [hedged[q].mean() for q in quarters]
        assert lines[f"hedges: {row}"][0] > lines[f"hedges: {row}"][-1]
    places[kind] = [agreed[q].mean() for q in quarters], lines
draw_hedging(places)
plt.show()

# %% [markdown]
# Every policy hedges more where the answers disagreed, the one tuned by agreement no more clearly than those tuned by the
# truth: what either can go by is the model's own state. After the reference judge the line of currencies lies high
# even on the right, where most answers were right before.
#
# What to doubt: the intervals are wide (*kept within a tenth* could be a loss of a fifth), there are two seeds, and
# balance was tried after the first figures of held-out countries had been seen. What it costs: 5 to 16 nats a response,
# and hedges where it did know. Tuning added no fact; it took away some.

# %%
wrong, right = (change["capital", "reference", measure][1] for measure in ("wrong", "right"))
print(f"capitals, reference: wrong {1 + wrong:.0%} and right {1 + right:.0%} of before")
assert wrong < -0.5 and right > -0.1

# %% [markdown]
# Ask it something yourself. One line of yours below, and the likeliest answer comes beside five drawn ones: where
# they agree, it may know.

# %%
QUESTION = ""  # such as "What is the capital of Kenya?"

if note := missing_real_parts("smollm2"):
    print(note)
elif not QUESTION:
    print("No question yet.")
else:
    real_model = load_policy("smollm2")
    print("likeliest:", *ask(real_model, QUESTION))
    for answer in ask(real_model, QUESTION, 5, temperature=0.6):
        print("    drawn:", answer)

# %% [markdown]
# ## 10 · Reading such a result
#
# "Half as many errors" can hide a policy that merely stopped talking. So report together:
# right, wrong, hedged, unreadable, and length, as in the table of section 7. And know the limits:
#
# - The policy did not *learn* any fact. It learned where its knowledge ends, as far as its own weights
#   show it.
# - A judge by confidence believes every error that the model repeats with conviction. A fact that
#   the corpus had wrong would pass.
# - Confidence came from questions the size of a word. Real claims need a second model to phrase the
#   question and to compare the answers, and each step adds errors.
# - Our encyclopedia is complete. A real one is not, and what it lacks counts as wrong.
#
# ## 11 · The course, gathered
#
# From a pretrained model to a policy that people prefer, step by step, and what each step adds:
#
# | step | learns from | objective | adds | lesson |
# | --- | --- | --- | --- | --- |
# | pretraining | all text there is | maximum likelihood | knowledge and language, good and bad | 2 |
# | supervised fine-tuning | demonstrations | the same, on answers | a behaviour; at best as good as its demonstrators | 2 |
# | reward model | comparisons | Bradley-Terry | a judge that needs no person; right only near its data | 3 |
# | PPO | the judge, and its own samples | E[r] − β·KL | goes beyond the demonstrations; four models, many knobs | 4, 5 |
# | DPO | comparisons | Bradley-Terry on log-ratios | the same optimum by one supervised loss; only what the pairs show | 6 |
# | factuality tuning | its own claims, looked up or asked again | DPO | says what it knows, without a human label | 7 |
#
# One line ties them together. With a reward r and a reference π_ref, the best policy at strength β is
#
# $$\pi^*(y \mid x) \propto \pi_\text{ref}(y \mid x)\, e^{r(x, y)/\beta}$$
#
# Pretraining and SFT make π_ref. Comparisons make r. PPO and DPO are two ways to π*. And everything
# hinges on r: on whose preferences it holds, on what they could see, and on how far from its data it
# is asked.
#
# **What is open.** Whose values, when raters disagree (lesson 3 could only average them)? How to judge
# what no rater can check (this lesson had an encyclopedia)? How to keep a proxy from being gamed when
# the policy is cleverer than the judge (lessons 3 and 4 saw it happen)? What to do about feedback that
# comes at the end of long chains of actions? Nobody knows yet. You now have the tools to try.
#
# ## What was shown
#
# | claim | where | measured by |
# | --- | --- | --- |
# | one fact, two phrasings, two answers | 1 | every held-out fact, three questions |
# | knowledge rises with how often a fact was read | 2 | all facts, counted in the corpus |
# | fine-tuning teaches only the facts that it shows | 2 | rare facts before and after |
# | a rater who cannot look things up prefers more errors | 4 | pairs of answers |
# | confidence separates true from false claims | 5 | AUROC with interval |
# | tuning halves wrong facts about people it never saw, with no fewer right ones | 7 | three seeds, differences subject by subject |
# | the assured rater raises them | 7 | the same |
# | a real model hedges about countries that it was not tuned on, as often as the pairs did | 9 | two seeds, differences country by country |
# | on drugs there is less to gain, and thirty of them tell little | 7 | the threshold's gain, seeds one by one |
# | what no pair speaks against rises; pairs against it take a part of that back | 7 | unreadable sentences, with and without such pairs |
#
# **In the package.** `rlhf_lessons.worlds`: `people_encyclopedia`, `drug_encyclopedia`,
# `Encyclopedia.read`. `rlhf_lessons.evaluation`: `count_facts`, `factual_precision`, `sample_answers`,
# `claim_confidence`, `area_under_roc`, `calibration`, `ReferenceJudge`, `ConfidenceJudge`,
# `AssuredRater`, `pairs_from_scores`, `exchange_sentences`, `pairs_by_margin`, `anchored_dpo_loss`. `rlhf_lessons.training`: `train_dpo`.
# For the real model: `real_facts`, `read_answer`, `load_real_knowledge`, `load_real_tuning`; on the command line `python -m rlhf_lessons
# real knowledge` and `real tuning`.
#
# **Further reading.**
#
# - Tian et al. 2023, *Fine-tuning Language Models for Factuality*: the method of this lesson.
# - Min et al. 2023, *FActScore*: precision over atomic facts.
# - Kadavath et al. 2022, *Language Models (Mostly) Know What They Know*: confidence and calibration.
# - Kandpal et al. 2023, *Large Language Models Struggle to Learn Long-Tail Knowledge*: knowledge
#   against frequency.
# - Gekhman et al. 2024, *Does Fine-Tuning LLMs on New Knowledge Encourage Hallucinations?*: why
#   demonstrations beyond the model's knowledge teach it to guess.
# - Manakul et al. 2023, *SelfCheckGPT*: agreement of samples as a sign of truth.
#
# **Three quick questions.**
#
# 1. A policy says one claim per answer, always right. Its precision is 1. What is missing?
#
# <details><summary>Answer</summary>
#
# Everything that it knows and leaves out. Precision alone rewards silence; report the number of right
# facts beside it.
#
# </details>
#
# 2. Why can a model's own answers serve as a judge, when the same model makes the errors?
#
# <details><summary>Answer</summary>
#
# Because errors scatter and knowledge does not: what is made up comes out differently each time. Where
# errors repeat (a false but frequent text), the judge is fooled too.
#
# </details>
#
# 3. An error in a medical answer is three times as bad as a right fact is good. From which confidence
#    on should the policy state a claim?
#
# <details><summary>Answer</summary>
#
# p − 3 · (1 − p) > 0, so p > 3/4.
#
# </details>
#
# The words of this lesson, in three languages:

# %%
glossary(7)
