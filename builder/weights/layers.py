"""Layers of a model put together anew: some twice, some not at all, in any order."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from builder.weights.architecture import LAYER_COUNTS
from builder.weights.family import family_of
from builder.weights.layer_numbers import LISTS, layer_range, what_numbers_decide
from builder.weights.renamed import Renamed
from registry.components import at_layer, layer_of
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.weights.draft import Draft
    from builder.weights.family import Family
    from builder.weights.stream import Content
    from registry.canonical import JSON

__all__ = ["choose_layers"]


def choose_layers(draft: Draft, ranges: Sequence[str]) -> Draft:
    """Put the layers of the result together from ranges of the old ones; their tensors keep their bytes.

    Lists of the configuration with an entry for each layer are put together in the same way.

    Raises:
        InvalidError: A layer that is not there, a family that is not known, files that do not agree on the number of
            layers, or a setting that makes a layer's number matter.
    """
    family = family_of(draft.config, what="putting layers together", where=draft.where)
    count = _count(draft)
    chosen = tuple(layer for text in ranges for layer in layer_range(text, count, name="the model", where=draft.where))
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
    unused = [name for name, old in inside.items() if not uses[old]]
    gone = inside.keys() - stay - set(unused)
    note = f"layers: {len(chosen)} of {count}, {', '.join(ranges)}"
    draft = replace(draft, renumbered=True).remove(*unused).drop(*gone)
    return draft.put("moved", moved).say(**config).note(note)


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
    if problem := what_numbers_decide(draft.config, family):
        raise InvalidError(
            problem,
            where=draft.where,
            mend="say of every layer what it is, in `layer_types` and the like, in config.json; or leave `layers` out",
        )
    said: dict[str, JSON] = {key: len(chosen) for key in LAYER_COUNTS & draft.config.keys()}
    for key in sorted(LISTS & draft.config.keys()):
        said |= _chosen_entries(draft, key, chosen, count)
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
