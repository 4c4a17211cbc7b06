"""Learning from comparisons (lesson 3; lesson 6 builds on it).

People say which of two is better more reliably than how good one is. Bradley-Terry turns two
rewards into the probability of that choice, Plackett-Luce does it for a whole ranking, and the
triplet loss learns from "which of two is more like the first".

Only differences of rewards matter: adding a constant to all rewards of one prompt changes no loss
here.

Left out on purpose: a margin between rewards (it is subtracted from the chosen reward), and turning
a ranking into pairs, which is an exercise of lesson 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lessons.formulas.shapes import check_not_negative, check_same_shape

__all__ = [
    "bradley_terry_loss",
    "bradley_terry_probability",
    "plackett_luce_loss",
    "triplet_loss",
]


def bradley_terry_probability(first_rewards: Tensor, second_rewards: Tensor) -> Tensor:
    """Give the probability that a rater prefers the first of two responses.

        P(y_1 ≻ y_2 | x) = σ(r_1 − r_2) = exp r_1 / (exp r_1 + exp r_2)

    Args:
        first_rewards: (B,) rewards of the first responses, in log-odds.
        second_rewards: (B,) rewards of the second responses to the same prompts.

    Returns:
        (B,) probabilities; ½ where the rewards are equal.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If a shape differs.

    Source:
        Bradley and Terry 1952, "Rank Analysis of Incomplete Block Designs", with
        rewards as logarithms of their ratings.
    """
    check_same_shape(
        "bradley_terry_probability",
        "(B,)",
        first_rewards=first_rewards,
        second_rewards=second_rewards,
    )
    return torch.sigmoid(first_rewards - second_rewards)


def bradley_terry_loss(chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
    """Give the negative log-likelihood of each choice between two responses.

        L = −log σ(r_w − r_l)

    Args:
        chosen_rewards: (B,) rewards r_w of the preferred responses, in log-odds.
        rejected_rewards: (B,) rewards r_l of the other responses to the same prompts.

    Returns:
        (B,) losses in nats; log 2 where the rewards are equal.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If a shape differs.

    Source:
        Ouyang et al. 2022, "Training language models to follow instructions with human feedback",
        equation 1, for one pair.
    """
    check_same_shape(
        "bradley_terry_loss",
        "(B,)",
        chosen_rewards=chosen_rewards,
        rejected_rewards=rejected_rewards,
    )
    # logsigmoid stays finite where log(sigmoid(x)) is log 0.
    return -torch.nn.functional.logsigmoid(chosen_rewards - rejected_rewards)


def plackett_luce_loss(scores: Tensor) -> Tensor:
    """Give the negative log-likelihood of a whole ranking.

        L = −Σ_k log(exp s_k / Σ_{j≥k} exp s_j)

    The best is chosen among all K by softmax, then the next among the rest, and so on. With K = 2
    it is the Bradley-Terry loss.

    Args:
        scores: (B, K) rewards of the K responses to one prompt in log-odds, in the order of the
            ranking, best first.

    Returns:
        (B,) losses in nats; 0 where K is 1.

    Raises:
        TypeError: If the scores are not floating point.
        ValueError: If the scores do not have two dimensions, or K is 0.

    Source:
        Plackett 1975, "The Analysis of Permutations", with exp s for the weights;
        Rafailov et al. 2023, "Direct Preference Optimization", equation 18.
    """
    check_same_shape("plackett_luce_loss", "(B, K)", scores=scores)
    if scores.shape[1] == 0:
        raise ValueError(
            "plackett_luce_loss: scores must rank at least one response, got K = 0 in shape "
            f"{tuple(scores.shape)}"
        )
    # Summed from the last to the first, entry k holds log Σ_{j≥k} exp s_j.
    log_sum_of_rest = scores.flip(1).logcumsumexp(1).flip(1)
    return (log_sum_of_rest - scores).sum(1)


def triplet_loss(anchor: Tensor, nearer: Tensor, farther: Tensor, margin: float) -> Tensor:
    """Give the loss of "the anchor is more like this one than that one".

        L = max(0, ‖a − n‖ − ‖a − f‖ + margin)

    It is 0 once the farther point is farther by the margin.

    Args:
        anchor: (B, D) points in the latent space.
        nearer: (B, D) points that a rater called more like the anchor.
        farther: (B, D) points that a rater called less like the anchor.
        margin: Distance to keep between the two distances, 0 or more, in the unit of the space. At
            0 all points may fall together.

    Returns:
        (B,) losses in the unit of the space.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If a shape differs or the margin is negative.

    Source:
        Schroff et al. 2015, "FaceNet", equation 3, with plain for squared distances; Ding et al.
        2024, "Quality Diversity through Human Feedback", section 3.
    """
    check_same_shape("triplet_loss", "(B, D)", anchor=anchor, nearer=nearer, farther=farther)
    check_not_negative("triplet_loss", margin=margin)
    near_distance = torch.linalg.vector_norm(anchor - nearer, dim=1)
    far_distance = torch.linalg.vector_norm(anchor - farther, dim=1)
    return torch.relu(near_distance - far_distance + margin)
