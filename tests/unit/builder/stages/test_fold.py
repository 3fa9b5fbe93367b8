"""The fold stage: order, pedigree, what is linked, what is refused."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

import pytest
import torch

from builder.manifest import FoldStage
from builder.stages.fold import fold
from builder.weighting import ONE
from builder.weights.folder import read_model
from builder.weights.rounding import round_once
from builder.weights.stream import Scratch
from registry.artifact import Artifact
from registry.digest import Digest
from registry.errors import InvalidError
from registry.provenance import Provenance, ProvenanceInput
from tests.workshop import DOWN, HIDDEN, INNER, QUERY, WORDS, Workshop, llama, lora, weights_digest

if TYPE_CHECKING:
    from pathlib import Path

    from builder.stage import Context, Input, Outcome

KEY = QUERY.replace("q_proj", "k_proj")
SETTINGS = FoldStage(from_="base", adapters={"tone": ONE})


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(root=tmp_path)


def run(shop: Workshop, *inputs: Input, threads: int = 2) -> tuple[Context[FoldStage], Outcome]:
    context = shop.context(SETTINGS, *inputs, threads=threads)
    return context, fold(context)


def made(context: Context[FoldStage], outcome: Outcome) -> Artifact:
    """The artifact as described by the stage; every digest that it gave is checked against the bytes."""
    artifact = Artifact.from_folder(context.out, outcome.type, outcome.written)
    artifact.verify_folder(context.out)
    assert artifact == Artifact.from_folder(context.out, outcome.type)
    return artifact


def test_a_fold_is_the_base_plus_the_scaled_product_rounded_once(shop: Workshop) -> None:
    base = shop.model()
    adapter = shop.adapter(base)
    context, outcome = run(shop, shop.input("from", base), shop.input("adapter", adapter, name="tone", weight=0.5))
    before, factors = llama(), lora({QUERY: (HIDDEN, HIDDEN), DOWN: (HIDDEN, INNER)})
    after = {name: stored.load() for name, stored in read_model(context.out).tensors.items()}
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        expected = tensor
        if name in {f"{QUERY}.weight", f"{DOWN}.weight"}:
            module = f"base_model.model.{name.removesuffix('.weight')}"
            product = factors[f"{module}.lora_B.weight"].double() @ factors[f"{module}.lora_A.weight"].double()
            total = (tensor.double() + 0.5 * 4 / 2 * product).view(-1)
            expected = torch.empty(tensor.numel(), dtype=tensor.dtype)
            round_once(total, expected, Scratch())
            expected = expected.view(tensor.shape)
        assert torch.equal(after[name], expected), name
    assert outcome.depends_on == ()
    assert shop.said == ["fold: 2 of 19 tensors change"]
    made(context, outcome)


def test_only_files_with_a_changed_tensor_are_written_anew(shop: Workshop) -> None:
    base = shop.model()
    context, outcome = run(shop, shop.input("from", base), shop.input("adapter", shop.adapter(base), name="tone"))
    before = {file.path: file.digest for file in Artifact.read(base).files}
    after = {file.path: file.digest for file in made(context, outcome).files}
    changed = {path for path in before if before[path] != after[path]}
    # embedding, attention 0, MLP 0, attention 1, MLP 1, final norm, head
    assert changed == {"model-00002-of-00007.safetensors", "model-00005-of-00007.safetensors"}
    assert after.keys() == before.keys()


def test_provenance_and_component_map_say_what_was_done(shop: Workshop) -> None:
    base = shop.model()
    tone = shop.adapter(base)
    voice = shop.adapter(base, lora({QUERY: (HIDDEN, HIDDEN)}, seed=5))
    context, outcome = run(
        shop,
        shop.input("from", base),
        shop.input("adapter", tone, name="tone"),
        shop.input("adapter", voice, name="voice"),
    )
    header = read_model(context.out).shards["model-00002-of-00007.safetensors"]
    inputs = [ProvenanceInput(role="adapter", weights_digest=weights_digest(one)) for one in (tone, voice)]
    inputs.append(ProvenanceInput(role="from", weights_digest=weights_digest(base)))
    assert Provenance.from_metadata(header.metadata, where="test") == Provenance(
        kind="fold",
        method="lora",
        components=("attention.query", "mlp.down"),
        layers="0-1",
        inputs=tuple(sorted(inputs)),
    )
    rows = [(one.component, one.change, one.layers, one.tensors, one.by) for one in outcome.components]
    assert ("attention.query", "composed", "0", 1, "tone, voice") in rows
    assert ("mlp.down", "added", "1", 1, "tone") in rows
    assert ("attention.query", "kept", "1", 1, "") in rows
    assert sum(row[3] for row in rows) == 19


def test_neither_order_nor_names_nor_threads_change_the_bytes(shop: Workshop) -> None:
    base = shop.model()
    adapters = [shop.adapter(base, lora({QUERY: (HIDDEN, HIDDEN)}, seed=seed)) for seed in (1, 2, 3)]
    digests = set()
    for number, order in enumerate(permutations(zip(adapters, (0.3, -0.7, 1.9), strict=True))):
        inputs = [
            shop.input("adapter", path, name=f"a{number}-{place}", weight=weight)
            for place, (path, weight) in enumerate(order)
        ]
        digests.add(made(*run(shop, shop.input("from", base), *inputs, threads=1 + number % 3)).digest)
    assert len(digests) == 1


def test_weight_zero_adds_nothing_and_links_everything(shop: Workshop) -> None:
    base = shop.model()
    adapter = shop.input("adapter", shop.adapter(base), name="tone", weight=0)
    context, outcome = run(shop, shop.input("from", base), adapter)
    assert made(context, outcome).digest == Artifact.read(base).digest
    assert outcome.notes == ("adapter tone has weight 0: nothing of it was added",)
    assert {one.change for one in outcome.components} == {"kept"}


def test_a_descendant_of_the_base_is_folded_into_and_noted(shop: Workshop) -> None:
    base, other = shop.model(), shop.model(llama(layers=2, dtype=torch.float16))
    parent = weights_digest(other)
    adapter = shop.input("adapter", shop.adapter(other), name="tone")
    _, outcome = run(shop, shop.input("from", base, name="toned", ancestors=frozenset({parent})), adapter)
    assert outcome.notes == (f"adapter tone was rebased: trained on weights {parent.short}, an ancestor of toned",)


def test_an_adapter_of_an_unrelated_base_is_refused(shop: Workshop) -> None:
    base, other = shop.model(), shop.model(llama(dtype=torch.float16))
    stranger = Digest("0" * 64)
    start = shop.input("from", base, name="base", ancestors=frozenset({stranger}))
    with pytest.raises(InvalidError) as caught:
        run(shop, start, shop.input("adapter", shop.adapter(other), name="tone"))
    assert str(caught.value) == (
        f"adapter tone has an unrelated base: it was trained on weights {weights_digest(other)}, "
        f"base has {weights_digest(base)} and does not descend from them\n"
        "  where: demo:tone into demo:base\n"
        "  mend: fold it into the model that it was trained on or a descendant of it, or train it again on this one"
    )


def test_the_model_under_a_continued_adapter_counts_not_the_adapter(shop: Workshop) -> None:
    base = shop.model()
    run(shop, shop.input("from", base), shop.input("adapter", shop.adapter(base, role="base"), name="tone"))


def test_an_adapter_without_a_pedigree_is_refused(shop: Workshop) -> None:
    base, adapter = shop.model(), shop.adapter(None)
    with pytest.raises(InvalidError) as caught:
        run(shop, shop.input("from", base), shop.input("adapter", adapter, name="tone"))
    assert str(caught.value) == (
        "the adapter does not say what it was trained on\n"
        f"  where: {adapter}\n"
        "  mend: name it under `adapters:` with its `base`, so that it is imported"
    )


def test_a_quantised_model_is_refused(shop: Workshop) -> None:
    base = shop.model(quantization_config={"quant_method": "gptq"})
    with pytest.raises(InvalidError) as caught:
        run(shop, shop.input("from", base), shop.input("adapter", shop.adapter(base), name="tone"))
    assert caught.value.what == "the model is quantised; a sum would have to be rounded to its few bits"
    assert caught.value.mend == "fold into the 16-bit model that it was made from"


def test_float32_results_are_marked_as_depending_on_the_machine(shop: Workshop) -> None:
    base = shop.model(llama(dtype=torch.float32))
    _, outcome = run(shop, shop.input("from", base), shop.input("adapter", shop.adapter(base), name="tone"))
    assert outcome.depends_on == ("device", "versions")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_factor_that_is_not_finite_is_refused_and_leaves_no_half_file(shop: Workshop, value: float) -> None:
    base = shop.model()
    factors = lora({QUERY: (HIDDEN, HIDDEN)})
    name = f"base_model.model.{QUERY}.lora_B.weight"
    path = shop.adapter(base, factors)
    raw = bytearray((path / "adapter_model.safetensors").read_bytes())
    raw[-4:] = torch.tensor([value]).view(torch.uint8).numpy().tobytes()  # B lies after A
    (path / "adapter_model.safetensors").write_bytes(raw)
    context = shop.context(SETTINGS, shop.input("from", base), shop.input("adapter", path, name="tone"))
    with pytest.raises(InvalidError) as caught:
        fold(context)
    assert caught.value.what == f"tensor {name!r} holds NaN or an infinity"
    assert not (context.out / "model-00002-of-00007.safetensors").exists()


def test_a_weight_that_is_no_number_is_refused(shop: Workshop) -> None:
    base = shop.model()
    adapter = shop.input("adapter", shop.adapter(base), name="tone", weight=float("nan"))
    with pytest.raises(InvalidError) as caught:
        run(shop, shop.input("from", base), adapter)
    assert str(caught.value) == (
        "expected a number, got nan\n"
        "  where: adapter tone\n"
        "  mend: write a number, a list of numbers over depth, or a list of tables with `on` and `value`"
    )


def test_the_component_map_says_what_became_of_the_weight(shop: Workshop) -> None:
    base = shop.model()
    saved = {"base_model.model.lm_head.weight": torch.ones(WORDS, HIDDEN)}
    adapter = shop.adapter(base, lora({QUERY: (HIDDEN, HIDDEN)}) | saved, modules_to_save=["lm_head"])
    scales = {f"base_model.model.{KEY}.ia3_l": torch.full((HIDDEN, 1), 1.5)}
    config = {"r": None, "lora_alpha": None, "target_modules": ["k_proj"], "feedforward_modules": []}
    scaler = shop.adapter(base, scales, peft_type="IA3", **config)
    _, outcome = run(
        shop,
        shop.input("from", base),
        shop.input("adapter", adapter, name="tone"),
        shop.input("adapter", scaler, name="scaler"),
    )
    assert {(one.component, one.change, one.by) for one in outcome.components if one.change != "kept"} == {
        ("attention.key", "composed", "scaler"),  # multiplied
        ("attention.query", "added", "tone"),
        ("head", "overridden", "tone"),
    }
    half = shop.input("adapter", adapter, name="tone", weight=0.5)
    _, outcome = run(shop, shop.input("from", base), half)
    assert {one.component: one.change for one in outcome.components}["head"] == "composed"  # half of it is the model's


def test_an_adapter_of_which_nothing_is_added_is_no_input(shop: Workshop) -> None:
    base, other = shop.model(), shop.model(llama(dtype=torch.float16))
    tone = shop.adapter(base)
    scales = {f"base_model.model.{QUERY}.ia3_l": torch.full((HIDDEN, 1), 1.5)}
    config = {"r": None, "lora_alpha": None, "target_modules": ["q_proj"], "feedforward_modules": []}
    idle = shop.adapter(other, scales, peft_type="IA3", **config)
    start = shop.input("from", base, ancestors=frozenset({weights_digest(other)}))
    adapters = (shop.input("adapter", tone, name="tone"), shop.input("adapter", idle, name="idle", weight=0))
    context, outcome = run(shop, start, *adapters)
    assert outcome.notes == ("adapter idle has weight 0: nothing of it was added",)
    header = read_model(context.out).shards["model-00002-of-00007.safetensors"]
    stated = Provenance.from_metadata(header.metadata, where="test")
    assert stated is not None
    assert stated.method == "lora"
    assert stated.inputs == (
        ProvenanceInput(role="adapter", weights_digest=weights_digest(tone)),
        ProvenanceInput(role="from", weights_digest=weights_digest(base)),
    )


def test_rows_of_tokens_need_a_model_whose_tokens_have_the_same_rows(shop: Workshop) -> None:
    base, other = shop.model(), shop.model(llama(dtype=torch.float16))
    parent = frozenset({weights_digest(other)})
    rows = {"base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": torch.ones(1, HIDDEN)}
    tokens = {"trainable_token_indices": {"embed_tokens": [3]}, "target_modules": ["q_proj"]}
    adapter = shop.adapter(other, lora({QUERY: (HIDDEN, HIDDEN)}) | rows, **tokens)
    mixed = shop.input("from", base, name="mixed", ancestors=parent, row_ancestors=frozenset())
    with pytest.raises(InvalidError) as caught:
        run(shop, mixed, shop.input("adapter", adapter, name="tone"))
    assert str(caught.value) == (
        "adapter tone changes rows of tokens in 'model.embed_tokens.weight'; it was trained on weights "
        f"{weights_digest(other).short}, and a blend between them and mixed gave the tokens other rows\n"
        "  where: demo:tone into demo:mixed\n"
        "  mend: fold it before that blend, into the model that it was trained on, or give it weight 0 there"
    )
    run(shop, mixed, shop.input("adapter", shop.adapter(other), name="tone"))  # what touches no token goes on
    longer = shop.input("from", base, name="longer", ancestors=parent, row_ancestors=parent)
    run(shop, longer, shop.input("adapter", adapter, name="tone"))


def test_a_row_without_a_direction_is_named(shop: Workshop) -> None:
    tensors = llama()
    tensors[f"{QUERY}.weight"][3] = 0
    base = shop.model(tensors)
    factors = lora({QUERY: (HIDDEN, HIDDEN)})
    factors[f"base_model.model.{QUERY}.lora_B.weight"][3] = 0
    name = f"base_model.model.{QUERY}.lora_magnitude_vector"
    adapter = shop.adapter(base, factors | {name: torch.ones(HIDDEN)}, use_dora=True)
    with pytest.raises(InvalidError) as caught:
        run(shop, shop.input("from", base), shop.input("adapter", adapter, name="tone"))
    assert str(caught.value) == (
        f"tensor '{name}' gives row 3 a length, and weight and factors make that row zero: DoRA has no direction for "
        "it\n"
        f"  where: {adapter / 'adapter_model.safetensors'}\n"
        "  mend: leave that module out of the adapter's target_modules, or train it without `use_dora`"
    )
