"""Brings git's copies of records to what the locks say, from wherever the very bytes are; no stage is run for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from builder.copies import copy_problem, record_md5
from builder.drive.dvc import addressing
from builder.drive.outcome import Outcome
from builder.drive.tasks import records_address
from builder.places import beside_of, copy_of
from builder.plan.evidence import TreeTexts, locked_name
from builder.request.assembled import Assembled
from builder.request.machine import QUARANTINE, remote_names
from builder.work import write_file
from registry.canonical import MAX_BYTES
from registry.errors import DigestMismatchError, Error, NotFoundError
from registry.history import Repository
from registry.lock import Lock, content_md5
from registry.record import lock_file
from registry.remote import DvcCache, DvcRemote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from builder.address import Address
    from builder.drive.outcome import Report
    from registry.remote import Source

__all__ = ["put_back", "with_copies"]

_BLOCK_BYTES = 1 << 20
_MOST_COMMITS = 1000


def with_copies(root: Path, addresses: Iterable[Address], report: Report, *, say: Callable[[str], None]) -> Report:
    """A build's report, once git's copies are those of the locks; of a build that was stopped, as it is.

    Args:
        root: Root of the repository.
        addresses: The stages that were asked for.
        report: What became of them.
        say: Tells the person at the terminal.

    Raises:
        InvalidError: A lock cannot be read.
    """
    if report.stopped_by:
        return report
    known = {one.address for one in report.outcomes}
    found = put_back(root, addresses, say=say)
    more = [one for one in found if not one.is_good or one.address not in known]
    return replace(report, outcomes=(*report.outcomes, *more)) if more else report


def put_back(root: Path, addresses: Iterable[Address], *, say: Callable[[str], None]) -> tuple[Outcome, ...]:
    """Write every copy that is not the record of its lock anew.

    The record lies beside its artifact, in the history of git, in DVC's cache or on a remote. Only the last is slow.

    Args:
        root: Root of the repository.
        addresses: The stages.
        say: Tells the person at the terminal.

    Returns:
        What became of the copies, one outcome for each pipeline of which some were wrong.

    Raises:
        InvalidError: A lock cannot be read.
    """
    texts, remotes = TreeTexts(root), _remotes(root)
    locks: dict[str, Lock] = {}
    found: dict[Address, Outcome] = {}
    for address in addresses:
        if address.variant not in locks:
            path = str(lock_file(address.variant))
            locks[address.variant] = Lock.parse(texts.read(path) or b"", where=path)
        wanted = record_md5(locks[address.variant].stages.get(locked_name(address)), address)
        if not wanted or not copy_problem(address, texts.read(copy_of(address)), wanted):
            continue
        records = records_address(address)
        try:
            data, place = _find(root, address, wanted, remotes)
            path_here = root / copy_of(address)
            path_here.parent.mkdir(parents=True, exist_ok=True)
            write_file(path_here, data)
        except Error as error:
            reason = f"{error.what} ({error.mend})"
            found[records] = Outcome(address=records, became="failed", exit_code=error.exit_code, reason=reason)
            continue
        say(f"{copy_of(address)} is put back, from {place}")
        found.setdefault(records, Outcome(address=records, became="restored"))
    return tuple(found.values())


def _find(root: Path, address: Address, wanted: str, remotes: Iterable[Source]) -> tuple[bytes, str]:
    """The record's bytes, and where they were.

    Raises:
        NotFoundError: They are nowhere.
        Error: Where they should be does not answer, or has others.
    """
    for place, data in _here(root, address):
        if content_md5(data) == wanted:
            return data, place
    failure: Error | None = None
    for source in remotes:
        try:
            return _read(source, wanted), source.name
        except NotFoundError:
            continue
        except Error as error:
            failure = failure or error
    if failure is not None:
        raise failure
    raise NotFoundError(
        f"the record of {address} is neither beside its artifact, nor in git's history, DVC's cache or the remote",
        where=copy_of(address),
        mend="`dvc push` where it was built, then build again; where it is gone for good, "
        f"`dvc repro --force --single-item {addressing(address)}` builds the stage anew",
    )


def _here(root: Path, address: Address) -> Iterator[tuple[str, bytes]]:
    """Candidates that cost next to nothing; in a request's tree stages may have written, so no git is run there."""
    beside = TreeTexts(root).read(beside_of(address))
    if beside is not None:
        yield "beside its artifact", beside
    if Assembled.read(root) is not None:
        return
    repository, path = Repository(root), copy_of(address)
    limit = f"--max-count={_MOST_COMMITS}"
    # Without --full-history a merge that took the other side hides the commits of this one.
    done = repository.ask("log", "--full-history", limit, "--format=%H", "HEAD", "--all", "--", f":(top,literal){path}")
    commits = done.stdout.decode().split() if done.returncode == 0 else []
    for data in repository.read_blobs(f"{commit}:{path}" for commit in commits):
        if data is not None:
            yield "git's history", data


def _remotes(root: Path) -> tuple[Source, ...]:
    """DVC's cache, its default remote, and the quarantine where there is one."""
    further = (DvcRemote(root, QUARANTINE),) if QUARANTINE in remote_names(root) else ()
    return (DvcCache(root), DvcRemote(root), *further)


def _read(source: Source, oid: str) -> bytes:
    """A small object, whole.

    Raises:
        DigestMismatchError: It is another one, or too large for a record.
        Error: The source does not give it.
    """
    parts, left = [], MAX_BYTES + 1
    with source.open(oid, 0) as stream:
        while left > 0 and (block := stream.read(min(left, _BLOCK_BYTES))):
            parts.append(block)
            left -= len(block)
    data = b"".join(parts)
    if content_md5(data) != oid:
        raise DigestMismatchError(
            f"{source.name} has other bytes under the name of a record",
            where=f"{source.name}: {oid}",
            mend="`dvc push` where it was built replaces nothing: remove the object there, then push again",
        )
    return data
