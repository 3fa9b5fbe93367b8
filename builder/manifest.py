"""The manifest and params.yaml as frozen values, with every key's meaning, bounds and default. Pure: no file access.

A field's default is written here and nowhere else. The dataclasses are also the schema: builder/tables.py reads by
them, builder/schema/*.json and docs/manifest.md are made from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias, TypeVar, cast

from builder.adapter_settings import LoraSettings
from builder.compound import Either
from builder.names import (
    BASE,
    ArtifactDigest,
    ArtifactName,
    BaseKey,
    Commit,
    HubName,
    Label,
    Name,
    Release,
    RepositoryPath,
    Sha256,
    SshKey,
    VariantName,
)
from builder.reward_settings import ApprovedCode
from builder.row_shapes import Format
from builder.settings import Metric, NetworkSettings, TokenizerSettings
from builder.shapes import Number, Reading
from builder.tables import Defaults, Filled, Key, Refused, Rules, fill, read
from builder.train_data import Evaluation
from builder.train_settings import DpoTraining, PretrainTraining, SftTraining, Training
from builder.train_stages import (
    CpoStage,
    DistillStage,
    DpoStage,
    GrpoStage,
    KtoStage,
    OrpoStage,
    PretrainStage,
    RewardStage,
    RlooStage,
    SftStage,
    TrainStage,
)
from builder.weight_stages import BlendStage, CastStage, ExtractStage, FoldStage, FuseStage, GraftStage
from registry.canonical import JSON
from registry.errors import InvalidError
from registry.record import BASES, manifest_file

if TYPE_CHECKING:
    from registry.artifact import ArtifactType

__all__ = [
    "BASE",
    "AdapterSource",
    "BaseName",
    "BaseSource",
    "BelievedRunners",
    "BlendStage",
    "CastStage",
    "Check",
    "CpoStage",
    "DataSet",
    "DistillStage",
    "DpoStage",
    "DpoTraining",
    "EvaluateStage",
    "Evaluation",
    "ExtractStage",
    "FoldStage",
    "FolderAdapter",
    "FolderBase",
    "FuseStage",
    "GraftStage",
    "GrpoStage",
    "HubAdapter",
    "HubBase",
    "KtoStage",
    "LoraSettings",
    "Manifest",
    "Metric",
    "NetworkSettings",
    "OrpoStage",
    "PinnedRef",
    "PretrainStage",
    "PretrainTraining",
    "Project",
    "ProjectBase",
    "ProtectedChannel",
    "RewardStage",
    "RlooStage",
    "SftStage",
    "SftTraining",
    "Stage",
    "StageRef",
    "TokenizerSettings",
    "Training",
    "effective",
    "parse_manifest",
    "parse_project",
    "read_manifest",
    "read_project",
    "references",
    "type_of",
]

_Found = TypeVar("_Found")

Kind: TypeAlias = Literal[
    "import",
    "pretrain",
    "sft",
    "dpo",
    "kto",
    "orpo",
    "cpo",
    "reward",
    "grpo",
    "rloo",
    "distill",
    "fold",
    "fuse",
    "blend",
    "extract",
    "graft",
    "cast",
    "evaluate",
]
_RowFormat: TypeAlias = Annotated[Format, Key("What its rows are: a format, or a shape that becomes one.")]
PartialStages: TypeAlias = Mapping[str, Mapping[str, JSON]]
"""Plain tables of settings, or of stages as they were written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseName:
    """A base by its name under `bases:` in params.yaml."""

    RULES: ClassVar[Rules] = Rules(shorthand="name", bare=True)

    name: Annotated[Name, Key("Name under `bases:` in params.yaml.")]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRef:
    """A stage of another variant, as it is in this tree."""

    variant: Annotated[VariantName, Key("The other variant.")]
    stage: Annotated[ArtifactName, Key("Its stage.")]


