"""The inputs of each stage: what its names stand for, in which role, and what is said on each alone. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, cast

from builder.address import Address, CodeFile, DataFile, Source
from builder.manifest import (
    BaseName,
    BlendStage,
    CastStage,
    DistillStage,
    EvaluateStage,
    ExtractStage,
    FolderAdapter,
    FoldStage,
    FuseStage,
    GraftStage,
    GrpoStage,
    HubAdapter,
    PretrainStage,
    RlooStage,
    StageRef,
)
from builder.names import BASE
from builder.reward_settings import RewardFunction
from builder.row_form import is_one_row
from builder.train_data import data_settings, held_out
from builder.train_stages import TrainStage
from builder.weighting import Weighting
from registry.components import Selector
from registry.errors import InvalidError
from registry.record import BASES, manifest_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from builder.load import Workspace
    from builder.manifest import Manifest, Stage
    from builder.weight_stages import BlendSource
    from registry.canonical import JSON

__all__ = ["Address", "DataFile", "Edge", "Source", "edges_of", "plain", "resolve", "said"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Edge:
    """One input of a stage: its role, the manifest's word for it, where it comes from, what is said on it alone."""

    role: str
    name: str
    source: Source
    settings: Mapping[str, JSON] = field(default_factory=dict)

    @property
    def said(self) -> Mapping[str, JSON]:
        """What its action says of it."""
        source = self.source
        return said(self.settings, source.format, source.path) if isinstance(source, DataFile) else self.settings


def said(settings: Mapping[str, JSON], data_format: str, path: str) -> Mapping[str, JSON]:
    """What decides the bytes beside an input's own: of data, also how its rows are read.

    Args:
        settings: What the stage says on the input.
        data_format: What the rows of data are; empty for anything else.
        path: The data file, or its name: the name tells a text, which is one row, from rows of a line each.
    """
    if not data_format:
        return settings
    return {**settings, "format": data_format} | ({"rows": "one"} if is_one_row(path) else {})


def resolve(manifest: Manifest, name: str) -> Address:
    """Where the artifact that a manifest calls ``name`` stands.

    Raises:
        KeyError: The manifest has no such name; a loaded manifest never does this.
    """
    if name in manifest.stages:
        return Address(variant=manifest.variant, stage=name)
    source = manifest.source(name)
    match source:
        case BaseName():
            return Address(variant=BASES, stage=source.name)
        case StageRef():
            return Address(variant=source.variant, stage=source.stage)
        case None:
            raise KeyError(name)
        case _:
            return Address(variant=manifest.variant, stage=name)


def edges_of(workspace: Workspace, manifest: Manifest, name: str, stage: Stage) -> Iterator[Edge]:
    """The inputs of a stage, in the manifest's order.

    Args:
        workspace: All manifests.
        manifest: The stage's own.
        name: The stage's name.
        stage: Its table, defaults filled in.

    Raises:
        InvalidError: An adapter's base cannot be told from the manifests, and the stage needs it.
    """
    match stage:
        case PretrainStage():
            if stage.from_:
                yield from _artifact_edges(workspace, manifest, "from", "base", stage.from_)
            yield from _learnt_edges(manifest, stage)
        case _ if isinstance(stage, TrainStage):
            yield from _artifact_edges(workspace, manifest, "from", "base", stage.from_)
            yield from _learnt_edges(manifest, stage)
            yield from _reward_edges(manifest, stage)
            if isinstance(stage, DistillStage):
                yield _edge(manifest, "teacher", stage.teacher)
        case EvaluateStage():
            yield from _measured_edges(workspace, manifest, stage)
        case FuseStage():
            for adapter, weight in stage.adapters.items():
                yield _edge(manifest, "adapter", adapter, {"weight": weight.to_json()})
            under = _model_under_all(workspace, manifest, name, stage)
            if under is not None:
                yield Edge(role="base", name=str(under), source=under)
        case _:
            yield from _weights_edges(manifest, stage)


def _weights_edges(
    manifest: Manifest, stage: FoldStage | BlendStage | ExtractStage | GraftStage | CastStage
) -> Iterator[Edge]:
    match stage:
        case FoldStage():
            yield _edge(manifest, "from", stage.from_)
            for name, weight in stage.adapters.items():
                settings: dict[str, JSON] = {"weight": weight.to_json()}
                if stage.order:
                    settings["place"] = stage.order.index(name)
                yield _edge(manifest, "adapter", name, settings)
        case BlendStage():
            for name, blended in stage.models.items():
                yield _edge(manifest, "model", name, _blend_settings(stage, name, blended))
            if stage.against:
                taken = _taken_layers(stage, stage.against)
                yield _edge(manifest, "against", stage.against, {"layers": taken} if taken else {})
        case ExtractStage():
            yield _edge(manifest, "from", stage.from_)
            yield _edge(manifest, "against", stage.against)
        case GraftStage() | CastStage():
            yield _edge(manifest, "from", stage.from_)
            yield from _template_edges(stage)


def _template_edges(stage: GraftStage | CastStage) -> Iterator[Edge]:
    """The chat template that a model shall have; a program, as it comes with a model."""
    if isinstance(stage, GraftStage) and stage.template:
        yield Edge(role="template", name="template", source=CodeFile(path=stage.template))


