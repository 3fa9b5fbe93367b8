"""The room that a stage is given: at least what it takes, and not much more."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from builder.adapter_settings import LoraSettings
from builder.environment import Device
from builder.manifest import EvaluateStage, FolderBase, FoldStage, FuseStage, PretrainStage, SftStage
from builder.room import artifact_bytes
from builder.settings import NetworkSettings
from builder.stages.adapter_config import adapter_config
from builder.stages.blend import blend
from builder.stages.cast import cast
from builder.stages.extract import extract
from builder.stages.fold import fold
from builder.stages.fuse import fuse
from builder.stages.graft import graft
from builder.stages.models import open_model
from builder.stages.pretrain import _configuration
from builder.weight_stages import (
    BlendSource,
    BlendStage,
    CastStage,
    ExtractStage,
    GraftStage,
    HeadSettings,
    VocabularySettings,
)
from builder.weighting import ONE, Weighting
from registry.artifact import Artifact
from registry.digest import digest_bytes
from registry.selector import Selector
from tests.workshop import DOWN, HIDDEN, INNER, QUERY, Workshop, lora

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from builder.stage import Context, Input, Outcome

WIDTH, WIDE, TOKENS = 64, 96, 256
HEADERS = 16384  # what provenance adds to the headers of a few files; the stage's spare room is for that
NAMES = {"model_type": "llama", "num_hidden_layers": 2, "vocab_size": TOKENS, "max_position_embeddings": 32}


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(root=tmp_path)


def llama(seed: int = 1, *, layers: int = 2, tied: bool = False, tokens: int = TOKENS) -> dict[str, torch.Tensor]:
    """Large enough that tensors, not headers, decide the size."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"model.embed_tokens.weight": (tokens, WIDTH), "model.norm.weight": (WIDTH,)}
    for layer in range(layers):
        shapes |= {f"model.layers.{layer}.self_attn.{name}_proj.weight": (WIDTH, WIDTH) for name in "qkvo"}
        shapes |= {f"model.layers.{layer}.mlp.{name}_proj.weight": (WIDE, WIDTH) for name in ("gate", "up")}
        shapes |= {f"model.layers.{layer}.mlp.down_proj.weight": (WIDTH, WIDE)}
        shapes |= {
            f"model.layers.{layer}.{name}.weight": (WIDTH,) for name in ("input_layernorm", "post_attention_layernorm")
        }
    shapes |= {} if tied else {"lm_head.weight": (tokens, WIDTH)}
    return {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}


def sizes(stage: Callable[[Context[Any]], Outcome], context: Context[Any]) -> tuple[int, int]:
    """What a stage was given room for, and what it took."""
    given = artifact_bytes(context.settings, context.inputs, context.root)
    outcome = stage(context)
    return given + HEADERS, Artifact.from_folder(context.out, outcome.type, outcome.written).size_bytes


def largest(context: Context[Any]) -> int:
    return max(one.artifact.size_bytes for one in context.inputs if one.artifact is not None)


def test_a_model_cast_to_a_wider_dtype_needs_more_than_it_had(shop: Workshop) -> None:
    context = shop.context(CastStage(from_="b", dtype="float32"), shop.input("from", shop.model(llama(), **NAMES)))
    given, taken = sizes(cast, context)
    assert largest(context) < taken <= given < 1.1 * taken


def test_a_dequantised_weight_has_two_numbers_in_each_byte(shop: Workshop) -> None:
    packed = {"a.weight": torch.zeros(5000, 1, dtype=torch.uint8), "b.weight": torch.zeros(70, 10, dtype=torch.int8)}
    one = shop.input("from", shop.model(packed))
    given = artifact_bytes(CastStage(from_="b", dtype="bfloat16"), [one], shop.root)
    tensors = 5000 + 700
    assert one.artifact is not None
    assert given == one.artifact.size_bytes - tensors + 2 * 5000 * 2 + 700 * 2


