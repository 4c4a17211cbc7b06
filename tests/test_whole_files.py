"""A file is the old one or the new one, whenever its writer is stopped."""

from __future__ import annotations

import hashlib
import os
import stat

import pytest

from rlhf_lessons.whole_files import damage, fingerprint, replace_file, replacing


def test_a_file_is_replaced_and_readable_for_all(tmp_path):
    for text in ("old", "new ≥ old"):
        replace_file(tmp_path / "file", text)
        assert (tmp_path / "file").read_text(encoding="utf-8") == text
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


@pytest.mark.parametrize("renamed", [False, True])
def test_ctrl_c_while_a_file_is_replaced_leaves_one_of_the_two_and_nothing_else(
    tmp_path, monkeypatch, renamed
):
    replace_file(tmp_path / "file", "old")
    genuine = os.replace

    def stopped(*paths):
        if renamed:
            genuine(*paths)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", stopped)
        replace_file(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == ("new" if renamed else "old")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_writer_that_fails_leaves_the_old_file(tmp_path):
    replace_file(tmp_path / "file", "old")
    with pytest.raises(OSError, match="disk full"), replacing(tmp_path / "file") as new:
        new.write_text("ne")
        raise OSError("disk full")
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_fingerprint_is_that_of_the_whole_file_and_damage_is_named(tmp_path):
    content = os.urandom(1000) * 3000  # more than is read at a time
    (tmp_path / "large").write_bytes(content)
    expected = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert fingerprint(tmp_path / "large") == expected
    files = {"large": expected, "lost": expected}
    assert damage(tmp_path, files, "record") == [f"{tmp_path / 'lost'} is missing"]
    for damaged, complaint in (
        (content[:-1], "is cut off: 2999999 of 3000000 bytes"),
        (
            content[:-1] + bytes([content[-1] ^ 1]),
            "was changed: its SHA-256 is not the one in record",
        ),
        (content + b"more", "was changed: its SHA-256 is not the one in record"),
    ):
        (tmp_path / "large").write_bytes(damaged)
        (found,) = damage(tmp_path, {"large": expected}, "record")
        assert found == f"{tmp_path / 'large'} {complaint}"
