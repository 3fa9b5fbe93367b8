"""A heat map as SVG: layers from left to right, components from top to bottom. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["heat_map"]

_CELL = 22  # pixels
_STEPS, _STEP = 5, 80  # of the legend: how many, and pixels from one to the next
_LEFT, _TOP, _BOTTOM = 150, 46, 64
_NOTHING, _UNCHANGED = "#ffffff", "#eeeeee"
_LOW, _HIGH = (255, 237, 160), (128, 0, 38)  # light yellow to dark red
_FONT = 'font-family="sans-serif" font-size="11"'


def heat_map(
    title: str, components: Sequence[str], layers: Sequence[int | None], values: Mapping[tuple[str, int | None], float]
) -> str:
    """The picture.

    Colours go with the logarithm of the values, over the range that is there; a zero is grey, an infinity the darkest.

    Args:
        title: Stands above.
        components: The rows.
        layers: The columns; ``None`` is the one outside the layers.
        values: Cells, from 0; those that are not there stay white.
    """
    finite = [math.log10(value) for value in values.values() if 0 < value < math.inf]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    # Few layers make a narrow map, under which the legend must still fit.
    width = max(_LEFT + _CELL * len(layers) + 20, 16 + _STEPS * _STEP, 16 + 7 * len(title))
    height = _TOP + _CELL * len(components) + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f'<rect width="{width}" height="{height}" fill="{_NOTHING}"/>',
        f'<text x="8" y="20" {_FONT} font-weight="bold">{escape(title)}</text>',
    ]
    for column, layer in enumerate(layers):
        x = _LEFT + _CELL * column + _CELL // 2
        parts.append(
            f'<text x="{x}" y="{_TOP - 6}" text-anchor="middle" {_FONT}>{"-" if layer is None else layer}</text>'
        )
    for row, component in enumerate(components):
        y = _TOP + _CELL * row
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 15}" text-anchor="end" {_FONT}>{escape(component)}</text>')
        for column, layer in enumerate(layers):
            value = values.get((component, layer))
            if value is not None:
                cell = f'x="{_LEFT + _CELL * column}" y="{y}" width="{_CELL - 1}" height="{_CELL - 1}"'
                place = component if layer is None else f"{component}, layer {layer}"
                label = f"<title>{escape(place)}: {value:.3g}</title>"
                parts.append(f'<rect {cell} fill="{_colour(value, low, high)}">{label}</rect>')
    return "\n".join([*parts, *_legend(low, high, height), "</svg>", ""])


def _legend(low: float, high: float, height: int) -> list[str]:
    y = height - 40
    steps = [low + (high - low) * step / (_STEPS - 1) for step in range(_STEPS)]
    parts = [f'<text x="8" y="{y - 8}" {_FONT}>norm of the change over norm of the first; grey: unchanged</text>']
    for place, step in enumerate(steps):
        x = 8 + _STEP * place
        parts.append(f'<rect x="{x}" y="{y}" width="14" height="14" fill="{_colour(10**step, low, high)}"/>')
        parts.append(f'<text x="{x + 18}" y="{y + 12}" {_FONT}>{10**step:.2g}</text>')
    return parts


def _colour(value: float, low: float, high: float) -> str:
    if not value:
        return _UNCHANGED
    share = 1.0 if value == math.inf or high == low else (math.log10(value) - low) / (high - low)
    channels = (round(start + (stop - start) * share) for start, stop in zip(_LOW, _HIGH, strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in channels)
