"""The Action value: what a stage does, free of names and paths; equal actions give equal artifacts."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from registry.canonical import encode
from registry.digest import Digest, digest_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.canonical import JSON
    from registry.table import Table

__all__ = ["Action", "ActionInput"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionInput:
    """One input: its role, its digest, and what the stage says on it alone, such as a weight."""

    role: str
    digest: Digest
    settings: Mapping[str, JSON] = field(default_factory=dict)

    def to_dict(self) -> dict[str, JSON]:
        """Plain values for JSON."""
        return {"role": self.role, "digest": str(self.digest), "settings": dict(self.settings)}

    @classmethod
    def from_table(cls, table: Table) -> ActionInput:
        """Read one input.

        Raises:
            InvalidError: A key is missing or unknown, or a value is of the wrong type.
        """
        table.only("role", "digest", "settings")
        return cls(role=table.text("role"), digest=table.digest("digest"), settings=table.mapping("settings"))


@dataclass(frozen=True, kw_only=True)
class Action:
    """What a stage does.

    Attributes:
        kind: Stage kind.
        recipe: Revision of the kind's meaning.
        settings: Resolved settings, defaults included, names of other things left out.
        inputs: In canonical order, so that the order in which a manifest lists things does not count.
    """

    kind: str
    recipe: int
    settings: Mapping[str, JSON]
    inputs: tuple[ActionInput, ...]

    def __post_init__(self) -> None:
        """Bring the inputs into canonical order."""
        object.__setattr__(self, "inputs", tuple(sorted(self.inputs, key=lambda one: encode(one.to_dict()))))

    @cached_property
    def digest(self) -> Digest:
        """Digest of the canonical JSON of the action: the key under which its artifact is found again."""
        return digest_bytes(encode(self.to_dict()))

    def to_dict(self) -> dict[str, JSON]:
        """Plain values for JSON."""
        return {
            "kind": self.kind,
            "recipe": self.recipe,
            "settings": dict(self.settings),
            "inputs": [one.to_dict() for one in self.inputs],
        }

    @classmethod
    def from_table(cls, table: Table) -> Action:
        """Read an action.

        Raises:
            InvalidError: A key is missing or unknown, or a value is of the wrong type.
        """
        table.only("kind", "recipe", "settings", "inputs")
        return cls(
            kind=table.text("kind"),
            recipe=table.count("recipe"),
            settings=table.mapping("settings"),
            inputs=tuple(ActionInput.from_table(row) for row in table.rows("inputs")),
        )
