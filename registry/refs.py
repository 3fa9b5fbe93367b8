"""The grammar of refs and tags: how a person points at an artifact. ``parse`` and ``str`` are inverse.

======================  =====================================================
``support@v1.2.0``      a release
``support#prod``        the release that a channel points at
``support:final``       a stage in the work tree; ``bases:tiny`` for a base
``support:final@main``  a stage at a git revision
``sha256:0a1b2c3d``     an artifact, by 8 or more digits of its digest
======================  =====================================================

Tags are in GTO's grammar: ``support@v1.2.0`` for a release, ``support#prod#3`` for the third assignment. GTO's
withdrawals (``support@v1.2.0!``, ``support#prod!#4``) are read, never written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from registry.errors import InvalidError

__all__ = [
    "ByDigest",
    "Channel",
    "Ref",
    "Stage",
    "TagName",
    "Version",
    "check_channel",
    "check_variant",
    "check_version",
    "is_variant",
    "is_version",
    "parse",
    "parse_tag",
]

_NAME = r"[a-z](?:[a-z0-9-]{0,62}[a-z0-9])?"  # at most 64, as in a manifest
_NUMBER = r"(?:0|[1-9][0-9]{0,17})"  # Python refuses to read numbers of thousands of digits
_PRE_RELEASE_PART = rf"(?:{_NUMBER}|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)"
_VERSION = rf"v{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-{_PRE_RELEASE_PART}(?:\.{_PRE_RELEASE_PART})*)?"
_REVISION = r"[!-,.-9;-~][!-9;-~]*"  # printable, no colon, no dash in front: never an option, never rev:path
_PREFIX = r"[0-9a-f]{8,64}"
_RESERVED = "sha256"

_REF = re.compile(
    rf"sha256:(?P<prefix>{_PREFIX})"
    rf"|(?P<variant>{_NAME})(?:@(?P<version>{_VERSION})|#(?P<channel>{_NAME})"
    rf"|:(?P<stage>{_NAME})(?:@(?P<revision>{_REVISION}))?)"
)
_TAG = re.compile(
    rf"(?P<variant>{_NAME})(?:@(?P<version>{_VERSION})(?P<off>!?)"
    rf"|#(?P<channel>{_NAME})(?P<unassigned>!?)#(?P<number>[1-9][0-9]{{0,17}}))"
)


@dataclass(frozen=True, order=True, slots=True)
class Version:
    """A release: ``support@v1.2.0``."""

    variant: str
    version: str

    def __post_init__(self) -> None:
        """Refuse what would not read back.

        Raises:
            InvalidError: A part breaks the grammar.
        """
        check_variant(self.variant)
        check_version(self.version)

    def __str__(self) -> str:
        """The ref, and the name of its tag."""
        return f"{self.variant}@{self.version}"


@dataclass(frozen=True, order=True, slots=True)
class Channel:
    """What a channel points at: ``support#prod``."""

    variant: str
    channel: str

    def __post_init__(self) -> None:
        """Refuse what would not read back.

        Raises:
            InvalidError: A part breaks the grammar.
        """
        check_variant(self.variant)
        check_channel(self.channel)

    def __str__(self) -> str:
        """The ref."""
        return f"{self.variant}#{self.channel}"


@dataclass(frozen=True, order=True, slots=True)
class Stage:
    """A stage of a variant: ``support:final``; with a revision as git has it there, else as the work tree has it."""

    variant: str
    stage: str
    revision: str = ""

    def __post_init__(self) -> None:
        """Refuse what would not read back.

        Raises:
            InvalidError: A part breaks the grammar.
        """
        check_variant(self.variant)
        _check(self.stage, _NAME, "stage name", "at most 64 lower-case letters, digits and dashes, a letter first")
        if self.revision:
            _check(self.revision, _REVISION, "git revision", "a branch, a tag or a commit")

    def __str__(self) -> str:
        """The ref."""
        return f"{self.variant}:{self.stage}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True, order=True, slots=True)
