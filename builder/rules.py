"""What manifests must keep beyond their shape: names that exist, types and formats that fit, no cycles. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, TypeAlias

from builder.adapter_rules import adapter_clashes, origin_clashes
from builder.blend_methods import clashes
from builder.kinds import KINDS
from builder.manifest import (
    BASE,
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
    effective,
    references,
    type_of,
)
from builder.measures import MEASURING, labels_of
from builder.reward_settings import RewardModel
from builder.row_shapes import normal_format
from builder.scorers import gives_scores, head_clashes, metric_clashes
from builder.shapes import nearest
from builder.stages.metrics import METRICS
from builder.train_data import data_names, held_out
from builder.train_rules import training_clashes
from builder.train_stages import TrainStage
from builder.weighting import ONE

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from builder.manifest import AdapterSource, BaseSource, Check, Manifest, Project
    from builder.settings import NetworkSettings
    from builder.shapes import Reading
    from builder.train_settings import PretrainTraining
    from registry.canonical import JSON
    from registry.yaml12 import KeyPath

__all__ = ["Draft", "check"]

_Node: TypeAlias = "tuple[str, str]"  # a variant and its stage
_FEWEST_LABELS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A manifest that may still have faults.

    Attributes:
        value: The plain document, whose names count as declared even where their tables are broken.
        manifest: What could be read of it.
        reading: Takes the faults.
    """

    value: JSON
    manifest: Manifest | None
    reading: Reading

    def names(self, table: str) -> set[str]:
        """The names in one of the document's tables."""
        found = self.value.get(table) if isinstance(self.value, dict) else None
        return set(found) if isinstance(found, dict) else set()

    def is_broken(self, key: str) -> bool:
        """Whether a table, or something in it, has a fault."""
        return any(f"{fault.key}.".startswith(f"{key}.") for fault in self.reading.faults)


def check(project: Project | None, bases: Collection[str] | None, drafts: Mapping[str, Draft]) -> None:
    """Put every fault that a look at all documents shows into their readings. Pure.

    Args:
        project: params.yaml; ``None`` where it has faults, and nothing is said on what depends on it.
        bases: Names that it declares; ``None`` where they are not known.
        drafts: The manifests by variant.
    """
    for draft in drafts.values():
        if draft.manifest is not None:
            scope = _Scope(manifest=draft.manifest, draft=draft, drafts=drafts, project=project, bases=bases)
            _check_sources(scope)
            for name in draft.manifest.stages:
                _check_settings(scope, name)
                _check_stage(scope, name)
            _check_release(scope)
    _check_cycles(drafts)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scope:
    """One manifest with what its names may point at."""

    manifest: Manifest
    draft: Draft
    drafts: Mapping[str, Draft]
    project: Project | None
    bases: Collection[str] | None

    def fault(self, path: KeyPath, problem: str, mend: str) -> None:
        self.draft.reading.fault(path, problem, mend)

    def known(self, path: KeyPath, name: str, names: Collection[str], called: str, *, of: str = "") -> bool:
        """Whether a name is declared, here or by what ``of`` names; reports it where it is not."""
        if name in names:
            return True
        if name:  # an empty one stands for a value whose fault is known
            owner, place = (f" of {of}", f" of {of}") if of else ("", " here")
            self.fault(path, f"unknown {called} {name!r}{owner}", nearest(name, names, f"{called}s{place}"))
        return False

    def artifacts(self) -> set[str]:
        """Every name that a stage can start from."""
        base = {BASE} if isinstance(self.draft.value, dict) and BASE in self.draft.value else set()
        return self.draft.names("stages") | self.draft.names("adapters") | self.draft.names("models") | base


def _check_sources(scope: _Scope) -> None:
    manifest = scope.manifest
    if manifest.base is not None:
        _check_source(scope, (BASE,), manifest.base, "model")
    for name, source in manifest.adapters.items():
        _check_source(scope, ("adapters", name), source, "adapter")
    for name, model in manifest.models.items():
        _check_source(scope, ("models", name), model, "model")
    mend = "rename one of them: they share one set of names"
    for name in sorted(scope.draft.names("adapters") & scope.draft.names("stages")):
        scope.fault(("adapters", name), f"{name!r} is a stage, too", mend)
    for name in sorted(scope.draft.names("models")):
        for table, called in (("stages", "a stage"), ("adapters", "an adapter")):
            if name in scope.draft.names(table):
                scope.fault(("models", name), f"{name!r} is {called}, too", mend)


