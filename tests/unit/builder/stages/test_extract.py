"""The extract stage: what it takes, keeps, drops and refuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from builder.manifest import ExtractStage, FoldStage
from builder.measures import labels_of
from builder.stages.extract import extract
from builder.stages.fold import fold
from builder.weighting import ONE
from builder.weights.folder import read_model
from registry.artifact import Artifact
from registry.errors import InvalidError
from registry.provenance import Provenance, ProvenanceInput
from registry.safetensors import read_header
from registry.selector import Selector
from tests.workshop import DOWN, HIDDEN, INNER, QUERY, WORDS, Workshop, llama, weights_digest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from builder.stage import Context, Outcome

NORM = "model.norm"
CAUSAL = {"architectures": ["LlamaForCausalLM"]}


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(root=tmp_path)


def moved(tensors: Mapping[str, torch.Tensor], *names: str, by: float = 0.5) -> dict[str, torch.Tensor]:
    """The same tensors, some of them changed at random."""
    generator = torch.Generator().manual_seed(3)
    return {
        name: tensor + (by * torch.randn(tensor.shape, generator=generator)).to(tensor.dtype)
        if name.removesuffix(".weight") in names or name in names
        else tensor
        for name, tensor in tensors.items()
    }


def run(shop: Workshop, before: Path, after: Path, **settings: object) -> tuple[Context[ExtractStage], Outcome]:
    context: Context[ExtractStage] = shop.context(
        ExtractStage(from_="tuned", against="base", **settings),
        shop.input("from", after, name="tuned"),
        shop.input("against", before, name="base"),
    )
    return context, extract(context)


def made(context: Context[Any], outcome: Outcome) -> Artifact:
    """The artifact as described by the stage; every digest that it gave is checked against the bytes."""
    artifact = Artifact.from_folder(context.out, outcome.type, outcome.written)
    artifact.verify_folder(context.out)
    artifact.write(context.out)
    return artifact


def config_of(context: Context[ExtractStage]) -> dict[str, Any]:
    return json.loads((context.out / "adapter_config.json").read_text())


def folded(shop: Workshop, base: Path, context: Context[ExtractStage]) -> dict[str, torch.Tensor]:
    folding = shop.context(
        FoldStage(from_="base", adapters={"delta": ONE}),
        shop.input("from", base),
        shop.input("adapter", context.out, name="delta"),
    )
    fold(folding)
    return {name: stored.load() for name, stored in read_model(folding.out).tensors.items()}


def refusal(shop: Workshop, before: Path, after: Path, **settings: object) -> InvalidError:
    with pytest.raises(InvalidError) as caught:
        run(shop, before, after, **settings)
    return caught.value


def test_only_what_differs_gets_factors(shop: Workshop) -> None:
    before, after = shop.model(**CAUSAL), shop.model(moved(llama(), QUERY, DOWN), **CAUSAL)
    context, outcome = run(shop, before, after, rank=4)
    made(context, outcome)
    config = config_of(context)
    assert config["target_modules"] == [QUERY, DOWN]
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (4, 4, "CAUSAL_LM")
    header = read_header(context.out / "adapter_model.safetensors")
    assert {name: (info.dtype, info.shape) for name, info in header.tensors.items()} == {
        f"base_model.model.{QUERY}.lora_A.weight": ("F32", (4, HIDDEN)),
        f"base_model.model.{QUERY}.lora_B.weight": ("F32", (HIDDEN, 4)),
        f"base_model.model.{DOWN}.lora_A.weight": ("F32", (4, INNER)),
        f"base_model.model.{DOWN}.lora_B.weight": ("F32", (HIDDEN, 4)),
    }
    inputs = [
        ProvenanceInput(role=role, weights_digest=weights_digest(one))
        for role, one in (("base", before), ("from", after))
    ]
    assert Provenance.from_metadata(header.metadata, where="test") == Provenance(
        kind="extract",
        method="lora",
        components=("attention.query", "mlp.down"),
        layers="0-1",
        inputs=tuple(sorted(inputs)),
    )
    rows = {(one.component, one.change, one.layers, one.tensors, one.by) for one in outcome.components}
    assert rows == {("attention.query", "added", "0", 1, "extract"), ("mlp.down", "added", "1", 1, "extract")}
    assert sorted(outcome.metrics) == ["error", "error-attention-query", "error-greatest", "error-mlp-down", "rank"]
    assert set(outcome.metrics) <= set(labels_of(ExtractStage(from_="a", against="b")))  # what a check may name
    assert outcome.depends_on == ("device", "versions", "threads")
    assert shop.said[0].startswith(f"extract: {QUERY}: rank 4, error ")
    assert shop.said[-1] == f"extract: {outcome.notes[-1]}"


def test_at_full_rank_the_changed_model_comes_back(shop: Workshop) -> None:
    tensors = llama(dtype=torch.float32)
    before, after = shop.model(tensors), shop.model(moved(tensors, QUERY, DOWN, "model.embed_tokens", "lm_head"))
    context, outcome = run(shop, before, after, energy=1.0)
    made(context, outcome)
    expected = read_model(after).tensors
    for name, values in folded(shop, before, context).items():
        assert float((values - expected[name].load()).abs().max()) < 1e-6, name
    assert outcome.metrics["error"]["value"] < 6e-8


def test_energy_chooses_each_rank(shop: Workshop) -> None:
    tensors = llama(dtype=torch.float32)
    after = dict(tensors)
    after[f"{QUERY}.weight"] = tensors[f"{QUERY}.weight"] + torch.outer(torch.arange(8.0), torch.ones(8))
    after[f"{DOWN}.weight"] = moved(tensors, DOWN)[f"{DOWN}.weight"]
    context, outcome = run(shop, shop.model(tensors), shop.model(after), energy=0.999)
    config = config_of(context)
    assert config["rank_pattern"] == {r"^model\.layers\.0\.self_attn\.q_proj": 1}
    assert config["r"] > 1
    assert outcome.metrics["error-attention-query"]["value"] < 1e-6
    assert 0 < outcome.metrics["error-mlp-down"]["value"] <= 0.001**0.5


def test_another_dtype_with_equal_numbers_is_no_difference(shop: Workshop) -> None:
    before, wide = shop.model(), {name: tensor.float() for name, tensor in llama().items()}
    assert refusal(shop, before, shop.model(wide)).what == "the two models hold the same numbers"
    context, _ = run(shop, before, shop.model(moved(wide, QUERY)))
    assert config_of(context)["target_modules"] == [QUERY]


@pytest.mark.parametrize("rest", ["refuse", "save", "drop"])
def test_what_no_factors_hold_is_refused_saved_or_dropped(shop: Workshop, rest: str) -> None:
    before, after = shop.model(), shop.model(moved(llama(), QUERY, NORM))
    if rest == "refuse":
        assert str(refusal(shop, before, after)) == (
            "1 of norm.final differ, which no factors hold; 1 tensor: model.norm.weight\n"
            "  where: demo:tuned against demo:base\n"
            "  mend: write `rest: save` to keep them whole or `rest: drop`, or leave them out by `targets`"
        )
        return
    context, outcome = run(shop, before, after, rest=rest)
    made(context, outcome)
    found = folded(shop, before, context)[f"{NORM}.weight"]
    expected = read_model(after if rest == "save" else before).tensors[f"{NORM}.weight"].load()
    assert torch.equal(found, expected)
    assert config_of(context)["modules_to_save"] == ([NORM] if rest == "save" else None)
    changes = {(one.component, one.change) for one in outcome.components}
    assert (("norm.final", "overridden") in changes) == (rest == "save")
    assert ("dropped, though they differ: 1 of norm.final" in outcome.notes) == (rest == "drop")


def test_a_bias_is_saved_by_itself(shop: Workshop) -> None:
    tensors = llama() | {f"{QUERY}.bias": torch.zeros(HIDDEN), f"{DOWN}.bias": torch.zeros(HIDDEN)}
    before = shop.model(tensors)
    for names, bias in (((QUERY, f"{QUERY}.bias"), "lora_only"), ((QUERY, f"{DOWN}.bias"), "all")):
        after = shop.model(moved(tensors, *names))
        context, outcome = run(shop, before, after, rest="save")
        made(context, outcome)
        assert config_of(context)["bias"] == bias
        found = folded(shop, before, context)
        assert torch.equal(found[names[1]], read_model(after).tensors[names[1]].load())


def test_targets_choose_and_the_record_names_what_was_left(shop: Workshop) -> None:
    before, after = shop.model(), shop.model(moved(llama(), QUERY, DOWN, NORM))
    context, outcome = run(shop, before, after, targets=Selector.parse("attention.query"))
    assert config_of(context)["target_modules"] == [QUERY]
    assert outcome.notes[0] == "left out by targets, though they differ: 1 of mlp.down, 1 of norm.final"
    error = refusal(shop, before, after, targets=Selector.parse("attention.key"))
    assert error.what == (
        "nothing of what targets means differs; what does: 1 of attention.query, 1 of mlp.down, 1 of norm.final"
    )


def test_other_tensors_are_refused_by_number_and_name(shop: Workshop) -> None:
    small, large = shop.model(llama(layers=1)), shop.model(llama(layers=2))
    error = refusal(shop, small, large)
    assert error.what == (
        "only the changed model has 8 tensors: model.layers.1.input_layernorm.weight, "
        "model.layers.1.mlp.down_proj.weight, model.layers.1.mlp.up_proj.weight and 5 more"
    )
    assert refusal(shop, large, small).what.startswith("the changed model lacks 8 tensors: ")


def test_another_vocabulary_is_refused_with_its_words(shop: Workshop) -> None:
    longer = {
        name: torch.cat([tensor, tensor[:2]]) if tensor.shape[0] == WORDS else tensor
        for name, tensor in llama().items()
    }
    error = refusal(shop, shop.model(), shop.model(longer))
    assert error.what == (
        f"2 of 19 tensors have other shapes, such as 'lm_head.weight': [{WORDS + 2}, {HIDDEN}] against "
        f"[{WORDS}, {HIDDEN}]"
    )
    assert error.mend == f"give both one vocabulary first, in a stage of kind graft: {WORDS + 2} words against {WORDS}"


def test_other_shapes_are_refused(shop: Workshop) -> None:
    turned = {name: tensor.T.contiguous() if name == f"{DOWN}.weight" else tensor for name, tensor in llama().items()}
    error = refusal(shop, shop.model(), shop.model(turned))
    assert error.what == (
        f"1 of 19 tensors have other shapes, such as '{DOWN}.weight': [{INNER}, {HIDDEN}] against [{HIDDEN}, {INNER}]"
    )
    assert error.mend == "name a model and one that was made from it with the same shapes"


def test_other_settings_are_refused_or_noted(shop: Workshop) -> None:
    changed = moved(llama(), QUERY)
    before = shop.model(num_attention_heads=4, rope_theta=10_000.0)
    error = refusal(shop, before, shop.model(changed, num_attention_heads=8, rope_theta=10_000.0))
    assert error.what == "tuned has another architecture than base: num_attention_heads is 8, not 4"
    assert error.mend == "name a model and one that was made from it with the same settings: an adapter changes none"
    _, outcome = run(shop, before, shop.model(changed, num_attention_heads=4, rope_theta=20_000.0))
    assert outcome.notes[0].startswith("rope_theta is 20000.0 in tuned")


def test_a_head_of_its_own_against_a_tied_one_is_refused(shop: Workshop) -> None:
    tied = shop.model(llama(tied=True), tie_word_embeddings=True)
    error = refusal(shop, tied, shop.model(llama()))
    assert error.what == ("tuned has a head of its own (lm_head.weight), in base the head is tied to the embedding")


def test_an_embedding_that_is_the_head_too_is_never_extracted(shop: Workshop) -> None:
    tensors = llama(tied=True)
    before = shop.model(tensors, tie_word_embeddings=True)
    after = shop.model(moved(tensors, QUERY, "model.embed_tokens"), tie_word_embeddings=True)
    for rest in ("refuse", "save"):
        error = refusal(shop, before, after, rest=rest)
        assert error.what == (
            "'model.embed_tokens.weight' differs and is the head, too: an adapter on it would change one of both only"
        )
    context, _ = run(shop, before, after, rest="drop")
    assert config_of(context)["target_modules"] == [QUERY]


def test_routers_and_experts_are_refused_even_to_be_saved(shop: Workshop) -> None:
    for name in ("model.layers.0.mlp.gate.weight", "model.layers.0.mlp.experts.0.up_proj.weight", "odd.weight"):
        tensors = llama() | {name: torch.ones(HIDDEN, HIDDEN, dtype=torch.bfloat16)}
        before, after = shop.model(tensors), shop.model(moved(tensors, QUERY, name))
        error = refusal(shop, before, after, rest="save")
        assert error.what.startswith(f"{name!r} differs, and PEFT neither puts LoRA on it nor saves it: ")
        run(shop, before, after, rest="drop")


def test_a_quantised_model_is_refused(shop: Workshop) -> None:
    quantised = shop.model(moved(llama(), QUERY), quantization_config={"quant_method": "bitsandbytes"})
    assert refusal(shop, shop.model(), quantised).what == "tuned is quantised; its numbers cannot be subtracted"


def test_nan_is_refused_with_its_file(shop: Workshop) -> None:
    changed = moved(llama(), QUERY)
    folder = shop.model(changed)
    for path in folder.glob("*.safetensors"):
        header = read_header(path)
        if (info := header.tensors.get(f"{QUERY}.weight")) is not None:
            data = bytearray(path.read_bytes())
            data[info.offset : info.offset + 2] = b"\xc0\x7f"
            path.write_bytes(data)
    error = refusal(shop, shop.model(), folder)
    assert error.what == f"tensor '{QUERY}.weight' holds NaN or an infinity"
    assert error.where.startswith(str(folder))


def test_nothing_but_vectors_is_no_adapter(shop: Workshop) -> None:
    error = refusal(shop, shop.model(), shop.model(moved(llama(), NORM)), rest="save")
    assert error.what == "no matrix changes, and a LoRA adapter must have one"


def test_a_difference_that_no_factor_can_show_gets_none(shop: Workshop) -> None:
    tensors = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in llama().items()}
    after = moved(moved(tensors, QUERY), DOWN, by=1e-180)
    context, _ = run(shop, shop.model(tensors), shop.model(after))
    assert config_of(context)["target_modules"] == [QUERY]


def gpt2(prefix: str) -> dict[str, torch.Tensor]:
    """Tensors as GPT-2's are, its Conv1D weights [in, out] and one of them square."""
    generator = torch.Generator().manual_seed(4)
    shapes = {"wte": (WORDS, 8), "wpe": (6, 8), "h.0.attn.c_attn": (8, 24), "h.0.attn.c_proj": (8, 8)}
    return {f"{prefix}{name}.weight": torch.randn(*shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_conv1d_is_turned_and_bare_names_get_their_prefix(shop: Workshop, prefix: str) -> None:
    tensors = gpt2(prefix)
    names = [f"{prefix}{name}" for name in ("wpe", "h.0.attn.c_attn", "h.0.attn.c_proj")]
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
    before, after = shop.model(tensors, **config), shop.model(moved(tensors, *names), **config)
    context, outcome = run(shop, before, after, energy=1.0)
    made(context, outcome)
    found = config_of(context)
    whole = [f"transformer.{name}" for name in ("h.0.attn.c_attn", "h.0.attn.c_proj", "wpe")]
    assert (found["target_modules"], found["fan_in_fan_out"]) == (whole, True)
    header = read_header(context.out / "adapter_model.safetensors")
    assert header.tensors["base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"].shape == (8, 8)
    assert header.tensors["base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"].shape == (24, 8)
    assert header.tensors["base_model.model.transformer.wpe.lora_embedding_A"].shape == (6, 6)
    expected = read_model(after).tensors
    for name, values in folded(shop, before, context).items():
        assert float((values - expected[name].load()).abs().max()) < 1e-6, name


def test_bare_names_of_a_family_that_is_not_known_are_refused(shop: Workshop) -> None:
    bare = {name.removeprefix("model."): tensor for name, tensor in llama().items()}
    after = moved(bare, QUERY.removeprefix("model."))
    error = refusal(shop, shop.model(bare, **CAUSAL), shop.model(after, **CAUSAL))
    assert error.what == "names of its tensors lack what the modules of LlamaForCausalLM have before them"
    of_class = {"architectures": ["LlamaModel"]}
    context, _ = run(shop, shop.model(bare, **of_class), shop.model(after, **of_class))
    assert config_of(context)["target_modules"] == ["layers.0.self_attn.q_proj"]


def test_a_name_that_peft_would_take_for_others_is_refused(shop: Workshop) -> None:
    bare = {name.removeprefix("model."): tensor for name, tensor in llama().items()}
    after = moved(bare, QUERY.removeprefix("model."), "norm")
    of_class = {"architectures": ["LlamaModel"]}
    error = refusal(shop, shop.model(bare, **of_class), shop.model(after, **of_class), rest="save")
    assert error.what == ("PEFT would take 'norm' for 'layers.0.input_layernorm', too, whose name ends like it")


def test_a_difference_that_factors_cannot_show_is_noted_and_in_no_map(shop: Workshop) -> None:
    before = llama(dtype=torch.float32)
    before[f"{QUERY}.weight"].zero_()
    after = moved(before, DOWN)
    after[f"{QUERY}.weight"] = before[f"{QUERY}.weight"].double()
    after[f"{QUERY}.weight"][0, 0] = 1e-200  # its square is nothing in float64
    context, outcome = run(shop, shop.model(before), shop.model(after))
    made(context, outcome)
    assert [(one.component, one.change, one.layers, one.tensors) for one in outcome.components] == [
        ("mlp.down", "added", "1", 1)
    ]
    assert f"differ by less than factors can hold: 1 of attention.query; 1 tensor: {QUERY}.weight" in outcome.notes
    header = read_header(context.out / "adapter_model.safetensors")
    stated = Provenance.from_metadata(header.metadata, where="test")
    assert stated is not None
    assert (stated.components, stated.layers) == (("mlp.down",), "1")
