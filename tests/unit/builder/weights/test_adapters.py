"""What does not fit its configuration or its base is refused by name."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.weights.adapters import read_adapter
from builder.weights.effect import Applied, Changed
from builder.weights.folder import read_model
from builder.weights.methods.lora import LowRank
from builder.weights.peft_config import PeftConfig
from builder.weights.site import Site, is_conv1d
from builder.weights.stream import BLOCK_BYTES, Scratch
from registry.errors import InvalidError, NotFoundError
from tests.workshop import HIDDEN, INNER, QUERY, Workshop, llama, lora

if TYPE_CHECKING:
    from pathlib import Path

DOWN_A = f"base_model.model.{QUERY}.lora_A.weight"
DOWN_B = f"base_model.model.{QUERY}.lora_B.weight"
SQUARE = {QUERY: (HIDDEN, HIDDEN)}


def effects(shop: Workshop, adapter: Path, model: Path | None = None) -> dict[str, Applied]:
    return Site.of(read_adapter(adapter), read_model(model or shop.model())).effects()


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(root=tmp_path)


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (
            {"peft_type": "P_TUNING"},
            "adapters of type P_TUNING cannot be folded: it is a learnt prompt, so no weight holds it",
        ),
        ({"peft_type": "MAGIC"}, "adapters of type MAGIC are not known"),
        ({"lora_bias": True}, f"tensor '{DOWN_A}' has no lora_B.bias beside it"),
        ({"use_dora": True}, f"tensor '{DOWN_A}' has no lora_magnitude_vector beside it"),
        ({"use_dora": "yes"}, "use_dora = 'yes' is neither true nor false"),
        (
            {"init_lora_weights": "pissa_niter_16"},
            "init_lora_weights = 'pissa_niter_16' cannot be folded: it changed its base when training began",
        ),
        ({"use_magic": {"a": 1}}, "use_magic = {'a': 1} cannot be folded: this tool does not know what it means"),
        ({"r": 3}, f"tensor '{DOWN_A}' is [2, 8], LORA on {QUERY} needs [3, 8]"),
        ({"r": True}, f"r True of {QUERY} is no whole number from 1"),
        ({"lora_alpha": "8"}, f"lora_alpha '8' of {QUERY} is no number"),
        ({"rank_pattern": []}, f"tensor '{DOWN_A}' is [2, 8], LORA on {QUERY} needs [4, 8]"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern is not a table"),
        (
            {"alpha_pattern": {"q_proj": 3, r"layers\.0\..*": 5}},
            f"alpha_pattern gives {QUERY} several values, by 'layers\\\\.0\\\\..*' and 'q_proj'",
        ),
        ({"alpha_pattern": {"(a+)+": 1}}, "pattern '(a+)+' is too involved to match safely"),
        ({"alpha_pattern": {"(?x:(a*)#c\n*b)": 1}}, "pattern '(?x:(a*)#c\\n*b)' is too involved to match safely"),
        ({"alpha_pattern": {"(.*.*.*)x": 1}}, "pattern '(.*.*.*)x' is too involved to match safely"),
        ({"alpha_pattern": {"a?a?a?aaa": 1}}, "pattern 'a?a?a?aaa' is too involved to match safely"),
        (
            {"alpha_pattern": {"(a|a)(a|a)(a|a)(a|a)": 1}},
            "pattern '(a|a)(a|a)(a|a)(a|a)' is too involved to match safely",
        ),
        ({"alpha_pattern": {r"(a)\1": 1}}, "pattern '(a)\\\\1' is too involved to match safely"),
        (
            {"alpha_pattern": {"(q_proj": 1}},
            "pattern '(q_proj' is no regular expression: missing ), unterminated subpattern at position 7",
        ),
        (
            {"target_modules": ["v_proj", "proj"]},
            f"tensor '{DOWN_A}' is on {QUERY}, which target_modules does not name",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_configuration_that_cannot_be_folded_is_refused_by_name(
    shop: Workshop, config: dict[str, object], what: str
) -> None:
    rank = {"r": 4} if config == {"rank_pattern": []} else {}
    with pytest.raises(InvalidError) as caught:
        effects(shop, shop.adapter(None, lora(SQUARE), **{**rank, **config}))
    assert caught.value.what == what


def test_settings_that_do_not_change_the_sum_are_fine(shop: Workshop) -> None:
    adapter = read_adapter(
        shop.adapter(
            None,
            lora(SQUARE),
            bias="none",
            lora_dropout=0.5,
            init_lora_weights="gaussian",
            target_modules={"q_proj", "v_proj"},
            layers_to_transform=[0],
            use_dora=False,
            modules_to_save=None,
            use_something_new=None,
        )
    )
    assert [part.module for part in adapter.parts] == [QUERY]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({DOWN_A: None}, f"tensor '{DOWN_B}' has no lora_A.weight beside it"),
        ({DOWN_B: None}, f"tensor '{DOWN_A}' has no lora_B.weight beside it"),
        ({DOWN_A: torch.ones(0, HIDDEN)}, f"tensor '{DOWN_A}' is F32 [0, 8], which holds nothing"),
        ({DOWN_A: torch.ones(HIDDEN)}, f"tensor '{DOWN_A}' is [8], LORA on {QUERY} needs [2, 8]"),
        ({DOWN_A: torch.ones(2, HIDDEN, dtype=torch.int8)}, f"tensor '{DOWN_A}' is I8 [2, 8], no floats"),
        ({DOWN_B: torch.ones(HIDDEN, 3)}, f"tensor '{DOWN_B}' is [8, 3], LORA on {QUERY} needs [8, 2]"),
        (
            {"base_model.model.model.embed_tokens.weight": torch.ones(2, 2)},
            "tensor 'base_model.model.model.embed_tokens.weight' is [2, 2]; model.embed_tokens.weight is [16, 8]",
        ),
        (
            {f"base_model.model.{QUERY}.base_layer.weight": torch.ones(HIDDEN, HIDDEN)},
            (
                f"tensor 'base_model.model.{QUERY}.base_layer.weight' is another {QUERY}.weight than the model's, "
                "and modules_to_save does not name it"
            ),
        ),
        (
            {"base_model.model.model.norm.weight": torch.ones(HIDDEN)},
            (
                "tensor 'base_model.model.model.norm.weight' is another model.norm.weight than the model's, "
                "and modules_to_save does not name it"
            ),
        ),
        (
            {"base_model.model.model.norm.bias": torch.ones(HIDDEN)},
            "tensor 'base_model.model.model.norm.bias' is no part of a LORA adapter",
        ),
        (
            {DOWN_B: None, f"base_model.model.{QUERY}.lora_embedding_B": torch.ones(HIDDEN, 2)},
            f"tensor '{DOWN_A}' has no lora_B.weight beside it",
        ),
        ({DOWN_A: None, DOWN_B: None}, "the adapter has no tensors"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    shop: Workshop, change: dict[str, torch.Tensor | None], what: str
) -> None:
    tensors = {name: tensor for name, tensor in (lora(SQUARE) | change).items() if tensor is not None}
    with pytest.raises(InvalidError) as caught:
        effects(shop, shop.adapter(None, tensors))
    assert caught.value.what == what


@pytest.mark.parametrize(
    ("modules", "what"),
    [
        (
            {"model.layers.9.self_attn.q_proj": (HIDDEN, HIDDEN)},
            "is on model.layers.9.self_attn.q_proj, which the model has not",
        ),
        ({QUERY: (INNER, HIDDEN)}, f"and its other factor make [12, 8]; {QUERY}.weight is BF16 [8, 8]"),
        ({"model.norm": (HIDDEN, HIDDEN)}, "and its other factor make [8, 8]; model.norm.weight is BF16 [8]"),
        (
            {"layers.0.self_attn.q_proj": (HIDDEN, HIDDEN), QUERY: (HIDDEN, HIDDEN)},
            f"and another one are both on {QUERY}.weight",
        ),
    ],
)
def test_what_the_base_has_not_is_refused_by_name(
    shop: Workshop, modules: dict[str, tuple[int, int]], what: str
) -> None:
    with pytest.raises(InvalidError) as caught:
        effects(shop, shop.adapter(None, lora(modules)))
    assert caught.value.what.endswith(f"' {what}")


@pytest.mark.parametrize("module", ["lm_head", "model.embed_tokens"])
def test_a_tied_embedding_is_refused(shop: Workshop, module: str) -> None:
    adapter = read_adapter(shop.adapter(None, lora({module: (16, HIDDEN)})))
    with pytest.raises(InvalidError) as caught:
        effects(shop, adapter.path, shop.model(llama(tied=True), tie_word_embeddings=True))
    assert str(caught.value) == (
        f"tensor 'base_model.model.{module}.lora_A.weight' is on an embedding that is tied to the head: "
        "the change would be in both\n"
        f"  where: {adapter.path / 'adapter_model.safetensors'}\n"
        "  mend: untie the model first (a stage of kind graft, with untie: true), or train the adapter on other modules"
    )


@pytest.mark.parametrize("module", ["layers.0.self_attn.q_proj", QUERY, f"language.{QUERY}"])
def test_the_outermost_prefix_may_be_there_or_not(shop: Workshop, module: str) -> None:
    assert list(effects(shop, shop.adapter(None, lora({module: (HIDDEN, HIDDEN)})))) == [f"{QUERY}.weight"]


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"lora_alpha": 3}, 1.5),
        ({"lora_alpha": 3, "use_rslora": True}, 3 / 2**0.5),
        ({"lora_alpha": 3, "alpha_pattern": {"q_proj": 5}}, 2.5),
        ({"lora_alpha": 3, "alpha_pattern": {"0.self_attn.q_proj": 5}}, 2.5),
        ({"lora_alpha": 3, "alpha_pattern": {r"layers\.[0-3]\.self_attn.*": 5}}, 2.5),
        ({"lora_alpha": 3, "alpha_pattern": {r"layers\.(?:0|1)\.(self_attn|mlp)\.\w+": 5}}, 2.5),
        ({"lora_alpha": 3, "alpha_pattern": {"proj": 5}}, 1.5),
        ({"r": 8, "lora_alpha": 3, "rank_pattern": {"q_proj": 2}}, 1.5),
    ],
)
def test_the_scale_is_that_of_the_configuration(shop: Workshop, config: dict[str, object], scale: float) -> None:
    (applied,) = effects(shop, shop.adapter(None, lora(SQUARE), **config)).values()
    assert isinstance(applied.effect, LowRank)
    assert applied.effect.scale == scale


@settings(max_examples=25, deadline=None)
@given(
    rank=st.integers(1, 20),
    rows=st.integers(1, 60),
    columns=st.integers(1, 60),
    block_bytes=st.integers(1, 5000),
    dtype=st.sampled_from([torch.float16, torch.bfloat16]),
)
def test_the_bytes_of_a_fold_do_not_depend_on_the_size_of_blocks(
    tmp_path_factory: pytest.TempPathFactory,
    *,
    rank: int,
    rows: int,
    columns: int,
    block_bytes: int,
    dtype: torch.dtype,
) -> None:
    shop = Workshop(root=tmp_path_factory.mktemp("blocks"))
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)).to(dtype)
    folder = shop.model({f"{QUERY}.weight": weight})
    adapter = shop.adapter(None, lora({QUERY: (rows, columns)}, rank=rank), r=rank)
    ((name, applied),) = effects(shop, adapter, folder).items()
    content = Changed(base=read_model(folder).tensors[name], effects=(applied, replace(applied, scale=-0.3)))
    found = [b"".join(map(bytes, content.blocks(Scratch(size)))) for size in (block_bytes, BLOCK_BYTES)]
    assert found[0] == found[1]


def test_square_conv1d_weights_are_told_by_family_and_name(shop: Workshop) -> None:
    tensors = {
        "transformer.wte.weight": torch.ones(16, HIDDEN),
        "transformer.h.0.attn.c_proj.weight": torch.ones(HIDDEN, HIDDEN),
        "transformer.h.0.attn.other.weight": torch.ones(HIDDEN, HIDDEN),
    }
    modules = {"transformer.h.0.attn.c_proj": (HIDDEN, HIDDEN), "transformer.h.0.attn.other": (HIDDEN, HIDDEN)}
    found = effects(
        shop, shop.adapter(None, lora(modules), fan_in_fan_out=False), shop.model(tensors, model_type="gpt2")
    )
    assert {name: applied.transposed for name, applied in found.items()} == {
        "transformer.h.0.attn.c_proj.weight": True,
        "transformer.h.0.attn.other.weight": False,
    }


def test_the_flag_of_conv1d_means_nothing_on_a_linear_module(shop: Workshop) -> None:
    flagged = shop.adapter(None, lora({QUERY: (HIDDEN, HIDDEN)}), fan_in_fan_out=True)
    found = effects(shop, flagged, shop.model(model_type="llama"))
    assert not any(applied.transposed for applied in found.values())  # PEFT warns, and takes it for false


def test_the_flag_of_conv1d_is_refused_on_a_square_weight_of_an_unknown_family(shop: Workshop) -> None:
    flagged = shop.adapter(None, lora({QUERY: (HIDDEN, HIDDEN)}), fan_in_fan_out=True)
    model = shop.model(model_type="own")
    with pytest.raises(InvalidError) as caught:
        effects(shop, flagged, model)
    assert str(caught.value) == (
        f"tensor 'base_model.model.{QUERY}.lora_A.weight' is on {QUERY}, a square weight, and whether its family, own, "
        "has it transposed is not known\n"
        f"  where: {flagged / 'adapter_model.safetensors'}\n"
        "  mend: write `fan_in_fan_out: false` into adapter_config.json if the module is a torch.nn.Linear"
    )
    plain = shop.adapter(None, lora({QUERY: (HIDDEN, HIDDEN)}), fan_in_fan_out=False)
    assert not any(applied.transposed for applied in effects(shop, plain, model).values())


@pytest.mark.parametrize("kind", [["gpt2"], {"gpt2": 1}, None])
def test_a_model_type_that_is_no_text_is_no_family(shop: Workshop, kind: object) -> None:
    tensors = {"transformer.h.0.attn.c_proj.weight": torch.ones(HIDDEN, HIDDEN)}
    adapter = shop.adapter(None, lora({"transformer.h.0.attn.c_proj": (HIDDEN, HIDDEN)}))
    ((_, applied),) = effects(shop, adapter, shop.model(tensors, model_type=kind)).items()
    assert not applied.transposed
    assert not is_conv1d(read_model(shop.model(tensors, model_type=kind)), "transformer.h.0.attn.c_proj")


def test_each_pattern_is_compiled_once_however_many_there_are(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    patterns = {rf"model\.layers\.{number}\.self_attn\.[qk]_proj": 4 for number in range(600)}
    config = PeftConfig(path=shop.root, values={"r": 2, "rank_pattern": patterns, "alpha_pattern": patterns})
    compiled: list[str] = []
    compile_ = re._compiler.compile  # type: ignore[attr-defined]

    def counted(pattern: str, flags: int) -> object:
        compiled.append(pattern)
        return compile_(pattern, flags)

    re.purge()
    monkeypatch.setattr(re._compiler, "compile", counted)  # type: ignore[attr-defined]
    modules = [f"model.layers.{layer}.self_attn.{name}_proj" for layer in range(4) for name in "qkv"]
    ranks = [config.count("r", module, patterns="rank_pattern") for module in modules]
    alphas = [config.number("lora_alpha", module, patterns="alpha_pattern", default=8) for module in modules]
    assert ranks == [4, 4, 2] * 4
    assert alphas == [4, 4, 8] * 4
    assert len(compiled) == len(patterns)


def test_a_missing_file_is_named(shop: Workshop) -> None:
    folder = shop.adapter(None)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(NotFoundError) as caught:
        read_adapter(folder)
    assert caught.value.what == "adapter_model.safetensors is not there"


def test_the_configuration_must_be_a_table(shop: Workshop) -> None:
    folder = shop.adapter(None)
    (folder / "adapter_config.json").write_text(json.dumps([1]))
    with pytest.raises(InvalidError) as caught:
        read_adapter(folder)
    assert caught.value.what == "not a table"
