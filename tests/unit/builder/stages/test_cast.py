"""The cast stage: one rounding, what it cost, what is linked, what is refused and with which words."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

import pytest
import torch

from builder.measures import labels_of
from builder.names import Label
from builder.stages.cast import cast
from builder.weight_stages import CastStage
from builder.weights.folder import read_model
from registry.artifact import Artifact
from registry.canonical import pretty
from registry.errors import Error
from registry.provenance import Provenance, ProvenanceInput
from registry.selector import Selector
from tests.workshop import Workshop, llama, weights_digest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from builder.stage import Context, Outcome

NORM, HEAD = "model.norm.weight", "lm_head.weight"


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(root=tmp_path)


def run(
    shop: Workshop, base: Path, dtype: str = "bfloat16", targets: object = None, threads: int = 2
) -> tuple[Path, Outcome]:
    """The folder that the stage made; every digest that it gave is checked against the bytes."""
    chosen = None if targets is None else Selector.parse(targets)
    stage = CastStage(from_="base", dtype=dtype, targets=chosen)  # type: ignore[arg-type]
    context: Context[CastStage] = shop.context(stage, shop.input("from", base, name="base"), threads=threads)
    outcome = cast(context)
    artifact = Artifact.from_folder(context.out, outcome.type, outcome.written)
    artifact.verify_folder(context.out)
    assert artifact == Artifact.from_folder(context.out, outcome.type)
    artifact.write(context.out)
    return context.out, outcome


def refused(shop: Workshop, base: Path, dtype: str = "bfloat16", targets: object = None) -> Error:
    with pytest.raises(Error) as caught:
        run(shop, base, dtype, targets)
    return caught.value


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    return {name: stored.load() for name, stored in read_model(folder).tensors.items()}


def config(folder: Path) -> dict[str, object]:
    value: dict[str, object] = json.loads((folder / "config.json").read_bytes())
    return value


def float32() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {name: torch.randn(one.shape, generator=generator) for name, one in llama().items()}


@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, "bfloat16"), (torch.float16, "float16")])
def test_every_float_is_rounded_once_to_the_nearest(shop: Workshop, dtype: torch.dtype, name: str) -> None:
    base = shop.model(float32(), dtype="float32")
    out, outcome = run(shop, base, name)
    after = loaded(out)
    assert after.keys() == float32().keys()
    for key, tensor in float32().items():
        assert torch.equal(after[key], tensor.to(dtype)), key
    assert config(out) == {"model_type": "llama", "dtype": name}
    assert (out / "config.json").read_bytes() == pretty(config(out))
    assert outcome.depends_on == ()
    assert shop.said == [f"cast: 19 of 19 tensors to {name}"]


def test_float64_does_not_go_by_way_of_float32(shop: Workshop) -> None:
    exact = 1 + 2.0**-8 + 2.0**-40  # just above the middle of two numbers of bfloat16; float32 would make it a tie
    out, _ = run(shop, shop.model({NORM: torch.full((3,), exact, dtype=torch.float64)}))
    assert loaded(out)[NORM].tolist() == [1 + 2.0**-7] * 3


def test_what_becomes_wider_is_exact(shop: Workshop) -> None:
    base = shop.model(torch_dtype="bfloat16")
    out, outcome = run(shop, base, "float32")
    for key, tensor in llama().items():
        assert torch.equal(loaded(out)[key], tensor.float()), key
    assert config(out)["torch_dtype"] == "float32"
    assert "dtype" not in config(out)
    assert outcome.metrics["relative_rms"] == {"value": 0.0}
    assert outcome.metrics["largest_error"] == {"value": 0.0}
    assert outcome.depends_on == ()


def test_the_loss_is_measured_for_each_component(shop: Workshop) -> None:
    base = shop.model(float32())
    _, outcome = run(shop, base)
    queries = [one for name, one in float32().items() if "q_proj" in name]
    before = torch.cat([one.view(-1) for one in queries]).double()
    difference = before.to(torch.float32).bfloat16().double() - before
    rms = math.sqrt(float(difference.square().sum() / before.square().sum()))
    assert outcome.metrics["relative_rms_attention-query"] == {"value": pytest.approx(rms, rel=1e-5)}
    greatest = {"value": pytest.approx(float(difference.abs().max()), rel=1e-5)}
    assert outcome.metrics["largest_error_attention-query"] == greatest
    assert 0.001 < outcome.metrics["relative_rms"]["value"] < 0.003
    assert len(outcome.metrics) == 2 * (1 + 11)
    assert set(outcome.metrics) <= set(labels_of(CastStage(from_="base", dtype="bfloat16")))
    pattern = Label.__metadata__[0].pattern  # type: ignore[attr-defined]
    assert all(re.fullmatch(pattern, label) for label in outcome.metrics)


def test_only_targets_are_cast_and_files_without_one_are_linked(shop: Workshop) -> None:
    base = shop.model(float32(), dtype="float32")
    out, outcome = run(shop, base, targets=["mlp", "norm.final"])
    dtypes = {name: stored.info.dtype for name, stored in read_model(out).tensors.items()}
    cast_ones = {name for name, dtype in dtypes.items() if dtype == "BF16"}
    assert cast_ones == {NORM, *(name for name in dtypes if ".mlp." in name)}
    before = {file.path: file.digest for file in Artifact.read(base).files}
    after = {file.path: file.digest for file in Artifact.read(out).files}
    # embedding, attention 0, MLP 0, attention 1, MLP 1, final norm, head
    shards = {f"model-0000{number}-of-00007.safetensors" for number in (3, 5, 6)}
    assert {path for path in before if before[path] != after[path]} == {*shards, "model.safetensors.index.json"}
    rows = [(one.component, one.change, one.layers, one.tensors, one.by) for one in outcome.components]
    assert ("mlp.up", "cast", "0-1", 2, "cast") in rows
    assert ("head", "kept", "", 1, "") in rows
    assert outcome.notes == (
        "the model has floats of several dtypes; transformers loads all in the one of its configuration",
    )
    stated = Provenance.from_metadata(read_model(out).shards["model-00003-of-00007.safetensors"].metadata, where="test")
    assert stated == Provenance(
        kind="cast",
        method="bfloat16",
        components=("mlp.down", "mlp.up", "norm.final"),
        layers="0-1",
        inputs=(ProvenanceInput(role="from", weights_digest=weights_digest(base)),),
    )


def test_targets_that_make_the_model_one_dtype_change_its_configuration_too(shop: Workshop) -> None:
    tensors = {**llama(), NORM: torch.ones(8)}
    out, _ = run(shop, shop.model(tensors, dtype="float32"), targets="norm.final")
    assert config(out)["dtype"] == "bfloat16"


def test_parts_of_a_model_say_their_dtype_too(shop: Workshop) -> None:
    parts = {"text_config": {"dtype": "float32", "x": 1}, "vision_config": {"torch_dtype": "float32"}, "y_config": 3}
    out, _ = run(shop, shop.model(float32(), **parts))
    assert config(out) == {
        "model_type": "llama",
        "dtype": "bfloat16",
        "text_config": {"dtype": "bfloat16", "x": 1},
        "vision_config": {"torch_dtype": "bfloat16"},
        "y_config": 3,
    }


def test_a_model_that_has_the_dtype_is_linked(shop: Workshop) -> None:
    base = shop.model(dtype="bfloat16")
    out, outcome = run(shop, base)
    assert Artifact.read(out).digest == Artifact.read(base).digest
    assert outcome.notes == ("every float chosen is bfloat16 already",)
    assert outcome.metrics == {"relative_rms": {"value": 0.0}, "largest_error": {"value": 0.0}}  # a check can hold it


def test_whole_numbers_stay_what_they_are(shop: Workshop) -> None:
    tensors = {**float32(), "counter": torch.arange(3)}
    assert loaded(run(shop, shop.model(tensors))[0])["counter"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("threads", [1, 3])
def test_neither_bytes_nor_figures_depend_on_threads(shop: Workshop, threads: int) -> None:
    base = shop.model(float32())
    made = [run(shop, base, threads=count) for count in (1, threads)]
    assert len({Artifact.read(out).digest for out, _ in made}) == 1
    assert made[0][1].metrics == made[1][1].metrics


def test_a_number_that_float16_cannot_hold_is_refused_with_the_largest(shop: Workshop) -> None:
    tensors = float32()
    tensors[HEAD][1, 2], tensors[HEAD][3, 0] = 65520, -7e4
    tensors[NORM][0] = 65519.99  # rounds to the largest that there is
    base = shop.model(tensors)
    error = refused(shop, base, "float16")
    assert error.what == "'lm_head.weight' holds numbers up to 70000, F16 at most 65504"
    assert error.mend == ("cast to a dtype with a wider range, such as bfloat16, or leave this tensor out of `targets`")
    out, _ = run(shop, base, "float16", targets="norm.final")
    assert loaded(out)[NORM][0] == 65504


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(shop: Workshop, value: float) -> None:
    base = shop.model({NORM: torch.ones(5)})
    path = base / "model-00001-of-00001.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-4:] = torch.tensor([value]).view(torch.uint8).numpy().tobytes()
    path.write_bytes(raw)
    assert refused(shop, base).what == f"tensor '{NORM}' holds NaN or an infinity"


@pytest.mark.parametrize(
    ("tensors", "targets", "what"),
    [
        (
            {"a.weight": torch.ones(2).to(torch.float8_e4m3fn)},
            None,
            "'a.weight' is F8_E4M3: without its scale it says nothing",
        ),
        ({"a.weight": torch.ones(2), "b.bias": torch.arange(2)}, "b.bias", "none of the 1 tensors chosen holds floats"),
    ],
)
def test_what_is_no_float_is_not_cast(
    shop: Workshop, tensors: Mapping[str, torch.Tensor], targets: object, what: str
) -> None:
    assert refused(shop, shop.model(tensors), targets=targets).what == what


# Quantised models; the numbers themselves are held against bitsandbytes in tests/contracts

TABLE = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635]
TABLE += [-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725]
TABLE += [0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
QUERY = "model.layers.0.self_attn.q_proj"


def four_bit(**state: object) -> dict[str, torch.Tensor]:
    """A model with one weight of four bits, shape ``[2, 32]``, one block a row."""
    said = {"quant_type": "nf4", "blocksize": 32, "dtype": "float32", "shape": [2, 32], **state}
    text = torch.frombuffer(bytearray(json.dumps(said).encode()), dtype=torch.uint8)
    return {
        "model.embed_tokens.weight": torch.ones(4, 32),
        f"{QUERY}.weight": torch.tensor([[0x0F]] * 16 + [[0x7E]] * 16, dtype=torch.uint8),
        f"{QUERY}.weight.absmax": torch.tensor([2.0, 0.5]),
        f"{QUERY}.weight.quant_map": torch.tensor(TABLE),
        f"{QUERY}.weight.quant_state.bitsandbytes__nf4": text,
    }


def eight_bit() -> dict[str, torch.Tensor]:
    return {
        f"{QUERY}.weight": torch.tensor([[127, -127], [1, 0]], dtype=torch.int8),
        f"{QUERY}.SCB": torch.tensor([2.0, 127.0]),
        f"{QUERY}.weight_format": torch.tensor(0, dtype=torch.uint8),
    }


BITSANDBYTES: dict[str, Any] = {"quantization_config": {"quant_method": "bitsandbytes"}}


def test_four_bits_become_what_they_stand_for(shop: Workshop) -> None:
    out, outcome = run(shop, shop.model(four_bit(), dtype="bfloat16", **BITSANDBYTES))
    after = loaded(out)
    assert after.keys() == {"model.embed_tokens.weight", f"{QUERY}.weight"}
    rows = [[-2.0, 2.0] * 16, [0.0, torch.tensor(TABLE[14] * 0.5).bfloat16().item()] * 16]
    assert after[f"{QUERY}.weight"].tolist() == rows
    assert config(out) == {"model_type": "llama", "dtype": "bfloat16"}
    rows_of = [(one.component, one.change) for one in outcome.components]
    assert rows_of == [("embedding.token", "cast"), ("attention.query", "dequantised")]
    assert outcome.notes == ("weights dequantised from nf4: 1; the errors are those of the cast alone",)
    assert 0 < outcome.metrics["relative_rms_attention-query"]["value"] < 0.004
    metadata = read_model(out).shards["model-00002-of-00002.safetensors"].metadata
    stated = Provenance.from_metadata(metadata, where="test")
    assert stated is not None
    assert stated.method == "nf4+bfloat16"


def test_eight_bits_become_what_they_stand_for(shop: Workshop) -> None:
    out, _ = run(shop, shop.model(eight_bit(), **BITSANDBYTES), "float32")
    assert loaded(out)[f"{QUERY}.weight"].tolist() == [[2.0, -2.0], [1.0, 0.0]]


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8"])
def test_another_quantisation_is_refused_by_name(shop: Workshop, method: str) -> None:
    error = refused(shop, shop.model(quantization_config={"quant_method": method}))
    assert str(error) == (
        f"the model is quantised by {method}, which is not dequantised here\n"
        "  where: demo:base\n"
        "  mend: start from the 16-bit model that it was made from"
    )


def test_a_quantised_model_is_cast_whole_or_not_at_all(shop: Workshop) -> None:
    error = refused(shop, shop.model(four_bit(), **BITSANDBYTES), targets="attention")
    assert error.what == "the model is quantised, and only all of it can be dequantised"
    assert error.mend == "leave `targets` out; a second stage of kind cast may have them"


ODD_TABLE = torch.tensor([*TABLE[:15], 0.99])
PART = f"{QUERY}.weight."
UNKNOWN_STATE = "has a state that bitsandbytes 0.50.2 does not know:"
STATE = "'dtype': 'float32', 'quant_type': 'nf4', 'shape': [2, 32]"


@pytest.mark.parametrize(
    ("tensors", "what"),
    [
        (four_bit() | {f"{PART}quant_map": ODD_TABLE}, "does not fit its parts: nf4, [2, 32], blocks of 32"),
        (four_bit() | {f"{PART}absmax": torch.ones(3)}, "does not fit its parts: nf4, [2, 32], blocks of 32"),
        (four_bit(shape=[2, 33]), "does not fit its parts: nf4, [2, 33], blocks of 32"),
        (
            four_bit(blocksize=31),
            f"{UNKNOWN_STATE} {{'blocksize': 31, {STATE}}}",
        ),
        (
            {name: one for name, one in four_bit().items() if "absmax" not in name},
            "is quantised, and not all that says how is there",
        ),
        (
            four_bit() | {f"{PART}nested_absmax": torch.ones(1)},
            f"{UNKNOWN_STATE} {{'blocksize': 32, {STATE}}}",
        ),
        (eight_bit() | {f"{QUERY}.SCB": torch.ones(3)}, "is no eight-bit weight in rows with a scale for each"),
        (
            eight_bit() | {f"{QUERY}.weight_format": torch.tensor(2, dtype=torch.uint8)},
            "is no eight-bit weight in rows with a scale for each",
        ),
    ],
)
def test_a_quantised_weight_that_does_not_fit_its_parts_is_refused(
    shop: Workshop, tensors: dict[str, torch.Tensor], what: str
) -> None:
    error = refused(shop, shop.model(tensors, **BITSANDBYTES))
    assert error.what == f"'{QUERY}.weight' {what}"
    assert error.mend == "save the quantised model again with bitsandbytes 0.50.2, or start from the 16-bit model"


def test_a_part_without_its_weight_is_refused(shop: Workshop) -> None:
    tensors = {name: one for name, one in four_bit().items() if name != f"{QUERY}.weight"}
    error = refused(shop, shop.model(tensors, **BITSANDBYTES))
    assert error.what == f"'{PART}absmax' goes with '{QUERY}.weight', which is not there"
