"""Gives a variant another name: its folder, and every word of it in other manifests; nothing is trained again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.compiled import write_pipelines
from builder.names import VARIANT_NAME
from builder.shapes import Reading
from builder.start.mentions import mentions
from builder.start.text_edit import put_entry, replace_scalars
from builder.start.variant import check_committed, find_variant, move_folder
from builder.work import write_file
from registry.errors import ConflictError, InvalidError
from registry.published import Published
from registry.record import manifest_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from registry.canonical import JSON
    from registry.history import Repository

__all__ = ["Renamed", "rename"]

_BEFORE_IT = ("schema", "description", "license", "deprecated")


@dataclass(frozen=True, kw_only=True, slots=True)
class Renamed:
    """What a rename did.

    Attributes:
        old: The name before.
        new: The name now.
        edited: Files in which a word was changed, the variant's own manifest among them.
        compiled: Pipelines that were written.
    """

    old: str
    new: str
    edited: tuple[str, ...]
    compiled: tuple[str, ...]

    def to_json(self) -> dict[str, JSON]:
        """The shape of ``varietal rename --json``."""
        return {"old": self.old, "new": self.new, "edited": [*self.edited], "compiled": [*self.compiled]}

    def lines(self) -> list[str]:
        """What was done."""
        return [
            f"models/{self.old} is models/{self.new}",
            *(f"edited {path}" for path in self.edited),
            *(f"wrote {path}" for path in self.compiled),
        ]


def rename(repository: Repository, old: str, new: str) -> Renamed:
    """Rename a variant; its releases and channels keep their names, as history does.

    Every edit is made in the text, and checked, before anything is moved.

    Raises:
        NotFoundError: There is no such variant, or no commit.
        ConflictError: There is something of the new name.
        InvalidError: The new name cannot be one, a manifest is at fault, or cannot be edited safely.
        RefusedError: The variant has changes that are not committed.
        MachineError: git or the disk refuses.
    """
    root = repository.root
    workspace = find_variant(root, old)
    _check_name(new)
    check_committed(repository, old)
    texts = _edited(root, workspace.documents, old, new)
    own = str(manifest_file(old))
    _check_unused(repository, new, workspace.manifests[old].formerly)
    formerly = [*(name for name in workspace.manifests[old].formerly if name != new), old]
    text = texts.get(own) or (root / own).read_bytes().decode()
    texts[own] = put_entry(text, "formerly", [*formerly], after=_BEFORE_IT, where=own)
    move_folder(repository, old, new)
    texts[str(manifest_file(new))] = texts.pop(own)
    for path, edited in texts.items():
        write_file(root / path, edited.encode())
    return Renamed(old=old, new=new, edited=tuple(sorted(texts)), compiled=write_pipelines(root).written)


def _edited(root: Path, found: Mapping[str, JSON], old: str, new: str) -> dict[str, str]:
    """New texts of the files that speak of the variant, by path."""
    spoken = mentions(old, found)
    return {
        file: replace_scalars(
            (root / file).read_bytes().decode(),
            {one.path: one.renamed(old, new) for one in spoken if one.file == file},
            where=file,
        )
        for file in sorted({one.file for one in spoken})
    }


def _check_unused(repository: Repository, new: str, formerly: Sequence[str]) -> None:
    """A name under which something else was released would join two histories; its own earlier name may come back."""
    released = Published.read(repository.tags(f"{new}@*")).releases.get(new, ())
    if released and new not in formerly:
        raise ConflictError(
            f"{released[-1].ref} was released of another variant of that name",
            where=f"tags {new}@*",
            mend="take a name that has no releases",
        )


def _check_name(new: str) -> None:
    reading = Reading(file=str(manifest_file(new)))
    VARIANT_NAME.read(new, (), reading)
    if reading.faults:
        raise InvalidError.from_faults(reading.faults)
