"""Takes a variant out of the tree; its history, its releases and their bytes stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.compiled import write_pipelines
from builder.start.mentions import folder_of, mentions
from builder.start.variant import check_committed, find_variant, remove_folder
from registry.errors import ConflictError, RefusedError
from registry.record import manifest_file
from registry.signers import read_published

if TYPE_CHECKING:
    from registry.canonical import JSON
    from registry.history import Repository

__all__ = ["Removed", "remove"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Removed:
    """What a removal left behind.

    Attributes:
        variant: The variant.
        releases: Versions that can be pulled still.
        channels: Version by channel that still points at one.
    """

    variant: str
    releases: tuple[str, ...]
    channels: dict[str, str]

    def to_json(self) -> dict[str, JSON]:
        """The shape of ``varietal remove --json``."""
        return {"variant": self.variant, "releases": [*self.releases], "channels": {**self.channels}}

    def lines(self) -> list[str]:
        """What was done, and what stays."""
        stays = ", ".join(self.releases)
        return [f"removed {folder_of(self.variant)}", *([f"still there to be pulled: {stays}"] if stays else [])]


def remove(repository: Repository, variant: str, *, force: bool) -> Removed:
    """Remove a variant's folder from the tree and the index.

    Args:
        repository: The repository.
        variant: The variant.
        force: Remove it although a channel points at a release of it.

    Raises:
        NotFoundError: There is no such variant, no commit, or no main branch that says which assignments count.
        ConflictError: Another manifest is made from it.
        RefusedError: A channel points at it, or it has changes that are not committed.
        InvalidError: A manifest is at fault.
        MachineError: git or the disk refuses.
    """
    workspace = find_variant(repository.root, variant)
    own = str(manifest_file(variant))
    found = {path: document for path, document in workspace.documents.items() if path != own}
    if users := mentions(variant, found):
        raise ConflictError(
            f"{variant} is used: {'; '.join(map(str, users))}",
            where=folder_of(variant),
            mend="let them start from a release of it, {variant: NAME@VERSION, digest: ...}, or remove them first",
        )
    published = read_published(repository, variant)
    channels = published.channels(variant)
    if channels and not force:
        raise RefusedError(
            f"{', '.join(f'{variant}#{name} points at {version}' for name, version in channels.items())}",
            where=folder_of(variant),
            mend="move those who pull it to another variant first, or say --force: the channel and its release stay",
        )
    check_committed(repository, variant)
    remove_folder(repository, variant)
    write_pipelines(repository.root)
    versions = tuple(str(one.ref) for one in published.releases.get(variant, ()))
    return Removed(variant=variant, releases=versions, channels=channels)
