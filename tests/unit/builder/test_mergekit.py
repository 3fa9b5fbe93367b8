"""Files of mergekit said again as manifests: the whole value, or every fault with its line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.blend_methods import BLEND_METHODS
from builder.mergekit.method import METHODS
from builder.mergekit.translation import OutsideAdapter, Reference, translate
from builder.shapes import Reading
from builder.tables import read
from builder.weight_stages import BlendStage, FoldStage
from registry.errors import InvalidError

if TYPE_CHECKING:
    from builder.weight_stages import BlendMethod

SLERP = """\
slices:
  - sources:
      - model: acme/Orca_Mini-13b
        layer_range: [0, 40]
      - model: acme/platypus
        layer_range: [0, 40]
merge_method: slerp
base_model: acme/Orca_Mini-13b
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 1]
    - filter: lm_head
      value: 1
    - value: 0.5 # all others
dtype: float16
"""


def stages(text: str) -> dict[str, dict[str, object]]:
    """The stages of a file, each of which the manifest's own reader takes."""
    translation = translate(text, "merge.yml")
    found = translation.manifest["stages"]
    assert isinstance(found, dict)
    for name, table in found.items():
        assert isinstance(table, dict)
        reading = Reading(file="model.yaml")
        read(BlendStage if table["kind"] == "blend" else FoldStage, table, reading, path=("stages", name))
        assert reading.faults == []
    return found  # type: ignore[return-value]


def faults(text: str) -> list[str]:
    with pytest.raises(InvalidError) as caught:
        translate(text, "merge.yml")
    return [f"{one.line}: {one.key}: {one.problem} / {one.mend}" for one in caught.value.faults]


def test_a_slerp_of_two_models() -> None:
    translation = translate(SLERP, "configs/merge.yml")
    assert stages(SLERP)
    assert translation.bases == {
        "orca-mini-13b": Reference(path="acme/Orca_Mini-13b"),
        "platypus": Reference(path="acme/platypus"),
    }
    assert translation.manifest == {
        "schema": 1,
        "description": "Translated from merge.yml, a file of mergekit.",
        "models": {"orca-mini-13b": "orca-mini-13b", "platypus": "platypus"},
        "stages": {
            "merged": {
                "kind": "blend",
                "method": "slerp",
                "models": {"platypus": 1.0},
                "against": "orca-mini-13b",
                "settings": {
                    "t": [
                        {"value": 0.5},
                        {"on": "*lm_head*", "value": 1.0},
                        {"on": "*self_attn*", "value": 0.0},
                        {"on": {"layers": "0--1", "tensors": ["*self_attn*"]}, "value": [0.0, 0.5, 1.0]},
                    ]
                },
                "layers": [{"orca-mini-13b": "0-39", "platypus": "0-39"}],
                "dtype": "float16",
            }
        },
        "release": "merged",
    }
    assert translation.notes == (
        "dtype: models are read as they are stored, and not rounded to it before they are blended",
    )


def test_ties_with_numbers_of_each_model() -> None:
    text = """\
models:
  - model: a/one
    parameters: {density: [1, 0.7, 0.1], weight: 1.0}
  - model: a/two
    parameters:
      density: 0.5
      weight: [{filter: mlp, value: 0.5}, {value: 0}]
  - model: a/base
merge_method: ties
base_model: a/base
parameters: {normalize: true, int8_mask: true, lambda: 0.9}
out_dtype: torch.bfloat16
"""
    assert stages(text)["merged"] == {
        "kind": "blend",
        "method": "ties",
        "models": {
            "one": {
                "weight": 1.0,
                "density": [
                    {"value": 1.0},
                    {"on": {"layers": "0--1", "tensors": ["*"]}, "value": [1.0, 0.7, 0.1]},
                ],
            },
            "two": {"weight": [{"value": 0.0}, {"on": "*mlp*", "value": 0.5}], "density": 0.5},
        },
        "against": "base",
        "settings": {"lambda": 0.9, "normalize": True},
        "dtype": "bfloat16",
    } | {"against": "base-2"}


