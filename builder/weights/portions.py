"""How each tensor of a blend is made: its one recipe, its numbers, and its content; what comes out unchanged is copied.

A tensor that one model gives unchanged is not computed: where its method copies it, where it is the only one that has a
weight, and where all models have the very same bytes and the method gives those back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from builder.blend_methods import BLEND_METHODS
from builder.weighting import ONE, Weighting
from builder.weights.blend.blended import Blended, Ingredient, Recipe
from builder.weights.blend.rows import StoredRows
from builder.weights.dtypes import FLOATS
from builder.weights.renamed import Renamed
from builder.weights.zeros import Zeros
from registry.components import layer_of
from registry.errors import InvalidError
from registry.safetensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.weight_stages import BlendMethod, BlendRule, BlendSettings
    from builder.weights.blend.rows import Rows
    from builder.weights.lineup import Guest, Lineup, Slot
    from builder.weights.stream import Content, Stored
    from builder.weights.words import Words
    from registry.components import Network
    from registry.digest import Digest

__all__ = ["Made", "Portions"]

_NUMBERS: Final = ("weight", "density", "epsilon", "gamma")
_DEFAULTS: Final = {"weight": ONE, "density": ONE, "epsilon": Weighting.of(0.15), "gamma": Weighting.of(0.01)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """One tensor of the result.

    Attributes:
        content: Its bytes.
        change: ``kept`` where it is the base's own, ``copied`` from elsewhere, ``cast`` to another dtype, ``moved``
            into the result's order of tokens, or ``blended``.
        by: The models that it comes from; empty where it is kept.
        method: The manifest's method for it; empty where nothing was computed.
    """

    content: Content
    change: str
    by: tuple[str, ...]
    method: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Portions:
    """The numbers of a blend, for each tensor.

    Attributes:
        lineup: The models.
        words: How rows of vocabularies meet.
        recipes: Tensor name -> its recipe.
        numbers: For each model: what number -> tensor name -> its value.
        dtype: Safetensors dtype that floats are stored in; empty for that of the base.
    """

    lineup: Lineup
    words: Words
    recipes: Mapping[str, Recipe]
    numbers: Sequence[Mapping[str, Mapping[str, float]]]
    dtype: str

    @classmethod
    def resolve(
        cls,
        lineup: Lineup,
        words: Words,
        network: Network,
        *,
        method: BlendMethod,
        settings: BlendSettings,
        rules: Sequence[BlendRule],
        dtype: str,
    ) -> Portions:
        """Work out every number over the network of the result.

        Raises:
            InvalidError: A selector matches nothing.
        """
        chosen = dict.fromkeys(network.names, -1)
        for index, rule in enumerate(rules):
            chosen |= dict.fromkeys(network.select(rule.on), index)
        tables = {-1: (method, settings), **{index: (rule.method, rule.settings) for index, rule in enumerate(rules)}}
        recipes: dict[str, Recipe] = {}
        for index in sorted(set(chosen.values())):
            names = [name for name, entry in chosen.items() if entry == index]
            recipes |= _recipes(network, names, *tables[index])
        numbers = [_numbers(network, guest) for guest in lineup.guests[: lineup.count]]
        return cls(lineup=lineup, words=words, recipes=recipes, numbers=numbers, dtype=dtype)

    def make(self, slot: Slot) -> Made:
        """The content of one tensor.

        Raises:
            InvalidError: The method cannot be used on the models that meet there, or they do not agree in a tensor of
                no floats.
        """
        recipe = self.recipes[slot.name]
        if (alone := self._alone(slot, recipe.method)) is not None:
            return self._taken(slot, alone, recipe)
        start = self._start(slot, recipe.method)
        models = self._models(slot, start)
        if recipe.method != "passthrough" and (problem := BLEND_METHODS[recipe.method].count_problem(len(models))):
            raise self._miscounted(slot, models, recipe.method, problem)
        if (stored := self._no_floats(slot, models, start)) is not None:
            return self._copied(slot, stored)
        if recipe.method == "passthrough":
            return self._passed(slot, models, recipe)
        if (unchanged := self._unchanged(slot, models, start, recipe)) is not None:
            return self._taken(slot, unchanged, recipe)
        return self._computed(slot, models, start, recipe)

    def _alone(self, slot: Slot, method: BlendMethod) -> int | None:
        """The one model of an entry of ``layers``, where the method blends several: there is nothing to blend."""
        needs = BLEND_METHODS[method]
        blends = needs.base != "needed" and not needs.count_problem(1)
        return None if self.lineup.stack is None or len(slot.taken) > 1 or blends else next(iter(slot.taken))

    def _models(self, slot: Slot, start: int | None) -> list[int]:
        """The models that are blended in a slot: not the one that the blend starts from, and that only says where."""
        guests = self.lineup.guests
        return [
            index
            for index in slot.taken
            if index < self.lineup.count and (start is None or guests[index].digest != guests[start].digest)
        ]

    def _start(self, slot: Slot, method: BlendMethod) -> int | None:
        """The model that a tensor's blend starts from; ``None`` where the method knows none."""
        need, start = BLEND_METHODS[method].base, self.lineup.start
        if need == "unread" or (need == "optional" and start is None):
            return None
        if start is None:
            raise self._bad(f"{method} starts from a model, and none is named", "name it as `against`")
        if self.lineup.stack is not None and start not in slot.taken and layer_of(slot.name) is not None:
            raise self._bad(
                f"{method} starts from {self._name(start)}, and `layers` does not say from which of its "
                f"layers {slot.name!r} does",
                "name its layers in that entry, too",
            )
        return start

    def _miscounted(self, slot: Slot, models: Sequence[int], method: BlendMethod, problem: str) -> InvalidError:
        """The error on too few or too many models; one that is the base itself is named, since it counts for none."""
        itself = [index for index in slot.taken if index < self.lineup.count and index not in models]
        told = [", ".join(map(self._name, models))] if models else []
        mend = f"name as many models as {method} takes, or choose another method"
        if itself:
            names, verb = " and ".join(map(self._name, itself)), "is" if len(itself) == 1 else "are"
            told.append(f"{names} {verb} the base, {self.lineup.against}, itself: the digests are equal")
            mend = "name other models than the base under `models`, or take the stage out: it would give the base again"
        return self._bad(f"{slot.name!r} has {problem}{': ' if told else ''}{'; '.join(told)}", mend)

    def _passed(self, slot: Slot, models: Sequence[int], recipe: Recipe) -> Made:
        """One model's tensor, times its weight."""
        weights = {index: self._number("weight", index, slot) for index in models}
        some = [index for index in models if weights[index] != 0 or len(models) == 1]
        if len(some) == 1 and not weights[some[0]]:
            spec = self._spec(slot)
            return Made(content=Zeros(spec=spec), change="blended", by=(self._name(some[0]),), method="passthrough")
        if len(some) != 1:
            names = ", ".join(self._name(index) for index in some or models)
            raise self._bad(
                f"passthrough takes each tensor of one model; for {slot.name!r} there are {len(some)} with a weight: "
                f"{names}",
                "give all but one of them the weight 0 there, or name one model in each entry of `layers`",
            )
        if weights[some[0]] == 1:
            return self._taken(slot, some[0], recipe)
        return replace(self._computed(slot, some, None, _scaled(recipe)), method=recipe.method)

    def _unchanged(self, slot: Slot, models: Sequence[int], start: int | None, recipe: Recipe) -> int | None:
        """A model whose tensor the result has unchanged; ``None`` where it must be computed to be known."""
        needs = BLEND_METHODS[recipe.method]
        weights = {index: self._number("weight", index, slot) for index in models}
        some = [index for index in models if weights[index] != 0 or not needs.leaves_out]
        if recipe.method == "linear":
            normal = needs.normalize if recipe.normalize is None else recipe.normalize
            if len(some) == 1 and (normal or weights[some[0]] == 1):
                return some[0]
            if not normal or not sum(weights.values()):
                return None
        elif needs.base != "needed":
            return None
        meeting = [*some, start] if start is not None else some
        bytes_ = {(self._stored(slot, one).info.dtype, self._digest(slot, one)) for one in meeting}
        alike = len(bytes_) == 1 and next(iter(bytes_))[0] != "F64"  # whose last bits a sum may change
        return meeting[-1] if alike and slot.name not in self.words.remapped else None

    def _taken(self, slot: Slot, index: int, recipe: Recipe) -> Made:
        """A model's tensor as it is, in the dtype and with the tokens of the result."""
        stored = self._stored(slot, index)
        as_it_is = slot.name not in self.words.remapped and stored.info.dtype == self._dtype(slot)
        if as_it_is or stored.info.dtype not in FLOATS:
            return self._copied(slot, stored)
        made = self._computed(slot, [index], None, _scaled(recipe), whole=True)
        if slot.name not in self.words.remapped:
            return replace(made, change="cast", method=recipe.method)
        sources = self.words.sources(index)
        by = tuple(sorted({self._name(one) for group in sources for one in group}))
        change = "moved" if all(len(group) == 1 for group in sources) else "blended"
        return replace(made, change=change, by=by, method=recipe.method)

    def _copied(self, slot: Slot, stored: Stored) -> Made:
        base = self.lineup.base
        own = base.member.folder.tensors.get(slot.name)
        guest = next(one for one in self.lineup.guests if one.member.folder.path == stored.path.parent)
        same = own is not None and base.tensors[slot.name] == guest.tensors[stored.info.name]
        if own is not None and same and own.info.dtype == stored.info.dtype:
            return Made(content=own, change="kept", by=(), method="")
        content = stored if stored.info.name == slot.name else Renamed(content=stored, name=slot.name)
        return Made(content=content, change="copied", by=(guest.name,), method="")

    def _computed(
        self, slot: Slot, models: Sequence[int], start: int | None, recipe: Recipe, *, whole: bool = False
    ) -> Made:
        """A tensor that is blended of several, or of one that is scaled, cast or, as a whole, put in another order."""
        ingredients = tuple(
            Ingredient(
                rows=self._rows(slot, index),
                model=self.lineup.guests[index].weights_digest,
                weight=1.0 if whole else self._number("weight", index, slot),
                density=1.0 if whole else self._number("density", index, slot),
                epsilon=0.0 if whole else self._number("epsilon", index, slot),
                gamma=0.0 if whole else self._number("gamma", index, slot),
            )
            for index in models
        )
        content = Blended(
            spec=self._spec(slot),
            recipe=recipe,
            ingredients=ingredients,
            base=None if start is None else self._rows(slot, start),
        )
        by = sorted({self._name(index) for index in models})
        return Made(content=content, change="blended", by=tuple(by), method=recipe.method)

    def _spec(self, slot: Slot) -> TensorSpec:
        shape = self.words.shape(slot.name, self.lineup.first(slot).info.shape)
        return TensorSpec(name=slot.name, dtype=self._dtype(slot), shape=shape)

    def _name(self, index: int) -> str:
        return self.lineup.guests[index].name

    def _number(self, what: str, index: int, slot: Slot) -> float:
        return self.numbers[index][what][slot.name]

    def _rows(self, slot: Slot, index: int) -> Rows:
        if slot.name not in self.words.remapped:
            return StoredRows(stored=self._stored(slot, index))
        rows = [StoredRows(stored=guest.stored(slot.name)) for guest in self.lineup.guests]
        return self.words.rows(index, rows)

    def _stored(self, slot: Slot, index: int) -> Stored:
        return self.lineup.guests[index].stored(slot.taken.get(index, slot.name))

    def _digest(self, slot: Slot, index: int) -> Digest:
        return self.lineup.guests[index].tensors[slot.taken.get(index, slot.name)]

    def _dtype(self, slot: Slot) -> str:
        return self.dtype or self.lineup.dtype(slot)

    def _no_floats(self, slot: Slot, models: Sequence[int], start: int | None) -> Stored | None:
        """The one tensor that is taken where a slot holds no floats; ``None`` where it does."""
        meeting = [*models, start] if start is not None else [*models]
        stored = [self._stored(slot, index) for index in meeting]
        if all(one.info.dtype in FLOATS for one in stored):
            return None
        digests = {self._digest(slot, index) for index in meeting}
        dtypes = sorted({one.info.dtype for one in stored})
        if len(digests) > 1 or len(dtypes) > 1:
            names = ", ".join(self._name(index) for index in meeting)
            raise self._bad(
                f"{slot.name!r} is {' or '.join(dtypes)} and not the same in {names}; only floats can be blended",
                "blend models that agree in it",
            )
        return stored[0]

    def _bad(self, problem: str, mend: str) -> InvalidError:
        return InvalidError(problem, where=self.lineup.where, mend=mend)


