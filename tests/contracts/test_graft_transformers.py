"""What is grafted is what transformers loads: no key missing or unexpected, and the outputs that were promised."""

from __future__ import annotations

import copy
import json
import shutil
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from builder.stages.graft import graft
from builder.weight_stages import GraftStage, HeadSettings, RopeSettings, VocabularySettings
from builder.weights.family import FAMILIES, ties_words
from builder.weights.folder import read_model
from builder.weights.layout import write_contents
from registry.artifact import Artifact
from registry.provenance import Provenance
from tests.workshop import Workshop

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeModel

NEW = Provenance(kind="import", method="model")
ROW = torch.tensor([[5, 17, 3, 99, 42, 7]])
SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "num_experts": 2,
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
}
FEWER: dict[str, set[str]] = {
    # Sizes that a family has no key for, or ties to another one.
    "gpt2": {"intermediate_size", "num_key_value_heads", "max_position_embeddings"},
    "falcon": {"intermediate_size", "num_key_value_heads"},
    "gpt_neox": {"num_key_value_heads"},
}
MORE: dict[str, dict[str, Any]] = {"gemma": {"head_dim": 8}, "gemma2": {"head_dim": 8}, "gemma3_text": {"head_dim": 8}}
MIXTURES = {"num_experts", "num_local_experts", "num_experts_per_tok", "moe_intermediate_size"}
MIXTURES |= {"shared_expert_intermediate_size"}


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(root=tmp_path)


def artifact(shop: Workshop, source: Path) -> Path:
    """What the import of a folder would give."""
    folder = shop.folder()
    model = read_model(source)
    for name in model.others:
        shutil.copyfile(source / name, folder / name)
    contents = {name: stored for name, stored in model.tensors.items() if name != untold(model)}
    Artifact.from_folder(folder, "model", write_contents(folder, contents=contents, provenance=NEW)).write(folder)
    return folder


def untold(model: Any) -> str:  # noqa: ANN401
    """A head that is tied and stored all the same, which an import leaves out."""
    return "lm_head.weight" if model.config().get("tie_word_embeddings") is True else ""


def grafted(shop: Workshop, base: Path, **settings: object) -> Path:
    stage = GraftStage(from_="base", **settings)  # type: ignore[arg-type]
    context = shop.context(stage, shop.input("from", base))
    outcome = graft(context)
    Artifact.from_folder(context.out, "model", outcome.written).write(context.out)
    return context.out


class MakeFamily(Protocol):
    """Makes a tiny model of a family, random weights, once; do not write into it."""

    def __call__(self, name: str, *, tied: bool = False) -> Path: ...


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> MakeFamily:
    made: dict[tuple[str, bool], Path] = {}

    def make(name: str, *, tied: bool = False) -> Path:
        if (name, tied) not in made:
            left_out = FEWER.get(name, set()) | (set() if "mo" in name or name == "mixtral" else MIXTURES)
            sizes = {key: value for key, value in SIZES.items() if key not in left_out} | MORE.get(name, {})
            config = AutoConfig.for_model(name, **sizes, tie_word_embeddings=tied)
            shop = Workshop(root=tmp_path_factory.mktemp(name))
            source = shop.folder()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                AutoModelForCausalLM.from_config(config).save_pretrained(source)
            made[name, tied] = artifact(shop, source)
        return made[name, tied]

    return make


def load(folder: Path, kind: Any = AutoModelForCausalLM) -> Any:  # noqa: ANN401
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def logits(model: Any, row: torch.Tensor = ROW) -> torch.Tensor:  # noqa: ANN401
    with torch.no_grad():
        found: torch.Tensor = model(row).logits
    return found


# Every family


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_tied_where_its_configuration_is_by_default(name: str) -> None:
    assert FAMILIES[name].tied == CONFIG_MAPPING[name]().tie_word_embeddings
    assert ties_words({"model_type": name}) == FAMILIES[name].tied
    assert not ties_words({"model_type": name, "tie_word_embeddings": False})


