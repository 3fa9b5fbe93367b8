"""Every method against its formula written down for whole tensors; the laws of blending; what is refused."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.blend_methods import BLEND_METHODS
from builder.weights.blend import operands
from builder.weights.blend.draws import WORDS, Draws
from builder.weights.dtypes import TORCH_DTYPES
from builder.weights.rounding import round_once
from builder.weights.stream import Scratch
from registry.digest import digest_bytes
from registry.errors import InvalidError
from registry.safetensors import TensorSpec
from tests.blending import NAME, blend, blended, bytes_of, ingredient, recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

METHODS: Final = sorted(BLEND_METHODS.keys() - {"passthrough"})
SEED: Final = 11

# ---- the formulas, each for whole tensors in float64, as plainly as they can be written


def linear(models: list[torch.Tensor], _base: object, said: dict[str, Any]) -> torch.Tensor:
    total = sum((weight * model for weight, model in zip(said["weight"], models, strict=True)), torch.tensor(0.0))
    return total / sum(said["weight"]) if said["normalize"] else total


def slerp(models: list[torch.Tensor], base: torch.Tensor, said: dict[str, Any]) -> torch.Tensor:
    cosine = float((base * models[0]).sum() / base.norm() / models[0].norm())
    return arc(base, models[0], cosine, said["t"], parallel=0.9995)


def arc(one: torch.Tensor, other: torch.Tensor, cosine: float, t: float, *, parallel: float) -> torch.Tensor:
    if abs(cosine) > parallel:
        return (1 - t) * one + t * other
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    return (math.sin((1 - t) * angle) * one + math.sin(t * angle) * other) / math.sin(angle)


def nuslerp(models: list[torch.Tensor], base: torch.Tensor, said: dict[str, Any]) -> torch.Tensor:
    first, second = (model - base for model in models)
    t = said["weight"][1] / sum(said["weight"])
    pairs = [(first, second)]
    if said["row_wise"]:
        rows = [one.reshape(-1, one.shape[-1] if one.dim() else 1) for one in (first, second)]
        pairs = list(zip(*rows, strict=True))
    parts = []
    for one, other in pairs:
        lengths = [max(float(part.norm()), 1e-7) for part in (one, other)]
        parts.append(arc(one, other, float((one * other).sum()) / lengths[0] / lengths[1], t, parallel=1 - 1e-15))
    return base + torch.cat([part.reshape(-1) for part in parts]).view(base.shape)


def multislerp(models: list[torch.Tensor], base: torch.Tensor, said: dict[str, Any]) -> torch.Tensor:
    """As its author has it, with the step in the tangent space."""
    weights = torch.tensor(said["weight"], dtype=torch.float64)
    weights = weights / weights.sum() if said["normalize"] else weights
    flat = torch.stack([(model - base).reshape(-1) for model in models])
    lengths = flat.norm(dim=1, keepdim=True)
    units = flat / (lengths + 1e-8)
    mean = (units * weights[:, None]).sum(0)
    mean = mean / mean.norm()
    tangents = units - (units * mean).sum(1, keepdim=True) * mean
    step = (tangents * weights[:, None]).sum(0)
    angle = step.norm() + 1e-8
    result = mean * torch.cos(angle) + step * torch.sin(angle) / angle
    return base + (result * (lengths[:, 0] * weights).sum()).view(base.shape)


def karcher(models: list[torch.Tensor], _base: object, said: dict[str, Any]) -> torch.Tensor:
    flat = [model.reshape(-1) for model in models]
    units = [one / one.norm() for one in flat]
    mean = sum(units) / len(units)
    mean = mean / mean.norm()
    for _ in range(said["steps"]):
        step = torch.zeros_like(mean)
        for unit in units:
            cosine = float((mean * unit).sum().clamp(-1, 1))
            angle = math.acos(cosine)
            if angle >= said["tolerance"]:
                step += angle / math.sin(angle) * (unit - cosine * mean) / len(units)
        length = float(step.norm())
        if length < said["tolerance"]:
            break
        mean = math.cos(length) * mean + math.sin(length) * step / length
        mean = mean / mean.norm()
    return (mean * sum(one.norm() for one in flat) / len(flat)).view(models[0].shape)


def elected(votes: list[torch.Tensor], amounts: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The sum of the amounts that agree, and who does."""
    sign = torch.where(sum(votes) >= 0, 1.0, -1.0).double()
    agree = [(vote.sign() == sign).double() for vote in votes]
    return sum(amount * one for amount, one in zip(amounts, agree, strict=True)), agree


def largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """A mask of the largest magnitudes; of equal ones, those that come first."""
    mask = torch.zeros(values.numel(), dtype=torch.float64)
    mask[torch.sort(values.abs().reshape(-1), descending=True, stable=True).indices[:count]] = 1
    return mask.view(values.shape)


def thinned(kind: str, task: torch.Tensor, number: int, said: dict[str, Any]) -> torch.Tensor:
    density, count = said["density"][number], task.numel()
    if density >= 1 or kind == "none":
        return task
    if density <= 0:
        return task * 0
    words = Draws(SEED, digest_bytes(str(number).encode()), NAME).words(0, count)
    chance = torch.from_numpy(words.astype("float64")).view(task.shape) / WORDS
    if kind == "largest":
        mask = largest(task, max(1, int(density * count)))
    elif kind == "window":
        kept = int(density * count)
        end = min(count, kept + int(said["gamma"][number] * count))
        mask = largest(task, end) - largest(task, end - kept)
    elif kind == "random":
        mask = (chance < density).double()
    else:
        rows = task.reshape(-1, task.shape[-1] if task.dim() else 1)
        order = torch.sort(rows.abs(), dim=1, descending=True, stable=True).indices
        places = order.argsort(dim=1).double()
        width = rows.shape[1]
        rank = (width - 1 - places) / (width - 1) if width > 1 else torch.full_like(places, 0.5)
        epsilon = said["epsilon"][number]
        mask = (chance < (density - epsilon + rank * 2 * epsilon).view(task.shape)).double()
    before, after = float(task.abs().sum()), float((task * mask).abs().sum())
    scale = before / after if said["rescale"] and min(before, after) >= 1e-7 else 1.0
    return task * mask * scale


def task(kind: str, *, votes: bool) -> Callable[..., torch.Tensor]:
    def formula(models: list[torch.Tensor], base: torch.Tensor, said: dict[str, Any]) -> torch.Tensor:
        weights = said["weight"]
        parts = [
            thinned(kind, model - base, number, said) * weight
            for number, (model, weight) in enumerate(zip(models, weights, strict=True))
        ]
        if votes:
            total, agree = elected(parts, parts)
            divisor = sum(weight * one for weight, one in zip(weights, agree, strict=True))
            divisor = torch.where(divisor == 0, 1.0, divisor)
        else:
            total, divisor = sum(parts), sum(weights)
        return base + said["lambda_"] * (total / divisor if said["normalize"] else total)

    return formula


def sce(models: list[torch.Tensor], base: torch.Tensor, said: dict[str, Any]) -> torch.Tensor:
    tasks = [model - base for model in models]
    if said["select_topk"] < 1:
        variance = sum((one - other).square() for one, other in itertools.combinations(models, 2)) + base * 0
        mask = largest(variance, int(int(variance.count_nonzero()) * said["select_topk"]))
        tasks = [one * mask for one in tasks]
    sizes = [float(one.square().mean()) for one in tasks]
    shares = [size / sum(sizes) if sum(sizes) >= 1e-6 else 1 / len(sizes) for size in sizes]
    total, agree = elected(tasks, [share * one for share, one in zip(shares, tasks, strict=True)])
    return base + total / sum(share * one for share, one in zip(shares, agree, strict=True)).clamp(min=1e-6)


def model_stock(models: list[torch.Tensor], base: torch.Tensor, said: dict[str, Any]) -> torch.Tensor:
    shape = base.shape
    whole = (-1, shape[-1] if shape else 1) if said["filter_wise"] else (1, -1)
    start = base.reshape(whole)
    tasks = [model.reshape(whole) - start for model in models]
    cosines = [
        ((one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1)).clamp(min=1e-6)).clamp(-1, 1)
        for one, other in itertools.combinations(tasks, 2)
    ]
    cosine = torch.stack(cosines).mean(0)[:, None]
    count = len(models)
    divisor = 1 + (count - 1) * cosine
    t = torch.where(divisor.abs() < 1e-6, 0.0, count * cosine / divisor)
    return (t * sum(model.reshape(whole) for model in models) / count + (1 - t) * start).view(shape)


