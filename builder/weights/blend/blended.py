"""A tensor of a blended model: the settings of one tensor, what it is made of, and its bytes.

Every method works on tiles of :data:`~builder.weights.blend.operands.TILE` elements or one row, whichever is more. A
method that needs numbers of the whole tensor (norms, a k-th largest magnitude) takes them in passes of its own over the
same tiles first. All arithmetic is float64 in single, correctly rounded operations, and sums over a tensor have a fixed
order; so the bytes depend neither on the block size, nor on threads, nor on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from builder.blend_methods import BLEND_METHODS
from builder.weights.blend.fusion import arcee_fusion
from builder.weights.blend.linear import linear
from builder.weights.blend.nearswap import nearswap
from builder.weights.blend.operands import Operands
from builder.weights.blend.rows import matrix_shape
from builder.weights.blend.sce import sce
from builder.weights.blend.sphere import karcher, multislerp, nuslerp, slerp
from builder.weights.blend.stock import model_stock
from builder.weights.blend.task import TASK_METHODS, task
from builder.weights.dtypes import FLOATS
from builder.weights.rounding import round_once
from registry.errors import InvalidError
from registry.safetensors import DTYPE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from builder.weight_stages import BlendMethod
    from builder.weights.blend.operands import Kernel
    from builder.weights.blend.rows import Rows
    from builder.weights.stream import Scratch
    from registry.digest import Digest
    from registry.safetensors import TensorSpec

__all__ = ["Blended", "Ingredient", "Recipe"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingredient:
    """One model's part in one tensor.

    Attributes:
        rows: Its tensor.
        model: Weights digest of the model; random choices are drawn from it, so that they do not depend on the others.
        weight: How much of it; no unit. Where a method reads weights, 0 leaves the model out, unread.
        density: Share of its task vector's elements that are kept, from 0 to 1.
        epsilon: della: how far the chance to be kept goes up and down with the size, from 0 to 1.
        gamma: breadcrumbs: share of the largest elements that is dropped too, from 0 to 1.
    """

    rows: Rows
    model: Digest
    weight: float
    density: float
    epsilon: float
    gamma: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How one tensor is blended; what each number means is in :class:`builder.weight_stages.BlendSettings`.

    Attributes:
        method: The formula.
        normalize: Divide by the sum of the weights; ``None`` as the method has it.
        rescale: Keep the sum of sizes when elements are dropped; ``None`` as the method has it.
        lambda_: Factor of the sum of the task vectors.
        t: slerp, nearswap: where between the base and the other model.
        select_topk: sce: share of the elements, by variance, that is kept.
        row_wise: nuslerp: turn each row by itself.
        filter_wise: model_stock: one angle for each row.
        steps: karcher: most steps.
        tolerance: karcher: length of a step that ends it.
        seed: Of everything random.
    """

    method: BlendMethod
    normalize: bool | None
    rescale: bool | None
    lambda_: float
    t: float
    select_topk: float
    row_wise: bool
    filter_wise: bool
    steps: int
    tolerance: float
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Blended:
    """A tensor made of the same tensor of several models.

    Attributes:
        spec: Name, dtype and shape of the result; F16, BF16, F32 or F64.
        recipe: How.
        ingredients: The models, in an order that no mapping decides (by digest): sums are taken in it.
        base: The tensor that task vectors start from, or that slerp and its like start at.
    """

    spec: TensorSpec
    recipe: Recipe
    ingredients: tuple[Ingredient, ...]
    base: Rows | None

    def blocks(self, scratch: Scratch) -> Iterator[memoryview]:
        """The bytes of the result, tile by tile.

        Raises:
            InvalidError: A shape that does not fit, numbers with which the method has no result, NaN or an infinity in
                a model, or a result beyond the dtype's range.
            OSError: A file cannot be read.
        """
        operands, ingredients = self._operands(scratch)
        if not operands.count:
            return
        kernel = _METHODS[self.recipe.method](self._recipe(), ingredients, operands) if ingredients else operands.start
        for tile in operands.tiles():
            total = kernel(tile)
            out = scratch.host("out", self.spec.dtype, total.numel())
            if not round_once(total, out, scratch):
                operands.check_finite()
                raise operands.refused(
                    f"has values beyond what {self.spec.dtype} can hold",
                    "lower the weights, or write `dtype: float32`",
                )
            yield scratch.bytes("out", total.numel() * DTYPE_BYTES[self.spec.dtype])

    def _operands(self, scratch: Scratch) -> tuple[Operands, tuple[Ingredient, ...]]:
        """The tensors that are read, and what is said on them; models of weight 0 are left out.

        Raises:
            InvalidError: A shape or a dtype that does not fit, or a number of models that the method cannot blend.
        """
        needs = BLEND_METHODS[self.recipe.method]
        given, base = self.ingredients, self.base if needs.base != "unread" else None
        operands = Operands(self.spec.name, [one.rows for one in given], base, scratch)
        if problem := needs.count_problem(len(given)):
            raise operands.refused(f"has {problem}", "name as many models as the method takes")
        if self.spec.dtype not in FLOATS:
            raise operands.refused(f"would be {self.spec.dtype}; only floats can be blended", "copy it from one model")
        for rows in (*(one.rows for one in given), *(() if base is None else (base,))):
            if rows.shape != matrix_shape(self.spec.shape):
                raise InvalidError(
                    f"tensor {self.spec.name!r} is {list(rows.shape)} as a matrix, "
                    f"the blend's is {list(matrix_shape(self.spec.shape))}",
                    where=rows.where,
                    mend="blend models of one architecture and size; `tokenizer: union` makes vocabularies alike",
                )
        if needs.leaves_out:
            given = tuple(one for one in given if one.weight)
        if not given and base is None:
            raise operands.refused("has no model with a weight", "give one of the models a weight for this tensor")
        return Operands(self.spec.name, [one.rows for one in given], base, scratch), given

    def _recipe(self) -> Recipe:
        """With the method's own answers where nothing is said."""
        needs, said = BLEND_METHODS[self.recipe.method], self.recipe
        return replace(
            said,
            normalize=needs.normalize if said.normalize is None else said.normalize,
            rescale=needs.rescale if said.rescale is None else said.rescale,
        )


_METHODS: Final[Mapping[BlendMethod, Callable[[Recipe, Sequence[Ingredient], Operands], Kernel]]] = {
    "linear": linear,
    "slerp": slerp,
    "nuslerp": nuslerp,
    "multislerp": multislerp,
    "karcher": karcher,
    "sce": sce,
    "model_stock": model_stock,
    "nearswap": nearswap,
    "arcee_fusion": arcee_fusion,
    **dict.fromkeys(TASK_METHODS, task),
}
