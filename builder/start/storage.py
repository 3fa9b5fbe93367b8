"""DVC's settings of a new repository: where its bytes go, and what keeps them whole."""

from __future__ import annotations

import configparser
import os
import re
from pathlib import Path
from typing import Final

from registry.errors import ConflictError, InvalidError

__all__ = ["REMOTE", "default_remote", "remote_url", "settings_text"]

REMOTE: Final = "storage"
"""Name of the default remote of a new repository."""

_CONFIG: Final = ".dvc/config"
_FIRST: Final = """\
[core]
    analytics = false
    remote = {remote}
[cache]
    type = "reflink,hardlink,copy"
"""
# Without `verify`, DVC takes what a remote gives for good without hashing it.
_SECTION: Final = """\
['remote "{remote}"']
    url = {url}
    verify = true
"""


def settings_text(url: str) -> str:
    """The text of ``.dvc/config``."""
    return _FIRST.format(remote=REMOTE) + _SECTION.format(remote=REMOTE, url=f'"{url}"')


def remote_url(root: Path, given: str, start: Path) -> str:
    """The remote as ``.dvc/config`` has it: paths are taken from the folder of that file, so that clones find it too.

    Args:
        root: Root of the repository.
        given: A URL or a path; empty for a folder beside the repository.
        start: Folder that a relative path is meant from.

    Raises:
        InvalidError: It cannot stand in a file of git: it holds a password, or a sign that ends a line or a quote.
    """
    if re.search("[\"'\\\\\x00-\x1f]", given):
        raise InvalidError("a quote, a backslash or a line break in it", where="--remote", mend="write a plain URL")
    if re.match(r"\w+://[^/@]*:[^/@]*@", given):
        raise InvalidError(
            "a password in it, and .dvc/config is in git",
            where="--remote",
            mend=f"leave it out, and set it with `dvc remote modify --local {REMOTE} password ...`",
        )
    if "://" in given or Path(given).is_absolute():
        return given
    folder = start / given if given else root.resolve().parent / f"{root.resolve().name}-remote"
    return os.path.relpath(folder.resolve(), root.resolve() / ".dvc")


def default_remote(root: Path) -> str:
    """Name of the default remote that the repository has already; empty where there is none."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read(root / _CONFIG, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ConflictError(
            "not a configuration file of DVC", where=str(root / _CONFIG), mend="correct it, or remove it"
        ) from error
    return parser.get("core", "remote", fallback="").strip("'\"")
