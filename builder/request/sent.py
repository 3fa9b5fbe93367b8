"""What this runner has written to a remote: a note, so that it need not read back its own bytes at every publish.

An object that is there may be anybody's: whoever may write to quarantine can put junk under the right name first.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from registry.digest import digest_bytes

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Sent"]

_OID = re.compile(r"[0-9a-f]{32}(?:\.dir)?")
_NAME = re.compile(r"[a-z0-9-]{1,64}")


class Sent:
    """Names of objects that a remote was proven to have."""

    def __init__(self, root: Path, remote: str, *, forgotten: bool = False) -> None:
        """Read the note.

        Args:
            root: Root of the runner's repository.
            remote: Name of the remote; empty for the default one.
            forgotten: Whether to begin with nothing.
        """
        name = remote if _NAME.fullmatch(remote) else digest_bytes(remote.encode()).hex
        self._path = root / ".varietal" / "sent" / name
        known = self._path.read_text(encoding="ascii", errors="replace").split() if self._path.is_file() else []
        self._oids = set() if forgotten else {oid for oid in known if _OID.fullmatch(oid)}

    def __contains__(self, oid: str) -> bool:
        """Whether an object is known to be there."""
        return oid in self._oids

    def add(self, oid: str) -> None:
        """Note an object that was written, or read back and proven, a moment ago."""
        if oid in self._oids:
            return
        self._oids.add(oid)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="ascii") as stream:
            stream.write(f"{oid}\n")
            stream.flush()
            os.fsync(stream.fileno())
