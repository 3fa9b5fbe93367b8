"""Pipeline files of a work tree: those of variants come and go with their manifests, those of people stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from builder.compiled import Changes, stale_files, write_pipelines

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = """\
schema: 1
data: {rows: {path: rows.jsonl, format: text}}
stages: {grown: {kind: pretrain, data: rows, network: {layers: 1, hidden_size: 64, heads: 4}}}
release: grown
checks: []
"""
NOTHING = Changes(written=(), removed=())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text("bases: {}\nrecipes: {pretrain: 1}\n")
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "models/grain").mkdir(parents=True)
    (tmp_path / "models/grain/model.yaml").write_text(MANIFEST)
    return tmp_path


def test_what_is_written_is_not_stale(root: Path) -> None:
    paths = ("bases/dvc.yaml", "dvc.yaml", "models/grain/dvc.yaml")
    assert stale_files(root) == paths
    assert write_pipelines(root) == Changes(written=paths, removed=())
    assert stale_files(root) == ()
    assert write_pipelines(root) == NOTHING


def test_the_pipeline_of_a_variant_that_is_gone_goes(root: Path) -> None:
    write_pipelines(root)
    (root / "models/grain/model.yaml").unlink()
    assert stale_files(root) == ("models/grain/dvc.yaml",)
    assert write_pipelines(root) == Changes(written=(), removed=("models/grain/dvc.yaml",))
    assert not (root / "models/grain/dvc.yaml").exists()


def test_a_pipeline_that_someone_wrote_stays(root: Path) -> None:
    write_pipelines(root)
    own = root / "models/own/dvc.yaml"
    own.parent.mkdir()
    own.write_text("stages: {}\n")
    assert stale_files(root) == ()
    assert write_pipelines(root) == NOTHING
    assert own.read_text() == "stages: {}\n"


def test_the_record_of_a_base_that_is_gone_goes(root: Path) -> None:
    pin = "0" * 64
    (root / "params.yaml").write_text(
        f"bases: {{kept: {{path: sources/kept, sha256: '{pin}'}}}}\nrecipes: {{pretrain: 1}}\n"
    )
    write_pipelines(root)
    (root / "bases/records").mkdir()
    for name in ("kept.json", "gone.json", "notes.txt"):
        (root / "bases/records" / name).write_text("{}\n")
    assert stale_files(root) == ("bases/records/gone.json",)
    assert write_pipelines(root) == Changes(written=(), removed=("bases/records/gone.json",))
    assert sorted(path.name for path in (root / "bases/records").iterdir()) == ["kept.json", "notes.txt"]
    assert stale_files(root) == ()
