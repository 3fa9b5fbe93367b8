from __future__ import annotations

from registry.component_tree import ComponentSize, describe, tabulate
from registry.safetensors import TensorSpec
from registry.selector import Selector


def tensor(name: str, *shape: int, dtype: str = "BF16") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


TENSORS = (
    tensor("lm_head.weight", 1000, 512, dtype="F32"),
    tensor("model.layers.0.self_attn.q_proj.weight", 8, 8),
    tensor("model.layers.1.self_attn.q_proj.weight", 8, 8),
    tensor("model.layers.1.self_attn.o_proj.weight", 8, 8),
    tensor("model.layers.1.mlp.up_proj.weight", 8, 8),
    tensor("rotor.weight", 3),
)


def test_rows_and_their_json() -> None:
    rows = tabulate(TENSORS, Selector.parse({"components": "attention", "layers": "1"}))
    assert [(row.component, row.layers, row.tensors, row.matched) for row in rows] == [
        ("attention.query", "0-1", 2, 1),
        ("attention.output", "1", 1, 1),
        ("mlp.up", "1", 1, 0),
        ("head", "", 1, 0),
        ("unknown", "", 1, 0),
    ]
    assert rows[0].to_json() == {
        "component": "attention.query",
        "layers": "0-1",
        "tensors": 2,
        "parameters": 128,
        "bytes": 256,
        "matched": 1,
    }
    assert rows[-1] == ComponentSize(
        component="unknown", layers="", tensors=1, parameters=3, size_bytes=6, matched=0, names=("rotor.weight",)
    )
    assert rows[-1].to_json()["names"] == ["rotor.weight"]


def test_the_tree() -> None:
    assert describe(TENSORS) == (
        "component       layers  tensors  parameters     size",
        "attention                     3         192    384 B",
        "  query         0-1           2         128    256 B",
        "  output        1             1          64    128 B",
        "mlp             1             1          64    128 B",
        "  up            1             1          64    128 B",
        "head                          1     512,000  2.0 MiB",
        "unknown                       1           3      6 B",
        "  rotor.weight",
        "total                         6     512,259  2.0 MiB",
    )


def test_the_tree_marks_what_a_selector_matches() -> None:
    assert describe(TENSORS[:3], Selector.parse({"components": "attention", "layers": "1"})) == (
        "component  layers  tensors  parameters     size  matched",
        "attention  0-1           2         128    256 B        1",
        "  query    0-1           2         128    256 B        1",
        "head                     1     512,000  2.0 MiB        -",
        "total                    3     512,128  2.0 MiB        1",
    )