@pytest.mark.parametrize(
    ("settings", "tied"),
    [
        ({"layers": ("0-1", "0-1", "1")}, False),
        ({"untie": True}, True),
        ({"vocabulary": VocabularySettings(multiple=500), "untie": True}, True),
        ({"vocabulary": VocabularySettings(multiple=300)}, False),
        (
            {"head": HeadSettings(type="classification", labels=tuple(map(str, range(300)))), "layers": ("0-1", "0")},
            False,
        ),
    ],
)
def test_a_graft_has_room_for_layers_rows_and_heads(shop: Workshop, settings: dict[str, Any], tied: bool) -> None:  # noqa: FBT001 - a parameter of the test
    names = NAMES | {"tie_word_embeddings": tied, "architectures": ["LlamaForCausalLM"], "pad_token_id": 0}
    base = shop.model(llama(tied=tied), **names)
    context = shop.context(GraftStage(from_="b", **settings), shop.input("from", base))
    given, taken = sizes(graft, context)
    assert largest(context) < taken <= given < 2 * taken


def test_a_graft_of_less_is_given_less(shop: Workshop) -> None:
    names = NAMES | {"architectures": ["LlamaForCausalLM"]}
    context = shop.context(GraftStage(from_="b", layers=("1",)), shop.input("from", shop.model(llama(), **names)))
    given, taken = sizes(graft, context)
    assert taken <= given < largest(context)


def test_a_graft_has_room_for_more_positions(shop: Workshop) -> None:
    tensors = {"wte.weight": torch.ones(TOKENS, WIDTH), "wpe.weight": torch.ones(32, WIDTH)}
    base = shop.model(tensors, model_type="gpt2", n_positions=32, vocab_size=TOKENS)
    given, taken = sizes(graft, shop.context(GraftStage(from_="b", context=2048), shop.input("from", base)))
    assert taken <= given < 1.1 * taken


def blended(shop: Workshop, *layers: dict[str, str], **settings: Any) -> Context[Any]:  # noqa: ANN401 - any setting
    stage = BlendStage(
        **({"method": "linear"} | settings), models={"a": BlendSource(), "b": BlendSource()}, layers=layers
    )
    inputs: list[Input] = []
    for number, name in enumerate("ab"):
        one = shop.input("model", shop.model(llama(number), **NAMES), name=name)
        taken = [[index, entry[name]] for index, entry in enumerate(layers) if name in entry]
        inputs.append(replace(one, settings={"layers": taken} if taken else {}))
    return shop.context(stage, *inputs)


def test_a_blend_has_room_for_the_layers_that_are_stacked(shop: Workshop) -> None:
    context = blended(shop, {"a": "0-1"}, {"b": "0-1"}, {"a": "0-1", "b": "0-1"}, {"b": "1"}, method="linear")
    given, taken = sizes(blend, context)
    assert largest(context) < taken <= given < 1.1 * taken


@pytest.mark.parametrize("dtype", ["float32", "same", "float16"])
def test_a_blend_has_room_for_its_dtype(shop: Workshop, dtype: str) -> None:
    given, taken = sizes(blend, blended(shop, dtype=dtype))
    assert taken <= given < 1.1 * taken


def test_a_union_of_tokens_has_room_for_those_of_every_model(shop: Workshop) -> None:
    context = blended(shop, tokenizer="union")
    tables = 2 * TOKENS * WIDTH * 2  # embedding and head, in bfloat16
    given = artifact_bytes(context.settings, context.inputs, shop.root)
    assert given >= largest(context) + 2 * tables


def test_factors_side_by_side_are_as_large_as_all_adapters_together(shop: Workshop) -> None:
    base = shop.model(llama(), **NAMES)
    modules = {QUERY: (WIDTH, WIDTH), DOWN: (WIDTH, WIDE)}
    paths = [shop.adapter(base, lora(modules, rank=32, seed=seed), r=32) for seed in range(3)]
    inputs = [shop.input("adapter", path, name=f"a{number}", weight=1.0) for number, path in enumerate(paths)]
    settings = FuseStage(adapters={one.name: ONE for one in inputs})
    given, taken = sizes(fuse, context := shop.context(settings, *inputs, shop.input("base", base)))
    assert max(one.artifact.size_bytes for one in inputs if one.artifact) < taken <= given < 1.2 * taken
    ties = replace(settings, method="ties", rank=60)
    given, taken = sizes(fuse, shop.context(ties, *context.inputs))
    assert taken <= given


