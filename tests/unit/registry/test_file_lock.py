"""A lock that one holds at a time."""

from __future__ import annotations

import fcntl
from typing import TYPE_CHECKING

import pytest

from registry.file_lock import locked

if TYPE_CHECKING:
    from pathlib import Path


def is_free(path: Path) -> bool:
    with path.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_a_file_that_is_made_with_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er.lock"
    with locked(path):
        assert not is_free(path)
    assert is_free(path)


def test_a_file_that_is_there_keeps_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    path.write_text("kept")
    with locked(path):
        assert path.read_text() == "kept"


def test_it_is_given_back_after_a_failure(tmp_path: Path) -> None:
    def fail() -> None:
        with locked(tmp_path / "a.lock"):
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert is_free(tmp_path / "a.lock")


def test_a_folder(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(BlockingIOError):
        other(tmp_path)
    other(tmp_path)


def other(folder: Path) -> None:
    """Somebody else, who does not wait."""
    import os  # noqa: PLC0415 - of this test alone

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)
