"""How many rows at once a device has room for, by the formula that the plan uses; and what would need less."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from builder.plan.memory import read_network
from builder.plan.training_load import load_of, told_by, what_fits
from builder.plan.training_memory import training_memory
from registry.sizes import format_size

if TYPE_CHECKING:
    from builder.environment import Device
    from builder.plan.memory import Network
    from builder.plan.training_load import Told
    from builder.plan.training_memory import Load
    from builder.stage import Context

__all__ = ["Room", "room_of"]

_CPU_TOKENS: Final = 16_384
_SPARE: Final = 1.08  # free blocks of the allocator that no tensor fits into
_MIB: Final = 1 << 20
_MULTIPLE: Final = 128  # lengths may be padded to it


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """What a device has, and what a training needs of it.

    Attributes:
        network: The model; ``None`` on a processor, or where its configuration does not say enough.
        told: What the stage's table says.
        trained: Numbers that are trained.
        length: Tokens of the longest sequence.
        share: Rows of a step that the device works on.
        shares: Devices that each hold a part of the weights.
        free_bytes: Memory of the device that is free, or taken by this process already.
        row_tokens: Tokens of the longest row, all of its sequences.
    """

    network: Network | None
    told: Told
    trained: int
    length: int
    share: int
    shares: int
    free_bytes: int
    row_tokens: int

    def fits(self, rows: int) -> bool:
        """Whether there is room for so many rows at once."""
        if self.network is None:
            return rows * self.row_tokens <= _CPU_TOKENS
        return training_memory(self.network, self._load(self.network, rows)).peak_bytes * _SPARE <= self.free_bytes

    def memory(self) -> str:
        """What a single row at a time is expected to take, in words."""
        if self.network is None:
            return ""
        needed = training_memory(self.network, self._load(self.network, 1)).peak_bytes
        return f"it takes about {format_size(round(needed))}, {format_size(self.free_bytes)} are there"

    def smaller(self) -> str:
        """What would take less memory than a single row at a time does."""
        if self.network is None:
            return ""
        needed = training_memory(self.network, self._load(self.network, 1)).card_mib
        # It was tried and did not fit: so what is advised has to be clearly smaller than what was counted.
        return what_fits(self.network, self.told, length=self.length, card_mib=min(needed - 1, self.free_bytes / _MIB))

    def _load(self, network: Network, rows: int) -> Load:
        load = load_of(network, self.told, rows=rows, length=self.length, share=self.share, shares=self.shares)
        return replace(load, trained=self.trained)


def room_of(
    context: Context[Any],
    device: Device,
    model: Any,  # noqa: ANN401 - transformers has no types
    *,
    row_tokens: int,
    share: int,
    shares: int,
) -> Room:
    """What a device has and a training needs.

    Args:
        context: The stage.
        device: Where the arithmetic happens.
        model: A transformers model, or PEFT's wrapper of one; a new adapter is not on it yet.
        row_tokens: Tokens of the longest row, all of its sequences.
        share: Rows of a step that the device works on.
        shares: Devices that each hold a part of the weights.
    """
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    goes_on = trained if hasattr(model, "peft_config") else 0
    told = told_by(context.settings, trained=goes_on)
    network = _network(context, model) if device.kind == "cuda" else None
    if network is not None and told.adapter is not None:
        trained = load_of(network, told, rows=1, length=1, share=1).trained
    longest = math.ceil(row_tokens / told.sequences)
    return Room(
        network=network,
        told=told,
        trained=trained,
        length=_MULTIPLE * math.ceil(longest / _MULTIPLE),
        share=share,
        shares=shares,
        free_bytes=_free_bytes() if device.kind == "cuda" else 0,
        row_tokens=row_tokens,
    )


def _network(context: Context[Any], model: Any) -> Network | None:  # noqa: ANN401 - transformers has no types
    """The network as it is loaded; how many weights it has, its listing tells where they are packed."""
    source = context.find("base") or context.find("from")
    if source is not None and source.artifact is not None:
        parameters = sum(math.prod(one.shape) for one in source.artifact.tensors)
    else:
        parameters = sum(one.numel() for one in model.parameters())
    found = read_network(model.config.to_dict(), parameters)
    if found is None:
        return None
    return replace(found, parameters=parameters, stored_bytes=next(model.parameters()).element_size())


def _free_bytes() -> int:
    import torch  # noqa: PLC0415 - GPU only

    return int(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved())
