"""A progress note: a runner's word on one stage that it finished, for whoever goes on with the same build elsewhere.

It lies on the remote beside the bytes, where strangers may write, in an envelope that the runner signed. Rules only:

1. A runner that main's params.yaml names signed it, for this namespace: no tag and no descriptor passes for one.
2. It is of the very build: the request that is built or an earlier state of it, or a commit of the branch; and of the
   very action. So none that was written for another request, however true it may be, and none that was renamed.
3. The record is whole, canonical, and of that action.

What it says of bytes is believed of none: they are fetched by name, and each is hashed against the record.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.canonical import decode, encode
from registry.envelope import opened, seal
from registry.errors import DeniedError, InvalidError
from registry.record import Record
from registry.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from registry.digest import Digest
    from registry.runners import BuildKind
    from registry.ssh_key import PublicKey

__all__ = [
    "MAX_NOTE_BYTES",
    "NAMESPACE",
    "ProgressNote",
    "Scope",
    "note_path",
    "open_note",
    "scope_folder",
    "seal_note",
]

NAMESPACE = "varietal-progress"
"""What the signatures are good for, and nothing else."""

MAX_NOTE_BYTES = 8 << 20
"""The file of a note: its record, written as text within text, and a few signatures."""

_SCHEMA = "varietal/progress/1"
_FOLDER = "varietal/progress_notes"  # no variant has this name, so no descriptor lies below it
_LISTING = re.compile(r"[0-9a-f]{32}\.dir")
_MEND = "nothing is lost: the stage is computed. Ask who may write to the remote"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """What was being built; a note is good for nothing else.

    Attributes:
        kind: Requests, or branches.
        commit: The commit: of the request, or of the branch.
    """

    kind: BuildKind
    commit: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgressNote:
    """What a runner says.

    Attributes:
        scope: What it was building.
        record: Record of the stage.
        listing_oid: DVC's name of the artifact's folder, by which its bytes are found.
    """

    scope: Scope
    record: Record
    listing_oid: str

    def to_bytes(self) -> bytes:
        """What is signed."""
        return encode(
            {
                "schema": _SCHEMA,
                "kind": self.scope.kind,
                "commit": self.scope.commit,
                "action": str(self.record.action.digest),
                "listing": self.listing_oid,
                "record": self.record.to_bytes().decode(),
            }
        )

    @classmethod
    def from_bytes(cls, payload: bytes, scope: Scope, action: Digest, *, where: str) -> ProgressNote:
        """Read what was signed, and is said to be on an action that was done in a build.

        Raises:
            InvalidError: It breaks the schema, or the record is broken.
            DeniedError: It is of another build, or of another action.
        """
        value = decode(payload, where=where, max_bytes=MAX_NOTE_BYTES)
        if encode(value) != payload:
            raise InvalidError("what was signed is not in canonical JSON", where=where, mend=_MEND)
        table = Table(value, where)
        table.only("schema", "kind", "commit", "action", "listing", "record")
        table.constant("schema", _SCHEMA)
        _check_same(f"{table.text('kind')} of {table.text('commit')}", f"{scope.kind} of {scope.commit}", where)
        _check_same(table.text("action"), str(action), where)
        listing, text = table.text("listing"), table.text("record").encode()
        if _LISTING.fullmatch(listing) is None:
            raise InvalidError(f"{listing[:60]!r} is no name of a folder's listing", where=where, mend=_MEND)
        record = Record.from_bytes(text, where=f"{where}: record")
        if record.to_bytes() != text:
            raise InvalidError("the record is not written as records are", where=where, mend=_MEND)
        _check_same(str(record.action.digest), str(action), where)
        return cls(scope=scope, record=record, listing_oid=listing)


def scope_folder(scope: Scope) -> str:
    """Folder of a remote in which the notes of one build lie."""
    return f"{_FOLDER}/{scope.kind}/{scope.commit}"


def note_path(scope: Scope, action: Digest) -> str:
    """Where a note lies on a remote."""
    return f"{scope_folder(scope)}/{action.hex}.json"


def seal_note(note: ProgressNote, key: Path) -> bytes:
    """The file of a note.

    Raises:
        InvalidError: It is longer than a note may be.
        NotFoundError: The key is not there.
        DeniedError: The key cannot be used.
        MachineError: ``ssh-keygen`` is missing.
    """
    data = seal(note.to_bytes(), [key], namespace=NAMESPACE)
    if len(data) > MAX_NOTE_BYTES:
        raise InvalidError(
            f"its note would have {len(data)} bytes, at most {MAX_NOTE_BYTES} are read",
            where=note.record.ref,
            mend="nothing to do: a build that goes on elsewhere computes this stage again",
        )
    return data


def open_note(
    data: bytes, believed: Mapping[str, PublicKey], scope: Scope, action: Digest, *, where: str
) -> tuple[ProgressNote, str]:
    """A note that holds by rules 1 to 3, and the name of the runner that signed it.

    Args:
        data: The file.
        believed: Keys of the runners that are believed for this kind of build, by their names.
        scope: The build that it has to be of.
        action: The action that it has to be on.
        where: Named in the errors.

    Raises:
        InvalidError: It is no note, or too long.
        DeniedError: None of these runners signed it, or it is of something else.
        MachineError: ``ssh-keygen`` is missing.
    """
    payload, signers = opened(data, [*believed.values()], where=where, max_bytes=MAX_NOTE_BYTES, namespace=NAMESPACE)
    note = ProgressNote.from_bytes(payload, scope, action, where=where)
    return note, next(name for name, key in believed.items() if key in signers)


def _check_same(got: str, wanted: str, where: str) -> None:
    if got != wanted:
        raise DeniedError(f"this is a note on {got[:200]}, asked for was {wanted}", where=where, mend=_MEND)
