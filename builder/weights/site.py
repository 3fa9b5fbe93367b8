"""A model that an adapter goes into: which tensors on disk its modules stand for, and what it does to each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from builder.weights.adapters import bad_tensor
from builder.weights.dtypes import FLOATS
from builder.weights.effect import Applied
from builder.weights.method import Subject, load_float64
from builder.weights.stream import Scratch, Stored

if TYPE_CHECKING:
    from builder.weights.adapters import Adapter, Part
    from builder.weights.effect import Block, Effect, LoadedEffect, Span
    from builder.weights.folder import ModelFolder
    from registry.errors import InvalidError

__all__ = ["Replaced", "Rows", "Site"]

_MATRIX = 2

# transformers' Conv1D keeps its weight as [in, out]; for a square one only its name tells.
_CONV1D_MODELS = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
_CONV1D_MODULES = frozenset({"c_attn", "q_attn", "c_proj", "c_fc"})

_HEADS = frozenset({"lm_head", "embed_out"})

_RIGHT_MODEL = "fold it into the model that it was trained on"


@dataclass(frozen=True, kw_only=True, slots=True)
class Replaced:
    """A whole parameter that takes the place of the model's, shape and orientation those of the file."""

    additive: ClassVar[bool] = False
    span: ClassVar[Span] = "element"

    stored: Stored

    def load(self, device: torch.device) -> LoadedEffect:
        """Nothing yet: its rows are read when they are asked for."""
        return _ReplacedRows(stored=self.stored, scratch=Scratch(), device=device)


