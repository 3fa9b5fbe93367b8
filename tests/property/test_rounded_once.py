"""Every element is the exact result, rounded once: whole stages against rational numbers, for any shape, block, thread.

The numbers are such that float64 holds every sum exactly, in any order. Many results lie half-way between two of the
output's dtype, where they must go to the even one; or so close to half-way that a rounding on the way would show.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from builder.weights.blend import operands
from builder.weights.dtypes import TORCH_DTYPES
from builder.weights.folder import read_model
from builder.weights.stream import CPU, Scratch
from registry.artifact import LISTING, Artifact
from tests.staged import inputs_of, node_of, run_node
from tests.workshop import Workshop

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

EMBEDDING, QUERY = "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"
DOWN, NORM = "model.layers.1.mlp.down_proj.weight", "model.norm.weight"
NAMES: Final = (EMBEDDING, QUERY, DOWN, NORM)
FORMATS: Final = {"BF16": (8, -126), "F16": (11, -14), "F32": (24, -126)}  # bits of precision, lowest exponent
DTYPES: Final = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
LETTERS: Final = "abcdef"

Exact = list[Fraction]
RANKS: Final = st.integers(1, 4)
SEEDS: Final = st.integers(0, 2**31)


@pytest.fixture(autouse=True, scope="module")
def _no_waiting() -> Iterator[None]:
    """For the disk: thousands of tiny files, and none is kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


def nearest(value: Fraction, dtype: str) -> Fraction:
    """The nearest number of a dtype, of two the even one; written down without any float."""
    if not value:
        return value
    bits, lowest = FORMATS[dtype]
    size = abs(value)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= size < Fraction(2) ** exponent
    step = Fraction(2) ** (max(exponent, lowest) - bits + 1)
    return round(value / step) * step


def exact(tensor: torch.Tensor) -> Exact:
    return [Fraction(one) for one in tensor.double().reshape(-1).tolist()]


def made_tensor(seed: int, shape: tuple[int, ...], dtype: str, scale: int, spread: int = 4) -> torch.Tensor:
    """Numbers that the dtype has, of few bits: whole ones up to 127 times a power of two."""
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randint(-127, 128, shape, generator=generator).double()
    powers = torch.randint(-4, spread + 1, shape, generator=generator).double()
    made = whole * torch.exp2(powers + scale)
    assert torch.equal(made.to(TORCH_DTYPES[dtype]).double(), made)
    return made.to(TORCH_DTYPES[dtype])


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """Models of one shape and dtype, in several shards.

    Attributes:
        models: Their tensors; no two models are alike.
        dtype: Of all tensors.
        scale: Power of two of the numbers; -3, or so low that many results are subnormal.
    """

    models: list[dict[str, torch.Tensor]]
    dtype: str
    scale: int

    @property
    def tiny(self) -> bool:
        return self.scale < -3


@st.composite
def drawn(draw: st.DrawFn, count: int) -> Drawn:
    dtype, tiny = draw(st.sampled_from([*FORMATS])), draw(st.booleans())
    scale = {"F16": -12, "BF16": -129, "F32": -140}[dtype] if tiny else -3
    sizes = st.integers(1, 9)
    shapes: dict[str, tuple[int, ...]] = {name: (draw(sizes), draw(sizes)) for name in (QUERY, DOWN)}
    shapes |= {EMBEDDING: (len(LETTERS), draw(sizes)), NORM: (draw(sizes),)}
    seed = draw(st.integers(0, 2**31))
    models = [
        {name: made_tensor(seed + 10 * model + place, shapes[name], dtype, scale) for place, name in enumerate(NAMES)}
        for model in range(count)
    ]
    return Drawn(models=models, dtype=dtype, scale=scale)


@st.composite
def machines(draw: st.DrawFn) -> dict[str, int]:
    """What must not matter."""
    return {
        "threads": draw(st.integers(1, 4)),
        "block_bytes": draw(st.sampled_from([1, 7, 48, 100, 1 << 20])),
        "tile": draw(st.sampled_from([1, 5, 1 << 17])),
    }


