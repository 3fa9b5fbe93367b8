"""Tensors as streams of blocks: read in place, checked or rounded, never held whole.

So memory does not grow with the model. A block is about 1 MiB of the file, so that all buffers of a thread stay in the
caches. Parallelism belongs over files; inside one, a single thread works.
"""

from __future__ import annotations

import math
import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch

from builder.weights.dtypes import FLOATS, TORCH_DTYPES
from builder.weights.rounding import is_finite, round_once
from registry.errors import InvalidError
from registry.safetensors import DTYPE_BYTES, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from registry.safetensors import TensorInfo

__all__ = [
    "BLOCK_BYTES",
    "CPU",
    "Checked",
    "Content",
    "Held",
    "Scratch",
    "Stored",
    "are_equal",
    "first_difference",
    "not_finite",
    "one_torch_thread",
]

BLOCK_BYTES = 1 << 20
CPU = torch.device("cpu")

_ALIGNMENT_BYTES = 8  # of the largest element


class Scratch:
    """The buffers of one thread: allocated once, reused for every block, grown for a row that is longer.

    Attributes:
        block_bytes: How much of a file a block takes, where a row is not longer.
        device: Where sums are made; files are read and written by way of the host's memory.
    """

    __slots__ = ("_buffers", "_host", "block_bytes", "device")

    def __init__(self, block_bytes: int = BLOCK_BYTES, device: torch.device = CPU) -> None:
        """Start without buffers."""
        self.block_bytes = block_bytes
        self.device = device
        self._host: dict[str, torch.Tensor] = {}
        self._buffers: dict[str, torch.Tensor] = {}

    def bytes(self, role: str, size_bytes: int) -> memoryview:
        """The first bytes of the host's buffer for ``role``; what it held before may be in them."""
        return self._held(role, size_bytes).numpy().data

    def host(self, role: str, dtype: str, count: int) -> torch.Tensor:
        """The same bytes as a tensor of ``count`` elements, shape ``[count]``."""
        return self._held(role, count * DTYPE_BYTES[dtype]).view(TORCH_DTYPES[dtype])

    def tensor(self, role: str, dtype: str, count: int, *, device: torch.device | None = None) -> torch.Tensor:
        """A buffer of ``count`` elements, shape ``[count]``, on the device; on the CPU it is the host's."""
        if (device or self.device).type == "cpu":
            return self.host(role, dtype, count)
        size_bytes = count * DTYPE_BYTES[dtype]
        buffer = self._buffers.get(role)
        if buffer is None or buffer.numel() < size_bytes:
            buffer = self._buffers[role] = torch.empty(size_bytes, dtype=torch.uint8, device=self.device)
        return buffer[:size_bytes].view(TORCH_DTYPES[dtype])

    def _held(self, role: str, size_bytes: int) -> torch.Tensor:
        buffer = self._host.get(role)
        if buffer is None or buffer.numel() < size_bytes:
            # Pinned memory is what a device reads and writes at full speed.
            pinned = self.device.type == "cuda"
            buffer = self._host[role] = torch.empty(size_bytes, dtype=torch.uint8, pin_memory=pinned)
        return buffer[:size_bytes]


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

    def part(self, rows: slice) -> Stored:
        """Some rows as a tensor of their own, shape ``[rows, columns]``; stacked matrices count as one tall matrix."""
        columns = self.info.shape[-1]
        row_bytes = columns * DTYPE_BYTES[self.info.dtype]
        count = rows.stop - rows.start
        start = self.info.offset + rows.start * row_bytes
        info = replace(self.info, shape=(count, columns), offset=start, size_bytes=count * row_bytes)
        return replace(self, info=info)


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
                raise not_finite(self.spec, where=str(self.stored.path), fits=False)
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
            out = scratch.host("out", self.spec.dtype, part.numel())
            if part.dtype == out.dtype:
                finite = is_finite(out.copy_(part), scratch)
            else:
                finite = round_once(scratch.host("total", "F64", part.numel()).copy_(part), out, scratch)
            if not finite:
                raise not_finite(self.spec, where="weights in memory", fits=bool(torch.isfinite(part).all()))
            yield scratch.bytes("out", part.numel() * size)


def not_finite(spec: TensorSpec, *, where: str, fits: bool) -> InvalidError:
    """The error on a tensor with NaN or an infinity, or with ``fits`` on a result beyond its dtype's range."""
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


def are_equal(one: Stored, other: Stored) -> bool:
    """Whether two tensors of one shape hold the same numbers, maybe in different dtypes; NaN is unlike all.

    Raises:
        InvalidError: A file ends too early.
        OSError: A file cannot be read.
    """
    return first_difference(one, other) is None


def first_difference(one: Stored, other: Stored) -> int | None:
    """The first row in which two tensors of one shape hold other numbers, whatever their dtypes; read in blocks.

    Returns:
        Its number, counted from 0; ``None`` where they are equal. NaN is unlike all.

    Raises:
        InvalidError: A file ends too early.
        OSError: A file cannot be read.
    """
    scratches = Scratch(), Scratch()
    count = math.prod(one.info.shape)
    sizes = [stored.info.size_bytes // max(1, count) for stored in (one, other)]
    row = math.prod(one.info.shape[1:])
    step = max(1, scratches[0].block_bytes // max(1, *sizes))
    with one.path.open("rb", buffering=0) as mine, other.path.open("rb", buffering=0) as theirs:
        for start in range(0, count, step):
            length = min(step, count - start)
            values = []
            for stored, stream, size, scratch in zip((one, other), (mine, theirs), sizes, scratches, strict=True):
                stored.read(stream.fileno(), start * size, scratch.bytes("compared", length * size))
                values.append(scratch.host("compared", stored.info.dtype, length).double())
            if not torch.equal(*values):
                return (start + int((values[0] != values[1]).nonzero()[0])) // max(1, row)
    return None


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Keep torch's own threads out of the way: small parallel regions cost far more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