def _check_source(scope: _Scope, path: KeyPath, source: BaseSource | AdapterSource, wanted: str) -> None:
    match source:
        case BaseName(name=base) if scope.bases is not None:
            scope.known(path, base, scope.bases, "base")
        case HubAdapter(base=base) | FolderAdapter(base=base) if scope.bases is not None:
            scope.known((*path, "base"), base, scope.bases, "base")
        case StageRef():
            _check_stage_ref(scope, path, source, wanted)
        case _:
            pass


def _check_stage_ref(scope: _Scope, path: KeyPath, source: StageRef, wanted: str) -> None:
    if source.variant == scope.manifest.variant:
        scope.fault(
            path, "a stage of this variant itself", f"name {source.stage!r} where it is used; it needs no entry"
        )
        return
    if not scope.known((*path, "variant"), source.variant, scope.drafts, "variant"):
        return
    other = scope.drafts[source.variant]
    if not scope.known((*path, "stage"), source.stage, other.names("stages"), "stage", of=source.variant):
        return
    found = type_of(other.manifest, source.stage) if other.manifest is not None else None
    if found not in {None, wanted}:
        mend = f"name a stage of {source.variant} that gives {_article(wanted)}"
        scope.fault(path, f"{source.variant}:{source.stage} gives {_article(str(found))}, not {_article(wanted)}", mend)


def _check_stage(scope: _Scope, name: str) -> None:
    path: KeyPath = ("stages", name)
    stage = scope.manifest.stages[name]
    if scope.project is not None and stage.kind not in scope.project.recipes:
        mend = f"write `{stage.kind}: {KINDS[stage.kind].recipe}` under `recipes:` in params.yaml"
        scope.fault((*path, "kind"), f"params.yaml pins no recipe of kind {stage.kind!r}", mend)
    match stage:
        case PretrainStage(from_=""):
            _check_mixture(scope, path, stage, stage.FORMATS)
            for key in ("adapter", "targets"):
                if getattr(stage, key) is not None:
                    scope.fault((*path, key), f"{key!r} without 'from'", "name under `from` what to go on training")
            if stage.network is None and not scope.draft.is_broken(f"stages.{name}.network"):
                scope.fault(
                    path, "neither 'from' nor 'network'", "describe a new `network`, or name what to go on from"
                )
        case _ if isinstance(stage, TrainStage | PretrainStage):
            _check_training(scope, path, stage)
        case EvaluateStage():
            _check_artifact(scope, (*path, "from"), stage.from_, ("model", "adapter"))
            if stage.against:
                _check_artifact(scope, (*path, "against"), stage.against, ("model", "adapter"))
            for label in stage.metrics:
                _check_metric(scope, (*path, "metrics", label), stage, label)
        case _:
            _check_weights(scope, path, stage)


def _check_weights(
    scope: _Scope, path: KeyPath, stage: FoldStage | FuseStage | BlendStage | ExtractStage | GraftStage | CastStage
) -> None:
    """What a stage that computes weights from weights points at."""
    for role, name in stage.references():
        wanted = "adapter" if role == "adapter" else "model"
        place = (*path, f"{role}s", name) if role in {"adapter", "model"} else (*path, role)
        _check_artifact(scope, place, name, (wanted,))
    if isinstance(stage, FoldStage) and stage.order and sorted(stage.order) != sorted(stage.adapters):
        mend = f"name each of {', '.join(stage.adapters)} once"
        scope.fault((*path, "order"), "it does not name every adapter once", mend)
    if isinstance(stage, BlendStage):
        for index, entry in enumerate(stage.layers):
            for name in entry:
                scope.known((*path, "layers", index, name), name, {*stage.models, stage.against} - {""}, "model")


def _check_settings(scope: _Scope, name: str) -> None:
    """What settings must keep together; only where every layer of them could be read."""
    if scope.project is None or scope.draft.is_broken(f"stages.{name}") or scope.draft.is_broken("defaults"):
        return
    stage = effective(scope.project, scope.manifest, name)
    path: KeyPath = ("stages", name)
    _check_adapter(scope, path, stage)
    if isinstance(stage, PretrainStage) and stage.network is not None:
        _check_network(scope, path, stage.network, stage.train)
    if isinstance(stage, TrainStage | PretrainStage):
        for clash in training_clashes(stage, _one_format(scope, stage)):
            scope.fault((*path, *clash.path), clash.problem, clash.mend)
    elif isinstance(stage, GraftStage):
        _check_graft(scope, path, stage)
    elif isinstance(stage, FuseStage):
        _check_fuse(scope, path, stage)
    elif isinstance(stage, BlendStage):
        for clash in clashes(stage):
            scope.fault((*path, *clash.path), clash.problem, clash.mend)


