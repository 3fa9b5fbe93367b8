"""A training that finds no memory for its micro-batch is tried again with half of it, same global batch. No torch."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Any

from builder.allocation import is_allocation

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.stage import Context, Outcome

__all__ = ["halving"]


def halving(function: Callable[[Context[Any]], Outcome], context: Context[Any]) -> Outcome:
    """Call a stage's function; each time it finds no memory after it chose a micro-batch, once more with half of it.

    The next try goes on from the last sealed checkpoint, or begins anew. A kind that has no micro-batches is called
    once.

    Raises:
        RuntimeError: There is no memory, and nothing left to halve.
        Error: What the function raises.
    """
    while True:
        settled = _settled(context.work)
        try:
            return function(context)
        except RuntimeError as error:
            if not is_allocation(error) or _settled(context.work) == settled:
                raise
            line = _halved(context.work)
            if line is None:
                raise
        # Only here is nothing left that holds what the try had on the device: not the error, not its frames.
        context.say(line)
        _release()


def _halved(work: Path) -> str | None:
    """What the next try will do, in words; ``None`` where it can do no less."""
    from builder.engines.schedule import halve_split  # noqa: PLC0415 - only where a training ran

    smaller = halve_split(work)
    if smaller is None:
        return None
    return (
        f"the device's memory is too small for {smaller.halved[-1]} rows at once: "
        f"again with {smaller.micro_batch}, {smaller.accumulation} times a step"
    )


def _settled(work: Path) -> int:
    """Tells one choice of a micro-batch from the next: the file is written anew for each."""
    try:
        return (work / "split.json").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _release() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()  # the record is on the try that succeeds
