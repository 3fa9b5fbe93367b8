"""Code of a request that a build would run: taken only where main approves the digest of its bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.request.names import PROJECT, part_of, shown
from builder.request.plumbing import entries_at, git
from builder.reward_settings import ApprovedCode
from builder.shapes import Reading
from builder.tables import read
from registry import yaml12
from registry.digest import digest_bytes
from registry.errors import Fault, InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from registry.digest import Digest

__all__ = ["unapproved"]

_KEY = "approved"


def unapproved(root: Path, main: str, taken: Mapping[str, str | None]) -> Iterator[Fault]:
    """Code among what would be taken that nobody has approved.

    Args:
        root: Root of the runner's repository.
        main: Commit of main, whose params.yaml says what is approved; what the request says of it does not count.
        taken: Blobs by path; their sizes were checked.

    Raises:
        InvalidError: What main approves cannot be read.
    """
    code = {path: oid for path, oid in taken.items() if part_of(path) == "code" and oid is not None}
    approved = _approved(root, main) if code else frozenset()
    for path, oid in code.items():
        digest = digest_bytes(git(root, "cat-file", "blob", oid))
        if digest not in approved:
            yield Fault(
                file=shown(path),
                line=0,
                key="",
                problem=f"code that the build would run, {digest}, which main does not approve",
                mend="leave it out; or have a maintainer read it, and write that digest to main's params.yaml, under"
                " `approved: {rewards: [...]}`",
            )


def _approved(root: Path, main: str) -> frozenset[Digest]:
    entry = entries_at(root, main, [PROJECT]).get(PROJECT)
    document = yaml12.load(git(root, "cat-file", "blob", entry.oid), PROJECT).value if entry is not None else {}
    said = document.get(_KEY, {}) if isinstance(document, dict) else {}
    reading = Reading(file=PROJECT)
    found = read(ApprovedCode, said, reading, path=(_KEY,))
    if reading.faults or found is None:
        raise InvalidError.from_faults(reading.faults)
    return frozenset(found.rewards)