def _check_adapter(scope: _Scope, path: KeyPath, stage: object) -> None:
    """A new adapter's settings, what it goes with, and what can be done with those of other stages."""
    own = adapter_clashes(stage) if isinstance(stage, TrainStage | PretrainStage) else ()
    for clash in (*own, *origin_clashes(stage, scope.manifest.stages)):
        scope.fault((*path, *clash.path), clash.problem, clash.mend)


def _check_fuse(scope: _Scope, path: KeyPath, stage: FuseStage) -> None:
    """What the method of a fuse reads, and what it needs."""
    thins = stage.method not in {"concat", "linear"}
    cut = stage.rank > 0 or stage.energy is not None
    if stage.method == "concat" and cut:
        key = "energy" if stage.energy is not None else "rank"
        scope.fault((*path, key), "concat keeps every rank", f"take `{key}` out, or write `method: linear`")
    elif thins and not cut:
        scope.fault(path, f"{stage.method} leaves sums of full rank", "say `rank`, or the `energy` that decides it")
    if not thins and stage.density != ONE:
        scope.fault((*path, "density"), f"{stage.method} keeps every element", "take it out, or choose ties or dare")


def _check_graft(scope: _Scope, path: KeyPath, stage: GraftStage) -> None:
    """What a graft asks for must be something, and go together."""
    if not any((stage.vocabulary, stage.head, stage.untie, stage.layers, stage.context, stage.rope, stage.template)):
        mend = "say `vocabulary`, `head`, `untie`, `layers`, `context`, `rope` or `template`, or leave the stage out"
        scope.fault(path, "graft asks for nothing", mend)
    if stage.vocabulary is not None:
        tokens = [*stage.vocabulary.tokens, *stage.vocabulary.special]
        if twice := sorted({token for token in tokens if tokens.count(token) > 1}):
            scope.fault((*path, "vocabulary"), f"token {twice[0]!r} comes twice", "name each new token once")
        if not tokens and stage.vocabulary.multiple == 1:
            scope.fault((*path, "vocabulary"), "it adds no token", "name `tokens` or `special`, or a `multiple`")
    if stage.head is not None:
        labels, wanted = stage.head.labels, stage.head.type == "classification"
        if wanted and (len(labels) < _FEWEST_LABELS or len(set(labels)) < len(labels)):
            scope.fault((*path, "head", "labels"), "a classification needs two labels or more, each once", "name them")
        elif labels and not wanted:
            scope.fault((*path, "head", "labels"), f"a {stage.head.type} head has no labels", "take them out")


def _check_training(scope: _Scope, path: KeyPath, stage: TrainStage | PretrainStage) -> None:
    _check_mixture(scope, path, stage, stage.FORMATS)
    _check_artifact(scope, (*path, "from"), stage.from_, ("model", "adapter"))
    for clash in head_clashes(scope.manifest, stage):
        scope.fault((*path, *clash.path), clash.problem, clash.mend)
    _check_judges(scope, path, stage)
    if type_of(scope.manifest, stage.from_) != "adapter":
        return
    if stage.adapter is not None:
        problem = f"a new adapter on {stage.from_!r}, which is an adapter itself"
        mend = (
            f"take `adapter` out to go on training {stage.from_!r}; or fold {stage.from_!r} into a model in a stage of "
            "its own, and start from that"
        )
        scope.fault((*path, "adapter"), problem, mend)
    if stage.targets is not None:
        mend = "take `targets` out; its own targets are trained"
        scope.fault((*path, "targets"), f"{stage.from_!r} is an adapter, and has targets of its own", mend)


def _check_judges(scope: _Scope, path: KeyPath, stage: TrainStage | PretrainStage) -> None:
    """Models that a training holds its own against: a teacher, which writes; reward models, which score."""
    if isinstance(stage, DistillStage):
        _check_artifact(scope, (*path, "teacher"), stage.teacher, ("model",))
        if gives_scores(scope.manifest, stage.teacher):
            scope.fault((*path, "teacher"), f"{stage.teacher!r} scores texts", "name a model that writes them")
    if isinstance(stage, GrpoStage | RlooStage):
        for label, one in stage.rewards.items():
            if isinstance(one, RewardModel):
                place = (*path, "rewards", label, "model")
                _check_artifact(scope, place, one.model, ("model",))
                if gives_scores(scope.manifest, one.model) is False:
                    scope.fault(place, f"{one.model!r} writes texts", "name a stage of kind reward, which scores them")


