"""The release before, read from its commit: what the notes of the next one are held against."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.manifest import parse_manifest
from registry import yaml12
from registry.errors import Error
from registry.gate import judge
from registry.notes import Before
from registry.record import Record, git_record, manifest_file
from registry.refs import Version

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from builder.manifest import Manifest
    from registry.history import Repository
    from registry.published import Published, Release

__all__ = ["release_before"]


def release_before(
    repository: Repository, variant: str, published: Published, say: Callable[[str], None]
) -> Before | None:
    """The newest release of a variant that was not withdrawn, as its commit has it; ``None`` where there is none.

    What cannot be read any more, since it was written by another version or is not here, is told and left out: it
    must not keep a release back.
    """
    for release in reversed(published.releases.get(variant, ())):
        if Version(variant, release.version) in published.withdrawn:
            continue
        try:
            return _read(repository, release)
        except Error as error:
            say(f"the notes say nothing of {release.ref}: {error.what} ({error.where})")
            return None
    return None


def _read(repository: Repository, release: Release) -> Before:
    path = manifest_file(release.variant)
    where = f"{path} at {release.commit[:12]}"
    document = yaml12.load(repository.read(release.commit, str(path)), where)
    manifest = parse_manifest(release.variant, document.value)
    records = _records(repository, release, manifest)
    bounds = {(one.stage, one.metric): one.bound for one in judge(manifest.checks, records) if one.stage}
    return Before(version=release.version, stage=manifest.release, records=records, bounds=bounds)


def _records(repository: Repository, release: Release, manifest: Manifest) -> Mapping[str, Record]:
    stages = [*manifest.stages, *manifest.adapters]
    paths = [f"{release.commit}:{git_record(release.variant, stage)}" for stage in stages]
    found = zip(stages, repository.read_blobs(paths), strict=True)
    return {stage: Record.from_bytes(data, where=f"{release.ref}:{stage}") for stage, data in found if data is not None}
