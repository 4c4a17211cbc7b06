"""Reinforcement learning from human feedback, built part by part.

Five floors, and imports only descend:

1. ``formulas``    pure tensor functions: losses, divergences, advantages
2. ``worlds``      boards, prompts, texts and their truths (no torch)
   ``models``      what owns weights
3. ``training``    one loop per algorithm
4. ``evaluation``  what measures
5. ``classroom``   exercises, checks, grading, widgets

``import rlhf_lessons`` loads none of them: a floor, and torch with it, is imported when it is first
used.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

__all__ = ["classroom", "evaluation", "formulas", "models", "training", "worlds"]


def __getattr__(name: str):
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
