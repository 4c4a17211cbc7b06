"""What a learner touches: exercises, checks, grading, widgets."""

from __future__ import annotations

from rlhf_lessons.classroom.board import play
from rlhf_lessons.classroom.exercises import (
    CheckFailed,
    Exercise,
    NotAttempted,
    check,
    compare,
    require,
    yours,
)
from rlhf_lessons.classroom.glossary import glossary
from rlhf_lessons.classroom.labelling import (
    label_pairs_by_hand,
    rank_by_hand,
    rate_by_hand,
    what_it_learned,
)
from rlhf_lessons.classroom.plots import board_map, curve, label_ends
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
    "board_map",
    "check",
    "compare",
    "curve",
    "explore",
    "glossary",
    "label_ends",
    "label_line",
    "label_pairs_by_hand",
    "play",
    "rank_by_hand",
    "rate_by_hand",
    "require",
    "use_style",
    "watch",
    "what_it_learned",
    "yours",
]
