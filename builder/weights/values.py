"""A tensor's numbers as a stream, whatever they are stored as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from builder.weights.dtypes import TORCH_DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.weights.stream import Scratch, Stored
    from registry.safetensors import TensorSpec

__all__ = ["StoredValues", "Values"]


class Values(Protocol):
    """Numbers of one tensor, given block by block."""

    @property
    def spec(self) -> TensorSpec:
        """Name and shape of the tensor, and the float dtype that its numbers come in."""
        ...

    @property
    def where(self) -> str:
        """The file that they are read from, for errors."""
        ...

    def numbers(self, scratch: Scratch) -> Iterator[torch.Tensor]:
        """The numbers in order, shape ``[count]``; each block is good until the next one is asked for.

        Raises:
            InvalidError: The tensor cannot be had.
            OSError: A file cannot be read.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredValues:
    """A stored float tensor, read as it is."""

    stored: Stored

    @property
    def spec(self) -> TensorSpec:
        """Name, dtype and shape of the tensor."""
        return self.stored.spec

    @property
    def where(self) -> str:
        """The file."""
        return str(self.stored.path)

    def numbers(self, scratch: Scratch) -> Iterator[torch.Tensor]:
        """The numbers as they lie in the file.

        Raises:
            InvalidError: The file ends too early.
            OSError: It cannot be read.
        """
        for block in self.stored.blocks(scratch):
            yield torch.frombuffer(block, dtype=TORCH_DTYPES[self.spec.dtype])
