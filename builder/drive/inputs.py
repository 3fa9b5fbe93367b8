"""What a task would miss in the work tree, as DVC is asked for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.drive.dvc import addressing
from builder.edges import Address, DataFile
from builder.manifest import FolderAdapter, FolderBase
from builder.work import write_file
from registry.lock import content_md5
from registry.record import artifact_folder, artifact_record, git_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from builder.graph import Node
    from registry.lock import Lock

__all__ = ["members_of", "missing_inputs", "missing_records", "missing_sources", "restore_records"]


def missing_sources(root: Path, node: Node) -> tuple[Address | DataFile, ...]:
    """Inputs of a stage that are not in the work tree."""
    return tuple(dict.fromkeys(edge.source for edge in node.edges if not (root / _place(edge.source)).exists()))


def missing_inputs(root: Path, node: Node) -> tuple[str, ...]:
    """Targets of `dvc pull` for the inputs of a stage that are not there.

    Args:
        root: Root of the repository.
        node: The stage.
    """
    targets = [_target(source) for source in missing_sources(root, node)]
    if isinstance(node.settings, FolderBase | FolderAdapter):
        path = node.settings.path
        targets.append(path if not (root / path).exists() and (root / f"{path}.dvc").is_file() else "")
    return tuple(dict.fromkeys(target for target in targets if target))


def missing_records(root: Path, members: Iterable[Address]) -> tuple[Address, ...]:
    """Stages whose record is not where DVC keeps it."""
    return tuple(one for one in members if not (root / artifact_record(one.variant, one.stage)).is_file())


def restore_records(root: Path, members: Iterable[Address], lock: Lock) -> tuple[str, ...]:
    """Put back records that are not there from their copies in git, which spares fetching them.

    Args:
        root: Root of the repository.
        members: Stages whose record is not there.
        lock: The lock of their variant: a copy counts only where it is what was built.

    Returns:
        Targets of `dvc pull` for the others.
    """
    targets = []
    for one in members:
        path = str(artifact_record(one.variant, one.stage))
        copy = root / git_record(one.variant, one.stage)
        data = copy.read_bytes() if copy.is_file() else b""
        wanted = {out.md5 for stage in lock.stages.values() for out in stage.outputs.values() if out.path == path}
        if content_md5(data) in wanted:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            write_file(root / path, data)
        else:
            targets.append(path)
    return tuple(targets)


def members_of(graph: Mapping[Address, Node], variant: str, base: str) -> tuple[Address, ...]:
    """The stages whose records one task copies."""
    return tuple(one for one in graph if one.variant == variant and base in {"", one.stage})


def _target(source: Address | DataFile) -> str:
    return source.path if isinstance(source, DataFile) else addressing(source)


def _place(source: Address | DataFile) -> str:
    return source.path if isinstance(source, DataFile) else str(artifact_folder(source.variant, source.stage))
