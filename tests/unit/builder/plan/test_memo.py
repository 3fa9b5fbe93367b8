from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from builder.plan.memo import Hashes, Memo, Seen

if TYPE_CHECKING:
    from pathlib import Path

_FILES = {"a": Hashes(1, 2, 3, "m", "s"), "models/b/ä": Hashes(1, 2**62, 2**62, "", "s")}
_SEEN = {"a": Seen("signature", "{}")}


def test_what_is_kept_is_found(tmp_path: Path) -> None:
    memo = Memo(tmp_path)
    assert (memo.files(), memo.variants()) == ({}, {})
    memo.keep_files(_FILES)
    memo.keep_variants(_SEEN)
    assert (Memo(tmp_path).files(), Memo(tmp_path).variants()) == (_FILES, _SEEN)


def test_what_is_gone_is_forgotten(tmp_path: Path) -> None:
    memo = Memo(tmp_path)
    memo.keep_variants(_SEEN)
    memo.keep_variants({"b": Seen("x", "y")}, gone=["a"])
    assert memo.variants() == {"b": Seen("x", "y")}


@pytest.mark.parametrize("damage", [b"", b"no database", b"SQLite format 3\x00" + b"x" * 5000])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: bytes) -> None:
    memo = Memo(tmp_path)
    memo.keep_files(_FILES)
    (tmp_path / ".varietal/plan.sqlite").write_bytes(damage)
    assert memo.files() == {}
    memo.keep_files(_FILES)
    assert memo.files() == _FILES


def test_a_file_of_another_layout_is_made_again(tmp_path: Path) -> None:
    memo = Memo(tmp_path)
    memo.keep_files(_FILES)
    with closing(sqlite3.connect(tmp_path / ".varietal/plan.sqlite")) as database, database:
        database.execute("pragma user_version = 99")
    assert memo.files() == {}
    memo.keep_variants(_SEEN)
    assert memo.variants() == _SEEN


def test_without_a_place_to_write_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / ".varietal").write_text("a file")
    memo = Memo(tmp_path)
    memo.keep_files(_FILES)
    assert memo.files() == {}


def test_while_another_writes_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.plan.memo._WAIT_S", 0.05)
    memo = Memo(tmp_path)
    memo.keep_files(_FILES)
    with closing(sqlite3.connect(tmp_path / ".varietal/plan.sqlite", isolation_level=None)) as other:
        other.execute("begin exclusive")
        memo.keep_variants(_SEEN)
    assert memo.files() == _FILES
    assert memo.variants() == {}