def _check_artifact(scope: _Scope, path: KeyPath, name: str, wanted: tuple[str, ...]) -> None:
    if name == BASE and BASE not in scope.artifacts():
        scope.fault(path, "the manifest has no `base`", "declare it, or start from a pretrain stage")
        return
    if not scope.known(path, name, scope.artifacts(), "stage or adapter"):
        return
    found = type_of(scope.manifest, name)
    if found is not None and found not in wanted:
        expected = " or ".join(map(_article, wanted))
        scope.fault(path, f"{name!r} gives {_article(found)}, not {expected}", f"name {expected}")


def _check_data(scope: _Scope, path: KeyPath, name: str, formats: tuple[str, ...], user: str) -> str:
    """The format of a data set, once it is known to fit; else empty."""
    if not scope.known(path, name, scope.draft.names("data"), "data set") or name not in scope.manifest.data:
        return ""
    found = normal_format(scope.manifest.data[name].format)
    if found in formats:
        return found
    scope.fault(path, f"{name!r} holds {found}, {user} needs {' or '.join(formats)}", "name a data set of that format")
    return ""


def _check_mixture(scope: _Scope, path: KeyPath, stage: PretrainStage | TrainStage, formats: tuple[str, ...]) -> None:
    """The data sets that a training learns from, and the one that it is held against: all of one format."""
    place: KeyPath = (*path, "data")
    first = ""
    for name in data_names(stage.data):
        key = (*place, name) if _is_written(scope, place, name) else place
        found = _check_data(scope, key, name, formats, stage.kind)
        if first and found and found != first:
            scope.fault(key, f"{name!r} holds {found}, the sets before it {first}", "mix sets of one format")
        first = first or found
    evaluation = held_out(stage)
    if evaluation is None or not evaluation.data:
        return
    key = (*path, "eval", "data") if _is_written(scope, (*path, "eval"), "data") else (*path, "eval")
    found = _check_data(scope, key, evaluation.data, formats, stage.kind)
    if evaluation.data in data_names(stage.data):
        mend = "name another set, or write `eval: {share: 0.05}` to hold out a part of it"
        scope.fault(key, f"{evaluation.data!r} is what the stage learns from", mend)
    elif first and found and found != first:
        mend = "name a set of the same format"
        scope.fault(key, f"{evaluation.data!r} holds {found}, what is learnt holds {first}", mend)


def _one_format(scope: _Scope, stage: TrainStage | PretrainStage) -> str:
    """The format of what a training learns from; empty where it is not known."""
    sets = [scope.manifest.data.get(name) for name in data_names(stage.data)]
    found = {normal_format(one.format) for one in sets if one is not None}
    return found.pop() if len(found) == 1 else ""


def _check_network(scope: _Scope, path: KeyPath, network: NetworkSettings, training: PretrainTraining) -> None:
    place = (*path, "network")
    if network.hidden_size % network.heads:
        problem = f"{network.heads} heads do not divide a hidden size of {network.hidden_size}"
        scope.fault((*place, "heads"), problem, "make the hidden size a multiple of the heads")
    elif network.hidden_size // network.heads % 2:
        problem = f"a head is {network.hidden_size // network.heads} units wide"
        scope.fault((*place, "heads"), problem, "make every head an even number of units wide")
    if network.kv_heads and network.heads % network.kv_heads:
        problem = f"{network.kv_heads} key and value heads do not divide {network.heads} heads"
        scope.fault((*place, "kv_heads"), problem, "choose a divisor of `heads`")
    if network.architecture == "gpt2" and network.kv_heads not in {0, network.heads}:
        scope.fault((*place, "kv_heads"), "gpt2 has as many key and value heads as heads", "leave `kv_heads` out")
    if training.max_length > network.context:
        problem = f"sequences of {training.max_length} tokens, the network reads {network.context}"
        scope.fault((*path, "train", "max_length"), problem, f"write {network.context} or less, or raise `context`")


def _check_metric(scope: _Scope, path: KeyPath, stage: EvaluateStage, label: str) -> None:
    metric = stage.metrics[label]
    for clash in metric_clashes(scope.manifest, stage, label):
        scope.fault((*path, *clash.path), clash.problem, clash.mend)
    found = _check_data(scope, path, metric.data, METRICS[metric.metric].formats, metric.metric)
    if METRICS[metric.metric].of_two and not stage.against:
        scope.fault(path, f"{metric.metric} compares with `against`, which is missing", "add `against` to the stage")
    if found and found != "messages" and _is_written(scope, path, "turns"):
        scope.fault((*path, "turns"), f"rows of {found} have no turns to choose from", "take `turns` out")


