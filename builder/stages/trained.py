"""What a training leaves: an adapter in float32, or a model in the dtypes it came in, rounded once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builder.engines.curve import curve_lines
from builder.engines.ranks import part
from builder.environment import COMPILED_LAYERS, DEPENDS_ON
from builder.stage import Outcome
from builder.stages.neighbours import neighbour_notes
from builder.stages.training import figures, remarks
from registry.components import Network, spell_layers
from registry.provenance import Provenance, ProvenanceInput
from registry.record import ComponentChange

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from builder.engines.job import Job, Trained
    from builder.stage import Context
    from builder.stages.subject import Subject
    from registry.safetensors import WrittenFile

__all__ = ["finish"]


def finish(
    context: Context[Any], kind: str, subject: Subject, trained: Trained, job: Job, *, notes: tuple[str, ...]
) -> Outcome:
    """Write the artifact and say what was done.

    Args:
        context: The stage.
        kind: Its kind.
        subject: What was trained.
        trained: What the engine gave back.
        job: What the engine was told.
        notes: What a reader of the record should know of the data.

    Raises:
        InvalidError: A tensor holds NaN or an infinity.
        OSError: A file cannot be written.
    """
    tensors = _trained(context, subject, trained, job)
    part()
    network = Network.from_tensors({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    change = "added" if subject.is_new else "overridden"
    together = neighbour_notes(job.training, job.split.micro_batch, measured=bool(trained.measured))
    provenance = _provenance(context, kind, subject.method, network)
    return Outcome(
        type="model" if subject.is_model else "adapter",
        written=_write(context.out, subject, tensors, provenance),
        components=tuple(
            ComponentChange(
                component=count.component, change=change, layers=count.layers, tensors=count.tensors, by=kind
            )
            for count in network.count(tensors)
        ),
        metrics=figures(trained),
        depends_on=(*DEPENDS_ON, COMPILED_LAYERS) if job.split.compiled else DEPENDS_ON,
        device=job.device.name,
        micro_batch=job.split.micro_batch,
        notes=(*notes, *subject.notes, *together, *remarks(trained, job)),
        device_memory_mib=trained.memory_mib,
        curve=curve_lines(trained.history, trained.measured),
    )


def _trained(context: Context[Any], subject: Subject, trained: Trained, job: Job) -> Mapping[str, Any]:
    """What was trained, by name; of a model that is in parts, where the parts are: it is nowhere whole."""
    if job.split.sharding == "none" or not subject.is_model:
        return subject.tensors(trained.model)
    from builder.engines.sharded import as_stored, keep  # noqa: PLC0415 - needs torch
    from builder.weights.folder import read_model  # noqa: PLC0415 - needs torch

    return as_stored(keep(trained.model, context.work), read_model(subject.folder))


def _write(out: Path, subject: Subject, tensors: Mapping[str, Any], provenance: Provenance) -> tuple[WrittenFile, ...]:
    """The artifact's files, from tensors in memory or from their parts."""
    from builder.engines.sharded import Part  # noqa: PLC0415 - needs torch
    from builder.weights.folder import read_model  # noqa: PLC0415 - needs torch
    from builder.weights.layout import rewrite_model  # noqa: PLC0415 - needs torch

    if not any(isinstance(one, Part) for one in tensors.values()):
        return subject.write(out, tensors, provenance)
    return rewrite_model(out, model=read_model(subject.folder), changed=tensors, provenance=provenance)


def _provenance(context: Context[Any], kind: str, method: str, network: Network) -> Provenance:
    models = [one for role in ("from", "base", "teacher", "reward_model") for one in context.all(role)]
    layers = {place.layer for place in network.places.values() if place.layer is not None}
    return Provenance(
        kind=kind,
        method=method,
        components=tuple(sorted({place.component for place in network.places.values()})),
        layers=spell_layers(layers),
        inputs=tuple(
            ProvenanceInput(role=one.role, weights_digest=one.weights_digest)
            for one in models
            if one.weights_digest is not None
        ),
        data=tuple(one.digest for one in context.all("data")),
    )
