"""Files that are replaced as a whole or not at all: the one way in which anything here is written.

Below the five floors, because each of them writes something: preferences, checkpoints, results,
scores. A reader finds the old file or the new one, whenever the writer was stopped; only a killed
process can leave something behind, a hidden file beside the one that it was writing.

Left out on purpose: adding to a file (``worlds.append_preferences``), and replacing several files
in one moment, which file systems cannot do.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__: list[str] = []


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace a file as a whole: an interruption leaves the old one, or none.

    Args:
        path: The file, in a folder that exists.

    Yields:
        Where to write. What was written there takes the place of ``path`` at the end, unless the
        block ends with an exception.

    Raises:
        OSError: If it cannot be written; what was there before is unchanged.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(name)
        with open(name, "rb+") as file:
            os.fsync(file.fileno())  # or a power cut could leave the new name without its content
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)  # Ctrl-C right after the renaming finds it gone
        raise


def replace_file(path: Path, text: str) -> None:
    """Replace a text file as a whole, as ``replacing`` does.

    Args:
        path: The file, in a folder that exists.
        text: What it shall hold.

    Raises:
        OSError: If it cannot be written; what was there before is unchanged.
    """
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8")
