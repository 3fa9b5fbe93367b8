"""Memory of a device that a stage needs, by formula, before it runs. Pure; bytes in, MiB out.

Weights, gradients and the optimiser's states are counted; activations are estimated (Korthikanti et al. 2022, attention
by blocks); what the driver and scattered free blocks take is a rule of thumb.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.adapter_settings import LoraSettings
    from builder.settings import NetworkSettings
    from builder.train_settings import Training

__all__ = ["Network", "evaluation_mib", "lora_parameters", "new_network", "read_network", "training_mib"]

_MIB = 1 << 20
_DRIVER_MIB = 768
_SCATTERED = 1.1
_STATE_BYTES = 16  # of a trained weight: itself, its gradient and two moments, in float32
_ACTIVATION_BYTES = 34  # of a layer per token and hidden unit, in 16-bit arithmetic
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


def lora_parameters(network: Network, settings: LoraSettings) -> int:
    """Weights of a LoRA on every projection; one on fewer has fewer, so this is the most."""
    attention = 2 * (network.hidden + network.hidden) + 2 * (network.hidden + network.keys)
    mlp = 3 * (network.hidden + network.inner)
    return settings.rank * network.layers * (attention + mlp)


def training_mib(
    network: Network, training: Training, *, trained: int, frozen: int, rows: int, sequences: int
) -> float:
    """Memory of a training.

    Args:
        network: The model.
        training: The stage's ``train`` table.
        trained: Weights that are trained.
        frozen: Weights that are not.
        rows: Rows at once.
        sequences: Sequences in a row; two in a preference.
    """
    exact = training.precision == "float32"
    weights = trained * _STATE_BYTES + frozen * (4 if exact else network.stored_bytes)
    tokens = rows * sequences * training.max_length
    activations = tokens * network.hidden * network.layers * _ACTIVATION_BYTES * (2 if exact else 1)
    logits = tokens * network.vocabulary * 4
    return _whole(weights + activations + logits)


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
    return _whole(weights + widest)


def _whole(parts_bytes: float) -> float:
    return round(parts_bytes * _SCATTERED / _MIB + _DRIVER_MIB)


def _count(config: Mapping[str, object], *names: str) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return 0