@pytest.mark.parametrize("name", FAMILIES)
def test_a_head_of_every_family_is_the_one_that_its_classifier_has(
    shop: Workshop, family: MakeFamily, name: str
) -> None:
    head = HeadSettings(type="classification", labels=("bad", "good", "odd"))
    model = load(grafted(shop, family(name), head=head), AutoModelForSequenceClassification)
    assert type(model).__name__ == FAMILIES[name].classifier
    assert model.config.id2label == {0: "bad", 1: "good", 2: "odd"}
    assert logits(model).shape == (1, 3)
    drawn = dict(model.named_parameters())["score.weight"]
    assert drawn.std().item() == pytest.approx(0.02, rel=0.3)


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_of_every_family_are_those_of_a_model_made_by_hand(
    shop: Workshop, family: MakeFamily, name: str
) -> None:
    model = load(grafted(shop, family(name), layers=("0-1", "0")))
    byhand = load(family(name))
    stack = next(one for _, one in byhand.named_modules() if isinstance(one, torch.nn.ModuleList))
    for index, old in enumerate((0, 1, 0)):
        config = model.config
        layer = copy.deepcopy(stack[old])
        if index >= len(stack):
            stack.append(layer)
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index
    byhand.config = config
    for inner in byhand.modules():
        if hasattr(inner, "config"):
            inner.config = config
    with torch.no_grad():
        assert torch.equal(logits(model), byhand(ROW, use_cache=False).logits)


ROTARY = [name for name, one in FAMILIES.items() if one.positions == "rotary"]


@pytest.mark.parametrize("name", ROTARY)
def test_rope_of_every_family_is_read_as_meant(shop: Workshop, family: MakeFamily, name: str) -> None:
    base = family(name)
    out = grafted(shop, base, rope=RopeSettings(type="yarn", factor=4.0))
    config = AutoConfig.from_pretrained(out)
    added = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    assert config.rope_parameters == AutoConfig.from_pretrained(base).rope_parameters | added
    assert config.max_position_embeddings == 256
    assert logits(load(out), torch.arange(100)[None]).isfinite().all()


@pytest.mark.parametrize("name", ROTARY)
def test_rope_in_the_old_form_is_read_as_meant(shop: Workshop, family: MakeFamily, name: str) -> None:
    source = shop.folder() / "source"
    shutil.copytree(family(name), source)
    table = json.loads((source / "config.json").read_text())
    said = table.pop("rope_parameters") | {"rope_theta": 5e5}
    if name == "gpt_neox":
        table |= {"rotary_emb_base": said["rope_theta"], "rotary_pct": said["partial_rotary_factor"]}
    else:
        table |= {key: said[key] for key in ("rope_theta", "partial_rotary_factor") if key in said}
    (source / "config.json").unlink()
    (source / "config.json").write_text(json.dumps(table | {"rope_scaling": None}))
    (source / "artifact.json").unlink()
    config = AutoConfig.from_pretrained(
        grafted(shop, artifact(shop, source), rope=RopeSettings(type="linear", factor=2.0))
    )
    assert config.rope_parameters == said | {"rope_type": "linear", "factor": 2.0}
    assert config.max_position_embeddings == 128


@pytest.mark.parametrize("name", ["linear", "dynamic"])
def test_other_rope_is_read_as_meant(shop: Workshop, tiny_llama: Path, name: str) -> None:
    base = artifact(shop, tiny_llama)
    config = AutoConfig.from_pretrained(grafted(shop, base, rope=RopeSettings(type=name, factor=2.0)))  # type: ignore[arg-type]
    theta = AutoConfig.from_pretrained(base).rope_parameters["rope_theta"]
    assert config.rope_parameters == {"rope_type": name, "rope_theta": theta, "factor": 2.0}
    assert config.max_position_embeddings == (256 if name == "linear" else 128)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "phi", "gemma2"])
