"""Files that are replaced as a whole or not at all: the one way in which anything here is written.

Below the five floors, because each of them writes something: preferences, checkpoints, results,
scores. A reader finds the old file or the new one, whenever the writer was stopped; only a killed
process can leave something behind, a hidden file beside the one that it was writing. What was
written once and is read for years has its size and SHA-256 in a record beside it (``fingerprint``),
which tells a sound file from a damaged one (``damage``).

Left out on purpose: adding to a file (``worlds.append_preferences``), and replacing several files
in one moment, which file systems cannot do.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

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


def fingerprint(path: Path) -> dict[str, Any]:
    """Give what tells a file from every other one.

    Args:
        path: The file, of any size: it is read a piece at a time.

    Returns:
        Its size under "bytes" and its "sha256".

    Raises:
        OSError: If it cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
            size += len(piece)
    return {"bytes": size, "sha256": digest.hexdigest()}


def damage(folder: Path, files: Mapping[str, Mapping[str, Any]], record: str) -> list[str]:
    """Compare files with what was recorded of them.

    Args:
        folder: Where they are.
        files: The ``fingerprint`` that each had, by name.
        record: Name of the file that holds them, for the message.

    Returns:
        What is wrong, file by file; an empty list where all are sound.
    """
    found = []
    for name, expected in files.items():
        path = folder / name
        try:
            actual = fingerprint(path)
        except FileNotFoundError:
            found.append(f"{path} is missing")
        except OSError as error:
            found.append(f"{path} cannot be read ({error.strerror})")
        else:
            if actual["bytes"] < expected["bytes"]:
                found.append(f"{path} is cut off: {actual['bytes']} of {expected['bytes']} bytes")
            elif actual["sha256"] != expected["sha256"]:
                found.append(f"{path} was changed: its SHA-256 is not the one in {record}")
    return found
