"""Eight-bit weights of bitsandbytes, row by row times a scale (LLM.int8, Dettmers et al., 2022, arXiv:2208.07339)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch

    from builder.weights.stream import Scratch, Stored
    from registry.safetensors import TensorSpec

__all__ = ["VECTORWISE_PARTS", "Vectorwise", "read_vectorwise"]

VECTORWISE_PARTS: Final = ("SCB", "weight_format")
"""What follows the module's name in the names of the tensors that go with its weight."""

_STEP: Final = 7.874015718698502e-3  # 1 / 127, as bitsandbytes has it
_MATRIX: Final = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Vectorwise:
    """An eight-bit weight, as the numbers that it stands for: integer times the row's scale times 1/127, in float32.

    Attributes:
        packed: The integers, I8, shape ``[out, in]``.
        scales: One for each row: its largest size, F32, ``out`` of them.
    """

    packed: Stored
    scales: Stored

    @property
    def spec(self) -> TensorSpec:
        """Name and shape of the weight; float32."""
        return replace(self.packed.spec, dtype="F32")

    @property
    def where(self) -> str:
        """The file of the weight."""
        return str(self.packed.path)

    def numbers(self, scratch: Scratch) -> Iterator[torch.Tensor]:
        """The numbers in order, float32; two products, each rounded, as bitsandbytes 0.50.2 computes them.

        Raises:
            InvalidError: A file ends too early.
            OSError: A file cannot be read.
        """
        rows, columns = self.packed.info.shape
        scales = self.scales.load().view(-1, 1)
        step = max(1, scratch.block_bytes // max(1, 4 * columns))  # float32
        with self.packed.path.open("rb", buffering=0) as stream:
            for start in range(0, rows if columns else 0, step):
                count = min(step, rows - start)
                self.packed.read(stream.fileno(), start * columns, scratch.bytes("stored", count * columns))
                whole = scratch.host("stored", "I8", count * columns)
                numbers = scratch.host("numbers", "F32", count * columns).copy_(whole)
                numbers.view(count, columns).mul_(scales[start : start + count]).mul_(_STEP)
                yield numbers


def read_vectorwise(weight: Stored, parts: Mapping[str, Stored]) -> Vectorwise:
    """Check an eight-bit weight with what goes with it.

    Args:
        weight: The integers.
        parts: One of :data:`VECTORWISE_PARTS` -> the tensor of that name.

    Raises:
        InvalidError: The scales are missing or do not fit, or the integers are not stored row by row.
        OSError: A file cannot be read.
    """
    scales, layout = parts.get("SCB"), parts.get("weight_format")
    shape = weight.info.shape
    right = [
        scales is not None and (scales.info.dtype, math.prod(scales.info.shape)) == ("F32", shape[0] if shape else 0),
        weight.info.dtype == "I8" and len(shape) == _MATRIX,
        layout is None or (layout.info.dtype == "U8" and not bool(layout.load().any())),
    ]
    if scales is None or not all(right):
        raise InvalidError(
            f"{weight.info.name!r} is no eight-bit weight in rows with a scale for each",
            where=str(weight.path),
            mend="save the quantised model again with bitsandbytes 0.50.2, or start from the 16-bit model",
        )
    return Vectorwise(packed=weight, scales=scales)
