"""PEFT LoRA adapters, read strictly: each tensor must have its place in the configuration and in the base.

PEFT itself only warns, or says nothing, where a factor is missing, a module is unknown or the base is another one; here
that is an error that names the tensor. What cannot be folded exactly as PEFT defines it is refused by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from builder.weights.folder import plain_file
from builder.weights.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from builder.weights.lora_config import LoraConfig, read_config
from builder.weights.stream import FLOATS, LoadedTerm, Stored, Term
from registry.errors import InvalidError
from registry.provenance import Provenance
from registry.safetensors import read_header

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from builder.weights.folder import ModelFolder

__all__ = ["Adapter", "LowRank", "read_adapter"]

_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?:(?P<factor>[AB])\.weight|embedding_(?P<row>[AB]))")
_MATRIX = 2

# transformers' Conv1D keeps its weight as [in, out]; for a square one only its name tells.
_CONV1D_MODELS = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
_CONV1D_MODULES = frozenset({"c_attn", "q_attn", "c_proj", "c_fc"})

_HEADS = frozenset({"lm_head", "embed_out"})

_RIGHT_MODEL = "fold it into the model that it was trained on"


@dataclass(frozen=True, kw_only=True, slots=True)
class LowRank:
    """``scale * up @ down``, or its transpose: what LoRA adds to one weight.

    Attributes:
        down: Factor A, shape ``[rank, in]``.
        up: Factor B, shape ``[out, rank]``.
        transposed: The weight is ``[in, out]``: an embedding, or transformers' Conv1D.
        scale: Of the product; no unit.
    """

    down: Stored
    up: Stored
    transposed: bool
    scale: float

    def load(self) -> LoadedTerm:
        """Read both factors into float64.

        Raises:
            InvalidError: A factor holds NaN or an infinity.
            OSError: The file cannot be read.
        """
        down, up = _load_factor(self.down), _load_factor(self.up)
        left, right = (down.T, up.T) if self.transposed else (up, down)
        return _Factors(left=left.contiguous().mul_(self.scale), right=right.contiguous())


@dataclass(frozen=True, kw_only=True, slots=True)
class _Factors:
    left: torch.Tensor
    right: torch.Tensor

    def add(self, total: torch.Tensor, start: int, stop: int) -> None:
        total.addmm_(self.left[start:stop], self.right)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pair:
    """Both factors of one module."""

    module: str
    down: Stored
    up: Stored
    embedding: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """A LoRA adapter whose configuration and tensors belong together.

    Attributes:
        path: Its folder.
        config: What it says on each module.
        provenance: Of its weights file; ``None`` for one that was made elsewhere.
        pairs: The factors, sorted by module.
    """

    path: Path
    config: LoraConfig
    provenance: Provenance | None
    pairs: tuple[_Pair, ...]

    def terms(self, model: ModelFolder, *, weight: float = 1.0) -> dict[str, Term]:
        """What the adapter adds to each weight of ``model``: tensor name -> term.

        Args:
            model: The base, or a descendant with equal shapes.
            weight: Factor of the whole adapter; no unit.

        Raises:
            InvalidError: A module that the model has not, other shapes, a tied embedding, a weight that is no float.
        """
        site = _Site.of(self, model)
        terms: dict[str, Term] = {}
        for pair in self.pairs:
            name = site.name_of(pair)
            if name in terms:
                problem = f"and another one are both on {name}"
                raise _bad_tensor(self.path, pair.down.info.name, problem, "save the adapter again")
            terms[name] = site.term(pair, name, weight)
        return terms


def read_adapter(folder: Path) -> Adapter:
    """Read a PEFT folder: headers and configuration, no weights.

    Raises:
        NotFoundError: One of its two files is missing.
        InvalidError: The configuration says what cannot be folded, or a tensor does not fit it.
    """
    config = read_config(plain_file(folder, ADAPTER_CONFIG))
    path = plain_file(folder, ADAPTER_WEIGHTS)
    header = read_header(path)
    provenance = Provenance.from_metadata(header.metadata, where=str(path))
    factors: dict[str, dict[str, Stored]] = {}
    embeddings: set[str] = set()
    for info in header.tensors.values():
        match = _TENSOR.fullmatch(info.name)
        if match is None:
            raise _bad_tensor(folder, info.name, "is no factor of a LoRA pair", "save the adapter without base weights")
        if len(info.shape) != _MATRIX or 0 in info.shape or info.dtype not in FLOATS:
            shape = f"{info.dtype} {list(info.shape)}"
            raise _bad_tensor(folder, info.name, f"is {shape}, no matrix of floats", "save the adapter again, gathered")
        factors.setdefault(match["module"], {})[match["factor"] or match["row"]] = Stored(path=path, info=info)
        if match["row"]:
            embeddings.add(match["module"])
    pairs = tuple(_pair(folder, module, factors[module], module in embeddings) for module in sorted(factors))
    if not pairs:
        raise InvalidError("the adapter has no tensors", where=str(path), mend="save the adapter again")
    adapter = Adapter(path=folder, config=config, provenance=provenance, pairs=pairs)
    for pair in pairs:
        _check_pair(adapter, pair)
    return adapter


def _pair(folder: Path, module: str, factors: Mapping[str, Stored], embedding: bool) -> _Pair:  # noqa: FBT001 - private
    if missing := {"A", "B"} - factors.keys():
        (there,) = factors.values()
        problem = f"has no factor {missing.pop()} beside it"
        raise _bad_tensor(folder, there.info.name, problem, "save the adapter again; it is incomplete")
    if len({"lora_embedding" in stored.info.name for stored in factors.values()}) != 1:
        name = factors["A"].info.name
        raise _bad_tensor(folder, name, "is beside a factor of another form", "save the adapter again")
    return _Pair(module=module, down=factors["A"], up=factors["B"], embedding=embedding)


def _check_pair(adapter: Adapter, pair: _Pair) -> None:
    """The factors chain, with the rank that the configuration says, on a module that it targets."""
    name, rank = pair.down.info.name, adapter.config.rank(pair.module)
    found = (pair.down.info.shape[0], pair.up.info.shape[1])
    if found != (rank, rank):
        problem = f"has rank {found[0]} (its other factor {found[1]}), the configuration says {rank}"
        raise _bad_tensor(adapter.path, name, problem, "save weights and configuration together")
    if not adapter.config.targets(pair.module):
        problem = f"is on {pair.module}, which target_modules does not name"
        raise _bad_tensor(adapter.path, name, problem, "save weights and configuration together")
    adapter.config.scale(pair.module)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Site:
    """A model that an adapter's pairs are to go into.

    Attributes:
        tied: The embedding is the head, too: no head lies on disk, and the configuration does not say otherwise.
        conv1d: A family with transformers' Conv1D.
    """

    adapter: Adapter
    model: ModelFolder
    tied: bool
    conv1d: bool

    @classmethod
    def of(cls, adapter: Adapter, model: ModelFolder) -> _Site:
        config = model.config()
        headless = all(place.component != "head" for place in model.network.places.values())
        tied = headless and config.get("tie_word_embeddings") is not False
        return cls(adapter=adapter, model=model, tied=tied, conv1d=config.get("model_type") in _CONV1D_MODELS)

    def name_of(self, pair: _Pair) -> str:
        """Name on disk of a module's weight, which may be stored with or without the outermost prefix."""
        whole = f"{pair.module}.weight"
        _, _, inner = whole.partition(".")
        for name in (whole, inner, f"model.{whole}", f"transformer.{whole}"):
            if name in self.model.tensors:
                return name
        if self.tied and pair.module.rpartition(".")[2] in _HEADS:
            raise self._tied_error(pair)
        problem = f"is on {pair.module}, which the model has not"
        raise _bad_tensor(self.adapter.path, pair.down.info.name, problem, _RIGHT_MODEL)

    def term(self, pair: _Pair, name: str, weight: float) -> LowRank:
        """The term of a pair, its shapes checked against the weight."""
        info = self.model.tensors[name].info
        if self.tied and self.model.network.component_of(name) == "embedding.token":
            raise self._tied_error(pair)
        shape = (pair.up.info.shape[0], pair.down.info.shape[1])
        transposed = self._is_transposed(pair, info.shape)
        if info.dtype not in FLOATS or info.shape != (shape[::-1] if transposed else shape):
            problem = f"and its other factor make {list(shape)}; {name} is {info.dtype} {list(info.shape)}"
            raise _bad_tensor(self.adapter.path, pair.down.info.name, problem, _RIGHT_MODEL)
        scale = weight * self.adapter.config.scale(pair.module)
        return LowRank(down=pair.down, up=pair.up, transposed=transposed, scale=scale)

    def _is_transposed(self, pair: _Pair, shape: tuple[int, ...]) -> bool:
        """The shape tells. For a square weight the family does; PEFT's flag speaks for the last module wrapped only."""
        rows, columns = pair.up.info.shape[0], pair.down.info.shape[1]
        if pair.embedding or rows != columns:
            return pair.embedding or shape == (columns, rows)
        if self.conv1d:
            return pair.module.rpartition(".")[2] in _CONV1D_MODULES
        return self.adapter.config.fan_in_fan_out

    def _tied_error(self, pair: _Pair) -> InvalidError:
        problem = "is on an embedding that is tied to the head: the sum would change both"
        mend = "train the adapter on other modules, or untie the model first"
        return _bad_tensor(self.adapter.path, pair.down.info.name, problem, mend)


def _load_factor(stored: Stored) -> torch.Tensor:
    values = stored.load().to(torch.float64)
    if not bool(torch.isfinite(values).all()):
        raise InvalidError(
            f"tensor {stored.info.name!r} holds NaN or an infinity",
            where=str(stored.path),
            mend="train the adapter again; its training went wrong",
        )
    return values


def _bad_tensor(folder: Path, name: str, problem: str, mend: str) -> InvalidError:
    return InvalidError(f"tensor {name!r} {problem}", where=str(folder / ADAPTER_WEIGHTS), mend=mend)
