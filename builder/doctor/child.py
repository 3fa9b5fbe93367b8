"""Asks another process, so that nothing heavy is loaded here, and what hangs or crashes there ends there."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from registry.canonical import JSON

__all__ = ["ask_module", "ask_program"]


def ask_module(module: str, arguments: Sequence[str], *, root: Path, timeout_s: float) -> Mapping[str, JSON] | str:
    """Run a module of this package that prints one JSON object.

    Returns:
        The object; a text that says why there is none.
    """
    said = ask_program([sys.executable, "-m", module, *arguments], root=root, timeout_s=timeout_s)
    if said.startswith("{"):
        found = json.loads(said)
        return dict(found)
    return said or "it printed nothing"


def ask_program(command: Sequence[str], *, root: Path, timeout_s: float) -> str:
    """What a program printed; where it failed, its last complaint; nothing where there is no such program."""
    try:
        done = subprocess.run(
            command, cwd=root, capture_output=True, text=True, check=False, timeout=timeout_s, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        return ""
    except subprocess.TimeoutExpired:
        return f"no answer within {timeout_s:.0f} s"
    if done.returncode == 0:
        return done.stdout.strip()
    lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"exit code {done.returncode}"
