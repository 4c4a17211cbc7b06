"""What measures."""

from rlhf_lessons.evaluation.best_of_n import (
    BestOfN,
    BestOfNCurve,
    best_of_n,
    best_of_n_curve,
    measured_best_of_n_kl,
)
from rlhf_lessons.evaluation.diversity import coverage, mean_distance, pick_one_per_cell
from rlhf_lessons.evaluation.language import (
    Estimate,
    estimate_mean,
    estimate_nll,
    estimate_share,
    sequence_kl,
)
from rlhf_lessons.evaluation.play import (
    Rates,
    exact_rates,
    sampled_rates,
)
from rlhf_lessons.evaluation.preferences import (
    Calibration,
    FeatureWeights,
    agreement,
    calibration,
    order_agreement,
    preference_accuracy,
    preference_calibration,
    preference_features,
)
from rlhf_lessons.evaluation.trust_region import (
    DirectionProfile,
    SurrogateBound,
    profile_direction,
    step_to_kl,
    surrogate_bound,
    surrogate_objective,
)

__all__ = [
    "BestOfN",
    "BestOfNCurve",
    "Calibration",
    "DirectionProfile",
    "Estimate",
    "FeatureWeights",
    "Rates",
    "SurrogateBound",
    "agreement",
    "best_of_n",
    "best_of_n_curve",
    "calibration",
    "coverage",
    "estimate_mean",
    "estimate_nll",
    "estimate_share",
    "exact_rates",
    "mean_distance",
    "measured_best_of_n_kl",
    "order_agreement",
    "pick_one_per_cell",
    "preference_accuracy",
    "preference_calibration",
    "preference_features",
    "profile_direction",
    "sampled_rates",
    "sequence_kl",
    "step_to_kl",
    "surrogate_bound",
    "surrogate_objective",
]
