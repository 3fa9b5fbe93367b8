"""What the ``adapter`` table of a training must keep together, within itself and with the rest of its stage. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.adapter_settings import FINISHED, UNFOLDED
from builder.adapter_types.lora import AdaloraSettings
from builder.adapter_types.prompts import PrefixTuningSettings, PromptTuningSettings
from builder.clash import Clash
from builder.matrix import AXES, Cell, refusals
from builder.train_stages import PretrainStage, TrainStage
from builder.weight_stages import FoldStage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from builder.adapter_settings import AdapterSettings

__all__ = ["adapter_clashes", "origin_clashes"]


def adapter_clashes(stage: TrainStage | PretrainStage) -> Iterator[Clash]:
    """What does not go with what; nothing of a stage without an adapter.

    Args:
        stage: The stage's table, defaults filled in.
    """
    settings = stage.adapter
    if settings is None:
        return
    cell = Cell(kind=stage.kind, adapter=settings.type, base=settings.base)
    for pair in refusals(cell):
        key = "base" if "base" in pair.axes else "type"
        yield Clash(path=("adapter", key), problem=pair.reason, mend=_mend(cell, key))
    if (clash := settings.clash()) is not None:
        yield clash._replace(path=("adapter", *clash.path))
    yield from _over_time(settings, stage)
    if isinstance(settings, PromptTuningSettings | PrefixTuningSettings) and getattr(stage.train, "packing", False):
        yield Clash(
            path=("train", "packing"),
            problem=f"{settings.type} puts its vectors before a sequence, and a packed one holds several rows",
            mend="write `packing: false`",
        )


def origin_clashes(stage: object, stages: Mapping[str, object]) -> Iterator[Clash]:
    """What cannot be done with adapters that other stages of the manifest train.

    Args:
        stage: A stage's table.
        stages: All stages of its manifest, by name.
    """
    if isinstance(stage, FoldStage):
        for name in stage.adapters:
            found = _trained_type(name, stages)
            if reason := UNFOLDED.get(found):
                problem = f"{name!r} is of type {found}, which cannot be folded: {reason}"
                yield Clash(path=("adapters", name), problem=problem, mend="serve it beside its model with PEFT")
    elif isinstance(stage, TrainStage | PretrainStage) and stage.adapter is None:
        found = _trained_type(stage.from_, stages)
        if reason := FINISHED.get(found):
            problem = f"{stage.from_!r} is of type {found}, which cannot go on training: {reason}"
            yield Clash(
                path=("from",), problem=problem, mend="train longer there, or fold it first if it can be folded"
            )


def _trained_type(name: str, stages: Mapping[str, object]) -> str:
    """Type of the new adapter that a stage ends in, itself or by going on with another's; empty where there is none."""
    seen: set[str] = set()
    while name not in seen:
        seen.add(name)
        stage = stages.get(name)
        if not isinstance(stage, TrainStage | PretrainStage):
            return ""
        if stage.adapter is not None:
            return stage.adapter.type
        name = stage.from_
    return ""


def _over_time(settings: AdapterSettings, stage: TrainStage | PretrainStage) -> Iterator[Clash]:
    """AdaLoRA needs steps to drop ranks in, and has its ranks only at the end."""
    steps = stage.train.steps
    if isinstance(settings, AdaloraSettings) and steps and settings.tinit + settings.tfinal >= steps - 1:
        yield Clash(
            path=("adapter", "tinit"),
            problem=f"of {steps} steps {settings.tinit} come before ranks are dropped, {settings.tfinal} after",
            mend="lower `tinit` and `tfinal`, or train longer",
        )
    if isinstance(settings, AdaloraSettings) and getattr(stage.train, "keep", "last") == "best":
        yield Clash(
            path=("train", "keep"),
            problem="adalora drops ranks until the end, and those of an earlier step are no longer there",
            mend="write `keep: last`",
        )


def _mend(cell: Cell, key: str) -> str:
    """Which other choices there are, in the place of the one that clashes."""
    axis = "adapter" if key == "type" else "base"
    others = [one for one in AXES[axis] if one != "none" and not any(refusals(_with(cell, axis, one)))]
    shown = ", ".join(others[:6]) + (" ..." if len(others) > 6 else "")  # noqa: PLR2004 - the first few
    return f"write `{key}:` {shown}; `varietal matrix` shows all" if others else "take `adapter` out"


def _with(cell: Cell, axis: str, value: str) -> Cell:
    if axis == "adapter":
        return Cell(kind=cell.kind, adapter=value, base=cell.base)
    return Cell(kind=cell.kind, adapter=cell.adapter, base=value)
