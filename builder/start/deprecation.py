"""Says of a variant that it should no longer be used, or takes that back: one key of its manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.start.text_edit import put_entry, remove_entry
from builder.start.variant import find_variant
from builder.work import write_file
from registry.errors import InvalidError, NotFoundError
from registry.record import manifest_file

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["deprecate", "undo_deprecation"]

_KEY = "deprecated"
_BEFORE_IT = ("schema", "description", "license")


def deprecate(root: Path, variant: str, *, reason: str = "", instead: str = "") -> str:
    """Write why a variant should no longer be used, and what to take instead.

    Args:
        root: Root of the repository.
        variant: The variant.
        reason: Why; may be empty where ``instead`` says it.
        instead: Another variant to take; empty for none.

    Returns:
        The text that was written.

    Raises:
        NotFoundError: There is no such variant.
        InvalidError: Nothing is said, or a manifest is at fault or cannot be edited safely.
    """
    workspace = find_variant(root, variant)
    if instead and instead not in workspace.manifests:
        raise NotFoundError(
            f"there is no variant {instead!r} to take instead",
            where="--in-favour-of",
            mend=f"name one of {', '.join(sorted({*workspace.manifests} - {variant})) or 'those that will be there'}",
        )
    said = "; ".join(part for part in (" ".join(reason.split()), f"use {instead}" if instead else "") if part)
    if not said or instead == variant:
        raise InvalidError(
            "nothing says why, nor what to take instead" if not said else f"{variant} in favour of itself",
            where="varietal deprecate",
            mend="write --reason TEXT or --in-favour-of VARIANT",
        )
    path = manifest_file(variant)
    text = (root / path).read_bytes().decode()
    write_file(root / path, put_entry(text, _KEY, said, after=_BEFORE_IT, where=str(path)).encode())
    return said


def undo_deprecation(root: Path, variant: str) -> None:
    """Take back that a variant should no longer be used.

    Raises:
        NotFoundError: There is no such variant, or it is not deprecated.
        InvalidError: A manifest is at fault or cannot be edited safely.
    """
    if not find_variant(root, variant).manifests[variant].deprecated:
        raise NotFoundError(
            f"{variant} is not deprecated", where=str(manifest_file(variant)), mend="there is nothing to take back"
        )
    path = manifest_file(variant)
    text = (root / path).read_bytes().decode()
    write_file(root / path, remove_entry(text, _KEY, where=str(path)).encode())
