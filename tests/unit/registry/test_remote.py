"""The cache read without DVC, and what foreign errors become."""

from __future__ import annotations

import io
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from registry import remote
from registry.errors import DeniedError, Error, InvalidError, NotFoundError, TransportError
from registry.remote import DvcCache

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OID = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def _no_configuration_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_SYSTEM_CONFIG", tmp_path / "system")
    monkeypatch.setattr(remote, "_USER_CONFIG", tmp_path / "user")


def write_object(cache: Path, oid: str, data: bytes) -> None:
    path = cache / "files" / "md5" / oid[:2] / oid[2:]
    path.parent.mkdir(parents=True)
    path.write_bytes(data)


def test_an_object_is_read_from_an_offset(tmp_path: Path) -> None:
    write_object(tmp_path / ".dvc/cache", OID, b"0123456789")
    cache = DvcCache(tmp_path)
    assert cache.name == "the DVC cache"
    with cache.open(OID, 4) as stream:
        assert stream.read(3) == b"456"
        assert stream.read(100) == b"789"
        assert stream.read(100) == b""


def test_which_objects_are_there(tmp_path: Path) -> None:
    write_object(tmp_path / ".dvc/cache", f"{OID}.dir", b"[]")
    assert DvcCache(tmp_path).exists([OID, f"{OID}.dir"]) == {f"{OID}.dir"}


def test_an_object_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught, DvcCache(tmp_path).open(OID, 0):
        pass
    assert str(caught.value) == (
        f"there is no such object\n  where: the DVC cache: {OID}\n  mend: run `dvc push` where it was built"
    )


@pytest.mark.parametrize("oid", ["../../etc/passwd", "0123", OID.upper(), f"{OID}.dir/x", ""])
def test_a_name_that_is_no_object_never_becomes_a_path(oid: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidError) as caught, DvcCache(tmp_path).open(oid, 0):
        pass
    assert str(caught.value) == (
        f"{oid!r} is no name of an object\n"
        "  where: the DVC cache\n"
        "  mend: restore dvc.lock from git; objects are named by 32 hexadecimal digits"
    )


def test_the_nearer_configuration_wins(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    (root / ".dvc").mkdir(parents=True)
    assert DvcCache(root).folder == root / ".dvc/cache"
    (tmp_path / "user").write_text("[cache]\n    dir = /shared/one\n")
    assert str(DvcCache(root).folder) == "/shared/one"
    (root / ".dvc/config").write_text(
        "[core]\n    remote = storage\n    analytics = false\n['remote \"storage\"']\n    url = s3://x\n"
        "[cache]\n    type = copy\n    dir = ../two\n"
    )
    assert DvcCache(root).folder == root / ".dvc" / "../two"
    (root / ".dvc/config.local").write_text("[cache]\n    dir = '/shared/three %x'\n")
    assert str(DvcCache(root).folder) == "/shared/three %x"


def test_a_configuration_that_is_none(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("dir = x\n")
    with pytest.raises(InvalidError) as caught:
        DvcCache(tmp_path)
    assert caught.value.what.startswith("not a configuration file of DVC: File contains no section headers.")
    assert caught.value.where == str(tmp_path / ".dvc/config")


class ClientResponseError(Exception):
    """As aiohttp has it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{status}, url='http://user:secret@host/a?signature=secret'")
        self.status = status


class NoCredentialsError(Exception):
    """As botocore has it."""


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("foreign", "kind", "what"),
    [
        (FileNotFoundError("x"), NotFoundError, "there is no such object"),
        (caused(FileNotFoundError("x"), ClientResponseError(404)), NotFoundError, "there is no such object"),
        (
            caused(FileNotFoundError("x"), ClientResponseError(403)),
            DeniedError,
            "reading is not allowed: 403, url='http://host/a?...'",
        ),
        (
            caused(FileNotFoundError("x"), ClientResponseError(500)),
            TransportError,
            "reading failed: 500, url='http://host/a?...'",
        ),
        (
            caused(FileNotFoundError("x"), ConnectionRefusedError("refused")),
            TransportError,
            "reading failed: refused",
        ),
        (PermissionError(13, "Permission denied"), DeniedError, "reading is not allowed: [Errno 13] Permission denied"),
        (NoCredentialsError("none found"), DeniedError, "reading is not allowed: none found"),
        (TimeoutError(), TransportError, "reading failed: TimeoutError"),
        (ValueError("broken\nlibrary"), TransportError, "reading failed: broken library"),
    ],
)
def test_every_foreign_error_becomes_ours(foreign: Exception, kind: type[Error], what: str) -> None:
    @contextmanager
    def failing() -> Iterator[io.BytesIO]:
        raise foreign
        yield io.BytesIO()

    with pytest.raises(kind) as caught, remote._opened(failing(), OID, "remote 'a'"):
        pass
    assert caught.value.what == what
    assert caught.value.where == f"remote 'a': {OID}"
    assert caught.value.__cause__ is foreign


def test_an_error_in_the_middle_of_a_stream_becomes_ours() -> None:
    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() >= 4:
                raise ConnectionResetError(104, "Connection reset by peer")
            return super().read(size)

    with remote._opened(Breaking(b"0123456789"), OID, "remote 'a'") as stream:
        assert stream.read(4) == b"0123"
        with pytest.raises(TransportError) as caught:
            stream.read(4)
    assert str(caught.value) == (
        "reading failed: [Errno 104] Connection reset by peer\n"
        f"  where: remote 'a': {OID}\n"
        "  mend: check the network and the remote, then pull again"
    )


def test_an_error_of_the_reader_is_left_alone() -> None:
    with pytest.raises(KeyError), remote._opened(io.BytesIO(b""), OID, "remote 'a'"):
        raise KeyError("a fault of ours")
