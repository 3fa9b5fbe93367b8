"""What may lie in a request's tree that its commit does not have: what builds leave there, and nothing more. Pure."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from builder.request.names import MODELS, home_of
from registry.record import BASES

if TYPE_CHECKING:
    from collections.abc import Container

__all__ = ["is_kept_whole", "stays"]

_LEFT = re.compile(rf"{MODELS}/[^/]+/(?:artifacts|records)/.+|{BASES}/(?!dvc\.)[^/]+(?:/.+)?")
_WHOLE = re.compile(r"\.git|\.varietal|\.dvc/tmp|\.dvc/cache")
_MEANT = re.compile(r"dvc\.yaml|dvc\.lock|.*\.dvc|\.dvcignore|\.git", re.IGNORECASE)


def is_kept_whole(path: str) -> bool:
    """Whether a folder is not looked into: git's, which is written by itself, and what belongs to tool and DVC."""
    return _WHOLE.fullmatch(path) is not None


def stays(path: str, tracked: Container[str], *, is_link: bool) -> bool:
    """Whether a file is left where it lies.

    Args:
        path: From the root; the commit has nothing there.
        tracked: Every path of the commit.
        is_link: Whether it is a symbolic link, as DVC may make one of data and artifacts.
    """
    if path == ".dvc/config.local":
        return not is_link
    if home_of(path):
        return not is_link
    if any(_MEANT.fullmatch(part) for part in PurePosixPath(path).parts):
        return False
    if _LEFT.fullmatch(path):
        return not (is_link and "/records/" in path)
    data = (path, *map(str, PurePosixPath(path).parents[:-1]))
    return any(f"{one}.dvc" in tracked for one in data)
