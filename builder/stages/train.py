"""Training on what exists, by ``sft`` and ``dpo``: whole models, chosen components, new adapters, adapters that go on.

1. Fix the machine: device, threads, determinism; a resumed training keeps the threads and the split it began with.
2. Open what ``from`` names, and settle what is trained in it.
3. Turn the rows into tokens.
4. Train, from the last sealed checkpoint if there is one.
5. Write what was trained: an adapter in float32; a model in the dtypes it came in, rounded once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from builder.environment import DEPENDS_ON
from builder.rows import read_rows
from builder.stage import Outcome
from builder.stages.subject import open_subject
from builder.stages.tokens import encode_messages, encode_pairs, encode_texts, pack
from builder.stages.training import figures, make_job, remarks, start
from registry.components import Network, spell_layers
from registry.errors import InvalidError
from registry.provenance import Provenance, ProvenanceInput
from registry.record import ComponentChange

if TYPE_CHECKING:
    from builder.engines.trl import Job, Trained
    from builder.manifest import DpoStage, SftStage
    from builder.stage import Context, Input
    from builder.stages.subject import Subject
    from builder.stages.tokens import Encoded

__all__ = ["dpo", "sft"]


def sft(context: Context[SftStage]) -> Outcome:
    """Train on conversations or texts.

    Raises:
        InvalidError: Rows, selector or chat template do not do.
        MachineError: The loss is no number, or the device or its memory does not do.
    """
    stage, data = context.settings, context.one("data")
    device = start(context)
    from builder.engines.quiet import quiet  # noqa: PLC0415 - the libraries read what start() has set
    from builder.engines.trl import train_sft  # noqa: PLC0415

    with quiet():
        subject = open_subject(context, device)
        encoded = _encode(subject.tokenizer, data, stage)
        _check_context(subject.model, max(max(example.lengths) for example in encoded.examples), data)
        examples, longest = encoded.examples, max(len(example.input_ids) for example in encoded.examples)
        job = make_job(context, device, stage.train, rows=len(examples), row_tokens=longest, model=subject.model)
        trained = train_sft(
            job,
            subject.model,
            subject.tokenizer,
            examples,
            packed=stage.train.packing,
            new_adapter=subject.new_adapter,
        )
        return _finish(
            context, "sft", subject, trained, job, notes=(*encoded.notes(), *_unlearnt_end(subject.tokenizer, encoded))
        )


def dpo(context: Context[DpoStage]) -> Outcome:
    """Train on preferences, by direct preference optimisation.

    The reference is what ``from`` names, as it came: the model, or the model with its adapter.

    Raises:
        InvalidError: Rows, selector or chat template do not do.
        MachineError: The loss is no number, or the device or its memory does not do.
    """
    stage, data = context.settings, context.one("data")
    device = start(context)
    from builder.engines.quiet import quiet  # noqa: PLC0415 - the libraries read what start() has set
    from builder.engines.trl import train_dpo  # noqa: PLC0415

    with quiet():
        subject = open_subject(context, device)
        limit = stage.train.max_length
        rows = read_rows(data.path, "preference", where=data.file)
        encoded = encode_pairs(subject.tokenizer, rows, max_length=limit, where=data.source)
        pairs, longest = encoded.pairs, max(pair.longest(limit) for pair in encoded.pairs)
        _check_context(subject.model, longest, data)
        job = make_job(context, device, stage.train, rows=len(pairs), row_tokens=2 * longest, model=subject.model)
        trained = train_dpo(
            job, subject.model, subject.tokenizer, pairs, training=stage.train, new_adapter=subject.new_adapter
        )
        return _finish(context, "dpo", subject, trained, job, notes=encoded.notes())


def _check_context(model: Any, longest: int, data: Input) -> None:  # noqa: ANN401 - transformers has no types
    """A row longer than the model can read would fail, or teach it nothing, in the middle of the training."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and longest > context:
        raise InvalidError(
            f"the longest row has {longest} tokens within max_length, the model reads at most {context}",
            where=f"train.max_length, with {data.source}",
            mend=f"write `train: {{max_length: {context}}}` or less",
        )


def _encode(tokenizer: Any, data: Input, stage: SftStage) -> Encoded:  # noqa: ANN401 - transformers has no types
    """Rows as labelled sequences, packed where that is asked for."""
    training = stage.train
    rows = read_rows(data.path, data.format, where=data.file)
    if data.format == "text":
        if training.loss_on == "assistant":
            raise InvalidError(
                "texts have no assistant turns to take the loss on",
                where=f"train.loss_on, with {data.source}",
                mend="write `train: {loss_on: all}`",
            )
        texts = [str(row["text"]) for row in rows]
        encoded = encode_texts(tokenizer, texts, max_length=training.max_length, where=data.source)
    else:
        encoded = encode_messages(
            tokenizer,
            cast("list[list[dict[str, str]]]", [row["messages"] for row in rows]),
            assistant_only=training.loss_on == "assistant",
            max_length=training.max_length,
            where=data.source,
        )
    return pack(encoded, max_length=training.max_length) if training.packing else encoded


def _unlearnt_end(tokenizer: Any, encoded: Encoded) -> tuple[str, ...]:  # noqa: ANN401 - transformers has no types
    """A model that is never shown where an answer ends may never stop; its loss does not tell."""
    if any(tokenizer.eos_token_id in example.labels for example in encoded.examples):
        return ()
    return (f"the end token {tokenizer.eos_token} is never learnt: no row has it among its labels",)


def _finish(
    context: Context[Any], kind: str, subject: Subject, trained: Trained, job: Job, *, notes: tuple[str, ...]
) -> Outcome:
    """Write the artifact and say what was done."""
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
