"""What a training logged, step by step, as the lines of a table: no times in it, so the same run gives the same lines.

It goes into the record, so it is kept short: many steps become a few hundred points, each the mean of its span.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["MOST_POINTS", "curve_lines"]

MOST_POINTS: Final = 256
_STEP: Final = "step"
_LAST: Final = {"learning_rate": "learning_rate"}  # of a span, the last
_MEANS: Final = {
    "loss": "loss",
    "grad_norm": "gradient_norm",
    "reward": "reward",
    "rewards/accuracies": "reward_accuracy",
    "rewards/margins": "reward_margin",
    "kl": "kl",
}
_HELD_OUT: Final = "eval_loss"


def curve_lines(history: Sequence[Mapping[str, float]], measured: Sequence[tuple[int, float]] = ()) -> tuple[str, ...]:
    """The table: tab-separated, the header first; a value that a step does not have is left empty.

    Args:
        history: What was logged of each optimiser step, from the first one on.
        measured: Step and loss on held-out rows, of each measurement.
    """
    if not history:
        return ()
    points: dict[int, dict[str, float]] = {}
    width = -(-len(history) // MOST_POINTS)
    for start in range(0, len(history), width):
        span = history[start : start + width]
        points[int(span[-1][_STEP])] = _point(span)
    for step, loss in measured:
        points.setdefault(step, {})[_HELD_OUT] = loss
    present = {label for point in points.values() for label in point}
    every = ("loss", "learning_rate", "gradient_norm", *_MEANS.values(), _HELD_OUT)
    labels = [label for label in dict.fromkeys(every) if label in present]
    rows = (
        "\t".join((str(step), *(f"{point[label]:.6g}" if label in point else "" for label in labels)))
        for step, point in sorted(points.items())
    )
    return ("\t".join((_STEP, *labels)), *rows)


def _point(span: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """One point for several steps."""
    point = {label: float(span[-1][name]) for name, label in _LAST.items() if name in span[-1]}
    for name, label in _MEANS.items():
        found = [float(entry[name]) for entry in span if name in entry]
        if found:
            point[label] = sum(found) / len(found)
    return point
