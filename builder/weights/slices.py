"""Layers put together from several models: which layers of which model make each layer of the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.weights.architecture import LAYER_COUNTS
from builder.weights.family import family_of
from builder.weights.layer_numbers import LISTS, layer_range, what_numbers_decide
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from registry.canonical import JSON

__all__ = ["Part", "Stack", "stack_config", "stack_layers"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What a blend says on the layers of one model.

    Attributes:
        name: The manifest's word for the model.
        layers: How many layers it has.
        taken: Pairs of an entry of ``layers:``, counted from 0, and the layers that it takes, as ``0-15``.
        blended: Whether it is one of the models, and not only what they are compared with.
    """

    name: str
    layers: int
    taken: tuple[tuple[int, str], ...]
    blended: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """The layers of a result.

    Attributes:
        entries: For each entry of ``layers:``, model -> its layers in it; equally many of each model.
    """

    entries: tuple[Mapping[int, range], ...]

    @property
    def layers(self) -> tuple[Mapping[int, int], ...]:
        """For each layer of the result, model -> the layer of it that is taken."""
        return tuple(self._layers())

    def _layers(self) -> Iterator[Mapping[int, int]]:
        for entry in self.entries:
            for places in zip(*entry.values(), strict=True):
                yield dict(zip(entry, places, strict=True))


def stack_layers(parts: Sequence[Part], *, where: str) -> Stack:
    """Which layers of which models make the result.

    Args:
        parts: The models, in their order.
        where: For errors.

    Raises:
        InvalidError: A range that runs backwards or beyond a model, models of which an entry takes different numbers of
            layers, or a model that no entry names.
    """
    entries: dict[int, dict[int, range]] = {}
    for index, part in enumerate(parts):
        if part.blended and not part.taken:
            raise InvalidError(
                f"{part.name} is in no entry of `layers`",
                where=where,
                mend="name it there, or take it out of `models`",
            )
        for place, text in part.taken:
            span = layer_range(text, part.layers, name=part.name, where=where)
            entries.setdefault(place, {})[index] = span
    for place, entry in sorted(entries.items()):
        if len({len(span) for span in entry.values()}) > 1:
            told = ", ".join(f"{len(span)} of {parts[index].name}" for index, span in entry.items())
            raise InvalidError(
                f"entry {place + 1} of `layers` takes different numbers of layers: {told}",
                where=where,
                mend="layers are blended one with one: take equally many of each model, or entries of their own",
            )
    if sorted(entries) != list(range(len(entries))):
        raise InvalidError("an entry of `layers` names no model", where=where, mend="name one, or take the entry out")
    return Stack(entries=tuple(entries[place] for place in sorted(entries)))


def stack_config(
    configs: Sequence[Mapping[str, JSON]], stack: Stack, *, base: Mapping[str, JSON], where: str
) -> dict[str, JSON]:
    """The configuration of the result.

    Args:
        configs: Those of the models.
        stack: Which layers are taken.
        base: The configuration to start from; that of one of the models, or of one like them.
        where: For errors.

    Raises:
        InvalidError: It does not say how many layers there are, or says by a layer's number what the layer is; or
            layers of different kinds are to be blended.
    """
    inner = "text_config" if isinstance(base.get("text_config"), dict) else ""
    table = _text(base)
    counts = sorted(key for key in LAYER_COUNTS if isinstance(table.get(key), int))
    if not counts:
        raise _unclear(f"the configuration has none of {', '.join(sorted(LAYER_COUNTS))}", where)
    if problem := what_numbers_decide(table, family_of(table, what="moving layers", where=where)):
        raise _unclear(problem, where)
    lists: dict[str, JSON] = {
        key: _list(key, [_text(config) for config in configs], stack, where)
        for key in sorted(LISTS)
        if isinstance(table.get(key), list)
    }
    made: dict[str, JSON] = {**table, **dict.fromkeys(counts, len(stack.layers)), **lists}
    return {**base, inner: made} if inner else made


def _text(config: Mapping[str, JSON]) -> Mapping[str, JSON]:
    """The part of a configuration that is on the language model."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _unclear(problem: str, where: str) -> InvalidError:
    return InvalidError(problem, where=where, mend="blend such models without `layers`, each layer in its place")


def _list(key: str, configs: Sequence[Mapping[str, JSON]], stack: Stack, where: str) -> list[JSON]:
    """The entries of a list with one for each layer, of the layers that are taken."""
    made: list[JSON] = []
    for number, layer in enumerate(stack.layers):
        found: list[JSON] = []
        for model, place in layer.items():
            entries = configs[model].get(key)
            if not isinstance(entries, list) or len(entries) <= place:
                raise _unclear(f"{key} says nothing on layer {place} of a model", where)
            found.append(entries[place])
        if any(one != found[0] for one in found):
            raise InvalidError(
                f"layer {number} would be blended of layers of different kinds: {key} says {found[0]!r} and "
                f"{next(one for one in found if one != found[0])!r}",
                where=where,
                mend="take layers of one kind for each layer of the result",
            )
        made.append(found[0])
    return made
