"""The models of a blend in an order that no name decides, and which of their tensors meet in each one of the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.weights.architecture import (
    LAYER_COUNTS,
    LAYER_LISTS,
    VOCABULARY_SIZE,
    Member,
    check_configs,
    check_heads,
    check_shapes,
)
from builder.weights.dtypes import FLOATS
from registry.components import at_layer, layer_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from builder.weights.slices import Stack
    from builder.weights.stream import Stored
    from registry.canonical import JSON
    from registry.digest import Digest

__all__ = ["Guest", "Lineup", "Slot"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Guest:
    """One model of a blend.

    Attributes:
        member: Its name, files and configuration.
        digest: Artifact digest.
        weights_digest: Digest of its weights.
        tensors: Tensor name -> digest of its bytes.
        settings: What the manifest says on it alone.
    """

    member: Member
    digest: Digest
    weights_digest: Digest
    tensors: Mapping[str, Digest]
    settings: Mapping[str, JSON]

    @property
    def name(self) -> str:
        """What the manifest calls it."""
        return self.member.name

    def stored(self, name: str) -> Stored:
        """One of its tensors."""
        return self.member.folder.tensors[name]


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """One tensor of the result, and what meets in it.

    Attributes:
        name: Its name in the result.
        taken: Model -> name of its tensor there.
    """

    name: str
    taken: Mapping[int, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineup:
    """All models that a blend reads.

    Attributes:
        guests: The models that are blended, then the one that the blend starts from where it is none of them.
        count: How many are blended.
        start: The model that the blend starts from; ``None`` for none.
        against: What the manifest calls that one, which may be another name of one of the models; empty for none.
        stack: Which layers are taken; ``None``: each from its own place.
        where: For errors.
    """

    guests: tuple[Guest, ...]
    count: int
    start: int | None
    against: str
    stack: Stack | None
    where: str

    @property
    def base(self) -> Guest:
        """The model whose files, dtypes and places the result has."""
        return self.guests[self.start or 0]

    def check_settings(self) -> tuple[str, ...]:
        """Check that all configurations shape the same network; how many tokens it knows is not looked at.

        Returns:
            Notes on what differs and does no harm.

        Raises:
            InvalidError: They do not, or a model is quantised.
        """
        free = frozenset({VOCABULARY_SIZE}) | ((LAYER_COUNTS | LAYER_LISTS) if self.stack is not None else frozenset())
        base = self.base.member
        notes = list(check_configs(base, base, free=free))
        for other in self._others():
            notes += check_configs(base, other.member, free=free)
            check_heads(base, other.member)
        return tuple(notes)

    def check_tensors(self, free_rows: Collection[str]) -> None:
        """Check that all have the same tensors, where layers are moved those outside of them.

        Args:
            free_rows: Tensors whose number of rows may differ.

        Raises:
            InvalidError: They have not, or layers are to be blended that are made in different ways.
        """
        base, ours = self.base.member, self._shapes(self.base)
        for guest in self._others():
            other = guest.member
            names, where = (base.name, other.name), f"{other.source} with {base.source}"
            check_shapes(ours, self._shapes(guest), names=names, where=where, free_rows=free_rows)
        self._check_layers()

    def slots(self) -> tuple[Slot, ...]:
        """Every tensor of the result."""
        return tuple(self._whole() if self.stack is None else self._stacked(self.stack))

    def first(self, slot: Slot) -> Stored:
        """The tensor that gives a slot its shape: that of the first model in it."""
        index, name = next(iter(slot.taken.items()))
        return self.guests[index].stored(name)

    def dtype(self, slot: Slot) -> str:
        """What the base stores such a tensor as; beyond its layers, as in its last one."""
        tensors = self.base.member.folder.tensors
        last = max(0, self.base.member.folder.network.layers - 1)
        found = tensors.get(slot.name) or tensors.get(at_layer(slot.name, last))
        stored = self.first(slot)
        both_floats = found is not None and {found.info.dtype, stored.info.dtype} <= FLOATS
        return found.info.dtype if found is not None and both_floats else stored.info.dtype

    def _others(self) -> list[Guest]:
        """All models but the base itself."""
        return [guest for guest in self.guests if guest.digest != self.base.digest]

    def _whole(self) -> Iterator[Slot]:
        for name in self.base.member.folder.tensors:
            yield Slot(name=name, taken=dict.fromkeys(range(self.count), name))

    def _stacked(self, stack: Stack) -> Iterator[Slot]:
        """Layer by layer; what comes before the layers is made as the first entry says, all else as the last one."""
        folder = self.base.member.folder
        for name in folder.tensors:
            if layer_of(name) is None:
                place = folder.network.places.get(name)
                before = place is not None and place.is_in("embedding")
                entry = stack.entries[0 if before else -1]
                yield Slot(name=name, taken=dict.fromkeys(entry, name))
        for number, layer in enumerate(stack.layers):
            model, place_there = next(iter(layer.items()))
            for name in self.guests[model].member.folder.tensors:
                if layer_of(name) == place_there:
                    taken = {other: at_layer(name, place) for other, place in layer.items()}
                    yield Slot(name=at_layer(name, number), taken=taken)

    def _shapes(self, guest: Guest) -> dict[str, tuple[int, ...]]:
        """Shapes of what must be alike in all models: of everything, or, where layers are moved, of what is outside."""
        tensors = guest.member.folder.tensors
        return {
            name: stored.info.shape for name, stored in tensors.items() if self.stack is None or layer_of(name) is None
        }

    def _check_layers(self) -> None:
        """Layers that are blended one with one must be made alike."""
        for layer in self.stack.layers if self.stack is not None else ():
            (first, place), *rest = layer.items()
            ours = _layer_shapes(self.guests[first].member, place)
            for other, place_there in rest:
                names = (
                    f"layer {place} of {self.guests[first].name}",
                    f"layer {place_there} of {self.guests[other].name}",
                )
                theirs = _layer_shapes(self.guests[other].member, place_there)
                check_shapes(ours, theirs, names=names, where=self.where)


def _layer_shapes(member: Member, layer: int) -> dict[str, tuple[int, ...]]:
    tensors = member.folder.tensors
    return {at_layer(name, 0): one.info.shape for name, one in tensors.items() if layer_of(name) == layer}
