"""Cells of the matrix that say yes, trained for real on a tiny model: every kind here, every cell with ``--slow``."""

from __future__ import annotations

import os
from importlib.util import find_spec
from itertools import product
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from safetensors.torch import load_file

from builder.matrix import AXES, NO_ADAPTER, Cell, refusals
from tests.integration import cells, preference_kinds, ranked
from tests.integration.test_adapter_types import settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.adapter_settings import AdapterSettings

QUICK = dict(
    zip(AXES["kind"], ("oft", "ia3", "vera", "loha", "miss", "road", "hira", "c3a", "boft", "lokr"), strict=False)
)
"""Kind -> the type that stands for all others where time is short."""


def chosen() -> Iterator[Any]:
    """Every cell of one process that works."""
    for kind, adapter, base in product(AXES["kind"], AXES["adapter"], AXES["base"]):
        cell = Cell(kind=kind, adapter=adapter, base=base)
        if any(True for _ in refusals(cell)):
            continue
        marks = [] if (adapter, base) == (QUICK[kind], "stored") else [pytest.mark.slow]
        if base != "stored" and find_spec("bitsandbytes") is None:
            marks.append(pytest.mark.skip(reason="bitsandbytes is not installed"))
        yield pytest.param(cell, marks=marks, id=f"{kind}-{adapter}-{base}")


def table_of(cell: Cell) -> AdapterSettings | None:
    return None if cell.adapter == NO_ADAPTER else settings(cell.adapter, base=cell.base)


@pytest.fixture(scope="module", autouse=True)
def _own_variables() -> Iterator[None]:
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    cells.write_rows(folder)
    return folder


@pytest.fixture(scope="module")
def scorer(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return preference_kinds.with_head(tiny_llama, tmp_path_factory.mktemp("scorer"))


@pytest.mark.parametrize("cell", list(chosen()))
def test_a_cell_that_says_yes_trains(cell: Cell, tiny_llama: Path, scorer: Path, data: Path, tmp_path: Path) -> None:
    base = scorer if cell.kind == "reward" else tiny_llama
    outcome = cells.run(cell.kind, table_of(cell), base, data, tmp_path)
    assert outcome.type == ("model" if cell.adapter == NO_ADAPTER else "adapter")
    assert outcome.metrics["steps"]["value"] == 2.0
    if cell.adapter != NO_ADAPTER and cell.kind == "reward":
        assert any("score" in name for name in load_file(tmp_path / "out" / "adapter_model.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("adapter", AXES["adapter"])
def test_two_processes_train_every_type(adapter: str, tiny_llama: Path, data: Path, tmp_path: Path) -> None:
    cell = Cell(kind="sft", adapter=adapter, processes="several")
    assert not list(refusals(cell))
    context = ranked.ranked("sft", tiny_llama, data, tmp_path, 2, stage=cells.stage_of("sft", table_of(cell)))
    assert ranked.train("sft", context).metrics["steps"]["value"] == 2.0
