"""The shortest spelling of some modules of a network, as PEFT's configurations and patterns name them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

__all__ = ["spell_endings", "spell_modules"]

_LAYER = re.compile(r".*?\.[^.]*\.(?P<layer>\d+)\.")  # as PEFT reads `layers_to_transform`


def spell_modules(chosen: Collection[str], every: Iterable[str]) -> tuple[list[str], list[int] | None]:
    """The shortest spelling of some modules for an adapter's configuration.

    Args:
        chosen: Whole names of the modules.
        every: Whole names of all modules of the model.

    Returns:
        ``target_modules``, sorted, and ``layers_to_transform``: name endings alone where the choice is every module
        with such an ending; endings within some layers; else whole names.
    """
    names = list(every)
    layers = {_layer(name) for name in chosen}
    endings = _endings(chosen, names)
    if endings is not None:
        return endings, None
    if None not in layers:
        endings = _endings(chosen, [name for name in names if _layer(name) in layers])
        if endings is not None:
            return endings, sorted(layer for layer in layers if layer is not None)
    return sorted(chosen), None


def spell_endings(chosen: Collection[str], every: Iterable[str]) -> list[str]:
    """The shortest spelling by names alone: endings where they do, else whole names; sorted."""
    return _endings(chosen, list(every)) or sorted(chosen)


def _layer(name: str) -> int | None:
    found = _LAYER.match(name)
    return int(found["layer"]) if found else None


def _endings(chosen: Collection[str], names: Sequence[str]) -> list[str] | None:
    """For each chosen name its shortest ending that no other name has; ``None`` where a layer's number is needed."""
    endings: set[str] = set()
    known = set(chosen)
    others = [name for name in names if name not in known]
    for name in chosen:
        if any(name.endswith(f".{ending}") or name == ending for ending in endings):
            continue
        parts = name.split(".")
        tails = (".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1))
        ending = next(tail for tail in tails if not any(one == tail or one.endswith(f".{tail}") for one in others))
        if any(part.isdecimal() for part in ending.split(".")):
            return None
        endings.add(ending)
    return sorted(endings)
