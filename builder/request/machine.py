"""What an assembled tree has from its runner: DVC's remotes and cache, and the settings of the machine. No code.

The runner's own copy of DVC's local settings is taken, whose relative paths start where it lies. DVC is made to check
what it fetches, from every remote.
"""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import TYPE_CHECKING

from builder.runner import RUNNER_FILE
from builder.work import write_file
from registry.errors import InvalidError, RefusedError
from registry.plain_file import read_plain
from registry.remote import DvcCache

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["QUARANTINE", "give_settings", "quarantine_of", "remote_names"]

QUARANTINE = "quarantine"
"""The DVC remote that takes the bytes of requests, where a repository has one of this name."""

_CONFIG, _LOCAL = Path(".dvc/config"), Path(".dvc/config.local")
_PATH_KEYS = frozenset({"url", "credentialpath", "configpath", "keyfile", "cert_path", "key_path", "custom_auth_path"})
_URL = re.compile(r"[A-Za-z][\w+.-]*://")
_REMOTE = re.compile(r"""'?remote "(.+)"'?""")


def give_settings(runner: Path, target: Path) -> None:
    """Write what an assembled tree needs to know of its machine; nothing where main has no DVC.

    Args:
        runner: Root of the runner's repository.
        target: Root of the assembled tree, with main's ``.dvc/config`` in it.

    Raises:
        InvalidError: A configuration file of DVC cannot be read.
    """
    if (runner / RUNNER_FILE).is_file():
        (target / RUNNER_FILE).parent.mkdir(exist_ok=True)
        write_file(target / RUNNER_FILE, read_plain(runner / RUNNER_FILE))
    if not (target / _CONFIG).is_file():
        return
    local = _read(runner / _LOCAL)
    committed = _read(target / _CONFIG)
    written = configparser.ConfigParser(interpolation=None, strict=False)
    for parser in (committed, local):
        for section in parser.sections():
            kept = dict(_kept(parser, section, runner / ".dvc", everything=parser is local))
            if kept:
                written.setdefault(section, {})
                written[section].update(kept)
    for section in (*committed.sections(), *local.sections()):
        if _REMOTE.fullmatch(section):
            written.setdefault(section, {})
            written[section]["verify"] = "true"
    written.setdefault("cache", {})
    written["cache"]["dir"] = str(DvcCache(runner).folder.resolve())
    with (target / _LOCAL).open("w", encoding="utf-8") as stream:
        written.write(stream)
    (target / _LOCAL).chmod(0o600)


def remote_names(root: Path) -> frozenset[str]:
    """Names of the DVC remotes that a repository knows, by every file that DVC reads; DVC itself is not asked.

    Raises:
        InvalidError: A configuration file of DVC cannot be read.
    """
    files = (Path("/etc/xdg/dvc/config"), Path("~/.config/dvc/config").expanduser(), root / _CONFIG, root / _LOCAL)
    sections = [section for path in files for section in _read(path).sections()]
    return frozenset(found[1] for section in sections if (found := _REMOTE.fullmatch(section)) is not None)


def quarantine_of(root: Path) -> str:
    """The remote for a request's bytes where none was named.

    Raises:
        RefusedError: There is no quarantine, and nobody said that the bytes may go elsewhere.
    """
    if QUARANTINE not in remote_names(root):
        raise RefusedError(
            f"there is no DVC remote named {QUARANTINE}",
            where=str(root / _CONFIG),
            mend=f"`dvc remote add {QUARANTINE} URL` on main, or name one that a request may write to: --remote NAME",
        )
    return QUARANTINE


def _kept(
    parser: configparser.ConfigParser, section: str, folder: Path, *, everything: bool
) -> Iterator[tuple[str, str]]:
    """Settings to write down: paths that would point elsewhere from another folder; of local settings, all."""
    for key, value in parser.items(section):
        is_path = key in _PATH_KEYS and _REMOTE.fullmatch(section) and not _URL.match(value)
        if is_path and not Path(value).expanduser().is_absolute():
            yield key, str((folder / value).resolve())
        elif everything:
            yield key, value


def _read(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError, OSError) as error:
        raise InvalidError(
            f"not a configuration file of DVC: {' '.join(str(error).split())}",
            where=str(path),
            mend="correct it, or write it with `dvc config`",
        ) from error
    return parser
