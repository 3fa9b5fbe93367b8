"""Training on what exists, by ``sft`` and ``dpo``: whole models, chosen components, new adapters, adapters that go on.

1. Fix the machine: device, threads, determinism; a resumed training keeps the threads and the split it began with.
2. Open what ``from`` names, and settle what is trained in it.
3. Turn the rows into tokens.
4. Train, from the last sealed checkpoint if there is one.
5. Write what was trained: an adapter in float32; a model in the dtypes it came in, rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from builder.engines.schedule import choose_split, keep_split, kept_split, steps_of
from builder.environment import prepare
from builder.rows import read_rows
from builder.stage import Outcome
from builder.stages.lora import choose_modules, lora_config
from builder.stages.tokens import encode_messages, encode_pairs, encode_texts, pack
from registry.canonical import decode
from registry.components import Network, spell_layers
from registry.errors import InvalidError
from registry.provenance import Provenance, ProvenanceInput
from registry.record import ComponentChange

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from builder.engines.trl import Job, Trained
    from builder.environment import Device
    from builder.manifest import DpoStage, SftStage
    from builder.settings import Training
    from builder.stage import Context, Input
    from builder.stages.tokens import Encoded
    from registry.canonical import JSON
    from registry.safetensors import WrittenFile

__all__ = ["DEPENDS_ON", "dpo", "figures", "make_job", "open_tokenizer", "remarks", "sft", "start"]

DEPENDS_ON = ("device", "versions", "micro-batch", "threads")
"""What else the bytes of a training depend on."""

_CPU_ROOM_TOKENS = 16_384
_GPU_SHARE = 0.6
_BYTES_PER_ACTIVATION = (
    34  # a layer's activations per token and hidden unit, 16-bit arithmetic (Korthikanti et al. 2022)
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Subject:
    """What is trained.

    Attributes:
        method: ``full``, ``lora`` (a new adapter) or ``adapter`` (one that goes on).
        model: A transformers model, or PEFT's wrapper of it.
        tokenizer: Its tokenizer.
        folder: The folder of the model, under the adapter if there is one.
        new_adapter: PEFT's configuration of a new adapter.
        config: What ``adapter_config.json`` will say; empty for a model.
    """

    method: str
    model: Any
    tokenizer: Any
    folder: Path
    new_adapter: Any
    config: Mapping[str, JSON]


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
        subject = _open(context, device)
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
        return _finish(context, "sft", subject, trained, job, notes=encoded.notes())


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
        subject = _open(context, device)
        limit = stage.train.max_length
        rows = read_rows(data.path, "preference", where=data.source)
        encoded = encode_pairs(subject.tokenizer, rows, max_length=limit, where=data.source)
        pairs, longest = encoded.pairs, max(pair.longest(limit) for pair in encoded.pairs)
        _check_context(subject.model, longest, data)
        job = make_job(context, device, stage.train, rows=len(pairs), row_tokens=2 * longest, model=subject.model)
        trained = train_dpo(
            job, subject.model, subject.tokenizer, pairs, training=stage.train, new_adapter=subject.new_adapter
        )
        return _finish(context, "dpo", subject, trained, job, notes=encoded.notes())


def start(context: Context[Any]) -> Device:
    """Fix the machine before anything of the training stack is imported."""
    kept = kept_split(context.work)
    return prepare(context.runner, threads=kept.threads if kept else 0)


def open_tokenizer(folder: Path) -> Any:  # noqa: ANN401 - transformers has no types
    """The tokenizer of a model folder, from its files alone.

    Raises:
        InvalidError: It has no end token.
    """
    from transformers import AutoTokenizer  # noqa: PLC0415 - seconds

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise InvalidError(
            "the tokenizer has no end token, so answers cannot be ended",
            where=str(folder),
            mend="use a base whose tokenizer_config.json names an eos_token",
        )
    return tokenizer


def make_job(
    context: Context[Any],
    device: Device,
    training: Training,
    *,
    rows: int,
    row_tokens: int,
    model: Any,  # noqa: ANN401 - transformers has no types
) -> Job:
    """Settle steps and split, and remember the split before the first step.

    Args:
        context: The stage.
        device: Where the arithmetic happens.
        training: The stage's ``train`` table.
        rows: Rows, or packed sequences.
        row_tokens: Tokens of the longest; both sequences of a preference.
        model: For the size of its activations.

    Raises:
        InvalidError: The batch cannot be split as the runner asks.
    """
    from builder.engines.trl import Job  # noqa: PLC0415 - after start()

    split = kept_split(context.work) or choose_split(
        batch=training.batch,
        wanted=context.runner.micro_batch,
        row_tokens=row_tokens,
        room_tokens=_room_tokens(device, training, model),
        threads=device.threads,
    )
    keep_split(context.work, split)
    steps = steps_of(training, rows)
    context.say(
        f"{rows} rows, {steps} steps of {training.batch} rows "
        f"({split.accumulation} x {split.micro_batch}) on {device.name}, {split.threads} threads"
    )
    return Job(
        training=training,
        steps=steps,
        split=split,
        checkpoint_steps=context.runner.checkpoint_steps,
        folder=context.work,
        device=device,
        say=context.say,
    )


def figures(trained: Trained) -> dict[str, dict[str, float]]:
    """The training's own metrics: means over the last tenth of its steps, and counts.

    Only what the same machine gives again is in it; speed is a note.
    """
    tail = trained.history[-max(1, len(trained.history) // 10) :]
    names = {
        "loss": "train_loss",
        "rewards/accuracies": "train_reward_accuracy",
        "rewards/margins": "train_reward_margin",
    }
    means = {
        label: sum(float(entry[name]) for entry in tail) / len(tail)
        for name, label in names.items()
        if name in tail[-1]
    }
    counts = {"steps": float(len(trained.history)), "tokens": float(trained.tokens)}
    return {label: {"value": value} for label, value in (means | counts).items()}


def _room_tokens(device: Device, training: Training, model: Any) -> int:  # noqa: ANN401 - transformers has no types
    """Tokens whose activations fit the device, roughly; a runner's ``micro_batch:`` overrules it."""
    if device.kind == "cpu":
        return _CPU_ROOM_TOKENS
    import torch  # noqa: PLC0415 - GPU only

    free_bytes, _ = torch.cuda.mem_get_info()
    config = model.config.get_text_config()
    width = 2 if training.precision == "float32" else 1
    token_bytes = config.num_hidden_layers * config.hidden_size * _BYTES_PER_ACTIVATION * width
    return int(free_bytes * _GPU_SHARE / token_bytes)


