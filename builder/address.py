"""Where things stand that stages read: other stages, and files. Light, since nothing of a manifest is in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Address", "CodeFile", "DataFile", "Source"]


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Address:
    """A stage of a variant, or with the variant ``bases`` an imported base."""

    variant: str
    stage: str

    def __str__(self) -> str:
        """``variant:stage``, as a ref."""
        return f"{self.variant}:{self.stage}"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFile:
    """A data set: path from the root, and the format of its rows."""

    path: str
    format: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeFile(DataFile):
    """A file of code that a stage runs: a file as data is one, without rows."""

    format: str = ""


Source: TypeAlias = Address | DataFile