class ByDigest:
    """An artifact by its digest, or by 8 or more of its first digits."""

    prefix: str

    def __post_init__(self) -> None:
        """Refuse what would not read back.

        Raises:
            InvalidError: These are no 8 to 64 lower-case hexadecimal digits.
        """
        _check(self.prefix, _PREFIX, "digest", "8 to 64 lower-case hexadecimal digits after sha256:")

    def __str__(self) -> str:
        """The ref."""
        return f"sha256:{self.prefix}"


Ref: TypeAlias = Version | Channel | Stage | ByDigest


@dataclass(frozen=True, kw_only=True, slots=True)
class TagName:
    """The name of a tag of ours, read.

    Attributes:
        variant: The variant.
        version: The release; empty for an assignment.
        channel: The channel; empty for a release.
        number: Number of an assignment, from 1; counted over all channels of the variant, as GTO does.
        withdrawn: GTO took a release or an assignment back.
    """

    variant: str
    version: str = ""
    channel: str = ""
    number: int = 0
    withdrawn: bool = False

    def __str__(self) -> str:
        """The tag's name in git."""
        off = "!" if self.withdrawn else ""
        if self.version:
            return f"{self.variant}@{self.version}{off}"
        return f"{self.variant}#{self.channel}{off}#{self.number}"


def parse(text: str) -> Ref:
    """Read a ref.

    Raises:
        InvalidError: It is none of the forms above.
    """
    match = _REF.fullmatch(text)
    if match is None or match["variant"] == _RESERVED:
        raise InvalidError(
            f"{text!r} is not a ref",
            where="ref",
            mend="write name@v1.2.0, name#channel, name:stage, name:stage@revision or sha256: and 8 or more digits",
        )
    if match["prefix"]:
        return ByDigest(match["prefix"])
    if match["version"]:
        return Version(match["variant"], match["version"])
    if match["channel"]:
        return Channel(match["variant"], match["channel"])
    return Stage(match["variant"], match["stage"], match["revision"] or "")


def parse_tag(name: str) -> TagName | None:
    """Read the name of a tag; ``None`` where it is none of ours."""
    match = _TAG.fullmatch(name)
    if match is None or match["variant"] == _RESERVED:
        return None
    return TagName(
        variant=match["variant"],
        version=match["version"] or "",
        channel=match["channel"] or "",
        number=int(match["number"] or 0),
        withdrawn=bool(match["off"] or match["unassigned"]),
    )


def check_variant(text: str) -> str:
    """Return a variant's name.

    Raises:
        InvalidError: It breaks the grammar, or is ``sha256``, which starts a digest.
    """
    if text == _RESERVED:
        raise InvalidError(f"{text!r} is not a variant", where="ref", mend="it starts a digest; take another name")
    return _check(text, _NAME, "variant", "at most 64 lower-case letters, digits and dashes, a letter first")


def is_variant(text: str) -> bool:
    """Whether a variant can be called so."""
    return text != _RESERVED and re.fullmatch(_NAME, text) is not None


def is_version(text: str) -> bool:
    """Whether a release can be called so."""
    return re.fullmatch(_VERSION, text) is not None


def check_channel(text: str) -> str:
    """Return a channel's name.

    Raises:
        InvalidError: It breaks the grammar.
    """
    return _check(text, _NAME, "channel", "at most 64 lower-case letters, digits and dashes, a letter first")


def check_version(text: str) -> str:
    """Return a version.

    Raises:
        InvalidError: It is not a semantic version with ``v`` in front, or has build metadata, which has no order.
    """
    return _check(text, _VERSION, "version", "v1.2.0, or v1.2.0-rc.1 for a pre-release")


def _check(text: str, pattern: str, what: str, form: str) -> str:
    if re.fullmatch(pattern, text) is None:
        raise InvalidError(f"{text!r} is not a {what}", where="ref", mend=f"write {form}")
    return text
