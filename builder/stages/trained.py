"""What a training leaves: an adapter in float32, or a model in the dtypes it came in, rounded once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builder.environment import DEPENDS_ON
from builder.stage import Outcome
from builder.stages.training import figures, remarks
from registry.components import Network, spell_layers
from registry.provenance import Provenance, ProvenanceInput
from registry.record import ComponentChange

if TYPE_CHECKING:
    from builder.engines.job import Job, Trained
    from builder.stage import Context
    from builder.stages.subject import Subject

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
    tensors = subject.tensors(trained.model)
    network = Network.from_tensors({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    change = "added" if subject.method == "lora" else "overridden"
    provenance = _provenance(context, kind, subject.method, network)
    return Outcome(
        type="model" if subject.is_model else "adapter",
        written=subject.write(context.out, tensors, provenance),
        components=tuple(
            ComponentChange(
                component=count.component, change=change, layers=count.layers, tensors=count.tensors, by=kind
            )
            for count in network.count(tensors)
        ),
        metrics=figures(trained),
        depends_on=DEPENDS_ON,
        device=job.device.name,
        micro_batch=job.split.micro_batch,
        notes=(*notes, *remarks(trained, job)),
    )


def _provenance(context: Context[Any], kind: str, method: str, network: Network) -> Provenance:
    models = [one for role in ("from", "base") for one in context.all(role)]
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
