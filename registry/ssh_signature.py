"""Signatures by ``ssh-keygen``: OpenSSH's own format, keys in files, in an agent or on a hardware token.

A signature is made for a *namespace*, which is part of what is signed: one that git made for a tag is none for a
descriptor, and the other way round.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import DeniedError, MachineError, NotFoundError
from registry.plain_file import read_plain
from registry.ssh_key import PublicKey

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["public_key_of", "sign", "verify"]

_TIMEOUT_S = 120.0  # a person may have to touch a token
_SIGNER = "varietal"
_MAX_KEY_BYTES = 64 << 10


def sign(data: bytes, key: Path, namespace: str) -> str:
    """Sign bytes.

    Args:
        data: What is signed.
        key: A private key, or a public one whose private half an agent has.
        namespace: What the signature is good for.

    Raises:
        NotFoundError: There is no such key.
        DeniedError: The key cannot be used.
        MachineError: ``ssh-keygen`` is missing or does not answer.
    """
    if not key.is_file():
        raise NotFoundError("there is no such key", where=str(key), mend="make one: `ssh-keygen -t ed25519 -f FILE`")
    done = _run("-Y", "sign", "-q", "-f", str(key), "-n", namespace, data=data)
    text = done.stdout.decode(errors="replace")
    if done.returncode or not text.startswith("-----BEGIN SSH SIGNATURE-----"):
        raise DeniedError(
            f"ssh-keygen could not sign: {_last_line(done.stderr)}",
            where=str(key),
            mend="name a private key that you can read, or one that `ssh-add -l` lists",
        )
    return text


def verify(data: bytes, signature: str, keys: Iterable[PublicKey], namespace: str) -> bool:
    """Whether one of these keys made the signature, for this namespace and over these bytes.

    Raises:
        MachineError: ``ssh-keygen`` is missing or does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="varietal-") as name:
        allowed, file = Path(name) / "allowed", Path(name) / "signature"
        lines = "".join(f'{_SIGNER} namespaces="{namespace}" {key}\n' for key in keys)
        allowed.write_text(lines, encoding="ascii")
        file.write_text(signature, encoding="utf-8")
        arguments = ("-Y", "verify", "-f", str(allowed), "-I", _SIGNER, "-n", namespace, "-s", str(file))
        return _run(*arguments, data=data).returncode == 0


def public_key_of(key: Path) -> PublicKey:
    """The public half of a key: the file itself, the ``.pub`` file beside it, or what ``ssh-keygen`` makes of it.

    Raises:
        NotFoundError: There is no such key.
        DeniedError: It cannot be read as a key.
        InvalidError: It is of a kind that is too weak.
    """
    for path in (key, key.with_name(f"{key.name}.pub")):
        if path.is_file():
            text = read_plain(path, max_bytes=_MAX_KEY_BYTES).decode("ascii", errors="replace")
            if not text.startswith("-----"):
                return PublicKey.parse(text.strip(), where=str(path))
    if not key.is_file():
        raise NotFoundError("there is no such key", where=str(key), mend="make one: `ssh-keygen -t ed25519 -f FILE`")
    done = _run("-y", "-f", str(key))
    if done.returncode:
        raise DeniedError(
            f"ssh-keygen: {_last_line(done.stderr)}", where=str(key), mend="name a private key that you can read"
        )
    return PublicKey.parse(done.stdout.decode(errors="replace").strip(), where=str(key))


def _run(*arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["ssh-keygen", *arguments],
            input=data,
            capture_output=True,
            check=False,
            timeout=_TIMEOUT_S,
            env=os.environ | {"LC_ALL": "C"},
        )
    except OSError as error:
        raise MachineError(
            "ssh-keygen is not installed: signatures are made and checked with it",
            where="PATH",
            mend="install OpenSSH's client, 8.2 or later (`openssh-client`)",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise MachineError(
            f"ssh-keygen did not answer within {_TIMEOUT_S:.0f} s", where="ssh-keygen", mend="unlock the key and repeat"
        ) from error


def _last_line(text: bytes) -> str:
    lines = [line.strip() for line in text.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