class Place:
    """A folder in which models are made and a stage is run."""

    def __init__(self, folder: str) -> None:
        self.shop = Workshop(root=Path(folder))
        self.folders: dict[str, Path] = {}

    def model(self, name: str, tensors: Mapping[str, torch.Tensor], **config: object) -> None:
        self.folders[name] = self.shop.model(tensors, vocab_size=len(LETTERS), **config)

    def words(self, name: str) -> None:
        """Give a model a tokenizer of letters."""
        parts = dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "decoder"))
        vocabulary = {letter: number for number, letter in enumerate(LETTERS)}
        table = {"added_tokens": [], **parts, "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}
        folder = self.folders[name]
        (folder / LISTING).unlink()
        (folder / "tokenizer.json").write_text(json.dumps(table))
        Artifact.from_folder(folder, "model").write(folder)

    def run(self, stage: Mapping[str, Any], machine: Mapping[str, int]) -> dict[str, torch.Tensor]:
        """The tensors that the stage makes."""
        adapters = [name for name in self.folders if name in stage.get("adapters", {})]
        node = node_of(stage, models=self.folders.keys() - {"base", *adapters}, adapters=adapters)
        out = self.shop.folder() / "out"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(operands, "TILE", machine["tile"])
            patch.setattr(Scratch.__init__, "__defaults__", (machine["block_bytes"], CPU))
            outcome = run_node(node, inputs_of(node, self.folders), out, threads=machine["threads"])
        Artifact.from_folder(out, outcome.type, outcome.written).verify_folder(out)
        return {name: stored.load() for name, stored in read_model(out).tensors.items()}


def assert_rounded(found: torch.Tensor, expected: Exact, dtype: str) -> None:
    assert found.dtype == TORCH_DTYPES[dtype]
    assert exact(found) == [nearest(one, dtype) for one in expected]


def weighted(tensors: Sequence[torch.Tensor], weights: Sequence[Fraction]) -> Exact:
    rows = [exact(one) for one in tensors]
    return [
        sum((weight * one for weight, one in zip(weights, some, strict=True)), Fraction())
        for some in zip(*rows, strict=True)
    ]


PROPERTY: Final = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # what is found is small; to make it smaller takes minutes
)
FACTORS: Final = st.sampled_from([Fraction(1), Fraction(1, 2), Fraction(1, 4), Fraction(-3, 8), Fraction(3)])
NUDGE: Final = Fraction(1, 2**30)  # beyond what float32 holds, within what float64 does

# Powers of two of two adapters' factors: their product reaches half of the last place, or far below it.
SCALES: Final = {
    ("BF16", False): (-2, -18),
    ("F16", False): (-3, -18),
    ("F32", False): (-8, -20),
    ("BF16", True): (-67, -80),
    ("F16", True): (-12, -22),
    ("F32", True): (-74, -80),
}


@PROPERTY
@given(
    some=drawn(1), machine=machines(), weights=st.tuples(FACTORS, FACTORS), ranks=st.tuples(RANKS, RANKS), seed=SEEDS
)
def test_a_fold_is_the_sum(
    *,
    some: Drawn,
    machine: dict[str, int],
    weights: tuple[Fraction, Fraction],
    ranks: tuple[int, int],
    seed: int,
) -> None:
    """Of the base and the products of two adapters' factors, each with its scale and its weight."""
    (base,) = some.models
    generator = torch.Generator().manual_seed(seed)
    expected = {name: exact(tensor) for name, tensor in base.items()}
    names = ("tone", "voice")
    with tempfile.TemporaryDirectory() as folder:
        place = Place(folder)
        place.model("base", base)
        for name, weight, rank, scale in zip(names, weights, ranks, SCALES[some.dtype, some.tiny], strict=True):
            factors = {}
            for target in (QUERY, DOWN):
                rows, columns = base[target].shape
                down = torch.randint(-7, 8, (rank, columns), generator=generator).float() * 2.0**scale
                up = torch.randint(-7, 8, (rows, rank), generator=generator).float() * 2.0**scale
                module = f"base_model.model.{target.removesuffix('.weight')}"
                factors |= {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}
                product = exact(up.double() @ down.double())
                expected[target] = [
                    one + 2 * weight * more for one, more in zip(expected[target], product, strict=True)
                ]
            place.folders[name] = place.shop.adapter(place.folders["base"], factors, r=rank, lora_alpha=2 * rank)
        stage = {"kind": "fold", "from": "base", "adapters": dict(zip(names, map(float, weights), strict=True))}
        found = place.run(stage, machine)
    for name in NAMES:
        assert_rounded(found[name], expected[name], some.dtype)


