"""Whether a promoter of a protected channel signed an assignment; only the tags that matter are looked at.

An assignment of a protected channel counts where

1. its tag is signed as git signs tags with SSH keys, by one of the keys in the channel's rule;
2. what was signed says the very name under which the tag is found: an old, signed tag that is put under a new name is
   not a new assignment. The commit and the message that are believed are those of the same object.

Signatures of other kinds never count, whatever git is set up to trust on this machine.

The rule is that of params.yaml on the main branch as it is known here now, not as it was when the tag was made: a key
that was taken out of the rule moves nothing any more.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from registry import yaml12
from registry.channels import ChannelRule, read_rules
from registry.errors import DeniedError
from registry.published import Published
from registry.record import BASES, manifest_file
from registry.ssh_signature import verify

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from registry.history import Repository
    from registry.published import Assignment
    from registry.releases import NewTag

__all__ = ["Signers", "create_assignment", "read_channel_rules", "read_published"]

_NAMESPACE = "git"  # what git's signatures are good for
_AT_ONCE = min(4, os.cpu_count() or 1)  # signatures looked at beside each other
_SIGNED_TAG = re.compile(
    rb"(?P<payload>object [0-9a-f]+\ntype commit\ntag (?P<name>[^\n]+)\ntagger [^\n]*\n\n.*?\n)"
    rb"(?P<signature>-----BEGIN SSH SIGNATURE-----\n[A-Za-z0-9+/=\n]+-----END SSH SIGNATURE-----\n)",
    re.DOTALL,
)


def read_published(repository: Repository, *variants: str) -> Published:
    """What a repository, or some variants of it, have published; protected channels are judged by signature.

    Raises:
        NotFoundError: There are assignments, and no main branch that says who may make them; raised when one is asked.
        InvalidError: The rules on the main branch cannot be read; raised when an assignment is asked for.
    """
    patterns = [f"{variant}{mark}*" for variant in variants for mark in "@#"]
    return Published.read(repository.tags(*patterns, messages=True), Signers(repository))


def read_channel_rules(repository: Repository) -> dict[str, ChannelRule]:
    """Who may move which channel, by params.yaml on the main branch; none where it has no rules.

    Raises:
        NotFoundError: No main branch is known.
        InvalidError: params.yaml there cannot be read.
    """
    path = str(manifest_file(BASES))
    commit = repository.resolve(repository.main_branch())
    data = next(repository.read_blobs([f"{commit}:{path}"]))
    where = f"{path} at {commit[:12]}, the main branch"
    return {} if data is None else read_rules(yaml12.load(data, where).value, where=where)


class Signers:
    """Judges assignments of one repository; each tag is asked about once.

    What is known is known of an object under a name: two tags never share a judgement, however alike they look.
    """

    def __init__(self, repository: Repository) -> None:
        """Nothing is read yet."""
        self._repository = repository
        self._rules: Mapping[str, ChannelRule] | None = None
        self._known: dict[tuple[str, str], str] = {}

    @property
    def rules(self) -> Mapping[str, ChannelRule]:
        """Who may move which channel."""
        if self._rules is None:
            self._rules = read_channel_rules(self._repository)
        return self._rules

    def refusals(self, assignments: Sequence[Assignment]) -> Sequence[str]:
        """For each, why it does not count; empty where it does.

        Raises:
            NotFoundError: No main branch is known.
            InvalidError: The rules cannot be read.
        """
        unknown = [one for one in assignments if _tag(one) not in self._known]
        for channel in {one.channel for one in unknown}:
            self._judge(channel, [one for one in unknown if one.channel == channel])
        return [self._known[_tag(one)] for one in assignments]

    def _judge(self, channel: str, assignments: Sequence[Assignment]) -> None:
        rule = self.rules.get(channel)
        if rule is None:
            self._known |= dict.fromkeys(map(_tag, assignments), "")
            return
        signed = {one.ref: one.id for one in assignments if one.signed}
        verified = _verified(self._repository, signed, rule)
        for one in assignments:
            unsigned = "" if one.signed else "its tag is not signed, and the channel is protected"
            foreign = "" if one.ref in verified else f"none of the promoters signed it: {', '.join(rule.promoters)}"
            self._known[_tag(one)] = unsigned or foreign


def _tag(assignment: Assignment) -> tuple[str, str]:
    """The tag of an assignment: its whole name, and the object that has it."""
    return assignment.ref, assignment.id


def create_assignment(repository: Repository, tag: NewTag, channel: str) -> None:
    """Make the tag of an assignment; where the channel is protected, signed, and judged as every reader will judge it.

    Raises:
        DeniedError: The key that git signs with is not that of a promoter; no tag is left.
        ConflictError: The tag exists.
        MachineError: git cannot make or sign it.
    """
    rule = read_channel_rules(repository).get(channel)
    if rule is None:
        repository.create_tag(tag.name, tag.commit, tag.message)
        return
    names = ", ".join(rule.promoters)
    if repository.ask("config", "--get", "gpg.format").stdout.strip() != b"ssh":
        raise DeniedError(
            f"{channel} is protected: {names} may move it, by tags signed with SSH keys",
            where="git config gpg.format",
            mend="`git config gpg.format ssh` and `git config user.signingKey ~/.ssh/KEY.pub`, of a key in params.yaml",
        )
    repository.create_tag(tag.name, tag.commit, tag.message, sign=True)
    made = {one.name: one.id for one in repository.tags(tag.name)}
    if tag.name not in _verified(repository, made, rule):
        repository.remove_tag(tag.name)
        raise DeniedError(
            f"the key that git signs with may not move {channel}: {names} may",
            where=f"channels.{channel}.promoters of params.yaml on the main branch",
            mend="ask one of them, or have your key added there by a reviewed change; no tag was made",
        )


def _verified(repository: Repository, tags: Mapping[str, str], rule: ChannelRule) -> frozenset[str]:
    """Those of the tags, object ids by name, that a promoter signed under the name that they have."""

    def holds(name: str, data: bytes | None) -> bool:
        match = _SIGNED_TAG.fullmatch(data or b"")
        if match is None or match["name"].decode(errors="replace") != name:
            return False
        return verify(match["payload"], match["signature"].decode("ascii"), rule.promoters.values(), _NAMESPACE)

    objects = [*repository.read_tag_objects(tags.values())]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = pool.map(holds, tags, objects)
        return frozenset(name for name, held in zip(tags, found, strict=True) if held)
