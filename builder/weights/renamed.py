"""A tensor under another name: the same bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.weights.stream import Content, Scratch
    from registry.safetensors import TensorSpec

__all__ = ["Renamed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Renamed:
    """What another content is, under a name of its own."""

    content: Content
    name: str

    @property
    def spec(self) -> TensorSpec:
        """Dtype and shape of the other content, and this name."""
        return replace(self.content.spec, name=self.name)

    def blocks(self, scratch: Scratch) -> Iterator[memoryview]:
        """The bytes of the other content.

        Raises:
            InvalidError: It cannot be had.
            OSError: A file cannot be read.
        """
        return self.content.blocks(scratch)
