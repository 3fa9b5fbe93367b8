"""Provenance inside a safetensors file: the stage that last changed it, under one metadata key.

No times, paths or names are in it, so the same step on the same inputs gives the same bytes anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.canonical import decode, encode
from registry.digest import Digest
from registry.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.canonical import JSON

__all__ = ["Provenance", "ProvenanceInput"]

SCHEMA = "varietal/provenance/1"
_KEY = "varietal"


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class ProvenanceInput:
    """An artifact that the stage read: its role (``from``, ``adapter``) and the digest of its weights."""

    role: str
    weights_digest: Digest


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """How the tensors of a file came to be.

    Attributes:
        kind: Stage kind, such as ``fold``.
        method: What the kind did, such as ``lora``.
        components: Components that the stage changed, sorted.
        layers: Layers that it changed, as ``0-5``; empty where layers do not apply.
        inputs: Artifacts by weights digest, sorted.
        data: Data sets by digest, sorted.
    """

    kind: str
    method: str
    components: tuple[str, ...] = ()
    layers: str = ""
    inputs: tuple[ProvenanceInput, ...] = ()
    data: tuple[Digest, ...] = ()

    def to_metadata(self) -> dict[str, str]:
        """The metadata of a safetensors file: ``format`` as every reader expects it, and this."""
        value: JSON = {
            "schema": SCHEMA,
            "kind": self.kind,
            "method": self.method,
            "components": list(self.components),
            "layers": self.layers,
            "inputs": [{"role": one.role, "weights_digest": str(one.weights_digest)} for one in sorted(self.inputs)],
            "data": [str(digest) for digest in sorted(self.data)],
        }
        return {"format": "pt", _KEY: encode(value).decode()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], *, where: str) -> Provenance | None:
        """Read it back; ``None`` where the file carries none.

        Raises:
            InvalidError: The key is there and breaks the schema.
        """
        text = metadata.get(_KEY)
        if text is None:
            return None
        table = Table(decode(text.encode(), where=where), where)
        table.only("schema", "kind", "method", "components", "layers", "inputs", "data")
        table.constant("schema", SCHEMA)
        return cls(
            kind=table.text("kind"),
            method=table.text("method"),
            components=table.texts("components"),
            layers=table.text("layers"),
            inputs=tuple(_read_input(row) for row in table.rows("inputs")),
            data=tuple(Digest.parse(text, where=f"{where}: data") for text in table.texts("data")),
        )


def _read_input(table: Table) -> ProvenanceInput:
    table.only("role", "weights_digest")
    return ProvenanceInput(role=table.text("role"), weights_digest=table.digest("weights_digest"))
