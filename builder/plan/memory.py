"""Memory of a device that a stage needs, by formula, before it runs. Pure; bytes in, MiB out.

Networks, and what holding them and measuring them takes; what training them takes is beside it. Activations of a
measurement are estimated (Korthikanti et al. 2022); what the driver and scattered free blocks take is a rule of thumb.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.adapter_settings import AdapterSettings
    from builder.adapter_types.table import Base
    from builder.settings import NetworkSettings

__all__ = [
    "Network",
    "adapter_parameters",
    "card_mib",
    "evaluation_mib",
    "held_bytes",
    "matrix_parameters",
    "new_network",
    "read_network",
]

_MIB = 1 << 20
_DRIVER_MIB = 768
_SCATTERED = 1.1
_ACTIVATION_BYTES = 34  # of a layer per token and hidden unit, in 16-bit arithmetic
_HELD_BYTES = {"int8": 1.0, "nf4": 0.516}  # of a weight, with the scales of its block
_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8}


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """What is known of a network from its configuration.

    Attributes:
        parameters: Number of weights.
        layers: Layers.
        hidden: Width of the residual stream.
        inner: Width of the MLP.
        keys: Width of keys and values.
        vocabulary: Tokens.
        stored_bytes: Bytes of a weight as it is stored.
    """

    parameters: int
    layers: int
    hidden: int
    inner: int
    keys: int
    vocabulary: int
    stored_bytes: int


def read_network(config: Mapping[str, object], weights_bytes: int) -> Network | None:
    """A network by its ``config.json`` and the size of its weights; ``None`` where the file does not say enough.

    Args:
        config: The file, Llama's words or GPT-2's.
        weights_bytes: Bytes of all weights as they are stored.
    """
    text = config.get("text_config")
    said = {**config, **text} if isinstance(text, dict) else config
    stored = _DTYPE_BYTES.get(str(said.get("dtype") or said.get("torch_dtype") or "float32"), 4)
    hidden, layers = _count(said, "hidden_size", "n_embd"), _count(said, "num_hidden_layers", "n_layer")
    vocabulary = _count(said, "vocab_size")
    if not (hidden and layers and vocabulary and weights_bytes):
        return None
    heads = _count(said, "num_attention_heads", "n_head") or 1
    key_heads = _count(said, "num_key_value_heads") or heads
    return Network(
        parameters=weights_bytes // stored,
        layers=layers,
        hidden=hidden,
        inner=_count(said, "intermediate_size", "n_inner") or 4 * hidden,
        keys=hidden * key_heads // heads,
        vocabulary=vocabulary,
        stored_bytes=stored,
    )


def new_network(settings: NetworkSettings, vocabulary: int) -> Network:
    """The network that a ``pretrain`` stage makes."""
    hidden, layers = settings.hidden_size, settings.layers
    is_gpt2 = settings.architecture == "gpt2"
    inner = settings.intermediate_size or (4 * hidden if is_gpt2 else -(-8 * hidden // 192) * 64)
    keys = hidden * (settings.kv_heads or settings.heads) // settings.heads
    mlp = (2 if is_gpt2 else 3) * hidden * inner
    embeddings = (1 if settings.tie_embeddings else 2) * vocabulary * hidden
    return Network(
        parameters=layers * (2 * hidden * hidden + 2 * hidden * keys + mlp) + embeddings,
        layers=layers,
        hidden=hidden,
        inner=inner,
        keys=keys,
        vocabulary=vocabulary,
        stored_bytes=_DTYPE_BYTES[settings.dtype],
    )


def adapter_parameters(network: Network, settings: AdapterSettings) -> int:
    """Numbers that an adapter on every projection trains; one on fewer has fewer, so this is the most."""
    hidden, keys, inner = network.hidden, network.keys, network.inner
    layer = [(hidden, hidden)] * 2 + [(keys, hidden)] * 2 + [(inner, hidden)] * 2 + [(hidden, inner)]
    norms = [(hidden,)] * (2 * network.layers + 1)
    return settings.trained([*layer * network.layers, *norms])


def matrix_parameters(network: Network) -> int:
    """Weights of the projections of all layers: what is held in few bits, and cast for 16-bit arithmetic."""
    hidden, keys = network.hidden, network.keys
    counted = network.layers * (2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * network.inner)
    return min(counted, network.parameters)


def held_bytes(network: Network, base: Base, *, exact: bool) -> float:
    """Bytes of a frozen model: as it is stored, or in float32 for exact arithmetic; or its projections in few bits."""
    if base == "stored":
        return network.parameters * (4 if exact else network.stored_bytes)
    matrices = matrix_parameters(network)
    return matrices * _HELD_BYTES[base] + (network.parameters - matrices) * 4


def evaluation_mib(networks: list[Network], *, rows: int, length: int) -> float:
    """Memory of an evaluation: every network in float32, one layer's activations, the logits.

    Args:
        networks: What is measured, and what it is compared with.
        rows: Rows at once.
        length: Longest sequence, in tokens.
    """
    tokens = rows * length
    weights = sum(one.parameters * 4 for one in networks)
    widest = max(tokens * (one.hidden * 2 * _ACTIVATION_BYTES + one.vocabulary * 4) for one in networks)
    return card_mib(weights + widest)


def card_mib(peak_bytes: float) -> float:
    """Memory of a card that does for a peak: with what lies scattered, and the driver's own; MiB."""
    return round(peak_bytes * _SCATTERED / _MIB + _DRIVER_MIB)


def _count(config: Mapping[str, object], *names: str) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return 0
