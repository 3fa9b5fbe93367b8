"""A model folder as it lies on disk: its weights files, where each tensor is, and all else. Headers only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.weights.stream import Stored
from registry.artifact import LISTING
from registry.canonical import JSON, decode
from registry.components import Network
from registry.errors import InvalidError, NotFoundError
from registry.safetensors import read_header

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from registry.safetensors import Header

__all__ = ["CONFIG", "INDEX", "ModelFolder", "check_index", "plain_file", "read_model", "weight_files"]

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"

_SINGLE = "model.safetensors"
_SHARD = re.compile(r"(?P<stem>[\w.-]+?)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFolder:
    """What lies in a model folder.

    Attributes:
        path: The folder.
        shards: Name of each weights file -> its header.
        tensors: Name -> the tensor where it lies, sorted by name.
        network: The tensors' places.
        others: Names of all other files, ``artifact.json`` and the weights' index left out; sorted.
    """

    path: Path
    shards: Mapping[str, Header]
    tensors: Mapping[str, Stored]
    network: Network
    others: tuple[str, ...]

    def config(self) -> Mapping[str, JSON]:
        """The value of ``config.json``.

        Raises:
            NotFoundError: There is none.
            InvalidError: It is not a JSON table, or a symlink.
        """
        path = self.path / CONFIG
        if not path.is_symlink() and not path.is_file():
            raise NotFoundError(f"there is no {CONFIG}", where=str(self.path), mend="use a Hugging Face model folder")
        value = decode(plain_file(self.path, CONFIG).read_bytes(), where=str(path))
        if not isinstance(value, dict):
            raise InvalidError("not a table", where=str(path), mend="use a Hugging Face model folder")
        return value


def read_model(folder: Path) -> ModelFolder:
    """Read the headers of a model folder: one safetensors file, or several with their index.

    Raises:
        NotFoundError: There are no weights, or the index names a file that is not there.
        InvalidError: A file breaks its format, the index points outside of the folder or does not name what is there,
            or something is a symlink.
    """
    present = sorted(entry.name for entry in folder.iterdir() if entry.name != LISTING)
    names = weight_files(folder, present)
    shards = {name: read_header(plain_file(folder, name)) for name in names}
    tensors: dict[str, Stored] = {}
    for name, header in shards.items():
        for info in header.tensors.values():
            if info.name in tensors:
                raise InvalidError(
                    f"tensor {info.name!r} is in {tensors[info.name].path.name} and in {name}",
                    where=str(folder),
                    mend="remove the stale file, or fetch the model again",
                )
            tensors[info.name] = Stored(path=folder / name, info=info)
    if INDEX in present:
        files = {name: stored.path.name for name, stored in tensors.items()}
        check_index(_weight_map(folder), files, where=folder / INDEX)
    others = tuple(name for name in present if name not in shards and name != INDEX)
    tensors = dict(sorted(tensors.items()))
    network = Network.from_tensors({name: stored.info.shape for name, stored in tensors.items()})
    return ModelFolder(path=folder, shards=shards, tensors=tensors, network=network, others=others)


def weight_files(folder: Path, present: Sequence[str]) -> list[str]:
    """Names of the weights' files: those of the index, the one file, or a whole set of numbered shards.

    Args:
        folder: Folder of the model; of its files only the index is read.
        present: Names of the files that are there, or will be.

    Raises:
        NotFoundError: There are no weights in safetensors format.
        InvalidError: The index is not sound, or points outside of the folder.
    """
    if INDEX in present:
        return sorted(set(_weight_map(folder).values()))
    if _SINGLE in present:
        return [_SINGLE]
    if shards := _numbered(present):
        return shards
    raise NotFoundError(
        f"there is neither {_SINGLE} nor {INDEX}",
        where=str(folder),
        mend="use a model folder in safetensors format",
    )


def _numbered(present: Sequence[str]) -> list[str]:
    """Shards without an index: all of ``name-00001-of-00003.safetensors`` and its like, or none."""
    found = [match for name in present if (match := _SHARD.fullmatch(name))]
    wanted = {(match["stem"], int(match["count"])) for match in found}
    if len(wanted) != 1:
        return []
    ((_, count),) = wanted
    numbers = sorted(int(match["number"]) for match in found)
    return sorted(match[0] for match in found) if numbers == list(range(1, count + 1)) else []


def _weight_map(folder: Path) -> Mapping[str, str]:
    path = plain_file(folder, INDEX)
    value = decode(path.read_bytes(), where=str(path))
    table = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(table, dict) or not table:
        raise InvalidError("there is no weight_map", where=str(path), mend="fetch the model again")
    files = {tensor: file for tensor, file in table.items() if isinstance(file, str)}
    strange = sorted(str(file) for file in table.values() if not _is_shard_name(file))
    if strange:
        raise InvalidError(
            f"the weight map points to {strange[0]!r}; it must name safetensors files of its own folder",
            where=str(path),
            mend="do not use this model: its index reaches outside of it or names other files",
        )
    return files


def _is_shard_name(file: object) -> bool:
    plain = isinstance(file, str) and file.isprintable() and not set(file) & set('/\\:*?"<>|') and file[:1] != "."
    return plain and str(file).endswith(".safetensors")


def check_index(stated: Mapping[str, str], found: Mapping[str, str], *, where: Path) -> None:
    """The index of several files must say what they hold.

    Args:
        stated: Tensor name -> file, as the index has it.
        found: The same as the files have it.
        where: The index.

    Raises:
        InvalidError: It says something else.
    """
    if wrong := sorted(name for name in stated.keys() | found.keys() if stated.get(name) != found.get(name)):
        name = wrong[0]
        raise InvalidError(
            f"tensor {name!r}: the index says {stated.get(name, 'nothing')}, it is in {found.get(name, 'no file')}",
            where=str(where),
            mend="fetch the model again; its index and its files do not belong together",
        )


def plain_file(folder: Path, name: str) -> Path:
    """A regular file of the folder.

    Raises:
        NotFoundError: It is not there.
        InvalidError: It is a symlink, a folder or a special file.
    """
    path = folder / name
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise InvalidError(
            f"{name} is a symlink, a folder or a special file",
            where=str(folder),
            mend="put the file itself there",
        )
    if not path.exists():
        raise NotFoundError(f"{name} is not there", where=str(folder), mend="fetch the model again; it is incomplete")
    return path
