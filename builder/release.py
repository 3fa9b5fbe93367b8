"""Gathers the facts that a gate and a release are judged by; the rules themselves are the registry's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.earlier import release_before
from builder.freshness import stale
from builder.graph import Address, build_graph
from builder.load import load
from registry.errors import InvalidError, NotFoundError
from registry.gate import judge
from registry.history import Repository
from registry.lock import Lock
from registry.notes import notes_of
from registry.origin import compare_with_origin
from registry.record import Record, artifact_folder, artifact_record, git_record, lock_file, manifest_file
from registry.refs import Version, parse
from registry.releases import NewTag, Proposal, release_all
from registry.remote import DvcRemote
from registry.signers import read_published
from registry.tagging import make_tags
from registry.transfer import Transfer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from builder.load import Workspace
    from builder.manifest import Manifest
    from registry.canonical import JSON
    from registry.gate import Judgement
    from registry.published import Published
    from registry.store import Store

__all__ = ["Verdict", "Wish", "judge_variant", "preview_notes", "release_variants"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What is asked of a release besides the tags.

    Attributes:
        remote: DVC remote that must have the bytes; empty for the default one.
        push: Push the tags to the origin, all or none.
    """

    remote: str = ""
    push: bool = False


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


def release_variants(
    root: Path, refs: Sequence[str], wish: Wish, *, store: Store, say: Callable[[str], None]
) -> tuple[NewTag, ...]:
    """Tag the commit that is checked out as versions of one variant or of several: all of them, or none.

    Args:
        root: Root of the repository.
        refs: ``name@v1.2.0``, each of another variant.
        wish: What is asked for besides.
        store: Local content store.
        say: Tells the person at the terminal.

    Raises:
        InvalidError: A ref is not a version, or a variant is named twice.
        NotFoundError: There is no such variant, it was not built, or there is no remote.
        ConflictError: A version exists, here or at the origin.
        RefusedError: A rule is broken; all that are, are listed.
        TransportError: The remote does not answer, or the origin does not take the tags.
    """
    versions = _versions(refs)
    repository = Repository(root)
    compare_with_origin(repository, [version.variant for version in versions], say)
    desk = _Desk.at(repository, versions, DvcRemote(root, wish.remote), store, say)
    tags = release_all([_propose(version, desk) for version in versions], desk.published)
    make_tags(repository, tags, push=wish.push)
    return tags


def preview_notes(
    root: Path, refs: Sequence[str], *, store: Store, say: Callable[[str], None]
) -> dict[str, tuple[str, ...]]:
    """What the tags of these versions would say is new, by ref; nothing is judged, and no remote is asked.

    Raises:
        InvalidError: A ref is not a version, or a variant is named twice.
        NotFoundError: There is no such variant.
    """
    versions = _versions(refs)
    desk = _Desk.at(Repository(root), versions, None, store, say)
    return {str(version): tuple(_propose(version, desk).notes) for version in versions}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Desk:
    """What holds for every variant that is released from the checked-out commit, and what it is judged with."""

    repository: Repository
    published: Published
    commit: str
    on_main: bool
    changes: Sequence[str]
    shallow: bool
    source: DvcRemote | None
    store: Store
    say: Callable[[str], None]

    @classmethod
    def at(
        cls,
        repository: Repository,
        versions: Sequence[Version],
        source: DvcRemote | None,
        store: Store,
        say: Callable[[str], None],
    ) -> _Desk:
        return cls(
            repository=repository,
            published=read_published(repository, *(version.variant for version in versions)),
            commit=repository.head(),
            on_main=repository.is_ancestor("HEAD", repository.main_branch()),
            changes=repository.changes(),
            shallow=bool(repository.is_shallow()),
            source=source,
            store=store,
            say=say,
        )


def _propose(version: Version, desk: _Desk) -> Proposal:
    """All facts that decide on one version, and what is new in it."""
    root = desk.repository.root
    workspace = load(root, only=version.variant)
    manifest = _manifest(workspace, version.variant)
    verdict = _judge(root, workspace, manifest)
    records = _records(root, manifest)
    record = records.get(manifest.release)
    before = release_before(desk.repository, version.variant, desk.published, desk.say)
    missing: tuple[str, ...] = ()
    if record is not None and desk.source is not None:
        missing = _missing(root, record, desk.source, desk.store, desk.say)
    return Proposal(
        ref=version,
        commit=desk.commit,
        records=records,
        stage=manifest.release,
        judgements=verdict.judgements,
        on_main=desk.on_main,
        changes=desk.changes,
        stale=verdict.stale,
        missing=missing,
        shallow=desk.shallow,
        notes=notes_of(records, manifest.release, verdict.judgements, before) if record is not None else (),
    )


def _versions(refs: Sequence[str]) -> tuple[Version, ...]:
    """The versions that are named.

    Raises:
        InvalidError: One is none, or two are of one variant.
    """
    found = [parse(ref) for ref in refs]
    versions = tuple(ref for ref in found if isinstance(ref, Version))
    if len(versions) < len(found):
        wrong = next(str(ref) for ref in found if not isinstance(ref, Version))
        raise InvalidError(f"{wrong} is not a version", where="varietal release", mend="write name@v1.0.0")
    if len({version.variant for version in versions}) < len(versions):
        raise InvalidError(
            "one variant is named twice",
            where="varietal release",
            mend="a commit has one version of a variant: keep one of them",
        )
    return versions


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
    """What the remote lacks of a release: the record, which descriptors point at, the listing, or files."""
    path = lock_file(record.variant)
    text = (root / path).read_bytes() if (root / path).is_file() else b""
    try:
        lock = Lock.parse(text, where=str(path))
        oid = lock.output(str(artifact_folder(record.variant, record.stage))).md5
        record_oid = lock.output(str(artifact_record(record.variant, record.stage))).md5
    except NotFoundError:  # never built, by the lock; that is said among the reasons of staleness
        return ()
    there = source.exists([oid, record_oid])
    lost = () if record_oid in there else (f"the record of {record.ref}",)
    if oid not in there:
        return (*lost, f"the listing of {record.ref}")
    listing = Transfer((source,), store, say).read_listing(oid, record)
    there = source.exists(listing.values())
    return (*lost, *(file for file, object_id in listing.items() if object_id not in there))
