from __future__ import annotations

import errno
import io
import os
import stat
import subprocess
import sys
import threading
from contextlib import AbstractContextManager, closing
from typing import TYPE_CHECKING

import pytest

from registry import store as store_module
from registry.digest import digest_bytes
from registry.errors import ConflictError, DigestMismatchError, MachineError, NotFoundError, TransportError
from registry.store import Store, Wanted, link

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DATA = bytes(range(256)) * 4096  # 1 MiB
DIGEST = digest_bytes(DATA)
WANTED = Wanted(path="model.safetensors", digest=DIGEST, size_bytes=len(DATA))
FLIPPED_DIGEST = digest_bytes(b"\xff" + DATA[1:])
KEPT = "pull again: what has come is kept"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def serve(data: bytes, offsets: list[int] | None = None) -> Callable[[int], AbstractContextManager[io.BytesIO]]:
    def open_at(offset: int) -> AbstractContextManager[io.BytesIO]:
        if offsets is not None:
            offsets.append(offset)
        return closing(io.BytesIO(data[offset:]))

    return open_at


def test_put_shows_a_whole_read_only_object(store: Store) -> None:
    assert not store.has(DIGEST)
    assert store.put(WANTED, serve(DATA), origin="here") == len(DATA)
    assert store.has(DIGEST)
    assert store.path(DIGEST).read_bytes() == DATA
    assert stat.S_IMODE(store.path(DIGEST).stat().st_mode) == 0o444
    assert list((store.folder / "partial").iterdir()) == []


def test_put_of_what_is_there_reads_nothing(store: Store) -> None:
    store.put(WANTED, serve(DATA), origin="here")
    offsets: list[int] = []
    assert store.put(WANTED, serve(DATA, offsets), origin="here") == 0
    assert offsets == []
    assert list((store.folder / "partial").iterdir()) == []


def test_an_empty_file_needs_no_stream(store: Store) -> None:
    wanted = Wanted(path="empty", digest=digest_bytes(b""), size_bytes=0)
    offsets: list[int] = []
    assert store.put(wanted, serve(b"", offsets), origin="here") == 0
    assert offsets == []
    assert store.path(wanted.digest).read_bytes() == b""


def test_a_short_stream_is_resumed_where_it_ended(store: Store) -> None:
    with pytest.raises(TransportError) as caught:
        store.put(WANTED, serve(DATA[:1000]), origin="remote 'a'")
    assert str(caught.value) == (
        f"model.safetensors ended after 1000 of 1048576 bytes\n  where: remote 'a'\n  mend: {KEPT}"
    )
    assert not store.has(DIGEST)
    assert store.partial_bytes(DIGEST) == 1000
    offsets: list[int] = []
    assert store.put(WANTED, serve(DATA, offsets), origin="remote 'a'") == len(DATA) - 1000
    assert offsets == [1000]
    assert store.path(DIGEST).read_bytes() == DATA


def test_a_prefix_of_other_bytes_is_dropped_and_the_file_asked_for_once_more(store: Store) -> None:
    with pytest.raises(TransportError):
        store.put(WANTED, serve(b"x" * 1000), origin="here")
    offsets: list[int] = []
    assert store.put(WANTED, serve(DATA, offsets), origin="here") == 2 * len(DATA) - 1000
    assert offsets == [1000, 0]
    assert store.path(DIGEST).read_bytes() == DATA


def test_a_finished_prefix_needs_no_stream(store: Store) -> None:
    partial = store.folder / "partial" / DIGEST.hex
    partial.parent.mkdir(parents=True)
    partial.write_bytes(DATA)
    offsets: list[int] = []
    assert store.put(WANTED, serve(DATA, offsets), origin="here") == 0
    assert offsets == []
    assert store.has(DIGEST)


def test_too_long_a_prefix_is_dropped(store: Store) -> None:
    partial = store.folder / "partial" / DIGEST.hex
    partial.parent.mkdir(parents=True)
    partial.write_bytes(DATA + b"x")
    assert store.put(WANTED, serve(DATA), origin="here") == len(DATA)
    assert store.has(DIGEST)


