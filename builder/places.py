"""Paths of a stage's things as text, made once: a pipeline and a plan ask for each of them many times."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from registry.record import artifact_folder, artifact_record, git_record

if TYPE_CHECKING:
    from builder.address import Address

__all__ = ["beside_of", "copy_of", "folder_of"]


@cache
def folder_of(address: Address) -> str:
    """The artifact's folder, from the root."""
    return str(artifact_folder(address.variant, address.stage))


@cache
def beside_of(address: Address) -> str:
    """The record beside the artifact, which DVC keeps."""
    return str(artifact_record(address.variant, address.stage))


@cache
def copy_of(address: Address) -> str:
    """The record's copy in git."""
    return str(git_record(address.variant, address.stage))
