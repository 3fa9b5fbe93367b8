"""What names, paths, commits and digests look like in a manifest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeAlias

from builder.shapes import Text, unexpected
from registry.digest import Digest
from registry.errors import InvalidError
from registry.ssh_key import KEY_PATTERN, PublicKey

if TYPE_CHECKING:
    from builder.shapes import Reading
    from registry.canonical import JSON
    from registry.yaml12 import KeyPath

__all__ = [
    "BASE",
    "VARIANT_NAME",
    "ArtifactDigest",
    "ArtifactName",
    "BaseKey",
    "Commit",
    "HubName",
    "Label",
    "Name",
    "Release",
    "RepositoryPath",
    "Sha256",
    "SshKey",
    "VariantName",
]

BASE = "base"
"""What a stage calls the manifest's own base."""

_NAME = "[a-z](?:[a-z0-9-]*[a-z0-9])?"
_NAME_WORDS = "a name"
_NAME_MEND = "rename it: small letters, digits and hyphens, a letter first, no hyphen last"
_LABEL = "[a-z][a-z0-9_-]*"
_VERSION = r"v(?:0|[1-9][0-9]*)\.(?:0|[1-9][0-9]*)\.(?:0|[1-9][0-9]*)(?:-[0-9A-Za-z.-]+)?"
# What the pipelines make, and DVC removes before it makes it again: nothing that is anyone's only copy may lie there.
_MADE = r"(?!bases(?:/|$))(?!models/[^/]*/(?:artifacts|records)(?:/|$))"
# One segment of a path: not `.`, `..` nor a folder of git, DVC or Varietal, and nothing that DVC would expand.
_SEGMENT = r"(?!\.{1,2}(?:/|$))(?!\.(?:git|dvc|varietal)(?:/|$))[^/\\$\x00-\x1f\x7f]+"

Name: TypeAlias = Annotated[str, Text(pattern=_NAME, expected=_NAME_WORDS, mend=_NAME_MEND, max_length=64)]
VARIANT_NAME = Text(pattern=_NAME, expected=_NAME_WORDS, mend=_NAME_MEND, max_length=64, reserved=("bases", "sha256"))
"""A variant's name, for its folder."""
VariantName: TypeAlias = Annotated[str, VARIANT_NAME]
ArtifactName: TypeAlias = Annotated[
    str, Text(pattern=_NAME, expected=_NAME_WORDS, mend=_NAME_MEND, max_length=64, reserved=(BASE, "records"))
]
BaseKey: TypeAlias = Annotated[
    str, Text(pattern=_NAME, expected=_NAME_WORDS, mend=_NAME_MEND, max_length=64, reserved=("records",))
]
Label: TypeAlias = Annotated[
    str,
    Text(
        pattern=_LABEL,
        expected="a label",
        mend="rename it: small letters, digits, hyphens and underscores, a letter first",
        max_length=64,
    ),
]
RepositoryPath: TypeAlias = Annotated[
    str,
    Text(
        pattern=f"{_MADE}{_SEGMENT}(?:/{_SEGMENT})*",
        expected="a path within the repository, from its root",
        mend="put it into the repository, outside of bases/ and models/*/artifacts/, and write its path from the root",
        max_length=1024,
    ),
]
HubName: TypeAlias = Annotated[
    str,
    Text(
        pattern=r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*",
        expected="organisation/name",
        max_length=200,
    ),
]
Commit: TypeAlias = Annotated[
    str,
    Text(
        pattern="[0-9a-f]{40}",
        expected="a commit of 40 hexadecimal digits",
        mend="a branch or a tag can move: run `varietal pin`, or write the commit that it points at",
    ),
]
Sha256: TypeAlias = Annotated[
    Digest,
    Text(
        pattern="[0-9a-f]{64}",
        expected="a SHA-256 of 64 lower-case hexadecimal digits",
        mend="run `varietal pin`, which writes the folder's digest",
        make=Digest,
    ),
]
ArtifactDigest: TypeAlias = Annotated[
    Digest,
    Text(
        pattern="sha256:[0-9a-f]{64}",
        expected="sha256: and 64 lower-case hexadecimal digits",
        mend="copy the artifact digest that `varietal show` prints for the release",
        make=Digest.parse,
    ),
]
Release: TypeAlias = Annotated[
    str,
    Text(
        pattern=f"{_NAME}@{_VERSION}",
        expected="a release such as support@v1.2.0",
        mend="write the variant, @ and the version; or name a stage of it with `stage`",
        max_length=128,
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class _KeyText(Text):
    """A public key: of the right form, and one inside too, which no pattern tells."""

    def read(self, value: JSON, path: KeyPath, reading: Reading) -> object:
        """The line as it stands."""
        before = len(reading.faults)
        found = Text.read(self, value, path, reading)
        if len(reading.faults) == before:
            try:
                PublicKey.parse(str(found), where="")
            except InvalidError:
                return unexpected(self, value, path, reading, self.mend)
        return found


SshKey: TypeAlias = Annotated[
    str,
    _KeyText(
        pattern=KEY_PATTERN,
        expected="an SSH public key",
        mend="copy the line of the `.pub` file that `ssh-keygen -t ed25519` made; its comment may be one word",
        max_length=8192,
    ),
]