def _open(context: Context[Any], device: Device) -> _Subject:
    """Load what ``from`` names and settle what is trained in it."""
    stage, source = context.settings, context.one("from")
    if source.artifact is not None and source.artifact.type == "adapter":
        return _open_adapter(stage, source, context.one("base"), device)
    if stage.adapter is not None and stage.targets is not None:
        raise InvalidError(
            "`adapter:` and a stage-level `targets:` are both given",
            where=f"from: {source.name}",
            mend="put the targets into `adapter:`, or leave `adapter:` out to train the model's own weights",
        )
    from builder.stages.models import open_model  # noqa: PLC0415 - transformers reads what start() has set

    tokenizer = open_tokenizer(source.path)
    if stage.adapter is None:
        model = open_model(source.path, device)
        _free_only(model, stage)
        return _Subject(
            method="full", model=model, tokenizer=tokenizer, folder=source.path, new_adapter=None, config={}
        )
    model = open_model(source.path, device, dtype=_frozen_dtype(stage.train))
    new_adapter = lora_config(model, choose_modules(model, stage.adapter), stage.adapter)
    config = new_adapter.to_dict() | {"inference_mode": True}
    return _Subject(
        method="lora", model=model, tokenizer=tokenizer, folder=source.path, new_adapter=new_adapter, config=config
    )


