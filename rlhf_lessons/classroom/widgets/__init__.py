"""The widget base: a picture with controls (`explore`) and a training run one watches (`watch`).

Used by all lessons. Two things shape the code. JupyterLab can deliver widget messages on a thread
of their own (a kernel subshell), so a callback may run while a cell runs; and an exception that
passes through a generator ends it, so `watch` turns an interrupt into a flag that it reads between
two steps.

Left out on purpose: `ipywidgets.interact` and output widgets (a new figure for each picture, blank
frames in between), and a Resume button (training would then hold up every other widget).
"""

from __future__ import annotations

from rlhf_lessons.classroom.widgets.controls import Choice, Slider, Toggle
from rlhf_lessons.classroom.widgets.explorer import Explorer, explore
from rlhf_lessons.classroom.widgets.page import (
    caption_html,
    display_bundle,
    progress_html,
    script_html,
    warning_html,
)
from rlhf_lessons.classroom.widgets.run import Run, watch

__all__ = [
    "Choice",
    "Explorer",
    "Run",
    "Slider",
    "Toggle",
    "caption_html",
    "display_bundle",
    "explore",
    "progress_html",
    "script_html",
    "warning_html",
    "watch",
]
