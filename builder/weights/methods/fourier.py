"""FourierFT: adds the real part of an inverse Fourier transform of a sparse spectrum (Gao et al., 2024).

The spectrum has ``[out, in]`` places, of which a seed chooses those with a learnt coefficient. With few of them, a row
``j`` of the transform over ``out`` is a short sum, so that only the transform over ``in`` is a fast one: rows can be
had without the whole. See arXiv:2405.03003.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from builder.weights.method import Method, Subject, load_float64

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.weights.effect import Block, Effect, LoadedEffect, Span
    from builder.weights.stream import Stored

__all__ = ["FOURIERFT", "first_of_permutation"]

_TERMS = 1 << 20  # how many complex terms are in memory at once
_SMALL = (2**32 - 1) // 20  # from here on torch permutes in another way
_SHARE = 16  # a prefix is worth its own way where it is this much shorter than the whole


@dataclass(frozen=True, kw_only=True, slots=True)
class _SparseSpectrum:
    """Adds ``scale * Re(ifft2(spectrum))``.

    Attributes:
        coefficients: Of the chosen places, shape ``[count]``.
        seed: Chooses the places: the first ones of a random permutation of all.
        shape: ``(out, in)`` of the spectrum and of the weight.
        scale: Of the transform; no unit.
    """

    additive: ClassVar[bool] = True
    span: ClassVar[Span] = "row"

    coefficients: Stored
    seed: int
    shape: tuple[int, int]
    scale: float

    def load(self, device: torch.device) -> LoadedEffect:
        """Read the coefficients and find their places.

        Raises:
            InvalidError: A coefficient is NaN or an infinity.
            OSError: The file cannot be read.
        """
        rows, columns = self.shape
        coefficients = load_float64(self.coefficients, device).mul_(self.scale / rows)
        places = first_of_permutation(self.seed, rows * columns, len(coefficients)).to(device)
        row, column = places // columns, places % columns
        # Only the real part is wanted: a frequency beyond the middle is the conjugate of one before it, and each
        # stands for two, but for the first and, where the number is even, the middle one.
        beyond = column > columns // 2
        column = torch.where(beyond, columns - column, column)
        single = (column == 0) | (2 * column == columns)
        turns = torch.arange(rows, dtype=torch.float64, device=device).mul_(2 * math.pi / rows)
        return _Loaded(
            coefficients=torch.where(single, coefficients, coefficients / 2)[:, None],
            rows=torch.where(beyond, -row, row)[:, None],
            columns=column,
            roots=torch.polar(torch.ones_like(turns), turns),
            width=columns,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loaded:
    """Half of a spectrum in memory; ``roots`` are the complex roots of unity of order ``out``."""

    coefficients: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    roots: torch.Tensor
    width: int

    def apply(self, weight: torch.Tensor, _base: torch.Tensor, at: Block, scale: float) -> None:
        rows = torch.arange(at.rows.start, at.rows.stop, device=weight.device)
        lines = torch.zeros(self.width // 2 + 1, len(rows), dtype=torch.complex128, device=weight.device)
        step = max(1, _TERMS // max(1, len(rows)))
        for start in range(0, len(self.columns), step):
            some = slice(start, start + step)
            terms = self.roots[self.rows[some] * rows % len(self.roots)] * self.coefficients[some]
            lines.index_add_(0, self.columns[some], terms)
        weight.add_(torch.fft.irfft(lines, n=self.width, dim=0).T[:, at.columns], alpha=scale)


def first_of_permutation(seed: int, size: int, count: int) -> torch.Tensor:
    """The first elements of ``torch.randperm(size)`` on the CPU, without the memory of all of them.

    Args:
        seed: Of the generator.
        size: How many numbers are permuted.
        count: How many are wanted.

    Returns:
        int64, shape ``[count]``.
    """
    generator = torch.Generator().manual_seed(seed)
    if size >= _SMALL or count * _SHARE > size:
        return torch.randperm(size, generator=generator)[:count]
    # Fisher and Yates' shuffle from the front: what comes first is settled by as many 32-bit draws.
    pairs = torch.empty((count + 1) // 2, dtype=torch.int64).random_(-(2**63), None, generator=generator).tolist()
    draws = [half for pair in pairs for half in ((pair >> 32) & 0xFFFFFFFF, pair & 0xFFFFFFFF)]
    moved: dict[int, int] = {}
    found = []
    for place, draw in enumerate(draws[:count]):
        other = place + draw % (size - place)
        found.append(moved.get(other, other))
        moved[other] = moved.get(place, place)
    return torch.tensor(found, dtype=torch.int64)


def _effects(subject: Subject) -> Mapping[str, Effect]:
    config, (rows, columns) = subject.config, subject.shape
    coefficients = subject.stored("fourierft_spectrum", _count(subject))
    effect = _SparseSpectrum(
        coefficients=coefficients,
        seed=config.seed("random_loc_seed", default=777),
        shape=(rows, columns),
        scale=config.number("scaling", default=150.0),
    )
    return {"weight": effect}


def _count(subject: Subject) -> int:
    """How many coefficients a module has: as many as are stored, if the configuration says so of any module.

    PEFT matches these patterns by a rule of their own, so which one it took is left to the tensor.
    """
    config, (rows, columns) = subject.config, subject.shape
    table = config.values.get("n_frequency_pattern") or {}
    if not isinstance(table, dict):
        raise config.refused("n_frequency_pattern is not a table", "save the adapter again")
    stored = subject.stored("fourierft_spectrum").info.shape
    said = config.count("n_frequency", default=1000)
    count = stored[0] if len(stored) == 1 and stored[0] in table.values() else said
    if count > rows * columns:
        problem = f"holds {count} coefficients, {subject.module} is [{rows}, {columns}]"
        raise subject.refused("fourierft_spectrum", problem, "fold it into the model that it was trained on")
    return count


FOURIERFT = Method(
    leaves=frozenset({"fourierft_spectrum"}),
    effects=_effects,
    on_embeddings=False,
    read=frozenset({"fan_in_fan_out", "n_frequency", "n_frequency_pattern", "random_loc_seed", "scaling"}),
    silent=frozenset({"init_weights"}),
)