def _open_adapter(stage: Any, source: Input, base: Input, device: Device) -> _Subject:  # noqa: ANN401 - sft or dpo
    """An adapter that goes on training."""
    if stage.adapter is not None or stage.targets is not None:
        raise InvalidError(
            f"`from: {source.name}` is an adapter, and the stage asks for another training than its own",
            where=f"from: {source.name}",
            mend="leave `adapter:` and `targets:` out to go on training it, or fold it first and start from the fold",
        )
    from builder.stages.models import open_adapter, open_model  # noqa: PLC0415 - transformers reads what start() has set

    base_model = open_model(base.path, device, dtype=_frozen_dtype(stage.train))
    model = open_adapter(base_model, source.path, trainable=True)
    path = source.path / "adapter_config.json"
    config = decode(path.read_bytes(), where=str(path))
    if not isinstance(config, dict):
        raise InvalidError("not a table", where=str(path), mend="use PEFT's adapter folder")
    tokenizer = open_tokenizer(base.path)
    return _Subject(
        method="adapter", model=model, tokenizer=tokenizer, folder=base.path, new_adapter=None, config=config
    )


def _frozen_dtype(training: Training) -> str:
    """Weights under an adapter: exact in float32, or as they are stored where the arithmetic is 16-bit anyway."""
    return "float32" if training.precision == "float32" else "auto"


def _free_only(model: Any, stage: Any) -> None:  # noqa: ANN401 - transformers has no types
    """Let only the chosen parameters be trained."""
    network = Network.from_modules(model)
    chosen = set(network.names if stage.targets is None else network.select(stage.targets))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)


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
    rows = read_rows(data.path, data.format, where=data.source)
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


def _finish(
    context: Context[Any], kind: str, subject: _Subject, trained: Trained, job: Job, *, notes: tuple[str, ...]
) -> Outcome:
    """Write the artifact and say what was done."""
    is_model = subject.method == "full"
    tensors = _own_weights(trained.model) if is_model else _adapter_weights(trained.model)
    network = Network.from_tensors({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    change = "added" if subject.method == "lora" else "overridden"
    provenance = _provenance(context, kind, subject.method, network)
    return Outcome(
        type="model" if is_model else "adapter",
        written=_write(context.out, subject, tensors, provenance),
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


def remarks(trained: Trained, job: Job) -> tuple[str, ...]:
    """What a reader of the record should know of the run itself."""
    done = job.steps - trained.resumed_from
    share = trained.tokens * done / job.steps
    speed = f"{share / max(trained.duration_s, 1e-9):.0f} tokens a second in training"
    resumed = (f"resumed from the checkpoint of step {trained.resumed_from}",) if trained.resumed_from else ()
    return (speed, *resumed)


def _own_weights(model: Any) -> dict[str, Any]:  # noqa: ANN401 - transformers has no types
    """The trained parameters of a model, by name."""
    return {name: parameter.detach().cpu() for name, parameter in model.named_parameters() if parameter.requires_grad}


def _adapter_weights(model: Any) -> dict[str, Any]:  # noqa: ANN401 - PEFT has no types
    """The trained adapter's tensors, float32, by PEFT's names; the frozen copy, DPO's reference, is left out."""
    from peft import get_peft_model_state_dict  # noqa: PLC0415 - seconds, adapters only

    state = get_peft_model_state_dict(model, adapter_name="default", save_embedding_layers=False)
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in state.items()}


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


def _write(out: Path, subject: _Subject, tensors: Mapping[str, Any], provenance: Provenance) -> tuple[WrittenFile, ...]:
    from builder.weights.layout import write_adapter, write_model  # noqa: PLC0415 - needs torch

    if subject.method == "full":
        return write_model(out, source=subject.folder, replaced=tensors, provenance=provenance)
    return write_adapter(out, tensors=tensors, config=subject.config, provenance=provenance)
