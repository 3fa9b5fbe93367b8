"""Deltas joined: sums, and thinned sums as ``blend`` makes them of task vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from builder.weights.effect import Applied
from builder.weights.folder import read_model
from builder.weights.joined import Joining, JoinMethod, Term, join_deltas
from builder.weights.low_rank import EXACT, Cut
from builder.weights.methods.lora import LowRank, WeightDecomposed
from builder.weights.stream import CPU, Stored
from registry.digest import Digest
from registry.safetensors import TensorSpec, Writer, read_header
from tests.workshop import Workshop

if TYPE_CHECKING:
    from pathlib import Path

    from builder.weights.effect import Effect
    from builder.weights.low_rank import Pair

ROWS, COLUMNS = 10, 14


@pytest.fixture
def base(tmp_path: Path) -> Stored:
    """A weight, float32."""
    return store(tmp_path / "base.safetensors", torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0)))


def store(path: Path, tensor: torch.Tensor) -> Stored:
    with Writer(path, [TensorSpec(name="t", dtype="F32", shape=tuple(tensor.shape))], {}) as writer:
        writer.write(tensor.contiguous().numpy().tobytes())
        writer.finish()
    return Stored(path=path, info=read_header(path).tensors["t"])


def low_rank(folder: Path, seed: int, *, rank: int = 2, rows: int = ROWS, columns: int = COLUMNS) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    up, down = (torch.randn(*shape, generator=generator) for shape in ((rows, rank), (rank, columns)))
    return LowRank(down=store(folder / f"down-{seed}", down), up=store(folder / f"up-{seed}", up), scale=0.75)


def delta(effect: LowRank) -> torch.Tensor:
    return effect.scale * effect.up.load().double() @ effect.down.load().double()


def term(effect: Effect, scale: float, *, digit: str = "0", transposed: bool = False) -> Term:
    applied = Applied(effect=effect, scale=scale, transposed=transposed)
    return Term(applied=applied, weights_digest=Digest(digit * 64))


def join(
    terms: list[Term], base: Stored, method: JoinMethod, *, cut: Cut = EXACT, density: float = 1, seed: int = 0
) -> Pair:
    joining = Joining(method=method, cut=cut, density=density, seed=seed)
    return join_deltas(terms, base, joining, CPU, base.path.parent)


def product(pair: Pair) -> torch.Tensor:
    return pair.up.double() @ pair.down.double()


def is_close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return float((found - expected).norm()) < 2e-7 * float(expected.norm())


@pytest.mark.parametrize("method", ["concat", "linear"])
def test_a_sum_is_weighted(tmp_path: Path, base: Stored, method: JoinMethod) -> None:
    one, two = low_rank(tmp_path, 1), low_rank(tmp_path, 2, rank=3)
    pair = join([term(one, 0.3), term(two, -1.7)], base, method)
    assert pair.rank == 5
    assert pair.portable == (method == "concat")
    assert is_close(product(pair), 0.3 * delta(one) - 1.7 * delta(two))


def test_what_cancels_leaves_no_direction(tmp_path: Path, base: Stored) -> None:
    one, two = low_rank(tmp_path, 1), low_rank(tmp_path, 2)
    dora = WeightDecomposed(product=two, magnitude=store(tmp_path / "sizes", torch.ones(ROWS)))
    assert join([term(one, 1.0), term(one, -1.0)], base, "linear").rank == 0
    assert join([term(dora, 0.7), term(dora, -0.7)], base, "linear").rank == 0
    pair = join([term(one, 1.0), term(two, 1.0), term(one, -1.0)], base, "linear")
    assert pair.rank == 2
    assert is_close(product(pair), delta(two))


def test_a_delta_that_is_no_sum_is_what_it_makes_of_the_base(tmp_path: Path, base: Stored) -> None:
    plain, inner = low_rank(tmp_path, 1), low_rank(tmp_path, 2)
    sizes = torch.rand(ROWS, generator=torch.Generator().manual_seed(3)) + 1
    dora = WeightDecomposed(product=inner, magnitude=store(tmp_path / "sizes", sizes))
    pair = join([term(plain, 2.0), term(dora, 0.5)], base, "linear")
    weight = base.load().double()
    directed = weight + delta(inner)
    made = directed * (sizes.double() / directed.norm(dim=1))[:, None]
    assert is_close(product(pair), 2.0 * delta(plain) + 0.5 * (made - weight))


def test_a_weight_that_the_file_has_transposed_is_seen_as_the_module_does(tmp_path: Path) -> None:
    turned = store(tmp_path / "turned", torch.randn(COLUMNS, ROWS))
    one = low_rank(tmp_path, 1)
    for method in ("concat", "linear", "ties"):
        pair = join([term(one, 1.0, transposed=True)], turned, method)
        assert is_close(product(pair), delta(one)), method


def ties(deltas: list[torch.Tensor], weights: list[float], density: float) -> torch.Tensor:
    """TIES by the paper, with weighted votes: trim, elect signs, average those that agree."""
    trimmed = []
    for one in deltas:
        kept = int(density * one.numel())
        threshold = one.abs().flatten().sort(descending=True).values[kept - 1]
        trimmed.append(torch.where(one.abs() >= threshold, one, 0.0))
    weighted = [weight * one for weight, one in zip(weights, trimmed, strict=True)]
    sign = torch.stack(weighted).sum(0).sign()
    agree = [(one.sign() == sign) & (one != 0) for one in weighted]
    total = sum(torch.where(mask, one, 0.0) for mask, one in zip(agree, weighted, strict=True))
    divisor = sum(weight * mask.double() for weight, mask in zip(weights, agree, strict=True))
    return torch.where(torch.as_tensor(divisor) > 0, torch.as_tensor(total) / torch.as_tensor(divisor), 0.0)


def test_ties_is_that_of_the_deltas(tmp_path: Path, base: Stored) -> None:
    effects = [low_rank(tmp_path, seed) for seed in (1, 2, 3)]
    weights = [0.5, 1.0, 0.25]
    terms = [
        term(effect, weight, digit=str(place))
        for place, (effect, weight) in enumerate(zip(effects, weights, strict=True))
    ]
    pair = join(terms, base, "ties", density=0.4)
    assert is_close(product(pair), ties([delta(effect) for effect in effects], weights, 0.4))


def test_dare_keeps_elements_by_chance_and_their_sizes_in_all(tmp_path: Path, base: Stored) -> None:
    one = low_rank(tmp_path, 1)
    whole, kept = delta(one), product(join([term(one, 1.0)], base, "dare_linear", density=0.5, seed=3))
    ratios = kept / whole
    factor = float(ratios.max())
    assert factor > 1
    assert bool(((ratios.abs() < 1e-3) | ((ratios / factor - 1).abs() < 1e-3)).all())
    assert 0.3 < float((ratios > 1).double().mean()) < 0.7
    assert float(kept.abs().sum()) == pytest.approx(float(whole.abs().sum()), rel=1e-5)


def test_what_is_drawn_depends_on_seed_and_adapter_only(tmp_path: Path, base: Stored) -> None:
    one = low_rank(tmp_path, 1)

    def drawn(seed: int, digit: str) -> torch.Tensor:
        return product(join([term(one, 1.0, digit=digit)], base, "dare_linear", density=0.5, seed=seed))

    assert torch.equal(drawn(1, "a"), drawn(1, "a"))
    assert not is_close(drawn(2, "a"), drawn(1, "a"))
    assert not is_close(drawn(1, "b"), drawn(1, "a"))


def test_at_density_one_dare_is_the_sum(tmp_path: Path, base: Stored) -> None:
    one, two = low_rank(tmp_path, 1), low_rank(tmp_path, 2)
    pair = join([term(one, 0.5), term(two, 0.25, digit="1")], base, "dare_linear")
    assert is_close(product(pair), 0.5 * delta(one) + 0.25 * delta(two))


def test_a_cut_holds_for_every_method(tmp_path: Path, base: Stored) -> None:
    one, two = low_rank(tmp_path, 1), low_rank(tmp_path, 2)
    terms = [term(one, 0.5), term(two, 0.25, digit="1")]
    for method in ("linear", "ties", "dare_linear", "dare_ties"):
        assert join(terms, base, method, cut=Cut(rank=3), density=1).rank == 3, method


def test_a_model_folder_gives_the_base(tmp_path: Path) -> None:
    """The weight's own dtype does not matter: bfloat16 is read as it is."""
    shop = Workshop(root=tmp_path)
    weight = read_model(shop.model()).tensors["model.layers.0.self_attn.q_proj.weight"]
    one = low_rank(tmp_path, 1, rows=8, columns=8)
    assert is_close(product(join([term(one, 1.0)], weight, "ties")), delta(one))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("method", ["ties", "dare_linear"])
def test_deltas_on_disk_give_the_same_bytes_and_leave_nothing(
    tmp_path: Path, base: Stored, monkeypatch: pytest.MonkeyPatch, method: JoinMethod, *, transposed: bool
) -> None:
    rows, columns = (COLUMNS, ROWS) if transposed else (ROWS, COLUMNS)
    effects = [low_rank(tmp_path, seed, rows=rows, columns=columns) for seed in (1, 2, 3)]
    terms = [term(effect, 0.5, digit=str(place), transposed=transposed) for place, effect in enumerate(effects)]
    before = {path.name for path in tmp_path.iterdir()}
    held = join(terms, base, method, cut=Cut(rank=2), density=0.4)
    monkeypatch.setattr("builder.weights.joined._HELD_BYTES", 0)
    spooled = join(terms, base, method, cut=Cut(rank=2), density=0.4)
    assert torch.equal(held.up, spooled.up)
    assert torch.equal(held.down, spooled.down)
    assert {path.name for path in tmp_path.iterdir()} == before
