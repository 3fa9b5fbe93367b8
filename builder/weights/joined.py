"""The deltas that several adapters add to one weight, made one pair of factors."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import torch

from builder.weights.blend.blended import Blended, Ingredient, Recipe
from builder.weights.blend.rows import StoredRows, matrix_shape
from builder.weights.delta import delta_of, factors_of
from builder.weights.low_rank import Cut, Factors, Pair, concatenate, cut_matrix, cut_product, decompose
from builder.weights.methods.lora import LowRank
from builder.weights.stream import CPU, Scratch, Stored, one_torch_thread
from registry.safetensors import DTYPE_BYTES, TensorInfo, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.weight_stages import BlendMethod
    from builder.weights.blend.rows import Rows
    from builder.weights.effect import Applied
    from registry.digest import Digest

__all__ = ["JoinMethod", "Joining", "Term", "join_deltas"]

JoinMethod: TypeAlias = Literal["concat", "linear", "ties", "dare_linear", "dare_ties"]

_HELD_BYTES: Final = 1 << 30  # deltas of one weight that are held in memory together; more of them go to disk


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """What one adapter does to the weight, and the digest of its tensors, which random choices are drawn from."""

    applied: Applied
    weights_digest: Digest


@dataclass(frozen=True, kw_only=True, slots=True)
class Joining:
    """How deltas become one.

    Attributes:
        method: The formula.
        cut: How much of the sum is kept; ``concat`` keeps all of it.
        density: Share of each delta's elements that ties and dare keep, from 0 to 1.
        seed: Of everything random.
    """

    method: JoinMethod
    cut: Cut
    density: float
    seed: int


def join_deltas(terms: Sequence[Term], base: Stored, joining: Joining, device: torch.device, work: Path) -> Pair:
    """One pair of factors for all that is added to a weight.

    Args:
        terms: The adapters, in an order that no mapping decides.
        base: The weight.
        joining: How.
        device: Where the sums are made.
        work: Folder for deltas that are read in blocks; nothing stays in it.

    Raises:
        InvalidError: NaN or an infinity, or weights with which the method has no result.
        OSError: A file cannot be read or written.
    """
    method = joining.method
    if method == "concat":
        return _side_by_side(terms, base, device)
    if method == "linear":
        return _summed(terms, base, joining.cut, device)
    recipe = _recipe(method, joining.seed)
    with TemporaryDirectory(dir=work) as deltas:
        total = _thinned(terms, base, joining.density, recipe, device=device, folder=Path(deltas))
    return cut_matrix(total, joining.cut)


def _side_by_side(terms: Sequence[Term], base: Stored, device: torch.device) -> Pair:
    products = [factors_of(term.applied, device) for term in terms]
    parts = [
        decompose(delta_of(term.applied, base, device)) if product is None else product
        for term, product in zip(terms, products, strict=True)
    ]
    # LoRA's own factors are only scaled; others come out of sums, which machines may round differently.
    return replace(concatenate(parts), portable=all(isinstance(term.applied.effect, LowRank) for term in terms))


def _summed(terms: Sequence[Term], base: Stored, cut: Cut, device: torch.device) -> Pair:
    products = [factors_of(term.applied, device) for term in terms]
    known = [product for product in products if product is not None]
    if len(known) == len(terms):
        whole = Factors(up=torch.cat([one.up for one in known], 1), down=torch.cat([one.down for one in known]))
        return cut_product(whole, cut)
    total = delta_of(terms[0].applied, base, device)
    summed = float(torch.linalg.vector_norm(total))
    for term in terms[1:]:
        delta = delta_of(term.applied, base, device)
        summed += float(torch.linalg.vector_norm(delta))
        total.add_(delta)
    return cut_matrix(total, cut, summed=summed)


def _thinned(
    terms: Sequence[Term], base: Stored, density: float, recipe: Recipe, *, device: torch.device, folder: Path
) -> torch.Tensor:
    """What ``blend`` makes of the deltas, as task vectors on a base of zeros; float64, shape ``[out, in]``.

    Deltas that are too large to be in memory together lie in the folder, and are read in blocks.
    """
    together = len(terms) * math.prod(base.info.shape) * DTYPE_BYTES["F64"]
    ingredients = [
        Ingredient(
            rows=_rows(term, base, device, None if together <= _HELD_BYTES else folder / str(number)),
            model=term.weights_digest,
            weight=term.applied.scale,
            density=density,
            epsilon=0.0,
            gamma=0.0,
        )
        for number, term in enumerate(terms)
    ]
    blended = Blended(
        spec=TensorSpec(name=base.info.name, dtype="F64", shape=base.info.shape),
        recipe=recipe,
        ingredients=tuple(ingredients),
        base=_Zeros(shape=matrix_shape(base.info.shape), where=str(base.path)),
    )
    total = torch.empty(base.info.shape, dtype=torch.float64)
    flat, done = total.view(-1), 0
    with one_torch_thread():
        for block in blended.blocks(Scratch()):
            values = torch.frombuffer(block, dtype=torch.float64)
            flat[done : done + values.numel()] = values
            done += values.numel()
    total = total.to(device)
    return total.T if terms[0].applied.transposed else total


def _rows(term: Term, base: Stored, device: torch.device, path: Path | None) -> Rows:
    """What an adapter adds at full scale, as the file has the weight: in memory, or in a file."""
    delta = delta_of(replace(term.applied, scale=1.0), base, device)
    held = _Held(matrix=(delta.T if term.applied.transposed else delta).to(CPU), where=str(base.path))
    return held if path is None else held.spooled(path)


def _recipe(method: BlendMethod, seed: int) -> Recipe:
    return Recipe(
        method=method,
        normalize=None,
        rescale=None,
        lambda_=1.0,
        t=0.5,
        select_topk=1.0,
        row_wise=False,
        filter_wise=False,
        steps=1,
        tolerance=1.0,
        seed=seed,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Held:
    """A matrix in memory, float64, as the file has it."""

    matrix: torch.Tensor
    where: str

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape[0], self.matrix.shape[1]

    def read(self, start: int, stop: int, scratch: Scratch, role: str) -> torch.Tensor:
        block = self.matrix[start:stop]
        return scratch.host(role, "F64", block.numel()).view(block.shape).copy_(block)

    def spooled(self, path: Path) -> _Spooled:
        """The same on disk.

        Raises:
            OSError: The file cannot be written.
        """
        self.matrix.contiguous().numpy().tofile(path)
        size_bytes = self.matrix.numel() * DTYPE_BYTES["F64"]
        info = TensorInfo(name="delta", dtype="F64", shape=self.shape, offset=0, size_bytes=size_bytes)
        return _Spooled(rows=StoredRows(stored=Stored(path=path, info=info)), where=self.where)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Spooled:
    """A matrix on disk, float64, that is called by what it was made for."""

    rows: StoredRows
    where: str

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.shape

    def read(self, start: int, stop: int, scratch: Scratch, role: str) -> torch.Tensor:
        return self.rows.read(start, stop, scratch, role)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Zeros:
    """A base of nothing: then a model is its task vector."""

    shape: tuple[int, int]
    where: str

    def read(self, start: int, stop: int, scratch: Scratch, role: str) -> torch.Tensor:
        columns = self.shape[1]
        return scratch.host(role, "F64", (stop - start) * columns).zero_().view(stop - start, columns)