def _measured_edges(workspace: Workspace, manifest: Manifest, stage: EvaluateStage) -> Iterator[Edge]:
    yield from _artifact_edges(workspace, manifest, "from", "base", stage.from_)
    if stage.against:
        yield from _artifact_edges(workspace, manifest, "against", "against_base", stage.against)
    for label, metric in stage.metrics.items():
        said: dict[str, JSON] = {"label": label, "metric": metric.metric, "turns": metric.turns}
        yield _data_edge(manifest, metric.data, said)


def _edge(manifest: Manifest, role: str, name: str, settings: Mapping[str, JSON] | None = None) -> Edge:
    return Edge(role=role, name=name, source=resolve(manifest, name), settings=settings or {})


def _blend_settings(stage: BlendStage, name: str, source: BlendSource) -> dict[str, JSON]:
    """What a blend says on one of its models alone: its numbers, and which of its layers go where."""
    said = cast("dict[str, JSON]", plain(source))
    if stage.layers:
        said["layers"] = _taken_layers(stage, name)
    return said


def _taken_layers(stage: BlendStage, name: str) -> list[JSON]:
    """The layers that the entries of a blend take of a model, each with the entry's place."""
    return [[place, entry[name]] for place, entry in enumerate(stage.layers) if name in entry]


def _artifact_edges(workspace: Workspace, manifest: Manifest, role: str, base_role: str, name: str) -> Iterator[Edge]:
    """An artifact, and the model under it where it is an adapter."""
    source = resolve(manifest, name)
    yield Edge(role=role, name=name, source=source)
    under = model_under(workspace, source)
    if under is not None:
        yield Edge(role=base_role, name=str(under), source=under)


def _learnt_edges(manifest: Manifest, stage: PretrainStage | TrainStage) -> Iterator[Edge]:
    """The data sets that a training learns from, and the one that it is held against."""
    evaluation = held_out(stage)
    for name, settings in data_settings(stage.data, evaluation).items():
        yield _data_edge(manifest, name, {**settings})
    if evaluation is not None and evaluation.data:
        yield _data_edge(manifest, evaluation.data, role="eval")


def _reward_edges(manifest: Manifest, stage: TrainStage) -> Iterator[Edge]:
    """What rates the answers of a training that samples them: files of code, and reward models."""
    if not isinstance(stage, GrpoStage | RlooStage):
        return
    for label, one in stage.rewards.items():
        said: dict[str, JSON] = {"label": label, "weight": one.weight}
        if isinstance(one, RewardFunction):
            source = CodeFile(path=one.file)
            yield Edge(role="reward", name=label, source=source, settings={**said, "function": one.function})
        else:
            yield _edge(manifest, "reward_model", one.model, said)


def _data_edge(
    manifest: Manifest, name: str, settings: Mapping[str, JSON] | None = None, *, role: str = "data"
) -> Edge:
    data = manifest.data[name]
    return Edge(role=role, name=name, source=DataFile(path=data.path, format=data.format), settings=settings or {})


def model_under(workspace: Workspace, address: Address) -> Address | None:
    """The model that an adapter was trained on; ``None`` where ``address`` gives no adapter.

    Raises:
        InvalidError: A pinned adapter, whose base stands only in the history of another variant.
    """
    manifest = workspace.manifests.get(address.variant)
    if manifest is None:  # a base
        return None
    stage = manifest.stages.get(address.stage)
    if stage is None:
        return _base_of_import(manifest, address)
    if isinstance(stage, FuseStage):
        return _model_under_all(workspace, manifest, address.stage, stage)
    if isinstance(stage, ExtractStage):
        return resolve(manifest, stage.against)
    if not isinstance(stage, TrainStage | PretrainStage) or not stage.from_:
        return None
    start = resolve(manifest, stage.from_)
    return model_under(workspace, start) or (start if stage.adapter is not None else None)


def _model_under_all(workspace: Workspace, manifest: Manifest, name: str, stage: FuseStage) -> Address | None:
    """The one model that all adapters of a fuse stage are on."""
    under = {adapter: model_under(workspace, resolve(manifest, adapter)) for adapter in stage.adapters}
    if len(set(under.values())) > 1:
        models = ", ".join(f"{adapter} on {model}" for adapter, model in sorted(under.items()))
        raise InvalidError(
            f"its adapters are on different models: {models}",
            where=f"{manifest_file(manifest.variant)}: stages.{name}.adapters",
            mend="fuse adapters on one model, or fold each into a model and blend or extract from those",
        )
    return next(iter(under.values()))


def _base_of_import(manifest: Manifest, address: Address) -> Address | None:
    if address.stage == BASE:
        return None
    if address.stage in manifest.models:
        return None
    source = manifest.adapters[address.stage]
    if isinstance(source, FolderAdapter | HubAdapter):
        return Address(variant=BASES, stage=source.base)
    raise InvalidError(
        f"the base of the pinned adapter {address.stage!r} is not known here",
        where=f"{manifest_file(manifest.variant)}: adapters.{address.stage}",
        mend="name it by {variant, stage}, or fold it instead of training or evaluating it",
    )


def plain(value: object) -> JSON:
    """A setting as plain values, for an action."""
    if isinstance(value, Selector | Weighting):
        return value.to_json()
    if isinstance(value, tuple):
        return [plain(one) for one in value]
    if is_dataclass(value):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    return cast("JSON", value)
