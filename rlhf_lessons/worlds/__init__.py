"""Where boards, prompts, texts and truths come from. No torch."""

from __future__ import annotations

from rlhf_lessons.real_parts import PartError
from rlhf_lessons.worlds.biographies import people_encyclopedia
from rlhf_lessons.worlds.encyclopedia import (
    Claim,
    Document,
    Encyclopedia,
    Reading,
    Relation,
    Subject,
)
from rlhf_lessons.worlds.examples import Example, load_examples, load_prompts, save_examples
from rlhf_lessons.worlds.fact_corpus import (
    fact_vocabulary,
    sample_fact_demonstrations,
    sample_fact_documents,
)
from rlhf_lessons.worlds.film_snippets import FilmSnippet, VaderJudge, load_snippets
from rlhf_lessons.worlds.labellers import (
    AgreementJudge,
    AILabeller,
    GroupedComparers,
    NoisyComparer,
    ScaleRater,
    SimilarityRater,
    WeightedJudge,
    bayes_ceiling,
    draw_scale_raters,
    label_pairs,
    length_judge,
    preference_probability,
)
from rlhf_lessons.worlds.medicine import drug_encyclopedia
from rlhf_lessons.worlds.opinions import (
    OPINION_LENGTH,
    OPINION_WORDS,
    opinion_habits,
    opinion_score,
)
from rlhf_lessons.worlds.preferences import (
    Preference,
    PreferenceFileError,
    append_preferences,
    drop_equal_pairs,
    load_preferences,
    ranking_to_pairs,
    save_preferences,
)
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
from rlhf_lessons.worlds.sums import (
    SUMS_VOCABULARY,
    FooledSumsChecker,
    SumsChecker,
    right_sum,
    sample_sum_demonstrations,
    sample_sums,
    sum_steps,
)
from rlhf_lessons.worlds.texts import LabelledText, load_texts, openings_of, split_openings
from rlhf_lessons.worlds.thumbs import Thumb, load_thumbs, save_thumbs, thumbs_of_pairs

__all__ = [
    "OPINION_LENGTH",
    "OPINION_WORDS",
    "SUMS_VOCABULARY",
    "VOCABULARY",
    "AILabeller",
    "AgreementJudge",
    "Claim",
    "Document",
    "Encyclopedia",
    "Example",
    "Fault",
    "FilmSnippet",
    "FooledSumsChecker",
    "GroupedComparers",
    "LabelledText",
    "NoisyComparer",
    "PartError",
    "Preference",
    "PreferenceFileError",
    "Reading",
    "Relation",
    "ScaleRater",
    "SimilarityRater",
    "Subject",
    "SumsChecker",
    "Thumb",
    "VaderJudge",
    "WeightedJudge",
    "append_preferences",
    "bayes_ceiling",
    "draw_scale_raters",
    "drop_equal_pairs",
    "drug_encyclopedia",
    "fact_vocabulary",
    "faults",
    "gold_reward",
    "gold_sentiment",
    "is_grammatical",
    "is_rude",
    "label_pairs",
    "length_judge",
    "load_examples",
    "load_preferences",
    "load_prompts",
    "load_snippets",
    "load_texts",
    "load_thumbs",
    "openings_of",
    "opinion_habits",
    "opinion_score",
    "people_encyclopedia",
    "preference_probability",
    "ranking_to_pairs",
    "right_sum",
    "sample_fact_demonstrations",
    "sample_fact_documents",
    "sample_prompts",
    "sample_reviews",
    "sample_sum_demonstrations",
    "sample_sums",
    "sample_web_text",
    "save_examples",
    "save_preferences",
    "save_thumbs",
    "split_openings",
    "sum_steps",
    "thumbs_of_pairs",
]