def nearswap(models: list[torch.Tensor], base: torch.Tensor, said: dict[str, Any]) -> torch.Tensor:
    share = (said["t"] / (models[0] - base).abs().clamp(min=1e-6)).clamp(0, 1)
    return share * models[0] + (1 - share) * base


def arcee_fusion(models: list[torch.Tensor], base: torch.Tensor, _said: dict[str, Any]) -> torch.Tensor:
    shape = base.shape
    model, start = (one.reshape(-1, shape[-1] if shape else 1) for one in (models[0], base))
    chances = [torch.softmax(one, dim=1) + 1e-8 for one in (model, start)]
    divergence = (chances[0] * torch.log(chances[0] / chances[1])).sum(1, keepdim=True).clamp(min=0)
    importance = ((model - start).abs() * divergence).reshape(-1)
    ordered, last = importance.sort().values, importance.numel() - 1
    first, median, third = (float(ordered[place]) for place in (last // 4, last // 2, 3 * last // 4))
    return torch.where(importance >= median + 1.5 * (third - first), model.reshape(-1), start.reshape(-1)).view(shape)


FORMULAS: Final[dict[str, Callable[..., torch.Tensor]]] = {
    "linear": linear,
    "slerp": slerp,
    "nuslerp": nuslerp,
    "multislerp": multislerp,
    "karcher": karcher,
    "task_arithmetic": task("none", votes=False),
    "ties": task("largest", votes=True),
    "dare_linear": task("random", votes=False),
    "dare_ties": task("random", votes=True),
    "della": task("ranked", votes=True),
    "della_linear": task("ranked", votes=False),
    "breadcrumbs": task("window", votes=False),
    "breadcrumbs_ties": task("window", votes=True),
    "sce": sce,
    "model_stock": model_stock,
    "nearswap": nearswap,
    "arcee_fusion": arcee_fusion,
}

# ---- the comparison


@st.composite
def blends(draw: st.DrawFn, method: str) -> tuple[list[torch.Tensor], torch.Tensor | None, dict[str, Any]]:
    """Models of any float dtype, a base where the method has one, and settings that the method reads."""
    needs = BLEND_METHODS[method]
    shapes = [(6, 9), (40, 3), (1, 50), (17,), (2, 5, 7), (30, 1), (3, 64), (1,)]
    shape = draw(st.sampled_from(shapes[: -1 if method in {"karcher", "multislerp"} else None]))  # no two are opposite
    count = draw(st.integers(max(needs.fewest, 1 if needs.most else 2), needs.most or 4))
    dtypes = st.sampled_from([torch.float16, torch.bfloat16, torch.float32])
    distance = draw(st.sampled_from([0.02, 0.3, 4.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    start = torch.randn(*shape, generator=generator)
    base = start.to(draw(dtypes)) if needs.base != "unread" else None
    models = [(start + distance * torch.randn(*shape, generator=generator)).to(draw(dtypes)) for _ in range(count)]
    share = st.sampled_from([0.0, 0.02, 0.3, 0.5, 0.77, 1.0])
    said: dict[str, Any] = {
        "weight": [draw(st.sampled_from([0.3, 0.5, 0.7, 1.0, 2.0])) for _ in models],
        "density": [draw(share) for _ in models],
        "gamma": [draw(share) for _ in models],
        "epsilon": [],
        "normalize": draw(st.booleans()),
        "rescale": draw(st.booleans()),
        "lambda_": draw(st.sampled_from([1.0, 0.6, -2.0])),
        "t": draw(st.sampled_from([0.0, 0.1, 0.5, 1.0, 1.7])),
        "select_topk": draw(st.sampled_from([1.0, 0.0, 0.3, 0.9])),
        "row_wise": draw(st.booleans()),
        "filter_wise": draw(st.booleans()),
        "steps": draw(st.sampled_from([1, 3, 10])),
        "tolerance": 1e-5,
    }
    said["epsilon"] = [0.99 * min(density, 1 - density) for density in said["density"]]
    if "weight" in needs.source and method not in {"multislerp", "nuslerp"} and draw(st.booleans()):
        said["weight"][0] = -0.4
    return models, base, said


def ours(
    method: str, models: Sequence[torch.Tensor], base: torch.Tensor | None, said: dict[str, Any], dtype: str = "F64"
) -> torch.Tensor:
    own = {key: value for key, value in said.items() if not isinstance(value, list)}
    per_model = [
        {key: value[number] for key, value in said.items() if isinstance(value, list)} for number in range(len(models))
    ]
    return blend(method, models, base, dtype=dtype, models=per_model, seed=SEED, **own)


@pytest.mark.parametrize("method", METHODS)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_a_blend_is_its_formula_rounded_once(method: str, data: st.DataObject) -> None:
    models, base, said = data.draw(blends(method))
    tile = data.draw(st.sampled_from([1, 16, 1 << 17]), label="tile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operands, "TILE", tile)
        found = ours(method, models, base, said)
        start = torch.zeros((), dtype=torch.float64) if base is None else base.double()
        expected = FORMULAS[method]([model.double() for model in models], start, said)
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * scale)
        for dtype in ("BF16", "F16", "F32"):
            once = torch.empty(found.numel(), dtype=TORCH_DTYPES[dtype])
            round_once(found.reshape(-1).clone(), once, Scratch())
            assert torch.equal(ours(method, models, base, said, dtype).reshape(-1), once)


def test_every_method_has_its_formula() -> None:
    assert sorted(FORMULAS) == METHODS


# ---- laws


def some(count: int, shape: tuple[int, ...] = (12, 10), *, dtype: torch.dtype = torch.bfloat16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(*shape, generator=generator)
    return [(start + 0.2 * number * torch.randn(*shape, generator=generator)).to(dtype) for number in range(count)]


def case(method: str, models: list[torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """As many models as the method takes, and the first one as the base where it needs one."""
    needs = BLEND_METHODS[method]
    return models[1 : 1 + (needs.most or 3)], models[0] if needs.base != "unread" else None


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("method", METHODS)
def test_equal_models_blend_to_themselves(method: str, dtype: str) -> None:
    one = some(1, dtype=TORCH_DTYPES[dtype])[0]
    models, base = case(method, [one] * 4)
    weights = [{"weight": weight, "density": 0.4} for weight in (0.3, 0.9, 0.1)[: len(models)]]
    assert torch.equal(blend(method, models, base, dtype=dtype, models=weights), one)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"nuslerp"}))
def test_the_order_of_the_models_does_not_matter(method: str) -> None:
    models, base = case(method, some(4))
    how = recipe(method)
    weights = (0.5, 0.25, 2.0)
    parts = [ingredient(number, one, weight=weights[number], density=0.5) for number, one in enumerate(models)]
    results = {bytes(bytes_of(blended(how, order, base, dtype="BF16"))) for order in itertools.permutations(parts)}
    assert len(results) == 1


def test_turning_from_the_second_to_the_first_is_the_same_way() -> None:
    models, base = case("nuslerp", some(3))
    weights = [{"weight": 0.3}, {"weight": 0.9}]
    there = blend("nuslerp", models, base, models=weights)
    back = blend("nuslerp", models[::-1], base, models=weights[::-1])
    torch.testing.assert_close(there, back, rtol=0, atol=1e-14)


@pytest.mark.parametrize("method", [name for name in METHODS if BLEND_METHODS[name].leaves_out])
def test_a_model_of_weight_0_is_as_good_as_absent_and_is_not_read(method: str) -> None:
    models, base = case(method, some(4))
    how = recipe(method)
    parts = [ingredient(number, one, weight=0.5, density=0.5) for number, one in enumerate(models)]
    broken = replace(ingredient(1, models[1] * float("nan"), weight=0.0))
    with_it = blended(how, [parts[0], broken, parts[2]], base, dtype="BF16")
    without = blended(how, [parts[0], parts[2]], base, dtype="BF16")
    assert bytes_of(with_it, Scratch()) == bytes_of(without, Scratch())
    assert broken.rows.reads == []


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "della", "multislerp"])
def test_where_every_model_has_weight_0_the_base_is_left(method: str) -> None:
    models, base = case(method, some(4))
    assert base is not None
    assert torch.equal(blend(method, models, base, dtype="BF16", models=[{"weight": 0.0}] * 3), base)


@pytest.mark.parametrize("method", METHODS)
def test_neither_block_size_nor_tile_nor_threads_change_a_byte(method: str) -> None:
    models, base = case(method, some(4, (64, 48)))
    how, count = recipe(method), torch.get_num_threads()
    parts = [ingredient(number, one, density=0.5) for number, one in enumerate(models)]
    content = blended(how, parts, base, dtype="BF16")
    whole = bytes_of(content, Scratch())
    assert bytes_of(content, Scratch(block_bytes=100)) == whole
    try:
        torch.set_num_threads(3)
        assert bytes_of(content, Scratch()) == whole
    finally:
        torch.set_num_threads(count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operands, "TILE", 200)
        assert bytes_of(content, Scratch()) == whole  # sums differ beyond what BF16 can show


def test_a_random_choice_depends_on_seed_model_and_tensor_alone() -> None:
    models, base = case("dare_linear", some(4))
    how = recipe("dare_linear", seed=1, rescale=False)
    parts = [ingredient(number, one, density=0.5) for number, one in enumerate(models)]

    def result(used: Sequence[Any], name: str = NAME, seed: int = 1) -> torch.Tensor:
        content = blended(replace(how, seed=seed), used, base, dtype="F64", name=name)
        return torch.frombuffer(bytes_of(content), dtype=torch.float64)

    assert base is not None
    start = base.double().reshape(-1)
    alone = [result([part]) - start for part in parts]
    torch.testing.assert_close(result(parts) - start, sum(alone), rtol=0, atol=1e-12)
    others = result(parts, name="another"), result(parts, seed=2), result([replace(parts[0], model=parts[1].model)])
    for other in others:
        assert not torch.equal(other, result(parts[:1]))
    kept = [int(one.count_nonzero()) / one.numel() for one in alone]
    assert kept == pytest.approx([0.5] * 3, abs=0.15)


def test_exactly_so_many_are_kept_and_of_equal_ones_the_first() -> None:
    base = torch.zeros(4, 5)
    model = torch.tensor([1.0, -1.0, 2.0, 1.0, -1.0] * 4).view(4, 5)
    for kept in range(1, 21):
        found = blend("ties", [model], base, models=[{"density": kept / 20}]).reshape(-1)
        places = found.nonzero().view(-1).tolist()
        order = [2, 7, 12, 17, *(place for place in range(20) if place % 5 != 2)]
        assert places == sorted(order[:kept])
    found = blend("breadcrumbs", [model], base, models=[{"density": 0.3, "gamma": 0.1}]).reshape(-1)
    assert found.nonzero().view(-1).tolist() == [0, 1, 3, 4, 12, 17]  # 2 and 7 are dropped as the largest


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_without_elements_has_no_bytes(method: str) -> None:
    models, base = case(method, [torch.empty(0, 4)] * 4)
    assert blend(method, models, base, dtype="BF16").shape == (0, 4)


@pytest.mark.parametrize("method", METHODS)
def test_a_single_number_is_blended_too(method: str) -> None:
    models, base = case(method, [torch.tensor(value) for value in (1.0, 1.5, 2.0, 1.25)])
    found = blend(method, models, base, dtype="F32")
    assert found.shape == ()
    assert bool(torch.isfinite(found))


# ---- refusals


def refusal(
    method: str,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    **rest: Any,  # noqa: ANN401 - a setting of any type
) -> InvalidError:
    with pytest.raises(InvalidError) as caught:
        blend(method, tensors, base, **({"dtype": "BF16"} | rest))
    return caught.value


@pytest.mark.parametrize("strange", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("place", ["model", "base"])
def test_nan_and_infinity_are_named(method: str, strange: float, place: str) -> None:
    models, base = case(method, some(4))
    if place == "base" and base is None:
        return
    damaged = models[-1] if base is None or place == "model" else base
    damaged[3, 4] = strange
    error = refusal(method, models, base, models=[{"density": 0.5}] * len(models))
    where = "base.safetensors" if damaged is base else f"model-{len(models) - 1}.safetensors"
    assert (error.what, error.where) == (f"tensor {NAME!r} holds NaN or an infinity", where)


@pytest.mark.parametrize("method", ["linear", "nuslerp", "multislerp", "task_arithmetic"])
def test_weights_that_sum_to_0_are_refused(method: str) -> None:
    count = 2
    models, base = case(method, some(4))
    said = [{"weight": 0.5}, {"weight": -0.5}]
    error = refusal(method, models[:count], base, models=said, normalize=True)
    assert error.what == f"tensor {NAME!r} has weights that sum to 0: 0.5, -0.5"
    said = [{"weight": 0.1}, {"weight": 0.2}, {"weight": -0.3}]  # 2.8e-17 is left by rounding
    if BLEND_METHODS[method].most != 2:
        assert "sum to 0: 0.1, 0.2, -0.3" in refusal(method, models, base, models=said, normalize=True).what


@pytest.mark.parametrize("normalize", [True, False])
def test_no_model_with_a_weight_is_refused_where_there_is_no_base(normalize: bool) -> None:  # noqa: FBT001
    error = refusal("linear", some(2), None, models=[{"weight": 0.0}] * 2, normalize=normalize)
    assert error.what == f"tensor {NAME!r} has no model with a weight"


def test_directions_that_cancel_out_are_refused() -> None:
    one = torch.ones(4, 4)
    turned = [torch.tensor([math.cos(angle), math.sin(angle)]) for angle in (0.0, 2 * math.pi / 3, 4 * math.pi / 3)]
    error = refusal("multislerp", [one, one.clone().mul_(-2), one * 0], None, models=[{"weight": 1.0}] * 3)
    assert error.what == f"tensor {NAME!r} has models whose directions cancel each other out"
    assert "cancel" in refusal("multislerp", [side.double() for side in turned], None, dtype="F64").what
    two = blend("multislerp", [one, -one], None, dtype="F32")  # two of them have a line between them
    assert torch.equal(two, torch.zeros(4, 4))
    error = refusal("karcher", [one, -one], None)
    assert error.what == f"tensor {NAME!r} has models of opposite directions, which have no mean"


@pytest.mark.parametrize("method", ["della", "della_linear"])
def test_chances_beyond_0_and_1_are_refused(method: str) -> None:
    models, base = case(method, some(2))
    error = refusal(method, models, base, models=[{"density": 0.1, "epsilon": 0.15}])
    assert error.what == (
        f"tensor {NAME!r} has density 0.1 and epsilon 0.15: chances would leave the range from 0 to 1"
    )
    for density in (0.0, 1.0):
        assert blend(method, models, base, models=[{"density": density}]).shape == models[0].shape


def test_a_result_beyond_the_dtype_is_refused() -> None:
    error = refusal("linear", [torch.full((3, 3), 60_000.0)] * 2, None, dtype="F16", normalize=False)
    assert error.what == f"tensor {NAME!r} has values beyond what F16 can hold"
    assert error.mend == "lower the weights, or write `dtype: float32`"


@pytest.mark.parametrize("method", METHODS)
def test_tensors_of_other_shapes_are_refused(method: str) -> None:
    models, base = case(method, some(4))
    models[-1] = models[-1][:, :9]
    content = blended(recipe(method), [ingredient(one, model) for one, model in enumerate(models)], base, dtype="BF16")
    content = replace(content, spec=TensorSpec(name=NAME, dtype="BF16", shape=(12, 10)))
    with pytest.raises(InvalidError) as caught:
        list(content.blocks(Scratch()))
    assert caught.value.what == f"tensor {NAME!r} is [12, 9] as a matrix, the blend's is [12, 10]"
    assert caught.value.where == f"model-{len(models) - 1}.safetensors"


def test_what_a_method_cannot_take_is_refused() -> None:
    one, two, three = some(3)
    assert refusal("slerp", [one, two], three).what == (
        f"tensor {NAME!r} has 2 models beside the base, needs exactly 1"
    )
    assert refusal("model_stock", [one], two).what == f"tensor {NAME!r} has 1 model beside the base, needs at least 2"
    assert refusal("slerp", [one], None).what == f"tensor {NAME!r} has no base to start from"
    content = blended(recipe("linear"), [ingredient(0, one)], None, dtype="I64")
    with pytest.raises(InvalidError) as caught:
        list(content.blocks(Scratch()))
    assert caught.value.what == f"tensor {NAME!r} would be I64; only floats can be blended"
