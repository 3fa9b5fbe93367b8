"""Tensors as streams of row blocks: read in place, summed in float64, rounded once.

No tensor is ever held whole, so memory does not grow with the model. A block is about 1 MiB of the file, so that all
buffers of a thread stay in the caches. Parallelism belongs over files; inside one, a single thread works.

The one rounding is exact: torch casts float64 to a 16-bit dtype by way of float32, which rounds twice and is wrong at
some ties. Here float64 becomes float32 *rounded to odd* (cut off, with the last bit set when anything was lost), and 16
bits are then rounded to nearest from that; with 24 bits against 8 or 11 this gives the nearest value, ties to even
(Boldo and Melquiond, 2008). So the bytes depend on the float64 sum alone.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from registry.errors import InvalidError
from registry.safetensors import DTYPE_BYTES, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from registry.safetensors import TensorInfo

__all__ = [
    "BLOCK_BYTES",
    "FLOATS",
    "TORCH_DTYPES",
    "Checked",
    "Content",
    "Held",
    "LoadedTerm",
    "Scratch",
    "Stored",
    "Summed",
    "Term",
    "dtype_name",
    "is_finite",
    "one_torch_thread",
    "round_once",
]

BLOCK_BYTES = 1 << 20

TORCH_DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
}
FLOATS = frozenset({"F16", "BF16", "F32", "F64"})  # what sums may read and write

_ALIGNMENT_BYTES = 8  # of the largest element
_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
_LOST_BITS = (1 << 29) - 1  # of a float64's 52 mantissa bits, those that float32 has no room for
_BF16_MIN_NORMAL = 2.0**-126
_BF16_LOW_EXPONENT = 0x0080  # exponent field of the smallest normal number
_BF16_SUBNORMAL_SHIFT = 1.5 * 2.0 ** (52 - 133)  # adding it rounds to multiples of 2**-133, the smallest BF16
_INTEGERS = {"F16": torch.int16, "BF16": torch.int16, "F32": torch.int32, "F64": torch.int64}
_EXPONENTS = {"F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F800000, "F64": 0x7FF0000000000000}


def dtype_name(tensor: torch.Tensor) -> str:
    """The safetensors name of a tensor's dtype.

    Raises:
        InvalidError: Safetensors has no such dtype.
    """
    name = _NAMES.get(tensor.dtype)
    if name is None:
        raise InvalidError(
            f"tensors of {tensor.dtype} cannot be stored",
            where="safetensors",
            mend=f"convert to one of {', '.join(TORCH_DTYPES)}",
        )
    return name


class Scratch:
    """The buffers of one thread: allocated once, reused for every block, grown for a row that is longer.

    Attributes:
        block_bytes: How much of a file a block takes, where a row is not longer.
    """

    __slots__ = ("_buffers", "block_bytes")

    def __init__(self, block_bytes: int = BLOCK_BYTES) -> None:
        """Start without buffers."""
        self.block_bytes = block_bytes
        self._buffers: dict[str, bytearray] = {}

    def bytes(self, role: str, size_bytes: int) -> memoryview:
        """The first bytes of the buffer for ``role``; what it held before may be in them."""
        buffer = self._buffers.get(role)
        if buffer is None or len(buffer) < size_bytes:
            buffer = self._buffers[role] = bytearray(size_bytes)
        return memoryview(buffer)[:size_bytes]

    def tensor(self, role: str, dtype: str, count: int) -> torch.Tensor:
        """The same bytes as a tensor of ``count`` elements, shape ``[count]``; ``count`` is at least 1."""
        return torch.frombuffer(self.bytes(role, count * DTYPE_BYTES[dtype]), dtype=TORCH_DTYPES[dtype])


class Content(Protocol):
    """The bytes of one tensor, given block by block."""

    @property
    def spec(self) -> TensorSpec:
        """Name, dtype and shape of the tensor."""
        ...

    def blocks(self, scratch: Scratch) -> Iterator[memoryview]:
        """The bytes in order; each block is good until the next one is asked for.

        Raises:
            InvalidError: The tensor cannot be had, or holds NaN or an infinity where it is computed.
            OSError: A file cannot be read.
        """
        ...


class Term(Protocol):
    """Something that is added to a weight. Names what it is, without its bytes."""

    def load(self) -> LoadedTerm:
        """Read what the sum needs.

        Raises:
            InvalidError: A tensor of it holds NaN or an infinity.
            OSError: A file cannot be read.
        """
        ...


class LoadedTerm(Protocol):
    """A term whose factors are in memory."""

    def add(self, total: torch.Tensor, start: int, stop: int) -> None:
        """Add rows ``start`` to ``stop`` of the term to ``total``, float64, shape ``[stop - start, columns]``."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """A tensor in a safetensors file, given as it is."""

    path: Path
    info: TensorInfo

    @property
    def spec(self) -> TensorSpec:
        """Name, dtype and shape of the tensor."""
        return TensorSpec(name=self.info.name, dtype=self.info.dtype, shape=self.info.shape)

    def blocks(self, scratch: Scratch) -> Iterator[memoryview]:
        """The bytes as they lie in the file."""
        with self.path.open("rb", buffering=0) as stream:
            step = max(1, scratch.block_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES  # no element lies in two blocks
            for start in range(0, self.info.size_bytes, step):
                block = scratch.bytes("stored", min(step, self.info.size_bytes - start))
                self.read(stream.fileno(), start, block)
                yield block

    def read(self, descriptor: int, start: int, block: memoryview) -> None:
        """Fill ``block`` with the tensor's bytes from byte ``start`` on.

        Raises:
            InvalidError: The file ends too early.
            OSError: The file cannot be read.
        """
        position, done = self.info.offset + start, 0
        while done < len(block):
            count = os.preadv(descriptor, [block[done:]], position + done)
            if not count:
                raise InvalidError(
                    f"the file ends inside tensor {self.info.name!r}",
                    where=str(self.path),
                    mend="fetch the file again",
                )
            done += count

    def load(self) -> torch.Tensor:
        """The whole tensor in memory, its own dtype and shape; for small ones, such as an adapter's factors.

        Raises:
            InvalidError: The file ends too early.
            OSError: The file cannot be read.
        """
        data = bytearray(self.info.size_bytes)
        with self.path.open("rb", buffering=0) as stream:
            self.read(stream.fileno(), 0, memoryview(data))
        dtype = TORCH_DTYPES[self.info.dtype]
        if not data:
            return torch.empty(self.info.shape, dtype=dtype)
        return torch.frombuffer(data, dtype=dtype).view(self.info.shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """A stored tensor, given as it is but refused where it holds NaN or an infinity."""

    stored: Stored

    @property
    def spec(self) -> TensorSpec:
        """Name, dtype and shape of the tensor."""
        return self.stored.spec

    def blocks(self, scratch: Scratch) -> Iterator[memoryview]:
        """The bytes as they lie in the file.

        Raises:
            InvalidError: The tensor holds NaN or an infinity, or the file ends too early.
            OSError: The file cannot be read.
        """
        dtype = self.spec.dtype
        for block in self.stored.blocks(scratch):
            if dtype in FLOATS and not is_finite(torch.frombuffer(block, dtype=TORCH_DTYPES[dtype]), scratch):
                raise _not_finite(self.spec, where=str(self.stored.path), fits=False)
            yield block


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A tensor in memory, rounded once to the dtype of ``spec`` where that is another one."""

    spec: TensorSpec
    tensor: torch.Tensor

    def blocks(self, scratch: Scratch) -> Iterator[memoryview]:
        """The bytes, rounded block by block.

        Raises:
            InvalidError: The tensor holds NaN or an infinity, or its values do not fit the dtype.
        """
        flat = self.tensor.detach().reshape(-1)
        size = DTYPE_BYTES[self.spec.dtype]
        step = max(1, scratch.block_bytes // size)
        for start in range(0, flat.numel(), step):
            part = flat[start : start + step]
            out = scratch.tensor("out", self.spec.dtype, part.numel())
            if part.dtype == out.dtype:
                finite = is_finite(out.copy_(part), scratch)
            else:
                finite = round_once(scratch.tensor("total", "F64", part.numel()).copy_(part), out, scratch)
            if not finite:
                raise _not_finite(self.spec, where="weights in memory", fits=bool(torch.isfinite(part).all()))
            yield scratch.bytes("out", part.numel() * size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Summed:
    """A stored weight with terms added: float64 all the way, rounded once to the weight's own dtype.

    The terms are added in the order given; the weight has two dimensions.
    """

    base: Stored
    terms: tuple[Term, ...]

    @property
    def spec(self) -> TensorSpec:
        """Name, dtype and shape: those of the base."""
        return self.base.spec

    def blocks(self, scratch: Scratch) -> Iterator[memoryview]:
        """The bytes of the sum, row block by row block.

        Raises:
            InvalidError: The weight or a term holds NaN or an infinity, or the sum does not fit the dtype.
            OSError: A file cannot be read.
        """
        rows, columns = self.spec.shape
        terms = [term.load() for term in self.terms]
        row_bytes = columns * DTYPE_BYTES[self.spec.dtype]
        step = max(1, scratch.block_bytes // row_bytes)
        with self.base.path.open("rb", buffering=0) as stream:
            for start in range(0, rows, step):
                stop = min(start + step, rows)
                count = (stop - start) * columns
                self.base.read(stream.fileno(), start * row_bytes, scratch.bytes("stored", (stop - start) * row_bytes))
                stored = scratch.tensor("stored", self.spec.dtype, count)
                total = scratch.tensor("total", "F64", count).copy_(stored)
                for term in terms:
                    term.add(total.view(stop - start, columns), start, stop)
                out = scratch.tensor("out", self.spec.dtype, count)
                if not round_once(total, out, scratch):
                    fits = bool(torch.isfinite(stored).all())
                    raise _not_finite(self.spec, where=str(self.base.path), fits=fits)
                yield scratch.bytes("out", (stop - start) * row_bytes)


def round_once(total: torch.Tensor, out: torch.Tensor, scratch: Scratch) -> bool:
    """Round float64 to the dtype of ``out``: to the nearest value, ties to even, subnormals kept.

    Args:
        total: float64, shape ``[count]``, contiguous; its content is lost.
        out: float16, bfloat16, float32 or float64, shape ``[count]``, contiguous.
        scratch: Buffers to work in.

    Returns:
        Whether every element came out finite: no NaN, no infinity, nothing beyond the dtype's range.
    """
    if out.dtype not in {torch.float16, torch.bfloat16}:
        out.copy_(total)  # to float32 torch rounds once
        return is_finite(out, scratch)
    bits = total.view(torch.int64)
    lost = torch.bitwise_and(bits, _LOST_BITS, out=scratch.tensor("work", "I64", total.numel()))
    lost.add_(_LOST_BITS)  # carries into the last kept bit exactly when something is lost
    bits.bitwise_or_(lost).bitwise_and_(~_LOST_BITS)
    out.copy_(scratch.tensor("single", "F32", total.numel()).copy_(total))
    lowest, highest = _exponents(out, scratch)
    if out.dtype == torch.bfloat16 and lowest <= _BF16_LOW_EXPONENT:
        _round_tiny(total, out)
    return highest != _EXPONENTS[dtype_name(out)]


def _round_tiny(total: torch.Tensor, out: torch.Tensor) -> None:
    """Round again what lies below BF16's normal numbers: there float32 has too few bits for rounding to odd."""
    places = (total.abs() < _BF16_MIN_NORMAL).nonzero().view(-1)
    tiny = total[places]
    rounded = (tiny.abs() + _BF16_SUBNORMAL_SHIFT) - _BF16_SUBNORMAL_SHIFT
    out[places] = rounded.copysign(tiny).to(torch.float32).to(torch.bfloat16)


def is_finite(values: torch.Tensor, scratch: Scratch) -> bool:
    """Whether no element is NaN or an infinity; whole numbers always are finite.

    Args:
        values: Any dtype, shape ``[count]``, contiguous.
        scratch: Buffers to work in.
    """
    name = dtype_name(values)
    return name not in FLOATS or _exponents(values, scratch)[1] != _EXPONENTS[name]


def _exponents(values: torch.Tensor, scratch: Scratch) -> tuple[int, int]:
    """Lowest and highest exponent field, in its place among the bits."""
    name = dtype_name(values)
    whole = _INTEGERS[name]
    masked = scratch.tensor("work", dtype_name(values.view(whole)), values.numel())
    torch.bitwise_and(values.view(whole), _EXPONENTS[name], out=masked)
    lowest, highest = torch.aminmax(masked)
    return int(lowest), int(highest)


def _not_finite(spec: TensorSpec, *, where: str, fits: bool) -> InvalidError:
    if fits:
        return InvalidError(
            f"values of {spec.name!r} are beyond what {spec.dtype} can hold",
            where=where,
            mend="lower the weights of the adapters or the learning rate, or use a model of a wider dtype",
        )
    return InvalidError(
        f"tensor {spec.name!r} holds NaN or an infinity",
        where=where,
        mend="use weights that are sound: import the model again, or train with a lower learning rate",
    )


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Keep torch's own threads out of the way: small parallel regions cost far more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
