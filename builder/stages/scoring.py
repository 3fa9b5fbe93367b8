"""The head that a model needs to score texts: the one that it has, or a new one in place of the language model's."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from builder.engines.ranks import is_first, wait_for_all
from builder.weight_stages import HeadSettings
from builder.weights.draft import Draft
from builder.weights.folder import read_model
from builder.weights.head import replace_head
from builder.weights.layout import rebuild_model
from builder.weights.quantisation import quantisation
from registry.errors import InvalidError
from registry.provenance import Provenance, ProvenanceInput
from registry.record import ComponentChange

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from builder.stage import Context, Input
    from builder.train_stages import RewardStage

__all__ = ["component_changes", "with_head"]

_HEAD: Final = "head"


def with_head(context: Context[RewardStage]) -> Input:
    """The model under ``from`` with a new head that gives one number, drawn from the training's seed.

    It stands in the stage's work folder, so that a resume finds it; all but the head is linked or copied.

    Raises:
        InvalidError: The model has another head, is quantised, or has no padding token.
        OSError: A file cannot be read or written.
    """
    source, stage = context.one("from"), context.settings
    folder, part = context.work / "headed", context.work / "headed.part"
    if is_first() and not folder.is_dir():
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        _write(part, source, HeadSettings(type="reward", seed=stage.train.seed))
        part.rename(folder)
    wait_for_all()
    return replace(source, path=folder)


def component_changes(changes: Iterable[ComponentChange], source: Path, *, is_new: bool) -> tuple[ComponentChange, ...]:
    """What happened to each component, with what a new head is and takes the place of.

    Args:
        changes: What was trained.
        source: Folder of the model that the stage started from.
        is_new: Whether the head is a new one.
    """
    if not is_new:
        return tuple(changes)
    network = read_model(source).network
    gone = [name for name, place in network.places.items() if place.is_in(_HEAD)]
    trained = tuple(replace(one, change="added") if one.component == _HEAD else one for one in changes)
    removed = ComponentChange(component=_HEAD, change="removed", layers="", tensors=len(gone), by="reward")
    return (*trained, removed) if gone else trained


def _write(out: Path, source: Input, settings: HeadSettings) -> None:
    model = read_model(source.path)
    draft: Any = Draft.of(model, where=source.source)
    if quantisation(draft.config):
        raise InvalidError(
            "the model is quantised; a new head would be trained on weights that are not",
            where=source.source,
            mend="dequantise it first, in a stage of kind cast",
        )
    draft = replace_head(draft, settings)
    digest = source.weights_digest
    provenance = Provenance(
        kind="reward",
        method="head",
        components=(_HEAD,),
        inputs=() if digest is None else (ProvenanceInput(role=source.role, weights_digest=digest),),
    )
    rebuild_model(out, model=model, contents=draft.contents, files=draft.changed_files(), provenance=provenance)
