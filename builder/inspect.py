"""The tensors of a model or an adapter in the work tree, from safetensors headers alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import NotFoundError
from registry.record import artifact_folder
from registry.refs import Stage, parse
from registry.safetensors import read_header

if TYPE_CHECKING:
    from collections.abc import Callable

    from registry.safetensors import TensorInfo

__all__ = ["tensors_of"]


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
