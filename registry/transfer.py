"""Objects from several sources into the store and out into a folder, in parallel, each resumed and proven.

A source that gives wrong bytes, breaks or refuses is reported and the next one asked; only when none is left does the
pull end, with the failure that says most.
"""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from registry.errors import (
    DeniedError,
    DigestMismatchError,
    Error,
    InvalidError,
    NotFoundError,
    TransportError,
)
from registry.listing import most_bytes, read_listing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from registry.record import Record
    from registry.remote import Source
    from registry.store import Readable, Store, Wanted

__all__ = ["FAILURES", "Transfer"]

_Result = TypeVar("_Result")

_PARALLEL = 4  # objects fetched at once
_TRIES = 3  # connections that may break, one after another, without bringing a block
_PAUSE_S = 0.5  # doubled before each try
_BLOCK_BYTES = 1 << 20

FAILURES = (DigestMismatchError, InvalidError, DeniedError, TransportError, NotFoundError)
"""What a source can fail with, the failure that says most first: wrong bytes before bytes that are not there."""


class Transfer:
    """The moving part of one pull.

    Attributes:
        moved: Bytes that came, by name of the source.
        had_bytes: Bytes that were in the store before.
        notes: What went wrong on the way and was mended.
    """

    def __init__(self, sources: Sequence[Source], store: Store, say: Callable[[str], None]) -> None:
        """Nothing is moved yet."""
        self.moved: Counter[str] = Counter()
        self.had_bytes = 0
        self.notes: list[str] = []
        self._sources = sources
        self._store = store
        self._say = say
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def read_listing(self, oid: str, record: Record) -> Mapping[str, str]:
        """Object id of every file, from the first source with a listing that holds."""
        limit_bytes = most_bytes(record)

        def read(source: Source) -> Mapping[str, str]:
            return read_listing(self._read(source, oid, limit_bytes), oid, record, origin=source.name)

        return self._from_any(read)

    def fetch_all(self, objects: Sequence[tuple[Wanted, str]], folder: Path) -> None:
        """Put every object where it belongs in ``folder``; the first failure stops the others."""
        with ThreadPoolExecutor(_PARALLEL) as pool:
            placing = {pool.submit(self._place, wanted, oid, folder): wanted.path for wanted, oid in objects}
            try:
                for done, future in enumerate(as_completed(placing), start=1):
                    future.result()
                    self._say(f"{done} of {len(placing)} files: {placing[future]}")
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _place(self, wanted: Wanted, oid: str, folder: Path) -> None:
        target = folder / wanted.path
        self._fetch(wanted, oid)
        try:
            self._store.link_out(wanted.digest, target)
        except DigestMismatchError as error:
            self._note(f"{wanted.path}: {error.what} ({error.where}); it was fetched again")
            self._fetch(wanted, oid)
            self._store.link_out(wanted.digest, target)

    def _fetch(self, wanted: Wanted, oid: str) -> None:
        """See that the store has an object."""
        if self._store.has(wanted.digest):
            self._count_had(self._store.path(wanted.digest).stat().st_size)
            return
        self._count_had(self._store.partial_bytes(wanted.digest))
        self._from_any(lambda source: self._put(wanted, oid, source))

    def _put(self, wanted: Wanted, oid: str, source: Source) -> None:
        """Put an object into the store, over as many connections as it takes while each brings something."""

        def open_at(offset: int) -> AbstractContextManager[Readable]:
            return self._open(source, oid, offset)

        idle = 0
        while True:
            before = self._store.partial_bytes(wanted.digest)
            try:
                self._store.put(wanted, open_at, origin=f"{source.name}: {oid}")
            except TransportError:
                brought = self._store.partial_bytes(wanted.digest) - before
                idle = 0 if brought >= _BLOCK_BYTES else idle + 1
                if idle >= _TRIES or self._stop.wait(_PAUSE_S * 2**idle):
                    raise
            else:
                return

    def _read(self, source: Source, oid: str, limit_bytes: int) -> bytes:
        """All of a small object, up to one byte more than it may have."""
        data = b""
        with self._open(source, oid, 0) as stream:
            while room := limit_bytes + 1 - len(data):
                block = stream.read(room)
                if not block:
                    break
                data += block
        return data

    @contextmanager
    def _open(self, source: Source, oid: str, offset: int) -> Iterator[Readable]:
        with source.open(oid, offset) as stream:
            yield _Meter(stream, lambda count: self._count_moved(source.name, count), self._stop)

    def _from_any(self, attempt: Callable[[Source], _Result]) -> _Result:
        """Ask one source after the other."""
        failures: list[Error] = []
        for source in self._sources:
            try:
                result = attempt(source)
            except FAILURES as error:
                failures.append(error)
                continue
            for failure in failures:
                if not isinstance(failure, NotFoundError):
                    self._note(f"{failure.what} ({failure.where}); taken from {source.name}")
            return result
        raise _worst(failures)

    def _count_moved(self, name: str, count: int) -> None:
        with self._lock:
            self.moved[name] += count

    def _count_had(self, count: int) -> None:
        with self._lock:
            self.had_bytes += count

    def _note(self, text: str) -> None:
        with self._lock:
            self.notes.append(text)


class _Meter:
    """A stream that counts, and that ends early when the pull has failed elsewhere."""

    __slots__ = ("_count", "_stop", "_stream")

    def __init__(self, stream: Readable, count: Callable[[int], None], stop: threading.Event) -> None:
        self._stream = stream
        self._count = count
        self._stop = stop

    def read(self, size: int, /) -> bytes:
        if self._stop.is_set():
            raise TransportError("the pull was stopped", where="pull", mend="pull again: what has come is kept")
        block = self._stream.read(size)
        self._count(len(block))
        return block


def _worst(failures: Sequence[Error]) -> Error:
    """The failure that says most, of equal ones that of the last source; the others follow in its text."""
    if not failures:
        return NotFoundError("there is no source to pull from", where="pull", mend="run `dvc remote add -d NAME URL`")
    last_first = list(reversed(failures))
    worst, *others = sorted(last_first, key=lambda error: FAILURES.index(type(error)))
    also = [f"{other.what} ({other.where})" for other in others if not isinstance(other, NotFoundError)]
    return type(worst)("; also: ".join([worst.what, *also]), where=worst.where, mend=worst.mend)
