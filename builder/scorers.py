"""Which names of a manifest give models that score texts, and which give models that write them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.clash import Clash
from builder.stages.metrics import METRICS
from builder.train_stages import PretrainStage, RewardStage, TrainStage
from builder.weight_stages import CastStage, ExtractStage, FoldStage, GraftStage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.manifest import EvaluateStage, Manifest

__all__ = ["gives_scores", "head_clashes", "metric_clashes"]


def gives_scores(manifest: Manifest, name: str) -> bool | None:
    """Whether what a manifest calls ``name`` gives one number for a text, or an adapter on such a model.

    Returns:
        ``None`` where the manifest alone does not tell: a base, something of another variant, a classifier.
    """
    seen: set[str] = set()
    while name in manifest.stages and name not in seen:
        seen.add(name)
        match manifest.stages[name]:
            case RewardStage():
                return True
            case GraftStage(head=head) if head is not None:
                return None if head.type == "classification" else True
            case FoldStage(from_=start) | CastStage(from_=start) | GraftStage(from_=start) | ExtractStage(from_=start):
                name = start
            case stage if isinstance(stage, PretrainStage | TrainStage):
                return False
            case _:
                return None
    return None


def head_clashes(manifest: Manifest, stage: TrainStage | PretrainStage) -> Iterator[Clash]:
    """A training of what writes that starts from what scores, and an adapter on a head that is not there yet."""
    found = gives_scores(manifest, stage.from_)
    if found and not isinstance(stage, RewardStage):
        yield Clash(
            path=("from",),
            problem=f"{stage.from_!r} scores texts, and {stage.kind} trains models that write them",
            mend="start from what it was made from",
        )
    if found is False and isinstance(stage, RewardStage) and stage.adapter is not None:
        yield Clash(
            path=("adapter",),
            problem=f"{stage.from_!r} has no head that scores, and an adapter needs one under it",
            mend="put a stage of kind graft with `head: {type: reward}` between, or take `adapter` out",
        )


def metric_clashes(manifest: Manifest, stage: EvaluateStage, label: str) -> Iterator[Clash]:
    """A metric of models that score, measured on what writes, or the other way round; paths are within the metric."""
    name = stage.metrics[label].metric
    rates = METRICS[name].rates
    first = next(iter(stage.metrics.values())).metric
    if METRICS[first].rates != rates:
        yield Clash(
            path=(),
            problem=f"{name} and {first} are not of one model: one is of models that score, one of models that write",
            mend="measure each in a stage of its own",
        )
    for source in (stage.from_, stage.against):
        found = gives_scores(manifest, source)
        if found is not None and found != rates:
            does, wanted = ("scores", "write") if found else ("writes", "score")
            yield Clash(
                path=(),
                problem=f"{name} is measured on models that {wanted}, and {source!r} {does}",
                mend="name another metric",
            )
