"""A heat map as SVG: layers from left to right, components from top to bottom. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["heat_map"]

_CELL = 22  # pixels
_STEPS, _STEP = 5, 80  # of the legend: how many, and pixels from one to the next
_LETTER = 7  # pixels, of the widest
_LEFT, _TOP, _BOTTOM = 150, 46, 64
_LINE = 22  # pixels, of a further line of the legend
_NOTHING, _UNCHANGED = "#ffffff", "#eeeeee"
_LOW, _HIGH = (255, 237, 160), (128, 0, 38)  # light yellow to dark red
_FONT = 'font-family="sans-serif" font-size="11"'
_WORDS: Final = ("#2b6cb0", "#2f855a", "#6b46c1", "#4a5568")  # stripes of what has no figure, word by word


def heat_map(
    title: str,
    components: Sequence[str],
    layers: Sequence[int | None],
    values: Mapping[tuple[str, int | None], float | str],
    notes: Mapping[tuple[str, int | None], str] | None = None,
) -> str:
    """The picture.

    Colours go with the logarithm of the values, over the range that is there; a zero is grey. A cell with a word for
    a value is striped, each word in a colour of its own that the legend names.

    Args:
        title: Stands above.
        components: The rows.
        layers: The columns; ``None`` is the one outside the layers.
        values: Cells: a finite number from 0, or a word where there is none; those that are not there stay white.
        notes: What to tell of a cell beside its value.
    """
    finite = [math.log10(value) for value in values.values() if not isinstance(value, str) and value]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    words = sorted({value for value in values.values() if isinstance(value, str)})
    colours = {word: _WORDS[place % len(_WORDS)] for place, word in enumerate(words)}
    # Few layers make a narrow map, under which the legend must still fit.
    told = max(_STEPS * _STEP, sum(_width(word) for word in words))
    width = max(_LEFT + _CELL * len(layers) + 20, 16 + told, 16 + _LETTER * len(title))
    height = _TOP + _CELL * len(components) + _BOTTOM + (_LINE if words else 0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        *(_stripes(place, colours[word]) for place, word in enumerate(words)),
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
                note = (notes or {}).get((component, layer), "")
                label = f"<title>{escape(_label(component, layer, value, note))}</title>"
                fill = _pattern(words.index(value)) if isinstance(value, str) else _colour(value, low, high)
                parts.append(f'<rect {cell} fill="{fill}">{label}</rect>')
    return "\n".join([*parts, *_legend(low, high, words, height), "</svg>", ""])


def _label(component: str, layer: int | None, value: float | str, note: str) -> str:
    place = component if layer is None else f"{component}, layer {layer}"
    told = value if isinstance(value, str) else f"{value:.3g}"
    return f"{place}: {told}{f' ({note})' if note else ''}"


def _legend(low: float, high: float, words: Sequence[str], height: int) -> list[str]:
    y = height - 40 - (_LINE if words else 0)
    steps = [low + (high - low) * step / (_STEPS - 1) for step in range(_STEPS)]
    parts = [f'<text x="8" y="{y - 8}" {_FONT}>norm of the change over norm of the first; grey: unchanged</text>']
    for place, step in enumerate(steps):
        parts += _entry(8 + _STEP * place, y, _colour(10**step, low, high), f"{10**step:.2g}")
    x = 8
    for place, word in enumerate(words):
        parts += _entry(x, y + _LINE, _pattern(place), word)
        x += _width(word)
    return parts


def _entry(x: int, y: int, fill: str, text: str) -> list[str]:
    return [
        f'<rect x="{x}" y="{y}" width="14" height="14" fill="{fill}"/>',
        f'<text x="{x + 18}" y="{y + 12}" {_FONT}>{escape(text)}</text>',
    ]


def _width(word: str) -> int:
    """Pixels of an entry of the legend."""
    return 34 + _LETTER * len(word)


def _pattern(place: int) -> str:
    return f"url(#word{place})"


def _stripes(place: int, colour: str) -> str:
    """A pattern that no value has, also where colours are not told apart: stripes, by turns this way and that."""
    line = "M0,6 L6,0" if place % 2 else "M0,0 L6,6"
    return (
        f'<pattern id="word{place}" width="6" height="6" patternUnits="userSpaceOnUse">'
        f'<path d="{line}" stroke="{colour}" stroke-width="2"/></pattern>'
    )


def _colour(value: float, low: float, high: float) -> str:
    if not value:
        return _UNCHANGED
    share = 1.0 if high == low else (math.log10(value) - low) / (high - low)
    channels = (round(start + (stop - start) * share) for start, stop in zip(_LOW, _HIGH, strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in channels)
