"""What the origin means by turning a push down: lost to another, not allowed, or not reached. Text in, an error out.

Whoever may not push is told why in the words of the server's hook or rule, which git prints before its own.
"""

from __future__ import annotations

import re

from registry.errors import DeniedError, Error, TransportError
from registry.history import last_line, without_secrets

__all__ = ["already_there", "push_refusal", "was_lost"]

_MOST_CHARACTERS = 400
_LOST = re.compile(r"stale info|fetch first|non-fast-forward|failed to lock|cannot lock ref|reference already exists")
_THERE = re.compile(r"\[rejected\].*already exists|cannot lock ref .*reference already exists")
_DECLINED = re.compile(r"\[remote rejected\].*\((.*(?:declined|denied|prohibited|protected|not allowed|hook).*)\)")
_DENIED = re.compile(
    r"protected (?:branch|tag)|hook declined|declined due to|denied|prohibited|not allowed|authentication failed"
    r"|could not read username|error: 40[13]",
    re.IGNORECASE,
)


def was_lost(said: bytes) -> bool:
    """Whether another was faster: a ref is not where it was to be moved from."""
    text = _own_words(said)
    return _DECLINED.search(text) is None and _LOST.search(text) is not None


def already_there(said: bytes) -> bool:
    """Whether the origin has a tag of one of these names."""
    text = _own_words(said)
    return _DECLINED.search(text) is None and _THERE.search(text) is not None


def push_refusal(said: bytes, *, where: str, denied: str, away: str) -> Error:
    """The error of a push, or of a question to the origin, that did not succeed.

    Args:
        said: What git printed, with the lines of ``--porcelain`` that begin with ``!``.
        where: Named in the error.
        denied: Advice where the origin does not let us.
        away: Advice where it does not answer.

    Returns:
        A DeniedError with the server's reason, or a TransportError.
    """
    text = said.decode(errors="replace")
    declined = _DECLINED.search(text)
    if declined is None and _DENIED.search(text) is None:
        return TransportError(f"git: {last_line(said)}", where=where, mend=away)
    reason = _servers_words(text) or last_line(said)
    what = f"the origin refuses it ({declined[1]}): {reason}" if declined else f"git: {last_line(said)}"
    return DeniedError(what, where=where, mend=denied)


def _servers_words(text: str) -> str:
    """What the server's hook printed, in one line fit to be shown."""
    lines = [" ".join(line.removeprefix("remote:").split()) for line in text.splitlines() if line.startswith("remote:")]
    said = without_secrets("; ".join(line for line in lines if line))
    return said if len(said) <= _MOST_CHARACTERS else f"{said[:_MOST_CHARACTERS]}..."


def _own_words(said: bytes) -> str:
    """What git said itself, and its errors at the other end, but nothing that a hook made up."""
    lines = said.decode(errors="replace").splitlines()
    return "\n".join(line for line in lines if not line.startswith("remote:") or line.startswith("remote: error:"))
