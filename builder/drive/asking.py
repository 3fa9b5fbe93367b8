"""Asks a process of ours and waits for its answer: before a build begins, what needs DVC and the network."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from registry.errors import Error, MachineError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["ask"]

_TIMEOUT_S = 600


def ask(module: str, *arguments: str, folder: Path, environment: Mapping[str, str], where: str) -> str:
    """Run a module of ours to its end, for what it answers.

    Args:
        module: Its dotted name.
        *arguments: Its arguments.
        folder: Where it stands.
        environment: All of its environment.
        where: Named in the errors.

    Raises:
        Error: What it ended with, by class.
        MachineError: It does not answer.
    """
    command = (sys.executable, "-P", "-m", module, *arguments)
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise MachineError("the remote did not answer", where=where, mend="check the network") from error
    if done.returncode:
        raise _reported(done.returncode, done.stderr, where)
    return done.stdout


def _reported(code: int, text: str, where: str) -> Error:
    """The error that another process of ours ended with."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    parts = {line.partition(": ")[0]: line.partition(": ")[2] for line in lines}
    kinds = {kind.exit_code: kind for kind in Error.__subclasses__()}
    first = next((line for line in lines if not line.startswith(("where: ", "mend: "))), "nothing was said")
    return kinds.get(code, MachineError)(
        first, where=parts.get("where", where), mend=parts.get("mend", "see the message")
    )
