"""Rotary positions in a configuration: how they are scaled, and stretching them.

A configuration says them in one of two forms, and the result has the form that was there: ``rope_parameters`` (since
transformers 5), else ``rope_scaling``. Transformers 5.23 reads both, older readers only the second.

``linear`` divides every angle by the factor (Chen et al., 2023, arXiv:2306.15595). ``dynamic`` raises the base as far
as a sequence needs it (NTK-aware scaling). ``yarn`` interpolates slow angles and leaves fast ones (Peng et al., 2023,
arXiv:2309.00071). ``dynamic`` counts from ``max_position_embeddings``, which so keeps the length that the model was
trained on; for ``yarn`` that is ``original_max_position_embeddings``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.weight_stages import RopeSettings
    from builder.weights.draft import Draft
    from registry.canonical import JSON

__all__ = ["LENGTH", "MAX_LENGTH", "is_anchored", "rope_type", "scale_rope"]

LENGTH: Final = "max_position_embeddings"
MAX_LENGTH: Final = 2**31 - 1
"""Longest sequence, in tokens, that is taken for one: what 32 bits count."""

_NEW: Final = "rope_parameters"
_OLD: Final = "rope_scaling"
_ORIGINAL: Final = "original_max_position_embeddings"
_NEEDS_WIDTH: Final = frozenset({"mixtral"})  # transformers 5.23 scales it only by a head_dim that is spelled out


def rope_type(config: Mapping[str, JSON]) -> str:
    """How rotary positions are scaled: ``default`` for not at all, else ``linear``, ``yarn``, ``llama3`` ..."""
    table = _table(config)
    return str(table.get("rope_type", table.get("type", "default")))


def is_anchored(config: Mapping[str, JSON]) -> bool:
    """Whether the scaling means the same under another ``max_position_embeddings``."""
    kind = rope_type(config)
    return kind in {"default", "linear"} or (kind in {"yarn", "llama3"} and _ORIGINAL in _table(config))


def scale_rope(draft: Draft, settings: RopeSettings, *, length: int, context: int) -> tuple[Draft, int]:
    """Stretch the positions of a model that has not been stretched.

    Args:
        draft: The model.
        settings: How, and by which factor.
        length: Longest sequence before.
        context: Longest sequence of the result; 0 for as long as the factor makes it.

    Returns:
        The model, and the longest sequence of it.

    Raises:
        InvalidError: The positions are scaled already, the context is longer than the factor makes it, or that is
            beyond :data:`MAX_LENGTH`.
    """
    config = draft.config
    if rope_type(config) != "default":
        raise InvalidError(
            f"the rotary positions are scaled already: {rope_type(config)}",
            where=draft.where,
            mend="start from the model as it was before that, and scale it once by the whole factor",
        )
    longest = math.floor(length * settings.factor)
    if longest > MAX_LENGTH:
        raise InvalidError(
            f"{length} tokens times {settings.factor:g} are {longest}, more than {MAX_LENGTH}",
            where=draft.where,
            mend=f"say a factor of at most {MAX_LENGTH / length:g}",
        )
    if context > longest:
        raise InvalidError(
            f"context {context} is longer than {length} times {settings.factor:g}, which is {longest}",
            where=draft.where,
            mend=f"say a factor of at least {context / length:g}, or a shorter context",
        )
    if context and settings.type == "dynamic":
        raise InvalidError(
            "dynamic scaling counts from the old length, and has no other to set",
            where=draft.where,
            mend="leave `context` out, or say `type: yarn`",
        )
    scaling: dict[str, JSON] = {"rope_type": settings.type, "factor": settings.factor}
    scaling |= {_ORIGINAL: length} if settings.type == "yarn" else {}
    key = _NEW if _NEW in config else _OLD
    said: dict[str, JSON] = {key: {**_table(config), **scaling}}
    said |= {LENGTH: context or longest} if settings.type != "dynamic" else {}
    if config.get("model_type") in _NEEDS_WIDTH and config.get("head_dim") is None:
        said["head_dim"] = _head_dim(draft)
    note = f"rope: {settings.type} by {settings.factor:g}, from {length} tokens to {context or longest}"
    return draft.say(**said).note(note), context or longest


def _head_dim(draft: Draft) -> int:
    width, heads = draft.config.get("hidden_size"), draft.config.get("num_attention_heads")
    if not isinstance(width, int) or not isinstance(heads, int) or heads < 1:
        raise InvalidError(
            f"hidden_size is {width}, num_attention_heads is {heads}",
            where=draft.where,
            mend="state head_dim in config.json, and import the model again",
        )
    return width // heads


def _table(config: Mapping[str, JSON]) -> Mapping[str, JSON]:
    for key in (_OLD, _NEW):  # the order in which transformers looks
        table = config.get(key)
        if isinstance(table, dict) and table:
            return table
    return {}
