"""Memory of a device that a training needs, by formula, before it runs. Pure; one function for the plan and the stage.

What a layer keeps for its backward pass was counted on Llama's layers, tensor by tensor, for each kind of training; so
was what passes through memory besides, at the moment when most is held (docs/performance.md). Other families keep about
as much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from builder.plan.memory import card_mib, held_bytes, matrix_parameters

if TYPE_CHECKING:
    from builder.adapter_types.table import Base
    from builder.plan.memory import Network

__all__ = ["Head", "Load", "Memory", "training_memory"]

Head: TypeAlias = Literal["tiles", "whole", "none"]
"""How logits are had: in tiles (TRL's own loss), all at once, or not at all (a score a sequence)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    """Bytes of a layer for a token and a unit of width of stream, MLP and keys: kept, and passing through memory."""

    hidden: int
    inner: int
    keys: int
    passing_hidden: int
    passing_inner: int


_FULL: Final = _Layer(hidden=32, inner=16, keys=8, passing_hidden=0, passing_inner=8)
_FULL_MIXED: Final = _Layer(hidden=30, inner=8, keys=4, passing_hidden=25, passing_inner=0)
_ADAPTER: Final = _Layer(hidden=25, inner=16, keys=8, passing_hidden=11, passing_inner=5)
_ADAPTER_MIXED: Final = _Layer(hidden=24, inner=8, keys=4, passing_hidden=24, passing_inner=0)
_ADAPTER_NARROW: Final = _Layer(hidden=16, inner=8, keys=4, passing_hidden=22, passing_inner=0)
_FEW_BITS: Final = {
    "nf4": _Layer(hidden=23, inner=14, keys=4, passing_hidden=4, passing_inner=10),
    "int8": _Layer(hidden=30, inner=8, keys=4, passing_hidden=13, passing_inner=3),
}
"""16-bit arithmetic over weights in few bits: what lies between is in float32."""

_NUMBER_BYTES: Final = 4  # what is trained, its gradient and each of its two moments are in float32
_TILE_TOKENS, _TILE_WORDS = 4096, 32768  # of TRL's loss
_WHOLE_BYTES: Final = 12  # of a logit: as computed, in float32, and its gradient


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What a training puts on a device at once.

    Attributes:
        trained: Numbers that are trained.
        is_adapter: Whether they are beside the model's weights, and not among them.
        is_mixed: Whether the arithmetic is 16-bit.
        base: How a frozen model is held.
        dropout: Whether an adapter drops some of its inputs.
        rows: Rows of a micro-batch.
        sequences: Sequences of a row.
        length: Tokens of the longest sequence.
        accumulation: Micro-batches of a step.
        is_padded: Whether sequences differ in length, so that attention is masked.
        head: How logits are had.
        recomputed: Whether a layer's activations are computed again instead of kept.
        shares: Devices that each hold a part of the weights; 1 where each holds all.
    """

    trained: int
    is_adapter: bool
    is_mixed: bool
    base: Base = "stored"
    dropout: bool = False
    rows: int = 1
    sequences: int = 1
    length: int
    accumulation: int = 1
    is_padded: bool = True
    head: Head = "tiles"
    recomputed: bool = False
    shares: int = 1

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch, padding with them."""
        return self.rows * self.sequences * self.length


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes of a device at the moment when most is held.

    Attributes:
        weights: The model as it is held, and what is trained.
        moments: The optimiser's.
        gradients: Of what is trained, as far as they are there at that moment.
        casts: Weights once more in 16 bits, for the arithmetic.
        activations: What the backward pass needs of the forward pass.
        passing: What is held for a moment: of one layer, and of the logits.
    """

    weights: float
    moments: float
    gradients: float
    casts: float
    activations: float
    passing: float

    @property
    def peak_bytes(self) -> float:
        """All of it: what torch calls the most memory allocated."""
        return self.weights + self.moments + self.gradients + self.casts + self.activations + self.passing

    @property
    def card_mib(self) -> float:
        """Memory that a card has to have for it, MiB."""
        return card_mib(self.peak_bytes)


def training_memory(network: Network, load: Load) -> Memory:
    """Memory of a training, at the larger of its two peaks.

    The first is when the backward pass begins: activations are all there, and gradients only from the micro-batches
    before. The second is when it has ended: gradients are all there, and no activations.
    """
    trained = load.trained * _NUMBER_BYTES / load.shares
    frozen = held_bytes(network, load.base, exact=not load.is_mixed) / load.shares if load.is_adapter else 0.0
    weights, moments = trained + frozen, 2 * trained
    layer = _layer(network, load)
    is_cast = load.is_mixed and load.base == "stored" and layer is not _ADAPTER_NARROW
    casts = 2.0 * matrix_parameters(network) if is_cast else 0.0
    kept, passing = _activations(network, load, layer)
    first = Memory(
        weights=weights,
        moments=moments,
        gradients=trained if load.accumulation > 1 else 0.0,
        casts=casts / (network.layers if load.recomputed else 1),
        activations=kept,
        passing=passing + _logits(network, load),
    )
    last = Memory(weights=weights, moments=moments, gradients=trained, casts=0.0, activations=0.0, passing=0.0)
    return max(first, last, key=lambda one: one.peak_bytes)


def _layer(network: Network, load: Load) -> _Layer:
    """What was counted for this kind of training."""
    if not load.is_adapter:
        return _FULL_MIXED if load.is_mixed else _FULL
    if not load.is_mixed:
        return _ADAPTER
    if load.base != "stored":
        return _FEW_BITS[load.base]
    return _ADAPTER_NARROW if network.stored_bytes < _NUMBER_BYTES else _ADAPTER_MIXED


def _activations(network: Network, load: Load, layer: _Layer) -> tuple[float, float]:
    """Bytes kept of all layers, and bytes of what passes, with the one layer that is computed again."""
    hidden, inner, keys = network.hidden, network.inner, network.keys
    wide = 2 if load.is_mixed else 4  # bytes of a number within the arithmetic
    each = layer.hidden * hidden + layer.inner * inner + layer.keys * keys
    if load.dropout:  # each of seven inputs is kept once more as it was left, with its mask
        each += (18 if load.is_mixed else 37) * hidden + wide * inner
    if load.is_padded:  # keys and values are repeated for each head, and a mask is kept
        each += 2 * wide * (hidden - keys) + wide * load.length
    passing = layer.passing_hidden * hidden + layer.passing_inner * inner
    stream = (2 if layer is _ADAPTER_NARROW else 4) * hidden
    kept = network.layers * (stream if load.recomputed else each)
    unpacked = 0 if load.base == "stored" else 2 * wide * hidden * inner
    return float(load.tokens * kept), float(load.tokens * (passing + (each if load.recomputed else 0)) + unpacked)


def _logits(network: Network, load: Load) -> float:
    """Bytes of logits and of the gradients on both sides of the head."""
    tokens, words, hidden = load.tokens, network.vocabulary, network.hidden
    if load.head == "none":
        return 0.0
    if load.head == "whole":
        return float(tokens * words * _WHOLE_BYTES)
    wide = 2 if load.is_mixed else 4
    tile = min(tokens, _TILE_TOKENS) * min(words, _TILE_WORDS) * wide
    around = tokens * hidden * (wide + _NUMBER_BYTES)
    of_head = 0 if load.is_adapter else words * hidden * _NUMBER_BYTES + min(words, _TILE_WORDS) * hidden * wide
    return float(tile + around + of_head)