@dataclass(frozen=True, kw_only=True, slots=True)
class PinnedRef:
    """A release of a variant, held fast by its digest."""

    release: Annotated[Release, Key("The variant and its version, such as `support@v1.2.0`.", name="variant")]
    digest: Annotated[ArtifactDigest, Key("Digest of the released artifact.")]

    @property
    def variant(self) -> str:
        """The variant's name."""
        return self.release.partition("@")[0]

    @property
    def version(self) -> str:
        """The version, such as ``v1.2.0``."""
        return self.release.partition("@")[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderBase:
    """A base model in a folder."""

    path: Annotated[RepositoryPath, Key("Folder of the model, from the root of the repository.")]
    sha256: Annotated[Sha256, Key("Digest of the folder, as `varietal pin` writes it.")]


@dataclass(frozen=True, kw_only=True, slots=True)
class HubBase:
    """A base model on the Hugging Face Hub."""

    hub: Annotated[HubName, Key("Repository on the Hub, `organisation/name`.")]
    revision: Annotated[Commit, Key("Commit of that repository.")]


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderAdapter:
    """An adapter made elsewhere, in a folder."""

    path: Annotated[RepositoryPath, Key("Folder of the adapter, from the root of the repository.")]
    sha256: Annotated[Sha256, Key("Digest of the folder, as `varietal pin` writes it.")]
    base: Annotated[Name, Key("What it was trained on: a name under `bases:` in params.yaml.")]


@dataclass(frozen=True, kw_only=True, slots=True)
class HubAdapter:
    """An adapter made elsewhere, on the Hugging Face Hub."""

    hub: Annotated[HubName, Key("Repository on the Hub, `organisation/name`.")]
    revision: Annotated[Commit, Key("Commit of that repository.")]
    base: Annotated[Name, Key("What it was trained on: a name under `bases:` in params.yaml.")]


BaseSource: TypeAlias = BaseName | StageRef | PinnedRef
AdapterSource: TypeAlias = HubAdapter | FolderAdapter | StageRef | PinnedRef
ProjectBase: TypeAlias = FolderBase | HubBase


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """Rows in a file, or in a folder of files."""

    path: Annotated[RepositoryPath, Key("The file, or the folder of files, from the root of the repository.")]
    format: _RowFormat


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateStage:
    """Measures a model or an adapter, and what it is compared with."""

    kind: Annotated[Literal["evaluate"], Key("Kind of the stage.", required=True, own=True)] = "evaluate"
    from_: Annotated[Name, Key("What to measure: `base`, a stage or an adapter.", name="from", own=True)]
    against: Annotated[Name, Key("What to compare with; `kl`, `top1_agreement` and rewards need it.", own=True)] = ""
    metrics: Annotated[Mapping[Label, Metric], Key("Measurements by label.", own=True), Filled()]
    batch: Annotated[int, Key("Rows at once; the figures do not depend on it."), Number(minimum=1, maximum=10**6)] = 8
    max_length: Annotated[int, Key("Longest sequence, in tokens."), Number(minimum=8, maximum=2**24)] = 1024
    limit: Annotated[int, Key("Rows to measure; 0 takes all."), Number(minimum=0, maximum=2**53)] = 0


Stage: TypeAlias = (
    PretrainStage
    | SftStage
    | DpoStage
    | KtoStage
    | OrpoStage
    | CpoStage
    | RewardStage
    | GrpoStage
    | RlooStage
    | DistillStage
    | FoldStage
    | FuseStage
    | BlendStage
    | ExtractStage
    | GraftStage
    | CastStage
    | EvaluateStage
)
_ANY_STAGE = Annotated[
    Stage,
    Refused((("import", "declare it under `adapters:`, or as the `base:`; its import is a stage of its own"),)),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A bound on a measured metric; the gate judges all of a release's checks."""

    RULES: ClassVar[Rules] = Rules(
        either=(
            Either(
                groups=(("min", "max"), ("max_increase",), ("max_decrease",)),
                needed=True,
                mend="write two checks",
            ),
        )
    )

    stage: Annotated[Name, Key("A stage that measures: evaluate, fuse, extract or cast.")]
    metric: Annotated[
        Label,
        Key(
            "One of its labels; of fuse and extract `error`, `error-greatest` and `rank`, of cast `relative_rms` and "
            "`largest_error`, and those of one component, such as `error-mlp-down` and `relative_rms_mlp-down`."
        ),
    ]
    min: Annotated[float | None, Key("Lowest value that passes.")] = None
    max: Annotated[float | None, Key("Highest value that passes.")] = None
    max_increase: Annotated[float | None, Key("How much it may be above that of `against`, absolute.")] = None
    max_decrease: Annotated[float | None, Key("How much it may be below that of `against`, absolute.")] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A variant: what it starts from, the stages that make it, and what a release of it must reach."""

    variant: Annotated[str, Key("Name of its folder.", outside=True)]
    schema: Annotated[Literal[1], Key("Version of this format.")] = 1
    description: Annotated[str, Key("What the variant is for.")] = ""
    license: Annotated[str, Key("Licence of the result.")] = ""
    deprecated: Annotated[str, Key("Why it should no longer be used, and what to take instead; absent: it may be.")] = (
        ""
    )
    formerly: Annotated[tuple[VariantName, ...], Key("Names that it had before; their history and releases stay.")] = ()
    base: Annotated[BaseSource | None, Key("The model to start from; absent where a pretrain stage makes it.")] = None
    adapters: Annotated[Mapping[ArtifactName, AdapterSource], Key("Adapters made elsewhere, by name.")] = field(
        default_factory=dict
    )
    models: Annotated[
        Mapping[ArtifactName, BaseSource], Key("Further models to blend or to compare with, by name.")
    ] = field(default_factory=dict)
    data: Annotated[Mapping[Name, DataSet], Key("Data sets, by name.")] = field(default_factory=dict)
    stages: Annotated[Mapping[ArtifactName, _ANY_STAGE], Key("Stages, by name."), Filled()]
    release: Annotated[Name, Key("The stage whose artifact a release publishes.")]
    checks: Annotated[
        tuple[Check, ...] | None, Key("Bounds that a release must keep; absent: the gate says no; `[]`: none.")
    ] = None
    defaults: Annotated[PartialStages, Key("Settings for all stages of a kind, over params.yaml."), Defaults(Stage)] = (
        field(default_factory=dict)
    )
    written: Annotated[PartialStages, Key("The stages' tables as they were written.", outside=True)] = field(
        default_factory=dict
    )

    def source(self, name: str) -> BaseSource | AdapterSource | None:
        """Where what is called so comes from; ``None`` for a stage and for an unknown name."""
        return self.base if name == BASE else self.adapters.get(name) or self.models.get(name)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtectedChannel:
    """A channel that only some may move."""

    promoters: Annotated[
        Mapping[Name, SshKey],
        Key("Who may point it at a release: SSH public keys by the name of their holder."),
        Filled(),
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class BelievedRunners:
    """Runners whose word counts where a build goes on from what they finished."""

    requests: Annotated[
        Mapping[Name, SshKey], Key("Those that build requests: SSH public keys by the name of the runner.")
    ] = field(default_factory=dict)
    branches: Annotated[Mapping[Name, SshKey], Key("Those that build main and trusted branches, and no requests.")] = (
        field(default_factory=dict)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Project:
    """params.yaml: what every variant of the repository shares."""

    bases: Annotated[
        Mapping[BaseKey, ProjectBase], Key("Base models, by name; `{}` where there are none.", required=True)
    ] = field(default_factory=dict)
    recipes: Annotated[
        Mapping[Kind, Annotated[int, Number(minimum=1, maximum=10**6)]],
        Key("Revision of each kind's meaning; raise it to rebuild under a newer tool."),
    ] = field(default_factory=dict)
    defaults: Annotated[PartialStages, Key("Settings for all stages of a kind."), Defaults(Stage)] = field(
        default_factory=dict
    )
    channels: Annotated[Mapping[Name, ProtectedChannel], Key("Channels that only some may move; others are open.")] = (
        field(default_factory=dict)
    )
    runners: Annotated[BelievedRunners, Key("Whose progress notes a build goes on from.")] = field(
        default_factory=BelievedRunners
    )
    approved: Annotated[ApprovedCode, Key("Code that requests may bring.")] = field(default_factory=ApprovedCode)


def read_manifest(variant: str, value: JSON, reading: Reading) -> Manifest | None:
    """A manifest of a plain document, with the faults put into ``reading``.

    Args:
        variant: Name of its folder.
        value: The document.
        reading: Where it has faults afterwards, the manifest may lack parts, and is good for finding more faults only.

    Returns:
        The manifest; ``None`` where the faults leave nothing of it.
    """
    return read(Manifest, value, reading, outside={"variant": variant, "written": _written_stages(value)})


def parse_manifest(variant: str, value: JSON) -> Manifest:
    """A manifest of a plain document.

    Raises:
        InvalidError: The document's faults, all of them.
    """
    reading = Reading(file=str(manifest_file(variant)))
    return _whole(read_manifest(variant, value, reading), reading)


def read_project(value: JSON, reading: Reading) -> Project | None:
    """params.yaml of a plain document, with the faults put into ``reading``."""
    return read(Project, value, reading)


def parse_project(value: JSON) -> Project:
    """params.yaml of a plain document.

    Raises:
        InvalidError: The document's faults, all of them.
    """
    reading = Reading(file=str(manifest_file(BASES)))
    return _whole(read_project(value, reading), reading)


def effective(project: Project, manifest: Manifest, stage_name: str) -> Stage:
    """A stage with all defaults filled in: its own keys, over the manifest's, over those of params.yaml.

    A default for ``adapter`` holds only where the stage has an ``adapter`` of its own, and a default for ``epochs``
    gives way to ``steps`` that were written nearer, and the other way round.

    Raises:
        KeyError: The manifest has no such stage.
        InvalidError: The layers do not go together; what :func:`builder.load.load` gives never does this.
    """
    stage = manifest.stages[stage_name]
    layers = [layers[stage.kind] for layers in (manifest.defaults, project.defaults) if stage.kind in layers]
    if not layers:
        return stage
    table = type(stage)
    filled = manifest.written[stage_name]
    for layer in layers:
        filled = fill(table, filled, layer)
    reading = Reading(file=str(manifest_file(manifest.variant)))
    found = read(table, {**filled}, reading, path=("stages", stage_name))
    return cast("Stage", _whole(found, reading))


def references(stage: Stage) -> list[tuple[str, str]]:
    """What a stage points at, as pairs of a role and a name of the manifest, in the order of its inputs."""
    match stage:
        case EvaluateStage():
            against = [("against", stage.against)] if stage.against else []
            return [("from", stage.from_), *against, *(("data", one.data) for one in stage.metrics.values())]
        case _:
            return stage.references()


def type_of(manifest: Manifest, name: str) -> ArtifactType | None:
    """What the artifact that a manifest calls ``name`` is; ``None`` for an unknown name and in a cycle."""
    seen: set[str] = set()
    while name in manifest.stages and name not in seen:
        seen.add(name)
        stage = manifest.stages[name]
        if isinstance(stage, TrainStage) or (isinstance(stage, PretrainStage) and stage.from_):
            if stage.adapter is not None:
                return "adapter"
            name = stage.from_
            continue
        match stage:
            case PretrainStage() | FoldStage() | BlendStage() | GraftStage() | CastStage():
                return "model"
            case FuseStage() | ExtractStage():
                return "adapter"
            case EvaluateStage():
                return "report"
    if name in manifest.adapters:
        return "adapter"
    return "model" if manifest.source(name) is not None else None


def _written_stages(value: JSON) -> dict[str, dict[str, JSON]]:
    stages = value.get("stages") if isinstance(value, dict) else None
    if not isinstance(stages, dict):
        return {}
    return {name: stage for name, stage in stages.items() if isinstance(stage, dict)}


def _whole(found: _Found | None, reading: Reading) -> _Found:
    """What was read without a fault.

    Raises:
        InvalidError: There are faults.
    """
    if reading.faults or found is None:
        raise InvalidError.from_faults(reading.faults)
    return found