def test_layers_on_layers() -> None:
    text = """\
slices:
- sources: [{model: a/x, layer_range: [0, 16]}]
- sources: [{model: a/x, layer_range: [8, 24], parameters: {scale: [{filter: o_proj, value: 0}, {value: 1}]}}]
- sources: [{model: a/y, layer_range: [23, 24]}]
merge_method: passthrough
"""
    assert stages(text)["merged"] == {
        "kind": "blend",
        "method": "passthrough",
        "models": {
            "x": [
                {"value": 1.0},
                {"on": {"layers": "0-15", "tensors": ["*"]}, "value": 1.0},
                {"on": {"layers": "16-31", "tensors": ["*"]}, "value": 1.0},
                {"on": {"layers": "16-31", "tensors": ["*o_proj*"]}, "value": 0.0},
            ],
            "y": 1.0,
        },
        "layers": [{"x": "0-15"}, {"x": "8-23"}, {"y": "23"}],
    }


def test_an_adapter_is_folded_first() -> None:
    text = """\
models:
- model: a/x+lab/tone@1234
  parameters: {weight: 0.5}
- model: {model: {path: a/x, revision: main}, lora: {path: adapters/tone}}
  parameters: {weight: 0.5}
- model: a/x+lab/tone@1234
  parameters: {weight: 0.5}
merge_method: linear
"""
    assert faults(text) == ["1: models: x-tone comes twice / name each model once"]
    translation = translate(text.rpartition("- model")[0] + "merge_method: linear\n", "merge.yml")
    assert translation.bases == {"x": Reference(path="a/x"), "x-2": Reference(path="a/x", revision="main")}
    assert translation.adapters == {
        "tone": OutsideAdapter(reference=Reference(path="lab/tone", revision="1234"), base="x"),
        "tone-2": OutsideAdapter(reference=Reference(path="adapters/tone"), base="x-2"),
    }
    assert translation.manifest["stages"] == {
        "x-tone": {"kind": "fold", "from": "x", "adapters": {"tone": 1.0}},
        "x-2-tone-2": {"kind": "fold", "from": "x-2", "adapters": {"tone-2": 1.0}},
        "merged": {"kind": "blend", "method": "linear", "models": {"x-tone": 0.5, "x-2-tone-2": 0.5}},
    }


def test_merges_of_merges() -> None:
    text = """\
name: First Step
models: [{model: a/x, parameters: {weight: 1}}, {model: a/y, parameters: {weight: 2}}]
merge_method: linear
parameters: {normalize: false}
tokenizer: {source: a/y}
---
# the last one
models: [{model: First Step, parameters: {weight: 1}}]
merge_method: task_arithmetic
base_model: a/x
tokenizer_source: union
"""
    assert stages(text) == {
        "first-step": {
            "kind": "blend",
            "method": "linear",
            "models": {"x": 1.0, "y": 2.0},
            "settings": {"normalize": False},
            "tokenizer": "base",
            "against": "y",
        },
        "merged": {
            "kind": "blend",
            "method": "task_arithmetic",
            "models": {"first-step": 1.0},
            "against": "x",
            "tokenizer": "union",
        },
    }


@pytest.mark.parametrize(
    ("said", "settings"),
    [
        ("merge_method: nuslerp\nparameters: {weight: 1}", {}),
        ("merge_method: nuslerp\nparameters: {weight: 1, nuslerp_flatten: false}", {"row_wise": True}),
        ("merge_method: multislerp\nparameters: {weight: 1, normalize_weights: false}", {"normalize": False}),
        ("merge_method: multislerp\nparameters: {weight: 1, eps: 1e-8}", {}),
        ("merge_method: karcher\nparameters: {max_iter: 20, tol: 1e-6}", {"steps": 20, "tolerance": 1e-6}),
        (
            "merge_method: model_stock\nbase_model: a/z\nparameters: {filter_wise: true}",
            {"filter_wise": True},
        ),
        ("merge_method: sce\nbase_model: a/z\nparameters: {select_topk: 0.1}", {"select_topk": 0.1}),
        ("merge_method: dare_ties\nbase_model: a/z\nparameters: {weight: 1, rescale: false}", {"rescale": False}),
    ],
)
def test_settings_have_our_names(said: str, settings: dict[str, object]) -> None:
    made = stages(f"models: [{{model: a/x}}, {{model: a/y}}]\n{said}\n")["merged"]
    assert made.get("settings", {}) == settings


