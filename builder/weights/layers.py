"""Layers of a model put together anew: some twice, some not at all, in any order."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from builder.weights.architecture import LAYER_COUNTS, LAYER_LISTS
from builder.weights.family import family_of
from builder.weights.renamed import Renamed
from registry.components import at_layer, layer_of, spell_layers
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from builder.weights.draft import Draft
    from builder.weights.family import Family
    from builder.weights.stream import Content
    from registry.canonical import JSON

__all__ = ["choose_layers", "expand_ranges"]

_LISTS: Final = LAYER_LISTS | {"no_rope_layers"}

# Settings that make a layer's number matter, and the value with which they do not.
_NUMBERED: Final[Mapping[str, JSON]] = {
    "decoder_sparse_step": 1,
    "first_k_dense_replace": 0,
    "mlp_only_layers": [],
    "scale_attn_by_inverse_layer_idx": False,
}
# The same where a list that they make up is not there.
_DERIVING: Final[Mapping[str, str]] = {
    "no_rope_layer_interval": "no_rope_layers",
    "sliding_window_pattern": "layer_types",
    "use_sliding_window": "layer_types",
}
_ASIDE: Final = frozenset({"max_window_layers"})  # nothing without use_sliding_window
_SPEAKS_OF_LAYERS = re.compile(r"layer(?!_?norm|drop|_?scale)")


def expand_ranges(ranges: Sequence[str], count: int, *, where: str) -> tuple[int, ...]:
    """The layers that ranges such as ``0-15`` name, one after another, in the order given.

    Args:
        ranges: Ranges of layers, counted from 0, both ends included; or single layers.
        count: How many layers there are.
        where: For errors.

    Raises:
        InvalidError: A range runs backwards, or a layer is not there.
    """
    chosen: list[int] = []
    for text in ranges:
        first, _, last = text.partition("-")
        start, stop = int(first), int(last or first)
        if start > stop:
            raise InvalidError(
                f"layers {text} run backwards",
                where=where,
                mend=f"write {stop}-{start}, or single layers in that order",
            )
        if stop >= count:
            raise InvalidError(
                f"layers {text} are not in a model of {count} layers",
                where=where,
                mend=f"say layers within {spell_layers(range(count))}" if count else "leave `layers` out",
            )
        chosen += range(start, stop + 1)
    return tuple(chosen)


def choose_layers(draft: Draft, ranges: Sequence[str]) -> Draft:
    """Put the layers of the result together from ranges of the old ones; their tensors keep their bytes.

    Lists of the configuration with an entry for each layer are put together in the same way.

    Raises:
        InvalidError: A layer that is not there, a family that is not known, files that do not agree on the number of
            layers, or a setting that makes a layer's number matter.
    """
    family = family_of(draft.config, what="putting layers together", where=draft.where)
    count = _count(draft)
    chosen = expand_ranges(ranges, count, where=draft.where)
    if chosen == tuple(range(count)):
        return draft.note(f"layers: all {count} as they were")
    config = _config(draft, family, chosen, count)
    uses: dict[int, list[int]] = defaultdict(list)
    for new, old in enumerate(chosen):
        uses[old].append(new)
    inside = {name: layer for name in draft.contents if (layer := layer_of(name)) is not None}
    moved: dict[str, Content] = {}
    stay: set[str] = set()
    for name, old in inside.items():
        for new in uses[old]:
            if new == old:
                stay.add(name)
            else:
                target = at_layer(name, new)
                moved[target] = Renamed(content=draft.contents[name], name=target)
    gone = inside.keys() - stay
    note = f"layers: {len(chosen)} of {count}, {', '.join(ranges)}"
    return draft.drop(*gone).put("moved", moved).say(**config).note(note)


def _count(draft: Draft) -> int:
    """How many layers there are, on which names and configuration must agree."""
    found = draft.network.layers
    for key in sorted(LAYER_COUNTS & draft.config.keys()):
        if draft.config[key] != found:
            raise InvalidError(
                f"{key} is {draft.config[key]}, the tensors have {found} layers",
                where=draft.where,
                mend="use configuration and weights that belong together",
            )
    if not LAYER_COUNTS & draft.config.keys():
        raise InvalidError(
            "the configuration does not say how many layers there are",
            where=draft.where,
            mend=f"state one of {', '.join(sorted(LAYER_COUNTS))} in config.json, and import the model again",
        )
    return found


def _config(draft: Draft, family: Family, chosen: tuple[int, ...], count: int) -> dict[str, JSON]:
    """The keys of the configuration that change."""
    config = draft.config
    for key in family.spelled:
        if not isinstance(config.get(key), list):
            raise _matters(draft, key, "is made up from the layers' numbers")
    for key, harmless in _NUMBERED.items():
        if config.get(key, harmless) not in (harmless, None):
            raise _matters(draft, key, f"is {config[key]}")
    for key, spelled in _DERIVING.items():
        if config.get(key) and not isinstance(config.get(spelled), list):
            raise _matters(draft, key, f"is {config[key]} and there is no list {spelled}")
    said: dict[str, JSON] = {key: len(chosen) for key in LAYER_COUNTS & config.keys()}
    for key in sorted(_LISTS & config.keys()):
        said |= _chosen_entries(draft, key, chosen, count)
    for key in _unclear(config):
        raise _matters(draft, key, f"is {config[key]}")
    return said


def _chosen_entries(draft: Draft, key: str, chosen: tuple[int, ...], count: int) -> dict[str, JSON]:
    entries = draft.config[key]
    if entries is None:
        return {}
    if not isinstance(entries, list) or len(entries) != count:
        raise InvalidError(
            f"{key} does not have one entry for each of {count} layers",
            where=draft.where,
            mend="use configuration and weights that belong together",
        )
    return {key: [entries[layer] for layer in chosen]}


def _unclear(config: Mapping[str, JSON]) -> Iterable[str]:
    """Keys that speak of layers in a way that nothing here knows."""
    for key, value in sorted(config.items()):
        known = key in {*LAYER_COUNTS, *_LISTS, *_NUMBERED, *_DERIVING, *_ASIDE}
        if not known and _SPEAKS_OF_LAYERS.search(key) and value not in (None, False, 0, [], {}):
            yield key


def _matters(draft: Draft, key: str, problem: str) -> InvalidError:
    return InvalidError(
        f"{key} {problem}: a layer may not mean the same under another number",
        where=draft.where,
        mend="say of every layer what it is, in `layer_types` and the like, in config.json; or leave `layers` out",
    )
