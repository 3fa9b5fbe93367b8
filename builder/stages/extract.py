"""Kind ``extract``: the difference of two models as a LoRA adapter.

Each matrix that differs is subtracted in float64 and cut to a rank, one at a time. What no pair of factors can hold is
refused, saved whole or dropped, as the manifest says; what cannot be saved either is refused by name.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import torch

from builder.environment import prepare
from builder.stage import Context, Outcome
from builder.stages.changes import Did, component_map
from builder.stages.comparison import compare_models, some
from builder.stages.fits import FitTally
from builder.stages.pedigree import digest_of
from builder.weights.delta import delta_between
from builder.weights.lora_folder import LoraFolder, spool
from builder.weights.low_rank import Cut, cut_matrix
from builder.weights.stream import Checked
from registry.components import spell_layers
from registry.errors import InvalidError
from registry.provenance import Provenance, ProvenanceInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.manifest import ExtractStage
    from builder.stage import Input
    from builder.stages.comparison import Comparison
    from builder.weights.lora_folder import Adapted
    from builder.weights.stream import Content
    from registry.selector import Selector

__all__ = ["extract"]


def extract(context: Context[ExtractStage]) -> Outcome:
    """Make a LoRA adapter that turns one model into another.

    Raises:
        InvalidError: The models have other tensors, shapes or settings, or are quantised; nothing differs; something
            differs that no adapter holds, or that ``rest`` refuses; NaN or an infinity.
        MachineError: The runner asks for a GPU and there is none.
        OSError: A file cannot be read or written.
    """
    settings = context.settings
    device = prepare(context.runner)
    changed, against = context.one("from"), context.one("against")
    models, notes = compare_models(changed, against)
    chosen = _chosen(models, settings.targets)
    matrices = [name for name in chosen if models.is_matrix(name)]
    rest = [name for name in chosen if not models.is_matrix(name)]
    if settings.rest == "refuse" and rest:
        raise _refused(models, rest)
    kept = rest if settings.rest == "save" else []
    saved, biases = _saved(models, kept)
    fits = FitTally(kind="extract", say=context.say)
    causal = models.architecture.endswith(("ForCausalLM", "LMHeadModel"))
    adapted, empty = _adapted(context, models, matrices, fits, torch.device(device.kind))
    factored = [name for name in matrices if name not in empty]
    folder = LoraFolder(
        adapted=adapted,
        saved=saved,
        biases=biases,
        task_type="CAUSAL_LM" if causal else None,
    )
    written = folder.write(
        context.out,
        modules={models.module(name) for name in models.before.tensors},
        provenance=_provenance(models, [*factored, *kept], changed, against),
    )
    left = [name for name in models.differing if name not in set(chosen)]
    notes += (f"left out by targets, though they differ: {models.counts(left)}",) if left else ()
    dropped = rest if settings.rest == "drop" else []
    notes += (f"dropped, though they differ: {models.counts(dropped)}",) if dropped else ()
    notes += (f"differ by less than factors can hold: {models.counts(empty)}; {some(empty)}",) if empty else ()
    return Outcome(
        type="adapter",
        written=written,
        components=component_map(
            models.network,
            {
                **dict.fromkeys(factored, Did("added", "extract")),
                **dict.fromkeys(kept, Did("overridden", "extract")),
            },
        ),
        metrics=fits.metrics(),
        depends_on=("device", "versions", "threads"),
        device=device.name,
        notes=(*notes, fits.note()),
    )


def _chosen(models: Comparison, targets: Selector | None) -> tuple[str, ...]:
    """What is extracted of all that differs.

    Raises:
        InvalidError: The selector matches nothing, or nothing that differs.
    """
    selected = set(models.network.names if targets is None else models.network.select(targets))
    chosen = tuple(name for name in models.differing if name in selected)
    if not chosen:
        raise InvalidError(
            f"nothing of what targets means differs; what does: {models.counts(models.differing)}",
            where=models.where,
            mend="select some of that, or leave `targets` out",
        )
    return chosen


def _adapted(
    context: Context[ExtractStage], models: Comparison, matrices: Sequence[str], fits: FitTally, device: torch.device
) -> tuple[tuple[Adapted, ...], list[str]]:
    """Each matrix's pair of factors, on disk; and the names of those that have none, since the difference is too small.

    Its squares are nothing in float64 then.
    """
    settings = context.settings
    cut = Cut(rank=settings.rank) if settings.energy is None else Cut(energy=settings.energy)
    work = context.work / "factors"
    shutil.rmtree(work, ignore_errors=True)  # what a killed run left is not looked at
    work.mkdir(parents=True)
    adapted, empty = [], []
    for number, name in enumerate(matrices):
        module, embedding, conv1d = models.module(name), models.is_embedding(name), models.is_conv1d(name)
        delta = delta_between(models.after.tensors[name], models.before.tensors[name], device)
        pair = cut_matrix(delta.T if embedding or conv1d else delta, cut)
        if not pair.rank:
            empty.append(name)
            continue
        fits.add(module, models.network.component_of(name), pair)
        adapted.append(spool(work / f"{number}.safetensors", module, pair, embedding=embedding, conv1d=conv1d))
    return tuple(adapted), empty


def _refused(models: Comparison, rest: Sequence[str]) -> InvalidError:
    if shared := [name for name in rest if models.is_shared(name)]:
        return _shared(models, shared[0])
    return InvalidError(
        f"{models.counts(rest)} differ, which no factors hold; {some(rest)}",
        where=models.where,
        mend="write `rest: save` to keep them whole or `rest: drop`, or leave them out by `targets`",
    )


def _shared(models: Comparison, name: str) -> InvalidError:
    return InvalidError(
        f"{name!r} differs and is the head, too: an adapter on it would change one of both only",
        where=models.where,
        mend="untie both models first (a stage of kind graft, with untie: true), or leave it out by `targets`",
    )


def _saved(models: Comparison, names: Sequence[str]) -> tuple[dict[str, Mapping[str, Content]], dict[str, Content]]:
    """What PEFT keeps beside factors: modules saved whole, and biases of modules that are not.

    Raises:
        InvalidError: It has no place for one of them.
    """
    modules: dict[str, Mapping[str, Content]] = {}
    biases: dict[str, Content] = {}
    for name in names:
        if models.is_shared(name):
            raise _shared(models, name)
        if models.is_bias(name):
            biases[models.module(name)] = Checked(stored=models.after.tensors[name])
        elif models.is_vector(name):
            owner = name.rpartition(".")[0]
            own = {other: stored for other, stored in models.after.tensors.items() if other.rpartition(".")[0] == owner}
            modules[models.module(name)] = {
                other.rpartition(".")[2]: Checked(stored=stored) for other, stored in own.items()
            }
        else:
            raise InvalidError(
                f"{name!r} differs, and PEFT neither puts LoRA on it nor saves it: "
                f"{models.network.component_of(name)} of shape {list(models.before.tensors[name].info.shape)}",
                where=models.where,
                mend="leave it out by `targets`, or write `rest: drop`",
            )
    return modules, biases


def _provenance(models: Comparison, names: Sequence[str], changed: Input, against: Input) -> Provenance:
    places = [place for name in names if (place := models.network.places.get(name)) is not None]
    inputs = [
        ProvenanceInput(role="base", weights_digest=digest_of(against)),
        ProvenanceInput(role="from", weights_digest=digest_of(changed)),
    ]
    return Provenance(
        kind="extract",
        method="lora",
        components=tuple(sorted({place.component for place in places})),
        layers=spell_layers({place.layer for place in places if place.layer is not None}),
        inputs=tuple(sorted(inputs)),
    )
