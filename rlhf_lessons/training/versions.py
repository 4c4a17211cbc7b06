"""What a result was made with: Python and the libraries, as they are written beside it."""

from __future__ import annotations

import sys
from importlib.metadata import version

__all__: list[str] = []

PACKAGES = ("numpy", "torch", "transformers", "tokenizers", "safetensors")


def versions() -> dict[str, str]:
    """Name the versions that a model or a measurement depends on.

    Returns:
        "python" and each library -> its version.
    """
    return {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}}