def _recipes(network: Network, names: Sequence[str], method: BlendMethod, settings: BlendSettings) -> dict[str, Recipe]:
    """The recipes of some tensors with one method."""
    lambdas, places, shares = (
        weighting.resolve(network) for weighting in (settings.lambda_, settings.t, settings.select_topk)
    )
    return {
        name: Recipe(
            method=method,
            normalize=settings.normalize,
            rescale=settings.rescale,
            lambda_=lambdas[name],
            t=places[name],
            select_topk=shares[name],
            row_wise=settings.row_wise,
            filter_wise=settings.filter_wise,
            steps=settings.steps,
            tolerance=settings.tolerance,
            seed=settings.seed,
        )
        for name in names
    }


def _numbers(network: Network, guest: Guest) -> dict[str, Mapping[str, float]]:
    """A model's own numbers over the network."""
    found: dict[str, Mapping[str, float]] = {}
    for what in _NUMBERS:
        said = guest.settings.get(what, _DEFAULTS[what].to_json())
        found[what] = Weighting.parse(said, where=f"{guest.name}: {what}").resolve(network)
    return found


def _scaled(recipe: Recipe) -> Recipe:
    """One tensor times its weight."""
    return Recipe(
        method="linear",
        normalize=False,
        rescale=None,
        lambda_=1.0,
        t=0.0,
        select_topk=1.0,
        row_wise=False,
        filter_wise=False,
        steps=1,
        tolerance=recipe.tolerance,
        seed=recipe.seed,
    )
