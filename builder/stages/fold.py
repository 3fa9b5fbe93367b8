"""Kind ``fold``: adapters into a model.

What only adds is summed in the space of the deltas, in the order of the adapters' digests, and rounded once; so neither
the order of the manifest's mapping nor the number of adapters costs anything but the sum itself. Where an adapter does
something else to a weight that another one changes too, the order matters, and the manifest must say it.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from typing import TYPE_CHECKING

import torch

from builder.environment import prepare
from builder.stage import Context, Outcome
from builder.stages.adapted import did, read_parts
from builder.stages.changes import KEPT, component_map
from builder.stages.pedigree import digest_of
from builder.weights.dtypes import ROUNDED
from builder.weights.effect import Changed
from builder.weights.folder import ModelFolder, read_model
from builder.weights.layout import rewrite_model
from builder.weights.quantisation import quantisation
from builder.weights.saved import leaves_nothing
from registry.components import spell_layers
from registry.errors import InvalidError
from registry.provenance import Provenance, ProvenanceInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from builder.manifest import FoldStage
    from builder.stage import Input
    from builder.stages.adapted import AdapterPart
    from registry.components import Network
    from registry.record import ComponentChange

__all__ = ["fold"]


def fold(context: Context[FoldStage]) -> Outcome:
    """Put adapters into the model that they were trained on, or into a descendant of it.

    Raises:
        InvalidError: An adapter of an unrelated base or that does not fit, an order that matters and is not said, a
            quantised model, NaN or an infinity.
        MachineError: The runner asks for a GPU and there is none.
        OSError: A file cannot be read or written.
    """
    device = prepare(context.runner, gain="little")  # reading and writing take most of the time
    base = context.one("from")
    model = read_model(base.path)
    _check_floats(model)
    parts = read_parts(context.all("adapter"), base, model, taken="added")
    ordered = any("place" in one.settings for one in context.all("adapter"))
    changed = _changed(model, parts, ordered=ordered)
    context.say(f"fold: {len(changed)} of {len(model.tensors)} tensors change")
    written = rewrite_model(
        context.out,
        model=model,
        changed=changed,
        provenance=_provenance(base, parts, model.network, changed),
        threads=context.runner.threads,
        device=torch.device(device.kind),
    )
    exact = all(content.spec.dtype in ROUNDED for content in changed.values())
    exact = exact and not any(part.decomposes for part in parts)
    return Outcome(
        type="model",
        written=written,
        components=_changes(model.network, changed, parts),
        depends_on=() if exact else ("device", "versions"),
        device=device.name,
        notes=tuple(note for part in parts for note in part.notes),
    )


def _changed(model: ModelFolder, parts: Sequence[AdapterPart], *, ordered: bool) -> dict[str, Changed]:
    """Every tensor that changes, with its effects in order.

    Raises:
        InvalidError: Adapters whose order matters meet in one tensor, and no order was said; or one leaves nothing of
            what another one did.
    """
    users: dict[str, list[AdapterPart]] = defaultdict(list)
    for part in parts:
        for name in part.effects:
            users[name].append(part)
    for name, some in users.items():
        _check_lost(name, some, ordered=ordered)
        strange = [part for part in some if not part.effects[name].effect.additive]
        if strange and len(some) > 1 and not ordered:
            others = ", ".join(part.name for part in some if part is not strange[0])
            raise InvalidError(
                f"{strange[0].name} is {strange[0].type}, which is no sum, and {others} changes {name!r} too: "
                "the order matters",
                where=f"{strange[0].source} into {model.path.name}",
                mend="say it: `order: [first, second]`, or fold them in stages of their own",
            )
    return {
        name: Changed(base=model.tensors[name], effects=tuple(part.effects[name] for part in some))
        for name, some in users.items()
    }


def _check_lost(name: str, some: Sequence[AdapterPart], *, ordered: bool) -> None:
    """PEFT refuses two adapters that both hold a tensor whole; any order of them would lose one without a word."""
    for before, later in combinations(some, 2):
        ours, theirs = later.effects[name], before.effects[name]
        if leaves_nothing(ours, theirs) and (ordered or leaves_nothing(theirs, ours)):
            raise InvalidError(
                f"{later.name} puts numbers of its own in the place of {name!r}, or of some rows, "
                f"and nothing of {before.name} would be left there",
                where=f"{later.source} after {before.source}",
                mend="fold one of them only, or give the later one a weight below 1 there",
            )


def _check_floats(model: ModelFolder) -> None:
    if quantisation(model.config()):
        raise InvalidError(
            "the model is quantised; a sum would have to be rounded to its few bits",
            where=str(model.path),
            mend="fold into the 16-bit model that it was made from",
        )


def _provenance(base: Input, parts: Sequence[AdapterPart], network: Network, changed: Iterable[str]) -> Provenance:
    counts = network.count(changed)
    layers = {place.layer for name in changed if (place := network.places.get(name)) is not None}
    used = [part for part in parts if part.effects]
    inputs = [ProvenanceInput(role="from", weights_digest=digest_of(base))]
    inputs += [ProvenanceInput(role="adapter", weights_digest=part.weights_digest) for part in used]
    return Provenance(
        kind="fold",
        method="+".join(sorted({part.type for part in used})),
        components=tuple(sorted(count.component for count in counts)),
        layers=spell_layers(layer for layer in layers if layer is not None),
        inputs=tuple(sorted(inputs)),
    )


def _changes(
    network: Network, changed: Mapping[str, Changed], parts: Sequence[AdapterPart]
) -> tuple[ComponentChange, ...]:
    """What each component got, by which adapters; what none touched is kept."""
    done = dict.fromkeys(network.names, KEPT)
    for name, content in changed.items():
        done[name] = did(content.effects, [part for part in parts if name in part.effects])
    return component_map(network, done)
