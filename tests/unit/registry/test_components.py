from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from registry.components import COMPONENTS, PATTERNS, ComponentCount, Network, Place, Selector, plain_name
from registry.errors import InvalidError


def llama(layers: int = 3, *, head: bool = True) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (32, 8)}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{letter}_proj.weight": (8, 8) for letter in "qkvo"}
        shapes |= {f"{at}.mlp.{name}_proj.weight": (8, 8) for name in ("gate", "up", "down")}
        shapes |= {f"{at}.input_layernorm.weight": (8,), f"{at}.post_attention_layernorm.weight": (8,)}
    shapes["model.norm.weight"] = (8,)
    return {**shapes, "lm_head.weight": (32, 8)} if head else shapes


def layered(module: str, *layers: int) -> list[str]:
    return [f"model.layers.{layer}.{module}.weight" for layer in layers]


LLAMA = Network.from_shapes(llama())
GPT2 = Network.from_shapes(
    {
        "wte.weight": (32, 8),
        "wpe.weight": (16, 8),
        "h.0.ln_1.weight": (8,),
        "h.0.ln_1.bias": (8,),
        "h.0.attn.bias": (1, 1, 16, 16),
        "h.0.attn.masked_bias": (),
        "h.0.attn.c_attn.weight": (8, 24),
        "h.0.attn.c_attn.bias": (24,),
        "h.0.attn.c_proj.weight": (8, 8),
        "h.0.mlp.c_fc.weight": (8, 32),
        "h.0.mlp.c_proj.weight": (32, 8),
        "ln_f.weight": (8,),
    }
)


def chosen(network: Network, value: object) -> set[str]:
    return set(network.select(Selector.parse(value)))


def test_every_pattern_names_a_component() -> None:
    assert {pattern.component for pattern in PATTERNS} <= set(COMPONENTS)


def test_places_of_llama() -> None:
    assert LLAMA.unknown == ()
    assert LLAMA.layers == 3
    assert LLAMA.places["model.layers.2.self_attn.q_proj.weight"] == Place(component="attention.query", layer=2)
    assert LLAMA.places["model.layers.0.post_attention_layernorm.weight"].component == "norm.mlp"
    assert LLAMA.places["model.norm.weight"] == Place(component="norm.final", layer=None)
    assert LLAMA.components == (
        *("embedding.token", "attention.query", "attention.key", "attention.value", "attention.output"),
        *("mlp.gate", "mlp.up", "mlp.down", "norm.attention", "norm.mlp", "norm.final", "head"),
    )


def test_places_of_gpt2_and_its_stored_masks() -> None:
    assert {name: place.component for name, place in GPT2.places.items()} == {
        "wte.weight": "embedding.token",
        "wpe.weight": "embedding.position",
        "h.0.ln_1.weight": "norm.attention",
        "h.0.ln_1.bias": "norm.attention",
        "h.0.attn.bias": "buffer",
        "h.0.attn.masked_bias": "buffer",
        "h.0.attn.c_attn.weight": "attention.fused",
        "h.0.attn.c_attn.bias": "attention.fused",
        "h.0.attn.c_proj.weight": "attention.output",
        "h.0.mlp.c_fc.weight": "mlp.up",
        "h.0.mlp.c_proj.weight": "mlp.down",
        "ln_f.weight": "norm.final",
    }


@pytest.mark.parametrize("prefix", ["", "model.", "transformer.", "model.language_model.", "language_model.model."])
def test_prefixes_say_nothing(prefix: str) -> None:
    network = Network.from_tensors([f"{prefix}layers.1.self_attn.q_proj.weight", f"{prefix}embed_tokens.weight"])
    assert list(network.places.values()) == [
        Place(component="attention.query", layer=1),
        Place(component="embedding.token", layer=None),
    ]


def test_a_sibling_decides_what_an_ambiguous_norm_is() -> None:
    name = "model.layers.0.post_attention_layernorm.weight"
    sibling = "model.layers.0.post_feedforward_layernorm.weight"
    assert Network.from_tensors([name]).places[name].component == "norm.mlp"
    assert Network.from_tensors([sibling, name]).places[name].component == "norm.attention"


