"""Python packages: this tool beside the one that the repository pins, its parts beside those that it is tested with."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING, Final

from builder.doctor.finding import failed, good, poor
from builder.load import load
from builder.start.packaged import constraints
from builder.start.recipes import revisions
from builder.start.schemas import stale_schemas
from registry import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from builder.doctor.finding import Finding

__all__ = ["judge_versions", "package_findings", "pins"]

_PIN: Final = re.compile(r"^\s*([A-Za-z0-9._-]+)\s*==\s*([A-Za-z0-9.+!-]+)", re.MULTILINE)


def package_findings(root: Path, *, build: bool) -> Iterator[Finding]:
    """What there is to say of the packages.

    Raises:
        InvalidError: A manifest is at fault.
        OSError: A file cannot be read.
    """
    yield from _tool_findings(root)
    own = root / "constraints.txt"
    tested = pins(own.read_text(encoding="utf-8") if own.is_file() else constraints())
    wanted = sorted(
        {_normal(re.split(r"[^\w.-]", one, maxsplit=1)[0]) for one in requires("varietal") or [] if _is_part(one)}
    )
    yield judge_versions({name: _version(name) for name in wanted}, tested, build=build)


def pins(text: str) -> dict[str, str]:
    """Version by package, of a file in pip's form that pins with ``==``."""
    return {_normal(name): number for name, number in _PIN.findall(text)}


def judge_versions(found: Mapping[str, str], tested: Mapping[str, str], *, build: bool) -> Finding:
    """Hold what is installed against what is tested. Pure.

    Args:
        found: Version by package; empty where it is not installed.
        tested: Version by package.
        build: Whether this machine shall build.
    """
    missing = [name for name, number in found.items() if not number]
    if missing and build:
        return failed(
            "packages", f"not installed: {', '.join(missing)}", "pip install -c constraints.txt 'varietal[build]'"
        )
    other = [
        f"{name} {number}, tested is {tested[name]}"
        for name, number in found.items()
        if number and name in tested and number.partition("+")[0] != tested[name]
    ]
    if other:
        mend = "pip install -c constraints.txt 'varietal[build]'; a training under other versions may give other bytes"
        return poor("packages", "; ".join(other), mend)
    here = len(found) - len(missing)
    return good("packages", f"{here} of {len(found)} that a build uses are here, each as tested")


def _tool_findings(root: Path) -> Iterator[Finding]:
    files = [root / name for name in ("constraints.txt", "requirements.txt")]  # the latter may name a file by its URL
    pinned = pins("".join(path.read_text(encoding="utf-8") for path in files if path.is_file())).get("varietal", "")
    if pinned and pinned != __version__:
        said = f"{__version__}, the repository pins {pinned}"
        yield poor("varietal", said, "pip install --require-hashes --no-deps -r requirements.txt")
    else:
        yield good("varietal", f"{__version__}{', as the repository pins it' if pinned else ''}")
    found = revisions(load(root).project)
    if newer := [str(one) for one in found if one.is_newer]:
        yield failed("recipes", "; ".join(newer), "install the tool that this repository pins")
    elif older := [str(one) for one in found if one.is_older]:
        yield poor("recipes", "; ".join(older), "`varietal upgrade --dry-run` says what raising them reruns")
    else:
        yield good("recipes", "those of this tool")
    if stale := stale_schemas(root):
        yield poor("schemas", f"another tool's: {', '.join(stale)}", "`varietal upgrade` writes them anew")


def _is_part(requirement: str) -> bool:
    return "extra ==" not in requirement or re.search("extra == ['\"]build['\"]", requirement) is not None


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
