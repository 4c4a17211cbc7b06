"""What a learner touches: exercises, checks, grading, widgets."""

from __future__ import annotations

from rlhf_lessons.classroom.exercises import (
    CheckFailed,
    Exercise,
    NotAttempted,
    check,
    compare,
    require,
    yours,
)

__all__ = [
    "CheckFailed",
    "Exercise",
    "NotAttempted",
    "check",
    "compare",
    "require",
    "yours",
]
