"""The graft stage: what is written, what is linked, what is refused and with which words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from builder.stages.graft import graft
from builder.weight_stages import GraftStage, HeadSettings, RopeSettings, VocabularySettings
from builder.weights.folder import read_model
from registry.artifact import Artifact
from registry.canonical import pretty
from registry.errors import Error
from registry.provenance import Provenance, ProvenanceInput
from registry.record import Renumbered
from tests.workshop import HIDDEN, WORDS, Workshop, llama, weights_digest

if TYPE_CHECKING:
    from pathlib import Path

    from builder.stage import Context, Outcome

EMBEDDING = "model.embed_tokens.weight"
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": HIDDEN,
    "max_position_embeddings": 32,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "vocab_size": WORDS,
}


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(root=tmp_path)


def run(shop: Workshop, base: Path, threads: int = 2, **settings: object) -> tuple[Path, Outcome]:
    """The folder that the stage made; every digest that it gave is checked against the bytes."""
    stage = GraftStage(from_="base", **settings)  # type: ignore[arg-type]
    context: Context[GraftStage] = shop.context(stage, shop.input("from", base, name="base"), threads=threads)
    outcome = graft(context)
    artifact = Artifact.from_folder(context.out, outcome.type, outcome.written)
    artifact.verify_folder(context.out)
    assert artifact == Artifact.from_folder(context.out, outcome.type)
    artifact.write(context.out)
    return context.out, outcome


def refused(shop: Workshop, base: Path, **settings: object) -> Error:
    with pytest.raises(Error) as caught:
        run(shop, base, **settings)
    assert caught.value.where == "demo:base"
    return caught.value


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    return {name: stored.load() for name, stored in read_model(folder).tensors.items()}


def config(folder: Path) -> dict[str, object]:
    data = (folder / "config.json").read_bytes()
    value: dict[str, object] = json.loads(data)
    return value


def rows(outcome: Outcome) -> list[tuple[str, str, str, int, str]]:
    return [(one.component, one.change, one.layers, one.tensors, one.by) for one in outcome.components]


def test_asking_for_nothing_is_refused(shop: Workshop) -> None:
    error = refused(shop, shop.model(**LLAMA))
    assert str(error) == (
        "graft asks for nothing\n"
        "  where: demo:base\n"
        "  mend: say `vocabulary`, `head`, `untie`, `layers`, `context`, `rope` or `template`, or leave the stage out"
    )


def test_a_quantised_model_is_refused(shop: Workshop) -> None:
    base = shop.model(**LLAMA, quantization_config={"quant_method": "bitsandbytes"})
    error = refused(shop, base, untie=True)
    assert error.what == "the model is quantised; its tensors are no rows of weights"
    assert error.mend == "dequantise it first, in a stage of kind cast"


def test_one_stage_does_all_in_the_documented_order_and_says_so(shop: Workshop) -> None:
    base = shop.model(llama(tied=True), **LLAMA, tie_word_embeddings=True)
    out, outcome = run(
        shop,
        base,
        layers=("1", "0-1"),
        rope=RopeSettings(type="yarn", factor=2),
        vocabulary=VocabularySettings(multiple=12),
        untie=True,
    )
    assert shop.said == ["graft: layers, rope, vocabulary, untie; 26 of 27 tensors are new"]
    assert outcome.notes == (
        "layers: 3 of 2, 1, 0-1",
        "rope: yarn by 2, from 32 tokens to 64",
        "vocabulary: new tokens 0; rows 16 before, 24 now, 8 of them unused",
    )
    assert torch.equal(loaded(out)["lm_head.weight"], loaded(out)[EMBEDDING])
    metadata = read_model(out).shards["model-00002-of-00009.safetensors"].metadata
    stated = Provenance.from_metadata(metadata, where="test")
    assert stated is not None
    assert (stated.method, stated.layers) == ("layers+rope+vocabulary+untie", "0-2")
    assert stated.inputs == (ProvenanceInput(role="from", weights_digest=weights_digest(base)),)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_bytes_depend_on_nothing_but_settings_and_input(shop: Workshop, threads: int) -> None:
    settings = {"vocabulary": VocabularySettings(multiple=64, start="normal"), "layers": ("0", "0")}
    digests = {Artifact.read(run(shop, shop.model(**LLAMA), count, **settings)[0]).digest for count in (1, threads)}
    assert len(digests) == 1


# Layers


def test_layers_move_with_their_bytes_and_what_stays_is_linked(shop: Workshop) -> None:
    base = shop.model(llama(layers=3), **{**LLAMA, "num_hidden_layers": 3})
    out, outcome = run(shop, base, layers=("0-1", "1-2"))
    before, after = loaded(base), loaded(out)
    for new, old in enumerate((0, 1, 1, 2)):
        for name, tensor in before.items():
            if name.startswith(f"model.layers.{old}."):
                assert torch.equal(after[name.replace(f"layers.{old}", f"layers.{new}")], tensor)
    assert torch.equal(after["lm_head.weight"], before["lm_head.weight"])
    assert config(out) == {**config(base), "num_hidden_layers": 4}
    assert (out / "config.json").read_bytes() == pretty(config(out))
    # Embedding and layers 0 and 1 keep their files, final norm and head theirs under new numbers.
    kept = {file.digest for file in Artifact.read(base).files} & {file.digest for file in Artifact.read(out).files}
    assert len(kept) == 1 + 4 + 1 + 1
    assert (out / "model-00001-of-00011.safetensors").read_bytes() == (
        base / "model-00001-of-00009.safetensors"
    ).read_bytes()
    assert ("mlp.up", "moved", "2-3", 2, "graft") in rows(outcome)
    assert ("mlp.up", "kept", "0-1", 2, "") in rows(outcome)
    assert outcome.depends_on == ()


def test_layers_are_left_out_and_lists_of_the_configuration_follow(shop: Workshop) -> None:
    lists = {"layer_types": ["a", "b", "c"], "no_rope_layers": [1, 0, 1], "mlp_layer_types": None}
    base = shop.model(llama(layers=3), **{**LLAMA, **lists, "num_hidden_layers": 3, "max_window_layers": 3})
    out, _ = run(shop, base, layers=("2", "0"))
    said = config(out)
    assert (said["num_hidden_layers"], said["layer_types"], said["no_rope_layers"]) == (2, ["c", "a"], [1, 1])
    assert (said["mlp_layer_types"], said["max_window_layers"]) == (None, 3)
    assert read_model(out).network.layers == 2


def test_all_layers_in_their_order_change_nothing(shop: Workshop) -> None:
    base = shop.model(**LLAMA)
    out, outcome = run(shop, base, layers=("0", "1"))
    assert Artifact.read(out).digest == Artifact.read(base).digest
    assert outcome.notes == ("layers: all 2 as they were",)


def test_layers_that_are_left_out_are_in_the_map(shop: Workshop) -> None:
    base = shop.model(llama(layers=3), **{**LLAMA, "num_hidden_layers": 3})
    out, outcome = run(shop, base, layers=("0", "2"))
    changes = {(one.component, one.change, one.layers) for one in outcome.components}
    assert {row for row in changes if row[0] == "attention.query"} == {
        ("attention.query", "kept", "0"),
        ("attention.query", "moved", "1"),
        ("attention.query", "removed", "1"),
    }
    removed = [one for one in outcome.components if one.change == "removed"]
    assert sum(one.tensors for one in removed) == sum("layers.1." in name for name in loaded(base))
    assert {one.by for one in removed} == {"graft"}
    assert outcome.renumbered == (Renumbered(digest=Artifact.read(base).digest, what="layers"),)
    stated = [Provenance.from_metadata(shard.metadata, where="") for shard in read_model(out).shards.values()]
    assert {one.layers for one in stated if one is not None and one.kind == "graft"} == {"1"}
    _, outcome = run(shop, base, layers=("0-1",))
    assert {one.change for one in outcome.components} == {"kept", "removed"}
    _, outcome = run(shop, base, layers=("0-2",))
    assert outcome.renumbered == ()


def test_a_head_that_another_one_takes_the_place_of_is_in_the_map(shop: Workshop) -> None:
    _, outcome = run(shop, shop.model(**LLAMA), head=HeadSettings(type="value"))
    assert {row for row in rows(outcome) if row[1] != "kept"} == {
        ("head", "added", "", 1, "graft"),
        ("head", "removed", "", 1, "graft"),
    }
    tied = shop.model(llama(tied=True), **LLAMA, tie_word_embeddings=True)
    _, outcome = run(shop, tied, untie=True, head=HeadSettings(type="value"))
    assert {one.change for one in outcome.components} == {"kept", "added"}


def test_more_tokens_keep_the_rows_of_the_old_ones(shop: Workshop) -> None:
    assert run(shop, shop.model(**LLAMA), vocabulary=VocabularySettings(multiple=64))[1].renumbered == ()


@pytest.mark.parametrize("kind", ["value", "reward"])
def test_a_classifier_takes_more_tokens(shop: Workshop, kind: str) -> None:
    base, _ = run(shop, shop.model(**LLAMA), head=HeadSettings(type=kind))  # type: ignore[arg-type] # two of three
    out, _ = run(shop, base, vocabulary=VocabularySettings(multiple=24))
    found = loaded(out)
    assert found[EMBEDDING].shape == (24, HIDDEN)
    assert torch.equal(found["score.weight"], loaded(base)["score.weight"])


@pytest.mark.parametrize(
    ("layers", "extra", "what", "mend"),
    [
        (
            ("0-2",),
            {},
            "layers 0-2 of the model are wanted; it has 2, 0-1",
            "the last layer counts too: write 0-15 for sixteen",
        ),
        (("1-0",), {}, "layers 1-0 run backwards", "write 0-1, or single layers in that order"),
        (
            ("0",),
            {"num_hidden_layers": 3},
            "num_hidden_layers is 3, the tensors have 2 layers",
            "use configuration and weights that belong together",
        ),
        (
            ("0",),
            {"layer_types": ["a"]},
            "layer_types does not have one entry for each of 2 layers",
            "use configuration and weights that belong together",
        ),
        (
            ("0",),
            {"use_sliding_window": True, "max_window_layers": 1},
            ("use_sliding_window is true and there is no list layer_types: what a layer is follows from its number"),
            "say of every layer what it is, in `layer_types` and the like, in config.json; or leave `layers` out",
        ),
        (
            ("0",),
            {"mlp_only_layers": [1]},
            "mlp_only_layers is [1]: what a layer is follows from its number",
            "say of every layer what it is, in `layer_types` and the like, in config.json; or leave `layers` out",
        ),
        *(
            (
                ("0",),
                {key: value},
                f"{key} is {value}{problem}: what a layer is follows from its number",
                "say of every layer what it is, in `layer_types` and the like, in config.json; or leave `layers` out",
            )
            for key, value, problem in (
                ("interleave_moe_layer_step", 2, ""),
                ("full_attention_interval", 4, " and there is no list layer_types"),
                ("global_attn_every_n_layers", 3, " and there is no list layer_types"),
            )
        ),
        (
            ("0",),
            {"shared_layer_groups": 2},
            "shared_layer_groups is 2, which may follow from a layer's number",
            "say of every layer what it is, in `layer_types` and the like, in config.json; or leave `layers` out",
        ),
        (
            ("0",),
            {"model_type": "gemma2"},
            "there is no list layer_types: what a layer is follows from its number",
            "say of every layer what it is, in `layer_types` and the like, in config.json; or leave `layers` out",
        ),
    ],
)
def test_layers_that_cannot_be_put_together_are_refused(
    shop: Workshop, layers: tuple[str, ...], extra: dict[str, object], what: str, mend: str
) -> None:
    error = refused(shop, shop.model(**{**LLAMA, **extra}), layers=layers)
    assert (error.what, error.mend) == (what, mend)


def test_settings_that_only_sound_like_layers_are_no_matter(shop: Workshop) -> None:
    harmless = {"layer_norm_eps": 1e-5, "qk_layernorm": True, "layerdrop": 0.1, "max_window_layers": 1}
    run(shop, shop.model(**LLAMA, **harmless), layers=("0",))


def test_a_family_that_is_not_known_is_refused_by_name(shop: Workshop) -> None:
    base = shop.model(**{**LLAMA, "model_type": "mamba"})
    for what, settings in (
        ("putting layers together", {"layers": ("0",)}),
        ("another context", {"context": 8}),
        ("another head", {"head": HeadSettings(type="reward")}),
        ("untying the head", {"untie": True}),
    ):
        error = refused(shop, base, **settings)
        assert error.what == f"{what} is not known for model type 'mamba'"
        assert error.mend.startswith("it is known for falcon, gemma, gemma2, gemma3_text, gpt2, ")


# Untying


def test_untying_gives_the_head_the_embedding_and_links_all_else(shop: Workshop) -> None:
    base = shop.model(llama(tied=True), **LLAMA, tie_word_embeddings=True)
    out, outcome = run(shop, base, untie=True)
    assert torch.equal(loaded(out)["lm_head.weight"], loaded(base)[EMBEDDING])
    assert config(out)["tie_word_embeddings"] is False
    before = {file.digest for file in Artifact.read(base).files if file.path.endswith(".safetensors")}
    after = {file.digest for file in Artifact.read(out).files if file.path.endswith(".safetensors")}
    assert before < after
    assert ("head", "added", "", 1, "graft") in rows(outcome)


@pytest.mark.parametrize(
    ("tensors", "said", "what"),
    [
        (llama(), {}, "the head has weights of its own already: 'lm_head.weight'"),
        (
            llama(tied=True),
            {"tie_word_embeddings": False},
            "the model has no head that is tied to its embedding",
        ),
        (
            llama(tied=True) | {"score.weight": torch.ones(2, HIDDEN)},
            {"tie_word_embeddings": True},
            "the head has weights of its own already: 'score.weight'",
        ),
    ],
)
def test_what_is_not_tied_is_not_untied(
    shop: Workshop, tensors: dict[str, torch.Tensor], said: dict[str, object], what: str
) -> None:
    error = refused(shop, shop.model(tensors, **LLAMA, **said), untie=True)
    assert (error.what, error.mend) == (what, "leave `untie` out")


# Head


def test_a_classification_head_takes_the_place_of_the_old_one(shop: Workshop) -> None:
    base = shop.model(**LLAMA, num_labels=7)
    head = HeadSettings(type="classification", labels=("bad", "good", "odd"), start="zero")
    out, outcome = run(shop, base, head=head)
    assert loaded(out).keys() == (llama().keys() - {"lm_head.weight"}) | {"score.weight"}
    assert torch.equal(loaded(out)["score.weight"], torch.zeros(3, HIDDEN, dtype=torch.bfloat16))
    expected = {
        **LLAMA,
        "model_type": "llama",
        "architectures": ["LlamaForSequenceClassification"],
        "id2label": {"0": "bad", "1": "good", "2": "odd"},
        "label2id": {"bad": 0, "good": 1, "odd": 2},
        "tie_word_embeddings": False,
    }
    assert config(out) == expected
    assert ("head", "added", "", 1, "graft") in rows(outcome)
    kept = {file.digest for file in Artifact.read(base).files} & {file.digest for file in Artifact.read(out).files}
    assert len(kept) == 6


def test_a_reward_head_is_one_row_of_normal_numbers_that_the_seed_decides(shop: Workshop) -> None:
    base = shop.model(**LLAMA, initializer_range=0.5)
    drawn = {}
    for seed in (0, 1):
        out, outcome = run(shop, base, head=HeadSettings(type="reward", seed=seed))
        drawn[seed] = loaded(out)["score.weight"]
        assert config(out)["id2label"] == {"0": "reward"}
        assert outcome.depends_on == ()
    assert not torch.equal(drawn[0], drawn[1])
    # The same on every machine.
    assert drawn[0].tolist() == [
        [0.392578125, -0.26953125, 0.51171875, -0.3828125, 0.47265625, -0.10595703125, -1.0078125, -1.125]
    ]


@pytest.mark.parametrize("shape", [(), (WORDS,), (1, WORDS, HIDDEN)])
def test_a_head_needs_an_embedding_that_is_a_matrix(shop: Workshop, shape: tuple[int, ...]) -> None:
    error = refused(
        shop, shop.model(llama() | {EMBEDDING: torch.ones(shape)}, **LLAMA), head=HeadSettings(type="value")
    )
    assert (error.what, error.mend) == (
        f"'model.embed_tokens.weight' is {list(shape)}; a token embedding is a matrix with a row for each token",
        "use weights that transformers has saved, and import the model again",
    )


def test_float32_numbers_from_a_logarithm_are_marked(shop: Workshop) -> None:
    base = shop.model(llama(dtype=torch.float32), **LLAMA)
    head = HeadSettings(type="value")
    assert run(shop, base, head=head)[1].depends_on == ("device", "versions")
    assert run(shop, base, head=HeadSettings(type="value", start="zero"))[1].depends_on == ()
    normal = VocabularySettings(multiple=64, start="normal")
    assert run(shop, base, vocabulary=normal)[1].depends_on == ("device", "versions")
    assert run(shop, base, vocabulary=VocabularySettings(multiple=64))[1].depends_on == ()


@pytest.mark.parametrize(
    ("head", "said", "what", "mend"),
    [
        (
            HeadSettings(type="classification", labels=("one",)),
            {},
            "a classification head needs two labels or more, 1 named",
            "name them under `labels`, or say `type: reward` for one number",
        ),
        (
            HeadSettings(type="classification", labels=("one", "two", "one")),
            {},
            "label 'one' comes twice",
            "name each label once",
        ),
        (
            HeadSettings(type="value", labels=("one", "two")),
            {},
            "a value head gives one number, and 2 labels are named",
            "leave `labels` out, or say `type: classification`",
        ),
        (
            HeadSettings(type="value"),
            {"pad_token_id": -1},
            "there is no padding token: neither config.json nor tokenizer_config.json names one",
            "name a token as `pad` of the head; `vocabulary` may add it in the same stage",
        ),
        (
            HeadSettings(type="value", pad="<pad>"),
            {},
            "the padding token '<pad>' is no token of the tokenizer",
            "name one that is, or add it under `vocabulary` in the same stage",
        ),
        (
            HeadSettings(type="value"),
            {"initializer_range": "wide"},
            'initializer_range is "wide", no number from 0 to 1000',
            "say `start: zero`, or correct config.json",
        ),
        (
            HeadSettings(type="value"),
            {"initializer_range": 10**400},
            f"initializer_range is 1{'0' * 56}..., no number from 0 to 1000",
            "say `start: zero`, or correct config.json",
        ),
    ],
)
def test_a_head_that_makes_no_sense_is_refused(
    shop: Workshop, head: HeadSettings, said: dict[str, object], what: str, mend: str
) -> None:
    error = refused(shop, shop.model(**{**LLAMA, **said}), head=head)
    assert (error.what, error.mend) == (what, mend)


# Context and rope

OLD_FORM = {"rope_theta": 5e5, "rope_scaling": None}
NEW_FORM = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}


@pytest.mark.parametrize(
    ("form", "rope", "context", "expected"),
    [
        (
            NEW_FORM,
            RopeSettings(type="linear", factor=4),
            0,
            {
                "max_position_embeddings": 128,
                "rope_parameters": {"rope_type": "linear", "rope_theta": 5e5, "factor": 4},
            },
        ),
        (
            OLD_FORM,
            RopeSettings(type="yarn", factor=2.5),
            64,
            {
                "max_position_embeddings": 64,
                "rope_scaling": {"rope_type": "yarn", "factor": 2.5, "original_max_position_embeddings": 32},
            },
        ),
        (
            {},
            RopeSettings(type="dynamic", factor=2),
            0,
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2}},
        ),
    ],
)
def test_rope_changes_the_configuration_in_its_own_form_and_no_weights(
    shop: Workshop, form: dict[str, object], rope: RopeSettings, context: int, expected: dict[str, object]
) -> None:
    base = shop.model(**LLAMA, **form)
    out, _ = run(shop, base, rope=rope, context=context)
    assert config(out) == {**config(base), **expected}
    assert weights_digest(out) == weights_digest(base)
    changed = set(Artifact.read(out).files) ^ set(Artifact.read(base).files)
    assert {file.path for file in changed} == {"config.json"}


def test_a_longer_context_without_rope_is_noted_a_shorter_one_is_not(shop: Workshop) -> None:
    base = shop.model(**LLAMA)
    out, outcome = run(shop, base, context=48)
    assert config(out) == {**config(base), "max_position_embeddings": 48}
    assert outcome.notes == ("context: positions from 32 to 47 are as the model was never trained on them",)
    out, outcome = run(shop, base, context=16)
    assert (config(out)["max_position_embeddings"], outcome.notes) == (16, ())


@pytest.mark.parametrize(("said", "now"), [(32, 64), (10**30, 10**30)])
def test_the_limit_of_the_tokenizer_follows_where_it_was_the_length(shop: Workshop, said: int, now: int) -> None:
    base = shop.model(**LLAMA)
    (base / "tokenizer_config.json").write_text(json.dumps({"model_max_length": said, "x": 1}))
    out, _ = run(shop, base, rope=RopeSettings(type="linear", factor=2))
    assert json.loads((out / "tokenizer_config.json").read_bytes()) == {"model_max_length": now, "x": 1}


def test_a_scaled_model_may_be_shortened_where_the_scale_does_not_hang_on_the_length(shop: Workshop) -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8}
    out, _ = run(shop, shop.model(**LLAMA, rope_parameters=scaling), context=16)
    assert (config(out)["max_position_embeddings"], config(out)["rope_parameters"]) == (16, scaling)


def test_rope_of_mixtral_spells_out_the_width_of_a_head(shop: Workshop) -> None:
    base = shop.model(**{**LLAMA, "model_type": "mixtral", "num_attention_heads": 4, "head_dim": None})
    out, _ = run(shop, base, rope=RopeSettings(type="yarn", factor=2))
    assert config(out)["head_dim"] == 2


YARN = {"rope_scaling": {"type": "yarn", "factor": 2}}


@pytest.mark.parametrize(
    ("said", "settings", "what", "mend"),
    [
        (
            YARN,
            {"rope": RopeSettings(type="linear", factor=2)},
            "the rotary positions are scaled already: yarn",
            "start from the model as it was before that, and scale it once by the whole factor",
        ),
        (
            YARN,
            {"context": 16},
            "the rotary positions are scaled (yarn), from the length that would change",
            "start from the model as it was before that",
        ),
        (
            {},
            {"rope": RopeSettings(type="yarn", factor=2), "context": 65},
            "context 65 is longer than 32 times 2, which is 64",
            "say a factor of at least 2.03125, or a shorter context",
        ),
        (
            {},
            {"rope": RopeSettings(type="dynamic", factor=2), "context": 64},
            "dynamic scaling counts from the old length, and has no other to set",
            "leave `context` out, or say `type: yarn`",
        ),
        (
            {"model_type": "falcon", "alibi": True},
            {"rope": RopeSettings(type="yarn", factor=2)},
            "model type 'falcon' has no rotary positions that one factor scales",
            "leave `rope` out",
        ),
        (
            {"model_type": "phi3"},
            {"rope": RopeSettings(type="yarn", factor=2)},
            "model type 'phi3' has no rotary positions that one factor scales",
            "leave `rope` out",
        ),
        (
            {"max_position_embeddings": None},
            {"context": 16},
            'the configuration does not say one length up to 2147483647: {"max_position_embeddings":null}',
            "state max_position_embeddings in config.json, and import the model again",
        ),
        (
            {"max_position_embeddings": 10**400},
            {"rope": RopeSettings(type="linear", factor=2.5)},
            'the configuration does not say one length up to 2147483647: {"max_position_embeddings":1'
            + "0" * 29
            + "...",
            "state max_position_embeddings in config.json, and import the model again",
        ),
        (
            {"max_position_embeddings": 2**30},
            {"rope": RopeSettings(type="linear", factor=1000)},
            "1073741824 tokens times 1000 are 1073741824000, more than 2147483647",
            "say a factor of at most 2",
        ),
    ],
)
def test_positions_that_cannot_be_stretched_are_refused(
    shop: Workshop, said: dict[str, object], settings: dict[str, object], what: str, mend: str
) -> None:
    error = refused(shop, shop.model(**{**LLAMA, **said}), **settings)
    assert (error.what, error.mend) == (what, mend)


GPT2 = {"model_type": "gpt2", "n_layer": 1, "n_positions": 5, "n_ctx": 5, "vocab_size": WORDS}


def gpt2() -> dict[str, torch.Tensor]:
    """As few tensors of GPT-2 as the stage looks at, with a mask as older files have."""
    generator = torch.Generator().manual_seed(3)
    return {
        "wte.weight": torch.randn(WORDS, HIDDEN, generator=generator),
        "wpe.weight": torch.randn(5, HIDDEN, generator=generator),
        "h.0.attn.bias": torch.ones(1, 1, 5, 5),
        "h.0.ln_1.weight": torch.randn(HIDDEN, generator=generator),
    }


def test_a_learned_table_is_stretched_between_its_ends(shop: Workshop) -> None:
    base = shop.model(gpt2(), **GPT2)
    out, outcome = run(shop, base, context=9)
    old, new = gpt2()["wpe.weight"].double(), loaded(out)["wpe.weight"]
    for row in range(9):
        exact = old[row // 2] if row % 2 == 0 else (old[row // 2] + old[row // 2 + 1]) / 2
        assert torch.equal(new[row], exact.float()), row
    assert config(out) == {**config(base), "n_positions": 9, "n_ctx": 9}
    assert "h.0.attn.bias" not in loaded(out)
    assert outcome.notes == ("context: the table of positions is stretched from 5 to 9",)
    assert outcome.depends_on == ()


def test_a_learned_table_that_is_cut_keeps_its_first_rows(shop: Workshop) -> None:
    out, outcome = run(shop, shop.model(gpt2(), **GPT2), context=3)
    assert torch.equal(loaded(out)["wpe.weight"], gpt2()["wpe.weight"][:3])
    assert outcome.notes == ("context: the table of positions is the first of 5, now 3",)


def test_a_learned_table_has_no_rope(shop: Workshop) -> None:
    error = refused(shop, shop.model(gpt2(), **GPT2), rope=RopeSettings(type="yarn", factor=2))
    assert error.what == "the model has a learned table of positions, no rotary ones"
    assert error.mend == "leave `rope` out and say `context`: the table is stretched"


# Vocabulary without new tokens; those are in test_vocabulary.py


def test_rows_are_filled_up_with_the_mean_of_the_old_ones(shop: Workshop) -> None:
    base = shop.model(**LLAMA)
    out, outcome = run(shop, base, vocabulary=VocabularySettings(multiple=10))
    assert config(out) == {**config(base), "vocab_size": 20}
    for name in (EMBEDDING, "lm_head.weight"):
        before, after = loaded(base)[name], loaded(out)[name]
        assert torch.equal(after[:WORDS], before)
        total = torch.zeros(HIDDEN, dtype=torch.float64)
        for row in before.double():
            total += row
        assert torch.equal(after[WORDS:], (total / WORDS).bfloat16().expand(4, HIDDEN))
    assert outcome.notes == ("vocabulary: new tokens 0; rows 16 before, 20 now, 4 of them unused",)


@pytest.mark.parametrize(
    ("tensors", "said", "vocabulary", "what"),
    [
        (
            llama(),
            {},
            VocabularySettings(multiple=4),
            "vocabulary adds nothing: no tokens, and 16 rows are a multiple of 4",
        ),
        (
            llama(),
            {"vocab_size": 15},
            VocabularySettings(multiple=4),
            "'model.embed_tokens.weight' is [16, 8], vocab_size is 15",
        ),
        (
            llama(),
            {"vocab_size": 16.0},
            VocabularySettings(multiple=64),
            "'model.embed_tokens.weight' is [16, 8], vocab_size is 16.0",
        ),
        (
            llama() | dict.fromkeys((EMBEDDING, "lm_head.weight"), torch.ones(1, HIDDEN)),
            {"vocab_size": True},
            VocabularySettings(multiple=64),
            "'model.embed_tokens.weight' is [1, 8], vocab_size is True",
        ),
        (
            llama() | {"model.per_token.weight": torch.ones(3, WORDS)},
            {},
            VocabularySettings(multiple=64),
            "'model.per_token.weight' may have a row for each token too, and is of no known component",
        ),
        (
            {"lm_head.weight": torch.ones(WORDS, HIDDEN)},
            {},
            VocabularySettings(multiple=64),
            "0 tensors of component embedding.token, expected one of floats",
        ),
        (
            llama(),
            {},
            VocabularySettings(tokens=("new",)),
            "there is no tokenizer.json, and no other tokenizer can be added to",
        ),
    ],
)
def test_a_vocabulary_that_cannot_be_extended_is_refused(
    shop: Workshop,
    tensors: dict[str, torch.Tensor],
    said: dict[str, object],
    vocabulary: VocabularySettings,
    what: str,
) -> None:
    error = refused(shop, shop.model(tensors, **{**LLAMA, **said}), vocabulary=vocabulary)
    assert error.what == what


# Sound numbers


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_only_moved_or_stays_in_a_table_is_looked_at_too(shop: Workshop, value: float) -> None:
    tensors = llama()
    query = "model.layers.1.self_attn.q_proj.weight"
    tensors[query][3, 3] = value
    with pytest.raises(Error) as caught:
        run(shop, shop.unsound(tensors, **LLAMA), layers=("1", "0"))
    assert caught.value.what == "tensor 'model.layers.1.self_attn.q_proj.weight' holds NaN or an infinity"
    tensors = llama()
    tensors[EMBEDDING][15, 7] = value
    with pytest.raises(Error) as caught:
        run(shop, shop.unsound(tensors, **LLAMA), vocabulary=VocabularySettings(multiple=64))
    assert caught.value.what == "tensor 'model.embed_tokens.weight' holds NaN or an infinity"


def test_a_file_that_is_linked_is_taken_as_it_is(shop: Workshop) -> None:
    tensors = llama(tied=True)
    tensors["model.norm.weight"][0] = float("nan")
    base = shop.unsound(tensors, **LLAMA, tie_word_embeddings=True)
    out, _ = run(shop, base, untie=True)
    assert loaded(out)["model.norm.weight"].isnan().sum() == 1


def test_a_table_of_positions_that_is_cut_is_looked_at_too(shop: Workshop) -> None:
    tensors = {"wte.weight": torch.ones(WORDS, HIDDEN), "wpe.weight": torch.ones(32, HIDDEN)}
    tensors["wpe.weight"][7, 7] = float("nan")
    base = shop.unsound(tensors, model_type="gpt2", n_positions=32, n_layer=0, vocab_size=WORDS)
    with pytest.raises(Error) as caught:
        run(shop, base, context=8)
    assert caught.value.what == "tensor 'wpe.weight' holds NaN or an infinity"


def test_a_table_of_positions_without_a_shape_is_refused(shop: Workshop) -> None:
    tensors = {"wte.weight": torch.ones(WORDS, HIDDEN), "wpe.weight": torch.ones(())}
    error = refused(shop, shop.model(tensors, model_type="gpt2", n_positions=32, vocab_size=WORDS), context=8)
    assert error.what == "1 tables of positions, expected one with 32 rows"