@dataclass(frozen=True, kw_only=True, slots=True)
class _ReplacedRows:
    stored: Stored
    scratch: Scratch
    device: torch.device

    def apply(self, weight: torch.Tensor, _base: torch.Tensor, at: Block, _scale: float) -> None:
        rows, columns = weight.shape
        info = self.stored.info
        row_bytes = info.size_bytes // math.prod(info.shape) * columns
        with self.stored.path.open("rb", buffering=0) as stream:
            block = self.scratch.bytes("replaced", rows * row_bytes)
            self.stored.read(stream.fileno(), at.rows.start * row_bytes, block)
        weight.copy_(self.scratch.host("replaced", info.dtype, rows * columns).view(rows, columns))


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """New rows of an embedding for chosen tokens; orientation that of the file, ``[words, width]``.

    Attributes:
        stored: The rows, shape ``[tokens, width]``.
        tokens: Which words they are.
    """

    additive: ClassVar[bool] = False
    span: ClassVar[Span] = "element"

    stored: Stored
    tokens: tuple[int, ...]

    def load(self, device: torch.device) -> LoadedEffect:
        """Read the rows.

        Raises:
            InvalidError: They hold NaN or an infinity.
            OSError: The file cannot be read.
        """
        return _LoadedRows(values=load_float64(self.stored, device), tokens=self.tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class _LoadedRows:
    values: torch.Tensor
    tokens: tuple[int, ...]

    def apply(self, weight: torch.Tensor, _base: torch.Tensor, at: Block, _scale: float) -> None:
        here = [index for index, token in enumerate(self.tokens) if at.rows.start <= token < at.rows.stop]
        if here:
            weight[[self.tokens[index] - at.rows.start for index in here]] = self.values[here]


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """A model that an adapter is to go into.

    Attributes:
        adapter: The adapter.
        model: The base, or a descendant with equal shapes.
        tied: The embedding is the head, too: no head lies on disk, and the configuration does not say otherwise.
        conv1d: A family with transformers' Conv1D.
    """

    adapter: Adapter
    model: ModelFolder
    tied: bool
    conv1d: bool

    @classmethod
    def of(cls, adapter: Adapter, model: ModelFolder) -> Site:
        """Look at the model's configuration and names."""
        config = model.config()
        headless = all(place.component != "head" for place in model.network.places.values())
        tied = headless and config.get("tie_word_embeddings") is not False
        return cls(adapter=adapter, model=model, tied=tied, conv1d=config.get("model_type") in _CONV1D_MODELS)

    def effects(self) -> dict[str, Applied]:
        """What the adapter does to each tensor of the model that it changes, at full scale: tensor name -> effect.

        Raises:
            InvalidError: A module that the model has not, other shapes, a tied embedding, a weight that is no float.
            OSError: A file cannot be read.
        """
        found: dict[str, Applied] = {}
        for part in self.adapter.parts:
            for name, applied in self._part(part).items():
                self._put(found, name, applied, part.first)
        for module, stored in self.adapter.tokens.items():
            name = self._name_of(f"{module}.weight", stored)
            self._put(found, name, Applied(effect=self._rows(name, stored, module)), stored)
        for parameter, stored in self.adapter.replaced.items():
            name = self._name_of(parameter, stored)
            if (effect := self._replaced(name, parameter, stored)) is not None:
                self._put(found, name, Applied(effect=effect), stored)
        return found

    def _put(self, found: dict[str, Applied], name: str, applied: Applied, stored: Stored) -> None:
        if name in found:
            raise self._bad(stored, f"and another one are both on {name}", "save the adapter again")
        found[name] = applied

    def _part(self, part: Part) -> dict[str, Applied]:
        """What is done to the parameters of one module."""
        name = self._name_of(f"{part.module}.weight", part.first)
        info = self.model.tensors[name].info
        self._check_float(name, part.first)
        embedding = self.model.network.component_of(name).startswith("embedding.")
        if self.tied and embedding:
            raise self._tied_error(part.first)
        if len(info.shape) != _MATRIX and not (len(info.shape) == 1 and self.adapter.method.on_vectors):
            raise self._misfit(part, name)
        shape = info.shape if len(info.shape) == _MATRIX else (1, *info.shape)
        transposed = len(info.shape) == _MATRIX and self._is_transposed(part, shape, embedding=embedding)
        logical = (shape[1], shape[0]) if transposed else (shape[0], shape[1])
        if self._features(part) not in {None, logical}:
            raise self._misfit(part, name)
        subject = Subject(
            config=self.adapter.config,
            module=part.module,
            tensors=part.tensors,
            shared=self.adapter.shared,
            shape=logical,
            embedding=embedding,
            conv1d=transposed and not embedding,
        )
        effects = self.adapter.method.effects(subject)
        return {
            self._parameter(name, parameter, part): Applied(
                effect=effect, transposed=transposed and parameter == "weight"
            )
            for parameter, effect in effects.items()
        }

    def _parameter(self, name: str, parameter: str, part: Part) -> str:
        """Name on disk of a parameter of the module whose weight is ``name``."""
        found = f"{name.removesuffix('.weight')}.{parameter}"
        if found not in self.model.tensors:
            mend = "train it without a bias, or fold it into a model whose modules have one"
            raise self._bad(part.first, f"changes {found}, which the model has not", mend)
        return found

    def _name_of(self, parameter: str, stored: Stored) -> str:
        """Name on disk of a parameter, which may be stored with or without the outermost prefix."""
        _, _, inner = parameter.partition(".")
        for name in (parameter, inner, f"model.{parameter}", f"transformer.{parameter}"):
            if name in self.model.tensors:
                return name
        module = parameter.rpartition(".")[0]
        if self.tied and module.rpartition(".")[2] in _HEADS:
            raise self._tied_error(stored)
        raise self._bad(stored, f"is on {module}, which the model has not", _RIGHT_MODEL)

    def _is_transposed(self, part: Part, shape: tuple[int, ...], *, embedding: bool) -> bool:
        """The shape tells. For a square weight the family does; PEFT's flag speaks for the last module wrapped only."""
        if embedding:
            return True
        by_name = self.conv1d and part.module.rpartition(".")[2] in _CONV1D_MODULES
        rows, columns = self._features(part) or (0, 0)
        if rows != columns:
            return shape == (columns, rows)
        return by_name if self.conv1d or not rows else self.adapter.config.flag("fan_in_fan_out")

    def _features(self, part: Part) -> tuple[int, int] | None:
        """``(out, in)`` by the adapter's own tensors; ``None`` where they do not tell."""
        features = self.adapter.method.features
        return None if features is None else features(part.tensors)

    def _rows(self, name: str, stored: Stored, module: str) -> Effect:
        """The effect of trained token rows."""
        info = self.model.tensors[name].info
        self._check_float(name, stored)
        tokens = self._tokens(module, stored)
        if stored.info.shape != (len(tokens), *info.shape[1:]) or max(tokens, default=0) >= info.shape[0]:
            problem = f"is {list(stored.info.shape)} for {len(tokens)} tokens; {name} is {list(info.shape)}"
            raise self._bad(stored, problem, _RIGHT_MODEL)
        return Rows(stored=stored, tokens=tokens)

    def _tokens(self, module: str, stored: Stored) -> tuple[int, ...]:
        """The tokens that a configuration names for a module."""
        said = self.adapter.config.values
        value = said.get("trainable_token_indices", said.get("token_indices"))
        if isinstance(value, dict):
            fitting = [tokens for key, tokens in value.items() if module == key or module.endswith(f".{key}")]
            value = fitting[0] if len(fitting) == 1 else None
        if not isinstance(value, list) or not all(type(token) is int and token >= 0 for token in value):
            raise self._bad(stored, f"is on {module}, whose tokens the configuration does not name", "save it again")
        return tuple(int(token) for token in value if isinstance(token, int))

    def _replaced(self, name: str, parameter: str, stored: Stored) -> Effect | None:
        """The effect of a whole parameter; ``None`` where it is what the model has already."""
        info = self.model.tensors[name].info
        self._check_float(name, stored)
        if stored.info.shape != info.shape:
            problem = f"is {list(stored.info.shape)}; {name} is {list(info.shape)}"
            rows = info.shape[1:] == stored.info.shape[1:]
            mend = f"graft {stored.info.shape[0]} words into the model first" if rows else _RIGHT_MODEL
            raise self._bad(stored, problem, mend)
        module, _, leaf = parameter.rpartition(".")
        if leaf == "bias" or self.adapter.config.saves(module):
            return Replaced(stored=stored)
        if not _are_equal(stored, self.model.tensors[name]):
            problem = f"is another {name} than the model's, and modules_to_save does not name it"
            raise self._bad(stored, problem, "save the adapter without base weights, or name it in modules_to_save")
        return None

    def _check_float(self, name: str, stored: Stored) -> None:
        info = self.model.tensors[name].info
        if info.dtype not in FLOATS:
            raise self._bad(stored, f"is on {name}, which is {info.dtype}", _RIGHT_MODEL)

    def _misfit(self, part: Part, name: str) -> InvalidError:
        info = self.model.tensors[name].info
        features = self._features(part)
        made = "is on another shape: " if features is None else f"and its other factor make {list(features)}; "
        return self._bad(part.first, f"{made}{name} is {info.dtype} {list(info.shape)}", _RIGHT_MODEL)

    def _tied_error(self, stored: Stored) -> InvalidError:
        problem = "is on an embedding that is tied to the head: the sum would change both"
        mend = "train the adapter on other modules, or untie the model first"
        return self._bad(stored, problem, mend)

    def _bad(self, stored: Stored, problem: str, mend: str) -> InvalidError:
        return bad_tensor(self.adapter.path, stored.info.name, problem, mend)


def _are_equal(one: Stored, other: Stored) -> bool:
    """Whether two tensors hold the same numbers, maybe in different dtypes; read block by block."""
    scratch, others = Scratch(), Scratch()
    count = math.prod(one.info.shape)
    sizes = [stored.info.size_bytes // max(1, count) for stored in (one, other)]
    step = max(1, scratch.block_bytes // max(sizes))
    with one.path.open("rb", buffering=0) as mine, other.path.open("rb", buffering=0) as theirs:
        for start in range(0, count, step):
            length = min(step, count - start)
            one.read(mine.fileno(), start * sizes[0], scratch.bytes("equal", length * sizes[0]))
            other.read(theirs.fileno(), start * sizes[1], others.bytes("equal", length * sizes[1]))
            if not torch.equal(
                scratch.host("equal", one.info.dtype, length).double(),
                others.host("equal", other.info.dtype, length).double(),
            ):
                return False
    return True
