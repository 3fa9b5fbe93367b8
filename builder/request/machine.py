"""What an assembled tree has from its runner: DVC's remotes and cache, and the settings of the machine. No code.

Of the runner's own settings of DVC those are taken that a build needs: of the default remote, of quarantine, and of the
one that the runner is set to send to. Their relative paths start where they lie. DVC is made to check what it fetches.
"""

from __future__ import annotations

import configparser
import io
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from builder.runner import RUNNER_FILE, read_runner
from builder.work import write_file
from registry import yaml12
from registry.canonical import pretty
from registry.errors import RefusedError
from registry.plain_file import read_plain
from registry.remote import DvcCache, read_dvc_config

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["QUARANTINE", "give_settings", "quarantine_of", "remote_names"]

QUARANTINE = "quarantine"
"""The DVC remote that takes the bytes of requests, where a repository has one of this name."""

_CONFIG, _LOCAL = Path(".dvc/config"), Path(".dvc/config.local")
_PATH_KEYS = frozenset({"url", "credentialpath", "configpath", "keyfile", "cert_path", "key_path", "custom_auth_path"})
_URL = re.compile(r"[A-Za-z][\w+.-]*://")
_KEY = "progress_key"
_REMOTE = re.compile(r"""'?remote "(.+)"'?""")


def give_settings(runner: Path, target: Path) -> None:
    """Write what an assembled tree needs to know of its machine; nothing where main has no DVC.

    Args:
        runner: Root of the runner's repository.
        target: Root of the assembled tree, with main's ``.dvc/config`` in it.

    Raises:
        InvalidError: A configuration file of DVC, or the runner's settings, cannot be read.
    """
    (target / RUNNER_FILE).parent.mkdir(exist_ok=True)
    (target / RUNNER_FILE).unlink(missing_ok=True)  # what a stage may have put there
    if (runner / RUNNER_FILE).is_file():
        write_file(target / RUNNER_FILE, _without_key(read_plain(runner / RUNNER_FILE)))
    if not (target / _CONFIG).is_file():
        return
    local = read_dvc_config(runner / _LOCAL)
    committed = read_dvc_config(target / _CONFIG)
    needed = _needed(runner, committed, local)
    written = configparser.ConfigParser(interpolation=None, strict=False)
    for parser in (committed, local):
        for section in parser.sections():
            name = _remote_of(section)
            if parser is local and name and name not in needed:
                continue
            kept = dict(_kept(parser, section, runner / ".dvc", everything=parser is local))
            if kept:
                written.setdefault(section, {})
                written[section].update(kept)
    for section in (*committed.sections(), *written.sections()):
        if _remote_of(section):
            written.setdefault(section, {})
            written[section]["verify"] = "true"
    written.setdefault("cache", {})
    written["cache"]["dir"] = str(DvcCache(runner).folder.resolve())
    text = io.StringIO()
    written.write(text)
    _write_secret(target / _LOCAL, text.getvalue().encode())


def _without_key(text: bytes) -> bytes:
    """The machine's settings, but for where the key that signs notes lies: no stage has any use for that."""
    value = yaml12.load(text, RUNNER_FILE).value
    if not isinstance(value, dict) or _KEY not in value:
        return text
    return pretty({name: one for name, one in value.items() if name != _KEY})


def _needed(runner: Path, committed: configparser.ConfigParser, local: configparser.ConfigParser) -> frozenset[str]:
    """Remotes that a build reads from or sends to; the credentials of all others stay where they are."""
    names = {QUARANTINE}
    for parser in (committed, local):
        names.add(parser.get("core", "remote", fallback=""))
    if (runner / RUNNER_FILE).is_file():
        names.add(read_runner(runner).push)
    return frozenset(names - {""})


def _write_secret(path: Path, data: bytes) -> None:
    """Write a file that nobody else can read at any moment."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(path)


def _remote_of(section: str) -> str:
    """Name of the remote that a section of DVC's configuration is about; empty for every other."""
    found = _REMOTE.fullmatch(section)
    return "" if found is None else found[1]


def remote_names(root: Path) -> frozenset[str]:
    """Names of the DVC remotes that a repository knows, by every file that DVC reads; DVC itself is not asked.

    Raises:
        InvalidError: A configuration file of DVC cannot be read.
    """
    files = (Path("/etc/xdg/dvc/config"), Path("~/.config/dvc/config").expanduser(), root / _CONFIG, root / _LOCAL)
    sections = [section for path in files for section in read_dvc_config(path).sections()]
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
