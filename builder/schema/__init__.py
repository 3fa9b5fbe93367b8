"""JSON Schemas of model.yaml and params.yaml, and the tables of docs/manifest.md, made from the dataclasses.

``python -m builder.schema`` writes the files; a contract test holds them equal to what it would write.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from builder.manifest import Manifest, Project
from builder.schema.reference import with_tables
from builder.tables import json_schema
from registry.canonical import pretty

if TYPE_CHECKING:
    from registry.canonical import JSON

__all__ = ["REFERENCE", "SCHEMAS", "manifest_schema", "params_schema", "written_files"]

SCHEMAS: Final = Path(__file__).parent
REFERENCE: Final = SCHEMAS.parent.parent / "docs" / "manifest.md"


def manifest_schema() -> dict[str, JSON]:
    """The JSON Schema of ``models/<variant>/model.yaml``."""
    return json_schema(Manifest, title="Varietal manifest")


def params_schema() -> dict[str, JSON]:
    """The JSON Schema of ``params.yaml``."""
    return json_schema(Project, title="Varietal params.yaml")


def written_files() -> dict[Path, bytes]:
    """Every file that is made from the dataclasses, with its bytes.

    Raises:
        OSError: docs/manifest.md, whose text around the tables is by hand, cannot be read.
    """
    return {
        SCHEMAS / "manifest.schema.json": pretty(manifest_schema()),
        SCHEMAS / "params.schema.json": pretty(params_schema()),
        REFERENCE: with_tables(REFERENCE.read_text(encoding="utf-8")).encode(),
    }
