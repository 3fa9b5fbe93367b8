"""The changelog of a variant, told from the tags of its releases: a tag never moves, and a file may be edited.

So it needs no commit after the tag. Whoever wants the file beside the manifest writes it and commits it with the next
change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.record import manifest_file
from registry.refs import Version

if TYPE_CHECKING:
    from pathlib import PurePosixPath

    from registry.canonical import JSON
    from registry.published import Published, Release

__all__ = ["changelog_file", "changelog_json", "changelog_text"]

_UNKNOWN = ("made without notes",)


def changelog_file(variant: str) -> PurePosixPath:
    """Where it lies, from the root of the repository."""
    return manifest_file(variant).with_name("CHANGELOG.md")


def changelog_json(variant: str, published: Published) -> JSON:
    """Releases, newest version first."""
    return [
        {
            "version": one.version,
            "time": one.created.isoformat(),
            "commit": one.commit,
            "withdrawn": _is_withdrawn(one, published),
            "notes": [*one.notes()],
        }
        for one in reversed(published.releases.get(variant, ()))
    ]


def changelog_text(variant: str, published: Published) -> str:
    """Markdown, newest version first."""
    parts = [f"# {variant}\n\nWritten from the tags of the releases by `varietal changelog {variant} --write`.\n"]
    for one in reversed(published.releases.get(variant, ())):
        mark = ", withdrawn" if _is_withdrawn(one, published) else ""
        lines = "\n".join(_paragraphs(one.notes() or _UNKNOWN))
        parts.append(f"## {one.version}, {one.created:%Y-%m-%d}{mark}\n\n{lines}\n")
    return "\n".join(parts)


def _paragraphs(lines: tuple[str, ...]) -> list[str]:
    """The heading line apart from the list, as Markdown wants it."""
    first, *rest = lines
    return [first, "", *rest] if rest and not first.startswith("- ") else [*lines]


def _is_withdrawn(one: Release, published: Published) -> bool:
    return Version(one.variant, one.version) in published.withdrawn
