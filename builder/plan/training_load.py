"""What a training stage puts on a device, by its table; and what else would fit where it does not. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from builder.adapter_settings import LoraSettings
from builder.plan.memory import adapter_parameters
from builder.plan.training_memory import Load, training_memory
from registry.sizes import format_size

if TYPE_CHECKING:
    from builder.adapter_settings import AdapterSettings
    from builder.manifest import PretrainStage
    from builder.plan.memory import Network
    from builder.plan.training_memory import Head
    from builder.train_settings import Training
    from builder.train_stages import TrainStage

__all__ = ["Told", "length_of", "load_of", "told_by", "what_fits"]

_MIB: Final = 1 << 20
_HEADS: Final[dict[str, Head]] = {"orpo": "whole", "cpo": "whole", "reward": "none"}
_LENGTHS: Final = tuple(1 << power for power in range(20, 5, -1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What a stage's table says on memory.

    Attributes:
        kind: Its kind.
        training: Its ``train`` table.
        adapter: Its new adapter.
        sequences: Sequences of a row.
        trained: Numbers that an adapter that goes on training has; 0 where it is none.
    """

    kind: str
    training: Training
    adapter: AdapterSettings | None
    sequences: int
    trained: int = 0


def told_by(stage: TrainStage | PretrainStage, *, trained: int = 0) -> Told:
    """What a stage's table says on memory.

    Args:
        stage: The table.
        trained: Numbers that the adapter has which it goes on training; 0 where it starts from a model.
    """
    return Told(
        kind=stage.kind,
        training=stage.train,
        adapter=getattr(stage, "adapter", None),
        sequences=getattr(stage, "SEQUENCES", 1),
        trained=trained,
    )


def length_of(training: Training) -> int:
    """Tokens of the longest sequence that the table allows; an answer that is sampled is within it."""
    return training.max_length


def load_of(
    network: Network, told: Told, *, rows: int, length: int, share: int, shares: int = 1, recomputed: bool = False
) -> Load:
    """What a stage puts on a device.

    Args:
        network: The model.
        told: What the table says.
        rows: Rows of a micro-batch.
        length: Tokens of the longest sequence.
        share: Rows of a step that the device works on.
        shares: Devices that each hold a part of the weights.
        recomputed: Whether a layer's activations are computed again instead of kept.
    """
    adapter = told.adapter
    trained = told.trained or (network.parameters if adapter is None else adapter_parameters(network, adapter))
    return Load(
        trained=trained,
        is_adapter=adapter is not None or told.trained > 0,
        is_mixed=told.training.precision == "mixed-bfloat16",
        base="stored" if adapter is None else adapter.base,
        dropout=bool(getattr(adapter, "dropout", 0)),
        rows=rows,
        sequences=told.sequences,
        length=length,
        accumulation=max(1, share // rows),
        is_padded=told.kind != "pretrain",
        head=_HEADS.get(told.kind, "tiles"),
        shares=shares,
        recomputed=recomputed,
    )


def what_fits(network: Network, told: Told, *, length: int, card_mib: float) -> str:
    """What could be written instead, where not even a single row at a time fits.

    Args:
        network: The model.
        told: What the table says.
        length: Tokens of the longest sequence.
        card_mib: Memory of the card, MiB.

    Returns:
        Each change that does alone, with the memory that it takes; or all of them together; or that nothing does.
    """

    def needed(changed: Told, tokens: int = length) -> float:
        load = load_of(network, changed, rows=1, length=tokens, share=changed.training.batch)
        return training_memory(network, load).card_mib

    found: list[tuple[str, float]] = []
    for words, changed in _changes(told):
        is_second = changed.adapter is not told.adapter and any("adapter" in one for one, _ in found)
        if not is_second and (size := needed(changed)) <= card_mib:
            found.append((words, size))
    shorter = next(((tokens, size) for tokens in _LENGTHS if (size := needed(told, tokens)) <= card_mib), None)
    if shorter is not None and shorter[0] < length:
        found.append((f"train.max_length: {shorter[0]}", shorter[1]))
    if found:
        return "write " + ", or ".join(f"`{words}` (takes {format_size(round(size * _MIB))})" for words, size in found)
    changes, smallest = _smallest(told)
    lengths = [tokens for tokens in _LENGTHS if tokens <= length]
    fitting = ((tokens, size) for tokens in lengths if (size := needed(smallest, tokens)) <= card_mib)
    tokens, size = next(fitting, (0, 0.0))
    if not tokens:
        return "use a card with more memory, or a smaller base: no setting of this stage makes it fit"
    together = " with ".join(f"`{one}`" for one in (*changes, f"train.max_length: {tokens}"))
    return f"write {together} (takes {format_size(round(size * _MIB))})"


def _changes(told: Told) -> list[tuple[str, Told]]:
    """Each change by itself, the smallest first, as a person would write it."""
    changes: list[tuple[str, Told]] = []
    mixed = replace(told.training, precision="mixed-bfloat16")
    if told.training.precision == "float32":
        changes.append(("train.precision: mixed-bfloat16", replace(told, training=mixed)))
    if told.kind == "pretrain" or told.trained:
        return changes
    if told.adapter is None:
        changes.append(("adapter: {type: lora}", replace(told, adapter=LoraSettings())))
        changes.append(("adapter: {type: lora, base: nf4}", replace(told, adapter=LoraSettings(base="nf4"))))
    elif told.adapter.QUANTISED and told.adapter.base != "nf4":
        changes.append(("adapter.base: nf4", replace(told, adapter=replace(told.adapter, base="nf4"))))
    return changes


def _smallest(told: Told) -> tuple[list[str], Told]:
    """All changes at once, as a person would write them."""
    words, changed = [], told
    if told.training.precision == "float32":
        words.append("train.precision: mixed-bfloat16")
        changed = replace(told, training=replace(told.training, precision="mixed-bfloat16"))
    if told.kind == "pretrain" or told.trained or (told.adapter is not None and not told.adapter.QUANTISED):
        return words, changed
    words.append("adapter: {type: lora, base: nf4}" if told.adapter is None else "adapter.base: nf4")
    return words, replace(changed, adapter=replace(told.adapter or LoraSettings(), base="nf4"))
