"""The reward that is a weighted sum of features, and its weights by maximum likelihood (lesson 3).

    r(x, y) = w · f(x, y)      P(y_w ≻ y_l | x) = σ(w · d),  d = f(x, y_w) − f(x, y_l)

Bradley-Terry with such a reward is logistic regression of choices on differences of features. There
is no intercept, because neither place in a pair is special. The likelihood has one maximum, and
Newton's method is there in a few steps: no learning rate, no random start.

Left out on purpose: where the features come from, and gradients through the fit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lessons.formulas.comparison import bradley_terry_loss
from rlhf_lessons.formulas.shapes import check_float, check_not_negative

__all__ = ["fit_linear_rewards"]

_STEPS = 30  # a step adds about 1 to the margins of pairs that are all decided: that is no fit
_DEPENDENT = 1e-12  # of a feature's variance, what the others leave over


@torch.no_grad()
def fit_linear_rewards(differences: Tensor, penalty: float = 0.0) -> tuple[Tensor, Tensor]:
    """Give the weights of features under which the choices are likeliest.

        w = argmin (1/B) Σ_i −log σ(w · d_i) + λ‖w‖²

    by Newton's method, w ← w − H⁻¹g, in float64; a step that would raise the objective is halved.

    Args:
        differences: (B, F) features d of the preferred response minus those of the other one.
        penalty: λ ≥ 0, in nats per squared weight.

    Returns:
        (F,) weights w in log-odds per unit of the feature, and the (F, F) information of the
        choices, Σ_i σ(w · d_i) (1 − σ(w · d_i)) d_i d_iᵀ; where λ is 0 the roots of the diagonal of
        its inverse are the standard errors of w. Both float64.

    Raises:
        TypeError: If the differences are not floating point.
        ValueError: If they do not have two dimensions, are empty or not finite, if λ is negative,
            or if no finite weights are best: λ is 0, and the features explain every choice or
            depend on each other.

    Source:
        Bradley and Terry 1952, "Rank Analysis of Incomplete Block Designs", with w · f for the
        logarithm of a rating; Hastie et al. 2009, "The Elements of Statistical Learning", equation
        4.26, for the step.
    """
    check_float("fit_linear_rewards", "(B, F)", differences=differences)
    check_not_negative("fit_linear_rewards", penalty=penalty)
    d = differences.double()
    if d.numel() == 0 or not bool(d.isfinite().all()):
        raise ValueError(
            "fit_linear_rewards: differences must hold finite numbers, got "
            + (f"shape {tuple(d.shape)}" if d.numel() == 0 else "NaN or infinity")
        )
    even = d.new_zeros(len(d))

    def objective(w: Tensor) -> float:
        return float(bradley_terry_loss(d @ w, even).mean() + penalty * w.square().sum())

    w = d.new_zeros(d.shape[1])
    ridge = 2 * penalty * torch.eye(len(w), dtype=d.dtype, device=d.device)
    for _ in range(_STEPS):
        p = torch.sigmoid(d @ w)
        information = (d * (p * (1 - p))[:, None]).T @ d
        gradient = ridge @ w - (1 - p) @ d / len(d)
        hessian = information / len(d) + ridge
        factor, failed = torch.linalg.cholesky_ex(hessian)
        if failed or bool((factor.diag().square() < _DEPENDENT * hessian.diag()).any()):
            break
        step = torch.cholesky_solve(gradient[:, None], factor)[:, 0]
        while objective(w - step) > objective(w) + 1e-12:
            step = step / 2
        w = w - step
        if bool(((d @ step).abs() < 1e-9).all()):
            return w, information
    raise ValueError(
        "fit_linear_rewards: differences must not explain every choice, nor depend on each other, "
        f"for then no finite weights fit best; got {len(d)} choices by {len(w)} features (a "
        "penalty above 0 has best weights always)"
    )
