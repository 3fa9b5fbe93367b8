"""SSH keys for tests, made by ssh-keygen, and a git repository set up to sign with one."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.repositories import git

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["make_key", "public_line", "sign_as"]


def make_key(folder: Path, name: str) -> Path:
    """A new Ed25519 key without a passphrase; returns the private half, the public one is beside it."""
    key = folder / name
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(key)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return key


def public_line(key: Path) -> str:
    """Kind and key, without the comment."""
    return " ".join(key.with_name(f"{key.name}.pub").read_text().split()[:2])


def sign_as(root: Path, key: Path | None) -> None:
    """Have git sign tags with a key, or not at all."""
    git(root, "config", "tag.gpgSign", "true" if key is not None else "false")
    if key is not None:
        git(root, "config", "gpg.format", "ssh")
        git(root, "config", "user.signingKey", str(key))
