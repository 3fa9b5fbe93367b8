"""The safetensors format without torch: a strict header reader, a canonical writer.

Format: https://github.com/huggingface/safetensors#format. A file is a header length (u64, little endian), a JSON header
``{name: {dtype, shape, data_offsets}}`` and the tensors' bytes. The reader is at least as strict as the reference.

The writer is canonical: tensors lie by element size, largest first, then by name (the reference's own order, which
keeps every tensor aligned); header keys are sorted; the header is padded with spaces to a multiple of 8 bytes. So equal
tensors and metadata give equal bytes; the reference writes several metadata keys in random order.
"""

from __future__ import annotations

import math
import os
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from registry.canonical import decode, encode
from registry.digest import Digest, Hasher
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Buffer

    from registry.canonical import JSON

__all__ = ["DTYPE_BYTES", "Header", "TensorInfo", "TensorSpec", "Writer", "WrittenFile", "WrittenTensor", "read_header"]

DTYPE_BYTES: Mapping[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E5M2": 1,
    "F8_E4M3": 1,
    "F8_E8M0": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "F64": 8,
    "I64": 8,
    "U64": 8,
}

_LENGTH = struct.Struct("<Q")
_MAX_HEADER_BYTES = 100_000_000
_ALIGNMENT_BYTES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """What a tensor is: name, safetensors dtype (``BF16``), shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorInfo:
    """Where a tensor lies: ``offset`` is absolute in its file, in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """A file's header: tensors in the order of their bytes, and the metadata."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenTensor:
    """A tensor just written, with the digest of its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    digest: Digest


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenFile:
    """A file just written: its name in the folder, size, digest and tensors (none for a plain file)."""

    path: str
    size_bytes: int
    digest: Digest
    tensors: tuple[WrittenTensor, ...] = ()


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file; the tensors' bytes are not read.

    Raises:
        InvalidError: The file breaks the format: length, JSON, names, dtypes, shapes, holes, overlaps, trailing bytes.
        OSError: The file cannot be read.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as stream:
        prefix = stream.read(_LENGTH.size)
        if len(prefix) < _LENGTH.size:
            raise _invalid(path, f"{size_bytes} bytes are too few for a header length")
        (length,) = _LENGTH.unpack(prefix)
        if length > _MAX_HEADER_BYTES or length > size_bytes - _LENGTH.size:
            raise _invalid(path, f"header of {length} bytes in a file of {size_bytes}")
        raw = stream.read(length)
    if not raw.startswith(b"{"):
        raise _invalid(path, "the header does not start with '{'")
    table = decode(raw, where=str(path), max_bytes=_MAX_HEADER_BYTES)
    if not isinstance(table, dict):
        raise _invalid(path, "the header is not a table")
    metadata = _read_metadata(path, table.pop("__metadata__", {}))
    start = _LENGTH.size + length
    infos = sorted((_read_tensor(path, name, entry, start) for name, entry in table.items()), key=_by_offset)
    _check_extent(path, infos, start, size_bytes)
    return Header(tensors={info.name: info for info in infos}, metadata=metadata)


class Writer:
    """Writes one safetensors file in canonical form and hashes it, and each tensor, on the way.

    Use as a context manager; leaving it without :meth:`finish` removes the file. The bytes of all tensors are given to
    :meth:`write` one after another in :attr:`order`, in pieces of any size.

    Attributes:
        order: The tensors in the order of their bytes.
    """

    def __init__(self, path: Path, specs: Sequence[TensorSpec], metadata: Mapping[str, str]) -> None:
        """Create the file and write its header.

        Raises:
            InvalidError: Two tensors of one name, an unknown dtype or a name that no reader should meet.
            OSError: The file exists or cannot be written.
        """
        self.order = _canonical_order(path, specs)
        self._path = path
        self._file_hash = Hasher()
        self._tensor_hash = Hasher()
        self._written: list[WrittenTensor] = []
        self._left_bytes = self.order[0].size_bytes if self.order else 0
        self._size_bytes = 0
        self._finished = False
        self._stream = path.open("xb")
        try:
            self._put(_encode_header(self.order, metadata))
        except BaseException:
            self._abandon()
            raise
        self._end_empty_tensors()

    def __enter__(self) -> Self:
        """The writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the file unless it was finished."""
        if not self._finished:
            self._abandon()

    def write(self, chunk: Buffer) -> None:
        """Write the next bytes; a chunk may end one tensor and begin the next.

        Raises:
            InvalidError: More bytes than the tensors have.
            OSError: The disk is full, or another failure of the write.
        """
        view = memoryview(chunk).cast("B")
        while len(view):
            if len(self._written) == len(self.order):
                raise _invalid(self._path, f"{len(view)} bytes more than the tensors have")
            part = view[: self._left_bytes]
            self._put(part)
            self._tensor_hash.update(part)
            self._left_bytes -= len(part)
            view = view[len(part) :]
            if not self._left_bytes:
                self._end_tensor()
                self._end_empty_tensors()

    def finish(self) -> WrittenFile:
        """Flush to the disk and close.

        Raises:
            InvalidError: Some tensor's bytes are missing.
            OSError: The disk is full, or another failure of the write.
        """
        if len(self._written) < len(self.order):
            missing = self.order[len(self._written)].name
            raise _invalid(self._path, f"{self._left_bytes} bytes of {missing!r} were not written")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._finished = True
        return WrittenFile(
            path=self._path.name,
            size_bytes=self._size_bytes,
            digest=self._file_hash.digest(),
            tensors=tuple(self._written),
        )

    def _put(self, data: Buffer) -> None:
        view = memoryview(data)
        self._stream.write(view)
        self._file_hash.update(view)
        self._size_bytes += view.nbytes

    def _end_tensor(self) -> None:
        spec = self.order[len(self._written)]
        digest = self._tensor_hash.digest()
        self._written.append(WrittenTensor(name=spec.name, dtype=spec.dtype, shape=spec.shape, digest=digest))
        self._tensor_hash = Hasher()
        if len(self._written) < len(self.order):
            self._left_bytes = self.order[len(self._written)].size_bytes

    def _end_empty_tensors(self) -> None:
        while len(self._written) < len(self.order) and not self._left_bytes:
            self._end_tensor()

    def _abandon(self) -> None:
        with suppress(OSError):  # closing writes what is buffered, which a full disk refuses; nobody wants it any more
            self._stream.close()
        self._path.unlink(missing_ok=True)


