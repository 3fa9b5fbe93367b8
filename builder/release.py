"""Gathers the facts that a gate and a release are judged by; the rules themselves are the registry's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.freshness import stale
from builder.graph import Address, build_graph
from builder.load import load
from registry.errors import InvalidError, NotFoundError
from registry.gate import judge
from registry.history import Repository
from registry.lock import Lock
from registry.published import Published
from registry.record import Record, artifact_folder, git_record, lock_file, manifest_file
from registry.refs import Version, parse
from registry.releases import Proposal, release
from registry.remote import DvcRemote
from registry.transfer import Transfer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from builder.load import Workspace
    from builder.manifest import Manifest
    from registry.canonical import JSON
    from registry.gate import Judgement
    from registry.releases import NewTag
    from registry.store import Store

__all__ = ["Verdict", "judge_variant", "release_variant"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the gate says of a variant as it is in the work tree.

    Attributes:
        variant: The variant.
        judgements: One a check.
        stale: Why its lock is not what its manifest asks for; empty where it is.
    """

    variant: str
    judgements: tuple[Judgement, ...]
    stale: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing stands against a release."""
        return not self.stale and all(one.passed for one in self.judgements)

    def to_json(self) -> dict[str, JSON]:
        """The shape of ``varietal gate --json``."""
        return {
            "variant": self.variant,
            "passed": self.passed,
            "checks": [
                {
                    "stage": one.stage,
                    "metric": one.metric,
                    "bound": one.bound,
                    "value": one.value,
                    "against": one.against,
                    "passed": one.passed,
                }
                for one in self.judgements
            ],
            "stale": list(self.stale),
        }


def judge_variant(root: Path, variant: str) -> Verdict:
    """Judge a variant from its manifest, locks and records, all in git.

    Raises:
        NotFoundError: There is no such variant.
        InvalidError: A manifest, a lock or a record breaks its rules.
    """
    workspace = load(root, only=variant)
    return _judge(root, workspace, _manifest(workspace, variant))


def release_variant(root: Path, ref: str, remote: str, *, store: Store, say: Callable[[str], None]) -> NewTag:
    """Tag the commit that is checked out as a version of a variant.

    Args:
        root: Root of the repository.
        ref: ``name@v1.2.0``.
        remote: DVC remote that must have the bytes; empty for the default one.
        store: Local content store.
        say: Tells the person at the terminal.

    Raises:
        InvalidError: ``ref`` is not a version.
        NotFoundError: There is no such variant, it was not built, or there is no remote.
        ConflictError: The version exists.
        RefusedError: A rule is broken; all that are, are listed.
        TransportError: The remote does not answer.
    """
    version = parse(ref)
    if not isinstance(version, Version):
        raise InvalidError(f"{ref} is not a version", where="varietal release", mend="write name@v1.0.0")
    workspace = load(root, only=version.variant)
    manifest = _manifest(workspace, version.variant)
    verdict = _judge(root, workspace, manifest)
    repository = Repository(root)
    records = _records(root, manifest)
    record = records.get(manifest.release)
    tag = release(
        Proposal(
            ref=version,
            commit=repository.head(),
            records=records,
            stage=manifest.release,
            judgements=verdict.judgements,
            on_main=repository.is_ancestor("HEAD", repository.main_branch()),
            changes=repository.changes(),
            stale=verdict.stale,
            missing=_missing(root, record, DvcRemote(root, remote), store, say) if record is not None else (),
        ),
        Published.read(repository.tags(f"{version.variant}@*", f"{version.variant}#*", messages=True)),
    )
    repository.create_tag(tag.name, tag.commit, tag.message)
    return tag


def _manifest(workspace: Workspace, variant: str) -> Manifest:
    found = workspace.manifests.get(variant)
    if found is None:
        raise NotFoundError(
            f"there is no variant {variant!r}",
            where=str(manifest_file(variant)),
            mend=f"there are {', '.join(workspace.manifests) or 'none yet: write a manifest'}",
        )
    return found


def _judge(root: Path, workspace: Workspace, manifest: Manifest) -> Verdict:
    stages = {manifest.release} | {check.stage for check in manifest.checks or ()}
    addresses = [Address(variant=manifest.variant, stage=stage) for stage in sorted(stages)]
    return Verdict(
        variant=manifest.variant,
        judgements=judge(manifest.checks, _records(root, manifest)),
        stale=stale(root, build_graph(workspace), addresses),
    )


def _records(root: Path, manifest: Manifest) -> Mapping[str, Record]:
    """The records in git of a variant's stages and imports, as the work tree has them."""
    found: dict[str, Record] = {}
    for stage in (*manifest.stages, *manifest.adapters):
        path = root / git_record(manifest.variant, stage)
        if path.is_file():
            found[stage] = Record.from_bytes(path.read_bytes(), where=str(path.relative_to(root)))
    return found


def _missing(
    root: Path, record: Record, source: DvcRemote, store: Store, say: Callable[[str], None]
) -> tuple[str, ...]:
    """Files of the released artifact that the remote does not have."""
    path = lock_file(record.variant)
    text = (root / path).read_bytes() if (root / path).is_file() else b""
    try:
        oid = Lock.parse(text, where=str(path)).output(str(artifact_folder(record.variant, record.stage))).md5
    except NotFoundError:  # never built, by the lock; that is said among the reasons of staleness
        return ()
    if not source.exists([oid]):
        return (f"the listing of {record.ref}",)
    listing = Transfer((source,), store, say).read_listing(oid, record)
    there = source.exists(listing.values())
    return tuple(file for file, object_id in listing.items() if object_id not in there)
