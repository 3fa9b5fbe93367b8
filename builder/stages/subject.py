"""What a training trains: a whole model, chosen components of it, a new adapter, or an adapter that goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from builder.stages.lora import choose_modules, lora_config
from registry.canonical import decode
from registry.components import Network
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from builder.environment import Device
    from builder.stage import Context, Input
    from builder.train_settings import Training
    from builder.train_stages import TrainStage
    from registry.canonical import JSON
    from registry.provenance import Provenance
    from registry.safetensors import WrittenFile

__all__ = ["Subject", "open_subject"]

_OWN_DTYPES: Final = frozenset({"FROD"})  # by the dtype of its basis alone can it be told what the adapter means


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
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

    @property
    def is_model(self) -> bool:
        """Whether the artifact is a model, not an adapter."""
        return self.method == "full"

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
        found = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        if self.config.get("peft_type") in _OWN_DTYPES:
            return found
        return {name: tensor.float() for name, tensor in found.items()}

    def write(self, out: Path, tensors: Mapping[str, Any], provenance: Provenance) -> tuple[WrittenFile, ...]:
        """Write the artifact's files.

        Raises:
            InvalidError: A tensor holds NaN or an infinity, or is not in the model by that name.
            OSError: A file cannot be written.
        """
        from builder.weights.layout import write_adapter, write_model  # noqa: PLC0415 - needs torch

        if self.is_model:
            return write_model(out, source=self.folder, replaced=tensors, provenance=provenance)
        return write_adapter(out, tensors=tensors, config=self.config, provenance=provenance)


def open_subject(context: Context[TrainStage], device: Device) -> Subject:
    """Load what ``from`` names and settle what is trained in it.

    Raises:
        InvalidError: The settings contradict each other or do not fit what ``from`` names.
        NotFoundError: Weights are missing.
    """
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

    tokenizer = _tokenizer(source.path)
    if stage.adapter is None:
        model = open_model(source.path, device)
        _free_only(model, stage)
        return Subject(method="full", model=model, tokenizer=tokenizer, folder=source.path, new_adapter=None, config={})
    model = open_model(source.path, device, dtype=_frozen_dtype(stage.train))
    new_adapter = lora_config(model, choose_modules(model, stage.adapter), stage.adapter)
    config = new_adapter.to_dict() | {"inference_mode": True}
    return Subject(
        method="lora", model=model, tokenizer=tokenizer, folder=source.path, new_adapter=new_adapter, config=config
    )


def _open_adapter(stage: TrainStage, source: Input, base: Input, device: Device) -> Subject:
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
    tokenizer = _tokenizer(base.path)
    return Subject(
        method="adapter", model=model, tokenizer=tokenizer, folder=base.path, new_adapter=None, config=config
    )


def _frozen_dtype(training: Training) -> str:
    """Weights under an adapter: exact in float32, or as they are stored where the arithmetic is 16-bit anyway."""
    return "float32" if training.precision == "float32" else "auto"


def _free_only(model: Any, stage: TrainStage) -> None:  # noqa: ANN401 - transformers has no types
    """Let only the chosen parameters be trained."""
    network = Network.from_modules(model)
    chosen = set(network.names if stage.targets is None else network.select(stage.targets))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)


def _tokenizer(folder: Path) -> Any:  # noqa: ANN401 - transformers has no types
    from builder.stages.models import open_tokenizer  # noqa: PLC0415 - transformers reads what start() has set

    tokenizer = open_tokenizer(folder)
    if tokenizer.eos_token_id is None:
        raise InvalidError(
            "the tokenizer has no end token, so answers cannot be ended",
            where=str(folder),
            mend="use a base whose tokenizer_config.json names an eos_token",
        )
    return tokenizer
