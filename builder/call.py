"""Calls the function of a stage kind; what the machine cannot do becomes an error that advises. No torch."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from builder.allocation import is_allocation
from builder.halving import halving
from builder.kinds import KINDS
from builder.launch import together
from registry.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.stage import Context, Outcome

__all__ = ["call", "enough_memory"]

_MOST: Final = 200  # characters of what the allocator says


def call(kind: str, context: Context[Any], *, where: str) -> Outcome:
    """Run a stage's function; a training that finds no memory is tried again with smaller micro-batches.

    Args:
        kind: Stage kind.
        context: All that the function may use.
        where: The stage, for errors.

    Raises:
        MachineError: A package is not installed, or the memory is too small.
        Error: What the function raises.
    """
    try:
        with enough_memory(f"{where} ({kind})"):
            return halving(together(kind, KINDS[kind], context, where=where) or KINDS[kind].load(), context)
    except ModuleNotFoundError as error:
        raise MachineError(
            f"{error.name} is not installed",
            where=f"stage kind {kind}",
            mend="install the builder: pip install 'varietal[build]'",
        ) from error


@contextmanager
def enough_memory(where: str) -> Iterator[None]:
    """Turn a failed allocation, of torch, numpy or Python, into an error that advises.

    Raises:
        MachineError: The memory is too small.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_allocation(error):
            raise
        said = str(error).partition("\n")[0][:_MOST]
        raise MachineError(
            f"the memory is too small{f': {said}' if said else ''}",
            where=where,
            mend="use a machine with more of it, or set fewer `threads`, a smaller `micro_batch` or `device: cpu` "
            "in .varietal/runner.yaml",
        ) from error
