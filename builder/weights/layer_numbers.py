"""Layers by number: ranges of them as manifests write them, and configurations in which a layer's number decides."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from builder.weights.architecture import LAYER_COUNTS, LAYER_LISTS
from registry.canonical import encode
from registry.components import spell_layers
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.weights.family import Family
    from registry.canonical import JSON

__all__ = ["LISTS", "layer_range", "what_numbers_decide"]

LISTS: Final = LAYER_LISTS | {"no_rope_layers"}
"""Keys whose value has an entry for each layer, and which move with the layers."""

_RANGE: Final = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")

# What makes a layer's number matter, and the value with which it does not.
_BY_NUMBER: Final[Mapping[str, JSON]] = {
    "decoder_sparse_step": 1,
    "first_k_dense_replace": 0,
    "interleave_moe_layer_step": 1,
    "mlp_only_layers": [],
    "scale_attn_by_inverse_layer_idx": False,
}
# The same where a list with an entry for each layer, which says it instead, is not there.
_LISTED: Final[Mapping[str, str]] = {
    "full_attention_interval": "layer_types",
    "global_attn_every_n_layers": "layer_types",
    "no_rope_layer_interval": "no_rope_layers",
    "sliding_window_pattern": "layer_types",
    "use_sliding_window": "layer_types",
}
_ALONE_SILENT: Final = frozenset({"max_window_layers"})  # nothing without use_sliding_window
_KNOWN: Final = frozenset({*LAYER_COUNTS, *LISTS, *_BY_NUMBER, *_LISTED, *_ALONE_SILENT})
_ON_LAYERS: Final = re.compile(r"layer(?!_?norm|drop|_?scale)")
_NUMBER: Final = "what a layer is follows from its number"


def layer_range(text: str, count: int, *, name: str, where: str) -> range:
    """The layers of a range such as ``0-15``, both ends included, or of a single layer.

    Args:
        text: The range.
        count: How many layers there are.
        name: What has them, for errors.
        where: For errors.

    Raises:
        InvalidError: It is no range, runs backwards, or goes beyond the layers.
    """
    match = _RANGE.fullmatch(text)
    if match is None:
        raise InvalidError(f"{text!r} is no range of layers", where=where, mend="write layers such as 0-15, or one")
    first, last = int(match[1]), int(match[2] or match[1])
    if first > last:
        mend = f"write {last}-{first}, or single layers in that order"
        raise InvalidError(f"layers {text} run backwards", where=where, mend=mend)
    if last >= count:
        raise InvalidError(
            f"layers {text} of {name} are wanted; it has {count}{f', {spell_layers(range(count))}' if count else ''}",
            where=where,
            mend="the last layer counts too: write 0-15 for sixteen",
        )
    return range(first, last + 1)


def what_numbers_decide(config: Mapping[str, JSON], family: Family) -> str:
    """Why a layer would mean something else under another number; empty where it would not.

    Args:
        config: The configuration of the language model.
        family: Its family.
    """
    for key in family.spelled:
        if not isinstance(config.get(key), list):
            return f"there is no list {key}: {_NUMBER}"
    for key, value in sorted(config.items()):
        if value in (None, False, 0, [], {}) or value == _BY_NUMBER.get(key):
            continue
        shown = encode(value).decode()
        if key in _BY_NUMBER:
            return f"{key} is {shown}: {_NUMBER}"
        if key in _LISTED and not isinstance(config.get(_LISTED[key]), list):
            return f"{key} is {shown} and there is no list {_LISTED[key]}: {_NUMBER}"
        if key not in _KNOWN and _ON_LAYERS.search(key):
            return f"{key} is {shown}, which may follow from a layer's number"
    return ""
