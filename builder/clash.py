"""The Clash value: settings of one stage that cannot stand together."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from registry.yaml12 import KeyPath

__all__ = ["Clash"]


class Clash(NamedTuple):
    """Something that a stage says and cannot have.

    Attributes:
        path: Keys within the stage.
        problem: What was found.
        mend: What to write instead.
    """

    path: KeyPath
    problem: str
    mend: str
