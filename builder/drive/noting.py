"""Leaves a signed note of each stage whose bytes were sent, so that another runner can go on from there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from builder.runner import read_runner
from registry.envelope import opened, seal
from registry.errors import Error
from registry.history import Repository
from registry.progress_note import NAMESPACE, ProgressNote, note_path, seal_note
from registry.record import git_record
from registry.runners import runner_rules_of
from registry.ssh_signature import public_key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from builder.drive.errand import Errand
    from builder.request.goods import Goods
    from registry.remote_files import RemoteFiles

__all__ = ["NO_NOTE", "can_sign", "leave_notes"]

NO_NOTE = "no progress note"
"""How a line begins that tells why a note was not written."""

_PROBE, _PROBE_BYTES = b"{}", 1 << 16


def can_sign(errand: Errand, say: Callable[[str], None]) -> bool:
    """Whether notes of a build are signed: the runner's settings name a key, it was tried, and main believes it.

    Args:
        errand: What is built.
        say: Tells the person at the terminal.

    Raises:
        NotFoundError: There is no such key.
        DeniedError: It cannot be used, or its two halves are not of one key.
        InvalidError: It is no key, or the runner's settings or main's rule cannot be read.
        MachineError: ``ssh-keygen`` is missing.
    """
    path = _key(errand)
    if path is None or not errand.commits:
        return False
    public, probe = public_key_of(path), seal(_PROBE, [path], namespace=NAMESPACE)
    opened(probe, [public], where=str(path), max_bytes=_PROBE_BYTES, namespace=NAMESPACE)
    if public not in runner_rules_of(Repository(errand.home)).of(errand.kind).values():
        say(
            f"{NO_NOTE}: runners.{errand.kind} of params.yaml on the main branch does not name the key of this "
            f"runner, {public.fingerprint}"
        )
        return False
    return True


def _key(errand: Errand) -> Path | None:
    """Where the key lies, by the settings of the runner: a path from the root of its repository."""
    key = read_runner(errand.home).progress_key
    return errand.home / Path(key).expanduser() if key else None


def leave_notes(errand: Errand, goods: Iterable[Goods], files: RemoteFiles, say: Callable[[str], None]) -> int:
    """Write a note of each stage; what cannot be written is told, and nothing fails by it.

    Args:
        errand: What is built, and whether there are notes of it.
        goods: The stages. Those that the commit records already, as the build found it, need none.
        files: The remote that has their bytes.
        say: Tells the person at the terminal.

    Returns:
        How many were written.
    """
    try:
        key = _key(errand) if errand.signs else None
    except Error as error:  # somebody has changed the settings since
        say(f"{NO_NOTE}: {error.what} ({error.where})")
        return 0
    if key is None:
        return 0
    count, scope = 0, errand.scopes[0]
    for one in _unrecorded(errand, list(goods)):
        note = ProgressNote(scope=scope, record=one.record, listing_oid=one.listing_oid)
        try:
            files.write(note_path(scope, one.record.action.digest), seal_note(note, key))
        except Error as error:
            say(f"{NO_NOTE} of {one.record.ref}: {error.what} ({error.where})")
        else:
            count += 1
    return count


def _unrecorded(errand: Errand, goods: list[Goods]) -> list[Goods]:
    names = [f"{errand.base}:{git_record(one.record.variant, one.record.stage)}" for one in goods]
    blobs = Repository(errand.home).read_blobs(names)
    return [one for one, blob in zip(goods, blobs, strict=True) if blob != one.record_data]
