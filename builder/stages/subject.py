"""What a training trains: a whole model, chosen components of it, a new adapter, or an adapter that goes on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from builder.adapter_settings import FINISHED
from builder.engines.ranks import whole
from builder.stages.adapter_config import adapter_config
from builder.stages.few_bits import check_few_bits
from builder.stages.training_tokenizer import open_training_tokenizer
from registry.canonical import decode
from registry.components import Network
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from builder.adapter_settings import AdapterSettings
    from builder.adapter_types.table import Base
    from builder.environment import Device
    from builder.stage import Context, Input
    from builder.train_settings import Training
    from builder.train_stages import PretrainStage, TrainStage
    from registry.canonical import JSON
    from registry.provenance import Provenance
    from registry.safetensors import WrittenFile

__all__ = ["Subject", "open_subject"]

_OWN_DTYPES: Final = frozenset({"FROD"})  # by the dtype of its basis alone can it be told what the adapter means
_PRUNED: Final = "ADALORA"  # which of its ranks are left is known at the end of the training


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What is trained.

    Attributes:
        method: ``full``, ``adapter`` (one that goes on), or the type of a new adapter.
        model: A transformers model, or PEFT's wrapper of it.
        tokenizer: Its tokenizer.
        folder: The folder of the model, under the adapter if there is one.
        new_adapter: PEFT's configuration of a new adapter that the trainer puts on.
        config: What ``adapter_config.json`` will say; empty for a model.
        start: First factors of a new adapter that were taken out of the model's weights; empty where none were.
        base: How the weights under a new adapter are held.
    """

    method: str
    model: Any
    tokenizer: Any
    folder: Path
    new_adapter: Any
    config: Mapping[str, JSON]
    start: Mapping[str, Any] = field(default_factory=dict)
    base: Base = "stored"

    @property
    def is_model(self) -> bool:
        """Whether the artifact is a model, not an adapter."""
        return self.method == "full"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the record should know of how it was trained."""
        if self.base == "stored":
            return ()
        return (f"trained over weights held in {self.base}; the adapter belongs to the weights as stored",)

    @property
    def is_new(self) -> bool:
        """Whether the artifact is a new adapter."""
        return self.method not in {"full", "adapter"}

    def tensors(self, trained: Any) -> dict[str, Any]:  # noqa: ANN401 - transformers has no types
        """What was trained, by name: parameters of the model, or the adapter's tensors, in float32 but for FRoD's.

        Args:
            trained: The module tree that the engine gave back. A frozen copy of the adapter in it, DPO's reference, is
                left out.
        """
        if self.is_model:
            return {name: one.detach().cpu() for name, one in trained.named_parameters() if one.requires_grad}
        from peft import get_peft_model_state_dict  # noqa: PLC0415 - seconds, adapters only

        state = get_peft_model_state_dict(trained, adapter_name="default", save_embedding_layers=False)
        found = {name: whole(tensor.detach()).cpu().contiguous() for name, tensor in state.items()}
        if self.config.get("peft_type") in _OWN_DTYPES:
            return found
        found = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in found.items()}
        if not self.start:
            return found
        from builder.stages.own_start import as_plain  # noqa: PLC0415 - needs PEFT

        return as_plain(found, self.start)

    def write(self, out: Path, tensors: Mapping[str, Any], provenance: Provenance) -> tuple[WrittenFile, ...]:
        """Write the artifact's files.

        Raises:
            InvalidError: A tensor holds NaN or an infinity, or is not in the model by that name.
            OSError: A file cannot be written.
        """
        from builder.weights.layout import write_adapter, write_model  # noqa: PLC0415 - needs torch

        if self.is_model:
            return write_model(out, source=self.folder, replaced=tensors, provenance=provenance)
        kept = getattr(self.new_adapter, "rank_pattern", None) if self.config.get("peft_type") == _PRUNED else None
        config = self.config if kept is None else {**self.config, "rank_pattern": kept}
        return write_adapter(out, tensors=tensors, config=config, provenance=provenance)


def open_subject(
    context: Context[TrainStage] | Context[PretrainStage], device: Device, *, scores: bool = False
) -> Subject:
    """Load what ``from`` names and settle what is trained in it.

    Args:
        context: The stage.
        device: Where to put the model.
        scores: Whether the model gives a score, rather than text; with a new adapter its head is trained, too.

    Raises:
        InvalidError: The settings contradict each other or do not fit what ``from`` names.
        NotFoundError: Weights are missing.
    """
    stage, source = context.settings, context.one("from")
    if source.artifact is not None and source.artifact.type == "adapter":
        return _open_adapter(stage, source, context.one("base"), device, scores=scores)
    if stage.adapter is not None and stage.targets is not None:
        raise InvalidError(
            "`adapter:` and a stage-level `targets:` are both given",
            where=f"from: {source.name}",
            mend="put the targets into `adapter:`, or leave `adapter:` out to train the model's own weights",
        )
    if stage.adapter is not None:
        return _new_adapter(stage, stage.adapter, source, device, scores=scores)
    model, tokenizer = _model(source.path, device, scores=scores), open_training_tokenizer(source.path)
    _free_only(model, stage)
    return Subject(method="full", model=model, tokenizer=tokenizer, folder=source.path, new_adapter=None, config={})


def _new_adapter(
    stage: TrainStage | PretrainStage, settings: AdapterSettings, source: Input, device: Device, *, scores: bool
) -> Subject:
    """A new adapter on a model."""
    check_few_bits(settings.base)
    tokenizer = open_training_tokenizer(source.path)
    dtype = "float32" if settings.changes_base else _frozen_dtype(stage.train)  # the start is taken out exactly
    model = _model(source.path, device, dtype, scores=scores, base=settings.base)
    new_adapter = adapter_config(model, tokenizer, settings)
    if scores:
        new_adapter = _with_head(new_adapter, settings)
    config = new_adapter.to_dict() | {"inference_mode": True}
    subject = Subject(
        method=settings.type,
        model=model,
        tokenizer=tokenizer,
        folder=source.path,
        new_adapter=new_adapter,
        config=config,
        base=settings.base,
    )
    if not settings.changes_base:
        return subject
    from builder.stages.own_start import plain_config, put_on  # noqa: PLC0415 - needs PEFT

    wrapped, start = put_on(model, new_adapter, seed=stage.train.seed)
    return replace(subject, model=wrapped, new_adapter=None, config=plain_config(config), start=start)


def _open_adapter(
    stage: TrainStage | PretrainStage, source: Input, base: Input, device: Device, *, scores: bool
) -> Subject:
    """An adapter that goes on training."""
    if stage.adapter is not None or stage.targets is not None:
        raise InvalidError(
            f"`from: {source.name}` is an adapter, and the stage asks for another training than its own",
            where=f"from: {source.name}",
            mend="leave `adapter:` and `targets:` out to go on training it, or fold it first and start from the fold",
        )
    config = _config_of(source)
    from builder.stages.models import open_adapter  # noqa: PLC0415 - transformers reads what start() has set

    base_model = _model(base.path, device, _frozen_dtype(stage.train), scores=scores)
    model = open_adapter(base_model, source.path, trainable=True)
    tokenizer = open_training_tokenizer(base.path)
    return Subject(
        method="adapter", model=model, tokenizer=tokenizer, folder=base.path, new_adapter=None, config=config
    )


def _config_of(source: Input) -> dict[str, JSON]:
    """What an adapter says of itself, of a type that can go on training."""
    path = source.path / "adapter_config.json"
    config = decode(path.read_bytes(), where=str(path))
    if not isinstance(config, dict):
        raise InvalidError("not a table", where=str(path), mend="use PEFT's adapter folder")
    found = str(config.get("peft_type")).lower()
    if reason := FINISHED.get(found):
        raise InvalidError(
            f"an adapter of type {found} cannot go on training: {reason}",
            where=f"from: {source.name}",
            mend="train longer where it is made, or fold it first if it can be folded",
        )
    return config


def _model(folder: Path, device: Device, dtype: str = "float32", *, scores: bool, base: Base = "stored") -> Any:  # noqa: ANN401 - transformers has no types
    from builder.stages.models import open_model, open_scorer  # noqa: PLC0415 - transformers reads what start() has set

    return (open_scorer if scores else open_model)(folder, device, dtype=dtype, base=base)


def _with_head(config: Any, settings: AdapterSettings) -> Any:  # noqa: ANN401 - PEFT has no types
    """PEFT's configuration, with a copy of the head that is trained and saved beside the adapter."""
    if not hasattr(config, "modules_to_save"):
        raise InvalidError(
            f"no head can be trained beside {settings.type} adapters",
            where=f"adapter.type: {settings.type}",
            mend="choose `type: lora`, or train without `adapter:`",
        )
    config.task_type, config.modules_to_save = "SEQ_CLS", ["score"]
    return config


def _frozen_dtype(training: Training) -> str:
    """Weights under an adapter: exact in float32, or as they are stored where the arithmetic is 16-bit anyway."""
    return "float32" if training.precision == "float32" else "auto"


def _free_only(model: Any, stage: TrainStage | PretrainStage) -> None:  # noqa: ANN401 - transformers has no types
    """Let only the chosen parameters be trained."""
    network = Network.from_modules(model)
    chosen = set(network.names if stage.targets is None else network.select(stage.targets))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