def test_a_base_that_the_method_does_not_start_from_is_one_more_model() -> None:
    text = "models: [{model: a/x}]\nmerge_method: linear\nbase_model: a/y\nparameters: {weight: 1}\n"
    made = stages(text)["merged"]
    assert (made["models"], made["against"]) == ({"x": 1.0, "y": 1.0}, "y")


@pytest.mark.parametrize("name", sorted(METHODS))
def test_what_is_translated_is_read_here(name: BlendMethod) -> None:
    ours, theirs = BLEND_METHODS[name], METHODS[name]
    assert set(theirs.each.values()) <= ours.source
    assert {key for key in theirs.shared.values() if key} <= {key.rstrip("_") for key in ours.settings}
    assert theirs.base == {"needed": "must", "optional": "may", "unread": "not"}[ours.base]


def test_every_method_here_is_one_there() -> None:
    assert METHODS.keys() == BLEND_METHODS.keys()


LINEAR = (
    "models: [{model: a/x, parameters: {weight: 1}}, {model: a/y, parameters: {weight: 1}}]\nmerge_method: linear\n"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            f"{LINEAR}modules: {{x: 1}}\n",
            ["3: modules: modules cannot be translated / write it without modules: one list of models or slices"],
        ),
        (f"{LINEAR}merge_metod: x\n", ["3: merge_metod: unknown key 'merge_metod' / did you mean 'merge_method'?"]),
        (
            f"{LINEAR}chat_template: chatml\n",
            [
                (
                    "3: chat_template: a chat template cannot be set in a blend / "
                    "leave it out: the result has the template of the base"
                )
            ],
        ),
        (
            f"{LINEAR}dtype: float64\n",
            ["3: dtype: expected bfloat16 or float16 or float32, got text 'float64' / write one of them"],
        ),
        (
            f"{LINEAR}tokenizer: {{source: union, pad_to_multiple_of: 8, tokens: {{'<x>': {{source: a/x}}}}}}\n",
            [
                (
                    "3: tokenizer.pad_to_multiple_of: pad_to_multiple_of cannot be said in a blend / "
                    "leave it out; a stage of kind graft after the blend gives tokens and rows"
                ),
                (
                    "3: tokenizer.tokens: tokens cannot be said in a blend / "
                    "leave it out; a stage of kind graft after the blend gives tokens and rows"
                ),
            ],
        ),
        (
            f"{LINEAR}tokenizer_source: a/z\n",
            [
                (
                    "3: tokenizer_source: the tokens of another model than the base cannot be taken / "
                    "write base, union or the base_model"
                )
            ],
        ),
        (
            f"{LINEAR}parameters: {{wieght: 1, normalize: 1}}\n",
            [
                "3: parameters.normalize: expected true or false / write true or false",
                "3: parameters.wieght: linear has no parameter 'wieght' / did you mean 'weight'?",
            ],
        ),
        (
            "models: [{model: a/x, parameters: {weight: 1, normalize: true}}]\nmerge_method: linear\n",
            [
                (
                    "1: models[0].parameters.normalize: linear has no parameter 'normalize' of one model / "
                    "take it out: mergekit ignores it"
                )
            ],
        ),
        (
            "models: [{model: a/x}]\nmerge_method: linear\n",
            ["1: models: weight of x has no value / add a value of weight without a filter"],
        ),
        (
            "models: [{model: a/x, parameters: {weight: [{filter: mlp, value: 1}]}}]\nmerge_method: linear\n",
            [
                (
                    "1: models[0].parameters.weight: weight of x has no value for tensors that no filter means / "
                    "add a value of weight without a filter"
                )
            ],
        ),
        (
            "merge_method: linear\nmodels: [{model: a/x, parameters: {weight: [{filter: '*mlp*', value: 1}]}}]",
            [
                (
                    "2: models[0].parameters.weight[0].filter: filter '*mlp*' never fits: "
                    "mergekit takes the star as it is / "
                    "write the text without the star: a filter fits anywhere in a name"
                )
            ],
        ),
        ("models: [{model: a/x}]\nmerge_method: ram\n", None),
        (
            "models: [{model: a/x}]\nmerge_method: tis\n",
            ["2: merge_method: unknown method text 'tis' / did you mean 'ties'?"],
        ),
        ("models: [{model: a/x}]\n", ["1: : missing key 'merge_method' / add it"]),
        ("merge_method: linear\n", ["1: : expected either models or slices / write one of them"]),
        (
            "models: [{model: a/x}]\nmerge_method: slerp\nparameters: {t: 1}\n",
            ["1: : slerp needs a base_model / add it"],
        ),
        (
            "models: [{model: a/x}, {model: a/y}]\nmerge_method: slerp\nbase_model: a/z\nparameters: {t: 1}\n",
            [
                (
                    "1: models: slerp takes 1 model beside the base_model, here are 2 / "
                    "name as many, or use another method"
                ),
            ],
        ),
        (
            (
                "models: [{model: a/x}, {model: a/y}]\nmerge_method: nuslerp\n"
                "parameters: {weight: 1, nuslerp_flatten: false, nuslerp_row_wise: true}\n"
            ),
            [
                (
                    "3: parameters.nuslerp_row_wise: nuslerp_row_wise without nuslerp_flatten turns columns, "
                    "which cannot be said here / leave it out"
                )
            ],
        ),
        (
            "models: [{model: a/x}]\nmerge_method: multislerp\nparameters: {weight: 1, eps: 1e-6}\n",
            ["3: parameters.eps: eps cannot be set here: it is 1e-8 / leave it out"],
        ),
        (
            "models: [{model: a/x+b/y+c/z}]\nmerge_method: passthrough\n",
            [
                (
                    "1: models[0].model: no model: text 'a/x+b/y+c/z' / "
                    "write organisation/name or a folder, with @revision or +adapter after it"
                )
            ],
        ),
        (
            "slices:\n- sources: [{model: a/x, layer_range: [4, 2]}]\n- sources: []\nmerge_method: passthrough\n",
            [
                (
                    "2: slices[0].sources[0].layer_range: no range of layers: [4, 2] / "
                    "write the first layer, and one more than the last"
                ),
                "3: slices[1]: expected a table with sources / write a list of models under `sources`",
            ],
        ),
        (
            (
                "slices:\n- sources:\n  - {model: a/x, layer_range: [0, 2]}\n  - {model: a/y, layer_range: [0, 3]}\n"
                "merge_method: linear\nparameters: {weight: 1}\n"
            ),
            ["2: slices[0]: its sources have different numbers of layers: 2 of x, 3 of y / take equally many of each"],
        ),
        (
            (
                "slices:\n- sources: [{model: a/x, layer_range: [0, 2]}]\nmerge_method: ties\nbase_model: a/y\n"
                "parameters: {weight: 1}\n"
            ),
            [
                (
                    "2: slices[0].sources: the base_model is not among the sources / "
                    "add it with its layer_range: ties starts from it"
                )
            ],
        ),
        (
            (
                "slices:\n"
                "- sources: [{model: a/x, layer_range: [0, 2]}]\n"
                "- sources: [{model: a/x, layer_range: [0, 2], parameters: {scale: [{filter: layers.1, value: 2}]}}]\n"
                "merge_method: passthrough\n"
            ),
            [
                (
                    "3: slices[1].sources[0].parameters.scale: filter 'layers.1' may mean a layer by its number, "
                    "and the slice moves layers / write a filter without digits, or the layers' own slices"
                )
            ],
        ),
        (
            (
                "name: one\nmodels: [{model: a/x}]\nmerge_method: passthrough\n---\n"
                "name: one\nmodels: [{model: one+b/y}]\nmerge_method: passthrough\n"
            ),
            [
                "5: name: two merges are called 'one' / rename one of them",
                (
                    "6: models[0].model: an adapter on a merged model: what it was trained on is not said / "
                    "fold the adapter into the model that it was trained on, before the merge"
                ),
            ],
        ),
        (
            "- 1\n",
            [
                "1: : expected a table, got a list of 1 / write a merge of mergekit",
                "1: : missing key 'merge_method' / add it",
            ],
        ),
        ("a: [\n", ["2: : not YAML: did not find expected node content / correct the syntax at this line"]),
    ],
)
def test_what_cannot_be_said_is_refused_by_line_and_key(text: str, expected: list[str] | None) -> None:
    found = faults(text)
    if expected is None:
        assert found[0].startswith("2: merge_method: there is no method ram here / use one of linear, slerp, ")
    else:
        assert found == expected