def test_an_extract_has_room_for_its_factors(shop: Workshop) -> None:
    names = NAMES | {"architectures": ["LlamaForCausalLM"]}
    before, after = (shop.model(llama(seed), **names) for seed in (1, 2))
    settings = ExtractStage(from_="t", against="b", rank=60, rest="save", targets=None)
    inputs = (shop.input("from", after), shop.input("against", before))
    given, taken = sizes(extract, context := shop.context(settings, *inputs))
    assert largest(context) < taken <= given < 1.2 * taken


def test_a_fold_is_as_large_as_its_model(shop: Workshop) -> None:
    base = shop.model(llama(), **NAMES)
    adapter = shop.input("adapter", shop.adapter(base, lora({QUERY: (WIDTH, WIDTH)})), name="a", weight=1.0)
    given, taken = sizes(
        fold, shop.context(FoldStage(from_="b", adapters={"a": ONE}), shop.input("from", base), adapter)
    )
    assert taken <= given < 1.1 * taken


# Trainings and imports, by the sizes of what they would write


def test_a_new_adapter_may_be_larger_than_its_model(shop: Workshop, tiny_llama: Path) -> None:
    settings = LoraSettings(rank=Weighting.of(256), targets=Selector.parse(["attention", "mlp"]))
    model = open_model(tiny_llama, Device(kind="cpu", name="cpu", threads=1))
    from peft import get_peft_model  # noqa: PLC0415 - seconds, for this test alone

    trained = get_peft_model(model, adapter_config(model, None, settings))
    taken = sum(4 * one.numel() for one in trained.parameters() if one.requires_grad)
    listing = Artifact.from_folder(tiny_llama, "model")
    start = replace(shop.input("from", shop.model()), path=tiny_llama, artifact=listing)
    given = artifact_bytes(SftStage(from_="b", data="d", adapter=settings), [start], shop.root)
    assert listing.size_bytes < taken <= given < 2 * taken


def test_an_adapter_that_goes_on_is_written_in_float32(shop: Workshop) -> None:
    base = shop.model()
    small = {name: one.bfloat16() for name, one in lora({QUERY: (HIDDEN, HIDDEN), DOWN: (HIDDEN, INNER)}).items()}
    inputs = [shop.input("from", shop.adapter(base, small)), shop.input("base", base)]
    given = artifact_bytes(SftStage(from_="b", data="d"), inputs, shop.root)
    (adapter, _) = (one.artifact for one in inputs)
    assert adapter is not None
    assert given == adapter.size_bytes + sum(2 * one.numel() for one in small.values())


def test_a_model_that_goes_on_keeps_its_size(shop: Workshop) -> None:
    one = shop.input("from", shop.model(llama(), **NAMES))
    assert one.artifact is not None
    assert artifact_bytes(SftStage(from_="b", data="d"), [one], shop.root) == one.artifact.size_bytes


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_new_network_is_counted(shop: Workshop, architecture: Any, tied: bool, dtype: Any) -> None:  # noqa: ANN401, FBT001
    network = NetworkSettings(
        architecture=architecture, layers=3, hidden_size=256, heads=4, tie_embeddings=tied, dtype=dtype
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(_configuration(network, _Tokenizer()))
    taken = sum(one.numel() for one in model.parameters()) * (4 if dtype == "float32" else 2)
    given = artifact_bytes(PretrainStage(data="d", network=network), [], shop.root)
    assert taken <= given < 2 * taken


class _Tokenizer:
    eos_token_id = pad_token_id = 0

    def __len__(self) -> int:
        return 4096


def test_an_import_is_as_large_as_its_folder(shop: Workshop) -> None:
    folder = shop.model()
    source = FolderBase(path=folder.name, sha256=digest_bytes(b""))
    assert artifact_bytes(source, [], shop.root) == sum(path.stat().st_size for path in folder.iterdir())


def test_a_report_takes_no_room(shop: Workshop) -> None:
    one = shop.input("from", shop.model())
    assert artifact_bytes(EvaluateStage(from_="b", metrics={}), [one], shop.root) == 0
