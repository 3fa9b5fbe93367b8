"""Whether a stage's action was done before, so that its artifact is linked instead of computed.

What is not known yet, the artifact of a stage that is to run first, is stood in for by a digest made from that stage's
own action. So stages that will do the same are seen to be the same before any of them has run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from builder.address import Address
from builder.manifest import PinnedRef
from builder.reuse import candidates_of
from registry.digest import digest_bytes
from registry.errors import Error
from registry.history import Repository
from registry.index import Index
from registry.refs import Version
from registry.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.edges import Edge
    from builder.graph import Node
    from builder.plan.evidence import Evidence
    from registry.action import Action
    from registry.digest import Digest
    from registry.record import Record

__all__ = ["Earlier", "Found", "action_of", "stand_in"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """An artifact of the same action.

    Attributes:
        ref: What it is called: ``variant:stage``, or a release.
        record: Its record.
        oid: DVC's name of its folder; empty where no lock says.
        sure: Whether this very artifact will be linked: no other claims the action, and its bytes are here.
        missing_bytes: Bytes that have to be fetched for it.
    """

    ref: str
    record: Record
    oid: str
    sure: bool
    missing_bytes: int


def action_of(node: Node, digest: Callable[[Edge], Digest | None]) -> Action | None:
    """What a stage does; ``None`` where the digest of an input is not known.

    Args:
        node: The stage.
        digest: Digest of an input, or what stands in for it.
    """
    digests: list[Digest] = []
    for edge in node.edges:
        found = digest(edge)
        if found is None:
            return None
        digests.append(found)
    return node.action(digests)


def stand_in(what: str) -> Digest:
    """A digest for an artifact that is not there yet; equal texts stand for equal artifacts."""
    return digest_bytes(f"what will come of {what}".encode())


class Earlier:
    """Records of the work tree and of the history, opened at the first question."""

    def __init__(self, root: Path, evidence: Evidence) -> None:
        """Ask the repository at ``root``."""
        self._root = root
        self._evidence = evidence
        self._index: Index | None = None

    def __enter__(self) -> Self:
        """Use it in a ``with``."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the index."""
        if self._index is not None:
            self._index.close()

    @property
    def was_asked(self) -> bool:
        """Whether the history mattered."""
        return self._index is not None

    def find(self, node: Node, action: Action) -> Found | None:
        """An artifact of this action; ``None`` where there is none.

        Raises:
            InvalidError: git cannot read the history.
            MachineError: git is missing, or the disk is full.
        """
        if isinstance(node.settings, PinnedRef):
            return self._pinned(node.settings)
        if self._index is None:
            self._index = Index.open(Repository(self._root))
        sightings = self._index.by_action(action.digest)
        claimed = {one.record.artifact.digest for one in sightings}
        for candidate in candidates_of(self._root, sightings):
            if candidate.record.action.digest == action.digest:
                record = candidate.record
                return self._found(record.ref, record, candidate.listing_oid, alone=len(claimed) == 1)
        return None

    def _pinned(self, pin: PinnedRef) -> Found | None:
        try:
            found = resolve(Repository(self._root), Version(pin.variant, pin.version))
        except Error:
            return None  # the build says what is wrong with the tag; to fetch tags may mend it
        if found.record.artifact.digest != pin.digest:
            return None
        return self._found(pin.release, found.record, found.listing_oid, alone=True)

    def _found(self, ref: str, record: Record, oid: str, *, alone: bool) -> Found:
        sizes = {file.path: file.size_bytes for file in record.artifact.files}
        missing, lacking = record.artifact.size_bytes, True
        if oid:
            address = Address(variant=record.variant, stage=record.stage)
            in_tree = self._evidence.folder_md5(address) == oid
            missing, lacking = (0, False) if in_tree else self._evidence.missing_bytes(oid, sizes)
        return Found(ref=ref, record=record, oid=oid, sure=alone and not lacking, missing_bytes=missing)
