"""Makes repositories as `dvc repro` leaves them, with real git and without DVC: artifacts, records, locks, cache."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.action import Action, ActionInput
from registry.artifact import LISTING, Artifact, ArtifactType
from registry.digest import Digest, digest_bytes
from registry.history import Repository
from registry.lock import content_md5
from registry.record import (
    ArtifactSummary,
    Record,
    RecordInput,
    artifact_folder,
    artifact_record,
    git_record,
    lock_file,
    manifest_file,
)
from registry.safetensors import TensorSpec, Writer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Team", "data_input", "git", "input_from", "make_artifact", "make_record"]


def git(root: Path, *arguments: str, check: bool = True) -> str:
    """Run git and return what it printed."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout


def make_artifact(folder: Path, tensors: Mapping[str, bytes], kind: ArtifactType = "model") -> Artifact:
    """A folder with a config and one safetensors file of one-dimensional U8 tensors."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    specs = tuple(TensorSpec(name=name, dtype="U8", shape=(len(data),)) for name, data in tensors.items())
    with Writer(folder / "model.safetensors", specs, {"format": "pt"}) as writer:
        for spec in writer.order:
            writer.write(tensors[spec.name])
        writer.finish()
    artifact = Artifact.from_folder(folder, kind)
    artifact.write(folder)
    return artifact


def make_record(
    ref: str,
    artifact: Artifact | None = None,
    *,
    kind: str = "sft",
    inputs: Sequence[RecordInput] = (),
    settings: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Mapping[str, float]] | None = None,
) -> Record:
    """A record without surprises."""
    variant, _, stage = ref.partition(":")
    artifact = artifact or Artifact(type="report", files=(), tensors=())
    return Record(
        variant=variant,
        stage=stage,
        action=Action(
            kind=kind,
            recipe=1,
            settings=settings or {},
            inputs=tuple(ActionInput(role=one.role, digest=one.digest) for one in inputs),
        ),
        artifact=ArtifactSummary.of(artifact),
        inputs=tuple(inputs),
        components=(),
        metrics=metrics or {},
        environment={"python": "3.11"},
        device="cpu",
        micro_batch=0,
        duration_s=1.0,
        peak_memory_mib=10.0,
        depends_on=(),
        notes=(),
        reused_from="",
    )


def input_from(record: Record, role: str = "from") -> RecordInput:
    """The artifact of a record as the input of another stage."""
    summary = record.artifact
    return RecordInput(
        role=role, name=record.stage, digest=summary.digest, weights_digest=summary.weights_digest, source=record.ref
    )


def data_input(path: str, content: bytes) -> RecordInput:
    """A data file as an input."""
    return RecordInput(
        role="data", name=Path(path).stem, digest=digest_bytes(content), weights_digest=None, source=f"data:{path}"
    )


@dataclass
class Team:
    """A repository that grows.

    Attributes:
        root: Its root.
        outputs: Object id and size of each output, by path, by variant: what its lock says.
    """

    root: Path
    outputs: dict[str, dict[str, tuple[str, int]]] = field(default_factory=dict)

    @classmethod
    def make(cls, root: Path) -> Team:
        """A new repository with one empty commit on main."""
        root.mkdir(parents=True, exist_ok=True)
        git(root, "init", "--quiet", "--initial-branch=main")
        for key, value in {"user.name": "A", "user.email": "a@example.org", "commit.gpgsign": "false"}.items():
            git(root, "config", key, value)
        git(root, "config", "tag.gpgsign", "false")
        (root / ".gitignore").write_text(".varietal/\n/.dvc/cache/\n/models/*/artifacts/\n")
        team = cls(root)
        team.commit("Begin")
        return team

    @property
    def repository(self) -> Repository:
        return Repository(self.root)

    def commit(self, message: str) -> str:
        """Commit everything."""
        git(self.root, "add", "--all")
        git(self.root, "commit", "--quiet", "--allow-empty", f"--message={message}")
        return git(self.root, "rev-parse", "HEAD").strip()

    def build(
        self,
        ref: str,
        tensors: Mapping[str, bytes],
        *,
        kind: str = "sft",
        inputs: Sequence[RecordInput] = (),
        settings: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Mapping[str, float]] | None = None,
        **facts: object,
    ) -> Record:
        """Make an artifact with its record, its copy in git, its lock, and its objects in DVC's cache."""
        variant, _, stage = ref.partition(":")
        folder = self.root / artifact_folder(variant, stage)
        artifact = make_artifact(folder, tensors)
        record = replace(
            make_record(ref, artifact, kind=kind, inputs=inputs, settings=settings, metrics=metrics), **facts
        )
        for path in (artifact_record(variant, stage), git_record(variant, stage)):
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_bytes(record.to_bytes())
        manifest = self.root / manifest_file(variant)
        if not manifest.exists():
            manifest.write_text("schema: 1\n")
        self._lock(variant, stage, folder, record)
        return record

    def digest_of(self, ref: str) -> Digest:
        """Digest of the artifact that lies in the work tree."""
        variant, _, stage = ref.partition(":")
        return Artifact.read(self.root / artifact_folder(variant, stage)).digest

    def _lock(self, variant: str, stage: str, folder: Path, record: Record) -> None:
        names = [*(file.path for file in record.artifact.files), LISTING]
        entries = [{"md5": self._cache((folder / name).read_bytes()), "relpath": name} for name in sorted(names)]
        listing = json.dumps(entries, sort_keys=True).encode()
        outputs = self.outputs.setdefault(variant, {})
        outputs[str(artifact_folder(variant, stage))] = (
            self._cache(listing, ".dir"),
            record.artifact.size_bytes,
        )
        data = record.to_bytes()
        outputs[str(artifact_record(variant, stage))] = (self._cache(data), len(data))
        lines = ["schema: '2.0'", "stages:", "  all:", "    cmd: make it", "    outs:"]
        for path, (oid, size_bytes) in sorted(outputs.items()):
            lines += [f"    - path: {path}", "      hash: md5", f"      md5: {oid}", f"      size: {size_bytes}"]
        (self.root / lock_file(variant)).write_text("\n".join(lines) + "\n")

    def _cache(self, data: bytes, suffix: str = "") -> str:
        oid = content_md5(data) + suffix
        path = self.root / ".dvc" / "cache" / "files" / "md5" / oid[:2] / oid[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return oid
