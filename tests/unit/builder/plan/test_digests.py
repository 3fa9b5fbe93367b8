from __future__ import annotations

import hashlib
import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from builder.plan.digests import Digests, listing_md5
from builder.plan.memo import Memo
from registry.digest import digest_bytes

if TYPE_CHECKING:
    from pathlib import Path

_LONG_AGO_S = 1_600_000_000


def _write(path: Path, data: bytes, *, at_s: float = _LONG_AGO_S) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (at_s, at_s))


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def test_hashes_of_a_file(tmp_path: Path) -> None:
    _write(tmp_path / "data/a.jsonl", b"abc")
    digests = Digests(tmp_path, Memo(tmp_path))
    assert digests.md5("data/a.jsonl") == _md5(b"abc")
    assert digests.sha256("data/a.jsonl") == digest_bytes(b"abc")
    assert digests.md5("data/b.jsonl") == ""
    assert digests.sha256("data/b.jsonl") is None
    assert digests.md5("data") == ""


def test_a_folder_is_named_as_dvc_does(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "a/b.bin": b"1", "a.bin": b"2", "z": b""}
    for name, data in files.items():
        _write(tmp_path / "out" / name, data)
    rows = [{"md5": _md5(data), "relpath": name} for name, data in sorted(files.items())]
    expected = _md5(json.dumps(rows).encode()) + ".dir"
    assert Digests(tmp_path, Memo(tmp_path)).folder_md5("out") == expected
    assert listing_md5((name, _md5(data)) for name, data in files.items()) == expected
    assert Digests(tmp_path, Memo(tmp_path)).folder_md5("gone") == ""


def test_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "a", b"abc")
    first = Digests(tmp_path, Memo(tmp_path))
    first.md5("a")
    first.sha256("a")
    first.save()
    monkeypatch.setattr("builder.plan.digests._hash", lambda path, name: pytest.fail(f"read {path} for {name}"))
    second = Digests(tmp_path, Memo(tmp_path))
    assert second.md5("a") == _md5(b"abc")
    assert second.sha256("a") == digest_bytes(b"abc")


@pytest.mark.parametrize("change", ["size", "time", "inode"])
def test_a_changed_file_is_read_again(tmp_path: Path, change: str) -> None:
    _write(tmp_path / "a", b"abc")
    first = Digests(tmp_path, Memo(tmp_path))
    first.md5("a")
    first.save()
    data = b"abcd" if change == "size" else b"abd"
    if change == "inode":
        _write(tmp_path / "b", data)
        (tmp_path / "b").replace(tmp_path / "a")
    else:
        _write(tmp_path / "a", data, at_s=_LONG_AGO_S + (change == "time"))
    assert Digests(tmp_path, Memo(tmp_path)).md5("a") == _md5(data)


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path) -> None:
    """It could change once more within a tick of the clock, and look the same."""
    now_s = time.time()
    _write(tmp_path / "a", b"abc", at_s=now_s)
    first = Digests(tmp_path, Memo(tmp_path))
    first.md5("a")
    first.save()
    _write(tmp_path / "a", b"abd", at_s=now_s)
    assert Digests(tmp_path, Memo(tmp_path)).md5("a") == _md5(b"abd")
    assert first.future == set()


def test_a_file_dated_in_the_future_is_told_and_not_remembered(tmp_path: Path) -> None:
    ahead_s = time.time() + 3600
    _write(tmp_path / "a", b"abc", at_s=ahead_s)
    first = Digests(tmp_path, Memo(tmp_path))
    first.md5("a")
    first.save()
    assert first.future == {"a"}
    _write(tmp_path / "a", b"abd", at_s=ahead_s)
    assert Digests(tmp_path, Memo(tmp_path)).md5("a") == _md5(b"abd")


def test_large_files_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.plan.digests._LARGE_BYTES", 2)
    files = {str(number): bytes([number]) * (number % 4 + 1) for number in range(12)}
    for name, data in files.items():
        _write(tmp_path / "out" / name, data)
    expected = listing_md5((name, _md5(data)) for name, data in files.items())
    assert Digests(tmp_path, Memo(tmp_path)).folder_md5("out") == expected


def test_links_in_a_folder(tmp_path: Path) -> None:
    """A link to a file is the file; a link to a folder is nothing, as for DVC."""
    _write(tmp_path / "elsewhere/a", b"abc")
    _write(tmp_path / "out/b", b"d")
    (tmp_path / "out/a").symlink_to(tmp_path / "elsewhere/a")
    (tmp_path / "out/c").symlink_to(tmp_path / "elsewhere")
    expected = listing_md5([("a", _md5(b"abc")), ("b", _md5(b"d"))])
    assert Digests(tmp_path, Memo(tmp_path)).folder_md5("out") == expected
