"""DVC's settings as the main branch has them today, whatever is checked out; what this machine adds is kept.

A tag can lie on a commit whose ``.dvc/config`` is old, or was never looked at. What says where signed descriptors go,
and where this machine's credentials are sent, is what was reviewed last.
"""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from registry.errors import InvalidError, MachineError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping

    from registry.history import Repository

__all__ = ["main_settings"]

_FILE = ".dvc/config"
_URL = re.compile(r"\w+://")
_PATHS = (  # of a remote and of the cache; a relative one starts at the folder of its file
    *("url", "dir", "credentialpath", "configpath", "keyfile", "cert_path", "key_path"),
    *("gdrive_user_credentials_file", "gdrive_service_account_json_file_path"),
)


class _Settings(Protocol):
    """A configuration file of DVC."""

    sections: list[str]

    def __getitem__(self, section: str, /) -> MutableMapping[str, object]: ...

    def setdefault(self, section: str, value: dict[str, object], /) -> MutableMapping[str, object]: ...

    def write(self) -> list[str]: ...


@contextmanager
def main_settings(repository: Repository) -> Iterator[Path]:
    """A folder in which DVC finds the remotes of the main branch, and what ``.dvc/config.local`` here adds to them.

    Raises:
        NotFoundError: No main branch is known, or what is looked for in the folder is not in these settings.
        InvalidError: One of the files is no configuration of DVC.
        MachineError: DVC is not installed.
    """
    commit = repository.resolve(repository.main_branch())
    shared = next(repository.read_blobs([f"{commit}:{_FILE}"])) or b""
    local = repository.root / f"{_FILE}.local"
    with tempfile.TemporaryDirectory(prefix="varietal-") as name:
        folder = Path(name) / ".dvc"
        folder.mkdir(mode=0o700)
        home = repository.root / ".dvc"
        _write(folder / "config", _read(shared, f"{_FILE} at {commit[:12]}", home))
        own = _read(local.read_bytes() if local.is_file() else b"", str(local), home)
        own.setdefault("core", {})["no_scm"] = "true"
        _write(folder / "config.local", own)
        try:
            yield Path(name)
        except NotFoundError as error:
            if not error.where.startswith(name):
                raise
            raise NotFoundError(
                error.what, where=f"{_FILE} of the main branch", mend=f"{error.mend}, and have it merged"
            ) from error


def _read(text: bytes, where: str, home: Path) -> _Settings:
    """A file of settings, its paths made independent of where it lies."""
    try:
        from configobj import ConfigObj, ConfigObjError  # type: ignore[import-untyped]  # noqa: PLC0415 - of DVC
    except ImportError as error:
        raise MachineError(
            "DVC is not installed, and a DVC remote is written through it",
            where="PATH",
            mend="pip install 'varietal[pull]'",
        ) from error
    try:
        found: _Settings = ConfigObj(text.decode("utf-8").splitlines(), interpolation=False)
    except (ConfigObjError, UnicodeDecodeError) as error:
        raise InvalidError(
            f"not a configuration file of DVC: {' '.join(str(error).split())}",
            where=where,
            mend="correct it, or write it with `dvc config`",
        ) from error
    for section in (found[name] for name in found.sections):
        for key, value in section.items():
            if key.lower() in _PATHS and isinstance(value, str) and _is_relative(value):
                section[key] = os.path.abspath(home / value)  # noqa: PTH100 - as DVC does, links and all
    return found


def _is_relative(path: str) -> bool:
    return not _URL.match(path) and not path.startswith(("/", "~"))


def _write(path: Path, settings: _Settings) -> None:
    path.write_text("".join(f"{line}\n" for line in settings.write()), encoding="utf-8")
    path.chmod(0o600)
