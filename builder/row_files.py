"""Files of rows, read row by row: JSON lines, a JSON array, Parquet, plain text; compressed; folders of them.

What a file is, is told by its name. No file is held whole in memory but plain text, which is one row.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Final, TypeAlias, cast

from builder.data_folder import data_files
from builder.row_error import RowError, kind_of
from builder.row_form import PACKINGS, form_of, is_one_row
from registry import canonical
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from registry.canonical import JSON

__all__ = ["MAX_ROW_BYTES", "Entry", "entries"]

Entry: TypeAlias = "tuple[str, int, dict[str, JSON] | RowError]"
"""The file, the line or the row's number in it, and the row or what is wrong with it."""

MAX_ROW_BYTES: Final = 16 << 20
_BLOCK_CHARACTERS: Final = 1 << 20
_PARQUET_ROWS: Final = 256
_MAX_DEPTH: Final = 64
_IN_FOLDERS: Final = ("jsonl", "ndjson", "json", "parquet", "txt", "md")
_BROKEN: Final = (EOFError, OSError, lzma.LZMAError, zlib.error)


def entries(path: Path, *, where: str) -> Iterator[Entry]:
    """Every row of a file, or of every file of a folder in the order of their paths.

    Args:
        path: The file or the folder.
        where: What it is called.

    Raises:
        InvalidError: A folder holds a link or a file of another kind.
        OSError: The file cannot be read.
    """
    if not path.is_dir():
        yield from _numbered(path, where)
        return
    for name in data_files(path):
        if form_of(name) not in _IN_FOLDERS:
            raise InvalidError(
                "a file that holds no rows, by its name",
                where=f"{where}/{name}",
                mend=f"take it out of the folder; files of rows end in .{', .'.join(_IN_FOLDERS)}, or one of these and "
                f".{', .'.join(PACKINGS)}",
            )
        yield from _numbered(path / name, f"{where}/{name}")


def _numbered(path: Path, file: str) -> Iterator[Entry]:
    """Rows of one file; where it breaks off, the last entry is what is wrong."""
    number = 0
    try:
        for number, row in enumerate(_rows(path), 1):
            yield file, number, row
    except FileNotFoundError:
        raise
    except (*_BROKEN, RowError) as error:
        problem = f"cannot be read on: {error}" if not isinstance(error, RowError) else error.problem
        yield file, number + 1, RowError("", problem, "write the file again, or fetch it anew")


def _rows(path: Path) -> Iterator[dict[str, JSON] | RowError]:
    form = form_of(path.name)
    if form == "parquet":
        yield from _parquet_rows(path)
        return
    with _opened(path) as stream:
        if is_one_row(path.name):
            yield _text_row(stream)
            return
        first = stream.readline(MAX_ROW_BYTES + 1)
        if form == "json" and first.lstrip()[:1] in {b"[", b""}:
            yield from _array_rows(first, stream)
            return
        line = first
        while line:
            yield _line_row(line)
            line = stream.readline(MAX_ROW_BYTES + 1)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked as they are read."""
    suffix = path.name.lower().rpartition(".")[2]
    if suffix == "zst":
        import pyarrow as pa  # noqa: PLC0415 - zstd is in the standard library from Python 3.14 on

        with path.open("rb") as raw, pa.CompressedInputStream(raw, "zstd") as unpacked:
            yield cast("IO[bytes]", _Lines(unpacked))
        return
    openers: Mapping[str, Callable[[Path], object]] = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}
    opened = openers[suffix](path) if suffix in openers else path.open("rb")
    with cast("IO[bytes]", opened) as stream:
        yield stream


class _Lines:
    """Lines of a stream that can only be read in blocks."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._held = b""

    def readline(self, limit: int) -> bytes:
        """The next line, or as much of it as the limit allows."""
        while b"\n" not in self._held and len(self._held) < limit:
            block = self._stream.read(_BLOCK_CHARACTERS)
            if not block:
                break
            self._held += block
        end = self._held.find(b"\n") + 1 or len(self._held)
        line, self._held = self._held[: min(end, limit)], self._held[min(end, limit) :]
        return line

    def read(self, size: int) -> bytes:
        """At most so many bytes."""
        if not self._held:
            return self._stream.read(size)
        block, self._held = self._held[:size], self._held[size:]
        return block


