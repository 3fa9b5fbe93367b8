"""Chat templates of known models, with marks around what the assistant says: TRL has them beside the unmarked ones.

Only files are read; nothing of TRL is imported and no template runs here. That a marked copy says the same as the
model's own template is not believed but looked at, conversation by conversation, by whoever renders with it.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

__all__ = ["marked_copy"]

_MARKED = "_training.jinja"


def marked_copy(template: str) -> str:
    """The marked copy of a template that is, to the letter, one of a known model; empty where there is none."""
    return _copies().get(template, "")


@cache
def _copies() -> dict[str, str]:
    spec = find_spec("trl")
    folders = [Path(one) / "chat_templates" for one in (spec.submodule_search_locations or [])] if spec else []
    found = {}
    for marked in (path for folder in folders for path in sorted(folder.glob(f"*{_MARKED}"))):
        plain = marked.with_name(marked.name.removesuffix(_MARKED) + ".jinja")
        if plain.is_file():
            found[plain.read_text(encoding="utf-8")] = marked.read_text(encoding="utf-8")
    return found
