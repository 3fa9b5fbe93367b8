"""Artifacts as a person names them, by a ref or a folder: their tensors, and where their bytes lie."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from builder.obtain import obtain, read_verified
from builder.scratch import scratch_folder
from builder.work import full_disk
from registry.artifact import LISTING, Artifact
from registry.errors import NotFoundError
from registry.history import Repository
from registry.index import Index
from registry.record import artifact_folder
from registry.refs import Stage, parse
from registry.resolve import resolve
from registry.safetensors import read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from registry.safetensors import TensorInfo
    from registry.store import Store

__all__ = ["open_artifact", "tensors_of"]


@contextmanager
def open_artifact(
    find_root: Callable[[], Path], ref: str, open_store: Callable[[], Store], say: Callable[[str], None]
) -> Iterator[tuple[Path, Artifact]]:
    """The folder of what a person names, and what is in it by its files; what a ref names is fetched for as long.

    Args:
        find_root: Gives the root of the repository; called for a ref only.
        ref: Any ref, or a folder with safetensors files.
        open_store: Gives the local content store; called for a ref only.
        say: Tells the person at the terminal.

    Raises:
        NotFoundError: There is nothing of that name, or its bytes are nowhere.
        InvalidError: ``ref`` is no ref, or a file breaks its format.
        DigestMismatchError: The bytes are not those of the record, or not as the folder's own listing says.
    """
    folder = Path(ref)
    if folder.is_dir():
        has_listing = (folder / LISTING).is_file()
        yield folder, read_verified(folder) if has_listing else Artifact.from_folder(folder, "model")
        return
    repository = Repository(find_root())
    record = resolve(repository, parse(ref)).record
    place = repository.root / ".varietal" / "opened"
    with full_disk(ref), scratch_folder(place) as scratch, Index.open(repository) as index:
        target = scratch / "artifact"
        yield (
            target,
            obtain(repository.root, record.artifact.digest, ref, target, index=index, store=open_store(), say=say),
        )


def tensors_of(find_root: Callable[[], Path], ref: str) -> tuple[TensorInfo, ...]:
    """Every tensor under a ref or a folder, by name.

    Args:
        find_root: Gives the root of the repository; called for a ref only.
        ref: ``variant:stage`` in this work tree, or a folder with safetensors files.

    Raises:
        NotFoundError: There is no such folder, or no safetensors file in it.
        InvalidError: ``ref`` is neither, or a file breaks the format.
    """
    folder = Path(ref)
    if not folder.is_dir():
        parsed = parse(ref)
        if not isinstance(parsed, Stage) or parsed.revision:
            raise NotFoundError(
                f"{ref} has no folder here", where="varietal components", mend="pull it, then name the folder"
            )
        folder = find_root() / artifact_folder(parsed.variant, parsed.stage)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise NotFoundError(
            "there is no safetensors file",
            where=str(folder),
            mend="build the stage (`dvc repro`) or name another folder",
        )
    infos = [info for file in files for info in read_header(file).tensors.values()]
    return tuple(sorted(infos, key=lambda info: info.name))
