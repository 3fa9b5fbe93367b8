"""Pipeline files of a work tree: those of variants come and go with their manifests, those of people stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.compiled import stale_pipelines, write_pipelines

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = """\
schema: 1
data: {rows: {path: rows.jsonl, format: text}}
stages: {grown: {kind: pretrain, data: rows, network: {layers: 1, hidden_size: 64, heads: 4}}}
release: grown
checks: []
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text("bases: {}\nrecipes: {pretrain: 1}\n")
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "models/grain").mkdir(parents=True)
    (tmp_path / "models/grain/model.yaml").write_text(MANIFEST)
    return tmp_path


def test_what_is_written_is_not_stale(root: Path) -> None:
    assert write_pipelines(root) == ("bases/dvc.yaml", "dvc.yaml", "models/grain/dvc.yaml")
    assert stale_pipelines(root) == ()
    assert write_pipelines(root) == ()


def test_the_pipeline_of_a_variant_that_is_gone_goes(root: Path) -> None:
    write_pipelines(root)
    (root / "models/grain/model.yaml").unlink()
    assert stale_pipelines(root) == ("models/grain/dvc.yaml",)
    assert write_pipelines(root) == ("models/grain/dvc.yaml",)
    assert not (root / "models/grain/dvc.yaml").exists()


def test_a_pipeline_that_someone_wrote_stays(root: Path) -> None:
    write_pipelines(root)
    own = root / "models/own/dvc.yaml"
    own.parent.mkdir()
    own.write_text("stages: {}\n")
    assert stale_pipelines(root) == ()
    assert write_pipelines(root) == ()
    assert own.read_text() == "stages: {}\n"
