"""Blends one tensor of models that are in memory, as a stage blends one that lies in files."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch

from builder.weight_stages import BlendSettings, BlendSource
from builder.weighting import Weighting
from builder.weights.blend.blended import Blended, Ingredient, Recipe
from builder.weights.blend.rows import matrix_shape
from builder.weights.dtypes import TORCH_DTYPES
from builder.weights.stream import Scratch
from registry.digest import digest_bytes
from registry.safetensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["HeldRows", "blend", "blended", "bytes_of", "ingredient", "recipe"]

NAME = "model.layers.0.mlp.up_proj.weight"


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldRows:
    """A tensor in memory.

    Attributes:
        tensor: Any float dtype and shape.
        where: For errors.
        reads: Grows with every read: first row and the row after the last one.
    """

    tensor: torch.Tensor
    where: str
    reads: list[tuple[int, int]]

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)``."""
        return matrix_shape(tuple(self.tensor.shape))

    def read(self, start: int, stop: int, scratch: Scratch, role: str) -> torch.Tensor:
        """The rows from ``start`` up to ``stop``, float64."""
        self.reads.append((start, stop))
        part = self.tensor.reshape(self.shape)[start:stop]
        return scratch.host(role, "F64", part.numel()).view(part.shape).copy_(part)


def recipe(method: str, **settings: Any) -> Recipe:  # noqa: ANN401 - a setting of any type
    """A recipe with the defaults of the manifest."""
    plain = {one.name: getattr(BlendSettings(), one.name) for one in fields(BlendSettings)}
    numbers = {key: value.constant if isinstance(value, Weighting) else value for key, value in plain.items()}
    return Recipe(method=method, **(numbers | settings))


def ingredient(number: int, tensor: torch.Tensor, **settings: float) -> Ingredient:
    """Model ``number``, with the defaults of the manifest."""
    numbers = {one.name: getattr(BlendSource(), one.name).constant for one in fields(BlendSource)} | settings
    rows = HeldRows(tensor=tensor, where=f"model-{number}.safetensors", reads=[])
    return Ingredient(rows=rows, model=digest_bytes(str(number).encode()), **numbers)


def blended(
    how: Recipe, ingredients: Sequence[Ingredient], base: torch.Tensor | None = None, *, dtype: str, name: str = NAME
) -> Blended:
    """The tensor in the making, with the shape of the base or of the first model."""
    first = base if base is not None else ingredients[0].rows.tensor
    return Blended(
        spec=TensorSpec(name=name, dtype=dtype, shape=tuple(first.shape)),
        recipe=how,
        ingredients=tuple(ingredients),
        base=None if base is None else HeldRows(tensor=base, where="base.safetensors", reads=[]),
    )


def bytes_of(content: Blended, scratch: Scratch | None = None) -> bytearray:
    """All bytes of the result."""
    data = bytearray()
    for block in content.blocks(scratch or Scratch()):
        data += block  # at once: the next block takes its place
    return data


def blend(
    method: str,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None = None,
    *,
    dtype: str = "F64",
    name: str = NAME,
    models: Sequence[dict[str, float]] = (),
    **settings: Any,  # noqa: ANN401 - a setting of any type
) -> torch.Tensor:
    """The result of a method.

    Args:
        method: Its name.
        tensors: The models' tensors, of one shape.
        base: The base's.
        dtype: Of the result.
        name: Of the tensor.
        models: What is said on each model, such as its weight.
        settings: What is said on the whole.
    """
    said = [*models, *([{}] * (len(tensors) - len(models)))]
    parts = [ingredient(number, one, **said[number]) for number, one in enumerate(tensors)]
    content = blended(recipe(method, **settings), parts, base, dtype=dtype, name=name)
    data = bytes_of(content)
    shape = content.spec.shape
    if not data:
        return torch.empty(shape, dtype=TORCH_DTYPES[dtype])
    return torch.frombuffer(data, dtype=TORCH_DTYPES[dtype]).view(shape)
