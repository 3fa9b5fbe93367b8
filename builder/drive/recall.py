"""Goes on from what another runner finished and said so: a process of its own, with the build's credentials.

``python -m builder.drive.recall ERRAND VARIANT STAGE`` looks for a note of exactly what this stage is about to do. One
that holds (:mod:`registry.progress_note`) has its bytes fetched, each hashed against the record, into the work folder
of the action, as if this machine had finished the stage a moment ago and was killed before it could show it. So the
stage verifies its inputs and then finds it, and its record is byte for byte what the other runner wrote.

``python -m builder.drive.recall ERRAND`` says which of the builds have any notes, for most have none.

Whatever is wrong with a note is told in a line, and the stage is computed.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from builder.drive.errand import Errand
from builder.edges import Address, DataFile
from builder.graph import build_graph
from builder.load import load
from builder.manifest import PinnedRef
from builder.plan.digests import Digests
from builder.plan.memo import Memo
from builder.plan.reusable import action_of
from builder.request.sent import Sent
from builder.terminal import say
from builder.work import open_work
from registry.artifact import Artifact
from registry.errors import Error
from registry.history import Repository
from registry.progress_note import MAX_NOTE_BYTES, note_path, open_note, scope_folder
from registry.pull import fetch
from registry.record import Record, artifact_folder, artifact_record
from registry.remote import DvcCache, DvcRemote
from registry.remote_files import RemoteFiles
from registry.runners import runner_rules_of
from registry.terminal import open_store
from registry.transfer import Transfer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from builder.edges import Edge
    from builder.graph import Node
    from registry.action import Action
    from registry.digest import Digest
    from registry.progress_note import ProgressNote
    from registry.store import Store

__all__ = ["noted_commits", "recall"]


def noted_commits(errand: Errand) -> tuple[str, ...]:
    """Those of the commits of an errand of whose build notes may lie on the remote.

    Raises:
        Error: The remote cannot be read, by class.
    """
    files = RemoteFiles(errand.home, errand.remote)
    return tuple(scope.commit for scope in errand.scopes if files.may_have(scope_folder(scope)))


def recall(errand: Errand, address: Address, *, store: Store, say: Callable[[str], None]) -> bool:
    """Put into a stage's work folder what another runner finished, where a note of it holds.

    Args:
        errand: What is built, and which notes count.
        address: The stage; its inputs are in the work tree.
        store: Local content store, in which the bytes are proven.
        say: Tells the person at the terminal.

    Returns:
        Whether the stage has nothing to compute.

    Raises:
        InvalidError: A manifest, an input or main's params.yaml breaks its rules.
        MachineError: git is missing.
    """
    node = build_graph(load(errand.root, only=address.variant))[address]
    action = None if isinstance(node.settings, PinnedRef) else _action(errand.root, node)
    if action is None or _is_here(errand.root, address, action):
        return False
    for note, runner in _notes(errand, action, say):
        try:
            came = _take(errand, note, address, store)
        except Error as error:
            say(f"what {runner} finished cannot be had: {_in_a_line(error)}")
        else:
            who = f"{runner} finished this in another build of commit {note.scope.commit[:12]}"
            say(f"{who if came else 'this machine finished this before'}; nothing is computed")
            return True
    return False


def _notes(errand: Errand, action: Action, say: Callable[[str], None]) -> Iterator[tuple[ProgressNote, str]]:
    """Notes of an action that hold, each with the name of its runner; of each other, why it does not."""
    believed = runner_rules_of(Repository(errand.home)).of(errand.kind)
    files = RemoteFiles(errand.home, errand.remote)
    for scope in errand.scopes:
        path = note_path(scope, action.digest)
        try:
            data = files.read(path, MAX_NOTE_BYTES)
            if data is not None:
                yield open_note(data, believed, scope, action.digest, where=f"{files.name}: {path}")
        except Error as error:
            say(f"a progress note is not believed: {_in_a_line(error)}")


def _take(errand: Errand, note: ProgressNote, address: Address, store: Store) -> bool:
    """Put what a note is of into the stage's work folder; whether anything was missing there."""
    record, remote = note.record, DvcRemote(errand.home, errand.remote)
    if record.ref != str(address):
        record = replace(record, reused_from=record.reused_from or record.ref)
    with open_work(errand.root, record.action.digest) as work:
        if work.finished() is not None:
            return False
        work.start()
        objects = Transfer((remote,), store, _quiet).read_listing(note.listing_oid, record)
        sources = (DvcCache(errand.root), remote)
        report = fetch(record, objects, work.out, sources=sources, store=store, say=_quiet)
        work.finish(record)
    if not report.had_bytes and {*report.moved_from} == {remote.name}:
        # All of it was read from there and hashed: it need not be read back before it is spoken of.
        sent = Sent(errand.home, errand.remote)
        for oid in (*objects.values(), note.listing_oid):
            sent.add(oid)
    return True


def _in_a_line(error: Error) -> str:
    """What is wrong; the words of a stranger in it make no lines of their own."""
    return " ".join(f"{error.what} ({error.where})".split())


def _quiet(line: str) -> None:
    """How many files have come is of no interest here."""
    del line


def _action(root: Path, node: Node) -> Action | None:
    """What a stage is about to do, by the listings of its inputs; ``None`` where one is not there."""
    digests = Digests(root, Memo(root))

    def digest(edge: Edge) -> Digest | None:
        if isinstance(edge.source, DataFile):
            return digests.sha256(edge.source.path)
        folder = root / artifact_folder(edge.source.variant, edge.source.stage)
        return Artifact.read(folder).digest if folder.is_dir() else None

    try:
        return action_of(node, digest)
    finally:
        digests.save()


def _is_here(root: Path, address: Address, action: Action) -> bool:
    """Whether this very artifact stands in the work tree: DVC will keep it."""
    path = root / artifact_record(address.variant, address.stage)
    try:
        return path.is_file() and Record.from_bytes(path.read_bytes(), where=str(path)).action.digest == action.digest
    except Error:
        return False


def _main(errand: str, *address: str) -> int:
    try:
        told = Errand.from_text(errand)
        if address:
            recall(told, Address(variant=address[0], stage=address[1]), store=open_store(), say=say)
        else:
            sys.stdout.write("".join(f"{commit}\n" for commit in noted_commits(told)))
    except Error as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
