"""Factors: the nearest of their rank, however the singular values lie; what is stated as lost is what is lost."""

from __future__ import annotations

import pytest
import torch

from builder.weights.low_rank import EXACT, Cut, Factors, Pair, concatenate, cut_matrix, cut_product, decompose

ROUNDING = 1e-7  # what float32 factors lose, relative to the matrix


def spectrum(values: torch.Tensor, rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """A matrix with these singular values, float64."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (
        torch.linalg.qr(torch.randn(side, len(values), dtype=torch.float64, generator=generator)).Q
        for side in (rows, columns)
    )
    return (left * values) @ right.T


def product(pair: Pair) -> torch.Tensor:
    return pair.up.double() @ pair.down.double()


def best(matrix: torch.Tensor, rank: int) -> float:
    """What the nearest matrix of a rank loses, by LAPACK's own decomposition."""
    return float(torch.linalg.svdvals(matrix)[rank:].norm())


SPECTRA = {
    "flat": torch.ones(20),
    "decaying": torch.logspace(0, -6, 20),
    "steep": torch.logspace(0, -14, 20),
    "one large": torch.tensor([1.0, *[1e-5] * 19]),
    "two scales": torch.tensor([1.0] * 5 + [1e-7] * 5),
    "small": torch.logspace(-30, -33, 20),
    "large": torch.logspace(30, 27, 20),
}


@pytest.mark.parametrize("cut", [Cut(rank=1), Cut(rank=7), Cut(energy=0.5), Cut(energy=0.999), Cut(energy=1.0), EXACT])
@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (20, 20)])
@pytest.mark.parametrize("values", SPECTRA.values(), ids=SPECTRA)
def test_no_matrix_of_that_rank_is_nearer(values: torch.Tensor, shape: tuple[int, int], cut: Cut) -> None:
    matrix = spectrum(values.double(), *shape)
    size = float(matrix.norm())
    pair = cut_matrix(matrix.clone(), cut)
    lost = float((matrix - product(pair)).norm())
    assert pair.up.dtype == pair.down.dtype == torch.float32
    assert lost <= best(matrix, pair.rank) + ROUNDING * size
    assert pair.error == pytest.approx(lost, rel=1e-6, abs=1e-15 * size)
    assert pair.size == pytest.approx(size, rel=1e-12)
    if cut.rank is not None:
        assert pair.rank == min(cut.rank, int((values > values[0] * 2.0**-32).sum()))


def test_values_of_every_size_are_seen_in_passes() -> None:
    """A Gram matrix alone would show none below 1e-8 of the greatest."""
    values = torch.tensor([1.0, 1e-3, 1e-6, 3e-9, 1e-9], dtype=torch.float64)
    assert cut_matrix(spectrum(values, 30, 50), EXACT).rank == 5
    found = decompose(spectrum(values, 30, 50))
    sizes = torch.linalg.vector_norm(found.up, dim=0) * torch.linalg.vector_norm(found.down, dim=1)
    assert sizes.tolist() == pytest.approx(values.tolist(), rel=1e-4)


@pytest.mark.parametrize("cut", [EXACT, Cut(rank=3), Cut(energy=0.9)])
def test_a_matrix_of_nothing_has_no_factors(cut: Cut) -> None:
    pair = cut_matrix(torch.zeros(5, 4, dtype=torch.float64), cut)
    assert (pair.rank, pair.up.shape, pair.down.shape, pair.error) == (0, (5, 0), (0, 4), 0.0)


@pytest.mark.parametrize("cut", [EXACT, Cut(rank=4), Cut(energy=0.9)])
def test_a_product_is_cut_as_the_matrix_that_it_makes(cut: Cut) -> None:
    generator = torch.Generator().manual_seed(1)
    up, down = (torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((30, 9), (9, 50)))
    by_factors, by_matrix = cut_product(Factors(up=up, down=down), cut), cut_matrix(up @ down, cut)
    assert by_factors.rank == by_matrix.rank
    assert torch.allclose(product(by_factors), product(by_matrix), atol=1e-5, rtol=0)
    assert by_factors.error == pytest.approx(float((up @ down - product(by_factors)).norm()), rel=1e-6)
    assert by_factors.size == pytest.approx(float((up @ down).norm()), rel=1e-12)


def test_a_product_may_have_more_columns_than_its_matrix() -> None:
    up, down = torch.ones(3, 8, dtype=torch.float64), torch.ones(8, 4, dtype=torch.float64)
    pair = cut_product(Factors(up=up, down=down), EXACT)
    assert pair.rank == 1
    assert torch.allclose(product(pair), up @ down, atol=1e-6)


def test_factors_side_by_side_lose_nothing_that_float32_holds() -> None:
    generator = torch.Generator().manual_seed(2)
    drawn = [torch.randn(*shape, generator=generator).double() for shape in ((6, 2), (2, 5), (6, 3), (3, 5))]
    parts = [Factors(up=drawn[0] * 0.25, down=drawn[1]), Factors(up=drawn[2] * -2, down=drawn[3])]
    pair = concatenate(parts)
    assert torch.equal(pair.up.double(), torch.cat([0.25 * drawn[0], -2 * drawn[2]], 1))
    assert torch.equal(pair.down.double(), torch.cat([drawn[1], drawn[3]]))
    assert (pair.rank, pair.error) == (5, 0.0)


def test_factors_side_by_side_state_what_rounding_loses() -> None:
    generator = torch.Generator().manual_seed(3)
    up, down = (torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((6, 2), (2, 5)))
    pair = concatenate([Factors(up=up, down=down)])
    lost = float((up @ down - product(pair)).norm())
    assert 0 < lost < ROUNDING * pair.size
    assert pair.error == pytest.approx(lost, rel=1e-6)


def test_both_factors_have_their_share_of_the_size_and_one_sign() -> None:
    values = torch.tensor([1e6, 1.0, 1e-3], dtype=torch.float64)
    pair = cut_matrix(spectrum(values, 12, 9), EXACT)
    assert torch.linalg.vector_norm(pair.up, dim=0).tolist() == pytest.approx(values.sqrt().tolist(), rel=1e-5)
    assert torch.linalg.vector_norm(pair.down, dim=1).tolist() == pytest.approx(values.sqrt().tolist(), rel=1e-5)
    for column in pair.up.T:
        assert column[column.abs().argmax()] > 0


def test_the_same_matrix_gives_the_same_bits() -> None:
    matrix = spectrum(torch.logspace(0, -3, 16, dtype=torch.float64), 40, 24)
    first, second = cut_matrix(matrix.clone(), Cut(rank=5)), cut_matrix(matrix.clone(), Cut(rank=5))
    assert torch.equal(first.up, second.up)
    assert torch.equal(first.down, second.down)
