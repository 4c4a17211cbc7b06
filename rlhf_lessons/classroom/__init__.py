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
from rlhf_lessons.classroom.style import COLORS, LINE_STYLES, label_line, use_style
from rlhf_lessons.classroom.widgets import Choice, Run, Slider, Toggle, explore, watch

__all__ = [
    "COLORS",
    "LINE_STYLES",
    "CheckFailed",
    "Choice",
    "Exercise",
    "NotAttempted",
    "Run",
    "Slider",
    "Toggle",
    "check",
    "compare",
    "explore",
    "label_line",
    "require",
    "use_style",
    "watch",
    "yours",
]
