from __future__ import annotations

import os

from hypothesis import settings

# One thread, here and in every process that a test starts: the small models are no faster on two,
# and tests that run side by side don't slow each other down.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No test may depend on how fast the machine is, and every run tries the same examples.
settings.register_profile("course", deadline=None, derandomize=True)
settings.load_profile("course")
