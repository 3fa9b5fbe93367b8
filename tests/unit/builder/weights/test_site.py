"""Saved parameters, tied embeddings and experts: what an adapter says must fit what lies on disk, or is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from builder.weights.adapters import read_adapter
from builder.weights.folder import read_model
from builder.weights.placed import Placed
from builder.weights.saved import Replaced, Rows
from builder.weights.site import Site
from registry.errors import InvalidError
from tests.workshop import HIDDEN, QUERY, WORDS, Workshop, llama, lora

if TYPE_CHECKING:
    from pathlib import Path

    from builder.weights.effect import Applied

PREFIX = "base_model.model."
SQUARE = {QUERY: (HIDDEN, HIDDEN)}
EMBEDDING, HEAD, NORM = "model.embed_tokens", "lm_head", "model.norm"
NORMS = ("input_layernorm", "post_attention_layernorm")
RIGHT_MODEL = "fold it into the model that it was trained on"
AGAIN = "save the adapter again"
UNTIE = "untie the model first (a stage of kind graft, with untie: true), or train the adapter on other modules"
TIED = "is on an embedding that is tied to the head: the change would be in both"
EXPERTS = "model.layers.0.mlp.experts"
STACKED = {f"{EXPERTS}.gate_up_proj": (3, 10, HIDDEN), f"{EXPERTS}.down_proj": (3, HIDDEN, 5)}
SINGLE = {
    f"{EXPERTS}.{expert}.{name}.weight": shape
    for expert in range(3)
    for name, shape in (("gate_proj", (5, HIDDEN)), ("up_proj", (5, HIDDEN)), ("down_proj", (HIDDEN, 5)))
}


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(root=tmp_path)


def effects(
    shop: Workshop, tensors: dict[str, torch.Tensor], model: Path | None = None, **config: object
) -> dict[str, Applied]:
    folder = shop.adapter(None, {f"{PREFIX}{name}": tensor for name, tensor in tensors.items()}, **config)
    return Site.of(read_adapter(folder), read_model(model or shop.model())).effects()


def refusal(
    shop: Workshop, tensors: dict[str, torch.Tensor], model: Path | None = None, **config: object
) -> tuple[str, str]:
    with pytest.raises(InvalidError) as caught:
        effects(shop, tensors, model, **config)
    return caught.value.what, caught.value.mend


def factors(modules: dict[str, tuple[int, int]], rank: int = 2) -> dict[str, torch.Tensor]:
    return {name.removeprefix(PREFIX): tensor for name, tensor in lora(modules, rank=rank).items()}


def tied(shop: Workshop) -> Path:
    return shop.model(llama(tied=True), tie_word_embeddings=True)


def mixture(shop: Workshop, shapes: dict[str, tuple[int, ...]], **config: object) -> Path:
    gate = {"model.layers.0.mlp.gate.weight": torch.ones(3, HIDDEN)}
    return shop.model(llama() | gate | {name: torch.ones(shape).bfloat16() for name, shape in shapes.items()}, **config)


# Saved parameters


@pytest.mark.parametrize(
    ("names", "modules"),
    [
        (["lm_head"], [HEAD]),
        (["model.norm"], [NORM]),
        (["1.mlp"], ["model.layers.1.mlp.up_proj", "model.layers.1.mlp.down_proj"]),
        (["ln", "norm"], [NORM, *(f"model.layers.{layer}.{norm}" for layer in (0, 1) for norm in NORMS)]),
    ],
    ids=str,
)
def test_modules_to_save_take_the_place_of_the_models(shop: Workshop, names: list[str], modules: list[str]) -> None:
    saved = {f"{module}.weight": llama()[f"{module}.weight"].float() for module in modules}
    found = effects(shop, factors(SQUARE) | saved, modules_to_save=names)
    assert found.keys() == {f"{QUERY}.weight", *saved}
    assert all(isinstance(found[name].effect, Replaced) and not found[name].transposed for name in saved)
    assert not any(found[name].effect.additive for name in saved)


@pytest.mark.parametrize(
    ("tensor", "config", "what", "mend"),
    [
        (
            {f"{HEAD}.weight": torch.ones(WORDS + 2, HIDDEN)},
            {"modules_to_save": ["lm_head"]},
            f"tensor '{PREFIX}lm_head.weight' is [18, 8]; lm_head.weight is [16, 8]",
            "graft 2 words into the model first",
        ),
        (
            {f"{HEAD}.weight": torch.ones(WORDS - 2, HIDDEN)},
            {"modules_to_save": ["lm_head"]},
            f"tensor '{PREFIX}lm_head.weight' is [14, 8]; lm_head.weight is [16, 8]",
            RIGHT_MODEL,
        ),
        (
            {f"{HEAD}.weight": torch.ones(WORDS, HIDDEN + 1)},
            {"modules_to_save": ["lm_head"]},
            f"tensor '{PREFIX}lm_head.weight' is [16, 9]; lm_head.weight is [16, 8]",
            RIGHT_MODEL,
        ),
        (
            {f"{NORM}.weight": torch.ones(HIDDEN + 1)},
            {"modules_to_save": ["model.norm"]},
            f"tensor '{PREFIX}model.norm.weight' is [9]; model.norm.weight is [8]",
            RIGHT_MODEL,
        ),
        (
            {"score.weight": torch.ones(2, HIDDEN)},
            {"modules_to_save": ["score"]},
            f"tensor '{PREFIX}score.weight' is on score, which the model has not",
            RIGHT_MODEL,
        ),
        (
            {f"{NORM}.weight": torch.ones(HIDDEN, dtype=torch.int32)},
            {"modules_to_save": ["model.norm"]},
            f"tensor '{PREFIX}model.norm.weight' is I32 [8], no floats",
            "save the adapter again, gathered",
        ),
        (
            {},
            {"modules_to_save": ["classifier", "lm_head"]},
            "modules_to_save means lm_head.weight, which the adapter has not",
            AGAIN,
        ),
        (
            {f"{NORM}.weight": torch.ones(HIDDEN)},
            {"modules_to_save": ["norm"]},
            "modules_to_save means model.layers.0.input_layernorm.weight, which the adapter has not",
            AGAIN,
        ),
        (
            {f"{QUERY}.base_layer.weight": torch.ones(HIDDEN, HIDDEN)},
            {"modules_to_save": ["q_proj"]},
            f"tensor '{PREFIX}{QUERY}.base_layer.weight' and another one are both on {QUERY}.weight",
            "train an adapter that changes each parameter in one way only",
        ),
        (
            {f"{NORM}.bias": torch.ones(HIDDEN)},
            {"bias": "all"},
            f"tensor '{PREFIX}model.norm.bias' is on model.norm, which the model has not",
            RIGHT_MODEL,
        ),
        (
            {f"{HEAD}.weight": torch.ones(WORDS, HIDDEN)},
            {},
            (
                f"tensor '{PREFIX}lm_head.weight' is another lm_head.weight than the model's, "
                "and modules_to_save does not name it"
            ),
            "save the adapter without base weights, or name it in modules_to_save",
        ),
    ],
)
def test_saved_parameters_that_do_not_fit_are_refused(
    shop: Workshop, tensor: dict[str, torch.Tensor], config: dict[str, object], what: str, mend: str
) -> None:
    assert refusal(shop, factors(SQUARE) | tensor, **config) == (what, mend)


def test_a_bias_that_was_trained_is_replaced_and_its_copies_in_the_wrapper_are_passed_over(shop: Workshop) -> None:
    bias = torch.ones(HIDDEN)
    model = shop.model(llama() | {f"{NORM}.bias": bias.clone(), f"{QUERY}.bias": bias.clone()})
    saved = {f"{NORM}.weight": bias, f"{NORM}.bias": bias, f"{QUERY}.base_layer.bias": bias}
    saved |= {f"{NORM}.original_module.bias": bias, f"{NORM}.modules_to_save.bias": bias}
    found = effects(shop, factors(SQUARE) | saved, model, bias="all", modules_to_save=["model.norm"])
    assert found.keys() == {f"{QUERY}.weight", f"{QUERY}.bias", f"{NORM}.weight", f"{NORM}.bias"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_copy_of_the_base_is_left_alone(shop: Workshop, dtype: torch.dtype) -> None:
    copies = {f"{module}.weight": llama()[f"{module}.weight"].to(dtype) for module in (EMBEDDING, HEAD)}
    copies[f"{QUERY}.base_layer.weight"] = llama()[f"{QUERY}.weight"].to(dtype)
    assert effects(shop, factors(SQUARE) | copies).keys() == {f"{QUERY}.weight"}


@pytest.mark.parametrize(("first", "taken"), [(15, True), (8, True), (7, False), (0, False)])
def test_a_copy_with_other_rows_at_its_end_has_new_words(shop: Workshop, first: int, *, taken: bool) -> None:
    copy = llama()[f"{HEAD}.weight"].clone()
    copy[first:] += 1
    tensors = factors(SQUARE) | {f"{HEAD}.weight": copy}
    if taken:
        assert isinstance(effects(shop, tensors)[f"{HEAD}.weight"].effect, Replaced)
    else:
        assert refusal(shop, tensors)[0].startswith(f"tensor '{PREFIX}lm_head.weight' is another lm_head.weight")


def test_one_tensor_may_not_come_by_two_names(shop: Workshop) -> None:
    norm = {name: torch.ones(HIDDEN) for name in (f"{NORM}.weight", f"{PREFIX}{NORM}.weight")}
    factor = {f"{QUERY}.lora_A.weight": torch.ones(2, HIDDEN)}
    for more, name in ((norm, f"{NORM}.weight"), (factor, f"{QUERY}.lora_A.weight")):
        with pytest.raises(InvalidError) as caught:
            read_adapter(shop.adapter(None, lora(SQUARE) | more))
        assert caught.value.what == f"tensor {name!r} and '{PREFIX}{name}' are one and the same"


# Rows of tokens


@pytest.mark.parametrize("kind", ["lora", "own"])
@pytest.mark.parametrize("model", ["tied", "untied"])
def test_rows_of_tokens_are_taken(shop: Workshop, kind: str, model: str) -> None:
    base = tied(shop) if model == "tied" else shop.model()
    rows = torch.ones(2, HIDDEN)
    if kind == "lora":
        tensors = factors(SQUARE) | {f"{EMBEDDING}.token_adapter.trainable_tokens_delta": rows}
        found = effects(shop, tensors, base, trainable_token_indices=[5, 1])
    else:
        tensors = {f"{EMBEDDING}.trainable_tokens_delta": rows}
        if model == "tied":
            tensors[f"{HEAD}.trainable_tokens_delta"] = rows.clone()
        own = {"peft_type": "TRAINABLE_TOKENS", "r": None, "lora_alpha": None, "init_weights": True}
        found = effects(shop, tensors, base, token_indices=[5, 1], **own)
    effect = found[f"{EMBEDDING}.weight"].effect
    assert isinstance(effect, Rows)
    assert effect.tokens == (5, 1)
    assert not found[f"{EMBEDDING}.weight"].transposed


@pytest.mark.parametrize(
    ("indices", "rows", "what", "mend"),
    [
        (
            [1],
            (2, HIDDEN),
            f"is [2, 8] for 1 tokens; {EMBEDDING}.weight is [16, 8]",
            RIGHT_MODEL,
        ),
        ([1, 2], (2, HIDDEN + 1), f"is [2, 9] for 2 tokens; {EMBEDDING}.weight is [16, 8]", RIGHT_MODEL),
        (
            [1, 17],
            (2, HIDDEN),
            f"is for token 17, too; {EMBEDDING}.weight is [16, 8]",
            "graft 2 words into the model first",
        ),
        (
            [1, 1],
            (2, HIDDEN),
            f"is on {EMBEDDING}, of which the configuration names a token twice",
            "train the adapter again, with each token once",
        ),
        *(
            (strange, (2, HIDDEN), f"is on {EMBEDDING}, whose tokens the configuration does not name", AGAIN)
            for strange in (
                [1, -1],
                [1, True],
                [1, 2.0],
                ["1", "2"],
                "12",
                {"wte": [1, 2]},
                {"embed_tokens": [1, 2], "tokens": [1, 3]},
                {},
                None,
                [],
            )
        ),
    ],
    ids=str,
)
def test_rows_of_tokens_that_do_not_fit_are_refused(
    shop: Workshop, indices: object, rows: tuple[int, int], what: str, mend: str
) -> None:
    name = f"{EMBEDDING}.token_adapter.trainable_tokens_delta"
    found = refusal(shop, factors(SQUARE) | {name: torch.ones(rows)}, trainable_token_indices=indices)
    assert found == (f"tensor '{PREFIX}{name}' {what}", mend)


def test_tokens_without_rows_are_refused(shop: Workshop) -> None:
    what = "the adapter has no rows for the tokens that the configuration names"
    assert refusal(shop, factors(SQUARE), trainable_token_indices=[1]) == (what, AGAIN)


def test_rows_of_whole_numbers_are_refused(shop: Workshop) -> None:
    name = f"{EMBEDDING}.token_adapter.trainable_tokens_delta"
    tensors = factors(SQUARE) | {name: torch.ones(1, HIDDEN, dtype=torch.int8)}
    what, _ = refusal(shop, tensors, trainable_token_indices=[1])
    assert what == f"tensor '{PREFIX}{name}' is I8 [1, 8], no floats"


# Norms


def test_norms_that_were_trained_take_the_place_of_the_models(shop: Workshop) -> None:
    tensors = {f"{NORM}.ln_tuning_layers.weight": torch.ones(HIDDEN)}
    own = {"peft_type": "LN_TUNING", "r": None, "lora_alpha": None, "target_modules": ["norm"]}
    found = effects(shop, tensors, **own)
    assert isinstance(found[f"{NORM}.weight"].effect, Replaced)
    assert refusal(shop, tensors, **own | {"target_modules": ["ln_f"]}) == (
        f"tensor '{PREFIX}{NORM}.ln_tuning_layers.weight' is on {NORM}, which target_modules does not name",
        "save weights and configuration together",
    )


# Tied embeddings


def twins(*, head: float = 1.0) -> dict[str, torch.Tensor]:
    """A LoRA on a tied embedding, as PEFT saves it with ``ensure_weight_tying``."""
    generator = torch.Generator().manual_seed(4)
    down, up = torch.randn(2, WORDS, generator=generator), torch.randn(HIDDEN, 2, generator=generator)
    return {
        f"{EMBEDDING}.lora_embedding_A": down,
        f"{EMBEDDING}.lora_embedding_B": up,
        f"{HEAD}.lora_A.weight": up.T.contiguous() * head,
        f"{HEAD}.lora_B.weight": down.T.contiguous(),
    }


def test_a_lora_on_both_of_two_that_are_one_is_added_once(shop: Workshop) -> None:
    found = effects(shop, twins(), tied(shop), ensure_weight_tying=True, target_modules=[EMBEDDING])
    ((name, applied),) = found.items()
    assert (name, applied.transposed, applied.effect.additive) == (f"{EMBEDDING}.weight", True, True)


@pytest.mark.parametrize(
    ("tensors", "config", "named"),
    [
        (twins(), {}, f"{HEAD}.lora_A.weight"),
        (twins(head=2.0), {"ensure_weight_tying": True}, f"{HEAD}.lora_A.weight"),
        (
            twins(),
            {"ensure_weight_tying": True, "alpha_pattern": {"lm_head": 1}},
            f"{HEAD}.lora_A.weight",
        ),
        (
            {name: tensor for name, tensor in twins().items() if HEAD not in name},
            {"ensure_weight_tying": True},
            f"{EMBEDDING}.lora_embedding_A",
        ),
        (
            {name: tensor for name, tensor in twins().items() if HEAD in name},
            {"ensure_weight_tying": True},
            f"{HEAD}.lora_A.weight",
        ),
        (
            {f"{HEAD}.weight": llama()[f"{EMBEDDING}.weight"]},
            {"modules_to_save": ["lm_head"], "ensure_weight_tying": True},
            f"{HEAD}.weight",
        ),
        (
            {f"{EMBEDDING}.weight": llama()[f"{EMBEDDING}.weight"]},
            {"modules_to_save": ["embed_tokens"]},
            f"{EMBEDDING}.weight",
        ),
        (
            {f"{EMBEDDING}.weight": torch.ones(WORDS, HIDDEN), f"{HEAD}.weight": torch.zeros(WORDS, HIDDEN)},
            {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
            f"{HEAD}.weight",
        ),
        (
            {
                f"{EMBEDDING}.token_adapter.trainable_tokens_delta": torch.ones(1, HIDDEN),
                f"{HEAD}.token_adapter.trainable_tokens_delta": torch.ones(1, HIDDEN),
            },
            {"trainable_token_indices": {"embed_tokens": [1], "lm_head": [2]}},
            f"{HEAD}.token_adapter.trainable_tokens_delta",
        ),
        (
            {f"{HEAD}.token_adapter.trainable_tokens_delta": torch.ones(1, HIDDEN)},
            {"trainable_token_indices": {"lm_head": [2]}},
            f"{HEAD}.token_adapter.trainable_tokens_delta",
        ),
    ],
    ids=[
        "weight tying not asked for",
        "other factors",
        "another scale",
        "no head",
        "no embedding",
        "only the head saved",
        "only the embedding saved",
        "another head saved",
        "other tokens",
        "tokens of the head",
    ],
)
def test_what_would_change_one_of_two_that_are_one_is_refused(
    shop: Workshop, tensors: dict[str, torch.Tensor], config: dict[str, object], named: str
) -> None:
    assert refusal(shop, tensors, tied(shop), **config) == (f"tensor '{PREFIX}{named}' {TIED}", UNTIE)


@pytest.mark.parametrize(
    "config",
    [
        {"modules_to_save": ["model.embed_tokens"], "ensure_weight_tying": True},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
    ],
    ids=["tied by PEFT", "equal by themselves"],
)
def test_two_that_are_one_are_replaced_once(shop: Workshop, config: dict[str, object]) -> None:
    both = {f"{module}.weight": torch.ones(WORDS, HIDDEN) for module in (EMBEDDING, HEAD)}
    found = effects(shop, factors(SQUARE) | both, tied(shop), **config)
    assert found.keys() == {f"{QUERY}.weight", f"{EMBEDDING}.weight"}


def test_on_an_untied_model_embedding_and_head_are_two(shop: Workshop) -> None:
    found = effects(shop, twins(head=2.0), shop.model(), ensure_weight_tying=True)
    assert found.keys() == {f"{EMBEDDING}.weight", f"{HEAD}.weight"}


def test_copies_of_two_that_are_one_are_left_alone(shop: Workshop) -> None:
    both = {f"{module}.weight": llama()[f"{EMBEDDING}.weight"] for module in (EMBEDDING, HEAD)}
    assert effects(shop, factors(SQUARE) | both, tied(shop)).keys() == {f"{QUERY}.weight"}


# Experts


def stack(rank: int = 2, experts: int = 3) -> dict[str, torch.Tensor]:
    return {
        f"{EXPERTS}.base_layer.lora_A.weight": torch.ones(experts * rank, HIDDEN),
        f"{EXPERTS}.base_layer.lora_B.weight": torch.ones(10, rank * experts),
        f"{EXPERTS}.lora_A.weight": torch.ones(experts * rank, 5),
        f"{EXPERTS}.lora_B.weight": torch.ones(HIDDEN, rank * experts),
    }


NAMED = {"target_modules": [], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}


def test_factors_on_a_stack_are_on_each_expert(shop: Workshop) -> None:
    found = effects(shop, stack(), mixture(shop, STACKED), **NAMED)
    assert found.keys() == STACKED.keys()
    found = effects(shop, stack(), mixture(shop, SINGLE), **NAMED)
    assert found.keys() == SINGLE.keys()
    assert all(applied.effect.additive for applied in found.values())


def test_factors_of_each_expert_are_on_a_stack(shop: Workshop) -> None:
    modules = {name.removesuffix(".weight"): shape for name, shape in SINGLE.items()}
    found = effects(shop, factors(modules), mixture(shop, STACKED))
    pieces = {name: one.effect.pieces for name, one in found.items() if isinstance(one.effect, Placed)}
    assert {name: len(some) for name, some in pieces.items()} == {
        f"{EXPERTS}.gate_up_proj": 6,
        f"{EXPERTS}.down_proj": 3,
    }


def test_one_expert_may_not_come_by_two_names(shop: Workshop) -> None:
    tensors = factors({f"{EXPERTS}.1.gate_proj": (5, HIDDEN), f"{EXPERTS}.1.w1": (5, HIDDEN)})
    assert refusal(shop, tensors, mixture(shop, STACKED)) == (
        f"tensor '{PREFIX}{EXPERTS}.1.w1.lora_A.weight' and another one are both on {EXPERTS}.gate_up_proj",
        "train an adapter that changes each parameter in one way only",
    )


def test_saved_experts_are_taken_in_either_layout(shop: Workshop) -> None:
    saved = {name: torch.ones(shape) for name, shape in STACKED.items()}
    config = {"modules_to_save": ["mlp.experts"], "target_modules": ["q_proj"]}
    for shapes in (STACKED, SINGLE):
        found = effects(shop, factors(SQUARE) | saved, mixture(shop, shapes), **config)
        assert found.keys() == {f"{QUERY}.weight", *shapes}
    single = {name: torch.ones(shape) for name, shape in SINGLE.items()}
    found = effects(shop, factors(SQUARE) | single, mixture(shop, STACKED), **config)
    assert found.keys() == {f"{QUERY}.weight", *STACKED}


@pytest.mark.parametrize(
    ("change", "config", "shapes", "what", "mend"),
    [
        (
            {f"{EXPERTS}.lora_B.weight": torch.ones(HIDDEN, 4)},
            {},
            STACKED,
            f"'{PREFIX}{EXPERTS}.lora_B.weight' is [8, 4], LORA on {EXPERTS}.down_proj needs [8, 6]",
            RIGHT_MODEL,
        ),
        (
            {f"{EXPERTS}.lora_A.weight": torch.ones(6, 7)},
            {},
            STACKED,
            (
                f"'{PREFIX}{EXPERTS}.lora_A.weight' and its other factor make [8, 7]; "
                f"{EXPERTS}.down_proj is BF16 [3, 8, 5]"
            ),
            RIGHT_MODEL,
        ),
        (
            {},
            {"rank_pattern": {r".*\.down_proj": 3}},
            SINGLE,
            f"'{PREFIX}{EXPERTS}.lora_A.weight' is [6, 5], LORA on {EXPERTS}.down_proj needs [9, 5]",
            RIGHT_MODEL,
        ),
        (
            {},
            {"target_parameters": ["experts.down_proj"]},
            STACKED,
            (
                f"'{PREFIX}{EXPERTS}.base_layer.lora_A.weight' is on {EXPERTS}.base_layer, "
                f"and target_parameters does not name so many parameters of {EXPERTS}"
            ),
            "save weights and configuration together",
        ),
        (
            {f"{EXPERTS}.lora_magnitude_vector": torch.ones(HIDDEN)},
            {},
            STACKED,
            f"'{PREFIX}{EXPERTS}.lora_magnitude_vector' has no place in a LORA adapter of this configuration",
            "save weights and configuration together",
        ),
    ],
)
def test_factors_that_do_not_fit_a_stack_are_refused(
    shop: Workshop,
    *,
    change: dict[str, torch.Tensor],
    config: dict[str, object],
    shapes: dict[str, tuple[int, ...]],
    what: str,
    mend: str,
) -> None:
    found = refusal(shop, stack() | change, mixture(shop, shapes), **NAMED | config)
    assert found == (f"tensor {what}", mend)


@pytest.mark.parametrize(("family", "transposed"), [("qwen3_moe", False), ("gpt_oss", True)])
def test_of_square_experts_the_family_tells_which_way_they_lie(
    shop: Workshop, family: str, *, transposed: bool
) -> None:
    model = mixture(shop, {f"{EXPERTS}.down_proj": (3, HIDDEN, HIDDEN)}, model_type=family)
    tensors = {f"{EXPERTS}.lora_A.weight": torch.ones(6, HIDDEN), f"{EXPERTS}.lora_B.weight": torch.ones(HIDDEN, 6)}
    (applied,) = effects(shop, tensors, model, target_modules=[], target_parameters=["experts.down_proj"]).values()
    assert applied.transposed is transposed


def test_parameters_whose_order_is_not_known_are_refused_unless_there_is_one(shop: Workshop) -> None:
    model = mixture(shop, {f"{EXPERTS}.one": (3, 4, HIDDEN), f"{EXPERTS}.two": (3, 4, HIDDEN)})
    tensors = {f"{EXPERTS}.lora_A.weight": torch.ones(6, HIDDEN), f"{EXPERTS}.lora_B.weight": torch.ones(4, 6)}
    alone = effects(shop, tensors, model, target_modules=[], target_parameters=["experts.one"])
    assert alone.keys() == {f"{EXPERTS}.one"}
    both = {"target_modules": [], "target_parameters": ["experts.one", "experts.two"]}
    assert refusal(shop, tensors, model, **both) == (
        (
            f"tensor '{PREFIX}{EXPERTS}.lora_A.weight' is on one of several parameters of {EXPERTS}; "
            "in which order PEFT takes one is not known"
        ),
        "train an adapter on one of them alone",
    )


def test_block_diagonal_factors_on_a_parameter_are_refused(shop: Workshop) -> None:
    config = {"target_modules": [], "target_parameters": ["q_proj.weight"], "use_bdlora": {"nblocks": 1}}
    assert refusal(shop, factors(SQUARE), **config) == (
        (
            f"tensor '{PREFIX}{QUERY}.lora_A.weight' is on {QUERY}.weight, which is no module; "
            "PEFT puts only plain factors on those"
        ),
        "train a plain LORA adapter",
    )


@pytest.mark.parametrize("key", ["use_dora", "lora_bias", "velora_config"])
def test_variants_that_peft_has_for_modules_only_are_refused_on_experts(shop: Workshop, key: str) -> None:
    what, mend = refusal(shop, stack(), mixture(shop, STACKED), **NAMED | {key: True})
    assert (what, mend) == (
        f"{key} = True cannot be folded: PEFT has none for parameters",
        "train a plain LORA adapter",
    )


def test_a_type_that_peft_puts_on_modules_only_is_refused_on_experts(shop: Workshop) -> None:
    tensors = {f"{EXPERTS}.ia3_l": torch.ones(HIDDEN, 1)}
    config = {"peft_type": "IA3", "r": None, "lora_alpha": None, "target_modules": ["experts"]}
    what, _ = refusal(shop, tensors, mixture(shop, STACKED), **config)
    assert what == f"tensor '{PREFIX}{EXPERTS}.ia3_l' is on {EXPERTS}, which the model has not"


@pytest.mark.parametrize(
    ("tensors", "config", "what"),
    [
        (
            {f"{EMBEDDING}.weight": torch.ones(HIDDEN)},
            {"modules_to_save": ["embed_tokens"]},
            "is [8]; model.embed_tokens.weight is []",
        ),
        (
            {f"{EMBEDDING}.weight": torch.ones(())},
            {},
            "is another model.embed_tokens.weight than the model's, and modules_to_save does not name it",
        ),
        (
            {f"{EMBEDDING}.token_adapter.trainable_tokens_delta": torch.ones(1, HIDDEN)},
            {"trainable_token_indices": [1]},
            "is [1, 8] for 1 tokens; model.embed_tokens.weight is []",
        ),
    ],
)
def test_an_embedding_that_is_one_number_takes_none(
    shop: Workshop, tensors: dict[str, torch.Tensor], config: dict[str, object], what: str
) -> None:
    model = shop.model(llama() | {f"{EMBEDDING}.weight": torch.zeros(())})
    (name,) = tensors
    found, _ = refusal(shop, factors(SQUARE) | tensors, model, **config)
    assert found == f"tensor '{PREFIX}{name}' {what}"
