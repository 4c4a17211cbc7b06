from __future__ import annotations

from hypothesis import settings

# No test may depend on how fast the machine is, and every run tries the same examples.
settings.register_profile("course", deadline=None, derandomize=True)
settings.load_profile("course")
