"""Texts that the package carries: templates of a new repository, and the versions that the tool is tested with."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Final

from registry import __version__
from registry.errors import InvalidError

__all__ = ["constraints", "own_pin", "requirements", "template"]

_CHECKOUT: Final = Path(__file__).parents[2]
_SHA256: Final = "[0-9a-f]{64}"
_TOOL: Final = re.compile(
    rf"varietal @ (?:https|file)://[^\s@#'\"\\]+#sha256={_SHA256}"
    rf"|varietal==[A-Za-z0-9.+!]+(?: --hash=sha256:{_SHA256})+"
)
_UNSAID: Final = """\
# Where this repository has its tool from, in one line, with its sha256. Until it is here, workflows fail.
# `varietal init --tool` writes it; by hand, one of these two forms:
#   varietal @ https://HOST/varietal-VERSION-py3-none-any.whl#sha256=DIGEST
#   varietal==VERSION --hash=sha256:DIGEST
"""
_SAID: Final = """\
# The tool of this repository. Raise it in a request of its own: `varietal upgrade` says what that reruns.
# pip install --require-hashes --no-deps -r requirements.txt
"""


def template(name: str) -> str:
    """The text of a template, as it is in ``builder/start/templates/``."""
    return (files("builder.start") / "templates" / name).read_text(encoding="utf-8")


def constraints() -> str:
    """The versions that this tool is tested with, in pip's form: carried by a wheel, in a checkout the file itself."""
    carried = files("builder.start") / "constraints.txt"
    found = carried if carried.is_file() else _CHECKOUT / "constraints.txt"
    pins = [line for line in found.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return "".join(f"{line}\n" for line in (f"# The versions that varietal {__version__} is tested with.", *pins))


def own_pin() -> str:
    """The version of this tool, as a constraint: where its parts are installed, no other one may take its place."""
    return f"varietal=={__version__}\n"


def requirements(tool: str) -> str:
    """What pins this tool, in pip's form.

    Args:
        tool: Where the tool is installed from, pinned by sha256; empty where nobody has said so. A name alone would
            have every workflow install whatever somebody put under it.

    Raises:
        InvalidError: It is not pinned, or has a password in it.
    """
    if not tool:
        return _UNSAID
    if _TOOL.fullmatch(tool) is None:
        raise InvalidError(
            "not a requirement that is pinned by sha256",
            where="--tool",
            mend="write 'varietal @ https://HOST/FILE.whl#sha256=DIGEST' or 'varietal==VERSION --hash=sha256:DIGEST'",
        )
    return f"{_SAID}{tool}\n"