@PROPERTY
@given(
    some=drawn(3),
    machine=machines(),
    weights=st.tuples(FACTORS, FACTORS, FACTORS),
    nudge=st.sampled_from([Fraction(), NUDGE, -NUDGE]),
    opposed=st.booleans(),
    out=st.sampled_from([*DTYPES]),
)
def test_a_blend_is_its_formula(
    *,
    some: Drawn,
    machine: dict[str, int],
    weights: tuple[Fraction, Fraction, Fraction],
    nudge: Fraction,
    opposed: bool,
    out: str,
) -> None:
    """Of the methods that are sums and choices; `test_blended.py` has every method, to the last bits of float64."""
    base, one, two = some.models
    first, second, factor = weights[0] + nudge, weights[1], weights[2]
    if opposed:  # so that many steps are each other's opposite, and their sum has no sign
        second = -first
        two = {name: torch.where(one[name].abs() > one[name].abs().mean(), one[name], two[name]) for name in NAMES}
    with tempfile.TemporaryDirectory() as folder:
        place = Place(folder)
        for name, tensors in (("base", base), ("one", one), ("two", two)):
            place.model(name, tensors)
        stage = {"kind": "blend", "models": {"one": float(first), "two": float(second)}, "dtype": DTYPES[out]}
        sums = place.run(stage | {"method": "linear", "settings": {"normalize": False}}, machine)
        means = place.run(stage | {"method": "linear", "models": {"one": 0.75, "two": 0.25}}, machine)
        scaled = place.run(stage | {"method": "passthrough", "models": {"one": float(first)}}, machine)
        tasks = {"against": "base", "settings": {"lambda": float(factor), "normalize": False}}
        added = place.run(stage | {"method": "task_arithmetic"} | tasks, machine)
        elected = place.run(stage | {"method": "ties"} | tasks, machine)
    for name in NAMES:
        assert_rounded(sums[name], weighted((one[name], two[name]), (first, second)), out)
        assert_rounded(means[name], weighted((one[name], two[name]), (Fraction(3, 4), Fraction(1, 4))), out)
        assert_rounded(scaled[name], weighted((one[name],), (first,)), out)
        start = exact(base[name])
        steps = [first * (end - s) for end, s in zip(exact(one[name]), start, strict=True)]
        others = [second * (end - s) for end, s in zip(exact(two[name]), start, strict=True)]
        pairs = list(zip(start, steps, others, strict=True))
        assert_rounded(added[name], [s + factor * (a + b) for s, a, b in pairs], out)
        assert_rounded(elected[name], [s + factor * agreed(a, b) for s, a, b in pairs], out)


def agreed(one: Fraction, other: Fraction) -> Fraction:
    """The sum of what has the sign of the sum; of nothing the sign is plus."""
    sign = 1 if one + other >= 0 else -1
    return sum((step for step in (one, other) if step * sign > 0), Fraction())


