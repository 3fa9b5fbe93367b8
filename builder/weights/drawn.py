"""A new matrix: drawn at random, or zero."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from builder.weights.draws import normal_row
from builder.weights.dtypes import TORCH_DTYPES
from builder.weights.rounding import round_once
from builder.weights.stream import not_finite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.weights.stream import Scratch
    from registry.safetensors import TensorSpec

__all__ = ["Drawn"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """Normal numbers of mean 0, rounded once.

    Attributes:
        spec: Name, float dtype, shape ``[rows, columns]``.
        deviation: Their standard deviation; 0 for a matrix of zeros.
        seed: Which numbers.
    """

    spec: TensorSpec
    deviation: float
    seed: int

    def blocks(self, scratch: Scratch) -> Iterator[memoryview]:
        """The bytes, row by row.

        Raises:
            InvalidError: A number does not fit the dtype.
        """
        width = math.prod(self.spec.shape[1:])
        for row in range(self.spec.shape[0]):
            total = torch.zeros(width, dtype=torch.float64)
            if self.deviation:
                total = normal_row(self.seed, self.spec.name, row, width).mul_(self.deviation)
            out = torch.empty(width, dtype=TORCH_DTYPES[self.spec.dtype])
            if not round_once(total, out, scratch):
                raise not_finite(self.spec, where="a new head", fits=True)
            yield out.view(torch.uint8).numpy().data
