"""The throw-away tree of a smoke test: the repository by links, with place of its own for what the stages make."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.work import remove_tree
from registry.errors import Error
from registry.index import Sighting
from registry.record import BASES, Record, artifact_folder, artifact_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from builder.edges import Address
    from registry.digest import Digest
    from registry.lineage import Sightings

__all__ = ["TREE", "Records", "lay_out"]

TREE = ".varietal/smoke"
_OWN = frozenset({".git", ".dvc", ".varietal", "models", BASES})
_MADE = frozenset({"artifacts", "records"})


def lay_out(root: Path, addresses: Sequence[Address], built: Iterable[Address]) -> Path:
    """Make the tree; what an earlier smoke test left of it goes.

    Args:
        root: Root of the repository.
        addresses: The stages that will be in it.
        built: Those that are taken as they lie in the work tree.
    """
    tree = root / TREE
    remove_tree(tree)
    (tree / BASES).mkdir(parents=True)
    _link(root, tree, _OWN)
    for variant in {address.variant for address in addresses} - {BASES}:
        folder = tree / "models" / variant
        (folder / "artifacts").mkdir(parents=True)
        _link(root / "models" / variant, folder, _MADE)
    for address in built:
        for path in (artifact_folder(address.variant, address.stage), artifact_record(address.variant, address.stage)):
            (tree / path).symlink_to(root / path)
    return tree


def _link(source: Path, target: Path, left_out: frozenset[str]) -> None:
    for path in source.iterdir():
        if path.name not in left_out:
            (target / path.name).symlink_to(path)


class Records:
    """Records of the tree, over those of the repository: what a smoke test knows of ancestors."""

    def __init__(self, tree: Path, index: Sightings) -> None:
        """Read those of the tree."""
        self._index = index
        self._sightings: list[Sighting] = []
        for path in (*tree.glob("models/*/artifacts/*.json"), *tree.glob(f"{BASES}/*.json")):
            try:
                record = Record.from_bytes(path.read_bytes(), where=str(path))
            except (Error, OSError):
                continue
            self._sightings.append(Sighting(record=record, commit="", path=str(path.relative_to(tree))))

    def by_artifact(self, digest: Digest) -> tuple[Sighting, ...]:
        """Every sighting of a record of this artifact."""
        own = tuple(one for one in self._sightings if one.record.artifact.digest == digest)
        return own or self._index.by_artifact(digest)