def _read_metadata(path: Path, value: JSON) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _invalid(path, "__metadata__ is not a table")
    texts = {key: text for key, text in value.items() if isinstance(text, str)}
    if len(texts) != len(value):
        raise _invalid(path, "__metadata__ holds something else than text")
    return texts


def _read_tensor(path: Path, name: str, entry: JSON, start: int) -> TensorInfo:
    _check_name(path, name)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _invalid(path, f"tensor {name!r} needs exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise _invalid(path, f"tensor {name!r} has dtype {dtype!r}, which is not known")
    dimensions = _naturals(path, f"shape of {name!r}", shape)
    bounds = _naturals(path, f"data_offsets of {name!r}", offsets)
    if len(bounds) != 2:  # noqa: PLR2004 - a begin and an end
        raise _invalid(path, f"data_offsets of {name!r} are not two numbers")
    begin, end = bounds
    size_bytes = math.prod(dimensions) * DTYPE_BYTES[dtype]
    if end - begin != size_bytes:
        raise _invalid(path, f"tensor {name!r} takes {size_bytes} bytes, its data_offsets span {end - begin}")
    return TensorInfo(name=name, dtype=dtype, shape=dimensions, offset=start + begin, size_bytes=size_bytes)


def _naturals(path: Path, what: str, value: JSON) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise _invalid(path, f"{what} is not a list")
    numbers = tuple(item for item in value if isinstance(item, int) and not isinstance(item, bool) and item >= 0)
    if len(numbers) != len(value):
        raise _invalid(path, f"{what} holds something else than whole numbers from 0")
    return numbers


def _by_offset(info: TensorInfo) -> tuple[int, int, str]:
    return info.offset, info.size_bytes, info.name


def _check_extent(path: Path, infos: Sequence[TensorInfo], start: int, size_bytes: int) -> None:
    """No hole, no overlap, no trailing byte."""
    expected = start
    for info in infos:
        if info.offset != expected:
            raise _invalid(path, f"tensor {info.name!r} starts at byte {info.offset}, expected {expected}")
        expected += info.size_bytes
    if expected != size_bytes:
        raise _invalid(path, f"the tensors end at byte {expected}, the file at {size_bytes}")


def _check_name(path: Path, name: str) -> None:
    if not name or not name.isprintable() or name == "__metadata__":
        raise _invalid(path, f"{name!r} is no tensor name: empty, reserved, or with unprintable characters")


def _canonical_order(path: Path, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    for spec in specs:
        _check_name(path, spec.name)
        if spec.dtype not in DTYPE_BYTES:
            raise _invalid(path, f"tensor {spec.name!r} has dtype {spec.dtype!r}, which is not known")
    if len({spec.name for spec in specs}) != len(specs):
        raise _invalid(path, "two tensors of one name")
    return tuple(sorted(specs, key=lambda spec: (-DTYPE_BYTES[spec.dtype], spec.name)))


def _encode_header(order: Sequence[TensorSpec], metadata: Mapping[str, str]) -> bytes:
    table: dict[str, JSON] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for spec in order:
        end = offset + spec.size_bytes
        table[spec.name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [offset, end]}
        offset = end
    text = encode(table)
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    return _LENGTH.pack(len(text)) + text


def _invalid(path: Path, what: str) -> InvalidError:
    return InvalidError(what, where=str(path), mend="fetch or write the file again; it is not a sound safetensors file")