PAIR = """\
merge_method: {method}
{base}models:
- model: acme/a
- model: acme/b
{rest}"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            (
                "merge_method: linear\nmodels:\n- {model: acme/a, parameters: {weight: 1}}\n"
                "- model: acme/b\n  parameters:\n    weight: 5000\n"
            ),
            [
                (
                    "6: models[1].parameters.weight: expected a number from -1000 to 1000, got 5000.0 / "
                    "write what is expected: a manifest takes nothing else"
                )
            ],
        ),
        (
            (
                "merge_method: linear\nmodels:\n- {model: acme/a, parameters: {weight: 1}}\n- model: acme/b\n"
                "parameters:\n  weight:\n  - {filter: mlp, value: 5000}\n  - value: 1\n"
            ),
            [
                (
                    "6: parameters.weight: expected a number from -1000 to 1000, got 5000.0 / "
                    "write what is expected: a manifest takes nothing else"
                )
            ],
        ),
        (
            (
                "merge_method: ties\nbase_model: acme/a\nmodels:\n"
                "- {model: acme/b, parameters: {weight: 1, density: 1.5}}\n"
            ),
            [
                (
                    "4: models[0].parameters.density: expected a number from 0 to 1, got 1.5 / "
                    "write what is expected: a manifest takes nothing else"
                )
            ],
        ),
        (
            PAIR.format(method="karcher", base="", rest="parameters:\n  max_iter: 0\n"),
            [
                (
                    "6: parameters.max_iter: expected an integer from 1 to 10000, got 0.0 / "
                    "write what is expected: a manifest takes nothing else"
                )
            ],
        ),
        (
            PAIR.format(method="karcher", base="", rest="parameters: {tol: 1e-6, max_iter: 2.5}\n"),
            [
                (
                    "5: parameters.max_iter: expected an integer from 1 to 10000, got 2.5 / "
                    "write what is expected: a manifest takes nothing else"
                )
            ],
        ),
        (
            (
                "merge_method: linear\nmodels:\n- {model: acme/a, parameters: {weight: 1}}\n"
                "- {model: acme/b, parameters: {weight: -1}}\n"
            ),
            ["1: : linear divides by the sum of the weights, which is 0 / give them other weights"],
        ),
        (
            "merge_method: passthrough\nmodels:\n- model: " + "a" * 5000 + "\n",
            [
                (
                    "3: models[0].model: a name of 5000 characters, which is longer than any path / "
                    "write organisation/name, or the path of a folder of the repository"
                )
            ],
        ),
        (
            "merge_method: passthrough\nmodels:\n- model: acme/" + "a" * 300 + "+acme/b\n",
            [
                (
                    "3: models[0].model: a name of 305 characters, which is longer than any path / "
                    "write organisation/name, or the path of a folder of the repository"
                )
            ],
        ),
    ],
)
def test_what_a_manifest_would_refuse_is_told_in_the_file_it_came_from(text: str, expected: list[str]) -> None:
    assert faults(text) == expected


def test_an_empty_file_holds_no_merge() -> None:
    with pytest.raises(InvalidError) as caught:
        translate("# nothing\n---\n", "merge.yml")
    assert str(caught.value) == "there is no merge in it\n  where: merge.yml\n  mend: name a file of mergekit"
