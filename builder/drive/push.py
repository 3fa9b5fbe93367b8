"""Sends the outputs of stages, and their records of DVC's run cache, to a remote: a process of its own, without locks.

``python -m builder.drive.push ERRAND SINCE VARIANT:STAGE...`` sends what dvc.lock says of these stages, from the cache.
Without stages it only reaches for the remote. Objects never change and a listing goes after its files, so it needs none
of the locks that `dvc push` holds, and a killed push leaves nothing that looks whole and is not. ``SINCE`` is a time of
the wall clock: records of the run cache that are younger are sent too.

What a request gave goes another way, since strangers may write to where it goes: :mod:`builder.drive.push_proven`.
"""

from __future__ import annotations

import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.drive.errand import Errand
from builder.drive.noting import NO_NOTE, leave_notes
from builder.drive.push_proven import goods_in_cache, push_proven
from builder.edges import Address
from builder.request.places import Cache
from builder.terminal import say
from registry.counted import counted
from registry.errors import DeniedError, Error, InvalidError, MachineError, NotFoundError, TransportError
from registry.lock import Lock
from registry.record import BASES, artifact_folder, artifact_record, lock_file
from registry.remote import DvcCache
from registry.remote_files import RemoteFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from builder.request.goods import Goods

__all__ = ["outputs_of", "push_stages"]

_READS = 20
_PAUSE_S = 0.1
_NAMED = 3


def push_stages(errand: Errand, addresses: Sequence[Address], *, since_s: float, say: Callable[[str], None]) -> int:
    """Send what the cache has of these stages and the remote has not, and leave notes of them.

    Args:
        errand: What is built, and where bytes go.
        addresses: The stages.
        since_s: Records of the run cache that are younger are sent, too; not those of a request.
        say: Tells the person at the terminal.

    Returns:
        Files that were sent.

    Raises:
        NotFoundError: There is no such remote, no default one, or DVC is not initialised.
        InvalidError: DVC's configuration, a lock or a record of a request cannot be read.
        DigestMismatchError: An artifact of a request is not what its record says.
        DeniedError: The remote does not let us write.
        TransportError: The remote does not answer as it should.
        MachineError: DVC, or its support for this type of remote, is not installed.
    """
    remote, pairs = errand.remote, {address: outputs_of(errand.root, address) for address in addresses}
    cached = DvcCache(errand.root).exists(oid for pair in pairs.values() for oid in pair)
    whole = {address: pair for address, pair in pairs.items() if pair and cached >= {*pair}}
    try:
        if errand.kind == "requests" and addresses:
            return push_proven(errand, whole, say)
        moved = _push(errand.home, remote, sorted(cached), since_s=since_s)
    except Error:
        raise
    except Exception as error:  # each storage library has errors of its own, without a common root
        raise _narrowed(error, remote) from error
    if errand.signs:
        leave_notes(errand, _readable(errand, whole, say), RemoteFiles(errand.home, remote), say)
    return moved


def _readable(errand: Errand, outputs: Mapping[Address, Sequence[str]], say: Callable[[str], None]) -> Iterator[Goods]:
    """The stages whose record can be read; no other has a note."""
    cache = Cache(errand.root)
    for address, pair in outputs.items():
        try:
            yield goods_in_cache(cache, address, pair)
        except InvalidError as error:
            say(f"{NO_NOTE} of {address}: {error.what} ({error.where})")


def outputs_of(root: Path, address: Address) -> tuple[str, ...]:
    """Object ids of the outputs of a stage, by the lock; none where it was never built.

    DVC may be writing the lock at this moment, and does not do so by rename: what cannot be read is read again.

    Raises:
        InvalidError: The lock stays unreadable.
    """
    path = lock_file(address.variant)
    name = f"base@{address.stage}" if address.variant == BASES else address.stage
    made = {str(make(address.variant, address.stage)) for make in (artifact_folder, artifact_record)}
    for last in (*[False] * (_READS - 1), True):
        try:
            stages = Lock.parse((root / path).read_bytes(), where=str(path)).stages
            if name in stages and made <= stages[name].outputs.keys():
                return tuple(stages[name].outputs[path].md5 for path in sorted(made))
        except FileNotFoundError:
            pass
        except InvalidError:
            if last:
                raise
        time.sleep(_PAUSE_S)
    return ()