@PROPERTY
@given(some=drawn(1), machine=machines(), dtype=st.sampled_from([*DTYPES]), double=st.booleans(), seed=SEEDS)
def test_a_cast_is_the_nearest_number(
    *, some: Drawn, machine: dict[str, int], dtype: str, double: bool, seed: int
) -> None:
    """Also of float64 so close to half-way that a way over float32 would round twice."""
    (base,) = some.models
    if double:
        held = made_tensor(seed, tuple(base[QUERY].shape), "F64", -130 if some.tiny and dtype == "BF16" else -12)
        generator = torch.Generator().manual_seed(seed)
        half = torch.exp2(torch.frexp(held).exponent.double() - 1 - FORMATS[dtype][0])
        nudge = torch.randint(-1, 2, held.shape, generator=generator).double() * 2.0**-20
        base = base | {QUERY: held + half * (1 + nudge)}
    with tempfile.TemporaryDirectory() as folder:
        place = Place(folder)
        place.model("base", base)
        found = place.run({"kind": "cast", "from": "base", "dtype": DTYPES[dtype]}, machine)
    for name in NAMES:
        assert_rounded(found[name], exact(base[name]), dtype)


@PROPERTY
@given(
    some=drawn(1),
    machine=machines(),
    start=st.sampled_from(["pieces", "mean", "zero"]),
    tokens=st.lists(st.text(LETTERS, min_size=2, max_size=6), min_size=1, max_size=4, unique=True),
    multiple=st.sampled_from([1, 4, 16]),
    seed=SEEDS,
)
def test_new_rows_are_means(
    *, some: Drawn, machine: dict[str, int], start: str, tokens: list[str], multiple: int, seed: int
) -> None:
    (base,) = some.models
    spread = 12 if some.dtype == "F16" else 24
    base = base | {EMBEDDING: made_tensor(seed, tuple(base[EMBEDDING].shape), some.dtype, some.scale, spread)}
    with tempfile.TemporaryDirectory() as folder:
        place = Place(folder)
        place.model("base", base, tie_word_embeddings=True)
        place.words("base")
        vocabulary = {"tokens": tokens, "start": start, "multiple": multiple}
        found = place.run({"kind": "graft", "from": "base", "vocabulary": vocabulary, "untie": True}, machine)
    rows = [exact(row) for row in base[EMBEDDING]]
    mean = mean_of(rows)
    expected = [*rows]
    for token in tokens:
        pieces = mean_of([rows[LETTERS.index(letter)] for letter in token])
        expected.append({"pieces": pieces, "mean": mean, "zero": [Fraction()] * len(mean)}[start])
    expected += [mean] * (-len(expected) % multiple)
    for name in (EMBEDDING, "lm_head.weight"):
        assert found[name].shape == (len(expected), len(mean))
        assert_rounded(found[name], [one for row in expected for one in row], some.dtype)
    for name in (QUERY, DOWN, NORM):
        assert torch.equal(found[name], base[name])


def mean_of(rows: Sequence[Exact]) -> Exact:
    return [sum(column, Fraction()) / len(rows) for column in zip(*rows, strict=True)]


@PROPERTY
@given(
    machine=machines(),
    shape=st.tuples(st.integers(2, 9), st.integers(1, 9)),
    length=st.integers(1, 30),
    dtype=st.sampled_from([*FORMATS]),
    seed=SEEDS,
)
def test_positions_are_interpolated(
    *, machine: dict[str, int], shape: tuple[int, int], length: int, dtype: str, seed: int
) -> None:
    table, (rows, width) = made_tensor(seed, shape, dtype, -3), shape
    assume(length != rows)  # that changes nothing, and is refused
    with tempfile.TemporaryDirectory() as folder:
        place = Place(folder)
        words = torch.zeros(len(LETTERS), width, dtype=table.dtype)
        place.model("base", {"wte.weight": words, "wpe.weight": table}, model_type="gpt2", n_positions=rows, n_ctx=rows)
        found = place.run({"kind": "graft", "from": "base", "context": length}, machine)["wpe.weight"]
    old = [exact(row) for row in table]
    expected: Exact = []
    for row in range(length):
        place_ = Fraction(row * (rows - 1), length - 1) if length > rows else Fraction(row)
        lower = min(int(place_), rows - 1)
        upper, share = min(lower + 1, rows - 1), place_ - lower
        expected += [(1 - share) * a + share * b for a, b in zip(old[lower], old[upper], strict=True)]
    assert_rounded(found, expected, dtype)
