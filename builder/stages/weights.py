"""Stages that compute weights from weights. ``fold``: adapters into a model.

The adapters are summed in the space of their deltas, in the order of their digests, and rounded once; so neither the
order of the manifest's mapping nor their number costs anything but the sum itself.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.stage import Context, Outcome
from builder.weights.adapters import Adapter, read_adapter
from builder.weights.folder import ModelFolder, read_model
from builder.weights.layout import rewrite_model
from builder.weights.stream import Summed, Term
from registry.components import spell_layers
from registry.errors import InvalidError
from registry.provenance import Provenance, ProvenanceInput
from registry.record import ComponentChange

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from builder.manifest import FoldStage
    from builder.stage import Input
    from registry.components import Network
    from registry.digest import Digest

__all__ = ["fold"]

_ROUNDED_DTYPES = frozenset({"F16", "BF16"})  # so few bits that the float64 sum's last ones do not show


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """One adapter of the fold, checked against the model."""

    name: str
    weights_digest: Digest
    terms: Mapping[str, Term]
    notes: tuple[str, ...]


def fold(context: Context[FoldStage]) -> Outcome:
    """Add LoRA adapters into the model that they were trained on, or into a descendant of it.

    Raises:
        InvalidError: An adapter of an unrelated base or that does not fit, a quantised model, NaN or an infinity.
        OSError: A file cannot be read or written.
    """
    base = context.one("from")
    model = read_model(base.path)
    _check_floats(model)
    parts = [_part(one, base, model) for one in sorted(context.all("adapter"), key=_order)]
    terms: dict[str, tuple[Term, ...]] = defaultdict(tuple)
    for part in parts:
        for name, term in part.terms.items():
            terms[name] += (term,)
    changed = {name: Summed(base=model.tensors[name], terms=added) for name, added in terms.items()}
    context.say(f"fold: {len(changed)} of {len(model.tensors)} tensors change")
    written = rewrite_model(
        context.out,
        model=model,
        changed=changed,
        provenance=_provenance(base, parts, model.network, changed),
        threads=context.runner.threads,
    )
    exact = all(content.spec.dtype in _ROUNDED_DTYPES for content in changed.values())
    return Outcome(
        type="model",
        written=written,
        components=_changes(model.network, parts),
        depends_on=() if exact else ("device", "versions"),
        notes=tuple(note for part in parts for note in part.notes),
    )


def _order(one: Input) -> tuple[Digest, float]:
    """By digest: an order that no manifest can change."""
    return one.digest, _weight(one)


def _weight(one: Input) -> float:
    weight = one.settings.get("weight", 1.0)
    if not isinstance(weight, int | float) or isinstance(weight, bool) or not math.isfinite(weight):
        raise InvalidError(f"weight {weight!r} is no number", where=f"adapter {one.name}", mend="write a finite number")
    return float(weight)


def _part(one: Input, base: Input, model: ModelFolder) -> _Part:
    adapter = read_adapter(one.path)
    notes = _check_base(adapter, one, base)
    weight = _weight(one)
    terms = adapter.terms(model, weight=weight)
    if weight == 0:  # the law of a sum: nothing is added, so nothing is touched
        terms, notes = {}, (*notes, f"adapter {one.name} has weight 0: nothing of it was added")
    return _Part(name=one.name, weights_digest=_digest_of(one), terms=terms, notes=notes)


def _digest_of(one: Input) -> Digest:
    if one.weights_digest is None:
        raise InvalidError("the artifact holds no tensors", where=one.source, mend="name a model or an adapter")
    return one.weights_digest


def _check_base(adapter: Adapter, one: Input, base: Input) -> tuple[str, ...]:
    """The adapter must have been trained on this model, or on an ancestor of it; the second is noted."""
    trained_on, ours = _trained_on(adapter), _digest_of(base)
    if trained_on == ours:
        return ()
    if trained_on in base.ancestors:
        return (f"adapter {one.name} was rebased: trained on weights {trained_on.short}, an ancestor of {base.name}",)
    raise InvalidError(
        f"adapter {one.name} has an unrelated base: it was trained on weights {trained_on}, "
        f"{base.name} has {ours} and does not descend from them",
        where=f"{one.source} into {base.source}",
        mend="fold it into the model that it was trained on or a descendant of it, or train it again on this one",
    )


def _trained_on(adapter: Adapter) -> Digest:
    stated = adapter.provenance.inputs if adapter.provenance is not None else ()
    by_role = {one.role: one.weights_digest for one in stated}
    found = by_role.get("base", by_role.get("from"))  # `from` is an adapter where training went on with one
    if found is None:
        raise InvalidError(
            "the adapter does not say what it was trained on",
            where=str(adapter.path),
            mend="name it under `adapters:` with its `base`, so that it is imported",
        )
    return found


def _check_floats(model: ModelFolder) -> None:
    if "quantization_config" in model.config():
        raise InvalidError(
            "the model is quantised; a sum would have to be rounded to its few bits",
            where=str(model.path),
            mend="fold into the 16-bit model that it was made from",
        )


def _provenance(base: Input, parts: Iterable[_Part], network: Network, changed: Iterable[str]) -> Provenance:
    counts = network.count(changed)
    layers = {place.layer for name in changed if (place := network.places.get(name)) is not None}
    inputs = [ProvenanceInput(role="from", weights_digest=_digest_of(base))]
    inputs += [ProvenanceInput(role="adapter", weights_digest=part.weights_digest) for part in parts]
    return Provenance(
        kind="fold",
        method="lora",
        components=tuple(sorted(count.component for count in counts)),
        layers=spell_layers(layer for layer in layers if layer is not None),
        inputs=tuple(sorted(inputs)),
    )


def _changes(network: Network, parts: Iterable[_Part]) -> tuple[ComponentChange, ...]:
    """What each component got, by which adapters; what none touched is kept."""
    by_tensor: dict[str, tuple[str, ...]] = dict.fromkeys(network.names, ())
    for part in parts:
        for name in part.terms:
            by_tensor[name] = tuple(sorted({*by_tensor[name], part.name}))
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, adapters in by_tensor.items():
        groups[adapters].append(name)
    words = {0: "kept", 1: "added"}
    return tuple(
        ComponentChange(
            component=count.component,
            change=words.get(len(adapters), "composed"),
            layers=count.layers,
            tensors=count.tensors,
            by=", ".join(adapters),
        )
        for adapters, names in sorted(groups.items())
        for count in network.count(names)
    )
