"""Which errors mean that memory could not be had. No torch."""

from __future__ import annotations

import errno
import re
from typing import Final

__all__ = ["is_allocation"]

_ALLOCATION: Final = re.compile("can't allocate|cannot allocate|not enough memory|out of memory", re.IGNORECASE)


def is_allocation(error: Exception) -> bool:
    """Whether it is one; torch's own class is known by its name, so that torch need not be there."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    named = any(one.__name__ == "OutOfMemoryError" for one in type(error).__mro__)
    return named or isinstance(error, MemoryError) or _ALLOCATION.search(str(error)) is not None
