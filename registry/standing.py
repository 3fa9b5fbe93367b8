"""What a manifest says of its variant's standing: whether it is deprecated, and what it was called before.

The word of today counts, also for what was released long ago: the manifest is read from the work tree, in a bare copy
from its main branch. A manifest that cannot be read says nothing here; `varietal lint` says what is wrong with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry import yaml12
from registry.errors import Error
from registry.record import manifest_file
from registry.refs import is_variant

if TYPE_CHECKING:
    from registry.history import Repository

__all__ = ["Standing", "read_standing", "standing"]

_KEYS = (b"deprecated", b"formerly")


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How a variant stands.

    Attributes:
        deprecated: Why it should no longer be used; empty where it may be.
        formerly: Names that it had before.
    """

    deprecated: str = ""
    formerly: tuple[str, ...] = ()


def standing(repository: Repository, variant: str) -> Standing:
    """How a variant stands today; a variant without a manifest has nothing to say."""
    path = manifest_file(variant)
    try:
        data = repository.read("HEAD", str(path)) if repository.bare else (repository.root / path).read_bytes()
    except (Error, OSError):
        return Standing()
    return read_standing(data)


def read_standing(data: bytes) -> Standing:
    """How a variant stands, of its manifest's text."""
    if not any(key in data for key in _KEYS):  # nearly all of them: a list of thousands need not parse each
        return Standing()
    try:
        value = yaml12.load(data, "model.yaml").value
    except Error:
        return Standing()
    if not isinstance(value, dict):
        return Standing()
    reason, names = value.get("deprecated"), value.get("formerly")
    return Standing(
        deprecated=reason if isinstance(reason, str) else "",
        formerly=tuple(one for one in names if isinstance(one, str) and is_variant(one))
        if isinstance(names, list)
        else (),
    )