def _is_written(scope: _Scope, path: KeyPath, key: str) -> bool:
    """Whether a key was written, rather than taken from the defaults."""
    table: JSON = scope.draft.value
    for part in path:
        table = table.get(str(part)) if isinstance(table, dict) else None
    return isinstance(table, dict) and key in table


def _check_release(scope: _Scope) -> None:
    manifest = scope.manifest
    if scope.known(("release",), manifest.release, scope.draft.names("stages"), "stage") and (
        type_of(manifest, manifest.release) == "report"
    ):
        problem = f"{manifest.release!r} gives a report, not a model or an adapter"
        scope.fault(("release",), problem, "name the stage that is to be published")
    for index, bound in enumerate(manifest.checks or ()):
        _check_bound(scope, ("checks", index), bound)


def _check_bound(scope: _Scope, path: KeyPath, bound: Check) -> None:
    if bound.min is not None and bound.max is not None and bound.min > bound.max:
        scope.fault(path, f"nothing is from {bound.min:g} to {bound.max:g}", "write the lower bound as `min`")
    if not scope.known((*path, "stage"), bound.stage, scope.draft.names("stages"), "stage"):
        return
    stage = scope.manifest.stages.get(bound.stage)
    if stage is None:
        return
    labels = labels_of(stage)
    if not labels:
        mend = f"name a stage of kind {', '.join(MEASURING[:-1])} or {MEASURING[-1]}"
        scope.fault((*path, "stage"), f"{bound.stage!r} is a {stage.kind} stage, and measures nothing", mend)
        return
    if not scope.known((*path, "metric"), bound.metric, labels, "label", of=bound.stage):
        return
    key = "max_increase" if bound.max_increase is not None else "max_decrease"
    if bound.max_increase is None and bound.max_decrease is None:
        return
    if not isinstance(stage, EvaluateStage):
        problem = f"{bound.metric!r} is what {bound.stage!r} itself cost, and is compared with nothing"
        scope.fault((*path, key), problem, "write `min` or `max`")
    elif not stage.against:
        mend = f"add `against` to {bound.stage!r}, or write `min` or `max`"
        scope.fault((*path, key), f"{bound.stage!r} compares with nothing", mend)
    elif METRICS[stage.metrics[bound.metric].metric].of_two:
        scope.fault((*path, key), f"{bound.metric!r} is a comparison itself", "write `min` or `max`")


def _check_cycles(drafts: Mapping[str, Draft]) -> None:
    """Report each cycle once, at its first stage by name."""
    graph = {node: sorted(_inputs(drafts[node[0]], node[1])) for node in _nodes(drafts)}
    while cycle := _cycle(graph):
        variant, stage = cycle[0]
        way = " -> ".join(f"{one}:{name}" for one, name in (*cycle, cycle[0]))
        drafts[variant].reading.fault(("stages", stage), f"a cycle: {way}", "let one of them start from something else")
        after = cycle[1 % len(cycle)]
        graph[after].remove(cycle[0])


def _nodes(drafts: Mapping[str, Draft]) -> list[_Node]:
    manifests = {variant: draft.manifest for variant, draft in drafts.items() if draft.manifest is not None}
    return [(variant, stage) for variant, manifest in manifests.items() for stage in manifest.stages]


def _inputs(draft: Draft, name: str) -> set[_Node]:
    """Stages, here and in other variants, whose artifacts a stage reads."""
    manifest = draft.manifest
    if manifest is None:
        return set()
    found: set[_Node] = set()
    for role, used in references(manifest.stages[name]):
        source = manifest.source(used)
        if role in {"data", "eval"}:
            continue
        if used in manifest.stages:
            found.add((manifest.variant, used))
        elif isinstance(source, StageRef) and source.variant != manifest.variant:
            found.add((source.variant, source.stage))
    return found


def _cycle(graph: Mapping[_Node, list[_Node]]) -> list[_Node]:
    """The stages of one cycle, each read by the next, the first by name leading; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[_Node] = error.args[1][:-1]
        first = found.index(min(found))
        return found[first:] + found[:first]
    return []


def _article(word: str) -> str:
    return f"an {word}" if word.startswith("a") else f"a {word}"