def _line_row(line: bytes) -> dict[str, JSON] | RowError:
    if len(line) > MAX_ROW_BYTES:
        return RowError("", f"a line of more than {MAX_ROW_BYTES >> 20} MiB", "split the row")
    if not line.strip():
        return RowError("", "an empty line", "take it out")
    return _decoded(line, "write one JSON object a line")


def _decoded(data: bytes, mend: str) -> dict[str, JSON] | RowError:
    try:
        row = canonical.decode(data, where="row")
    except InvalidError as error:
        return RowError("", error.what, mend)
    return row if isinstance(row, dict) else RowError("", f"expected an object, got {kind_of(row)}", mend)


def _text_row(stream: IO[bytes]) -> dict[str, JSON] | RowError:
    data = stream.read(MAX_ROW_BYTES + 1)
    if len(data) > MAX_ROW_BYTES:
        return RowError("", f"a text of more than {MAX_ROW_BYTES >> 20} MiB", "split it into several files")
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return RowError("", "not UTF-8", "write the text in UTF-8")


def _array_rows(first: bytes, stream: IO[bytes]) -> Iterator[dict[str, JSON] | RowError]:
    """Objects of one array, found one by one; a broken one ends the reading, since nothing tells where the next is."""
    scan = json.JSONDecoder().raw_decode
    unpacker = _Utf8(first, stream)
    mend = "write one array of JSON objects"
    text, at = unpacker.more("", 0)
    at = text.find("[") + 1
    wanted = True  # an object, rather than a comma or the end
    while True:
        while at < len(text) and text[at] in " \t\r\n":
            at += 1
        if at == len(text):
            text, at = unpacker.more(text, at)
            if at == len(text):
                yield RowError("", "the array does not end", mend)
                return
            continue
        if text[at] == "]":
            return
        if not wanted:
            if text[at] != ",":
                yield RowError("", "rows with no comma between them", mend)
                return
            wanted, at = True, at + 1
            continue
        try:
            _, end = scan(text, at)
        except (json.JSONDecodeError, RecursionError) as error:
            longer, start = unpacker.more(text, at)
            if len(longer) == len(text) - at + start or len(text) - at > MAX_ROW_BYTES:
                problem = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep"
                yield RowError("", f"not strict JSON: {problem}", mend)
                return
            text, at = longer, start
            continue
        yield _decoded(text[at:end].encode(), mend)
        wanted, at = False, end


class _Utf8:
    """Text of a stream in blocks."""

    def __init__(self, first: bytes, stream: IO[bytes]) -> None:
        self._held = first
        self._stream = stream

    def more(self, text: str, at: int) -> tuple[str, int]:
        """What is left of a text and the next block; where the rest begins in it."""
        block = self._held or self._stream.read(_BLOCK_CHARACTERS)
        self._held = b""
        for _ in range(4):  # a character that the block cuts
            try:
                return text[at:] + block.decode(), 0
            except UnicodeDecodeError as error:
                more = self._stream.read(1)
                if not more:
                    raise RowError("", "not UTF-8", "") from error
                block += more
        raise RowError("", "not UTF-8", "")


def _parquet_rows(path: Path) -> Iterator[dict[str, JSON] | RowError]:
    import pyarrow as pa  # noqa: PLC0415 - Parquet only, and never in a light verb
    from pyarrow import parquet  # noqa: PLC0415

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                yield from (_plain_row(row) for row in batch.to_pylist())
    except pa.ArrowException as error:
        raise RowError("", f"not Parquet that can be read: {str(error).splitlines()[0]}", "") from error


def _plain_row(row: dict[str, object]) -> dict[str, JSON] | RowError:
    """A row of a table, where every value of it is one that JSON has."""
    for name, value in row.items():
        if problem := _odd(value, 0):
            return RowError(name, f"a value of type {problem}, which a row cannot have", "store it as text or numbers")
    return cast("dict[str, JSON]", row)


def _odd(value: object, depth: int) -> str:
    """What a value is that JSON does not have; empty where it has it."""
    if value is None or isinstance(value, str | bool | int | float):
        return ""
    if depth < _MAX_DEPTH and isinstance(value, list):
        return next((found for one in value if (found := _odd(one, depth + 1))), "")
    if depth < _MAX_DEPTH and isinstance(value, dict):
        inner = cast("Mapping[object, object]", value)
        return next((found for one in inner.values() if (found := _odd(one, depth + 1))), "")
    return type(value).__name__
