"""Calls the function of a stage kind; what the machine cannot do becomes an error that advises. No torch."""

from __future__ import annotations

import errno
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from builder.kinds import KINDS
from registry.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.stage import Context, Outcome

__all__ = ["call", "enough_memory"]

_ALLOCATION: Final = re.compile("can't allocate|cannot allocate|not enough memory|out of memory", re.IGNORECASE)
_MOST: Final = 200  # characters of what the allocator says


def call(kind: str, context: Context[Any], *, where: str) -> Outcome:
    """Run a stage's function.

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
            return KINDS[kind].load()(context)
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
        if not _is_allocation(error):
            raise
        said = str(error).partition("\n")[0][:_MOST]
        raise MachineError(
            f"the memory is too small{f': {said}' if said else ''}",
            where=where,
            mend="use a machine with more of it, or set fewer `threads`, a smaller `micro_batch` or `device: cpu` "
            "in .varietal/runner.yaml",
        ) from error


def _is_allocation(error: Exception) -> bool:
    """Whether it is one; torch's own class is known by its name, so that torch need not be there."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    named = any(one.__name__ == "OutOfMemoryError" for one in type(error).__mro__)
    return named or isinstance(error, MemoryError) or _ALLOCATION.search(str(error)) is not None
