"""Workflows of a team's repository, for GitHub and GitLab: templates with the tool's own way to be installed.

Actions are pinned by commit here, in one place; docs/decisions/0015 says how a request is kept from what it must not
reach. ``python -m builder.start.workflows`` writes those of this repository itself.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from builder.start.packaged import template

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["HOSTS", "Host", "own_workflows", "workflow_texts"]

Host: TypeAlias = Literal["github", "gitlab"]
HOSTS: Final[tuple[Host, ...]] = ("github", "gitlab")
"""Whose workflows there are."""

_ACTIONS: Final = {
    "CHECKOUT": "actions/checkout@11bd71901bbe5b1630ceea73d27597364c9af683 # v4.2.2",
    "PYTHON": "actions/setup-python@a26af69be951a213d495a4c3e4e4022e16d87065 # v5.6.0",
    "UPLOAD": "actions/upload-artifact@ea165f8d65b6e75b540449e92b4886f43607fa02 # v4.6.2",
    "DOWNLOAD": "actions/download-artifact@d3f86a106a0bac45b974a628896c90dbdf5c8093 # v4.3.0",
}
_FILLED: Final = (
    """awk '/^varietal/ {found = 1} END {if (!found) {print "write into requirements.txt where varietal comes from, """
    """as the comment in it says"; exit 1}}' requirements.txt"""
)
# The tool by its sha256; then, with it in place, what it needs, in the versions that are pinned.
_TOOL: Final = (_FILLED, "pip install --quiet --require-hashes --no-deps -r requirements.txt")
_PINNED: Final = {
    "INSTALL": (*_TOOL, "pip install --quiet -c constraints.txt varietal"),
    "INSTALL_PULL": (*_TOOL, "pip install --quiet -c constraints.txt 'varietal[pull]'"),
    "INSTALL_BUILD": (*_TOOL, "pip install --quiet -c constraints.txt 'varietal[build]'"),
}
_CHECKED_OUT: Final = {
    "INSTALL": ("pip install --quiet -c constraints.txt .",),
    "INSTALL_PULL": ("pip install --quiet -c constraints.txt '.[pull]'",),
    "INSTALL_BUILD": ("pip install --quiet -c constraints.txt '.[build]'",),
}
_INSTALL: Final = re.compile(r"^(?P<lead> *- (?:run: )?)(?P<folder>\S*)@(?P<name>INSTALL\w*)@\n", re.MULTILINE)
_REQUESTS: Final = ("plan", "comment", "build", "gate", "promote", "retire", "tagged", "release", "renew")
_GITHUB: Final = ("check", *_REQUESTS)


def workflow_texts(hosts: Iterable[Host]) -> Mapping[str, str]:
    """The workflows of a team's repository, by path."""
    texts: dict[str, str] = {}
    for host in hosts:
        if host == "github":
            texts |= {_github(name): _filled(f"github/{name}.yml", _PINNED) for name in _GITHUB}
        else:
            texts[".gitlab-ci.yml"] = _filled("gitlab.yml", _PINNED)
    return texts


def own_workflows() -> Mapping[str, str]:
    """The workflows of this repository that are a team's, but for the tool, which is checked out with it."""
    return {_github(name): _filled(f"github/{name}.yml", _CHECKED_OUT) for name in _REQUESTS}


def _github(name: str) -> str:
    return f".github/workflows/{name}.yml"


def _filled(name: str, install: Mapping[str, tuple[str, ...]]) -> str:
    """A template's text: a line that installs becomes as many as that takes, each a step with the same lead."""

    def lines(found: re.Match[str]) -> str:
        lead, folder = found["lead"], found["folder"]
        calls = (f"{folder}{call}" if call.startswith("pip ") else call for call in install[found["name"]])
        return "".join(f"{lead}{call}\n" for call in calls)

    text = _INSTALL.sub(lines, template(name))
    for key, value in _ACTIONS.items():
        text = text.replace(f"@{key}@", value)
    return text


if __name__ == "__main__":
    for path, text in own_workflows().items():
        Path(path).write_text(text, encoding="utf-8")
