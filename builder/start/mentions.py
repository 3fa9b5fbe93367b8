"""Where files speak of a variant: as what they start from, or as a folder that a path leads into. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.record import BASES, manifest_file
from registry.yaml12 import dotted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from registry.canonical import JSON
    from registry.yaml12 import KeyPath

__all__ = ["Mention", "folder_of", "mentions"]

_SOURCES = ("adapters", "models")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mention:
    """A value that names a variant, or a path into its folder.

    Attributes:
        file: The file that it stands in, from the root.
        path: Its key path.
        value: The value.
    """

    file: str
    path: KeyPath
    value: str

    def renamed(self, old: str, new: str) -> str:
        """The value once the variant has another name."""
        if self.path[-1] == "variant":
            return new
        return f"{folder_of(new)}{self.value.removeprefix(folder_of(old))}"

    def __str__(self) -> str:
        """Where it stands, and what it says."""
        return f"{self.file}: {dotted(self.path)}: {self.value}"


def folder_of(variant: str) -> str:
    """A variant's folder, from the root, with a slash after it."""
    return f"{manifest_file(variant).parent}/"


def mentions(variant: str, documents: Mapping[str, JSON]) -> tuple[Mention, ...]:
    """Where documents speak of a variant as it is in the tree; a release that is pinned by digest is none of these.

    Args:
        variant: The variant.
        documents: params.yaml and the manifests, by path.
    """
    return tuple(
        Mention(file=file, path=path, value=value)
        for file, document in documents.items()
        for path, value in _values(file, document)
        if (value == variant if path[-1] == "variant" else value.startswith(folder_of(variant)))
    )


def _values(file: str, document: JSON) -> Iterator[tuple[KeyPath, str]]:
    """Every ``variant`` and every ``path`` of the sources and data sets that a document declares."""
    if not isinstance(document, dict):
        return
    tables: list[KeyPath] = [("base",)]
    names = (BASES,) if file == str(manifest_file(BASES)) else (*_SOURCES, "data")
    for name in names:
        inner = document.get(name)
        tables += [(name, key) for key in inner] if isinstance(inner, dict) else []
    for table in tables:
        value: JSON = document
        for part in table:
            value = value.get(str(part)) if isinstance(value, dict) else None
        if isinstance(value, dict):
            yield from (((*table, key), text) for key in ("variant", "path") if isinstance(text := value.get(key), str))
