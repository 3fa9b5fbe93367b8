"""The Record value: the facts on one artifact, and where things lie in a repository.

A record is canonical JSON. One copy lies beside the artifact (kept by DVC), a byte-identical one in git. DVC lists the
git copies as metrics and flattens every table in them, so all but the metrics and a few figures are put into lists,
which it leaves out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from registry.action import Action
from registry.artifact import Artifact, ArtifactType, FileEntry
from registry.canonical import decode, pretty
from registry.conflict_markers import conflict_line
from registry.digest import Digest, digest_bytes
from registry.errors import InvalidError
from registry.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.canonical import JSON

__all__ = [
    "BASES",
    "ArtifactSummary",
    "ComponentChange",
    "Record",
    "RecordInput",
    "Renumbered",
    "artifact_folder",
    "artifact_record",
    "curve_file",
    "git_record",
    "lock_file",
    "manifest_file",
]

SCHEMA = "varietal/record/1"
BASES = "bases"
"""Reserved variant name under which imported bases are addressed, as in ``bases:tiny``."""


def _home(variant: str) -> PurePosixPath:
    return PurePosixPath(BASES) if variant == BASES else PurePosixPath("models", variant)


def artifact_folder(variant: str, stage: str) -> PurePosixPath:
    """Folder of an artifact, from the root of the repository."""
    return _home(variant) / stage if variant == BASES else _home(variant) / "artifacts" / stage


def artifact_record(variant: str, stage: str) -> PurePosixPath:
    """The record beside an artifact, kept by DVC."""
    folder = artifact_folder(variant, stage)
    return folder.with_name(f"{folder.name}.json")


def git_record(variant: str, stage: str) -> PurePosixPath:
    """The record's copy in git."""
    return _home(variant) / "records" / f"{stage}.json"


def curve_file(variant: str, stage: str) -> PurePosixPath:
    """The curve of a training in git, for DVC's plots: what the record beside it says step by step."""
    return git_record(variant, stage).with_suffix(".tsv")


def lock_file(variant: str) -> PurePosixPath:
    """DVC's lock of a variant's pipeline."""
    return _home(variant) / "dvc.lock"


def manifest_file(variant: str) -> PurePosixPath:
    """The manifest of a variant; bases are declared in ``params.yaml``."""
    return PurePosixPath("params.yaml") if variant == BASES else _home(variant) / "model.yaml"


