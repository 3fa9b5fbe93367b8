"""The share of the machine's processors that a build gives a stage, taken by the stage itself.

DVC around it keeps all of them: what it hashes when the stage has ended is hashed by as many threads as there are.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CORES", "take_share"]

CORES = "VARIETAL_CORES"
"""Variable with the numbers of the processors, commas between them; absent where a stage may use all."""


def take_share(own: Mapping[str, str]) -> None:
    """Keep to the processors that the build named; where they cannot be had, to those that there are.

    Args:
        own: Environment of this process.
    """
    cores = own.get(CORES, "")
    if cores:
        with suppress(ValueError, OSError):
            os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