def test_other_bytes_are_refused_and_not_kept(store: Store) -> None:
    flipped = b"\xff" + DATA[1:]
    with pytest.raises(DigestMismatchError) as caught:
        store.put(WANTED, serve(flipped), origin="remote 'a'")
    assert str(caught.value) == (
        f"model.safetensors should have {DIGEST} (1048576 bytes), got {digest_bytes(flipped)}\n"
        "  where: remote 'a'\n"
        "  mend: nothing of it was kept; push the artifact again from where it was built, or use another remote"
    )
    assert not store.has(DIGEST)
    assert store.partial_bytes(DIGEST) == 0


def test_an_endless_stream_is_cut_one_byte_after_the_size(store: Store) -> None:
    class Endless:
        given = 0

        def read(self, size: int) -> bytes:
            self.given += size
            return bytes(size)

        def close(self) -> None:
            pass

    stream = Endless()
    with pytest.raises(DigestMismatchError) as caught:
        store.put(WANTED, lambda _: closing(stream), origin="here")
    assert caught.value.what == f"model.safetensors should have {DIGEST} (1048576 bytes), got more bytes than that"
    assert stream.given == len(DATA) + 1


def test_an_open_ended_file_ends_where_its_digest_says(store: Store) -> None:
    wanted = Wanted(path="artifact.json", digest=DIGEST, size_bytes=1 << 21, open_ended=True)
    with pytest.raises(DigestMismatchError) as caught:
        store.put(wanted, serve(DATA[:10]), origin="here")
    assert caught.value.what == (
        f"artifact.json should have {DIGEST} (2097152 bytes at most), got {digest_bytes(DATA[:10])}"
    )
    assert store.put(wanted, serve(DATA), origin="here") == len(DATA)


def test_link_out_gives_the_bytes_and_makes_the_folder(store: Store, tmp_path: Path) -> None:
    store.put(WANTED, serve(DATA), origin="here")
    target = tmp_path / "out" / "deep" / "model.safetensors"
    assert store.link_out(DIGEST, target) in {"reflink", "hardlink"}
    assert target.read_bytes() == DATA
    with pytest.raises(ConflictError) as caught:
        store.link_out(DIGEST, target)
    assert str(caught.value) == (
        f"model.safetensors exists\n  where: {target.parent}\n  mend: remove it or choose another folder"
    )


