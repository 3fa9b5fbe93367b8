"""The tensors that a blend is made of, read tile by tile into buffers that are used again and again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np
import torch

from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from builder.weights.blend.rows import Rows
    from builder.weights.stream import Scratch

__all__ = ["TILE", "Kernel", "Operands", "Tile", "keep"]

Kernel: TypeAlias = "Callable[[Tile], torch.Tensor]"
"""Makes one tile of the result: float64, shape ``[elements]``, good until the next one is made; it may be changed."""

TILE: Final = 1 << 17
"""Elements of a tile, where a row is not longer: one MiB in float64, so that all buffers stay in the caches. It is
the same for every method, block size and thread, since sums are taken tile by tile."""

_SAMPLED_GROUPS: Final = (32, 512)  # at least and at most
_SAMPLED_GROUP: Final = 1 << 11  # elements of rows that lie together, where a row is shorter
_SAMPLED_SHARE: Final = 128  # every how many groups one is looked at
_GOLDEN: Final = (math.sqrt(5) - 1) / 2  # its multiples fall in with no pattern of rows


class Tile(NamedTuple):
    """Some rows: from ``start`` up to ``stop``."""

    start: int
    stop: int


def keep(values: torch.Tensor, kept: NDArray[np.bool_] | NDArray[np.uint8]) -> torch.Tensor:
    """Set to zero, in place, what is not kept.

    It is multiplied by zero, so that NaN and infinities do not pass for something left out.

    Args:
        values: float64, shape ``[elements]``.
        kept: One or zero for each of them.
    """
    array = values.numpy()
    with np.errstate(invalid="ignore"):
        np.multiply(array, kept, out=array)
    return values


class Operands:
    """The tensors of one blend.

    Attributes:
        name: Name of the tensor, for errors and for what is drawn.
        rows: Number of rows.
        columns: Number of columns.
        scratch: Buffers to work in.
    """

    __slots__ = ("_base", "_held", "_models", "columns", "name", "rows", "scratch")

    def __init__(self, name: str, models: Sequence[Rows], base: Rows | None, scratch: Scratch) -> None:
        """Take tensors of one shape; nothing is read."""
        self.name = name
        self.rows, self.columns = models[0].shape if models else base.shape if base is not None else (0, 0)
        self.scratch = scratch
        self._models = models
        self._base = base
        self._held: Tile | None = None  # what of the base is in its buffer

    @property
    def models(self) -> int:
        """How many models there are, the base left out."""
        return len(self._models)

    @property
    def count(self) -> int:
        """Elements of each tensor."""
        return self.rows * self.columns

    @property
    def where(self) -> str:
        """Where the tensors lie, for errors."""
        return ", ".join(rows.where for rows in self._all())

    def tiles(self) -> Iterator[Tile]:
        """All tiles in order."""
        step = max(1, TILE // max(1, self.columns))
        for start in range(0, self.rows, step):
            yield Tile(start, min(start + step, self.rows))

    def samples(self) -> Iterator[Tile]:
        """Small tiles spread evenly over the tensor, for a first guess; no result depends on them."""
        group = min(self.rows, max(1, _SAMPLED_GROUP // max(1, self.columns)))
        groups, (fewest, most) = self.rows // group, _SAMPLED_GROUPS
        taken = min(groups, max(fewest, min(most, groups // _SAMPLED_SHARE)))
        for number in range(taken):
            start = int((number + 1) * _GOLDEN % 1 * groups) * group
            yield Tile(start, start + group)

    def base(self, tile: Tile) -> torch.Tensor:
        """A tile of the base, float64, shape ``[elements]``; not to be changed, good until the next one is asked for.

        Raises:
            InvalidError: There is no base, or it cannot be had.
            OSError: A file cannot be read.
        """
        if self._base is None:
            raise self.refused("has no base to start from", "name the base under `against`")
        if self._held != tile:
            self._held = None
            self._base.read(*tile, self.scratch, "blend base")
            self._held = tile
        return self.scratch.host("blend base", "F64", (tile.stop - tile.start) * self.columns)

    def start(self, tile: Tile) -> torch.Tensor:
        """A copy of a tile of the base, which may be changed; else as :meth:`base`."""
        base = self.base(tile)
        return self.buffer("total", base).copy_(base)

    def model(self, number: int, tile: Tile, slot: int = 0) -> torch.Tensor:
        """A tile of a model, float64, shape ``[elements]``.

        Args:
            number: Which model.
            tile: Which rows.
            slot: Which buffer; what was read into it before is lost.

        Raises:
            InvalidError: It cannot be had.
            OSError: A file cannot be read.
        """
        return self._models[number].read(*tile, self.scratch, f"blend {slot}").view(-1)

    def task(self, number: int, tile: Tile, base: torch.Tensor, slot: int = 0) -> torch.Tensor:
        """A tile of a model's task vector: the model less the base; else as :meth:`model`."""
        return self.model(number, tile, slot).sub_(base)

    def vectors(self, tile: Tile) -> list[torch.Tensor]:
        """All task vectors at once, each in the slot of its number; the models themselves where there is no base."""
        if self._base is None:
            return [self.model(number, tile, number) for number in range(self.models)]
        base = self.base(tile)
        return [self.task(number, tile, base, number) for number in range(self.models)]

    def moved(self, total: torch.Tensor, tile: Tile) -> torch.Tensor:
        """A sum of such vectors, in place, put where they start: at the base, or at zero."""
        return total if self._base is None else total.add_(self.base(tile))

    def buffer(self, role: str, like: torch.Tensor) -> torch.Tensor:
        """A buffer of float64, shape ``[elements]``, as many as ``like`` has; what it held before may be in it."""
        return self.scratch.host(f"blend {role}", "F64", like.numel())

    def refused(self, problem: str, mend: str) -> InvalidError:
        """An error on this tensor."""
        return InvalidError(f"tensor {self.name!r} {problem}", where=self.where, mend=mend)

    def check_finite(self) -> None:
        """Look for NaN and infinities in everything that is read.

        Raises:
            InvalidError: There is one; the tensor is named with its file.
            OSError: A file cannot be read.
        """
        self._held = None
        for rows in self._all():
            for tile in self.tiles():
                if not bool(torch.isfinite(rows.read(*tile, self.scratch, "blend base")).all()):
                    raise InvalidError(
                        f"tensor {self.name!r} holds NaN or an infinity",
                        where=rows.where,
                        mend="use weights that are sound: import the model again, or train with a lower learning rate",
                    )

    def _all(self) -> tuple[Rows, ...]:
        return (*self._models, *(() if self._base is None else (self._base,)))
