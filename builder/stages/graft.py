"""Kind ``graft``: another shape for a model, whatever it computes with.

What is asked for is done in one order: layers, context and rope, vocabulary, untie, head, template. Tensors that
nothing is done to keep their bytes, and a file that holds only such is linked; of other files only what must change
does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.environment import prepare
from builder.stage import Context, Outcome
from builder.stages.changes import KEPT, Did, component_map
from builder.stages.chat_template import set_template
from builder.stages.pedigree import digest_of
from builder.weights.context import set_context
from builder.weights.draft import Draft
from builder.weights.drawn import Drawn
from builder.weights.dtypes import ROUNDED
from builder.weights.folder import read_model
from builder.weights.head import replace_head
from builder.weights.layers import choose_layers
from builder.weights.layout import rebuild_model
from builder.weights.quantisation import quantisation
from builder.weights.untie import untie_head
from builder.weights.vocabulary import extend_vocabulary
from registry.components import layer_of, spell_layers
from registry.errors import InvalidError
from registry.provenance import Provenance, ProvenanceInput
from registry.record import Renumbered

if TYPE_CHECKING:
    from builder.stage import Input
    from builder.weight_stages import GraftStage
    from registry.record import ComponentChange

__all__ = ["graft"]


def graft(context: Context[GraftStage]) -> Outcome:
    """Change a model's layers, positions, vocabulary, head or chat template.

    Raises:
        NotFoundError: A file that is needed is not there.
        InvalidError: Nothing is asked for, a model that is quantised or of a family that is not known, or what
            is asked for does not fit the model.
        MachineError: The runner asks for a GPU and there is none.
        OSError: A file cannot be read or written.
    """
    device = prepare(context.runner, gain="none")
    settings, base = context.settings, context.one("from")
    model = read_model(base.path)
    draft = Draft.of(model, where=base.source)
    template = context.find("template")
    _check(draft, settings, template)
    done: list[str] = []
    if settings.layers:
        draft = choose_layers(draft, settings.layers)
        done.append("layers")
    if settings.context or settings.rope is not None:
        draft = set_context(draft, settings.context, settings.rope)
        done.append("context" if settings.rope is None else "rope")
    if settings.vocabulary is not None:
        draft = extend_vocabulary(draft, settings.vocabulary)
        done.append("vocabulary")
    if settings.untie:
        draft = untie_head(draft)
        done.append("untie")
    if settings.head is not None:
        draft = replace_head(draft, settings.head)
        done.append("head")
    if template is not None:
        draft = set_template(draft, template)
        done.append("template")
    context.say(f"graft: {', '.join(done)}; {len(draft.changes)} of {len(draft.contents)} tensors are new")
    written = rebuild_model(
        context.out,
        model=model,
        contents=draft.contents,
        files=draft.changed_files(),
        provenance=_provenance(base, draft, "+".join(done)),
        threads=context.runner.threads,
    )
    return Outcome(
        type="model",
        written=written,
        components=_changes(draft),
        depends_on=("device", "versions") if _is_inexact(draft, settings) else (),
        device=device.name,
        notes=draft.notes,
        renumbered=(Renumbered(digest=base.digest, what="layers"),) if draft.renumbered else (),
    )


def _check(draft: Draft, settings: GraftStage, template: Input | None) -> None:
    asked = (settings.vocabulary, settings.head, settings.untie, settings.layers, settings.context, settings.rope)
    if not any(asked) and template is None:
        raise InvalidError(
            "graft asks for nothing",
            where=draft.where,
            mend="say `vocabulary`, `head`, `untie`, `layers`, `context`, `rope` or `template`, or leave the stage out",
        )
    if quantisation(draft.config):
        raise InvalidError(
            "the model is quantised; its tensors are no rows of weights",
            where=draft.where,
            mend="dequantise it first, in a stage of kind cast",
        )


def _is_inexact(draft: Draft, settings: GraftStage) -> bool:
    """Whether random numbers are stored with so many bits that the last ones of a logarithm show."""
    spread = settings.vocabulary is not None and settings.vocabulary.start == "normal"
    return any(
        content.spec.dtype not in ROUNDED
        for name, content in draft.contents.items()
        if (isinstance(content, Drawn) and content.deviation) or (spread and draft.changes.get(name) == "overridden")
    )


def _provenance(base: Input, draft: Draft, method: str) -> Provenance:
    layers = {layer for name in (*draft.changes, *draft.removed) if (layer := layer_of(name)) is not None}
    components = {draft.network.component_of(name) for name in draft.changes}
    components |= {draft.model.network.component_of(name) for name in draft.removed}
    return Provenance(
        kind="graft",
        method=method,
        components=tuple(sorted(components)),
        layers=spell_layers(layers),
        inputs=(ProvenanceInput(role="from", weights_digest=digest_of(base)),),
    )


def _changes(draft: Draft) -> tuple[ComponentChange, ...]:
    """What each component of the result went through, and what is left of none."""
    done = {name: Did(change, "graft") for name, change in draft.changes.items()}
    here = component_map(draft.network, dict.fromkeys(draft.contents, KEPT) | done)
    return (*here, *component_map(draft.model.network, dict.fromkeys(draft.removed, Did("removed", "graft"))))
