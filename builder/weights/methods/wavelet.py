"""WaveFT: adds an inverse wavelet transform of a sparse matrix, or that matrix itself (Bilican et al., 2025).

The matrix has ``[out, in]`` places, of which a seed chooses those with a learnt coefficient. A coefficient reaches as
far as the wavelet's filter is long, so any part of the transform can be had without the whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from builder.weights.method import Method, Subject, load_float64
from builder.weights.methods.fourier import first_of_permutation
from builder.weights.methods.wavelet_filters import LOW_PASS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.weights.effect import Block, Effect, LoadedEffect, Span
    from builder.weights.stream import Stored

__all__ = ["WAVEFT"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _SparseWavelets:
    """Adds ``scale * idwt2(coefficients)``, one level, or ``scale * coefficients``.

    Attributes:
        coefficients: Of the chosen places, shape ``[count]``.
        seed: Chooses the places: the first ones of a random permutation of all.
        shape: ``(out, in)`` of the weight.
        scale: No unit.
        wavelet: Its name; empty where the coefficients are added as they are.
    """

    additive: ClassVar[bool] = True
    span: ClassVar[Span] = "element"

    coefficients: Stored
    seed: int
    shape: tuple[int, int]
    scale: float
    wavelet: str

    def load(self, device: torch.device) -> LoadedEffect:
        """Read the coefficients and find their places.

        Raises:
            InvalidError: A coefficient is NaN or an infinity.
            OSError: The file cannot be read.
        """
        rows, columns = self.shape
        values = load_float64(self.coefficients, device).mul_(self.scale)
        places = first_of_permutation(self.seed, rows * columns, len(values)).to(device)
        if not self.wavelet:
            return _Scattered(values=values, rows=places // columns, columns=places % columns)
        low = torch.tensor(LOW_PASS[self.wavelet], dtype=torch.float64, device=device)
        high = low.flip(0)
        high[1::2].neg_()
        below, row = _half(places // columns, rows, len(low))
        right, column = _half(places % columns, columns, len(low))
        return _Spread(
            values=values, rows=row, columns=column, below=below, right=right, filters=torch.stack((low, high))
        )


def _half(places: torch.Tensor, size: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which half of the transform's input places lie in, and where in it; PEFT centres what it pads."""
    padded = size + length - 2 + size % 2
    moved = places + (padded - size) // 2
    return moved // (padded // 2), moved % (padded // 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scattered:
    values: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor

    def apply(self, weight: torch.Tensor, _base: torch.Tensor, at: Block, scale: float) -> None:
        here = (self.rows >= at.rows.start) & (self.rows < at.rows.stop)
        here &= (self.columns >= at.columns.start) & (self.columns < at.columns.stop)
        places = self.rows[here] - at.rows.start, self.columns[here] - at.columns.start
        weight.index_put_(places, self.values[here] * scale, accumulate=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Spread:
    """Coefficients, each at a place of a quarter of the transform's input: above or below, left or right.

    A coefficient at ``place`` reaches the elements from ``2 * place - length + 2`` on, as many as the filter is long.
    Which filter it meets across the rows is settled by left or right, across the columns by above or below.

    Attributes:
        filters: Low-pass and high-pass, shape ``[2, length]``.
    """

    values: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    below: torch.Tensor
    right: torch.Tensor
    filters: torch.Tensor

    def apply(self, weight: torch.Tensor, _base: torch.Tensor, at: Block, scale: float) -> None:
        length = self.filters.shape[1]
        first, last = at.columns.start // 2, (at.columns.stop + length - 3) // 2  # of the columns' places
        rows = 2 * self.rows - length + 2
        here = (rows < at.rows.stop) & (rows > at.rows.start - length)
        here &= (self.columns >= first) & (self.columns <= last)
        margin = length - 1
        tall = weight.new_zeros(2, weight.shape[0] + 2 * margin, last - first + 1)
        taps = torch.arange(length, device=weight.device)
        places = (rows[here, None] + taps) - at.rows.start + margin
        shares = self.values[here, None] * self.filters[self.right[here]]
        tall.index_put_((self.below[here, None], places, self.columns[here, None] - first), shares, accumulate=True)
        lines = tall[:, margin : margin + weight.shape[0]]
        wide = weight.new_zeros(weight.shape[0], 2 * (last - first) + length)
        for line, filter_ in zip(lines, self.filters.tolist(), strict=True):
            for tap, share in enumerate(filter_):
                wide[:, tap : tap + 2 * (last - first) + 1 : 2].add_(line, alpha=share)
        start = at.columns.start + length - 2 - 2 * first
        weight.add_(wide[:, start : start + weight.shape[1]], alpha=scale)


def _effects(subject: Subject) -> Mapping[str, Effect]:
    config, (rows, columns) = subject.config, subject.shape
    wavelet = config.values.get("wavelet_family", "db1") if config.flag("use_idwt", default=True) else ""
    if not isinstance(wavelet, str) or (wavelet and wavelet not in LOW_PASS):
        problem = f"wavelet_family = {wavelet!r} cannot be folded: PEFT has no filter of that name and its length"
        raise config.refused(problem, f"train with one of {', '.join(LOW_PASS)}")
    effect = _SparseWavelets(
        coefficients=subject.stored("waveft_spectrum", _count(subject)),
        seed=config.seed("random_loc_seed", default=777),
        shape=(rows, columns),
        scale=config.number("scaling", default=25.0),
        wavelet=wavelet,
    )
    return {"weight": effect}


def _count(subject: Subject) -> int:
    """How many coefficients a module has; in proportion to its size, they are as many as are stored."""
    config, (rows, columns) = subject.config, subject.shape
    count = config.count("n_frequency", subject.module, patterns="n_frequency_pattern", default=2592)
    if config.flag("proportional_parameters"):
        count = next(iter(subject.stored("waveft_spectrum").info.shape), 0)
    if count > rows * columns:
        problem = f"holds {count} coefficients, {subject.module} is {[rows, columns]}"
        raise subject.refused("waveft_spectrum", problem, "fold it into the model that it was trained on")
    return count


WAVEFT = Method(
    leaves=frozenset({"waveft_spectrum"}),
    effects=_effects,
    read=frozenset(
        {
            "fan_in_fan_out",
            "n_frequency",
            "n_frequency_pattern",
            "proportional_parameters",
            "random_loc_seed",
            "scaling",
            "use_idwt",
            "wavelet_family",
        }
    ),
    silent=frozenset({"init_weights"}),
    on_embeddings=False,
)
