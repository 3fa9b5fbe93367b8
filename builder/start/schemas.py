"""The JSON Schemas that editors complete and check by: files of the repository, so that every clone has them."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["MODEL_SCHEMA", "PARAMS_SCHEMA", "schema_line", "schema_texts", "stale_schemas"]

MODEL_SCHEMA: Final = "schema/model.json"
"""Where a repository keeps the schema of its manifests."""
PARAMS_SCHEMA: Final = "schema/params.json"
"""Where a repository keeps the schema of params.yaml."""

_LINE: Final = "# yaml-language-server: $schema="


def schema_texts() -> Mapping[str, str]:
    """The schemas of this tool, by their paths in a repository."""
    folder = files("builder.schema")
    return {
        MODEL_SCHEMA: (folder / "manifest.schema.json").read_text(encoding="utf-8"),
        PARAMS_SCHEMA: (folder / "params.schema.json").read_text(encoding="utf-8"),
    }


def schema_line(schema: str, *, depth: int) -> str:
    """The comment that tells an editor of a schema; editors take its path from the file that it stands in.

    Args:
        schema: Path of the schema from the root.
        depth: How many folders deep that file lies.
    """
    return f"{_LINE}{'../' * depth}{schema}\n"


def stale_schemas(root: Path) -> Mapping[str, str]:
    """Schemas that the repository has, and that are another tool's: path -> this tool's text."""
    return {
        path: text
        for path, text in schema_texts().items()
        if (root / path).is_file() and (root / path).read_bytes() != text.encode()
    }
