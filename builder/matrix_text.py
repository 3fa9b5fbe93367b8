"""The matrix as tables: one for each two axes that have something to refuse, and each reason once below it."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from builder.matrix import AXES, pairs

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["matrix_lines", "matrix_markdown"]

_YES = "yes"


def matrix_lines() -> list[str]:
    """The tables for a terminal, columns set under each other."""
    lines: list[str] = []
    for title, rows, reasons in _tables():
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines += [title, ""]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        lines += ["", *reasons, ""] if reasons else [""]
    return lines[:-1]


def matrix_markdown() -> str:
    """The tables in Markdown."""
    parts: list[str] = []
    for title, rows, reasons in _tables():
        head, *body = [f"| {' | '.join(row)} |" for row in rows]
        parts += [f"### {title}\n", head, "|---" * len(rows[0]) + "|", *body, ""]
        parts += [f"{reason}  " for reason in reasons] + ([""] if reasons else [])
    return "\n".join(parts)


def _tables() -> Iterator[tuple[str, list[list[str]], list[str]]]:
    """Title, rows with their heads, and the numbered reasons; the longer axis runs down."""
    reasons = {(pair.axes, pair.values): pair.reason for pair in pairs()}
    for axes in combinations(AXES, 2):
        if not any(reason for (some, _), reason in reasons.items() if some == axes):
            continue
        down, across = sorted(axes, key=lambda axis: -len(AXES[axis]))
        numbers: dict[str, int] = {}
        rows = [[f"{down} \\ {across}", *AXES[across]]]
        for value in AXES[down]:
            cells = [_cell(reasons, axes, {down: value, across: other}, numbers) for other in AXES[across]]
            rows.append([value, *cells])
        yield f"{down} and {across}", rows, [f"{number}: {reason}" for reason, number in numbers.items()]


def _cell(
    reasons: dict[tuple[tuple[str, str], tuple[str, str]], str],
    axes: tuple[str, str],
    chosen: dict[str, str],
    numbers: dict[str, int],
) -> str:
    """``yes``, or the number of the reason."""
    reason = reasons[axes, (chosen[axes[0]], chosen[axes[1]])]
    return f"no {numbers.setdefault(reason, len(numbers) + 1)}" if reason else _YES
