"""The fuse stage: what it writes and says, what goes along, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations
from typing import TYPE_CHECKING, Any

import pytest
import torch

from builder.manifest import FoldStage, FuseStage
from builder.measures import labels_of
from builder.stages.fold import fold
from builder.stages.fuse import fuse
from builder.weighting import ONE, Weighting
from builder.weights.folder import read_model
from registry.artifact import Artifact
from registry.digest import Digest
from registry.errors import InvalidError
from registry.provenance import Provenance, ProvenanceInput
from registry.safetensors import read_header
from tests.workshop import DOWN, HIDDEN, INNER, QUERY, WORDS, Workshop, llama, lora, weights_digest

if TYPE_CHECKING:
    from pathlib import Path

    from builder.stage import Context, Input, Outcome

NORM = "model.norm"
EMBEDDING = "model.embed_tokens"


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(root=tmp_path)


def run(shop: Workshop, *inputs: Input, **settings: object) -> tuple[Context[FuseStage], Outcome]:
    adapters = {one.name: ONE for one in inputs if one.role == "adapter"}
    context: Context[FuseStage] = shop.context(FuseStage(adapters=adapters, **settings), *inputs)
    return context, fuse(context)


def made(context: Context[Any], outcome: Outcome) -> Artifact:
    """The artifact as described by the stage; every digest that it gave is checked against the bytes."""
    artifact = Artifact.from_folder(context.out, outcome.type, outcome.written)
    artifact.verify_folder(context.out)
    artifact.write(context.out)
    return artifact


def config_of(context: Context[FuseStage]) -> dict[str, Any]:
    return json.loads((context.out / "adapter_config.json").read_text())


def folded(shop: Workshop, base: Path, *adapters: Input) -> dict[str, torch.Tensor]:
    settings = FoldStage(from_="base", adapters={one.name: ONE for one in adapters})
    context = shop.context(settings, shop.input("from", base), *adapters)
    fold(context)
    return {name: stored.load() for name, stored in read_model(context.out).tensors.items()}


def saving(seed: int = 1) -> dict[str, torch.Tensor]:
    """An adapter that has a whole norm, too."""
    values = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(seed))
    return lora({QUERY: (HIDDEN, HIDDEN)}, seed=seed) | {f"base_model.model.{NORM}.weight": values}


def refusal(shop: Workshop, *inputs: Input, **settings: object) -> InvalidError:
    with pytest.raises(InvalidError) as caught:
        run(shop, *inputs, **settings)
    return caught.value


def test_a_fused_adapter_folds_to_what_its_adapters_fold_to(shop: Workshop) -> None:
    base = shop.model(llama(dtype=torch.float16))
    tone = shop.input("adapter", shop.adapter(base), name="tone", weight=0.5)
    voice_factors = lora({QUERY: (HIDDEN, HIDDEN)}, rank=3, seed=5)
    voice = shop.input("adapter", shop.adapter(base, voice_factors, r=3, lora_alpha=6), name="voice", weight=-0.25)
    context, outcome = run(shop, shop.input("base", base), tone, voice)
    made(context, outcome)
    found = folded(shop, base, shop.input("adapter", context.out, name="fused"))
    for name, expected in folded(shop, base, tone, voice).items():
        assert torch.equal(found[name], expected), name
    assert outcome.metrics["error"] == {"value": 0.0}  # every factor is a power of two
    assert outcome.depends_on == ()


def test_configuration_gives_every_module_scale_one(shop: Workshop) -> None:
    base = shop.model()
    wide = shop.adapter(base, lora({QUERY: (HIDDEN, HIDDEN)}, rank=3, seed=5), r=3)
    context, _ = run(
        shop,
        shop.input("base", base),
        shop.input("adapter", shop.adapter(base), name="tone"),
        shop.input("adapter", wide, name="voice"),
    )
    config = config_of(context)
    assert (config["peft_type"], config["r"], config["lora_alpha"], config["use_rslora"]) == ("LORA", 5, 5, False)
    assert config["target_modules"] == [QUERY, DOWN]
    down = r"^model\.layers\.1\.mlp\.down_proj"
    assert config["rank_pattern"] == config["alpha_pattern"] == {down: 2}
    assert (config["modules_to_save"], config["bias"], config["trainable_token_indices"]) == (None, "none", None)
    shapes = {name: info.shape for name, info in read_header(context.out / "adapter_model.safetensors").tensors.items()}
    assert shapes[f"base_model.model.{QUERY}.lora_A.weight"] == (5, HIDDEN)
    assert shapes[f"base_model.model.{DOWN}.lora_B.weight"] == (HIDDEN, 2)


def test_provenance_components_and_figures_say_what_was_done(shop: Workshop) -> None:
    base = shop.model()
    tone, voice = shop.adapter(base), shop.adapter(base, saving(5), modules_to_save=[NORM])
    context, outcome = run(
        shop,
        shop.input("base", base),
        shop.input("adapter", tone, name="tone", weight=0.3),
        shop.input("adapter", voice, name="voice"),
        method="linear",
        energy=0.9,
    )
    inputs = [ProvenanceInput(role="adapter", weights_digest=weights_digest(one)) for one in (tone, voice)]
    inputs.append(ProvenanceInput(role="base", weights_digest=weights_digest(base)))
    header = read_header(context.out / "adapter_model.safetensors")
    assert Provenance.from_metadata(header.metadata, where="test") == Provenance(
        kind="fuse",
        method="linear",
        components=("attention.query", "mlp.down", "norm.final"),
        layers="0-1",
        inputs=tuple(sorted(inputs)),
    )
    rows = {(one.component, one.change, one.layers, one.tensors, one.by) for one in outcome.components}
    assert rows == {
        ("attention.query", "composed", "0", 1, "tone, voice"),
        ("mlp.down", "added", "1", 1, "tone"),
        ("norm.final", "overridden", "", 1, "voice"),
    }
    assert sorted(outcome.metrics) == ["error", "error-attention-query", "error-greatest", "error-mlp-down", "rank"]
    assert set(outcome.metrics) <= set(labels_of(FuseStage(adapters={}, method="linear")))  # what a check may name
    assert 0 < outcome.metrics["error"]["value"] < 0.1**0.5
    assert outcome.depends_on == ("device", "versions", "threads")
    assert shop.said[-1] == f"fuse: {outcome.notes[-1]}"
    assert len(shop.said) == 3


@pytest.mark.parametrize(("method", "limit"), [("concat", {}), ("linear", {"rank": 3}), ("dare_ties", {"rank": 3})])
def test_neither_order_nor_names_change_the_bytes(shop: Workshop, method: str, limit: dict[str, int]) -> None:
    base = shop.model()
    adapters = [shop.adapter(base, lora({QUERY: (HIDDEN, HIDDEN)}, seed=seed)) for seed in (1, 2, 3)]
    density = {"density": Weighting.of(0.5)} if method == "dare_ties" else {}
    digests = set()
    for number, order in enumerate(permutations(zip(adapters, (0.3, 0.7, 1.9), strict=True))):
        inputs = [
            shop.input("adapter", path, name=f"a{number}-{place}", weight=weight)
            for place, (path, weight) in enumerate(order)
        ]
        digests.add(made(*run(shop, shop.input("base", base), *inputs, method=method, **limit, **density)).digest)
    assert len(digests) == 1


def test_a_selector_is_a_mask(shop: Workshop) -> None:
    base = shop.model()
    rules = Weighting.parse([{"value": 1}, {"on": "mlp", "value": 0}], where="test")
    adapter = replace(shop.input("adapter", shop.adapter(base), name="tone"), settings={"weight": rules.to_json()})
    context, _ = run(shop, shop.input("base", base), adapter)
    assert config_of(context)["target_modules"] == [QUERY]


def test_a_sum_of_zero_has_no_factors(shop: Workshop) -> None:
    base = shop.model()
    tone = shop.adapter(base)
    query = shop.adapter(base, lora({QUERY: (HIDDEN, HIDDEN)}))
    context, outcome = run(
        shop,
        shop.input("base", base),
        shop.input("adapter", tone, name="tone"),
        shop.input("adapter", query, name="same", weight=-1),
        method="linear",
    )
    assert config_of(context)["target_modules"] == [DOWN]
    assert outcome.notes[0] == f"what is added to {QUERY} is zero: it has no factors"


def test_what_a_killed_run_left_does_no_harm(shop: Workshop) -> None:
    base = shop.model()
    inputs = shop.input("base", base), shop.input("adapter", shop.adapter(base), name="tone")
    first, outcome = run(shop, *inputs)
    again: Context[FuseStage] = shop.context(FuseStage(adapters={"tone": ONE}), *inputs)
    (again.work / "factors").mkdir()
    (again.work / "factors" / "0.safetensors").write_bytes(b"half a file")
    assert made(again, fuse(again)).digest == made(first, outcome).digest


def test_a_whole_tensor_goes_along_with_weight_one_only(shop: Workshop) -> None:
    base = shop.model()
    saver = shop.adapter(base, saving(), modules_to_save=[NORM])
    context, _ = run(shop, shop.input("base", base), shop.input("adapter", saver, name="saver"))
    assert config_of(context)["modules_to_save"] == [NORM]
    tensors = read_model(base).tensors
    found = folded(shop, base, shop.input("adapter", _described(context), name="fused"))
    assert torch.equal(
        found[f"{NORM}.weight"], saving()[f"base_model.model.{NORM}.weight"].to(tensors[f"{NORM}.weight"].load().dtype)
    )
    error = refusal(shop, shop.input("base", base), shop.input("adapter", saver, name="saver", weight=0.5))
    assert str(error) == (
        "saver has weight 0.5 on model.norm.weight, which it changes without factors: it can be taken as it is or not "
        "at all\n"
        "  where: demo:saver: model.norm\n"
        "  mend: give it weight 1 or 0 there: [{value: 0.5}, {on: model.norm.weight, value: 1}]"
    )


def _described(context: Context[FuseStage]) -> Path:
    Artifact.from_folder(context.out, "adapter").write(context.out)
    return context.out


def test_two_whole_tensors_are_not_summed(shop: Workshop) -> None:
    base = shop.model()
    savers = [shop.adapter(base, saving(seed), modules_to_save=[NORM]) for seed in (1, 2)]
    inputs = [shop.input("adapter", path, name=name) for path, name in zip(savers, ("one", "two"), strict=True)]
    error = refusal(shop, shop.input("base", base), *inputs)
    names = " and ".join(one.name for one in sorted(inputs, key=lambda one: one.digest))
    assert error.what == f"{names} change model.norm.weight, not all of them by factors: no adapter holds the sum"
    masked = Weighting.parse([{"value": 1}, {"on": "model.norm.weight", "value": 0}], where="test")
    inputs[1] = replace(inputs[1], settings={"weight": masked.to_json()})
    context, _ = run(shop, shop.input("base", base), *inputs)
    assert config_of(context)["modules_to_save"] == [NORM]


def test_factors_and_a_whole_tensor_do_not_meet(shop: Workshop) -> None:
    base = shop.model()
    head = lora({QUERY: (HIDDEN, HIDDEN)}) | {"base_model.model.lm_head.weight": torch.ones(WORDS, HIDDEN)}
    whole = shop.input("adapter", shop.adapter(base, head, modules_to_save=["lm_head"]), name="whole")
    thin = shop.input("adapter", shop.adapter(base, lora({"lm_head": (WORDS, HIDDEN)})), name="thin")
    error = refusal(shop, shop.input("base", base), whole, thin)
    assert "change lm_head.weight, not all of them by factors: no adapter holds the sum" in error.what


def test_rows_of_tokens_go_along(shop: Workshop) -> None:
    base = shop.model()
    rows = {f"base_model.model.{EMBEDDING}.token_adapter.trainable_tokens_delta": torch.ones(2, HIDDEN)}
    tokens = shop.adapter(
        base, lora({QUERY: (HIDDEN, HIDDEN)}) | rows, trainable_token_indices={"embed_tokens": [9, 4]}
    )
    context, _ = run(
        shop,
        shop.input("base", base),
        shop.input("adapter", tokens, name="tokens"),
        shop.input("adapter", shop.adapter(base), name="tone", weight=2),
    )
    assert config_of(context)["trainable_token_indices"] == {EMBEDDING: [9, 4]}
    found = folded(shop, base, shop.input("adapter", _described(context), name="fused"))
    assert bool((found[f"{EMBEDDING}.weight"][[4, 9]] == 1).all())


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"rank": 4}, "concat keeps every factor, so there is no rank to choose"),
        ({"energy": 0.9}, "concat keeps every factor, so there is no rank to choose"),
        ({"method": "ties", "density": Weighting.of(0.5)}, "ties leaves deltas of full rank"),
        ({"method": "linear", "density": Weighting.of(0.5)}, "linear drops nothing, so it has no density"),
    ],
)
def test_settings_that_a_method_has_no_use_for_are_refused(
    shop: Workshop, settings: dict[str, object], what: str
) -> None:
    base = shop.model()
    inputs = shop.input("base", base), shop.input("adapter", shop.adapter(base), name="tone")
    assert refusal(shop, *inputs, **settings).what == what


def test_what_is_no_sum_is_not_put_side_by_side(shop: Workshop) -> None:
    base = shop.model()
    factors = lora({QUERY: (HIDDEN, HIDDEN)})
    factors[f"base_model.model.{QUERY}.lora_magnitude_vector"] = torch.ones(HIDDEN)
    inputs = shop.input("base", base), shop.input("adapter", shop.adapter(base, factors, use_dora=True), name="dora")
    assert str(refusal(shop, *inputs)) == (
        f"dora is lora and what it does to {QUERY}.weight depends on the weight: "
        "no factors are put side by side for that\n"
        f"  where: demo:dora: {QUERY}\n"
        "  mend: write `method: linear`, and a `rank` or an `energy`: it takes what comes out less the weight"
    )
    _, outcome = run(shop, *inputs, method="linear")
    assert outcome.metrics["error"]["value"] < 1e-7


def test_an_adapter_of_another_base_is_refused(shop: Workshop) -> None:
    base, other = shop.model(), shop.model(llama(dtype=torch.float16))
    stranger = shop.input("adapter", shop.adapter(other), name="tone")
    error = refusal(shop, shop.input("base", base, ancestors=frozenset({Digest("0" * 64)})), stranger)
    assert error.what.startswith("adapter tone has an unrelated base")
    context, outcome = run(shop, shop.input("base", base, ancestors=frozenset({weights_digest(other)})), stranger)
    assert outcome.notes[0].startswith("adapter tone was rebased")
    header = read_header(context.out / "adapter_model.safetensors")
    provenance = Provenance.from_metadata(header.metadata, where="test")
    assert provenance is not None
    assert ProvenanceInput(role="base", weights_digest=weights_digest(base)) in provenance.inputs


def test_what_cancels_is_in_neither_map_nor_provenance(shop: Workshop) -> None:
    base = shop.model()
    one = lora({QUERY: (HIDDEN, HIDDEN), DOWN: (HIDDEN, INNER)})
    other = {name: 2 * tensor if f"{DOWN}.lora_B" in name else tensor for name, tensor in one.items()}
    context, outcome = run(
        shop,
        shop.input("base", base),
        shop.input("adapter", shop.adapter(base, one), name="a"),
        shop.input("adapter", shop.adapter(base, other), name="b", weight=-1.0),
        shop.input("adapter", shop.adapter(base, lora({QUERY: (HIDDEN, HIDDEN)}, seed=7)), name="idle", weight=0),
        method="linear",
    )
    rows = [(row.component, row.change, row.layers, row.tensors, row.by) for row in outcome.components]
    assert rows == [("mlp.down", "composed", "1", 1, "a, b")]
    assert outcome.notes[:2] == (
        "adapter idle has weight 0: nothing of it was taken",
        f"what is added to {QUERY} is zero: it has no factors",
    )
    header = read_header(context.out / "adapter_model.safetensors")
    stated = Provenance.from_metadata(header.metadata, where="test")
    assert stated is not None
    assert (stated.components, stated.layers) == (("mlp.down",), "1")
    assert len(stated.inputs) == 3


def test_nothing_at_all_is_no_adapter(shop: Workshop) -> None:
    base = shop.model()
    error = refusal(shop, shop.input("base", base), shop.input("adapter", shop.adapter(base), name="tone", weight=0))
    assert error.what == "no matrix changes, and a LoRA adapter must have one"


def test_adapters_of_two_classes_of_a_model_are_refused(shop: Workshop) -> None:
    base = shop.model()
    bare = lora({QUERY.removeprefix("model."): (HIDDEN, HIDDEN)})
    inputs = [
        shop.input("adapter", shop.adapter(base), name="whole"),
        shop.input("adapter", shop.adapter(base, bare), name="bare"),
    ]
    error = refusal(shop, shop.input("base", base), *inputs)
    assert error.what.endswith("the adapters were trained on different classes of the model")
    assert f"{QUERY} in whole" in error.what
    assert "layers.0.self_attn.q_proj in bare" in error.what


def test_an_embedding_that_is_the_head_too_is_refused(shop: Workshop) -> None:
    base = shop.model(llama(tied=True), tie_word_embeddings=True)
    generator = torch.Generator().manual_seed(1)
    down, up = (torch.randn(*shape, generator=generator) for shape in ((2, WORDS), (HIDDEN, 2)))
    factors = {
        f"base_model.model.{EMBEDDING}.lora_embedding_A": down,
        f"base_model.model.{EMBEDDING}.lora_embedding_B": up,
        "base_model.model.lm_head.lora_A.weight": up.T.contiguous(),
        "base_model.model.lm_head.lora_B.weight": down.T.contiguous(),
    }
    adapter = shop.input("adapter", shop.adapter(base, factors, ensure_weight_tying=True), name="both")
    error = refusal(shop, shop.input("base", base), adapter)
    assert error.what == (
        f"both changes {EMBEDDING}.weight, which is the head, too: the change would have to be there twice"
    )
    whole = lora({QUERY: (HIDDEN, HIDDEN)}) | {
        f"base_model.model.{name}.weight": torch.ones(WORDS, HIDDEN) for name in (EMBEDDING, "lm_head")
    }
    saver = shop.adapter(base, whole, modules_to_save=["embed_tokens", "lm_head"], ensure_weight_tying=True)
    error = refusal(shop, shop.input("base", base), shop.input("adapter", saver, name="saver"))
    assert "which is the head, too" in error.what


def test_one_of_many_experts_is_refused(shop: Workshop) -> None:
    expert = "model.layers.0.mlp.experts.0.up_proj"
    base = shop.model(llama() | {f"{expert}.weight": torch.ones(INNER, HIDDEN, dtype=torch.bfloat16)})
    adapter = shop.input("adapter", shop.adapter(base, lora({expert: (INNER, HIDDEN)})), name="expert")
    assert refusal(shop, shop.input("base", base), adapter).what == (
        f"expert changes {expert}.weight, which is no matrix of a module of its own: plain LoRA has no place for that"
    )


def test_a_factor_beyond_float32_is_refused(shop: Workshop) -> None:
    base = shop.model()
    factors = {name: tensor * 1e38 for name, tensor in lora({QUERY: (HIDDEN, HIDDEN)}).items()}
    adapter = shop.input("adapter", shop.adapter(base, factors), name="loud", weight=100)
    error = refusal(shop, shop.input("base", base), adapter)
    assert error.what == f"values of '{QUERY}.B' are beyond what F32 can hold"
    double = {name: tensor.double() * 1e120 for name, tensor in factors.items()}
    adapter = shop.input("adapter", shop.adapter(base, double), name="absurd")
    error = refusal(shop, shop.input("base", base), adapter, method="linear", rank=1)
    assert error.what == "a sum of deltas has numbers whose squares are beyond float64"
