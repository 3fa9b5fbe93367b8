"""Texts that the package carries: templates of a new repository, and the versions that the tool is tested with."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from registry import __version__

__all__ = ["constraints", "requirements", "template"]

_CHECKOUT = Path(__file__).parents[2]


def template(name: str) -> str:
    """The text of a template, as it is in ``builder/start/templates/``."""
    return (files("builder.start") / "templates" / name).read_text(encoding="utf-8")


def constraints() -> str:
    """The versions that this tool is tested with, in pip's form: carried by a wheel, in a checkout the file itself."""
    carried = files("builder.start") / "constraints.txt"
    found = carried if carried.is_file() else _CHECKOUT / "constraints.txt"
    pins = [line for line in found.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return "".join(f"{line}\n" for line in (f"# The versions that varietal {__version__} is tested with.", *pins))


def requirements() -> str:
    """What pins this tool, in pip's form."""
    return (
        "# The tool of this repository. Raise it in a request of its own: `varietal upgrade` says what that reruns.\n"
        f"varietal=={__version__}\n"
    )
