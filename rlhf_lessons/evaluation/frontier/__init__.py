"""Reward against KL: what each way of aligning a policy buys, and at what distance (lesson 6).

    python -m rlhf_lessons frontier list                which runs there are, and which are done
    python -m rlhf_lessons frontier run --seeds 0 1 2   do those that are not, one file each
    python -m rlhf_lessons frontier table               what came out

All methods start from the shipped fine-tuned model and get the same labelled pairs (or, for
``ppo-true``, the reward that made the labels). Labels are Bradley-Terry on the gold reward at
temperature 1, so that one β asks every method for one and the same optimal policy. A run is written
when it ends, as a whole, with its settings, seed, versions and command; the next call goes on with
what is missing.

Settings are in ``FrontierSettings``, once for all β. Two were chosen after a look at results: DPO's
learning rate, the better of 3e-4 and 1e-3 by reward at β = 0.2, and PPO's value model of its own,
after runs with a shared body ran away at β ≥ 0.5. Left out on purpose: a search over the rest.
"""

from __future__ import annotations

from rlhf_lessons.evaluation.frontier.command import main
from rlhf_lessons.evaluation.frontier.methods import FRONTIER_METHODS, FrontierMethod
from rlhf_lessons.evaluation.frontier.point import FrontierPoint, frontier_point
from rlhf_lessons.evaluation.frontier.sweep import (
    FRONTIER_FOLDER,
    FrontierRun,
    load_frontier,
    run_frontier,
)
from rlhf_lessons.evaluation.frontier.world import FrontierSettings

__all__ = [
    "FRONTIER_FOLDER",
    "FRONTIER_METHODS",
    "FrontierMethod",
    "FrontierPoint",
    "FrontierRun",
    "FrontierSettings",
    "frontier_point",
    "load_frontier",
    "main",
    "run_frontier",
]
