"""The mathematics: pure tensor -> tensor functions.

One concept a module. Conventions, everywhere on this floor:

- B batch, T positions, V vocabulary, K candidates, Y enumerated responses, P prompts with groups of
  G responses.
- Masks are boolean and required where positions are summed or averaged; True = counts.
- Losses come back unreduced, per token or per example; the caller reduces.
- What a *loss* holds fixed (advantages, old log-probabilities, returns, the reference, the teacher)
  is detached inside it. Formulas that are no losses let every gradient through.
- Results keep the dtype of the inputs. NaN is handed on, never hidden.
"""

from __future__ import annotations

from rlhf_lessons.formulas.comparison import (
    bradley_terry_loss,
    bradley_terry_probability,
    plackett_luce_loss,
    triplet_loss,
)
from rlhf_lessons.formulas.credit import discounted_returns, gae, kl_shaped_rewards
from rlhf_lessons.formulas.direct import (
    apo_down_loss,
    apo_zero_loss,
    dpo_gradient_weight,
    dpo_loss,
    exponential_preference_loss,
    hinge_preference_loss,
    implicit_reward,
    ipo_loss,
    label_smoothed_dpo_loss,
    shared_prefix_length,
    unlikelihood_loss,
)
from rlhf_lessons.formulas.divergence import (
    adapt_kl_coefficient,
    best_of_n_kl,
    categorical_kl,
    kl_k1,
    kl_k2,
    kl_k3,
)
from rlhf_lessons.formulas.groups import (
    dr_grpo_advantages,
    grpo_advantages,
    pass_at_k,
    rloo_advantages,
)
from rlhf_lessons.formulas.language import distillation_loss, nll, perplexity
from rlhf_lessons.formulas.linear_rewards import fit_linear_rewards
from rlhf_lessons.formulas.log_probs import (
    entropy,
    sequence_log_prob,
    token_log_probs,
    truncate_logits,
)
from rlhf_lessons.formulas.masking import (
    masked_mean,
    masked_sum,
    masked_variance,
    mean_of_responses,
    mean_over_length,
    whiten,
)
from rlhf_lessons.formulas.optimum import (
    canonical_reward,
    exact_objective,
    implied_reward,
    log_partition,
    optimal_policy,
)
from rlhf_lessons.formulas.policy_gradient import (
    cispo_policy_loss,
    clip_fraction,
    dapo_policy_loss,
    gspo_policy_loss,
    ppo_policy_loss,
    ppo_total_loss,
    ratio,
    reinforce_loss,
    sequence_ratio,
)
from rlhf_lessons.formulas.reference_free import orpo_loss, simpo_loss
from rlhf_lessons.formulas.tabular import (
    advantage,
    log_prob_gradient,
    monte_carlo_values,
    reinforce_gradient,
    td_update,
)
from rlhf_lessons.formulas.thumbs import kto_loss, kto_reference_point
from rlhf_lessons.formulas.trust_region import natural_gradient_step
from rlhf_lessons.formulas.value import clipped_value_loss, value_loss

__all__ = [
    "adapt_kl_coefficient",
    "advantage",
    "apo_down_loss",
    "apo_zero_loss",
    "best_of_n_kl",
    "bradley_terry_loss",
    "bradley_terry_probability",
    "canonical_reward",
    "categorical_kl",
    "cispo_policy_loss",
    "clip_fraction",
    "clipped_value_loss",
    "dapo_policy_loss",
    "discounted_returns",
    "distillation_loss",
    "dpo_gradient_weight",
    "dpo_loss",
    "dr_grpo_advantages",
    "entropy",
    "exact_objective",
    "exponential_preference_loss",
    "fit_linear_rewards",
    "gae",
    "grpo_advantages",
    "gspo_policy_loss",
    "hinge_preference_loss",
    "implicit_reward",
    "implied_reward",
    "ipo_loss",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "kl_shaped_rewards",
    "kto_loss",
    "kto_reference_point",
    "label_smoothed_dpo_loss",
    "log_partition",
    "log_prob_gradient",
    "masked_mean",
    "masked_sum",
    "masked_variance",
    "mean_of_responses",
    "mean_over_length",
    "monte_carlo_values",
    "natural_gradient_step",
    "nll",
    "optimal_policy",
    "orpo_loss",
    "pass_at_k",
    "perplexity",
    "plackett_luce_loss",
    "ppo_policy_loss",
    "ppo_total_loss",
    "ratio",
    "reinforce_gradient",
    "reinforce_loss",
    "rloo_advantages",
    "sequence_log_prob",
    "sequence_ratio",
    "shared_prefix_length",
    "simpo_loss",
    "td_update",
    "token_log_probs",
    "triplet_loss",
    "truncate_logits",
    "unlikelihood_loss",
    "value_loss",
    "whiten",
]
