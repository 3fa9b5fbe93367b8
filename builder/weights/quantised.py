"""A quantised model: which of its tensors stand for which weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from builder.weights.blockwise import BLOCKWISE_PARTS, read_blockwise
from builder.weights.dtypes import TORCH_DTYPES
from builder.weights.quantisation import DEQUANTISED, quantisation
from builder.weights.site import is_conv1d
from builder.weights.vectorwise import VECTORWISE_PARTS, read_vectorwise
from registry.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from builder.weights.folder import ModelFolder
    from builder.weights.stream import Scratch, Stored
    from builder.weights.values import Values
    from registry.safetensors import TensorSpec

__all__ = ["Quantised", "read_quantised"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantised:
    """The tensors of a quantised model.

    Attributes:
        values: Name -> numbers, of every weight that is quantised, as the model has it without that.
        plain: Name -> tensor, of all others.
        kind: In words: ``nf4``, ``fp4``, ``int8``, or several joined by ``+``.
    """

    values: Mapping[str, Values]
    plain: Mapping[str, Stored]
    kind: str


def read_quantised(model: ModelFolder, *, where: str) -> Quantised:
    """Put the tensors of a model that bitsandbytes quantised together.

    Args:
        model: Its files.
        where: For errors.

    Raises:
        InvalidError: Another method quantised it, or its tensors do not fit each other.
        OSError: A file cannot be read.
    """
    method = quantisation(model.config())
    if method not in DEQUANTISED:
        raise InvalidError(
            f"the model is quantised by {method}, which is not dequantised here",
            where=where,
            mend="start from the 16-bit model that it was made from",
        )
    parts: dict[str, dict[str, Stored]] = {}
    for name, stored in model.tensors.items():
        weight, part = _split(name)
        if part:
            parts.setdefault(weight, {})[part] = stored
    values: dict[str, Values] = {}
    kinds: set[str] = set()
    for name, some in sorted(parts.items()):
        if name not in model.tensors:
            stray = next(iter(some.values()))
            raise InvalidError(
                f"{stray.info.name!r} goes with {name!r}, which is not there", where=where, mend="fetch the model again"
            )
        found, kind = _read(model.tensors[name], some)
        kinds.add(kind)
        # bitsandbytes keeps every weight as a linear layer has it.
        turned = is_conv1d(model, name.removesuffix(".weight"))
        values[name] = Turned(values=found) if turned else found
    taken = {*values, *(stored.info.name for some in parts.values() for stored in some.values())}
    plain = {name: stored for name, stored in model.tensors.items() if name not in taken}
    return Quantised(values=values, plain=plain, kind="+".join(sorted(kinds)) or method)


@dataclass(frozen=True, kw_only=True, slots=True)
class Turned:
    """A matrix with rows and columns exchanged; all of it is in memory while it is read."""

    values: Values

    @property
    def spec(self) -> TensorSpec:
        """Name and dtype of the matrix; the shape the other way round."""
        spec = self.values.spec
        return replace(spec, shape=spec.shape[::-1])

    @property
    def where(self) -> str:
        """The file of the matrix."""
        return self.values.where

    def numbers(self, scratch: Scratch) -> Iterator[torch.Tensor]:
        """The numbers, column by column.

        Raises:
            InvalidError: The matrix cannot be had.
            OSError: A file cannot be read.
        """
        spec = self.values.spec
        whole = torch.empty(spec.shape, dtype=TORCH_DTYPES[spec.dtype]).view(-1)
        position = 0
        for block in self.values.numbers(scratch):
            whole[position : position + block.numel()] = block
            position += block.numel()
        turned = whole.view(spec.shape).T.contiguous().view(-1)
        yield from torch.split(turned, max(1, scratch.block_bytes // turned.itemsize))


def _split(name: str) -> tuple[str, str]:
    """The weight that a tensor goes with, and as what; empty where it is none of that."""
    for part in BLOCKWISE_PARTS:
        if name.endswith(f".weight.{part}"):
            return name.removesuffix(f".{part}"), part
    for part in VECTORWISE_PARTS:
        if name.endswith(f".{part}"):
            return f"{name.removesuffix(part)}weight", part
    return "", ""


def _read(weight: Stored, parts: Mapping[str, Stored]) -> tuple[Values, str]:
    if parts.keys() <= set(VECTORWISE_PARTS):
        return read_vectorwise(weight, parts), "int8"
    found = read_blockwise(weight, parts)
    return found, found.table
