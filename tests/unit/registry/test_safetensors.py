"""The strict header reader and the canonical writer."""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from registry.digest import digest_bytes, digest_file
from registry.errors import InvalidError
from registry.safetensors import TensorSpec, Writer, read_header

if TYPE_CHECKING:
    from pathlib import Path

PAIR = (TensorSpec(name="small", dtype="BF16", shape=(3,)), TensorSpec(name="wide", dtype="F32", shape=(2, 1)))


def write(path: Path, specs: tuple[TensorSpec, ...], data: bytes, metadata: dict[str, str] | None = None) -> None:
    with Writer(path, specs, metadata or {}) as writer:
        writer.write(data)
        writer.finish()


def raw(path: Path, header: object, body: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def test_tensors_lie_by_element_size_then_name(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write(path, PAIR, bytes(range(14)), {"format": "pt"})
    header = read_header(path)
    assert [(info.name, info.dtype, info.shape, info.size_bytes) for info in header.tensors.values()] == [
        ("wide", "F32", (2, 1), 8),
        ("small", "BF16", (3,), 6),
    ]
    assert header.metadata == {"format": "pt"}
    info = header.tensors["small"]
    assert path.read_bytes()[info.offset : info.offset + info.size_bytes] == bytes(range(8, 14))


def test_the_bytes_are_these(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write(path, PAIR[:1], b"abcdef", {"b": "2", "a": "1"})
    header = b'{"__metadata__":{"a":"1","b":"2"},"small":{"data_offsets":[0,6],"dtype":"BF16","shape":[3]}}'
    padded = header + b" " * (-len(header) % 8)
    assert path.read_bytes() == struct.pack("<Q", len(padded)) + padded + b"abcdef"


def test_the_writer_reports_what_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    data = bytes(range(14))
    with Writer(path, PAIR, {}) as writer:
        assert [spec.name for spec in writer.order] == ["wide", "small"]
        for start in range(0, 14, 3):
            writer.write(memoryview(data)[start : start + 3])
        written = writer.finish()
    assert (written.path, written.size_bytes) == ("a.safetensors", path.stat().st_size)
    assert written.digest == digest_file(path)
    assert [(one.name, one.digest) for one in written.tensors] == [
        ("wide", digest_bytes(data[:8])),
        ("small", digest_bytes(data[8:])),
    ]


def test_empty_tensors_and_no_tensors(tmp_path: Path) -> None:
    empty = (TensorSpec(name="none", dtype="F32", shape=(0, 4)), TensorSpec(name="nil", dtype="U8", shape=(0,)))
    write(tmp_path / "a.safetensors", empty, b"")
    write(tmp_path / "b.safetensors", (), b"")
    assert [info.size_bytes for info in read_header(tmp_path / "a.safetensors").tensors.values()] == [0, 0]
    assert not read_header(tmp_path / "b.safetensors").tensors


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"x" * 13, "1 bytes of 'small' were not written"), (b"x" * 15, "1 bytes more than the tensors have")],
)
def test_a_wrong_number_of_bytes_leaves_no_file(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(InvalidError, match=message):
        write(path, PAIR, data)
    assert not path.exists()


def test_an_interrupted_write_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(KeyboardInterrupt), Writer(path, PAIR, {}):
        raise KeyboardInterrupt
    assert not path.exists()


FULL_DISK = """
import errno, resource, signal, sys
from pathlib import Path
from registry.safetensors import TensorSpec, Writer

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write beyond the limit fails, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (4, 4))
path, given = Path(sys.argv[1]), int(sys.argv[2])
try:
    with Writer(path, [TensorSpec(name="a", dtype="U8", shape=(100_000,))], {}) as writer:
        writer.write(bytes(given))
        writer.finish()
except OSError as error:
    print(errno.errorcode[error.errno], path.exists())
except Exception as error:
    print(error.what, path.exists())
"""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (100_000, "EFBIG False"),  # more than the buffer holds: the write fails
        (100, "99900 bytes of 'a' were not written False"),  # the buffer cannot be flushed when the file is closed
    ],
)
def test_a_disk_that_is_full_leaves_no_file(tmp_path: Path, given: int, said: str) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "a.safetensors"), str(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == said


def test_a_failure_of_the_last_flush_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    monkeypatch.setattr("os.fsync", _no_space)
    with pytest.raises(OSError, match="No space left"):
        write(path, PAIR, bytes(14))
    assert not path.exists()


def _no_space(_descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ((PAIR[0], PAIR[0]), "two tensors of one name"),
        ((TensorSpec(name="", dtype="F32", shape=()),), "'' is no tensor name"),
        ((TensorSpec(name="a\0b", dtype="F32", shape=()),), "is no tensor name"),
        ((TensorSpec(name="a", dtype="F31", shape=()),), "tensor 'a' has dtype 'F31', which is not known"),
    ],
)
def test_unsound_specs_are_refused(tmp_path: Path, specs: tuple[TensorSpec, ...], message: str) -> None:
    with pytest.raises(InvalidError, match=message):
        Writer(tmp_path / "a.safetensors", specs, {})


def entry(begin: object, end: object, shape: object = (1,), dtype: object = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "body", "message"),
    [
        (b" {}", b"", "the header does not start with '{'"),
        (b"{}", b"x", "the tensors end at byte 10, the file at 11"),
        ({"a": entry(0, 1)}, b"", "the tensors end at byte 69, the file at 68"),
        ({"a": entry(1, 2)}, b"xx", "tensor 'a' starts at byte 69, expected 68"),
        ({"a": entry(0, 1), "b": entry(0, 1)}, b"xx", "tensor 'b' starts at byte 128, expected 129"),
        ({"a": entry(0, 2)}, b"xx", "tensor 'a' takes 1 bytes, its data_offsets span 2"),
        ({"a": entry(0, 1, shape=[-1])}, b"x", "shape of 'a' holds something else than whole numbers from 0"),
        ({"a": entry(0, 1, shape=[True])}, b"x", "shape of 'a' holds something else than whole numbers from 0"),
        ({"a": entry(0, 1, shape=1)}, b"x", "shape of 'a' is not a list"),
        ({"a": entry(0, 1, dtype="F4")}, b"x", "tensor 'a' has dtype 'F4', which is not known"),
        ({"a": {"dtype": "U8", "shape": [1]}}, b"x", "tensor 'a' needs exactly dtype, shape and data_offsets"),
        ({"a": [1]}, b"x", "tensor 'a' needs exactly dtype, shape and data_offsets"),
        ({"\x1b[2J": entry(0, 1)}, b"x", "is no tensor name: empty, reserved, or with unprintable characters"),
        ({"__metadata__": {"a": 1}}, b"", "__metadata__ holds something else than text"),
        (b'{"a":{},"a":{}}', b"", "not strict JSON: key 'a' twice in one object"),
    ],
)
def test_unsound_headers_are_refused(tmp_path: Path, header: object, body: bytes, message: str) -> None:
    path = raw(tmp_path / "a.safetensors", header, body)
    with pytest.raises(InvalidError) as caught:
        read_header(path)
    assert message in caught.value.what
    assert caught.value.where == str(path)


@pytest.mark.parametrize("data", [b"", b"\0" * 7, struct.pack("<Q", 1 << 40), struct.pack("<Q", 3) + b"{}"])
def test_a_short_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(InvalidError, match=r"too few for a header length|header of \d+ bytes in a file of"):
        read_header(path)