@pytest.mark.parametrize(
    "name",
    [
        "model.vision_tower.encoder.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.q_proj.weight_scale",
        "model.layers.0.self_attn.kv_b_proj.weight",
        "model.layers.x.self_attn.q_proj.weight",
        "mlp.gate_proj.weight",
        "h.0.attn.weight",
        "scorer.weight",
        "",
    ],
)
def test_an_unknown_tensor_is_reported_and_not_guessed(name: str) -> None:
    network = Network.from_tensors([name, "lm_head.weight"])
    assert network.unknown == (name,)
    assert network.component_of(name) == "unknown"
    assert chosen(network, {"tensors": "lm_head.weight"}) == {"lm_head.weight"}


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("base_model.model.h.0.attn.c_attn.lora_A.weight", "h.0.attn.c_attn.weight"),
        ("base_model.model.h.0.attn.c_attn.lora_B.default.weight", "h.0.attn.c_attn.weight"),
        ("base_model.model.h.0.attn.c_attn.lora_B.bias", "h.0.attn.c_attn.weight"),
        ("base_model.model.h.0.attn.c_attn.lora_magnitude_vector", "h.0.attn.c_attn.weight"),
        ("base_model.model.h.0.attn.c_attn.lora_magnitude_vector.default.weight", "h.0.attn.c_attn.weight"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", "model.embed_tokens.weight"),
        ("base_model.model.model.embed_tokens.lora_embedding_B.default", "model.embed_tokens.weight"),
        ("base_model.model.h.0.attn.c_attn.base_layer.bias", "h.0.attn.c_attn.bias"),
        ("base_model.model.lm_head.modules_to_save.default.weight", "lm_head.weight"),
        ("base_model.model.lm_head.original_module.weight", "lm_head.weight"),
        ("model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
    ],
)
def test_peft_names_are_those_of_the_weight_they_adapt(name: str, plain: str) -> None:
    assert plain_name(name) == plain


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("embedding", {"model.embed_tokens.weight"}),
        ({"components": "attention.query", "layers": "0,-1"}, set(layered("self_attn.q_proj", 0, 2))),
        (
            {"components": "attention", "layers": "1", "exclude": ["attention.output", "*.[kv]_proj.*"]},
            {"model.layers.1.self_attn.q_proj.weight"},
        ),
        ("*.norm.weight", {"model.norm.weight"}),
        ({"tensors": ["*.up_proj.weight"], "layers": "1--1"}, set(layered("mlp.up_proj", 1, 2))),
        (
            ["head", {"components": "norm", "exclude": ["norm.mlp", "norm.attention"]}],
            {"lm_head.weight", "model.norm.weight"},
        ),
        ({"exclude": [{"layers": "0--1"}, "norm"]}, {"model.embed_tokens.weight", "lm_head.weight"}),
    ],
)
def test_selection(value: object, expected: set[str]) -> None:
    assert chosen(LLAMA, value) == expected


def test_selection_keeps_the_networks_order() -> None:
    names = LLAMA.select(Selector.parse(["head", "attention", "embedding"]))
    assert list(names) == [name for name in LLAMA.names if name in set(names)]


THERE = ", ".join(LLAMA.components)


@pytest.mark.parametrize(
    ("network", "value", "what", "mend"),
    [
        (
            LLAMA,
            "attention.fused",
            "attention.fused matches nothing",
            f"the nearest is attention.value; this network has {THERE}",
        ),
        (
            LLAMA,
            {"components": ["embedding", "mlp"], "layers": "1"},
            "embedding matches nothing in layers 1",
            "embedding is outside the layers: name it by itself",
        ),
        (
            Network.from_tensors(["h.0.mlp.c_fc.weight", "h.3.attn.c_attn.weight"]),
            {"components": "mlp", "layers": "1-3"},
            "mlp matches nothing in layers 1-3",
            "say layers within 0",
        ),
        (
            Network.from_tensors(llama(head=False)),
            "head",
            "head matches nothing: the head is tied to embedding.token, they are one tensor",
            "say embedding.token, which is both; to train or fold only the head, untie it first",
        ),
        (
            Network.from_tensors(["a.weight", "b.weight"]),
            "mlp",
            "mlp matches nothing: none of the 2 tensors is of a known component",
            "name tensors by globs; `varietal components` lists them",
        ),
        (
            LLAMA,
            "model.layer.0.*",
            "tensor glob 'model.layer.0.*' matches nothing",
            "the nearest is model.layers.0.mlp.up_proj.weight; `varietal components` lists what there is",
        ),
        (
            LLAMA,
            {"tensors": "model.norm.weight", "layers": "0"},
            "tensor glob 'model.norm.weight' matches nothing in layers 0",
            "it matches outside them: name it by itself, or say other layers",
        ),
        (
            LLAMA,
            {"components": "mlp", "exclude": "mlp"},
            "nothing is left after the exclusion",
            "exclude less",
        ),
        (
            LLAMA,
            {"components": "mlp", "exclude": "router"},
            "router matches nothing",
            f"the nearest is norm.attention; this network has {THERE}",
        ),
        (
            Network.from_tensors(["lm_head.weight", "extra.weight"]),
            {"exclude": "head"},
            "it means everything, and 1 of that is of no known component: extra.weight",
            "name them as globs, under `tensors` to take them or under `exclude` to leave them",
        ),
    ],
)
def test_a_selector_that_matches_nothing_is_an_error(network: Network, value: object, what: str, mend: str) -> None:
    with pytest.raises(InvalidError) as caught:
        chosen(network, value)
    assert (caught.value.what, caught.value.mend) == (what, mend)
    assert caught.value.where.startswith("selector [")


