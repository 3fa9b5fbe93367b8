"""How well pairs of factors stand for what they were made from: what is said, and what the record keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from builder.weights.low_rank import Pair

__all__ = ["FitTally"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fit:
    module: str
    component: str
    rank: int
    size: float
    error: float

    @property
    def relative(self) -> float:
        return self.error / self.size if self.size else 0.0


@dataclass(kw_only=True, slots=True)
class FitTally:
    """The pairs of one adapter, measured one after another.

    Errors are relative: Frobenius norm of what is lost over that of the matrix, and of several matrices over that of
    all of them.

    Attributes:
        kind: Of the stage, for what is said.
        say: Tells the person at the terminal.
    """

    kind: str
    say: Callable[[str], None]
    _found: list[_Fit] = field(default_factory=list)

    def add(self, module: str, component: str, pair: Pair) -> None:
        """Keep the figures of one module, and tell them."""
        fit = _Fit(module=module, component=component, rank=pair.rank, size=pair.size, error=pair.error)
        self._found.append(fit)
        self.say(f"{self.kind}: {module}: rank {fit.rank}, error {fit.relative:.2e}")

    def metrics(self) -> dict[str, dict[str, float]]:
        """In all, the greatest of one module, by component, and the largest rank."""
        figures = {
            "error": _together(self._found),
            "error-greatest": self._worst().relative,
            "rank": float(max(fit.rank for fit in self._found)),
        }
        for component, fits in sorted(self._by_component().items()):
            figures[f"error-{component.replace('.', '-')}"] = _together(fits)
        return {label: {"value": value} for label, value in figures.items()}

    def note(self) -> str:
        """One line for the record, which is said, too."""
        worst, ranks = self._worst(), sorted({fit.rank for fit in self._found})
        spread = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
        line = (
            f"{len(self._found)} modules of rank {spread}; relative error {_together(self._found):.2e} in all, "
            f"{worst.relative:.2e} at most ({worst.module})"
        )
        self.say(f"{self.kind}: {line}")
        return line

    def _worst(self) -> _Fit:
        return max(self._found, key=lambda fit: fit.relative)

    def _by_component(self) -> Mapping[str, list[_Fit]]:
        groups: dict[str, list[_Fit]] = {}
        for fit in self._found:
            groups.setdefault(fit.component, []).append(fit)
        return groups


def _together(fits: Iterable[_Fit]) -> float:
    found = list(fits)
    size = math.hypot(*(fit.size for fit in found))
    return math.hypot(*(fit.error for fit in found)) / size if size else 0.0