@dataclass(frozen=True, kw_only=True, slots=True)
class ArtifactSummary:
    """An artifact without its tensor table.

    Attributes:
        type: ``model``, ``adapter`` or ``report``.
        digest: Artifact digest.
        weights_digest: Digest of the weights; ``None`` for a report.
        size_bytes: Bytes of all files, ``artifact.json`` left out.
        listing: Digest of the bytes of ``artifact.json``.
        files: Every file but ``artifact.json``.
    """

    type: ArtifactType
    digest: Digest
    weights_digest: Digest | None
    size_bytes: int
    listing: Digest
    files: tuple[FileEntry, ...]

    @classmethod
    def of(cls, artifact: Artifact) -> ArtifactSummary:
        """Sum up an artifact."""
        return cls(
            type=artifact.type,
            digest=artifact.digest,
            weights_digest=artifact.weights_digest,
            size_bytes=artifact.size_bytes,
            listing=digest_bytes(artifact.to_bytes()),
            files=artifact.files,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordInput:
    """One input of a stage.

    Attributes:
        role: ``from``, ``base``, ``against``, ``adapter``, ``data`` ...
        name: The manifest's word for it.
        digest: Artifact digest, or digest of a data file.
        weights_digest: Digest of the weights; ``None`` for data.
        source: Where it came from: ``variant:stage``, ``data:path``, ``hub:org/name@revision``, ``path:folder``.
    """

    role: str
    name: str
    digest: Digest
    weights_digest: Digest | None
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ComponentChange:
    """What a stage did to one component.

    Attributes:
        component: Component name, such as ``attention.query``.
        change: What became of its tensors. ``added``: something was added that does not depend on them, or they are
            new. ``overridden``: other numbers are in their place. ``composed``: several adapters changed them, or one
            did something else than add. ``blended``: they are made of several models'. ``copied``: they are another
            model's. ``moved``: they, or rows of them, have another number. ``cast``, ``dequantised``: they are stored
            otherwise. ``removed``: the result has them no more; layers are those of the model before. ``kept``.
        layers: Layers concerned, as ``0-5``; empty where layers do not apply.
        tensors: Number of tensors concerned.
        by: What did it: a kind or the name of an adapter.
    """

    component: str
    change: str
    layers: str
    tensors: int
    by: str


Numbered: TypeAlias = Literal["layers", "tokens"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Renumbered:
    """An input of which something has another number in the result: what was trained on it may mean other parts there.

    Attributes:
        digest: Artifact digest of the input.
        what: ``layers``, or ``tokens`` (the rows of embedding and head).
    """

    digest: Digest
    what: Numbered


@dataclass(frozen=True, kw_only=True)
class Record:
    """The facts on one artifact.

    Attributes:
        variant: Variant that the stage belongs to (``bases`` for an imported base).
        stage: Name of the stage.
        action: What the stage did.
        artifact: What it gave.
        inputs: What it read, with names and places.
        components: What changed in the network.
        metrics: Label -> ``{"value": x}``, with ``"against": y`` where a second artifact was measured.
        environment: Versions of what took part, by name.
        device: What it ran on.
        micro_batch: Rows at once on one device; 0 where that does not apply.
        duration_s: Seconds from start to finished artifact.
        peak_memory_mib: Largest resident memory of the process, MiB.
        depends_on: What else the bytes depend on; empty for bytes that any machine gives again.
        notes: What a reader should know, such as ``rebased``.
        reused_from: ``variant:stage`` whose artifact of the same action this is; empty where it was computed here.
        renumbered: Inputs of which something has another number in the result.
        device_memory_mib: Largest memory of one GPU that was allocated, MiB; 0 without one.
        curve: What was measured step by step: lines of a table, tab-separated, the header first; empty without steps.
    """

    variant: str
    stage: str
    action: Action
    artifact: ArtifactSummary
    inputs: tuple[RecordInput, ...]
    components: tuple[ComponentChange, ...]
    metrics: Mapping[str, Mapping[str, float]]
    environment: Mapping[str, str]
    device: str
    micro_batch: int
    duration_s: float
    peak_memory_mib: float
    depends_on: tuple[str, ...]
    notes: tuple[str, ...]
    reused_from: str
    renumbered: tuple[Renumbered, ...] = ()
    device_memory_mib: float = 0.0
    curve: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """Stage kind."""
        return self.action.kind

    @property
    def ref(self) -> str:
        """``variant:stage``."""
        return f"{self.variant}:{self.stage}"

    @cached_property
    def digest(self) -> Digest:
        """Digest of the record's bytes."""
        return digest_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        """The bytes that lie in DVC and in git."""
        summary = self.artifact
        value: dict[str, JSON] = {
            "schema": SCHEMA,
            "stage": [self.variant, self.stage],
            "action": [self.action.to_dict()],
            "action_digest": str(self.action.digest),
            "artifact": [
                {
                    "type": summary.type,
                    "digest": str(summary.digest),
                    "weights_digest": _text(summary.weights_digest),
                    "size_bytes": summary.size_bytes,
                    "listing": str(summary.listing),
                    "files": [file.to_dict() for file in summary.files],
                }
            ],
            "inputs": [
                {
                    "role": one.role,
                    "name": one.name,
                    "digest": str(one.digest),
                    "weights_digest": _text(one.weights_digest),
                    "source": one.source,
                }
                for one in self.inputs
            ],
            "components": [
                {
                    "component": one.component,
                    "change": one.change,
                    "layers": one.layers,
                    "tensors": one.tensors,
                    "by": one.by,
                }
                for one in self.components
            ],
            "metrics": {label: dict(values) for label, values in self.metrics.items()},
            "environment": [dict(self.environment)],
            "device": [self.device],
            "micro_batch": self.micro_batch,
            "duration_s": self.duration_s,
            "peak_memory_mib": self.peak_memory_mib,
            "depends_on": list(self.depends_on),
            "notes": list(self.notes),
            "reused_from": [self.reused_from] if self.reused_from else [],
            "renumbered": [{"digest": str(one.digest), "what": one.what} for one in self.renumbered],
        }
        # Absent where they say nothing: so records from before these keys keep their bytes.
        if self.device_memory_mib:
            value["device_memory_mib"] = self.device_memory_mib
        if self.curve:
            value["curve"] = [*self.curve]
        return pretty(value)

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Record:
        """Read a record.

        Raises:
            InvalidError: It is no document, breaks the schema, or its digests contradict its content.
        """
        table = Table(_document(data, where), where)
        table.only(*_KEYS, *(key for key in _OPTIONAL if key in table.names()))
        table.constant("schema", SCHEMA)
        variant, stage = table.exactly("stage", 2)
        action = Action.from_table(table.single("action"))
        if action.digest != table.digest("action_digest"):
            raise _contradiction("action_digest is not the digest of action", where)
        reused = table.texts("reused_from")
        if len(reused) > 1:
            raise _contradiction("reused_from names more than one stage", where)
        return cls(
            variant=variant,
            stage=stage,
            action=action,
            artifact=_read_summary(table.single("artifact")),
            inputs=tuple(_read_input(row) for row in table.rows("inputs")),
            components=tuple(_read_change(row) for row in table.rows("components")),
            metrics=_read_metrics(table.table("metrics")),
            environment=_read_texts(table.single("environment")),
            device=table.exactly("device", 1)[0],
            micro_batch=table.count("micro_batch"),
            duration_s=table.number("duration_s"),
            peak_memory_mib=table.number("peak_memory_mib"),
            depends_on=table.texts("depends_on"),
            notes=table.texts("notes"),
            reused_from=reused[0] if reused else "",
            renumbered=tuple(_read_renumbered(row) for row in table.rows("renumbered")),
            device_memory_mib=_read_device_memory(table),
            curve=_read_curve(table),
        )


_PUT_BACK = "`varietal build` puts back the record that the lock names; settle conflicts of the lock itself first"

_KEYS = (
    "schema",
    "stage",
    "action",
    "action_digest",
    "artifact",
    "inputs",
    "components",
    "metrics",
    "environment",
    "device",
    "micro_batch",
    "duration_s",
    "peak_memory_mib",
    "depends_on",
    "notes",
    "reused_from",
    "renumbered",
)

_LINE = re.compile(r"[0-9A-Za-z_.+-]+(?:\t[0-9A-Za-z_.+-]*)+")
_OPTIONAL = ("device_memory_mib", "curve")


def _document(data: bytes, where: str) -> JSON:
    try:
        return decode(data, where=where)
    except InvalidError as error:
        left = "a merge left its conflict markers in the record"
        raise InvalidError(left if conflict_line(data) else error.what, where=where, mend=_PUT_BACK) from error


def _text(digest: Digest | None) -> str | None:
    return None if digest is None else str(digest)


def _read_summary(table: Table) -> ArtifactSummary:
    table.only("type", "digest", "weights_digest", "size_bytes", "listing", "files")
    summary = ArtifactSummary(
        type=table.choice("type", get_args(ArtifactType)),
        digest=table.digest("digest"),
        weights_digest=table.optional_digest("weights_digest"),
        size_bytes=table.count("size_bytes"),
        listing=table.digest("listing"),
        files=tuple(FileEntry.from_table(row) for row in table.rows("files")),
    )
    if Artifact(type=summary.type, files=summary.files, tensors=()).digest != summary.digest:
        raise _contradiction("artifact digest is not the digest of its files", table.where)
    return summary


def _read_input(table: Table) -> RecordInput:
    table.only("role", "name", "digest", "weights_digest", "source")
    return RecordInput(
        role=table.text("role"),
        name=table.text("name"),
        digest=table.digest("digest"),
        weights_digest=table.optional_digest("weights_digest"),
        source=table.text("source"),
    )


def _read_change(table: Table) -> ComponentChange:
    table.only("component", "change", "layers", "tensors", "by")
    return ComponentChange(
        component=table.text("component"),
        change=table.text("change"),
        layers=table.text("layers"),
        tensors=table.count("tensors"),
        by=table.text("by"),
    )


def _read_renumbered(table: Table) -> Renumbered:
    table.only("digest", "what")
    return Renumbered(digest=table.digest("digest"), what=table.choice("what", get_args(Numbered)))


def _read_device_memory(table: Table) -> float:
    if "device_memory_mib" not in table.names():
        return 0.0
    size = table.number("device_memory_mib")
    if size <= 0:
        raise _contradiction("device_memory_mib is not above 0", table.where)
    return size


def _read_curve(table: Table) -> tuple[str, ...]:
    if "curve" not in table.names():
        return ()
    lines = table.texts("curve")
    if not lines or any(_LINE.fullmatch(line) is None for line in lines):
        raise _contradiction("curve holds something else than lines of a table", table.where)
    return lines


def _read_metrics(table: Table) -> dict[str, dict[str, float]]:
    return {label: _read_numbers(table.table(label)) for label in table.names()}


def _read_numbers(table: Table) -> dict[str, float]:
    return {key: table.number(key) for key in table.names()}


def _read_texts(table: Table) -> dict[str, str]:
    return {key: table.text(key) for key in table.names()}


def _contradiction(what: str, where: str) -> InvalidError:
    return InvalidError(what, where=where, mend="the record was edited; restore it from git or build the stage again")