def test_layers_out_of_bounds() -> None:
    with pytest.raises(InvalidError) as caught:
        chosen(LLAMA, {"components": "mlp", "layers": "0-3"})
    assert caught.value.what == "layers 0-3 are not in a network of 3 layers"


def test_module_names_are_those_of_matrices() -> None:
    assert GPT2.module_names(Selector.parse(["attention", "norm"])) == ("h.0.attn.c_attn", "h.0.attn.c_proj")
    wrapped = Network.from_shapes({"base_model.model.h.0.attn.c_attn.base_layer.weight": (8, 24)})
    assert wrapped.module_names(Selector.parse("attention")) == ("h.0.attn.c_attn",)


def test_module_names_without_a_matrix() -> None:
    with pytest.raises(InvalidError) as caught:
        LLAMA.module_names(Selector.parse("norm"))
    assert str(caught.value) == (
        "none of the 7 tensors selected is a matrix that LoRA can be put on\n"
        '  where: selector ["norm"]\n'
        "  mend: select attention or mlp, or parts of them"
    )


def test_module_names_of_fused_experts() -> None:
    network = Network.from_shapes({"model.layers.0.mlp.experts.gate_up_proj": (4, 8, 8)})
    with pytest.raises(InvalidError) as caught:
        network.module_names(Selector.parse("mlp"))
    assert caught.value.what == "model.layers.0.mlp.experts.gate_up_proj has 3 dimensions; LoRA takes matrices"
    assert caught.value.mend == "exclude mlp.experts"


def test_module_names_need_shapes() -> None:
    with pytest.raises(ValueError, match="module_names needs shapes"):
        Network.from_tensors(["lm_head.weight"]).module_names(Selector.parse("head"))


def test_counts_by_component() -> None:
    network = Network.from_tensors([*llama(), "extra"])
    assert network.count([*LLAMA.select(Selector.parse(["mlp.up", "head"])), "extra"]) == (
        ComponentCount(component="mlp.up", layers="0-2", tensors=3),
        ComponentCount(component="head", layers="", tensors=1),
        ComponentCount(component="unknown", layers="", tensors=1),
    )


TERMS = st.one_of(
    st.sampled_from(("embedding", "attention", "mlp", "norm", *LLAMA.components)),
    st.sampled_from(["*", "*.weight", "model.layers.[01].*", "lm_head.weight"]),
    st.builds(
        lambda components, layers: {"components": components, "layers": layers},
        st.lists(st.sampled_from(["attention", "mlp.up", "norm.mlp"]), min_size=1, max_size=2),
        st.sampled_from(["0", "-1", "0-1", "1--1", "0-2"]),
    ),
)


@given(st.lists(TERMS, min_size=1, max_size=4))
def test_a_list_is_a_union(terms: list[object]) -> None:
    assert chosen(LLAMA, terms) == set().union(*(chosen(LLAMA, term) for term in terms))


@given(st.lists(TERMS, min_size=1, max_size=3), st.lists(TERMS, min_size=1, max_size=3))
def test_exclude_is_a_difference(terms: list[object], excluded: list[object]) -> None:
    expected = set(LLAMA.names) - chosen(LLAMA, excluded)
    assume(expected)
    assert chosen(LLAMA, {"exclude": excluded}) == expected
    components = [term for term in terms if isinstance(term, str) and "*" not in term and "_" not in term]
    assume(components)
    left = chosen(LLAMA, components) - chosen(LLAMA, excluded)
    assume(left)
    assert chosen(LLAMA, {"components": components, "exclude": excluded}) == left
    assert left.isdisjoint(chosen(LLAMA, excluded))


@given(st.permutations(LLAMA.names), st.lists(TERMS, min_size=1, max_size=3))
def test_the_order_of_names_says_nothing(names: list[str], terms: list[object]) -> None:
    assert chosen(Network.from_tensors(names), terms) == chosen(LLAMA, terms)


@pytest.mark.parametrize(
    ("leaf", "parameter"),
    [
        ("hada_w1_a", "weight"),
        ("lokr_w2", "weight"),
        ("vera_lambda_b", "weight"),
        ("oft_R.weight", "weight"),
        ("peanut_encoders.0.weight", "weight"),
        ("glora_A.Xd", "weight"),
        ("osf_svd_params.U_low", "weight"),
        ("trainable_tokens_delta", "weight"),
        ("ln_tuning_layers.weight", "weight"),
        ("ln_tuning_layers.bias", "bias"),
    ],
)
def test_tensors_of_every_type_of_adapter_are_of_the_weight_that_they_change(leaf: str, parameter: str) -> None:
    module = "model.layers.3.mlp.down_proj"
    assert plain_name(f"base_model.model.{module}.{leaf}") == f"{module}.{parameter}"
    assert plain_name(f"{module}.roads.weight") == f"{module}.roads.weight"