def _push(root: Path, remote: str, oids: Iterable[str], *, since_s: float) -> int:
    try:
        from dvc.repo import Repo
        from dvc_data.hashfile.hash_info import HashInfo  # noqa: PLC0415
        from dvc_data.hashfile.transfer import transfer  # noqa: PLC0415
    except ImportError as error:
        raise MachineError("DVC is not installed", where=str(root), mend="pip install 'varietal[build]'") from error
    with closing(Repo(str(root))) as repository:
        cache, database = repository.cache.local, repository.cloud.get_remote_odb(remote or None, "push")
        moved = 0
        if wanted := set(oids):
            # A listing goes after its files, so where it is, they are; what is in it is looked at for the others.
            missing = {HashInfo("md5", oid) for oid in wanted - set(database.list_oids_exists(wanted))}
            result = transfer(cache, database, missing, cache_odb=cache, shallow=False)
            if result.failed:
                raise TransportError(
                    f"{counted(len(result.failed), 'file')} could not be sent",
                    where=_called(remote),
                    mend="see the log above; the next `varietal build --push` sends what is left",
                )
            if lost := missing - result.transferred:
                raise NotFoundError(
                    f"DVC's cache lacks files of {counted(len(lost), 'output')}, so they cannot be sent",
                    where=", ".join(sorted(str(one.value) for one in lost)[:_NAMED]),
                    mend="remove these outputs from models/*/artifacts and build again",
                )
            moved = len(result.transferred)
            _push_runs(repository, remote, since_s=since_s)
        else:
            _reach(database)
        return moved


def _reach(database: Any) -> None:  # noqa: ANN401 - DVC has no types
    """Ask for something; that it is not there is an answer, unless a lost connection is called so, as over HTTP."""
    try:
        database.fs.info(database.path)
    except FileNotFoundError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
            raise cause from error


def _push_runs(repository: Any, remote: str, *, since_s: float) -> None:  # noqa: ANN401 - DVC has no types
    """Send young records of the run cache; over HTTP there is none."""
    database = repository.cloud.get_remote_odb(remote or None, "push", hash_name="md5-dos2unix")
    if database.fs.protocol in {"http", "https"}:
        return
    runs = Path(repository.stage_cache.cache_dir)
    for path in sorted(runs.glob("*/*/*")):
        if path.is_file() and path.stat().st_mtime >= since_s:
            target = database.fs.join(database.path, "runs", *path.relative_to(runs).parts)
            if not database.fs.exists(target):
                database.fs.makedirs(database.fs.parent(target), exist_ok=True)
                database.fs.put_file(str(path), target)


def _narrowed(error: Exception, remote: str) -> Error:
    """What a foreign error means, by its name: they have no common root."""
    name, text = type(error).__name__, " ".join(str(error).split())
    where = _called(remote)
    if name in {"NoRemoteError", "RemoteNotFoundError"} or ("doesn't exist" in text and "remote" in text):
        return NotFoundError(
            "there is no such remote" if remote else "DVC has no default remote",
            where=where,
            mend="`dvc remote list` shows those that are there; add one: `dvc remote add -d NAME URL`",
        )
    if name == "NotDvcRepoError":
        return NotFoundError("DVC is not initialised here", where=where, mend="run `varietal init`, or `dvc init`")
    if name == "RemoteMissingDepsError":
        return MachineError(text, where=where, mend="install DVC's plug-in for this type of remote, such as `dvc-s3`")
    if isinstance(error, PermissionError) or "Auth" in name or "Credential" in name or "Forbidden" in text:
        return DeniedError(f"writing is not allowed: {text}", where=where, mend="check the credentials of the build")
    if "Config" in name:
        return InvalidError(f"DVC's configuration is wrong: {text}", where=where, mend="`dvc remote modify` mends it")
    return TransportError(
        f"sending failed: {text or name}", where=where, mend="check the network and the remote, then build again"
    )


def _called(remote: str) -> str:
    return f"remote {remote!r}" if remote else "the default remote"


def _main(errand: str, since: str, *names: str) -> int:
    addresses = [Address(variant=name.partition(":")[0], stage=name.partition(":")[2]) for name in names]
    try:
        moved = push_stages(Errand.from_text(errand), addresses, since_s=float(since), say=say)
    except Error as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(f"pushed {moved} files\n")
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