def test_link_out_finds_a_flipped_byte_and_removes_the_object(store: Store, tmp_path: Path) -> None:
    store.put(WANTED, serve(DATA), origin="here")
    path = store.path(DIGEST)
    path.chmod(0o644)
    with path.open("r+b") as stream:
        stream.write(b"\xff")
    with pytest.raises(DigestMismatchError) as caught:
        store.link_out(DIGEST, tmp_path / "out")
    assert str(caught.value) == (
        f"an object of the store has {FLIPPED_DIGEST}, its name says {DIGEST}\n"
        f"  where: {path}\n"
        "  mend: it was removed and can be fetched again; check the disk, and who writes to pulled files"
    )
    assert not (tmp_path / "out").exists()
    assert not store.has(DIGEST)
    store.put(WANTED, serve(DATA), origin="here")
    store.link_out(DIGEST, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == DATA


def test_link_out_of_what_is_not_there(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        store.link_out(DIGEST, tmp_path / "out")
    assert str(caught.value) == f"{DIGEST} is not in the store\n  where: {store.folder}\n  mend: pull again"


def test_link_out_hashes_what_a_copy_wrote(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(WANTED, serve(DATA), origin="here")
    path = store.path(DIGEST)

    def change(*_: object) -> None:
        """What lies there when it is copied is no longer what was hashed."""
        path.chmod(0o644)
        path.write_bytes(b"\xff" + DATA[1:])
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", change)
    monkeypatch.setattr(store_module.fcntl, "ioctl", _refuse(errno.EXDEV))
    with pytest.raises(DigestMismatchError) as caught:
        store.link_out(DIGEST, tmp_path / "out")
    assert caught.value.what == f"an object of the store has {FLIPPED_DIGEST}, its name says {DIGEST}"
    assert not (tmp_path / "out").exists()
    assert not store.has(DIGEST)


def test_a_partial_file_that_leads_elsewhere_is_not_written_to(store: Store, tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"kept")
    partial = store.folder / "partial" / DIGEST.hex
    partial.parent.mkdir(parents=True)
    partial.symlink_to(tmp_path / "victim")
    with pytest.raises(MachineError) as caught:
        store.put(WANTED, serve(DATA), origin="here")
    assert caught.value.what == "cannot read or write: Too many levels of symbolic links"
    assert caught.value.where == str(partial)
    assert (tmp_path / "victim").read_bytes() == b"kept"


@pytest.mark.parametrize("kinds", [("hardlink", "reflink"), ("copy",)])
def test_link_falls_back(kinds: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(DATA)
    source.chmod(0o640)
    if kinds == ("copy",):
        monkeypatch.setattr(os, "link", _refuse(errno.EXDEV))
        monkeypatch.setattr(store_module.fcntl, "ioctl", _refuse(errno.EXDEV))
    assert link(source, target) in kinds
    assert target.read_bytes() == DATA
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_full_disk_says_what_is_needed_and_keeps_what_came(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TransportError):
        store.put(WANTED, serve(DATA[:1000]), origin="here")
    monkeypatch.setattr(store_module.os, "write", _refuse(errno.ENOSPC))
    with pytest.raises(MachineError) as caught:
        store.put(WANTED, serve(DATA), origin="here")
    assert str(caught.value) == (
        "the disk is full: 1047576 more bytes are needed\n"
        f"  where: {store.folder / 'partial' / DIGEST.hex}\n"
        "  mend: make room on this disk (the store moves with VARIETAL_STORE) and repeat: what has come is kept"
    )
    assert store.partial_bytes(DIGEST) == 1000


def test_a_full_disk_leaves_no_half_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(DATA)
    monkeypatch.setattr(os, "link", _refuse(errno.EXDEV))
    monkeypatch.setattr(store_module.os, "write", _refuse(errno.ENOSPC))
    with pytest.raises(MachineError) as caught:
        link(source, target)
    assert caught.value.what == "the disk is full: 1048576 more bytes are needed"
    assert not target.exists()


def test_space_is_checked_before_anything_moves(store: Store) -> None:
    store.check_space(1)
    with pytest.raises(MachineError, match=r"the disk is full: [0-9]+ more bytes are needed"):
        store.check_space(1 << 60)


def test_a_store_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MachineError) as caught:
        Store(tmp_path / "file" / "store").put(WANTED, serve(DATA), origin="here")
    assert caught.value.what == "cannot read or write: Not a directory"
    assert caught.value.mend == "check the disk and its permissions (the store moves with VARIETAL_STORE)"


def test_two_threads_move_an_object_once(store: Store) -> None:
    waiting = threading.Event()
    moved: list[int] = []

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            waiting.wait(0.2)
            return super().read(size)

    def run() -> None:
        moved.append(store.put(WANTED, lambda offset: closing(Slow(DATA[offset:])), origin="here"))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(moved) == [0, 0, 0, len(DATA)]


def test_many_processes_share_a_store(store: Store) -> None:
    script = (
        "import io, pathlib, sys; from contextlib import closing; from registry.digest import digest_bytes\n"
        "from registry.store import Store, Wanted\n"
        "store = Store(pathlib.Path(sys.argv[1]))\n"
        "for seed in range(40):\n"
        "    data = bytes([seed]) * 30000\n"
        "    wanted = Wanted(path='x', digest=digest_bytes(data), size_bytes=len(data))\n"
        "    store.put(wanted, lambda offset: closing(io.BytesIO(data[offset:])), origin='here')\n"
        "    store.link_out(wanted.digest, pathlib.Path(sys.argv[2]) / str(seed))\n"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", script, str(store.folder), str(store.folder / f"out{index}")])
        for index in range(3)
    ]
    assert [run.wait() for run in runs] == [0, 0, 0]
    for index in range(3):
        assert (store.folder / f"out{index}" / "39").read_bytes() == b"\x27" * 30000


def _refuse(code: int) -> Callable[..., None]:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse
