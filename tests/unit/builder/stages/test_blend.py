"""The blend stage: which tensors meet, what is copied, what is linked, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from builder.stages.blend import blend
from builder.weight_stages import BlendRule, BlendSettings, BlendSource, BlendStage
from builder.weights.folder import read_model
from builder.weights.rounding import round_once
from builder.weights.stream import Scratch
from registry.artifact import Artifact
from registry.errors import InvalidError
from registry.provenance import Provenance, ProvenanceInput
from registry.record import Renumbered
from registry.selector import Selector
from tests.workshop import WORDS, Workshop, llama, weights_digest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from builder.stage import Context, Input, Outcome
    from builder.weight_stages import BlendMethod
    from registry.canonical import JSON

QUERY = "model.layers.0.self_attn.q_proj.weight"
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(root=tmp_path)


def stage(method: BlendMethod = "linear", **settings: object) -> BlendStage:
    return replace(BlendStage(method=method, models={"a": BlendSource()}), **settings)


def model(shop: Workshop, path: Path, name: str, role: str = "model", **settings: JSON) -> Input:
    return replace(shop.input(role, path, name=name), settings=settings)


def run(shop: Workshop, settings: BlendStage, *inputs: Input, threads: int = 2) -> tuple[Context[BlendStage], Outcome]:
    context = shop.context(settings, *inputs, threads=threads)
    return context, blend(context)


def made(context: Context[BlendStage], outcome: Outcome) -> Artifact:
    """The artifact as described by the stage; every digest that it gave is checked against the bytes."""
    artifact = Artifact.from_folder(context.out, outcome.type, outcome.written)
    artifact.verify_folder(context.out)
    assert artifact == Artifact.from_folder(context.out, outcome.type)
    return artifact


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: stored.load() for name, stored in read_model(folder).tensors.items()}


def other(seed: int = 3, **options: bool | int) -> dict[str, torch.Tensor]:
    """A model like ``llama()`` with other numbers."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
        for name, tensor in llama(**options).items()
    }


def nearest(exact: torch.Tensor) -> torch.Tensor:
    """float64 -> the nearest bfloat16."""
    out = torch.empty(exact.numel(), dtype=torch.bfloat16)
    assert round_once(exact.reshape(-1).clone(), out, Scratch())
    return out.view(exact.shape)


# Numbers


def test_a_linear_blend_is_the_weighted_mean_rounded_once(shop: Workshop) -> None:
    ours, theirs = llama(), other()
    a, b = shop.model(ours), shop.model(theirs)
    context, outcome = run(shop, stage(), model(shop, a, "a", weight=1.0), model(shop, b, "b", weight=3.0))
    for name, tensor in tensors(context.out).items():
        assert torch.equal(tensor, nearest((ours[name].double() + 3 * theirs[name].double()) / 4)), name
    assert outcome.depends_on == ()
    assert shop.said == ["blend: 19 of 19 tensors are computed, the others copied"]
    artifact = made(context, outcome)
    header = read_model(context.out).shards["model-00002-of-00007.safetensors"]
    assert Provenance.from_metadata(header.metadata, where="") == Provenance(
        kind="blend",
        method="linear",
        components=(
            "attention.key",
            "attention.output",
            "attention.query",
            "attention.value",
            "embedding.token",
            "head",
            "mlp.down",
            "mlp.up",
            "norm.attention",
            "norm.final",
            "norm.mlp",
        ),
        layers="0-1",
        inputs=tuple(sorted(ProvenanceInput(role="model", weights_digest=weights_digest(one)) for one in (a, b))),
    )
    assert {(row.change, row.by) for row in outcome.components} == {("blended", "a, b")}
    assert sum(row.tensors for row in outcome.components) == len(artifact.tensors)


def test_neither_names_nor_order_nor_threads_decide_the_bytes(shop: Workshop) -> None:
    paths = [shop.model(llama()), shop.model(other()), shop.model(other(4))]
    weights = [0.2, 0.5, -0.3]
    digests = set()
    for number, order in enumerate(((0, 1, 2), (2, 1, 0), (1, 2, 0))):
        inputs = [model(shop, paths[one], f"m{place}", weight=weights[one]) for place, one in enumerate(order)]
        context, outcome = run(shop, stage(dtype="float32"), *inputs, threads=1 + number % 3)
        digests.add(made(context, outcome).digest)
        assert outcome.depends_on == ("device", "versions")
    assert len(digests) == 1


def test_weights_speak_of_selectors_and_of_depth(shop: Workshop) -> None:
    ours, theirs = llama(), other()
    first = [{"value": 1.0}, {"on": "mlp", "value": [1.0, 3.0]}]
    a, b = model(shop, shop.model(ours), "a", weight=first), model(shop, shop.model(theirs), "b")
    found = tensors(run(shop, stage(), a, b)[0].out)
    for layer, weight in ((0, 1.0), (1, 3.0)):
        name = f"model.layers.{layer}.mlp.up_proj.weight"
        assert torch.equal(found[name], nearest((weight * ours[name].double() + theirs[name].double()) / (weight + 1)))
    assert torch.equal(found[QUERY], nearest((ours[QUERY].double() + theirs[QUERY].double()) / 2))


def test_a_tensor_has_the_method_of_the_last_entry_that_means_it(shop: Workshop) -> None:
    ours, theirs = llama(), other()
    rules = (
        BlendRule(on=Selector.parse("attention"), method="linear", settings=BlendSettings(normalize=False)),
        BlendRule(on=Selector.parse("attention.query"), method="linear"),
    )
    inputs = (model(shop, shop.model(ours), "a"), model(shop, shop.model(theirs), "b"))
    context, _ = run(shop, stage("karcher", methods=rules), *inputs)
    found = tensors(context.out)
    key = QUERY.replace("q_proj", "k_proj")
    assert torch.equal(found[key], nearest(ours[key].double() + theirs[key].double()))
    assert torch.equal(found[QUERY], nearest((ours[QUERY].double() + theirs[QUERY].double()) / 2))
    metadata = read_model(context.out).shards["model-00001-of-00007.safetensors"].metadata
    provenance = Provenance.from_metadata(metadata, where="")
    assert provenance is not None
    assert provenance.method == "karcher+linear"


def test_a_blend_starts_from_against(shop: Workshop) -> None:
    ours, theirs, start = llama(), other(), other(9)
    context, outcome = run(
        shop,
        stage("task_arithmetic"),
        model(shop, shop.model(ours), "a", weight=0.5),
        model(shop, shop.model(theirs), "b", weight=0.25),
        model(shop, shop.model(start), "start", "against"),
    )
    base = start[QUERY].double()
    exact = base + 0.5 * (ours[QUERY].double() - base) + 0.25 * (theirs[QUERY].double() - base)
    assert torch.equal(tensors(context.out)[QUERY], nearest(exact))
    assert {row.by for row in outcome.components} == {"a, b"}


def test_the_model_that_a_blend_starts_from_is_none_of_those_that_it_goes_to(shop: Workshop) -> None:
    ours, start = llama(), other(9)
    base = shop.model(start)
    inputs = (model(shop, shop.model(ours), "a"), model(shop, base, "b"), model(shop, base, "b", "against"))
    settings = stage("slerp")
    context, outcome = run(shop, settings, *inputs)
    made(context, outcome)
    assert {row.by for row in outcome.components} == {"a"}
    # A method that starts from none takes it as one of the models.
    _, outcome = run(shop, stage(), *inputs)
    assert {row.by for row in outcome.components} == {"a, b"}


# What is copied


def test_what_all_models_share_is_linked_and_not_computed(shop: Workshop) -> None:
    ours = llama()
    theirs = {name: ours[name] if "self_attn" not in name else tensor for name, tensor in other().items()}
    a, b = shop.model(ours), shop.model(theirs)
    context, outcome = run(shop, stage(), model(shop, a, "a"), model(shop, b, "b"))
    assert shop.said == ["blend: 8 of 19 tensors are computed, the others copied"]
    made(context, outcome)
    for file in ("model-00001-of-00007", "model-00003-of-00007", "model-00007-of-00007"):
        name = f"{file}.safetensors"
        assert (context.out / name).read_bytes() == (a / name).read_bytes()
    changes = {(row.component, row.change, row.by) for row in outcome.components}
    assert ("attention.query", "blended", "a, b") in changes
    assert ("norm.attention", "kept", "") in changes
    assert ("embedding.token", "kept", "") in changes


def test_equal_tensors_are_computed_where_the_sum_is_not_divided(shop: Workshop) -> None:
    ours = llama()
    inputs = (model(shop, shop.model(ours), "a"), model(shop, shop.model(ours, note=1), "b"))
    context, _ = run(shop, stage(settings=BlendSettings(normalize=False)), *inputs)
    assert torch.equal(tensors(context.out)[QUERY], nearest(2 * ours[QUERY].double()))


def test_a_model_that_alone_has_a_weight_is_copied_in_files_of_its_own(shop: Workshop) -> None:
    ours, theirs = llama(), other()
    a, b = shop.model(ours), shop.model(theirs)
    picked = [{"value": 0.0}, {"on": "mlp", "value": 1.0}, {"on": "norm.mlp", "value": 1.0}]
    rest = [{"value": 1.0}, {"on": "mlp", "value": 0.0}, {"on": "norm.mlp", "value": 0.0}]
    context, outcome = run(
        shop,
        stage(),
        model(shop, b, "b", weight=picked),
        model(shop, a, "a", weight=rest),
        model(shop, a, "a", "against"),
    )
    assert shop.said == ["blend: 0 of 19 tensors are computed, the others copied"]
    made(context, outcome)
    assert (context.out / "model-00003-of-00007.safetensors").read_bytes() == (
        b / "model-00003-of-00007.safetensors"
    ).read_bytes()
    assert (context.out / "model-00002-of-00007.safetensors").read_bytes() == (
        a / "model-00002-of-00007.safetensors"
    ).read_bytes()
    changes = {row.component: (row.change, row.by) for row in outcome.components}
    assert changes["mlp.up"] == ("copied", "b")
    assert changes["attention.query"] == ("kept", "")
    assert outcome.depends_on == ()


def test_tensors_of_no_floats_are_taken_where_all_agree(shop: Workshop) -> None:
    mask = {"model.layers.0.self_attn.bias": torch.ones(4, dtype=torch.uint8)}
    a, b = shop.model({**llama(), **mask}), shop.model({**other(), **mask})
    context, _ = run(shop, stage(), model(shop, a, "a"), model(shop, b, "b"))
    assert torch.equal(tensors(context.out)["model.layers.0.self_attn.bias"], torch.ones(4, dtype=torch.uint8))
    strange = shop.model({**other(), "model.layers.0.self_attn.bias": torch.zeros(4, dtype=torch.uint8)})
    with pytest.raises(InvalidError) as caught:
        run(shop, stage(), model(shop, a, "a"), model(shop, strange, "strange"))
    assert caught.value.what.startswith("'model.layers.0.self_attn.bias' is U8 and not the same in ")
    assert caught.value.what.endswith("; only floats can be blended")


# The result's dtype and files


@pytest.mark.parametrize(("dtype", "name"), [("float32", "F32"), ("float16", "F16"), ("bfloat16", "BF16")])
def test_another_dtype_is_in_the_weights_and_in_the_configuration(shop: Workshop, dtype: str, name: str) -> None:
    said = {"torch_dtype": "bfloat16", "text_config": {"dtype": "bfloat16"}, "tokens": 3}
    a, b = shop.model(llama(), **said), shop.model(other(), **said)
    context, _ = run(shop, stage(dtype=dtype), model(shop, a, "a"), model(shop, b, "b"))
    assert {stored.info.dtype for stored in read_model(context.out).tensors.values()} == {name}
    config = json.loads((context.out / "config.json").read_text())
    assert config == {
        "model_type": "llama",
        "torch_dtype": dtype,
        "text_config": {"dtype": dtype},
        "tokens": 3,
    }


def test_the_dtype_and_the_files_are_those_of_the_base(shop: Workshop) -> None:
    wide = {name: tensor.float() for name, tensor in other().items()}
    a, b = shop.model(llama(), mark="a"), shop.model(wide, mark="b")
    for base, dtype in ((a, "BF16"), (b, "F32")):
        inputs = (model(shop, a, "a"), model(shop, b, "b"), model(shop, base, "base", "against"))
        context, outcome = run(shop, stage(), *inputs)
        assert {stored.info.dtype for stored in read_model(context.out).tensors.values()} == {dtype}
        assert (context.out / "config.json").read_bytes() == (base / "config.json").read_bytes()
        assert [note for note in outcome.notes if note.startswith("mark")]


def test_without_against_the_base_is_the_first_by_digest(shop: Workshop) -> None:
    a, b = shop.model(llama(), mark="a"), shop.model(other(), mark="b")
    first = min((a, b), key=lambda path: str(weights_digest(path)))
    for names in (("a", "b"), ("b", "a")):
        inputs = [model(shop, path, name) for path, name in zip((a, b), names, strict=True)]
        context, _ = run(shop, stage(), *inputs)
        assert (context.out / "config.json").read_bytes() == (first / "config.json").read_bytes()


# Architecture


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"num_attention_heads": 4}, "num_attention_heads is 4, not 2"),
        ({"model_type": "qwen2"}, 'model_type is "qwen2", not "llama"'),
        (
            {"num_attention_heads": 4, "text_config": {"hidden_size": 16}},
            "num_attention_heads is 4, not 2; text_config.hidden_size is 16, not 8",
        ),
    ],
)
def test_another_architecture_is_refused_by_its_keys(shop: Workshop, config: dict[str, object], said: str) -> None:
    a = shop.model(llama(), num_attention_heads=2, text_config={"hidden_size": 8})
    b = shop.model(other(), **({"num_attention_heads": 2, "text_config": {"hidden_size": 8}} | config))
    with pytest.raises(InvalidError) as caught:
        run(shop, stage(), model(shop, a, "a"), model(shop, b, "b"), model(shop, a, "a", "against"))
    assert str(caught.value) == (
        f"b has another architecture than a: {said}\n"
        "  where: demo:b with demo:a\n"
        "  mend: blend models that were trained from one another, or from one base"
    )


def test_settings_that_shape_nothing_are_noted(shop: Workshop) -> None:
    a, b = shop.model(llama(), rope_theta=10000.0, use_cache=True), shop.model(other(), rope_theta=1e6, use_cache=False)
    _, outcome = run(shop, stage(), model(shop, a, "a"), model(shop, b, "b"), model(shop, a, "a", "against"))
    assert outcome.notes[0] == "rope_theta is 1000000.0 in b; the result has 10000.0, as a"


def test_other_tensors_are_refused_with_counts(shop: Workshop) -> None:
    ours = llama()
    fewer = {name: tensor for name, tensor in other().items() if "layers.1.mlp" not in name}
    narrow = {**other(), QUERY: torch.zeros(4, 8, dtype=torch.bfloat16)}
    a = shop.model(ours)
    said = {
        "b lacks 2 tensors that a has: model.layers.1.mlp.down_proj.weight, model.layers.1.mlp.up_proj.weight": fewer,
        f"'{QUERY}' is [8, 8] in a, [4, 8] in b": narrow,
    }
    for what, tensors_ in said.items():
        b = shop.model(tensors_)
        with pytest.raises(InvalidError) as caught:
            run(shop, stage(), model(shop, a, "a"), model(shop, b, "b"), model(shop, a, "a", "against"))
        assert caught.value.what == what
    more = {**ours, "model.extra.weight": torch.zeros(1, dtype=torch.bfloat16)}
    b = shop.model(more)
    with pytest.raises(InvalidError) as caught:
        run(shop, stage(), model(shop, a, "a"), model(shop, b, "b"), model(shop, a, "a", "against"))
    assert caught.value.what == "a lacks 1 tensor that b has: model.extra.weight"


def test_a_tied_and_an_untied_model_are_refused_with_the_way_out(shop: Workshop) -> None:
    a, b = shop.model(llama()), shop.model(other(tied=True), tie_word_embeddings=True)
    with pytest.raises(InvalidError) as caught:
        run(shop, stage(), model(shop, a, "a"), model(shop, b, "b"))
    assert caught.value.what == ("a has a head of its own (lm_head.weight), in b the head is tied to the embedding")
    assert caught.value.mend == "untie b first, in a stage of kind graft with `untie: true`"


def test_a_quantised_model_is_refused(shop: Workshop) -> None:
    b = shop.model(other(), quantization_config={"quant_method": "gptq"})
    with pytest.raises(InvalidError) as caught:
        run(shop, stage(), model(shop, shop.model(), "a"), model(shop, b, "b"))
    assert caught.value.what == "b is quantised; a blend would have to be rounded to its few bits"


@pytest.mark.parametrize(
    ("method", "count", "against", "said"),
    [
        ("ties", 2, False, "ties starts from a model, and none is named"),
        ("slerp", 2, True, "'lm_head.weight' has 2 models beside the base, needs exactly 1: "),
        ("model_stock", 1, True, "'lm_head.weight' has 1 model beside the base, needs at least 2: "),
        ("nuslerp", 1, False, "'lm_head.weight' has 1 model, needs exactly 2: "),
        (
            "passthrough",
            2,
            False,
            "passthrough takes each tensor of one model; for 'lm_head.weight' there are 2 with a weight: ",
        ),
    ],
)
def test_a_method_that_does_not_fit_the_models_is_refused(
    shop: Workshop,
    method: BlendMethod,
    count: int,
    against: bool,  # noqa: FBT001 - a parameter of the test
    said: str,
) -> None:
    inputs = [model(shop, shop.model(other(seed)), f"m{seed}") for seed in range(count)]
    inputs += [model(shop, shop.model(), "start", "against")] if against else []
    with pytest.raises(InvalidError) as caught:
        run(shop, stage(method), *inputs)
    assert caught.value.what.startswith(said)


def test_a_model_that_is_the_base_itself_is_named(shop: Workshop) -> None:
    base = shop.model()
    start = model(shop, base, "start", "against")
    with pytest.raises(InvalidError) as caught:
        run(shop, stage("slerp"), model(shop, base, "a"), start)
    assert caught.value.what == (
        "'lm_head.weight' has 0 models beside the base, needs exactly 1: "
        "a is the base, start, itself: the digests are equal"
    )
    assert caught.value.mend == (
        "name other models than the base under `models`, or take the stage out: it would give the base again"
    )
    with pytest.raises(InvalidError) as caught:
        run(shop, stage("model_stock"), model(shop, base, "a"), model(shop, shop.model(other()), "b"), start)
    assert caught.value.what == (
        "'lm_head.weight' has 1 model beside the base, needs at least 2: "
        "b; a is the base, start, itself: the digests are equal"
    )


@pytest.mark.parametrize("shape", [(), (WORDS,), (0, 8)])
@pytest.mark.parametrize("tokenizer", ["same", "base", "union"])
def test_an_embedding_that_is_no_matrix_is_refused(shop: Workshop, shape: tuple[int, ...], tokenizer: str) -> None:
    paths = []
    for seed in (1, 2):
        path = words(shop, other(seed), letters("abc"))
        unfit = shop.model(other(seed) | {EMBEDDING: torch.ones(shape)}, vocab_size=WORDS)
        (unfit / "tokenizer.json").write_bytes((path / "tokenizer.json").read_bytes())
        Artifact.from_folder(unfit, "model").write(unfit)
        paths.append(unfit)
    with pytest.raises(InvalidError) as caught:
        run(shop, stage(tokenizer=tokenizer), model(shop, paths[0], "a"), model(shop, paths[1], "b"))
    first, second = sorted((weights_digest(path), name) for path, name in zip(paths, "ab", strict=True))
    assert first != second
    assert caught.value.what == (
        f"'model.embed_tokens.weight' of {first[1]} is {list(shape)}; "
        "a token embedding is a matrix with a row for each token"
    )


def test_numbers_that_are_only_copied_are_looked_at_too(shop: Workshop) -> None:
    theirs = other(layers=1)
    theirs[QUERY][0, 0] = float("nan")
    a = stacked(shop, shop.model(llama(layers=1), num_hidden_layers=1), "a", (0, "0"))
    b = stacked(shop, shop.unsound(theirs, num_hidden_layers=1), "b", (1, "0"))
    with pytest.raises(InvalidError) as caught:
        run(shop, stage("passthrough"), a, b)
    assert caught.value.what == f"tensor {QUERY!r} holds NaN or an infinity"
    assert caught.value.where.startswith(str(b.path))


# Layers


def stacked(shop: Workshop, path: Path, name: str, *taken: tuple[int, str], **settings: JSON) -> Input:
    return model(shop, path, name, layers=[list(one) for one in taken], **settings)


def moved(name: str, layer: int) -> str:
    return name.replace("layers.0", f"layers.{layer}")


def test_layers_are_put_together_from_both_models(shop: Workshop) -> None:
    ours, theirs = llama(layers=3), other(layers=2)
    a = shop.model(ours, num_hidden_layers=3, layer_types=["x", "y", "z"])
    b = shop.model(theirs, num_hidden_layers=2, layer_types=["p", "q"])
    context, outcome = run(
        shop,
        stage("passthrough"),
        stacked(shop, a, "a", (0, "0-1"), (2, "2")),
        stacked(shop, b, "b", (1, "0-1")),
        model(shop, a, "a", "against"),
    )
    found = tensors(context.out)
    plan = [(ours, 0), (ours, 1), (theirs, 0), (theirs, 1), (ours, 2)]
    for layer, (source, place) in enumerate(plan):
        for name in (one for one in ours if one.startswith("model.layers.0.")):
            assert torch.equal(found[moved(name, layer)], source[moved(name, place)])
    assert torch.equal(found[EMBEDDING], ours[EMBEDDING])
    assert torch.equal(found[HEAD], ours[HEAD])
    assert json.loads((context.out / "config.json").read_text()) == {
        "model_type": "llama",
        "num_hidden_layers": 5,
        "layer_types": ["x", "y", "p", "q", "z"],
    }
    made(context, outcome)
    assert shop.said == ["blend: 0 of 43 tensors are computed, the others copied"]
    # Layers 0 and 1 of a lie where they lay: their files are linked, under their new numbers.
    assert (context.out / "model-00005-of-00013.safetensors").read_bytes() == (
        a / "model-00005-of-00009.safetensors"
    ).read_bytes()
    rows = {(row.component, row.layers): (row.change, row.by) for row in outcome.components}
    assert rows["attention.query", "0-1"] == ("kept", "")
    assert rows["attention.query", "2-3"] == ("copied", "b")
    assert rows["attention.query", "4"] == ("copied", "a")


def test_what_is_outside_of_the_layers_comes_from_the_first_and_the_last_entry(shop: Workshop) -> None:
    ours, theirs = llama(), other()
    a, b = shop.model(ours, num_hidden_layers=2), shop.model(theirs, num_hidden_layers=2)
    inputs = (stacked(shop, a, "a", (0, "0-1")), stacked(shop, b, "b", (1, "0-1")))
    found = tensors(run(shop, stage("passthrough"), *inputs)[0].out)
    assert torch.equal(found[EMBEDDING], ours[EMBEDDING])
    assert torch.equal(found["model.norm.weight"], theirs["model.norm.weight"])
    assert torch.equal(found[HEAD], theirs[HEAD])


def test_a_copied_layer_can_be_scaled(shop: Workshop) -> None:
    a = shop.model(llama(), num_hidden_layers=2)
    output = [{"value": 1.0}, {"on": {"layers": "2-3", "tensors": ["*o_proj*"]}, "value": 0.0}]
    inputs = (stacked(shop, a, "a", (0, "0-1"), (1, "0-1"), weight=output),)
    context, outcome = run(shop, stage("passthrough"), *inputs)
    found = tensors(context.out)
    assert not found["model.layers.2.self_attn.o_proj.weight"].any()
    assert torch.equal(found["model.layers.2.mlp.up_proj.weight"], llama()["model.layers.0.mlp.up_proj.weight"])
    assert ("attention.output", "blended", "2-3") in {
        (row.component, row.change, row.layers) for row in outcome.components
    }


def test_layers_are_blended_one_with_one(shop: Workshop) -> None:
    ours, theirs = llama(), other(layers=3)
    a, b = shop.model(ours, num_hidden_layers=2), shop.model(theirs, num_hidden_layers=3)
    inputs = (stacked(shop, a, "a", (0, "0-1")), stacked(shop, b, "b", (0, "1-2"), weight=3.0))
    found = tensors(run(shop, stage(), *inputs)[0].out)
    for layer in (0, 1):
        mine, yours = ours[moved(QUERY, layer)], theirs[moved(QUERY, layer + 1)]
        assert torch.equal(found[moved(QUERY, layer)], nearest((mine.double() + 3 * yours.double()) / 4))


def test_a_moved_blend_starts_from_the_layers_that_are_named(shop: Workshop) -> None:
    ours, start = llama(), other(9, layers=3)
    a, base = shop.model(ours, num_hidden_layers=2), shop.model(start, num_hidden_layers=3)
    one = stacked(shop, a, "a", (0, "0-1"), weight=0.5)
    against = model(shop, base, "start", "against")
    placed = replace(against, settings={"layers": [[0, "1-2"]]})
    found = tensors(run(shop, stage("task_arithmetic"), one, placed)[0].out)
    before = start[moved(QUERY, 1)].double()
    assert torch.equal(found[QUERY], nearest(before + 0.5 * (ours[QUERY].double() - before)))
    two = stacked(shop, shop.model(other(4), num_hidden_layers=2), "b", (0, "0-1"))
    with pytest.raises(InvalidError) as caught:
        run(shop, stage("task_arithmetic"), one, two, against)
    assert caught.value.what == (
        "task_arithmetic starts from start, and `layers` does not say from which of its layers "
        "'model.layers.0.input_layernorm.weight' does"
    )
    assert caught.value.mend == "name its layers in that entry, too"


def test_an_entry_of_one_model_is_copied_where_there_is_nothing_to_blend(shop: Workshop) -> None:
    ours, start = llama(), other(9)
    a, base = shop.model(ours, num_hidden_layers=2), shop.model(start, num_hidden_layers=2)
    inputs = (
        stacked(shop, a, "a", (0, "0"), (1, "1")),
        replace(model(shop, base, "start", "against"), settings={"layers": [[1, "0"], [2, "1"]]}),
    )
    context, _ = run(shop, stage("slerp"), *inputs)
    found = tensors(context.out)
    assert torch.equal(found[QUERY], ours[QUERY])
    assert torch.equal(found[moved(QUERY, 2)], start[moved(QUERY, 1)])
    assert not torch.equal(found[moved(QUERY, 1)], ours[moved(QUERY, 1)])
    assert torch.equal(found[EMBEDDING], ours[EMBEDDING])
    assert torch.equal(found[HEAD], start[HEAD])
    wide, _ = run(shop, stage("slerp", dtype="float32"), *inputs)
    assert torch.equal(tensors(wide.out)[HEAD], start[HEAD].float())


# Vocabularies


def words(shop: Workshop, tensors_: Mapping[str, torch.Tensor], tokens: Mapping[str, int], **added: int) -> Path:
    """A model with a tokenizer of single letters, and added tokens."""
    table = {
        "added_tokens": [
            {
                "id": number,
                "content": f"<{name}>",
                "special": True,
                "normalized": False,
                "lstrip": False,
                "rstrip": False,
                "single_word": False,
            }
            for name, number in added.items()
        ],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {"type": "BPE", "vocab": dict(tokens), "merges": []},
    }
    rows = tensors_[EMBEDDING].shape[0]
    folder = shop.model(tensors_, vocab_size=rows)
    (folder / "artifact.json").unlink()
    (folder / "tokenizer.json").write_text(json.dumps(table))
    Artifact.from_folder(folder, "model").write(folder)
    return folder


def letters(text: str) -> dict[str, int]:
    return {letter: number for number, letter in enumerate(text)}


def sized(tensors_: Mapping[str, torch.Tensor], rows: int) -> dict[str, torch.Tensor]:
    """The same with so many words."""
    generator = torch.Generator().manual_seed(rows)
    return {
        name: torch.randn(rows, tensor.shape[1], generator=generator).to(tensor.dtype)
        if name in {EMBEDDING, HEAD}
        else tensor
        for name, tensor in tensors_.items()
    }


def test_other_tokens_are_refused_with_counts_and_examples(shop: Workshop) -> None:
    a = words(shop, sized(llama(), 4), letters("abc"), end=3)
    b = words(shop, sized(other(), 6), letters("acb"), end=3, user=4)
    with pytest.raises(InvalidError) as caught:
        run(shop, stage(), model(shop, a, "a"), model(shop, b, "b"), model(shop, a, "a", "against"))
    assert caught.value.what == (
        "the vocabularies differ: a has 4 rows, b 6; 3 tokens differ: "
        "'b' is 1 in a, 2 in b, 'c' is 2 in a, 1 in b, '<user>' is missing in a, 4 in b"
    )
    assert caught.value.mend == (
        "write `tokenizer: base` for the tokens of a, or `tokenizer: union` for every token of any"
    )


def test_one_tokenizer_and_none_are_taken_for_the_same_and_noted(shop: Workshop) -> None:
    a, b = words(shop, llama(), letters("abc")), shop.model(other(), vocab_size=WORDS)
    _, outcome = run(shop, stage(), model(shop, a, "a"), model(shop, b, "b"))
    assert outcome.notes == ("b has no tokenizer: its rows were taken for the same tokens",)


def test_base_takes_the_rows_of_others_by_their_tokens(shop: Workshop) -> None:
    ours, theirs = sized(llama(), 5), sized(other(), 6)
    a = words(shop, ours, letters("abc"), end=3)  # row 4 has no token
    b = words(shop, theirs, letters("cxab"), user=4, end=5)
    inputs = (model(shop, a, "a"), model(shop, b, "b", weight=3.0), model(shop, a, "a", "against"))
    context, outcome = run(shop, stage(tokenizer="base"), *inputs)
    found = tensors(context.out)
    for name in (EMBEDDING, HEAD):
        rows = [(0, 2), (1, 3), (2, 0), (3, 5)]
        for mine, yours in rows:
            exact = (ours[name][mine].double() + 3 * theirs[name][yours].double()) / 4
            assert torch.equal(found[name][mine], nearest(exact))
        assert torch.equal(found[name][4], ours[name][4])
    assert (context.out / "config.json").read_bytes() == (a / "config.json").read_bytes()
    assert (context.out / "tokenizer.json").read_bytes() == (a / "tokenizer.json").read_bytes()
    made(context, outcome)


def test_union_takes_every_token_of_any(shop: Workshop) -> None:
    ours, theirs, third = sized(llama(), 4), sized(other(), 5), sized(other(5), 5)
    a = words(shop, ours, letters("abc"), end=3)
    b = words(shop, theirs, letters("abc"), end=3, user=4)
    c = words(shop, third, letters("abc"), user=3, end=4)
    inputs = [model(shop, path, name) for path, name in ((a, "a"), (b, "b"), (c, "c"))]
    context, outcome = run(shop, stage(tokenizer="union"), *inputs, model(shop, a, "a", "against"))
    found = tensors(context.out)
    assert found[EMBEDDING].shape == (5, 8)
    for name in (EMBEDDING, HEAD):
        end = (ours[name][3].double() + theirs[name][3].double() + third[name][4].double()) / 3
        assert torch.equal(found[name][3], nearest(end))
        user = (theirs[name][4].double() + third[name][3].double()) / 2  # a, which lacks it, takes no side
        assert torch.equal(found[name][4], nearest(user))
    table = json.loads((context.out / "tokenizer.json").read_text())
    assert [(one["content"], one["id"]) for one in table["added_tokens"]] == [("<end>", 3), ("<user>", 4)]
    assert json.loads((context.out / "config.json").read_text())["vocab_size"] == 5
    assert outcome.notes == ("tokens that are new to a: 1", "tokens that a lacks, each with a stand-in: 1")
    made(context, outcome)


def test_a_union_of_what_the_base_has_already_is_the_base(shop: Workshop) -> None:
    a = words(shop, sized(llama(), 4), letters("abc"), end=3)
    b = words(shop, sized(other(), 3), letters("abc"))
    inputs = (model(shop, a, "a"), model(shop, b, "b"), model(shop, a, "a", "against"))
    context, _ = run(shop, stage(tokenizer="union"), *inputs)
    assert (context.out / "tokenizer.json").read_bytes() == (a / "tokenizer.json").read_bytes()
    assert torch.equal(tensors(context.out)[EMBEDDING][3], sized(llama(), 4)[EMBEDDING][3])


def test_tokens_that_are_not_known_cannot_be_put_in_order(shop: Workshop) -> None:
    a, b = words(shop, llama(), letters("abc")), shop.model(other())
    with pytest.raises(InvalidError) as caught:
        run(shop, stage(tokenizer="base"), model(shop, a, "a"), model(shop, b, "b"))
    assert caught.value.what == "b has no tokenizer.json, so its tokens are not known"


# What the record says of what is not blended


def method_of(folder: Path) -> set[str]:
    stated = [Provenance.from_metadata(shard.metadata, where="test") for shard in read_model(folder).shards.values()]
    return {one.method for one in stated if one is not None}


def test_a_mere_cast_is_called_one(shop: Workshop) -> None:
    a = shop.model(llama(dtype=torch.float32))
    context, outcome = run(shop, stage("passthrough", dtype="float16"), model(shop, a, "a"))
    assert {(row.change, row.by) for row in outcome.components} == {("cast", "a")}
    assert method_of(context.out) == {"passthrough"}
    assert json.loads((context.out / "config.json").read_text()) == {"model_type": "llama", "dtype": "float16"}
    b = shop.model(llama(dtype=torch.float16))
    _, outcome = run(shop, stage("passthrough", dtype="float32"), model(shop, b, "b"))
    assert outcome.depends_on == ()  # a cast is exact anywhere


@pytest.mark.parametrize(("tokens", "by"), [("bca", "b"), ("bc", "a, b")])
def test_rows_in_another_order_are_called_moved(shop: Workshop, tokens: str, by: str) -> None:
    a, b = words(shop, sized(llama(), 3), letters("abc")), words(shop, sized(other(), 3), letters(tokens))
    inputs = (model(shop, a, "a", weight=0.0), model(shop, b, "b"), model(shop, a, "a", "against"))
    context, outcome = run(shop, stage("passthrough", tokenizer="base"), *inputs)
    rows = {row.component: (row.change, row.by) for row in outcome.components}
    assert rows["embedding.token"] == rows["head"] == ("moved", by)
    assert rows["mlp.up"] == ("copied", "b")
    assert "passthrough" in method_of(context.out)
    assert outcome.renumbered == (Renumbered(digest=Artifact.read(b).digest, what="tokens"),)


def test_the_models_whose_tokens_or_layers_have_other_numbers_are_recorded(shop: Workshop) -> None:
    a = words(shop, sized(llama(), 4), letters("abc"), end=3)
    b = words(shop, sized(other(), 5), letters("abc"), end=3, user=4)
    c = words(shop, sized(other(5), 5), letters("abc"), user=3, end=4)
    inputs = [model(shop, path, name) for path, name in ((a, "a"), (b, "b"), (c, "c"))]
    _, outcome = run(shop, stage(tokenizer="union"), *inputs, model(shop, a, "a", "against"))
    assert outcome.renumbered == (Renumbered(digest=Artifact.read(c).digest, what="tokens"),)
    _, outcome = run(shop, stage(tokenizer="base"), *inputs, model(shop, a, "a", "against"))
    lost = {Artifact.read(path).digest for path in (b, c)}  # what the base lacks has no row at all
    assert outcome.renumbered == tuple(Renumbered(digest=digest, what="tokens") for digest in sorted(lost))
    d = shop.model(llama(), num_hidden_layers=2)
    _, outcome = run(shop, stage("passthrough"), stacked(shop, d, "d", (0, "0-1")))
    assert outcome.renumbered == (Renumbered(digest=Artifact.read(d).digest, what="layers"),)


def test_a_classifiers_head_has_no_row_for_a_token(shop: Workshop) -> None:
    def classes(tensors_: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: one for name, one in tensors_.items() if name != HEAD} | {"score.weight": tensors_[HEAD][:2]}

    a = words(shop, classes(sized(llama(), 3)), letters("abc"))
    b = words(shop, classes(sized(other(), 3)), letters("bca"))
    inputs = (model(shop, a, "a"), model(shop, b, "b"), model(shop, a, "a", "against"))
    context, _ = run(shop, stage(tokenizer="base"), *inputs)
    ours, theirs = (read_model(path).tensors["score.weight"].load().double() for path in (a, b))
    assert torch.equal(tensors(context.out)["score.weight"], nearest((ours + theirs) / 2))
