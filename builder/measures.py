"""What each stage measures, as the labels that a check may bound. No torch.

An evaluation has the labels that its manifest gives. Stages that round or cut weights say what that cost, of the whole
and of each component: those labels are the kind's own, and a record has those of the components that there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from builder.manifest import CastStage, EvaluateStage, ExtractStage, FuseStage
from registry.components import COMPONENTS, UNKNOWN

if TYPE_CHECKING:
    from builder.manifest import Stage

__all__ = ["MEASURING", "labels_of"]

MEASURING: Final = ("evaluate", "fuse", "extract", "cast")
"""Kinds of stages that measure something."""

_PARTS: Final = tuple(
    one.replace(".", "-")
    for one in (*COMPONENTS, UNKNOWN)
    if not any(other.startswith(f"{one}.") for other in COMPONENTS)
)
_CAST: Final = ("relative_rms", "largest_error")


def labels_of(stage: Stage) -> tuple[str, ...]:
    """Every label that the record of a stage may have; none where it measures nothing."""
    match stage:
        case EvaluateStage():
            return tuple(stage.metrics)
        case CastStage():
            return (*_CAST, *(f"{label}_{part}" for label in _CAST for part in _PARTS))
        case FuseStage() | ExtractStage():
            return ("error", "error-greatest", "rank", *(f"error-{part}" for part in _PARTS))
        case _:
            return ()
