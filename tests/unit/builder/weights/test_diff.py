"""What a difference measures, against whole tensors; how it is told, and drawn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
import torch
from safetensors.torch import save_file

from builder.weights.diff import diff, draw, tabulate
from builder.weights.difference import measure
from builder.weights.folder import read_model
from builder.weights.stream import Scratch
from registry.artifact import Artifact
from registry.errors import InvalidError
from tests.workshop import DOWN, HIDDEN, QUERY, Workshop, llama

if TYPE_CHECKING:
    from pathlib import Path

    from builder.weights.diff import DiffRow
    from builder.weights.difference import Difference


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(root=tmp_path)


def measured(shop: Workshop, before: torch.Tensor, after: torch.Tensor, block_bytes: int = 1 << 20) -> Difference:
    first, second = (read_model(shop.model({"model.norm.weight": one})) for one in (before, after))
    name = "model.norm.weight"
    return measure(first.tensors[name], second.tensors[name], Scratch(block_bytes))


def compared(before: Path, after: Path) -> tuple[DiffRow, ...]:
    return diff(before, Artifact.read(before), after, Artifact.read(after), threads=2)


@pytest.mark.parametrize("block_bytes", [1, 100, 1 << 20])
def test_norms_and_the_largest_element_are_those_of_the_whole_tensors(shop: Workshop, block_bytes: int) -> None:
    generator = torch.Generator().manual_seed(3)
    before = torch.randn(13, 7, generator=generator)
    after = (before + 0.1 * torch.randn(13, 7, generator=generator)).bfloat16()
    delta = after.double() - before.double()
    found = measured(shop, before, after, block_bytes)
    assert found.relative == pytest.approx(float(delta.norm() / before.double().norm()), rel=1e-12)
    assert found.largest == float(delta.abs().max())


@pytest.mark.parametrize(("rows", "columns"), [(40, 30), (700, 90), (90, 700)])
def test_the_rank_of_a_change_is_found_under_the_rounding(shop: Workshop, rows: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(4)
    before = torch.randn(rows, columns, generator=generator)
    orthogonal = [torch.linalg.qr(torch.randn(side, 5, generator=generator))[0] for side in (rows, columns)]
    after = (before + 3 * orthogonal[0] @ orthogonal[1].T).bfloat16()
    before = before.bfloat16()
    assert measured(shop, before, after).rank == 5


def test_a_rank_beyond_what_is_looked_for_is_not_guessed(shop: Workshop) -> None:
    generator = torch.Generator().manual_seed(5)
    before, after = (torch.randn(600, 600, generator=generator) for _ in range(2))
    assert measured(shop, before, after).rank == -1


def test_a_vector_has_no_rank_and_a_change_from_nothing_is_infinite(shop: Workshop) -> None:
    found = measured(shop, torch.zeros(9), torch.ones(9))
    assert (found.rank, found.relative, found.largest) == (0, math.inf, 1.0)


def test_nan_is_named(shop: Workshop) -> None:
    before, after = shop.model({"model.norm.weight": torch.ones(4)}), shop.model({"model.norm.weight": torch.ones(4)})
    file = next(after.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-4:] = torch.tensor([math.nan]).view(torch.uint8).numpy().tobytes()
    file.chmod(0o644)
    file.write_bytes(data)
    name = "model.norm.weight"
    with pytest.raises(InvalidError) as caught:
        measure(read_model(before).tensors[name], read_model(after).tensors[name], Scratch())
    assert caught.value.what == f"tensor {name!r} holds NaN or an infinity"


def test_the_tensor_that_holds_nan_is_named_whichever_it_is(shop: Workshop) -> None:
    tensors = llama()
    broken = tensors | {f"{QUERY}.weight": tensors[f"{QUERY}.weight"] * math.nan}
    before, after = shop.root / "before", shop.root / "after"
    for folder, some in ((before, broken), (after, tensors)):
        folder.mkdir()
        save_file(some, folder / "model.safetensors")
    with pytest.raises(InvalidError) as caught:
        diff(before, Artifact.from_folder(before, "model"), after, Artifact.from_folder(after, "model"))
    assert caught.value.where == str(before / "model.safetensors")


def test_numbers_whose_squares_are_beyond_float64_are_no_nan(shop: Workshop) -> None:
    before, after = shop.root / "before", shop.root / "after"
    for folder, number in ((before, 1e300), (after, 1.0)):
        folder.mkdir()
        save_file({"model.norm.weight": torch.tensor([number], dtype=torch.float64)}, folder / "model.safetensors")
    with pytest.raises(InvalidError) as caught:
        diff(before, Artifact.from_folder(before, "model"), after, Artifact.from_folder(after, "model"))
    name = "model.norm.weight"
    assert caught.value.what == f"tensor {name!r} holds numbers so large that their squares are beyond float64"


def mixed_rows(shop: Workshop) -> tuple[DiffRow, ...]:
    """One group with a changed and a removed tensor, one only removed, one only added, one that cannot be measured."""
    tensors = llama()
    before = tensors | {
        f"{QUERY}.bias": torch.ones(HIDDEN),
        "lm_head.bias": torch.ones(3),
        "model.norm.weight": torch.zeros(HIDDEN),
    }
    after = tensors | {
        f"{QUERY}.weight": tensors[f"{QUERY}.weight"] * 2,
        "lm_head.bias": torch.ones(5),
        "model.norm.weight": torch.ones(HIDDEN),
        "scorer.weight": torch.ones(2, HIDDEN),
    }
    del after[f"{DOWN}.weight"]
    return compared(shop.model(before), shop.model(after))


def test_each_change_of_a_group_has_a_line_of_its_own(shop: Workshop) -> None:
    lines = [line.split() for line in tabulate(mixed_rows(shop))]
    assert ["attention.query", "0", "1", "changed", "1", lines[1][5], lines[1][6]] == lines[1]
    assert lines[2] == ["attention.query", "0", "1", "removed"]
    assert ["head", "-", "1", "reshaped"] in lines  # the head's weight is the same, and no figure for its bias
    assert lines[-1] == ["16", "tensors", "are", "the", "same"]


def test_what_has_no_figure_has_a_pattern_and_a_word_in_the_legend(shop: Workshop) -> None:
    picture = draw(mixed_rows(shop), "x")
    root = ET.fromstring(picture)  # noqa: S314 - our own text
    space = "{http://www.w3.org/2000/svg}"
    cells = {title.text: one.get("fill") for one in root.iter(f"{space}rect") for title in one.iter(f"{space}title")}
    assert cells["attention.query, layer 0: 1 (1 changed, 1 removed)"].startswith("#")
    words = {
        "mlp.down, layer 1: removed": "removed",
        "unknown: added": "added",
        "head: cannot be measured": "cannot be measured",
        "norm.final: zero before": "zero before",
    }
    legend = [one.text for one in root.iter(f"{space}text")]
    shown = {cells[title] for title in words}
    assert len(shown) == 4
    assert all(fill.startswith("url(#word") for fill in shown)
    assert set(words.values()) <= {*legend}
    assert len([*root.iter(f"{space}pattern")]) == 4


def test_rows_tell_what_changed_where(shop: Workshop) -> None:
    tensors = llama()
    changed = dict(tensors)
    changed[f"{QUERY}.weight"] = tensors[f"{QUERY}.weight"] + torch.ones(HIDDEN, HIDDEN, dtype=torch.bfloat16)
    changed["scorer.weight"] = torch.ones(2, HIDDEN)
    del changed["lm_head.weight"]
    changed["model.norm.weight"] = tensors["model.norm.weight"].float() * 2
    rows = compared(shop.model(tensors), shop.model(changed))
    told = {(row.component, row.layer): row.change for row in rows if row.change != "same"}
    assert told == {
        ("attention.query", 0): "changed",
        ("norm.final", None): "reshaped",
        ("head", None): "removed",
        ("unknown", None): "added",
    }
    query = next(row for row in rows if row.component == "attention.query" and row.layer == 0)
    assert query.to_json()["rank"] == 1
    assert query.to_json()["changes"] == {"changed": 1}
    final = next(row for row in rows if row.component == "norm.final")
    assert final.to_json()["relative_norm"] == 1.0
    lines = tabulate(rows)
    assert lines[0].split() == ["component", "layer", "tensors", "change", "relative", "largest", "rank"]
    assert lines[1].split()[:4] == ["attention.query", "0", "1", "changed"]
    assert lines[-1] == "16 tensors are the same"


def test_equal_artifacts_differ_in_nothing(shop: Workshop) -> None:
    assert tabulate(compared(shop.model(), shop.model())) == ["19 tensors are the same"]


def test_the_picture_has_a_cell_for_every_component_and_layer(shop: Workshop) -> None:
    tensors = llama()
    changed = tensors | {f"{QUERY}.weight": tensors[f"{QUERY}.weight"] * 2}
    rows = compared(shop.model(tensors), shop.model(changed))
    root = ET.fromstring(draw(rows, "a <-> b"))  # noqa: S314 - our own text
    space = "{http://www.w3.org/2000/svg}"
    titles = [title.text for title in root.iter(f"{space}title")]
    assert "attention.query, layer 0: 1" in titles
    assert len(titles) == len(rows)
    assert any(text.text == "a <-> b" for text in root.iter(f"{space}text"))
    assert all(float(one.get("x", "0")) + 14 <= float(root.get("width", "0")) for one in root.iter(f"{space}rect"))
