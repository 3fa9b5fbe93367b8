"""A model that an adapter goes into: which tensors on disk its modules stand for, and what it does to each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.weights.adapters import HEADS, bad_tensor
from builder.weights.dtypes import FLOATS
from builder.weights.effect import Applied
from builder.weights.experts import aliases, one_by_one, stacked
from builder.weights.family import FAMILIES, has_token_rows
from builder.weights.parameters import check_complete, copied, replaced, token_rows
from builder.weights.placed import Placed
from builder.weights.places import part_effects, place_of
from builder.weights.saved import Replaced, Rows
from builder.weights.tied import TOKEN_EMBEDDING, one_of_two

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from builder.weights.adapters import Adapter, Part
    from builder.weights.experts import Slice
    from builder.weights.folder import ModelFolder
    from builder.weights.stream import Stored
    from registry.errors import InvalidError

__all__ = ["Replaced", "Rows", "Site", "is_conv1d", "is_tied"]

# transformers' Conv1D keeps its weight as [in, out]; for a square one only its name tells.
_CONV1D_MODELS = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
_CONV1D_MODULES = frozenset({"c_attn", "q_attn", "c_proj", "c_fc"})

_RIGHT_MODEL = "fold it into the model that it was trained on"
_UNTIE = "untie the model first (a stage of kind graft, with untie: true), or train the adapter on other modules"


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """A model that an adapter is to go into.

    Attributes:
        adapter: The adapter.
        model: The base, or a descendant with equal shapes.
        tied: The embedding is the head, too: no head lies on disk, and the configuration does not say otherwise.
        family: The model's type, such as ``llama``.
        order: Module -> its place in the order of the model's code, where the adapter's type needs it.
    """

    adapter: Adapter
    model: ModelFolder
    tied: bool
    family: str
    order: Mapping[str, int]

    @classmethod
    def of(cls, adapter: Adapter, model: ModelFolder) -> Site:
        """Look at the model's configuration and names.

        Raises:
            InvalidError: The adapter does not tell the order of its modules, and needs it.
            OSError: A file cannot be read.
        """
        tell = adapter.method.order
        order = {} if tell is None else tell(adapter.config, {part.module: part.tensors for part in adapter.parts})
        family = str(model.config().get("model_type"))
        return cls(adapter=adapter, model=model, tied=is_tied(model), family=family, order=order)

    def effects(self) -> dict[str, Applied]:
        """What the adapter does to each tensor of the model that it changes, at full scale: tensor name -> effect.

        Raises:
            InvalidError: A module that the model has not, other shapes, a tied embedding, a weight that is no float,
                saved parameters that are not there or not those of this model.
            OSError: A file cannot be read.
        """
        found: dict[str, Applied] = {}
        adapter = one_of_two(self)
        places = [place_of(self, part) for part in adapter.parts]
        shapes = [place.shape for place in places]
        largest = (max((rows for rows, _ in shapes), default=0), max((columns for _, columns in shapes), default=0))
        for place in places:
            for name, applied in part_effects(self, place, largest):
                self._put(found, name, applied, place.part.first)
        for module, stored in adapter.tokens.items():
            name = self.name_of(f"{module}.weight", stored)
            self._put(found, name, Applied(effect=token_rows(self, name, stored, module)), stored)
        for parameter, stored in adapter.replaced.items():
            for name, applied in replaced(self, parameter, stored):
                self._put(found, name, applied, stored)
        for parameter, stored in adapter.copies.items():
            for name, applied in copied(self, parameter, stored):
                self._put(found, name, applied, stored)
        check_complete(self, found)
        return found

    def _put(self, found: dict[str, Applied], name: str, applied: Applied, stored: Stored) -> None:
        """Keep an effect; those on parts of one stack become one."""
        if (other := found.get(name)) is None:
            found[name] = applied
            return
        ours, theirs = applied.effect, other.effect
        pieces = ours.pieces if isinstance(ours, Placed) else ()
        if not pieces or not isinstance(theirs, Placed) or any(theirs.covers(piece.at) for piece in pieces):
            mend = "train an adapter that changes each parameter in one way only"
            raise self.bad(stored, f"and another one are both on {name}", mend)
        found[name] = Applied(effect=Placed(pieces=(*theirs.pieces, *pieces)))

    # Names

    def name_of(self, parameter: str, stored: Stored) -> str:
        """Name on disk of a parameter, which may be stored with or without the outermost prefix.

        Args:
            parameter: Name of the parameter, as PEFT has it.
            stored: The adapter's tensor that is on it, for errors.

        Raises:
            InvalidError: The model has no such parameter, or it is a head that is tied to the embedding.
        """
        if name := self.whole(parameter):
            return name
        if self.is_tied_head(parameter):
            raise self.tied_error(stored)
        raise self.bad(stored, f"is on {parameter.rpartition('.')[0]}, which the model has not", _RIGHT_MODEL)

    def whole(self, parameter: str) -> str:
        """Name on disk of a parameter that is a tensor of its own; empty where it is none."""
        return next((name for name in _names(parameter) if name in self.model.tensors), "")

    def one_by_one(self, parameter: str) -> tuple[Slice, ...]:
        """Where the matrices of a stacked parameter lie, each by itself; empty where they do not."""
        found = (one_by_one(name, self.model.tensors) for name in _names(parameter))
        return next(filter(None, found), ())

    def stacked(self, weight: str) -> Slice | None:
        """Where in a stack the weight of one expert lies; ``None`` where it does not."""
        found = (stacked(name, self.model.tensors) for name in _names(weight))
        return next(filter(None, found), None)

    def is_tied_head(self, parameter: str) -> bool:
        """Whether a parameter is a head that is the embedding, too."""
        return self.tied and parameter.rpartition(".")[0].rpartition(".")[2] in HEADS

    def is_embedding(self, parameter: str) -> bool:
        """Whether a parameter is the embedding of tokens."""
        return self.model.network.component_of(self.whole(parameter)) == TOKEN_EMBEDDING

    def is_conv1d(self, module: str) -> bool:
        """Whether a module is transformers' Conv1D by its name and family."""
        return is_conv1d(self.model, module)

    @property
    def is_known(self) -> bool:
        """Whether the family is known, and so which of its modules are transformers' Conv1D."""
        return self.family in FAMILIES or self.family in _CONV1D_MODELS

    # Checks and errors

    def features(self, part: Part) -> tuple[int, int] | None:
        """``(out, in)`` by the adapter's own tensors; ``None`` where they do not tell."""
        method, values = self.adapter.method, self.adapter.config.values
        if method.features is None or any(values.get(key) for key in method.reshaped):
            return None
        return method.features(part.tensors)

    def check_float(self, name: str, stored: Stored) -> None:
        """A tensor of the model that is changed must hold floats.

        Raises:
            InvalidError: It does not.
        """
        info = self.model.tensors[name].info
        if info.dtype not in FLOATS:
            raise self.bad(stored, f"is on {name}, which is {info.dtype}", _RIGHT_MODEL)

    def check_shape(self, name: str, stored: Stored, shape: tuple[int, ...]) -> None:
        """A saved parameter must have the model's shape.

        Raises:
            InvalidError: It has another one.
        """
        if stored.info.shape == shape:
            return
        mend = _RIGHT_MODEL
        if shape and stored.info.shape[1:] == shape[1:] and self.is_vocabulary(name) and stored.info.shape > shape:
            mend = f"graft {stored.info.shape[0] - shape[0]} words into the model first"
        raise self.bad(stored, f"is {list(stored.info.shape)}; {name} is {list(shape)}", mend)

    def is_vocabulary(self, name: str) -> bool:
        """Whether a tensor on disk has a row for each word."""
        return has_token_rows(self.model.network, name)

    def misfit(self, part: Part, name: str) -> InvalidError:
        """The error on a part of another shape than its module."""
        info = self.model.tensors[name].info
        features = self.features(part)
        made = "is on another shape: " if features is None else f"and its other factor make {list(features)}; "
        return self.bad(part.first, f"{made}{name} is {info.dtype} {list(info.shape)}", _RIGHT_MODEL)

    def tied_error(self, stored: Stored) -> InvalidError:
        """The error on a change to one of two that are one tensor."""
        return self.bad(stored, "is on an embedding that is tied to the head: the change would be in both", _UNTIE)

    def bad(self, stored: Stored, problem: str, mend: str) -> InvalidError:
        """An error on one of the adapter's tensors."""
        return bad_tensor(self.adapter.path, stored.info.name, problem, mend)


def _names(parameter: str) -> Iterator[str]:
    """What a parameter may be called on disk."""
    _, _, inner = parameter.partition(".")
    for name in (parameter, inner, f"model.{parameter}", f"transformer.{parameter}"):
        yield from aliases(name)


def is_tied(model: ModelFolder) -> bool:
    """Whether the embedding is the head, too."""
    places = model.network.places
    headless = not any(place.component == "head" and name.endswith(".weight") for name, place in places.items())
    return headless and model.config().get("tie_word_embeddings") is not False


def is_conv1d(model: ModelFolder, module: str) -> bool:
    """Whether a module is transformers' Conv1D by its name and family, for one whose weight alone does not tell."""
    named = module.rpartition(".")[2] in _CONV1D_MODULES
    return named and str(model.config().get("model_type")) in _CONV1D_MODELS