def test_untying_changes_no_output(shop: Workshop, family: MakeFamily, name: str) -> None:
    base = family(name, tied=True)
    model = load(grafted(shop, base, untie=True))
    assert model.config.tie_word_embeddings is False
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    assert torch.equal(logits(model), logits(load(base)))


# The tokenizer


@pytest.mark.parametrize(("name", "tied"), [("llama", False), ("llama", True), ("gpt2", True)])
def test_more_tokens_leave_the_old_logits(shop: Workshop, make_model: MakeModel, name: str, *, tied: bool) -> None:
    base = artifact(shop, make_model(name, tied=tied))
    vocabulary = VocabularySettings(tokens=("the baker",), special=("<|tool|>",), multiple=64)
    out = grafted(shop, base, vocabulary=vocabulary)
    before, after = logits(load(base)), logits(load(out))
    assert after.shape[-1] == 320
    assert torch.equal(after[..., :300], before)
    # A row that no token has gives the mean of all scores, so it never wins.
    assert torch.allclose(after[..., 302:], before.mean(-1, keepdim=True).expand(1, 6, 18), atol=1e-5)
    old, new = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(out)
    text = "the baker sells<|tool|>bread"
    assert new(text).input_ids == [300, *old(" sells").input_ids, 301, *old("bread").input_ids]
    assert new.decode([300, 301], skip_special_tokens=True) == "the baker"
    assert len(new) == 302
    pieces = load(base).get_input_embeddings().weight[old("the baker").input_ids].double().mean(0)
    assert torch.allclose(load(out).get_input_embeddings().weight[300].double(), pieces, atol=1e-7)


def test_a_padding_token_may_be_added_with_the_head_that_needs_it(shop: Workshop, tiny_llama: Path) -> None:
    source = shop.folder() / "source"
    shutil.copytree(tiny_llama, source)
    for name, key in (("config.json", "pad_token_id"), ("tokenizer_config.json", "pad_token")):
        table = json.loads((source / name).read_text())
        del table[key]
        (source / name).write_text(json.dumps(table))
    base = artifact(shop, source)
    vocabulary = VocabularySettings(special=("<|fill|>",))
    out = grafted(shop, base, vocabulary=vocabulary, head=HeadSettings(type="reward", pad="<|fill|>"))
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = load(out, AutoModelForSequenceClassification)
    assert (model.config.pad_token_id, tokenizer.pad_token_id, model.config.num_labels) == (300, 300, 1)
    rows = tokenizer(["the baker", "the baker sells bread"], padding=True, return_tensors="pt")
    with torch.no_grad():
        both = model(**rows).logits
        alone = model(**tokenizer(["the baker"], return_tensors="pt")).logits
    assert torch.allclose(both[0], alone[0], atol=1e-6)


# Positions


@pytest.mark.parametrize("context", [200, 40])
def test_a_learned_table_of_another_length_loads(shop: Workshop, tiny_gpt2: Path, context: int) -> None:
    base = artifact(shop, tiny_gpt2)
    out = grafted(shop, base, context=context)
    model = load(out)
    assert model.config.n_positions == context
    assert logits(model, torch.arange(context)[None]).shape == (1, context, 300)
    if context < 128:
        assert torch.equal(logits(model), logits(load(base)))


def test_everything_at_once_loads(shop: Workshop, make_model: MakeModel) -> None:
    base = artifact(shop, make_model("llama", tied=True, dtype="bfloat16"))
    out = grafted(
        shop,
        base,
        layers=("0-1", "1"),
        rope=RopeSettings(type="yarn", factor=2),
        vocabulary=VocabularySettings(special=("<|tool|>",), start="normal", multiple=8),
        untie=True,
    )
    model = load(out)
    assert (model.config.num_hidden_layers, model.config.vocab_size) == (3, 304)
    assert logits(model).isfinite().all()
