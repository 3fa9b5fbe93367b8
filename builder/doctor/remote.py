"""Remotes: whether one small object can be written, read and removed."""

from __future__ import annotations

import configparser
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from builder.doctor.child import ask_module
from builder.doctor.dvc import read_settings, remotes
from builder.doctor.finding import failed, good, poor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from builder.doctor.finding import Finding
    from registry.canonical import JSON

__all__ = ["judge_remote", "remote_findings"]

_TIMEOUT_S: Final = 60.0
_QUARANTINE: Final = "quarantine"


def remote_findings(root: Path, *, build: bool, request: bool = False) -> Iterator[Finding]:
    """What there is to say of the default remote, and of the one for requests where there is one.

    Args:
        root: Root of the repository.
        build: Whether this machine shall build.
        request: Whether it shall build requests.
    """
    try:
        settings = read_settings(root)
    except (configparser.Error, UnicodeDecodeError, OSError):
        return  # said already, of the settings
    known = remotes(settings)
    default = settings.get("core", {}).get("remote", "")
    wanted = [name for name in (default, _QUARANTINE) if name in known]
    if request and _QUARANTINE not in known:
        said = "there is none, and the bytes of a request go nowhere else"
        yield failed(f"remote {_QUARANTINE!r}", said, f"`dvc remote add {_QUARANTINE} URL`, on main")
    if wanted and find_spec("dvc") is None:
        return  # the same, of DVC
    for name in wanted:
        answer = ask_module("builder.doctor.remote_probe", [str(root), name], root=root, timeout_s=_TIMEOUT_S)
        yield judge_remote(name, answer, must_write=build and (name == _QUARANTINE or not request), request=request)


def judge_remote(name: str, answer: Mapping[str, JSON] | str, *, must_write: bool, request: bool = False) -> Finding:
    """What the answer of the probe means. Pure.

    Args:
        name: The remote.
        answer: What the probe found, or why it found nothing.
        must_write: Whether this machine shall build what goes there.
        request: Whether it shall build requests, which must not reach what was released.
    """
    subject = f"remote {name!r}"
    problem = answer if isinstance(answer, str) else str(answer["problem"])
    if isinstance(answer, str) or not answer["reads"]:
        mend = f"check its URL, the network and the credentials (`dvc remote modify --local {name} ...`)"
        return failed(subject, f"cannot be reached: {problem}", mend)
    if answer["writes"] and request and not must_write:
        said = "can be written, and what a request makes should reach quarantine alone"
        return poor(subject, said, f"give this machine credentials that read: `dvc remote modify --local {name} ...`")
    if answer["writes"]:
        return good(subject, "an object was written, read and removed")
    mend = f"give this machine the right to write: `dvc remote modify --local {name} ...`"
    if must_write:
        return failed(subject, f"can be read, not written: {problem}", mend)
    return good(subject, f"can be read, not written, which is right here: {problem}")
