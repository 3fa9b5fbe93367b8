"""A tensor of zeros."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.weights.stream import Scratch
    from registry.safetensors import TensorSpec

__all__ = ["Zeros"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Zeros:
    """A tensor of zeros, of any dtype: every bit of it is 0."""

    spec: TensorSpec

    def blocks(self, scratch: Scratch) -> Iterator[memoryview]:
        """The bytes."""
        left = self.spec.size_bytes
        while left:
            size_bytes = min(left, scratch.block_bytes)
            scratch.host("out", "U8", size_bytes).zero_()
            yield scratch.bytes("out", size_bytes)
            left -= size_bytes
