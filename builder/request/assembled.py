"""The Assembled value: a request's work tree, and what it was made from; kept beside it as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from builder.request.inside import read_inside
from builder.work import write_file
from registry.canonical import decode, pretty
from registry.errors import InvalidError
from registry.table import Table

if TYPE_CHECKING:
    from registry.canonical import JSON

__all__ = ["STATE_FILE", "Assembled", "kept_ref", "request_folder"]

STATE_FILE = ".varietal/request.json"
_SCHEMA = "varietal/request/2"
_MAX_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Assembled:
    """A request's work tree.

    Attributes:
        root: Its root; every verb works there as in any repository.
        request: Commit that asks for a merge. A build is of this one commit, wherever its branch goes.
        main: Commit of main that tool, configuration, locks and records are from.
        base: Commit where the two parted.
        builds: What runners pushed for earlier builds of what is in this request, newest first.
        commit: Commit that ``root`` is put back to: main's, with what was taken.
        taken: Paths that were taken from the request, and those it removes.
        left: Paths, and keys of params.yaml, that the request changes and no build looks at.
        generated: Pipelines, locks and records that the request changes; what a runner wrote stands there instead.
        home: Root of the runner's repository, whose git is asked; that of ``root`` lies where stages can write.
    """

    root: Path
    request: str
    main: str
    base: str
    builds: tuple[str, ...]
    commit: str
    taken: tuple[str, ...]
    left: tuple[str, ...]
    generated: tuple[str, ...]
    home: Path = field(default_factory=Path)

    @property
    def built(self) -> str:
        """The newest of the builds; empty where there is none."""
        return next(iter(self.builds), "")

    def to_json(self) -> dict[str, JSON]:
        """Plain values for JSON."""
        return {
            "request": self.request,
            "main": self.main,
            "base": self.base,
            "built": self.built or None,
            "commit": self.commit,
            "taken": [*self.taken],
            "left": [*self.left],
            "generated": [*self.generated],
        }

    def write(self) -> None:
        """Keep it in the tree, last of all: a tree without it is not whole."""
        path = self.root / STATE_FILE
        path.parent.mkdir(exist_ok=True)
        write_file(path, pretty({"schema": _SCHEMA, **self.to_json(), "builds": [*self.builds]}))

    @classmethod
    def read(cls, root: Path) -> Assembled | None:
        """What a folder says that it was assembled from; ``None`` where it says nothing that can be read.

        A stage could have written it: whoever publishes makes it again from ``request``, ``main`` and ``builds``, which
        are checked first.
        """
        try:
            data = read_inside(root, STATE_FILE, max_bytes=_MAX_BYTES)
            if data is None:
                return None
            table = Table(decode(data, where=STATE_FILE), STATE_FILE)
            table.constant("schema", _SCHEMA)
            return cls(
                root=root,
                request=table.text("request"),
                main=table.text("main"),
                base=table.text("base"),
                builds=table.texts("builds"),
                commit=table.text("commit"),
                taken=table.texts("taken"),
                left=table.texts("left"),
                generated=table.texts("generated"),
            )
        except (InvalidError, FileNotFoundError):
            return None


def kept_ref(request: str) -> str:
    """Ref of the runner's repository alone, which keeps the commit of a request's tree while that is there."""
    return f"refs/varietal/assembled/{request}"


def request_folder(root: Path, commit: str) -> Path:
    """Where the work tree of a request is kept, beside the runner's own."""
    return root / ".varietal" / "requests" / commit
