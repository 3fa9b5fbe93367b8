"""Brings git's copies of records to what the locks say, from wherever the very bytes are; no stage is run for it."""

from __future__ import annotations

import stat
from contextlib import suppress
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from builder.copies import copy_problem, record_md5
from builder.drive.dvc import addressing
from builder.drive.outcome import Outcome
from builder.drive.tasks import records_address
from builder.places import beside_of, copy_of
from builder.plan.evidence import locked_name
from builder.records import curve_table
from builder.request.inside import read_inside
from builder.request.machine import QUARANTINE, remote_names
from builder.work import write_file
from registry.canonical import MAX_BYTES
from registry.errors import DigestMismatchError, Error, InvalidError, MachineError, NotFoundError
from registry.history import Repository
from registry.lock import Lock, content_md5
from registry.plain_file import read_plain
from registry.record import Record, curve_file, lock_file
from registry.remote import DvcCache, DvcRemote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from builder.address import Address
    from builder.drive.errand import Errand
    from builder.drive.outcome import Report
    from registry.remote import Source

__all__ = ["put_back", "with_copies"]

_BLOCK_BYTES = 1 << 20
_MOST_COMMITS = 1000
_REMOVE = "remove it, then build again"
_CURVE = b'"curve"'


def with_copies(errand: Errand, addresses: Iterable[Address], report: Report, *, say: Callable[[str], None]) -> Report:
    """A build's report, once git's copies are those of the locks; of a build that was stopped, as it is.

    What goes wrong here is an outcome beside the others, and loses none of them.

    Args:
        errand: What is built, as it was known before the first stage ran.
        addresses: The stages that were asked for.
        report: What became of them.
        say: Tells the person at the terminal.
    """
    if report.stopped_by:
        return report
    known = {one.address for one in report.outcomes}
    found = put_back(errand, addresses, say=say)
    more = [one for one in found if not one.is_good or one.address not in known]
    return replace(report, outcomes=(*report.outcomes, *more)) if more else report


def put_back(errand: Errand, addresses: Iterable[Address], *, say: Callable[[str], None]) -> tuple[Outcome, ...]:
    """Write every copy that is not the record of its lock anew, and every curve that is not the record's.

    The record lies beside its artifact, in the history of git, in DVC's cache or on a remote. Only the last is slow.

    Args:
        errand: What is built, as it was known before the first stage ran.
        addresses: The stages.
        say: Tells the person at the terminal.

    Returns:
        What became of the copies, one outcome for each pipeline of which some were wrong.
    """
    locks: dict[str, Lock] = {}
    found: dict[Address, Outcome] = {}
    for address in addresses:
        records = records_address(address)
        try:
            if _is_put_back(errand, address, locks, say):
                found.setdefault(records, Outcome(address=records, became="restored"))
        except (Error, OSError) as raised:
            error = raised if isinstance(raised, Error) else _unwritten(address, raised)
            reason = f"{error.what} ({error.mend})"
            found[records] = Outcome(address=records, became="failed", exit_code=error.exit_code, reason=reason)
    return tuple(found.values())


def _is_put_back(errand: Errand, address: Address, locks: dict[str, Lock], say: Callable[[str], None]) -> bool:
    """Whether anything was wrong with the copy of a stage, or with its curve; it is right now.

    Raises:
        Error: It cannot be put back.
        OSError: A file cannot be read or written.
    """
    if address.variant not in locks:
        path = str(lock_file(address.variant))
        locks[address.variant] = Lock.parse(read_inside(errand.root, path) or b"", where=path)
    wanted = record_md5(locks[address.variant].stages.get(locked_name(address)), address)
    if not wanted:
        return False
    copy = copy_of(address)
    data = _copy(errand.root, copy)
    wrong = data is None or bool(copy_problem(address, data, wanted))
    if data is None or wrong:
        data, place = _find(errand, address, wanted)
        _write(errand.root, copy, data)
        say(f"{copy} is put back, from {place}")
    path, curve = str(curve_file(address.variant, address.stage)), b""
    there = _copy(errand.root, path)
    if there is not None or _CURVE in data:  # few have one, and reading a record takes its time
        curve = curve_table(Record.from_bytes(data, where=copy))
    if (there or b"") == curve:
        return wrong
    if curve:
        _write(errand.root, path, curve)
    else:
        (errand.root / path).unlink()
    say(f"{path} is put right, by {copy}")
    return True


def _copy(root: Path, path: str) -> bytes | None:
    """A copy as it is; one that is a link, a pipe or too large is none of ours, and empty."""
    try:
        return read_inside(root, path)
    except InvalidError:
        return b""


def _write(root: Path, path: str, data: bytes) -> None:
    """Write a file inside, whatever stands in its place; through no link.

    Raises:
        InvalidError: One of its folders is something else, or it is a folder itself.
        OSError: It cannot be written.
    """
    place = root
    for part in PurePosixPath(path).parent.parts:
        place /= part
        with suppress(FileExistsError):
            place.mkdir()
        if not stat.S_ISDIR(place.lstat().st_mode):
            raise InvalidError(f"{place.relative_to(root)} is no folder", where=path, mend=_REMOVE)
    if (root / path).is_dir() and not (root / path).is_symlink():
        raise InvalidError(f"{path} is a folder", where=path, mend=_REMOVE)
    # Where it is written first, a stage could have left a pipe.
    (root / path).with_name(f".{PurePosixPath(path).name}.new").unlink(missing_ok=True)
    write_file(root / path, data)


def _unwritten(address: Address, error: OSError) -> MachineError:
    return MachineError(
        f"{copy_of(address)} cannot be put back: {error.strerror or error}",
        where=copy_of(address),
        mend="check the disk and who may write there, then build again",
    )


def _find(errand: Errand, address: Address, wanted: str) -> tuple[bytes, str]:
    """The record's bytes, and where they were.

    Raises:
        NotFoundError: They are nowhere.
        Error: Where they should be does not answer, or has others.
    """
    for place, data in _here(errand, address):
        if content_md5(data) == wanted:
            return data, place
    failure: Error | None = None
    for source in _remotes(errand):
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


def _here(errand: Errand, address: Address) -> Iterator[tuple[str, bytes]]:
    """Candidates that cost next to nothing; in a request's tree stages may have written, so no git is run there.

    That it is one is what the build knew before them: what the tree says of itself now, they may have written too.
    """
    with suppress(OSError, InvalidError):  # DVC may have made a link of it
        yield "beside its artifact", read_plain(errand.root / beside_of(address))
    if errand.kind == "requests":
        return
    repository, path = Repository(errand.root), copy_of(address)
    limit = f"--max-count={_MOST_COMMITS}"
    # Without --full-history a merge that took the other side hides the commits of this one.
    done = repository.ask("log", "--full-history", limit, "--format=%H", "HEAD", "--all", "--", f":(top,literal){path}")
    commits = done.stdout.decode().split() if done.returncode == 0 else []
    for data in repository.read_blobs(f"{commit}:{path}" for commit in commits):
        if data is not None:
            yield "git's history", data


def _remotes(errand: Errand) -> tuple[Source, ...]:
    """DVC's cache, its default remote, and the quarantine where there is one."""
    further = (DvcRemote(errand.home, QUARANTINE),) if QUARANTINE in remote_names(errand.home) else ()
    return (DvcCache(errand.root), DvcRemote(errand.home), *further)


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
