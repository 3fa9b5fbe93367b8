"""The Assembled value: a request's work tree, and what it was made from; kept beside it as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.canonical import decode, pretty
from registry.plain_file import read_plain
from registry.table import Table

if TYPE_CHECKING:
    from pathlib import Path

    from registry.canonical import JSON

__all__ = ["STATE_FILE", "Assembled", "request_folder"]

STATE_FILE = ".varietal/request.json"
_SCHEMA = "varietal/request/1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Assembled:
    """A request's work tree.

    Attributes:
        root: Its root; every verb works there as in any repository.
        request: Commit that asks for a merge. A build is of this one commit, wherever its branch goes.
        main: Commit of main that tool, configuration, locks and records are from.
        base: Commit where the two parted.
        built: What a runner pushed for an earlier build of this request; empty where there is none.
        commit: Commit that is checked out in ``root``: main's, with what was taken.
        taken: Paths that were taken from the request, and those it removes.
        left: Paths, and keys of params.yaml, that the request changes and no build looks at.
        generated: Pipelines, locks and records that the request changes; what a runner wrote stands there instead.
    """

    root: Path
    request: str
    main: str
    base: str
    built: str
    commit: str
    taken: tuple[str, ...]
    left: tuple[str, ...]
    generated: tuple[str, ...]

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
        """Keep it beside the tree, last of all: a tree without it is not whole."""
        path = self.root / STATE_FILE
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pretty({"schema": _SCHEMA, **self.to_json()}))

    @classmethod
    def read(cls, root: Path) -> Assembled | None:
        """What was assembled in a folder; ``None`` where nothing was.

        Raises:
            InvalidError: The file is broken.
        """
        path = root / STATE_FILE
        if not path.is_file():
            return None
        table = Table(decode(read_plain(path), where=str(path)), str(path))
        table.constant("schema", _SCHEMA)
        return cls(
            root=root,
            request=table.text("request"),
            main=table.text("main"),
            base=table.text("base"),
            built=table.text("built") if table.raw("built") is not None else "",
            commit=table.text("commit"),
            taken=table.texts("taken"),
            left=table.texts("left"),
            generated=table.texts("generated"),
        )


def request_folder(root: Path, commit: str) -> Path:
    """Where the work tree of a request is kept, beside the runner's own."""
    return root / ".varietal" / "requests" / commit
