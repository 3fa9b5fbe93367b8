"""DVC: its version, and those of its settings that hurt."""

from __future__ import annotations

import configparser
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from builder.doctor.finding import failed, good, poor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from builder.doctor.finding import Finding

__all__ = ["Settings", "dvc_findings", "read_settings", "remotes", "setting_findings"]

Settings = dict[str, dict[str, str]]
"""Value by key, by section, of all of DVC's configuration files; the nearer one wins."""

_FILES: Final = (Path("/etc/xdg/dvc/config"), Path("~/.config/dvc/config"))
_OLDEST: Final = (3, 67)
_REMOTE: Final = re.compile(r"'?remote \"(?P<name>.+)\"'?")
_ON: Final = frozenset({"true", "1", "yes", "on"})


def dvc_findings(root: Path, *, build: bool) -> Iterator[Finding]:
    """What there is to say of DVC.

    Args:
        root: Root of the repository.
        build: Whether this machine shall build.
    """
    try:
        found = version("dvc")
    except PackageNotFoundError:
        mend = "pip install 'varietal[build]', or 'varietal[pull]' where nothing is built"
        yield (failed if build else poor)("DVC", "not installed", mend)
    else:
        numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:2])
        if numbers < _OLDEST or numbers[0] != _OLDEST[0]:
            yield failed("DVC", f"{found}, which this tool is not made for", "pip install 'dvc>=3.67,<4'")
        else:
            yield good("DVC", found)
    if not (root / ".dvc").is_dir():
        yield failed(
            "DVC settings", "the repository has no .dvc", "`dvc init`, then `dvc remote add --default NAME URL`"
        )
        return
    try:
        settings = read_settings(root)
    except (configparser.Error, UnicodeDecodeError, OSError) as error:
        said = f"cannot be read: {' '.join(str(error).split())}"
        yield failed("DVC settings", said, "correct .dvc/config, or write it with `dvc config`")
        return
    yield from setting_findings(settings)


def read_settings(root: Path) -> Settings:
    """DVC's settings as they hold in a repository.

    Raises:
        configparser.Error: A file is none of DVC's.
        UnicodeDecodeError: The same.
        OSError: A file cannot be read.
    """
    settings: Settings = {}
    for path in (*(one.expanduser() for one in _FILES), root / ".dvc/config", root / ".dvc/config.local"):
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        parser.read(path, encoding="utf-8")
        for section in parser.sections():
            known = {key: value.strip("'\" ") for key, value in parser.items(section)}
            settings.setdefault(section, {}).update(known)
    return settings


def remotes(settings: Settings) -> dict[str, Mapping[str, str]]:
    """Settings of each remote, by its name."""
    found = ((_REMOTE.fullmatch(section), values) for section, values in settings.items())
    return {match["name"]: values for match, values in found if match is not None}


def setting_findings(settings: Settings) -> Iterator[Finding]:
    """Settings that hurt. Pure."""
    core, cache, known = settings.get("core", {}), settings.get("cache", {}), remotes(settings)
    before = len(problems := [*_cache_problems(cache), *_core_problems(core)])
    default = core.get("remote", "")
    if default not in known:
        said = f"the default remote {default!r} is not declared" if default else "there is no default remote"
        problems.append((failed if default else poor)("DVC remote", said, "`dvc remote add --default NAME URL`"))
    for name, values in known.items():
        if values.get("verify", "").lower() not in _ON:
            said = f"remote {name!r} is not verified: DVC takes what it gives for good without hashing it"
            problems.append(poor("DVC remote", said, f"`dvc remote modify {name} verify true`"))
    yield from problems
    if not before:
        yield good("DVC settings", "none that hurts")


def _cache_problems(cache: Mapping[str, str]) -> Iterator[Finding]:
    types = [one.strip() for one in cache.get("type", "reflink,copy").split(",")]
    if "symlink" in types:
        said = "cache.type has symlink: an artifact of symbolic links is refused, and breaks with the cache"
        yield failed("DVC settings", said, "`dvc config cache.type reflink,hardlink,copy`")
    elif "hardlink" not in types:
        said = f"cache.type is {','.join(types)}: without reflinks every artifact is stored twice"
        yield poor("DVC settings", said, "`dvc config cache.type reflink,hardlink,copy`")


def _core_problems(core: Mapping[str, str]) -> Iterator[Finding]:
    if core.get("autostage", "").lower() in _ON:
        said = "core.autostage is on: DVC puts files into git's index that nobody asked for"
        yield poor("DVC settings", said, "`dvc config --unset core.autostage`")
    if core.get("hardlink_lock", "").lower() in _ON:
        said = "core.hardlink_lock is on: a killed build leaves a lock that nobody breaks"
        yield poor("DVC settings", said, "`dvc config --unset core.hardlink_lock`, unless the disk is a network's")
