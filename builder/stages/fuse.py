"""Kind ``fuse``: adapters on one model into one LoRA adapter.

``concat`` puts factors side by side, which is exact but for the rounding to float32. The other methods work on the
deltas, ``f(W) - W`` of each adapter by itself, one weight at a time, and cut what comes out to a rank. What no pair of
factors can hold goes along as it is where one adapter alone has it, with weight 1; else it is refused by name.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from builder.environment import prepare
from builder.stage import Context, Outcome
from builder.stages.adapted import adapted_tensors, did, read_parts
from builder.stages.carried import carry
from builder.stages.changes import component_map
from builder.stages.fits import FitTally
from builder.stages.pedigree import digest_of
from builder.weighting import ONE
from builder.weights.folder import read_model
from builder.weights.joined import Joining, Term, join_deltas
from builder.weights.lora_folder import Adapted, spool
from builder.weights.low_rank import Cut
from builder.weights.saved import Rows
from builder.weights.site import is_tied
from builder.weights.tied import TOKEN_EMBEDDING
from registry.components import spell_layers
from registry.errors import InvalidError
from registry.provenance import Provenance, ProvenanceInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.manifest import FuseStage
    from builder.stage import Input
    from builder.stages.adapted import AdaptedTensor, AdapterPart
    from registry.components import Network

__all__ = ["fuse"]

_SUMS = frozenset({"concat", "linear"})


def fuse(context: Context[FuseStage]) -> Outcome:
    """Make one LoRA adapter of several adapters, or of one that is of another type.

    Raises:
        InvalidError: An adapter of an unrelated base or that does not fit; a rank where there is none to choose, or
            none where there is; what neither factors nor a single adapter can give; NaN or an infinity.
        MachineError: The runner asks for a GPU and there is none.
        OSError: A file cannot be read or written.
    """
    settings = context.settings
    _check(settings)
    device = prepare(context.runner)
    base = context.one("base")
    model = read_model(base.path)
    parts = read_parts(context.all("adapter"), base, model)
    tensors = adapted_tensors(model, parts)
    matrices = [tensor for tensor in tensors if tensor.is_matrix]
    if is_tied(model):
        _check_shared(tensors)
    if settings.method == "concat":
        _check_sums(matrices)
    whole = [tensor for tensor in tensors if not tensor.is_matrix]
    folder = carry(whole, model)
    fits = FitTally(kind="fuse", say=context.say)
    densities = settings.density.resolve(model.network)
    adapted, empty, portable = _adapted(context, matrices, densities, fits, torch.device(device.kind))
    factored = {one.module for one in adapted}
    held = [*(tensor for tensor in matrices if tensor.module in factored), *whole]
    used = [part for part in parts if any(part is one for tensor in held for one in tensor.parts)]
    types = {part.task_type for part in used}
    written = replace(folder, adapted=tuple(adapted), task_type=types.pop() if len(types) == 1 else None).write(
        context.out,
        modules={name.rpartition(".")[0] for name in model.tensors},
        provenance=_provenance(base, used, held, model.network, settings.method),
    )
    portable = portable and not any(part.decomposes for part in parts)
    return Outcome(
        type="adapter",
        written=written,
        components=component_map(model.network, {tensor.name: did(tensor.effects, tensor.parts) for tensor in held}),
        metrics=fits.metrics(),
        depends_on=() if portable else ("device", "versions", "threads"),
        device=device.name,
        notes=(*(note for part in parts for note in part.notes), *empty, fits.note()),
    )


def _check(settings: FuseStage) -> None:
    """What the method has no use for, or cannot do without.

    Raises:
        InvalidError: A rank for a method that takes none, or none for one that leaves full ranks; a density for a
            method that drops nothing.
    """
    where = f"fuse by {settings.method}"
    limited = settings.rank > 0 or settings.energy is not None
    if settings.method == "concat" and limited:
        mend = "take `rank` and `energy` out, or write `method: linear`, which cuts the sum to a rank"
        raise InvalidError("concat keeps every factor, so there is no rank to choose", where=where, mend=mend)
    if settings.method not in _SUMS and not limited:
        mend = "write `rank`, or `energy`, the share of each delta's squared norm to keep"
        raise InvalidError(f"{settings.method} leaves deltas of full rank", where=where, mend=mend)
    if settings.method in _SUMS and settings.density != ONE:
        mend = "take `density` out, or use ties, dare_linear or dare_ties"
        raise InvalidError(f"{settings.method} drops nothing, so it has no density", where=where, mend=mend)


def _check_shared(tensors: Sequence[AdaptedTensor]) -> None:
    """An embedding that is the head, too, is two modules to PEFT: one change to both would be no plain LoRA.

    Raises:
        InvalidError: An adapter changes it by more than rows of tokens, which PEFT ties by itself.
    """
    for tensor in tensors:
        if tensor.component == TOKEN_EMBEDDING and not all(isinstance(one.effect, Rows) for one in tensor.effects):
            raise tensor.refused(
                f"{tensor.parts[0].name} changes {tensor.name}, which is the head, too: the change would have to be "
                "there twice",
                "untie the model first (a stage of kind graft, with untie: true), or fold the adapter into it",
            )


def _check_sums(matrices: Sequence[AdaptedTensor]) -> None:
    """Only what is added whatever the weight is, is a product of factors.

    Raises:
        InvalidError: An adapter does something else.
    """
    for tensor in matrices:
        for part in tensor.parts:
            if not part.effects[tensor.name].effect.additive:
                raise tensor.refused(
                    f"{part.name} is {part.type} and what it does to {tensor.name} depends on the weight: "
                    "no factors are put side by side for that",
                    "write `method: linear`, and a `rank` or an `energy`: it takes what comes out less the weight",
                )


def _adapted(
    context: Context[FuseStage],
    matrices: Sequence[AdaptedTensor],
    densities: Mapping[str, float],
    fits: FitTally,
    device: torch.device,
) -> tuple[list[Adapted], list[str], bool]:
    """Each matrix's pair of factors, on disk.

    Returns:
        The pairs; notes on matrices that have none, since the sum is zero; whether every machine gives these bytes.
    """
    settings = context.settings
    work = context.work / "factors"
    shutil.rmtree(work, ignore_errors=True)  # what a killed run left is not looked at
    work.mkdir(parents=True)
    cut = Cut(rank=settings.rank or None, energy=settings.energy)
    adapted, empty, portable = [], [], True
    for number, tensor in enumerate(matrices):
        joining = Joining(method=settings.method, cut=cut, density=densities[tensor.name], seed=settings.seed)
        terms = [Term(applied=part.effects[tensor.name], weights_digest=part.weights_digest) for part in tensor.parts]
        pair = join_deltas(terms, tensor.stored, joining, device, work)
        portable = portable and pair.portable
        if not pair.rank:
            empty.append(f"what is added to {tensor.module} is zero: it has no factors")
            continue
        fits.add(tensor.module, tensor.component, pair)
        conv1d = terms[0].applied.transposed and not tensor.embedding
        path = work / f"{number}.safetensors"
        adapted.append(spool(path, tensor.module, pair, embedding=tensor.embedding, conv1d=conv1d))
    return adapted, empty, portable


def _provenance(
    base: Input, parts: Sequence[AdapterPart], tensors: Sequence[AdaptedTensor], network: Network, method: str
) -> Provenance:
    places = [place for tensor in tensors if (place := network.places.get(tensor.name)) is not None]
    inputs = [ProvenanceInput(role="base", weights_digest=digest_of(base))]
    inputs += [ProvenanceInput(role="adapter", weights_digest=part.weights_digest) for part in parts]
    return Provenance(
        kind="fuse",
        method=method,
        components=tuple(sorted({tensor.component for tensor in tensors})),
        layers=spell_layers({place.layer for place in places if place.layer is not None}),
        inputs=tuple(sorted(inputs)),
    )
